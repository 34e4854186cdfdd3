"""Prompt sets: shipped ones, real ones by name, files of one's own; and how thoughts begin.

Nothing of a real set is stored in the workbook: it is read from the cache of the Hugging Face hub,
from a local mirror (`rimkit.models.hub`), or downloaded there. The pins were taken from public code
that uses these sets, not checked online: another number of prompts than expected is said. Clusters
are what belongs together (the two halves of a pair, prompts on one word, equal texts), so that no
cluster is in both splits; where a set has none, each prompt is its own.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle
from math import inf
from numbers import Real
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rimkit import data
from rimkit.behavior import judges, redaction
from rimkit.data import UserError, check_known, data_dir, find_table, nearest, shipped_tables
from rimkit.models import hub

COLUMNS = ("prompt_id", "text", "kind", "category", "cluster", "split", "answer", "source")
NEEDED = ("text", "kind")
SPLITS = ("calibration", "evaluation")
# The column ``source`` of the workbook's own sets.
ENGLISH_SOURCE, INVENTED_SOURCE = "plain English", "invented language"
NOTHING = ("", "NA", "N/A", "nan", "NaN", "None", "null", "NULL", "<NA>", "inf", "-inf")
KINDS = ("harmful", "harmless", "maths", "ordering", "copying", "own")
# The workbook's sets that another can stand in for, and the kinds of prompts that each may hold.
STAND_INS = {
    "harmful": ("harmful",), "harmful-seen": ("harmful",), "second-safety": ("harmful", "harmless"),
    "harmless": ("harmless",), "over-refusal": ("harmless",), "maths": ("maths",),
    "ordering": ("ordering", "maths"), "copying": ("copying",),
}  # fmt: skip
WORD = re.compile(r"[^\W\d_][\w'-]*( [\w'-]+)?")  # an answer: a letter, yes, a name


def load_prompts(
    name: str | Path, *, split: str | None = None, n: int | None = None, seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A prompt set as a table with the columns of `COLUMNS`. ``name``: a shipped set
    (`prompt_sets`), a real one (`BENCHMARKS`, perhaps ``name@revision``), or a csv, jsonl or
    parquet file with at least the columns ``text, kind``; ids and a split are made where there are
    none. For a file that calls its columns otherwise: ``columns``, ours to theirs (also a kind for
    all rows), or ``file.csv?text=goal&kind=harmful``. ``split`` keeps one of `SPLITS`; ``n``
    prompts are spread evenly over clusters, the same for one ``seed``.
    Harmful requests that do not come with the workbook have a content note, and their text does not
    leave the process. Raises `UserError` for an unknown set, column, kind or split, an unreadable
    file, a set that cannot be got, prompts without a text, repeated ids and an empty result."""
    return part_of(_read(name, columns), name, split=split, n=n, seed=seed)


