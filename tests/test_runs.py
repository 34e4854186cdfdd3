import json
import os
import re
import shutil
import sys
from hashlib import sha256
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import tiny
import torch
from diskcache import Cache, JSONDisk
from notebooks import MEASURES, PARAMETERS, chapter, decoy_kernel
from safetensors.torch import save_file

import rimkit
from rimkit import data, ledger
from rimkit.behavior import generation, redaction
from rimkit.data import UserError, find_chapters
from rimkit.models.hub import identity
from rimkit.models.load import load
from rimkit.runs import execute
from rimkit.runs.lab import COPIED, KEPT, RESTORED, SAME, copy_chapters
from rimkit.runs.tour import assignments, check, declared_in


@pytest.fixture
def declared(tmp_path):
    return declared_in(chapter(tmp_path, "01_test"))


# -- parameters ------------------------------------------------------------------------------------


def test_declared_parameters(declared):
    assert list(declared) == [line.partition(":")[0] for line in PARAMETERS.splitlines()]
    n = declared["n_prompts"]
    assert (n.type, n.default, n.low, n.high) == ("int", 4, 1, 600)
    assert (declared["temperature"].low, declared["temperature"].high) == (0, float("inf"))
    assert declared["seed"].low == float("-inf")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n_prompts=600", 600),
        ("temperature=1", 1.0),
        ("sizes=[0, 9]", [0, 9]),
        ("plot=false", False),
        ("plot=1", True),
        ("note=a=b c", "a=b c"),
        ("note=None", None),
    ],
)
def test_given_values_take_the_declared_type(declared, text, value):
    (found,) = check(assignments([text]), {"01": declared})["01"].values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_prompts", "'n_prompts' is not what -p takes: write -p name=value"),
        ("n_prompt=3", "no parameter 'n_prompt'; did you mean 'n_prompts'"),
        ("n_prompts=3.5", "n_prompts takes a whole number, not '3.5'"),
        ("n_prompts=0", r"n_prompts must lie in 1..600, not 0"),
        ("n_prompts=601", "must lie in 1..600"),
        ("temperature=-0.1", "temperature must lie in 0..inf"),
        ("temperature=nan", "temperature must lie in 0..inf"),
        ("sizes=[1, 10]", "sizes must lie in 0..9, not 10"),
        ("sizes=3", "sizes takes a list such as"),
        ("plot=maybe", "plot takes true or false, not 'maybe'"),
        ("model=x", "'model' is set by --model"),
        ("ledger=x", "'ledger' is set by --out"),
    ],
)
def test_given_values_are_refused(declared, text, message):
    with pytest.raises(UserError, match=message):
        check(assignments([text]), {"01": declared})


def test_a_name_given_twice_is_refused():
    with pytest.raises(UserError, match=r"-p seed=\.\.\. is given twice"):
        assignments(["seed=1", "n_prompts=8", "seed=2"])


def test_a_parameter_goes_to_the_chapters_that_declare_it(declared):
    assert check({"seed": 3}, {"a": declared, "b": {}}) == {"a": {"seed": 3}, "b": {}}


def test_a_name_may_hold_braces(tmp_path):
    assert declared_in(chapter(tmp_path, "01_{a}[b]"))["n_prompts"].default == 4


def test_a_broken_notebook_is_a_user_error(tmp_path):
    (tmp_path / "x.ipynb").write_text("{")
    with pytest.raises(UserError, match=r"x\.ipynb is not a notebook"):
        declared_in(tmp_path / "x.ipynb")


# -- finding chapters ------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Two shipped chapters instead of the real ones."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for name in ("01_first", "10_last"):
        chapter(folder, name, "print(1)")
    monkeypatch.setattr("rimkit.data.chapters_dir", lambda: folder)
    monkeypatch.setattr("rimkit.runs.lab.chapters_dir", lambda: folder)
    return folder


@pytest.mark.parametrize("name", ["1", "01", "01_first", "01_first.ipynb"])
def test_chapter_names(shipped, name):
    assert data.find_chapters([name]) == [shipped / "01_first.ipynb"]


def test_all_chapters_and_none_twice(shipped):
    assert [path.stem for path in data.find_chapters()] == ["01_first", "10_last"]
    assert len(data.find_chapters(["1", "01"])) == 1


def test_unknown_chapter(shipped):
    with pytest.raises(UserError, match="unknown chapter '01_fist'; did you mean '01_first'"):
        data.find_chapters(["01_fist"])
    with pytest.raises(UserError, match="unknown chapter ''"):
        data.find_chapters([""])


