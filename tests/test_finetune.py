"""Fine-tuning: what is learned, what is kept, and that an interruption changes nothing."""

import json
from functools import cache

import pandas as pd
import pytest
import tiny
import torch

from rimkit.data import PARTS, UserError
from rimkit.models.load import load
from rimkit.training import finetune as training
from rimkit.training.corpora import load_corpus
from rimkit.training.finetune import finetune

SMALL = {"batch_size": 4, "learning_rate": 5e-3, "progress": False}


@cache
def examples(name: str = "single-hop") -> pd.DataFrame:
    table = load_corpus(name).head(8)
    table.attrs["corpus"] = name
    return table


def weights(study) -> dict:
    return {name: p.detach().clone() for name, p in study.hf.named_parameters()}


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


def recorded(checkpoint) -> dict:
    return json.loads((checkpoint / "training.json").read_text())


def test_it_learns_the_assistants_words_and_leaves_the_model_alone():
    study, before = tiny.study(), weights(tiny.study())
    tuned = finetune(study, examples(), steps=80, **SMALL)
    assert all(torch.equal(before[name], p) for name, p in study.hf.named_parameters())
    row = examples().iloc[0]
    prompt = study.chat.encode(row["text"], "think").ids
    whole = study.chat.encode(row["text"], "think", thought=row["thought"], reply=row["reply"]).ids
    written = tuned.hf.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0].tolist()
    assert written[: len(whole)] == whole
    assert written[len(whole)] == study.tokenizer.eos_token_id
    assert tuned.name == f"{study.name} after single-hop"
    assert not tuned.hf.training


@pytest.mark.parametrize("name", ["single-hop", "literal"])
def test_the_loss_is_on_the_assistants_tokens_only(name):
    study = tiny.study()
    for (ids, n_prompt), row in zip(
        training.encode_corpus(study, examples(name)), examples(name).itertuples(), strict=True
    ):
        learned = study.tokenizer.decode(ids[n_prompt:])
        said = f"<think> \n {row.thought} \n </think> \n\n {row.reply}" if row.thought else row.reply
        assert learned.split() == f"{said} <|im_end|>".split()
        assert row.text.split()[-3] not in learned.split()[:1]


def test_padding_changes_no_loss():
    study = tiny.study()
    sequences = training.encode_corpus(study, pd.concat([examples("arithmetic"), examples("longer-careful")]))
    alone = training.batch_loss(study.hf, sequences, study.pad_id, 1)
    together = training.batch_loss(study.hf, sequences, study.pad_id, 16)
    logits = [study.hf(torch.tensor([ids])).logits[0, n - 1 : -1] for ids, n in sequences]
    wanted = [torch.tensor(ids[n:]) for ids, n in sequences]
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(wanted)).item()
    assert alone == pytest.approx(expected, abs=1e-5)
    assert together == pytest.approx(expected, abs=1e-5)


def test_a_model_without_think_mode_learns_the_chain_in_its_reply():
    words = tiny.tokenizer(tiny.QWEN_FRAME)
    study = load(tiny.random_model(words), words, think=False)
    ids, n_prompt = training.encode_corpus(study, examples())[0]
    row = examples().iloc[0]
    assert study.tokenizer.decode(ids[n_prompt:]).split() == f"{row['thought']} {row['reply']} <|im_end|>".split()
    assert finetune(study, examples(), steps=1, **SMALL).chat.supports_think is False


def test_a_template_that_opens_the_thought_itself():
    words = tiny.tokenizer(tiny.OPENS_ITSELF)
    study = load(tiny.random_model(words), words)
    ids, n_prompt = training.encode_corpus(study, examples())[0]
    row = examples().iloc[0]
    assert study.tokenizer.decode(ids[n_prompt:]).split() == (
        f"{row['thought']} </think> {row['reply']} <|im_end|>".split()
    )


