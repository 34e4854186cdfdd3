"""One sentence per claim: what the published numbers say when they are examined again, computed from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pandas as pd

from rimkit.behavior.stats import exact_test
from rimkit.ledger import claims
from rimkit.paper.reanalysis import PATTERNS, RIVALS, over_models, sides
from rimkit.paper.statistics import (
    FINISHED,
    GROUPS,
    average,
    broken,
    exact_power,
    figure_8,
    head_ablation,
    interval_of_r,
    probe_counts,
    table_3,
    think_mode,
)
from rimkit.paper.tables import HARM_BENCHMARK, MATHS_PROBLEMS, by_model, injected, published

NOTHING = "The paper reports nothing that could be held against this."


def findings() -> pd.Series:
    """One sentence or two per claim of ``data/claims.csv``, indexed by its id."""
    return _findings().copy()


@lru_cache
def _findings() -> pd.Series:
    return pd.Series({claim: FINDINGS.get(claim, lambda: NOTHING)() for claim in claims()["id"]}, name="finding")


def points(value: float) -> str:
    """A fraction as signed percentage points with one decimal; what rounds to zero has no sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text[1:] == "0.0" else text.replace("-", "−")


def over(claim: str) -> str:
    """How far the mean over models stands for them: median, signs, and the means with one model left out."""
    found = average(over_models(claim))
    return (
        f"Median {points(found.median)} points; {found.n_positive} of {found.n} models above zero; with one model left out "
        f"the mean lies between {points(found.without_one_low)} and {points(found.without_one_high)} (it changes most "
        f"without {found.carried_by})."
    )


def _thinking() -> str:
    table = think_mode().query("metric == 'misaligned'")
    clear, of = int((table["ci_low"] > 0).sum()), table[["on_of", "off_of"]].to_numpy()
    return (
        f"{clear} of {len(table)} models rise with an interval over prompts that excludes zero. {over('C1a')} "
        f"The printed rates fit counts over {of[of > 0].min()} to {of.max()} requests, one rate ({_unfit()}) fits none "
        f"of up to {HARM_BENCHMARK}, so replies seem to be missing."
    )


def _unfit() -> str:
    table = think_mode().query("metric == 'misaligned'")
    cells = [f"{row[side]:.2f}" for row in table.to_dict("records") for side in ("on", "off") if not row[f"{side}_of"]]
    return ", ".join(cells)


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
    table = injected()
    return f"Effort-minimising above careful in {int((table['target'] > table['control']).sum())} of {len(table)} cells. {over('C2a')}"


def _uninjected() -> str:
    thinking = by_model("table1_think_mode", "think", "misalignment_rate_pct")["on"]
    table = injected()
    table = table[table["model"].isin(thinking.index)]
    above = int((table["target"].to_numpy() > thinking[table["model"]].to_numpy()).sum())
    models = " and ".join(table["model"].unique())
    return (
        f"Only {models} were also measured without injection: {above} of {len(table)} effort-minimising cells lie above "
        f"the model's own rate with thinking. That injected care lowers misalignment is as good a reading as that "
        f"injected haste raises it."
    )


def _pattern(claim: str) -> str:
    table = sides(claim)
    clear_up, clear_down = int((table["ci_low"] > 0).sum()), int((table["ci_high"] < 0).sum())
    return f"{over(claim)} Over prompts, {clear_up} models rise clearly and {clear_down} fall{'' if clear_down != 1 else 's'} clearly."


def _harmful() -> str:
    last = probe_counts().query("mode == 'no-think' and layer == layer.max()").set_index("position")
    here = last.loc["between think tags"]
    return (
        f"Solid: at the last layer, between the tags, {int(here['harmful'])} of {GROUPS['no-think'][2]} harmful and "
        f"{100 * here['harmless']:.0f}% of the harmless prompts lie above the threshold. No shuffled-label control and no area "
        f"under the curve is given."
    )


