"""Figures: tidy table in, figure with alternative text out.

Every function takes a table of `rimkit.behavior.stats` and returns a matplotlib Figure with two attributes,
``title`` and ``alt_text`` (what the figure shows, in words, from the numbers that are drawn). Colours are
colour-blind safe and always doubled by marker shape. ``show`` puts a figure and its text into a notebook.

Heat maps of a model's inside: layers against heads, or against places in the conversation.

As in `figures`: tidy table in, figure with ``title`` and ``alt_text`` out.

Figures of neurons and of what predicts forgetting: lines, one set among random ones, scatter, correlations.

The same house style as `figures`: tidy table in, figure with ``title`` and ``alt_text`` out.

Figures of chapter 06: rates by number of neurons, a panel per rule, and effects of every trained model side by side.

The same house style as `figures`: tidy table in, figure with ``title`` and ``alt_text`` out. A hollow mark is a set
that breaks the model.

Figures of fine-tuning: changes by corpus, and what was expected against what came.

The same house style as `figures`: tidy table in, figure with ``title`` and ``alt_text`` out.

The figure of a placebo test: one interval per swap of the labels, beside the effect that was measured.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from rimkit.data import UserError, nearest

# -- teaching.figures ----------
LABELS = {
    "misaligned": "Misalignment rate",
    "refused": "Refusal rate",
    "misread": "Misread",
    "coherent": "Coherent",
    "score": "Answered right",
}
MARKERS = "osD^vPX*"
STYLE = sns.axes_style("ticks") | {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 10, "axes.titlesize": 11,
    "axes.labelsize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": "0.9", "axes.axisbelow": True, "figure.facecolor": "white",
    "axes.facecolor": "white", "legend.frameon": False, "pdf.fonttype": 42, "svg.fonttype": "none",
}  # fmt: skip


def rate_plot(
    rates: pd.DataFrame,
    x: str,
    hue: str | None = None,
    *,
    metric: str | None = "misaligned",
    title: str,
    facet: str | None = None,
    label: str | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Rates as points with intervals: ``x`` along the axis, ``hue`` side by side, one panel per ``facet``.

    ``rates``: the output of `rimkit.behavior.stats.rates`; ``label`` names the vertical axis (default: the
    metric's name; write "Over-refusal rate" for ``refused`` on harmless prompts). ``metric=None`` draws all
    rows of the table, for ``hue="metric"``. Order is that of the table.
    """
    table = _chosen(rates, metric, [x, hue, facet])
    panels, hues = (_levels(table, column) for column in (facet, hue))
    shown = [_levels(_part(table, {facet: panel}), x) for panel in panels]
    lengths = [len(places) for places in shown]
    width = max(5.2, 0.8 + 0.6 * sum(lengths) / len(panels) * max(2, len(hues)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size or (min(12, width * len(panels) + 0.6), 3.9), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=lengths)[0]
        for axis, panel, places in zip(axes, panels, shown, strict=True):
            for index, name in enumerate(hues):
                part = _part(table, {facet: panel, hue: name})
                at = [places.index(place) + 0.7 * _offset(index, len(hues)) for place in part[x]]
                _points(axis, at, part, index, str(name))
            axis.set_xticks(
                range(len(places)),
                [fill(str(place), 14, break_on_hyphens=False, break_long_words=False) for place in places],
            )
            axis.set_xlim(-0.6, len(places) - 0.4)
            axis.set_title("" if facet is None else str(panel))
            axis.set_xlabel(_words(x))
        _percent_axis(axes[0], label or _label(metric), table)
        return _finish(figure, title, table, hue, [x, hue, facet], label or _label(metric))


def dose_plot(
    rates: pd.DataFrame,
    x: str,
    hue: str | None = None,
    *,
    metric: str | None = "misaligned",
    title: str,
    facet: str | None = None,
    label: str | None = None,
    x_label: str | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Rates against a number (a thought's length, a step): a line with intervals per ``hue``, a panel per ``facet``."""
    table = _chosen(rates, metric, [x, hue, facet])
    if not pd.api.types.is_numeric_dtype(table[x]):
        raise UserError(f"a dose is a number, and the column '{x}' is not; use rate_plot for categories")
    table = table.sort_values(x, kind="stable")
    panels, hues, reach = _levels(table, facet), _levels(table, hue), np.ptp(table[x])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size or (min(12, 2.6 + 3.6 * len(panels)), 3.9), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            for index, name in enumerate(hues):
                part = _part(table, {facet: panel, hue: name})
                at = part[x] + 0.04 * reach * _offset(index, len(hues))  # so that no bar hides another
                axis.plot(at, part["value"], color=_colour(index), alpha=0.6, clip_on=False)
                _points(axis, at, part, index, str(name))
            axis.set_title("" if facet is None else str(panel))
        axes[len(axes) // 2].set_xlabel(x_label or _words(x))
        _percent_axis(axes[0], label or _label(metric), table)
        return _finish(figure, title, table, hue, [x, hue, facet], label or _label(metric))


def difference_plot(
    effects: pd.DataFrame,
    label: str | Sequence[str] = "label",
    *,
    title: str,
    smallest_effect: float | None = None,
    x_label: str = "Difference in percentage points",
    size: tuple[float, float] | None = None,
) -> Figure:
    """Differences with intervals, one line each, the numbers printed beside them.

    ``effects``: rows of `rimkit.behavior.stats.Difference` (``effect, ci_low, ci_high, n``) with the column
    or columns ``label``. Colour and marker say whether the interval lies above zero, below it, or holds it;
    ``smallest_effect`` (a fraction) shades what would be too small to matter.
    """
    names = [label] if isinstance(label, str) else list(label)
    _need(effects, [*names, "effect", "ci_low", "ci_high", "n"])
    labels = effects[names].astype(str).agg(", ".join, axis=1).tolist()
    rows = np.arange(len(effects))[::-1]
    signs = np.where(effects["ci_low"] > 0, 1, np.where(effects["ci_high"] < 0, -1, 0))
    cold, *_, warm = sns.color_palette("vlag", 9)
    looks = {1: (warm, "^", "raises"), -1: (cold, "v", "lowers"), 0: ("0.45", "o", "interval holds zero")}
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=size or (7.2, 1.5 + 0.42 * len(effects)), layout="constrained")
        axis = figure.subplots()
        if smallest_effect:
            axis.axvspan(-100 * smallest_effect, 100 * smallest_effect, color="0.93", zorder=0)
        axis.axvline(0, color="0.2", linewidth=1)
        for sign, (colour, marker, meaning) in looks.items():
            here = signs == sign
            if here.any():
                part = 100 * effects.loc[here, ["effect", "ci_low", "ci_high"]]
                look = {"fmt": marker, "color": colour, "capsize": 3, "label": meaning}
                axis.errorbar(part["effect"], rows[here], xerr=_bars(part, "effect"), **look)
        reach = 1.12 * max(5.0, 100 * float(np.nanmax(np.abs(effects[["ci_low", "ci_high"]].to_numpy()))))
        axis.set_xlim(-reach, reach)  # centred: up and down look alike
        axis.set_ylim(-0.6, len(effects) - 0.4)
        axis.set_yticks(rows, [fill(text, 34, break_on_hyphens=False, break_long_words=False) for text in labels])
        for row, found in zip(rows, effects.itertuples(), strict=True):
            text = f"{_signed(found.effect)} [{_signed(found.ci_low)}, {_signed(found.ci_high)}]"
            axis.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axis.set_xlabel(x_label)
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, borderaxespad=0.2)
        _frame(figure, title, _caption(effects, "Points: difference"))
    shown = [
        f"{text}: {_signed(found.effect)} ({_signed(found.ci_low)} to {_signed(found.ci_high)})"
        for text, found in zip(labels, effects.itertuples(), strict=True)
    ]
    return _named(figure, title, f"{x_label}, with 95% intervals. {'; '.join(shown)}.")


def show(figure: Figure, width: int | None = None, words: bool = True) -> None:
    """Display the figure in a notebook as PNG with its text as ``alt``; in plain text: "Figure: title".

    JupyterLab drops ``alt``, so with ``words`` the same text, in whole percents, stands folded below it.
    """
    from IPython.display import display

    scale = {"width": width} if width else {"width": round(figure.get_figwidth() * 96)}
    data = {"image/png": b64encode(png(figure)).decode(), "text/plain": f"Figure: {figure.title}"}
    display(data, raw=True, metadata={"image/png": {"alt": figure.alt_text, **scale}})
    if words:
        html = f"<details><summary>The figure in words</summary>{escape(figure.alt_text)}</details>"
        display({"text/html": html, "text/plain": figure.alt_text}, raw=True)


def png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as PNG, with its title and alternative text in the file's metadata."""
    buffer = BytesIO()
    with mpl.rc_context(STYLE):
        words = {"Title": figure.title, "Description": figure.alt_text}
        figure.savefig(buffer, format="png", dpi=dpi, metadata=words)
    return buffer.getvalue()


def _points(axis, at: Sequence[float], part: pd.DataFrame, index: int, name: str) -> None:
    look = {"fmt": MARKERS[index % 8], "color": _colour(index), "markersize": 6.5, "capsize": 3}
    axis.errorbar(at, part["value"], yerr=_bars(part, "value"), label=name, clip_on=False, **look)


def _bars(part: pd.DataFrame, middle: str) -> np.ndarray:
    """Lengths of the intervals below and above the points."""
    return part[["ci_low", "ci_high"]].sub(part[middle], axis=0).abs().T.to_numpy(dtype=float)


def _percent_axis(axis, label: str, table: pd.DataFrame) -> None:
    highest = table["ci_high"].max()
    axis.set_ylim(0, 1 if not highest <= 0.85 else max(0.1, 1.15 * highest))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_ylabel(label)


def _finish(figure: Figure, title: str, table: pd.DataFrame, hue, columns, label: str) -> Figure:
    """Title, caption, one legend, and the alternative text."""
    _frame(figure, title, _caption(table, "Points: rate"))
    if hue is not None:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, title=_words(hue), loc="outside right center")
    columns = [column for column in columns if column is not None]
    shown = [
        f"{', '.join(str(row[column]) for column in columns)}: {_percent(row['value'])}% "
        f"({_percent(row['ci_low'])} to {_percent(row['ci_high'])})"
        for row in table.to_dict("records")
    ]
    by = " and ".join(_words(column) for column in columns)
    return _named(figure, title, f"{label} by {by}, with 95% intervals. {'; '.join(shown)}.")


def _frame(figure: Figure, title: str, caption: str) -> None:
    """Title above and caption below, in lines that fit the figure."""
    width = figure.get_figwidth()
    figure.suptitle(fill(title, int(11 * width)), fontsize=12, x=0.01, ha="left")
    figure.supxlabel(fill(caption, int(15.5 * width)), fontsize=8.5, color="0.35", x=0.01, ha="left")


def _named(figure: Figure, title: str, content: str) -> Figure:
    figure.title, figure.alt_text = title, f"{title}. {content}"
    return figure


def _caption(table: pd.DataFrame, points: str) -> str:
    """What points and bars are, how the interval was made, and how many replies stand behind a point."""
    counts = table["n"].dropna().astype(int)
    n = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    return f"{points}; bars: 95% interval{_method(table)}; n = {n} each"


def _method(table: pd.DataFrame) -> str:
    methods = " ".join(table["method"].astype(str)) if "method" in table else ""
    kinds = [name for name in ("bootstrap", "Wilson", "Newcombe") if name in methods]
    return (f" ({' or '.join(kinds)}{', clustered' if 'clusters' in methods else ''})") if kinds else ""


def _label(metric: str | None) -> str:
    return "Rate" if metric is None else LABELS.get(metric, metric)


def _chosen(rates: pd.DataFrame, metric: str | None, columns: Iterable[str | None]) -> pd.DataFrame:
    columns = [column for column in columns if column is not None]
    _need(rates, ["metric", "value", "ci_low", "ci_high", "n", *columns])
    table = rates if metric is None else rates[rates["metric"] == metric]
    if table.empty:
        raise UserError(f"the table has no metric '{metric}'{nearest(metric, rates['metric'].unique())}")
    if table.duplicated(columns).any():
        raise UserError(f"several rates for one point: {', '.join(columns)} do not tell them apart; filter")
    return table.reset_index(drop=True)


def _need(table: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table:
            raise UserError(f"the table has no column '{column}'{nearest(column, table.columns)}")


def _levels(table: pd.DataFrame, column: str | None) -> list:
    return [None] if column is None else list(table[column].unique())


def _part(table: pd.DataFrame, wanted: dict) -> pd.DataFrame:
    for column, value in wanted.items():
        if column is not None:
            table = table[table[column] == value]
    return table


def _colour(index: int):
    return sns.color_palette("colorblind")[index % 10]


def _offset(index: int, of: int) -> float:
    """Places side by side, centred, for ``of`` points within one unit."""
    return (index - (of - 1) / 2) / max(of, 2)


def _percent(value: float) -> str:
    return "?" if pd.isna(value) else f"{100 * value:.0f}"


def _signed(value: float) -> str:
    text = "?" if pd.isna(value) else f"{100 * value:+.0f}"
    return "0" if text in ("+0", "-0") else text.replace("-", "−")


def _words(column: str) -> str:
    return str(column).replace("_", " ")


# -- teaching.maps ----------
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
    _need(table, [rows, columns, value, *([facet] if facet else [])])
    panels = _levels(table, facet)
    grids = [_grid(_part(table, {facet: panel}), rows, columns, value) for panel in panels]
    low, high = limits or _reach(table[value], centre)
    palette = sns.color_palette("vlag" if centre is not None else "crest", as_cmap=True)
    widths = [grid.shape[1] for grid in grids]
    figsize = size or (min(13, 1.6 + 0.62 * sum(widths)), 1.7 + 0.36 * max(len(grid) for grid in grids))
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=figsize, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
        for axis, panel, grid in zip(axes, panels, grids, strict=True):
            sns.heatmap(
                grid, ax=axis, cmap=palette, vmin=low, vmax=high, cbar=axis is axes[-1], linewidths=0.5,
                annot=grid.map(lambda x: "" if pd.isna(x) else _short(x, digits)), fmt="",
                annot_kws={"fontsize": 8}, cbar_kws={"label": label, "shrink": 0.9},
            )  # fmt: skip
            axis.set_title("" if panel is None else str(panel))
            axis.set_xlabel(_words(columns))
            axis.set_ylabel(_words(rows) if axis is axes[0] else "")
            axis.invert_yaxis()  # later layers above earlier ones
            axis.set_xticklabels(
                [fill(_words(text), 9, break_long_words=False) for text in grid.columns],
                rotation=90 if max(len(str(text)) for text in grid.columns) > 3 else 0, fontsize=9,
            )  # fmt: skip
            axis.tick_params(axis="y", rotation=0)
        _frame(figure, title, f"Cells: {label}.")
    return _named(figure, title, _in_words(grids, panels, rows, columns, label, digits))


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
            f"{what} {number:.{digits}f} at {_words(rows)} {place[0]}, {_words(columns)} {place[1]}"
            for what, place, number in ends
        ]
        said.append(f"{'' if panel is None else f'{panel}: '}{'; '.join(spots)}")
    return f"{label} by {_words(rows)} and {_words(columns)}. {'. '.join(said)}."


# -- teaching.mechanism_figures ----------
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


# -- teaching.neuron_figures ----------
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


# -- teaching.tuning_figures ----------
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


# -- teaching.placebo_figure ----------
def placebo_plot(draws: pd.DataFrame, real: Mapping[str, float], *, title: str) -> Figure:
    """The intervals of `rimkit.behavior.stats.swapped`, sorted by effect, and ``real``, the interval as measured.

    Those that leave out zero stand out by colour and by a marker at their effect. Numbers are rates.
    """
    _need(draws, ["effect", "ci_low", "ci_high"])
    table = 100 * draws.sort_values("effect", ignore_index=True)[["effect", "ci_low", "ci_high"]]
    outside = (table["ci_low"] > 0) | (table["ci_high"] < 0)
    looks = (
        (~outside, {"color": "0.6", "label": "holds zero"}, None),
        (outside, {"color": _colour(1), "label": "leaves out zero"}, "D"),
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.6), layout="constrained")
        axis = figure.subplots()
        for here, look, marker in looks:
            at = np.flatnonzero(here)
            axis.vlines(at, table.loc[here, "ci_low"], table.loc[here, "ci_high"], linewidth=1.3, **look)
            axis.plot(
                at, table.loc[here, "effect"], linestyle="", marker=marker or ".", markersize=4, color=look["color"]
            )
        axis.axhspan(100 * real["ci_low"], 100 * real["ci_high"], color=_colour(0), alpha=0.25, label="as measured")
        axis.axhline(0, color="0.2", linewidth=1)
        axis.set_xlabel("swaps, sorted by effect")
        axis.set_ylabel("Difference in points")
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=9, borderaxespad=0.2)
        _frame(figure, title, f"Lines: 95% intervals, dots: effects, of {len(table)} swaps of whole clusters")
    low, high = (_signed(draws["effect"].quantile(q)) for q in (0.025, 0.975))
    measured = f"{_signed(real['effect'])} ({_signed(real['ci_low'])} to {_signed(real['ci_high'])})"
    said = (
        f"{int(outside.sum())} of {len(table)} intervals leave out zero; 95% of effects lie from {low} to {high} points"
    )
    return _named(figure, title, f"{said}. As measured: {measured}.")
