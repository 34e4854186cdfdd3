"""Sweeps: what a sweep file may say, and that nothing stops the others or is lost."""

import json
import os
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
from notebooks import MEASURES, PARAMETERS, chapter
from typer.testing import CliRunner

from rimkit import ledger
from rimkit.cli import app
from rimkit.data import UserError
from rimkit.runs import execute, gpus, sweep

ROOT = Path(__file__).parents[1]
needs_snakemake = pytest.mark.skipif(
    find_spec("snakemake") is None and "CI" not in os.environ, reason="needs the extra sweep"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two chapters in the current folder, for models that nothing loads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "check_chat", lambda *_: None)
    chapter(tmp_path, "01_first", "n_prompts")
    chapter(tmp_path, "02_second", "seed", parameters='model: str = "m"\nseed: int = 0\ntwin: str = ""')
    return tmp_path


def sweep_of(text: str):
    Path("sweep.yaml").write_text(text)
    return sweep.parse("sweep.yaml")


TAKES = 'prompt_sets: str = ""\njudge: str = ""\nmax_new_tokens: int = 0'
FULL = """
models: [rim-mini, 'rim-mini:1']
chapters: [01_first.ipynb, 02_second.ipynb]
seeds: [0, 1]
parameters:
  n_prompts: [4, 8]
  twin: safe-mini
resources: {gpu: 1, slurm_partition: gpu}
"""

# -- the file --------------------------------------------------------------------------------------


def test_a_parameter_is_an_axis_of_the_chapters_that_declare_it(folder):
    found = sweep_of(FULL)
    assert len(found.cells) == 2 * (2 * 2 + 2)  # the second chapter has no n_prompts
    assert len({cell.id for cell in found.cells}) == len(found.cells)
    labels = {cell.job.chapter: cell.label for cell in found.cells}
    assert labels == {"01_first": " (seed=1, n_prompts=8)", "02_second": " (seed=1)"}
    arguments = found.cells[-1].arguments
    assert arguments[1].endswith("02_second.ipynb")
    assert arguments[2:] == ["--model", "rim-mini:1", "-p", "seed=1", "-p", "twin=safe-mini", "--quiet"]
    assert found.resources == {"gpu": 1, "slurm_partition": "gpu"}


def test_prompt_sets_and_judge_go_to_every_cell(folder):
    with pytest.raises(UserError, match=r"sweep\.yaml:1: no chapter here takes --judge: none declares"):
        sweep_of(FULL + "judge: phrases")
    chapter(folder, "01_first", parameters=f"{PARAMETERS}\n{TAKES}")
    choice = "prompts: {harmful: hex-phi, maths: gsm8k}\njudge: phrases\nmax_new_tokens: 2048\n"
    wanted = ["--prompts", "harmful=hex-phi", "--prompts", "maths=gsm8k", "--judge", "phrases"]
    wanted += ["--max-new-tokens", "2048", "--quiet"]
    assert all(cell.arguments[-9:] == wanted for cell in sweep_of(FULL + choice).cells)
    (folder / "own.csv").write_text("goal\nplease mop the barn .\n")
    found = sweep_of(FULL + "prompts: {harmful: 'own.csv?text=goal&kind=harmful'}\n")  # cells run in another folder
    assert f"harmful={folder / 'own.csv'}?text=goal&kind=harmful" in found.cells[0].arguments


def test_the_name_of_a_cell_depends_on_all_that_its_result_depends_on(folder, monkeypatch):
    text = "models: rim-mini\nchapters: 01_first.ipynb\nparameters: {n_prompts: 5}"
    ids = {sweep_of(text).cells[0].id}
    assert sweep_of(text).cells[0].id in ids
    ids.add(sweep_of(text.replace("5", "6")).cells[0].id)
    ids.add(sweep_of(text.replace("rim-mini", "rim-mini:1")).cells[0].id)
    chapter(folder, "01_first", "changed", parameters=f"{PARAMETERS}\n{TAKES}")
    ids.add(sweep_of(text).cells[0].id)
    ids.add(sweep_of(text + "\njudge: phrases").cells[0].id)
    monkeypatch.setattr(sweep, "__version__", "9")
    ids.add(sweep_of(text).cells[0].id)
    assert len(ids) == 6


def test_a_sweep_of_shipped_chapters_needs_only_models(folder):
    chapters = {cell.job.chapter for cell in sweep_of("models: rim-mini").cells}
    assert chapters == {path.stem for path in (ROOT / "chapters").glob("*.ipynb")}


