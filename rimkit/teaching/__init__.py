"""What chapters show to a learner: figures, exercises, predictions and explorers.

``from rimkit.teaching import setup`` and ``start()`` is the one line of set-up of every chapter.
"""

from __future__ import annotations

from importlib import import_module

_ROOMS = {
    "figures": (
        "rate_plot",
        "dose_plot",
        "difference_plot",
        "show",
        "png",
        "change_plot",
        "agreement_plot",
        "heat_maps",
    ),
    "exercises": ("Exercise", "predict"),
    "setup": ("start", "results", "identity", "save_to_drive"),
    "tables": ("rate_table", "effect_table", "seed_table", "sentence", "examples"),
    "widgets": ("explorer", "tokens_html", "weighted_tokens_html"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:  # lazily: a chapter without widgets needs no widgets
        return getattr(import_module(f"rimkit.teaching.{_HOME[name]}"), name)
    raise AttributeError(f"module 'rimkit.teaching' has no attribute {name!r}")
