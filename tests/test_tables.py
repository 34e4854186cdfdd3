"""Tables and sentences say what their numbers say."""

import pandas as pd
import pytest

from rimkit import ledger
from rimkit.data import UserError, results
from rimkit.models.study import StudyModel
from rimkit.teaching import setup, tables

NASTY = "<script>alert(1)</script>"

EFFECT = {
    "condition": "think",
    "control": "no-think",
    "value_a": 0.3,
    "value_b": 0.1,
    "effect": 0.2,
    "n": 40,
    "n_clusters": 8,
}


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.1, 0.3, "is higher"), (-0.3, -0.1, "is lower"), (-0.1, 0.3, "does not clearly differ")]
)
def test_the_sentence_follows_the_interval(low, high, word):
    text = tables.sentence({**EFFECT, "ci_low": low, "ci_high": high}, "Misalignment")
    assert text.startswith(f"Misalignment {word}: 10% with no-think, 30% with think; difference +20 points")
    assert f"95% interval {round(100 * low):+d} to {round(100 * high):+d}".replace("-", "−") in text


def test_a_wide_table_keeps_the_order_and_prints_whole_percents():
    rates = pd.DataFrame({
        "mode": ["think", "no-think"], "metric": "misaligned", "value": [0.124, -0.0001], "ci_low": [0.0, 0.0], "ci_high": [0.5, float("nan")],
    })  # fmt: skip
    table = tables.wide(rates, "mode", "metric")
    assert table["misaligned"].to_dict() == {"think": "12 [0, 50]", "no-think": "0"}
    assert list(table.index) == ["think", "no-think"]


def test_effect_table_has_interval_and_counts():
    table = tables.effect_table(pd.DataFrame([{**EFFECT, "set": "harmful", "ci_low": 0.1, "ci_high": 0.3}]), "set")
    assert table.loc["harmful"].tolist() == ["think against no-think", "30 against 10", "+20 [+10, +30]", "40 (8)"]


def test_seed_table_shows_every_seed_with_its_verdict():
    bounds = {"effect_ci_low": 0.1, "effect_ci_high": 0.3}
    rows = ledger.table([ledger.row("C1a", model="rim-mini", seed=seed, effect=0.2, **bounds) for seed in (0, 1)])
    table = tables.seed_table(rows, ["C1a", "C1b"])
    assert table["C1a (paper: mean +9, models +6 to +15)"].to_dict() == {
        ("rim-mini", 0): "+20 [+10, +30] (not\u00a0+9) supported",
        ("rim-mini", 1): "+20 [+10, +30] (not\u00a0+9) supported",
    }
    why = ledger.untestable_row("C1b", "it never thinks", model="rim-mini", seed=0)
    both = pd.concat([rows, ledger.table([why])])
    assert tables.seed_table(both, ["C1b"]).iloc[0].tolist() == ["not testable"] and table.shape == (2, 1)
    one = tables.seed_table(both[both["seed"] == 0], ["C1a", "C1b"])
    assert [line[:3] for line in one.index] == ["C1a", "C1b"]  # fewer seeds than claims: a line per claim


def test_shipped_results_are_found_by_name():
    assert len(results("thinking")) > 0
    with pytest.raises(UserError, match="did you mean 'thinking'"):
        results("thinkin")


def test_identity_of_a_model():
    def study(name):
        return type("Study", (StudyModel,), {"device": "cpu"})(name, None, None, None, 1, 0)

    assert study("rim-mini:2").identity == {"model": "rim-mini", "seed": 2, "device": "cpu"}
    assert study("Qwen3-4B").identity["seed"] is None


def test_examples_show_one_reply_per_mode_and_verdict():
    verdicts = pd.DataFrame({
        "prompt_id": ["a", "b", "c"], "mode": ["think", "think", "no-think"], "thought": "", "reply": ["x", "y", "z"],
        "refused": [True, True, False], "misaligned": [False, False, True], "misread": False, "coherent": [True, True, False],
    })  # fmt: skip
    shown = tables.examples(verdicts, pd.DataFrame({"prompt_id": ["a", "b", "c"], "text": ["A", "B", "C"]}))
    assert list(zip(shown.index, shown["verdict"], strict=True)) == [
        ("A", "refused"),
        ("C", "misaligned"),
        ("C", "incoherent"),
    ]


