"""The figure of a placebo test: one interval per swap of the labels, beside the effect that was measured."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rimkit.teaching.figures import STYLE, _colour, _frame, _named, _need, _signed


def placebo_plot(draws: pd.DataFrame, real: Mapping[str, float], *, title: str) -> Figure:
    """The intervals of `rimkit.behavior.placebo.swapped`, sorted by effect, and ``real``, the interval as measured.

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
