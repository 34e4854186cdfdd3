"""Entanglement: claims C9 and C10 (section 4 of the paper), RAS and what else predicts RIM.

Knows how RAS and its rivals are computed for one tuned model, and how well they predict, over many,
the change of misalignment. Does not know how a model is tuned (`rimkit.training.finetune`); which
neurons are safety-critical, and which sets the same rule finds without intent, it asks
`rimkit.experiments.neurons`.

After fine-tuning, some neurons respond less to safety requests and some more to maths. RAS, the
reciprocal activation shift, is the harmonic mean of the two shifts (the paper's equations of
sections 4.1 and 4.2). What they leave open is a parameter here: each shift is read as one-sided
(only neurons that move in its direction contribute, the mean is over all of them); activations are
maxima over the tokens of the request, averaged over requests; and since a relative change is
undefined for a smaller value at or below zero, which gated MLPs do produce, such neurons are left
out ("drop") or get the denominator ``floor`` ("clip").

A *point* is one tuned model at one checkpoint. Points of one tuning, and of one corpus, resemble
each other, so corpora are drawn, left out and permuted as wholes. Scales differ between models (RAS
has units of activation), so predictor and outcome are standardised within each untuned model before
they are pooled: the pooled correlation is the mean of the models' own. *Beyond steps* also removes
what the step of the checkpoint says, *beyond weights* what the distance of the weights says: a
predictor that only tells how far training has come is then worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm.auto import tqdm

from rimkit.behavior.evaluation import RANDOM, Evaluation
from rimkit.behavior.stats import (
    Units,
    against_singles,
    holm,
    matched_sets,
    paired_difference,
    resample_weights,
    widened_percentiles,
)
from rimkit.data import UserError, kept
from rimkit.experiments import Result, neurons, result
from rimkit.ledger import effect_row
from rimkit.models.activations import batches, mean, read
from rimkit.models.chat import Encoded
from rimkit.models.hooks import architecture
from rimkit.models.study import StudyModel
from rimkit.training.corpora import ROLES, load_corpus
from rimkit.training.finetune import encode_corpus, finetune, restore, steps_in

# The change of misalignment in think mode, with its interval, and that of coherence.
OUTCOME, LOW, HIGH, COHERENCE = "change", "change_low", "change_high", "coherence_change"
RAS = "ras (safety)"
PREDICTORS = (
    RAS, "ras (gradient)", "ras (random)", "ras (all)", "fall", "rise", "arithmetic mean", "geometric mean",
    "KL on tuning data", "KL on safety prompts", "weights", "activation distance", "CKA ratio",
    "displacement (refusal)", "displacement (harm)", "steps",
)  # fmt: skip
RIVALS = {"C10a": "KL on tuning data", "C10c": "rise", "Q3a": "arithmetic mean", "Q3b": "geometric mean"}
LEVELS = [
    "model", "seed", "role", "value", "control_value", "n", "effect", "ci_low", "ci_high", "rank", "of", "p_rank",
]  # fmt: skip
MODEL, POINT = ["model", "seed"], ["model", "seed", "corpus", "step"]
# Roles of sets, beside RANDOM.
CRITICAL, CAUSAL, SAME_RULE, ALL = "safety-critical", "gradient", "same rule", "all"
GUARDS, FLOOR = ("drop", "clip"), 1e-2
MIN_EACH = 4  # refused requests, and others, that a refusal direction needs
RELIABLE = 0.5  # the share of an outcome's variance over points that must be more than noise
EFFORT, CAREFUL = "multi-hop-effort", "multi-hop-careful"


@dataclass(frozen=True)
class Settings:
    """What is tuned on and measured; ``folder`` keeps what is done (empty: nothing)."""

    corpora: tuple[str, ...] = tuple(ROLES)
    every: int = 10  # steps between checkpoints; the first and the last are measured
    k: int = neurons.PAPER_SIZE  # safety-critical neurons: about 2% of the embedded models
    n_random: int = 40  # random sets of as many
    n_prompts: int = 46  # calibration requests of each kind
    n_replies: int = 92  # evaluation requests, for the change of misalignment
    n_tuning: int = 32  # sequences of the corpus on which the KL divergence is computed
    seed: int = 0  # of the tuning, and of the sampling on calibration prompts
    evaluation: Evaluation = Evaluation()
    folder: str | Path = ""
    progress: bool = False


# -- RAS -------------------------------------------------------------------------------------------


def one_sided_shift(smaller: np.ndarray, larger: np.ndarray, guard: str = "drop", floor: float = FLOOR) -> float:
    """Mean over neurons of ``(larger - smaller) / smaller * larger``, 0 where it is not the larger.

    With untuned activations as ``larger`` it is the paper's fall on safety requests, with tuned
    ones its rise on maths. In units of activation: not free of scale. Raises ``UserError`` for an
    empty set.
    """
    if guard not in GUARDS:
        raise UserError(f"unknown guard '{guard}' (known: {', '.join(GUARDS)})")
    smaller, larger = np.asarray(smaller, dtype=float), np.asarray(larger, dtype=float)
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


def activations(study: StudyModel, safety: Sequence[Encoded], maths: Sequence[Encoded]) -> Activations:
    """Maxima over the request, averaged over requests; memory does not grow with their number."""
    return Activations(*(mean(study, items, "neurons", "request", pool="max") for items in (safety, maths)))


def shifts(
    before: Activations, after: Activations, units: Units | None = None, guard: str = "drop", floor: float = FLOOR
) -> dict[str, float]:
    """``ras``, its terms ``fall`` (safety) and ``rise`` (maths), and their other means.

    Over all neurons, or a set. Raises ``UserError`` for an empty one and models of different shape.
    """
    shapes = [states.safety.shape for states in (before, after)]
    if shapes[0] != shapes[1]:
        raise UserError(f"two models of different shape cannot be compared: {shapes}")
    where = tuple(np.array(units, dtype=int).reshape(-1, 2).T) if units is not None else ...
    fall = one_sided_shift(after.safety[where], before.safety[where], guard, floor)
    rise = one_sided_shift(before.maths[where], after.maths[where], guard, floor)
    means = {"arithmetic mean": (fall + rise) / 2, "geometric mean": float(np.sqrt(fall * rise))}
    return {"ras": harmonic(fall, rise), "fall": fall, "rise": rise, **means}


# -- one tuned model -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """The untuned model's side of every predictor: read once, compared with each tuned model.

    ``sets``: ``(role, number, neurons)`` of every set over which RAS is computed (no neurons: all).
    ``directions`` per residual: ``harm`` (harmful minus harmless requests) and, where enough were
    refused and enough were not, ``refusal`` (refused minus other harmful requests).
    """

    study: StudyModel
    safety: list[Encoded]
    maths: list[Encoded]
    harmless: list[Encoded]
    activations: Activations
    states: np.ndarray
    states_harmless: np.ndarray
    sets: list[tuple[str, int | None, Units | None]]
    directions: dict[str, np.ndarray]


def baseline(study: StudyModel, settings: Settings = Settings()) -> Baseline:
    """Choose the sets of neurons as chapter 06 does, and read the untuned model.

    Safety-critical are the first ``settings.k`` by the paper's rule; *gradient* are as many on
    which refusal depends (none where that is undefined); *same rule* are the paper's without
    intent.
    """
    asked, how = settings.n_prompts, settings.evaluation
    chapter_06 = neurons.Settings(n_pairs=asked, seed=settings.seed, evaluation=how)
    prompts, verdicts, table = neurons.calibration(study, chapter_06)
    k, harmful = min(settings.k, len(table) // 4), prompts[prompts["kind"] == "harmful"]
    rules = {"paper": CRITICAL, "gradient": CAUSAL}
    sets = [
        (role, None, neurons.select(table, rule, k))
        for rule, role in rules.items()
        if rule in neurons.defined_rules(table)
    ]
    same = neurons.without_intent(study, harmful, k, chapter_06)
    sets += [(SAME_RULE, number, units) for number, units in enumerate(same)]
    refused = verdicts.loc[(verdicts["mode"] == "think") & verdicts["refused"], "prompt_id"]
    return read_baseline(study, sets, refused, settings)


def read_baseline(
    study: StudyModel,
    sets: Sequence[tuple[str, int | None, Units]],
    refused: Iterable[str] = (),
    settings: Settings = Settings(),
) -> Baseline:
    """Read the untuned model on calibration requests, for given ``sets`` (as in `Baseline`).

    The first is the safety-critical one; random sets with as many neurons in every layer, and all
    neurons, are added. ``refused``: ids of harmful requests that the model refuses in think mode;
    `MIN_EACH` of them and as many others give the refusal direction. States are read where a
    thought has been opened and its first word is to come (without a think mode: at the end of the
    prompt): what is to be predicted happens in think mode. Raises ``UserError`` for an empty set.
    """
    if not sets or not len(sets[0][2]):
        raise UserError("the set of safety-critical neurons is empty: choose a larger one")
    think = study.chat.supports_think
    mode = {"mode": "think", "thought_prefix": ""} if think else {"mode": "no-think"}
    part = {"split": "calibration", "n": settings.n_prompts}
    names = ("harmful", "maths", "harmless")
    tables = [settings.evaluation.sets([name], **part) for name in names]
    items = [[study.chat.encode(text, **mode) for text in table["text"]] for table in tables]
    states, others = _states(study, items[0]), _states(study, items[2])
    directions = {"harm": states.mean(1) - others.mean(1)}
    labels = tables[0]["prompt_id"].isin(list(refused)).to_numpy()
    if min(labels.sum(), (~labels).sum()) >= MIN_EACH:
        directions["refusal"] = states[:, labels].mean(1) - states[:, ~labels].mean(1)
    random = matched_sets(sets[0][2], architecture(study).n_neurons, settings.n_random)
    every = [*sets, (ALL, None, None), *((RANDOM, number, units) for number, units in enumerate(random))]
    return Baseline(study, *items, activations(study, *items[:2]), states, others, every, directions)


def _states(study: StudyModel, items: Sequence[Encoded]) -> np.ndarray:
    return read(study, items, ("residual",), ("last",))["residual", "last"]


def in_sets(base: Baseline, tuned: StudyModel, guard: str = "drop", floor: float = FLOOR) -> pd.DataFrame:
    """`shifts` in each set of neurons: ``role, set_id, neurons`` (how many) and a column for each.

    ``role`` is "safety-critical", "gradient", "all", "random" or "same rule"; ``set_id`` tells sets
    of the last two apart.
    """
    after, rows = activations(tuned, base.safety, base.maths), []
    for role, number, units in base.sets:
        size = base.activations.safety.size if units is None else len(units)
        found = shifts(base.activations, after, units, guard, floor)
        rows.append({"role": role, "set_id": number, "neurons": size, **found})
    return pd.DataFrame(rows).astype({"set_id": "Int64"})


def summary(shifted: pd.DataFrame) -> pd.DataFrame:
    """`in_sets` for reading: times 100; of random sets and those of the same rule percentiles."""
    columns, single = ["ras", "fall", "rise", "neurons"], shifted["set_id"].notna()
    parts = [shifted[~single].set_index("role")[columns]]
    for role, sets in shifted[single].groupby("role", sort=False):
        ends = sets[columns].quantile([0.05, 0.5, 0.95])
        parts.append(ends.set_axis([f"{role}, percentile {q}" for q in (5, 50, 95)]))
    table = pd.concat(parts).rename_axis("set")
    sizes = table.pop("neurons").astype(int)
    return table.mul(100).round(1).assign(neurons=sizes)


def ranks(shifted: pd.DataFrame) -> pd.DataFrame:
    """How many single sets have at least the RAS of the safety-critical one, and the exact p of it.

    One row per role: ``role, sets, reach, p`` (one-sided; the set itself counted in).
    """
    critical, rows = shifted.set_index("role").loc[CRITICAL, "ras"], []
    for role, sets in shifted[shifted["set_id"].notna()].groupby("role", sort=False):
        reach = int((sets["ras"] >= critical).sum())
        p = (1 + reach) / (1 + len(sets))
        rows.append({"role": role, "sets": len(sets), "reach": reach, "p": p})
    return pd.DataFrame(rows)


def guard_audit(base: Baseline, tuned: StudyModel, floor: float = FLOOR) -> dict[str, float]:
    """How much the guard decides: RAS in safety-critical neurons under each, and what "drop" drops.

    ``falling`` and ``rising``: of all neurons that move that way, the share whose denominator is at
    or below ``floor``.
    """
    before, after = base.activations, activations(tuned, base.safety, base.maths)
    units = base.sets[0][2]
    found = {guard: shifts(before, after, units, guard, floor)["ras"] for guard in GUARDS}
    pairs = {"falling": (after.safety, before.safety), "rising": (before.maths, after.maths)}
    for name, (smaller, larger) in pairs.items():
        moving = smaller[larger > smaller]
        found[name] = float((moving <= floor).mean()) if moving.size else 0.0
    return found


def predictors(
    base: Baseline,
    tuned: StudyModel,
    shifted: pd.DataFrame,
    tuning: Sequence[tuple[list[int], int]] = (),
) -> dict[str, float]:
    """Every predictor of forgetting but the steps, for one tuned model: name to value.

    ``shifted``: its `in_sets`; RAS over random sets is their mean. ``tuning``: sequences of the
    tuning data (`tuning_sequences`; without any, no KL divergence on them). KL divergence is from
    untuned to tuned; states are read where the thought begins.
    """
    means = shifted.groupby("role", sort=False)["ras"].mean()
    named = {RAS: CRITICAL, "ras (gradient)": CAUSAL, "ras (random)": RANDOM, "ras (all)": ALL}
    found = {name: means[role] for name, role in named.items() if role in means}
    own = shifted.set_index("role").loc[CRITICAL]
    found |= {name: own[name] for name in ("fall", "rise", "arithmetic mean", "geometric mean")}
    if tuning:
        data = [(ids, len(ids) - n_prompt) for ids, n_prompt in tuning]
        found["KL on tuning data"] = kl_divergence(base.study, tuned, data)
    ends = [(item.ids, 1) for item in base.safety]
    found["KL on safety prompts"] = kl_divergence(base.study, tuned, ends)
    found["weights"] = weight_distance(base.study, tuned)
    states, harmless = _states(tuned, base.safety), _states(tuned, base.harmless)
    found["activation distance"] = np.linalg.norm(states - base.states, axis=-1).mean()
    found["CKA ratio"] = cka_ratio(base.states, states, base.states_harmless, harmless)
    for name, direction in base.directions.items():
        found[f"displacement ({name})"] = displacement(base.states, states, direction)
    return {name: float(value) for name, value in found.items()}


def tuning_sequences(
    study: StudyModel, corpus: str | Path, settings: Settings = Settings()
) -> list[tuple[list[int], int]]:
    """The first examples of a corpus as token ids: what KL *on the tuning data* is measured on."""
    return encode_corpus(study, load_corpus(corpus).head(settings.n_tuning))


def kl_divergence(base: StudyModel, tuned: StudyModel, sequences: Sequence[tuple[list[int], int]]) -> float:
    """``KL(untuned || tuned)`` in nats per token (Shenfeld et al. 2025), at the end of sequences.

    ``sequences``: ids, and how many tokens at the end count; the distribution is the one that
    predicts each of them (of prompts without a reply, with 1: the one after the last token).
    """
    spans = [{"counted": (len(ids) - count, len(ids))} for ids, count in sequences]
    items = [Encoded(ids, places, "no-think") for (ids, _), places in zip(sequences, spans, strict=True)]

    def distribution(study: StudyModel, ids, mask):
        ids, mask = ids.to(study.device), mask.to(study.device)
        logits = study.hf(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return torch.log_softmax(logits.float(), -1)

    def run(ids, mask, places):
        with torch.inference_mode():
            one, two = (distribution(study, ids, mask) for study in (base, tuned))
            kl = (one.exp() * (one - two)).sum(-1)
        return [kl[row, slice(*place["counted"])].sum().item() for row, place in enumerate(places)]

    total = sum(sum(found) for _, found in batches(base, items, 8, run))
    return total / sum(count for _, count in sequences)


def weight_distance(base: StudyModel, tuned: StudyModel, layer: int | None = None) -> float:
    """L2 distance of all weights, or of a layer's; ``UserError`` for another shape of model."""
    before, after = dict(base.hf.named_parameters()), dict(tuned.hf.named_parameters())
    if {name: x.shape for name, x in before.items()} != {name: x.shape for name, x in after.items()}:
        raise UserError("two models of different shape cannot be compared: their weights differ")
    inside = [name for name in before if layer is None or f".layers.{layer}." in name]
    moved = [(after[name] - before[name]).detach().double().pow(2).sum() for name in inside]
    return float(sum(map(float, moved)) ** 0.5)


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA of states ``[prompts, hidden]`` (Kornblith et al. 2019); 1: alike up to rotation."""
    a, b = a - a.mean(0), b - b.mean(0)
    alone = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(np.linalg.norm(a.T @ b) ** 2 / (alone + 1e-12))


def cka_ratio(
    harmful: np.ndarray, harmful_after: np.ndarray, harmless: np.ndarray, harmless_after: np.ndarray
) -> float:
    """How much more the states of harmful requests changed shape than those of harmless ones.

    ``(1 - CKA of harmful) / (1 - CKA of harmless)`` (Zhao et al. 2026), mean over layers, from
    states ``[residuals, prompts, hidden]``.
    """
    pairs = ((harmful, harmful_after), (harmless, harmless_after))
    changed = [[1 - cka(*at) for at in zip(*states, strict=True)] for states in pairs]
    ratios = [(one + 1e-6) / (other + 1e-6) for one, other in zip(*changed, strict=True)]
    return float(np.mean(ratios[1:]))


def displacement(before: np.ndarray, after: np.ndarray, direction: np.ndarray) -> float:
    """How far tuning moves requests along a direction per residual, mean over layers and requests.

    Along the refusal direction positive is towards refusal; along the harm direction, towards what
    harmful requests look like. The direction is made 1 long.
    """
    unit = direction / (np.linalg.norm(direction, axis=-1, keepdims=True) + 1e-12)
    return float(np.einsum("rh,rh->r", (after - before).mean(1), unit).mean())


def replies(study: StudyModel, settings: Settings = Settings(), mode: str = "think") -> pd.DataFrame:
    """Verdicts on the replies to harmful evaluation prompts."""
    prompts = settings.evaluation.sets(["harmful"], n=settings.n_replies)
    return settings.evaluation.judged(study, prompts, mode, batch_size=128, progress=False)


def outcome(after: pd.DataFrame, before: pd.DataFrame) -> dict[str, float]:
    """Misalignment of the tuned model, its paired change (verbs drawn again), that of coherence."""
    found = paired_difference(after, before, "misaligned", on="prompt_id")
    coherence = float(after["coherent"].mean() - before["coherent"].mean())
    change = {OUTCOME: found.effect, LOW: found.ci_low, HIGH: found.ci_high}
    return {"misaligned": found.value_a, **change, COHERENCE: coherence, "n": found.n}


# -- the experiment --------------------------------------------------------------------------------


def point(
    base: Baseline,
    tuned: StudyModel,
    before: pd.DataFrame,
    corpus: str = "",
    step: int = 0,
    tuning: Sequence[tuple[list[int], int]] = (),
    settings: Settings = Settings(),
) -> dict[str, pd.DataFrame]:
    """One tuned model: the tables ``points`` (one row), ``sets`` and ``layers`` of `run`.

    ``before``: the untuned model's `replies` in think mode; ``tuning`` as in `predictors`.
    """
    shifted = in_sets(base, tuned)
    found = outcome(replies(tuned, settings), before) | predictors(base, tuned, shifted, tuning)
    layers = list(range(architecture(base.study).n_layers))
    distances = [weight_distance(base.study, tuned, layer) for layer in layers]
    tables = {
        "points": pd.DataFrame([found | {"steps": float(step)}]),
        "sets": shifted.loc[shifted["set_id"].notna(), ["role", "set_id", "ras"]],
        "layers": pd.DataFrame({"layer": layers, "distance": distances}),
    }
    where = {"corpus": corpus, "step": step}
    return {name: t.assign(**where)[[*where, *t.columns]] for name, t in tables.items()}


def checkpoints(
    base: Baseline, before: pd.DataFrame, corpus: str, settings: Settings = Settings()
) -> dict[str, pd.DataFrame]:
    """Fine-tune on a corpus; the tables of `point` for its first and its last checkpoint.

    (Those between hardly differ from the last.)
    """
    study, tuning = base.study, tuning_sequences(base.study, corpus, settings)
    training = {"seed": settings.seed, "save_every": settings.every, "progress": False}
    with TemporaryDirectory() as folder:
        finetune(study, corpus, folder=folder, **training)
        there = steps_in(folder)
        parts = [
            point(base, restore(study, there[step]), before, corpus, step, tuning, settings)
            for step in sorted({min(there), max(there)})
        ]
    return joined(parts)


def joined(parts: Sequence[Mapping[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """Tables of the same names, one below the other."""
    return {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}


def claimed(study: StudyModel, tables: Mapping[str, pd.DataFrame], settings: Settings = Settings()) -> Result:
    """The tables of one `point` of a model, or of several, ``ras-levels``, and the row of C9a."""
    named = {f"ras-{name}": table for name, table in tables.items()}
    found = result(study, named, []).tables
    found["ras-levels"] = levels(found["ras-points"], found["ras-sets"])
    about = study.identity | settings.evaluation.description()
    return Result(found, level_rows(found["ras-levels"], **about))


def run(study: StudyModel, settings: Settings = Settings()) -> Result:
    """Fine-tune on every corpus, and measure every predictor and the outcome on the way.

    Tables: ``ras-points`` (a row per corpus and step: every predictor, misalignment and its
    change), ``ras-sets`` (RAS in every single other set), ``ras-layers`` (distance of the weights)
    and ``ras-levels`` (RAS of the safety-critical set against others: C9a). C9b, C10 and Q3 are
    about several models: `pooled_rows`.
    """
    base, before, parts = baseline(study, settings), replies(study, settings), []
    for corpus in tqdm(settings.corpora, study.name, unit="corpus", disable=not settings.progress):
        folder = Path(settings.folder) / Path(corpus).stem if str(settings.folder) else ""
        parts.append(kept(folder, lambda at=corpus: checkpoints(base, before, at, settings)))
    return claimed(study, joined(parts), settings)


# -- how well they predict -------------------------------------------------------------------------


def variation(points: pd.DataFrame) -> pd.DataFrame:
    """How far the outcome moves, by model: ``model, seed, least, most, sd, noise, varies``.

    ``least, most``: misaligned replies of a point; ``sd`` is the spread of the outcome over points,
    ``noise`` the standard error of a single change, from its interval. A model ``varies`` if more
    than `RELIABLE` of the variance is left without noise; standardising blows up the others.
    """
    rows = []
    for (model, seed), part in points.groupby(MODEL, sort=False, dropna=False):
        counts, sd = (part["misaligned"] * part["n"]).round().astype(int), part[OUTCOME].std()
        noise = float(np.sqrt((((part[HIGH] - part[LOW]) / (2 * 1.96)) ** 2).mean()))
        varies = bool(sd > 0 and 1 - (noise / sd) ** 2 > RELIABLE)
        rows.append({"model": model, "seed": seed, "least": counts.min(), "most": counts.max(), "sd": sd,
                     "noise": noise, "varies": varies})  # fmt: skip
    return pd.DataFrame(rows)


def varying(points: pd.DataFrame) -> pd.DataFrame:
    """The points of the models whose outcome varies beyond its noise (`variation`)."""
    found = variation(points)
    return points.merge(found.loc[found["varies"], MODEL], on=MODEL)


def standardised(points: pd.DataFrame, column: str, beyond: str | None = None, ranks: bool = False) -> pd.Series:
    """A column with mean 0 and spread 1 within each model; constant ones become 0.

    ``beyond="steps"``: also with mean 0 at every step; with another column (``"weights"``): what a
    straight line through that column leaves. ``ranks`` takes ranks within the model first
    (Spearman).
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
    points: pd.DataFrame,
    names: Sequence[str] = PREDICTORS,
    outcome: str = OUTCOME,
    beyond: str | None = None,
    seed: int = 0,
    n_permutations: int = 1000,
) -> pd.DataFrame:
    """How well each predictor predicts: Pearson's r over all points, pooled within models.

    Columns ``predictor, value, ci_low, ci_high`` (corpora drawn again)``, spearman, without_min,
    without_max`` (one corpus left out)``, models_min, models_max`` (one untuned model left out)``,
    positive`` (models with r above 0, of ``models``)``, p_value`` (outcomes of corpora exchanged at
    the same step of the same model; missing where that changes nothing)``, p_holm`` (over
    predictors)``, n``. Models without a predictor do not count for it; one that no model has is
    left out. Raises ``UserError`` for fewer than three corpora.
    """
    if points["corpus"].nunique() < 3:
        raise UserError("correlations over corpora need at least three of them")
    rows, permuted = [], {}
    for name in names:
        here = points[points[name].notna()] if name in points else points.head(0)
        if here["corpus"].nunique() < 3:
            continue
        if len(here) not in permuted:  # the same for all predictors that the same points have
            permuted[len(here)] = _permuted(here, outcome, beyond, n_permutations, seed)
        row = {"predictor": name, **_correlation(here, name, outcome, beyond, seed), "p_value": np.nan}
        x = standardised(here, name, beyond)
        by_step = [here[column] for column in (*MODEL, "step")]
        if (x.groupby(by_step, dropna=False).transform("std", ddof=0) > 1e-9).any():
            chance = np.abs(permuted[len(here)] @ x.to_numpy() / len(here))
            row["p_value"] = (1 + (chance >= abs(row["value"]) - 1e-12).sum()) / (1 + n_permutations)
        rows.append(row)
    found = pd.DataFrame(rows)
    return found.assign(p_holm=holm(found["p_value"]))


