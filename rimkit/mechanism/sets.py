"""Sets of heads or neurons, ``(layer, index)`` pairs: what they are compared with, and what two of them share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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


def overlap(a: Units, b: Units) -> float:
    """The share of ``a`` that is in ``b`` too; NaN for an empty ``a``."""
    return len(set(a) & set(b)) / len(set(a)) if len(a) else float("nan")
