"""The claims page: what it says, that it is escaped, and how it behaves in a real browser."""

import gzip
import json
import math
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from nbconvert import HTMLExporter

from rimkit import ledger
from rimkit.data import UserError, data_dir, find_chapters, percent, results, shipped_tables
from rimkit.paper.reanalysis import reanalysis
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
    return page.page({"rim-run": own_rows()}, [f"a note {NASTY}"])


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


def test_every_claim_has_the_paper_what_it_is_held_to_and_what_was_measured(html):
    outline = Outline(html)
    known = ledger.claims()
    for entry in known.to_dict("records"):
        assert entry["id"] in outline.ids
    assert html.count("<dt>The paper</dt>") == html.count("<dt>Control</dt>") == html.count('class="effects"')
    assert html.count('class="effects"') == len(known) and 'id="unmeasured"' not in html
    shipped = ledger.claims_table(ledger.shipped(adapters=True))
    assert html.count('data-model="rim-mini"') == 2 * (shipped["model"] == "rim-mini").sum()  # its mark, and its line
    assert "+20.0 points [+10.0, +30.0]" in html
    assert "+0.20 in r [+0.10, +0.30]" in html
    assert "12.5" in html  # seconds
    thinking = shipped[shipped["claim"] == "C1a"].to_dict("records")
    assert page.tally(thinking) in html and "; control safe-mini: 2 supported, 3 undecided" in page.tally(thinking)
    paper = reanalysis().query("verdict == 'undecided' and ci_low * ci_high > 0")["claim"]
    asked = paper.isin(["C1a", "C2a", "C5a", "C6a", "C10a"]).sum()  # these are answered first, too
    assert html.count("the interval over models excludes zero, but not after") == len(paper) + asked
    assert "50.0% against" in html and "n\u00a080" in html


def answers(text: str) -> list[str]:
    """The five answers of a page as words alone."""
    part = text[text.index('<ol class="answers">') : text.index("</ol>")]
    return [" ".join(re.sub("<[^>]+>", " ", one).split()).replace("\u00a0", " ") for one in part.split("<li>")[1:]]


def test_the_title_names_models_and_five_answers_say_what_this_run_found(html):
    assert re.search("<title>mine &lt;script&gt;.*:3, mine: claims about", html)
    assert "What a run of the RIM workbook in folder rim-run found" in html
    short = re.search('(?s)<ul class="short".*?</ul>', html)[0]
    known = r'title="[^"]+">(C\d+a)</a>'
    assert f"2 of {len(ledger.claims())} claims measured" in short and re.findall(known, short) == ["C1a", "C10a"]
    first, second, *_, last = answers(html)
    assert "This run Yes. The effect lies clearly above the paper’s mean, +8.9 points. mine" in first
    assert '"window.hacked = 2">:3 : yes, +20.0 points [+10.0, +30.0], p 0.002 after correction.' in unescape(first)
    assert re.search(r"Shipped rows, not of this run Yes in \d+ of \d+ trained models, undecided in \d+. In the", first)
    assert second.startswith("Do effort-minimising") and "This run Not measured in this run. Shipped rows" in second
    assert "mine : yes, +0.20 in r [+0.10, +0.30]" in last and "Forgetting is the rise of" in last


def test_an_answer_names_the_model_its_seeds_a_control_and_why_nothing_could_be_tested():
    clear = {"effect": 0.2, "effect_ci_low": 0.15, "effect_ci_high": 0.25, "model": "safe-mini"}
    against = {"effect": -0.2, "effect_ci_low": -0.25, "effect_ci_high": -0.15, "model": "safe-mini"}
    rows = [ledger.row("C2a", seed=0, **clear), ledger.row("C2a", seed=1, **against)]
    rows += [ledger.untestable_row("C2a", "nobody could", model="safe-mini", seed=2)]
    rows += [ledger.untestable_row("C2a", "all idle; nobody could", model="safe-mini", seed=3)]
    rows += [ledger.row("C2a", seed=seed, **clear | {"model": "mine"}) for seed in (4, 5)]
    found = answers(page.page(ledger.table(rows)))[1]
    several = "yes in 1 of 4 seeds, the reverse in 1, not testable in 2"
    assert f"Yes in all 2 trained models. In the control safe-mini : {several}. The effect" in found
    assert "The effect lies clearly above the paper’s mean, +10.0 points, in 2 of them. mine : yes in all" in found
    why = "−20.0 to +20.0 points. Why not testable: nobody could [in 2]; all idle [in 1]."
    assert f"safe-mini (a control): {several}, {why}" in found and found.count("nobody could") == 1


