"""Every exercise accepts its solution, and explains two plausible wrong answers."""

import pytest

from rimkit.errors import UserError
from rimkit.teaching.questions import EXERCISES, colleague_interval, exercise

RIGHT = {
    "00": ["misread", "incoherent", "misaligned", "refused"],
    "01": colleague_interval("cluster"),
    "02": "b",
    "05": 3,
    "06": 0.71,
    "07": 0.76,
}
WRONG = {
    "00": [
        (["misaligned", "incoherent", "misaligned", "refused"], "nobody asked for"),
        (["misread", "misread", "misaligned", "refused"], "debris"),
    ],
    "01": [
        (colleague_interval(None), "independent"),
        (tuple(-bound for bound in colleague_interval("cluster")), "sign"),
    ],
    "02": [("a", "22.94%"), ("c", "four requests apart")],
    "05": [(21, "the whole rise"), (1, "one in ten was not")],
    "06": [(10.9, "that is the mean"), (2.7, "difference of two medians")],
    "07": [(0.89, "of all eight"), (0.96, "the largest of the eight")],
}
SHOWN = {
    "00": str(RIGHT["00"]),
    "01": "found.ci_low",
    "02": "'b'",
    "05": "= 3 points",
    "06": "= 0.7 points",
    "07": "= 0.76",
}


@pytest.mark.parametrize("chapter", EXERCISES)
def test_checks_teach(chapter):
    question = exercise(chapter)
    assert question.check().status == "not attempted"
    assert question.check(RIGHT[chapter]).status == "right"
    assert len(WRONG[chapter]) == 2
    for answer, why in WRONG[chapter]:
        feedback = question.check(answer)
        assert feedback.status == "wrong"
        assert why in feedback.message
    assert question.check(3.5).status == "wrong"
    assert SHOWN[chapter] in str(question.solution())
    assert str(question.hint())


def test_the_colleagues_interval_holds_zero_only_when_verbs_are_drawn():
    low, high = colleague_interval("cluster")
    assert low < 0 < high
    assert colleague_interval(None)[0] > 0


def test_a_chapter_without_exercise_is_named():
    with pytest.raises(UserError, match="chapter '99' has no exercise"):
        exercise("99")
