"""Contrasts, steering and sets of heads: what they measure on made-up states and on a trained model."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import tiny
from sklearn.metrics import roc_auc_score

from rimkit import ledger
from rimkit.behavior import evaluation
from rimkit.behavior.evaluation import load_sets
from rimkit.behavior.stats import auroc_above
from rimkit.data import UserError
from rimkit.experiments import heads, probes
from rimkit.models import interventions
from rimkit.models.endpoint import EndpointModel
from rimkit.models.load import load, untrained


def side(n: int, distance: float, seed: int, spans=("im_end", "thought", "last")) -> probes.Side:
    """Three residuals; the groups lie apart in the last two, at "thought" and "last" only."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 2 == 0
    states = {}
    for span in spans:
        states[span] = rng.normal(size=(3, n, 12)).astype(np.float32)
        if span != "im_end":
            states[span][1:, positive, 0] += distance
    return probes.Side([], states, positive, np.array([f"verb-{row // 6}" for row in range(n)]))


@pytest.fixture(scope="module")
def outcome():
    return probes.Contrast("outcome", "think", "made up", side(96, 5, 0), side(96, 5, 1))


def test_a_score_above_its_controls():
    rng = np.random.default_rng(0)
    positive, clusters = np.arange(120) % 2 == 0, np.arange(120) // 6
    good, noise = positive * 2 + rng.normal(size=120), rng.normal(size=(20, 120))
    found = auroc_above(good, noise, positive, clusters)
    areas = [roc_auc_score(positive, row) for row in noise]
    assert found.value_a == pytest.approx(roc_auc_score(positive, good))
    assert found.value_b == pytest.approx(np.mean([max(area, 1 - area) for area in areas]))
    assert found.ci_low > 0
    plain = auroc_above(noise[0], noise[1:2], positive, clusters, either_side=False)
    assert plain.effect == pytest.approx(areas[0] - areas[1])
    assert plain.ci_low < 0 < plain.ci_high


def test_the_place_where_the_groups_differ_wins(outcome):
    assert outcome.best_residual("last") in (1, 2)
    gap = probes.outside_and_inside(outcome)
    assert gap["value_b"] > 0.99
    assert gap["ci_high"] < 0
    again = probes.outside_and_inside(outcome, outside="thought", inside="im_end")
    assert again["effect"] == pytest.approx(-gap["effect"])


def test_shuffled_labels_are_beaten_only_where_there_is_something(outcome):
    assert probes.separated(outcome, "last")["ci_low"] > 0
    nothing = probes.separated(outcome, "im_end")
    assert nothing["ci_low"] < 0


def test_rows_of_the_claims(outcome):
    harm = probes.Contrast("harm", "no-think", "made up", side(48, 5, 2), side(48, 5, 3))
    spans = dict.fromkeys(probes.SPANS["think"]) | dict.fromkeys(probes.SPANS["no-think"])
    full = probes.Contrast("outcome", "think", "made up", side(48, 5, 4, spans), side(48, 5, 5, spans))
    found = {("harm", "no-think"): harm, ("outcome", "think"): full}
    rows = ledger.table(probes.probe_rows(found, model="made-up", seed=0))
    whole = rows[rows["condition"] == ledger.WHOLE_CLAIM].set_index("claim")
    assert set(whole.index) == {"C3c"}  # the outcome is undefined in no-think mode: no row for C3b
    last = rows[(rows["claim"] == "C3a") & (rows["condition"] == "no-think, last")].iloc[0]
    assert last["control"] == "shuffled labels"
    assert last["effect_ci_low"] > 0
    assert set(ledger.claims_table(rows)["claim"]) == {"C3c"}


@pytest.fixture(scope="module")
def study():
    return load("rim-mini")


@pytest.fixture(scope="module")
def verdicts(study):
    return probes.observed(study, 24)


def test_contrasts_of_a_trained_model(study, verdicts):
    found, undefined = probes.contrasts(study, verdicts)
    assert {("harm", mode) for mode in ("think", "no-think")} <= set(found)
    assert len(found) + len(undefined) == 4
    harm = found["harm", "think"]
    assert not set(harm.calibration.clusters) & set(harm.evaluation.clusters)  # verbs of one split alone
    assert probes.separated(harm, "last")["value_a"] > 0.9
    shares = probes.above_threshold(harm, verdicts).set_index(["group", "span", "residual"])["above"]
    assert shares["harmless", "last", 5] < 0.2
    assert shares["refused", "last", 5] > 0.8


