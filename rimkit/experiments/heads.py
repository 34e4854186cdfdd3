"""Claims C4 and C5 (sections 3.2 and B of the paper): which heads carry refusal, by four rules?

1. *paper*: on how many prompts the strongest attention of the first generated token moves from
   ``assistant`` (think mode) to the empty think span (no-think mode). The paper gives no number of
   heads to select and no threshold.
2. *attention*: how much of that token's attention goes to the empty span.
3. *direct*: what the head writes, along the direction in which the refusal logit difference grows.
4. *causal*: the change of that difference without the head; and *gradient*, its estimate.

Rule and number of heads are chosen on the calibration split; what they carry is reported on the
evaluation split, from generated replies, against random sets with as many heads in every layer. How
a head is switched off inside a model is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd

from rimkit.behavior.evaluation import (
    BEFORE_THOUGHT,
    NOTHING,
    RANDOM,
    SELECTED,
    Evaluation,
    Heads,
    against_random,
    difference,
    without_heads,
    without_sight,
)
from rimkit.behavior.refusal_score import Readout, at_last, attribution, contexts, head_effects, readout
from rimkit.behavior.refusal_score import table as table_of
from rimkit.behavior.stats import matched_sets, paired_difference, rates, unpaired_difference
from rimkit.data import UserError, nearest
from rimkit.experiments import Result, result
from rimkit.ledger import effect_row
from rimkit.models.activations import batches, capture, forward
from rimkit.models.chat import MODES, Encoded
from rimkit.models.hooks import architecture, head_writes, logits_at_the_end, reading_rows
from rimkit.models.study import StudyModel

SPANS = ("request", "im_end", "assistant", "think_open", "empty", "thought", "think_close")
RULES = {"paper": 1, "attention": 1, "direct": 1, "causal": -1, "gradient": -1}  # its sign
SHARE = 0.1  # of all heads: the largest set that is called specific
ANSWERED = 0.9  # what it must leave of the harmless requests that the untouched model answers
SHORT, LENGTH = 32, 72  # tokens of a reply, and of one with its thought


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    ``n_prompts`` harmful and as many harmless calibration requests score and select heads;
    ``n_asked`` harmful evaluation requests (one per verb: verbs are what counts) are asked without
    each set, ``n_beside`` prompts of every set without the chosen one. ``n_random`` sets to compare
    with, ``n_cuts`` where heads are blinded.
    """

    n_prompts: int = 46
    n_asked: int = 23
    n_beside: int = 46
    n_random: int = 40
    n_cuts: int = 10
    seed: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    progress: bool = False

    @property
    def generation(self) -> dict:
        """How replies are generated."""
        return {"seed": self.seed, "progress": self.progress, "batch_size": 128}


# -- scores of every head ------------------------------------------------------------------------


def attention_by_span(study: StudyModel, items: Sequence[Encoded]) -> dict[str, np.ndarray]:
    """Attention of the last token before the reply to each span, ``[layers, heads, prompts]``.

    0 for a span that a conversation does not have. The key ``"strongest"`` holds the position with
    the most attention, counted in the conversation's own tokens.
    """
    import torch

    def run(ids, mask, places):
        last = torch.tensor([[place["last"][0]] for place in places])
        with torch.inference_mode(), reading_rows(study, last) as rows:
            forward(study, ids, mask)
        attention = torch.stack([row[:, :, 0] for row in rows], 2).float().cpu()
        found = []  # of attention: [batch, heads, layers, keys]
        for row, place in zip(attention, places, strict=True):
            mass = [row[..., slice(*place.get(span, (0, 0)))].sum(-1) for span in SPANS]
            found.append(torch.stack([*mass, row.argmax(-1).float()]).transpose(1, 2))
        return torch.stack(found, -1)

    return dict(zip((*SPANS, "strongest"), _joined(study, items, run), strict=True))


def _joined(study: StudyModel, items: Sequence[Encoded], run: Callable) -> np.ndarray:
    """What ``run`` finds in batches, joined along the last axis in the order of ``items``."""
    parts = list(batches(study, items, 64, run))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return np.concatenate([found.float().cpu().numpy() for _, found in parts], -1)[..., order]


