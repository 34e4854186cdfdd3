"""A model and what fine-tuning made of it: the measurements of chapters 01 and 05 to 07 on both, as ledger rows.

Each stage is written when it is done (``OUT/ledger``), and the same command goes on after an interruption.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pandas as pd

from rimkit import __version__, ledger
from rimkit.behavior.evaluation import Evaluation, evaluation
from rimkit.data import UserError
from rimkit.experiments import ras, tuning
from rimkit.models.load import load
from rimkit.models.study import StudyModel
from rimkit.runs import grid
from rimkit.runs.execute import prepare_folder
from rimkit.teaching.setup import identity
from rimkit.training import finetune
from rimkit.training.finetune import study_of

ADAPTER = "adapter_config.json"
NAME = re.compile(r"[^:]+(:\d+)?")  # what a ledger row can say as model and seed
Stage = tuple[str, Callable[[], list[dict]]]


def run(
    base: str,
    tuned: str,
    out: str | Path = "rim-compare",
    n: int = 92,
    *,
    prompts: Mapping[str, str] | None = None,
    judge: str = "",
    max_new_tokens: int = 0,
    report: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Measure ``base`` and ``tuned`` with ``n`` prompts of a set at most, and write the rows of every stage.

    Models are embedded names, folders, hub ids; ``tuned`` may also be an adapter for ``base`` (folder or hub id) or
    a checkpoint of `rimkit.training.finetune`. ``report`` gets one line per stage; a stage that a model does not
    allow (another architecture, no refusals to look at) is left out, and its line says why. ``prompts``,
    ``judge`` and ``max_new_tokens``: see `rimkit.behavior.evaluation`.

    Raises `UserError` for an unknown model, an adapter of another model and a folder that cannot be written.
    """
    out, measure = prepare_folder(out), evaluation(prompts or {}, judge, max_new_tokens)
    before, after = pair(base, tuned)
    key = sha256(repr((base, tuned, n, measure, measure.fingerprint(), __version__)).encode()).hexdigest()[:12]
    stamp = {"params_hash": key, "run_id": f"rimkit compare {base} {tuned}", **measure.description()}
    for name, stage in stages(before, after, n, measure):
        file = out / "ledger" / f"{name}.parquet"
        if file.exists() and ledger.read(file)["params_hash"].eq(key).all():
            report(f"skipped  {name}  complete already")
            continue
        try:
            rows = ledger.table(stage()).assign(**stamp)
        except UserError as error:
            report(f"left out {name}  {error}")
            continue
        ledger.write(rows, file)
        report(f"done     {name}  {len(rows)} rows")
    return ledger.read(out)


def pair(base: str, tuned: str) -> tuple[StudyModel, StudyModel]:
    """Both models, loaded, with names that tell them apart."""
    before = load(base)
    after = _tuned(before, tuned)
    if after.name == before.name or not NAME.fullmatch(after.name):
        after = replace(after, name=f"{after.name.replace(':', '-')} (tuned)")
    return before, after


def _tuned(base: StudyModel, tuned: str) -> StudyModel:
    folder = Path(tuned).expanduser()
    if (folder / finetune.RECORD).is_file() and (folder / finetune.WEIGHTS).is_file():
        return finetune.restore(base, folder)
    if (folder / ADAPTER).is_file() or (not folder.exists() and _adapter_on_hub(tuned)):
        return with_adapter(base, tuned)
    return load(tuned)


def _adapter_on_hub(repo: str) -> bool:
    """Whether a hub id is an adapter; False where the hub, or its copy here, does not say."""
    from huggingface_hub import file_exists, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return isinstance(try_to_load_from_cache(repo, ADAPTER), str) or file_exists(repo, ADAPTER)
    except (HFValidationError, HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return False


def with_adapter(base: StudyModel, adapter: str) -> StudyModel:
    """``base`` with a peft adapter merged into a copy of its weights. Raises `UserError` if it does not fit."""
    from peft import PeftModel

    try:
        merged = PeftModel.from_pretrained(deepcopy(base.hf), adapter).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the adapter {adapter} does not fit {base.name}: {reason}") from error
    return study_of(base, merged.eval(), Path(adapter).name)


def stages(base: StudyModel, tuned: StudyModel, n: int, measure: Evaluation = Evaluation()) -> Iterator[Stage]:
    """The stages by name, each a function that measures and returns ledger rows."""
    both = (base, tuned)
    yield "01-thinking", lambda: _each(grid.GRIDS["thinking"], both, n, measure)
    yield "05-change", lambda: change_rows(base, tuned, n, measure)
    yield "06-neurons", lambda: _each(grid.neurons_cell, both, max(4, n // 4), measure)
    yield "07-entanglement", lambda: shift_rows(base, tuned, max(4, n // 2), measure)


def _each(cell: Callable[..., list[dict]], models: tuple[StudyModel, ...], n: int, measure: Evaluation) -> list[dict]:
    return [row for study in models for row in cell(study, n, evaluation=measure, **identity(study))]


def change_rows(base: StudyModel, tuned: StudyModel, n: int, measure: Evaluation = Evaluation()) -> list[dict]:
    """Chapter 05: the tuned model against the base, C6a in think and C6d in no-think mode."""
    settings = tuning.Settings(n_prompts=n, evaluation=measure)
    prompts = tuning.evaluation_prompts(settings)
    before, after = (tuning.outcomes(study, prompts, settings) for study in (base, tuned))
    return tuning.claim_rows({"multi-hop": after}, before, **identity(tuned))  # C6a and C6d: reasoning data


def shift_rows(base: StudyModel, tuned: StudyModel, n: int, measure: Evaluation = Evaluation()) -> list[dict]:
    """Chapter 07: RAS between the two models against other sets of neurons. One tuned model: no interval.

    Raises `UserError` for models of different shape.
    """
    settings = ras.Settings(n_prompts=n, n_replies=n, evaluation=measure)
    tables = ras.point(ras.baseline(base, settings), tuned, ras.replies(base, settings), settings=settings)
    return ras.claimed(tuned, tables, settings).rows
