"""Sweeps: every cell of a sweep file as its own `rimkit run`, scheduled by Snakemake; one ledger at the end.

Snakemake decides what runs when and where (this machine, Slurm, …), tries again what failed and goes on after an
interruption. What it must not do is decide what is kept: a cell that fails, or is killed, becomes a row of the ledger.

The file of a sweep: models x chapters x seeds x parameters, checked before anything runs.

    models: [rim-mini, ./my-model]      # as in `rimkit run --model`
    chapters: ["01", "03"]              # as in `rimkit run`; without it, all
    seeds: [0, 1, 2]                    # the chapters' parameter `seed`
    parameters:                         # further parameters; a list is swept over
      n_prompts: [46, 92]
    prompts: {harmful: hex-phi}         # as in `rimkit run --prompts`; the same for all cells
    judge: guard:./my-guard             # as in `rimkit run --judge`
    max_new_tokens: 4096                # as in `rimkit run --max-new-tokens`
    resources: {gpu: 1, mem_mb: 16000, runtime: 120}    # of one cell

A parameter goes to the chapters that declare it, and is no axis for the others. Everything that is wrong with the file
is said in one line that begins with its name and the line number.

What the cells of a sweep left behind: how each ended, and the rows of all as one ledger.

Run a command on GPUs of this machine that no other cell of the sweep has: one lock file for each.

``python -m rimkit.runs.sweep NEEDED ALL FOLDER COMMAND…``. The locks go when the command ends, however it ends.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rimkit import __version__
from rimkit.behavior.evaluation import Evaluation, evaluation
from rimkit.data import UserError, nearest
from rimkit.runs.execute import (
    OPTIONS,
    Parameter,
    check_chat,
    convert,
    declared_in,
    find_chapters,
    find_model,
    plan,
    prepare_folder,
)

if TYPE_CHECKING:
    import pandas as pd


# -- runs.sweep ----------
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
        words = [*python, "rimkit.runs.sweep", str(needed), str(gpus), ".gpus", *words]
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


# -- runs.sweepfile ----------
KEYS = ("models", "chapters", "seeds", "parameters", "prompts", "judge", "max_new_tokens", "resources")


@dataclass(frozen=True)
class Cell:
    """One run of one chapter on one model.

    ``id`` names its folder and ends in a hash of chapter, model, parameters and rimkit version, so that a change of any
    is another cell. ``varied``: the settings in which the cells of its model and chapter differ.
    """

    id: str
    chapter: str
    notebook: str
    model: str
    values: dict[str, Any]
    varied: dict[str, Any]
    options: tuple[str, ...] = ()  # further ones of `rimkit run`: prompt sets and judge

    @property
    def arguments(self) -> list[str]:
        """What `rimkit` is called with, but for the folder."""
        given = [text for name, value in self.values.items() for text in ("-p", f"{name}={value}")]
        return ["run", self.notebook, "--model", self.model, *given, *self.options, "--quiet"]

    @property
    def label(self) -> str:
        """The settings in words: "seed=1, n_prompts=46"; empty if there is nothing to tell apart."""
        return ", ".join(f"{name}={value}" for name, value in self.varied.items())


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep, and the resources that one of them needs."""

    cells: tuple[Cell, ...]
    resources: dict[str, int | str]


def read(path: str | Path) -> Sweep:
    """The sweep that a file describes; raises `UserError` (``file:line: what is wrong``) for one that cannot run."""
    return _Reader(Path(path)).sweep()


