"""Claim C3 (section 3.1 of the paper): where harm and refusal can be read from the residual stream.

Two directions, never to be confused: *harm* (harmful minus harmless requests: the paper's) and *refusal* (refused
minus fulfilled requests of one kind). A probe is a difference of means with its midpoint as threshold (the paper's
equations of section 3.1); logistic regression is its rival, shuffled labels and random directions are its controls.
The paper does not say at which token its vectors are taken: here each place has its own probe.

Claim C3 measured: which groups of requests can be told apart, at which place of the conversation and which layer.

Contrasts: *harm* (harmful against harmless requests; the paper's) and *outcome* (harmful requests that were refused
against those that were fulfilled). A probe is fitted on the calibration split and judged on the evaluation split, at
every place and residual by itself.

Ledger rows of claim C3: what `separability` finds, as far as it is defined for a model.

Steering: what a model does when a direction is removed from its residual stream, or added to it.

A direction that a probe can read need not be one that the model uses; only an intervention tells. The control is a
random direction: removed in the same way, or added with the same length at the same place (after Arditi et al. 2024,
arXiv 2406.11717; the paper of the workbook does not steer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd

from rimkit.behavior.evaluation import NOTHING, RANDOM, SELECTED, Evaluation, against_random, under_together
from rimkit.behavior.prompts import spread
from rimkit.behavior.refusal_score import contexts
from rimkit.behavior.stats import against_singles, areas, auroc, auroc_above
from rimkit.data import UserError
from rimkit.ledger import effect_row
from rimkit.models.activations import batches, capture, forward, read
from rimkit.models.chat import MODES, Encoded
from rimkit.models.hooks import architecture, check_index
from rimkit.models.interventions import steer_per_row
from rimkit.models.load import untrained
from rimkit.models.study import StudyModel


# -- mechanism.probes ----------
@dataclass(frozen=True)
class Probe:
    """One direction and one threshold per residual: ``vectors [residuals, hidden]``, ``thresholds [residuals]``."""

    vectors: np.ndarray
    thresholds: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Scores ``[residuals, prompts]`` of states ``[residuals, prompts, hidden]``, above 0 on the positive side."""
        return np.einsum("rph,rh->rp", states, self.vectors) - self.thresholds[:, None]

    @property
    def unit(self) -> np.ndarray:
        """The directions at length 1."""
        return self.vectors / np.linalg.norm(self.vectors, axis=-1, keepdims=True)


def fit(states: np.ndarray, positive: np.ndarray) -> Probe:
    """Difference of means and midpoint threshold, from states ``[residuals, prompts, hidden]`` and a boolean label.

    Raises ``UserError`` where all prompts have one label: the direction is then undefined.
    """
    positive = np.asarray(positive, dtype=bool)
    if positive.all() or not positive.any():
        raise UserError(f"all {len(positive)} prompts have the same label: a direction needs both; take other prompts")
    above, below = states[:, positive].mean(1), states[:, ~positive].mean(1)
    vectors = above - below
    return Probe(vectors, np.einsum("rh,rh->r", vectors, (above + below) / 2))


def random_probe(like: Probe, seed: int = 0) -> Probe:
    """Random directions of the same length, threshold 0: what a probe finds that has learned nothing."""
    vectors = np.random.default_rng(seed).normal(size=like.vectors.shape)
    vectors *= np.linalg.norm(like.vectors, axis=-1, keepdims=True) / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return Probe(vectors.astype(np.float32), np.zeros(len(vectors), dtype=np.float32))


