"""Figures: a tidy table and the names of its columns in, a matplotlib Figure out; knows no chapter.

Seven plots: `points`, `lines`, `forest`, `scatter`, `heatmap`, `bars`, `dots`. Each returns a
Figure with ``title``, ``caption``, ``alt_text`` (one sentence, made from the numbers that are
drawn) and ``table`` (those numbers, as text); `show` puts all of them on the page. Order is that of
the table. Colours are colour-blind safe, and every colour has its own marker or dashes.

What the plots share: ``hue`` is told apart by colour and marker, ``facet`` by panels. ``low`` and
``high`` name the ends of an interval, drawn where the table has them. ``hollow`` names a column of
booleans whose marks are drawn hollow. ``reference`` maps a label to the number at which a line is
drawn. ``notes`` maps a panel to words under its name; ``caption`` is put below the figure.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from rimkit.behavior import redaction
from rimkit.data import UserError, interval, nearest, number
from rimkit.data import percent as in_percent
from rimkit.data import points as in_points
from rimkit.teaching.tables import html

LABELS = {
    "misaligned": "misalignment rate", "refused": "refusal rate", "misread": "share misread",
    "coherent": "share coherent", "score": "share answered right",
}  # fmt: skip
COLOURS = [  # seaborn's colour-blind palette; three that are too pale as thin lines are darker
    *sns.color_palette("colorblind").as_hex()[:6], "#882255", "#949494", "#7f7500", "#2f8fc9",
]  # fmt: skip
MARKERS = "osD^vPX*"
DASHES = ("-", "--", ":", "-.")
REFERENCE = {"color": "0.25", "linewidth": 1.2, "linestyle": (0, (5, 2)), "zorder": 1}
COLD, WARM, GREY = "#2369bd", "#a9373b", "0.45"
SIGNS = {  # of an interval: colour, marker, words
    1: (WARM, "^", "above zero"), -1: (COLD, "v", "below zero"),
    0: (GREY, "o", "zero inside the interval"),
}  # fmt: skip
WIDTH = 8.8  # inches: what a notebook shows without shrinking it
STYLE = sns.axes_style("ticks") | {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 11,
    "axes.titlesize": 11.5, "axes.labelsize": 11, "xtick.labelsize": 10.5, "ytick.labelsize": 10.5,
    "legend.fontsize": 10.5, "figure.titlesize": 13, "figure.labelsize": 11, "figure.facecolor": "white",
    "axes.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False, "grid.color": "0.9",
    "axes.axisbelow": True, "legend.frameon": False, "svg.fonttype": "none",
}  # fmt: skip


@mpl.rc_context(STYLE)
def points(
    table: pd.DataFrame, x: str, *, title: str, hue: str | None = None, facet: str | None = None,
    value: str = "value", low: str = "ci_low", high: str = "ci_high", label: str = "",
    percent: bool = True, reference: Mapping[str, float] | None = None,
    hollow: str | None = None, joined: bool = False, hues: Sequence | None = None,
    limits: tuple[float, float] | None = None, notes: Mapping | None = None, caption: str = "",
    size: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Numbers by category: those of ``x`` along the axis, those of ``hue`` side by side.

    With ``percent`` the numbers are shares, and the axis runs from 0 to 100% unless ``limits`` says
    otherwise. ``joined`` draws a line through the points of a hue. ``hues`` fixes which hue gets
    which colour, whichever of them are there.
    """
    keys = _keys(table, [facet, x, hue], value)
    label, hues = label or _label(table, value), list(hues or _levels(table, hue))
    at = {panel: _levels(_part(table, {facet: panel}), x) for panel in _levels(table, facet)}
    letters = sum(len(str(place)) for places in at.values() for place in places)
    slanted = letters > 90
    width = WIDTH if len(at) > 1 else min(WIDTH, max(5.5, 3.4 + 0.42 * len(table)))
    figure, panels = _panels(
        table, facet, size=size or (width, 3.1 + 0.9 * slanted), notes=notes,
        width_ratios=[max(2, len(places)) for places in at.values()], sharex=False,
    )  # fmt: skip
    for axis, part, panel in panels:
        places = at[panel]
        for index, name in enumerate(hues):
            here = _part(part, {hue: name})
            spots = np.array([places.index(place) for place in here[x]]) + 0.7 * _offset(index, len(hues))
            if joined:
                axis.plot(spots, here[value], color=_colour(index), linewidth=1.2, alpha=0.5)
            _mark(axis, spots, here[value], here, _look(index), low, high, hollow)
        texts = [_wrapped(place, 40 if slanted else 13) for place in places]
        slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axis.set_xticks(range(len(places)), texts, **slant)
        axis.set_xlim(-0.6, len(places) - 0.4)
    _axis_labels(figure, _words(x), label)
    _legend(figure, table, hue, hues)
    unit = _shares(figure, percent, limits)
    columns = (value, low, high)
    return _finish(figure, title, table, keys, label, columns, unit, caption, hollow, reference)


