"""Real prompt sets: read from folders built like them, with harmless stand-in texts."""

import re

import pandas as pd
import pytest
import standins

from rimkit.behavior import prompts
from rimkit.behavior.evaluation import Evaluation
from rimkit.behavior.prompts import COLUMNS, load_prompts
from rimkit.data import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return standins.write_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(autouse=True)
def mirror(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RIMKIT_DATASETS", str(folder))
    return folder


@pytest.fixture
def own(tmp_path):
    path = tmp_path / f"{tmp_path.name}.csv"  # a name that no other test has: a note is printed once for each
    rows = [f'"{standins.request(i)}",{"ab"[i % 2]},00{i}' for i in range(8)]
    path.write_text("\n".join(["goal,topic,key", *rows]))
    return path


@pytest.mark.parametrize("name", prompts.BENCHMARKS)
def test_every_set_has_the_columns_of_the_workbook(name):
    table = load_prompts(name)
    assert tuple(table.columns) == COLUMNS
    assert table["prompt_id"].str.startswith(f"{name}-").all()
    assert set(table["kind"]) <= {"harmful", "harmless", "maths"}
    assert set(table["source"]) == {f"{prompts.BENCHMARKS[name].repo} in RIMKIT_DATASETS"}  # revision unknown
    halves = [set(table.loc[table["split"] == split, "cluster"]) for split in ("calibration", "evaluation")]
    assert halves[0].isdisjoint(halves[1])
    pd.testing.assert_frame_equal(table, load_prompts(name))


def test_the_paper_s_safety_set():
    table = load_prompts("hex-phi")
    assert len(table) == 21
    assert table["category"].nunique() == 10
    assert "Oil it, then wind it" in set(table["text"])
    assert standins.request(3, " (a)") in set(table["text"])  # quoted in the file, with its commas
    assert table.loc[table["text"] == "Sweep hall 11", "category"].item() == "tailored financial advice"
    assert table.groupby("category")["split"].nunique().eq(2).all()  # both halves of every category


def test_pairs_stay_together():
    jbb, xstest = load_prompts("jailbreakbench"), load_prompts("xstest")
    assert jbb["kind"].value_counts().to_dict() == {"harmful": 6, "harmless": 6}
    assert jbb.groupby("cluster")["kind"].nunique().eq(2).all()
    assert jbb.groupby("cluster")["split"].nunique().eq(1).all()
    assert set(jbb["split"]) == {"calibration", "evaluation"}
    assert xstest["kind"].tolist() == ["harmless", "harmful"] * 4
    assert xstest["cluster"].tolist() == ["kettle"] * 2 + ["clock"] * 2 + ["xstest-4", "xstest-5"] + ["ladder"] * 2


def test_maths_has_answers_and_its_own_splits():
    gsm8k = load_prompts("gsm8k")
    assert gsm8k["answer"].tolist() == ["1002", "1003", "1004", "1500", "1600"]
    assert gsm8k["split"].tolist() == ["calibration"] * 3 + ["evaluation"] * 2
    assert load_prompts("multiarith")["text"].iloc[0].startswith("Anna had 4")
    both = Evaluation().sets(["aime24", "aime25"])
    assert both["answer"].tolist() == ["42", "70"]
    assert both["set"].tolist() == ["aime24", "aime25"]


def test_inputs_are_part_of_an_instruction():
    assert load_prompts("alpaca-cleaned")["text"].tolist() == ["Name three colours.", "Add these.\n\n2 and 3"]


def test_a_note_before_a_set_of_harmful_requests_and_once(own, monkeypatch, capsys):
    for _ in range(2):
        load_prompts(f"{own}?text=goal&kind=harmful")
    load_prompts(f"{own}?text=goal&kind=harmless")
    said = capsys.readouterr().out
    assert said.startswith(f"Content note: '{own.name}'")
    assert said.count("Content note") == 1
    assert "--keep-text" in said
    monkeypatch.setattr("rimkit.behavior.redaction._kept", True)
    other = own.rename(own.with_name(f"other-{own.name}"))
    load_prompts(f"{other}?text=goal&kind=harmful")
    assert "shown and saved, as you asked" in capsys.readouterr().out


def test_another_number_of_prompts_than_expected_is_said(capsys):
    load_prompts("advbench")
    assert "holds 5 prompts" in capsys.readouterr().out
    load_prompts("advbench@main")
    assert "holds" not in capsys.readouterr().out


def test_no_copy_is_written_to_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in prompts.BENCHMARKS:
        load_prompts(name)
    assert not list(tmp_path.rglob("*"))


def test_marks_of_encodings_and_words_that_look_missing_are_no_loss(tmp_path, monkeypatch):
    monkeypatch.setenv("RIMKIT_DATASETS", str(tmp_path))
    standins.hex_phi(tmp_path)
    standins.xstest(tmp_path)
    for file in tmp_path.rglob("category_*.csv"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    (csv,) = tmp_path.rglob("xstest_prompts.csv")
    csv.write_text(csv.read_text() + "9,NaN,homonyms,safe,null,\n")
    assert not load_prompts("hex-phi")["text"].str.contains("\ufeff").any()
    assert load_prompts("xstest")[["text", "cluster"]].iloc[-1].tolist() == [
        "NaN",
        "xstest-8",
    ]  # no word for its cluster: it stands alone


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("advbensh", "did you mean 'advbench'"),
        ("xs-test", "did you mean 'xstest'"),
        ("harmfull", "did you mean 'harmful'"),
    ],
)
def test_unknown_sets_name_the_nearest(name, words):
    with pytest.raises(UserError, match=words):
        load_prompts(name)


