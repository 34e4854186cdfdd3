"""A model under study behind an endpoint: it gives replies, and none of what lies inside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rimkit.errors import UserError
from rimkit.models.chat import ChatFormat
from rimkit.models.client import Answer, Client, split_name

PREFIX = "endpoint:"


def is_endpoint(model: Any) -> bool:
    """Whether ``model`` is an `EndpointModel`, or the name of one (``"endpoint:MODEL@http://host:port/v1"``)."""
    return isinstance(model, EndpointModel) or (isinstance(model, str) and model.startswith(PREFIX))


@dataclass
class EndpointModel:
    """A model that a server runs: what `rimkit.load("endpoint:MODEL@http://host:port/v1")` gives.

    It stands wherever a model is only asked for replies (`rimkit.behavior.generation.generate` and all above it).
    Its inside (``hf``, ``nn``) does not exist here, and asking for it raises `UserError`. ``client`` holds
    address, limits and further settings of the requests. Forced thoughts need the ``tokenizer``, which is looked
    for under the model's own name unless one is given. ``kept`` holds the answers of a call that was
    interrupted, in memory only, so that the same call goes on from there.
    """

    name: str
    client: Client
    tokenizer_source: Any = None
    device: str = "endpoint"
    dtype: str = "unknown"
    kept: dict[str, Answer] = field(default_factory=dict, repr=False)

    @cached_property
    def tokenizer(self):
        """The tokenizer; raises `UserError` if there is none under the model's name or the one given."""
        return _read_tokenizer(self.tokenizer_source or self.client.model)

    @cached_property
    def chat(self) -> ChatFormat:
        return ChatFormat(self.tokenizer)

    @cached_property
    def invented(self) -> bool:
        """Whether it speaks the invented language: known where its tokenizer is given or its folder is here."""
        here = self.tokenizer_source is not None or Path(self.client.model).is_dir()
        return here and getattr(self.tokenizer, "init_kwargs", {}).get("language") == "invented"

    def _closed(self):
        raise UserError(
            f"{self.name} runs behind an endpoint, which gives replies but nothing from inside the model: probes, "
            "heads and neurons need a model that is loaded here (a folder or a hub id)"
        )

    hf = nn = context = pad_id = elsewhere = tracing = property(_closed)


def connect(model: str | EndpointModel, tokenizer=None, **limits) -> EndpointModel:
    """The model of ``"endpoint:MODEL@http://host:port/v1"``, after one question to the server whether it is there.

    ``tokenizer``: a tokenizer, an embedded name, a folder or a hub id; ``limits`` are those of `Client`.
    Raises `UserError`: no server, no key where one is needed, a key that is refused.
    """
    if isinstance(model, EndpointModel):
        return model
    name, url = split_name(model.removeprefix(PREFIX))
    client = Client(name, url, **{"concurrency": 16, **limits})
    client.models()
    # "7b:latest" would read as a training seed, and a folder's path belongs to one machine
    shown = Path(name).name if Path(name).is_absolute() else name
    return EndpointModel(shown.replace(":", "-"), client, tokenizer)


def _read_tokenizer(source):
    if not isinstance(source, str | Path):
        return source
    from transformers import AutoTokenizer

    from rimkit.models.loading import locate

    try:
        _, folder, local = locate(source, None)
        return AutoTokenizer.from_pretrained(folder, local_files_only=local)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise UserError(
        f"the tokenizer of {source!r} is not here ({reason}): forced thoughts need it, as rimkit.load(model, "
        "tokenizer=FOLDER_OR_HUB_ID); what looks inside a model needs one that is loaded here, not an endpoint"
    )
