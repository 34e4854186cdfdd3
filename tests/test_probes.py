"""Probes find what is there, and nothing where nothing is; steering changes what it should."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import families
import numpy as np
import pandas as pd
import pytest
import tiny
from sklearn.metrics import roc_auc_score

from rimkit import ledger
from rimkit.behavior.evaluation import Evaluation
from rimkit.behavior.prompts import SPLITS
from rimkit.behavior.stats import areas, auroc, auroc_above
from rimkit.data import UserError, results
from rimkit.experiments import probes
from rimkit.models import interventions
from rimkit.models.endpoint import EndpointModel
from rimkit.models.load import load, untrained

FEW = probes.Settings(24, n_untrained=4, n_random=3)
HARM = ("harm", "no-think")


def made(n: int, distance: float, seed: int):
    """Two layers of states: nothing in the first, two groups at a distance in the second."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    states = rng.normal(size=(2, n, 16)).astype(np.float32)
    states[1, labels, 3] += distance
    return states, labels, [f"verb-{row // 6}" for row in range(n)]


def side(n: int, distance: float, seed: int, spans=("im_end", "thought", "last")) -> probes.SplitStates:
    """Three residuals; the groups lie apart in the last two, at "thought" and "last" only."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 2 == 0
    states = {}
    for span in spans:
        states[span] = rng.normal(size=(3, n, 12)).astype(np.float32)
        if span != "im_end":
            states[span][1:, positive, 0] += distance
    return probes.SplitStates([], states, positive, np.array([f"verb-{row // 6}" for row in range(n)]))


# -- areas under the curve -------------------------------------------------------------------------


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


# -- probes and contrasts --------------------------------------------------------------------------


def test_the_probe_is_the_papers():
    states, labels, _ = made(60, 3, 0)
    probe = probes.fit(states, labels)
    assert np.allclose(probe.vectors, states[:, labels].mean(1) - states[:, ~labels].mean(1), atol=1e-6)
    raw = np.einsum("rph,rh->rp", states, probe.vectors)
    midpoint = (raw[:, labels].mean(1) + raw[:, ~labels].mean(1)) / 2
    assert np.allclose(probe(states), raw - midpoint[:, None], atol=1e-4)


def test_separation_is_found_where_it_is_and_controls_find_none():
    states, labels, verbs = made(120, 4, 1)
    new, truth, other = made(120, 4, 2)
    sides = [
        probes.SplitStates([], {"last": x}, y, np.array(z))
        for x, y, z in ((states, labels, verbs), (new, truth, other))
    ]
    one = probes.Contrast("harm", "no-think", "made up", *sides)
    found = probes.separated(one, "last")
    assert found["residual"] == 1
    assert found["auroc"] > found["auroc_low"] > 0.9
    assert found["logistic"] > 0.95
    assert found["shuffled"] < 0.9
    assert found["random"] < 0.9
    table = probes.areas_under_curve({HARM: one}).set_index("residual")["auroc"]
    assert table[1] == found["auroc"]
    assert table[0] == pytest.approx(0.5, abs=0.12)


def test_one_label_leaves_the_direction_undefined():
    states, labels, _ = made(10, 1, 0)
    with pytest.raises(UserError, match="one side has none"):
        probes.fit(states, np.ones_like(labels))


@pytest.fixture(scope="module")
def outcome():
    return probes.Contrast("outcome", "think", "made up", side(96, 5, 0), side(96, 5, 1))


def test_the_place_where_the_groups_differ_wins(outcome):
    assert outcome.best_residual("last") in (1, 2)
    gap = probes.outside_minus_inside(outcome)
    assert gap["outside"].tolist() == ["last", "im_end"]  # the best on calibration first: what the claim is judged by
    assert gap["calibration"].tolist() == [outcome.cross_validated(span).max() for span in gap["outside"]]
    assert (gap["value_b"] > 0.99).all()
    assert gap.loc[1, "ci_high"] < 0 and abs(gap.loc[0, "effect"]) < 0.05
    assert probes.outside_minus_inside(None).empty


def test_shuffled_labels_are_beaten_only_where_there_is_something(outcome):
    assert probes.separated(outcome, "last")["ci_low"] > 0
    assert probes.separated(outcome, "im_end")["ci_low"] < 0


def test_a_place_that_one_group_lacks_is_left_out():
    empty = side(48, 5, 1)
    empty.states["thought"][:, empty.positive] = np.nan
    assert probes.Contrast("outcome", "think", "made up", side(48, 5, 0), empty).spans == ["im_end", "last"]


def test_rows_of_the_claims():
    harm = probes.Contrast("harm", "no-think", "made up", side(48, 5, 2), side(48, 5, 3))
    spans = dict.fromkeys(probes.PROBED["think"])
    full = probes.Contrast("outcome", "think", "made up", side(48, 5, 4, spans), side(48, 5, 5, spans))
    table = probes.separations({HARM: harm, ("outcome", "think"): full}, replace(FEW, n_shuffled=8))
    last = table[(table["what"] == "harm") & (table["span"] == "last")].iloc[0]
    assert last["effect"] == pytest.approx(last["auroc"] - last["shuffled"])
    assert last["ci_low"] > 0
    undefined, apart = {("outcome", "no-think"): "nothing was refused"}, probes.outside_minus_inside(full)
    rows = probes.rows(tiny.study(), undefined, table, apart, "too large", {}, pd.DataFrame())
    judged = ledger.claims_table(ledger.table(rows)).set_index("claim")
    assert judged.index.tolist() == ["C3a", "C3b", "C3c", "C3d", "C3e", "C3f"]
    assert judged["effect"].notna().tolist() == [False, False, True, False, False, False]
    assert judged["why_not"].tolist()[:2] == ["too large", "nothing was refused"]
    assert judged.loc["C3e", "verdict"] == "not testable"


# -- states of a tiny model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return tiny.study()


def test_the_modes_share_their_states_up_to_the_end_of_the_request(small):
    items = [[small.chat.encode(text, mode) for text in families.REQUESTS] for mode in ("think", "no-think")]
    think, no_think = (probes.states_at(small, each, ["im_end", "last"]) for each in items)
    largest = {span: np.abs(think[span] - no_think[span]).max() for span in think}
    assert largest["im_end"] < 1e-5 and largest["last"] > 1e-2
    assert probes.same_until(small, families.REQUESTS) and not probes.same_until(small, families.REQUESTS, "last")


def test_trajectory_is_the_probe_at_every_token_of_the_thought(small):
    items = [small.chat.encode(text, "think", thought=f"let me check . {text}") for text in families.REQUESTS]
    states = probes.states_at(small, probes.with_first_token(items), ["thought", "thought_start"])
    probe = probes.fit(states["thought"], np.array([True, False, True]))
    table = probes.trajectory(small, items, probe, 2)
    assert table.groupby("row").size().tolist() == [
        item.spans["thought"][1] - item.spans["thought"][0] for item in items
    ]
    first = table[table["token"] == 0].set_index("row")["score"]
    assert np.allclose(first, probe(states["thought_start"])[2], atol=1e-4)
    assert np.allclose(table.groupby("row")["score"].mean(), probe(states["thought"])[2], atol=1e-4)
    with pytest.raises(UserError, match="no residual 9"):
        probes.trajectory(small, items, probe, 9)


# -- an embedded model -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study():
    return load("rim-mini")


@pytest.fixture(scope="module")
def verdicts(study):
    return probes.observed(study, FEW)


@pytest.fixture(scope="module")
def found(study, verdicts):
    return probes.contrasts(study, verdicts)[0]


def test_harm_is_read_in_a_trained_model_and_not_at_its_beginning(found):
    """Before the first layer the last token is the same in every prompt: there is nothing to read there yet."""
    table = probes.areas_under_curve({HARM: found[HARM]})
    last = table[table["span"] == "last"].set_index("residual")["auroc"]
    assert last[0] == 0.5
    assert last.max() > 0.9


def test_contrasts_of_a_trained_model(study, verdicts, found):
    assert {("harm", mode) for mode in ("think", "no-think")} <= set(found)
    assert len(found) + len(probes.contrasts(study, verdicts)[1]) == 4
    harm = found["harm", "think"]
    assert not set(harm.calibration.clusters) & set(harm.evaluation.clusters)  # verbs of one split alone
    assert probes.separated(harm, "last")["auroc"] > 0.9
    shares = probes.above_threshold({("harm", "think"): harm}, verdicts)
    shares = shares.set_index(["group", "span", "residual"])["value"]
    assert shares["harmless", "last", 5] < 0.2
    assert shares["refused", "last", 5] > 0.8


def test_a_shipped_row_is_what_the_shipped_model_gives(study):
    """Harm at the last token, no-think mode, by the grid's settings; it was computed on another device."""
    every = probes.Settings(None)
    asked = [every.sets(["harmful", "harmless"], split=split).assign(split=split) for split in SPLITS]
    harm = probes.contrast(study, pd.concat(asked).assign(mode="no-think", thought=""), *HARM)
    found = probes.separated(harm, "last", every)
    where = "model == 'rim-mini' and seed == 0 and what == 'harm' and mode == 'no-think' and span == 'last'"
    shipped = results("probes").query(where).iloc[0]
    for name in ("auroc", "auroc_low", "logistic", "shuffled", "effect"):
        assert found[name] == pytest.approx(shipped[name], abs=5e-3), name