def test_what_is_called_a_control_is_one():
    from rimkit.models.hub import CONTROLS
    from rimkit.organism.bridge import ORGANISMS as BRIDGES
    from rimkit.organism.recipe import ORGANISMS

    known = page.page({"r": own_rows().assign(model="noise-mini")})
    named = re.findall(r'"model">([\w-]+)</span></dt><dd>control: ', known)
    assert named == ["noise-mini", "safe-mini"]
    roles = {name: one.role for name, one in {**ORGANISMS, **BRIDGES}.items()}
    for name, role in page.roles().items():
        assert role.startswith("control") == (name in CONTROLS or roles[name].startswith("control"))


def test_an_effect_is_drawn_where_it_lies():
    """On an axis from -far to far: the paper's number, the ends of an interval, and half of what is too small."""
    line = {"effect": 0.2, "effect_ci_low": 0.1, "effect_ci_high": math.inf}
    axis = page._axis([line], 100, 0.05, -0.4)
    assert axis["place"](0) == "50.00%"
    assert axis["paper"] == f"{50 - 50 / 1.06:.2f}%" and axis["small"] == f"{50 * 5 / (1.06 * 40):.2f}%"
    assert axis["place"](math.inf) == axis["place"](None) == ""
    assert dict(axis["ticks"])["50.00%"] == "0"
    fine = [text for _, text in page._axis([], 1, 0.05, 0.12)["ticks"]]
    assert fine[len(fine) // 2] == "0.00" and len(set(fine)) == len(fine) > 4


def test_several_runs_stand_side_by_side():
    own = own_rows()
    text = page.page({"a": own, "b": own.assign(effect=-0.2, effect_ci_low=-0.3, effect_ci_high=-0.1)})
    part = text[text.index("Side by side") : text.index('id="reading"')]
    assert re.findall(r'<th scope="col">(\w) <span', part) == ["a", "b"]
    assert "+20.0 points [+10.0,\u00a0+30.0], supported" in part
    assert "−20.0 points [−30.0,\u00a0−10.0], contradicted" in part and part.count("Verdicts differ</span>") == 2


def test_rows_and_verdicts_on_prompts_can_be_taken_from_the_page(html):
    """They are in the file: the rows as CSV, the verdicts packed, every shipped table of them."""
    found = dict(re.findall(r'download="([^"]+)" href="data:[^,]+;base64,([^"]+)"', html))
    rows = pd.read_csv(BytesIO(b64decode(found.pop("rows.csv"))))
    assert len(rows) == len(ledger.shipped(adapters=True)) + len(own_rows()) and "effect_ci_low" in rows
    assert set(found) == {f"{name}.csv.gz" for name in shipped_tables("results") if name.endswith("-judged")}
    repairs = pd.read_csv(BytesIO(gzip.decompress(b64decode(found["repairs-judged.csv.gz"]))))
    pd.testing.assert_series_equal(repairs["prompt_id"], results("repairs-judged")["prompt_id"], check_dtype=False)
    assert (repairs["misaligned"] == results("repairs-judged")["misaligned"].astype(float)).all()


def test_the_outline_is_accessible(html):
    outline = Outline(html)
    assert html.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in html
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(outline.headings))
    assert not outline.images  # drawings repeat the numbers beside them
    assert outline.tables == outline.captions
    assert set(outline.scopes) == {"col", "row", "rowgroup"}
    assert all(link[1:] in outline.ids for link in outline.links if link.startswith("#"))
    assert len(set(outline.ids)) == len(outline.ids)


