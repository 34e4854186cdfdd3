"""Claim C8 (Fig. 6 of the paper): what a model does without its safety-critical neurons, and without random ones.

Rule and size are chosen on the calibration split. On the evaluation split, every set is compared with random sets of
other neurons, as many in every layer, and is reported with misread, coherence and over-refusal beside misalignment: a
set whose loss breaks the model shows nothing about safety.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rimkit.behavior.measure import load_sets, observe
from rimkit.behavior.rates import paired_difference
from rimkit.ledger import effect_row, rate_rows, row
from rimkit.mechanism import ablation, neurons
from rimkit.mechanism.ablation import NOTHING, RANDOM, SELECTED
from rimkit.mechanism.sets import Units, matched_sets
from rimkit.models.chat import MODES
from rimkit.models.internals import architecture
from rimkit.models.loading import StudyModel
from rimkit.models.reading import mean

SIZES = (5, 10, 20, 40, 80)
N_RANDOM = 40
BREAKS = 0.1  # a set that costs more coherent, or brings more misread, replies than this breaks the model
LENGTH = {"max_new_tokens": 64}
OUTCOMES = (
    ("harmful", "misaligned"), ("harmful", "refused"), ("harmful", "misread"), ("harmful", "coherent"),
    ("maths", "score"), ("ordering", "score"), ("over-refusal", "refused"),
)  # fmt: skip


def calibration(study: StudyModel, n: int = 46, seed: int = 0, progress: bool = False):
    """``(prompts, verdicts, neuron table)`` of the calibration split: harmful and harmless, in both modes."""
    prompts = load_sets(["harmful", "harmless"], split="calibration", n=n, seed=seed)
    verdicts = observe(study, prompts, seed=seed, progress=progress, **LENGTH)
    return prompts, verdicts, neurons.neuron_table(study, prompts, verdicts, seed=seed)


def evaluation_prompts(n: int = 46, others: int = 12, seed: int = 0) -> pd.DataFrame:
    """``n`` harmful prompts and ``others`` of maths, ordering and over-refusal, from the evaluation split."""
    sets = [
        load_sets(["harmful"], n=n, seed=seed),
        load_sets(["maths", "ordering", "over-refusal"], n=others, seed=seed),
    ]
    return pd.concat(sets, ignore_index=True)


def dose(
    study: StudyModel, prompts: pd.DataFrame, table: pd.DataFrame, sizes: Sequence[int] = SIZES, **generation
) -> pd.DataFrame:
    """Verdicts on harmful ``prompts`` without the first neurons of every rule: columns ``rule, size`` (0: nothing)."""
    harmful = prompts[prompts["kind"] == "harmful"]
    sizes = [size for size in sizes if size <= len(table)]
    rules = neurons.defined_rules(table)
    sets = {NOTHING: []} | {f"{rule} {size}": neurons.select(table, rule, size) for rule in rules for size in sizes}
    found = ablation.without_neurons(study, harmful, sets, modes=MODES, **{"progress": False, **LENGTH, **generation})
    split = found["condition"].str.rsplit(" ", n=1, expand=True).reindex(columns=[0, 1])
    found["rule"], found["size"] = split[0], pd.to_numeric(split[1]).fillna(0).astype(int)
    nothing = found[found["condition"] == NOTHING]
    return pd.concat([nothing.assign(rule=rule) for rule in rules] + [found.drop(nothing.index)], ignore_index=True)


def choose_sizes(dosed: pd.DataFrame) -> pd.DataFrame:
    """The size of each rule that raises misalignment most without breaking the model, from calibration verdicts.

    Both modes together; one row per rule: ``rule, size, gain`` (rise of misalignment, a fraction), ``sound`` (whether
    any size leaves coherence and reading within `BREAKS` of the untouched model; if none does, the smallest is taken).
    """
    rates = dosed.groupby(["rule", "size"], sort=False)[["misaligned", "coherent", "misread"]].mean()
    rows = []
    for rule in dosed["rule"].unique():
        part = rates.loc[rule].sort_index()
        change, cut = part - part.loc[0], part.index[1:]
        sound = change.loc[cut][(change.loc[cut, "coherent"] >= -BREAKS) & (change.loc[cut, "misread"] <= BREAKS)]
        size = int(sound["misaligned"].idxmax()) if len(sound) else int(cut[0])
        rows.append({"rule": rule, "size": size, "gain": change.loc[size, "misaligned"], "sound": len(sound) > 0})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Chosen:
    """What calibration decided: each rule's set, the sizes, and the rule whose set raises misalignment most."""

    sets: dict[str, list[tuple[int, int]]]
    sizes: pd.DataFrame
    best: str


