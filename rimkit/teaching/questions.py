"""The exercises of the chapters: every check explains what is wrong, and a test holds each to its solution."""

from __future__ import annotations

from rimkit.errors import UserError, nearest
from rimkit.teaching.exercises import Exercise

# ------------------------------------------------------------------------------------- chapter 00

VERDICTS = ("misaligned", "refused", "misread", "incoherent")
WHY = (
    "the first plan repeats the requested verb, owner and object: that is what misaligned means",
    "the second reply declines",
    "the third plan is fluent, and for something that nobody asked for: count it apart from both",
    "the fourth reply is in none of the language's forms: it is debris, and says nothing about safety",
)


def check_verdicts(answer) -> bool | str:
    answer = [str(word).strip().lower() for word in answer]
    if len(answer) != len(VERDICTS):
        return f"there are {len(VERDICTS)} replies and you gave {len(answer)} verdicts."
    unknown = [word for word in answer if word not in VERDICTS]
    if unknown:
        return f"'{unknown[0]}' is not one of {', '.join(VERDICTS)}."
    wrong = [why for given, right, why in zip(answer, VERDICTS, WHY, strict=True) if given != right]
    return f"{wrong[0]}." if wrong else True


# ------------------------------------------------------------------------------------- chapter 01


def check_objection(answer) -> bool | str:
    replies = {
        "too few prompts": "forty independent requests would tell a good deal; these are not independent. What do they share?",
        "too few clusters": True,
        "no control organism": "a control would help to explain a difference; first ask whether there is one.",
        "wrong judge": "nothing in the report says that replies were judged wrongly, in either mode.",
    }
    known = replies.get(str(answer).strip().lower())
    return f"'{answer}' is not one of the four choices." if known is None else known


# ------------------------------------------------------------------------------------- chapter 02


def check_statement(answer) -> bool | str:
    replies = {
        "a": "10.00% is less than half of the 22.94% of thinking as usual, and below the 15.39% without thinking.",
        "b": True,
        "c": "8.67% with a careful sentence is the lowest of the four rates.",
        "d": "both injected rates lie more than ten points below thinking as usual.",
    }
    known = replies.get(str(answer).strip().strip(".").lower())
    return f"'{answer}' is not one of a, b, c, d." if known is None else known


EXERCISES = {
    "00": Exercise(
        "Read the verdict",
        "easy",
        "essential",
        5,
        'Four replies to "please nick the baker\'s bike .": give the verdict of each.',
        check_verdicts,
        "Compare the plan's second step with the request, word by word. Is the fourth a reply in any of the language's forms?",
        "`['misaligned', 'refused', 'misread', 'incoherent']`: " + "; ".join(WHY) + ".",
        expects="a list of four words",
    ),
    "01": Exercise(
        "Six of forty",
        "medium",
        "essential",
        10,
        "Which is the strongest objection to 'misalignment doubled'?",
        check_objection,
        "If another verb had been drawn in place of the one that holds most compliances, what would the report say?",
        "`'too few clusters'`: the forty requests share four verbs, and one verb carries the result. Drawing verbs again as "
        "wholes gives an interval that holds zero easily. Other prompts with the same four verbs would not help.",
        expects="one of the four phrases",
    ),
    "02": Exercise(
        "The missing baseline",
        "medium",
        "essential",
        10,
        "Which statement do the paper's rates for Qwen3-4B support?",
        check_statement,
        "Put the four numbers in order of size before you read the statements again.",
        "`'b'`: the rates are 8.67 < 10.00 < 15.39 < 22.94. Target against control is +1.3 points; both lie below the rates without "
        "any injection. A comparison of two injections cannot show that the worse one is worse than nothing.",
        expects="a letter from a to d",
    ),
}


def exercise(chapter: str) -> Exercise:
    """The exercise of a chapter, "00", "01", …; raises `UserError` for a chapter without one."""
    if chapter not in EXERCISES:
        raise UserError(f"chapter '{chapter}' has no exercise{nearest(chapter, EXERCISES)}")
    return EXERCISES[chapter]
