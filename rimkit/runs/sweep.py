"""Sweeps: a file says which chapters run on which models with which settings, and Snakemake runs them.

Every cell of a sweep is one `rimkit run` in a folder of its own. Snakemake decides what runs when and where (this
machine, Slurm, …), tries again what failed and goes on after an interruption. What it must not decide is what is
kept: a cell that fails, or is killed, becomes a row of the ledger.

    models: [rim-mini, ./my-model]      # as in `rimkit run --model`
    chapters: ["01", "03"]              # as in `rimkit run`; without it, all
    seeds: [0, 1, 2]                    # the chapters' parameter `seed`
    parameters:                         # further parameters; a list is swept over
      n_prompts: [46, 92]
    prompts: {harmful: hex-phi}         # as in `rimkit run --prompts`; the same for all cells
    judge: guard:./my-guard             # as in `rimkit run --judge`
    max_new_tokens: 4096                # as in `rimkit run --max-new-tokens`
    resources: {gpu: 1, mem_mb: 16000, runtime: 120}    # of one cell

A parameter goes to the chapters that declare it, and is no axis for the others. Everything that is wrong with the
file is said in one line that begins with its name and the line number.

``python -m rimkit.runs.sweep NEEDED ALL FOLDER COMMAND…`` runs a command on GPUs of this machine that no other cell
has: one lock file for each. The locks go when the command ends, however it ends.
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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from rimkit import __version__, ledger
from rimkit.behavior.evaluation import Evaluation, evaluation
from rimkit.data import UserError, nearest, whole
from rimkit.runs.execute import (
    Job,
    Parameter,
    check_chat,
    check_taken,
    convert,
    declared_in,
    find_chapters,
    find_model,
    is_complete,
    plan,
    prepare_folder,
    settable,
)

REQUIREMENT = "snakemake>=8.20,<10"  # as in the extra `sweep` of pyproject.toml; a test compares the two
BUILT_IN = ("local", "dryrun", "touch")  # executors that need no plugin
CONFIG, LOG, LEDGER, COMPLETE = "sweep.json", "snakemake.log", "sweep.parquet", "complete"
DONE, FAILED, WAITING = "done", "failed", "not run"
KEYS = ("models", "chapters", "seeds", "parameters", "prompts", "judge", "max_new_tokens", "resources")


@dataclass(frozen=True)
class Cell:
    """One run of one chapter on one model.

    ``id`` names its folder and ends in a hash of chapter, model, parameters and rimkit version, so that a change of
    any is another cell. ``values``: the parameters as they are written; ``varied``: those in which the cells of its
    model and chapter differ.
    """

    id: str
    job: Job
    model: str
    values: dict[str, Any]
    varied: dict[str, Any]

    @property
    def chapter(self) -> str:
        return self.job.chapter

    @property
    def arguments(self) -> list[str]:
        """What `rimkit` is called with, but for the folder."""
        measure = self.job.measure
        given = [text for name, value in self.values.items() for text in ("-p", f"{name}={value}")]
        given += [text for name, other in measure.prompts.items() for text in ("--prompts", f"{name}={other}")]
        given += ["--judge", measure.judge] if measure.judge else []
        given += ["--max-new-tokens", str(measure.max_new_tokens)] if measure.max_new_tokens else []
        return ["run", str(self.job.notebook), "--model", self.model, *given, "--quiet"]

    @property
    def label(self) -> str:
        """The settings in words: "seed=1, n_prompts=46"; empty if there is nothing to tell apart."""
        return ", ".join(f"{name}={value}" for name, value in self.varied.items())


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep, and the resources that one of them needs."""

    cells: tuple[Cell, ...]
    resources: dict[str, int | str]


# -- the file --------------------------------------------------------------------------------------


