"""The tests' surroundings: quiet, offline, one thread, and the same random examples on every machine."""

import os
import shutil

import pytest
from hypothesis import settings

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny; two threads stall when another process has a core

settings.register_profile("reproducible", deadline=None, derandomize=True)  # the first example also pays for imports
settings.load_profile("reproducible")

# Files that take minutes, so that no worker begins one when the other has nothing left to do.
LONGEST = (
    "test_experiments.py", "test_evaluation.py", "test_inside_training.py", "test_sweep.py", "test_cli.py",
    "test_recipe.py", "test_ras.py", "test_neurons.py", "test_questions.py", "test_tuning.py", "test_probes.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The longest files first, then the chapters, then the others as they come."""
    order = {name: place for place, name in enumerate(LONGEST)}
    late = {".ipynb": len(order)}
    items.sort(key=lambda item: order.get(item.path.name, late.get(item.path.suffix, len(order) + 1)))


@pytest.fixture(scope="module")
def shell():
    """Where the cells of a chapter run without a kernel of their own."""
    from IPython.core.interactiveshell import InteractiveShell

    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """A real browser; without one, the tests that need it are left out, except on the build machine."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        message = "no Chromium: install it (apt-get install chromium) to open pages"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=QUIET)
        yield chromium
        chromium.close()
