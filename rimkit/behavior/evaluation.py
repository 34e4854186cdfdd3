"""From a model and prompt sets to verdicts and differences: the steps that every experiment shares.

What a model does without some heads or neurons, or with their view of the thought cut off: replies, judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd

from rimkit.behavior import chosen
from rimkit.behavior.generation import COPY, generate
from rimkit.behavior.judges import Judge, judge
from rimkit.behavior.prompts import load_prompts
from rimkit.behavior.stats import paired_difference
from rimkit.models.chat import MODES
from rimkit.models.hooks import cut_attention
from rimkit.models.interventions import ablate_heads, ablate_neurons_per_row
from rimkit.models.study import StudyModel

# -- behavior.measure ----------
CUT_OFF = 0.1  # share of replies without an end from which a reader is told
SETS = ("harmful", "harmless", "over-refusal", "second-safety", "maths", "ordering")


def load_sets(
    names: Iterable[str] = SETS, *, split: str | None = "evaluation", n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Several prompt sets as one table with the set's name in column ``set``; ``n`` prompts of each."""
    return pd.concat(
        [load_prompts(name, split=split, n=n, seed=seed).assign(set=name) for name in names], ignore_index=True
    )


def judged(
    model: StudyModel, prompts: pd.DataFrame, mode: str, *, how: str | Judge | None = None, **generation
) -> pd.DataFrame:
    """Generate in one mode and judge: a table of verdicts with the column ``model`` and, if given, ``set``.

    ``how`` is a judge; by default the one that was chosen (`rimkit.behavior.chosen`), else the exact one for models
    that speak the invented language and refusal phrases for all others.
    """
    replies = generate(model, prompts, mode, **generation)
    _say_cut_off(model, replies, mode)
    how = how or chosen.judge() or ("organism" if model.invented else "phrases")
    verdicts = judge(replies, prompts, how)
    if "set" in prompts:
        verdicts["set"] = verdicts["prompt_id"].map(prompts.set_index("prompt_id")["set"])
    return verdicts.assign(model=model.name)


def _say_cut_off(model: StudyModel, replies: pd.DataFrame, mode: str) -> None:
    """Say, once for a model and mode, that many replies did not end."""
    cut = ~replies["finished"].astype(bool)
    if not model.invented and cut.mean() > CUT_OFF and (model.name, mode) not in _said:
        _said.add((model.name, mode))
        print(
            f"note: {cut.sum()} of {len(cut)} replies of {model.name} in {mode} mode did not end, and are judged by "
            "what is there, which is nothing where a thought was cut off ('rimkit run --max-new-tokens N' gives room)"
        )


_said: set[tuple[str, str]] = set()


def observe(model: StudyModel, prompts: pd.DataFrame, modes: Sequence[str] = MODES, **generation) -> pd.DataFrame:
    """The same prompts in every mode: verdicts of all of them in one table."""
    return pd.concat([judged(model, prompts, mode, **generation) for mode in modes], ignore_index=True)


def difference(verdicts: pd.DataFrame, column: str, treated: str, control: str, metric: str = "misaligned") -> dict:
    """Paired difference in ``metric`` between two values of ``column``, clustered by verb.

    Several replies to one prompt (samples, or conditions that are pooled) are averaged first.
    """
    a, b = (
        verdicts[verdicts[column] == value]
        .groupby("prompt_id", as_index=False)
        .agg({metric: "mean", "cluster": "first"})
        for value in (treated, control)
    )
    result = paired_difference(a, b, metric, on="prompt_id")
    return {"metric": metric, "condition": treated, "control": control, **result._asdict()}


# -- mechanism.ablation ----------
T = TypeVar("T")  # what a condition is: a set of neurons, a steering
Heads = Neurons = Sequence[tuple[int, int]]
NOTHING, SELECTED, RANDOM = "nothing", "selected", "random"
BEFORE_THOUGHT = "before the thought"
# Where each outcome goes if a set matters to safety or reasoning: the direction in which random sets are counted.
DIRECTIONS = {"misaligned": 1, "misread": 1, "refused": -1, "coherent": -1, "score": -1}


def under(
    study: StudyModel,
    prompts: pd.DataFrame,
    conditions: Mapping[str, Callable[[], AbstractContextManager]],
    modes: Sequence[str] = ("no-think",),
    **generation,
) -> pd.DataFrame:
    """Verdicts under each condition, a function that makes the context to generate in; column ``condition``.

    Every condition meets the same sampling noise.
    """
    tables = []
    for name, make in conditions.items():
        with make():
            tables.append(observe(study, prompts, modes, **generation).assign(condition=name))
    return pd.concat(tables, ignore_index=True)


