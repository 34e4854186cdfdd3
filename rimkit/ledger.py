"""The ledger: one row per measurement, the claims of the paper, and the verdicts.

A row says what was measured (``value``), against what (``control``, ``control_value``) and how far apart
the two are (``effect``, with its own 95% interval). Rates are fractions from 0 to 1. Rows are stored as
parquet files; `claims_table` turns them into verdicts, which are computed and never typed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rimkit import __version__
from rimkit.data import UserError, data_dir, nearest, whole

SCHEMA_VERSION = 2
_SCHEMA_KEY = b"rimkit_ledger_schema"
_TYPES = {
    "run_id": "string", "chapter": "string", "claim": "string", "model": "string", "seed": "Int64", "mode": "string",
    "metric": "string", "value": "float64", "control": "string", "control_value": "float64", "effect": "float64",
    "effect_ci_low": "float64", "effect_ci_high": "float64", "p_value": "float64", "method": "string", "n": "Int64",
    "n_clusters": "Int64", "competent": "boolean", "why_not": "string", "prompts": "string", "judge": "string",
    "params_hash": "string", "status": "string", "error": "string", "seconds": "float64", "device": "string",
    "rimkit_version": "string", "created": "string",
}  # fmt: skip
COLUMNS = tuple(_TYPES)
VERDICTS = ("supported", "contradicted", "no effect", "undecided")
_ROUNDING = 1e-9

# Until every experiment keeps its details in tables of its own: what rows that are not verdicts still say.
WHOLE_CLAIM = "all"
_DETAIL = {
    "condition": "string", "ci_low": "float64", "ci_high": "float64", "control_ci_low": "float64",
    "control_ci_high": "float64", "n_seeds": "Int64", "max_new_tokens": "Int64",
}  # fmt: skip


def claims() -> pd.DataFrame:
    """The testable sub-claims, one per row: ``id, claim, statement, primary_metric, primary, direction`` (+1 or -1),
    ``smallest_effect`` (unit of the metric), ``control, paper_number, paper_location, chapter, scope``."""
    return _claims(data_dir() / "claims.csv").copy()


@lru_cache
def _claims(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


def row(claim: str, *, model: str, **values) -> dict:
    """One checked ledger row for a sub-claim of ``data/claims.csv``.

    ``values`` are further `COLUMNS`. The chapter, metric and control are the claim's own unless given. A row is the
    whole claim for one model and ``seed`` (its training seed), and gives its verdict.

    Raises `UserError` for an unknown claim or column, for an interval that is not in order, and for an effect that is
    not value minus control: a control that shows the whole effect leaves none.
    """
    known = _claims(data_dir() / "claims.csv")
    if claim not in set(known["id"]):
        raise UserError(f"unknown claim '{claim}'{nearest(claim, known['id'])}; data/claims.csv lists them")
    entry = known[known["id"] == claim].iloc[0]
    defaults = {
        "chapter": entry["chapter"],
        "metric": entry["primary_metric"],
        "control": entry["control"],
        "condition": WHOLE_CLAIM,
    }
    return _row(**{**defaults, **values, "claim": claim, "model": model})


def effect_row(claim: str, difference: Mapping | NamedTuple, *, model: str, **values) -> dict:
    """`row` from a difference of `rimkit.behavior.stats` (``effect`` with ``ci_low``, ``ci_high``).

    The two sides may be called ``value_a``/``value_b`` or ``value``/``control_value``.
    """
    found = difference._asdict() if hasattr(difference, "_asdict") else dict(difference)
    sides = {
        "value": found.get("value_a", found.get("value")),
        "control_value": found.get("value_b", found.get("control_value")),
    }
    interval = {"effect_ci_low": found["ci_low"], "effect_ci_high": found["ci_high"]}
    effect = {"effect": found["effect"], **interval, "n": found.get("n")}
    return row(claim, model=model, **{**sides, **effect, **values})


def rate_rows(claim: str, verdicts: pd.DataFrame, by: Sequence[str], *, model: str, **values) -> list[dict]:
    """Ledger rows of plain rates (no control): one per group and metric, ``condition`` naming the group.

    ``by`` are columns of the verdicts; ``mode`` among them fills the ledger's own column.
    """
    from rimkit.behavior.stats import rates

    rows = []
    for rate in rates(verdicts, by=list(by)).to_dict("records"):
        condition = ", ".join(str(rate[column]) for column in by if column != "mode")
        numbers = {name: rate[name] for name in ("metric", "value", "ci_low", "ci_high", "n")}
        rows.append(
            row(claim, model=model, condition=condition, mode=rate.get("mode"), control=None, **numbers, **values)
        )
    return rows


def failed_row(*, chapter: str, model: str, error: str, **values) -> dict:
    """The row of a run that failed: no claim, no value, status "failed" and the error in one line."""
    return _row(chapter=chapter, model=model, status="failed", error=" ".join(error.split()), **values)


def _row(**values) -> dict:
    for name in values:
        if name not in COLUMNS and name not in _DETAIL:
            raise UserError(f"the ledger has no column '{name}'{nearest(name, COLUMNS)}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    stamps = {"status": "ok", "rimkit_version": __version__, "created": now}
    complete = {**dict.fromkeys(COLUMNS), **stamps, **values}
    value, control, effect = (complete[name] for name in ("value", "control_value", "effect"))
    low, high = complete["effect_ci_low"], complete["effect_ci_high"]
    if pd.notna([effect, low, high]).all() and not low - _ROUNDING <= effect <= high + _ROUNDING:
        raise UserError(f"{complete['claim']}: effect {effect:g} lies outside its interval {low:g} to {high:g}")
    if pd.notna([value, control, effect]).all() and abs(effect - (value - control)) > 1e-6:
        raise UserError(f"{complete['claim']}: effect {effect:g} is not value minus control, {value:g} - {control:g}")
    return complete


def table(rows: Iterable[Mapping] | pd.DataFrame) -> pd.DataFrame:
    """Rows as a DataFrame with exactly `COLUMNS`, typed; missing columns are empty, others are dropped."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    types = _TYPES | _DETAIL
    frame = frame.reindex(columns=list(types)).astype(types)
    return frame.assign(condition=frame["condition"].fillna(WHOLE_CLAIM))


