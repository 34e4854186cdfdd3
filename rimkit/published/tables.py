"""The tables of ``data/paper``: what the paper printed or drew, as it stands there (percent, points, shares).

``data/paper/README.md`` says where each comes from, how figures were digitised, and what is known to be wrong.
"""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from rimkit.errors import UserError, nearest
from rimkit.paths import data_dir

HARM_BENCHMARK = 300  # prompts of HEx-PHI, the paper's only safety benchmark
MATHS_PROBLEMS = 60  # AIME 2024 and 2025 together
MODELS = (
    "Qwen3-4B",
    "Phi3.5-Tiny",
    "Mistral-7B",
    "OLMo2-1B",
    "Qwen3-30B-A3B",
    "Phi3.5-MoE",
    "Mixtral-8x7B",
    "OLMoE-7x1B",
)  # fine-tuned: four dense, four of experts


def names() -> list[str]:
    """The names that `published` knows."""
    return sorted(file.stem for file in (data_dir() / "paper").glob("*.csv"))


def published(name: str) -> pd.DataFrame:
    """The table ``data/paper/<name>.csv``; raises `UserError` for an unknown name."""
    if name not in names():
        raise UserError(f"data/paper has no '{name}' (it has: {', '.join(names())}){nearest(name, names())}")
    return _read(name).copy()


@lru_cache
def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(data_dir() / "paper" / f"{name}.csv")


def by_model(name: str, columns: str, values: str) -> pd.DataFrame:
    """A table of ``data/paper`` with one row per model, in the order printed, and one column per condition."""
    table = published(name)
    wide = table.pivot_table(index="model", columns=columns, values=values, sort=False)
    return wide.rename_axis(columns=None)


def injected() -> pd.DataFrame:
    """Tables A2-A4: misalignment in percent by ``model, pattern``, columns ``control, target``."""
    table = published("tables_a2_a4_pattern_injection")
    wide = table.pivot_table(index=["model", "pattern"], columns="prefix", values="misalignment_rate_pct", sort=False)
    return wide.rename_axis(columns=None).reset_index()
