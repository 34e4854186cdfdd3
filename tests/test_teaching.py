"""Exercises, predictions, explorers: what a learner sees, and that it is escaped."""

import asyncio
import sys
from itertools import count
from subprocess import run
from sys import executable
from time import sleep

import numpy as np
import pandas as pd
import pytest

from rimkit.data import UserError
from rimkit.teaching import widgets
from rimkit.teaching.exercises import Exercise, predict, result_of, time_limit
from rimkit.teaching.questions.comparing import compare
from rimkit.teaching.widgets import TINTS, explorer, tokens_html, weighted_tokens_html

NASTY = "<script>alert(1)</script>"


# exercises


@pytest.fixture
def exercise() -> Exercise:
    def judge(answer):
        if answer > 1:
            return "a share cannot exceed 1."
        return abs(answer - 0.25) < 0.01

    texts = {"hints": ("Divide.", "By four."), "answer": "A quarter.", "expects": "a number from 0 to 1"}
    return Exercise("A share", ("easy", "essential", 5), "Which share?", judge, **texts)


def double(judge, **options) -> Exercise:
    return Exercise("Double", ("easy", "useful", 1), "q", judge, hints=("h",), answer="a", **options)


def judge_double(function):
    found = result_of(function, np.array([1.0, 2.0, 4.0]))
    return compare(found, [2, 4, 8], {"that squares instead of doubling.": [1, 4, 16]})


@pytest.mark.parametrize("answer", [None, ..., "", " ____ "])
def test_an_exercise_without_answer_is_not_attempted(exercise, answer):
    assert exercise.check(answer).status == "not attempted"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (0.25, "right", "well done"),
        (25, "wrong", "Wrong: a share cannot exceed 1."),
        (0.5, "wrong", "Wrong: it is not what the question asks for; hint(1) helps."),
        ("0.25", "wrong", "(a str) could not be checked"),
        ([0.25], "wrong", "expects a number from 0 to 1"),
    ],
)
def test_an_exercise_says_right_or_why_not(exercise, answer, status, words):
    feedback = exercise.check(answer)
    assert feedback.status == status
    assert words in repr(feedback)
    assert bool(feedback) == (status == "right")
    assert "\n" not in feedback.message


def test_tables_are_answers_too():
    asks = double(lambda table: len(table) == 2)
    assert asks.check(pd.DataFrame({"a": [1, 2]})).status == "right"
    assert asks.check(np.zeros(3)).status == "wrong"


