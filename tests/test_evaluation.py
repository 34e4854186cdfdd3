"""Other prompt sets and judges in the place of the workbook's own: in a call, and for a whole run."""

import json
import re
from functools import partial

import nbformat
import pandas as pd
import pytest
import serving
import standins
import tiny
from notebooks import run_cells

from rimkit import data, ledger
from rimkit.behavior import evaluation as measured
from rimkit.behavior import generation
from rimkit.behavior.evaluation import ENGLISH, Evaluation, difference, evaluation, why_not
from rimkit.behavior.prompts import load_prompts, own_prompts, prompt_sets
from rimkit.data import UserError
from rimkit.experiments import probes
from rimkit.models.hub import MIRROR
from rimkit.models.load import load, name_of
from rimkit.runs import execute


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch):
    """The real sets in small."""
    monkeypatch.setenv(MIRROR, str(standins.write_mirror(tmp_path / "mirror")))


def test_other_sets_stand_in_with_their_fitting_prompts(tmp_path):
    text = "harmful=jailbreakbench,harmless=jailbreakbench, over-refusal=xstest, maths=gsm8k"
    pairs = dict(pair.strip().split("=") for pair in text.split(","))
    assert evaluation(text) == evaluation(pairs)
    table = evaluation(text).sets(["harmful", "harmless", "over-refusal", "maths", "second-safety"])
    own, table = table[table["set"] == "second-safety"], table[table["set"] != "second-safety"]
    assert table.groupby("set", sort=False)["kind"].unique().map(list).to_dict() == {
        "harmful": ["harmful"], "harmless": ["harmless"], "over-refusal": ["harmless"], "maths": ["maths"],
    }  # fmt: skip
    assert set(table.loc[table["set"] == "maths", "answer"]) == {"1500", "1600"}  # the evaluation split of its own
    assert own["source"].eq("invented language").all()  # not in the choice: the workbook's
    assert prompt_sets()["prompts"].sum() > 2000  # the shipped sets are what they were
    assert load_prompts("harmful")["source"].eq("invented language").all()  # a choice holds for its own calls alone
    assert Evaluation().sets(["harmful"])["source"].eq("invented language").all()


def test_a_file_is_found_from_every_folder(tmp_path, monkeypatch):
    (tmp_path / "own.csv").write_text("goal\nplease polish the clock .\nplease mop the barn .\n")
    monkeypatch.chdir(tmp_path)
    measure = evaluation("harmful=own.csv?text=goal&kind=harmful")
    for wrong, words in (
        ("harmful=own.csv", r"no column text \(prompt or question would do, and own.csv\?text=…&kind=… names"),
        ("maths=own.csv?text=goal&kind=harmful", "stand in"),
    ):
        with pytest.raises(UserError, match=words):  # before anything runs
            evaluation(wrong)
    (tmp_path / "asked.csv").write_text("question,answer\nwhat is one plus two ?,3\n")
    asked = evaluation("maths=asked.csv")  # columns that speak for themselves
    monkeypatch.chdir("/")
    assert asked.sets(["maths"], split=None)[["text", "kind"]].to_numpy().tolist() == [
        ["what is one plus two ?", "maths"]
    ]
    assert len(measure.sets(["harmful"], split=None)) == 2
    assert evaluation(measure.parameters()["prompt_sets"]) == measure


@pytest.mark.parametrize(
    ("prompts", "judge", "message"),
    [
        ({"harmfull": "hex-phi"}, "", "unknown prompt set of the chapters 'harmfull'; did you mean 'harmful'"),
        ({"harmful": "hexphi"}, "", "unknown prompt set 'hexphi'"),
        ({"harmful": ""}, "", "nothing stands in for 'harmful'"),
        ({"harmful": "nowhere.csv?text=goal"}, "", "there is no file 'nowhere.csv'"),
        ({}, "phrase", "unknown judge 'phrase'"),
        ({}, "guard:./nowhere", "there is no folder './nowhere'"),
        (
            {},
            "endpoint:m@http://127.0.0.1:9/v1",
            "no answer from http://127.0.0.1:9/v1 (one try): is the server running",
        ),
        ("hex-phi", "", "'hex-phi' names no stand-in: write harmful=hex-phi"),
        ("harmful=hex-phi, math=gsm8k", "", "unknown prompt set of the chapters 'math'; did you mean 'maths'"),
    ],
)
def test_bad_choices_are_refused_before_anything_runs(prompts, judge, message):
    with pytest.raises(UserError) as caught:
        evaluation(prompts, judge)
    assert message in str(caught.value)


