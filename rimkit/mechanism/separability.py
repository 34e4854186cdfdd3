"""Claim C3 measured: which groups of requests can be told apart, at which place of the conversation and which layer.

Contrasts: *harm* (harmful against harmless requests; the paper's) and *outcome* (harmful requests that were refused
against those that were fulfilled). A probe is fitted on the calibration split and judged on the evaluation split, at
every place and residual by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rimkit.behavior.measure import load_sets, observe
from rimkit.behavior.prompts import spread
from rimkit.behavior.ranks import areas, auroc, auroc_above
from rimkit.errors import UserError
from rimkit.mechanism import probes
from rimkit.mechanism.readout import contexts
from rimkit.mechanism.sets import against_singles
from rimkit.models.chat import MODES, Encoded
from rimkit.models.loading import StudyModel
from rimkit.models.untrained import untrained

SPANS = {
    "no-think": ("request", "im_end", "assistant", "think_open", "empty", "think_close", "last"),
    "think": ("request", "im_end", "assistant", "think_open", "thought_start", "thought", "think_close", "last"),
}
CONTRASTS = ("harm", "outcome")
SPLITS = ("calibration", "evaluation")
FEWEST, ENOUGH = 4, 10  # prompts that each side of a contrast needs in either split, and that make a set good enough
SHUFFLES, UNTRAINED = 40, 8  # probes with shuffled labels; models of random weights
FIRST_DRAW = 1000  # seed of the first of these: none is a model of noise that comes with the workbook


def observed(study: StudyModel, n: int | None = 92, seed: int = 0, progress: bool = False) -> pd.DataFrame:
    """Verdicts in both modes and both splits, with the columns ``split`` and ``text``.

    Per split ``n`` harmful and ``n`` harmless requests (None: all), and twice as many harmful ones of the second safety
    set, where more models refuse some and fulfil some without thinking.

    A model that runs elsewhere gives no replies: rows are in no-think mode alone, whose prompts need none, and
    nothing is refused or fulfilled.
    """
    parts = []
    for split in SPLITS:
        second = load_sets(["second-safety"], split=split)
        second = second[second["kind"] == "harmful"]
        prompts = load_sets(["harmful", "harmless"], split=split, n=n, seed=seed)
        prompts = pd.concat([prompts, second if n is None else spread(second, 2 * n, seed)], ignore_index=True)
        if study.elsewhere:
            none = {"mode": "no-think", "thought": "", "refused": False, "misaligned": False}
            parts.append(prompts.assign(**none, split=split))
            continue
        verdicts = observe(study, prompts, batch_size=320, seed=seed, progress=progress)
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

    def probe(self, span: str) -> probes.Probe:
        """Difference of means at a span, fitted on calibration (requests without the place left out)."""
        states, positive, _ = self.calibration.at(span)
        return probes.fit(states, positive)

    def best_residual(self, span: str) -> int:
        """The residual where probes fitted on some verbs of the calibration split best rank the requests of others.

        From 1 on: the embeddings are left out, where the tokens of the template are alike in all requests.
        """
        from sklearn.model_selection import GroupKFold

        states, positive, clusters = self.calibration.at(span)
        scores, folds = np.zeros(states.shape[:2]), min(4, len(set(clusters)))
        for fitted, held in GroupKFold(folds).split(positive, groups=clusters) if folds > 1 else ():
            if not positive[fitted].all() and positive[fitted].any():
                scores[:, held] = probes.fit(states[:, fitted], positive[fitted])(states[:, held])
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
    items = probes.with_first_token(contexts(study, rows, prompts))
    states = probes.states_at(study, items, SPANS[mode])
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
        table = probes.separation(fitted.states, fitted.positive, judged.states, judged.positive, judged.clusters)
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
        path = probes.trajectory(study, side.items, one.probe("thought"), one.best_residual("thought"))
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
    shuffled = [probes.fit(known, rng.permutation(labels))(states)[residual] for _ in range(SHUFFLES)]
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
    fitted, judged = (replace(side, states=probes.states_at(other, side.items, [span]))
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
