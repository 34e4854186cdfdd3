"""Chapters that ask a model for most replies, as files, on a model of one's own: real weights and prompts, and not a word that either is the workbook's."""

import json
import shutil

import pytest

from rimkit.behavior.evaluation import SETS, evaluation
from rimkit.behavior.prompts import load_prompts
from rimkit.data import data_dir
from rimkit.runs import execute

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


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_ends_on_a_model_of_ones_own(own, chapter, tmp_path):
    model, prompts = own
    how = {"parameters": {"n_prompts": 8} | FEW.get(chapter, {}), "progress": False}
    if chapter != "A2":  # the primer takes no other prompts
        how |= {"measure": evaluation(prompts, "organism"), "keep_text": True}
    (done,) = execute.run([chapter], str(model), tmp_path, **how).to_dict("records")
    assert done["status"] == "done", done["error"]
