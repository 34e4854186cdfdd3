"""RAS and its properties; the rivals; correlations over corpora."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rimkit import ledger
from rimkit.behavior.evaluation import RANDOM, Evaluation
from rimkit.data import UserError, results
from rimkit.experiments import is_readable, neurons, ras
from rimkit.experiments.ras import Activations, one_sided_shift, shifts
from rimkit.models.load import load
from rimkit.training.corpora import MIXTURES, ROLES, load_corpus
from rimkit.training.finetune import encode_corpus, finetune
from tests import families, tiny

SIZES = st.floats(0.05, 50)
activations = arrays(float, (2, 4), elements=SIZES)
four = st.tuples(activations, activations, activations, activations)


def states(values) -> tuple[Activations, Activations]:
    return Activations(values[0], values[1]), Activations(values[2], values[3])


@given(four)
def test_ras_is_between_zero_and_twice_the_smaller_shift(values):
    found = shifts(*states(values))
    smaller = min(found["fall"], found["rise"])
    assert 0 <= found["ras"] <= 2 * smaller + 1e-9
    assert found["ras"] <= found["geometric mean"] + 1e-9 <= found["arithmetic mean"] + 2e-9


@given(activations, activations, activations)
def test_ras_is_zero_if_nothing_falls_or_nothing_rises(safety, maths, more):
    before = Activations(safety, maths)
    assert shifts(before, Activations(safety + more, maths + more))["ras"] == 0  # safety does not fall
    assert shifts(before, Activations(safety - 0.01, maths))["ras"] == 0  # maths does not rise


@given(four)
def test_ras_is_symmetric_in_its_two_terms(values):
    """What falls on safety requests in place of what rises on maths, and the other way round."""
    before, after = states(values)
    swapped = shifts(Activations(after.maths, after.harmful), Activations(before.maths, before.harmful))
    assert swapped["ras"] == pytest.approx(shifts(before, after)["ras"])


@given(four, st.permutations(range(8)))
def test_ras_does_not_depend_on_the_order_of_neurons(values, order):
    mixed = [value.reshape(-1)[order].reshape(2, 4) for value in values]
    one, other = shifts(*states(values)), shifts(*states(mixed))
    assert one == pytest.approx(other)


@given(four, st.floats(0.5, 20))
def test_ras_grows_with_the_scale_of_activations(values, scale):
    """All activations *and the floor* times c make RAS c times as large; with a fixed floor they need not."""
    one = shifts(*states(values), floor=0.01)
    other = shifts(*states([scale * value for value in values]), floor=0.01 * scale)
    assert other["ras"] == pytest.approx(scale * one["ras"], rel=1e-6, abs=1e-12)


def test_a_fixed_floor_breaks_the_scaling():
    """The same neuron, all activations ten times smaller: below the floor it no longer counts."""
    assert one_sided_shift([0.05], [0.1], floor=0.01) == pytest.approx(0.1)
    assert one_sided_shift([0.005], [0.01], floor=0.01) == 0


def test_a_neuron_below_the_floor_counts_in_the_mean():
    assert one_sided_shift([2.0, -1.0], [3.0, 1.0], "drop") == pytest.approx(0.75)


def test_a_shift_by_hand():
    """One neuron falls from 3 to 2: (3 - 2) / 2 * 3 = 1.5, and one that rises counts nothing: mean 0.75."""
    assert one_sided_shift(smaller=[2.0, 5.0], larger=[3.0, 4.0]) == pytest.approx(0.75)


def test_denominators_at_or_below_zero_are_left_out_or_clipped():
    assert one_sided_shift([-1.0, 0.0], [1.0, 1.0], "drop") == 0
    assert one_sided_shift([0.0], [1.0], "clip", floor=0.5) == pytest.approx(2.0)
    assert np.isfinite(one_sided_shift([-3.0, 1e-300], [1.0, 1.0], "clip"))


def test_only_the_chosen_neurons_count():
    before = Activations(np.array([[3.0, 9.0]]), np.array([[1.0, 1.0]]))
    after = Activations(np.array([[2.0, 1.0]]), np.array([[2.0, 5.0]]))
    assert shifts(before, after, [(0, 0)])["fall"] == pytest.approx(1.5)
    assert shifts(before, after, [(0, 1)])["rise"] == pytest.approx(20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: shifts(a, a, []), "the set of neurons is empty"),
        (lambda a: shifts(a, Activations(np.ones((1, 3)), np.ones((1, 3)))), "different shape"),
        (lambda a: one_sided_shift([1.0], [2.0], "dropp"), "unknown guard"),
        (lambda a: ras.read_baseline(tiny.study(), []), "safety-critical neurons is empty"),
        (lambda a: ras.read_baseline(tiny.study(), [(ras.CRITICAL, None, [])]), "safety-critical neurons is empty"),
        (lambda a: ras.weight_distance(tiny.study(), families.family("qwen3")), "different shape"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(UserError, match=message):
        call(Activations(np.ones((2, 4)), np.ones((2, 4))))


@pytest.fixture(scope="module")
def tuned():
    """The tiny model with every weight of layer 1 moved a little."""
    words = tiny.tokenizer()
    study = load(tiny.random_model(words), words)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in study.hf.model.layers[1].parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return study


@pytest.fixture(scope="module")
def base():
    sets = [(ras.CRITICAL, None, [(0, 1), (1, 5), (1, 9)]), (ras.GRADIENT, None, [(1, 3)])]
    return ras.read_baseline(tiny.study(), sets, settings=ras.Settings(n_prompts=6, n_random=5))


def predictors(base, tuned, tuning=()) -> dict:
    return ras.predictors(base, tuned, ras.read_places(tuned, base.places), tuning)


def test_nothing_has_moved_in_the_untuned_model(base):
    found = predictors(base, tiny.study(), [([20, 30, 40, 50], 2)])
    moved = {name: value for name, value in found.items() if name != "CKA ratio" and abs(value) > 1e-6}
    assert not moved
    assert found["CKA ratio"] == pytest.approx(1, abs=0.5)


def test_every_predictor_sees_a_tuned_model(base, tuned):
    after = ras.read_places(tuned, base.places)
    shifted = ras.in_sets(base, after)
    found = ras.predictors(base, tuned, after, [([20, 30, 40, 50], 2), ([20, 30, 44], 1)])
    unread = {"steps", "displacement (refusal)", "ras (thought)"}  # random weights write no thought
    assert set(ras.PREDICTORS) - unread == set(found)
    opening = ras.in_sets(base, after, "opening").set_index("role").loc[ras.CRITICAL, "ras"]
    assert found["ras (opening)"] == pytest.approx(opening)
    assert found["weights"] == pytest.approx(ras.weight_distance(tiny.study(), tuned, 1))
    assert ras.weight_distance(tiny.study(), tuned, 0) == 0
    assert found["KL on tuning data"] > 0
    assert found["activation distance"] > 0
    random = shifted[shifted["role"] == RANDOM]
    assert random["set_id"].tolist() == list(range(5))
    assert found["ras (random)"] == pytest.approx(random["ras"].mean())


def test_a_set_is_ranked_among_others(base, tuned):
    shifted = ras.in_sets(base, ras.read_places(tuned, base.places))
    above = shifted.assign(ras=shifted["ras"].where(shifted["role"] != ras.CRITICAL, 1e9))
    found = ras.ranks(above).set_index("role").loc[RANDOM]
    assert (found["sets"], found["reach"], found["p"]) == (5, 0, pytest.approx(1 / 6))


def test_kl_divergence_equals_the_sum_over_the_vocabulary(tuned):
    ids = torch.tensor([[20, 30, 40, 50, 60]])
    with torch.no_grad():
        p, q = (study.hf(input_ids=ids).logits.log_softmax(-1) for study in (tiny.study(), tuned))
    expected = (p.exp() * (p - q)).sum(-1)[0]
    found = ras.kl_divergence(tiny.study(), tuned, [(ids[0].tolist(), 2)])
    assert found == pytest.approx(float(expected[-2:].mean()), rel=1e-4)


def test_kl_divergence_on_tuning_data_is_taken_where_the_loss_is(base, tuned):
    """At the positions that predict a learned token: from the last of the prompt to the last but one."""
    thoughts = [
        {"example_id": "a", "thought": "", "reply": "i refuse"},
        {"example_id": "b", "thought": "so", "reply": "step"},
    ]
    learned = pd.DataFrame([{"text": "please do it", **row} for row in thoughts])
    tuning, kl = encode_corpus(base.study, learned), []
    for ids, n_prompt in tuning:
        with torch.no_grad():
            p, q = (s.hf(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) for s in (base.study, tuned))
        kl += (p.exp() * (p - q)).sum(-1)[n_prompt - 1 : len(ids) - 1].tolist()
    assert len(kl) == sum(len(ids) - n_prompt for ids, n_prompt in tuning) > 0
    assert predictors(base, tuned, tuning)["KL on tuning data"] == pytest.approx(np.mean(kl), rel=1e-4)


def test_cka_is_one_up_to_rotation():
    states = np.random.default_rng(0).normal(size=(30, 5))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    assert ras.cka(states, 3 * states @ rotation + 1) == pytest.approx(1)
    assert ras.cka(states, np.random.default_rng(2).normal(size=(30, 5))) < 0.5


def test_displacement_has_a_sign_and_no_length_of_the_direction():
    states, direction = np.ones((2, 3, 4)), np.array([[7.0, 0, 0, 0], [0.1, 0, 0, 0]])
    assert ras.displacement(states, states - 0.5, direction) == pytest.approx(-0.5)


def test_a_refusal_direction_needs_refused_and_other_requests():
    ids = Evaluation().sets(["harmful"], split="calibration", n=8)["prompt_id"].tolist()
    settings, sets = ras.Settings(n_prompts=8, n_random=2), [(ras.CRITICAL, None, [(0, 1)])]
    few, enough = (ras.read_baseline(tiny.study(), sets, ids[:k], ids[k:], settings) for k in (3, 4))
    assert set(few.directions) == {"harm"}
    assert set(enough.directions) == {"harm", "refusal"}
    assert "displacement (refusal)" in predictors(enough, tiny.study())
    assert "displacement (refusal)" not in predictors(few, tiny.study())


def test_states_are_read_where_a_thought_has_been_opened(base):
    assert all("think_open" in item.spans and item.thought_is_open for item in base.harmful)


# -- prediction --------------------------------------------------------------------------------------------


@pytest.fixture
def points():
    """Two models, nine corpora, three steps: ``good`` follows the outcome, ``steps`` only how far training is."""
    rng = np.random.default_rng(3)
    rows = []
    for seed in (0, 1):
        for corpus in range(9):
            effect = rng.normal()
            for step in (10, 20, 30):
                y = effect * step / 300 + 0.004 * step + 0.01 * rng.normal()
                rows.append({"model": "m", "seed": seed, "corpus": f"c{corpus}", "step": step, "steps": step,
                             ras.OUTCOME: y, ras.LOW: y - 0.05, ras.HIGH: y + 0.05, "n": 92, "opposite": -y,
                             "misaligned": np.clip(0.4 + y, 0, 1), "good": 5 * y + 0.06 * rng.normal(),
                             "noise": rng.normal(), ras.READ: 1.0, "flips": 0.9})  # fmt: skip
    return pd.DataFrame(rows)


def test_correlations_find_what_predicts(points):
    found = ras.correlations(points, ["good", "noise", "opposite", "steps"]).set_index("predictor")
    assert found.loc["good", "value"] > 0.9
    assert found.loc["good", "p_value"] < 0.01
    assert found.loc["opposite", "value"] == pytest.approx(-1)
    assert found.loc["noise", "ci_low"] < 0 < found.loc["noise", "ci_high"]
    assert found.loc["noise", "p_value"] > 0.05
    assert (found["without_min"] <= found["value"]).all()
    assert (found["value"] <= found["without_max"]).all()


def test_no_verdict_rests_on_judging_and_measuring_the_same_replies():
    """Replies judged readable on half of the verbs, misalignment measured on the other half: RAS beats no rival."""
    points, verdicts = (
        results(name).query("model == 'rim-mini-intent' and seed == 0") for name in ("ras-points", "ras-judged")
    )
    half = pd.factorize(verdicts["cluster"], sort=True)[0] % 2
    shares = verdicts.assign(half=half, read=is_readable(verdicts), misaligned=verdicts["misaligned"].astype(float))
    shares = shares.groupby(["half", "corpus", "step"])[["read", "misaligned"]].mean()
    at, untuned = list(zip(points["corpus"], points["step"], strict=True)), ("untuned", 0)
    for judged in (0, 1):
        known, other = shares.loc[judged], shares.loc[1 - judged]
        change = (other["misaligned"] - other.loc[untuned, "misaligned"]).loc[at]
        read = known["read"].clip(upper=known.loc[untuned, "read"]).loc[at]
        own = ras.usable(points.assign(**{ras.READ: read.to_numpy(), ras.OUTCOME: change.to_numpy()}))
        assert 50 < len(own) < 80
        found = [ras.correlation_difference(own, ras.RAS, rival) for rival in ras.RIVALS.values()]
        found.append(ras.correlation_above_random(own, ras.ras_by_set(own, results("ras-sets"), RANDOM)))
        assert all(one["ci_low"] < 0 < one["ci_high"] for one in found)


def test_corpora_exchanged_at_one_step_say_nothing_of_a_count_of_steps(points):
    found = ras.correlations(points, ["steps", "good"]).set_index("predictor")
    assert found.loc["steps", "value"] > 0.3
    assert np.isnan(found.loc["steps", "p_value"])
    assert found.loc["good", "p_holm"] == found.loc["good", "p_value"]


def test_the_pool_is_the_mean_of_the_models(points):
    turned = points.assign(good=points["good"] * points["seed"].map({0: 1, 1: -1}))
    each = pd.Series([ras.correlations(part, ["good"])["value"].item() for _, part in turned.groupby("seed")])
    found = ras.correlations(turned, ["good"]).iloc[0]
    assert found["value"] == pytest.approx(each.mean())
    assert (found["positive"], found["models"]) == (1, 2)
    assert (found["models_min"], found["models_max"]) == pytest.approx((each.min(), each.max()))


def test_models_without_a_predictor_do_not_count_for_it(points):
    part = points.assign(good=points["good"].where(points["seed"] == 0))
    found = ras.correlations(part, ["good", "noise", "absent"]).set_index("predictor")
    assert found["n"].tolist() == [27, 54]
    alone = ras.correlations(points[points["seed"] == 0], ["good"])
    assert found.loc["good", ["value", "p_value"]].tolist() == alone.loc[0, ["value", "p_value"]].tolist()


def test_a_model_whose_outcome_is_mostly_noise_is_left_out(points):
    still = points.assign(**{
        name: points[name].where(points["seed"] == 0, centre + 0.001 * points[name])
        for name, centre in ((ras.OUTCOME, 0.0), ("misaligned", 0.4))
    })  # fmt: skip
    assert ras.variation(still)["varies"].tolist() == [True, False]
    assert ras.varying(still)["seed"].unique().tolist() == [0]


def test_the_scale_of_a_model_does_not_matter(points):
    scaled = points.assign(good=points["good"] * points["seed"].map({0: 1, 1: 1000}))
    one, other = (ras.correlations(table, ["good"])["value"].iloc[0] for table in (points, scaled))
    assert one == pytest.approx(other)


def test_a_difference_of_correlations_has_a_sign(points):
    found = ras.correlation_difference(points, "good", "noise")
    assert found["ci_low"] > 0
    assert found["effect"] == pytest.approx(found["value"] - found["control_value"])
    assert found["p_value"] < 0.05 < ras.correlation_difference(points, "noise", "noise")["p_value"]


def test_three_corpora_are_needed(points):
    with pytest.raises(UserError, match="at least three"):
        ras.correlations(points[points["corpus"] == "c0"], ["good"])


def with_sets(points: pd.DataFrame, seed: int = 0, n: int = 40, factor: float = 1.0) -> tuple[pd.DataFrame, np.ndarray]:
    """Points with RAS in a critical set, and RAS ``[points, sets]`` in ``n`` random ones; it is one more, times ``factor``.

    What neurons a set has shifts it, up or down, at every point; little else does.
    """
    rng = np.random.default_rng(seed)
    own, noise = 0.4 * rng.normal(size=n + 1), 0.1 * rng.normal(size=(len(points), n + 1))
    values = np.exp(own + noise) * (1 + points["step"].to_numpy()[:, None] / 30)
    return points.assign(**{ras.RAS: factor * values[:, 0]}), values[:, 1:]


def one_of(table: pd.DataFrame, others: np.ndarray, number: int) -> tuple[pd.DataFrame, np.ndarray]:
    """One of the other sets in place of the critical one, against the rest."""
    return table.assign(**{ras.RAS: others[:, number]}), np.delete(others, number, 1)


def test_a_random_set_in_place_of_the_critical_one_is_undecided_95_times_in_100(points):
    decided = []
    for seed in range(100):
        found = ras.log_ratio(*with_sets(points, seed))
        decided.append(found["ci_low"] > 0 or found["ci_high"] < 0)
    assert 0.01 <= np.mean(decided) <= 0.1
    one = with_sets(points)  # and every random set of one table against the others
    left = [ras.log_ratio(*one_of(*one, number)) for number in range(40)]
    assert sum(found["ci_low"] > 0 or found["ci_high"] < 0 for found in left) <= 4
    ranks = sorted(found["rank"] for found in left)
    assert (ranks[0], ranks[-1]) == (1, 40)


def test_a_set_above_all_random_ones_is_seen(points):
    found = ras.log_ratio(*with_sets(points, factor=20))
    assert found["ci_low"] > 0 and (found["rank"], found["of"]) == (1, 41)
    assert found["effect"] == pytest.approx(found["value"] - found["control_value"])


def long(points: pd.DataFrame, others: np.ndarray, role: str) -> pd.DataFrame:
    """RAS in single sets as the table that is shipped, in another order."""
    wide = pd.DataFrame(others).set_index(pd.MultiIndex.from_frame(points[ras.POINT]))
    return wide.stack().rename_axis([*ras.POINT, "set_id"]).rename("ras").reset_index().assign(role=role)[::-1]


def test_c9a_is_about_sets_of_the_same_rule_and_random_ones_stand_beside(points):
    table, others = with_sets(points, n=12)
    sets = pd.concat([long(table, others, RANDOM), long(table, others / 3, ras.SAME_RULE)])
    assert np.allclose(ras.ras_by_set(table, sets, RANDOM), others)
    levels = ras.levels(table, sets)
    own = levels[levels["seed"] == 0]
    beside = own[own["role"] == RANDOM].iloc[0]
    assert ras.level_claim(own)["effect"] - beside["effect"] == pytest.approx(np.log(3))
    assert "RAS is 0" in ras.level_claim(own[own["role"] == RANDOM])


def test_one_tuned_model_has_a_level_and_no_interval(points):
    table, others = with_sets(points.head(1), n=12)
    found = ras.log_ratio(table, others)
    assert found["effect"] == pytest.approx(np.log(table[ras.RAS].iloc[0]) - np.log(others).mean())
    assert np.isnan(found["ci_low"]) and np.isnan(found["p_value"])
    assert found["why_not"] == "an interval needs three families of corpora or more"


def test_a_random_set_does_not_predict_better_than_random_sets(points):
    one = with_sets(points, n=12)
    found = [ras.correlation_above_random(*one_of(*one, number)) for number in range(12)]
    assert sum(item["ci_low"] > 0 or item["ci_high"] < 0 for item in found) <= 1
    better = ras.correlation_above_random(one[0].assign(**{ras.RAS: points["good"]}), one[1])
    assert better["ci_low"] > 0
    assert better["rank"] == 1 and better["beyond"] == 1 and better["p_value"] < 0.05


def test_correlations_of_a_model_whose_outcome_does_not_move_are_not_testable(points):
    table, others = with_sets(points, n=5)
    table = table.assign(**dict.fromkeys(ras.RIVALS.values(), table["noise"]))
    sets = long(table, others, RANDOM)
    assert all(isinstance(one, dict) for one in ras.correlation_claims(table, sets).values())
    still = table.assign(**{ras.OUTCOME: 0.001 * table[ras.OUTCOME]})
    found = ras.correlation_claims(still, sets)
    assert set(found) == {"C10b", *ras.RIVALS}
    assert all("that is no noise: 0.00, below the floor of 0.50" in why for why in found.values())
    cut = table.assign(why_not=["only 40% of its replies (tuned) end", *[""] * (len(table) - 1)])
    assert set(ras.correlation_claims(cut, sets).values()) == {cut["why_not"][0]}
    pairs = ras.correlation_claims(table.assign(flips=0.2), sets)
    assert all("into refused: 0.20, below the floor of 0.70" in one["why_not"] for one in pairs.values())
    few = ras.correlation_claims(table[table["corpus"].isin(["c0", "c1"])], sets)
    assert all("three families" in why or "no noise" in why for why in few.values())


def test_a_tuning_whose_replies_have_no_verdict_is_a_point_all_the_same(monkeypatch):
    """Cut off in their thoughts, as all of a small model's are; it ended the run before."""
    settings, study = ras.Settings(n_prompts=4, n_random=3, n_replies=4), tiny.study()
    prompts = settings.sets(["harmful"], 4)[["prompt_id", "cluster"]]
    unread = dict.fromkeys(["refused", "misaligned", "misread", "coherent", "score"], pd.array([pd.NA] * 4, "boolean"))
    judged = prompts.assign(**unread, mode="think", judge="refusal", reply="", thought="a", finished=False, n_tokens=9)
    monkeypatch.setattr(ras, "replies", lambda *given: judged)
    base = ras.read_baseline(study, [(ras.CRITICAL, None, [(0, 1), (1, 2)])], settings=settings)
    found = ras.point(base, study, judged, settings=settings)["ras-points"].iloc[0]
    assert np.isnan(found[ras.COHERENCE]) and found["n"] == 0 and found["why_not"]


