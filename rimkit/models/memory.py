"""Batches that shrink when the memory does not hold them, so that nothing that was computed is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rimkit.errors import UserError

if TYPE_CHECKING:
    from rimkit.models.loading import StudyModel


def shrinking(
    study: StudyModel, what: str, lengths: Sequence[int], batch_size: int, run: Callable[[list[int]], Any], advice: str
) -> Iterator[tuple[list[int], Any]]:
    """``(rows, run(rows))`` for batches of conversations, the longest first, so that memory runs out at once or never.

    ``lengths`` are tokens per conversation. A batch that runs out of memory is halved and tried again; how many tokens
    were too many for ``what`` ("generating", "reading") is kept in ``study.limits`` and holds for every later batch of
    this model. A batch that shrinks leaves results as they are. Raises ``UserError``, with ``advice``, when one
    conversation alone is too much.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        longest = lengths[order[0]]
        size = min(batch_size, max(1, study.limits.get(what, batch_size * longest) // longest))
        rows = order[:size]
        failure = None
        try:
            result = run(rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failure = str(error).partition("\n")[0]  # not the error: its traceback holds on to the tensors
        if failure is not None:
            study.limits[what] = len(rows) * longest // 2
            _let_go(study.device)
            if len(rows) == 1:
                raise UserError(
                    f"out of memory while {what} one conversation of {longest} tokens on {study.device}: {advice}"
                )
            print(f"out of memory with {len(rows)} conversations of up to {longest} tokens: going on with fewer")
            continue
        yield rows, result
        order = order[size:]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, of whatever kind, has no memory left."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    text = str(error).lower()
    known = isinstance(error, torch.OutOfMemoryError | MemoryError) or should_reduce_batch_size(error)
    return known or "can't allocate memory" in text or "mps backend out of memory" in text


def _let_go(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("mps"):
        torch.mps.empty_cache()
