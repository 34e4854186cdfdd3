"""Figures of neurons and of what predicts forgetting: lines, one set among random ones, scatter, correlations.

The same house style as `figures`: tidy table in, figure with ``title`` and ``alt_text`` out.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rimkit.teaching.figures import (
    MARKERS,
    STYLE,
    _colour,
    _frame,
    _levels,
    _named,
    _need,
    _offset,
    _part,
    _percent,
    _words,
)


def line_plot(
    table: pd.DataFrame, x: str, y: str, hue: str, *, title: str, x_label: str, y_label: str, caption: str,
    reference: str | None = None, facet: str | None = None, size: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Counts against a number, a line per ``hue``, a panel per ``facet``; ``reference`` is drawn dashed (chance)."""
    _need(table, [x, y, hue])
    panels = _levels(table, facet)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size or (2.2 + 4.2 * len(panels), 3.9), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            for index, name in enumerate(_levels(table, hue)):
                part = _part(table, {hue: name, facet: panel})
                axis.plot(part[x], part[y], marker=MARKERS[index % 8], color=_colour(index), label=str(name))
                if reference:  # the same mark, hollow: lines can be told apart without colour
                    axis.plot(part[x], part[reference], "--", color=_colour(index), alpha=0.6, linewidth=1,
                              marker=MARKERS[index % 8], markerfacecolor="white", markersize=4)  # fmt: skip
            axis.set_title("" if facet is None else str(panel))
            axis.set_yscale("symlog", linthresh=1)
            axis.set_ylim(bottom=0)
        axes[len(axes) // 2].set_xlabel(x_label)
        axes[0].set_ylabel(y_label)
        _frame(figure, title, caption)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, title=_words(hue), loc="outside right center")
    keys = [column for column in (facet, hue, x) if column is not None]
    shown = [
        f"{', '.join(f'{_words(key)} {row[key]}' for key in keys)}: {row[y]:.0f}" for row in table.to_dict("records")
    ]
    return _named(figure, title, f"{y_label} by {x_label}. {'; '.join(shown)}.")


