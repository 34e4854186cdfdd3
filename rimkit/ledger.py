"""The ledger: one row per measurement, the claims of the paper, their floors, and the verdicts.

A row says what was measured (``value``), against what (``control``, ``control_value``) and how far
apart the two are (``effect``, with its own 95% interval). Rates are fractions from 0 to 1.
"""

import math
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rimkit import __version__
from rimkit.behavior.stats import p_from_interval
from rimkit.data import UserError, check_known, data_dir, missing, nearest, number, one_line, whole

SCHEMA_VERSION = 2
_SCHEMA_KEY = b"rimkit_ledger_schema"
_NAMES = (
    "run_id chapter claim model seed mode metric value control control_value effect effect_ci_low "
    "effect_ci_high p_value beyond method n n_clusters competent why_not prompts judge params_hash status "
    "error seconds device rimkit_version created"
)
_NUMBERS = "value control_value effect effect_ci_low effect_ci_high p_value beyond seconds"
COLUMNS = tuple(_NAMES.split())
_TYPES = dict.fromkeys(COLUMNS, "string") | dict.fromkeys(_NUMBERS.split(), "float64")
_TYPES |= dict.fromkeys(("seed", "n", "n_clusters"), "Int64") | {"competent": "boolean"}
VERDICTS = ("supported", "contradicted", "small", "no effect", "undecided", "not testable")
SHOWN = (  # columns of verdicts
    "claim statement model seed metric value control control_value effect effect_ci_low "
    "effect_ci_high n primary p_adjusted verdict excludes_paper why_not paper_number paper_location scope"
)
ALPHA = 1 - 0.95  # of a verdict, divided by the size of the family
BEYOND = 0.95  # of single random sets, beyond which a selected one must lie
_ROUNDING = 1e-9
_read_once = lru_cache(pd.read_csv)


def claims() -> pd.DataFrame:
    """The testable sub-claims, one per row, as in ``data/claims.csv``."""
    return _read_once(data_dir() / "claims.csv").copy()


def row(claim: str, *, model: str, **values) -> dict:
    """One checked ledger row for a sub-claim of ``data/claims.csv``: the whole claim for one model
    and seed. ``values`` are further `COLUMNS`; chapter, metric and control are the claim's own
    unless given. Raises `UserError` for an unknown claim or column, an interval that is not in
    order, and an effect that is not value minus control."""
    known = claims().set_index("id")
    check_known("claim", claim, known.index)
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


def effect_row(claim: str, difference: Mapping | tuple | str, *, model: str, **values) -> dict:
    """`row` from a difference (``effect`` with ``ci_low``, ``ci_high``), or from why there is none.
    The two sides may be called ``value_a``/``value_b`` or ``value``/``control_value``."""
    if isinstance(difference, str):
        return untestable_row(claim, difference, model=model, **values)
    found = difference._asdict() if hasattr(difference, "_asdict") else difference
    numbers = {
        "value": found.get("value_a", found.get("value")),
        "control_value": found.get("value_b", found.get("control_value")),
        "effect": found["effect"], "effect_ci_low": found["ci_low"],
        "effect_ci_high": found["ci_high"],
        **{name: found.get(name) for name in ("n", "n_clusters", "p_value", "beyond", "method")},
    }  # fmt: skip
    if not missing(why := found.get("why_not")):
        numbers |= {"competent": False, "why_not": why}
    return row(claim, model=model, **numbers | values)


def untestable_row(claim: str, why_not: str, *, model: str, **values) -> dict:
    """The `row` of a claim that has no number here, and why."""
    return row(claim, model=model, competent=False, why_not=why_not, **values)


def below_floor(claim: str, read: float | None = None, reached: float | None = None) -> str:
    """Why a claim is not testable by its floors in ``data/claims.csv``; empty if it is. ``read``:
    the least share of coherent replies to what was asked, over the conditions compared, on
    calibration prompts; ``reached``: what ``floor_of`` names. None is not held against a floor."""
    check_known("claim", claim, claims()["id"])
    what = claims().set_index("id").loc[claim, "floor_of"]
    known = {"read": (read, "coherent replies to what was asked"), "reached": (reached, what)}
    for of, (value, what) in known.items():
        if value is not None and not math.isnan(least := floor(claim, of)) and not value >= least:
            return f"{what}: {number(value)}, below the floor of {number(least)}"
    return ""


def floor(claim: str, of: str = "reached") -> float:
    """A floor of ``data/claims.csv``, below which a claim is not testable (NaN: there is none): of
    what must be "reached" (``floor_of`` names it), or of the replies that must be "read"."""
    return claims().set_index("id").loc[claim, {"reached": "floor", "read": "floor_read"}[of]]


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
    try:
        return frame.reindex(columns=list(COLUMNS)).astype(_TYPES)
    except (TypeError, ValueError) as error:
        raise UserError(f"these are no verdict rows: {one_line(error)}") from None


