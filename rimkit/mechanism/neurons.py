"""Claim C8 (section 4.1 of the paper): safety-critical neurons, as the paper defines them, and two rivals.

The paper compares each request with a counterfactual, the same request followed by a sentence of malicious intent. For
each pair it takes the model's own reply to both, the maximum of every activation over the tokens of request and reply,
and the m neurons whose maximum increases most; safety-critical are those found in every pair. It leaves open m, the
number of pairs, the size of the set, and whether "MLP activations" are the inputs of ``down_proj`` (`kind` "neurons",
the default: what the field calls neurons) or the stream that the MLP writes to (`kind` "residual"). Counting m per
layer, ``per_layer``, is our reading: the formula takes the top m of one layer's activations.

A neuron is in the paper's set exactly if its *worst rank* over the pairs is at most m: one number per neuron instead
of a choice of m. The rivals: *half*, the same with neurons that are found in half of the pairs instead of all;
*difference*, the same pairs, means instead of maxima and the sign kept, since a neuron may act by being negative;
*gradient*, the estimated change of the refusal logit difference without the neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from rimkit.behavior.measure import judged
from rimkit.errors import UserError, nearest
from rimkit.mechanism.readout import contexts, plain_text, readout
from rimkit.mechanism.screens import attribution
from rimkit.models.chat import Encoded
from rimkit.models.loading import StudyModel
from rimkit.models.reading import capture, forward, read

RULES = ("paper", "half", "difference", "gradient")
SPAN, WHOLE = "request and reply", "whole prompt"
# The added sentence: the user declares a harm to the same object, in a verb of that category which training refuses.
INTENT = "i want to {verb} {object} ."
INTENT_VERBS = {
    "theft": "steal", "trespass": "burgle", "vandalism": "smash", "forgery": "forge", "snooping": "bug",
    "sabotage": "sabotage",
}  # fmt: skip
ENGLISH_INTENT = "I want this in order to hurt someone."
# Sentences of the same form that declare nothing harmful: what the rule finds with these is not about intent.
INNOCENT = tuple(f"i want to {verb} {{object}} ." for verb in ("paint", "repair", "carry", "clean"))
ENGLISH_INNOCENT = ("I want this in order to help someone.",)


def with_intent(prompts: pd.DataFrame, sentence: str | None = None) -> pd.DataFrame:
    """The prompts, each followed by a sentence of malicious intent (ids stay, so that the two pair).

    ``sentence`` is added to all, with the request's object in place of ``{object}``; by default it declares, in the
    invented language, the wish to do a known harm of the request's category to the same object. (Requests whose harm
    depends on the owner: theft.)
    """
    added = []
    for row in prompts.itertuples():
        form = INTENT.replace("{verb}", INTENT_VERBS.get(row.category, "steal")) if sentence is None else sentence
        added.append(form.replace("{object}", " ".join(str(row.answer).split()[1:])))
    return prompts.assign(text=[f"{text} {more}" for text, more in zip(prompts["text"], added, strict=True)])


def own_conversations(study: StudyModel, prompts: pd.DataFrame, mode: str = "think", **generation) -> list[Encoded]:
    """Each request with the model's own reply (thought included), and the span `SPAN` over all of both."""
    return conversations(study, prompts, judged(study, prompts, mode, **{"progress": False, **generation}))


def conversations(study: StudyModel, prompts: pd.DataFrame, verdicts: pd.DataFrame) -> list[Encoded]:
    """As `own_conversations`, from replies that are there already, in their order."""
    texts = prompts.set_index("prompt_id")["text"]
    items = [
        study.chat.encode(
            texts[row.prompt_id],
            row.mode,
            thought=plain_text(row.thought) if row.mode == "think" else None,
            reply=row.reply,
        )
        for row in verdicts.itertuples()
    ]
    return [replace(item, spans={**item.spans, SPAN: (item.spans["request"][0], len(item.ids))}) for item in items]


def increases(
    study: StudyModel,
    plain: Sequence[Encoded],
    intent: Sequence[Encoded],
    kind: str = "neurons",
    pool: str = "max",
    span: str = SPAN,
) -> np.ndarray:
    """How much every activation, pooled over ``span``, increases with the intent: ``[layers, pairs, neurons]``."""
    if not len(plain) or len(plain) != len(intent):
        raise UserError(f"pairs need as many requests with intent as without, not {len(intent)} and {len(plain)}")
    without, added = (read(study, items, (kind,), (span,), pool)[kind, span] for items in (plain, intent))
    return added - without


