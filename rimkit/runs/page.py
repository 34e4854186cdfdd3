"""The claims page: one HTML file that needs nothing else, from the ledger of a run, the shipped rows and the paper.

The claims and what the measurements say about them, for the terminal.
"""

from __future__ import annotations

import platform
import warnings
from base64 import b64encode
from datetime import UTC, datetime
from errno import EISDIR
from pathlib import Path

import pandas as pd
from rich.markup import escape
from rich.table import Table

from rimkit import __version__, ledger
from rimkit.data import UserError
from rimkit.paper.findings import findings
from rimkit.paper.reanalysis import OVER_MODELS, after_correction, effects, reanalysis
from rimkit.teaching.figures import forest, svg

# -- runs.page ----------
NAME = "claims.html"
SYMBOLS = {"supported": "✓", "contradicted": "✗", "no effect": "=", "undecided": "?", "not reported": "–"}
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


def write_page(own: pd.DataFrame, path: str | Path, notes: list[str] | tuple[str, ...] = ()) -> Path:
    """Write the claims page of a run's ledger rows; ``notes`` are lines about what could not be shown.

    The file appears whole or not at all. Raises `UserError` where it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():  # said before the figures are drawn, which takes seconds
            raise IsADirectoryError(EISDIR, "it is a folder")
        partial.write_text(page(own, notes), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
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


def page(own: pd.DataFrame, notes: list[str] | tuple[str, ...] = ()) -> str:
    """The claims page as HTML: every claim with the paper, the re-analysis, the shipped rows and ``own`` rows.

    All text that comes from rows is escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("rimkit.runs", "")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shipped = ledger.shipped()
    return jinja.get_template("page.html.j2").render(
        families=_families(own, shipped),
        symbols=SYMBOLS,
        notes=list(notes),
        correction=after_correction(),
        runs=_runs({OWN: own, SHIPPED: shipped}),
        failed=[
            {name: _text(item[name]) for name in ("chapter", "model", "error")}
            for item in own[own["status"] == "failed"].to_dict("records")
        ],
        groups=(SHIPPED, OWN),
        version=__version__,
        python=platform.python_version(),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _families(own: pd.DataFrame, shipped: pd.DataFrame) -> list[dict]:
    known = ledger.claims()
    judged = pd.concat(
        [ledger.claims_table(frame).assign(group=group) for group, frame in ((SHIPPED, shipped), (OWN, own))]
    )
    paper = effects()
    table = reanalysis().set_index("claim")
    says = findings()
    found = []
    for family, entries in known.groupby("claim", sort=False):
        claims = [
            _claim(entry, judged[judged["claim"] == entry["id"]], paper[paper["claim"] == entry["id"]],
                   table.loc[entry["id"]], says[entry["id"]], own[own["claim"] == entry["id"]])
            for entry in entries.to_dict("records")
        ]  # fmt: skip
        found.append({"id": family, "title": FAMILIES.get(family, family), "claims": claims})
    return found


def _claim(entry: dict, judged: pd.DataFrame, paper: pd.DataFrame, over_models, says: str, own: pd.DataFrame) -> dict:
    """All that the page says about one claim."""
    metric = entry["primary_metric"]
    scale, unit = _unit(metric)
    lines = [_line(item, metric) for item in judged.to_dict("records")]
    counts = {group: _tally([line["verdict"] for line in lines if line["group"] == group]) for group in (SHIPPED, OWN)}
    word = over_models["verdict"] if isinstance(over_models["verdict"], str) else "not reported"
    return {
        **entry,
        "unit": unit,
        "smallest": f"{scale * entry['smallest_effect']:g} {unit}",
        "finding": says,
        "paper_verdict": word,
        "paper_effect": _effect(over_models, metric) if word in ledger.VERDICTS else "",
        "n_models": int(over_models["n_models"]),
        "lines": lines,
        "counts": counts,
        "figure": _figure(entry, judged, paper, word),
        "details": [_detail(item) for item in own[own["condition"] != ledger.WHOLE_CLAIM].to_dict("records")],
    }


def _figure(entry: dict, judged: pd.DataFrame, paper: pd.DataFrame, word: str) -> dict | None:
    columns = ["group", "label", "effect", "ci_low", "ci_high", "verdict"]
    printed = paper.assign(group=PAPER, label=paper["model"], verdict="")
    printed.loc[printed["model"] == OVER_MODELS, "verdict"] = word
    measured = _with_effect(judged).assign(label=[_name(item) for item in judged.itertuples()])
    table = pd.concat([part[columns] for part in (printed, measured) if len(part)] or [pd.DataFrame(columns=columns)])
    if table.empty:
        return None
    again = table["label"].duplicated(keep=False) & table["group"].eq(OWN)
    table["label"] = table["label"].where(~again, table["label"] + ", yours")
    _, unit = _unit(entry["primary_metric"])
    figure = forest(
        table, "label", hue="group", words="verdict", unit=unit, x_label=f"value minus control ({unit})",
        smallest_effect=entry["smallest_effect"], title=f"{entry['id']}: {entry['statement']}",
    )  # fmt: skip
    return {"src": b64encode(svg(figure)).decode(), "alt": figure.alt_text, "caption": figure.caption,
            "width": round(figure.get_figwidth() * 96)}  # fmt: skip


def _with_effect(table: pd.DataFrame) -> pd.DataFrame:
    """The interval of the effect as ``ci_low, ci_high``."""
    return table.assign(ci_low=table["effect_ci_low"], ci_high=table["effect_ci_high"])


def _line(item: dict, metric: str) -> dict:
    p_value = item["p_adjusted"]
    return {
        "group": item["group"],
        "model": item["model"],
        "seed": "" if pd.isna(item["seed"]) else int(item["seed"]),
        "value": _number(item["value"], metric),
        "control": f"{_text(item['control'])} {_number(item['control_value'], metric)}".strip(),
        "effect": _effect(item, metric),
        "n": _text(item["n"]),
        "p": "" if pd.isna(p_value) else "below 0.001" if p_value < 0.001 else f"{p_value:.3f}",
        "verdict": item["verdict"],
    }


def _detail(item: dict) -> dict:
    value = _number(item["value"], item["metric"])
    bounds = [_number(item[name], item["metric"]) for name in ("ci_low", "ci_high")]
    interval = f"{value} ({bounds[0]} to {bounds[1]})" if all(bounds) else value
    return {name: _text(item[name]) for name in ("model", "seed", "mode", "condition", "metric", "n")} | {
        "value": interval
    }


def _effect(item, metric: str) -> str:
    low = item["effect_ci_low"] if "effect_ci_low" in item else item["ci_low"]
    high = item["effect_ci_high"] if "effect_ci_high" in item else item["ci_high"]
    if pd.isna(low) or pd.isna(high):
        return ""
    return effect_text(pd.Series({"metric": metric, "effect": item["effect"], "effect_ci_low": low,
                                  "effect_ci_high": high})).replace("-", "−")  # fmt: skip


def _number(value, metric: str) -> str:
    if value is None or pd.isna(value):
        return ""
    return f"{100 * value:.1f}%" if metric in RATES else f"{value:.2f}"


def _unit(metric: str) -> tuple[float, str]:
    return (100, "points") if metric in RATES else (1, metric.replace("_", " "))


def _name(item) -> str:
    return item.model if pd.isna(item.seed) else f"{item.model}, seed {int(item.seed)}"


def _tally(verdicts: list[str]) -> list[tuple[str, int]]:
    return [(word, verdicts.count(word)) for word in ledger.VERDICTS if word in verdicts]


def _text(value) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def _runs(frames: dict[str, pd.DataFrame]) -> list[dict]:
    """How it was run: one line per chapter or grid, model and seed, of the rows that say so."""
    keys = [
        "group",
        "chapter",
        "run_id",
        "model",
        "seed",
        "prompts",
        "judge",
        "max_new_tokens",
        "device",
        "rimkit_version",
    ]
    every = pd.concat([frame.assign(group=group) for group, frame in frames.items()])
    table = every.groupby(keys, sort=False, dropna=False).agg(
        seconds=("seconds", "max"), rows=("status", "size"), created=("created", "max")
    )
    return [{name: _text(value) for name, value in item.items()} for item in table.reset_index().to_dict("records")]


# -- runs.report ----------
RATES = ("misaligned", "refused", "misread", "coherent", "score")
STYLES = {"supported": "green", "contradicted": "red", "no effect": "yellow", "undecided": "dim"}


def claims_view(claims: pd.DataFrame, title: str) -> Table:
    """The table of `rimkit.ledger.claims_table`, a line per claim, model and seed; rates in points."""
    view = Table(title=title, title_justify="left", caption_justify="left", expand=False)
    view.caption = "Effect: value minus control, with 95% interval. Verdicts are computed from the interval."
    for heading in ("claim", "statement", "model", "seed", "effect", "control", "paper", "verdict"):
        view.add_column(heading, no_wrap=heading in ("claim", "model", "seed", "effect", "verdict"))
    previous = None
    for item in claims.itertuples():
        first = item.claim != previous
        seed = "" if pd.isna(item.seed) else str(item.seed)
        verdict = f"[{STYLES[item.verdict]}]{item.verdict}[/]"
        texts = (item.claim, item.statement) if first else ("", "")
        paper = f"{item.paper_number} ({item.paper_location})" if first else ""
        view.add_row(*texts, escape(item.model), seed, effect_text(item), item.control, paper, verdict)
        previous = item.claim
    return view


def effect_text(item) -> str:
    """``"+12.3 [+4.5, +20.1] points"`` for rates, plain numbers for everything else."""
    scale, digits, unit = (100, 1, " points") if item.metric in RATES else (1, 2, f" {item.metric}")
    numbers = (item.effect, item.effect_ci_low, item.effect_ci_high)
    effect, low, high = (f"{scale * number:+.{digits}f}" for number in numbers)
    return f"{effect} ({low} to {high}){unit}"