def part_of(
    table: pd.DataFrame, name: str | Path, split: str | None = None, n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """The prompts of one split, and ``n`` of them, as `load_prompts` draws them from a set."""
    if split is not None:
        check_known("split", split, SPLITS)
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
    if not (isinstance(n, Real) and 1 <= n < inf and n == int(n)):
        raise UserError(f"n must be a whole number of prompts, 1 or more, not {n}")
    table = table.reset_index(drop=True)
    shuffled = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    turn = shuffled.groupby("cluster", sort=False).cumcount()
    return table.loc[turn.sort_values(kind="stable").head(int(n)).index].sort_index()


def prompt_sets() -> pd.DataFrame:
    """The shipped sets: ``name, prompts, kinds, clusters, sha256`` (as it was generated)."""
    hashes = pd.read_csv(data_dir() / "prompts" / "hashes.csv")
    tables = [_read(name) for name in hashes["name"]]
    kinds = [", ".join(table["kind"].unique()) for table in tables]
    found = hashes.assign(kinds=kinds, clusters=[table["cluster"].nunique() for table in tables])
    return found[["name", "prompts", "kinds", "clusters", "sha256"]]


def _read(name: str | Path, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    known = None if columns else named(str(name))
    if known:
        table, shipped, called = load(*known), False, known[0].name
    else:
        path, mark, query = str(name).partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        asked, known_sets = dict(pairs), shipped_tables("prompts")
        if len(asked) < len(pairs):
            raise UserError(f"'{query}' names a column twice: each of ours stands for one of theirs")
        if mark and not all(asked.values()):
            raise UserError(f"'{query}' are no columns: write {path}?text=goal&kind=harmful")
        file = find_table(path, known_sets, "prompt set", tuple(BENCHMARKS))
        shipped, called = file in known_sets.values(), file.name
        table = _mapped(data.read_table(file), {**asked, **(columns or {})}, name)
    table = _checked(table, name)
    table = table if shipped else _together(_answers(table, called), called)
    redaction.remember_harmful(table)
    if known[0].safety if known else not shipped and (table["kind"] == "harmful").any():
        content_note(called)
        redaction.withhold(table["text"])
    return table


def _mapped(table: pd.DataFrame, columns: Mapping[str, str], name: str | Path) -> pd.DataFrame:
    """The table with its columns called as in the workbook."""
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise UserError(f"a prompt set has no '{ours}'{nearest(ours, COLUMNS)}; it has {known}")
        if theirs not in table and not (ours == "kind" and theirs in KINDS):
            also = f", and no kind is called so ({', '.join(KINDS)})" if ours == "kind" else ""
            also += nearest(theirs, data.plain_names(table))
            raise UserError(f"'{name}' has no column '{theirs}'{also}; {data.has_columns(table)}")
    return table.assign(**{ours: table.get(theirs, theirs) for ours, theirs in columns.items()})


def _checked(table: pd.DataFrame, name: str | Path) -> pd.DataFrame:
    """The table with all of `COLUMNS`, or a `UserError` that says what is wrong with it."""
    data.check_columns(table, NEEDED, f"the prompt set '{name}'")
    made = [f"{Path(str(name).partition('?')[0]).stem}-{number}" for number in range(len(table))]
    ids = _filled(table, "prompt_id")
    table = table.assign(prompt_id=ids.where(ids != "", pd.Series(made, table.index)))
    data.check_requests(table, f" of '{name}'")
    table = table.assign(**{column: _filled(table, column) for column in ("cluster", "category")})
    table["cluster"] = table["cluster"].mask(table["cluster"].isin(NOTHING), table["prompt_id"])
    table["source"] = _filled(table, "source").replace("", str(name))
    table["kind"] = _known_words(table, "kind", KINDS, name)
    if "split" in table:
        table["split"] = _known_words(table, "split", SPLITS, name)
    else:
        table["split"] = halves(table)
    answers = [
        one[0] if isinstance(one, list | np.ndarray) and len(one) == 1 else one for one in table.get("answer", ())
    ]
    answers = pd.Series(answers or "", table.index, dtype=object).fillna("").astype(str)
    table["answer"] = answers.replace(list(NOTHING), "")
    return table[list(COLUMNS)]


def _filled(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as text, empty where it or its value is missing."""
    values = table[column] if column in table else pd.Series("", table.index)
    return values.astype(object).where(values.notna(), "").astype(str)


def _known_words(table: pd.DataFrame, column: str, known: tuple[str, ...], name) -> pd.Series:
    words = _filled(table, column).str.strip().str.lower()
    wrong = words[~words.isin(known)]
    if len(wrong):
        place, word = wrong.index[0], wrong.iloc[0]
        plain = word.isascii() and word.isidentifier()
        said = f"the {column} '{word}'" if plain else f"no {column} that is known"
        where = f"prompt '{data.plain_id(table.loc[place, 'prompt_id'])}' of '{name}'"
        raise UserError(f"{where} has {said}; there are {', '.join(known)}")
    return words


def _answers(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Answers to problems, read as GSM8K and MATH write them; what is no answer is left out."""
    found = table.loc[table["kind"] == "maths", "answer"]
    read = found.map(_gold)
    if lost := int(((read == "") & (found != "")).sum()):
        print(f"note: {lost} answers of '{name}' are neither a number nor a word: replies to these have no score")
    return table.assign(answer=read.reindex(table.index).fillna(table["answer"]))


def _gold(answer: str) -> str:
    """The right answer as a number or word; empty: neither, or a part of an expression."""
    answer = answer.strip()
    marked = "\\boxed" in answer or "####" in answer or len(judges.NUMBER.findall(answer)) == 1
    number = judges.number(answer) or (judges.final_answer(answer) if marked else None)
    if answer[:1] == "{" or judges.NUMBER_WORDS.search(judges.around_number(answer)):
        return ""  # several fields; "7 days, so twelve", "two thirds"
    if number is None:
        return answer if WORD.fullmatch(answer) or judges.LABEL.fullmatch(answer) else ""
    return "" if judges.PART.search(judges.around_number(answer)) else judges.written(number)


def _together(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Equal texts in one cluster and one half: none counts twice, no cluster is in both."""
    texts = table["text"].astype(str).replace(data.UNSEEN, "", regex=True).str.normalize("NFKC")
    texts = texts.str.split().str.join(" ").str.lower().str.strip(" .,!?…\"'“”")
    if not texts.is_unique:
        table = _equal_in_one_cluster(table, texts)
        n = len(texts) - texts.nunique()
        print(f"note: {n} prompts of '{name}' repeat the text of another: they share its cluster")
    evaluated = (table["split"] == "evaluation").groupby(table["cluster"]).transform("any")
    if moved := int((evaluated & (table["split"] != "evaluation")).sum()):
        print(f"note: {moved} prompts of '{name}' are evaluated, not learned from: others of their clusters are")
    return table.assign(split=np.where(evaluated, "evaluation", table["split"]))


def _equal_in_one_cluster(table: pd.DataFrame, texts: pd.Series) -> pd.DataFrame:
    rows, columns = (pd.factorize(values)[0] for values in (table["cluster"], texts))
    links = rows, columns + rows.max() + 1
    graph = coo_array((np.ones(len(rows)), links), [links[1].max() + 1] * 2)
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
    kept = (
        "Its text stays in memory, and outputs and files show ids and numbers; the parameter keep_text of a chapter, "
        "or 'rimkit run --keep-text', changes that."
    )
    print(
        f"Content note: '{name}' asks for harmful things, and replies to it may be harmful or upsetting. "
        f"{'Its text will be shown and saved, as you asked.' if redaction.keeps_text() else kept} "
        "It is for measuring how a model refuses; do not pass its text on."
    )


@dataclass(frozen=True)
class Benchmark:
    """A real prompt set, a line of ``data/prompts/benchmarks.csv``. ``form``: how its files are
    read; ``prompts``: how many it should hold; ``splits``: of files that are a split of their own;
    ``safety``: its text is withheld; ``gated``: its owners ask for consent."""

    name: str
    about: str
    repo: str
    revision: str
    files: tuple[str, ...]
    form: str
    prompts: int
    splits: dict[str, str]
    safety: bool
    gated: bool

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which nobody can change."""
        return re.fullmatch("[0-9a-f]{40}", self.revision) is not None

    def source(self, revision: str | None = None) -> hub.Source:
        return hub.Source(self.repo, "dataset", revision or self.revision, self.files)


def benchmarks() -> pd.DataFrame:
    """The sets of the hub known by name: ``name, what, prompts, repository, revision, access``."""
    known, columns = BENCHMARKS.values(), {"name": "name", "about": "what", "prompts": "prompts"}
    revisions = [one.revision[:10] if one.pinned else f"{one.revision} (not pinned)" for one in known]
    access = ["asks for consent" if one.gated else "open" for one in known]
    shown = pd.DataFrame(known)[[*columns, "repo"]].rename(columns={**columns, "repo": "repository"})
    return shown.assign(revision=revisions, access=access)


def named(name: str) -> tuple[Benchmark, str] | None:
    """The set and the revision that "name" or "name@revision" stands for; None: no such set."""
    known, _, revision = name.partition("@")
    benchmark = BENCHMARKS.get(known)
    return benchmark and (benchmark, revision or benchmark.revision)


def load(benchmark: Benchmark, revision: str) -> pd.DataFrame:
    """The whole set with the columns of the workbook, downloaded if it is not on this machine.
    Raises `UserError` where that fails, and for a file without the columns expected."""
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
    table = data.read_table(folder / file, benchmark.form)
    try:
        columns = ROWS[benchmark.name](table, file)
    except KeyError as error:
        raise UserError(f"{benchmark.name}: {file} has no column {error}; {data.has_columns(table)}") from None
    rest = {"category": "", "cluster": "", "answer": "", "split": benchmark.splits.get(file, "")}
    part = pd.DataFrame(rest | columns, index=table.index)
    return part[part["text"].fillna("").str.strip() != ""]  # no empty line at the end of a file


HEX_PHI = pd.read_csv(data_dir() / "prompts" / "hex_phi.csv").set_index("file")["category"].to_dict()


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


def _problems(table: pd.DataFrame, _: str, text: str = "problem", answer: str = "answer") -> dict:
    """Problems of maths, whose text and answer stand in these columns."""
    answers = [judges.written(judges.final_answer(str(solution))) for solution in table[answer]]
    return {"text": table[text].str.strip(), "kind": "maths", "answer": answers}


ROWS = {  # the columns of the workbook from one file's table and name
    "hex-phi": _hex_phi,
    "advbench": lambda table, _: {"text": table["prompt"], "kind": "harmful"},
    "jailbreakbench": _jailbreakbench,
    "xstest": lambda table, _: {
        "text": table["prompt"], "kind": table["label"].map({"safe": "harmless", "unsafe": "harmful"}),
        "category": table["type"], "cluster": table["focus"].fillna("").str.strip().str.lower(),
    },
    "alpaca-cleaned": lambda table, _: {
        "text": (table["instruction"] + "\n\n" + table["input"].fillna("")).str.strip(), "kind": "harmless",
    },
    "gsm8k": partial(_problems, text="question"),
    "multiarith": partial(_problems, text="question", answer="final_ans"),
    "aime24": _problems, "aime25": _problems,
}  # fmt: skip


def _benchmark(line: dict) -> Benchmark:
    files, splits = (tuple(filter(None, line[name].split(";"))) for name in ("files", "splits"))
    told = {name: bool(line[name]) for name in ("safety", "gated")}
    return Benchmark(**{**line, **told, "files": files, "splits": dict(zip(files, splits, strict=False))})


_LINES = pd.read_csv(data_dir() / "prompts" / "benchmarks.csv", keep_default_na=False).to_dict("records")
BENCHMARKS = {line["name"]: _benchmark(line) for line in _LINES}

NEUTRAL, CAREFUL, EFFORT = "neutral", "careful", "effort-minimising"
_OPENINGS = pd.read_csv(data_dir() / "prompts" / "openings.csv")
_STYLES = _OPENINGS.set_index("text")["style"].to_dict()


def openings(language: str = "invented") -> pd.DataFrame:
    """The sentences that begin a thought: columns ``language, style, pattern, text``. ``language``:
    "invented" or "english" (wording of this workbook, not of the paper); ``pattern``: the paper's
    effort-minimising pattern, or the style."""
    check_known("language", language, _OPENINGS["language"].unique())
    return _OPENINGS[_OPENINGS["language"] == language].reset_index(drop=True)


def prefixes(prompts: pd.DataFrame, sentences: pd.DataFrame) -> dict[str, str]:
    """One sentence per prompt, taking turns, so that no condition rests on one wording."""
    return dict(zip(prompts["prompt_id"], cycle(sentences["text"]), strict=False))


def things(prompts: pd.DataFrame) -> pd.Series:
    """What each request is about: its ``answer`` without the verb, which is the first word."""
    return prompts["answer"].astype(str).str.split(n=1).str[1].fillna("")


def style(thought: str) -> str:
    """The style of the sentence of `openings`, in either language, that a thought begins with."""
    return next((style for text, style in _STYLES.items() if thought.startswith(text)), "other")
