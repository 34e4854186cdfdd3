"""What prose prints is there: commands can be typed as they stand, modules and functions have their names."""

import json
import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import typer
from typer.testing import CliRunner

from rimkit.behavior.evaluation import evaluation
from rimkit.cli import app
from rimkit.data import UserError, find_chapters
from rimkit.runs.execute import jobs_for
from rimkit.runs.tour import assignments

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"```bash\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`rimkit ([a-z][a-z-]*)[^`]*`")
NAME = re.compile(r"`(?:rk|rimkit)\.([\w.]+?)(?:\(.*?\))?`")


@cache
def prose() -> dict[str, str]:
    """Everything that is read: README, descriptions of data, chapters, and the package itself."""
    files = [ROOT / "README.md", *(ROOT / ".github").rglob("*.md"), *(ROOT / "data").rglob("*.md")]
    files += (ROOT / "chapters").rglob("*.md")
    files += [path for path in (ROOT / "rimkit").rglob("*") if path.suffix in (".py", ".j2", ".md")]
    found = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        found[path.stem] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return found


def printed() -> list[tuple[str, str]]:
    """``(where, command)`` of every rimkit command in a fenced block; lines that end in a backslash are joined."""
    found = []
    for where, text in prose().items():
        for block in FENCED.findall(text):
            lines = block.replace("\\\n", " ").splitlines()
            parts = [part.strip() for line in lines for part in line.split("&&")]
            found += [(where, part) for part in parts if part.startswith("rimkit ")]
    return found


def test_commands_are_found():
    assert len(printed()) >= 6
    assert {"README.md", "10_your_own_model"} <= {where for where, _ in printed()}


@pytest.mark.parametrize(("where", "command"), printed())
def test_a_printed_command_is_understood(where, command):
    group = typer.main.get_command(app)
    _, *arguments = shlex.split(command, comments=True)
    context = group.make_context("rimkit", list(arguments), resilient_parsing=True)
    name, found, rest = group.resolve_command(context, arguments)
    given = found.make_context(name, rest).params  # raises for an option or argument that there is not
    assert found is group.commands[name]
    if name == "run":
        chapters = find_chapters(given["chapters"] or ())
        jobs = jobs_for(chapters, given["model"], assignments(given["parameter"] or ()))
        assert [job.notebook for job in jobs] == chapters
        prompts = assignments(given["prompts"] or (), "--prompts", "SET=OTHER")
        try:
            choice = evaluation(prompts, given["judge"], given["max_new_tokens"])
            assert bool(choice.prompts) == bool(prompts)
        except UserError as error:  # a guard of the hub is looked for before a run
            assert given["judge"].startswith("guard:") and "is not on this machine" in str(error)


PAGES = ["README.md", *sorted(name for name in prose() if name.startswith((".github/", "chapters/book/")))]
RUN_BY = {  # what the README and the pages around it tell to type, and where it is run
    "pip install -e": ".ci/run", "pytest": ".ci/run",  # in the extra `test` are all others
    "rimkit run": "tests/test_cli.py::test_run_prints_the_claims_writes_the_page_and_fails_with_1",
    "rimkit ledger": "tests/test_cli.py::test_shipped_verdicts_can_be_narrowed_and_fit_eighty_columns",
    "rimkit report": "tests/test_cli.py::test_report_goes_where_it_is_told",
    "rimkit doctor": "tests/test_cli.py::test_doctor_finds_this_environment",
    "rimkit badges": "tests/test_colab.py::test_the_shipped_readme_and_all_chapters_are_filled_in",
    "rimkit plan": "tests/test_fitting.py::test_the_command", "rimkit book": "tests/test_book.py::site",
    "rimkit fetch": "tests/test_fetch.py::test_a_class_is_prepared_and_one_failure_stops_nothing",
    "rimkit sweep": "tests/test_sweep.py::test_a_sweep_with_a_killed_and_an_interrupted_cell", "rimkit audit": "tests/test_audit.py::test_the_command_writes_one_table",
    "rimkit grid": "tests/test_grid.py::test_every_cell_is_measured_once",
    "rimkit lab": "tests/test_printed_commands.py::test_a_copy_is_made_restored_and_solved_as_printed",
}  # fmt: skip
BLOCK = re.compile(r"```bash\n(.*?)```(.*?)(?=```|^#|\Z)", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_is_run_by_a_test_or_said_to_be_untried(name):
    untold = []
    for block, after in BLOCK.findall(prose()[name]):
        for command in (part.strip() for line in block.splitlines() for part in line.split("&&")):
            known = [where for begin, where in RUN_BY.items() if command.startswith(begin)]
            untold += [] if known or "not tried by a test" in after else [command]
            for file, _, thing in (where.partition("::") for where in known):
                assert not thing or f"def {thing}(" in (ROOT / file).read_text("utf-8"), thing
    assert untold == []


def test_a_copy_is_made_restored_and_solved_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = [command for where, command in printed() if where.endswith("book/start.md") and "rimkit lab" in command]
    said = []
    for command in typed:
        without_a_browser = [*dict.fromkeys([*shlex.split(command)[1:], "--no-open"])]
        done = CliRunner().invoke(app, without_a_browser, catch_exceptions=False)
        assert done.exit_code == 0
        said.append(done.output)
    assert len(said) == 4 and said[0].count("copied: ") >= 13 and "my-copy/solutions" in said[2]
    assert "For a room: " in said[3]
    assert not (tmp_path / "my-copy" / "book").exists()  # pages of the website
    cells = json.loads((tmp_path / "my-copy" / "00_start_here.ipynb").read_text("utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # they would answer what is to be predicted


LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name):
    links = [(target, mark) for target, mark in LINK.findall(prose()[name]) if not target.startswith("claims-page")]
    files = [(ROOT / name).parent / target for target, _ in links]
    assert [str(file) for file in files if not file.exists()] == []
    for file, (_, mark) in zip(files, links, strict=True):
        headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE) if mark else ()
        assert not mark or mark[1:] in [heading.lower().replace(" ", "-") for heading in headings]


def test_the_readme_is_short_and_names_every_chapter():
    text = prose()["README.md"]
    assert len(text.split()) < 900
    for path in (ROOT / "chapters").glob("*.ipynb"):
        assert f"](chapters/{path.name})" in text and f"/OWNER/NAME/blob/main/chapters/{path.name})" in text


def test_commands_in_the_text_are_there():
    known = set(typer.main.get_command(app).commands)
    unknown = {where: set(INLINE.findall(text)) - known for where, text in prose().items()}
    assert {where: names for where, names in unknown.items() if names} == {}


def there(name: str) -> bool:
    """Whether ``rimkit.<name>`` is a module of the package, or something in one."""
    found = import_module("rimkit")
    for part in name.split("."):
        try:
            found = getattr(found, part, None) or import_module(f"{found.__name__}.{part}")
        except (ImportError, AttributeError):
            return False
    return True


def test_modules_and_functions_in_the_text_are_there():
    missing = {where: [name for name in NAME.findall(text) if not there(name)] for where, text in prose().items()}
    assert {where: names for where, names in missing.items() if names} == {}
