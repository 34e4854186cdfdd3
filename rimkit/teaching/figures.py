"""Figures: a tidy table and the names of its columns in, a matplotlib Figure out; knows no chapter.

Plots: `points`, `lines`, `forest`, `scatter`, `heatmap`, `bars`, `outcomes`, `dots`. Each returns a
Figure with ``title``, ``caption``, ``alt_text`` (one sentence, made from the numbers that are
drawn) and ``table`` (those numbers, as text); `show` puts all of them on the page. Order is that of
the table. Colours are colour-blind safe, and every colour has its own marker or dashes.

What the plots share: ``hue`` is told apart by colour and marker, ``facet`` by panels. Columns
``ci_low`` and ``ci_high`` are drawn as intervals. ``hollow`` names a column of booleans whose marks
are hollow, ``reference`` labels of lines at numbers, ``notes`` words under the names of panels.
With ``percent`` numbers are shares, on an axis from 0 to 100% unless ``limits`` says otherwise.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import cycle
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from rimkit.behavior import redaction
from rimkit.behavior.stats import rates
from rimkit.data import UserError, check_columns, data_dir, interval, number
from rimkit.data import percent as in_percent
from rimkit.data import points as in_points
from rimkit.teaching.tables import bare, estimate, html, with_outcomes

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
SMALL = {"textcoords": "offset points", "fontsize": 9.5}  # a word beside a line or a bar
SIGNS = {  # of an interval: colour, marker, words
    1: ("#a9373b", "^", "above zero"), -1: ("#2369bd", "v", "below zero"),
    0: ("0.45", "o", "zero inside the interval"), 2: ("0.45", "D", "no interval"),
}  # fmt: skip
_OUTCOMES = pd.read_csv(data_dir() / "outcomes.csv", keep_default_na=False)
_STYLES = pd.read_csv(data_dir() / "styles.csv").to_numpy()  # of thoughts: one look in all figures
STYLES = {word: tuple(look) for word, *look in _STYLES}  # the first word that a name holds counts
OUTCOMES = {word: tuple(rest) for word, *rest in _OUTCOMES.to_numpy()}  # colour, hatch, colour of the number
LOW, HIGH = "ci_low", "ci_high"
WIDTH = 8.8  # inches: what a notebook shows without shrinking it
STYLE = mpl.rc_params_from_file(data_dir() / "figures.mplstyle", False, False)


@mpl.rc_context(STYLE)
def points(
    table: pd.DataFrame, x: str, *, title: str, hue: str | None = None, facet: str | None = None,
    value: str = "value", label: str = "", percent: bool = True, joined: bool = False,
    hues: Sequence | None = None, limits: tuple[float, float] | None = None,
    reference: Mapping[str, float] | None = None, caption: str = "", free: bool = False,
) -> Figure:  # fmt: skip
    """Numbers by category: those of ``x`` along the axis, those of ``hue`` side by side. ``joined``
    draws a line through the points of a hue. ``hues`` fixes which hue gets which colour, whichever
    of them are there. ``free`` gives every panel its own axis of numbers."""
    keys = _keys(table, [facet, x, hue], value)
    label, looks = label or _label(table, value), _looks(table, hue, hues)
    width = max(5.5, 3.4 + 0.42 * len(table)) if facet is None else WIDTH
    figure, panels = _columns(table, x, facet, min(WIDTH, width), label, sharey=not free)
    for axis, part, places in panels:
        for index, (name, look) in enumerate(looks.items()):
            here = _part(part, {hue: name})
            spots = _spots(here[x], places) + 0.7 * _offset(index, len(looks)) * (hue != x)
            if joined:
                axis.plot(spots, here[value], color=look[0], linewidth=1.2, alpha=0.5)
            _mark(axis, spots, here[value], here, look)
    unit, legend = _shares(figure, percent, limits), _handles(table, None if hue == x else hue, looks)
    return _finish(figure, title, table, keys, label, value, unit, caption, None, reference, legend)


@mpl.rc_context(STYLE)
def lines(
    table: pd.DataFrame, x: str, y: str = "value", *, title: str, hue: str | None = None,
    facet: str | None = None, row: str | None = None, x_label: str = "", y_label: str = "",
    caption: str = "", percent: bool = True, log_x: bool = False,
    hollow: str | None = None, limits: tuple[float, float] | None = None, notes: Mapping | None = None,
    reference: Mapping[str, float] | None = None, x_reference: Mapping[str, float] | None = None,
) -> Figure:  # fmt: skip
    """Curves over a number (a dose, a layer, a step): a colour and dashes per ``hue``. A panel per
    ``facet``, and a row of panels per ``row``. ``x_reference`` marks places along the axis. With
    more than 16 points a line no intervals are drawn."""
    keys = _keys(table, [facet, row, hue, x], y)
    if not pd.api.types.is_numeric_dtype(table[x]):
        raise UserError(f"a line needs numbers, and the column '{x}' has none; use points for categories")
    y_label, x_label = y_label or _label(table, y), x_label or _words(x)
    looks, reach = _looks(table, hue), float(np.ptp(table[x].to_numpy(dtype=float)))
    dashes = dict(zip(looks, cycle(DASHES), strict=False))
    size = (WIDTH, 3.6) if len(looks) > 6 else None  # room for a legend beside
    figure, panels = _panels(table, facet, row, labels=(x_label, y_label), size=size, notes=notes)
    for axis, part, _ in panels:
        for index, (name, look) in enumerate(looks.items()):
            here = _part(part, {hue: name}).sort_values(x, kind="stable")
            many = len(here) > 16
            shift = 0 if log_x or many else 0.02 * reach * _offset(index, len(looks))
            here = here.assign(**{x: here[x] + shift})  # so that no interval hides another
            axis.plot(here[x], here[y], dashes[name], color=look[0], linewidth=1.6, alpha=0.85)
            if many:
                here = here.iloc[index % 3 :: len(here) // 6].drop(columns=[LOW, HIGH], errors="ignore")
            _mark(axis, here[x], here[y], here, look, hollow, area=32)
        if log_x:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,g}"))
    _references(figure, x_reference, 0.03)
    unit, legend = _shares(figure, percent, limits), _handles(table, hue, looks, dashes)
    return _finish(figure, title, table, keys, y_label, y, unit, caption, hollow, reference, legend)


@mpl.rc_context(STYLE)
def forest(
    table: pd.DataFrame, y: str | Sequence[str], *, title: str, hue: str | None = None,
    facet: str | None = None, effect: str = "effect", ends: str = "ci", unit: str = "points",
    x_label: str = "", smallest_effect: float = 0, words: str | None = None, hollow: str | None = None,
    limits: tuple[float, float] | None = None, notes: Mapping | None = None, caption: str = "",
    paper: Mapping | float | None = None,
) -> Figure:  # fmt:  # fmt: skip
    """Effects with intervals around zero, a line per level of ``y`` (several columns are joined).
    In the ``unit`` "points" effects are differences of shares, drawn in percentage points; in any
    other as they are. Without ``hue``, colour and marker say whether the interval lies above zero,
    below it, or holds it. In a single panel the numbers stand beside their line, or the column
    ``words``. ``smallest_effect`` shades what is too small to matter; ``ends``_low and _high hold
    the intervals; ``paper`` is the paper's number, of each panel or of the only one."""
    named = {LOW: f"{ends}_low", HIGH: f"{ends}_high"}
    table = table.assign(**{name: table[column] for name, column in named.items() if column in table})
    names = [y] if isinstance(y, str) else list(y)
    keys = _keys(table, [facet, *names, hue], effect, *filter(None, [words]))
    scale = 100 if unit == "points" else 1
    x_label = x_label or ("difference in percentage points" if unit == "points" else unit)
    line_of = table[names].astype(str).agg(", ".join, axis=1)
    drawn = table.reindex(columns=dict.fromkeys([*table, LOW, HIGH])).assign(_line=line_of)
    drawn[[effect, LOW, HIGH]] *= scale
    drawn["_sign"] = np.where(drawn[LOW] > 0, 1, np.where(drawn[HIGH] < 0, -1, 0))
    drawn.loc[drawn[LOW].isna() & drawn[LOW].notna().any(), "_sign"] = 2
    places = _levels(drawn, "_line")
    looks = {sign: SIGNS[sign][:2] for sign in SIGNS} if hue is None else _looks(table, hue)
    once = not drawn.duplicated([*filter(None, [facet]), "_line"]).any()  # one mark a line
    height = 0.9 + len(places) * (0.36 if once else 0.2 + 0.15 * len(looks)) + 0.3 * bool(facet)
    look = {"labels": (x_label, ""), "size": (WIDTH, height), "columns": 5, "grid": "x"}
    figure, panels = _panels(drawn, facet, notes=notes, **look)
    far = scale * max(map(abs, paper.values() if isinstance(paper, Mapping) else [paper or 0]), default=0)
    for axis, part, panel in panels:
        axis.axvspan(-scale * smallest_effect, scale * smallest_effect, color="0.92", zorder=0)
        axis.axvline(0, color="0.2", linewidth=1)
        for index, (level, look) in enumerate(looks.items()):
            here = _part(part, {hue or "_sign": level})
            side = 0 if once else 0.7 * _offset(index, len(looks))
            _mark(axis, here[effect], _spots(here["_line"], places) + side, here, look, hollow)
        theirs = paper.get(panel) if isinstance(paper, Mapping) else paper
        if theirs is not None:
            axis.axvline(scale * theirs, **REFERENCE)
        axis.set_xlim(limits or _both_sides(drawn[[effect, LOW, HIGH]], max(5 * (scale == 100), far)))
        axis.xaxis.set_major_locator(MaxNLocator(4 if len(panels) > 3 else 5 if facet else 9))
    axis = figure.axes[0]
    axis.set_yticks(range(len(places)), [_wrapped(line, 36) for line in places])
    axis.set_ylim(len(places) - 0.4, -0.6)
    write = _writer(unit, table[effect])
    for item, line in zip(table.to_dict("records"), line_of, strict=True):
        if once and facet is None:
            text = str(item[words] or "") if words else estimate(item, effect, write)
            spot = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 10}
            axis.annotate(text, (1.01, places.index(line)), **spot)
    known = set(drawn.dropna(subset=[effect])["_sign"]) if drawn[LOW].notna().any() else set()
    signs = [_key(look, said) for sign, (*look, said) in SIGNS.items() if sign in known]
    legend = _handles(table, hue, looks) if hue else signs
    legend += [_key(("0.25", ""), "the paper's number", "--")] if far else []
    grey = f"grey: under {scale * smallest_effect:g} {unit}" if smallest_effect else ""
    caption = "; ".join(filter(None, (caption, grey)))
    return _finish(figure, title, table, keys, x_label, effect, unit, caption, hollow, legend=legend)


