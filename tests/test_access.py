"""Bad input from outside: the hub, its cache, and tokenizers of other models; one clear line each."""

import json
from types import SimpleNamespace

import httpx
import pytest
import templates
import tiny
from huggingface_hub import errors

import rimkit
from rimkit.data import UserError
from rimkit.models import hub as hub_module
from rimkit.models.hub import options_of, with_options
from rimkit.models.load import chat_of, config_of, load
from rimkit.runs.execute import check_chat, find_model

REPO = "owner/name"


@pytest.fixture
def folder(tmp_path):
    """A model without a think mode."""
    words = tiny.tokenizer(tiny.QWEN_FRAME)
    tiny.random_model(words).save_pretrained(tmp_path / "tiny")
    words.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the hub ---------------------------------------------------------------------------------------


def answer(kind, status=403):
    request = httpx.Request("GET", f"https://huggingface.co/api/models/{REPO}")
    return kind("no\n\nan answer of several lines", response=httpx.Response(status, request=request))


@pytest.fixture
def hub(monkeypatch):
    """A hub that raises what it is told to, and an empty cache."""

    def says(error):
        def model_info(*args, **kwargs):
            raise error

        monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)

    cache(monkeypatch)
    return says


def cache(monkeypatch, **models):
    """The cache of the hub holds these models: ``{owner__name: revisions}``."""
    repos = [
        SimpleNamespace(
            repo_id=name.replace("__", "/"), repo_type="model",
            revisions=[SimpleNamespace(refs={ref}, commit_hash="0123456789abcdef") for ref in refs],
        )
        for name, refs in models.items()
    ]  # fmt: skip
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: SimpleNamespace(repos=repos))


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        (errors.GatedRepoError, 403, "'owner/name' is gated: accept its terms on https://huggingface.co/owner/name"),
        (errors.RevisionNotFoundError, 404, "'owner/name' has no revision 'v9' on the hub"),
        (errors.RepositoryNotFoundError, 401, "the hub has no model 'owner/name' that you may see"),
        (errors.HfHubHTTPError, 500, "the hub does not give access to 'owner/name'"),
    ],
)
def test_what_the_hub_refuses(hub, kind, status, words):
    hub(answer(kind, status))
    assert words in refusal(REPO, revision="v9")


def test_a_gated_model_whose_page_is_open(hub, monkeypatch):
    """Everyone may read about it; the refusal comes with the files, wrapped in an error of transformers."""
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **kwargs: None)

    def no_file(*args, **kwargs):
        try:
            raise answer(errors.GatedRepoError)
        except errors.GatedRepoError as error:
            raise OSError("You are trying to access a gated repo.\nMake sure to have access") from error

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", no_file)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", no_file)
    assert "is gated: accept its terms" in refusal(REPO)
    for read in (chat_of, config_of):
        with pytest.raises(UserError, match="is gated"):
            read(REPO)


def test_no_network_names_what_is_cached_and_how_to_get_the_rest(hub, monkeypatch):
    hub(OSError("no route"))
    text = refusal(REPO)
    assert "hub cannot be reached" in text and "run 'rimkit fetch owner/name'" in text and "no models" in text
    cache(monkeypatch, **{f"a__m{i}": ["main"] for i in range(7)})
    assert "in the cache: a/m0, a/m1, a/m2, a/m3, a/m4 and 2 more" in refusal(REPO)
    cache(monkeypatch, owner__name=["main"])
    text = refusal(REPO, revision="v9")
    assert "'owner/name' in revision 'v9' is not complete" in text and "owner/name in revision 01234567, main" in text

    def damaged():
        raise ValueError("damaged")

    monkeypatch.setattr("huggingface_hub.scan_cache_dir", damaged)
    assert "in the cache: nothing" in refusal(REPO)