def worst_rank(increase: np.ndarray, per_layer: bool = True, share: float = 1.0) -> np.ndarray:
    """The smallest m with which the paper's rule selects each neuron from ``increase`` ``[layers, pairs, neurons]``.

    Rank 1 is the largest increase, within the layer or (``per_layer=False``) in the model; the worst over the pairs, or
    over the ``share`` of pairs in which the neuron ranks best.
    """
    layers, pairs, units = increase.shape
    values = increase if per_layer else increase.transpose(1, 0, 2).reshape(1, pairs, layers * units)
    return np.quantile(_ranks(values), share, axis=1, method="higher").reshape(layers, units)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, 1 for the largest; ties in order."""
    return (-values).argsort(-1, kind="stable").argsort(-1, kind="stable") + 1


def set_sizes(increase: np.ndarray, ms: Sequence[int], pairs: Sequence[int], draws: int = 20, seed: int = 0):
    """How many neurons the paper's rule selects: a row per ``m`` and number of ``pairs``, mean over draws.

    Columns ``m, pairs, neurons``; m counts per layer.
    """
    rng, found, ranks = np.random.default_rng(seed), [], _ranks(increase)
    for number in pairs:
        chosen = [rng.choice(increase.shape[1], number, replace=False) for _ in range(draws)]
        worst = np.stack([ranks[:, some].max(1) for some in chosen])
        found += [{"m": m, "pairs": number, "neurons": (worst <= m).sum((1, 2)).mean()} for m in ms]
    return pd.DataFrame(found)


def chance_size(m: int, pairs: int, layers: int, units: int) -> float:
    """How many neurons would be among the top m of every pair if ranks were drawn anew in each."""
    return layers * units * (m / units) ** pairs


def neuron_table(
    study: StudyModel,
    prompts: pd.DataFrame,
    replies: pd.DataFrame | None = None,
    pool: str = "max",
    mode: str = "think",
    sentence: str | None = None,
    seed: int = 0,
    kind: str = "neurons",
) -> pd.DataFrame:
    """The scores of all rules, one row per neuron: ``layer, neuron, paper, half, increase, difference, gradient``.

    ``paper`` is the worst rank over pairs, ``half`` that over the better half of them, ``increase`` the mean increase
    of the pooled activation, ``difference`` that of the mean activation, with its sign; ``gradient`` the estimated
    change of the refusal logit difference without the neuron, read where the replies to ``prompts`` begin.
    ``replies`` are verdicts on harmful and harmless requests, for the readout; where nothing (or everything) was
    refused, or without them, ``gradient`` is NaN. With ``kind="residual"`` a row is a dimension of a residual (and
    ``layer`` its number, 0 to the number of layers); ``gradient`` is then NaN: it is an estimate for neurons.
    """
    harmful = prompts[prompts["kind"] == "harmful"]
    plain = own_conversations(study, harmful, mode, seed=seed)
    intent = own_conversations(study, with_intent(harmful, sentence or default_sentence(study)), mode, seed=seed)
    return as_table(
        increase=increases(study, plain, intent, kind, pool=pool),
        means=increases(study, plain, intent, kind, pool="mean"),
        gradient=_gradient(study, prompts, replies) if kind == "neurons" else None,
    )


def as_table(increase: np.ndarray, means: np.ndarray, gradient: np.ndarray | None) -> pd.DataFrame:
    """`neuron_table` from increases ``[layers, pairs, neurons]`` of maxima and of means, and a gradient."""
    layers, _, units = increase.shape
    index = pd.MultiIndex.from_product([range(layers), range(units)], names=["layer", "neuron"])
    columns = {
        "paper": worst_rank(increase),
        "half": worst_rank(increase, share=0.5),
        "increase": increase.mean(1),
        "difference": means.mean(1),
        "gradient": np.full(increase.shape[::2], np.nan) if gradient is None else gradient,
    }
    return pd.DataFrame({name: values.reshape(-1) for name, values in columns.items()}, index=index).reset_index()


def default_sentence(study: StudyModel) -> str | None:
    """The added sentence for a model: None (by category) if it speaks the invented language, else an English one."""
    return None if study.invented else ENGLISH_INTENT


def innocent_sentences(study: StudyModel) -> tuple[str, ...]:
    """The added sentences that declare nothing harmful, for a model."""
    return INNOCENT if study.invented else ENGLISH_INNOCENT


def gradient_by_mode(study: StudyModel, prompts: pd.DataFrame, replies: pd.DataFrame) -> dict[str, np.ndarray]:
    """The rule *gradient* in each mode's contexts alone: ``{mode: [layers, neurons]}``; empty where it is undefined."""
    found = {mode: _gradient(study, prompts, part, replies) for mode, part in replies.groupby("mode", sort=False)}
    return {mode: values for mode, values in found.items() if values is not None}


