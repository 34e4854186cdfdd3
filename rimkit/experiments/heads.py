"""Claims C4 and C5 (sections 3.2 and B of the paper): which heads carry refusal, by five rules?

C4a between the modes some heads move their strongest attention from ``assistant`` to the empty
think span, on more harmful than harmless requests; C4b the selected heads attend more to that span
than random ones; C5a ablating them lowers refusals more than ablating random heads; C5b raises
misalignment more; C5c in think mode refusals return when they cannot see the thought.

- *paper*: on how many prompts the strongest attention of the first generated token moves from
  ``assistant`` (think mode) to the empty think span (no-think mode); it names no threshold.
- *attention*: how much of that token's attention goes to the empty span.
- *direct*: direct logit attribution; *causal*: the change of the refusal logit difference without
  the head; *gradient*: its estimate.

Words: a *set* is a list of heads, its *size* k, *specific* if it is small and leaves harmless
answers; random sets have as many heads in every layer; the *readout* is the words that begin a
refusal or a fulfilment; a *cluster*, which intervals draw again, is a verb with its prompts.

Steps: `score` all heads, try `candidates`, and `choose` a rule and a size, on the calibration
split; on the evaluation split `ablate` the set and random ones (`ablations`), see what it looks at
(`attention_moves`) and what replies are when it cannot (`cut_replies`); `competence`; `rows`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame

from rimkit import experiments, ledger
from rimkit.behavior import evaluation, refusal_score
from rimkit.behavior.evaluation import NOTHING, RANDOM, SELECTED, against_random, difference
from rimkit.behavior.refusal_score import Readout, at_last, attribution, contexts, head_effects, readout
from rimkit.behavior.stats import METRICS, Units, auroc, rates, unpaired_difference
from rimkit.data import UserError, check_known, pairs_of
from rimkit.experiments import Common, Result, Table, attempt, per_prompt, readable, result, testable, verdict_rows
from rimkit.models.activations import capture, forward, in_order
from rimkit.models.chat import MODES, Encoded
from rimkit.models.hooks import architecture, head_writes, logits_at_the_end, reading_rows
from rimkit.models.study import StudyModel

SPANS = ("request", "im_end", "assistant", "think_open", "empty", "thought", "think_close")
RULES = {"paper": 1, "attention": 1, "direct": 1, "causal": -1, "gradient": -1}  # its sign
SHARE = 0.1  # of all heads: the largest set that is called specific
ANSWERED = 0.9  # what it must leave of the harmless requests that the untouched model answers
SHORT, LENGTH = 32, 72  # tokens of a reply, and of one with its thought


@dataclass(frozen=True)
class Settings(Common):
    """How much is measured."""

    n_prompts: int = 46  # harmful, and as many harmless, calibration requests to select by
    n_asked: int = 48  # harmful evaluation requests: one per verb, which is what counts
    n_beside: int = 46  # prompts of every set without the chosen one
    n_random: int = 40  # random sets to compare with


def evaluation_prompts(settings=Settings()) -> DataFrame:
    """The harmful requests on which the effect of a set is reported."""
    return settings.sets(["harmful"], settings.n_asked)


def attention_by_span(study: StudyModel, items: Sequence[Encoded]) -> dict[str, np.ndarray]:
    """Attention of the last token before the reply to each span, ``[layers, heads, prompts]``. 0
    for a span that is not there; key ``"strongest"``: the position with the most attention."""

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

    return dict(zip((*SPANS, "strongest"), in_order(study, items, run), strict=True))


def moved_attention(study: StudyModel, texts: Sequence[str]) -> np.ndarray:
    """The paper's rule: whether the strongest attention moves, ``[layers, heads, prompts]``. From
    ``assistant`` in think mode to the empty span in no-think mode, in the row of the last prompt
    token (which opens the thought in one and begins the reply in the other: two different events).
    NaN, and said, where prompts do not have both."""
    inside = []
    for mode, span in (("think", "assistant"), ("no-think", "empty")):
        items = [study.chat.encode(text, mode) for text in texts]
        if not all(span in item.spans for item in items):
            study.say(f"{mode} prompts have no span '{span}': the paper's rule is left out")
            parts = architecture(study)
            return np.full((parts.n_layers, parts.n_heads, len(texts)), np.nan)
        strongest = attention_by_span(study, items)["strongest"]
        start, end = np.array([item.spans[span] for item in items]).T
        inside.append((strongest >= start) & (strongest < end))
    return inside[0] & inside[1]


def slope(study: StudyModel, end: torch.Tensor, words: Readout) -> torch.Tensor:
    """Where the refusal logit difference of final residuals ``[..., hidden]`` grows, scale held."""
    with torch.enable_grad():
        end = end.detach().requires_grad_()
        return torch.autograd.grad(words(logits_at_the_end(study, end, held=True)).sum(), end)[0]


def direct_effects(study: StudyModel, items: Sequence[Encoded], words: Readout) -> np.ndarray:
    """Direct logit attribution: what each head writes at the last token, along `slope`. ``[layers,
    heads, prompts]``; positive speaks for refusal. With embedding and MLPs it sums to the whole."""

    def run(ids, mask, spans):
        with torch.no_grad(), capture(study, ["residual", "z"]) as inside:
            forward(study, ids, mask)
            way = slope(study, at_last(inside["residual"][-1], spans), words)[..., None]
            writes = [head_writes(study, layer, at_last(z, spans)) for layer, z in enumerate(inside["z"])]
            return torch.stack([(write @ way)[..., 0].T for write in writes])

    return in_order(study, items, run)


def head_table(
    study: StudyModel, texts: Sequence[str], begun: Mapping[str, Sequence[Encoded]], words: Readout | str
) -> DataFrame:
    """All scores of all heads, means over prompts, in no-think mode unless said otherwise.
    ``texts``: requests; ``begun``: for both modes, conversations about them up to where the reply
    begins. Columns: ``layer, head``; ``paper`` (share of requests); ``attention`` (to the empty
    think span); ``direct, causal, gradient`` (of the logit difference; NaN where ``words`` says
    why); per span ``to <span>`` (attention), ``change to <span>`` (no-think minus think)."""
    items = begun["no-think"]
    think, mass = (
        {span: values.mean(-1) for span, values in attention_by_span(study, begun[mode]).items()}
        for mode in ("think", "no-think")
    )
    scores = {"paper": moved_attention(study, texts).mean(-1), "attention": mass["empty"]}
    scores |= dict.fromkeys(("direct", "causal", "gradient"), mass["empty"] + np.nan)
    if not isinstance(words, str):
        scores["direct"] = direct_effects(study, items, words).mean(-1)
        scores["causal"] = head_effects(study, items, words).mean(-1)
        scores["gradient"] = attribution(study, items, words)[0]
    scores |= {f"to {span}": mass[span] for span in SPANS}
    scores |= {f"change to {span}": mass[span] - think[span] for span in SPANS}
    return refusal_score.table(study, **scores)


def score(study: StudyModel, settings=Settings()) -> tuple[DataFrame, Readout | str]:
    """`head_table` on harmful calibration requests, and the readout behind it, or why there
    is none: refusals cannot be told from fulfilments (none of one of them)."""
    prompts = settings.sets(["harmful", "harmless"], settings.n_prompts, "calibration")
    judged = settings.observe(study, prompts)
    words, harmful = attempt(readout, study, judged), judged[judged["kind"] == "harmful"]
    items = {mode: contexts(study, harmful[harmful["mode"] == mode], prompts) for mode in MODES}
    texts = prompts.loc[prompts["kind"] == "harmful", "text"].tolist()
    return head_table(study, texts, items, words), words


def names(heads: Units) -> str:
    """Heads as they are written: "L0H3 L2H1"."""
    return " ".join(f"L{layer}H{head}" for layer, head in pairs_of(heads, "head"))


def first_by(table: DataFrame, rule: str, k: int) -> list[tuple[int, int]]:
    """The ``k`` heads that a rule of `RULES` ranks first in a `head_table` (ties: the lower one).
    Fewer where fewer have a score of the rule's sign: others are no refusal heads by it."""
    check_known("rule", rule, RULES)
    if not 1 <= k <= len(table):
        raise UserError(f"k must be from 1 to {len(table)} heads, not {k}")
    score = RULES[rule] * table[rule]
    order = (-score[score > 0]).sort_values(kind="stable").index[:k]
    return list(table.loc[order, ["layer", "head"]].astype(int).itertuples(index=False, name=None))


