"""Rates, differences and tests: known values, properties, coverage."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, permutation_test, t

from rimkit.behavior.agreement import kappa
from rimkit.behavior.stats import (
    against_singles,
    exact_test,
    holm,
    paired_difference,
    rate,
    rates,
    sign_flip_p,
    unpaired_difference,
)
from rimkit.data import UserError

VALUES = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=60)
SOME = settings(max_examples=60, deadline=None)


def table(values, clusters=None, **columns) -> pd.DataFrame:
    values = list(values)
    prompts = [f"p{i}" for i in range(len(values))]
    clusters = prompts if clusters is None else [str(cluster) for cluster in clusters]
    data = {"prompt_id": prompts, "misaligned": values, "sample": 0, "cluster": clusters}
    return pd.DataFrame(data | columns)


def beta_clusters(rng, share: float, groups: int, per: int, spread: float = 0.2):
    """Replies whose clusters differ: each has its own rate, drawn around ``share``."""
    scale = (1 - spread) / spread
    own = rng.beta(share * scale, (1 - share) * scale, groups)
    return rng.random((groups, per)) < own[:, None]


# -------------------------------------------------------------------------------------------- rates


def test_wilson_is_the_known_interval():
    found = rate([True] * 8 + [False] * 2)
    assert found.value == 0.8
    assert found[1:3] == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson 1927, 8 of 10
    assert found.n == 10
    assert found.method == "Wilson"


@SOME
@given(VALUES)
def test_an_interval_holds_its_estimate_and_stays_in_range(rows):
    values, clusters = zip(*rows, strict=True)
    for found in (rate(values), rate(values, clusters)):
        assert 0 <= found.ci_low <= found.value <= found.ci_high <= 1
        assert found.ci_low < found.ci_high
        assert found.value == pytest.approx(np.mean(values))


@SOME
@given(VALUES, st.randoms())
def test_row_order_does_not_matter(rows, random):
    mixed = random.sample(rows, len(rows))
    assert rate(*zip(*rows, strict=True)) == rate(*zip(*mixed, strict=True))


@SOME
@given(VALUES)
def test_the_rate_of_the_opposite_is_the_mirror_image(rows):
    values, clusters = zip(*rows, strict=True)
    one, other = rate(values, clusters), rate([not value for value in values], clusters)
    assert other.value == pytest.approx(1 - one.value)
    assert other.ci_low == pytest.approx(1 - one.ci_high, abs=1e-9)


@pytest.mark.parametrize("groups", [6, 30])
def test_homogeneous_clusters_widen_the_interval(groups):
    values, clusters = np.repeat(np.arange(groups) % 2 == 0, 10), np.repeat(np.arange(groups), 10)
    plain, clustered = rate(values), rate(values, clusters)
    assert clustered.ci_high - clustered.ci_low > 2 * (plain.ci_high - plain.ci_low)


def test_no_event_at_all_counts_each_cluster_once():
    found = rate([False] * 200, np.repeat(np.arange(20), 10))
    assert found.ci_low == 0
    assert found.ci_high == pytest.approx(beta.ppf(0.975, 0.5, 20.5), abs=0.01)  # Jeffreys, 0 of 20
    assert "20 clusters" in found.method
    assert found.n == 200


@pytest.mark.parametrize("ends", [(0, 1), (-1, 1)])
def test_one_event_more_raises_both_ends_and_none_is_not_the_widest(ends):
    """23 verbs with 14 prompts each, of which j verbs have one changed prompt."""
    clusters, low, high = np.repeat(np.arange(23), 14), [], []
    for j in range(8):
        changed = (np.arange(322) % 14 == 0) & (clusters < j)
        found = rate(changed, clusters)
        if ends[0] < 0:
            found = paired_difference(table(changed, clusters), table(np.zeros(322, bool), clusters), "misaligned")
        low, high = [*low, found.ci_low], [*high, found.ci_high]
    assert (np.diff(low) > 0).all() if ends[0] < 0 else (np.diff(low) >= 0).all() and low[-1] > 0
    assert (np.diff(high) > 0).all()
    assert high[0] - low[0] <= 1.05 * (high[1] - low[1])


def test_p_values_are_those_of_scipys_sign_flips_and_four_verbs_do_not_suffice():
    rng = np.random.default_rng(0)
    for groups, close in ((9, 1e-12), (30, 0.004)):  # exact, and drawn
        sums = rng.integers(-3, 6, groups).astype(float)
        known = permutation_test((sums,), lambda x, axis: x.sum(axis), permutation_type="samples",
                                 n_resamples=99_999, vectorized=True, rng=1).pvalue  # fmt: skip
        assert sign_flip_p(sums) == pytest.approx(known, abs=close)
    assert sign_flip_p(np.r_[np.ones(4), np.zeros(19)]) == 0.125
    assert sign_flip_p(np.zeros(5)) == 1
    assert sign_flip_p(np.ones(100)) == 1e-5  # more clusters than one block of signs


def test_methods_are_named_where_they_apply():
    many = np.repeat(np.arange(30), 4)
    assert rate(np.arange(120) < 8, many).method == "Bayesian bootstrap of 30 clusters"
    assert rate(np.arange(120) < 50, np.arange(120)).method == "Wilson"  # each in its own cluster
    assert "1 clusters" in rate([True, False], [1, 1]).method
    assert rate(np.linspace(0, 1, 20)).method == "Bayesian bootstrap of 20 values"


def test_missing_values_are_left_out_and_nothing_gives_nothing():
    assert rate([1.0, np.nan, 0.0, None]).n == 2
    empty = rate([])
    assert np.isnan(empty.value)
    assert empty.method == "no data"


def test_the_same_values_give_the_same_interval():
    rng = np.random.default_rng(0)
    values, clusters = beta_clusters(rng, 0.4, 25, 8).ravel(), np.repeat(np.arange(25), 8)
    assert rate(values, clusters) == rate(values, clusters)


@pytest.mark.parametrize(("share", "groups"), [(0.05, 24), (0.3, 12), (0.3, 40)])
def test_clustered_intervals_cover_the_truth_and_unclustered_ones_do_not(share, groups):
    rng, clusters, draws = np.random.default_rng(7), np.repeat(np.arange(groups), 10), 200
    clustered = plain = 0
    for _ in range(draws):
        values = beta_clusters(rng, share, groups, 10).ravel()
        found, naive = rate(values, clusters), rate(values)
        clustered += found.ci_low <= share <= found.ci_high
        plain += naive.ci_low <= share <= naive.ci_high
    assert clustered / draws > 0.90
    assert plain < clustered


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rate([0, 2]), "from 0 to 1, here is 2"),
        (lambda: rate([0, 1], ["a"]), "2 values need as many clusters, not 1"),
        (lambda: rates(table([True]), by="mood"), "no column mood"),
        (lambda: rates(table([True]), metrics=["misalinged"]), "did you mean 'misaligned'"),
        (lambda: exact_test(5, 4, 1, 2), "are not counts"),
        (lambda: exact_test(1.5, 4, 1, 2), "are not counts"),
        (lambda: kappa([True], [True, False], ["a", "b"]), "1, 2 judged, 2 clusters"),
    ],
)
def test_bad_input_is_told_in_one_line(call, words):
    with pytest.raises(UserError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_rates_is_one_row_per_group_and_metric():
    modes = ["think"] * 20 + ["no-think"] * 20
    verdicts = table([True, False] * 20, np.arange(40) % 10, mode=modes, refused=False)
    found = rates(verdicts, by=["mode"], metrics=["misaligned", "refused"])
    assert found.columns.tolist() == ["mode", "metric", "value", "ci_low", "ci_high", "n", "method"]
    assert found["mode"].tolist() == ["think", "think", "no-think", "no-think"]
    assert found["value"].tolist() == [0.5, 0, 0.5, 0]
    assert (found["n"] == 20).all()
    whole = rates(verdicts, metrics="misaligned")
    assert whole.loc[0, "n"] == 40
    assert rates(verdicts, metrics="misaligned", cluster=None).loc[0, "method"] == "Wilson"


def test_missing_clusters_are_prompts():
    verdicts = table([True, False] * 10).assign(prompt_id=np.repeat(np.arange(5), 4), cluster=None)
    by_prompt = rates(verdicts, metrics="misaligned").loc[0]
    assert by_prompt["method"].endswith("5 clusters")
    assert rates(verdicts.drop(columns="cluster"), metrics="misaligned").loc[0].equals(by_prompt)


# -------------------------------------------------------------------------------------- differences


def test_a_paired_difference_is_the_mean_change_and_sharper_than_an_unpaired_one():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 10)
    b = beta_clusters(rng, 0.3, 30, 10, spread=0.5).ravel()
    a = b | (rng.random(300) < 0.3)
    paired = paired_difference(table(a, clusters), table(b, clusters), "misaligned")
    unpaired = unpaired_difference(table(a, clusters), table(b, clusters), "misaligned")
    assert paired.effect == pytest.approx(a.mean() - b.mean()) == pytest.approx(unpaired.effect)
    assert paired.ci_low > 0
    assert paired.p_value < 0.001
    assert (paired.n, paired.n_clusters) == (300, 30)
    assert unpaired.ci_low < paired.ci_low


def test_swapping_the_sides_mirrors_the_difference():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(12), 5)
    a, b = table(rng.random(60) < 0.5, clusters), table(rng.random(60) < 0.3, clusters)
    for difference in (paired_difference, unpaired_difference):
        one, other = difference(a, b, "misaligned"), difference(b, a, "misaligned")
        assert one.effect == pytest.approx(-other.effect)
        assert one.ci_low == pytest.approx(-other.ci_high)
        assert one.p_value == pytest.approx(other.p_value)


def test_rows_are_paired_by_name_and_samples_are_averaged_first():
    a = pd.concat([table([True, False]).assign(sample=s) for s in range(3)])
    b = pd.concat([table([False, False]).assign(sample=s) for s in range(3)])
    found = paired_difference(a.sample(frac=1, random_state=0), b, "misaligned")
    assert (found.value_a, found.value_b, found.n) == (0.5, 0, 2)
    lost = paired_difference(a, b[b["prompt_id"] == "p0"], "misaligned")
    assert lost.value_a == 1
    assert "3 unpaired rows left out" in lost.method


@pytest.mark.parametrize(("a", "low", "high"), [(False, -1, 1), (True, 0, 2)])
def test_without_any_spread_the_interval_stays_open(a, low, high):
    clusters = np.repeat(np.arange(20), 5)
    found = paired_difference(table([a] * 100, clusters), table([False] * 100, clusters), "misaligned")
    assert found.effect == float(a)
    assert low < found.ci_low <= found.effect <= found.ci_high < high
    assert found.ci_low < found.ci_high
    assert (found.p_value == 1) if not a else (found.p_value < 0.001)


def test_an_unpaired_difference_of_constants_is_finite():
    found = unpaired_difference(table([True] * 9), table([True] * 5), "misaligned")
    assert (found.effect, found.p_value) == (0, 1)
    assert found.ci_low < 0 < found.ci_high


def test_a_null_difference_is_seldom_called_an_effect():
    rng, clusters = np.random.default_rng(3), np.repeat(np.arange(20), 6)
    hits = 0
    for _ in range(200):
        shared = rng.beta(2, 6, 20)[:, None]
        a, b = (table((rng.random((20, 6)) < shared).ravel(), clusters) for _ in range(2))
        found = paired_difference(a, b, "misaligned")
        hits += not found.ci_low <= 0 <= found.ci_high
    assert hits <= 20  # 10 expected at 5%


def test_pairing_errors_are_told():
    twice = pd.concat([table([True])] * 2)
    with pytest.raises(UserError, match="do not tell rows apart"):
        paired_difference(twice, twice, "misaligned")
    with pytest.raises(UserError, match="nothing to pair"):
        paired_difference(table([True]), table([True]).assign(prompt_id="q"), "misaligned")
    with pytest.raises(UserError, match="nothing to compare"):
        unpaired_difference(table([]), table([True]), "misaligned")


# ------------------------------------------------------------------------------- sets of controls


def test_one_more_control_is_called_an_effect_as_often_as_said():
    """Sets that are alike: each stands in the selected one's place against the 40 others."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(10):
        level = rng.normal(0, 0.2, 41)
        for k in range(41):
            singles = level[k] - np.delete(level, k)
            mean = {"effect": singles.mean(), "ci_low": singles.mean() - 0.02, "ci_high": singles.mean() + 0.02}
            found = against_singles(mean, singles)
            hits += found["p_value"] < 0.05 and found["beyond"] >= 0.95
            assert (found["p_value"] < 0.05) == (found["ci_low"] > 0 or found["ci_high"] < 0)
    assert hits / 410 <= 0.08