def logistic_scores(states: np.ndarray, positive: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Scores ``[residuals, prompts]`` of ``others`` by a logistic regression per residual, fitted on ``states``."""
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression

    mean, spread = states.mean(1, keepdims=True), states.std(1, keepdims=True)
    spread = np.where(spread > 0, spread, 1)  # a dimension that is the same in all prompts says nothing
    known, new = (states - mean) / spread, (others - mean) / spread
    model = LogisticRegression(C=0.1, max_iter=500)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # checks that cost more than the fits
        return np.stack([model.fit(x, positive).decision_function(y) for x, y in zip(known, new, strict=True)])


def separation(
    fitted: dict[str, np.ndarray],
    fitted_labels: np.ndarray,
    states: dict[str, np.ndarray],
    labels: np.ndarray,
    clusters: Sequence[str],
    seed: int = 0,
) -> pd.DataFrame:
    """How well each place and layer separates two groups that it was not fitted on.

    ``fitted`` and ``states`` map a span to ``[residuals, prompts, hidden]`` (calibration and evaluation). One row per
    span and residual: ``span, residual, auroc, ci_low, ci_high`` (clustered) of the difference of means, ``logistic``,
    ``shuffled`` (fitted to shuffled labels) and ``random`` (a random direction; its better side) for comparison.
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels, dtype=bool)
    fitted_labels, rows = np.asarray(fitted_labels, dtype=bool), []
    for span, known in fitted.items():
        here, there = ~np.isnan(known[0]).any(-1), ~np.isnan(states[span][0]).any(-1)
        x, y = known[:, here], fitted_labels[here]
        new, truth, groups = states[span][:, there], labels[there], np.asarray(clusters)[there]
        probe = fit(x, y)
        scores, rival = probe(new), logistic_scores(x, y, new)
        shuffled, random = fit(x, rng.permutation(y))(new), random_probe(probe, seed)(new)
        logistic, by_chance, chance = (areas(other, truth) for other in (rival, shuffled, random))
        for residual in range(len(scores)):
            found = auroc(scores[residual], truth, groups)
            rows.append({
                "span": span, "residual": residual, "auroc": found.value, "ci_low": found.ci_low,
                "ci_high": found.ci_high, "n": found.n, "logistic": logistic[residual],
                "shuffled": by_chance[residual], "random": max(chance[residual], 1 - chance[residual]),
            })  # fmt: skip
    return pd.DataFrame(rows)


def states_at(study: StudyModel, items: Sequence[Encoded], spans: Sequence[str]) -> dict[str, np.ndarray]:
    """Residuals averaged over each span, ``{span: [residuals, prompts, hidden]}``; NaN where a span is missing."""
    found = read(study, items, ("residual",), spans)
    return {span: found["residual", span] for span in spans}


def with_first_token(items: Sequence[Encoded]) -> list[Encoded]:
    """The conversations with one more span, ``thought_start``: the first token of the thought."""
    return [
        replace(item, spans={**item.spans, "thought_start": (start, start + 1)}) if (start := _start(item)) else item
        for item in items
    ]


def _start(item: Encoded) -> int | None:
    return item.spans["thought"][0] if "thought" in item.spans else None


def trajectory(
    study: StudyModel, items: Sequence[Encoded], probe: Probe, residual: int, span: str = "thought"
) -> pd.DataFrame:
    """The probe along a span, a row per token: ``row`` (in ``items``), ``token``, ``part`` (0 to 1), ``score``."""
    import torch

    check_index("residual", residual, architecture(study).n_layers + 1)
    vector, threshold = torch.tensor(probe.vectors[residual]), float(probe.thresholds[residual])
    parts = []

    def run(ids, mask, spans):
        with torch.inference_mode(), capture(study, ["residual"]) as found:
            forward(study, ids, mask)
        return (found["residual"][residual].float().cpu() @ vector - threshold).numpy(), spans

    for rows, (scores, places) in batches(study, items, 64, run):
        for row, values, place in zip(rows, scores, places, strict=True):
            inside = values[slice(*place.get(span, (0, 0)))]
            tokens = np.arange(len(inside))
            part = tokens / max(1, len(inside) - 1)
            parts.append(pd.DataFrame({"row": row, "token": tokens, "part": part, "score": inside}))
    return pd.concat(parts).sort_values(["row", "token"], ignore_index=True)


def token_scores(study: StudyModel, item: Encoded, probe: Probe, residual: int) -> np.ndarray:
    """The probe at every token of one conversation."""
    whole = replace(item, spans={**item.spans, "everything": (0, len(item.ids))})
    return trajectory(study, [whole], probe, residual, "everything")["score"].to_numpy()