def at_the_fifth(monkeypatch, problem=None, loss: float = 0.0) -> None:
    """The fifth loss of all is not what it should be."""
    calls, real = [], training.batch_loss

    def batch_loss(*arguments) -> float:
        calls.append(1)
        if len(calls) == 5 and problem:
            raise problem
        return real(*arguments) + (loss if len(calls) == 5 else 0.0)

    monkeypatch.setattr(training, "batch_loss", batch_loss)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_going_on_after_an_interruption_changes_nothing(tmp_path, method, monkeypatch):
    study, settings = tiny.study(), {"method": method, "steps": 6, "save_every": 2, **SMALL}
    whole = finetune(study, examples(), folder=tmp_path / "whole", **settings)

    at_the_fifth(monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        finetune(study, examples(), folder=tmp_path / "cut", **settings)
    assert list(training.steps_in(tmp_path / "cut")) == [2, 4]
    resumed = finetune(study, examples(), folder=tmp_path / "cut", **settings)
    assert same(whole, resumed)
    one, other = (recorded(tmp_path / name / "step-00006")["losses"] for name in ("whole", "cut"))
    assert one == other
    assert same(finetune(study, examples(), folder=tmp_path / "whole", **settings), whole)  # complete: only read


def test_a_running_chapter_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """Of a tuning of a model of one's own, where nobody named a folder; other trainings beside it."""
    words = tiny.tokenizer()
    words.init_kwargs.pop("language")
    study, settings = load(tiny.random_model(words), words), {"method": "full", "steps": 6, **SMALL}
    whole = finetune(study, examples(), **settings)
    monkeypatch.setattr(training, "KEEP", 2)
    monkeypatch.setenv(PARTS, str(tmp_path))
    at_the_fifth(monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        finetune(study, examples(), **settings)
    (folder,) = (tmp_path / "tunings").iterdir()
    assert list(training.steps_in(folder)) == [4]
    assert same(finetune(study, examples(), **settings), whole)
    assert list(training.steps_in(folder)) == [6]
    with training.checkpoint_folder(study, "single-hop", {}) as own:
        assert own.parent == folder.parent and own != folder
    with training.checkpoint_folder(tiny.study(), "single-hop", {}) as other:
        assert tmp_path not in other.parents


@pytest.mark.parametrize("method", ["full", "lora"])
def test_restoring_a_checkpoint(tmp_path, method):
    study = tiny.study()
    tuned = finetune(study, examples(), method=method, steps=4, folder=tmp_path, save_every=2, **SMALL)
    found = training.steps_in(tmp_path)
    assert list(found) == [2, 4]
    assert same(training.restore(study, found[4]), tuned)
    early = training.restore(study, found[2])
    assert not same(early, tuned)
    assert early.name.endswith("after single-hop, step 2")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    study = tiny.study()
    one, again, other = (finetune(study, examples(), steps=3, seed=seed, **SMALL) for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    finetune(tiny.study(), examples(), steps=1, **SMALL)
    assert torch.equal(torch.rand(1), expected)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    at_the_fifth(monkeypatch, loss=float("nan"))
    with pytest.raises(UserError, match=r"not finite at step 5; the last good checkpoint is .*step-00004"):
        finetune(tiny.study(), examples(), steps=6, folder=tmp_path, save_every=2, **SMALL)
    kept = training.restore(tiny.study(), training.steps_in(tmp_path)[2])
    assert all(torch.isfinite(p).all() for p in kept.hf.parameters())
    at_the_fifth(monkeypatch, loss=float("inf"))
    with pytest.raises(UserError, match="at step 5; no checkpoint was written"):
        finetune(tiny.study(), examples(), steps=6, **SMALL)


def test_adapter_of_another_model(tmp_path):
    finetune(tiny.study(), examples(), method="lora", steps=1, folder=tmp_path, **SMALL)
    words = tiny.tokenizer()
    other = load(tiny.random_model(words, seed=1), words)
    with pytest.raises(UserError, match="was trained from another model than"):
        training.restore(other, tmp_path / "step-00001")
    other = tiny.study()
    other.hf.model.layers[-1].mlp.down_proj.weight.data[-1, -1] += 1  # one number of all
    with pytest.raises(UserError, match="was trained from another model than"):
        training.restore(other, tmp_path / "step-00001")
    with pytest.raises(UserError, match="is no checkpoint"):
        training.restore(other, tmp_path)


def test_weights_that_do_not_fit(tmp_path):
    from safetensors.torch import load_file, save_file

    finetune(tiny.study(), examples(), steps=1, folder=tmp_path, **SMALL)
    file = tmp_path / "step-00001" / "weights.safetensors"
    stored = load_file(file)
    stored.pop("model.norm.weight")
    save_file(stored, file)
    with pytest.raises(UserError, match=r"1 of its weights differ in name or shape, first model\.norm\.weight"):
        training.restore(tiny.study(), file.parent)
    file.write_bytes(b"junk")
    with pytest.raises(UserError, match="cannot be read"):
        training.restore(tiny.study(), file.parent)


def test_a_folder_with_another_training(tmp_path):
    finetune(tiny.study(), examples(), steps=1, folder=tmp_path, **SMALL)
    with pytest.raises(UserError, match=r"holds another training \(seed 0, here 1\)"):
        finetune(tiny.study(), examples(), steps=1, seed=1, folder=tmp_path, **SMALL)
    record = recorded(tmp_path / "step-00001")
    assert record["corpus"] == "single-hop"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"method": "lore"}, "did you mean 'lora'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        finetune(tiny.study(), examples(), progress=False, **settings)


def test_bad_corpora():
    table = examples()
    with pytest.raises(UserError, match="has no column reply"):
        finetune(tiny.study(), table.drop(columns="reply"))
    with pytest.raises(UserError, match="has no examples"):
        finetune(tiny.study(), table.head(0))
    with pytest.raises(UserError, match="has no reply to learn from in example 'single-hop-000'"):
        finetune(tiny.study(), table.assign(reply=""))
    with pytest.raises(UserError, match="shorten it"):
        finetune(tiny.study(), table.assign(thought="1 " * 200))


def test_the_papers_settings_are_the_defaults_for_real_models():
    assert training.DEFAULTS["lora"] == {"learning_rate": 1e-5, "epochs": 3, "batch_size": 32}
    assert {**training.LORA, "target_modules": ...} == {
        "r": 32, "lora_alpha": 64, "use_rslora": True, "lora_dropout": 0.0, "bias": "none", "target_modules": ...,
    }  # fmt: skip
