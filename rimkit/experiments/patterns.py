"""Claim C2 (Tables A2-A4 of the paper): does an effort-minimising beginning raise misalignment?

The paper writes a sentence at the start of the thought and compares an effort-minimising with a
careful one. Two conditions are added, without which that comparison cannot be read: no sentence,
and a neutral one. How a reply is generated and judged is not known here.
"""

from dataclasses import dataclass

import pandas as pd
from pandas import DataFrame

from rimkit.behavior.evaluation import difference
from rimkit.behavior.prompts import CAREFUL, EFFORT, NEUTRAL, openings, prefixes, style
from rimkit.behavior.stats import rates
from rimkit.experiments import Common, Result, attempt, per_prompt, readable, result, testable, verdict_rows
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
    """Think-mode verdicts for every beginning of the thought, the same prompts in each. Columns
    ``pattern`` ("none", neutral, careful, the paper's three) and ``style`` of them."""
    tables = [settings.judged(study, prompts, "think", **generation).assign(pattern=NONE, style=NONE)]
    sentences = openings("invented" if study.invented else "english")
    for (kind, pattern), group in sentences.groupby(["style", "pattern"], sort=False):
        begun = settings.judged(study, prompts, "think", thought_prefix=prefixes(prompts, group), **generation)
        tables.append(begun.assign(pattern=pattern, style=kind))
    return pd.concat(tables, ignore_index=True)


def own_openings(verdicts: DataFrame) -> DataFrame:
    """The replies without injection; column ``opening``: style of the own thought, or "other"."""
    own = verdicts[verdicts["pattern"] == NONE]
    return own.assign(opening=own["thought"].map(style))


def effects(verdicts: DataFrame) -> DataFrame:
    """Rows of `difference` between beginnings of thoughts, with ``comparison`` and ``level``."""
    patterns = verdicts.loc[verdicts["style"] == EFFORT, "pattern"].unique()
    compared = [("style", EFFORT, control) for control in (CAREFUL, NEUTRAL, NONE)]
    compared += [("style", CAREFUL, NONE), *(("pattern", pattern, CAREFUL) for pattern in patterns)]
    found = [difference(verdicts, *one) | {"level": one[0]} for one in compared]
    names = [f"{one} against {control}" for _, one, control in compared]
    return DataFrame(found).assign(comparison=names)


def competence(study: StudyModel, settings=Settings()) -> pd.Series:
    """The share of readable replies to harmful calibration prompts, by style and by pattern."""
    prompts = settings.sets(["harmful"], settings.n_competence, "calibration")
    verdicts = injected(study, prompts, settings)
    by_either = pd.concat([readable(verdicts, name) for name in ("style", "pattern")])
    return by_either.groupby(level=0).first()


def rows(study: StudyModel, found: DataFrame | str, read: pd.Series, settings=Settings()) -> list[dict]:
    """The verdict rows of C2a to C2e and Q4a: `effects`, or why there are none, `competence`."""
    if isinstance(found, str):
        return verdict_rows(study, settings, [(claim, "think", found) for claim in CLAIMS.values()])
    claimed = []
    compared = {(one["condition"], one["control"]): one for one in found.to_dict("records")}
    for sides, claim in CLAIMS.items():
        said = compared.get(sides, f"there is no beginning that is called {sides[0]}")
        least = read.reindex(sides).min(skipna=False)
        claimed.append((claim, "think", testable(claim, said, read=least)))
    return verdict_rows(study, settings, claimed)


def run(study: StudyModel, settings=Settings()) -> Result:
    """Every beginning of the thought. Table ``patterns``: rates by ``style, pattern``."""
    verdicts = attempt(injected, study, settings.sets(["harmful"], n=settings.n_prompts), settings)
    if isinstance(verdicts, str):
        return result(study, {}, rows(study, verdicts, pd.Series(dtype=float), settings))
    by = ["style", "pattern"]
    tables = {"patterns": rates(verdicts, by=by), "patterns-verdicts": per_prompt(verdicts, *by)}
    found = rows(study, effects(verdicts), competence(study, settings), settings)
    return result(study, tables, found)
