import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rimkit import ledger
from rimkit.behavior.stats import p_from_interval
from rimkit.data import UserError
from rimkit.paper.reanalysis import reanalysis

numbers = st.floats(-1, 1, allow_nan=False).map(lambda number: round(number, 4))
intervals = st.tuples(numbers, numbers, numbers).map(sorted).map(lambda three: (three[1], three[0], three[2]))
directions = st.sampled_from([-1, 1])
smallest = st.floats(0.001, 0.2)


def effect(claim="C1a", value=0.2, low=0.1, high=0.3, **values):
    names = {"model": "rim-mini", "seed": 0, **values}
    return ledger.row(claim, effect=value, effect_ci_low=low, effect_ci_high=high, **names)


# -- the verdict -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "direction", "expected"),
    [
        ((0.2, 0.1, 0.3), 1, "supported"),
        ((0.2, 0.1, 0.3), -1, "contradicted"),
        ((-0.2, -0.3, -0.1), -1, "supported"),
        ((0.0, -0.02, 0.02), 1, "no effect"),
        ((0.02, 0.01, 0.03), 1, "no effect"),  # clear, and too small to matter: asked first
        ((-0.004, -0.005, -0.003), 1, "no effect"),
        ((0.04, 0.01, 0.07), 1, "small"),
        ((-0.04, -0.07, -0.01), 1, "small"),
        ((0.05, -0.1, 0.2), 1, "undecided"),
        ((0.1, 0.0, 0.2), 1, "undecided"),  # touching zero does not exclude it
        ((math.nan, 0.1, 0.3), 1, "undecided"),
        ((0.2, 0.1, math.inf), 1, "undecided"),
    ],
)
def test_verdict(interval, direction, expected):
    assert ledger.verdict(*interval, direction, 0.05) == expected


@given(intervals, directions, smallest)
def test_verdict_turns_with_the_direction(interval, direction, size):
    swap = {"supported": "contradicted", "contradicted": "supported"}
    verdict = ledger.verdict(*interval, direction, size)
    assert verdict in ledger.VERDICTS
    assert ledger.verdict(*interval, -direction, size) == swap.get(verdict, verdict)


@given(intervals, directions, smallest)
def test_verdict_turns_with_the_sign_of_the_effect(interval, direction, size):
    value, low, high = interval
    mirrored = ledger.verdict(-value, -high, -low, -direction, size)
    assert mirrored == ledger.verdict(value, low, high, direction, size)


@given(intervals, directions, smallest, st.floats(0, 1))
def test_correction_never_makes_a_claim_clearer(interval, direction, size, p):
    plain, corrected = ledger.verdict(*interval, direction, size), ledger.verdict(*interval, direction, size, p, 20)
    if corrected in ("supported", "contradicted", "small"):
        assert corrected == plain
        assert 20 * p < 0.05


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"p_value": 0.0024, "family_size": 20}, "supported"),
        ({"p_value": 0.0026, "family_size": 20}, "undecided"),
        ({"p_value": 0.001, "beyond": 0.95}, "supported"),
        ({"p_value": 0.001, "beyond": 0.925}, "undecided"),  # a set is not alone with its effect
        ({"p_value": 0.001, "competent": False}, "not testable"),
    ],
)
def test_p_value_family_rank_and_competence(given, expected):
    assert ledger.verdict(0.2, 0.1, 0.3, 1, 0.05, **given) == expected


def test_where_p_value_and_interval_disagree_nothing_is_decided():
    assert ledger.verdict(0.1, -0.01, 0.2, 1, 0.05, p_value=1e-6) == "undecided"
    assert ledger.verdict(0.1, 0.01, 0.2, 1, 0.05, p_value=0.2) == "undecided"


@pytest.mark.parametrize(
    ("reached", "said"), [({"read": 0.79}, "0.79, below the floor of 0.80"), ({"read": 0.8}, ""), ({}, ""),
                          ({"read": 0.9, "reached": 0.3}, "turns fulfilled into refused: 0.30, below the floor of 0.70"),
                          ({"read": math.nan}, "–, below the floor")]
)  # fmt: skip
def test_floors_say_why_a_claim_is_not_testable(reached, said):
    found = ledger.below_floor("C8a", **reached)
    assert said in found and bool(said) == bool(found)
    assert ledger.below_floor("C3a", read=0.0, reached=0.0) == ""  # a claim without floors


def test_excluding_the_papers_number():
    assert ledger.excludes(0.09, 0.1, 0.3) is True
    assert ledger.excludes(0.09, 0.05, 0.3) is False
    assert ledger.excludes(math.nan, 0.05, 0.3) is None
    assert ledger.excludes(0.09, math.nan, math.nan) is None