def attention_row(study: StudyModel, item: Encoded) -> np.ndarray:
    """Attention of the last token before the reply: ``[layers, heads, tokens]``."""
    import torch

    ids = torch.tensor([item.ids], device=study.device)
    last = torch.tensor([[item.spans["last"][0]]])
    with torch.inference_mode(), reading_rows(study, last) as rows:
        forward(study, ids, torch.ones_like(ids))
    return torch.stack([row[0, :, 0] for row in rows]).float().cpu().numpy()


def moved_attention(study: StudyModel, texts: Sequence[str]) -> np.ndarray:
    """The paper's rule: whether the strongest attention moves, ``[layers, heads, prompts]``.

    From ``assistant`` in think mode to the empty think span in no-think mode, in the row of the
    last prompt token, from which the first token is generated. (In think mode that token opens the
    thought, in no-think mode it begins the reply: the rule compares two different events.)
    """
    inside = []
    for mode, span in (("think", "assistant"), ("no-think", "empty")):
        items = [study.chat.encode(text, mode) for text in texts]
        if not all(span in item.spans for item in items):
            raise UserError(f"{study.name}: the paper's rule needs a span '{span}' in {mode} prompts")
        strongest = attention_by_span(study, items)["strongest"]
        start, end = (np.array([item.spans[span][side] for item in items]) for side in (0, 1))
        inside.append((strongest >= start) & (strongest < end))
    return inside[0] & inside[1]


def direct_effects(study: StudyModel, items: Sequence[Encoded], read: Readout) -> np.ndarray:
    """What each head writes at the last token, along the gradient of the refusal logit difference.

    ``[layers, heads, prompts]``: positive where the head, directly, speaks for refusal (final norm
    linearised).
    """
    import torch

    def run(ids, mask, spans):
        with torch.no_grad(), capture(study, ["residual", "z"]) as inside:
            forward(study, ids, mask)
            end = at_last(inside["residual"][-1], spans)
            z = [at_last(values, spans) for values in inside["z"]]
            writes = [head_writes(study, layer, values) for layer, values in enumerate(z)]
        with torch.enable_grad():
            end = end.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(read(logits_at_the_end(study, end)).sum(), end)
        with torch.no_grad():
            return torch.stack([(write @ gradient[..., None])[..., 0].T for write in writes])

    return _joined(study, items, run)


def head_table(
    study: StudyModel, texts: Sequence[str], contexts: Mapping[str, Sequence[Encoded]], read: Readout
) -> pd.DataFrame:
    """All scores of all heads, one row each, means over prompts.

    ``texts``: requests, for the paper's rule; ``contexts``: for both modes, conversations about
    such requests up to where the reply begins (in think mode with a thought). Columns: ``layer,
    head``; ``paper`` (share of requests); ``attention`` (to the empty think span); ``direct,
    causal, gradient`` (units of the logit difference); and per span ``to <span>`` (attention) and
    ``change to <span>`` (no-think minus think). No-think mode, unless said otherwise.
    """
    items = contexts["no-think"]
    mass = {mode: attention_by_span(study, rows) for mode, rows in contexts.items()}
    mass = {mode: {span: values[span].mean(-1) for span in SPANS} for mode, values in mass.items()}
    scores = {
        "paper": moved_attention(study, texts).mean(-1),
        "attention": mass["no-think"]["empty"],
        "direct": direct_effects(study, items, read).mean(-1),
        "causal": head_effects(study, items, read).mean(-1),
        "gradient": attribution(study, items, read)[0],
    }
    scores |= {f"to {span}": mass["no-think"][span] for span in SPANS}
    scores |= {f"change to {span}": mass["no-think"][span] - mass["think"][span] for span in SPANS}
    return table_of(study, **scores)


def calibration(settings: Settings = Settings()) -> pd.DataFrame:
    """The harmful and harmless requests on which heads are scored and chosen."""
    part = {"split": "calibration", "n": settings.n_prompts, "seed": settings.seed}
    return settings.evaluation.sets(["harmful", "harmless"], **part)


