"""The claims and what the measurements say about them: a page that needs nothing else, and a table
for the terminal.

It joins the rows of a run, the shipped rows and the paper's own numbers; verdicts are the ledger's,
effects of the paper those of the re-analysis.
"""

from __future__ import annotations

import math
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
from rimkit.runs.execute import rows_of
from rimkit.teaching.figures import forest, image

NAME = "claims.html"
NOT_REPORTED = "not reported"
SYMBOLS = {"supported": "✓", "contradicted": "✗", "small": "~", "no effect": "=", "undecided": "?", "not testable": "∅",
           NOT_REPORTED: "–"}  # fmt: skip
STYLES = {"supported": "green", "contradicted": "red", "small": "cyan", "no effect": "yellow", "undecided": "dim",
          "not testable": "dim"}  # fmt: skip
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
EFFECT = ("effect", "effect_ci_low", "effect_ci_high")
RUN = ["group", "chapter", "run_id", "model", "seed", "prompts", "judge", "device", "rimkit_version"]


def write_page(own: pd.DataFrame, path: str | Path, notes: Sequence[str] = ()) -> Path:
    """Write the claims page of a run's ledger rows; ``notes`` are lines about what could not be
    shown.

    The file appears whole or not at all. Raises `UserError` where it cannot be written, and for a
    path that is there and no file (a folder, a device).
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # said before figures are drawn
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
    notes = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    for notebook in sorted(folder.glob("[0-9]*.ipynb")):
        if not (rows := rows_of(notebook)).exists():
            notes.append(f"{notebook.name} was run, but its rows ledger/{rows.name} are missing")
    for item in ledger.claims_table(found).query("verdict == 'not testable'").itertuples():
        notes.append(f"{item.claim} of {item.model} is not testable: {item.why_not}")
    if found.empty and not notes:
        notes.append(f"no rows in {folder}: the paper and the shipped rows are shown alone")
    return found, notes


def page(own: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The claims page as HTML: every claim with the paper, the re-analysis, the shipped rows and
    ``own``.

    All text that comes from rows is escaped; what is missing is empty.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader("rimkit.runs", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: "" if missing(value) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = pd.concat([ledger.shipped().assign(group=SHIPPED), own.assign(group=OWN)])
    return jinja.get_template("page.html.j2").render(
        families=_families(rows),
        symbols=SYMBOLS,
        notes=notes,
        correction=after_correction(),
        runs=_runs(rows),
        failed=own[own["status"] == "failed"].to_dict("records"),
        groups=(SHIPPED, OWN),
        version=__version__,
        python=platform.python_version(),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _families(rows: pd.DataFrame) -> list[dict]:
    parts = rows.groupby("group", sort=False)
    judged = pd.concat([ledger.claims_table(part).assign(group=group) for group, part in parts])
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
    scale, unit = (100, "points") if metric in RATES else (1, metric.replace("_", " "))
    paper = over_models.rename({"ci_low": "effect_ci_low", "ci_high": "effect_ci_high"})
    judged = measured.groupby("group", sort=False)["verdict"].value_counts(sort=False).to_dict()
    return {
        **entry,
        "smallest": f"{scale * entry['smallest_effect']:g} {unit}",
        "finding": says,
        "paper_verdict": NOT_REPORTED if missing(verdict) else verdict,
        "paper_effect": "" if missing(verdict) else effect_text({**paper, "metric": metric}),
        "n_models": int(over_models["n_models"]),
        "lines": [_line(item) for item in measured.to_dict("records")],
        "counts": {
            group: [(word, judged[group, word]) for word in ledger.VERDICTS if (group, word) in judged]
            for group in (SHIPPED, OWN)
        },
        "figure": _figure(entry, measured, printed, verdict, unit),
    }


def _line(item: dict) -> dict:
    """A measurement with its numbers as the page shows them."""
    value, control = (_value(item[name], item["metric"]) for name in ("value", "control_value"))
    control = f"{_text(item['control'])} {control}".strip()
    p = "" if missing(item["p_adjusted"]) else p_value(item["p_adjusted"])
    excludes = _excludes(item["excludes_paper"])
    return {**item, "value": value, "control": control, "effect": effect_text(item), "p": p, "excludes": excludes}


def _excludes(found) -> str:
    """Whether the paper's own number is outside of the interval, in a word."""
    return "" if missing(found) else "yes" if found else "no"


