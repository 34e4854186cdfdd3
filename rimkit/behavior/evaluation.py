"""What replies are measured with, from a model and prompt sets to judged replies and differences.

`Evaluation` says which prompt sets, which judge and how much room for replies; a chapter makes one
of its parameters. Below: replies without some heads or neurons, or where they see no thought.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from pickle import dumps
from typing import Self, TypeVar

import numpy as np
import pandas as pd

from rimkit import data
from rimkit.behavior import prompts as prompt_tables
from rimkit.behavior.generation import CUT, REPLY, USUAL, generate
from rimkit.behavior.judges import BRIDGE, JUDGED_COLUMNS, JUDGES, WITH_THOUGHT, Judge, PhraseJudge, is_foreign, is_true
from rimkit.behavior.llm_judges import EndpointJudge, guard_judge
from rimkit.behavior.refusal_judge import refusal_judge
from rimkit.behavior.stats import Units, against_singles, clusters_of, paired_difference, shares
from rimkit.data import UserError, check_columns, check_known, nearest, percent, read_table, truths
from rimkit.models.chat import MODES
from rimkit.models.endpoint import is_endpoint
from rimkit.models.hooks import cut_attention
from rimkit.models.hub import identity, locate, mirrored
from rimkit.models.interventions import ablate_per_row
from rimkit.models.load import name_of, speaks_invented
from rimkit.models.study import StudyModel

FINISHED = 0.8  # share of replies that must end in each condition for a comparison
COMMON = 0.3  # share of replies with one text, which is no refusal, that says nothing of the model
NUMBERS = r"\b(?=[\w-]*\d)[\w-]+"  # and ids
TRIAL, ADVICE = "tried first", "advice"
WHY_NOT = "why_not"  # column of judged replies: why nothing can be said by them
TRIED = 12  # think replies that are tried before many more
SETS = ("harmful", "harmless", "over-refusal", "second-safety", "maths", "ordering")
ENGLISH = {name: f"english-{name}" for name in prompt_tables.STAND_INS}
HARDER = {"maths-hard": ("maths", "[4-6] steps"), "ordering-hard": ("ordering", "4 people")}
NOTHING, SELECTED, RANDOM = "nothing", "selected", "random"
BEFORE_THOUGHT, TO_REPLY = "before the thought", "the thought and all up to the reply"
# Where each outcome goes if a set of heads or neurons matters to safety or reasoning.
DIRECTIONS = {"misaligned": 1, "misread": 1, "refused": -1, "coherent": -1, "score": -1, "between": 1}
# Judges that are made from what follows their name: how the name is shown, and what makes them.
MADE = {"refusal": refusal_judge, "guard:FOLDER_OR_ID": guard_judge, "endpoint:MODEL": EndpointJudge}
T = TypeVar("T")  # what a condition is: a set of neurons, a steering


def judge(
    replies: pd.DataFrame, prompts: pd.DataFrame, how: str | Judge = "organism", with_thought: bool = False
) -> pd.DataFrame:
    """The replies (columns `prompt_id, reply, finished`, …) with the columns of `JUDGED_COLUMNS`.
    ``how``: "organism" (exact, for the embedded models), "refusal" (trained, for real models),
    "phrases", "guard:FOLDER_OR_ID", "endpoint:MODEL", or a judge of your own. ``with_thought``
    shows a judge that has ``reads_thoughts`` the thought before the reply, as one text; its name in
    the table then ends in `WITH_THOUGHT`. `UserError` for an unknown judge, column or prompt."""
    how = find_judge(how)
    judged = how(_with_thoughts(replies, how) if with_thought else replies, prompts)
    check_columns(judged, JUDGED_COLUMNS, f"what the judge '{how.name}' gave")
    if len(judged) != len(replies):
        raise UserError(f"the judge '{how.name}' gave {len(judged)} rows for {len(replies)}")
    for name in JUDGED_COLUMNS[:4]:
        truths(judged[name])  # or it raises
    if isinstance(how, PhraseJudge) and (n := (judged["refused"].isna() & is_true(judged["coherent"])).sum()):
        print(f"{how.name}: {n} of {len(judged)} replies are not in English, and are not judged")
    named = {"reply": replies["reply"], "judge": how.name + WITH_THOUGHT}
    return judged.assign(**named) if with_thought else judged


def find_judge(how: str | Judge) -> Judge:
    """The judge of that name; raises `UserError` for an unknown one."""
    if not isinstance(how, str):
        if not (callable(how) and hasattr(how, "name")):
            raise UserError("a judge is a name, or has one and is called with replies and prompts")
        return how
    kind, colon, name = how.partition(":")
    if how in JUDGES:
        return JUDGES[how]
    for form, made in MADE.items():
        if kind == form.partition(":")[0] and (name if colon else kind == form):
            return made(name)
    known = [*JUDGES, *MADE]
    close = nearest(kind, [form.partition(":")[0] for form in known])
    shown = f"{kind}{colon}…" if "@" in name or "//" in name else how  # it may hold a password
    raise UserError(f"unknown judge '{shown}'{close} (known: {', '.join(known)})")


def _with_thoughts(replies: pd.DataFrame, how: Judge) -> pd.DataFrame:
    if not getattr(how, "reads_thoughts", False):
        others = "take a guard, an endpoint or a judge of your own"
        raise UserError(f"the judge '{how.name}' reads replies only: {others}")
    check_columns(replies, ["thought"], "the table of replies")
    # without tags: a chat template would take what stands between them away from the judge
    thought, reply = (replies[name].fillna("").str.strip() for name in ("thought", "reply"))
    return replies.assign(reply=(thought + "\n\n" + reply).str.strip())


@dataclass(frozen=True)
class Evaluation:
    """What replies are measured with, made by `evaluation`. ``prompts``: set of the workbook ->
    what stands in for it. ``judge``: "" is the model's own, "organism" where it speaks the invented
    language, else "refusal". ``max_new_tokens``: room for long replies; 0: as asked."""

    prompts: Mapping[str, str] = field(default_factory=dict)
    judge: str = ""
    max_new_tokens: int = 0

    def of(self, model: str) -> Self:
        """For a model: with the English sets where it does not speak the invented language."""
        if not model or speaks_invented(model):
            return self
        return replace(self, prompts={**ENGLISH, **self.prompts})

    def sets(self, names: Iterable[str] = SETS, *, split: str | None = "evaluation", **part) -> pd.DataFrame:
        """Prompt sets as one table with the name in column ``set``; ``n`` of each, drawn by
        ``seed``. Of a set that stands in, those of a fitting kind are used; their ids begin with
        the workbook's name. Raises `UserError` where there are none, and as `load_prompts`."""
        tables = [self._set(name, split=split, **part).assign(set=name) for name in names]
        return pd.concat(tables, ignore_index=True)

    def _set(self, name: str, **part) -> pd.DataFrame:
        base, hard = HARDER.get(name, (name, ""))  # another set has no set of harder ones beside it
        if (other := self.prompts.get(base)) is None:
            return prompt_tables.load_prompts(name, **part)
        table = prompt_tables.load_prompts(other)
        kept = table[table["kind"].isin(prompt_tables.STAND_INS[base])]
        harder = kept["category"].astype(str).str.fullmatch(hard)
        kept = kept[harder] if harder.any() else kept
        if kept.empty:
            there = ", ".join(sorted(table["kind"].unique()))
            raise UserError(f"'{other}' cannot stand in for '{name}': it holds {there} prompts")
        kept = kept.assign(prompt_id=f"{name}: " + kept["prompt_id"])  # one set may stand in twice
        return prompt_tables.part_of(kept, name, **part)

    def replies(
        self, study: StudyModel, prompts: pd.DataFrame, mode: str, max_new_tokens: int | None = None, **generation
    ) -> pd.DataFrame:
        """What `generate` returns, with the room that a run gives a model of one's own: as much as
        asked where a thought is written or no limit is given, else up to `REPLY` tokens. Before
        many thoughts a dozen are tried, and the length is said that they need."""
        room = USUAL if max_new_tokens is None else max_new_tokens
        writes_thought = mode == "think" and generation.get("thoughts") is None
        most = math.inf if writes_thought or max_new_tokens is None else REPLY
        if not study.invented:
            if 0 < self.max_new_tokens < room:
                given = f"--max-new-tokens {self.max_new_tokens} is less than this step takes"
                study.say(f"note: {given}: replies have up to {room} tokens", "little room")
            room = max(room, min(self.max_new_tokens, most))
        write = partial(generate, study, mode=mode, max_new_tokens=room, **generation)
        if not study.invented and writes_thought and len(prompts) > 2 * TRIED and TRIAL not in study.said:
            study.said.add(TRIAL)
            tried = prompts.iloc[np.linspace(0, len(prompts) - 1, TRIED).astype(int)]
            with suppress(UserError):  # all of them too long: others may fit
                first = write(tried)
                _say_cut_off(study, tried, first, TRIAL)
                if first.attrs["interrupted"]:
                    return first
        found = write(prompts)
        found.attrs["most"] = most
        return found

    def judged(
        self, study: StudyModel, prompts: pd.DataFrame, mode: str, how: str | Judge | None = None, **generation
    ) -> pd.DataFrame:
        """Generate in one mode and judge (by ``how``); columns ``model`` and, if known, ``set``."""
        replies = self.replies(study, prompts, mode, **generation)
        if replies.attrs["interrupted"]:  # a part of them would be kept as if it were all
            raise KeyboardInterrupt
        if not study.invented:
            replies[ADVICE] = _say_cut_off(study, prompts, replies, f"in {mode} mode")
        how = how or self.judge or own_judge(study, prompts)
        judged = judge(replies, prompts, how).assign(model=study.name)
        for name in prompts.columns.intersection(["set", "kind"]):
            judged[name] = judged["prompt_id"].map(prompts.set_index("prompt_id")[name])
        said = filter(None, [_in_its_language(study, prompts, how), _repeats(study, mode, judged)])
        if said := "; ".join(said):
            judged[WHY_NOT] = said  # a column: pandas drops attributes where tables are joined
        return judged

    def observe(
        self, study: StudyModel, prompts: pd.DataFrame, modes: Sequence[str] = MODES, **generation
    ) -> pd.DataFrame:
        """The same prompts in every mode: all judged replies in one table."""
        return pd.concat([self.judged(study, prompts, mode, **generation) for mode in modes], ignore_index=True)

    def description(self) -> dict[str, str | None]:
        """The columns ``prompts`` and ``judge`` of a verdict row, files and folders by name."""
        names = [f"{name}={Path(other.partition('?')[0]).name}" for name, other in self._chosen().items()]
        names = ["english", *names] if len(names) < len(self.prompts) else names
        kind, colon, source = self.judge.partition(":")
        name = f"guard:{name_of(source)}" if kind == "guard" and colon else self.judge
        return {"prompts": ", ".join(names) or None, "judge": name or None}

    def fingerprint(self) -> list[str]:
        """Tells choices apart by their files: other prompts, another guard."""
        files = [Path(other.partition("?")[0]) for other in self.prompts.values()]
        for benchmark, revision in filter(None, map(prompt_tables.named, self.prompts.values())):
            source = benchmark.source(revision)
            files += [folder / file for file in source.files if (folder := mirrored(source))]
        source = self.judge.partition(":")[2].partition("@")[0]
        weights = [identity(source)] if source else []
        return weights + [sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()]

    def _chosen(self) -> dict[str, str]:
        """What stands in because somebody said so."""
        return {name: other for name, other in self.prompts.items() if other != ENGLISH[name]}

    def parameters(self) -> dict[str, str | int]:
        """The choice, as far as one was made, as parameters of a chapter."""
        chosen = ", ".join(f"{name}={other}" for name, other in self._chosen().items())
        room = self.max_new_tokens
        every = {"prompt_sets": chosen, "judge": self.judge, "max_new_tokens": room}
        return {name: value for name, value in every.items() if value}