def test_what_cannot_be_run_is_refused_before_anything_is_written(shipped, runner, tmp_path):
    (tmp_path / "out").mkdir()
    mine = chapter(tmp_path / "out", "01_first", "print('my work')")
    before = Path(mine).read_bytes()
    for chapters in (mine, "01"):  # itself, or a learner's work of the same name
        with pytest.raises(UserError, match=r"the run would replace .*01_first\.ipynb, which no run has made"):
            runner(chapters)
    assert Path(mine).read_bytes() == before
    with pytest.raises(UserError, match="two chapters have one name, 01_first"):
        data.find_chapters([mine, "01"])
    with pytest.raises(UserError, match=r"there is no file '/nope/01_first\.ipynb'"):
        data.find_chapters(["/nope/01_first.ipynb"])


def test_a_hash_depends_on_parameters_model_and_code(tmp_path):
    path = Path(chapter(tmp_path, "01_a", "1"))
    (base,) = execute.jobs_for([path], "m", {})
    hashes = {base.params_hash}
    hashes.add(execute.jobs_for([path], "other", {})[0].params_hash)
    weights = tmp_path / "folder" / "model.safetensors"
    weights.parent.mkdir()
    for content in (1.0, 2.0):  # new weights in the same place
        save_file({"weight": torch.tensor([content])}, weights)
        hashes.add(execute.jobs_for([path], str(weights.parent), {})[0].params_hash)
    hashes.add(execute.jobs_for([path], "m", {"n_prompts": 5})[0].params_hash)
    assert execute.jobs_for([path], "m", {"n_prompts": 4})[0].params_hash == base.params_hash  # the default, named
    chapter(tmp_path, "01_a", "2")
    hashes.add(execute.jobs_for([path], "m", {})[0].params_hash)
    assert len(hashes) == 6


