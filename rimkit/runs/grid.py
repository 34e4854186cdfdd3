"""Experiments without chapters, kept as they are done: on every embedded model, and on a pair.

A chapter computes one model before the reader's eyes and shows the rest from the grids' results
(``data/results``); `compare` holds a model against what fine-tuning made of it. This file knows
models, settings and files, and nothing of what an experiment measures.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
from huggingface_hub import file_exists, try_to_load_from_cache
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from rimkit import __version__, ledger
from rimkit.behavior.evaluation import RANDOM, Evaluation
from rimkit.data import UserError, check_known, kept, prepare_folder, whole
from rimkit.experiments import Result, heads, neurons, patterns, planted, probes, ras, repairs, result, thinking, tuning
from rimkit.models.hub import ADAPTER, NOISE, embedded_models, identity, recorded_models
from rimkit.models.load import load, merge
from rimkit.models.study import StudyModel
from rimkit.runs import audit
from rimkit.teaching import figures
from rimkit.training import finetune
from rimkit.training.corpora import usual

ROWS = "verdict rows"  # the name under which they are kept beside the tables
KEPT = ".cells"
CHAPTERS = (thinking, patterns, probes, heads, tuning, neurons, ras, repairs)  # 01 to 07, and 09
EXPERIMENTS = {module.__name__.rpartition(".")[2]: module for module in (*CHAPTERS, planted)}
*TOPICS, PLANTED = EXPERIMENTS  # the last one is no chapter's: the positive controls
EXPERTS = "rim-mini-moe"  # for chapter 05: others compare organisms that differ in data alone
ENTANGLED = ("rim-mini-intent", "rim-mini", "safe-mini")  # chapter 07: of the others three seeds
CURVES = ("rim-mini", "rim-mini-unlinked")  # of which chapter 05 shows learning curves
NOISE_GRID = "noise"  # every experiment on models that have learned nothing
NAMES = (*TOPICS, NOISE_GRID, PLANTED)
SHARED, DISJOINT = "planted-shared:0", "planted-disjoint:0"  # with known neurons
NAME = re.compile(r"[^:]+(:\d+)?")  # what a ledger row can say as model and seed
REPEATED = ("rim-mini:0", "safe-mini:0")  # whose sampling seeds stand in for condition and control


@dataclass(frozen=True)
class Kept:
    """A piece of long work that is done once. ``measure`` is given a folder where it may keep its
    parts. ``depends_on``: all that its result depends on, as something with a plain ``repr``."""

    name: str
    depends_on: Any
    measure: Callable[[Path], Result]

    @property
    def key(self) -> str:
        return sha256(repr((self.depends_on, __version__)).encode()).hexdigest()[:12]

    def place(self, folder: Path) -> Path:
        return folder / KEPT / f"{self.name}-{self.key}"

    def result(self, folder: Path) -> Result:
        """What is kept in ``folder``, or else measured now and kept."""
        place, start = self.place(folder), perf_counter()
        parts = place.with_name(f"{place.name}-parts")

        def make() -> dict[str, pd.DataFrame]:
            found = self.measure(parts)
            stamp = {"params_hash": self.key, "seconds": round(perf_counter() - start, 1)}
            return {**found.tables, ROWS: ledger.table(found.rows).assign(**stamp)}

        tables = kept(place, make)
        shutil.rmtree(parts, ignore_errors=True)
        return Result(tables, tables.pop(ROWS).to_dict("records"))


def run(
    names: Iterable[str] = (), out: str | Path = "results", models: Iterable[str] = (), *,
    progress: bool = True, report: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:  # fmt: skip
    """Run grids (`NAMES`; all by default) and return their verdict rows. Writes
    ``out/verdicts.parquet`` (of noise and planted models: a file of their own) and the tables of
    all models that are done: those of the grid, or only ``models`` ("rim-mini:0"), and what was
    done before. Where an experiment is undefined for a model, its row is a failed one that says
    so, and ``report`` is told, as of planted models that are not here."""
    names, models, out = list(names) or list(NAMES), list(models), Path(out)
    known = [f"{item.name}:{item.seed}" for item in embedded_models(noise=True, recorded=True).itertuples()]
    for what, given, there in (("grid", names, NAMES), ("embedded model", models, known)):
        for name in given:
            check_known(what, name, there)
    return pd.concat([_grid(name, out, models, progress, report) for name in names], ignore_index=True)


def _grid(name: str, out: Path, models: list[str], progress: bool, report: Callable[[str], None]) -> pd.DataFrame:
    """One grid: its tables and rows are written, and its rows returned."""
    run_id, noise = f"rimkit grid {name}", name == NOISE_GRID
    tables, rows = {}, []
    for topic in TOPICS if noise else (name,):
        every = models_of(topic, noise)
        for absent in {SHARED, DISJOINT} - set(every) if name == PLANTED else ():
            report(f"{absent} is not here: `rimkit organism train {absent.partition(':')[0]} --base DIR` makes it")
        found = _topic(topic, run_id, out, every, models, progress, report)
        tables |= found.tables
        rows += found.rows
    if noise:
        tables = {"noise-weaker": weaker(tables), "noise-repeats": _repeats(out, models, progress)}
    elif name == PLANTED and "planted-sets" in tables:
        by_model = dict(list(tables["planted-sets"].groupby("model")))
        if len(by_model) == 2:
            pair = (by_model[model.partition(":")[0]] for model in (SHARED, DISJOINT))
            tables["planted-difference"] = planted.shared_minus_disjoint(*pair)
    for table, content in ((name, one) for name, one in tables.items() if len(one)):
        with whole(out / f"{table}.parquet") as file:
            content.to_parquet(file, index=False)
    target = out / f"{name if name in (NOISE_GRID, PLANTED) else 'verdicts'}.parquet"
    found = ledger.table(rows)
    before = ledger.read(target) if target.exists() else ledger.table([])
    ledger.write(pd.concat([before[before["run_id"] != run_id], found], ignore_index=True), target)
    return found


def _topic(topic, run_id, out, every, models, progress, report) -> Result:
    """An experiment on its models: tables of all, one below the other, and the rows of all."""
    tables, rows = {}, []
    todo = models or [name for name in every if name not in recorded_models()]
    todo = [name for name in every if name in todo or cell(topic, name).place(out).is_dir()]
    for model in tqdm(todo, f"{run_id}: {topic}", unit="model", disable=not progress):
        try:
            found = cell(topic, model).result(out)
        except UserError as error:
            report(f"{topic} is undefined on {model}: {error}")
            name, _, seed = model.partition(":")
            failed = {"chapter": chapter_of(topic), "model": name, "seed": int(seed), "error": str(error)}
            found = Result({}, [ledger.failed_row(**failed)])
        rows += found.rows
        for name, table in found.tables.items():
            tables[name] = pd.concat([*([tables[name]] if name in tables else []), table], ignore_index=True)
    if topic == "ras" and tables:
        rows += ras.pooled_rows(tables["ras-points"], tables["ras-sets"])
    return Result(tables, [row | {"run_id": run_id} for row in rows])


def models_of(topic: str, noise: bool = False) -> list[str]:
    """The embedded models that the grid of an experiment is about, as "rim-mini:0"; also
    those that come without weights, whose rows are kept."""
    table = embedded_models(noise=noise, recorded=True)
    if noise:
        table = table[table["name"] == NOISE]
    elif topic == PLANTED:
        return [name for name in (SHARED, DISJOINT, *REPEATED) if identity(name)]
    elif topic == "ras":
        few = (table["seed"] < 3) | (table["name"] == ENTANGLED[0])
        table = table[table["name"].isin(ENTANGLED) & few]
    elif topic != "tuning":
        table = table[table["name"] != EXPERTS]
    return [f"{item.name}:{item.seed}" for item in table.itertuples()]


def chapter_of(topic: str) -> str:
    """The chapter whose claims an experiment measures: "04_refusal_heads"."""
    topic = "ras" if topic == PLANTED else topic
    return dict(zip(TOPICS, sorted(ledger.claims()["chapter"].unique()), strict=True))[topic]


def cell(topic: str, model: str) -> Kept:
    """One experiment on one embedded model, with the experiment's own settings."""
    settings = EXPERIMENTS[topic].Settings()
    if topic == "tuning" and model.partition(":")[0] not in CURVES:
        settings = replace(settings, curves=())
    if topic == "ras" and not model.endswith(":0"):  # further seeds, for the spread of C9b
        settings = replace(settings, corpora=(ras.EFFORT_CORPUS, ras.CAREFUL_CORPUS))

    def measure(parts: Path) -> Result:
        keeping = replace(settings, folder=parts) if hasattr(settings, "folder") else settings
        keeping = replace(keeping, known=planted.known_sets(model)) if topic == PLANTED else keeping
        return EXPERIMENTS[topic].run(load(model), keeping)

    depends_on = topic, model, identity(model), settings
    return Kept(f"{topic}-{model.replace(':', '-')}", depends_on, measure)


