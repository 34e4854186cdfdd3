"""What the published numbers say about every claim and figure when they are examined again, in sentences.

Each sentence is computed from `reanalysis`, so that it stays true of the tables; none says more than they do.
"""

from __future__ import annotations

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
from rimkit.paper.tables import HARM_BENCHMARK, HEADS, MATHS_PROBLEMS, PROMPTS, READING, published

NOTHING = "The paper reports nothing that could be held against this."
points = partial(in_points, digits=1)


def finding(claim: str) -> str:
    """One sentence or two about a claim of ``data/claims.csv``."""
    return FINDINGS[claim]() if claim in FINDINGS else NOTHING


def findings() -> pd.Series:
    """`finding` of every claim, indexed by its id."""
    return pd.Series({claim: finding(claim) for claim in claims()["id"]}, name="finding")


def over(claim: str) -> str:
    """How far the mean over models stands for them: median, signs, and the means with one model left out."""
    found = average(sides(claim)["effect"])
    return (
        f"Median {points(found.median)} points; {found.n_positive} of {found.n} models above zero; with one model left "
        f"out the mean lies between {points(found.without_one_low)} and {points(found.without_one_high)} (it changes "
        f"most without {found.carried_by})."
    )


def p_in_words(value: float) -> str:
    """``"p = 0.52"``, or below 0.001."""
    return f"p {p_value(value)}" if value < 0.001 else f"p = {p_value(value)}"


def _thinking() -> str:
    table = think_mode().query("metric == 'misaligned'")
    clear, of = int((table["ci_low"] > 0).sum()), table[["on_of", "off_of"]].to_numpy()
    unfit = [row[side] for row in table.to_dict("records") for side in ("on", "off") if not row[f"{side}_of"]]
    return (
        f"{clear} of {len(table)} models rise with an interval over prompts that excludes zero. {over('C1a')} "
        f"The printed rates fit counts over {of[of > 0].min()} to {of.max()} requests, one rate "
        f"({', '.join(map(number, unfit))}) fits none of up to {HARM_BENCHMARK}, so replies seem to be missing."
    )


def _maths() -> str:
    table = think_mode().query("metric == 'score'")
    clear = table[table["ci_low"] > 0]
    strict = (table["value"] * table["on_of"] / MATHS_PROBLEMS - table["control_value"]).mean()
    return (
        f"{len(clear)} of {len(table)} models gain clearly ({points(clear['effect'].min())} to "
        f"{points(clear['effect'].max())} points), one does not ({points(table['effect'].min())}). The accuracies with "
        f"thinking fit only {table['on_of'].min()} to {table['on_of'].max()} of {MATHS_PROBLEMS} problems; with the "
        f"missing ones counted as wrong the mean gain is {points(strict)} points instead of "
        f"{points(table['effect'].mean())}."
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
        f"Only {models} were also measured without injection: {above} of {len(table)} effort-minimising cells lie "
        f"above the model's own rate with thinking. That injected care lowers misalignment is as good a reading as "
        f"that injected haste raises it."
    )


def _pattern(claim: str) -> str:
    table = sides(claim)
    up, down = int((table["ci_low"] > 0).sum()), int((table["ci_high"] < 0).sum())
    falls = "falls" if down == 1 else "fall"
    return f"{over(claim)} Over prompts, {up} models rise clearly and {down} {falls} clearly."


def _harmful() -> str:
    last = reanalysis.probe_counts().query("mode == 'no-think' and layer == layer.max()").set_index("position")
    here = last.loc["between think tags"]
    return (
        f"Solid: at the last layer, between the tags, {int(here['harmful'])} of {GROUPS['no-think'][2]} harmful and "
        f"{percent(here['harmless'])}% of the harmless prompts lie above the threshold. No shuffled-label control and "
        f"no area under the curve is given."
    )


def _decision() -> str:
    counts = reanalysis.probe_counts()
    tied = int((counts["unexplained"].abs() <= 1).sum())
    refused, fulfilled, _ = GROUPS["no-think"]
    here = counts.query("mode == 'no-think' and position == 'between think tags' and layer == layer.max()").iloc[0]
    p_fisher = exact_test(int(here["refused"]), refused, int(here["fulfilled"]), fulfilled)
    return (
        f"Refused and fulfilled prompts do differ ({here['refused']} of {refused} against {here['fulfilled']} of "
        f"{fulfilled} above threshold, Fisher's exact {p_in_words(p_fisher)}), but the readout is of harm: in {tied} of "
        f"{len(counts)} cells the two counts add up to the harmful ones within one prompt, so that all curves come "
        f"from one probe."
    )


def _inside() -> str:
    refused, fulfilled, _ = FINISHED
    return (
        f"Rests on about {fulfilled} fulfilled prompts against {refused} refused ones, those whose thought ended. At "
        f"which tokens the probe was trained is not stated; here it is averaged over all tokens of the thought."
    )


