"""The chapters as files: everything that nbval, which runs them, does not see."""

import ast
import csv
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from notebooks import chapter, decoy_kernel

from rimkit.teaching.questions import exercise

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
HEADER = ("Learning goals", "Prerequisites", "Minutes", "Peak memory", "Model", "Claims", "Content note")
REQUIRED_PARAMETERS = {"model": "str", "n_prompts": "int", "seed": "int", "ledger": "str"}
EXEMPT_TAGS = {"nbval-ignore-output", "nbval-skip", "nbval-raises-exception", "raises-exception"}
EXEMPT_COMMENTS = re.compile(r"^\s*#+\s*(NBVAL_|PYTEST_VALIDATE_IGNORE_OUTPUT)", re.MULTILINE)
COMPARED = ("text/plain", "text/html", "text/markdown")
WORDS = 2500

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def is_exempt(cell) -> bool:
    """Whether nbval runs the cell without comparing its output (or does not run it)."""
    return bool(EXEMPT_TAGS & set(cell.metadata.get("tags", []))) or bool(EXEMPT_COMMENTS.search(cell.source))


def test_the_first_chapters_are_there():
    assert [path.stem for path in CHAPTERS][:3] == [
        "00_start_here",
        "01_observing_rim",
        "02_reasoning_patterns",
    ]


@each_chapter
def test_every_code_cell_was_run_in_order(path):
    # nbval compares nothing where a cell has no execution count
    counts = [cell.execution_count for cell in code_cells(path) if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))


@each_chapter
def test_no_stored_error_or_warning(path):
    for cell in code_cells(path):
        kinds = [(output.output_type, output.get("name")) for output in cell.outputs]
        assert not [kind for kind in kinds if kind[0] == "error" or kind[1] == "stderr"], cell.source


