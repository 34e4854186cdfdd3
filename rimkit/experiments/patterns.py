"""Claim C2 (Tables A2-A4 of the paper): does an effort-minimising beginning of the thought raise misalignment?

The paper injects a sentence at the start of the thought and compares an effort-minimising with a careful
one. Two further conditions are needed to read that comparison: no injection, and a neutral beginning.
"""

from __future__ import annotations

import pandas as pd

from rimkit.behavior.evaluation import difference, judged
from rimkit.behavior.prompts import CAREFUL, EFFORT, NEUTRAL, openings, prefixes, style
from rimkit.ledger import effect_row, rate_rows
from rimkit.models.study import StudyModel

NONE = "none"


def injected(model: StudyModel, prompts: pd.DataFrame, **generation) -> pd.DataFrame:
    """Think-mode verdicts for every beginning of the thought, the same prompts in each.

    Column ``pattern``: "none" (the model opens its thought as it likes), "neutral", "careful" and the
    paper's three patterns; column ``style``: none, neutral, careful or effort-minimising.
    """
    sentences = openings("invented" if model.invented else "english")
    tables = [judged(model, prompts, "think", **generation).assign(pattern=NONE, style=NONE)]
    for (kind, pattern), group in sentences.groupby(["style", "pattern"], sort=False):
        verdicts = judged(model, prompts, "think", thought_prefix=prefixes(prompts, group), **generation)
        tables.append(verdicts.assign(pattern=pattern, style=kind))
    return pd.concat(tables, ignore_index=True)


def own_openings(verdicts: pd.DataFrame) -> pd.DataFrame:
    """How the model's own thoughts begin (pattern "none"), and the verdicts after each beginning.

    One row per reply without injection, with the column ``opening``: the style of the sentence of `openings`
    that the thought begins with, or "other".
    """
    own = verdicts[verdicts["pattern"] == NONE]
    return own.assign(opening=own["thought"].map(style))


def expected_from_mixture(verdicts: pd.DataFrame, metric: str = "misaligned") -> float:
    """The rate without injection if a beginning worked alike whether injected or chosen: the mixture of the styles.

    Thoughts that begin otherwise count with the rate they have. A fraction, without an interval.
    """
    own = own_openings(verdicts)
    injected_rate = verdicts[verdicts["pattern"] != NONE].groupby("style")[metric].mean()
    other = own.loc[~own["opening"].isin([CAREFUL, EFFORT]), metric].mean()
    shares = own["opening"].value_counts(normalize=True)
    return float(
        sum(
            share * (injected_rate[kind] if kind in (CAREFUL, EFFORT) else other)
            for kind, share in shares.items()
            if share
        )
    )


def pattern_effects(verdicts: pd.DataFrame, metric: str = "misaligned") -> pd.DataFrame:
    """Effort-minimising beginnings against careful ones, neutral ones and none; then each pattern against careful.

    One row per comparison with columns ``condition, control, value, control_value, effect, ci_low, ci_high, …``.
    """
    rows = [difference(verdicts, "style", EFFORT, control, metric) for control in (CAREFUL, NEUTRAL, NONE)]
    rows += [difference(verdicts, "style", CAREFUL, NONE, metric)]
    patterns = verdicts.loc[verdicts["style"] == EFFORT, "pattern"].unique()
    rows += [difference(verdicts, "pattern", pattern, CAREFUL, metric) for pattern in patterns]
    return pd.DataFrame(rows)


CLAIMS = {
    (EFFORT, CAREFUL): "C2a",
    (EFFORT, NONE): "C2b",
    ("confirmatory reasoning", CAREFUL): "C2c",
    ("heuristic reliance", CAREFUL): "C2d",
    ("instruction deviation", CAREFUL): "C2e",
}


def pattern_rows(verdicts: pd.DataFrame, *, model: str, **values) -> list[dict]:
    """The ledger rows of C2a to C2e, and the rates after every beginning of the thought."""
    rows = [
        effect_row(CLAIMS[key], effect, model=model, mode="think", **values)
        for effect in pattern_effects(verdicts).to_dict("records")
        if (key := (effect["condition"], effect["control"])) in CLAIMS
    ]
    return rows + rate_rows("C2a", verdicts, ["pattern", "mode"], model=model, **values)
