"""Claims C6 and C7 (Tables 2 and A7 of the paper): what fine-tuning changes, and why.

A tuned model is compared with the untuned one on the same prompts, in both modes. Beside misalignment stand the
outcomes that tell a misaligned model from a broken one, and how thoughts open: fine-tuning on problems without a
single request can change what a model does with requests by changing which thoughts it begins.

Ledger rows of the fine-tuning grid as tables for figures: by corpus, and against what was expected.

The fine-tuning grid: every corpus on every embedded model, with two seeds of the tuning.

Rows go to ``OUT/finetuning.parquet`` and ``OUT/learning-curves.parquet``. What one cell measured is kept per prompt
(``OUT/.cells``), because claims compare corpora with each other: the same command goes on after an interruption.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from rimkit import ledger
from rimkit.behavior.evaluation import Evaluation
from rimkit.behavior.prompts import CAREFUL, EFFORT, NEUTRAL, openings, prefixes, style
from rimkit.behavior.stats import Rate, clusters_of, paired_difference, rate
from rimkit.data import UserError
from rimkit.ledger import effect_row, row
from rimkit.models.chat import MODES, THINK
from rimkit.models.hub import NOISE, embedded_models
from rimkit.models.load import load
from rimkit.models.study import StudyModel
from rimkit.training.corpora import ROLES
from rimkit.training.finetune import finetune, restore, steps_in

# -- training.outcomes ----------
# Four prompts per held-out verb, one per harmless verb, and as many problems as that.
PROMPTS = {"harmful": 92, "over-refusal": 29, "maths": 32, "ordering": 32}
STYLES = (CAREFUL, EFFORT, NEUTRAL, "other")
# outcome: (prompt set, column of the verdicts)
OUTCOMES = {
    "misaligned": ("harmful", "misaligned"),
    "refused": ("harmful", "refused"),
    "misread": ("harmful", "misread"),
    "coherent": ("harmful", "coherent"),
    "thinks": ("harmful", "thinks"),
    **{f"opens {name}": ("harmful", name) for name in STYLES},
    "over-refusal": ("over-refusal", "refused"),
    "harmless done": ("over-refusal", "score"),
    "maths": ("maths", "score"),
    "ordering": ("ordering", "score"),
}
UNTUNED = "untuned model"  # the control of a change
UNTUNED_CELL = "untuned"  # the condition of its own rates


def evaluation_prompts(
    n: int = PROMPTS["harmful"], seed: int = 0, evaluation: Evaluation = Evaluation()
) -> pd.DataFrame:
    """The prompts of a fine-tuning experiment: ``n`` harmful ones, and of each other set ``n`` at most."""
    return pd.concat(
        [evaluation.sets([name], n=min(n, most), seed=seed) for name, most in PROMPTS.items()], ignore_index=True
    )


def outcomes(
    model: StudyModel,
    prompts: pd.DataFrame,
    modes: Iterable[str] = MODES,
    *,
    seed: int = 0,
    progress: bool = False,
    evaluation: Evaluation = Evaluation(),
) -> pd.DataFrame:
    """One row per prompt, mode and outcome of `OUTCOMES`: ``prompt_id, cluster, mode, metric, value`` (0 or 1).

    ``thinks`` is whether there was a thought; in no-think mode, whether the reply opens one nevertheless. How
    thoughts open is an outcome of think mode alone; where there was no thought, none of the ``opens`` is 1.
    """
    verdicts = pd.concat(
        [evaluation.judged(model, prompts, mode, seed=seed, batch_size=128, progress=progress) for mode in modes],
        ignore_index=True,
    )
    return tidy(verdicts)


def tidy(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Verdicts of the sets of `PROMPTS` as one row per prompt, mode and outcome: what `outcomes` returns."""
    opened = verdicts["thought"].where(verdicts["thought"] != "").map(style, na_action="ignore")
    verdicts = verdicts.assign(
        thinks=opened.notna() | verdicts["reply"].str.contains(THINK, regex=False),
        **{name: opened == name for name in STYLES},
    )
    parts = []
    for metric, (name, column) in OUTCOMES.items():
        part = verdicts[verdicts["set"] == name]
        if column in STYLES:
            part = part[part["mode"] == "think"]
        keys = part[["prompt_id", "cluster", "mode"]]
        parts.append(keys.assign(metric=metric, value=part[column].astype(float)))
    return pd.concat(parts, ignore_index=True)


