"""Do the intervals and verdicts keep what they promise? Simulations of the functions that are used.

`simulate` draws data whose truth is known and counts how often the interval holds it (*coverage*),
how often something is found where nothing is (*false alarms*) or where something is (*power*).
`repeats` does so with a model's own replies: two seeds of the *same* condition are compared.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from rimkit.behavior.evaluation import Evaluation
from rimkit.behavior.stats import against_singles, mean_change, rate, wilson
from rimkit.ledger import claims, verdict
from rimkit.models.study import StudyModel

DRAWS, FRESH = 200, 2000  # of each setting; of each kind's worst, which is so by chance, too
SMALLEST = 0.05  # effect of interest
SETTING = ["what", "clusters", "per_cluster", "share", "spread", "effect"]
GRADES = 5  # replies to a prompt whose mean is a graded score
SETS = 41  # of which one is the selected one
CLEAR = ("supported", "contradicted", "small")
# Claims whose condition a model's own replies can show, with sampling noise: set, mode, metric.
REPEATED = {
    "C1a": ("harmful", "think", "misaligned"), "C1b": ("maths", "no-think", "score"),
    "C1d": ("ordering", "no-think", "score"), "C1e": ("second-safety", "think", "misaligned"),
    "C5a": ("harmful", "think", "refused"), "Q1a": ("over-refusal", "think", "refused"),
}  # fmt: skip


class Simulated(NamedTuple):
    """One simulated measurement: an interval, a p value, and the rank among single sets."""

    value: float
    low: float
    high: float
    p_value: float | None = None
    beyond: float | None = None


def _shares(rng: np.random.Generator, share: float, spread: float, clusters: int) -> np.ndarray:
    """The true share of each cluster; ``spread``: their variance, of the largest possible."""
    if not spread or share in (0, 1):
        return np.full(clusters, share)
    scale = (1 - spread) / spread
    return rng.beta(share * scale, (1 - share) * scale, clusters)


def _replies(rng: np.random.Generator, shares: np.ndarray, per_cluster: int, grades: int = 1) -> np.ndarray:
    return (rng.binomial(grades, shares[:, None], (len(shares), per_cluster)) / grades).ravel()


def _changed(change: np.ndarray, clusters: np.ndarray) -> Simulated:
    low, high, p_value, _ = mean_change(change, clusters)
    return Simulated(float(change.mean()), low, high, p_value)


def _rate(rng, clusters, per_cluster, share, spread, effect, grades: int = 1) -> Simulated:
    values = _replies(rng, _shares(rng, share, spread, clusters), per_cluster, grades)
    return Simulated(*rate(values, np.repeat(np.arange(clusters), per_cluster))[:3])


def _difference(rng, clusters, per_cluster, share, spread, effect, grades: int = 1) -> Simulated:
    sides = [_replies(rng, _shares(rng, p, spread, clusters), per_cluster, grades) for p in (share + effect, share)]
    return _changed(sides[0] - sides[1], np.repeat(np.arange(clusters), per_cluster))


def _turned(rng, clusters, per_cluster, share, spread, effect) -> Simulated:
    """Few verbs turn, and each as a whole: with the chance ``effect``, against none."""
    change = np.repeat((rng.random(clusters) < effect).astype(float), per_cluster)
    return _changed(change, np.repeat(np.arange(clusters), per_cluster))


def _set(rng, clusters, per_cluster, share, spread, effect) -> Simulated:
    """A selected set among others like it, each with a share of its own (``spread``: its sd)."""
    own = np.clip(rng.normal(share, spread, SETS), 0, 1)
    own[0] = np.clip(own[0] + effect, 0, 1)
    verbs = _shares(rng, 0.5, 0.05, clusters) - 0.5
    replies = np.stack([_replies(rng, np.clip(one + verbs, 0, 1), per_cluster) for one in own])
    low, high, *_ = mean_change(replies[0] - replies[1:].mean(0), np.repeat(np.arange(clusters), per_cluster))
    means = replies.mean(1)
    found = {"effect": means[0] - means[1:].mean(), "ci_low": low, "ci_high": high}
    found = against_singles(found, means[0] - means[1:], limit=1.0)
    return Simulated(found["effect"], found["ci_low"], found["ci_high"], found["p_value"], found["beyond"])


WHAT: dict[str, tuple[Callable, dict[str, tuple]]] = {  # how it is measured, and the settings
    "rate": (_rate, {"share": (0.01, 0.05, 0.2, 0.5), "spread": (0, 0.1, 0.3)}),
    "graded rate": (partial(_rate, grades=GRADES), {"share": (0.02, 0.2, 0.5), "spread": (0, 0.1, 0.3)}),
    "paired difference": (_difference, {"share": (0.02, 0.2, 0.5), "spread": (0, 0.1, 0.3), "effect": (0, 0.1, 0.25)}),
    "graded difference": (partial(_difference, grades=GRADES),
        {"share": (0.02, 0.5), "spread": (0, 0.1), "effect": (0, 0.1, 0.25)}),
    "whole verbs turn": (_turned, {"effect": (0.05, 0.2, 0.5)}),
    "set": (_set, {"share": (0.3, 0.6), "spread": (0.02, 0.1, 0.2), "effect": (0, 0.3)}),
    "difference by size": (_difference, {"share": (0.2,), "spread": (0.1,),
        "effect": (0, 0.1, 0.25), "sizes": (*product((12, 24, 48, 96), (1, 4, 14)),)}),
}  # fmt: skip
SIZES = ((12, 4), (23, 14), (48, 4), (48, 14))  # verbs, prompts of each


def settings(quick: bool = False) -> Iterator[tuple]:
    """Every `SETTING` that is simulated; ``quick``: the middle of each kind."""
    for what, (_, options) in WHAT.items():
        axes = [options.get(name, (0,)) for name in SETTING[3:]]
        if quick:
            axes = [axis[:2] if name == "effect" else axis[len(axis) // 2 :][:1]
                    for name, axis in zip(SETTING[3:], axes, strict=True)]  # fmt: skip
        for sizes in [(23, 4)] if quick else options.get("sizes", SIZES):
            yield from ((what, *sizes, *one) for one in product(*axes))


def simulate(n: int = DRAWS, quick: bool = False, progress: bool = False, seed: int = 0) -> pd.DataFrame:
    """A row per setting: `SETTING`, ``n``, and over ``n`` draws ``coverage`` (of the truth; for a
    set: of what another like it would do), ``half_width`` (mean), ``significant`` (p below 0.05,
    uncorrected; for a set also beyond 95% of the others), ``clear, no_effect`` (verdicts)."""
    family, rows = int(claims().query("primary")["family_size"].iloc[0]), []
    for number, one in enumerate(tqdm(list(settings(quick)), "audit", unit="setting", disable=not progress)):
        drawn, held = _drawn(one, n, [seed, number])
        row = {"n": n, "coverage": held, "half_width": np.mean([found.high - found.low for found in drawn]) / 2}
        if "rate" not in one[0]:
            words = pd.Series([_word(found, family, SMALLEST) for found in drawn])
            row["significant"] = np.mean([_word(found) in CLEAR for found in drawn])
            row |= {"clear": words.isin(CLEAR).mean(), "no_effect": words.eq("no effect").mean()}
        rows.append(dict(zip(SETTING, one, strict=True)) | row)
    return pd.DataFrame(rows)


def with_fresh(table: pd.DataFrame, n: int = FRESH) -> pd.DataFrame:
    """`simulate`'s table with ``fresh``: coverage in ``n_fresh`` draws of a kind's worst setting."""
    worst = table.loc[table.groupby("what")["coverage"].idxmin(), SETTING].itertuples(name=None)
    fresh = pd.Series({number: _drawn(one, n, [1, number])[1] for number, *one in worst})
    return table.assign(fresh=fresh, n_fresh=fresh.notna() * n)


def _drawn(one: Sequence, n: int, seed: list[int]) -> tuple[list[Simulated], float]:
    """What ``n`` draws of a setting give, and in what share of them the truth is held."""
    what, *rest = one
    rng, truth = np.random.default_rng(seed), rest[2 if "rate" in what else 4]  # share or effect
    drawn = [WHAT[what][0](rng, *rest) for _ in range(n)]
    return drawn, float(np.mean([found.low <= truth <= found.high for found in drawn]))


def _word(found: Simulated, family: int = 1, smallest: float = 0.0) -> str:
    """The verdict; as it stands without correction, and whatever the size of the effect."""
    return verdict(found.value, found.low, found.high, 1, smallest, found.p_value, family, True, found.beyond)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Of `simulate` by ``what``: mean and least coverage, false alarms and power, as shares."""
    rows = {}
    for what, part in table.groupby("what", sort=False):
        null, real = part[part["effect"] == 0], part[part["effect"] > 0]
        rows[what] = {
            "settings": len(part), "coverage": part["coverage"].mean(), "least coverage": part["coverage"].min(),
            "false alarms": null["significant"].mean(), "most false alarms": null["significant"].max(),
            "false alarms, corrected": null["clear"].mean(),
            "power": real["significant"].mean(), "power, corrected": real["clear"].mean(),
        }  # fmt: skip
    return pd.DataFrame(rows).T.rename_axis("what")


