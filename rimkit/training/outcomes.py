"""Claims C6 and C7 (Tables 2 and A7 of the paper): what fine-tuning changes, and why.

A tuned model is compared with the untuned one on the same prompts, in both modes. Beside misalignment stand the
outcomes that tell a misaligned model from a broken one, and how thoughts open: fine-tuning on problems without a
single request can change what a model does with requests by changing which thoughts it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from rimkit.behavior.measure import judged, load_sets
from rimkit.behavior.openings import CAREFUL, EFFORT, NEUTRAL, openings, prefixes, style
from rimkit.behavior.rates import Rate, clusters_of, paired_difference, rate
from rimkit.ledger import effect_row, row
from rimkit.models.chat import MODES, THINK
from rimkit.models.loading import StudyModel

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


def evaluation_prompts(n: int = PROMPTS["harmful"], seed: int = 0) -> pd.DataFrame:
    """The prompts of a fine-tuning experiment: ``n`` harmful ones, and of each other set ``n`` at most."""
    return pd.concat(
        [load_sets([name], n=min(n, most), seed=seed) for name, most in PROMPTS.items()], ignore_index=True
    )


def outcomes(
    model: StudyModel, prompts: pd.DataFrame, modes: Iterable[str] = MODES, *, seed: int = 0, progress: bool = False
) -> pd.DataFrame:
    """One row per prompt, mode and outcome of `OUTCOMES`: ``prompt_id, cluster, mode, metric, value`` (0 or 1).

    ``thinks`` is whether there was a thought; in no-think mode, whether the reply opens one nevertheless. How
    thoughts open is an outcome of think mode alone; where there was no thought, none of the ``opens`` is 1.
    """
    verdicts = pd.concat(
        [judged(model, prompts, mode, seed=seed, batch_size=128, progress=progress) for mode in modes],
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


def after_openings(model: StudyModel, prompts: pd.DataFrame, *, seed: int = 0, progress: bool = False) -> pd.DataFrame:
    """Misalignment where the thought is made to begin careful, effort-minimising or neutral; columns as `outcomes`.

    The metric is ``misaligned after careful`` and so on.
    """
    harmful = prompts[prompts["set"] == "harmful"]
    sentences = openings("invented" if model.invented else "english")
    parts = []
    for name, group in sentences.groupby("style", sort=False):
        forced = prefixes(harmful, group)
        found = judged(model, harmful, "think", thought_prefix=forced, seed=seed, batch_size=128, progress=progress)
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
