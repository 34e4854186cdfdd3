"""The front door: every name leads somewhere, is documented, and costs nothing until it is used."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import tiny
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import rimkit as rk
from rimkit import data
from rimkit.data import check_given, data_dir


@pytest.mark.parametrize("name", rk.NAMES)
def test_a_name_is_what_its_home_holds(name):
    home, _, thing = rk.NAMES[name][0].partition(":")
    module = import_module(f"rimkit.{home}")
    assert getattr(rk, name) is (getattr(module, thing) if thing else module)
    assert getattr(rk, name).__doc__.strip()


def test_the_table_is_the_help():
    for name, (_, what) in rk.NAMES.items():
        assert f"rk.{name:15}{what} [" in rk.__doc__
        assert len(f"rk.{name:15}{what}") <= 100
    assert len(rk.NAMES) <= 44


def test_the_table_of_places_is_right():
    """What CONTRIBUTING says where to find is defined there."""
    root = Path(__file__).parents[1]
    lines = (root / ".github" / "CONTRIBUTING.md").read_text("utf-8").splitlines()
    places = [re.findall(r"`([^`]+)`", line) for line in lines if line.startswith("| ") and "`rimkit/" in line]
    assert len(places) > 10
    for file, name in places:
        assert re.search(rf"^ *(def |class |){name}\b( =|:|\()", (root / file).read_text("utf-8"), re.M), (file, name)


TOPICS = ("thinking", "patterns", "probes", "heads", "tuning", "neurons", "ras", "repairs", "planted")


@pytest.mark.parametrize("topic", TOPICS)
def test_a_run_names_the_tables_that_it_makes(topic):
    """Shipped tables are those of runs; which of them hold judged replies ("…-judged") may go without saying."""
    shipped = {file.stem for file in (data_dir() / "results").glob(f"{topic}*.parquet")}
    shipped -= {"planted", "planted-difference"}  # `rimkit.runs.grid` makes these of several models
    said = import_module(f"rimkit.experiments.{topic}").run.__doc__
    named = set(re.findall(rf"(?<=``)({topic}[a-z-]*)(?=``)", said))
    assert named and named <= shipped
    assert {name for name in shipped if not name.endswith("-judged")} <= named


def test_names_are_listed_and_completed():
    assert set(rk.NAMES) <= set(dir(rk))
    shell = InteractiveShell()
    shell.user_ns["rk"] = rk
    with provisionalcompleter():
        assert [found.text.strip(".") for found in shell.Completer.completions("rk.ne", 5)] == ["neurons"]


def test_an_unknown_name_is_one_line_with_the_nearest():
    with pytest.raises(AttributeError, match=r"rimkit has no 'probe'; did you mean 'probes'\?"):
        _ = rk.probe
    assert not hasattr(rk, "nothing_like_it")


def test_the_import_is_quick():
    code = "from time import process_time as now; a = now(); import rimkit; print(now() - a)"
    times = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)]
    assert min(times) < 0.3


def test_no_name_hides_a_part_of_the_package():
    """``rk.paper`` is the package ``rimkit.paper``, whether that was imported before or not."""
    parts = {path.stem for path in Path(rk.__file__).parent.iterdir() if path.suffix in ("", ".py")}
    assert {name for name, (home, _) in rk.NAMES.items() if name in parts and home != name} == set()


# -- what functions are given ----------------------------------------------------------------------

VERDICTS = pd.DataFrame({
    "prompt_id": list("aabb"), "mode": ["think", "no-think"] * 2, "cluster": list("xxyy"), "reply": "no",
    "misaligned": [True, False, True, True], "refused": [False, True, False, False], "kind": "harmful",
})  # fmt: skip
REQUESTS = pd.DataFrame({"prompt_id": ["a"], "text": ["open my shed ."], "kind": "harmless", "cluster": "x"})
HEADS = pd.DataFrame({"layer": [0], "head": [1], "causal": [-0.4]})
RAW = pd.DataFrame({"text": ["a"], "reply": [""]})
MISUSED = {
    "text is no verdict": (lambda study: rk.rates(VERDICTS, "mode", "reply"), "'reply' holds 'no': it takes True"),
    "a list is no table": (lambda study: rk.rates([1], "mode"), "judged is a list; it takes a table"),
    "another cluster": (lambda study: rk.rates(VERDICTS, "mode", "refused", "verb"), "no column verb"),
    "a column twice": (lambda study: rk.rates(pd.concat([VERDICTS] * 2, axis=1), "mode", "refused"), "two columns"),
    "no prompt_id": (
        lambda study: rk.difference(VERDICTS.drop(columns="prompt_id"), "mode", "think", "no-think"), "prompt_id"
    ),
    "no column of that name": (lambda study: rk.stats.swapped(VERDICTS.drop(columns="mode")), "there is no 'mode'"),
    "no conditions": (lambda study: rk.heads.effects(VERDICTS), "there is no 'condition' in the table; it has"),
    "labels that are none": (lambda study: rk.stats.auroc([1, 2], ["harm", "none"]), "takes True or False"),
    "fewer labels": (lambda study: rk.stats.auroc([1, 2, 3], [True, False]), "3 scores need as many labels"),
    "labels of other prompts": (lambda study: rk.stats.auroc_above([1, 2], np.zeros((2, 3)), [True, False]), "as many labels"),
    "numbers for labels": (lambda study: rk.stats.areas(np.zeros((1, 2)), [2, 0]), "takes True or False"),
    "no draws": (lambda study: rk.stats.bootstrap_p(0.1, np.array([]), 5), "two draws and clusters, not 0 and 5"),
    "one cluster": (lambda study: rk.stats.bootstrap_interval(0.1, np.zeros(9), 1), "not 9 and 1"),
    "a word with a blank": (lambda study: rk.rates(VERDICTS.assign(refused="refused "), "mode", "refused"), "holds 'refused'"),
    "cells of many kinds": (lambda study: rk.rates(VERDICTS.assign(refused=[True, "yes", 1.0, None]), "mode", "refused"), "holds 'yes'"),
    "a probe by hand": (lambda study: rk.probes.directions({("harm", "think"): {}}), r"takes a dictionary\[tuple\[str, str\], Contrast"),
    "a probe by one name": (lambda study: rk.probes.separations({"harm": 1}), "it takes a dictionary"),
    "no probes": (lambda study: rk.probes.removed_and_added({}, {}), "one of the lists that it was given is empty"),
    "a name is no model": (lambda study: rk.generate("rim-mini", REQUESTS), r'it takes a model: rk.load\("rim-mini"\)'),
    "half a sample": (lambda study: rk.generate(study, REQUESTS, n_samples=1.5), "it takes a whole number"),
    "half a prompt": (lambda study: rk.evaluation().sets(["harmful"], n=1.5), "a whole number"),
    "nothing to do": (lambda study: rk.evaluation().sets([], n=2), "one of the lists that it was given is empty"),
    "a text is no conversation": (lambda study: rk.activations.read(study, ["a"]), "it takes conversations"),
    "a span that none has": (
        lambda study: rk.activations.read(study, [study.chat.encode("a", "think")], spans="rekuest"),
        "no prompt has the span 'rekuest'; did you mean 'request'",
    ),
    "heads by their names": (lambda study: rk.interventions.ablate_heads(study, ["L0H1"]).__enter__(), "pairs"),
    "half a layer": (lambda study: rk.heads.ablate(study, REQUESTS, {"a": [(0.5, 1)]}), "pairs"),
    "a unit too many": (lambda study: rk.stats.matched_sets([(0, 9)], 8), "no unit 9: they go from 0 to 7"),
    "sets without names": (lambda study: rk.heads.ablate(study, REQUESTS, [(0, 1)]), "it takes a dictionary"),
    "means of another model": (
        lambda study: rk.interventions.ablate_heads(study, [(0, 1)], mean=np.zeros((9, 9))).__enter__(), "the shape"
    ),
    "a rule without its column": (lambda study: rk.heads.first_by(HEADS, "direct", 1), "there is no 'direct'"),
    "k as a text": (lambda study: rk.heads.first_by(HEADS, "causal", "1"), "k is a str; it takes a whole number"),
    "no prompts by settings": (lambda study: rk.heads.Settings(n_prompts=0), "n_prompts must be a whole number"),
    "a judge without a name": (
        lambda study: rk.evaluation().judged(study, REQUESTS, "think", how=lambda replies, prompts: replies), "a judge"
    ),
    "a corpus as pairs": (lambda study: rk.finetune(study, [("a", "b")]), "corpus is a list; it takes"),
    "a corpus without replies": (lambda study: rk.finetune(study, RAW), "has no reply to learn from"),
    "an interval turned round": (lambda study: rk.ledger.verdict(0.5, 0.6, 0.4, 1, 0.05), "an interval in order"),
    "rows that are none": (lambda study: rk.ledger.table([{"effect": "much"}]), "these are no verdict rows"),
    "two rows for one cell": (
        lambda study: rk.tables.wide(VERDICTS.assign(value=[0.1, 0.2, 0.3, 0.4]), "cluster", "kind"), "several rows have one cluster"
    ),
    "no figure": (lambda study: rk.show(VERDICTS), "it takes a figure"),
    "no settings": (lambda study: rk.thinking.after_thoughts(study, REQUESTS, {"x": {}}, None), "settings is a NoneType"),
    "no text to read": (lambda study: rk.judges.final_answer(None), "solution is a NoneType; it takes a text"),
    "lists for arrays": (lambda study: rk.ras.cka([[1.0]], [[2.0]]), "a is a list; it takes ndarray"),
    "two columns by one name": (
        lambda study: rk.rates(pd.concat([VERDICTS, VERDICTS[["cluster"]]], axis=1), "mode", "refused"), "two columns by one name"
    ),
    "a seed below zero": (lambda study: rk.prompts.spread(VERDICTS, 1, seed=-1), "a seed is 0 or more"),
    "a column without a name": (lambda study: rk.agreement.agreement(VERDICTS, by=""), "there is no"),
    "a prompt without an id": (lambda study: rk.generate(study, REQUESTS.assign(prompt_id=None), progress=False), "is none"),
    "clusters of some": (lambda study: rk.stats.rate([1, 0, 1], ["a", "b"]), "3 values need as many clusters"),
    "a cluster that is missing": (lambda study: rk.stats.rate([1, 0], ["a", None]), "2 values need as many clusters, not 1"),
    "yes for a number": (lambda study: rk.prompts.spread(VERDICTS, True), "n is a bool; it takes a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISUSED)
def test_what_cannot_be_used_is_said_in_one_line(what):
    call, said = MISUSED[what]
    with pytest.raises(ValueError, match=said) as caught:
        call(tiny.study())
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_verdicts_from_a_file_count_as_the_truths_that_they_are():
    asked = {"by": "mode", "metrics": ["misaligned", "refused"]}
    written = VERDICTS.astype({"misaligned": str, "refused": int})
    pd.testing.assert_frame_equal(rk.rates(written, **asked), rk.rates(VERDICTS, **asked))
    found = (rk.difference(table, "mode", "think", "no-think") for table in (written, VERDICTS))
    assert next(found) == next(found)
    unfinished = {"finished": "False", "n_tokens": 9, "thought": "", "judge": "refusal"}
    assert (
        "only 0% of its replies" in rk.difference(written.assign(**unfinished), "mode", "think", "no-think")["why_not"]
    )


def test_a_fault_of_our_own_stays_one():
    """A name that is missing in a dictionary, and no column of a table, is not the reader's."""
    module = ModuleType("ours")
    exec("from pandas import DataFrame\ndef look(table: DataFrame) -> int:\n    return {}['kind']", vars(module))
    module.look.__module__ = "ours"
    check_given(module)
    with pytest.raises(KeyError):
        module.look(VERDICTS)
    exec("def full(n: int):\n    raise RuntimeError('out of memory')", vars(module))
    module.full.__module__ = "ours"
    data.CHECKED.discard("ours")
    check_given(module)
    with pytest.raises(RuntimeError, match="out of memory"):
        module.full(1.5)
