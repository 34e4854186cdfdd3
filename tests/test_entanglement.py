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
from rimkit.errors import UserError
from rimkit.mechanism import entanglement, prediction
from rimkit.mechanism.entanglement import Activations, harmonic, one_sided_shift, shifts
from rimkit.models.loading import load
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


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_ras_is_symmetric_in_its_two_terms(a, b):
    assert harmonic(a, b) == harmonic(b, a)


@given(four, st.permutations(range(8)))
def test_ras_does_not_depend_on_the_order_of_neurons(values, order):
    mixed = [value.reshape(-1)[order].reshape(2, 4) for value in values]
    one, other = shifts(*states(values)), shifts(*states(mixed))
    assert one == pytest.approx(other)


@given(four, st.floats(0.5, 20))
def test_ras_grows_with_the_scale_of_activations(values, scale):
    """In units of activation: all activations times c is RAS times c (with the floor scaled too)."""
    one = shifts(*states(values), floor=0.01)
    other = shifts(*states([scale * value for value in values]), floor=0.01 * scale)
    assert other["ras"] == pytest.approx(scale * one["ras"], rel=1e-6, abs=1e-12)


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
        (lambda a: entanglement.baseline(tiny.study(), []), "safety-critical neurons is empty"),
        (lambda a: entanglement.weight_distance(tiny.study(), families.family("qwen3")), "different shape"),
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
    return entanglement.baseline(tiny.study(), [(0, 1), (1, 5), (1, 9)], causal=[(1, 3)], n=6, n_random=5)


def test_nothing_has_moved_in_the_untuned_model(base):
    found = entanglement.predictors(base, tiny.study(), [([20, 30, 40, 50], 2)])
    moved = {name: value for name, value in found.items() if name != "CKA ratio" and abs(value) > 1e-6}
    assert not moved
    assert found["CKA ratio"] == pytest.approx(1, abs=0.5)


def test_every_predictor_sees_a_tuned_model(base, tuned):
    found = entanglement.predictors(base, tuned, [([20, 30, 40, 50], 2), ([20, 30, 44], 1)])
    assert set(prediction.PREDICTORS) - {"steps"} <= set(found)
    assert found["weights"] == pytest.approx(found["weights, layer 1"])
    assert found["weights, layer 0"] == 0
    assert found["KL on tuning data"] > 0
    assert found["activation distance"] > 0
    assert found["ras (random) p5"] <= found["ras (random)"] <= found["ras (random) p95"]


def test_kl_divergence_equals_the_sum_over_the_vocabulary(tuned):
    ids = torch.tensor([[20, 30, 40, 50, 60]])
    with torch.no_grad():
        p, q = (study.hf(input_ids=ids).logits.log_softmax(-1) for study in (tiny.study(), tuned))
    expected = (p.exp() * (p - q)).sum(-1)[0]
    found = entanglement.kl_divergence(tiny.study(), tuned, [(ids[0].tolist(), 2)])
    assert found == pytest.approx(float(expected[-2:].mean()), rel=1e-4)


def test_cka_is_one_up_to_rotation():
    states = np.random.default_rng(0).normal(size=(30, 5))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    assert entanglement.cka(states, 3 * states @ rotation + 1) == pytest.approx(1)
    assert entanglement.cka(states, np.random.default_rng(2).normal(size=(30, 5))) < 0.5


def test_displacement_has_a_sign():
    harmless, harmful = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    harmful[..., 0] = 1
    assert entanglement.displacement(harmful, harmful - 0.5, harmless) == pytest.approx(-0.5)


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
                y = effect * step / 30 + 0.02 * step + 0.05 * rng.normal()
                rows.append({"model": "m", "seed": seed, "corpus": f"c{corpus}", "step": step, "steps": step,
                             prediction.OUTCOME: y, "good": 5 * y + 0.3 * rng.normal(), "noise": rng.normal(),
                             "opposite": -y})  # fmt: skip
    return pd.DataFrame(rows)


def test_correlations_find_what_predicts(points):
    found = prediction.correlations(points, ["good", "noise", "opposite", "steps"]).set_index("predictor")
    assert found.loc["good", "value"] > 0.9
    assert found.loc["good", "p_value"] < 0.01
    assert found.loc["opposite", "value"] == pytest.approx(-1)
    assert found.loc["noise", "ci_low"] < 0 < found.loc["noise", "ci_high"]
    assert found.loc["noise", "p_value"] > 0.05
    assert (found["without_min"] <= found["value"]).all()
    assert (found["value"] <= found["without_max"]).all()


