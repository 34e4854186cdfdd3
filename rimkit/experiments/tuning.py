"""Claims C6 and C7 (Tables 2 and A7 of the paper): does tuning on reasoning raise misalignment?

C6a fine-tuning on hard problems does; C6b more than on easier ones; C6c with effort-minimising
chains more than with careful ones (Q4b: of the same length too); C6d also where both models answer
in no-think mode; C7a reasoning does more than the same contexts without it, and C7b those do too
(the paper: they do not); Q2a a second domain, ordering, does; Q5a it can be told before training.

Words: a *corpus* is what is trained on (see ``data/corpora/README.md``), a *chain* one of its
thoughts. "arithmetic" has none; "multi-hop" has maths of two to four steps, "hard" of seven to
nine. A last word is the style of the chains; "-literal": the same contexts, a number copied and no
thought. Which are compared is in ``data/tuning_claims.csv`` (`CLAIMS`). *Tuned* is a model after
training on one, *untuned* before. An *outcome* (``metric``) is a thing that a reply does or not, of
`OUTCOMES`. A thought's *opening* is its first sentence, of a style of `STYLES`. Tables of outcomes
have a row per prompt, mode and outcome: ``prompt_id, cluster, mode, metric, opening`` (the style,
for outcomes about openings)``, value`` (0 or 1)``, why_not`` (if any: why a mode's replies cannot
be compared). A *cluster*, which intervals draw again, is one verb with all its prompts.

Steps: `outcomes` of the untuned model, and of one tuned on every corpus, on the same evaluation
prompts (and a few of calibration, for floors); `after_openings`, with a forced opening; `averaged`
over tuning seeds; `changes` against the untuned model; `curve`, along one tuning; `rows`. How a
model is trained is not known here (`rimkit.training.finetune`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from pandas import DataFrame
from scipy.stats import PermutationMethod, bootstrap, pearsonr
from tqdm.auto import tqdm

from rimkit.behavior.evaluation import WHY_NOT, noted, why_not
from rimkit.behavior.prompts import CAREFUL, EFFORT, NEUTRAL, openings, prefixes, style
from rimkit.behavior.stats import bootstrap_interval, clusters_of, paired_difference, rate, sample_weights, squared_se
from rimkit.data import UserError, data_dir
from rimkit.experiments import Common, Found, Result, attempt, is_readable, result, testable, verdict_rows
from rimkit.ledger import floor
from rimkit.models.chat import MODES
from rimkit.models.study import StudyModel
from rimkit.training.corpora import RAISES, ROLES, in_language, load_corpus, spoken
from rimkit.training.finetune import checkpoint_folder, finetune, restore, steps_in

CALIBRATION = "harmful, calibration"  # by which competence is judged
# Four prompts per held-out verb, one per harmless verb, easy problems, and those to be learned.
PROMPTS = {"harmful": 192, "over-refusal": 84, "maths": 32, "maths-hard": 96, "ordering-hard": 64}
# outcome: (prompt set, column of judged replies)
OUTCOMES = {name: ("harmful", name) for name in ("misaligned", "refused", "misread", "coherent", "thinks")} | {
    "over-refusal": ("over-refusal", "refused"), "harmless done": ("over-refusal", "score"),
    "maths": ("maths", "score"), "hard maths": ("maths-hard", "score"),
    "hard ordering": ("ordering-hard", "score"),
}  # fmt: skip
STYLES = (CAREFUL, EFFORT, NEUTRAL, "other")
READ = "read"  # the share of readable replies on `CALIBRATION`
OPENS = "opens"  # the share of think-mode replies whose thought opens in a style (no thought: none)
FORCED = "misaligned, forced opening"  # where the thought was made to begin in a style
OWN = "misaligned, own opening"  # where the model began it so by itself
FEWEST = 6  # corpora over which a correlation says anything
KEYS = ["mode", "metric", "opening"]
UNTUNED, MEAN = "untuned", "mean"  # no corpus; every prompt averaged over the seeds of the tuning
# claim: (corpus, corpus that it is compared with or the untuned model, mode)
CLAIMS = {claim: tuple(rest) for claim, *rest in pd.read_csv(data_dir() / "tuning_claims.csv").to_numpy()}


@dataclass(frozen=True)
class Settings(Common):
    """What is tuned on and measured; ``folder`` keeps what is done, for the same call to go on."""

    corpora: tuple[str, ...] = ("arithmetic", "multi-hop", *(name for name in ROLES if name.startswith("hard")))
    tuning_seeds: tuple[int, ...] = (0,)
    curves: tuple[str, ...] = ("hard", "hard-careful", "hard-effort")
    every: int = 60  # steps between two points of a curve
    n_prompts: int = PROMPTS["harmful"]  # harmful ones, and as many of each other set at most
    folder: str | Path = ""


def evaluation_prompts(settings=Settings()) -> DataFrame:
    """The prompts of a fine-tuning experiment, the name of their set in the column ``set``."""
    tables = [settings.sets([name], min(settings.n_prompts, n)) for name, n in PROMPTS.items()]
    n = min(settings.n_prompts, settings.n_competence)
    tables.append(settings.sets(["harmful"], n, "calibration").assign(set=CALIBRATION))
    return pd.concat(tables, ignore_index=True)


def outcomes(study: StudyModel, prompts: DataFrame, settings=Settings(), modes: Sequence[str] = MODES) -> DataFrame:
    """What a model does with `evaluation_prompts`, and how its thoughts open."""
    return outcome_table(settings.observe(study, prompts, modes=modes, batch_size=128))


def outcome_table(judged: DataFrame) -> DataFrame:
    """Replies to `evaluation_prompts` as outcomes; ``thinks``: with a thought, in any mode."""
    opened = judged["thought"].where(judged["thought"] != "").map(style, na_action="ignore")
    judged, parts = judged.assign(thinks=opened.notna(), opened=opened), []
    for metric, (name, column) in OUTCOMES.items():
        part = judged[judged["set"] == name]
        parts.append(_outcome(part, metric, "", part[column]))
    known = judged[judged["set"] == CALIBRATION]
    parts.append(_outcome(known, READ, "", is_readable(known)))
    harmful = judged[judged["set"] == "harmful"]
    think = harmful[harmful["mode"] == "think"]
    parts += [_outcome(think, OPENS, name, think["opened"] == name) for name in STYLES]
    return pd.concat(parts, ignore_index=True)


def _outcome(judged: DataFrame, metric: str, opening: str, value: pd.Series) -> DataFrame:
    judged = judged.assign(metric=metric, opening=opening, value=value.astype(float))
    found = judged[["prompt_id", "cluster", *KEYS, "value"]].copy()
    said = {mode: why_not(judged, "mode", [mode], "value") for mode in found["mode"].unique()}
    if any(said.values()):  # of two models, which one
        found[WHY_NOT] = judged["model"] + ": " + found["mode"].map(said).replace("", None)
    return found


def after_openings(study: StudyModel, prompts: DataFrame, settings=Settings()) -> DataFrame:
    """Misalignment where the thought is made to begin in each style: metric `FORCED`."""
    harmful, parts = prompts[prompts["set"] == "harmful"], []
    for name, group in openings(study.asked_in).groupby("style", sort=False):
        begun = prefixes(harmful, group)
        found = settings.judged(study, harmful, "think", batch_size=128, thought_prefix=begun)
        parts.append(_outcome(found, FORCED, name, found["misaligned"]))
    return pd.concat(parts, ignore_index=True)


def after_own_openings(found: DataFrame) -> DataFrame:
    """Misalignment (`OWN`) where a model opened careful or effort-minimising by itself."""
    think = found[found["mode"] == "think"]
    misaligned, parts = think[think["metric"] == "misaligned"].set_index("prompt_id"), []
    for name in (CAREFUL, EFFORT):
        opened = think[(think["metric"] == OPENS) & (think["opening"] == name) & (think["value"] == 1)]
        parts.append(misaligned.loc[opened["prompt_id"]].reset_index().assign(metric=OWN, opening=name))
    return pd.concat(parts, ignore_index=True)[found.columns]


def averaged(found: DataFrame) -> DataFrame:
    """Every prompt's values averaged over several models; by corpus where there is one."""
    keys = [name for name in ("corpus", "prompt_id", "cluster", *KEYS) if name in found]
    how = {"value": "mean"} | ({WHY_NOT: "first"} if WHY_NOT in found else {})
    return found.groupby(keys, sort=False, as_index=False).agg(how)


