"""The website of the chapters: it builds without a warning, its links lead somewhere, and it works in a browser."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe

from rimkit.data import UserError, chapters_dir
from rimkit.runs import book, page

pytest.importorskip("myst_nb", reason="needs the extra book")
CHAPTERS = sorted(path.stem for path in chapters_dir().glob("*.ipynb"))
PAGES = ["index", "start", "claims", "your-own", "many-runs", "inside", *book.OF_A_ROOM, *CHAPTERS]
COLAB = "https://colab.research.google.com/github/owner/name/blob/v1/chapters"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole book, its claims page without packed verdicts (they have a test of their own)."""
    folder = tmp_path_factory.mktemp("book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_verdict_tables", list)
        assert book.build(folder, "owner/name", "v1") == []  # no warning
    return folder


class Links(HTMLParser):
    """What a page links to and shows, what can be linked to in it, and which pictures have no words."""

    def __init__(self, path: Path):
        super().__init__()
        self.to, self.ids, self.wordless = [], set(), []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        self.to += [found[key] for key in ("href", "src") if found.get(key)]
        self.wordless += [found["src"][:80]] if tag == "img" and not found.get("alt") else []


def test_every_link_inside_leads_somewhere(site):
    pages = {path: Links(path) for path in site.glob("*.html")}
    assert {path.stem for path in pages} >= {*PAGES, "claims-page", "search", "genindex"}
    broken = []
    for path, links in pages.items():
        for link in links.to:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            named = not parts.fragment or target not in pages or parts.fragment in pages[target].ids
            broken += [] if target.exists() and named else [(path.name, link)]
    assert broken == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_is_shown_as_it_was_run(site, name):
    html, links = (site / f"{name}.html").read_text("utf-8"), Links(site / f"{name}.html")
    source = chapters_dir() / f"{name}.ipynb"
    cells = json.loads(source.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    checked = sum(".check(" in cell for cell in code)
    assert html.count('<details class="solution">') == checked >= 4
    assert html.count("<details class=reading open><summary><b>Our") == sum("reading(" in cell for cell in code)
    assert ">diagram</span>" not in html and ">Show the code<" not in html
    named = [html.count(f">Show the {words}<") for words in book.FOLDS.values()]
    assert named[:2] == [1, 1] and named[2] >= 1
    assert not re.search("Not attempted|no guess yet|no guess to compare", html)  # nobody works here
    assert html.count("<summary>The numbers of this figure") >= 1
    assert links.wordless == []
    assert f"{COLAB}/{name}.ipynb" in links.to
    (download,) = [link for link in links.to if link.startswith("_sources/") and link.endswith(".ipynb")]
    assert (site / download).read_bytes() == source.read_bytes()  # without solutions
    assert "widget-view" not in html and html.count("An explorer of ") == json.dumps(cells).count(book.EXPLORER)


def test_formulas_need_no_script(site):
    assert (site / "07_entanglement.html").read_text("utf-8").count("<math ") >= 4


def test_it_can_be_searched_from_a_disk_and_shows_what_is_read(site, browser):
    tab, faults = browser.new_page(), []
    tab.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    tab.goto((site / "search.html").as_uri() + "?q=refusal+heads")
    first = tab.locator("ul.search > li > a").first
    assert first.inner_text().startswith("04")  # the best is first
    tab.goto((site / "search.html").as_uri() + "?q=misalignment")
    tab.wait_for_function("document.querySelectorAll('p.context').length > 9")
    said = " ".join(tab.locator("p.context").all_inner_texts())
    furniture = r"rk\.(exercise|predict|our_reading|show|start)|\{|Toggle|Contents|Show the"
    assert "misalignment" in said and not re.search(furniture, said)
    assert faults == []
    tab.close()


def test_the_claims_page_is_a_page_of_the_book(site, browser):
    tab = browser.new_page(color_scheme="light")
    tab.goto((site / "claims.html").as_uri() + "#C8d")
    tab.wait_for_url("**/claims-page.html#C8d")
    tab.locator("#C8d a:has-text('Chapter 06_safety_neurons')").click()
    tab.wait_for_url("**/06_safety_neurons.html")
    tab.evaluate("localStorage.setItem('mode', 'dark')")  # what the button of the book does
    tab.goto((site / "claims.html").as_uri())
    tab.click("text=All claims")
    tab.wait_for_url("**/claims-page.html")  # its policy forbids eval, by which a browser test would wait for a colour
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    tab.click("text=The RIM workbook")
    tab.wait_for_selector(".answers > li")
    assert tab.locator(".answers > li").count() == 5 and tab.locator("iframe").count() == 0
    tab.close()


def test_no_folder_of_other_things_is_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other things"):
        book.build(tmp_path)
    with pytest.raises(UserError, match="is not OWNER/NAME"):
        book.build(tmp_path / "new", "owner")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("width", "scheme", "pages"), [(390, "light", PAGES), (1440, "dark", ["index", CHAPTERS[1]])])
def test_it_works_in_a_browser(site, browser, width, scheme, pages):
    """No fault, nothing from elsewhere, nothing beside a narrow window, figures that can be read; axe is content."""
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    faults, asked = [], []
    tab.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    for name in pages:
        tab.goto((site / f"{name}.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
        assert tab.evaluate("document.documentElement.dataset.theme") == scheme
        figures = "[...document.querySelectorAll('.output figure img, figure.align-default img')]"
        assert tab.evaluate(f"{figures}.every(one => one.width > 500)"), name
        assert width < 600 or tab.locator(".output.wide table").count() == 0, name  # no table is cut
        if width < 500 or name in CHAPTERS:
            some = (
                {}
                if name in ("index", "guide", "claims", CHAPTERS[1])
                else {"runOnly": ["scrollable-region-focusable"]}
            )
            found = Axe().run(tab, options={"preload": False, **some}).response["violations"]  # asks for no style again
            assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    assert faults == []
    assert [url for url in asked if not re.match("file:|data:", url)] == []
    tab.close()
