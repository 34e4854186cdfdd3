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
}  # fmt: skip