def _heads() -> str:
    table = published("fig4b_refusal_head_counts")
    counts = table["prompts_of_180"]
    lower = counts[table["layer"] <= 6].sum() / counts.sum()
    return (
        f"{len(table)} heads show the shift on at least one of {PROMPTS} harmful prompts, {int((counts == 1).sum())} of "
        f"them on one; {percent(lower)}% of the counts lie in layers 0 to 6. Harmless prompts, the control, were not "
        f"counted."
    )


def _attention() -> str:
    counts = published("fig4b_refusal_head_counts")["prompts_of_180"]
    return (
        f"{int((counts > 130).sum())} heads show the shift on more than 130 of {PROMPTS} prompts. No other heads are "
        f"drawn for comparison."
    )


def _ablation() -> str:
    found = reanalysis.head_ablation().set_index("position").loc["between think tags"]
    ours, random, n = int(found["refusal_heads"]), int(found["random_heads"]), int(found["n"])
    power = exact_power(ours / n, random / n, n)
    return (
        f"{ours} against {random} of {n} fulfilled prompts above the threshold, {int(found['none'])} without any "
        f"ablation: {p_in_words(found['p_value'])} by Fisher's exact test, and "
        f"{p_in_words(found['p_paired_at_best'])} for the most favourable pairing. If this difference were real, this "
        f"test of {n} prompts would have shown it in {percent(power)}% of tries. Refusals themselves were not counted."
    )


def _difficulty() -> str:
    sets = ("MATH401", "MATH500", "GSM8K")
    first, second, third = (number(tables.changes().loc["Qwen3-4B", name], signed=True) for name in sets)
    return (
        f"GSM8K against MATH401. {over('C6b')} In Qwen3-4B the order is reversed: {first}, {second} and {third} points "
        f"for MATH401, MATH500 and GSM8K."
    )


def _mode() -> str:
    rates, change = tables.think_rates().loc["Qwen3-4B"], tables.changes().loc["Qwen3-4B", "GSM8K"]
    return (
        f"The mode is not stated. Qwen3-4B without thinking ({rates['off']:.1f}%) plus its rise on GSM8K ({change:.1f}) "
        f"gives {rates['off'] + change:.1f}%, close to the untuned model with thinking ({rates['on']:.1f}%): a switch of "
        f"mode would explain it."
    )


def _literal() -> str:
    found = average(sides("C7a")["effect"])
    return (
        f"Solid, and stronger than printed: the paired difference is positive in {found.n_positive} of {found.n} models "
        f"(signed-rank {p_in_words(found.p_signed_rank)}). {over('C7a')}"
    )


def _negligible() -> str:
    found = sides("C7b")["effect"]
    rise = found[found > 0]
    return (
        f"A mean near zero is a cancellation here: {int((found < 0).sum())} models fall, {len(rise)} rise "
        f"({' and '.join(map(points, rise))} points). {over('C7b')}"
    )


def _neurons_maths() -> str:
    change, which = sides("C8b")["effect"], reanalysis.broken()
    drops = tables.by_model("fig6_neuron_ablation", "neurons", "math_drop_points")
    hit = {kind: which.index[which == kind] for kind in ("safety-critical", "random")}
    lost = {kind: " and ".join(f"{name} ({drops.loc[name, kind]:.0f})" for name in hit[kind]) for kind in hit}
    some, rest = average(change.drop(hit["safety-critical"])), average(change.drop(which.index))
    return (
        f"{over('C8b')} Models that lose more than 40 points: {lost['safety-critical']} with safety-critical neurons at "
        f"zero, {lost['random']} with random ones. Without those of the first kind the mean is {points(some.mean)} "
        f"({points(some.ci_low)} to {points(some.ci_high)}), without all of them it is {points(rest.mean)} "
        f"({points(rest.ci_low)} to {points(rest.ci_high)}). Whether the models still wrote sense is not reported."
    )


def _ras_neurons() -> str:
    values = published("fig8_ras_vs_misalignment").query("model == 'Qwen3-4B'").groupby("predictor")["value"]
    ranges = [
        f"{values.min()[name]:.2f} to {values.max()[name]:.2f}"
        for name in ("RAS (safety neurons)", "RAS (random neurons)")
    ]
    return f"In the one model drawn with both: {' against '.join(ranges)}, far apart at every checkpoint, for one random set."


def _ras_chains() -> str:
    wide = tables.by_model("fig7_ras_control_target", "training_set", "ras")
    ratio = wide["GSM8K(L)-target"] / wide["GSM8K(L)-control"] - 1
    return (
        f"Higher in {int((ratio > 0).sum())} of {len(ratio)} models, by "
        f"{', '.join(f'{percent(value)}%' for value in ratio)} ({', '.join(ratio.index)}), from values printed with two "
        f"digits and without intervals. Effects are logarithms of that ratio."
    )


