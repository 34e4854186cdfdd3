"""Commands beyond a single run: comparing two models, planning, sweeps, badges for Colab."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rimkit.console import Judge, Length, Prompts, plain_warnings, print_claims, write_page
from rimkit.errors import UserError


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
    from rimkit.runs import sweep as sweeps

    if dry_run:
        sweeps.check_installed(executor)
        cells = sweeps.read(file).cells
        for cell in cells:
            typer.echo(f"{cell.chapter} on {cell.model}{f' ({cell.label})' if cell.label else ''}: cells/{cell.id}")
        typer.echo(f"{len(cells)} cells")
        return
    jobs = jobs or (1 if executor == "local" else 100)
    options = {"jobs": jobs, "gpus": gpus, "retries": retries, "extra": snakemake or (), "report": typer.echo}
    with plain_warnings():
        found = sweeps.run(file, out, executor=executor, **options)
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
    from rimkit.teaching import colab

    table = colab.badges(repo, branch)
    if stamp:
        found = sorted(stamp.glob("*.ipynb"))
        if not found:
            raise UserError(f"there are no notebooks in {stamp}")
        changed = [path.name for path in found if colab.stamp(path, repo, branch)]
        typer.echo(f"{len(changed)} of {len(found)} set-up cells changed in {stamp}", err=True)
    if readme:
        colab.put_between_markers(readme, table)
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
    from rimkit.runs.compare import run as run_comparison
    from rimkit.runs.parameters import assignments

    choice = {"prompts": assignments(prompts or (), "--prompts", "SET=OTHER"), "judge": judge}
    choice["max_new_tokens"] = max_new_tokens
    with plain_warnings():
        run_comparison(base, tuned, out, n_prompts, report=typer.echo, **choice)
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
    from rimkit.behavior.calibrating import report

    for line in report(model, gpu, tokens, calibrate):
        typer.echo(line)
