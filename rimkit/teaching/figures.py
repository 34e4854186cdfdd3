"""Figures: tidy table in, figure with alternative text out.

Every function takes a table of `rimkit.behavior.rates` and returns a matplotlib Figure with two attributes,
``title`` and ``alt_text`` (what the figure shows, in words, from the numbers that are drawn). Colours are
colour-blind safe and always doubled by marker shape. ``show`` puts a figure and its text into a notebook.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rimkit.errors import UserError, nearest

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

    ``rates``: the output of `rimkit.behavior.rates.rates`; ``label`` names the vertical axis (default: the
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

    ``effects``: rows of `rimkit.behavior.rates.Difference` (``effect, ci_low, ci_high, n``) with the column
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
