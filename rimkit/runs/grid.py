"""Grids: the same measurement on every embedded model and seed, shipped as ledger rows in ``data/results``.

A chapter computes one model before the reader's eyes and loads the rest from these rows; the test suite
recomputes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from time import perf_counter

import pandas as pd
from matplotlib.figure import Figure

from rimkit import ledger
from rimkit.behavior import measure
from rimkit.behavior.prompts import spread
from rimkit.errors import UserError, nearest
from rimkit.mechanism import (
    ablation,
    headsets,
    neuron_effects,
    neuron_pairs,
    neuron_rows,
    neurons,
    separability,
    separability_rows,
    steering,
)
from rimkit.mechanism.sets import overlap
from rimkit.models.chat import MODES
from rimkit.models.loading import StudyModel, embedded_models, load
from rimkit.observation import patterns, thinking
from rimkit.teaching import figures

N_PROMPTS = None  # prompts per set: all of the evaluation split
N_ABLATED = 46  # harmful requests under each of many ablations
WIDE = 640  # replies in a batch where many sets are ablated: one batch takes less time than two of half the size


def thinking_cell(study: StudyModel, n: int | None = N_PROMPTS, progress: bool = False, **values) -> list[dict]:
    """Chapter 01 for one model: both modes on every prompt set, and replaced thoughts."""
    prompts = measure.load_sets(n=n)
    verdicts = measure.observe(study, prompts, progress=progress)
    own = verdicts[(verdicts["set"] == "harmful") & (verdicts["mode"] == "think")]
    harmful = prompts[prompts["set"] == "harmful"]
    replaced = thinking.replaced_thoughts(study, harmful, own, progress=progress)
    return thinking.thinking_rows(verdicts, **values) + thinking.replaced_rows(replaced, **values)


def patterns_cell(study: StudyModel, n: int | None = N_PROMPTS, progress: bool = False, **values) -> list[dict]:
    """Chapter 02 for one model: every beginning of the thought on the harmful prompts."""
    harmful = measure.load_sets(["harmful"], n=n)
    return patterns.pattern_rows(patterns.injected(study, harmful, progress=progress), **values)


def probes_cell(study: StudyModel, n: int | None = N_PROMPTS, progress: bool = False, **values) -> list[dict]:
    """Chapter 03 for one model: every place and layer that a probe can read, and both directions removed."""
    found, _ = separability.contrasts(study, separability.observed(study, n, progress=progress))
    asked = measure.load_sets(["harmful"], n=min(n or N_ABLATED, N_ABLATED))
    rows = separability_rows.probe_rows(found, **values)
    rows += separability_rows.harm_rows(study, found, **values)
    for claim, what in (("C3d", "outcome"), ("C3e", "harm")):
        one = next((found[what, mode] for mode in ("no-think", "think") if (what, mode) in found), None)
        if one:
            conditions = steering.with_random(steering.removed, one.probe("last"))
            verdicts = steering.under(study, asked, conditions, ["no-think"], max_new_tokens=32, progress=False)
            rows.append(steering.steering_row(claim, verdicts, mode="no-think", **values))
    return rows


def heads_cell(study: StudyModel, n: int | None = N_PROMPTS, progress: bool = False, **values) -> list[dict]:
    """Chapter 04 for one model: what the heads that each rule selects carry, against random sets."""
    few, quiet = min(n or N_ABLATED, N_ABLATED), {"progress": progress, "batch_size": 128}
    table = headsets.screen(study, few).table
    calibration = measure.load_sets(["harmful", "harmless"], split="calibration", n=few)
    choices = headsets.choose(study, table, calibration, max_new_tokens=32, **quiet)
    chosen = headsets.best(choices)
    both = measure.load_sets(["harmful", "harmless"], n=few)
    asked = measure.load_sets(["harmful"], n=few // 2)  # one request per verb: verbs are what counts

    @cache  # rules often agree
    def verdicts(heads: tuple, mode: str) -> pd.DataFrame:
        sets, length = headsets.with_random(study, list(heads)), 32 if mode == "no-think" else 72
        return ablation.without_heads(study, asked, sets, modes=[mode], max_new_tokens=length, **quiet)

    def against_random(heads, condition: str | None, mode: str = "no-think") -> list[dict]:
        return headsets.ablation_rows(verdicts(tuple(heads), mode), condition, mode=mode, **values)

    rows = against_random(chosen["heads"], None)
    rows += against_random(chosen["heads"], "think", "think")
    for rule in choices.loc[choices["k"] > 0, "rule"].unique():
        own = headsets.best(choices, rule)
        rows += against_random(own["heads"], f"best of {rule}: {own['k']} of {len(table)}")
    for dose in choices[choices["rule"] == chosen["rule"]].itertuples():
        rows += against_random(dose.heads, f"{dose.rule}, {dose.k} of {len(table)}")
    several = measure.load_sets(n=few)
    beside = ablation.without_heads(
        study, several, {"nothing": [], "selected": chosen["heads"]}, modes=MODES, max_new_tokens=72, **quiet
    )
    rows += ledger.rate_rows("C5a", beside, ["condition", "set", "kind", "mode"], **values)
    rows.append(headsets.moves_row(headsets.moves(study, both), **values))
    rows.append(
        headsets.looking_row(headsets.looking(study, asked, headsets.with_random(study, chosen["heads"])), **values)
    )
    return [*rows, headsets.cut_row(headsets.cut_replies(study, asked, chosen["heads"], **quiet), **values)]


def neurons_cell(study: StudyModel, n: int | None = N_PROMPTS, progress: bool = False, **values) -> list[dict]:
    """Chapter 06 for one model: rules and sizes on calibration, effects on evaluation, random sets for both verdicts.

    ``n`` prompts of every set (23 without it, one harmful per verb), twice as many to form pairs.
    """
    n = n or 23
    prompts, verdicts, table = neuron_effects.calibration(study, 2 * n)
    harmful = prompts[prompts["kind"] == "harmful"]
    dosed = neuron_effects.dose(study, spread(harmful, n), table)
    chosen = neuron_effects.choose(table, dosed)
    rows = neuron_rows.set_rows(chosen, **values) + neuron_rows.dose_rows(dosed, **values)
    found = neuron_pairs.definition(study, harmful)
    for metric, numbers in (neuron_pairs.numbers(found) | _same_neurons(study, prompts, verdicts)).items():
        rows += neuron_rows.value_rows(numbers, metric, **values)
    sets, asked = dict(chosen.sets), neuron_effects.evaluation_prompts(n, n)
    if found.refused.any():
        sets["refusing"] = found.first(chosen.sizes.set_index("rule").loc["paper", "size"])["refusing pairs"]
    return rows + _ablated(study, sets, {"paper", chosen.best}, asked, values, thorough=study.invented)


def _same_neurons(study: StudyModel, prompts: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, dict[str, float]]:
    """How far the rule *gradient* names the same first neurons in both modes; empty where it is undefined."""
    by_mode = neurons.gradient_by_mode(study, prompts, verdicts)
    if set(by_mode) != set(MODES):
        return {}
    first = [neurons.first(by_mode[mode], neuron_pairs.FIRST) for mode in MODES]
    return {"overlap, modes": {"overlap, gradient, modes": overlap(*first)}}


def _ablated(
    study: StudyModel, sets: dict, main: set[str], asked: pd.DataFrame, values: dict, thorough: bool
) -> list[dict]:
    """Every set against nothing, by zero and by mean; the ``main`` ones against random sets, too, in the same way.

    Unless ``thorough``, which takes a model of one's own hours: random sets by zero alone, and on the prompts that the
    claims are about.
    """
    rows, claimed = [], asked[asked["set"].isin(["harmful", "maths"])]
    for kind, means in (("zero", None), ("mean", neuron_effects.harmless_means(study))):
        verdicts = neuron_effects.without_sets(study, asked, {"nothing": []} | sets, means, batch_size=WIDE)
        for rule, units in sets.items():
            own = verdicts[verdicts["condition"].isin(["nothing", rule])]
            if rule in main and (thorough or kind == "zero"):
                random, prompts = neuron_effects.random_for(study, units), asked if thorough else claimed
                without = neuron_effects.without_sets(study, prompts, random, means, batch_size=WIDE)
                own = pd.concat([own, without], ignore_index=True)
                if kind == "zero":
                    rows += neuron_rows.random_rows(own, rule, **values)
            rows += neuron_rows.effect_rows(neuron_effects.compared(own, rule), rule, kind, **values)
    return rows


GRIDS: dict[str, Callable[..., list[dict]]] = {
    "thinking": thinking_cell,
    "patterns": patterns_cell,
    "probes": probes_cell,
    "heads": heads_cell,
    "neurons": neurons_cell,
}
EXPERTS = ("rim-mini-moe",)  # chapter 05 shows it; chapters 01 and 02 compare organisms that differ in their data alone


def models() -> pd.DataFrame:
    """The embedded models that the grids are about, as in `embedded_models`: all but the mixture of experts."""
    everything = embedded_models()
    return everything[~everything["name"].isin(EXPERTS)].reset_index(drop=True)


def cell(grid: str, name: str, seed: int, *, n: int | None = N_PROMPTS, progress: bool = False) -> pd.DataFrame:
    """The ledger rows of one grid for one embedded model; ``seed`` is its training seed. Raises ``UserError``."""
    if grid not in GRIDS:
        raise UserError(f"unknown grid '{grid}' (known: {', '.join(GRIDS)}){nearest(grid, GRIDS)}")
    start = perf_counter()
    study = load(f"{name}:{seed}")
    values = {"model": name, "seed": seed, "run_id": f"rimkit grid {grid}", "device": study.device}
    rows = GRIDS[grid](study, n, progress=progress, **values)
    return ledger.table(rows).assign(seconds=round(perf_counter() - start, 1))


def run(grids: Iterable[str] = (), out: str | Path = "results", progress: bool = True) -> pd.DataFrame:
    """Run grids (all by default) over the embedded models (`models`) and write ``OUT/<grid>.parquet`` each.

    Every cell is kept as it is done (``OUT/.cells``), so that the same command goes on after an interruption.
    """
    from tqdm.auto import tqdm

    out, tables = Path(out), []
    for grid in grids or GRIDS:
        rows = []
        for item in tqdm(list(models().itertuples()), desc=f"grid {grid}", unit="model", disable=not progress):
            kept = out / ".cells" / f"{grid}-{item.name}-{item.seed}.parquet"
            if not kept.exists():
                ledger.write(cell(grid, item.name, item.seed), kept)
            rows.append(ledger.read(kept))
        tables.append(ledger.write(pd.concat(rows, ignore_index=True), out / f"{grid}.parquet"))
        if grid == "thinking":
            (out / "thinking.png").write_bytes(figures.png(overview(tables[-1])))
    return pd.concat(tables, ignore_index=True)


def overview(rows: pd.DataFrame) -> Figure:
    """Misalignment of every embedded model and training seed in both modes: the figure of the README."""
    harmful = rows[(rows["claim"] == "C1a") & (rows["condition"] == "harmful, harmful")]
    title = "Misalignment on held-out harmful requests, every organism and training seed"
    return figures.rate_plot(harmful, x="seed", hue="mode", facet="model", title=title, size=(9.6, 3.9))
