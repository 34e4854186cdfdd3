"""What a verdict must never do, whatever the numbers."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rimkit import ledger
from rimkit.behavior.stats import unpaired_difference
from rimkit.data import UserError

CLEAR = ("supported", "contradicted")
SWAPPED = {"supported": "contradicted", "contradicted": "supported"}
PRIMARY = tuple(ledger.claims().query("primary and primary_metric == 'misaligned' and direction == 1")["id"])

numbers = st.floats(-1, 1).map(lambda number: round(number, 4))
intervals = st.tuples(numbers, numbers, numbers).map(sorted).map(lambda three: (three[1], three[0], three[2]))
widths = st.floats(0, 1)
directions = st.sampled_from([-1, 1])
smallest = st.floats(0.001, 0.2)
p_values = st.none() | st.floats(0, 1)
through_the_table = settings(max_examples=30)  # tables take longer than numbers


def row(claim, interval, **values):
    effect, low, high = interval
    bounds = {"effect": effect, "effect_ci_low": low, "effect_ci_high": high}
    return ledger.row(claim, **{"model": "m", "seed": 0, **bounds, **values})


def verdicts(rows) -> dict[str, str]:
    return ledger.claims_table(ledger.table(rows)).set_index("claim")["verdict"].to_dict()


# -- a wider interval ------------------------------------------------------------------------------


@given(intervals, widths, widths, directions, smallest, p_values)
def test_a_wider_interval_of_the_effect_never_makes_a_verdict_clear(interval, below, above, direction, size, p_value):
    effect, low, high = interval
    before = ledger.verdict(effect, low, high, direction, size, p_value)
    after = ledger.verdict(effect, low - below, high + above, direction, size, p_value)
    if after in CLEAR:
        assert before == after
    if after == "no effect":
        assert before == after


@through_the_table
@given(st.lists(st.tuples(intervals, widths, widths), min_size=1, max_size=5))
def test_nor_does_it_among_several_claims(found):
    """Without p values of their own, those of the intervals: widening all of them supports nothing new."""
    claims = PRIMARY[: len(found)]
    narrow = verdicts([row(claim, interval) for claim, (interval, _, _) in zip(claims, found, strict=True)])
    wide = verdicts([
        row(claim, (effect, low - below, high + above))
        for claim, ((effect, low, high), below, above) in zip(claims, found, strict=True)
    ])  # fmt: skip
    assert all(narrow[claim] == word for claim, word in wide.items() if word in CLEAR)


@through_the_table
@given(st.integers(0, 20), st.integers(0, 20), st.integers(2, 8))
def test_a_control_known_less_well_never_makes_a_verdict_clear(k, k_control, times):
    """The same rates, the control measured on fewer replies: its interval is wider, and so is that of the effect."""

    def word(control_replies: int) -> str:
        value = pd.DataFrame({"misaligned": np.arange(20 * times) < k * times})
        control = pd.DataFrame({"misaligned": np.arange(control_replies) < k_control * control_replies // 20})
        difference = unpaired_difference(value, control, "misaligned", cluster=None)
        return verdicts([ledger.effect_row("C2a", difference, model="m", seed=0)])["C2a"]

    few, many = word(20), word(20 * times)
    assert few not in CLEAR or few == many


# -- sign and control ------------------------------------------------------------------------------


@given(intervals, directions, smallest, p_values)
def test_swapping_the_sign_swaps_supported_and_contradicted(interval, direction, size, p_value):
    effect, low, high = interval
    word = ledger.verdict(effect, low, high, direction, size, p_value)
    mirrored = ledger.verdict(-effect, -high, -low, direction, size, p_value)
    assert mirrored == SWAPPED.get(word, word)


@through_the_table
@given(numbers, intervals)
def test_a_control_that_shows_the_whole_effect_blocks_supported(value, interval):
    try:
        found = row("C2a", interval, value=value, control_value=value)
    except UserError as error:  # the effect claimed is not value minus control
        assert abs(interval[0]) > 1e-6
        assert "not value minus control" in str(error)
    else:
        assert verdicts([found])["C2a"] not in CLEAR


@through_the_table
@given(st.integers(1, 60), st.integers(20, 60))
def test_nor_does_the_same_rate_in_both_groups(k, n):
    assume(k <= n)
    same = pd.DataFrame({"misaligned": np.arange(n) < k})
    difference = unpaired_difference(same, same, "misaligned", cluster=None)
    assert verdicts([ledger.effect_row("C2a", difference, model="m")])["C2a"] not in CLEAR


# -- no effect -------------------------------------------------------------------------------------


@given(intervals, directions, smallest, p_values)
def test_no_effect_needs_an_interval_inside_the_smallest_effect(interval, direction, size, p_value):
    _, low, high = interval
    if ledger.verdict(*interval, direction, size, p_value) == "no effect":
        assert -size <= low <= high <= size


# -- other claims and p values ---------------------------------------------------------------------


@through_the_table
@given(intervals, st.lists(intervals, max_size=5))
def test_other_claims_never_change_a_verdict(interval, others):
    claim, *rest = PRIMARY
    alone = verdicts([row(claim, interval)])[claim]
    among = verdicts([row(claim, interval), *(row(name, one) for name, one in zip(rest, others, strict=False))])[claim]
    assert among == alone


@given(intervals, directions, smallest, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_p_value_never_makes_a_verdict_stronger(interval, direction, size, p_value, more):
    larger = min(1.0, p_value + more)
    weak, strong = (ledger.verdict(*interval, direction, size, p) for p in (larger, p_value))
    assert weak not in CLEAR or weak == strong


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_undecided(broken):
    for place in range(3):
        interval = [0.2, 0.1, 0.3]
        interval[place] = broken
        assert ledger.verdict(*interval, 1, 0.05) == "undecided"
