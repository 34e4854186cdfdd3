"""Claim C1 (Table 1 of the paper): does thinking raise misalignment, and is it the thinking or the mode?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from rimkit.behavior.measure import difference, judged
from rimkit.behavior.rates import rates
from rimkit.ledger import effect_row, rate_rows
from rimkit.models.loading import StudyModel
from rimkit.observation import thoughts


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


def decided(verdicts: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Verdicts by what the thought decided: rates of ``refused, misaligned, misread`` per ``by`` and ``decision``.

    For thoughts in the invented language (`thoughts.decision`); the thoughts of real models count as "open".
    """
    table = verdicts.assign(decision=verdicts["thought"].map(thoughts.decision))
    return rates(table, by=[*by, "decision"], metrics=["refused", "misaligned", "misread"])


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