def breaks(tried: DataFrame) -> pd.Series:
    """Whether a set of `candidates` takes more of the harmless answers than `ANSWERED` allows."""
    return ~(tried["answered"] >= ANSWERED * tried["answered"].iloc[0])


def candidates(study: StudyModel, table: DataFrame, settings=Settings()) -> DataFrame:
    """What calibration replies (no-think mode) become without the first k heads of every rule, k:
    1, 2, 4, 8, a tenth of all. Columns ``rule, k, heads`` (a list)``, refused, read`` (shares of
    harmful requests)``, answered`` (of harmless ones)``, specific`` (at most `SHARE` of all heads,
    `ANSWERED` of the answers stay). First row: the untouched model, k = 0. `UserError`: no head."""
    sizes = sorted(k for k in {1, 2, 4, 8, max(1, int(SHARE * len(table)))} if k <= len(table))
    tried = [(rule, k, tuple(sorted(first_by(table, rule, k)))) for rule in RULES for k in sizes]
    tried = [("none", 0, ()), *(one for one in tried if len(one[2]) == one[1])]  # rules run out of heads
    if not tried[1:]:
        raise UserError("no head was selected")
    sets = {names(heads): heads for _, _, heads in tried}  # rules often agree: each set runs once
    prompts = settings.sets(["harmful", "harmless"], settings.n_prompts, "calibration")
    judged = ablate(study, prompts, sets, settings)
    harmful = judged["kind"] == "harmful"
    refused = judged[harmful].groupby("condition")["refused"].mean()
    answered = judged[~harmful].groupby("condition")["score"].mean()
    shares = readable(judged[harmful], "condition")
    found = DataFrame(tried, columns=["rule", "k", "heads"])
    key = found["heads"].map(names)
    found = found.assign(refused=key.map(refused), read=key.map(shares), answered=key.map(answered))
    specific = ~breaks(found) & found["k"].between(1, max(1, SHARE * len(table)))
    return found.assign(specific=specific, heads=found["heads"].map(list))


