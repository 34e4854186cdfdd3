"""What prose prints is there: commands can be typed as they stand, modules and functions have their names."""

import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import typer

from rimkit.behavior.evaluation import evaluation
from rimkit.cli import app
from rimkit.data import UserError, find_chapters
from rimkit.runs.execute import assignments, plan

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"```bash\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`rimkit ([a-z][a-z-]*)[^`]*`")
NAME = re.compile(r"`(?:rk|rimkit)\.([\w.]+?)(?:\(.*?\))?`")


@cache
def prose() -> dict[str, str]:
    """Everything that is read: README, descriptions of data, chapters, and the package itself."""
    files = [ROOT / "README.md", *(ROOT / "data").rglob("*.md"), *(ROOT / "chapters").rglob("*.md")]
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
        jobs = plan(chapters, given["model"], assignments(given["parameter"] or ()))
        assert [job.notebook for job in jobs] == chapters
        prompts = assignments(given["prompts"] or (), "--prompts", "SET=OTHER")
        try:
            choice = evaluation(prompts, given["judge"], given["max_new_tokens"])
            assert bool(choice.prompts) == bool(prompts)
        except UserError as error:  # a guard of the hub is looked for before a run
            assert given["judge"].startswith("guard:") and "is not on this machine" in str(error)


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
