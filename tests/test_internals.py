"""Reads and interventions against plain hooks, edited weights and eager attention, on every supported family."""

from __future__ import annotations

import families
import numpy as np
import pytest
import tiny
import torch

from rimkit.data import UserError
from rimkit.models import activations, hooks, interventions
from rimkit.models.chat import pad
from rimkit.models.load import load


@pytest.fixture(scope="module", params=hooks.FAMILIES)
def study(request):
    return families.family(request.param)


@pytest.fixture(scope="module")
def items(study):
    return families.conversations(study)


@pytest.fixture(scope="module")
def batch(study, items):
    return pad(items, study.pad_id, side="right")


def last_logits(study, batch):
    ids, mask, spans = batch
    with torch.no_grad():
        logits = study.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return torch.stack([logits[row, place["last"][0]] for row, place in enumerate(spans)])


def is_moe(study) -> bool:
    return hooks.architecture(study).n_experts > 0


def down_columns(study, layer, neurons):
    """The weights that carry these neurons: ``(tensor, index)`` whose zero switches them off."""
    mlp = study.hf.model.layers[layer].mlp
    if not is_moe(study):
        return [(mlp.down_proj.weight, (slice(None), neuron)) for neuron in neurons]
    weights = mlp.experts.down_proj
    width = weights.shape[-1]
    return [(weights, (neuron // width, slice(None), neuron % width)) for neuron in neurons]


class zeroed:
    """Weights set to zero within a block."""

    def __init__(self, places):
        self.places = places

    def __enter__(self):
        self.kept = [(tensor, index, tensor.data[index].clone()) for tensor, index in self.places]
        for tensor, index in self.places:
            tensor.data[index] = 0

    def __exit__(self, *_):
        for tensor, index, value in self.kept:
            tensor.data[index] = value


def test_reading_equals_plain_hooks(study, batch):
    ids, mask, _ = batch
    layers, seen = study.hf.model.layers, {}
    handles = [layers[1].register_forward_hook(lambda m, a, out: seen.update(layer=out))]
    handles.append(layers[2].self_attn.o_proj.register_forward_pre_hook(lambda m, args: seen.update(z=args[0])))
    with torch.no_grad(), activations.capture(study) as found:
        states = study.hf.model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    layer_out = seen["layer"][0] if isinstance(seen["layer"], tuple) else seen["layer"]
    assert torch.equal(found["residual"][2], layer_out)
    assert torch.equal(found["z"][2].flatten(-2), seen["z"])
    for ours, theirs in zip(found["residual"][:-1], states.hidden_states[:-1], strict=True):
        assert torch.equal(ours, theirs)
    assert [len(found[kind]) for kind in activations.INTERNALS] == [4, 3, 3]
    with torch.no_grad():
        mlp = layers[0].mlp
        if is_moe(study):
            assert found["neurons"][0].shape[-1] == 4 * mlp.experts.down_proj.shape[-1]
            active = (found["neurons"][0].unflatten(-1, (4, -1)) != 0).any(-1).sum(-1)
            assert (active[mask.bool()] == 2).all()
        else:
            gate = layers[0].mlp.down_proj(found["neurons"][0])
            out = {}
            handle = mlp.register_forward_hook(lambda m, a, o: out.update(mlp=o))
            study.hf.model(input_ids=ids, attention_mask=mask, use_cache=False)
            handle.remove()
            assert torch.allclose(gate, out["mlp"], atol=1e-5)


def test_what_heads_write_adds_up_to_what_attention_adds(study, batch):
    ids, mask, _ = batch
    layer, seen = study.hf.model.layers[1], {}
    block = layer.post_attention_layernorm if study.hf.config.model_type in hooks.NORMALISED_AFTER else layer.self_attn
    handle = block.register_forward_hook(lambda m, a, out: seen.update(added=out[0] if isinstance(out, tuple) else out))
    with torch.no_grad(), hooks.hooked([handle]), activations.capture(study, ["z"]) as found:
        activations.forward(study, ids, mask)
        writes = hooks.head_writes(study, 1, found["z"][1])
    assert writes.shape == (*ids.shape, 4, 32)
    assert torch.allclose(writes.sum(-2), seen["added"], rtol=1e-3, atol=1e-4)


def test_given_z_takes_the_place_of_attention(study, batch):
    ids, mask, _ = batch
    base = last_logits(study, batch)
    with torch.no_grad(), activations.capture(study, ["z"]) as found:
        activations.forward(study, ids, mask)
    z = found["z"][1].clone()
    with hooks.given_z(study, 1, z):
        assert torch.equal(last_logits(study, batch), base)
    with hooks.given_z(study, 1, 0 * z):
        assert not torch.allclose(last_logits(study, batch), base, atol=1e-3)
    assert torch.equal(last_logits(study, batch), base)


def test_nnsight_sees_the_same(study, batch):
    ids, mask, _ = batch
    with torch.no_grad(), activations.capture(study) as found:
        study.hf(input_ids=ids, attention_mask=mask)
    with torch.no_grad(), study.nn.trace({"input_ids": ids, "attention_mask": mask}):
        z = study.nn.model.layers[1].self_attn.o_proj.input.save()
    assert torch.allclose(z, found["z"][1].flatten(-2), atol=1e-5)


def test_the_wrappers_of_nnsight_are_gone_for_a_while_and_come_back(study, batch):
    def wrapped():
        return [module for module in study.hf.modules() if "forward" in module.__dict__]

    before, expected = wrapped(), last_logits(study, batch)
    assert before
    with pytest.raises(KeyboardInterrupt), hooks.untraced(study.hf):
        assert not wrapped()
        torch.testing.assert_close(last_logits(study, batch), expected)
        raise KeyboardInterrupt
    assert wrapped() == before
    ids = batch[0]
    with torch.no_grad(), study.nn.trace(ids):
        seen = study.nn.model.layers[0].output.save()
    assert torch.isfinite(seen).all()


def test_ablated_heads_equal_edited_weights(study, batch):
    heads, parts = [(0, 1), (2, 0), (2, 3)], hooks.architecture(study)
    width = parts.head_dim
    places = [
        (study.hf.model.layers[layer].self_attn.o_proj.weight, (slice(None), slice(head * width, (head + 1) * width)))
        for layer, head in heads
    ]
    base = last_logits(study, batch)
    with zeroed(places):
        expected = last_logits(study, batch)
    with interventions.ablate_heads(study, heads):
        found = last_logits(study, batch)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, base, atol=1e-3)
    assert torch.equal(last_logits(study, batch), base)


def test_ablated_neurons_equal_edited_weights(study, batch):
    neurons = [(0, 3), (1, 0), (1, 47)]
    places = [place for layer, neuron in neurons for place in down_columns(study, layer, [neuron])]
    base = last_logits(study, batch)
    with zeroed(places):
        expected = last_logits(study, batch)
    with interventions.ablate_neurons(study, neurons):
        found = last_logits(study, batch)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, base, atol=1e-4)
    assert torch.equal(last_logits(study, batch), base)


def test_attention_rows_equal_eager(study, batch):
    ids, mask, spans = batch
    queries = torch.tensor([[place["last"][0], place["im_end"][0]] for place in spans])
    with torch.no_grad(), hooks.reading_rows(study, queries) as rows:
        study.hf(input_ids=ids, attention_mask=mask, use_cache=False)
    before = study.hf.config._attn_implementation
    study.hf.config._attn_implementation = "eager"
    try:
        with torch.no_grad():
            whole = study.hf(input_ids=ids, attention_mask=mask, use_cache=False, output_attentions=True).attentions
    finally:
        study.hf.config._attn_implementation = before
    for layer, ours in enumerate(rows):
        theirs = torch.stack([whole[layer][row][:, queries[row]] for row in range(len(ids))])
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert torch.allclose(ours.sum(-1), torch.ones(ours.shape[:-1]), atol=1e-5)


def test_a_cut_takes_the_attention_away_and_nothing_else(study, batch):
    ids, mask, spans = batch
    queries = torch.tensor([[place["last"][0]] for place in spans])
    ranges = [(place["last"][0], None) for place in spans], [place["request"] for place in spans]
    cut = hooks.cut_attention(study, *ranges, heads=[(1, 2)])
    with torch.no_grad(), cut, hooks.reading_rows(study, queries) as rows:
        study.hf(input_ids=ids, attention_mask=mask, use_cache=False)
    for row, (start, end) in enumerate(ranges[1]):
        assert rows[1][row, 2, 0, start:end].sum() == 0
        assert rows[1][row, 1, 0, start:end].sum() > 0
        assert rows[1][row, 2, 0].sum() == pytest.approx(1, abs=1e-5)
    base = last_logits(study, batch)
    with hooks.cut_attention(study, *ranges):
        assert not torch.allclose(last_logits(study, batch), base, atol=1e-4)
    assert torch.equal(last_logits(study, batch), base)


def generated(study, items):
    ids, mask, _ = pad(items, study.pad_id)
    return study.hf.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=study.pad_id
    )


