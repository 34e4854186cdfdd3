"""The claims page: what it says, that it is escaped, and how it behaves in a real browser."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pandas as pd
import pytest

from rimkit import ledger
from rimkit.data import UserError, data_dir, percent, results
from rimkit.runs import audit, page

NASTY = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'
WINDOW = {"width": 1100, "height": 900}


def own_rows() -> pd.DataFrame:
    """A run of one's own: a clear row, a row of another metric's unit, a failure, and hostile text everywhere."""
    effect = {"effect": 0.2, "effect_ci_low": 0.1, "effect_ci_high": 0.3}
    run = {"run_id": "r1", "device": "cpu", "seconds": 12.5}
    return ledger.table([
        ledger.row("C1a", model=f"mine {NASTY}", seed=3, value=0.5, control=NASTY, control_value=0.3, n=80, **effect, **run),
        ledger.row("C10a", model="mine", value=0.7, control_value=0.5, **effect, **run),
        ledger.failed_row(chapter="02", model="mine", error=f"ValueError: the reply was {NASTY}", **run),
    ])  # fmt: skip


@pytest.fixture(scope="module")
def html() -> str:
    """With the figures of every family's first claim alone: they take most of the time."""
    draw = page._figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_figure", lambda entry, *rest: draw(entry, *rest) if entry["id"][-1] == "a" else None)
        return page.page(own_rows(), [f"a note {NASTY}"])


class Outline(HTMLParser):
    """Headings, images, table parts and links of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.headings, self.images, self.tables, self.captions, self.scopes = [], [], 0, 0, []
        self.ids, self.links, self.tags = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        elif tag == "img":
            self.images.append(attributes)
        elif tag == "table":
            self.tables += 1
        elif tag == "caption":
            self.captions += 1
        elif tag == "th":
            self.scopes.append(attributes.get("scope"))
        elif tag == "a":
            self.links.append(attributes["href"])


# -- the text --------------------------------------------------------------------------------------


def test_every_claim_has_the_paper_the_reanalysis_and_what_was_measured(html):
    outline = Outline(html)
    for entry in ledger.claims().to_dict("records"):
        assert entry["id"] in outline.ids
    assert html.count("<dt>Re-analysis</dt>") == html.count("<dt>Control</dt>") == len(ledger.claims())
    shipped = ledger.claims_table(ledger.shipped())
    assert html.count('<tr><th scope="row">rim-mini</th>') == (shipped["model"] == "rim-mini").sum()
    assert "+20.0 points [+10.0, +30.0]" in html
    assert "+0.20 in r [+0.10, +0.30]" in html
    assert "12.5" in html  # seconds


def test_the_outline_is_accessible(html):
    outline = Outline(html)
    assert html.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in html
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(outline.headings))
    assert outline.images
    assert all(len(image["alt"]) > 100 for image in outline.images)
    assert outline.tables == outline.captions
    assert set(outline.scopes) == {"col", "row", "rowgroup"}
    assert all(link[1:] in outline.ids for link in outline.links)
    assert len(set(outline.ids)) == len(outline.ids)


def test_what_was_not_testable_and_what_excludes_the_paper_is_counted(html):
    shipped = ledger.claims_table(ledger.shipped())
    untestable, excluded = (shipped["verdict"] == "not testable").sum(), shipped["excludes_paper"].eq(True).sum()
    assert f"hold {len(shipped)} verdicts, a model and seed each; {untestable} of them say not testable" in html
    assert f"of the paper’s own: {excluded} exclude it" in html
    both = pd.concat([shipped, ledger.claims_table(own_rows())])
    counted = sum(map(int, re.findall(r"\((\d+) not the paper’s\)", html)))
    assert counted == both["excludes_paper"].eq(True).sum()
    assert shipped.loc[shipped["verdict"] == "not testable", "why_not"].notna().all()


def test_how_often_intervals_and_verdicts_err_is_shown(html):
    found = audit.summary(results("audit"))
    part = html[html.index('<h2 id="audit">') : html.index('<h2 id="how">')]
    for what, row in found.iterrows():
        assert f'<th scope="row">{what}</th><td class="number">{percent(row["coverage"])}%</td>' in part
    assert "uncorrected" not in html  # one standard, for the paper as well


def test_it_needs_nothing_from_elsewhere(html):
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert "url(" not in html
    assert "script" not in Outline(html).tags


def test_a_verdict_is_a_word_and_a_symbol(html):
    for word, symbol in page.SYMBOLS.items():
        name = word.replace(" ", "-")
        assert f'<span class="verdict {name}"><span aria-hidden="true">{symbol}</span> {word}</span>' in html
    assert len(set(page.SYMBOLS.values())) == len(page.SYMBOLS)
    assert set(page.SYMBOLS) == {*ledger.VERDICTS, "not reported"}


def test_colours_have_enough_contrast(html):
    """WCAG AA: 4.5 to 1 for text."""

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    pairs = re.findall(r"\{ color: (#\w+); background: (#\w+); \}", html)
    assert len(pairs) == 5
    for pair in [*pairs, ("#4d4d4d", "#fff"), ("#0b4f8a", "#fff"), ("#1b1b1b", "#fdf6e7")]:
        light, dark = sorted(map(luminance, pair), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, pair


def test_text_from_rows_is_escaped(html):
    assert NASTY not in html
    assert html.count("&lt;script&gt;window.hacked") >= 4  # model, control, error, note


def test_every_family_of_claims_has_a_title():
    titles = pd.read_csv(data_dir() / "families.csv", index_col="claim")["title"]
    assert set(titles.index) == set(ledger.claims()["claim"])


@pytest.fixture
def no_figures(monkeypatch):
    """Pages without their figures, which take seconds."""
    monkeypatch.setattr(page, "_figure", lambda *_: None)


def test_a_page_of_nothing_shows_the_paper(no_figures):
    text = page.page(ledger.table([]))
    assert text.count("<dt>The paper</dt>") == len(ledger.claims())


def test_what_is_missing_is_said_on_the_page_and_the_rest_is_shown(tmp_path, no_figures):
    """An empty folder, and a run of which a chapter's rows are gone."""
    found, notes = page.own_rows(tmp_path)
    assert found.empty
    assert len(notes) == 1 and "no rows in" in notes[0]
    ledger.write([ledger.row("C1a", model="mine", effect=0.2)], tmp_path / "ledger" / "02_other.parquet")
    (tmp_path / "01_good.ipynb").write_text("{}")
    found, notes = page.own_rows(tmp_path)
    assert found["model"].tolist() == ["mine"]
    assert len(notes) == 1 and "01_good.ipynb was run, but its rows ledger/01_good.parquet are missing" in notes[0]
    assert notes[0] in page.page(found, notes)


