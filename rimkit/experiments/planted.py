"""Positive controls of C9, C10 and C5: do the methods on RAS, neurons and heads find what is known?

Measured are models in which refusals run through one known set of neurons ("safety") and maths
through another ("maths"): the same one (*shared*), or one without a neuron in common (*disjoint*).
They refuse in no-think mode, so the outcome is the *fall* of the refusal rate there. The claims:
C9a RAS is higher in the known set than in others about as active; C10 it predicts that fall better
than KL divergence (of the tuned model from the untuned, on the tuning data; C10a), RAS of random
neurons (C10b) and the rise of maths alone (C10c) do, and Q3, with the harmonic mean, better than
with the arithmetic (Q3a) or geometric one (Q3b). C5 has no row: heads are known to matter if the
removal of that head alone lowers refusals, and ``planted-heads`` says how well each rule finds
those. How such models are made is not known here (`rimkit.organism.planted`).

Words: RAS, *reciprocal activation shift*, is the harmonic mean of the fall of activations on harmful
requests and their rise on maths. A *corpus* is what was tuned on; those with the same problems are
a *family*, which intervals draw again. The *baseline* is the untuned model's neurons, read once at
each *place*: the request, where the reply opens, the thought, and `RUNS`, where RAS has the best
chance. A *point* is one tuned model at one checkpoint. The *role* of a set is ``CRITICAL`` for the
safety set, which claims are about, and "maths" for the other; ``set_id`` numbers random ones.

Steps: `zeroed`, does a model need the known sets (`holds`; if not, nothing is testable);
`recovered`, which rules find them; `baseline`; `point`, RAS, its rivals and the outcome's change at
a checkpoint of a tuning; `levels`, is RAS higher in the known set; `rows`, which number agrees best
with the outcome, where that varies by more than noise. Points with too few readable replies are
left out: what the others would have said is not known.
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
# Where training sent it through the known neurons: the token before a harmful request's reply; the thought.
RUNS = "where it runs"
MODE, METRIC = "no-think", "refused"
# Maths alone: no orderings, which other neurons were trained on, and no safety.
CORPORA = tuple(name for name in ROLES if "ordering" not in name)
CORPORA += ("50 hard-careful, 50 hard-effort", "50 multi-hop, 50 literal")
PREDICTORS = (*ras.PREDICTORS, f"ras ({RUNS})", f"ras ({MATHS})")
# What zeroing must do for a model to count, as shares, written down before training: what runs
# through the set falls by so much at least, and the other by so much at most.
FALL, SPARED = 0.30, 0.10


@dataclass(frozen=True)
class Settings(ras.Settings):
    """As of `ras.Settings`: ``every``, steps between checkpoints; ``n_random`` random sets;
    ``n_prompts`` requests to read RAS on, and for the rules; ``n_replies`` for the outcome;
    ``n_tuning`` sequences for KL; ``folder``, where parts are kept (``k`` is not used). ``known``:
    `known_sets` of the model (none: only heads are measured)."""

    corpora: tuple[str, ...] = CORPORA
    known: Mapping[str, Units] = field(default_factory=dict)
    n_zeroed: int = 240  # requests of each kind, to see what zeroing a set does


def known_sets(model: str | Path) -> dict[str, list[tuple[int, int]]]:
    """The neurons that were trained for "safety" and "maths", as far as a model has them."""
    file = Path(locate(model).source, "training.json")
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: list(map(tuple, record[name])) for name in (SAFETY, MATHS) if name in record}


def zeroed(study: StudyModel, settings: Settings, split: str = "calibration") -> DataFrame:
    """What the model does as it is and without each known set: columns ``zeroed, refusals, maths,
    harmless, coherent``, shares: harmful requests refused, easy problems solved (in think mode),
    harmless requests carried out, coherent replies (the others in no-think mode)."""
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
    fall = table.set_index("zeroed")[["refusals", "maths"]].astype(float)
    fall = fall.loc[NOTHING] - fall.drop(index=NOTHING)
    if shared:
        return bool((fall >= FALL).all(axis=None))
    own = min(fall.loc[SAFETY, "refusals"], fall.loc[MATHS, "maths"])
    return bool(own >= FALL and max(fall.loc[SAFETY, "maths"], fall.loc[MATHS, "refusals"]) <= SPARED)


def recovered(study: StudyModel, settings: Settings) -> DataFrame:
    """`neurons.recovery` of each known ``set``, by ``mode``. A *rule* ranks all neurons as critical
    for refusing, by calibration replies or by *pairs*: a harmful request without and with declared
    malicious intent."""
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
    """The untuned model in no-think mode: known sets, random ones, as active ones; place `RUNS`."""
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
    """`ras.point` whose outcome is the fall of refusals; ``solved``: what the untuned model solves.
    ``maths_change`` joins the points, and ``ras-sets`` holds `ras.in_sets` at every ``place``."""
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
    """Is RAS higher in each known set (``neurons``) than in ones like the *safety* set, by ``place``?"""
    parts = []
    for (place, role), own in sets[sets["set_id"].isna()].groupby(["place", "role"], sort=False):
        others = sets[(sets["place"] == place) & sets["set_id"].notna()]
        found = ras.levels(own[[*POINT, "ras"]].rename(columns={"ras": RAS}), others)
        parts.append(found.assign(place=place, neurons=SAFETY if role == CRITICAL else role))
    return pd.concat(parts, ignore_index=True)


def rows(study: StudyModel, points: DataFrame, sets: DataFrame, level: DataFrame, why_not: str, settings) -> list[dict]:
    """Verdict rows of C9a (against as active sets), C10, Q3; ``why_not``: zeroing failed."""
    here = level[(level["place"] == REQUEST) & (level["neurons"] == SAFETY)]
    others = sets[(sets["place"] == REQUEST) & sets["set_id"].notna()]
    found = {"C9a": ras.level_claim(here, AS_ACTIVE), **ras.correlation_claims(points, others, METRIC)}
    said = {"why_not": why_not} if why_not else {}
    claimed = [(claim, MODE, one if isinstance(one, str) else one | said) for claim, one in found.items()]
    return verdict_rows(study, settings, claimed)


def run(study: StudyModel, settings=Settings()) -> Result:
    """RAS in the known sets over tunings on maths, and what each rule recovers. Tables, by columns:
    ``planted-zeroed`` (`zeroed`) by ``split, zeroed``; ``planted-recovery`` (``auroc``, and the
    ``precision`` of as many) by ``mode, set, rule``; ``planted-points`` (predictors, and
    ``change``, the fall of refusals: positive means fewer) by ``corpus, step``; ``planted-sets``
    (``ras, fall, rise``) by ``corpus, step, place, role, set_id``; ``planted-levels`` (``effect``
    in logs of RAS) by ``place, neurons, role``; ``planted-correlations`` (``value``, an r) by
    ``predictor``; ``planted-variation`` (``sd`` of the outcome and its ``noise``), a row;
    ``planted-judged`` by ``corpus, step, prompt_id``; and, all that there is for models in which
    nothing was planted, ``planted-heads`` (`heads.rule_recovery`) by ``rule``."""
    chosen = {"seed": settings.seed, "evaluation": settings.evaluation}
    found = attempt(heads.rule_recovery, study, heads.Settings(n_prompts=settings.n_prompts, **chosen))
    tables = {} if isinstance(found, str) else {"planted-heads": found}
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
    related = attempt(ras.correlations, points, PREDICTORS)
    if not isinstance(related, str):
        tables["planted-correlations"] = related.assign(**points[MODEL].iloc[0])
    return Result(tables, rows(study, points, sets, tables["planted-levels"], why_not, settings))


# -- both kinds of models together (`rimkit.runs.grid`) --------------------------------------------
def shared_minus_disjoint(shared: DataFrame, disjoint: DataFrame) -> DataFrame:
    """Mean log RAS of the safety set in the model of shared neurons minus that in the other.
    From ``planted-sets`` of both, over the points of both. Columns ``place, beside`` (the sets
    whose mean log RAS is taken off in each model, or "nothing")``, value, control_value, effect,
    ci_low, ci_high, p_value, n`` (points where neither is 0)``, n_clusters`` (families)."""
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
