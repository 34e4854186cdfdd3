"""Figures of what the paper drew without a table: bars with their numbers, and before and after with implied levels.

As those of `rimkit.teaching.paper_figures`: a tidy table in, a matplotlib Figure with ``title`` and ``alt_text`` out.

Figures of published numbers: what the paper drew, drawn again so that single models and averages show.

Every function takes a tidy table and returns a matplotlib Figure with ``title`` and ``alt_text``, as those of
`rimkit.teaching.figures`. Colours are colour-blind safe and doubled by marker or line style.

The figure of the claims page: all that is known about one claim, one line per model and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rimkit.paper.tables import MODELS
from rimkit.teaching.old_figures import MARKERS, STYLE, _bars, _colour, _frame, _levels, _named, _need, _offset, _part

# -- teaching.drawn_figures ----------
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

    ``table``: as `rimkit.paper.tables.before_after`; ``known``: as `rimkit.paper.tables.known_rates`.
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


# -- teaching.paper_figures ----------
LINES = ("-", "--", ":", "-.")
DARKER = {6: "#882255", 8: "#7f7500", 9: "#2f8fc9"}  # of the palette: pale on white as thin lines and small points


def model_plot(
    table: pd.DataFrame,
    x: str,
    value: str,
    *,
    title: str,
    label: str,
    facet: str | None = None,
    paired: bool = False,
    without: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """One point per model and condition ``x``, with the mean (bar), the median (dots) and the mean ``without`` some.

    ``table``: columns ``model``, ``x``, ``value`` (drawn in its own unit, named by ``label``) and ``facet``, one panel
    each. ``paired`` joins the points of a model; ``limits`` are those of the vertical axis. Order is that of the table.
    """
    _need(table, ["model", x, value, *([facet] if facet else [])])
    panels, places = _levels(table, facet), _levels(table, x)
    models = sorted(_levels(table, "model"), key=_looks_of)
    with mpl.rc_context(STYLE):
        width = 2.2 + len(panels) * max(1.6, 0.95 * len(places))
        figure = Figure(figsize=size or (min(11, max(6.4, width)), 4.2), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            part = _part(table, {facet: panel})
            axis.axhline(0, color="0.2", linewidth=0.8)
            for index, model in enumerate(models):
                own = part[part["model"] == model]
                at = [places.index(place) + 0.5 * _offset(index, len(models)) for place in own[x]]
                if paired:
                    axis.plot(at, own[value], color=_ink(_looks_of(model)), alpha=0.5, linewidth=1.2)
                look = {"marker": MARKERS[_looks_of(model)], "color": _ink(_looks_of(model)), "label": model}
                axis.plot(at, own[value], markersize=6, linestyle="", **look)
            for place, name in enumerate(places):
                _middles(axis, place, part[part[x] == name], value, without)
            axis.set_xticks(range(len(places)), [fill(str(name), 13, break_long_words=False) for name in places])
            axis.set_xlim(-0.55, len(places) - 0.45)
            axis.set_title("" if facet is None else str(panel))
        axes[0].set_ylabel(label)
        axes[0].set_ylim(limits)
        handles, names = _once(*axes[0].get_legend_handles_labels())
        figure.legend(handles, names, loc="outside right center", fontsize=9)
        _frame(figure, title, "One point per model, measured once; no interval is published.")
    said = [
        _words_of(part, value, without, ", ".join(str(name) for name in (panel, place) if name is not None))
        for panel in panels
        for place in places
        if len(part := _part(table, {facet: panel, x: place}))
    ]
    return _named(figure, title, f"{label}, one point per model. {' '.join(said)}")


def _middles(axis, place: int, part: pd.DataFrame, value: str, without: Sequence[str]) -> None:
    """Mean, median and the mean without some models, as horizontal marks of different styles."""
    if len(part) < 3:
        return
    rest = part[~part["model"].isin(without)][value].mean() if without else None
    left_out = f"mean without {', '.join(without)}"
    marks = [(part[value].mean(), "-", "mean"), (part[value].median(), ":", "median"), (rest, "--", left_out)]
    for height, line, name in marks:
        if height is not None:
            axis.plot([place - 0.42, place + 0.42], [height] * 2, color="black", linestyle=line, label=fill(name, 22))


def _words_of(part: pd.DataFrame, value: str, without: Sequence[str], place: str) -> str:
    values = ", ".join(f"{item['model']} {_number(item[value])}" for item in part.to_dict("records"))
    if len(part) < 3:
        return f"{place}: {values}."
    rest = part[~part["model"].isin(without)][value].mean()
    left_out = f", mean without {' and '.join(without)} {_number(rest)}" if without else ""
    middle = f"mean {_number(part[value].mean())}, median {_number(part[value].median())}{left_out}"
    return f"{place}: {middle} ({values})."


def layer_plot(
    table: pd.DataFrame,
    value: str,
    hue: str,
    facet: str,
    *,
    title: str,
    label: str,
    notes: dict | None = None,
    columns: int = 3,
) -> Figure:
    """Curves over layers, one panel per ``facet``; ``table`` has the columns ``layer``, ``hue``, ``value``.

    ``notes``, such as how many prompts stand behind the curves, are written into the panels by name.
    """
    _need(table, ["layer", hue, facet, value])
    panels, hues, notes = _levels(table, facet), _levels(table, hue), notes or {}
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * columns + 1.2, 1.3 + 2.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            for index, name in enumerate(hues):
                part = _part(table, {facet: panel, hue: name})
                look = {
                    "color": _ink(index),
                    "linestyle": LINES[index % 4],
                    "marker": MARKERS[index],
                    "markevery": 6,
                }
                axis.plot(part["layer"], part[value], label=str(name), markersize=4.5, clip_on=False, **look)
            axis.set_title(str(panel), fontsize=10)
            axis.text(0.03, 0.52, notes.get(panel, ""), transform=axis.transAxes, va="center", fontsize=8.5)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis in axes[-1]:
            axis.set_xlabel("layer")
        for axis in axes[:, 0]:
            axis.set_ylabel(fill(label, 22))
        handles, names = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", fontsize=9)
        _frame(figure, title, "Points read off the published curves, one per layer; no interval is published.")
    said = [
        f"{panel}, {name}: {_number(part[value].iloc[0])} at the first layer, lowest {_number(part[value].min())}, "
        f"{_number(part[value].iloc[-1])} at the last."
        for panel in panels
        for name in hues
        if len(part := _part(table, {facet: panel, hue: name}))
    ]
    behind = [f"{panel}: {' '.join(notes[panel].split())}." for panel in panels if panel in notes]
    return _named(figure, title, f"{label} by layer. {' '.join(said + behind)}")


def scatter_plot(
    table: pd.DataFrame,
    x: str,
    y: str,
    facet: str,
    *,
    title: str,
    x_label: str,
    y_label: str,
    notes: dict | None = None,
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Points in one panel per ``facet``, each with its own axes; ``notes`` are put into the panels by name.

    ``x_limits`` and ``y_limits`` are those of every panel, where the range that was possible matters.
    """
    _need(table, [x, y, facet])
    panels, notes = _levels(table, facet), notes or {}
    with mpl.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(min(11, max(6.4, 1 + 2.7 * len(panels))), 3.7), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            part = _part(table, {facet: panel})
            look = {"marker": MARKERS[_looks_of(panel)], "color": _ink(_looks_of(panel)), "linestyle": ""}
            axis.plot(part[x], part[y], markersize=7, alpha=0.85, clip_on=False, **look)
            axis.margins(0.15)
            axis.set(xlim=x_limits, ylim=y_limits)
            axis.set_title(f"{panel}\n{notes.get(panel, '')}".strip(), fontsize=10)
            axis.set_xlabel(x_label)
            axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(8 if x_limits else 4))
        axes[0].set_ylabel(y_label)
        own = " Each panel has its own axes." if len(panels) > 1 and not (x_limits or y_limits) else ""
        _frame(figure, title, f"Points read off the published figure.{own}")
    said = [
        f"{panel}{f' ({notes[panel]})' if panel in notes else ''}: "
        + ", ".join(
            f"({_number(row[x])}, {_number(row[y])})" for row in _part(table, {facet: panel}).to_dict("records")
        )
        for panel in panels
    ]
    return _named(figure, title, f"{y_label} against {x_label}. {'; '.join(said)}.")