@mpl.rc_context(STYLE)
def scatter(
    table: pd.DataFrame, x: str, y: str, *, title: str, hue: str | None = None,
    facet: str | None = None, x_label: str = "", y_label: str = "", line: bool = False,
    free: bool = False, hollow: str | None = None, words: str | None = None, front: Sequence = (),
    x_limits: tuple[float, float] | None = None, y_limits: tuple[float, float] | None = None,
    reference: Mapping[str, float] | None = None, caption: str = "",
) -> Figure:  # fmt:  # fmt: skip
    """One number against another, a colour and marker per ``hue``. ``line`` draws the line on which
    both are equal, on equal axes; ``free`` gives every panel its own axes. The column ``words``
    stands beside the points. Stairs join the points that are named there in ``front``: those that
    none beats, where more ``x`` and less ``y`` are better."""
    keys, looks = _keys(table, [facet, words, hue], x, y, once=False), _looks(table, hue)
    x_label, y_label = labels = x_label or _words(x), y_label or _words(y)
    figure, panels = _panels(table, facet, labels=labels, sharex=not free, sharey=not free)
    for axis, part, _ in panels:
        if line:
            reach = _both_sides(table[[x, y]], 0)
            axis.plot(reach, reach, "--", color="0.5", linewidth=1)
            axis.set(xlim=reach, ylim=reach)
        axis.set(**{name: ends for name, ends in (("xlim", x_limits), ("ylim", y_limits)) if ends})
        for name, look in looks.items():
            here = _part(part, {hue: name})
            _mark(axis, here[x], here[y], here, look, hollow, area=36, alpha=0.75)
        if words:
            best = part[part[words].isin(front)].sort_values(x)
            axis.step(best[x], best[y], where="pre", color="C4", linewidth=5, alpha=0.5, zorder=1)
            lowest, tall = -np.inf, np.ptp(axis.get_ylim())
            for name, *spot in part[part[words] != ""].sort_values(y)[[words, x, y]].to_numpy():
                lowest = max(spot[1], lowest + 0.06 * tall)  # or names overlap
                level = part[((part[y] - lowest).abs() < 0.05 * tall) | part[words].isin(front)]
                gaps = (level[x] - spot[0]) / np.ptp(axis.get_xlim())  # what a name would run into
                side, offset = ("right", -8) if gaps.between(0.05, 0.25).any() else ("left", 8)
                axis.annotate(name, (spot[0], lowest), (offset, 0), ha=side, va="center", **SMALL)
        axis.xaxis.set_major_locator(MaxNLocator(3 if len(panels) > 2 else 5))
        if "%" in x_label:  # room for names lies beyond 100%, ticks do not
            low, high = axis.get_xlim()
            axis.set_xticks([tick for tick in axis.get_xticks() if low <= tick <= min(100, high)])
    _references(figure, reference)
    spans, texts = [], {}
    for name, axis_label in ((x, x_label), (y, y_label)):
        write = _writer("", table[name])
        spans.append(f"{axis_label} from {write(table[name].min())} to {write(table[name].max())}")
        texts[axis_label] = table[name].map(write)
    said = f"{len(table)} points, {', '.join(spans)}"
    if facet:
        full = (table[~table[hollow]] if hollow else table).groupby(facet, sort=False)
        each = [f"{number(part[x].corr(part[y]))} ({name})" for name, part in full if len(part) > 5]
        said += f", correlation as drawn {', '.join(each)}" if each else ""
    shown = table[keys].rename(columns=_words).assign(**texts)
    legend = _handles(table, hue, looks) + [_key(("C4", ""), "the front", "-")] * bool(front)
    return _named(figure, title, said, shown, caption, legend)


