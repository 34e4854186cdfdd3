"""A chapter opened alone: what is installed, what is never touched, and that nothing of it shows elsewhere."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from notebooks import chapter
from typer.testing import CliRunner

from rimkit.cli import app
from rimkit.data import UserError
from rimkit.teaching import setup

ROOT = Path(__file__).parents[1]


class Asked:
    """Stands for pip: remembers what it was asked for."""

    def __init__(self):
        self.requirements = None

    def __call__(self, requirements):
        self.requirements = requirements


@pytest.fixture
def on_colab(monkeypatch):
    """A kernel of Colab, as far as can be told from inside."""
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))


@pytest.fixture
def needs(monkeypatch):
    """Let rimkit need these requirements."""

    def given(*requirements):
        monkeypatch.setattr(metadata, "requires", lambda name: list(requirements))

    return given


def test_nothing_happens_elsewhere(needs, capsys):
    needs("no-such-package>=1")
    pip = Asked()
    setup.prepare(pip)
    assert pip.requirements is None
    assert capsys.readouterr().out == ""


def test_only_what_is_missing_is_installed(on_colab, needs, capsys):
    needs(
        "no-such-package>=1,<2", "numpy>=1.26", "packaging>=9999", "jupyterlab>=9999", 'other-package; extra == "test"'
    )
    pip = Asked()
    setup.prepare(pip)
    assert pip.requirements == ["no-such-package<2,>=1"]
    said = capsys.readouterr().out
    assert f"packaging {metadata.version('packaging')} is here, the workbook is tested with >=9999" in said
    assert "numpy" not in said
    assert "jupyterlab" not in said


def test_a_stale_module_asks_for_a_restart_before_anything_is_downloaded(on_colab, needs, monkeypatch):
    import numpy

    needs("numpy>=1.26", "no-such-package")
    monkeypatch.setattr(numpy, "__version__", "1.0.0")
    pip = Asked()
    with pytest.raises(UserError, match=r"numpy 1\.0\.0 \(.* is installed\): choose Runtime > Restart session"):
        setup.prepare(pip)
    assert pip.requirements is None


def test_a_build_is_not_another_version(monkeypatch):
    import numpy

    monkeypatch.setattr(numpy, "__version__", f"{metadata.version('numpy')}+cu128")
    assert setup.stale(["numpy", "no-such-package"]) == []


def test_every_installed_version_is_a_constraint():
    pins = setup.constraints().splitlines()
    assert f"numpy=={metadata.version('numpy')}" in pins
    assert f"torch=={metadata.version('torch')}" in pins
    assert len(pins) > 50


def test_pip_gets_the_constraints_and_its_refusal_is_one_line(monkeypatch):
    seen = {}

    def run(command, **options):
        seen["command"] = command
        seen["pins"] = Path(command[command.index("--constraint") + 1]).read_text()
        return subprocess.CompletedProcess(
            command, 1, "", "noise\nERROR: Cannot install a\nERROR: ResolutionImpossible"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=r"could not install a>=1 beside what is here \(ERROR: ResolutionImpossible\)"):
        setup._pip(["a>=1"])
    assert seen["command"][:4] == [sys.executable, "-m", "pip", "install"]
    assert seen["command"][-1] == "a>=1"
    assert "torch==" in seen["pins"]


def test_a_chapter_can_work_on_drive(on_colab, monkeypatch, tmp_path, needs):
    needs()
    drive, mounted = ModuleType("google.colab.drive"), []
    drive.mount = mounted.append
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    monkeypatch.setattr(setup, "DRIVE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    setup.start(0, drive="class")
    assert mounted == [str(tmp_path)]
    assert Path.cwd() == tmp_path / "MyDrive" / "class"


@pytest.mark.parametrize(
    ("model", "gpu", "said"),
    [
        ("rim-mini:1", "", "Ready: rim-mini:1, CPU (under 45 s as shipped)\n"), ("rim-mini", "H100", "Ready: rim-mini, H100\n"),
        ("Qwen/Qwen3-4B", "", "Ready: Qwen/Qwen3-4B, CPU\n"), ("endpoint:a", "", "Ready: endpoint:a\n"), ("", "", ""),
    ],
)  # fmt: skip
def test_a_chapter_says_when_it_is_ready(model, gpu, said, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpu))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
    setup.start(model=model, seconds=45)
    ready, _, other = capsys.readouterr().out.partition("\n")
    assert ready == said.strip() and other.startswith("The text is about the embedded") == (
        "Qwen" in model or ":a" in model
    )


def test_there_is_no_drive_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setup.start(0, drive="class")
    assert Path.cwd() == tmp_path
    with pytest.raises(UserError, match="on Colab only"):
        setup.save_to_drive()


CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))


def links(repo: str, branch: str) -> list[str]:
    """Where Colab opens the chapters of a repository."""
    return [f"https://colab.research.google.com/github/{repo}/blob/{branch}/chapters/{path.name}" for path in CHAPTERS]


def test_the_shipped_readme_and_all_chapters_are_filled_in(tmp_path, monkeypatch):
    """The README's own command, on a copy; another fork can fill them in again."""
    (tmp_path / "README.md").write_bytes((ROOT / "README.md").read_bytes())
    (tmp_path / "chapters").mkdir()
    for path in CHAPTERS:
        (tmp_path / "chapters" / path.name).write_bytes(path.read_bytes())
    line = ["badges", "--repo", "owner/name", "--branch", "v1", "--readme", "README.md", "--stamp", "chapters"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, line)
    assert done.stdout == f"The workbook is at owner/name; files changed: {1 + len(CHAPTERS)}\n", done.stderr
    text = (tmp_path / "README.md").read_text()
    assert all(text.count(link) == 1 for link in links("owner/name", "v1"))
    assert text.count("owner/name/blob") == len(CHAPTERS)
    again = setup.publish("new-owner/name", "main", tmp_path / "README.md", tmp_path / "chapters")
    assert len(again) == 1 + len(CHAPTERS)
    back = (tmp_path / "README.md").read_text().replace("new-owner/name", "OWNER/NAME")
    assert back == (ROOT / "README.md").read_text()


