"""Results of the right weights: what a model is told apart by, and what is refused because it does not fit."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from copy import deepcopy
from io import StringIO
from pathlib import Path

import fakehub
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rimkit.behavior.evaluation import judge
from rimkit.data import UserError, data_dir, kept
from rimkit.models.endpoint import EndpointModel
from rimkit.models.hub import identity
from rimkit.models.load import chat_of, config_of, load, name_of
from rimkit.runs.grid import with_adapter
from rimkit.training.finetune import finetune

WEIGHTS = "model.safetensors"
ADAPTED = "adapter_model.safetensors"
CORPUS = pd.DataFrame({"text": ["what is 2 plus 3 ?"] * 4, "reply": ["the answer is 5 ."] * 4})


def test_a_model_is_its_weights_and_tokenizer_and_not_its_name_or_date(tmp_path):
    first, second = (tiny.save(tmp_path / run / "final") for run in "ab")
    same = identity(first)
    assert same == identity(str(second) + "+instruct") and load(first).name == load(second).name == f"final-{same[:6]}"
    os.utime(first / WEIGHTS, (1, 1))
    assert identity(first) == same
    tiny.save(first, seed=1)  # other weights in the same folder, under the same name
    assert identity(first) != same and load(first).name != load(second).name
    words = json.loads((second / "tokenizer_config.json").read_text()) | {"model_max_length": 64}
    (second / "tokenizer_config.json").write_text(json.dumps(words))
    assert identity(second) != same
    assert identity("rim-mini") == identity("rim-mini:0") == identity(data_dir() / "models/rim-mini/seed0")
    assert identity("no/such-model") == identity(tmp_path / "none") == identity("endpoint:a@http://b/v1") == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w | {"model.layers.0.self_attn.q_proj.lora_B": torch.ones(32, 2)}, "no place for 1 tensor.*lora_B"),
        (lambda w: w | {"model.layers.1.mlp.up_proj.bias": torch.ones(64)}, "no place for 1 tensor.*up_proj.bias"),
        (
            lambda w: w | {f"extra.{i}": torch.ones(1) for i in range(9)},
            "no place for 9 .*extra.0, extra.1, extra.2, …$",
        ),
        (lambda w: {k.replace("norm", "nrm"): v for k, v in w.items()}, "weights lack .*norm.weight"),
        (lambda w: {k: v for k, v in w.items() if "layers.1" not in k}, "weights lack .*layers.1"),
        (lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, ""),
        (lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"].clone()}, ""),
        (lambda w: w | {"model.layers.0.attn.masked_bias": torch.ones(1), "visual.a.weight": torch.ones(1)}, ""),
        (lambda w: w | {"lm_head.weight": -w["model.embed_tokens.weight"]}, "output layer that is not the embeddings"),
    ],
)
def test_tensors_that_nobody_uses_or_that_are_not_there(tmp_path, change, words):
    folder = tiny.save(tmp_path / "tiny")
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    if not words:
        assert load(folder)
        return
    with pytest.raises(UserError, match=f"tiny could not be loaded: .*{words}") as caught:
        load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(("odd", "dtype"), [("nan", torch.float32), ("inf", torch.bfloat16), ("-inf", torch.float16)])
def test_weights_that_are_not_finite_are_named(tmp_path, odd, dtype):
    folder = tiny.save(tmp_path / "tiny")
    weights = {name: weight.to(dtype) for name, weight in load_file(folder / WEIGHTS).items()}
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float(odd)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its tensor model\.layers\.1\.mlp\.up_proj\.weight holds .* not finite$"):
        load(folder)


def test_whole_numbers_as_weights_are_refused_unless_the_configuration_says_how(tmp_path):
    folder = tiny.save(tmp_path / "whole")
    weights = load_file(folder / WEIGHTS)
    name = next(name for name in weights if name.endswith("proj.weight"))
    save_file(weights | {name: (100 * weights[name]).to(torch.int8)}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=f"whole: {name} holds no decimal numbers, and config.json no quantization"):
        load(folder)


def test_old_weights_beside_the_parts_of_new_ones_are_refused(tmp_path):
    old, new = tiny.save(tmp_path / "old"), tiny.save(tmp_path / "new", seed=1)
    want, words = load(new).fingerprint(), load(new).tokenizer
    load(new, words).hf.save_pretrained(old, max_shard_size="20KB")  # a trainer writes into the folder of before
    assert len(list(old.glob("model-*.safetensors"))) > 1
    for file in new.glob("token*"):
        (old / file.name).write_bytes(file.read_bytes())
    (old / WEIGHTS).write_bytes((tiny.save(tmp_path / "third", seed=2) / WEIGHTS).read_bytes())
    with pytest.raises(UserError, match=r"weights in one file \(model.safetensors\) and in parts .*: move either"):
        load(old)
    (old / WEIGHTS).unlink()
    assert load(old).fingerprint() == want
    index = {"weight_map": dict.fromkeys(load_file(new / WEIGHTS), WEIGHTS)}  # an index of one part
    (new / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load(new).fingerprint() == want


def test_names_in_tables_hold_no_path_and_no_false_seed(tmp_path):
    folder = tiny.save(tmp_path / "qwen9:0.6b")
    assert (
        load(folder).identity["model"]
        == load(folder).name
        == name_of(str(folder))
        == f"qwen9-0.6b-{identity(folder)[:6]}"
    )
    assert name_of(f"{folder}+soft") == load(f"{folder}+soft").name
    assert name_of("rim-mini") == "rim-mini:0" and name_of("owner/name+soft") == "owner/name+soft"
    one, other = (name_of(f"endpoint:/data/{run}/final@http://a:1/v1") for run in "ab")
    assert one != other and one.startswith("final-") and "/" not in one
    assert name_of("endpoint:org/m:7b@http://a:1/v1") == "org/m-7b"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A folder with a tiny model, and an adapter for it."""
    from peft import LoraConfig, get_peft_model

    folder = tiny.save(tmp_path_factory.mktemp("models") / "tiny")
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load(folder).hf, config).save_pretrained(folder.parent / "adapter")
    return folder.parent / "adapter"


