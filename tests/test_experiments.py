"""Each experiment once through the cells of its chapter and once through `run`: the same numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from unittest.mock import MagicMock
from zlib import crc32

import pandas as pd
import pytest
from notebooks import run_cells

import rimkit
from rimkit import experiments, ledger
from rimkit.behavior import generation
from rimkit.behavior.generation import USUAL
from rimkit.data import results
from rimkit.experiments import heads, neurons, ras, repairs, tuning
from rimkit.models import activations
from rimkit.models.load import load
from rimkit.runs.plan import CHAPTERS as CHAPTERS_OF_PLAN

CHAPTERS = Path(__file__).parents[1] / "chapters"
NUMBERS = ["effect", "effect_ci_low", "effect_ci_high", "n"]

# Words of the cells on which no verdict rests; pytest runs them with each chapter, and compares their outputs.
SKIPPED = (
    "widgets.explorer", "rk.organism", "rk.recipe", "rk.exercise",
    "shortened_thoughts(", "dose.", "decided[", 'every = rk.results("th', 'every = rk.results("he', "able = every", "sums = able[", "order =", "order[", "levels[", "strange[", "sides[1:]", "later.mean()", "later=len", "i should refuse", "if paired",  # 01
    "begun_checked", "parts_checked", "by_opening", "part = counts[",  # 02
    "if base:", "shuffled_checked", "cosine_checked", "left.loc",  # 03
    "_checked and study", "readout(before)", "first = {rule", "first[", "five[", "patches", "lacking", "begun.get(", "begun.loc[",  # 04
    "openings_and", 'short["opens', "own.items()", "seen = short[", "only = {name", "**gaps", "before_and",  # 05
    "common[", "if study.invented and not reason", "flips_checked", "at.get(place",  # 06
    'rk.results("ras-', 'levels, "seed"', "ahead[", "moving", "of_ras", "turned", "guess_pairs", "every.loc[", '"percent more"]', 'values["low"]', "missed", "of_four(",  # 07
    "parts.values()", "list(parts)", 'fit["r"]', "if priced", "if front_is",  # 09
)  # fmt: skip

# What the checks of skipped cells leave: no function of a learner's is there.
UNSOLVED = dict.fromkeys(
    ["worst_checked", "set_checked", "p_checked", "find_checked", "ras_checked", "ranked", "line_checked"], False
)


@pytest.fixture
def left_by(shell, monkeypatch):
    """The names that the cells of a chapter leave, with these parameters and without figures."""
    for name in ("plot", "show"):
        monkeypatch.setattr(rimkit, name, MagicMock())
    return lambda chapter, **given: run_cells(
        shell, next(CHAPTERS.glob(f"{chapter}_*.ipynb")), SKIPPED, **UNSOLVED, **given
    )


def assert_same(one: pd.DataFrame, other: pd.DataFrame, keys: list[str], numbers: list[str]) -> None:
    sides = (table.set_index(keys)[numbers].sort_index().astype(float) for table in (one, other))
    pd.testing.assert_frame_equal(*sides, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("topic", "chapter", "parameters", "smaller"),
    [
        ("thinking", "01", {"n_prompts": 8}, {"n_competence": 2}),
        ("patterns", "02", {"n_prompts": 8, "twin": ""}, {"n_competence": 2}),
        ("probes", "03", {"n_prompts": 16, "n_random": 2}, {"n_shuffled": 4, "n_untrained": 2, "n_competence": 4}),
        ("heads", "04", {"n_prompts": 8, "n_random": 2}, {"n_asked": 8, "n_competence": 4, "n_beside": 1}),
    ],
)
def test_chapters_01_to_04_and_their_runs_give_the_same_rows(left_by, monkeypatch, topic, chapter, parameters, smaller):
    module = import_module(f"rimkit.experiments.{topic}")
    monkeypatch.setattr(module, "Settings", partial(module.Settings, **smaller))
    monkeypatch.setattr(heads, "RULES", {"paper": 1, "attention": 1, "causal": -1})  # enough to choose from
    found = left_by(chapter, **parameters)
    again = module.run(found["study"], found["settings"])
    assert all(set(results(name)) <= set(table) for name, table in again.tables.items())  # shipped, and of a run
    claimed = ledger.claims().query(f"chapter.str.startswith('{chapter}_')")["id"]
    asked = {"thinking": ["Q1a"], "patterns": ["Q4a"]}.get(topic, [])  # of the open questions
    assert [row["claim"] for row in again.rows] == [*claimed, *asked]  # a row for every claim of the chapter
    once, twice = (pd.DataFrame(rows).set_index("claim").sort_index() for rows in (found["rows"], again.rows))
    said = ["model", "mode", "metric", "control", "why_not"]
    pd.testing.assert_frame_equal(once[said], twice[said])
    numbers = ["value", "control_value", *NUMBERS]
    pd.testing.assert_frame_equal(once[numbers].astype(float), twice[numbers].astype(float), rtol=1e-12)


def test_the_plan_knows_what_a_chapter_does(left_by, monkeypatch):
    """Chapter 04 at its defaults, with replies that nobody computes, counted: `rimkit plan` is near."""
    counted, read_in_batches = Counter(), activations.shrinking

    def canned(study, items, room, *_) -> list[list[int]]:
        own = [item.mode == "think" and "think_close" not in item.spans for item in items]
        given = 0 if room == USUAL else len(own) - sum(own)  # replies of a length that is set
        counted.update(replies=(len(own) - given) * room / USUAL, tokens=given * room, read=given)
        refused = [crc32(str(item.ids).encode()) % 3 == 0 for item in items]
        said = [
            "i cannot help with that ." if one else "sure . step 1 : get the hook . step 2 : mop the barn . done ."
            for one in refused
        ]
        opened = ["" if item.thought_is_open else "<think> " for item in items]
        thoughts = [one * f"{begun}this looks easy . </think> " for one, begun in zip(own, opened, strict=True)]
        rows = study.tokenizer([a + b for a, b in zip(thoughts, said, strict=True)])["input_ids"]
        return [[*row, study.chat.end_of_turn()] for row in rows]

    def counting(study, what, lengths, *rest):
        counted["read"] += len(lengths)
        return read_in_batches(study, what, lengths, *rest)

    monkeypatch.setattr(generation, "_run_batch", canned)
    monkeypatch.setattr(activations, "shrinking", counting)
    left_by("04")
    known = CHAPTERS_OF_PLAN["04_refusal_heads"]
    planned = {"replies": known.thoughts + known.replies, "tokens": known.tokens}
    planned["read"] = known.read + known.read_thoughts + known.swept + known.gradients
    for name, number in planned.items():
        assert 0.75 < counted[name] / number < 1.33, f"{name}: {counted[name]}, planned {number}"


def test_chapter_05_and_its_run_give_the_same_numbers(left_by, monkeypatch):
    monkeypatch.setattr(tuning, "finetune", partial(tuning.finetune, steps=2))
    found = left_by("05", n_prompts=4, steps=2)
    settings = replace(found["settings"], corpora=("hard-careful", "hard-effort"), curves=())
    again = tuning.run(load("rim-mini"), settings)
    changes = again.tables["tuning-changes"].query("tuning_seed == '0' and mode == 'think'")
    for name, outcomes in found["found"].items():
        once = tuning.changes(outcomes, found["before"])
        there = changes[changes["corpus"].eq(f"hard-{name}") & changes["metric"].isin(once["metric"])]
        assert_same(once.dropna(), there.dropna(subset=["effect"]), tuning.KEYS, ["effect", "ci_low", "ci_high", "n"])
    assert [row["claim"] for row in again.rows if pd.notna(row["effect"])] == ["C6c"]
    assert len(again.rows) == len(tuning.CLAIMS) + 1
    assert_same(pd.DataFrame(found["rows"]), pd.DataFrame(again.rows), ["claim"], NUMBERS)


def test_chapter_06_and_its_run_give_the_same_numbers(left_by, monkeypatch):
    monkeypatch.setattr(neurons, "Settings", partial(neurons.Settings, n_pairs=12))
    found = left_by("06", n_prompts=4, n_random=2)
    again = neurons.run(found["study"], found["settings"])
    tables = {name.removeprefix("neurons-"): table for name, table in again.tables.items()}
    assert_same(
        found["doses"], tables["doses"], ["rule", "k", "mode", "metric"], ["value", "ci_low", "ci_high", "breaks"]
    )
    assert_same(found["chosen"], tables["sets"], ["rule"], ["k", "gain", "intact", "best"])
    zero = tables["effects"].query("ablation == 'zero'")
    effects_of = {rule: table for rule, table in found["effects"].items() if rule != "mine"}  # a learner's
    assert "paper" in effects_of
    for rule, effects in effects_of.items():
        numbers = ["effect", "ci_low", "ci_high", "share", "n_random"]
        assert_same(effects, zero[zero["rule"] == rule], ["mode", "outcome", "control"], numbers)
    assert_same(pd.DataFrame(found["rows"]), pd.DataFrame(again.rows), ["claim"], NUMBERS)


def test_chapter_07_and_its_run_give_the_same_numbers(left_by, monkeypatch):
    """All steps of the tuning, where the last checkpoint of the run is the chapter's model."""
    every = neurons.sentences
    monkeypatch.setattr(neurons, "sentences", lambda *asked: every(*asked)[:2])
    found = left_by("07", n_prompts=4, corpus="arithmetic", steps=90)
    settings = replace(found["settings"], corpora=("arithmetic",), every=90)
    again = ras.run(found["study"], settings)
    for name, keys in (("points", []), ("sets", ["role", "set_id"]), ("layers", ["layer"])):
        one, other = (tables[f"ras-{name}"] for tables in (found["result"].tables, again.tables))
        assert one.get("why_not", pd.Series()).equals(other.get("why_not", pd.Series()))  # the one column of words
        numbers = [column for column in one if column not in (*ras.POINT, *keys, "why_not")]
        assert_same(one, other, [*ras.POINT, *keys], numbers)
    assert {row["claim"] for row in again.rows} == {"C9a", "C9b", "C10a", "C10b", "C10c", "Q3a", "Q3b"}
    assert all(row["why_not"] for row in again.rows)  # one tuning says nothing about correlations
    assert_same(pd.DataFrame(found["result"].rows), pd.DataFrame(again.rows), ["claim"], NUMBERS)