LINK = "[Colab](https://colab.research.google.com/github/any/one/blob/main/chapters/01.ipynb)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: setup.publish("name", "main", folder / "good.md"), "'name' is not OWNER/NAME"),
        (lambda folder: setup.publish("a/b", "x y", folder / "good.md"), "'x y' is not a branch"),
        (lambda folder: setup.publish('a/b"', "main", folder / "good.md"), "is not OWNER/NAME"),
        (lambda folder: setup.publish("a/b", "main", folder / "empty.md", folder), "empty.md has no link that opens"),
        (lambda folder: setup.publish("a/b", "main", folder / "none.md", folder), "cannot use .*none.md"),
        (lambda folder: setup.publish("a/b", "main", folder / "good.md", folder / "none"), "there are no notebooks in"),
        (lambda folder: setup.publish("a/b", "main", folder / "good.md", folder), "2_bad.ipynb is no notebook"),
    ],
)
def test_what_cannot_be_filled_in_is_one_line_and_nothing_changes(tmp_path, call, message):
    (tmp_path / "empty.md").write_text("")
    (tmp_path / "good.md").write_text(LINK)
    set_up(tmp_path)
    (tmp_path / "2_bad.ipynb").write_text("{")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message) as error:
        call(tmp_path)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_all_as_it_was(tmp_path, monkeypatch):
    set_up(tmp_path)
    (tmp_path / "good.md").write_text(LINK)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write, written = Path.write_text, []

    def fill(path, *rest, **more):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return write(path, *rest, **more)

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(UserError, match=r"No space left on device\): nothing was changed"):
        setup.publish("a/b", "main", tmp_path / "good.md", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def set_up(tmp_path: Path) -> Path:
    return Path(chapter(tmp_path, "01_alone", "import rimkit as rk\n\nrk.start(seed)", "seed"))


def test_a_stamp_changes_the_set_up_cell_and_nothing_else(tmp_path):
    path = set_up(tmp_path)
    before = json.loads(path.read_text())
    assert setup.publish("owner/name", chapters=tmp_path) == [path]
    assert setup.publish("owner/name", chapters=tmp_path) == []
    after = json.loads(path.read_text())
    changed = [
        index for index, cells in enumerate(zip(before["cells"], after["cells"], strict=True)) if cells[0] != cells[1]
    ]
    assert changed == [2]
    source = "".join(after["cells"][2]["source"])
    assert "git+https://github.com/owner/name@main" in source
    ast.parse(source)
    assert setup.publish("other/name", chapters=tmp_path) == [path]
    before["cells"][2]["source"] = ["nothing"]
    path.write_text(json.dumps(before))
    with pytest.raises(UserError, match=r"has no cell that ends with rk\.start"):
        setup.publish("owner/name", chapters=tmp_path)


def test_a_stamped_cell_installs_when_rimkit_is_missing_and_not_otherwise(monkeypatch):
    asked = []

    class Shell:
        def run_line_magic(self, name, line):
            asked.append((name, line))
            monkeypatch.undo()  # now it can be imported

    source = setup.SETUP.format(repo="owner/name", branch="main")
    names = {"seed": 0, "get_ipython": Shell}
    exec(source, dict(names))
    assert asked == []

    def missing(name, *rest):
        if name == "rimkit" and not asked:
            raise ModuleNotFoundError(name)
        return __import__(name, *rest)

    import builtins

    exec(source, {**names, "__builtins__": {**vars(builtins), "__import__": missing}})
    assert asked == [("pip", "install --quiet --no-deps git+https://github.com/owner/name@main")]


WIDGETS_771 = {  # classes of ipywidgets 7.7.1 that explorers may use, with their traits (listed in that version)
    "Widget": {"comm", "keys", "log"},
    "HTML": {"description", "description_tooltip", "layout", "placeholder", "style", "value"},
    "HBox": {"box_style", "children", "layout"},
    "VBox": {"box_style", "children", "layout"},
    "Text": {"continuous_update", "description", "disabled", "layout", "placeholder", "style", "value"},
    "Dropdown": {"description", "description_tooltip", "disabled", "index", "label", "layout", "options", "style", "value"},
    "IntSlider": {"continuous_update", "description", "description_tooltip", "disabled", "layout", "max", "min",
                  "orientation", "readout", "readout_format", "step", "style", "value"},
}  # fmt: skip


def test_widgets_use_only_what_ipywidgets_77_has():
    tree = ast.parse((ROOT / "rimkit" / "teaching" / "widgets.py").read_text())
    used = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "ipywidgets"
    ]
    assert {node.attr for node in used} <= set(WIDGETS_771)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func in used]
    assert len(calls) >= 4
    for call in calls:
        assert {keyword.arg for keyword in call.keywords} <= WIDGETS_771[call.func.attr]


