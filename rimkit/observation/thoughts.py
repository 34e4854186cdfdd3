"""Thoughts to put in place of a model's own: the controls of "is it the thinking, or the mode?".

Every function takes the replies that a model gave in think mode (columns ``prompt_id, thought``) and
returns one thought per prompt, ready for ``generate(..., thoughts=…)``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from random import Random

import pandas as pd

FILLER = "that is all ."  # words without content that the embedded models and real ones both know


def first_thoughts(replies: pd.DataFrame) -> dict[str, str]:
    """The first sample's thought of every prompt."""
    return replies.drop_duplicates("prompt_id").set_index("prompt_id")["thought"].fillna("").to_dict()


def _each(change: Callable[[list[str], Random], list[str]]) -> Callable[..., dict[str, str]]:
    """Turn a change of one thought's words into a change of all thoughts, with one generator per prompt."""

    def thoughts(replies: pd.DataFrame, seed: int = 0) -> dict[str, str]:
        return {
            prompt_id: " ".join(change(thought.split(), Random(f"{seed}-{prompt_id}")))
            for prompt_id, thought in first_thoughts(replies).items()
        }

    return thoughts


own = _each(lambda words, rng: words)
empty = _each(lambda words, rng: [])
filler = _each(lambda words, rng: list(islice(cycle(FILLER.split()), len(words))))
shuffled = _each(lambda words, rng: rng.sample(words, len(words)))


def swapped(replies: pd.DataFrame, seed: int = 0) -> dict[str, str]:
    """Each prompt gets the thought that was written for another prompt."""
    thoughts = first_thoughts(replies)
    ids = list(thoughts)
    Random(seed).shuffle(ids)
    return {prompt_id: thoughts[other] for prompt_id, other in zip(ids, ids[1:] + ids[:1], strict=True)}


def truncated(replies: pd.DataFrame, share: float) -> dict[str, str]:
    """The first ``share`` (0 to 1) of every thought's words: the thought is cut off and closed there."""
    return {
        prompt_id: " ".join(words[: round(share * len(words))])
        for prompt_id, words in ((key, thought.split()) for key, thought in first_thoughts(replies).items())
    }


CONTROLS = {"own thought": own, "empty": empty, "filler": filler, "shuffled": shuffled, "another prompt's": swapped}
