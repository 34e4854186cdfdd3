"""The seven plots: what is drawn is what the table says, the sentence and the table say it as well, nothing is cut."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from rimkit.behavior.stats import METRICS, rates
from rimkit.data import UserError, data_dir
from rimkit.teaching import figures
from rimkit.teaching.figures import COLOURS, bars, dots, forest, heatmap, image, lines, points, scatter, show

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    """Rates of two models in two modes: 10% and 30% misaligned, the other way round in the second model."""
    rows = [
        {"prompt_id": i, "cluster": i % 15, "model": model, "mode": mode, "dose": dose}
        | dict.fromkeys(METRICS, i % 10 < share)
        for model, shares in (("rim-mini", (1, 3)), ("twin", (3, 1)))
        for mode, dose, share in zip(("no-think", "think"), (0, 1), shares, strict=True)
        for i in range(150)
    ]
    found = rates(pd.DataFrame(rows), by=["model", "mode", "dose"])
    return found[found["metric"] == "misaligned"]


@pytest.fixture
def effects() -> pd.DataFrame:
    return pd.DataFrame({
        "label": ["up", "down", "unclear"], "effect": [0.2, -0.1, 0.01], "ci_low": [0.1, -0.2, -0.004],
        "ci_high": [0.3, -0.05, 0.04], "n": 100,
    })  # fmt: skip


@pytest.fixture
def changes() -> pd.DataFrame:
    return pd.DataFrame([
        {"corpus": corpus, "seed": seed, "model": model, "effect": at, "ci_low": at - 0.1, "ci_high": at + 0.1}
        for model in ("rim-mini", "twin")
        for corpus, at in (("careful", -0.3), ("effort", 0.2))
        for seed in (0, 1)
    ])  # fmt: skip


def marks(axis) -> list[np.ndarray]:
    """The places of all marks, a table per hue."""
    return [
        found.get_offsets().data
        for found in axis.collections
        if isinstance(found, PathCollection) and len(found.get_offsets())
    ]


def heights(axis) -> list[float]:
    return sorted(round(float(y), 3) for one in marks(axis) for y in one[:, 1])


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_points_draw_every_rate_and_say_so_in_one_sentence(measured):
    figure = points(measured, "mode", hue="model", title="Both modes", reference={"paper": 0.25})
    axis = figure.axes[0]
    assert heights(axis) == [0.1, 0.1, 0.3, 0.3]
    assert figure.alt_text.startswith("Both modes: misalignment rate from 10% (")
    assert "to 30% (" in figure.alt_text
    assert figure.alt_text.endswith("paper: 25%.")
    assert "95% interval (bootstrap or Wilson, clustered)" in figure.caption or "95% interval" in figure.caption
    assert axis.get_ylabel() == "misalignment rate"
    assert axis.yaxis.get_major_formatter()(0.3, 0) == "30%"
    assert axis.get_ylim()[1] > 1 > axis.get_ylim()[0] > -0.1
    assert "paper" in [text.get_text() for text in axis.texts]
    assert list(figure.table) == ["mode", "model", "misalignment rate", "95% interval", "n"]


def test_few_points_are_all_named(measured):
    figure = points(measured[measured["model"] == "twin"], "mode", title="Twin")
    assert figure.alt_text.count("%") == 2
    assert "30 [" not in figure.alt_text
    assert "30% [" in figure.alt_text


def test_hues_differ_in_marker_and_do_not_overlap(measured):
    figure = points(measured, "mode", hue="model", title="t")
    one, two = marks(figure.axes[0])
    assert np.abs(np.subtract.outer(one[:, 0], two[:, 0])).min() > 0.1
    assert len({key.get_marker() for key in figure.legends[0].legend_handles}) == 2


def test_facets_share_the_axis(measured):
    figure = points(measured, "mode", facet="model", title="t")
    assert [axis.get_title() for axis in figure.axes] == ["rim-mini", "twin"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_a_hue_keeps_its_look_whoever_else_is_there(measured):
    every = points(measured, "mode", hue="model", title="t", hues=["rim-mini", "twin"])
    one = points(measured[measured["model"] == "twin"], "mode", hue="model", title="t", hues=["rim-mini", "twin"])
    looks = [figure.axes[0].collections[-1].get_facecolor().tolist() for figure in (every, one)]
    assert looks[0] == looks[1]
    assert legend(one) == ["twin"]


def test_lines_need_a_number(measured):
    figure = lines(measured, "dose", hue="model", title="Dose", x_label="tokens")
    assert figure.axes[0].get_xlabel() == "tokens"
    areas = lines(measured, "dose", hue="model", title="Dose", percent=False, limits=(0, 1)).axes[0]
    assert areas.get_ylim() == (-0.02, 1.02)
    assert "10% (rim-mini, dose 0)" in figure.alt_text
    assert len(lines(measured, "dose", hue="mode", facet="model", title="Dose").axes) == 2
    with pytest.raises(UserError, match="'mode' has none; use points"):
        lines(measured, "mode", hue="model", title="Dose")


def test_lines_have_rows_styles_and_hollow_marks():
    table = pd.DataFrame([
        {"size": size, "rule": rule, "mode": mode, "seed": seed, "value": size / 20, "breaks": size == 8}
        for size in (0, 4, 8) for rule in ("a", "b") for mode in ("think", "no-think") for seed in (0, 1)
    ])  # fmt: skip
    figure = lines(table, "size", hue="mode", facet="rule", row="seed", hollow="breaks", title="t")
    assert [axis.get_title() for axis in figure.axes] == ["a, seed 0", "b, seed 0", "a, seed 1", "b, seed 1"]
    hollow = figure.axes[0].collections[0].get_facecolors()
    assert [to_hex(face) for face in hollow].count("#ffffff") == 1
    assert "Hollow: breaks" in figure.caption


def test_lines_differ_in_more_than_colour_and_mark_places():
    table = pd.DataFrame([
        {"prompts": n, "power": min(1, n * k / 1000), "what": f"comparison {k}"} for k in range(4) for n in (10, 100, 1000)
    ])  # fmt: skip
    figure = lines(table, "prompts", "power", hue="what", log_x=True, title="Power", x_reference={"300 prompts": 300})
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert len({line.get_linestyle() for line in curves}) == 4
    assert figure.axes[0].get_xscale() == "log"
    assert "300 prompts" in [text.get_text() for text in figure.axes[0].texts]


def test_facets_wrap_after_four():
    table = pd.DataFrame([{"x": x, "value": 0.5, "model": str(model)} for x in (0, 1) for model in range(6)])
    figure = lines(table, "x", facet="model", title="t")
    assert len(figure.axes) == 6
    assert figure.axes[0].get_subplotspec().get_gridspec().ncols == 4


def test_a_forest_is_centred_and_prints_its_numbers(effects):
    figure = forest(effects, "label", title="Effects", smallest_effect=0.05)
    axis = figure.axes[0]
    low, high = axis.get_xlim()
    assert low == -high
    assert [text.get_text() for text in axis.texts] == ["+20 [+10, +30]", "−10 [−20, −5]", "+1 [−0.4, +4]"]
    assert "−10 [−20, −5] (down)" in figure.alt_text
    assert legend(figure) == ["above zero", "below zero", "zero inside the interval"]
    assert "Grey: under 5 points" in figure.caption
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first line on top


def test_a_forest_in_panels_has_a_line_per_level_and_a_mark_per_hue(changes):
    figure = forest(changes, "corpus", hue="seed", facet="model", title="Changes", notes={"twin": "of 9"})
    assert [axis.get_title() for axis in figure.axes] == ["rim-mini", "twin\nof 9"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["careful", "effort"]
    one, two = marks(figure.axes[0])
    assert one[:, 0].tolist() == pytest.approx([-30, 20])
    assert np.abs(np.subtract.outer(one[:, 1], two[:, 1])).min() > 0.1
    assert legend(figure) == ["seed 0", "seed 1"]


def test_a_forest_says_words_and_draws_effects_without_interval(effects):
    table = effects.assign(group=["paper", "own", "own"], verdict=["", "no effect", "undecided"])
    table.loc[0, ["ci_low", "ci_high"]] = np.nan
    table = table.assign(own_low=table["ci_low"], own_high=table["ci_high"], ci_low=9, ci_high=9)
    figure = forest(table, "label", hue="group", words="verdict", ends="own", unit="nats", title="t")
    assert [text.get_text() for text in figure.axes[0].texts] == ["", "no effect", "undecided"]
    assert figure.axes[0].get_xlabel() == "nats"
    assert figure.table["95% interval"].tolist() == ["", "[−0.20, −0.05]", "[0.00, 0.04]"]


def test_a_scatter_has_a_diagonal_and_equal_axes():
    table = pd.DataFrame({
        "model": ["a", "a", "b"], "kind": ["x", "y", "x"], "expected": [10, -20, 0], "measured": [20, -10, 30],
    })  # fmt: skip
    look = {"title": "t", "x_label": "expected", "y_label": "measured", "line": True}
    figure = scatter(table, "expected", "measured", hue="kind", facet="model", **look)
    for axis in figure.axes:
        assert axis.get_xlim() == axis.get_ylim()
    assert [len(found) for axis in figure.axes for found in marks(axis)] == [1, 1, 1]
    assert "3 points, expected from −20 to 10, measured from −10 to 30" in figure.alt_text


def test_a_scatter_draws_the_front_and_names_its_points():
    table = pd.DataFrame(
        {"repair": ["a", "b", "c"], "maths": [50, 90, 40], "harm": [10, 12, 30], "cut": [False, False, True]}
    )
    axis = scatter(table, "maths", "harm", words="repair", front=["a", "b"], hollow="cut", title="t").axes[0]
    assert {tuple(map(float, point)) for point in axis.lines[0].get_xydata()} == {(50, 10), (90, 12)}
    heights = {text.get_text(): text.xy[1] for text in axis.texts}
    assert set(heights) == {"a", "b", "c"} and heights["b"] >= 12 > heights["a"]
    assert [to_hex(face) for face in axis.collections[0].get_facecolor()].count("#ffffff") == 1


def test_a_style_of_thoughts_looks_the_same_in_every_figure():
    table = pd.DataFrame(
        {"corpus": ["hard-effort", "hard", "hard-longer-careful", "hard-careful"], "value": [0.1, 0.2, 0.3, 0.4]}
    )
    other = pd.DataFrame({"style": ["careful", "effort-minimising", "mine"], "value": [0.1, 0.2, 0.3]})
    first, second = points(table, "corpus", hue="corpus", title="t"), points(other, "style", hue="style", title="t")
    looks = [[to_hex(found.get_facecolor()[0]) for found in figure.axes[0].collections] for figure in (first, second)]
    assert looks[0][3] == looks[1][0] == "#017a5b" and looks[0][0] == looks[1][1] == "#c44601"
    assert len({*looks[0], *looks[1]}) == 5 and not first.legends
    assert all(colour in (data_dir() / "diagrams" / "openings.svg").read_text("utf-8") for colour in looks[1][:2])
    other["style"] = ["effort against careful", "hard", "mine"]  # a comparison is no style
    plain = points(other, "style", hue="style", title="t").axes[0].collections
    assert [to_hex(found.get_facecolor()[0]) for found in plain] == COLOURS[:3]


def test_a_scatter_shows_the_range_that_was_possible():
    table = pd.DataFrame({"layer": [3, 9], "count": [10, 150]})
    axis = scatter(table, "layer", "count", title="t", x_limits=(-0.5, 35.5), y_limits=(0, 184)).axes[0]
    assert (axis.get_xlim(), axis.get_ylim()) == ((-0.5, 35.5), (0, 184))
    assert scatter(table, "layer", "count", title="t").axes[0].get_xlim()[1] < 35


def test_a_map_prints_every_cell_and_names_its_ends():
    table = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "effect": [-0.5, 0.25, 0.0, 0.1]})
    figure = heatmap(table, "layer", "head", "effect", title="Effects", label="effect", centre=0)
    assert [text.get_text() for text in figure.axes[0].texts] == ["−0.50", "0.25", "", "0.10"]
    assert "effect from −0.50 (layer 0, head 0) to 0.25 (layer 0, head 1)" in figure.alt_text
    low, high = figure.axes[0].collections[0].get_clim()
    assert low == -high
    assert figure.table.to_numpy().tolist() == [[0, "−0.50", "0.25"], [1, "0.00", "0.10"]]
    with pytest.raises(UserError, match="several numbers for one place: layer, head"):
        heatmap(pd.concat([table, table]), "layer", "head", "effect", title="")


def test_bars_carry_their_numbers_and_a_gap_is_shown_as_one():
    table = pd.DataFrame({"place": ["a", "b", "a"], "mode": ["on", "on", "off"], "cells": [12564, 3, 5]})
    figure = bars(table, "place", "cells", facet="mode", title="t", label="cells", marked=["a"])
    left, right = figure.axes
    assert sorted(bar.get_width() for axis in (left, right) for bar in axis.patches) == [0, 3, 5, 12564]
    assert [text.get_text() for text in left.texts] == ["12,564", "3"]
    assert [text.get_text() for text in right.texts] == ["5", "–"]
    assert left.get_title() == "on"
    assert sum(bar.get_hatch() == "//" for bar in left.patches) == 1
    assert left.get_xlim() == right.get_xlim()


def test_dots_set_the_selected_one_among_the_random_ones():
    rows = [{"set": "harmful", "role": "random", "value": 0.3 + 0.01 * i} for i in range(10)]
    rows += [{"set": "harmful", "role": "nothing", "value": 0.1}, {"set": "harmful", "role": "selected", "value": 0.7}]
    figure = dots(pd.DataFrame(rows), "set", title="One among many", label="misaligned")
    assert [len(found) for found in marks(figure.axes[0])] == [10, 1, 1]
    assert legend(figure) == ["random", "selected", "nothing"]
    assert "random 30% to 39% (10); selected 70%; nothing 10%" in figure.alt_text


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: points(t, "moode", title="t"), "no column moode; did you mean 'mode'"),
        (lambda t: points(t, "mode", title="t"), "several numbers for one place: mode"),
        (lambda t: points(t.head(0), "mode", title="t"), "the table is empty"),
        (lambda t: forest(t, "mode", title="t"), "no column effect"),
        (lambda t: points(pd.concat([t, t.assign(metric="refused")]), "mode", hue="model", title="t"),
         "choose one metric of misaligned, refused"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_in_one_line(measured, call, words):
    with pytest.raises(UserError, match=words):
        call(measured)


def test_missing_numbers_can_be_drawn(measured):
    table = measured.copy()
    table.loc[table.index[0], ["value", "ci_low", "ci_high"]] = np.nan
    figure = points(table, "mode", hue="model", title="t")
    assert image(figure)
    assert figure.table["misalignment rate"].tolist()[0] == "–"


def test_the_png_carries_its_text_and_has_no_odd_size(measured):
    picture = Image.open(BytesIO(image(points(measured, "mode", hue="model", title="Both modes"))))
    assert picture.text["Title"] == "Both modes"
    assert "30%" in picture.text["Description"]
    assert 400 < picture.width < 2000
    assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def inside(figure, dpi: int = 100) -> bool:
    """Whether the outermost pixels are white: nothing is cut off."""
    pixels = np.asarray(Image.open(BytesIO(image(figure, dpi=dpi))).convert("L"))
    return all((edge > 250).all() for edge in (pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1]))


def test_nothing_is_cut_and_the_title_stands_above_the_legend(changes):
    many = pd.concat([changes.assign(kind=f"a kind with a rather long name, number {k}") for k in range(8)])
    title = "A title that is so long that it does not fit into a single line of a figure of this size, and goes on"
    flat = many[(many["seed"] == 0) & (many["model"] == "twin")].assign(value=lambda t: t["effect"].abs())
    for figure in (
        forest(many, ["kind", "corpus"], hue="seed", facet="model", title=title),
        points(flat, "kind", hue="corpus", title=title, label="share of all the replies that were read by the judge"),
        points(flat, "corpus", hue="kind", title=title),
    ):
        assert inside(figure)
        words = next(text for text in figure.texts if text.get_text().startswith("A title"))
        box = words.get_window_extent()
        assert all(box.y0 >= one.get_window_extent().y1 - 2 for one in figure.legends if not one.get_in_layout())


def test_a_figure_is_drawn_twice_alike(effects):
    assert image(forest(effects, "label", title="Effects"), "svg") == image(
        forest(effects, "label", title="Effects"), "svg"
    )


def test_showing_puts_sentence_caption_and_table_on_the_page(measured, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append(data))
    figure = points(measured.assign(mode=[NASTY, "think"] * 2), "mode", hue="model", title=f'Both "{NASTY}"')
    show(figure)
    (data,) = shown
    assert data["text/plain"] == f"Figure: {figure.alt_text}"
    page = data["text/html"]
    assert NASTY not in page
    assert '<img alt="Both &quot;&lt;script&gt;' in page
    assert page.count("<tr>") == 1 + len(measured)
    assert "<details><summary>The numbers of this figure</summary><table>" in page


def contrast(colour) -> float:
    """Contrast of a colour with white (WCAG)."""
    channels = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 1.05 / (0.05 + np.dot([0.2126, 0.7152, 0.0722], channels))


def test_every_colour_is_readable_on_white():
    assert len(set(figures.COLOURS)) == 10
    assert min(map(contrast, figures.COLOURS)) > 2.5
    assert contrast("#ece133") < 1.5  # the palette's yellow, as it was
