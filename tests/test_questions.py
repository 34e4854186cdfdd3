"""Every exercise accepts its solution, and explains two plausible wrong answers."""

import pytest

from rimkit.data import UserError
from rimkit.models import device
from rimkit.paper.statistics import prompts_needed
from rimkit.runs import plan
from rimkit.teaching.questions import exercise, planning, reading
from rimkit.teaching.questions.mechanism import detector_gain, fisher, size_of_set, smallest_m
from rimkit.teaching.questions.observing import (
    EXERCISES,
    FOUR_NEURONS,
    colleague_interval,
    four_neurons_ras,
)

RIGHT = {
    "00": ["misread", "incoherent", "misaligned", "refused"],
    "01": colleague_interval("cluster"),
    "02": "b",
    "03": detector_gain(),
    "04": fisher("refusal heads", "random heads"),
    "05": 3,
    "06": smallest_m(2),
    "07": four_neurons_ras(),
    "08 misprint": reading.misprint()[1],
    "08 bet": "C7a",
    "08 design": prompts_needed(12 / 21, 15 / 21),
    "10": 5,
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
    "03": [(89.1, "the accuracy itself"), (38, "share of fulfilled requests")],
    "04": [
        (fisher("refusal heads", "random heads", "less"), "one-sided"),
        (fisher("refusal heads", "nothing"), "no ablation at all"),
    ],
    "05": [(21, "the whole rise"), (1, "one in ten was not")],
    "06": [(3, "two of the three pairs"), (2, "only one of them is the same")],
    "07": [(0.88, "divides neuron C's rise by -0.5"), (1.92, "the mean is over all four")],
    "08 misprint": [(reading.misprint()[0], "as printed"), (5.05, "no exchange of two digits")],
    "08 bet": [("C6a", "not by enough for one of many"), ("C10a", "holds zero")],
    "08 design": [(21, "not 80%"), (1000, "fewer are enough")],
    "10": [(10, "both a key and a value"), (1, "query heads share")],
}
SHOWN = {
    "00": str(RIGHT["00"]),
    "01": "found.ci_low",
    "02": "'b'",
    "03": "6.7",
    "04": "0.52",
    "05": "= 3 points",
    "06": "m = 4",
    "07": "= 1.24",
    "08 misprint": f"{RIGHT['08 misprint']:.2f}",
    "08 bet": repr(RIGHT["08 bet"]),
    "08 design": f"about {RIGHT['08 design']:.0f}.",
    "10": "= 5",
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


def test_one_claim_survives_correction_and_claims_without_numbers_are_explained():
    assert reading.safest() == [RIGHT["08 bet"]]
    assert "do not judge it" in exercise("08 bet").check("C5a").message
    assert "not the id of a claim" in exercise("08 bet").check("C77").message


def test_exchanged_digits():
    assert reading.exchanged_digits(33.14, 33.41)
    assert not reading.exchanged_digits(4.96, 5.05)
    assert not reading.exchanged_digits(1.5, 10.5)


def test_a_chapter_without_exercise_is_named():
    with pytest.raises(UserError, match="chapter '99' has no exercise"):
        exercise("99")


def test_the_m_of_chapter_06_is_the_only_one_with_two_neurons():
    assert [size_of_set(m) for m in range(1, 9)] == [0, 1, 1, 2, 4, 4, 5, 8]
    assert all(worst in str(exercise("06").solution()) for worst in ("f 2", "a 4", "c and h 5", "b 7"))


def test_ras_by_hand_is_that_of_the_package():
    from rimkit.experiments.ras import Activations, shifts

    before, after = (
        Activations(*(FOUR_NEURONS[[f"{kind}, {state}"]].to_numpy().T for kind in ("safety", "maths")))
        for state in ("untuned", "tuned")
    )
    assert shifts(before, after)["ras"] == pytest.approx(four_neurons_ras())


def test_the_plan_and_the_exercise_count_alike():
    needs = device.needs_of(plan.shape(planning.MODEL))
    left = planning.LEFT * 2**30
    assert left // needs.cache("bfloat16", planning.TOKENS) == planning.fitting() == RIGHT["10"]
