"""The claims and what the measurements say about them: a page that needs nothing else, and a table for the terminal.

It joins the rows of a run, the shipped rows and the paper's own numbers; verdicts are the ledger's, effects of the
paper those of the re-analysis.
"""

from __future__ import annotations

import platform
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from rich.markup import escape
from rich.table import Table

from rimkit import __version__, ledger
from rimkit.data import UserError, missing, number, p_value, percent, whole
from rimkit.paper.findings import findings
from rimkit.paper.reanalysis import OVER_MODELS, after_correction, effects, reanalysis
from rimkit.teaching.figures import forest, svg

NAME = "claims.html"
NOT_REPORTED = "not reported"
SYMBOLS = {"supported": "✓", "contradicted": "✗", "no effect": "=", "undecided": "?", NOT_REPORTED: "–"}
STYLES = {"supported": "green", "contradicted": "red", "no effect": "yellow", "undecided": "dim"}
RATES = ("misaligned", "refused", "misread", "coherent", "score")  # metrics that are shares
SHIPPED, OWN, PAPER = "Embedded models, shipped rows", "This run", "The paper’s models"
FAMILIES = {
    "C1": "Thinking raises maths accuracy and misalignment together",
    "C2": "Effort-minimising thoughts raise misalignment",
    "C3": "Where refused and fulfilled requests separate",
    "C4": "Heads that look at the empty think span",
    "C5": "Ablating those heads lowers refusal",
    "C6": "Fine-tuning on reasoning raises misalignment",
    "C7": "The same contexts without reasoning do not",
    "C8": "Safety-critical neurons",
    "C9": "RAS, the reciprocal activation shift",
    "C10": "RAS predicts forgetting",
    "Q1": "Beyond the paper: over-refusal",
    "Q2": "Beyond the paper: a second reasoning domain",
    "Q3": "Beyond the paper: why the harmonic mean",
    "Q4": "Beyond the paper: style and length",
    "Q5": "Beyond the paper: prediction before training",
    "Q6": "Beyond the paper: fine-tuning and the refusal heads",
    "Q7": "Beyond the paper: safety-critical neurons in think mode",
    "Q8": "Beyond the paper: repairs",
}
RUN = ["group", "chapter", "run_id", "model", "seed", "prompts", "judge", "device", "rimkit_version"]


