"""The experiments of chapters 01 to 07: their one form of settings, verdict rows and results.

Every topic is a module of small public steps, a frozen dataclass ``Settings`` where each default
stands once, and ``run(study, settings) -> Result`` that is composed of these steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module

from pandas import DataFrame

from rimkit.behavior.evaluation import SETS, Evaluation
from rimkit.data import UserError, nearest
from rimkit.ledger import effect_row
from rimkit.models.study import StudyModel

TOPICS = ("thinking", "patterns", "probes", "heads", "tuning", "neurons", "ras")


@dataclass(frozen=True, kw_only=True)
class Common:
    """The settings of every topic, and how prompts and verdicts are made by them."""

    seed: int = 0  # of the sampling
    evaluation: Evaluation = Evaluation()
    progress: bool = False

    @property
    def generation(self) -> dict:
        """What a step of `rimkit.behavior.evaluation` is given."""
        return {"seed": self.seed, "evaluation": self.evaluation, "progress": self.progress}

    def sets(self, names: Iterable[str] = SETS, n: int | None = None, split: str = "evaluation") -> DataFrame:
        """`Evaluation.sets`: ``n`` prompts (None: all) of each set, drawn by the seed."""
        return self.evaluation.sets(names, split=split, n=n, seed=self.seed)

    def judged(self, study: StudyModel, prompts: DataFrame, mode: str, **generation) -> DataFrame:
        """`Evaluation.judged`: verdicts on the replies in one mode."""
        usual = {"seed": self.seed, "progress": self.progress}
        return self.evaluation.judged(study, prompts, mode, **usual | generation)

    def observe(self, study: StudyModel, prompts: DataFrame, **generation) -> DataFrame:
        """`Evaluation.observe`: verdicts on the replies in every mode."""
        usual = {"seed": self.seed, "progress": self.progress}
        return self.evaluation.observe(study, prompts, **usual | generation)


@dataclass(frozen=True)
class Result:
    """What an experiment found: detail tables by the name of their file, and verdict rows."""

    tables: dict[str, DataFrame]
    rows: list[dict]


def verdict_rows(study: StudyModel, settings: Common, found: Iterable[tuple[str, str | None, Mapping]]) -> list[dict]:
    """The verdict rows of a model, one for each ``(claim, mode, difference)``."""
    about = study.identity | settings.evaluation.description()
    return [effect_row(claim, difference, mode=mode, **about) for claim, mode, difference in found]


def result(study: StudyModel, tables: Mapping[str, DataFrame], rows: list[dict]) -> Result:
    """A `Result`; tables begin with ``model, seed`` and name sides of a difference as verdict rows do."""
    who = {name: study.identity[name] for name in ("model", "seed")}
    sides = {"value_a": "value", "value_b": "control_value"}
    named = {name: table.rename(columns=sides).assign(**who) for name, table in tables.items()}
    order = {name: [*who, *(column for column in table if column not in who)] for name, table in named.items()}
    return Result({name: table[order[name]] for name, table in named.items()}, rows)


def run(topic: str, study: StudyModel, settings: Common | None = None, **identity) -> Result:
    """Run one of `TOPICS` on a model, with the topic's own ``Settings`` by default.

    ``identity`` goes into every verdict row (``run_id``, …). Raises ``UserError`` for an unknown
    topic, and where the topic is undefined for the model.
    """
    if topic not in TOPICS:
        raise UserError(f"unknown experiment '{topic}' (known: {', '.join(TOPICS)}){nearest(topic, TOPICS)}")
    module = import_module(f"rimkit.experiments.{topic}")
    found = module.run(study, settings or module.Settings())
    return Result(found.tables, [row | identity for row in found.rows])