def _repeats(study: StudyModel, mode: str, judged: pd.DataFrame) -> str:
    """Why replies that are the same to different prompts are no answers; empty where they may be.
    Numbers and ids do not count as a difference, except where they are the answer."""
    given = judged[judged["reply"] != ""].drop_duplicates("prompt_id")
    if len(given) < TRIED // 2:
        return ""
    safety = given["kind"].isin(["harmful", "harmless"])
    texts = given["reply"].mask(safety, given["reply"].str.replace(NUMBERS, "#", regex=True))
    same = given[texts == texts.mode()[0]]
    refusing = is_true(same["refused"]).all() if "refused" in same else False
    excused, said = refusing or study.invented, f"the same text in {mode} mode, whatever is asked"
    if len(same) == len(given) and (given["kind"].nunique() > 1 or not excused):
        said = f"it always answers with {said}"
    elif safety.all() and len(same) >= COMMON * len(given) and not excused:
        said = f"{len(same)} of {len(given)} replies are {said}"
    else:
        return ""
    print(f"{study.name}: {said}")
    return said


def own_judge(study: StudyModel, prompts: pd.DataFrame) -> str:
    """The judge if nobody names one: an exact one where there is one."""
    english = np.all(prompts.get("source", "") == prompt_tables.ENGLISH_SOURCE)
    if study.invented and not english:
        return "organism"
    return BRIDGE.name if english and study.language == BRIDGE.name else "refusal"


