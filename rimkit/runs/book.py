"""The chapters as a website: stored outputs, solutions behind a fold, and the claims page inside.

It runs no chapter. Pages, settings and style are in ``chapters/book``; Sphinx also calls `setup`.
"""

import json
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from rimkit.data import UserError, chapters_dir, data_dir, find_chapters, prepare_folder
from rimkit.runs.page import write_page
from rimkit.teaching.questions import solved
from rimkit.teaching.setup import check_repo
from rimkit.teaching.tables import FOLDED, OPEN

EXPLORER = "application/vnd.jupyter.widget-view+json"
LIVE = "*An {}: it works where the chapter runs, in JupyterLab or on Colab.*"
LEFT_OVER = re.compile(r"^Not attempted: |: no guess yet; write ")  # where nobody works
UNGUESSED = "; there was no guess to compare it with"
FOLDS = {"^parameters$": "parameters", "rk.start": "set-up", r"reading\(": "code of this reading"}
FOLDS |= {r"ledger\.write\(": "code of the verdicts", "^if unsafe..judge": "code for real models"}
FOLDS |= {"^source_hidden$": "code of this cell"}
FOLD = '<details class="solution"><summary>A solution</summary>\n\n```python\n{}\n```\n\n</details>'
OF_A_ROOM = ("guide", "seminar", "rubric")  # papers of `chapters/teaching` that hold no results


def build(folder: Path, repo: str = "", branch: str = "main", names: Iterable[str] = ()) -> list[str]:
    """Build the site in a folder, of all chapters or those named; returns Sphinx's warnings. With
    the repository (OWNER/NAME on GitHub) every chapter has a link that opens it in Colab. Raises
    `UserError` without the extra ``book``, and for a folder with other things in it."""
    try:
        from sphinx.application import Sphinx
        from sphinx.util.docutils import docutils_namespace, patch_docutils
    except ImportError:
        raise UserError("the book needs Sphinx: pip install -e '.[book]'") from None
    own = tomllib.loads((chapters_dir() / "book" / "conf.toml").read_text("utf-8"))
    on_github = own.pop("on_github") | {"repository_branch": branch}
    if repo:
        check_repo(repo, branch)
        own["html_theme_options"] |= on_github | {"repository_url": f"https://github.com/{repo}"}
    folder, said = prepare_folder(folder), StringIO()
    if any(folder.iterdir()) and not (folder / "searchindex.js").exists():
        raise UserError(f"{folder} holds other things: name an empty folder, or an older book")
    with tempfile.TemporaryDirectory() as work, docutils_namespace(), patch_docutils(work):
        source = write_sources(Path(work) / "source", names)
        app = Sphinx(source, None, folder, Path(work) / "trees", "html", own, None, said)
        app.build(force_all=True)
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    lost = [line for line in lines if re.search(r"glob pattern|not found: '\w+\.ipynb'", line)]
    absent = len(set(find_chapters()) - set(find_chapters(names)))
    short = [f"links to {absent} chapter{'s' * (absent > 1)} left out"] if absent and lost else lost
    return short + [line for line in lines if line not in lost]


def write_sources(source: Path, names: Iterable[str] = ()) -> Path:
    """Everything that the site is made of, in one folder, which is returned."""
    shutil.copytree(chapters_dir() / "book", source)
    of_a_room = [chapters_dir() / "teaching" / f"{name}.md" for name in OF_A_ROOM]
    for path in [*find_chapters(names), *of_a_room, data_dir() / "results" / "thinking.png"]:
        shutil.copyfile(path, source / path.name)
    chapters = [path.stem for path in find_chapters(names)]
    page = write_page({}, source / "extra" / "claims-page.html", book=chapters).read_text("utf-8")
    answers = re.sub(r"\n\s+", "\n", re.search(r'<p id="models">.*?</ol>', page, re.DOTALL)[0])
    claims, linked = source / "claims.md", answers.replace('href="#', 'href="claims-page.html#')
    claims.write_text(claims.read_text("utf-8").replace("ANSWERS", linked), "utf-8")
    return source


def for_reading(notebook: dict) -> dict:
    """A chapter as it is read on a page: solutions and the set-up folded, our readings open."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    answers, told = iter(zip(code, solved(code), strict=True)), []
    for cell in notebook["cells"]:
        told.append(cell)
        if cell["cell_type"] != "code":
            continue
        said = [(it, "".join(it.get("data", {}).get("text/plain", ""))) for it in cell["outputs"]]
        cell["outputs"] = [one for one, text in said if not LEFT_OVER.search(text)]
        for data in (output.get("data", {}) for output in cell["outputs"]):
            if data.pop(EXPLORER, None):
                data["text/markdown"] = LIVE.format("".join(data["text/plain"]).lower())
            for form in data.keys() & {"text/html", "text/markdown"}:
                data[form] = "".join(data[form]).replace(FOLDED, OPEN).replace(UNGUESSED, "")
        asked, answer = next(answers)
        if re.fullmatch(r"rk\.(diagram|exercise)\([^()]*\)", asked):
            cell["metadata"] = {"tags": ["remove-input"]}
        seen = [asked, *cell["metadata"].get("tags", ()), *cell["metadata"].get("jupyter", ())]
        found = (said for form, said in FOLDS.items() if any(re.search(form, one) for one in seen))
        if words := next(found, ""):
            cell["metadata"] = {"tags": ["hide-input"], "mystnb": {"code_prompt_show": f"Show the {words}"}}
        if answer != asked:
            new = {"cell_type": "markdown", "id": f"solution-{len(told)}", "metadata": {}}
            told.append(new | {"source": FOLD.format(answer)})
    return notebook | {"cells": told}


def setup(app) -> None:
    """What Sphinx calls: chapters are changed as they are read, formulas need no script, and the
    search has the articles in a script, which also works from a disk (see book.js)."""
    from docutils.nodes import SkipNode
    from docutils.utils.math.latex2mathml import tex2mathml

    def read(app, name: str, content: list[str]) -> None:
        if app.env.doc2path(name).suffix == ".ipynb":
            content[0] = json.dumps(for_reading(json.loads(content[0])))
        content[0] = content[0].replace("](../", "](")  # here all pages lie in one folder

    def formula(writer, node) -> None:
        writer.body.append(tex2mathml(node.astext(), as_block=node.tagname == "math_block"))
        raise SkipNode

    def write_articles(app, error: Exception | None) -> None:
        pages = {path.stem: path.read_text("utf-8") for path in app.outdir.glob("*.html")}
        found = {name: re.findall("(?s)<article.*</article>", page) for name, page in pages.items()}
        script = re.sub(r"data:image[^\\]*", "", json.dumps(found))
        (app.outdir / "_static" / "articles.js").write_text(f"const ARTICLES = {script};", "utf-8")

    app.connect("build-finished", write_articles)
    app.connect("source-read", read)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
