"""Is this machine ready for the workbook? One line per finding, to paste into a question or a bug report."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from rimkit.data import chapters_dir

OK, WARN, FAIL = "OK", "WARN", "FAIL"
GIB = 2**30


class Finding(NamedTuple):
    """``status`` is OK, WARN (works, with a limit) or FAIL (the chapters will not run)."""

    status: str
    subject: str
    detail: str


def findings() -> Iterator[Finding]:
    """Everything that the chapters depend on, cheapest first."""
    yield python_version(sys.version_info[:2])
    yield from packages()
    yield from content()
    yield from accelerator()
    yield memory()
    yield disk(Path.cwd())
    yield hub()


def python_version(version: tuple[int, int]) -> Finding:
    status = OK if (3, 11) <= version < (3, 14) else FAIL
    return Finding(status, "Python", f"{platform.python_version()} on {platform.platform()} (tested: 3.11 to 3.13)")


def packages() -> Iterator[Finding]:
    """Installed versions against the ranges that rimkit's own metadata declare."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires("rimkit") or ()]
    except metadata.PackageNotFoundError:
        yield Finding(FAIL, "rimkit", "not installed: pip install -e .")
        return
    for needed in requirements:
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield package(needed.name, needed.specifier)


def package(name: str, tested) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(FAIL, name, f"missing: pip install '{name}{tested}'")
    status = OK if tested.contains(version, prereleases=True) else WARN
    return Finding(status, name, f"{version} (tested: {tested})")


def content() -> Iterator[Finding]:
    from rimkit.models.hub import embedded_models

    chapters, models = len(list(chapters_dir().glob("*.ipynb"))), len(embedded_models())
    yield Finding(OK if chapters else FAIL, "chapters", f"{chapters} in {chapters_dir()}")
    yield Finding(OK if models else FAIL, "embedded models", str(models))


def accelerator() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding(WARN, "GPU", "no NVIDIA GPU: enough for the embedded models; larger ones will be slow")
        return
    device = torch.cuda.get_device_properties(0)
    yield Finding(OK, "GPU", f"{device.name}, {device.total_memory / GIB:.0f} GiB")
    # torch.cuda.is_bf16_supported() also says yes where bfloat16 is emulated, as on a T4
    native = device.major >= 8
    detail = "yes" if native else f"no (capability {device.major}.{device.minor}): float16 is used"
    yield Finding(OK if native else WARN, "native bfloat16", detail)


def memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / GIB
    status = OK if free >= 4 else WARN if free >= 2 else FAIL
    return Finding(status, "memory", f"{free:.1f} GiB free (a chapter on an embedded model needs up to 2)")


def disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / GIB
    status = OK if free >= 5 else WARN if free >= 0.5 else FAIL
    return Finding(status, "disk", f"{free:.1f} GiB free in {folder} (models from the hub need several)")


def hub(timeout: float = 3) -> Finding:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from huggingface_hub import constants

    offline = "the embedded models need no network, others must be in the cache"
    if constants.HF_HUB_OFFLINE:
        return Finding(WARN, "hub", f"switched off by HF_HUB_OFFLINE: {offline}")
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=timeout).close()
    except HTTPError as error:
        return Finding(WARN, "hub", f"{constants.ENDPOINT} answers {error.code}: {offline}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding(WARN, "hub", f"no answer from {constants.ENDPOINT} ({reason}): {offline}")
    return Finding(OK, "hub", f"{constants.ENDPOINT} answers")