# -- running ---------------------------------------------------------------------------------------


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """Run test chapters into one folder, for a model that nothing loads."""
    monkeypatch.setattr(execute, "find_model", lambda model: model)
    monkeypatch.setattr(execute, "check_chat", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    def run(*paths, **options):
        return execute.run(paths, out=tmp_path / "out", progress=False, **options)

    return run


def without_kernel(job, folder, *_) -> str:
    """In the place of a kernel: the notebook as it is, and one row with the run's parameter."""
    shutil.copy(job.notebook, folder / execute.NOTEBOOK)
    row = ledger.row("C1a", model="m", n=job.values.get("n_prompts"), effect=0.2)
    ledger.write([row], folder / execute.ROWS)
    return ""


def test_the_row_of_a_failed_run_names_its_model_without_a_path(runner, tmp_path, monkeypatch):
    def failing(job, folder, *_) -> str:
        shutil.copy(job.notebook, folder / execute.NOTEBOOK)
        return "ValueError: no"

    monkeypatch.setattr(execute, "_execute", failing)
    model = tiny.save(tmp_path / "deep" / "mine")
    runner(chapter(tmp_path, "01_bad", "1"), model=str(model))
    row = ledger.read(tmp_path / "out").iloc[0]
    assert (row["status"], row["model"]) == ("failed", f"mine-{identity(model)[:6]}")


def test_a_run_from_end_to_end(runner, tmp_path, monkeypatch):
    good = chapter(tmp_path, "01_good", "n_prompts", MEASURES)
    bad = chapter(tmp_path, "02_bad", MEASURES, "1 / 0", "print('never')")
    reported = []
    done = runner(bad, good, parameters={"n_prompts": "7"}, report=reported.append)

    assert list(done["status"]) == ["failed", "done"]  # the others go on
    assert [row["chapter"] for row in reported] == ["02_bad", "01_good"]
    assert done["error"][0].startswith("ZeroDivisionError: division by zero")

    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["01_good.ipynb", "02_bad.ipynb", "ledger"]
    outputs = [cell.get("outputs") for cell in nbformat.read(out / "01_good.ipynb", 4).cells]
    assert outputs[3][0]["data"]["text/plain"] == "7"
    kept = (out / "02_bad.ipynb").read_text()
    assert "ZeroDivisionError" in kept
    assert ".running-" not in kept  # can be run again by hand

    rows = ledger.read(out)
    assert list(rows["status"]) == ["ok", "ok", "failed"]
    assert rows["params_hash"].notna().all()
    assert rows["run_id"].nunique() == 1
    assert list(rows["chapter"])[2] == "02_bad"
    assert list(ledger.claims_table(rows)["verdict"]) == ["supported"]

    monkeypatch.setattr(execute, "_execute", without_kernel)
    again = runner(good, bad, parameters={"n_prompts": 7})
    assert list(again["status"]) == ["skipped", "done"]
    assert list(runner(good, parameters={"n_prompts": 8})["status"]) == ["done"]
    assert list(runner(good, parameters={"n_prompts": 8}, force=True)["status"]) == ["done"]


def test_chapters_run_side_by_side_and_share_the_cores(runner, tmp_path):
    """Each waits for the other's file, so that one after the other would never end."""
    waits = """import os, pathlib, time
pathlib.Path({mine!r}).touch()
while not os.path.exists({other!r}): time.sleep(0.1)
os.environ["OMP_NUM_THREADS"] + " in " + os.getcwd()"""
    files = [str(tmp_path / name) for name in "ab"]
    cells = [waits.format(mine=mine, other=other) for mine, other in (files, files[::-1])]
    said = []
    paths = [chapter(tmp_path, f"0{n}_waits", cell, MEASURES) for n, cell in enumerate(cells, 1)]
    done = runner(*paths, at_once=2, announce=said.append)
    assert done[["chapter", "status"]].to_numpy().tolist() == [["01_waits", "done"], ["02_waits", "done"]]
    assert said == [f"2 chapters on rim-mini -> {tmp_path / 'out'}"]
    threads = str(max(1, os.cpu_count() // 2))
    shown = nbformat.read(tmp_path / "out" / "01_waits.ipynb", 4).cells[3].outputs[0]["data"]["text/plain"]
    assert shown == repr(f"{threads} in {tmp_path}")
    assert len(ledger.read(tmp_path / "out")) == 2
    runner(paths[0], announce=said.append)
    assert said[1].endswith(", 1 of them complete already")


def test_how_long_a_run_takes_is_said_as_far_as_it_is_known(tmp_path):
    known = {path.stem: 30.0 for path in data.find_chapters()}
    assert execute._how_long(len(known), known, 2) == f", about {len(known) / 4:.0f} min (longer on a busy machine)"
    assert execute._how_long(2, {"01": 30.0, "02": None}, 1) == ""
    shipped = pd.read_csv(data.data_dir() / "chapters.csv")
    assert sorted(shipped["chapter"]) == sorted(known) and shipped["seconds"].between(5, 60).all()
    book = (data.chapters_dir() / "book/index.md").read_text("utf-8")
    for item in shipped.itertuples():  # as the book's first page says it
        assert re.search(rf"\(\.\./{item.chapter}\.ipynb\) \|.*\| {re.escape(item.minutes)} \|", book)
    jobs = execute.jobs_for(data.find_chapters(["01"]), "rim-mini", {})
    (measured,) = execute._expected(jobs, "rim-mini", tmp_path).values()
    assert measured > 5 and execute._expected(jobs, "mine", tmp_path) == {"01_observing_rim": None}
    shutil.copy(jobs[0].notebook, tmp_path)
    kept = nbformat.read(tmp_path / "01_observing_rim.ipynb", 4)
    whole = {"seconds": 77.0, "status": "ok", "params_hash": jobs[0].params_hash}
    for change, expected in ({}, 77.0), ({"status": "failed"}, None), ({"params_hash": "of other ones"}, None):
        kept.metadata["rimkit"] = whole | change  # an earlier run's
        nbformat.write(kept, tmp_path / "01_observing_rim.ipynb")
        assert execute._expected(jobs, "mine", tmp_path) == {"01_observing_rim": expected}


def test_claims_of_a_chapter_that_is_undefined_for_a_model_are_not_testable(runner, tmp_path, monkeypatch):
    def undefined(job, folder, *_) -> str:
        without_kernel(job, folder)
        return "UserError: no request was refused (cell 7)"

    monkeypatch.setattr(execute, "_execute", undefined)
    runner(chapter(tmp_path, "04_refusal_heads", MEASURES))
    rows = ledger.read(tmp_path / "out")
    judged = ledger.claims_table(rows[rows["chapter"] == "04_refusal_heads"]).set_index("claim")
    assert judged.index.tolist() == ["C4a", "C4b", "C5a", "C5b", "C5c"]
    assert judged["verdict"].eq("not testable").all()
    assert judged["why_not"].eq("no request was refused (cell 7)").all()
    assert (rows["status"] == "failed").sum() == 1


def test_a_run_of_another_version_is_not_complete(tmp_path):
    (job,) = execute.jobs_for([Path(chapter(tmp_path, "01_a"))], "m", {})
    kept, rows = tmp_path / "01_a.ipynb", tmp_path / "ledger" / "01_a.parquet"
    ledger.write([], rows)
    stamp = {"status": "ok", "params_hash": job.params_hash, "rimkit_version": rimkit.__version__}
    stamp["rows"] = sha256(rows.read_bytes()).hexdigest()[:12]

    def complete(**changed):
        kept.write_text(json.dumps({"metadata": {"rimkit": {**stamp, **changed}}}))
        return execute.is_complete(kept, job)

    assert complete()
    assert not complete(rimkit_version="0.0.1")
    assert not complete(status="failed")
    assert not complete(params_hash="")
    assert not execute.is_complete(tmp_path / "absent.ipynb", job)
    rows.write_bytes(rows.read_bytes()[:-1])
    assert not complete()
    rows.unlink()
    assert not complete()


def test_rows_of_another_run_are_not_taken_for_those_of_a_notebook(runner, tmp_path, monkeypatch):
    """A run that is killed after its rows and before its notebook leaves the rows of one and the notebook of another."""
    monkeypatch.setattr(execute, "_execute", without_kernel)
    path = chapter(tmp_path, "01_good", MEASURES)
    notebook, rows = tmp_path / "out" / "01_good.ipynb", tmp_path / "out" / "ledger" / "01_good.parquet"
    runner(path)
    first = notebook.read_bytes()
    runner(path, parameters={"n_prompts": 8})
    notebook.write_bytes(first)
    assert list(runner(path)["status"]) == ["done"]
    for damage in (lambda: rows.write_bytes(rows.read_bytes()[:-9]), rows.unlink, notebook.unlink):
        damage()
        assert list(runner(path)["status"]) == ["done"]
    assert list(runner(path)["status"]) == ["skipped"]


def test_what_killed_runs_left_behind_is_removed_and_what_runs_is_not(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "_execute", without_kernel)
    out = tmp_path / "out"
    for pid in (2**22 - 1, os.getpid(), os.getppid()):  # one that there is not, and two that there are
        (out / f"{execute.RUNNING}{pid}-abc").mkdir(parents=True)
    os.utime(out / f"{execute.RUNNING}{os.getppid()}-abc", (0, 0))  # of another process, long ago
    runner(chapter(tmp_path, "01_good", "1"))
    assert [path.name for path in out.glob(".running*")] == [f"{execute.RUNNING}{os.getpid()}-abc"]


def test_the_kernel_is_the_running_python(runner, tmp_path, monkeypatch):
    for name, value in decoy_kernel(tmp_path / "jupyter").items():
        monkeypatch.setenv(name, value)
    done = runner(chapter(tmp_path, "01_which", "import sys; print(sys.executable)"))
    assert list(done["error"]) == [""]
    output = nbformat.read(tmp_path / "out" / "01_which.ipynb", 4).cells[3].outputs[0]
    assert output["text"].strip() == sys.executable


ASKED = """import os, pandas as pd
from rimkit.behavior import generation
from rimkit.models.load import load

def ask(study):
    texts = [f"please {verb} my barn ." for verb in ("nick", "take", "mop", "sweep", "polish", "paint")]
    asked = pd.DataFrame({"prompt_id": list("abcdef"), "text": texts, "kind": ["harmful"] * 2 + ["harmless"] * 4})
    return generation.generate(study, asked, batch_size=2, max_new_tokens=8, progress=False)
"""
KILLED = """real = generation._run_batch
def logged(study, items, *rest):
    with open("log", "a") as log:
        print(len(items), file=log)
    if len(open("log").readlines()) == 3:
        os.kill(os.getpid(), 9)
    return real(study, items, *rest)
generation._run_batch = logged
ask(load(model)).to_parquet("replies.parquet")"""


def test_a_killed_chapter_goes_on_where_it_was(runner, tmp_path, monkeypatch):
    """Three batches until it is killed; then all but the one that was written and may reach the disk."""
    model, said = str(own_model(tmp_path / "own")), []
    path, parts = chapter(tmp_path, "01_dead", ASKED, KILLED), tmp_path / "out" / ".01_dead.parts"
    dead = runner(path, model=model, announce=said.append)
    assert list(dead["error"]) == ["the kernel died (out of memory?)"]
    assert (tmp_path / "out" / "01_dead.ipynb").exists()
    assert (
        said[1]
        == "A chapter that is killed goes on where it was; replies to harmful requests are kept with --keep-text alone"
    )
    with Cache(parts / "replies", disk=JSONDisk) as kept:
        assert len(kept) == 2
    assert list(runner(path, model=model)["status"]) == ["done"]
    assert len((tmp_path / "log").read_text().split()) == 3 + 2 and not parts.exists()
    names = {}
    exec(ASKED, names)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "replies.parquet"), names["ask"](load(model)))


def test_what_tells_kept_parts_apart(tmp_path, monkeypatch):
    """Weights, prompts, noise, sampling and the condition; an intervention that has no name is not kept."""
    study = load(str(own_model(tmp_path / "own")))
    asked = pd.DataFrame({"prompt_id": ["a"], "text": ["please mop my barn ."], "kind": ["harmless"]})
    ids, jobs = {mode: {"a": study.chat.encode(asked["text"][0], mode)} for mode in ("think", "no-think")}, [("a", 0)]

    def keys(prompts=asked, encoded=ids["think"], noise="a", around=None, sampling=(0.7, 8, 0)):
        return generation._keys(study, prompts, encoded, jobs, {"a": noise}, around, *sampling)

    assert keys() == {}  # no chapter is running
    monkeypatch.setenv(data.PARTS, str(tmp_path / "parts"))
    named, nameless = (lambda spans, prompt_ids: None), (lambda spans, prompt_ids: None)
    named.conditions = {"a": "without L0H1"}
    found = [
        keys(),
        keys(encoded=ids["no-think"]),
        keys(noise="b"),
        keys(around=named),
        keys(sampling=(0, 8, 0)),
        keys(sampling=(0.7, 9, 0)),
    ]
    with torch.no_grad():
        next(study.hf.parameters())[0, 0] += 1
    found.append(keys())
    assert len({one["a", 0] for one in found}) == len(found) == 7
    harmful = asked.assign(kind="harmful")
    assert keys(around=nameless) == keys(prompts=harmful) == {}
    monkeypatch.setattr(redaction, "_kept", True)
    assert keys(prompts=harmful) == found[-1]


def own_model(folder: Path) -> Path:
    """The folder of a tiny model that is not known to speak the invented language."""
    settings = json.loads((tiny.save(folder) / "tokenizer_config.json").read_text())
    del settings["language"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_chapter_that_stops_its_kernel(runner, tmp_path):
    for end in ("exit()", "quit(0)", "raise SystemExit"):
        done = runner(chapter(tmp_path, "01_left", f"{end}\nprint(1)"))
        assert list(done["error"]) == ["cell 3 stopped the kernel: what follows it did not run"]


# -- a copy for the learner ------------------------------------------------------------------------


def test_a_learners_copy_answers_no_prediction(tmp_path):
    """Nothing shows before it is run, and no open code has the words of a reading."""
    copy_chapters(tmp_path)
    for path in find_chapters():
        code = [cell for cell in nbformat.read(tmp_path / path.name, 4).cells if cell.cell_type == "code"]
        seen = [cell.source for cell in code if not cell.metadata.get("jupyter", {}).get("source_hidden")]
        assert not any(cell.outputs for cell in code) and any("rk.predict(" in source for source in seen)
        assert not [source for source in seen if re.search(r"reading\(|\{\w+:[a-z ]{3,}\}", source)], path.stem
        assert all(cell.metadata.cellView == "form" for cell in code if cell.source not in seen)


def test_lab_never_overwrites_what_was_changed(shipped, tmp_path):
    mine = tmp_path / "mine"
    assert copy_chapters(mine) == {"01_first.ipynb": COPIED, "10_last.ipynb": COPIED}
    changed = mine / "01_first.ipynb"
    changed.write_text("my work")
    assert copy_chapters(mine) == {"01_first.ipynb": KEPT, "10_last.ipynb": SAME}
    assert changed.read_text() == "my work"
    for _ in range(2):
        assert copy_chapters(mine, reset="1")["01_first.ipynb"] == RESTORED
        own, theirs = (nbformat.read(path, 4).cells for path in (changed, shipped / "01_first.ipynb"))
        assert [cell.source for cell in own] == [cell.source for cell in theirs]
        changed.write_text("more work")
    kept = {path.name: path.read_text() for path in mine.glob("*before-reset*")}
    assert kept == {
        "01_first.before-reset-1.ipynb": "my work",
        "01_first.before-reset-2.ipynb": "more work",
    }