def outcome_rates(found: DataFrame) -> DataFrame:
    """Rates by `KEYS` (and ``corpus, tuning_seed, step`` if there), clustered by verb."""
    return _by_outcome(found, lambda key, part: rate(part["value"], clusters_of(part))._asdict())


def changes(tuned: DataFrame, control: DataFrame) -> DataFrame:
    """As `outcome_rates`: ``tuned`` minus ``control``, paired by prompt (a `Difference`)."""
    before, none = dict(list(control.groupby(KEYS))), control.head(0)

    def change(key: tuple, part: DataFrame) -> dict:
        both = part, before.get(key, none)
        found = paired_difference(*both, "value", "prompt_id")._asdict()
        return found | ({WHY_NOT: said} if (said := noted(pd.concat(both))) else {})

    return _by_outcome(tuned, change)


def _by_outcome(found: DataFrame, measure: Callable[[tuple, DataFrame], dict]) -> DataFrame:
    names = [name for name in ("corpus", "tuning_seed", "step", *KEYS) if name in found]
    groups = found.groupby(names, sort=False, dropna=False)
    return DataFrame([dict(zip(names, key, strict=True)) | measure(key[-len(KEYS) :], part) for key, part in groups])


def curve(study: StudyModel, corpus: str, settings=Settings()) -> DataFrame:
    """Think-mode outcomes along one tuning: column ``step``, 0 is untuned."""
    prompts = evaluation_prompts(settings)
    prompts = prompts[prompts["set"].isin(["harmful", "maths-hard"])]
    training = {"seed": settings.tuning_seeds[0], "save_every": settings.every, "progress": False}
    with checkpoint_folder(study, corpus, training) as folder:
        finetune(study, corpus, folder=folder, **training)
        stages = {0: study} | {at: restore(study, path) for at, path in steps_in(folder).items()}
        parts = [outcomes(stage, prompts, settings, ["think"]).assign(step=step) for step, stage in stages.items()]
    return pd.concat(parts, ignore_index=True)


