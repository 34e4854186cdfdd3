"""Claim C3 (section 3.1 of the paper): where can harm and refusal be read, and are they used there?

C3a harmful and harmless requests are linearly separable; C3b refused and fulfilled ones separate at
tokens outside the thought, C3c less inside it; removing the direction of refusal (C3d) or of harm
(C3e) lowers refusals more than removing random ones, and that of harm raises misalignment (C3f).

Words: a *contrast* is two groups of requests: *harm* (harmful against harmless: the paper's) or
*outcome* (harmful ones that were refused against those that were fulfilled). A *span* is a part of
the conversation (`PROBED`), a *residual* the stream before or after a layer, a *place* one of each.
A *probe* is a difference of the groups' means with its midpoint as threshold (the paper's
equations): each place has its own, fitted on the calibration split and measured on the evaluation
split. A *direction* is a probe's vector; to *steer* is to take it out or add it (Arditi et al.
2024, arXiv 2406.11717). A *cluster*, which intervals draw again, is one verb with its prompts.

Steps: `observed` replies make `contrasts`; `separations`, how well each probe ranks the groups,
against shuffled labels; `outside_minus_inside` the thought; `above_untrained`, against random
weights; `directions` removed, against random ones (`without_directions`, `removal_effects`);
`competence`; `rows`. How states are read and changed inside a model is not known here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame

from rimkit.behavior.evaluation import NOTHING, RANDOM, SELECTED, against_random, under_together, why_not
from rimkit.behavior.judges import is_true
from rimkit.behavior.prompts import SPLITS, spread
from rimkit.behavior.refusal_score import contexts
from rimkit.behavior.stats import against_singles, areas, auroc, auroc_above, rate
from rimkit.data import UserError, check_index
from rimkit.experiments import Common, Found, Result, attempt, per_prompt, readable, result, testable, verdict_rows
from rimkit.models.activations import batches, capture, forward, mean_difference, read
from rimkit.models.chat import MODES, Encoded
from rimkit.models.hooks import architecture
from rimkit.models.interventions import steer_per_row
from rimkit.models.load import untrained
from rimkit.models.study import StudyModel

BEFORE = ("request", "im_end", "assistant", "think_open")
PROBED = {  # spans by mode
    "no-think": (*BEFORE, "empty", "think_close", "last"),
    "think": (*BEFORE, "thought_start", "thought", "think_close", "last"),
}
CONTRASTS = ("harm", "outcome")
STEERED = {"C3d": ("outcome", "refused"), "C3e": ("harm", "refused"), "C3f": ("harm", "misaligned")}
FEWEST, ENOUGH = 4, 10  # prompts that each side needs in either split, and that are enough of them
FIRST_DRAW = 1000  # seeds of random weights begin here: none that comes with the workbook
SCALES = (0.25, 0.5, 1.0)  # what is added, in distances between the two groups' means
N_HARMLESS = 10  # harmless calibration requests on which the place to add a direction is chosen
COHERENT = 0.9  # share of coherent replies that adding a direction must leave, to be chosen


@dataclass(frozen=True)
class Settings(Common):
    """How much is measured, and what it is compared with."""

    n_prompts: int | None = None  # harmful, and as many harmless, requests per split (None: all)
    n_steered: int = 46  # of the harmful ones at most, under each steering
    n_random: int = 40  # directions
    n_shuffled: int = 40  # labels
    n_untrained: int = 8  # models of random weights


@dataclass(frozen=True)
class Probe:
    """A direction and a threshold per residual: ``vectors [residuals, hidden]``, ``thresholds``."""

    vectors: np.ndarray
    thresholds: np.ndarray

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Scores ``[residuals, prompts]`` of states ``[residuals, prompts, hidden]``."""
        return np.einsum("rph,rh->rp", states, self.vectors) - self.thresholds[:, None]