@mpl.rc_context(STYLE)
def heatmap(
    table: pd.DataFrame, rows: str, columns: str, value: str, *, title: str,
    facet: str | None = None, label: str = "", limits: tuple[float, float] | None = None,
    centre: float | None = None, digits: int = 2,
) -> Figure:  # fmt: skip
    """One map per ``facet``, the number in every cell; numeric rows count upwards, as layers do.
    ``centre`` is the value that means nothing (0 for an effect, 0.5 for an area under the curve):
    the colours diverge from it and reach equally far to both sides. ``limits`` are the ends of the
    colour scale. Missing cells stay empty; so do those that round to a ``centre`` of 0."""

    def short(cell: float) -> str:
        return "" if pd.isna(cell) or centre == 0 == round(cell, digits) else number(cell, digits)

    _keys(table, [facet, rows, columns], value)
    label, panels = label or _words(value), _levels(table, facet)
    shape = {"index": rows, "columns": columns, "values": value, "sort": False, "aggfunc": "first"}
    grids = {panel: _part(table, {facet: panel}).pivot_table(**shape) for panel in panels}
    low, high = limits or (float(table[value].min()), float(table[value].max()))
    if centre is not None:
        far = max(abs(low - centre), abs(high - centre)) or 1.0
        low, high = centre - far, centre + far
    palette = sns.color_palette("vlag" if centre is not None else "Blues", as_cmap=True)
    widths = [max(3, grid.shape[1]) for grid in grids.values()]
    tall = max(len(str(text)) for text in table[columns]) > 3
    height = 1.0 + 0.36 * max(map(len, grids.values())) + 0.6 * tall
    figure = Figure((max(5.5, min(WIDTH, 2.2 + 0.6 * sum(widths))), height), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axis, (panel, grid) in zip(axes, grids.items(), strict=True):
        sns.heatmap(
            grid, ax=axis, cmap=palette, vmin=low, vmax=high, cbar=axis is axes[-1], linewidths=0.5,
            annot=grid.map(short), fmt="", annot_kws={"fontsize": 9},
            cbar_kws={"label": label, "shrink": 0.9},
        )  # fmt: skip
        axis.set(title=_wrapped("" if panel is None else panel, 24), xlabel=_words(columns), ylabel="")
        if pd.api.types.is_numeric_dtype(grid.index):
            axis.invert_yaxis()
        texts = [_wrapped(_words(text), 12) for text in grid.columns]
        axis.set_xticklabels(texts, rotation=90 if tall else 0)
        axis.tick_params(axis="y", rotation=0)
    axes[0].set_ylabel(_words(rows))
    write = _writer("", table[value], digits)
    ends = [f"{write(end[value])} ({_place(end, [facet, rows, columns])})" for end in _ends_of(table, value)]
    shown = pd.concat({panel: grid.map(write) for panel, grid in grids.items()}, names=[facet])
    shown = shown.reset_index() if facet else shown.droplevel(0).reset_index()
    return _named(figure, title, f"{label} from {' to '.join(ends)}", shown)


@mpl.rc_context(STYLE)
def bars(
    table: pd.DataFrame, x: str, y: str, *, title: str, facet: str | None = None, label: str = "",
    marked: Iterable = (),
) -> Figure:  # fmt: skip
    """Lengths with their numbers: a bar per category of ``x``, as long as the number ``y``. Bars of
    the categories ``marked`` are hatched."""
    keys = _keys(table, [facet, x], y)
    label, marked, places = label or _words(y), set(marked), _levels(table, x)
    look = {"labels": (label, _words(x)), "size": (WIDTH, 0.9 + 0.34 * len(places)), "grid": "x"}
    figure, panels = _panels(table, facet, **look)
    low, high = min(0, float(table[y].min())), float(table[y].max())
    room = (high - low) / 4  # for the numbers
    for axis, part, _ in panels:
        lengths = part.set_index(x)[y].reindex(places)
        colours = ["0.75" if marked and place not in marked else COLOURS[0] for place in places]
        look = {"color": colours, "hatch": ["//" if place in marked else "" for place in places]}
        drawn = axis.barh(range(len(places)), lengths.fillna(0), 0.75, edgecolor="white", **look)
        axis.bar_label(drawn, [*lengths.map(_writer("", table[y]))], padding=4, fontsize=10)
        axis.set_xlim(low - 1.5 * room * (low < 0), high + room)
        axis.set_xticks([at for at in MaxNLocator(4).tick_values(low, high) if low <= at <= high])
        axis.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,g}"))
    figure.axes[0].set_yticks(range(len(places)), [_wrapped(place, 32) for place in places])
    figure.axes[0].set_ylim(len(places) - 0.4, -0.6)
    return _finish(figure, title, table, keys, label, y)