def test_one_model_on_two_servers_is_two_models():
    servers = [f"endpoint:m@http://{host}/v1" for host in ("a:1", "b:1")]
    assert [sweep._place(model, servers) for model in servers] == ["a-1", "b-1"]
    assert sweep._place(servers[0], [servers[0], "endpoint:n@http://b:1/v1", "rim-mini"]) == ""


def test_models_of_one_last_name_stand_side_by_side(folder):
    long = "m" * 250
    for name in ("a/final", "b/final", f"x/{long}"):
        tiny.save(folder / name)
    text = f"models: [a/final, b/final, x/{long}, rim-mini]\nchapters: 01_first.ipynb\nseeds: [0, 1]"
    cells = sweep_of(text).cells
    labels = [" (a/final, seed=0)", " (b/final, seed=0)", " (seed=0)", " (seed=0)"]
    assert [cell.label for cell in cells[::2]] == labels
    assert cells[0].id.startswith("01-a-final-seed0-")
    assert max(len(cell.id) for cell in cells) < 100
    found = []
    for cell in cells[::2]:
        where = folder / "out" / "cells" / cell.id
        name = cell.model.rpartition("/")[2]
        row = ledger.row("C1a", model=name, run_id="r1", effect=0.2, effect_ci_low=0.1, effect_ci_high=0.3)
        ledger.write([row], where / "ledger" / "01_first.parquet")
        (where / "01_first.ipynb").write_text(json.dumps({"metadata": {"rimkit": {"run_id": "r1"}}}))
        (where / "complete").touch()
        found.append(name + cell.label)
    sweep.gather(cells[::2], folder / "out")
    assert set(ledger.claims_table(ledger.read(folder / "out"))["model"]) == set(found)
    assert len(set(found)) == 4


def test_lists_can_be_values(folder):
    cells = sweep_of("models: rim-mini\nchapters: 01_first.ipynb\nparameters: {sizes: [[1, 2], [3]]}").cells
    assert [cell.values["sizes"] for cell in cells] == ["[1, 2]", "[3]"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("models: [a\n", 2, "this is not YAML"),
        ("- a", 1, "a sweep is a mapping"),
        ("chapters: [01_first.ipynb]", 1, "'models' is missing"),
        ("models: []", 1, "this list is empty"),
        ("models: rim-mini\nchapter: [01]", 2, "unknown key 'chapter'; did you mean 'chapters'"),
        ("models: rim-mini\nmodels: rim-mini", 2, "found duplicate key"),
        ("models:\n  - rim-mini\n  - rim-mnii", 3, "unknown model 'rim-mnii'; did you mean 'rim-mini'"),
        ("models: rim-mini\nchapters: [01_first.ipynb,\n  01_fist]", 3, "unknown chapter '01_fist'"),
        ("models: rim-mini\nchapters: 01_first.ipynb\nparameters:\n  n_promts: 4", 4, "did you mean 'n_prompts'"),
        ("models: rim-mini\nchapters: 01_first.ipynb\nparameters:\n  n_prompts:\n    - 4\n    - 0", 6, "must lie in 1..600"),
        ("models: rim-mini\nchapters: 01_first.ipynb\nseeds: [0, x]", 3, "seed takes a whole number, not 'x'"),
        ("models: rim-mini\nseeds: 1\nparameters:\n  seed: 2", 4, "already stand under 'seeds'"),
        ("models: rim-mini\nparameters: [1]", 2, "here a mapping"),
        ("models: rim-mini\nparameters:\n  model: x", 3, "'model' is set by --model"),
        ("models: rim-mini\nprompts:\n  harmfull: hex-phi", 3, "did you mean 'harmful'"),
        ("models: rim-mini\nprompts: {harmful: [a, b]}", 2, "'harmful' takes one word or number"),
        ("models: rim-mini\nmax_new_tokens: many", 2, "max_new_tokens takes a whole number, not 'many'"),
        ("models: rim-mini\njudge: [phrases, organism]", 2, "'judge' takes one word or number"),
        ("models: rim-mini\njudge: phrase", 2, "unknown judge 'phrase'"),
        ("models: rim-mini\nresources: {gpu: [1, 2]}", 2, "'gpu' takes one word or number"),
        ("models: !!python/object/apply:os.system ['true']", 1, "unknown model 'true'"),
        ("models: rim-mini\nresources: &p {a: 4}\nprompts: {<<: *p}", 3, "unknown prompt set of the chapters 'a'"),
        ("models: rim-mini\nmax_new_tokens: '²'", 2, "takes a whole number, not '²'"),
        ("models: " + 500 * "[" + 500 * "]", 1, "this is not YAML: it cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line_with_its_number(folder, text, line, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        sweep_of(text)
    assert str(error.value).startswith(f"sweep.yaml:{line}: ")
    assert "\n" not in str(error.value)


def test_a_model_that_chapters_cannot_use_is_said_with_its_line(folder, monkeypatch):
    def refuse(model, measure):
        raise UserError(f"{model} has no think mode")

    monkeypatch.setattr(execute, "check_chat", refuse)
    with pytest.raises(UserError, match=r"sweep\.yaml:2: rim-mini has no think mode"):
        sweep_of("models:\n - rim-mini")


def test_a_missing_file_is_one_line():
    with pytest.raises(UserError, match=r"cannot read nowhere\.yaml: there is no such file"):
        sweep.parse("nowhere.yaml")


# -- before it runs --------------------------------------------------------------------------------


def test_what_is_not_installed_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr(sweep, "find_spec", lambda name: None if "executor" in name else name)
    sweep.check_installed("local")
    for name in ("cluster-generic", "../x", "a.b"):
        with pytest.raises(UserError, match=f"pip install snakemake-executor-plugin-{re.escape(name)}$"):
            sweep.check_installed(name)
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("needs Snakemake: pip install 'snakemake>=8.20,<10' ruamel.yaml")):
        sweep.check_installed("local")


def test_the_command_installs_what_the_project_asks_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert sweep.REQUIREMENT in extras["sweep"]


def test_the_command_says_a_line_and_exits_with_2(folder):
    done = CliRunner().invoke(app, ["sweep", "nowhere.yaml"])
    assert done.exit_code == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("rimkit: ")


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    with sweep._alone(tmp_path), pytest.raises(UserError, match="another sweep is running"), sweep._alone(tmp_path):
        pass


def test_gpus_are_counted_and_shared_out(tmp_path, monkeypatch):
    needs_two = sweep.Sweep((), {"gpu": 2})
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert sweep._check_gpus(needs_two, None) == 3
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="needs gpu: 2 and there are 0 here"):
        sweep._check_gpus(needs_two, None)
    first = gpus.take(2, 3, tmp_path / "gpus")
    assert first == [0, 1]
    assert gpus.take(1, 3, tmp_path / "gpus") == [2]  # the locks are of open files, not of processes
    assert gpus.visible(first, "4,GPU-a,6") == "4,GPU-a"
    assert gpus.visible([1], None) == "1"


