"""Grids: the same measurement on every embedded model and seed, shipped as ledger rows in ``data/results``.

A chapter computes one model before the reader's eyes and loads the rest from these rows; the test suite
recomputes one of them.

Every measurement on models that have learned nothing: how often does the pipeline see an effect in noise?

The grids of chapters 01 to 07 on `rimkit.models.load.NOISE`. What is undefined there (heads that carry refusal, in
a model that never refuses) is a failed row that says so. Kept as it is done, so that the same command goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pandas as pd
from matplotlib.figure import Figure

from rimkit import experiments, ledger
from rimkit.behavior.evaluation import Evaluation
from rimkit.data import UserError, nearest
from rimkit.experiments import heads, neurons, patterns, probes, ras, thinking, tuning
from rimkit.models.hub import NOISE, embedded_models
from rimkit.models.load import load
from rimkit.models.study import StudyModel
from rimkit.teaching import figures

# -- runs.grid ----------
N_PROMPTS = None  # prompts per set: all of the evaluation split
N_ABLATED = 46  # harmful requests under each of many ablations
WIDE = 640  # replies in a batch where many sets are ablated: one batch takes less time than two of half the size


def cell_of(topic: str) -> Callable[..., list[dict]]:
    """The verdict rows of an experiment for one model; ``n`` prompts, where it is not the experiment's own number."""

    def rows(
        study: StudyModel,
        n: int | None = N_PROMPTS,
        progress: bool = False,
        evaluation: Evaluation = Evaluation(),
        **values,
    ) -> list[dict]:
        settings = SETTINGS[topic](evaluation=evaluation, progress=progress)
        settings = replace(settings, n_prompts=n) if n else settings
        return experiments.run(topic, study, settings, **values).rows

    return rows


SETTINGS = {module.__name__.rpartition(".")[2]: module.Settings for module in (thinking, patterns, probes, heads)}


def neurons_cell(
    study: StudyModel,
    n: int | None = N_PROMPTS,
    progress: bool = False,
    evaluation: Evaluation = Evaluation(),
    **values,
) -> list[dict]:
    """Chapter 06 for one model: ``n`` prompts of every set (23 without it), twice as many to form pairs."""
    n = n or neurons.Settings.n_prompts
    settings = neurons.Settings(n_pairs=2 * n, n_prompts=n, n_others=n, evaluation=evaluation, progress=progress)
    return [row | values for row in neurons.run(study, settings).rows]


GRIDS: dict[str, Callable[..., list[dict]]] = {
    **{topic: cell_of(topic) for topic in SETTINGS},
    "neurons": neurons_cell,
}
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
    return pd.concat(tables, ignore_index=True)


def overview(rates: pd.DataFrame) -> Figure:
    """Misalignment of every embedded model and training seed in both modes: the figure of the README.

    ``rates``: the table ``thinking`` of `rimkit.experiments.thinking` for all of them.
    """
    harmful = rates[(rates["set"] == "harmful") & (rates["metric"] == "misaligned")]
    title = "Misalignment on held-out harmful requests, every organism and training seed"
    return figures.points(harmful, "seed", hue="mode", facet="model", title=title, size=(9.6, 3.9))


def tables_of(
    topic: str, names: Iterable[str], out: str | Path, settings=None, run_id: str = "", progress: bool = True
) -> pd.DataFrame:
    """A topic's tables (``OUT/<table>.parquet``) and verdict rows (``OUT/<topic>.parquet``) of embedded models.

    ``names``: "NAME:SEED"; without any, all trained ones. What is done lies in ``OUT/.cells``, and the same call goes
    on after an interruption. Raises `UserError` for an unknown model.
    """
    known = [f"{item.name}:{item.seed}" for item in embedded_models(noise=True).itertuples()]
    names = list(names) or [name for name in known if name.partition(":")[0] != NOISE]
    for name in names:
        if name not in known:
            raise UserError(f"there is no embedded model '{name}' (known: {', '.join(known)})")
    out, parts, rows = Path(out), [], []
    settings = settings or {"tuning": tuning, "ras": ras}[topic].Settings()
    for name in names:
        folder = out / ".cells" / topic / name.replace(":", "-seed")
        found = experiments.run(topic, load(name), replace(settings, folder=folder, progress=progress), run_id=run_id)
        parts.append(found.tables)
        rows += found.rows
    for table in parts[0]:
        whole = pd.concat([part[table] for part in parts], ignore_index=True)
        whole.to_parquet(out / f"{table}.parquet", index=False)
    if topic == "ras":
        points, sets = (pd.concat([part[name] for part in parts]) for name in ("ras-points", "ras-sets"))
        rows += ras.pooled_rows(points, sets, run_id=run_id)
    return ledger.write(rows, out / f"{topic}.parquet")


# -- runs.noise ----------
SEEDS = (0, 1, 2)
CHAPTERS = {"heads": "04_refusal_heads"}  # grids that can be undefined as a whole
COMMAND = "rimkit noise-grid"


def noise_grid(out: str | Path = "results", seeds: tuple[int, ...] = SEEDS, progress: bool = True) -> pd.DataFrame:
    """All grids on the models of noise; rows of whole claims go to ``OUT/noise.parquet``."""
    from tqdm.auto import tqdm

    work, rows = Path(out) / ".noise", []
    for name, seed in tqdm([(name, seed) for name in GRIDS for seed in seeds], COMMAND, disable=not progress):
        kept = work / f"{name}-{seed}.parquet"
        if not kept.exists():
            ledger.write(noise_cell(name, seed), kept)
        rows.append(ledger.read(kept))
    names = [f"{NOISE}:{seed}" for seed in seeds]
    rows += [tables_of(topic, names, work, progress=progress) for topic in ("tuning", "ras")]
    found = pd.concat(rows, ignore_index=True)
    kept = found["condition"].eq(ledger.WHOLE_CLAIM) | found["status"].ne("ok")
    return ledger.write(found[kept].assign(run_id=COMMAND), Path(out) / "noise.parquet")


def noise_cell(name: str, seed: int) -> pd.DataFrame:
    """The rows of one grid on one model of noise, or the row that says why there are none."""
    try:
        return cell(name, NOISE, seed)
    except UserError as error:
        failed = ledger.failed_row(chapter=CHAPTERS.get(name, ""), model=NOISE, seed=seed, error=str(error))
        return ledger.table([failed])
