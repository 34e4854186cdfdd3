"""Claim C8 (Fig. 6 of the paper): what a model does without its safety-critical neurons, and without random ones.

The size of the paper's set is fixed in advance (`PAPER_SIZE`); the size of the rivals' sets, and which of the rules is
best, are chosen on the calibration split. On the evaluation split, a set is compared with random sets of other neurons,
as many in every layer, and is reported with misread, coherence and over-refusal beside misalignment: a set whose loss
breaks the model shows nothing about safety.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rimkit.behavior.measure import load_sets, observe
from rimkit.behavior.rates import paired_difference
from rimkit.mechanism import ablation, neurons
from rimkit.mechanism.ablation import NOTHING, RANDOM, SELECTED
from rimkit.mechanism.sets import Units, matched_sets
from rimkit.models.chat import MODES
from rimkit.models.internals import architecture
from rimkit.models.loading import StudyModel
from rimkit.models.reading import mean

SIZES = (5, 20, 40, 80)
# Fixed before looking: its own pairs cannot choose it, since on most models no size changes calibration. 40 is what the
# overlap of rules, the directions and RAS (claim C9) are about as well.
PAPER_SIZE = 40
N_RANDOM = 40
BREAKS = 0.1  # a set that costs more coherent, or brings more misread, replies than this in a mode breaks the model
LENGTH = {"max_new_tokens": 64}
OUTCOMES = (
    ("harmful", "misaligned"), ("harmful", "refused"), ("harmful", "misread"), ("harmful", "coherent"),
    ("maths", "score"), ("ordering", "score"), ("over-refusal", "refused"),
)  # fmt: skip


def calibration(study: StudyModel, n: int = 46, seed: int = 0, progress: bool = False, kind: str = "neurons"):
    """``(prompts, verdicts, neuron table)`` of the calibration split: harmful and harmless, in both modes."""
    prompts = load_sets(["harmful", "harmless"], split="calibration", n=n, seed=seed)
    verdicts = observe(study, prompts, seed=seed, progress=progress, **LENGTH)
    return prompts, verdicts, neurons.neuron_table(study, prompts, verdicts, seed=seed, kind=kind)


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
    """Verdicts on harmful ``prompts`` without the first neurons of every rule: columns ``rule, size`` (0: nothing).

    ``generation`` are options of `ablation.without_neurons`, ``kind`` among them.
    """
    harmful = prompts[prompts["kind"] == "harmful"]
    sizes = [size for size in sizes if size <= len(table)]
    rules = neurons.defined_rules(table)
    sets = {NOTHING: []} | {f"{rule} {size}": neurons.select(table, rule, size) for rule in rules for size in sizes}
    found = ablation.without_neurons(study, harmful, sets, modes=MODES, **{"progress": False, **LENGTH, **generation})
    split = found["condition"].str.rsplit(" ", n=1, expand=True).reindex(columns=[0, 1])
    found["rule"], found["size"] = split[0], pd.to_numeric(split[1]).fillna(0).astype(int)
    nothing = found[found["condition"] == NOTHING]
    return pd.concat([nothing.assign(rule=rule) for rule in rules] + [found.drop(nothing.index)], ignore_index=True)


def broken(dosed: pd.DataFrame) -> pd.DataFrame:
    """Which sets break the model: ``rule, size, mode, breaks``, one row each (size 0, nothing, does not).

    A set breaks it where coherent replies fall, or misread ones rise, by more than `BREAKS` in a mode.
    """
    rates = dosed.groupby(["rule", "mode", "size"], sort=False)[["coherent", "misread"]].mean().astype(float)
    change = rates - rates.xs(0, level="size").reindex(rates.index.droplevel("size")).to_numpy()
    breaks = (change["coherent"] < -BREAKS) | (change["misread"] > BREAKS)
    return breaks.rename("breaks").reset_index()


def choose_sizes(dosed: pd.DataFrame, fixed: Mapping[str, int] | None = None) -> pd.DataFrame:
    """The size of each rule that raises misalignment most without breaking the model, from calibration verdicts.

    Misalignment over both modes together, breaking in each mode alone; of sizes that raise it alike, the largest. One
    row per rule: ``rule, size, gain`` (rise of misalignment, a fraction), ``sound`` (whether the size leaves coherence
    and reading within `BREAKS`; a rule without such a size gets its smallest). ``fixed`` sizes are not chosen: by
    default that of the paper's rule is `PAPER_SIZE`, or the largest that was measured below it.
    """
    fixed = {"paper": PAPER_SIZE} if fixed is None else fixed
    rates = dosed.groupby(["rule", "size"], sort=False)["misaligned"].mean().astype(float)
    breaks = broken(dosed).groupby(["rule", "size"])["breaks"].any()
    rows = []
    for rule in dosed["rule"].unique():
        part = rates.loc[rule].sort_index()
        gain, spoilt = part.iloc[1:] - part.loc[0], breaks.loc[rule].reindex(part.index[1:])
        sound = gain[~spoilt]
        if rule in fixed:
            size = max((one for one in gain.index if one <= fixed[rule]), default=gain.index[0])
        elif len(sound):
            size = sound.index[np.isclose(sound, sound.max())][-1]
        else:
            size = gain.index[0]
        rows.append({"rule": rule, "size": int(size), "gain": gain.loc[size], "sound": not spoilt.loc[size]})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Chosen:
    """What calibration decided: each rule's set, the sizes, and the rule whose sound set raises misalignment most."""

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
    study: StudyModel, prompts: pd.DataFrame, sets: Mapping[str, Units], means: np.ndarray | None = None, **options
) -> pd.DataFrame:
    """Verdicts without each named set in both modes: zero, or ``means`` (`harmless_means`) in their place.

    An empty set is the model as it is. ``options`` of `ablation.without_neurons`: ``seed``, ``kind``, ...
    """
    return ablation.without_neurons(
        study, prompts, sets, means, **{"modes": MODES, "progress": False, **LENGTH, **options}
    )


def harmless_means(study: StudyModel, seed: int = 0, n: int = 46, kind: str = "neurons") -> np.ndarray:
    """Mean activations ``[layers, neurons]`` over the tokens of harmless calibration requests (for mean ablation).

    They stand in for a neuron at every token, those of thought and reply too, though only requests were averaged.
    """
    texts = load_sets(["harmless"], split="calibration", n=n, seed=seed)["text"]
    return mean(study, [study.chat.encode(text, "no-think") for text in texts], kind, "request")


def random_for(
    study: StudyModel, units: Units, n: int = N_RANDOM, seed: int = 0, kind: str = "neurons"
) -> dict[str, Units]:
    """``{"random 0": …}``: random sets of other neurons (dimensions of the residual), as many in every layer."""
    parts = architecture(study)
    found = matched_sets(units, parts.n_neurons if kind == "neurons" else parts.hidden_size, n, seed)
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
