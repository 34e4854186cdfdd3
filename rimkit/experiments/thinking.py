"""Claims C1 and Q1 (Table 1 of the paper): does thinking raise misalignment, or is it the mode?

C1a thinking raises misalignment; C1b maths accuracy; C1d accuracy in ordering; C1e misalignment on
a second safety set; C1c own thoughts raise misalignment over filler of the same length; Q1a
thinking lowers the refusal of harmless requests that look harmful.

Words: the modes are *think*, where the model writes a thought first, and *no-think*, where an empty
thought stands in its place; a *set* is a list of prompts ("harmful", "maths" …); a *cluster*, which
intervals draw again, is one verb with its prompts; *readable* is coherent and about what was asked.

Steps: replies to evaluation prompts of every set in both modes, and `effects`, think minus
no-think; other thoughts, and the model's own, put in its place (`replaced_thoughts`,
`after_thoughts`); `competence`, how much is readable on the calibration split, which decides if a
claim is testable; `rows`. How a reply is generated and judged is not known here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

import pandas as pd
from pandas import DataFrame

from rimkit.behavior.evaluation import difference
from rimkit.behavior.stats import rates
from rimkit.experiments import Common, Found, Result, attempt, per_prompt, readable, result, testable, verdict_rows
from rimkit.models.chat import MODES
from rimkit.models.study import StudyModel

# A word without content that the embedded models and real ones both know, and that belongs to no
# style of thought (Pfau, Merrill and Bowman 2024, "Let's think dot by dot", arXiv 2404.15758).
FILLER = "."
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
SHARES = (0, 0.25, 0.5, 0.75, 1)  # of the thought that are kept
OWN, FILLED = "own thought", "filler"

# What the claims compare between the modes: prompt set and metric; None where no claim rests on it.
CLAIMS = {
    ("harmful", "misaligned"): "C1a", ("harmful", "misread"): None,
    ("second-safety", "misaligned"): "C1e",
    ("harmless", "refused"): None, ("over-refusal", "refused"): "Q1a",
    ("maths", "score"): "C1b", ("ordering", "score"): "C1d",
}  # fmt: skip
CHANGES: dict[str, Callable[[list[str], Random], list[str]]] = {  # of words: filler and shuffled keep their number
    OWN: lambda words, rng: words,
    "empty": lambda words, rng: [],
    FILLED: lambda words, rng: [FILLER] * len(words),
    "shuffled": lambda words, rng: rng.sample(words, len(words)),
}


@dataclass(frozen=True)
class Settings(Common):
    """``n_prompts`` of every set (None: all of the evaluation split)."""

    n_prompts: int | None = None


def effects(judged: DataFrame) -> DataFrame:
    """Think minus no-think: `difference` by ``set``, for each of `CLAIMS` that was asked."""
    rows = []
    for name, metric in CLAIMS:
        part = judged[judged["set"] == name]
        if metric == "misaligned":  # the second safety set has harmless requests, too
            part = part[part["kind"] == "harmful"]
        if len(part):
            rows.append({"set": name, **difference(part, "mode", "think", "no-think", metric)})
    return DataFrame(rows)


def first_thoughts(replies: DataFrame) -> dict[str, str]:
    """The first sample's thought of every prompt."""
    first = replies.drop_duplicates("prompt_id").set_index("prompt_id")
    return first["thought"].fillna("").to_dict()


def replaced_thoughts(replies: DataFrame, seed: int = 0) -> dict[str, dict[str, str]]:
    """What `after_thoughts` takes: thoughts with each of `CHANGES`, and "another prompt's"."""
    thoughts = first_thoughts(replies)
    words = {key: (thought.split(), f"{seed}-{key}") for key, thought in thoughts.items()}
    found = {
        name: {key: " ".join(change(said, Random(drawn))) for key, (said, drawn) in words.items()}
        for name, change in CHANGES.items()
    }
    keys = list(thoughts)
    Random(seed).shuffle(keys)
    others = zip(keys, keys[1:] + keys[:1], strict=True)
    return found | {"another prompt's": {key: thoughts[other] for key, other in others}}


