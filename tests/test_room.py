"""Papers for a room are made from the chapters, and a bundle installs without network."""

import re
import subprocess
import sys
from urllib.parse import unquote

import pytest

from rimkit.data import UserError, chapters_dir
from rimkit.runs import fetch, lab
from rimkit.teaching.questions import exercise

PAPERS = sorted((chapters_dir() / "teaching").glob("*.md"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    made = lab.write_room(tmp_path_factory.mktemp("room"))
    return {path.stem: path.read_text(encoding="utf-8") for path in made}


def test_papers_show_what_the_chapters_show(pages):
    assert set(pages) == {"guide", "handout", "offline", "rubric", "seminar", "slides"}
    for path in PAPERS:
        text, page = path.read_text(encoding="utf-8"), pages[path.stem]
        assert page.count("<section>") == text.count("\n---\n") + 1
        assert "{{" not in page
        assert len(re.findall(r"<img [^>]*alt=.{30}", page)) == page.count("<img ")
    assert pages["slides"].count("image/svg") >= 3
    assert pages["handout"].count("<img") and "<summary><b>Our reading" not in pages["slides"]
    said = re.findall(r"<details class=reading><summary>(.+?)</summary>", pages["slides"])
    assert len(said) >= 8 and all(40 <= len(sentence) < 400 for sentence in said)  # one sentence, the rest folded
    linked = set(map(unquote, re.findall(r'href="#([^"]+)"', pages["slides"])))
    assert linked <= set(re.findall(r'id="([^"]+)"', pages["slides"]))


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_no_paper_has_a_result_of_its_own(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"\d[\d.,]*\s?(?:%|percent|points)(?! each)", text)
    for name in re.findall(r"\b(?:\d\d|A\d)\.\d\b", text):
        assert exercise(name).title


def test_a_section_that_is_named_is_there():
    numbered = {
        path.stem[:2]: set(re.findall(r'"## (\d+)\.', path.read_text(encoding="utf-8")))
        for path in chapters_dir().glob("*.ipynb")
    }
    for path in PAPERS:
        text = path.read_text(encoding="utf-8")
        for chapter, said in re.findall(r"\b(\d\d|A\d),? \(?sections? ((?:\d(?:, | and | to )?)+)", text):
            assert set(re.findall(r"\d", said)) <= numbered[chapter], f"{path.name}: {chapter}, section {said}"


def test_words_that_stand_in_no_cell_or_in_two_are_named(tmp_path, monkeypatch):
    for words, n in (("no such words", 0), ("import rimkit as rk\n", 1)):
        folder = tmp_path / str(n) / "teaching"
        folder.mkdir(parents=True)
        (folder / "a.md").write_text("{{00: " + words.strip() + "}}")
        (folder / "page.html").write_text("BODY")
        (folder.parent / "00_start_here.ipynb").symlink_to(chapters_dir() / "00_start_here.ipynb")
        monkeypatch.setattr(lab, "chapters_dir", lambda folder=folder: folder.parent)
        with pytest.raises(UserError, match=f"chapter 00: {n} cells have"):
            lab.write_room(tmp_path / "out")


BUILDER = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name, about = "tiny_book-1-py3-none-any.whl", "tiny_book-1.dist-info"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("tiny_book.py", "ready = True")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\\nName: tiny-book\\nVersion: 1\\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{about}/RECORD", "")
    return name
"""


def test_a_bundle_installs_without_network(tmp_path, monkeypatch):
    """Of a clone that builds itself and needs nothing; that of the workbook is made by hand, it takes minutes."""
    clone, target = tmp_path / "clone", tmp_path / "bundle"
    clone.mkdir()
    (clone / "builder.py").write_text(BUILDER)
    (clone / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "builder"\nbackend-path = ["."]\n'
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert fetch.bundle(target, clone) == target / "teaching"
    assert (target / "chapters" / "00_start_here.ipynb").is_file()
    assert (target / "teaching" / "slides.html").is_file()
    said = re.sub("<[^>]+>", "", (target / "teaching" / "offline.html").read_text())
    line = next(line for line in said.splitlines() if "pip install" in line)
    options = line.replace(" rimkit", " tiny-book").split()[2:]
    subprocess.run([sys.executable, "-m", *options, "--target", "site"], cwd=target, check=True, capture_output=True)
    assert (target / "site" / "tiny_book.py").is_file()
    with pytest.raises(UserError, match="made in a clone"):
        fetch.bundle(tmp_path / "other", tmp_path)
    (clone / "pyproject.toml").write_text("[no project")
    with pytest.raises(UserError, match="pip did not get every wheel"):
        fetch.bundle(tmp_path / "broken", clone)
