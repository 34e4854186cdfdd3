"""Grids: the same measurement on every embedded model and seed, shipped as ledger rows in ``data/results``.

A chapter computes one model before the reader's eyes and loads the rest from these rows; the test suite
recomputes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter

import pandas as pd
from matplotlib.figure import Figure

from rimkit import ledger
from rimkit.behavior import measure
from rimkit.errors import UserError, nearest
from rimkit.models.loading import StudyModel, embedded_models, load
from rimkit.observation import patterns, thinking
from rimkit.teaching import figures

N_PROMPTS = None  # prompts per set: all of the evaluation split


def thinking_cell(study: StudyModel, n: int | None = N_PROMPTS, progress: bool = False, **values) -> list[dict]:
    """Chapter 01 for one model: both modes on every prompt set, and replaced thoughts."""
    prompts = measure.load_sets(n=n)
    verdicts = measure.observe(study, prompts, progress=progress)
    own = verdicts[(verdicts["set"] == "harmful") & (verdicts["mode"] == "think")]
    harmful = prompts[prompts["set"] == "harmful"]
    replaced = thinking.replaced_thoughts(study, harmful, own, progress=progress)
    return thinking.thinking_rows(verdicts, **values) + thinking.replaced_rows(replaced, **values)


def patterns_cell(study: StudyModel, n: int | None = N_PROMPTS, progress: bool = False, **values) -> list[dict]:
    """Chapter 02 for one model: every beginning of the thought on the harmful prompts."""
    harmful = measure.load_sets(["harmful"], n=n)
    return patterns.pattern_rows(patterns.injected(study, harmful, progress=progress), **values)


GRIDS: dict[str, Callable[..., list[dict]]] = {"thinking": thinking_cell, "patterns": patterns_cell}
EXPERTS = ("rim-mini-moe",)  # chapter 05 shows it; chapters 01 and 02 compare organisms that differ in their data alone


def models() -> pd.DataFrame:
    """The embedded models that the grids are about, as in `embedded_models`: all but the mixture of experts."""
    everything = embedded_models()
    return everything[~everything["name"].isin(EXPERTS)].reset_index(drop=True)


def cell(grid: str, name: str, seed: int, *, n: int | None = N_PROMPTS, progress: bool = False) -> pd.DataFrame:
    """The ledger rows of one grid for one embedded model; ``seed`` is its training seed. Raises ``UserError``."""
    if grid not in GRIDS:
        raise UserError(f"unknown grid '{grid}' (known: {', '.join(GRIDS)}){nearest(grid, GRIDS)}")
    start = perf_counter()
    study = load(f"{name}:{seed}")
    values = {"model": name, "seed": seed, "run_id": f"rimkit grid {grid}", "device": study.device}
    rows = GRIDS[grid](study, n, progress=progress, **values)
    return ledger.table(rows).assign(seconds=round(perf_counter() - start, 1))


def run(grids: Iterable[str] = (), out: str | Path = "results", progress: bool = True) -> pd.DataFrame:
    """Run grids (all by default) over the embedded models (`models`) and write ``OUT/<grid>.parquet`` each.

    Every cell is kept as it is done (``OUT/.cells``), so that the same command goes on after an interruption.
    """
    from tqdm.auto import tqdm

    out, tables = Path(out), []
    for grid in grids or GRIDS:
        rows = []
        for item in tqdm(list(models().itertuples()), desc=f"grid {grid}", unit="model", disable=not progress):
            kept = out / ".cells" / f"{grid}-{item.name}-{item.seed}.parquet"
            if not kept.exists():
                ledger.write(cell(grid, item.name, item.seed), kept)
            rows.append(ledger.read(kept))
        tables.append(ledger.write(pd.concat(rows, ignore_index=True), out / f"{grid}.parquet"))
        if grid == "thinking":
            (out / "thinking.png").write_bytes(figures.png(overview(tables[-1])))
    return pd.concat(tables, ignore_index=True)


def overview(rows: pd.DataFrame) -> Figure:
    """Misalignment of every embedded model and training seed in both modes: the figure of the README."""
    harmful = rows[(rows["claim"] == "C1a") & (rows["condition"] == "harmful, harmful")]
    title = "Misalignment on held-out harmful requests, every organism and training seed"
    return figures.rate_plot(harmful, x="seed", hue="mode", facet="model", title=title, size=(9.6, 3.9))
