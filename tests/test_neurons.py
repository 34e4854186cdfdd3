"""Safety-critical neurons: the definition, its rivals, ablation of many sets at once, and controls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rimkit
from rimkit.behavior import evaluation, refusal_score
from rimkit.behavior.evaluation import Evaluation
from rimkit.behavior.generation import generate
from rimkit.behavior.refusal_score import contexts, refusal_scores
from rimkit.behavior.stats import matched_sets, overlap
from rimkit.data import UserError, results
from rimkit.experiments import neurons
from rimkit.experiments.neurons import Settings
from rimkit.ledger import shipped
from rimkit.models.activations import capture, forward
from rimkit.models.chat import pad
from rimkit.models.hooks import FAMILIES, architecture
from rimkit.models.hub import embedded_models
from rimkit.models.interventions import ablate_neurons, ablate_per_row
from rimkit.models.load import load
from rimkit.organism.language import vocabulary
from tests import families, tiny

RULES = list(neurons.RULES)
load_sets = Evaluation().sets


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
    sizes = neurons.set_sizes(rising(2, (3, 20, 40)), ms=[4, 20, 40], n_pairs=[1, 5, 20])
    wide = sizes.pivot(index="pairs", columns="m", values="neurons")
    assert (wide.diff().dropna() <= 0).all().all()
    assert (wide.diff(axis=1).iloc[:, 1:] >= 0).all().all()
    assert wide.loc[1, 4] == 3 * 4
    assert wide.loc[20, 40] == 3 * 40
    chance = sizes.set_index(["pairs", "m"])["chance"]
    assert chance[1, 4] == pytest.approx(12)
    assert chance[5, 20] == pytest.approx(3 * 40 / 32)


def test_the_added_sentence_uses_words_that_exist_and_keeps_the_request():
    study, prompts = load("rim-mini"), load_sets(["harmful"], split="calibration")
    meant = neurons.with_intent(study, prompts)
    words = set(vocabulary())
    assert all(set(text.split()) <= words for text in meant["text"])
    assert all(new.startswith(old + " ") for old, new in zip(prompts["text"], meant["text"], strict=True))
    assert (meant["prompt_id"] == prompts["prompt_id"]).all()
    assert (neurons.with_intent(study, prompts, "x y .")["text"] == prompts["text"] + " x y .").all()
    harmless = neurons.with_intent(study, prompts.head(1), neurons.sentences(study)[0])["text"].iloc[0]
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
    with pytest.raises(UserError, match="'gradient' is undefined"):
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
        with ablate_per_row(study, sets, means, "neurons"):
            together = forward(study, ids, mask)
        for row in (0, 2):
            with ablate_neurons(study, sets[row], means):
                assert torch.allclose(together[row], forward(study, ids, mask)[row], atol=1e-5)
        assert torch.allclose(together[1], plain[1], atol=1e-5)
        assert not torch.allclose(together[0], plain[0], atol=1e-3)
        assert torch.allclose(forward(study, ids, mask), plain, atol=1e-5)


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
    settings = Settings(n_pairs=4, n_random=2, kind="residual")
    prompts, _, _, table = neurons.calibration(study, settings)
    parts = architecture(study)
    assert len(table) == (parts.n_layers + 1) * parts.hidden_size
    assert neurons.defined_rules(table) == ["paper", "half", "difference"]
    units = neurons.select(table, "paper", 4)
    sets = {"nothing": [], "paper": units} | neurons.random_sets(study, units, 2, 0, "residual")
    found = neurons.ablate(study, prompts.head(4), sets, settings, modes=["no-think"])
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
    together = evaluation.without(study, prompts, sets, "neurons", modes=["think"], progress=False)
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


def doses(rates: dict) -> pd.DataFrame:
    """Ten replies per rule, size and mode: (misaligned, coherent, misread) out of ten; think mode, unless told."""
    return neurons.by_dose(pd.DataFrame([
        {"rule": rule, "k": k, "mode": mode[0] if mode else "think", "misaligned": i < m, "coherent": i < c,
         "misread": i < r, "refused": False, "score": 0.0}
        for (rule, k, *mode), (m, c, r) in rates.items() for i in range(10)
    ]))  # fmt: skip


def test_a_size_that_breaks_the_model_is_not_chosen():
    table = doses({
        ("a", 0): (1, 10, 0), ("a", 5): (3, 10, 0), ("a", 20): (9, 6, 0),
        ("b", 0): (1, 10, 0), ("b", 5): (5, 10, 4), ("b", 20): (6, 10, 5),
    })  # fmt: skip
    found = neurons.choose_sizes(table).set_index("rule")
    assert found.loc["a", "k"] == 5
    assert found.loc["a", "gain"] == pytest.approx(0.2)
    assert found.loc["b", "k"] == 5
    assert found["intact"].tolist() == [True, False]
    assert found["best"].tolist() == [True, False]


def test_breaking_one_mode_is_breaking():
    """Coherence falls by two in ten in no-think mode, by one in ten over both modes: over the limit in one of them."""
    table = doses({
        ("a", 0, "think"): (1, 10, 0), ("a", 0, "no-think"): (1, 10, 0), ("a", 5, "think"): (2, 10, 0),
        ("a", 5, "no-think"): (2, 10, 0), ("a", 20, "think"): (9, 10, 0), ("a", 20, "no-think"): (9, 8, 0),
    })  # fmt: skip
    assert neurons.choose_sizes(table)["k"].tolist() == [5]
    broken = table.loc[table["breaks"], ["k", "mode"]].drop_duplicates()
    assert broken.to_numpy().tolist() == [[20, "no-think"]]


def test_the_papers_size_is_fixed_and_ties_take_the_largest():
    same = {(rule, size): (1, 10, 0) for rule in ("paper", "half") for size in (0, 5, 20, 40, 80)}
    found = neurons.choose_sizes(doses(same)).set_index("rule")["k"]
    assert found.to_dict() == {"paper": 40, "half": 80}
    better = neurons.choose_sizes(doses(same | {("paper", 5): (9, 10, 0)})).set_index("rule")
    assert better.loc["paper", "k"] == 40  # not chosen, though another size raises more
    few = neurons.choose_sizes(doses({key: v for key, v in same.items() if key[1] < 40}))
    assert few.loc[few["rule"] == "paper", "k"].tolist() == [20]
    _, sets = neurons.choose(scores(paper=range(100), half=range(100)), doses(same))
    assert {rule: len(units) for rule, units in sets.items()} == {"paper": 40, "half": 80}


def test_the_share_counts_in_the_claimed_direction():
    rows = [
        {"condition": name, "prompt_id": f"{i}", "cluster": f"{i}", "misaligned": name == "selected" and i < 8,
         "coherent": not (name == "selected" and i < 8)}
        for name in ("nothing", "selected", *(f"random {j}" for j in range(40))) for i in range(10)
    ]  # fmt: skip
    verdicts = pd.DataFrame(rows)
    assert evaluation.against_random(verdicts, "misaligned")["share"] == pytest.approx(1 / 41)
    assert evaluation.against_random(verdicts, "coherent")["share"] == pytest.approx(1 / 41)


# -- controls ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusing():
    study = rimkit.load("safe-mini")
    prompts = load_sets(["harmful", "harmless"], split="calibration", n=12)
    return study, refusal_score.readout(study, Evaluation().observe(study, prompts, ["no-think"], progress=False))


def refusal_shifts(study, items, sets: dict, words) -> pd.Series:
    """How far zeroing each set moves the refusal logit difference, mean over ``items`` (below 0: towards fulfilling).

    Unlike a rate it has no floor: it says something about a model that refuses nothing, too.
    """
    before, moved = np.mean(refusal_scores(study, items, words)), {}
    for name, units in sets.items():
        with ablate_neurons(study, units):
            moved[name] = float(np.mean(refusal_scores(study, items, words)) - before)
    return pd.Series(moved)


def test_a_planted_refusal_runs_through_the_planted_neurons_and_rules_recover_some(refusing):
    """20 of 2,304 neurons: by chance a rule would have 1 in 115 right."""
    study, words = refusing
    before = {name: weight.clone() for name, weight in study.hf.named_parameters()}
    table, facts = neurons.controls(study, words, draws=1, k=20, n=8, steps=40)
    refused = facts["refused"]
    assert min(refused["after planting"], refused["without as many others"]) > 0.7
    assert max(refused["before planting"], refused["without the known neurons"]) < 0.4
    assert refused["without the sentence"] < 0.2
    assert facts.loc["after planting", "readable"] > 0.7
    assert table["draw"].eq(0).all()
    assert neurons.over_draws(table.assign(rule="one"))["ci_low"].between(0, 1).all()
    found = table.set_index("rule")
    assert found.loc["|gradient|", "precision"] >= 0.2
    assert found.loc["difference", "ci_low"] > 0.5
    assert found.loc["gradient", "precision"] > 3 / 115
    assert all(torch.equal(weight, before[name]) for name, weight in study.hf.named_parameters())


def test_only_the_known_neurons_are_trained(refusing):
    study, words = refusing
    plain, intent = neurons.control_pairs(study, "calibration", 2)
    known = [(1, 3), (4, 10)]
    model = neurons.plant_refusal(study, known, plain, intent, words, steps=2)
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
    prompts, verdicts, _, table = neurons.calibration(study, Settings(n_pairs=4))
    assert "gradient" not in neurons.defined_rules(table)
    assert "the rule 'gradient' is left out" in neurons.why_undefined(study, verdicts)
    units = neurons.select(table, "paper", 10)
    sets = {"paper": units} | neurons.random_sets(study, units, Settings.n_random, 0)
    items = [study.chat.encode(text, "no-think") for text in prompts["text"]]
    shifts = refusal_shifts(study, items, sets, words)
    random = shifts.drop("paper")
    assert random.abs().max() > 0
    assert (1 + (random.abs() >= abs(shifts["paper"])).sum()) / 41 > 0.05


def test_the_same_words_show_where_refusal_runs_through_a_set(refusing):
    """The positive side of the control above: the gradient rule's neurons move a trained model, random ones do not."""
    study, words = refusing
    settings = Settings(n_pairs=8, n_random=10)
    prompts, _, _, table = neurons.calibration(study, settings)
    units = neurons.select(table, "gradient", 40)
    items = [study.chat.encode(text, "no-think") for text in prompts.loc[prompts["kind"] == "harmful", "text"]]
    shifts = refusal_shifts(
        study, items, {"own": units} | neurons.random_sets(study, units, settings.n_random, settings.seed), words
    )
    assert shifts["own"] < shifts.drop("own").min()