def test_chapter_09_and_its_run_give_the_same_row(left_by, monkeypatch):
    monkeypatch.setattr(repairs, "finetune", partial(repairs.finetune, steps=4))
    monkeypatch.setattr(repairs, "found_again", lambda *_: "not asked")
    found = left_by("09", n_prompts=8, steps=4, begin=lambda request: "")
    again = repairs.run(found["study"], replace(found["settings"], repairs=(repairs.PREFIX,)))
    once, twice = (pd.DataFrame(rows).set_index("claim") for rows in (found["rows"], again.rows))
    assert twice.index[twice["effect"].notna()].tolist() == ["Q8d"]
    same = ["value", "control_value", *NUMBERS, "why_not"]
    pd.testing.assert_frame_equal(once.loc[["Q8d"], same], twice.loc[["Q8d"], same])


# -- the one form ------------------------------------------------------------------------------------


def test_tables_name_the_model_first_and_the_sides_as_verdict_rows_do():
    made = pd.DataFrame({"set": ["a"], "value_a": [1.0], "value_b": [0.5]})
    found = experiments.result(load("rim-mini"), {"made-up": made}, []).tables["made-up"]
    assert list(found) == ["model", "seed", "set", "value", "control_value"]
    assert found.iloc[0].tolist() == ["rim-mini", 0, "a", 1.0, 0.5]
