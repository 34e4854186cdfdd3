"""The command line. Every command imports what it needs itself, so that ``rimkit --help`` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from rimkit import __version__, commands, console, making
from rimkit.console import plain_warnings, print_claims, print_fetched, say, write_csv, write_page
from rimkit.errors import UserError

INTERRUPTED = 130


class Friendly(TyperGroup):
    """One line on stderr instead of a traceback for what a user can act on."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except UserError as error:
            say(f"rimkit: {error}")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            say("rimkit: interrupted; what was finished is kept, and the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Friendly,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="See, explain and test reasoning-induced misalignment (RIM): thinking makes a model comply more.\n\n"
    "Start with 'rimkit run' (every chapter on a small embedded model, no network), or with 'rimkit lab DIR' "
    "to work through the chapters yourself.",
)
app.add_typer(making.organism, name="organism")


def main() -> None:
    app()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"rimkit {__version__}")
        raise typer.Exit()


@app.command()
def run(
    chapters: Annotated[
        list[str] | None,
        typer.Argument(metavar="CHAPTER", help="Like 01 or 01_observing_rim, or a notebook; without it, all."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Embedded name ('rim-mini:1' is seed 1), local folder, or hub id 'owner/name'. 'NAME+instruct' lets a "
            "model without a think mode think by instruction, '+4bit' rounds its weights."
        ),
    ] = "rim-mini",
    out: Annotated[Path, typer.Option(help="Folder for the executed notebooks and the ledger; one per model.")] = Path(
        "rim-run"
    ),
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="Set a parameter of the chapters, e.g. -p n_prompts=100."),
    ] = None,
    prompts: console.Prompts = None,
    judge: console.Judge = "",
    max_new_tokens: console.Length = 0,
    force: Annotated[bool, typer.Option("--force", help="Also redo chapters that are complete.")] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write the claims page at the end.")] = True,
    keep_text: console.KeepText = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="One line per chapter; no claims and no page.")] = False,
    remote: Annotated[
        bool, typer.Option("--remote", help="Leave the model to NDIF: chapter 03, without what needs replies.")
    ] = False,
) -> None:
    """Run chapters and print what they say about the claims.

    Each chapter runs in its own kernel of this Python. Complete chapters are skipped; one that fails is kept
    up to the failure and the others go on. Exit code: 0; 1 if a chapter failed; 2 for bad input.
    """
    from rimkit.runs.execute import run as run_chapters
    from rimkit.runs.parameters import assignments

    given = assignments(parameter or ())
    options = {"progress": sys.stderr.isatty(), "remote": remote, "keep_text": keep_text}
    options |= {"prompts": assignments(prompts or (), "--prompts", "SET=OTHER"), "judge": judge}
    options["max_new_tokens"] = max_new_tokens
    with plain_warnings():
        done = run_chapters(chapters or (), model, out, given, force, report=_report_chapter, **options)
        if quiet:
            raise typer.Exit(_exit_code([error for error in done["error"] if error]))
        print_claims(out)
        written = write_page(out, warn=False) if page else None  # what could not be read has been said above
    typer.echo(f"\nNotebooks and ledger: {out}")
    if written:
        typer.echo(f"Claims page: {written}")
    raise typer.Exit(_exit_code([error for error in done["error"] if error]))


def _exit_code(errors: list[str]) -> int:
    """2 if all failures are what a user can act on, as for bad input that is found before a run."""
    return 0 if not errors else 2 if all(error.startswith(UserError.__name__) for error in errors) else 1


def _report_chapter(row: dict) -> None:
    note = {"done": f"{row['seconds']:.0f} s", "skipped": "complete already; --force redoes it"}
    typer.echo(f"{row['status']:8}{row['chapter']}  {note.get(row['status'], row['error'])}")


@app.command()
def lab(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Your own folder; made if it does not exist.")],
    reset: Annotated[
        str | None, typer.Option(metavar="CHAPTER", help="Restore one chapter; your version is put aside.")
    ] = None,
    open: Annotated[bool, typer.Option("--open/--no-open", help="Open JupyterLab there.")] = True,
) -> None:
    """Copy the chapters into DIR and open JupyterLab there.

    What you changed in DIR is never overwritten.
    """
    from rimkit.runs.lab import SAME, copy_chapters, open_lab

    for name, outcome in copy_chapters(folder, reset).items():
        if outcome != SAME:
            typer.echo(f"{outcome}: {name}")
    if open:
        raise typer.Exit(open_lab(folder))
    typer.echo(f"Chapters are in {folder}")


@app.command()
def ledger(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of a run; without it, the shipped rows.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write all rows as CSV.")] = None,
) -> None:
    """Show the claims and their verdicts from the rows of a run."""
    from rimkit import ledger as rows

    with plain_warnings():
        if csv:
            write_csv(rows.read(folder) if folder else rows.shipped(), csv)
        print_claims(folder)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, or one parquet file of rows.")],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write; else DIR/claims.html.")] = None,
) -> None:
    """Write the claims page of a run: one HTML file with every claim, the paper, the re-analysis and your rows.

    It needs no network and prints. What cannot be read is named, and what can be shown is shown.
    """
    typer.echo(f"Claims page: {write_page(folder, html)}")


@app.command()
def models() -> None:
    """List the embedded models."""
    from rich.console import Console
    from rich.table import Table

    from rimkit.models.loading import embedded_models

    view = Table("model", "parameters", "MB")
    for item in embedded_models(noise=True).itertuples():
        view.add_row(f"{item.name}:{item.seed}", f"{item.parameters:,}", f"{item.mb:.1f}")
    Console().print(view)
    typer.echo("Use one with: rimkit run --model NAME. A folder or a hub id 'owner/name' works as well.")


@app.command(help=console.FETCH_HELP)
def fetch(names: console.Fetched = None) -> None:
    raise typer.Exit(2 if print_fetched(names or ()) else 0)


@app.command()
def doctor() -> None:
    """Check this machine: one OK, WARN or FAIL line each, to paste into a question.

    Exit code: 0, or 1 if something fails.
    """
    from rimkit.runs.doctor import FAIL, findings

    failed = False
    for finding in findings():
        typer.echo(f"{finding.status:5}{finding.subject}: {finding.detail}")
        failed |= finding.status == FAIL
    raise typer.Exit(int(failed))


app.command()(commands.compare)
app.command()(commands.plan)
app.command()(commands.sweep)
app.command()(commands.badges)
app.command()(making.grid)
app.command()(making.finetune_grid)
app.command()(making.entanglement_grid)
app.command()(making.noise_grid)


if __name__ == "__main__":  # `python -m rimkit.cli`: the command of this very Python, for the cells of a sweep
    main()