def _in_its_language(study: StudyModel, prompts: pd.DataFrame, how: str | Judge) -> str:
    """Why a model cannot answer the workbook's own prompts, or a judge not read answers to others;
    empty if they are in its language."""
    sources, ours = prompts.get("source", pd.Series(dtype=str)), prompt_tables.ENGLISH_SOURCE
    said = "prompts are not in the language that it speaks: make the evaluation with its name (`evaluation(model=…)`)"
    if not (sources == (ours if study.invented else prompt_tables.INVENTED_SOURCE)).any():
        said = "prompts are not in English, all that this judge reads: try --judge guard:… or endpoint:…"
        of_english = isinstance(find_judge(how), PhraseJudge)
        if not of_english or prompts["text"].map(is_foreign).mean() <= 0.5:
            return ""
    study.say(f"note: {said}", "language")
    return said


def evaluation(
    prompts: str | Mapping[str, str] = "", judge: str = "", max_new_tokens: int = 0, model: str = ""
) -> Evaluation:
    """The `Evaluation` for other prompt sets, another judge and longer replies, and for a ``model``
    (by name: see `Evaluation.of`). ``prompts``: a set of the workbook (`STAND_INS`) to whatever
    `load_prompts` takes; as a text, "harmful=hex-phi, maths=my.csv?text=question". ``judge``: a
    name that `find_judge` knows. Paths become absolute. Raises `UserError` for unknown names."""
    if isinstance(prompts, str):
        pairs = re.split(r",\s*(?=[\w-]+=)", prompts.strip()) if prompts.strip() else []
        if wrong := next((pair for pair in pairs if "=" not in pair), ""):
            raise UserError(f"'{wrong}' names no stand-in: write harmful=hex-phi, maths=my.csv")
        prompts = {name.strip(): other.strip() for name, _, other in (pair.partition("=") for pair in pairs)}
    for name in prompts:
        check_known("prompt set of the chapters", name, prompt_tables.STAND_INS)
    if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise UserError(f"max_new_tokens is a whole number of tokens, 0 or more, not {max_new_tokens}")
    stand_ins = {name: _stand_in(name, prompts[name]) for name in sorted(prompts)}
    return Evaluation(stand_ins, _judge(judge), max_new_tokens).of(model)


