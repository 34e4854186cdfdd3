"""Ledger rows of claim C8, and what is read back from the shipped ones: effects, exact p values, pooled estimates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from rimkit.ledger import effect_row, rate_rows, row
from rimkit.mechanism.ablation import NOTHING, RANDOM, SELECTED
from rimkit.mechanism.neuron_effects import BREAKS, Chosen

PRIMARY = {("harmful", "misaligned"): "C8a", ("maths", "score"): "C8b"}
RANDOM_NEURONS = "random neurons"
DOTS = {
    ("harmful", "misaligned"): "misaligned", ("harmful", "refused"): "refused", ("maths", "score"): "maths right",
}  # fmt: skip
PAPERS, BEST = "the paper's rule", "best rule on calibration"


def effect_rows(effects: pd.DataFrame, rule: str, kind: str = "zero", *, model: str, **values) -> list[dict]:
    """Ledger rows of `neuron_effects.compared` for one rule: the effect, and for random sets the share that reach it.

    The paper's rule in think mode gives the verdicts of C8a and C8b: the paper forms its pairs in think mode and
    ablates by zero, so that mode and kind stand for the claims.
    """
    rows = []
    for effect in effects.to_dict("records"):
        key = (effect["set"], effect["metric"])
        claim = PRIMARY.get(key, "C8a")
        main = (rule, kind, effect["mode"]) == ("paper", "zero", "think") and key in PRIMARY
        if main and effect["control"] != NOTHING:
            rows.append(effect_row(claim, effect, model=model, mode="think", **values))
        names = {"mode": effect["mode"], "metric": effect["metric"], "control": effect["control"]}
        condition = f"{rule}, {kind}, {effect['set']}"
        rows.append(effect_row(claim, effect, model=model, condition=condition, **names, **values))
        if effect["control"] != NOTHING:
            share = {"value": effect["share"], "n": effect["n_random"], "control": None}
            rows.append(row(claim, model=model, condition=f"share, {condition}", **{**names, **share}, **values))
    return rows


def set_rows(chosen: Chosen, *, model: str, **values) -> list[dict]:
    """The size of every rule's set (metric "size") and, for the best rule, its name as the condition of a row."""
    sizes = {f"chosen, {item.rule}": item.size for item in chosen.sizes.itertuples()}
    return value_rows({**sizes, f"best, {chosen.best}": None}, "size", model=model, **values)


def value_rows(found: Mapping[str, float | None], metric: str, *, model: str, **values) -> list[dict]:
    """Plain numbers, no control: a row of C8a per condition."""
    return [
        row("C8a", model=model, condition=name, metric=metric, value=value, control=None, **values)
        for name, value in found.items()
    ]


def dose_rows(dosed: pd.DataFrame, *, model: str, **values) -> list[dict]:
    """Rates at every size of every rule on the calibration split, condition "calibration, rule, size"."""
    named = dosed.assign(split="calibration")
    return rate_rows("C8a", named, ["split", "rule", "size", "mode"], model=model, **values)


def random_rows(verdicts: pd.DataFrame, rule: str, *, model: str, **values) -> list[dict]:
    """The rate of every random set, of the selected one and of nothing, for the outcomes of `DOTS`.

    A mode in which no random set was measured on those prompts has no rows.
    """
    rows = []
    for name, metric in DOTS:
        asked = verdicts[verdicts["set"] == name]
        modes = asked.loc[asked["condition"].str.startswith(RANDOM), "mode"].unique()
        asked = asked[asked["mode"].isin(modes)]
        rates = asked.groupby(["condition", "mode"], sort=False)[metric].agg(["mean", "size"])
        rows += [
            row(PRIMARY.get((name, metric), "C8a"), model=model, mode=mode, condition=f"{rule}, rate, {condition}",
                metric=metric, value=rate, n=n, control=None, **values)
            for (condition, mode), rate, n in rates.itertuples()
        ]  # fmt: skip
    return rows


# -- reading the shipped rows ------------------------------------------------------------------------------


