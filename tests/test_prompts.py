"""Prompt sets: shipped ones, files of one's own, even subsamples, clear errors."""

import csv
import json
from contextlib import nullcontext

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
        ("prompt_id,text,kind\n1,,maths\n", r"prompt_id '1' of .* has no text"),
        ("prompt_id,text,kind\n1,a,maths\n1,b,maths\n", "'1' of .* occurs twice"),
        ("", "cannot be read as csv"),
        ('{"text": "a", "text": "b", "kind": "maths"}', "a row has two fields by one name"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, text, words):
    path = tmp_path / f"mine.{'jsonl' if text.startswith('{') else 'csv'}"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_prompts(path)
    assert "\n" not in str(caught.value)


def test_a_file_of_one_split_has_no_other(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("prompt_id,text,kind\n1,a,maths\n")
    with pytest.raises(UserError, match="no prompts in the calibration split"):
        load_prompts(path, split="calibration")


# -- tables that users bring -------------------------------------------------------------------------


def written(tmp_path, text: str, name: str = "mine.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("text,kind\nmop the barn,harmless,\nwax my sled,harmless,,\n", ["mop the barn", "wax my sled"]),
        ("text,kind,,\nmop the barn,harmless,,\n", ["mop the barn"]),
        ('\ufefftext,kind\r\n"mop\r\nthe barn",harmless\r\n\r\nnull,harmless\r\n', ["mop\r\nthe barn", "null"]),
        ("text,kind\nmop the barn, then wax my sled,harmless\n", "line 2 has more fields than the first"),
        ("text,kind,kind\na,harmless,maths\n", "names no columns, or two by one name"),
        ('text,kind\n"mop the barn,harmless\n', "cannot be read as csv"),
    ],
)
def test_fields_stay_in_their_columns(tmp_path, text, found):
    path = written(tmp_path, text)
    if isinstance(found, list):
        assert load_prompts(path)["text"].tolist() == found
    else:
        with pytest.raises(UserError, match=found):
            load_prompts(path)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), max_size=9)


@given(
    st.lists(st.tuples(cells, st.integers(0, 2)), min_size=1, max_size=6), st.sampled_from(",;\t"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]),
)  # fmt: skip
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_text_with_any_separators_behind_it_is_read_as_it_was_written(tmp_path, rows, separator, encoding):
    """Or refused with the cause: nothing tells UTF-16 without its mark, or a code page, from other bytes."""
    told = encoding.startswith("utf-8") or encoding == "utf-16"
    rows = rows if told else [("é", 0)]
    with (tmp_path / "any.csv").open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=separator).writerows(
            [["key", "goal"], *([f"k{n}", f"x{text}", *[""] * more] for n, (text, more) in enumerate(rows))]
        )
    with nullcontext() if told else pytest.raises(UserError, match="save it as UTF-8"):
        table = load_prompts(f"{tmp_path / 'any.csv'}?text=goal&prompt_id=key&kind=maths")
        assert table["text"].tolist() == [f"x{text}" for text, _ in rows]


def test_kinds_and_splits_are_known_words_in_any_spelling(tmp_path):
    path = written(tmp_path, "text,kind,split\nmop it, HARMLESS ,Evaluation\nwax it,Maths,calibration\n")
    table = load_prompts(path)
    assert table["kind"].tolist() == ["harmless", "maths"] and table["split"].tolist() == ["evaluation", "calibration"]
    for kind in ("benign", ""):
        with pytest.raises(UserError, match="there are harmful, harmless"):
            load_prompts(written(tmp_path, f"text,kind\nmop it,harmless\nwax it,{kind}\n"))


def test_a_message_quotes_nothing_of_a_file_without_a_header(tmp_path):
    path = written(tmp_path, "how do i nick a sled,harmful\nmop it,harmless\n")
    for name in (path, f"{path}?text=goal", f"{path}?text=how do i nick a slad"):
        with pytest.raises(UserError) as caught:
            load_prompts(name)
        assert "nick a sled" not in str(caught.value) and "without a plain name" in str(caught.value)
    with pytest.raises(UserError) as caught:
        load_prompts(written(tmp_path, "text,kind\nmop it,how do i nick a sled\n"))
    assert "nick" not in str(caught.value)


def test_any_id_works_and_missing_ones_are_made(tmp_path):
    lines = [
        '{"prompt_id": "set#1", "text": "mop it", "kind": "own"}',
        '{"text": "wax it", "kind": "own"}',
        '{"prompt_id": 7, "text": "dry it", "kind": "own"}',
    ]
    assert load_prompts(written(tmp_path, "\n".join(lines), "ids.jsonl"))["prompt_id"].tolist() == [
        "set#1",
        "ids-1",
        "7",
    ]
    for text in ('{"text": 5, "kind": "own"}', '["mop it"]'):
        with pytest.raises(UserError):
            load_prompts(written(tmp_path, text, "odd.jsonl"))


