"""Names of models and data sets: what they mean, what is here, how it is read, or refused.

Everything is read from this machine: a folder, or the cache of the hub's library, where it is put
first if it is missing. Code from a model's folder is never run, and weights are safetensors. A
folder named by the environment variable ``RIMKIT_DATASETS`` goes before the hub: a local mirror
that holds ``<owner>/<name>/<file>`` for each data set, for rooms without network.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import huggingface_hub
from huggingface_hub import constants, errors
from safetensors import SafetensorError, safe_open

from rimkit.data import UserError, data_dir, nearest, one_line
from rimkit.models import gguf

if TYPE_CHECKING:
    import pandas as pd

EMBEDDED = re.compile(r"(?P<name>[\w.-]+?)(?::(?P<seed>\d+))?")
HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+")
WITH_OPTIONS = re.compile(r"(?P<model>[^+]+)(?P<options>(?:\+\w+)+)(?P<seed>:\d+)?")
NOISE = "noise-mini"  # random weights: the negative control
# Controls, which no grid counts among the models: noise, and what a method should find, planted.
CONTROLS = (NOISE, "planted-base", "planted-shared", "planted-disjoint")
OPTIONS = {"4bit": {"quantize": "4bit"}}
OPTIONS |= {way: {"think": way} for way in ("instruct", "soft", "detailed")}
MIRROR = "RIMKIT_DATASETS"
DESCRIPTION = ("*.json", "*.jinja", "*.txt", "*.model")  # files of a model besides its weights
MODEL_FILES = (*DESCRIPTION, "*.safetensors")
NOT_OF_A_MODEL = ("*/*", "consolidated*")  # other formats of the same weights
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER, ADAPTED = "adapter_config.json", "adapter_model.safetensors"
# Tensors that a text model may leave unused: old buffers, and parts that only see or hear.
UNUSED = re.compile(
    r"(rotary_emb\.inv_freq|masked_bias|position_ids|(attn|attention)\.bias)$"
    r"|(^|\.)(visual|vision_tower|vision_model|audio_tower|multi_modal_projector|mtp)\."
)
NAMED = 5  # names of cached models in an error


class Located(NamedTuple):
    """Where a model is: its ``name`` in tables, and a folder or a hub id with its revision; for an
    adapter those of its base, and the adapter's own folder."""

    name: str
    source: str
    revision: str | None = None
    adapter: str = ""

    @property
    def in_folder(self) -> bool:
        return Path(self.source).is_dir()


@dataclass(frozen=True)
class Source:
    """A repository of the hub; ``kind``: "dataset" or "model", ``files``: names or patterns."""

    repo: str
    kind: str
    revision: str | None
    files: tuple[str, ...] = MODEL_FILES


def options_of(model: str | Path) -> tuple[str | Path, dict[str, str]]:
    """``(model, arguments of load)`` for a name with options: ``"owner/name+instruct+4bit"``.
    Raises ``UserError`` for an unknown option. A folder of this name goes first."""
    match = WITH_OPTIONS.fullmatch(model) if isinstance(model, str) else None
    if not match or Path(os.path.expanduser(model)).is_dir():
        return model, {}
    given = {}
    for word in match["options"].split("+")[1:]:
        if word not in OPTIONS:
            known = ", ".join(f"+{name}" for name in OPTIONS) + nearest(word, OPTIONS)
            raise UserError(f"unknown option '+{word}' in the model '{model}': use {known}")
        given |= OPTIONS[word]
    return match["model"] + (match["seed"] or ""), given


def with_options(name: str, think: bool | str = True, quantize: str | None = None) -> str:
    """A model's name with the options it was loaded with, as tables and ledger rows show it."""
    base, colon, seed = name.partition(":")
    words = [word for word in (think if isinstance(think, str) else None, quantize) if word]
    return "+".join([base, *words]) + colon + seed