def test_harm_is_read_above_random_weights_only_in_a_model_that_learned_it(study, verdicts):
    harm = probes.contrast(study, verdicts, "harm", "no-think")
    learned = probes.above_untrained(study, harm, draws=4)
    assert learned["value_a"] > 0.95 > learned["value_b"] > 0.5  # words alone say something
    assert learned["ci_low"] > 0
    row = ledger.table(probes.harm_rows(study, {("harm", "no-think"): harm}, model="made-up", seed=0))
    assert ledger.claims_table(row)["verdict"].tolist() == ["supported"]
    noise = untrained(study, seed=100)
    nothing = probes.above_untrained(noise, probes.contrast(noise, verdicts, "harm", "no-think"), draws=4)
    assert nothing["ci_low"] < 0 < nothing["ci_high"]


def test_no_control_is_a_model_of_noise():
    """The controls of C3a must not hold the models on which the claim is tried."""
    import torch

    noise = load("noise-mini:0")
    draws = [untrained(noise, probes.FIRST_DRAW + draw) for draw in range(probes.UNTRAINED)]
    shipped = [load(f"noise-mini:{seed}") for seed in range(3)]
    for one in draws:
        for other in shipped:
            assert not torch.allclose(one.hf.lm_head.weight, other.hf.lm_head.weight, atol=0.01)


def test_random_weights_that_do_not_fit_leave_the_claim_out(study, verdicts, monkeypatch, capsys):
    harm = probes.contrast(study, verdicts, "harm", "no-think")
    monkeypatch.setattr("rimkit.models.load.free_bytes", lambda device: 1000)
    assert probes.harm_rows(study, {("harm", "no-think"): harm}, model="x") == []
    assert "C3a is left out: 6 layers of random weights like those of rim-mini:0 take" in capsys.readouterr().out


def test_an_endpoint_is_refused_before_it_is_asked_for_anything():
    with pytest.raises(UserError, match="runs behind an endpoint"):
        probes.observed(EndpointModel("endpoint:m", None))


def test_an_untrained_model_has_the_shape_and_none_of_the_weights(study):
    one, same, other = (untrained(study, seed, layers=2) for seed in (0, 0, 1))
    assert one.hf.config.num_hidden_layers == len(one.hf.config.layer_types) == 2
    assert study.hf.config.num_hidden_layers == 6  # left as it was
    assert one.chat.thinking == study.chat.thinking
    weights = [made.hf.model.layers[1].mlp.up_proj.weight for made in (one, same, other, study)]
    assert (weights[0] == weights[1]).all()
    assert not any((weights[0] == weight).all() for weight in weights[2:])


def test_an_undefined_outcome_says_what_was_refused(study, verdicts):
    always = verdicts.assign(refused=True, misaligned=False)
    with pytest.raises(UserError, match=r"undefined in think mode \(harmful: 48 of 48 refused"):
        probes.contrast(study, always, "outcome", "think")
    found, undefined = probes.contrasts(study, always)
    assert set(found) == {("harm", "think"), ("harm", "no-think")}
    assert len(undefined) == 2


def test_the_outcome_is_read_along_the_thought(study, verdicts):
    found, _ = probes.contrasts(study, verdicts)
    one = found["outcome", "think"]
    path = probes.along_the_thought(study, one, [one])
    assert path["part"].between(0, 1).all()
    assert path["value"].max() > 0.8
    assert (path["ci_low"] <= path["value"]).all()


def test_removing_harm_undoes_refusals_and_random_directions_do_not(study, verdicts):
    probe = probes.contrast(study, verdicts, "harm", "no-think").probe("last")
    asked = load_sets(["harmful"], n=23)
    conditions = probes.with_random(probes.removed, probe, 3)
    found = probes.under(study, asked, conditions, ["no-think"], max_new_tokens=32, progress=False)
    rates = found.groupby("condition")["refused"].mean()
    assert rates["selected"] < 0.5 < rates["random 0"]
    row = probes.steering_row("C3e", found, model="rim-mini", mode="no-think")
    assert row["effect"] == pytest.approx(rates["selected"] - rates.filter(like="random").mean())


def test_the_place_to_add_keeps_replies_coherent():
    places = pd.DataFrame({
        "residual": [1, 1, 2], "scale": [0.5, 1.0, 1.0], "refused": [0.4, 0.9, 0.6], "coherent": [1.0, 0.2, 0.95],
    })  # fmt: skip
    assert probes.best_place(places) == (2, 1.0)
    assert probes.best_place(places.assign(coherent=[0.3, 0.2, 0.1])) == (1, 0.5)


# -- sets of heads -----------------------------------------------------------------------------------------