def _decision() -> str:
    counts = probe_counts()
    tied = int((counts["unexplained"].abs() <= 1).sum())
    refused, fulfilled, _ = GROUPS["no-think"]
    here = counts.query("mode == 'no-think' and position == 'between think tags' and layer == layer.max()").iloc[0]
    p_value = exact_test(int(here["refused"]), refused, int(here["fulfilled"]), fulfilled)
    return (
        f"Refused and fulfilled prompts do differ ({here['refused']} of {refused} against {here['fulfilled']} of {fulfilled} above "
        f"threshold, Fisher's exact p {small(p_value)}), but the readout is of harm: in {tied} of {len(counts)} cells the two counts "
        f"add up to the harmful ones within one prompt, so that all curves come from one probe."
    )


def _inside() -> str:
    refused, fulfilled, _ = FINISHED
    return (
        f"Rests on about {fulfilled} fulfilled prompts against {refused} refused ones, those whose thought ended. At which "
        f"tokens the probe was trained is not stated; here it is averaged over all tokens of the thought."
    )


def _heads() -> str:
    table = published("fig4b_refusal_head_counts")
    lower = table.loc[table["layer"] <= 6, "prompts_of_180"].sum() / table["prompts_of_180"].sum()
    return (
        f"{len(table)} heads show the shift on at least one of 180 harmful prompts, {int((table['prompts_of_180'] == 1).sum())} of "
        f"them on one; {100 * lower:.0f}% of the counts lie in layers 0 to 6. Harmless prompts, the control, were not counted."
    )


def _attention() -> str:
    counts = published("fig4b_refusal_head_counts")["prompts_of_180"]
    return f"{int((counts > 130).sum())} heads show the shift on more than 130 of 180 prompts. No other heads are drawn for comparison."


def _ablation() -> str:
    found = head_ablation().set_index("position").loc["between think tags"]
    ours, random, n = int(found["refusal_heads"]), int(found["random_heads"]), int(found["n"])
    power = exact_power(ours / n, random / n, n)
    return (
        f"{ours} against {random} of {n} fulfilled prompts above the threshold, {int(found['none'])} without any ablation: p "
        f"{small(found['p_value'])} by Fisher's exact test, and p {small(found['p_paired_at_best'])} for the most favourable pairing. If this difference were "
        f"real, this test of {n} prompts would have shown it in {100 * power:.0f}% of tries. Refusals themselves were not counted."
    )


def _difficulty() -> str:
    qwen = published("table2_finetuning_delta").query("model == 'Qwen3-4B'").set_index("training_set")
    own = qwen["delta_misalignment_points"]
    return (
        f"GSM8K against MATH401. {over('C6b')} In Qwen3-4B the order is reversed: {own['MATH401']:+.2f}, {own['MATH500']:+.2f} and "
        f"{own['GSM8K']:+.2f} points for MATH401, MATH500 and GSM8K."
    )


def _mode() -> str:
    off = by_model("table1_think_mode", "think", "misalignment_rate_pct").loc["Qwen3-4B"]
    change = by_model("table2_finetuning_delta", "training_set", "delta_misalignment_points").loc["Qwen3-4B", "GSM8K"]
    return (
        f"The mode is not stated. Qwen3-4B without thinking ({off['off']:.1f}%) plus its rise on GSM8K ({change:.1f}) gives "
        f"{off['off'] + change:.1f}%, close to the untuned model with thinking ({off['on']:.1f}%): a switch of mode would explain it."
    )


def _literal() -> str:
    found = average(over_models("C7a"))
    return (
        f"Solid, and stronger than printed: the paired difference is positive in {found.n_positive} of {found.n} models (signed-rank "
        f"p {small(found.p_signed_rank)}). {over('C7a')}"
    )


def _negligible() -> str:
    found = over_models("C7b")
    return (
        f"A mean near zero is a cancellation here: {int((found < 0).sum())} models fall, {int((found > 0).sum())} rise "
        f"({' and '.join(points(value) for value in found[found > 0])} points). {over('C7b')}"
    )


