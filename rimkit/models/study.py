"""What a model under study is: weights, tokenizer and chat format, under one name.

It does not know where they came from (`rimkit.models.load`), nor how the inside is read
(`rimkit.models.activations`), except that a kind of model may read in a way of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rimkit.models import activations

if TYPE_CHECKING:
    from rimkit.models.chat import ChatFormat


@dataclass
class StudyModel:
    """A model under study.

    ``nn`` is the nnsight model (traces and interventions), ``hf`` the plain Hugging Face module
    inside it, ``chat`` the chat format (``chat.thinking`` says how it thinks), ``context`` the
    largest number of positions, ``pad_id`` the token that fills up batches, ``limits`` what was
    found to be too much for the memory, ``said`` the notes about it that were printed.
    """

    name: str
    nn: Any
    tokenizer: Any
    chat: ChatFormat
    context: int
    pad_id: int
    limits: dict[str, int] = field(default_factory=dict)
    said: set[str] = field(default_factory=set, repr=False)

    stream = activations.stream  # pooled internals, batch by batch; other kinds of models read elsewhere

    @classmethod
    def of(cls, name: str, nn, tokenizer, chat: ChatFormat, **more) -> StudyModel:
        """With the context and the filling token that configuration and tokenizer name."""
        config = nn._module.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else chat.stop_ids[0]
        return cls(name, nn, tokenizer, chat, int(context), pad_id, **more)

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
        """Whether the weights are not here, and only reads are traced where they are."""
        return False

    @property
    def tracing(self) -> dict:
        """What an nnsight trace of this model must be told about where it runs."""
        return {}

    @property
    def identity(self) -> dict:
        """How tables name it: ``model``, training ``seed`` (None for a model of your own), ``device``."""
        name, _, seed = self.name.partition(":")
        return {"model": name, "seed": int(seed) if seed else None, "device": self.device}

    @property
    def invented(self) -> bool:
        """Whether it speaks the invented language of the embedded models."""
        return getattr(self.tokenizer, "init_kwargs", {}).get("language") == "invented"

    def __repr__(self) -> str:
        return (
            f"StudyModel({self.name!r}, {self.device}, {self.dtype}, context {self.context}, "
            f"thinking: {self.chat.thinking})"
        )
