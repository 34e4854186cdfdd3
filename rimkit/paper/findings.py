"""What the published numbers say about claims and figures, as `reanalysis` finds it, in sentences.

A sentence has its numbers from there, so that it stays true of the tables.
"""

from collections.abc import Callable
from functools import partial

import pandas as pd

from rimkit.behavior.stats import exact_test
from rimkit.data import number, p_value, percent
from rimkit.data import points as in_points
from rimkit.ledger import claims
from rimkit.paper import reanalysis, tables
from rimkit.paper.reanalysis import FINISHED, GROUPS, PATTERNS, RIVALS, sides, think_mode
from rimkit.paper.statistics import average, exact_power, interval_of_r
from rimkit.paper.tables import HARM_BENCHMARK, MATHS_PROBLEMS, PROMPTS, READING, published

NOTHING = "The paper reports nothing that could be held against this."
points = partial(in_points, digits=1)


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
    return (
        f"Median {points(found.median)} points; {found.n_positive} of {found.n} models above zero; "
        f"with one model left out the mean lies between {low} and {high} (it changes most without "
        f"{found.carried_by})."
    )


def p_in_words(value: float) -> str:
    """``"p = 0.52"``, or below 0.001."""
    return f"p {'' if value < 0.001 else '= '}{p_value(value)}"


def _thinking() -> str:
    table = think_mode().query("metric == 'misaligned'")
    clear, of = int((table["ci_low"] > 0).sum()), table[["on_of", "off_of"]].to_numpy()
    unfit = [*table.loc[table["on_of"] == 0, "on"], *table.loc[table["off_of"] == 0, "off"]]
    return (
        f"{clear} of {len(table)} models rise with an interval over prompts that excludes zero. "
        f"{over('C1a')} The printed rates fit counts over {of[of > 0].min()} to {of.max()} "
        f"requests, one rate ({', '.join(map(number, unfit))}) fits none of up to "
        f"{HARM_BENCHMARK}, so replies seem to be missing."
    )


def _maths() -> str:
    table = think_mode().query("metric == 'score'")
    clear = table[table["ci_low"] > 0]
    strict = (table["value"] * table["on_of"] / MATHS_PROBLEMS - table["control_value"]).mean()
    return (
        f"{len(clear)} of {len(table)} models gain clearly ({points(clear['effect'].min())} to "
        f"{points(clear['effect'].max())} points), one does not ({points(table['effect'].min())}). "
        f"The accuracies with thinking fit only {table['on_of'].min()} to {table['on_of'].max()} "
        f"of {MATHS_PROBLEMS} problems; with the missing ones counted as wrong the mean gain is "
        f"{points(strict)} points instead of {points(table['effect'].mean())}."
    )


def _patterns() -> str:
    table = tables.injected()
    above = int((table["target"] > table["control"]).sum())
    return f"Effort-minimising above careful in {above} of {len(table)} cells. {over('C2a')}"


def _uninjected() -> str:
    thinking = tables.think_rates()["on"]
    table = tables.injected()
    table = table[table["model"].isin(thinking.index)]
    above = int((table["target"].to_numpy() > thinking[table["model"]].to_numpy()).sum())
    models = " and ".join(table["model"].unique())
    return (
        f"Only {models} were also measured without injection: {above} of {len(table)} "
        "effort-minimising cells lie above the model's own rate with thinking. That injected care "
        "lowers misalignment is as good a reading as that injected haste raises it."
    )


def _pattern(claim: str) -> str:
    table = sides(claim)
    up, down = int((table["ci_low"] > 0).sum()), int((table["ci_high"] < 0).sum())
    falls = "falls" if down == 1 else "fall"
    return f"{over(claim)} Over prompts, {up} models rise clearly and {down} {falls} clearly."


def _last_layer(counts: pd.DataFrame) -> pd.Series:
    """The place that the paper points to: between the tags, without thinking, at the last layer."""
    return counts.query("mode == 'no-think' and position == 'between think tags'").iloc[-1]


def _harmful() -> str:
    here = _last_layer(reanalysis.probe_counts())
    return (
        f"Solid: at the last layer, between the tags, {int(here['harmful'])} of "
        f"{GROUPS['no-think'][2]} harmful and {percent(here['harmless'])}% of the harmless prompts "
        "lie above the threshold. No shuffled-label control and no area under the curve is given."
    )