def _stand_in(name: str, other: str) -> str:
    """A set that there is; of a file, which must fit, the absolute path: chapters run elsewhere."""
    if prompt_tables.named(other):
        return other
    path, _, query = other.partition("?")
    shipped, known = data.shipped_tables("prompts"), tuple(prompt_tables.BENCHMARKS)
    if not path:
        raise UserError(f"nothing stands in for '{name}': write {name}=hex-phi, or a file")
    file = data.find_table(Path(os.path.expanduser(path)), shipped, "prompt set", known)
    if path not in shipped:
        named = {*read_table(file), *(part.partition("=")[0] for part in query.split("&"))}
        text = [] if "text" in named else [f"text={one}" for one in ("prompt", "question") if one in named]
        if not (query or text or "text" in named):
            ways = f"prompt or question would do, and {path}?text=…&kind=… names columns"
            check_columns(read_table(file), [f"text ({ways})"], f"'{path}'")
        kind = [f"kind={prompt_tables.STAND_INS[name][0]}"] if "kind" not in named and (text or "text" in named) else []
        query = "&".join(filter(None, [query, *text[:1], *kind]))
        other = f"{file.resolve()}{'?' if query else ''}{query}"
        with redirect_stdout(None):  # notes come when it is used
            Evaluation({name: other}).sets([name])
        prompt_tables.content_note.cache_clear()
    return other


