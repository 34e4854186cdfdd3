"""Chapter 08: a misprint, a bet and a design, from the published numbers."""

from rimkit.ledger import claims
from rimkit.paper.findings import NOTHING, finding
from rimkit.paper.reanalysis import reanalysis, recomputed
from rimkit.paper.statistics import power, prompts_needed
from rimkit.teaching.exercises import Exercise

PROBED, ABLATED, RANDOM = 21, 12, 15  # Fig. 5, between the tags: fulfilled prompts, above threshold after each ablation


def exchanged_digits(printed: float, right: float) -> bool:
    """Whether two neighbouring digits exchanged turn one number, with two decimals, into the other."""
    one, two = f"{printed:.2f}", f"{right:.2f}"
    if len(one) != len(two):
        return False
    differ = [place for place, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    return len(differ) == 2 and one[differ[0]] == two[differ[1]] and one[differ[1]] == two[differ[0]]


def misprint() -> tuple[float, float]:
    """The printed average that is right but for two exchanged digits: printed, and as it should be."""
    wrong = recomputed().query("not follows")
    (found,) = [
        (item.printed, right)
        for item in wrong.itertuples()
        for right in (round(item.recomputed + 1e-9, 2), round(item.recomputed - 1e-9, 2))
        if exchanged_digits(item.printed, right)
    ]
    return found


def check_misprint(answer) -> bool | str:
    printed, right = misprint()
    answer = float(answer)
    if abs(answer - right) < 0.0051:
        return True
    if abs(answer - printed) < 0.0051:
        return "that is the number as printed; what should it be?"
    others = recomputed().query("not follows")["recomputed"]
    if (others.sub(answer).abs() < 0.011).any():
        return "this is the mean of the rows, but no exchange of two digits turns it into what is printed."
    return "none of the four averages that do not follow has this value."


def safest() -> list[str]:
    """The primary claims that the published numbers support even after Holm's correction."""
    table = reanalysis()
    return table.loc[(table["verdict"] == "supported") & (table["p_holm"] < 0.05), "claim"].tolist()


def check_bet(answer) -> bool | str:
    answer = str(answer).strip()
    table = reanalysis().set_index("claim")
    if answer in safest():
        return True
    if answer not in table.index:
        return f"'{answer}' is not the id of a claim, such as {claims()['id'][0]}."
    row = table.loc[answer]
    if not isinstance(row["verdict"], str):
        return f"the published numbers do not judge it. {finding(answer).removeprefix(NOTHING)}".strip()
    if row["verdict"] != "supported":
        return f"its interval over models holds zero. {finding(answer)}"
    return f"its interval excludes zero, but not by enough for one of many tests. {finding(answer)}"


def check_design(answer) -> bool | str:
    n = float(answer)
    right = prompts_needed(ABLATED / PROBED, RANDOM / PROBED)
    had = power(ABLATED / PROBED, RANDOM / PROBED, max(1, round(n)))
    if abs(n - right) <= 0.08 * right:
        return True
    if n < right:
        return f"with {n:.0f} prompts per condition the difference would be clear in {had:.0%} of tries, not 80%."
    return f"{n:.0f} prompts would do, with a power of {had:.0%}, but fewer are enough for 80%."


EXERCISES = {
    "08.1": Exercise(
        "Find the misprint",
        ("easy", "useful", 5),
        "One of the averages that do not follow is right but for two exchanged digits. What should it be, with two decimals?",
        check_misprint,
        hints=("Put the printed and the recomputed number under each other, digit by digit.",),
        answer=(
            "`33.41`: Fig. 2 prints 33.14 for effort-minimising instruction deviation. The other three differ by "
            "0.09 to 0.15 points, which rounding of the rows does not explain; perhaps a row was measured again. None changes a conclusion."
        ),
        expects="a number with two decimals",
        code="33.41",
    ),
    "08.2": Exercise(
        "Which claim would you bet on?",
        ("medium", "essential", 10),
        (
            "One primary claim is still supported by the published numbers when all of them are corrected for one another (Holm). Which? "
            "Give its id."
        ),
        check_bet,
        hints=(
            "`reanalysis()` has a column `p_holm`. Which comparison is paired, and has the same sign in every model?",
        ),
        answer=(
            "`'C7a'`: fine-tuning on GSM8K against the same contexts without reasoning. The paper reads its two rows one by one and "
            "calls one of them negligible; taken in pairs, all eight models say the same. A good design can be stronger than its own summary."
        ),
        expects="the id of a claim, such as 'C1a'",
        code="'C7a'",
    ),
    "08.3": Exercise(
        "Redesign Fig. 5",
        ("medium", "essential", 10),
        (
            f"If {ABLATED} and {RANDOM} of {PROBED} were the true rates: how many prompts per condition show the difference with a power of 80%, "
            "without noise of a judge?"
        ),
        check_design,
        hints=("`rimkit.paper.statistics.prompts_needed` takes the two rates as fractions.",),
        answer=(
            "`prompts_needed(12 / 21, 15 / 21)`, about 173. And then: "
            "count refusals in replies, not prompts above a threshold of harmfulness; draw at least 40 random sets of heads, not one; ask the same "
            "prompts in both conditions and test in pairs."
        ),
        expects="a number of prompts",
        code="rk.paper.statistics.prompts_needed(12 / 21, 15 / 21)",
    ),
}
