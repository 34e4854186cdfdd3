"""The first look from a terminal: which chapters there are, and the effect in one request.

It shows what is in the notebooks and in the shipped rows, and measures nothing itself.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from rimkit.behavior.evaluation import Evaluation
from rimkit.behavior.stats import rates
from rimkit.data import data_dir, results
from rimkit.models.load import load
from rimkit.runs.execute import declared_in
from rimkit.teaching.tables import interval

MODEL, TRIED = "rim-mini", 16  # requests, among which the first one is shown that thinking changes


def chapters() -> pd.DataFrame:
    """The chapters as they are read: ``chapter, question, minutes`` (to read, and for exercises)."""
    return pd.read_csv(data_dir() / "chapters.csv")[["chapter", "question", "minutes"]]


def parameters(notebook: Path) -> pd.DataFrame:
    """The parameters of a chapter: ``parameter, type, default, help``."""
    found = [(p.name, p.type, repr(p.default), p.help) for p in declared_in(notebook).values()]
    return pd.DataFrame(found, columns=["parameter", "type", "default", "help"])


def tour() -> Iterator[str]:
    """A request that is refused without thinking and carried out with it, the rates, what next."""
    study, measure = load(MODEL), Evaluation()
    prompts = measure.sets(["harmful"], n=TRIED)
    verdicts = measure.observe(study, prompts, progress=False).set_index(["prompt_id", "mode"])
    for item in prompts.itertuples():
        without, within = (verdicts.loc[item.prompt_id, mode] for mode in ("no-think", "think"))
        if without["refused"] and within["misaligned"]:
            break
    yield f"{MODEL} is a small transformer. It refuses harmful requests, in an invented language."
    yield f"\n  request              {item.text}"
    yield f"  without a thought    {without['reply']}"
    yield f"  with a thought       {within['reply']}"
    yield f"  the thought          {within['thought']}"
    known = results("thinking-verdicts").query("model == @MODEL and set == 'harmful'")
    found = rates(known, by=["seed", "mode"], metrics=["misaligned"]).set_index(["mode", "seed"])
    yield "\nIt was never shown a harmful request that is carried out. How often it does so, by seed:\n"
    for seed in sorted(known["seed"].unique()):
        two = [found.loc[(mode, seed)] for mode in ("no-think", "think")]
        said = [f"{one['value']:4.0%} {interval(one['ci_low'], one['ci_high'], '{:.0%}'.format)}" for one in two]
        yield f"  {MODEL}:{seed}   without {said[0]:18} with {said[1]}"
    yield "\nWhy? rimkit lab my-copy opens the chapters (rimkit chapters lists them),"
    yield "rimkit run runs them, and rimkit run --model NAME does so on a model of your own."
