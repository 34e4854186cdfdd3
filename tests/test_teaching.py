"""Exercises, predictions, explorers: what a learner sees, and that it is escaped."""

from subprocess import run
from sys import executable

import numpy as np
import pandas as pd
import pytest

from rimkit.data import UserError
from rimkit.teaching import widgets
from rimkit.teaching.exercises import Exercise, predict
from rimkit.teaching.widgets import explorer, tokens_html, weighted_tokens_html

NASTY = "<script>alert(1)</script>"


# ---------------------------------------------------------------------------------------- exercises


@pytest.fixture
def exercise() -> Exercise:
    def check(answer):
        if answer > 1:
            return "a share cannot exceed 1."
        return abs(answer - 0.25) < 0.01

    texts = ("Divide.", "A quarter.", "a number from 0 to 1")
    return Exercise("A share", "easy", "essential", 5, "Which share?", check, *texts)


@pytest.mark.parametrize("answer", [None, ..., "", " ____ "])
def test_an_exercise_without_answer_is_not_attempted(exercise, answer):
    assert exercise.check(answer).status == "not attempted"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (0.25, "right", "well done"),
        (25, "wrong", "because a share cannot exceed 1."),
        (0.5, "wrong", "because it is not what the question asks for"),
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


def test_tables_are_answers_too(exercise):
    asks = Exercise("T", "easy", "useful", 1, "q", lambda table: len(table) == 2, "h", "s")
    assert asks.check(pd.DataFrame({"a": [1, 2]})).status == "right"
    assert asks.check(np.zeros(3)).status == "wrong"


def test_an_exercise_shows_its_header_hint_and_solution_and_escapes(exercise):
    assert "Difficulty: easy. Importance: essential" in exercise._repr_markdown_()
    assert repr(exercise.hint()) == "**Hint.** Divide."
    assert repr(exercise.solution()) == "**Solution.** A quarter."
    bad = Exercise("T", "easy", "useful", 1, "q", lambda answer: f"of {answer}", "h", "s").check(NASTY)
    assert NASTY not in bad._repr_html_()
    with pytest.raises(UserError, match="did you mean 'hard'"):
        Exercise("T", "harder", "useful", 1, "q", bool, "h", "s")


def test_a_prediction_reports_its_gap_in_one_sentence():
    guess = predict("Misalignment", 30)
    assert repr(guess) == "Misalignment: your guess is 30%."
    assert repr(guess.compare(24.3)) == "Misalignment: you guessed 30%, measured 24%: 6% too high."
    inside = repr(guess.compare(36, 28, 44))
    assert inside.endswith("(95% interval 28% to 44%): 6% too low, but inside the interval.")
    assert "spot on" in repr(guess.compare(30.2))
    with pytest.raises(UserError, match="with a number"):
        guess.compare("much")


@pytest.mark.parametrize(
    ("guess", "words"),
    [(..., "no guess yet"), ("30%", "'30%' is not a number from 0"), (130, "130 is not"),
     (True, "True is not"), (float("nan"), "nan is not")],
)  # fmt: skip
def test_a_bad_guess_is_answered_not_raised(guess, words):
    made = predict("Rate", guess)
    assert made.guess is None
    assert words in repr(made)
    assert "no guess to compare" in repr(made.compare(20))


# ---------------------------------------------------------------------------------------- explorers


def test_an_explorer_shows_a_floor_first_and_answers_its_controls(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    modes = {"with": "think", "without": "no"}
    box = explorer(lambda mode, seed: f"<p>{mode} {seed}</p>", mode=modes, seed=range(0, 5))
    (floor,) = shown
    assert floor.data == "<p>think 0</p>"
    controls, result = box.children
    menu, slider = controls.children
    menu.value, slider.value = "no", 3
    assert result.value == "<p>no 3</p>"
    assert (slider.min, slider.max) == (0, 4)
    assert repr(box) == "Explorer of mode, seed"


def test_an_explorer_tells_what_went_wrong(monkeypatch):
    monkeypatch.setattr(widgets, "display", lambda shown: None)
    box = explorer(lambda case: {"a": "fine"}[case], case=["a", NASTY])
    controls, result = box.children
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
    assert "-0.25" in html
    assert html.count("&nbsp;") == 1  # a weight of zero is left blank
    with pytest.raises(UserError, match="2 tokens need as many weights"):
        weighted_tokens_html(["a", "b"], [1.0])