def test_the_page_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder\.html"):
        page.write_page(ledger.table([]), tmp_path / "folder.html")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


# -- a real browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(browser, html, tmp_path_factory):
    """The page in a tab, with everything that went wrong and everything that it asked for."""
    file = tmp_path_factory.mktemp("page") / "claims.html"
    file.write_text(html, encoding="utf-8")
    tab = browser.new_page(viewport=WINDOW)
    tab.problems, tab.requests = [], []
    tab.on("console", lambda message: tab.problems.append(message.text))
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.on("request", lambda request: tab.requests.append(request.url))
    tab.goto(file.as_uri())
    yield tab
    tab.close()


def test_it_opens_without_an_error_and_asks_for_nothing(opened):
    assert opened.title() == "Claims about reasoning-induced misalignment"
    assert opened.problems == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []


def test_hostile_text_stays_text(opened):
    assert opened.evaluate("window.hacked") is None
    assert "<script>window.hacked = 1</script>" in opened.inner_text("body")


def test_images_are_drawn_and_named(opened):
    images = opened.evaluate("[...document.images].map(i => [i.alt.length, i.naturalWidth, i.complete])")
    assert len(images) > 10
    assert all(alt > 100 and width > 300 and complete for alt, width, complete in images)


def test_headings_are_in_order(opened):
    levels = opened.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_verdicts_are_seen_without_colour(opened):
    texts = set(opened.evaluate("[...document.querySelectorAll('.verdict')].map(v => v.innerText.trim())"))
    assert {f"{symbol} {word}" for word, symbol in page.SYMBOLS.items()} == texts


def test_nothing_runs_out_of_a_narrow_window(opened):
    opened.set_viewport_size({"width": 380, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 380
    opened.set_viewport_size(WINDOW)


def test_long_tables_are_folded_and_printed(opened):
    assert opened.evaluate("[...document.querySelectorAll('details')].every(d => !d.open)")
    assert not opened.get_by_role("table", name="Runs").is_visible()
    opened.locator("details summary").last.click()
    assert opened.get_by_role("table", name="Runs").is_visible()
    assert len(opened.pdf()) > 50_000
