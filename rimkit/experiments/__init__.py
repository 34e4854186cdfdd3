"""The experiments of chapters 01 to 07: their names and the one form of their results, not what they measure.

Every topic is a module of small public steps, a frozen dataclass ``Settings`` where each default stands once, and
``run(study, settings) -> Result`` that is composed of these steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rimkit.data import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd

    from rimkit.models.study import StudyModel

TOPICS = ("thinking", "patterns", "probes", "heads", "tuning", "neurons", "ras")


@dataclass(frozen=True)
class Result:
    """What an experiment found: detail tables by the name of their file, and verdict rows."""

    tables: dict[str, pd.DataFrame]
    rows: list[dict]


def result(study: StudyModel, tables: Mapping[str, pd.DataFrame], rows: list[dict]) -> Result:
    """A `Result` whose tables begin with ``model, seed``, and call the sides of a difference as verdict rows do."""
    who = {name: study.identity[name] for name in ("model", "seed")}
    sides = {"value_a": "value", "value_b": "control_value"}
    named = {name: table.rename(columns=sides).assign(**who) for name, table in tables.items()}
    order = {name: [*who, *(column for column in table if column not in who)] for name, table in named.items()}
    return Result({name: table[order[name]] for name, table in named.items()}, rows)


def run(topic: str, study: StudyModel, settings: Any = None, **identity) -> Result:
    """Run one of `TOPICS` on a model, with the topic's own ``Settings`` by default.

    ``identity`` goes into every verdict row (``run_id``, ``params_hash``, …). Raises ``UserError`` for an unknown
    topic, and where the topic is undefined for the model.
    """
    if topic not in TOPICS:
        raise UserError(f"unknown experiment '{topic}' (known: {', '.join(TOPICS)}){nearest(topic, TOPICS)}")
    module = import_module(f"rimkit.experiments.{topic}")
    found = module.run(study, settings or module.Settings())
    return Result(found.tables, [row | identity for row in found.rows])
