"""Figures of fine-tuning: changes by corpus, and what was expected against what came.

The same house style as `figures`: tidy table in, figure with ``title`` and ``alt_text`` out.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rimkit.teaching.figures import (
    MARKERS,
    STYLE,
    _bars,
    _caption,
    _colour,
    _frame,
    _levels,
    _named,
    _need,
    _offset,
    _part,
    _signed,
    _words,
)


def change_plot(
    effects: pd.DataFrame,
    y: str,
    hue: str,
    facet: str,
    *,
    title: str,
    smallest_effect: float | None = None,
    x_label: str = "Change in percentage points",
    size: tuple[float, float] | None = None,
) -> Figure:
    """Differences with intervals: one line per ``y``, one marker per ``hue``, one panel per ``facet``.

    ``effects``: the columns ``effect, ci_low, ci_high, n`` (fractions); ``smallest_effect`` shades what would be too
    small to matter. Order is that of the table, from top to bottom.
    """
    _need(effects, [y, hue, facet, "effect", "ci_low", "ci_high", "n"])
    panels, hues, places = (_levels(effects, column) for column in (facet, hue, y))
    reach = 1.08 * max(5.0, 100 * float(np.nanmax(np.abs(effects[["ci_low", "ci_high"]].to_numpy()))))
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        height = 1.7 + 0.16 * len(places) * max(2, len(hues))
        figure = Figure(figsize=size or (min(12, 2.6 + 3.1 * len(panels)), height), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            if smallest_effect:
                axis.axvspan(-100 * smallest_effect, 100 * smallest_effect, color="0.93", zorder=0)
            axis.axvline(0, color="0.2", linewidth=1)
            for index, name in enumerate(hues):
                part = _part(effects, {facet: panel, hue: name})
                at = [places.index(place) + 0.75 * _offset(index, len(hues)) for place in part[y]]
                points = 100 * part[["effect", "ci_low", "ci_high"]]
                look = {"fmt": MARKERS[index % 8], "color": _colour(index), "markersize": 5.5, "capsize": 2}
                axis.errorbar(points["effect"], at, xerr=_bars(points, "effect"), label=str(name), **look)
            axis.set_xlim(-reach, reach)
            axis.set_title(str(panel))
        axes[0].set_yticks(range(len(places)), [str(place) for place in places])
        axes[0].set_ylim(len(places) - 0.4, -0.6)
        axes[len(axes) // 2].set_xlabel(x_label)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, title=_words(hue), loc="outside right center")
        _frame(figure, title, _caption(effects, "Points: difference"))
    shown = [
        f"{found[facet]}, {found[y]}, {found[hue]}: {_signed(found['effect'])} "
        f"({_signed(found['ci_low'])} to {_signed(found['ci_high'])})"
        for found in effects.to_dict("records")
    ]
    return _named(figure, title, f"{x_label}, with 95% intervals. {'; '.join(shown)}.")


def agreement_plot(
    table: pd.DataFrame, x: str, y: str, hue: str, facet: str, *, title: str, x_label: str, y_label: str, caption: str
) -> Figure:
    """Two changes of the same thing against each other (fractions, drawn in points), with the line where they agree."""
    _need(table, [x, y, hue, facet])
    panels, hues = _levels(table, facet), _levels(table, hue)
    reach = 1.1 * max(5.0, 100 * float(np.nanmax(np.abs(table[[x, y]].to_numpy()))))
    with mpl.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(min(12, 2.4 + 3.2 * len(panels)), 4.3), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            axis.plot([-reach, reach], [-reach, reach], color="0.5", linewidth=1, linestyle="--")
            for zero in (axis.axhline, axis.axvline):
                zero(0, color="0.2", linewidth=0.8)
            for index, name in enumerate(hues):
                part = 100 * _part(table, {facet: panel, hue: name})[[x, y]]
                look = {"color": _colour(index), "marker": MARKERS[index % 8], "alpha": 0.75, "label": str(name)}
                axis.scatter(part[x], part[y], **look)
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), title=str(panel))
        axes[0].set_ylabel(y_label)
        axes[len(axes) // 2].set_xlabel(x_label)
        figure.legend(*axes[0].get_legend_handles_labels(), title=_words(hue), loc="outside right center")
        _frame(figure, title, caption)
    ranges = [
        f"{panel}, {name}: {x_label.lower()} {_signed(part[x].min())} to {_signed(part[x].max())}, "
        f"{y_label.lower()} {_signed(part[y].min())} to {_signed(part[y].max())}"
        for (panel, name), part in table.groupby([facet, hue], sort=False)
    ]
    return _named(figure, title, f"{len(table)} points; the dashed line is where both are equal. {'; '.join(ranges)}.")
