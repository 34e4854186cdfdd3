"""Running chapters: papermill with injected parameters, one kernel each; executed notebooks, ledger rows."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rimkit import __version__
from rimkit.errors import UserError, nearest
from rimkit.paths import chapters_dir
from rimkit.runs.parameters import Parameter, check, declared_in

if TYPE_CHECKING:
    import pandas as pd

NOTEBOOK, ROWS = "notebook.ipynb", "rows.parquet"  # while a chapter is running, in a hidden folder
DONE, SKIPPED, FAILED = "done", "skipped", "failed"


@dataclass(frozen=True)
class Job:
    """One chapter to run: the notebook, the values injected into it, and a hash of all that it depends on."""

    chapter: str
    notebook: Path
    values: dict[str, Any]
    params_hash: str
    declares_ledger: bool
    settings: Mapping[str, str] = field(default_factory=dict)  # environment variables of its kernel


def run(
    chapters: Iterable[str] = (),
    model: str = "rim-mini",
    out: str | Path = "rim-run",
    parameters: Mapping[str, Any] | None = None,
    force: bool = False,
    *,
    prompts: Mapping[str, str] | None = None,
    judge: str = "",
    max_new_tokens: int = 0,
    keep_text: bool = False,
    progress: bool = True,
    report: Callable[[dict], None] | None = None,
    remote: bool = False,
) -> pd.DataFrame:
    """Run chapters (all by default) on one model, each in its own kernel of the running Python.

    One row per chapter: ``chapter, status, seconds, error, notebook``. ``status`` is "done", "skipped"
    (complete in ``out`` with the same parameters, chapter and rimkit version, unless ``force``) or "failed".
    Writes ``out/<chapter>.ipynb`` and ``out/ledger/<chapter>.parquet``; a chapter that fails is kept up to
    the failure, has a ledger row saying so, and the others go on. ``report`` is called with each row as it
    comes. ``prompts``, ``judge`` and ``max_new_tokens``: see `rimkit.behavior.chosen`. ``keep_text`` lets
    notebooks hold the text of safety sets and of replies to them, which is withheld otherwise
    (`rimkit.behavior.redaction`). ``remote``: the model runs on NDIF, for chapters that can do without replies
    (`rimkit.runs.remotely`).

    Raises `UserError`, before anything runs, for an unknown chapter, model or parameter, a value that does
    not fit and a folder that cannot be written; in the middle of a run for a full disk. What was finished
    stays.
    """
    import pandas as pd

    from rimkit.behavior import chosen
    from rimkit.behavior.redaction import KEEP

    model, names = find_model(model), list(chapters)
    notebooks, parameters = find_chapters(names), dict(parameters or {})
    if remote:
        from rimkit.runs.remotely import traced

        notebooks, parameters = traced(notebooks, bool(names), model), {**parameters, "remote": "ndif"}
    kernel = {**chosen.settings(prompts or {}, judge, max_new_tokens), **({KEEP: "1"} if keep_text else {})}
    jobs = plan(notebooks, model, parameters, {name: value for name, value in kernel.items() if value})
    out = prepare_folder(out)
    check_chat(model)
    run_id, rows = uuid.uuid4().hex[:8], []
    for job in jobs:
        rows.append(_run_job(job, model, out, run_id, force, progress))
        if report:
            report(rows[-1])
    return pd.DataFrame(rows, columns=["chapter", "status", "seconds", "error", "notebook"])


# -- before the run --------------------------------------------------------------------------------


def find_chapters(names: Iterable[str] = ()) -> list[Path]:
    """Notebooks for ``"01"``, ``"1"``, ``"01_observing_rim"`` or the path of one; without names, all."""
    shipped = {path.stem: path for path in sorted(chapters_dir().glob("*.ipynb"))}
    found = [_find_chapter(name, shipped) for name in names] or list(shipped.values())
    if not found:
        raise UserError(f"there are no chapters in {chapters_dir()}")
    return list(dict.fromkeys(found))


def _find_chapter(name: str, shipped: Mapping[str, Path]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    stem = Path(name).name.removesuffix(".ipynb")
    for chapter, path in shipped.items():
        if stem == chapter or (stem.isdigit() and chapter.partition("_")[0] == stem.zfill(2)):
            return path
    raise UserError(f"unknown chapter '{name}'{nearest(stem, shipped)}; there are: {', '.join(shipped)}")


def plan(
    notebooks: Iterable[Path], model: str, given: Mapping[str, Any], settings: Mapping[str, str] | None = None
) -> list[Job]:
    """Check the given parameters against what the chapters declare, and complete them."""
    paths = {path.stem: path for path in notebooks}
    declared = {chapter: declared_in(path) for chapter, path in paths.items()}
    typed = check(given, declared)
    return [_job(paths[chapter], declared[chapter], typed[chapter], model, settings or {}) for chapter in paths]


def _job(
    notebook: Path, declared: Mapping[str, Parameter], typed: dict[str, Any], model: str, settings: Mapping[str, str]
) -> Job:
    values = {**typed, **({"model": model} if "model" in declared else {})}
    everything = {name: parameter.default for name, parameter in declared.items()} | values
    from rimkit.behavior import chosen

    dependencies = [_code(notebook), sorted(everything.items()), *sorted(settings.items()), *chosen.contents(settings)]
    digest = hashlib.sha256(json.dumps(dependencies, default=str).encode()).hexdigest()[:12]
    return Job(notebook.stem, notebook, values, digest, "ledger" in declared, settings)


def _code(notebook: Path) -> list[str]:
    import nbformat

    return [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]


def prepare_folder(out: str | Path) -> Path:
    """Make sure that ``out`` is a folder that can be written; raises `UserError` otherwise."""
    out = Path(out).expanduser().resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return out
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out} is a file, or lies below one: give --out a folder") from None
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): give --out another folder") from error


def find_model(model: str) -> str:
    """The model as the chapters, which run in their own folder, can load it; `UserError` if there is none."""
    from rimkit.models.loading import embedded_models, is_endpoint, locate, options_of

    if is_endpoint(model):
        return model
    plain, options = options_of(model)
    _, source, _ = locate(plain)
    if source in set(embedded_models(noise=True)["path"]) or not Path(source).is_dir():
        return model
    return str(Path(source).resolve()) + (model.removeprefix(str(plain)) if options else "")


def check_chat(model: str) -> None:
    """Raise `UserError` if the chapters could not build a think and a no-think prompt for the model.

    The weights are left to the kernels: loading them here too would take their memory twice.
    """
    from rimkit.models.loading import chat_of, connect, is_endpoint

    if is_endpoint(model):
        connect(model)  # whether the server answers; it renders the prompts itself
        return
    chat = chat_of(model)
    if not chat.supports_think:
        raise UserError(
            f"{model} has no think mode, which the chapters need: {chat.reason}; "
            f"with '--model {model}+instruct' it thinks by instruction"
        )


# -- one chapter -----------------------------------------------------------------------------------


def _run_job(job: Job, model: str, out: Path, run_id: str, force: bool, progress: bool) -> dict:
    target = out / f"{job.chapter}.ipynb"
    row = {"chapter": job.chapter, "status": SKIPPED, "seconds": 0.0, "error": "", "notebook": str(target)}
    if not force and is_complete(target, job):
        return row
    try:
        with tempfile.TemporaryDirectory(dir=out, prefix=".running-") as folder:
            start = perf_counter()
            error = _execute(job, Path(folder), progress)
            seconds = round(perf_counter() - start, 1)
            stamp = {"run_id": run_id, "params_hash": job.params_hash, "seconds": seconds}
            ledger = out / "ledger" / f"{job.chapter}.parquet"
            _write_ledger(job, model, Path(folder) / ROWS, ledger, error, stamp)
            _keep_notebook(Path(folder), target, ledger, stamp, error)
    except OSError as problem:
        raise UserError(
            f"cannot write to {out} ({problem.strerror or problem}) while running {job.chapter}; "
            "the chapters finished before it are kept"
        ) from problem
    return {**row, "status": FAILED if error else DONE, "seconds": seconds, "error": error}


def is_complete(notebook: Path, job: Job) -> bool:
    """Whether ``notebook`` is the finished run of exactly this job by this version of rimkit."""
    try:
        stamp = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["rimkit"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    expected = {"status": "ok", "params_hash": job.params_hash, "rimkit_version": __version__}
    ledger = notebook.parent / "ledger" / f"{job.chapter}.parquet"
    return {**stamp, **expected} == stamp and ledger.exists()


def _execute(job: Job, folder: Path, progress: bool) -> str:
    """Run the notebook into ``folder``; returns the error in one line, or an empty string."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from rimkit.runs.kernel import with_settings

    ledger = {"ledger": (folder / ROWS).as_posix()} if job.declares_ledger else {}
    try:
        papermill.execute_notebook(
            job.notebook,
            folder / NOTEBOOK,
            {**job.values, **ledger},
            kernel_name="python3",
            language="python",
            kernel_manager_class=with_settings(job.settings),
            cwd=job.notebook.parent,
            start_timeout=120,
            progress_bar={"desc": job.chapter, "leave": False} if progress else False,
        )
    except PapermillExecutionError as error:
        return f"{error.ename}: {' '.join(error.evalue.split())} (cell {error.exec_count})"
    except DeadKernelError:
        return "the kernel died (out of memory?)"
    return ""


