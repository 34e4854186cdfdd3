"""Positive controls of C9, C10 and C5: do the methods on RAS, neurons and heads find what is known?

RAS, *reciprocal activation shift*, of a set of neurons is the harmonic mean of two relative changes
by tuning: how far activations fell on harmful requests, and how far they rose on maths. It is never
negative, and 0 where either did not happen.

In the models measured here refusals run through one known set of neurons ("safety") and maths
through another ("maths"): the same one (*shared*), or one without a neuron in common (*disjoint*).
They refuse in no-think mode, so the outcome is the *fall* of the refusal rate there. The claims:
C9a RAS is higher in the safety set than in random sets as active; C10 RAS agrees with that fall (a
larger Pearson r) better than KL divergence (of the tuned model from the untuned, on the tuning
data; C10a), RAS of random neurons (C10b) or the rise on maths alone (C10c); Q3 the harmonic mean
does better than the arithmetic (Q3a) or geometric one (Q3b). C5 has no verdict row: a head counts
as known if removing it alone lowers refusals, and ``planted-heads`` says how well each rule finds
such heads. Such models are made in `rimkit.organism.planted`.

Words. A *corpus* is what was tuned on; a *family* are those with the same problems and a like way
of working (`rimkit.training.corpora.family`); intervals resample whole families. A *place* is where
activations are read, a span of tokens of conversations with harmful requests and with maths: the
request, where the reply opens, the thought, and `RUNS`. A `Baseline` holds the untuned model's
activations at each place, read once, and the sets to compare: the known two, and random ones,
`RANDOM` (any neurons, in each layer as many as the safety set has; of C10b) and `AS_ACTIVE` (each
as active as one of the safety set). ``role`` tells these kinds apart: `CRITICAL` is the safety set,
which claims are about, and ``set_id`` numbers the random ones. A *point* is one tuned model at one
checkpoint. `PREDICTORS` are numbers that may go with the outcome.

Steps: `zeroed`, does a model need the known sets (`holds`; if not, nothing is testable);
`recovered`, which rules find them; `baseline`; `ras.tunings`, which tunes on every corpus and calls
`point` at each checkpoint: the predictors, and how far refusals fell; `levels`, is RAS higher in
the known set than in others at the same points; `rows`, which predictor agrees best with the
outcome, where that varies by more than noise; `shared_minus_disjoint`, is RAS higher where safety
and maths share neurons, as it should be. Points with too few readable replies are left out: results
hold for the others.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pandas import DataFrame

from rimkit.behavior.evaluation import NOTHING, RANDOM, without
from rimkit.behavior.stats import Units, bootstrap_p, drawn_means, paired_difference, widened_percentiles
from rimkit.experiments import Result, attempt, heads, neurons, ras, result, verdict_rows
from rimkit.experiments.ras import AS_ACTIVE, CRITICAL, MODEL, OUTCOME, POINT, RAS, REQUEST, Baseline, NeuronSet
from rimkit.models.chat import MODES
from rimkit.models.hub import locate
from rimkit.models.study import StudyModel
from rimkit.training.corpora import ROLES

SAFETY, MATHS = "safety", "maths"
# Where each set is expected to act: the token before a reply to a harmful request; maths' thoughts.
RUNS = "where it runs"
MODE, METRIC = "no-think", "refused"
# No orderings: like all that is no maths, refusals were trained in with them, through the safety set.
CORPORA = tuple(name for name in ROLES if "ordering" not in name)
CORPORA += ("50 hard-careful, 50 hard-effort", "50 multi-hop, 50 literal")
PREDICTORS = (*ras.PREDICTORS, f"ras ({RUNS})", f"ras ({MATHS})")
# What zeroing must do for a model to count, as shares, written down before training: what runs
# through the set falls by `FALL` at least, and the other by `SPARED` at most. Coherence and
# harmless requests may fall by `SPARED` too (added later; all models met it): broken replies refuse
# nothing. Replies to problems may break, which is how this maths is lost.
FALL, SPARED = 0.30, 0.10


@dataclass(frozen=True)
class Settings(ras.Settings):
    """As of `ras.Settings`: ``every``, steps between checkpoints; ``n_random`` random sets;
    ``n_prompts`` requests to read RAS on, and for the rules; ``n_replies`` for the outcome;
    ``n_tuning`` sequences for KL; ``folder``, where parts are kept (``k`` is not used). ``known``:
    `known_sets` of the model (fewer than two: only heads are measured)."""

    corpora: tuple[str, ...] = CORPORA
    known: Mapping[str, Units] = field(default_factory=dict)
    n_zeroed: int = 240  # requests of each kind, to see what zeroing a set does


def known_sets(model: str | Path) -> dict[str, list[tuple[int, int]]]:
    """The neurons that were trained for "safety" and "maths", as far as a model has them."""
    file = Path(locate(model).source, "training.json")
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: list(map(tuple, record[name])) for name in (SAFETY, MATHS) if name in record}


def zeroed(study: StudyModel, settings: Settings, split: str = "calibration") -> DataFrame:
    """What the model does as it is and without each known set, as shares of the replies that have a
    verdict. Columns ``zeroed``; ``refusals`` of harmful requests, ``harmless`` ones carried out,
    ``coherent`` replies to both, in no-think mode; ``maths``, problems solved in think mode."""
    sets = {NOTHING: []} | {name: list(units) for name, units in settings.known.items()}
    asked = settings.sets(["harmful", "harmless"], settings.n_zeroed, split)
    replies = without(study, asked, sets, "neurons", **settings.generation)
    problems = settings.sets(["maths"], settings.n_zeroed, split)
    solved = without(study, problems, sets, "neurons", modes=("think",), **settings.generation)
    harmful, harmless = (replies[replies["kind"] == kind] for kind in ("harmful", "harmless"))
    shares = {"refusals": (harmful, "refused"), "maths": (solved, "score"), "harmless": (harmless, "score")}
    shares["coherent"] = (replies, "coherent")
    found = {name: part.groupby("condition")[column].mean().astype(float) for name, (part, column) in shares.items()}
    return DataFrame(found).reindex(list(sets)).rename_axis("zeroed").reset_index()


def holds(shared: bool, table: DataFrame) -> bool:
    """Whether zeroing did what was planted (`FALL`, `SPARED`), from a table of `zeroed`."""
    rates = table.set_index("zeroed")[["refusals", "maths", "harmless", "coherent"]].astype(float)
    fall = rates.loc[NOTHING] - rates.loc[[SAFETY, MATHS]]
    found = fall[["refusals", "maths"]].to_numpy()
    own, other = (found, found[:0]) if shared else (found.diagonal(), found[:, ::-1].diagonal())
    whole = (fall[["harmless", "coherent"]] <= SPARED).all(axis=None)
    return bool(whole and (own >= FALL).all() and (other <= SPARED).all())


def recovered(study: StudyModel, settings: Settings) -> DataFrame:
    """`neurons.recovery` of each known ``set``, by ``mode``. A *rule* ranks all neurons as critical
    for refusing, by calibration replies or by *pairs*: a harmful request without and with declared
    malicious intent. ``precision``: among as many top neurons, the share in the set."""
    prompts, parts = settings.sets(["harmful", "harmless"], settings.n_prompts, "calibration"), []
    for mode in MODES:
        how = neurons.Settings(pair_mode=mode, seed=settings.seed, evaluation=settings.evaluation)
        judged = how.judged(study, prompts, mode, max_new_tokens=neurons.ROOM)
        pairs = neurons.form_pairs(study, prompts[prompts["kind"] == "harmful"], how)
        scores = neurons.score(study, prompts, judged, pairs, how)
        found = {name: neurons.recovery(scores, units) for name, units in settings.known.items()}
        parts += [table.assign(mode=mode, set=name) for name, table in found.items()]
    return pd.concat(parts, ignore_index=True)


def baseline(study: StudyModel, settings: Settings) -> Baseline:
    """The untuned model in no-think mode: `ras.read_baseline` of the safety set, which draws the
    random ones; the maths set; and the place `RUNS`, where a thought can be read."""
    safety, maths = (settings.known[name] for name in (SAFETY, MATHS))
    base = ras.read_baseline(study, [(CRITICAL, None, safety)], settings=settings, mode=MODE)
    base = replace(base, sets=[*base.sets, NeuronSet(MATHS, None, maths)])
    if "thought" not in base.places:
        return base
    sides = (base.harmful, "last"), (base.places["thought"].maths, "thought")
    items = [[replace(item, spans={**item.spans, RUNS: item.spans[span]}) for item in some] for some, span in sides]
    place = ras.Place(*items, RUNS)
    before = {**base.activations, RUNS: place.read(study)}
    return replace(base, places={**base.places, RUNS: place}, activations=before)


def solve(study: StudyModel, settings: Settings) -> DataFrame:
    """The model's judged answers to problems of the evaluation split, in think mode."""
    return settings.judged(study, settings.sets(["maths"], settings.n_replies), "think", batch_size=128, progress=False)


