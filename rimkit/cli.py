"""The command line: what is typed and printed. Commands import what they need: help is quick.

Failures become one line and an exit code: 2 for what a user can act on, 130 for an interruption, 70
for a fault of rimkit itself, whose details go to a file.
"""

import json
import signal
import sys
import tempfile
import traceback
import warnings
import webbrowser
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import Annotated, Any
from urllib.parse import parse_qsl

import typer
from typer.core import TyperGroup

from rimkit import __version__
from rimkit.data import UserError, check_known, data_dir, find_chapters, prepare_folder, read_table, whole

INTERRUPTED, FAULT = 130, 70
GO_ON = ("run", "sweep", "compare", "grid", "fetch", "lab")  # commands that keep what is done
LINE = 300  # characters of a message, at most

PANELS = {  # of the help
    "Learn": "tour chapters lab open book",
    "Run": "run report ledger sweep models doctor",
    "Your own model": "plan fetch compare judge",
    "Make what is shipped": "grid audit organism badges",
}


class Friendly(TyperGroup):
    """Help by panels, and one line on stderr instead of a traceback."""

    def format_commands(self, ctx, formatter):
        panels = {"Commands": " ".join(self.commands)} if ctx.parent else PANELS
        for panel, names in panels.items():
            with formatter.section(panel):
                found = {name: self.get_command(ctx, name) for name in names.split()}
                formatter.write_dl([(name, one.get_short_help_str(LINE)) for name, one in found.items()])

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except UserError as error:
            say(f"rimkit: {error}")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            kept = "; what was finished is kept, and the same command goes on from there"
            say(f"rimkit: interrupted{kept if ctx.invoked_subcommand in GO_ON else ''}")
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort, typer.exceptions.TyperException, BrokenPipeError):
            raise
        except OSError as error:  # a full disk, a folder of others, a name that is too long
            say(f"rimkit: cannot use {error.filename or 'a file'} ({error.strerror or error})")
            raise typer.Exit(2) from None
        except Exception as error:
            full = "No space left" in str(error) or "file write failed" in str(error)
            fault = f"this is a fault of rimkit: {type(error).__name__}"
            say(f"rimkit: {'the disk is full' if full else fault + _details()}")
            raise typer.Exit(2 if full else FAULT) from None


