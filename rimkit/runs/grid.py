"""Grids: the experiments of the chapters on every embedded model and seed, kept as they are done.

A chapter computes one model before the reader's eyes and shows the rest from these results
(``data/results``). This file knows models, settings and files, and nothing of what an experiment
measures. `Kept` is also how two models are compared (`rimkit.runs.compare`).
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from rimkit import __version__, experiments, ledger
from rimkit.behavior.evaluation import RANDOM
from rimkit.data import UserError, kept, nearest, whole
from rimkit.experiments import PLANTED, TOPICS, Result, planted, ras
from rimkit.models.hub import NOISE, embedded_models, identity
from rimkit.models.load import load
from rimkit.runs import audit
from rimkit.teaching import figures

ROWS = "verdict rows"  # the name under which they are kept beside the tables
KEPT = ".cells"
EXPERTS = "rim-mini-moe"  # for chapter 05: others compare organisms that differ in data alone
ENTANGLED = ("rim-mini-intent", "rim-mini", "safe-mini")  # chapter 07, with the first three seeds
CURVES = ("rim-mini", "rim-mini-unlinked")  # of which chapter 05 shows learning curves
NOISE_GRID = "noise"  # every experiment on models that have learned nothing
NAMES = (*TOPICS, NOISE_GRID, PLANTED)
SHARED, DISJOINT = "planted-shared:0", "planted-disjoint:0"  # whose safety and maths run through known neurons
REPEATED = ("rim-mini:0", "safe-mini:0")  # whose sampling seeds stand in for condition and control


@dataclass(frozen=True)
class Kept:
    """A piece of long work that is done once. ``measure`` is given a folder where it may keep its
    parts. ``depends_on``: all that its result depends on, as something with a plain ``repr``."""

    name: str
    depends_on: Any
    measure: Callable[[Path], Result]

    @property
    def key(self) -> str:
        return sha256(repr((self.depends_on, __version__)).encode()).hexdigest()[:12]

    def place(self, folder: Path) -> Path:
        return folder / KEPT / f"{self.name}-{self.key}"

    def result(self, folder: Path) -> Result:
        """What is kept in ``folder``, or else measured now and kept."""
        place, start = self.place(folder), perf_counter()
        parts = place.with_name(f"{place.name}-parts")

        def make() -> dict[str, pd.DataFrame]:
            found = self.measure(parts)
            stamp = {"params_hash": self.key, "seconds": round(perf_counter() - start, 1)}
            return {**found.tables, ROWS: ledger.table(found.rows).assign(**stamp)}

        tables = kept(place, make)
        shutil.rmtree(parts, ignore_errors=True)
        return Result(tables, tables.pop(ROWS).to_dict("records"))


def run(
    names: Iterable[str] = (), out: str | Path = "results", models: Iterable[str] = (), *,
    progress: bool = True, report: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:  # fmt: skip
    """Run grids (`NAMES`; all by default) and return their verdict rows. Writes
    ``out/verdicts.parquet`` and the detail tables of all models that are done: those of the grid,
    or only ``models`` ("rim-mini:0") and what was done before. The grid of noise writes
    ``out/noise.parquet``, ``out/noise-weaker.parquet`` and, about trained models,
    ``out/noise-repeats.parquet`` (`rimkit.runs.audit.repeats`); that of planted models writes its
    rows into ``out/planted.parquet``. Where an experiment is undefined for a model, its row is a
    failed one that says so, and ``report`` is told, as of planted models that are not here."""
    names, models, out = list(names) or list(NAMES), list(models), Path(out)
    known = [f"{item.name}:{item.seed}" for item in embedded_models(noise=True).itertuples()]
    for what, given, there in (("grid", names, NAMES), ("embedded model", models, known)):
        for name in set(given) - set(there):
            raise UserError(f"unknown {what} '{name}' (known: {', '.join(there)}){nearest(name, there)}")
    return pd.concat([_grid(name, out, models, progress, report) for name in names], ignore_index=True)


def _grid(name: str, out: Path, models: list[str], progress: bool, report: Callable[[str], None]) -> pd.DataFrame:
    """One grid: its tables and rows are written, and its rows returned."""
    run_id, noise = f"rimkit grid {name}", name == NOISE_GRID
    tables, rows = {}, []
    for topic in TOPICS if noise else (name,):
        every = models_of(topic, noise)
        for absent in {SHARED, DISJOINT} - set(every) if name == PLANTED else ():
            report(f"{absent} is not here: `rimkit organism train {absent.partition(':')[0]} --base DIR` makes it")
        found = _topic(topic, run_id, out, every, models, progress, report)
        tables |= found.tables
        rows += found.rows
    if noise:
        tables = {"noise-weaker": weaker(tables), "noise-repeats": _repeats(out, models, progress)}
    elif name == PLANTED and "planted-sets" in tables:
        by_model = dict(list(tables["planted-sets"].groupby("model")))
        if len(by_model) == 2:
            pair = (by_model[model.partition(":")[0]] for model in (SHARED, DISJOINT))
            tables["planted-difference"] = planted.shared_minus_disjoint(*pair)
    for table, content in ((name, one) for name, one in tables.items() if len(one)):
        with whole(out / f"{table}.parquet") as file:
            content.to_parquet(file, index=False)
    target = out / f"{name if name in (NOISE_GRID, PLANTED) else 'verdicts'}.parquet"
    found = ledger.table(rows)
    before = ledger.read(target) if target.exists() else ledger.table([])
    ledger.write(pd.concat([before[before["run_id"] != run_id], found], ignore_index=True), target)
    return found


def _topic(topic, run_id, out, every, models, progress, report) -> Result:
    """An experiment on its models: tables of all, one below the other, and the rows of all."""
    tables, rows = {}, []
    todo = [name for name in every if not models or name in models or cell(topic, name).place(out).is_dir()]
    for model in tqdm(todo, f"{run_id}: {topic}", unit="model", disable=not progress):
        try:
            found = cell(topic, model).result(out)
        except UserError as error:
            report(f"{topic} is undefined on {model}: {error}")
            name, _, seed = model.partition(":")
            failed = {"chapter": chapter_of(topic), "model": name, "seed": int(seed), "error": str(error)}
            found = Result({}, [ledger.failed_row(**failed)])
        rows += found.rows
        for name, table in found.tables.items():
            tables[name] = pd.concat([*([tables[name]] if name in tables else []), table], ignore_index=True)
    if topic == "ras" and tables:
        rows += ras.pooled_rows(tables["ras-points"], tables["ras-sets"])
    return Result(tables, [row | {"run_id": run_id} for row in rows])


def models_of(topic: str, noise: bool = False) -> list[str]:
    """The embedded models that the grid of an experiment is about, as "rim-mini:0"."""
    table = embedded_models(noise=noise)
    if noise:
        table = table[table["name"] == NOISE]
    elif topic == PLANTED:
        return [name for name in (SHARED, DISJOINT, *REPEATED) if identity(name)]
    elif topic == "ras":
        table = table[table["name"].isin(ENTANGLED) & (table["seed"] < 3)]
    elif topic != "tuning":
        table = table[table["name"] != EXPERTS]
    return [f"{item.name}:{item.seed}" for item in table.itertuples()]


def chapter_of(topic: str) -> str:
    """The chapter whose claims an experiment measures: "04_refusal_heads"."""
    topic = "ras" if topic == PLANTED else topic
    return dict(zip(TOPICS, sorted(ledger.claims()["chapter"].unique()), strict=True))[topic]


def cell(topic: str, model: str) -> Kept:
    """One experiment on one embedded model, with the experiment's own settings."""
    settings = import_module(f"rimkit.experiments.{topic}").Settings()
    if topic == "tuning" and model.partition(":")[0] not in CURVES:
        settings = replace(settings, curves=())

    def measure(parts: Path) -> Result:
        keeping = replace(settings, folder=parts) if hasattr(settings, "folder") else settings
        keeping = replace(keeping, known=planted.known_sets(model)) if topic == PLANTED else keeping
        return experiments.run(topic, load(model), keeping)

    depends_on = topic, model, identity(model), settings
    return Kept(f"{topic}-{model.replace(':', '-')}", depends_on, measure)