@mpl.rc_context(STYLE)
def outcomes(judged: pd.DataFrame, by: str, *, title: str, caption: str = "") -> Figure:
    """What became of the replies: a bar per category of ``by``, split into `OUTCOMES`; what
    answers otherwise is coherent and none of the others. Below a bar: the interval of its first."""
    table = rates(with_outcomes(judged), by, list(OUTCOMES))
    places, start = _levels(table, by), 0.0
    size = WIDTH, 0.9 + 0.38 * len(places)
    figure, ((axis, *_),) = _panels(table, None, labels=("share of replies", ""), size=size, grid="x")
    for name, (colour, hatch, ink) in OUTCOMES.items():
        lengths = table.loc[table["metric"] == name, "value"].fillna(0).to_numpy()  # no reply
        drawn = axis.barh(range(len(places)), lengths, 0.72, start, color=colour, hatch=hatch, edgecolor="white")
        words = [in_percent(length) if length > 0.015 else "" for length in lengths]
        back = {"facecolor": colour, "edgecolor": "none", "pad": 1}
        axis.bar_label(drawn, words, label_type="center", color=ink, fontsize=10, bbox=back)
        start = start + lengths
    ends = table[table["metric"] == "misaligned"][[LOW, HIGH]].to_numpy(float).T
    axis.hlines(np.arange(len(places)) + 0.44, *ends, color="black", linewidth=1.6)
    axis.set_yticks(range(len(places)), [_wrapped(place, 32) for place in places])
    axis.set(xlim=(0, 1), ylim=(len(places) - 0.4, -0.6))
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend = [_key((colour, "s"), name) for name, (colour, *_) in OUTCOMES.items()]
    _finish(figure, title, table, [by, "metric"], "share of replies", "value", "percent", legend=legend)
    figure.caption = caption or "Line below a bar: 95% interval of misaligned"
    return figure


