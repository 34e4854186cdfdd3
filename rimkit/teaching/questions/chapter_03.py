"""Chapter 03: a direction, its area under the curve, what a probe of nothing reaches, and life without it, by hand."""

import numpy as np

from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.by_hooks import REQUEST, logits, model
from rimkit.teaching.questions.comparing import compare

# a direction and what it is worth


def clouds(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States of harmful and harmless requests, by chance: unlike numbers of them, around unlike means."""
    rng = np.random.default_rng(seed)
    return rng.normal(1.0, 1.0, (30, 12)) + np.arange(12) / 6, rng.normal(0.4, 1.0, (50, 12))


def direction(harmful: np.ndarray, harmless: np.ndarray) -> np.ndarray:
    found = harmful.mean(0) - harmless.mean(0)
    return found / np.linalg.norm(found)


def judge_direction(function) -> bool | str:
    harmful, harmless = clouds()
    between, sums = harmful.mean(0) - harmless.mean(0), harmful.sum(0) - harmless.sum(0)
    mean = np.vstack([harmful, harmless]).mean(0)
    normed = np.subtract(*(part.mean(0) / np.linalg.norm(part.mean(0)) for part in (harmful, harmless)))
    each = "each mean was divided by its own norm, which turns the direction: take the difference first, then divide it"
    return compare(
        result_of(function, harmful.copy(), harmless.copy()),
        direction(harmful, harmless),
        {
            "its length is not 1: divide it by its norm.": between,
            "it points from harmful to harmless; it should point to harmful.": -direction(harmful, harmless),
            "sums were compared, and there are more requests of one kind: take means.": sums / np.linalg.norm(sums),
            "that is where all states lie, not how the two kinds differ.": mean / np.linalg.norm(mean),
            "that is the mean of harmful states alone: take away that of the harmless ones.":
                harmful.mean(0) / np.linalg.norm(harmful.mean(0)),
            "it is divided by its squared norm; a unit vector is divided by the norm.": between / (between @ between),
            f"{each} by its norm.": normed / np.linalg.norm(normed),
            f"{each}.": normed,
        },
    )  # fmt: skip


def judge_area(function) -> bool | str:
    rng = np.random.default_rng(0)
    scores = np.round(np.concatenate([rng.normal(0.9, 1, 20), rng.normal(0, 1, 30)]), 0)  # so that there are ties
    positive = np.arange(50) < 20
    above = scores[positive][:, None] - scores[~positive][None]
    threshold = scores.mean()
    return compare(
        result_of(function, scores.copy(), positive.copy()),
        area(scores, positive),
        {
            "ties were counted as wins: a positive and a negative with the same score count half.": float((above >= 0).mean()),
            "ties were counted as losses: a positive and a negative with the same score count half.": float((above > 0).mean()),
            "that is the chance that a negative scores above a positive.":
                area(-scores, positive),
            "that is the accuracy at one threshold; the area compares every positive with every negative.":
                float(((scores > threshold) == positive).mean()),
        },
        tolerance=1e-4,
    )  # fmt: skip


def judge_removal(function) -> bool | str:
    rng = np.random.default_rng(0)
    states, way = rng.normal(size=(5, 12)), 3 * rng.normal(size=12)
    unit = way / np.linalg.norm(way)
    return compare(
        result_of(function, states.copy(), way.copy()),
        states - np.outer(states @ unit, unit),
        {
            "the direction's length is not 1 here: divide by it first, or by its square afterwards.":
                states - np.outer(states @ way, way),
            "that is the part along the direction; it is to be taken away.": np.outer(states @ unit, unit),
            "the direction itself was subtracted, from every state alike: take away each state's own part of it.":
                states - way,
            "the unit vector itself was subtracted, from every state alike: take away each state's own part of it.":
                states - unit,
            "one division is missing: along a unit vector, both the length and the way are divided.":
                states - np.outer(states @ way, unit),
            "the part along it was added, not taken away.": states + np.outer(states @ unit, unit),
        },
    )  # fmt: skip


def area(scores: np.ndarray, positive: np.ndarray) -> float:
    above = scores[positive][:, None] - scores[~positive][None]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def judge_shuffled(function) -> bool | str:
    harmful = np.arange(80) < 30
    states, new = (np.vstack(clouds(seed)) for seed in (0, 1))
    found = result_of(function, states.copy(), harmful.copy(), new.copy(), harmful.copy(), 40)
    if np.shape(found) != (40,):
        return f"its shape is {np.shape(found)}: return one area for each of the 40 shuffles."
    areas = np.asarray(found, dtype=float)
    if not ((areas >= 0) & (areas <= 1)).all():
        return "an area under the curve lies between 0 and 1."
    if np.ptp(areas) < 1e-9:
        real = area(new @ direction(states[harmful], states[~harmful]), harmful)
        same = "the area of the true labels: shuffle the labels that the direction is fitted to."
        return (
            f"every area is {same if abs(areas[0] - real) < 1e-6 else 'the same: make one generator, before the loop.'}"
        )
    if areas.min() >= 0.5 and areas.std() >= 0.06:
        return "every area is 0.5 or more: a direction that learned nothing may point the wrong way, so keep areas below 0.5."
    if areas.std() < 0.06:
        return "these look like areas on the requests that were fitted: a probe learns even shuffled labels by heart."
    if areas.std() < 0.15:
        return "they lie too close to 0.5: shuffle the labels of the fit alone; those of the new requests stay true."
    return True


def judge_cosine(function) -> bool | str:
    found = (judge_one_cosine(function, side) for side in (1, -1))
    return next((said for said in found if said is not True), True)


def judge_one_cosine(function, side: int) -> bool | str:
    """Refused requests lie towards harm, or (-1) away from it."""
    harmful, harmless = clouds()
    refused = np.arange(30) % 3 > 0
    harmful[refused] += side * np.arange(12)[::-1] / 6
    harm = harmful.mean(0) - harmless.mean(0)
    outcome = harmful[refused].mean(0) - harmful[~refused].mean(0)
    against = harmful[refused].mean(0) - harmless.mean(0)

    def cosine(first: np.ndarray, second: np.ndarray) -> float:
        return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    return compare(
        result_of(function, harmful.copy(), harmless.copy(), refused.copy()),
        cosine(harm, outcome),
        {
            "both vectors have a length of their own: divide by both norms.": float(harm @ outcome),
            **({"the sign was dropped: a cosine below 0 says that the directions point apart.": -cosine(harm, outcome)}
               if side < 0 else {}),
            "the outcome is refused minus fulfilled, both harmful; harmless requests are no part of it.":
                cosine(harm, against),
            "harm is all harmful requests minus harmless ones, the fulfilled ones too.": cosine(against, outcome),
            "that is an angle in degrees; give its cosine.": float(np.degrees(np.arccos(cosine(harm, outcome)))),
            "that is a correlation: it takes each vector's mean away, which a cosine does not.":
                float(np.corrcoef(harm, outcome)[0, 1]),
        },
    )  # fmt: skip


# inside the model


def towards() -> np.ndarray:
    """A direction to take out: one that the model's own weights hold, so that it matters."""
    return model().hf.lm_head.weight.detach().float().numpy()[7] * 2


def taken_out(where: object = slice(None), unit: bool = True):
    import torch

    way = torch.tensor(towards())
    way = way / way.norm() if unit else way

    def change(stream):
        stream[:, where] = stream[:, where] - (stream[:, where] @ way)[..., None] * way
        return stream

    return change


def judge_without_direction(function) -> bool | str:
    import torch

    every = range(model().hf.config.num_hidden_layers)
    inside = {"name": "", "where": "output"}
    return compare(
        result_of(function, model(), REQUEST, torch.tensor(towards())),
        logits(layer=every, change=taken_out(), **inside),
        {
            "nothing was changed: assign to the layer's output itself, inside the trace.": logits,
            "it is taken out after the last layer alone; later layers write it again, so take it out after each.":
                lambda: logits(layer=every[-1], change=taken_out(), **inside),
            "it is taken out after the first layer alone; later layers write it again, so take it out after each.":
                lambda: logits(layer=0, change=taken_out(), **inside),
            "only the last token lost it: take it out at every position.":
                lambda: logits(layer=every, change=taken_out(-1), **inside),
            "the direction's length is not 1: divide it by its norm first.":
                lambda: logits(layer=every, change=taken_out(unit=False), **inside),
            "it is read one token too early: the last position is -1.":
                lambda: logits(position=-2, layer=every, change=taken_out(), **inside),
        },
    )  # fmt: skip


DIRECTION = """
import numpy as np

def direction(harmful, harmless):
    found = harmful.mean(axis=0) - harmless.mean(axis=0)
    return found / np.linalg.norm(found)
"""
AREA = """
import numpy as np

def area(scores, positive):
    above = scores[positive][:, None] - scores[~positive][None]
    return np.mean(above > 0) + np.mean(above == 0) / 2
"""
REMOVAL = """
import numpy as np

def without(states, direction):
    unit = direction / np.linalg.norm(direction)
    return states - (states @ unit)[:, None] * unit
"""
WITHOUT_DIRECTION = """
import torch

def without_direction(study, request, direction):
    unit = direction / direction.norm()
    ids = torch.tensor([study.chat.encode(request, "no-think").ids])
    with torch.no_grad(), study.nn.trace(ids):
        for layer in study.nn.model.layers:
            state = layer.output
            layer.output = state - (state @ unit)[..., None] * unit
        logits = study.nn.output.logits[0, -1].save()
    return logits
"""
SHUFFLED = """
import numpy as np

def shuffled(states, harmful, new, new_harmful, draws):
    rng, areas = np.random.default_rng(0), []
    for _ in range(draws):
        label = rng.permutation(harmful)
        scores = new @ (states[label].mean(axis=0) - states[~label].mean(axis=0))
        above = scores[new_harmful][:, None] - scores[~new_harmful][None]
        areas.append(np.mean(above > 0) + np.mean(above == 0) / 2)
    return areas
"""
COSINE = """
import numpy as np

def cosine(harmful, harmless, refused):
    harm = harmful.mean(axis=0) - harmless.mean(axis=0)
    outcome = harmful[refused].mean(axis=0) - harmful[~refused].mean(axis=0)
    return harm @ outcome / np.linalg.norm(harm) / np.linalg.norm(outcome)
"""
EXERCISES = {
    "03.1": Exercise(
        "A direction in one line",
        ("easy", "essential", 5),
        "Write `direction(harmful, harmless)`: the vector of length 1 that points from the mean of the harmless states to that "
        "of the harmful ones. Both are arrays of shape (requests, numbers).",
        judge_direction,
        hints=("Means over requests: `harmful.mean(axis=0)`.", "Divide by `np.linalg.norm(…)`."),
        answer="The difference of means: no fitting, no settings, and hard to beat where groups are well apart.",
        expects="a function that returns a vector",
        code=DIRECTION,
    ),
    "03.2": Exercise(
        "The area under the curve",
        ("medium", "essential", 8),
        "Write `area(scores, positive)`: the chance that a positive scores above a negative, where equal scores count half. "
        "`scores` are numbers, `positive` says which of them belong to the positive group.",
        judge_area,
        hints=(
            "Compare every positive with every negative: `scores[positive][:, None] - scores[~positive][None]`.",
            "The share above zero, and half of the share that is zero.",
        ),
        answer="It needs no threshold, and 0.5 means that the scores say nothing.",
        expects="a function that returns a number between 0 and 1",
        code=AREA,
    ),
    "03.3": Exercise(
        "A probe that learned nothing",
        ("medium", "essential", 10),
        "Write `shuffled(states, harmful, new, new_harmful, draws)`: shuffle the labels `harmful` (True or False, one for each "
        "row of `states`), fit a direction to them, and take the area under the curve on the `new` states with their own, true "
        "labels. Return the areas of all draws.",
        judge_shuffled,
        hints=(
            "`rng.permutation(harmful)` gives the same labels in another order; make `rng` once, before the loop.",
            "Scores are `new @ direction`; the area is exercise 03.2.",
        ),
        answer="On average 0.5, and single draws reach far to both sides: where two groups lie far apart, almost any direction "
        "separates them one way or the other. So one shuffle says little, and forty say what a probe of nothing reaches.",
        expects="a function that returns a list of numbers",
        code=SHUFFLED,
    ),
    "03.4": Exercise(
        "Is it the same direction?",
        ("easy", "useful", 6),
        "Write `cosine(harmful, harmless, refused)`: the cosine between the direction of harm (harmful minus harmless) and that "
        "of the outcome (refused minus fulfilled). `refused` says for each row of `harmful` whether it was refused; the others "
        "were fulfilled.",
        judge_cosine,
        hints=(
            "`harmful[refused]` and `harmful[~refused]` are the two groups of the outcome.",
            "The cosine of a and b is `a @ b / np.linalg.norm(a) / np.linalg.norm(b)`.",
        ),
        answer="1: the same direction, 0: at right angles. Chance gives a cosine near 0 only where states vary alike in all "
        "dimensions. Where a few directions hold most of the variance, as here, directions of shuffled labels lie along them too.",
        expects="a function that returns a number between -1 and 1",
        code=COSINE,
    ),
    "03.5": Exercise(
        "Take a direction out",
        ("medium", "essential", 8),
        "Write `without(states, direction)`: the states (one per row) without their part along the direction, whose length "
        "need not be 1.",
        judge_removal,
        hints=(
            "With a unit vector u, the part of a state h along it is (h · u) u.",
            "`states @ unit` gives one number per state; `[:, None]` makes a column of them.",
        ),
        answer="What remains is at right angles to the direction: it says nothing along it any more.",
        expects="a function that returns an array of the states' shape",
        code=REMOVAL,
    ),
    "03.6": Exercise(
        "The model without it",
        ("hard", "essential", 12),
        "Write `without_direction(study, request, direction)`: the logits of the first token of the reply in no-think mode, "
        "with the direction (a tensor of any length) taken out of the residual stream after every layer, at every position.",
        judge_without_direction,
        hints=(
            "Inside the trace, for every layer: read `layer.output`, take the part along the unit vector away, and assign the "
            "result to `layer.output`.",
            "`(state @ unit)[..., None] * unit` is the part along it, for all positions at once.",
        ),
        answer="Taken out once, later layers would write it again.",
        expects="a function that returns the logits of every token",
        code=WITHOUT_DIRECTION,
    ),
}