def _figure(entry: dict, measured: pd.DataFrame, printed: pd.DataFrame, verdict: str, unit: str):
    """The paper's models and the measured ones, a line each, as an image; None without any."""
    seeds = [f", seed {seed}" if _text(seed) else "" for seed in measured["seed"]]
    ends = {"ci_low": measured["effect_ci_low"], "ci_high": measured["effect_ci_high"]}
    measured = measured.assign(model=measured["model"] + pd.Series(seeds, measured.index, dtype=str), **ends)
    words = printed["model"].map(lambda model: verdict if model == OVER_MODELS else "")
    table = pd.concat([printed.assign(group=PAPER, verdict=words), measured], ignore_index=True)
    table = table[["group", "model", "effect", "ci_low", "ci_high", "verdict"]]
    if table.empty:
        return None
    again = table["model"].duplicated(keep=False) & table["group"].eq(OWN)
    table["model"] = table["model"].mask(again, table["model"] + ", yours")
    figure = forest(
        table.replace([math.inf, -math.inf], math.nan),  # of a damaged or foreign ledger
        "model",
        hue="group",
        words="verdict",
        unit=unit,
        x_label=f"value minus control ({unit})",
        smallest_effect=entry["smallest_effect"],
        title=f"{entry['id']}: {entry['statement']}",
    )
    source, width = b64encode(image(figure, "svg")).decode(), round(figure.get_figwidth() * 96)
    return {"src": source, "alt": figure.alt_text, "caption": figure.caption, "width": width}


def _runs(rows: pd.DataFrame) -> list[dict]:
    """How it was run: one line per chapter or grid, model and seed, of the rows that say so."""
    table = rows.groupby(RUN, sort=False, dropna=False).agg(
        seconds=("seconds", "max"), rows=("status", "size"), created=("created", "max")
    )
    return table.reset_index().to_dict("records")


def claims_view(claims: pd.DataFrame, title: str) -> Table:
    """`rimkit.ledger.claims_table` for the terminal, a line per claim, model and seed."""
    view = Table(title=title, title_justify="left", caption_justify="left", expand=False)
    view.caption = "Effect: value minus control, with 95% interval. Verdicts are computed from it and its p value."
    for heading in ("claim", "statement", "model", "seed", "effect", "control", "paper", "verdict", "excludes paper?"):
        view.add_column(heading, no_wrap=heading not in ("statement", "control", "paper"))
    once = claims["claim"].duplicated()  # what a claim says stands in its first line alone
    for item, again in zip(claims.to_dict("records"), once, strict=True):
        paper = f"{item['paper_number']} ({item['paper_location']})"
        claim, statement, paper = ("", "", "") if again else (item["claim"], item["statement"], paper)
        seed, control = _text(item["seed"]), _text(item["control"])
        cells = claim, statement, _text(item["model"]), seed, effect_text(item), control, paper
        word = f"[{STYLES[item['verdict']]}]{item['verdict']}[/]"
        view.add_row(*map(escape, cells), word, _excludes(item["excludes_paper"]))
    return view


def effect_text(item: Mapping) -> str:
    """``"+12.3 (+4.5 to +20.1) points"`` for shares, else plain numbers; "" without an interval."""
    metric, numbers = item["metric"], [item[name] for name in EFFECT]
    if any(map(missing, numbers)):
        return ""
    scale, digits, unit = (100, 1, "points") if metric in RATES else (1, 2, metric.replace("_", " "))
    effect, low, high = (number(scale * value, digits, signed=True) for value in numbers)
    return f"{effect} ({low} to {high}) {unit}"


def _value(value: float, metric: str) -> str:
    return "" if missing(value) else f"{percent(value, 1)}%" if metric in RATES else number(value)


def _text(value) -> str:
    return "" if missing(value) else str(value)
