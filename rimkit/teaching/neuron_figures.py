"""Figures of chapter 06: rates by number of neurons, a panel per rule, and effects of every trained model side by side.

The same house style as `figures`: tidy table in, figure with ``title`` and ``alt_text`` out. A hollow mark is a set
that breaks the model.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from rimkit.teaching.figures import MARKERS, STYLE, _bars, _colour, _frame, _levels, _named, _need, _part, _words

HOLLOW = "hollow: breaks the model (over 10 points of coherence lost, or misread gained)"
DASHES = ("-", "--", ":", "-.")


def dose_panels(
    table: pd.DataFrame,
    hue: str,
    *,
    title: str,
    label: str,
    row: str | None = None,
    line: str | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Rates by number of neurons set to zero: a column of panels per ``rule``, a row per ``row``, a line per ``hue``.

    ``table``: columns ``rule, size, value, breaks``; with ``ci_low, ci_high`` and no ``line`` the intervals are drawn.
    ``line`` (a seed) tells lines of one ``hue`` apart by their dashes.
    """
    _need(table, ["rule", "size", "value", "breaks", hue])
    rules, rows = _levels(table, "rule"), _levels(table, row)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size or (2.0 + 2.35 * len(rules), 1.2 + 2.4 * len(rows)), layout="constrained")
        axes = figure.subplots(len(rows), len(rules), sharex=True, sharey=True, squeeze=False)
        for up, name in enumerate(rows):
            for along, rule in enumerate(rules):
                axis, part = axes[up, along], _part(table, {"rule": rule, row: name})
                for index, colour in enumerate(_levels(table, hue)):
                    for dash, one in enumerate(_levels(table, line)):
                        _dose(axis, _part(part, {hue: colour, line: one}), index, dash, line is None)
                axis.set_title(f"{rule}" if row is None else f"{rule}, {name}", fontsize=10)
                axis.set_ylim(-0.04, 1.04)
            axes[up, 0].set_ylabel(label)
            axes[up, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for axis in axes[-1]:
            axis.set_xlabel("Neurons set to zero", fontsize=9)
        bars = "bars: 95% interval; " if line is None else ""
        _frame(figure, title, f"Points: rate; {bars}{HOLLOW}")
        figure.legend(handles=_keys(table, hue, line), loc="outside right center", fontsize=9)
    by = [column for column in ("rule", row, hue, line) if column is not None]
    shown = [
        f"{', '.join(str(key) for key in keys)}: "
        + ", ".join(
            f"{item.size} {100 * item.value:.0f}%{' (breaks)' if item.breaks else ''}" for item in part.itertuples()
        )
        for keys, part in ((key if isinstance(key, tuple) else (key,), p) for key, p in table.groupby(by, sort=False))
    ]
    return _named(figure, title, f"{label} by neurons set to zero. {'; '.join(shown)}.")


def _dose(axis, part: pd.DataFrame, index: int, dash: int, bars: bool) -> None:
    part, colour = part.sort_values("size"), _colour(index)
    at = part["size"] + (1.2 * (index - 0.5) if bars else 0)  # so that no bar hides another
    axis.plot(at, part["value"], DASHES[dash % 4], alpha=0.8, color=colour, linewidth=1.2)
    if bars and "ci_low" in part:
        look = {"fmt": "none", "capsize": 2, "elinewidth": 0.9, "ecolor": colour}
        axis.errorbar(at, part["value"], yerr=_bars(part, "value"), **look)
    faces = ["white" if breaks else colour for breaks in part["breaks"]]
    axis.scatter(at, part["value"], marker=MARKERS[index % 8], s=26, c=faces, edgecolors=[colour], zorder=3)


def _keys(table: pd.DataFrame, hue: str, line: str | None) -> list[Line2D]:
    keys = [
        Line2D([], [], color=_colour(index), marker=MARKERS[index % 8], label=str(name))
        for index, name in enumerate(_levels(table, hue))
    ]
    if line is None:
        return keys
    return keys + [
        Line2D([], [], color="0.3", linestyle=DASHES[index % 4], label=f"{_words(line)} {name}")
        for index, name in enumerate(_levels(table, line))
    ]


def effect_panels(
    effects: pd.DataFrame,
    panels: Mapping[str, str],
    *,
    title: str,
    caption: str,
    smallest_effect: float = 0.05,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Effects with intervals, a line per ``organism``, a panel per key of ``panels`` (value: how to read its axis).

    ``effects``: columns ``panel, organism, which`` (marked by shape and colour), ``effect, ci_low, ci_high, breaks``.
    """
    _need(effects, ["panel", "organism", "which", "effect", "ci_low", "ci_high", "breaks"])
    organisms, kinds = _levels(effects, "organism"), _levels(effects, "which")
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=size or (2.4 + 2.15 * len(panels), 1.9 + 0.34 * len(organisms)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axis, (panel, reading) in zip(axes, panels.items(), strict=True):
            axis.axvspan(-100 * smallest_effect, 100 * smallest_effect, color="0.93", zorder=0)
            axis.axvline(0, color="0.2", linewidth=0.9)
            for index, which in enumerate(kinds):
                part = _part(effects, {"panel": panel, "which": which})
                at = [len(organisms) - 1 - organisms.index(o) + 0.17 - 0.34 * index for o in part["organism"]]
                _effects(axis, part, at, index)
            axis.set_title(panel, fontsize=10)
            axis.set_xlabel(f"points\n{reading}", fontsize=9)
        axes[0].set_yticks(range(len(organisms)), organisms[::-1])
        axes[0].set_ylim(-0.6, len(organisms) - 0.4)
        _frame(figure, title, f"{caption}; grey: under {100 * smallest_effect:.0f} points; {HOLLOW}")
        keys = [
            Line2D([], [], color=_colour(3 * index), marker="oD"[index % 2], linestyle="", label=which)
            for index, which in enumerate(kinds)
        ]
        figure.legend(handles=keys, loc="outside upper right", ncols=2, fontsize=9)
    shown = [
        f"{e.panel}, {e.organism}, {e.which}: {points(e.effect)} ({points(e.ci_low)} to {points(e.ci_high)})"
        f"{' breaks' if e.breaks else ''}"
        for e in effects[effects["panel"].isin(panels)].itertuples()
    ]
    return _named(figure, title, f"Effects in percentage points, with 95% intervals. {'; '.join(shown)}.")


def _effects(axis, part: pd.DataFrame, at: list[float], index: int) -> None:
    values = 100 * part[["effect", "ci_low", "ci_high"]]
    colour = _colour(3 * index)
    axis.errorbar(
        values["effect"], at, xerr=_bars(values, "effect"), fmt="none", ecolor=colour, elinewidth=1, capsize=2
    )
    faces = ["white" if breaks else colour for breaks in part["breaks"]]
    axis.scatter(values["effect"], at, marker="oD"[index % 2], s=30, c=faces, edgecolors=[colour], zorder=3)


def points(value: float) -> str:
    """A fraction in points with its sign; one decimal where whole points would hide it."""
    number = 100 * value
    text = f"{number:+.1f}" if 0.05 <= abs(number) < 0.5 else f"{number:+.0f}"
    return "0" if text in ("+0", "-0") else text.replace("-", "−")
