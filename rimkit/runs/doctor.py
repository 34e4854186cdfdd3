"""Is this machine ready for the workbook? One line per finding, to paste into a question."""

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil

from rimkit.data import GIB, chapters_dir
from rimkit.teaching import setup

OK, WARN, FAIL = "OK", "WARN", "FAIL"


class Finding(NamedTuple):
    """``status`` is OK, WARN (works, with a limit) or FAIL (the chapters will not run)."""

    status: str
    subject: str
    detail: str


def findings() -> Iterator[Finding]:
    """Everything that the chapters depend on, cheapest first."""
    from rimkit.models.hub import embedded_models

    status = OK if (3, 11) <= sys.version_info[:2] < (3, 14) else FAIL
    version = f"{platform.python_version()} on {platform.platform()} (tested: 3.11 to 3.13)"
    yield Finding(status, "Python", version)
    yield from packages()
    chapters, models = len(list(chapters_dir().glob("*.ipynb"))), embedded_models(True, adapters=True)
    yield Finding(OK if chapters else FAIL, "chapters", f"{chapters} in {chapters_dir()}")
    said = f"{len(models)}: seeds of {', '.join(models['name'].unique())}"
    yield Finding(OK if len(models) else FAIL, "embedded models", said)
    yield from accelerator()
    memory, disk = psutil.virtual_memory().available / GIB, shutil.disk_usage(".").free / GIB
    for subject, free, enough, least, needs in (
        ("memory", memory, 4, 2, "free (a chapter on an embedded model needs up to 2)"),
        ("disk", disk, 5, 0.5, f"free in {Path.cwd()} (models from the hub need several)"),
    ):
        status = OK if free >= enough else WARN if free >= least else FAIL
        yield Finding(status, subject, f"{free:.1f} GiB {needs}")
    yield hub()


def packages() -> Iterator[Finding]:
    """Installed versions against the ranges that rimkit's own metadata declare."""
    try:
        found = list(setup.packages())
    except metadata.PackageNotFoundError:
        yield Finding(FAIL, "rimkit", "not installed: pip install -e .")
        return
    for needed, version, tested in found:
        name, known = needed.name, needed.specifier
        if version:
            yield Finding(OK if tested else WARN, name, f"{version} (tested: {known})")
        else:
            yield Finding(FAIL, name, f"missing: pip install '{name}{known}'")


def accelerator() -> Iterator[Finding]:
    """The GPU, and whether it computes in bfloat16."""
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


def hub(timeout: float = 3) -> Finding:
    """Whether the hub can be reached."""
    from huggingface_hub import constants

    offline = "the embedded models need no network, others must be in the cache"
    if constants.HF_HUB_OFFLINE:
        return Finding(WARN, "hub", f"switched off by HF_HUB_OFFLINE: {offline}")
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=timeout).close()
        return Finding(OK, "hub", f"{constants.ENDPOINT} answers")
    except HTTPError as error:
        said = f"{constants.ENDPOINT} answers {error.code}"
    except (OSError, ValueError) as error:
        said = f"no answer from {constants.ENDPOINT} ({getattr(error, 'reason', error)})"
    return Finding(WARN, "hub", f"{said}: {offline}")