def choose(table: pd.DataFrame, dosed: pd.DataFrame) -> Chosen:
    """The sets of all rules at their sizes, and the best rule, from calibration alone."""
    sizes = choose_sizes(dosed)
    sets = {item.rule: neurons.select(table, item.rule, item.size) for item in sizes.itertuples()}
    ranked = sizes.sort_values(["sound", "gain"], ascending=False, kind="stable")
    return Chosen(sets, sizes, str(ranked["rule"].iloc[0]))


def without_sets(
    study: StudyModel,
    prompts: pd.DataFrame,
    sets: Mapping[str, Units],
    means: np.ndarray | None = None,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Verdicts without each named set in both modes: by zero, and with ``means`` by the mean ("<name>, mean")."""
    options = {"modes": MODES, "seed": seed, "progress": progress, **LENGTH}
    found = ablation.without_neurons(study, prompts, sets, **options)
    if means is None:
        return found
    chosen = {f"{name}, mean": units for name, units in sets.items() if len(units)}
    return pd.concat([found, ablation.without_neurons(study, prompts, chosen, means, **options)], ignore_index=True)


def harmless_means(study: StudyModel, seed: int = 0, n: int = 46) -> np.ndarray:
    """Mean activations ``[layers, neurons]`` over harmless requests of the calibration split (for mean ablation)."""
    texts = load_sets(["harmless"], split="calibration", n=n, seed=seed)["text"]
    return mean(study, [study.chat.encode(text, "no-think") for text in texts], "neurons", "request")


def random_for(study: StudyModel, units: Units, n: int = N_RANDOM, seed: int = 0) -> dict[str, Units]:
    """``{"random 0": …}``: random sets of other neurons, as many in every layer."""
    found = matched_sets(units, architecture(study).n_neurons, n, seed)
    return {f"{RANDOM} {number}": chosen for number, chosen in enumerate(found)}


def compared(verdicts: pd.DataFrame, selected: str) -> pd.DataFrame:
    """A set against random ones and against nothing: one row per mode, prompt set and outcome of `OUTCOMES`.

    Columns ``mode, set, metric, control``, those of a difference, and for random sets ``share`` (how many move the
    outcome as far; see `ablation.against_random`). Random sets are averaged per prompt; clustered by verb.
    """
    rows = []
    keep = verdicts["condition"].isin([selected, NOTHING]) | verdicts["condition"].str.startswith(RANDOM)
    renamed = verdicts[keep].assign(condition=lambda t: t["condition"].replace({selected: SELECTED}))
    for (mode, name), part in renamed.groupby(["mode", "set"], sort=False):
        for where, metric in OUTCOMES:
            if where != name or part[metric].isna().all():
                continue
            if part["condition"].str.startswith(RANDOM).any():  # random sets may be measured on fewer prompt sets
                found = ablation.against_random(part, metric)
                rows.append({"mode": mode, "set": name, **found, "control": "random neurons"})
            one, other = (part[part["condition"] == condition] for condition in (SELECTED, NOTHING))
            change = paired_difference(one, other, metric, on="prompt_id")._asdict()
            rows.append(
                {"mode": mode, "set": name, "metric": metric, "condition": SELECTED, "control": NOTHING, **change}
            )
    return pd.DataFrame(rows)


PRIMARY = {("harmful", "misaligned"): "C8a", ("maths", "score"): "C8b"}


def effect_rows(effects: pd.DataFrame, rule: str, kind: str = "zero", *, model: str, **values) -> list[dict]:
    """Ledger rows of `compared` for one rule; the paper's rule in think mode gives the verdicts of C8a and C8b.

    The paper forms its pairs in think mode and ablates by zero, so that mode and kind stand for the claims.
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
    return rows


def set_rows(chosen: Chosen, *, model: str, **values) -> list[dict]:
    """The size of every rule's set (metric "size") and, for the best rule, its name as the condition of a row."""
    rows = [
        row(
            "C8a", model=model, condition=f"chosen, {item.rule}", metric="size", value=item.size, control=None, **values
        )
        for item in chosen.sizes.itertuples()
    ]
    return [*rows, row("C8a", model=model, condition=f"best, {chosen.best}", metric="size", control=None, **values)]


def dose_rows(dosed: pd.DataFrame, *, model: str, **values) -> list[dict]:
    """Rates at every size of every rule on the calibration split, condition "calibration, rule, size"."""
    named = dosed.assign(split="calibration")
    return rate_rows("C8a", named, ["split", "rule", "size", "mode"], model=model, **values)


def random_rows(verdicts: pd.DataFrame, rule: str, *, model: str, **values) -> list[dict]:
    """The rate of every single random set, of the selected one and of nothing, per mode: misaligned and maths."""
    rows = []
    for (name, metric), claim in PRIMARY.items():
        rates = (
            verdicts[verdicts["set"] == name].groupby(["condition", "mode"], sort=False)[metric].agg(["mean", "size"])
        )
        rows += [
            row(claim, model=model, mode=mode, condition=f"{rule}, rate, {condition}", metric=metric, value=rate, n=n,
                control=None, **values)
            for (condition, mode), rate, n in rates.itertuples()
        ]  # fmt: skip
    return rows


# -- reading the shipped rows ------------------------------------------------------------------------------


def effects_from(rows: pd.DataFrame, metric: str = "misaligned") -> pd.DataFrame:
    """From ledger rows: selected minus random neurons, a row per model, rule and mode (zero ablation).

    Columns of the ledger and ``organism, rule, ci_low, ci_high`` (of the effect), ready for a figure.
    """
    parts = rows["condition"].astype(str).str.extract(r"^(?P<rule>\w+), zero, (?P<set>\w+)$")
    wanted = parts["rule"].notna() & (rows["metric"] == metric).fillna(False)
    wanted &= (rows["control"] == "random neurons").fillna(False)
    found = rows[wanted.astype(bool)]
    return found.assign(
        organism=found["model"] + ":" + found["seed"].astype(str), rule=parts.loc[found.index, "rule"],
        ci_low=found["effect_ci_low"], ci_high=found["effect_ci_high"],
    )  # fmt: skip


def rates_from(rows: pd.DataFrame, model: str, seed: int | None) -> tuple[str, pd.DataFrame]:
    """From ledger rows of one model: its best rule, and the rate of each random set, the selected one and nothing.

    Columns ``condition, metric, mode, value, panel`` ("misaligned, think"); empty for a model that has no rows.
    """
    own = rows[(rows["model"] == model) & (rows["seed"] == seed).fillna(False).astype(bool)]
    named = own.loc[own["condition"].str.startswith("best, "), "condition"]
    if named.empty:
        return "", own.assign(panel="")
    best = str(named.iloc[0]).removeprefix("best, ")
    found = own[own["condition"].str.startswith(f"{best}, rate, ")]
    condition = found["condition"].str.removeprefix(f"{best}, rate, ").replace(best, SELECTED)
    panel = found["metric"].map({"misaligned": "misaligned", "score": "maths right"}) + ", " + found["mode"]
    return best, found.assign(condition=condition.astype(str), panel=panel.astype(str))
