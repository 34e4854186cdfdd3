"""Grids: what is measured once and kept, what is written, and the shipped results of all models."""

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from rimkit import ledger
from rimkit.data import UserError, results
from rimkit.experiments import Result
from rimkit.models.hub import NOISE, embedded_models
from rimkit.runs import grid

EFFECT = {"effect": 0.2, "effect_ci_low": 0.1, "effect_ci_high": 0.3}


@pytest.fixture
def measured(monkeypatch):
    """Experiments that take no time; the models that they were asked for."""
    asked = []

    def run(topic, model, settings):
        name, _, seed = model.partition(":")
        asked.append(model)
        if name == NOISE:
            raise UserError("no request was refused")
        rows = [ledger.row("C2a", model=name, seed=int(seed), **EFFECT)]
        return Result({topic: pd.DataFrame({"model": [name], "seed": [int(seed)], "value": [0.5]})}, rows)

    monkeypatch.setattr(grid, "load", lambda model: model)
    for topic, module in grid.EXPERIMENTS.items():
        monkeypatch.setattr(module, "run", partial(run, topic))
    return asked


def test_every_cell_is_measured_once(measured, tmp_path):
    few = ["rim-mini:0", "safe-mini:1"]
    rows = grid.run(["patterns"], tmp_path, few, progress=False)
    assert measured == few
    assert rows["run_id"].eq("rimkit grid patterns").all()
    assert rows["params_hash"].nunique() == 2
    grid.run(["patterns"], tmp_path, ["rim-mini:1"], progress=False)
    assert measured == [*few, "rim-mini:1"]
    table = pd.read_parquet(tmp_path / "patterns.parquet")
    assert sorted(zip(table["model"], table["seed"], strict=True)) == [
        ("rim-mini", 0),
        ("rim-mini", 1),
        ("safe-mini", 1),
    ]
    grid.run(["probes"], tmp_path, few, progress=False)
    both = ledger.read(tmp_path / "verdicts.parquet")
    assert both["run_id"].value_counts().to_dict() == {"rimkit grid patterns": 3, "rimkit grid probes": 2}


def test_other_settings_are_another_cell():
    cell = grid.cell("patterns", "rim-mini:0")
    topic, model, files, settings = cell.depends_on
    assert cell.key == grid.cell("patterns", "rim-mini:0").key
    others = [(topic, model, files, replace(settings, seed=1)), (topic, model, files[1:], settings)]
    assert len({replace(cell, depends_on=other).key for other in others} | {cell.key}) == 3


def test_where_an_experiment_is_undefined_a_row_says_so(measured, tmp_path):
    said = []
    rows = grid.run(["heads"], tmp_path, [f"{NOISE}:0"], progress=False, report=said.append)
    assert rows.empty  # the grid is not about models of noise
    rows = grid._topic("heads", "x", tmp_path, [f"{NOISE}:0"], [], False, said.append).rows
    assert [(row["status"], row["chapter"], row["seed"]) for row in rows] == [("failed", "04_refusal_heads", 0)]
    assert said == [f"heads is undefined on {NOISE}:0: no request was refused"]


def test_planted_models_that_are_not_here_are_said(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(grid, "identity", lambda name: "")
    rows = grid.run([grid.PLANTED], tmp_path, progress=False, report=said.append)
    assert rows.empty and len(said) == 2
    assert f"{grid.SHARED} is not here: `rimkit organism train planted-shared --base DIR` makes it" in said


@pytest.mark.parametrize(
    ("names", "models", "message"),
    [
        (["thinkin"], [], "unknown grid 'thinkin'; did you mean 'thinking'"),
        (["thinking"], ["rim-mini:99"], "unknown embedded model 'rim-mini:99'"),
    ],
)
def test_unknown_names(tmp_path, names, models, message):
    with pytest.raises(UserError, match=message):
        grid.run(names, tmp_path, models)
    assert list(tmp_path.iterdir()) == []


def test_models_of_the_grids():
    names = {topic: {name.partition(":")[0] for name in grid.models_of(topic)} for topic in grid.TOPICS}
    assert names["tuning"] == set(embedded_models()["name"])
    assert names["heads"] == names["tuning"] - {grid.EXPERTS}
    assert names["ras"] == set(grid.ENTANGLED)
    assert grid.models_of("heads", noise=True) == [f"{NOISE}:{seed}" for seed in range(3)]


@pytest.mark.parametrize("topic", grid.TOPICS)
def test_shipped_results_are_of_the_models_of_their_grid(topic):
    """Seed 0 of every dense organism, of RAS that whose pairs flip, of repairs that which shows RIM."""
    rows, chapter = ledger.shipped(), grid.chapter_of(topic)
    rows = rows[(rows["chapter"] == chapter) & rows["seed"].notna()]
    found = {f"{model}:{seed}" for model, seed in zip(rows["model"], rows["seed"], strict=True)}
    first = {f"{name}:0" for name in set(embedded_models()["name"]) - {grid.EXPERTS}}
    least = {"ras": {"rim-mini-intent:0"}, "repairs": {"rim-mini:0"}}.get(topic, first)
    assert least <= found <= set(grid.models_of(topic))


def test_the_picture_of_the_readme_shows_every_model():
    figure = grid.picture(results("thinking"))
    said = figure.table.to_string()
    assert all(name in said for name in set(embedded_models()["name"]) - {grid.EXPERTS})