def shared_states(study: StudyModel, texts: Sequence[str], span: str = "im_end") -> float:
    """The largest difference between the modes' states at a span before which the prompts are the same.

    A causal model cannot tell the modes apart there; the paper's Fig. 3 shows different curves at ``<|im_end|>``.
    """
    modes = [states_at(study, [study.chat.encode(text, mode) for text in texts], [span])[span]
             for mode in ("think", "no-think")]  # fmt: skip
    return float(np.abs(modes[0] - modes[1]).max())


def within_and_between(verdicts: pd.DataFrame, metric: str = "refused") -> dict[str, float]:
    """How much of a verdict's variance lies between thoughts and how much between replies to one thought.

    ``verdicts``: several samples per prompt, all after the same forced thought. ``between`` is the unbiased variance of
    the thoughts' true rates (one-way random effects), ``within`` the mean variance inside a thought, ``share`` the part
    of ``between`` in the total.
    """
    grouped = verdicts.groupby("prompt_id")[metric].agg(["mean", "size"]).astype(float)
    if (grouped["size"] < 2).any():
        raise UserError("variance within a thought needs at least two replies to each: raise n_samples")
    within = float((grouped["mean"] * (1 - grouped["mean"]) * grouped["size"] / (grouped["size"] - 1)).mean())
    between = max(0.0, float(grouped["mean"].var(ddof=1)) - within / float(grouped["size"].mean()))
    total = within + between
    return {"within": within, "between": between, "share": between / total if total else float("nan")}


# -- mechanism.separability ----------
SPANS = {
    "no-think": ("request", "im_end", "assistant", "think_open", "empty", "think_close", "last"),
    "think": ("request", "im_end", "assistant", "think_open", "thought_start", "thought", "think_close", "last"),
}
CONTRASTS = ("harm", "outcome")
SPLITS = ("calibration", "evaluation")
FEWEST, ENOUGH = 4, 10  # prompts that each side of a contrast needs in either split, and that make a set good enough
SHUFFLES, UNTRAINED = 40, 8  # probes with shuffled labels; models of random weights
FIRST_DRAW = 1000  # seed of the first of these: none is a model of noise that comes with the workbook


def observed(
    study: StudyModel, n: int | None = 92, seed: int = 0, progress: bool = False, evaluation: Evaluation = Evaluation()
) -> pd.DataFrame:
    """Verdicts in both modes and both splits, with the columns ``split`` and ``text``.

    Per split ``n`` harmful and ``n`` harmless requests (None: all), and twice as many harmful ones of the second safety
    set, where more models refuse some and fulfil some without thinking.

    A model that runs elsewhere gives no replies: rows are in no-think mode alone, whose prompts need none, and
    nothing is refused or fulfilled.
    """
    parts = []
    for split in SPLITS:
        second = evaluation.sets(["second-safety"], split=split)
        second = second[second["kind"] == "harmful"]
        prompts = evaluation.sets(["harmful", "harmless"], split=split, n=n, seed=seed)
        prompts = pd.concat([prompts, second if n is None else spread(second, 2 * n, seed)], ignore_index=True)
        if study.elsewhere:
            none = {"mode": "no-think", "thought": "", "refused": False, "misaligned": False}
            parts.append(prompts.assign(**none, split=split))
            continue
        verdicts = evaluation.observe(study, prompts, batch_size=320, seed=seed, progress=progress)
        parts.append(
            verdicts.assign(split=split, text=verdicts["prompt_id"].map(prompts.set_index("prompt_id")["text"]))
        )
    return pd.concat(parts, ignore_index=True)


