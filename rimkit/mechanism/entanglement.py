"""Claims C9 and C10 (section 4 of the paper): reciprocal activation shift, RAS, and what else could predict RIM.

After fine-tuning, some neurons respond less to safety requests and some more to maths. RAS is the harmonic mean of the
two shifts (the paper's equations of sections 4.1 and 4.2). What they leave open is a parameter here: each shift is
read as one-sided (only neurons that move in its direction contribute, the mean is over all of them); activations are
maxima over the tokens of the request, averaged over requests; and since a relative change is undefined for a smaller
value at or below zero, which gated MLPs do produce, such neurons are left out ("drop") or get the denominator
``floor`` ("clip").
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rimkit.behavior.measure import load_sets
from rimkit.errors import UserError
from rimkit.mechanism.sets import Units, matched_sets
from rimkit.models.chat import Encoded
from rimkit.models.internals import architecture
from rimkit.models.loading import StudyModel
from rimkit.models.reading import batches, mean, read

FLOOR = 1e-2
GUARDS = ("drop", "clip")
MIN_EACH = 4  # refused requests, and others, that a refusal direction needs


def one_sided_shift(smaller: np.ndarray, larger: np.ndarray, guard: str = "drop", floor: float = FLOOR) -> float:
    """Mean over neurons of ``(larger - smaller) / smaller * larger``, 0 where ``larger`` is not the larger one.

    With the untuned activations as ``larger`` and the tuned ones as ``smaller`` it is the paper's fall on safety
    requests, the other way round its rise on maths. In units of activation: not free of scale.
    """
    if guard not in GUARDS:
        raise UserError(f"unknown guard '{guard}' (known: {', '.join(GUARDS)})")
    smaller, larger = np.asarray(smaller, dtype=float), np.asarray(larger, dtype=float)
    if smaller.shape != larger.shape:
        raise UserError(f"two models of different shape cannot be compared: {larger.shape} and {smaller.shape}")
    if not smaller.size:
        raise UserError("the set of neurons is empty: RAS needs at least one")
    moves = larger > smaller
    if guard == "drop":
        moves &= smaller > floor
    below = np.maximum(smaller, floor)
    return float(np.where(moves, (larger - smaller) / below * larger, 0.0).mean())


def harmonic(a: float, b: float) -> float:
    """The harmonic mean of two shifts; 0 where one of them is 0."""
    return 2 * a * b / (a + b) if a > 0 and b > 0 else 0.0


@dataclass(frozen=True)
class Activations:
    """Mean pooled activations ``[layers, neurons]`` on safety requests and on maths."""

    safety: np.ndarray
    maths: np.ndarray


def activations(
    study: StudyModel, safety: Sequence[Encoded], maths: Sequence[Encoded], pool: str = "max", span: str = "request"
) -> Activations:
    """Activations of a model, streamed: memory does not grow with the number of requests."""
    return Activations(*(mean(study, items, "neurons", span, pool=pool) for items in (safety, maths)))


def shifts(
    before: Activations, after: Activations, units: Units | None = None, guard: str = "drop", floor: float = FLOOR
) -> dict[str, float]:
    """``ras``, its two terms ``fall`` (safety) and ``rise`` (maths), and their other means, over some or all neurons.

    Raises ``UserError`` for an empty set and for models of different shape.
    """
    if before.safety.shape != after.safety.shape:
        raise UserError(
            f"two models of different shape cannot be compared: {before.safety.shape} and {after.safety.shape}"
        )
    where = tuple(np.array(units, dtype=int).reshape(-1, 2).T) if units is not None else ...
    fall = one_sided_shift(after.safety[where], before.safety[where], guard, floor)
    rise = one_sided_shift(before.maths[where], after.maths[where], guard, floor)
    means = {"arithmetic mean": (fall + rise) / 2, "geometric mean": float(np.sqrt(fall * rise))}
    return {"ras": harmonic(fall, rise), "fall": fall, "rise": rise, **means}


# -- the rivals --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """The untuned model's side of every predictor: what is read once and compared with each tuned model."""

    study: StudyModel
    safety: list[Encoded]
    maths: list[Encoded]
    harmless: list[Encoded]
    activations: Activations
    states: np.ndarray
    states_harmless: np.ndarray
    critical: list[tuple[int, int]]
    random: list[list[tuple[int, int]]]
    causal: list[tuple[int, int]]
    same_rule: list[list[tuple[int, int]]]
    directions: dict[str, np.ndarray]


