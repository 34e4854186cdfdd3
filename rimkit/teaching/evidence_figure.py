"""The figure of the claims page: all that is known about one claim, one line per model and seed."""

from __future__ import annotations

from io import BytesIO

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from rimkit.teaching.figures import MARKERS, STYLE, _bars, _colour, _levels, _named, _need

LINE, TEXT = 0.27, 0.075  # inches: height of a line, width of a letter


def evidence_plot(table: pd.DataFrame, *, title: str, unit: str, scale: float, smallest_effect: float) -> Figure:
    """Effects with intervals, one line each, grouped; the verdict of each in words at its right.

    ``table``: columns ``group, label, effect, ci_low, ci_high, verdict``; an effect without interval is drawn as a
    point alone. Numbers are multiplied by ``scale`` (100: points) and named by ``unit``; the band is what would be too
    small to matter. Laid out by hand: a page has a figure for every claim, and solving for a layout takes long.
    """
    _need(table, ["group", "label", "effect", "ci_low", "ci_high", "verdict"])
    groups, n = _levels(table, "group"), len(table)
    left = 0.25 + TEXT * table["label"].str.len().max()
    right, top, bottom = 1.15, 0.35, 0.55
    width, height = left + 4.2 + right, top + LINE * n + bottom
    numbers = scale * table[["effect", "ci_low", "ci_high"]]
    rows = pd.Series(range(n - 1, -1, -1), index=table.index)
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(width, height))
        axis = figure.add_axes((left / width, bottom / height, 4.2 / width, LINE * n / height))
        axis.axvspan(-scale * smallest_effect, scale * smallest_effect, color="0.92", zorder=0)
        axis.axvline(0, color="0.2", linewidth=1)
        for index, group in enumerate(groups):
            here = table["group"] == group
            part = numbers[here]
            look = {"fmt": MARKERS[index % 8], "color": _colour(index), "capsize": 2.5, "markersize": 5.5}
            axis.errorbar(part["effect"], rows[here], xerr=pd.DataFrame(_bars(part, "effect")).fillna(0), **look)
        reach = 1.08 * max(numbers.abs().max(axis=None), scale * smallest_effect * 1.2)
        axis.set_xlim(-reach, reach)
        axis.set_ylim(-0.6, n - 0.4)
        axis.set_yticks(rows, table["label"], fontsize=9)
        for row, word in zip(rows, table["verdict"], strict=True):
            axis.annotate(word or "", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axis.set_xlabel(f"value minus control ({unit}), 95% interval; band: too small to matter", fontsize=9)
    said = [
        f"{item.group}, {item.label}: {_say(scale * item.effect)}"
        + (f" ({_say(scale * item.ci_low)} to {_say(scale * item.ci_high)})" if pd.notna(item.ci_low) else "")
        + (f", {item.verdict}" if item.verdict else "")
        for item in table.itertuples()
    ]
    return _named(figure, title, f"Value minus control in {unit}, with 95% intervals. {'; '.join(said)}.")


def svg(figure: Figure) -> bytes:
    """The figure as SVG, sharp in print and quick to make; the same figure gives the same bytes."""
    buffer = BytesIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": figure.title}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": figure.title})
    return buffer.getvalue()


def _say(value: float) -> str:
    return f"{value:+.1f}" if abs(value) >= 5 else f"{value:+.2f}"
