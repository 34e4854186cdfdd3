"""Which heads carry refusal: screens, scores, sets; a model in which one known head does, and models in which none does."""

from __future__ import annotations

import families
import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from rimkit.behavior import evaluation, refusal_score
from rimkit.behavior.evaluation import Evaluation
from rimkit.data import UserError, results
from rimkit.experiments import heads, random_sets
from rimkit.models.activations import capture, forward
from rimkit.models.chat import pad
from rimkit.models.hooks import (
    FAMILIES,
    architecture,
    cut_attention,
    head_writes,
    hooked,
    on_neurons,
    on_z,
)
from rimkit.models.interventions import ablate_heads
from rimkit.models.load import load

KNOWN = (1, 2)
READ = refusal_score.Readout(refusal=(20, 31), fulfilment=(44,))


HARMFUL = ("steal", "forge", "jam", "burgle", "smash", "hack", "sink", "leak")
HARMLESS = ("polish", "mop", "paint", "wash", "frame", "sort", "fix", "tune")


@pytest.fixture(scope="module", params=FAMILIES)
def study(request):
    return families.family(request.param)


@pytest.fixture(scope="module")
def items(study):
    return families.conversations(study)


def every_head(study):
    parts = architecture(study)
    return [(layer, head) for layer in range(parts.n_layers) for head in range(parts.n_heads)]


@pytest.mark.parametrize("rows", [1, 30, 1000])
def test_the_screen_equals_one_ablation_at_a_time(study, items, rows, monkeypatch):
    monkeypatch.setattr(refusal_score, "ROWS", rows)
    effects = refusal_score.head_effects(study, items, READ)
    base = np.array(refusal_score.refusal_scores(study, items, READ))
    for layer, head in every_head(study)[::5]:
        with ablate_heads(study, [(layer, head)]):
            without = np.array(refusal_score.refusal_scores(study, items, READ))
        assert np.allclose(effects[layer, head], without - base, atol=1e-4), (layer, head)
    assert np.abs(effects).max() > 0.01


def shrunk(indices, by: float):
    def change(x):
        x = x.clone()
        x[indices] = (1 - by) * x[indices]
        return x

    return change


def test_attribution_is_the_slope_of_ablation(study, items):
    """A head or neuron that is made smaller by a thousandth changes the score by a thousandth of the estimate."""
    of_heads, of_neurons = refusal_score.attribution(study, items, READ)
    assert of_heads.shape == (3, 4)
    assert of_neurons.shape == (3, architecture(study).n_neurons)
    base = np.mean(refusal_score.refusal_scores(study, items, READ))
    top = [divmod(int(index), 4) for index in np.abs(of_heads).ravel().argsort()[-2:]]
    neuron = divmod(int(np.abs(of_neurons).argmax()), of_neurons.shape[1])
    slopes = {}
    for layer, head in top:
        with hooked([on_z(study, layer, shrunk((..., head, slice(None)), 1e-3))]):
            slopes[of_heads[layer, head]] = refusal_score.refusal_scores(study, items, READ)
    with hooked([on_neurons(study, neuron[0], shrunk((..., neuron[1]), 1e-3))]):
        slopes[of_neurons[neuron]] = refusal_score.refusal_scores(study, items, READ)
    for estimate, scores in slopes.items():
        assert (np.mean(scores) - base) / 1e-3 == pytest.approx(estimate, rel=0.15)
    assert all(parameter.requires_grad for parameter in study.hf.parameters())


def test_attention_by_span_is_a_share(study, items):
    mass = heads.attention_by_span(study, items)
    total = sum(mass[span] for span in heads.SPANS)
    assert (total <= 1 + 1e-5).all()
    assert (mass["request"] > 0).all()
    think = [row for row, item in enumerate(items) if item.mode == "think"]
    assert (mass["empty"][:, :, think] == 0).all()
    lengths = [len(item.ids) for item in items]
    assert (mass["strongest"] < lengths).all()