def embedded_models(noise: bool = False, recorded: bool = False, adapters: bool = False) -> pd.DataFrame:
    """The model organisms that come with the workbook: ``name, seed, path, parameters, mb``; with
    ``noise`` also `CONTROLS`, with ``recorded`` also seeds without weights (and without a path)."""
    import pandas as pd

    rows = []
    for (name, seed), path in sorted(_embedded().items()):
        file = path / (SINGLE if (path / SINGLE).is_file() else ADAPTED)
        if (file.name == ADAPTED and not adapters) or (name in CONTROLS and not noise):
            continue
        with safe_open(file, framework="numpy") as weights:
            parameters = sum(prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
        rows.append((name, seed, str(path), parameters, round(file.stat().st_size / 1e6, 1)))
    for name, _, seed in (one.partition(":") for one in (recorded_models() if recorded else ())):
        rows.append((name, int(seed), "", 0, 0.0))
    return pd.DataFrame(sorted(rows), columns=["name", "seed", "path", "parameters", "mb"])


def _embedded() -> dict[tuple[str, int], Path]:
    folders = [file.parent for one in (SINGLE, ADAPTED) for file in data_dir().glob(f"models/*/seed*/{one}")]
    return {(path.parent.name, int(path.name.removeprefix("seed"))): path for path in folders}


def recorded_models() -> dict[str, str]:
    """Seeds that come as card and rows, without weights: "safe-mini:4" to its `identity`."""
    files = (file for file in data_dir().glob("models/*/seed*/training.json") if not (file.parent / SINGLE).is_file())
    found = {file.parent: json.loads(file.read_text("utf-8")).get("identity") for file in files}
    return {f"{at.parent.name}:{at.name.removeprefix('seed')}": hashed for at, hashed in found.items() if hashed}


def without_weights() -> str:
    """Which seeds were measured and come without weights, in a sentence."""
    names = sorted(recorded_models())
    return f"{', '.join(names)} were measured; their weights are not shipped." if names else ""


def locate(model: str | Path, revision: str | None = None, weights: bool = True) -> Located:
    """Where a model is; without ``weights`` a folder with a configuration will do. Asks no hub.
    Raises ``UserError`` for an unknown name, a folder without a model, and a folder's revision."""
    known, folder = _embedded(), Path(os.path.expanduser(model))
    match = EMBEDDED.fullmatch(model) if isinstance(model, str) else None
    seeds = [seed for name, seed in sorted(known) if match and name == match["name"]]
    if seeds:
        name, seed = match["name"], int(match["seed"] or 0)
        if seed not in seeds:
            recipe = f"; `rimkit organism train {name} --seed {seed} --out DIR` makes it"
            makes = recipe if f"{name}:{seed}" in recorded_models() else ""
            raise UserError(f"{name} has no weights of seed {seed}; it has {', '.join(map(str, seeds))}{makes}")
        found = Located(f"{name}:{seed}", str(known[name, seed]))
        found = found if (known[name, seed] / SINGLE).is_file() else _on_base(found)
    elif file := gguf.file_of(model):
        with _quiet():
            found = Located(model if model in gguf.PACKAGED else file.stem.replace(":", "-"), str(gguf.folder_of(file)))
    elif folder.is_dir():
        if (folder / ADAPTED).is_file() and not (folder / "config.json").is_file():
            check_unmixed(folder)
            return _on_base(Located(folder.resolve().name.replace(":", "-"), str(folder)))
        if not (folder / "config.json").is_file():
            raise UserError(f"the folder {str(folder)!r} has no config.json: it is not a model folder")
        if weights and not any(folder.glob("*.safetensors")):
            raise UserError(f"the folder {str(folder)!r} has no weights (model.safetensors)")
        found = Located(folder.resolve().name.replace(":", "-"), str(folder))  # no training seed
    elif isinstance(model, str) and HUB_ID.fullmatch(model) and not model.endswith(".gguf"):
        return Located(model, model, revision)
    elif isinstance(model, Path) or re.search(r"[/\\~]|\.gguf$", model):
        raise UserError(f"there is no {'file' if str(model).endswith('.gguf') else 'folder'} {str(model)!r}")
    else:
        names = sorted({name for name, _ in known} | gguf.PACKAGED.keys())
        others = f"embedded: {', '.join(names) or 'none'}; or a folder, or a hub id owner/name"
        raise UserError(f"unknown model {model!r}{nearest(model, names)}; {others}")
    if revision is not None:
        raise UserError(f"{found.name} is a folder and has no revisions: leave {revision=} out")
    return found


def _on_base(adapter: Located) -> Located:
    """An adapter, found in its folder, as its base with it."""
    try:
        base = json.loads((Path(adapter.source) / ADAPTER).read_text("utf-8"))["base_model_name_or_path"]
        if (Path(base) / ADAPTER).is_file():
            raise UserError("its base is an adapter, too")
        found = locate(base)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, UserError) else f"no readable {ADAPTER} names its base"
        raise UserError(f"the adapter {adapter.name} cannot be used: {reason}") from None
    return Located(adapter.name, found.source, found.revision, adapter.source)


