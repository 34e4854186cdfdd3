"""From names, folders and modules to a model under study."""

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import rimkit
from rimkit.data import UserError
from rimkit.models import load as loading
from rimkit.models.device import choose_device
from rimkit.models.hub import embedded_models
from rimkit.models.load import load


@pytest.fixture
def folder(tmp_path):
    words = tiny.tokenizer()
    tiny.random_model(words).to(torch.bfloat16).save_pretrained(tmp_path / "tiny")
    words.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A data folder with two seeds of one embedded model."""
    words = tiny.tokenizer()
    for seed in (0, 2):
        place = tmp_path / "data" / "models" / "rim-mini" / f"seed{seed}"
        tiny.random_model(words, seed).to(torch.bfloat16).save_pretrained(place)
        words.save_pretrained(place)
    monkeypatch.setattr("rimkit.data.data_dir", lambda: tmp_path / "data")


def test_folder(folder):
    model = rimkit.load(folder)
    assert (model.name, model.dtype, model.context) == ("tiny", "float32", 128)
    assert model.device == "cpu" or torch.cuda.is_available()
    assert not model.hf.training and model.hf.config._attn_implementation == "sdpa"
    assert model.pad_id == model.tokenizer.pad_token_id
    prompt = torch.tensor([model.chat.encode("go", "think").ids])
    with torch.no_grad(), model.nn.trace(prompt):
        traced = model.nn.output.logits.save()
    with torch.no_grad():
        assert torch.equal(traced, model.hf(prompt).logits)


def test_loading_a_study_model_again_is_the_same_model(folder):
    model = load(str(folder))
    assert load(model) is model


def test_embedded_names(shelf):
    assert load("rim-mini").name == load("rim-mini:0").name == "rim-mini:0"
    second = load("rim-mini:2")
    assert second.name == "rim-mini:2"
    assert not torch.equal(second.hf.lm_head.weight, load("rim-mini").hf.lm_head.weight)
    table = embedded_models()
    assert list(table.columns) == ["name", "seed", "path", "parameters", "mb"]
    assert table[["name", "seed"]].values.tolist() == [["rim-mini", 0], ["rim-mini", 2]]
    assert table["parameters"].iloc[0] == sum(p.numel() for p in second.hf.parameters())


def test_no_embedded_models(tmp_path, monkeypatch):
    monkeypatch.setattr("rimkit.data.data_dir", lambda: tmp_path)
    assert embedded_models().empty


def test_module_in_memory_stays_where_it_is():
    words = tiny.tokenizer()
    module = tiny.random_model(words).to(torch.bfloat16)
    assert load(module, words).dtype == "bfloat16"
    assert load(module, words).hf is module
    assert load(module, words, dtype="float32").dtype == "float32"
    with pytest.raises(UserError, match="needs its tokenizer"):
        load(module)


@pytest.mark.parametrize(
    ("asked", "capability", "mps", "expected"),
    [
        ((None, None), None, False, ("cpu", "float32")),
        ((None, None), (8, 0), False, ("cuda", "bfloat16")),
        ((None, None), (9, 0), False, ("cuda", "bfloat16")),
        ((None, None), (7, 5), False, ("cuda", "float16")),  # a T4, whatever torch says about bf16
        (("cpu", None), (7, 5), False, ("cpu", "float32")),
        (("cuda:1", "float32"), (8, 0), False, ("cuda:1", "float32")),
        (("mps", None), None, True, ("mps", "float32")),
        ((None, "bfloat16"), None, False, ("cpu", "bfloat16")),
    ],
)
def test_device_rule(asked, capability, mps, expected):
    assert choose_device(*asked, capability=capability, mps=mps) == (*expected, "")


def test_apple_gpu_is_not_used_unasked_and_that_is_said():
    device, dtype, note = choose_device(None, None, capability=None, mps=True)
    assert (device, dtype) == ("cpu", "float32") and 'device="mps"' in note


@pytest.mark.parametrize("device", ["cuda", "mps", "gpu"])
def test_device_that_is_not_there(device):
    with pytest.raises(UserError, match="device"):
        choose_device(device, None, capability=None, mps=False)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_names(shelf, folder):
    assert "did you mean 'rim-mini'" in refusal("rim-mni")
    assert "it has 0, 2" in refusal("rim-mini:1")
    assert "no folder" in refusal(folder.parent / "none")
    assert "no folder" in refusal("./none")
    assert "did you mean 'float32'" in refusal(folder, dtype="float31")


def test_incomplete_folders(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "could not be loaded" in refusal(folder)
    weights.unlink()
    assert "no weights" in refusal(folder)
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)


def test_folder_whose_weights_do_not_fit(folder):
    file, kind = folder / "model.safetensors", {"format": "pt"}
    weights = load_file(file)
    norm = weights.pop("model.norm.weight")
    save_file(weights, file, kind)
    assert "lack 1 tensor(s)" in refusal(folder)  # and is not filled up with random numbers
    save_file(weights | {"model.norm.weight": norm[:3].clone()}, file, kind)
    assert "could not be loaded" in refusal(folder)


def test_folder_without_think_mode_or_template(folder):
    (folder / "chat_template.jinja").write_text(tiny.QWEN_FRAME)
    assert "no think mode" in refusal(folder)
    assert not load(folder, think=False).chat.supports_think
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in refusal(folder, think=False)


def test_hub_out_of_reach_is_one_line(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    assert "cannot be reached" in refusal("nobody/has-this-model")


def test_hub_model_in_the_cache_is_not_asked_for(folder, monkeypatch):
    monkeypatch.setattr(loading, "check_hub", lambda *args: pytest.fail("the hub was asked"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: "config.json")
    monkeypatch.chdir(folder.parent)
    calls = []
    monkeypatch.setattr(loading, "_from_pretrained", lambda *args: calls.append(args[2]) or _read_folder(folder))
    assert load("owner/name").name == "owner/name"
    assert calls == [True]  # local files only


def _read_folder(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