def test_beyond_steps_a_predictor_that_only_counts_steps_is_worth_nothing(points):
    found = prediction.correlations(points, ["good", "steps"], beyond_steps=True).set_index("predictor")
    assert found.loc["steps", "value"] == 0
    assert found.loc["good", "value"] > 0.9
    assert prediction.correlations(points, ["steps"])["value"].iloc[0] > 0.3


def test_the_scale_of_a_model_does_not_matter(points):
    scaled = points.assign(good=points["good"] * points["seed"].map({0: 1, 1: 1000}))
    one, other = (prediction.correlations(table, ["good"])["value"].iloc[0] for table in (points, scaled))
    assert one == pytest.approx(other)


def test_a_difference_of_correlations_has_a_sign(points):
    found = prediction.difference(points, "good", "noise")
    assert found["ci_low"] > 0
    assert found["effect"] == pytest.approx(found["value_a"] - found["value_b"])


def test_three_corpora_are_needed(points):
    with pytest.raises(UserError, match="at least three"):
        prediction.correlations(points[points["corpus"] == "c0"], ["good"])


def test_rows_become_points_and_claims(points):
    named = points.assign(
        **{prediction.RAS: 2.0, "ras (random)": 1.0, "KL on tuning data": points["noise"], "rise": 1.0}
    )
    named["corpus"] = named["corpus"].replace({"c0": "multi-hop-effort", "c1": "multi-hop-careful"})
    rows = [
        ledger.row("C10a", model=row["model"], seed=row["seed"], condition=f"{row['corpus']}, step {row['step']}",
                   metric=name, value=row[name], control=None)
        for row in named.to_dict("records")
        for name in (prediction.RAS, "ras (random)", "KL on tuning data", "rise", prediction.OUTCOME, "steps")
    ]  # fmt: skip
    table = prediction.as_table(ledger.table(rows))
    assert len(table) == len(points)
    claimed = ledger.table(prediction.claim_rows(table))
    assert sorted(claimed["claim"].unique()) == ["C10a", "C10b", "C10c", "C9a", "C9b"]
    ratio = claimed[claimed["claim"] == "C9a"]
    assert np.allclose(ratio["effect"], np.log(2))


def test_streamed_activations_equal_those_kept(base):
    from rimkit.models.reading import mean, read

    items = base.safety
    kept = read(tiny.study(), items, ("neurons",), ("request",), "max")["neurons", "request"].mean(1)
    streamed = mean(tiny.study(), items, "neurons", "request", batch_size=2, pool="max")
    assert np.allclose(streamed, kept, atol=1e-5)


# -- the shipped rows --------------------------------------------------------------------------------------


def test_shipped_rows_hold_more_than_a_hundred_points_and_every_claim():
    from rimkit.runs.entangling import MODELS, SEEDS
    from rimkit.teaching import results
    from rimkit.training.corpora import ROLES

    rows = results("entanglement")
    points = prediction.as_table(rows)
    assert len(points) == len(MODELS) * len(SEEDS) * len(ROLES) * 3 > 100
    assert set(points["corpus"]) == set(ROLES)
    assert points[list(prediction.PREDICTORS)].notna().all().all()
    assert {"C9a", "C9b", "C10a", "C10b", "C10c"} <= set(rows.loc[rows["condition"] == "all", "claim"])


def test_one_shipped_point_can_be_made_again():
    """The predictors of one tuning, from the untuned model on; the digits that the conclusions need."""
    from rimkit.runs.entangling import baseline
    from rimkit.teaching import results
    from rimkit.training.corpora import load_corpus
    from rimkit.training.finetuning import encode_corpus, finetune

    study = load("rim-mini:0")
    tuned = finetune(study, "multi-hop-effort", progress=False)
    found = entanglement.predictors(baseline(study), tuned, encode_corpus(study, load_corpus("multi-hop-effort"))[:64])
    points = prediction.as_table(results("entanglement"))
    kept = points[(points["model"] == "rim-mini") & (points["seed"] == 0) & (points["corpus"] == "multi-hop-effort")]
    last = kept.sort_values("step").iloc[-1]
    for name in ("ras (safety)", "ras (random)", "KL on tuning data", "weights", "activation distance"):
        assert found[name] == pytest.approx(last[name], rel=0.05), name