def _decision() -> str:
    counts = reanalysis.probe_counts()
    tied = int((counts["unexplained"].abs() <= 1).sum())
    refused, fulfilled, _ = GROUPS["no-think"]
    here = _last_layer(counts)
    p_fisher = exact_test(int(here["refused"]), refused, int(here["fulfilled"]), fulfilled)
    return (
        f"Refused and fulfilled prompts do differ ({here['refused']} of {refused} against "
        f"{here['fulfilled']} of {fulfilled} above threshold, Fisher's exact "
        f"{p_in_words(p_fisher)}), but the readout is of harm: in {tied} of {len(counts)} cells "
        "the two counts add up to the harmful ones within one prompt, so that all curves come "
        "from one probe."
    )


def _inside() -> str:
    refused, fulfilled, _ = FINISHED
    return (
        f"Rests on about {fulfilled} fulfilled prompts against {refused} refused ones, those whose "
        "thought ended. At which tokens the probe was trained is not stated; here it is averaged "
        "over all tokens of the thought."
    )


def _heads() -> str:
    table = published("fig4b_refusal_head_counts")
    counts = table["prompts_of_180"]
    lower = counts[table["layer"] <= 6].sum() / counts.sum()
    return (
        f"{len(table)} heads show the shift on at least one of {PROMPTS} harmful prompts, "
        f"{int((counts == 1).sum())} of them on one; {percent(lower)}% of the counts lie in layers "
        "0 to 6. Harmless prompts, the control, were not counted."
    )


def _attention() -> str:
    n = int((published("fig4b_refusal_head_counts")["prompts_of_180"] > 130).sum())
    shown = f"{n} heads show the shift on more than 130 of {PROMPTS} prompts."
    return f"{shown} No other heads are drawn for comparison."


def _ablation() -> str:
    found = reanalysis.head_ablation().set_index("position").loc["between think tags"]
    ours, random, n = int(found["refusal_heads"]), int(found["random_heads"]), int(found["n"])
    power = exact_power(ours / n, random / n, n)
    return (
        f"{ours} against {random} of {n} fulfilled prompts above the threshold, "
        f"{int(found['none'])} without any ablation: {p_in_words(found['p_value'])} by Fisher's "
        f"exact test. If this were real, this test of {n} prompts would have shown it in "
        f"{percent(power)}% of tries. Refusals themselves were not counted."
    )


def _difficulty() -> str:
    own = tables.changes().loc["Qwen3-4B", ["MATH401", "MATH500", "GSM8K"]]
    first, second, third = (number(change, signed=True) for change in own)
    reversed_ = f"{first}, {second} and {third} points for MATH401, MATH500 and GSM8K"
    return f"GSM8K against MATH401. {over('C6b')} In Qwen3-4B the order is reversed: {reversed_}."


def _mode() -> str:
    rates, change = tables.think_rates().loc["Qwen3-4B"], tables.changes().loc["Qwen3-4B", "GSM8K"]
    return (
        f"The mode is not stated. Qwen3-4B without thinking ({rates['off']:.1f}%) plus its rise on "
        f"GSM8K ({change:.1f}) gives {rates['off'] + change:.1f}%, close to the untuned model with "
        f"thinking ({rates['on']:.1f}%): a switch of mode would explain it."
    )


def _literal() -> str:
    found = average(sides("C7a")["effect"])
    positive = f"the paired difference is positive in {found.n_positive} of {found.n} models."
    return f"Solid, and stronger than printed: {positive} {over('C7a')}"


def _negligible() -> str:
    found = sides("C7b")["effect"]
    rise = found[found > 0]
    return (
        f"A mean near zero is a cancellation here: {int((found < 0).sum())} models fall, "
        f"{len(rise)} rise ({' and '.join(map(points, rise))} points). {over('C7b')}"
    )


def _neurons_maths() -> str:
    change, which = sides("C8b")["effect"], reanalysis.broken()
    drops, kinds = tables.by_model(*reanalysis.ZEROED, "math_drop_points"), ("safety-critical", "random")
    lost = [
        " and ".join(f"{name} ({drops.loc[name, kind]:.0f})" for name in which.index[which == kind]) for kind in kinds
    ]
    rest = [average(change.drop(gone.index)) for gone in (which[which == kinds[0]], which)]
    means = ["{} ({} to {})".format(*map(points, one[:3])) for one in rest]
    return (
        f"{over('C8b')} Models that lose more than 40 points: {lost[0]} with safety-critical neurons "
        f"at zero, {lost[1]} with random ones. Without those of the first kind the mean is {means[0]}, "
        f"without all of them it is {means[1]}. Whether the models still wrote sense is not reported."
    )


def _ras_neurons() -> str:
    table = published("fig8_ras_vs_misalignment").query("model == 'Qwen3-4B'")
    found = table.groupby("predictor")["value"].agg(["min", "max"])
    names = [f"RAS ({which} neurons)" for which in ("safety", "random")]
    both = " against ".join("{:.2f} to {:.2f}".format(*found.loc[name]) for name in names)
    said = "far apart at every checkpoint, for one random set."
    return f"In the one model drawn with both: {both}, {said}"