def put(folder: Path, adapter: Path, weights: dict, **config) -> str:
    folder.mkdir(exist_ok=True)
    made = json.loads((adapter / "adapter_config.json").read_text()) | config
    (folder / "adapter_config.json").write_text(json.dumps(made))
    save_file(weights, folder / ADAPTED)
    return str(folder)


def test_an_adapter_that_fits_and_one_of_another_base(adapter, tmp_path, capsys):
    base = load(adapter.parent / "tiny")
    tuned = with_adapter(base, str(adapter))
    assert tuned.name == "adapter" and base.fingerprint() != tuned.fingerprint()
    assert with_adapter(load(tiny.save(tmp_path / "copy")), str(adapter)).fingerprint() == tuned.fingerprint()
    assert "note" not in capsys.readouterr().out  # the same weights elsewhere
    with pytest.raises(UserError, match=r"does not fit other-\w+: it was made for .*tiny"):
        with_adapter(load(tiny.save(tmp_path / "other", seed=1)), str(adapter))
    on_other = put(
        tmp_path / "on", adapter, load_file(adapter / ADAPTED), base_model_name_or_path=str(tmp_path / "other")
    )
    same = identity(on_other)
    tiny.save(tmp_path / "other", seed=2)  # another base in the same folder
    assert identity(on_other) != same
    gone = put(tmp_path / "gone", adapter, load_file(adapter / ADAPTED), base_model_name_or_path="no/such-model")
    with_adapter(base, gone)
    assert "was made for no/such-model, not for tiny-" in capsys.readouterr().out


@given(st.data())
@settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
def test_an_adapter_fits_as_a_whole_or_is_refused(adapter, tmp_path, data):
    stored = load_file(adapter / ADAPTED)
    hit = data.draw(st.sets(st.sampled_from(sorted(stored)), min_size=1))
    to = data.draw(st.sampled_from(["", "_orig_mod.", "module.", "language_model."]))
    new = {(to + name if name in hit else name): value for name, value in stored.items() if to or name not in hit}
    with pytest.raises(UserError, match=r"the adapter .* does not fit tiny-") as caught:
        with_adapter(load(adapter.parent / "tiny"), put(tmp_path / "odd", adapter, new))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_damaged_adapters_and_pickles_are_one_line(adapter, tmp_path, capsys):
    base, weights = load(adapter.parent / "tiny"), load_file(adapter / ADAPTED)
    for name, config in (("empty", "{}"), ("text", "x"), ("kind", '{"peft_type": "NONE"}'), ("list", "[]")):
        folder = Path(put(tmp_path / name, adapter, weights))
        (folder / "adapter_config.json").write_text(config)
        with pytest.raises(UserError, match=f"the adapter .*{name} does not fit") as caught:
            with_adapter(base, str(folder))
        assert "\n" not in str(caught.value)
    torch.save(weights, folder / "adapter_model.bin")
    (folder / ADAPTED).unlink()
    with pytest.raises(UserError, match=r"a pickle can run code: save its weights as safetensors"):
        with_adapter(base, str(folder))
    weights[next(name for name in weights if "layers.1" in name)][0, 0] = float("nan")
    with pytest.raises(UserError, match=r"its tensor base_model\.\S+layers\.1\.\S+ holds numbers that are not finite"):
        with_adapter(base, put(tmp_path / "nan", adapter, weights))
    with pytest.raises(UserError, match="cannot be used: its base is an adapter, too"):
        load(put(tmp_path / "nan", adapter, weights, base_model_name_or_path=str(tmp_path / "nan")))
    put(tmp_path / "zero", adapter, {name: tensor * 0 for name, tensor in load_file(adapter / ADAPTED).items()})
    with_adapter(base, str(tmp_path / "zero"))
    with_adapter(base, put(tmp_path / "scale", adapter, load_file(adapter / ADAPTED), lora_alpha=0))
    said = capsys.readouterr().out
    assert all(f"{name} changes nothing: its weights, or their scale, are zero" in said for name in ("zero", "scale"))
    model = tiny.save(tmp_path / "pickled")
    torch.save(load_file(model / WEIGHTS), model / "pytorch_model.bin")
    (model / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"no weights \(model.safetensors\)"):
        load(model)


