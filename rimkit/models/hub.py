"""Which model a name means: an embedded one, a folder, or one of the hub; and what is asked of it after a '+'.

What the hub refuses, and what is on this machine without it: each failure in one line that says what to do.

Files of the Hugging Face hub: what is on this machine, how large the rest is, and failures in one line.

A folder named by the environment variable ``RIMKIT_DATASETS`` goes before the hub: a local mirror that holds
``<owner>/<name>/<file>`` for each data set, for rooms without network and for sets that came another way.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rimkit.data import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd




# -- models.locating ----------
EMBEDDED = re.compile(r"(?P<name>[\w.-]+?)(?::(?P<seed>\d+))?")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WITH_OPTIONS = re.compile(r"(?P<model>[^+]+)(?P<options>(?:\+\w+)+)(?P<seed>:\d+)?")
NOISE = "noise-mini"  # random weights: the negative control
# Controls, which no grid counts among the models: noise, and models in which what a method should find was planted.
CONTROLS = (NOISE, "planted-base", "planted-shared", "planted-disjoint")
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

    The model organisms; with ``noise`` also the controls (`CONTROLS`).
    """
    import pandas as pd

    kept = {key: path for key, path in sorted(_embedded().items()) if noise or key[0] not in CONTROLS}
    rows = [(name, seed, str(path), *_size(path)) for (name, seed), path in kept.items()]
    return pd.DataFrame(rows, columns=["name", "seed", "path", "parameters", "mb"])


def _embedded() -> dict[tuple[str, int], Path]:
    from rimkit.data import data_dir

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


# -- models.access ----------
SHOWN = 5  # names of cached models in an error


def check_hub(repo: str, revision: str | None) -> None:
    """Ask the hub once for a model; without this, no network means a minute of silent retries.

    Raises ``UserError``: no such model or revision, no access to it, or the hub is out of reach.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(repo, revision=revision, timeout=10)
    except Exception as error:  # the hub's HTTP library, and so its errors, differ between versions
        raise UserError(refusal(repo, revision, error) or _out_of_reach(repo, revision)) from error


def refusal(repo: str, revision: str | None, error: BaseException) -> str:
    """What the hub said no to, if some cause of ``error`` is an answer of the hub; otherwise an empty string."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for cause in _causes(error):
        if isinstance(cause, GatedRepoError):
            return (
                f"{repo!r} is gated: accept its terms on https://huggingface.co/{repo}, then log in with "
                "'hf auth login' (or set HF_TOKEN)"
            )
        if isinstance(cause, RevisionNotFoundError):
            return f"{repo!r} has no revision {revision!r} on the hub: leave it out for the newest one"
        if isinstance(cause, RepositoryNotFoundError):
            return f"the hub has no model {repo!r} that you may see: check the name, or log in with 'hf auth login'"
        if isinstance(cause, HfHubHTTPError):
            return f"the hub does not give access to {repo!r}: {str(cause).strip().splitlines()[-1]}"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _out_of_reach(repo: str, revision: str | None) -> str:
    from huggingface_hub import constants

    what = f"{repo!r} in revision {revision!r}" if revision else repr(repo)
    why = " (switched off by HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    return (
        f"{what} is not complete on this machine and the hub cannot be reached{why}: run 'rimkit fetch {repo}' where "
        f"there is a network, or give a folder (in the cache: {_access_cached(repo)})"
    )


def _access_cached(repo: str) -> str:
    """The revisions of a model that are in the hub's cache, or else the models that are."""
    from huggingface_hub import scan_cache_dir

    try:
        models = {item.repo_id: item for item in scan_cache_dir().repos if item.repo_type == "model"}
    except Exception:  # no cache, or a damaged one, must not hide what is being said
        return "nothing"
    if repo in models:
        revisions = models[repo].revisions
        names = sorted({name for item in revisions for name in (*item.refs, item.commit_hash[:8])})
        return f"{repo} in revision {', '.join(names)}" if names else "parts of it"
    names = sorted(models)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "no models"


# -- behavior.hub ----------
MIRROR = "RIMKIT_DATASETS"
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
NOT_OF_A_MODEL = ("*/*", "consolidated*")  # other formats of the same weights
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Source:
    """What to get: a ``kind`` ("dataset" or "model") of repository, its ``revision``, and files or patterns."""

    repo: str
    kind: str
    revision: str | None
    files: tuple[str, ...] = MODEL_FILES

    @property
    def ignored(self) -> tuple[str, ...]:
        return NOT_OF_A_MODEL if self.kind == "model" else ()


