"""Figures, tables and explorers of chapter 08."""

import numpy as np
import pandas as pd
import pytest

from rimkit.errors import UserError
from rimkit.published import tables
from rimkit.teaching import paper_figures, paper_tables
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
    figure = paper_figures.power_plot(paper_tables.power_curves(), "comparison", title="t", had=300)
    curves = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    assert len(curves) == 10
    assert all((np.diff(curve) >= -1e-9).all() for curve in curves)
    assert "300 prompts" in [text.get_text() for text in figure.axes[0].texts]


def test_a_figure_of_missing_columns_is_refused(changes):
    with pytest.raises(UserError, match="no column 'trainingset'; did you mean 'training_set'"):
        paper_figures.model_plot(changes, "trainingset", "delta_misalignment_points", title="t", label="l")


# -- tables and explorers --------------------------------------------------------------------------


def test_published_and_measured_stand_side_by_side():
    table = paper_tables.beside(["C1b", "C1a"], "rim-mini:2")
    assert list(table["claim"].unique()) == ["C1b", "C1a"]
    assert {"paper, Qwen3-4B", "rim-mini, seed 0", "rim-mini, seed 2"} <= set(table["source"])
    assert table[["ci_low", "ci_high"]].notna().all().all()
    assert not paper_tables.beside(["C1a"], "my-own")["source"].str.contains("my-own").any()


def test_claims_stand_beside_the_seeds():
    table = paper_tables.claims_beside()
    assert table.loc["C7a", "published numbers"] == "supported"
    assert table.loc["C5a", "published numbers"] == "not reported"
    assert table.loc["C1b", "rim-mini"] == "3 supported"
    assert not table.index.str.startswith("Q").any()


def test_what_is_said_about_a_claim_has_its_verdict():
    text = paper_tables.say("C7a", "C5a", "C10a").text
    assert "**C7a** (supported: +5.3 points [+3.3, +7.4] over 8 models). Solid" in text
    assert "**C5a** (no verdict). 12 against 15 of 21" in text
    assert "**C10a** (undecided: +0.42 [−0.76, +1.61] over 4 models)" in text


def test_dropping_models_changes_the_average():
    html = paper_tables.without_models("GSM8K", "Mixtral-8x7B", "Mistral-7B")
    assert "without Mistral-7B and Mixtral-8x7B" in html
    assert "6 of 8" in html
    assert "4 of 6" in html
    assert "without" not in paper_tables.without_models("GSM8K", "nobody", "nobody").replace("changes most without", "")
    with pytest.raises(UserError, match="did you mean 'GSM8K'"):
        paper_tables.without_models("GSM8", "nobody", "nobody")


def test_dropping_checkpoints_changes_the_correlation():
    html = paper_tables.without_checkpoints("Mistral-7B", 1, 0)
    assert "without checkpoint 1" in html
    assert "0.36" in html  # r without the first checkpoint, the smallest that one checkpoint can leave
    with pytest.raises(UserError, match="no 'Mistral'"):
        paper_tables.without_checkpoints("Mistral", 0, 0)
