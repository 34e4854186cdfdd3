"""What neurons write to the residual stream: along which direction their columns of ``down_proj`` point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rimkit.mechanism import probes
from rimkit.mechanism.readout import contexts
from rimkit.mechanism.sets import Units, matched_sets
from rimkit.models.internals import architecture, neuron_writes
from rimkit.models.loading import StudyModel
from rimkit.models.reading import read


def cosines(study: StudyModel, units: Sequence[tuple[int, int]], directions: np.ndarray) -> np.ndarray:
    """How far what each neuron writes points along a direction: cosines, one per neuron.

    ``directions``: ``[n_layers + 1, hidden]``, one per residual; neurons of layer ``l`` write into residual ``l + 1``.
    """
    writes = {layer: neuron_writes(study, layer).float().cpu().numpy() for layer in {layer for layer, _ in units}}
    return np.array([_cosine(writes[layer][neuron], directions[layer + 1]) for layer, neuron in units])


def direction_table(
    study: StudyModel,
    sets: Mapping[str, Units],
    directions: Mapping[str, np.ndarray],
    n_random: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Do neurons write along a direction more than others of their layers do? One row per set and direction.

    Columns ``neurons, direction, cosine`` (mean absolute cosine), ``random`` (the same in random sets, mean), ``share``
    (of random sets, how many reach it; the set itself counted in).
    """
    rows = []
    for name, units in sets.items():
        random = matched_sets(units, architecture(study).n_neurons, n_random, seed)
        for what, direction in directions.items():
            own = np.abs(cosines(study, units, direction)).mean()
            others = np.array([np.abs(cosines(study, some, direction)).mean() for some in random])
            share = (1 + (others >= own).sum()) / (1 + n_random)
            rows.append({"neurons": name, "direction": what, "cosine": own, "random": others.mean(), "share": share})
    return pd.DataFrame(rows)


def directions(study: StudyModel, prompts: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, np.ndarray]:
    """``harm`` (harmful minus harmless requests) and, where both occur, ``refusal`` (refused minus fulfilled).

    Each ``[residuals, hidden]``, read at the last token before the reply: harm in all modes of ``verdicts``, refusal in
    think mode only (no-think mode refuses nearly all).
    """
    items = contexts(study, verdicts, prompts)
    states = read(study, items, ("residual",), ("last",))["residual", "last"]
    harmful, refused = (verdicts["kind"] == "harmful").to_numpy(), verdicts["refused"].to_numpy(dtype=bool)
    found = {"harm": probes.fit(states, harmful).vectors}
    asked = harmful & ((verdicts["mode"] == "think").to_numpy())
    if 0 < refused[asked].sum() < asked.sum():
        found["refusal"] = probes.fit(states[:, asked], refused[asked]).vectors
    return found


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))
