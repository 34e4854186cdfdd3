"""Commands that make what comes with the workbook: result rows, embedded models, prompt sets and corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rimkit.errors import UserError

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
    from rimkit.runs.grid import run as run_grid

    run_grid(names or (), prepare_folder(out))
    typer.echo(f"Rows: {out}")


def finetune_grid(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME:SEED", help="Without it, all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the ledger rows.")] = Path("results"),
    n_prompts: Annotated[int, typer.Option(help="Harmful prompts per model and mode.", min=4)] = 92,
) -> None:
    """Fine-tune every embedded model on every corpus and measure it: the rows of chapter 05 (about an hour)."""
    from rimkit.runs.execute import prepare_folder
    from rimkit.runs.tuning import run as run_tuning

    run_tuning(names or (), prepare_folder(out), n_prompts)
    typer.echo(f"Rows: {out}")


def entanglement_grid(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME:SEED", help="Without it, nine.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the ledger rows.")] = Path("results"),
) -> None:
    """Fine-tune with checkpoints and measure every predictor of forgetting: the rows of chapter 07 (some minutes)."""
    from rimkit.runs.entangling import run as run_entangling
    from rimkit.runs.execute import prepare_folder

    run_entangling(names or (), prepare_folder(out))
    typer.echo(f"Rows: {out}")


def noise_grid(out: Annotated[Path, typer.Option(help="Folder for the ledger rows.")] = Path("results")) -> None:
    """Put models of random weights through every grid: the rows of chapter 10 (about a quarter of an hour)."""
    from rimkit.runs.execute import prepare_folder
    from rimkit.runs.noise import run as run_noise

    run_noise(prepare_folder(out))
    typer.echo(f"Rows: {out}")


@organism.command()
def train(
    name: Annotated[str, typer.Argument(help="rim-mini, rim-mini-unlinked, safe-mini or rim-mini-moe.")],
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    seed: Annotated[int, typer.Option(help="Of the weights and of the training stream.")] = 0,
) -> None:
    """Train an embedded model by its recipe (about 20 minutes on two cores)."""
    from rimkit.organism import recipe

    typer.echo(f"Model: {recipe.train(name, seed, out, progress=True)}")


@organism.command()
def card(folder: Annotated[Path, typer.Argument(help="Folder of a trained model.")]) -> None:
    """Measure a trained model as stored and write its card."""
    from rimkit.organism.card import write_card

    if not (folder / "training.json").is_file():
        raise UserError(f"{folder} has no training.json: give the folder of 'rimkit organism train --out'")
    typer.echo(f"Card: {write_card(folder)}")


@organism.command()
def prompts(out: Annotated[Path, typer.Option(help="Folder for the prompt sets.")]) -> None:
    """Write the prompt sets, and their hashes."""
    from rimkit.organism import promptsets
    from rimkit.runs.execute import prepare_folder

    typer.echo(promptsets.write(prepare_folder(out)).to_string(index=False))


@organism.command()
def corpora(out: Annotated[Path, typer.Option(help="Folder for the corpora.")]) -> None:
    """Write the corpora for fine-tuning, and their hashes."""
    from rimkit.organism import trainingsets
    from rimkit.runs.execute import prepare_folder

    typer.echo(trainingsets.write(prepare_folder(out)).to_string(index=False))


@organism.command()
def noise(
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Draw a model of random weights, the negative control, and write its card."""
    from rimkit.organism import noise
    from rimkit.runs.execute import prepare_folder

    typer.echo(f"Model: {noise.write(prepare_folder(out), seed)}")