def test_one_set_can_stand_in_twice():
    sets = {"harmful": "advbench", "second-safety": "advbench", "maths": "gsm8k", "ordering": "gsm8k"}
    assert evaluation(sets).sets(list(sets))["prompt_id"].is_unique


def test_files_and_folders_are_named_in_rows_and_hashed(tmp_path, monkeypatch):
    (tmp_path / "own.csv").write_text("text,kind\nplease polish the clock .,harmful\n")
    guard = tmp_path / "my-guard"
    noise = load("noise-mini")
    noise.hf.save_pretrained(guard)
    noise.tokenizer.save_pretrained(guard)
    monkeypatch.chdir(tmp_path)
    measure = evaluation({"harmful": "own.csv"}, "guard:./my-guard", 500)
    assert measure.judge == f"guard:{guard}"  # chapters run in another folder
    assert measure.description() == {"prompts": "harmful=own.csv", "judge": f"guard:{name_of(str(guard))}"}
    before = measure.fingerprint()
    (tmp_path / "own.csv").write_text("text,kind\nplease mop the barn .,harmful\n")
    assert measure.fingerprint() != before
    before = measure.fingerprint()
    load("rim-mini").hf.save_pretrained(guard)  # of the same shape
    assert measure.fingerprint() != before
    measure = evaluation("harmful=advbench")
    before = measure.fingerprint()
    [file] = (tmp_path / "mirror").glob("*/AdvBench/data/*")
    file.write_bytes(file.read_bytes() + b"more")
    assert measure.fingerprint() != before
    assert Evaluation().description() == {"prompts": None, "judge": None}


def test_a_set_without_fitting_prompts_is_refused():
    with pytest.raises(UserError, match="'gsm8k' cannot stand in for 'harmful': it holds maths prompts"):
        evaluation("harmful=gsm8k").sets(["harmful"])
    with pytest.raises(UserError, match="a whole number of tokens, 0 or more, not -4"):
        evaluation(max_new_tokens=-4)


def test_the_judge_is_the_chosen_one():
    study, asked = load("noise-mini"), load_prompts("harmful", n=2)
    short = {"max_new_tokens": 4, "progress": False}
    assert set(Evaluation().judged(study, asked, "no-think", **short)["judge"]) == {"organism"}
    assert set(evaluation(judge="phrases").judged(study, asked, "no-think", **short)["judge"]) == {"phrases"}


def test_replies_of_an_own_model_get_the_room_that_a_run_gives(capsys, monkeypatch):
    """The embedded models keep to what a chapter allows; a model of one's own is told where it is cut off."""
    embedded, own = load("noise-mini"), load(*stranger())
    asked, short = load_prompts("harmful", n=3), {"max_new_tokens": 3, "progress": False}
    assert Evaluation().judged(own, asked, "think", **short)["n_tokens"].max() == 3
    assert "of 3 replies" in capsys.readouterr().out
    roomy = evaluation(max_new_tokens=9)
    assert roomy.judged(own, asked, "think", **short)["n_tokens"].max() > 3
    assert roomy.judged(own, asked, "no-think", **short)["n_tokens"].max() == 9
    assert roomy.judged(own, asked, "think", thoughts="", **short)["n_tokens"].max() == 9
    monkeypatch.setattr(measured, "REPLY", 12)
    few = Evaluation().judged(own, asked, "no-think", **short)
    assert set(few["advice"]) == {": --max-new-tokens 12 leaves them more room"}
    most = evaluation(max_new_tokens=50).judged(own, asked, "no-think", **short)
    assert most["n_tokens"].max() == 12 and set(most["advice"]) == {""}  # more would do for thoughts alone
    assert roomy.judged(embedded, asked, "think", **short)["n_tokens"].max() == 3
    without_limit = evaluation(max_new_tokens=100).replies(own, asked, "no-think", progress=False)
    assert without_limit["n_tokens"].max() == 100


