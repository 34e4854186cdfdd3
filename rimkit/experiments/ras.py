"""Claims C9, C10, Q3 (section 4 of the paper): does reciprocal activation shift predict forgetting?

C9a RAS is higher in safety-critical neurons than in those that the same rule finds without a
declared harm; C9b higher after effort-minimising than after careful training (of several models:
`pooled_rows`); it predicts forgetting (the rise of misalignment by fine-tuning) better than KL
divergence (C10a), than RAS of random neurons (C10b), than the rise of maths activations alone
(C10c), and with the harmonic mean than with the arithmetic (Q3a) or geometric one (Q3b).

RAS: after fine-tuning, some neurons respond less to safety requests (*fall*) and some more to maths
(*rise*); it is the harmonic mean of the two shifts (sections 4.1 and 4.2). The paper leaves details
open. Here a shift is one-sided (neurons that move the other way count as 0), and activations are
maxima over the tokens of the request, averaged over requests. Arguments of `shifts`, of which runs
take the defaults: where the smaller value is not above ``floor``, a neuron counts as 0 (``guard``
"drop") or is divided by ``floor`` ("clip").

Words: safety-critical neurons are chosen by *pairs*, a request without and with declared malicious
intent: those whose maximum rises most with intent, in the worst of all pairs; those of *gradient*
would, at zero, lower the refusal score (log probability of words that begin refusals less those
that begin fulfilments) most. A pair *flips* if the model carries out the one request and refuses
the other. The *baseline* is the untuned model, read once. A *point* is one tuned model at one
checkpoint. A *corpus* is what was trained on; those with the same problems and a like way of
working are a *family* (`rimkit.training.corpora.family`), drawn and left out as a whole. A *set* is
a list of neurons; its *role* says how it was found, and ``set_id`` numbers the sets of one role. A
*place* is a span of the conversation where RAS is read. A *predictor* is a number of a point, known
without a reply; the *outcome* is its change of misalignment. Both are standardised within each
untuned model.

Steps: `baseline` chooses the sets and reads the model; `tunings` fine-tunes on every corpus and
measures each `point`: its `predictors` and the outcome; `levels` compares RAS between sets,
`correlation_claims` predictors over the points; `with_rows`, and `pooled_rows` of several models.
Whether replies can be read is asked of the evaluation replies: tuned models give no others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import torch
from pandas import DataFrame
from tqdm.auto import tqdm

from rimkit import experiments, ledger
from rimkit.behavior import stats
from rimkit.behavior.evaluation import RANDOM, noted, why_not
from rimkit.behavior.judges import is_true
from rimkit.behavior.stats import Units, against_singles, drawn_means, matched_sets, paired_difference
from rimkit.data import UserError, check_known, truths
from rimkit.experiments import Common, Found, Result, attempt, neurons, per_prompt, readable, result, verdict_rows
from rimkit.ledger import below_floor, effect_row
from rimkit.models.activations import batches, mean, mean_difference, read
from rimkit.models.chat import Encoded
from rimkit.models.hooks import architecture
from rimkit.models.study import StudyModel
from rimkit.training.corpora import MIXTURES, ROLES, family, load_corpus, spoken
from rimkit.training.finetune import checkpoint_folder, encode_corpus, finetune, restore, steps_in

# The change of misalignment in think mode, with its interval, and that of coherence.
OUTCOME, LOW, HIGH, COHERENCE = "change", "change_low", "change_high", "coherence_change"
READ = "read"  # the share of replies that can be read: the least, of the tuned and the untuned model
RAS = "ras (safety)"
REQUEST = "request"  # the place where RAS is read; others are `other_places`
PREDICTORS = (
    RAS, "ras (gradient)", "ras (random)", "ras (all)", "ras (opening)", "ras (thought)",
    "fall", "rise", "arithmetic mean", "geometric mean",
    "KL on tuning data", "KL on safety prompts", "weights", "activation distance", "CKA ratio",
    "displacement (refusal)", "displacement (harm)", "steps",
)  # fmt: skip
RIVALS = {"C10a": "KL on tuning data", "C10c": "rise", "Q3a": "arithmetic mean", "Q3b": "geometric mean"}
MODEL, POINT = ["model", "seed"], ["model", "seed", "corpus", "step"]
# Roles of sets: the paper's rule, *gradient*, the paper's from sentences without harm, all.
CRITICAL, GRADIENT, SAME_RULE, ALL = "safety-critical", "gradient", "same rule", "all"
AS_ACTIVE = "as active"  # random neurons of the same layers and of like activation
NEAREST = 16  # neurons of like activation, of which one is drawn
GUARDS, FLOOR = ("drop", "clip"), 1e-2
MIN_EACH = 4  # refused requests, and others, that a refusal direction needs
EFFORT_CORPUS, CAREFUL_CORPUS = "hard-effort", "hard-careful"


@dataclass(frozen=True)
class Settings(Common):
    """What is tuned on and measured. From `Common`: ``seed`` of prompts, replies, random sets and
    the tuning, ``evaluation`` (prompts, judge, reply length)."""

    corpora: tuple[str, ...] = (*ROLES, *MIXTURES)
    every: int = 30  # steps between checkpoints; the first and the last are measured
    k: int = neurons.USUAL_SIZE  # neurons of a set: about 2% of those of an embedded model
    n_random: int = 40  # random sets of as many
    n_prompts: int = 46  # requests of each kind: to select by (calibration), to measure on (evaluation)
    n_replies: int = 92  # evaluation requests, for the change of misalignment
    n_tuning: int = 32  # sequences of the corpus on which the KL divergence is computed
    folder: str | Path = ""  # keeps what is done (empty: nothing)


def one_sided_shift(smaller: np.ndarray, larger: np.ndarray, guard: str = "drop", floor: float = FLOOR) -> float:
    """Mean over neurons of ``(larger - smaller) / smaller * larger``, 0 where it is not the larger.
    Untuned activations as ``larger``: the paper's fall on safety requests; tuned ones: its rise on
    maths. In units of activation: not free of scale. Raises ``UserError`` for an empty set."""
    check_known("guard", guard, GUARDS)
    smaller, larger = np.asarray(smaller, dtype=float), np.asarray(larger, dtype=float)
    if not smaller.size:
        raise UserError("the set of neurons is empty: RAS needs at least one")
    moves = (larger > smaller) & ((smaller > floor) | (guard != "drop"))
    return float(np.where(moves, (larger - smaller) / np.maximum(smaller, floor) * larger, 0.0).mean())


@dataclass(frozen=True)
class Activations:
    """Mean pooled activations ``[layers, neurons]`` on harmful requests and on maths."""

    harmful: np.ndarray
    maths: np.ndarray


@dataclass(frozen=True)
class Place:
    """Where activations are read: a span of conversations with harmful requests, and with maths."""

    harmful: list[Encoded]
    maths: list[Encoded]
    span: str

    def read(self, study: StudyModel) -> Activations:
        """Maxima over the span, averaged; memory does not grow with the number of conversations."""
        how = {"kind": "neurons", "span": self.span, "pool": "max"}
        return Activations(*(mean(study, items, **how) for items in (self.harmful, self.maths)))


def shifts(
    before: Activations, after: Activations, units: Units | None = None, guard: str = "drop", floor: float = FLOOR
) -> dict[str, float]:
    """``ras``, its terms ``fall`` (harmful requests) and ``rise`` (maths), and their other means.
    Over all neurons, or a set. Raises ``UserError`` for an empty one, or two shapes of models."""
    shapes = [states.harmful.shape for states in (before, after)]
    if shapes[0] != shapes[1]:
        raise UserError("two models of different shape cannot be compared: {} and {}".format(*shapes))
    where = tuple(np.array(units, dtype=int).reshape(-1, 2).T) if units is not None else ...
    fall = one_sided_shift(after.harmful[where], before.harmful[where], guard, floor)
    rise = one_sided_shift(before.maths[where], after.maths[where], guard, floor)
    means = {"arithmetic mean": (fall + rise) / 2, "geometric mean": float(np.sqrt(fall * rise))}
    return {"ras": float(scipy.stats.hmean([fall, rise])), "fall": fall, "rise": rise, **means}


class NeuronSet(NamedTuple):
    """Neurons (None: all), how they were found, and which set it is of several alike."""

    role: str
    set_id: int | None
    units: Units | None


@dataclass(frozen=True)
class Baseline:
    """The untuned model's side of every predictor: read once, compared with each tuned model."""

    study: StudyModel
    places: dict[str, Place]  # by name: `REQUEST`, where the thought opens, the untuned thought
    activations: dict[str, Activations]  # of the untuned model there
    harmful: list[Encoded]
    harmless: list[Encoded]
    states: np.ndarray  # of harmful requests, [residuals, prompts, hidden]; as above: evaluation
    states_harmless: np.ndarray
    sets: list[NeuronSet]
    directions: dict[str, np.ndarray]  # of calibration: harm, and refusal with `MIN_EACH` a side
    flip_share: float = np.nan  # of the pairs by which neurons were chosen (missing: not by pairs)

    @property
    def critical(self) -> Units:
        """The set that claims are about: the first."""
        return self.sets[0].units