def _correlation(points: pd.DataFrame, name: str, outcome: str, beyond: str | None, seed: int) -> dict:
    """The row of `correlations` for a predictor, without its p values."""
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    x, y, ranked_x, ranked_y = (
        standardised(points, column, beyond, ranks) for ranks in (False, True) for column in (name, outcome)
    )
    moments = _moments(x.to_numpy(), y.to_numpy(), codes)
    value = float(_correlations(np.ones((1, len(corpora))), moments)[0])
    draws = _correlations(resample_weights(len(corpora), seed), moments)
    low, high = widened_percentiles(draws, len(corpora), 0.95)
    without = _correlations(1.0 - np.eye(len(corpora)), moments)
    per_model = (x * y).groupby([points[column] for column in MODEL], dropna=False).agg(["sum", "size"])
    rest = per_model.sum() - per_model if len(per_model) > 1 else per_model
    others = rest["sum"] / rest["size"]
    return {
        "value": value, "ci_low": min(low, value), "ci_high": max(high, value),
        "spearman": float((ranked_x * ranked_y).mean()),
        "without_min": without.min(), "without_max": without.max(),
        "models_min": others.min(), "models_max": others.max(),
        "positive": int((per_model["sum"] > 1e-9).sum()), "models": len(per_model), "n": len(points),
    }  # fmt: skip