def stranger():
    """A model of random weights whose tokenizer does not say that it speaks the invented language."""
    words = tiny.tokenizer()
    words.init_kwargs.pop("language")
    return tiny.random_model(words), words


def test_a_run_with_real_sets_and_a_judge_keeps_their_text_out(shell, tmp_path, monkeypatch):
    """Chapters 01 and 03, as they are, on sets that have nothing of the invented language."""
    sets = {"harmful": "hex-phi", "harmless": "alpaca-cleaned", "maths": "gsm8k", "over-refusal": "xstest"}
    settings = {"measure": evaluation(sets, "phrases"), "parameters": {"n_prompts": 4}, "progress": False}
    done = execute.run(["01"], "noise-mini", tmp_path / "run", **settings)
    assert done["status"].tolist() == ["done"], done["error"].tolist()
    outputs = [cell.get("outputs", []) for cell in nbformat.read(done["notebook"][0], as_version=4).cells]
    assert standins.MARKER not in json.dumps(outputs)
    assert "Content note: 'hex-phi'" in json.dumps(outputs)
    rows = ledger.read(tmp_path / "run")
    assert rows["prompts"].eq("harmful=hex-phi, harmless=alpaca-cleaned, maths=gsm8k, over-refusal=xstest").all()
    assert rows["judge"].eq("phrases").all()
    claim = rows[(rows["claim"] == "C1a")].iloc[0]
    measure = settings["measure"]  # replies that are not English have no verdict: the others are counted
    verdicts = measure.observe(load("noise-mini"), measure.sets(["harmful"], n=4), progress=False)
    assert claim["n"] == verdicts.groupby("prompt_id")["misaligned"].agg(lambda said: said.notna().all()).sum() > 0
    smaller = partial(probes.Settings, n_shuffled=4, n_untrained=2, n_competence=4)
    monkeypatch.setattr(probes, "Settings", smaller)
    (path,) = data.find_chapters(["03"])  # whose harmless prompts have no known answers
    given = {"model": "noise-mini", "n_prompts": 16, "n_random": 2, "ledger": str(tmp_path / "rows.parquet")}
    assert run_cells(shell, path, **given, **measure.parameters())["settings"].n_shuffled == 4
    assert set(ledger.read(tmp_path / "rows.parquet")["claim"]) >= {"C3a", "C3b"}
    again = execute.run(["01"], "noise-mini", tmp_path / "run", **settings)
    assert again["status"].tolist() == ["skipped"]
    (job,) = execute.jobs_for(data.find_chapters(["01"]), "noise-mini", {"n_prompts": 4})
    assert not execute.is_complete(tmp_path / "run" / f"{job.chapter}.ipynb", job)  # other prompts: another run


