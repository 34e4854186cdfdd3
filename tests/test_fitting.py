"""Does it fit: counts against real modules, the plan, too large a model, and its speed."""

import re

import families
import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rimkit.data import UserError
from rimkit.models import device
from rimkit.models.device import Place, check_quantize, check_spread
from rimkit.models.hooks import FAMILIES
from rimkit.models.load import config_of, load
from rimkit.runs import plan

GIB = device.GIB
# Published sizes: parameters in all, KiB of keys and values per token in 16 bits.
KNOWN = {
    "Llama 3 8B": (("llama", {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                              "num_attention_heads": 32, "num_key_value_heads": 8}), 8_030_261_248, 128),
    "Qwen3 4B": (("qwen3", {"vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                            "tie_word_embeddings": True}), 4_022_468_096, 144),
}  # fmt: skip


@pytest.fixture(scope="module")
def llama():
    (kind, sizes), *_ = KNOWN["Llama 3 8B"]
    return device.needs_of(AutoConfig.for_model(kind, **sizes))


@pytest.mark.parametrize("name", KNOWN)
def test_published_sizes(name):
    (kind, sizes), parameters, per_token = KNOWN[name]
    needs = device.needs_of(AutoConfig.for_model(kind, **sizes))
    assert needs.parameters == parameters
    assert needs.weights("bfloat16") == 2 * parameters == needs.weights("float32") / 2
    assert needs.cache("bfloat16", 1000) == per_token * 1024 * 1000


@pytest.mark.parametrize(
    ("name", "parameters"), [("Qwen3-0.6B", 596_049_920), ("Qwen3-4B", 4_022_468_096), ("Qwen3-8B", 8_190_735_360)]
)
def test_shapes_that_are_known_without_a_network(name, parameters):
    assert device.needs_of(plan.shape(name)).parameters == parameters
    with pytest.raises(UserError, match="did you mean 'Qwen3-4B'"):
        plan.shape("Qwen3-4b")


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_those_of_the_module(family):
    study = families.family(family)
    needs = device.needs_of(study.hf.config)
    assert needs.parameters == sum(weight.numel() for weight in study.hf.parameters())
    ids = torch.zeros(1, 40, dtype=torch.long)
    with torch.no_grad():
        cache = study.hf(ids, use_cache=True).past_key_values
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert needs.cache("float32", 40) == kept


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("gemma2", "qwen3_moe", "olmoe")])
def test_gradients_keep_about_what_is_planned(family):
    """Between two thirds and one and a half times; the guess is meant to be high."""
    config = AutoConfig.for_model(
        family, vocab_size=300, hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, pad_token_id=0, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    hf, seen = AutoModelForCausalLM.from_config(config), {}
    weights = {weight.untyped_storage().data_ptr() for weight in hf.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hf.model(input_ids=torch.zeros(2, 64, dtype=torch.long), use_cache=False)
    kept = sum(size for place, (_, size) in seen.items() if place not in weights)
    assert 2 / 3 < 2 * device.needs_of(config).gradients("float32", 64) / kept < 3 / 2


def test_four_bits_round_the_layers_and_not_the_embeddings(llama):
    embeddings = 2 * 128256 * 4096
    assert llama.linear == 8_030_261_248 - embeddings - 65 * 4096  # norms
    assert llama.weights("float16", "4bit") == pytest.approx(2 * embeddings + 0.516 * llama.linear, rel=1e-3)


def test_what_is_at_once_falls_with_length_and_weights(llama):
    short, long = (device.at_once(llama, 40 * GIB, "bfloat16", tokens) for tokens in (512, 4096))
    assert all(a >= b for a, b in zip(short, long, strict=True)) and short[0] > short[1] > short[2] > 0
    assert device.at_once(llama, 14 * GIB, "float16", 512) == (0, 0, 0)
    assert device.at_once(llama, 14 * GIB, "float16", 512, "4bit")[0] > 0


def test_a_window_bounds_the_cache():
    sizes = KNOWN["Llama 3 8B"][0][1]
    needs = device.needs_of(AutoConfig.for_model("mistral", **sizes, sliding_window=1024))
    assert needs.cache("bfloat16", 8192) == needs.cache("bfloat16", 1024) == 128 * 1024 * 1024


@pytest.fixture
def folder(tmp_path):
    """A model of eight billion parameters, of which there is only the configuration."""
    kind, sizes = KNOWN["Llama 3 8B"][0]
    AutoConfig.for_model(kind, **sizes).save_pretrained(tmp_path / "llama")
    return str(tmp_path / "llama")


def test_the_plan(folder):
    _, table = plan.plan(folder)
    assert list(table.columns) == plan.COLUMNS
    table = table.set_index("device")
    assert list(table.index)[1:] == list(device.GPUS) and plan.HERE in table.index[0]
    assert table.loc["T4", "dtype"] == "float16" and table.loc["L4", "dtype"] == "bfloat16"
    assert table.loc["T4", "verdict"] == "too large by 1.6 GiB; +4bit fits"
    assert table.loc["H100", "verdict"] == "fits"
    rounded = plan.plan(f"{folder}+4bit", "t4")[1]
    assert rounded["device"].tolist() == ["T4"] and rounded["generate"].iloc[0] > 0
    size, _, shown = plan.report(folder, "H100")
    assert "8.03 billion parameters in 32 layers" in size and shown["device"].tolist() == ["H100"]


def test_bad_plans(folder, tmp_path):
    for arguments, words in (
        ((folder, "T5"), "unknown GPU 'T5'.*known are T4"),
        ((folder, "T4", 0), "tokens must be 1"),
        (("rim-mni",), "did you mean 'rim-mini'"),
        ((f"{folder}+8bit",), r"unknown option '\+8bit'.*did you mean '4bit'"),
    ):
        with pytest.raises(UserError, match=words):
            plan.plan(*arguments)
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="'vit' is not a causal language model"):
        plan.plan(str(tmp_path / "vit"))


def test_too_large_for_this_device(tmp_path, monkeypatch):
    words = tiny.tokenizer()
    tiny.random_model(words).save_pretrained(tmp_path / "tiny")
    words.save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr(device, "free_bytes", lambda device: 40_000)
    with pytest.raises(UserError, match=r"tiny is too large for this device by 0\.0 GiB.*dtype=\"bfloat16\"") as caught:
        load(tmp_path / "tiny", device="cpu")
    assert "\n" not in str(caught.value)


def test_too_large_is_said_with_what_would_help(llama):
    text = device.too_large("owner/llama", llama, Place("cuda", "float16"), 14.6 * GIB)
    assert text == (
        "owner/llama is too large for this device by 0.4 GiB: its weights take 15.0 GiB in float16 and cuda has 14.6 GiB "
        "free; load it in 4 bits ('owner/llama+4bit', 5.3 GiB) or take a smaller model or a larger device"
    )


def test_a_model_too_large_for_one_gpu_is_spread_over_several(folder, monkeypatch):
    monkeypatch.setattr(device, "free_bytes", lambda device: 10 * GIB)
    for gpus, place in ((2, Place("auto", "float16")), (1, None)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        if place:
            assert device.check_fits("x", folder, config_of(folder), Place("cuda", "float16")) == place
        else:
            with pytest.raises(UserError, match="too large"):
                device.check_fits("x", folder, config_of(folder), Place("cuda", "float16"))


@pytest.mark.parametrize(
    ("places", "refused"), [({"": 0}, False), ({"": "cpu"}, False), ({"a": 0, "b": 1}, False), ({"a": 0, "b": "cpu"}, True),
                            ({"a": "cpu", "b": "disk"}, True), (None, False)],
)  # fmt: skip
def test_part_of_a_model_outside_the_gpus_is_refused(places, refused):
    hf = type("Module", (), {"hf_device_map": places})
    if refused:
        with pytest.raises(UserError, match="part of it would lie on"):
            check_spread("x", hf)
    else:
        check_spread("x", hf)


@pytest.mark.parametrize(
    ("asked", "on_gpu", "words"),
    [
        ("8bit", True, r"unknown quantize '8bit'; did you mean '4bit'"),
        ("4bit", False, "need an NVIDIA GPU"),
        ("4bit", True, "pip install bitsandbytes"),
    ],
)
def test_four_bits_that_cannot_be_had(asked, on_gpu, words, monkeypatch):
    monkeypatch.setattr("rimkit.models.device.find_spec", lambda name: None)
    with pytest.raises(UserError, match=words):
        check_quantize(asked, on_gpu=on_gpu)


def test_minutes_grow_with_what_a_chapter_does(monkeypatch):
    speed = plan.measure(tiny.study(), room=4, together=6)
    assert all(value > 0 for value in speed) and speed.heads == 8 and speed.conversation <= speed.prompt + 4
    work = {
        "a": plan.Work(10, 0),
        "b": plan.Work(10, 5, tokens=100),
        "c": plan.Work(0, 0, read=2, swept=1),
        "d": plan.Work(0, 1, trained=3),
    }
    monkeypatch.setattr(plan, "CHAPTERS", work)
    speed = plan.Speed(
        thought=4, reply=2, token=0.5, prompt=10, conversation=90, reading=0.25, gradients=1, example=20, heads=8
    )
    assert (60 * plan.minutes(speed)["minutes"]).round(9).tolist() == [
        40,
        50 + 50 * 4 / 32,
        (20 + 10 * 8 / 2) / 4,
        2 + 60,
    ]
    closed = plan.minutes(speed._replace(reading=float("nan"), gradients=float("nan"), example=0))["minutes"]
    assert closed.isna().tolist() == [False, False, True, True]


def test_a_plan_says_the_room_that_was_asked_for_and_where_gradients_fit(monkeypatch, llama):
    asked = []
    monkeypatch.setattr(
        plan,
        "measure",
        lambda study, room, together: asked.append(room) or plan.Speed(1, 1, 1, 50, 90, 0.1, 0.2, 100, 8),
    )
    monkeypatch.setattr(plan, "CHAPTERS", {"a": plan.Work(360, 0)})
    *_, said, table = plan.report("rim-mini", "T4", 4096, calibrate=True)
    assert asked == [4096 - plan.PROMPT] and "`rimkit run --model rim-mini --max-new-tokens 4032`" in said
    assert table.to_numpy().tolist() == [["a", "    6.0"]]
    row = next(plan.devices(llama, "A10", 4096).itertuples())
    assert row.generate and not row.gradients
    fit, rounded = map(int, re.findall(r"(\d+) tokens", plan.with_gradients(llama, row, None)))
    assert (
        plan.devices(llama, "A10", fit - 1)["gradients"].item() == 1
        and not plan.devices(llama, "A10", fit + 1)["gradients"].item()
    )
    assert plan.devices(llama, "A10", rounded - 1, "4bit")["gradients"].item() == 1 and rounded > fit


def test_every_chapter_that_runs_a_model_is_in_the_estimate():
    from rimkit.data import chapters_dir

    shipped = {path.stem for path in chapters_dir().glob("*.ipynb")}
    assert set(plan.CHAPTERS) == shipped - {"08_reading_the_paper"}


def test_the_command(folder):
    from typer.testing import CliRunner

    from rimkit.cli import app

    shown = CliRunner().invoke(app, ["plan", folder, "--gpu", "L4", "--tokens", "512"])
    assert shown.exit_code == 0 and "conversations of 512 tokens" in shown.output
    wrong = CliRunner().invoke(app, ["plan", folder, "--gpu", "T5"])
    assert wrong.exit_code == 2 and wrong.output.count("\n") == 1 and "unknown GPU 'T5'" in wrong.output
    assert "no weights are downloaded" in " ".join(CliRunner().invoke(app, ["plan", "--help"]).output.split())
