"""Prompt sets: shipped ones, real ones by name, files of one's own; and how thoughts begin.

Nothing of a real set is stored in the workbook: it is read from the cache of the Hugging Face hub,
from a local mirror (`rimkit.models.hub`), or downloaded there. The pins were taken from public code
that uses these sets, not checked online: another number of prompts than expected is said. Clusters
are what belongs together (the two halves of a pair, prompts on one word, equal texts), so that no
cluster is in both splits; where a set has none, each prompt is its own.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd

from rimkit.behavior import judges, redaction
from rimkit.data import UserError, data_dir, find_table, nearest, plain_names, read_table, shipped_tables
from rimkit.models import hub

COLUMNS = ("prompt_id", "text", "kind", "category", "cluster", "split", "answer", "source")
NEEDED = ("text", "kind")
SPLITS = ("calibration", "evaluation")
KINDS = ("harmful", "harmless", "maths", "ordering", "copying", "own")
WORD = re.compile(r"[^\W\d_][\w'-]*( [\w'-]+)?")  # an answer: a letter, yes, a name
# Around the one number of an answer: what makes it a part of an expression, which is not evaluated here.
PART = re.compile(
    r"\\(?!approx|degree|pounds|euro|q?quad|displaystyle)[a-z]{2,}"
    r"|[+^_<>≤≥≠±∓√π∞∪∈·×÷]|\d\s*!|[\d)][²³⁴-⁹ⁿ]"
    r"|\d(?!e[+-]?\d)[a-z](?![a-z])|\d\s*/\s*[a-z]|\d\s?[inxyz]\b"
    r"|\b[a-z]\s*[-−*]|[\d)}\]]\s*[-−*](?!\*|[a-z]{2})|[a-z)}\]]\s*/\s*\d"
    r"|\b[a-z]\([^()]{0,60}?\d"
    r"|(?<![a-z])(?:sqrt|log|ln|sin|cos|tan|exp|pi|mod|infinity|plus|minus|negative)(?![a-z])"
    r"|[(\[][^()\[\]]{0,60}?(?:,\s*(?!\d{3})|\D,)[^()\[\]]{0,60}[)\]]",
    re.IGNORECASE,
)

NOTE = (
    "Content note: '{name}' asks for harmful things, and replies to it may be harmful or "
    "upsetting. {kept} It is for measuring how a model refuses; do not pass its text on."
)
SHOWN = "Its text will be shown and saved, as you asked."
HIDDEN = (
    "Its text stays in memory, and outputs and files show ids and numbers; the parameter keep_text "
    "of a chapter, or 'rimkit run --keep-text', changes that."
)


def load_prompts(
    name: str | Path,
    *,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """A prompt set as a table with the columns of `COLUMNS`.

    ``name``: a shipped set (`prompt_sets`), a real one (`BENCHMARKS`, perhaps ``name@revision``),
    or a csv, jsonl or parquet file with at least the columns ``text, kind``; ids and a split are
    made where there are none. ``columns``, ours to theirs (``{"text": "goal", "kind": "harmful"}``:
    also a kind for all rows), is for a file whose columns are called otherwise; on a command line
    ``file.csv?text=goal&kind=harmful``. ``split`` keeps "calibration" or "evaluation"; ``n``
    prompts are spread evenly over clusters, the same for one ``seed``.

    Harmful requests that do not come with the workbook have a content note, and their text does not
    leave the process. Raises `UserError` for an unknown set, column, kind or split, an unreadable
    file, a set that cannot be got, prompts without a text, ids that occur twice, ``n`` below 1 and
    an empty result.
    """
    return part_of(_read(name, columns), name, split=split, n=n, seed=seed)


def part_of(
    table: pd.DataFrame, name: str | Path, split: str | None = None, n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """The prompts of one split, and ``n`` of them, as `load_prompts` draws them from a set."""
    if split is not None:
        if split not in SPLITS:
            close = nearest(split, SPLITS)
            raise UserError(f"unknown split '{split}': use calibration or evaluation{close}")
        table = table[table["split"] == split]
    if n is not None:
        table = spread(table, n, seed)
    if table.empty:
        where = f" in the {split} split" if split else ""
        raise UserError(f"the prompt set '{name}' has no prompts{where}")
    return table.reset_index(drop=True)


def own_prompts(texts: Iterable[str]) -> pd.DataFrame:
    """Requests of one's own as a prompt set: one cluster each, no right reply known."""
    table = pd.DataFrame({"text": list(texts)})
    table["prompt_id"] = table["cluster"] = "own-" + table.index.astype(str)
    table = table.assign(kind="own", split="evaluation", source="own", category="", answer="")
    return table[list(COLUMNS)]