def shown_name(found: Located, think: bool | str = True, quantize: str | None = None) -> str:
    """A model's name in every table: of a folder of one's own its last name and a hash."""
    own = found.in_folder and ":" not in found.name and found.name not in gguf.PACKAGED  # others may be called so
    mark = f"-{identity(found.adapter or found.source)[:6]}" if own else ""
    return with_options(found.name + mark, think, quantize)


def identity(model: str | Path) -> str:
    """A hash of weights, tokenizer and configuration; empty if not here. ``model``: as of `load`,
    without options, or an adapter's or checkpoint's folder. `UserError` for damaged weights."""
    model = options_of(model or "no/model")[0]
    with suppress(UserError):
        model = gguf.folder_of(file) if (file := gguf.file_of(model)) else model
    match, folder = EMBEDDED.fullmatch(str(model)), Path(os.path.expanduser(model))
    if str(model) in (recorded := recorded_models()):
        return recorded[str(model)]
    folder = _embedded().get((match["name"], int(match["seed"] or 0)) if match else None, folder)
    if not folder.is_dir() and HUB_ID.fullmatch(str(model)):
        source, kept = Source(str(model), "model", None), []
        with suppress(ValueError):  # no name that the hub would take
            kept = [_cached(source, (file,)) for file in ("config.json", ADAPTER)]
        return next((place.name for place in kept if place), "")  # a commit
    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
    for file in files:
        try:
            safe_open(file, "np") if file.suffix == ".safetensors" else None
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder.name} could not be loaded: {one_line(error)}") from None
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(gguf.digest, files))
    named = [(file.name, digest) for file, digest in zip(files, hashes, strict=True)]
    if (folder / ADAPTER).is_file():
        with suppress(UserError):  # whose base is not here
            named.append(("base", identity(_on_base(Located("", str(folder))).source)))
    return sha256(repr(named).encode()).hexdigest() if named else ""


def read(kind: Any, found: Located) -> Any:
    """``kind.from_pretrained`` (AutoConfig, AutoTokenizer …) of a model; no code of its folder is
    run. What is not on this machine is downloaded. Raises ``UserError`` in one line."""
    part = _read(kind, found, DESCRIPTION)
    if found.adapter and hasattr(part, "chat_template"):
        with suppress(OSError):  # an adapter may have a chat format, and a language, of its own
            part.chat_template = (Path(found.adapter) / "chat_template.jinja").read_text("utf-8")
            settings = (Path(found.adapter) / "tokenizer_config.json").read_text("utf-8")
            part.init_kwargs |= json.loads(settings)
    return part


def read_weights(kind: Any, found: Located, **settings) -> Any:
    """The module of a model, from safetensors alone (``kind``: AutoModelForCausalLM …).
    ``settings`` are those of ``from_pretrained``. Raises ``UserError``, also for tensors that are
    missing or of another size, which transformers would make up, or that it would leave out."""
    settings |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    hf, report = _read(kind, found, MODEL_FILES, **settings)
    if getattr(hf.config, "auto_map", None):
        print(f"note: {found.name} comes with code; its own code is not run, and it is loaded as {type(hf).__name__}")
    kinds = {"missing_keys": "its weights lack", "unexpected_keys": "its architecture has no place for"}
    kinds["mismatched_keys"] = "its configuration asks for other sizes of"
    report["mismatched_keys"] = [f"{name} {[*own]}" for name, own, _ in report["mismatched_keys"]]
    report["unexpected_keys"] = [name for name in report["unexpected_keys"] if not UNUSED.search(name)]
    for kind, words in kinds.items():
        if names := sorted(report[kind]):
            some = f"{len(names)} tensor(s): {', '.join(names[:3])}{', …' if names[3:] else ''}"
            raise UserError(f"{found.name} could not be loaded: {words} {some}")
    if odd := not_finite(hf.state_dict()):
        raise UserError(f"{found.name} could not be loaded: {odd}")
    if hf.config.get_text_config().tie_word_embeddings and hf._tied_weights_keys and not tied(hf):
        head = "its weights hold an output layer that is not the embeddings"
        raise UserError(f"{found.name} could not be loaded: {head}: set tie_word_embeddings to false in config.json")
    return hf


