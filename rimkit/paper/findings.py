"""What the published numbers say about claims and figures, as `reanalysis` finds it, in sentences.

The sentences are in ``data/findings.csv``, by claim or figure; the numbers that stand in them are
found here, so that a sentence stays true of the tables.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from rimkit.behavior.stats import exact_test
from rimkit.data import data_dir, number, p_value, percent
from rimkit.data import points as in_points
from rimkit.ledger import claims
from rimkit.paper import reanalysis, tables
from rimkit.paper.reanalysis import FINISHED, GROUPS, PATTERNS, RIVALS, sides, think_mode
from rimkit.paper.statistics import average, exact_power, interval_of_r
from rimkit.paper.tables import HARM_BENCHMARK, MATHS_PROBLEMS, PROMPTS, READING, published

NOTHING = "The paper reports nothing that could be held against this."
Fields = dict[str, Any]  # what stands between the braces of a sentence
TEXTS = pd.read_csv(data_dir() / "findings.csv", index_col="about")["text"]
points = partial(in_points, digits=1)


def sentence(about: str, fields: Callable[[], Fields]) -> str:
    """A sentence of ``data/findings.csv`` with its numbers."""
    return TEXTS[about].format(**fields())


def finding(claim: str) -> str:
    """One sentence or two about a claim of ``data/claims.csv``."""
    return FINDINGS[claim]() if claim in FINDINGS else NOTHING


def findings() -> pd.Series:
    """`finding` of every claim, indexed by its id."""
    return pd.Series({claim: finding(claim) for claim in claims()["id"]}, name="finding")


def over(claim: str) -> str:
    """Whether the mean is typical of the models: median, signs, leave-one-out."""
    found = average(sides(claim)["effect"])
    low, high = map(points, (found.without_one_low, found.without_one_high))
    most = f"it changes most without {found.carried_by}"
    left_out = f"with one model left out the mean lies between {low} and {high} ({most})"
    signs = f"{found.n_positive} of {found.n} models above zero"
    return f"Median {points(found.median)} points; {signs}; {left_out}."


def p_in_words(value: float) -> str:
    """``"p = 0.52"``, or below 0.001."""
    return f"p {'' if value < 0.001 else '= '}{p_value(value)}"


def _over(claim: str) -> Fields:
    found = average(sides(claim)["effect"])
    return {"over": over(claim), "positive": found.n_positive, "models": found.n}


def _thinking() -> Fields:
    table = think_mode().query("metric == 'misaligned'")
    of = table[["on_of", "off_of"]].to_numpy()
    unfit = [*table.loc[table["on_of"] == 0, "on"], *table.loc[table["off_of"] == 0, "off"]]
    sizes = {"least": of[of > 0].min(), "most": of.max(), "benchmark": HARM_BENCHMARK}
    within = reanalysis.within_models().query("claim == 'C1a'")
    known = (within.filter(like="ci_low") > 0).sum().to_dict()
    known |= (within.filter(like="verdict") == "supported").sum().to_dict() | {"of": len(table)}
    return known | sizes | {"unfit": ", ".join(map(number, unfit))} | _over("C1a")


def _maths() -> Fields:
    table = think_mode().query("metric == 'score'")
    clear, n = table[table["ci_low"] > 0], table["on_of"]
    strict = reanalysis.within_models().query("claim == 'C1b'")["strict_effect"].mean()
    gains = *clear["effect"].agg(["min", "max"]), table["effect"].min(), strict, table["effect"].mean()
    known = dict(zip(("low", "high", "lowest", "strict", "mean"), map(points, gains), strict=True))
    sizes = {"least": n.min(), "most": n.max(), "problems": MATHS_PROBLEMS}
    return known | sizes | {"clear": len(clear), "of": len(table)}


def _patterns() -> Fields:
    table = tables.injected()
    return _over("C2a") | {"above": sum(table["target"] > table["control"]), "of": len(table)}


def _uninjected() -> Fields:
    thinking, table = tables.think_rates()["on"], tables.injected()
    table = table[table["model"].isin(thinking.index)]
    above = int((table["target"].to_numpy() > thinking[table["model"]].to_numpy()).sum())
    return {"models": " and ".join(table["model"].unique()), "above": above, "of": len(table)}


def _pattern(claim: str) -> Fields:
    table = sides(claim)
    up, down = int((table["ci_low"] > 0).sum()), int((table["ci_high"] < 0).sum())
    return _over(claim) | {"up": up, "down": down, "falls": "falls" if down == 1 else "fall"}


def _last_layer(counts: pd.DataFrame) -> pd.Series:
    """The place that the paper points to: between the tags, without thinking, at the last layer."""
    return counts.query("mode == 'no-think' and position == 'between think tags'").iloc[-1]


def _harmful() -> Fields:
    harmful, harmless = _last_layer(reanalysis.probe_counts())[["harmful", "harmless"]]
    return {"harmful": int(harmful), "of": GROUPS["no-think"][2], "harmless": percent(harmless)}


def _decision() -> Fields:
    counts, (refused, fulfilled, _) = reanalysis.probe_counts(), GROUPS["no-think"]
    here, tied = _last_layer(counts), int((counts["unexplained"].abs() <= 1).sum())
    p_fisher = exact_test(int(here["refused"]), refused, int(here["fulfilled"]), fulfilled)
    known = {"above": here["refused"], "below": here["fulfilled"], "tied": tied, "of": len(counts)}
    return known | {"refused": refused, "fulfilled": fulfilled, "p": p_in_words(p_fisher)}


def _heads() -> Fields:
    table = published("fig4b_refusal_head_counts")
    counts = table["prompts_of_180"]
    lower = percent(counts[table["layer"] <= 6].sum() / counts.sum())
    many, once = int((counts > 130).sum()), int((counts == 1).sum())
    return {"heads": len(table), "many": many, "of": PROMPTS, "once": once, "lower": lower}


def _ablation() -> Fields:
    found = reanalysis.head_ablation().set_index("position").loc["between think tags"]
    ours, random, n = (int(found[name]) for name in ("refusal_heads", "random_heads", "n"))
    known = {"ours": ours, "random": random, "n": n, "none": int(found["none"])}
    power = exact_power(ours / n, random / n, n)
    return known | {"p": p_in_words(found["p_value"]), "power": percent(power)}


def _difficulty() -> Fields:
    own = tables.changes().loc["Qwen3-4B", ["MATH401", "MATH500", "GSM8K"]]
    signed = (number(change, signed=True) for change in own)
    return _over("C6b") | dict(zip(("first", "second", "third"), signed, strict=True))


def _mode() -> Fields:
    rates, change = tables.think_rates().loc["Qwen3-4B"], tables.changes().loc["Qwen3-4B", "GSM8K"]
    return {"off": rates["off"], "on": rates["on"], "change": change, "sum": rates["off"] + change}


def _negligible() -> Fields:
    found = sides("C7b")["effect"]
    rises = found[found > 0]
    known = {"fall": sum(found < 0), "rise": len(rises), "rises": " and ".join(map(points, rises))}
    return known | _over("C7b")


def _neurons_maths() -> Fields:
    change, which = sides("C8b")["effect"], reanalysis.broken()
    drops, kinds = tables.by_model(*reanalysis.ZEROED, "math_drop_points"), ("safety-critical", "random")
    said = [[f"{name} ({drops.loc[name, kind]:.0f})" for name in which.index[which == kind]] for kind in kinds]
    lost, lost_random = map(" and ".join, said)
    mean = "{} ({} to {})".format(*map(points, average(change.drop(which.index))[:3]))
    return _over("C8b") | {"lost": lost, "lost_random": lost_random, "mean": mean}


def _ras_neurons() -> Fields:
    table = published("fig8_ras_vs_misalignment").query("model == 'Qwen3-4B'")
    found = table.groupby("predictor")["value"].agg(["min", "max"])
    names = [f"RAS ({which} neurons)" for which in ("safety", "random")]
    return {"both": " against ".join("{:.2f} to {:.2f}".format(*found.loc[name]) for name in names)}


def _ras_chains() -> Fields:
    wide = tables.by_model("fig7_ras_control_target", "training_set", "ras")
    ratio = wide["GSM8K(L)-target"] / wide["GSM8K(L)-control"] - 1
    by = f"{', '.join(f'{percent(value)}%' for value in ratio)} ({', '.join(ratio.index)})"
    return {"above": int((ratio > 0).sum()), "of": len(ratio), "by": by}


def _predictors(claim: str) -> Fields:
    table = reanalysis.table_3()
    ours, theirs = table.loc["RAS (safety neurons)"], table.loc[RIVALS[claim]]
    models = list(published("table3_predictor_correlations")["model"].unique())
    low, high = interval_of_r(ours["OLMo2-1B"], reanalysis.CHECKPOINTS)
    known, without = {"ours": ours["average"], "theirs": theirs["average"]}, "without Phi3.5-Tiny"
    known |= {"ours_without": ours[without], "theirs_without": theirs[without], "of": len(models)}
    larger = int((ours > theirs)[models].sum())
    return known | {"larger": larger, "r": ours["OLMo2-1B"], "low": low, "high": high}


def _kl() -> Fields:
    qwen = reanalysis.figure_8().set_index(["model", "predictor"]).loc[("Qwen3-4B", "RAS (safety neurons)")]
    known = {"predictors": sentence("C10b", partial(_predictors, "C10a")), "benchmark": HARM_BENCHMARK}
    known |= {"low": qwen["without_one_low"], "high": qwen["without_one_high"]}
    span = qwen["range_of_rates"] * HARM_BENCHMARK / 100
    return known | {"span": span, "p": p_in_words(qwen["p_permutation"])}


FIELDS: dict[str, Callable[[], Fields]] = {
    "C1a": _thinking, "C1b": _maths, "C2a": _patterns, "C2b": _uninjected, "C3a": _harmful,
    "C3b": _decision, "C3c": lambda: {"refused": FINISHED[0], "fulfilled": FINISHED[1]},
    "C4a": _heads, "C4b": _heads, "C5a": _ablation, "C6b": _difficulty, "C6d": _mode, "C7a": partial(_over, "C7a"),
    "C7b": _negligible, "C8b": _neurons_maths, "C9a": _ras_neurons, "C9b": _ras_chains,
}  # fmt: skip
FINDINGS: dict[str, Callable[[], str]] = {
    **{claim: partial(sentence, claim, fields) for claim, fields in FIELDS.items()},
    **{claim: partial(sentence, "C2c", partial(_pattern, claim)) for claim in PATTERNS},
    **{claim: partial(over, claim) for claim in ("C6a", "C6c", "C8a")},
    **{claim: partial(sentence, "C10b", partial(_predictors, claim)) for claim in RIVALS},
    "C10a": partial(sentence, "C10a", _kl),
}


def _figure_1() -> Fields:
    found, table1 = tables.before_after(), tables.think_rates().loc["Qwen3-4B"]
    change = tables.changes()["GSM8K"]
    largest = set(change.nlargest(len(found)).index) == set(found.index)
    ends = found[["before", "before_low", "before_high"]].itertuples()
    return {
        "drawn": len(found), "of": len(change), "which": ", those with the largest rises" * largest,
        "bases": ", ".join("{} {:.1f}% ({:.1f} to {:.1f})".format(*row) for row in ends),
        "reading": READING, "other": _other_change(found), "off": table1["off"], "on": table1["on"],
        "baseline": baseline(found.loc["Qwen3-4B"], table1),
    }  # fmt: skip


def _other_change(found: pd.DataFrame) -> str:
    """The rate implied where Table A7 prints another change after GSM8K than Table 2."""
    other = tables.literal_changes()["GSM8K"][found.index]
    differs = (other - found["change"]).abs() > 0.01
    bases = tables.implied_base(found["misalignment"], other)[differs]
    said = " With the change that Table A7 prints {} would be {:.1f}%."
    return "".join(said.format(*base) for base in bases.items())


def baseline(row: pd.Series, rates: pd.Series) -> str:
    """Which of Table 1's two rates lies within what a row of `before_after` can mean."""
    off, on = (row["before_low"] <= rates[mode] <= row["before_high"] for mode in ("off", "on"))
    return "neither rate for certain" if off == on else "the no-think rate" if off else "the think rate"


def _figure_a5() -> Fields:
    table = tables.flags()
    said = "{}: the shares drawn add up to {:.1f}%, of which {:.1f} are other"
    totals = "; ".join(said.format(*row) for row in table[["total", "none"]].itertuples())
    shares = table.drop(columns=["none", "total"]).map("{:.0f}%".format)
    patterns = ", ".join(f"{name} {' and '.join(shares[name])}" for name in shares)
    return {"totals": totals, "models": " and ".join(table.index), "patterns": patterns}


STATEMENTS: dict[str, Callable[[], str]] = {
    "Fig. 1": partial(sentence, "Fig. 1", _figure_1), "Fig. A5": partial(sentence, "Fig. A5", _figure_a5),
}  # fmt: skip
