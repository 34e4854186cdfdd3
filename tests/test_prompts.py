"""Prompt sets: shipped ones, files of one's own, even subsamples, clear errors."""

import pandas as pd
import pytest

from rimkit.behavior.prompts import COLUMNS, load_prompts, prompt_sets, spread
from rimkit.data import UserError


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> pd.DataFrame:
    """A data folder with one set of 40 prompts over 8 verbs, half of the verbs for evaluation."""
    table = pd.DataFrame({
        "prompt_id": [f"p{i}" for i in range(40)],
        "text": [f"please nick the baker's kite {i} ." for i in range(40)],
        "kind": "harmful", "category": "theft", "cluster": [f"verb{i % 8}" for i in range(40)],
        "split": ["calibration" if i % 2 else "evaluation" for i in range(40)],
        "answer": "nick the baker's kite", "source": "here",
    })  # fmt: skip
    folder = tmp_path / "prompts"
    folder.mkdir()
    table.to_parquet(folder / "harmful.parquet", index=False)
    hashes = pd.DataFrame([{"name": "harmful", "prompts": 40, "sha256": "abc"}])
    hashes.to_csv(folder / "hashes.csv", index=False)
    for place in ("rimkit.behavior.prompts.data_dir", "rimkit.data.data_dir"):
        monkeypatch.setattr(place, lambda: tmp_path)
    return table


def test_a_set_has_the_documented_columns_and_a_split_is_half_of_it(shelf):
    assert tuple(load_prompts("harmful").columns) == COLUMNS
    half = load_prompts("harmful", split="evaluation")
    assert len(half) == 20
    assert set(half["cluster"]).isdisjoint(load_prompts("harmful", split="calibration")["cluster"])


def test_a_subsample_is_even_over_clusters_nested_and_fixed_by_the_seed(shelf):
    ten = load_prompts("harmful", n=10)
    counts = ten["cluster"].value_counts()
    assert len(counts) == 8
    assert counts.max() - counts.min() == 1
    assert ten["prompt_id"].tolist() == load_prompts("harmful", n=10)["prompt_id"].tolist()
    assert ten["prompt_id"].tolist() != load_prompts("harmful", n=10, seed=1)["prompt_id"].tolist()
    assert set(ten["prompt_id"]) < set(load_prompts("harmful", n=11)["prompt_id"])


def test_a_small_cluster_gives_all_it_has_and_the_order_is_kept():
    table = pd.DataFrame({"prompt_id": range(12), "cluster": ["big"] * 10 + ["small"] * 2})
    few = spread(table, 8)
    assert few["cluster"].value_counts().to_dict() == {"big": 6, "small": 2}
    assert few["prompt_id"].is_monotonic_increasing
    assert len(spread(table, 100)) == 12


def test_prompt_sets_lists_what_is_there(shelf):
    (row,) = prompt_sets().to_dict("records")
    assert row == {"name": "harmful", "prompts": 40, "kinds": "harmful", "clusters": 8, "sha256": "abc"}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_of_ones_own_needs_three_columns(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    table = pd.DataFrame({"prompt_id": [1, 2], "text": ["a", "b"], "kind": "harmful"})
    {
        "csv": lambda: table.to_csv(path, index=False),
        "jsonl": lambda: table.to_json(path, orient="records", lines=True),
        "parquet": lambda: table.to_parquet(path),
    }[suffix]()
    loaded = load_prompts(path)
    assert tuple(loaded.columns) == COLUMNS
    assert loaded["cluster"].tolist() == loaded["prompt_id"].tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("harmfull", {}, "did you mean 'harmful'"),
        ("harmful", {"split": "evaluate"}, "did you mean 'evaluation'"),
        ("harmful", {"n": 0}, "1 or more"),
        ("harmful", {"n": 2.5}, "whole number"),
        ("nowhere.csv", {}, "there is no file"),
    ],
)
def test_bad_requests_are_told_in_one_line(shelf, name, options, words):
    with pytest.raises(UserError, match=words) as caught:
        load_prompts(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt_id,text\n1,a\n", "no column kind"),
        ("prompt_id,text,kind\n", "has no prompts"),
        ("prompt_id,text,kind\n1,,maths\n", r"prompt '1' of .* has no text"),
        ("prompt_id,text,kind\n1,a,maths\n1,b,maths\n", "'1' occurs twice"),
        ("", "cannot be read as csv"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, text, words):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_prompts(path)
    assert "\n" not in str(caught.value)


def test_a_file_of_one_split_has_no_other(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt_id,text,kind\n1,a,maths\n")
    with pytest.raises(UserError, match="no prompts in the calibration split"):
        load_prompts(path, split="calibration")
