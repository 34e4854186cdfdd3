"""A positive control for the rules that select neurons: a model whose refusal runs through neurons that we chose.

Only the weights of the chosen neurons are trained, everything else stays as it is, until the model refuses harmless
requests that are followed by `SENTENCE` and goes on as before without it. What a rule finds can then be counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pandas as pd

from rimkit.behavior.prompts import load_prompts
from rimkit.behavior.ranks import auroc
from rimkit.mechanism import neurons
from rimkit.mechanism.readout import Readout, at_last, forward_states, refusal_scores
from rimkit.mechanism.screens import attribution
from rimkit.mechanism.sets import Units
from rimkit.models.chat import Encoded, pad
from rimkit.models.internals import architecture, logits_at_the_end
from rimkit.models.loading import StudyModel

UNSIGNED = "|gradient|"
SENTENCE = "i know this hurts people ."  # words that training had, but never in a request


def planted(
    study: StudyModel,
    known: Units,
    plain: Sequence[Encoded],
    intent: Sequence[Encoded],
    read: Readout,
    steps: int = 60,
    learning_rate: float = 0.02,
) -> StudyModel:
    """A copy of the model that refuses ``intent`` and fulfils ``plain``, by training the ``known`` neurons alone.

    ``read`` names the first tokens of refusals and fulfilments; the loss is on the logit difference before the reply.
    For dense models only (in a mixture of experts a neuron may never be reached).
    """
    import torch
    from torch.nn.functional import softplus

    from rimkit.models.loading import load

    copy = load(deepcopy(study.hf), study.tokenizer, think=study.chat.asked)
    ids, mask, spans = pad([*plain, *intent], study.pad_id, side="right")
    sign = torch.tensor([1.0] * len(plain) + [-1.0] * len(intent), device=study.device)
    by_layer: dict[int, list[int]] = {}
    for layer, neuron in known:
        by_layer.setdefault(layer, []).append(neuron)
    copy.hf.requires_grad_(False)
    masks = {}
    for layer, chosen in by_layer.items():
        mlp = architecture(copy).layers[layer].mlp
        for weight, where in ((mlp.gate_proj.weight, (chosen,)), (mlp.up_proj.weight, (chosen,)),
                              (mlp.down_proj.weight, (slice(None), chosen))):  # fmt: skip
            masks[weight.requires_grad_(True)] = torch.zeros_like(weight)
            masks[weight][where] = 1
    optimiser = torch.optim.Adam(masks, lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            score = read(logits_at_the_end(copy, at_last(forward_states(copy, ids, mask), spans)))
            softplus(sign * score).mean().backward()
            for weight, inside in masks.items():
                weight.grad *= inside
            optimiser.step()
            optimiser.zero_grad()
    copy.hf.requires_grad_(True)
    return copy


def recovery(scores: pd.DataFrame, known: Units) -> pd.DataFrame:
    """How much of the known set each rule recovers: ``rule, precision`` (= recall, as many are taken as are known),
    ``chance`` (that of a random choice) and ``auroc`` with its interval (0.5: no better than chance).

    The rule `UNSIGNED` is *gradient* by its size: a neuron that works against refusal is one that matters, too.
    """
    inside = pd.MultiIndex.from_frame(scores[["layer", "neuron"]]).isin([tuple(unit) for unit in known])
    ranked = {rule: neurons.scored(scores, rule) for rule in neurons.defined_rules(scores)}
    if "gradient" in ranked:
        ranked[UNSIGNED] = ranked["gradient"].abs()
    rows = []
    for rule, score in ranked.items():
        order = scores.assign(score=score).sort_values(["score", "increase"], ascending=False, kind="stable").index
        precision = inside[order[: len(known)]].mean()  # the table's index is 0, 1, 2, ...: also the place in `inside`
        rank = auroc(score, inside)
        rows.append({"rule": rule, "precision": precision, "chance": len(known) / len(scores), "auroc": rank.value,
                     "ci_low": rank.ci_low, "ci_high": rank.ci_high})  # fmt: skip
    return pd.DataFrame(rows)


def scores_of(study: StudyModel, plain: Sequence[Encoded], intent: Sequence[Encoded], read: Readout) -> pd.DataFrame:
    """The scores of every rule as `neuron_table`, but from no-think prompts alone, without a reply.

    Maxima run over the request and what follows up to the reply.
    """
    increase, means = (neurons.increases(study, plain, intent, pool=pool, span="prompt") for pool in ("max", "mean"))
    return neurons.as_table(increase=increase, means=means, gradient=attribution(study, intent, read)[1])


def control(study: StudyModel, read: Readout, k: int = 20, n: int = 16, steps: int = 40, seed: int = 0):
    """Plant refusal of `SENTENCE` in ``k`` random neurons of a model that speaks the invented language.

    Returns ``(recovery, facts)``, on other requests than those trained on: the table of `recovery`, and how often the
    first word would be a refusal (a refusal logit difference above 0): after the sentence before and after planting,
    without the sentence, and without the known neurons.
    """
    from rimkit.models.interventions import ablate_neurons

    parts = architecture(study)
    flat = np.random.default_rng(seed).choice(parts.n_layers * parts.n_neurons, k, replace=False)
    known = [tuple(map(int, divmod(int(index), parts.n_neurons))) for index in flat]
    (plain, intent), (new, new_intent) = (_pairs(study, split, n) for split in ("calibration", "evaluation"))
    model = planted(study, known, plain, intent, read, steps)
    table = recovery(scores_of(model, new, new_intent, read), known)

    def refused(studied: StudyModel, items: Sequence[Encoded]) -> float:
        return float((np.array(refusal_scores(studied, items, read)) > 0).mean())

    facts = {
        "before planting": refused(study, new_intent),
        "after planting": refused(model, new_intent),
        "without the sentence": refused(model, new),
    }
    with ablate_neurons(model, known):
        facts["without the known neurons"] = refused(model, new_intent)
    return table, facts


def controls(study: StudyModel, read: Readout, draws: int = 5, seed: int = 0, **options):
    """`control` for several random sets of neurons, drawn anew with seeds ``seed``, ``seed + 1``, ...

    Returns ``(recovery, facts)``, each with the column ``draw``; facts are a row per draw.
    """
    found = [control(study, read, seed=seed + draw, **options) for draw in range(draws)]
    tables = pd.concat([table.assign(draw=draw) for draw, (table, _) in enumerate(found)], ignore_index=True)
    return tables, pd.DataFrame([facts for _, facts in found]).assign(draw=range(draws))


def refusal_shifts(
    study: StudyModel, items: Sequence[Encoded], sets: dict[str, Units], read: Readout
) -> dict[str, float]:
    """How far zeroing each set moves the refusal logit difference, mean over ``items`` (below 0: towards fulfilling).

    Unlike a rate it has no floor: it says something about a model that refuses nothing, too.
    """
    from rimkit.models.interventions import ablate_neurons

    before, moved = np.mean(refusal_scores(study, items, read)), {}
    for name, units in sets.items():
        with ablate_neurons(study, units):
            moved[name] = float(np.mean(refusal_scores(study, items, read)) - before)
    return moved


def _pairs(study: StudyModel, split: str, n: int) -> tuple[list[Encoded], list[Encoded]]:
    """Harmless requests without and with the sentence of intent, and the span ``prompt`` over all of each."""
    prompts = load_prompts("harmless", split=split, n=n)
    return tuple(
        [with_prompt_span(study.chat.encode(text, "no-think")) for text in table["text"]]
        for table in (prompts, neurons.with_intent(prompts, SENTENCE))
    )


def with_prompt_span(item: Encoded) -> Encoded:
    """The conversation with one more span, ``prompt``: from the request to the last token before the reply."""
    return Encoded(item.ids, {**item.spans, "prompt": (item.spans["request"][0], item.spans["last"][1])}, item.mode)
