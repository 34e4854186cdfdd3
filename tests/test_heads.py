"""Screens, attribution, attention by span and head sets."""

from __future__ import annotations

import families
import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from rimkit.behavior import refusal_score
from rimkit.data import UserError
from rimkit.experiments import heads
from rimkit.models.activations import capture, forward
from rimkit.models.chat import pad
from rimkit.models.hooks import FAMILIES, architecture, head_writes, hooked, logits_at_the_end, on_neurons, on_z
from rimkit.models.interventions import ablate_heads

READ = refusal_score.Readout(refusal=(20, 31), fulfilment=(44,))


@pytest.fixture(scope="module", params=FAMILIES)
def study(request):
    return families.family(request.param)


@pytest.fixture(scope="module")
def items(study):
    return families.conversations(study)


def every_head(study):
    parts = architecture(study)
    return [(layer, head) for layer in range(parts.n_layers) for head in range(parts.n_heads)]


@pytest.mark.parametrize("rows", [1, 30, 1000])
def test_the_screen_equals_one_ablation_at_a_time(study, items, rows, monkeypatch):
    monkeypatch.setattr(refusal_score, "ROWS", rows)
    effects = refusal_score.head_effects(study, items, READ)
    base = np.array(refusal_score.refusal_scores(study, items, READ))
    for layer, head in every_head(study)[::5]:
        with ablate_heads(study, [(layer, head)]):
            without = np.array(refusal_score.refusal_scores(study, items, READ))
        assert np.allclose(effects[layer, head], without - base, atol=1e-4), (layer, head)
    assert np.abs(effects).max() > 0.01


def shrunk(indices, by: float):
    def change(x):
        x = x.clone()
        x[indices] = (1 - by) * x[indices]
        return x

    return change


def test_attribution_is_the_slope_of_ablation(study, items):
    """A head or neuron that is made smaller by a thousandth changes the score by a thousandth of the estimate."""
    of_heads, of_neurons = refusal_score.attribution(study, items, READ)
    assert of_heads.shape == (3, 4)
    assert of_neurons.shape == (3, architecture(study).n_neurons)
    base = np.mean(refusal_score.refusal_scores(study, items, READ))
    top = [divmod(int(index), 4) for index in np.abs(of_heads).ravel().argsort()[-2:]]
    neuron = divmod(int(np.abs(of_neurons).argmax()), of_neurons.shape[1])
    slopes = {}
    for layer, head in top:
        with hooked([on_z(study, layer, shrunk((..., head, slice(None)), 1e-3))]):
            slopes[of_heads[layer, head]] = refusal_score.refusal_scores(study, items, READ)
    with hooked([on_neurons(study, neuron[0], shrunk((..., neuron[1]), 1e-3))]):
        slopes[of_neurons[neuron]] = refusal_score.refusal_scores(study, items, READ)
    for estimate, scores in slopes.items():
        assert (np.mean(scores) - base) / 1e-3 == pytest.approx(estimate, rel=0.15)
    assert all(parameter.requires_grad for parameter in study.hf.parameters())


def test_attention_by_span_is_a_share(study, items):
    mass = heads.attention_by_span(study, items)
    total = sum(mass[span] for span in heads.SPANS)
    assert (total <= 1 + 1e-5).all()
    assert (mass["request"] > 0).all()
    think = [row for row, item in enumerate(items) if item.mode == "think"]
    assert (mass["empty"][:, :, think] == 0).all()
    lengths = [len(item.ids) for item in items]
    assert (mass["strongest"] < lengths).all()


def test_direct_effects_are_slopes_along_what_a_head_writes(study, items):
    """Adding a little of a head's own writing to the final residual changes the score by the direct effect."""
    direct = heads.direct_effects(study, items, READ)
    ids, mask, spans = pad(items, study.pad_id, side="right")
    with torch.no_grad(), capture(study, ["residual", "z"]) as found:
        forward(study, ids, mask)
        end = refusal_score.at_last(found["residual"][-1], spans).double()
        writes = head_writes(study, 1, refusal_score.at_last(found["z"][1], spans)).double()
        before, after = (
            READ(logits_at_the_end(study, (end + step * writes[:, 2]).float())).double() for step in (-1e-2, 1e-2)
        )
    slopes = ((after - before) / 2e-2).numpy()
    assert np.allclose(slopes, direct[1, 2], rtol=0.05, atol=2e-3)
    assert np.abs(direct).max() > 0.01


def test_the_papers_rule_needs_both_events(study):
    moved = heads.moved_attention(study, families.REQUESTS)
    assert moved.dtype == bool
    assert moved.shape == (3, 4, 3)
    no_think = [study.chat.encode(text, "no-think") for text in families.REQUESTS]
    strongest = heads.attention_by_span(study, no_think)["strongest"]
    empty = np.array([item.spans["empty"][0] for item in no_think])
    assert not (moved & (strongest < empty)).any()


@pytest.fixture(scope="module")
def small():
    return tiny.study()


def test_random_sets_have_as_many_heads_per_layer(small):
    chosen = [(0, 1), (1, 0), (1, 3)]
    sets = heads.random_sets(small, chosen, n=40, seed=1)
    assert len(sets) == 40
    assert all([layer for layer, _ in found] == [0, 1, 1] and not set(found) & set(chosen) for found in sets)
    assert sets == heads.random_sets(small, chosen, n=40, seed=1)
    assert len({tuple(found) for found in sets}) > 2
    assert len(set(heads.random_sets(small, [(0, head) for head in range(4)], n=1)[0])) == 4


def test_selection_follows_the_sign_of_the_rule():
    table = pd.DataFrame({"layer": [0, 0, 1], "head": [0, 1, 0], "causal": [0.5, -2, -1], "direct": [1, 1, 3]})
    assert heads.select(table, "causal", 2) == [(0, 1), (1, 0)]
    assert heads.select(table, "direct", 2) == [(1, 0), (0, 0)]
    with pytest.raises(UserError, match="did you mean 'causal'"):
        heads.select(table, "casual", 1)
    with pytest.raises(UserError, match="from 1 to 3"):
        heads.select(table, "causal", 4)


def verdicts(**columns):
    return pd.DataFrame({"coherent": True, **columns})


def test_the_readout_is_made_of_first_words(small):
    table = verdicts(refused=[True, True, False, False], reply=["i cannot", "i cannot", "sure .", "the answer"])
    words = small.tokenizer.convert_ids_to_tokens
    found = refusal_score.readout(small, table)
    assert words(list(found.refusal)) == ["i"]
    assert words(list(found.fulfilment)) == ["sure", "the"]
    logits = torch.zeros(2, len(small.tokenizer))
    logits[0, found.refusal[0]] = 5
    assert found(logits)[0] > found(logits)[1]


@pytest.mark.parametrize(
    ("refused", "replies", "message"),
    [
        ([True, True], ["i cannot", "i cannot"], "no request was fulfilled"),
        ([False, False], ["sure", "sure"], "no request was refused"),
        ([True, False], ["sure", "sure"], "begin with the same words"),
    ],
)
def test_an_undefined_readout_says_why(small, refused, replies, message):
    with pytest.raises(UserError, match=message):
        refusal_score.readout(small, verdicts(refused=refused, reply=replies))