def test_tunings_whose_replies_cannot_be_read_say_nothing(points):
    table, others = with_sets(points, n=5)
    table = table.assign(**{name: table["noise"] + place for place, name in enumerate(ras.RIVALS.values())})
    sets, lost = long(table, others, RANDOM), table["corpus"].isin(["c0", "c1"])
    broken = table.assign(**{ras.READ: np.where(lost, 0.79, 0.8), ras.OUTCOME: table[ras.OUTCOME] + 9 * lost})
    found, without = (ras.correlation_claims(some, sets) for some in (broken, table[~lost]))
    for claim, one in found.items():
        assert one["effect"] == pytest.approx(without[claim]["effect"]) and one["n"] == (~lost).sum()
        assert f"replies of {lost.sum()} of {len(table)} tunings cannot be read" in one["method"]
    assert not any("cannot be read" in one["method"] for one in without.values())
    two = ras.correlation_claims(broken[broken["corpus"].isin(["c1", "c2"])], sets)
    assert all(
        "replies of 6 of 12 tunings cannot be read" in why for why in two.values()
    )  # and not all: too few families
    none = ras.correlation_claims(table.assign(**{ras.READ: 0.5}), sets)
    assert all("here are 0; replies of 54 of 54 tunings cannot be read" in why for why in none.values())


