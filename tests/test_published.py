"""What chapter 08 shows of the paper: figures by model, and its tables."""

import re

import pandas as pd
import pytest

from rimkit import ledger
from rimkit.data import UserError
from rimkit.paper import tables
from rimkit.teaching import published as shown
from rimkit.teaching.figures import image, lines


@pytest.fixture
def changes() -> pd.DataFrame:
    return tables.published("table2_finetuning_delta")


def heights(axis, style: str) -> list[float]:
    """Where the horizontal marks of one line style are drawn, from left to right."""
    marks = [line for line in axis.lines if line.get_linestyle() == style and line.get_color() == "black"]
    return [float(line.get_ydata()[0]) for line in marks]


def test_every_model_its_mean_and_its_median_are_drawn(changes):
    figure = shown.by_models(
        changes, "training_set", "delta_misalignment_points", title="t", label="Change", without=["Mixtral-8x7B"]
    )
    axis = figure.axes[0]
    groups = changes.groupby("training_set", sort=False)["delta_misalignment_points"]
    assert heights(axis, "-") == pytest.approx(list(groups.mean()))
    assert heights(axis, ":") == pytest.approx(list(groups.median()))
    rest = changes[changes["model"] != "Mixtral-8x7B"].groupby("training_set", sort=False)
    assert heights(axis, "--") == pytest.approx(list(rest["delta_misalignment_points"].mean()))
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "mean", "median", "mean without\nMixtral-8x7B",
    ]  # fmt: skip
    assert image(figure)


def test_a_model_looks_alike_in_every_figure(changes):
    few = changes[changes["model"].isin(["OLMo2-1B", "Mixtral-8x7B"])]

    def looks(table):
        figure = shown.by_models(table, "training_set", "delta_misalignment_points", title="t", label="l")
        keys = figure.legends[0].legend_handles
        return {key.get_label(): (key.get_color(), key.get_marker()) for key in keys}

    every, some = looks(changes), looks(few)
    assert every["Mixtral-8x7B"] == some["Mixtral-8x7B"]
    assert len({every[model] for model in tables.MODELS}) == len({every[model][1] for model in tables.MODELS}) == 8


def test_power_rises_with_prompts():
    curves = shown.power_curves()
    assert curves["comparison"].nunique() == 10
    assert (curves.groupby("comparison")["power"].diff().dropna() >= -1e-9).all()
    assert image(lines(curves, "prompts", "power", hue="comparison", log_x=True, title="t"))


def test_a_figure_of_missing_columns_is_refused(changes):
    with pytest.raises(UserError, match="no column trainingset; did you mean 'training_set'"):
        shown.by_models(changes, "trainingset", "delta_misalignment_points", title="t", label="l")


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
    judged = ledger.claims_table(ledger.shipped()).query("model == 'rim-mini' and claim == 'C1b'")
    assert table.loc["C1b", "rim-mini"] == f"{len(judged)} {judged['verdict'].iloc[0]}"
    assert judged["verdict"].nunique() == 1
    assert not table.index.str.startswith("Q").any()
    seeds = ledger.shipped().query("model == 'rim-mini-intent' and claim == 'C10a'")["seed"].nunique()
    counted = re.findall(r"\d+", table.loc["C10a", "rim-mini-intent"])
    assert sum(map(int, counted)) == max(1, seeds)  # a row without a seed is not counted beside those with one


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


def test_one_table_holds_every_claim_to_one_standard():
    table = shown.standard_table()
    assert table.index.is_unique and {"C5a", "C8b"} <= set(table.index)
    assert table.loc["C7a", ["effect", "over", "verdict"]].to_list() == [
        "+5.3 points [+3.3, +7.4]",
        "8 models",
        "supported",
    ]
    assert table.loc["C5a", ["over", "one model left out", "p × family"]].to_list() == ["21 prompts", "–", "1.00"]
    assert table.loc["C5a", "verdict"] == shown.claims_beside().loc["C5a", "published numbers"] == "not reported"
    assert table.loc["C8b", "one model left out"] == "−19.0 to −2.0"