def spread(table: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """``n`` rows in their original order, as evenly over clusters as can be."""
    if n != int(n) or n < 1:
        raise UserError(f"n must be a whole number of prompts, 1 or more, not {n}")
    table = table.reset_index(drop=True)
    shuffled = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    turn = shuffled.groupby("cluster", sort=False).cumcount()
    drawn = turn.sort_values(kind="stable").head(int(n)).index
    return table.loc[drawn].sort_index()


def prompt_sets() -> pd.DataFrame:
    """The shipped sets: ``name, prompts, kinds, clusters, sha256`` (as it was generated)."""
    hashes = pd.read_csv(data_dir() / "prompts" / "hashes.csv")
    tables = [_read(name) for name in hashes["name"]]
    kinds = [", ".join(table["kind"].unique()) for table in tables]
    clusters = [table["cluster"].nunique() for table in tables]
    columns = ["name", "prompts", "kinds", "clusters", "sha256"]
    return hashes.assign(kinds=kinds, clusters=clusters)[columns]


def _read(name: str | Path, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    known = None if columns else named(str(name))
    if known:
        table, shipped, called = load(*known), False, known[0].name
    else:
        path, asked, shipped = _locate(name)
        table, called = _mapped(read_table(path), {**asked, **(columns or {})}, name), path.name
    table = _checked(table, name)
    table = table if shipped else _together(_answers(table, called), called)
    redaction.remember_harmful(table)
    if known[0].safety if known else not shipped and (table["kind"] == "harmful").any():
        content_note(called)
        redaction.withhold(table["text"])
    return table


def _locate(name: str | Path) -> tuple[Path, dict[str, str], bool]:
    """The file, the columns asked for behind a question mark, and whether it is a shipped set."""
    shipped = shipped_tables("prompts")
    path, mark, query = str(name).partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    asked = dict(pairs)
    if len(asked) < len(pairs):
        raise UserError(f"'{query}' names a column twice: each of ours stands for one of theirs")
    if mark and not all(asked.values()):
        raise UserError(f"'{query}' are no columns: write {path}?text=goal&kind=harmful")
    path = find_table(path, shipped, "prompt set", tuple(BENCHMARKS))
    return path, asked, path in shipped.values()


def _mapped(table: pd.DataFrame, columns: Mapping[str, str], name: str | Path) -> pd.DataFrame:
    """The table with its columns called as in the workbook."""
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise UserError(f"a prompt set has no '{ours}'{nearest(ours, COLUMNS)}; it has {known}")
        if theirs not in table and not (ours == "kind" and theirs in KINDS):
            also = f", and no kind is called so ({', '.join(KINDS)})" if ours == "kind" else ""
            also += nearest(theirs, plain_names(table))
            raise UserError(f"'{name}' has no column '{theirs}'{also}; {_has(table)}")
    return table.assign(**{ours: table.get(theirs, theirs) for ours, theirs in columns.items()})


def _has(table: pd.DataFrame) -> str:
    shown = plain_names(table)
    hidden = len(table.columns) - len(shown)
    return "it has " + ", ".join(shown + ([f"{hidden} without a plain name"] if hidden else []))


def _checked(table: pd.DataFrame, name: str | Path) -> pd.DataFrame:
    """The table with all of `COLUMNS`, or a `UserError` that says what is wrong with it."""
    missing = [column for column in NEEDED if column not in table]
    if missing:
        needs = f"it needs {', '.join(NEEDED)}; {_has(table)}"
        raise UserError(f"the prompt set '{name}' has no column {', '.join(missing)}: {needs}")
    made = [f"{Path(str(name).partition('?')[0]).stem}-{number}" for number in range(len(table))]
    ids = _filled(table, "prompt_id")
    table = table.assign(prompt_id=ids.where(ids != "", pd.Series(made, table.index)))
    ids = table["prompt_id"]
    blank = ids[[not isinstance(text, str) or not text.strip() for text in table["text"]]]
    if len(blank):
        raise UserError(f"the prompt '{_plain(blank.iloc[0])}' of '{name}' has no text")
    if not ids.is_unique:
        twice = ids[ids.duplicated()].iloc[0]
        raise UserError(f"the prompt_id '{_plain(twice)}' occurs twice in '{name}'; make the ids unique")
    table = table.assign(**{column: _filled(table, column) for column in ("cluster", "category")})
    table["cluster"] = table["cluster"].where(table["cluster"] != "", table["prompt_id"])
    table["source"] = _filled(table, "source").replace("", str(name))
    table["kind"] = _known_words(table, "kind", KINDS, name)
    if "split" in table:
        table["split"] = _known_words(table, "split", SPLITS, name)
    else:
        table["split"] = halves(table)
    table["answer"] = table["answer"].map(_one).fillna("").astype(str) if "answer" in table else ""
    return table[list(COLUMNS)]


def _plain(prompt_id: str) -> str:
    """An id that may be shown: one with blanks or in signs may be the text itself."""
    return prompt_id if re.fullmatch(r"[!-~]{1,40}", prompt_id) else "…"


def _filled(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as text, empty where it or its value is missing."""
    if column not in table:
        return pd.Series("", table.index, dtype=object)
    return table[column].astype(object).where(table[column].notna(), "").astype(str)


def _known_words(table: pd.DataFrame, column: str, known: tuple[str, ...], name) -> pd.Series:
    words = _filled(table, column).str.strip().str.lower()
    wrong = words[~words.isin(known)]
    if len(wrong):
        place, word = wrong.index[0], wrong.iloc[0]
        plain = word.isascii() and word.isidentifier()
        said = f"the {column} '{word}'" if plain else f"no {column} that is known"
        where = f"prompt '{_plain(table.loc[place, 'prompt_id'])}' of '{name}'"
        raise UserError(f"{where} has {said}; there are {', '.join(known)}")
    return words


def _one(answer):
    """An answer out of a list of one."""
    several = isinstance(answer, list | tuple | np.ndarray)
    return answer[0] if several and len(answer) == 1 else answer


def _answers(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Answers to problems, read as GSM8K and MATH write them; what is no answer is left out."""
    found = table.loc[table["kind"] == "maths", "answer"]
    read = found.map(_gold)
    if lost := int(((read == "") & (found != "")).sum()):
        print(f"note: {lost} answers of '{name}' are neither a number nor a word: replies to these have no score")
    return table.assign(answer=read.reindex(table.index).fillna(table["answer"]))


def _gold(answer: str) -> str:
    """The right answer as a number or word, empty where it is neither: also for a part of an expression."""
    answer = answer.strip()
    marked = "\\boxed" in answer or "####" in answer or len(judges.NUMBER.findall(answer)) == 1
    number = judges.number(answer) or (judges.final_answer(answer) if marked else None)
    if number is None:
        return answer if WORD.fullmatch(answer) else ""
    return "" if PART.search(judges.around_number(answer)) else judges.written(number)


def _together(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Equal texts in one cluster and one half: none counts, or is learned from, twice; no cluster is in both."""
    texts = table["text"].str.normalize("NFC").str.split().str.join(" ").str.lower()
    if not texts.is_unique:
        table = _equal_in_one_cluster(table, texts)
        n = len(texts) - texts.nunique()
        print(f"note: {n} prompts of '{name}' repeat the text of another: they share its cluster")
    evaluated = (table["split"] == "evaluation").groupby(table["cluster"]).transform("any")
    if moved := int((evaluated & (table["split"] != "evaluation")).sum()):
        print(f"note: {moved} prompts of '{name}' are evaluated, not learned from: others of their clusters are")
    return table.assign(split=np.where(evaluated, "evaluation", table["split"]))


def _equal_in_one_cluster(table: pd.DataFrame, texts: pd.Series) -> pd.DataFrame:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, columns = (pd.factorize(values)[0] for values in (table["cluster"], texts))
    links = rows, columns + rows.max() + 1
    size = links[1].max() + 1
    graph = coo_array((np.ones(len(rows)), links), (size, size))
    _, group = connected_components(graph, directed=False)
    return table.assign(cluster=table.groupby(group[rows])["cluster"].transform("first"))


def halves(table: pd.DataFrame) -> pd.Series:
    """A split for tables that have none: the clusters of a category by turns; no cluster in both.
    The same rows always give the same halves, evaluation the larger one."""
    clusters = table.drop_duplicates("cluster")
    order = clusters["cluster"].map(lambda name: hashlib.sha256(name.encode()).hexdigest())
    turns = clusters.assign(order=order).sort_values(["category", "order"])["cluster"]
    half = {name: ("evaluation", "calibration")[turn % 2] for turn, name in enumerate(turns)}
    return table["cluster"].map(half)


@cache
def content_note(name: str) -> None:
    """Print what a set holds and where its text goes, once for each set."""
    print(NOTE.format(name=name, kept=SHOWN if redaction.keeps_text() else HIDDEN))


COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Benchmark:
    """A real prompt set. ``rows`` makes the columns of the workbook from one file's table and name.
    ``form``: how its files are read; ``prompts``: how many it should hold; ``splits``: files that
    are a split of their own; ``safety``: its text is withheld; ``gated``: its owners ask for
    consent."""

    name: str
    about: str
    repo: str
    revision: str
    files: tuple[str, ...]
    form: str
    rows: Callable[[pd.DataFrame, str], dict]
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


def benchmarks() -> pd.DataFrame:
    """The sets of the hub known by name: ``name, what, prompts, repository, revision, access``."""
    rows = []
    for one in BENCHMARKS.values():
        revision = one.revision[:10] if one.pinned else f"{one.revision} (not pinned)"
        access = "asks for consent" if one.gated else "open"
        rows.append((one.name, one.about, one.prompts, one.repo, revision, access))
    columns = ["name", "what", "prompts", "repository", "revision", "access"]
    return pd.DataFrame(rows, columns=columns)


def named(name: str) -> tuple[Benchmark, str] | None:
    """The set and the revision that "name" or "name@revision" stands for; None: no such set."""
    known, _, revision = name.partition("@")
    benchmark = BENCHMARKS.get(known)
    return benchmark and (benchmark, revision or benchmark.revision)


def load(benchmark: Benchmark, revision: str) -> pd.DataFrame:
    """The whole set with the columns of the workbook, downloaded if it is not on this machine.
    Raises `UserError` where that fails, for a file that cannot be read or lacks the columns
    expected."""
    if benchmark.safety:
        content_note(benchmark.name)
    name, source = benchmark.name, benchmark.source(revision)
    folder = hub.on_this_machine(source) or hub.download(source)
    parts = [_part(benchmark, folder, file) for file in benchmark.files]
    table = pd.concat(parts, ignore_index=True)
    origin = f" in {hub.MIRROR}" if hub.mirrored(source) else f"@{revision}"
    ids = [f"{name}-{number}" for number in range(len(table))]
    table = table.assign(prompt_id=ids, source=benchmark.repo + origin)
    if not benchmark.splits:
        table = table.drop(columns="split")  # `load_prompts` makes one
    expected = benchmark.prompts
    if len(table) != expected and revision == benchmark.revision:
        print(f"note: {name} holds {len(table)} prompts in {folder}, not the {expected} expected")
    return table


def _part(benchmark: Benchmark, folder: Path, file: str) -> pd.DataFrame:
    table = read_table(folder / file, benchmark.form)
    try:
        columns = benchmark.rows(table, file)
    except KeyError as error:
        raise UserError(f"{benchmark.name}: {file} has no column {error}; {_has(table)}") from None
    rest = {"category": "", "cluster": "", "answer": "", "split": benchmark.splits.get(file, "")}
    part = pd.DataFrame(rest | columns, index=table.index)
    return part[part["text"].fillna("").str.strip() != ""]  # no empty line at the end of a file


HEX_PHI = {
    1: "illegal activity", 3: "hate, harassment, violence", 4: "malware", 5: "physical harm", 6: "economic harm",
    7: "fraud, deception", 8: "adult content", 9: "political campaigning", 10: "privacy violation",
    11: "tailored financial advice",
}  # fmt: skip


def _hex_phi(table: pd.DataFrame, file: str) -> dict:
    """Each file is a category, each line a prompt, quoted or not: there is no header."""
    fields = [next(csv.reader([line]), []) for line in table["text"]]
    pairs = zip(fields, table["text"], strict=True)
    texts = [parts[0] if len(parts) == 1 else line for parts, line in pairs]
    return {"text": texts, "kind": "harmful", "category": HEX_PHI[int(re.sub(r"\D", "", file))]}


def _jailbreakbench(table: pd.DataFrame, file: str) -> dict:
    kind = "harmful" if file.endswith("harmful-behaviors.csv") else "harmless"
    pairs = "pair " + table["Index"].astype(str)
    return {"text": table["Goal"], "kind": kind, "category": table["Category"], "cluster": pairs}


def _xstest(table: pd.DataFrame, file: str) -> dict:
    kinds = table["label"].map({"safe": "harmless", "unsafe": "harmful"})
    focus = table["focus"].fillna("").str.strip().str.lower()
    return {"text": table["prompt"], "kind": kinds, "category": table["type"], "cluster": focus}


def _alpaca(table: pd.DataFrame, file: str) -> dict:
    texts = table["instruction"] + "\n\n" + table["input"].fillna("")
    return {"text": texts.str.strip(), "kind": "harmless"}


def _problems(text: str, answer: str) -> Callable[[pd.DataFrame, str], dict]:
    """Problems of maths, whose text and answer stand in these columns."""

    def rows(table: pd.DataFrame, file: str) -> dict:
        found = [judges.final_answer(str(solution)) for solution in table[answer]]
        answers = list(map(judges.written, found))
        return {"text": table[text].str.strip(), "kind": "maths", "answer": answers}

    return rows


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
            "parquet", lambda table, _: {"text": table["prompt"], "kind": "harmful"}, 520,
            safety=True, gated=True,
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
            "740312add88f781978c0658806c59bc2815b9866", GSM8K, "parquet", _problems("question", "answer"), 8792,
            splits=dict(zip(GSM8K, TRAIN_AND_TEST, strict=True)),
        ),
        Benchmark(
            "multiarith", "easy maths (the paper's); calibration: its training part", "ChilleD/MultiArith",
            "main", ("train.json", "test.json"), "json", _problems("question", "final_ans"), 600,
            splits=dict(zip(("train.json", "test.json"), TRAIN_AND_TEST, strict=True)),
        ),
        Benchmark(
            "aime24", "hard maths, whole numbers; all for evaluation", "HuggingFaceH4/aime_2024",
            "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", (AIME_24,), "parquet", _problems("problem", "answer"), 30,
            splits={AIME_24: "evaluation"},
        ),
        Benchmark(
            "aime25", "hard maths, whole numbers; all for evaluation", "math-ai/aime25",
            "563bb8404243c5f09de6ec262f2db674fe5bce9b", (AIME_25,), "json", _problems("problem", "answer"), 30,
            splits={AIME_25: "evaluation"},
        ),
    )
}  # fmt: skip


NEUTRAL, CAREFUL, EFFORT = "neutral", "careful", "effort-minimising"


def openings(language: str = "invented") -> pd.DataFrame:
    """The sentences that begin a thought: columns ``language, style, pattern, text``. ``language``:
    "invented" or "english" (wording of this workbook, not of the paper); ``pattern``: the paper's
    effort-minimising pattern, or the style."""
    table = pd.read_csv(data_dir() / "prompts" / "openings.csv")
    return table[table["language"] == language].reset_index(drop=True)


def prefixes(prompts: pd.DataFrame, sentences: pd.DataFrame) -> dict[str, str]:
    """One sentence per prompt, taking turns, so that no condition rests on one wording."""
    return dict(zip(prompts["prompt_id"], cycle(sentences["text"]), strict=False))


def style(thought: str) -> str:
    """The style of the sentence of `openings`, in either language, that a thought begins with."""
    return next((style for text, style in _styles() if thought.startswith(text)), "other")


@cache
def _styles() -> tuple[tuple[str, str], ...]:
    table = pd.concat([openings("invented"), openings("english")])
    return tuple(zip(table["text"], table["style"], strict=True))