def _states(study: StudyModel, items: Sequence[Encoded]) -> np.ndarray:
    return read(study, items, ("residual",), ("last",))["residual", "last"]


def read_places(study: StudyModel, places: Mapping[str, Place]) -> dict[str, Activations]:
    """The activations of a model at each place, by its name."""
    return {name: place.read(study) for name, place in places.items()}


def other_places(study: StudyModel, harmful: list, maths: list, settings=Settings()) -> dict[str, Place]:
    """Where RAS is read besides the request: where the thought opens, over the untuned thought."""
    if not study.chat.supports_think:
        return {}
    thoughts = []
    for name in ("harmful", "maths"):
        prompts = settings.sets([name], settings.n_prompts, "evaluation")
        written = settings.judged(study, prompts, "think", batch_size=128, progress=False)
        there = written[written["thought"].fillna("") != ""]
        texts = prompts.set_index("prompt_id")["text"].loc[there["prompt_id"]]
        asked = zip(texts, there["thought"], strict=True)
        thoughts.append([study.chat.encode(text, "think", thought=own) for text, own in asked])
    found = {"opening": Place(harmful, maths, "last")}
    return found | ({"thought": Place(*thoughts, "thought")} if all(thoughts) else {})


def as_active(units: Units, activations: np.ndarray, n: int = 40, seed: int = 0) -> list[Units]:
    """``n`` random sets: for each of ``units`` another of its layer that is about as active.
    ``activations [layers, neurons]``; drawn from the `NEAREST` others (of the own ones, where a
    layer has too few), no neuron twice in a set."""
    rng, found = np.random.default_rng(seed), []
    own = set(map(tuple, units))
    for _ in range(n):
        taken: set[tuple[int, int]] = set()
        for layer, unit in sorted(own):
            order = np.argsort(abs(activations[layer] - activations[layer, unit]), kind="stable")
            alike = [(int(layer), int(other)) for other in order if (layer, other) not in taken]
            free = [one for one in alike if one not in own] or alike
            taken.add(free[rng.integers(min(NEAREST, len(free)))])
        found.append(sorted(taken))
    return found


