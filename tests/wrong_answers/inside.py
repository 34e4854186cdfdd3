"""What learners write in traces, each with one mistake, and words of the message that is meant for it."""

import torch


def ids(study, request, mode="no-think"):
    return torch.tensor([study.chat.encode(request, mode).ids])


# -- chapter 04 --


def one_too_early(study, request, refuse, comply):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        logits = study.nn.output.logits[0, -2].save()
    return logits[refuse] - logits[comply]


def think_mode(study, request, refuse, comply):
    with torch.no_grad(), study.nn.trace(ids(study, request, "think")):
        logits = study.nn.output.logits[0, -1].save()
    return logits[refuse] - logits[comply]


def sign(study, request, refuse, comply):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        logits = study.nn.output.logits[0, -1].save()
    return logits[comply] - logits[refuse]


def probabilities(study, request, refuse, comply):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        shares = study.nn.output.logits[0, -1].softmax(-1).save()
    return shares[refuse] - shares[comply]


def refusal_alone(study, request, refuse, comply):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        logits = study.nn.output.logits[0, -1].save()
    return logits[refuse]


def not_saved(study, request, refuse, comply):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        logits = study.nn.output.logits[0, -1]
    return logits[refuse] - logits[comply]


def all_logits(study, request, refuse, comply):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        logits = study.nn.output.logits[0, -1].save()
    return logits


