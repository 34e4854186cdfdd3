"""The experiments of chapters 01 to 07 and 09: what their files share.

Every topic is a module of small public steps, in the order in which `run` takes them. No file has
all of these names, but one means the same wherever it is: ``Settings``, a frozen dataclass where
each default stands once (chapters ask fewer prompts); ``run(study, settings) -> Result``;
``evaluation_prompts``, on which effects are reported; ``score`` and ``choose``, on calibration
prompts (what they return differs); ``ablate``, replies without parts of the model; ``competence``,
what floors (`rimkit.ledger.floor`) are asked of, on calibration prompts (`ras`: evaluation);
``rows`` (`ras`: ``with_rows``), a verdict row per claim, or why a step is undefined. `planted`, a
control, has no chapter.

Words of all files: a *study* is a model under study. A table of *judged replies* (``judged``) has a
row per reply and what a judge says of it; a *verdict* is what the workbook says of a claim, by the
rule of `rimkit.ledger.verdict`. A *cluster* is one verb with its prompts: intervals draw verbs
again. What is chosen on the *calibration* split is reported on the *evaluation* split (other verbs).
``Settings.seed`` drives which prompts are taken, the sampling of replies, the training (in `tuning`,
``tuning_seeds`` do), and which random sets one compares with. The draws behind intervals are
fixed: equal replies, equal intervals.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path

from pandas import DataFrame, Series

from rimkit.behavior.evaluation import RANDOM, SETS, Evaluation
from rimkit.behavior.stats import Units, matched_sets
from rimkit.data import UserError, kept, missing, truths
from rimkit.ledger import below_floor, effect_row
from rimkit.models.hooks import architecture
from rimkit.models.study import StudyModel


@dataclass(frozen=True, kw_only=True)
class Common:
    """The settings of every topic, and how prompts and judged replies are made by them."""

    seed: int = 0  # of all draws but those of intervals
    n_competence: int = 24  # calibration prompts of each set, by which a floor is judged
    evaluation: Evaluation = Evaluation()
    progress: bool = False

    def __post_init__(self):
        for name, value in vars(self).items():
            least = 0 if name == "seed" else 1
            counted = name == "seed" or (name.startswith("n_") and value is not None)
            if counted and not (isinstance(value, Integral) and value >= least):
                raise UserError(f"{name} must be a whole number, {least} or more")

    @property
    def generation(self) -> dict:
        """What a step of `rimkit.behavior.evaluation` is given."""
        return {"seed": self.seed, "evaluation": self.evaluation, "progress": self.progress}

    def sets(self, names: Iterable[str] = SETS, n: int | None = None, split: str = "evaluation") -> DataFrame:
        """`Evaluation.sets`: ``n`` prompts (None: all) of each set, drawn by the seed."""
        return self.evaluation.sets(names, split=split, n=n, seed=self.seed)

    def judged(self, study: StudyModel, prompts: DataFrame, mode: str, **generation) -> DataFrame:
        """`Evaluation.judged`: the judged replies in one mode."""
        usual = {"seed": self.seed, "progress": self.progress}
        return self.evaluation.judged(study, prompts, mode, **usual | generation)

    def observe(self, study: StudyModel, prompts: DataFrame, **generation) -> DataFrame:
        """`Evaluation.observe`: the judged replies in every mode."""
        usual = {"seed": self.seed, "progress": self.progress}
        return self.evaluation.observe(study, prompts, **usual | generation)

    def keeper(self, study: StudyModel) -> Callable[..., dict[str, DataFrame]]:
        """``keep(name, make)``: tables of a model and settings, `kept` in their folder, if any."""
        at = str(getattr(self, "folder", ""))
        same = replace(self, progress=False, **{name: "" for name in MAY_GROW if hasattr(self, name)})
        of = repr((study.fingerprint(), self.evaluation.fingerprint(), same)) if at else ""
        return lambda name, make: kept(Path(at) / name.replace("/", "-") if at else "", make, of)

    def keep_one(self, study: StudyModel) -> Callable[..., DataFrame]:
        """``keep(name, measure, …)``: the table that ``measure`` makes of the rest (`keeper`)."""

        def keep(name: str, measure: Callable, *given, **options) -> DataFrame:
            tables = self.keeper(study)(name, lambda: {"table": measure(*given, **options)})
            return next(iter(tables.values()))

        return keep


@dataclass(frozen=True)
class Result:
    """What an experiment found: detail tables by the name of their file, and verdict rows."""

    tables: dict[str, DataFrame]
    rows: list[dict]


# Settings that do not change a kept table: not part of its key.
MAY_GROW = ("folder", "corpora", "curves", "tuning_seeds", "repairs")
PER_LAYER = {"heads": "n_heads", "neurons": "n_neurons", "residual": "hidden_size"}
PER_PROMPT = ("prompt_id", "cluster", "refused", "misaligned", "misread", "coherent", "score")
Found = Mapping | str  # a difference, or why there is none
Table = DataFrame | str  # the same of a table


def attempt(step: Callable, *given, **options):
    """What a step finds, or, as a text, why it is undefined for the model."""
    try:
        return step(*given, **options)
    except UserError as error:
        return " ".join(str(error).split())


def is_readable(judged: DataFrame) -> Series:
    """Of every reply whether it is coherent and about what was asked (not misread): 1, 0 or NaN."""
    good = truths(judged["coherent"]) & ~truths(judged["misread"]).fillna(False)
    return good.astype("Float64").astype(float)


def readable(judged: DataFrame, by: str | Sequence[str]) -> Series:
    """The share of readable replies, by the columns ``by``."""
    keys = [judged[name] for name in ([by] if isinstance(by, str) else by)]
    return is_readable(judged).groupby(keys).mean()


def random_sets(study: StudyModel, units: Units, n: int, seed: int, kind: str = "neurons") -> dict[str, Units]:
    """``{"random 0": …}``: ``n`` sets of other heads, neurons or dimensions, matched by layer."""
    drawn = matched_sets(units, getattr(architecture(study), PER_LAYER[kind]), n, seed)
    return {f"{RANDOM} {number}": found for number, found in enumerate(drawn)}


def per_prompt(judged: DataFrame, *by: str) -> DataFrame:
    """The judged replies behind rates by the columns ``by``, without a text ("…-judged")."""
    return judged[[name for name in (*by, *PER_PROMPT) if name in judged]]


def testable(claim: str, found: Found, **reached: float) -> Found:
    """A difference with ``why_not``: its own, or the floor that it misses (`below_floor`)."""
    if isinstance(found, str):
        return found
    said = found.get("why_not")
    said = below_floor(claim, **reached) if missing(said) else said
    return {**found, "why_not": said} if said else found


def verdict_rows(study: StudyModel, settings: Common, found: Iterable[tuple[str, str | None, Found]]) -> list[dict]:
    """The verdict rows of a model, one per ``(claim, mode, difference or why there is none)``."""
    about = study.identity | settings.evaluation.description()
    return [effect_row(claim, one, mode=mode, **about) for claim, mode, one in found]


def result(study: StudyModel, tables: Mapping[str, DataFrame], rows: list[dict]) -> Result:
    """A `Result`; tables begin with ``model, seed`` and name both sides as verdict rows do."""
    who = {name: study.identity[name] for name in ("model", "seed")}
    sides, found = {"value_a": "value", "value_b": "control_value"}, {}
    for name, table in tables.items():
        table = table.rename(columns=sides).assign(**who)
        found[name] = table[[*who, *table.columns.drop(list(who))]]
    return Result(found, rows)
