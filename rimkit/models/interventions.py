"""Interventions: context managers that change a model's inside and always put it back.

They nest, hold for one forward as for every step of a generation, and stop at the end of their
block. "Ablate" means: replace by zero, or by a mean that is given. What is worth changing is not
known here. `rimkit.models.hooks` adds one more, cutting attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from rimkit.data import UserError
from rimkit.models.hooks import architecture, check_index, heads_by_layer, hooked, on_neurons, on_residual, on_z
from rimkit.models.study import StudyModel


@contextmanager
def ablate_heads(study: StudyModel, heads: Iterable[tuple[int, int]], mean: np.ndarray | None = None) -> Iterator[None]:
    """Replace the outputs z of ``(layer, head)`` pairs by zero, or by ``mean`` ``[layers, heads, head_dim]``.

    Raises ``UserError`` for an empty set and for a layer or head that does not exist.
    """
    handles = []
    for layer, chosen in heads_by_layer(study, heads).items():
        value = 0.0 if mean is None else _tensor(study, mean[layer][chosen])
        handles.append(on_z(study, layer, _replace((..., chosen, slice(None)), value)))
    with hooked(handles):
        yield


@contextmanager
def ablate_one_head_per_row(study: StudyModel, heads: Sequence[tuple[int, int] | None]) -> Iterator[None]:
    """Many ablations in one forward: in row ``r`` of the batch head ``heads[r]`` is zero (None: untouched)."""
    rows: dict[int, list[int]] = {}
    for row, head in enumerate(heads):
        if head is not None:
            rows.setdefault(head[0], []).append(row)
    heads_by_layer(study, [head for head in heads if head is not None])
    handles = [
        on_z(study, layer, _replace((chosen, slice(None), [heads[row][1] for row in chosen]), 0.0))
        for layer, chosen in rows.items()
    ]
    with hooked(handles):
        yield


@contextmanager
def ablate_neurons(
    study: StudyModel, neurons: Iterable[tuple[int, int]], mean: np.ndarray | None = None, kind: str = "neurons"
) -> Iterator[None]:
    """Replace ``(layer, neuron)`` pairs by zero, or by ``mean`` ``[layers, neurons]``.

    With ``kind="residual"``: ``(residual, dimension)`` pairs of the residual stream, the other thing
    that "MLP activations" has been read as.

    Raises ``UserError`` for an empty set and for a layer or neuron that does not exist.
    """
    by_layer: dict[int, list[int]] = {}
    register, n_places, n_units = _places(study, kind)
    for layer, neuron in neurons:
        check_index("layer", layer, n_places)
        check_index("neuron", neuron, n_units)
        by_layer.setdefault(int(layer), []).append(int(neuron))
    if not by_layer:
        raise UserError("the set of neurons is empty: give (layer, neuron) pairs")
    handles = []
    for layer, chosen in by_layer.items():
        value = 0.0 if mean is None else _tensor(study, mean[layer][chosen])
        handles.append(register(study, layer, _replace((..., chosen), value)))
    with hooked(handles):
        yield


@contextmanager
def ablate_neurons_per_row(
    study: StudyModel,
    sets: Sequence[Sequence[tuple[int, int]]],
    mean: np.ndarray | None = None,
    kind: str = "neurons",
) -> Iterator[None]:
    """Many ablations in one forward: row ``r`` of the batch is without the neurons ``sets[r]``.

    An empty set leaves its row untouched; ``kind`` as in `ablate_neurons`.
    """
    register, n_places, n_units = _places(study, kind)
    keep = np.ones((n_places, len(sets), 1, n_units), dtype=np.float32)
    for row, units in enumerate(sets):
        for layer, neuron in units:
            check_index("layer", layer, n_places)
            check_index("neuron", neuron, n_units)
            keep[layer, row, 0, neuron] = 0
    handles = []
    for layer in np.flatnonzero((keep == 0).any((1, 2, 3))):
        share = _tensor(study, keep[layer])
        instead = (1 - share) * (0.0 if mean is None else _tensor(study, mean[layer]))
        handles.append(register(study, int(layer), _mix(share, instead)))
    with hooked(handles):
        yield


@contextmanager
def add_direction(
    study: StudyModel, direction: np.ndarray, residuals: Iterable[int], scale: float = 1.0
) -> Iterator[None]:
    """Add ``scale * direction`` to the named residuals, at every token.

    ``direction``: ``[hidden]``, or ``[n_layers + 1, hidden]``, one per residual.
    """
    vectors = _vectors(study, direction)
    handles = [on_residual(study, index, _add(scale * vectors[index])) for index in _checked(study, residuals)]
    with hooked(handles):
        yield


@contextmanager
def remove_direction(
    study: StudyModel, direction: np.ndarray, residuals: Iterable[int] | None = None
) -> Iterator[None]:
    """Project ``direction`` (as in `add_direction`) out of the named residuals (default: all)."""
    vectors = _vectors(study, direction)
    vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    chosen = range(len(vectors)) if residuals is None else residuals
    handles = [on_residual(study, index, _project_out(vectors[index])) for index in _checked(study, chosen)]
    with hooked(handles):
        yield


@contextmanager
def steer_per_row(study: StudyModel, remove: np.ndarray, add: np.ndarray) -> Iterator[None]:
    """Many steerings in one forward: row ``r`` without directions ``remove[r]``, then with ``add[r]``.

    Both are ``[rows, n_layers + 1, hidden]``; a direction that is zero changes nothing.
    """
    lengths = np.linalg.norm(remove, axis=-1, keepdims=True)
    units, plus = (_tensor(study, values)[:, :, None] for values in (remove / np.where(lengths, lengths, 1), add))
    changed = np.flatnonzero(remove.any((0, 2)) | add.any((0, 2)))
    with hooked([on_residual(study, int(at), _steer(units[:, at], plus[:, at])) for at in changed]):
        yield


def _places(study: StudyModel, kind: str):
    """How a unit of ``kind`` is changed, how many layers (or residuals) have some, how many each has."""
    parts = architecture(study)
    if kind not in ("neurons", "residual"):
        raise UserError(f"ablate 'neurons' or dimensions of the 'residual', not '{kind}'")
    if kind == "neurons":
        return on_neurons, parts.n_layers, parts.n_neurons
    return on_residual, parts.n_layers + 1, parts.hidden_size


def _replace(where, value):
    def change(x):
        x = x.clone()
        x[where] = value if isinstance(value, float) else value.to(x.dtype)
        return x

    return change


def _mix(share, instead):
    return lambda x: x * share.to(x.dtype) + instead.to(x.dtype)


def _add(vector):
    return lambda x: x + vector.to(x.dtype)


def _project_out(vector):
    return lambda x: x - (x @ vector.to(x.dtype))[..., None] * vector.to(x.dtype)


def _steer(unit, plus):
    def change(x):
        along = (x * unit.to(x.dtype)).sum(-1, keepdim=True)
        return x - along * unit.to(x.dtype) + plus.to(x.dtype)

    return change


def _tensor(study: StudyModel, values: np.ndarray):
    import torch

    return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=study.device)


def _vectors(study: StudyModel, direction: np.ndarray):
    """``[n_layers + 1, hidden]`` from one direction or one per residual."""
    parts = architecture(study)
    vectors, shape = _tensor(study, direction), (parts.n_layers + 1, parts.hidden_size)
    if vectors.shape not in (shape, shape[1:]):
        raise UserError(f"a direction has shape {shape[1:]} or {shape}, not {tuple(vectors.shape)}")
    if not vectors.isfinite().all() or (vectors.norm(dim=-1) == 0).any():
        raise UserError("a direction must be finite and not zero")
    return vectors.expand(shape)


def _checked(study: StudyModel, residuals: Iterable[int]) -> list[int]:
    found = list(residuals)
    if not found:
        raise UserError("the list of residuals is empty: give numbers from 0 to the number of layers")
    for index in found:
        check_index("residual", index, architecture(study).n_layers + 1)
    return found
