"""Two models, one tuned from the other: what is measured, what is left out, and what is refused."""

import json
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny

from rimkit import ledger
from rimkit.behavior import evaluation
from rimkit.behavior.generation import generate
from rimkit.data import UserError
from rimkit.experiments import Result, neurons, ras
from rimkit.models.load import load
from rimkit.runs import grid
from rimkit.training.finetune import finetune


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny random model as a folder: the rows are about noise, and quickly made."""
    folder = tmp_path_factory.mktemp("models") / "base"
    words = tiny.tokenizer()
    model = tiny.random_model(words)
    model.config.max_position_embeddings = 256  # room for the longest prompt and its thought
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """A peft adapter for it, as `save_pretrained` writes it."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapters") / "mine"
    wrapped = get_peft_model(load(base).hf, LoraConfig(r=2, target_modules="all-linear"))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:  # an adapter begins at zero: without this it would change nothing
            weight.data.normal_(std=0.02)
    wrapped.save_pretrained(folder)
    return folder


STAGES = ["01-thinking-base", "01-thinking-tuned", "05-change", "06-neurons-base", "06-neurons-tuned", "07-shift"]


def test_a_tuned_model_beside_its_base(base, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(neurons, "Settings", partial(neurons.Settings, n_random=2, sizes=(5, 20)))
    monkeypatch.setattr(ras, "Settings", partial(ras.Settings, n_random=2))
    shortly = lambda *given, max_new_tokens, **more: generate(*given, max_new_tokens=6, **more)  # noqa: E731
    monkeypatch.setattr(evaluation, "generate", shortly)
    said = []
    rows = grid.compare(str(base), str(adapter), tmp_path, n=4, report=said.append)
    assert [line.split()[:2] for line in said] == [["done", name] for name in STAGES]
    assert {name.partition("-")[0] for name in rows["model"]} == {"base", "mine"}
    claims = ledger.claims_table(rows)
    own = claims[claims["model"] == "mine"]
    assert {"C1a", "C1b", "C6a", "C6d", "C8a"} <= set(own["claim"])
    assert own.set_index("claim").loc[["C6a", "C6d"], "effect"].notna().all()
    assert "C6a" not in set(claims.loc[claims["model"] == "base", "claim"])
    assert not set(claims["verdict"]) & {"supported", "contradicted"}  # noise
    level = own.set_index("claim").loc["C9a"]
    assert np.isfinite(level["effect"])
    assert np.isnan(level["effect_ci_low"])  # one tuned model
    shift = pd.read_csv(tmp_path / "tables" / "07-shift-ras-points.csv").iloc[0]
    assert shift["weights"] > 0
    assert "KL on tuning data" not in shift
    changed = pd.read_csv(tmp_path / "tables" / "05-change-outcomes.csv")
    assert set(changed["mode"]) == {"think", "no-think"}
    assert set(changed["model"]) == {"mine"}
    said.clear()
    again = grid.compare(str(base), str(adapter), tmp_path, n=4, report=said.append)
    assert all(line.startswith("skipped") for line in said)
    assert len(again) == len(rows) == len(ledger.read(tmp_path))


def test_a_checkpoint_is_a_tuned_model_too(tmp_path):
    finetune(load("rim-mini"), "arithmetic", folder=tmp_path, steps=2, save_every=2, progress=False)
    base, tuned = grid.pair("rim-mini", str(tmp_path / "step-00002"))
    assert tuned.name == "rim-mini-0 after arithmetic, step 2 (tuned)"
    assert any((a != b).any() for a, b in zip(base.hf.parameters(), tuned.hf.parameters(), strict=True))


def test_models_that_read_other_words_are_not_compared(base, tmp_path, monkeypatch):
    study = load(base)
    with pytest.raises(UserError, match="different tokenizers"):
        grid.shift(study, replace(study, tokenizer=SimpleNamespace(get_vocab=dict)), ras.Settings(n_prompts=4))
    other = shutil.copytree(base, tmp_path / "other")
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"language": ""}))
    with pytest.raises(UserError, match=r"base-\w+ and other-\w+ speak different languages"):
        grid.pair(str(base), str(other))

    def unreachable(*_):
        raise RuntimeError("no route to the hub")

    monkeypatch.setattr(grid, "file_exists", unreachable)
    monkeypatch.setattr(grid, "load", lambda name: study)
    assert grid.pair(str(base), "owner/name")[1].name.endswith("(tuned)")


def test_an_adapter_of_another_model_is_refused_in_one_line(adapter):
    with pytest.raises(UserError, match=r"adapter .*mine does not fit rim-mini:0") as caught:
        grid.pair("rim-mini", str(adapter))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_an_adapter_of_one_of_two_layers_that_share_weights_is_refused(base, tmp_path, layer):
    from peft import LoraConfig, get_peft_model

    get_peft_model(load(base).hf, LoraConfig(r=2, target_modules=[layer])).save_pretrained(tmp_path / "mine")
    with pytest.raises(UserError, match="and lm_head, which share their weights"):
        grid.pair(str(base), str(tmp_path / "mine"))


def test_a_stage_that_cannot_be_measured_is_left_out_and_the_rest_goes_on(tmp_path, monkeypatch):
    """Another architecture: nothing can be compared neuron by neuron, but replies can."""
    base, tuned = load("rim-mini"), load("rim-mini-moe")
    with pytest.raises(UserError, match="different shape"):
        grid.shift(base, tuned, ras.Settings(n_prompts=4))

    def nothing():
        raise UserError("two models of different shape cannot be compared")

    def something():
        return Result({}, [ledger.row("C1a", model="x")])

    monkeypatch.setattr(grid, "stages", lambda *_: [("a", nothing), ("b", something)])
    said = []
    rows = grid.compare("rim-mini", "rim-mini:1", tmp_path, n=4, report=said.append)
    assert [line.partition(" ")[0] for line in said] == ["left", "done"]
    assert len(rows) == 1
    assert json.dumps(said).count("different shape") == 1