@pytest.mark.parametrize(
    ("function", "status", "words"),
    [
        (lambda x: 2 * x, "right", "well done"),
        (lambda x: x**2, "wrong", "that squares instead of doubling"),
        (lambda x: -2 * x, "wrong", "the sign is turned around"),
        (lambda x: 200 * x, "wrong", "percent or fractions"),
        (lambda x: x + 7, "wrong", "not right: ([1, 2, 4]) gives [8, 9, 11] and should give [2, 4, 8]; hint(1) helps."),
        (lambda x: None, "not attempted", "returns nothing yet"),
        (lambda x: ..., "not attempted", "returns nothing yet"),
        (lambda x: "2", "wrong", "shape is ()"),
        (lambda x: "two", "wrong", "it is a str, and it should be numbers of shape (3,)"),
        (lambda x: x[:2], "wrong", "its shape is (2,), and it should be numbers of shape (3,)"),
        (lambda x: x / 0, "wrong", "missing or infinite"),
        (lambda x: np.zeros(600_000), "wrong", "600,000 numbers where"),
        (lambda x: x.nothing, "wrong", "AttributeError"),
        (lambda x: sys.exit(), "wrong", "SystemExit"),
        (lambda x: count(), "wrong", "it is a count, and it should be numbers"),
        (lambda: 3, "wrong", "TypeError"),
        (3, "wrong", "could not be checked"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_function_is_run_and_its_mistake_is_named(function, status, words):
    feedback = double(judge_double).check(function)
    assert (feedback.status, words in feedback.message) == (status, True), feedback
    assert "\n" not in feedback.message


def test_an_error_in_a_function_names_its_line():
    def mine(x):
        y = x + 1
        return y["a"]

    assert "in line 3 of mine: IndexError" in double(judge_double).check(mine).message


@pytest.mark.parametrize("swallow", [False, True])
def test_a_loop_without_end_is_stopped(swallow):
    def forever(x):
        while True:
            try:
                x = x + 1
            except Exception:
                if not swallow:
                    raise

    feedback = double(judge_double, seconds=0.2).check(forever)
    assert feedback.status == "wrong"
    assert "not done after 0.2 seconds" in feedback.message


def test_a_time_limit_that_is_not_reached_leaves_no_trace():
    with time_limit(0.05):
        pass
    naps = [sleep(0.01) for _ in range(20)]
    assert len(naps) == 20  # the limit, long past, interrupted none of them


TRACED = """import sys
from rimkit.teaching.exercises import TimeIsUp, time_limit
for seconds in (9, 0.1):
    try:
        with time_limit(seconds):
            while seconds < 1:
                pass
    except TimeIsUp:
        print("stopped")
    sys.setprofile(lambda *_: None)
    (lambda: print("traced"))()
    sys.setprofile(None)"""


def test_a_debugger_works_after_a_check():
    """In a process of its own: where it does not, nothing ends it."""
    found = run([executable, "-c", TRACED], capture_output=True, text=True, timeout=120)
    assert found.stdout.split() == ["traced", "stopped", "traced"], found.stderr


def test_an_exercise_shows_its_card_hints_and_solution_and_escapes(exercise):
    card = exercise._repr_markdown_()
    assert "Difficulty: ●○○ easy. Importance: ●●● essential. About 5 minutes." in card
    assert repr(exercise.hint()) == "**Hint 1.** Divide. (hint(2) says more.)"
    assert repr(exercise.hint(2)) == repr(exercise.hint(9)) == "**Hint 2.** By four."
    assert repr(exercise.solution()) == "**Solution.** A quarter."
    assert repr(double(bool, code="x = 1").solution()).endswith("\n\n```python\nx = 1\n```")
    assert NASTY not in double(lambda answer: f"of {answer}").check(NASTY)._repr_html_()
    with pytest.raises(UserError, match="did you mean 'hard'"):
        Exercise("T", ("harder", "useful", 1), "q", bool, hints=("h",), answer="s")


def test_a_prediction_reports_its_gap_in_one_sentence():
    guess = predict("Misalignment", 30)
    assert repr(guess) == "Misalignment: your guess is 30%."
    assert repr(guess.compare(24.3)) == "Misalignment: you guessed 30%, measured 24%: 6 points too high."
    inside = repr(guess.compare(36, 28, 44))
    assert inside.endswith("(95% interval 28% to 44%): 6 points too low, but inside the interval.")
    assert "spot on" in repr(guess.compare(30.2))
    assert "nothing could be measured" in repr(guess.compare(float("nan")))
    assert "without bounds" in repr(guess.compare(float("-inf")))
    assert "interval" not in repr(guess.compare(24, float("nan"), 30)) + repr(guess.compare(24, 20, float("inf")))
    with pytest.raises(UserError, match="with a number"):
        guess.compare("much")


@pytest.mark.parametrize("guess", [30, 0.3, "30%", "30", " 0.3 ", (30, 30)])
def test_a_share_can_be_guessed_in_many_ways(guess):
    assert predict("Rate", guess).guess == (30, 30)


def test_a_guess_can_be_a_range_and_points_are_said():
    guess = predict("Change", (10, 40), low=-100, high=100, unit=" points")
    assert repr(guess) == "Change: your guess is 10 points to 40 points."
    assert "measured 25 points: spot on" in repr(guess.compare(25))
    assert "measured 45 points: 5 points too low" in repr(guess.compare(45))
    assert "measured −3 points: 13 points too high" in repr(guess.compare(-3))
    assert "measured 1 point: 9 points too high" in repr(guess.compare(1))
    assert predict("Change", "-5 points", low=-100, high=100, unit=" points").guess == (-5, -5)
    assert predict("Change", 0.5, low=-100, high=100, unit=" points").guess == (0.5, 0.5)
    close = predict("Correlation", 0.65, low=-1, high=1, unit="").compare(-0.36, -0.64, 0.16)
    assert repr(close) == ("Correlation: you guessed 0.65, measured −0.36 (95% interval −0.64 to 0.16): 1.01 too high.")


@pytest.mark.parametrize(
    ("guess", "words"),
    [(..., "no guess yet"), ("much", "'much' is not a number from 0"), (130, "130 is not"),
     (True, "True is not"), (float("nan"), "nan is not"), ((1, 2, 3), "(1, 2, 3) is not"),
     (float("inf"), "inf is not"), (10**400, "is not a number from 0"), ((1, 10**5000), "so long a number is not")],
)  # fmt: skip
def test_a_bad_guess_is_answered_not_raised(guess, words):
    made = predict("Rate", guess)
    assert made.guess is None
    assert words in repr(made)
    assert "no guess to compare" in repr(made.compare(20))


# ---------------------------------------------------------------------------------------- explorers


def test_an_explorer_answers_its_controls_in_one_panel(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    modes = {"with": "think", "without": "no"}
    box = explorer(lambda mode, seed: f"<p>{mode} {seed}</p>", mode=modes, seed=range(0, 5))
    (static,) = shown
    controls, result, hide = box.children
    assert static.data.endswith("<p>think 0</p></div>")
    head = "<p>mode: <b>{}</b> · seed: <b>{}</b></p>"
    assert result.value == head.format("with", 0) + "<p>think 0</p>"
    name = static.data.partition('class="')[2].partition('"')[0]
    assert hide.value == f"<style>.{name} {{display: none}}</style>"  # seen only where no kernel is
    menu, slider = controls.children
    menu.value, slider.value = "no", 3
    assert result.value == head.format("without", 3) + "<p>no 3</p>"
    assert (slider.min, slider.max) == (0, 4)
    assert repr(box) == "Explorer of mode, seed"


def test_an_explorer_says_that_it_computes_and_takes_a_text_of_ones_own(monkeypatch):
    monkeypatch.setattr(widgets, "display", lambda shown: None)
    seen = []

    def answer(request, mode):
        seen.append(getattr(box, "children", [None, None])[1].value if seen else "")
        return f"{mode}: {request}"

    box = None
    box = explorer(answer, own="request", request=["polish the clock", "mop the shed"], mode=["think", "no"])
    controls, result, _ = box.children
    menu, mode, text = controls.children
    text.value = f" nick {NASTY} "
    assert result.value.endswith(f"think: nick {NASTY}")  # its callback escapes
    assert result.value.startswith("<p>request: <b>nick &lt;script")
    assert "computing" in seen[-1] and "think: polish the clock" in seen[-1]
    mode.value = "no"
    assert result.value.endswith(f"no: nick {NASTY}")
    menu.value = "polish the clock"  # as before the text: what was changed last is answered
    assert result.value.endswith("no: polish the clock") and text.value == ""
    text.value = "sweep"
    assert menu.value is None
    text.value = ""
    assert result.value.endswith("no: polish the clock") and seen.pop()


def test_an_explorer_answers_only_the_newest_of_quick_choices(monkeypatch):
    monkeypatch.setattr(widgets, "display", lambda shown: None)
    seen = []
    box = explorer(lambda n: seen.append(n) or f"<p>{n}</p>", n=range(9))
    slider, result = box.children[0].children[0], box.children[1]

    async def quickly():
        for slider.value in (3, 4, 5):
            await asyncio.sleep(0)
        assert "n: <b>5</b>" in result.value and "computing" in result.value
        await asyncio.sleep(5 * widgets.PAUSE)

    asyncio.run(quickly())
    assert seen == [0, 5] and result.value.endswith("<p>5</p>")


def test_pieces_stand_side_by_side():
    page = widgets.beside({"think": "<p>a</p>", NASTY: "<p>b</p>"})
    assert page.count("flex:1") == 2
    assert NASTY not in page


def test_an_explorer_tells_what_went_wrong(monkeypatch):
    monkeypatch.setattr(widgets, "display", lambda shown: None)
    box = explorer(lambda case: {"a": "fine"}[case], case=["a", NASTY])
    controls, result, _ = box.children
    controls.children[0].value = NASTY
    assert "KeyError" in result.value
    assert NASTY not in result.value


@pytest.mark.parametrize(
    ("controls", "words"),
    [({}, "at least one control"), ({"a": []}, "no choices"), ({"a": range(3, 0)}, "counts up"),
     ({"a": "x"}, "'a' is a"), ({"a": 3}, "'a' is a")],
)  # fmt: skip
def test_bad_controls_are_refused(controls, words):
    with pytest.raises(UserError, match=words):
        explorer(lambda **values: "", **controls)


def test_tokens_are_escaped_and_spans_are_named_in_words():
    html = tokens_html(["hi", NASTY, "\n", "&"], {"request": (0, 2), "think_open": (2, 3), "last": (2, 3)})
    assert TINTS["last"] in tokens_html(["a"], {"last": (0, 1)}) and TINTS["last"] in html
    assert NASTY not in html
    assert "&lt;script&gt;" in html
    assert "⏎" in html
    assert "&amp;" in html
    assert html.count(">request</small>") == 1
    assert ">think open, last</small>" in html
    with pytest.raises(UserError, match=r"'x' .* does not fit 1 tokens"):
        tokens_html(["a"], {"x": (0, 2)})


def test_teaching_is_light_until_it_is_used():
    code = "import sys, rimkit.teaching; assert not {'torch', 'matplotlib', 'ipywidgets'} & set(sys.modules)"
    assert run([executable, "-c", code], check=False).returncode == 0


def test_weighted_tokens_are_escaped_and_carry_their_weight():
    html = weighted_tokens_html([NASTY, "b", "\n"], [0.5, -0.25, 0.0])
    assert "<script>" not in html
    assert "0.50" in html
    assert "−0.25" in html
    assert html.count("&nbsp;") == 1  # a weight of zero is left blank
    with pytest.raises(UserError, match="2 tokens need as many weights"):
        weighted_tokens_html(["a", "b"], [1.0])
