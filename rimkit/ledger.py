"""The ledger: one row per measurement, the claims of the paper, and the verdicts.

A row says what was measured (``value``), against what (``control``, ``control_value``) and how far
apart the two are (``effect``, with its own 95% interval). Rates are fractions from 0 to 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rimkit import __version__
from rimkit.data import UserError, data_dir, missing, nearest, whole

SCHEMA_VERSION = 2
_SCHEMA_KEY = b"rimkit_ledger_schema"
_NAMES = (
    "run_id chapter claim model seed mode metric value control control_value effect effect_ci_low "
    "effect_ci_high p_value method n n_clusters competent why_not prompts judge params_hash status "
    "error seconds device rimkit_version created"
)
_NUMBERS = "value control_value effect effect_ci_low effect_ci_high p_value seconds"
COLUMNS = tuple(_NAMES.split())
_TYPES = dict.fromkeys(COLUMNS, "string") | dict.fromkeys(_NUMBERS.split(), "float64")
_TYPES |= dict.fromkeys(("seed", "n", "n_clusters"), "Int64") | {"competent": "boolean"}
VERDICTS = ("supported", "contradicted", "no effect", "undecided", "not testable")
SHOWN = (  # columns of verdicts
    "claim statement model seed metric value control control_value effect effect_ci_low "
    "effect_ci_high n primary p_adjusted verdict why_not paper_number paper_location scope"
)
ALPHA = 1 - 0.95  # of a verdict
_ROUNDING = 1e-9


def claims() -> pd.DataFrame:
    """The testable sub-claims, one per row, as in ``data/claims.csv``."""
    return _claims(data_dir() / "claims.csv").copy()


@lru_cache
def _claims(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


def row(claim: str, *, model: str, **values) -> dict:
    """One checked ledger row for a sub-claim of ``data/claims.csv``: the whole claim for one model
    and seed. ``values`` are further `COLUMNS`; chapter, metric and control are the claim's own
    unless given. Raises `UserError` for an unknown claim or column, an interval that is not in
    order, and an effect that is not value minus control."""
    known = claims().set_index("id")
    if claim not in known.index:
        close = nearest(claim, known.index)
        raise UserError(f"unknown claim '{claim}'{close}; data/claims.csv lists them")
    own = known.loc[claim, ["chapter", "primary_metric", "control"]].to_dict()
    own["metric"] = own.pop("primary_metric")
    found = _row(**own | values | {"claim": claim, "model": model})
    value, control, effect = (found[name] for name in ("value", "control_value", "effect"))
    low, high = found["effect_ci_low"], found["effect_ci_high"]
    if pd.notna([effect, low, high]).all() and not low - _ROUNDING <= effect <= high + _ROUNDING:
        raise UserError(f"{claim}: effect {effect:g} lies outside its interval {low:g} to {high:g}")
    if pd.notna([value, control, effect]).all() and abs(effect - (value - control)) > 1e-6:
        raise UserError(f"{claim}: effect {effect:g} is not value minus control, {value:g} - {control:g}")
    return found


def effect_row(claim: str, difference: Mapping | NamedTuple, *, model: str, **values) -> dict:
    """`row` from a difference of `rimkit.behavior.stats` (``effect`` with ``ci_low``, ``ci_high``).
    The two sides may be called ``value_a``/``value_b`` or ``value``/``control_value``."""
    found = difference._asdict() if hasattr(difference, "_asdict") else difference
    numbers = {
        "value": found.get("value_a", found.get("value")),
        "control_value": found.get("value_b", found.get("control_value")),
        "effect": found["effect"],
        "effect_ci_low": found["ci_low"],
        "effect_ci_high": found["ci_high"],
        **{name: found.get(name) for name in ("n", "n_clusters", "p_value", "method")},
    }
    if not missing(why := found.get("why_not")):
        numbers |= {"competent": False, "why_not": why}
    return row(claim, model=model, **numbers | values)


def failed_row(*, chapter: str, model: str, error: str, **values) -> dict:
    """The row of a run that failed: no claim, no value, and the error in one line."""
    values |= {"status": "failed", "error": " ".join(error.split())}
    return _row(chapter=chapter, model=model, **values)


def _row(**values) -> dict:
    for name in values:
        if name not in COLUMNS:
            raise UserError(f"the ledger has no column '{name}'{nearest(name, COLUMNS)}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    stamps = {"status": "ok", "rimkit_version": __version__, "created": now}
    return dict.fromkeys(COLUMNS) | stamps | values


def table(rows: Iterable[Mapping] | pd.DataFrame) -> pd.DataFrame:
    """Rows as a DataFrame with exactly `COLUMNS`, typed; others are dropped."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    return frame.reindex(columns=list(COLUMNS)).astype(_TYPES)