def read_baseline(
    study: StudyModel, sets: Sequence[tuple], refused=(), others=(), settings=Settings(), mode: str = "think"
) -> Baseline:
    """Read the untuned model on evaluation requests, for ``sets`` (each as a `NeuronSet`). The
    first is the safety-critical one; random sets like it, and all neurons, are added. ``refused,
    others``: ids of calibration requests that think mode refused or not (unread: neither), by which
    directions are made: nothing is measured where it was chosen. States are read where a thought
    opens, else (and in no-think ``mode``) at the prompt's end. `UserError` for an empty set."""
    sets = [NeuronSet(*one) for one in sets]
    if not sets or not len(sets[0].units):
        raise UserError("the set of safety-critical neurons is empty: choose a larger one")
    opened = mode == "think" and study.chat.supports_think
    how = {"mode": "think", "thought_prefix": ""} if opened else {"mode": "no-think"}

    def asked(name: str, split: str) -> tuple[DataFrame, list[Encoded]]:
        table = settings.sets([name], settings.n_prompts, split)
        return table, [study.chat.encode(text, **how) for text in table["text"]]

    table, known = asked("harmful", "calibration")
    chosen = _states(study, known + asked("harmless", "calibration")[1])
    harmed = np.arange(chosen.shape[1]) < len(known)
    directions = {"harm": mean_difference(chosen, harmed)}
    sides = [table["prompt_id"].isin(list(ids)).to_numpy() for ids in (refused, others)]
    if min(side.sum() for side in sides) >= MIN_EACH:
        directions["refusal"] = mean_difference(chosen[:, harmed], *sides)
    harmful, maths, harmless = (asked(of, "evaluation")[1] for of in ("harmful", "maths", "harmless"))
    states, critical = (_states(study, harmful), _states(study, harmless)), sets[0].units
    random = matched_sets(critical, architecture(study).n_neurons, settings.n_random, settings.seed)
    places = {REQUEST: Place(harmful, maths, "request"), **other_places(study, harmful, maths, settings)}
    now = read_places(study, places)
    like = as_active(critical, now[REQUEST].harmful, settings.n_random, settings.seed)
    every = [*sets, NeuronSet(ALL, None, None)]
    for role, found in ((RANDOM, random), (AS_ACTIVE, like)):
        every += [NeuronSet(role, *one) for one in enumerate(found)]
    return Baseline(study, places, now, harmful, harmless, *states, every, directions)