def test_a_set_beyond_all_controls_is_an_effect_and_one_control_says_nothing():
    singles = 0.5 + np.random.default_rng(0).normal(0, 0.05, 40)
    mean = {"effect": singles.mean(), "ci_low": singles.mean(), "ci_high": singles.mean()}
    found = against_singles(mean, singles, limit=0.55)
    spread = singles.std(ddof=1) * np.sqrt(1 + 1 / 40)  # of the effect, for one more control
    assert found["p_value"] == pytest.approx(2 * t.sf(singles.mean() / spread, 39))
    assert found["beyond"] == 1 and found["ci_high"] == 0.55
    assert np.isnan(against_singles(mean, singles[:1])["p_value"])


# -------------------------------------------------------------------------------------------- tests


def test_a_difference_of_replies_that_nobody_judged_is_missing():
    a = pd.DataFrame({"prompt_id": ["p", "q"], "cluster": "v", "refused": [True, None]})
    b = a.assign(refused=[None, False])
    found = paired_difference(a, b, "refused")
    assert found.n == found.n_clusters == 0 and np.isnan([found.effect, found.ci_low, found.ci_high]).all()
    assert "refused" in found.method


def test_exact_tests_give_known_values():
    assert exact_test(1, 10, 9, 10) == pytest.approx(0.001093, abs=1e-6)


@SOME
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_monotone_and_never_smaller(p_values):
    adjusted = holm(p_values)
    assert len(adjusted) == len(p_values)
    assert (adjusted >= np.array(p_values) - 1e-12).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= -1e-12).all()


def test_holm_leaves_missing_values_out_of_the_count():
    adjusted = holm([0.01, np.nan, 0.04])
    assert np.isnan(adjusted[1])
    assert adjusted[[0, 2]].tolist() == pytest.approx([0.02, 0.04])