def test_harm_is_read_above_random_weights_only_in_a_model_that_learned_it(study, verdicts, found):
    learned = probes.above_untrained(study, found[HARM], FEW)
    assert learned["value_a"] > 0.95 > learned["value_b"] > 0.5  # words alone say something
    assert learned["ci_low"] > 0
    assert learned["beyond"] == 1 and learned["p_value"] < 0.05
    noise = untrained(study, seed=100)
    nothing = probes.above_untrained(noise, probes.contrast(noise, verdicts, *HARM), FEW)
    assert nothing["ci_low"] < 0 < nothing["ci_high"]


def test_no_control_is_a_model_of_noise():
    """The controls of C3a must not hold the models on which the claim is tried."""
    import torch

    noise = load("noise-mini:0")
    draws = [untrained(noise, seed) for seed in probes.untrained_seeds(noise, probes.Settings())]
    shipped = [load(f"noise-mini:{seed}") for seed in range(3)]
    for one in draws:
        for other in shipped:
            assert not torch.allclose(one.hf.lm_head.weight, other.hf.lm_head.weight, atol=0.01)


def test_random_weights_that_do_not_fit_leave_the_claim_out(study, found, monkeypatch):
    monkeypatch.setattr("rimkit.models.device.free_bytes", lambda device: 1000)
    said = "not held against random weights: 6 layers of random weights like those of rim-mini:0 take"
    assert said in probes.above_untrained(study, found[HARM])