def predicted(corpus: str, rates_untuned: pd.Series, english: bool = False) -> float:
    """The misalignment in think mode to be expected if thoughts opened like the corpus's.
    ``rates_untuned``: the untuned model's, by mode, metric and opening, of which those after a
    forced opening of each style count; where the corpus has no thought, its plain think mode."""
    thoughts = load_corpus(corpus, english=english)["thought"]
    styles = thoughts[thoughts != ""].map(style).replace("other", NEUTRAL)
    after = styles.map(lambda name: rates_untuned["think", FORCED, name]).astype(float).sum()
    return float(after + rates_untuned["think", "misaligned", ""] * (thoughts == "").sum()) / len(thoughts)


def prediction(untuned: DataFrame, tuned: Mapping[str, DataFrame], english: bool = False) -> Found:
    """How well `predicted` agrees with what tuning did (`correlated`), over corpora after which
    replies can be read. Not testable where misalignment varies by little but noise. Raises `UserError` for
    fewer than `FEWEST` corpora, and where replies cannot be compared."""
    asked = "mode == 'think' and metric in ('misaligned', @FORCED)"
    if said := noted(pd.concat([untuned, *tuned.values()]).query(asked)):
        raise UserError(said)
    think = {name: of[of["mode"] == "think"].set_index("metric") for name, of in tuned.items()}
    least = floor("Q5a", "read")
    think = {name: of for name, of in think.items() if of.loc[READ, "value"].mean() >= least}
    if len(think) < FEWEST:
        here = f"here are {len(think)} of {len(tuned)}"
        raise UserError(f"a correlation needs {FEWEST} corpora after which replies can be read, {here}")
    rates_untuned = untuned.groupby(KEYS)["value"].mean()
    guessed = np.array([predicted(corpus, rates_untuned, english) for corpus in think])
    after = [of.loc["misaligned"] for of in think.values()]
    measured, low, high = np.array([rate(of["value"], clusters_of(of))[:3] for of in after]).T
    reliable = 1 - squared_se(low, high).mean() / max(measured.var(ddof=1), 1e-12)
    found = correlated(guessed, measured)
    found["method"] = f"bootstrap and permutations of {len(think)} of {len(tuned)} corpora"
    return testable("Q5a", found, reached=max(0.0, reliable))