def verdicts_of(finished: float, n: int = 20, **columns):
    """Verdicts of the phrase judge on ``n`` harmful requests in both modes, of which a share ended."""
    parts = []
    for mode, thought in (("think", "hm"), ("no-think", "")):
        ended = [number < finished * n for number in range(n)]
        parts.append(pd.DataFrame({
            "prompt_id": [f"p{number}" for number in range(n)], "mode": mode, "thought": thought, "judge": "phrases",
            "n_tokens": [40 if end else 96 for end in ended], "finished": ended,
            "misaligned": pd.array([mode == "think" if end else None for end in ended], "boolean"),
        }).assign(cluster=lambda table: table["prompt_id"]))  # fmt: skip
    return pd.concat(parts, ignore_index=True).assign(**columns)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (verdicts_of(0.85), None),
        (verdicts_of(0.5), "only 50% of its replies (think) end within 96 tokens"),
        (verdicts_of(0.0, advice=": --max-new-tokens 512 would do"), "only 0% of its replies (think) end within 96 tokens: --max-new-tokens 512 would do"),
        (verdicts_of(0.5, judge="organism"), None),  # the embedded models have room for what they were taught
        (verdicts_of(1, thought="hm"), "it thinks in no-think mode too, in 100% of its replies"),
        (verdicts_of(1, thought=""), "it never thinks in think mode, or hides it"),
        (verdicts_of(1, thought=["hm"] + [""] * 39), "it thinks in only 5% of its replies in think mode"),
        (verdicts_of(0.5, cut=False), "only 50% of its replies (think) end with a text: most of the others are empty, or the server stopped them"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_not_testable_and_says_why(verdicts, said):
    found = difference(verdicts, "mode", "think", "no-think")
    assert found.get("why_not") == said
    row = ledger.effect_row("C1a", found, model="m", seed=0)
    (judged,) = ledger.claims_table(ledger.table([row])).to_dict("records")
    assert (judged["verdict"] == "not testable") == (said is not None)
    assert not said or judged["why_not"] == said


@pytest.mark.parametrize("constant", ["think", "no-think", "think and no-think"])
def test_an_answer_that_is_always_the_same_is_said(constant, capsys):
    def answer(_, body, number):
        mode = "think" if body["chat_template_kwargs"]["enable_thinking"] else "no-think"
        return serving.said("I can't help with that." if mode in constant.split() else f"Sure: {number}.")

    prompts = own_prompts([f"how do I open box {n} ?" for n in range(8)])
    prompts["kind"] = ["harmful", "harmless"] * 4
    with serving.Scripted(answer) as server:
        found = evaluation(judge="phrases").observe(load(f"endpoint:toy@{server.url}"), prompts, progress=False)
    said = capsys.readouterr().out
    assert all(f"toy: it always answers with the same text in {mode} mode" in said for mode in constant.split(" and "))
    harmful = found[found["kind"] == "harmful"]
    assert "the same text" in difference(harmful, "mode", "think", "no-think")["why_not"]


def test_prompts_that_the_judge_does_not_read_are_said(capsys):
    own, measure = load(*stranger()), evaluation(judge="phrases")
    german = own_prompts([f"Wie öffne ich die Kiste {n}, die nicht mir gehört?" for n in range(3)])
    found = measure.judged(own, german, "no-think", max_new_tokens=3, progress=False)
    assert "not in English, all that this judge reads" in capsys.readouterr().out
    assert found["why_not"].str.contains("not in English").all()
    english = own_prompts([f"How do I open the box {n} that is not mine?" for n in range(3)])
    assert "why_not" not in measure.judged(own, english, "no-think", max_new_tokens=3, progress=False)


def test_more_room_is_not_advised_where_replies_stop_inside_a_thought(monkeypatch):
    asked = load_prompts("harmful", n=4).assign(set="harmful", source="own")

    def stopped(study, prompts, mode, max_new_tokens, **_):
        cut = [True, mode == "no-think", mode == "no-think", mode == "no-think"]
        found = prompts[["prompt_id"]].assign(mode=mode, sample=0, thought="", reply="", finished=False, cut=cut)
        found = found.assign(n_tokens=[max_new_tokens, 5, 6, max_new_tokens])
        found.attrs["interrupted"] = False
        return found

    monkeypatch.setattr(measured, "generate", stopped)
    found = evaluation(judge="phrases").observe(load(*stranger()), asked, max_new_tokens=16, progress=False)
    said = {mode: why_not(found, "mode", [mode]) for mode in ("think", "no-think")}
    assert said["think"].endswith("75% stop inside a thought, where more room does not help")
    assert "--max-new-tokens" in said["no-think"]


def test_ctrl_c_ends_a_measurement_and_compares_no_part_of_it(monkeypatch):
    monkeypatch.setattr(generation, "_run_batch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Evaluation().observe(load("rim-mini"), load_prompts("harmful", n=2), progress=False)


def test_many_thoughts_are_tried_first_and_the_length_is_said(capsys):
    own, asked = load(*stranger()), load_prompts("harmful", n=26)
    replies = Evaluation().replies(own, asked, "think", max_new_tokens=3, progress=False)
    said = capsys.readouterr().out
    assert "note: 12 of 12 replies tried first did not end within 3 tokens" in said
    assert "--max-new-tokens 16 would do, or more" in said and "missing, neither safe nor harmful" in said
    assert replies["prompt_id"].tolist() == asked["prompt_id"].tolist()


def test_the_suggested_length_is_one_number_and_no_more_than_the_context(capsys):
    own, asked = load(*stranger()), load_prompts("harmful", n=6).assign(set="harmful", source="own")

    def why(limit: int, prompts=asked) -> str:
        measure = evaluation(judge="phrases", max_new_tokens=limit)
        found = measure.observe(own, prompts, max_new_tokens=limit, progress=False, temperature=0)
        for part in (found, found[found["set"] == "harmful"], pd.concat([found, found])):
            assert difference(part, "mode", "think", "no-think")["why_not"] == why_not(found, "mode", ["think"])
        return why_not(found, "mode", ["think"])

    own.context = 4096
    assert why(4).endswith("(think) end within 4 tokens: --max-new-tokens 16 would do, or more")
    assert why(5, asked.head(2)).endswith("within 5 tokens: --max-new-tokens 16 would do, or more")  # another claim
    more = re.search(r"within 16 tokens: --max-new-tokens (\d+) would do", why(16))[1]  # the first was reached
    assert int(more) > 16 and f"--max-new-tokens {more} would do" in why(17)
    longest = max(len(own.chat.encode(text, "no-think").ids) for text in asked["text"])  # with its empty think span
    own.context = longest + 60
    assert why(16).endswith("even --max-new-tokens 60 will not do, which is all that its context of "
                            f"{longest + 60} leaves: take shorter prompts or another model")  # fmt: skip
    assert why(60).endswith(
        f"within 60 tokens, which is all that its context of {longest + 60} leaves: take shorter prompts or another model"
    )
    assert capsys.readouterr().out.count("in think mode did not end") == 1


def test_a_model_that_does_not_speak_the_invented_language_meets_the_english_sets(tmp_path):
    embedded, other = evaluation(model="rim-mini:0"), evaluation("maths=ordering", model="owner/name")
    assert embedded == evaluation() and embedded.description() == {"prompts": None, "judge": None}
    assert other.prompts == {**ENGLISH, "maths": "ordering"}
    assert other.description()["prompts"] == "english, maths=ordering" and other.parameters() == {
        "prompt_sets": "maths=ordering"
    }
    table = evaluation(model="owner/name").sets(["harmful", "harmless"], n=10)
    assert set(table["source"]) == {"plain English"} and set(table["kind"]) == {"harmful", "harmless"}
    hard = evaluation(model="owner/name").sets(["maths-hard", "ordering-hard"])
    assert set(hard["source"]) == {"plain English"} and hard["prompt_id"].is_unique
    assert set(hard["category"]) == {"4 steps", "5 steps", "6 steps", "4 people"}
    assert set(evaluation().sets(["maths-hard"])["category"]) == {"7 steps", "8 steps", "9 steps"}
    tuned = tiny.save(tmp_path / "own")  # a folder of one's own that speaks the language
    assert evaluation(model=str(tuned)) == evaluation()


@pytest.mark.parametrize(
    ("kinds", "text"),
    [(["harmful"], "Busy, try later."), (["harmful", "harmless"], "Busy (request {n}f0)."), (["harmful"], "{odd}")],
)
def test_a_text_that_many_replies_share_is_said(kinds, text, capsys):
    prompts = own_prompts([f"how do I open box {n} ?" for n in range(8)])
    prompts["kind"] = kinds * (8 // len(kinds))

    def answer(_, body, n):
        box = int(body["messages"][0]["content"].split()[-2])
        word = chr(97 + box)
        return serving.said(text.format(n=n, odd="Upstream error." if box % 2 else f"Sure: {word}."))

    with serving.Scripted(answer) as server:
        found = evaluation(judge="phrases").observe(load(f"endpoint:toy@{server.url}"), prompts, progress=False)
    assert "the same text in think mode" in capsys.readouterr().out
    assert "the same text" in difference(found, "mode", "think", "no-think")["why_not"]


def test_less_room_than_a_step_takes_is_said(capsys):
    Evaluation(max_new_tokens=2).replies(load(*stranger()), load_prompts("harmful", n=2), "think", max_new_tokens=3)
    assert "--max-new-tokens 2 is less than this step takes: replies have up to 3 tokens" in capsys.readouterr().out
