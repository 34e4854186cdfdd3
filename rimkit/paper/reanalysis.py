"""The paper's numbers examined again: its figures as counts, and every claim that they bear on.

A claim is judged by the ledger's rule, corrected for its fixed family as any other row is, on the
mean over the paper's models with a t interval and t test over models (n counts models), since the
question is whether it would hold for another one; single models carry Newcombe's interval over
prompts where the paper's rates allow one. The published numbers are no rows of the ledger.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from rimkit.behavior.stats import exact_test, rate
from rimkit.data import data_dir
from rimkit.ledger import claims, verdict
from rimkit.paper import statistics, tables
from rimkit.paper.tables import HARM_BENCHMARK, MATHS_PROBLEMS, by_model, published

OVER_MODELS = "mean over models"
ALPHA = 0.05
NUMBERS = ["effect", "ci_low", "ci_high", "p_value"]
JUDGED_BY = ["effect", "ci_low", "ci_high", "direction", "smallest_effect", "p_value", "family_size"]
ROUNDING = 0.02  # cells have two digits: their average may differ by 0.01 from a printed one
# Items of Fig. 3 by mode: refused, fulfilled, harmful; inferred from the step height of the curves.
GROUPS = {"no-think": (98, 21, 120), "think": (75, 44, 120)}
FINISHED = (63, 8, 71)  # in think mode, at positions that exist only where the thought ended
HARMLESS, HARMLESS_FINISHED = 120, 46  # harmless items, and those left where the thought ended
AFTER_THOUGHT = ("between think tags", "</think>")
CHECKPOINTS = 8  # of every training run in Table 3 and Fig. 8
PATTERNS = {"C2c": "confirmatory reasoning", "C2d": "heuristic reliance", "C2e": "instruction deviation"}
OURS = "RAS (safety neurons)"
RIVALS = {
    "C10a": "KL divergence", "C10b": "RAS (random neurons)", "C10c": "delta_math only",
    "Q3a": "Arithmetic mean of the deltas", "Q3b": "Geometric mean of the deltas",
}  # fmt: skip
# What the paper compares, as rates in percent of one model, with the place where they stand.
COMPARISONS = pd.read_csv(data_dir() / "paper_comparisons.csv").to_numpy().tolist()


def think_mode() -> pd.DataFrame:
    """Table 1 as differences, think on minus off, one row per model and metric. Columns: ``model,
    metric`` ("misaligned", "score"), ``on, off`` (percent), ``on_of, off_of`` (the largest
    denominator that fits, up to 300 requests or 60 problems; 0: none does) and those of
    `statistics.gap`. Where no denominator fits, the interval takes the full benchmark."""
    rows = []
    harm = "misaligned", "misalignment_rate_pct", HARM_BENCHMARK
    for metric, column, full in (harm, ("score", "math_accuracy_pct", MATHS_PROBLEMS)):
        printed = by_model("table1_think_mode", "think", column)
        for model, on, off in printed[["on", "off"]].itertuples():
            on_of, off_of = ((statistics.denominators(side, full) or [0])[0] for side in (on, off))
            row = dict(model=model, metric=metric, on=on, off=off, on_of=on_of, off_of=off_of)
            rows.append(row | statistics.gap(on, off, on_of or full, off_of or full))
    return pd.DataFrame(rows)


def recomputed() -> pd.DataFrame:
    """Every printed average beside the mean of the rows it summarises. Columns: ``location, group,
    quantity, printed, recomputed, gap, follows`` (whether rounding explains the gap)."""
    table = published("printed_averages")
    summarised = table[["location", "group", "quantity"]].to_numpy()
    table["recomputed"] = [_mean_of_rows(*names) for names in summarised]
    table["gap"] = table["printed"] - table["recomputed"]
    return table.assign(follows=table["gap"].abs() < ROUNDING)


def _mean_of_rows(location: str, group: str, quantity: str) -> float:
    if location in ("Table 2", "Section 2.3"):
        rows = published("table2_finetuning_delta").query("training_set == @quantity")
        rows = rows if group == "all" else rows[rows["architecture"] == group]
        return rows["delta_misalignment_points"].mean()
    if location == "Fig. 2":
        return tables.injected().set_index("pattern").loc[group, quantity].mean()
    if location == "Table A7":
        return tables.literal_changes()[quantity].mean()
    if location == "Section 4.1":
        return by_model("fig6_neuron_ablation", "neurons", quantity)[group].mean()
    return by_model("table3_predictor_correlations", "predictor", "pearson_r")[group].mean()


def probe_counts() -> pd.DataFrame:
    """How many prompts are behind the curves of Fig. 3, by position and mode; one has no label."""
    rows = ["mode", "position", "layer"]
    wide = by_model("fig3_probe_scores", "group", "share_above_threshold", rows).reset_index()
    sizes = [group_sizes(item.mode, item.position) for item in wide.itertuples()]
    for index, group in enumerate(("refused", "fulfilled", "harmful")):
        wide[group] = (wide[group] * [size[index] for size in sizes]).round().astype(int)
    return wide.assign(unexplained=wide["refused"] + wide["fulfilled"] - wide["harmful"])


def group_sizes(mode: str, position: str) -> tuple[int, int, int]:
    """How many refused, fulfilled and harmful items stand behind a curve of Fig. 3."""
    return FINISHED if mode == "think" and position in AFTER_THOUGHT else GROUPS[mode]


def sizes_in_words() -> dict[tuple[str, str], str]:
    """How many prompts are behind the curves of Fig. 3, by position and mode; one has no label."""
    found = {}
    for position, mode in published("fig3_probe_scores").groupby(["position", "mode"]).groups:
        refused, fulfilled, harmful = sizes = group_sizes(mode, position)
        harmless, about = (HARMLESS_FINISHED, "about ") if sizes == FINISHED else (HARMLESS, "")
        both = f"{refused} refused, {about}{fulfilled} fulfilled"
        found[position, mode] = f"n = {harmless} harmless, {harmful} harmful: {both}"
    return found


def head_ablation() -> pd.DataFrame:
    """Fig. 5 at the last layer: fulfilled prompts above the probe's threshold, by position.
    Columns: ``position, none`` (Fig. 3, no-think), ``refusal_heads, random_heads, n, p_value``
    (Fisher's exact test, refusal against random)."""
    n = GROUPS["no-think"][1]
    fulfilled = "group == 'fulfilled' and layer == layer.max()"
    figure = published("fig5_probe_after_head_ablation").query(fulfilled)
    before = published("fig3_probe_scores").query(f"mode == 'no-think' and {fulfilled}")
    before = before.set_index("position")["share_above_threshold"]
    rows = []
    for position, part in figure.groupby("position", sort=False):
        share = part.set_index("ablated")["share_above_threshold"]
        ours, random = (round(n * share[heads]) for heads in ("refusal heads", "random heads"))
        rows.append([position, round(n * before[position]), ours, random, n, exact_test(ours, n, random, n)])
    return pd.DataFrame(rows, columns=["position", "none", "refusal_heads", "random_heads", "n", "p_value"])


def head_rates() -> pd.DataFrame:
    """The counts of `head_ablation` as rates with Wilson's interval. Columns: ``position, ablated``
    (nothing, refusal heads, random heads) and those of a rate."""
    words = {"none": "nothing", "refusal_heads": "refusal heads", "random_heads": "random heads"}
    return pd.DataFrame([
        {"position": row["position"], "ablated": name, **rate(np.arange(row["n"]) < row[column])._asdict()}
        for row in head_ablation().to_dict("records")
        for column, name in words.items()
    ])  # fmt: skip


def broken() -> pd.Series:
    """Models of Fig. 6 that lose more than 40 points of maths, with the neurons then zeroed."""
    found = by_model("fig6_neuron_ablation", "neurons", "math_drop_points").stack()
    return found[found > 40].reset_index(level=1).iloc[:, 0].rename("neurons")


def figure_8() -> pd.DataFrame:
    """`statistics.correlation` of every panel of Fig. 8, by ``model, predictor``."""
    rows, names = [], ["model", "predictor"]
    for key, part in published("fig8_ras_vs_misalignment").groupby(names, sort=False):
        rows.append([*key, *statistics.correlation(part["value"], part["misalignment_rate_pct"])])
    return pd.DataFrame(rows, columns=[*names, *statistics.Correlation._fields])


def table_3() -> pd.DataFrame:
    """Table 3 by predictor: r per model, ``average``, and the average without each model."""
    wide = by_model("table3_predictor_correlations", "model", "pearson_r", "predictor")
    without = {f"without {model}": wide.drop(columns=model).mean(axis=1) for model in wide}
    return wide.assign(average=wide.mean(axis=1), **without)


def needed() -> pd.DataFrame:
    """For every claim of the paper about rates: the power it had, and what it would have needed.
    Columns: ``claim, comparison, where, rate, control_rate`` (fractions), ``had`` (prompts),
    ``power`` (with one seed and a judge without noise), ``prompts`` (one seed, a judge with noise),
    ``seeds`` (300 prompts and all noise, without that of training for claims about prompting). Fig.
    5, whose few prompts no judge read, is tested exactly and without noise; ``with_training``:
    ``prompts`` of the claims about tuning, with the noise of a training seed as well."""
    rows = []
    for claim, comparison, where, percent, control_percent in COMPARISONS:
        rates, had = (percent / 100, control_percent / 100), HARM_BENCHMARK
        seed_sd = statistics.SEED_SD if claim[:2] in ("C6", "C7") else 0.0
        if claim == "C5a":
            had, prompts = GROUPS["no-think"][1], statistics.exact_prompts_needed(*rates)
            power, seeds = statistics.exact_power(*rates, had), 1.0 if prompts <= HARM_BENCHMARK else np.inf
        else:
            prompts = statistics.prompts_needed(*rates, statistics.JUDGE_SD)
            power, seeds = statistics.power(*rates, had), statistics.seeds_needed(*rates, had, seed_sd=seed_sd)
        noise = statistics.JUDGE_SD, seed_sd
        tuned = statistics.prompts_needed(*rates, *noise) if seed_sd else np.nan
        rows.append([claim, comparison, where, *rates, had, power, prompts, seeds, tuned])
    columns = "claim comparison where rate control_rate had power prompts seeds with_training"
    return pd.DataFrame(rows, columns=columns.split())


@tables.computed_once
def sides(claim: str) -> pd.DataFrame:
    """What the paper compares for a claim, by model. Columns: ``value, control_value, effect,
    ci_low, ci_high, n``, in the unit of the claim's metric (rates and their changes as fractions).
    The interval is that of the difference over prompts, empty where no rate is given."""
    table = SIDES[claim]().assign(effect=lambda of: of["value"] - of["control_value"])
    return table.reindex(columns=["value", "control_value", "effect", "ci_low", "ci_high", "n"])


@tables.computed_once
def effects() -> pd.DataFrame:
    """`sides` of every claim, and after each, where several models were measured, their mean.
    Columns: ``claim, model``, those of `sides`, and ``p_value`` of the t test. The mean is the
    model `OVER_MODELS`: its interval is over models, and n counts them, not prompts."""
    parts = []
    for claim in SIDES:
        table = sides(claim).rename_axis("model").reset_index()
        if len(table) > 1:
            mean = statistics.average(table.set_index("model")["effect"])
            row = {"model": OVER_MODELS, **table[["value", "control_value", "effect"]].mean()}
            row |= {name: getattr(mean, name) for name in ("ci_low", "ci_high", "p_value", "n")}
            table = pd.concat([table, pd.DataFrame([row])])
        parts.append(table.assign(claim=claim))
    found = pd.concat(parts, ignore_index=True).astype({"n": "Int64"})
    return found[["claim", *found.columns.drop("claim")]]


@tables.computed_once
def reanalysis() -> pd.DataFrame:
    """One row per claim of ``data/claims.csv``, in its order. Columns: ``claim, effect, ci_low,
    ci_high`` (mean over models of value minus control, unit of the metric), ``p_value`` (t test),
    ``p_adjusted`` (times the fixed size of the claim's family), ``n_models, verdict``. Missing are
    effect and verdict where the paper has no such metric, the interval of one model."""
    known, found = claims().set_index("id").rename_axis("claim"), effects()
    last = found.groupby("claim").tail(1).set_index("claim")  # the mean, or the one model measured
    table = known.join(last[["effect", "ci_low", "ci_high", "p_value"]])
    models = found.loc[found["model"] != OVER_MODELS, "claim"]
    table["n_models"] = models.value_counts().reindex(table.index, fill_value=0)
    given = table[[*JUDGED_BY, "n_models"]].to_numpy()
    table["verdict"] = [verdict(*row) if n > 1 else None for *row, n in given]
    table["p_adjusted"] = (table["p_value"] * table["family_size"]).clip(upper=1)
    return table[[*NUMBERS, "p_adjusted", "n_models", "verdict"]].reset_index()


def with_table_2() -> dict[str, float]:
    """C7a with the changes after GSM8K that Table 2 prints: ``effect`` and ``p_adjusted``."""
    found = statistics.average((tables.changes()["GSM8K"] - tables.literal_changes()["GSM8K-Literal"]) / 100)
    size = claims().set_index("id").loc["C7a", "family_size"]
    return {"effect": found.mean, "p_adjusted": min(1.0, found.p_value * size)}


def by_one_standard() -> pd.DataFrame:
    """Every primary claim with published numbers by the same rule, a row each, and Fig. 5 without a
    verdict: its claim is about refusals, which were not counted. Columns ``claim, statement,
    where, effect, ci_low, ci_high, p_value, p_adjusted, verdict`` as in `reanalysis`; ``n, unit``
    (models, or prompts of one model in each condition); ``without_low, without_high``: the
    range of the mean with one model left out; ``needed``: how many of the unit would show an effect
    of this size in 80% of studies, at the level that the family leaves."""
    known, table, rows = claims().set_index("id"), reanalysis().set_index("claim"), []
    for claim in table.index[table["n_models"].gt(1) & known["primary"].to_numpy()]:
        found = statistics.average(sides(claim)["effect"])
        level = ALPHA / known.loc[claim, "family_size"]
        rows.append({
            "claim": claim, **table.loc[claim, [*NUMBERS, "p_adjusted", "verdict"]], "n": found.n, "unit": "models",
            "without_low": found.without_one_low, "without_high": found.without_one_high,
            "needed": statistics.models_needed(sides(claim)["effect"], level),
        })  # fmt: skip
    rows.append(_figure_5(known.loc["C5a"]))
    names = known[["statement", "paper_location"]].rename(columns={"paper_location": "where"})
    names.loc["C5a", "statement"] = "Fig. 5, probe readout, not refusals"
    return pd.DataFrame(rows).join(names, on="claim").sort_values("claim", key=lambda ids: ids.map(known.index.get_loc))


@tables.computed_once
def within_models() -> pd.DataFrame:
    """Published primary claims within single models: Fisher's exact test over prompts, corrected as
    others. Columns: ``claim, model, effect, ci_low, ci_high, p_adjusted, verdict`` with the largest n
    that fits, and again: prompts missing with thinking (``strict_effect``, …) or in both modes
    (``both_effect``, …) are neither misaligned nor solved; none is missing (``full_effect``, …)."""
    known, rows = claims().set_index("id"), []
    cells = [
        (claim, row.model, row.on, row.off, row.on_of or full, row.off_of or full, full)
        for claim, full in (("C1a", HARM_BENCHMARK), ("C1b", MATHS_PROBLEMS))
        for row in SIDES[claim]().reset_index().itertuples()
    ]
    tuned, n = [row for row in COMPARISONS if row[0] >= "C6"], HARM_BENCHMARK
    cells += [(claim, "Qwen3-4B", *rates, n, n, n) for claim, _, _, *rates in tuned]
    for claim, model, percent, control, n, control_n, full in cells:
        row = dict(claim=claim, model=model)
        ways = {"": (n, control_n), "strict_": (full, control_n), "both_": (full, full), "full_": (full, full)}
        for prefix, of in ways.items():
            asked = of if prefix == "full_" else (n, control_n)
            k, control_k = round(percent * asked[0] / 100), round(control * asked[1] / 100)
            found, entry = statistics.gap(100 * k / of[0], 100 * control_k / of[1], *of), known.loc[claim]
            p = exact_test(k, of[0], control_k, of[1])
            found = {name: found[name] for name in NUMBERS[:3]} | {"p_value": p}
            found["verdict"] = verdict(*({**found, **entry}[name] for name in JUDGED_BY))
            found["p_adjusted"] = min(1.0, p * entry["family_size"])
            row |= {prefix + name: value for name, value in found.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def _figure_5(entry: pd.Series) -> dict:
    """Fig. 5 between the tags in the place of C5a."""
    here, n = head_ablation().set_index("position").loc["between think tags"], GROUPS["no-think"][1]
    rates = [100 * here[heads] / n for heads in ("refusal_heads", "random_heads")]
    row = statistics.gap(*rates, n, n) | {"p_value": here["p_value"]}
    needed = statistics.exact_prompts_needed(row["value"], row["control_value"], ALPHA / entry["family_size"])
    return {
        "claim": entry.name, **{name: row[name] for name in NUMBERS}, "n": n, "unit": "prompts", "needed": needed,
        "p_adjusted": min(1.0, row["p_value"] * entry["family_size"]), "verdict": None,
    }  # fmt: skip


def after_correction() -> str:
    """What the published numbers support by the rule, and what without it: one sentence."""
    known, table = claims().set_index("id"), reanalysis().set_index("claim")
    primary = known["primary"].to_numpy()
    size, judged = known["family_size"][primary].iloc[0], table[primary & (table["n_models"] > 1)]
    alone, left = judged.index[judged["p_value"] < ALPHA], judged.index[judged["verdict"] == "supported"]
    return (
        f"Of {len(judged)} primary claims with published numbers of several models, {len(alone)} have an interval "
        f"over models that excludes zero ({', '.join(alone)}); with Bonferroni’s correction for the fixed family of "
        f"{size}, as for every row of this workbook, supported: {', '.join(left) or 'none'}."
    )


def _of(wide: pd.DataFrame, value: str, control: str | None = None, scale: float = 0.01) -> pd.DataFrame:
    """Two columns of a table with a row per model, or one against zero."""
    sides = {"value": scale * wide[value], "control_value": scale * wide[control] if control else 0.0}
    return pd.DataFrame(sides).dropna()


def _pattern(pattern: str) -> pd.DataFrame:
    """One of Tables A2-A4: effort-minimising against careful sentences."""
    rates = tables.injected().query("pattern == @pattern").set_index("model")[["target", "control"]]
    sizes = rates.map(lambda rate: statistics.denominators(rate, HARM_BENCHMARK)[0])
    found = {model: statistics.gap(*rates.loc[model], *sizes.loc[model]) for model in rates.index}
    return pd.DataFrame(found).T


def _patterns(control: str) -> pd.DataFrame:
    """The mean of Tables A2-A4 per model, against careful sentences or Table 1's think mode."""
    means = tables.injected().groupby("model", sort=False)[["target", "control"]].mean()
    return _of(means.join(tables.think_rates()["on"]), "target", control)


def _ras_of_neurons() -> pd.DataFrame:
    """Fig. 8: mean log RAS over the checkpoints of the one model with both kinds of neurons."""
    points = published("fig8_ras_vs_misalignment").query("model == 'Qwen3-4B'")
    means = np.log(points["value"]).groupby([points["model"], points["predictor"]]).mean().unstack()
    return _of(means, OURS, "RAS (random neurons)", 1)


ZEROED = "fig6_neuron_ablation", "neurons"
CORRELATIONS = "table3_predictor_correlations", "predictor", "pearson_r"
TUNED_RAS = "fig7_ras_control_target", "training_set", "ras"
SIDES: dict[str, Callable[[], pd.DataFrame]] = {
    "C1a": lambda: think_mode().query("metric == 'misaligned'").set_index("model"),
    "C1b": lambda: think_mode().query("metric == 'score'").set_index("model"),
    "C2a": partial(_patterns, "control"), "C2b": partial(_patterns, "on"),
    **{claim: partial(_pattern, pattern) for claim, pattern in PATTERNS.items()},
    "C6a": lambda: _of(tables.changes(), "GSM8K"),
    "C6b": lambda: _of(tables.changes(), "GSM8K", "MATH401"),
    "C6c": lambda: _of(tables.changes(), "GSM8K(L)-target", "GSM8K(L)-control"),
    "C7a": lambda: _of(tables.literal_changes(), "GSM8K", "GSM8K-Literal"),
    "C7b": lambda: _of(tables.literal_changes(), "GSM8K-Literal"),
    "C8a": lambda: _of(by_model(*ZEROED, "delta_misalignment_points"), "safety-critical", "random"),
    "C8b": lambda: _of(by_model(*ZEROED, "math_drop_points"), "safety-critical", "random", -0.01),
    "C9a": _ras_of_neurons,
    "C9b": lambda: _of(np.log(by_model(*TUNED_RAS)), "GSM8K(L)-target", "GSM8K(L)-control", 1),
    **{claim: lambda name=name: _of(by_model(*CORRELATIONS), OURS, name, 1)
       for claim, name in RIVALS.items()},
}  # fmt: skip
