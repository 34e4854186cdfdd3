"""Ledger rows of claim C3: what `separability` finds, as far as it is defined for a model."""

from __future__ import annotations

from collections.abc import Sequence

from rimkit.errors import UserError
from rimkit.ledger import effect_row
from rimkit.mechanism.separability import SPANS, Contrast, above_untrained, outside_and_inside, separated
from rimkit.models.loading import StudyModel


def harm_rows(study: StudyModel, found: dict[tuple[str, str], Contrast], *, model: str, **values) -> list[dict]:
    """The ledger row that gives the verdict of C3a: `above_untrained` at the last prompt token, no-think mode.

    None where that is undefined, or where random weights do not fit beside the model, which is then said.
    """
    if ("harm", "no-think") not in found:
        return []
    try:
        effect = above_untrained(study, found["harm", "no-think"])
    except UserError as error:
        print(f"C3a is left out: {error}")
        return []
    return [effect_row("C3a", effect, model=model, mode="no-think", **values)]


def probe_rows(found: dict[tuple[str, str], Contrast], *, model: str, **values) -> list[dict]:
    """The ledger rows of C3a to C3c above shuffled labels, as far as the contrasts are defined.

    The whole claims speak of the places that the paper names: C3b of the empty think span, in no-think mode, C3c of the
    end of the request against the thought. Other places and modes have rows of their own; for C3a see `harm_rows`.
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
