"""The claims and what the measurements say about them: a page of its own, and a table to print.

It joins the rows of a run, the shipped rows and the paper's own numbers; verdicts are the ledger's,
effects of the paper those of the re-analysis.
"""

import math
import platform
import warnings
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import wrap

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from rimkit import __version__, ledger
from rimkit.behavior.stats import METRICS
from rimkit.data import UserError, data_dir, missing, number, p_value, percent, results, rows_of, whole
from rimkit.paper.findings import findings
from rimkit.paper.reanalysis import OVER_MODELS, after_correction, effects, reanalysis
from rimkit.runs import audit
from rimkit.teaching.figures import forest, image
from rimkit.teaching.tables import effect_text, table, unit_of

NAME = "claims.html"
NOT_REPORTED = "not reported"
SYMBOLS = {"supported": "✓", "contradicted": "✗", "small": "~", "no effect": "=", "undecided": "?", "not testable": "∅",
           NOT_REPORTED: "–"}  # fmt: skip
SHIPPED, OWN, PAPER = "Embedded models, shipped rows", "This run", "The paper’s models"
RUN = ["group", "chapter", "run_id", "model", "seed", "prompts", "judge", "device", "rimkit_version"]
OF_RUNS = {"seconds": ("seconds", "max"), "rows": ("status", "size"), "created": ("created", "max")}