def nothing_cut(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        z = study.nn.model.layers[layer].self_attn.o_proj.input.clone()
        z[:, :, head * 16 : (head + 1) * 16] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def one_number_cut(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        study.nn.model.layers[layer].self_attn.o_proj.input[:, :, head] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def whole_layer(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        z = study.nn.model.layers[layer].self_attn.o_proj.input
        z[:] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def last_token_only(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        z = study.nn.model.layers[layer].self_attn.o_proj.input
        z[:, -1, head * 16 : (head + 1) * 16] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def next_head(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        z = study.nn.model.layers[layer].self_attn.o_proj.input
        z[:, :, (head + 1) * 16 : (head + 2) * 16] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def next_layer(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        z = study.nn.model.layers[layer + 1].self_attn.o_proj.input
        z[:, :, head * 16 : (head + 1) * 16] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def mean_instead(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        z = study.nn.model.layers[layer].self_attn.o_proj.input
        z[:, :, head * 16 : (head + 1) * 16] = z[:, :, head * 16 : (head + 1) * 16].mean()
        logits = study.nn.output.logits[0, -1].save()
    return logits


def output_instead(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        found = study.nn.model.layers[layer].self_attn.o_proj.output
        found[:, :, head * 16 : (head + 1) * 16] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def all_positions(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        z = study.nn.model.layers[layer].self_attn.o_proj.input
        z[:, :, head * 16 : (head + 1) * 16] = 0
        logits = study.nn.output.logits[0].save()
    return logits


def too_late(study, request, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        logits = study.nn.output.logits[0, -1].save()
        z = study.nn.model.layers[layer].self_attn.o_proj.input
        z[:, :, head * 16 : (head + 1) * 16] = 0
    return logits


# -- primer A1 --


def stream(study, request, mode="no-think", position=-1, name=None):
    """The stream as `residual` should give it, or as a learner mistakes it."""
    states = []
    with torch.no_grad(), study.nn.trace(ids(study, request, mode)):
        states.append(study.nn.model.embed_tokens.output[0, position].save())
        for layer in study.nn.model.layers:
            if name == "attention":
                states.append(layer.self_attn.output[0][0, position].save())
            elif name == "mlp":
                states.append(layer.mlp.output[0, position].save())
            else:
                states.append(layer.output[0, position].save())
    return torch.stack(states)


def without_embedding(study, request):
    return stream(study, request)[1:]


def first_token(study, request):
    return stream(study, request, position=0)


def stream_too_early(study, request):
    return stream(study, request, position=-2)


def stream_in_think_mode(study, request):
    return stream(study, request, mode="think")


def attention_only(study, request):
    return stream(study, request, name="attention")


def mlp_only(study, request):
    return stream(study, request, name="mlp")


def hidden_states(study, request):
    with torch.no_grad():
        found = study.hf(ids(study, request), output_hidden_states=True).hidden_states
    return torch.stack([state[0, -1] for state in found])


def every_position(study, request):
    states = []
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        for layer in study.nn.model.layers:
            states.append(layer.output[0].save())
    return torch.stack(states)


def list_inside_the_trace(study, request):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        states = [layer.output[0, -1].save() for layer in study.nn.model.layers]
    return torch.stack(states)


def heads_numbers(study, request, layer, where="input", position=-1, mode="no-think"):
    with torch.no_grad(), study.nn.trace(ids(study, request, mode)):
        o_proj = study.nn.model.layers[layer].self_attn.o_proj
        numbers = (o_proj.input if where == "input" else o_proj.output)[0, position].save()
    return numbers


def every_eighth(study, request, layer, head):
    return heads_numbers(study, request, layer)[head :: study.hf.config.num_attention_heads]


def first_head(study, request, layer, head):
    return heads_numbers(study, request, layer)[: study.hf.config.head_dim]


def head_after(study, request, layer, head):
    return heads_numbers(study, request, layer)[(head + 1) * 16 : (head + 2) * 16]


def layer_after(study, request, layer, head):
    return heads_numbers(study, request, layer + 1)[head * 16 : (head + 1) * 16]


def after_o_proj(study, request, layer, head):
    return heads_numbers(study, request, layer, "output")[head * 16 : (head + 1) * 16]


def head_at_first_token(study, request, layer, head):
    return heads_numbers(study, request, layer, position=0)[head * 16 : (head + 1) * 16]


def all_heads(study, request, layer, head):
    return heads_numbers(study, request, layer)


def all_messages(study, request, layer, head):
    return heads_numbers(study, request, layer, "output")


def rows_of_the_weight(study, request, layer, head):
    here = slice(head * 16, (head + 1) * 16)
    return heads_numbers(study, request, layer)[here] @ study.hf.model.layers[layer].self_attn.o_proj.weight[here]


def message_of_the_next(study, request, layer, head):
    here = slice((head + 1) * 16, (head + 2) * 16)
    return study.hf.model.layers[layer].self_attn.o_proj.weight[:, here] @ heads_numbers(study, request, layer)[here]


def message_without_weight(study, request, layer, head):
    return heads_numbers(study, request, layer)[head * 16 : (head + 1) * 16]


def hooked(study, request, layer, remove=True, position=-1, pre=False, name=""):
    seen, module = [], study.hf.model.layers[layer].get_submodule(name)
    if pre:
        handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, position]))
    else:
        handle = module.register_forward_hook(lambda _, inputs, output: seen.append(output[0, position]))
    with torch.no_grad():
        study.hf(ids(study, request))
    if remove:
        handle.remove()
    return seen[0]


def hook_left_behind(study, request, layer):
    return hooked(study, request, layer, remove=False)


def before_the_layer(study, request, layer):
    return hooked(study, request, layer, pre=True)


def hook_a_layer_later(study, request, layer):
    return hooked(study, request, layer + 1)


def hook_on_attention(study, request, layer):
    return hooked(study, request, layer, name="self_attn.o_proj")


def hook_of_all_positions(study, request, layer):
    return hooked(study, request, layer, position=slice(None))


def neurons_copied(study, request, layer, neurons):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        numbers = study.nn.model.layers[layer].mlp.down_proj.input.clone()
        numbers[:, :, neurons] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def neurons_at_the_end(study, request, layer, neurons):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        study.nn.model.layers[layer].mlp.down_proj.input[:, -1, neurons] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def the_other_neurons(study, request, layer, neurons):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        numbers = study.nn.model.layers[layer].mlp.down_proj.input
        kept = numbers[:, :, neurons].clone()
        numbers[:] = 0
        numbers[:, :, neurons] = kept
        logits = study.nn.output.logits[0, -1].save()
    return logits


def after_down_proj(study, request, layer, neurons):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        study.nn.model.layers[layer].mlp.down_proj.output[:, :, [unit % 128 for unit in neurons if unit < 128]] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def neurons_of_the_stream(study, request, layer, neurons):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        study.nn.model.layers[layer].mlp.output[:, :, neurons] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def neurons_a_layer_later(study, request, layer, neurons):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        study.nn.model.layers[layer + 1].mlp.down_proj.input[:, :, neurons] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


def whole_mlp(study, request, layer, neurons):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        study.nn.model.layers[layer].mlp.down_proj.input[:] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits


# -- chapter 00: next words --


def best(study, request, mode, position=-1, count=5, reverse=False, largest=True):
    with torch.no_grad(), study.nn.trace(ids(study, request, mode)):
        logits = study.nn.output.logits[0, position].save()
    found = logits.topk(count, largest=largest).indices.tolist()
    return [study.tokenizer.decode([token]) for token in (found[::-1] if reverse else found)]


def mode_ignored(study, request, mode):
    return best(study, request, "no-think")


def least_likely(study, request, mode):
    return best(study, request, mode, largest=False)


def words_too_early(study, request, mode):
    return best(study, request, mode, position=-2)


def words_of_the_bare_request(study, request, mode):
    ids = torch.tensor([study.tokenizer(request, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        found = study.hf(ids).logits[0, -1].topk(5).indices
    return [study.tokenizer.decode([token]) for token in found]


def words_backwards(study, request, mode):
    return best(study, request, mode, reverse=True)


def numbers_of_words(study, request, mode):
    ids = torch.tensor([study.chat.encode(request, mode).ids])
    with torch.no_grad():
        return study.hf(ids).logits[0, -1].topk(5).indices.tolist()


def one_word(study, request, mode):
    return best(study, request, mode, count=1)


def span_with_tags(study, request):
    start, end = study.chat.encode(request, "no-think").spans["empty"]
    return start - 1, end + 1


def span_without_its_end(study, request):
    start, end = study.chat.encode(request, "no-think").spans["empty"]
    return start, end - 1


def span_from_its_tag(study, request):
    start, end = study.chat.encode(request, "no-think").spans["empty"]
    return start - 1, end


# -- chapter 02: how likely an opening is --


def likely(study, request, opening, mode="think", shift=1, combine="product", **said):
    said = said or ({"thought_prefix": ""} if mode == "think" else {})
    prompt = study.chat.encode(request, mode, **said).ids
    said = study.tokenizer(opening, add_special_tokens=False)["input_ids"]
    with torch.no_grad(), study.nn.trace(torch.tensor([prompt + said])):
        logits = study.nn.output.logits[0].save()
    scores = logits if combine == "raw" else logits.log_softmax(-1)
    found = scores[len(prompt) - shift : len(prompt) - shift + len(said)][range(len(said)), said]
    if combine == "first":
        return found[0].exp()
    return {"product": found.sum().exp(), "logs": found.sum(), "raw": found.sum(), "mean": found.exp().mean()}[combine]


def written(study, ids, cut=True, room=48):
    ids = torch.tensor([ids])
    found = study.hf.generate(ids, attention_mask=ids**0, max_new_tokens=room, do_sample=False)
    return study.tokenizer.decode(found[0, ids.shape[1] if cut else 0 :])


def words_ids(study, opening):
    return study.tokenizer(opening, add_special_tokens=False)["input_ids"]


def without_opening(study, request, opening):
    return written(study, study.chat.encode(request, "think").ids)


def opening_in_the_reply(study, request, opening):
    return written(study, study.chat.encode(request, "no-think").ids + words_ids(study, opening))


def opening_outside(study, request, opening):
    return written(study, study.chat.encode(request, "think").ids + words_ids(study, opening))


def opening_closed(study, request, opening):
    return written(study, study.chat.encode(request, "think", thought=opening).ids)


def begun_ids(study, request, opening):
    return study.chat.encode(request, "think", thought_prefix=opening).ids


def prompt_not_cut_off(study, request, opening):
    return written(study, begun_ids(study, request, opening), cut=False)


def one_token(study, request, opening):
    return written(study, begun_ids(study, request, opening), room=1)


def ids_not_text(study, request, opening):
    return begun_ids(study, request, opening)


def first_word_only(study, request, opening):
    return likely(study, request, opening, combine="first")


def mean_of_chances(study, request, opening):
    return likely(study, request, opening, combine="mean")


def sum_of_logs(study, request, opening):
    return likely(study, request, opening, combine="logs")


def raw_logits(study, request, opening):
    return likely(study, request, opening, combine="raw")


def chance_outside(study, request, opening):
    said = words_ids(study, opening)
    prompt = study.chat.encode(request, "think").ids
    with torch.no_grad(), study.nn.trace(torch.tensor([prompt + said])):
        logits = study.nn.output.logits[0].save()
    return logits.log_softmax(-1)[len(prompt) - 1 : -1][range(len(said)), said].sum().exp()


def chance_read_late(study, request, opening):
    prompt = study.chat.encode(request, "think", thought_prefix="").ids
    said = words_ids(study, opening)
    with torch.no_grad():
        logits = study.hf(torch.tensor([prompt + said])).logits[0]
    return logits.log_softmax(-1)[len(prompt) :][range(len(said)), said].sum().exp()


def chance_in_a_closed_thought(study, request, opening):
    return likely(study, request, opening, thought=opening)


def chance_in_no_think(study, request, opening):
    return likely(study, request, opening, mode="no-think")


# -- chapter 03: without a direction --


def taken_out(study, request, direction, layers=slice(None), where=slice(None), unit=True):
    way = direction / direction.norm() if unit else direction
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        for layer in list(study.nn.model.layers)[layers]:
            part = (layer.output[:, where] @ way)[..., None] * way
            layer.output[:, where] -= part
        logits = study.nn.output.logits[0, -1].save()
    return logits


def after_the_last_layer(study, request, direction):
    return taken_out(study, request, direction, slice(-1, None))


def after_the_first_layer(study, request, direction):
    return taken_out(study, request, direction, slice(1))


def at_the_last_token(study, request, direction):
    return taken_out(study, request, direction, where=slice(-1, None))


def length_forgotten(study, request, direction):
    return taken_out(study, request, direction, unit=False)


def only_a_name(study, request, direction):
    unit = direction / direction.norm()
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        for layer in study.nn.model.layers:
            state = layer.output
            state = state - (state @ unit)[..., None] * unit
        logits = study.nn.output.logits[0, -1].save()
    return logits


# -- chapter 04: means and patches --


def slice_of(study, head):
    return slice(head * study.hf.config.head_dim, (head + 1) * study.hf.config.head_dim)


def z_at(study, request, layer, head, mode="no-think"):
    with torch.no_grad(), study.nn.trace(ids(study, request, mode)):
        z = study.nn.model.layers[layer].self_attn.o_proj.input[0, :, slice_of(study, head)].save()
    return z


def writing(study, request, layer, head, numbers, mode="no-think", where=slice(None)):
    with torch.no_grad(), study.nn.trace(ids(study, request, mode)):
        study.nn.model.layers[layer].self_attn.o_proj.input[:, where, slice_of(study, head)] = numbers
        logits = study.nn.output.logits[0, -1].save()
    return logits


def zero_not_mean(study, request, layer, head, others):
    return writing(study, request, layer, head, 0.0)


def mean_of_itself(study, request, layer, head, others):
    return writing(study, request, layer, head, z_at(study, request, layer, head).mean(0))


def mean_of_last_tokens(study, request, layer, head, others):
    last = torch.stack([z_at(study, other, layer, head)[-1] for other in others])
    return writing(study, request, layer, head, last.mean(0))


def mean_of_means(study, request, layer, head, others):
    means = torch.stack([z_at(study, other, layer, head).mean(0) for other in others])
    return writing(study, request, layer, head, means.mean(0))


def one_number(study, request, layer, head, others):
    every = torch.cat([z_at(study, other, layer, head) for other in others])
    return writing(study, request, layer, head, every.mean())


def mean_at_the_end(study, request, layer, head, others):
    every = torch.cat([z_at(study, other, layer, head) for other in others])
    return writing(study, request, layer, head, every.mean(0), where=-1)


def patch(study, request, thought, layer, value, here=slice(None), where=-1):
    said = {} if thought is None else {"thought": thought}
    after = torch.tensor([study.chat.encode(request, "think", **said).ids])
    with torch.no_grad(), study.nn.trace(after):
        study.nn.model.layers[layer].self_attn.o_proj.input[:, where, here] = value
        logits = study.nn.output.logits[0, -1].save()
    return logits


def patched_backwards(study, request, thought, layer, head):
    with torch.no_grad(), study.nn.trace(torch.tensor([study.chat.encode(request, "think", thought=thought).ids])):
        donor = study.nn.model.layers[layer].self_attn.o_proj.input[0, -1, slice_of(study, head)].save()
    return writing(study, request, layer, head, donor, where=-1)


def patched_everywhere(study, request, thought, layer, head):
    donor = z_at(study, request, layer, head)[-1]
    return patch(study, request, thought, layer, donor, slice_of(study, head), slice(None))


def patched_all_heads(study, request, thought, layer, head):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        donor = study.nn.model.layers[layer].self_attn.o_proj.input[0, -1].save()
    return patch(study, request, thought, layer, donor)


def patched_with_zero(study, request, thought, layer, head):
    return patch(study, request, thought, layer, 0.0, slice_of(study, head))


def patched_without_thought(study, request, thought, layer, head):
    return patch(study, request, None, layer, z_at(study, request, layer, head)[-1], slice_of(study, head))


def not_patched(study, request, thought, layer, head):
    with torch.no_grad(), study.nn.trace(torch.tensor([study.chat.encode(request, "think", thought=thought).ids])):
        logits = study.nn.output.logits[0, -1].save()
    return logits


def leaning_of_the_bare_request(study, request, refuse, comply):
    with torch.no_grad(), study.nn.trace(torch.tensor([study.tokenizer(request)["input_ids"]])):
        logits = study.nn.output.logits[0, -1].save()
    return logits[refuse] - logits[comply]


# -- chapter 04: many heads --


def leaning_without(study, request, layer, first, last, refuse, comply, where=slice(None)):
    with torch.no_grad(), study.nn.trace(ids(study, request)):
        study.nn.model.layers[layer].self_attn.o_proj.input[:, where, first:last] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits[refuse] - logits[comply]


def row_of(study, request, layer, refuse, comply, minus=True, kept_cut=False, where=slice(None)):
    size, said = study.hf.config.head_dim, (refuse, comply)
    whole = leaning_without(study, request, layer, 0, 0, *said)
    heads = range(study.hf.config.num_attention_heads)
    firsts = [0 if kept_cut else head * size for head in heads]
    found = [leaning_without(study, request, layer, first, (head + 1) * size, *said, where)
             for head, first in zip(heads, firsts, strict=True)]  # fmt: skip
    return torch.stack(found) - (whole if minus else 0)


def row_without_baseline(study, request, layer, refuse, comply):
    return row_of(study, request, layer, refuse, comply, minus=False)


def row_turned(study, request, layer, refuse, comply):
    return -row_of(study, request, layer, refuse, comply)


def row_of_refusal_alone(study, request, layer, refuse, comply):
    size, found = study.hf.config.head_dim, []
    for head in (None, *range(study.hf.config.num_attention_heads)):
        with torch.no_grad(), study.nn.trace(ids(study, request)):
            if head is not None:
                study.nn.model.layers[layer].self_attn.o_proj.input[:, :, head * size : (head + 1) * size] = 0
            found.append(study.nn.output.logits[0, -1, refuse].save())
    return torch.stack(found[1:]) - found[0]


def heads_stay_cut(study, request, layer, refuse, comply):
    return row_of(study, request, layer, refuse, comply, kept_cut=True)


def row_at_the_end(study, request, layer, refuse, comply):
    return row_of(study, request, layer, refuse, comply, where=slice(-1, None))


def next_row(study, request, layer, refuse, comply):
    return row_of(study, request, layer + 1, refuse, comply)


WRONG = {
    "04.2": [
        (one_too_early, "one token too early"), (think_mode, "that is think mode"), (sign, "sign is turned around"),
        (probabilities, "difference of probabilities"), (refusal_alone, "refusal's logit alone"),
        (not_saved, "saved inside it with .save()"), (all_logits, "and it should be a number"),
        (leaning_of_the_bare_request, "without the chat template"),
    ],
    "04.3": [
        (nothing_cut, "nothing was changed"), (whole_layer, "whole attention"), (last_token_only, "only the last token"),
        (next_head, "the head after it"), (next_layer, "the layer after it"), (mean_instead, "writes the mean"),
        (output_instead, "o_proj's output"), (all_positions, "shape"), (too_late, "in the order in which"),
        (one_number_cut, "you set one number to zero"),
    ],
    "A1.1": [
        (without_embedding, "before the first layer is missing"), (first_token, "the first token"),
        (stream_too_early, "one token before"), (stream_in_think_mode, "that is think mode"),
        (attention_only, "what attention adds"), (mlp_only, "what the MLP adds"),
        (hidden_states, "normed already"), (every_position, "shape"),
        (list_inside_the_trace, "a list is made before the trace"),
    ],
    "A1.2": [
        (every_eighth, "side by side"), (first_head, "always the first head"), (head_after, "the head after it"),
        (layer_after, "the layer after it"), (after_o_proj, "o_proj's output"),
        (head_at_first_token, "at the first token"), (all_heads, "shape"),
    ],
    "A1.3": [
        (all_messages, "all heads of the layer write together"), (rows_of_the_weight, "rows were taken"),
        (message_of_the_next, "the head after it"), (message_without_weight, "shape"),
    ],
    "A1.4": [
        (hook_left_behind, "the hook is still there"), (before_the_layer, "what enters the layer"),
        (hook_a_layer_later, "the layer after it"), (hook_on_attention, "what attention adds"),
        (hook_of_all_positions, "shape"),
    ],
    "A1.5": [
        (neurons_copied, "nothing was changed"), (neurons_at_the_end, "only the last token"),
        (the_other_neurons, "these were kept"), (after_down_proj, "down_proj's output"),
        (neurons_a_layer_later, "the layer after it"), (whole_mlp, "the whole MLP"),
        (neurons_of_the_stream, "as wide as the stream"),
    ],
    "00.5": [
        (span_with_tags, "with its tags"), (span_without_its_end, "as in a slice"), (span_from_its_tag, "opening tag"),
    ],
    "00.1": [
        (mode_ignored, "the mode is not used"), (least_likely, "least likely"), (words_too_early, "one token too early"),
        (words_backwards, "run the other way"), (one_word, "shape"),
        (words_of_the_bare_request, "bare request"), (numbers_of_words, "should return words"),
    ],
    "02.1": [
        (without_opening, "not in the prompt"), (opening_in_the_reply, "no-think mode"),
        (prompt_not_cut_off, "prompt comes back"),
        (one_token, "next token alone"), (ids_not_text, "return a text"),
        (opening_outside, "outside of a thought"), (opening_closed, "closes the thought"),
    ],
    "02.3": [
        (first_word_only, "first word alone"), (mean_of_chances, "the mean of the words' chances"),
        (sum_of_logs, "sum of log probabilities"), (raw_logits, "these are logits"), (chance_in_no_think, "no-think mode"),
        (chance_outside, "outside of a thought"), (chance_in_a_closed_thought, "closes the thought"),
        (chance_read_late, "one place late"),
    ],
    "03.6": [
        (after_the_last_layer, "after the last layer alone"), (after_the_first_layer, "after the first layer alone"),
        (at_the_last_token, "only the last token"), (length_forgotten, "length is not 1"),
        (only_a_name, "nothing was changed"),
    ],
    "04.6": [
        (row_without_baseline, "with all heads"), (row_turned, "sign is turned"), (heads_stay_cut, "heads stay cut"),
        (row_at_the_end, "only the last token"), (next_row, "the layer after it"),
        (row_of_refusal_alone, "refusal's logit alone"),
    ],
    "04.4": [
        (zero_not_mean, "zero ablation"), (mean_of_itself, "over the request itself"),
        (mean_of_last_tokens, "last tokens"), (mean_of_means, "averaged one by one"), (one_number, "one number"),
        (mean_at_the_end, "only the last token"),
    ],
    "04.7": [
        (patched_backwards, "the other way around"), (patched_everywhere, "every position"),
        (patched_all_heads, "all heads"), (patched_with_zero, "set to zero"), (not_patched, "nothing was changed"),
        (patched_without_thought, "the thought is missing"),
    ],
}  # fmt: skip