def write(rows: Iterable[Mapping] | pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Write rows to a parquet file (no ``path``: none), whole or not at all; return the table."""
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
    it has one). What cannot be read in a folder, has another schema version or speaks of unknown
    claims is named in a one-line warning. Raises `UserError` if ``path`` cannot be read itself."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"no ledger at {path}: run `rimkit run --out {path}` first")
    if (path / "ledger").is_dir():  # so that a sweep's ledger is read, and not its cells once more
        path = path / "ledger"
    files = [path]
    if path.is_dir():  # without what is still being written, whose name begins with a dot
        found = sorted(path.rglob("*.parquet"))
        files = [file for file in found if "/." not in f"/{file.relative_to(path).as_posix()}"]
    parts = [part for part in (_read_file(file, alone=file == path) for file in files) if len(part)]
    frame = table(pd.concat(parts, ignore_index=True) if parts else [])
    unknown = sorted(set(frame["claim"].dropna()) - set(claims()["id"]))
    if unknown:
        warnings.warn(f"unknown claims are shown without a verdict: {', '.join(unknown)}", stacklevel=2)
    return frame


def shipped(adapters: bool = False) -> pd.DataFrame:
    """The rows that come with the workbook: of the embedded models; if asked, also of ``adapters``."""
    names = ("verdicts", "bridge") if adapters else ("verdicts",)
    return pd.concat([read(data_dir() / "results" / f"{name}.parquet") for name in names], ignore_index=True)


def _read_file(file: Path, alone: bool) -> pd.DataFrame:
    try:
        arrow = pq.read_table(file)
        version = (arrow.schema.metadata or {}).get(_SCHEMA_KEY, b"none").decode()
        rows = table(arrow.to_pandas())
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        reason = one_line(error)[:80]
        if alone:
            raise UserError(f"{file} cannot be read ({reason})") from None
        warnings.warn(f"{file} cannot be read and is left out ({reason})", stacklevel=3)
        return table([])
    if version != str(SCHEMA_VERSION):
        problem = f"has ledger schema {version}, not {SCHEMA_VERSION}: only known columns are shown"
        warnings.warn(f"{file} {problem}", stacklevel=3)
    return rows


def verdict(
    effect: float, ci_low: float, ci_high: float, direction: int, smallest_effect: float,
    p_value: float | None = None, family_size: int = 1, competent: bool = True,
    beyond: float | None = None,
) -> str:  # fmt: skip
    """What an effect (value minus control) with its 95% interval says about a claim. In this order:
    "not testable", the comparison is not ``competent``; "no effect", the interval lies within plus
    or minus ``smallest_effect``; "supported" or "contradicted", the effect is significant and at
    least the smallest, in the claimed ``direction`` (+1 or -1) or the other; "small", significant
    and smaller; "undecided", anything else, and anything not finite. Significant: ``p_value`` times
    ``family_size`` is below 0.05 (without one: not asked), the interval excludes zero, and of a set
    the effect lies ``beyond`` 95% of single random ones (None: no set)."""
    if not smallest_effect >= 0:
        raise UserError(f"the smallest effect of interest is 0 or more, not {smallest_effect}")
    if direction not in (1, -1) or -math.inf < ci_high < ci_low < math.inf:
        raise UserError(f"direction is 1 or -1, and an interval in order, not {ci_low} to {ci_high}")
    if not competent:
        return "not testable"
    if not all(map(math.isfinite, (effect, ci_low, ci_high))):
        return "undecided"
    if -smallest_effect <= ci_low and ci_high <= smallest_effect:
        return "no effect"
    rare = p_value is None or p_value * family_size < ALPHA
    if not rare or ci_low <= 0 <= ci_high or not (beyond is None or beyond >= BEYOND):
        return "undecided"
    if abs(effect) < smallest_effect:
        return "small"
    return "supported" if (effect > 0) == (direction > 0) else "contradicted"


def excludes(number: float, ci_low: float, ci_high: float) -> bool | None:
    """Whether an interval excludes a number, say the paper's own; None where one is missing."""
    return None if any(map(missing, (number, ci_low, ci_high))) else not ci_low <= number <= ci_high


def claims_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Verdicts (columns `SHOWN`), a row per claim, model and seed, in the order of ``claims.csv``.
    Only rows of the claim's primary metric count; of several, the latest. ``p_adjusted`` is the p
    value (without one: that of the interval) times the fixed size of the claim's family,
    Bonferroni's correction over the claims about one model and seed: of many models and seeds, one
    may be clear by chance. ``excludes_paper``: whether the interval excludes the paper's number;
    missing where the paper has none, and where the claim is not testable."""
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
    judged = [_judged(item) for item in merged.to_dict("records")]
    names = ["p_adjusted", "verdict", "excludes_paper"]
    merged[names] = pd.DataFrame(judged, columns=names, index=merged.index)
    merged["excludes_paper"] = merged["excludes_paper"].astype("boolean")
    return merged[SHOWN.split()]


def _judged(item: Mapping) -> tuple[float, str, bool | None]:
    """Of one row with its claim: adjusted p, verdict, whether it excludes the paper's number."""
    interval = [item[name] for name in ("effect", "effect_ci_low", "effect_ci_high")]
    p_value = item["p_value"] if not missing(item["p_value"]) else p_from_interval(*interval)
    word = verdict(
        *interval, item["direction"], item["smallest_effect"], p_value, item["family_size"], item["competent"],
        None if missing(item["beyond"]) else item["beyond"],
    )  # fmt: skip
    adjusted = min(1.0, p_value * item["family_size"]) if math.isfinite(p_value) else math.nan
    return adjusted, word, excludes(item["paper_effect"], *interval[1:]) if item["competent"] else None
