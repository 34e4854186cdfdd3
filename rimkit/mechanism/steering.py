"""Steering: what a model does when a direction is removed from its residual stream, or added to it.

A direction that a probe can read need not be one that the model uses; only an intervention tells. The control is a
random direction: removed in the same way, or added with the same length at the same place (after Arditi et al. 2024,
arXiv 2406.11717; the paper of the workbook does not steer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from rimkit.ledger import effect_row
from rimkit.mechanism.ablation import NOTHING, RANDOM, SELECTED, against_random, under_together
from rimkit.mechanism.probes import Probe, random_probe
from rimkit.models.interventions import steer_per_row
from rimkit.models.loading import StudyModel

SCALES = (0.25, 0.5, 1.0)  # of the distance between the two groups' means
COHERENT = 0.9  # share of coherent replies that adding a direction must leave, to be chosen


@dataclass(frozen=True)
class Steering:
    """Directions ``[residuals, hidden]`` taken out and put in, at every token and step; zero: none at that residual."""

    remove: np.ndarray
    add: np.ndarray


def unchanged(probe: Probe) -> Steering:
    """The model as it is."""
    return Steering(np.zeros_like(probe.vectors), np.zeros_like(probe.vectors))


def removed(probe: Probe) -> Steering:
    """Each residual's own direction projected out of it (before the first layer it can be zero: nothing to remove)."""
    return Steering(probe.vectors, np.zeros_like(probe.vectors))


def added(probe: Probe, residual: int, scale: float) -> Steering:
    """``scale`` times the direction of one residual added there."""
    add = np.zeros_like(probe.vectors)
    add[residual] = scale * probe.vectors[residual]
    return Steering(np.zeros_like(add), add)


def with_random(make: Callable[[Probe], Steering], probe: Probe, n_random: int = 40) -> dict[str, Steering]:
    """Conditions for `under`: ``nothing``, ``selected``, and ``random 0`` … with random directions.

    ``make``: `removed`, or `added` with its place filled in.
    """
    random = {f"{RANDOM} {seed}": make(random_probe(probe, seed)) for seed in range(n_random)}
    return {NOTHING: unchanged(probe), SELECTED: make(probe), **random}


def under(
    study: StudyModel, prompts: pd.DataFrame, conditions: Mapping[str, Steering], modes: Sequence[str] = ("no-think",),
    **generation,
) -> pd.DataFrame:  # fmt: skip
    """Verdicts on the prompts under each steering (column ``condition``), all generated together."""

    def together(chosen: list[Steering]):
        return steer_per_row(study, np.stack([one.remove for one in chosen]), np.stack([one.add for one in chosen]))

    return under_together(study, prompts, conditions, together, modes, **generation)


def places_to_add(
    study: StudyModel, prompts: pd.DataFrame, probe: Probe, mode: str = "no-think", scales: Sequence[float] = SCALES,
    **generation,
) -> pd.DataFrame:  # fmt: skip
    """What adding the direction does at every residual and scale, on harmless calibration prompts.

    Columns ``residual, scale, refused, coherent`` (shares of the replies).
    """
    places = list(product(range(1, len(probe.vectors)), scales))
    conditions = {f"{residual} {scale}": added(probe, residual, scale) for residual, scale in places}
    verdicts = under(study, prompts, conditions, [mode], **generation)
    found = verdicts.groupby("condition", sort=False)[["refused", "coherent"]].mean().loc[list(conditions)]
    return pd.DataFrame(places, columns=["residual", "scale"]).join(found.reset_index(drop=True))


def best_place(places: pd.DataFrame) -> tuple[int, float]:
    """``(residual, scale)`` with most refusals among those with `COHERENT` replies (or the most coherent one)."""
    kept = places[places["coherent"] >= min(COHERENT, places["coherent"].max())]
    best = kept.sort_values("refused", ascending=False, kind="stable").iloc[0]
    return int(best["residual"]), float(best["scale"])


def steering_row(claim: str, verdicts: pd.DataFrame, *, model: str, **values) -> dict:
    """The ledger row of one direction against random ones; ``verdicts``: under the conditions of `with_random`."""
    return effect_row(claim, against_random(verdicts), model=model, control="random directions", **values)
