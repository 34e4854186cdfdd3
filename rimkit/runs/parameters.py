"""The parameters of a chapter: what it declares, and whether given values fit.

A chapter declares them in its one cell tagged ``parameters``, one per line:
``n_prompts: int = 32  # prompts per condition [1..600]``. The brackets are the range.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rimkit.errors import UserError, nearest

_RANGE = re.compile(r"\[\s*(-?[\d.]+?)?\s*\.\.\s*(-?[\d.]+)?\s*\]")
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CONVERTERS = {"int": int, "float": float, "bool": lambda text: _TRUTH[text.lower()]}


@dataclass(frozen=True)
class Parameter:
    """One declared parameter: ``type`` as annotated (``int``, ``list[int]``, ``Optional[str]``)."""

    name: str
    type: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None


def declared_in(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters of a chapter by name; raises `UserError` if the notebook cannot be read."""
    from papermill import inspect_notebook

    try:
        found = inspect_notebook(str(notebook))
    except Exception as error:  # papermill, nbformat and json each have their own errors for a bad notebook
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{notebook} is not a notebook that can be run ({reason})") from error
    return {name: _parameter(**entry) for name, entry in found.items()}


def _parameter(name: str, inferred_type_name: str, default: str, help: str) -> Parameter:
    try:
        value = ast.literal_eval(default)
    except (ValueError, SyntaxError):
        value = default
    kind = type(value).__name__ if inferred_type_name == "None" else inferred_type_name
    bounds = _RANGE.search(help)
    return Parameter(name, kind, value, help, *map(_bound, bounds.groups() if bounds else (None, None)))


def _bound(text: str | None) -> float | None:
    return None if text is None else float(text)


def assignments(texts: Iterable[str], option: str = "-p", form: str = "name=value") -> dict[str, str]:
    """``["n_prompts=8"]`` as ``{"n_prompts": "8"}``; raises `UserError` for anything else."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().replace("-", "_").isidentifier():
            raise UserError(f"'{text}' is not what {option} takes: write {option} {form}")
        pairs[name.strip()] = value.strip()
    return pairs


def check(given: Mapping[str, Any], chapters: Mapping[str, Mapping[str, Parameter]]) -> dict[str, dict[str, Any]]:
    """The given values, typed, for every chapter that declares them: ``{chapter: {name: value}}``.

    Raises `UserError` for a name that no chapter declares, a wrong type and a value out of range.
    """
    known = sorted({name for parameters in chapters.values() for name in parameters} - {"model", "ledger"})
    for name in given:
        if name in ("model", "ledger"):
            raise UserError(f"'{name}' is set by {'--model' if name == 'model' else '--out'}, not with -p")
        if name not in known:
            there = ", ".join(known) or "none"
            raise UserError(f"no parameter '{name}'{nearest(name, known)}; there are: {there}")
    return {
        chapter: {name: convert(given[name], parameters[name]) for name in given if name in parameters}
        for chapter, parameters in chapters.items()
    }


def convert(value: Any, parameter: Parameter) -> Any:
    """``value`` (often text) in the type that the parameter declares, within its range."""
    kind = parameter.type.replace(" ", "")
    if optional := re.fullmatch(r"Optional\[(\w+)\]", kind):
        if value is None or str(value).lower() == "none":
            return None
        kind = optional[1]
    if items := re.fullmatch(r"[lL]ist\[(\w+)\]", kind):
        return [_scalar(item, items[1], parameter) for item in _items(value, parameter)]
    return _scalar(value, kind, parameter)


def _items(value: Any, parameter: Parameter) -> list:
    if isinstance(value, list | tuple):
        return list(value)
    try:
        parsed = json.loads(str(value))
    except json.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, list):
        raise UserError(f"{parameter.name} takes a list such as [1, 2], not '{value}'")
    return parsed


def _scalar(value: Any, kind: str, parameter: Parameter) -> Any:
    text = str(value)
    try:
        typed = _CONVERTERS.get(kind, str)(text)
    except (ValueError, KeyError):
        raise UserError(f"{parameter.name} takes {_WORDS[kind]}, not '{value}'") from None
    if kind in ("int", "float"):
        _check_range(typed, parameter)
    return typed


def _check_range(value: float, parameter: Parameter) -> None:
    low = float("-inf") if parameter.low is None else parameter.low
    high = float("inf") if parameter.high is None else parameter.high
    if not low <= value <= high:
        raise UserError(f"{parameter.name} must lie in {low:g}..{high:g}, not {value:g}")