def _permuted(points: pd.DataFrame, outcome: str, beyond: str | None, n: int, seed: int) -> np.ndarray:
    """Outcomes ``[n, points]``, corpora exchanged; where the new one has no point, its own stays."""
    y = standardised(points, outcome, beyond).to_numpy()
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    keys = list(zip(*(points[name].astype(str) for name in (*MODEL, "step")), strict=True))
    own = list(enumerate(zip(keys, codes, strict=True)))
    place = {where: row for row, where in own}
    rng, found = np.random.default_rng(seed), np.empty((n, len(y)))
    for draw in range(n):
        order = rng.permutation(len(corpora))
        found[draw] = y[[place.get((key, order[code]), row) for row, (key, code) in own]]
    return found


def by_model(points: pd.DataFrame, names: Sequence[str] = PREDICTORS, outcome: str = OUTCOME) -> pd.DataFrame:
    """The correlation in every untuned model: a row per predictor, a column ("rim-mini:0") each."""
    columns = points["model"].astype(str) + ":" + points["seed"].astype(str)
    y, found = standardised(points, outcome), {}
    for name in (name for name in names if name in points):
        there = points[name].groupby(columns, sort=False).count() > 0
        found[name] = (standardised(points, name) * y).groupby(columns, sort=False).mean().where(there)
    return pd.DataFrame(found).T.rename_axis(index="predictor", columns="model")


