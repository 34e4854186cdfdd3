"""What replies are measured with, from a model and prompt sets to verdicts and differences.

`Evaluation` says which prompt sets, which judge and how much room for replies; a chapter makes one from its parameters
and passes it down. Below it: what a model does without some heads or neurons, or with their view of the thought cut
off. Nothing here knows how an intervention, a judge or a prompt set works inside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from rimkit.behavior import prompts as prompt_tables
from rimkit.behavior.generation import USUAL, generate
from rimkit.behavior.judges import Judge, find_judge, judge
from rimkit.behavior.stats import paired_difference
from rimkit.data import UserError, find_table, nearest, shipped_tables
from rimkit.models.chat import MODES
from rimkit.models.hooks import cut_attention
from rimkit.models.hub import locate
from rimkit.models.interventions import ablate_heads, ablate_neurons_per_row
from rimkit.models.study import StudyModel

CUT_OFF = 0.1  # share of replies without an end from which a reader is told
SETS = ("harmful", "harmless", "over-refusal", "second-safety", "maths", "ordering")
# The workbook's sets that another can stand in for, and the kinds of prompts that each may hold.
KINDS = {
    "harmful": ("harmful",),
    "harmful-seen": ("harmful",),
    "second-safety": ("harmful", "harmless"),
    "harmless": ("harmless",),
    "over-refusal": ("harmless",),
    "maths": ("maths",),
    "ordering": ("ordering", "maths"),
}


@dataclass(frozen=True)
class Evaluation:
    """What replies are measured with; made and checked by `evaluation`.

    ``prompts``: set of the workbook -> what stands in for it (a benchmark's name, a file). ``judge``: "" is the model's
    own, "organism" where it speaks the invented language and "phrases" elsewhere. ``max_new_tokens``: room for the long
    replies of a model of one's own; 0 is what a step asks for.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    judge: str = ""
    max_new_tokens: int = 0

    def sets(
        self, names: Iterable[str] = SETS, *, split: str | None = "evaluation", n: int | None = None, seed: int = 0
    ) -> pd.DataFrame:
        """Several prompt sets as one table with the set's name in column ``set``; ``n`` prompts of each.

        Of a set that stands in, those of a fitting kind are used; their ids begin with the workbook's name, since one
        set may stand in for several. Raises `UserError` where there are none, and as `load_prompts`.
        """
        tables = [self._set(name, split=split, n=n, seed=seed).assign(set=name) for name in names]
        return pd.concat(tables, ignore_index=True)

    def _set(self, name: str, **part) -> pd.DataFrame:
        other = self.prompts.get(name)
        if other is None:
            return prompt_tables.load_prompts(name, **part)
        table = prompt_tables.load_prompts(other)
        kept = table[table["kind"].isin(KINDS[name])]
        if kept.empty:
            there = ", ".join(sorted(table["kind"].unique()))
            raise UserError(f"'{other}' cannot stand in for '{name}': it holds {there} prompts")
        return prompt_tables.part_of(kept.assign(prompt_id=f"{name}: " + kept["prompt_id"]), name, **part)

    def replies(
        self, study: StudyModel, prompts: pd.DataFrame, mode: str, *, max_new_tokens: int | None = None, **generation
    ) -> pd.DataFrame:
        """What `generate` returns, with room for a model of one's own that thinks at length.

        More than ``max_new_tokens`` only where a thought is written, or where no limit is given. The embedded models
        keep to what is asked.
        """
        writes_thought = mode == "think" and generation.get("thoughts") is None
        roomy = not study.invented and (writes_thought or max_new_tokens is None)
        asked = USUAL if max_new_tokens is None else max_new_tokens
        room = max(asked, self.max_new_tokens) if roomy else asked
        return generate(study, prompts, mode, max_new_tokens=room, **generation)

    def judged(
        self, study: StudyModel, prompts: pd.DataFrame, mode: str, *, how: str | Judge | None = None, **generation
    ) -> pd.DataFrame:
        """Generate in one mode and judge: a table of verdicts with the column ``model`` and, if given, ``set``.

        ``how`` is another judge for this one call.
        """
        replies = self.replies(study, prompts, mode, **generation)
        _say_cut_off(study, replies, mode)
        how = how or self.judge or ("organism" if study.invented else "phrases")
        verdicts = judge(replies, prompts, how)
        if "set" in prompts:
            verdicts["set"] = verdicts["prompt_id"].map(prompts.set_index("prompt_id")["set"])
        return verdicts.assign(model=study.name)

    def observe(
        self, study: StudyModel, prompts: pd.DataFrame, modes: Sequence[str] = MODES, **generation
    ) -> pd.DataFrame:
        """The same prompts in every mode: verdicts of all of them in one table."""
        return pd.concat([self.judged(study, prompts, mode, **generation) for mode in modes], ignore_index=True)

    def description(self) -> dict[str, str | None]:
        """Columns of a verdict row, files and folders by name: ``prompts`` ("harmful=hex-phi"), ``judge``."""
        names = [f"{name}={Path(other.partition('?')[0]).name}" for name, other in self.prompts.items()]
        kind, colon, source = self.judge.partition(":")
        name = f"guard:{Path(source).name}" if kind == "guard" and colon else self.judge
        return {"prompts": ", ".join(names) or None, "judge": name or None}

    def fingerprint(self) -> list[str]:
        """Hashes of the files in the choice: the same names with other prompts in them are another choice."""
        paths = [Path(other.partition("?")[0]) for other in self.prompts.values()]
        return [sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]

    def parameters(self) -> dict[str, str | int]:
        """The choice as the parameters ``prompt_sets, judge, max_new_tokens`` of a chapter, as far as one was made."""
        chosen = ", ".join(f"{name}={other}" for name, other in self.prompts.items())
        every = {"prompt_sets": chosen, "judge": self.judge, "max_new_tokens": self.max_new_tokens}
        return {name: value for name, value in every.items() if value}


def evaluation(prompts: str | Mapping[str, str] = "", judge: str = "", max_new_tokens: int = 0) -> Evaluation:
    """The `Evaluation` for other prompt sets, another judge and longer replies than the workbook's own.

    ``prompts``: a set of the workbook (`KINDS`) to what stands in for it, whatever `load_prompts` takes; as a text,
    "harmful=hex-phi, maths=my.csv?text=question". ``judge``: a name that `find_judge` knows. Files and folders become
    absolute paths. Raises `UserError` for an unknown set or judge, and for a file or folder that is not there.
    """
    if isinstance(prompts, str):
        prompts = dict(map(_pair, re.split(r",\s*(?=[\w-]+=)", prompts))) if prompts.strip() else {}
    for name in prompts:
        if name not in KINDS:
            raise UserError(f"no chapter asks for the prompt set '{name}'{nearest(name, KINDS)} ({', '.join(KINDS)})")
    if int(max_new_tokens) != max_new_tokens or max_new_tokens < 0:
        raise UserError(f"max_new_tokens is a whole number of tokens, 0 or more, not {max_new_tokens}")
    return Evaluation({name: _stand_in(name, prompts[name]) for name in sorted(prompts)}, _judge(judge), max_new_tokens)


def _pair(text: str) -> tuple[str, str]:
    name, equals, other = text.strip().partition("=")
    if not equals:
        raise UserError(f"'{text.strip()}' names no stand-in: write harmful=hex-phi, maths=my.csv")
    return name.strip(), other.strip()


def _stand_in(name: str, other: str) -> str:
    """A set that there is, its file wherever it is read from: chapters run in a folder of their own."""
    if prompt_tables.named(other):
        return other
    path, mark, query = other.partition("?")
    shipped = shipped_tables("prompts")
    if not path:
        raise UserError(f"nothing stands in for '{name}': write {name}=hex-phi, or a file")
    file = find_table(Path(os.path.expanduser(path)), shipped, "prompt set", tuple(prompt_tables.BENCHMARKS))
    return other if path in shipped else f"{file.resolve()}{mark}{query}"


def _judge(name: str) -> str:
    """A judge that there is, the folder of a guard as an absolute path."""
    if name:
        find_judge(name)
    kind, colon, source = name.partition(":")
    if kind != "guard" or not colon:
        return name
    place = locate(source).source
    return f"guard:{Path(place).resolve()}" if Path(place).is_dir() else name


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


def load_sets(names: Iterable[str] = SETS, *, evaluation: Evaluation = Evaluation(), **part) -> pd.DataFrame:
    """`Evaluation.sets`, for code that has no evaluation of its own yet."""
    return evaluation.sets(names, **part)


def judged(
    study: StudyModel, prompts: pd.DataFrame, mode: str, *, evaluation: Evaluation = Evaluation(), **generation
) -> pd.DataFrame:
    """`Evaluation.judged`, for code that has no evaluation of its own yet."""
    return evaluation.judged(study, prompts, mode, **generation)


def observe(
    study: StudyModel,
    prompts: pd.DataFrame,
    modes: Sequence[str] = MODES,
    *,
    evaluation: Evaluation = Evaluation(),
    **generation,
) -> pd.DataFrame:
    """`Evaluation.observe`, for code that has no evaluation of its own yet."""
    return evaluation.observe(study, prompts, modes, **generation)


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
        [prompts.assign(luck=prompts["prompt_id"], condition=name) for name in conditions], ignore_index=True
    )
    copies["prompt_id"] = [f"{number}" for number in range(len(copies))]
    of = copies.set_index("prompt_id")

    def around(spans: list[dict], prompt_ids: list[str]) -> AbstractContextManager:
        return together([conditions[name] for name in of.loc[prompt_ids, "condition"]])

    found = observe(study, copies, modes, around=around, batch_size=batch_size, **generation)
    original = of.loc[found["prompt_id"]]
    return found.assign(prompt_id=original["luck"].to_numpy(), condition=original["condition"].to_numpy())


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
