"""Tables and sentences say what their numbers say."""

import pandas as pd
import pytest

from rimkit import ledger
from rimkit.data import UserError
from rimkit.models.study import StudyModel
from rimkit.teaching import setup, tables

EFFECT = {
    "condition": "think",
    "control": "no-think",
    "value_a": 0.3,
    "value_b": 0.1,
    "effect": 0.2,
    "n": 40,
    "n_clusters": 8,
}


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.3, "rises"), (-0.3, -0.1, "falls"), (-0.1, 0.3, "shows no clear change")]
)
def test_the_sentence_follows_the_interval(low, high, word):
    text = tables.sentence({**EFFECT, "ci_low": low, "ci_high": high}, "Misalignment")
    assert text.startswith(f"Misalignment {word}: 10% with no-think, 30% with think; difference 20 points")
    assert f"{round(100 * low)} to {round(100 * high)}" in text


def test_rate_table_keeps_the_order_and_prints_whole_percents():
    rates = pd.DataFrame({
        "mode": ["think", "no-think"], "metric": "misaligned", "value": [0.124, -0.0001], "ci_low": [0.0, 0.0], "ci_high": [0.5, float("nan")],
    })  # fmt: skip
    table = tables.rate_table(rates, "mode", "metric")
    assert table["misaligned"].to_dict() == {"think": "12 [0, 50]", "no-think": "0 [0, -]"}
    assert list(table.index) == ["think", "no-think"]


def test_effect_table_has_interval_and_counts():
    table = tables.effect_table(pd.DataFrame([{**EFFECT, "set": "harmful", "ci_low": 0.1, "ci_high": 0.3}]), "set")
    assert table.loc["harmful"].tolist() == ["think - no-think", "30 - 10", "20 [10, 30]", "40 (8)"]


def test_seed_table_shows_every_seed_with_its_verdict():
    bounds = {"effect_ci_low": 0.1, "effect_ci_high": 0.3}
    rows = ledger.table([ledger.row("C1a", model="rim-mini", seed=seed, effect=0.2, **bounds) for seed in (0, 1)])
    table = tables.seed_table(rows, ["C1a", "C1b"])
    assert table["C1a"].to_dict() == {
        ("rim-mini", 0): "20 [10, 30] supported",
        ("rim-mini", 1): "20 [10, 30] supported",
    }
    assert "C1b" not in table


def test_shipped_results_are_found_by_name():
    assert len(setup.results("thinking")) > 0
    with pytest.raises(UserError, match="did you mean 'thinking'"):
        setup.results("thinkin")


def test_identity_of_a_model():
    def study(name):
        return type("Study", (StudyModel,), {"device": "cpu"})(name, None, None, None, 1, 0)

    assert study("rim-mini:2").identity == {"model": "rim-mini", "seed": 2, "device": "cpu"}
    assert study("Qwen3-4B").identity["seed"] is None


def test_a_bound_near_zero_keeps_its_side():
    assert [tables._percent(value) for value in (0.004, -0.004, 0.0001, 0.0, 0.1249)] == ["0.4", "-0.4", "0", "0", "12"]


def test_examples_show_one_reply_per_mode_and_verdict():
    verdicts = pd.DataFrame({
        "prompt_id": ["a", "b", "c"], "mode": ["think", "think", "no-think"], "thought": "", "reply": ["x", "y", "z"],
        "refused": [True, True, False], "misaligned": [False, False, True], "misread": False, "coherent": [True, True, False],
    })  # fmt: skip
    shown = tables.examples(verdicts, pd.DataFrame({"prompt_id": ["a", "b", "c"], "text": ["A", "B", "C"]}))
    assert list(zip(shown.index, shown["verdict"], strict=True)) == [
        ("A", "refused"),
        ("C", "misaligned"),
        ("C", "incoherent"),
    ]


def test_predictor_table_shows_a_dash_for_what_is_true_by_construction():
    row = {
        "value": -0.04,
        "spearman": 0.26,
        "without_min": -0.1,
        "without_max": 0.3,
        "models_min": -0.5,
        "models_max": 0.4,
    }
    pooled = pd.DataFrame([
        {"predictor": "ras", **row, "p_value": 0.0123, "p_holm": 0.0246},
        {"predictor": "steps", **row, "p_value": None, "p_holm": None},
    ]).astype({"p_value": float, "p_holm": float})  # fmt: skip
    table = tables.predictor_table(pooled, {"beyond steps": pooled.assign(value=0.7)})
    assert table.loc["ras"].tolist() == ["0.0", "0.7", "0.3", "-0.1 to 0.3", "-0.5 to 0.4", "0.012", "0.025"]
    assert table.loc["steps", ["beyond steps", "p", "p Holm"]].tolist() == ["–"] * 3
    assert table.columns[3] == "less one corpus"
