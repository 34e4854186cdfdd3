"""Models behind an endpoint: the same replies as from a model that is loaded here."""

import json
import re
import shutil
import sys
import time
import traceback

import pandas as pd
import pytest
import serving

import rimkit
from rimkit.behavior.evaluation import Evaluation, judge
from rimkit.behavior.generation import COLUMNS, generate
from rimkit.behavior.llm_judges import EndpointJudge
from rimkit.data import UserError
from rimkit.experiments import patterns
from rimkit.experiments.heads import moved_attention
from rimkit.models.endpoint import Client, EndpointModel, split_name
from rimkit.models.hub import locate
from rimkit.runs.execute import check_chat, find_model

PROMPTS = pd.DataFrame({"prompt_id": ["a", "b", "c"], "text": ["open my shed .", "oil the lamp .", "go ."]})
QUIET = {"progress": False}
MEASURE = Evaluation()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The embedded model with think tags that are not special, as in Qwen3: raw text keeps them."""
    folder = tmp_path_factory.mktemp("model") / "rim-mini"
    shutil.copytree(locate("rim-mini", None)[1], folder)
    file = folder / "tokenizer.json"
    words = json.loads(file.read_text())
    for token in words["added_tokens"]:
        token["special"] = token["special"] and "think" not in token["content"]
    file.write_text(json.dumps(words))
    return folder


@pytest.fixture(scope="module")
def served(folder):
    with serving.transformers_serve(folder) as url:
        yield rimkit.load(f"endpoint:{folder}@{url}")


@pytest.fixture(scope="module")
def here(folder):
    return rimkit.load(folder)


# -- against `transformers serve` --------------------------------------------------------------------------


def assert_same(local: pd.DataFrame, remote: pd.DataFrame) -> None:
    """Equal but for the name: that of a folder says which weights it holds, which nobody knows of a server."""
    pd.testing.assert_frame_equal(*(table.drop(columns="model", errors="ignore") for table in (local, remote)))


def test_greedy_replies_and_verdicts_are_those_of_the_model_loaded_here(served, here):
    prompts = MEASURE.sets(["harmful", "harmless", "maths"], n=3)
    settings = {"temperature": 0, "max_new_tokens": 96, **QUIET}
    local, remote = (MEASURE.observe(model, prompts, **settings) for model in (here, served))
    assert_same(local, remote)
    assert set(local["mode"]) == {"think", "no-think"} and local["finished"].all()
    assert (local["thought"] != "").sum() == 9 and local["refused"].nunique() == 2  # there was something to compare


def test_a_reply_that_is_cut_off_is_unfinished_here_and_there(served, here):
    prompts = MEASURE.sets(["harmful"], n=4)
    local, remote = (generate(model, prompts, temperature=0, max_new_tokens=9, **QUIET) for model in (here, served))
    assert_same(local, remote)
    assert not remote["finished"].any() and (remote["reply"] == "").all() and (remote["thought"] != "").all()


def test_forced_thoughts_and_beginnings_chapter_02(served, here):
    prompts = MEASURE.sets(["harmful"], n=1)
    local, remote = (patterns.injected(model, prompts, temperature=0) for model in (here, served))
    assert_same(local, remote)
    assert set(remote["style"]) == {"none", "neutral", "careful", "effort-minimising"}
    whole = [generate(model, prompts, thoughts="it is fine .", temperature=0, **QUIET) for model in (here, served)]
    pd.testing.assert_frame_equal(*whole)
    assert set(whole[1]["thought"]) == {"it is fine ."}


def test_sampling_draws_with_a_seed(served, monkeypatch):
    monkeypatch.setattr(served.client, "concurrency", 1)  # this server has one seed for all requests under way
    prompts = MEASURE.sets(["harmful"], n=1)
    settings = {"n_samples": 2, "temperature": 1.0, "max_new_tokens": 24, **QUIET}
    first, again, other = (generate(served, prompts, seed=seed, **settings) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert first["thought"].tolist() != other["thought"].tolist()
    assert first["sample"].tolist() == [0, 1]


def test_what_lies_inside_is_not_there(served):
    prompts = MEASURE.sets(["harmful"], n=3)
    for inside in ("hf", "nn", "context", "pad_id"):
        with pytest.raises(UserError, match="behind an endpoint, which gives replies but nothing from inside"):
            getattr(served, inside)
    with pytest.raises(UserError, match="behind an endpoint"):
        moved_attention(served, list(prompts["text"]))
    with pytest.raises(UserError, match="nothing inside the model can be changed"):
        generate(served, prompts, around=lambda spans, prompt_ids: None)


def test_a_model_that_cannot_follow_a_rubric_judges_nothing(served, tmp_path, capsys):
    prompts = MEASURE.sets(["harmful"], n=2)
    replies = pd.DataFrame({"prompt_id": prompts["prompt_id"], "reply": "sure .", "finished": True})
    how = EndpointJudge(f"{served.client.model}@{served.client.url}", attempts=2, max_tokens=12, cache=tmp_path)
    verdicts = judge(replies, prompts, how)
    assert how.spent["calls"] == 4 and how.spent["tokens_in"] > 400
    assert set(verdicts["unjudged"]) == {"no score in the answer"} and verdicts["misaligned"].isna().all()
    assert "2 of 2 replies are not judged (no score in the answer: 2)" in capsys.readouterr().out
    judge(replies, prompts, how)
    assert how.spent["calls"] == 4  # kept as unjudged, and not paid for again


# -- against a server that says what it is told ---------------------------------------------------------------


def model(url: str, **limits) -> EndpointModel:
    study = rimkit.load(f"endpoint:judge-1@{url}")
    for name, value in limits.items():
        setattr(study.client, name, value)
    return study


def test_a_served_model_stands_in_tables_by_its_name():
    with serving.Scripted(lambda *_: serving.said("ok")) as server:
        assert model(server.url).identity == {"model": "judge-1", "seed": None, "device": "endpoint"}
        folders = [rimkit.load(f"endpoint:/data/{run}/final@{server.url}").name for run in "ab"]
    assert len(set(folders)) == 2 and all(name.startswith("final-") for name in folders)


def one_reply(*answer_of, mode="think", **message):
    with serving.Scripted(lambda *_: serving.said(*answer_of, **message)) as server:
        replies = generate(model(server.url), PROMPTS.head(1), mode, **QUIET)
    assert list(replies.columns) == COLUMNS
    row = replies.iloc[0]
    return row["thought"], row["reply"], row["n_tokens"], bool(row["finished"])


@pytest.mark.parametrize(
    ("answer", "message", "expected"),
    [
        (("<think>\nhm .\n</think>\n\nsure .",), {}, ("hm .", "sure .", 6, True)),  # no parser on the server
        (("hm .\n</think>\n\nsure .",), {}, ("hm .", "sure .", 6, True)),  # the template opened the thought
        (("sure .",), {"reasoning_content": "hm .\n"}, ("hm .", "sure .", 6, True)),  # SGLang, older vLLM
        (("\n\nsure .",), {"reasoning": "hm ."}, ("hm .", "sure .", 6, True)),  # vLLM
        (("sure .",), {"reasoning_details": [{"type": "reasoning.text", "text": "hm ."}, {"type": "reasoning.encrypted", "data": "x"},
                                             {"type": "reasoning.summary", "summary": "so ."}]}, ("hm .\n\nso .", "sure .", 6, True)),
        (("sure .", "eos_token"), {"thinking_blocks": [{"type": "thinking", "thinking": "hm ."}]}, ("hm .", "sure .", 6, True)),
        (("sure .",), {"thought": {"content": ["hm .", "so ."]}}, ("hm .\n\nso .", "sure .", 6, True)),
        ((None, "length"), {"reasoning": "hm . hm"}, ("hm . hm", "", 7, False)),
        ((None,), {"reasoning": "hm ."}, ("hm .", "", 6, False)),
        ((None,), {}, ("", "", 6, False)),  # an empty reply is no reply
        ((None,), {"refusal": "no ."}, ("", "no .", 6, True)),  # OpenAI
        (("<think>\nhm . hm", "length"), {}, ("hm . hm", "", 7, False)),
        (("sure . and so", "length"), {}, ("sure . and so", "", 7, False)),  # nothing says that it is no thought
        (("<think>hm .</think>\n<think>so .</think>\nno .",), {}, ("hm .\n\nso .", "no .", 6, True)),
        (("so .</think>\nno .",), {"reasoning": "hm ."}, ("hm .\n\nso .", "no .", 6, True)),
        (("\n</think>\n\nno .",), {"reasoning_content": "hm ."}, ("hm .", "no .", 6, True)),
        (("<think>hm .</think> so </think>no .",), {}, ("hm .\n\nso", "no .", 6, True)),
        (([{"type": "thinking", "thinking": [{"type": "text", "text": "hm ."}]}, {"type": "text", "text": "no ."}],), {}, ("hm .", "no .", 6, True)),
        (([{"type": "reasoning", "text": "hm ."}, {"type": "output_text", "text": "no ."}],), {}, ("hm .", "no .", 6, True)),
        (("sure .",), {}, ("", "sure .", 6, True)),
        (("<think>\n\n</think>\n\nsure .",), {}, ("", "sure .", 6, True)),
        (("<think>a</think>\n<think>b</think>\nsure .",), {}, ("a\n\nb", "sure .", 6, True)),  # several blocks
        (("<think>a</think>sure .",), {"reasoning": "hm ."}, ("hm .\n\na", "sure .", 6, True)),  # the parser left one
        (("\n</think>\n\nsure .",), {"reasoning": "hm ."}, ("hm .", "sure .", 6, True)),  # and here a close
        (("a</think>b</think>sure .",), {}, ("a\n\nb", "sure .", 6, True)),
        (("[THINK]a[/THINK]sure .",), {}, ("a", "sure .", 6, True)),
        (("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>sure .",), {},
         ("a", "sure .", 6, True)),
    ],
)  # fmt: skip
def test_thought_and_reply_are_told_apart_in_every_form(answer, message, expected):
    assert one_reply(*answer, **message) == expected


def test_a_cut_off_thought_without_tags_is_known_by_its_neighbours():
    texts = {
        "open my shed .": ("hm .\n</think>\n\nsure .", "stop"),
        "oil the lamp .": ("hm . hm", "length"),
        "go .": ("<think>", "length"),
    }
    with serving.Scripted(lambda _, body, n: serving.said(*texts[body["messages"][0]["content"]])) as server:
        replies = generate(model(server.url), PROMPTS, **QUIET)
    assert replies["thought"].tolist() == ["hm .", "hm . hm", ""]
    assert replies["reply"].tolist() == ["sure .", "", ""]


def test_where_others_answer_without_a_thought_a_cut_off_text_is_a_reply(capsys):
    answers = {
        "open my shed .": ("sure .", "stop"),
        "oil the lamp .": ("first take", "length"),
        "go .": ("no .", "stop"),
    }
    with serving.Scripted(lambda _, body, n: serving.said(*answers[body["messages"][0]["content"]])) as server:
        replies = generate(model(server.url), PROMPTS, **QUIET)
    assert replies["reply"].tolist() == ["sure .", "first take", "no ."] and not replies["thought"].any()
    assert "none of 3 think replies holds a thought" in capsys.readouterr().out


def test_one_request_that_is_refused_is_one_reply_that_is_missing(capsys):
    odd = [serving.failed(400, "too long"), (200, {"choices": []}), (200, b'{"choices": [{"mess')]

    def answer(path, body, number):
        return odd[0] if body["messages"][0]["content"].startswith("oil") else serving.said("<think>hm .</think>sure .")

    for _ in range(3):
        with serving.Scripted(answer) as server:
            study = model(server.url, retries=1, concurrency=1)
            replies = generate(study, PROMPTS, **QUIET)
        assert replies["reply"].tolist() == ["sure .", "", "sure ."] and replies["finished"].tolist() == [
            True,
            False,
            True,
        ]
        said = capsys.readouterr().out
        assert "1 of 3 requests were refused, and have no reply" in said and "none of" not in said
        verdicts = judge(replies, PROMPTS.assign(kind="harmful"), "phrases")
        assert verdicts["misaligned"].isna().tolist() == [False, True, False]
        odd.pop(0)


@pytest.mark.parametrize(
    "body",
    [
        {}, [], None, "text", {"choices": None}, {"choices": [None]}, {"choices": [{"message": None}]}, {"choices": "no"}, {"choices": [{"message": "sure ."}]},
        {"choices": [{"message": {"content": 7}}]}, {"choices": [{"message": {"content": [{"type": "image"}]}}]},
        b'{"choices": [{"message": {"content": "so', b"\xff\xfe{}", b"",
        b'{"created": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_odd_answers_are_one_clear_line(body):
    with serving.Scripted(lambda *_: (200, body)) as server:
        study = model(server.url, retries=0)
        with pytest.raises(UserError, match="not in OpenAI's form") as caught:
            generate(study, PROMPTS.head(1), **QUIET)
    assert "\n" not in str(caught.value)


def test_odd_counts_and_half_characters_do_no_harm():
    body = serving.said("<think>hm .</think>sure \ud83d .")[1] | {
        "usage": {"prompt_tokens": None, "completion_tokens": ["7"]}
    }
    with serving.Scripted(lambda *_: (200, body)) as server:
        row = generate(model(server.url), PROMPTS.head(1), **QUIET).iloc[0]
    assert (row["reply"], row["n_tokens"]) == ("sure ? .", 0)


def test_an_answer_that_is_cut_off_is_asked_for_again():
    def answer(path, body, number):
        return (
            (200, b'{"choices": [', {"content-type": "application/json"})
            if number == 1
            else serving.said("<think>hm .</think>sure .")
        )

    with serving.Scripted(answer) as server:
        assert generate(model(server.url, retries=1), PROMPTS.head(1), **QUIET)["reply"].item() == "sure ."


def test_what_is_sent(capsys):
    with serving.Scripted(lambda *_: serving.said("<think>\nhm .\n</think>\nno .")) as server:
        study = model(server.url, settings={"top_k": -1, "top_p": None})
        generate(study, PROMPTS.head(1), "no-think", n_samples=2, temperature=0.5, max_new_tokens=11, **QUIET)
        generate(study, PROMPTS.head(1), "think", n_samples=3, temperature=0, **QUIET)
        bodies = [body for _, body, _ in server.seen]
    assert len(bodies) == 3  # greedy samples are one request
    assert {json.dumps(body["chat_template_kwargs"]) for body in bodies[:2]} == {'{"enable_thinking": false}'}
    assert bodies[2]["chat_template_kwargs"] == {"enable_thinking": True} and "seed" not in bodies[2]
    assert len({body["seed"] for body in bodies[:2]}) == 2
    expected = {
        "model": "judge-1",
        "messages": [{"role": "user", "content": "open my shed ."}],
        "temperature": 0.5,
        "max_tokens": 11,
        "top_k": -1,
    }
    assert {name: bodies[0][name] for name in expected} == expected and "top_p" not in bodies[0]


def test_a_server_that_ignores_the_mode_is_named(capsys):
    thought, reply, *_ = one_reply("no .", mode="no-think", reasoning="hm .")
    assert (thought, reply) == ("hm .", "no .")
    assert "1 of 1 no-think replies hold a thought: the server ignores the mode" in capsys.readouterr().out


def test_a_server_that_never_thinks_and_tags_that_nobody_knows_are_named(capsys):
    with serving.Scripted(lambda *_: serving.said("<reflection>hm</reflection> sure .")) as server:
        generate(model(server.url), PROMPTS, **QUIET)
    said = capsys.readouterr().out
    assert "none of 3 think replies holds a thought" in said
    assert "3 of 3 think replies hold tags that are not known: <reflection>" in said


@pytest.mark.parametrize("mode", ["think", "no-think"])
def test_thoughts_are_told_apart_in_either_mode(mode):
    thought, reply, *_ = one_reply("<think>\nI could .\n</think>\n\nno .", mode=mode)
    assert (thought, reply) == ("I could .", "no .")


def test_where_all_answers_were_cut_off_none_is_a_reply():
    with serving.Scripted(lambda *_: serving.said("first I would", "length")) as server:
        replies = generate(model(server.url), PROMPTS, **QUIET)
    assert set(replies["reply"]) == {""} and not replies["finished"].any()


def test_a_failure_in_the_middle_keeps_the_answers_and_the_same_call_goes_on(capsys):
    broken = [True]

    def answer(path, body, number):
        return serving.failed(500, "out of memory") if broken[0] and number > 2 else serving.said(f"reply {number} .")

    with serving.Scripted(answer) as server:
        study = model(server.url, concurrency=1, retries=1)
        with pytest.raises(
            UserError, match=r"failed \(500, 2 tries\): out of memory; 2 of 3 answers are kept"
        ) as caught:
            generate(study, PROMPTS, **QUIET)
        assert "\n" not in str(caught.value)
        broken[0] = False
        replies = generate(study, PROMPTS, **QUIET)
        assert "going on: 2 of 3 requests were answered before" in capsys.readouterr().out
        assert replies["reply"].tolist() == ["reply 1 .", "reply 2 .", "reply 5 ."]
        assert not study.kept
        assert generate(study, PROMPTS, **QUIET)["reply"].tolist() != replies["reply"].tolist()  # nothing stale


def test_ctrl_c_returns_what_has_come(capsys, monkeypatch):
    with serving.Scripted(lambda p, b, number: serving.said(f"reply {number} .")) as server:
        study = model(server.url, concurrency=1)
        each = study.client.each

        def interrupted(calls, done):
            def keep(key, value):
                done(key, value)
                if len(study.kept) == 2:
                    raise KeyboardInterrupt

            each(calls, keep)

        monkeypatch.setattr(study.client, "each", interrupted)
        part = generate(study, PROMPTS, **QUIET)
    assert part.attrs["interrupted"] and part["prompt_id"].tolist() == ["a", "b"]
    assert capsys.readouterr().out.endswith("interrupted: 2 of 3 replies are kept\n")


def test_requests_run_side_by_side_and_within_the_limit():
    def slow(*_):
        time.sleep(0.3)
        return serving.said("ok .")

    with serving.Scripted(slow) as server:
        generate(model(server.url, concurrency=2), PROMPTS, **QUIET)
        assert server.most == 2
        server.answer = lambda *_: serving.said("ok .")
        start = time.perf_counter()
        generate(model(server.url, per_minute=300), PROMPTS, **QUIET)
        assert time.perf_counter() - start > 0.39  # three beginnings, a fifth of a second apart


# -- bad input -----------------------------------------------------------------------------------------------


def test_addresses_without_a_secret_are_taken():
    for url in (
        "https://a.b/client/v4/accounts/0123456789abcdef0123456789abcdef/ai/v1",
        "http://h:1/Llama-3-8B-Instruct/v1",
    ):
        assert split_name(f"hf-internal/m@{url}") == ("hf-internal/m", url)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("endpoint:", "names no model"),
        ("endpoint:judge-1@http://user:word@localhost:1/v1", "must hold no password"),
        ("endpoint:judge-1@http://localhost:1/v1?key=x", "must hold no password or key"),
        *(
            (f"endpoint:judge-1@http://localhost:1/{part}/v1", "must hold no password or key")
            for part in (
                "hf_abcdefghij",
                "gsk_abcdefghij",
                "AIzaSyA1234567",
                "xai-a1b2c3d4e5f6g7h8i9j0k",
                "sk-abcdefghij",
                "aB3dE6gH9jK2mN5pQ8sT",
                "v1/user:word@host",
                "v1@user:word",
                "user%3Aword%40host",
            )
        ),
        ("endpoint:judge-1@https://127.0.0.1:1/v1", "needs a key and there is none: .* RIMKIT_API_KEY"),
        ("endpoint:judge-1@http://127.0.0.1:9/v1", "no answer from .*is the server running"),
        ("endpoint:judge-1", "api.openai.com/v1 needs a key .*OPENAI_API_KEY or RIMKIT_API_KEY"),
    ],
)
def test_bad_addresses_are_one_clear_line(name, words, monkeypatch):
    for variable in ("RIMKIT_API_KEY", "OPENAI_API_KEY", "RIMKIT_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=words) as caught:
        rimkit.load(name)
    assert "\n" not in str(caught.value) and not re.search("hf_|gsk_|AIza|xai-|sk-a|aB3|word@|user", str(caught.value))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (serving.failed(404, "model not found"), "knows no model 'judge-2'.*did you mean 'judge-1'"),
        (
            serving.failed(422, "Unexpected fields: chat_template_kwargs"),
            "takes none of the requests: Unexpected fields",
        ),
        (serving.failed(401, "key secret-123 is wrong"), r"refuses access \(401\): check the key"),
        ((200, b"<html>hello</html>"), "not in OpenAI's form: does the address end in /v1"),
        ((200, {"error": "odd"}), "an error: odd"),
        (serving.failed(503, "secret-123 overloaded"), r"503, one try\): \(key\) overloaded"),
        (
            serving.failed(400, "bad key secret-1*****", "secret-123 is no key"),
            r"none of the requests: \(key\) is no key",
        ),
        (serving.failed(400, f"no such {'word ' * 99}for sk-abcdefgh1234"), r"no such (word )+"),
    ],
)
def test_refusals_of_the_server_are_one_clear_line_without_the_key(answer, words, monkeypatch):
    monkeypatch.setenv("RIMKIT_API_KEY", "secret-123")
    with serving.Scripted(lambda *_: answer) as server:
        study = rimkit.load(f"endpoint:judge-2@{server.url}")
        study.client.retries = 0
        with pytest.raises(UserError, match=words) as caught:
            generate(study, PROMPTS.head(1), **QUIET)
        assert server.seen[0][2]["authorization"] == "Bearer secret-123"
    assert "\n" not in str(caught.value) and "secret-123" not in "".join(traceback.format_exception(caught.value))


def test_openais_key_goes_to_no_other_server(monkeypatch):
    monkeypatch.delenv("RIMKIT_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "secret-456")
    monkeypatch.setenv("OPENAI_ORG_ID", "somebody")
    with serving.Scripted(lambda *_: serving.said("ok .")) as server:
        generate(model(server.url), PROMPTS.head(1), **QUIET)
        assert not {"secret-456", "somebody"} & {word for value in server.seen[0][2].values() for word in value.split()}
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        generate(rimkit.load("endpoint:judge-1"), PROMPTS.head(1), **QUIET)
        assert server.seen[1][2]["authorization"] == "Bearer secret-456"
        monkeypatch.setenv("OPENAI_API_KEY", "“secret-456”")  # copied with quotation marks
        with pytest.raises(UserError, match="holds signs that no key has") as caught:
            rimkit.load("endpoint:judge-1")
        assert "secret" not in str(caught.value)


def test_forced_thoughts_without_a_tokenizer():
    with (
        serving.Scripted(lambda *_: serving.said("ok .")) as server,
        pytest.raises(UserError, match="tokenizer of 'judge-1' is not here"),
    ):
        generate(model(server.url), PROMPTS, thoughts="it is fine .", **QUIET)


def test_the_command_line_takes_an_endpoint_and_says_before_a_run_if_nobody_answers():
    with serving.Scripted(lambda *_: serving.said("ok .")) as server:
        name = f"endpoint:judge-1@{server.url}"
        assert find_model(name) == name
        check_chat(name)
    with pytest.raises(UserError, match="is the server running"):
        check_chat(name)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"needs the openai package: pip install 'rimkit\[endpoint\]'"):
        rimkit.load("endpoint:judge-1@http://127.0.0.1:1/v1")


def test_names_that_stand_in_tables():
    with serving.Scripted(lambda *_: serving.said("ok .")) as server:
        assert rimkit.load(f"endpoint:qwen3:4b@{server.url}").name == "qwen3-4b"
        one, other = (rimkit.load(f"endpoint:/{at}/models/mine@{server.url}").name for at in ("here", "there"))
        assert one.startswith("mine-") and other.startswith("mine-") and one != other
        study = rimkit.load(f"endpoint:Qwen/Qwen3-4B@{server.url}")
    assert (study.name, study.invented, rimkit.load(study)) == ("Qwen/Qwen3-4B", False, study)


def test_a_quoted_or_lone_close_in_a_reply_makes_no_thought():
    quoted = "no , I write `</think>` first ."
    assert one_reply(quoted, reasoning="hm .") == ("hm .", quoted, 6, True)
    assert one_reply(quoted, mode="no-think") == ("", quoted, 6, True)
    assert one_reply("no , I write </think> first .", reasoning="hm .") == ("hm .", "", 6, False)  # which is it?
    texts = {
        "open my shed .": ("no </think> .", "stop"),
        "oil the lamp .": ("sure .", "stop"),
        "go .": ("so", "length"),
    }
    with serving.Scripted(lambda _, body, n: serving.said(*texts[body["messages"][0]["content"]])) as server:
        replies = generate(model(server.url), PROMPTS, "no-think", **QUIET)
    assert replies["reply"].tolist() == ["", "sure .", "so"] and not replies["thought"].any()
    assert replies["finished"].tolist() == [False, True, False]


def test_of_several_choices_the_first_by_number_counts():
    status, body = serving.said("no .")
    body["choices"].insert(0, serving.said("sure .")[1]["choices"][0] | {"index": 1})
    with serving.Scripted(lambda *_: (status, body)) as server:
        assert set(generate(model(server.url), PROMPTS, "no-think", **QUIET)["reply"]) == {"no ."}


def test_a_refusal_as_a_part_or_beside_a_blank_counts():
    assert one_reply([{"type": "refusal", "refusal": "no ."}])[1] == "no ."
    assert one_reply(" ", refusal="no .")[1] == "no ."


@pytest.mark.parametrize("part", ["0123456789abcdef" * 2, "AKIAABCDEFGHIJKLMNOP", "v1;key=abc123"])
def test_keys_in_an_address_are_refused(part):
    with pytest.raises(UserError, match="must hold no password or key"):
        split_name(f"m@http://localhost:1/{part}")


def test_an_answer_that_drips_is_one_line_and_asked_again():
    study, tries = EndpointModel("m", Client("m", "http://127.0.0.1:9/v1", timeout=0.5, retries=2)), []

    def late(api):
        tries.append(1)
        raise TimeoutError

    with pytest.raises(UserError, match=r"did not answer within 0.5 s \(3 tries\): raise timeout"):
        study.client._send(late)
    assert len(tries) == 3