def _predictors(claim: str) -> str:
    table = reanalysis.table_3()
    ours, theirs = table.loc["RAS (safety neurons)"], table.loc[RIVALS[claim]]
    models = list(published("table3_predictor_correlations")["model"].unique())
    low, high = interval_of_r(ours["OLMo2-1B"], reanalysis.CHECKPOINTS)
    return (
        f"{ours['average']:.2f} against {theirs['average']:.2f} on average, {ours['without Phi3.5-Tiny']:.2f} against "
        f"{theirs['without Phi3.5-Tiny']:.2f} without Phi3.5; larger in {int((ours > theirs)[models].sum())} of "
        f"{len(models)} models. Eight checkpoints of one run leave r = {ours['OLMo2-1B']:.2f} an interval of {low:.2f} "
        f"to {high:.2f}, if they were independent."
    )


def _kl() -> str:
    qwen = reanalysis.figure_8().query("model == 'Qwen3-4B'").set_index("predictor").loc["RAS (safety neurons)"]
    span = qwen["range_of_rates"] * HARM_BENCHMARK / 100
    return (
        f"{_predictors('C10a')} In Qwen3-4B, if checkpoints were exchangeable, which those of one run are not, the "
        f"correlation itself holds up (permutation {p_in_words(qwen['p_permutation'])}, leave-one-out "
        f"{qwen['without_one_low']:.2f} to {qwen['without_one_high']:.2f}), over a range of {span:.0f} prompts in "
        f"{HARM_BENCHMARK}."
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
    bases = ", ".join(
        f"{model} {row['before']:.1f}% ({row['before_low']:.1f} to {row['before_high']:.1f})"
        for model, row in found.iterrows()
    )
    return (
        f"{len(found)} of {len(change)} models are drawn{', those with the largest rises' if largest else ''}. With the "
        f"changes of Table 2 the ratios imply these misalignment rates before tuning: {bases}; in brackets, with a "
        f"ratio read {READING} wrong.{_other_change(found)} Table 1 has Qwen3-4B at {table1['off']:.1f}% without and "
        f"{table1['on']:.1f}% with thinking: the baseline of its change is {baseline(found.loc['Qwen3-4B'], table1)}."
    )


def _other_change(found: pd.DataFrame) -> str:
    """Where Table A7 prints another change after GSM8K than Table 2: the rate that it would imply."""
    other = tables.literal_changes()["GSM8K"][found.index]
    differ = found.index[(other - found["change"]).abs() > 0.01]
    bases = tables.implied_base(found["misalignment"], other)
    return "".join(f" With the change that Table A7 prints {name} would be {bases[name]:.1f}%." for name in differ)


def baseline(row: pd.Series, rates: pd.Series) -> str:
    """Which of Table 1's rates lies within what a row of `before_after` can mean: one of the two, or neither."""
    modes = {"the no-think rate": "off", "the think rate": "on"}
    fits = [name for name, mode in modes.items() if row["before_low"] <= rates[mode] <= row["before_high"]]
    return fits[0] if len(fits) == 1 else "neither rate for certain"


def over_implied_base() -> str:
    """Tables A2-A4 against the bases that Fig. 1 implies, in one sentence."""
    said = ", ".join(f"{model} {n}" for model, n in tables.above_base().items())
    return f"Effort-minimising cells, of three, above the untuned rate that Fig. 1 implies: {said}."


def _figure_a3() -> str:
    found = tables.attention()
    think, other = found.loc["think"], found.loc["no-think"]
    shifts = published("fig4b_refusal_head_counts")["prompts_of_180"].sum()
    return (
        f"Drawn are {think['drawn']:,.0f} maxima with thinking and {other['drawn']:,.0f} without: "
        f"{think['covered']:.0%} and {other['covered']:.0%} of {PROMPTS} x {HEADS} = {think['cells']:,.0f} cells "
        f"(prompts times heads). Where the rest look is not said. Of those drawn, {think['assistant']:.0%} lie at "
        f"`assistant` with thinking and {other['assistant']:.0%} without; {other['span']:.0%} lie in the empty span, "
        f"which only the prompt without thinking has. The shifts of Fig. 4b add up to {shifts:,} cells: at most "
        f"{think['shifted']:.0%} of the maxima at `assistant`, and {other['shifted']:.0%} of those in the span."
    )


def _figure_a5() -> str:
    table = tables.flags()
    totals = "; ".join(
        f"{name}: the shares drawn add up to {row['total']:.1f}%, of which {row['none']:.1f} are other"
        for name, row in table.iterrows()
    )
    patterns = ", ".join(
        f"{name} {' and '.join(f'{share:.0f}%' for share in table[name])}"
        for name in table.drop(columns=["none", "total"])
    )
    return f"{totals}. By pattern ({' and '.join(table.index)}): {patterns}."


STATEMENTS: dict[str, Callable[[], str]] = {"Fig. 1": _figure_1, "Fig. A3": _figure_a3, "Fig. A5": _figure_a5}
