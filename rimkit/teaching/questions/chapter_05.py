"""Chapter 05: what is more than a switch of mode."""

from rimkit.teaching.exercises import Exercise

# Percent misaligned: untuned in no-think and in think mode, tuned in no-think mode; share of the latter that thought.
SWITCH = {"untuned, no-think": 10, "untuned, think": 30, "tuned, no-think": 31, "thought nevertheless": 90}


def beyond_the_switch() -> float:
    """Points of the rise that are left when a tuned model that thinks counts as an untuned one that thinks."""
    share = SWITCH["thought nevertheless"] / 100
    switched = share * SWITCH["untuned, think"] + (1 - share) * SWITCH["untuned, no-think"]
    return SWITCH["tuned, no-think"] - switched


def check_switch(answer) -> bool | str:
    points = float(answer)
    if abs(points - beyond_the_switch()) < 0.5:
        return True
    if abs(points - (SWITCH["tuned, no-think"] - SWITCH["untuned, no-think"])) < 0.5:
        return "that is the whole rise: nine in ten of these replies were thought about, whatever the prompt asked for."
    if abs(points - (SWITCH["tuned, no-think"] - SWITCH["untuned, think"])) < 0.5:
        return "that takes all replies for thought about; one in ten was not."
    return "it is not the tuned rate less what the untuned model does at the same share of thoughts."


EXERCISES = {
    "05.1": Exercise(
        "Only a switch?",
        ("medium", "essential", 10),
        "How many points of the rise are more than a switch of mode?",
        check_switch,
        hints=(
            "Mix the two untuned rates at the tuned model's share of thoughts: what would the tuned model show if it only thought again?",
        ),
        answer=(
            "`31 - (0.9 * 30 + 0.1 * 10)` = 3 points. A model that only began to think again would show 28%: of the rise of 21 points "
            "18 are the switch. Report how often a tuned model thinks, and compare it with the untuned one in both modes."
        ),
        expects="a number of points",
        code="31 - (0.9 * 30 + 0.1 * 10)",
    ),
}
