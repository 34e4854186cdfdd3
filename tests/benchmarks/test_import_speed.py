"""How long a user waits before anything happens: `pytest -n0 tests/benchmarks`. Times are only recorded."""

import subprocess
import sys
from pathlib import Path

import pytest

RIMKIT = str(Path(sys.executable).with_name("rimkit"))
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import rimkit (limit 0.3 s)": [sys.executable, "-c", "import rimkit"],
    "rimkit --help (limit 0.6 s)": [RIMKIT, "--help"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_start(benchmark, name):
    done = benchmark.pedantic(
        subprocess.run, (COMMANDS[name],), {"capture_output": True, "check": True}, rounds=10, warmup_rounds=1
    )
    assert done.returncode == 0


@pytest.mark.parametrize("module", ["rimkit", "rimkit.cli"])
def test_torch_is_not_imported(module):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