class _Reader:
    """Reads one file, keeping the place of everything in it, for the messages."""

    def __init__(self, path: Path):
        self.path = path
        self.entries = self._entries()

    def sweep(self) -> Sweep:
        notebooks = self._notebooks()
        models = [(self._at(node, find_model, node.value), node) for node in self._texts("models", required=True)]
        for model, node in models:
            self._at(node, check_chat, model)
        declared = {notebook: self._at(node, declared_in, notebook) for notebook, node in notebooks}
        axes, choice = self._axes(declared), self._choice()
        cells = [
            cell
            for (model, _), (notebook, node) in product(models, notebooks)
            for cell in self._at(node, list, _cells(model, notebook, axes, declared[notebook], *choice))
        ]
        return Sweep(tuple({cell.id: cell for cell in cells}.values()), self._resources())

    # -- parts of the file -----------------------------------------------------------------------------

    def _entries(self) -> dict[str, Any]:
        """The nodes of the file by key."""
        import yaml

        try:
            root = yaml.compose(self.path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {self.path} ({getattr(error, 'strerror', None) or error})") from error
        except yaml.YAMLError as error:
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "it cannot be read"
            line = mark.line + 1 if mark else 1
            raise UserError(f"{self.path}:{line}: this is not YAML: {' '.join(str(problem).split())}") from error
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{self.path}:1: a sweep is a mapping with the keys {', '.join(KEYS)}")
        return self._mapping(root, KEYS)

    def _mapping(self, node, known: Iterable[str] = ()) -> dict[str, Any]:
        import yaml

        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, "here a mapping (name: value) is needed")
        found = {}
        for key, value in node.value:
            name = str(key.value)
            if known and name not in known:
                self._wrong(key, f"unknown key '{name}'{nearest(name, known)}; there are: {', '.join(known)}")
            if name in found:
                self._wrong(key, f"'{name}' stands here a second time")
            found[name] = value
        return found

    def _list(self, node) -> list:
        """The items of a list; a single value is a list of one. Each comes with its own node."""
        import yaml

        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not items:
            self._wrong(node, "this list is empty")
        return items

    def _texts(self, key: str, required: bool = False) -> list:
        import yaml

        if key not in self.entries:
            if required:
                raise UserError(f"{self.path}:1: '{key}' is missing: a list, such as [rim-mini]")
            return []
        nodes = self._list(self.entries[key])
        for node in nodes:
            if not isinstance(node, yaml.ScalarNode) or not node.value:
                self._wrong(node, f"an item of '{key}' is a single word or number")
        return nodes

    def _notebooks(self) -> list[tuple[Path, Any]]:
        nodes = self._texts("chapters")
        if nodes:
            found = [(self._at(node, find_chapters, [node.value])[0], node) for node in nodes]
        else:
            found = [(notebook, self.entries.get("models")) for notebook in find_chapters()]
        return list({notebook: (notebook, node) for notebook, node in found}.values())

    def _axes(self, declared: dict[Path, dict[str, Parameter]]) -> dict[str, list]:
        """``{parameter: its values, as written}``; every value is checked against each chapter that declares it."""
        given = self._mapping(self.entries["parameters"]) if "parameters" in self.entries else {}
        nodes = ({"seed": self.entries["seeds"]} if "seeds" in self.entries else {}) | given
        known = sorted({name for parameters in declared.values() for name in parameters} - set(OPTIONS))
        for name, node in nodes.items():
            if name == "seed" and "seeds" in self.entries and "seed" in given:
                self._wrong(given["seed"], "the seeds already stand under 'seeds'")
            if name not in known:
                there = ", ".join(known) or "none"
                self._wrong(node, f"no parameter '{name}' in these chapters{nearest(name, known)}; there are: {there}")
        return {name: self._values(name, node, declared.values()) for name, node in nodes.items()}

    def _values(self, name: str, node, chapters: Iterable[dict[str, Parameter]]) -> list:
        import yaml

        values = []
        for item in self._list(node):
            nested = isinstance(item, yaml.SequenceNode)
            if isinstance(item, yaml.MappingNode):
                self._wrong(item, f"'{name}' takes values, not a mapping")
            value = [entry.value for entry in item.value] if nested else item.value
            for parameters in chapters:
                if name in parameters:
                    self._at(item, convert, value, parameters[name])
            values.append(f"[{', '.join(value)}]" if nested else value)
        return list(dict.fromkeys(values))

    def _choice(self) -> tuple[tuple[str, ...], Evaluation]:
        """Prompt sets, judge and reply length, as options of `rimkit run` and as what chapters get."""
        nodes = self._mapping(self.entries["prompts"]) if "prompts" in self.entries else {}
        for name, node in nodes.items():
            if not isinstance(node.value, str) or not node.value:
                self._wrong(node, f"'{name}' takes the name of one prompt set, such as hex-phi")
            self._at(node, evaluation, {name: node.value})
        judge, length = self._one("judge"), self._one("max_new_tokens")
        if length and not length.value.isdigit():
            self._wrong(length, f"max_new_tokens takes a whole number, not '{length.value}'")
        prompts = {name: node.value for name, node in nodes.items()}
        tokens = int(length.value) if length else 0
        found = self._at(judge, evaluation, prompts, judge.value if judge else "", tokens)
        options = [
            text
            for name, other in found.prompts.items()  # absolute paths: cells run elsewhere
            for text in ("--prompts", f"{name}={other}")
        ]
        options += ["--judge", found.judge] if judge else []
        options += ["--max-new-tokens", length.value] if length else []
        return tuple(options), found

    def _one(self, key: str):
        """The node of a key that holds for all cells; None without it."""
        nodes = self._texts(key)
        if len(nodes) > 1:
            self._wrong(nodes[1], f"'{key}' holds for all cells: give one")
        return nodes[0] if nodes else None

    def _resources(self) -> dict[str, int | str]:
        nodes = self._mapping(self.entries["resources"]) if "resources" in self.entries else {}
        for name, node in nodes.items():
            if not re.fullmatch(r"[A-Za-z]\w*", name) or not isinstance(node.value, str) or not node.value:
                self._wrong(node, f"the resource '{name}' needs one number or word, such as gpu: 1")
        return {name: int(node.value) if node.value.isdigit() else node.value for name, node in nodes.items()}

    # -- places ----------------------------------------------------------------------------------------

    def _at(self, node, function, *arguments):
        """Call ``function``; what it finds wrong is said with the place of ``node``."""
        try:
            return function(*arguments)
        except UserError as error:
            self._wrong(node, str(error))

    def _wrong(self, node, problem: str):
        line = node.start_mark.line + 1 if node is not None else 1
        raise UserError(f"{self.path}:{line}: {problem}") from None