def layer_agreement(points: pd.DataFrame, layers: pd.DataFrame) -> float:
    """The lowest correlation, within models, of the weights' distances by layer and in all."""
    wide = layers.set_index([*POINT, "layer"])["distance"].unstack("layer")
    table = points[[*POINT, "weights"]].merge(wide.reset_index(), on=POINT)
    columns = {name: standardised(table, name) for name in ("weights", *wide)}
    return float(pd.DataFrame(columns).corr().min().min())


def for_scatter(points: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The last checkpoints, a row per tuning and predictor: ``predictor, x, y, ci_low, ci_high``.

    Both axes are standardised within the untuned model, over all of its points; the interval is
    that of the paired change of misalignment, in the same unit.
    """
    groups = points[OUTCOME].groupby([points[name] for name in MODEL], dropna=False)
    centre, spread = groups.transform("mean"), groups.transform("std", ddof=0)
    ends = {"ci_low": (points[LOW] - centre) / spread, "ci_high": (points[HIGH] - centre) / spread}
    y = standardised(points, OUTCOME)
    last = points["step"] == points.groupby([*MODEL, "corpus"], dropna=False)["step"].transform("max")
    parts = [
        points.assign(predictor=name, x=standardised(points, name), y=y, **ends)[last & points[name].notna()]
        for name in names
    ]
    return pd.concat(parts, ignore_index=True)


# -- claims ----------------------------------------------------------------------------------------
# A single other set may have a high or a low RAS, so the control is the *spread* of such sets and not
# their mean: every interval against them covers which corpora were used and which set one compares
# with. One of them in place of the critical set is then undecided about 95 times in 100.
# Random neurons are the paper's control, and no fair one: neurons that one rule finds are alike, so
# that a set of them strays further than a random one, whatever it was chosen for (in models of random
# weights, too). C9a therefore compares with sets that the same rule finds without intent.


def in_other_sets(points: pd.DataFrame, sets: pd.DataFrame, role: str) -> np.ndarray:
    """RAS in the single sets of a role, ``[points, sets]``, in the order of points and numbers."""
    wide = sets[sets["role"] == role].set_index([*POINT, "set_id"])["ras"].unstack("set_id")
    beside = points[POINT].merge(wide.reset_index(), on=POINT, how="left")
    return beside.drop(columns=POINT).to_numpy(dtype=float)


def _against_sets(effect: float, draws: np.ndarray, singles: np.ndarray, groups: int) -> dict:
    """``effect`` with its interval: corpora drawn again (``draws``), and against each single set.

    ``rank`` 1 of ``of`` is the highest; ``p_rank`` is the exact one-sided p value of a rank at
    least as high. With fewer than three corpora there is no interval.
    """
    ends = widened_percentiles(draws, groups, 0.95) if groups > 2 else (np.nan, np.nan)
    low, high = against_singles(effect, *ends, singles)
    rank, of = int(1 + (singles <= 0).sum()), len(singles) + 1
    found = {"effect": float(effect), "ci_low": low, "ci_high": high}
    return found | {"rank": rank, "of": of, "p_rank": rank / of}


def log_ratio(own: pd.DataFrame, others: np.ndarray, seed: int = 0) -> dict:
    """Mean log RAS in the safety-critical set minus that in ``others``, RAS ``[points, sets]``."""
    logs, rest = np.log(own[RAS].to_numpy()), np.log(others)
    codes, corpora = pd.factorize(own["corpus"], sort=True)
    sums, sizes = (np.bincount(codes, values) for values in (logs - rest.mean(1), np.ones(len(logs))))
    weights = resample_weights(len(corpora), seed)
    draws = (weights @ sums) / (weights @ sizes)
    effect, singles = (logs - rest.mean(1)).mean(), logs.mean() - rest.mean(0)
    found = _against_sets(effect, draws, singles, len(corpora))
    return {"value": logs.mean(), "control_value": rest.mean(), "n": len(logs), **found}


def levels(points: pd.DataFrame, sets: pd.DataFrame) -> pd.DataFrame:
    """RAS in the safety-critical set against others (`log_ratio`), by model, seed and their role.

    Points where one of them is 0 are left out.
    """
    rows = []
    for (model, seed), part in points.groupby(MODEL, sort=False, dropna=False):
        for role in (SAME_RULE, RANDOM):
            others = in_other_sets(part, sets, role)
            above = (others > 0).all(axis=1) & (part[RAS] > 0).to_numpy()
            if above.any() and others.size:
                found = log_ratio(part[above], others[above])
                rows.append({"model": model, "seed": seed, "role": role, **found})
    return pd.DataFrame(rows, columns=LEVELS)


def level_rows(table: pd.DataFrame, **values) -> list[dict]:
    """Verdict rows of C9a from `levels`: against the sets of the same rule."""
    own = table[table["role"] == SAME_RULE]
    return [
        effect_row("C9a", found, **{"mode": "think", "model": found["model"], "seed": found["seed"]} | values)
        for found in own.to_dict("records")
    ]


def difference(points: pd.DataFrame, a: str, b: str, outcome: str = OUTCOME, seed: int = 0) -> dict:
    """Correlation of predictor ``a`` minus that of ``b``; the interval draws corpora again."""
    one, two = _with_draws(points, points[[a, b]].to_numpy(dtype=float), outcome, seed)
    effect, groups = one[0] - two[0], points["corpus"].nunique()
    low, high = widened_percentiles(one[1:] - two[1:], groups, 0.95)
    ends = {"ci_low": min(low, effect), "ci_high": max(high, effect)}
    return {"value": one[0], "control_value": two[0], "effect": effect, **ends, "n": len(points)}


def difference_from_random(
    points: pd.DataFrame, others: np.ndarray, own: str = RAS, outcome: str = OUTCOME, seed: int = 0
) -> dict:
    """Correlation of RAS minus that in ``others``, single random sets ``[points, sets]``."""
    columns = np.column_stack([points[own].to_numpy(dtype=float), others])
    one, *rest = _with_draws(points, columns, outcome, seed)
    average, groups = np.mean(rest, axis=0), points["corpus"].nunique()
    singles = one[0] - np.array([other[0] for other in rest])
    found = _against_sets(one[0] - average[0], one[1:] - average[1:], singles, groups)
    return {"value": one[0], "control_value": average[0], "n": len(points), **found}


def _with_draws(points: pd.DataFrame, columns: np.ndarray, outcome: str, seed: int) -> list[np.ndarray]:
    """Of each predictor (a column) its correlation, followed by those of corpora drawn again."""
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    weights = np.vstack([np.ones(len(corpora)), resample_weights(len(corpora), seed)])
    y, found = standardised(points, outcome).to_numpy(), []
    for values in columns.T:
        x = standardised(points.assign(x=values), "x").to_numpy()
        found.append(_correlations(weights, _moments(x, y, codes)))
    return found


def effort_against_careful(points: pd.DataFrame, column: str = RAS) -> dict:
    """Mean log RAS after effort-minimising minus careful chains, at the same steps.

    The t interval covers other untuned models of this kind, not other corpora: there is one of
    each. With fewer than three models there is none, as two give one that no effect could leave.
    """
    logs = np.log(points[column].where(points[column] > 0)).to_numpy()
    table = points[POINT].assign(log=logs)
    wide = table.set_index(POINT)["log"].unstack("corpus")[[EFFORT, CAREFUL]].dropna()
    pairs = wide.groupby(level=MODEL, dropna=False).mean()
    change = (pairs[EFFORT] - pairs[CAREFUL]).to_numpy()
    n = len(change)
    reach = stats.t.isf(0.025, n - 1) * change.std(ddof=1) / np.sqrt(n) if n > 2 else np.nan
    one, two = pairs.mean()
    effect = one - two
    ends = {"ci_low": effect - reach, "ci_high": effect + reach}
    return {"value": one, "control_value": two, "effect": effect, **ends, "n": n}


def pooled_rows(points: pd.DataFrame, sets: pd.DataFrame, **values) -> list[dict]:
    """Verdict rows about several untuned models of a kind: C9b, C10 and Q3, from tables of `run`.

    Correlations are over the models whose outcome varies (`variation`).
    """
    rows = []
    for model, part in points.groupby("model", sort=False):
        found = {"model": model, "mode": "think", **values}
        if {EFFORT, CAREFUL} <= set(part["corpus"]) and part["seed"].nunique() > 1:
            rows.append(effect_row("C9b", effort_against_careful(part), **found))
        part = varying(part)
        if part["corpus"].nunique() > 2:
            others = in_other_sets(part, sets, RANDOM)
            rows.append(effect_row("C10b", difference_from_random(part, others), **found))
            rows += [effect_row(claim, difference(part, RAS, rival), **found) for claim, rival in RIVALS.items()]
    return rows
