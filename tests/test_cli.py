"""The installed command, as a user meets it: one clear line and exit code 2 for bad input, nothing lost."""

import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
import tiny
import typer
from notebooks import MEASURES, PARAMETERS, chapter
from typer.testing import CliRunner

from rimkit import ledger
from rimkit.behavior.prompts import load_prompts
from rimkit.cli import PANELS, app
from rimkit.data import UserError
from rimkit.models.hub import recorded_models
from rimkit.runs import page
from rimkit.teaching import setup

RIMKIT = Path(sys.executable).with_name("rimkit")


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    """Pages without the packed verdicts, which take seconds and have a test of their own."""
    monkeypatch.setattr(page, "_verdict_tables", list)


def rimkit(*arguments, columns: int | None = None) -> subprocess.CompletedProcess:
    """The command in this process: what starts a process of its own says so."""
    env = {"COLUMNS": columns and str(columns)}
    done = CliRunner(env=env).invoke(app, [*map(str, arguments)], catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def installed(*arguments, **options) -> subprocess.CompletedProcess:
    """The installed command, in a process of its own."""
    command = [str(RIMKIT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def refused(process, *parts):
    """The process ended with exit code 2 and exactly one line on stderr, which holds all ``parts``."""
    lines = process.stderr.strip().splitlines()
    assert process.returncode == 2, process.stderr
    assert len(lines) == 1, process.stderr
    assert all(part in lines[0] for part in parts), lines[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("models") / "random-mini")


@pytest.fixture
def good(tmp_path):
    return chapter(tmp_path, "01_good", "n_prompts", MEASURES)


# -- help ------------------------------------------------------------------------------------------


def commands(group, *before: str):
    """Every command with its names, those of groups included."""
    for name, one in group.commands.items():
        yield from commands(one, *before, name) if hasattr(one, "commands") else [((*before, name), one)]


def test_help_names_every_command_in_one_panel_and_each_has_an_example():
    group = typer.main.get_command(app)
    shown = rimkit("--help").stdout
    assert sorted(" ".join(PANELS.values()).split()) == sorted(group.commands)
    for panel, names in PANELS.items():
        part = shown[shown.index(f"{panel}:\n") :].partition("\n\n")[0]
        assert re.findall(r"^  ([a-z]+) ", part, re.M) == names.split()
    for names, one in commands(group):
        said = f"{one.help} {one.epilog or ''}"
        assert f"rimkit {' '.join(names)}" in said, names


@pytest.mark.parametrize("columns", [80, 60])
def test_no_word_is_cut_in_a_narrow_terminal(columns):
    for words in ("--help", "organism --help", "judge --help", "chapters", "chapters 04", "models", "fetch", "doctor"):
        shown = rimkit(*words.split(), columns=columns).stdout
        assert not re.search(r"…|\w\.\.\.", shown), words
        places = [line for line in shown.splitlines() if max(map(len, line.split()), default=0) < columns / 2]
        known = columns if "--help" not in words else 80  # the runner's own
        assert max(map(len, places)) <= known, words  # a path alone may be longer
    assert rimkit("chapters", columns=columns).stdout.count("refusal_heads") == 1


def test_what_is_opened_must_be_there(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) > 1)
    monkeypatch.setattr("subprocess.call", lambda command, **_: opened.append(command[3:]) or 0)
    monkeypatch.setattr("os.geteuid", lambda: 1000, raising=False)
    refused(rimkit("open", "--out", tmp_path), "there is no", "claims.html: `rimkit run --out")
    for name in ("claims.html", "04_refusal_heads.ipynb"):
        (tmp_path / name).touch()
    page = tmp_path / "claims.html"
    shown = [rimkit("open", "--out", tmp_path), rimkit("open", tmp_path), rimkit("open", "4", "--out", tmp_path)]
    assert [one.returncode for one in shown] == [0, 0, 0]
    assert [one.stdout.splitlines()[0] for one in shown[:2]] == [str(page), str(page)]
    assert "No browser was found" in shown[0].stdout and "No browser" not in shown[1].stdout
    monkeypatch.setattr("os.geteuid", lambda: 0, raising=False)  # JupyterLab asks root for a flag
    assert rimkit("lab", tmp_path / "copy").returncode == 0
    first = tmp_path / "copy" / "00_start_here.ipynb"
    place = "--LabApp.default_url=/lab/tree/"
    chapter = [f"{place}04_refusal_heads.ipynb", str(tmp_path / "04_refusal_heads.ipynb")]
    assert opened == [page.as_uri(), page.as_uri(), chapter, ["--allow-root", place + first.name, str(first)]]


AT_ONCE = ("run 99", "run 01 -p n_promts=3", "run 01 -p n_prompts=abc", "report nope", "open nope", "ledger --claim C99",
           "ledger --model rim-mimi", "run 01 --model rim-mimi", "run 01 --prompts harmful=no.csv",
           "run 01 --prompts harmfull=hex-phi", "run 01 --prompts maths=hexphi")  # fmt: skip


def test_what_reads_or_refuses_waits_for_no_torch():
    """In one process: the first command that brings torch is named."""
    code = f"""import sys
from typer.testing import CliRunner
from rimkit.cli import app
for line in {[*AT_ONCE, "ledger --claim C1"]}:
    done = CliRunner().invoke(app, line.split())
    print(line, done.exit_code, "torch" in sys.modules)"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = [f"{line} 2 False" for line in AT_ONCE]
    assert found.stdout.splitlines() == [*said, "ledger --claim C1 0 False"], found.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [("run 0", "01_observing_rim"), ("ledger --claim C10", "C10a"), ("run --model rim-mini-i", "rim-mini-intent")],
)
def test_a_shell_completes_chapters_claims_and_models(words, offered):
    asked = {
        "_RIMKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": f"rimkit {words}",
        "COMP_CWORD": str(words.count(" ") + 1),
    }
    done = CliRunner(env=asked).invoke(app, [], prog_name="rimkit")
    assert offered in done.stdout.splitlines(), done.output


def test_doctor_and_models_agree():
    listed = [line for line in rimkit("models").stdout.splitlines() if line.startswith("│")]
    names = [line.split("│")[1].strip() for line in listed]
    assert all(one.partition(":")[0] in names for one in recorded_models())
    (known,) = [line for line in rimkit("doctor").stdout.splitlines() if "embedded models:" in line]
    assert [name for name in names if name and name != "smollm2"] == known.rpartition("seeds of ")[2].split(", ")
    assert any("thoughts rare, and always careful" in line for line in listed)
    assert not any(line.split("│")[-2].isspace() and line.split("│")[1].strip() for line in listed)
    assert sum("control: " in line for line in listed) >= 4  # noise, two planted ones, the safe model


def test_version():
    assert installed("--version").stdout == "rimkit 0.1.0\n"
    assert subprocess.check_output([sys.executable, "-m", "rimkit", "--version"], text=True) == "rimkit 0.1.0\n"


# -- bad input, found before anything runs ---------------------------------------------------------


def test_unknown_model_names_the_nearest(good, tmp_path):
    process = rimkit("run", good, "--model", "rim-mnii", "--out", tmp_path / "out")
    refused(process, "unknown model 'rim-mnii'", "rim-mini")
    assert not (tmp_path / "out").exists()


def test_folder_without_weights(good, model, tmp_path):
    folder = tmp_path / "hollow"
    folder.mkdir()
    (folder / "config.json").write_text((model / "config.json").read_text())
    refused(rimkit("run", good, "--model", folder), "hollow", "no weights")


def test_tokenizer_without_chat_template(good, tmp_path):
    folder = tiny.save(tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    refused(rimkit("run", good, "--model", folder, "--out", tmp_path / "out"), "plain", "no chat template")


def test_model_without_think_mode(good, tmp_path):
    folder = tiny.save(tmp_path / "thoughtless", tiny.QWEN_FRAME)
    refused(rimkit("run", good, "--model", folder, "--out", tmp_path / "out"), "thoughtless", "no think mode")


def test_unknown_chapter(model):
    refused(rimkit("run", "no-such-chapter", "--model", model), "unknown chapter 'no-such-chapter'")


@pytest.mark.parametrize(
    ("parameter", "parts"),
    [
        ("n_promts=3", ("no parameter 'n_promts'", "did you mean 'n_prompts'")),
        ("n_prompts=many", ("n_prompts takes a whole number", "many")),
        ("n_prompts=601", ("n_prompts must lie in 1..600", "601")),
    ],
)
def test_bad_parameters(good, model, tmp_path, parameter, parts):
    refused(rimkit("run", good, "--model", model, "-p", parameter, "--out", tmp_path / "out"), *parts)
    assert not (tmp_path / "out").exists()


def test_output_folder_that_is_a_file(good, model, tmp_path):
    (tmp_path / "out").write_text("mine")
    refused(rimkit("run", good, "--model", model, "--out", tmp_path / "out"), "is a file")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_output_folder_that_cannot_be_written(good, model):
    refused(rimkit("run", good, "--model", model, "--out", "/proc/self/out"), "cannot write to /proc")


def test_ledger_of_a_folder_that_is_not_there(tmp_path):
    refused(rimkit("ledger", tmp_path / "nowhere"), "no ledger at")


def test_csv_that_cannot_be_written(tmp_path):
    failed = ledger.failed_row(chapter="01_observing_rim", model="rim-mini", error="no memory")
    ledger.write([failed], tmp_path / "a.parquet")
    refused(rimkit("ledger", tmp_path, "--csv", tmp_path), f"cannot use {tmp_path} (Is a directory)")


def test_lab_in_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    refused(rimkit("lab", tmp_path / "file", "--no-open"), "is a file")


def broken(error: Exception, monkeypatch, folder: Path) -> subprocess.CompletedProcess:
    """A command in which something goes wrong that nobody foresaw."""

    def checks():
        raise error
        yield

    monkeypatch.setattr(setup, "checks", checks)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return rimkit("doctor")


def test_a_fault_of_the_program_is_one_line_and_a_file(tmp_path, monkeypatch):
    process = broken(KeyError("im_end"), monkeypatch, tmp_path)
    (line,) = process.stderr.strip().splitlines()
    assert process.returncode == 70
    assert line.startswith("rimkit: this is a fault of rimkit: KeyError; details in ")
    details = Path(line.rpartition(" ")[2])
    assert details.parent == tmp_path
    assert "KeyError: 'im_end'" in details.read_text()


def test_messages_are_one_line_of_at_most_300_characters(tmp_path, monkeypatch):
    process = broken(UserError("a\n" + 5000 * "b "), monkeypatch, tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith("rimkit: a b b")
    assert process.stderr.count("\n") == 1
    assert len(process.stderr) <= 301
    assert list(tmp_path.iterdir()) == []


DEVICE = "it is a device or a link"
BAD = {  # a command line of each kind, and what its one line says
    "run 01 --model ~nobody/x": "there is no folder",
    "run 01 --model {folder}": "could not be loaded",
    "run 01 --model owner/{long}": "could not be loaded",
    "run /nope/00_start_here.ipynb": "there is no file '/nope/00_start_here.ipynb'",
    "run start_here.ipynb": "there is no file 'start_here.ipynb'; did you mean '00_start_here'?",
    "run {file}.ipynb": "is not a notebook that can be run",
    "run {good} --out {full}": "No space left on device",
    "run {good} --judge endpoint:m@http://127.0.0.1:9/v1": "no answer from http://127.0.0.1:9/v1",
    "run {good} -p sizes=" + 5000 * "[": "takes a list such as [1, 2]",
    "run {good} -p temperature=inf": "takes a finite number",
    "run {good} -p n_prompts=" + 5000 * "9": "n_prompts takes a whole number",
    "sweep {file}.ipynb --dry-run": "this is not YAML",
    "compare rim-mini {file}.ipynb": "there is no folder",
    "compare rim-mini {adapter}": "a pickle can run code",
    "ledger --csv /dev/full": DEVICE,
    "ledger --csv .": "(Is a directory)",
    "report {run} --html /dev/stdout": "cannot use /dev/stdout",
    "report {run} --html {run}": "it is a folder",
    "report {run} --html /proc/x/y.html": "cannot use /proc/x",
    "fetch owner/{long}": "there is nothing called",
    "plan rim-mini --gpu [red]": "unknown GPU '[red]'",
    "plan {folder} --gpu T4": "could not be loaded",
    "badges --repo a/b --readme {binary}": "it is no text",
    "badges --repo a/b --stamp {run}": "there are no notebooks",
    "organism card {folder}": "has no training.json that can be read",
    "organism noise --out {file}.ipynb": "is a file",
    "grid thinkin": "unknown grid 'thinkin'",
    "lab {run} --no-open --reset nope": "unknown chapter 'nope'",
}


@pytest.mark.parametrize(("line", "said"), BAD.items(), ids=lambda text: text[:40])
def test_a_bad_command_line_is_one_line(line, said, good, tmp_path, monkeypatch):
    """Nothing here runs for long, ends in a traceback, or prints more than a line."""
    (tmp_path / "file.ipynb").write_text("[" + "{")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, files in {
        "folder": ["config.json", "x.safetensors", "training.json"],
        "adapter": ["adapter_config.json", "adapter_model.bin"],
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{")
    measured(tmp_path / "run")
    if "{full}" in line:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: open("/dev/full", "wb"))  # noqa: SIM115
    names = {name: tmp_path / name for name in ("file", "folder", "binary", "run", "full", "adapter")}
    words = [word.format(good=good, long=200 * "x", **names) for word in line.split()]
    refused(rimkit(*words), said)


# -- bad input, found by a chapter -----------------------------------------------------------------

WITH_PROMPTS = f'prompts: str = "harmful"  # a prompt set, or a file\n{PARAMETERS}'
READS = """import rimkit
from rimkit.behavior.generation import generate
from rimkit.behavior.prompts import load_prompts
_ = generate(rimkit.load(model), load_prompts(prompts))"""
COLUMNS = "prompt_id,text,kind,category,cluster,split,answer,source"


def test_what_a_chapter_finds_to_be_bad_input_is_a_line_and_2(model, tmp_path):
    """A prompt that is longer than the context, which only the chapter can know."""
    (tmp_path / "set.csv").write_text(f"{COLUMNS}\np1,{'word ' * 200},harmless,c,v,evaluation,,s\n")
    path = chapter(tmp_path, "01_reads", READS, parameters=WITH_PROMPTS)
    prompts = f"prompts={tmp_path / 'set.csv'}"
    process = rimkit("run", path, "--quiet", "--model", model, "-p", prompts, "--out", tmp_path / "out")
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("failed  ")]
    assert process.returncode == 2, process.stderr
    assert all(part in line for part in ("UserError", "p1", "128")), line
    assert (tmp_path / "out" / "01_reads.ipynb").exists()


@pytest.mark.parametrize(("content", "said"), [(COLUMNS + "\n", ""), ("prompt_id,kind\np1,harmful\n", "text")])
def test_a_bad_prompt_file_is_named(tmp_path, content, said):
    (tmp_path / "set.csv").write_text(content)
    with pytest.raises(UserError, match=rf"set\.csv.*{said}"):
        load_prompts(str(tmp_path / "set.csv"))


# -- accidents in the middle of a run --------------------------------------------------------------


def test_full_disk_keeps_what_was_finished(good, model, tmp_path):
    large = chapter(tmp_path, "02_large", "print('x' * 400_000)")

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # kernels inherit it
    try:
        process = rimkit("run", good, large, "--quiet", "--model", model, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(process, "cannot write to", "while running 02_large", "are kept")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["01_good.ipynb", "ledger"]
    assert len(ledger.read(tmp_path / "out")) == 1


def test_interrupt_keeps_what_was_finished_and_goes_on_from_there(good, model, tmp_path):
    started = tmp_path / "started"  # by the second chapter's long cell
    slow = chapter(tmp_path, "02_slow", f"import time; open({str(started)!r}, 'w').close(); time.sleep(60)")
    command = [str(RIMKIT), "run", "-j", "2", good, slow, "--model", str(model), "--out", str(tmp_path / "out")]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background is deaf to it
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": heard}
    pipes["env"] = os.environ | {"COLUMNS": "200"}
    with subprocess.Popen(command, **pipes) as process:
        finished = next(line for line in process.stdout if line.startswith("done"))  # after what it will do
        while process.poll() is None and not started.exists():
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert finished.startswith("done    01_good")
    assert process.returncode == 130
    assert errors.strip().splitlines() == [
        "rimkit: interrupted; what was finished is kept, and the same command goes on from there"
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["01_good.ipynb", "ledger"]
    again = rimkit("run", good, "--quiet", "--model", model, "--out", tmp_path / "out")
    assert again.stdout.splitlines()[1].startswith("skipped 01_good")


# -- what a run prints -----------------------------------------------------------------------------


def test_run_prints_the_claims_writes_the_page_and_fails_with_1(good, model, tmp_path):
    """One chapter fails with markup in what was asked and replied."""
    bad = chapter(tmp_path, "02_bad", "raise ValueError('<script>alert(1)</script> <script>alert(2)</script>')")
    process = rimkit("run", bad, good, "--model", model, "--out", tmp_path / "out")
    assert process.returncode == 1
    assert "done    01_good" in process.stdout
    told = process.stdout.splitlines()
    (claim,) = [line for line in told if "C1a" in line]
    assert claim.startswith("supported     C1a  Thinking raises the misalignment rate: +20.0")
    assert (
        "[+10.0,\xa0+30.0]" in process.stdout and max(len(line.replace(str(tmp_path), "")) for line in told[2:]) <= 140
    )
    assert told[0].startswith("2 chapters on ")
    assert told[-2] == told[1]  # what failed is the last thing that is seen, and what to do
    assert told[1].startswith("failed  02_bad  ValueError: <script>") and "tries again" in told[-1]
    assert f"Claims page: {tmp_path / 'out' / 'claims.html'}" in process.stdout
    text = (tmp_path / "out" / "claims.html").read_text(encoding="utf-8")
    assert f'data-model="{model}"' in text
    assert text.count("<script") == 1 and str(tmp_path) not in text  # its own, and no place on this machine
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &lt;script&gt;alert(2)&lt;/script&gt;" in text

    csv = tmp_path / "rows.csv"
    shown = rimkit("ledger", tmp_path / "out", "--csv", csv)
    assert shown.returncode == 0
    assert "failed: 02_bad on" in shown.stdout
    assert csv.read_text().splitlines()[0] == ",".join(ledger.COLUMNS)


def test_damaged_ledger_is_one_warning(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    process = rimkit("ledger", tmp_path)
    assert process.returncode == 0
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith("rimkit: warning: ")
    assert "cut.parquet cannot be read" in line


def test_compare_needs_two_models_that_exist(model, tmp_path):
    refused(rimkit("compare", model, tmp_path / "nowhere", "--out", tmp_path / "out"), "there is no folder", "nowhere")


# -- the claims page -------------------------------------------------------------------------------


def measured(folder: Path, name: str = "01_good", **changed) -> Path:
    """The ledger of a run with one clear row, its columns ``changed``."""
    row = ledger.row("C1a", model="mine", effect=0.2, effect_ci_low=0.1, effect_ci_high=0.3)
    ledger.write(ledger.table([row]).assign(**changed), folder / "ledger" / f"{name}.parquet")
    return folder / "ledger" / f"{name}.parquet"


def test_report_goes_where_it_is_told(tmp_path):
    measured(tmp_path)
    process = rimkit("report", tmp_path, "--html", tmp_path / "new" / "page.html")
    assert process.stderr == ""
    assert '<th scope="row">mine</th>' in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert not (tmp_path / "claims.html").exists()


def test_report_of_damaged_files_says_a_line_for_each_and_shows_the_rest(tmp_path):
    """A truncated file, a ledger of another version, and claims that this version does not know."""
    import pyarrow.parquet as pq

    measured(tmp_path)
    cut, other = measured(tmp_path, "02_cut"), measured(tmp_path, "03_other")
    cut.write_bytes(cut.read_bytes()[:-30])
    pq.write_table(pq.read_table(other).replace_schema_metadata({"rimkit_ledger_schema": "9"}), other)
    measured(tmp_path, "04_new", claim="C99z")
    process = rimkit("report", tmp_path)
    lines = process.stderr.strip().splitlines()
    assert process.returncode == 0, process.stderr
    assert [line.startswith("rimkit: warning: ") for line in lines] == [True] * 3
    for parts in (
        ("02_cut.parquet cannot be read",),
        ("03_other", f"ledger schema 9, not {ledger.SCHEMA_VERSION}"),
        ("unknown claims", "C99z"),
    ):
        assert [line for line in lines if all(part in line for part in parts)], parts
    text = (tmp_path / "claims.html").read_text(encoding="utf-8")
    assert '<th scope="row">mine</th>' in text
    assert "C99z" in text


def test_report_of_what_is_not_there(tmp_path):
    refused(rimkit("report", tmp_path / "nowhere"), "no ledger at")
    refused(rimkit("report", tmp_path / "rows.parquet"), "no ledger at")


def test_report_that_cannot_be_written(tmp_path):
    measured(tmp_path)
    refused(rimkit("report", tmp_path, "--html", tmp_path), "cannot write")


def test_doctor_finds_this_environment():
    process = rimkit("doctor")
    lines = process.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"OK", "WARN", "FAIL"}
    found = {line[5:].partition(":")[0]: line.split()[0] for line in lines}
    assert found["Python"] == found["packages"] == "OK" and ", torch 2" in process.stdout.replace("\n     ", " ")
    assert found["hub"] == "WARN"


# -- rows of a run, or the shipped ones ------------------------------------------------------------


def test_shipped_verdicts_can_be_narrowed_and_fit_eighty_columns():
    every = rimkit("ledger", "--shipped", "--claim", "C8", "--model", "rim-mini")
    lines = every.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    judged = ledger.claims_table(ledger.shipped(adapters=True))
    wanted = judged[judged["claim"].str.match("C8[a-z]$") & (judged["model"] == "rim-mini")]
    told = [line[14:17] for line in lines if line[:14].strip(" *")]
    assert told == wanted["claim"].tolist()
    one = rimkit("ledger", "--shipped", "--verdict", "contradicted").stdout.splitlines()
    words = {line[:14].strip() for line in one}
    assert words & {*ledger.VERDICTS} == {"contradicted"} and one[-1].startswith(
        "* The interval excludes the mean of the paper"
    )
    assert (
        sum(": mean effect " in line for line in rimkit("ledger", "--claim", "C1", columns=200).stdout.splitlines())
        == 2
    )
    assert "C10a" not in rimkit("ledger", "--shipped", "--claim", "C1").stdout
    *short, last, how = rimkit("ledger", "--shipped", columns=3000).stdout.splitlines()
    assert [line.split()[0] for line in short] == judged["claim"].unique().tolist()  # a line each
    assert len(rimkit("ledger", "--all", columns=200).stdout.splitlines()) > len(judged)
    refused(rimkit("ledger", "--model", "rim-mimi"), "unknown model 'rim-mimi'; did you mean 'rim-mini'?")
    assert f"{len(judged)} verdicts: {page.tally(judged.to_dict('records'))}. rim-mini-intent:1," in last
    assert "safe-mini:4 were measured; their weights are not shipped" in last and "--claim C1a" in how
    refused(rimkit("ledger", "--claim", "C99"), "unknown claim 'C99'")
    refused(rimkit("ledger", "--chapter", "77"), "unknown chapter '77'")
    refused(rimkit("ledger", "--verdict", "suported"), "unknown verdict 'suported'", "did you mean 'supported'")