def test_what_was_not_testable_and_what_excludes_the_paper_is_counted(html):
    shipped = ledger.claims_table(ledger.shipped(adapters=True))
    untestable, excluded = (shipped["verdict"] == "not testable").sum(), shipped["excludes_paper"].eq(True).sum()
    text = " ".join(html.split())
    assert f"hold {len(shipped)} verdicts, one per claim, model and seed; {untestable} of them say not testable" in text
    assert f"of the paper’s own: {excluded} exclude it" in text
    both = pd.concat([shipped, ledger.claims_table(own_rows())])
    marked = re.findall(r'"excludes">not the paper’s [+−][\d.]+<', html)
    assert len(marked) == both["excludes_paper"].eq(True).sum()
    assert shipped.loc[shipped["verdict"] == "not testable", "why_not"].notna().all()


def test_how_often_intervals_and_verdicts_err_is_shown(html):
    found = audit.summary(results("audit"))
    part = html[html.index('<h2 id="audit">') : html.index('<h2 id="data">')]
    for what, row in found.iterrows():
        assert f'<th scope="row">{what}</th><td class="number">{percent(row["coverage"])}%</td>' in part
    assert "uncorrected" not in html  # one standard, for the paper as well


def test_it_needs_nothing_from_elsewhere(html):
    assert set(re.findall(r'(?:src|href)="(?!data:|#)([^"]+)', html)) == {"https://arxiv.org/abs/2509.00544"}
    assert "url(" not in html
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in html


def test_every_verdict_has_a_shape_of_its_own(html):
    shapes = dict(re.findall(r'<symbol id="v-([\w-]+)" viewBox="-8 -8 16 16">(.*?)</symbol>', html))
    assert {word.replace(" ", "-") for word in (*ledger.VERDICTS, page.NOT_REPORTED)} < set(shapes)
    assert len(set(shapes.values())) == len(shapes)
    for word in ledger.VERDICTS:
        assert f'href="#v-{word.replace(" ", "-")}"/></svg> {word}</span>' in html
    marks = html.count('<span title="')
    assert marks >= len(ledger.claims_table(ledger.shipped(adapters=True))) + 2


def test_text_from_rows_is_escaped(html):
    assert NASTY not in html
    assert html.count("&lt;script&gt;window.hacked") >= 4  # model, control, error, note


def test_the_readmes_pictures_show_what_is_said_now(html):
    """Else take them again, of a book that `rimkit book DIR` built: python .github/images/take.py DIR."""
    images = Path(__file__).parents[1] / ".github" / "images"
    drawn, in_short, *answered = (images / "shown.txt").read_text("utf-8").splitlines()
    case = page.page(results("bridge").query("model == 'smollm2-rim'"))
    short = re.search(r'<ul class="short".*?</ul>', case, re.S)[0]
    assert in_short.split() == unescape(re.sub("<[^>]+>", " ", short)).split()
    now = [re.sub("<[^>]+>", "", one) for one in re.findall(r'"beside"><strong>(.*?)</strong>', html, re.S)]
    assert answered == [" ".join(one.split()) for one in now] and len(now) == 5
    cells = json.loads(find_chapters(["01"])[0].read_text("utf-8"))["cells"]
    assert drawn in unescape(json.dumps([cell.get("outputs") for cell in cells], ensure_ascii=False))


def test_every_family_of_claims_has_a_title():
    titles = pd.read_csv(data_dir() / "claim_headings.csv", index_col="claim")["title"]
    assert set(titles.index) == set(ledger.claims()["claim"])


def test_every_claim_of_the_paper_has_a_positive_control_and_what_is_testable_nowhere_says_why(html):
    known = pd.read_csv(data_dir() / "controls.csv", index_col="claim")["text"]
    judged = ledger.claims_table(ledger.shipped())
    able = judged.groupby("claim")["verdict"].agg(lambda words: (words != "not testable").sum())
    assert set(able.index) == set(ledger.claims()["id"])
    assert set(known.index) == {f"C{number}" for number in range(1, 11)} | set(able.index[able == 0])
    assert html.count('class="known"') == 10
    for claim in able.index[able == 0]:
        assert f" of the shipped models and seeds: {known[claim]}." in html
    areas = results("planted-recovery").query("rule == 'paper'")["auroc"]
    assert f"paper {areas.min():.2f} to {areas.max():.2f}" in html