# -- what cells leave behind -----------------------------------------------------------------------


def cell_that(folder: Path, log: str | None, seed: int = 0) -> sweep.Cell:
    """A cell whose folder holds ``log``; a run with number "r1" left two rows, one of them handed on, and its error."""
    job = execute.Job(Path("01_good.ipynb"), {}, "hash", writes_rows=True)
    cell = sweep.Cell(job, "m", {"seed": str(seed)}, ("seed",))
    where = folder / "cells" / cell.id
    where.mkdir(parents=True)
    if log is not None:
        (where / "log.txt").write_text(log)
        (where / "01_good.ipynb").write_text(json.dumps({"metadata": {"rimkit": {"run_id": "r1"}}}))
        interval = {"effect": 0.2, "effect_ci_low": 0.1, "effect_ci_high": 0.3, "seconds": 3.0}
        named = (("m", "r1"), ("x", "rimkit grid"))
        rows = [ledger.row("C1a", model=model, run_id=run, **interval) for model, run in named]
        if "ValueError" in log:
            rows.append(ledger.failed_row(chapter="01_good", model="m", error="ValueError: no", run_id="r1"))
        ledger.write(rows, where / "ledger" / "01_good.parquet")
    return cell


@pytest.mark.parametrize(
    ("log", "status", "error"),
    [
        (None, "not run", ""),
        ("loading\n", "failed", "ended without a result (killed"),
        ("rimkit: interrupted; what was finished is kept\n", "failed", "interrupted"),
        ("Killed\nexit code 137\n", "failed", "killed by signal 9 (out of memory?)"),
        ("exit code 143\n", "failed", "killed by signal 15"),
        ("failed  01_good  ValueError: n…\nexit code 1\n", "failed", "ValueError: no"),
        ("rimkit: cannot write to x\nexit code 2\n", "failed", "cannot write to x"),
        ("Segmentation fault\nexit code 1\n", "failed", "exit code 1; see"),
    ],
)
def test_how_a_cell_ended(tmp_path, log, status, error):
    cell = cell_that(tmp_path, log)
    found = sweep.outcome(cell, tmp_path)
    assert found[0] == status
    assert found[1].startswith(error)
    rows = ledger.table(sweep._rows(cell, tmp_path, found))
    assert (rows["status"] == "failed").sum() == (status == "failed")  # a failed cell is a row


