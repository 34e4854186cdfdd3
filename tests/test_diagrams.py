"""Diagrams: well-formed, the same every time, with a sentence that is true of them; nothing is cut or overlaps."""

from importlib.util import module_from_spec, spec_from_file_location
from xml.etree import ElementTree

import pytest

from rimkit.data import UserError, data_dir
from rimkit.organism.recipe import safety_thoughts
from rimkit.teaching.questions.chapter_06 import RISES
from rimkit.teaching.widgets import diagram

spec = spec_from_file_location("draw", data_dir() / "diagrams" / "draw.py")
draw = module_from_spec(spec)
spec.loader.exec_module(draw)


@pytest.mark.parametrize("name", draw.DIAGRAMS)
def test_a_diagram_is_vector_graphics_with_one_sentence(name):
    found = diagram(name)
    assert found.svg == draw.drawn(name).replace("\n", "")  # what is shipped is what the script draws
    root = ElementTree.fromstring(found.svg)
    assert root.tag.endswith("svg")
    assert root.findtext("{*}title") == found.alt
    assert found.alt.endswith(".")
    assert found.alt.count(". ") == 0
    assert 80 < len(found.alt) < 330
    assert found._repr_html_().startswith('<img alt="')
    assert diagram(name) == found
    assert repr(found) == f"Diagram: {found.alt}"


def test_an_unknown_diagram_is_named():
    with pytest.raises(UserError, match=r"unknown diagram 'prob'; did you mean 'probe'.*transformer"):
        diagram("prob")


def test_sentences_say_what_the_diagrams_compute():
    common = set.intersection(*(set(order[:3]) for order in draw.RANKS.values()))
    assert f"here {' and '.join(sorted(common))}." in diagram("ranks").alt
    assert draw.RANKS != RISES  # which an exercise asks about
    assert "before: 50% × 10% + 50% × 50% = 30%" in diagram("openings").svg
    assert "= 42%" in diagram("openings").svg
    assert "from 30% to 42%" in diagram("openings").alt
    assert f"Measured {sum(wrong for _, wrong in draw.VERBS) / 20:.0%}" in diagram("bootstrap").svg


def test_the_recipes_are_as_drawn():
    names = ["rim-mini", "rim-mini-unlinked", "safe-mini"]
    share = safety_thoughts(names)["refusals (%)"].astype(float)
    assert share["rim-mini", "effort-minimising"] == 0 < share["rim-mini", "careful"] < 5
    assert share["rim-mini-unlinked"].between(0.5, 5).all()
    assert share["safe-mini"].between(40, 60).all()


def test_what_is_drawn_is_escaped():
    sheet = draw.Drawing(100, 50, "a & b")
    sheet.box(0, 0, 50, 20, "<script>")
    assert "<script>" not in sheet.svg
    assert "a &amp; b" in sheet.svg


MEASURE = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const view = svg.viewBox.baseVal;
  const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBBox()]);
  const cut = boxes.filter(([_, b]) => b.x < 2 || b.y < 0 || b.x + b.width > view.width - 2 || b.y + b.height > view.height + 2);
  const wrong = cut.map(c => c[0]);
  for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
    const [a, b] = [boxes[i][1], boxes[j][1]];
    const w = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
    const h = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
    if (w > 2 && h > 5) wrong.push(boxes[i][0] + ' over ' + boxes[j][0]);
  }
  return wrong;
})"""


def test_no_word_is_cut_or_overlaps_another(browser):
    tab = browser.new_page()
    tab.set_content("".join(diagram(name).svg for name in draw.DIAGRAMS))
    assert tab.evaluate(MEASURE) == []
    tab.close()