def test_direct_effects_are_parts_of_the_lead(study, items):
    """With the final norm's scale held all parts of a state sum to the lead; without, to nothing. A head's part is
    what its writing changes when it is put through gain and unembedding by hand."""
    one = refusal_score.Readout(refusal=(20,), fulfilment=(44,))
    ids, mask, spans = pad(items, study.pad_id, side="right")
    with torch.no_grad(), capture(study, ["residual", "z"]) as found:
        forward(study, ids, mask)
        end = refusal_score.at_last(found["residual"][-1], spans)
        write = head_writes(study, 1, refusal_score.at_last(found["z"][1], spans))[:, 2]
        gain = study.hf.model.norm(end) / end
        way = study.hf.lm_head.weight[20] - study.hf.lm_head.weight[44]
    capped = getattr(study.hf.config, "final_logit_softcapping", None)  # bends the logits: these are nearly straight
    lead = torch.tensor(refusal_score.refusal_scores(study, items, one))
    assert torch.allclose((heads.slope(study, end, one) * end).sum(-1), lead, rtol=3e-2 if capped else 1e-3, atol=1e-3)
    direct = heads.direct_effects(study, items, one)
    assert np.allclose(direct[1, 2], (write * gain * way).sum(-1), rtol=3e-2 if capped else 1e-3, atol=1e-3)
    assert np.abs(direct).max() > 0.01


def test_the_papers_rule_needs_both_events(study):
    moved = heads.moved_attention(study, families.REQUESTS)
    assert moved.dtype == bool
    assert moved.shape == (3, 4, 3)
    no_think = [study.chat.encode(text, "no-think") for text in families.REQUESTS]
    strongest = heads.attention_by_span(study, no_think)["strongest"]
    empty = np.array([item.spans["empty"][0] for item in no_think])
    assert not (moved & (strongest < empty)).any()


@pytest.fixture(scope="module")
def small():
    return tiny.study()


def test_random_sets_have_as_many_heads_per_layer(small):
    chosen = [(0, 1), (1, 0), (1, 3)]
    found = heads.compared(small, chosen, heads.Settings(seed=1))
    assert found.pop("nothing") == [] and found.pop("selected") == chosen
    assert list(found) == [f"random {draw}" for draw in range(40)]
    sets = list(found.values())
    assert all([layer for layer, _ in one] == [0, 1, 1] and not set(one) & set(chosen) for one in sets)
    assert sets == list(random_sets(small, chosen, 40, 1, "heads").values())
    assert len({tuple(one) for one in sets}) > 2
    assert len(set(random_sets(small, [(0, head) for head in range(4)], 1, 0, "heads")["random 0"])) == 4


def test_selection_follows_the_sign_of_the_rule():
    table = pd.DataFrame({"layer": [0, 0, 1], "head": [0, 1, 0], "causal": [0.5, -2, -1], "direct": [1, 1, 3]})
    assert heads.first_by(table, "causal", 2) == [(0, 1), (1, 0)]
    assert heads.first_by(table, "direct", 2) == [(1, 0), (0, 0)]
    with pytest.raises(UserError, match="did you mean 'causal'"):
        heads.first_by(table, "casual", 1)
    with pytest.raises(UserError, match="from 1 to 3"):
        heads.first_by(table, "causal", 4)


def verdicts(**columns):
    return pd.DataFrame({"coherent": True, **columns})


def test_the_readout_is_made_of_first_words(small):
    table = verdicts(refused=[True, True, False, False], reply=["i cannot", "i cannot", "sure .", "the answer"])
    words = small.tokenizer.convert_ids_to_tokens
    found = refusal_score.readout(small, table)
    assert words(list(found.refusal)) == ["i"]
    assert words(list(found.fulfilment)) == ["sure", "the"]
    logits = torch.zeros(2, len(small.tokenizer))
    logits[0, found.refusal[0]] = 5
    assert found(logits)[0] > found(logits)[1]


@pytest.mark.parametrize(
    ("refused", "replies", "message"),
    [
        ([True, True], ["i cannot", "i cannot"], "no request was fulfilled"),
        ([False, False], ["sure", "sure"], "no request was refused"),
        ([True, False], ["sure", "sure"], "begin with the same words"),
    ],
)
def test_an_undefined_readout_says_why(small, refused, replies, message):
    with pytest.raises(UserError, match=message):
        refusal_score.readout(small, verdicts(refused=refused, reply=replies))


def test_heads_are_written_as_in_the_field():
    assert heads.names([(0, 3), (2, 1)]) == "L0H3 L2H1"


# -- sets and what they are chosen by --------------------------------------------------------------