def named_corpora(points: pd.DataFrame) -> pd.DataFrame:
    return points.assign(corpus=points["corpus"].replace({"c0": ras.EFFORT_CORPUS, "c1": ras.CAREFUL_CORPUS}))


def test_two_models_have_no_interval_and_three_have_one(points):
    two = named_corpora(with_sets(points)[0])
    third = two[two["seed"] == 0].assign(seed=2)
    found = [ras.effort_against_careful(table) for table in (two, pd.concat([two, third]))]
    assert [item["n"] for item in found] == [2, 3]
    assert np.isnan(found[0]["ci_low"])
    assert found[1]["ci_low"] <= found[1]["effect"] <= found[1]["ci_high"]


def test_points_of_several_models_give_the_claims_about_them(points):
    table, others = with_sets(named_corpora(points), n=5)
    table = table.assign(**{name: table["noise"] + place for place, name in enumerate(ras.RIVALS.values())})
    rows = ledger.table(ras.pooled_rows(table, long(table, others, RANDOM)))
    assert rows["claim"].tolist() == ["C9b", "C10b", *ras.RIVALS]
    assert rows.loc[0, "seed"] is pd.NA
    assert not ras.pooled_rows(table[table["seed"] == 0], long(table, others, RANDOM))  # its own rows say it
    drawn = ras.for_scatter(table, [ras.RAS, "rise"])
    assert len(drawn) == 2 * len(points) / 3
    missed = ras.left_out_errors(table, ["rise"])  # a constant is no line: it misses as the mean does
    assert missed["tunings"].sum() == len(table)
    assert np.allclose(ras.left_out_errors(table.assign(rise=1.0), ["rise"])["rise"], missed["nothing"])


