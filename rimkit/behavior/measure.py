"""From a model and prompt sets to verdicts and differences: the steps that every experiment shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from rimkit.behavior import chosen
from rimkit.behavior.generation import generate
from rimkit.behavior.judges import Judge, judge
from rimkit.behavior.prompts import load_prompts
from rimkit.behavior.rates import paired_difference
from rimkit.models.chat import MODES
from rimkit.models.loading import StudyModel

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
