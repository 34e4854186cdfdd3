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
    assert ">diagram</span>" not in html and html.count(">Show the code<") >= 3  # of the set-up, and readings
    assert html.count("<summary>The numbers of this figure") >= 1
    assert links.wordless == []
    assert f"{COLAB}/{name}.ipynb" in links.to
    (download,) = [link for link in links.to if link.startswith("_sources/") and link.endswith(".ipynb")]
    assert (site / download).read_bytes() == source.read_bytes()  # without solutions
    assert "widget-view" not in html and html.count("An explorer of ") == json.dumps(cells).count(book.EXPLORER)


def test_it_can_be_searched_and_formulas_need_no_script(site):
    assert "misalign" in (site / "searchindex.js").read_text("utf-8")
    assert (site / "07_entanglement.html").read_text("utf-8").count("<math ") >= 4


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
        assert tab.evaluate("[...document.querySelectorAll('.output figure img')].every(one => one.width > 500)"), name
        if name in (("index", "guide") if width < 500 else CHAPTERS):
            found = Axe().run(tab, options={"preload": False}).response["violations"]  # asks for no style again
            assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    assert faults == []
    assert [url for url in asked if not re.match("file:|data:", url)] == []
    tab.close()
