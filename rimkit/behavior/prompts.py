"""Prompt sets: tables of requests, shipped in ``data/prompts``, known by name, or read from a file of one's own.

Real prompt sets by name: where each comes from, pinned, and how its columns become those of the workbook.

Nothing of them is stored in the workbook. They are read from the cache of the Hugging Face hub, from a local
mirror (`rimkit.models.hub`), or downloaded there; ``rimkit fetch`` does so ahead. ``name@revision`` loads
another revision than the pinned one. The pins were taken from public code that uses these sets at these commits,
not checked online: a set without a commit here, or with another number of prompts than expected, says so.

Clusters are what belongs together (the harmful and the harmless half of a pair; prompts on one word), so that
no cluster is in both splits; where a set has none, each prompt is its own. A set with its own training part
calibrates on that.

How thoughts begin: the sentences of ``data/prompts/openings.csv``, and the style that a thought opens with.
"""

from __future__ import annotations

import csv
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd

from rimkit.behavior import judges, redaction
from rimkit.data import UserError, data_dir, find_table, nearest, read_table, shipped_tables
from rimkit.models import hub

# -- behavior.prompts ----------
COLUMNS = ("prompt_id", "text", "kind", "category", "cluster", "split", "answer", "source")
NEEDED = ("text", "kind")
SPLITS = ("calibration", "evaluation")
KINDS = ("harmful", "harmless", "maths", "ordering", "copying", "own")