def _repeats(out: Path, models: list[str], progress: bool) -> pd.DataFrame:
    """False alarms in trained models' replies: two sampling seeds of one condition."""
    parts = []
    for model in (name for name in REPEATED if not models or name in models):

        def measure(_: Path, name: str = model) -> Result:
            study = load(name)
            return result(study, {"repeats": audit.repeats(study, progress=progress)}, [])

        again = Kept(f"repeats-{model.replace(':', '-')}", ("repeats", model, identity(model)), measure)
        parts.append(again.result(out).tables["repeats"])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def weaker(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """C3a and C9a against controls that see effects in noise (chapter 10), as verdict rows."""
    read = tables["probes"].query("what == 'harm' and mode == 'no-think' and span == 'last'")
    read = read.rename(columns={"auroc": "value", "shuffled": "control_value"})
    read = read.assign(claim="C3a", control="shuffled labels", metric="auroc")
    levels = tables["ras-levels"].assign(claim="C9a", control="random neurons", mode="think", metric="log_ras")
    levels = levels[levels["role"] == RANDOM]
    columns = ["model", "seed", "claim", "control", "mode", "metric", "value", "control_value", "effect"]
    return pd.concat([read, levels], ignore_index=True)[[*columns, "ci_low", "ci_high", "n"]]


def picture(thinking: pd.DataFrame) -> Figure:
    """The README's figure: misalignment of every embedded model and seed in both modes."""
    harmful = thinking.query("set == 'harmful' and metric == 'misaligned'")
    title = "Misalignment on held-out harmful requests, every organism and training seed"
    return figures.points(harmful, "seed", hue="mode", facet="model", title=title)


def compare(
    base: str, tuned: str, out: str | Path = "rim-compare", n: int = 92, *,
    measure: Evaluation = Evaluation(), report: Callable[[str], None] = print,
) -> pd.DataFrame:  # fmt: skip
    """Measure a model and what fine-tuning made of it, with ``n`` prompts of a set at most; returns
    the verdict rows. Models are embedded names, folders, hub ids; ``tuned`` may also be an adapter
    for ``base`` (folder or hub id) or a checkpoint of `rimkit.training.finetune`. Each stage writes
    its verdict rows (``out/ledger``) and its tables (``out/tables``, csv) when it is done, and the
    same call goes on after an interruption. ``report`` gets one line per stage; one that a model
    does not allow (another architecture, no refusals to look at) is left out, and its line says
    why. Raises `UserError` for an unknown model, another's adapter, an unwritable folder."""
    out, both, measure = prepare_folder(out), pair(base, tuned), measure.of(base)
    depends_on = base, tuned, identity(base), identity(tuned), n, measure, measure.fingerprint()
    stamp = {"run_id": f"rimkit compare {base} {tuned}", **measure.description()}
    rows, problems = [ledger.table([])], []
    for name, stage in stages(*both, n, measure):
        cell = Kept(name, depends_on, lambda _, stage=stage: stage())
        word = "skipped" if cell.place(out).is_dir() else "done"
        try:
            found = cell.result(out)
        except UserError as error:
            report(f"left out {name}  {error}")
            problems.append(error)
            continue
        rows.append(ledger.write(ledger.table(found.rows).assign(**stamp), out / "ledger" / f"{name}.parquet"))
        for table, content in found.tables.items():
            with whole(out / "tables" / f"{name}-{table}.csv") as file:
                content.to_csv(file, index=False)
        report(f"{word:9}{name}  {len(rows[-1])} verdict rows, {len(found.tables)} tables")
    if len(rows) == 1:
        raise problems[0]
    return pd.concat(rows, ignore_index=True)


def stages(base: StudyModel, tuned: StudyModel, n: int, measure: Evaluation) -> Iterator[tuple[str, Callable]]:
    """What is measured, by name; ``n`` prompts of a set, fewer where each is asked many times."""
    few, half, sides = max(4, n // 4), max(4, n // 2), {"base": base, "tuned": tuned}
    settings: Any = thinking.Settings(n_prompts=n, evaluation=measure)
    for side, study in sides.items():
        yield f"01-thinking-{side}", partial(thinking.run, study, settings)
    yield "05-change", partial(change, base, tuned, tuning.Settings(n_prompts=n, evaluation=measure))
    settings = neurons.Settings(n_pairs=2 * few, n_prompts=few, n_others=few, evaluation=measure)
    for side, study in sides.items():
        yield f"06-neurons-{side}", partial(neurons.run, study, settings)
    settings = ras.Settings(n_prompts=half, n_replies=half, evaluation=measure)
    yield "07-shift", partial(shift, base, tuned, settings)


def change(base: StudyModel, tuned: StudyModel, settings: tuning.Settings) -> Result:
    """Every outcome of the tuned model against the base: C6a in think, C6d in no-think mode."""
    prompts = tuning.evaluation_prompts(settings)
    before, after = (tuning.outcomes(study, prompts, settings) for study in (base, tuned))
    rows = tuning.rows(tuned, {usual(tuned.invented): after}, before, settings)  # as if tuned on reasoning
    return result(tuned, {"outcomes": tuning.changes(after, before)}, rows)


def shift(base: StudyModel, tuned: StudyModel, settings: ras.Settings) -> Result:
    """RAS and its rivals between the two models. One tuned model is one point: C9a has no interval.
    Raises `UserError` for models of different shape, or whose tokens mean different things."""
    ras.weight_distance(base, tuned)  # says so before long work is done
    if base.tokenizer.get_vocab() != tuned.tokenizer.get_vocab():
        raise UserError("two models with different tokenizers cannot be compared: they read other tokens")
    before = ras.baseline(base, settings)
    return ras.with_rows(tuned, ras.point(before, tuned, ras.replies(base, settings), settings=settings), settings)


def pair(base: str, tuned: str) -> tuple[StudyModel, StudyModel]:
    """Both models, loaded, with names that tell them apart."""
    before, folder = load(base), Path(os.path.expanduser(tuned))
    if (folder / finetune.RECORD).is_file() and (folder / finetune.WEIGHTS).is_file():
        after = finetune.restore(before, folder)
    elif (folder / ADAPTER).is_file() or (not folder.exists() and _adapter_on_hub(tuned)):
        after = with_adapter(before, tuned)
    else:
        after = load(tuned)
    if after.invented != before.invented:
        raise UserError(f"{before.name} and {after.name} speak different languages: neither is made of the other")
    if after.name == before.name or not NAME.fullmatch(after.name):
        after = replace(after, name=f"{after.name.replace(':', '-')} (tuned)")
    return before, after


def _adapter_on_hub(repo: str) -> bool:
    """Whether a hub id is an adapter; False where the hub, or its copy here, does not say."""
    with suppress(Exception):  # the hub's HTTP library, and so its errors, differ between versions
        return isinstance(try_to_load_from_cache(repo, ADAPTER), str) or file_exists(repo, ADAPTER)
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
