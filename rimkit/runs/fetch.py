"""Downloading ahead: models and prompt sets into the hub's cache, so that a class works offline."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from rimkit.behavior import prompts
from rimkit.data import UserError, chapters_dir, nearest, prepare_folder
from rimkit.models import hub
from rimkit.runs.lab import copy_chapters, write_room
from rimkit.teaching import setup

HERE, FETCHED = "here already", "fetched"
MODEL = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")


def fetch(names: Iterable[str], report: Callable[[str, str], None]) -> dict[str, str]:
    """Get each; one failure does not stop the others. ``names``: prompt sets ("xstest",
    "gsm8k@main") and models on the hub ("owner/name", "owner/name@revision"). ``report`` is called
    with name and outcome as they come. Returns the failures, one line each, by name. Raises
    `UserError`, before anything is downloaded, for a name that is neither."""
    sources = {name: find(name) for name in dict.fromkeys(names)}
    failed = {}
    for name, source in sources.items():
        try:
            report(name, _fetch(name, source, report))
        except UserError as error:
            failed[name] = str(error)
    return failed


def find(name: str) -> hub.Source | None:
    """Where a name comes from; None for a model that comes with the workbook."""
    if known := prompts.named(name):
        benchmark, revision = known
        return benchmark.source(revision)
    repo, _, revision = name.partition("@")
    with suppress(HFValidationError):
        validate_repo_id(repo)
        if MODEL.fullmatch(name):
            return hub.Source(repo, "model", revision or None)
    embedded = hub.EMBEDDED.fullmatch(name)
    if embedded and embedded["name"] in set(hub.embedded_models(noise=True)["name"]):
        return None
    known, close = ", ".join(prompts.BENCHMARKS), nearest(name.partition("@")[0], prompts.BENCHMARKS)
    raise UserError(f"there is nothing called '{name}' (prompt sets: {known}; models: owner/name){close}")


def _fetch(name: str, source: hub.Source | None, report: Callable[[str, str], None]) -> str:
    from huggingface_hub import constants

    if source is None:
        return "comes with the workbook"
    benchmark, revision = prompts.named(name) or (None, None)
    if benchmark and benchmark.safety:
        prompts.content_note(benchmark.name)
    if folder := hub.on_this_machine(source):
        return f"{HERE} ({hub.megabytes(folder):.1f} MB)"
    needed, cache = hub.megabytes_to_get(source), Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(at for at in (cache, *cache.parents) if at.exists())).free / 1e6
    if needed > free:
        fits = f"{needed:.0f} MB do not fit into {cache}, where {free:.0f} MB are free"
        raise UserError(f"{fits}: set HF_HOME elsewhere")
    loose = benchmark and not replace(benchmark, revision=revision).pinned
    changes = f" at '{revision}', which can change" if loose else ""
    report(name, f"getting {needed:.1f} MB from {source.repo}{changes}")
    folder = hub.download(source)
    return f"{FETCHED} ({hub.megabytes(folder):.1f} MB in {folder})"


def bundle(folder: str | Path, clone: Path | None = None) -> Path:
    """A folder that installs the workbook without network on machines like this one: wheels of the
    ``clone`` and of what it needs, in the versions that are here, chapters, and papers for a room.
    Raises `UserError` without a clone, or where pip fails."""
    clone, target = clone or chapters_dir().parent, prepare_folder(folder)
    if not (clone / "pyproject.toml").exists():
        raise UserError("a bundle is made in a clone of the workbook, from which pip builds its wheel")
    versions = f"# Python {sys.version.split()[0]} on {sys.platform}\n{setup.constraints()}"
    (target / "versions.txt").write_text(versions, "utf-8")
    options = ["--quiet", "--wheel-dir=wheels", "--constraint=versions.txt", str(clone.resolve())]
    if subprocess.call([sys.executable, "-m", "pip", "wheel", *options], cwd=target):
        raise UserError("pip did not get every wheel: it says above which one is missing")
    copy_chapters(target / "chapters")
    return write_room(target)[0].parent


def real_sets() -> pd.DataFrame:
    """`prompts.benchmarks` with a column ``here``: how much of each is on this machine, or "no"."""
    folders = [hub.on_this_machine(one.source()) for one in prompts.BENCHMARKS.values()]
    here = [f"{hub.megabytes(folder):.1f} MB" if folder else "no" for folder in folders]
    return prompts.benchmarks().astype(str).assign(here=here)
