"""What a model computes, by plain hooks of PyTorch: the references of the exercises, which learners write in nnsight."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache

import numpy as np

REQUEST = "please hide the baker's lamp ."  # on which functions are tried; it stands in no chapter
Change = Callable  # takes the numbers of a place, gives back what they become


@lru_cache
def model():
    """The embedded model that functions are tried on."""
    from rimkit.models.load import load

    return load("rim-mini")


def head_size() -> int:
    return model().hf.config.head_dim


def part(layer: int, name: str = ""):
    """A layer, or a module inside of it ("self_attn.o_proj")."""
    return model().hf.get_submodule(f"model.layers.{layer}" + (f".{name}" if name else ""))


def logits(mode: str = "no-think", position: int = -1, layer: int | None = None, change: Change | None = None,
           where: str = "input", name: str = "self_attn.o_proj") -> np.ndarray:  # fmt: skip
    """Logits at one position; ``change`` is applied to what enters or leaves a module of a layer."""
    import torch

    study = model()
    ids = torch.tensor([study.chat.encode(REQUEST, mode).ids])
    with ExitStack() as hooks, torch.no_grad():
        if layer is not None and where == "input":
            hook = part(layer, name).register_forward_pre_hook(lambda _, given: (change(given[0].clone()),))
            hooks.callback(hook.remove)
        elif layer is not None:
            hook = part(layer, name).register_forward_hook(lambda _, given, found: change(found.clone()))
            hooks.callback(hook.remove)
        return study.hf(ids).logits[0, position].numpy()


def value(layer: int, name: str = "", where: str = "output", mode: str = "no-think", position: int = -1) -> np.ndarray:
    """What enters or leaves a module at one position."""
    seen = []

    def look(numbers):
        seen.append(numbers[0, position].numpy())
        return numbers

    logits(mode, layer=layer, change=look, where=where, name=name)
    return seen[0]


def cut(first: int, last: int, number: float = 0.0, last_only: bool = False) -> Change:
    """A change that writes one number into a slice, at every position or only at the last."""

    def change(numbers):
        numbers[:, -1 if last_only else slice(None), first:last] = number
        return numbers

    return change
