"""Where the data and the chapters of the workbook lie."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_dir() -> Path:
    """The folder of models, prompt sets and claims."""
    return _resource("_data", "data")


def chapters_dir() -> Path:
    """The folder of the chapter notebooks, as shipped."""
    return _resource("_chapters", "chapters")


def _resource(in_wheel: str, in_clone: str) -> Path:
    """``rimkit/<in_wheel>`` of the wheel, otherwise ``<in_clone>`` at the root of the repository."""
    packaged = PACKAGE / in_wheel
    return packaged if packaged.is_dir() else PACKAGE.parent / in_clone
