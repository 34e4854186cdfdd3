"""Files of the Hugging Face hub: what is on this machine, how large the rest is, and failures in one line.

A folder named by the environment variable ``RIMKIT_DATASETS`` goes before the hub: a local mirror that holds
``<owner>/<name>/<file>`` for each data set, for rooms without network and for sets that came another way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rimkit.errors import UserError

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
