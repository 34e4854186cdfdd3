"""models.study"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rimkit.models.chat import ChatFormat


@dataclass
class StudyModel:
    """A model under study.

    ``nn`` is the nnsight model (traces and interventions), ``hf`` the plain Hugging Face module inside it,
    ``chat`` the chat format (``chat.thinking`` says how it thinks), ``context`` the largest number of positions,
    ``pad_id`` the token that fills up batches, ``limits`` what was found to be too much for the memory.
    """

    name: str
    nn: Any
    tokenizer: Any
    chat: ChatFormat
    context: int
    pad_id: int
    limits: dict[str, int] = field(default_factory=dict)

    @property
    def hf(self):
        """The plain Hugging Face module."""
        return self.nn._module

    @property
    def device(self) -> str:
        return str(self.hf.device)

    @property
    def dtype(self) -> str:
        return str(self.hf.dtype).removeprefix("torch.")

    @property
    def elsewhere(self) -> bool:
        """Whether the weights are not here, and only reads are traced where they are (`rimkit.models.ndif`)."""
        return False

    @property
    def tracing(self) -> dict:
        """What an nnsight trace of this model must be told about where it runs."""
        return {}

    @property
    def invented(self) -> bool:
        """Whether it speaks the invented language of the embedded models, which the exact judge can read."""
        return getattr(self.tokenizer, "init_kwargs", {}).get("language") == "invented"

    def __repr__(self) -> str:
        return (
            f"StudyModel({self.name!r}, {self.device}, {self.dtype}, context {self.context}, "
            f"thinking: {self.chat.thinking})"
        )
