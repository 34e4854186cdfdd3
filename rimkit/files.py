"""Tables that people bring along: csv, jsonl and parquet files, read in one way everywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rimkit.errors import UserError, nearest
from rimkit.paths import data_dir

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".jsonl", ".parquet")


def shipped_tables(folder: str) -> dict[str, Path]:
    """The parquet files of a folder of the workbook's data, by name."""
    return {file.stem: file for file in sorted((data_dir() / folder).glob("*.parquet"))}


def find_table(name: str | Path, shipped: Mapping[str, Path], what: str, also: Collection[str] = ()) -> Path:
    """The file of a shipped table (by its name), or the file that ``name`` is the path of.

    ``what`` is what messages call it ("prompt set"), ``also`` are names that are no files. Raises `UserError` for
    a file that is not there and for an unknown name, with the nearest one.
    """
    path = Path(name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise UserError(f"there is no file '{path}'")
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    others = f"real: {', '.join(also)}; " if also else ""
    raise UserError(
        f"unknown {what} '{name}' (shipped: {', '.join(shipped)}; {others}or a .csv, .jsonl or .parquet file)"
        f"{nearest(str(name), [*shipped, *also])}"
    )


def read_table(path: Path) -> pd.DataFrame:
    """The file as a table. Text stays text: "007" is no number, and an empty field of a csv is an empty text.

    Raises `UserError`, in one line, for a file that is damaged or not what its suffix says.
    """
    import pandas as pd

    readers = {
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False),
        ".jsonl": lambda: pd.read_json(path, lines=True, dtype=False),
        ".parquet": lambda: pd.read_parquet(path),
    }
    try:
        return readers[path.suffix]()
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise on damaged files
        reason = f"{error}".splitlines()[0]
        raise UserError(f"the file '{path}' cannot be read as {path.suffix[1:]}: {reason}") from error
