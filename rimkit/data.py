"""What every floor needs: errors a user can act on, paths, tables of one's own, words for numbers.

It knows nothing of models, prompts or claims, and imports nothing heavy.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import shutil
import tempfile
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from errno import EEXIST, EINVAL, ENOENT, ENOTEMPTY
from functools import wraps
from hashlib import sha256
from inspect import BoundArguments, Parameter, signature
from io import StringIO
from itertools import chain, combinations, product
from numbers import Integral, Real
from operator import index
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from textwrap import shorten
from types import FunctionType
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = Path(__file__).resolve().parent
SUFFIXES = (".csv", ".jsonl", ".parquet")
HASHES, OF = "hashes.json", "made of"  # of tables that are kept
MINE = f"-{platform.node()}-"  # before the number of the process that writes a hidden file or folder
GIB = 2**30
MOST = 200  # characters of the names that a message lists
UNSEEN = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")  # no width
PLAIN_NAME = re.compile(r"[A-Za-z_][\w.-]{0,39}", re.ASCII)


# What functions are given is held against their hints, as far as these are known here.
GIVEN = {
    "DataFrame": "a table", "Figure": "a figure", "StudyModel": 'a model: rk.load("rim-mini")',
    "Sequence[Encoded]": 'conversations: [study.chat.encode(text, "think")]',
    "int": "a whole number", "float": "a number", "str": "a text", "Path": "a path", "None": "None",
}  # fmt: skip
PLAIN = {"int": Integral, "float": Real, "str": str, "Path": Path, "None": type(None)}
CHECKED, NAMES = {__name__}, {"Sequence[str]", "Iterable[str]"}  # modules, and hints of lists of names
LOOKED_AT = {"DataFrame", "Figure", "StudyModel", "Sequence[Encoded]", *NAMES}
LATE = {"ndarray", "Series", "Settings", "Probe", "Contrast", "Encoded", "Readout"}  # held against when it fails
EMPTY = "one of the lists that it was given is empty"
UNCLEAR = {"No objects to concatenate": EMPTY, "single positional indexer is out-of-bounds": EMPTY}
UNCLEAR["expected non-negative integer"] = "a seed is 0 or more"
TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "": None}


class UserError(ValueError):
    """One line: what was wrong and what to do; the command line prints it and exits with 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known name closest to ``name``, or an empty string."""
    close = get_close_matches(str(name), [str(item) for item in known], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def check_known(what: str, given, known: Iterable) -> None:
    """Raise a `UserError` unless ``given`` is one of those that are ``known``, with the nearest."""
    known = tuple(known)
    if given not in known:
        there = shorten(", ".join(map(str, known)), MOST, placeholder=" …")
        raise UserError(f"unknown {what} '{given}'{nearest(given, known)} (known: {there})")


def check_given(module) -> None:
    """Let the public functions and methods of a module say in one line what they cannot use: other
    things than their hints ask for, or a table without a column. One name is a list of one."""
    home = module.__name__
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == home]
    for owner in (module, *own) if home not in CHECKED else ():
        for name, one in list(vars(owner).items()):
            if isinstance(one, FunctionType) and one.__module__ == home and name[0] != "_":
                hints = {key: _kinds(it) for key, it in signature(one).parameters.items()}
                setattr(owner, name, _checking(one, hints))
    CHECKED.add(home)


def _kinds(it: Parameter) -> list[str]:
    hint = type(it.default) if it.annotation is it.empty and type(it.default).__name__ in LATE else it.annotation
    hint = "" if it.kind in (it.VAR_POSITIONAL, it.VAR_KEYWORD) else hint
    said = re.sub(r"[\w.]+\.(?=\w)", "", hint.__name__ if isinstance(hint, type) else str(hint))
    return said.split(" | ")


def _values(kind: str) -> str:
    return kind[:-1].rpartition(", ")[2] if kind.startswith("Mapping") else ""


def _is(value, kind: str, late: bool) -> bool:
    if kind == "Sequence[Encoded]":
        return all(hasattr(one, "spans") for one in value)
    if kind.startswith("Mapping"):
        pairs = value.items() if _values(kind) in LATE and hasattr(value, "keys") else ()
        named = all(isinstance(key, tuple) == ("[tuple" in kind) for key, _ in pairs)
        return hasattr(value, "keys") and named and all(_is(it, _values(kind), True) for _, it in pairs)
    if kind in PLAIN:
        return isinstance(value, PLAIN[kind]) and not isinstance(value, bool)
    known = kind in GIVEN or (late and kind in LATE)
    return not known or any(one.__name__ in (kind, "Named") for one in type(value).__mro__)


def _checking(function: FunctionType, hints: Mapping[str, list[str]]) -> Callable:
    """Holds what it is given against its hints: at once where `LOOKED_AT` are, else when it fails."""
    known, name, kinds = signature(function), function.__name__, [*chain(*hints.values())]
    at_once = LOOKED_AT.intersection(kinds) or any(_values(kind) in LATE for kind in kinds)

    def bound(args, kwargs, late: bool) -> BoundArguments:
        found = known.bind(*args, **kwargs)
        for key, value in (given := found.arguments).items():
            if isinstance(value, str) and "str" not in hints[key] and NAMES.intersection(hints[key]):
                given[key] = [value]
            elif not any(_is(value, kind, late) for kind in hints[key]):
                wanted = " or ".join(GIVEN.get(it, it.replace("Mapping", "a dictionary")) for it in hints[key])
                raise UserError(f"{name}: {key} is a {type(value).__name__}; it takes {wanted}")
            elif late and hasattr(value, "columns") and not value.columns.is_unique:
                raise UserError(f"{name}: {key} has two columns by one name: rename or drop one")
        return found

    @wraps(function)
    def checked(*args, **kwargs):
        if at_once:
            found = bound(args, kwargs, False)
            args, kwargs = found.args, found.kwargs
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except (TypeError, AttributeError, LookupError, ValueError, StopIteration) as error:
            given, said = bound(args, kwargs, True).arguments, str(error)
            tables = [one for one in given.values() if hasattr(one, "columns")]
            asked = re.findall(r"'([^']*)'", said) if isinstance(error, KeyError) else ()
            for lacking, table in product(asked, tables):
                if lacking not in table:
                    said = f"there is no '{plain_id(lacking)}' in the table; {has_columns(table)}"
                    raise ValueError(f"{name}: {said}") from error
            if said in UNCLEAR or isinstance(error, StopIteration):
                raise UserError(f"{name}: {UNCLEAR.get(said, EMPTY)}") from error
            raise

    return checked


def one_line(error: BaseException) -> str:
    """What an error says, in one line: its first (with the next after a colon), or its kind."""
    kind = type(error).__name__
    said = f"{kind}: {error}" if isinstance(error, LookupError | ArithmeticError) else str(error)
    lines = [line.strip() for line in said.strip().splitlines()] or [kind]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200]


def data_dir() -> Path:
    """The folder of models, prompt sets and claims."""
    return _resource("_data", "data")


def chapters_dir() -> Path:
    """The folder of the chapter notebooks, as shipped."""
    return _resource("_chapters", "chapters")


def find_chapters(names: Iterable[str] = ()) -> list[Path]:
    """Notebooks for ``"01"``, ``"1"``, ``"A1"``, ``"01_observing_rim"`` or a path; else all, as
    they are read: 00, the primers, 01 and so on."""
    paths = sorted(chapters_dir().glob("*.ipynb"))
    paths.sort(key=lambda path: (not path.stem.startswith("00"), not path.stem.startswith("A")))
    shipped = {path.stem: path for path in paths}
    found = list(dict.fromkeys(_find_chapter(name, shipped) for name in names)) or [*shipped.values()]
    for one, other in combinations(found, 2):
        if one.stem == other.stem:
            raise UserError(f"two chapters have one name, {one.stem}: run {other} into another folder")
    return found


def _find_chapter(name: str, shipped: Mapping[str, Path]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    stem = name.removesuffix(".ipynb")
    for chapter, path in shipped.items():
        if stem and (stem == chapter or chapter.partition("_")[0] == stem.zfill(2).upper()):
            return path
    if Path(stem).name != name:  # a path, or a file here
        raise UserError(f"there is no file '{name}'{nearest(stem, shipped)}")
    known = ", ".join(chapter.partition("_")[0] for chapter in shipped)
    raise UserError(f"unknown chapter '{name}'{nearest(stem, shipped)} (known: {known}; see `rimkit chapters`)")


def _resource(in_wheel: str, in_clone: str) -> Path:
    """``rimkit/<in_wheel>`` of the wheel, otherwise ``<in_clone>`` of the repository."""
    packaged = PACKAGE / in_wheel
    return packaged if packaged.is_dir() else PACKAGE.parent / in_clone


def shipped_tables(folder: str) -> dict[str, Path]:
    """The parquet files of a folder of the workbook's data, by name."""
    return {file.stem: file for file in sorted((data_dir() / folder).glob("*.parquet"))}


