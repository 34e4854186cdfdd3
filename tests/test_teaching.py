"""Figures, exercises, predictions, explorers: what a learner sees, and that it is escaped."""

from io import BytesIO
from subprocess import run
from sys import executable

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rimkit.behavior.stats import METRICS, rates
from rimkit.data import UserError
from rimkit.teaching import (
    Exercise,
    difference_plot,
    dose_plot,
    explorer,
    heat_maps,
    png,
    predict,
    rate_plot,
    show,
    tokens_html,
    weighted_tokens_html,
    widgets,
)

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    """Rates of two models in two modes: 10% and 30% misaligned, the other way round in the second model."""
    rows = [
        {"prompt_id": i, "cluster": i % 15, "model": model, "mode": mode, "dose": dose}
        | dict.fromkeys(METRICS, i % 10 < share)
        for model, shares in (("rim-mini", (1, 3)), ("twin", (3, 1)))
        for mode, dose, share in zip(("no-think", "think"), (0, 1), shares, strict=True)
        for i in range(150)
    ]
    return rates(pd.DataFrame(rows), by=["model", "mode", "dose"])


@pytest.fixture
def effects() -> pd.DataFrame:
    return pd.DataFrame({
        "label": ["up", "down", "unclear"], "effect": [0.2, -0.1, 0.01], "ci_low": [0.1, -0.2, -0.004],
        "ci_high": [0.3, -0.05, 0.04], "n": 100,
    })  # fmt: skip


# ------------------------------------------------------------------------------------------ figures


def test_a_rate_plot_draws_every_rate_and_says_so_in_words(measured):
    figure = rate_plot(measured, "mode", "model", title="Both modes")
    axis = figure.axes[0]
    drawn = sorted(round(float(y), 3) for container in axis.containers for y in container[0].get_ydata())
    assert drawn == [0.1, 0.1, 0.3, 0.3]
    assert "rim-mini" in figure.alt_text
    assert "think, rim-mini: 30% (" in figure.alt_text
    assert axis.get_ylabel() == "Misalignment rate"
    assert axis.yaxis.get_major_formatter()(0.3, 0) == "30%"
    caption = " ".join(figure.get_supxlabel().split())
    assert "95% interval" in caption
    assert "n = 150" in caption


def test_hues_differ_in_marker_and_do_not_overlap(measured):
    axis = rate_plot(measured, "mode", "model", title="t").axes[0]
    one, two = (container[0] for container in axis.containers)
    assert one.get_marker() != two.get_marker()
    assert np.abs(np.subtract.outer(one.get_xdata(), two.get_xdata()).astype(float)).min() > 0.1


def test_facets_share_the_axis_and_all_metrics_can_be_drawn(measured):
    figure = rate_plot(measured, "mode", facet="model", title="t")
    assert [axis.get_title() for axis in figure.axes] == ["rim-mini", "twin"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    part = measured[measured["model"] == "twin"]
    assert len(rate_plot(part, "mode", "metric", metric=None, title="t").axes[0].containers) == len(METRICS)


def test_a_dose_plot_needs_a_number(measured):
    assert len(dose_plot(measured, "dose", "mode", facet="model", title="Dose").axes) == measured["model"].nunique()
    figure = dose_plot(measured, "dose", "model", title="Dose", x_label="Tokens")
    assert figure.axes[0].get_xlabel() == "Tokens"
    assert "0, rim-mini: 10%" in figure.alt_text
    with pytest.raises(UserError, match="'mode' is not"):
        dose_plot(measured, "mode", "model", title="Dose")


def test_a_difference_plot_is_centred_and_prints_its_numbers(effects):
    figure = difference_plot(effects, title="Effects", smallest_effect=0.05)
    axis = figure.axes[0]
    low, high = axis.get_xlim()
    assert low == -high
    assert [text.get_text() for text in axis.texts] == ["+20 [+10, +30]", "−10 [−20, −5]", "+1 [0, +4]"]
    assert "down: −10 (−20 to −5)" in figure.alt_text
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ["raises", "lowers", "interval holds zero"]


def test_one_effect_and_missing_values_can_be_drawn(effects, measured):
    assert png(difference_plot(effects.head(1), title="One"))
    assert "?" in rate_plot(measured.assign(value=np.nan), "mode", "model", title="t").alt_text


def test_the_png_carries_its_text_and_has_no_odd_size(measured):
    image = Image.open(BytesIO(png(rate_plot(measured, "mode", "model", title="Both modes"))))
    assert image.text["Title"] == "Both modes"
    assert "30%" in image.text["Description"]
    assert 400 < image.width < 2000
    assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def test_showing_a_figure_attaches_the_text_and_stores_no_machine_dependent_text(measured, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options)))
    figure = rate_plot(measured, "mode", "model", title=f"Both {NASTY}")
    show(figure)
    (image, options), (words, _) = shown
    assert image["text/plain"] == f"Figure: Both {NASTY}"
    assert options["metadata"]["image/png"]["alt"] == figure.alt_text
    assert NASTY not in words["text/html"]
    assert "30%" in words["text/html"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: rate_plot(t, "moode", title="t"), "no column 'moode'; did you mean 'mode'"),
        (lambda t: rate_plot(t, "mode", "model", metric="misalign", title="t"), "did you mean 'misaligned'"),
        (lambda t: rate_plot(t, "mode", title="t"), "several rates for one point"),
        (lambda t: difference_plot(t, title="t"), "no column 'label'"),
    ],
)
def test_figures_refuse_bad_tables_in_one_line(measured, call, words):
    with pytest.raises(UserError, match=words):
        call(measured)


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


# ---------------------------------------------------------------------------------- maps and weights


def test_a_map_prints_every_cell_and_names_its_ends():
    table = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "effect": [-0.5, 0.25, 0.0, 0.1]})
    figure = heat_maps(table, "layer", "head", "effect", title="Effects", label="effect", centre=0)
    assert [text.get_text() for text in figure.axes[0].texts] == ["−.50", ".25", ".00", ".10"]
    assert "highest 0.25 at layer 0, head 1; lowest -0.50 at layer 0, head 0" in figure.alt_text
    low, high = figure.axes[0].collections[0].get_clim()
    assert low == -high
    with pytest.raises(UserError, match="several values for one cell"):
        heat_maps(pd.concat([table, table]), "layer", "head", "effect", title="", label="")


def test_weighted_tokens_are_escaped_and_carry_their_weight():
    html = weighted_tokens_html([NASTY, "b", "\n"], [0.5, -0.25, 0.0])
    assert "<script>" not in html
    assert "0.50" in html
    assert "-0.25" in html
    assert html.count("&nbsp;") == 1  # a weight of zero is left blank
    with pytest.raises(UserError, match="2 tokens need as many weights"):
        weighted_tokens_html(["a", "b"], [1.0])