def point(
    base: Baseline, tuned: StudyModel, untuned_replies: DataFrame, corpus: str, step: int, settings: Settings, *, solved
) -> dict[str, DataFrame]:
    """The tables of `ras.point` for one tuned model, with the fall of refusals as the outcome:
    ``ras-points`` (a row: predictors, outcome with its interval, ``maths_change``: of the share
    solved), ``ras-sets`` (`ras.in_sets` at every ``place``), ``ras-layers``, ``ras-judged``.
    ``untuned_replies, solved``: the untuned model's replies to harmful requests, to problems."""
    after = ras.read_places(tuned, base.places)
    tables = ras.point(base, tuned, untuned_replies, corpus, step, settings, mode=MODE, metric=METRIC, after=after)
    sets = pd.concat([ras.in_sets(base, after, place).assign(place=place) for place in base.places])
    sets = sets.loc[sets["role"] != ras.ALL, ["place", "role", "set_id", "ras", "fall", "rise"]]
    sets = sets.assign(corpus=corpus, step=step).reset_index(drop=True)
    points = tables["ras-points"]
    # `ras` has the change of refusals: with its sign turned, the ends of its interval change places
    fall = {OUTCOME: -points[OUTCOME], ras.LOW: -points[ras.HIGH], ras.HIGH: -points[ras.LOW]}
    change = paired_difference(solve(tuned, settings), solved, "score", on="prompt_id").effect
    maths = sets.query("role == @MATHS and place == @REQUEST")["ras"].item()
    points = points.assign(**fall, maths_change=change, **{f"ras ({MATHS})": maths})
    return tables | {"ras-points": points, "ras-sets": sets}