def write_page(own: pd.DataFrame, path: str | Path, notes: Sequence[str] = ()) -> Path:
    """Write the claims page of a run's ledger rows; ``notes`` are lines about what could not be shown.

    The file appears whole or not at all. Raises `UserError` where it cannot be written, and for a path that is there
    and no file (a folder, a device).
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # said before the figures are drawn, which takes seconds
        raise UserError(f"cannot write {path} (it is no file)")
    try:
        with whole(path) as partial:
            partial.write_text(page(own, notes), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error})") from error
    return path


def own_rows(folder: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a run, and a line each about what could not be read or is not there.

    Raises `UserError` if there is no such folder or file.
    """
    folder = Path(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = ledger.read(folder)
    notes = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    for notebook in sorted(folder.glob("[0-9]*.ipynb")):
        if not (folder / "ledger" / f"{notebook.stem}.parquet").exists():
            notes.append(f"{notebook.name} was run, but its rows ledger/{notebook.stem}.parquet are missing")
    if found.empty and not notes:
        notes.append(f"no rows in {folder}: the page shows the paper and the shipped rows alone")
    return found, notes


def page(own: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The claims page as HTML: every claim with the paper, the re-analysis, the shipped rows and ``own`` rows.

    All text that comes from rows is escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("rimkit.runs", "")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    rows = {SHIPPED: ledger.shipped(), OWN: own}
    return jinja.get_template("page.html.j2").render(
        families=_families(rows),
        symbols=SYMBOLS,
        notes=notes,
        correction=after_correction(),
        runs=_runs(rows),
        failed=own.loc[own["status"] == "failed", ["chapter", "model", "error"]].fillna("").to_dict("records"),
        groups=tuple(rows),
        version=__version__,
        python=platform.python_version(),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _families(rows: Mapping[str, pd.DataFrame]) -> list[dict]:
    judged = pd.concat([ledger.claims_table(table).assign(group=group) for group, table in rows.items()])
    paper, over_models, says = effects(), reanalysis().set_index("claim"), findings()
    found = []
    for family, entries in ledger.claims().groupby("claim", sort=False):
        claims = []
        for entry in entries.to_dict("records"):
            claim = entry["id"]
            measured, printed = (table[table["claim"] == claim] for table in (judged, paper))
            claims.append(_claim(entry, measured, printed, over_models.loc[claim], says[claim]))
        found.append({"id": family, "title": FAMILIES.get(family, family), "claims": claims})
    return found


def _claim(entry: dict, measured: pd.DataFrame, printed: pd.DataFrame, over_models: pd.Series, says: str) -> dict:
    """All that the page says about one claim."""
    metric, verdict = entry["primary_metric"], over_models["verdict"]
    scale, unit = (100, "points") if metric in RATES else (1, _words(metric))
    paper = {"metric": metric, "effect": over_models["effect"], "effect_ci_low": over_models["ci_low"],
             "effect_ci_high": over_models["ci_high"]}  # fmt: skip
    judged = measured.groupby("group", sort=False)["verdict"].value_counts(sort=False).to_dict()
    return {
        **entry,
        "smallest": f"{scale * entry['smallest_effect']:g} {unit}",
        "finding": says,
        "paper_verdict": NOT_REPORTED if missing(verdict) else verdict,
        "paper_effect": "" if missing(verdict) else effect_text(paper),
        "n_models": int(over_models["n_models"]),
        "lines": [_line(item) for item in measured.to_dict("records")],
        "counts": {
            group: [(word, judged[group, word]) for word in ledger.VERDICTS if (group, word) in judged]
            for group in (SHIPPED, OWN)
        },
        "figure": _figure(entry, measured, printed, verdict, unit),
    }


def _line(item: Mapping) -> dict[str, str]:
    p_adjusted = item["p_adjusted"]
    return {
        "group": item["group"],
        "model": item["model"],
        "seed": _text(item["seed"]),
        "value": _value(item["value"], item["metric"]),
        "control": f"{_text(item['control'])} {_value(item['control_value'], item['metric'])}".strip(),
        "effect": effect_text(item),
        "n": _text(item["n"]),
        "p": "" if missing(p_adjusted) else p_value(p_adjusted),
        "verdict": item["verdict"],
    }


def _figure(entry: dict, measured: pd.DataFrame, printed: pd.DataFrame, verdict: str, unit: str) -> dict | None:
    """The paper's models and the measured ones, a line each, as an image for the page."""
    names = [item.model if missing(item.seed) else f"{item.model}, seed {item.seed}" for item in measured.itertuples()]
    measured = measured.assign(model=names, ci_low=measured["effect_ci_low"], ci_high=measured["effect_ci_high"])
    words = printed["model"].map(lambda model: verdict if model == OVER_MODELS else "")
    parts = [part for part in (printed.assign(group=PAPER, verdict=words), measured) if len(part)]
    if not parts:
        return None
    table = pd.concat(parts, ignore_index=True)[["group", "model", "effect", "ci_low", "ci_high", "verdict"]]
    again = table["model"].duplicated(keep=False) & table["group"].eq(OWN)
    figure = forest(
        table.assign(model=table["model"].mask(again, table["model"] + ", yours")), "model", hue="group",
        words="verdict", unit=unit, x_label=f"value minus control ({unit})",
        smallest_effect=entry["smallest_effect"], title=f"{entry['id']}: {entry['statement']}",
    )  # fmt: skip
    source, width = b64encode(svg(figure)).decode(), round(figure.get_figwidth() * 96)
    return {"src": source, "alt": figure.alt_text, "caption": figure.caption, "width": width}


def _runs(rows: Mapping[str, pd.DataFrame]) -> list[dict]:
    """How it was run: one line per chapter or grid, model and seed, of the rows that say so."""
    every = pd.concat([table.assign(group=group) for group, table in rows.items()])
    table = every.groupby(RUN, sort=False, dropna=False).agg(
        seconds=("seconds", "max"), rows=("status", "size"), created=("created", "max")
    )
    return [{name: _text(value) for name, value in item.items()} for item in table.reset_index().to_dict("records")]


# -- texts, also for the terminal ------------------------------------------------------------------


def claims_view(claims: pd.DataFrame, title: str) -> Table:
    """The table of `rimkit.ledger.claims_table` for the terminal, a line per claim, model and seed; rates in points."""
    view = Table(title=title, title_justify="left", caption_justify="left", expand=False)
    view.caption = "Effect: value minus control, with 95% interval. Verdicts are computed from the interval."
    for heading in ("claim", "statement", "model", "seed", "effect", "control", "paper", "verdict"):
        view.add_column(heading, no_wrap=heading in ("claim", "model", "seed", "effect", "verdict"))
    previous = None
    for item in claims.to_dict("records"):
        said = (item["claim"], item["statement"], f"{item['paper_number']} ({item['paper_location']})")
        claim, statement, paper = said if item["claim"] != previous else ("", "", "")
        verdict = f"[{STYLES[item['verdict']]}]{item['verdict']}[/]"
        model, seed, control = escape(item["model"]), _text(item["seed"]), _text(item["control"])
        view.add_row(claim, statement, model, seed, effect_text(item), control, paper, verdict)
        previous = item["claim"]
    return view


def effect_text(item: Mapping) -> str:
    """``"+12.3 (+4.5 to +20.1) points"`` for shares, plain numbers for everything else; "" without an interval."""
    scale, digits, unit = (100, 1, "points") if item["metric"] in RATES else (1, 2, _words(item["metric"]))
    numbers = [item[name] for name in ("effect", "effect_ci_low", "effect_ci_high")]
    if any(map(missing, numbers)):
        return ""
    effect, low, high = (number(scale * value, digits, signed=True) for value in numbers)
    return f"{effect} ({low} to {high}) {unit}"


def _value(value, metric: str) -> str:
    return "" if missing(value) else f"{percent(value, 1)}%" if metric in RATES else number(value)


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _text(value) -> str:
    return "" if missing(value) else str(value)
