"""From a name, a folder, a hub id or a model in memory to one model under study."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rimkit.errors import UserError, nearest
from rimkit.models.chat import ChatFormat
from rimkit.models.endpoint import connect, is_endpoint

if TYPE_CHECKING:
    import pandas as pd

EMBEDDED = re.compile(r"(?P<name>[\w.-]+?)(?::(?P<seed>\d+))?")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class StudyModel:
    """A model under study.

    ``nn`` is the nnsight model (traces and interventions), ``hf`` the plain Hugging Face module inside it,
    ``chat`` the chat format, ``context`` the largest number of positions, ``pad_id`` the token that fills
    up batches.
    """

    name: str
    nn: Any
    tokenizer: Any
    chat: ChatFormat
    context: int
    pad_id: int

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
    def invented(self) -> bool:
        """Whether it speaks the invented language of the embedded models, which the exact judge can read."""
        return getattr(self.tokenizer, "init_kwargs", {}).get("language") == "invented"

    def __repr__(self) -> str:
        return f"StudyModel({self.name!r}, {self.device}, {self.dtype}, context {self.context})"


def load(
    model, tokenizer=None, *, device: str | None = None, dtype=None, revision: str | None = None, think=True
) -> StudyModel:
    """The model under study, in evaluation mode, with sdpa attention (eager for architectures without it).

    ``model``: an embedded name (``"rim-mini"``; ``"rim-mini:1"`` is seed 1), a local folder, a hub id
    (``"owner/name"``, with an optional ``revision``), or a Hugging Face module in memory, which needs its
    ``tokenizer`` and stays where it is unless ``device`` or ``dtype`` is given. An embedded name goes
    before a folder of that name (write ``./name`` for the folder).

    ``device`` and ``dtype`` (``"float32"``, ``"bfloat16"``, ``"float16"``): see ``choose_device``.
    ``think=False`` accepts a model without a think mode. No code from a model repository is run.
    ``"endpoint:MODEL@http://host:port/v1"`` gives a `rimkit.models.endpoint.EndpointModel`: replies only.

    Raises ``UserError``: unknown name, folder without configuration or safetensors weights, hub not
    reachable, tokenizer without chat template, no think mode although ``think``.
    """
    if isinstance(model, StudyModel):
        return model
    if is_endpoint(model):
        return connect(model, tokenizer)
    dtype = _dtype_name(dtype)
    if isinstance(model, str | Path):
        name, source, offline = locate(model, revision)
        hf, tokenizer = _read(name, source, tokenizer, offline, revision, *_choose_here(device, dtype))
    else:
        if tokenizer is None:
            raise UserError("a model in memory needs its tokenizer: load(model, tokenizer)")
        name, hf = getattr(model.config, "_name_or_path", "") or type(model).__name__, _move(model, device, dtype)
    return _study(name, hf.eval(), tokenizer, think)


def choose_device(
    device: str | None, dtype: str | None, *, capability: tuple[int, int] | None, mps: bool
) -> tuple[str, str, str]:
    """``(device, dtype, note)`` for what was asked (None: choose) and what is there.

    ``capability``: of the NVIDIA GPU, None without one. The CPU computes in float32; a GPU in bfloat16 from
    capability 8 on and in float16 below (a T4 emulates bfloat16, slowly, while torch calls it supported);
    an Apple GPU is used only when asked for, because its results differ from the CPU's. A note is one line
    for the user.
    """
    note = ""
    if device is None:
        device = "cuda" if capability else "cpu"
        if mps and not capability:
            note = 'running on the CPU; ask for the Apple GPU with device="mps"'
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise UserError(f"unknown device {device!r}: use 'cpu', 'cuda' or 'mps'")
    there = {"cpu": True, "cuda": capability, "mps": mps}
    if not there[device.partition(":")[0]]:
        raise UserError(f"there is no device {device!r} here: leave device out to use the CPU")
    if dtype is None:
        on_gpu = "bfloat16" if capability and capability[0] >= 8 else "float16"
        dtype = on_gpu if device.startswith("cuda") else "float32"
    return device, dtype, note


def embedded_models() -> pd.DataFrame:
    """The models that come with the workbook: ``name, seed, path, parameters, mb`` (of the weights file)."""
    import pandas as pd

    rows = [(name, seed, str(path), *_size(path)) for (name, seed), path in sorted(_embedded().items())]
    return pd.DataFrame(rows, columns=["name", "seed", "path", "parameters", "mb"])


# -- where the weights are ---------------------------------------------------------------------------------


def _embedded() -> dict[tuple[str, int], Path]:
    from rimkit.paths import data_dir

    files = data_dir().glob("models/*/seed*/model.safetensors")
    return {(file.parts[-3], int(file.parts[-2].removeprefix("seed"))): file.parent for file in files}


def _size(folder: Path) -> tuple[int, float]:
    """Number of parameters and megabytes, from the header of the weights file."""
    from math import prod

    from safetensors import safe_open

    file = folder / "model.safetensors"
    with safe_open(file, framework="numpy") as weights:
        parameters = sum(prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    return parameters, round(file.stat().st_size / 1e6, 1)


def locate(model: str | Path, revision: str | None) -> tuple[str, str, bool]:
    """``(name, folder or hub id, whether it is all on this machine)``."""
    found = _locate_embedded(model) if isinstance(model, str) else None
    if found:
        return found
    folder = Path(model).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return folder.resolve().name, str(folder), True
    if isinstance(model, str) and HUB_ID.fullmatch(model) and not model.startswith("."):
        from huggingface_hub import try_to_load_from_cache

        return model, model, isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str)
    if isinstance(model, Path) or re.search(r"[/\\~]", model):
        raise UserError(f"there is no folder {str(model)!r}")
    names = sorted({name for name, _ in _embedded()})
    known = f"embedded: {', '.join(names) or 'none'}; or a folder, or a hub id owner/name"
    raise UserError(f"unknown model {model!r}{nearest(model, names)}; {known}")


def _locate_embedded(model: str) -> tuple[str, str, bool] | None:
    known, match = _embedded(), EMBEDDED.fullmatch(model)
    seeds = [seed for name, seed in sorted(known) if match and name == match["name"]]
    if not seeds:
        return None
    name, seed = match["name"], int(match["seed"] or 0)
    if seed not in seeds:
        raise UserError(f"{name} has no seed {seed}; it has {', '.join(map(str, seeds))}")
    return f"{name}:{seed}", str(known[name, seed]), True


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"the folder {str(folder)!r} has no config.json: it is not a model folder")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"the folder {str(folder)!r} has no weights (model.safetensors)")


# -- reading -----------------------------------------------------------------------------------------------


def _read(name: str, source: str, tokenizer, offline: bool, revision: str | None, device: str, dtype: str):
    """The Hugging Face module and its tokenizer; from the cache where that is complete, else from the hub."""
    from safetensors import SafetensorError

    on_hub = not Path(source).is_dir()
    for local in [True] * offline + [False] * on_hub:
        try:
            if not local:
                _check_hub(source, revision)
            return _from_pretrained(source, tokenizer, local, revision, device, dtype)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            if isinstance(error, UserError):
                raise
            failure = error
    reason = str(failure).strip().partition("\n")[0] or type(failure).__name__
    raise UserError(f"{name} could not be loaded: {reason}") from failure


def _check_hub(repo: str, revision: str | None) -> None:
    """Ask the hub once for the model; without this, no network means a minute of silent retries."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(repo, revision=revision, timeout=10)
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"the hub does not give access to {repo!r}: {reason}") from error
    except Exception as error:  # the hub's HTTP library, and so its errors, differ between versions
        raise UserError(
            f"{repo!r} is not on this machine and the hub cannot be reached: connect once, or give a folder"
        ) from error


