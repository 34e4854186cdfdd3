"""How many prompts, seeds or checkpoints would a claim have needed?

The noise of a misalignment rate has three parts: which prompts were asked (shrinks with prompts), which seed was
trained (shrinks with seeds) and what the judge said this time (shrinks with seeds, since every seed is judged anew).
Two rates are compared; power is that of a two-sided test of their difference (statsmodels' normal approximation).
"""

from __future__ import annotations

from math import atanh, ceil, inf, sqrt

import pandas as pd
from scipy.special import ndtri
from statsmodels.stats.power import normal_power

from rimkit.errors import UserError
from rimkit.published.tables import HARM_BENCHMARK

JUDGE_SD = 0.005  # of a rate, judged again: 0.0035 to 0.0052 in Zhao et al. 2026 (arXiv 2608.23497), another judge
SEED_SD = 0.02  # of a rate between training seeds: nothing is published; a guess to be replaced by your own
POWER = 0.8  # chance of a clear result that is usually asked for
LEVEL = 0.95


def standard_error(
    rate: float, control_rate: float, n_prompts: int, n_seeds: int = 1, judge_sd: float = 0.0, seed_sd: float = 0.0
) -> float:
    """Of the difference of two rates (fractions), each over ``n_prompts`` prompts and ``n_seeds`` seeds.

    Seeds share the prompts, so more seeds do not replace prompts. Takes the two rates as independent, as they are
    with different prompts; with the same prompts the error is smaller by how much the two verdicts agree.
    """
    _check(rate, control_rate, n_prompts, n_seeds, judge_sd, seed_sd)
    prompts = (rate * (1 - rate) + control_rate * (1 - control_rate)) / n_prompts
    return sqrt(prompts + 2 * (judge_sd**2 + seed_sd**2) / n_seeds)


def power(
    rate: float, control_rate: float, n_prompts: int, n_seeds: int = 1, judge_sd: float = 0.0, seed_sd: float = 0.0
) -> float:
    """Chance that the interval of the difference excludes zero if the rates are what they are said to be."""
    error = standard_error(rate, control_rate, n_prompts, n_seeds, judge_sd, seed_sd)
    if not error:
        return float(rate != control_rate)
    return float(normal_power(abs(rate - control_rate), nobs=1, alpha=1 - LEVEL, sigma=error))


def prompts_needed(
    rate: float, control_rate: float, n_seeds: int = 1, judge_sd: float = 0.0, seed_sd: float = 0.0
) -> float:
    """Prompts per condition for a power of `POWER`; ``inf`` where judge and seeds alone are too noisy for it."""
    _check(rate, control_rate, 1, n_seeds, judge_sd, seed_sd)
    allowed = (abs(rate - control_rate) / _reach()) ** 2 - 2 * (judge_sd**2 + seed_sd**2) / n_seeds
    if allowed <= 0:
        return inf
    return float(ceil((rate * (1 - rate) + control_rate * (1 - control_rate)) / allowed))


def seeds_needed(
    rate: float, control_rate: float, n_prompts: int = HARM_BENCHMARK, judge_sd: float = JUDGE_SD, seed_sd=SEED_SD
) -> float:
    """Seeds per condition for a power of `POWER` with ``n_prompts`` prompts; ``inf`` where the prompts are too few."""
    _check(rate, control_rate, n_prompts, 1, judge_sd, seed_sd)
    prompts = (rate * (1 - rate) + control_rate * (1 - control_rate)) / n_prompts
    allowed = (abs(rate - control_rate) / _reach()) ** 2 - prompts
    return float(max(1, ceil(2 * (judge_sd**2 + seed_sd**2) / allowed))) if allowed > 0 else inf


def checkpoints_needed(r: float, other_r: float) -> float:
    """Independent checkpoints per predictor that tell two correlations apart with a power of `POWER` (Fisher's z)."""
    if not (-1 < r < 1 and -1 < other_r < 1):
        raise UserError("correlations lie between -1 and 1")
    distance = abs(atanh(r) - atanh(other_r))
    return float(ceil(3 + 2 * (_reach() / distance) ** 2)) if distance else inf


# What the paper compares, as rates in percent of one model or as correlations, with the place where they stand.
COMPARISONS = (
    ("C1a", "thinking, Qwen3-4B", "Table 1", 22.94, 15.39),
    ("C1a", "thinking, Qwen3-30B-A3B", "Table 1", 14.10, 7.41),
    ("C2c", "confirmatory thoughts, Qwen3-4B", "Table A3", 10.00, 8.67),
    ("C2c", "confirmatory thoughts, Mixtral-8x7B", "Table A3", 77.10, 56.04),
    ("C5a", "refusal heads ablated, probe between the tags", "Fig. 5", 100 * 12 / 21, 100 * 15 / 21),
    ("C6a", "GSM8K, Qwen3-4B", "Table 2", 15.39 + 8.70, 15.39),
    ("C6b", "GSM8K against MATH401, Qwen3-4B", "Table 2", 15.39 + 8.70, 15.39 + 12.17),
    ("C6c", "effort-minimising against careful chains, Qwen3-4B", "Table 2", 15.39 + 22.17, 15.39 - 5.69),
    ("C7a", "GSM8K against its literal twin, Qwen3-4B", "Table A7", 15.39 + 8.70, 15.39 - 2.18),
    ("C8a", "safety-critical against random neurons, Qwen3-4B", "Fig. 6", 15.39 + 11.28, 15.39 - 3.38),
)


def needed() -> pd.DataFrame:
    """For every claim of the paper about rates: the power it had, and what it would have needed.

    Columns: ``claim, comparison, where, rate, control_rate`` (fractions)``, had`` (prompts)``, power`` (with one seed
    and a judge without noise)``, prompts`` (one seed, judge noise of `JUDGE_SD`)``, seeds`` (with `HARM_BENCHMARK`
    prompts, judge noise and `SEED_SD`; 1 for claims about prompting, which train nothing).
    """
    rows = []
    for claim, comparison, where, percent, control_percent in COMPARISONS:
        rates = percent / 100, control_percent / 100
        had = 21 if claim == "C5a" else HARM_BENCHMARK
        seeds = {"seed_sd": SEED_SD} if claim[:2] in ("C6", "C7") else {"seed_sd": 0.0}
        rows.append({
            "claim": claim, "comparison": comparison, "where": where, "rate": rates[0], "control_rate": rates[1],
            "had": had, "power": power(*rates, had), "prompts": prompts_needed(*rates, judge_sd=JUDGE_SD),
            "seeds": seeds_needed(*rates, **seeds),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _reach() -> float:
    """The distance in standard errors at which a two-sided test at `LEVEL` has a power of `POWER` (2.80)."""
    return float(ndtri((1 + LEVEL) / 2) + ndtri(POWER))


def _check(rate, control_rate, n_prompts, n_seeds, judge_sd, seed_sd) -> None:
    if not (0 <= rate <= 1 and 0 <= control_rate <= 1):
        raise UserError(f"rates are fractions from 0 to 1, not {rate:g} and {control_rate:g}")
    if n_prompts < 1 or n_seeds < 1:
        raise UserError("a design has at least one prompt and one seed")
    if judge_sd < 0 or seed_sd < 0:
        raise UserError("a standard deviation is not negative")