@mpl.rc_context(STYLE)
def dots(table: pd.DataFrame, x: str, *, title: str, facet: str | None = None, label="", percent=True) -> Figure:
    """One selected set among single random ones, in a column per category of ``x``. The
    column ``role`` says what a row is: "random" is a grey dot, "selected" the red diamond, and
    every other role (nothing switched off, another rule) has a mark of its own."""
    columns = _keys(table, [facet, x], "role", "value", once=False)
    label = label or _label(table, "value")
    looks = {"random": ("0.6", "o"), "selected": (COLOURS[3], "D")}
    others = [name for name in _levels(table, "role") if name not in looks]
    looks |= {name: (COLOURS[n], MARKERS[n]) for name, n in zip(others, (4, 1, 2, 5, 6), strict=False)}
    width = min(WIDTH, 3.0 + 1.1 * len(_levels(table, x)) * len(_levels(table, facet)))
    figure, panels = _columns(table, x, facet, max(5.5, width), label)
    for axis, part, places in panels:
        for index, (name, look) in enumerate(looks.items()):
            here = part[part["role"] == name]
            together = part.groupby(x)["role"].nunique().max() > 1  # or marks would hide each other
            spots = _spots(here[x], places) + 0.4 * together * _offset(index, len(looks))
            if name == "random":
                spots += np.random.default_rng(0).uniform(-0.25, 0.25, len(here))
            area, alpha = (20, 0.6) if name == "random" else (75, 1)
            _mark(axis, spots, here["value"], here, look, area=area, alpha=alpha)
    write = _writer(_shares(figure, percent), table["value"])
    here = [name for name in looks if (table["role"] == name).any()]
    legend = [_key(looks[name], name) for name in here]

    def spread(values: pd.Series) -> str:
        ends = f"{write(values.min())} to {write(values.max())} ({len(values)})"
        return ends if len(values) > 1 else write(values.iloc[0])

    shown = table.groupby([*columns, "role"], sort=False)["value"].agg(spread).unstack(sort=False)[here]
    shown = shown.fillna("").rename_axis(columns=None).rename_axis(list(map(_words, columns))).reset_index()
    first = shown.iloc[0].astype(str)
    place = ", ".join(first[[_words(column) for column in columns]])
    also = f" and {len(shown) - 1} more" if len(shown) > 1 else ""
    said = "; ".join(f"{name} {first[name]}" for name in here if first[name])
    return _named(figure, title, f"{label} for {place}{also}, {said}", shown, legend=legend)


