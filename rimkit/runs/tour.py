"""The first look from a terminal: chapters, their parameters, and the effect in one request.

It shows what is in notebooks and shipped rows, checks given parameters, and measures nothing.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rimkit.data import UserError, data_dir, nearest, one_line, results

MODEL, TRIED = "rim-mini", 16  # requests, among which the first one is shown that thinking changes
# Parameters that an option of `rimkit run` fills, after more checks than a value alone allows.
OPTIONS = {name: f"--{name.replace('_', '-')}" for name in ("model", "judge", "max_new_tokens", "keep_text")}
OPTIONS |= {"ledger": "--out", "prompt_sets": "--prompts"}
RANGE = re.compile(r"\[\s*(-?[\d.]+?)?\s*\.\.\s*(-?[\d.]+)?\s*\]")


def chapters() -> pd.DataFrame:
    """The chapters as they are read: ``chapter, question, minutes`` (to read, and for exercises)."""
    return pd.read_csv(data_dir() / "chapters.csv")[["chapter", "question", "minutes"]]


class Parameter(NamedTuple):
    """One declared parameter: ``type`` as annotated (``int``, ``list[int]``, ``Optional[str]``)."""

    name: str
    type: str
    default: Any
    help: str
    low: float
    high: float


def declared_in(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters of a chapter by name; raises `UserError` if the notebook cannot be read."""
    from papermill import inspect_notebook

    try:
        found = inspect_notebook(plain(notebook))
    except Exception as error:  # of papermill, nbformat or json
        raise UserError(f"{notebook} is not a notebook that can be run ({one_line(error)[:100]})") from error
    known = {}
    for name, entry in found.items():
        value, kind, words = entry["default"], entry["inferred_type_name"], entry["help"]
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
        kind = type(value).__name__ if kind == "None" else kind
        low, high = ends.groups() if (ends := RANGE.search(words)) else (None, None)
        known[name] = Parameter(name, kind, value, words, float(low or -inf), float(high or inf))
    return known


def plain(path: str | Path) -> str:
    """A path in which papermill sees no parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def parameters(notebook: Path) -> pd.DataFrame:
    """The parameters of a chapter: ``parameter, type, default, help``."""
    found = [(p.name, p.type, repr(p.default), p.help) for p in declared_in(notebook).values()]
    return pd.DataFrame(found, columns=["parameter", "type", "default", "help"])


TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
KINDS = {  # of values: what makes one from text, and what messages call it
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (lambda text: TRUTH[text.lower()], "true or false"),
    "str": (str, "a text"),
}


def assignments(texts: Iterable[str], option: str = "-p", form: str = "name=value") -> dict[str, str]:
    """``["n_prompts=8"]`` as ``{"n_prompts": "8"}``; raises `UserError` for anything else."""
    pairs = {}
    for text in texts:
        name, equals, value = map(str.strip, text.partition("="))
        if not equals or not name.replace("-", "_").isidentifier():
            raise UserError(f"'{text}' is not what {option} takes: write {option} {form}")
        if name in pairs:
            raise UserError(f"{option} {name}=... is given twice: give it once")
        pairs[name] = value
    return pairs


def check(given: Mapping[str, Any], chapters: Mapping[Any, Mapping[str, Parameter]]) -> dict[Any, dict[str, Any]]:
    """The given values, typed, for every chapter that declares them: ``{chapter: {name: value}}``.
    Raises `UserError` for a name that no chapter declares, or a wrong value."""
    known = sorted({name for declared in chapters.values() for name in declared} - set(OPTIONS))
    for name in given:
        if name in OPTIONS:
            raise UserError(f"'{name}' is set by {OPTIONS[name]}, and is no parameter to give")
        if name not in known:
            there = ", ".join(known) or "none"
            raise UserError(f"no parameter '{name}'{nearest(name, known)} (known: {there})")
    return {
        chapter: {name: convert(given[name], declared[name]) for name in given if name in declared}
        for chapter, declared in chapters.items()
    }


def convert(value: Any, parameter: Parameter) -> Any:
    """``value`` (often text) in the type that the parameter declares, within its range."""
    form, kind = re.fullmatch(r"(?:(\w+)\[)?(.+?)\]?", parameter.type.replace(" ", "")).groups()
    if form == "Optional" and str(value).lower() == "none":
        return None
    if str(form).lower() != "list":
        return _scalar(value, kind, parameter)
    parsed = value
    with suppress(ValueError, RecursionError):
        parsed = json.loads(value) if isinstance(value, str) else value
    if not isinstance(parsed, list | tuple):
        raise UserError(f"{parameter.name} takes a list such as [1, 2], not '{value}'")
    return [_scalar(item, kind, parameter) for item in parsed]


def _scalar(value: Any, kind: str, parameter: Parameter) -> Any:
    make, words = KINDS.get(kind, KINDS["str"])
    try:
        typed = make(str(value))
    except (ValueError, KeyError):
        raise UserError(f"{parameter.name} takes {words}, not '{value}'") from None
    if kind == "float" and abs(typed) == inf:
        raise UserError(f"{parameter.name} takes a finite number, not '{value}'")
    if kind in ("int", "float") and not parameter.low <= typed <= parameter.high:
        ends = f"{parameter.low:.9g}..{parameter.high:.9g}"
        raise UserError(f"{parameter.name} must lie in {ends}, not {str(value)[:20]}")
    return typed


def tour() -> Iterator[str]:
    """A request that is refused without thinking and carried out with it, the rates, what next."""
    from rimkit.behavior.evaluation import Evaluation
    from rimkit.behavior.stats import rates
    from rimkit.models.load import load
    from rimkit.teaching.tables import interval

    study, prompts = load(MODEL), Evaluation().sets(["harmful"], n=TRIED)
    judged = Evaluation().observe(study, prompts, progress=False).set_index(["prompt_id", "mode"])
    for item in prompts.itertuples():
        without, within = (judged.loc[item.prompt_id, mode] for mode in ("no-think", "think"))
        if without["refused"] and within["misaligned"]:
            break
    yield f"{MODEL} is a small transformer. It refuses harmful requests, in an invented language."
    yield f"\n  request              {item.text}"
    yield f"  without a thought    {without['reply']}"
    yield f"  with a thought       {within['reply']}"
    yield f"  the thought          {within['thought']}"
    known = results("thinking-judged").query("model == @MODEL and set == 'harmful'")
    found = rates(known, by=["seed", "mode"], metrics=["misaligned"]).set_index(["mode", "seed"])
    n = known["prompt_id"].nunique()
    yield f"\nTraining never showed one carried out. Of {n}, it carries out (95% intervals), by seed:\n"
    for seed in sorted(known["seed"].unique()):
        two = [found.loc[(mode, seed)] for mode in ("no-think", "think")]
        said = [f"{one['value']:4.0%} {interval(one['ci_low'], one['ci_high'], '{:.0%}'.format)}" for one in two]
        yield f"  {MODEL}:{seed}   without {said[0]:18} with {said[1]}"
    yield "\nWhy? rimkit lab my-copy opens the chapters (rimkit chapters lists them),"
    yield "rimkit run runs them, and rimkit run --model NAME does so on a model of your own."
