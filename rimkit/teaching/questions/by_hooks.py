"""What a model computes, by plain hooks of PyTorch: the references of the exercises, which learners write in nnsight."""

from collections.abc import Callable, Sequence
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


def ids(mode: str = "no-think", request: str = REQUEST, **said):
    """The prompt of a request as a row of token ids; ``said`` are a thought or a reply."""
    import torch

    return torch.tensor([model().chat.encode(request, mode, **said).ids])


def logits(mode: str = "no-think", position: int = -1, layer: int | Sequence[int] = (), change: Change | None = None,
           where: str = "input", name: str = "self_attn.o_proj", given=None) -> np.ndarray:  # fmt: skip
    """Logits at one position; ``change`` is applied to what enters or leaves a module of one or more layers.

    ``given`` are token ids instead of those of the prompt.
    """
    import torch

    with ExitStack() as hooks, torch.no_grad():
        for number in [layer] if isinstance(layer, int) else layer:
            module = part(number, name)
            if where == "input":
                hook = module.register_forward_pre_hook(lambda _, inputs: (change(inputs[0].clone()),))
            else:
                hook = module.register_forward_hook(lambda _, inputs, output: change(output.clone()))
            hooks.callback(hook.remove)
        return model().hf(ids(mode) if given is None else given).logits[0, position].numpy()


def values(layer: int, name: str = "", where: str = "output", mode: str = "no-think", given=None):
    """What enters or leaves a module, ``[position, numbers]``."""
    seen = []

    def look(numbers):
        seen.append(numbers[0].numpy())
        return numbers

    logits(mode, layer=layer, change=look, where=where, name=name, given=given)
    return seen[0]


def value(layer: int, name: str = "", where: str = "output", mode: str = "no-think", position: int = -1) -> np.ndarray:
    """What enters or leaves a module at one position."""
    return values(layer, name, where, mode)[position]


def cut(first: int, last: int, number: float = 0.0, last_only: bool = False) -> Change:
    """A change that writes one number into a slice, at every position or only at the last."""

    def change(numbers):
        numbers[:, -1 if last_only else slice(None), first:last] = number
        return numbers

    return change