def _repeats(out: Path, models: list[str], progress: bool) -> pd.DataFrame:
    """False alarms in trained models' replies: two sampling seeds of one condition."""
    parts = []
    for model in (name for name in REPEATED if not models or name in models):

        def measure(_: Path, name: str = model) -> Result:
            study = load(name)
            return experiments.result(study, {"repeats": audit.repeats(study, progress=progress)}, [])

        again = Kept(f"repeats-{model.replace(':', '-')}", ("repeats", model, identity(model)), measure)
        parts.append(again.result(out).tables["repeats"])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def weaker(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """C3a and C9a against controls that see effects in noise (chapter 10), as verdict rows."""
    read = tables["probes"].query("what == 'harm' and mode == 'no-think' and span == 'last'")
    read = read.rename(columns={"auroc": "value", "shuffled": "control_value"})
    read = read.assign(claim="C3a", control="shuffled labels", metric="auroc")
    levels = tables["ras-levels"].assign(claim="C9a", control="random neurons", mode="think", metric="log_ras")
    levels = levels[levels["role"] == RANDOM]
    columns = ["model", "seed", "claim", "control", "mode", "metric", "value", "control_value", "effect"]
    return pd.concat([read, levels], ignore_index=True)[[*columns, "ci_low", "ci_high", "n"]]


def picture(thinking: pd.DataFrame) -> Figure:
    """The README's figure: misalignment of every embedded model and seed in both modes."""
    harmful = thinking.query("set == 'harmful' and metric == 'misaligned'")
    title = "Misalignment on held-out harmful requests, every organism and training seed"
    return figures.points(harmful, "seed", hue="mode", facet="model", title=title)
