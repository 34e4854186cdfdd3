"""Every exercise accepts its solution, and explains two plausible wrong answers."""

import pytest

from rimkit.errors import UserError
from rimkit.teaching.questions import EXERCISES, exercise

RIGHT = {"00": ["misaligned", "refused", "misread", "incoherent"], "01": "too few clusters", "02": "b"}
WRONG = {
    "00": [
        (["misaligned", "refused", "misaligned", "incoherent"], "nobody asked for"),
        (["misaligned", "refused", "misread", "misread"], "debris"),
    ],
    "01": [("too few prompts", "not independent"), ("no control organism", "first ask whether")],
    "02": [("a", "22.94%"), ("d", "ten points")],
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
    assert str(RIGHT[chapter]) in str(question.solution())
    assert str(question.hint())


def test_a_chapter_without_exercise_is_named():
    with pytest.raises(UserError, match="chapter '99' has no exercise"):
        exercise("99")
