"""Ledger rows of claim C3: what `separability` finds, as far as it is defined for a model."""

from __future__ import annotations

from collections.abc import Sequence

from rimkit.ledger import effect_row
from rimkit.mechanism.separability import SPANS, Contrast, outside_and_inside, separated


def harm_row(effect: dict, *, model: str, **values) -> dict:
    """The ledger row that gives the verdict of C3a: `above_untrained` at the last prompt token, no-think mode."""
    return effect_row("C3a", effect, model=model, mode="no-think", **values)


def probe_rows(found: dict[tuple[str, str], Contrast], *, model: str, **values) -> list[dict]:
    """The ledger rows of C3a to C3c above shuffled labels, as far as the contrasts are defined.

    The whole claims speak of the places that the paper names: C3b of the empty think span, in no-think mode, C3c of the
    end of the request against the thought. Other places and modes have rows of their own; for C3a see `harm_row`.
    """
    rows = []

    def add(claim: str, effect: dict, mode: str, condition: str | None, control: str = "shuffled labels") -> None:
        part = {} if condition is None else {"condition": condition}
        rows.append(effect_row(claim, effect, model=model, mode=mode, control=control, **part, **values))

    claims = {"harm": "C3a", "outcome": "C3b"}
    for (what, mode), one in found.items():
        spans: Sequence[str] = ("im_end", "last") if what == "harm" else [s for s in SPANS[mode] if "thought" not in s]
        for span in filter(one.has, spans):
            whole = (what, mode, span) == ("outcome", "no-think", "empty")
            add(claims[what], separated(one, span), mode, None if whole else f"{mode}, {span}")
        if (what, mode) == ("outcome", "think") and one.has("thought"):
            for span in ("im_end", "last"):
                gap = outside_and_inside(one, span)
                add("C3c", gap, mode, None if span == "im_end" else f"{mode}, {span}", "inside the thought")
            start = separated(one, "thought_start")
            add("C3b", start, mode, "think, first token of the thought")
    return rows