def effects_from(rows: pd.DataFrame, kind: str = "zero") -> pd.DataFrame:
    """From ledger rows: selected minus random neurons, a row per model, rule, mode, prompt set and outcome.

    Columns of the ledger and ``organism, rule, set, outcome, size`` (neurons in the set), ``breaks`` (whether the
    set breaks the model in that mode, against nothing ablated), ``share, n_random``, ``ci_low, ci_high`` (of the
    effect), and ``which``: `PAPERS` or `BEST`; where the paper's rule was the best its rows stand under both.
    """
    named = _named(rows, rf"^(?P<rule>\w+), {kind}, (?P<set>[\w-]+)$")
    broken = _broken(named[named["control"] == NOTHING])
    found = named[named["control"] == RANDOM_NEURONS]
    shares = _named(rows, rf"^share, (?P<rule>\w+), {kind}, (?P<set>[\w-]+)$")
    keys = ["organism", "rule", "mode", "set", "metric"]
    shares = shares[[*keys, "value", "n"]].rename(columns={"value": "share", "n": "n_random"})
    found = found.merge(shares, on=keys, how="left")
    found = found.merge(broken, on=["organism", "rule", "mode"], how="left")
    found = found.merge(_chosen_sizes(rows), on=["organism", "rule"], how="left")
    best = found["rule"] == found["organism"].map(_best(rows))
    parts = [found[found["rule"] == "paper"].assign(which=PAPERS), found[best].assign(which=BEST)]
    return pd.concat(parts, ignore_index=True).assign(
        outcome=lambda t: t["set"].where(t["set"] != "harmful", t["metric"].astype(str)),
        ci_low=lambda t: t["effect_ci_low"], ci_high=lambda t: t["effect_ci_high"],
    )  # fmt: skip


def pooled(effects: pd.DataFrame, by: tuple[str, ...] = ("which", "mode", "outcome")) -> pd.DataFrame:
    """The mean effect over models with a t interval: ``*by, effect, ci_low, ci_high, n`` (models).

    Each trained model counts once, as if independent; three of them share an organism's data.
    """
    rows = []
    for key, part in effects.groupby(list(by), sort=False):
        values = part["effect"].to_numpy(dtype=float)
        mean, spread = values.mean(), values.std(ddof=1) if len(values) > 1 else np.inf
        reach = stats.t.isf(0.025, max(1, len(values) - 1)) * spread / np.sqrt(len(values))
        bounds = {"ci_low": max(-1.0, mean - reach), "ci_high": min(1.0, mean + reach), "n": len(values)}
        rows.append(dict(zip(by, key, strict=True)) | {"effect": mean} | bounds)
    return pd.DataFrame(rows)


def against_nothing(rows: pd.DataFrame, rule: str) -> pd.DataFrame:
    """From ledger rows: a rule's set at zero against the untouched model, harmful requests; columns for `pooled`.

    The rule "refusing" is the paper's on the pairs whose reply to the intent refuses.
    """
    found = _named(rows, rf"^{rule}, zero, (?P<set>[\w-]+)$")
    found = found[(found["control"] == NOTHING) & (found["set"] == "harmful")]
    return found.assign(outcome=found["metric"])


def definition_facts(rows: pd.DataFrame) -> pd.DataFrame:
    """What the paper's set owes to intent, per model and seed, from the rows of `neuron_pairs.numbers`.

    Columns: the set's size at the largest m with all pairs (with intent, and with harmless sentences, their mean), the
    percent of its first 40 shared with the harmless ones (mean, range) and with refusing pairs, how many pairs refuse.
    """
    found = rows[rows["metric"].isin(["neurons", "overlap", "pairs"]).fillna(False).astype(bool)]
    wide = found.pivot_table(index=["model", "seed"], columns="condition", values="value")
    m = max(int(name.split(", ")[2]) for name in wide if name.startswith("size, "))
    refusing, pairs = (wide[f"pairs, {which}"].map("{:.0f}".format) for which in ("refusing", "all"))
    edges = [100 * wide[f"overlap, intent, harmless{edge}"] for edge in ("", ", min", ", max")]
    return pd.DataFrame({
        f"size, m = {m}": wide[f"size, intent, {m}"].map("{:.0f}".format),
        "size, harmless": wide[f"size, harmless, {m}"].map("{:.0f}".format),
        "shared, harmless": [f"{a:.0f} [{b:.0f} to {c:.0f}]" for a, b, c in zip(*edges, strict=True)],
        "refusing pairs": refusing + " of " + pairs,
        "shared, refusing pairs": (100 * wide["overlap, intent, refusing pairs"]).map("{:.0f}".format),
    }, index=wide.index)  # fmt: skip


def verdict_facts(rows: pd.DataFrame) -> pd.DataFrame:
    """What stands beside the verdicts of C8: ``neurons`` (the set's size) and ``C8a p``, ``C8b p``, per model and seed.

    p: the share of random sets that reach as far in the claimed direction (think mode, zero, the paper's rule).
    """
    effects = effects_from(rows)
    own = effects[(effects["which"] == PAPERS) & (effects["mode"] == "think")]
    wide = own[own["outcome"].isin(["misaligned", "maths"])].pivot_table(
        index=["model", "seed", "size"], columns="outcome", values="share", sort=False
    )
    wide = wide.rename(columns={"misaligned": "C8a p", "maths": "C8b p"}).reset_index("size")
    return wide.rename(columns={"size": "neurons"}).rename_axis(columns=None).astype({"neurons": int})