def find_table(name: str | Path, shipped: Mapping[str, Path], what: str, also: Collection[str] = ()) -> Path:
    """The file of a shipped table (by its name), or the file that ``name`` is the path of. ``what``
    is what messages call it ("prompt set"), ``also`` are names that are no files. Raises
    `UserError` for a file that is not there and for an unknown name, with the nearest one."""
    path = Path(name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise UserError(f"there is no file '{path}'")
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    kinds, close = {"shipped": shipped, "real": also}.items(), nearest(str(name), [*shipped, *also])
    there = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds if names)
    there = shorten(there, MOST, placeholder=" …")
    raise UserError(f"unknown {what} '{name}'{close} ({there}; or a .csv, .jsonl or .parquet file)")


def read_table(path: Path, form: str = "") -> pd.DataFrame:
    """The file as a table, whose text stays text ("007", "NA"). ``form``: "csv" (or with semicolons
    or tabs), "jsonl" (or "json", a list), "parquet" or "text" (a row per line, column ``text``); by
    default what the suffix says. Raises `UserError`, which quotes nothing of the file."""
    import pandas as pd

    form = form or path.suffix[1:]
    readers = {"csv": _csv, "jsonl": _json, "json": _json}
    readers["text"] = lambda text: [{"text": line} for line in text.split("\n")]
    try:
        if form == "parquet":
            return pd.read_parquet(path)
        raw = path.read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds null bytes: save it as UTF-8")
        found = readers[form](text if form == "csv" else re.sub("\r\n?", "\n", text))
        return found if isinstance(found, pd.DataFrame) else pd.DataFrame(found)
    except UnicodeDecodeError:
        raise UserError(f"the file '{path}' is not in UTF-8: save it as UTF-8") from None
    except (ValueError, OSError, RecursionError, csv.Error) as error:
        raise UserError(f"the file '{path}' cannot be read as {form or 'text'}: {one_line(error)}") from None