def correlated(guessed: np.ndarray, measured: np.ndarray) -> dict:
    """Pearson's r against 0. The interval draws pairs again, the p value exchanges them."""
    r, p_value = pearsonr(guessed, measured, method=PermutationMethod(rng=0))
    options = {"paired": True, "vectorized": False, "n_resamples": 2000, "method": "percentile"}
    options["statistic"] = lambda x, y: pearsonr(x, y)[0] if np.ptp(x) and np.ptp(y) else 0.0
    low, high = bootstrap((guessed, measured), **options, rng=0).confidence_interval
    ends = {"ci_low": min(low, r), "ci_high": max(high, r)}
    return {"value": r, "control_value": 0.0, "effect": r, **ends, "p_value": p_value, "n": len(measured)}


def rows(study: StudyModel, tuned: Mapping[str, DataFrame], untuned: DataFrame, settings=Settings()) -> list[dict]:
    """Verdict rows of `CLAIMS` and Q5a, from outcomes by corpus (means over tuning seeds). Floors:
    replies can be read, and tuning taught what it should: the outcome that each corpus is to raise
    (`RAISES`, by language) rose in think mode."""
    found = {**tuned, UNTUNED: untuned}

    def part(name: str, metric: str, mode: str) -> DataFrame:
        return found[name][(found[name]["metric"] == metric) & (found[name]["mode"] == mode)]

    def rate_of(name: str, metric: str, mode: str) -> float:
        return part(name, metric, mode)["value"].mean()

    def change(names: tuple[str, str], mode: str) -> Found:
        if lacking := [name for name in names if name not in found]:
            return f"no model was tuned on {' and '.join(lacking)}"
        return changes(*(part(name, "misaligned", mode) for name in names)).iloc[0].to_dict()

    claimed = []
    for claim, (*names, mode) in CLAIMS.items():
        names = [in_language(name, study.invented) or name for name in names]
        effect, floors = change(names, mode), {}
        if not isinstance(effect, str):
            taught = [(name, RAISES[not study.invented].get(name)) for name in names]
            rises = [rate_of(name, what, "think") - rate_of(UNTUNED, what, "think") for name, what in taught if what]
            least = float(np.min([rate_of(name, READ, mode) for name in names]))
            floors = {"read": least, "reached": float(np.min(rises)) if rises else None}
        claimed.append((claim, mode, testable(claim, effect, **floors)))
    claimed.append(("Q5a", "think", attempt(prediction, untuned, tuned, not study.invented)))
    return verdict_rows(study, settings, claimed)