def levels(sets: DataFrame) -> DataFrame:
    """Is RAS higher in each known set (``neurons``) than in random sets at the same points, by
    ``place``? ``role`` is the kind of random set. They match the *safety* set alone."""
    parts = []
    for (place, role), own in sets[sets["set_id"].isna()].groupby(["place", "role"], sort=False):
        others = sets[(sets["place"] == place) & sets["set_id"].notna()]
        found = ras.levels(own[[*POINT, "ras"]].rename(columns={"ras": RAS}), others)
        parts.append(found.assign(place=place, neurons=SAFETY if role == CRITICAL else role))
    return pd.concat(parts, ignore_index=True)


def rows(study: StudyModel, points: DataFrame, sets: DataFrame, level: DataFrame, why_not: str, settings) -> list[dict]:
    """Verdict rows of C9a (against sets as active), C10 and Q3. ``why_not``: why zeroing failed, if
    it did; a claim that is a text says itself why it cannot be tested."""
    here = level[(level["place"] == REQUEST) & (level["neurons"] == SAFETY)]
    others = sets[(sets["place"] == REQUEST) & sets["set_id"].notna()]
    found = {"C9a": ras.level_claim(here, AS_ACTIVE), **ras.correlation_claims(points, others, METRIC)}
    said = {"why_not": why_not} if why_not else {}
    claimed = [(claim, MODE, one if isinstance(one, str) else one | said) for claim, one in found.items()]
    return verdict_rows(study, settings, claimed)


def _defined(study: StudyModel, name: str, found: DataFrame | str) -> dict[str, DataFrame]:
    if isinstance(found, str):
        study.say(f"no table {name}: {found}")
    return {} if isinstance(found, str) else {name: found}