@mpl.rc_context(STYLE)
def lines(
    table: pd.DataFrame, x: str, y: str = "value", *, title: str, hue: str | None = None,
    facet: str | None = None, row: str | None = None, style: str | None = None,
    x_label: str = "", y_label: str = "", low: str = "ci_low", high: str = "ci_high",
    percent: bool = True, log_x: bool = False, log_y: bool = False,
    reference: Mapping[str, float] | None = None, x_reference: Mapping[str, float] | None = None,
    hollow: str | None = None, limits: tuple[float, float] | None = None,
    notes: Mapping | None = None, caption: str = "", size: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Curves over a number (a dose, a layer, a step): a colour per ``hue``, dashes per ``style``.

    A panel per ``facet``, and a row of panels per ``row``. With ``percent`` the numbers are shares,
    and the axis runs from 0 to 100% unless ``limits`` says otherwise. ``log_y`` is linear below 1,
    so that zero has a place. ``x_reference`` marks places along the axis. With ``style``, or more
    than 16 points a line, no intervals are drawn.
    """
    keys = _keys(table, [facet, row, hue, style, x], y)
    if not pd.api.types.is_numeric_dtype(table[x]):
        raise UserError(f"a line needs numbers, and the column '{x}' has none; use points for categories")
    y_label, x_label = y_label or _label(table, y), x_label or _words(x)
    hues, styles = _levels(table, hue), _levels(table, style)
    reach = float(np.ptp(table[x].to_numpy(dtype=float)))
    size = size or ((WIDTH, 3.6) if len(hues) > 6 else None)  # room for a legend beside
    figure, panels = _panels(table, facet, row, size=size, notes=notes)
    for axis, part, _ in panels:
        for index, name in enumerate(hues):
            for dashes, kind in enumerate(styles):
                here = _part(part, {hue: name, style: kind}).sort_values(x, kind="stable")
                many = len(here) > 16
                shift = 0 if log_x or style or many else 0.02 * reach * _offset(index, len(hues))
                here = here.assign(**{x: here[x] + shift})  # so that no interval hides another
                dash = DASHES[(dashes if style else index) % 4]
                axis.plot(here[x], here[y], dash, color=_colour(index), linewidth=1.6, alpha=0.85)
                marked = here.iloc[index % 3 :: max(1, len(here) // 6)] if many else here
                ends = ("", "") if style or many else (low, high)
                _mark(axis, marked[x], marked[y], marked, _look(index), *ends, hollow, 32)
        if log_x:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,.0f}"))
        if log_y:
            axis.set_yscale("symlog", linthresh=1)
            axis.yaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,.0f}"))
            axis.set_ylim(bottom=0)
    _axis_labels(figure, x_label, y_label)
    for name, place in (x_reference or {}).items():
        for axis in figure.axes:
            axis.axvline(place, **REFERENCE)
        spot = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 9.5}
        figure.axes[0].annotate(name, (place, 0.03), xytext=(4, 0), **spot)
    _legend(figure, table, hue, hues, style, styles, dashed=True)
    unit = _shares(figure, percent, limits)
    columns = (y, low, high)
    return _finish(figure, title, table, keys, y_label, columns, unit, caption, hollow, reference)


@mpl.rc_context(STYLE)
def forest(
    table: pd.DataFrame, y: str | Sequence[str], *, title: str, hue: str | None = None,
    facet: str | None = None, effect: str = "effect", low: str = "ci_low", high: str = "ci_high",
    unit: str = "points", x_label: str = "", smallest_effect: float = 0,
    paper: str | None = None, words: str | None = None, hollow: str | None = None,
    limits: tuple[float, float] | None = None, notes: Mapping | None = None, caption: str = "",
    size: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Effects with intervals around zero, a line per level of ``y`` (several columns are joined).

    In the ``unit`` "points" effects are differences of shares, drawn in percentage points; in any
    other as they are. Without ``hue``, colour and marker say whether the interval lies above zero,
    below it, or holds it. In a single panel the numbers stand beside their line, or the text of the
    column ``words``. ``smallest_effect`` shades what would be too small to matter; ``paper`` names
    a column with the paper's own number.
    """
    names = [y] if isinstance(y, str) else list(y)
    keys = _keys(table, [facet, *names, hue], effect, *filter(None, (paper, words)))
    scale = 100 if unit == "points" else 1
    x_label = x_label or ("difference in percentage points" if unit == "points" else unit)
    table = table.assign(_line=table[names].astype(str).agg(", ".join, axis=1))
    table = table.assign(**{end: np.nan for end in (low, high) if end not in table})
    places, hues = _levels(table, "_line"), _levels(table, hue)
    once = not table.duplicated([*filter(None, [facet]), "_line"]).any()  # one mark a line
    beside = once and facet is None
    height = 0.9 + len(places) * (0.36 if once else 0.2 + 0.15 * len(hues)) + 0.3 * bool(facet)
    size = size or (WIDTH, height)
    figure, panels = _panels(table, facet, size=size, notes=notes, columns=5, grid="x")
    drawn = scale * table[[effect, low, high, *([paper] if paper else [])]]
    for axis, part, _ in panels:
        axis.axvspan(-scale * smallest_effect, scale * smallest_effect, color="0.92", zorder=0)
        axis.axvline(0, color="0.2", linewidth=1)
        signs = np.where(part[low] > 0, 1, np.where(part[high] < 0, -1, 0))
        looks = {sign: (part[signs == sign], SIGNS[sign][:2]) for sign in SIGNS}
        if hue is not None:
            looks = {name: (_part(part, {hue: name}), _look(n)) for n, name in enumerate(hues)}
        for index, (here, look) in enumerate(looks.values()):
            side = 0 if once else 0.7 * _offset(index, len(looks))
            spots = np.array([places.index(line) for line in here["_line"]], dtype=float) + side
            scaled = here.assign(**{name: scale * here[name] for name in drawn})
            _mark(axis, scaled[effect], spots, scaled, look, low, high, hollow)
        if paper:
            spots = [places.index(line) for line in part["_line"]]
            axis.plot(scale * part[paper], spots, "k|", markersize=15, markeredgewidth=2.2)
        axis.set_xlim(limits or _both_sides(drawn, 5 if scale == 100 else 0))
        axis.xaxis.set_major_locator(MaxNLocator(4 if len(panels) > 3 else 5 if facet else 9))
    axis = figure.axes[0]
    axis.set_yticks(range(len(places)), [_wrapped(line, 36) for line in places])
    axis.set_ylim(len(places) - 0.4, -0.6)
    write = _writer(unit, table[effect])
    if beside:
        for item in table.to_dict("records"):
            text = str(item[words] or "") if words else _cell(item, (effect, low, high), write)
            spot = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 10}
            axis.annotate(text, (1.01, places.index(item["_line"])), **spot)
    _axis_labels(figure, x_label, "")
    known = table.dropna(subset=[low, high])
    signs = np.where(known[low] > 0, 1, np.where(known[high] < 0, -1, 0))
    more = [] if hue else [_key(SIGNS[sign][:2], SIGNS[sign][2]) for sign in SIGNS if sign in signs]
    more += [_key(("k", "|"), "paper")] if paper else []
    _legend(figure, table, hue, hues, more=more)
    grey = f"grey: under {scale * smallest_effect:g} {unit}" if smallest_effect else ""
    caption = "; ".join(filter(None, (caption, grey)))
    table = table.drop(columns="_line")
    return _finish(figure, title, table, keys, x_label, (effect, low, high), unit, caption, hollow)