def write(rows: Iterable[Mapping] | pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Write rows to a parquet file (no ``path``: none), whole or not at all; return the table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = table(rows)
    if not str(path):
        return frame
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    version = {_SCHEMA_KEY: str(SCHEMA_VERSION).encode()}
    arrow = arrow.replace_schema_metadata((arrow.schema.metadata or {}) | version)
    with whole(path) as partial:
        pq.write_table(arrow, partial)
    return frame


def read(path: str | Path) -> pd.DataFrame:
    """The rows of a parquet file, or of all parquet files below a folder (of its ``ledger``, where
    it has one). A file that cannot be read, has another schema version or speaks of unknown claims
    is named in a one-line warning, and what can be shown is shown. Raises `UserError` if ``path``
    does not exist."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"no ledger at {path}: run `rimkit run --out {path}` first")
    if (path / "ledger").is_dir():  # so that a sweep's ledger is read, and not its cells once more
        path = path / "ledger"
    files = [path]
    if path.is_dir():  # without what is still being written, whose name begins with a dot
        found = sorted(path.rglob("*.parquet"))
        files = [file for file in found if "/." not in f"/{file.relative_to(path).as_posix()}"]
    parts = [part for part in map(_read_file, files) if part is not None and len(part)]
    frame = table(pd.concat(parts, ignore_index=True) if parts else [])
    unknown = sorted(set(frame["claim"].dropna()) - set(claims()["id"]))
    if unknown:
        warnings.warn(f"unknown claims are shown without a verdict: {', '.join(unknown)}", stacklevel=2)
    return frame


def shipped() -> pd.DataFrame:
    """The rows that come with the workbook: those of the trained embedded models."""
    return read(data_dir() / "results" / "verdicts.parquet")


def _read_file(file: Path) -> pd.DataFrame | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrow = pq.read_table(file)
        version = (arrow.schema.metadata or {}).get(_SCHEMA_KEY, b"none").decode()
        rows = table(arrow.to_pandas())
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        warnings.warn(f"{file} cannot be read and is left out ({reason})", stacklevel=3)
        return None
    if version != str(SCHEMA_VERSION):
        problem = f"has ledger schema {version}, not {SCHEMA_VERSION}: only known columns are shown"
        warnings.warn(f"{file} {problem}", stacklevel=3)
    return rows


def verdict(
    effect: float,
    ci_low: float,
    ci_high: float,
    direction: int,
    smallest_effect: float,
    p_adjusted: float | None = None,
    competent: bool = True,
) -> str:
    """What an effect (value minus control) with its 95% interval says about a claim.

    "not testable": the comparison is not ``competent``; "supported": the interval excludes zero in
    the claimed ``direction`` (+1 or -1); "contradicted": it excludes zero in the other; "no effect":
    it lies within plus or minus ``smallest_effect``; "undecided": anything else, and anything not
    finite. With ``p_adjusted`` supported and contradicted also need it to be below 0.05.
    """
    if not competent:
        return "not testable"
    if not all(map(math.isfinite, (effect, ci_low, ci_high))):
        return "undecided"
    if (p_adjusted is None or p_adjusted < ALPHA) and (ci_low > 0 or ci_high < 0):
        return "supported" if (ci_low > 0) == (direction > 0) else "contradicted"
    if -smallest_effect <= ci_low and ci_high <= smallest_effect:
        return "no effect"
    return "undecided"


def p_from_interval(effect: float, ci_low: float, ci_high: float) -> float:
    """Two-sided p-value of "no effect" by normal approximation, with the standard error of the side
    of the interval that faces zero: below 0.05 exactly when the interval excludes zero."""
    from scipy.special import ndtr, ndtri

    if not all(map(math.isfinite, (effect, ci_low, ci_high))):
        return math.nan
    facing = effect - ci_low if effect > 0 else ci_high - effect
    if facing <= 0:
        return 0.0 if effect else 1.0
    standard_error = facing / ndtri(1 - ALPHA / 2)
    return float(2 * ndtr(-abs(effect) / standard_error))


def claims_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Verdicts (columns `SHOWN`), one row per claim, model and seed, in the order of
    ``data/claims.csv``. Only rows of the claim's primary metric count; of several, the latest.
    ``p_adjusted`` is Holm's, over the primary claims of one model and seed; other claims are judged
    without it."""
    known = claims().rename(columns={"id": "claim", "claim": "family"})
    known["order"] = range(len(known))
    rows = table(rows)
    rows["competent"] = rows["competent"].fillna(True).astype(bool)
    said = rows["effect"].notna() | ~rows["competent"]
    whole = rows[(rows["status"] == "ok") & rows["claim"].notna() & said]
    whole = whole.sort_values("created", kind="stable")
    merged = whole.merge(known, on="claim", suffixes=("", "_claimed"))
    merged = merged[merged["metric"] == merged["primary_metric"]]
    merged = merged.drop_duplicates(["claim", "model", "seed"], keep="last")
    merged = merged.sort_values(["order", "model", "seed"]).reset_index(drop=True)
    merged["p_adjusted"] = _holm_per_model(merged)
    merged["verdict"] = [
        verdict(item.effect, item.effect_ci_low, item.effect_ci_high, item.direction, item.smallest_effect,
                item.p_adjusted if item.primary and math.isfinite(item.p_adjusted) else None, item.competent)
        for item in merged.itertuples()
    ]  # fmt: skip
    return merged[SHOWN.split()]


def _holm_per_model(merged: pd.DataFrame) -> pd.Series:
    """Holm's adjusted p-values of the primary claims within each model and seed; NaN elsewhere."""
    from rimkit.behavior.stats import holm

    intervals = merged[["effect", "effect_ci_low", "effect_ci_high"]].to_numpy()
    raw = pd.Series([p_from_interval(*item) for item in intervals], index=merged.index, dtype=float)
    adjusted = pd.Series(math.nan, index=merged.index, dtype=float)
    for _, group in merged[merged["primary"]].groupby(["model", "seed"], dropna=False):
        adjusted[group.index] = holm(raw[group.index])
    return adjusted