def without_heads(
    study: StudyModel, prompts: pd.DataFrame, sets: Mapping[str, Heads], mean: np.ndarray | None = None, **generation
) -> pd.DataFrame:
    """`under` the ablation (zero, or ``mean``) of every set of heads; an empty set is the model as it is."""
    conditions = {
        name: partial(ablate_heads, study, heads, mean) if len(heads) else nullcontext for name, heads in sets.items()
    }
    return under(study, prompts, conditions, **generation)


def without_neurons(
    study: StudyModel,
    prompts: pd.DataFrame,
    sets: Mapping[str, Neurons],
    mean: np.ndarray | None = None,
    modes: Sequence[str] = ("no-think",),
    kind: str = "neurons",
    **generation,
) -> pd.DataFrame:
    """As `without_heads`, for sets of ``(layer, neuron)`` pairs; ``mean`` is ``[layers, neurons]``.

    ``kind="residual"``: (residual, dimension) pairs. All sets are generated together, each row of a batch without its
    own set.
    """

    def together(chosen: list[Neurons]) -> AbstractContextManager:
        return ablate_neurons_per_row(study, chosen, mean, kind)

    return under_together(study, prompts, sets, together, modes, **generation)


def under_together(
    study: StudyModel,
    prompts: pd.DataFrame,
    conditions: Mapping[str, T],
    together: Callable[[list[T]], AbstractContextManager],
    modes: Sequence[str] = ("no-think",),
    batch_size: int = 320,
    **generation,
) -> pd.DataFrame:
    """What `under` returns, all conditions in the same batches: many times faster for few prompts each.

    ``together`` makes the context of a batch from the condition of each of its rows.
    """
    copies = pd.concat(
        [prompts.assign(prompt_id=prompts["prompt_id"] + COPY + name) for name in conditions], ignore_index=True
    )

    def around(spans: list[dict], prompt_ids: list[str]) -> AbstractContextManager:
        return together([conditions[prompt_id.partition(COPY)[2]] for prompt_id in prompt_ids])

    found = observe(study, copies, modes, around=around, batch_size=batch_size, **generation)
    parts = found["prompt_id"].str.partition(COPY)
    return found.assign(prompt_id=parts[0], condition=parts[2])


def against_random(verdicts: pd.DataFrame, metric: str = "refused", direction: int | None = None) -> dict:
    """A selected set (``condition`` "selected") against random ones (the names that begin with "random").

    The difference in ``metric`` with its interval (paired by prompt, random sets averaged, clustered by verb), and
    ``share``: of the random sets, how many move the metric at least as far up (``direction`` 1) or down (-1; by
    default as in `DIRECTIONS`). One is counted in for the selected set itself, so that it is an exact, one-sided p
    value of a random choice of set: the interval is about other verbs, the share about other sets.
    """
    role = verdicts["condition"].str.replace(r" .*", "", regex=True)
    found = difference(verdicts.assign(role=role), "role", SELECTED, RANDOM, metric)
    means = verdicts.groupby("condition")[metric].mean()
    moved = (DIRECTIONS[metric] if direction is None else direction) * means.astype(float)
    random = moved[[name for name in moved.index if name.startswith(RANDOM)]]
    share = (1 + (random >= moved[SELECTED] - 1e-9).sum()) / (1 + len(random))
    return {**found, "share": float(share), "n_random": len(random)}


def cut_off(
    study: StudyModel, heads: Heads | None, key: str = "thought"
) -> Callable[[list[dict], list[str]], AbstractContextManager]:
    """For ``generate(..., around=...)``: while they reply, heads (None: all) cannot look at a span of the prompt.

    The reply's tokens and the one before them (span ``last``) are cut off from ``key``: a span's name, or
    `BEFORE_THOUGHT`, as many tokens as the thought has, from right before it.
    """

    def around(spans: list[dict], prompt_ids: list[str]) -> AbstractContextManager:
        replying = [(place["last"][0], None) for place in spans]
        return cut_attention(study, replying, [_hidden(place, key) for place in spans], heads)

    return around


def _hidden(place: dict, key: str) -> tuple[int, int]:
    if key != BEFORE_THOUGHT:
        return place.get(key, (0, 0))
    start, end = place.get("thought", (0, 0))
    opened = place.get("think_open", (0, 0))[0]
    return max(0, opened - (end - start)), opened


def without_sight(
    study: StudyModel,
    prompts: pd.DataFrame,
    thoughts: Mapping[str, str],
    cuts: Mapping[str, tuple[Heads | None, str]],
    **generation,
) -> pd.DataFrame:
    """Replies after forced thoughts, while heads cannot look at a span; ``cuts`` maps a name to (heads, span).

    An empty list of heads is the model as it is. Column ``condition`` names the cut.
    """
    tables = []
    for name, (heads, span) in cuts.items():
        around = None if heads is not None and len(heads) == 0 else cut_off(study, heads, span)
        found = judged(study, prompts, "think", thoughts=thoughts, around=around, **generation)
        tables.append(found.assign(condition=name))
    return pd.concat(tables, ignore_index=True)
