"""Every exercise accepts its solution, and explains two plausible wrong answers."""

import ast

import nbformat
import pytest
import wrong_answers
from nbclient import NotebookClient

import rimkit as rk
from rimkit.data import UserError, chapters_dir
from rimkit.models import device
from rimkit.runs import plan
from rimkit.runs.lab import write_solutions
from rimkit.teaching.questions import CHAPTERS, chapter_08, chapter_10, exercise, exercises, solved
from rimkit.teaching.questions.chapter_01 import colleague_interval, plain_interval
from rimkit.teaching.questions.chapter_04 import fisher
from rimkit.teaching.questions.chapter_06 import size_of_set, smallest_m
from rimkit.teaching.questions.chapter_07 import FOUR_NEURONS, four_neurons_ras

RIGHT = {
    "00.3": ["misread", "incoherent", "misaligned", "refused"],
    "01.5": colleague_interval("cluster"),
    "02.5": "b",
    "04.1": fisher("refusal heads", "random heads"),
    "05.6": 3,
    "06.2": smallest_m(2),
    "07.1": four_neurons_ras(),
    "08.4": "C7a",
    "10.2": 5,
}
WRONG = {
    "00.3": [
        (["misaligned", "incoherent", "misaligned", "refused"], "nobody asked for"),
        (["misread", "misread", "misaligned", "refused"], "debris"),
    ],
    "01.5": [
        (colleague_interval(None), "independent"),
        (plain_interval(), "adds half verbs"),
        (tuple(-bound for bound in colleague_interval("cluster")), "sign"),
        (tuple(bound / 100 for bound in colleague_interval("cluster")), "give points"),
        ((colleague_interval("cluster")[0], 30), "the upper bound alone"),
    ],
    "02.5": [("a", "22.94%"), ("c", "four requests apart")],
    "04.1": [
        (fisher("refusal heads", "random heads", "less"), "one-sided"),
        (fisher("refusal heads", "nothing"), "no ablation at all"),
        (0.533, "odds ratio"),
    ],
    "05.6": [(21, "the whole rise"), (1, "one in ten was not")],
    "06.2": [(3, "two of the three pairs"), (2, "only one of them is the same")],
    "07.1": [(0.88, "divides neuron C's rise by -0.5"), (1.92, "the mean is over all four")],
    "08.4": [("C6a", "not by enough for one of many"), ("C10a", "holds zero")],
    "10.2": [(10, "both a key and a value"), (1, "query heads share")],
}
SHOWN = {
    "00.3": str(RIGHT["00.3"]),
    "01.5": "found.ci_low",
    "02.5": "'b'",
    "04.1": "0.52",
    "05.6": "= 3 points",
    "06.2": "m = 4",
    "07.1": "= 1.24",
    "08.4": repr(RIGHT["08.4"]),
    "10.2": "= 5",
}


@pytest.mark.parametrize("name", RIGHT)
def test_checks_teach(name):
    question = exercise(name)
    assert repr(question.check()).endswith(f'rk.exercise("{name}").hint(1) helps.')
    assert question.check(RIGHT[name]).status == "right"
    assert len(WRONG[name]) >= 2
    for answer, why in WRONG[name]:
        feedback = question.check(answer)
        assert feedback.status == "wrong"
        assert why in feedback.message
    assert question.check(3.5).status == "wrong"
    assert SHOWN[name] in str(question.solution())
    assert str(question.hint())


def test_the_colleagues_interval_holds_zero_only_when_verbs_are_drawn():
    low, high = colleague_interval("cluster")
    assert low < 0 < high
    assert colleague_interval(None)[0] > 0


def test_one_claim_survives_correction_and_claims_without_numbers_are_explained():
    assert chapter_08.safest() == [RIGHT["08.4"]] and exercise("08.4").check("c7a")
    assert "do not judge it" in exercise("08.4").check("C5a").message
    assert "not the id of a claim" in exercise("08.4").check("C77").message


def test_exchanged_digits():
    assert chapter_08.exchanged_digits(33.14, 33.41)
    assert chapter_08.misprint() == (33.14, 33.41)
    assert not chapter_08.exchanged_digits(4.96, 5.05)
    assert not chapter_08.exchanged_digits(1.5, 10.5)


CODING = wrong_answers.WRONG


def test_every_exercise_is_tried():
    assert set(RIGHT) == set(WRONG) == set(SHOWN)
    assert {name for chapter in CHAPTERS for name in exercises(chapter)} == set(RIGHT) | set(CODING)


