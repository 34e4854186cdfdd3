"""The house rules: style, floors, sizes, and lists of packages that must agree."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(tool: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).with_name(tool)), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_ruff():
    found = run("ruff", "check", "--no-cache", "--output-format=concise", ".")
    assert found.returncode == 0, found.stdout


def test_floors():
    found = run("lint-imports", "--no-cache")
    assert found.returncode == 0, found.stdout
    assert "1 kept, 0 broken" in found.stdout


@pytest.mark.parametrize("module", ["rimkit", "rimkit.cli"])
def test_the_front_door_is_light(module):
    heavy = ("torch", "transformers", "nnsight", "pandas", "numpy", "matplotlib", "papermill", "rich")
    code = f"import {module}, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


def test_conda_and_pip_install_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "environment.yml").read_text().splitlines()
    pip = [re.sub(r"\s+#.*", "", line).strip("- ") for line in lines if line.startswith("      - ")]
    assert pip[:-1] == project["dependencies"]
    assert pip[-1] == "e ."
    assert f"  - python {project['requires-python']}" in lines
    assert all("#" in line for line in lines if line.startswith("      - "))


def test_the_environment_lists_the_version_that_is_cited():
    from rimkit import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