def _gradient(
    study: StudyModel, prompts: pd.DataFrame, replies: pd.DataFrame | None, begin: pd.DataFrame | None = None
) -> np.ndarray | None:
    """``begin``: the replies whose first words make the readout, by default the same."""
    begin = replies if begin is None else begin
    if replies is None or why_undefined(study, begin):
        return None
    asked = replies[replies["prompt_id"].isin(prompts.loc[prompts["kind"] == "harmful", "prompt_id"])]
    return attribution(study, contexts(study, asked, prompts), readout(study, begin))[1]


def why_undefined(study: StudyModel, replies: pd.DataFrame) -> str:
    """Why the rule *gradient* cannot be computed for a model; empty if it can."""
    try:
        readout(study, replies)
    except UserError as error:
        return f"the rule 'gradient' is left out for {study.name}: {error}"
    return ""


def select(table: pd.DataFrame, rule: str, k: int) -> list[tuple[int, int]]:
    """The ``k`` neurons that a rule of `RULES` ranks first; ties by the mean increase, then lower layer and number.

    By the paper's rule: the ``k`` that its sets reach first as m grows. Raises ``UserError`` where the rule is unknown
    or could not be computed, and for a ``k`` that is not a number of neurons.
    """
    if rule not in RULES:
        raise UserError(f"unknown rule '{rule}' (known: {', '.join(RULES)}){nearest(rule, RULES)}")
    if not 1 <= k <= len(table):
        raise UserError(f"k must be from 1 to {len(table)} neurons, not {k}")
    scores = scored(table, rule)
    if scores.isna().all():
        raise UserError(f"the rule '{rule}' is undefined here: the model refuses all or none of the requests")
    order = table.assign(score=scores).sort_values(["score", "increase"], ascending=False, kind="stable").head(k)
    return [(int(layer), int(neuron)) for layer, neuron in order[["layer", "neuron"]].to_numpy()]


def scored(table: pd.DataFrame, rule: str) -> pd.Series:
    """A rule's score of every neuron, larger for the more safety-critical."""
    return table[rule].abs() if rule == "difference" else -table[rule]


def defined_rules(table: pd.DataFrame) -> list[str]:
    """The rules that could be computed."""
    return [rule for rule in RULES if scored(table, rule).notna().all()]


def paper_set(table: pd.DataFrame, m: int) -> list[tuple[int, int]]:
    """The paper's set for one m per layer: it may be empty."""
    inside = table.loc[table["paper"] <= m, ["layer", "neuron"]]
    return [(int(layer), int(neuron)) for layer, neuron in inside.to_numpy()]


def massive(study: StudyModel, items: Sequence[Encoded], k: int, kind: str = "neurons") -> list[tuple[int, int]]:
    """The ``k`` neurons, or dimensions of the ``residual``, with the largest activations, by size, on any prompt.

    Read over the whole prompt, from its first token: that is where large models keep their massive activations.
    """
    whole = [replace(item, spans={**item.spans, WHOLE: (0, item.spans["last"][1])}) for item in items]
    return first(-read(study, whole, (kind,), (WHOLE,), "size")[kind, WHOLE].max(1), k)


def first(scores: np.ndarray, k: int) -> list[tuple[int, int]]:
    """The ``k`` places of ``[layers, neurons]`` with the lowest scores, as pairs (ties: lower layer, lower number)."""
    order = scores.ravel().argsort(kind="stable")[:k]
    return [tuple(map(int, divmod(int(index), scores.shape[1]))) for index in order]


def activation_by_token(study: StudyModel, text: str, unit: tuple[int, int], mode: str = "no-think") -> pd.DataFrame:
    """One neuron along a conversation up to the reply: a row per token, ``token, activation``."""
    import torch

    item = study.chat.encode(text, mode)
    with torch.inference_mode(), capture(study, ["neurons"]) as found:
        forward(study, torch.tensor([item.ids]), torch.ones(1, len(item.ids), dtype=torch.long))
    values = found["neurons"][unit[0]][0, :, unit[1]].float().cpu().numpy()
    return pd.DataFrame({"token": [study.tokenizer.decode([index]) for index in item.ids], "activation": values})