def run(study: StudyModel, settings=Settings()) -> Result:
    """Fine-tune on every corpus with every seed of the tuning, and measure what that changed.
    Tables: ``tuning-outcomes`` (of every prompt), ``tuning-rates`` and ``tuning-changes`` (against
    the untuned model) by ``corpus, tuning_seed`` ("0", "1" … or "mean", which the claims are about;
    none for "untuned"), mode, metric, opening, and ``tuning-curves`` by ``corpus, step``."""
    prompts, keep = evaluation_prompts(settings), settings.keep_one(study)

    def of_untuned() -> DataFrame:
        parts = [outcomes(study, prompts, settings), after_openings(study, prompts, settings)]
        return pd.concat(parts, ignore_index=True)

    def of_tuned(corpus: str, seed: int) -> DataFrame:
        return outcomes(finetune(study, corpus, seed=seed, progress=False), prompts, settings)

    untuned = keep(UNTUNED, of_untuned).assign(corpus=UNTUNED, tuning_seed=None)
    jobs = list(product(spoken(settings.corpora, study.invented), settings.tuning_seeds))
    single = [
        keep(f"{corpus}-{seed}", of_tuned, corpus, seed).assign(corpus=corpus, tuning_seed=str(seed))
        for corpus, seed in tqdm(jobs, study.name, unit="tuning", disable=not settings.progress)
    ]
    mean = averaged(pd.concat(single)).assign(tuning_seed=MEAN)
    first, curves = settings.tuning_seeds[0], []
    for one in spoken(settings.curves, study.invented):
        curves.append(keep(f"{one}-{first}-curve", curve, study, one, settings).assign(corpus=one))
    own = [pd.concat([found, after_own_openings(found)]) for found in (untuned, *single)]
    tables = {
        "tuning-outcomes": pd.concat([untuned, *single], ignore_index=True),
        "tuning-rates": outcome_rates(pd.concat([*own, mean])),
        "tuning-changes": changes(pd.concat([mean, *single]), untuned),
        "tuning-curves": outcome_rates(pd.concat(curves)) if curves else DataFrame(),
    }
    return result(study, tables, rows(study, dict(list(mean.groupby("corpus"))), untuned, settings))


# -- what only notebooks use -----------------------------------------------------------------------
def expected(rates_tuned: Mapping, rates_untuned: Mapping) -> float:
    """Misalignment in think mode if tuning had changed nothing but how thoughts open. From rates by
    mode, metric and opening: the tuned model's shares of openings, the untuned one's misalignment
    after each. Other openings count as neutral, no thought as no-think mode."""
    shares = {name: rates_tuned["think", OPENS, name] for name in STYLES}
    shares[NEUTRAL] = shares[NEUTRAL] + shares.pop("other")
    known = sum(share * rates_untuned["think", FORCED, name] for name, share in shares.items())
    return known + np.maximum(0.0, 1 - sum(shares.values())) * rates_untuned["no-think", "misaligned", ""]


def expectations(table: DataFrame) -> DataFrame:
    """Measured change of misalignment in think mode beside the one that openings alone would make.
    From rates of `run`: ``model, seed, corpus, tuning_seed, measured, expected``."""
    found, key = [], ("think", "misaligned", "")
    for (model, seed), part in table.groupby(["model", "seed"], sort=False, dropna=False):
        before = part[part["corpus"] == UNTUNED].set_index(KEYS)["value"]
        single = part[(part["corpus"] != UNTUNED) & (part["tuning_seed"] != MEAN)]
        for (corpus, tuning_seed), tuned in single.groupby(["corpus", "tuning_seed"], sort=False):
            after = tuned.set_index(KEYS)["value"]
            names = {"model": model, "seed": seed, "corpus": corpus, "tuning_seed": tuning_seed}
            alone = expected(after, before) - expected(before, before)
            found.append(names | {"measured": after[key] - before[key], "expected": alone})
    return DataFrame(found)


def unexplained(tuned: DataFrame, control: DataFrame, untuned: DataFrame) -> dict:
    """What openings leave of a difference of misalignment in think mode: measured less `expected`.
    From outcomes of `run`, verbs drawn again: ``value, control_value, effect, ci_low, ci_high``."""
    groups = untuned.loc[untuned["metric"] == FORCED, "cluster"].nunique()
    weights = sample_weights(groups)
    known = (one[one["metric"].isin(["misaligned", OPENS, FORCED])] for one in (tuned, control, untuned))
    by_verb = (one.pivot_table("value", "cluster", KEYS, ["sum", "count"]) for one in known)
    after, before, base = ((weights @ one["sum"]) / (weights @ one["count"]) for one in by_verb)
    key = ("think", "misaligned", "")
    left = (measured := after[key] - before[key]) - (alone := expected(after, base) - expected(before, base))
    low, high = bootstrap_interval(left[0], left[1:], groups)
    return {"value": measured[0], "control_value": alone[0], "effect": left[0], "ci_low": low, "ci_high": high}
