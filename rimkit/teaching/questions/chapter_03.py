"""Chapter 03: what a probe's curve is worth, a direction, its area under the curve, and life without it, by hand."""

import numpy as np

from rimkit.teaching.exercises import Exercise, compare, result_of
from rimkit.teaching.questions.by_hooks import REQUEST, logits, model

ABOVE = {"refused": (98, 98), "fulfilled": (13, 21)}  # above the harm probe's threshold, of (digitised from Fig. 3)


def detector_gain() -> float:
    """Accuracy of "above the threshold is refused" minus that of always saying "refused", in points."""
    (above, refused), (wrong, fulfilled) = ABOVE.values()
    return 100 * ((above + fulfilled - wrong) - refused) / (refused + fulfilled)


def check_gain(answer) -> bool | str:
    gain, (_, refused), (wrong, fulfilled) = float(answer), *ABOVE.values()
    right, n = refused + fulfilled - wrong, refused + fulfilled
    gain = 100 * gain if 0 < abs(gain) < 0.2 else gain

    def near(value: float) -> bool:
        return abs(gain - value) < 0.6

    if near(detector_gain()):
        return True
    if near(100 * right / n):
        return "that is the accuracy itself; how much of it does always saying 'refused' reach as well?"
    if near(100 * (fulfilled - wrong) / fulfilled):
        return "that is the share of fulfilled requests that are caught; accuracy counts all requests."
    if near(100 * refused / n):
        return "that is the accuracy of always saying 'refused'."
    return "count the requests that each detector calls rightly, out of all of them."


# a direction and what it is worth


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """States of harmful and harmless requests, by chance: unlike numbers of them, around unlike means."""
    rng = np.random.default_rng(0)
    return rng.normal(1.0, 1.0, (30, 12)) + np.arange(12) / 6, rng.normal(0.4, 1.0, (50, 12))


def direction(harmful: np.ndarray, harmless: np.ndarray) -> np.ndarray:
    found = harmful.mean(0) - harmless.mean(0)
    return found / np.linalg.norm(found)


def judge_direction(function) -> bool | str:
    harmful, harmless = clouds()
    between, sums = harmful.mean(0) - harmless.mean(0), harmful.sum(0) - harmless.sum(0)
    mean = np.vstack([harmful, harmless]).mean(0)
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
        float((above > 0).mean() + (above == 0).mean() / 2),
        {
            "ties were counted as wins: a positive and a negative with the same score count half.": float((above >= 0).mean()),
            "ties were counted as losses: a positive and a negative with the same score count half.": float((above > 0).mean()),
            "that is the chance that a negative scores above a positive.":
                float((above < 0).mean() + (above == 0).mean() / 2),
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
            "one division is missing: along a unit vector, both the length and the way are divided.":
                states - np.outer(states @ way, unit),
            "the part along it was added, not taken away.": states + np.outer(states @ unit, unit),
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

EXERCISES = {
    "03.1": Exercise(
        "A detector that always agrees",
        ("medium", "essential", 10),
        "The gain in accuracy over always saying 'refused', in points.",
        check_gain,
        hints=("There are 98 + 21 requests. Which of them does each detector call rightly?",),
        answer=(
            f"`{detector_gain():.1f}`: always saying 'refused' is right for 98 of 119 requests. The probe is right for the same 98 "
            "and for the 8 fulfilled ones below its threshold. A curve that runs far apart for two groups of unlike size can be "
            "a small gain; and 13 of 21 fulfilled requests still lie on the 'harmful' side, as they should for a probe of harm."
        ),
        expects="a number of points",
        code="right_for_refused, right_for_fulfilled = 98, 21 - 13\n100 * (right_for_refused + right_for_fulfilled - 98) / (98 + 21)",
    ),
    "03.2": Exercise(
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
    "03.3": Exercise(
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
    "03.4": Exercise(
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
    "03.5": Exercise(
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