def test_the_hub_switched_off_is_said(hub, monkeypatch):
    hub(errors.OfflineModeIsEnabled("offline"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be reached (switched off by HF_HUB_OFFLINE)" in refusal(REPO)


def test_an_error_without_an_answer_of_the_hub_is_none():
    assert hub_module.refusal(REPO, None, OSError("disk")) == ""


def test_folders_have_no_revisions(folder):
    assert "tiny is a folder and has no revisions" in refusal(folder, revision="main")


# -- a tokenizer of another model ------------------------------------------------------------------


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


# -- thinking by instruction, and other options of a name ------------------------------------------


def test_options_of_a_name(tmp_path):
    assert options_of("owner/name+instruct+4bit") == ("owner/name", {"think": "instruct", "quantize": "4bit"})
    assert options_of("rim-mini+soft:1") == options_of("rim-mini:1+soft") == ("rim-mini:1", {"think": "soft"})
    assert options_of("owner/name") == ("owner/name", {}) and options_of(tmp_path) == (tmp_path, {})
    (tmp_path / "c+instruct").mkdir()
    assert options_of(str(tmp_path / "c+instruct")) == (str(tmp_path / "c+instruct"), {})
    assert with_options("rim-mini:1", "soft", "4bit") == "rim-mini+soft+4bit:1" and with_options("a/b", True) == "a/b"
    with pytest.raises(UserError, match=r"unknown option '\+instuct'.*did you mean 'instruct'"):
        options_of("owner/name+instuct")


def test_thinking_by_instruction_is_asked_for_and_named(folder, capsys):
    assert "load it as 'tiny+instruct'" in refusal(folder)
    study = rimkit.load(f"{folder}+instruct")
    assert study.name == rimkit.load(folder, think="instruct").name == "tiny+instruct"
    assert study.chat.thinking == "by instruction" and "thinking: by instruction" in repr(study)
    assert "tiny+instruct: it has no think mode: it thinks by instruction" in capsys.readouterr().out
    none = load(folder, think=False)
    assert (none.name, none.chat.thinking, none.chat.supports_think) == ("tiny", "none", False)
    assert "did you mean 'instruct'" in refusal(folder, think="instruction")


def test_every_row_of_a_model_that_thinks_by_instruction_says_so(folder):
    from rimkit.behavior.evaluation import judged, load_sets
    from rimkit.teaching import identity

    study = load(f"{folder}+instruct")
    prompts = load_sets(["harmful"], n=2)
    verdicts = judged(study, prompts, "think", max_new_tokens=4, progress=False)
    assert set(verdicts["model"]) == {"tiny+instruct"} == {identity(study)["model"]}
    assert (verdicts["thought"].str.len() > 0).all()  # the forced beginning, at least


def test_what_is_tuned_keeps_its_way_of_thinking(folder):
    from rimkit.training.finetune import study_of

    study = load(f"{folder}+instruct")
    assert study_of(study, study.hf, "tuned").chat.thinking == "by instruction"


def test_the_chapters_can_be_told(folder):
    assert find_model(f"{folder}+instruct") == f"{folder}+instruct"
    check_chat(f"{folder}+instruct")
    with pytest.raises(UserError, match=r"with '--model .*tiny\+instruct' it thinks by instruction"):
        check_chat(str(folder))


def test_notes_and_refusals_of_other_templates(folder, capsys):
    (folder / "chat_template.jinja").write_text(tiny.OPENS_ITSELF.partition("{%- set off")[0] + "{{- '<think>\\n' }}")
    assert load(folder).chat.thinking == "template opens"
    assert "tiny: its template opens every thought; in no-think mode rimkit closes it" in capsys.readouterr().out
    assert "a think mode of its own (template opens)" in refusal(f"{folder}+instruct")
    (folder / "chat_template.jinja").write_text(templates.HARMONY)
    assert "harmony channels" in refusal(folder)
    (folder / "chat_template.jinja").write_text(templates.SPEAKS_OF_THOUGHTS)
    assert "yields no think span" in refusal(folder)


def test_spread_over_what_is_there_gives_the_same_model(folder):
    import torch

    spread, plain = load(folder, think=False, device="auto"), load(folder, think=False)
    ids = torch.tensor([plain.chat.encode("go", "no-think").ids])
    with torch.no_grad():
        assert torch.equal(spread.hf(ids.to(spread.device)).logits.cpu(), plain.hf(ids.to(plain.device)).logits.cpu())
    assert "stays on one device" in refusal(plain.hf, plain.tokenizer, think=False, device="auto")
    assert "keeps its numbers" in refusal(plain.hf, plain.tokenizer, think=False, quantize="4bit")


def test_a_configuration_that_is_not_one(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-kind"}))
    with pytest.raises(UserError, match="tiny could not be loaded"):
        config_of(str(folder))
