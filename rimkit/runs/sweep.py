"""Sweeps: every cell of a sweep file as its own `rimkit run`, scheduled by Snakemake; one ledger at the end.

Snakemake decides what runs when and where (this machine, Slurm, …), tries again what failed and goes on after an
interruption. What it must not do is decide what is kept: a cell that fails, or is killed, becomes a row of the ledger.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rimkit.errors import UserError
from rimkit.runs.execute import prepare_folder
from rimkit.runs.sweepfile import Cell, Sweep, read
from rimkit.runs.sweeprows import FAILED, WAITING, ended, gather, line

if TYPE_CHECKING:
    import pandas as pd

REQUIREMENT = "snakemake>=8.20,<10"  # as in the extra `sweep` of pyproject.toml; a test compares the two
BUILT_IN = ("local", "dryrun", "touch")  # executors that need no plugin
CONFIG, LOG = "sweep.json", "snakemake.log"


def run(
    path: str | Path,
    out: str | Path = "rim-sweep",
    *,
    executor: str = "local",
    jobs: int = 1,
    gpus: int | None = None,
    retries: int = 0,
    extra: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Run the cells of a sweep file that are not complete yet, and gather the rows of all into one ledger.

    One row per cell: ``id, chapter, model``, the swept parameters, ``status`` ("done", "failed", "not run"),
    ``seconds, error``; also written to ``out/cells.csv``. The rows of all cells go to ``out/ledger/sweep.parquet``,
    the notebooks stay in ``out/cells/<id>``. ``jobs``: cells at a time; ``gpus``: GPUs of this machine to share out
    (by default all that there are); ``extra``: further arguments of Snakemake. ``report`` is told of every cell that
    ends, in one line.

    Raises `UserError`, before anything runs, for Snakemake or a plugin that is missing, a sweep file that is wrong
    (with the line), a folder that cannot be written or in which another sweep is running.
    """
    check_installed(executor)
    sweep = read(path)
    gpus = _check_gpus(sweep, gpus) if executor == "local" else gpus
    out = prepare_folder(out)
    with _alone(out) as lock:
        config = {"cells": {cell.id: _command(cell, sweep, gpus, executor) for cell in sweep.cells}}
        (out / CONFIG).write_text(json.dumps(config | {"resources": sweep.resources}, indent=1), encoding="utf-8")
        for cell in sweep.cells:
            (out / "cells" / cell.id).mkdir(parents=True, exist_ok=True)
        command = _snakemake(out, executor, jobs, gpus, retries, extra)
        try:
            code = _watch(command, out, sweep.cells, lock, report)
        finally:  # also when interrupted: what was finished is in the ledger
            found = gather(sweep.cells, out)
    _check_started(found, code, out)
    return found


def check_installed(executor: str) -> None:
    """Raise `UserError` with the command that installs what is missing: Snakemake, or the plugin of an executor."""
    if find_spec("snakemake") is None or find_spec("yaml") is None:
        raise UserError(f"a sweep needs Snakemake: pip install '{REQUIREMENT}'")
    if executor not in BUILT_IN and find_spec(f"snakemake_executor_plugin_{executor.replace('-', '_')}") is None:
        raise UserError(f"the executor '{executor}' is not installed: pip install snakemake-executor-plugin-{executor}")


# -- Snakemake ---------------------------------------------------------------------------------------------


def _command(cell: Cell, sweep: Sweep, gpus: int | None, executor: str) -> str:
    """The cell as a line of shell, run in the folder of the sweep."""
    python = [sys.executable, "-m"]
    words = [*python, "rimkit.cli", *cell.arguments, "--out", f"cells/{cell.id}"]
    needed = sweep.resources.get("gpu", 0)
    if executor == "local" and needed:  # a cluster gives every job its own GPUs; here they are shared out
        words = [*python, "rimkit.runs.slot", str(needed), str(gpus), ".gpus", *words]
    return shlex.join(words)


def _snakemake(out: Path, executor: str, jobs: int, gpus: int | None, retries: int, extra: Sequence[str]) -> list[str]:
    limit = ["--cores" if executor in BUILT_IN else "--jobs", str(jobs)]
    if gpus is not None:
        limit += ["--resources", f"gpu={gpus}"]
    rules = ["--snakefile", str(Path(__file__).with_name("Snakefile")), "--configfile", str(out / CONFIG)]
    # No lock of its own: it would outlive a kill (ours does not). The ids say what has changed, not the times of files.
    again = ["--keep-going", "--retries", str(retries), "--rerun-incomplete", "--rerun-triggers", "mtime", "--nolock"]
    where = ["--directory", str(out), "--executor", executor]
    return [sys.executable, "-m", "snakemake", *rules, *where, *limit, *again, "--nocolor", *extra]


def _watch(command: list[str], out: Path, cells: Sequence[Cell], lock: int, report: Callable[[str], None]) -> int:
    """Run Snakemake and report cells as they end; returns its exit code. Nothing that it started outlives it."""
    told, known = ended(cells, out), {cell.id: cell for cell in cells}
    kept = sum(done for _, done in told)
    if kept:
        report(f"{kept} of {len(cells)} cells are complete already")
    with open(out / LOG, "w", encoding="utf-8") as log, _terminable():
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=[lock]
        )
        try:
            while True:
                code = process.poll()
                for event in sorted(ended(cells, out) - told):
                    told.add(event)
                    kept += event[1]
                    report(line(known[event[0][0]], out, kept, len(cells)))
                if code is not None:
                    return code
                time.sleep(0.3)
        except KeyboardInterrupt:
            _signal(process, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            raise
        finally:
            _signal(process, signal.SIGTERM)


def _signal(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def _terminable() -> Iterator[None]:
    """A polite end (as batch systems ask for) is an interruption, so that the cells end too and the rows are kept."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _alone(out: Path) -> Iterator[int]:
    """Hold the folder; the system lets go of it when this process and the Snakemake that it started are gone."""
    import fcntl

    with open(out / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another sweep is running in {out}: wait for it, or give --out another folder") from None
        yield file.fileno()


def _check_gpus(sweep: Sweep, gpus: int | None) -> int | None:
    needed = sweep.resources.get("gpu", 0)
    if not isinstance(needed, int):
        raise UserError(f"the resource gpu is a number of GPUs, not '{needed}'")
    if not needed:
        return gpus
    there = len(_visible_gpus()) if gpus is None else gpus
    if there < needed:
        raise UserError(f"a cell needs gpu: {needed} and there are {there} here: lower it, or use another --executor")
    return there


def _visible_gpus() -> list[str]:
    """Without torch, which takes seconds to say so."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return []
    return re.findall(r"^GPU \d+", listed, re.MULTILINE)


def _check_started(found: pd.DataFrame, code: int, out: Path) -> None:
    """Raise `UserError` if Snakemake ended without running what it should, for a reason of its own."""
    if code < 0:
        raise UserError(f"Snakemake was ended by signal {-code}; what was finished is kept, the same command goes on")
    if code and not (found["status"] == FAILED).any() and (found["status"] == WAITING).any():
        lines = (out / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"]
        said = next((line for line in lines if re.search("error", line, re.IGNORECASE)), lines[-1]).strip()
        raise UserError(f"Snakemake could not run the cells ({said[:200]}); see {out / LOG}")
