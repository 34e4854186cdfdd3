"""Chapters 05 to 07 on a model of one's own that refuses nothing: clear sentences, and the chapters go on."""

import pytest
import tiny
from IPython.utils.capture import capture_output
from notebooks import run_cells

from rimkit import data, ledger
from rimkit.experiments import neurons, tuning
from rimkit.runs import execute

SAID = {
    "06_safety_neurons": ("the rule 'gradient' is left out", "left out here"),
    "07_entanglement": ("the rule 'gradient' is undefined for this model",),
}


@pytest.fixture(scope="module")
def done(shell, tmp_path_factory):
    """The ledger, and what each of the chapters printed."""
    folder = tmp_path_factory.mktemp("own")
    words = tiny.tokenizer()
    random = tiny.random_model(words)
    random.config.max_position_embeddings = 256
    random.save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    small = {"n_prompts": 4, "n_random": 1, "steps": 1, "corpus": "multi-hop"}
    small |= {"model": str(folder / "model"), "max_new_tokens": 6}  # it babbles as long as it may
    printed = {}
    for path in sorted(data.chapters_dir().glob("0[567]_*.ipynb")):
        declared = execute.declared_in(path)
        rows = str(folder / "out" / f"{path.stem}.parquet")
        with capture_output() as said:
            run_cells(shell, path, ledger=rows, **{name: small[name] for name in small if name in declared})
        printed[path.stem] = said.stdout
    return folder / "out", printed


@pytest.mark.parametrize("chapter", SAID)
def test_what_is_undefined_is_said_and_the_chapter_goes_on(done, chapter):
    _, printed = done
    assert all(words in printed[chapter] for words in SAID[chapter])


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