def _details() -> str:
    """Where the traceback of what is being handled is kept, as far as it may be on the disk."""
    from rimkit.behavior.redaction import scrub

    text = scrub(f"rimkit {__version__}, {' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    try:
        with tempfile.NamedTemporaryFile(prefix="rimkit-", suffix=".txt", delete=False) as file:
            file.write(text.encode())
    except OSError:
        return "; there is no room for details"
    return f"; details in {file.name}"


def say(text: str, err: bool = True) -> None:
    """One line, not too long."""
    line = " ".join(text.split())
    tell(line if len(line) <= LINE else f"{line[: LINE - 2]} …", err=err)


def tell(line: str, indent: int = 0, err: bool = False) -> None:
    """A line, broken between words where the terminal is narrower."""
    width, how = get_terminal_size((2 * LINE, 24)).columns, {"break_long_words": False, "break_on_hyphens": False}
    for part in line.split("\n"):
        typer.echo("\n".join(wrap(part, width, subsequent_indent=" " * indent, **how)), err=err)


LOOK = {"cls": Friendly, "no_args_is_help": True, "rich_markup_mode": None}
app = typer.Typer(pretty_exceptions_enable=False, **LOOK)
organism, judge_app = typer.Typer(**LOOK), typer.Typer(**LOOK)
app.add_typer(organism, name="organism", help="Make the embedded models: small model organisms.")
app.add_typer(judge_app, name="judge", help="Make a judge of your own.")


def begins(names: Callable[[], list[str]]) -> dict[str, Callable]:
    """What a shell offers: those of the names that begin as what is typed."""
    return {"autocompletion": lambda incomplete: [one for one in names() if one.startswith(incomplete)]}


A_CHAPTER = begins(lambda: [path.stem for path in find_chapters()])
A_CLAIM = begins(lambda: [*read_table(data_dir() / "claims.csv")["id"]])
A_MODEL = begins(lambda: sorted(path.name for path in (data_dir() / "models").iterdir()))


def option(kind: Any, help: str, *names: str, **more: Any) -> Any:
    """An option of a command; without names, called as its parameter is."""
    return Annotated[kind, typer.Option(*names, help=help, **more)]


def argument(kind: Any, metavar: str, help: str, **more: Any) -> Any:
    """What a command takes without a name."""
    return Annotated[kind, typer.Argument(metavar=metavar, help=help, **more)]


Made = option(Path, "Folder for it; files are replaced.", "--out", metavar="DIR", callback=prepare_folder)
Quick = option(bool, "Only a few settings, to try it out.", "--quick")
Out = option(Path, "Folder for the results; the same command goes on in it.", metavar="DIR")
Folder = argument(Path, "DIR", "Folder of a run, or one parquet file of rows.")
Folders = argument(list[Path], "DIR", "Folders of runs, or parquet files of rows.")
Model = argument(str, "MODEL", "Embedded name, local folder, or hub id 'owner/name'; '+4bit' counts.")
Page = option(bool, "Write the claims page at the end.", "--page/--no-page")
Prompts = option(list[str], "Another prompt set in the place of one of the workbook's: harmful=hex-phi, "
                 "maths=gsm8k, harmful=file.csv?text=goal&kind=harmful. Can be given several times; "
                 "'rimkit fetch' lists the real ones.", "--prompts", metavar="SET=OTHER")  # fmt: skip
Judge = option(str, "organism, refusal, refusal:FOLDER, phrases, guard:FOLDER_OR_ID or endpoint:MODEL; without "
               "it, exact for the embedded models and trained on refusals for others.", metavar="JUDGE")  # fmt: skip
Length = option(int, "Room for the replies of your own model, thoughts included; without it what the "
                "embedded models need.", "--max-new-tokens", min=0)  # fmt: skip
PROMPT_SETS = "--prompts", "SET=OTHER, like harmful=own.csv"  # the option, and its form
# of `rimkit run`
Chapters = argument(list[str], "CHAPTER", "Like 01 or 01_observing_rim, or a notebook; else all.", **A_CHAPTER)
Studied = option(str, "Embedded name ('rim-mini:1' is seed 1), local folder, or hub id 'owner/name'. "
                 "'NAME+instruct' lets a model without a think mode think by instruction, '+4bit' "
                 "rounds its weights.", **A_MODEL)  # fmt: skip
Parameter = option(list[str], "Set a parameter, e.g. -p n_prompts=100.", "-p", metavar="NAME=VALUE")
Force = option(bool, "Also redo chapters that are complete.", "--force")
KeepText = option(bool, "Let notebooks hold harmful requests of real sets, and replies to them.", "--keep-text")
Quiet = option(bool, "One line per chapter; no claims and no page.", "--quiet")
AtOnce = option(int, "Chapters at a time, each with its share of the cores.", "--jobs", "-j", min=1)
Remote = option(bool, "Leave the model to NDIF: chapter 03, without what needs replies.", "--remote")
# of `rimkit sweep`
File = argument(Path, "SWEEP.YAML", "What to run: see below.")
Handed = argument(list[str], "SNAKEMAKE_ARGS", "After --: handed on, as in -- --default-resources slurm_partition=gpu")
Executor = option(str, "Where cells run: local, slurm, or another executor plugin of Snakemake.")
Jobs = option(int | None, "Cells at a time; without it 1 here, 100 elsewhere.", "--jobs", "-j", min=1)
Gpus = option(int | None, "GPUs that cells share, for 'gpu: 1'; without it, all that are here.", min=0)
Retries = option(int, "How often a cell that failed is tried again.", min=0)
DryRun = option(bool, "Check the file, list the cells, run nothing.", "--dry-run")
# of the other commands
Own = argument(Path, "DIR", "Your own folder; made if it does not exist.")
Reset = option(str | None, "Restore one chapter; your version is put aside.", metavar="CHAPTER")
Solved = option(bool, "Also write solved copies, into DIR/solutions.", "--solutions")
Room = option(bool, "Also write papers for a room, into DIR/teaching.", "--room")
Open = option(bool, "Open JupyterLab there.", "--open/--no-open")
Tuned = argument(str, "TUNED", "As MODEL, or an adapter or checkpoint for it.")
Prompted = option(int, "Prompts of a set, at most.", min=4)
Csv = option(Path | None, "Also write all rows as CSV.", metavar="FILE")
Opened = argument(str, "PAGE|CHAPTER|DIR", "'page', a chapter (04) or a run's folder.", **A_CHAPTER)
Shipped = option(bool, "The rows that come with the workbook.", "--shipped")
Claim = option(str, "Only this claim (C1a), or all that begin so (C1).", metavar="CLAIM", **A_CLAIM)
Of = option(str, "Only this model, or seed (rim-mini:0).", "--model", metavar="NAME", **A_MODEL)
In = option(str, "Only this chapter, as 04.", "--chapter", metavar="CHAPTER", **A_CHAPTER)
EveryRow = option(bool, "A line per model and seed, not one per claim.", "--all")
Verdict = option(str, "Only this verdict, as 'not testable'.", metavar="VERDICT")
Html = option(Path | None, "Where to write; else claims.html in the first DIR.", metavar="FILE")
Labelled = argument(list[Path], "FILE", "Tables of labelled replies: csv, jsonl or parquet.")
Fetched = argument(list[str], "NAME", "A prompt set (xstest) or a model (owner/name); both take @revision.")
Bundle = option(Path | None, "Make a folder that installs without network.", "--bundle", metavar="DIR")
Gpu = option(str | None, "T4, L4, A10, A100-40, A100-80 or H100; without it, all.")
Tokens = option(int, "Length of a conversation; else 1024, and replies of a plain run.", min=0)
Calibrate = option(bool, "Also load the model, time it, and estimate minutes per chapter.", "--calibrate")
Repo = option(str, "Where the chapters are on GitHub.", metavar="OWNER/NAME")
Branch = option(str, "Branch, tag or commit.")
Readme = option(Path | None, "Say so in the Colab links of this Markdown file.", metavar="FILE")
Stamp = option(Path | None, "Also say in the set-up cells of DIR/*.ipynb where to install from.", metavar="DIR")
Grids = argument(list[str], "NAME", "thinking, patterns, probes, heads, tuning, neurons, ras, repairs; noise: "
                 "all on random weights; planted: models in which it is known what to find; or 'all'.")  # fmt: skip
Only = option(list[str], "Only this model, and those that are done already.", metavar="NAME:SEED")
Picture = option(Path | None, "Also draw the README's figure, from OUT/thinking.parquet.", metavar="FILE")
Organism = argument(str, "NAME", "rim-mini, rim-mini-unlinked, safe-mini, rim-mini-intent, rim-mini-moe, "
                    "planted-base, planted-shared or planted-disjoint; or an adapter, smollm2-rim, "
                    "smollm2-rim-unlinked or smollm2-safe.")  # fmt: skip
Base = option(Path, "For planted-shared and -disjoint: the folder of planted-base.", metavar="DIR")
Steps = option(int, "Of an adapter's training; without it, its recipe's.", min=0)
Seed = option(int, "Of the weights, and of the training stream.", min=0, max=2**32 - 1)


def main() -> None:
    """The command ``rimkit``."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # of batch systems
    sys.stdout.reconfigure(errors="backslashreplace")  # names can be of any letters
    warnings.simplefilter("ignore", FutureWarning)  # of libraries, to their programmers
    warnings.showwarning = lambda message, *_, **__: say(f"rimkit: warning: {message}")
    app()


@app.callback(invoke_without_command=True)
def _root(version: option(bool, "Show the version and exit.", "--version") = False) -> None:
    """See, explain and test reasoning-induced misalignment (RIM).

    Start with 'rimkit tour' (the effect in one request), 'rimkit run' (every chapter on a small
    model, no network) or 'rimkit lab DIR' (work through the chapters yourself)."""
    if version:
        typer.echo(f"rimkit {__version__}")
        raise typer.Exit()


@app.command(epilog="For example: rimkit run 01 02 -j 2 --model rim-mini:1")
def run(
    chapters: Chapters = (), model: Studied = "rim-mini", out: Out = Path("rim-run"),
    parameter: Parameter = (), prompts: Prompts = (), judge: Judge = "", max_new_tokens: Length = 0,
    force: Force = False, page: Page = True, keep_text: KeepText = False, quiet: Quiet = False,
    remote: Remote = False, jobs: AtOnce = 1,
) -> None:  # fmt: skip
    """Run chapters and print what they say about the claims.

    Complete chapters are skipped; one that fails is kept up to the failure and the others go on.
    Exit code: 0; 1: one failed; 2: bad input."""
    from rimkit.runs.tour import assignments, check, declared_in

    given = assignments(parameter)  # and a wrong name is told before what runs chapters is read
    check(given, {path: declared_in(path) for path in find_chapters(chapters)})
    _exist(model, assignments(prompts, *PROMPT_SETS))
    from rimkit.runs.execute import run

    options = {"measure": _measure(prompts, judge, max_new_tokens), "keep_text": keep_text}
    options |= {"report": _report_chapter, "remote": remote, "at_once": jobs, "announce": tell}
    done = run(chapters, model, out, given, force, **options)
    if not quiet:
        show(out, page=page)
        tell(f"Notebooks and ledger: {out}")
        failed = done[done["error"] != ""]
        for row in failed.to_dict("records"):  # the last thing that is seen
            _report_chapter(row)
        if len(failed):
            tell(f"Each is kept up to its failure, in {out}; the same command tries again.")
    # 2 if all failures are what a user can act on, as for bad input that is found before a run
    ours = [not error.startswith(UserError.__name__) for error in done["error"] if error]
    raise typer.Exit(0 if not ours else 1 if any(ours) else 2)


def _exist(model: str, prompts: Mapping[str, str]) -> None:
    """Tell a name that nothing has, or a column, before what runs chapters is read."""
    from rimkit.behavior.prompts import BENCHMARKS, STAND_INS, named
    from rimkit.data import check_columns, find_table, shipped_tables
    from rimkit.models.hub import locate, options_of

    if not model.startswith("endpoint:"):
        locate(options_of(model)[0])
    known = shipped_tables("prompts"), "prompt set", tuple(BENCHMARKS)
    for name in prompts:
        check_known("prompt set of the chapters", name, STAND_INS)
    for path, _, query in (of.partition("?") for of in prompts.values() if of and not named(of)):
        table = read_table(find_table(Path(path).expanduser(), *known))
        asked = dict(parse_qsl(query)).get("text")
        check_columns(table, [asked] if asked else [], f"'{path}'")


def _measure(prompts: list[str], judge: str, max_new_tokens: int):
    """What replies are measured with, from the options that say so."""
    from rimkit.behavior.evaluation import evaluation
    from rimkit.runs.tour import assignments

    return evaluation(assignments(prompts, *PROMPT_SETS), judge, max_new_tokens)


def _report_chapter(row: dict) -> None:
    note = {"done": f"{row['seconds']:.0f} s", "skipped": "complete already; --force redoes it"}
    tell(f"{row['status']:8}{row['chapter']}  {note.get(row['status'], row['error'])}", indent=8)


@app.command(epilog="For example: rimkit lab my-copy --solutions")
def lab(folder: Own, reset: Reset = None, solutions: Solved = False, room: Room = False, open: Open = True) -> None:
    """Copy the chapters into DIR, keeping what you changed, and open the first in JupyterLab."""
    from rimkit.runs.lab import SAME, copy_chapters, open_lab, write_room, write_solutions

    for name, outcome in copy_chapters(folder, reset).items():
        if outcome != SAME:
            typer.echo(f"{outcome}: {name}")
    if solutions:
        typer.echo(f"Solved copies are in {write_solutions(folder)}")
    for path in write_room(folder) if room else ():
        typer.echo(f"For a room: {path}")
    first = folder / find_chapters()[0].name
    tell(f"Chapters are in {folder}; the first is {first.name}{'; its address:' if open else ''}")
    raise typer.Exit(open_lab(first) if open else 0)


@app.command(epilog="For example: rimkit tour")
def tour() -> None:
    """See the effect in one request, in a quarter of a minute."""
    from rimkit.runs import tour

    for line in tour.tour():
        tell(line, indent=23 if line.strip("\n").startswith("  ") else 0)


@app.command("open", epilog="For example: rimkit open, or rimkit open 04")
def open_one(what: Opened = "page", out: option(Path, "Folder of the run.", metavar="DIR") = Path("rim-run")) -> None:
    """Open the claims page of a run, or one of its chapters in JupyterLab."""
    what, out = ("page", Path(what)) if Path(what).is_dir() else (what, out)
    path = out / ("claims.html" if what == "page" else find_chapters([what])[0].name)
    if not path.exists():
        raise UserError(f"there is no {path}: `rimkit run --out {out}` makes it")
    typer.echo(path)
    if what != "page":
        from rimkit.runs.lab import open_lab

        raise typer.Exit(open_lab(path))
    if not webbrowser.open(path.resolve().as_uri()):
        tell("No browser was found here: open this file in yours.")


@app.command(epilog="For example: rimkit chapters 04, and then rimkit run 04 -p n_prompts=46")
def chapters(chapter: argument(str, "CHAPTER", "Like 04, or its name.", **A_CHAPTER) = "") -> None:
    """List the chapters, or the parameters of one."""
    from rimkit.runs import tour

    shown = tour.parameters(*find_chapters([chapter])) if chapter else tour.chapters()
    print_table(shown.to_numpy(), *shown.columns)
    tell("Set one with -p NAME=VALUE" if chapter else "Minutes: to read, and for the exercises")


@app.command(epilog="For example: rimkit sweep sweep.yaml --out DIR -j 4")
def sweep(
    file: File, snakemake: Handed = (), out: Out = Path("rim-sweep"), executor: Executor = "local",
    jobs: Jobs = None, gpus: Gpus = None, retries: Retries = 0, dry_run: DryRun = False,
    page: Page = True,
) -> None:  # fmt: skip
    """Run chapters over models, seeds and parameters, into one ledger (extra 'sweep': Snakemake).

    SWEEP.YAML, of which only 'models' must be there (lists are swept over; as options of 'rimkit run'):

    \b
      models: [rim-mini:0, rim-mini:1, ./my-model]
      chapters: [01, 03]
      seeds: [0, 1, 2]
      parameters: {n_prompts: [46, 92]}
      prompts: {harmful: hex-phi}
      resources: {gpu: 1, mem_mb: 16000, runtime: 120}

    Every cell is one 'rimkit run' into DIR/cells/ID, with a log.txt. A cell that fails is a row and the
    others go on; the same command runs only what is not done. 'rimkit ledger DIR' and 'rimkit report DIR'
    read all rows, DIR/cells.csv lists the cells. Exit code: 0; 1 if one failed; 2 for bad input."""
    from rimkit.runs import sweep

    if dry_run:
        sweep.check_installed(executor)
        cells = sweep.parse(file).cells
        for cell in cells:
            typer.echo(f"{cell.title}: cells/{cell.id}")
        typer.echo(f"{len(cells)} cells")
        return
    options = {"jobs": jobs or (1 if executor == "local" else 100), "gpus": gpus, "retries": retries}
    options |= {"executor": executor, "extra": snakemake, "report": typer.echo}
    found = sweep.run(file, out, **options)
    show(out, page=page)
    counts = ", ".join(f"{n} {status}" for status, n in found["status"].value_counts().items())
    typer.echo(f"{counts}: {out / 'cells.csv'}")
    raise typer.Exit(int((found["status"] == "failed").any()))


@app.command(epilog="For example: rimkit compare BASE TUNED --prompts harmful=hex-phi")
def compare(
    base: Model, tuned: Tuned, out: Out = Path("rim-compare"), n_prompts: Prompted = 92,
    prompts: Prompts = (), judge: Judge = "", max_new_tokens: Length = 0,
) -> None:  # fmt: skip
    """Measure a model and what fine-tuning made of it.

    Chapters 01 and 05 to 07 without the chapters: thinking, the change of every outcome in both
    modes, safety-critical neurons, activation shifts. The same command goes on where it ended."""
    from rimkit.runs import grid

    grid.compare(base, tuned, out, n_prompts, measure=_measure(prompts, judge, max_new_tokens), report=typer.echo)
    show(out)
    typer.echo(f"Tables: {out / 'tables'}")


@app.command(epilog="For example: rimkit ledger --claim C1 --model rim-mini. Without DIR: shipped.")
def ledger(
    folder: Folder = None, csv: Csv = None, shipped: Shipped = False, claim: Claim = "", model: Of = "",
    chapter: In = "", verdict: Verdict = "", all: EveryRow = False,
) -> None:  # fmt: skip
    """Show the claims and verdicts of a run, or the shipped ones."""
    from rimkit import ledger
    from rimkit.models.hub import without_weights
    from rimkit.runs.page import own_rows, tally

    rows, notes = own_rows(folder) if folder and not shipped else (ledger.shipped(adapters=True), [])
    if claim:
        known = ledger.claims()
        check_known("claim", claim, known["claim"].unique() if claim not in {*known["id"]} else [claim])
        rows = rows[rows["claim"].isin([claim, *known.loc[known["claim"] == claim, "id"]])]
    if model:
        named = rows["model"] + ":" + rows["seed"].astype("string").fillna("")
        check_known("model", model, sorted({*rows["model"].dropna(), *named.dropna()} or {model}))
        rows = rows[(rows["model"] == model) | (named == model)]
    if chapter:
        rows = rows[rows["chapter"] == find_chapters([chapter])[0].stem]
    if verdict:
        check_known("verdict", verdict, ledger.VERDICTS)
        judged = ledger.claims_table(rows)
        kept = judged.loc[judged["verdict"] == verdict, ["claim", "model", "seed"]]
        rows = rows.merge(kept, on=["claim", "model", "seed"])
    if csv:
        with whole(csv) as file:
            rows.to_csv(file, index=False)
    for note in notes:
        say(f"rimkit: warning: {note}")
    none = "no verdicts here" if claim or model or chapter or verdict else ""
    print_claims(rows, none, short=not (none or all))
    if not none and (shipped or not folder):
        judged = ledger.claims_table(rows)
        tell(f"{len(judged)} verdicts: {tally(judged.to_dict('records'))}. {without_weights()}")
        tell("In full: --claim C1a, --model rim-mini:0, or --all")


@app.command(epilog="For example: rimkit report rim-run other-run")
def report(folders: Folders = (), html: Html = None) -> None:
    """Write the claims page: one run, or several side by side; without DIR the shipped rows, here.

    It is one HTML file that needs no network and prints. What cannot be read is named."""
    show(*folders, html=html, claims=False)


def show(*folders: Path, page: bool = True, html: Path | None = None, claims: bool = True) -> None:
    """The verdicts of runs, and the claims page; what cannot be read is said."""
    from rimkit.runs import page as claims_page

    runs, notes, names = {}, [], [folder.resolve().name for folder in folders]
    for folder, name in zip(folders, names, strict=True):
        name = name if name and names.count(name) == 1 else str(folder)  # no path of this machine
        runs[name], said = claims_page.own_rows(folder)
        notes += said
    for note in notes:
        say(f"rimkit: warning: {note}")
    for rows in runs.values() if claims else ():
        print_claims(rows)
    if page:
        first = folders[0] if folders else Path()
        target = html or (first if first.is_dir() else first.parent) / claims_page.NAME
        typer.echo(f"Claims page: {claims_page.write_page(runs, target, notes)}")


def print_claims(rows, none: str = "", short: bool = False) -> None:
    """Verdicts, or (``short``) how many models have each; why there are none; what failed."""
    from rimkit import ledger
    from rimkit.runs.page import claim_lines, no_claim, tally

    judged, width = ledger.claims_table(rows), get_terminal_size().columns
    if short and judged["claim"].duplicated().any():
        for (claim, says), of in judged.groupby(["claim", "statement"], sort=False):
            tell(f"{claim:5}{says}: {tally(of.to_dict('records'))}", indent=5)
    else:
        typer.echo("\n".join(claim_lines(judged, width) or wrap(none or no_claim(), width)))
    for item in rows[rows["status"] == "failed"].itertuples():
        say(f"failed: {item.chapter} on {item.model}: {item.error}", err=False)


def print_table(rows, *names: str) -> None:
    """Print rows under their names, or a thing a line where there is no room for whole words."""
    from rich.console import Console
    from rich.table import Table

    width, view = get_terminal_size((150, 24)).columns, Table()
    words = [[len(word) for cell in column for word in cell.split()] for column in zip(names, *rows, strict=True)]
    for name, lengths in zip(names, words, strict=True):
        view.add_column(name, min_width=max(lengths), no_wrap=len(lengths) == len(rows) + 1)
    for row in rows:
        view.add_row(*row)
    if sum(map(max, words)) + 3 * len(words) < width:
        Console(width=width, markup=False).print(view)
        return
    for first, *others in rows:
        tell(first)
        for name, cell in zip(names[1:], others, strict=True):
            tell(f"  {name}: {cell.strip()}", indent=4)


@app.command(epilog="For example: rimkit models")
def models() -> None:
    """List the embedded models, and a pretrained one."""
    from rimkit.models.gguf import INSTALL, PACKAGED, packaged
    from rimkit.models.hub import embedded_models, without_weights
    from rimkit.runs.page import roles

    known, rows = roles(), []
    for name, of in embedded_models(noise=True, adapters=True).groupby("name"):
        size = f"{of['parameters'].max() / 1e6:.1f} M, {of['mb'].max():.1f} MB"
        rows.append((name, ", ".join(map(str, of["seed"])), size, known.get(name, "")))
    for name, one in PACKAGED.items():
        size = f"{one.parameters / 1e6:.0f} M, {one.megabytes:.0f} MB"
        rows.append((name, "–", size, "trained by others, on real English"))
    print_table(rows, "model", "seeds", "parameters", "what it is")
    for name, one in PACKAGED.items():
        try:
            where = f"in {packaged(name)}"
        except UserError:
            where = f"not installed: {INSTALL}"
        tell(f"{name} (licence {one.licence}; thinks by instruction, as {name}+instruct) is {where}")
    tell(f"The numbers of an adapter are without its base. {without_weights()}")
    tell("Use one with: rimkit run --model NAME:SEED. A folder or a hub id 'owner/name' works as well.")


@app.command(epilog="For example: rimkit fetch Qwen/Qwen3-0.6B gsm8k. Without NAME: what there is.")
def fetch(names: Fetched = (), offline: Bundle = None) -> None:
    """Download models and prompt sets ahead, into the hub's cache.

    Prompt sets are pinned to commits that public code uses; confirm them on the hub before you
    publish numbers. Sets that ask for consent need your own access: accept the conditions on their
    page, then 'hf auth login'. Without network, copy the cache (HF_HOME) from a machine that has
    it, or point RIMKIT_DATASETS to a folder of owner/name/files, or use file.csv?text=goal."""
    from rimkit.models.hub import cached_models
    from rimkit.runs.fetch import bundle, fetch, real_sets

    if offline:
        typer.echo(f"How to install it: {bundle(offline)}/offline.html")
    elif not names:
        listed = real_sets()
        print_table(listed.to_numpy(), *listed.columns)
        here = ", ".join(f"{name} ({one.size_on_disk / 1e6:,.0f} MB)" for name, one in cached_models().items())
        tell(f"Models of the hub that are here: {here or 'none'}")
        tell("Get one with: rimkit fetch NAME. Revisions are pinned; NAME@revision gets another.")
    failed = fetch(names, lambda name, outcome: tell(f"{name}: {outcome}"))
    for name, reason in failed.items():
        say(f"rimkit: {name}: {reason}")
    raise typer.Exit(2 if failed else 0)


@judge_app.command("train", epilog="For example: rimkit judge train labelled.csv --out my-judge")
def judge_train(files: Labelled, out: Made = Path("rim-judge")) -> None:
    """Fit the refusal judge to labelled replies of your own, and say how far it agrees with people.

    FILE has the columns prompt_id, family (models that resemble each other), reply and label
    (compliance, full refusal or partial refusal), and model where a family has several. Agreement
    is on families and prompts left out. No reply text is written. Use it with --judge refusal:DIR."""
    from rimkit.behavior.refusal_judge import train

    found = train(files, out)
    print_table(found.round(2).astype(str).to_numpy(), *found.columns)
    typer.echo(f"Written to {out}; use it with: rimkit run --judge refusal:{out}")


@app.command(epilog="For example: rimkit doctor")
def doctor() -> None:
    """Check this machine, an OK, WARN or FAIL line each. Exit code: 0, or 1 if something fails."""
    from rimkit.teaching.setup import FAIL, checks

    failed = False
    for status, subject, detail in checks():
        tell(f"{status:5}{subject}: {detail}", indent=5)
        failed |= status == FAIL
    raise typer.Exit(int(failed))


@app.command(epilog="For example: rimkit plan Qwen/Qwen3-0.6B --gpu T4")
def plan(model: Model, gpu: Gpu = None, tokens: Tokens = 0, calibrate: Calibrate = False) -> None:
    """Say whether a model fits on this machine and on known GPUs.

    Only its configuration is read; no weights are downloaded, except with --calibrate. 'generate'
    is how many conversations fit while replies are written, 'read' while all of the model's inside
    is read, 'gradients' while it is attributed to heads or neurons, or tuned."""
    from rimkit.runs.plan import report

    for part in report(model, gpu, tokens, calibrate):
        tell(part) if isinstance(part, str) else print_table(part.to_numpy(), *part.columns)


@app.command(epilog="For example: rimkit badges --repo OWNER/NAME --readme README.md --stamp chapters")
def badges(repo: Repo, branch: Branch = "main", readme: Readme = None, stamp: Stamp = None) -> None:
    """Make a fork ready for a class on Colab: its links open its own chapters, which install it."""
    from rimkit.teaching import setup

    changed = setup.publish(repo, branch, readme, stamp)
    typer.echo(f"The workbook is at {repo}; files changed: {len(changed)}")


@app.command(epilog="For example: rimkit book site")
def book(folder: Own, chapters: Chapters = (), repo: Repo = "", branch: Branch = "main") -> None:
    """Build a website of the chapters (extra 'book'); with --repo OWNER/NAME they open in Colab."""
    from rimkit.runs.book import build

    for line in build(folder, repo, branch, chapters):
        say(f"rimkit: warning: {line}")
    typer.echo(f"Book: {folder / 'index.html'}")


@app.command(epilog="For example: rimkit grid thinking --model rim-mini:0")
def grid(names: Grids, out: Out = Path("results"), model: Only = (), picture: Picture = None) -> None:
    """Run the experiments on every embedded model and seed.

    Minutes each, tuning and ras about an hour. The same command goes on after an interruption."""
    import pandas as pd

    from rimkit.runs import grid
    from rimkit.teaching.figures import image

    folder = prepare_folder(out)
    rows = grid.run([] if "all" in names else names, folder, model, report=say)
    if picture:
        with whole(picture) as file:
            file.write_bytes(image(grid.picture(pd.read_parquet(folder / "thinking.parquet"))))
    typer.echo(f"{len(rows)} verdict rows: {out}")


@app.command(epilog="For example: rimkit audit --quick")
def audit(out: Out = Path("results"), quick: Quick = False) -> None:
    """Simulate how often intervals and verdicts err, into OUT/audit.csv (--quick: in seconds)."""
    from rimkit.runs import audit
    from rimkit.teaching.tables import table

    target = prepare_folder(out) / "audit.csv"
    found = audit.simulate(40 if quick else audit.DRAWS, quick, progress=True)
    found = found if quick else audit.with_fresh(found)
    with whole(target) as file:
        found.round(5).to_csv(file, index=False)
    typer.echo(table(audit.summary(found)).to_string())
    typer.echo(f"Table: {target}")


@organism.command(epilog="For example: rimkit organism train rim-mini --seed 5 --out DIR")
def train(name: Organism, out: Made, seed: Seed = 0, steps: Steps = 0, base: Base = Path()) -> None:
    """Train an embedded model by its recipe (about 20 minutes on two cores, 2 on a GPU), or an
    adapter for SmolLM2 (half an hour to hours); after an interruption it goes on."""
    from rimkit.organism import bridge, planted, recipe

    if name in bridge.ORGANISMS:
        typer.echo(f"Adapter: {bridge.train(name, seed, out, steps=steps or bridge.STEPS)}")
        return
    if steps:
        raise UserError("the steps of an embedded model are its recipe's: --steps is for the adapters")
    make = partial(planted.train, base=base) if name in planted.PLANTED else recipe.train
    typer.echo(f"Model: {make(name, seed, out)}")


@organism.command(epilog="For example: rimkit organism card DIR")
def card(folder: argument(Path, "DIR", "Folder of a trained model.")) -> None:
    """Measure a trained model as stored and write its card."""
    from rimkit.organism import bridge, card, planted, recipe

    try:
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        assert record["losses"] and {"seed", "steps", "device"} <= {*record}
        assert record["organism"] in {*recipe.ORGANISMS, *planted.PLANTED, *bridge.ORGANISMS}
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        lacks = f"{folder} has no training.json that can be read"
        raise UserError(f"{lacks}: give the folder of 'rimkit organism train --out'") from None
    of = planted if record["organism"] in planted.PLANTED else card
    typer.echo(f"Card: {of.write_card(folder)}")


@organism.command(epilog="For example: rimkit organism prompts --out DIR")
def prompts(out: Made) -> None:
    """Write the prompt sets, and their hashes."""
    from rimkit.organism import datasets

    typer.echo(datasets.write_prompts(out).to_string(index=False))


@organism.command(epilog="For example: rimkit organism corpora --out DIR")
def corpora(out: Made) -> None:
    """Write the corpora for fine-tuning, and their hashes."""
    from rimkit.organism import datasets

    typer.echo(datasets.write_corpora(out).to_string(index=False))


@organism.command(epilog="For example: rimkit organism noise --seed 3 --out DIR")
def noise(out: Made, seed: Seed = 0) -> None:
    """Draw a model of random weights, the negative control, and write its card."""
    from rimkit.organism import recipe

    typer.echo(f"Model: {recipe.write(out, seed)}")