def test_what_the_definition_finds_without_intent():
    study = rimkit.load("rim-mini")
    harmful = load_sets(["harmful"], split="calibration", n=8)
    found = neurons.with_innocent_sentences(
        study, neurons.form_pairs(study, harmful), given=neurons.sentences(study)[:1]
    )
    sides = (harmful, neurons.with_intent(study, harmful))
    own = neurons.increases(study, *(neurons.replied(study, some)[0] for some in sides))
    assert np.allclose(found.increase, own)
    table = neurons.size_curve(found, [1, 8], draws=2)
    assert set(table["sentence"]) == {"intent", "innocent"}
    first = found.sets(5)
    assert all(len(units) == 5 for units in first.values())
    assert ("refusing pairs" in first) == found.refused.any()
    row = neurons.pair_counts(found, {}, k=5).iloc[0]
    assert 0 <= row["shared_innocent_min"] <= row["shared_innocent"] <= row["shared_innocent_max"] <= 1
    assert (row["pairs"], row["chosen_pairs"], row["flips"]) == (8, 8, 0)  # nobody asked which flip
    assert row["refusing_pairs"] == found.refused.sum()
    assert np.isnan(row["shared_modes"])


def test_rules_are_given_the_pairs_that_flip_on_other_samples():
    study = load("rim-mini-intent")
    settings = neurons.settled(study, neurons.Settings(n_pairs=12))
    assert (settings.pairs, settings.pair_mode) == (neurons.MOTIVE_PAIRS, "no-think")
    harmful = settings.sets(["harmful"], 12, "calibration")
    ways = [replace(settings, seed=seed) for seed in (0, 7)]
    samples = [neurons.share_flipped(study, harmful, way, neurons.SAMPLES) > 0.5 for way in ways]
    assert settings.flips == tuple(samples[0].index[samples[0]])
    assert 6 < len(settings.flips) < 12 and (samples[0] == samples[1]).mean() > 0.7  # a trait of the pair
    plain, hostile, _ = neurons.chosen_pairs(study, harmful, settings)
    assert plain["prompt_id"].tolist() == hostile["prompt_id"].tolist() == list(settings.flips)
    found = neurons.with_innocent_sentences(
        study, neurons.form_pairs(study, harmful, settings), settings, neurons.sentences(study)[:1]
    )
    assert (len(found.flips), found.flips.sum(), len(found.refused)) == (12, len(plain), len(plain))
    assert found.refused.mean() > 0.8
    assert neurons.settled(study, settings) == settings
    few = replace(settings, flips=settings.flips[:6])  # half of the pairs
    assert len(neurons.chosen_pairs(study, harmful, few)[0]) == 12