@given(intervals)
def test_p_value_and_interval_agree(interval):
    value, low, high = interval
    if not any(0 < abs(number) < 0.01 for number in interval):  # away from rounding
        assert (p_from_interval(value, low, high) < 0.05) == (low > 0 or high < 0)


def test_p_value_of_a_known_normal_interval():
    assert p_from_interval(0.1, 0.1 - 1.959964 * 0.04, 0.5) == pytest.approx(0.0124, abs=1e-4)
    assert math.isnan(p_from_interval(math.nan, 0, 1))


# -- claims and rows -------------------------------------------------------------------------------


def test_claims_are_complete():
    claims = ledger.claims()
    assert claims["id"].is_unique
    assert not claims.drop(columns=["paper_effect", "floor_read", "floor", "floor_of"]).isna().any().any()
    assert (claims["floor"].isna() == claims["floor_of"].isna()).all()
    assert claims["floor_read"].dropna().between(0.5, 1).all() and (claims["floor"].dropna() > 0).all()
    of_the_paper = claims["claim"].str.startswith("C")
    assert set(claims.loc[of_the_paper, "claim"]) == {f"C{number}" for number in range(1, 11)}
    assert set(claims.loc[~of_the_paper, "chapter"]) == {"09_open_questions"}  # what the paper left open
    assert not claims.loc[~of_the_paper, "primary"].any()  # exploratory: of the other family
    sizes = claims["primary"].map(claims["primary"].value_counts())
    assert (claims["family_size"] == sizes).all()  # frozen in the file: a claim more is a family more
    assert (claims["id"].str[:-1] == claims["claim"]).all()
    assert set(claims["direction"]) == {1, -1}
    assert (claims["smallest_effect"] > 0).all()
    assert claims[of_the_paper].groupby("claim")["primary"].any().all()


def test_row_takes_metric_control_and_chapter_from_its_claim():
    row = effect("C5a", mode="no-think")
    assert set(ledger.COLUMNS) <= set(row)
    assert (row["metric"], row["control"], row["chapter"]) == ("refused", "random heads", "04_refusal_heads")
    assert effect("C5a", control="mean ablation")["control"] == "mean ablation"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"claim": "C1z"}, "unknown claim 'C1z'; did you mean"),
        ({"effekt": 1}, "no column 'effekt'; did you mean 'effect'"),
        ({"value": 0.5}, "effect 0.5 lies outside its interval 0.1 to 0.3"),
    ],
)
def test_row_refuses(values, message):
    with pytest.raises(UserError, match=message):
        effect(**values)


def test_effect_row_reads_a_difference():
    difference = {"value_a": 0.5, "value_b": 0.2, "effect": 0.3, "ci_low": 0.1, "ci_high": 0.4, "n": 80}
    row = ledger.effect_row("C1a", difference, model="rim-mini", seed=1)
    found = [row[name] for name in ("value", "control_value", "effect", "effect_ci_low", "effect_ci_high", "n")]
    assert found == [0.5, 0.2, 0.3, 0.1, 0.4, 80]


def test_failed_row_is_one_line_without_a_claim():
    row = ledger.failed_row(chapter="01", model="m", error="bad\n  thing")
    assert (row["status"], row["error"], row["claim"]) == ("failed", "bad thing", None)


# -- files -----------------------------------------------------------------------------------------


def test_rows_survive_the_file(tmp_path):
    rows = [
        effect(),
        effect("C5a", n=12, mode="think", seed=None),
        ledger.failed_row(chapter="x", model="m", error="e"),
    ]
    written = ledger.write(rows, tmp_path / "new" / "a.parquet")
    pd.testing.assert_frame_equal(ledger.read(tmp_path), written)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.parquet"]


def test_nothing_is_written_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(ledger.write([effect()], "")) == 1
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_files_are_named_and_the_rest_is_shown(tmp_path):
    good = tmp_path / "good.parquet"
    ledger.write([effect()], good)
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-20])
    other = pq.read_table(good).append_column("new", [["x"]])
    pq.write_table(other.replace_schema_metadata({"rimkit_ledger_schema": "7"}), tmp_path / "later.parquet")
    with pytest.warns(UserWarning) as warned:
        rows = ledger.read(tmp_path)
    messages = sorted(str(warning.message) for warning in warned)
    assert len(rows) == 2
    assert tuple(rows.columns)[: len(ledger.COLUMNS)] == ledger.COLUMNS
    assert len(messages) == 2
    assert "cut.parquet cannot be read" in messages[0]
    assert "later.parquet has ledger schema 7" in messages[1]
    assert not any("\n" in message for message in messages)


def test_unknown_claims_are_shown_without_a_verdict(tmp_path):
    ledger.write(ledger.table([effect()]).assign(claim="C99x"), tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="C99x"):
        rows = ledger.read(tmp_path)
    assert list(rows["claim"]) == ["C99x"]
    assert ledger.claims_table(rows).empty