def test_a_set_that_is_not_here_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RIMKIT_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match=r"openai/gsm8k is not on this machine and HF_HUB_OFFLINE .* 'rimkit fetch'"):
        load_prompts("gsm8k@abc")


def test_damaged_and_changed_files_in_one_line_without_their_text(tmp_path, monkeypatch):
    monkeypatch.setenv("RIMKIT_DATASETS", str(tmp_path))
    standins.advbench(tmp_path)
    (path,) = tmp_path.rglob("*.parquet")
    pd.read_parquet(path).rename(columns={"prompt": "goal"}).to_parquet(path)
    with pytest.raises(UserError, match="no column 'prompt'; it has goal, target"):
        load_prompts("advbench")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read as parquet") as caught:
        load_prompts("advbench")
    assert "\n" not in str(caught.value) and standins.MARKER not in str(caught.value)


def test_what_is_called_pinned_is_a_commit():
    for one in prompts.BENCHMARKS.values():
        assert one.pinned == (re.fullmatch("[0-9a-f]{40}", one.revision) is not None)
        assert one.pinned or one.revision == "main"


# -- files of one's own ------------------------------------------------------------------------------------


def test_columns_by_argument_and_behind_a_question_mark(own):
    columns = {"text": "goal", "cluster": "topic", "prompt_id": "key", "kind": "harmful"}
    table = load_prompts(own, columns=columns)
    assert table["prompt_id"].tolist() == [f"00{i}" for i in range(8)]
    assert set(table["kind"]) == {"harmful"}
    assert table.groupby("cluster")["split"].nunique().eq(1).all()
    assert set(table["split"]) == {"calibration", "evaluation"}
    query = "&".join(f"{ours}={theirs}" for ours, theirs in columns.items())
    pd.testing.assert_frame_equal(load_prompts(f"{own}?{query}").drop(columns="source"), table.drop(columns="source"))


def test_ids_are_made_where_there_are_none(own):
    table = load_prompts(f"{own}?text=goal&kind=harmless")
    assert table["prompt_id"].tolist() == [f"{own.stem}-{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?text=gaol&kind=harmful", "no column 'gaol'; did you mean 'goal'"),
        ("?text=goal&kind=harmfull", "no column 'harmfull', and no kind is called so"),
        ("?txt=goal", "a prompt set has no 'txt'; did you mean 'text'"),
        ("?text=goal", "no column kind"),
        ("?goal", r"write .*csv\?text=goal"),
        ("?text=goal&kind=harmful&split=topic", "has the split 'a'; there are calibration, evaluation"),
    ],
)
def test_bad_columns_are_told_in_one_line(own, query, words):
    with pytest.raises(UserError, match=words) as caught:
        load_prompts(f"{own}{query}")
    assert "\n" not in str(caught.value)
