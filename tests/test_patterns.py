"""Beginnings of thoughts: where they are put, and what follows from the model's own ones."""

from __future__ import annotations

import pandas as pd

from rimkit.behavior.evaluation import Evaluation, difference
from rimkit.behavior.prompts import openings
from rimkit.experiments import patterns
from rimkit.models.load import load


def test_injected_beginnings_are_where_the_thought_begins():
    study, harmful = load("rim-mini"), Evaluation().sets(["harmful"], n=4)
    table = patterns.injected(study, harmful)
    sentences = openings().groupby("pattern")["text"].agg(tuple)
    assert set(table["pattern"]) == {"none", *sentences.index}
    for row in table[table["pattern"] != "none"].itertuples():
        assert row.thought.startswith(sentences[row.pattern])


def test_openings_are_those_of_the_replies_without_injection():
    thought = ["let me check . a", "surely i know . b", "surely i know . c", "hm", "let me check . d"]
    table = pd.DataFrame({"pattern": ["none"] * 4 + ["careful"], "thought": thought})
    assert list(patterns.own_openings(table)["opening"]) == ["careful", *["effort-minimising"] * 2, "other"]


def test_pooled_patterns_are_averaged_by_prompt():
    table = pd.DataFrame({
        "prompt_id": ["a", "a", "b", "b", "a", "b"], "cluster": ["x", "x", "y", "y", "x", "y"],
        "style": ["hot"] * 4 + ["cold"] * 2, "misaligned": [1, 0, 1, 1, 0, 1],
    })  # fmt: skip
    effect = difference(table, "style", "hot", "cold")
    assert (effect["value_a"], effect["value_b"], effect["n"]) == (0.75, 0.5, 2)