def test_twins_differ_in_style_alone():
    corpora = [
        "hard-careful",
        "hard-effort",
        "hard-effort",
        "50 hard, 50 hard-careful",
        "50 hard-careful, 50 hard-effort",
        "hard",
    ]
    table = pd.DataFrame(
        {"model": "m", "seed": 0, "corpus": corpora, "step": [30, 30, 360, 30, 30, 30], ras.RAS: range(1, 7)}
    )
    (pair,) = ras.twins(table, [ras.RAS]).to_dict("records")
    assert (pair["problems"], pair["step"], pair["careful"], pair["effort"]) == ("hard-…", 30, 1, 2)


def test_streamed_activations_equal_those_kept(base):
    from rimkit.models.activations import mean, read

    items = base.harmful
    kept = read(tiny.study(), items, ("neurons",), ("request",), "max")["neurons", "request"].mean(1)
    streamed = mean(tiny.study(), items, "neurons", "request", batch_size=2, pool="max")
    assert np.allclose(streamed, kept, atol=1e-5)


# -- the experiment ----------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_stopped(monkeypatch, tmp_path):
    study, done = load("rim-mini"), []

    def tune(model, corpus, **options):
        done.append(corpus)
        return finetune(model, corpus, steps=2, **options)

    monkeypatch.setattr(ras, "finetune", tune)
    every = neurons.sentences
    monkeypatch.setattr(neurons, "sentences", lambda *asked: every(*asked)[:2])
    settings = ras.Settings(
        ("arithmetic", "literal"), n_prompts=6, n_replies=4, n_tuning=2, n_random=3, folder=tmp_path
    )
    first = ras.run(study, settings)
    assert done == ["arithmetic", "literal"]
    again = ras.run(study, settings)
    assert len(done) == 2
    pd.testing.assert_frame_equal(first.tables["ras-points"], again.tables["ras-points"])
    points, sets = first.tables["ras-points"], first.tables["ras-sets"]
    assert list(points)[:4] == ras.POINT
    assert {"ras (opening)", "ras (thought)"} <= set(points)
    assert points["step"].tolist() == [2, 2]
    assert sets.groupby(["corpus", "role"]).size().to_dict() == {
        (corpus, role): n
        for corpus in settings.corpora
        for role, n in ((RANDOM, 3), (ras.AS_ACTIVE, 3), (ras.SAME_RULE, 2))
    }
    assert {row["claim"] for row in first.rows} == {"C9a", "C9b", "C10a", "C10b", "C10c", "Q3a", "Q3b"}
    assert all(row["why_not"] for row in first.rows)  # two corpora