def test_one_cluster_lies_in_one_half(tmp_path, capsys):
    rows = [
        "mop it,a,own,calibration",
        "wax it,a,own,evaluation",
        "caf\u00e9,b,own,calibration",
        "dig,d,own,calibration",
    ]
    rows += ["cafe\u0301,c,own,evaluation"]
    table = load_prompts(written(tmp_path, "\n".join(["text,cluster,kind,split", *rows])))
    assert table["cluster"].tolist() == ["a", "a", "b", "d", "b"]
    assert table.loc[table["split"] == "calibration", "text"].tolist() == ["dig"]
    assert "2 prompts of 'mine.csv' are evaluated, not learned from" in capsys.readouterr().out
    with pytest.raises(UserError, match="names a column twice"):
        load_prompts("mine.csv?text=goal&text=request&kind=own")


def test_equal_texts_share_a_cluster_and_a_half(tmp_path, capsys):
    rows = [f"mop barn {n % 5},{'ab'[n % 2]},harmless,{('calibration', 'evaluation')[n > 6]}" for n in range(10)]
    table = load_prompts(
        written(tmp_path, "\n".join(["text,cluster,kind,split", *rows, "wax it,c,harmless,calibration"]))
    )
    assert table.groupby("text")["cluster"].nunique().eq(1).all() and table["cluster"].nunique() == 2
    halves = [set(part["text"]) for _, part in table.groupby("split")]
    assert not halves[0] & halves[1] and "mop barn 2" in halves[1]
    assert "5 prompts of 'mine.csv' repeat the text of another" in capsys.readouterr().out
    unseen = load_prompts(written(tmp_path, "text,kind,cluster\nwax\u200b it,own,NA\n\ufeffwax it,own,nan\nmop,own,NA"))
    assert unseen["cluster"].tolist() == ["mine-0", "mine-0", "mine-2"]  # what is missing is no cluster
    with pytest.raises(UserError, match="has no text"):
        load_prompts(written(tmp_path, "text,kind\n\u200b \u2060,own"))


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("2+2=<<2+2=4>>4 and 4*9=<<4*9=36>>36\n#### 1,036", "1036"), ("so it is $\\boxed{\\frac{5}{8}}$ in all", "5/8"), ("7 sleds", "7"),
        ("35%", "35"), ("$2,400.50", "4801/2"), (["12"], "12"), (9, "9"), ("Ida", "Ida"), ("B", "B"), ("no", "no"), (None, ""),
        ("3 of 4 or 5", ""), ("\\frac{\\sqrt{3}}{2}", ""), ("the one that stands on the left", ""),
        *((text, "") for text in (
            r"\sqrt{2}", r"2\pi", "x^2", "y=2x", r"\frac{\pi}{4}", r"\boxed{\log 5}", "5i", "#### 5!", "n+1", "13 - x", r"(-\infty, 3]",
            r"$x \le 3$", r"\pm 3", "x/3", "(x, 3)", "a minus 5", "f(3)", "5²", "$1.50/hour",
        )),
        ("-$9", "-9"), ("(B)", "(B)"), ("option B", "option B"), ("6 million", "6000000"), ("4 and 3/4", "19/4"), *((text, "") for text in (
            "a day and 6 hours", "4 dozen", "6 days make a trip, so fourteen", "two thirds", "4,5", "3 to 9", "at least 9", "9" * 5000, "1e999",
        )),
        ("minus 5", "-5"), *((text, "5") for text in ("x = 5", r"\boxed{5\text{ cm}^2}", "**5**", "5 m/s", "5%", "the 5-day trip", "(5)", "5^{\\text{th}}", r"5^\circ")),
        ("x = -5", "-5"), ("1,200 m²", "1200"), (r"3\times 10^3", "3000"), ({"id": 7, "value": "x"}, ""), (["3", "4"], ""),
    ],
)  # fmt: skip
def test_right_answers_are_read_as_gsm8k_and_math_write_them(tmp_path, capsys, answer, gold):
    row = json.dumps({"question": "how many ?", "answer": answer})
    table = load_prompts(f"{written(tmp_path, row, 'sums.jsonl')}?text=question&kind=maths")
    assert table["answer"].tolist() == [gold]
    assert ("neither a number nor a word" in capsys.readouterr().out) == (gold == "" and answer is not None)


@pytest.mark.parametrize(
    "content",
    ["TEXT\nanother\n", "TEXT,harmful\n", "text,kind\nx,TEXT\n", "text,kind,prompt_id\n,harmful,TEXT\n", 'text,kind\n"TEXT,harmful\n', "prompt_id,text,kind\nTEXT,a,harmful\nTEXT,b,harmful\n"],
)  # fmt: skip
def test_no_message_holds_a_text_of_a_file(content, tmp_path):
    file = tmp_path / "own.csv"
    file.write_text(content.replace("TEXT", "smuggle the teapot past the guards"))
    with pytest.raises(UserError) as caught:
        load_prompts(file)
    assert "teapot" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_nested_too_deeply_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read as jsonl"):
        load_prompts(written(tmp_path, "[" * 90_000, "deep.jsonl"))