def show(figure: Figure) -> None:
    """Put the figure into a notebook: image, sentence, caption, and its table behind a fold."""
    from IPython.display import display

    alt, caption = (escape(redaction.scrub(words)) for words in (figure.alt_text, figure.caption))
    source = f"data:image/png;base64,{b64encode(image(figure)).decode()}"
    page = (
        f'<figure style="margin:0"><img alt="{alt}" width="{round(96 * figure.get_figwidth())}" '
        f'style="max-width:100%;background:#fff" src="{source}">'
        f"<figcaption><small>{caption}</small><details><summary>The numbers of this figure</summary>"
        f"{html(figure.table)}</details></figcaption></figure>"
    )
    display({"text/html": page, "text/plain": f"Figure: {figure.alt_text}"}, raw=True)


def image(figure: Figure, kind: str = "png", dpi: int = 144) -> bytes:
    """The figure as "png" or "svg", with its title and its sentence; always the same bytes."""
    buffer, words = BytesIO(), {"Title": figure.title, "Description": figure.alt_text}
    words |= {"Date": None} if kind == "svg" else {}
    with mpl.rc_context(STYLE | {"svg.hashsalt": figure.title}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=words)
    return buffer.getvalue()


def _keys(table: pd.DataFrame, columns: Iterable[str | None], *values: str, once: bool = True) -> list[str]:
    """The columns that are named, checked: they are there, and they tell the rows apart."""
    keys = list(dict.fromkeys(column for column in columns if column is not None))
    check_columns(table, (*keys, *values), "the table")
    if table.empty:
        raise UserError("the table is empty: there is nothing to draw")
    if once and table.duplicated(keys).any():
        metrics = table["metric"].unique() if "metric" in table and "metric" not in keys else []
        choose = f"choose one metric of {', '.join(map(str, metrics))}" if len(metrics) > 1 else "filter"
        raise UserError(f"several numbers for one place: {', '.join(keys)} do not tell them apart; {choose}")
    return keys


def _panels(
    table: pd.DataFrame, facet: str | None, row: str | None = None, *, labels: tuple[str, str],
    size=None, notes: Mapping | None = None, columns: int = 4, grid: str = "y", **shape,
) -> tuple[Figure, list[tuple]]:  # fmt: skip
    """An empty figure, and of each panel its axis, its part of the table and its level."""
    across, down = _levels(table, facet), _levels(table, row)
    n_columns = len(across) if row else min(columns, len(across))
    n_rows = len(down) if row else -(-len(across) // n_columns)
    size = size or (WIDTH if n_columns > 1 else 7.6, 1.0 + (2.3 if n_columns > 1 else 2.6) * n_rows)
    figure = Figure(size, layout="constrained")
    if n_rows > 1:
        shape.pop("width_ratios", None)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **{"sharex": True, "sharey": True} | shape)
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
    labels = labels[0], _wrapped(labels[1], 9 * size[1])
    if len(panels) == 1:
        axes[0, 0].set(xlabel=labels[0], ylabel=labels[1])
    else:
        figure.supxlabel(labels[0])
        figure.supylabel(labels[1])
    return figure, panels


def _columns(
    table: pd.DataFrame, x: str, facet: str | None, width: float, label: str, sharey: bool = True
) -> tuple[Figure, list[tuple]]:  # fmt: skip
    """Panels with the categories of ``x`` side by side; of each its axis, part and categories."""
    at = {panel: _levels(_part(table, {facet: panel}), x) for panel in _levels(table, facet)}
    room = min(13, 11 * width / sum(map(len, at.values())) - 1)  # letters
    ticks = {place: _wrapped(place, room, hyphens=True) for place in table[x]}
    n_lines = 1 + max(text.count("\n") for text in ticks.values())
    widths = [max(2, len(places)) for places in at.values()]
    look = {"labels": (_words(x), label), "size": (width, 2.9 + 0.15 * n_lines)}
    figure, panels = _panels(table, facet, sharex=False, sharey=sharey, width_ratios=widths, **look)
    for axis, _, panel in panels:
        axis.set_xticks(range(len(at[panel])), [ticks[place] for place in at[panel]])
        axis.set_xlim(-0.6, len(at[panel]) - 0.4)
    return figure, [(axis, part, at[panel]) for axis, part, panel in panels]


