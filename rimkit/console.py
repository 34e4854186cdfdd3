"""What the commands of the command line share: what they print, and how they speak of failures."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rimkit.errors import UserError

KeepText = Annotated[
    bool, typer.Option("--keep-text", help="Let notebooks hold harmful requests of real sets, and replies to them.")
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts",
        metavar="SET=OTHER",
        help="Another prompt set in the place of one of the workbook's: harmful=hex-phi, maths=gsm8k, "
        "harmful=file.csv?text=goal&kind=harmful. Can be given several times; 'rimkit fetch' lists the real ones.",
    ),
]
Judge = Annotated[
    str,
    typer.Option(
        metavar="JUDGE",
        help="organism, phrases, guard:FOLDER_OR_ID or endpoint:MODEL; without it, exact for the embedded models and "
        "refusal phrases for others.",
    ),
]
Length = Annotated[
    int,
    typer.Option(
        "--max-new-tokens",
        min=0,
        help="Room for the replies of your own model, thoughts included; without it what the embedded models need.",
    ),
]
Fetched = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="A prompt set (xstest) or a model (owner/name); both take @revision."),
]
FETCH_HELP = """Download models and prompt sets ahead, into the cache of the Hugging Face hub.

For example: rimkit fetch Qwen/Qwen3-0.6B gsm8k xstest. Without a name, list the prompt sets and what is here.

Prompt sets are pinned to commits that public code uses; confirm them on the hub before you publish numbers.
'main' can change. Sets that ask for consent need your own access: accept the conditions on their page, then
'hf auth login'. Without network, copy the cache (HF_HOME) from a machine that has it, or point RIMKIT_DATASETS
to a folder of owner/name/files. A set of your own needs no download: give its file where a chapter takes a
prompt set, as file.csv?text=goal&kind=harmful.

Exit code: 0, or 2 if something could not be fetched; the others are.
"""


def print_claims(folder: Path | None, shipped: bool = True) -> None:
    """The verdicts of a run, then (``shipped``) those of the rows that come with the workbook."""
    from rich.console import Console

    from rimkit import ledger as rows
    from rimkit.runs.report import claims_view

    console = Console(width=None if sys.stdout.isatty() else 150)
    tables = {"This run": rows.read(folder)} if folder else {}
    if shipped:
        tables["Shipped rows of the embedded models"] = rows.shipped()
    for title, frame in tables.items():
        claims = rows.claims_table(frame)
        if len(claims):
            console.print(claims_view(claims, title))
        for item in frame[frame["status"] == "failed"].itertuples():
            typer.echo(f"failed: {item.chapter} on {item.model}: {item.error}")


def print_fetched(names: Iterable[str]) -> dict[str, str]:
    """Fetch and say how each went; without names, list what there is. Returns the failures, which stderr has too."""
    from rimkit.runs.fetch import fetch

    if not names:
        _print_fetchable()
    failed = fetch(names, lambda name, outcome: typer.echo(f"{name}: {outcome}"))
    for name, reason in failed.items():
        say(f"rimkit: {name}: {reason}")
    return failed


def _print_fetchable() -> None:
    """The prompt sets and models of ``rimkit fetch``, and which of them are on this machine."""
    from rich.console import Console
    from rich.table import Table

    from rimkit.runs import fetch

    view = Table("prompt set", "what", "repository", "revision", "access", "here")
    for item in fetch.prompt_sets():
        view.add_row(*item)
    Console(width=None if sys.stdout.isatty() else 150).print(view)
    models = ", ".join(f"{name} ({size:,.0f} MB)" for name, size in fetch.cached_models())
    typer.echo(f"Models of the hub that are here: {models or 'none'}")
    typer.echo("Get one with: rimkit fetch NAME. Revisions are pinned; NAME@revision gets another.")


def write_page(folder: Path, html: Path | None = None, warn: bool = True) -> Path:
    """The claims page of a run; what could not be read stands on it and (``warn``), a line each, on stderr."""
    from rimkit.runs import page

    rows, notes = page.own_rows(folder)
    for note in notes if warn else ():
        say(f"rimkit: warning: {note}")
    return page.write_page(rows, html or (folder if folder.is_dir() else folder.parent) / page.NAME, notes)


def write_csv(frame, path: Path) -> None:
    try:
        frame.to_csv(path, index=False)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error})") from error


@contextmanager
def plain_warnings():
    """Warnings of the ledger as one line each, without the place in the code."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"rimkit: warning: {message}")
        yield


def say(text: str) -> None:
    typer.echo(text, err=True)
