"""`rimkit fetch` as a user meets it: the installed command against a local hub, mirrors, and no network."""

import json
import os
import subprocess
import sys

import fakehub
import pytest
import standins
from typer.testing import CliRunner

from rimkit.behavior import prompts
from rimkit.cli import app
from rimkit.data import UserError
from rimkit.runs.fetch import find

COMMAND = "from rimkit.cli import main; main()"


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """A hub with the stand-ins and a small model, and an empty cache; what it is asked is in ``asked``."""
    root = standins.write_mirror(tmp_path_factory.mktemp("hub"))
    model = root / "some" / "model"
    (model / "onnx").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "model.bin"):
        (model / name).write_text(name)
    (model / "onnx" / "config.json").write_text("x" * 1000)
    revisions = tuple(one.revision for one in prompts.BENCHMARKS.values())
    server, address, asked = fakehub.serve(root, revisions)
    cache = tmp_path_factory.mktemp("cache")
    yield {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}, asked
    server.shutdown()


def rimkit(environment: dict, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "COLUMNS": "300", **environment}
    environment.pop("HF_TOKEN", None)
    command = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def failures(process) -> dict[str, str]:
    """The failures by name; each is one line, and there is nothing else on stderr."""
    lines = process.stderr.strip().splitlines()
    assert all(line.startswith("rimkit: ") for line in lines), process.stderr
    return dict(line.removeprefix("rimkit: ").split(": ", 1) for line in lines)


def test_a_class_is_prepared_and_one_failure_stops_nothing(online):
    environment, asked = online
    names = [
        "gsm8k",
        "hex-phi",
        "xstest@nowhere",
        "some/model",
        "nobody/nothing",
        "xstest",
        "rim-mini",
        "some/model@v9",
    ]
    first = rimkit(environment, "fetch", *names)
    assert first.returncode == 2
    failed = failures(first)
    assert list(failed) == ["hex-phi", "xstest@nowhere", "nobody/nothing", "some/model@v9"]
    assert "asks for consent first" in failed["hex-phi"]
    assert "/datasets/LLM-Tuning-Safety/HEx-PHI" in failed["hex-phi"] and "hf auth login" in failed["hex-phi"]
    assert failed["xstest@nowhere"].startswith("Paul/XSTest has no revision 'nowhere'")
    assert failed["nobody/nothing"].startswith("the hub has no model 'nobody/nothing'")
    assert failed["some/model@v9"].startswith("some/model has no revision 'v9'")
    for name in ("gsm8k", "some/model", "xstest"):
        assert f"{name}: getting " in first.stdout
        assert f"{name}: fetched (" in first.stdout
    assert "rim-mini: comes with the workbook" in first.stdout
    assert first.stdout.index("Content note: 'hex-phi'") < first.stdout.index("some/model: getting")
    assert "Content note: 'gsm8k'" not in first.stdout
    got = {line.partition("/resolve/")[2].partition("/")[2] for line in asked if "GET /some/model/resolve" in line}
    assert got == {"config.json", "tokenizer.json", "model.safetensors"}  # no other formats of the weights

    asked.clear()
    again = rimkit(environment, "fetch", "gsm8k", "xstest", "some/model")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("here already (") == 3
    assert asked == []  # what is here needs no network

    listed = rimkit(environment | {"HF_HUB_OFFLINE": "1"}, "fetch")
    assert listed.returncode == 0, listed.stderr
    row = {line.split("│")[1].strip(): line for line in listed.stdout.splitlines() if line.count("│") > 5}
    assert " MB" in row["gsm8k"] and "740312add8" in row["gsm8k"]
    assert "│ no " in row["hex-phi"] and "asks for consent" in row["hex-phi"]
    assert "main (not pinned)" in row["multiarith"]
    assert "some/model (" in listed.stdout

    loads = "from rimkit.behavior.prompts import load_prompts as load\nprint(*load('gsm8k')['source'].unique(), len(load('xstest')))"
    offline = {**os.environ, **environment, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, env=offline)
    assert found.stdout.splitlines()[-1] == "openai/gsm8k@740312add88f781978c0658806c59bc2815b9866 8", found.stderr


def test_without_network_it_says_what_is_missing_and_what_to_do(tmp_path):
    mirror = standins.write_mirror(tmp_path / "mirror")
    (mirror / "openai/gsm8k/main/test-00000-of-00001.parquet").unlink()
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "RIMKIT_DATASETS": str(mirror)}
    process = rimkit(environment, "fetch", "gsm8k", "xstest", "some/model")
    assert process.returncode == 2
    failed = failures(process)
    assert list(failed) == ["gsm8k", "some/model"]
    for reason, command in zip(failed.values(), ("rimkit fetch", "rimkit fetch some/model"), strict=True):
        assert f"not on this machine and HF_HUB_OFFLINE is set: run '{command}' once with network" in reason
    assert "RIMKIT_DATASETS" in failed["gsm8k"]
    assert "xstest: here already (0.0 MB)" in process.stdout


def test_a_hub_that_does_not_answer(tmp_path):
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    process = rimkit(environment, "fetch", "aime25")
    assert process.returncode == 2
    assert "http://127.0.0.1:9 cannot be reached" in failures(process)["aime25"]


def test_a_model_that_was_cut_off_is_not_here(tmp_path, monkeypatch):
    """A cache as the hub's library lays it out, in which a part of the weights is missing."""
    folder = tmp_path / "hub" / "models--some--model" / "snapshots" / fakehub.COMMIT
    folder.mkdir(parents=True)
    (tmp_path / "hub" / "models--some--model" / "refs").mkdir()
    (tmp_path / "hub" / "models--some--model" / "refs" / "main").write_text(fakehub.COMMIT)
    (folder / "config.json").write_text("{}")
    parts = ["model-1.safetensors", "model-2.safetensors"]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", parts, strict=True))})
    )
    (folder / parts[0]).write_bytes(b"")
    code = (
        f"from rimkit.models import hub\nfrom pathlib import Path\nsource = hub.Source('some/model', 'model', None)\n\
print(hub.on_this_machine(source)); Path({str(folder / parts[1])!r}).touch(); print(hub.on_this_machine(source))"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found.stdout.split() == ["None", str(folder)], found.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [("gsm9k", "did you mean 'gsm8k'"), ("rim-mnii", "nothing called 'rim-mnii'"), ("./folder", "models: owner/name")],
)
def test_unknown_names(name, words):
    with pytest.raises(UserError, match=words):
        find(name)


def test_names_with_revisions():
    assert find("gsm8k").revision == prompts.BENCHMARKS["gsm8k"].revision
    assert find("gsm8k@main").revision == "main"
    assert find("Qwen/Qwen3-0.6B").revision is None
    assert find("Qwen/Qwen3-0.6B@v1").revision == "v1"
    assert find("rim-mini:1") is None


def test_help_teaches():
    text = " ".join(CliRunner().invoke(app, ["fetch", "--help"]).stdout.split())
    for words in (
        "rimkit fetch Qwen/Qwen3-0.6B gsm8k",
        "hf auth login",
        "RIMKIT_DATASETS",
        "file.csv?text=goal",
    ):
        assert words in text
