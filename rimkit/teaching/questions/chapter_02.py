"""Chapter 02: what the paper's injected thoughts show."""

from __future__ import annotations

from rimkit.teaching.exercises import Exercise


def check_statement(answer) -> bool | str:
    replies = {
        "a": "10.00% is less than half of the 22.94% of thinking as usual, and below the 15.39% without thinking.",
        "b": True,
        "c": "8.67% and 10.00% are 26 and 30 of 300 requests: four requests apart, without an interval.",
        "d": "both injected rates lie more than ten points below thinking as usual.",
    }
    known = replies.get(str(answer).strip().strip(".").lower())
    return f"'{answer}' is not one of a, b, c, d." if known is None else known


EXERCISES = {
    "02.1": Exercise(
        "The missing baseline",
        "medium",
        "essential",
        10,
        "Which statement do the paper's rates for Qwen3-4B support?",
        check_statement,
        hints=("Put the four numbers in order of size before you read the statements again.",),
        answer=(
            "`'b'`: the rates are 8.67 < 10.00 < 15.39 < 22.94. The two injected rates are 26 and 30 of 300 requests and cannot be "
            "ranked; both lie well below thinking as usual. A comparison of two injections cannot show that the worse one is "
            "worse than nothing."
        ),
        expects="a letter from a to d",
        code="'b'",
    ),
}