def score(study: StudyModel, settings: Settings = Settings()) -> tuple[pd.DataFrame, Readout]:
    """`head_table` on harmful calibration requests, and the readout behind it.

    Raises ``UserError`` where refusals cannot be told from fulfilments (none of one of them).
    """
    prompts, generation = calibration(settings), {"seed": settings.seed, "progress": settings.progress}
    verdicts = settings.evaluation.observe(study, prompts, **generation)
    read, harmful = readout(study, verdicts), verdicts[verdicts["kind"] == "harmful"]
    items = {mode: contexts(study, harmful[harmful["mode"] == mode], prompts) for mode in MODES}
    texts = prompts.loc[prompts["kind"] == "harmful", "text"].tolist()
    return head_table(study, texts, items, read), read


def asked(settings: Settings = Settings()) -> pd.DataFrame:
    """The harmful requests on which the effect of a set is reported."""
    return settings.evaluation.sets(["harmful"], n=settings.n_asked, seed=settings.seed)


# -- sets of heads -------------------------------------------------------------------------------


def names(heads: Heads) -> str:
    """Heads as they are written: "L0H3 L2H1"."""
    return " ".join(f"L{layer}H{head}" for layer, head in heads)


def select(table: pd.DataFrame, rule: str, k: int) -> list[tuple[int, int]]:
    """The ``k`` heads that a rule of `RULES` ranks first in a `head_table` (ties: the lower one).

    Fewer where fewer have a score of the rule's sign: a head that never shows the paper's pattern,
    or whose loss raises refusal, is no refusal head by that rule.
    """
    if rule not in RULES:
        raise UserError(f"unknown rule '{rule}' (known: {', '.join(RULES)}){nearest(rule, RULES)}")
    if not 1 <= k <= len(table):
        raise UserError(f"k must be from 1 to {len(table)} heads, not {k}")
    score = RULES[rule] * table[rule]
    order = (-score[score > 0]).sort_values(kind="stable").index[:k]
    return list(table.loc[order, ["layer", "head"]].astype(int).itertuples(index=False, name=None))


def candidates(study: StudyModel, table: pd.DataFrame, settings: Settings = Settings()) -> pd.DataFrame:
    """What calibration replies (no-think mode) become without the first k heads of every rule.

    k is 1, 2, 4, 8 and a tenth of all heads (`SHARE`). Columns ``rule, k, heads`` (a list)``,
    refused`` (of the harmful requests)``, answered`` (of the harmless ones)``, specific`` (harmless
    requests stay answered, `ANSWERED`, with at most `SHARE` of all heads). The first row is the
    untouched model (k = 0).
    """
    sizes = sorted(k for k in {1, 2, 4, 8, max(1, int(SHARE * len(table)))} if k <= len(table))
    tried = [(rule, k, tuple(sorted(select(table, rule, k)))) for rule in RULES for k in sizes]
    tried = [("none", 0, ()), *(one for one in tried if len(one[2]) == one[1])]  # rules run out of heads
    sets = {names(heads): heads for _, _, heads in tried}  # rules often agree: each set runs once
    verdicts = ablate(study, calibration(settings), sets, settings)
    harmful = verdicts["kind"] == "harmful"
    refused = verdicts[harmful].groupby("condition")["refused"].mean()
    answered = verdicts[~harmful].groupby("condition")["score"].mean()
    found = pd.DataFrame(tried, columns=["rule", "k", "heads"])
    key = found["heads"].map(names)
    found = found.assign(refused=key.map(refused), answered=key.map(answered))
    enough = found["answered"] >= ANSWERED * found["answered"].iloc[0]
    specific = enough & found["k"].between(1, max(1, SHARE * len(table)))
    return found.assign(specific=specific, heads=found["heads"].map(list))


def choose(tried: pd.DataFrame, rule: str | None = None) -> pd.Series:
    """The specific set of `candidates` with the fewest refusals left (of one rule, if given).

    Fewer heads win ties. Where no set is specific, it is the smallest one, of the first rule that
    has it, since a rule has to be judged by something: its ``specific`` is then False, and what it
    does to refusals need not be about refusals. Raises ``UserError`` where the rule selected no head.
    """
    rows = tried[tried["k"] > 0] if rule is None else tried[tried["rule"] == rule]
    if rows.empty:
        raise UserError(f"the rule '{rule}' selects no head of this model" if rule else "no rule selects a head")
    kept = rows[rows["specific"]]
    if kept.empty:
        return rows.sort_values("k", kind="stable").iloc[0]
    return kept.sort_values(["refused", "k"], kind="stable").iloc[0]


