"""Thoughts to put in place of a model's own: the controls of "is it the thinking, or the mode?".

Every function takes the replies that a model gave in think mode (columns ``prompt_id, thought``) and
returns one thought per prompt, ready for ``generate(..., thoughts=…)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

import pandas as pd

# A word without content that the embedded models and real ones both know, and that belongs to no style of thought
# (after Pfau, Merrill and Bowman 2024, "Let's think dot by dot", arXiv 2404.15758).
FILLER = "."
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
DECISIONS = {"refuse": "i should refuse", "help": "i can help"}


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
filler = _each(lambda words, rng: [FILLER] * len(words))
shuffled = _each(lambda words, rng: rng.sample(words, len(words)))


def swapped(replies: pd.DataFrame, seed: int = 0) -> dict[str, str]:
    """Each prompt gets the thought that was written for another prompt."""
    thoughts = first_thoughts(replies)
    ids = list(thoughts)
    Random(seed).shuffle(ids)
    return {prompt_id: thoughts[other] for prompt_id, other in zip(ids, ids[1:] + ids[:1], strict=True)}


def truncated(replies: pd.DataFrame, share: float) -> dict[str, str]:
    """The first ``share`` (0 to 1) of every thought's sentences: the thought is closed after a whole sentence."""
    sentences = {key: SENTENCE.split(thought.strip()) for key, thought in first_thoughts(replies).items()}
    return {key: " ".join(said[: round(share * len(said))]) for key, said in sentences.items()}


def decision(thought: str) -> str:
    """What a thought in the invented language decides: "refuse", "help", or "open" if it says neither (or both)."""
    said = [name for name, words in DECISIONS.items() if words in thought]
    return said[0] if len(said) == 1 else "open"


CONTROLS = {"own thought": own, "empty": empty, "filler": filler, "shuffled": shuffled, "another prompt's": swapped}