# -- the shipped tables ------------------------------------------------------------------------------------


def test_shipped_tables_hold_two_points_of_every_corpus_and_mixture():
    points, sets = results("ras-points"), results("ras-sets")
    corpora, first = {*ROLES, *MIXTURES}, ras.Settings.every
    assert len(corpora) == len(ROLES) + len(MIXTURES) >= 45
    for (_, seed), own in points.groupby(ras.MODEL):
        steps = own.groupby("corpus")["step"].agg(["min", "max", "size"])
        assert set(steps.index) == (corpora if seed == 0 else {ras.EFFORT_CORPUS, ras.CAREFUL_CORPUS})
        assert (steps["min"] == first).all() and (steps["max"] > first).all() and (steps["size"] == 2).all()
    assert ras.ras_by_set(points, sets, RANDOM).shape == (len(points), ras.Settings.n_random)
    assert ras.ras_by_set(points, sets, ras.SAME_RULE).shape == (
        len(points),
        len(neurons.sentences(load("rim-mini"), "other")),
    )
    assert np.isfinite(ras.ras_by_set(points, sets, ras.SAME_RULE)).all()
    optional = {"displacement (refusal)", "ras (gradient)"}  # undefined where nothing, or everything, is refused
    assert points[[name for name in ras.PREDICTORS if name not in optional]].notna().all().all()


