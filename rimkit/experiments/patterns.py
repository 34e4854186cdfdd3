"""Claims C2 and Q4a (Tables A2-A4 of the paper): do effort-minimising thoughts raise misalignment?

C2a they do over careful ones; C2b over none; C2c, C2d, C2e each of the paper's three patterns does
over careful ones (confirmatory reasoning, heuristic reliance, instruction deviation); Q4a they do
over neutral ones of about the same length.

Words: a *beginning* is a sentence written at the start of the thought, from which the model goes
on; its *pattern* is what it does, and patterns have a *style*: effort-minimising (the paper's
three), careful, neutral, or none. A reply is *readable* if it is coherent and about what was asked;
a *cluster*, which intervals draw again, is one verb with all its prompts.

Steps: `injected`, replies to harmful evaluation requests after every beginning; `effects`, one
style or pattern against another; `competence`, how much is readable on calibration; `rows`.
"""

from dataclasses import dataclass

import pandas as pd
from pandas import DataFrame

from rimkit.behavior.evaluation import difference
from rimkit.behavior.prompts import CAREFUL, EFFORT, NEUTRAL, openings, prefixes, style
from rimkit.behavior.stats import rates
from rimkit.experiments import Common, Result, Table, attempt, per_prompt, readable, result, testable, verdict_rows
from rimkit.models.study import StudyModel

NONE = "none"
CLAIMS = {
    (EFFORT, CAREFUL): "C2a", (EFFORT, NONE): "C2b", ("confirmatory reasoning", CAREFUL): "C2c",
    ("heuristic reliance", CAREFUL): "C2d", ("instruction deviation", CAREFUL): "C2e",
    (EFFORT, NEUTRAL): "Q4a",
}  # fmt: skip


@dataclass(frozen=True)
class Settings(Common):
    """``n_prompts`` harmful ones (None: all of the evaluation split)."""

    n_prompts: int | None = None


def injected(study: StudyModel, prompts: DataFrame, settings=Settings(), **generation) -> DataFrame:
    """Judged replies in think mode after every beginning of the thought, the same prompts in each.
    Columns ``pattern`` ("none", neutral, careful, the paper's three) and ``style`` of them."""
    tables = [settings.judged(study, prompts, "think", **generation).assign(pattern=NONE, style=NONE)]
    sentences = openings(study.asked_in)
    for (its_style, pattern), group in sentences.groupby(["style", "pattern"], sort=False):
        begun = settings.judged(study, prompts, "think", thought_prefix=prefixes(prompts, group), **generation)
        tables.append(begun.assign(pattern=pattern, style=its_style))
    return pd.concat(tables, ignore_index=True)


def effects(judged: DataFrame) -> DataFrame:
    """Rows of `difference` between beginnings of thoughts, with ``comparison`` (the sides in words)
    and ``level`` ("style" or "pattern": which of the two columns the sides are values of)."""
    patterns = judged.loc[judged["style"] == EFFORT, "pattern"].unique()
    compared = [("style", EFFORT, control) for control in (CAREFUL, NEUTRAL, NONE)]
    compared += [("style", CAREFUL, NONE), *(("pattern", pattern, CAREFUL) for pattern in patterns)]
    found = [difference(judged, *one) | {"level": one[0]} for one in compared]
    names = [f"{one} against {control}" for _, one, control in compared]
    return DataFrame(found).assign(comparison=names)


def competence(study: StudyModel, settings=Settings()) -> pd.Series:
    """The share of readable replies to harmful calibration prompts, by style and by pattern."""
    prompts = settings.sets(["harmful"], settings.n_competence, "calibration")
    judged = injected(study, prompts, settings)
    by_either = pd.concat([readable(judged, name) for name in ("style", "pattern")])
    return by_either[~by_either.index.duplicated()]


def rows(study: StudyModel, compared: Table, read: pd.Series, settings=Settings()) -> list[dict]:
    """The verdict rows of C2a to C2e and Q4a: `effects`, or why there are none, `competence`."""
    if isinstance(compared, str):
        return verdict_rows(study, settings, [(claim, "think", compared) for claim in CLAIMS.values()])
    claimed = []
    by_sides = {(one["condition"], one["control"]): one for one in compared.to_dict("records")}
    for sides, claim in CLAIMS.items():
        said = by_sides.get(sides, f"there is no beginning that is called {sides[0]}")
        least = read.reindex(sides).min(skipna=False)
        claimed.append((claim, "think", testable(claim, said, read=least)))
    return verdict_rows(study, settings, claimed)


def run(study: StudyModel, settings=Settings()) -> Result:
    """Every beginning of the thought: ``patterns`` (rates by ``style, pattern``), ``patterns-judged``."""
    judged = attempt(injected, study, settings.sets(["harmful"], n=settings.n_prompts), settings)
    if isinstance(judged, str):
        return result(study, {}, rows(study, judged, pd.Series(dtype=float), settings))
    by = ["style", "pattern"]
    tables = {"patterns": rates(judged, by=by), "patterns-judged": per_prompt(judged, *by)}
    able = competence(study, settings)
    return result(study, tables, rows(study, effects(judged), able, settings))


# -- what only notebooks use -----------------------------------------------------------------------
def own_openings(judged: DataFrame) -> DataFrame:
    """The replies without injection; column ``opening``: style of the own thought, or "other"."""
    own = judged[judged["pattern"] == NONE]
    return own.assign(opening=own["thought"].map(style))
