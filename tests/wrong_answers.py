"""Functions as learners write them, each with one mistake, and words of the message that is meant for it."""

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


WRONG = {
    "04.2": [
        (one_too_early, "one token too early"), (think_mode, "that is think mode"), (sign, "sign is turned around"),
        (probabilities, "difference of probabilities"), (refusal_alone, "refusal's logit alone"),
        (not_saved, "saved inside it with .save()"), (all_logits, "and it should be a number"),
    ],
    "04.3": [
        (nothing_cut, "nothing was changed"), (whole_layer, "whole attention"), (last_token_only, "only the last token"),
        (next_head, "the head after it"), (next_layer, "the layer after it"), (mean_instead, "writes the mean"),
        (output_instead, "o_proj's output"), (all_positions, "shape"), (too_late, "in the order in which"),
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
    ],
}  # fmt: skip