def test_each_model_meets_random_weights_of_its_own():
    names = [f"{name}:{seed}" for name in ("rim-mini", "safe-mini", "rim-mini-unlinked") for seed in range(5)]
    draws = [set(probes.untrained_seeds(replace(tiny.study(), name=name), probes.Settings())) for name in names]
    assert len(set.union(*draws)) == sum(map(len, draws)) and min(set.union(*draws)) >= probes.FIRST_DRAW


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


def test_the_outcome_is_read_where_thoughts_part_and_not_before(study, verdicts):
    """Thoughts that differ in their last sentence alone, whatever was asked."""
    odd = pd.Series(np.arange(len(verdicts)) % 2 == 1, index=verdicts.index)
    said = odd.map({True: "i should refuse .", False: "go ahead ."})
    planted = verdicts.assign(thought="the user wants to know . " + said, refused=odd, misaligned=~odd)
    one = probes.contrast(study, planted, "outcome", "think")
    first, last = (probes.separated(one, span, FEW) for span in ("thought_start", "last"))
    assert last["auroc"] > 0.95 and first["auroc_low"] < 0.5 < first["auroc_high"]


# -- steering --------------------------------------------------------------------------------------


def test_removing_harm_undoes_refusals_and_random_directions_do_not(study, found):
    used = probes.directions({HARM: found[HARM]})
    verdicts = probes.without_directions(study, used, replace(FEW, n_prompts=23))
    rates = verdicts.groupby("condition")["refused"].mean()
    assert set(rates.index) == {"nothing", "harm", "random 0", "random 1", "random 2"}
    assert rates["harm"] < 0.5 < rates["random 0"]
    effect = probes.removal_effects(verdicts)
    assert effect["direction"].tolist() == ["harm"]
    assert effect.loc[0, "effect"] == pytest.approx(rates["harm"] - rates.filter(like="random").mean())
    able = probes.competence(study, used, replace(FEW, n_competence=12))
    assert able.index.tolist() == ["harm"] and able.loc["harm"].between(0, 1.01).all()
    by_metric = {"refused": effect, "misaligned": probes.removal_effects(verdicts, "misaligned")}
    rows = probes.rows(study, {}, pd.DataFrame(), pd.DataFrame(), "not asked", by_metric, able)
    rows = {row["claim"]: row for row in rows}
    assert rows["C3e"]["effect"] == effect.loc[0, "effect"] and rows["C3e"]["beyond"] == 1
    assert rows["C3f"]["effect"] > 0.5 and rows["C3d"]["why_not"] == "nothing was steered"
    broken = probes.rows(study, {}, pd.DataFrame(), pd.DataFrame(), "not asked", by_metric, able.assign(answered=0.5))
    assert {row["claim"]: row["competent"] for row in broken}["C3f"] is False
    assert probes.removal_effects(probes.without_directions(study, {})).empty


