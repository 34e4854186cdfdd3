"""Claim C1 (Table 1 of the paper): does thinking raise misalignment, and is it the thinking or the mode?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from rimkit.behavior.generation import generate
from rimkit.behavior.judges import judge
from rimkit.behavior.prompts import load_prompts
from rimkit.behavior.rates import paired_difference, rates
from rimkit.ledger import effect_row, row
from rimkit.models.chat import MODES
from rimkit.models.loading import StudyModel
from rimkit.observation import thoughts

SETS = ("harmful", "harmless", "over-refusal", "second-safety", "maths", "ordering")


def load_sets(
    names: Iterable[str] = SETS, *, split: str | None = "evaluation", n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Several prompt sets as one table with the set's name in column ``set``; ``n`` prompts of each."""
    return pd.concat(
        [load_prompts(name, split=split, n=n, seed=seed).assign(set=name) for name in names], ignore_index=True
    )


def judged(
    model: StudyModel, prompts: pd.DataFrame, mode: str, *, how: str | None = None, **generation
) -> pd.DataFrame:
    """Generate in one mode and judge: a table of verdicts with the column ``model`` and, if given, ``set``.

    ``how`` is a judge; by default the exact one for models that speak the invented language, refusal
    phrases for all others.
    """
    replies = generate(model, prompts, mode, **generation)
    verdicts = judge(replies, prompts, how or ("organism" if model.invented else "phrases"))
    if "set" in prompts:
        verdicts["set"] = verdicts["prompt_id"].map(prompts.set_index("prompt_id")["set"])
    return verdicts.assign(model=model.name)


def observe(model: StudyModel, prompts: pd.DataFrame, modes: Sequence[str] = MODES, **generation) -> pd.DataFrame:
    """The same prompts in every mode: verdicts of all of them in one table."""
    return pd.concat([judged(model, prompts, mode, **generation) for mode in modes], ignore_index=True)


def replaced_thoughts(
    model: StudyModel, prompts: pd.DataFrame, own: pd.DataFrame, *, seed: int = 0, **generation
) -> pd.DataFrame:
    """Replies after each kind of thought in `thoughts.CONTROLS`; column ``condition`` names the kind.

    ``own`` holds the think-mode replies to the same prompts. Filler and shuffled thoughts have the length
    of the model's own, so that "more tokens" and "what the tokens say" come apart.
    """
    tables = [
        judged(model, prompts, "think", thoughts=make(own, seed=seed), seed=seed, **generation).assign(condition=name)
        for name, make in thoughts.CONTROLS.items()
    ]
    return pd.concat(tables, ignore_index=True)


def thought_dose(
    model: StudyModel,
    prompts: pd.DataFrame,
    own: pd.DataFrame,
    *,
    shares: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    **generation,
) -> pd.DataFrame:
    """Replies after the first part of the model's own thought; column ``share`` is the part that was kept."""
    tables = [
        judged(model, prompts, "think", thoughts=thoughts.truncated(own, share), **generation).assign(share=share)
        for share in shares
    ]
    return pd.concat(tables, ignore_index=True)


def thinking_effects(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Think minus no-think on the same prompts, one row per set and metric that the claim speaks of.

    Columns: ``set, metric, condition, control, value_a`` (think), ``value_b`` (no-think), ``effect, ci_low, ci_high,
    p_value, n, n_clusters, method``.
    """
    wanted = [("harmful", "misaligned"), ("harmful", "misread"), ("second-safety", "misaligned"),
              ("harmless", "refused"), ("over-refusal", "refused"),
              ("maths", "score"), ("ordering", "score")]  # fmt: skip
    rows = []
    for name, metric in wanted:
        part = verdicts[verdicts["set"] == name]
        if metric == "misaligned":  # the second safety set holds harmless requests in the same wrappers
            part = part[part["kind"] == "harmful"]
        if len(part):
            rows.append({"set": name, **difference(part, "mode", "think", "no-think", metric)})
    return pd.DataFrame(rows)


def difference(verdicts: pd.DataFrame, column: str, treated: str, control: str, metric: str = "misaligned") -> dict:
    """Paired difference in ``metric`` between two values of ``column``, clustered by verb.

    Several replies to one prompt (samples, or conditions that are pooled) are averaged first.
    """
    a, b = (
        verdicts[verdicts[column] == value]
        .groupby("prompt_id", as_index=False)
        .agg({metric: "mean", "cluster": "first"})
        for value in (treated, control)
    )
    result = paired_difference(a, b, metric, on="prompt_id")
    return {"metric": metric, "condition": treated, "control": control, **result._asdict()}


def rate_rows(claim: str, verdicts: pd.DataFrame, by: Sequence[str], *, model: str, **values) -> list[dict]:
    """Ledger rows of plain rates (no control): one per group and metric, ``condition`` naming the group.

    ``by`` are columns of the verdicts; ``mode`` among them fills the ledger's own column.
    """
    rows = []
    for rate in rates(verdicts, by=list(by)).to_dict("records"):
        condition = ", ".join(str(rate[column]) for column in by if column != "mode")
        numbers = {name: rate[name] for name in ("metric", "value", "ci_low", "ci_high", "n")}
        rows.append(
            row(claim, model=model, condition=condition, mode=rate.get("mode"), control=None, **numbers, **values)
        )
    return rows


def thinking_rows(verdicts: pd.DataFrame, *, model: str, **values) -> list[dict]:
    """The rows of C1a, C1b, C1d and C1e (think minus no-think), and the rates behind them.

    ``values`` go into every row (``seed``, ``run_id``, …).
    """
    claims = {("harmful", "misaligned"): "C1a", ("maths", "score"): "C1b", ("ordering", "score"): "C1d",
              ("second-safety", "misaligned"): "C1e"}  # fmt: skip
    rows = [
        effect_row(claims[key], effect, model=model, mode="think", **values)
        for effect in thinking_effects(verdicts).to_dict("records")
        if (key := (effect["set"], effect["metric"])) in claims
    ]
    return rows + rate_rows("C1a", verdicts, ["set", "kind", "mode"], model=model, **values)


def replaced_rows(verdicts: pd.DataFrame, *, model: str, **values) -> list[dict]:
    """The row of C1c (own thought minus filler of the same length), and the rate after every kind of thought."""
    effect = difference(verdicts, "condition", "own thought", "filler")
    rows = [effect_row("C1c", effect, model=model, mode="think", **values)]
    return rows + rate_rows("C1c", verdicts, ["condition", "mode"], model=model, **values)