def on_this_machine(source: Source) -> Path | None:
    """The folder that holds all files, in the mirror or in the cache of the hub; None if one is missing."""
    if source.kind == "model":
        return _cached_model(source)
    return mirrored(source) or _cached(source, source.files)


def mirrored(source: Source) -> Path | None:
    """The folder of a data set in the local mirror, whose revision nobody knows; None if a file is missing."""
    mirror = os.environ.get(MIRROR)
    folder = Path(mirror).expanduser() / source.repo if mirror else None
    return folder if folder and all((folder / file).is_file() for file in source.files) else None


def download(source: Source) -> Path:
    """Get what is missing, with a progress bar, and return the folder; raises `UserError` as `failures` says."""
    from huggingface_hub import HfApi, snapshot_download

    with failures(source):
        # Ask once and shortly: without this, no network means a minute of silent retries.
        HfApi().repo_info(source.repo, repo_type=source.kind, revision=source.revision, timeout=10)
        folder = Path(snapshot_download(**_arguments(source)))
    missing = [file for file in source.files if source.kind == "dataset" and not (folder / file).is_file()]
    if missing:
        where = f" at revision '{source.revision}'" if source.revision else ""
        raise UserError(f"{source.repo} has no file {', '.join(missing)}{where}")
    return folder


def megabytes_to_get(source: Source) -> float:
    """What a download would fetch, in MB; raises `UserError` as `failures` says."""
    from huggingface_hub import HfApi, snapshot_download

    with failures(source):
        HfApi().repo_info(source.repo, repo_type=source.kind, revision=source.revision, timeout=10)
        files = snapshot_download(**_arguments(source), dry_run=True)
    return sum(file.file_size for file in files if file.will_download) / 1e6


def megabytes(folder: Path) -> float:
    """What a folder holds, links of the cache followed."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _arguments(source: Source) -> dict:
    files = {"allow_patterns": list(source.files), "ignore_patterns": list(source.ignored) or None}
    return {"repo_id": source.repo, "repo_type": source.kind, "revision": source.revision, **files}


def _cached(source: Source, files: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    folder = None
    for file in files:
        path = try_to_load_from_cache(source.repo, file, revision=source.revision, repo_type=source.kind)
        if not isinstance(path, str):
            return None
        folder = Path(path.removesuffix(str(Path(file))))
    return folder


def _cached_model(source: Source) -> Path | None:
    """The cached folder of a model with all of its weights, however many files they are split into."""
    folder = _cached(source, ("config.json",))
    if folder is None:
        return None
    if not (folder / INDEX).is_file():
        return folder if any(folder.glob("*.safetensors")) else None
    parts = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    return folder if all((folder / part).is_file() for part in parts) else None


@contextmanager
def failures(source: Source) -> Iterator[None]:
    """Every failure of the hub as a `UserError` of one line that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever it is, the others of a list go on
        raise UserError(_explain(error, source)) from error


def _explain(error: Exception, source: Source) -> str:
    from huggingface_hub import constants, errors

    kind = "data set" if source.kind == "dataset" else source.kind
    page = f"{constants.ENDPOINT}/{'datasets/' if source.kind == 'dataset' else ''}{source.repo}"
    if isinstance(error, errors.GatedRepoError):  # before RepositoryNotFoundError, of which it is one
        return f"{source.repo} asks for consent first: open {page}, accept its conditions, then run 'hf auth login'"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{source.repo} has no revision '{source.revision}' (see {page}/commits/main)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no {kind} '{source.repo}' (or it is private: run 'hf auth login')"
    # the hub's HTTP library, and so its errors, differ between versions
    from_http = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests")
    if from_http or isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | ConnectionError):
        return _offline(source)
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", "an error")
        return f"the hub answers {status} for {source.repo}: try again later"
    if isinstance(error, errors.HFValidationError):
        return f"'{source.repo}' is no name of a {kind}: write owner/name"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{source.repo} cannot be stored in {constants.HF_HUB_CACHE} ({error.strerror})"
    reason = (str(error).strip().splitlines() or [""])[0]
    return f"{source.repo} could not be fetched ({type(error).__name__}: {reason})"


def _offline(source: Source) -> str:
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
    mirror = f" (or set {MIRROR} to a folder that holds {source.repo})" if source.kind == "dataset" else ""
    return (
        f"{source.repo} is not on this machine and {why}: run 'rimkit fetch' once with network "
        f"and keep {constants.HF_HUB_CACHE}{mirror}"
    )
