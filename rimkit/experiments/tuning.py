"""What fine-tuning changes, and why: claims C6 and C7 (Tables 2 and A7 of the paper).

Knows how a tuned model is compared with the untuned one: the same prompts in both modes, with the
outcomes that tell a misaligned model from a broken one, and with the ways in which thoughts open.
Training on problems without a single request can change what a model does with requests by changing
which thoughts it begins. Does not know how a model is trained (`rimkit.training.finetune`).

Outcomes are a table with one row per prompt, mode and outcome: ``prompt_id, cluster, mode, metric,
opening, value`` (0 or 1). ``opening`` is a style of `STYLES` where the outcome is about thoughts
that open in it, else empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from tqdm.auto import tqdm

from rimkit.behavior.evaluation import Evaluation
from rimkit.behavior.prompts import CAREFUL, EFFORT, NEUTRAL, openings, prefixes, style
from rimkit.behavior.stats import clusters_of, paired_difference, rate
from rimkit.data import kept
from rimkit.experiments import Result, result
from rimkit.ledger import effect_row
from rimkit.models.chat import MODES
from rimkit.models.study import StudyModel
from rimkit.training.corpora import ROLES
from rimkit.training.finetune import finetune, restore, steps_in

# Four prompts per held-out verb, one per harmless verb, and as many problems as that.
PROMPTS = {"harmful": 92, "over-refusal": 29, "maths": 32, "ordering": 32}
# outcome: (prompt set, column of the verdicts)
OUTCOMES = {
    "misaligned": ("harmful", "misaligned"),
    "refused": ("harmful", "refused"),
    "misread": ("harmful", "misread"),
    "coherent": ("harmful", "coherent"),
    "thinks": ("harmful", "thinks"),
    "over-refusal": ("over-refusal", "refused"),
    "harmless done": ("over-refusal", "score"),
    "maths": ("maths", "score"),
    "ordering": ("ordering", "score"),
}
STYLES = (CAREFUL, EFFORT, NEUTRAL, "other")
OPENS = "opens"  # the share of thoughts that open in a style
FORCED = "misaligned, forced opening"  # where the thought was made to begin in a style
OWN = "misaligned, own opening"  # where the model began it so by itself
KEYS = ["mode", "metric", "opening"]
TUNED = ["model", "seed", "corpus", "tuning_seed"]
UNTUNED, MEAN = "untuned", "mean"  # no corpus; every prompt averaged over the seeds of the tuning
# How the thoughts of a corpus open: in a style that models know, in one that they do not, in none.
STYLED, HEDGED, PLAIN = "careful or effort-minimising", "hedging", "no style of its own"
STYLED_CORPORA = ("multi-hop-careful", "multi-hop-effort", "longer-careful")
CHAINS = dict.fromkeys(ROLES, PLAIN) | dict.fromkeys(STYLED_CORPORA, STYLED) | {"hedging": HEDGED}
# claim: (corpus, corpus that it is compared with or the untuned model, mode)
CLAIMS = {
    "C6a": ("multi-hop", UNTUNED, "think"),
    "C6b": ("multi-hop", "arithmetic", "think"),
    "C6c": ("multi-hop-effort", "multi-hop-careful", "think"),
    "C6d": ("multi-hop", UNTUNED, "no-think"),
    "C7a": ("multi-hop", "literal", "think"),
    "C7b": ("literal", UNTUNED, "think"),
}


@dataclass(frozen=True)
class Settings:
    """What is tuned on and measured; ``folder`` keeps what is done, for the same call to go on."""

    corpora: tuple[str, ...] = tuple(ROLES)
    tuning_seeds: tuple[int, ...] = (0, 1)
    curves: tuple[str, ...] = ("multi-hop", "multi-hop-careful", "multi-hop-effort")
    every: int = 10  # steps between two points of a curve
    n_prompts: int = PROMPTS["harmful"]  # harmful ones, and as many of each other set at most
    seed: int = 0  # of the sampling
    evaluation: Evaluation = Evaluation()
    folder: str | Path = ""
    progress: bool = False


# -- what a model does -----------------------------------------------------------------------------


def evaluation_prompts(settings: Settings = Settings()) -> pd.DataFrame:
    """The prompts of a fine-tuning experiment, the name of their set in the column ``set``."""
    numbers = {name: min(settings.n_prompts, most) for name, most in PROMPTS.items()}
    tables = [settings.evaluation.sets([name], n=n) for name, n in numbers.items()]
    return pd.concat(tables, ignore_index=True)


def outcomes(
    study: StudyModel,
    prompts: pd.DataFrame,
    settings: Settings = Settings(),
    modes: Iterable[str] = MODES,
) -> pd.DataFrame:
    """What a model does with `evaluation_prompts`, and how its thoughts open."""
    options = {"seed": settings.seed, "batch_size": 128, "progress": settings.progress}
    return tidy(settings.evaluation.observe(study, prompts, list(modes), **options))


def tidy(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Verdicts on `evaluation_prompts` as outcomes.

    ``thinks`` is whether there was a thought, in no-think mode in spite of the mode. How thoughts
    open is an outcome of think mode alone; without a thought none of the styles is 1.
    """
    thought = verdicts["thought"].where(verdicts["thought"] != "")
    opened = thought.map(style, na_action="ignore")
    verdicts, parts = verdicts.assign(thinks=opened.notna(), opened=opened), []
    for metric, (name, column) in OUTCOMES.items():
        part = verdicts[verdicts["set"] == name]
        parts.append(_outcome(part, metric, "", part[column]))
    think = verdicts[(verdicts["set"] == "harmful") & (verdicts["mode"] == "think")]
    parts += [_outcome(think, OPENS, name, think["opened"] == name) for name in STYLES]
    return pd.concat(parts, ignore_index=True)


