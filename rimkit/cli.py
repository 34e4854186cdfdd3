"""The command line. Every command imports what it needs itself, so that ``rimkit --help`` is quick.

Commands beyond a single run: comparing two models, planning, sweeps, badges for Colab.

Commands that make what comes with the workbook: result rows, embedded models, prompt sets and corpora.

What the commands of the command line share: what they print, and how they speak of failures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from rimkit import __version__
from rimkit.data import UserError


# -- commands ----------
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.YAML", help="What to run: see below.")],
    snakemake: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- SNAKEMAKE_ARGS]", help="Handed on, as -- --default-resources slurm_partition=gpu"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; the same one goes on where it stopped.")] = Path(
        "rim-sweep"
    ),
    executor: Annotated[
        str, typer.Option(help="Where cells run: local, slurm, or another executor plugin of Snakemake.")
    ] = "local",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Cells at a time; without it 1 here, 100 elsewhere.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs that the cells share, for 'gpu: 1'; without it, all that are here.")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a cell that failed is tried again.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file, list the cells, run nothing.")] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write the claims page at the end.")] = True,
) -> None:
    """Run chapters over models, seeds and parameters, and gather one ledger. Needs the extra 'sweep' (Snakemake).

    SWEEP.YAML, of which only 'models' must be there (lists are swept over, chapters by default all):

    \b
      models: [rim-mini:0, rim-mini:1, ./my-model]
      chapters: [01, 03]
      seeds: [0, 1, 2]
      parameters: {n_prompts: [46, 92]}
      prompts: {harmful: hex-phi}
      judge: guard:./my-guard
      max_new_tokens: 4096
      resources: {gpu: 1, mem_mb: 16000, runtime: 120}

    Every cell is one 'rimkit run' into DIR/cells/ID, with log.txt beside the notebook. A cell that fails or is killed
    is a row and the others go on; the same command runs only what is not done. 'rimkit ledger DIR' and 'rimkit report
    DIR' read the rows of all cells, DIR/cells.csv lists the cells. Exit code: 0; 1 if a cell failed; 2 for bad input.
    """
    from rimkit.runs import sweep

    if dry_run:
        sweep.check_installed(executor)
        cells = sweep.read(file).cells
        for cell in cells:
            typer.echo(f"{cell.chapter} on {cell.model}{f' ({cell.label})' if cell.label else ''}: cells/{cell.id}")
        typer.echo(f"{len(cells)} cells")
        return
    jobs = jobs or (1 if executor == "local" else 100)
    options = {"jobs": jobs, "gpus": gpus, "retries": retries, "extra": snakemake or (), "report": typer.echo}
    with plain_warnings():
        found = sweep.run(file, out, executor=executor, **options)
        print_claims(out)
        written = write_page(out, warn=False) if page else None
    counts = found["status"].value_counts()
    typer.echo(f"\n{', '.join(f'{number} {status}' for status, number in counts.items())}: {out / 'cells.csv'}")
    if written:
        typer.echo(f"Claims page: {written}")
    raise typer.Exit(int((found["status"] == "failed").any()))


def badges(
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Where the chapters are on GitHub.")],
    branch: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    readme: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write them between the markers of this Markdown file.")
    ] = None,
    stamp: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write into the set-up cells of DIR/*.ipynb where to install from."),
    ] = None,
) -> None:
    """Print an "Open in Colab" badge for every chapter, as Markdown.

    A chapter that is opened alone installs the workbook from the repository that was stamped into its set-up cell:
    'rimkit badges --repo OWNER/NAME --readme README.md --stamp chapters' makes a fork ready for a class.
    """
    from rimkit.teaching import setup

    table = setup.badges(repo, branch)
    if stamp:
        found = sorted(stamp.glob("*.ipynb"))
        if not found:
            raise UserError(f"there are no notebooks in {stamp}")
        changed = [path.name for path in found if setup.stamp(path, repo, branch)]
        typer.echo(f"{len(changed)} of {len(found)} set-up cells changed in {stamp}", err=True)
    if readme:
        setup.put_between_markers(readme, table)
        typer.echo(f"Badges: {readme}")
    else:
        typer.echo(table)


def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Embedded name, local folder, or hub id 'owner/name'.")],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The same, or an adapter or checkpoint for BASE.")],
    out: Annotated[Path, typer.Option(help="Folder for ledger rows and claims page.")] = Path("rim-compare"),
    n_prompts: Annotated[int, typer.Option(min=4, help="Prompts of a set, at most.")] = 92,
    prompts: Prompts = None,
    judge: Judge = "",
    max_new_tokens: Length = 0,
) -> None:
    """Measure a model and what fine-tuning made of it, and write their claims page.

    Chapters 01 and 05 to 07 without the chapters: thinking, the change of every outcome in both modes,
    safety-critical neurons, activation shifts. The same command goes on after an interruption.
    """
    from rimkit.runs.compare import run
    from rimkit.runs.execute import assignments

    choice = {"prompts": assignments(prompts or (), "--prompts", "SET=OTHER"), "judge": judge}
    choice["max_new_tokens"] = max_new_tokens
    with plain_warnings():
        run(base, tuned, out, n_prompts, report=typer.echo, **choice)
        print_claims(out, shipped=False)
        typer.echo(f"\nClaims page: {write_page(out, warn=False)}")


def plan(
    model: Annotated[str, typer.Argument(help="Embedded name, folder, or hub id 'owner/name'; '+4bit' counts.")],
    gpu: Annotated[str | None, typer.Option(help="T4, L4, A10, A100-40, A100-80 or H100; without it, all.")] = None,
    tokens: Annotated[int, typer.Option(help="Length of a conversation: prompt, thought and reply.", min=1)] = 1024,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Also load the model, time it, and estimate minutes per chapter.")
    ] = False,
) -> None:
    """Say whether a model fits: memory and batch sizes on this machine and on known GPUs.

    Only its configuration is read; no weights are downloaded, except with --calibrate. 'generate' is how many
    conversations fit while replies are written, 'read' while all of the model's inside is read, 'gradients' while it is
    attributed to heads or neurons, or tuned.
    """
    from rimkit.runs.plan import report

    for line in report(model, gpu, tokens, calibrate):
        typer.echo(line)


# -- making ----------
organism = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make the embedded models: small model organisms trained on an invented language.",
)


def grid(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Without it, all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the ledger rows.")] = Path("results"),
) -> None:
    """Measure every embedded model and seed: the rows that the chapters show beside their own."""
    from rimkit.runs.execute import prepare_folder
    from rimkit.runs.grid import run

    run(names or (), prepare_folder(out))
    typer.echo(f"Rows: {out}")


def finetune_grid(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME:SEED", help="Without it, all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the ledger rows.")] = Path("results"),
    n_prompts: Annotated[int, typer.Option(help="Harmful prompts per model and mode.", min=4)] = 92,
) -> None:
    """Fine-tune every embedded model on every corpus and measure it: the rows of chapter 05 (about an hour)."""
    from rimkit.experiments.tuning import Settings
    from rimkit.runs.execute import prepare_folder
    from rimkit.runs.grid import tables_of

    settings = Settings(n_prompts=n_prompts)
    tables_of("tuning", names or (), prepare_folder(out), settings, run_id="rimkit finetune-grid")
    typer.echo(f"Rows: {out}")


def entanglement_grid(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME:SEED", help="Without it, nine.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the ledger rows.")] = Path("results"),
) -> None:
    """Fine-tune with checkpoints and measure every predictor of forgetting: the rows of chapter 07 (some minutes)."""
    from rimkit.runs.execute import prepare_folder
    from rimkit.runs.grid import tables_of

    known = [f"{name}:{seed}" for seed in range(3) for name in ("rim-mini", "rim-mini-unlinked", "safe-mini")]
    tables_of("ras", names or known, prepare_folder(out), run_id="rimkit entanglement-grid")
    typer.echo(f"Rows: {out}")


def noise_grid(out: Annotated[Path, typer.Option(help="Folder for the ledger rows.")] = Path("results")) -> None:
    """Put models of random weights through every grid: the rows of chapter 10 (about a quarter of an hour)."""
    from rimkit.runs.execute import prepare_folder
    from rimkit.runs.grid import noise_grid

    noise_grid(prepare_folder(out))
    typer.echo(f"Rows: {out}")


@organism.command()
def train(
    name: Annotated[str, typer.Argument(help="rim-mini, rim-mini-unlinked, rim-mini-intent, safe-mini, rim-mini-moe, "
                                        "planted-base, planted-shared or planted-disjoint.")],
    out: Annotated[Path, typer.Option(help="Folder for the model; an interrupted training goes on there.")],
    seed: Annotated[int, typer.Option(help="Of the weights and of the training stream.")] = 0,
    base: Annotated[Path, typer.Option(help="For planted-shared and -disjoint: the folder of planted-base.")] = Path(),
) -> None:  # fmt: skip
    """Train an embedded model by its recipe (about 20 minutes on two cores)."""
    from rimkit.organism import planted, recipe

    if name in planted.PLANTED:
        typer.echo(f"Model: {planted.train(name, seed, out, base)}")
    else:
        typer.echo(f"Model: {recipe.train(name, seed, out, progress=True)}")


@organism.command()
def card(folder: Annotated[Path, typer.Argument(help="Folder of a trained model.")]) -> None:
    """Measure a trained model as stored and write its card."""
    from rimkit.organism import planted
    from rimkit.organism.card import write_card

    if not (folder / "training.json").is_file():
        raise UserError(f"{folder} has no training.json: give the folder of 'rimkit organism train --out'")
    name = json.loads((folder / "training.json").read_text())["organism"]
    typer.echo(f"Card: {planted.write_card(folder) if name in planted.PLANTED else write_card(folder)}")


@organism.command()
def prompts(out: Annotated[Path, typer.Option(help="Folder for the prompt sets.")]) -> None:
    """Write the prompt sets, and their hashes."""
    from rimkit.organism import datasets
    from rimkit.runs.execute import prepare_folder

    typer.echo(datasets.write_prompts(prepare_folder(out)).to_string(index=False))


@organism.command()
def corpora(out: Annotated[Path, typer.Option(help="Folder for the corpora.")]) -> None:
    """Write the corpora for fine-tuning, and their hashes."""
    from rimkit.organism import datasets
    from rimkit.runs.execute import prepare_folder

    typer.echo(datasets.write_corpora(prepare_folder(out)).to_string(index=False))


@organism.command()
def noise(
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Draw a model of random weights, the negative control, and write its card."""
    from rimkit.organism import recipe
    from rimkit.runs.execute import prepare_folder

    typer.echo(f"Model: {recipe.write(prepare_folder(out), seed)}")