def with_random(
    study: StudyModel, heads: Heads, n: int = Settings.n_random, seed: int = Settings.seed
) -> dict[str, Heads]:
    """Sets to compare: "nothing", "selected", and "random 0" …, as many others in every layer.

    Drawn without replacement per set; where a layer has too few others, from its own as well.
    """
    random = matched_sets(heads, architecture(study).n_heads, n, seed)
    named = {f"{RANDOM} {draw}": found for draw, found in enumerate(random)}
    return {NOTHING: [], SELECTED: heads, **named}


# -- without them --------------------------------------------------------------------------------


def ablate(
    study: StudyModel,
    prompts: pd.DataFrame,
    sets: Mapping[str, Heads],
    settings: Settings = Settings(),
    modes: Sequence[str] = ("no-think",),
    **generation,
) -> pd.DataFrame:
    """Verdicts on the prompts without each set of heads (set to zero); column ``condition``."""
    usual = {"max_new_tokens": LENGTH if "think" in modes else SHORT, **settings.generation}
    kept = {"evaluation": settings.evaluation, **usual, **generation}
    return without_heads(study, prompts, sets, modes=modes, **kept)


def effects(verdicts: pd.DataFrame, metrics: Sequence[str] = ("refused", "misaligned")) -> pd.DataFrame:
    """The selected heads against random ones (`with_random`): `against_random` per metric."""
    return pd.DataFrame([against_random(verdicts, metric) for metric in metrics])


def ablations(study: StudyModel, tried: pd.DataFrame, settings: Settings = Settings()) -> pd.DataFrame:
    """`effects` of several `candidates` on evaluation requests, by ``rule, k, mode, metric``.

    The best set of every rule (``best``) and every size of the rule of the chosen one, in no-think
    mode; the chosen one (``chosen``) in think mode as well.
    """
    chosen, sets = choose(tried), tried[tried["k"] > 0]
    best = [choose(tried, rule).name for rule in sets["rule"].unique()]
    sets = sets[sets.index.isin(best) | (sets["rule"] == chosen["rule"])]

    @cache  # rules often agree
    def found(heads: tuple, mode: str) -> pd.DataFrame:
        sets = with_random(study, heads, settings.n_random, settings.seed)
        return effects(ablate(study, asked(settings), sets, settings, [mode]))

    tables = []
    for one in sets.itertuples():
        this = one.Index == chosen.name
        for mode in ("no-think", "think") if this else ("no-think",):
            who = {"rule": one.rule, "k": one.k, "mode": mode, "best": one.Index in best}
            tables.append(found(tuple(one.heads), mode).assign(chosen=this, **who))
    return pd.concat(tables, ignore_index=True)


# -- where heads look ----------------------------------------------------------------------------


def moves(study: StudyModel, settings: Settings = Settings()) -> pd.DataFrame:
    """The paper's rule on harmful and harmless evaluation requests: ``moved``, a share of all heads."""
    part = {"n": settings.n_prompts, "seed": settings.seed}
    prompts = settings.evaluation.sets(["harmful", "harmless"], **part)
    moved = moved_attention(study, prompts["text"].tolist())
    return prompts[["prompt_id", "kind", "cluster"]].assign(moved=moved.mean((0, 1)))


def looking(
    study: StudyModel, prompts: pd.DataFrame, sets: Mapping[str, Heads], thought: str | None = None
) -> pd.DataFrame:
    """Attention of sets of heads to what stands between the think tags, a row per request and set.

    ``thought``: None for no-think mode with its empty span, else a text written between the tags
    in think mode. Columns ``prompt_id, cluster, condition, between`` (mean over the set's heads).
    """
    mode, span = ("no-think", "empty") if thought is None else ("think", "thought")
    items = [study.chat.encode(text, mode, thought=thought) for text in prompts["text"]]
    mass = attention_by_span(study, items)[span]
    tables = [
        prompts[["prompt_id", "cluster"]].assign(
            condition=name, between=np.mean([mass[place] for place in heads], axis=0)
        )
        for name, heads in sets.items()
        if len(heads)
    ]
    return pd.concat(tables, ignore_index=True)