def choose(tried: DataFrame, rule: str | None = None) -> pd.Series:
    """The specific set of `candidates` with the fewest refusals left (of one rule, if given). Fewer
    heads win ties. If none is specific, the smallest set, by the first rule that has it: a rule has
    to be judged by something. ``specific`` is then False: if such a set lowers refusals, it may do
    so by damage to any answer. Raises ``UserError`` where no head was selected."""
    if rule is not None:
        check_known("rule", rule, RULES)
    rows = tried[tried["k"] > 0] if rule is None else tried[tried["rule"] == rule]
    if rows.empty:
        raise UserError("no head was selected")
    if not rows["specific"].any():
        return rows.sort_values("k", kind="stable").iloc[0]
    return rows[rows["specific"]].sort_values(["refused", "k"], kind="stable").iloc[0]


def ablate(
    study: StudyModel, prompts: DataFrame, sets: Mapping, settings=Settings(), modes=("no-think",), **generation
) -> DataFrame:
    """Judged replies without each set of heads (set to zero); ``condition``: its name."""
    usual = {"max_new_tokens": LENGTH if "think" in modes else SHORT, "batch_size": 128}
    return evaluation.without(study, prompts, sets, modes=modes, **settings.generation | usual | generation)


def effects(judged: DataFrame, metrics: Sequence[str] = ("refused", "misaligned")) -> DataFrame:
    """The "selected" heads against "random" sets: `against_random` per metric."""
    return DataFrame([against_random(judged, metric) for metric in metrics])


