"""A chapter's first line (seeds, quiet libraries, tables), and whether a machine is ready for it.

On Colab it installs what is not there and leaves alone what is; elsewhere it installs nothing. Only
the standard library is imported at the top, since on Colab everything else may be missing.
"""

import importlib
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rimkit.data import GIB, UserError, chapters_dir, data_dir, whole

OK, WARN, FAIL = "OK", "WARN", "FAIL"
NOT_NEEDED = ("jupyterlab",)  # Colab is the place where chapters are read
DRIVE = "/content/drive"
RESTART = "choose Runtime > Restart session, and run the cells from the top"
SETUP = """try:
    import rimkit as rk
except ModuleNotFoundError:  # opened alone, as on Colab
    get_ipython().run_line_magic("pip", "install --quiet --no-deps git+https://github.com/{repo}@{branch}")
    import rimkit as rk

"""
LAST = re.compile(r"rk\.start\(.*\)")  # of a set-up cell
COLAB = "https://colab.research.google.com/github/"
OPENS = re.compile(rf"{re.escape(COLAB)}[^\s)]+?/chapters/")  # the beginning of a link to a chapter


def start(seed: int = 0, *, model: str = "", seconds: int = 0, drive: str = "", keep_text: bool = False) -> None:
    """Set up a chapter: fixed seeds, quiet libraries, tables as the workbook shows them. On Colab
    what is missing is installed first (`prepare`); ``drive``: a folder of your Google Drive to work
    in, so that ``ledger = "01.parquet"`` outlives the session.
    ``keep_text`` shows and saves requests of real safety sets, and replies to them. With a
    ``model``, a line says that all is ready, where it will run, and how many ``seconds``."""
    prepare()
    if drive and here():
        os.chdir(save_to_drive(drive))

    import numpy as np
    import pandas as pd
    import torch
    from IPython import get_ipython
    from transformers.utils import logging

    from rimkit.behavior import redaction

    redaction.keep_text(keep_text)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    logging.set_verbosity_error()
    for kind in (DeprecationWarning, FutureWarning):  # of libraries, to their programmers
        warnings.filterwarnings("ignore", category=kind)
    pd.set_option("display.max_colwidth", 120, "display.max_rows", 100, "display.precision", 2)
    if shell := get_ipython():
        adopt(shell)
    if model:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        embedded = (data_dir() / "models" / model.partition(":")[0]).is_dir()
        time = f" (under {seconds} s as shipped)" if seconds and embedded and device == "CPU" else ""
        print(f"Ready: {model}" if model.startswith("endpoint:") else f"Ready: {model}, {device}{time}")
        if not embedded:
            print("The text is about the embedded models; figures and tables are of yours where they name it.")


def adopt(shell) -> None:
    """Let a notebook show tables in the workbook's way, and say which cell makes a missing name."""
    from pandas import DataFrame

    from rimkit.teaching.tables import html

    def explain(shell, kind, error, trace, tb_offset=None) -> None:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        print(where_made(error.name or "", shell.user_ns.get("In", [""])[-1]))

    shell.display_formatter.formatters["text/html"].for_type(DataFrame, html)
    shell.set_custom_exc((NameError,), explain)


def where_made(name: str, source: str) -> str:
    """Which cell, before the cell with this source in the chapter that has it, makes the name."""
    makes = re.compile(rf"^(def |import .* as |){name}\b( =|,.* =|\(|$)", re.M)
    for path in sorted(chapters_dir().glob("*.ipynb")) if source.strip() else ():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        made = [cell for cell in code[: code.index(source)] if makes.search(cell)] if source in code else ()
        if made:
            first = made[-1].strip().splitlines()[0]
            return f"'{name}' is made in a cell further up, which begins with: {first}\nRun that cell first."
    return f"'{name}' is not there. If a cell further up makes it: Run > Run All Above Selected Cell."


def here() -> bool:
    """Whether this is a Colab kernel, which has imported its own package before the first cell."""
    return "google.colab" in sys.modules


