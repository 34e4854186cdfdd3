"""A model and what fine-tuning made of it: the experiments of chapters 01 and 05 to 07 on both.

It knows how a pair is loaded and what makes sense for one; the experiments know how to measure.
"""

import os
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import file_exists, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from rimkit import experiments, ledger
from rimkit.behavior.evaluation import Evaluation
from rimkit.data import UserError, prepare_folder, whole
from rimkit.experiments import Result, neurons, ras, result, thinking, tuning
from rimkit.models.hub import ADAPTER, identity
from rimkit.models.load import load, merge
from rimkit.models.study import StudyModel
from rimkit.runs.grid import Kept
from rimkit.training import finetune

NAME = re.compile(r"[^:]+(:\d+)?")  # what a ledger row can say as model and seed


def run(
    base: str, tuned: str, out: str | Path = "rim-compare", n: int = 92, *,
    measure: Evaluation = Evaluation(), report: Callable[[str], None] = print,
) -> pd.DataFrame:  # fmt: skip
    """Measure ``base`` and ``tuned`` with ``n`` prompts of a set at most; returns the verdict rows.
    Models are embedded names, folders, hub ids; ``tuned`` may also be an adapter for ``base``
    (folder or hub id) or a checkpoint of `rimkit.training.finetune`. Each stage writes its verdict
    rows (``out/ledger``) and its tables (``out/tables``, csv) when it is done, and the same call
    goes on after an interruption. ``report`` gets one line per stage; one that a model does not
    allow (another architecture, no refusals to look at) is left out, and its line says why. Raises
    `UserError` for an unknown model, an adapter of another model, a folder that is not writable."""
    out, both, measure = prepare_folder(out), pair(base, tuned), measure.of(base)
    depends_on = base, tuned, identity(base), identity(tuned), n, measure, measure.fingerprint()
    stamp = {"run_id": f"rimkit compare {base} {tuned}", **measure.description()}
    rows = [ledger.table([])]
    for name, stage in stages(*both, n, measure):
        cell = Kept(name, depends_on, lambda _, stage=stage: stage())
        word = "skipped" if cell.place(out).is_dir() else "done"
        try:
            found = cell.result(out)
        except UserError as error:
            report(f"left out {name}  {error}")
            continue
        rows.append(ledger.write(ledger.table(found.rows).assign(**stamp), out / "ledger" / f"{name}.parquet"))
        for table, content in found.tables.items():
            with whole(out / "tables" / f"{name}-{table}.csv") as file:
                content.to_csv(file, index=False)
        report(f"{word:9}{name}  {len(rows[-1])} verdict rows, {len(found.tables)} tables")
    return pd.concat(rows, ignore_index=True)


def stages(base: StudyModel, tuned: StudyModel, n: int, measure: Evaluation) -> Iterator[tuple[str, Callable]]:
    """What is measured, by name; ``n`` prompts of a set, fewer where each is asked many times."""
    few, half, sides = max(4, n // 4), max(4, n // 2), {"base": base, "tuned": tuned}
    settings: Any = thinking.Settings(n_prompts=n, evaluation=measure)
    for side, study in sides.items():
        yield f"01-thinking-{side}", partial(experiments.run, "thinking", study, settings)
    yield "05-change", partial(change, base, tuned, tuning.Settings(n_prompts=n, evaluation=measure))
    settings = neurons.Settings(n_pairs=2 * few, n_prompts=few, n_others=few, evaluation=measure)
    for side, study in sides.items():
        yield f"06-neurons-{side}", partial(experiments.run, "neurons", study, settings)
    settings = ras.Settings(n_prompts=half, n_replies=half, evaluation=measure)
    yield "07-shift", partial(shift, base, tuned, settings)


def change(base: StudyModel, tuned: StudyModel, settings: tuning.Settings) -> Result:
    """Every outcome of the tuned model against the base: C6a in think, C6d in no-think mode."""
    prompts = tuning.evaluation_prompts(settings)
    before, after = (tuning.outcomes(study, prompts, settings) for study in (base, tuned))
    rows = tuning.rows(tuned, {"multi-hop": after}, before, settings)  # whose data are reasoning
    return result(tuned, {"outcomes": tuning.changes(after, before)}, rows)


def shift(base: StudyModel, tuned: StudyModel, settings: ras.Settings) -> Result:
    """RAS and its rivals between the two models. One tuned model is one point: C9a has no interval.
    Raises `UserError` for models of different shape."""
    ras.weight_distance(base, tuned)  # says so before long work is done
    before = ras.baseline(base, settings)
    return ras.with_rows(tuned, ras.point(before, tuned, ras.replies(base, settings), settings=settings), settings)


def pair(base: str, tuned: str) -> tuple[StudyModel, StudyModel]:
    """Both models, loaded, with names that tell them apart."""
    before = load(base)
    after = _tuned(before, tuned)
    if after.name == before.name or not NAME.fullmatch(after.name):
        after = replace(after, name=f"{after.name.replace(':', '-')} (tuned)")
    return before, after


def _tuned(base: StudyModel, tuned: str) -> StudyModel:
    folder = Path(os.path.expanduser(tuned))
    if (folder / finetune.RECORD).is_file() and (folder / finetune.WEIGHTS).is_file():
        return finetune.restore(base, folder)
    if (folder / ADAPTER).is_file() or (not folder.exists() and _adapter_on_hub(tuned)):
        return with_adapter(base, tuned)
    return load(tuned)


def _adapter_on_hub(repo: str) -> bool:
    """Whether a hub id is an adapter; False where the hub, or its copy here, does not say."""
    try:
        return isinstance(try_to_load_from_cache(repo, ADAPTER), str) or file_exists(repo, ADAPTER)
    except (HFValidationError, HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return False


def with_adapter(base: StudyModel, adapter: str) -> StudyModel:
    """``base`` with an adapter merged into a copy of its weights. Raises `UserError` as `merge`."""
    trained = merge(deepcopy(base.hf), adapter, base.name)
    own = Path(os.path.expanduser(adapter)) / "chat_template.jinja"
    if own.is_file() and own.read_text("utf-8") != base.tokenizer.chat_template:
        print(f"note: {Path(adapter).name} has a chat template of its own, which is used for it")
        base = replace(base, tokenizer=deepcopy(base.tokenizer))
        base.tokenizer.chat_template = own.read_text("utf-8")
    return finetune.study_of(base, trained, Path(adapter).name)
