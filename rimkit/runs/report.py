"""The claims and what the measurements say about them, for the terminal."""

from __future__ import annotations

import pandas as pd
from rich.markup import escape
from rich.table import Table

RATES = ("misaligned", "refused", "misread", "coherent", "score")
STYLES = {"supported": "green", "contradicted": "red", "no effect": "yellow", "undecided": "dim"}


def claims_view(claims: pd.DataFrame, title: str) -> Table:
    """The table of `rimkit.ledger.claims_table`, a line per claim, model and seed; rates in points."""
    view = Table(title=title, title_justify="left", caption_justify="left", expand=False)
    view.caption = "Effect: value minus control, with 95% interval. Verdicts are computed from the interval."
    for heading in ("claim", "statement", "model", "seed", "effect", "control", "paper", "verdict"):
        view.add_column(heading, no_wrap=heading in ("claim", "model", "seed", "effect", "verdict"))
    previous = None
    for item in claims.itertuples():
        first = item.claim != previous
        seed = "" if pd.isna(item.seed) else str(item.seed)
        verdict = f"[{STYLES[item.verdict]}]{item.verdict}[/]"
        texts = (item.claim, item.statement) if first else ("", "")
        paper = f"{item.paper_number} ({item.paper_location})" if first else ""
        view.add_row(*texts, escape(item.model), seed, effect_text(item), item.control, paper, verdict)
        previous = item.claim
    return view


def effect_text(item) -> str:
    """``"+12.3 [+4.5, +20.1] points"`` for rates, plain numbers for everything else."""
    scale, digits, unit = (100, 1, " points") if item.metric in RATES else (1, 2, f" {item.metric}")
    numbers = (item.effect, item.effect_ci_low, item.effect_ci_high)
    effect, low, high = (f"{scale * number:+.{digits}f}" for number in numbers)
    return f"{effect} ({low} to {high}){unit}"