def compared(study: StudyModel, heads: Units, settings=Settings()) -> dict[str, Units]:
    """The sets of heads to compare: "nothing", "selected", and "random 0", …"""
    random = experiments.random_sets(study, heads, settings.n_random, settings.seed, "heads")
    return {NOTHING: [], SELECTED: heads, **random}


def ablations(
    study: StudyModel, tried: DataFrame, chosen: pd.Series, settings=Settings()
) -> tuple[DataFrame, DataFrame]:
    """What replies become without each rule's best set and every size of the rule of the ``chosen``
    one. Two tables: `effects`, in no-think mode and for the chosen set in think mode too, with
    columns ``chosen, rule, k, mode`` and ``best`` (whether `choose` takes it by its rule); and
    the judged replies without the chosen set and its random sets."""
    sets = tried[tried["k"] > 0]
    best = [choose(tried, rule).name for rule in sets["rule"].unique()]
    sets = sets[sets.index.isin(best) | (sets["rule"] == chosen["rule"])]

    @cache  # rules often agree
    def replies(heads: tuple, mode: str) -> DataFrame:
        return ablate(study, evaluation_prompts(settings), compared(study, heads, settings), settings, [mode])

    tables, kept = [], []
    for one in sets.itertuples():
        this = one.Index == chosen.name
        for mode in ("no-think", "think") if this else ("no-think",):
            who = {"chosen": this, "rule": one.rule, "k": one.k, "mode": mode, "best": one.Index in best}
            found = replies(tuple(one.heads), mode)
            tables.append(effects(found).assign(**who))
            kept += [found] if this else []
    return pd.concat(tables, ignore_index=True), pd.concat(kept, ignore_index=True)


def attention_moves(study: StudyModel, settings=Settings()) -> DataFrame:
    """The paper's rule in the heads that show it most on harmful calibration requests. A row per
    request of both kinds and splits: ``prompt_id, kind, cluster, split, moved``: the share of these
    heads (a tenth of all) that move. `UserError` where prompts lack the places or none moves."""
    parts = []
    for split in ("calibration", "evaluation"):
        prompts = settings.sets(["harmful", "harmless"], settings.n_prompts, split)
        moved = moved_attention(study, prompts["text"].tolist())
        parts.append((prompts.assign(split=split), moved))
    known, moved = parts[0]
    often = moved[..., (known["kind"] == "harmful").to_numpy()].mean(-1)
    if not often.max() > 0:  # NaN: no such places
        said = "no head moves its attention" if often.max() == 0 else "the prompts have no such places"
        raise UserError(f"{said} from assistant to the empty think span")
    first = np.argsort(-often.ravel(), kind="stable")[: max(1, int(SHARE * often.size))]
    tables = [table.assign(moved=found.reshape(often.size, -1)[first].mean(0)) for table, found in parts]
    return pd.concat(tables, ignore_index=True)[["prompt_id", "kind", "cluster", "split", "moved"]]


def attention_between(study: StudyModel, prompts: DataFrame, sets: Mapping[str, Units]) -> DataFrame:
    """Attention ``between`` the empty think tags (no-think mode) by request and set."""
    items = [study.chat.encode(text, "no-think") for text in prompts["text"]]
    mass, who = attention_by_span(study, items)["empty"], prompts[["prompt_id", "cluster"]]
    mass = mass if all("empty" in item.spans for item in items) else mass + np.nan
    found = {name: [mass[place] for place in heads] for name, heads in sets.items() if len(heads)}
    tables = [who.assign(condition=name, between=np.mean(each, 0)) for name, each in found.items()]
    return pd.concat(tables, ignore_index=True)