def _csv(text: str) -> pd.DataFrame:
    import pandas as pd

    csv.field_size_limit(2**31 - 1)
    comma = max(",;\t", key=text.partition("\n")[0].count)  # of equals the first: a comma
    lines = csv.reader(StringIO(text, newline=""), strict=True, delimiter=comma)
    header = next(lines, [])
    while header and not header[-1].strip():
        header.pop()
    header[:1] = [name.strip() or "index" for name in header[:1]]  # pandas names none
    rows, width = [], len(header)
    if not header or len(set(header)) < width or not all(name.strip() for name in header):
        raise ValueError("its first line names no columns, or two by one name")
    for row in filter(None, lines):
        if any(field.strip() for field in row[width:]):
            problem = f"has more fields than the first: put quotes around texts with {comma!r}"
            raise ValueError(f"line {lines.line_num} {problem}")
        rows.append(row[:width] + [""] * (width - len(row)))
    return pd.DataFrame(rows, columns=header, dtype=object)


def _json(text: str) -> list[dict]:
    read = json.JSONDecoder(object_pairs_hook=_names_once).decode
    listed = text.lstrip().startswith("[")
    rows = read(text) if listed else [read(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row is no object with named fields")
    return rows


def _names_once(pairs: list[tuple]) -> dict:
    if len(fields := dict(pairs)) < len(pairs):
        raise ValueError("a row has two fields by one name")
    return fields


def plain_names(table: pd.DataFrame) -> list[str]:
    """The names of its columns that may be shown: in a file without a header, a name is a text."""
    return [name for name in map(str, table.columns) if PLAIN_NAME.fullmatch(name)]


def check_columns(table: pd.DataFrame, needed: Iterable[str], what: str) -> None:
    """Raise a `UserError` unless the table (``what`` it is called) has the columns, each once."""
    if not hasattr(table, "columns"):
        raise UserError(f"{what} is a {type(table).__name__}: give a table")
    if twice := [name for name in needed if list(table.columns).count(name) > 1]:
        raise UserError(f"{what} has two columns called {plain_id(twice[0])}: rename or drop one")
    if missing := [name for name in needed if name not in table]:
        close = nearest(missing[0], plain_names(table))
        raise UserError(f"{what} has no column {', '.join(missing)}{close}; {has_columns(table)}")


def truths(column: pd.Series) -> pd.Series:
    """True, False or missing, in a nullable column; of 1 and 0 too, and of all these as text, as
    files have them. Raises `UserError` for anything else."""
    if str(column.dtype) in ("bool", "boolean"):
        return column.astype("boolean")
    words = column.astype(object).where(column.notna(), "").astype(str).str.strip().str.lower()
    if len(strange := column.astype(str).str.strip()[~words.isin(list(TRUTHS))]):
        where = "a verdict" if column.name is None else f"the column '{column.name}'"
        raise UserError(f"{where} holds '{plain_id(strange.iloc[0])}': it takes True or False")
    return words.map(TRUTHS).astype("boolean")


def pairs_of(units: Iterable, what: str) -> list[tuple[int, int]]:
    """Heads or neurons as (layer, unit) pairs; raises `UserError` for anything else."""
    try:
        return [(index(layer), index(unit)) for layer, unit in units]
    except (TypeError, ValueError):
        raise UserError(f"{what}s are given as (layer, {what}) pairs: [(0, 3), (2, 1)]") from None


def check_index(what: str, number: int, count: int) -> None:
    """Raise a `UserError` unless ``0 <= number < count``."""
    if not 0 <= number < count:
        raise UserError(f"there is no {what} {number}: they go from 0 to {count - 1}")


def has_columns(table: pd.DataFrame) -> str:
    """What columns there are, in words that may be shown."""
    shown = plain_names(table)
    hidden = len(table.columns) - len(shown)
    said = [*shown[:12], *([f"{len(shown) - 12} more"] if shown[12:] else [])]
    said += [f"{hidden} without a plain name"] if hidden else []
    return f"it has {', '.join(said) or 'no columns'}"


def check_requests(table: pd.DataFrame, where: str = "") -> None:
    """Raise a `UserError` for prompts without a text, and a ``prompt_id`` that occurs twice."""
    ids = table["prompt_id"]
    blank = ids[[not (isinstance(it, str) and UNSEEN.sub("", it).strip()) for it in table["text"]]]
    twice = "occurs twice: make the ids unique"
    problems = (blank, "has no text"), (ids[ids.isna()], "is none"), (ids[ids.duplicated()], twice)
    for wrong, problem in problems:
        if len(wrong):
            raise UserError(f"the prompt_id '{plain_id(wrong.iloc[0])}'{where} {problem}")


def plain_id(prompt_id) -> str:
    """An id that may be shown: one with blanks or in signs may be the text itself."""
    return prompt_id if re.fullmatch(r"[!-~]{1,40}", str(prompt_id)) else "…"


def prepare_folder(out: str | Path) -> Path:
    """Make sure that ``out`` is a folder that can be written; raises `UserError` otherwise."""
    out = Path(os.path.realpath(os.path.expanduser(out)))  # which a loop of links does not break
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as file:
            file.write(b"is there room?")
        return out
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out} is a file, or lies below one: give --out a folder") from None
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): give --out another folder") from error


