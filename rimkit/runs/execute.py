"""Chapters as runs: each in a kernel of its own, kept as a notebook and ledger rows.

It knows notebooks, their parameters and kernels; what a chapter measures it does not know. A
chapter declares its parameters in its one cell tagged ``parameters``, a line each, as in
``n_prompts: int = 32  # prompts per condition [1..600]``; the brackets are the range.
"""

import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, ClassVar
from uuid import uuid4

import nbformat
import pandas as pd
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from rimkit import __version__, ledger
from rimkit.behavior.evaluation import FINISHED, Evaluation
from rimkit.behavior.generation import USUAL
from rimkit.data import MINE, PARTS, UserError, clean_up, data_dir, find_chapters, prepare_folder, rows_of
from rimkit.models import gguf
from rimkit.models.chat import MODES
from rimkit.models.endpoint import connect, is_endpoint
from rimkit.models.hub import identity, locate, options_of
from rimkit.models.load import chat_of, check_weights, config_of, name_of, speaks_invented
from rimkit.models.ndif import check_served
from rimkit.models.study import context_of
from rimkit.runs.tour import OPTIONS, check, declared_in, plain

logging.getLogger("papermill").addHandler(logging.NullHandler())  # what a dead kernel means is said here
NOTEBOOK, ROWS = "notebook.ipynb", "rows.parquet"  # while a chapter is running, in a hidden folder
RUNNING = f".running{MINE}"  # of which this is the beginning
DONE, SKIPPED, FAILED = "done", "skipped", "failed"
UNDEFINED = f"{UserError.__name__}: "  # of a chapter that a model cannot be tested with


@dataclass(frozen=True)
class Job:
    """One chapter to run, the values put into it, and a hash of all that its result depends on."""

    notebook: Path
    values: dict[str, Any]
    params_hash: str
    writes_rows: bool
    measure: Evaluation = Evaluation()

    @property
    def chapter(self) -> str:
        return self.notebook.stem


