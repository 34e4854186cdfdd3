"""Claims C4 and C5 (sections 3.2 and B of the paper): which heads carry refusal, and what four rules say about it.

1. *paper*: on how many prompts the strongest attention of the first generated token moves from ``assistant`` (think
   mode) to the empty think span (no-think mode). The paper gives no number of heads to select and no threshold.
2. *attention*: how much of that token's attention goes to each span.
3. *direct*: what the head writes, along the direction in which the refusal logit difference grows.
4. *causal*: the change of the refusal logit difference without the head; and *gradient*, its estimate.

Select on the calibration split, report generated refusals on the evaluation split, against random sets.

Claims C4 and C5 measured: which heads a rule selects, and what replies become without them.

Rule and number of heads are chosen on the calibration split (`choose`); what they carry is reported on the evaluation
split, from generated replies, against random sets with as many heads in every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rimkit.behavior.evaluation import (
    BEFORE_THOUGHT,
    NOTHING,
    RANDOM,
    SELECTED,
    Evaluation,
    Heads,
    against_random,
    difference,
    judged,
    without_heads,
    without_sight,
)
from rimkit.behavior.refusal_score import Readout, at_last, attribution, contexts, head_effects, readout, table
from rimkit.behavior.stats import matched_sets, paired_difference, unpaired_difference
from rimkit.data import UserError, nearest
from rimkit.ledger import effect_row, row
from rimkit.models.activations import batches, capture, forward
from rimkit.models.chat import MODES, Encoded
from rimkit.models.hooks import architecture, head_writes, logits_at_the_end, reading_rows
from rimkit.models.study import StudyModel

# -- mechanism.heads ----------
SPANS = ("request", "im_end", "assistant", "think_open", "empty", "thought", "think_close")
RULES = {"paper": 1, "attention": 1, "direct": 1, "causal": -1, "gradient": -1}  # the sign of what is selected


def attention_by_span(study: StudyModel, items: Sequence[Encoded], batch_size: int = 64) -> dict[str, np.ndarray]:
    """Attention of the last token before the reply: the mass on each span, ``{span: [layers, heads, prompts]}``.

    A span that a conversation does not have gets 0. The key ``"strongest"`` holds the position with the most
    attention, counted in the conversation's own tokens.
    """
    import torch

    parts = architecture(study)
    shape = (parts.n_layers, parts.n_heads, len(items))
    found = {span: np.zeros(shape, dtype=np.float32) for span in SPANS} | {"strongest": np.zeros(shape, dtype=int)}

    def run(ids, mask, places):
        last = torch.tensor([[place["last"][0]] for place in places])
        with torch.inference_mode(), reading_rows(study, last) as rows:
            forward(study, ids, mask)
        attention = torch.stack([row[:, :, 0] for row in rows]).float().cpu()  # [layers, batch, heads, keys]
        mass = {span: torch.stack([attention[:, row, :, slice(*place.get(span, (0, 0)))].sum(-1)
                                   for row, place in enumerate(places)], -1) for span in SPANS}  # fmt: skip
        return mass | {"strongest": attention.argmax(-1).transpose(1, 2)}

    for rows, mass in batches(study, items, batch_size, run):
        for span, values in mass.items():
            found[span][:, :, rows] = values.numpy()
    return found


def attention_row(study: StudyModel, item: Encoded) -> np.ndarray:
    """Attention of the last token before the reply over one conversation: ``[layers, heads, tokens]``."""
    import torch

    ids = torch.tensor([item.ids], device=study.device)
    with torch.inference_mode(), reading_rows(study, torch.tensor([[item.spans["last"][0]]])) as rows:
        forward(study, ids, torch.ones_like(ids))
    return torch.stack([row[0, :, 0] for row in rows]).float().cpu().numpy()


def moved_attention(study: StudyModel, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """The paper's rule: bool ``[layers, heads, prompts]``, whether the strongest attention moves between the modes.

    From ``assistant`` in think mode to the empty think span in no-think mode, in the row of the last prompt token,
    from which the first token is generated. (In think mode that token opens the thought, in no-think mode it begins
    the reply: the rule compares two different events.)
    """
    inside = []
    for mode, span in (("think", "assistant"), ("no-think", "empty")):
        items = [study.chat.encode(text, mode) for text in texts]
        if not all(span in item.spans for item in items):
            raise UserError(f"{study.name}: its {mode} prompts have no span '{span}', which the paper's rule needs")
        strongest = attention_by_span(study, items, batch_size)["strongest"]
        start, end = (np.array([item.spans[span][side] for item in items]) for side in (0, 1))
        inside.append((strongest >= start) & (strongest < end))
    return inside[0] & inside[1]


def direct_effects(study: StudyModel, items: Sequence[Encoded], read: Readout, batch_size: int = 64) -> np.ndarray:
    """What each head writes at the last token, along the gradient of the refusal logit difference there.

    ``[layers, heads, prompts]``: positive where the head, directly, speaks for refusal (final norm linearised).
    """
    import torch

    parts = architecture(study)
    found = np.zeros((parts.n_layers, parts.n_heads, len(items)), dtype=np.float32)

    def run(ids, mask, spans):
        with torch.no_grad(), capture(study, ["residual", "z"]) as inside:
            forward(study, ids, mask)
            end = at_last(inside["residual"][-1], spans)
            z = [at_last(values, spans) for values in inside["z"]]
        with torch.enable_grad():
            end = end.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(read(logits_at_the_end(study, end)).sum(), end)
        with torch.no_grad():
            return torch.stack([head_writes(study, layer, z[layer]) @ gradient[..., None] for layer in range(len(z))])

    for rows, values in batches(study, items, batch_size, run):
        found[:, :, rows] = values[..., 0].transpose(1, 2).float().cpu().numpy()
    return found


def head_table(
    study: StudyModel,
    texts: Sequence[str],
    contexts: Mapping[str, Sequence[Encoded]],
    read: Readout,
    mode: str = "no-think",
    batch_size: int = 64,
) -> pd.DataFrame:
    """All scores of all heads, one row each, means over prompts.

    ``texts``: requests, for the paper's rule; ``contexts``: for both modes, conversations about such requests up to
    where the reply begins (in think mode with a thought), for all other scores.
    Columns: ``layer, head``; ``paper`` (share of requests); ``attention`` (mass on the empty think span, no-think
    mode); ``direct``, ``causal`` and ``gradient`` (units of the logit difference, in ``mode``); and per span ``to
    <span>`` (attention in ``mode``) and ``change to <span>`` (no-think minus think).
    """
    items = contexts[mode]
    mass = {name: attention_by_span(study, rows, batch_size) for name, rows in contexts.items()}
    scores = {
        "paper": moved_attention(study, texts, batch_size).mean(-1),
        "attention": mass["no-think"]["empty"].mean(-1),
        "direct": direct_effects(study, items, read, batch_size).mean(-1),
        "causal": head_effects(study, items, read, batch_size).mean(-1),
        "gradient": attribution(study, items, read, batch_size)[0],
    }
    scores |= {f"to {span}": mass[mode][span].mean(-1) for span in SPANS}
    scores |= {f"change to {span}": mass["no-think"][span].mean(-1) - mass["think"][span].mean(-1) for span in SPANS}
    return table(study, **scores)


def select(table: pd.DataFrame, rule: str, k: int) -> list[tuple[int, int]]:
    """The ``k`` heads that a rule of `RULES` ranks first (ties: lower layer, then lower head).

    Fewer where fewer have a score of the rule's sign: a head that never shows the paper's pattern, or whose loss raises
    refusal, is no refusal head by that rule.
    """
    if rule not in RULES:
        raise UserError(f"unknown rule '{rule}' (known: {', '.join(RULES)}){nearest(rule, RULES)}")
    if not 1 <= k <= len(table):
        raise UserError(f"k must be from 1 to {len(table)} heads, not {k}")
    score = RULES[rule] * table[rule]
    order = (-score[score > 0]).sort_values(kind="stable").index[:k]
    return [(int(layer), int(head)) for layer, head in table.loc[order, ["layer", "head"]].to_numpy()]


def random_sets(
    study: StudyModel, heads: Sequence[tuple[int, int]], n: int = 40, seed: int = 0
) -> list[list[tuple[int, int]]]:
    """``n`` sets of other heads with as many in every layer as ``heads`` has, drawn without replacement per set.

    Where a layer has too few other heads, the set's own are drawn from as well.
    """
    return matched_sets(heads, architecture(study).n_heads, n, seed)


# -- mechanism.headsets ----------
SHARE = 0.1  # of all heads: the largest set that is called specific
ANSWERED = 0.9  # of the harmless requests answered by the untouched model: what a specific set must leave


@dataclass(frozen=True)
class Screen:
    """All scores of all heads on calibration requests: ``table`` (`heads.head_table`), and the readout behind them."""

    table: pd.DataFrame
    read: Readout
    mode: str


def screen(
    study: StudyModel, n: int = 46, mode: str = "no-think", seed: int = 0, evaluation: Evaluation = Evaluation()
) -> Screen:
    """Score every head on ``n`` harmful calibration requests, at the token from which the reply begins.

    Raises ``UserError`` where refusals cannot be told from fulfilments (none of one of them).
    """
    prompts = evaluation.sets(["harmful", "harmless"], split="calibration", n=n, seed=seed)
    verdicts = evaluation.observe(study, prompts, seed=seed, progress=False)
    read, harmful = readout(study, verdicts), verdicts[verdicts["kind"] == "harmful"]
    items = {name: contexts(study, harmful[harmful["mode"] == name], prompts) for name in MODES}
    texts = prompts.loc[prompts["kind"] == "harmful", "text"].tolist()
    return Screen(head_table(study, texts, items, read, mode), read, mode)


def set_sizes(study: StudyModel) -> list[int]:
    """1, 2, 4, 8 heads and a tenth of all, as far as the model has so many."""
    parts = architecture(study)
    total = parts.n_layers * parts.n_heads
    return sorted(k for k in {1, 2, 4, 8, max(1, int(SHARE * total))} if k <= total)


def choose(
    study: StudyModel, table: pd.DataFrame, prompts: pd.DataFrame, mode: str = "no-think", **generation
) -> pd.DataFrame:
    """What generated calibration replies become without the first k heads of every rule.

    ``prompts``: harmful and harmless ones. Columns ``rule, k, heads`` (a list)``, refused`` (of the harmful ones)``,
    answered`` (of the harmless ones)``, specific`` (harmless requests stay answered, `ANSWERED`, with at most `SHARE`
    of all heads). The first row is the untouched model (k = 0).
    """
    rows = [("none", 0, ())]
    chosen = [(rule, k, tuple(sorted(select(table, rule, k)))) for rule in RULES for k in set_sizes(study)]
    rows += [(rule, k, heads) for rule, k, heads in chosen if len(heads) == k]  # a rule can run out of heads
    sets = {str(heads): heads for _, _, heads in rows}  # rules often agree: every set is run once
    verdicts = without_heads(study, prompts, sets, modes=[mode], **generation)
    harmful = verdicts["kind"] == "harmful"
    refused = verdicts[harmful].groupby("condition")["refused"].mean()
    answered = verdicts[~harmful].groupby("condition")["score"].mean()
    found = pd.DataFrame(rows, columns=["rule", "k", "heads"])
    key = found["heads"].map(str)
    found = found.assign(refused=key.map(refused), answered=key.map(answered))
    kept = (found["answered"] >= ANSWERED * found["answered"].iloc[0]) & (found["k"] <= max(1, SHARE * len(table)))
    return found.assign(specific=kept & (found["k"] > 0), heads=found["heads"].map(list))


def best(choices: pd.DataFrame, rule: str | None = None) -> pd.Series:
    """Of `choose`: the specific set with the fewest refusals left (of one rule, if given); fewer heads win ties.

    Without a specific set: the smallest one, since a rule has to be judged by something. Raises ``UserError`` where the
    rule selected no head at all.
    """
    rows = choices[choices["k"] > 0] if rule is None else choices[choices["rule"] == rule]
    if rows.empty:
        raise UserError(f"the rule '{rule}' selects no head of this model")
    kept = rows[rows["specific"]]
    ordered = rows.sort_values("k", kind="stable") if kept.empty else kept.sort_values(["refused", "k"], kind="stable")
    return ordered.iloc[0]


def with_random(study: StudyModel, heads: Heads, n_random: int = 40, seed: int = 0) -> dict[str, Heads]:
    """Sets for `ablation.without_heads`: ``nothing``, ``selected``, and ``random 0`` … matched by layer."""
    random = {f"{RANDOM} {i}": found for i, found in enumerate(random_sets(study, heads, n_random, seed))}
    return {NOTHING: [], SELECTED: heads, **random}


# -- where heads look --------------------------------------------------------------------------------------


def moves(study: StudyModel, prompts: pd.DataFrame) -> pd.DataFrame:
    """The paper's rule on every request: column ``moved``, the share of all heads that show the pattern there."""
    moved = moved_attention(study, prompts["text"].tolist())
    return prompts[["prompt_id", "kind", "cluster"]].assign(moved=moved.mean((0, 1)))