def repeats(study: StudyModel, n_prompts=None, n_samples=8, resamples=200, progress=False) -> pd.DataFrame:
    """False alarms with a model's own replies, by ``claim``: of ``resamples`` pairs of sampling
    seeds of one condition, how many give ``significant`` (p below 0.05) and ``clear`` verdicts.
    Columns ``claim, set, mode, metric, value`` (its rate)``, n`` (resamples)``, significant, low,
    high`` (Wilson's interval of that share)``, clear``. Prompts draw two samples."""
    rows, known, evaluation = [], claims().set_index("id"), Evaluation()
    for claim, (name, mode, metric) in REPEATED.items():
        prompts = evaluation.sets([name], n=n_prompts)
        prompts = prompts[prompts["kind"] == "harmful"] if metric == "misaligned" else prompts
        found = evaluation.judged(study, prompts, mode, n_samples=n_samples, progress=progress)
        wide = found.pivot(index="prompt_id", columns="sample", values=metric).astype(float).dropna()
        clusters = found.drop_duplicates("prompt_id").set_index("prompt_id").loc[wide.index, "cluster"]
        family, rng = known.loc[claim, "family_size"], np.random.default_rng(0)
        pairs = (rng.permuted(wide.to_numpy(), axis=1)[:, :2].T for _ in range(resamples))
        drawn = [_changed(one - other, clusters.to_numpy()) for one, other in pairs]
        alarms = float(np.mean([_word(one) in CLEAR for one in drawn]))
        low, high = wilson(alarms, resamples)
        clear = float(np.mean([_word(one, family, SMALLEST) in CLEAR for one in drawn]))
        rows.append({
            "claim": claim, "set": name, "mode": mode, "metric": metric, "value": float(wide.to_numpy().mean()),
            "n": resamples, "significant": alarms, "low": low, "high": high, "clear": clear,
        })  # fmt: skip
    return pd.DataFrame(rows)