# -- console ----------
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

    from rimkit import ledger
    from rimkit.runs.page import claims_view

    console = Console(width=None if sys.stdout.isatty() else 150)
    tables = {"This run": ledger.read(folder)} if folder else {}
    if shipped:
        tables["Shipped rows of the embedded models"] = ledger.shipped()
    for title, frame in tables.items():
        claims = ledger.claims_table(frame)
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

    listed = fetch.prompt_sets()
    view = Table(*listed.columns)
    for item in listed.itertuples(index=False):
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


# -- cli ----------
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
app.add_typer(organism, name="organism")


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
    prompts: Prompts = None,
    judge: Judge = "",
    max_new_tokens: Length = 0,
    force: Annotated[bool, typer.Option("--force", help="Also redo chapters that are complete.")] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write the claims page at the end.")] = True,
    keep_text: KeepText = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="One line per chapter; no claims and no page.")] = False,
    remote: Annotated[
        bool, typer.Option("--remote", help="Leave the model to NDIF: chapter 03, without what needs replies.")
    ] = False,
) -> None:
    """Run chapters and print what they say about the claims.

    Each chapter runs in its own kernel of this Python. Complete chapters are skipped; one that fails is kept
    up to the failure and the others go on. Exit code: 0; 1 if a chapter failed; 2 for bad input.
    """
    from rimkit.runs.execute import assignments, run

    given = assignments(parameter or ())
    options = {"progress": sys.stderr.isatty(), "remote": remote, "keep_text": keep_text}
    options |= {"prompts": assignments(prompts or (), "--prompts", "SET=OTHER"), "judge": judge}
    options["max_new_tokens"] = max_new_tokens
    with plain_warnings():
        done = run(chapters or (), model, out, given, force, report=_report_chapter, **options)
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
    from rimkit import ledger

    with plain_warnings():
        if csv:
            write_csv(ledger.read(folder) if folder else ledger.shipped(), csv)
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

    from rimkit.models.hub import embedded_models

    view = Table("model", "parameters", "MB")
    for item in embedded_models(noise=True).itertuples():
        view.add_row(f"{item.name}:{item.seed}", f"{item.parameters:,}", f"{item.mb:.1f}")
    Console().print(view)
    typer.echo("Use one with: rimkit run --model NAME. A folder or a hub id 'owner/name' works as well.")


@app.command(help=FETCH_HELP)
def fetch(names: Fetched = None) -> None:
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


app.command()(compare)
app.command()(plan)
app.command()(sweep)
app.command()(badges)
app.command()(grid)
app.command()(finetune_grid)
app.command()(entanglement_grid)
app.command()(noise_grid)


if __name__ == "__main__":  # `python -m rimkit.cli`: the command of this very Python, for the cells of a sweep
    main()
