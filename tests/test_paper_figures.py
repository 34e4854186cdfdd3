"""Figures, tables and explorers of chapter 08."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb

from rimkit.data import UserError
from rimkit.paper import reanalysis, tables
from rimkit.teaching import paper_figures
from rimkit.teaching import tables as shown
from rimkit.teaching.figures import png


@pytest.fixture
def changes() -> pd.DataFrame:
    return tables.published("table2_finetuning_delta")


def heights(axis, style: str) -> list[float]:
    """Where the horizontal marks of one line style are drawn, from left to right."""
    marks = [line for line in axis.lines if line.get_linestyle() == style and line.get_color() == "black"]
    return [float(line.get_ydata()[0]) for line in marks]


def test_a_model_plot_draws_every_model_its_mean_and_its_median(changes):
    figure = paper_figures.model_plot(
        changes, "training_set", "delta_misalignment_points", title="t", label="Change", without=["Mixtral-8x7B"]
    )
    axis = figure.axes[0]
    drawn = sorted(y for line in axis.lines if line.get_label() in tables.MODELS for y in line.get_ydata())
    assert drawn == sorted(changes["delta_misalignment_points"])
    groups = changes.groupby("training_set", sort=False)["delta_misalignment_points"]
    assert heights(axis, "-") == pytest.approx(list(groups.mean()))
    assert heights(axis, ":") == pytest.approx(list(groups.median()))
    rest = changes[changes["model"] != "Mixtral-8x7B"].groupby("training_set", sort=False)
    assert heights(axis, "--") == pytest.approx(list(rest["delta_misalignment_points"].mean()))
    assert "GSM8K: mean 5.05, median 3.21, mean without Mixtral-8x7B 3.75 (Qwen3-4B 8.7" in figure.alt_text
    assert png(figure)


def test_a_model_looks_alike_in_every_figure(changes):
    few = changes[changes["model"].isin(["OLMo2-1B", "Mixtral-8x7B"])]

    def looks(table):
        figure = paper_figures.model_plot(table, "training_set", "delta_misalignment_points", title="t", label="l")
        return {line.get_label(): (line.get_color(), line.get_marker()) for line in figure.axes[0].lines}

    every, some = looks(changes), looks(few)
    assert every["Mixtral-8x7B"] == some["Mixtral-8x7B"]
    assert len({every[model] for model in tables.MODELS}) == len({every[model][1] for model in tables.MODELS}) == 8


def test_curves_differ_in_more_than_colour():
    table = tables.published("fig3_probe_scores").query("mode == 'think'")
    figure = paper_figures.layer_plot(table, "share_above_threshold", "group", "position", title="t", label="Share")
    lines = figure.axes[0].lines
    assert len({line.get_linestyle() for line in lines}) == len({line.get_marker() for line in lines}) == 4
    assert "assistant, fulfilled:" in figure.alt_text
    assert png(figure)


def test_a_scatter_plot_has_every_point_and_its_notes():
    table = tables.published("fig8_ras_vs_misalignment").query("predictor == 'RAS (safety neurons)'")
    look = {"title": "t", "x_label": "RAS", "y_label": "Rate"}
    figure = paper_figures.scatter_plot(
        table, "value", "misalignment_rate_pct", "model", notes={"OLMo2-1B": "r = 1"}, **look
    )
    assert sum(len(axis.lines[0].get_xdata()) for axis in figure.axes) == len(table) == 32
    assert "OLMo2-1B (r = 1): (0.0883, 11.7)" in figure.alt_text


def test_a_power_plot_rises_and_marks_what_the_study_had():
    figure = paper_figures.power_plot(shown.power_curves(), "comparison", title="t", had=300)
    curves = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    assert len(curves) == 10
    assert all((np.diff(curve) >= -1e-9).all() for curve in curves)
    assert "300 prompts" in [text.get_text() for text in figure.axes[0].texts]


def test_figures_show_the_range_that_was_possible(changes):
    heads = tables.published("fig4b_refusal_head_counts").assign(heads="all")
    look = {"title": "t", "x_label": "layer", "y_label": "prompts", "x_limits": (-0.5, 35.5), "y_limits": (0, 184)}
    axis = paper_figures.scatter_plot(heads, "layer", "prompts_of_180", "heads", **look).axes[0]
    assert (axis.get_xlim(), axis.get_ylim()) == ((-0.5, 35.5), (0, 184))
    free = paper_figures.scatter_plot(heads, "layer", "prompts_of_180", "heads", title="t", x_label="x", y_label="y")
    assert free.axes[0].get_xlim()[1] < 35
    table3 = tables.published("table3_predictor_correlations")
    axis = paper_figures.model_plot(table3, "predictor", "pearson_r", title="t", label="r", limits=(-1, 1)).axes[0]
    assert axis.get_ylim() == (-1, 1)


def test_panels_say_how_many_prompts_stand_behind_them():
    table = tables.published("fig3_probe_scores").query("mode == 'think'")
    notes = {position: reanalysis.sizes_in_words("think", position) for position in table["position"].unique()}
    figure = paper_figures.layer_plot(
        table, "share_above_threshold", "group", "position", title="t", label="Share", notes=notes
    )
    said = {axis.get_title(): axis.texts[0].get_text() for axis in figure.axes if axis.get_visible()}
    assert said == notes
    assert "</think>: n = 46 harmless, 71 harmful, of them 63 refused, about 8 fulfilled." in figure.alt_text


def contrast(colour) -> float:
    """Contrast of a colour with white (WCAG)."""
    channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 1.05 / (0.05 + np.dot([0.2126, 0.7152, 0.0722], channels))


def test_every_colour_is_readable_on_white():
    colours = [to_hex(paper_figures._ink(index)) for index in range(10)]
    assert len(set(colours)) == 10
    assert min(map(contrast, colours)) > 2.5
    assert contrast("#ece133") < 1.5  # the palette's yellow, as it was


def test_bars_carry_their_numbers_and_a_gap_is_shown_as_one():
    places = tables.maxima()
    figure = paper_figures.bar_plot(
        places, "place", "maxima", "mode", title="t", label="cells", marked=["assistant (0)"],
        panels=["with thinking", "without thinking"], notes=dict(zip(places["mode"], places["note"], strict=True)),
    )  # fmt: skip
    left, right = figure.axes
    widths = [bar.get_width() for axis in (left, right) for bar in axis.patches]
    assert sorted(widths) == sorted(places["maxima"])
    assert "12,564" in [text.get_text() for text in left.texts]
    assert [text.get_text() for text in left.texts].count("–") == 4
    assert sum(bar.get_hatch() == "//" for bar in left.patches) == 1
    assert "with thinking (25,960 of 207,360 cells): request (−4) 1,350" in figure.alt_text
    assert left.get_xlim() == right.get_xlim()
    assert png(figure)
    shares = tables.published("figa5_flagged_categories")
    figure = paper_figures.bar_plot(shares, "category", "share_pct", "prompts", title="t", label="percent")
    assert "HEx-PHI: safety or compliance issues 62.0" in figure.alt_text


def test_fig_1_is_drawn_as_fractions_and_as_rates():
    table, known = tables.before_after(), tables.known_rates()
    figure = paper_figures.before_after_plot(table, known, title="t")
    left, right = figure.axes
    drawn_points = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines}
    assert drawn_points["Mistral-7B"] == pytest.approx(tuple(table.loc["Mistral-7B", ["maths", "misalignment"]]))
    assert (left.get_xlim()[0], left.get_ylim()[0], right.get_xlim()) == (0, 0, (0, 100))
    assert "84 → 96" in [text.get_text() for text in right.texts]
    assert [text.get_text() for text in right.get_legend().get_texts()] == list(paper_figures.KNOWN)
    assert set(known["what"]) == set(paper_figures.KNOWN)
    assert "Qwen3-4B, Table 1, think off: 15.4%" in figure.alt_text
    assert "Phi3.5-Tiny, Fig. 8, checkpoints: 21.4 to 24.4%" in figure.alt_text
    assert png(figure)
    with pytest.raises(UserError, match="no column 'before_low'"):
        paper_figures.before_after_plot(table.drop(columns="before_low"), known, title="t")


def test_a_figure_of_missing_columns_is_refused(changes):
    with pytest.raises(UserError, match="no column 'trainingset'; did you mean 'training_set'"):
        paper_figures.model_plot(changes, "trainingset", "delta_misalignment_points", title="t", label="l")


# -- tables and explorers --------------------------------------------------------------------------


def test_published_and_measured_stand_side_by_side():
    table = shown.beside(["C1b", "C1a"], "rim-mini:2")
    assert list(table["claim"].unique()) == ["C1b", "C1a"]
    assert {"paper, Qwen3-4B", "rim-mini, seed 0", "rim-mini, seed 2"} <= set(table["source"])
    assert table[["ci_low", "ci_high"]].notna().all().all()
    assert not shown.beside(["C1a"], "my-own")["source"].str.contains("my-own").any()


def test_claims_stand_beside_the_seeds():
    table = shown.claims_beside()
    assert table.loc["C7a", "published numbers"] == "supported"
    assert table.loc["C5a", "published numbers"] == "not reported"
    assert table.loc["C1b", "rim-mini"] == "3 supported"
    assert not table.index.str.startswith("Q").any()


def test_what_is_said_about_a_claim_has_its_verdict():
    text = shown.say("C7a", "C5a", "C10a").text
    assert "**C7a** (supported: +5.3 points [+3.3, +7.4] over 8 models). Solid" in text
    assert "**C5a** (no verdict). 12 against 15 of 21" in text
    assert "**C10a** (undecided: +0.42 in r [−0.76, +1.61] over 4 models)" in text


def test_effects_have_units_and_figures_have_statements():
    assert "**C9b** (undecided: +0.28 mean log ratio [−0.17, +0.72]" in shown.say("C9b").text
    assert "if checkpoints were exchangeable, which those of one run are not" in shown.say("C10a").text
    text = shown.say("Fig. A5", "C7a").text
    assert text.startswith("**Fig. A5.** GSM8K: the shares drawn")
    assert "\n\n**C7a** (supported" in text


def test_dropping_models_changes_the_average():
    html = shown.without_models("GSM8K", "Mixtral-8x7B", "Mistral-7B")
    assert "without Mistral-7B and Mixtral-8x7B" in html
    assert "6 of 8" in html
    assert "4 of 6" in html
    assert "without" not in shown.without_models("GSM8K", "nobody", "nobody").replace("changes most without", "")
    with pytest.raises(UserError, match="did you mean 'GSM8K'"):
        shown.without_models("GSM8", "nobody", "nobody")


def test_dropping_checkpoints_changes_the_correlation():
    html = shown.without_checkpoints("Mistral-7B", 1, 0)
    assert "without checkpoint 1" in html
    assert "0.36" in html  # r without the first checkpoint, the smallest that one checkpoint can leave
    with pytest.raises(UserError, match="no 'Mistral'"):
        shown.without_checkpoints("Mistral", 0, 0)