def cut_replies(study: StudyModel, heads: Units, settings=Settings(), split: str = "evaluation") -> DataFrame:
    """Replies after the model's own ``thought``; heads cannot look back at a part of the prompt.
    Conditions: "nothing" cut; cut off from the thought "selected", "random 0" … and "all heads";
    from it and the closing tags, which have read it, "selected, tags too" and "all heads, tags
    too"; from as many tokens before the thought "all heads, before"."""
    prompts = settings.sets(["harmful"], settings.n_asked, split)
    own = settings.judged(study, prompts, "think", batch_size=128)
    thoughts = own.set_index("prompt_id")["thought"].to_dict()
    cuts = {name: (found, "thought") for name, found in compared(study, heads, settings).items()}
    for name, blind in {SELECTED: heads, "all heads": None}.items():
        cuts |= {name: (blind, "thought"), f"{name}, tags too": (blind, evaluation.TO_REPLY)}
    cuts["all heads, before"] = None, evaluation.BEFORE_THOUGHT
    generation = {**settings.generation, "max_new_tokens": SHORT, "batch_size": 128}
    return evaluation.without_sight(study, prompts, thoughts, cuts, **generation)


def random_as_one(judged: DataFrame) -> DataFrame:
    """Judged replies with all random sets as one condition."""
    random = judged["condition"].str.startswith(RANDOM)
    return judged.assign(condition=judged["condition"].mask(random, RANDOM))


def competence(study: StudyModel, tried: DataFrame, settings=Settings()) -> dict[str, float]:
    """Of calibration replies without the chosen heads: ``answered``, the share of the untouched
    model's harmless requests that are still done; ``read``, the least share of readable replies to
    harmful ones, without random heads too; ``read_cut``, that where heads see no thought."""
    untouched, chosen = tried.iloc[0], choose(tried)
    asked = settings.sets(["harmful"], settings.n_competence, "calibration")
    judged = ablate(study, asked, compared(study, chosen["heads"], settings), settings)
    few = replace(settings, n_asked=settings.n_competence, n_random=1)
    cut = attempt(cut_replies, study, chosen["heads"], few, "calibration")
    shares = readable(random_as_one(judged), "condition")[[SELECTED, RANDOM]]  # controls, too
    found = {
        "answered": chosen["answered"] / (untouched["answered"] or np.nan),
        "read": float(np.min([chosen["read"], untouched["read"], *shares])),
    }
    if not isinstance(cut, str):
        shares = readable(cut, "condition")[[NOTHING, SELECTED, f"{RANDOM} 0"]]
        found["read_cut"] = float(shares.min(skipna=False))
    return found


def rows(
    study: StudyModel, moved: Table, looked: Table, effect_table: Table, cut: Table, able: Mapping, settings=Settings()
) -> list[dict]:
    """Verdict rows of C4a (`attention_moves`), C4b (`attention_between`), C5a, C5b (`effects`), C5c
    (`cut_replies`), each from its table or from why there is none. ``able``: `competence`."""
    answered, read, read_cut = (able.get(name) for name in ("answered", "read", "read_cut"))
    by_metric = dict.fromkeys(METRICS, effect_table)
    if not isinstance(effect_table, str):
        by_metric = effect_table.set_index("metric", drop=False).to_dict("index")
    if not isinstance(moved, str):
        own, known = (moved[moved["split"] == split] for split in ("evaluation", "calibration"))
        harmful = own["kind"] == "harmful"
        change = unpaired_difference(own[harmful], own[~harmful], "moved")._asdict()
        reached = known.loc[known["kind"] == "harmful", "moved"].mean()
        moved = testable("C4a", change, reached=reached)
    if not isinstance(looked, str):
        there = looked["between"].notna().all()
        looked = against_random(looked, "between") if there else "the prompts have no empty think span"
    cut = cut if isinstance(cut, str) else against_random(cut, "refused")
    claimed = [
        ("C4a", None, moved), ("C4b", "no-think", testable("C4b", looked, reached=answered)),
        ("C5a", "no-think", testable("C5a", by_metric["refused"], read=read, reached=answered)),
        ("C5b", "no-think", testable("C5b", by_metric["misaligned"], read=read, reached=answered)),
        ("C5c", "think", testable("C5c", cut, read=read_cut, reached=answered)),
    ]  # fmt: skip
    return verdict_rows(study, settings, claimed)