def test_interventions_hold_for_every_step_of_generation(study, items):
    heads, width = [(0, 0), (0, 1), (1, 2), (2, 3)], hooks.architecture(study).head_dim
    places = [
        (study.hf.model.layers[layer].self_attn.o_proj.weight, (slice(None), slice(head * width, (head + 1) * width)))
        for layer, head in heads
    ]
    neurons = [(layer, neuron) for layer in range(3) for neuron in range(0, 40, 2)]
    places += [place for layer, neuron in neurons for place in down_columns(study, layer, [neuron])]
    with zeroed(places):
        expected = generated(study, items)
    with interventions.ablate_heads(study, heads), interventions.ablate_neurons(study, neurons):
        assert torch.equal(generated(study, items), expected)


def test_directions_are_added_and_removed(study, batch):
    ids, mask, _ = batch
    parts = hooks.architecture(study)
    v = np.random.default_rng(0).normal(size=parts.hidden_size).astype(np.float32)
    unit = torch.tensor(v / np.linalg.norm(v))
    with torch.no_grad(), activations.capture(study, ["residual"]) as base:
        activations.forward(study, ids, mask)
    nothing = np.zeros((1, parts.n_layers + 1, parts.hidden_size), dtype=np.float32)
    at_1 = nothing.copy()
    at_1[0, 1] = 2 * v
    added = interventions.steer_per_row(study, nothing, at_1)
    with torch.no_grad(), added, activations.capture(study, ["residual"]) as found:
        activations.forward(study, ids, mask)
    assert torch.allclose(found["residual"][1], base["residual"][1] + 2 * torch.tensor(v), atol=1e-5)
    removed = interventions.steer_per_row(study, nothing + v, nothing)
    with torch.no_grad(), removed, activations.capture(study, ["residual"]) as found:
        activations.forward(study, ids, mask)
    assert all((x @ unit).abs().max() < 1e-4 for x in found["residual"])
    with torch.no_grad(), activations.capture(study, ["residual"]) as found:
        activations.forward(study, ids, mask)
    assert torch.equal(found["residual"][2], base["residual"][2])