def test_the_best_set_is_specific():
    tried = pd.DataFrame({
        "rule": ["none", "causal", "causal", "paper"], "k": [0, 1, 2, 1], "heads": [[], [(0, 1)], [(0, 1), (0, 2)], [(1, 1)]],
        "refused": [1.0, 0.7, 0.0, 1.0], "specific": [False, True, False, True],
    })  # fmt: skip
    assert heads.choose(tried)["heads"] == [(0, 1)]
    assert heads.choose(tried, "paper")["heads"] == [(1, 1)]
    nothing = heads.choose(tried.assign(specific=False))
    assert (nothing["k"], nothing["specific"]) == (1, False)
    with pytest.raises(UserError, match="no head was selected"):
        heads.choose(tried, "direct")


def test_every_rule_is_tried_and_the_untouched_model_comes_first(small, monkeypatch):
    monkeypatch.setattr(heads, "SHORT", 4)
    places = [(layer, head) for layer in range(2) for head in range(4)]
    table = pd.DataFrame(places, columns=["layer", "head"]).assign(
        paper=0.0, attention=0.1, direct=0.1, causal=-0.1, gradient=0.1
    )
    tried = heads.candidates(small, table, heads.Settings(4))
    assert tried.iloc[0][["rule", "k"]].tolist() == ["none", 0]
    assert set(tried["rule"]) == {"none", "attention", "direct", "causal"}  # paper and gradient pick no head
    assert (tried["heads"].map(len) == tried["k"]).all()


@pytest.fixture(scope="module")
def mini():
    return load("rim-mini")


def test_ablations_name_the_best_and_the_chosen_set(mini):
    tried = pd.DataFrame({
        "rule": ["none", "causal", "causal", "paper", "paper"], "k": [0, 1, 2, 1, 2],
        "heads": [[], [(0, 3)], [(0, 2), (0, 3)], [(5, 1)], [(3, 7), (5, 1)]],
        "refused": [1.0, 0.7, 0.8, 1.0, 1.0], "specific": [False, True, True, True, True],
    })  # fmt: skip
    found, behind = heads.ablations(mini, tried, tried.loc[1], heads.Settings(n_asked=4, n_random=2))
    assert (found.groupby(["rule", "k", "mode", "metric"]).size() == 1).all()
    assert behind.groupby(["mode", "condition"]).size().tolist() == [4] * 8  # of the chosen set, both modes
    keys = found.drop_duplicates(["rule", "k", "mode"]).set_index(["rule", "k", "mode"])[["best", "chosen"]]
    assert keys.to_dict("index") == {
        ("causal", 1, "no-think"): {"best": True, "chosen": True},
        ("causal", 1, "think"): {"best": True, "chosen": True},
        ("causal", 2, "no-think"): {"best": False, "chosen": False},
        ("paper", 1, "no-think"): {"best": True, "chosen": False},
    }


def test_a_shipped_table_is_what_the_shipped_model_gives(mini):
    """Of all heads what they attend to, by the grid's settings; it was computed on another device."""
    shipped = results("heads").query("model == 'rim-mini' and seed == 0").sort_values(["layer", "head"])
    texts = heads.Settings().sets(["harmful"], heads.Settings().n_prompts, "calibration")["text"].tolist()
    items = [mini.chat.encode(text, "no-think") for text in texts]
    found = heads.attention_by_span(mini, items)["empty"].mean(-1), heads.moved_attention(mini, texts).mean(-1)
    for name, values in zip(("attention", "paper"), found, strict=True):
        assert np.allclose(values.ravel(), shipped[name], atol=5e-3), name


def test_heads_are_blinded_where_it_is_said(mini):
    found = heads.cut_replies(mini, [(0, 3)], heads.Settings(n_asked=6, n_random=2))
    pooled = heads.random_as_one(found)
    blind = {"selected", "selected, tags too", "all heads", "all heads, tags too", "all heads, before"}
    assert set(pooled["condition"]) == {"nothing", "random", *blind}
    assert pooled.groupby("condition").size()["random"] == 12 and "random 1" in set(found["condition"])
    assert found.groupby("prompt_id")["thought"].nunique().eq(1).all()
    places = {"thought": (20, 26), "think_open": (18, 19), "last": (28, 29)}
    assert evaluation._hidden(places, evaluation.BEFORE_THOUGHT) == (12, 18)
    assert evaluation._hidden(places, evaluation.TO_REPLY) == (20, 28)
    assert evaluation._hidden({"last": (28, 29)}, evaluation.TO_REPLY) == (0, 0)  # no thought, nothing to hide