EXPLORES = """
import ipywidgets
from rimkit.teaching import widgets

box = widgets.explorer(lambda mode, n: f"{mode} {n}", mode=["think", "no-think"], n=range(1, 5))
controls, result, _ = box.children
said = [ipywidgets.__version__]
for control, value in ((controls.children[1], 3), (controls.children[0], "no-think")):
    control.value = value
    said.append(result.value.rpartition("</p>")[2])
print(said)
"""


def test_an_explorer_works_with_ipywidgets_77(tmp_path):
    """In a second environment: this one, with that version before its own."""
    older = ["ipywidgets==7.7.1", "ipython_genutils"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), *older]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("the package index cannot be reached")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    found = subprocess.run([sys.executable, "-c", EXPLORES], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().splitlines()[-1] == "['7.7.1', 'think 3', 'no-think 3']"


def test_no_other_module_uses_widgets():
    users = {path.name for path in (ROOT / "rimkit").rglob("*.py") if "import ipywidgets" in path.read_text()}
    assert users == {"widgets.py"}


COLAB = {  # versions of Colab's Python 3.13 image, as far as they are known
    "torch": "2.11.0", "transformers": "5.15.0", "numpy": "2.1.3", "ipykernel": "6.17.1", "jupyter-client": "7.4.9",
    "ipywidgets": "7.7.1", "pandas": "2.2.3", "pyarrow": "18.1.0", "scipy": "1.16.3", "scikit-learn": "1.6.1",
    "statsmodels": "0.14.6", "matplotlib": "3.10.0", "seaborn": "0.13.2", "nbformat": "5.10.4", "nbclient": "0.10.4",
    "rich": "13.9.4", "typer": "0.24.1", "psutil": "5.9.5", "tqdm": "4.67.3", "jinja2": "3.1.6",
    "packaging": "26.0",
}  # fmt: skip
KERNEL = {  # and of what its kernel and its server run on, which rimkit does not ask for itself
    "ipython": "7.34.0", "traitlets": "5.7.1", "tornado": "6.5.1", "pyzmq": "26.2.1", "jupyter-core": "5.9.1",
    "jupyter-server": "2.14.0", "notebook": "6.5.7", "nbconvert": "7.17.0", "widgetsnbextension": "3.6.10",
}  # fmt: skip


def test_the_ranges_hold_colabs_versions():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {item.name: item.specifier for item in map(Requirement, project["dependencies"])}
    assert not {name: version for name, version in COLAB.items() if not ranges[name].contains(version)}


@pytest.mark.skipif("RIMKIT_RESOLVE" not in os.environ, reason="asks the package index: RIMKIT_RESOLVE=1, and uv")
def test_everything_resolves_beside_colabs_versions(tmp_path):
    pins = tmp_path / "colab.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in (COLAB | KERNEL).items()))
    where = ["--python-version", "3.13", "--python-platform", "linux", "--only-binary", ":all:"]
    command = [
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        *where,
        "--constraints",
        str(pins),
        "--no-header",
        "--no-annotate",
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    resolved = set(found.stdout.split())
    assert {"numpy==2.1.3", "torch==2.11.0", "ipython==7.34.0", "ipywidgets==7.7.1"} <= resolved


def test_a_name_that_is_not_there_yet_is_found_in_the_cell_that_makes_it():
    cells = json.loads((ROOT / "chapters" / "00_start_here.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    user = next(cell for cell in code if "study" in cell and not cell.startswith("study") and "study =" not in cell)
    said = setup.where_made("study", user)
    assert said.startswith("'study' is made in a cell further up, which begins with: ")
    assert "Run All Above" in setup.where_made("study", "print(study)  # a cell of one's own")


def test_a_notebook_says_so_below_the_error(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        setup.adopt(shell)
        assert not shell.run_cell("nothing_of_this_name", store_history=True).success
        said = capsys.readouterr().out
        assert "NameError" in said
        assert "'nothing_of_this_name' is not there. If a cell further up makes it" in said
    finally:
        InteractiveShell.clear_instance()