def test_every_row_is_steered_by_its_own_directions(study, batch):
    ids, mask, _ = batch
    parts, rows = hooks.architecture(study), len(ids)
    rng = np.random.default_rng(0)
    remove, add = np.zeros((2, rows, parts.n_layers + 1, parts.hidden_size), dtype=np.float32)
    remove[0, 1], add[1, 1] = rng.normal(size=(2, parts.hidden_size))
    with torch.no_grad(), activations.capture(study, ["residual"]) as base:
        activations.forward(study, ids, mask)
    with (
        torch.no_grad(),
        interventions.steer_per_row(study, remove, add),
        activations.capture(study, ["residual"]) as found,
    ):
        activations.forward(study, ids, mask)
    before, after = base["residual"][1], found["residual"][1]
    assert (after[0] @ torch.tensor(remove[0, 1])).abs().max() < 1e-4
    assert torch.allclose(after[1], before[1] + torch.tensor(add[1, 1]), atol=1e-5)
    assert torch.equal(after[2:], before[2:])


def test_hooks_are_gone_after_an_error(study, batch):
    base = last_logits(study, batch)
    first, second = interventions.ablate_heads(study, [(0, 0)]), interventions.ablate_neurons(study, [(0, 0)])
    with pytest.raises(RuntimeError, match="stop"), first, second, activations.capture(study):
        raise RuntimeError("stop")
    assert torch.equal(last_logits(study, batch), base)


def test_mean_ablation_puts_the_mean_in_place(study, items, batch):
    ids, mask, _ = batch
    means = activations.mean(study, items, "z", "request")
    with (
        torch.no_grad(),
        interventions.ablate_heads(study, [(1, 2)], mean=means),
        activations.capture(study, ["z"]) as found,
    ):
        activations.forward(study, ids, mask)
    assert torch.allclose(found["z"][1][:, :, 2], torch.tensor(means[1, 2]).expand_as(found["z"][1][:, :, 2]))
    neurons = activations.mean(study, items, "neurons", "request")
    assert neurons.shape == (3, hooks.architecture(study).n_neurons)


