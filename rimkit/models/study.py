"""What a model under study is: weights, tokenizer and chat format, under one name.

It does not know where they came from (`rimkit.models.load`), nor how the inside is read
(`rimkit.models.activations`), except that a kind of model may read in a way of its own.
"""

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar, Self

from torch import uint8

from rimkit.models import activations
from rimkit.models.chat import ChatFormat


class Named:
    """What a model that is loaded and one that is served have in common: ``name, device, said``."""

    @property
    def identity(self) -> dict:
        """``model``, training ``seed`` (None for a model of your own) and ``device``."""
        name, _, seed = self.name.partition(":")
        return {"model": name, "seed": int(seed) if seed else None, "device": self.device}

    @property
    def language(self) -> str:
        """The language whose forms an exact judge reads: "invented", "bridge", or ""."""
        return getattr(self.tokenizer, "init_kwargs", {}).get("language", "")

    @property
    def invented(self) -> bool:
        """Whether it speaks the invented language of the embedded models."""
        return self.language == "invented"

    @property
    def asked_in(self) -> str:
        """The language of its prompts and openings: "invented" or "english"."""
        return "invented" if self.invented else "english"

    def say(self, note: str, about: str = "") -> None:
        """Print a note about this model, once (``about``: once about this)."""
        if (about or note) not in self.said:
            self.said.add(about or note)
            print(f"{self.name}: {note}")


def context_of(config, tokenizer) -> int:
    """The largest number of positions, as the configuration or else the tokenizer says."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length)


@dataclass
class StudyModel(Named):
    """A model under study. ``nn`` is the nnsight model (traces and interventions), ``hf`` the plain
    Hugging Face module inside it, ``chat`` the chat format, ``context`` the largest number of
    positions, ``pad_id`` what fills up batches, ``limits`` what was too much for the memory,
    ``said`` the notes that were printed, ``room`` the length of replies that was suggested.
    ``elsewhere``: only reads are traced, where its weights are, with ``tracing`` told."""

    name: str
    nn: Any
    tokenizer: Any
    chat: ChatFormat
    context: int
    pad_id: int
    limits: dict[str, int] = field(default_factory=dict)
    said: set[str] = field(default_factory=set, repr=False)
    room: int = 0

    elsewhere: ClassVar[bool] = False
    tracing: ClassVar[dict] = {}
    stream = activations.stream  # pooled internals, batch by batch; other kinds read elsewhere

    @classmethod
    def of(cls, name: str, nn, tokenizer, chat: ChatFormat, **more) -> Self:
        """With the context and the filling token that configuration and tokenizer name."""
        context = context_of(nn._module.config, tokenizer)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else chat.stop_ids[0]
        return cls(name, nn, tokenizer, chat, context, pad_id, **more)

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

    def fingerprint(self) -> str:
        """A hash of all of its weights as they are now."""
        digest = sha256()
        for name, weight in self.hf.state_dict().items():
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(uint8).numpy())
        return digest.hexdigest()

    def __repr__(self) -> str:
        place = f"{self.device}, {self.dtype}, context {self.context}"
        return f"StudyModel({self.name!r}, {place}, thinking: {self.chat.thinking})"