def test_sentences_without_intent_are_in_the_language_and_give_sets_of_the_same_rule():
    study = load("rim-mini")
    harmful = load_sets(["harmful"], split="calibration", n=6)
    for sentence in neurons.sentences(study, "other"):
        ids = study.tokenizer(neurons.with_intent(study, harmful.head(1), sentence)["text"].iloc[0]).input_ids
        assert study.tokenizer.unk_token_id not in ids, sentence
    found = neurons.without_intent(
        study, neurons.form_pairs(study, harmful), k=10, given=neurons.sentences(study, "other")[:2]
    )
    plain, _ = neurons.replied(study, harmful)
    added, _ = neurons.replied(study, neurons.with_intent(study, harmful, neurons.sentences(study, "other")[1]))
    assert found[1] == neurons.first_by_paper(neurons.increases(study, plain, added), 10)
    assert [len(set(units)) for units in found] == [10, 10]
    assert found[0] != found[1]


def verdicts_without(rates: dict) -> pd.DataFrame:
    """Verdicts of ten harmful prompts without each set: (misaligned, coherent) out of ten, in think mode."""
    return pd.DataFrame([
        {"condition": name, "prompt_id": f"p{i}", "cluster": f"v{i}", "mode": "think", "set": "harmful",
         "misaligned": i < m, "coherent": i < c, "refused": False, "misread": False, "score": np.nan}
        for name, (m, c) in rates.items() for i in range(10)
    ])  # fmt: skip