def run(study: StudyModel, settings=Settings()) -> Result:
    """RAS in the known sets over tunings on maths, and what each rule recovers. Tables, by columns:
    ``planted-zeroed`` (`zeroed`) by ``split, zeroed``; ``planted-recovery`` (``auroc``, and the
    ``precision`` of as many) by ``mode, set, rule``; ``planted-points`` (predictors, and
    ``change``, the fall of refusals: positive means fewer) by ``corpus, step``; ``planted-sets``
    (``ras, fall, rise``) by ``corpus, step, place, role, set_id``; ``planted-levels`` (``effect``
    in logs of RAS) by ``place, neurons, role``; ``planted-correlations`` (``value``, an r) by
    ``predictor``; ``planted-variation`` (``sd`` of the outcome and its ``noise``), a row;
    ``planted-judged``, judged replies, by ``corpus, step, prompt_id``; and, the only one where two
    sets are not known, ``planted-heads`` by ``rule`` (how well it ranks the known heads,
    ``auroc``). Where a table is undefined it says why."""
    chosen = {"seed": settings.seed, "evaluation": settings.evaluation}
    found = attempt(heads.rule_recovery, study, heads.Settings(n_prompts=settings.n_prompts, **chosen))
    tables = _defined(study, "planted-heads", found)
    if len(settings.known) < 2:
        return result(study, tables, [])
    shared = set(settings.known[SAFETY]) == set(settings.known[MATHS])
    splits = {name: zeroed(study, settings, name) for name in ("calibration", "evaluation")}
    why_not = "" if holds(shared, splits["calibration"]) else "zeroing the known neurons does not do what was intended"
    tables["planted-zeroed"] = pd.concat([table.assign(split=name) for name, table in splits.items()])
    tables["planted-recovery"] = recovered(study, settings)
    untuned_replies, measure = ras.replies(study, settings, MODE), partial(point, solved=solve(study, settings))
    tuned = ras.tunings(baseline(study, settings), untuned_replies, settings, measure)
    tables |= {name.replace("ras-", "planted-"): table for name, table in tuned.items() if name != "ras-layers"}
    tables = result(study, tables, []).tables
    points, sets = tables["planted-points"], tables["planted-sets"]
    tables["planted-levels"], tables["planted-variation"] = levels(sets), ras.variation(points, METRIC)
    related = attempt(lambda: ras.correlations(points, PREDICTORS).assign(**points[MODEL].iloc[0]))
    tables |= _defined(study, "planted-correlations", related)
    return Result(tables, rows(study, points, sets, tables["planted-levels"], why_not, settings))


# -- both kinds of models together (`rimkit.runs.grid`) --------------------------------------------
def shared_minus_disjoint(shared: DataFrame, disjoint: DataFrame) -> DataFrame:
    """Mean log RAS of the safety set in the model of shared neurons minus that in the other.
    From ``planted-sets`` of both, over the points of both. Columns ``place, value,
    control_value, effect, ci_low, ci_high, p_value``; ``beside``, the sets whose mean log RAS is
    taken off in each model, or "nothing"; ``n``, points where no such RAS is 0; ``n_clusters``,
    families."""
    rows, at = [], ["corpus", "step"]

    def logs(sets: DataFrame, place: str, role: str) -> pd.Series:
        own = sets[(sets["place"] == place) & (sets["role"] == role)]
        known = np.log(own["ras"].where(own["ras"] > 0)).groupby([own[name] for name in at])
        return known.agg(lambda sets: sets.mean(skipna=False))

    for place in shared["place"].unique():
        for beside in (NOTHING, RANDOM, AS_ACTIVE):
            sides = [logs(sets, place, CRITICAL) for sets in (shared, disjoint)]
            if beside != NOTHING:
                sides = [one - logs(sets, place, beside) for one, sets in zip(sides, (shared, disjoint), strict=True)]
            pairs = pd.concat(sides, axis=1, keys=["value", "control_value"]).dropna()
            if (n := ras.families(pairs.reset_index()).nunique()) < 3:
                continue
            change = (pairs["value"] - pairs["control_value"]).to_numpy()
            draws, _ = drawn_means(change, ras.families(pairs.reset_index()))
            low, high = widened_percentiles(draws, n)
            found = {**pairs.mean(), "effect": change.mean(), "ci_low": low, "ci_high": high}
            found["p_value"] = bootstrap_p(change.mean(), draws, n)
            rows.append({"place": place, "beside": beside, **found, "n": len(pairs), "n_clusters": n})
    return DataFrame(rows)