def looking(
    study: StudyModel, prompts: pd.DataFrame, sets: Mapping[str, Heads], thought: str | None = None
) -> pd.DataFrame:
    """Attention of sets of heads to what stands between the think tags, a row per request and set.

    ``thought``: None for no-think mode with its empty span, else a text written between the tags in think mode.
    Columns ``prompt_id, cluster, condition, between`` (mean mass over the heads of the set).
    """
    mode, span = ("no-think", "empty") if thought is None else ("think", "thought")
    items = [study.chat.encode(text, mode, thought=thought) for text in prompts["text"]]
    mass = attention_by_span(study, items)[span]
    asked = prompts[["prompt_id", "cluster"]]
    tables = [
        asked.assign(condition=name, between=np.mean([mass[place] for place in heads], axis=0))
        for name, heads in sets.items()
        if len(heads)
    ]
    return pd.concat(tables, ignore_index=True)


def cut_replies(
    study: StudyModel, prompts: pd.DataFrame, heads: Heads, n_random: int = 10, seed: int = 0, **generation
) -> pd.DataFrame:
    """Replies after the model's own thoughts, while heads cannot look back at a part of the conversation.

    Conditions: ``nothing``; the ``selected`` heads, as many ``random 0`` … in the same layers, and ``all heads`` cut
    off from the thought; ``all heads, before`` cut off from as many tokens right before it. Column ``thought`` holds
    the thought that stays the same in all of them.
    """
    own = judged(study, prompts, "think", seed=seed, **generation)
    thoughts = own.set_index("prompt_id")["thought"].to_dict()
    cuts: dict[str, tuple[Heads | None, str]] = {NOTHING: ([], "thought"), SELECTED: (heads, "thought")}
    cuts |= {f"{RANDOM} {i}": (found, "thought") for i, found in enumerate(random_sets(study, heads, n_random, seed))}
    cuts |= {"all heads": (None, "thought"), "all heads, before": (None, BEFORE_THOUGHT)}
    return without_sight(study, prompts, thoughts, cuts, seed=seed, **{**generation, "max_new_tokens": 32})