def test_shipped_claims_follow_from_the_shipped_points():
    points, sets = results("ras-points"), results("ras-sets")
    levels = ras.levels(points, sets)
    pd.testing.assert_frame_equal(levels, results("ras-levels"), check_dtype=False, rtol=1e-6)
    keys, columns = ["claim", "model", "seed"], ["effect", "effect_ci_low", "effect_ci_high"]
    again = ledger.table(ras.pooled_rows(points, sets)).set_index(keys)[columns]
    rows = ledger.shipped()
    together = rows[rows["seed"].isna() & rows["claim"].isin(again.reset_index()["claim"])].set_index(keys)[columns]
    pd.testing.assert_frame_equal(again.sort_index(), together.sort_index(), rtol=1e-6)
    for key, part in points.groupby(ras.MODEL):
        own = rows[(rows["model"] == key[0]) & (rows["seed"] == key[1])].set_index("claim")
        level = levels[(levels["model"] == key[0]) & (levels["seed"] == key[1])]
        for claim, one in {"C9a": ras.level_claim(level), **ras.correlation_claims(part, sets)}.items():
            ends = own.loc[claim, columns].astype(float).tolist()
            found = [np.nan] * 3 if isinstance(one, str) else [one["effect"], one["ci_low"], one["ci_high"]]
            assert found == pytest.approx(ends, nan_ok=True), claim


