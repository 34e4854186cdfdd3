"""The grid of chapter 07: fine-tune again with checkpoints, and measure every predictor of forgetting at each.

Rows go to ``OUT/entanglement.parquet``: condition "corpus, step 10", the predictor's name as metric. Every tuning is
kept when it is done (``OUT/.cells``), and the same command goes on after an interruption.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from rimkit import ledger
from rimkit.behavior.measure import judged, load_sets
from rimkit.behavior.rates import paired_difference
from rimkit.mechanism import entanglement, neuron_effects, neuron_pairs, neurons, prediction, ras_claims
from rimkit.models.chat import MODES
from rimkit.models.loading import StudyModel, embedded_models, load
from rimkit.training import checkpoints
from rimkit.training.corpora import ROLES, load_corpus
from rimkit.training.finetuning import encode_corpus, finetune

MODELS, SEEDS = ("rim-mini", "rim-mini-unlinked", "safe-mini"), (0, 1, 2)
EVERY = 10  # steps between checkpoints; the first and the last are measured, those between hardly differ from the last
N_TUNING = 32  # sequences of the corpus on which the KL divergence is computed
N_CRITICAL = 40  # safety-critical neurons, by the paper's rule: about 2% of the embedded models
COMMAND = "rimkit entanglement-grid"


def baseline(study: StudyModel, k: int = N_CRITICAL, n: int = 46) -> entanglement.Baseline:
    """The untuned side: the first ``k`` neurons of the paper's rule with and without intent, and of *gradient*.

    ``n``: calibration requests of each kind.
    """
    prompts, verdicts, table = neuron_effects.calibration(study, n)
    k = min(k, len(table) // 4)
    causal = neurons.select(table, "gradient", k) if "gradient" in neurons.defined_rules(table) else ()
    refused = set(verdicts.loc[(verdicts["mode"] == "think") & verdicts["refused"], "prompt_id"])
    same_rule = neuron_pairs.without_intent(study, prompts[prompts["kind"] == "harmful"], k)
    critical = neurons.select(table, "paper", k)
    return entanglement.baseline(study, critical, causal, n, refused=refused, same_rule=same_rule)


def tuning_sequences(study: StudyModel, corpus: str) -> list[tuple[list[int], int]]:
    """The first `N_TUNING` examples of a corpus as token ids: where KL divergence *on the tuning data* is measured."""
    return encode_corpus(study, load_corpus(corpus).head(N_TUNING))


def rates(study: StudyModel, n: int = 92) -> dict[str, float]:
    """Misalignment on evaluation prompts in both modes, and coherence in think mode."""
    found = {mode: replies(study, mode, n) for mode in MODES}
    misaligned = {f"misaligned, {mode}": float(table["misaligned"].mean()) for mode, table in found.items()}
    return misaligned | {"coherent, think": float(found["think"]["coherent"].mean())}


def replies(study: StudyModel, mode: str = "think", n: int = 92) -> pd.DataFrame:
    """Verdicts on the replies to ``n`` harmful evaluation prompts."""
    return judged(study, load_sets(["harmful"], n=n), mode, batch_size=128, progress=False)


def cell(
    study: StudyModel, base: entanglement.Baseline, untuned: pd.DataFrame, corpus: str, every: int = EVERY,
    progress: bool = False, **values,
) -> pd.DataFrame:  # fmt: skip
    """Fine-tune on one corpus; rows of every predictor and of the outcome at the first and last checkpoint.

    ``untuned``: the untuned model's `replies` in think mode. The change of misalignment is paired by prompt, its
    interval draws verbs again.
    """
    tuning, rows = tuning_sequences(study, corpus), []
    with TemporaryDirectory() as folder:
        finetune(study, corpus, folder=folder, save_every=every, progress=progress)
        kept = checkpoints.steps_in(folder)
        for step in sorted({min(kept), max(kept)}):
            tuned = checkpoints.restore(study, kept[step])
            found = entanglement.predictors(base, tuned, tuning) | {"steps": float(step)}
            measured = {name: {"value": value} for name, value in found.items()} | outcome(replies(tuned), untuned)
            rows += [
                ledger.row("C10a", condition=f"{corpus}, step {step}", metric=name, control=None, **numbers, **values)
                for name, numbers in measured.items()
            ]
    return ledger.table(rows)


def outcome(after: pd.DataFrame, before: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Misalignment of the tuned model and its change, with the numbers of a ledger row each; change of coherence."""
    change = paired_difference(after, before, "misaligned", on="prompt_id")
    interval = {"ci_low": change.ci_low, "ci_high": change.ci_high, "n": change.n}
    coherent = float(after["coherent"].mean() - before["coherent"].mean())
    return {
        "misaligned, think": {"value": change.value_a, "n": change.n},
        prediction.OUTCOME: {"value": change.effect, **interval},
        "change of coherent, think": {"value": coherent},
    }


def run(names: Iterable[str] = (), out: str | Path = "results", progress: bool = True) -> pd.DataFrame:
    """Run the grid for embedded models (``NAME:SEED``; by default those of `MODELS` and `SEEDS`) and write the rows."""
    from tqdm.auto import tqdm

    out, found = Path(out), embedded_models()
    known = found[found["name"].isin(MODELS) & found["seed"].isin(SEEDS)].sort_values(["seed", "name"], kind="stable")
    names = list(names) or [f"{item.name}:{item.seed}" for item in known.itertuples()]
    tables, loaded = [], ("", None, None, None)
    for name, corpus in tqdm([(n, c) for n in names for c in ROLES], desc="entanglement-grid", disable=not progress):
        kept = out / ".cells" / "entanglement" / f"{name.replace(':', '-seed')}-{corpus}.parquet"
        if not kept.exists():
            if loaded[0] != name:
                study = load(name)
                loaded = (name, study, baseline(study), replies(study))
            _, study, base, untuned = loaded
            model, _, seed = study.name.partition(":")
            values = {
                "model": model,
                "seed": int(seed or 0),
                "run_id": COMMAND,
                "device": study.device,
                "mode": "think",
            }
            ledger.write(cell(study, base, untuned, corpus, **values), kept)
        tables.append(ledger.read(kept))
    rows = pd.concat(tables, ignore_index=True)
    claimed = ras_claims.claim_rows(prediction.as_table(rows), run_id=COMMAND, mode="think")
    return ledger.write(pd.concat([rows, ledger.table(claimed)], ignore_index=True), out / "entanglement.parquet")