def rows_of(notebook: Path) -> Path:
    """Where the rows of a notebook that was run are."""
    return notebook.parent / "ledger" / f"{notebook.stem}.parquet"


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Where to write a file or folder that appears whole, under ``path``, when all went well. The
    name is hidden and nobody else's, so that two writers do not meet."""
    path = Path(path).absolute()
    with suppress(FileNotFoundError, NotADirectoryError):  # asked once: another process may put it there
        mode = path.lstat().st_mode
        if not (S_ISREG(mode) or S_ISDIR(mode)):
            raise OSError(EINVAL, "it is a device or a link", str(path))  # /dev/stdout is both
    path.parent.mkdir(parents=True, exist_ok=True)
    clean_up(path.parent, ".*.partial")
    partial = path.with_name(f".{path.name}{MINE}{os.getpid()}-{uuid4().hex[:8]}.partial")
    try:
        yield partial
        if partial.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    except OSError as error:
        if error.errno and str(error.filename or partial) == str(partial):  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        _remove(partial)


PARTS = "RIMKIT_PARTS"  # in the environment of a kernel that `rimkit run` starts


def parts_folder() -> Path | None:
    """Where the chapter that is running keeps its parts until it is complete; None: nowhere."""
    return Path(os.environ[PARTS]) if os.environ.get(PARTS) else None