def write(rows: Iterable[Mapping] | pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Write rows to a parquet file (nothing if ``path`` is empty) and return them as a table.

    The file appears whole or not at all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = table(rows)
    if not str(path):
        return frame
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    version = {_SCHEMA_KEY: str(SCHEMA_VERSION).encode()}
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **version})
    with whole(path) as partial:
        pq.write_table(arrow, partial)
    return frame


def read(path: str | Path) -> pd.DataFrame:
    """The rows of a parquet file, or of all parquet files below a folder (of its ``ledger``, where it has one).

    A file that cannot be read, has another schema version or speaks of unknown claims is named in a
    one-line warning, and what can be shown is shown. Raises `UserError` if ``path`` does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no ledger at {path}: run `rimkit run --out {path}` first")
    if (path / "ledger").is_dir():  # so that a sweep's ledger is read, and not its cells once more
        path = path / "ledger"
    files = sorted(filter(_visible_below(path), path.rglob("*.parquet"))) if path.is_dir() else [path]
    parts = [part for part in map(_read_file, files) if part is not None and len(part)]
    frame = table(pd.concat(parts, ignore_index=True) if parts else [])
    unknown = sorted(set(frame["claim"].dropna()) - set(claims()["id"]))
    if unknown:
        _warn(f"unknown claims are shown without a verdict: {', '.join(unknown)}")
    return frame


def shipped() -> pd.DataFrame:
    """The rows that come with the workbook: those of the trained embedded models."""
    return read(data_dir() / "results" / "verdicts.parquet")


def _visible_below(folder: Path):
    """Leaves out files that are still being written: those with a dot at the start of a name."""
    return lambda file: not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _read_file(file: Path) -> pd.DataFrame | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrow = pq.read_table(file)
        version = (arrow.schema.metadata or {}).get(_SCHEMA_KEY, b"none").decode()
        if version != str(SCHEMA_VERSION):
            _warn(f"{file} has ledger schema {version}, not {SCHEMA_VERSION}: only known columns are shown")
        return table(arrow.to_pandas())
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        _warn(f"{file} cannot be read and is left out ({reason})")
        return None


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def verdict(
    effect: float,
    ci_low: float,
    ci_high: float,
    direction: int,
    smallest_effect: float,
    p_adjusted: float | None = None,
    level: float = 0.95,
) -> str:
    """What an effect (value minus control) with its interval says about a claim.

    "supported": the interval excludes zero in the claimed ``direction`` (+1 or -1); "contradicted": it
    excludes zero in the other; "no effect": it lies within plus or minus ``smallest_effect``;
    "undecided": anything else, and anything not finite. With ``p_adjusted`` the first two also need
    ``p_adjusted < 1 - level``.
    """
    if not all(map(math.isfinite, (effect, ci_low, ci_high))):
        return "undecided"
    significant = p_adjusted is None or p_adjusted < 1 - level
    if significant and (ci_low > 0 or ci_high < 0):
        return "supported" if (ci_low > 0) == (direction > 0) else "contradicted"
    if -smallest_effect <= ci_low and ci_high <= smallest_effect:
        return "no effect"
    return "undecided"


def p_from_interval(effect: float, ci_low: float, ci_high: float, level: float = 0.95) -> float:
    """Two-sided p-value of "no effect" by normal approximation.

    The standard error is that of the side of the interval that faces zero, so that p is below
    ``1 - level`` exactly when the interval excludes zero.
    """
    from scipy.special import ndtr, ndtri

    if not all(map(math.isfinite, (effect, ci_low, ci_high))):
        return math.nan
    facing = effect - ci_low if effect > 0 else ci_high - effect
    if facing <= 0:
        return 0.0 if effect else 1.0
    standard_error = facing / ndtri((1 + level) / 2)
    return float(2 * ndtr(-abs(effect) / standard_error))


def claims_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Verdicts, one row per claim, model and seed, in the order of ``data/claims.csv``.

    Columns: ``claim, statement, model, seed, metric, value, control, control_value, effect, effect_ci_low,
    effect_ci_high, n, primary, p_adjusted, verdict, paper_number, paper_location, scope``. Only rows of the
    claim's primary metric count; of several, the latest. ``p_adjusted`` is Holm's, over the primary claims of
    one model and seed; other claims are judged without it.
    """
    known = claims().rename(columns={"id": "claim", "claim": "family"})
    known["order"] = range(len(known))
    rows = table(rows)
    whole = rows[(rows["status"] == "ok") & (rows["condition"] == WHOLE_CLAIM) & rows["effect"].notna()]
    merged = whole.sort_values("created", kind="stable").merge(known, on="claim", suffixes=("", "_claimed"))
    merged = merged[merged["metric"] == merged["primary_metric"]]
    merged = merged.drop_duplicates(["claim", "model", "seed"], keep="last")
    merged = merged.sort_values(["order", "model", "seed"]).reset_index(drop=True)
    merged["p_adjusted"] = _holm_per_model(merged)
    merged["verdict"] = [
        verdict(item.effect, item.effect_ci_low, item.effect_ci_high, item.direction, item.smallest_effect,
                item.p_adjusted if item.primary and math.isfinite(item.p_adjusted) else None)
        for item in merged.itertuples()
    ]  # fmt: skip
    return merged[[
        "claim", "statement", "model", "seed", "metric", "value", "control", "control_value", "effect",
        "effect_ci_low", "effect_ci_high", "n", "primary", "p_adjusted", "verdict", "paper_number",
        "paper_location", "scope",
    ]]  # fmt: skip


def _holm_per_model(merged: pd.DataFrame) -> pd.Series:
    """Holm's adjusted p-values of the primary claims within each model and seed; NaN elsewhere."""
    from rimkit.behavior.stats import holm

    intervals = merged[["effect", "effect_ci_low", "effect_ci_high"]].to_numpy()
    raw = pd.Series([p_from_interval(*item) for item in intervals], index=merged.index, dtype=float)
    adjusted = pd.Series(math.nan, index=merged.index, dtype=float)
    for _, group in merged[merged["primary"]].groupby(["model", "seed"], dropna=False):
        adjusted[group.index] = holm(raw[group.index])
    return adjusted