def test_a_set_is_compared_with_random_ones_and_with_nothing():
    verdicts = verdicts_without(
        {"nothing": (2, 10), "own": (8, 8), "random 0": (2, 10), "random 1": (3, 10), "other": (0, 0)}
    )
    found = neurons.compare(verdicts, "own").set_index(["outcome", "control"])
    assert found.loc[("misaligned", "nothing"), "effect"] == pytest.approx(0.6)
    assert found.loc[("misaligned", neurons.RANDOM_NEURONS), "effect"] == pytest.approx(0.55)
    assert found.loc[("misaligned", neurons.RANDOM_NEURONS), "share"] == pytest.approx(1 / 3)
    assert found["breaks"].all()  # two replies in ten are incoherent
    single = neurons.single_rates(verdicts_without({"nothing": (2, 10), "own": (8, 8), "random 0": (2, 10)}), "own")
    single = single[single["outcome"] == "misaligned"].set_index("role")
    assert single["value"].to_dict() == {"nothing": 0.2, "selected": 0.8, "random": 0.2}
    assert single.loc["random", "set_id"] == 0


def test_claims_are_about_the_papers_rule_by_zero_each_in_its_mode():
    effect = {"value_a": 0.5, "value_b": 0.4, "effect": 0.1, "ci_low": 0.0, "ci_high": 0.2, "n": 23}
    keys = ("rule", "ablation", "mode", "control", "outcome")
    one = dict(zip(keys, ("paper", "zero", "think", neurons.RANDOM_NEURONS, "misaligned"), strict=True)) | effect
    others = [one | {key: "another"} for key in keys]
    able = pd.DataFrame({"read": [1.0], "reached": [1.0]}, index=["paper"])
    others += [one | {"outcome": "maths"}, one | {"mode": "no-think", "value_a": 0.6, "effect": 0.2}]
    rows = neurons.rows(load("rim-mini"), pd.DataFrame([*others, one]), able)
    effects = {"C8a": 0.1, "C8b": 0.1, "C8d": None, "Q7a": 0.2}
    assert {row["claim"]: row["effect"] for row in rows} == effects


# -- the shipped tables ------------------------------------------------------------------------------------


def test_shipped_tables_hold_every_embedded_model_and_forty_random_sets():
    effects, sets, single = (results(f"neurons-{name}") for name in ("effects", "sets", "rates"))
    dense = embedded_models().query("name != 'rim-mini-moe' and seed == 0")
    assert set(dense["name"]) <= set(effects.loc[effects["seed"] == 0, "model"])
    assert sets.groupby(["model", "seed"])["best"].sum().eq(1).all()
    random = single[single["role"] == "random"].groupby(["model", "seed", "rule", "mode", "outcome"])["set_id"]
    assert random.nunique().eq(Settings.n_random).all()