def shipped_shares(rows: pd.DataFrame, model: str, seed: int | None, sizes: Mapping[str, int]) -> pd.DataFrame:
    """Exact p values against the shipped random sets, for the rules whose set has the same size there.

    Columns ``rule, mode, set, metric, share, n_random``; empty for a model without rows.
    """
    effects = effects_from(rows)
    own = effects[(effects["model"] == model) & (effects["seed"] == seed).fillna(False).astype(bool)]
    own = own[own["size"] == own["rule"].map(sizes)]
    return own[["rule", "mode", "set", "metric", "share", "n_random"]].drop_duplicates()


def with_shares(effects: pd.DataFrame, shipped: pd.DataFrame) -> pd.DataFrame:
    """Effects against random neurons (column ``rule``) with the ``share`` of the shipped sets where there are more."""
    keys = ["rule", "mode", "set", "metric"]
    found = effects.merge(shipped.rename(columns={"share": "more", "n_random": "sets"}), on=keys, how="left")
    larger = found["sets"].fillna(0) > found["n_random"]
    share = found["more"].where(larger, found["share"])
    return found.assign(share=share, n_random=found["sets"].where(larger, found["n_random"])).drop(
        columns=["more", "sets"]
    )


def doses_from(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """From ledger rows: the rate at every size, columns ``organism, model, seed, rule, size, mode, value, breaks``."""
    named = _named(rows, r"^calibration, (?P<rule>\w+), (?P<size>\d+)$").astype({"size": int})
    keys = ["organism", "rule", "size", "mode"]
    wide = named.pivot_table(index=keys, columns="metric", values="value")[["coherent", "misread"]]
    change = wide - wide.xs(0, level="size").reindex(wide.index.droplevel("size")).to_numpy()
    breaks = ((change["coherent"] < -BREAKS) | (change["misread"] > BREAKS)).rename("breaks").reset_index()
    found = named[named["metric"] == metric].merge(breaks, on=keys)
    order = {"paper": 0, "half": 1, "difference": 2, "gradient": 3}
    keys = ["rule", "model", "seed", "mode", "size"]
    return found.sort_values(keys, key=lambda column: column.map(order) if column.name == "rule" else column)


def rates_from(rows: pd.DataFrame, model: str, seed: int | None) -> tuple[str, pd.DataFrame]:
    """From ledger rows of one model: its best rule, and the rate of each random set, the selected one and nothing.

    Columns ``condition, metric, mode, value, panel`` ("misaligned, think"); empty for a model that has no rows.
    """
    own = rows[(rows["model"] == model) & (rows["seed"] == seed).fillna(False).astype(bool)]
    best = _best(own).get(f"{model}:{seed}", "")
    found = own[own["condition"].str.startswith(f"{best}, rate, ")] if best else own.head(0)
    condition = found["condition"].str.removeprefix(f"{best}, rate, ").replace(best, SELECTED)
    panel = found["metric"].map({metric: shown for (_, metric), shown in DOTS.items()}) + ", " + found["mode"]
    return best, found.assign(condition=condition.astype(str), panel=panel.astype(str))


def _named(rows: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """The rows whose condition fits, its named parts as columns, and ``organism``, "name:seed"."""
    parts = rows["condition"].astype(str).str.extract(pattern).dropna()
    found = rows.loc[parts.index].assign(organism=lambda t: t["model"] + ":" + t["seed"].astype(str))
    texts = {name: found[name].astype(object).fillna("") for name in ("mode", "metric", "control")}
    return found.drop(columns="condition").assign(**texts).join(parts)


def _broken(against_nothing: pd.DataFrame) -> pd.DataFrame:
    harmful = against_nothing[against_nothing["set"] == "harmful"]
    wide = harmful.pivot_table(index=["organism", "rule", "mode"], columns="metric", values="effect")
    breaks = (wide["coherent"] < -BREAKS) | (wide["misread"] > BREAKS)
    return breaks.rename("breaks").reset_index()


def _chosen_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    return _named(rows, r"^chosen, (?P<rule>\w+)$").rename(columns={"value": "size"})[["organism", "rule", "size"]]


def _best(rows: pd.DataFrame) -> dict[str, str]:
    """The best rule of every organism."""
    named = _named(rows, r"^best, (?P<rule>\w+)$")
    return dict(zip(named["organism"], named["rule"], strict=True))
