"""The claims and what the measurements say about them: a page of its own, and a table to print.

It joins the rows of runs, the shipped rows and the paper's own numbers; verdicts are the ledger's,
effects of the paper those of the re-analysis. How it looks is in the folder ``claims_page``.
"""

import gzip
import math
import platform
import warnings
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from textwrap import wrap

import pandas as pd
from IPython.display import HTML
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator

from rimkit import __version__, ledger
from rimkit.behavior.stats import METRICS
from rimkit.data import UserError, data_dir, missing, number, p_value, percent, results, rows_of, shipped_tables, whole
from rimkit.models.hub import without_weights
from rimkit.paper.findings import NOTHING, findings
from rimkit.paper.reanalysis import OVER_MODELS, after_correction, effects, reanalysis
from rimkit.teaching.tables import effect_text, effect_writer, table, unit_of

NAME = "claims.html"
PICTURE = data_dir() / "results" / "claims-page.webp"  # of the page of smollm2-rim, by a browser
Runs = Mapping[str, pd.DataFrame] | pd.DataFrame
NOT_REPORTED = "not reported"
SHIPPED, OWN, PAPER = "Shipped rows", "This run", "The paper’s models"
ENDS = "effect", "effect_ci_low", "effect_ci_high"
RUN = ["group", "chapter", "run_id", "model", "seed", "prompts", "judge", "device", "rimkit_version"]
OF_RUNS = {"seconds": ("seconds", "max"), "rows": ("status", "size"), "created": ("created", "max")}