@mpl.rc_context(STYLE)
def scatter(
    table: pd.DataFrame, x: str, y: str, *, title: str, hue: str | None = None,
    style: str | None = None, facet: str | None = None, x_label: str = "", y_label: str = "",
    low: str = "ci_low", high: str = "ci_high", unit: str = "", line: bool = False,
    free: bool = False, reference: Mapping[str, float] | None = None,
    hues: Sequence | None = None, x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None, notes: Mapping | None = None, caption: str = "",
    size: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """One number against another: a colour per ``hue``, a marker per ``style`` (or per hue).

    With the ``unit`` "points" both are differences of shares, drawn in percentage points. ``line``
    draws the line on which both are equal, on equal axes; ``free`` gives every panel its own axes.
    """
    keys = _keys(table, [facet, hue, style], x, y, once=False)
    scale = 100 if unit == "points" else 1
    x_label, y_label = x_label or _words(x), y_label or _words(y)
    hues, styles = list(hues or _levels(table, hue)), _levels(table, style)
    table = table.assign(**{name: scale * table[name] for name in {x, y, low, high} & set(table)})
    figure, panels = _panels(table, facet, size=size, notes=notes, sharex=not free, sharey=not free)
    for axis, part, _ in panels:
        if line:
            reach = _both_sides(table[[x, y]], 5 if scale == 100 else 0)
            axis.plot(reach, reach, "--", color="0.5", linewidth=1)
            axis.set(xlim=reach, ylim=reach)
        for index, name in enumerate(hues):
            for other, kind in enumerate(styles):
                here = _part(part, {hue: name, style: kind})
                look = (_colour(index), MARKERS[(other if style else index) % 8])
                _mark(axis, here[x], here[y], here, look, low, high, None, 36, alpha=0.75)
        axis.set(**{name: ends for name, ends in (("xlim", x_limits), ("ylim", y_limits)) if ends})
        axis.xaxis.set_major_locator(MaxNLocator(3 if len(panels) > 2 else 5))
    _axis_labels(figure, x_label, y_label)
    _references(figure, reference, scale)
    _legend(figure, table, hue, hues, style, styles)
    spans, texts = [], {}
    for name, axis_label in ((x, x_label), (y, y_label)):
        write = _writer("", table[name])
        spans.append(f"{axis_label} from {write(table[name].min())} to {write(table[name].max())}")
        texts[axis_label] = table[name].map(write)
    said = f"{len(table)} points, {', '.join(spans)}"
    if facet:
        parts = {name: part for name, part in table.groupby(facet, sort=False) if len(part) > 2}
        each = {name: part[x].corr(part[y]) for name, part in parts.items()}
        said += ", correlation as drawn " + ", ".join(f"{number(r)} ({name})" for name, r in each.items())
    return _named(figure, title, said, table[keys].rename(columns=_words).assign(**texts), caption)


@mpl.rc_context(STYLE)
def heatmap(
    table: pd.DataFrame, rows: str, columns: str, value: str, *, title: str,
    facet: str | None = None, label: str = "", limits: tuple[float, float] | None = None,
    centre: float | None = None, digits: int = 2, caption: str = "",
    size: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """One map per ``facet``, the number in every cell; numeric rows count upwards, as layers do.

    ``centre`` is the value that means nothing (0 for an effect, 0.5 for an area under the curve):
    the colours diverge from it and reach equally far to both sides. ``limits`` are the ends of the
    colour scale. Missing cells stay empty.
    """
    _keys(table, [facet, rows, columns], value)
    label = label or _words(value)
    panels = _levels(table, facet)
    shape = {"index": rows, "columns": columns, "values": value, "sort": False, "aggfunc": "first"}
    grids = [_part(table, {facet: panel}).pivot_table(**shape) for panel in panels]
    low, high = limits or (float(table[value].min()), float(table[value].max()))
    if centre is not None:
        far = max(abs(low - centre), abs(high - centre)) or 1.0
        low, high = centre - far, centre + far
    palette = sns.color_palette("vlag" if centre is not None else "Blues", as_cmap=True)
    widths = [max(3, grid.shape[1]) for grid in grids]
    tall = max(len(str(text)) for grid in grids for text in grid.columns) > 3
    height = 1.0 + 0.36 * max(len(grid) for grid in grids) + 0.6 * tall
    size = size or (max(5.5, min(WIDTH, 2.2 + 0.6 * sum(widths))), height)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axis, panel, grid in zip(axes, panels, grids, strict=True):
        sns.heatmap(
            grid, ax=axis, cmap=palette, vmin=low, vmax=high, cbar=axis is axes[-1], linewidths=0.5,
            annot=grid.map(lambda cell: _short(cell, digits)), fmt="", annot_kws={"fontsize": 9},
            cbar_kws={"label": label, "shrink": 0.9},
        )  # fmt: skip
        axis.set(title=_wrapped("" if panel is None else panel, 24), xlabel=_words(columns), ylabel="")
        if pd.api.types.is_numeric_dtype(grid.index):
            axis.invert_yaxis()
        texts = [_wrapped(text, 12) for text in grid.columns]
        axis.set_xticklabels(texts, rotation=90 if tall else 0)
        axis.tick_params(axis="y", rotation=0)
    axes[0].set_ylabel(_words(rows))
    ends = _ends_of(table, value)
    write = _writer("", table[value], digits)
    places = [f"{write(end[value])} ({_place(end, [facet, rows, columns])})" for end in ends]
    cells = {panel: grid.map(write) for panel, grid in zip(panels, grids, strict=True)}
    shown = pd.concat(cells, names=[facet]).reset_index()
    shown = shown if facet else shown.iloc[:, 1:]
    return _named(figure, title, f"{label} from {' to '.join(places)}", shown, caption)


@mpl.rc_context(STYLE)
def bars(
    table: pd.DataFrame, x: str, y: str, *, title: str, hue: str | None = None,
    facet: str | None = None, label: str = "", marked: Iterable = (),
    notes: Mapping | None = None, caption: str = "", size: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Lengths with their numbers: a bar per category of ``x``, as long as the number ``y``.

    Bars of the categories ``marked`` are coloured and hatched. A category that a panel lacks gets a
    dash.
    """
    keys = _keys(table, [facet, x, hue], y)
    label, marked = label or _words(y), set(marked)
    places, hues = _levels(table, x), _levels(table, hue)
    write, reach = _writer("", table[y]), 1.25 * float(table[y].max())
    size = size or (WIDTH, 0.9 + (0.16 + 0.18 * len(hues)) * len(places) + 0.4 * bool(notes))
    figure, panels = _panels(table, facet, size=size, notes=notes, grid="x")
    for axis, part, _ in panels:
        for index, name in enumerate(hues):
            lengths = _part(part, {hue: name}).set_index(x)[y]
            for place, category in enumerate(places):
                spot = place + 0.8 * _offset(index, len(hues)) * (len(hues) > 1)
                found = lengths.get(category)
                look = {"textcoords": "offset points", "va": "center", "fontsize": 10}
                axis.annotate(write(found), (found or 0, spot), xytext=(4, 0), **look)
                colour = "0.75" if marked and category not in marked else _colour(index)
                look = {"hatch": "//", "edgecolor": "white"} if category in marked else {}
                axis.barh(spot, found or 0, height=0.75 / len(hues), color=colour, **look)
        axis.set_xlim(0, reach)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,g}"))
    figure.axes[0].set_yticks(range(len(places)), [_wrapped(place, 32) for place in places])
    figure.axes[0].set_ylim(len(places) - 0.4, -0.6)
    _axis_labels(figure, label, "")
    _legend(figure, table, hue, hues)
    return _finish(figure, title, table, keys, label, (y, "", ""), "", caption)


@mpl.rc_context(STYLE)
def dots(
    table: pd.DataFrame, x: str, *, title: str, value: str = "value", role: str = "role",
    facet: str | None = None, label: str = "", percent: bool = True,
    reference: Mapping[str, float] | None = None, limits: tuple[float, float] | None = None,
    notes: Mapping | None = None, caption: str = "", size: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """One selected set among single random ones, in a column per category of ``x``.

    The column ``role`` says what a row is: "random" is a grey dot, "selected" the red diamond, and
    every other role (nothing switched off, another rule) has a mark of its own.
    """
    _keys(table, [facet, x, role], value, once=False)
    label = label or _label(table, value)
    roles = [name for name in _levels(table, role) if name not in ("random", "selected")]
    looks = {"random": ("0.6", "o"), "selected": (COLOURS[3], "D")}
    looks |= {name: _look(index) for name, index in zip(roles, (1, 4, 2, 5, 6), strict=False)}
    width = min(WIDTH, 3.0 + 1.1 * len(_levels(table, x)) * len(_levels(table, facet)))
    figure, panels = _panels(table, facet, size=size or (max(5.5, width), 3.2), notes=notes)
    for axis, part, _ in panels:
        places = _levels(part, x)
        for name, look in looks.items():
            here = part[part[role] == name]
            spots = np.array([places.index(place) for place in here[x]], dtype=float)
            area, alpha = (20, 0.6) if name == "random" else (75, 1)
            if name == "random":
                spots += np.random.default_rng(0).uniform(-0.25, 0.25, len(here))
            _mark(axis, spots, here[value], here, look, "", "", None, area, alpha)
        axis.set_xticks(range(len(places)), [_wrapped(place, 14) for place in places])
        axis.set_xlim(-0.6, len(places) - 0.4)
    _axis_labels(figure, _words(x), label)
    unit = _shares(figure, percent, limits)
    _references(figure, reference)
    here = [name for name in looks if (table[role] == name).any()]
    more = [_key(looks[name], "random sets" if name == "random" else name) for name in here]
    _legend(figure, table, None, [], more=more)
    write, columns = _writer(unit, table[value]), [*filter(None, (facet, x))]
    shown = []
    for key, part in table.groupby(columns, sort=False):
        sets = {name: _spread(part.loc[part[role] == name, value], write) for name in here}
        shown.append(dict(zip(map(_words, columns), key, strict=True)) | sets)
    shown = pd.DataFrame(shown)
    first = shown.iloc[0]
    said = "; ".join(f"{name} {first[name]}" for name in here)
    place = ", ".join(str(first[_words(column)]) for column in columns)
    also = f" and {len(shown) - 1} more" if len(shown) > 1 else ""
    return _named(figure, title, f"{label} for {place}{also}, {said}", shown, caption)


def show(figure: Figure, width: int | None = None) -> None:
    """Put the figure into a notebook: image, sentence, caption, and its table behind a fold."""
    from IPython.display import display

    if not hasattr(figure, "table"):
        return old_figures.show(figure, width)
    width = width or round(96 * figure.get_figwidth())
    alt, caption = (escape(redaction.scrub(words)) for words in (figure.alt_text, figure.caption))
    source = f"data:image/png;base64,{b64encode(png(figure)).decode()}"
    page = (
        f'<figure style="margin:0"><img alt="{alt}" width="{width}" '
        f'style="max-width:100%;background:#fff" src="{source}">'
        f"<figcaption><small>{caption}</small><details><summary>The numbers of this figure</summary>"
        f"{html(figure.table)}</details></figcaption></figure>"
    )
    display({"text/html": page, "text/plain": f"Figure: {figure.alt_text}"}, raw=True)


def png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as PNG, with its title and alternative text in the file's metadata."""
    words = {"Title": figure.title, "Description": figure.alt_text}
    return _saved(figure, "png", dpi=dpi, metadata=words)


def svg(figure: Figure) -> bytes:
    """The figure as SVG; the same figure gives the same bytes."""
    return _saved(figure, "svg", metadata={"Date": None, "Title": figure.title})


def _saved(figure: Figure, kind: str, **options) -> bytes:
    buffer = BytesIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": figure.title}):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


# the parts of a plot


def _keys(table: pd.DataFrame, columns: Iterable[str | None], *values: str, once: bool = True) -> list[str]:
    """The columns that are named, checked: they are there, and they tell the rows apart."""
    keys = list(dict.fromkeys(column for column in columns if column is not None))
    for column in (*keys, *values):
        if column not in table:
            raise UserError(f"the table has no column '{column}'{nearest(column, table.columns)}")
    if table.empty:
        raise UserError("the table is empty: there is nothing to draw")
    if once and table.duplicated(keys).any():
        metrics = table["metric"].unique() if "metric" in table and "metric" not in keys else []
        choose = f"choose one metric of {', '.join(map(str, metrics))}" if len(metrics) > 1 else "filter"
        names = ", ".join(keys)
        raise UserError(f"several numbers for one place: {names} do not tell them apart; {choose}")
    return keys


def _panels(
    table: pd.DataFrame, facet: str | None, row: str | None = None, *, size=None,
    notes: Mapping | None = None, columns: int = 4, grid: str = "y", sharex: bool = True,
    sharey: bool = True, width_ratios=None,
) -> tuple[Figure, list[tuple]]:  # fmt: skip
    """An empty figure, and of each panel its axis, its part of the table and its level."""
    across, down = _levels(table, facet), _levels(table, row)
    n_columns = len(across) if row else min(columns, len(across))
    n_rows = len(down) if row else -(-len(across) // n_columns)
    size = size or (WIDTH if n_columns > 1 else 7.6, 1.0 + (2.3 if n_columns > 1 else 2.6) * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(
        n_rows, n_columns, sharex=sharex, sharey=sharey, squeeze=False,
        width_ratios=width_ratios if n_rows == 1 else None,
    )  # fmt: skip
    for place in range(len(across) * len(down), axes.size):
        axes.flat[place].remove()
        axes.flat[place - n_columns].tick_params(labelbottom=True)
    panels = []
    wanted = [(up, along) for up in down for along in across]
    for axis, (up, along) in zip(axes.flat, wanted, strict=False):
        name = _place({facet: along, row: up}, [facet, row])
        note = (notes or {}).get(along if row is None else (along, up), "")
        words = (_wrapped(name, (90 if note else 76) // n_columns), _wrapped(note, 90 // n_columns))
        axis.set_title("\n".join(filter(None, words)), fontsize=9.5 if note else None)
        axis.grid(axis=grid)
        panels.append((axis, _part(table, {facet: along, row: up}), along))
    return figure, panels


def _mark(axis, x, y, part, look, low, high, hollow, area: float = 46, alpha: float = 1) -> None:
    """Marks with their intervals, along the axis on which ``low`` and ``high`` lie."""
    colour, marker = look
    if low in part and high in part:
        upright = isinstance(y, pd.Series)
        draw = axis.vlines if upright else axis.hlines
        draw(x if upright else y, part[low], part[high], color=colour, linewidth=1.6, alpha=alpha)
    faces = [("white" if empty else colour) for empty in part[hollow]] if hollow else colour
    look = {"marker": marker, "edgecolors": colour, "alpha": alpha, "zorder": 3, "clip_on": False}
    axis.scatter(x, y, s=area, c=faces, **look)


def _references(figure: Figure, reference: Mapping[str, float] | None, scale: float = 1) -> None:
    """A dashed line in every panel, named in the last one."""
    for name, value in (reference or {}).items():
        for axis in figure.axes:
            axis.axhline(scale * value, **REFERENCE)
        spot = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "fontsize": 9.5}
        last = figure.axes[-1]
        last.annotate(name, (1, scale * value), xytext=(0, 2), ha="right", va="bottom", **spot)


def _shares(figure: Figure, percent: bool, limits: tuple[float, float] | None) -> str:
    """The vertical axis from 0 to 100% for shares, or between ``limits``; returns the unit."""
    low, high = limits or ((0, 1) if percent else (None, None))
    for axis in figure.axes:
        if high is not None:
            axis.set_ylim(low - 0.02 * (high - low), high + 0.02 * (high - low))
        if percent:
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return "percent" if percent else ""


def _axis_labels(figure: Figure, x_label: str, y_label: str) -> None:
    y_label = _wrapped(y_label, 9 * figure.get_figheight())
    if len(figure.axes) == 1:
        figure.axes[0].set(xlabel=x_label, ylabel=y_label)
    else:
        figure.supxlabel(x_label)
        figure.supylabel(y_label)


def _legend(
    figure: Figure, table, hue, hues, style=None, styles=(), *, more: Sequence = (), dashed: bool = False
) -> None:
    """One legend: colours and markers of the hues, then the dashes or the markers of the styles."""
    keys = list(more)
    for index, name in enumerate(hues if hue is not None else ()):
        if (table[hue] == name).any():
            plain = style is not None and not dashed
            dash = DASHES[0 if style else index % 4] if dashed else ""
            keys.append(_key(_look(index, plain), _level_name(hue, name), dash))
    for index, name in enumerate(styles if style is not None else ()):
        look = ("0.3", "") if dashed else ("0.3", MARKERS[index % 8])
        keys.append(_key(look, _level_name(style, name), DASHES[index % 4] if dashed else ""))
    if not keys:
        return
    widest = (8 if dashed else 4) + max(len(key.get_label()) for key in keys)
    columns = min(len(keys), int(12 * figure.get_figwidth() / widest))
    look = {"columnspacing": 1.4, "handletextpad": 0.5, "borderaxespad": 0, "borderpad": 0.2}
    if len(keys) > 4 and columns < 2:
        figure.legend(handles=keys, loc="outside right center", **look)
    else:
        legend = figure.legend(handles=keys, loc="upper left", ncols=max(1, columns), **look)
        legend.set_in_layout(False)  # it has a place of its own, under the title


def _key(look: tuple, label: str, dash: str = "") -> Line2D:
    size = 13 if look[1] == "|" else 7
    label = _wrapped(label, 32 if dash else 60)
    return Line2D([], [], color=look[0], marker=look[1], markersize=size, linestyle=dash, label=label)


def _finish(figure, title, table, keys, label, columns, unit, caption, hollow=None, reference=None) -> Figure:
    """The sentence, table and caption of a plot of one number a row."""
    value, low, high = columns
    write = _writer(unit, table[value])
    _references(figure, reference)
    has = low in table and high in table and table[low].notna().any()
    kept = table.dropna(subset=value)
    if len(kept) <= 3:
        cells = [f"{_cell(row, columns, write)} ({_place(row, keys)})" for row in kept.to_dict("records")]
        said = f"{label} {'; '.join(cells)}"
    else:
        ends = [f"{write(row[value])} ({_place(row, keys)})" for row in _ends_of(kept, value)]
        said = f"{label} from {ends[0]} to {ends[1]}"
    lines = {name: level for name, level in (reference or {}).items() if name}
    said += "".join(f", {name}: {write(level)}" for name, level in lines.items())
    shown = table[keys].rename(columns=_words)
    shown[label] = table[value].map(write)
    if has:
        ends = zip(table[low], table[high], strict=True)
        shown["95% interval"] = [_ends(one, other, write) for one, other in ends]
    counts = table["n"].dropna() if "n" in table else []
    if len(counts):
        shown["n"] = table["n"].map(lambda count: number(count, 0))
        counts = " to ".join(dict.fromkeys(number(end, 0) for end in (counts.min(), counts.max())))
    if hollow:
        shown[_words(hollow)] = table[hollow].map({True: "yes", False: "no"})
    below = [caption, f"bars: 95% interval{_method(table)}" if has else "", f"n = {counts}" if len(counts) else "",
             f"hollow: {_words(hollow)}" if hollow else ""]  # fmt: skip
    return _named(figure, title, said, shown, "; ".join(filter(None, below)))


def _named(figure: Figure, title: str, said: str, table: pd.DataFrame, caption: str) -> Figure:
    """The figure with its title, its one sentence, its table and its caption."""
    lines = fill(title, int(11 * figure.get_figwidth()))
    above = 0.12 + 0.24 * (1 + lines.count("\n"))  # inches
    keys = [legend for legend in figure.legends if not legend.get_in_layout()]
    rows = sum(-(-len(legend.get_texts()) // legend._ncols) for legend in keys)
    header = above + 0.24 * rows + 0.04
    height = figure.get_figheight() + header
    figure.set_figheight(height)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - header / height))
    left = 0.08 / figure.get_figwidth()
    figure.text(left, 1 - 0.08 / height, lines, va="top", fontsize=mpl.rcParams["figure.titlesize"])
    for legend in keys:
        legend.set_bbox_to_anchor((left, 1 - above / height), figure.transFigure)
    mark = "" if title.endswith(("?", "!")) else " –" if ":" in title else ":"
    figure.title, figure.alt_text = title, f"{title.rstrip('.:')}{mark} {' '.join(said.split())}."
    figure.table, figure.caption = table, caption[:1].upper() + caption[1:]
    return figure


def _cell(item: Mapping, columns: tuple[str, str, str], write: Callable) -> str:
    value, low, high = columns
    return f"{write(item[value])} {_ends(item.get(low), item.get(high), write)}".strip()


def _ends_of(table: pd.DataFrame, value: str) -> list[dict]:
    """The rows with the least and the largest number; the first row twice, if there is no number."""
    order = table.sort_values(value, kind="stable", na_position="first").to_dict("records")
    return [next((row for row in order if pd.notna(row[value])), order[0]), order[-1]]


def _ends(low, high, write: Callable) -> str:
    return interval(low, high, lambda end: write(end).removesuffix("%"))


def _spread(values: pd.Series, write: Callable) -> str:
    if len(values) < 2:
        return write(values.iloc[0]) if len(values) else ""
    return f"{write(values.min())} to {write(values.max())} ({len(values)})"


def _writer(unit: str, values: pd.Series, digits: int | None = None) -> Callable:
    """How numbers are written: shares as percent, differences as points, others by size."""
    if unit == "percent":
        return lambda value: f"{in_percent(value)}%" if pd.notna(value) else in_percent(value)
    if unit == "points":
        return in_points
    if digits is None:
        size = float(values.abs().max())
        whole = (values.dropna() % 1 == 0).all()
        digits = 0 if whole or size >= 100 else 1 if size >= 20 else 2 if size >= 0.2 else 4
    return lambda value: number(value, digits)


def _method(table: pd.DataFrame) -> str:
    methods = " ".join(table["method"].astype(str)) if "method" in table else ""
    kinds = [name for name in ("bootstrap", "Wilson", "Newcombe") if name in methods]
    clustered = ", clustered" if "clusters" in methods else ""
    return f" ({' or '.join(kinds)}{clustered})" if kinds else ""


def _label(table: pd.DataFrame, value: str) -> str:
    """What the numbers are: the table's only metric in words, else "share"."""
    metrics = table["metric"].unique() if "metric" in table else [value]
    if len(metrics) > 1 or metrics[0] == "value":
        return "share of replies"
    return LABELS.get(metrics[0], _words(metrics[0]))


def _levels(table: pd.DataFrame, column: str | None) -> list:
    return [None] if column is None else list(table[column].unique())


def _part(table: pd.DataFrame, wanted: Mapping) -> pd.DataFrame:
    for column, level in wanted.items():
        if column is not None:
            table = table[table[column] == level]
    return table


def _place(item: Mapping, keys: Iterable[str | None]) -> str:
    return ", ".join(_level_name(key, item[key]) for key in keys if key is not None)


def _level_name(column: str, level) -> str:
    """A level in words; a bare number with the name of its column before it."""
    text = str(level)
    return f"{_words(column)} {text}" if text.replace(".", "").isdigit() else text


def _look(index: int, plain: bool = False) -> tuple[str, str]:
    return _colour(index), "o" if plain else MARKERS[index % 8]


def _colour(index: int) -> str:
    return COLOURS[index % 10]


def _offset(index: int, of: int) -> float:
    """Places side by side, centred, for ``of`` marks within one unit."""
    return (index - (of - 1) / 2) / max(of, 2)


def _both_sides(values: pd.DataFrame, least: float) -> tuple[float, float]:
    """Limits that reach equally far to both sides of zero."""
    far = 1.08 * max(least, float(np.nanmax(np.abs(values.to_numpy(dtype=float)))))
    return -far, far


def _short(value: float, digits: int) -> str:
    """For a small cell: no leading zero, nothing where nothing was measured."""
    text = "" if pd.isna(value) else number(value, digits)
    return text.replace("0.", ".", 1) if text.lstrip("−").startswith("0.") else text


def _wrapped(text, width: int) -> str:
    return fill(str(text), max(8, int(width)), break_on_hyphens=False, break_long_words=False)


def _words(column: str) -> str:
    return str(column).replace("_", " ")


# ruff: noqa: E402, F401, I001 - the plots that chapters still call; they go
from rimkit.teaching import old_figures
from rimkit.teaching.old_figures import agreement_plot, change_plot, correlation_plot, difference_plot, dose_panels
from rimkit.teaching.old_figures import dose_plot, effect_panels, heat_maps, line_plot, placebo_plot, random_plot
from rimkit.teaching.old_figures import rate_plot, scatter_plot
