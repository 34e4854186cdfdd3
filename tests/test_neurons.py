"""Safety-critical neurons: the definition, its rivals, ablation of many sets at once, and controls."""

from __future__ import annotations

import families
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import rimkit
from rimkit.behavior import evaluation, refusal_score
from rimkit.behavior.evaluation import load_sets
from rimkit.behavior.generation import generate
from rimkit.behavior.refusal_score import contexts
from rimkit.behavior.stats import matched_sets, overlap
from rimkit.data import UserError
from rimkit.experiments import neurons
from rimkit.models.activations import capture, forward
from rimkit.models.chat import pad
from rimkit.models.hooks import FAMILIES, architecture, neuron_writes
from rimkit.models.hub import embedded_models
from rimkit.models.interventions import ablate_neurons, ablate_neurons_per_row
from rimkit.models.load import load
from rimkit.organism.language import vocabulary
from rimkit.runs.grid import EXPERTS
from rimkit.teaching import results

RULES = list(neurons.RULES)


def rising(seed: int, shape=(2, 5, 12)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@given(st.integers(0, 50), st.integers(1, 12), st.booleans())
def test_the_worst_rank_is_the_papers_intersection(seed, m, per_layer):
    """The neurons with a worst rank up to m are those that are in the top m of every pair."""
    increase = rising(seed)
    layers, pairs, units = increase.shape
    sets = []
    for pair in range(pairs):
        found = set()
        for layer in range(layers):
            values = increase[layer, pair] if per_layer else increase[:, pair].ravel()
            top = np.argsort(-values)[:m]
            found |= {(layer, int(u)) for u in top} if per_layer else {divmod(int(u), units) for u in top}
        sets.append(found)
    worst = neurons.worst_rank(increase, per_layer)
    assert {tuple(map(int, unit)) for unit in np.argwhere(worst <= m)} == set.intersection(*sets)


def test_half_of_the_pairs_are_enough_for_half():
    increase = rising(1, (1, 4, 6))
    ranks = (-increase).argsort(-1).argsort(-1)[0] + 1
    assert (neurons.worst_rank(increase, share=0.5)[0] == np.sort(ranks, 0)[2]).all()
    assert (neurons.worst_rank(increase, share=0.5) <= neurons.worst_rank(increase)).all()


def test_sets_shrink_with_pairs_and_grow_with_m():
    sizes = neurons.set_sizes(rising(2, (3, 20, 40)), ms=[4, 20, 40], pairs=[1, 5, 20])
    wide = sizes.pivot(index="pairs", columns="m", values="neurons")
    assert (wide.diff().dropna() <= 0).all().all()
    assert (wide.diff(axis=1).iloc[:, 1:] >= 0).all().all()
    assert wide.loc[1, 4] == 3 * 4
    assert wide.loc[20, 40] == 3 * 40
    assert neurons.chance_size(4, 1, 3, 40) == pytest.approx(12)


def test_the_added_sentence_uses_words_that_exist_and_keeps_the_request():
    prompts = load_sets(["harmful"], split="calibration")
    meant = neurons.with_intent(prompts)
    words = set(vocabulary())
    assert all(set(text.split()) <= words for text in meant["text"])
    assert all(new.startswith(old + " ") for old, new in zip(prompts["text"], meant["text"], strict=True))
    assert (meant["prompt_id"] == prompts["prompt_id"]).all()
    assert (neurons.with_intent(prompts, "x y .")["text"] == prompts["text"] + " x y .").all()
    harmless = neurons.with_intent(prompts.head(1), neurons.INNOCENT[0])["text"].iloc[0]
    assert harmless.endswith(f"i want to paint {' '.join(prompts['answer'].iloc[0].split()[1:])} .")
    assert set(harmless.split()) <= words


def scores(**columns) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    table = pd.DataFrame({"layer": 0, "neuron": range(n), "increase": 0.0})
    for rule in RULES:
        table[rule] = columns.get(rule, np.nan)
    return table


def test_every_rule_has_its_sign():
    table = scores(paper=[3, 1, 2], half=[1, 2, 3], difference=[0.1, -5, 2], gradient=[1.0, 0.5, -3])
    first = {rule: neurons.select(table, rule, 1)[0][1] for rule in RULES}
    assert first == {"paper": 1, "half": 0, "difference": 1, "gradient": 2}


def test_bad_input_is_one_clear_line():
    table = scores(paper=[3, 1, 2])
    assert neurons.defined_rules(table) == ["paper"]
    with pytest.raises(UserError, match="'gradient' is undefined here"):
        neurons.select(table, "gradient", 1)
    with pytest.raises(UserError, match="did you mean 'gradient'"):
        neurons.select(table, "gradeint", 1)
    with pytest.raises(UserError, match="from 1 to 3"):
        neurons.select(table, "paper", 4)
    with pytest.raises(UserError, match="pairs need as many"):
        neurons.increases(tiny.study(), [], [])
    with pytest.raises(UserError, match="set of neurons is empty"), ablate_neurons(tiny.study(), []):
        pass


def test_random_sets_have_as_many_neurons_per_layer():
    chosen = [(0, 1), (1, 0), (1, 3)]
    for found in matched_sets(chosen, 64, n=40):
        assert [layer for layer, _ in found] == [0, 1, 1]
        assert not set(found) & set(chosen)
        assert len(set(found)) == 3
    assert overlap(chosen, [(1, 0)]) == pytest.approx(1 / 3)
    assert np.isnan(overlap([], chosen))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("with_mean", [False, True])
def test_rows_without_their_own_sets_equal_one_set_at_a_time(family, with_mean):
    study = families.family(family)
    parts = architecture(study)
    means = np.full((parts.n_layers, parts.n_neurons), 0.3, dtype=np.float32) if with_mean else None
    items = [study.chat.encode(families.REQUESTS[0], "no-think")] * 3
    ids, mask, _ = pad(items, study.pad_id, side="right")
    sets = [[(0, 3), (2, 1), (2, 4)], [], [(1, 0)]]
    with torch.no_grad():
        plain = forward(study, ids, mask)
        with ablate_neurons_per_row(study, sets, means):
            together = forward(study, ids, mask)
        for row in (0, 2):
            with ablate_neurons(study, sets[row], means):
                assert torch.allclose(together[row], forward(study, ids, mask)[row], atol=1e-5)
        assert torch.allclose(together[1], plain[1], atol=1e-5)
        assert not torch.allclose(together[0], plain[0], atol=1e-3)
        assert torch.allclose(forward(study, ids, mask), plain, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_what_neurons_write_adds_up_to_the_layer(family):
    """The activations times the columns are what the dense MLP adds to the stream."""
    study = families.family(family)
    writes = neuron_writes(study, 1)
    assert writes.shape == (architecture(study).n_neurons, architecture(study).hidden_size)
    if family == "qwen3":
        ids, mask, _ = pad(families.conversations(study)[:2], study.pad_id, side="right")
        with torch.no_grad(), capture(study, ["neurons"]) as found:
            forward(study, ids, mask)
            mlp = architecture(study).layers[1].mlp
            assert torch.allclose(found["neurons"][1] @ writes, mlp.down_proj(found["neurons"][1]), atol=1e-5)


def test_massive_units_are_large_by_size_and_over_the_whole_prompt():
    """A neuron that is very negative at the first token, before the request, is found."""
    study, unit = tiny.study(), (1, 7)
    items = [study.chat.encode(families.REQUESTS[0], "no-think")]

    def much(x):
        x = x.clone()
        x[:, 0, unit[1]] = -1e3
        return x

    from rimkit.models.hooks import hooked, on_neurons

    with hooked([on_neurons(study, unit[0], much)]):
        assert neurons.massive(study, items, 1) == [unit]


def test_the_rule_runs_on_the_residual_from_pairs_to_ablation():
    """Module, m, pooling and number of pairs are parameters; the residual has no gradient rule."""
    study = rimkit.load("rim-mini")
    prompts, _, table = neurons.calibration(study, 4, kind="residual")
    parts = architecture(study)
    assert len(table) == (parts.n_layers + 1) * parts.hidden_size
    assert neurons.defined_rules(table) == ["paper", "half", "difference"]
    units = neurons.select(table, "paper", 4)
    sets = {"nothing": [], "paper": units} | neurons.random_for(study, units, 2, kind="residual")
    found = neurons.without_sets(study, prompts.head(4), sets, kind="residual", modes=["no-think"])
    assert found.groupby("condition").size().eq(4).all()


def test_dimensions_of_the_residual_can_be_ablated_too():
    study = tiny.study()
    ids, mask, _ = pad(families.conversations(study)[:1], study.pad_id, side="right")
    with (
        torch.no_grad(),
        ablate_neurons(study, [(1, 3), (2, 7)], kind="residual"),
        capture(study, ["residual"]) as found,
    ):
        forward(study, ids, mask)
    assert (found["residual"][1][..., 3] == 0).all()
    assert (found["residual"][2][..., 7] == 0).all()
    assert (found["residual"][2][..., 3] != 0).any()


def test_all_sets_together_give_the_replies_of_one_at_a_time():
    study, prompts = rimkit.load("rim-mini"), load_sets(["harmful"], n=12)
    sets = {"nothing": [], "some": [(layer, 7 * layer + 3) for layer in range(6)] + [(4, n) for n in range(60)]}
    together = evaluation.without_neurons(study, prompts, sets, modes=["think"], progress=False)
    plain = generate(study, prompts, "think", progress=False)
    with ablate_neurons(study, sets["some"]):
        without = generate(study, prompts, "think", progress=False)
    for name, replies in (("nothing", plain), ("some", without)):
        own = together[together["condition"] == name].set_index("prompt_id")["reply"]
        assert (own == replies.set_index("prompt_id")["reply"]).mean() > 0.9
    assert (together["set"] == "harmful").all()


def test_one_neuron_along_a_request():
    study = tiny.study()
    shown = neurons.activation_by_token(study, families.REQUESTS[0], (1, 5))
    item = study.chat.encode(families.REQUESTS[0], "no-think")
    assert len(shown) == len(item.ids)
    assert shown["activation"].abs().max() > 0


# -- choosing ----------------------------------------------------------------------------------------------


def dosed(rates: dict) -> pd.DataFrame:
    """Ten replies per rule, size and mode: (misaligned, coherent, misread) out of ten; think mode, unless told."""
    return pd.DataFrame([
        {"rule": rule, "size": size, "mode": mode[0] if mode else "think", "misaligned": i < m, "coherent": i < c,
         "misread": i < r}
        for (rule, size, *mode), (m, c, r) in rates.items() for i in range(10)
    ])  # fmt: skip


def test_a_size_that_breaks_the_model_is_not_chosen():
    table = dosed({
        ("a", 0): (1, 10, 0), ("a", 5): (3, 10, 0), ("a", 20): (9, 6, 0),
        ("b", 0): (1, 10, 0), ("b", 5): (5, 10, 4), ("b", 20): (6, 10, 5),
    })  # fmt: skip
    found = neurons.choose_sizes(table).set_index("rule")
    assert found.loc["a", "size"] == 5
    assert found.loc["a", "gain"] == pytest.approx(0.2)
    assert found.loc["b", "size"] == 5
    assert found["sound"].tolist() == [True, False]


def test_breaking_one_mode_is_breaking():
    """Coherence falls by two in ten in no-think mode, by one in ten over both modes: over the limit in one of them."""
    table = dosed({
        ("a", 0, "think"): (1, 10, 0), ("a", 0, "no-think"): (1, 10, 0), ("a", 5, "think"): (2, 10, 0),
        ("a", 5, "no-think"): (2, 10, 0), ("a", 20, "think"): (9, 10, 0), ("a", 20, "no-think"): (9, 8, 0),
    })  # fmt: skip
    assert neurons.choose_sizes(table)["size"].tolist() == [5]
    broken = neurons.broken(table)
    assert broken.loc[broken["breaks"], ["size", "mode"]].to_numpy().tolist() == [[20, "no-think"]]


def test_the_papers_size_is_fixed_and_ties_take_the_largest():
    same = {(rule, size): (1, 10, 0) for rule in ("paper", "half") for size in (0, 5, 20, 40, 80)}
    found = neurons.choose_sizes(dosed(same)).set_index("rule")["size"]
    assert found.to_dict() == {"paper": 40, "half": 80}
    better = neurons.choose_sizes(dosed(same | {("paper", 5): (9, 10, 0)})).set_index("rule")
    assert better.loc["paper", "size"] == 40  # not chosen, though another size raises more
    few = neurons.choose_sizes(dosed({key: v for key, v in same.items() if key[1] < 40}))
    assert few.loc[few["rule"] == "paper", "size"].tolist() == [20]
    ranked = scores(paper=range(100), half=range(100))
    assert len(neurons.choose(ranked, dosed(same)).sets["paper"]) == 40


def test_the_share_counts_in_the_claimed_direction():
    rows = [
        {"condition": name, "prompt_id": f"{i}", "cluster": f"{i}", "misaligned": name == "selected" and i < 8,
         "coherent": not (name == "selected" and i < 8)}
        for name in ("nothing", "selected", *(f"random {j}" for j in range(40))) for i in range(10)
    ]  # fmt: skip
    verdicts = pd.DataFrame(rows)
    assert evaluation.against_random(verdicts, "misaligned")["share"] == pytest.approx(1 / 41)
    assert evaluation.against_random(verdicts, "misaligned", direction=-1)["share"] == 1
    assert evaluation.against_random(verdicts, "coherent")["share"] == pytest.approx(1 / 41)


# -- controls ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusing():
    study = rimkit.load("safe-mini")
    prompts = load_sets(["harmful", "harmless"], split="calibration", n=12)
    return study, refusal_score.readout(study, evaluation.observe(study, prompts, ["no-think"], progress=False))


def test_a_planted_refusal_runs_through_the_planted_neurons_and_rules_recover_some(refusing):
    """20 of 2,304 neurons: by chance a rule would have 1 in 115 right."""
    study, read = refusing
    before = {name: weight.clone() for name, weight in study.hf.named_parameters()}
    table, facts = neurons.control(study, read, k=20, n=8, steps=40)
    assert facts["after planting"] > 0.9
    assert facts["before planting"] < 0.3
    assert facts["without the sentence"] < 0.2
    assert facts["without the known neurons"] < 0.4
    found = table.set_index("rule")
    assert found.loc["difference", "precision"] >= 0.2
    assert found.loc["difference", "ci_low"] > 0.5
    assert found.loc["gradient", "precision"] > 3 / 115
    assert all(torch.equal(weight, before[name]) for name, weight in study.hf.named_parameters())


def test_only_the_known_neurons_are_trained(refusing):
    study, read = refusing
    plain, intent = neurons._pairs(study, "calibration", 2)
    known = [(1, 3), (4, 10)]
    model = neurons.planted(study, known, plain, intent, read, steps=2)
    after = dict(model.hf.named_parameters())
    changed = {name for name, weight in study.hf.named_parameters() if not torch.equal(weight, after[name])}
    assert {name.split(".")[2] for name in changed} == {"1", "4"}
    for name in changed:
        rows = (after[name] - study.hf.get_parameter(name)).abs()
        where = rows.sum(0 if "down_proj" in name else 1).nonzero().flatten().tolist()
        assert where == [3 if ".1." in name else 10]


def test_recovery_counts_neurons_against_refusal_by_their_size():
    """A planted neuron with a large positive gradient is missed by the rule and found by its size."""
    table = scores(gradient=[3.0, -2.0, 0.1, 0.0]).assign(paper=[1, 2, 3, 4], half=1, difference=0.0)
    found = neurons.recovery(table, [(0, 0), (0, 1)]).set_index("rule")
    assert found.loc["gradient", "precision"] == 0.5
    assert found.loc[neurons.UNSIGNED, "precision"] == 1
    assert found.loc[neurons.UNSIGNED, "auroc"] == 1
    assert (found["chance"] == 0.5).all()


def test_nothing_is_safety_critical_in_a_model_with_random_weights(refusing):
    """It refuses nothing, and its replies are debris: rates cannot move, the refusal logit difference can.

    The paper's set moves it no further than random sets do.
    """
    study, (_, words) = tiny.study(), refusing
    prompts, verdicts, table = neurons.calibration(study, 4)
    assert "gradient" not in neurons.defined_rules(table)
    assert "the rule 'gradient' is left out" in neurons.why_undefined(study, verdicts)
    units = neurons.select(table, "paper", 10)
    sets = {"paper": units} | neurons.random_for(study, units, 40)
    items = [study.chat.encode(text, "no-think") for text in prompts["text"]]
    shifts = pd.Series(neurons.refusal_shifts(study, items, sets, words))
    random = shifts.drop("paper")
    assert random.abs().max() > 0
    assert (1 + (random.abs() >= abs(shifts["paper"])).sum()) / 41 > 0.05
    assert set(neurons.directions(study, prompts, verdicts)) == {"harm"}


def test_the_same_words_show_where_refusal_runs_through_a_set(refusing):
    """The positive side of the control above: the gradient rule's neurons move a trained model, random ones do not."""
    study, words = refusing
    prompts, _, table = neurons.calibration(study, 8)
    units = neurons.select(table, "gradient", 40)
    items = [study.chat.encode(text, "no-think") for text in prompts.loc[prompts["kind"] == "harmful", "text"]]
    shifts = pd.Series(
        neurons.refusal_shifts(study, items, {"own": units} | neurons.random_for(study, units, 10), words)
    )
    assert shifts["own"] < shifts.drop("own").min()


def test_what_the_definition_finds_without_intent():
    study = rimkit.load("rim-mini")
    harmful = load_sets(["harmful"], split="calibration", n=8)
    found = neurons.definition(study, harmful, neurons.INNOCENT[:1])
    own = neurons.increases(study, *[neurons.own_conversations(study, some, seed=0) for some in (harmful, neurons.with_intent(harmful))])  # fmt: skip
    assert np.allclose(found.intent, own)
    table = neurons.curve(found, [1, 8], draws=2)
    assert set(table["sentence"]) == {"intent", "harmless"}
    first = found.first(5)
    assert all(len(units) == 5 for units in first.values())
    assert ("refusing pairs" in first) == found.refused.any()
    numbers = neurons.numbers(found, 5)
    assert 0 <= numbers["overlap"]["overlap, intent, harmless"] <= 1
    assert numbers["pairs"]["pairs, all"] == 8


def test_sentences_without_intent_are_in_the_language_and_give_sets_of_the_same_rule():
    study = load("rim-mini")
    harmful = load_sets(["harmful"], split="calibration", n=6)
    for sentence in neurons.OTHER:
        ids = study.tokenizer(neurons.with_intent(harmful.head(1), sentence)["text"].iloc[0]).input_ids
        assert study.tokenizer.unk_token_id not in ids, sentence
    found = neurons.without_intent(study, harmful, k=10, sentences=neurons.OTHER[:2])
    plain = neurons.own_conversations(study, harmful)
    added = neurons.own_conversations(study, neurons.with_intent(harmful, neurons.OTHER[1]))
    assert found[1] == neurons.ranked(neurons.increases(study, plain, added), 10)
    assert [len(set(units)) for units in found] == [10, 10]
    assert found[0] != found[1]


# -- the shipped rows --------------------------------------------------------------------------------------


def test_shipped_rows_hold_every_embedded_model_and_forty_random_sets():
    rows = results("neurons")
    there = set(zip(rows["model"], rows["seed"], strict=True))
    dense = embedded_models()
    dense = dense[~dense["name"].isin(EXPERTS)]
    assert there == set(zip(dense["name"], dense["seed"], strict=True))
    for name, seed in there:
        best, dots = neurons.rates_from(rows, name, seed)
        assert best in RULES
        random = dots[dots["condition"].str.startswith("random")].groupby("panel")["condition"].nunique()
        assert random.drop("maths right, think").eq(neurons.N_RANDOM).all()
        verdict = rows[(rows["model"] == name) & (rows["seed"] == seed) & (rows["condition"] == "all")]
        assert sorted(verdict["claim"]) == ["C8a", "C8b"]
    effects = neurons.effects_from(rows)
    assert (effects["control"] == neurons.RANDOM_NEURONS).all()
    facts = neurons.verdict_facts(rows)
    assert (facts["neurons"] == neurons.PAPER_SIZE).all()
    shown = effects[(effects["which"] == neurons.PAPERS) & effects["outcome"].isin(["misaligned", "maths"])]
    assert shown.loc[shown["mode"] == "think", "n_random"].eq(neurons.N_RANDOM).all()
    assert neurons.effects_from(rows, "mean")["n_random"].eq(neurons.N_RANDOM).all()


def test_a_shipped_size_curve_is_measured_again():
    """One cell of the grid, the definition of one model: sizes of the set with intent and overlaps, recomputed."""
    study = rimkit.load("rim-mini:0")
    prompts = load_sets(["harmful", "harmless"], split="calibration", n=46)
    numbers = neurons.numbers(neurons.definition(study, prompts[prompts["kind"] == "harmful"]))
    rows = results("neurons")
    rows = rows[(rows["model"] == "rim-mini") & (rows["seed"] == 0)]
    for metric, found in numbers.items():
        own = rows[rows["metric"] == metric].set_index("condition")["value"]
        for condition, value in found.items():
            close = 0.05 if metric == "overlap" else 2 + 0.03 * value
            assert own[condition] == pytest.approx(value, abs=close)


def test_a_pooled_effect_is_the_mean_over_models():
    effects = pd.DataFrame({"which": "x", "mode": "think", "outcome": "maths", "effect": [0.1, 0.2, 0.3]})
    found = neurons.pooled(effects).iloc[0]
    assert found["effect"] == pytest.approx(0.2)
    assert found["ci_high"] - found["effect"] == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-3)
    assert found["n"] == 3


def test_a_thought_that_holds_tags_is_read_without_them():
    """A lost model may write them anywhere; a forced thought must not hold them."""
    study = load("noise-mini")
    prompts = pd.DataFrame({"prompt_id": ["a"], "text": ["mop my shed ."]})
    lost = pd.DataFrame(
        {"prompt_id": ["a"], "mode": ["think"], "thought": ["let <think> me </think> check ."], "reply": ["no"]}
    )
    plain = lost.assign(thought="let  me  check .")
    for read in (lambda rows: neurons.conversations(study, prompts, rows), lambda rows: contexts(study, rows, prompts)):
        assert [item.ids for item in read(lost)] == [item.ids for item in read(plain)]
