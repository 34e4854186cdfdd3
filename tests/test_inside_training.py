"""Chapters 05 to 07 on a model of one's own that refuses nothing: clear sentences, and the chapters go on."""

import nbformat
import pytest
import tiny

from rimkit import ledger
from rimkit.behavior.evaluation import Evaluation
from rimkit.experiments import neurons, tuning
from rimkit.runs import execute

SAID = {
    "06_safety_neurons": ("the rule 'gradient' is left out", "left out here"),
    "07_entanglement": ("the rule 'gradient' is undefined for this model",),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    words = tiny.tokenizer()
    random = tiny.random_model(words)
    random.config.max_position_embeddings = 256
    random.save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    small = {"n_prompts": 4, "n_random": 1, "steps": 1, "corpus": "multi-hop"}
    short = {"measure": Evaluation(max_new_tokens=6), "progress": False}  # it babbles as long as it may
    run = execute.run(["05", "06", "07"], str(folder / "model"), folder / "out", small, **short)
    return folder / "out", run


def test_they_run_to_the_end(done):
    _, run = done
    assert run["error"].tolist() == ["", "", ""]


@pytest.mark.parametrize("chapter", SAID)
def test_what_is_undefined_is_said(done, chapter):
    out, _ = done
    cells = nbformat.read(out / f"{chapter}.ipynb", as_version=4).cells
    printed = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    assert all(words in printed for words in SAID[chapter])


def test_their_rows_are_about_that_model(done):
    """Every claim of the three experiments once; a model that only babbles can test none of them, and each says why."""
    out, _ = done
    rows = ledger.read(out)
    assert rows["model"].str.startswith("model-").all() and rows["model"].nunique() == 1
    of_ras = ("C9a", "C9b", "C10a", "C10b", "C10c", "Q3a", "Q3b")
    assert sorted(rows["claim"]) == sorted([*tuning.CLAIMS, "Q5a", *neurons.CLAIMS, *of_ras])
    assert not rows["competent"].any() and rows["why_not"].str.len().gt(0).all()
    measured = rows.dropna(subset="effect").set_index("claim")
    assert set(measured.index) == {"C6c", "C8a", "C8b", "C9a", "Q7a"}
    assert measured.loc[["C6c", "C8a", "C8b", "Q7a"], "effect"].tolist() == [0.0] * 4
    floor = "coherent replies to what was asked: 0.00, below the floor"
    assert measured.loc[["C6c", "C8a", "C8b", "Q7a"], "why_not"].str.startswith(floor).all()
