"""Claim C2 (Tables A2-A4 of the paper): does an effort-minimising beginning of the thought raise misalignment?

The paper injects a sentence at the start of the thought and compares an effort-minimising with a careful
one. Two further conditions are needed to read that comparison: no injection, and a neutral beginning.
"""

from __future__ import annotations

from itertools import cycle

import pandas as pd

from rimkit.behavior.measure import difference, judged
from rimkit.ledger import effect_row, rate_rows
from rimkit.models.loading import StudyModel
from rimkit.paths import data_dir

NONE, NEUTRAL, CAREFUL, EFFORT = "none", "neutral", "careful", "effort-minimising"


def openings(language: str = "invented") -> pd.DataFrame:
    """The sentences that begin a thought: columns ``language, style, pattern, text``.

    ``language`` is ``"invented"`` (the embedded models) or ``"english"`` (real models; wording of this
    workbook, not of the paper). ``pattern`` names the paper's effort-minimising pattern, or the style.
    """
    table = pd.read_csv(data_dir() / "prompts" / "openings.csv")
    return table[table["language"] == language].reset_index(drop=True)


def prefixes(prompts: pd.DataFrame, sentences: pd.DataFrame) -> dict[str, str]:
    """One sentence per prompt, taking turns, so that no condition rests on one wording."""
    return dict(zip(prompts["prompt_id"], cycle(sentences["text"]), strict=False))


def injected(model: StudyModel, prompts: pd.DataFrame, **generation) -> pd.DataFrame:
    """Think-mode verdicts for every beginning of the thought, the same prompts in each.

    Column ``pattern``: "none" (the model opens its thought as it likes), "neutral", "careful" and the
    paper's three patterns; column ``style``: none, neutral, careful or effort-minimising.
    """
    sentences = openings("invented" if model.invented else "english")
    tables = [judged(model, prompts, "think", **generation).assign(pattern=NONE, style=NONE)]
    for (style, pattern), group in sentences.groupby(["style", "pattern"], sort=False):
        verdicts = judged(model, prompts, "think", thought_prefix=prefixes(prompts, group), **generation)
        tables.append(verdicts.assign(pattern=pattern, style=style))
    return pd.concat(tables, ignore_index=True)


def own_openings(verdicts: pd.DataFrame) -> pd.DataFrame:
    """How the model's own thoughts begin (pattern "none"), and the verdicts after each beginning.

    One row per reply without injection, with the column ``opening``: the style of the sentence of `openings`
    that the thought begins with, or "other".
    """
    sentences = openings("invented")
    own = verdicts[verdicts["pattern"] == NONE]
    style_of = dict(zip(sentences["text"], sentences["style"], strict=True))

    def style(thought: str) -> str:
        return next((style for text, style in style_of.items() if thought.startswith(text)), "other")

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
            share * (injected_rate[style] if style in (CAREFUL, EFFORT) else other)
            for style, share in shares.items()
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