def clean_up(folder: Path, pattern: str) -> None:
    """Remove what processes of this machine that were killed have left behind: of hidden files and
    folders that match, those whose name holds `MINE` and the number of a process that has ended."""
    for left in folder.glob(pattern):
        pid = left.name.rpartition(MINE)[2].partition("-")[0]
        if MINE in left.name and pid.isdecimal():
            import psutil

            with suppress(psutil.NoSuchProcess, OSError):
                if psutil.Process(int(pid)).create_time() <= left.stat().st_mtime:
                    continue  # it is running
            with suppress(OSError):
                _remove(left)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def results(name: str) -> pd.DataFrame:
    """A table of results that comes with the workbook, by its name: "thinking", "neurons-doses"."""
    import pandas as pd

    tables = (data_dir() / "results").glob("*.csv")
    known = shipped_tables("results") | {file.stem: file for file in tables}
    check_known("results", name, known)
    return pd.read_csv(known[name]) if known[name].suffix == ".csv" else pd.read_parquet(known[name])


def kept(folder: str | Path, make: Callable[[], dict[str, pd.DataFrame]], of: str = "") -> dict[str, pd.DataFrame]:
    """Tables by name, as they lie in ``folder``; made now, and put there whole, if they are not
    there unharmed. This is how long work goes on after an interruption. ``of`` names what they are
    made of, such as a model's weights: others are not taken. Without a folder nothing is kept."""
    if not str(folder):
        return make()
    folder = Path(folder)
    try:
        return _unharmed(folder, of)
    except (OSError, ValueError):  # not there, or cut, or not what was written
        tables = make()
    with suppress(OSError, ValueError):  # another process may have been quicker
        return _unharmed(folder, of)
    made = None
    try:
        with whole(folder) as partial:
            partial.mkdir()
            for name, table in tables.items():
                table.to_parquet(partial / f"{name}.parquet", index=False)
            hashes = {file.name: sha256(file.read_bytes()).hexdigest() for file in partial.iterdir()}
            (partial / HASHES).write_text(json.dumps({**hashes, OF: of}), encoding="utf-8")
            made = _unharmed(partial, of)
    except OSError as error:
        if made is None or error.errno not in (EEXIST, ENOENT, ENOTEMPTY):
            raise  # else another process put its own there at the same moment
        with suppress(OSError, ValueError):
            return _unharmed(folder, of)
    return made


def _unharmed(folder: Path, of: str) -> dict[str, pd.DataFrame]:
    """The tables that are kept in a folder; OSError or ValueError if one is gone or changed."""
    import pandas as pd

    hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))
    same = hashes.pop(OF, "") == of
    if not same or hashes != {name: sha256((folder / name).read_bytes()).hexdigest() for name in hashes}:
        raise ValueError(f"{folder} has changed")
    return {Path(name).stem: pd.read_parquet(folder / name) for name in hashes}


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """A number as readers see it: a true minus sign, no minus zero, "–" where it is missing."""
    if missing(value):
        return "–"
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    return (text if text.strip("+-0.,") else text.lstrip("+-")).replace("-", "−")


def percent(share: float | None, digits: int | None = None, *, signed: bool = False) -> str:
    """A share as percent, without "%": whole, or with one decimal where it would look like zero."""
    if missing(share):
        return "–"
    if digits is None:
        digits = 1 if 0.0005 <= abs(share) < 0.005 else 0
    return number(100 * share, digits, signed=signed)


def points(difference: float | None, digits: int | None = None) -> str:
    """A difference of two shares in percentage points with its sign, rounded as `percent` is."""
    return percent(difference, digits, signed=True)


def interval(low: float | None, high: float | None, words: Callable[[float], str] = percent) -> str:
    """``"[10, 24]"``; ``words`` says how each end is written. Empty where there is none."""
    return "" if missing(low) or missing(high) else f"[{words(low)}, {words(high)}]"


def p_value(value: float) -> str:
    """A p value with as many digits as it deserves."""
    return "< 0.001" if value < 0.001 else number(value, 3 if value < 0.1 else 2)


def missing(value) -> bool:
    """Whether this is no number: None, NaN or pandas' NA."""
    return str(value) in ("None", "nan", "<NA>")