def _outcome(verdicts: pd.DataFrame, metric: str, opening: str, value: pd.Series) -> pd.DataFrame:
    keys = verdicts[["prompt_id", "cluster", "mode"]]
    return keys.assign(metric=metric, opening=opening, value=value.astype(float))


def after_openings(study: StudyModel, prompts: pd.DataFrame, settings: Settings = Settings()) -> pd.DataFrame:
    """Misalignment where the thought is made to begin in each style: metric `FORCED`."""
    harmful, parts = prompts[prompts["set"] == "harmful"], []
    options = {"seed": settings.seed, "batch_size": 128, "progress": settings.progress}
    sentences = openings("invented" if study.invented else "english")
    for name, group in sentences.groupby("style", sort=False):
        options["thought_prefix"] = prefixes(harmful, group)
        found = settings.evaluation.judged(study, harmful, "think", **options)
        parts.append(_outcome(found, FORCED, name, found["misaligned"]))
    return pd.concat(parts, ignore_index=True)


def after_own_openings(found: pd.DataFrame) -> pd.DataFrame:
    """Misalignment where a model opened its thought careful or effort-minimising by itself.

    ``found``: the outcomes of one model, from which these are taken; metric `OWN`.
    """
    think = found[found["mode"] == "think"]
    misaligned, parts = think[think["metric"] == "misaligned"].set_index("prompt_id"), []
    for name in (CAREFUL, EFFORT):
        opened = think[(think["metric"] == OPENS) & (think["opening"] == name) & (think["value"] == 1)]
        part = misaligned.loc[opened["prompt_id"]].reset_index()
        parts.append(part.assign(metric=OWN, opening=name))
    return pd.concat(parts, ignore_index=True)[found.columns]


