"""From folders and modules to a model under study."""

import json

import pytest
import templates
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

import rimkit
from rimkit.data import UserError
from rimkit.models.hub import identity
from rimkit.models.load import config_of, load
from rimkit.runs.execute import check_chat, find_model


@pytest.fixture
def folder(tmp_path):
    words = tiny.tokenizer()
    tiny.random_model(words).to(torch.bfloat16).save_pretrained(tmp_path / "tiny")
    words.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_folder(folder):
    model = rimkit.load(folder)
    assert (model.name[:5], model.dtype, model.context) == ("tiny-", "float32", 128)
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


def test_module_in_memory_stays_where_it_is():
    words = tiny.tokenizer()
    module = tiny.random_model(words).to(torch.bfloat16)
    assert load(module, words).dtype == "bfloat16"
    assert load(module, words).hf is module
    assert load(module, words, dtype="float32").dtype == "float32"
    with pytest.raises(UserError, match="needs its tokenizer"):
        load(module)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "could not be loaded" in refusal(folder)
    assert "did you mean 'float32'" in refusal(folder, dtype="float31")


def test_folder_whose_weights_do_not_fit(folder):
    file, kind = folder / "model.safetensors", {"format": "pt"}
    weights = load_file(file)
    norm = weights.pop("model.norm.weight")
    save_file(weights, file, kind)
    assert "lack 1 tensor(s)" in refusal(folder)  # and is not filled up with random numbers
    save_file(weights | {"model.norm.weight": norm[:3].clone()}, file, kind)
    assert "could not be loaded" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 9}, r"asks for other sizes of 1 tensor\(s\): model.embed_tokens.weight \[470, 32\]"),
        ({"hidden_size": 24}, "asks for other sizes of"),
        ({"num_key_value_heads": 0}, "ZeroDivisionError"),
        ({"hidden_act": "no-such"}, "KeyError: 'no-such'"),
        ({"num_hidden_layers": 1, "layer_types": ["full_attention"]}, "has no place for 11 tensor"),
        ({"max_position_embeddings": 100}, r"a context of 100 tokens; a request and a reply of 96 take \d+"),
    ],
)
def test_sizes_that_cannot_be_are_said_before_a_run(folder, changes, said):
    """In the file alone, or stored as a folder that is of one piece."""
    file = folder / "config.json"
    check_chat(str(folder))
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=said) as error:
        check_chat(str(folder))
    assert len(str(error.value)) < 300 + len(str(folder))


@pytest.mark.parametrize("sizes", [{"num_key_value_heads": 3}, {"num_hidden_layers": 0}])
def test_a_model_that_cannot_be_computed(folder, sizes):
    config = tiny.random_model(tiny.tokenizer()).config.to_dict()
    config.pop("layer_types", None)
    Qwen3ForCausalLM(Qwen3Config(**config | sizes)).save_pretrained(folder)
    with pytest.raises(UserError, match="which cannot be computed"):
        check_chat(str(folder))


