"""Averages over the paper's models: do they follow from their rows, and does one row carry them?

The unit is the model: eight of them, or four, were measured once each, so an interval over models says how far
the average would carry over to other models. The statistics are scipy's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from rimkit.errors import UserError
from rimkit.published.tables import by_model, injected, published

ROUNDING = 0.02  # printed cells have two digits: an average of them may differ from the printed one by 0.01


class Average(NamedTuple):
    """A mean over models with its 95% t interval and the ways in which it can mislead."""

    mean: float
    ci_low: float
    ci_high: float
    median: float
    without_one_low: float  # the smallest and the largest mean with one model left out
    without_one_high: float
    carried_by: str  # the model without which the mean changes most
    n_positive: int
    n: int
    p_value: float  # two-sided t test of a mean of zero
    p_signed_rank: float  # Wilcoxon's signed-rank test, which looks at signs and order alone


def average(values: pd.Series | Mapping[str, float], level: float = 0.95) -> Average:
    """Mean, median and leave-one-out of one number per model, in the unit of ``values``.

    Raises `UserError` for fewer than two models.
    """
    values = pd.Series(values, dtype=float).dropna()
    if len(values) < 2:
        raise UserError("an average over models needs at least two of them")
    mean, n = float(values.mean()), len(values)
    low, high = stats.t.interval(level, n - 1, loc=mean, scale=stats.sem(values)) if np.ptp(values) else (mean, mean)
    left_out = (values.sum() - values) / (n - 1)
    signed_rank = float(stats.wilcoxon(values).pvalue) if values.any() else 1.0
    p_value = float(stats.ttest_1samp(values, 0).pvalue) if np.ptp(values) else 1.0 if not mean else 0.0
    return Average(
        mean, float(low), float(high), float(values.median()), float(left_out.min()), float(left_out.max()),
        str((left_out - mean).abs().idxmax()), int((values > 0).sum()), n, p_value, signed_rank,
    )  # fmt: skip


def averages(wide: pd.DataFrame, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """`average` of every column of a table with one row per model; one row per column, indexed by its name."""
    return pd.DataFrame({name: average(wide[name])._asdict() for name in columns or wide}).T.rename_axis("condition")


def recomputed() -> pd.DataFrame:
    """Every printed average beside the mean of the rows it summarises.

    Columns: ``location, group, quantity, printed, recomputed, gap, follows`` (whether rounding explains the gap).
    """
    table = published("printed_averages")
    table["recomputed"] = [_mean_of_rows(item.location, item.group, item.quantity) for item in table.itertuples()]
    table["gap"] = table["printed"] - table["recomputed"]
    table["follows"] = table["gap"].abs() < ROUNDING
    return table


def _mean_of_rows(location: str, group: str, quantity: str) -> float:
    if location in ("Table 2", "Section 2.3"):
        rows = published("table2_finetuning_delta").query("training_set == @quantity")
        rows = rows if group == "all" else rows[rows["architecture"] == group]
        return float(rows["delta_misalignment_points"].mean())
    if location == "Fig. 2":
        return float(injected().query("pattern == @group")[quantity].mean())
    if location == "Table A7":
        return float(by_model("table_a7_literal_control", "training_set", "delta_misalignment_points")[quantity].mean())
    if location == "Section 4.1":
        return float(published("fig6_neuron_ablation").query("neurons == @group")[quantity].mean())
    if location == "Table 3":
        return float(published("table3_predictor_correlations").query("predictor == @group")["pearson_r"].mean())
    raise UserError(f"nothing is known about averages in {location}")