def power_plot(table: pd.DataFrame, hue: str, *, title: str, had: int | None = None) -> Figure:
    """Power against prompts per condition (logarithmic), a line per ``hue``; columns ``prompts, power``.

    ``had`` marks the number of prompts of the study with a vertical line.
    """
    _need(table, ["prompts", "power", hue])
    with mpl.rc_context(STYLE | {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(8.4, 4.0), layout="constrained")
        axis = figure.subplots()
        axis.axhline(0.8, color="0.4", linewidth=0.8, linestyle="--")
        if had:
            axis.axvline(had, color="0.4", linewidth=0.8)
            axis.annotate(f"{had} prompts", (had, 0.02), xytext=(4, 0), textcoords="offset points", fontsize=9)
        for index, name in enumerate(_levels(table, hue)):
            part = _part(table, {hue: name})
            look = {"color": _ink(index), "linestyle": LINES[index % 4], "marker": MARKERS[index % 8]}
            axis.plot(part["prompts"], part["power"], label=fill(str(name), 30), markersize=5, markevery=4, **look)
        axis.set_xscale("log")
        axis.set_ylim(0, 1.02)
        axis.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axis.set_xlabel("prompts per condition")
        axis.set_ylabel("power")
        figure.legend(loc="outside right center", fontsize=9)
        _frame(figure, title, "Chance of an interval that excludes zero if the published rates were true; dashed: 80%.")
    said = [
        f"{name}: " + ", ".join(f"{power:.0%} with {n:,}" for n, power in _some(_part(table, {hue: name})))
        for name in _levels(table, hue)
    ]
    return _named(figure, title, f"Power by prompts per condition. {'; '.join(said)}.")


def _ink(index: int):
    """The palette's colour, or a darker one where the palette's own is too pale to read."""
    return DARKER.get(index % 10, _colour(index))


def _looks_of(model: str) -> int:
    """The same colour and marker for a model in every figure."""
    return MODELS.index(model) if model in MODELS else 0


def _some(part: pd.DataFrame, n: int = 4) -> list[tuple[int, float]]:
    chosen = part.iloc[np.linspace(0, len(part) - 1, n).round().astype(int)]
    return list(zip(chosen["prompts"].astype(int), chosen["power"], strict=True))


def _once(handles: list, names: list) -> tuple[list, list]:
    kept = dict(zip(names, handles, strict=True))
    return list(kept.values()), list(kept)


def _number(value: float) -> str:
    """Few digits, a true minus sign, no minus zero."""
    text = f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}".removesuffix(".0")
    return "0" if text in ("-0", "-0.0") else text.replace("-", "−")


# -- teaching.evidence_figure ----------
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