def _write_ledger(job: Job, model: str, written: Path, target: Path, error: str, stamp: dict) -> None:
    """The rows that the chapter wrote, stamped with this run; after a failure, one more row that says so."""
    import pandas as pd

    from rimkit import ledger
    from rimkit.behavior import chosen

    rows = ledger.read(written) if written.exists() else ledger.table([])
    rows = rows.assign(**{**stamp, "run_id": rows["run_id"].fillna(stamp["run_id"])})
    if error:
        failed = ledger.failed_row(chapter=job.chapter, model=model, error=error, **stamp)
        rows = pd.concat([rows, ledger.table([failed])], ignore_index=True)
    ledger.write(rows.assign(**chosen.description(job.settings)), target)


def _keep_notebook(folder: Path, target: Path, ledger: Path, stamp: dict, error: str) -> None:
    """Move the executed notebook to its place; its metadata say whether it is complete, and with what.

    The hidden paths that it ran with become the final ones, so that it can be run again by hand.
    """
    import nbformat

    text = (folder / NOTEBOOK).read_text(encoding="utf-8")
    for partial, final in ((folder / ROWS, ledger), (folder / NOTEBOOK, target)):
        text = text.replace(partial.as_posix(), final.as_posix())
    notebook = nbformat.reads(text, as_version=4)
    status = "failed" if error else "ok"
    notebook.metadata["rimkit"] = {**stamp, "status": status, "rimkit_version": __version__}
    nbformat.write(notebook, folder / NOTEBOOK)
    (folder / NOTEBOOK).replace(target)
