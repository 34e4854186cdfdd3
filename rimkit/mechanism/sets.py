"""Sets of heads or neurons, ``(layer, index)`` pairs: what they are compared with, and what two of them share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

Units = Sequence[tuple[int, int]]


def matched_sets(units: Units, per_layer: int, n: int = 40, seed: int = 0) -> list[list[tuple[int, int]]]:
    """``n`` random sets of other units with as many in every layer as ``units`` has, ``per_layer`` to draw from.

    Drawn without replacement per set. Where a layer has too few others, the set's own are drawn from as well.
    """
    rng = np.random.default_rng(seed)
    by_layer: dict[int, list[int]] = {}
    for layer, unit in units:
        by_layer.setdefault(layer, []).append(unit)

    def draw() -> list[tuple[int, int]]:
        chosen = []
        for layer, taken in sorted(by_layer.items()):
            others = np.setdiff1d(np.arange(per_layer), taken)
            pool = others if len(others) >= len(taken) else np.arange(per_layer)
            chosen += [(layer, int(unit)) for unit in rng.choice(pool, len(taken), replace=False)]
        return chosen

    return [draw() for _ in range(n)]


def against_singles(effect: float, low: float, high: float, singles: np.ndarray) -> tuple[float, float]:
    """The interval of an effect against the mean of several controls, widened by which control one compares with.

    ``low`` and ``high`` are its interval otherwise, ``singles`` the effect against each control (or each control's own
    value: only their spread counts). The half-widths are combined as of independent errors; that of the controls is a t
    interval for one more of them. Missing with fewer than two.
    """
    n = len(singles)
    reach = stats.t.isf(0.025, n - 1) * np.std(singles, ddof=1) * np.sqrt(1 + 1 / n) if n > 1 else np.nan
    return float(effect - np.hypot(max(effect - low, 0), reach)), float(effect + np.hypot(max(high - effect, 0), reach))


def overlap(a: Units, b: Units) -> float:
    """The share of ``a`` that is in ``b`` too; NaN for an empty ``a``."""
    return len(set(a) & set(b)) / len(set(a)) if len(a) else float("nan")
