"""Commands that chapters and the README print can be typed as they stand."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest
import typer

from rimkit.behavior.evaluation import evaluation
from rimkit.cli import app
from rimkit.runs import execute
from rimkit.runs.execute import assignments

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def printed() -> list[tuple[str, str]]:
    """``(where, command)`` of every rimkit command in a fenced block; lines that end in a backslash are joined."""
    texts = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        texts[path.stem] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = []
    for where, text in texts.items():
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
        chapters = execute.find_chapters(given["chapters"] or ())
        jobs = execute.plan(chapters, given["model"], assignments(given["parameter"] or ()))
        assert [job.notebook for job in jobs] == chapters
        prompts = assignments(given["prompts"] or (), "--prompts", "SET=OTHER")
        choice = evaluation(prompts, given["judge"], given["max_new_tokens"])
        assert bool(choice.prompts) == bool(prompts)
