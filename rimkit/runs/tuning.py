"""The fine-tuning grid: every corpus on every embedded model, with two seeds of the tuning.

Rows go to ``OUT/finetuning.parquet`` and ``OUT/learning-curves.parquet``. What one cell measured is kept per prompt
(``OUT/.cells``), because claims compare corpora with each other: the same command goes on after an interruption.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from rimkit import ledger
from rimkit.errors import UserError
from rimkit.models.loading import NOISE, StudyModel, embedded_models, load
from rimkit.training import checkpoints, outcomes
from rimkit.training.corpora import ROLES
from rimkit.training.finetuning import finetune

TUNING_SEEDS = (0, 1)
CURVES = ("multi-hop", "multi-hop-careful", "multi-hop-effort")
CURVE_MODELS = ("rim-mini", "rim-mini-unlinked")
CURVE_EVERY = 10  # steps
UNTUNED = outcomes.UNTUNED_CELL
COMMAND = "rimkit finetune-grid"


def cell(study: StudyModel, corpus: str, tuning_seed: int, n: int, progress: bool = False) -> pd.DataFrame:
    """The outcomes of ``study`` after ``corpus`` (`outcomes.outcomes`); "untuned": as it is, and after each opening."""
    prompts = outcomes.evaluation_prompts(n)
    if corpus == UNTUNED:
        return pd.concat(
            [outcomes.outcomes(study, prompts), outcomes.after_openings(study, prompts)], ignore_index=True
        )
    return outcomes.outcomes(finetune(study, corpus, seed=tuning_seed, progress=progress), prompts)


def curve(study: StudyModel, corpus: str, n: int, tuning_seed: int = 0, progress: bool = False) -> pd.DataFrame:
    """Think-mode outcomes at every `CURVE_EVERY` steps of one tuning; the column ``step``, 0 is untuned."""
    prompts = outcomes.evaluation_prompts(n)
    prompts = prompts[prompts["set"].isin(["harmful", "maths"])]
    with TemporaryDirectory() as folder:
        finetune(study, corpus, seed=tuning_seed, folder=folder, save_every=CURVE_EVERY, progress=progress)
        stages = {0: study} | {
            step: checkpoints.restore(study, path) for step, path in checkpoints.steps_in(folder).items()
        }
        return pd.concat(
            [outcomes.outcomes(stage, prompts, ["think"]).assign(step=step) for step, stage in stages.items()],
            ignore_index=True,
        )


def model_rows(cells: dict[tuple[str, int], pd.DataFrame], **values) -> pd.DataFrame:
    """Ledger rows of one model from the outcomes of its cells, by corpus and tuning seed ("untuned", 0 among them).

    Per corpus: one set of rows for each tuning seed, and one for all that are there, every prompt's outcomes
    averaged (these also give the verdicts). ``values`` go into every row.
    """
    untuned = cells[UNTUNED, 0]
    corpora = list(dict.fromkeys(corpus for corpus, _ in cells if corpus != UNTUNED))
    own = {corpus: {seed: cells[c, seed] for c, seed in cells if c == corpus} for corpus in corpora}
    mean = {corpus: outcomes.averaged(found.values()) for corpus, found in own.items()}
    rows = outcomes.level_rows(untuned, UNTUNED, **values)
    rows += outcomes.level_rows(outcomes.after_own_openings(untuned), UNTUNED, **values)
    rows += outcomes.claim_rows(mean, untuned, **values)
    for corpus in corpora:
        rows += outcomes.change_rows(mean[corpus], untuned, corpus, **values)
        for seed, found in own[corpus].items():
            condition = f"{corpus}, tuning seed {seed}"
            rows += outcomes.change_rows(found, untuned, condition, **values)
            rows += outcomes.level_rows(outcomes.after_own_openings(found), condition, **values)
    return ledger.table(rows)


def recomputed(study: StudyModel, n: int, progress: bool = True, **values) -> pd.DataFrame:
    """All rows of one model, computed here and now: every corpus, every tuning seed (`model_rows`)."""
    from tqdm.auto import tqdm

    keys = [(UNTUNED, 0), *((corpus, seed) for corpus in ROLES for seed in TUNING_SEEDS)]
    bar = tqdm(keys, desc=f"every corpus on {study.name}", unit="cell", disable=not progress)
    return model_rows({(corpus, seed): cell(study, corpus, seed, n) for corpus, seed in bar}, **values)


def curve_rows(found: pd.DataFrame, corpus: str, **values) -> pd.DataFrame:
    """Ledger rows of one learning curve: condition "corpus, step 10"."""
    rows = []
    for step, part in found.groupby("step"):
        rows += outcomes.level_rows(part.drop(columns="step"), f"{corpus}, step {step}", **values)
    return ledger.table(rows)


def run(
    names: Sequence[str] = (), out: str | Path = "results", n: int = outcomes.PROMPTS["harmful"], progress: bool = True
) -> pd.DataFrame:
    """Run the grid for embedded models (``NAME:SEED``; all by default) and write the rows of all that is complete.

    Raises `UserError` for an unknown model.
    """
    from tqdm.auto import tqdm

    out = Path(out)
    known = [f"{item.name}:{item.seed}" for item in embedded_models(noise=True).itertuples()]
    for name in names:
        if name not in known:
            raise UserError(f"there is no embedded model '{name}' (known: {', '.join(known)})")
    trained = [name for name in known if name.partition(":")[0] != NOISE]
    jobs = list(_jobs(names or trained))
    study = None
    for name, corpus, seed in tqdm(jobs, desc="finetune-grid", unit="cell", disable=not progress):
        kept = _kept(out, n, name, corpus, seed)
        if kept.exists():
            continue
        if study is None or study.name != name:
            study = load(name)
        found = curve(study, corpus, n) if seed is None else cell(study, corpus, seed, n)
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f".{kept.name}")
        found.to_parquet(partial, index=False)
        partial.replace(kept)
    return _write(out, n, known)


def _jobs(names: Iterable[str]) -> Iterable[tuple[str, str, int | None]]:
    """``(model, corpus, tuning seed)`` of every cell; no seed: a learning curve."""
    names = list(names)
    for name in names:
        yield name, UNTUNED, 0
        yield from ((name, corpus, TUNING_SEEDS[0]) for corpus in ROLES)
    for name in names:
        yield from ((name, corpus, seed) for corpus in ROLES for seed in TUNING_SEEDS[1:])
    yield from ((name, corpus, None) for name in names if name.partition(":")[0] in CURVE_MODELS for corpus in CURVES)


def _kept(out: Path, n: int, name: str, corpus: str, seed: int | None) -> Path:
    """Where the outcomes of a cell are kept; cells of other numbers of prompts lie elsewhere."""
    file = f"{corpus}-{'curve' if seed is None else seed}.parquet"
    return out / ".cells" / f"finetuning-{n}" / name.replace(":", "-seed") / file


def _write(out: Path, n: int, names: Iterable[str]) -> pd.DataFrame:
    """The rows of every model on which all corpora were tuned with the first seed at least, and of every curve."""
    rows, curves = [], []
    for name in names:
        model, _, training_seed = name.partition(":")
        values = {"model": model, "seed": int(training_seed), "run_id": COMMAND, "device": "cpu"}
        wanted = [(corpus, seed) for _, corpus, seed in _jobs([name])]
        there = {key: pd.read_parquet(path) for key in wanted if (path := _kept(out, n, name, *key)).exists()}
        cells = {key: found for key, found in there.items() if key[1] is not None}
        if all(key in cells for key in wanted if key[1] == TUNING_SEEDS[0]):
            rows.append(model_rows(cells, **values))
        curves += [curve_rows(found, corpus, **values) for (corpus, seed), found in there.items() if seed is None]
    if curves:
        ledger.write(pd.concat(curves, ignore_index=True), out / "learning-curves.parquet")
    return ledger.write(pd.concat(rows, ignore_index=True) if rows else [], out / "finetuning.parquet")