def prepare(pip: Callable[[list[str]], None] | None = None) -> None:
    """On Colab: install what is needed and missing; does nothing elsewhere. Every installed version
    is a constraint, so nothing that is there changes: not torch, not numpy. A version outside the
    tested range is said in one line. Raises `UserError` if the kernel has imported another version
    of a package than is installed now (before a download), and if pip cannot install."""
    needed = [package for package in packages() if package[0].name not in NOT_NEEDED] if here() else []
    if needed and (old := stale(["rimkit", *(one.name for one, *_ in needed)])):
        raise UserError(f"this session still uses {', '.join(old)}: {RESTART}")
    missing = [str(one) for one, version, _ in needed if not version]
    for one, version, fits in needed:
        if version and not fits:
            tested = f"the workbook is tested with {one.specifier}; it is left as it is"
            print(f"{one.name} {version} is here, {tested}")
    if missing:
        print(f"installing {', '.join(missing)}")
        (pip or _pip)(missing)
        importlib.invalidate_caches()


def stale(names: Iterable[str]) -> list[str]:
    """Packages imported in another version than is installed now, as "torch 2.9 (2.11 …)"."""
    found = []
    for name in names:
        imported = getattr(sys.modules.get(name.replace("-", "_")), "__version__", None)
        with suppress(metadata.PackageNotFoundError):
            installed = metadata.version(name)
            builds = {str(version).partition("+")[0] for version in (imported, installed)}  # 2.11 of 2.11+cu128
            if isinstance(imported, str) and len(builds) > 1:
                found.append(f"{name} {imported} ({installed} is installed)")
    return found


def packages() -> Iterator[tuple]:
    """What the workbook asks for: requirement, version here (or ""), whether it was tested."""
    from packaging.requirements import Requirement

    for needed in map(Requirement, metadata.requires("rimkit") or ()):
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            version = ""
            with suppress(metadata.PackageNotFoundError):
                version = metadata.version(needed.name)
            yield needed, version, bool(version) and needed.specifier.contains(version, prereleases=True)


def constraints() -> str:
    """All installed packages at their versions, in the form of a constraints file."""
    pins = {f"{item.metadata['Name']}=={item.version}" for item in metadata.distributions() if item.metadata["Name"]}
    return "\n".join(sorted(pins, key=str.lower)) + "\n"


