"""Which chapters can leave the model to NDIF: those with a parameter ``remote``; what needs replies is left out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rimkit.errors import UserError
from rimkit.runs.parameters import declared_in

WHY = {
    "00": "it generates replies",
    "01": "it generates replies",
    "02": "it generates replies",
    "04": "it generates without heads",
    "05": "it fine-tunes",
    "06": "it generates without neurons",
    "07": "it fine-tunes",
    "08": "it runs no model",
    "10": "it runs other chapters",
}


def traced(notebooks: Iterable[Path], named: bool, model: str) -> list[Path]:
    """The chapters that run with the model on NDIF.

    ``named``: the user has named the chapters, and one that cannot run there is an error; else it is left out. Raises
    `UserError`, before anything runs, also for a model that NDIF cannot have and without a key.
    """
    from rimkit.models.remote import check_served

    chosen = []
    for notebook in notebooks:
        if "remote" in declared_in(notebook):
            chosen.append(notebook)
        elif named:
            why = WHY.get(notebook.stem[:2], "it declares no parameter 'remote'")
            raise UserError(
                f"{notebook.stem} cannot run remotely: {why}, and only reads of residuals, head outputs, neurons and "
                "logits are traced on NDIF; leave --remote out"
            )
    check_served(model)
    return chosen