def baseline(
    study: StudyModel, critical: Units, causal: Units = (), n: int = 46, n_random: int = 40, seed: int = 0,
    refused: Collection[str] = (), same_rule: Sequence[Units] = (),
) -> Baseline:  # fmt: skip
    """Read the untuned model on ``n`` calibration requests of each kind.

    ``critical``: the safety-critical neurons; random sets have as many in every layer. ``causal``: a second set, of
    neurons that refusal was found to depend on (none: RAS is not computed over it). ``same_rule``: sets that the rule
    of ``critical`` finds without intent (`rimkit.mechanism.neuron_pairs.without_intent`). ``refused``: ids of the
    harmful requests that the model refuses in think mode; with `MIN_EACH` refused and as many others, they give the
    refusal direction. States are read where a thought has been opened and its first word is to come (without a think
    mode: at the end of the prompt): what is to be predicted happens in think mode. Activations are over the request,
    which the mode does not change. Raises ``UserError`` for an empty set.
    """
    if not len(critical):
        raise UserError("the set of safety-critical neurons is empty: choose a larger one")
    mode = {"mode": "think", "thought_prefix": ""} if study.chat.supports_think else {"mode": "no-think"}
    sets = {name: load_sets([name], split="calibration", n=n) for name in ("harmful", "maths", "harmless")}
    safety, maths, harmless = ([study.chat.encode(text, **mode) for text in table["text"]] for table in sets.values())
    states, others = _states(study, safety), _states(study, harmless)
    directions = {"harm": states.mean(1) - others.mean(1)}
    labels = sets["harmful"]["prompt_id"].isin(list(refused)).to_numpy()
    if min(labels.sum(), (~labels).sum()) >= MIN_EACH:
        directions["refusal"] = states[:, labels].mean(1) - states[:, ~labels].mean(1)
    return Baseline(
        study, safety, maths, harmless, activations(study, safety, maths), states, others, list(critical),
        matched_sets(critical, architecture(study).n_neurons, n_random, seed), list(causal),
        [list(units) for units in same_rule], directions,
    )  # fmt: skip


def _states(study: StudyModel, items: Sequence[Encoded]) -> np.ndarray:
    return read(study, items, ("residual",), ("last",))["residual", "last"]


def predictors(base: Baseline, tuned: StudyModel, tuning: Sequence[tuple[list[int], int]] = ()) -> dict[str, float]:
    """Every predictor of forgetting, for one tuned model: name to value.

    ``tuning``: sequences of the tuning data, as `rimkit.training.finetuning.encode_corpus` makes them (without any,
    no KL divergence on them). RAS and its parts in safety-critical neurons; RAS in every random set
    ("ras (random) 0" ...), their mean, in every set of the same rule ("ras (same rule) 0" ...), and in all neurons; KL
    divergence untuned to tuned on the tuning data and on safety prompts; L2 distance of the weights, in all and per
    layer; distance of the states where the thought begins; CKA ratio; displacement along the harm and, where it is
    defined, the refusal direction.
    """
    after = activations(tuned, base.safety, base.maths)
    critical = shifts(base.activations, after, base.critical)
    random = [shifts(base.activations, after, units)["ras"] for units in base.random]
    found = {f"{name} (safety)" if name == "ras" else name: value for name, value in critical.items()}
    found |= {"ras (random)": float(np.mean(random)), "ras (all)": shifts(base.activations, after)["ras"]}
    if base.causal:
        found["ras (gradient)"] = shifts(base.activations, after, base.causal)["ras"]
    found |= {f"ras (random) {number}": value for number, value in enumerate(random)}
    found |= {
        f"ras (same rule) {number}": shifts(base.activations, after, units)["ras"]
        for number, units in enumerate(base.same_rule)
    }
    data = [(ids, len(ids) - n_prompt) for ids, n_prompt in tuning]
    ends = [(item.ids, 1) for item in base.safety]
    if data:
        found["KL on tuning data"] = kl_divergence(base.study, tuned, data)
    found["KL on safety prompts"] = kl_divergence(base.study, tuned, ends)
    found |= weight_distance(base.study, tuned)
    states, harmless = _states(tuned, base.safety), _states(tuned, base.harmless)
    found["activation distance"] = float(np.linalg.norm(states - base.states, axis=-1).mean())
    found["CKA ratio"] = cka_ratio(base.states, states, base.states_harmless, harmless)
    for name, direction in base.directions.items():
        found[f"displacement ({name})"] = displacement(base.states, states, direction)
    return found


def kl_divergence(base: StudyModel, tuned: StudyModel, sequences: Sequence[tuple[list[int], int]]) -> float:
    """``KL(untuned || tuned)`` in nats per token (Shenfeld et al. 2025), over the last tokens of every sequence.

    ``sequences``: ids, and how many tokens at the end count; the distribution is the one that predicts each of them
    (of prompts without a reply, with 1: the one after the last token).
    """
    import torch

    items = [Encoded(ids, {"counted": (len(ids) - count, len(ids))}, "no-think") for ids, count in sequences]

    def run(ids, mask, places):
        with torch.inference_mode():
            one, two = (torch.log_softmax(_logits(study, ids, mask), -1) for study in (base, tuned))
            kl = (one.exp() * (one - two)).sum(-1)
        return [kl[row, slice(*place["counted"])].sum().item() for row, place in enumerate(places)]

    total = sum(sum(found) for _, found in batches(base, items, 8, run))
    return total / sum(count for _, count in sequences)


