"""Figures of published numbers: what the paper drew, drawn again so that single models and averages show.

Every function takes a tidy table and returns a matplotlib Figure with ``title`` and ``alt_text``, as those of
`rimkit.teaching.figures`. Colours are colour-blind safe and doubled by marker or line style.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rimkit.published.tables import MODELS
from rimkit.teaching.figures import MARKERS, STYLE, _colour, _frame, _levels, _named, _need, _offset, _part

LINES = ("-", "--", ":", "-.")
DARKER = {6: "#882255", 8: "#7f7500", 9: "#2f8fc9"}  # of the palette: pale on white as thin lines and small points


def model_plot(
    table: pd.DataFrame,
    x: str,
    value: str,
    *,
    title: str,
    label: str,
    facet: str | None = None,
    paired: bool = False,
    without: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """One point per model and condition ``x``, with the mean (bar), the median (dots) and the mean ``without`` some.

    ``table``: columns ``model``, ``x``, ``value`` (drawn in its own unit, named by ``label``) and ``facet``, one panel
    each. ``paired`` joins the points of a model; ``limits`` are those of the vertical axis. Order is that of the table.
    """
    _need(table, ["model", x, value, *([facet] if facet else [])])
    panels, places = _levels(table, facet), _levels(table, x)
    models = sorted(_levels(table, "model"), key=_looks_of)
    with mpl.rc_context(STYLE):
        width = 2.2 + len(panels) * max(1.6, 0.95 * len(places))
        figure = Figure(figsize=size or (min(11, max(6.4, width)), 4.2), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            part = _part(table, {facet: panel})
            axis.axhline(0, color="0.2", linewidth=0.8)
            for index, model in enumerate(models):
                own = part[part["model"] == model]
                at = [places.index(place) + 0.5 * _offset(index, len(models)) for place in own[x]]
                if paired:
                    axis.plot(at, own[value], color=_ink(_looks_of(model)), alpha=0.5, linewidth=1.2)
                look = {"marker": MARKERS[_looks_of(model)], "color": _ink(_looks_of(model)), "label": model}
                axis.plot(at, own[value], markersize=6, linestyle="", **look)
            for place, name in enumerate(places):
                _middles(axis, place, part[part[x] == name], value, without)
            axis.set_xticks(range(len(places)), [fill(str(name), 13, break_long_words=False) for name in places])
            axis.set_xlim(-0.55, len(places) - 0.45)
            axis.set_title("" if facet is None else str(panel))
        axes[0].set_ylabel(label)
        axes[0].set_ylim(limits)
        handles, names = _once(*axes[0].get_legend_handles_labels())
        figure.legend(handles, names, loc="outside right center", fontsize=9)
        _frame(figure, title, "One point per model, measured once; no interval is published.")
    said = [
        _words_of(part, value, without, ", ".join(str(name) for name in (panel, place) if name is not None))
        for panel in panels
        for place in places
        if len(part := _part(table, {facet: panel, x: place}))
    ]
    return _named(figure, title, f"{label}, one point per model. {' '.join(said)}")


def _middles(axis, place: int, part: pd.DataFrame, value: str, without: Sequence[str]) -> None:
    """Mean, median and the mean without some models, as horizontal marks of different styles."""
    if len(part) < 3:
        return
    rest = part[~part["model"].isin(without)][value].mean() if without else None
    left_out = f"mean without {', '.join(without)}"
    marks = [(part[value].mean(), "-", "mean"), (part[value].median(), ":", "median"), (rest, "--", left_out)]
    for height, line, name in marks:
        if height is not None:
            axis.plot([place - 0.42, place + 0.42], [height] * 2, color="black", linestyle=line, label=fill(name, 22))


def _words_of(part: pd.DataFrame, value: str, without: Sequence[str], place: str) -> str:
    values = ", ".join(f"{item['model']} {_number(item[value])}" for item in part.to_dict("records"))
    if len(part) < 3:
        return f"{place}: {values}."
    rest = part[~part["model"].isin(without)][value].mean()
    left_out = f", mean without {' and '.join(without)} {_number(rest)}" if without else ""
    middle = f"mean {_number(part[value].mean())}, median {_number(part[value].median())}{left_out}"
    return f"{place}: {middle} ({values})."


def layer_plot(
    table: pd.DataFrame,
    value: str,
    hue: str,
    facet: str,
    *,
    title: str,
    label: str,
    notes: dict | None = None,
    columns: int = 3,
) -> Figure:
    """Curves over layers, one panel per ``facet``; ``table`` has the columns ``layer``, ``hue``, ``value``.

    ``notes``, such as how many prompts stand behind the curves, are written into the panels by name.
    """
    _need(table, ["layer", hue, facet, value])
    panels, hues, notes = _levels(table, facet), _levels(table, hue), notes or {}
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * columns + 1.2, 1.3 + 2.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            for index, name in enumerate(hues):
                part = _part(table, {facet: panel, hue: name})
                look = {
                    "color": _ink(index),
                    "linestyle": LINES[index % 4],
                    "marker": MARKERS[index],
                    "markevery": 6,
                }
                axis.plot(part["layer"], part[value], label=str(name), markersize=4.5, clip_on=False, **look)
            axis.set_title(str(panel), fontsize=10)
            axis.text(0.03, 0.52, notes.get(panel, ""), transform=axis.transAxes, va="center", fontsize=8.5)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis in axes[-1]:
            axis.set_xlabel("layer")
        for axis in axes[:, 0]:
            axis.set_ylabel(fill(label, 22))
        handles, names = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=9)
        _frame(figure, title, "Points read off the published curves, one per layer; no interval is published.")
    said = [
        f"{panel}, {name}: {_number(part[value].iloc[0])} at the first layer, lowest {_number(part[value].min())}, "
        f"{_number(part[value].iloc[-1])} at the last."
        for panel in panels
        for name in hues
        if len(part := _part(table, {facet: panel, hue: name}))
    ]
    behind = [f"{panel}: {' '.join(notes[panel].split())}." for panel in panels if panel in notes]
    return _named(figure, title, f"{label} by layer. {' '.join(said + behind)}")


def scatter_plot(
    table: pd.DataFrame,
    x: str,
    y: str,
    facet: str,
    *,
    title: str,
    x_label: str,
    y_label: str,
    notes: dict | None = None,
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Points in one panel per ``facet``, each with its own axes; ``notes`` are put into the panels by name.

    ``x_limits`` and ``y_limits`` are those of every panel, where the range that was possible matters.
    """
    _need(table, [x, y, facet])
    panels, notes = _levels(table, facet), notes or {}
    with mpl.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(min(11, max(6.4, 1 + 2.7 * len(panels))), 3.7), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            part = _part(table, {facet: panel})
            look = {"marker": MARKERS[_looks_of(panel)], "color": _ink(_looks_of(panel)), "linestyle": ""}
            axis.plot(part[x], part[y], markersize=7, alpha=0.85, clip_on=False, **look)
            axis.margins(0.15)
            axis.set(xlim=x_limits, ylim=y_limits)
            axis.set_title(f"{panel}\n{notes.get(panel, '')}".strip(), fontsize=10)
            axis.set_xlabel(x_label)
            axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(8 if x_limits else 4))
        axes[0].set_ylabel(y_label)
        own = " Each panel has its own axes." if len(panels) > 1 and not (x_limits or y_limits) else ""
        _frame(figure, title, f"Points read off the published figure.{own}")
    said = [
        f"{panel}{f' ({notes[panel]})' if panel in notes else ''}: "
        + ", ".join(
            f"({_number(row[x])}, {_number(row[y])})" for row in _part(table, {facet: panel}).to_dict("records")
        )
        for panel in panels
    ]
    return _named(figure, title, f"{y_label} against {x_label}. {'; '.join(said)}.")


