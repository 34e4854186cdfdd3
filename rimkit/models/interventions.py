"""Interventions: context managers that change a model's inside and always put it back.

They nest, hold for one forward as for every step of a generation, and stop at the end of their
block. "Ablate" means: replace by zero, or by a mean that is given. What is worth changing is not
known here. `rimkit.models.hooks` adds one more, cutting attention.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from rimkit.data import UserError, check_index, check_known, pairs_of
from rimkit.models.hooks import architecture, hooked, on_neurons, on_residual, on_z
from rimkit.models.study import StudyModel

Pair = tuple[int, int]


def ablate_heads(study: StudyModel, heads: Iterable[Pair], mean: np.ndarray | None = None):
    """Replace the outputs z of ``(layer, head)`` pairs by zero, or by ``mean`` ``[layers, heads,
    …]``. Raises ``UserError`` for an empty set and for a layer or head that does not exist."""
    return ablate_per_row(study, [_some(heads, "head")], mean, "heads")


def ablate_neurons(study: StudyModel, neurons: Iterable[Pair], mean: np.ndarray | None = None, kind: str = "neurons"):
    """Replace ``(layer, neuron)`` pairs by zero, or by ``mean`` ``[layers, neurons]``. With
    ``kind="residual"``: ``(residual, dimension)`` pairs of the residual stream, as "MLP
    activations" has also been read. Raises ``UserError`` for an empty set and unknown places."""
    return ablate_per_row(study, [_some(neurons, "neuron")], mean, kind)


@contextmanager
def ablate_per_row(
    study: StudyModel, sets: Sequence[Iterable[Pair]], mean: np.ndarray | None = None, kind: str = "heads"
) -> Iterator[None]:
    """Many ablations in one forward: row ``r`` of the batch is without ``sets[r]``. One set alone
    holds for all; an empty one changes nothing. ``kind``: "heads", or one of `ablate_neurons`."""
    parts = architecture(study)
    kinds = {
        "heads": (on_z, "head", parts.n_layers, parts.n_heads),
        "neurons": (on_neurons, "neuron", parts.n_layers, parts.n_neurons),
        "residual": (on_residual, "neuron", parts.n_layers + 1, parts.hidden_size),
    }
    check_known("kind of units", kind, kinds)
    register, what, n_places, n_units = kinds[kind]
    keep = np.ones((n_places, len(sets), 1, n_units), dtype=bool)
    for row, units in enumerate(sets):
        for layer, unit in pairs_of(units, what):
            check_index("layer", layer, n_places)
            check_index(what, unit, n_units)
            keep[layer, row, 0, unit] = False
    handles = []
    if mean is not None and np.shape(mean)[:2] != (n_places, n_units):
        raise UserError(f"mean has the shape {np.shape(mean)}: it must begin with ({n_places}, {n_units})")
    for layer in map(int, np.flatnonzero(~keep.all((1, 2, 3)))):
        value = _tensor(study, 0 if mean is None else mean[layer])
        mask = _tensor(study, keep[layer, ..., None] if kind == "heads" else keep[layer]).bool()
        handles.append(register(study, layer, lambda x, m=mask, v=value: x.where(m.to(x.device), v.to(x))))
    with hooked(handles):
        yield


def _some(units: Iterable[Pair], what: str) -> list[Pair]:
    if not (chosen := pairs_of(units, what)):
        raise UserError(f"the set of {what}s is empty: give (layer, {what}) pairs")
    return chosen


@contextmanager
def steer_per_row(study: StudyModel, remove: np.ndarray, add: np.ndarray) -> Iterator[None]:
    """Many steerings in one forward: row ``r`` without the directions ``remove[r]``, plus
    ``add[r]``. Both are ``[rows, n_layers + 1, hidden]`` (one row: for all), at every token."""
    lengths = np.linalg.norm(remove, axis=-1, keepdims=True)
    units = remove / np.where(lengths, lengths, 1)
    units, plus = (_tensor(study, values)[:, :, None] for values in (units, add))
    changed = np.flatnonzero(remove.any((0, 2)) | add.any((0, 2)))

    def change(x, unit, more):
        along = (x * unit.to(x)).sum(-1, keepdim=True)
        return x - along * unit.to(x) + more.to(x)

    how = (partial(change, unit=units[:, at], more=plus[:, at]) for at in changed)
    with hooked([on_residual(study, int(at), step) for at, step in zip(changed, how, strict=True)]):
        yield


def _tensor(study: StudyModel, values: np.ndarray):
    return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=study.device)