def test_the_best_set_is_specific():
    choices = pd.DataFrame({
        "rule": ["none", "causal", "causal", "paper"], "k": [0, 1, 2, 1], "heads": [[], [(0, 1)], [(0, 1), (0, 2)], [(1, 1)]],
        "refused": [1.0, 0.7, 0.0, 1.0], "specific": [False, True, False, True],
    })  # fmt: skip
    assert heads.best(choices)["heads"] == [(0, 1)]
    assert heads.best(choices, "paper")["heads"] == [(1, 1)]
    assert heads.best(choices.assign(specific=False))["k"] == 1
    with pytest.raises(UserError, match="'direct' selects no head"):
        heads.best(choices, "direct")


def test_choosing_runs_every_rule_and_keeps_the_untouched_model_first():
    small = tiny.study()
    prompts = load_sets(["harmful", "harmless"], split="calibration", n=4)
    places = [(layer, head) for layer in range(2) for head in range(4)]
    table = pd.DataFrame(places, columns=["layer", "head"]).assign(
        paper=0.0, attention=0.1, direct=0.1, causal=-0.1, gradient=0.1
    )
    choices = heads.choose(small, table, prompts, max_new_tokens=4, progress=False)
    assert choices.iloc[0][["rule", "k"]].tolist() == ["none", 0]
    assert set(choices["rule"]) == {"none", "attention", "direct", "causal"}  # paper and gradient pick no head
    assert (choices["heads"].map(len) == choices["k"]).all()


def test_heads_are_blinded_where_it_is_said(study):
    asked = load_sets(["harmful"], n=6)
    found = heads.cut_replies(study, asked, [(0, 3)], n_random=2, progress=False)
    assert list(found["condition"].unique()) == [
        "nothing",
        "selected",
        "random 0",
        "random 1",
        "all heads",
        "all heads, before",
    ]
    assert found.groupby("prompt_id")["thought"].nunique().eq(1).all()
    hidden = evaluation._hidden({"thought": (20, 26), "think_open": (18, 19)}, evaluation.BEFORE_THOUGHT)
    assert hidden == (12, 18)


def test_looking_counts_what_stands_between_the_tags(study):
    asked = load_sets(["harmful"], n=6)
    sets = heads.with_random(study, [(2, 5)], 4)
    empty, filler = (heads.looking(study, asked, sets, text) for text in (None, ". . . ."))
    assert set(empty["condition"]) == {"selected", "random 0", "random 1", "random 2", "random 3"}
    assert empty["between"].between(0, 1).all()
    assert not np.allclose(empty["between"], filler["between"])
    assert heads.looking_row(empty, model="rim-mini")["claim"] == "C4b"


def test_one_shipped_row_of_the_heads_is_computed_again(study):
    """C4a of rim-mini:0, from the attention patterns alone."""
    shipped = ledger.shipped()
    row = shipped[(shipped["claim"] == "C4a") & (shipped["model"] == "rim-mini") & (shipped["seed"] == 0)].iloc[-1]
    found = heads.moves_row(heads.moves(study, load_sets(["harmful", "harmless"], n=46)), model="rim-mini")
    assert found["value"] == pytest.approx(row["value"], abs=1e-3)
    assert found["effect"] == pytest.approx(row["effect"], abs=1e-3)


def test_steering_all_at_once_is_steering_one_by_one(study, verdicts):
    """Together in one batch: the same replies as with the plain contexts, and the untouched model's."""
    probe = probes.contrast(study, verdicts, "harm", "no-think").probe("last")
    assert not probe.vectors[0].any()  # the last token of a template is the same in all requests
    filled = np.where(probe.vectors.any(-1, keepdims=True), probe.vectors, 1.0)
    asked = load_sets(["harmful"], n=6)
    settings = {"modes": ["no-think"], "max_new_tokens": 24, "progress": False}
    conditions = {
        "nothing": probes.unchanged(probe),
        "removed": probes.removed(probe),
        "added": probes.added(probe, 2, 1.0),
    }
    contexts = {
        "nothing": nullcontext,
        "removed": lambda: interventions.remove_direction(study, filled, range(1, len(filled))),
        "added": lambda: interventions.add_direction(study, probe.vectors[2], [2]),
    }
    columns = ["condition", "prompt_id", "reply"]
    together = probes.under(study, asked, conditions, **settings)[columns].sort_values(columns)
    apart = evaluation.under(study, asked, contexts, **settings)[columns].sort_values(columns)
    pd.testing.assert_frame_equal(together.reset_index(drop=True), apart.reset_index(drop=True))
    assert together.groupby("prompt_id")["reply"].nunique().max() > 1
