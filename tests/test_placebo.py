"""Swapped labels: nothing is left to find, and the intervals say so about as often as they should."""

import numpy as np
import pandas as pd
import pytest

from rimkit.behavior.stats import false_positives, swapped


@pytest.fixture(scope="module")
def verdicts():
    """Thirty verbs with two prompts each, and a large effect of thinking."""
    rng, rows = np.random.default_rng(0), []
    for verb in range(30):
        for prompt in range(2):
            for mode, rate in (("think", 0.7), ("no-think", 0.1)):
                rows.append((f"p{verb}-{prompt}", f"verb {verb}", mode, rng.random() < rate))
    return pd.DataFrame(rows, columns=["prompt_id", "cluster", "mode", "misaligned"])


def test_swapped_labels_leave_nothing(verdicts):
    draws = swapped(verdicts, draws=100)
    assert abs(draws["effect"].mean()) < 0.03
    assert ((draws["ci_low"] <= draws["effect"]) & (draws["effect"] <= draws["ci_high"])).all()
    found = false_positives(draws)
    assert found.ci_low <= 0.05 <= found.ci_high
    assert found.n == 100
    pd.testing.assert_frame_equal(draws, swapped(verdicts, draws=100))


def test_whole_verbs_are_swapped(verdicts):
    """Both prompts of a verb turn together: each draw's effect is a signed sum of the verbs' own differences."""
    wide = verdicts.pivot(index=["cluster", "prompt_id"], columns="mode", values="misaligned").astype(float)
    own = (wide["think"] - wide["no-think"]).groupby("cluster").mean().abs()
    assert swapped(verdicts, draws=50)["effect"].abs().max() <= own.mean() + 1e-9
    one = swapped(verdicts[verdicts["cluster"] == "verb 3"], draws=20)["effect"]
    assert len(set(one.abs().round(9))) == 1


def test_samples_are_averaged_and_prompts_without_clusters_stand_alone(verdicts):
    twice = pd.concat([verdicts.assign(sample=0), verdicts.assign(sample=1)], ignore_index=True)
    pd.testing.assert_frame_equal(swapped(twice, draws=5), swapped(verdicts, draws=5))
    alone = swapped(verdicts.drop(columns="cluster"), draws=60)["effect"]
    assert alone.std() < swapped(verdicts, draws=60)["effect"].std() * 1.5
    assert alone.nunique() > 10


def test_intervals_that_leave_out_zero_are_counted(verdicts):
    draws = swapped(verdicts, draws=60, seed=1)
    assert draws["effect"].is_monotonic_increasing and draws["swap"].tolist() == list(range(1, 61))
    outside = ((draws["ci_low"] > 0) | (draws["ci_high"] < 0)).sum()
    assert false_positives(draws).value == pytest.approx(outside / 60)
    assert false_positives(
        draws.assign(zero=["above zero"] * 20 + ["zero inside the interval"] * 40)
    ).value == pytest.approx(1 / 3)