def _neurons_maths() -> str:
    change, which = over_models("C8b"), broken()
    drops = by_model("fig6_neuron_ablation", "neurons", "math_drop_points")
    hit = {kind: which.index[which == kind] for kind in ("safety-critical", "random")}
    lost = {kind: " and ".join(f"{name} ({drops.loc[name, kind]:.0f})" for name in hit[kind]) for kind in hit}
    some, rest = average(change.drop(hit["safety-critical"])), average(change.drop(which.index))
    return (
        f"{over('C8b')} Models that lose more than 40 points: {lost['safety-critical']} with safety-critical neurons at zero, "
        f"{lost['random']} with random ones. Without those of the first kind the mean is {points(some.mean)} "
        f"({points(some.ci_low)} to {points(some.ci_high)}), without all of them it is {points(rest.mean)} "
        f"({points(rest.ci_low)} to {points(rest.ci_high)}). Whether the models still wrote sense is not reported."
    )


def _ras_neurons() -> str:
    points_ = published("fig8_ras_vs_misalignment").query("model == 'Qwen3-4B'").groupby("predictor")["value"]
    low, high = points_.min(), points_.max()
    return (
        f"In the one model drawn with both: {low['RAS (safety neurons)']:.2f} to {high['RAS (safety neurons)']:.2f} against "
        f"{low['RAS (random neurons)']:.2f} to {high['RAS (random neurons)']:.2f}, far apart at every checkpoint, for one random set."
    )


def _ras_chains() -> str:
    wide = by_model("fig7_ras_control_target", "training_set", "ras")
    ratio = wide["GSM8K(L)-target"] / wide["GSM8K(L)-control"] - 1
    return (
        f"Higher in {int((ratio > 0).sum())} of {len(ratio)} models, by {', '.join(f'{100 * value:.0f}%' for value in ratio)} "
        f"({', '.join(ratio.index)}), from values printed with two digits and without intervals. Effects are logarithms of that ratio."
    )


def _predictors(claim: str) -> str:
    table, rival = table_3(), RIVALS[claim]
    ours, theirs = table.loc["RAS (safety neurons)"], table.loc[rival]
    models = [
        name for name in published("table3_predictor_correlations")["model"].unique() if ours[name] > theirs[name]
    ]
    low, high = interval_of_r(ours["OLMo2-1B"])
    return (
        f"{ours['average']:.2f} against {theirs['average']:.2f} on average, {ours['without Phi3.5-Tiny']:.2f} against "
        f"{theirs['without Phi3.5-Tiny']:.2f} without Phi3.5; larger in {len(models)} of 4 models. Eight checkpoints of one run leave "
        f"r = {ours['OLMo2-1B']:.2f} an interval of {low:.2f} to {high:.2f}, if they were independent."
    )


def _kl() -> str:
    qwen = figure_8().query("model == 'Qwen3-4B'").set_index("predictor").loc["RAS (safety neurons)"]
    return (
        f"{_predictors('C10a')} In Qwen3-4B, if checkpoints were exchangeable, which those of one run are not, the correlation itself "
        f"holds up (permutation p {small(qwen['p_permutation'])}, leave-one-out {qwen['without_one_low']:.2f} to "
        f"{qwen['without_one_high']:.2f}), over a range of {qwen['range_in_prompts']:.0f} prompts in {HARM_BENCHMARK}."
    )


def small(p_value: float) -> str:
    """A p value with as many digits as it deserves."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}" if p_value < 0.1 else f"= {p_value:.2f}"


FINDINGS: dict[str, Callable[[], str]] = {
    "C1a": _thinking, "C1b": _maths, "C2a": _patterns, "C2b": _uninjected,
    **{claim: lambda claim=claim: _pattern(claim) for claim in PATTERNS},
    "C3a": _harmful, "C3b": _decision, "C3c": _inside, "C4a": _heads, "C4b": _attention, "C5a": _ablation,
    "C6a": lambda: over("C6a"), "C6b": _difficulty, "C6c": lambda: over("C6c"), "C6d": _mode,
    "C7a": _literal, "C7b": _negligible, "C8a": lambda: over("C8a"), "C8b": _neurons_maths,
    "C9a": _ras_neurons, "C9b": _ras_chains, "C10a": _kl,
    **{claim: lambda claim=claim: _predictors(claim) for claim in RIVALS if claim != "C10a"},
}  # fmt: skip
