"""What a learner or a class has on a machine of its own: a copy of the chapters, so that the shipped
ones stay as they are, JupyterLab on it, and models and prompt sets, downloaded ahead.
"""

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pandas as pd
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from rimkit.behavior import prompts
from rimkit.data import UserError, chapters_dir, find_chapters, nearest, prepare_folder, whole
from rimkit.models import hub
from rimkit.teaching.questions import solved

COPIED, SAME, KEPT, RESTORED = "copied", "unchanged", "kept (yours differs)", "restored"


def copy_chapters(folder: str | Path, reset: str | None = None) -> dict[str, str]:
    """Copy the chapters; what happened to each file: `COPIED`, `SAME`, `KEPT` or `RESTORED`. A file
    that was changed is never overwritten, except for the chapter ``reset``, whose changed copy is
    put aside as ``<chapter>.before-reset-<n>.ipynb``."""
    folder, restore = prepare_folder(folder), find_chapters([reset])[0].name if reset else None
    found = [path for path in sorted(chapters_dir().rglob("*")) if path.is_file()]
    left_out = {".ipynb_checkpoints", "__pycache__", "conftest.py"}
    names = [path.relative_to(chapters_dir()) for path in found if not left_out.intersection(path.parts)]
    return {name.as_posix(): _copy(chapters_dir() / name, folder / name, name.name == restore) for name in names}


def write_solutions(folder: str | Path) -> Path:
    """Write solved copies of all chapters into the folder ``solutions`` inside; returns it."""
    target = prepare_folder(Path(folder) / "solutions")
    for path in find_chapters():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for cell, code in zip(cells, solved(["".join(cell["source"]) for cell in cells]), strict=True):
            cell |= {"source": code.splitlines(keepends=True), "outputs": [], "execution_count": None}
        with whole(target / path.name) as partial:
            partial.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def _copy(source: Path, target: Path, restore: bool) -> str:
    outcome = COPIED
    if target.exists():
        if filecmp.cmp(source, target, shallow=False):
            return SAME
        if not restore:
            return KEPT
        aside = (target.with_name(f"{target.stem}.before-reset-{number}{target.suffix}") for number in count(1))
        target.rename(next(path for path in aside if not path.exists()))
        outcome = RESTORED
    with whole(target) as partial:
        shutil.copyfile(source, partial)
    return outcome


def open_lab(folder: str | Path) -> int:
    """Open JupyterLab of the running Python on a folder; returns its exit code."""
    own_kernel_first = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1"}
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(folder)], env=own_kernel_first)


HERE, FETCHED = "here already", "fetched"
MODEL = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")


def fetch(names: Iterable[str], report: Callable[[str, str], None]) -> dict[str, str]:
    """Get each; one failure does not stop the others. ``names``: prompt sets ("xstest",
    "gsm8k@main") and models on the hub ("owner/name", "owner/name@revision"). ``report`` is called
    with name and outcome as they come. Returns the failures, one line each, by name. Raises
    `UserError`, before anything is downloaded, for a name that is neither."""
    sources = {name: source_of(name) for name in dict.fromkeys(names)}
    failed = {}
    for name, source in sources.items():
        try:
            report(name, _fetch(name, source, report))
        except UserError as error:
            failed[name] = str(error)
    return failed


def source_of(name: str) -> hub.Source | None:
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
    raise UserError(
        f"there is nothing called '{name}' (prompt sets: {', '.join(prompts.BENCHMARKS)}; models: owner/name)"
        f"{nearest(name.partition('@')[0], prompts.BENCHMARKS)}"
    )


def _fetch(name: str, source: hub.Source | None, report: Callable[[str, str], None]) -> str:
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


def prompt_sets() -> pd.DataFrame:
    """`prompts.benchmarks` with a column ``here``: how much of each is on this machine, or "no"."""
    folders = [hub.on_this_machine(one.source()) for one in prompts.BENCHMARKS.values()]
    here = [f"{hub.megabytes(folder):.1f} MB" if folder else "no" for folder in folders]
    return prompts.benchmarks().astype(str).assign(here=here)