def power_plot(table: pd.DataFrame, hue: str, *, title: str, had: int | None = None) -> Figure:
    """Power against prompts per condition (logarithmic), a line per ``hue``; columns ``prompts, power``.

    ``had`` marks the number of prompts of the study with a vertical line.
    """
    _need(table, ["prompts", "power", hue])
    with mpl.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(8.4, 4.0), layout="constrained")
        axis = figure.subplots()
        axis.axhline(0.8, color="0.4", linewidth=0.8, linestyle="--")
        if had:
            axis.axvline(had, color="0.4", linewidth=0.8)
            axis.annotate(f"{had} prompts", (had, 0.02), xytext=(4, 0), textcoords="offset points", fontsize=9)
        for index, name in enumerate(_levels(table, hue)):
            part = _part(table, {hue: name})
            look = {"color": _ink(index), "linestyle": LINES[index % 4], "marker": MARKERS[index % 8]}
            axis.plot(part["prompts"], part["power"], label=fill(str(name), 30), markersize=5, markevery=4, **look)
        axis.set_xscale("log")
        axis.set_ylim(0, 1.02)
        axis.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axis.set_xlabel("prompts per condition")
        axis.set_ylabel("power")
        figure.legend(loc="outside right center", fontsize=9)
        _frame(figure, title, "Chance of an interval that excludes zero if the published rates were true; dashed: 80%.")
    said = [
        f"{name}: " + ", ".join(f"{power:.0%} with {n:,}" for n, power in _some(_part(table, {hue: name})))
        for name in _levels(table, hue)
    ]
    return _named(figure, title, f"Power by prompts per condition. {'; '.join(said)}.")


def _ink(index: int):
    """The palette's colour, or a darker one where the palette's own is too pale to read."""
    return DARKER.get(index % 10, _colour(index))


def _looks_of(model: str) -> int:
    """The same colour and marker for a model in every figure."""
    return MODELS.index(model) if model in MODELS else 0


def _some(part: pd.DataFrame, n: int = 4) -> list[tuple[int, float]]:
    chosen = part.iloc[np.linspace(0, len(part) - 1, n).round().astype(int)]
    return list(zip(chosen["prompts"].astype(int), chosen["power"], strict=True))


def _once(handles: list, names: list) -> tuple[list, list]:
    kept = dict(zip(names, handles, strict=True))
    return list(kept.values()), list(kept)


def _number(value: float) -> str:
    """Few digits, a true minus sign, no minus zero."""
    text = f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}".removesuffix(".0")
    return "0" if text in ("-0", "-0.0") else text.replace("-", "−")
