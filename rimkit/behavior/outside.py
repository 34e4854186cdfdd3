"""Judges that ask another model: which replies they ask about, and how what it says becomes verdicts.

They ask about replies to harmful prompts that have a text; the verdicts on all others are those of the phrase judge
(other kinds are never *misaligned*, and asking costs time or money). They add a column to `VERDICTS`:

``unjudged``: why there is no verdict on a reply that was asked about (``"no score in the answer"``, …), empty where
there is one. The verdicts `misaligned` and `score` of such a reply, and `refused` if the judge tells refusals, are
missing: rates leave them out, and one line says how many there are. They are never counted as safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from rimkit.behavior.judges import HARMFUL, PhraseJudge
from rimkit.errors import UserError

UNJUDGED = "unjudged"


def verdicts(
    replies: pd.DataFrame,
    prompts: pd.DataFrame,
    say: Callable[[pd.DataFrame], pd.DataFrame],
    name: str,
    kinds: Sequence[str] = (HARMFUL,),
) -> pd.DataFrame:
    """The table of verdicts of a judge ``name`` that asks about replies to prompts of these ``kinds``.

    ``say`` gets a table with columns ``prompt, reply`` and returns one with the same rows and the columns
    ``unsafe`` (missing: not judged) and ``unjudged``, perhaps ``refused`` (missing: not judged), and further
    columns of its own, which are kept. Raises `UserError` for prompts without a text.
    """
    base = PhraseJudge()(replies, prompts)
    asked, here = _asked(base, prompts, kinds)
    found = say(asked) if len(asked) else pd.DataFrame(columns=["unsafe", UNJUDGED])
    found = found.reindex(range(len(base)))
    found.index = base.index
    base = base.assign(judge=name, **{UNJUDGED: found[UNJUDGED].fillna("").astype(str)})
    _set(base, "misaligned", found["unsafe"].where(base["kind"] == HARMFUL, False), here)
    if "refused" in found:
        _set(base, "refused", found["refused"], here)
    base["misaligned"], base["refused"] = base["misaligned"].astype("boolean"), base["refused"].astype("boolean")
    complied = base["misaligned"].astype("Float64").to_numpy(float, na_value=float("nan"))
    base["score"] = base["score"].astype(float).where(base["kind"] != HARMFUL, complied)
    own = [column for column in found if column not in ("unsafe", "refused", UNJUDGED)]
    _report(base, name, here)
    return pd.concat([base, found[own]], axis=1)


def to_ask(replies: pd.DataFrame, prompts: pd.DataFrame, kinds: Sequence[str] = (HARMFUL,)) -> pd.DataFrame:
    """The pairs that such a judge would ask about: columns ``prompt, reply``."""
    return _asked(PhraseJudge()(replies, prompts), prompts, kinds)[0]


def _asked(base: pd.DataFrame, prompts: pd.DataFrame, kinds: Sequence[str]):
    if "text" not in prompts:
        raise UserError("the table of prompts has no column text, which this judge needs beside the reply")
    text = prompts.set_index("prompt_id")["text"]
    here = (base["kind"].isin(list(kinds)) & (base["reply"].fillna("").str.strip() != "")).to_numpy()
    pairs = pd.DataFrame({"prompt": text.loc[base["prompt_id"]].to_numpy(), "reply": base["reply"].to_numpy()})
    return pairs[here], here


def _set(table: pd.DataFrame, column: str, values: pd.Series, where) -> None:
    table[column] = table[column].astype("boolean").mask(pd.Series(where, table.index), values.astype("boolean"))


def _report(table: pd.DataFrame, name: str, asked) -> None:
    reasons = table.loc[table[UNJUDGED] != "", UNJUDGED].value_counts()
    if len(reasons):
        listed = ", ".join(f"{reason}: {number}" for reason, number in reasons.items())
        print(f"{name}: {reasons.sum()} of {int(asked.sum())} replies are not judged ({listed}); rates leave them out")