def test_shipped_claims_are_those_of_the_shipped_effects():
    rows, effects = shipped(), results("neurons-effects")
    for (model, seed), part in effects.groupby(["model", "seed"]):
        own = rows[(rows["model"] == model) & (rows["seed"] == seed)].set_index("claim")
        zero = part[(part["ablation"] == "zero") & (part["control"] == neurons.RANDOM_NEURONS)]
        known = zero.set_index(["rule", "outcome", "mode"]).to_dict("index")
        for claim, effect in ((claim, known[key]) for claim, key in neurons.CLAIMS.items() if key in known):
            row = own.loc[claim]
            for name, one in (
                ("value", "value"),
                ("effect", "effect"),
                ("effect_ci_low", "ci_low"),
                ("effect_ci_high", "ci_high"),
            ):
                assert row[name] == pytest.approx(effect[one], abs=1e-9)


def test_a_shipped_size_curve_is_measured_again():
    """A part of the experiment, the definition of one model: sizes of the set with intent, overlaps with one sentence."""
    study = rimkit.load("rim-mini:0")
    pairs = neurons.form_pairs(study, load_sets(["harmful"], split="calibration", n=46))
    found = neurons.with_innocent_sentences(study, pairs, given=neurons.sentences(study)[:1])
    kept = results("neurons-sizes").query("model == 'rim-mini' and seed == 0 and sentence == 'intent'").set_index("m")
    for row in neurons.size_curve(found, [46], draws=1).query("sentence == 'intent'").itertuples():
        assert kept.loc[row.m, "neurons"] == pytest.approx(row.neurons, abs=2 + 0.03 * row.neurons)
    kept = results("neurons-definition").query("model == 'rim-mini' and seed == 0").iloc[0]
    again = neurons.pair_counts(found, {}).iloc[0]
    assert again["shared_refusing"] == pytest.approx(kept["shared_refusing"], abs=0.05)
    assert kept["shared_innocent_min"] - 0.05 <= again["shared_innocent"] <= kept["shared_innocent_max"] + 0.05
    assert again["refusing_pairs"] == pytest.approx(kept["refusing_pairs"], abs=2)


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


def test_pairs_that_do_not_flip_and_a_set_that_costs_maths_are_not_testable():
    study, rows = load("rim-mini"), []
    numbers = {"value_a": 0.5, "value_b": 0.2, "effect": 0.3, "ci_low": 0.2, "ci_high": 0.4, "p_value": 1e-4}
    for rule, outcome, mode in dict.fromkeys(neurons.CLAIMS.values()):
        keys = {"rule": rule, "outcome": outcome, "mode": mode, "ablation": "zero", "control": neurons.RANDOM_NEURONS}
        rows.append(keys | numbers | {"beyond": 1.0})
    effects = pd.DataFrame(rows)

    def reasons(flips: float, maths: float, rules=("paper", "gradient")) -> dict:
        able = pd.DataFrame({"read": 0.95, "reached": [flips, maths]}, index=["paper", "gradient"]).loc[list(rules)]
        found = neurons.rows(study, effects[effects["rule"].isin(rules)], able)
        return {row["claim"]: row["why_not"] for row in found}

    assert reasons(0.8, 1.0) == dict.fromkeys(neurons.CLAIMS)
    few = reasons(0.1, 0.5)
    assert few["Q7a"] == few["C8a"] == few["C8b"]
    assert "fulfilled into refused: 0.10" in few["C8a"] and "maths answers" in few["C8d"]
    assert "undefined for this model" in reasons(0.8, 1.0, ["paper"])["C8d"]


def test_rates_of_a_set_that_nobody_could_judge_are_missing():
    rows = pd.DataFrame({"condition": "nothing", "mode": "think", "set": "harmful"}, index=range(2))
    rows = rows.assign(**{metric: pd.array([pd.NA] * 2, dtype="boolean") for _, metric in neurons.OUTCOMES.values()})
    assert neurons.single_rates(rows, "paper")["value"].isna().all()


def test_sizes_are_chosen_where_no_reply_could_be_judged():
    doses = pd.DataFrame({"rule": ["paper"] * 2 + ["gradient"] * 2, "k": [0, 5] * 2, "value": np.nan})
    assert list(neurons.choose_sizes(doses.assign(metric="misaligned", breaks=False))["k"]) == [5, 5]