def _mark(axis, x, y, part, look, hollow=None, area: float = 46, alpha: float = 1) -> None:
    """Marks with their intervals, along the axis whose numbers come from the table."""
    colour, marker = look
    if LOW in part and HIGH in part:
        upright = isinstance(y, pd.Series)
        draw = axis.vlines if upright else axis.hlines
        draw(x if upright else y, part[LOW], part[HIGH], color=colour, linewidth=1.6, alpha=alpha)
    faces = [("white" if empty else colour) for empty in part[hollow]] if hollow else colour
    look = {"marker": marker, "edgecolors": colour, "alpha": alpha, "zorder": 3, "clip_on": False}
    axis.scatter(x, y, s=area, c=faces, **look)


def _references(figure: Figure, reference: Mapping | None, height: float | None = None) -> None:
    """A dashed line in every panel, named in the last; or upright, named in the first at a height."""
    for name, value in (reference or {}).items():
        for axis in figure.axes:
            (axis.axhline if height is None else axis.axvline)(value, **REFERENCE)
        spot, at, place = {"xycoords": ("axes fraction", "data"), "va": "center"}, (1, value), -1
        if height is not None:
            spot, at, place = {"xycoords": ("data", "axes fraction")}, (value, height), 0
        figure.axes[place].annotate(_wrapped(name, 14), at, (5, 0), **spot, **SMALL)


def _shares(figure: Figure, percent: bool = True, limits: tuple[float, float] | None = None) -> str:
    """The vertical axis from 0 to 100% for shares, or between ``limits``; returns the unit."""
    low, high = limits or ((0, 1) if percent else (None, None))
    for axis in figure.axes:
        if high is not None:
            axis.set_ylim(low - 0.02 * (high - low), high + 0.02 * (high - low))
        if percent:
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return "percent" if percent else ""


def _handles(table: pd.DataFrame, column: str | None, looks: Mapping, dashes: Mapping = {}) -> list[Line2D]:
    """What a legend shows: the levels of a column that are there."""
    there = [] if column is None else [level for level in looks if (table[column] == level).any()]
    return [_key(looks[level], _level_name(column, level), dashes.get(level, "")) for level in there]


def _key(look: Sequence[str], label: str, dash: str = "") -> Line2D:
    label = _wrapped(label, 32 if dash else 60)
    return Line2D([], [], color=look[0], marker=look[1], markersize=7, linestyle=dash, label=label)


def _finish(
    figure: Figure, title: str, table: pd.DataFrame, keys: list[str], label: str, value: str,
    unit: str = "", caption: str = "", hollow: str | None = None, reference: Mapping | None = None,
    legend: Sequence[Line2D] = (),
) -> Figure:  # fmt: skip
    """The sentence, table and caption of a plot of one number a row."""
    write = _writer(unit, table[value])
    _references(figure, reference)
    kept = table.dropna(subset=value)
    if len(kept) <= 3:
        rows = kept.to_dict("records")
        cells = [f"{estimate(row, value, write)} ({_place(row, keys)})" for row in rows]
        said = f"{label} {'; '.join(cells)}"
    else:
        ends = [f"{write(row[value])} ({_place(row, keys)})" for row in _ends_of(kept, value)]
        said = f"{label} from {ends[0]} to {ends[1]}"
    said += "".join(f", {name}: {write(level)}" for name, level in (reference or {}).items())
    shown = table[keys].rename(columns=_words).assign(**{label: table[value].map(write)})
    below = [caption]
    if LOW in table and HIGH in table and table[LOW].notna().any():
        ends = table[[LOW, HIGH]].to_numpy()
        shown["95% interval"] = [interval(low, high, bare(write)) for low, high in ends]
        below.append(f"bars: 95% interval{_method(table)}")
    counts = table["n"].dropna() if "n" in table else []
    if len(counts):
        shown["n"] = table["n"].map(lambda count: number(count, 0))
        ends = dict.fromkeys(number(end, 0) for end in (counts.min(), counts.max()))
        below.append(f"n = {' to '.join(ends)}")
    if hollow:
        shown[_words(hollow)] = table[hollow].map({True: "yes", False: "no"})
        below.append(f"hollow: {_words(hollow)}")
    return _named(figure, title, said, shown, "; ".join(filter(None, below)), legend)


