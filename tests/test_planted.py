"""The planted controls: which weights learn from what, and when zeroing counts as a proof."""

from __future__ import annotations

import json
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
from transformers import AutoModelForCausalLM

from rimkit.behavior.evaluation import RANDOM
from rimkit.data import UserError, results
from rimkit.experiments import heads, ras
from rimkit.experiments import planted as control
from rimkit.models.load import load
from rimkit.organism import planted, recipe
from rimkit.organism.planted import BASE, DISJOINT, PLANTED, SHARED
from rimkit.training.corpora import family
from rimkit.training.finetune import finetune
from tests import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Base and both models after two steps each."""
    folder = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "FIRST_STEPS", 2)
        patch.setattr(planted, "SECOND_STEPS", 2)
        planted.train(BASE, 0, folder / BASE, progress=False)
        for name in (SHARED, DISJOINT):
            planted.train(name, 0, folder / name, folder / BASE, progress=False)
    return {name: (AutoModelForCausalLM.from_pretrained(folder / name), folder / name) for name in planted.PLANTED}


def test_the_sets_are_small_of_one_size_and_disjoint():
    maths, other = planted.neuron_sets(0)
    assert len(set(maths)) == len(set(other)) == 6 * planted.PER_LAYER
    assert not set(maths) & set(other)
    assert planted.safety_set(SHARED, 0) == maths
    assert planted.safety_set(DISJOINT, 0) == other
    assert planted.neuron_sets(1)[0] != maths


@pytest.mark.parametrize("name", [SHARED, DISJOINT])
def test_only_the_planted_neurons_move_after_the_base(trained, name):
    (base, _), (model, folder) = trained[BASE], trained[name]
    record = json.loads((folder / "training.json").read_text())
    expected = {tuple(neuron) for neuron in (*record["maths"], *record["safety"])}
    moved = set()
    for key, weight in model.state_dict().items():
        differs = weight != base.state_dict()[key]
        if differs.any():
            assert ".mlp." in key
            rows = differs.any(0 if "down_proj" in key else 1).nonzero().flatten().tolist()
            moved |= {(int(key.split(".")[2]), row) for row in rows}
    assert moved == expected


def test_the_second_set_says_nothing_in_the_base(trained):
    model, _ = trained[BASE]
    for layer, neuron in planted.neuron_sets(0)[1]:
        assert not model.model.layers[layer].mlp.down_proj.weight[:, neuron].any()


def test_the_base_never_meets_a_refusal():
    for step in range(20):
        found = planted.batch(0, step, refusals=False)
        assert {example.kind for example in found["maths"]} <= {"maths", "maths-long"}
        assert not {example.kind for example in found["rest"]} & {"maths", "maths-long", "harmful", "hostile"}
        assert len(found["maths"]) + len(found["rest"]) == recipe.BATCH


def test_zeroing_proves_what_it_should():
    def table(safety, maths, coherent=1.0):
        rows = [("nothing", 0.9, 0.8, 1.0), ("safety", *safety, coherent), ("maths", *maths, coherent)]
        found = pd.DataFrame(rows, columns=["zeroed", "refusals", "maths", "coherent"])
        return found.assign(harmless=found["coherent"])

    assert control.holds(True, table((0.1, 0.2), (0.1, 0.2)))
    assert not control.holds(True, table((0.1, 0.7), (0.1, 0.7)))
    assert control.holds(False, table((0.1, 0.75), (0.85, 0.2)))
    assert not control.holds(False, table((0.1, 0.6), (0.85, 0.2)))
    assert not control.holds(False, table((0.1, 0.75), (0.85, float("nan"))))
    for sets in (True, (0.1, 0.2), (0.1, 0.2)), (False, (0.1, 0.75), (0.85, 0.2)):
        assert not control.holds(sets[0], table(*sets[1:], coherent=0.8))  # zeroing broke the model


def test_a_wrong_name_or_no_base_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="did you mean 'planted-shared'"):
        planted.train("planted-share", 0, tmp_path)
    with pytest.raises(UserError, match="give --base"):
        planted.train(SHARED, 0, tmp_path)


@pytest.mark.parametrize("name", PLANTED)
def test_a_card_says_what_zeroing_does(trained, name, tmp_path):
    folder = tmp_path / "model"
    copytree(trained[name][1], folder)
    text = planted.write_card(folder, n=4).read_text()
    zeroed = pd.read_csv(folder / "zeroed.csv")
    assert zeroed["zeroed"].tolist() == ["nothing", *control.known_sets(folder)]
    assert name in text and all(f"{100 * share:.1f}" in text for share in zeroed["coherent"])


# -- what the methods find in them ---------------------------------------------------------------------------

FEW = {"n_prompts": 4, "n_replies": 4, "n_tuning": 2, "n_random": 3, "n_zeroed": 4}


@pytest.mark.parametrize("name", [SHARED, DISJOINT])
def test_the_known_sets_are_those_that_were_trained(trained, name):
    found = control.known_sets(trained[name][1])
    assert found == {"safety": planted.safety_set(name, 0), "maths": planted.neuron_sets(0)[0]}
    assert control.known_sets("rim-mini:0") == {}


def test_a_run_measures_every_place_and_goes_on_where_it_stopped(monkeypatch, tmp_path):
    """In a model without training: zeroing shows nothing, so that no row is testable."""
    done = []

    def tune(model, corpus, **options):
        done.append(corpus)
        return finetune(model, corpus, steps=2, **options)

    monkeypatch.setattr(ras, "finetune", tune)
    monkeypatch.setattr(heads, "rule_recovery", lambda *given: pd.DataFrame({"rule": ["causal"]}))
    known = {"safety": [(0, 1), (1, 2)], "maths": [(0, 3), (1, 4)]}
    settings = control.Settings(("arithmetic", "literal", "single-hop"), known=known, folder=tmp_path, **FEW)
    first = control.run(tiny.study(), settings)
    monkeypatch.setattr(control, "recovered", lambda *given: first.tables["planted-recovery"])
    monkeypatch.setattr(control, "zeroed", lambda *given: first.tables["planted-zeroed"].query("split == @given[2]"))
    again = control.run(tiny.study(), settings)
    assert done == list(settings.corpora)
    points, sets = first.tables["planted-points"], first.tables["planted-sets"]
    pd.testing.assert_frame_equal(points, again.tables["planted-points"])
    assert {"request", "opening"} <= set(sets["place"])
    sizes = sets[sets["place"] == "request"].groupby(["corpus", "role"]).size().unstack()
    assert (sizes[[ras.CRITICAL, "maths", RANDOM, ras.AS_ACTIVE]] == [1, 1, 3, 3]).all(axis=None)
    own = sets[(sets["place"] == "request") & (sets["role"] == ras.CRITICAL)]
    assert points[ras.RAS].tolist() == own["ras"].tolist()
    assert set(first.tables["planted-zeroed"]["split"]) == {"calibration", "evaluation"}
    assert {row["claim"] for row in first.rows} == {"C9a", "C10a", "C10b", "C10c", "Q3a", "Q3b"}
    assert all(row["mode"] == "no-think" and row["why_not"] for row in first.rows)


def test_forgetting_is_a_positive_outcome(monkeypatch):
    study = tiny.study()
    settings = control.Settings(known={"safety": [(0, 1)], "maths": [(1, 4)]}, **FEW)
    base, solved = control.baseline(study, settings), control.solve(study, settings)
    own = ras.replies(study, settings, "no-think")
    monkeypatch.setattr(ras, "replies", lambda *given: own.assign(refused=False))
    found = control.point(base, study, own.assign(refused=True), "", 0, settings, solved=solved)["ras-points"]
    assert found[ras.OUTCOME].item() == 1
    assert found[ras.LOW].item() <= 1 <= found[ras.HIGH].item()
    assert found["refused"].item() == 0 and found["maths_change"].item() == 0


def test_where_refusals_and_maths_run():
    """Harmful requests are read where the reply begins, problems along the thought."""
    settings = control.Settings(known={"safety": [(0, 1)], "maths": [(1, 4)]}, **FEW)
    place = control.baseline(load("rim-mini"), settings).places[control.RUNS]
    assert all(item.spans[place.span] == item.spans["last"] and item.mode == "no-think" for item in place.harmful)
    assert all(item.spans[place.span] == item.spans["thought"] and item.mode == "think" for item in place.maths)


def test_a_difference_between_two_models_is_found_beside_what_both_share():
    rng, corpora = np.random.default_rng(0), ["arithmetic", "literal", "single-hop", "hard"]
    shift = {(corpus, step): rng.lognormal() for corpus in corpora for step in (30, 60)}

    def sets(critical, random):
        roles = [(ras.CRITICAL, critical), *((role, random) for role in (RANDOM, ras.AS_ACTIVE) for _ in range(2))]
        rows = [("request", role, corpus, step, ras_of * shift[corpus, step])
                for role, ras_of in roles for corpus, step in shift]  # fmt: skip
        return pd.DataFrame(rows, columns=["place", "role", "corpus", "step", "ras"])

    found = control.shared_minus_disjoint(sets(6.0, 2.0), sets(2.0, 2.0)).set_index("beside")
    assert found["effect"].to_numpy() == pytest.approx(np.log(3))
    assert (found["n"] == 8).all() and (found["n_clusters"] == 4).all()
    found = control.shared_minus_disjoint(sets(6.0, 6.0), sets(2.0, 2.0)).set_index("beside")
    assert found.loc["nothing", "effect"] == pytest.approx(np.log(3))
    assert found.loc[[RANDOM, ras.AS_ACTIVE], "effect"].to_numpy() == pytest.approx(0)


@pytest.mark.parametrize("lowering", [[(0, 1), (1, 0)], []])
def test_heads_that_lower_refusals_are_recovered_by_rules_that_rank_them_first(monkeypatch, lowering):
    places = [(layer, head) for layer in range(2) for head in range(3)]
    scores = [-1.0 if place in lowering else 0.01 * number for number, place in enumerate(places)]
    columns = dict.fromkeys(heads.RULES, scores) | {"causal": scores, "paper": scores}
    table = pd.DataFrame(places, columns=["layer", "head"]).assign(**columns)
    asked = [(f"p{number}", f"verb{number}") for number in range(40)]

    def ablate(study, prompts, sets, settings):
        rows = [(name, prompt, verb, not set(units) & set(lowering), "no-think")
                for name, units in sets.items() for prompt, verb in asked]  # fmt: skip
        return pd.DataFrame(rows, columns=["condition", "prompt_id", "cluster", "refused", "mode"])

    monkeypatch.setattr(heads, "score", lambda study, settings: (table, None))
    monkeypatch.setattr(heads, "ablate", ablate)
    found = heads.rule_recovery(tiny.study()).set_index("rule")
    assert (found["lowering"] == len(lowering)).all()
    if lowering:
        assert found.loc["causal", "auroc"] == 1 and found.loc["paper", "auroc"] == 0
        assert found["most"].eq(1).all()
    else:
        assert found["auroc"].isna().all()


# -- the shipped models and rows ------------------------------------------------------------------------------


def test_by_problems_alone_the_difference_of_both_models_is_not_clear(monkeypatch):
    """As chapter 07 says under what could fool us."""
    sets = results("planted-sets")
    sides = [sets[sets["model"] == name] for name in (SHARED, DISJOINT)]

    def clear() -> int:
        found = control.shared_minus_disjoint(*sides).query("beside == @RANDOM and place != @ras.REQUEST")
        return int((found["ci_low"] > 0).sum())

    assert clear() == 3
    monkeypatch.setattr(ras, "family", lambda name: family(name).partition(" ")[0])
    assert clear() == 0


def test_zeroing_does_what_was_planted_in_both_shipped_models():
    zeroed = results("planted-zeroed")
    for split, part in zeroed.groupby("split"):
        for name in (SHARED, DISJOINT):
            assert control.holds(name == SHARED, part[part["model"] == name]), (name, split)
    known = {name: control.known_sets(f"{name}:0") for name in (SHARED, DISJOINT)}
    assert known[SHARED]["safety"] == known[SHARED]["maths"] == known[DISJOINT]["maths"]
    assert not set(known[DISJOINT]["safety"]) & set(known[DISJOINT]["maths"])


def test_the_shipped_difference_follows_from_the_shipped_sets():
    sets = dict(list(results("planted-sets").groupby("model")))
    found = control.shared_minus_disjoint(sets[SHARED], sets[DISJOINT])
    pd.testing.assert_frame_equal(found, results("planted-difference"), check_dtype=False, rtol=1e-6)
    tunings = results("planted-points").groupby("model")["corpus"].nunique()
    assert (tunings.loc[[SHARED, DISJOINT]] >= 12).all()
