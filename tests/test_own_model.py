"""Chapters that ask a model for most replies, as files, on a model of one's own: real weights and prompts, and not a word that either is the workbook's."""

import json
import shutil

import pytest

from rimkit.behavior.evaluation import SETS, evaluation
from rimkit.behavior.prompts import load_prompts
from rimkit.data import data_dir
from rimkit.runs import execute
from tests.tinygguf import write

FEW = {
    "A2": {"n_prompts": 12},
    "03": {"n_random": 3, "n_prompts": 16},
    "04": {"n_random": 3, "n_prompts": 12},
}
FEW |= {chapter: {"steps": 4} for chapter in ("05", "07", "09")}
CHAPTERS = ["A2", "03", "04", "05", "07", "09"]  # those that do most with its replies


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The folder of rim-mini, whose tokenizer does not say that it speaks the invented language, and prompts as files."""
    place = tmp_path_factory.mktemp("own")
    model = shutil.copytree(data_dir() / "models" / "rim-mini" / "seed0", place / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    assert settings.pop("language") == "invented"
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in SETS:
        load_prompts(name, split=None).drop(columns="source").to_csv(place / f"{name}.csv", index=False)
    return model, {name: str(place / f"{name}.csv") for name in SETS}


@pytest.fixture(scope="module")
def gibberish(tmp_path_factory):
    """A GGUF file of random weights, asked in English and read by the trained judge: no reply can be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        file = write(tmp_path_factory.mktemp("own") / "tiny.gguf", "qwen2", context=4096)
        yield f"{file}+instruct"


@pytest.mark.parametrize("chapter", ["02", "03", "A1"])
def test_a_chapter_ends_on_a_model_that_says_nothing(gibberish, chapter, tmp_path):
    how = {"parameters": {"n_prompts": 16} | FEW.get(chapter, {}), "keep_text": True}
    how = {} if chapter == "A1" else how  # the primer asks for nothing
    (done,) = execute.run([chapter], gibberish, tmp_path, progress=False, **how).to_dict("records")
    assert done["status"] == "done", done["error"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_ends_on_a_model_of_ones_own(own, chapter, tmp_path):
    model, prompts = own
    how = {"parameters": {"n_prompts": 8} | FEW.get(chapter, {}), "progress": False}
    if chapter != "A2":  # the primer takes no other prompts
        how |= {"measure": evaluation(prompts, "organism"), "keep_text": True}
    (done,) = execute.run([chapter], str(model), tmp_path, **how).to_dict("records")
    assert done["status"] == "done", done["error"]