@each_chapter
def test_header(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {path.stem[:2]} · ")
    fields = dict(re.findall(r"^\*\*([^*:]+):?\*\*(.*(?:\n+- .+)*)", first.source, re.MULTILINE))
    assert tuple(fields)[: len(HEADER)] == HEADER
    assert all(text.strip() for text in fields.values())
    assert 3 <= fields["Learning goals"].count("\n- ") <= 5
    assert all(word in fields["Minutes"] for word in ("minutes", "CPU", "GPU"))
    assert re.search(r"\d GB", fields["Peak memory"])
    seconds = re.search(r"under (\d+) seconds", fields["Minutes"])[1]
    assert f"rk.start(seed, model=model, seconds={seconds}" in code_cells(path)[1].source


PARTS = ("## So far we know", "**The question of this", "What could fool us", "## What it means", "**Challenge.**",
         "**Recap.**", "**Next:**")  # fmt: skip


@each_chapter
def test_every_part_of_a_chapter_is_there(path):
    from rimkit.teaching.questions import exercises

    prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    assert not [part for part in PARTS if part not in prose]
    code = [cell.source for cell in code_cells(path)]
    assert sum("rk.diagram(" in cell for cell in code) >= 1
    assert sum("rk.predict(" in cell for cell in code) >= 1
    named = exercises(path.stem[:2])
    checked = sum(".check(" in cell for cell in code)
    assert 4 <= checked == len(named)
    first, *others = named
    assert any(f'rk.exercise("{name}")' in cell for cell in code for name in (first, path.stem[:2]))
    assert all(any(f'rk.exercise("{name}")' in cell for cell in code) for name in others)
    shown = [name for name in re.findall(r'rk\.exercise\("([\w.]+)"\)', "\n".join(code)) if "." in name]
    assert shown == sorted(shown)  # numbered down the page


def longest_words(cell) -> str:
    """The longest words without a number in between, of the reading that a cell makes."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "text"
    ]
    literal = [
        part.value for part in ast.walk(texts[0]) if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    return max((piece for text in literal for piece in re.split(r"\{[^}]*\}|\n\n", text)), key=len)


@each_chapter
def test_a_stored_reading_says_its_words(path):
    """Where numbers do not bear them out, a box falls back to numbers alone: no shipped chapter may show that."""
    cells = [cell for cell in code_cells(path) if "our_reading(" in cell.source or "published.reading(" in cell.source]
    assert len(cells) >= 2
    for cell in cells:
        shown = " ".join(output.get("data", {}).get("text/plain", "") for output in cell.outputs)
        assert " ".join(longest_words(cell).split()) in " ".join(shown.split()), cell.source


@each_chapter
def test_one_parameters_cell_that_papermill_understands(path):
    from rimkit.runs.tour import convert, declared_in

    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    declared = declared_in(path)
    assert {name: declared[name].type for name in REQUIRED_PARAMETERS} == REQUIRED_PARAMETERS
    assert declared["ledger"].default == ""
    assert len(declared) == sum("=" in line for line in tagged[0].source.splitlines())
    for parameter in declared.values():
        assert parameter.help, f"{parameter.name} has no comment"
        assert convert(parameter.default, parameter) == parameter.default


@each_chapter
def test_no_widget_state_and_no_leftovers_of_a_run(path):
    metadata = read(path).metadata
    assert not {"widgets", "papermill", "rimkit"} & set(metadata)
    assert metadata.kernelspec.name == "python3"
    bars = [cell.source for cell in code_cells(path) if re.search(r"\d%\|", str(cell.outputs))]  # of a busy machine
    assert bars == []


@each_chapter
def test_a_reader_can_finish_it(path):
    words = sum(len(cell.source.split()) for cell in read(path).cells if cell.cell_type == "markdown")
    assert words < WORDS


def test_exempt_cells_are_listed_and_counted():
    """tests/exempt_cells.csv names every cell whose output is not compared, and why."""
    with open(ROOT / "tests" / "exempt_cells.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert all(entry["reason"].strip() for entry in listed)
    exempt = Counter((path.stem, cell.id) for path in CHAPTERS for cell in code_cells(path) if is_exempt(cell))
    assert exempt == Counter((entry["chapter"], entry["cell"]) for entry in listed)


def nbval(paths: list[Path], environment: dict[str, str]) -> list[int]:
    """The numbers of the cells that fail, one notebook after the other, when notebooks are compared
    as the test suite does, in a process of its own."""
    plain = ["-p", "chapters.conftest", "-p", "no:cacheprovider", "-q", "-n0", "--color=no"]
    command = [sys.executable, "-m", "pytest", *map(str, paths), *plain]
    rules = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    found = subprocess.run([*command, *rules], cwd=ROOT, capture_output=True, text=True, env=environment)
    failed = re.findall(r"^FAILED .*::Cell (\d+)", found.stdout, re.MULTILINE)
    assert all(f"Cell {cell}: Cell outputs differ" in found.stdout for cell in failed), found.stdout
    return [int(cell) for cell in failed]


def change_one_digit(output) -> bool:
    """Change the last digit of a compared output; False if it has none."""
    texts = (
        [(output, "text")] if output.output_type == "stream" else [(output.get("data", {}), key) for key in COMPARED]
    )
    for holder, key in texts:
        text = holder.get(key, "")
        if isinstance(text, str) and (digits := list(re.finditer(r"\d", text))):
            at = digits[-1].start()
            holder[key] = f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}"
            return True
    return False


def with_one_changed_digit(path: Path, folder: Path) -> tuple[Path, int]:
    """A copy of a chapter up to the first output with a digit, which is changed; and the number of its cell."""
    notebook = read(path)
    compared = [cell for cell in notebook.cells if cell.cell_type == "code" and not is_exempt(cell)]
    changed = next((cell for cell in compared if any(map(change_one_digit, cell.outputs))), None)
    assert changed is not None, f"no compared output of {path.stem} has a digit"
    notebook.cells = notebook.cells[: notebook.cells.index(changed) + 1]  # enough to fail, and quick
    nbformat.write(notebook, folder / path.name)
    return folder / path.name, sum(cell.cell_type == "code" for cell in notebook.cells) - 1


def that_says(words: str, folder: Path, name: str) -> Path:
    """A chapter whose stored output is ``words``, where it prints which Python runs it."""
    path = Path(chapter(folder, name, "import sys; print(sys.executable)"))
    notebook = read(path)
    notebook.cells[1].execution_count, notebook.cells[2].execution_count = 1, 2
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"{words}\n")]
    nbformat.write(notebook, path)
    return path


def test_stored_outputs_are_compared_in_the_running_python(tmp_path):
    """One changed digit is noticed in two chapters: all are collected alike, and no cell is exempt unless it is listed."""
    changed = [with_one_changed_digit(path, tmp_path) for path in (CHAPTERS[0], CHAPTERS[-1])]
    right, wrong = (that_says(words, tmp_path, name) for words, name in ((sys.executable, "right"), ("other", "wrong")))
    environment = decoy_kernel(tmp_path / "jupyter")
    found = nbval([*(copy for copy, _ in changed), right, wrong], environment)
    assert found == [*(number for _, number in changed), 1]  # these cells and no others


def test_chapters_are_plain_json_with_one_newline_at_the_end():
    for path in CHAPTERS:
        text = path.read_text(encoding="utf-8")
        assert json.loads(text)["nbformat"] == 4
        assert text.endswith("}\n")


@each_chapter
def test_every_image_has_its_sentence_and_its_numbers(path):
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_notebook_node(read(path))
    images = re.findall(r"<img [^>]*>", page)
    sentences = [re.search(r'alt="([^"]*)"', image) for image in images]
    assert all(found and 30 < len(found[1]) < 600 and found[1].endswith(".") for found in sentences), images
    measured = [image for image in images if "data:image/png" in image]  # a diagram has no numbers
    assert len(re.findall("<summary>The numbers of this figure</summary>", page)) == len(measured)
    assert not [output for cell in code_cells(path) for output in cell.outputs if "image/png" in output.get("data", {})]


@each_chapter
def test_every_column_of_a_table_has_words(path):
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    pages = [output.data.get("text/html", "") for output in outputs if "data" in output]
    heads = re.findall(r"<thead>.*?</thead>", "".join(pages), re.DOTALL)
    assert not [head for head in heads if re.search(r"<t[hd][^>]*>\s*</t[hd]>", head)]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_what_a_learner_begins_with_takes_what_its_card_says(path):
    """A starter with other arguments than the card's is called wrong before a word is written."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for source in code:
        for name in re.findall(r'rk\.exercise\("([A-Z]?\d+\.\d+)"\)\.check\(', source):
            starter = re.search(r"^def (\w+\(.*?\)):", source, re.M)
            if starter and (asked := re.search(r"Write `(\w+\(.*?\))`", exercise(name).question)):
                assert re.sub(r", \w+=[^,)]+", "", starter[1]) == asked[1], name
