"""Simulations of the intervals and verdicts that are used: short versions of `rimkit audit`."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from rimkit.behavior.evaluation import RANDOM, SELECTED, against_random
from rimkit.cli import app
from rimkit.data import results
from rimkit.ledger import claims, verdict
from rimkit.models.load import load
from rimkit.runs import audit


@pytest.fixture(scope="module")
def quick():
    return audit.simulate(60, quick=True)


def test_intervals_hold_the_truth_and_nothing_is_seldom_called_something(quick):
    assert set(quick["what"]) == set(audit.WHAT)
    assert (quick["coverage"] >= 0.85).all() and quick["coverage"].mean() >= 0.94
    null = quick[quick["effect"].eq(0) & quick["significant"].notna()]
    assert (null["significant"] <= 0.1).all() and (null["clear"] <= 0.02).all()
    assert len(null) >= 3


def test_effects_are_found(quick):
    table = audit.summary(quick)
    assert table.loc["set", "power"] > 0.3
    assert table.loc["paired difference", "power"] > table.loc["paired difference", "false alarms"]
    assert table["settings"].sum() == len(quick)
    assert np.isnan(table.loc["rate", "power"])


def test_the_same_seed_gives_the_same_table():
    one, same = (audit.simulate(3, quick=True) for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(audit.simulate(3, quick=True, seed=1))


def test_every_setting_is_named_once_and_the_quick_ones_are_some_of_their_kinds():
    every, few = list(audit.settings()), list(audit.settings(quick=True))
    assert len(set(every)) == len(every) > 200
    assert {one[0] for one in few} == set(audit.WHAT) and len(few) < 15


def sets_of(shares: dict[str, float], verbs: int = 20, per: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"condition": name, "prompt_id": f"{verb}-{prompt}", "cluster": str(verb), "refused": rng.random() < share}
        for name, share in shares.items() for verb in range(verbs) for prompt in range(per)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def exchanged_sets(verdicts: pd.DataFrame) -> dict[str, str]:
    """The verdict, without correction, on each random set in the selected one's place: clear ones are false alarms."""
    random, found = verdicts[verdicts["condition"].str.startswith(RANDOM)], {}
    for name in random["condition"].unique():
        one = against_random(random.replace({"condition": {name: SELECTED}}), "refused")
        ends = one["effect"], one["ci_low"], one["ci_high"]
        found[name] = verdict(*ends, 1, audit.SMALLEST, one["p_value"], 1, True, one["beyond"])
    return found


def test_each_random_set_stands_in_the_selected_ones_place():
    """Of the shipped sets of heads, all models together, a tenth at most is called special, uncorrected."""
    planted = {**{f"random {number}": 0.9 for number in range(41)}, "random 7": 0.0}
    found = exchanged_sets(sets_of({"nothing": 0.9, "selected": 0.1, **planted}))
    assert [name for name, word in found.items() if word in audit.CLEAR] == ["random 7"]
    shipped = results("heads-ablations-judged").query("mode == 'no-think'")
    found = {key: exchanged_sets(part) for key, part in shipped.groupby(["model", "seed"])}
    assert {("safe-mini", 0), ("rim-mini", 0)} < set(found) and all(len(words) == 40 for words in found.values())
    assert np.mean([word in audit.CLEAR for words in found.values() for word in words.values()]) <= 0.1


def test_two_sampling_seeds_of_one_condition_are_seldom_called_different():
    found = audit.repeats(load("rim-mini"), n_prompts=12, n_samples=4, resamples=50)
    assert found["claim"].tolist() == list(audit.REPEATED) and set(found["claim"]) <= set(claims()["id"])
    assert (found["n"] == 50).all() and found["value"].between(0, 1).all()
    assert found["significant"].between(found["low"], found["high"]).all()
    assert found["significant"].mean() <= 0.1 and (found["clear"] <= found["significant"]).all()
    assert (found["value"].between(0.02, 0.98)).sum() >= 3  # where false alarms can happen


def test_the_command_writes_one_table(tmp_path):
    said = CliRunner().invoke(app, ["audit", "--quick", "--out", str(tmp_path)])
    assert said.exit_code == 0, said.output
    table = pd.read_csv(tmp_path / "audit.csv")
    assert table["what"].nunique() == len(audit.WHAT)
    assert "paired difference" in said.output


def test_the_worst_setting_of_each_kind_is_drawn_afresh(quick):
    found = audit.with_fresh(quick[quick["what"].isin(["rate", "whole verbs turn"])], n=100)
    again = found.dropna(subset="fresh")
    worst = found.groupby("what")["coverage"].min()
    assert again.set_index("what")["coverage"].to_dict() == worst.to_dict()
    assert again["fresh"].between(0.8, 1).all() and (again["n_fresh"] == 100).all()


def test_the_shipped_table_keeps_what_is_promised():
    table = results("audit")
    assert table[audit.SETTING].apply(tuple, axis=1).tolist() == list(audit.settings())
    assert table["coverage"].mean() >= 0.96 and table["coverage"].min() >= 0.88
    fresh = table["fresh"].dropna()
    assert len(fresh) == len(audit.WHAT) and fresh.between(0.88, 0.99).all()
    null = table[table["effect"].eq(0) & table["significant"].notna()]
    assert null["significant"].max() <= 0.1 and null["clear"].max() <= 0.02
