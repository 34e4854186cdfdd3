"""A learner's own copy of the chapters, and JupyterLab on it; papers for a room, made from them."""

import json
import os
import re
import subprocess
import sys
from html import unescape
from itertools import count
from pathlib import Path
from urllib.parse import quote

from rimkit.data import UserError, chapters_dir, find_chapters, prepare_folder, whole
from rimkit.teaching.questions import solved
from rimkit.teaching.tables import FOLDED, OPEN

COPIED, SAME, KEPT, RESTORED = "copied", "unchanged", "kept (yours differs)", "restored"
CLOSED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # code is folded: in JupyterLab, on Colab


def copy_chapters(folder: str | Path, reset: str | None = None) -> dict[str, str]:
    """Copy the chapters, without what would answer a prediction: outputs, and the code of readings,
    which is folded. What happened to each file: `COPIED`, `SAME`, `KEPT` or `RESTORED`. A file that
    was changed is never overwritten, except for the chapter ``reset``, whose changed copy is put
    aside as ``<chapter>.before-reset-<n>.ipynb``."""
    folder, restore = prepare_folder(folder), find_chapters([reset])[0].name if reset else None
    paths = sorted(chapters_dir().glob("*.ipynb"))
    return {path.name: _copy(path, folder / path.name, path.name == restore) for path in paths}


def write_solutions(folder: str | Path) -> Path:
    """Solved copies of all chapters, in a folder ``solutions`` inside (replaced); returns it."""
    target = prepare_folder(Path(folder) / "solutions")
    for path in find_chapters():
        notebook = json.loads(_without_outputs(path))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for cell, code in zip(cells, solved(["".join(cell["source"]) for cell in cells]), strict=True):
            cell["source"] = code.splitlines(keepends=True)
        with whole(target / path.name) as partial:
            partial.write_bytes(_as_file(notebook))
    return target


def write_room(folder: str | Path) -> list[Path]:
    """The papers of ``chapters/teaching`` as HTML, in a folder ``teaching`` inside. ``{{05:
    words}}`` becomes what the one cell of chapter 05 shows whose code has these words, so that no
    number is copied. Raises `UserError` where there is no such cell, or more than one."""
    from nbconvert.filters.markdown import markdown2html

    source, target, made = chapters_dir() / "teaching", prepare_folder(Path(folder) / "teaching"), []
    for path in sorted(source.glob("*.md")):
        text = path.read_text("utf-8").replace("\n---\n", "\n\n</section><section>\n\n")
        page = re.sub(r"\{\{(\w+): (.+?)\}\}", _shown, markdown2html(text))
        if path.stem == "slides":  # a sentence of a reading; the rest on a click
            first = rf"{OPEN}<summary>.*?</summary><p>(.{{40,}}?\.) "
            page = re.sub(first, rf"{FOLDED}<summary>\1</summary><p>", page)
        frame = (source / "page.html").read_text("utf-8").replace("NAME", path.stem)
        made.append(target / f"{path.stem}.html")
        made[-1].write_text(frame.replace("BODY", page), "utf-8")
    return made


def _shown(field: re.Match) -> str:
    chapter, words = field[1], unescape(field[2])
    cells = json.loads(find_chapters([chapter])[0].read_text("utf-8"))["cells"]
    found = [cell for cell in cells if "outputs" in cell and words in "".join(cell["source"])]
    shown = [output.get("data", {}).get("text/html", "") for cell in found for output in cell["outputs"]]
    if len(found) != 1 or not any(shown):
        raise UserError(f"chapter {chapter}: {len(found)} cells have '{words}', wanted is one that shows something")
    return "".join(map("".join, shown)).replace(FOLDED, OPEN)


def _as_file(notebook: dict) -> bytes:
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def _without_outputs(path: Path) -> bytes:
    """A notebook as a file, without what its cells have shown, and with the code of readings folded."""
    notebook = json.loads(path.read_text("utf-8"))
    for cell in notebook["cells"]:
        cell |= {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
        cell["metadata"] |= CLOSED if "reading(" in "".join(cell["source"]) or "jupyter" in cell["metadata"] else {}
    return _as_file(notebook)


def _copy(source: Path, target: Path, restore: bool) -> str:
    outcome, own = COPIED, _without_outputs(source)
    if target.exists():
        if target.is_file() and target.read_bytes() == own:
            return SAME
        if not restore:
            return KEPT
        aside = (target.with_name(f"{target.stem}.before-reset-{number}{target.suffix}") for number in count(1))
        target.rename(next(path for path in aside if not path.exists()))
        outcome = RESTORED
    with whole(target) as partial:
        partial.write_bytes(own)
    return outcome


def open_lab(path: str | Path) -> int:
    """Open JupyterLab of the running Python on a notebook; returns its exit code when closed."""
    own_kernel_first = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1"}
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # else it refuses
    root += [f"--LabApp.default_url=/lab/tree/{quote(Path(path).name)}"]  # in the address it prints
    return subprocess.call([sys.executable, "-m", "jupyterlab", *root, str(path)], env=own_kernel_first)