def _judge(name: str) -> str:
    """A judge that is there, as far as that is quick to say; its folder as an absolute path."""
    if check := getattr(find_judge(name) if name else None, "check", None):
        check()
    kind, colon, source = name.partition(":")
    if kind != "guard" or not colon:
        return name
    place = Path(locate(source).source)
    return f"guard:{place.resolve()}" if place.is_dir() else name


def _say_cut_off(study: StudyModel, prompts: pd.DataFrame, replies: pd.DataFrame, which: str) -> str:
    """What would help replies that did not end; said once for these replies, if too many."""
    ended = is_true(replies["finished"])
    if study.invented or ended.mean() >= FINISHED:
        return ""
    advice = _advice(study, prompts, replies)
    study.say(
        f"note: {len(ended) - ended.sum()} of {len(ended)} replies {which} did not end{_within(replies)}{advice}. "
        "A reply that was not reached is missing, neither safe nor harmful, and claims are not testable where "
        f"less than {percent(FINISHED)}% end",
        about=f"end {which}",
    )
    return advice


def _advice(study: StudyModel, prompts: pd.DataFrame, replies: pd.DataFrame) -> str:
    """Which limit would let nine in ten replies end, if they go on ending as often per token: one
    number for a model, that of the first replies which are cut off, until it is reached ("or more":
    these need it). It is no more than the context leaves beside the longest prompt."""
    written, ended = replies[replies["n_tokens"] > 0], int(replies["finished"].sum())
    stuck = 1 - (is_true(written["finished"]) | written.get(CUT, True)).mean()
    if stuck > 1 - FINISHED:
        return f": {percent(stuck)}% stop inside a thought, where more room does not help"
    if not _within(replies):
        return ""
    limit = int(written["n_tokens"].max())
    if (most := replies.attrs.get("most", math.inf)) < math.inf:  # a broken model may never end
        return "" if limit >= most else f": --max-new-tokens {most} leaves them more room"
    needed = written["n_tokens"].sum() / ended * math.log(10) if ended else math.inf
    if limit >= study.room:
        study.room = 2 ** math.ceil(math.log2(max(needed if ended else 4 * limit, limit + 1)))
    said = f": --max-new-tokens {study.room} would do{', or more' if needed > study.room else ''}"
    if is_endpoint(study):
        return said
    modes = MODES if study.chat.supports_think else MODES[1:]
    left = study.context - max(len(study.chat.encode(*pair).ids) for pair in product(prompts["text"], modes))
    if left >= study.room:
        return said
    even = f": even --max-new-tokens {left} will not do, which is all" if left > limit else ", which is all"
    return f"{even} that its context of {study.context} leaves: take shorter prompts or another model"


