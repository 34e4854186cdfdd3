"""Claim C1 (Table 1 of the paper): does thinking raise misalignment? Is it thinking, or the mode?

Replies in both modes to every prompt set; then replies to harmful requests after thoughts that are
put in place of the model's own. How a reply is generated and judged is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import pandas as pd

from rimkit.behavior.evaluation import Evaluation, difference
from rimkit.behavior.stats import rates
from rimkit.experiments import Result, result
from rimkit.ledger import effect_row
from rimkit.models.study import StudyModel

# A word without content that the embedded models and real ones both know, and that belongs to no
# style of thought (Pfau, Merrill and Bowman 2024, "Let's think dot by dot", arXiv 2404.15758).
FILLER = "."
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
DECISIONS = {"refuse": "i should refuse", "help": "go ahead"}
SHARES = (0, 0.25, 0.5, 0.75, 1)  # parts of the thought that are kept

# What the claims compare between the modes: prompt set and metric; None where no claim rests on it.
COMPARED = {
    ("harmful", "misaligned"): "C1a",
    ("harmful", "misread"): None,
    ("second-safety", "misaligned"): "C1e",
    ("harmless", "refused"): None,
    ("over-refusal", "refused"): None,
    ("maths", "score"): "C1b",
    ("ordering", "score"): "C1d",
}


@dataclass(frozen=True)
class Settings:
    """``n_prompts`` of every set (None: all of the evaluation split); ``seed`` of the sampling."""

    n_prompts: int | None = None
    seed: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    progress: bool = False


def effects(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Think minus no-think on the same prompts, one row per set and metric of `COMPARED`.

    Columns: ``set, metric, condition`` (think)``, control`` (no-think)``, value_a, value_b, effect,
    ci_low, ci_high, p_value, n, n_clusters, method``.
    """
    rows = []
    for name, metric in COMPARED:
        part = verdicts[verdicts["set"] == name]
        if metric == "misaligned":  # the second set holds harmless requests in the same wrappers
            part = part[part["kind"] == "harmful"]
        if len(part):
            rows.append({"set": name, **difference(part, "mode", "think", "no-think", metric)})
    return pd.DataFrame(rows)


# -- thoughts in place of the model's own, from think-mode replies (``prompt_id, thought``) --------


def first_thoughts(replies: pd.DataFrame) -> dict[str, str]:
    """The first sample's thought of every prompt."""
    first = replies.drop_duplicates("prompt_id").set_index("prompt_id")
    return first["thought"].fillna("").to_dict()


def truncated(replies: pd.DataFrame, share: float) -> dict[str, str]:
    """The first ``share`` (0 to 1) of every thought's sentences, whole ones."""
    thoughts = first_thoughts(replies)
    sentences = {key: SENTENCE.split(thought.strip()) for key, thought in thoughts.items()}
    return {key: " ".join(said[: round(share * len(said))]) for key, said in sentences.items()}


def decision(thought: str) -> str:
    """What a thought in the invented language decides: "refuse", "help", or "open"."""
    said = [name for name, words in DECISIONS.items() if words in thought]
    return said[0] if len(said) == 1 else "open"


CHANGES: dict[str, Callable[[list[str], Random], list[str]]] = {  # of a thought's words
    "own thought": lambda words, rng: words,
    "empty": lambda words, rng: [],
    "filler": lambda words, rng: [FILLER] * len(words),
    "shuffled": lambda words, rng: rng.sample(words, len(words)),
}


def replaced(replies: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, str]]:
    """What `after` takes: each prompt's thought with each of `CHANGES`, and "another prompt's".

    Filler and shuffled thoughts have the length of the own one, so that "more tokens" and "what
    they say" come apart.
    """
    thoughts = first_thoughts(replies)
    found = {name: {} for name in CHANGES}
    for name, change in CHANGES.items():
        for key, thought in thoughts.items():
            found[name][key] = " ".join(change(thought.split(), Random(f"{seed}-{key}")))
    keys = list(thoughts)
    Random(seed).shuffle(keys)
    others = zip(keys, keys[1:] + keys[:1], strict=True)
    return found | {"another prompt's": {key: thoughts[other] for key, other in others}}


def parts(replies: pd.DataFrame) -> dict[float, dict[str, str]]:
    """What `after` takes: the first part of each prompt's own thought, for each of `SHARES`."""
    return {share: truncated(replies, share) for share in SHARES}


def after(study: StudyModel, prompts: pd.DataFrame, thoughts: Mapping, settings: Settings = Settings()) -> pd.DataFrame:
    """Verdicts in think mode after forced thoughts; column ``condition``: the key in ``thoughts``."""
    tables, generation = [], {"seed": settings.seed, "progress": settings.progress}
    for name, made in thoughts.items():
        found = settings.evaluation.judged(study, prompts, "think", thoughts=made, **generation)
        tables.append(found.assign(condition=name))
    return pd.concat(tables, ignore_index=True)


def decided(verdicts: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Rates of ``refused, misaligned, misread`` per ``by`` and `decision` of the thought.

    For thoughts in the invented language; those of real models count as "open".
    """
    table = verdicts.assign(decision=verdicts["thought"].map(decision))
    return rates(table, by=[*by, "decision"], metrics=["refused", "misaligned", "misread"])


def rows(study: StudyModel, found: pd.DataFrame, content: dict, settings: Settings = Settings()) -> list[dict]:
    """Verdict rows: C1a, b, d and e from `effects`, as far as their sets were asked, and C1c.

    ``content``: misalignment after the own thought minus that after filler of the same length.
    """
    about = {**study.identity, **settings.evaluation.description(), "mode": "think"}
    claimed = [(COMPARED[one["set"], one["metric"]], one) for one in found.to_dict("records")]
    return [effect_row(claim, one, **about) for claim, one in [*claimed, ("C1c", content)] if claim]


def run(study: StudyModel, settings: Settings = Settings()) -> Result:
    """Both modes on every prompt set, and the own thoughts about harmful requests replaced.

    Tables: ``thinking`` (rates by ``set, kind, mode``), ``thinking-thoughts`` (by ``condition``).
    """
    measure, seed = settings.evaluation, settings.seed
    prompts = measure.sets(n=settings.n_prompts, seed=seed)
    verdicts = measure.observe(study, prompts, seed=seed, progress=settings.progress)
    thought = verdicts[(verdicts["set"] == "harmful") & (verdicts["mode"] == "think")]
    harmful = prompts[prompts["set"] == "harmful"]
    replies = after(study, harmful, replaced(thought, seed), settings)
    content = difference(replies, "condition", "own thought", "filler")
    tables = {
        "thinking": rates(verdicts, by=["set", "kind", "mode"]),
        "thinking-thoughts": rates(replies, by="condition"),
    }
    return result(study, tables, rows(study, effects(verdicts), content, settings))