def not_finite(tensors: Mapping[str, Any]) -> str:
    """What is wrong with the first tensor that holds NaN or infinity; empty if none does."""
    for name, tensor in tensors.items():
        whole = tensor.is_floating_point() and tensor.element_size() > 1 and not tensor.is_meta
        if whole and tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
            return f"its tensor {name} holds numbers that are not finite"
    return ""


def tied(hf: Any) -> bool:
    """Whether the output layer of a module, if it has one, is its embeddings."""
    head = hf.get_output_embeddings()
    return head is None or head.weight is hf.get_input_embeddings().weight


def check_unmixed(folder: str | Path) -> None:
    """Raise `UserError` for a folder of two models, or of quantised weights that do not say how."""
    folder = Path(folder)
    own = sorted(file.name for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_"))
    both = f"a model's weights ({own[0]}) and an adapter ({ADAPTER})" if own and (folder / ADAPTER).is_file() else ""
    places = _parts(folder)
    if SINGLE in own and places and SINGLE not in places.values():
        both = f"weights in one file ({SINGLE}) and in parts ({INDEX})"
    for file in sorted(set(places.values()) & set(own)):
        with safe_open(folder / file, framework="numpy") as weights:
            odd = next((key for key in weights.keys() if places.get(key, file) != file), "")  # noqa: SIM118
        if odd:
            both = f"{odd} in {file}, although {INDEX} places it in {places[odd]}"
    if both:
        raise UserError(f"the folder {str(folder)!r} holds {both}: move either into a folder of its own")
    config = folder / "config.json"
    quantised = config.is_file() and "quantization_config" in config.read_text("utf-8", "replace")
    for file in own if not quantised else ():
        with safe_open(folder / file, framework="numpy") as weights:
            whole = [key for key in weights.keys() if "F" not in weights.get_slice(key).get_dtype()]  # noqa: SIM118
        if key := next((key for key in whole if key.endswith("weight")), ""):
            raise UserError(f"{folder.name}: {key} holds no decimal numbers, and config.json no quantization_config")


def _parts(folder: Path) -> dict[str, str]:
    """Tensors and their files, as the index of a model's weights says; empty without one."""
    if not (folder / INDEX).is_file():
        return {}
    return json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]


def adapter_folder(adapter: str) -> Path:
    """The folder of an adapter, downloaded if it is not on this machine; pickles are left out."""
    folder, source = Path(os.path.expanduser(adapter)), Source(adapter, "model", None)
    return folder if folder.is_dir() else _cached(source, (ADAPTER, ADAPTED)) or download(source)


