"""Figures of what the paper drew without a table: bars with their numbers, and before and after with implied levels.

As those of `rimkit.teaching.paper_figures`: a tidy table in, a matplotlib Figure with ``title`` and ``alt_text`` out.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from rimkit.teaching.figures import MARKERS, STYLE, _frame, _levels, _named, _need, _part
from rimkit.teaching.paper_figures import _ink, _looks_of, _number

MARKED, PLAIN = "#0173b2", "0.72"
GREY = "0.55"


def bar_plot(
    table: pd.DataFrame,
    name: str,
    value: str,
    facet: str,
    *,
    title: str,
    label: str,
    marked: Sequence[str] = (),
    notes: dict | None = None,
    panels: Sequence[str] | None = None,
) -> Figure:
    """Horizontal bars with their numbers, one panel per ``facet``, rows in the order of the table.

    ``value`` is drawn in its own unit, named by ``label`` (whole numbers as counts, others to one decimal). ``marked``
    rows are coloured and hatched; ``notes`` are put under the panels' titles by name; ``panels`` gives their order. A
    row that a panel lacks gets a dash.
    """
    _need(table, [name, value, facet])
    panels, rows, notes = panels or _levels(table, facet), _levels(table, name), notes or {}
    shown = ("{:,.0f}" if pd.api.types.is_integer_dtype(table[value]) else "{:.1f}").format
    reach = 1.2 * float(table[value].max())
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(3.6 * len(panels) + 1.6, 1.7 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            heights = _part(table, {facet: panel}).set_index(name)[value]
            for place, row in enumerate(rows):
                if row not in heights:
                    axis.annotate("–", (0.01 * reach, place), va="center", fontsize=9, color="0.45")
                    continue
                look = {"color": MARKED, "hatch": "//", "edgecolor": "white"} if row in marked else {"color": PLAIN}
                axis.barh(place, heights[row], height=0.72, **look)
                axis.annotate(shown(heights[row]), (heights[row], place), xytext=(4, 0), va="center", fontsize=9,
                              textcoords="offset points")  # fmt: skip
            axis.set_title(f"{panel}\n{notes.get(panel, '')}".strip(), fontsize=10)
            axis.set_xlim(0, reach)
            axis.set_xlabel(label)
            axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
            axis.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes[0].set_yticks(range(len(rows)), [fill(str(row), 30) for row in rows])
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        _frame(figure, title, "Read off the published figure; no interval is published. Dash: no number of its own.")
    said = [
        f"{panel}{f' ({notes[panel]})' if panel in notes else ''}: "
        + ", ".join(f"{row[name]} {shown(row[value])}" for row in _part(table, {facet: panel}).to_dict("records"))
        for panel in panels
    ]
    return _named(figure, title, f"{label}. {'; '.join(said)}.")


def before_after_plot(table: pd.DataFrame, known: pd.DataFrame, *, title: str) -> Figure:
    """Fig. 1 twice: as fractions of the larger value, and as misalignment rates in percent with known ones beside.

    ``table``: as `rimkit.published.drawn.before_after`; ``known``: as `rimkit.published.drawn.known_rates`.
    """
    _need(table, ["maths", "misalignment", "before", "after", "before_low", "before_high"])
    _need(known, ["model", "what", "low", "high"])
    with mpl.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(10.2, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(0.9, 1.3))
        for model, row in table.iterrows():
            look = {"color": _ink(_looks_of(model)), "marker": MARKERS[_looks_of(model)], "markersize": 8}
            left.plot([row["maths"], 1], [row["misalignment"], 1], color=look["color"], linewidth=1, alpha=0.6)
            left.plot(row["maths"], row["misalignment"], linestyle="", label=str(model), **look)
        left.plot(1, 1, "k*", markersize=11, linestyle="", label="after tuning, each model", clip_on=False, zorder=5)
        left.set(xlim=(0, 1.04), ylim=(0, 1.04))
        left.set(xlabel="maths accuracy (fraction of after)", ylabel="misalignment (fraction of after)")
        left.set_title("As drawn: before tuning, as a fraction of after", fontsize=10)
        left.legend(loc="lower left", fontsize=8.5)
        for place, (model, row) in enumerate(table.iterrows()):
            _levels_of(right, place, row, _ink(_looks_of(model)))
            for what, (marker, side) in KNOWN.items():
                part = known[(known["model"] == model) & (known["what"] == what)]
                for _, found in part.iterrows():
                    look = {"color": GREY, "label": what, "zorder": 1}
                    if marker is None:
                        right.plot([found["low"], found["high"]], [place + side] * 2, linewidth=5, **look)
                    else:
                        right.plot(found["low"], place + side, marker, markersize=8, markerfacecolor="none", **look)
        right.set_yticks(range(len(table)), list(table.index))
        right.set(xlim=(0, 100), ylim=(len(table) - 0.4, -0.6), xlabel="misalignment rate (%)")
        right.set_title("As rates, with the change of Table 2", fontsize=10)
        kept = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
        right.legend(kept.values(), kept, loc="upper right", fontsize=8.5)
        _frame(figure, title, "Left: read off the published figure. Right: the rates that ratio and change imply; "
                              "bars: a ratio read 0.005 wrong.")  # fmt: skip
    said = [
        f"{model}: before tuning maths {_number(row['maths'])} and misalignment {_number(row['misalignment'])} of the "
        f"value after; implied misalignment {_number(row['before'])}% ({_number(row['before_low'])} to "
        f"{_number(row['before_high'])}) before and {_number(row['after'])}% after"
        for model, row in table.iterrows()
    ]
    also = [
        f"{row['model']}, {row['what']}: {' to '.join(_number(rate) for rate in sorted({row['low'], row['high']}))}%"
        for row in known.to_dict("records")
    ]
    return _named(figure, title, f"{'; '.join(said)}. Known from elsewhere: {'; '.join(also)}.")


KNOWN = {"Table 1, think off": ("o", 0.28), "Table 1, think on": ("D", 0.28), "Fig. 8, checkpoints": (None, 0.28)}


def _levels_of(axis, place: int, row: pd.Series, colour) -> None:
    """One model's implied rate before (with its range) and after tuning, joined by an arrow."""
    before, after = row["before"], row["after"]
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", (after, place), xytext=(before, place), arrowprops=arrow)
    bars = [[before - row["before_low"]], [row["before_high"] - before]]
    axis.errorbar(before, place, xerr=bars, fmt="o", color=colour, capsize=3, markersize=5)
    middle = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 9}
    axis.annotate(f"{before:.0f} → {after:.0f}", ((before + after) / 2, place), **middle)
