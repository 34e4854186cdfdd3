"""A learner's own copy of the chapters, so that the shipped ones stay as they are."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

from rimkit.data import chapters_dir
from rimkit.runs.execute import find_chapters, prepare_folder

COPIED, SAME, KEPT, RESTORED = "copied", "unchanged", "kept (yours differs)", "restored"


def copy_chapters(folder: str | Path, reset: str | None = None) -> dict[str, str]:
    """Copy the chapters into ``folder``; what happened to each file: `COPIED`, `SAME`, `KEPT` or `RESTORED`.

    Files that were changed are never overwritten, except for the chapter named by ``reset``, whose changed
    copy is put aside as ``<chapter>.before-reset-<n>.ipynb``. Raises `UserError` for an unknown chapter and a
    folder that cannot be written.
    """
    folder, restore = prepare_folder(folder), find_chapters([reset])[0].name if reset else None
    return {
        source.relative_to(chapters_dir()).as_posix(): _copy(source, folder, source.name == restore)
        for source in sorted(chapters_dir().rglob("*"))
        if source.is_file() and ".ipynb_checkpoints" not in source.parts
    }


def _copy(source: Path, folder: Path, restore: bool) -> str:
    target = folder / source.relative_to(chapters_dir())
    outcome = COPIED
    if target.exists():
        if filecmp.cmp(source, target, shallow=False):
            return SAME
        if not restore:
            return KEPT
        target.rename(_free_name(target))
        outcome = RESTORED
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return outcome


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.before-reset-{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not name.exists())


def open_lab(folder: str | Path) -> int:
    """Open JupyterLab of the running Python on ``folder``; returns its exit code when it is closed."""
    environment = {
        **os.environ,
        "JUPYTER_PREFER_ENV_PATH": "1",
    }  # this environment's kernel before the user's
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(folder)], env=environment)