def _read(kind: Any, found: Located, files: tuple[str, ...], **settings) -> Any:
    source = Source(found.source, "model", found.revision, files)

    def from_folder(folder: str | Path):
        check_unmixed(folder)
        with _quiet():
            return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **settings)

    try:
        if found.in_folder:
            return from_folder(found.source)
        if folder := _cached(source, ("config.json",)):
            try:
                return from_folder(folder)
            except Exception:
                if on_this_machine(source):  # all of it, and so it is damaged
                    raise
        return from_folder(download(source))
    except UserError:
        raise
    except Exception as error:  # files from elsewhere: whatever is wrong with them
        raise UserError(f"{found.name} could not be loaded: {one_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bar and the report that reading weights prints."""
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


def on_this_machine(source: Source) -> Path | None:
    """The folder that holds all files, in the mirror or in the cache; None if one is missing."""
    if source.kind != "model":
        return mirrored(source) or _cached(source, source.files)
    folder = _cached(source, ("config.json",))
    if folder is None or not (parts := set(_parts(folder).values())):
        return folder if folder and any(folder.glob("*.safetensors")) else None
    return folder if all((folder / part).is_file() for part in parts) else None


def mirrored(source: Source) -> Path | None:
    """The folder of a data set in the local mirror; None if a file is missing."""
    mirror = os.environ.get(MIRROR)
    folder = Path(mirror).expanduser() / source.repo if mirror else None
    return folder if folder and all((folder / file).is_file() for file in source.files) else None


def download(source: Source) -> Path:
    """Get what is missing, with a progress bar, and return the folder."""
    with _refusals(source):
        folder = Path(huggingface_hub.snapshot_download(**_arguments(source)))
    missing = [file for file in source.files if not (folder / file).is_file()]
    if source.kind == "dataset" and missing:
        where = f" at revision '{source.revision}'" if source.revision else ""
        raise UserError(f"{source.repo} has no file {', '.join(missing)}{where}")
    return folder


def megabytes_to_get(source: Source) -> float:
    """What a download would fetch, in MB."""
    with _refusals(source):
        files = huggingface_hub.snapshot_download(**_arguments(source), dry_run=True)
    return sum(file.file_size for file in files if file.will_download) / 1e6


def megabytes(folder: Path) -> float:
    """What a folder holds, links of the cache followed."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _arguments(source: Source) -> dict:
    ignored = list(NOT_OF_A_MODEL) if source.kind == "model" else None
    files = {"allow_patterns": list(source.files), "ignore_patterns": ignored}
    return {"repo_id": source.repo, "repo_type": source.kind, "revision": source.revision, **files}


def _cached(source: Source, files: tuple[str, ...]) -> Path | None:
    folder, where = None, {"revision": source.revision, "repo_type": source.kind}
    for file in files:
        path = huggingface_hub.try_to_load_from_cache(source.repo, file, **where)
        if not isinstance(path, str):
            return None
        folder = Path(path.removesuffix(str(Path(file))))
    return folder


@contextmanager
def _refusals(source: Source) -> Iterator[None]:
    """What the hub refuses, as ``UserError``; it is asked once before, or retries last a minute."""
    where = {"revision": source.revision, "repo_type": source.kind}
    try:
        huggingface_hub.HfApi().repo_info(source.repo, **where, timeout=10)
        yield
    except Exception as error:  # the hub's HTTP library, and so its errors, differ between versions
        raise UserError(refusal(error, source)) from error


def refusal(error: BaseException, source: Source) -> str:
    """Why the hub did not give ``source``, in one line that says what to do."""
    repo, kind = source.repo, {"dataset": "data set"}.get(source.kind, source.kind)
    page = f"{constants.ENDPOINT}/{'datasets/' if source.kind == 'dataset' else ''}{repo}"
    said = {  # the first that fits: some are kinds of others
        errors.GatedRepoError: f"{repo} asks for consent first: open {page}, accept its conditions, then run "
        "'hf auth login'",
        errors.RevisionNotFoundError: f"{repo} has no revision '{source.revision}' (see {page}/commits/main)",
        errors.RepositoryNotFoundError: f"the hub has no {kind} '{repo}' (or it is private: run 'hf auth login')",
        errors.HFValidationError: f"'{repo}' is no name of a {kind}: write owner/name",
    }
    if found := next((said[one] for one in said if isinstance(error, one)), None):
        return found
    from_http = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests")
    unreachable = errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | ConnectionError
    if from_http or isinstance(error, unreachable):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        command, at, other = "rimkit fetch", "", f"set {MIRROR} to a folder that holds {repo}"
        if source.kind == "model":
            at = f" in revision '{source.revision}'" if source.revision else ""
            command, other = f"rimkit fetch {repo}", f"give a folder (in the cache: {_cached_names(repo)})"
        keep = f"run '{command}' once with network and keep {constants.HF_HUB_CACHE}"
        return f"{repo}{at} is not on this machine and {why}: {keep}, or {other}"
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", "an error")
        return f"the hub answers {status} for {repo}: try again later"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{repo} cannot be stored in {constants.HF_HUB_CACHE} ({error.strerror})"
    return f"{repo} could not be fetched ({type(error).__name__}: {str(error)[:200]})"


def cached_models() -> dict[str, Any]:
    """Models in the hub's cache, as it describes them (``revisions, size_on_disk``), by name."""
    with suppress(errors.CacheNotFound):
        repos = sorted(huggingface_hub.scan_cache_dir().repos, key=lambda repo: repo.repo_id)
        return {repo.repo_id: repo for repo in repos if repo.repo_type == "model"}
    return {}


def _cached_names(repo: str) -> str:
    """The revisions of a model that are in the hub's cache, or else the models that are."""
    try:
        cached = cached_models()
    except Exception:  # no cache, or a damaged one, must not hide what is being said
        return "nothing"
    if own := {name for one in getattr(cached.get(repo), "revisions", ()) for name in (*one.refs, one.commit_hash[:8])}:
        return f"{repo} in revision {', '.join(sorted(own))}"
    more = f" and {len(cached) - NAMED} more" if len(cached) > NAMED else ""
    return ", ".join(list(cached)[:NAMED]) + more or "no models"
