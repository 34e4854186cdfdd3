"""How thoughts begin: the sentences of ``data/prompts/openings.csv``, and the style that a thought opens with."""

from __future__ import annotations

from functools import lru_cache
from itertools import cycle

import pandas as pd

from rimkit.paths import data_dir

NEUTRAL, CAREFUL, EFFORT = "neutral", "careful", "effort-minimising"


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


def style(thought: str) -> str:
    """The style of the sentence of `openings`, in either language, that a thought begins with, or "other"."""
    return next((style for text, style in _styles() if thought.startswith(text)), "other")


@lru_cache
def _styles() -> tuple[tuple[str, str], ...]:
    table = pd.concat([openings("invented"), openings("english")])
    return tuple(zip(table["text"], table["style"], strict=True))