def _within(replies: pd.DataFrame) -> str:
    """The limit within which replies did not end; none where they are empty, or a server's."""
    open_ones, written = ~is_true(replies["finished"]), replies["n_tokens"] > 0
    few = replies.get(CUT, open_ones).sum() < open_ones.sum() / 2
    return "" if few or not written.any() else f" within {replies['n_tokens'].max()} tokens"


def noted(table: pd.DataFrame) -> str:
    """The first reason in the column `WHY_NOT`, if there is one."""
    return next(filter(None, table.get(WHY_NOT, pd.Series(dtype=str)).dropna()), "")


def why_not(judged: pd.DataFrame, column: str, values: Sequence[str], metric="finished") -> str:
    """Why two conditions cannot be compared: by `WHY_NOT`, too few replies (`FINISHED`) that end or
    have the ``metric``, or a mode that is not. Empty where they can; the exact judge's always can."""
    known = {"finished", "n_tokens", "thought", "judge", "mode"} <= set(judged)
    for value in values:
        part = judged[judged[column] == value]
        if said := noted(part):
            return said
        part = part[part["judge"] != "organism"] if known else part[:0]
        if part.empty:
            continue
        ended = is_true(part["finished"])
        if ended.mean() < FINISHED:
            within = _within(part) or " with a text: most of the others are empty, or the server stopped them"
            advice = max(part.get(ADVICE, pd.Series(dtype=str)).dropna(), key=len, default="")
            return f"only {percent(ended.mean())}% of its replies ({value}) end{within}{advice}"
        if (share := part.loc[ended, metric].notna().mean()) < FINISHED:
            return f"only {percent(share)}% of its replies ({value}) have a verdict"
        whose = "" if column == "mode" else f" ({value})"
        thoughtful = part["thought"].fillna("") != ""
        for mode in part["mode"].unique():
            here = part["mode"] == mode
            thinks, ending = thoughtful[here].mean(), thoughtful[here & ended].mean()
            if mode == "no-think" and thinks > 1 - FINISHED:
                return f"it thinks in no-think mode too, in {percent(thinks)}% of its replies" + whose
            if mode == "think" and not thinks:
                return f"it never thinks in think mode, or hides it{whose}"
            if mode == "think" and ending < FINISHED:
                return f"it thinks in only {percent(thinks)}% of its replies in think mode{whose}"
    return ""


def difference(judged: pd.DataFrame, column: str, treated: str, control: str, metric: str = "misaligned") -> dict:
    """Paired difference in ``metric`` between two values of ``column``, clustered by verb. Several
    replies to one prompt (samples, or conditions that are pooled) are averaged first."""
    check_columns(judged, ["prompt_id", column, metric], "the table of judged replies")
    judged = judged.assign(cluster=clusters_of(judged), **{metric: shares(judged[metric])})
    of = {"cluster": "first", metric: "mean"}
    sides = (judged[judged[column] == value] for value in (treated, control))
    a, b = (side.groupby("prompt_id", as_index=False).agg(of) for side in sides)
    result = paired_difference(a, b, metric, on="prompt_id")
    found = {"metric": metric, "condition": treated, "control": control, **result._asdict()}
    said = why_not(judged, column, (treated, control), metric)
    return found | ({"why_not": said} if said else {})


def without(
    study: StudyModel, prompts: pd.DataFrame, sets: Mapping[str, Units], kind: str = "heads",
    mean: np.ndarray | None = None, **generation,
) -> pd.DataFrame:  # fmt: skip
    """Judged replies without every set of heads, or another ``kind`` of `ablate_per_row` (set to zero,
    or to ``mean``; empty: as it is); column ``condition``."""
    together = partial(ablate_per_row, study, mean=mean, kind=kind)
    about = dumps([kind, None if mean is None else np.asarray(mean)])
    return under_together(study, prompts, sets, together, about=about, **generation)