def test_the_place_to_add_keeps_replies_coherent():
    places = pd.DataFrame({
        "residual": [1, 1, 2], "scale": [0.5, 1.0, 1.0], "refused": [0.4, 0.9, 0.6], "coherent": [1.0, 0.2, 0.95],
    })  # fmt: skip
    assert probes.best_place(places) == (2, 1.0)
    assert probes.best_place(places.assign(coherent=[0.3, 0.2, 0.1])) == (1, 0.5)


def test_steering_all_at_once_is_steering_one_by_one(study, found):
    """Together in one batch: the same replies as with the plain contexts, and the untouched model's."""
    probe = found[HARM].probe("last")
    assert not probe.vectors[0].any()  # the last token of a template is the same in all requests
    nothing, at_2 = np.zeros((2, 1, *probe.vectors.shape), dtype=np.float32)
    at_2[0, 2] = probe.vectors[2]
    asked = Evaluation().sets(["harmful"], n=6)
    conditions = {
        "nothing": probes.unchanged(probe),
        "removed": probes.removed(probe),
        "added": probes.added(probe, 2, 1.0),
    }
    contexts = {
        "nothing": nullcontext,
        "removed": lambda: interventions.steer_per_row(study, probe.vectors[None], nothing),
        "added": lambda: interventions.steer_per_row(study, nothing, at_2),
    }
    columns = ["condition", "prompt_id", "reply"]
    together = probes.steer(study, asked, conditions, max_new_tokens=24)[columns].sort_values(columns)
    tables = []
    for name, context in contexts.items():
        with context():
            one = Evaluation().judged(study, asked, "no-think", max_new_tokens=24, progress=False)
            tables.append(one.assign(condition=name))
    apart = pd.concat(tables)[columns].sort_values(columns)
    pd.testing.assert_frame_equal(together.reset_index(drop=True), apart.reset_index(drop=True))
    assert together.groupby("prompt_id")["reply"].nunique().max() > 1
