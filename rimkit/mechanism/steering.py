"""Steering: what a model does when a direction is removed from its residual stream, or added to it.

A direction that a probe can read need not be one that the model uses; only an intervention tells. The control is a
random direction: removed in the same way, or added with the same length at the same place (after Arditi et al. 2024,
arXiv 2406.11717; the paper of the workbook does not steer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from rimkit.ledger import effect_row
from rimkit.mechanism.ablation import NOTHING, RANDOM, SELECTED, against_random, under
from rimkit.mechanism.probes import Probe, random_probe
from rimkit.models.interventions import add_direction, remove_direction
from rimkit.models.loading import StudyModel

SCALES = (0.25, 0.5, 1.0)  # of the distance between the two groups' means
COHERENT = 0.9  # share of coherent replies that adding a direction must leave, to be chosen
Make = Callable[[], AbstractContextManager]


def removed(study: StudyModel, probe: Probe) -> Make:
    """Each residual's own direction projected out of it, at every token and at every step."""
    there = np.flatnonzero(probe.vectors.any(-1))  # before the first layer all last tokens can be alike
    vectors = np.where(probe.vectors.any(-1, keepdims=True), probe.vectors, 1.0)
    return partial(remove_direction, study, vectors, there.tolist())


def added(study: StudyModel, probe: Probe, residual: int, scale: float) -> Make:
    """``scale`` times the direction of one residual added there, at every token and at every step."""
    return partial(add_direction, study, probe.vectors[residual], [residual], scale)


def with_random(make: Callable[[Probe], Make], probe: Probe, n_random: int = 40) -> dict[str, Make]:
    """Conditions for `ablation.under`: ``nothing``, ``selected``, and ``random 0`` … with random directions.

    ``make`` turns a probe into a maker of contexts: `removed` or `added` with the model (and place) filled in.
    """
    random = {f"{RANDOM} {seed}": make(random_probe(probe, seed)) for seed in range(n_random)}
    return {NOTHING: nullcontext, SELECTED: make(probe), **random}


def places_to_add(
    study: StudyModel, prompts: pd.DataFrame, probe: Probe, mode: str = "no-think", scales: Sequence[float] = SCALES,
    **generation,
) -> pd.DataFrame:  # fmt: skip
    """What adding the direction does at every residual and scale, on harmless calibration prompts.

    Columns ``residual, scale, refused, coherent`` (shares of the replies).
    """
    places = list(product(range(1, len(probe.vectors)), scales))
    makers = {f"{residual} {scale}": added(study, probe, residual, scale) for residual, scale in places}
    verdicts = under(study, prompts, makers, [mode], **generation)
    found = verdicts.groupby("condition", sort=False)[["refused", "coherent"]].mean().loc[list(makers)]
    return pd.DataFrame(places, columns=["residual", "scale"]).join(found.reset_index(drop=True))


def best_place(places: pd.DataFrame) -> tuple[int, float]:
    """``(residual, scale)`` with most refusals among those with `COHERENT` replies (or the most coherent one)."""
    kept = places[places["coherent"] >= min(COHERENT, places["coherent"].max())]
    best = kept.sort_values("refused", ascending=False, kind="stable").iloc[0]
    return int(best["residual"]), float(best["scale"])


def steering_row(claim: str, verdicts: pd.DataFrame, *, model: str, **values) -> dict:
    """The ledger row of one direction against random ones; ``verdicts``: under the conditions of `with_random`."""
    return effect_row(claim, against_random(verdicts), model=model, control="random directions", **values)
