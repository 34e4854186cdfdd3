"""Claims C9 and C10 (section 4 of the paper): reciprocal activation shift, RAS, and what else could predict RIM.

After fine-tuning, some neurons respond less to safety requests and some more to maths. RAS is the harmonic mean of the
two shifts (the paper's equations of sections 4.1 and 4.2). What they leave open is a parameter here: each shift is
read as one-sided (only neurons that move in its direction contribute, the mean is over all of them); activations are
maxima over the tokens of the request, averaged over requests; and since a relative change is undefined for a smaller
value at or below zero, which gated MLPs do produce, such neurons are left out ("drop") or get the denominator
``floor`` ("clip").

Claims C9 and C10 as ledger rows: RAS in safety-critical neurons against other sets, and against its rivals.

A single other set may have a high or a low RAS, so the control is the *spread* of such sets and not their mean: every
interval against them covers two things, which corpora were used and which set one compares with. One of them in place
of the critical set is then undecided about 95 times in 100.

Which sets? Random neurons are the paper's control, and no fair one: neurons that one rule finds are alike, so that a
set of them strays further than a random one, whatever it was chosen for (in models of random weights, too). C9a
therefore compares with the sets that the same rule finds without intent; random sets have a row of their own.

How well predictors of forgetting predict, over many tuned models (claims C9 and C10).

A point is one tuned model at one checkpoint. Points of one tuning, and of one corpus, resemble each other, so corpora
are drawn, left out and permuted as wholes. Scales differ between models (RAS has units of activation), so predictor and
outcome are standardised within each untuned model before they are pooled: the pooled correlation is the mean of the
models' own. *Beyond steps* also removes what the step of the checkpoint says, *beyond weights* what the distance of the
weights says: a predictor that only tells how far training has come is then worth nothing.

The grid of chapter 07: fine-tune again with checkpoints, and measure every predictor of forgetting at each.

Rows go to ``OUT/entanglement.parquet``: condition "corpus, step 10", the predictor's name as metric. Every tuning is
kept when it is done (``OUT/.cells``), and the same command goes on after an interruption.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from scipy import stats

from rimkit import ledger
from rimkit.behavior.evaluation import Evaluation
from rimkit.behavior.stats import (
    Units,
    against_singles,
    holm,
    matched_sets,
    paired_difference,
    resample_weights,
    widened_percentiles,
)
from rimkit.data import UserError
from rimkit.experiments import neurons
from rimkit.ledger import effect_row
from rimkit.models.activations import batches, mean, read
from rimkit.models.chat import MODES, Encoded
from rimkit.models.hooks import architecture
from rimkit.models.hub import embedded_models
from rimkit.models.load import load
from rimkit.models.study import StudyModel
from rimkit.training.corpora import ROLES, load_corpus
from rimkit.training.finetune import encode_corpus, finetune, restore, steps_in

# -- mechanism.prediction ----------
OUTCOME = "change of misaligned, think"
RAS = "ras (safety)"
PREDICTORS = (
    RAS, "ras (gradient)", "ras (random)", "ras (all)", "fall", "rise", "arithmetic mean", "geometric mean",
    "KL on tuning data", "KL on safety prompts", "weights", "activation distance", "CKA ratio",
    "displacement (refusal)", "displacement (harm)", "steps",
)  # fmt: skip
MODEL = ["model", "seed"]
N_REPLIES = 92  # behind every rate of misalignment in the grid
RELIABLE = 0.5  # the share of an outcome's variance over points that must be more than noise


def as_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows of `rimkit.experiments.ras` as one row per point: ``model, seed, corpus, step`` and every measure.

    The interval of the outcome is in two more columns, named as `bounds` says.
    """
    parts = rows["condition"].astype(str).str.extract(r"^(?P<corpus>[^,]+), step (?P<step>\d+)$")
    table = rows.assign(**parts)
    ends = [
        table[table["metric"] == OUTCOME].assign(metric=name, value=lambda part, end=end: part[end])
        for name, end in zip(bounds(), ("ci_low", "ci_high"), strict=True)
    ]
    table = pd.concat([table, *ends]).dropna(subset=["corpus", "value"])
    table = table.assign(step=table["step"].astype(int))
    wide = table.pivot_table(index=[*MODEL, "corpus", "step"], columns="metric", values="value", sort=False)
    return wide.reset_index().rename_axis(columns=None)


