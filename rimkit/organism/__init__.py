"""The embedded models: an invented language, and the recipe that trains tiny transformers on it."""

from collections.abc import Iterable
from pathlib import Path


def template(name: str) -> str:
    """A text of the folder ``templates``: a model card, a README, the chat template."""
    return Path(__file__).with_name("templates").joinpath(name).read_text(encoding="utf-8")


def markdown(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (names, *rows)]
    return "\n".join([lines[0], "|---" * len(tuple(names)) + "|", *lines[1:]])
