"""Names of models, what of them is here, and what the hub refuses; one clear line each."""

import os
import subprocess
import sys
from types import SimpleNamespace

import fakehub
import httpx
import pytest
import tiny
import torch
from huggingface_hub import errors

from rimkit.data import UserError
from rimkit.models import hub as hub_module
from rimkit.models.hub import Source, embedded_models, locate, options_of, refusal, with_options
from rimkit.models.load import chat_of, config_of, load

REPO = "owner/name"


def refused(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
        (errors.GatedRepoError, 403, "asks for consent first: open https://huggingface.co/owner/name, accept its"),
        (errors.RevisionNotFoundError, 404, "owner/name has no revision 'v9'"),
        (errors.RepositoryNotFoundError, 401, "the hub has no model 'owner/name'"),
        (errors.HfHubHTTPError, 500, "the hub answers 500 for owner/name"),
    ],
)
def test_what_the_hub_refuses(hub, kind, status, words):
    hub(answer(kind, status))
    assert words in refused(REPO, revision="v9")


def test_a_gated_model_whose_page_is_open(hub, monkeypatch):
    """Everyone may read about it; the refusal comes with the files."""
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **kwargs: None)

    def no_file(**kwargs):
        raise answer(errors.GatedRepoError)

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_file)
    assert "asks for consent first" in refused(REPO)
    for read in (chat_of, config_of):
        with pytest.raises(UserError, match="asks for consent first"):
            read(REPO)


def test_no_network_names_what_is_cached_and_how_to_get_the_rest(hub, monkeypatch):
    hub(httpx.ConnectError("no route"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    text = refused(REPO)
    assert "huggingface.co cannot be reached: run 'rimkit fetch owner/name' once with network" in text
    assert "in the cache: no models" in text
    cache(monkeypatch, **{f"a__m{i}": ["main"] for i in range(7)})
    assert "in the cache: a/m0, a/m1, a/m2, a/m3, a/m4 and 2 more" in refused(REPO)
    cache(monkeypatch, owner__name=["main"])
    text = refused(REPO, revision="v9")
    assert (
        "owner/name in revision 'v9' is not on this machine" in text and "owner/name in revision 01234567, main" in text
    )

    def damaged():
        raise ValueError("damaged")

    monkeypatch.setattr("huggingface_hub.scan_cache_dir", damaged)
    assert "in the cache: nothing" in refused(REPO)


def test_the_hub_switched_off_is_said(hub, monkeypatch):
    hub(errors.OfflineModeIsEnabled("offline"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "is not on this machine and HF_HUB_OFFLINE is set" in refused(REPO)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "cannot be stored in .* (No space left on device)"),
        (errors.HFValidationError("a--b"), "'a--b/c' is no name of a data set: write owner/name"),
        (KeyError("x"), "could not be fetched (KeyError: 'x')"),
    ],
)
def test_what_else_goes_wrong(error, words):
    start, _, end = words.partition(".*")
    found = refusal(error, Source("a--b/c", "dataset", None))
    assert start in found and end in found


LOADS = "import rimkit, sys; print(rimkit.load('some/model', think=False).name)"


def test_a_model_comes_from_the_hub_once_and_then_from_the_cache(tmp_path):
    tiny.save(tmp_path / "hub" / "some" / "model")
    (tmp_path / "hub" / "some" / "model" / "pytorch_model.bin").write_bytes(b"never read")
    server, address, asked = fakehub.serve(tmp_path / "hub", ("main",))
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    try:
        for expected in (True, False):
            asked.clear()
            found = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, env=environment)
            assert found.stdout == "some/model\n", found.stderr
            assert any("some/model" in line for line in asked) == expected
            assert not any("pytorch_model" in line for line in asked)
    finally:
        server.shutdown()


def test_folders_have_no_revisions(tmp_path):
    assert "tiny is a folder and has no revisions" in refused(tiny.save(tmp_path / "tiny"), revision="main")


def test_options_of_a_name(tmp_path):
    assert options_of("owner/name+instruct+4bit") == ("owner/name", {"think": "instruct", "quantize": "4bit"})
    assert options_of("rim-mini+soft:1") == options_of("rim-mini:1+soft") == ("rim-mini:1", {"think": "soft"})
    assert options_of("owner/name") == ("owner/name", {}) and options_of(tmp_path) == (tmp_path, {})
    (tmp_path / "c+instruct").mkdir()
    assert options_of(str(tmp_path / "c+instruct")) == (str(tmp_path / "c+instruct"), {})
    assert with_options("rim-mini:1", "soft", "4bit") == "rim-mini+soft+4bit:1" and with_options("a/b", True) == "a/b"
    with pytest.raises(UserError, match=r"unknown option '\+instuct'.*did you mean 'instruct'"):
        options_of("owner/name+instuct")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A data folder with two seeds of one embedded model."""
    for seed in (0, 2):
        tiny.save(tmp_path / "data" / "models" / "rim-mini" / f"seed{seed}", seed=seed)
    monkeypatch.setattr(hub_module, "data_dir", lambda: tmp_path / "data")


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
    monkeypatch.setattr(hub_module, "data_dir", lambda: tmp_path)
    assert embedded_models().empty


def test_unknown_names(shelf, tmp_path):
    assert "did you mean 'rim-mini'" in refused("rim-mni")
    assert "it has 0, 2" in refused("rim-mini:1")
    assert "no folder" in refused(tmp_path / "none")
    assert "no folder" in refused("./none")


def test_names_that_are_none(tmp_path):
    assert locate("owner/name", "v1")[:3] == ("owner/name", "owner/name", "v1")
    tiny.save(tmp_path / "tiny")
    (tmp_path / "tiny" / "model.safetensors").unlink()
    assert "no weights" in refused(tmp_path / "tiny")
    (tmp_path / "tiny" / "config.json").unlink()
    assert "no config.json" in refused(tmp_path / "tiny")
