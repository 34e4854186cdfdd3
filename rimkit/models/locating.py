"""Which model a name means: an embedded one, a folder, or one of the hub; and what is asked of it after a '+'."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rimkit.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd

EMBEDDED = re.compile(r"(?P<name>[\w.-]+?)(?::(?P<seed>\d+))?")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WITH_OPTIONS = re.compile(r"(?P<model>[^+]+)(?P<options>(?:\+\w+)+)(?P<seed>:\d+)?")
NOISE = "noise-mini"  # random weights: the negative control, which no grid counts among the models
OPTIONS = {"instruct": {"think": "instruct"}, "soft": {"think": "soft"}, "4bit": {"quantize": "4bit"}}


def options_of(model: str | Path) -> tuple[str | Path, dict[str, str]]:
    """``(model, arguments of load)`` for a name with options: ``"owner/name+instruct+4bit"``.

    So that everything that takes a model's name, the command line and the chapters among them, can say how it is to be
    loaded. Raises ``UserError`` for an unknown option; a folder of exactly this name goes before options.
    """
    match = WITH_OPTIONS.fullmatch(model) if isinstance(model, str) else None
    if not match or Path(model).expanduser().is_dir():
        return model, {}
    given = {}
    for word in match["options"].split("+")[1:]:
        if word not in OPTIONS:
            known = ", ".join(f"+{name}" for name in OPTIONS)
            raise UserError(f"unknown option '+{word}' in the model '{model}': use {known}{nearest(word, OPTIONS)}")
        given |= OPTIONS[word]
    return match["model"] + (match["seed"] or ""), given


def with_options(name: str, think: bool | str = True, quantize: str | None = None) -> str:
    """A model's name with the options it was loaded with, which tables and ledger rows show."""
    base, colon, seed = name.partition(":")
    words = [word for word in (think if isinstance(think, str) else None, quantize) if word]
    return "+".join([base, *words]) + colon + seed


def embedded_models(noise: bool = False) -> pd.DataFrame:
    """The models that come with the workbook: ``name, seed, path, parameters, mb`` (of the weights file).

    The trained ones; with ``noise`` also the negative control of random weights.
    """
    import pandas as pd

    kept = {key: path for key, path in sorted(_embedded().items()) if noise or key[0] != NOISE}
    rows = [(name, seed, str(path), *_size(path)) for (name, seed), path in kept.items()]
    return pd.DataFrame(rows, columns=["name", "seed", "path", "parameters", "mb"])


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


def locate(model: str | Path, revision: str | None = None, weights: bool = True) -> tuple[str, str, bool]:
    """``(name, folder or hub id, whether it is all on this machine)``; without ``weights``, a configuration will do.

    Raises ``UserError`` for an unknown name, a folder that holds no model, and a revision of anything but a hub id.
    """
    found = _locate_embedded(model) if isinstance(model, str) else None
    folder = Path(model).expanduser()
    if found is None and folder.is_dir():
        _check_folder(folder, weights)
        found = folder.resolve().name, str(folder), True
    if found:
        if revision is not None:
            raise UserError(f"{found[0]} is a folder and has no revisions: leave revision={revision!r} out")
        return found
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


def _check_folder(folder: Path, weights: bool) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"the folder {str(folder)!r} has no config.json: it is not a model folder")
    if weights and not any(folder.glob("*.safetensors")):
        raise UserError(f"the folder {str(folder)!r} has no weights (model.safetensors)")