def test_heads_per_row_equal_one_set_at_a_time(study, items):
    sets = [[], [(0, 1)], [(2, 2)], [(0, 1), (2, 3)]]
    means = activations.mean(study, items, "z", "request")
    ids, mask, spans = pad([items[0]] * len(sets), study.pad_id, side="right")
    single = pad([items[0]], study.pad_id, side="right")
    for mean in (None, means):
        with interventions.ablate_per_row(study, sets, mean, "heads"):
            together = last_logits(study, (ids, mask, spans))
        assert torch.allclose(together[0], last_logits(study, single)[0], atol=1e-5)
        for row in (1, 2, 3):
            with interventions.ablate_heads(study, sets[row], mean):
                expected = last_logits(study, single)
            assert torch.allclose(together[row], expected[0], atol=1e-5)


def test_pooled_reads_do_not_depend_on_the_batch(study, items):
    spans = ("last", "request", "think_open")
    one, many = (activations.read(study, items, activations.INTERNALS, spans, batch_size=size) for size in (1, 6))
    for key, values in one.items():
        assert values.shape[1] == len(items)
        assert np.allclose(values, many[key], rtol=1e-4, atol=1e-4, equal_nan=True), key
    has_no_think = [row for row, item in enumerate(items) if "think_open" not in item.spans]
    assert np.isnan(one["z", "think_open"][:, has_no_think]).all()
    mean = activations.mean(study, items, "residual", "request")
    assert np.allclose(mean, one["residual", "request"].mean(1), atol=1e-5)


def test_final_logits_come_from_the_last_residual(study, items, batch):
    last = activations.read(study, items)["residual", "last"][-1]
    with torch.no_grad():
        logits = hooks.logits_at_the_end(study, torch.tensor(last))
    assert torch.allclose(logits, last_logits(study, batch), atol=1e-4)


@pytest.fixture(scope="module")
def small():
    return tiny.study()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda study: interventions.ablate_heads(study, []), "set of heads is empty"),
        (lambda study: interventions.ablate_heads(study, [(7, 0)]), "no layer 7: they go from 0 to 1"),
        (lambda study: interventions.ablate_heads(study, [(0, 9)]), "no head 9: they go from 0 to 3"),
        (lambda study: interventions.ablate_neurons(study, []), "set of neurons is empty"),
        (lambda study: interventions.ablate_neurons(study, [(0, 64)]), "no neuron 64"),
        (lambda study: activations.capture(study, ["neuron"]), "did you mean 'neurons'"),
    ],
)
def test_bad_input_is_one_clear_line(small, make, message):
    with pytest.raises(UserError, match=message), make(small):
        pass


def test_an_unknown_architecture_says_so_at_load_and_when_it_is_opened(capsys):
    from transformers import GPT2Config, GPT2LMHeadModel

    words = tiny.tokenizer()
    study = load(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=len(words))), words)
    assert "the inside of the architecture 'gpt2' is not known" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"'gpt2' is not known .*qwen3"):
        hooks.architecture(study)


def test_a_layer_that_is_not_finite_is_named():
    words = tiny.tokenizer()
    study = load(tiny.random_model(words, seed=3), words)
    study.hf.model.layers[1].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="residual 2 is not finite"):
        activations.read(study, [study.chat.encode("open my shed .", "think")])


def test_packed_weights_are_not_taken_apart():
    words = tiny.tokenizer()
    study = load(tiny.random_model(words), words)
    for module in (study.hf.model.layers[0].mlp.down_proj, study.hf.model.layers[0].self_attn.o_proj):
        module.weight = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(UserError, match=r"packed in 4 bits.* without \+4bit"):
        hooks.head_writes(study, 0, torch.zeros(4, 8))


def test_padding_on_the_right_needs_no_mask(study, batch):
    """Real tokens get the same states with and without it; on the left the mask is kept."""
    ids, mask, _ = batch
    left = torch.stack([torch.roll(row, int((real == 0).sum())) for row, real in zip(ids, mask, strict=True)])
    with torch.no_grad():
        given = study.hf.model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        assert torch.allclose(activations.forward(study, ids, mask)[mask.bool()], given[mask.bool()], atol=1e-5)
        given = study.hf.model(input_ids=left, attention_mask=mask.flip(1), use_cache=False)[0]
        assert torch.equal(activations.forward(study, left, mask.flip(1)), given)