def cut_replies(study: StudyModel, heads: Heads, settings: Settings = Settings()) -> pd.DataFrame:
    """Replies after the model's own thoughts, while heads cannot look back at a part of the prompt.

    Conditions: "nothing"; the "selected" heads, ``n_cuts`` "random" sets in the same layers, and
    "all heads" cut off from the thought; "all heads, before" cut off from as many tokens right
    before it. Column ``thought`` holds the thought that stays the same in all of them.
    """
    prompts, generation = asked(settings), settings.generation
    own = settings.evaluation.judged(study, prompts, "think", **generation)
    thoughts = own.set_index("prompt_id")["thought"].to_dict()
    sets = with_random(study, heads, settings.n_cuts, settings.seed)
    cuts = {name: (found, "thought") for name, found in sets.items()}
    cuts |= {"all heads": (None, "thought"), "all heads, before": (None, BEFORE_THOUGHT)}
    generation |= {"evaluation": settings.evaluation, "max_new_tokens": SHORT}
    found = without_sight(study, prompts, thoughts, cuts, **generation)
    names = {f"{RANDOM} {draw}": RANDOM for draw in range(settings.n_cuts)}
    return found.replace({"condition": names})


# -- the experiment ------------------------------------------------------------------------------


def rows(
    study: StudyModel,
    moved: pd.DataFrame,
    looked: pd.DataFrame,
    found: pd.DataFrame,
    cut: pd.DataFrame,
    settings: Settings = Settings(),
) -> list[dict]:
    """Verdict rows of C4a (`moves`), C4b (`looking`), C5a, C5b (`effects`), C5c (`cut_replies`)."""
    harmful, chosen = moved["kind"] == "harmful", looked["condition"] == SELECTED
    sides = [
        side.groupby("prompt_id", as_index=False).agg({"between": "mean", "cluster": "first"})
        for side in (looked[chosen], looked[~chosen])
    ]
    by_metric = found.set_index("metric", drop=False).to_dict("index")
    claimed = {
        ("C4a", None): unpaired_difference(moved[harmful], moved[~harmful], "moved"),
        ("C4b", "no-think"): paired_difference(*sides, "between", on="prompt_id"),
        ("C5a", "no-think"): by_metric["refused"],
        ("C5b", "no-think"): by_metric["misaligned"],
        ("C5c", "think"): difference(cut, "condition", SELECTED, RANDOM, "refused"),
    }
    about = {**study.identity, **settings.evaluation.description()}
    return [effect_row(claim, one, mode=mode, **about) for (claim, mode), one in claimed.items()]


def run(study: StudyModel, settings: Settings = Settings()) -> Result:
    """Heads scored and chosen, and what they carry and look at.

    Tables: ``heads`` (`head_table`), ``heads-candidates`` (without the lists of heads, which
    `select` gives), ``heads-ablations``, and ``heads-rates`` (every prompt set with and without the
    chosen heads, by ``condition, set, kind, mode``).
    """
    table, _ = score(study, settings)
    tried = candidates(study, table, settings)
    heads, found = choose(tried)["heads"], ablations(study, tried, settings)
    several = settings.evaluation.sets(n=settings.n_beside, seed=settings.seed)
    beside = ablate(study, several, {NOTHING: [], SELECTED: heads}, settings, MODES)
    sets = with_random(study, heads, settings.n_random, settings.seed)
    looked = looking(study, asked(settings), sets)
    main = found[found["chosen"] & (found["mode"] == "no-think")]
    tables = {
        "heads": table,
        "heads-candidates": tried.drop(columns="heads"),
        "heads-ablations": found,
        "heads-rates": rates(beside, by=["condition", "set", "kind", "mode"]),
    }
    moved, cut = moves(study, settings), cut_replies(study, heads, settings)
    return result(study, tables, rows(study, moved, looked, main, cut, settings))