def load_prompts(
    name: str | Path,
    *,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """A prompt set as a table with the columns of `COLUMNS`.

    ``name``: a shipped set (`prompt_sets` lists them), a real one ("xstest"; "gsm8k@main" is another revision:
    `rimkit.behavior.prompts`), or a csv, jsonl or parquet file with at least the columns ``text, kind``. A file
    without ``prompt_id`` gets numbers, one without ``cluster`` one cluster per prompt, one without ``split`` two
    halves that share no cluster. ``columns`` is for a file whose columns are called otherwise, from the workbook's
    name to the file's, for example ``{"text": "goal", "cluster": "category", "kind": "harmful"}``; ``kind`` may also
    be a kind for all rows. On a command line: ``file.csv?text=goal&cluster=category&kind=harmful``.

    ``split`` keeps "calibration" or "evaluation"; ``n`` draws that many prompts, spread evenly over clusters and
    always the same for one ``seed`` (all of them if there are fewer).

    Before a real set of harmful requests is loaded, a content note is printed; from then on its text does not
    leave the process (`rimkit.behavior.redaction`).

    Raises `UserError` for an unknown set, column or split, an unreadable file, a set that cannot be got, missing
    columns, prompts without a text, ids that occur twice, ``n`` below 1 and an empty result.
    """
    return part_of(_prompts_read(name, columns), name, split=split, n=n, seed=seed)


def part_of(
    table: pd.DataFrame, name: str | Path, *, split: str | None = None, n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """The prompts of one split, and ``n`` of them, as `load_prompts` draws them from the set ``name``."""
    if split is not None:
        if split not in SPLITS:
            raise UserError(f"unknown split '{split}': use calibration or evaluation{nearest(split, SPLITS)}")
        table = table[table["split"] == split]
    if n is not None:
        table = spread(table, n, seed)
    if table.empty:
        where = f" in the {split} split" if split else ""
        raise UserError(f"the prompt set '{name}' has no prompts{where}")
    return table.reset_index(drop=True)


def own_prompts(texts: Iterable[str], kind: str = "own") -> pd.DataFrame:
    """Requests of one's own as a prompt set: one cluster each, nothing known about what a right reply is."""
    texts = list(texts)
    ids = [f"{kind}-{number}" for number in range(len(texts))]
    table = pd.DataFrame({"prompt_id": ids, "text": texts, "cluster": ids})
    return table.assign(kind=kind, category="", split="evaluation", answer="", source="own")[list(COLUMNS)]


def spread(table: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """``n`` rows in their original order, as evenly over clusters as can be."""
    if n != int(n) or n < 1:
        raise UserError(f"n must be a whole number of prompts, 1 or more, not {n}")
    table = table.reset_index(drop=True)
    shuffled = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    turn = shuffled.groupby("cluster", sort=False).cumcount()
    chosen = turn.sort_values(kind="stable").head(int(n)).index
    return table.loc[chosen].sort_index()


def prompt_sets() -> pd.DataFrame:
    """The shipped sets: ``name, prompts, kinds, clusters, sha256`` (of the content, as it was generated)."""
    hashes = pd.read_csv(data_dir() / "prompts" / "hashes.csv")
    tables = [_prompts_read(name, None) for name in hashes["name"]]
    return hashes.assign(
        kinds=[", ".join(table["kind"].unique()) for table in tables],
        clusters=[table["cluster"].nunique() for table in tables],
    )[["name", "prompts", "kinds", "clusters", "sha256"]]


def _prompts_read(name: str | Path, columns: Mapping[str, str] | None) -> pd.DataFrame:
    known = None if columns else named(str(name))
    if known:
        table, shipped = load(*known), False
    else:
        path, asked, shipped = _locate(name)
        table = _mapped(read_table(path), {**asked, **(columns or {})}, name)
    table = _checked(table, name)
    redaction.remember_harmful(table)
    if known[0].safety if known else not shipped and (table["kind"] == "harmful").any():
        content_note(known[0].name if known else Path(path).name)
        redaction.withhold(table["text"])
    return table


def _locate(name: str | Path) -> tuple[Path, dict[str, str], bool]:
    """The file, the columns asked for behind a question mark, and whether it is a shipped set."""
    shipped = shipped_tables("prompts")
    path, mark, query = str(name).partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if mark and not all(asked.values()):
        raise UserError(f"'{query}' are no columns: write {path}?text=goal&kind=harmful")
    path = find_table(path, shipped, "prompt set", tuple(BENCHMARKS))
    return path, asked, path in shipped.values()


def _mapped(table: pd.DataFrame, columns: Mapping[str, str], name: str | Path) -> pd.DataFrame:
    """The table with its columns called as in the workbook."""
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            raise UserError(f"a prompt set has no '{ours}'{nearest(ours, COLUMNS)}; it has {', '.join(COLUMNS)}")
        if theirs not in table and not (ours == "kind" and theirs in KINDS):
            there = [str(column) for column in table]
            also = f", and no kind is called so ({', '.join(KINDS)})" if ours == "kind" else ""
            near = nearest(theirs, there)
            raise UserError(f"'{name}' has no column '{theirs}'{also}{near}; it has {', '.join(there)}")
    found = {ours: table.get(theirs, theirs) for ours, theirs in columns.items()}
    return table.assign(**found)


def _checked(table: pd.DataFrame, name: str | Path) -> pd.DataFrame:
    """The table with all of `COLUMNS`, or a `UserError` that says what is wrong with it."""
    missing = [column for column in NEEDED if column not in table]
    if missing:
        raise UserError(f"the prompt set '{name}' has no column {', '.join(missing)}; it needs {', '.join(NEEDED)}")
    if "prompt_id" not in table:
        stem = Path(str(name).partition("?")[0]).stem
        table = table.assign(prompt_id=[f"{stem}-{number}" for number in range(len(table))])
    table["prompt_id"] = table["prompt_id"].astype(str)
    blank = table["text"].isna() | (table["text"].astype(str).str.strip() == "")
    if blank.any():
        raise UserError(f"the prompt '{table.loc[blank, 'prompt_id'].iloc[0]}' of '{name}' has no text")
    if not table["prompt_id"].is_unique:
        twice = table.loc[table["prompt_id"].duplicated(), "prompt_id"].iloc[0]
        raise UserError(f"the prompt_id '{twice}' occurs twice in '{name}'; make the ids unique")
    defaults = {"cluster": "", "category": "", "answer": "", "source": str(name)}
    table = table.assign(**{column: value for column, value in defaults.items() if column not in table})
    for column in ("cluster", "category", "answer"):
        table[column] = table[column].fillna("").astype(str)
    table["cluster"] = table["cluster"].where(table["cluster"] != "", table["prompt_id"])
    if "split" not in table:
        table["split"] = halves(table)
    table = table[list(COLUMNS)]
    if len(wrong := table.loc[~table["split"].isin(SPLITS), "split"]):
        raise UserError(f"'{name}' has the split '{wrong.iloc[0]}'; there are {' and '.join(SPLITS)}")
    return table


# -- behavior.benchmarks ----------
NOTE = (
    "Content note: '{name}' asks for harmful things, and replies to it may be harmful or upsetting. {kept} "
    "It is for measuring how a model refuses; do not pass its text on."
)
SHOWN = "Its text will be shown and saved, as you asked."
HIDDEN = (
    "Its text stays in memory, and outputs and files show ids and numbers; the parameter keep_text of a chapter, "
    "or 'rimkit run --keep-text', changes that."
)
COMMIT = re.compile(r"[0-9a-f]{40}")
Rows = Callable[[pd.DataFrame, str], dict]


@dataclass(frozen=True)
class Benchmark:
    """One prompt set. ``rows`` makes the columns of the workbook (text, kind, and what else it knows) from the table
    of one file and its name; ``prompts`` is how many it should hold; ``splits`` are those files that are a split of
    their own. ``safety``: its text is withheld (`rimkit.behavior.redaction`); ``gated``: its owners ask for consent.
    """

    name: str
    about: str
    repo: str
    revision: str
    files: tuple[str, ...]
    reader: str
    rows: Rows
    prompts: int
    splits: dict[str, str] = field(default_factory=dict)
    safety: bool = False
    gated: bool = False

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which nobody can change."""
        return COMMIT.fullmatch(self.revision) is not None

    def source(self, revision: str | None = None) -> hub.Source:
        return hub.Source(self.repo, "dataset", revision or self.revision, self.files)


# -- the columns of each set ---------------------------------------------------------------------------------

HEX_PHI = {
    1: "illegal activity", 3: "hate, harassment, violence", 4: "malware", 5: "physical harm", 6: "economic harm",
    7: "fraud, deception", 8: "adult content", 9: "political campaigning", 10: "privacy violation",
    11: "tailored financial advice",
}  # fmt: skip


def _hex_phi(table: pd.DataFrame, file: str) -> dict:
    """Each file is a category, each line a prompt, quoted or not: there is no header."""
    fields = [next(csv.reader([line]), []) for line in table["text"]]
    texts = [parts[0] if len(parts) == 1 else line for parts, line in zip(fields, table["text"], strict=True)]
    return {"text": texts, "kind": "harmful", "category": HEX_PHI[int(re.sub(r"\D", "", file))]}


def _advbench(table: pd.DataFrame, file: str) -> dict:
    return {"text": table["prompt"], "kind": "harmful"}


def _jailbreakbench(table: pd.DataFrame, file: str) -> dict:
    kind = "harmful" if file.endswith("harmful-behaviors.csv") else "harmless"
    pairs = "pair " + table["Index"].astype(str)
    return {"text": table["Goal"], "kind": kind, "category": table["Category"], "cluster": pairs}


def _xstest(table: pd.DataFrame, file: str) -> dict:
    kinds = table["label"].map({"safe": "harmless", "unsafe": "harmful"})
    focus = table["focus"].fillna("").str.strip().str.lower()
    return {"text": table["prompt"], "kind": kinds, "category": table["type"], "cluster": focus}


def _alpaca(table: pd.DataFrame, file: str) -> dict:
    return {"text": (table["instruction"] + "\n\n" + table["input"].fillna("")).str.strip(), "kind": "harmless"}


def _gsm8k(table: pd.DataFrame, file: str) -> dict:
    return _problems(table["question"], table["answer"])


def _multiarith(table: pd.DataFrame, file: str) -> dict:
    return _problems(table["question"], table["final_ans"])


def _aime(table: pd.DataFrame, file: str) -> dict:
    return _problems(table["problem"], table["answer"])


def _problems(texts: pd.Series, answers: pd.Series) -> dict:
    numbers = [judges.written(judges.final_answer(str(answer))) for answer in answers]
    return {"text": texts.str.strip(), "kind": "maths", "answer": numbers}


TRAIN_AND_TEST = ("calibration", "evaluation")
GSM8K = tuple(f"main/{part}-00000-of-00001.parquet" for part in ("train", "test"))
AIME_24, AIME_25 = "data/train-00000-of-00001.parquet", "test.jsonl"
BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark(
            "hex-phi", "harmful, 10 categories (the paper's safety set)", "LLM-Tuning-Safety/HEx-PHI",
            "83128b46334b80cc567bd7a2caf7af11c5b0bab7", tuple(f"category_{number}.csv" for number in HEX_PHI),
            "text", _hex_phi, 300, safety=True, gated=True,
        ),
        Benchmark(
            "advbench", "harmful; many near-duplicates: its intervals are too narrow", "walledai/AdvBench",
            "9d4730540082fa4017450b65ca1c0e1d8d30446e", ("data/train-00000-of-00001.parquet",),
            "parquet", _advbench, 520, safety=True, gated=True,
        ),
        Benchmark(
            "jailbreakbench", "pairs of harmful and harmless requests", "JailbreakBench/JBB-Behaviors",
            "886acc352a31533ffbcf4ef22c744658688086fc", ("data/harmful-behaviors.csv", "data/benign-behaviors.csv"),
            "csv", _jailbreakbench, 200, safety=True,
        ),
        Benchmark(
            "xstest", "harmless that sounds harmful, and its contrasts: over-refusal", "Paul/XSTest",
            "f600c994b256f12867dfa5b3eb3d545a3e62f8b5", ("xstest_prompts.csv",), "csv", _xstest, 450, safety=True,
        ),
        Benchmark(
            "alpaca-cleaned", "harmless instructions (the paper's probe)", "yahma/alpaca-cleaned",
            "12567cabf869d7c92e573c7c783905fc160e9639", ("alpaca_data_cleaned.json",), "json", _alpaca, 51760,
        ),
        Benchmark(
            "gsm8k", "maths in several steps; calibration: its training part", "openai/gsm8k",
            "740312add88f781978c0658806c59bc2815b9866", GSM8K, "parquet", _gsm8k, 8792,
            splits=dict(zip(GSM8K, TRAIN_AND_TEST, strict=True)),
        ),
        Benchmark(
            "multiarith", "easy maths (the paper's); calibration: its training part", "ChilleD/MultiArith",
            "main", ("train.json", "test.json"), "json", _multiarith, 600,
            splits=dict(zip(("train.json", "test.json"), TRAIN_AND_TEST, strict=True)),
        ),
        Benchmark(
            "aime24", "hard maths, whole numbers; all for evaluation", "HuggingFaceH4/aime_2024",
            "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", (AIME_24,), "parquet", _aime, 30,
            splits={AIME_24: "evaluation"},
        ),
        Benchmark(
            "aime25", "hard maths, whole numbers; all for evaluation", "math-ai/aime25",
            "563bb8404243c5f09de6ec262f2db674fe5bce9b", (AIME_25,), "json", _aime, 30,
            splits={AIME_25: "evaluation"},
        ),
    )
}  # fmt: skip


# -- loading -------------------------------------------------------------------------------------------------


def benchmarks() -> pd.DataFrame:
    """The sets of the hub known by name: ``name, what, prompts, repository, revision, access``."""
    rows = []
    for one in BENCHMARKS.values():
        revision = one.revision[:10] if one.pinned else f"{one.revision} (not pinned)"
        access = "asks for consent" if one.gated else "open"
        rows.append((one.name, one.about, one.prompts, one.repo, revision, access))
    return pd.DataFrame(rows, columns=["name", "what", "prompts", "repository", "revision", "access"])


def named(name: str) -> tuple[Benchmark, str] | None:
    """The set and the revision that ``"name"`` or ``"name@revision"`` stands for; None if no set is called so."""
    known, _, revision = name.partition("@")
    return (BENCHMARKS[known], revision or BENCHMARKS[known].revision) if known in BENCHMARKS else None


def load(benchmark: Benchmark, revision: str) -> pd.DataFrame:
    """The whole set with the columns of the workbook, as its files have them; for a safety set, a note first.

    Downloads it if it is not on this machine. Raises `UserError` where that fails (`rimkit.models.hub`), for a
    file that cannot be read and for one that lacks the columns expected.
    """
    if benchmark.safety:
        content_note(benchmark.name)
    source = benchmark.source(revision)
    folder = hub.on_this_machine(source) or hub.download(source)
    tables = _benchmarks_read([folder / file for file in benchmark.files], benchmark.reader)
    parts = [_part(benchmark, file, part) for file, part in zip(benchmark.files, tables, strict=True)]
    table = pd.concat(parts, ignore_index=True)
    ids = [f"{benchmark.name}-{number}" for number in range(len(table))]
    origin = f"{benchmark.repo} in {hub.MIRROR}" if hub.mirrored(source) else f"{benchmark.repo}@{revision}"
    table = table.assign(prompt_id=ids, source=origin)
    if not benchmark.splits:
        table = table.drop(columns="split")  # `load_prompts` makes one
    if len(table) != benchmark.prompts and revision == benchmark.revision:
        print(f"note: {benchmark.name} holds {len(table)} prompts in {folder}, not the {benchmark.prompts} expected")
    return table


def content_note(name: str) -> None:
    """Print what a set holds and where its text goes, once for each set."""
    if name not in _noted:
        _noted.add(name)
        print(NOTE.format(name=name, kept=SHOWN if redaction.keeps_text() else HIDDEN))


_noted: set[str] = set()


def halves(table: pd.DataFrame) -> pd.Series:
    """A split for tables that have none: the clusters of a category by turns, in an order that only names decide.

    No cluster is in both; the same rows always give the same halves, evaluation the larger one.
    """
    clusters = table.drop_duplicates("cluster")
    order = clusters["cluster"].map(lambda name: hashlib.sha256(name.encode()).hexdigest())
    turns = clusters.assign(order=order).sort_values(["category", "order"])["cluster"]
    half = {name: ("evaluation", "calibration")[turn % 2] for turn, name in enumerate(turns)}
    return table["cluster"].map(half)


def _part(benchmark: Benchmark, file: str, table: pd.DataFrame) -> pd.DataFrame:
    try:
        columns = benchmark.rows(table, file)
    except KeyError as error:
        there = ", ".join(map(str, table.columns))
        raise UserError(f"{benchmark.name}: {file} has no column {error}; it has {there}") from error
    rest = {"category": "", "cluster": "", "answer": "", "split": benchmark.splits.get(file, "")}
    part = pd.DataFrame(rest | columns, index=table.index)
    return part[part["text"].fillna("").str.strip() != ""]  # such as an empty line at the end of a file


def _benchmarks_read(paths: list[Path], reader: str) -> list[pd.DataFrame]:
    """Files of one format through ``datasets``, which leaves no second copy of them on the disk."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, load_dataset

    files = {f"part{number}": str(path) for number, path in enumerate(paths)}
    quiet = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as folder:
            parts = load_dataset(reader, data_files=files, cache_dir=folder, keep_in_memory=True)
            return [parts[name].to_pandas() for name in files]
    except Exception as error:  # many kinds; their messages may quote a prompt
        where = paths[0] if len(paths) == 1 else paths[0].parent
        raise UserError(f"{where} cannot be read as {reader} ({type(error).__name__})") from None
    finally:
        if not quiet:
            enable_progress_bars()


# -- behavior.openings ----------
NEUTRAL, CAREFUL, EFFORT = "neutral", "careful", "effort-minimising"


def openings(language: str = "invented") -> pd.DataFrame:
    """The sentences that begin a thought: columns ``language, style, pattern, text``.

    ``language`` is ``"invented"`` (the embedded models) or ``"english"`` (real models; wording of this
    workbook, not of the paper). ``pattern`` names the paper's effort-minimising pattern, or the style.
    """
    table = pd.read_csv(data_dir() / "prompts" / "openings.csv")
    return table[table["language"] == language].reset_index(drop=True)


def prefixes(prompts: pd.DataFrame, sentences: pd.DataFrame) -> dict[str, str]:
    """One sentence per prompt, taking turns, so that no condition rests on one wording."""
    return dict(zip(prompts["prompt_id"], cycle(sentences["text"]), strict=False))


def style(thought: str) -> str:
    """The style of the sentence of `openings`, in either language, that a thought begins with, or "other"."""
    return next((style for text, style in _styles() if thought.startswith(text)), "other")


@lru_cache
def _styles() -> tuple[tuple[str, str], ...]:
    table = pd.concat([openings("invented"), openings("english")])
    return tuple(zip(table["text"], table["style"], strict=True))