def _logits(study: StudyModel, ids, mask):
    return study.hf(
        input_ids=ids.to(study.device), attention_mask=mask.to(study.device), use_cache=False
    ).logits.float()


def weight_distance(base: StudyModel, tuned: StudyModel) -> dict[str, float]:
    """L2 distance of the weights, ``weights`` in all and ``weights, layer 0`` ... per layer."""
    before, after = dict(base.hf.named_parameters()), dict(tuned.hf.named_parameters())
    if {name: x.shape for name, x in before.items()} != {name: x.shape for name, x in after.items()}:
        raise UserError("two models of different shape cannot be compared: their weights differ")
    squares = {name: float((after[name] - x).detach().double().pow(2).sum()) for name, x in before.items()}
    found = {"weights": float(np.sqrt(sum(squares.values())))}
    for layer in range(architecture(base).n_layers):
        inside = sum(value for name, value in squares.items() if f".layers.{layer}." in name)
        found[f"weights, layer {layer}"] = float(np.sqrt(inside))
    return found


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA of two sets of states ``[prompts, hidden]`` (Kornblith et al. 2019): 1 if alike up to rotation."""
    a, b = a - a.mean(0), b - b.mean(0)
    return float(np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b) + 1e-12))


def cka_ratio(harmful: np.ndarray, harmful_after: np.ndarray, harmless: np.ndarray, harmless_after: np.ndarray):
    """How much more the states of harmful requests changed shape than those of harmless ones: mean over layers.

    ``(1 - CKA of harmful) / (1 - CKA of harmless)`` (Zhao et al. 2026), from states ``[residuals, prompts, hidden]``.
    """
    pairs = ((harmful, harmful_after), (harmless, harmless_after))
    changed = [[1 - cka(*layer) for layer in zip(before, after, strict=True)] for before, after in pairs]
    return float(np.mean([(one + 1e-6) / (other + 1e-6) for one, other in zip(*changed, strict=True)][1:]))


def displacement(before: np.ndarray, after: np.ndarray, direction: np.ndarray) -> float:
    """How far tuning moves requests along a ``direction`` per residual (made 1 long); mean over layers and requests.

    Along the refusal direction (refused minus other harmful requests of the untuned model), positive is towards
    refusal; along the harm direction (harmful minus harmless), towards what harmful requests look like.
    """
    unit = direction / (np.linalg.norm(direction, axis=-1, keepdims=True) + 1e-12)
    return float(np.einsum("rh,rh->r", (after - before).mean(1), unit).mean())


def ras_table(base: Baseline, tuned: StudyModel, guard: str = "drop", floor: float = FLOOR) -> pd.DataFrame:
    """RAS and its two shifts in each set of neurons, one row per set: ``neurons, ras, fall, rise, size``.

    Rows: safety-critical, random (one per set: "random 0" ...), of the same rule without intent ("same rule 0" ...),
    all, and the second set if there is one ("gradient").
    """
    after = activations(tuned, base.safety, base.maths)
    sets = {"safety-critical": base.critical} | {f"random {i}": units for i, units in enumerate(base.random)}
    sets |= {f"same rule {i}": units for i, units in enumerate(base.same_rule)}
    sets |= {"all": None} | ({"gradient": base.causal} if base.causal else {})
    rows = []
    for name, units in sets.items():
        found = shifts(base.activations, after, units, guard, floor)
        size = base.activations.safety.size if units is None else len(units)
        rows.append({"neurons": name, **{key: found[key] for key in ("ras", "fall", "rise")}, "size": size})
    return pd.DataFrame(rows)


def guard_audit(base: Baseline, tuned: StudyModel, floor: float = FLOOR) -> dict[str, float]:
    """How much the guard decides: RAS in safety-critical neurons under each, and what "drop" leaves out.

    ``falling`` and ``rising``: of all neurons that move that way, the share whose denominator is at or below ``floor``.
    """
    before, after = base.activations, activations(tuned, base.safety, base.maths)
    found = {guard: shifts(before, after, base.critical, guard, floor)["ras"] for guard in GUARDS}
    pairs = {"falling": (after.safety, before.safety), "rising": (before.maths, after.maths)}
    for name, (smaller, larger) in pairs.items():
        moving = smaller[larger > smaller]
        found[name] = float((moving <= floor).mean()) if moving.size else 0.0
    return found