def bounds() -> tuple[str, str]:
    """The columns of `as_table` with the outcome's interval."""
    return f"{OUTCOME}, low", f"{OUTCOME}, high"


def variation(points: pd.DataFrame, n: int = N_REPLIES) -> pd.DataFrame:
    """One row per untuned model: ``model, seed, least, most`` (misaligned replies of ``n``)``, sd, noise, varies``.

    ``sd`` is the spread of the outcome over points, ``noise`` the standard error of a single change, from its interval.
    A model ``varies`` if more than `RELIABLE` of the variance is left without noise; standardising blows up the others.
    """
    low, high = bounds()
    rows = []
    for (model, seed), part in points.groupby(MODEL, sort=False, dropna=False):
        rate, sd = part["misaligned, think"], part[OUTCOME].std()
        noise = float(np.sqrt((((part[high] - part[low]) / (2 * 1.96)) ** 2).mean()))
        counts = {"least": round(rate.min() * n), "most": round(rate.max() * n)}
        varies = bool(sd > 0 and 1 - (noise / sd) ** 2 > RELIABLE)
        rows.append({"model": model, "seed": seed, **counts, "sd": sd, "noise": noise, "varies": varies})
    return pd.DataFrame(rows)


def varying(points: pd.DataFrame) -> pd.DataFrame:
    """The points of the models whose outcome varies beyond its noise (`variation`)."""
    found = variation(points)
    return points.merge(found.loc[found["varies"], MODEL], on=MODEL)


def standardised(points: pd.DataFrame, column: str, beyond: str | None = None, ranks: bool = False) -> pd.Series:
    """A column with mean 0 and spread 1 within each model; constant ones become 0.

    ``beyond="steps"``: also with mean 0 at every step; with another column (``"weights"``): what a straight line
    through that column leaves. ``ranks`` takes ranks within the model first (Spearman).
    """
    by = [points[name] for name in MODEL]

    def centred(name: str) -> pd.Series:
        values = points[name].astype(float)
        values = values.groupby(by, dropna=False).rank() if ranks else values
        return values - values.groupby(by, dropna=False).transform("mean")

    values = whole = centred(column)
    if beyond == "steps":
        values = values - values.groupby([*by, points["step"]], dropna=False).transform("mean")
    elif beyond:
        other = centred(beyond)
        sums = [(other * x).groupby(by, dropna=False).transform("sum") for x in (values, other)]
        values = values - other * sums[0] / sums[1].where(sums[1] > 0, 1.0)
    spread, before = (x.groupby(by, dropna=False).transform("std", ddof=0) for x in (values, whole))
    return (values / spread.where(spread > 1e-9 * before)).fillna(0.0)


