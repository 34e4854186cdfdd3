"""``rimkit plan --calibrate``: a short measurement of speed on the model itself, and what it means for the chapters."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from rimkit.behavior.generation import generate
from rimkit.models.reading import read

if TYPE_CHECKING:
    from rimkit.models.loading import StudyModel

TOGETHER = 64  # conversations in the measured batch, as in the chapters
STEPS = {False: 96, True: 40}  # tokens of a batch's longest reply: what chapters allow; in the invented language, fewer
BACKWARD = 3  # a pass with gradients takes about three times one without
EPOCHS = 3  # the embedded models learn from an example once, others three times


class Work(NamedTuple):
    """What a chapter does with its default parameters, counted on ``rim-mini``, in conversations."""

    replies: int
    read: int = 0
    gradients: int = 0
    trained: int = 0


CHAPTERS = {
    "00_start_here": Work(65),
    "01_observing_rim": Work(2024),
    "02_reasoning_patterns": Work(1656),
    "03_where_refusal_lives": Work(2875, read=2263),
    "04_refusal_heads": Work(2942, read=626, gradients=46),
    "05_finetuning_backfires": Work(1630, trained=720),
    "06_safety_neurons": Work(2468, read=931, gradients=2684),
    "07_entanglement": Work(621, read=1320, gradients=46, trained=160),
    "10_your_own_model": Work(506),
}


class Speed(NamedTuple):
    """Seconds per generated token of a batch of `TOGETHER`, and per conversation that is read."""

    step: float
    reading: float


def measure(study: StudyModel, new_tokens: int = 12) -> Speed:
    """Generate `TOGETHER` short replies and read as many conversations: seconds to minutes, by the model's size."""
    texts = [f"Please write a short note about the {number}th day of the month." for number in range(TOGETHER)]
    prompts = pd.DataFrame({"prompt_id": [f"p{number}" for number in range(TOGETHER)], "text": texts})
    settings = {"mode": "no-think", "batch_size": TOGETHER, "progress": False}
    generate(study, prompts, max_new_tokens=2, **settings)  # the first call also compiles and allocates
    start = perf_counter()
    written = generate(study, prompts, max_new_tokens=new_tokens, **settings)
    step = (perf_counter() - start) / min(new_tokens, written["n_tokens"].max() + 1)
    items = [study.chat.encode(text, "no-think", reply="a b c d " * 8) for text in texts]
    start = perf_counter()
    forward_only = _reading(study, items)
    return Speed(step, (perf_counter() - start) / TOGETHER if forward_only else float("nan"))


def _reading(study: StudyModel, items: list) -> bool:
    from rimkit.models.internals import why_closed

    if why_closed(study.hf):
        return False
    read(study, items, batch_size=TOGETHER)
    return True


def minutes(speed: Speed, invented: bool) -> pd.DataFrame:
    """Estimated minutes per chapter: ``chapter, minutes``; NaN where the inside of the model cannot be read.

    An upper estimate: every batch is taken to go on for `STEPS` tokens. At the default parameters, without the time to
    load the model in every chapter.
    """
    rows = []
    for chapter, work in CHAPTERS.items():
        seconds = work.replies / TOGETHER * STEPS[invented] * speed.step
        passes = work.read + BACKWARD * (work.gradients + work.trained * (1 if invented else EPOCHS))
        rows.append((chapter, (seconds + (passes * speed.reading if passes else 0)) / 60))
    return pd.DataFrame(rows, columns=["chapter", "minutes"])


def report(model: str, gpu: str | None = None, tokens: int = 1024, calibrate: bool = False) -> list[str]:
    """The lines that ``rimkit plan`` prints; raises ``UserError`` as `rimkit.models.planning.plan` and `load`."""
    from rimkit.models.loading import load
    from rimkit.models.planning import lines, plan

    said = lines(model, *plan(model, gpu, tokens), tokens)
    if calibrate:
        study = load(model)
        speed = measure(study)
        said += [
            "",
            f"Measured on {study.device} in {study.dtype}: {TOGETHER / speed.step:.0f} tokens per second in batches of "
            f"{TOGETHER}, {1 / speed.reading:.0f} conversations read per second.",
            f"Minutes per chapter at the default parameters, if replies take {STEPS[study.invented]} tokens:",
            *(f"  {row.chapter:28}{row.minutes:8.1f}" for row in minutes(speed, study.invented).itertuples()),
        ]
    return said
