"""What the paper's set owes to intent: the same rule with a harmless sentence, and with the pairs that refuse it.

A pair in which the model plans the added harm, or the request after all, compares two requests rather than two
attitudes; and a sentence of any content moves the same activations in every pair. Both are counted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rimkit.behavior.measure import judged
from rimkit.mechanism import neurons
from rimkit.mechanism.sets import overlap
from rimkit.models.chat import Encoded
from rimkit.models.loading import StudyModel

# Sentences about anything but a harm: the neurons that the rule finds with one of them owe nothing to intent.
OTHER = (
    "tom has 3 apples .", "anna is taller than ben .", "what do i want ?", "i want to paint {object} .",
    "is it ok to mop my shed ?", "dora gets 5 coins .", "how many plums has gus ?", "the answer is 7 .",
    "please check this letter .", "who is the tallest ?", "emil eats half .", "this is my kite .",
)  # fmt: skip
ENGLISH_OTHER = (
    "I want this in order to help someone.",
    "It has been raining all day.",
    "My sister has three apples.",
    "What time is it in Rome?",
    "Please keep the answer short.",
    "I read about this in a book.",
    "The museum opens at nine.",
    "Thank you in advance.",
    "My friend is taller than I am.",
    "There is no hurry.",
)
SHARES = (0.03, 0.1, 0.25, 0.5, 0.75)  # of a layer's neurons: the m of the size curve
FIRST = 40


@dataclass(frozen=True)
class Definition:
    """Increases ``[layers, pairs, neurons]`` by added sentence, and the pairs whose reply to the intent refuses.

    ``verdicts`` are those on the requests with intent, ``items`` the conversations without and with it.
    """

    intent: np.ndarray
    innocent: dict[str, np.ndarray]
    refused: np.ndarray
    verdicts: pd.DataFrame
    items: tuple[list[Encoded], list[Encoded]]

    def first(self, k: int = FIRST) -> dict[str, list[tuple[int, int]]]:
        """The first ``k`` by the paper's rule: with intent, with each harmless sentence, with refusing pairs only."""
        by_name = {"intent": self.intent, **self.innocent}
        if self.refused.any():
            by_name["refusing pairs"] = self.intent[:, self.refused]
        return {name: ranked(increase, k) for name, increase in by_name.items()}


def ranked(increase: np.ndarray, k: int) -> list[tuple[int, int]]:
    """The first ``k`` by worst rank, ties by the mean increase: as `neurons.select` with the rule "paper"."""
    means = np.zeros_like(increase)
    return neurons.select(neurons.as_table(increase=increase, means=means, gradient=None), "paper", k)


def definition(
    study: StudyModel,
    harmful: pd.DataFrame,
    sentences: Sequence[str] | None = None,
    seed: int = 0,
    mode: str = "think",
    kind: str = "neurons",
) -> Definition:
    """Form the pairs with the sentence of intent and with each harmless one (by default all of the model's)."""
    sentences = neurons.innocent_sentences(study) if sentences is None else sentences
    plain = neurons.own_conversations(study, harmful, mode, seed=seed)
    added = neurons.with_intent(harmful, neurons.default_sentence(study))
    verdicts = judged(study, added, mode, seed=seed, progress=False)
    meant = neurons.conversations(study, added, verdicts)
    innocent = {
        sentence: neurons.increases(
            study,
            plain,
            neurons.own_conversations(study, neurons.with_intent(harmful, sentence), mode, seed=seed),
            kind,
        )
        for sentence in sentences
    }
    refused = verdicts["refused"].to_numpy(dtype=bool)
    return Definition(neurons.increases(study, plain, meant, kind), innocent, refused, verdicts, (plain, meant))


def without_intent(
    study: StudyModel, harmful: pd.DataFrame, k: int = FIRST, seed: int = 0, sentences: Sequence[str] | None = None
) -> list[list[tuple[int, int]]]:
    """The first ``k`` by the paper's rule with each sentence that declares no harm (`OTHER`, `ENGLISH_OTHER`).

    What they are for: neurons that one rule finds are more alike than neurons drawn at random, so that a set of them
    strays further from the mean of all neurons, whatever it was chosen for. Against random sets alone, such a set can
    "differ" in a model of random weights.
    """
    sentences = (OTHER if study.invented else ENGLISH_OTHER) if sentences is None else sentences
    mode = "think" if study.chat.supports_think else "no-think"
    plain = neurons.own_conversations(study, harmful, mode, seed=seed)
    added = (neurons.with_intent(harmful, sentence) for sentence in sentences)
    more = (neurons.own_conversations(study, prompts, mode, seed=seed) for prompts in added)
    return [ranked(neurons.increases(study, plain, items), k) for items in more]


def curve(found: Definition, pairs: Sequence[int], draws: int = 20, seed: int = 0) -> pd.DataFrame:
    """The size of the paper's set by m and number of pairs, with intent and with harmless sentences (their mean).

    Columns ``sentence, m, pairs, neurons, chance``; m counts per layer.
    """
    layers, _, units = found.intent.shape
    ms = [max(1, int(units * share)) for share in SHARES]
    parts = [neurons.set_sizes(found.intent, ms, pairs, draws, seed).assign(sentence="intent")]
    for increase in found.innocent.values():
        parts.append(neurons.set_sizes(increase, ms, pairs, draws, seed).assign(sentence="harmless"))
    table = pd.concat(parts).groupby(["sentence", "pairs", "m"], sort=False)["neurons"].mean().reset_index()
    chance = [neurons.chance_size(m, k, layers, units) for m, k in zip(table["m"], table["pairs"], strict=True)]
    return table.assign(chance=chance)


def numbers(found: Definition, k: int = FIRST) -> dict[str, dict[str, float]]:
    """For the ledger: ``{metric: {condition: value}}`` of sizes with all pairs, overlaps of the first k, refusals."""
    sizes = curve(found, [found.intent.shape[1]], draws=1)
    first = found.first(k)
    shared = [overlap(first["intent"], first[name]) for name in found.innocent]
    overlaps = {"overlap, intent, harmless": float(np.mean(shared))}
    overlaps |= {f"overlap, intent, harmless, {edge.__name__}": float(edge(shared)) for edge in (min, max)}
    if "refusing pairs" in first:
        overlaps["overlap, intent, refusing pairs"] = overlap(first["intent"], first["refusing pairs"])
    return {
        "neurons": {f"size, {row.sentence}, {row.m}": row.neurons for row in sizes.itertuples()},
        "overlap": overlaps,
        "pairs": {"pairs, refusing": float(found.refused.sum()), "pairs, all": float(len(found.refused))},
    }