def test_what_nobody_measured_is_one_list(monkeypatch):
    monkeypatch.setattr(ledger, "shipped", lambda **_: ledger.table([]))
    text = page.page({})
    assert "What the small models that come with" in text and text.count('class="effects"') > 15
    part = text[text.index('id="unmeasured"') : text.index('id="audit"')]
    listed = re.findall(r'<li><span id="(\w+)">', part)
    assert "C1c" in listed and "C1a" not in listed
    assert len(listed) + text.count('class="effects"') == len(ledger.claims())


def test_what_is_missing_is_said_on_the_page_and_the_rest_is_shown(tmp_path):
    """An empty folder, and a run of which a chapter's rows are gone."""
    found, notes = page.own_rows(tmp_path)
    assert found.empty
    assert len(notes) == 1 and "no rows in" in notes[0]
    ledger.write([ledger.row("C1a", model="mine", effect=0.2)], tmp_path / "ledger" / "02_other.parquet")
    (tmp_path / "01_good.ipynb").write_text("{}")
    found, notes = page.own_rows(tmp_path)
    assert found["model"].tolist() == ["mine"]
    assert len(notes) == 1 and "01_good.ipynb was run, but its rows ledger/01_good.parquet are missing" in notes[0]
    assert notes[0] in page.page(found, notes)  # of one run without a name


def test_a_run_whose_chapters_measure_no_claim_is_no_fault(tmp_path):
    ledger.write([], tmp_path / "ledger" / "00_start_here.parquet")
    found, notes = page.own_rows(tmp_path)
    assert found.empty and notes == []
    text = page.page({"mine": found})
    assert "chapters 01, 02, 03" in page.no_claim() and page.no_claim() in text
    assert page.claim_lines(ledger.claims_table(found)) == []  # in the terminal, too
    assert text.count("Not measured in this run.") == 5


def test_the_page_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder\.html"):
        page.write_page({}, tmp_path / "folder.html")
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
    assert opened.title().endswith("claims about reasoning-induced misalignment")
    assert opened.problems == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []


def test_hostile_text_stays_text(opened):
    assert opened.evaluate("window.hacked") is None
    assert "<script>window.hacked = 1</script>" in opened.inner_text("body")


def test_nothing_runs_out_of_a_narrow_window(opened):
    opened.set_viewport_size({"width": 390, "height": 800})
    for fold in (False, True):
        opened.evaluate("open => document.querySelectorAll('.claim').forEach(claim => claim.open = open)", fold)
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
        wide = "e => e.getBoundingClientRect().right > 391 && !e.closest('.wide, svg, .unseen')"
        assert opened.evaluate(f"[...document.querySelectorAll('main *')].filter({wide}).map(e => e.outerHTML)") == []
    opened.set_viewport_size(WINDOW)


def test_claims_fold_and_a_link_unfolds_its_claim(opened):
    opened.evaluate("document.querySelectorAll('.claim').forEach(claim => claim.open = false)")
    assert not opened.get_by_role("table", name="C8a: effect").is_visible()
    opened.evaluate("location.hash = 'C8a'")
    opened.get_by_role("table", name="C8a: effect").wait_for(state="visible")
    drawn = opened.locator("#C8a .line .bar").first.bounding_box()
    assert drawn["width"] > 2


