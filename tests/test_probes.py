"""Probes find what is there, and nothing where nothing is."""

from __future__ import annotations

import families
import numpy as np
import pandas as pd
import pytest
import tiny
from sklearn.metrics import roc_auc_score

from rimkit.behavior.stats import areas, auroc
from rimkit.data import UserError
from rimkit.experiments import probes
from rimkit.models.load import load


@pytest.fixture(scope="module")
def study():
    return tiny.study()


def made(n: int, distance: float, seed: int):
    """Two layers of states: nothing in the first, two groups at a distance in the second."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    states = rng.normal(size=(2, n, 16)).astype(np.float32)
    states[1, labels, 3] += distance
    return states, labels, [f"verb-{row // 6}" for row in range(n)]


def test_auroc_is_that_of_sklearn_and_ties_count_half():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 80), rng.random(80) < 0.4
    found = auroc(scores, positive, rng.integers(0, 12, 80))
    assert found.value == pytest.approx(roc_auc_score(positive, scores))
    flipped = np.stack([np.asarray(scores), -np.asarray(scores)])
    assert areas(flipped, np.asarray(positive)) == pytest.approx([found.value, 1 - found.value])
    assert found.ci_low < found.value < found.ci_high


def test_auroc_of_separate_groups_has_an_interval_for_their_number():
    few, many = (auroc(np.arange(n), np.arange(n) >= n // 2, np.arange(n) // 2) for n in (12, 120))
    assert few.value == many.value == few.ci_high == 1
    assert few.ci_low < many.ci_low < 1


def test_auroc_intervals_hold_the_truth_as_often_as_they_say():
    """Scores with a common part per cluster; truth 0.5."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(100):
        clusters = np.repeat(np.arange(20), 8)
        positive = np.tile([True, False], 80)
        scores = rng.normal(size=20)[clusters] + rng.normal(size=160) + positive * rng.normal(size=20)[clusters]
        found = auroc(scores, positive, clusters)
        hits += found.ci_low <= 0.5 <= found.ci_high
    assert hits >= 88


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_auroc_needs_both_groups(positive):
    with pytest.raises(UserError, match="one group"):
        auroc([1, 2], positive)


def test_the_probe_is_the_papers():
    states, labels, _ = made(60, 3, 0)
    probe = probes.fit(states, labels)
    assert np.allclose(probe.vectors, states[:, labels].mean(1) - states[:, ~labels].mean(1), atol=1e-6)
    raw = np.einsum("rph,rh->rp", states, probe.vectors)
    midpoint = (raw[:, labels].mean(1) + raw[:, ~labels].mean(1)) / 2
    assert np.allclose(probe(states), raw - midpoint[:, None], atol=1e-4)
    assert np.allclose(np.linalg.norm(probe.unit, axis=-1), 1)


def test_separation_is_found_where_it_is_and_controls_find_none():
    states, labels, _ = made(120, 4, 1)
    new, truth, clusters = made(120, 4, 2)
    table = probes.separation({"last": states}, labels, {"last": new}, truth, clusters).set_index("residual")
    assert table.loc[1, "auroc"] > 0.95
    assert table.loc[1, "logistic"] > 0.95
    assert table.loc[0, "ci_low"] < 0.5 < table.loc[0, "ci_high"]
    assert table.loc[1, "shuffled"] < 0.9
    assert table.loc[1, "random"] < 0.9


def test_one_label_leaves_the_direction_undefined():
    states, labels, _ = made(10, 1, 0)
    with pytest.raises(UserError, match="same label"):
        probes.fit(states, np.ones_like(labels))


def test_the_modes_share_their_states_up_to_the_end_of_the_request(study):
    assert probes.shared_states(study, families.REQUESTS) < 1e-5
    assert probes.shared_states(study, families.REQUESTS, "last") > 1e-2


def test_trajectory_is_the_probe_at_every_token_of_the_thought(study):
    items = [study.chat.encode(text, "think", thought=f"let me check . {text}") for text in families.REQUESTS]
    states = probes.states_at(study, probes.with_first_token(items), ["thought", "thought_start"])
    probe = probes.fit(states["thought"], np.array([True, False, True]))
    table = probes.trajectory(study, items, probe, 2)
    assert table.groupby("row").size().tolist() == [
        item.spans["thought"][1] - item.spans["thought"][0] for item in items
    ]
    first = table[table["token"] == 0].set_index("row")["score"]
    assert np.allclose(first, probe(states["thought_start"])[2], atol=1e-4)
    assert np.allclose(table.groupby("row")["score"].mean(), probe(states["thought"])[2], atol=1e-4)
    with pytest.raises(UserError, match="no residual 9"):
        probes.trajectory(study, items, probe, 9)


def test_variance_is_split_between_thoughts_and_replies():
    def table(rates, samples=50):
        rng = np.random.default_rng(0)
        rows = [(f"p{i}", value) for i, rate in enumerate(rates) for value in rng.random(samples) < rate]
        return pd.DataFrame(rows, columns=["prompt_id", "refused"])

    assert probes.within_and_between(table([0.0, 1.0] * 20))["share"] == 1
    assert probes.within_and_between(table([0.5] * 40))["share"] < 0.1
    mixed = probes.within_and_between(table([0.2, 0.8] * 40))
    assert mixed["between"] == pytest.approx(0.09, abs=0.02)
    assert mixed["within"] == pytest.approx(0.16, abs=0.02)
    with pytest.raises(UserError, match="at least two replies"):
        probes.within_and_between(pd.DataFrame({"prompt_id": ["a"], "refused": [True]}))


def test_harm_is_read_in_a_trained_model_and_not_at_its_beginning():
    """Before the first layer the last token is the same in every prompt: there is nothing to read there yet."""
    from rimkit.behavior.evaluation import load_sets

    study = load("rim-mini")
    sides = {split: load_sets(["harmful", "harmless"], split=split, n=40) for split in ("calibration", "evaluation")}
    states = {
        split: probes.states_at(study, [study.chat.encode(text, "no-think") for text in table["text"]], ["last"])
        for split, table in sides.items()
    }
    labels = {split: (table["kind"] == "harmful").to_numpy() for split, table in sides.items()}
    found = probes.separation(
        states["calibration"], labels["calibration"], states["evaluation"], labels["evaluation"],
        sides["evaluation"]["cluster"],
    ).set_index("residual")  # fmt: skip
    assert found.loc[0, "auroc"] == 0.5
    assert found["auroc"].max() > 0.9