def write_page(runs: Runs, path: str | Path, notes: Sequence[str] = (), book: Sequence[str] = ()) -> Path:
    """Write the claims page of `page` to a file, which appears whole or not at all."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path} (it is a folder)")
    with whole(path) as partial:
        partial.write_text(page(runs, notes, book), encoding="utf-8")
    return path


def picture() -> HTML:
    """`PICTURE` for a notebook, with its sentence."""
    rows = results("bridge").query("model == 'smollm2-rim'")
    words = ledger.claims_table(rows)["verdict"].value_counts(sort=False)
    counts = ", ".join(f"{n} {word}" for word, n in words.items())
    alt = f"The top of the claims page of smollm2-rim, with its claims ({counts}) and the first answers."
    source = f"data:image/webp;base64,{b64encode(PICTURE.read_bytes()).decode()}"
    return HTML(f'<img alt="{alt}" width="700" style="max-width:100%" src="{source}">')


def own_rows(folder: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a run, and a line each about what could not be read or is not there."""
    folder = Path(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = ledger.read(folder)
    notes = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    for notebook in sorted(folder.glob("[0-9]*.ipynb")):
        if not (rows := rows_of(notebook)).exists():
            notes.append(f"{notebook.name} was run, but its rows ledger/{rows.name} are missing")
    if found.empty and not notes and not any(folder.rglob("*.parquet")):
        notes.append(f"no rows in {folder.name or folder}: the paper and the shipped rows are shown alone")
    return found, notes


def page(runs: Runs, notes: Sequence[str] = (), book: Sequence[str] = ()) -> str:
    """The claims page of runs, or of one's rows; ``book``: chapters of the book that it is in."""
    runs = {OWN: runs} if isinstance(runs, pd.DataFrame) else runs
    look = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    loader = PackageLoader("rimkit.runs", "claims_page")
    jinja = Environment(loader=loader, finalize=lambda value: "" if missing(value) else value, **look)
    css, script = (loader.get_source(jinja, f"page.{kind}")[0] for kind in ("css", "js"))
    told = {"css": css, "script": script, "hash": b64encode(sha256(script.encode()).digest()).decode()}
    groups = {name if len(runs) > 1 else OWN: rows for name, rows in runs.items()}
    groups[SHIPPED] = ledger.shipped(adapters=True)
    rows = pd.concat([part.assign(group=group) for group, part in groups.items()], ignore_index=True)
    judged = pd.concat([ledger.claims_table(part).assign(group=group) for group, part in groups.items()])
    own, claims = rows[rows["group"] != SHIPPED], _claims(judged)
    told |= {"claims": claims, "groups": list(groups), "paper": PAPER, "over_models": OVER_MODELS}
    told |= {"failed": own[own["status"] == "failed"].to_dict("records"), "empty": groups.keys() - set(judged["group"])}
    told |= {"studied": _trained(own), "trained": {group: _trained(part) for group, part in groups.items()}}
    told |= {"titles": pd.read_csv(data_dir() / "claim_headings.csv", index_col="claim")["title"]}
    told |= {"known": pd.read_csv(data_dir() / "controls.csv", index_col="claim")["text"]}
    told |= {"ranked": {"C5": results("planted-heads"), "C8": results("planted-recovery")}}
    told |= {"roles": roles(), "without_weights": without_weights(), "tally": tally}
    told |= {"no_claim": no_claim(), "names": list(runs), "notes": notes, "nothing": NOTHING}
    told |= {"verdicts": ledger.VERDICTS, "models": sorted(judged["model"].unique()), "book": book}
    from rimkit.runs import audit  # which brings torch, and is not needed to print

    told["audit"] = table(audit.summary(results("audit")).drop(columns="settings"), percent=True).replace("–", "")
    told |= {"correction": after_correction(), "shipped": judged[judged["group"] == SHIPPED]}
    told["runs"] = rows.groupby(RUN, sort=False, dropna=False).agg(**OF_RUNS).reset_index().to_dict("records")
    shown = _download("rows.csv", f"{len(rows)} verdict rows of this page", rows.to_csv(index=False).encode())
    told |= {"downloads": [shown, *_verdict_tables()], "now": datetime.now(UTC), "python": platform.python_version()}
    return jinja.get_template("page.html.j2").render(**told, version=__version__)


@cache
def _verdict_tables() -> list[dict]:
    """The shipped verdicts on single prompts, packed, to be downloaded."""
    found = []
    for name in sorted(name for name in shipped_tables("results") if name.endswith("-judged")):
        verdicts = results(name)
        flags = dict.fromkeys(verdicts.select_dtypes(["bool", "boolean"]), "Int8")
        packed = gzip.compress(verdicts.astype(flags).to_csv(index=False).encode(), mtime=0)
        found.append(_download(f"{name}.csv.gz", f"{len(verdicts):,} verdicts on single prompts, as shipped", packed))
    return found


def _download(name: str, what: str, content: bytes) -> dict:
    kind = "application/gzip" if name.endswith("gz") else "text/csv"
    source = f"data:{kind};base64,{b64encode(content).decode()}"
    return {"name": name, "what": what, "source": source, "size": f"{len(content) / 1000:,.0f} kB"}


def _trained(rows: pd.DataFrame) -> list[str]:
    """The models about which rows make claims, each with its training seed: "rim-mini:1"."""
    known = rows[rows["claim"].notna()]
    return list((known["model"] + (":" + known["seed"].astype("string")).fillna("")).unique())


def _claims(judged: pd.DataFrame) -> dict[str, dict]:
    """All that the page says about every claim, by its id."""
    paper, over_models, says = effects(), reanalysis().set_index("claim"), findings()
    found = {}
    for entry in ledger.claims().to_dict("records"):
        claim = entry["id"]
        measured, printed = (table[table["claim"] == claim] for table in (judged, paper))
        found[claim] = {"finding": says[claim], **_claim(entry, measured, printed, over_models.loc[claim])}
    return found


def _claim(entry: dict, measured: pd.DataFrame, printed: pd.DataFrame, over_models: pd.Series) -> dict:
    metric, mean = entry["primary_metric"], printed["model"] == OVER_MODELS
    verdict, unit = over_models["verdict"], unit_of(metric)
    printed = printed.rename(columns={"ci_low": "effect_ci_low", "ci_high": "effect_ci_high"}).assign(
        metric=metric, value=None, control_value=None, control="", seed=None, excludes_paper=None,
        verdict=mean.map({True: verdict}), p_adjusted=mean.map({True: over_models["p_adjusted"]}),
    )  # fmt: skip
    parts = {group: part.to_dict("records") for group, part in measured.groupby("group", sort=False)}
    parts |= {PAPER: printed.to_dict("records")} if len(printed) else {}
    lines = [*chain(*parts.values())]
    axis = _axis(lines, 100 if unit == "points" else 1, entry["smallest_effect"], entry["paper_effect"])
    return {
        **entry, "axis": axis, "unit": unit, "write": effect_writer(metric),
        "paper_verdict": NOT_REPORTED if missing(verdict) else verdict,
        "paper_mean": "" if missing(verdict) else effect_text({**over_models, "metric": metric}, "ci"),
        "parts": {group: [_line(item, axis) for item in part] for group, part in parts.items()},
    }  # fmt: skip


def _axis(lines: Sequence[dict], scale: int, smallest: float, paper: float) -> dict:
    """Where numbers lie on an axis that reaches equally far to both sides, in percent."""
    ends = [*(line[name] for line in lines for name in ENDS), paper, 1.5 * smallest]
    far = 1.06 * scale * max(abs(end) for end in ends if not missing(end) and math.isfinite(end))

    def place(value: float | None) -> str:
        share = math.nan if missing(value) else scale * value / far
        return f"{50 + 50 * share:.2f}%" if abs(share) <= 1 else ""  # of a damaged ledger: nowhere

    ticks = [tick for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(-far, far) if abs(tick) < 0.9 * far]
    digits = 0 if far > 4 else 1 if far > 0.2 else 2
    ticks = [(place(tick / scale), number(tick, digits, signed=True)) for tick in ticks]
    small = f"{50 * scale * smallest / far:.2f}%"
    return {"place": place, "scale": scale, "ticks": ticks, "small": small, "paper": place(paper)}


def _line(item: dict, axis: dict) -> dict:
    """A measurement with its numbers as the page shows them."""
    write = (lambda one: f"{percent(one, 1)}%") if item["metric"] in METRICS else number
    both = item["value"], item["control_value"]
    value, control = ("" if missing(one) else write(one) for one in both)
    seed = f":{item['seed']}" if _text(item["seed"]) else ""
    sides = f"{value} against {_text(item['control'])} {control}".rstrip() if value else ""
    counted = f"n\u00a0{item['n']}" if _text(item["n"]) else ""
    rare = "" if missing(item["p_adjusted"]) else f"p {p_value(item['p_adjusted'])}".replace(" ", "\u00a0")
    bare = f"{effect_writer(item['metric'])(item['effect'])} {unit_of(item['metric'])}"
    effect = effect_text(item) or ("" if missing(item["effect"]) else bare)
    places = [axis["place"](item[name]) for name in ENDS]
    details = ", ".join(filter(None, [sides, counted, rare]))
    shown = {"seed": seed, "size": item["effect"], "effect": effect, "details": details, "p": rare, "places": places}
    return item | shown


def no_claim() -> str:
    """What is said of a run whose chapters measure no claim."""
    chapters = ledger.claims()["chapter"].str.partition("_")[0].unique()
    return f"No claim was measured in this run: chapters {', '.join(sorted(chapters))} measure claims."


@cache
def roles() -> dict[str, str]:
    """What every model of the workbook is, by name; of controls this begins with "control"."""
    return dict(pd.read_csv(data_dir() / "models.csv").to_numpy())


def tally(lines: Iterable[Mapping]) -> str:
    """How many of these have each verdict, controls apart: "11 supported; control x: 2 small"."""
    found: dict[str, Counter] = {}
    for line in lines:
        control = roles().get(line["model"], "").startswith("control")
        who = f"control {line['model']}: " if control else ""
        found.setdefault(who, Counter())[line["verdict"]] += 1
    words = {who: [f"{of[word]} {word}" for word in ledger.VERDICTS if of[word]] for who, of in found.items()}
    return "; ".join(who + ", ".join(words[who]) for who in sorted(words))


def claim_lines(claims: pd.DataFrame, width: int = 80) -> list[str]:
    """`claims_table` for the terminal, no word cut; of several models under what a claim says."""
    lines, wide = [], max(map(len, claims["model"]), default=0)
    several = len(claims.drop_duplicates("claim", keep=False).drop_duplicates(["model", "seed"])) > 1
    wrapped = partial(wrap, width=max(width, 40), break_long_words=False, break_on_hyphens=False)
    means = ledger.claims().set_index("id")["paper_effect"]
    for claim, of in claims.groupby("claim", sort=False):
        says, known, metric = of.iloc[0], means[claim], of["metric"].iloc[0]
        mean = "" if missing(known) else effect_writer(metric)(known)
        paper = f"paper: {says['paper_number']}" + f": mean effect {mean} {unit_of(metric)}" * bool(mean)
        if len(of) > 1:
            lines += wrapped(f"{claim:5}{says['statement']}; {paper}", subsequent_indent=5 * " ")
        for item in of.to_dict("records"):
            who = f"{_text(item['model'])}:{_text(item['seed'])}".rstrip(":")
            who = who.ljust(wide + 3) if len(of) > 1 else who * several
            why = "" if missing(item["why_not"]) else f"({item['why_not']})"
            effect = effect_text(item).replace(", ", ",\u00a0")  # an interval stays in one line
            effect += "*" * (item["excludes_paper"] is True)
            said, indent = " ".join(filter(None, [who, effect, why])), 14
            if len(of) == 1:
                said, indent = f"{claim:5}{says['statement']}: {said}; paper {mean or says['paper_number']}", 19
            lines += wrapped(f"{item['verdict']:14}{said}", subsequent_indent=indent * " ")
    note = ["* The interval excludes the mean of the paper's own effects."]
    return lines + note * bool(claims["excludes_paper"].eq(True).any())


def _text(value) -> str:
    return "" if missing(value) else str(value)