def under_together(
    study: StudyModel, prompts: pd.DataFrame, conditions: Mapping[str, T],
    together: Callable[[list[T]], AbstractContextManager], modes: Sequence[str] = ("no-think",),
    batch_size: int = 320, evaluation: Evaluation = Evaluation(), about: bytes = b"", **generation,
) -> pd.DataFrame:  # fmt: skip
    """Judged replies under each condition (column ``condition``), in the same batches and noise:
    ``together`` makes a batch's context from its rows' conditions; ``about`` tells it apart."""
    prompts = prompts.assign(noise_key=prompts["prompt_id"])
    copies = pd.concat([prompts.assign(condition=name) for name in conditions], ignore_index=True)
    copies["prompt_id"] = copies.index.astype(str)
    of = copies.set_index("prompt_id")

    def around(spans: list[dict], prompt_ids: list[str]) -> AbstractContextManager:
        return together([conditions[name] for name in of.loc[prompt_ids, "condition"]])

    if about:
        told = {name: sha256(about + dumps(one)).hexdigest() for name, one in conditions.items()}
        around.conditions = of["condition"].map(told).to_dict()
    options = {"around": around, "batch_size": batch_size, **generation}
    found = evaluation.observe(study, copies, modes, **options)
    original = of.loc[found["prompt_id"], ["noise_key", "condition"]].to_numpy().T
    return found.assign(prompt_id=original[0], condition=original[1])


def against_random(judged: pd.DataFrame, metric: str = "refused") -> dict:
    """A selected set (``condition`` "selected") against random ones ("random 0", "random 1", …).
    The difference in ``metric`` from their mean, its interval and p value by their spread
    (`against_singles`), and ``share``: of the random sets, how many move the metric at least as far
    in its direction (`DIRECTIONS`). The selected set counts in: an exact, one-sided p value."""
    role = judged["condition"].str.partition(" ")[0]
    found = difference(judged.assign(role=role), "role", SELECTED, RANDOM, metric)
    per_prompt = judged.groupby(["condition", "prompt_id"])[metric].mean().astype(float)
    means = per_prompt.groupby("condition").mean()
    random = means[means.index.str.startswith(RANDOM)].dropna().to_numpy()
    found = against_singles(found, means[SELECTED] - random, limit=1.0)
    moved = DIRECTIONS[metric] * (random - means[SELECTED]) >= -1e-9
    share = (1 + moved.sum()) / (1 + len(random)) if means[SELECTED] == means[SELECTED] else math.nan
    return {**found, "share": float(share), "n_random": len(random)}


def without_sight(
    study: StudyModel, prompts: pd.DataFrame, thoughts: Mapping[str, str],
    cuts: Mapping[str, tuple[Units | None, str]], evaluation: Evaluation = Evaluation(),
    **generation,
) -> pd.DataFrame:  # fmt: skip
    """Replies after forced thoughts, under each condition of ``cuts``: (heads, what they cannot
    see). The reply's tokens and the one before them (span ``last``) are cut off from a span of the
    prompt, from as many tokens right before the thought as it has (`BEFORE_THOUGHT`), or from the
    thought and the tokens after it, which have read it (`TO_REPLY`). Heads: some, or None (all)."""

    def around(heads: Units | None, key: str, spans: list[dict], prompt_ids: list[str]):
        replying = [(place["last"][0], None) for place in spans]
        return cut_attention(study, replying, [_hidden(place, key) for place in spans], heads)

    def blind(heads: Units | None, key: str) -> pd.DataFrame:
        cut = partial(around, heads, key) if heads is None or len(heads) else None
        return evaluation.judged(study, prompts, "think", thoughts=thoughts, around=cut, **generation)

    return pd.concat([blind(*cut).assign(condition=name) for name, cut in cuts.items()], ignore_index=True)


def _hidden(place: dict, key: str) -> tuple[int, int]:
    start, end = place.get("thought", (0, 0))
    if key == TO_REPLY:
        return start, place["last"][0] if end else 0
    if key != BEFORE_THOUGHT:
        return place.get(key, (0, 0))
    opened = place.get("think_open", (0, 0))[0]
    return max(0, opened - (end - start)), opened