def fit(states: np.ndarray, positive: np.ndarray) -> Probe:
    """Difference of means and midpoint threshold; ``UserError`` where all labels are the same."""
    vectors = mean_difference(states, positive)
    middle = states[:, np.asarray(positive, dtype=bool)].mean(1) - vectors / 2
    return Probe(vectors, np.einsum("rh,rh->r", vectors, middle))


def random_probe(like: Probe, seed: int = 0) -> Probe:
    """Random directions of the same length, threshold 0: a probe that has learned nothing."""
    vectors = np.random.default_rng(seed).normal(size=like.vectors.shape)
    length, own = (np.linalg.norm(each, axis=-1, keepdims=True) for each in (like.vectors, vectors))
    return Probe((vectors * (length / own)).astype(np.float32), np.zeros(len(vectors), np.float32))


def random_probes(like: Probe, n: int, seed: int) -> dict[str, Probe]:
    """``{"random 0": …}``: ``n`` of `random_probe`, others with every seed."""
    return {f"{RANDOM} {draw}": random_probe(like, seed * n + draw) for draw in range(n)}


def states_at(study: StudyModel, items: Sequence[Encoded], spans: Sequence[str]) -> dict[str, np.ndarray]:
    """Residuals averaged over spans, ``{span: [residuals, prompts, hidden]}``; NaN if missing."""
    found = read(study, items, ("residual",), spans)
    return {span: found["residual", span] for span in spans}


def with_first_token(items: Sequence[Encoded]) -> list[Encoded]:
    """The conversations with one more span, ``thought_start``: the first token of the thought."""
    starts = [item.spans.get("thought", (0, 0))[0] for item in items]
    return [
        replace(item, spans={**item.spans, "thought_start": (start, start + 1)}) if start else item
        for item, start in zip(items, starts, strict=True)
    ]


def observed(study: StudyModel, settings=Settings()) -> DataFrame:
    """Judged replies in both modes and splits, with ``split, text``. Also of the second safety set,
    twice as many, where more models refuse some and fulfil some without thinking. A model that runs
    elsewhere (`rimkit.models.ndif`) gives none: no-think prompts, nothing refused."""
    n, parts = settings.n_prompts, []
    for split in SPLITS:
        second = settings.sets(["second-safety"], split=split)
        second = second[second["kind"] == "harmful"]
        second = second if n is None else spread(second, 2 * n, settings.seed)
        first = settings.sets(["harmful", "harmless"], n, split)
        prompts = pd.concat([first, second], ignore_index=True)
        if study.elsewhere:
            judged = prompts.assign(mode="no-think", thought="", refused=False, misaligned=False)
        else:
            judged = settings.observe(study, prompts, batch_size=320)
            judged = judged.assign(text=judged["prompt_id"].map(prompts.set_index("prompt_id")["text"]))
        parts.append(judged.assign(split=split))
    return pd.concat(parts, ignore_index=True)