def run(
    chapters: Iterable[str] = (), model: str = "rim-mini", out: str | Path = "rim-run",
    parameters: Mapping[str, Any] | None = None, force: bool = False, *,
    measure: Evaluation = Evaluation(), keep_text: bool = False, progress: bool = True,
    report: Callable[[dict], None] = lambda row: None, remote: bool = False, at_once: int = 1,
    announce: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:  # fmt: skip
    """Run chapters (all by default) on one model, each in its own kernel of the running Python,
    ``at_once`` side by side. One row per chapter, which ``report`` gets as it comes: ``chapter,
    status`` ("done"; "skipped": `is_complete`, unless ``force``; "failed")``, seconds, error,
    notebook``; ``announce`` gets a line before the first one, ``progress`` shows a terminal where
    each one is. Writes ``out/<chapter>.ipynb`` and ``out/ledger/<chapter>.parquet``; a chapter that
    fails is kept up to the failure, with a ledger row that says so, and the others go on.
    ``keep_text`` lets notebooks hold the text of safety sets and of replies to them; ``remote``:
    on NDIF. Raises `UserError`, before anything runs, or in the middle for a full disk."""
    typed, names = model, list(chapters)
    model = find_model(model)
    notebooks, given = find_chapters(names), dict(parameters or {})
    if remote:
        notebooks, given = traced(notebooks, bool(names), model), {**given, "remote": "ndif"}
    jobs = jobs_for(notebooks, model, given, measure.of(model), keep_text)
    shown, out = out, prepare_folder(out)  # as it was typed, and as an absolute path
    for notebook in notebooks:
        target = out / notebook.name
        if target.resolve() == notebook or (target.exists() and not record_of(target)):
            raise UserError(f"the run would replace {target}, which no run has made: give --out another folder")
    check_chat(model, measure)
    clean_up(out, f"{RUNNING}*")
    todo = [job for job in jobs if force or not is_complete(out / job.notebook.name, job)]
    expected, plural = _expected(todo, typed, out), "" if len(jobs) == 1 else "s"
    announce(f"{len(jobs)} chapter{plural} on {typed} -> {shown}{_how_long(len(jobs), expected, at_once)}")
    longest_first = sorted(jobs, key=lambda job: -(expected.get(job.chapter) or 0))  # no core idles at the end
    threads = str(max(1, (os.cpu_count() or 1) // at_once))  # kernels share the cores
    environment = {"OMP_NUM_THREADS": threads} if at_once > 1 else {}
    kernels = type("Kernels", (RunningPython,), {"environment": environment, "started": []})
    run_id = uuid4().hex[:8]
    if not (is_endpoint(model) or speaks_invented(model)):
        rest = "" if keep_text else "; replies to harmful requests are kept with --keep-text alone"
        announce(f"A chapter that is killed goes on where it was{rest}")
    with _live_lines(expected, progress) as seen, ThreadPoolExecutor(at_once) as pool:
        start = partial(pool.submit, _run_job, model=model, out=out, run_id=run_id, kernels=kernels, seen=seen)
        runs = {job.chapter: start(job, complete=job not in todo) for job in (longest_first if at_once > 1 else jobs)}
        try:
            for one in as_completed(runs.values()):
                report(one.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while any(one.running() for one in runs.values()):
                kernels.end()
                sleep(0.1)
            raise
    rows = [runs[job.chapter].result() for job in jobs]
    return pd.DataFrame(rows, columns=["chapter", "status", "seconds", "error", "notebook"])


def _expected(jobs: Sequence[Job], model: str, out: Path) -> dict[str, float | None]:
    """The seconds that chapters took: in this folder, with these parameters to the end; or as shipped."""
    known = pd.read_csv(data_dir() / "chapters.csv", index_col="chapter")["seconds"].to_dict()
    known = known if model.startswith("rim-mini") else {}

    def took(job: Job) -> float | None:
        found = record_of(out / job.notebook.name)
        whole = (found.get("status"), found.get("params_hash")) == ("ok", job.params_hash)
        return found.get("seconds") if whole else known.get(job.chapter)

    return {job.chapter: took(job) for job in jobs}


def _how_long(n: int, expected: Mapping[str, float | None], at_once: int) -> str:
    """How many chapters there are, of which some are left to run, and how long that takes."""
    known, cores = [*filter(None, expected.values())], min(at_once, os.cpu_count() or 1)
    done, seconds = n - len(expected), max([sum(known) / cores, *known])
    time = f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
    about = f", about {time} (longer on a busy machine)" if expected and all(expected.values()) else ""
    return f"{about}, {done} of them complete already" if done else about


@contextmanager
def _live_lines(expected: Mapping[str, float | None], progress: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A line for each chapter that is running, where standard error is a terminal. What is yielded
    takes the chapter, a cell and the number of cells; the last cell takes the line away."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeElapsedColumn

    console, shown, lines = Console(stderr=True), progress and sys.stderr.isatty(), {}
    bar = [BarColumn(16)] if console.width >= 80 else []
    columns = "{task.description}", *bar, "cell {task.completed} of {task.total}", TimeElapsedColumn()
    look = {"console": console, "transient": True, "redirect_stdout": sys.stdout.isatty()}
    with Progress(*columns, "{task.fields[usual]}", disable=not shown, **look) as view:

        def seen(chapter: str, cell: int, of: int) -> None:
            if chapter not in lines:
                usual = f"usually {expected[chapter]:.0f} s" if expected.get(chapter) else ""
                lines[chapter] = view.add_task(chapter, total=of, usual=usual)
            view.update(lines[chapter], completed=cell, visible=cell < of)

        yield seen


def find_model(model: str) -> str:
    """The model as chapters load it from their own folder; `UserError` if there is none."""
    if is_endpoint(model):
        return model
    plain, options = options_of(model)
    found = locate(plain)
    if plain in gguf.PACKAGED or ":" in found.name or not found.in_folder:
        return model
    source = Path(found.adapter or gguf.file_of(plain) or found.source)
    return str(source.resolve()) + (model.removeprefix(str(plain)) if options else "")


def check_chat(model: str, measure: Evaluation = Evaluation()) -> None:
    """Raise `UserError` if the chapters could not build a think and a no-think prompt for the
    model, if its folder is not of one piece, or most requests and a reply are too long for its
    context. The numbers of its weights are left to the kernels."""
    if is_endpoint(model):
        connect(model)  # whether the server answers; it renders the prompts itself
        return
    if not (chat := chat_of(model)).supports_think:
        lacks = f"{model} has no think mode, which the chapters need"
        raise UserError(f"{lacks}: {chat.reason}; {chat.ways_out(model)}")
    check_weights(model)
    room = USUAL if speaks_invented(model) else max(USUAL, measure.max_new_tokens)
    texts = measure.of(model).sets(["harmful"], n=24)["text"]
    sizes = [max(len(chat.encode(text, mode).ids) for mode in MODES) for text in texts]
    needed = sorted(sizes)[int(FINISHED * len(sizes))] + room
    if needed > (context := context_of(config_of(model), chat.tokenizer)):
        has = f"{model} has a context of {context} tokens"
        ways = "another model, or a smaller --max-new-tokens" if room > USUAL else "another model"
        raise UserError(f"{has}; a request and a reply of {room} take {needed}: take {ways}")


def traced(notebooks: Sequence[Path], named: bool, model: str) -> list[Path]:
    """The chapters that run with the model on NDIF: those that declare the parameter ``remote``.
    Raises `UserError` for a chapter ``named`` that cannot, and no model of NDIF."""
    able = [notebook for notebook in notebooks if "remote" in declared_in(notebook)]
    if named and (other := next((path for path in notebooks if path not in able), None)):
        only = "only reads of residuals, head outputs and neurons are traced on NDIF; leave --remote out"
        raise UserError(f"{other.stem} cannot run remotely: it generates, fine-tunes or runs no model, and {only}")
    check_served(model)
    return able


def jobs_for(
    notebooks: Iterable[Path], model: str, given: Mapping[str, Any],
    measure: Evaluation = Evaluation(), keep_text: bool = False,
) -> list[Job]:  # fmt: skip
    """Check what is given against what the chapters declare, and complete it. Raises `UserError` as
    `check`, and for an option that no chapter takes."""
    options = measure.parameters() | ({"keep_text": True} if keep_text else {})
    declared, jobs = {notebook: declared_in(notebook) for notebook in notebooks}, []
    for name in options.keys() - {name for parameters in declared.values() for name in parameters}:
        lacks = f"none declares the parameter '{name}'"
        raise UserError(f"no chapter here takes {OPTIONS[name]}: {lacks}")
    options["model"] = model
    weights, sets = identity(model), measure.fingerprint()
    for notebook, values in check(given, declared).items():
        parameters = declared[notebook]
        values |= {name: value for name, value in options.items() if name in parameters}
        complete = {name: parameter.default for name, parameter in parameters.items()} | values
        code = [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
        depends_on = [code, sorted(complete.items()), weights, sets]
        digest = sha256(json.dumps(depends_on, default=str).encode()).hexdigest()[:12]
        jobs.append(Job(notebook, values, digest, "ledger" in parameters, measure))
    return jobs


def _run_job(job: Job, model: str, out: Path, run_id: str, complete: bool, kernels, seen: Callable) -> dict:
    target = out / f"{job.chapter}.ipynb"
    row = {"chapter": job.chapter, "status": SKIPPED, "seconds": 0.0, "error": "", "notebook": str(target)}
    if complete:
        return row
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=f"{RUNNING}{os.getpid()}-") as folder:
            start, parts = perf_counter(), out / f".{job.chapter}.parts"
            error = _execute(job, Path(folder), kernels, parts, partial(seen, job.chapter))
            if kernels.ended:  # by an interruption: nothing is kept
                return row
            seconds = round(perf_counter() - start, 1)
            stamp = {"run_id": run_id, "params_hash": job.params_hash, "seconds": seconds}
            _keep(job, model, Path(folder), target, error, stamp)
            if not error:
                shutil.rmtree(parts, ignore_errors=True)
    except OSError as problem:
        where = f"cannot write to {out} ({problem.strerror or problem}) while running {job.chapter}"
        raise UserError(f"{where}; the chapters finished before it are kept") from problem
    return {**row, "status": FAILED if error else DONE, "seconds": seconds, "error": error}


def _record(params_hash: str, rows: Path, error: str = "") -> dict[str, str]:
    """What the metadata of a notebook say of its run; one with the same record is complete."""
    status = {"status": "failed" if error else "ok", "rimkit_version": __version__}
    return {**status, "params_hash": params_hash, "rows": sha256(rows.read_bytes()).hexdigest()[:12]}


def record_of(notebook: Path) -> dict[str, Any]:
    """What a notebook says of its run (``run_id, status, rows`` …); empty where it says nothing."""
    try:
        return dict(json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["rimkit"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def is_complete(notebook: Path, job: Job) -> bool:
    """Whether this is the finished run of exactly this job and version, its rows beside it."""
    found, rows = record_of(notebook), rows_of(notebook)
    return rows.is_file() and found | _record(job.params_hash, rows) == found


def _execute(job: Job, folder: Path, kernels: type["RunningPython"], parts: Path, seen: Callable) -> str:
    """Run the notebook into ``folder``; the error in one line, or nothing. Its parts stay."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    kernels = type("Kernels", (kernels,), {"environment": kernels.environment | {PARTS: str(parts)}})
    rows = {"ledger": (folder / ROWS).as_posix()} if job.writes_rows else {}
    n_cells = len(nbformat.read(job.notebook, 4).cells) + 1  # the values that are put in
    try:
        papermill.execute_notebook(
            plain(job.notebook), plain(folder / NOTEBOOK), {**job.values, **rows},
            kernel_name="python3", language="python", kernel_manager_class=kernels,
            resources={"metadata": {"path": str(job.notebook.parent)}}, start_timeout=120,
            on_cell_start=lambda cell, cell_index: seen(cell_index, n_cells), progress_bar=False,
        )  # fmt: skip
    except PapermillExecutionError as error:
        return f"{error.ename}: {' '.join(error.evalue.split())} (cell {error.exec_count})"
    except DeadKernelError:
        return "the kernel died (out of memory?)"
    finally:
        seen(n_cells, n_cells)
    for cell in nbformat.read(folder / NOTEBOOK, 4).cells:  # papermill lets sys.exit(0) pass
        if cell.cell_type == "code" and any(output.get("ename") == "SystemExit" for output in cell.outputs):
            return f"cell {cell.execution_count} stopped the kernel: what follows it did not run"
    return ""


class RunningPython(AsyncKernelManager):
    """Starts ``sys.executable -m ipykernel_launcher``, whatever kernels are installed. A kernel
    called "python3" in the user's folder may belong to another environment."""

    environment: ClassVar[dict[str, str]] = {}
    started: ClassVar[list["RunningPython"]] = []
    ended = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.started.append(self)

    @property
    def kernel_spec(self) -> KernelSpec:
        how = ["--IPKernelApp.log_level=50"]  # nothing about connections, or interrupted messages
        how.append("--IPKernelApp.exec_lines=import sys; exit = quit = sys.exit")  # an error
        return KernelSpec(resource_dir=RESOURCES, env=self.environment, **get_kernel_dict(extra_arguments=how))

    @classmethod
    def end(cls) -> None:
        """Kill those that were started; what they ran is not kept."""
        cls.ended = True
        for one in cls.started:
            if process := getattr(one.provisioner, "process", None):
                process.kill()


def _keep(job: Job, model: str, folder: Path, target: Path, error: str, stamp: dict) -> None:
    """Keep what a chapter left in ``folder``: its rows, one more after a failure, last its
    notebook. Its metadata say whether the run is complete. The hidden paths that it ran with become
    the final ones, so that it can be run again by hand."""
    place, written = rows_of(target), folder / ROWS
    place.parent.mkdir(exist_ok=True)
    rows = ledger.read(written) if written.exists() else ledger.table([])
    rows = rows.assign(**{**stamp, "run_id": rows["run_id"].fillna(stamp["run_id"])})
    if error:
        named = name_of(model)
        failed = [ledger.failed_row(chapter=job.chapter, model=named, error=error, **stamp)]
        if error.startswith(UNDEFINED):  # is not testable on this model
            known, why = ledger.claims(), error.removeprefix(UNDEFINED)
            left = known.loc[(known["chapter"] == job.chapter) & ~known["id"].isin(rows["claim"]), "id"]
            failed += [ledger.untestable_row(claim, why, model=named, **stamp) for claim in left]
        rows = pd.concat([rows, ledger.table(failed)], ignore_index=True)
    ledger.write(rows.assign(**job.measure.description()), written)
    record = stamp | _record(job.params_hash, written, error)  # of these rows
    text = (folder / NOTEBOOK).read_text(encoding="utf-8")
    for hidden, final in ((written, place), (folder / NOTEBOOK, target)):
        text = text.replace(hidden.as_posix(), final.as_posix())
    notebook = nbformat.reads(text, 4)
    notebook.metadata["rimkit"] = record
    nbformat.write(notebook, folder / NOTEBOOK)
    written.replace(place)
    (folder / NOTEBOOK).replace(target)