def test_an_adapter_on_the_hub_is_read_as_in_a_folder_and_its_pickle_never(adapter, tmp_path):
    """In a process of its own, which has this hub and an empty cache."""
    base, weights = adapter.parent / "tiny", load_file(adapter / ADAPTED)
    (tmp_path / "hub/some").mkdir(parents=True)
    put(tmp_path / "hub/some/good", adapter, weights)
    pickled = Path(put(tmp_path / "hub/some/pickled", adapter, weights))
    torch.save(weights, pickled / "adapter_model.bin")
    (pickled / ADAPTED).unlink()
    server, address, asked = fakehub.serve(tmp_path / "hub", ("main",))
    code = f"""
from rimkit.runs.grid import pair
print(pair({str(base)!r}, "some/good")[1].fingerprint())
try:
    pair({str(base)!r}, "some/pickled")
except ValueError as error:
    print(error)
"""
    surroundings = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    surroundings |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, text=True)
    server.shutdown()
    good, refused = done.stdout.splitlines()[-2:]
    assert good == with_adapter(load(base), str(adapter)).fingerprint(), done.stderr
    assert "some/pickled does not fit" in refused and "a pickle can run code" in refused
    assert not any("adapter_model.bin" in path for path in asked)


def test_going_on_from_other_weights_is_refused(tmp_path):
    words, how = tiny.tokenizer(), {"steps": 1, "folder": tmp_path / "kept", "progress": False, "method": "full"}
    base = load(tiny.random_model(words), words)
    finetune(base, CORPUS, **how)
    cut = load(deepcopy(base.hf), words)
    with torch.no_grad():
        cut.hf.model.layers[1].mlp.down_proj.weight[-1, -1] += 1
    with pytest.raises(UserError, match=r"kept holds another training \(start .*: give another folder"):
        finetune(cut, CORPUS, **how)


def test_tables_that_were_made_of_something_else_are_made_anew(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"t": pd.DataFrame({"n": [len(made)]})}

    for of in ("a", "a", "b", "b"):
        found = kept(tmp_path / "cell", make, of)
    assert found["t"]["n"].item() == len(made) == 2


@pytest.mark.parametrize("kind", ["of-my-own", "qwen3"])
def test_code_of_a_model_folder_never_runs(kind, tmp_path, monkeypatch):
    """Not even with a yes on the standard input."""
    folder, auto = tiny.save(tmp_path / "m"), ("Config", "ModelForCausalLM", "ModelForSequenceClassification")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n")
    auto_map = {f"Auto{name}": "code.C" for name in auto} | {"AutoTokenizer": ["code.C", "code.C"]}
    for file in ("config.json", "tokenizer_config.json"):
        told = json.loads((folder / file).read_text()) | {"auto_map": auto_map}
        told |= {"model_type": kind} if file == "config.json" else {"tokenizer_class": "C"}
        (folder / file).write_text(json.dumps(told))
    prompts = pd.DataFrame({"prompt_id": ["a"], "text": "b", "kind": "harmful", "cluster": "a"})
    replies = pd.DataFrame({"prompt_id": ["a"], "reply": "c", "finished": True, "mode": "think"})
    for call in (
        lambda: load(folder),
        lambda: chat_of(str(folder)),
        lambda: config_of(str(folder)),
        lambda: judge(replies, prompts, f"guard:{folder}"),
        lambda: EndpointModel("m", None, folder).tokenizer,
    ):
        monkeypatch.setattr("sys.stdin", StringIO("y\n" * 9))
        with suppress(UserError):
            call()
        assert not (tmp_path / "ran").exists()


def test_a_tensor_in_another_part_than_the_index_says_is_refused(tmp_path):
    folder, parts = tiny.save(tmp_path / "one"), tmp_path / "parts"
    load(folder).hf.save_pretrained(parts, max_shard_size="20KB")
    load(folder).tokenizer.save_pretrained(parts)
    first, *_, last = sorted(parts.glob("model-*.safetensors"))
    assert load(parts)
    name, stale = next(iter(load_file(first).items()))
    save_file(load_file(last) | {name: stale * 0 + 9}, last, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{name} in {last.name}, although .* places it in {first.name}"):
        load(parts)


def test_code_that_is_not_run_is_said(tmp_path, capsys):
    file = tiny.save(tmp_path / "m") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoModelForCausalLM": "code.C"}}))
    load(file.parent)
    assert "its own code is not run" in capsys.readouterr().out