def _named(
    figure: Figure, title: str, said: str, table: pd.DataFrame, caption: str = "", legend: Sequence[Line2D] = ()
) -> Figure:
    """The figure with its title, its one sentence, its table and its caption; the legend stands
    under the title, or beside the panels if there is much to say."""
    width, lines = figure.get_figwidth(), fill(title, int(11 * figure.get_figwidth()))
    above = 0.12 + 0.24 * (1 + lines.count("\n"))  # inches
    lengths = [len(key.get_label()) + (4 if key.get_linestyle() == "None" else 8) for key in legend]
    columns = min(len(legend), int(12 * width / max(lengths, default=1)))
    beside = len(legend) > 4 and columns < 2
    header = above + 0.04 + (0 if beside else 0.24 * -(-len(legend) // max(1, columns)))
    height = figure.get_figheight() + header
    figure.set_figheight(height)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - header / height))
    figure.text(0.08 / width, 1 - 0.08 / height, lines, va="top", fontsize=mpl.rcParams["figure.titlesize"])
    look = {"columnspacing": 1.4, "handletextpad": 0.5, "borderaxespad": 0, "borderpad": 0.2}
    if beside:
        figure.legend(handles=legend, loc="outside right center", **look)
    elif legend:
        look |= {"loc": "upper left", "ncols": max(1, columns)}
        keys = figure.legend(handles=legend, bbox_to_anchor=(0.08 / width, 1 - above / height), **look)
        keys.set_in_layout(False)
    mark = "" if title.endswith(("?", "!")) else " –" if ":" in title else ":"
    figure.title, figure.alt_text = title, f"{title.rstrip('.:')}{mark} {' '.join(said.split())}."
    figure.table, figure.caption = table, caption[:1].upper() + caption[1:]
    return figure


def _ends_of(table: pd.DataFrame, value: str) -> list[dict]:
    """The rows with the least and the largest number."""
    known = table.dropna(subset=value)
    order = (known if len(known) else table).sort_values(value, kind="stable")
    return order.iloc[[0, -1]].to_dict("records")


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
    methods = " ".join(table["method"].dropna()) if "method" in table else ""
    kinds = [name for name in ("bootstrap", "Wilson", "Newcombe") if name in methods]
    clustered = ", clustered" if "clusters" in methods else ""
    return f" ({' or '.join(kinds)}{clustered})" if kinds else ""


def _label(table: pd.DataFrame, value: str) -> str:
    """What the numbers are: the table's only metric in words, else "share"."""
    metrics = table["metric"].unique() if "metric" in table else [value]
    several = len(metrics) > 1 or metrics[0] == "value"
    return "share of replies" if several else LABELS.get(metrics[0], _words(metrics[0]))


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


def _looks(table: pd.DataFrame, column: str | None, levels: Sequence | None = None) -> dict:
    """Colour and marker of every level: those of `STYLES` where one of the levels is a style, and
    those of `SIGNS` where a level is one of its words."""
    levels, signs = levels or _levels(table, column), {words: look for *look, words in SIGNS.values()}
    words = [[word for word in STYLES if word in str(level)] for level in levels]
    known = ["both" if {"careful", "effort"} <= {*one} else (one or [""])[0] for one in words]
    known = known if {"careful", "effort"} & set(known) else [""] * len(levels)
    looks = [signs.get(one, (COLOURS[n % 10], MARKERS[n % 8])) for n, one in enumerate(levels)]
    return {level: STYLES.get(word, look) for level, word, look in zip(levels, known, looks, strict=True)}


def _spots(names: pd.Series, places: list) -> np.ndarray:
    return names.map(places.index).to_numpy(dtype=float)


def _offset(index: int, of: int) -> float:
    """Places side by side, centred, for ``of`` marks within one unit."""
    return (index - (of - 1) / 2) / max(of, 2)


def _both_sides(values: pd.DataFrame, least: float) -> tuple[float, float]:
    """Limits that reach equally far to both sides of zero."""
    far = 1.08 * max(least, float(np.nanmax(np.abs(values.to_numpy(dtype=float)))))
    return -far, far


def _wrapped(text, width: float, hyphens: bool = False) -> str:
    return fill(str(text), max(8, int(width)), break_on_hyphens=hyphens, break_long_words=False)


def _words(column: str) -> str:
    return str(column).replace("_", " ")