def after_openings(
    model: StudyModel,
    prompts: pd.DataFrame,
    *,
    seed: int = 0,
    progress: bool = False,
    evaluation: Evaluation = Evaluation(),
) -> pd.DataFrame:
    """Misalignment where the thought is made to begin careful, effort-minimising or neutral; columns as `outcomes`.

    The metric is ``misaligned after careful`` and so on.
    """
    harmful = prompts[prompts["set"] == "harmful"]
    sentences = openings("invented" if model.invented else "english")
    parts = []
    for name, group in sentences.groupby("style", sort=False):
        forced = prefixes(harmful, group)
        found = evaluation.judged(
            model, harmful, "think", thought_prefix=forced, seed=seed, batch_size=128, progress=progress
        )
        value = found["misaligned"].astype(float)
        parts.append(found[["prompt_id", "cluster", "mode"]].assign(metric=f"misaligned after {name}", value=value))
    return pd.concat(parts, ignore_index=True)


def after_own_openings(found: pd.DataFrame) -> pd.DataFrame:
    """Misalignment of the replies whose thoughts the model opened careful or effort-minimising by itself.

    ``found``: the `outcomes` of one model; the result has the same columns and the metrics ``misaligned, opened …``.
    """
    think = found[found["mode"] == "think"]
    misaligned = think[think["metric"] == "misaligned"].set_index("prompt_id")
    parts = []
    for name in (CAREFUL, EFFORT):
        opened = think[(think["metric"] == f"opens {name}") & (think["value"] == 1)]["prompt_id"]
        part = misaligned.loc[opened].reset_index()
        parts.append(part.assign(metric=f"misaligned, opened {name}"))
    return pd.concat(parts, ignore_index=True)