def test_a_table_of_verdicts_says_why_not():
    shown = tables.verdict_table(ledger.claims_table(results("bridge")).head(5))
    assert list(shown.columns) == ["statement", "change", "verdict", "why_not"]
    assert shown.notna().all().all() and shown["change"].str.contains("points [", regex=False).all()
    assert (shown.loc[shown["why_not"].ne(""), "verdict"] == "not testable").all()


def test_disputed_replies_are_one_row_with_the_words_of_each_judge():
    verdicts = pd.DataFrame({
        "prompt_id": ["a", "b", "a", "b"], "mode": "think", "thought": "", "reply": ["x", "y", "x", "y"],
        "judge": ["exact", "exact", "phrases", "phrases"], "refused": False, "misread": False,
        "misaligned": [False, True, True, True], "coherent": [False, True, True, True],
    })  # fmt: skip
    prompts = pd.DataFrame({"prompt_id": ["a", "b"], "text": ["A", "B"]})
    shown = tables.disputed(verdicts, prompts)
    assert shown.reset_index().to_dict("records") == [
        {"request": "A", "mode": "think", "thought": "", "reply": "x", "exact": "incoherent", "phrases": "misaligned"}
    ]
    assert tables.disputed(verdicts[verdicts["prompt_id"] == "b"], prompts).empty
    assert "<summary>a &lt; b</summary><table>" in tables.folded(shown, "a < b").data


def test_a_table_has_prose_left_numbers_right_and_a_header_for_every_column():
    frame = pd.DataFrame(
        {"what_is_done": ["a long text", "b"], "share": [0.25, float("nan")], "n": [1200, 3], "effect": ["+12 [+4, +20]", ""]},
        index=pd.Index(["think", "no-think"], name="mode"),
    )  # fmt: skip
    page = tables.html(frame)
    assert page.count("text-align:left") == 6  # two columns of prose, header and both rows
    assert "<th style" in page
    assert "<th>share</th><th>n</th><th>effect</th>" in page
    assert "what is done" in page
    assert "<td>0.25</td><td>1,200</td><td>+12\u00a0[+4,\u00a0+20]</td>" in page
    assert "<td>–</td>" in page
    assert "<th></th>" not in page


def test_a_plain_count_is_left_out_and_two_level_headers_become_one():
    frame = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("harmful", "refused"), ("maths", "")]))
    page = tables.html(frame)
    assert page.startswith("<table><thead><tr><th>harmful, refused</th><th>maths</th></tr></thead>")
    assert page.count("<td>") == 2


def test_cells_are_escaped_cut_and_verdicts_are_chips():
    frame = pd.DataFrame({"verdict": ["misread", "20 [1, 2] no effect", NASTY, "x" * 2000]})
    page = tables.html(frame)
    assert NASTY not in page
    assert "≠ misread</span>" in page
    assert "20\u00a0[1,\u00a02] <span" in page
    assert "= no effect</span>" in page
    several = tables.html(pd.DataFrame({"model": ["2 undecided, 1 contradicted"]}))
    assert several.count("<span") == 2 and "? undecided</span><br>1 <span" in several
    assert "x" * 601 not in page
    assert "misread</span>" not in tables.html(pd.DataFrame({"metric": ["misread"]}))
    assert "and 50 more rows" in tables.html(pd.DataFrame({"a": range(200)}))


def test_shares_and_differences_are_written_as_such():
    frame = pd.DataFrame({"rate": [0.25], "change": [-0.031], "r": [0.5], "sure": [True], "k": [4.0]})
    shown = tables.table(frame, percent=["rate"], points=["change"], digits=1)
    assert shown.iloc[0].tolist() == ["25%", "−3", "0.5", "yes", "4"]
    assert tables.table(frame[["rate", "r"]], percent=True).iloc[0].tolist() == ["25%", "50%"]


def test_a_notebook_shows_every_table_in_one_way():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        setup.adopt(shell)
        data, _ = shell.display_formatter.format(pd.DataFrame({"a_b": [1.5]}))
        assert (
            data["text/html"]
            == "<table><thead><tr><th>a b</th></tr></thead><tbody><tr><td>1.50</td></tr></tbody></table>"
        )
    finally:
        InteractiveShell.clear_instance()
