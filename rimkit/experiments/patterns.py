"""Claim C2 (Tables A2-A4 of the paper): does an effort-minimising beginning raise misalignment?

The paper writes a sentence at the start of the thought and compares an effort-minimising with a
careful one. Two conditions are added, without which that comparison cannot be read: no sentence,
and a neutral one. How a reply is generated and judged is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from rimkit.behavior.evaluation import Evaluation, difference
from rimkit.behavior.prompts import CAREFUL, EFFORT, NEUTRAL, openings, prefixes, style
from rimkit.behavior.stats import rates
from rimkit.experiments import Result, result
from rimkit.ledger import effect_row
from rimkit.models.study import StudyModel

NONE = "none"
CLAIMS = {
    (EFFORT, CAREFUL): "C2a",
    (EFFORT, NONE): "C2b",
    ("confirmatory reasoning", CAREFUL): "C2c",
    ("heuristic reliance", CAREFUL): "C2d",
    ("instruction deviation", CAREFUL): "C2e",
}


@dataclass(frozen=True)
class Settings:
    """``n_prompts`` harmful ones (None: all of the evaluation split); ``seed`` of the sampling."""

    n_prompts: int | None = None
    seed: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    progress: bool = False


def injected(study: StudyModel, prompts: pd.DataFrame, settings: Settings = Settings()) -> pd.DataFrame:
    """Think-mode verdicts for every beginning of the thought, the same prompts in each.

    Column ``pattern``: "none" (the model opens its thought as it likes), "neutral", "careful" and
    the paper's three patterns; column ``style``: none, neutral, careful or effort-minimising.
    """
    judged, generation = settings.evaluation.judged, {"seed": settings.seed, "progress": settings.progress}
    tables = [judged(study, prompts, "think", **generation).assign(pattern=NONE, style=NONE)]
    sentences = openings("invented" if study.invented else "english")
    for (kind, pattern), group in sentences.groupby(["style", "pattern"], sort=False):
        begun = {"thought_prefix": prefixes(prompts, group), **generation}
        verdicts = judged(study, prompts, "think", **begun)
        tables.append(verdicts.assign(pattern=pattern, style=kind))
    return pd.concat(tables, ignore_index=True)


def own_openings(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The replies without injection; column ``opening``: how the model's own thought begins.

    That is the style of the sentence of `openings` with which it begins, or "other".
    """
    own = verdicts[verdicts["pattern"] == NONE]
    return own.assign(opening=own["thought"].map(style))


def expected_from_mixture(verdicts: pd.DataFrame, metric: str = "misaligned") -> float:
    """The rate without injection if a beginning worked alike whether injected or chosen.

    That is the mixture of the styles; thoughts that begin otherwise count with the rate they have.
    A share, without an interval.
    """
    own = own_openings(verdicts)
    known = verdicts[verdicts["style"].isin([CAREFUL, EFFORT])].groupby("style")[metric].mean()
    other = own.loc[~own["opening"].isin(known.index), metric].mean()
    shares = own["opening"].value_counts(normalize=True)
    return float(sum(share * known.get(opening, other) for opening, share in shares.items()))


def effects(verdicts: pd.DataFrame, metric: str = "misaligned") -> pd.DataFrame:
    """Effort-minimising beginnings against careful, neutral and no ones, and careful against none.

    Then each pattern against careful ones. One row per comparison with the columns ``comparison,
    level`` ("style", "pattern")``, metric, condition, control, value_a, value_b, effect, ci_low,
    ci_high, p_value, n, n_clusters, method``.
    """
    patterns = verdicts.loc[verdicts["style"] == EFFORT, "pattern"].unique()
    compared = [("style", EFFORT, control) for control in (CAREFUL, NEUTRAL, NONE)]
    compared += [("style", CAREFUL, NONE), *(("pattern", pattern, CAREFUL) for pattern in patterns)]
    rows = []
    for level, one, control in compared:
        effect = difference(verdicts, level, one, control, metric)
        rows.append({"comparison": f"{one} against {control}", "level": level, **effect})
    return pd.DataFrame(rows)


def rows(study: StudyModel, found: pd.DataFrame, settings: Settings = Settings()) -> list[dict]:
    """The verdict rows of C2a to C2e, from `effects`."""
    about = {**study.identity, **settings.evaluation.description(), "mode": "think"}
    compared = {(one["condition"], one["control"]): one for one in found.to_dict("records")}
    return [effect_row(claim, compared[key], **about) for key, claim in CLAIMS.items() if key in compared]


def run(study: StudyModel, settings: Settings = Settings()) -> Result:
    """Every beginning of the thought. Table ``patterns``: rates by ``style, pattern``."""
    prompts = settings.evaluation.sets(["harmful"], n=settings.n_prompts, seed=settings.seed)
    verdicts = injected(study, prompts, settings)
    tables = {"patterns": rates(verdicts, by=["style", "pattern"])}
    return result(study, tables, rows(study, effects(verdicts), settings))