@dataclass
class SplitStates:
    """A contrast in one split; ``states``: ``{span: [residuals, prompts, hidden]}``."""

    items: list[Encoded]
    states: dict[str, np.ndarray]
    positive: np.ndarray
    clusters: np.ndarray

    def at(self, span: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(states, positive, clusters)`` of the requests that have the span."""
        here = ~np.isnan(self.states[span][0]).any(-1)
        return self.states[span][:, here], self.positive[here], self.clusters[here]


@dataclass(frozen=True)
class Contrast:
    """Two groups of requests in one mode."""

    what: str  # "harm" (positive: harmful) or "outcome" (positive: refused)
    mode: str
    source: str  # the prompt set
    calibration: SplitStates
    evaluation: SplitStates

    @property
    def name(self) -> str:
        return f"{self.what}, {self.mode}"

    @property
    def spans(self) -> list[str]:
        """The spans that both groups have in both splits (not what an unclosed thought lacks)."""

        def shared(span: str) -> bool:
            return all(len(set(getattr(self, name).at(span)[1])) == 2 for name in SPLITS)

        return [span for span in self.calibration.states if shared(span)]

    def probe(self, span: str) -> Probe:
        """Difference of means at a span, fitted on calibration."""
        return fit(*self.calibration.at(span)[:2])

    def cross_validated(self, span: str) -> np.ndarray:
        """AUROC of probes fitted on some calibration verbs, on the others: by residual, from 1."""
        from sklearn.model_selection import GroupKFold

        states, positive, clusters = self.calibration.at(span)
        ranked, folds = np.zeros(states.shape[:2]), min(4, len(set(clusters)))
        for fitted, held in GroupKFold(folds).split(positive, groups=clusters) if folds > 1 else ():
            if not positive[fitted].all() and positive[fitted].any():
                ranked[:, held] = fit(states[:, fitted], positive[fitted])(states[:, held])
        return areas(ranked[1:], positive)

    def best_residual(self, span: str) -> int:
        """The residual whose probe reads best by `cross_validated`."""
        return 1 + int(np.argmax(self.cross_validated(span)))

    def scored(self, span: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluation requests by the probe at its best residual: scores, positive, clusters."""
        states, positive, clusters = self.evaluation.at(span)
        return self.probe(span)(states)[self.best_residual(span)], positive, clusters


def contrast(study: StudyModel, judged: DataFrame, what: str, mode: str) -> Contrast:
    """Build a contrast from the replies of `observed`. The outcome is taken within one prompt set,
    since a probe could tell sets apart: the plain one if its rarer side has `ENOUGH` prompts, else
    the one whose rarer side has more. Raises ``UserError`` below `FEWEST` on a side."""
    here = judged[judged["mode"] == mode]
    if here.empty:
        raise UserError(f"there are no replies, with their own thoughts, in {mode} mode")
    if what == "harm":
        source, rows = "harmful and harmless", here[here["set"].isin(["harmful", "harmless"])]
        rows = rows.assign(positive=rows["kind"] == "harmful")
    else:
        clear = is_true(here["refused"]) | is_true(here["misaligned"])
        decided = here[(here["kind"] == "harmful") & clear]
        decided = decided.assign(positive=is_true(decided["refused"]))
        sides = pd.MultiIndex.from_product([SPLITS, (True, False)])
        if said := why_not(here[here["kind"] == "harmful"], "mode", [mode]):
            raise UserError(said)
        sizes = {  # of the rarer side, in the split that has fewer of them
            name: int(group.groupby(["split", "positive"]).size().reindex(sides, fill_value=0).min())
            for name, group in decided.groupby("set")
        }
        source = max(sizes, key=lambda name: min(sizes[name], ENOUGH), default="")  # ties: the first
        if sizes.get(source, 0) < FEWEST:
            counts = decided.groupby("set")["positive"].agg(["sum", "size"]).astype(int)
            each = [f"{name}: {n} of {size} refused" for name, n, size in counts.itertuples()]
            said = "; ".join(each) or "no decided reply"
            raise UserError(f"refusal against fulfilment is undefined in {mode} mode ({said})")
        rows = decided[decided["set"] == source]
    prompts, both = rows.drop_duplicates("prompt_id")[["prompt_id", "text"]], []
    for split in SPLITS:
        part = rows[rows["split"] == split]
        items = with_first_token(contexts(study, part, prompts))
        labels = part["positive"].to_numpy(dtype=bool), part["cluster"].to_numpy()
        both.append(SplitStates(items, states_at(study, items, PROBED[mode]), *labels))
    return Contrast(what, mode, source, *both)


Contrasts = Mapping[tuple[str, str], Contrast]  # by what and mode


def contrasts(study: StudyModel, judged: DataFrame) -> tuple[Contrasts, dict[tuple[str, str], str]]:
    """All that are defined, by what and mode, and a sentence for each that is not."""
    every = {key: attempt(contrast, study, judged, *key) for key in product(CONTRASTS, MODES)}
    undefined = {key: one for key, one in every.items() if isinstance(one, str)}
    return {key: one for key, one in every.items() if key not in undefined}, undefined


def _spans(defined: Contrasts) -> list[tuple[Contrast, str]]:
    return [(one, span) for one in defined.values() for span in one.spans]


def separated(one: Contrast, span: str, settings=Settings()) -> dict:
    """How well a contrast separates at a span, beside probes that have learned nothing. At the
    ``residual`` best on calibration: AUROC of the probe (``auroc, auroc_low, auroc_high``), with
    ``shuffled`` labels (mean), of ``logistic`` regression, of a ``random`` direction (better side);
    and ``effect, ci_low, ci_high, p_value`` of auroc minus shuffled."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    residual, rng = one.best_residual(span), np.random.default_rng(settings.seed)
    known, labels, _ = one.calibration.at(span)
    states, positive, clusters = one.evaluation.at(span)
    probe, draws = one.probe(span), range(settings.n_shuffled)
    own_scores = probe(states)[residual]
    shuffled = np.stack([fit(known, rng.permutation(labels))(states)[residual] for _ in draws])
    plain = auroc(own_scores, positive, clusters)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    logistic = model.fit(known[residual], labels).decision_function(states[residual])
    untaught = random_probe(probe, settings.seed)(states)[residual]
    logistic, random = areas(np.stack([logistic, untaught]), positive)
    found = auroc_above(own_scores, shuffled, positive, clusters, either_side=False)._asdict()
    place = {"what": one.what, "mode": one.mode, "source": one.source, "span": span, "residual": residual}
    own = {"auroc": found.pop("value_a"), "auroc_low": plain.ci_low, "auroc_high": plain.ci_high}
    others = {"shuffled": found.pop("value_b"), "logistic": logistic}
    return {**place, **own, **others, "random": max(random, 1 - random), **found}


def separations(defined: Contrasts, settings=Settings()) -> DataFrame:
    """`separated` for every contrast and span, one row each."""
    return DataFrame([separated(one, span, settings) for one, span in _spans(defined)])


def outside_minus_inside(outcome: Contrast | None) -> DataFrame:
    """AUROC at each span ``outside`` the thought minus that of its mean, same prompts; first the
    span that reads best on ``calibration`` requests. Empty if undefined."""
    rows, inside, spans = [], "thought", outcome.spans if outcome else ()
    for span in (at for at in spans if inside in spans and not at.startswith(inside)):
        new, known = outcome.evaluation, outcome.cross_validated(span).max()
        both = [outcome.probe(at)(new.states[at])[outcome.best_residual(at)] for at in (span, inside)]
        here = ~np.isnan(both).any(0)
        groups = both[1][here][None], new.positive[here], new.clusters[here]
        effect = auroc_above(both[0][here], *groups, either_side=False)
        rows.append({"mode": outcome.mode, "outside": span, "inside": inside, "calibration": known, **effect._asdict()})
    return DataFrame(sorted(rows, key=lambda row: -row["calibration"]))


def untrained_seeds(study: StudyModel, settings=Settings()) -> range:
    """The seeds of random weights with which a model is compared: its own, by its name, so that no
    two models share a lucky draw, and the same whatever ``settings.seed`` is."""
    first = FIRST_DRAW + crc32(study.name.encode()) % 10**6 * settings.n_untrained
    return range(first, first + settings.n_untrained)


def above_untrained(study: StudyModel, one: Contrast | None, settings=Settings()) -> Found:
    """How well a contrast separates at the last token, above random weights of the same shape.
    Words alone tell harmful from harmless requests to a degree, and random weights pass them on.
    The interval covers other verbs *and which random weights one compares with*: it holds zero for
    95 in 100 of them. A text where the contrast is undefined, or random weights do not fit."""
    if one is None:
        return "harmful against harmless requests is undefined in this mode"
    splits = {name: getattr(one, name) for name in SPLITS}

    def scores_in(other: StudyModel) -> np.ndarray:  # with a probe of its own
        states = {name: states_at(other, split.items, ["last"]) for name, split in splits.items()}
        its = {name: replace(split, states=states[name]) for name, split in splits.items()}
        return replace(one, **its).scored("last")[0]

    draws = untrained_seeds(study, settings)
    others = attempt(lambda: np.stack([scores_in(untrained(study, seed)) for seed in draws]))
    if isinstance(others, str):
        return f"not held against random weights: {others}"
    own_scores, positive, clusters = one.scored("last")
    found = auroc_above(own_scores, others, positive, clusters, either_side=False)._asdict()
    return against_singles(found, found["value_a"] - areas(others, positive), limit=1.0)


Steering = tuple[np.ndarray, np.ndarray]  # directions [residuals, hidden] taken out, and put in


def removed(probe: Probe) -> Steering:
    """Each residual's own direction projected out of it."""
    return probe.vectors, np.zeros_like(probe.vectors)


def unchanged(like: Probe) -> Steering:
    """Nothing taken out and nothing put in: the model as it is."""
    return np.zeros_like(like.vectors), np.zeros_like(like.vectors)


def added(probe: Probe, residual: int, scale: float) -> Steering:
    """``scale`` times the direction of one residual added there."""
    here = np.arange(len(probe.vectors))[:, None] == residual
    return np.zeros_like(probe.vectors), scale * here * probe.vectors


def steer(
    study: StudyModel, prompts: DataFrame, conditions: Mapping[str, Steering], settings=Settings(), **generation
) -> DataFrame:
    """Judged replies under each steering (column ``condition``), generated together."""

    def together(chosen: list[Steering]):
        return steer_per_row(study, *(np.stack(each) for each in zip(*chosen, strict=True)))

    # "about": what the conditions are, so that these replies are not taken for those of an ablation
    usual = {"max_new_tokens": 32, "about": b"steer", **settings.generation, **generation}
    return under_together(study, prompts, conditions, together, **usual)


def directions(defined: Contrasts) -> dict[str, Probe]:
    """Each contrast's probe at the last token, of no-think mode where it is defined there."""
    preferred = {what: defined.get((what, "no-think"), defined.get((what, "think"))) for what in CONTRASTS}
    return {what: one.probe("last") for what, one in preferred.items() if one}


def without_directions(study: StudyModel, used: Mapping[str, Probe], settings=Settings()) -> DataFrame:
    """Judged replies to harmful requests without each direction in ``used``, or random ones."""
    if not used:
        return DataFrame({"condition": []})
    n = min(settings.n_steered, settings.n_prompts or settings.n_steered)
    like = next(iter(used.values()))
    random = random_probes(like, settings.n_random, settings.seed)
    conditions = {name: removed(probe) for name, probe in {**used, **random}.items()}
    return steer(study, settings.sets(["harmful"], n), {NOTHING: unchanged(like), **conditions}, settings)


def removal_effects(judged: DataFrame, metric: str = "refused") -> DataFrame:
    """Each ``direction`` of `without_directions` against random ones: rows of `against_random`."""
    there, rows = [what for what in CONTRASTS if what in set(judged["condition"])], []
    for what in there:
        others = judged["condition"].isin(there) & (judged["condition"] != what)
        table = judged[~others].replace({"condition": {what: SELECTED}})
        rows.append({"direction": what, **against_random(table, metric)})
    return DataFrame(rows)


def competence(study: StudyModel, used: Mapping[str, Probe], settings=Settings()) -> DataFrame:
    """Calibration replies without each direction (the index), and without a random one. Columns
    ``read`` (share of readable replies to harmful requests, the least of untouched, without it and
    without the random one) and ``answered`` (harmless requests done, of those untouched)."""
    if not used:
        return DataFrame(columns=["read", "answered"])
    like = next(iter(used.values()))
    prompts = settings.sets(["harmful", "harmless"], settings.n_competence, "calibration")
    random = {RANDOM: random_probe(like, settings.seed)}
    conditions = {what: removed(probe) for what, probe in (used | random).items()}
    judged = steer(study, prompts, {NOTHING: unchanged(like), **conditions}, settings)
    shares = readable(judged[judged["kind"] == "harmful"], "condition")
    done = judged[judged["kind"] == "harmless"].groupby("condition")["score"].mean()
    least = np.minimum(shares, shares[[NOTHING, RANDOM]].min(skipna=False))
    return DataFrame({"read": least, "answered": done / (done[NOTHING] or np.nan)}).loc[list(used)]


def rows(
    study: StudyModel, undefined: Mapping, separated_at: DataFrame, gaps: DataFrame, above: Found, removals: Mapping,
    able: DataFrame, settings=Settings(),
) -> list[dict]:  # fmt: skip
    """The verdict rows of C3. From what `contrasts` leaves ``undefined``, `separations`,
    `outside_minus_inside`, `above_untrained`, `removal_effects` by metric, and `competence`."""

    def why(what: str, mode: str, otherwise: str) -> str:
        return "no replies: the model runs elsewhere" if study.elsewhere else undefined.get((what, mode), otherwise)

    asked = "what == 'outcome' and span == 'empty'"
    place = separated_at.query(asked) if len(separated_at) else separated_at
    renamed = place.rename(columns={"auroc": "value", "shuffled": "control_value"}).to_dict("records")
    inside = "thoughts are not read, or too short"
    claimed = [
        ("C3a", "no-think", above),
        ("C3b", "no-think", next(iter(renamed), why("outcome", "no-think", "no empty think span"))),
        ("C3c", "think", next(iter(gaps.to_dict("records")), why("outcome", "think", inside))),
    ]
    for claim, (what, metric) in STEERED.items():
        table = removals.get(metric, DataFrame())
        found = table[table["direction"] == what].to_dict("records") if len(table) else ()
        if found:
            floors = able.loc[what].rename({"answered": "reached"})
            claimed.append((claim, "no-think", testable(claim, found[0], **floors)))
        else:
            claimed.append((claim, "no-think", why(what, "no-think", "nothing was steered")))
    return verdict_rows(study, settings, claimed)


def run(study: StudyModel, settings=Settings()) -> Result:
    """What probes read, and what removing their directions does. Tables: ``probes`` (`separations`),
    ``probes-gaps`` (`outside_minus_inside`), ``probes-steering`` (`removal_effects`), and
    ``probes-steering-judged`` (the replies behind it, without texts)."""
    defined, undefined = contrasts(study, observed(study, settings))
    gaps = outside_minus_inside(defined.get(("outcome", "think")))
    above = above_untrained(study, defined.get(("harm", "no-think")), settings)
    used = {} if study.elsewhere else directions(defined)
    separated_at = separations(defined, settings)
    judged = without_directions(study, used, settings)
    removals = {metric: removal_effects(judged, metric) for metric in ("refused", "misaligned")}
    steering = pd.concat(removals.values(), ignore_index=True)
    tables = {"probes": separated_at, "probes-gaps": gaps, "probes-steering": steering}
    if used:
        tables["probes-steering-judged"] = per_prompt(judged, "condition")
    able = competence(study, used, settings)
    return result(study, tables, rows(study, undefined, separated_at, gaps, above, removals, able, settings))


# -- what only notebooks use -----------------------------------------------------------------------
def same_until(study: StudyModel, texts: Sequence[str], span: str = "im_end") -> bool:
    """Whether the prompts of both modes are the same tokens up to the end of a span."""
    pairs = [[study.chat.encode(text, mode) for mode in MODES] for text in texts]
    return all(a.ids[: a.spans[span][1]] == b.ids[: b.spans[span][1]] for a, b in pairs)


def areas_under_curve(defined: Contrasts) -> DataFrame:
    """How well every probe ranks the two groups: ``what, mode, span, residual, auroc``."""
    tables = []
    for one, span in _spans(defined):
        states, positive, _ = one.evaluation.at(span)
        table = DataFrame({"auroc": areas(one.probe(span)(states), positive)})
        tables.append(table.assign(what=one.what, mode=one.mode, span=span, residual=table.index))
    return pd.concat(tables, ignore_index=True)


def above_threshold(defined: Contrasts, judged: DataFrame) -> DataFrame:
    """The paper's Fig. 3: the share above the harm probe's threshold, with its interval: ``group,
    requests`` (the group and how many), ``mode, span, residual``."""
    tables = []
    for harm in (one for one in defined.values() if one.what == "harm"):
        rows = judged[(judged["mode"] == harm.mode) & (judged["split"] == "evaluation")]
        rows = rows[rows["set"].isin(["harmful", "harmless"])]
        group = np.select(
            [rows["kind"] != "harmful", is_true(rows["refused"]), is_true(rows["misaligned"])],
            ["harmless", "refused", "fulfilled"], "neither",
        )  # fmt: skip
        for span, name in product(harm.spans, ("harmless", "refused", "fulfilled")):
            states = harm.evaluation.states[span]
            inside = (group == name) & ~np.isnan(states[0]).any(-1)
            if inside.any():
                verbs, scored = harm.evaluation.clusters[inside], harm.probe(span)(states)[:, inside]
                above = DataFrame([rate(score > 0, verbs)._asdict() for score in scored])
                who = {"mode": harm.mode, "group": name}
                who["requests"] = f"{name} ({sum(group == name)})"
                tables.append(above.assign(span=span, residual=above.index, **who))
    return pd.concat(tables, ignore_index=True)


def trajectory(
    study: StudyModel, items: Sequence[Encoded], probe: Probe, residual: int, span: str | None = "thought"
) -> DataFrame:
    """The probe at every token of a span (None: of all): ``row`` (item)``, token, part, score``."""
    check_index("residual", residual, architecture(study).n_layers + 1)
    vector, threshold = torch.tensor(probe.vectors[residual]), float(probe.thresholds[residual])

    def run(ids, mask, spans):
        with torch.inference_mode(), capture(study, ["residual"]) as found:
            forward(study, ids, mask)
        return (found["residual"][residual].float().cpu() @ vector - threshold).numpy(), spans

    parts = []
    for rows, (by_row, places) in batches(study, items, run):
        for row, values, place in zip(rows, by_row, places, strict=True):
            score = values[slice(*place.get(span, (0, 0)) if span else (0, len(items[row].ids)))]
            tokens = np.arange(len(score))
            part = tokens / max(1, len(tokens) - 1)
            parts.append(DataFrame({"row": row, "token": tokens, "part": part, "score": score}))
    return pd.concat(parts).sort_values(["row", "token"], ignore_index=True)


def places_to_add(study: StudyModel, probe: Probe, settings=Settings()) -> DataFrame:
    """Shares ``refused, coherent`` of harmless calibration prompts by ``residual, scale`` added."""
    harmless = settings.sets(["harmless"], N_HARMLESS, "calibration")
    places = list(product(range(1, len(probe.vectors)), SCALES))
    conditions = {f"{at} {scale}": added(probe, at, scale) for at, scale in places}
    judged = steer(study, harmless, conditions, settings, max_new_tokens=24)  # one sentence
    shares = judged.groupby("condition")[["refused", "coherent"]].mean().loc[list(conditions)]
    return DataFrame(places, columns=["residual", "scale"]).join(shares.reset_index(drop=True))


def best_place(places: DataFrame) -> tuple[int, float]:
    """``(residual, scale)`` with most refusals, `COHERENT` replies (or the most coherent) left."""
    kept = places[places["coherent"] >= min(COHERENT, places["coherent"].max())]
    best = kept.sort_values("refused", ascending=False, kind="stable").iloc[0]
    return int(best["residual"]), float(best["scale"])


def removed_and_added(
    used: Mapping[str, Probe], places: Mapping[str, tuple[int, float]], seed: int = 0
) -> dict[str, Steering]:
    """For `steer`: nothing; each direction removed, added, and a random one added instead."""
    conditions = {NOTHING: unchanged(next(iter(used.values())))}
    for what, probe in used.items():
        conditions[f"{what} removed"] = removed(probe)
        conditions[f"{what} added"] = added(probe, *places[what])
        conditions[f"random for {what} added"] = added(random_probe(probe, seed), *places[what])
    return conditions
