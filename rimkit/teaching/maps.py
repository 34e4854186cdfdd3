"""Heat maps of a model's inside: layers against heads, or against places in the conversation.

As in `figures`: tidy table in, figure with ``title`` and ``alt_text`` out.
"""

from __future__ import annotations

from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rimkit.errors import UserError
from rimkit.teaching import figures


def heat_maps(
    table: pd.DataFrame,
    rows: str,
    columns: str,
    value: str,
    facet: str | None = None,
    *,
    title: str,
    label: str,
    limits: tuple[float, float] | None = None,
    centre: float | None = None,
    digits: int = 2,
    size: tuple[float, float] | None = None,
) -> Figure:
    """One map per level of ``facet``, the number printed in every cell; order is that of the table.

    ``centre``: the value that means nothing (0 for an effect, 0.5 for an area under the curve); the colours then
    diverge from it and reach equally far to both sides. ``limits`` fixes the ends of the colour scale. Missing
    cells stay empty. ``label`` says what a cell is.
    """
    figures._need(table, [rows, columns, value, *([facet] if facet else [])])
    panels = figures._levels(table, facet)
    grids = [_grid(figures._part(table, {facet: panel}), rows, columns, value) for panel in panels]
    low, high = limits or _reach(table[value], centre)
    palette = sns.color_palette("vlag" if centre is not None else "crest", as_cmap=True)
    widths = [grid.shape[1] for grid in grids]
    figsize = size or (min(13, 1.6 + 0.62 * sum(widths)), 1.7 + 0.36 * max(len(grid) for grid in grids))
    with mpl.rc_context(figures.STYLE | {"axes.grid": False}):
        figure = Figure(figsize=figsize, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
        for axis, panel, grid in zip(axes, panels, grids, strict=True):
            sns.heatmap(
                grid, ax=axis, cmap=palette, vmin=low, vmax=high, cbar=axis is axes[-1], linewidths=0.5,
                annot=grid.map(lambda x: "" if pd.isna(x) else _short(x, digits)), fmt="",
                annot_kws={"fontsize": 8}, cbar_kws={"label": label, "shrink": 0.9},
            )  # fmt: skip
            axis.set_title("" if panel is None else str(panel))
            axis.set_xlabel(figures._words(columns))
            axis.set_ylabel(figures._words(rows) if axis is axes[0] else "")
            axis.invert_yaxis()  # later layers above earlier ones
            axis.set_xticklabels(
                [fill(figures._words(text), 9, break_long_words=False) for text in grid.columns],
                rotation=90 if max(len(str(text)) for text in grid.columns) > 3 else 0, fontsize=9,
            )  # fmt: skip
            axis.tick_params(axis="y", rotation=0)
        figures._frame(figure, title, f"Cells: {label}.")
    return figures._named(figure, title, _in_words(grids, panels, rows, columns, label, digits))


def _grid(part: pd.DataFrame, rows: str, columns: str, value: str) -> pd.DataFrame:
    if part.duplicated([rows, columns]).any():
        raise UserError(f"several values for one cell: {rows} and {columns} do not tell them apart; filter")
    return part.pivot_table(index=rows, columns=columns, values=value, sort=False, aggfunc="first")


def _reach(values: pd.Series, centre: float | None) -> tuple[float, float]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if centre is None:
        return low, high
    far = max(abs(low - centre), abs(high - centre)) or 1.0
    return centre - far, centre + far


def _short(number: float, digits: int) -> str:
    """Few digits, no leading zero, no minus before a zero: cells are small."""
    text = f"{number:.{digits}f}"
    text = text.replace("-", "−") if float(text) else text.replace("-", "")
    return text.replace("0.", ".", 1) if text.lstrip("−").startswith("0.") else text


def _in_words(grids: list[pd.DataFrame], panels: list, rows: str, columns: str, label: str, digits: int) -> str:
    """Highest and lowest cell of every panel: a map read aloud cell by cell helps nobody."""
    said = []
    for grid, panel in zip(grids, panels, strict=True):
        cells = grid.stack().dropna()
        ends = [("highest", cells.idxmax(), cells.max()), ("lowest", cells.idxmin(), cells.min())]
        spots = [
            f"{what} {number:.{digits}f} at {figures._words(rows)} {place[0]}, {figures._words(columns)} {place[1]}"
            for what, place, number in ends
        ]
        said.append(f"{'' if panel is None else f'{panel}: '}{'; '.join(spots)}")
    return f"{label} by {figures._words(rows)} and {figures._words(columns)}. {'. '.join(said)}."