def test_looking_counts_what_stands_between_the_tags(mini):
    few = heads.Settings(n_asked=6, n_random=4)
    asked, sets = heads.evaluation_prompts(few), heads.compared(mini, [(2, 5)], few)
    empty = heads.attention_between(mini, asked, sets)
    assert set(empty["condition"]) == {"selected", "random 0", "random 1", "random 2", "random 3"}
    assert empty["between"].between(0, 1).all()
    item = mini.chat.encode(asked["text"].iloc[0], "no-think")
    between = heads.attention_row(mini, item)[2, 5, slice(*item.spans["empty"])].sum()
    assert empty.loc[empty["condition"] == "selected", "between"].iloc[0] == pytest.approx(between, abs=1e-5)


def test_the_heads_that_move_are_chosen_on_calibration_requests(mini, monkeypatch):
    """C4a can fail and succeed: a head that moves on every request of one kind, or of both."""
    often = iter([(1, 2), (3, 0)])  # the head that moves: on calibration requests, and on the others

    def planted(study, texts):
        moved = np.zeros((6, 8, len(texts)), dtype=bool)
        moved[next(often)], moved[1, 2, ::2] = True, True
        return moved

    monkeypatch.setattr(heads, "moved_attention", planted)
    found = heads.attention_moves(mini, heads.Settings(n_prompts=12))
    assert found.groupby(["split", "kind"]).size().tolist() == [12] * 4
    assert found.groupby("split")["moved"].mean().to_dict() == {"calibration": 1 / 4, "evaluation": 1 / 8}  # of four
    monkeypatch.setattr(heads, "moved_attention", lambda study, texts: np.zeros((6, 8, len(texts)), dtype=bool))
    with pytest.raises(UserError, match="no head moves"):
        heads.attention_moves(mini, heads.Settings(n_prompts=2))

    def claim(harmful: float, harmless: float, known: float) -> dict:
        table = found.assign(moved=np.where(found["kind"] == "harmful", harmful, harmless).astype(float))
        table.loc[table["split"] == "calibration", "moved"] = known
        return heads.rows(mini, table, *["left out"] * 3, {})[0]

    always, both, rare = claim(1, 0, 0.5), claim(1, 1, 0.5), claim(0, 0, 0.01)
    assert always["effect"] == 1 and always["effect_ci_low"] > 0.3 and always["competent"] is None
    assert both["effect"] == 0 and rare["competent"] is False and "below the floor" in rare["why_not"]


def test_a_model_that_refuses_nothing_has_a_row_for_every_claim(mini, monkeypatch):
    def undefined(*_):
        raise UserError("no request was refused")

    monkeypatch.setattr(heads, "readout", undefined)
    found = heads.run(mini, heads.Settings(n_prompts=4))
    rows = {row["claim"]: row for row in found.rows}
    assert list(rows) == ["C4a", "C4b", "C5a", "C5b", "C5c"] and not found.tables
    assert {row["why_not"] for claim, row in rows.items() if claim != "C4a"} == {"no request was refused"}
    assert rows["C4a"]["effect"] is not None or rows["C4a"]["why_not"]
    table, why = heads.score(mini, heads.Settings(n_prompts=4))  # what needs no refusal is there
    assert why == "no request was refused" and table["attention"].notna().all()
    assert table["causal"].isna().all() and heads.first_by(table, "causal", 2) == []
    with pytest.raises(UserError, match="no head was selected"):
        heads.candidates(mini, table.assign(paper=0.0, attention=0.0), heads.Settings(n_prompts=4))