def _pip(requirements: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "constraints.txt"
        pinned.write_text(constraints(), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(pinned), *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
        raise UserError(f"pip could not install {', '.join(requirements)} beside what is here ({said[-1]})")


def save_to_drive(folder: str = "rim-workbook") -> Path:
    """Mount Google Drive and return a folder there; `UserError` outside Colab: any folder does."""
    if not here():
        raise UserError("Google Drive can be mounted on Colab only; elsewhere name any folder")
    importlib.import_module("google.colab.drive").mount(DRIVE)
    path = Path(DRIVE) / "MyDrive" / folder
    path.mkdir(parents=True, exist_ok=True)
    return path


def publish(repo: str, branch: str = "main", readme: Path | None = None, chapters: Path | None = None) -> list[Path]:
    """Say where on GitHub the workbook is, in the Colab links of a Markdown file and in the set-up
    cells of a folder's notebooks; returns the files that changed: none before all are written.
    Raises `UserError` for what cannot be read or written, and has nothing to fill in."""
    check_repo(repo, branch)
    notebooks = sorted(chapters.glob("*.ipynb")) if chapters else []
    if chapters and not notebooks:
        raise UserError(f"there are no notebooks in {chapters}")
    changed = {}
    try:
        for path in [*filter(None, [readme]), *notebooks]:
            before = path.read_text(encoding="utf-8")
            if path == readme and not OPENS.search(before):
                raise UserError(f"{path} has no link that opens a chapter in Colab")
            link = f"{COLAB}{repo}/blob/{branch}/chapters/"
            after = OPENS.sub(link, before) if path == readme else _stamped(path, before, repo, branch)
            changed |= {path: after} if after != before else {}
        with ExitStack() as stack:
            for path, text in changed.items():
                stack.enter_context(whole(path)).write_text(text, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "it is no text")
        raise UserError(f"cannot use {path} ({why}): nothing was changed") from error
    return [*changed]


def _stamped(notebook: Path, text: str, repo: str, branch: str) -> str:
    try:
        content = json.loads(text)
        sources = [cell["source"] or [""] for cell in content["cells"] if cell["cell_type"] == "code"]
        source = next((lines for lines in sources if LAST.fullmatch(lines[-1].strip())), None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{notebook} is no notebook that can be read") from error
    if source is None:
        raise UserError(f"{notebook} has no cell that ends with rk.start(seed)")
    wanted = [*SETUP.format(repo=repo, branch=branch).splitlines(keepends=True), source[-1]]
    if source == wanted:
        return text
    source[:] = wanted
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def check_repo(repo: str, branch: str = "main") -> None:
    """Raise `UserError` unless these can be a repository on GitHub and a branch, tag or commit."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"'{repo}' is not OWNER/NAME of a repository on GitHub")
    if not re.fullmatch(r"[\w./-]+", branch):
        raise UserError(f"'{branch}' is not a branch, tag or commit")


# -- `rimkit doctor`: is this machine ready? -------------------------------------------------------
class Check(NamedTuple):
    """``status`` is OK, WARN (works, with a limit) or FAIL (the chapters will not run)."""

    status: str
    subject: str
    detail: str


def checks() -> Iterator[Check]:
    """All that the chapters depend on, cheapest first; a line each, to paste into a question."""
    import psutil

    from rimkit.models.hub import embedded_models

    version = f"{platform.python_version()} on {platform.platform()} (tested: 3.11 to 3.13)"
    yield Check(OK if (3, 11) <= sys.version_info[:2] < (3, 14) else FAIL, "Python", version)
    yield from installed()
    chapters, models = len(list(chapters_dir().glob("*.ipynb"))), embedded_models(True, adapters=True)
    yield Check(OK if chapters else FAIL, "chapters", f"{chapters} in {chapters_dir()}")
    said = f"{len(models)}: seeds of {', '.join(models['name'].unique())}"
    yield Check(OK if len(models) else FAIL, "embedded models", said)
    yield from accelerator()
    memory, disk = psutil.virtual_memory().available / GIB, shutil.disk_usage(".").free / GIB
    for subject, free, enough, least, needs in (
        ("memory", memory, 4, 2, "free (a chapter on an embedded model needs up to 2)"),
        ("disk", disk, 5, 0.5, f"free in {Path.cwd()} (models from the hub need several)"),
    ):
        status = OK if free >= enough else WARN if free >= least else FAIL
        yield Check(status, subject, f"{free:.1f} GiB {needs}")
    yield hub()


def installed() -> Iterator[Check]:
    """Installed versions against the ranges that rimkit's own metadata declare."""
    try:
        found = list(packages())
    except metadata.PackageNotFoundError:
        yield Check(FAIL, "rimkit", "not installed: pip install -e .")
        return
    for needed, version, tested in found:
        name, known = needed.name, needed.specifier
        if not version:
            yield Check(FAIL, name, f"missing: pip install '{name}{known}'")
        elif not tested:
            yield Check(WARN, name, f"{version} (tested: {known})")
    fine = ", ".join(f"{needed.name} {version}" for needed, version, tested in found if tested)
    yield Check(OK, "packages", f"as tested: {fine}")


def accelerator() -> Iterator[Check]:
    """The GPU, and whether it computes in bfloat16."""
    import torch

    if not torch.cuda.is_available():
        yield Check(WARN, "GPU", "no NVIDIA GPU: enough for the embedded models; larger ones will be slow")
        return
    device = torch.cuda.get_device_properties(0)
    yield Check(OK, "GPU", f"{device.name}, {device.total_memory / GIB:.0f} GiB")
    # torch.cuda.is_bf16_supported() also says yes where bfloat16 is emulated, as on a T4
    native = device.major >= 8
    detail = "yes" if native else f"no (capability {device.major}.{device.minor}): float16 is used"
    yield Check(OK if native else WARN, "native bfloat16", detail)


def hub(timeout: float = 3) -> Check:
    """Whether the hub can be reached."""
    from huggingface_hub import constants

    offline = "the embedded models need no network, others must be in the cache"
    if constants.HF_HUB_OFFLINE:
        return Check(WARN, "hub", f"switched off by HF_HUB_OFFLINE: {offline}")
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=timeout).close()
        return Check(OK, "hub", f"{constants.ENDPOINT} answers")
    except HTTPError as error:
        said = f"{constants.ENDPOINT} answers {error.code}"
    except (OSError, ValueError) as error:
        said = f"no answer from {constants.ENDPOINT} ({getattr(error, 'reason', error)})"
    return Check(WARN, "hub", f"{said}: {offline}")