@pytest.mark.parametrize("name", CODING)
def test_a_function_to_write_has_hints_and_code_and_is_waited_for(name):
    """Its code is run where it stands: in the solved copy of its chapter."""
    task = exercise(name)
    assert task.check(lambda *_: None).status == "not attempted"
    assert str(task.solution()).endswith("```")
    assert len(task.hints) > 1


@pytest.mark.parametrize(("name", "answer", "words"), [(name, *wrong) for name in CODING for wrong in CODING[name]])
def test_a_wrong_function_gets_the_message_that_is_meant_for_it(name, answer, words):
    feedback = exercise(name).check(answer)
    assert (feedback.status, words in feedback.message) == ("wrong", True), feedback


@pytest.mark.parametrize("name", CODING)
@pytest.mark.parametrize("answer", [lambda *_: float("nan"), lambda *_: "no", lambda *_: [0.0] * 600_000, "x"])
def test_garbage_is_answered_in_one_line(name, answer):
    feedback = exercise(name).check(answer)
    assert feedback.status == "wrong"
    assert "\n" not in feedback.message


def test_an_exercise_is_found_by_its_name():
    assert exercise("08") is exercise("08.1")
    with pytest.raises(UserError, match="no exercises for '99'"):
        exercise("99")
    with pytest.raises(UserError, match=r"no exercise '08\.9' .*; did you mean '08"):
        exercise("08.9")


CODE = {
    path.stem: [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for path in sorted(chapters_dir().glob("*.ipynb"))
}


def result(cell: str, space: dict, file):
    """What the last expression of a cell gives; from a file, since a trace reads its own source."""
    file.write_text(cell)
    *body, last = ast.parse(cell).body
    exec(compile(ast.Module(body, []), str(file), "exec"), space)
    return eval(compile(ast.Expression(last.value), str(file), "eval"), space)


@pytest.mark.parametrize("chapter", CODE)
def test_every_exercise_of_a_chapter_is_right_in_its_solved_copy(chapter, tmp_path):
    done = solved(CODE[chapter])
    changed = [new for old, new in zip(CODE[chapter], done, strict=True) if old != new]
    assert len(changed) == sum(".check(" in cell for cell in CODE[chapter]) > 0
    for place, cell in enumerate(changed):
        space = {"rk": rk, "display": lambda shown: None}
        assert result(cell, space, tmp_path / f"{place}.py").status == "right", cell


def test_functions_are_solved_where_they_are_defined():
    cells = ["rk.exercise('04.3')", "def mine(study):\n    ...\n\nx = 1", "rk.exercise('04.3').check(mine)"]
    done = solved([cells[0], cells[1].replace("mine", "without_head"), cells[2].replace("mine", "without_head")])
    assert done[1] == f"{exercise('04.3').code.strip()}\n\nx = 1"
    assert done[2] == "rk.exercise('04.3').check(without_head)"


def test_a_solved_chapter_runs_and_what_was_solved_is_remembered(tmp_path):
    path = write_solutions(tmp_path) / "00_start_here.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert "Right:</b> well done." in str(notebook.cells)
    assert len(list(path.parent.glob("*.ipynb"))) == len(CODE)
    days = rk.progress(path.parent)["solved"]
    assert days.index[days != ""].tolist() == list(exercises("00"))
    (path.parent / "rimkit-progress.json").write_text("{")
    assert (rk.progress(path.parent)["solved"] == "").all()


def test_the_m_of_chapter_06_is_the_only_one_with_two_neurons():
    assert [size_of_set(m) for m in range(1, 9)] == [0, 1, 1, 2, 4, 4, 5, 8]
    assert all(worst in str(exercise("06.2").solution()) for worst in ("f 2", "a 4", "c and h 5", "b 7"))


def test_ras_by_hand_is_that_of_the_package():
    from rimkit.experiments.ras import Activations, shifts

    before, after = (
        Activations(*(FOUR_NEURONS[[f"{kind}, {state}"]].to_numpy().T for kind in ("safety", "maths")))
        for state in ("untuned", "tuned")
    )
    assert shifts(before, after)["ras"] == pytest.approx(four_neurons_ras())


def test_the_plan_and_the_exercise_count_alike():
    needs = device.needs_of(plan.shape(chapter_10.MODEL))
    free = device.GPUS["T4"][0] - device.RESERVED - needs.weights("float16") / 2**30
    assert int(free) == chapter_10.LEFT
    left = chapter_10.LEFT * 2**30
    assert left // needs.cache("bfloat16", chapter_10.TOKENS) == chapter_10.fitting() == RIGHT["10.2"]