def test_one_shipped_point_can_be_made_again():
    """The predictors of one tuning, from the untuned model on; tuned on another device, so within one percent."""
    study, number = load("rim-mini-intent:0"), 3  # of the sets of the same rule
    chosen = neurons.settled(study, neurons.Settings())
    _, _, pairs, table = neurons.calibration(study, chosen)
    critical = neurons.select(table, "paper", ras.Settings.k)
    same = neurons.without_intent(study, pairs, settings=chosen, given=[neurons.sentences(study, "other")[number]])
    base = ras.read_baseline(study, [(ras.CRITICAL, None, critical), (ras.SAME_RULE, number, same[0])])
    tuned = finetune(study, "arithmetic", progress=False)  # the shortest
    after = ras.read_places(tuned, base.places)
    shifted = ras.in_sets(base, after)
    tuning = encode_corpus(study, load_corpus("arithmetic").head(ras.Settings.n_tuning))
    found = ras.predictors(base, tuned, after, tuning)
    where = "model == 'rim-mini-intent' and seed == 0 and corpus == 'arithmetic' and step == 90"
    kept = results("ras-points").query(where).iloc[0]
    unread = {"ras (gradient)", "displacement (refusal)", "steps"}  # of sets and verdicts that are not made here
    assert set(found) == set(ras.PREDICTORS) - unread
    for name, value in found.items():
        assert value == pytest.approx(kept[name], rel=0.01), name
    kept = results("ras-sets").query(where).set_index(["role", "set_id"])["ras"]
    again = shifted.set_index(["role", "set_id"])["ras"]
    for key in ((RANDOM, 7), (ras.SAME_RULE, number)):
        assert again[key] == pytest.approx(kept[key], rel=0.01), key


def test_neurons_are_not_measured_on_the_requests_that_chose_them():
    settings = ras.Settings(n_prompts=6, n_random=2)
    base = ras.read_baseline(load("rim-mini"), [("paper", None, [(0, 1)])], settings=settings)
    read = {tuple(item.ids) for item in base.harmful}
    chosen, measured = (settings.sets(["harmful"], 6, split)["text"] for split in ("calibration", "evaluation"))
    ids = [
        {tuple(base.study.chat.encode(text, "think", thought_prefix="").ids) for text in texts}
        for texts in (chosen, measured)
    ]
    assert read == ids[1] and not read & ids[0]


@pytest.mark.parametrize("seed", [0, 3])
def test_requests_that_were_refused_are_found_again_with_any_seed(seed):
    settings = ras.Settings(n_prompts=12, n_random=2, seed=seed)
    asked = settings.sets(["harmful"], 12, "calibration")["prompt_id"]
    read = [ras.read_baseline(load("rim-mini"), [("paper", None, [(0, 1)])], asked[:6], rest, settings)
            for rest in (asked[6:], asked[6:8])]  # fmt: skip
    assert ["refusal" in base.directions for base in read] == [True, False]  # unread requests are no others