@dataclass
class Side:
    """One split of a contrast; ``states``: ``{span: [residuals, prompts, hidden]}``, places that both groups have."""

    items: list[Encoded]
    states: dict[str, np.ndarray]
    positive: np.ndarray
    clusters: np.ndarray

    def at(self, span: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(states, positive, clusters)`` of the requests that have the place."""
        here = ~np.isnan(self.states[span][0]).any(-1)
        return self.states[span][:, here], self.positive[here], self.clusters[here]


@dataclass(frozen=True)
class Contrast:
    """Two groups in one mode; positive: harmful (``what`` "harm"), refused ("outcome"). ``source``: the prompt set."""

    what: str
    mode: str
    source: str
    calibration: Side
    evaluation: Side

    @property
    def name(self) -> str:
        return f"{self.what}, {self.mode}"

    def has(self, span: str) -> bool:
        """Whether both groups have the place in both splits (an unclosed thought leaves places empty)."""
        return span in self.calibration.states

    def probe(self, span: str) -> Probe:
        """Difference of means at a span, fitted on calibration (requests without the place left out)."""
        states, positive, _ = self.calibration.at(span)
        return fit(states, positive)

    def best_residual(self, span: str) -> int:
        """The residual where probes fitted on some verbs of the calibration split best rank the requests of others.

        From 1 on: the embeddings are left out, where the tokens of the template are alike in all requests.
        """
        from sklearn.model_selection import GroupKFold

        states, positive, clusters = self.calibration.at(span)
        scores, folds = np.zeros(states.shape[:2]), min(4, len(set(clusters)))
        for fitted, held in GroupKFold(folds).split(positive, groups=clusters) if folds > 1 else ():
            if not positive[fitted].all() and positive[fitted].any():
                scores[:, held] = fit(states[:, fitted], positive[fitted])(states[:, held])
        return 1 + int(np.argmax([auroc(row, positive).value for row in scores[1:]]))


def contrast(study: StudyModel, verdicts: pd.DataFrame, what: str, mode: str) -> Contrast:
    """Build a contrast from the verdicts of `observed`.

    The outcome is taken within one prompt set, since a probe could tell sets apart: the plain harmful requests if
    their rarer side has `ENOUGH` prompts, else the set whose rarer side has more. Raises ``UserError`` where all
    requests were refused, or all fulfilled (fewer than `FEWEST` on a side): the direction is then undefined.
    """
    here = verdicts[verdicts["mode"] == mode]
    if here.empty:
        raise UserError(f"there are no replies in {mode} mode, and its contexts hold the model's own thoughts")
    if what == "harm":
        source, rows = "harmful and harmless", here[here["set"].isin(["harmful", "harmless"])]
        rows = rows.assign(positive=rows["kind"] == "harmful")
    else:
        decided = here[(here["kind"] == "harmful") & (here["refused"] | here["misaligned"])]
        decided = decided.assign(positive=decided["refused"].astype(bool))
        sizes = {
            name: _rarest(group) for name, group in decided.groupby("set")
        }  # "harmful" first: max keeps it on ties
        source = max(sizes, key=lambda name: min(sizes[name], ENOUGH), default="")
        if sizes.get(source, 0) < FEWEST:
            counts = decided.groupby("set")["positive"].agg(["sum", "size"]).astype(int)
            said = "; ".join(f"{name}: {row['sum']} of {row['size']} refused" for name, row in counts.iterrows())
            raise UserError(f"refusal against fulfilment is undefined in {mode} mode ({said or 'no decided reply'})")
        rows = decided[decided["set"] == source]
    prompts = rows.drop_duplicates("prompt_id")[["prompt_id", "text"]]
    sides = [_side(study, rows[rows["split"] == split], prompts, mode) for split in SPLITS]
    usable = set.intersection(*map(_both_groups, sides))
    for side in sides:
        side.states = {span: states for span, states in side.states.items() if span in usable}
    return Contrast(what, mode, source, *sides)


def _both_groups(side: Side) -> set[str]:
    """The places at which both groups have somebody."""
    there = {span: ~np.isnan(states[0]).any(-1) for span, states in side.states.items()}
    return {span for span, here in there.items() if here[side.positive].any() and here[~side.positive].any()}


def _rarest(rows: pd.DataFrame) -> int:
    """Prompts on the rarer side, in the split that has fewer of them."""
    counts = [
        (rows.loc[rows["split"] == split, "positive"] == side).sum() for split in SPLITS for side in (True, False)
    ]
    return int(min(counts))


def _side(study: StudyModel, rows: pd.DataFrame, prompts: pd.DataFrame, mode: str) -> Side:
    items = with_first_token(contexts(study, rows, prompts))
    states = states_at(study, items, SPANS[mode])
    return Side(items, states, rows["positive"].to_numpy(dtype=bool), rows["cluster"].to_numpy())


def contrasts(study: StudyModel, verdicts: pd.DataFrame) -> tuple[dict[tuple[str, str], Contrast], list[str]]:
    """``{(what, mode): contrast}`` for all that are defined, and one sentence for each that is not."""
    found, undefined = {}, []
    for what in CONTRASTS:
        for mode in MODES:
            try:
                found[what, mode] = contrast(study, verdicts, what, mode)
            except UserError as error:
                undefined.append(f"{study.name}: {error}")
    return found, undefined


def maps(found: Iterable[Contrast]) -> pd.DataFrame:
    """`probes.separation` of every contrast, with columns ``what, mode`` in front."""
    tables = []
    for one in found:
        fitted, judged = one.calibration, one.evaluation
        table = separation(fitted.states, fitted.positive, judged.states, judged.positive, judged.clusters)
        tables.append(table.assign(what=one.what, mode=one.mode))
    return pd.concat(tables, ignore_index=True)


def above_threshold(harm: Contrast, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The paper's Fig. 3: the share of each group above the *harm* probe's threshold, by place and residual.

    Groups: harmless, refused and fulfilled requests of the evaluation split (``verdicts``: those of `observed`).
    Columns ``group, mode, span, residual, above`` (share), ``n``.
    """
    rows = verdicts[(verdicts["mode"] == harm.mode) & (verdicts["split"] == "evaluation")]
    rows = rows[rows["set"].isin(["harmful", "harmless"])]
    group = np.select(
        [rows["kind"] != "harmful", rows["refused"], rows["misaligned"]],
        ["harmless", "refused", "fulfilled"],
        "neither",
    )
    tables = []
    for span, states in harm.evaluation.states.items():
        above = harm.probe(span)(states) > 0
        for name in ("harmless", "refused", "fulfilled"):
            inside = (group == name) & ~np.isnan(states[0]).any(-1)
            if inside.any():
                shares = above[:, inside].mean(1)
                part = pd.DataFrame({"residual": range(len(shares)), "above": shares, "n": int(inside.sum())})
                tables.append(part.assign(group=name, mode=harm.mode, span=span))
    return pd.concat(tables, ignore_index=True)


def along_the_thought(study: StudyModel, outcome: Contrast, found: Iterable[Contrast], bins: int = 10) -> pd.DataFrame:
    """How well a probe at one place of the thought ranks refused above fulfilled requests, by how far the thought is.

    Each contrast of ``found`` gives one probe, that of the whole thought; the thoughts are those of ``outcome``'s
    evaluation split, cut into ``bins`` + 1 equal parts. Columns ``probe, part`` (0 to 1) and ``metric`` "auroc" with
    ``value, ci_low, ci_high, n, method``; intervals clustered by verb.
    """
    side, rows = outcome.evaluation, []
    for one in (one for one in found if one.has("thought")):
        path = trajectory(study, side.items, one.probe("thought"), one.best_residual("thought"))
        path["part"] = (path["part"] * bins).round() / bins
        for part, scores in path.groupby("part")[["row", "score"]]:
            mean = scores.groupby("row")["score"].mean()  # one number per thought that has a token there
            positive = side.positive[mean.index]
            if positive.all() or not positive.any():
                continue
            rate = auroc(mean.to_numpy(), positive, side.clusters[mean.index])
            rows.append({"probe": one.what, "part": part, "metric": "auroc", **rate._asdict()})
    return pd.DataFrame(rows)


# -- what the claims rest on --------------------------------------------------------------------------------


def separated(one: Contrast, span: str, seed: int = 0) -> dict:
    """How well a contrast separates at a place, above `SHUFFLES` probes with shuffled labels (their better side)."""
    residual, rng = one.best_residual(span), np.random.default_rng(seed)
    known, labels, _ = one.calibration.at(span)
    states, positive, clusters = one.evaluation.at(span)
    shuffled = [fit(known, rng.permutation(labels))(states)[residual] for _ in range(SHUFFLES)]
    found = auroc_above(one.probe(span)(states)[residual], np.stack(shuffled), positive, clusters)
    return {**found._asdict(), "span": span, "residual": residual}


def above_untrained(study: StudyModel, one: Contrast, span: str = "last", draws: int = UNTRAINED) -> dict:
    """How well a contrast separates at a place, above ``draws`` models of the same shape that have learned nothing.

    Words alone tell harmful from harmless requests to a degree, and random weights pass them on: what is above that is
    the model's. The interval covers other verbs *and which random weights one compares with* (a t interval for one
    more draw): random weights in the place of the model would leave it at zero 95 times in 100. Raises ``UserError``
    where the random weights do not fit beside the model.
    """
    states, positive, clusters = one.evaluation.at(span)
    residual = one.best_residual(span)
    others = np.stack([_untrained_scores(study, one, span, FIRST_DRAW + draw) for draw in range(draws)])
    found = auroc_above(one.probe(span)(states)[residual], others, positive, clusters, either_side=False)._asdict()
    low, high = against_singles(found["effect"], found["ci_low"], found["ci_high"], areas(others, positive))
    bounds = {"ci_low": max(-1.0, low), "ci_high": min(1.0, high), "p_value": np.nan}
    method = f"{found['method']}, and the spread of {draws} random weights"
    return {**found, **bounds, "method": method, "span": span, "residual": residual}


def _untrained_scores(study: StudyModel, one: Contrast, span: str, seed: int) -> np.ndarray:
    """What the same probe, fitted and chosen in the same way, says in a model of random weights."""
    other = untrained(study, seed)
    fitted, judged = (replace(side, states=states_at(other, side.items, [span]))
                      for side in (one.calibration, one.evaluation))  # fmt: skip
    same = replace(one, calibration=fitted, evaluation=judged)
    return same.probe(span)(same.evaluation.at(span)[0])[same.best_residual(span)]


def outside_and_inside(outcome: Contrast, outside: str = "im_end", inside: str = "thought") -> dict:
    """The area under the curve at a place outside the thought minus that of the thought's mean, on the same prompts."""
    places = (outside, inside)
    judged = outcome.evaluation
    scores = [outcome.probe(span)(judged.states[span])[outcome.best_residual(span)] for span in places]
    here = ~np.isnan(scores).any(0)
    found = auroc_above(
        scores[0][here], scores[1][here][None], judged.positive[here], judged.clusters[here], either_side=False
    )
    return {**found._asdict(), "outside": outside, "inside": inside}


# -- mechanism.separability_rows ----------
def harm_rows(study: StudyModel, found: dict[tuple[str, str], Contrast], *, model: str, **values) -> list[dict]:
    """The ledger row that gives the verdict of C3a: `above_untrained` at the last prompt token, no-think mode.

    None where that is undefined, or where random weights do not fit beside the model, which is then said.
    """
    if ("harm", "no-think") not in found:
        return []
    try:
        effect = above_untrained(study, found["harm", "no-think"])
    except UserError as error:
        print(f"C3a is left out: {error}")
        return []
    return [effect_row("C3a", effect, model=model, mode="no-think", **values)]


def probe_rows(found: dict[tuple[str, str], Contrast], *, model: str, **values) -> list[dict]:
    """The ledger rows of C3a to C3c above shuffled labels, as far as the contrasts are defined.

    The whole claims speak of the places that the paper names: C3b of the empty think span, in no-think mode, C3c of the
    end of the request against the thought. Other places and modes have rows of their own; for C3a see `harm_rows`.
    """
    rows = []

    def add(claim: str, effect: dict, mode: str, condition: str | None, control: str = "shuffled labels") -> None:
        part = {} if condition is None else {"condition": condition}
        rows.append(effect_row(claim, effect, model=model, mode=mode, control=control, **part, **values))

    claims = {"harm": "C3a", "outcome": "C3b"}
    for (what, mode), one in found.items():
        spans: Sequence[str] = ("im_end", "last") if what == "harm" else [s for s in SPANS[mode] if "thought" not in s]
        for span in filter(one.has, spans):
            whole = (what, mode, span) == ("outcome", "no-think", "empty")
            add(claims[what], separated(one, span), mode, None if whole else f"{mode}, {span}")
        if (what, mode) == ("outcome", "think") and one.has("thought"):
            for span in ("im_end", "last"):
                gap = outside_and_inside(one, span)
                add("C3c", gap, mode, None if span == "im_end" else f"{mode}, {span}", "inside the thought")
            start = separated(one, "thought_start")
            add("C3b", start, mode, "think, first token of the thought")
    return rows


# -- mechanism.steering ----------
SCALES = (0.25, 0.5, 1.0)  # of the distance between the two groups' means
COHERENT = 0.9  # share of coherent replies that adding a direction must leave, to be chosen


@dataclass(frozen=True)
class Steering:
    """Directions ``[residuals, hidden]`` taken out and put in, at every token and step; zero: none at that residual."""

    remove: np.ndarray
    add: np.ndarray


def unchanged(probe: Probe) -> Steering:
    """The model as it is."""
    return Steering(np.zeros_like(probe.vectors), np.zeros_like(probe.vectors))


def removed(probe: Probe) -> Steering:
    """Each residual's own direction projected out of it (before the first layer it can be zero: nothing to remove)."""
    return Steering(probe.vectors, np.zeros_like(probe.vectors))


def added(probe: Probe, residual: int, scale: float) -> Steering:
    """``scale`` times the direction of one residual added there."""
    add = np.zeros_like(probe.vectors)
    add[residual] = scale * probe.vectors[residual]
    return Steering(np.zeros_like(add), add)


def with_random(make: Callable[[Probe], Steering], probe: Probe, n_random: int = 40) -> dict[str, Steering]:
    """Conditions for `under`: ``nothing``, ``selected``, and ``random 0`` … with random directions.

    ``make``: `removed`, or `added` with its place filled in.
    """
    random = {f"{RANDOM} {seed}": make(random_probe(probe, seed)) for seed in range(n_random)}
    return {NOTHING: unchanged(probe), SELECTED: make(probe), **random}


def under(
    study: StudyModel, prompts: pd.DataFrame, conditions: Mapping[str, Steering], modes: Sequence[str] = ("no-think",),
    **generation,
) -> pd.DataFrame:  # fmt: skip
    """Verdicts on the prompts under each steering (column ``condition``), all generated together."""

    def together(chosen: list[Steering]):
        return steer_per_row(study, np.stack([one.remove for one in chosen]), np.stack([one.add for one in chosen]))

    return under_together(study, prompts, conditions, together, modes, **generation)


def places_to_add(
    study: StudyModel, prompts: pd.DataFrame, probe: Probe, mode: str = "no-think", scales: Sequence[float] = SCALES,
    **generation,
) -> pd.DataFrame:  # fmt: skip
    """What adding the direction does at every residual and scale, on harmless calibration prompts.

    Columns ``residual, scale, refused, coherent`` (shares of the replies).
    """
    places = list(product(range(1, len(probe.vectors)), scales))
    conditions = {f"{residual} {scale}": added(probe, residual, scale) for residual, scale in places}
    verdicts = under(study, prompts, conditions, [mode], **generation)
    found = verdicts.groupby("condition", sort=False)[["refused", "coherent"]].mean().loc[list(conditions)]
    return pd.DataFrame(places, columns=["residual", "scale"]).join(found.reset_index(drop=True))


def best_place(places: pd.DataFrame) -> tuple[int, float]:
    """``(residual, scale)`` with most refusals among those with `COHERENT` replies (or the most coherent one)."""
    kept = places[places["coherent"] >= min(COHERENT, places["coherent"].max())]
    best = kept.sort_values("refused", ascending=False, kind="stable").iloc[0]
    return int(best["residual"]), float(best["scale"])


def steering_row(claim: str, verdicts: pd.DataFrame, *, model: str, **values) -> dict:
    """The ledger row of one direction against random ones; ``verdicts``: under the conditions of `with_random`."""
    return effect_row(claim, against_random(verdicts), model=model, control="random directions", **values)
