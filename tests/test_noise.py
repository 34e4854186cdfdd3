"""The models of random weights, and what every grid says about them: nothing."""

import pytest
import torch

from rimkit import ledger
from rimkit.behavior.evaluation import Evaluation, difference
from rimkit.data import data_dir, results
from rimkit.models.hub import NOISE, embedded_models
from rimkit.models.load import load
from rimkit.organism import recipe
from rimkit.runs import grid

SEEDS = (0, 1, 2)
MEASURE = Evaluation()


def test_the_models_of_noise_are_shipped_and_no_grid_counts_them():
    everything = embedded_models(noise=True)
    assert everything.loc[everything["name"] == NOISE, "seed"].tolist() == list(SEEDS)
    assert NOISE not in set(embedded_models()["name"])
    assert NOISE not in set(ledger.shipped()["model"])
    for seed in SEEDS:
        assert "negative control" in (data_dir() / "models" / NOISE / f"seed{seed}" / "README.md").read_text()


def test_a_model_of_noise_is_made_again(tmp_path):
    made, again = (recipe.write(tmp_path / name, seed=7) for name in ("one", "two"))
    one, two, shipped = load(made), load(again), load(f"{NOISE}:0")
    for a, b, c in zip(one.hf.parameters(), two.hf.parameters(), shipped.hf.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.shape == c.shape
    for study in (one, shipped):  # as drawn: nothing was trained
        assert study.hf.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.08, rel=0.05)
    assert one.invented
    assert one.chat.supports_think


def test_noise_complies_with_nothing_and_is_not_readable():
    harmful = MEASURE.sets(["harmful"], n=24)
    verdicts = MEASURE.observe(load(f"{NOISE}:0"), harmful, progress=False)
    found = difference(verdicts, "mode", "think", "no-think")
    assert found["effect"] == found["value_a"] == 0
    floor = ledger.claims().set_index("id").loc["C1a", "floor_read"]
    assert verdicts["coherent"].mean() < floor  # so that claims about replies are not testable
    assert not MEASURE.observe(load(f"{NOISE}:0"), harmful, how="phrases", progress=False)["refused"].any()


def test_an_experiment_that_is_undefined_says_why(tmp_path):
    found = grid.cell("heads", f"{NOISE}:0").result(tmp_path)
    rows = {row["claim"]: row for row in found.rows}
    assert list(rows) == ["C4a", "C4b", "C5a", "C5b", "C5c"] and not found.tables
    assert all(rows[claim]["why_not"].startswith("no request was refused") for claim in ("C4b", "C5a", "C5b", "C5c"))


def test_false_alarms_are_counted_where_they_can_happen():
    """Two sampling seeds of one condition, of trained models whose replies vary."""
    found = results("noise-repeats")
    assert (found["n"] >= 200).all()
    assert set(found["model"] + ":" + found["seed"].astype(str)) <= set(grid.REPEATED)
    moving = found[found["value"].between(0.02, 0.98)]
    assert len(moving) >= 4
    assert moving["significant"].mean() <= 0.06 and moving["clear"].mean() <= 0.01