def test_folder_that_also_holds_an_adapter(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "and an adapter (adapter_config.json): move either" in refusal(folder)


def test_folder_without_think_mode_or_template(folder):
    (folder / "chat_template.jinja").write_text(tiny.QWEN_FRAME)
    assert "no think mode" in refusal(folder)
    assert not load(folder, think=False).chat.supports_think
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in refusal(folder, think=False)


def test_a_vocabulary_larger_than_the_embedding():
    words = tiny.tokenizer()
    model = tiny.random_model(words)
    model.resize_token_embeddings(len(words) - 5)
    assert f"the tokenizer has {len(words)} tokens and the model embeds {len(words) - 5}" in refusal(model, words)


def test_special_tokens_out_of_range():
    words = tiny.tokenizer()
    model = tiny.random_model(words)
    words.add_special_tokens({"pad_token": "<|pad|>"})
    assert f"'<|pad|>' is token {len(words) - 1} and the model embeds {len(words) - 1}" in refusal(model, words)


def test_marks_of_the_template_out_of_range():
    words = tiny.tokenizer(tiny.OPENS_ITSELF.replace("<|im_start|>", "<|turn|>"))
    model = tiny.random_model(words)
    words.add_tokens(["<|turn|>"])
    assert "'<|turn|>' is token" in refusal(model, words)


def test_a_token_that_no_conversation_uses_may_lie_outside():
    words = tiny.tokenizer()
    model = tiny.random_model(words)
    words.add_tokens(["<image>"])
    assert load(model, words).tokenizer is words


@pytest.fixture
def thoughtless(tmp_path):
    """A model without a think mode."""
    return tiny.save(tmp_path / "tiny", tiny.QWEN_FRAME)


def test_thinking_by_instruction_is_asked_for_and_named(thoughtless, capsys):
    assert "load it as 'tiny+instruct'" in refusal(thoughtless)
    study = rimkit.load(f"{thoughtless}+instruct")
    assert study.name == rimkit.load(thoughtless, think="instruct").name == f"tiny-{identity(thoughtless)[:6]}+instruct"
    assert study.chat.thinking == "by instruction" and "thinking: by instruction" in repr(study)
    assert "+instruct: it has no think mode: it thinks by instruction" in capsys.readouterr().out
    none = load(thoughtless, think=False)
    assert (none.chat.thinking, none.chat.supports_think) == ("none", False)
    assert "did you mean 'instruct'" in refusal(thoughtless, think="instruction")


def test_every_row_of_a_model_that_thinks_by_instruction_says_so(thoughtless):
    from rimkit.behavior.evaluation import Evaluation

    study = load(f"{thoughtless}+instruct")
    prompts = Evaluation().sets(["harmful"], n=2)
    verdicts = Evaluation().judged(study, prompts, "think", max_new_tokens=4, progress=False)
    assert set(verdicts["model"]) == {study.name} == {study.identity["model"]} and study.name.endswith("+instruct")
    assert (verdicts["thought"].str.len() > 0).all()  # the forced beginning, at least


def test_what_is_tuned_keeps_its_way_of_thinking(thoughtless):
    from rimkit.training.finetune import study_of

    study = load(f"{thoughtless}+instruct")
    assert study_of(study, study.hf, "tuned").chat.thinking == "by instruction"


def test_the_chapters_can_be_told(thoughtless):
    assert find_model(f"{thoughtless}+instruct") == f"{thoughtless}+instruct"
    with pytest.raises(UserError, match="a context of 128 tokens; a request and a reply of 96 take"):
        check_chat(f"{thoughtless}+instruct")  # which makes prompts longer
    config = thoughtless / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 128', '"max_position_embeddings": 512'))
    check_chat(f"{thoughtless}+instruct")
    with pytest.raises(UserError, match=r"load it as '.*tiny\+instruct' .* to let it think by instruction"):
        check_chat(str(thoughtless))


def test_notes_and_refusals_of_other_templates(thoughtless, capsys):
    (thoughtless / "chat_template.jinja").write_text(
        tiny.OPENS_ITSELF.partition("{%- set off")[0] + "{{- '<think>\\n' }}"
    )
    assert load(thoughtless).chat.thinking == "template opens"
    assert ": its template opens every thought; in no-think mode rimkit closes it" in capsys.readouterr().out
    assert "a think mode of its own (template opens)" in refusal(f"{thoughtless}+instruct")
    (thoughtless / "chat_template.jinja").write_text(templates.HARMONY)
    assert "harmony channels" in refusal(thoughtless)
    (thoughtless / "chat_template.jinja").write_text(templates.SPEAKS_OF_THOUGHTS)
    assert "not understood here" in refusal(thoughtless) and "+instruct" not in refusal(thoughtless)
    (thoughtless / "chat_template.jinja").write_text(templates.DATED)
    assert load(thoughtless).chat.thinking == "switch"
    assert ": its template writes the date, which is always 01 January 2026" in capsys.readouterr().out


def test_spread_over_what_is_there_gives_the_same_model(thoughtless):
    spread, plain = load(thoughtless, think=False, device="auto"), load(thoughtless, think=False)
    ids = torch.tensor([plain.chat.encode("go", "no-think").ids])
    with torch.no_grad():
        assert torch.equal(spread.hf(ids.to(spread.device)).logits.cpu(), plain.hf(ids.to(plain.device)).logits.cpu())
    assert "stays on one device" in refusal(plain.hf, plain.tokenizer, think=False, device="auto")
    assert "keeps its numbers" in refusal(plain.hf, plain.tokenizer, think=False, quantize="4bit")


def test_a_configuration_that_is_not_one(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-kind"}))
    for look in (config_of, check_chat):  # also before a run
        with pytest.raises(UserError, match="tiny could not be loaded"):
            look(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="generates no text: transformers has no causal language model 'vit'"):
        check_chat(str(folder))
