"""Each experiment once through the cells of its chapter and once through `run`: the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd

from rimkit.experiments import neurons, ras, tuning
from rimkit.models.load import load

CHAPTERS = Path(__file__).parents[1] / "chapters"
NUMBERS = ["effect", "effect_ci_low", "effect_ci_high", "n"]


def left_by(chapter: str, **parameters) -> dict:
    """The names that the code cells of a chapter leave, run one after the other with these parameters."""
    names: dict = {"display": lambda *_: None}
    for cell in nbformat.read(next(CHAPTERS.glob(f"{chapter}_*.ipynb")), as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"chapter {chapter}", "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                names.update(parameters)
    return names


def assert_same(one: pd.DataFrame, other: pd.DataFrame, keys: list[str], numbers: list[str]) -> None:
    sides = (table.set_index(keys)[numbers].sort_index().astype(float) for table in (one, other))
    pd.testing.assert_frame_equal(*sides, rtol=1e-4, atol=1e-6)


def test_chapter_05_and_its_run_give_the_same_numbers():
    found = left_by("05", n_prompts=4, corpus="multi-hop")
    settings = replace(found["settings"], corpora=("multi-hop",), tuning_seeds=(0,), curves=())
    again = tuning.run(load("rim-mini"), settings)
    changes = again.tables["tuning-changes"].query("tuning_seed == '0'")
    assert_same(found["change"], changes, tuning.KEYS, ["effect", "ci_low", "ci_high", "n"])
    assert [row["claim"] for row in again.rows] == ["C6a", "C6d"]
    assert_same(pd.DataFrame(found["rows"]), pd.DataFrame(again.rows), ["claim"], NUMBERS)


def test_chapter_06_and_its_run_give_the_same_numbers():
    found = left_by("06", n_prompts=4, n_random=2)
    again = neurons.run(load("rim-mini"), found["settings"])
    tables = {name.removeprefix("neurons-"): table for name, table in again.tables.items()}
    assert_same(found["doses"], tables["doses"], ["rule", "k", "mode", "metric"], ["value", "ci_low", "ci_high", "breaks"])
    assert_same(found["chosen"], tables["sets"], ["rule"], ["k", "gain", "sound", "best"])
    zero = tables["effects"].query("ablation == 'zero'")
    for rule, effects in found["effects"].items():
        numbers = ["effect", "ci_low", "ci_high", "share", "n_random"]
        assert_same(effects, zero[zero["rule"] == rule], ["mode", "outcome", "control"], numbers)
    assert_same(pd.DataFrame(found["rows"]), pd.DataFrame(again.rows), ["claim"], NUMBERS)


def test_chapter_07_and_its_run_give_the_same_numbers():
    """All steps of the tuning, where the last checkpoint of the run is the chapter's model."""
    found = left_by("07", n_prompts=4, corpus="arithmetic", steps=30)
    settings = replace(found["settings"], corpora=("arithmetic",), every=30)
    again = ras.run(load("rim-mini"), settings)
    for name, keys in (("points", []), ("sets", ["role", "set_id"]), ("layers", ["layer"])):
        one, other = (tables[f"ras-{name}"] for tables in (found["result"].tables, again.tables))
        numbers = [column for column in one if column not in (*ras.POINT, *keys)]
        assert_same(one, other, [*ras.POINT, *keys], numbers)
    assert [row["claim"] for row in again.rows] == ["C9a"]
    assert_same(pd.DataFrame(found["result"].rows), pd.DataFrame(again.rows), ["claim"], NUMBERS)