# -- claims ------------------------------------------------------------------------------------------------


def moves_row(table: pd.DataFrame, *, model: str, **values) -> dict:
    """C4a: the paper's pattern on harmful minus harmless requests (`moves` of both)."""
    harmful = table["kind"] == "harmful"
    effect = unpaired_difference(table[harmful], table[~harmful], "moved")
    return effect_row("C4a", effect, model=model, **values)


def looking_row(table: pd.DataFrame, *, model: str, **values) -> dict:
    """C4b: attention of the selected heads to the empty think span, minus that of random heads (`looking`)."""
    role = table["condition"].str.replace(r" .*", "", regex=True)
    sides = [
        table[role == name].groupby("prompt_id", as_index=False).agg({"between": "mean", "cluster": "first"})
        for name in (SELECTED, RANDOM)
    ]
    effect = paired_difference(*sides, "between", on="prompt_id")
    return effect_row("C4b", effect, model=model, mode="no-think", **values)


def cut_row(verdicts: pd.DataFrame, *, model: str, **values) -> dict:
    """C5c: refusals in think mode while the selected heads cannot see the thought, minus other heads in their place.

    ``verdicts``: `ablation.without_sight`, conditions "selected" and "random 0" …
    """
    role = verdicts["condition"].str.replace(r" .*", "", regex=True)
    effect = difference(verdicts.assign(role=role), "role", SELECTED, RANDOM, "refused")
    return effect_row("C5c", effect, model=model, mode="think", **values)


def ablation_rows(verdicts: pd.DataFrame, condition: str | None = None, *, model: str, **values) -> list[dict]:
    """C5a and C5b from `without_heads` of `with_random`: refusals and compliance against random sets.

    ``condition`` names what the rows are about; None: they stand for the claims. The share of random sets that lower
    refusals as much has a row of its own (metric ``random_share``).
    """
    part = {} if condition is None else {"condition": condition}
    effects = {"C5a": against_random(verdicts, "refused"), "C5b": against_random(verdicts, "misaligned")}
    rows = [effect_row(claim, effect, model=model, **part, **values) for claim, effect in effects.items()]
    share = {"metric": "random_share", "value": effects["C5a"]["share"], "n": effects["C5a"]["n_random"]}
    return [*rows, row("C5a", model=model, control=None, **share, **part, **values)]