def _from_pretrained(source: str, tokenizer, local: bool, revision: str | None, device: str, dtype: str):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"local_files_only": local, "revision": revision}
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
    settings = {"dtype": getattr(torch, dtype), "use_safetensors": True}  # sdpa, where the architecture has it
    with _quiet():
        hf, report = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **settings, **where)
    missing = sorted(report["missing_keys"])  # transformers would go on with random numbers in their place
    if missing:
        raise ValueError(f"its weights lack {len(missing)} tensor(s), among them {missing[0]}")
    return hf.to(device), tokenizer


@contextmanager
def _quiet():
    """Without the bar and the report that reading weights prints (downloads keep their bars)."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _study(name: str, hf, tokenizer, think: bool) -> StudyModel:
    from nnsight import TransformersModel

    from rimkit.models.internals import why_closed

    stop = hf.generation_config.eos_token_id if hf.can_generate() else None
    chat = ChatFormat(tokenizer, stop_ids=stop if isinstance(stop, list) else [stop])
    if think and not chat.supports_think:
        raise UserError(f"{name} has no think mode: {chat.reason}; load it with think=False for no-think mode only")
    if closed := why_closed(hf):
        print(f"{name}: {closed}; chapters 00 to 02 need only its replies")
    nn = TransformersModel(hf, tokenizer=tokenizer)
    config = hf.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else chat.stop_ids[0]
    return StudyModel(name, nn, tokenizer, chat, int(context), pad_id)


# -- device and dtype --------------------------------------------------------------------------------------


def _choose_here(device: str | None, dtype: str | None) -> tuple[str, str]:
    import torch

    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    mps = torch.backends.mps.is_available()
    device, dtype, note = choose_device(device, dtype, capability=capability, mps=mps)
    if note:
        print(note)
    return device, dtype


def _dtype_name(dtype) -> str | None:
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if name is not None and name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}: use {', '.join(DTYPES)}{nearest(name, DTYPES)}")
    return name


def _move(hf, device: str | None, dtype: str | None):
    import torch

    if device is not None:
        hf = hf.to(_choose_here(device, dtype)[0])
    return hf if dtype is None else hf.to(getattr(torch, dtype))
