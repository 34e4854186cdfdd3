"""Reads of a model that runs elsewhere, in nnsight's offline dry run; and what is refused before it starts.

The live service was not tried.
"""

from pathlib import Path

import numpy as np
import pytest
import tiny
from families import conversations, family
from IPython.utils.capture import capture_output
from notebooks import chapter, run_cells
from typer.testing import CliRunner

import rimkit
from rimkit import ledger
from rimkit.behavior.generation import generate
from rimkit.behavior.prompts import own_prompts
from rimkit.cli import app
from rimkit.data import UserError, find_chapters
from rimkit.experiments import probes
from rimkit.models import activations, ndif
from rimkit.models.hooks import architecture

ROOT = Path(__file__).parents[1]
SPANS = ("request", "last", "empty")  # the last is in half of the conversations


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_a_dry_run_reads_what_is_read_here(name):
    here = family(name)
    there, items = ndif.dry_run(here), conversations(here)
    kinds = ("residual", "z", "neurons")
    found, expected = (activations.read(study, items, kinds, SPANS, batch_size=4) for study in (there, here))
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key].dtype == np.float32
        np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=1e-5, err_msg=str(key))


def test_probes_work_on_what_was_read_elsewhere():
    here = family("qwen3")
    items = conversations(here)
    found, expected = (probes.states_at(study, items, ["last"])["last"] for study in (ndif.dry_run(here), here))
    labels = [True, False] * 3
    np.testing.assert_allclose(probes.fit(found, labels).vectors, probes.fit(expected, labels).vectors, atol=1e-5)


@pytest.mark.parametrize(
    "use",
    [
        lambda study: generate(study, own_prompts(["open my shed ."]), "think"),
        architecture,
        lambda study: next(activations.stream(study, [study.chat.encode("open my shed .", "think")])),  # here
    ],
)
def test_what_needs_the_weights_says_so_in_one_line(use):
    with pytest.raises(UserError, match=r"runs elsewhere, .* need the weights here \(leave --remote out\)") as error:
        use(ndif.dry_run(tiny.study()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda study, items: activations.read(study, []), "there must be 1 prompt to read"),
        (lambda study, items: activations.read(study, items, ["residuals"]), "did you mean 'residual'"),
        (lambda study, items: activations.read(study, items, pool="max"), "pooled by their mean"),
        (lambda study, items: rimkit.load(study, remote="ndiff"), "did you mean 'ndif'"),
    ],
)
def test_bad_input_is_one_line(call, message):
    study = ndif.dry_run(tiny.study())
    with pytest.raises(UserError, match=message):
        call(study, [study.chat.encode("open my shed .", "think")])


def test_experts_have_no_neurons_elsewhere():
    here = family("qwen3_moe")
    with pytest.raises(UserError, match="mixture of experts"):
        activations.read(ndif.dry_run(here), conversations(here), ["neurons"])


def test_a_served_model_needs_no_weights_here(tmp_path):
    words = tiny.tokenizer()
    for part in (tiny.random_model(words), words):
        part.save_pretrained(tmp_path)
    study = ndif.connect(str(tmp_path))
    assert {parameter.device.type for parameter in study.nn._module.parameters()} == {"meta"}
    assert (study.context, study.pad_id, study.device) == (128, words.pad_token_id, "ndif")


def test_ndif_needs_a_hub_id_and_a_key(monkeypatch):
    from nnsight import CONFIG

    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    with pytest.raises(UserError, match="rim-mini runs here, without --remote"):
        ndif.check_served("rim-mini")
    with pytest.raises(UserError, match="set NDIF_API_KEY"):
        ndif.check_served("owner/name")
    monkeypatch.setenv("NDIF_API_KEY", "x")
    ndif.check_served("owner/name")


# -- the command -----------------------------------------------------------------------------------

TRACES = """import rimkit
from rimkit.models.activations import read
study = rimkit.load(model, remote=remote)
states = read(study, [study.chat.encode("open my shed .", "think")])["residual", "last"]
print(type(study).__name__, states.shape)"""


def test_a_chapter_that_declares_it_can_trace_in_a_dry_run(tmp_path, monkeypatch):
    import nbformat

    from rimkit.runs import execute

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    parameters = (
        'model: str = "rim-mini"\nremote: str = ""  # where the model runs: ndif, local (dry run), or empty: here'
    )
    path = chapter(tmp_path, "10_traces", TRACES, parameters=parameters)
    done = execute.run([path], "rim-mini", tmp_path / "out", {"remote": "local"}, progress=False)
    assert list(done["error"]) == [""]
    (output,) = nbformat.read(tmp_path / "out" / "10_traces.ipynb", 4).cells[3].outputs
    assert output.text.startswith("RemoteStudy (")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("04",), "04_refusal_heads cannot run remotely: it generates, fine-tunes"),
        (("05",), "05_finetuning_backfires cannot run remotely: it generates, fine-tunes"),
        (("03",), "rim-mini runs here, without --remote"),
    ],
)
def test_what_cannot_run_remotely_says_so_before_it_starts(tmp_path, arguments, message):
    from rimkit.runs import execute

    with pytest.raises(UserError, match=message) as error:
        execute.run(arguments, out=tmp_path / "out", remote=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_options_behind_a_name_hold_elsewhere(monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", "x")
    ndif.check_served("owner/name+instruct")
    with pytest.raises(UserError, match=r"NDIF decides how it holds owner/name: leave \+4bit out"):
        ndif.check_served("owner/name+4bit")


def test_the_command_has_the_flag(tmp_path):
    done = CliRunner().invoke(app, ["run", "05", "--remote", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.stderr.startswith("rimkit: 05_finetuning_backfires cannot run remotely")


def test_the_flag_is_passed_on(tmp_path, monkeypatch):
    from rimkit.runs import execute

    given = []
    path = chapter(tmp_path, "10_traces", parameters='model: str = ""\nremote: str = ""')
    monkeypatch.setenv("NDIF_API_KEY", "x")
    monkeypatch.setattr(execute, "check_chat", lambda *_: None)
    monkeypatch.setattr(execute, "_run_job", lambda job, *_, **__: given.append(job.values) or {"chapter": job.chapter})
    execute.run([path], "owner/name", tmp_path / "out", remote=True)
    assert given == [{"remote": "ndif", "model": "owner/name"}]


def test_chapter_03_leaves_its_model_elsewhere(shell, tmp_path):
    """As in a run with --remote, in the dry run: harm is read, and what needs replies is left out and said."""
    (path,) = find_chapters(["03"])
    with capture_output() as printed:
        given = {"model": "noise-mini", "remote": "local", "n_prompts": 16, "n_random": 2}
        run_cells(shell, path, ledger=str(tmp_path / "rows.parquet"), **given)
    assert "the model runs elsewhere: no replies" in printed.stdout
    rows = ledger.read(tmp_path).set_index("claim")
    assert sorted(rows.index) == ["C3a", "C3b", "C3c", "C3d", "C3e", "C3f"]
    assert rows["device"].eq("local").all()
    assert rows.loc[["C3a"], "effect"].notna().all() and rows.loc[["C3a"], "why_not"].isna().all()
    unread = rows.drop(index="C3a")
    assert unread[["value", "effect"]].isna().all(axis=None)
    assert unread["why_not"].eq("no replies: the model runs elsewhere").all()