def _cells(
    model: str,
    notebook: Path,
    axes: dict[str, list],
    declared: dict[str, Parameter],
    options: tuple[str, ...],
    measure: Evaluation,
) -> Iterator[Cell]:
    own = {name: values for name, values in axes.items() if name in declared}
    for values in product(*own.values()):
        given = dict(zip(own, values, strict=True))
        (job,) = plan([notebook], model, given, measure=measure)
        varied = {name: value for name, value in given.items() if len(own[name]) > 1}
        place = _id(job.params_hash, notebook, model, varied)
        yield Cell(place, job.chapter, str(notebook), model, given, varied, options)


def _id(params_hash: str, notebook: Path, model: str, varied: dict[str, Any]) -> str:
    """Readable, and with a hash: one folder name per chapter, model, parameters and version of rimkit."""
    from hashlib import sha256

    settings = [f"{name}{value}" for name, value in varied.items()]
    words = [notebook.stem.partition("_")[0], Path(model).name, *settings]
    slug = "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words)[:80]
    whole = f"{params_hash} {notebook} {model} {__version__}"
    return f"{slug}-{sha256(whole.encode()).hexdigest()[:8]}"


# -- runs.sweeprows ----------
DONE, FAILED, WAITING = "done", "failed", "not run"
COMPLETE, LEDGER = "complete", "sweep.parquet"


def ended(cells: Iterable[Cell], out: Path) -> set[tuple[tuple[str, int], bool]]:
    """``((id, when), done)`` of every cell that has ended; each attempt that failed has its own time."""
    found = set()
    for cell in cells:
        folder = out / "cells" / cell.id
        if (folder / COMPLETE).exists():
            found.add(((cell.id, 0), True))
        elif _exit_code(folder) is not None:
            found.add(((cell.id, (folder / "log.txt").stat().st_mtime_ns), False))
    return found


def _exit_code(folder: Path) -> int | None:
    """What the last attempt of a cell ended with; None if it did not end by itself, or did not fail."""
    match = re.search(r"^exit code (\d+)\s*\Z", _log(folder), re.MULTILINE)
    return int(match[1]) if match else None


def _log(folder: Path) -> str:
    try:
        return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def line(cell: Cell, out: Path, done: int, total: int) -> str:
    status, error = outcome(cell, out)
    settings = f" ({cell.label})" if cell.label else ""
    return f"{status:8}{cell.chapter} on {cell.model}{settings}  [{done} of {total} done]  {error}".rstrip()


