"""Interventions: context managers that change a model's inside and always put it back.

They nest, hold for one forward as for every step of a generation, and stop at the end of their
block. "Ablate" means: replace by zero, or by a mean that is given. What is worth changing is not
known here. `rimkit.models.hooks` adds one more, cutting attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from rimkit.data import UserError, check_known
from rimkit.models.hooks import architecture, check_index, heads_by_layer, hooked, on_neurons, on_residual, on_z
from rimkit.models.study import StudyModel

Pair = tuple[int, int]


@contextmanager
def ablate_heads(study: StudyModel, heads: Iterable[Pair], mean: np.ndarray | None = None) -> Iterator[None]:
    """Replace the outputs z of ``(layer, head)`` pairs by zero, or by ``mean`` ``[layers, heads,
    …]``. Raises ``UserError`` for an empty set and for a layer or head that does not exist."""
    handles = []
    for layer, chosen in heads_by_layer(study, heads).items():
        value = 0.0 if mean is None else _tensor(study, mean[layer][chosen])
        handles.append(on_z(study, layer, _replace((..., chosen, slice(None)), value)))
    with hooked(handles):
        yield


@contextmanager
def ablate_one_head_per_row(study: StudyModel, heads: Sequence[Pair | None]) -> Iterator[None]:
    """Many ablations in one forward: in row ``r`` head ``heads[r]`` is zero (None: untouched)."""
    handles = []
    for layer in heads_by_layer(study, filter(None, heads)):
        rows = [row for row, head in enumerate(heads) if head and head[0] == layer]
        where = (rows, slice(None), [heads[row][1] for row in rows])
        handles.append(on_z(study, layer, _replace(where, 0.0)))
    with hooked(handles):
        yield


def ablate_neurons(study: StudyModel, neurons: Iterable[Pair], mean: np.ndarray | None = None, kind: str = "neurons"):
    """Replace ``(layer, neuron)`` pairs by zero, or by ``mean`` ``[layers, neurons]``. With
    ``kind="residual"``: ``(residual, dimension)`` pairs of the residual stream, the other thing
    that "MLP activations" has been read as. Raises ``UserError`` for an empty set and for a layer
    or neuron that does not exist."""
    chosen = list(neurons)
    if not chosen:
        raise UserError("the set of neurons is empty: give (layer, neuron) pairs")
    return ablate_neurons_per_row(study, [chosen], mean, kind)


@contextmanager
def ablate_neurons_per_row(
    study: StudyModel, sets: Sequence[Iterable[Pair]], mean: np.ndarray | None = None, kind: str = "neurons"
) -> Iterator[None]:
    """As `ablate_neurons`, many in one forward: row ``r`` of the batch is without ``sets[r]``. One
    set alone holds for every row; an empty one leaves its row untouched."""
    check_known("kind of neurons", kind, ("neurons", "residual"))
    parts = architecture(study)
    register, n_places, n_units = on_neurons, parts.n_layers, parts.n_neurons
    if kind == "residual":
        register, n_places, n_units = on_residual, parts.n_layers + 1, parts.hidden_size
    keep = np.ones((n_places, len(sets), 1, n_units), dtype=bool)
    for row, units in enumerate(sets):
        for layer, neuron in units:
            check_index("layer", layer, n_places)
            check_index("neuron", neuron, n_units)
            keep[layer, row, 0, neuron] = False
    handles = []
    for layer in map(int, np.flatnonzero(~keep.all((1, 2, 3)))):
        value = _tensor(study, np.zeros(n_units) if mean is None else mean[layer])
        mask = _tensor(study, keep[layer]).bool()
        handles.append(register(study, layer, lambda x, m=mask, v=value: x.where(m.to(x.device), v.to(x))))
    with hooked(handles):
        yield


@contextmanager
def steer_per_row(study: StudyModel, remove: np.ndarray, add: np.ndarray) -> Iterator[None]:
    """Many steerings in one forward: row ``r`` without the directions ``remove[r]``, plus
    ``add[r]``. Both are ``[rows, n_layers + 1, hidden]`` (one row: for all), at every token; zero
    changes nothing."""
    lengths = np.linalg.norm(remove, axis=-1, keepdims=True)
    units = remove / np.where(lengths, lengths, 1)
    units, plus = (_tensor(study, values)[:, :, None] for values in (units, add))
    changed = np.flatnonzero(remove.any((0, 2)) | add.any((0, 2)))
    with hooked([on_residual(study, int(at), _steer(units[:, at], plus[:, at])) for at in changed]):
        yield


def _replace(where, value):
    def change(x):
        x = x.clone()
        x[where] = value if isinstance(value, float) else value.to(x)
        return x

    return change


def _steer(unit, plus):
    def change(x):
        along = (x * unit.to(x)).sum(-1, keepdim=True)
        return x - along * unit.to(x) + plus.to(x)

    return change


def _tensor(study: StudyModel, values: np.ndarray):
    import torch

    return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=study.device)
