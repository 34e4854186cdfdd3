"""Sweeps: a file says which chapters run on which models with which settings; Snakemake runs them.

Every cell of a sweep is one `rimkit run` in a folder of its own. Snakemake decides what runs when
and where (this machine, Slurm, …); a cell that fails, or is killed, becomes a row of the ledger.
What a file may say is in `rimkit sweep --help`.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib.util import find_spec
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rimkit import __version__, ledger
from rimkit.behavior.evaluation import Evaluation, evaluation
from rimkit.data import UserError, find_chapters, nearest, prepare_folder, whole
from rimkit.models.endpoint import PREFIX, is_endpoint, split_name
from rimkit.models.load import name_of
from rimkit.runs import execute
from rimkit.runs.gpus import held

REQUIREMENT = "snakemake>=8.20,<10"  # as in the extra `sweep` of pyproject.toml
BUILT_IN = ("local", "dryrun", "touch")  # executors that need no plugin
CONFIG, LOG, LEDGER = "sweep.json", "snakemake.log", "sweep.parquet"
COMPLETE, LOG_OF_CELL = "complete", "log.txt"  # in the folder of a cell, as in the Snakefile
DONE, FAILED, WAITING = "done", "failed", "not run"
NAMED = ("parameters", "prompts", "resources")  # keys below which names stand
SINGLE = ("prompts", "judge", "max_new_tokens", "resources")  # one value, or one for each name
KEYS = ("models", "chapters", "seeds", "parameters", *SINGLE)
Items = list[tuple[str, int]]  # texts with their lines


@dataclass(frozen=True)
class Cell:
    """One run of one chapter on one model. ``values``: its parameters as they are written;
    ``varied``: names of those in which cells differ."""

    job: execute.Job
    model: str
    values: dict[str, str]
    varied: tuple[str, ...] = ()
    place: str = ""  # the end of the model's path, or its server, where another model has the same name

    @cached_property
    def id(self) -> str:
        """The name of its folder; by the hash, other parameters or weights are other cells."""
        settings = [f"{name}{self.values[name]}" for name in self.varied]
        words = [self.job.chapter.partition("_")[0], self.place or Path(self.model).name, *settings]
        slug = "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words)[:80]
        depends_on = f"{self.job.params_hash} {self.job.notebook} {self.model} {__version__}"
        return f"{slug}-{sha256(depends_on.encode()).hexdigest()[:8]}"

    @property
    def arguments(self) -> list[str]:
        """What `rimkit` is called with, but for the folder."""
        measure, length = self.job.measure, self.job.measure.max_new_tokens
        given = [("--model", self.model), *(("-p", "=".join(pair)) for pair in self.values.items())]
        given += [("--prompts", "=".join(pair)) for pair in measure.prompts.items()]
        given += [("--judge", measure.judge)] * bool(measure.judge)
        given += [("--max-new-tokens", str(length))] * bool(length)
        return ["run", str(self.job.notebook), *chain(*given), "--quiet"]

    @property
    def label(self) -> str:
        """What tells it from its like, in brackets: " (seed=1, n_prompts=46)"."""
        told = [*filter(None, [self.place]), *(f"{name}={self.values[name]}" for name in self.varied)]
        return f" ({', '.join(told)})" if told else ""

    @property
    def title(self) -> str:
        return f"{self.job.chapter} on {self.model}{self.label}"


class Sweep(NamedTuple):
    """All cells of a sweep, and the resources that one of them needs."""

    cells: Sequence[Cell]
    resources: dict[str, int | str]


def parse(path: str | Path) -> Sweep:
    """The sweep that a file describes; raises `UserError` (``file:line: what is wrong``)."""
    if not Path(path).is_file():  # a device may never end
        raise UserError(f"cannot read {path}: there is no such file")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is no text")
        raise UserError(f"cannot read {path} ({reason})") from error
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


def _load(text: str) -> dict[str, dict[str, Items]]:
    """For each of `KEYS` what the file says, by name; by "" where no names stand below the key."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        file = YAML().load(text)
    except (YAMLError, RecursionError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        said = " ".join((problem or "it cannot be read").split())
        raise UserError(f"{mark.line + 1 if mark else 1}: this is not YAML: {said}") from error
    if not isinstance(file, Mapping):
        raise UserError(f"1: a sweep is a mapping with the keys {', '.join(KEYS)}")
    if "models" not in file:
        raise UserError("1: 'models' is missing: a list, such as [rim-mini]")
    found: dict[str, dict[str, Items]] = {key: {} for key in KEYS}
    for key, content in file.items():
        if key not in KEYS:
            line, there = _line(file, key, 0), ", ".join(KEYS)
            raise UserError(f"{line}: unknown key '{key}'{nearest(key, KEYS)}; there are: {there}")
        if key in NAMED and not isinstance(content, Mapping):
            raise UserError(f"{_line(file, key)}: here a mapping (name: value) is needed")
        for name in content if key in NAMED else [""]:
            found[key][name] = items = _items(content, name) if key in NAMED else _items(file, key)
            if key in SINGLE and len(items) > 1:
                raise UserError(f"{items[1][1]}: '{name or key}' takes one word or number")
    return found


def _line(file: Any, key: Any, part: int = 2) -> int:
    """The line of a value (``part`` 0: of a key or item), or of the whole."""
    return (file.lc.data or {}).get(key, [file.lc.line or 0] * 3)[part] + 1


def _items(file: Mapping, key: str) -> Items:
    """What stands under a key: an item is a list of one, a list in a list is one text, "[1, 2]"."""
    found, line = file[key], _line(file, key)
    items = [(found, line)]
    if isinstance(found, list):
        items = [(item, _line(found, place, 0)) for place, item in enumerate(found)]
    if not items:
        raise UserError(f"{line}: this list is empty")
    for item, line in items:
        if item in (None, "") or isinstance(item, Mapping):
            raise UserError(f"{line}: an item of '{key}' is a single word or number")
    return [(json.dumps(item) if isinstance(item, list) else str(item), line) for item, line in items]


def _sweep(file: dict[str, dict[str, Items]]) -> Sweep:
    models, notebooks, cells, measure = [], [], {}, _measure(file)
    for name, line in file["models"][""]:
        with _at(line):
            models.append(execute.find_model(name))
            execute.check_chat(models[-1], measure)
    for name, line in file["chapters"].get("", [("", 1)]):
        with _at(line):
            notebooks += find_chapters([name] if name else ())
    axes = _axes(file, notebooks)
    with _at(1):
        for model, values in product(models, product(*axes.values())):
            given = dict(zip(axes, values, strict=True))
            for job in execute.jobs_for(notebooks, model, given, measure):
                own = {name: value for name, value in given.items() if name in job.values}
                varied = tuple(name for name in own if len(axes[name]) > 1)
                cell = Cell(job, model, own, varied, _place(model, models))
                cells[cell.id] = cell
    resources = {}
    for name, [(value, line)] in file["resources"].items():
        resources[name] = int(value) if value.isdecimal() else value
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise UserError(f"{line}: '{name}' is no name of a resource, such as gpu")
    order = list(product(models, notebooks))
    ordered = sorted(cells.values(), key=lambda cell: order.index((cell.model, cell.job.notebook)))
    return Sweep(ordered, resources)


def _place(model: str, models: Sequence[str]) -> str:
    """What tells a model from others of its name: the end of its path, or its server; else ""."""
    if is_endpoint(model):
        name, url = split_name(model.removeprefix(PREFIX))
        servers = [split_name(other.removeprefix(PREFIX)) for other in models if is_endpoint(other)]
        alike = any(other == name and place != url for other, place in servers)
        return url.partition("://")[2].removesuffix("/v1").replace(":", "-") if alike else ""
    alike = {other for other in models if os.path.isabs(other) and Path(other).name == Path(model).name}
    if len(alike) < 2 or model not in alike:
        return ""
    return os.path.relpath(model, os.path.commonpath([Path(other).parent for other in alike]))


def _axes(file: dict[str, dict[str, Items]], notebooks: Sequence[Path]) -> dict[str, list[str]]:
    """``{parameter: values as written}``, each checked against the chapters that declare it."""
    axes, declared = file["parameters"], {path: execute.declared_in(path) for path in notebooks}
    if file["seeds"] and "seed" in axes:
        raise UserError(f"{axes['seed'][0][1]}: the seeds already stand under 'seeds'")
    if file["seeds"]:
        axes = {"seed": file["seeds"][""], **axes}
    for name, items in axes.items():
        for value, line in items:
            with _at(line):
                execute.check({name: value}, declared)
    return {name: list(dict.fromkeys(value for value, _ in items)) for name, items in axes.items()}


def _measure(file: dict[str, dict[str, Items]]) -> Evaluation:
    """Prompt sets, judge and reply length of all cells."""
    prompts = {}
    for name, [(other, line)] in file["prompts"].items():
        with _at(line):
            prompts |= evaluation({name: other}).prompts
    [(length, line)] = file["max_new_tokens"].get("", [("0", 1)])
    if not length.isdecimal():
        raise UserError(f"{line}: max_new_tokens takes a whole number, not '{length}'")
    [(judge, line)] = file["judge"].get("", [("", 1)])
    with _at(line):
        return evaluation(prompts, judge, int(length))


def run(
    path: str | Path, out: str | Path = "rim-sweep", *, executor: str = "local", jobs: int = 1,
    gpus: int | None = None, retries: int = 0, extra: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:  # fmt: skip
    """Run the cells of a sweep file that are not complete yet; gather the rows of all in
    ``out/ledger/sweep.parquet``. One row per cell: ``id, chapter, model``, the swept parameters,
    ``status`` ("done", "failed", "not run"), ``seconds, error``; also in ``out/cells.csv``.
    ``jobs``: cells at a time; ``gpus``: GPUs to share out (all that there are); ``extra``: further
    arguments of Snakemake; ``report`` gets a line for every cell that ends. Raises `UserError`,
    before anything runs, for what is missing, wrong or not writable, and for another in it."""
    check_installed(executor)
    sweep = parse(path)
    gpus = _check_gpus(sweep, gpus) if executor == "local" else gpus
    out = prepare_folder(out)
    with _alone(out) as lock:
        for cell in sweep.cells:
            folder = out / "cells" / cell.id
            folder.mkdir(parents=True, exist_ok=True)
            if not execute.is_complete(folder / cell.job.notebook.name, cell.job):
                (folder / COMPLETE).unlink(missing_ok=True)
        commands = {cell.id: _command(cell, sweep, gpus, executor) for cell in sweep.cells}
        config = {"cells": commands, "resources": sweep.resources}
        (out / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        command = _snakemake(out, executor, jobs, gpus, retries, extra)
        try:
            code = _watch(command, out, sweep.cells, lock, report)
        finally:  # also when interrupted: what was finished is in the ledger
            found = gather(sweep.cells, out)
    _check_started(found, code, out)
    return found


def check_installed(executor: str) -> None:
    """Raise `UserError` with the command that installs Snakemake, or the plugin of an executor."""
    if find_spec("snakemake") is None or find_spec("ruamel.yaml") is None:
        raise UserError(f"a sweep needs Snakemake: pip install '{REQUIREMENT}' ruamel.yaml")
    plugin = f"snakemake-executor-plugin-{executor}"
    module = plugin.replace("-", "_")
    if executor not in BUILT_IN and not (module.isidentifier() and find_spec(module)):
        raise UserError(f"the executor '{executor}' is not installed: pip install {plugin}")


def _command(cell: Cell, sweep: Sweep, gpus: int | None, executor: str) -> str:
    """The cell as a line of shell, run in the folder of the sweep."""
    python = [sys.executable, "-m"]
    words = [*python, "rimkit", *cell.arguments, "--out", f"cells/{cell.id}"]
    needed = sweep.resources.get("gpu", 0)
    if executor == "local" and needed:  # a cluster gives every job its own GPUs; here they are shared out
        words = [*python, "rimkit.runs.gpus", str(needed), str(gpus), ".gpus", *words]
    return shlex.join(words)


def _snakemake(out: Path, executor: str, jobs: int, gpus: int | None, retries: int, extra: Sequence[str]) -> list[str]:
    limit = ["--cores" if executor in BUILT_IN else "--jobs", str(jobs)]
    limit += ["--resources", f"gpu={gpus}"] if gpus is not None else []
    rules = ["--snakefile", str(Path(__file__).with_name("Snakefile")), "--configfile", str(out / CONFIG)]
    # No lock of its own: it would outlive a kill. Ids say what has changed, not the times of files.
    again = ["--keep-going", "--retries", str(retries), "--rerun-incomplete", "--rerun-triggers", "mtime"]
    where = ["--nolock", "--directory", str(out), "--executor", executor]
    return [sys.executable, "-m", "snakemake", *rules, *where, *limit, *again, "--nocolor", *extra]


def _watch(command: list[str], out: Path, cells: Sequence[Cell], lock: int, report: Callable[[str], None]) -> int:
    """Run Snakemake and report cells as they end; returns its exit code. Nothing outlives it."""
    told = {cell.id: outcome(cell, out) for cell in cells}
    if kept := sum(fate.status == DONE for fate in told.values()):
        report(f"{kept} of {len(cells)} cells are complete already")
    with open(out / LOG, "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, pass_fds=[lock])
        try:
            while True:
                code = process.poll()
                for cell in cells:
                    fate = outcome(cell, out)
                    if fate.ended in (0, told[cell.id].ended):
                        continue
                    told[cell.id] = fate
                    done = sum(fate.status == DONE for fate in told.values())
                    report(f"{fate.status:8}{cell.title}  [{done} of {len(cells)} done]  {fate.error}".rstrip())
                if code is not None:
                    return code
                time.sleep(0.3)
        except KeyboardInterrupt:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGINT)
                process.wait(30)
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


@contextmanager
def _alone(out: Path) -> Iterator[int]:
    """Hold the folder; the system lets go of it when this process and its Snakemake are gone."""
    with open(out / ".lock", "w") as file:
        if not held(file.fileno()):
            raise UserError(f"another sweep is running in {out}: wait for it, or give --out another folder")
        yield file.fileno()


def _check_started(found: pd.DataFrame, code: int, out: Path) -> None:
    """Raise `UserError` if Snakemake ended without running cells, for a reason of its own."""
    if code < 0:
        raise UserError(f"Snakemake was ended by signal {-code}; what was finished is kept, the same command goes on")
    if code and FAILED not in set(found["status"]) and WAITING in set(found["status"]):
        lines = (out / LOG).read_text("utf-8", "replace").strip().splitlines() or ["no message"]
        said = next((line for line in lines if "error" in line.lower()), lines[-1]).strip()
        raise UserError(f"Snakemake could not run the cells ({said[:200]}); see {out / LOG}")


class Fate(NamedTuple):
    """How a cell stands; ``ended``: when its last attempt did, 0 if not, or not by itself."""

    status: str
    error: str = ""
    ended: int = 0


def outcome(cell: Cell, out: Path) -> Fate:
    """The fate of a cell by what it left behind."""
    complete, log = (out / "cells" / cell.id / name for name in (COMPLETE, LOG_OF_CELL))
    if complete.exists():
        return Fate(DONE, ended=complete.stat().st_mtime_ns)
    return _by_log(log, log.stat().st_mtime_ns) if log.exists() else Fate(WAITING)


@cache
def _by_log(log: Path, changed: int) -> Fate:
    """The fate of a cell by its log, which is read again only where it has ``changed``."""
    text = log.read_text("utf-8", "replace")
    last = re.search(r"^exit code (\d+)\s*\Z", text, re.MULTILINE)
    if "rimkit: interrupted" in text:
        return Fate(FAILED, "interrupted", changed if last else 0)
    if not last:
        return Fate(FAILED, f"ended without a result (killed, or out of memory or time); see {log}")
    if (code := int(last[1])) > 128:
        memory = " (out of memory?)" if code == 128 + signal.SIGKILL else ""
        return Fate(FAILED, f"killed by signal {code - 128}{memory}", changed)
    said = re.findall(r"^rimkit: (.+)$", text, re.MULTILINE) or [*ledger.read(log.parent)["error"].dropna()]
    return Fate(FAILED, said[0] if said else f"exit code {code}; see {log}", changed)


def gather(cells: Sequence[Cell], out: Path) -> pd.DataFrame:
    """Write the ledger and the table of a sweep from what cells left behind; returns the table."""
    tables, listed = [], []
    for cell in cells:
        fate = outcome(cell, out)
        tables.append(_rows(cell, out, fate))
        found = {"status": fate.status, "seconds": tables[-1]["seconds"].max(), "error": fate.error}
        listed.append({"id": cell.id, "chapter": cell.job.chapter, "model": cell.model, **cell.values, **found})
    ledger.write(pd.concat(tables, ignore_index=True), out / "ledger" / LEDGER)
    table = pd.DataFrame(listed)
    table = table[[*table.columns.drop([*found]), *found]]
    with whole(out / "cells.csv") as file:
        table.to_csv(file, index=False)
    return table


def _rows(cell: Cell, out: Path, fate: Fate) -> pd.DataFrame:
    """The ledger rows of a cell, named by it; a failed one always has one row that says so. The
    model's name carries the settings in which cells differ, since verdicts are per model. Shipped
    rows that a chapter hands on stay as they are."""
    folder, chapter = out / "cells" / cell.id, cell.job.chapter
    known = folder / "ledger" / f"{chapter}.parquet"
    rows = ledger.read(known) if fate.status != WAITING and known.exists() else ledger.table([])
    run_id = execute.record_of(folder / f"{chapter}.ipynb").get("run_id", cell.id)
    if fate.status == FAILED and "failed" not in set(rows["status"]):
        name = name_of(cell.model)
        failed = ledger.failed_row(chapter=chapter, model=name, error=fate.error, run_id=run_id)
        rows = pd.concat([rows, ledger.table([failed])], ignore_index=True)
    own = rows["run_id"] == run_id
    named = {"model": rows["model"] + cell.label, "run_id": cell.id}
    return rows.assign(**{name: rows[name].mask(own, other) for name, other in named.items()})


def _check_gpus(sweep: Sweep, gpus: int | None) -> int | None:
    """How many GPUs the cells share; raises `UserError` where they are too few for one."""
    from torch.cuda import device_count

    needed = sweep.resources.get("gpu", 0)
    if not isinstance(needed, int):
        raise UserError(f"the resource gpu is a number of GPUs, not '{needed}'")
    there = device_count() if needed and gpus is None else gpus
    if needed and there < needed:
        raise UserError(f"a cell needs gpu: {needed} and there are {there} here: lower it, or use another --executor")
    return there
