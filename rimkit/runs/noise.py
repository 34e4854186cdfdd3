"""Every measurement on models that have learned nothing: how often does the pipeline see an effect in noise?

The grids of chapters 01 to 07 on `rimkit.models.loading.NOISE`. What is undefined there (heads that carry refusal, in
a model that never refuses) is a failed row that says so. Kept as it is done, so that the same command goes on.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rimkit import ledger
from rimkit.errors import UserError
from rimkit.models.loading import NOISE
from rimkit.runs import entangling, grid, tuning

SEEDS = (0, 1, 2)
CHAPTERS = {"heads": "04_refusal_heads"}  # grids that can be undefined as a whole
WEAKER = {"C3a": "no-think, last", "C9a": "against random sets"}  # rows against a control that sees effects in noise
COMMAND = "rimkit noise-grid"


def run(out: str | Path = "results", seeds: tuple[int, ...] = SEEDS, progress: bool = True) -> pd.DataFrame:
    """All grids on the models of noise; rows of whole claims, and of `WEAKER` controls, go to ``OUT/noise.parquet``."""
    from tqdm.auto import tqdm

    work, rows = Path(out) / ".noise", []
    for name, seed in tqdm([(name, seed) for name in grid.GRIDS for seed in seeds], COMMAND, disable=not progress):
        kept = work / f"{name}-{seed}.parquet"
        if not kept.exists():
            ledger.write(cell(name, seed), kept)
        rows.append(ledger.read(kept))
    names = [f"{NOISE}:{seed}" for seed in seeds]
    rows += [tuning.run(names, work, progress=progress), entangling.run(names, work, progress=progress)]
    found = pd.concat(rows, ignore_index=True)
    weaker = [found["claim"].eq(claim) & found["condition"].eq(name) for claim, name in WEAKER.items()]
    kept = found["condition"].eq(ledger.WHOLE_CLAIM) | found["status"].ne("ok") | weaker[0] | weaker[1]
    return ledger.write(found[kept.fillna(False).astype(bool)].assign(run_id=COMMAND), Path(out) / "noise.parquet")


def cell(name: str, seed: int) -> pd.DataFrame:
    """The rows of one grid on one model of noise, or the row that says why there are none."""
    try:
        return grid.cell(name, NOISE, seed)
    except UserError as error:
        failed = ledger.failed_row(chapter=CHAPTERS.get(name, ""), model=NOISE, seed=seed, error=str(error))
        return ledger.table([failed])