def after_thoughts(study: StudyModel, prompts: DataFrame, thoughts: Mapping, settings=Settings()) -> DataFrame:
    """Judged replies in think mode after forced thoughts; ``condition``: key in ``thoughts``."""
    tables = [
        settings.judged(study, prompts, "think", thoughts=made).assign(condition=name)
        for name, made in thoughts.items()
    ]
    return pd.concat(tables, ignore_index=True)


def competence(study: StudyModel, settings=Settings()) -> pd.Series:
    """The share of readable replies on calibration prompts, by ``set`` and ``condition``: the
    modes, and for harmful requests the own thought put in place and the filler."""
    prompts = settings.sets(n=settings.n_competence, split="calibration")
    asked = prompts[(prompts["set"] != "second-safety") | (prompts["kind"] == "harmful")]
    judged = settings.observe(study, asked).assign(condition=lambda table: table["mode"])
    harmful = asked[asked["set"] == "harmful"]
    own = judged[(judged["set"] == "harmful") & (judged["mode"] == "think")]
    thoughts = {name: replaced_thoughts(own, settings.seed)[name] for name in (OWN, FILLED)}
    made = attempt(after_thoughts, study, harmful, thoughts, settings)
    every = [judged] if isinstance(made, str) else [judged, made]
    return readable(pd.concat(every), ["set", "condition"])


def rows(
    study: StudyModel, effect_table: DataFrame, own_minus_filler: Found, read: pd.Series, settings=Settings()
) -> list[dict]:
    """Verdict rows of C1 and Q1a from `effects`, and of C1c from the difference of both thoughts.
    ``read``: `competence`, by which a claim is testable or not."""
    claimed = []
    for one in effect_table.to_dict("records"):
        if claim := CLAIMS[one["set"], one["metric"]]:
            least = read[one["set"]][list(MODES)].min(skipna=False)
            claimed.append((claim, "think", testable(claim, one, read=least)))
    least = read["harmful"].reindex([OWN, FILLED]).min(skipna=False)
    claimed.append(("C1c", "think", testable("C1c", own_minus_filler, read=least)))
    return verdict_rows(study, settings, sorted(claimed))


def run(study: StudyModel, settings=Settings()) -> Result:
    """Both modes on every set, and thoughts replaced. Tables: ``thinking`` (rates by ``set, kind,
    mode``), ``thinking-thoughts`` (by ``condition``), and of both the replies ("…-judged")."""
    prompts = settings.sets(n=settings.n_prompts)
    judged = settings.observe(study, prompts)
    own = judged[(judged["set"] == "harmful") & (judged["mode"] == "think")]
    harmful = prompts[prompts["set"] == "harmful"]
    tables = {
        "thinking": rates(judged, by=["set", "kind", "mode"]),
        "thinking-judged": per_prompt(judged, "set", "kind", "mode"),
    }
    thoughts = replaced_thoughts(own, settings.seed)
    replies = attempt(after_thoughts, study, harmful, thoughts, settings)
    if not isinstance(replies, str):
        tables["thinking-thoughts"] = rates(replies, by="condition")
        tables["thinking-thoughts-judged"] = per_prompt(replies, "condition")
    own_minus_filler = replies if isinstance(replies, str) else difference(replies, "condition", OWN, FILLED)
    found = rows(study, effects(judged), own_minus_filler, competence(study, settings), settings)
    return result(study, tables, found)


# -- what only notebooks use -----------------------------------------------------------------------
def shortened_thoughts(replies: DataFrame) -> dict[float, dict[str, str]]:
    """What `after_thoughts` takes: the first `SHARES` (0 to 1) of each thought's sentences."""
    thoughts = first_thoughts(replies)
    said = {key: SENTENCE.split(thought.strip()) for key, thought in thoughts.items()}
    return {share: {key: " ".join(s[: round(share * len(s))]) for key, s in said.items()} for share in SHARES}