def random_plot(
    rates: pd.DataFrame,
    facet: str,
    *,
    title: str,
    label: str = "Share of replies",
    size: tuple[float, float] | None = None,
) -> Figure:
    """One selected set among random ones: their rates as dots, the selected set and the untouched model as marks.

    ``rates``: columns ``condition`` ("selected", "nothing", "random 0", ...), ``value``, ``facet`` (a column of dots
    each).
    """
    _need(rates, ["condition", "value", facet])
    panels = _levels(rates, facet)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size or (2.4 + 1.5 * len(panels), 3.9), layout="constrained")
        axis = figure.subplots()
        for place, panel in enumerate(panels):
            part = _part(rates, {facet: panel})
            random = part[part["condition"].str.startswith("random")]["value"].to_numpy()
            jitter = np.random.default_rng(0).uniform(-0.22, 0.22, len(random))
            axis.scatter(place + jitter, random, s=16, color="0.6", alpha=0.7, label="random sets")
            for name, marker, index in (("nothing", "s", 0), ("selected", "D", 3)):
                value = part.loc[part["condition"] == name, "value"]
                axis.scatter(
                    [place] * len(value), value, marker=marker, s=70, color=_colour(index), label=name, zorder=3
                )
        axis.set_xticks(range(len(panels)), [str(panel).replace(", ", "\n") for panel in panels])
        axis.set_xlim(-0.6, len(panels) - 0.4)
        axis.set_ylim(-0.03, 1.03)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_ylabel(label)
        _frame(figure, title, "Grey: one random set each, as many neurons in every layer; square: no neuron ablated")
        handles, names = axis.get_legend_handles_labels()
        unique = dict(zip(names, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside right center")
    shown = []
    for panel in panels:
        part = _part(rates, {facet: panel}).set_index("condition")["value"]
        random = part[part.index.str.startswith("random")]
        spread = f"{_percent(random.min())} to {_percent(random.max())}%" if len(random) else "none"
        marks = ", ".join(f"{name} {_percent(part[name])}%" for name in ("nothing", "selected") if name in part)
        shown.append(f"{panel}: {marks}, random sets {spread}")
    return _named(figure, title, f"{label}. {'; '.join(shown)}.")


def scatter_plot(
    points: pd.DataFrame, x: str, y: str, facet: str, hue: str, style: str, *, title: str, x_label: str, y_label: str,
    caption: str, size: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Points with intervals (``ci_low, ci_high``), a panel per ``facet``, colour by ``hue`` and marker by ``style``."""
    _need(points, [x, y, facet, hue, style, "ci_low", "ci_high"])
    panels, kinds = _levels(points, facet), points[[hue, style]].drop_duplicates().to_numpy().tolist()
    hues, styles = _levels(points, hue), _levels(points, style)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size or (2.6 + 2.3 * len(panels), 3.9), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            for one, other in kinds:
                part = _part(points, {facet: panel, hue: one, style: other})
                bars = part[["ci_low", "ci_high"]].sub(part[y], axis=0).abs().T.to_numpy()
                axis.errorbar(
                    part[x], part[y], yerr=bars, fmt=MARKERS[styles.index(other) % 8],
                    color=_colour(hues.index(one)), markersize=5, elinewidth=0.5, alpha=0.75,
                    label=f"{one}, {_words(style)} {other}",
                )  # fmt: skip
            axis.axhline(0, color="0.2", linewidth=0.8)
            axis.set_title(str(panel))
        axes[0].set_ylabel(y_label)
        axes[len(axes) // 2].set_xlabel(x_label)
        _frame(figure, title, caption)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    shown = [
        f"{panel}: correlation as drawn {_one(_part(points, {facet: panel})[[x, y]].corr().iloc[0, 1])}"
        for panel in panels
    ]
    counts = " or ".join(str(n) for n in sorted(points[facet].value_counts().unique()))
    what = " ".join(y_label.split())
    return _named(figure, title, f"{what} against each predictor, {counts} points a panel. {'; '.join(shown)}.")


def correlation_plot(
    table: pd.DataFrame, hue: str, *, title: str, size: tuple[float, float] | None = None, x_label: str = "Correlation"
) -> Figure:
    """Correlations with intervals, one line per ``predictor``, one mark per ``hue``, between -1 and 1."""
    _need(table, ["predictor", hue, "value", "ci_low", "ci_high"])
    predictors, hues = _levels(table, "predictor"), _levels(table, hue)
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=size or (7.2, 1.4 + (0.18 + 0.1 * len(hues)) * len(predictors)), layout="constrained")
        axis = figure.subplots()
        axis.axvline(0, color="0.2", linewidth=1)
        for index, name in enumerate(hues):
            part = _part(table, {hue: name})
            at = [
                len(predictors) - 1 - predictors.index(p) - 0.66 * _offset(index, len(hues)) for p in part["predictor"]
            ]
            bars = part[["ci_low", "ci_high"]].sub(part["value"], axis=0).abs().T.to_numpy()
            axis.errorbar(
                part["value"],
                at,
                xerr=bars,
                fmt=MARKERS[index % 8],
                color=_colour(index),
                markersize=4.5,
                capsize=2,
                label=str(name),
            )
        axis.set_yticks(range(len(predictors)), predictors[::-1])
        axis.set_xlim(-1.05, 1.05)
        axis.set_xticks([-1, -0.5, 0, 0.5, 1])
        axis.set_xlabel(x_label)
        _frame(figure, title, "Bars: 95% interval, corpora drawn again as wholes")
        handles, names = axis.get_legend_handles_labels()
        figure.legend(handles, names, title=_words(hue), loc="outside right center")
    shown = [
        f"{row['predictor']}, {row[hue]}: {_one(row['value'])} ({_one(row['ci_low'])} to {_one(row['ci_high'])})"
        for row in table.to_dict("records")
    ]
    return _named(figure, title, f"{x_label} by predictor, with 95% intervals. {'; '.join(shown)}.")


def _one(value: float) -> str:
    """One decimal, and no minus before a zero."""
    return f"{value:.1f}".replace("-0.0", "0.0")