def _ras_chains() -> str:
    wide = tables.by_model("fig7_ras_control_target", "training_set", "ras")
    ratio = wide["GSM8K(L)-target"] / wide["GSM8K(L)-control"] - 1
    by = f"{', '.join(f'{percent(value)}%' for value in ratio)} ({', '.join(ratio.index)})"
    return (
        f"Higher in {int((ratio > 0).sum())} of {len(ratio)} models, by {by}, from values printed with "
        "two digits and without intervals. Effects are logarithms of that ratio."
    )


def _predictors(claim: str) -> str:
    table = reanalysis.table_3()
    ours, theirs = table.loc["RAS (safety neurons)"], table.loc[RIVALS[claim]]
    models = list(published("table3_predictor_correlations")["model"].unique())
    low, high = interval_of_r(ours["OLMo2-1B"], reanalysis.CHECKPOINTS)
    return (
        f"{ours['average']:.2f} against {theirs['average']:.2f} on average, "
        f"{ours['without Phi3.5-Tiny']:.2f} against {theirs['without Phi3.5-Tiny']:.2f} without "
        f"Phi3.5; larger in {int((ours > theirs)[models].sum())} of {len(models)} models. Eight "
        f"checkpoints of one run leave r = {ours['OLMo2-1B']:.2f} an interval of {low:.2f} to "
        f"{high:.2f}, if they were independent."
    )


def _kl() -> str:
    qwen = reanalysis.figure_8().set_index(["model", "predictor"]).loc[("Qwen3-4B", "RAS (safety neurons)")]
    span = qwen["range_of_rates"] * HARM_BENCHMARK / 100
    return (
        f"{_predictors('C10a')} In Qwen3-4B, if checkpoints were exchangeable, which those of one "
        "run are not, the correlation itself holds up (permutation "
        f"{p_in_words(qwen['p_permutation'])}, leave-one-out {qwen['without_one_low']:.2f} to "
        f"{qwen['without_one_high']:.2f}), over a range of {span:.0f} prompts in {HARM_BENCHMARK}."
    )


FINDINGS: dict[str, Callable[[], str]] = {
    "C1a": _thinking, "C1b": _maths, "C2a": _patterns, "C2b": _uninjected,
    **{claim: partial(_pattern, claim) for claim in PATTERNS},
    "C3a": _harmful, "C3b": _decision, "C3c": _inside, "C4a": _heads, "C4b": _attention, "C5a": _ablation,
    "C6a": partial(over, "C6a"), "C6b": _difficulty, "C6c": partial(over, "C6c"), "C6d": _mode,
    "C7a": _literal, "C7b": _negligible, "C8a": partial(over, "C8a"), "C8b": _neurons_maths,
    "C9a": _ras_neurons, "C9b": _ras_chains,
    **{claim: partial(_predictors, claim) for claim in RIVALS}, "C10a": _kl,
}  # fmt: skip


def _figure_1() -> str:
    found, table1 = tables.before_after(), tables.think_rates().loc["Qwen3-4B"]
    change = tables.changes()["GSM8K"]
    largest = set(change.nlargest(len(found)).index) == set(found.index)
    ends = found[["before", "before_low", "before_high"]].itertuples()
    bases = ", ".join("{} {:.1f}% ({:.1f} to {:.1f})".format(*row) for row in ends)
    return (
        f"{len(found)} of {len(change)} models are drawn{', those with the largest rises' * largest}. "
        f"With the changes of Table 2 the ratios imply these misalignment rates before tuning: "
        f"{bases}; in brackets, with a ratio read {READING} wrong.{_other_change(found)} Table 1 has "
        f"Qwen3-4B at {table1['off']:.1f}% without and {table1['on']:.1f}% with thinking: the "
        f"baseline of its change is {baseline(found.loc['Qwen3-4B'], table1)}."
    )


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


def _figure_a5() -> str:
    table = tables.flags()
    said = "{}: the shares drawn add up to {:.1f}%, of which {:.1f} are other"
    totals = "; ".join(said.format(*row) for row in table[["total", "none"]].itertuples())
    shares = table.drop(columns=["none", "total"]).map("{:.0f}%".format)
    patterns = ", ".join(f"{name} {' and '.join(shares[name])}" for name in shares)
    return f"{totals}. By pattern ({' and '.join(table.index)}): {patterns}."


STATEMENTS: dict[str, Callable[[], str]] = {
    "Fig. 1": _figure_1, "Fig. A5": _figure_a5,
}  # fmt: skip