def test_claims_are_filtered_by_verdict_chapter_model_and_text(opened):
    shipped = ledger.claims_table(ledger.shipped(adapters=True))
    shown = "[...document.querySelectorAll('.claim')].filter(e => !e.hidden).map(e => e.querySelector('.inside').id)"
    opened.evaluate("document.querySelectorAll('.claim').forEach(claim => claim.open = claim.matches(':has(#Q1a)'))")
    opened.select_option("[name=verdict]", "contradicted")
    wanted = shipped.loc[shipped["verdict"] == "contradicted"].groupby("claim", sort=False).size()
    assert opened.evaluate(shown) == list(wanted.index)
    lines = opened.evaluate("[...document.querySelectorAll('.claim:not([hidden]) .line:not([hidden])')].length")
    assert lines == wanted.sum()
    said = opened.locator(".claim:has(#C2a) .tally:visible").inner_text()  # the strip is filtered as well
    assert " ".join(said.split()) == f"Shipped rows {wanted['C2a']} contradicted"
    opened.select_option("[name=chapter]", "02_reasoning_patterns")
    assert opened.evaluate(shown) == [claim for claim in wanted.index if claim.startswith("C2")]
    opened.fill("[name=text]", "CONFIRMATORY reasoning")
    assert opened.evaluate(shown) == ["C2c"]
    opened.fill("[name=text]", "no such words")
    assert opened.inner_text("#found").startswith("No claim matches")
    opened.evaluate("location.hash = 'C4'")  # a link to what is hidden clears the filter, and its folds
    opened.locator("#C4").wait_for(state="visible")
    assert opened.evaluate("[...document.querySelectorAll('.claim[open] .inside')].map(e => e.id)") == ["Q1a"]
    opened.select_option("[name=model]", "mine")
    assert opened.evaluate(shown) == ["C10a"]
    opened.reload()  # the address keeps the filter
    assert opened.url.endswith("claims.html?model=mine") and opened.evaluate(shown) == ["C10a"]
    opened.get_by_role("button", name="Clear").click()
    opened.locator(".claim[hidden]").first.wait_for(state="detached")
    opened.check("[name=own]")
    assert opened.evaluate(shown) == ["C1a", "C10a"] and opened.url.endswith("?own=yes")
    opened.uncheck("[name=own]")


def test_it_prints_on_few_pages(opened):
    """Of a run: what it measured, and a strip for the rest."""
    opened.emulate_media(media="print")
    assert opened.locator(".unmeasured .effects:visible, .beside-run:visible").count() == 0
    assert opened.locator(".claim:not(.unmeasured) .effects:visible").count() == 2
    opened.emulate_media(media="screen")
    assert 3 < len(re.findall(rb"/Type\s*/Page\b(?!s)", opened.pdf(format="A4"))) < 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_page(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    opened.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert violations(opened) == []


def test_without_scripts_every_claim_is_there(browser, html, tmp_path):
    (tmp_path / "claims.html").write_text(html, encoding="utf-8")
    plain = browser.new_context(java_script_enabled=False)
    tab = plain.new_page()
    tab.goto((tmp_path / "claims.html").as_uri())
    assert tab.locator(".claim").count() == html.count('class="effects"')
    assert not tab.locator("#filter").is_visible()
    plain.close()


# -- chapters as HTML ------------------------------------------------------------------------------

THEIRS = [".jp-InputPrompt", ".jp-OutputPrompt", ".highlight"]  # colours of nbconvert, not of a chapter


def violations(tab, *exclude: str, rules: dict = {}) -> list[str]:  # noqa: B006
    """What axe finds wrong in a tab: rule, and the first element."""
    context = {"exclude": [[name] for name in exclude]} if exclude else None
    found = Axe().run(tab, context=context, options={"rules": rules}).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found]


@pytest.mark.parametrize("name", ["08"])
def test_axe_finds_nothing_in_a_chapter(browser, name, tmp_path):  # and in another one: test_book.py
    text, _ = HTMLExporter().from_filename(find_chapters([name])[0])
    (tmp_path / "chapter.html").write_text(text, encoding="utf-8")
    tab = browser.new_page(viewport=WINDOW)
    tab.route(re.compile("^http"), lambda route: route.abort())
    tab.goto((tmp_path / "chapter.html").as_uri(), wait_until="domcontentloaded")
    assert tab.evaluate("[...document.querySelectorAll('details.reading p')].every(read => read.offsetHeight > 10)")
    assert violations(tab, *THEIRS, rules={"link-in-text-block": {"enabled": False}}) == []  # links of nbconvert
    tab.close()