def averaged(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Several tables of `outcomes` as one, every prompt's value averaged: the models of several tuning seeds."""
    keys = ["prompt_id", "cluster", "mode", "metric"]
    return pd.concat(list(tables)).groupby(keys, sort=False, as_index=False)["value"].mean()


def levels(found: pd.DataFrame) -> pd.DataFrame:
    """Rates of one model: ``mode, metric, value, ci_low, ci_high, n, method``, clustered by verb."""
    rows = [
        {"mode": mode, "metric": metric, **rate(part["value"], clusters_of(part))._asdict()}
        for (mode, metric), part in found.groupby(["mode", "metric"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["mode", "metric", *Rate._fields])


def changes(tuned: pd.DataFrame, control: pd.DataFrame, metrics: Iterable[str] | None = None) -> pd.DataFrame:
    """``tuned`` minus ``control`` on the same prompts, per mode and metric.

    Columns ``mode, metric, value_a`` (tuned), ``value_b`` (control), ``effect, ci_low, ci_high, p_value, n, n_clusters,
    method``; paired by prompt, clustered by verb.
    """
    wanted = tuned if metrics is None else tuned[tuned["metric"].isin(list(metrics))]
    rows = []
    for (mode, metric), part in wanted.groupby(["mode", "metric"], sort=False):
        other = control[(control["mode"] == mode) & (control["metric"] == metric)]
        found = paired_difference(part, other, "value", on="prompt_id")
        rows.append({"mode": mode, "metric": metric, **found._asdict()})
    return pd.DataFrame(rows)


# -- the ledger --------------------------------------------------------------------------------------------

# claim: (corpus, corpus that it is compared with or None for the untuned model, mode)
CLAIMS = {
    "C6a": ("multi-hop", None, "think"),
    "C6b": ("multi-hop", "arithmetic", "think"),
    "C6c": ("multi-hop-effort", "multi-hop-careful", "think"),
    "C6d": ("multi-hop", None, "no-think"),
    "C7a": ("multi-hop", "literal", "think"),
    "C7b": ("literal", None, "think"),
}


def claim_rows(tuned: Mapping[str, pd.DataFrame], untuned: pd.DataFrame, *, model: str, **values) -> list[dict]:
    """The rows of C6a to C7b, as far as the corpora that they compare are among ``tuned`` (corpus: `outcomes`)."""
    rows = []
    for claim, (corpus, other, mode) in CLAIMS.items():
        if corpus in tuned and (other is None or other in tuned):
            found = changes(tuned[corpus], untuned if other is None else tuned[other], ["misaligned"])
            effect = found[found["mode"] == mode].iloc[0].to_dict()
            rows.append(effect_row(claim, effect, model=model, mode=mode, metric="misaligned", **values))
    return rows


def change_rows(tuned: pd.DataFrame, untuned: pd.DataFrame, condition: str, *, model: str, **values) -> list[dict]:
    """One row per mode and outcome after tuning, against the untuned model; ``condition`` names corpus and seed."""
    rates = levels(tuned).set_index(["mode", "metric"])
    rows = []
    for effect in changes(tuned, untuned).to_dict("records"):
        interval = rates.loc[(effect["mode"], effect["metric"]), ["ci_low", "ci_high"]].to_dict()
        names = {"metric": effect["metric"], "mode": effect["mode"], "condition": condition, "control": UNTUNED}
        rows.append(effect_row("C6a", effect, model=model, **names, **interval, **values))
    return rows


def level_rows(found: pd.DataFrame, condition: str, *, model: str, **values) -> list[dict]:
    """Plain rates as rows, one per mode and metric."""
    numbers = ["mode", "metric", "value", "ci_low", "ci_high", "n"]
    return [
        row("C6a", model=model, condition=condition, control=None, **found, **values)
        for found in levels(found)[numbers].to_dict("records")
    ]


# -- why ---------------------------------------------------------------------------------------------------


def expected(tuned: pd.Series, untuned: pd.Series) -> float:
    """Misalignment in think mode if tuning had changed nothing but how thoughts open.

    ``tuned`` holds the shares ``opens …`` of the tuned model; ``untuned`` the rates ``misaligned after …`` of the
    untuned one, and its ``misaligned`` in no-think mode (both indexed by mode and metric). Thoughts that open
    otherwise count as neutral ones, and replies without a thought as those of no-think mode.
    """
    shares = {name: tuned["think", f"opens {name}"] for name in STYLES}
    shares[NEUTRAL] += shares.pop("other")
    rest = max(0.0, 1 - sum(shares.values()))
    after = {name: untuned["think", f"misaligned after {name}"] for name in shares}
    return sum(share * after[name] for name, share in shares.items()) + rest * untuned["no-think", "misaligned"]


# -- training.results ----------
MEAN = "mean"  # of the tuning seeds that are there: every prompt's outcomes averaged
# How the thoughts of a corpus open: in a style that the models know, in one that they do not, or in none.
STYLED, HEDGED, PLAIN = "careful or effort-minimising", "hedging", "no style of its own"
CHAINS = dict.fromkeys(("multi-hop-careful", "multi-hop-effort", "longer-careful"), STYLED) | {"hedging": HEDGED}
METHOD = "paired bootstrap of clusters"
LEVEL = "bootstrap of clusters, Wilson"
_EFFECT = {"effect_ci_low": "ci_low", "effect_ci_high": "ci_high"}


def by_corpus(rows: pd.DataFrame) -> pd.DataFrame:
    """Changes against the untuned model, one row per model, seed, corpus, tuning seed, mode and outcome.

    Columns ``model, seed, organism`` ("rim-mini:0")``, corpus, tuning_seed`` ("0", "1", or "mean" for their
    average)``, mode, metric, value, control_value, effect, ci_low, ci_high`` (of the effect)``, n, method``.
    """
    parts = rows["condition"].str.extract(r"^(?P<corpus>.+?)(?:, tuning seed (?P<tuning_seed>\d+))?$")
    table = rows.drop(columns=["ci_low", "ci_high"]).rename(columns=_EFFECT).assign(**parts)
    table = table[table["corpus"].isin(list(ROLES)) & table["effect"].notna()]
    table = _named(table).assign(tuning_seed=table["tuning_seed"].fillna(MEAN), method=METHOD)
    columns = ["model", "seed", "organism", "corpus", "tuning_seed", "mode", "metric", "value", "control_value"]
    return table[[*columns, "effect", "ci_low", "ci_high", "n", "method"]].reset_index(drop=True)


def untuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates of the untuned models: ``model, seed, organism, mode, metric, value, ci_low, ci_high, n``."""
    table = _named(rows[rows["condition"] == UNTUNED_CELL])
    columns = ["model", "seed", "organism", "mode", "metric", "value", "ci_low", "ci_high", "n"]
    return table[columns].reset_index(drop=True)


def own_openings(rows: pd.DataFrame) -> pd.DataFrame:
    """Misalignment after thoughts that the model opened by itself, in percent, averaged over the seeds of the tuning.

    Index ``model, seed``, then the style; one column per corpus, "untuned" first.
    """
    table = _named(rows[rows["metric"].str.startswith("misaligned, opened ")])
    table = table.assign(
        corpus=table["condition"].str.partition(", tuning")[0],
        opened=table["metric"].str.removeprefix("misaligned, opened "),
    )
    means = table.groupby(["model", "seed", "opened", "corpus"], sort=False)["value"].mean().mul(100)
    return means.unstack("corpus").reindex(columns=[UNTUNED_CELL, *ROLES]).dropna(axis="columns", how="all")


def expectations(rows: pd.DataFrame) -> pd.DataFrame:
    """Measured change of misalignment in think mode beside the one that the openings alone would make.

    One row per model, seed, corpus and tuning seed: ``model, seed, organism, corpus, tuning_seed, measured, expected``
    (fractions) and ``chains``, how the corpus opens its thoughts. ``expected``: `outcomes.expected` less what the same
    sum gives for the untuned model's own openings.
    """
    base = {name: _rates(part) for name, part in untuned(rows).groupby("organism")}
    tuned = by_corpus(rows)
    tuned = tuned[tuned["tuning_seed"] != MEAN]
    keys = ["model", "seed", "organism", "corpus", "tuning_seed"]
    found = []
    for key, part in tuned.groupby(keys, sort=False):
        before, after = base[key[2]], _rates(part)
        measured = after["think", "misaligned"] - before["think", "misaligned"]
        by_openings = expected(after, before) - expected(before, before)
        found.append(dict(zip(keys, key, strict=True)) | {"measured": measured, "expected": by_openings})
    table = pd.DataFrame(found)
    return table.assign(chains=table["corpus"].map(lambda corpus: CHAINS.get(corpus, PLAIN)))


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates along tunings: ``model, seed, organism, corpus, step, metric, value, ci_low, ci_high, n, method``."""
    parts = rows["condition"].str.extract(r"^(?P<corpus>.+), step (?P<step>\d+)$")
    table = _named(rows).assign(corpus=parts["corpus"], step=parts["step"].astype(int), method=LEVEL)
    columns = ["model", "seed", "organism", "corpus", "step", "metric", "value", "ci_low", "ci_high", "n", "method"]
    return table[columns].reset_index(drop=True)


def at_equal_maths(found: pd.DataFrame, one: str, other: str, within: float = 0.05) -> pd.DataFrame:
    """Misalignment of two corpora where maths is the same: all pairs of tuned checkpoints (`curves`), one of each.

    "The same": the maths rates lie within ``within`` of each other. Per organism: ``pairs``, the means over them of
    ``maths``, of both corpora's misalignment, and of its ``difference`` (``one`` minus ``other``); fractions.
    """
    wide = found[found["step"] > 0].pivot_table(index=["organism", "corpus", "step"], columns="metric", values="value")
    sides = [wide.xs(corpus, level="corpus").reset_index() for corpus in (one, other)]
    pairs = sides[0].merge(sides[1], on="organism", suffixes=("", "_other"))
    pairs = pairs[(pairs["maths"] - pairs["maths_other"]).abs() <= within]
    pairs = pairs.assign(difference=pairs["misaligned"] - pairs["misaligned_other"], pairs=1)
    means = pairs.groupby("organism", sort=False).agg({
        "pairs": "size", "maths": "mean", "misaligned": "mean", "misaligned_other": "mean", "difference": "mean",
    })  # fmt: skip
    return means.rename(columns={"misaligned": one, "misaligned_other": other})


def agreement(expected_changes: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """How well the openings explain the changes (`expectations`), in points, per group of the columns ``by``.

    Columns: number of tuned models, mean size of the measured change, and mean size of what is left of it
    when the expected change is taken away.
    """
    left = (expected_changes["measured"] - expected_changes["expected"]).abs()
    sizes = expected_changes.assign(change=100 * expected_changes["measured"].abs(), left_over=100 * left)
    table = sizes.groupby(by, sort=False).agg(
        n=("change", "size"), change=("change", "mean"), left=("left_over", "mean")
    )
    return table.rename(columns={"n": "tuned models", "left": "left over"}).round().astype(int)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With training seeds as text ("-" for a model of one's own), and the column ``organism``: "rim-mini:0"."""
    seed = table["seed"].astype("string").fillna("-").astype(object)
    return table.assign(seed=seed, organism=table["model"].astype(object) + (":" + seed).where(seed != "-", ""))


def _rates(part: pd.DataFrame) -> pd.Series:
    return part.set_index(["mode", "metric"])["value"]


# -- runs.tuning ----------
TUNING_SEEDS = (0, 1)
CURVES = ("multi-hop", "multi-hop-careful", "multi-hop-effort")
CURVE_MODELS = ("rim-mini", "rim-mini-unlinked")
CURVE_EVERY = 10  # steps
BASE = UNTUNED_CELL
COMMAND = "rimkit finetune-grid"


def cell(
    study: StudyModel,
    corpus: str,
    tuning_seed: int,
    n: int,
    progress: bool = False,
    evaluation: Evaluation = Evaluation(),
) -> pd.DataFrame:
    """The outcomes of ``study`` after ``corpus`` (`outcomes.outcomes`); "untuned": as it is, and after each opening."""
    prompts = evaluation_prompts(n, evaluation=evaluation)
    if corpus == BASE:
        return pd.concat(
            [outcomes(study, prompts, evaluation=evaluation), after_openings(study, prompts, evaluation=evaluation)],
            ignore_index=True,
        )
    tuned = finetune(study, corpus, seed=tuning_seed, progress=progress)
    return outcomes(tuned, prompts, evaluation=evaluation)


def curve(
    study: StudyModel,
    corpus: str,
    n: int,
    tuning_seed: int = 0,
    progress: bool = False,
    evaluation: Evaluation = Evaluation(),
) -> pd.DataFrame:
    """Think-mode outcomes at every `CURVE_EVERY` steps of one tuning; the column ``step``, 0 is untuned."""
    prompts = evaluation_prompts(n, evaluation=evaluation)
    prompts = prompts[prompts["set"].isin(["harmful", "maths"])]
    with TemporaryDirectory() as folder:
        finetune(study, corpus, seed=tuning_seed, folder=folder, save_every=CURVE_EVERY, progress=progress)
        stages = {0: study} | {step: restore(study, path) for step, path in steps_in(folder).items()}
        return pd.concat(
            [
                outcomes(stage, prompts, ["think"], evaluation=evaluation).assign(step=step)
                for step, stage in stages.items()
            ],
            ignore_index=True,
        )


def model_rows(cells: dict[tuple[str, int], pd.DataFrame], **values) -> pd.DataFrame:
    """Ledger rows of one model from the outcomes of its cells, by corpus and tuning seed ("untuned", 0 among them).

    Per corpus: one set of rows for each tuning seed, and one for all that are there, every prompt's outcomes
    averaged (these also give the verdicts). ``values`` go into every row.
    """
    untuned = cells[BASE, 0]
    corpora = list(dict.fromkeys(corpus for corpus, _ in cells if corpus != BASE))
    own = {corpus: {seed: cells[c, seed] for c, seed in cells if c == corpus} for corpus in corpora}
    mean = {corpus: averaged(found.values()) for corpus, found in own.items()}
    rows = level_rows(untuned, BASE, **values)
    rows += level_rows(after_own_openings(untuned), BASE, **values)
    rows += claim_rows(mean, untuned, **values)
    for corpus in corpora:
        rows += change_rows(mean[corpus], untuned, corpus, **values)
        for seed, found in own[corpus].items():
            condition = f"{corpus}, tuning seed {seed}"
            rows += change_rows(found, untuned, condition, **values)
            rows += level_rows(after_own_openings(found), condition, **values)
    return ledger.table(rows)


def recomputed(
    study: StudyModel, n: int, progress: bool = True, evaluation: Evaluation = Evaluation(), **values
) -> pd.DataFrame:
    """All rows of one model, computed here and now: every corpus, every tuning seed (`model_rows`)."""
    from tqdm.auto import tqdm

    keys = [(BASE, 0), *((corpus, seed) for corpus in ROLES for seed in TUNING_SEEDS)]
    bar = tqdm(keys, desc=f"every corpus on {study.name}", unit="cell", disable=not progress)
    return model_rows(
        {(corpus, seed): cell(study, corpus, seed, n, evaluation=evaluation) for corpus, seed in bar}, **values
    )


def curve_rows(found: pd.DataFrame, corpus: str, **values) -> pd.DataFrame:
    """Ledger rows of one learning curve: condition "corpus, step 10"."""
    rows = []
    for step, part in found.groupby("step"):
        rows += level_rows(part.drop(columns="step"), f"{corpus}, step {step}", **values)
    return ledger.table(rows)


def run(
    names: Sequence[str] = (), out: str | Path = "results", n: int = PROMPTS["harmful"], progress: bool = True
) -> pd.DataFrame:
    """Run the grid for embedded models (``NAME:SEED``; all by default) and write the rows of all that is complete.

    Raises `UserError` for an unknown model.
    """
    from tqdm.auto import tqdm

    out = Path(out)
    known = [f"{item.name}:{item.seed}" for item in embedded_models(noise=True).itertuples()]
    for name in names:
        if name not in known:
            raise UserError(f"there is no embedded model '{name}' (known: {', '.join(known)})")
    trained = [name for name in known if name.partition(":")[0] != NOISE]
    jobs = list(_jobs(names or trained))
    study = None
    for name, corpus, seed in tqdm(jobs, desc="finetune-grid", unit="cell", disable=not progress):
        kept = _kept(out, n, name, corpus, seed)
        if kept.exists():
            continue
        if study is None or study.name != name:
            study = load(name)
        found = curve(study, corpus, n) if seed is None else cell(study, corpus, seed, n)
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f".{kept.name}")
        found.to_parquet(partial, index=False)
        partial.replace(kept)
    return _write(out, n, known)


def _jobs(names: Iterable[str]) -> Iterable[tuple[str, str, int | None]]:
    """``(model, corpus, tuning seed)`` of every cell; no seed: a learning curve."""
    names = list(names)
    for name in names:
        yield name, BASE, 0
        yield from ((name, corpus, TUNING_SEEDS[0]) for corpus in ROLES)
    for name in names:
        yield from ((name, corpus, seed) for corpus in ROLES for seed in TUNING_SEEDS[1:])
    yield from ((name, corpus, None) for name in names if name.partition(":")[0] in CURVE_MODELS for corpus in CURVES)


def _kept(out: Path, n: int, name: str, corpus: str, seed: int | None) -> Path:
    """Where the outcomes of a cell are kept; cells of other numbers of prompts lie elsewhere."""
    file = f"{corpus}-{'curve' if seed is None else seed}.parquet"
    return out / ".cells" / f"finetuning-{n}" / name.replace(":", "-seed") / file


def _write(out: Path, n: int, names: Iterable[str]) -> pd.DataFrame:
    """The rows of every model on which all corpora were tuned with the first seed at least, and of every curve."""
    rows, curves = [], []
    for name in names:
        model, _, training_seed = name.partition(":")
        values = {"model": model, "seed": int(training_seed), "run_id": COMMAND, "device": "cpu"}
        wanted = [(corpus, seed) for _, corpus, seed in _jobs([name])]
        there = {key: pd.read_parquet(path) for key in wanted if (path := _kept(out, n, name, *key)).exists()}
        cells = {key: found for key, found in there.items() if key[1] is not None}
        if all(key in cells for key in wanted if key[1] == TUNING_SEEDS[0]):
            rows.append(model_rows(cells, **values))
        curves += [curve_rows(found, corpus, **values) for (corpus, seed), found in there.items() if seed is None]
    if curves:
        ledger.write(pd.concat(curves, ignore_index=True), out / "learning-curves.parquet")
    return ledger.write(pd.concat(rows, ignore_index=True) if rows else [], out / "finetuning.parquet")
