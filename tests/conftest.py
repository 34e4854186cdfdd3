"""The tests' surroundings: quiet, offline, one thread, and the same random examples on every machine."""

import os

from hypothesis import settings

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny; two threads stall when another process has a core

settings.register_profile("reproducible", deadline=None, derandomize=True)  # the first example also pays for imports
settings.load_profile("reproducible")
