"""How chapters are compared: what nbval leaves out besides images, and a quiet, offline kernel."""

import os

# Kernels inherit these: bars hold timings, and no test may need the network.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny; two threads stall when another process has a core

# Warnings carry file paths. tests/test_chapters.py checks that no chapter has stored any.
NOT_COMPARED = ("stderr",)
# A figure is compared by its sentence and its table, a box by its text; pixels depend on the machine.
LOOKS = r"data:image/png;base64,[A-Za-z0-9+/=]+|<style>[^<]+</style>"


def pytest_collection_modifyitems(items):
    for notebook in {item.parent for item in items if hasattr(item.parent, "skip_compare")}:
        notebook.skip_compare = (*notebook.skip_compare, *NOT_COMPARED)
        notebook.sanitize_patterns[LOOKS] = "looks"