def test_cells_stand_side_by_side_in_one_ledger(tmp_path):
    cells = [cell_that(tmp_path, "", seed) for seed in (0, 1)]
    for cell in cells:
        (tmp_path / "cells" / cell.id / "complete").touch()
    table = sweep.gather(cells, tmp_path)
    assert list(table["status"]) == ["done", "done"]
    assert list(table["seconds"]) == [3.0, 3.0]
    rows = ledger.read(tmp_path)
    assert len(rows) == 4  # those in cells/*/ledger are not read a second time
    own = rows[rows["run_id"] != "rimkit grid"]
    assert list(own["model"]) == ["m (seed=0)", "m (seed=1)"]
    assert list(own["run_id"]) == [cell.id for cell in cells]
    assert list(ledger.claims_table(rows)["model"]) == ["m (seed=0)", "m (seed=1)", "x"]


# -- the whole of it -------------------------------------------------------------------------------

FATES = """import os, time, psutil
from pathlib import Path
from signal import SIGKILL
cells = Path({out!r}) / "cells"
assert os.environ["CUDA_VISIBLE_DEVICES"] in ("0", "1", "2")
if seed == 1:
    os.kill(os.getppid(), SIGKILL)  # its `rimkit run`
if seed == 2 and not Path({flag!r}).exists():
    ended = lambda: [path for path in (*cells.glob("*/complete"), *cells.glob("*/log.txt")) if path.name == "complete" or "exit code" in path.read_text()]
    while len(ended()) < 2:
        time.sleep(0.1)
    time.sleep(1)  # Snakemake takes note of the others
    Path({flag!r}).touch()
    next(p for p in psutil.Process().parents() if "snakemake" in p.cmdline()).kill()
    time.sleep(600)"""


@needs_snakemake
def test_a_sweep_with_a_killed_and_an_interrupted_cell(tmp_path, monkeypatch):
    """Seed 0 works, 1 is killed, 2 kills Snakemake; then the same call goes on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = tiny.tokenizer()
    for part in (tiny.random_model(words), words):
        part.save_pretrained(tmp_path / "random-mini")
    fates = FATES.format(out=str(tmp_path / "out"), flag=str(tmp_path / "flag"))
    chapter(tmp_path, "01_fates", fates, MEASURES)
    text = "models: ./random-mini\nchapters: 01_fates.ipynb\nseeds: [0, 1, 2]\nresources: {gpu: 1}"
    (tmp_path / "sweep.yaml").write_text(text)
    lines = []

    with pytest.raises(UserError, match="Snakemake was ended by signal 9"):
        sweep.run("sweep.yaml", "out", jobs=3, gpus=3, report=lines.append)
    assert {line.split()[0] for line in lines} == {"done", "failed"}
    rows = ledger.read(tmp_path / "out")
    errors = rows[rows["status"] == "failed"].set_index("model")["error"]
    assert list(rows["status"]).count("ok") == 1
    said = {model.partition("seed=")[2][0]: error for model, error in errors.items()}
    assert said["1"] == "killed by signal 9 (out of memory?)"
    assert said["2"].startswith(("ended without a result", "interrupted"))  # a matter of milliseconds
    (done,) = (tmp_path / "out" / "cells").glob("*seed0*/01_fates.ipynb")
    before = done.stat().st_mtime_ns

    lines.clear()
    (tmp_path / "sweep.yaml").write_text(text.replace("1, ", ""))  # without those that will fail again
    found = sweep.run("sweep.yaml", "out", gpus=1, report=lines.append)
    assert list(found["status"]) == ["done", "done"]
    assert done.stat().st_mtime_ns == before
    assert lines[0] == "1 of 2 cells are complete already"
    assert len(lines) == 2
    assert list(ledger.read(tmp_path / "out")["status"]) == ["ok", "ok"]


@needs_snakemake
def test_what_snakemake_itself_refuses_is_one_line(folder):
    Path("sweep.yaml").write_text("models: rim-mini\nchapters: 01_first.ipynb")
    with pytest.raises(UserError, match=r"Snakemake could not run the cells .*no-such-option") as error:
        sweep.run("sweep.yaml", "out", extra=["--no-such-option"])
    assert "\n" not in str(error.value)
