"""What the cells of a sweep left behind: how each ended, and the rows of all as one ledger."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rimkit.runs.sweepfile import Cell

if TYPE_CHECKING:
    import pandas as pd

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
