"""Small chapters for tests: a parameters cell as real chapters have it, and a few cells."""

from pathlib import Path

PARAMETERS = """model: str = "rim-mini"
n_prompts: int = 4  # prompts per condition [1..600]
temperature: float = 0.7  # sampling [0..]
seed: int = 0
sizes: list[int] = [1, 2]  # dose [0..9]
plot: bool = True
note: "Optional[str]" = None
ledger: str = ""  # where ledger rows are written; empty: nowhere"""

MEASURES = """from rimkit.ledger import row, write
effect = {"effect": 0.2, "effect_ci_low": 0.1, "effect_ci_high": 0.3}
_ = write([row("C1a", model=model, seed=0, value=0.3, **effect)], ledger)"""


def chapter(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> str:
    """Write a chapter and return its path as text."""
    import nbformat

    new = nbformat.v4
    first = new.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = new.new_notebook(
        cells=[new.new_markdown_cell(f"# {name}"), first, *map(new.new_code_cell, cells)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    path = Path(folder) / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return str(path)


def run_cells(shell, path: Path, skipped: tuple[str, ...] = (), **parameters) -> dict:
    """The names that the code cells of a chapter leave, run in a shell of this process.

    A kernel would import everything anew. ``skipped``: words of cells that are left out.
    """
    import nbformat

    shell.reset()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and not any(words in cell.source for words in skipped):
            shell.run_cell(cell.source).raise_error()
        if "parameters" in cell.metadata.get("tags", []):
            shell.user_ns |= parameters
    return shell.user_ns


def decoy_kernel(folder: Path) -> dict[str, str]:
    """The environment in which a kernel called python3 is installed that is not the running Python."""
    import json
    import os

    spec = Path(folder) / "kernels" / "python3"
    spec.mkdir(parents=True)
    kernel = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(kernel))
    return {**os.environ, "JUPYTER_PATH": str(folder), "JUPYTER_DATA_DIR": str(folder)}