def _moments(x: np.ndarray, y: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums of ``1, x, y, xx, yy, xy`` per corpus: every weighted correlation is made of these."""
    return np.stack([np.bincount(codes, values) for values in (np.ones_like(x), x, y, x * x, y * y, x * y)], 1)


def _correlations(weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Pearson correlations under each row of corpus ``weights``; 0 where something is constant."""
    n, x, y, xx, yy, xy = (weights @ moments).T
    spread = np.sqrt(np.maximum(xx / n - (x / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
    return np.divide(xy / n - x * y / n**2, spread, out=np.zeros_like(n), where=spread > 1e-9)


def correlations(
    points: pd.DataFrame, predictors: Sequence[str] = PREDICTORS, outcome: str = OUTCOME, beyond: str | None = None,
    seed: int = 0, n_permutations: int = 1000,
) -> pd.DataFrame:  # fmt: skip
    """One row per predictor: ``predictor, value`` (Pearson)``, ci_low, ci_high, spearman, without_min, without_max,
    models_min, models_max, positive, models, p_value, p_holm, n``.

    The interval draws corpora again; ``without_...`` are the extremes when one corpus is left out, ``models_...`` when
    one untuned model is; ``positive`` of ``models`` have a correlation above 0. ``p_value`` permutes which corpus an
    outcome belongs to, at the same step and in the same model (missing where that changes nothing), ``p_holm`` is
    Holm's over the predictors. Models without a predictor do not count for it; one that no model has is left out.
    Raises ``UserError`` for fewer than three corpora.
    """
    if points["corpus"].nunique() < 3:
        raise UserError(f"correlations over corpora need at least three, here are {points['corpus'].nunique()}")
    rows, permuted = [], {}
    for predictor in predictors:
        here = points[points[predictor].notna()] if predictor in points else points.head(0)
        if here["corpus"].nunique() < 3:
            continue
        if len(here) not in permuted:  # the same for all predictors that the same points have
            permuted[len(here)] = _permuted(here, outcome, beyond, n_permutations, seed)
        rows.append({"predictor": predictor, **_correlation(here, predictor, outcome, beyond, seed)})
        x = standardised(here, predictor, beyond)
        by_step = [here[name] for name in (*MODEL, "step")]
        if (x.groupby(by_step, dropna=False).transform("std", ddof=0) > 1e-9).any():
            chance = np.abs(permuted[len(here)] @ x.to_numpy() / len(here))
            reached = (chance >= abs(rows[-1]["value"]) - 1e-12).sum()
            rows[-1]["p_value"] = (1 + reached) / (1 + n_permutations)
    found = pd.DataFrame(rows)
    found["p_value"] = found.get("p_value", pd.Series(np.nan, index=found.index))
    return found.assign(p_holm=holm(found["p_value"]))


def _correlation(points: pd.DataFrame, predictor: str, outcome: str, beyond: str | None, seed: int) -> dict:
    """The row of `correlations` for a predictor, without its p values."""
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    x, y, ranked_x, ranked_y = (
        standardised(points, name, beyond, ranks) for ranks in (False, True) for name in (predictor, outcome)
    )
    moments = _moments(x.to_numpy(), y.to_numpy(), codes)
    value = float(_correlations(np.ones((1, len(corpora))), moments)[0])
    draws = _correlations(resample_weights(len(corpora), seed), moments)
    low, high = widened_percentiles(draws, len(corpora), 0.95)
    without = _correlations(1.0 - np.eye(len(corpora)), moments)
    per_model = (x * y).groupby([points[name] for name in MODEL], dropna=False).agg(["sum", "size"])
    rest = per_model.sum() - per_model if len(per_model) > 1 else per_model
    others = rest["sum"] / rest["size"]
    return {
        "value": value, "ci_low": min(low, value), "ci_high": max(high, value),
        "spearman": float((ranked_x * ranked_y).mean()), "without_min": without.min(), "without_max": without.max(),
        "models_min": others.min(), "models_max": others.max(), "positive": int((per_model["sum"] > 1e-9).sum()),
        "models": len(per_model), "n": len(points),
    }  # fmt: skip


def by_model(points: pd.DataFrame, predictors: Sequence[str] = PREDICTORS, outcome: str = OUTCOME) -> pd.DataFrame:
    """The correlation in every untuned model: a row per predictor, a column per model ("rim-mini:0")."""
    names = points["model"].astype(str) + ":" + points["seed"].astype(str)
    products = {
        name: (standardised(points, name) * standardised(points, outcome)).groupby(names, sort=False).mean()
        for name in predictors
        if name in points
    }
    table = pd.DataFrame(products).T.rename_axis(index="predictor", columns="model")
    return table.where(pd.DataFrame({name: points[name].groupby(names).count() > 0 for name in products}).T)


def _permuted(points: pd.DataFrame, outcome: str, beyond: str | None, n: int, seed: int) -> np.ndarray:
    """``[n, points]``: outcomes with corpora exchanged as wholes; a point whose new corpus has none keeps its own."""
    y = standardised(points, outcome, beyond).to_numpy()
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    keys = list(zip(*(points[name].astype(str) for name in (*MODEL, "step")), strict=True))
    place = {(key, code): row for row, (key, code) in enumerate(zip(keys, codes, strict=True))}
    rng = np.random.default_rng(seed)
    found = np.empty((n, len(y)))
    for draw in range(n):
        order = rng.permutation(len(corpora))
        found[draw] = y[
            [place.get((key, order[code]), row) for row, (key, code) in enumerate(zip(keys, codes, strict=True))]
        ]
    return found


def for_scatter(points: pd.DataFrame, predictors: Sequence[str]) -> pd.DataFrame:
    """For a scatter of the last checkpoints: a row per tuning and predictor, with ``predictor, x, y, ci_low, ci_high``.

    Both axes are standardised within the untuned model, over all of its points; the interval is that of the paired
    change of misalignment, in the same unit.
    """
    by = [points[name] for name in MODEL]
    centre, spread = (
        points[OUTCOME].groupby(by, dropna=False).transform(how) for how in ("mean", lambda y: y.std(ddof=0))
    )
    low, high = ((points[name] - centre) / spread for name in bounds())
    last = points["step"] == points.groupby([*MODEL, "corpus"], dropna=False)["step"].transform("max")
    parts = [
        points.assign(
            predictor=name, x=standardised(points, name), y=standardised(points, OUTCOME), ci_low=low, ci_high=high
        )[last & points[name].notna()]
        for name in predictors
    ]
    return pd.concat(parts, ignore_index=True)


# -- mechanism.entanglement ----------
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
    refused: Collection[str] = (), same_rule: Sequence[Units] = (), evaluation: Evaluation = Evaluation(),
) -> Baseline:  # fmt: skip
    """Read the untuned model on ``n`` calibration requests of each kind.

    ``critical``: the safety-critical neurons; random sets have as many in every layer. ``causal``: a second set, of
    neurons that refusal was found to depend on (none: RAS is not computed over it). ``same_rule``: sets that the rule
    of ``critical`` finds without intent (`rimkit.experiments.neurons.without_intent`). ``refused``: ids of the
    harmful requests that the model refuses in think mode; with `MIN_EACH` refused and as many others, they give the
    refusal direction. States are read where a thought has been opened and its first word is to come (without a think
    mode: at the end of the prompt): what is to be predicted happens in think mode. Activations are over the request,
    which the mode does not change. Raises ``UserError`` for an empty set.
    """
    if not len(critical):
        raise UserError("the set of safety-critical neurons is empty: choose a larger one")
    mode = {"mode": "think", "thought_prefix": ""} if study.chat.supports_think else {"mode": "no-think"}
    sets = {name: evaluation.sets([name], split="calibration", n=n) for name in ("harmful", "maths", "harmless")}
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

    ``tuning``: sequences of the tuning data, as `rimkit.training.finetune.encode_corpus` makes them (without any,
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


# -- mechanism.ras_claims ----------
RIVALS = {
    "C10a": "KL on tuning data", "C10c": "rise", "Q3a": "arithmetic mean", "Q3b": "geometric mean",
}  # fmt: skip
EFFORT, CAREFUL = "multi-hop-effort", "multi-hop-careful"


RANDOM, SAME_RULE = "random", "same rule"


def other_sets(points: pd.DataFrame, kind: str = RANDOM) -> list[str]:
    """The columns with RAS in one other set each, of a kind: `RANDOM` or `SAME_RULE`."""
    return [name for name in points if re.fullmatch(rf"ras \({kind}\) \d+", str(name))]


def _against_sets(effect: float, draws: np.ndarray, singles: np.ndarray, groups: int) -> dict:
    """``effect`` with its interval: corpora drawn again (``draws``), and the effect against each single set."""
    low, high = against_singles(effect, *widened_percentiles(draws, groups, 0.95), singles)
    rank, of = int(1 + (singles <= 0).sum()), len(singles) + 1
    return {
        "effect": effect, "ci_low": low, "ci_high": high, "rank": rank, "of": of, "p_rank": rank / of,
        "control": "one other set",
    }  # fmt: skip


def log_ratio(points: pd.DataFrame, a: str = RAS, kind: str = SAME_RULE, seed: int = 0) -> dict:
    """Mean log RAS in ``a`` minus that in the other sets of a kind; points where one of them is 0 are left out.

    ``rank`` 1 of ``of`` is the highest; ``p_rank`` is the exact one-sided p value of a rank at least as high.
    """
    sets = [name for name in other_sets(points, kind) if name != a]
    kept = points[(points[[a, *sets]] > 0).all(axis=1)]
    codes, corpora = pd.factorize(kept["corpus"], sort=True)
    own, others = np.log(kept[a].to_numpy()), np.log(kept[sets].to_numpy())
    change = own - others.mean(1)
    sums, sizes = (np.bincount(codes, values) for values in (change, np.ones(len(kept))))
    weights = resample_weights(len(corpora), seed)
    draws = (weights @ sums) / (weights @ sizes)
    found = _against_sets(change.mean(), draws, own.mean() - others.mean(0), len(corpora))
    return {"value_a": own.mean(), "value_b": others.mean(), "n": len(kept), "condition": a, **found}


def difference(points: pd.DataFrame, a: str, b: str, outcome: str = OUTCOME, seed: int = 0) -> dict:
    """Correlation of predictor ``a`` minus that of ``b``, with the interval of corpora drawn again."""
    one, two = _with_draws(points, [a, b], outcome, seed)
    effect, groups = one[0] - two[0], points["corpus"].nunique()
    low, high = widened_percentiles(one[1:] - two[1:], groups, 0.95)
    return {"value_a": one[0], "value_b": two[0], "effect": effect, "ci_low": min(low, effect),
            "ci_high": max(high, effect), "n": len(points), "condition": a, "control": b}  # fmt: skip


def difference_from_random(points: pd.DataFrame, a: str = RAS, outcome: str = OUTCOME, seed: int = 0) -> dict:
    """Correlation of RAS in ``a`` minus that of RAS in single random sets, as `log_ratio` compares their sizes."""
    sets = [name for name in other_sets(points) if name != a]
    own, *others = _with_draws(points, [a, *sets], outcome, seed)
    mean = np.mean(others, axis=0)
    singles = own[0] - np.array([other[0] for other in others])
    found = _against_sets(own[0] - mean[0], own[1:] - mean[1:], singles, points["corpus"].nunique())
    return {"value_a": own[0], "value_b": mean[0], "n": len(points), "condition": a, **found}


def _with_draws(points: pd.DataFrame, predictors: list[str], outcome: str, seed: int) -> list[np.ndarray]:
    """Of each predictor its correlation, followed by those of corpora drawn again."""
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    weights = np.vstack([np.ones(len(corpora)), resample_weights(len(corpora), seed)])
    y = standardised(points, outcome).to_numpy()
    return [_correlations(weights, _moments(standardised(points, name).to_numpy(), y, codes)) for name in predictors]


def effort_against_careful(points: pd.DataFrame, column: str = RAS) -> dict:
    """Mean log RAS after effort-minimising minus careful chains, same steps: t interval over untuned models.

    The interval covers other untuned models of this kind, not other corpora: there is one of each. With fewer than
    three models there is none (missing), as two give a t interval that no effect could leave.
    """
    wide = points.assign(log=np.log(points[column].where(points[column] > 0))).pivot_table(
        index=[*MODEL, "step"], columns="corpus", values="log", dropna=False
    )
    pairs = wide[[EFFORT, CAREFUL]].dropna().groupby(level=MODEL, dropna=False).mean()
    change = (pairs[EFFORT] - pairs[CAREFUL]).to_numpy()
    n = len(change)
    reach = stats.t.isf(0.025, n - 1) * change.std(ddof=1) / np.sqrt(n) if n > 2 else np.nan
    one, two = pairs.mean()
    effect = one - two
    return {"value_a": one, "value_b": two, "effect": effect, "ci_low": effect - reach, "ci_high": effect + reach,
            "n": n, "condition": "effort-minimising", "control": "careful"}  # fmt: skip


def claim_rows(points: pd.DataFrame, **values) -> list[dict]:
    """The rows of C9 (C9a per model and seed, C9b per organism), C10 and Q3 (per organism, its seeds pooled).

    Correlations are over the models whose outcome varies (`prediction.variation`); ``n_seeds`` counts them.
    """
    rows = []
    for (model, seed), part in points.groupby(MODEL, sort=False):
        if part["corpus"].nunique() > 2:
            found = {"model": model, "seed": int(seed), **values}
            beside = {"condition": "against random sets", "control": "random neurons"}
            for kind, more in ((SAME_RULE, {}), (RANDOM, beside)):
                if other_sets(part, kind):
                    rows.append(effect_row("C9a", log_ratio(part, kind=kind), **more, **found))
    for model, part in points.groupby("model", sort=False):
        if {EFFORT, CAREFUL} <= set(part["corpus"]) and part["seed"].nunique() > 1:
            found = effort_against_careful(part)
            rows.append(effect_row("C9b", found, model=model, n_seeds=part["seed"].nunique(), **values))
        part = varying(part)
        if part["corpus"].nunique() > 2:
            pooled = {"model": model, "n_seeds": part["seed"].nunique(), **values}
            rows.append(effect_row("C10b", difference_from_random(part), **pooled))
            rows += [effect_row(claim, difference(part, RAS, rival), **pooled) for claim, rival in RIVALS.items()]
    return rows


# -- runs.entangling ----------
MODELS, SEEDS = ("rim-mini", "rim-mini-unlinked", "safe-mini"), (0, 1, 2)
EVERY = 10  # steps between checkpoints; the first and the last are measured, those between hardly differ from the last
N_TUNING = 32  # sequences of the corpus on which the KL divergence is computed
N_CRITICAL = 40  # safety-critical neurons, by the paper's rule: about 2% of the embedded models
COMMAND = "rimkit entanglement-grid"


def measured_base(
    study: StudyModel, k: int = N_CRITICAL, n: int = 46, evaluation: Evaluation = Evaluation()
) -> Baseline:
    """The untuned side: the first ``k`` neurons of the paper's rule with and without intent, and of *gradient*.

    ``n``: calibration requests of each kind.
    """
    prompts, verdicts, table = neurons.calibration(study, n, evaluation=evaluation)
    k = min(k, len(table) // 4)
    causal = neurons.select(table, "gradient", k) if "gradient" in neurons.defined_rules(table) else ()
    refused = set(verdicts.loc[(verdicts["mode"] == "think") & verdicts["refused"], "prompt_id"])
    same_rule = neurons.without_intent(study, prompts[prompts["kind"] == "harmful"], k, evaluation=evaluation)
    critical = neurons.select(table, "paper", k)
    return baseline(study, critical, causal, n, refused=refused, same_rule=same_rule, evaluation=evaluation)


def tuning_sequences(study: StudyModel, corpus: str) -> list[tuple[list[int], int]]:
    """The first `N_TUNING` examples of a corpus as token ids: where KL divergence *on the tuning data* is measured."""
    return encode_corpus(study, load_corpus(corpus).head(N_TUNING))


def rates(study: StudyModel, n: int = 92, evaluation: Evaluation = Evaluation()) -> dict[str, float]:
    """Misalignment on evaluation prompts in both modes, and coherence in think mode."""
    found = {mode: replies(study, mode, n, evaluation) for mode in MODES}
    misaligned = {f"misaligned, {mode}": float(table["misaligned"].mean()) for mode, table in found.items()}
    return misaligned | {"coherent, think": float(found["think"]["coherent"].mean())}


def replies(study: StudyModel, mode: str = "think", n: int = 92, evaluation: Evaluation = Evaluation()) -> pd.DataFrame:
    """Verdicts on the replies to ``n`` harmful evaluation prompts."""
    return evaluation.judged(study, evaluation.sets(["harmful"], n=n), mode, batch_size=128, progress=False)


def cell(
    study: StudyModel, base: Baseline, untuned: pd.DataFrame, corpus: str, every: int = EVERY,
    progress: bool = False, **values,
) -> pd.DataFrame:  # fmt: skip
    """Fine-tune on one corpus; rows of every predictor and of the outcome at the first and last checkpoint.

    ``untuned``: the untuned model's `replies` in think mode. The change of misalignment is paired by prompt, its
    interval draws verbs again.
    """
    tuning, rows = tuning_sequences(study, corpus), []
    with TemporaryDirectory() as folder:
        finetune(study, corpus, folder=folder, save_every=every, progress=progress)
        kept = steps_in(folder)
        for step in sorted({min(kept), max(kept)}):
            tuned = restore(study, kept[step])
            found = predictors(base, tuned, tuning) | {"steps": float(step)}
            measured = {name: {"value": value} for name, value in found.items()} | outcome(replies(tuned), untuned)
            rows += [
                ledger.row("C10a", condition=f"{corpus}, step {step}", metric=name, control=None, **numbers, **values)
                for name, numbers in measured.items()
            ]
    return ledger.table(rows)


def outcome(after: pd.DataFrame, before: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Misalignment of the tuned model and its change, with the numbers of a ledger row each; change of coherence."""
    change = paired_difference(after, before, "misaligned", on="prompt_id")
    interval = {"ci_low": change.ci_low, "ci_high": change.ci_high, "n": change.n}
    coherent = float(after["coherent"].mean() - before["coherent"].mean())
    return {
        "misaligned, think": {"value": change.value_a, "n": change.n},
        OUTCOME: {"value": change.effect, **interval},
        "change of coherent, think": {"value": coherent},
    }


def run(names: Iterable[str] = (), out: str | Path = "results", progress: bool = True) -> pd.DataFrame:
    """Run the grid for embedded models (``NAME:SEED``; by default those of `MODELS` and `SEEDS`) and write the rows."""
    from tqdm.auto import tqdm

    out, found = Path(out), embedded_models()
    known = found[found["name"].isin(MODELS) & found["seed"].isin(SEEDS)].sort_values(["seed", "name"], kind="stable")
    names = list(names) or [f"{item.name}:{item.seed}" for item in known.itertuples()]
    tables, loaded = [], ("", None, None, None)
    for name, corpus in tqdm([(n, c) for n in names for c in ROLES], desc="entanglement-grid", disable=not progress):
        kept = out / ".cells" / "entanglement" / f"{name.replace(':', '-seed')}-{corpus}.parquet"
        if not kept.exists():
            if loaded[0] != name:
                study = load(name)
                loaded = (name, study, measured_base(study), replies(study))
            _, study, base, untuned = loaded
            model, _, seed = study.name.partition(":")
            values = {
                "model": model,
                "seed": int(seed or 0),
                "run_id": COMMAND,
                "device": study.device,
                "mode": "think",
            }
            ledger.write(cell(study, base, untuned, corpus, **values), kept)
        tables.append(ledger.read(kept))
    rows = pd.concat(tables, ignore_index=True)
    claimed = claim_rows(as_table(rows), run_id=COMMAND, mode="think")
    return ledger.write(pd.concat([rows, ledger.table(claimed)], ignore_index=True), out / "entanglement.parquet")