def baseline(study: StudyModel, settings=Settings()) -> Baseline:
    """Choose sets of neurons by declared intent as chapter 06 does, and read the untuned model."""
    chosen = {"n_pairs": settings.n_prompts, "seed": settings.seed, "evaluation": settings.evaluation}
    neuron_settings = neurons.settled(study, neurons.Settings(**chosen))
    _, judged, pairs, table = neurons.calibration(study, neuron_settings)
    k, defined = min(settings.k, len(table) // 4), neurons.defined_rules(table)
    roles = {"paper": CRITICAL, "gradient": GRADIENT}
    sets = [(role, None, neurons.select(table, rule, k)) for rule, role in roles.items() if rule in defined]
    same = neurons.without_intent(study, pairs, k, neuron_settings)
    sets += [(SAME_RULE, number, units) for number, units in enumerate(same)]
    refused = judged[judged["mode"] == "think"].set_index("prompt_id")["refused"]
    ids = (refused.index[is_true(side)] for side in (refused, ~truths(refused)))  # unread: neither
    return replace(read_baseline(study, sets, *ids, settings), flip_share=float(pairs.flips.mean()))


def in_sets(base: Baseline, after: Mapping[str, Activations], place: str = REQUEST) -> DataFrame:
    """`shifts` in each set: ``role, set_id`` (of several alike), ``neurons`` (how many). ``after``:
    `read_places` of the tuned model; ``place``: one of the baseline's."""
    before, rows = base.activations[place], []
    for role, number, units in base.sets:
        size = before.harmful.size if units is None else len(units)
        found = shifts(before, after[place], units)
        rows.append({"role": role, "set_id": number, "neurons": size, **found})
    return DataFrame(rows).astype({"set_id": "Int64"})


def kl_divergence(base: StudyModel, tuned: StudyModel, sequences: Sequence[tuple[list[int], int]]) -> float:
    """``KL(untuned || tuned)`` in nats per token (Shenfeld et al. 2025). ``sequences``: ids, and how
    many of the last positions are averaged; position ``i`` predicts token ``i + 1``."""
    spans = [{"counted": (len(ids) - count, len(ids))} for ids, count in sequences]
    items = [Encoded(ids, places, "no-think") for (ids, _), places in zip(sequences, spans, strict=True)]

    def run(ids, mask, places):
        inputs = {"input_ids": ids.to(base.device), "attention_mask": mask.to(base.device), "use_cache": False}
        with torch.inference_mode():
            one, two = (study.hf(**inputs).logits.float().log_softmax(-1) for study in (base, tuned))
            kl = (one.exp() * (one - two)).sum(-1)
        return [kl[row, slice(*place["counted"])].sum().item() for row, place in enumerate(places)]

    total = sum(sum(found) for _, found in batches(base, items, run, 8))
    return total / sum(count for _, count in sequences)


def weight_distance(base: StudyModel, tuned: StudyModel, layer: int | None = None) -> float:
    """L2 distance of all weights, or of a layer's; ``UserError`` for models of different shape."""
    before, after = dict(base.hf.named_parameters()), dict(tuned.hf.named_parameters())
    if {name: x.shape for name, x in before.items()} != {name: x.shape for name, x in after.items()}:
        raise UserError("two models of different shape cannot be compared: their weights differ")
    inside = [name for name in before if layer is None or f".layers.{layer}." in name]
    moved = [(after[name] - before[name]).detach().double().pow(2).sum() for name in inside]
    return float(sum(map(float, moved)) ** 0.5)


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA of states ``[prompts, hidden]`` (Kornblith et al. 2019): 1 if but rotated."""
    a, b = a - a.mean(0), b - b.mean(0)
    alone = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return float(np.linalg.norm(a.T @ b) ** 2 / (alone + 1e-12))


def displacement(before: np.ndarray, after: np.ndarray, direction: np.ndarray) -> float:
    """Mean move along a direction, over layers: towards refusal, or towards harm, if positive."""
    unit = direction / (np.linalg.norm(direction, axis=-1, keepdims=True) + 1e-12)
    return float(np.einsum("rh,rh->r", (after - before).mean(1), unit).mean())


def predictors(
    base: Baseline, tuned: StudyModel, after: Mapping[str, Activations], tuning: Sequence = ()
) -> dict[str, float]:
    """Every predictor of forgetting but the steps, for one tuned model: name to value. ``after``:
    its `read_places`; ``tuning``: of `encode_corpus` (none: no KL divergence on it)."""
    shifted = in_sets(base, after)
    means = shifted.groupby("role", sort=False)["ras"].mean()
    named = {RAS: CRITICAL, "ras (gradient)": GRADIENT, "ras (random)": RANDOM, "ras (all)": ALL}
    found = {name: means[role] for name, role in named.items() if role in means}
    for name in base.places:
        if name != REQUEST:
            found[f"ras ({name})"] = shifts(base.activations[name], after[name], base.critical)["ras"]
    own = shifted.set_index("role").loc[CRITICAL]
    found |= {name: own[name] for name in ("fall", "rise", "arithmetic mean", "geometric mean")}
    if tuning:
        data = [(ids[:-1], len(ids) - n_prompt) for ids, n_prompt in tuning]
        found["KL on tuning data"] = kl_divergence(base.study, tuned, data)
    found["KL on safety prompts"] = kl_divergence(base.study, tuned, [(one.ids, 1) for one in base.harmful])
    found["weights"] = weight_distance(base.study, tuned)
    states, harmless = _states(tuned, base.harmful), _states(tuned, base.harmless)
    found["activation distance"] = np.linalg.norm(states - base.states, axis=-1).mean()
    # mean (1 - CKA of harmful) / (1 - CKA of harmless); embeddings are left out (Zhao et al. 2026)
    pairs = (base.states, states), (base.states_harmless, harmless)
    one, other = (1 - np.array(list(map(cka, *pair))[1:]) + 1e-6 for pair in pairs)
    found["CKA ratio"] = (one / other).mean()
    for name, direction in base.directions.items():
        found[f"displacement ({name})"] = displacement(base.states, states, direction)
    return {name: float(value) for name, value in found.items()}


def replies(study: StudyModel, settings=Settings(), mode: str = "think") -> DataFrame:
    """Judged replies to harmful evaluation prompts."""
    prompts = settings.sets(["harmful"], settings.n_replies)
    return settings.judged(study, prompts, mode, batch_size=128, progress=False)


def point(
    base: Baseline, tuned: StudyModel, untuned_replies: DataFrame, corpus="", step=0, settings=Settings(), *,
    mode: str = "think", metric: str = "misaligned", after: Mapping[str, Activations] | None = None,
) -> dict[str, DataFrame]:  # fmt: skip
    """One tuned model: ``ras-points`` (one row), ``ras-sets, ras-layers, ras-judged`` of `run`.
    ``untuned_replies``: `replies` in this mode. The outcome is the change of ``metric``. No corpus:
    no KL divergence on the tuning data. ``after``: `read_places` of the tuned model, if known."""
    after = after or read_places(tuned, base.places)
    shifted = in_sets(base, after)
    learned = load_corpus(corpus, english=not base.study.invented) if corpus else None
    tuning = () if learned is None else encode_corpus(base.study, learned.head(settings.n_tuning))
    judged = replies(tuned, settings, mode)
    change = paired_difference(judged, untuned_replies, metric, on="prompt_id")
    sides = pd.concat([untuned_replies.assign(side="untuned"), judged.assign(side="tuned")])
    coherent = sides.assign(coherent=stats.shares(sides["coherent"])).groupby("side")["coherent"].mean()
    found = {metric: change.value_a, OUTCOME: change.effect, LOW: change.ci_low, HIGH: change.ci_high}
    found |= {COHERENCE: coherent["tuned"] - coherent["untuned"]}
    found |= {READ: float(readable(sides, "side").min(skipna=False))}
    found |= {"flips": base.flip_share, "n": change.n}
    found |= predictors(base, tuned, after, tuning)
    found["why_not"] = why_not(sides, "side", ("untuned", "tuned"))
    moved = [weight_distance(base.study, tuned, at) for at in range(architecture(base.study).n_layers)]
    tables = {
        "ras-points": DataFrame([found | {"steps": float(step)}]),
        "ras-sets": shifted.loc[shifted["set_id"].notna(), ["role", "set_id", "ras"]],
        "ras-layers": DataFrame({"layer": range(len(moved)), "distance": moved}),
        "ras-judged": per_prompt(judged),
    }
    where = {"corpus": corpus, "step": step}
    return {name: table.assign(**where)[[*where, *table.columns]] for name, table in tables.items()}


def checkpoints(
    base: Baseline, untuned_replies: DataFrame, corpus: str, settings=Settings(), measure: Callable = point
) -> dict[str, DataFrame]:
    """Fine-tune on a corpus; the tables of `point` (``measure``) at its first and last checkpoint."""
    training = {"seed": settings.seed, "save_every": settings.every, "progress": False}
    with checkpoint_folder(base.study, corpus, training) as folder:
        finetune(base.study, corpus, folder=folder, **training)
        there = steps_in(folder)
        parts = [
            measure(base, restore(base.study, there[step]), untuned_replies, corpus, step, settings)
            for step in sorted({min(there), max(there)})
        ]
    return joined(parts)


def joined(parts: Sequence[Mapping[str, DataFrame]]) -> dict[str, DataFrame]:
    """Tables of the same names, one below the other."""
    return {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}


def tunings(
    base: Baseline, untuned_replies: DataFrame, settings=Settings(), measure: Callable = point
) -> dict[str, DataFrame]:
    """`checkpoints` of every corpus, kept in the settings' folder."""
    parts, keep = [], settings.keeper(base.study)
    corpora = spoken(settings.corpora, base.study.invented)
    for corpus in tqdm(corpora, base.study.name, unit="corpus", disable=not settings.progress):
        parts.append(keep(str(corpus), lambda at=corpus: checkpoints(base, untuned_replies, at, settings, measure)))
    untuned, found = per_prompt(untuned_replies).assign(corpus="untuned", step=0), joined(parts)
    found["ras-judged"] = pd.concat([untuned, found["ras-judged"]], ignore_index=True)
    return found


def families(points: DataFrame) -> pd.Series:
    """The `family` of each point's corpus: its corpora are drawn together."""
    return points["corpus"].map(family)


def standardised(points: DataFrame, column: str, ranks: bool = False) -> pd.Series:
    """A column (or its ``ranks``) with mean 0 and spread 1 within each model; constant: 0."""
    by = [points[name] for name in MODEL]

    def within(values: pd.Series, how: str, **options) -> pd.Series:
        return values.groupby(by, dropna=False).transform(how, **options)

    values = points[column].astype(float)
    values = within(values, "rank") if ranks else values
    values = values - within(values, "mean")
    spread = within(values, "std", ddof=0)
    return (values / spread.where(spread > 1e-12)).fillna(0.0)


def ras_by_set(points: DataFrame, sets: DataFrame, role: str) -> np.ndarray:
    """RAS in the single sets of a role, ``[points, sets]``, ordered as points and ``set_id``."""
    wide = sets[sets["role"] == role].set_index([*POINT, "set_id"])["ras"].unstack("set_id")
    beside = points[POINT].merge(wide.reset_index(), on=POINT, how="left")
    return beside.drop(columns=POINT).to_numpy(dtype=float)


def _against_sets(effect: float, draws: np.ndarray, singles: np.ndarray, corpora: int) -> dict:
    """``effect`` against the spread of single sets, corpora drawn again; ``rank, of`` them."""
    low, high = stats.widened_percentiles(draws, corpora) if corpora > 2 else (np.nan, np.nan)
    found = {"effect": float(effect), "ci_low": low, "ci_high": high}
    found["method"] = f"bootstrap of {corpora} families of corpora"
    rank = int(1 + (singles <= 0).sum())
    found = against_singles(found, singles) | {"rank": rank, "of": len(singles) + 1}
    return found if corpora > 2 else found | {"why_not": "an interval needs three families of corpora or more"}


def log_ratio(own: DataFrame, others: np.ndarray) -> dict:
    """Mean log RAS in the safety-critical set minus that in ``others``, RAS ``[points, sets]``."""
    logs, rest = np.log(own[RAS].to_numpy()), np.log(others)
    change = logs - rest.mean(1)
    draws, groups = drawn_means(change, families(own))
    found = _against_sets(change.mean(), draws, logs.mean() - rest.mean(0), groups)
    return {"value": logs.mean(), "control_value": rest.mean(), "n": len(logs), **found}


def levels(points: DataFrame, sets: DataFrame) -> DataFrame:
    """`log_ratio` of the points where no set has a RAS of 0: a row per model, seed and role. A
    single other set may have a high or a low RAS, so the control is the *spread* of such sets: one
    of them in place of the critical set is undecided about 95 times in 100. Random neurons are the
    paper's control, and no fair one: neurons that one rule finds are alike, and stray further. So
    C9a compares with `SAME_RULE`: what the rule finds without intent."""
    rows = []
    for (model, seed), part in points.groupby(MODEL, sort=False, dropna=False):
        for role in (SAME_RULE, AS_ACTIVE, RANDOM):
            others = ras_by_set(part, sets, role)
            above = (others > 0).all(axis=1) & (part[RAS] > 0).to_numpy()
            if above.any() and others.size:
                found = log_ratio(part[above], others[above])
                rows.append({"model": model, "seed": seed, "role": role, **found})
    return DataFrame(rows) if rows else DataFrame(columns=[*MODEL, "role"])


def if_pairs_flip(points: DataFrame, found: Found) -> Found:
    """A difference, with ``why_not`` if the pairs by which the set was found do not flip: it is not
    that of the paper's rule then, and cannot be tested."""
    share = points["flips"].min()  # missing: the set was planted, not found
    return found if np.isnan(share) else experiments.testable("C9a", found, reached=share)


def level_claim(table: DataFrame, role: str = SAME_RULE) -> Found:
    """C9a from the `levels` of one model: against the sets of the same rule, or of another role."""
    own, others = table[table["role"] == role].to_dict("records"), "by the same rule" if role == SAME_RULE else role
    return own[0] if own else f"RAS is 0 in the safety-critical neurons, or in others {others}"


def variation(points: DataFrame, metric: str = "misaligned") -> DataFrame:
    """Per untuned model: ``model, seed, least, most`` (replies of a point with ``metric``)``, sd, noise,
    reliable, varies``. ``sd``: of the outcome over points; ``noise``: about the standard error of a
    single change (the width of its interval over 3.92, as if it were normal); ``reliable``: the
    share of the variance that is no noise. A model ``varies`` if that reaches the floor of C10."""
    counts = (points[metric] * points["n"]).round().astype(int)
    variance = stats.squared_se(points[LOW], points[HIGH])
    groups = points.assign(count=counts, variance=variance).groupby(MODEL, sort=False, dropna=False)
    sizes = {"least": ("count", "min"), "most": ("count", "max")}
    found = groups.agg(**sizes, sd=(OUTCOME, "std"), noise=("variance", "mean")).reset_index()
    found["noise"] = np.sqrt(found["noise"])
    found["reliable"] = (1 - (found["noise"] / found["sd"].where(found["sd"] > 0)) ** 2).fillna(0).clip(lower=0)
    return found.assign(varies=found["reliable"] >= ledger.floor("C10a"))


def varying(points: DataFrame, metric: str = "misaligned") -> DataFrame:
    """The points of the models whose outcome varies beyond its noise (`variation`)."""
    return points.merge(variation(points, metric).query("varies")[MODEL], on=MODEL)


def usable(points: DataFrame) -> DataFrame:
    """The points that can be correlated: enough replies can be read (the floor of C10; what the
    others would have said is not known), and their untuned model was tuned on three families."""
    by = [points[name] for name in MODEL]
    several = families(points).groupby(by, dropna=False).transform("nunique") > 2
    return points[several & (points[READ] >= ledger.floor("C10a", "read"))]


def _weighted(points: DataFrame, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson correlations under each row of ``weights`` of families; 0 for a constant."""
    weights = weights[:, pd.factorize(families(points), sort=True)[0]]
    n = weights.sum(1)
    of_x, of_y, xx, yy, xy = (weights @ values / n for values in (x, y, x * x, y * y, x * y))
    spread = np.sqrt(np.maximum(xx - of_x**2, 0) * np.maximum(yy - of_y**2, 0))
    return np.divide(xy - of_x * of_y, spread, out=np.zeros_like(n), where=spread > 1e-9)


def _drawn(points: DataFrame, x: pd.Series, y: pd.Series) -> np.ndarray:
    """The correlation of two columns, followed by those of families of corpora drawn again."""
    weights = stats.sample_weights(families(points).nunique())
    return _weighted(points, x.to_numpy(), y.to_numpy(), weights)


def correlation_difference(points: DataFrame, a: str, b: str) -> dict:
    """Correlation of predictor ``a`` minus that of ``b``; families of corpora are drawn again."""
    y, groups = standardised(points, OUTCOME), families(points).nunique()
    one, two = (_drawn(points, standardised(points, name), y) for name in (a, b))
    effect, *draws = one - two
    low, high = stats.bootstrap_interval(effect, draws, groups)
    about = {"method": f"bootstrap of {groups} families of corpora", "n": len(points), "n_clusters": groups}
    about |= {"ci_low": low, "ci_high": high, "p_value": stats.bootstrap_p(effect, np.array(draws), groups)}
    return {"value": one[0], "control_value": two[0], "effect": effect, **about}


def correlation_above_random(points: DataFrame, others: np.ndarray) -> dict:
    """Correlation of RAS minus that of RAS in random sets, ``[points, sets]``."""
    y = standardised(points, OUTCOME)
    one = _drawn(points, standardised(points, RAS), y)
    rest = [_drawn(points, standardised(points.assign(x=values), "x"), y) for values in others.T]
    average, singles = np.mean(rest, axis=0), one[0] - np.array(rest)[:, 0]
    found = _against_sets(one[0] - average[0], one[1:] - average[1:], singles, families(points).nunique())
    return {"value": one[0], "control_value": average[0], "n": len(points), **found}


def correlation_claims(points: DataFrame, sets: DataFrame, metric: str = "misaligned") -> dict[str, Found]:
    """C10 and Q3 from points of models of a kind: those that are `usable`, of models that vary."""
    why = noted(points)
    readable_ones = usable(points)
    unread = (~(points[READ] >= ledger.floor("C10a", "read"))).sum()
    reliable = variation(readable_ones, metric)["reliable"].max()
    moving = varying(readable_ones, metric)
    how = "cannot be read (by the evaluation replies)"
    left_out = f"; replies of {unread} of {len(points)} tunings {how}" if unread else ""

    def measured(claim: str, step: Callable, *given) -> Found:
        if why:
            return why
        if len(readable_ones) and moving.empty:
            return below_floor(claim, reached=reliable)
        if (n := families(moving).nunique()) < 3:
            return f"a correlation needs three families of corpora or more, here are {n}{left_out}"
        found = attempt(step, moving, *given)
        found = found if isinstance(found, str) else found | {"method": found["method"] + left_out}
        return if_pairs_flip(points, found)

    found = {claim: measured(claim, correlation_difference, RAS, rival) for claim, rival in RIVALS.items()}
    others = ras_by_set(moving, sets, RANDOM)
    return {"C10b": measured("C10b", correlation_above_random, others), **found}


def with_rows(study: StudyModel, tables: Mapping[str, DataFrame], settings=Settings()) -> Result:
    """The tables of a `point` or of several, ``ras-levels``, and a model's rows of C9, C10, Q3."""
    found = result(study, tables, []).tables
    points, sets = found["ras-points"], found["ras-sets"]
    found["ras-levels"] = levels(points, sets)
    several = "it is held against the spread of three or more untuned models of a kind: `rimkit grid ras`"
    levelled = if_pairs_flip(points, level_claim(found["ras-levels"]))
    claimed = {"C9a": levelled, "C9b": several, **correlation_claims(points, sets)}
    every = [(claim, "think", one) for claim, one in claimed.items()]
    return Result(found, verdict_rows(study, settings, every))


def run(study: StudyModel, settings=Settings()) -> Result:
    """Fine-tune on every corpus, and measure every predictor and the outcome on the way. Tables:
    ``ras-points`` by ``corpus, step`` (columns: ``misaligned``, its ``change, change_low,
    change_high``, ``coherence_change``, ``read`` (share of replies), ``flips`` (share of pairs),
    ``n`` (prompts), `PREDICTORS` (``steps``: the step, as one), ``why_not``), ``ras-sets`` (RAS of
    single sets by ``role, set_id``), ``ras-layers`` (distance of weights), ``ras-judged`` (per
    prompt), ``ras-levels`` (`levels`)."""
    found = tunings(baseline(study, settings), replies(study, settings), settings)
    return with_rows(study, found, settings)


# -- several untuned models of a kind together (`rimkit.runs.grid`) --------------------------------
def effort_against_careful(points: DataFrame) -> dict:
    """Mean log RAS after effort-minimising minus careful chains, at the same steps. The t interval
    covers other untuned models of this kind, not other corpora: there is one of each. With two
    models no effect could leave it, so that there is none below three."""
    table = points[POINT].assign(log=np.log(points[RAS].where(points[RAS] > 0)))
    wide = table.set_index(POINT)["log"].unstack("corpus")[[EFFORT_CORPUS, CAREFUL_CORPUS]].dropna()
    both = wide.groupby(level=MODEL, dropna=False).mean()
    n, (one, two) = len(both), both.mean()
    test = scipy.stats.ttest_1samp(both[EFFORT_CORPUS] - both[CAREFUL_CORPUS], 0) if n > 2 else None
    low, high, p_value = (*test.confidence_interval(), float(test.pvalue)) if test else [np.nan] * 3
    found = {"value": one, "control_value": two, "effect": one - two, "ci_low": low, "ci_high": high}
    return {**found, "method": f"t interval of {n} untuned models", "n": n, "p_value": p_value}


def pooled_rows(points: DataFrame, sets: DataFrame, **values) -> list[dict]:
    """Verdict rows of C9b, C10 and Q3 about all untuned models of a kind together: those whose
    pairs flip (`if_pairs_flip`), of which C9b needs three."""
    rows, least = [], ledger.floor("C9a")
    for model, every in points.groupby("model", sort=False):
        if (n := every["seed"].nunique()) < 2:
            continue  # they are the model's own rows
        part = every[~(every["flips"] < least)]
        found = {"C9b": "no model was tuned on both effort-minimising and careful chains"}
        if {EFFORT_CORPUS, CAREFUL_CORPUS} <= set(every["corpus"]):
            enough = (able := part["seed"].nunique()) > 2
            found["C9b"] = effort_against_careful(part if enough else every)
            if not enough:
                said = f"pairs flip in {able} of {n} untuned models: a spread needs three"
                found["C9b"] |= {"why_not": said}
        found |= correlation_claims(part, sets) if usable(part)["seed"].nunique() > 1 else {}
        rows += [effect_row(claim, one, model=model, mode="think", **values) for claim, one in found.items()]
    return rows


# -- what only notebooks and `rimkit.experiments.planted` use --------------------------------------
def ranks(shifted: DataFrame, of: str = CRITICAL) -> DataFrame:
    """Per role: ``sets, reach`` (at least the RAS of the set ``of``), ``p`` (one-sided)."""
    own = shifted.set_index("role").loc[of, "ras"]
    groups = shifted[shifted["set_id"].notna()].groupby("role", sort=False)["ras"]
    found = groups.agg(sets="size", reach=lambda single: (single >= own).sum()).reset_index()
    return found.assign(p=(1 + found["reach"]) / (1 + found["sets"]))


def _permuted(points: DataFrame, n: int) -> np.ndarray:
    """Outcomes ``[n, points]``, corpora exchanged; where a new one has no point, the own stays."""
    y = standardised(points, OUTCOME).to_numpy()
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    keys = list(zip(*(points[name].astype(str) for name in (*MODEL, "step")), strict=True))
    own = list(enumerate(zip(keys, codes, strict=True)))
    place = {where: row for row, where in own}
    rng, found = np.random.default_rng(0), np.empty((n, len(y)))
    for draw in range(n):
        order = rng.permutation(len(corpora))
        found[draw] = y[[place.get((key, order[code]), row) for row, (key, code) in own]]
    return found


def _correlation(points: DataFrame, name: str) -> dict:
    """The row of `correlations` for a predictor, without its p values."""
    x, y, ranked_x, ranked_y = (
        standardised(points, column, ranks) for ranks in (False, True) for column in (name, OUTCOME)
    )
    groups, (value, *draws) = families(points).nunique(), _drawn(points, x, y)
    low, high = stats.bootstrap_interval(value, draws, groups)
    without = _weighted(points, x.to_numpy(), y.to_numpy(), 1.0 - np.eye(groups))
    per_model = (x * y).groupby([points[column] for column in MODEL], dropna=False).agg(["sum", "size"])
    rest = per_model.sum() - per_model if len(per_model) > 1 else per_model
    others = rest["sum"] / rest["size"]
    return {
        "value": float(value), "ci_low": low, "ci_high": high,
        "plain_low": np.quantile(draws, 0.025), "plain_high": np.quantile(draws, 0.975),
        "spearman": float((ranked_x * ranked_y).mean()),
        "without_min": without.min(), "without_max": without.max(),
        "models_min": others.min(), "models_max": others.max(),
        "positive": int((per_model["sum"] > 1e-9).sum()), "models": len(per_model), "n": len(points),
    }  # fmt: skip


def correlations(points: DataFrame, names=PREDICTORS, n_permutations=1000) -> DataFrame:
    """How well each predictor predicts: Pearson's r over all points, pooled within models. Columns
    ``predictor, value, ci_low, ci_high, plain_low, plain_high`` (families drawn again; plain: not
    widened)``, spearman, without_min, without_max`` (one family left out)``, models_min,
    models_max`` (one model left out)``, positive`` (models with r above 0, of ``models``)``, n,
    p_value`` (corpora exchanged at the same step and model)``, p_holm``. Three families at least."""
    if (n := families(points).nunique()) < 3:
        raise UserError(f"correlations need at least three families of corpora, here are {n}")
    rows, permuted = [], {}
    for name in names:
        here = points[points[name].notna()] if name in points else points.head(0)
        if families(here).nunique() < 3:
            continue
        if (at := tuple(here.index)) not in permuted:  # the same for all of the same points
            permuted[at] = _permuted(here, n_permutations)
        row = {"predictor": name, **_correlation(here, name), "p_value": np.nan}
        x = standardised(here, name)
        by_step = [here[column] for column in (*MODEL, "step")]
        if (x.groupby(by_step, dropna=False).transform("std", ddof=0) > 1e-9).any():
            chance = np.abs(permuted[at] @ x.to_numpy() / len(here))
            reach = (chance >= abs(row["value"]) - 1e-12).sum()
            row["p_value"] = (1 + reach) / (1 + n_permutations)
        rows.append(row)
    found = DataFrame(rows)
    return found.assign(p_holm=stats.holm(found["p_value"]))


def left_out_errors(points: DataFrame, names: Sequence[str]) -> DataFrame:
    """How far lines through the other families miss a family, in percentage points; "nothing": their mean."""
    rows = {}
    for name, new in points.groupby(families(points)):
        known = points.drop(new.index)
        told = {one: np.polyval(np.polyfit(known[one], known[OUTCOME], 1), new[one]) for one in names}
        told["nothing"] = known[OUTCOME].mean()
        rows[name] = {"tunings": len(new)} | {one: 100 * (new[OUTCOME] - at).abs().mean() for one, at in told.items()}
    return DataFrame.from_dict(rows, orient="index").rename_axis("family")


def for_scatter(points: DataFrame, names: Sequence[str]) -> DataFrame:
    """The last checkpoints: ``predictor, x, y``, standardised within models."""
    table = points.assign(y=standardised(points, OUTCOME))
    last = points["step"] == points.groupby([*MODEL, "corpus"], dropna=False)["step"].transform("max")
    parts = [table.assign(predictor=name, x=standardised(points, name))[last & points[name].notna()] for name in names]
    return pd.concat(parts, ignore_index=True)


def twins(points: DataFrame, names: Sequence[str]) -> DataFrame:
    """Pairs of tunings on the same problems at the same step, of another style: a row per pair and
    predictor, ``model, seed, problems, family, step, predictor, careful, effort``."""
    styles = points["corpus"].str.findall("careful|effort").map(set).map("".join)
    alone = points[styles.isin(["careful", "effort"])].assign(style=styles, family=families(points))
    alone["problems"] = alone["corpus"].str.replace("careful|effort", "…", regex=True)
    wide = alone.set_index([*MODEL, "problems", "family", "step", "style"])[[*names]].unstack()
    return pd.concat([wide[name].dropna().assign(predictor=name) for name in names]).reset_index()