def run(study: StudyModel, settings=Settings()) -> Result:
    """Heads scored and chosen, and what they carry and look at. Tables: ``heads`` (`head_table`),
    ``heads-candidates`` (without the lists of heads), ``heads-ablations``,
    ``heads-rates`` (all prompt sets with and without the chosen heads); the replies behind the last
    two, without texts: ``heads-ablations-judged``, ``heads-rates-judged``."""
    moved, scored = attempt(attention_moves, study, settings), attempt(score, study, settings)
    words = scored if isinstance(scored, str) else scored[1]
    tried = words if isinstance(words, str) else attempt(candidates, study, scored[0], settings)
    if isinstance(tried, str):  # so there is no set of heads to measure with, either
        looked = found = cut = tried
        return result(study, {}, rows(study, moved, looked, found, cut, {}, settings))
    chosen = choose(tried)
    heads, (found, judged) = chosen["heads"], ablations(study, tried, chosen, settings)
    pair = {NOTHING: [], SELECTED: heads}
    beside = ablate(study, settings.sets(n=settings.n_beside), pair, settings, MODES)
    sets = compared(study, heads, settings)
    looked = attention_between(study, evaluation_prompts(settings), sets)
    main = found[found["chosen"] & (found["mode"] == "no-think")]
    by = ["condition", "set", "kind", "mode"]
    cut = attempt(cut_replies, study, heads, settings)
    tables = {
        "heads": scored[0], "heads-candidates": tried.drop(columns="heads"),
        "heads-ablations": found, "heads-ablations-judged": per_prompt(judged, "condition", "mode"),
        "heads-rates": rates(beside, by=by), "heads-rates-judged": per_prompt(beside, *by),
    }  # fmt: skip
    able = competence(study, tried, settings)
    return result(study, tables, rows(study, moved, looked, main, cut, able, settings))


# -- a positive control of the rules (`rimkit.experiments.planted`) --------------------------------
def rule_recovery(study: StudyModel, settings=Settings()) -> DataFrame:
    """How well each rule ranks the heads whose single ablation lowers refusals: a positive control
    of the rules. A head does so if refusals of evaluation requests (no-think mode) fall by the
    smallest effect of C5a or more and the interval excludes zero. Columns ``rule, auroc, ci_low,
    ci_high`` (missing where no head does, or all)``, spearman`` (of score and fall)``, lowering``
    (how many heads do)``, most`` (the largest fall, a share of the requests)."""
    table, _ = score(study, settings)
    least = ledger.claims().set_index("id").loc["C5a", "smallest_effect"]
    units = table[["layer", "head"]].itertuples(index=False, name=None)
    sets = {NOTHING: []} | {names([unit]): [unit] for unit in units}
    judged = ablate(study, settings.sets(["harmful"], 2 * settings.n_prompts), sets, settings)
    found = DataFrame([difference(judged, "condition", name, NOTHING, "refused") for name in list(sets)[1:]])
    lowering, rows = ((found["effect"] <= -least) & (found["ci_high"] < 0)).to_numpy(), []
    for rule, sign in RULES.items():
        scores = sign * table[rule].astype(float)
        ranked = attempt(auroc, scores, lowering)
        ranked = [np.nan] * 3 if isinstance(ranked, str) else ranked[:3]
        alike = scores.rank().corr(-found["effect"].rank()) if found["effect"].nunique() > 1 else np.nan
        rows.append([rule, *ranked, alike])
    table = DataFrame(rows, columns=["rule", "auroc", "ci_low", "ci_high", "spearman"])
    return table.assign(lowering=int(lowering.sum()), most=-found["effect"].min())


# -- what only notebooks use -----------------------------------------------------------------------
def attention_row(study: StudyModel, item: Encoded) -> np.ndarray:
    """Attention of the last token before the reply: ``[layers, heads, tokens]``."""
    ids = torch.tensor([item.ids], device=study.device)
    last = torch.tensor([[item.spans["last"][0]]])
    with torch.inference_mode(), reading_rows(study, last) as rows:
        forward(study, ids, torch.ones_like(ids))
    return torch.stack([row[0, :, 0] for row in rows]).float().cpu().numpy()