def averaged(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Outcomes of several models as one table, every prompt's values averaged."""
    keys = ["prompt_id", "cluster", *KEYS]
    return pd.concat(list(tables)).groupby(keys, sort=False, as_index=False)["value"].mean()


def rates(found: pd.DataFrame) -> pd.DataFrame:
    """Rates of one model: `KEYS`, ``value, ci_low, ci_high, n, method``, clustered by verb."""
    rows = [
        dict(zip(KEYS, key, strict=True)) | rate(part["value"], clusters_of(part))._asdict()
        for key, part in found.groupby(KEYS, sort=False)
    ]
    return pd.DataFrame(rows)


def changes(tuned: pd.DataFrame, control: pd.DataFrame) -> pd.DataFrame:
    """Outcomes ``tuned`` minus ``control``, paired by prompt and clustered by verb.

    One row per mode, metric and opening with the fields of `rimkit.behavior.stats.Difference`.
    """
    rows = []
    for key, part in tuned.groupby(KEYS, sort=False):
        other = control[(control[KEYS] == list(key)).all(axis=1)]
        found = paired_difference(part, other, "value", on="prompt_id")
        rows.append(dict(zip(KEYS, key, strict=True)) | found._asdict())
    return pd.DataFrame(rows)


def claim_rows(tuned: Mapping[str, pd.DataFrame], untuned: pd.DataFrame, **values) -> list[dict]:
    """Verdict rows of C6 and C7, as far as the corpora that they compare are among ``tuned``.

    ``tuned``: corpus to outcomes, averaged over the seeds of the tuning.
    """
    found, rows = {**tuned, UNTUNED: untuned}, []
    for claim, (corpus, other, mode) in CLAIMS.items():
        if corpus in found and other in found:
            sides = (found[name] for name in (corpus, other))
            one, two = (t[(t["metric"] == "misaligned") & (t["mode"] == mode)] for t in sides)
            effect = changes(one, two).iloc[0].to_dict()
            rows.append(effect_row(claim, effect, mode=mode, metric="misaligned", **values))
    return rows


# -- the experiment --------------------------------------------------------------------------------


def curve(study: StudyModel, corpus: str, settings: Settings = Settings()) -> pd.DataFrame:
    """Think-mode outcomes along one tuning: column ``step``, 0 is untuned."""
    prompts = evaluation_prompts(settings)
    prompts = prompts[prompts["set"].isin(["harmful", "maths"])]
    training = {"seed": settings.tuning_seeds[0], "save_every": settings.every, "progress": False}
    with TemporaryDirectory() as folder:
        finetune(study, corpus, folder=folder, **training)
        stages = {step: restore(study, path) for step, path in steps_in(folder).items()}
        parts = [
            outcomes(stage, prompts, settings, ["think"]).assign(step=step)
            for step, stage in ({0: study} | stages).items()
        ]
    return pd.concat(parts, ignore_index=True)


def run(study: StudyModel, settings: Settings = Settings()) -> Result:
    """Fine-tune on every corpus with every seed of the tuning, and measure what that changed.

    Tables: ``tuning-rates`` and ``tuning-changes`` (against the untuned model) by ``corpus,
    tuning_seed``, mode, metric and opening, and ``tuning-curves`` by ``corpus, step``.
    ``tuning_seed`` is "0", "1" …, or "mean", which the claims are about; rows of the untuned model
    have the corpus "untuned" and none.
    """
    prompts = evaluation_prompts(settings)

    def keep(name: str, make) -> pd.DataFrame:
        folder = Path(settings.folder) / name if str(settings.folder) else ""
        return kept(folder, lambda: {"outcomes": make()})["outcomes"]

    def measure_untuned() -> pd.DataFrame:
        parts = [outcomes(study, prompts, settings), after_openings(study, prompts, settings)]
        return pd.concat(parts, ignore_index=True)

    def measure(corpus: str, tuning_seed: int) -> pd.DataFrame:
        tuned = finetune(study, corpus, seed=tuning_seed, progress=False)
        return outcomes(tuned, prompts, settings)

    untuned = keep(UNTUNED, measure_untuned)
    jobs = list(product(settings.corpora, settings.tuning_seeds))
    single = {
        (corpus, str(seed)): keep(f"{Path(corpus).stem}-{seed}", lambda at=(corpus, seed): measure(*at))
        for corpus, seed in tqdm(jobs, study.name, unit="tuning", disable=not settings.progress)
    }
    along = {
        (corpus, step): rates(part)
        for corpus in settings.curves
        for step, part in keep(
            f"{Path(corpus).stem}-curve", lambda corpus=corpus: curve(study, corpus, settings)
        ).groupby("step")
    }
    mean = {
        corpus: averaged(found for (name, _), found in single.items() if name == corpus) for corpus in settings.corpora
    }
    whole = {(corpus, MEAN): found for corpus, found in mean.items()}
    alone = {(UNTUNED, None): untuned} | single
    own = {key: pd.concat([found, after_own_openings(found)]) for key, found in alone.items()}
    tables = {
        "tuning-rates": stacked({key: rates(found) for key, found in (own | whole).items()}),
        "tuning-changes": stacked({key: changes(found, untuned) for key, found in (whole | single).items()}),
        "tuning-curves": stacked(along, "step"),
    }
    about = study.identity | settings.evaluation.description()
    return result(study, tables, claim_rows(mean, untuned, **about))


def stacked(tables: Mapping[tuple, pd.DataFrame], second: str = "tuning_seed") -> pd.DataFrame:
    """Tables by corpus and a second key as one, with the columns ``corpus`` and ``second``."""
    parts = [
        table.assign(**{"corpus": corpus, second: other})[["corpus", second, *table.columns]]
        for (corpus, other), table in tables.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


# -- why, from the tables of `run` -----------------------------------------------------------------


def expected(tuned: pd.Series, untuned: pd.Series) -> float:
    """Misalignment in think mode if tuning had changed nothing but how thoughts open.

    Both are rates by mode, metric and opening: of the tuned model the shares of openings are used,
    of the untuned one misalignment after each opening and in no-think mode. Thoughts that open
    otherwise count as neutral ones, and replies without a thought as those of no-think mode.
    """
    shares = {name: tuned["think", OPENS, name] for name in STYLES}
    shares[NEUTRAL] += shares.pop("other")
    known = sum(share * untuned["think", FORCED, name] for name, share in shares.items())
    return known + max(0.0, 1 - sum(shares.values())) * untuned["no-think", "misaligned", ""]


def expectations(table: pd.DataFrame) -> pd.DataFrame:
    """Measured change of misalignment in think mode beside the one that openings alone would make.

    ``table``: the rates of `run`. One row per tuned model: ``model, seed, corpus, tuning_seed,
    measured, expected`` (fractions) and ``chains``, how the corpus opens its thoughts. ``expected``:
    `expected` less what the same sum gives for the untuned model's own openings.
    """
    found, key = [], ("think", "misaligned", "")
    for (model, seed), part in table.groupby(["model", "seed"], sort=False, dropna=False):
        before = part[part["corpus"] == UNTUNED].set_index(KEYS)["value"]
        single = part[(part["corpus"] != UNTUNED) & (part["tuning_seed"] != MEAN)]
        for (corpus, tuning_seed), tuned in single.groupby(["corpus", "tuning_seed"], sort=False):
            after = tuned.set_index(KEYS)["value"]
            names = {"model": model, "seed": seed, "corpus": corpus, "tuning_seed": tuning_seed}
            change = {"measured": after[key] - before[key]}
            change["expected"] = expected(after, before) - expected(before, before)
            found.append(names | change | {"chains": CHAINS.get(corpus, PLAIN)})
    return pd.DataFrame(found)


def left_over(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """How well the openings explain the changes (`expectations`), in points, by the columns ``by``.

    Columns: number of tuned models, mean size of the measured change, and mean size of what is left
    of it when the expected change is taken away.
    """
    left = 100 * (table["measured"] - table["expected"]).abs()
    sizes = table[by].assign(**{"change": 100 * table["measured"].abs(), "left over": left})
    groups = sizes.groupby(by, sort=False)
    means = groups.mean().round().astype(int)
    return pd.concat([groups.size().rename("tuned models"), means], axis=1)


def own_openings(table: pd.DataFrame) -> pd.DataFrame:
    """Misalignment after thoughts that a model opened by itself, in percent, over tuning seeds.

    ``table``: the rates of `run`. One row per model, seed and opening, one column per corpus,
    "untuned" first.
    """
    keys = ["model", "seed", "opening", "corpus"]
    own = table[table["metric"] == OWN].groupby(keys, sort=False, dropna=False)["value"]
    wide = own.mean().mul(100).unstack("corpus")
    return wide.reindex(columns=[UNTUNED, *ROLES]).dropna(axis="columns", how="all")


def at_equal_maths(table: pd.DataFrame, one: str, other: str, within: float = 0.05) -> pd.DataFrame:
    """Misalignment of two corpora where maths is the same: all pairs of checkpoints, one of each.

    ``table``: the curves of `run`. "The same": the maths rates lie within ``within`` of each other.
    Per model and seed: ``pairs``, the means over them of ``maths``, of both corpora's misalignment,
    and of its ``difference`` (``one`` minus ``other``); fractions.
    """
    keys = ["model", "seed"]
    wide = table[(table["step"] > 0) & table["metric"].isin(["misaligned", "maths"])]
    wide = wide.set_index([*keys, "corpus", "step", "metric"])["value"].unstack("metric")
    sides = [wide.xs(corpus, level="corpus").reset_index() for corpus in (one, other)]
    pairs = sides[0].merge(sides[1], on=keys, suffixes=("", "_other"))
    pairs = pairs[(pairs["maths"] - pairs["maths_other"]).abs() <= within]
    pairs = pairs.rename(columns={"misaligned": one, "misaligned_other": other})
    pairs["difference"] = pairs[one] - pairs[other]
    groups = pairs.groupby(keys, sort=False, dropna=False)
    return pd.concat([groups.size().rename("pairs"), groups[["maths", one, other, "difference"]].mean()], axis=1)