def test_files_being_written_are_left_out(tmp_path):
    ledger.write([effect()], tmp_path / ".running-1" / "rows.parquet")
    assert ledger.read(tmp_path).empty


def test_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="rimkit run"):
        ledger.read(tmp_path / "nowhere")


# -- the claims table ------------------------------------------------------------------------------


def test_one_row_per_claim_model_and_seed():
    rows = ledger.table([
        effect(seed=0, created="2026-01-01"), effect(seed=1), effect("C1b", seed=0), effect(model="other"),
        effect(seed=0, value=-0.2, low=-0.3, high=-0.1, created="2026-01-02"),  # a later run
        effect(metric="misread"), effect(model="other", status="failed"),
    ])  # fmt: skip
    table = ledger.claims_table(rows)
    keys = list(zip(table["claim"], table["model"], table["seed"], strict=True))
    assert keys == [
        ("C1a", "other", 0),
        ("C1a", "rim-mini", 0),
        ("C1a", "rim-mini", 1),
        ("C1b", "rim-mini", 0),
    ]
    assert list(table["verdict"]) == ["supported", "contradicted", "supported", "supported"]


def test_each_row_is_judged_by_itself_in_a_family_of_fixed_size():
    rows = [
        effect(p_value=0.002),
        effect("C1b", p_value=0.003),
        effect("C1c", p_value=0.0017),
        effect("C1d", p_value=0.0019),
        effect(seed=1),  # without a p value: that of its interval, here of four standard errors
    ]
    together = ledger.claims_table(ledger.table(rows)).set_index(["claim", "seed"])
    alone = pd.concat([ledger.claims_table(ledger.table([one])) for one in rows]).set_index(["claim", "seed"])
    pd.testing.assert_frame_equal(together, alone.loc[together.index])
    words = [together.loc[(claim, 0), "verdict"] for claim in ("C1a", "C1b", "C1c", "C1d")]
    assert words == ["supported", "undecided", "supported", "undecided"]
    families = ledger.claims().set_index("id")["family_size"]
    assert together.loc[("C1a", 0), "p_adjusted"] == pytest.approx(0.002 * families["C1a"])
    assert together.loc[("C1d", 0), "p_adjusted"] == pytest.approx(0.0019 * families["C1d"])
    assert together.loc[("C1a", 1), "verdict"] == "supported"


def test_a_claim_without_a_number_has_a_verdict_and_a_reason():
    rows = [ledger.untestable_row("C5a", "no request was refused", model="m", seed=0), effect("C5b", competent=False)]
    table = ledger.claims_table(ledger.table(rows))
    assert table["verdict"].tolist() == ["not testable"] * 2
    assert table["why_not"][0] == "no request was refused"
    assert np.isnan(table["effect"][0]) and table["effect"][1] == 0.2  # the estimate is shown all the same


def test_beside_each_verdict_whether_the_papers_number_is_excluded():
    rows = [effect(), effect(seed=1, low=0.05), effect("C1c"), effect("C1b", competent=False)]
    table = ledger.claims_table(ledger.table(rows))
    found = dict(zip(zip(table["claim"], table["seed"], strict=True), table["excludes_paper"], strict=True))
    assert found[("C1a", 0)] and not found[("C1a", 1)]
    assert pd.isna(found[("C1c", 0)]) and pd.isna(found[("C1b", 0)])


def test_the_papers_effects_are_those_of_the_re_analysis():
    printed = ledger.claims().set_index("id")["paper_effect"]
    known = reanalysis().set_index("claim")["effect"]
    assert np.isnan(printed.pop("C9a"))  # the paper's control are any other neurons, ours those of the same rule
    assert printed.equals(known.reindex(printed.index).round(4).rename("paper_effect").rename_axis("id"))


# -- the shipped rows ------------------------------------------------------------------------------


def test_the_shipped_rows_are_whole():
    rows = ledger.shipped()
    assert (rows["status"] == "ok").all() and rows["run_id"].str.match(r"rimkit grid \w+$").all()
    assert not rows.duplicated(["claim", "metric", "model", "seed", "mode", "control"]).any()
    known = ledger.claims().set_index("id")
    assert (rows["metric"] == known.loc[rows["claim"], "primary_metric"].to_numpy()).all()
    competent = rows["competent"].fillna(True).astype(bool)
    assert rows.loc[~competent, "why_not"].str.len().gt(20).all()
    measured = rows[competent]
    numbers = measured[["effect", "effect_ci_low", "effect_ci_high"]]
    assert numbers.notna().all().all() and (measured["n"] > 0).all()
    assert measured["effect"].between(measured["effect_ci_low"] - 1e-9, measured["effect_ci_high"] + 1e-9).all()
    assert measured["p_value"].dropna().between(0, 1).all()


def test_no_rows_no_verdicts():
    assert ledger.claims_table(ledger.table([])).empty