def read(path: str | Path) -> Sweep:
    """The sweep that a file describes; raises `UserError` (``file:line: what is wrong``) for one that cannot run."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({getattr(error, 'strerror', None) or error})") from error
    try:
        return _sweep(_load(text))
    except UserError as error:
        raise UserError(f"{path}:{error}") from None


@contextmanager
def _at(line: int) -> Iterator[None]:
    """Puts the line of the file before what is found wrong there."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{line}: {error}") from None


def _load(text: str) -> Mapping[str, Any]:
    """The file as a mapping that knows the line of each of its parts (``lc``)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        file = YAML().load(text)
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "it cannot be read"
        raise UserError(f"{mark.line + 1 if mark else 1}: this is not YAML: {' '.join(problem.split())}") from error
    with _at(1):
        if not isinstance(file, Mapping):
            raise UserError(f"a sweep is a mapping with the keys {', '.join(KEYS)}")
        if "models" not in file:
            raise UserError("'models' is missing: a list, such as [rim-mini]")
    for key in file:
        with _at(file.lc.key(key)[0] + 1):
            if key not in KEYS:
                raise UserError(f"unknown key '{key}'{nearest(key, KEYS)}; there are: {', '.join(KEYS)}")
    return file


def _sweep(file: Mapping[str, Any]) -> Sweep:
    models, declared, cells = [], {}, {}
    for name, line in _items(file, "models"):
        with _at(line):
            models.append(find_model(name))
            check_chat(models[-1])
    for name, line in _items(file, "chapters") or [("", 1)]:
        with _at(line):
            declared |= {notebook: declared_in(notebook) for notebook in find_chapters([name] if name else ())}
    axes, measure = _axes(file, declared.values()), _measure(file)
    with _at(1):
        check_taken(measure.parameters(), declared.values())
        for model, (notebook, parameters) in product(models, declared.items()):
            own = {name: values for name, values in axes.items() if name in parameters}
            for values in product(*own.values()):
                cell = _cell(notebook, model, dict(zip(own, values, strict=True)), own, measure)
                cells[cell.id] = cell
    return Sweep(tuple(cells.values()), _resources(file))


def _mapping(file: Mapping, key: str) -> Mapping[str, Any]:
    found = file.get(key, {})
    if not isinstance(found, Mapping):
        raise UserError(f"{_line(file, key)}: here a mapping (name: value) is needed")
    return found


def _line(file: Mapping, key: str) -> int:
    return file.lc.value(key)[0] + 1


def _items(file: Mapping, key: str) -> list[tuple[str, int]]:
    """What stands under a key, as texts with their lines; a single value is a list of one, no value an empty one.

    A list in a list is one text, "[1, 2]".
    """
    if key not in file:
        return []
    found, line = file[key], _line(file, key)
    items = [(found, line)]
    if isinstance(found, list):
        items = [(item, found.lc.item(place)[0] + 1) for place, item in enumerate(found)]
    if not items:
        raise UserError(f"{line}: this list is empty")
    for item, line in items:
        if item in (None, "") or isinstance(item, Mapping):
            raise UserError(f"{line}: an item of '{key}' is a single word or number")
    return [(json.dumps(item) if isinstance(item, list) else str(item), line) for item, line in items]


def _one(file: Mapping, key: str) -> tuple[str, int]:
    """The one value of a key, with its line; "" without it."""
    items = _items(file, key) or [("", 1)]
    if len(items) > 1:
        raise UserError(f"{items[1][1]}: '{key}' takes one word or number")
    return items[0]


def _axes(file: Mapping, chapters: Collection[Mapping[str, Parameter]]) -> dict[str, list[str]]:
    """``{parameter: its values, as written}``; every value is checked against each chapter that declares it."""
    given, known = _mapping(file, "parameters"), settable(chapters)
    if "seeds" in file and "seed" in given:
        raise UserError(f"{_line(given, 'seed')}: the seeds already stand under 'seeds'")
    places = ({"seed": (file, "seeds")} if "seeds" in file else {}) | {name: (given, name) for name in given}
    for name, place in places.items():
        if name not in known:
            raise UserError(
                f"{_line(*place)}: no parameter '{name}' in these chapters{nearest(name, known)}; "
                f"there are: {', '.join(known) or 'none'}"
            )
    axes = {name: _items(*place) for name, place in places.items()}
    for name, items in axes.items():
        for parameters, (value, line) in product(chapters, items):
            if name in parameters:
                with _at(line):
                    convert(value, parameters[name])
    return {name: list(dict.fromkeys(value for value, _ in items)) for name, items in axes.items()}


def _measure(file: Mapping) -> Evaluation:
    """Prompt sets, judge and reply length of all cells."""
    sets = _mapping(file, "prompts")
    prompts = {name: _one(sets, name) for name in sets}
    for name, (other, line) in prompts.items():
        with _at(line):
            evaluation({name: other})
    (judge, judged), (length, counted) = _one(file, "judge"), _one(file, "max_new_tokens")
    if length and not length.isdigit():
        raise UserError(f"{counted}: max_new_tokens takes a whole number, not '{length}'")
    with _at(judged):
        return evaluation({name: other for name, (other, _) in prompts.items()}, judge, int(length or 0))


def _resources(file: Mapping) -> dict[str, int | str]:
    given = _mapping(file, "resources")
    for name in given:
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise UserError(f"{_line(given, name)}: '{name}' is no name of a resource, such as gpu")
    values = {name: _one(given, name)[0] for name in given}
    return {name: int(value) if value.isdigit() else value for name, value in values.items()}


def _cell(notebook: Path, model: str, values: dict, axes: dict[str, list], measure: Evaluation) -> Cell:
    (job,) = plan([notebook], model, values, measure)
    varied = {name: value for name, value in values.items() if len(axes[name]) > 1}
    words = [job.chapter.partition("_")[0], Path(model).name, *(f"{name}{value}" for name, value in varied.items())]
    slug = "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words)[:80]
    depends_on = f"{job.params_hash} {notebook} {model} {__version__}"
    return Cell(f"{slug}-{sha256(depends_on.encode()).hexdigest()[:8]}", job, model, values, varied)


# -- Snakemake -------------------------------------------------------------------------------------


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
        commands = {cell.id: _command(cell, sweep, gpus, executor) for cell in sweep.cells}
        (out / CONFIG).write_text(json.dumps({"cells": commands, "resources": sweep.resources}, indent=1), "utf-8")
        for cell in sweep.cells:
            folder = out / "cells" / cell.id
            folder.mkdir(parents=True, exist_ok=True)
            if not is_complete(folder / f"{cell.chapter}.ipynb", cell.job):
                (folder / COMPLETE).unlink(missing_ok=True)
        command = _snakemake(out, executor, jobs, gpus, retries, extra)
        try:
            code = _watch(command, out, sweep.cells, lock, report)
        finally:  # also when interrupted: what was finished is in the ledger
            found = gather(sweep.cells, out)
    _check_started(found, code, out)
    return found


def check_installed(executor: str) -> None:
    """Raise `UserError` with the command that installs what is missing: Snakemake, or the plugin of an executor."""
    if find_spec("snakemake") is None or find_spec("ruamel.yaml") is None:
        raise UserError(f"a sweep needs Snakemake: pip install '{REQUIREMENT}' ruamel.yaml")
    if executor not in BUILT_IN and find_spec(f"snakemake_executor_plugin_{executor.replace('-', '_')}") is None:
        raise UserError(f"the executor '{executor}' is not installed: pip install snakemake-executor-plugin-{executor}")


def _command(cell: Cell, sweep: Sweep, gpus: int | None, executor: str) -> str:
    """The cell as a line of shell, run in the folder of the sweep."""
    python = [sys.executable, "-m"]
    words = [*python, "rimkit.cli", *cell.arguments, "--out", f"cells/{cell.id}"]
    needed = sweep.resources.get("gpu", 0)
    if executor == "local" and needed:  # a cluster gives every job its own GPUs; here they are shared out
        words = [*python, "rimkit.runs.sweep", str(needed), str(gpus), ".gpus", *words]
    return shlex.join(words)


def _snakemake(out: Path, executor: str, jobs: int, gpus: int | None, retries: int, extra: Sequence[str]) -> list[str]:
    limit = ["--cores" if executor in BUILT_IN else "--jobs", str(jobs)]
    limit += ["--resources", f"gpu={gpus}"] if gpus is not None else []
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
                    (name, _), done = event
                    told.add(event)
                    kept += done
                    report(_said(known[name], out, f"[{kept} of {len(cells)} done]"))
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


def _said(cell: Cell, out: Path, progress: str) -> str:
    status, error = outcome(cell, out)
    settings = f" ({cell.label})" if cell.label else ""
    return f"{status:8}{cell.chapter} on {cell.model}{settings}  {progress}  {error}".rstrip()


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
    with open(out / ".lock", "w") as file:
        if not _held(file.fileno()):
            raise UserError(f"another sweep is running in {out}: wait for it, or give --out another folder")
        yield file.fileno()


def _held(file: int) -> bool:
    """Try to lock a file; the lock lasts as long as a process has the file open."""
    import fcntl  # not on Windows, where Snakemake does not run either

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_started(found: pd.DataFrame, code: int, out: Path) -> None:
    """Raise `UserError` if Snakemake ended without running what it should, for a reason of its own."""
    if code < 0:
        raise UserError(f"Snakemake was ended by signal {-code}; what was finished is kept, the same command goes on")
    if code and not (found["status"] == FAILED).any() and (found["status"] == WAITING).any():
        lines = (out / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"]
        said = next((line for line in lines if "error" in line.lower()), lines[-1]).strip()
        raise UserError(f"Snakemake could not run the cells ({said[:200]}); see {out / LOG}")


# -- what cells leave behind -----------------------------------------------------------------------


def ended(cells: Iterable[Cell], out: Path) -> set[tuple[tuple[str, int], bool]]:
    """``((id, when), done)`` of every cell that has ended; each attempt that failed has its own time."""
    found = set()
    for cell in cells:
        folder = out / "cells" / cell.id
        if (folder / COMPLETE).exists():
            found.add(((cell.id, 0), True))
        elif _exit_code(_log(folder)) is not None:
            found.add(((cell.id, (folder / "log.txt").stat().st_mtime_ns), False))
    return found


def _exit_code(log: str) -> int | None:
    """What the last attempt of a cell ended with; None if it did not end by itself, or did not fail."""
    match = re.search(r"^exit code (\d+)\s*\Z", log, re.MULTILINE)
    return int(match[1]) if match else None


def _log(folder: Path) -> str:
    try:
        return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def outcome(cell: Cell, out: Path) -> tuple[str, str]:
    """``(status, error)`` of a cell by what it left behind."""
    folder = out / "cells" / cell.id
    if (folder / COMPLETE).exists():
        return DONE, ""
    if not (folder / "log.txt").exists():
        return WAITING, ""
    log = _log(folder)
    code = _exit_code(log)
    if code is None and "rimkit: interrupted" in log:
        return FAILED, "interrupted"
    if code is None:
        return FAILED, f"ended without a result (killed, or out of memory or time); see {folder / 'log.txt'}"
    if code > 128:
        return FAILED, f"killed by signal {code - 128}" + (" (out of memory?)" if code == 128 + signal.SIGKILL else "")
    said = re.findall(r"^(?:rimkit: |failed  \S+  )(.+)$", log, re.MULTILINE)
    return FAILED, said[0] if said else f"exit code {code}; see {folder / 'log.txt'}"


def gather(cells: Sequence[Cell], out: Path) -> pd.DataFrame:
    """Write the ledger and the table of a sweep from what its cells left behind; returns the table."""
    tables, listed = [], []
    for cell in cells:
        status, error = outcome(cell, out)
        tables.append(_rows(cell, out, status, error))
        listed.append({"id": cell.id, "chapter": cell.chapter, "model": cell.model, **cell.values})
        listed[-1] |= {"status": status, "seconds": tables[-1]["seconds"].max(), "error": error}
    ledger.write(pd.concat(tables, ignore_index=True), out / "ledger" / LEDGER)
    found = pd.DataFrame(listed)
    found = found[[*found.columns.drop(["status", "seconds", "error"]), "status", "seconds", "error"]]
    with whole(out / "cells.csv") as file:
        found.to_csv(file, index=False)
    return found


def _rows(cell: Cell, out: Path, status: str, error: str) -> pd.DataFrame:
    """The ledger rows of a cell, named by it; a failed one always has one row that says so.

    The model's name carries the settings in which cells differ: verdicts are per model, and the cells of a sweep are
    to stand side by side, not to replace one another. A chapter may hand on shipped rows, which stay as they are.
    """
    folder = out / "cells" / cell.id
    known = folder / "ledger" / f"{cell.chapter}.parquet"
    rows = ledger.read(known) if status != WAITING and known.exists() else ledger.table([])
    run_id = _run_id(folder / f"{cell.chapter}.ipynb") or cell.id
    if status == FAILED and not (rows["status"] == "failed").any():
        failed = ledger.failed_row(chapter=cell.chapter, model=cell.model, error=error, run_id=run_id)
        rows = pd.concat([rows, ledger.table([failed])], ignore_index=True)
    own = rows["run_id"] == run_id
    named = rows["model"] + (f" ({cell.label})" if cell.label else "")
    return rows.assign(model=rows["model"].mask(own, named), run_id=rows["run_id"].mask(own, cell.id))


def _run_id(notebook: Path) -> str:
    """The number of the run that left a notebook: its own rows have it. Empty where there is none."""
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["rimkit"]["run_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


# -- GPUs of this machine --------------------------------------------------------------------------


def _check_gpus(sweep: Sweep, gpus: int | None) -> int | None:
    needed = sweep.resources.get("gpu", 0)
    if not isinstance(needed, int):
        raise UserError(f"the resource gpu is a number of GPUs, not '{needed}'")
    if not needed:
        return gpus
    there = _visible_gpus() if gpus is None else gpus
    if there < needed:
        raise UserError(f"a cell needs gpu: {needed} and there are {there} here: lower it, or use another --executor")
    return there


def _visible_gpus() -> int:
    """How many; without torch, which takes seconds to say so."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return sum(bool(name.strip()) for name in chosen.split(","))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def take(needed: int, there: int, folder: str | Path) -> list[int]:
    """Wait for ``needed`` of the GPUs 0 to ``there - 1``, and hold them until this process (or its exec) ends."""
    Path(folder).mkdir(exist_ok=True)
    while True:
        held: dict[int, int] = {}
        for number in range(there):
            file = os.open(Path(folder) / str(number), os.O_CREAT | os.O_RDWR)
            if not _held(file):
                os.close(file)
                continue
            held[number] = file
            if len(held) == needed:
                for kept in held.values():
                    os.set_inheritable(kept, True)  # the lock stays with the command
                return list(held)
        for file in held.values():
            os.close(file)
        time.sleep(0.5)


def visible(numbers: list[int], chosen: str | None) -> str:
    """The value of CUDA_VISIBLE_DEVICES for some of the GPUs; ``chosen``: its value so far."""
    names = [name.strip() for name in chosen.split(",")] if chosen else []
    return ",".join(names[number] if number < len(names) else str(number) for number in numbers)


if __name__ == "__main__":
    wanted, total, where, *command = sys.argv[1:]
    mine = visible(take(int(wanted), int(total), where), os.environ.get("CUDA_VISIBLE_DEVICES"))
    os.execve(command[0], command, {**os.environ, "CUDA_VISIBLE_DEVICES": mine})