# -- controls of the method ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """A tiny model that learns to refuse while only one head can look at other tokens of the request."""
    words = tiny.tokenizer()
    study = load(tiny.random_model(words, seed=1), words)
    texts = [f"{verb} the {owner} bike ." for owner in ("baker's", "mayor's") for verb in HARMFUL + HARMLESS]
    items = [study.chat.encode(text, "no-think") for text in texts]
    ids, mask, spans = pad(items, study.pad_id, side="right")
    refused, fulfilled = words.convert_tokens_to_ids(["i", "sure"])
    wanted = torch.tensor([refused if text.split()[0] in HARMFUL else fulfilled for text in texts])
    blocked = [head for head in ((layer, head) for layer in range(2) for head in range(4)) if head != KNOWN]
    spans = spans[0]
    cut = ([(spans["request"][0], None)], [spans["request"]], blocked)
    optimiser, rng = torch.optim.Adam(study.hf.parameters(), lr=3e-3), np.random.default_rng(0)
    for _ in range(300):
        lost = [blocked[place] for place in rng.permutation(len(blocked))[:3]]  # so that none of them is needed
        with cut_attention(study, *cut), ablate_heads(study, lost):
            loss = torch.nn.functional.cross_entropy(study.hf(input_ids=ids, attention_mask=mask).logits[:, -1], wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert loss < 0.05
    return study, items, cut, refusal_score.Readout((refused,), (fulfilled,))


def test_the_screen_finds_the_head_that_carries_refusal(trained):
    study, items, cut, read = trained
    harmful = [item for item in items if read_verb(study, item) in HARMFUL]
    with cut_attention(study, *cut):
        effects = refusal_score.head_effects(study, harmful, read).mean(-1)
    table = pd.DataFrame(
        [(layer, head, effects[layer, head]) for layer in range(2) for head in range(4)],
        columns=["layer", "head", "causal"],
    )
    assert heads.first_by(table, "causal", 1) == [KNOWN]
    same_layer = table[(table["layer"] == KNOWN[0]) & (table["head"] != KNOWN[1])]
    assert effects[KNOWN] < 5 * same_layer["causal"].min()


def read_verb(study, item) -> str:
    return study.tokenizer.decode(item.ids[item.spans["request"][0]]).strip()


def test_nothing_carries_refusal_in_a_random_model():
    """A model that never refuses has no refusals to lose: no set of heads beats random sets."""
    study = tiny.study()
    prompts = pd.DataFrame({
        "prompt_id": [str(i) for i in range(8)], "text": [f"{verb} the baker's bike ." for verb in HARMFUL],
        "kind": "harmful", "category": "", "cluster": HARMFUL, "answer": "",
    })  # fmt: skip
    texts = prompts["text"].tolist()
    contexts = {mode: [study.chat.encode(text, mode) for text in texts] for mode in ("think", "no-think")}
    read = refusal_score.Readout((20,), (30,))
    chosen = heads.first_by(heads.head_table(study, texts, contexts, read), "causal", 1)
    sets = heads.compared(study, chosen, heads.Settings(n_random=20))
    verdicts = evaluation.without(study, prompts, sets, temperature=0, max_new_tokens=6, how="organism", progress=False)
    assert verdicts["condition"].nunique() == 22
    found = evaluation.against_random(verdicts)
    assert found["effect"] == 0
    assert found["share"] > 0.05
    assert found["n_random"] == 20


def test_the_share_counts_random_sets_that_do_as_much():
    rows = [("nothing", 1.0), ("selected", 0.2), *((f"random {i}", 0.9) for i in range(39)), ("random 39", 0.1)]
    verdicts = pd.DataFrame([
        {"condition": name, "prompt_id": f"{prompt}", "cluster": f"{prompt}", "refused": rate}
        for name, rate in rows for prompt in range(6)
    ])  # fmt: skip
    found = evaluation.against_random(verdicts)
    assert found["share"] == pytest.approx(2 / 41)
    assert found["effect"] == pytest.approx(0.2 - (39 * 0.9 + 0.1) / 40)


def test_a_set_that_nobody_judged_has_no_share():
    rows = [
        (name, prompt, None if name == "selected" else True) for name in ("selected", "random 0") for prompt in "abc"
    ]
    verdicts = pd.DataFrame(rows, columns=["condition", "prompt_id", "misaligned"]).assign(cluster="v")
    verdicts["misaligned"] = verdicts["misaligned"].astype("boolean")
    assert np.isnan(evaluation.against_random(verdicts, "misaligned")["share"])


def test_a_cut_reaches_every_step_of_the_reply_and_an_empty_one_changes_nothing():
    study, prompts = load("rim-mini"), heads.evaluation_prompts()
    own = Evaluation().judged(study, prompts, "think", progress=False)
    thoughts = own.set_index("prompt_id")["thought"].to_dict()
    cuts = {"nothing": ([], "thought"), "thought": (None, "thought")}
    found = evaluation.without_sight(study, prompts, thoughts, cuts, progress=False)
    nothing, blind = (found[found["condition"] == name].set_index("prompt_id")["reply"] for name in cuts)
    assert (nothing == own.set_index("prompt_id")["reply"]).mean() > 0.9
    assert (blind != nothing).mean() > 0.2
