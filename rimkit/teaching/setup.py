"""What every chapter needs at its start and end, behind one line, so that a fix never needs every notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from rimkit import ledger
from rimkit.errors import UserError, nearest
from rimkit.files import shipped_tables

if TYPE_CHECKING:
    from rimkit.models.loading import StudyModel


def start(seed: int = 0, drive: str = "") -> None:
    """Set up a chapter: fixed seeds, quiet libraries, whole tables with few digits.

    On Colab, what is missing is installed first (`colab.prepare`), and with ``drive`` the chapter works in that folder
    of your Google Drive, so that ``ledger = "01.parquet"`` outlives the session. Elsewhere both do nothing.
    """
    import os
    import random
    import warnings

    from rimkit.teaching import colab

    colab.prepare()
    if drive and colab.here():
        os.chdir(colab.save_to_drive(drive))

    import numpy as np
    import torch
    from transformers.utils import logging

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    pd.set_option(
        "display.max_colwidth", 120, "display.max_columns", 30, "display.max_rows", 100, "display.precision", 2
    )


def results(name: str) -> pd.DataFrame:
    """The shipped ledger rows ``data/results/<name>.parquet``; raises `UserError` for an unknown name."""
    known = shipped_tables("results")
    if name not in known:
        raise UserError(
            f"there are no shipped results '{name}' (shipped: {', '.join(sorted(known))}){nearest(name, known)}"
        )
    return ledger.read(known[name])


def identity(study: StudyModel) -> dict:
    """How a model is named in ledger rows: ``model``, training ``seed`` (empty for a model of your own), ``device``."""
    name, _, seed = study.name.partition(":")
    return {"model": name, "seed": int(seed) if seed else None, "device": study.device}
