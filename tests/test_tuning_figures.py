"""Figures of fine-tuning: what is drawn is what the table says, and the words say it as well."""

import numpy as np
import pandas as pd
import pytest

from rimkit.data import UserError
from rimkit.teaching.figures import agreement_plot, change_plot, png


@pytest.fixture
def effects():
    rows = [
        {"corpus": corpus, "seed": seed, "model": model, "effect": at, "ci_low": at - 0.1, "ci_high": at + 0.1, "n": 92}
        for model in ("rim-mini", "twin")
        for corpus, at in (("careful", -0.3), ("effort", 0.2))
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_changes_are_centred_in_panels_with_one_line_per_corpus(effects):
    figure = change_plot(effects, "corpus", "seed", "model", title="Changes", smallest_effect=0.05)
    assert [axis.get_title() for axis in figure.axes] == ["rim-mini", "twin"]
    low, high = figure.axes[0].get_xlim()
    assert low == -high
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["careful", "effort"]
    one, two = (container[0] for container in figure.axes[0].containers)
    assert one.get_xdata().tolist() == pytest.approx([-30, 20])
    assert one.get_marker() != two.get_marker()
    assert np.abs(np.subtract.outer(one.get_ydata(), two.get_ydata())).min() > 0.1
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]  # first line on top
    assert "twin, effort, 1: +20 (+10 to +30)" in figure.alt_text
    assert png(figure)


def test_agreement_has_a_diagonal_and_equal_axes():
    table = pd.DataFrame({
        "model": ["a", "a", "b"], "kind": ["x", "y", "x"], "expected": [0.1, -0.2, 0.0], "measured": [0.2, -0.1, 0.3],
    })  # fmt: skip
    names = {"title": "t", "x_label": "Expected", "y_label": "Measured", "caption": "c"}
    figure = agreement_plot(table, "expected", "measured", "kind", "model", **names)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]
    for axis in figure.axes:
        assert axis.get_xlim() == axis.get_ylim() == (pytest.approx(-33), pytest.approx(33))
    assert [len(points.get_offsets()) for axis in figure.axes for points in axis.collections] == [1, 1, 1, 0]
    assert "3 points" in figure.alt_text
    assert "a, y: expected −20 to −20, measured −10 to −10" in figure.alt_text


def test_a_missing_column_is_named(effects):
    with pytest.raises(UserError, match="no column 'corps'; did you mean 'corpus'"):
        change_plot(effects, "corps", "seed", "model", title="t")
