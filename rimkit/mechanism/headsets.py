"""Claims C4 and C5 measured: which heads a rule selects, and what replies become without them.

Rule and number of heads are chosen on the calibration split (`choose`); what they carry is reported on the evaluation
split, from generated replies, against random sets with as many heads in every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rimkit.behavior.measure import difference, judged, load_sets, observe
from rimkit.behavior.rates import paired_difference, unpaired_difference
from rimkit.errors import UserError
from rimkit.ledger import effect_row, row
from rimkit.mechanism.ablation import (
    BEFORE_THOUGHT,
    NOTHING,
    RANDOM,
    SELECTED,
    Heads,
    against_random,
    without_heads,
    without_sight,
)
from rimkit.mechanism.heads import RULES, attention_by_span, head_table, moved_attention, random_sets, select
from rimkit.mechanism.readout import Readout, contexts, readout
from rimkit.models.chat import MODES
from rimkit.models.internals import architecture
from rimkit.models.loading import StudyModel

SHARE = 0.1  # of all heads: the largest set that is called specific
ANSWERED = 0.9  # of the harmless requests answered by the untouched model: what a specific set must leave


@dataclass(frozen=True)
class Screen:
    """All scores of all heads on calibration requests: ``table`` (`heads.head_table`), and the readout behind them."""

    table: pd.DataFrame
    read: Readout
    mode: str


def screen(study: StudyModel, n: int = 46, mode: str = "no-think", seed: int = 0) -> Screen:
    """Score every head on ``n`` harmful calibration requests, at the token from which the reply begins.

    Raises ``UserError`` where refusals cannot be told from fulfilments (none of one of them).
    """
    prompts = load_sets(["harmful", "harmless"], split="calibration", n=n, seed=seed)
    verdicts = observe(study, prompts, seed=seed, progress=False)
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