def write_page(own: pd.DataFrame, path: str | Path, notes: Sequence[str] = ()) -> Path:
    """Write the claims page of a run's ledger rows; ``notes`` say what could not be shown. The file
    appears whole or not at all. Raises `UserError` for a path that cannot be written, or is there
    and no file (a folder, a device)."""
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
    """The rows of a run, and a line each about what could not be read or is not there. Raises
    `UserError` if there is no such folder or file."""
    folder = Path(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = ledger.read(folder)
    notes = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    for notebook in sorted(folder.glob("[0-9]*.ipynb")):
        if not (rows := rows_of(notebook)).exists():
            notes.append(f"{notebook.name} was run, but its rows ledger/{rows.name} are missing")
    if found.empty and not notes:
        notes.append(f"no rows in {folder}: the paper and the shipped rows are shown alone")
    return found, notes


def page(own: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The claims page as HTML; text that comes from rows is escaped, what is missing is empty."""
    look = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True}
    look |= {"lstrip_blocks": True, "finalize": lambda value: "" if missing(value) else value}
    jinja = Environment(loader=PackageLoader("rimkit.runs", ""), **look)
    rows = pd.concat([ledger.shipped().assign(group=SHIPPED), own.assign(group=OWN)])
    python, now = platform.python_version(), datetime.now(UTC)
    told = {"notes": notes, "made": f"rimkit {__version__}, Python {python}, {now:%Y-%m-%d %H:%M UTC}"}
    told["failed"] = own[own["status"] == "failed"].to_dict("records")
    told |= {"symbols": SYMBOLS, "groups": (SHIPPED, OWN), "correction": after_correction()}
    told |= {"tested": _tested(ledger.claims_table(ledger.shipped())), "audit": _audit()}
    page = jinja.get_template("page.html.j2")
    runs = rows.groupby(RUN, sort=False, dropna=False).agg(**OF_RUNS).reset_index()
    return page.render(families=_families(rows), runs=runs.to_dict("records"), **told)


def _tested(judged: pd.DataFrame) -> str:
    """How many verdicts there are, how many not testable, how many exclude the paper."""
    untestable, excluded = judged["verdict"].eq("not testable").sum(), judged["excludes_paper"].eq(True)
    unclear = (excluded & judged["verdict"].eq("undecided")).sum()
    return (
        f"The shipped rows hold {len(judged)} verdicts, a model and seed each; {untestable} of them say not testable, "
        f"and why. {judged['excludes_paper'].notna().sum()} intervals can be held against a number of the paper’s own: "
        f"{excluded.sum()} exclude it, {unclear} of these in rows that are otherwise undecided."
    )


def _audit() -> pd.DataFrame:
    """The shipped simulations of intervals and verdicts (`rimkit audit`), in percent."""
    found = audit.summary(results("audit")).drop(columns="settings")
    return table(found, percent=True).replace("–", "")


def _families(rows: pd.DataFrame) -> list[dict]:
    parts = rows.groupby("group", sort=False)
    judged = pd.concat([ledger.claims_table(part).assign(group=group) for group, part in parts])
    paper, over_models, says = effects(), reanalysis().set_index("claim"), findings()
    titles = pd.read_csv(data_dir() / "families.csv", index_col="claim")["title"]
    found = []
    for family, entries in ledger.claims().groupby("claim", sort=False):
        claims = []
        for entry in entries.to_dict("records"):
            claim = entry["id"]
            measured, printed = (table[table["claim"] == claim] for table in (judged, paper))
            claims.append(_claim(entry, measured, printed, over_models.loc[claim], says[claim]))
        found.append({"id": family, "title": titles.get(family, family), "claims": claims})
    return found


def _claim(entry: dict, measured: pd.DataFrame, printed: pd.DataFrame, over_models: pd.Series, says: str) -> dict:
    """All that the page says about one claim."""
    verdict, unit = over_models["verdict"], unit_of(entry["primary_metric"])
    paper = effect_text({**over_models, "metric": entry["primary_metric"]}, "ci")
    parts = measured.groupby(["group", "verdict"])["excludes_paper"]
    judged = {key: (len(part), int(part.eq(True).sum())) for key, part in parts}
    return {
        **entry,
        "smallest": f"{(100 if unit == 'points' else 1) * entry['smallest_effect']:g} {unit}",
        "finding": says,
        "paper_verdict": NOT_REPORTED if missing(verdict) else verdict,
        "paper_effect": "" if missing(verdict) else paper,
        "n_models": int(over_models["n_models"]),
        "lines": [_line(item) for item in measured.to_dict("records")],
        "counts": {
            group: [(word, *judged[group, word]) for word in ledger.VERDICTS if (group, word) in judged]
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
    table = table.replace([math.inf, -math.inf], math.nan)  # of a damaged or foreign ledger
    title, x_label = f"{entry['id']}: {entry['statement']}", f"value minus control ({unit})"
    look = {"hue": "group", "words": "verdict", "unit": unit, "x_label": x_label}
    look["smallest_effect"] = entry["smallest_effect"]
    figure = forest(table, "model", title=title, **look)
    source, width = b64encode(image(figure, "svg")).decode(), round(figure.get_figwidth() * 96)
    return {"src": source, "alt": figure.alt_text, "caption": figure.caption, "width": width}


def claim_lines(claims: pd.DataFrame, width: int = 80) -> list[str]:
    """`rimkit.ledger.claims_table` for the terminal: verdict, claim, what it says, effect with 95%
    interval, why there is no verdict, and the paper's number. No word is cut."""
    several, lines = len(claims[["model", "seed"]].drop_duplicates()) > 1, []
    known = claims["claim"].duplicated()  # what a claim says stands in its first line alone
    for item, again in zip(claims.to_dict("records"), known, strict=True):
        who = f"{_text(item['model'])}:{_text(item['seed'])}".rstrip(":") if several or again else ""
        why = "" if missing(item["why_not"]) else f"({item['why_not']})"
        effect = effect_text(item).replace(", ", ",\u00a0")  # an interval stays in one line
        excludes = " (excludes the paper's number)" if item["excludes_paper"] is True else ""
        found = " ".join(filter(None, [who, effect + excludes, why]))
        paper = "" if again else f"; paper: {item['paper_number']}"
        said = f"{found}{paper}" if again else f"{item['statement']}. {found}{paper}"
        head = f"{item['verdict']:14}{item['claim']:5}"
        how = {"subsequent_indent": " " * len(head), "break_long_words": False, "break_on_hyphens": False}
        lines += wrap(head + said, max(width, 40), **how)
    return lines


def _value(value: float, metric: str) -> str:
    return "" if missing(value) else f"{percent(value, 1)}%" if metric in METRICS else number(value)


def _text(value) -> str:
    return "" if missing(value) else str(value)