def outcome(cell: Cell, out: Path) -> tuple[str, str]:
    """``(status, error)`` of a cell by what it left behind."""
    folder = out / "cells" / cell.id
    if (folder / COMPLETE).exists():
        return DONE, ""
    if not (folder / "log.txt").exists():
        return WAITING, ""
    code = _exit_code(folder)
    if code is None and "rimkit: interrupted" in _log(folder):
        return FAILED, "interrupted"
    if code is None:
        return FAILED, f"ended without a result (killed, or out of memory or time); see {folder / 'log.txt'}"
    if code > 128:
        return FAILED, f"killed by signal {code - 128}" + (" (out of memory?)" if code == 128 + signal.SIGKILL else "")
    said = re.findall(r"^(?:rimkit: |failed  \S+  )(.+)$", _log(folder), re.MULTILINE)
    return FAILED, said[0] if said else f"exit code {code}; see {folder / 'log.txt'}"


def gather(cells: Sequence[Cell], out: Path) -> pd.DataFrame:
    """Write the ledger and the table of a sweep from what its cells left behind; returns the table."""
    import pandas as pd

    from rimkit import ledger

    tables, listed = [], []
    for cell in cells:
        status, error = outcome(cell, out)
        rows = _rows(cell, out, status, error)
        tables.append(rows)
        seconds = rows["seconds"].max() if len(rows) else None
        listed.append(
            {"id": cell.id, "chapter": cell.chapter, "model": cell.model, **cell.values, "status": status,
             "seconds": seconds, "error": error}
        )  # fmt: skip
    ledger.write(pd.concat(tables, ignore_index=True), out / "ledger" / LEDGER)
    found = pd.DataFrame(listed)
    order = [name for name in found.columns if name not in ("status", "seconds", "error")]
    found = found[[*order, "status", "seconds", "error"]]
    found.to_csv(out / "cells.csv", index=False)
    return found


def _rows(cell: Cell, out: Path, status: str, error: str) -> pd.DataFrame:
    """The ledger rows of a cell, named by it; a failed one always has one row that says so.

    The model's name carries the settings in which cells differ: verdicts are per model, and the cells of a sweep are
    to stand side by side, not to replace one another.
    """
    import pandas as pd

    from rimkit import ledger

    folder = out / "cells" / cell.id
    known = folder / "ledger" / f"{cell.chapter}.parquet"
    rows = ledger.read(known) if status != WAITING and known.exists() else ledger.table([])
    if status == FAILED and not (rows["status"] == "failed").any():
        failed = ledger.failed_row(chapter=cell.chapter, model=cell.model, error=error, run_id=_run_id(folder, cell))
        rows = pd.concat([rows, ledger.table([failed])], ignore_index=True)
    own = rows["run_id"] == _run_id(folder, cell)  # a chapter may hand on shipped rows, which stay as they are
    named = rows["model"] + (f" ({cell.label})" if cell.label else "")
    return rows.assign(model=rows["model"].mask(own, named), run_id=rows["run_id"].mask(own, cell.id))


def _run_id(folder: Path, cell: Cell) -> str:
    """Which rows of a cell it measured itself: those with the number of its run, which its notebook knows."""
    try:
        text = (folder / f"{cell.chapter}.ipynb").read_text(encoding="utf-8")
        return json.loads(text)["metadata"]["rimkit"]["run_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return cell.id


# -- runs.slot ----------
def take(needed: int, there: int, folder: str | Path) -> list[int]:
    """Wait for ``needed`` of the GPUs 0 to ``there - 1``, and hold them until this process (or its exec) ends."""
    import fcntl

    Path(folder).mkdir(exist_ok=True)
    while True:
        held: dict[int, int] = {}
        for number in range(there):
            file = os.open(Path(folder) / str(number), os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
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
    mine = take(int(wanted), int(total), where)
    os.environ["CUDA_VISIBLE_DEVICES"] = visible(mine, os.environ.get("CUDA_VISIBLE_DEVICES"))
    os.execv(command[0], command)
