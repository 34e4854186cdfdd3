"""The planted controls: which weights learn from what, and when zeroing counts as a proof."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM

from rimkit.data import UserError
from rimkit.organism import planted, recipe
from rimkit.organism.planted import BASE, DISJOINT, SHARED


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Base and both models after two steps each."""
    folder = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "STEPS", 2)
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
    def table(safety, maths):
        rows = [("nothing", 0.9, 0.8), ("safety", *safety), ("maths", *maths)]
        return pd.DataFrame(rows, columns=["zeroed", "refusals", "maths"])

    assert planted.holds(SHARED, table((0.1, 0.2), (0.1, 0.2)))
    assert not planted.holds(SHARED, table((0.1, 0.7), (0.1, 0.7)))
    assert planted.holds(DISJOINT, table((0.1, 0.75), (0.85, 0.2)))
    assert not planted.holds(DISJOINT, table((0.1, 0.6), (0.85, 0.2)))


def test_a_wrong_name_or_no_base_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="did you mean 'planted-shared'"):
        planted.train("planted-share", 0, tmp_path)
    with pytest.raises(UserError, match="give --base"):
        planted.train(SHARED, 0, tmp_path)
