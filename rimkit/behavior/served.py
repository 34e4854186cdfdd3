"""Replies of a model behind an endpoint: the same table as `rimkit.behavior.generation.generate` makes.

What differs from a model that is loaded here:

- The server renders the prompt; the mode travels as ``chat_template_kwargs: {"enable_thinking": …}``, as vLLM, SGLang
  and `transformers serve` take it. Forced thoughts go as raw text to ``/completions`` and need the tokenizer here.
- Sampling is the server's: a seed is sent for every prompt and sample, but two modes do not face the same luck, and a
  server may ignore it. `transformers serve` has one seed for all requests under way (the same seed gives the same
  replies with ``study.client.concurrency = 1``) and samples only where the model's own settings do. Nucleus sampling
  is switched off; other settings of the model's folder (top_k) are switched off by the caller:
  ``study.client.settings = {"top_k": -1}`` for vLLM and SGLang.
- ``n_tokens`` is what the server counts, less the end of turn. A reply whose end of turn is the very last token
  that was allowed counts as unfinished with `transformers serve`.
- ``study.client.concurrency`` requests are under way at a time (``batch_size`` plays no part); the server does not
  say how much its context holds, so a prompt that is too long is told by its refusal.
- A thought that the server split off and that no reply follows counts as unclosed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from zlib import crc32

import pandas as pd

from rimkit.behavior.generation import COLUMNS, COPY, Forced, _bar, _encode_all
from rimkit.errors import UserError
from rimkit.models.chat import END_THINK, THINK, Encoded
from rimkit.models.client import Answer, Rejected
from rimkit.models.endpoint import EndpointModel

STOP = "stop"
HEADER = re.compile(r"<\|im_start\|>\s*assistant")


def generate(
    model: EndpointModel,
    prompts: pd.DataFrame,
    mode: str,
    thoughts: Forced,
    thought_prefix: Forced,
    around: object,
    *,
    n_samples: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    progress: bool,
) -> pd.DataFrame:
    """One row per prompt and sample, as `rimkit.behavior.generation.generate` gives, which checks the rest.

    Ctrl-C returns what has come, with ``attrs["interrupted"]`` True. If the server fails in the middle, `UserError`
    says so. Both keep the answers in ``model.kept``, and the same call goes on from there. Requests that
    are the same in all respects (greedy samples) are sent once.
    """
    if around is not None:
        raise UserError(f"{model.name} runs behind an endpoint, where nothing inside the model can be changed")
    encoded = _encoded(model, prompts, mode, thoughts, thought_prefix)
    jobs, requests = {}, {}
    for prompt_id, text in zip(prompts["prompt_id"], prompts["text"], strict=True):
        for sample in range(n_samples):
            body = {"temperature": temperature, "top_p": 1.0, "max_tokens": max_new_tokens}
            if temperature:
                body["seed"] = crc32(f"{seed}/{str(prompt_id).partition(COPY)[0]}/{sample}".encode()) >> 1
            what = encoded[prompt_id] if encoded else text
            key = json.dumps([mode, prompt_id if encoded else text, what.ids if encoded else 0, body])
            jobs[prompt_id, sample] = key
            requests[key] = partial(_ask, model, what, mode, body, prompt_id)
    interrupted = _fetch(model, requests, mode, progress)
    answers = {job: model.kept[key] for job, key in jobs.items() if key in model.kept}
    replies = _table(model, answers, mode, encoded)
    replies.attrs["interrupted"] = interrupted
    if interrupted:
        print(f"interrupted: {len(replies)} of {len(jobs)} replies are kept")
    else:
        for key in requests:
            del model.kept[key]
    return replies


def _encoded(model, prompts, mode: str, thoughts: Forced, prefixes: Forced) -> dict[str, Encoded] | None:
    """Prompts with forced thoughts, encoded here; None where nothing is forced and the server renders the prompt."""
    if thoughts is None and prefixes is None:
        return None
    return _encode_all(model, prompts, mode, thoughts, prefixes)


def _fetch(model: EndpointModel, requests: dict[str, Callable], mode: str, progress: bool) -> bool:
    """Ask what is not kept yet; whether Ctrl-C came."""
    todo = {key: call for key, call in requests.items() if key not in model.kept}
    if todo and len(todo) < len(requests):
        print(f"going on: {len(requests) - len(todo)} of {len(requests)} requests were answered before")
    with _bar(len(todo), progress and len(todo) > 1, mode) as bar:

        def keep(key: str, answer: Answer) -> None:
            model.kept[key] = answer
            bar.update(1)

        try:
            model.client.each(todo, keep)
        except KeyboardInterrupt:
            return True
        except UserError as error:
            there = sum(key in model.kept for key in requests)
            problem = f"{error}; {there} of {len(requests)} answers are kept, and the same call goes on from there"
        else:
            return False
    raise UserError(problem)


def _ask(model: EndpointModel, what: str | Encoded, mode: str, body: dict, prompt_id: str) -> Answer:
    try:
        if isinstance(what, str):
            kwargs = {"enable_thinking": mode == "think"}
            return model.client.chat([{"role": "user", "content": what}], chat_template_kwargs=kwargs, **body)
        return model.client.complete(_raw(model.tokenizer, what.ids), **body, **_keep_tags(model))
    except Rejected as error:
        words = str(error)
    raise UserError(f"{model.client.url} does not take the request for prompt_id {prompt_id!r}: {words}")


def _raw(tokenizer, ids: list[int]) -> str | list[int]:
    """The text that the server's tokenizer turns into these ids; the ids themselves where there is none."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    candidates = [text, text.removeprefix(tokenizer.bos_token or "")]  # servers add the first token themselves
    return next((item for item in candidates if list(tokenizer(item)["input_ids"]) == list(ids)), list(ids))


def _keep_tags(model: EndpointModel) -> dict:
    """Servers drop special tokens from raw text, and so think tags that are special; vLLM and SGLang can be told."""
    special = {THINK, END_THINK} & {
        token.content for token in model.tokenizer.added_tokens_decoder.values() if token.special
    }
    return {"skip_special_tokens": False} if special else {}


# -- from answers to rows ----------------------------------------------------------------------------------


def _table(model: EndpointModel, answers: dict[tuple[str, int], Answer], mode: str, encoded) -> pd.DataFrame:
    opened = any(opened_by_template(answer.text) for answer in answers.values())
    rows = []
    for (prompt_id, sample), answer in answers.items():
        parts = _continued(model, answer, encoded[prompt_id]) if encoded else split(answer, mode, opened)
        n_tokens = answer.tokens_out - (answer.finish == STOP)
        rows.append((prompt_id, mode, sample, *parts[:2], max(n_tokens, 0), parts[2]))
    table = pd.DataFrame(rows, columns=COLUMNS)
    if mode == "no-think" and (ignored := int((table["thought"] != "").sum())):
        print(f"{model.name}: {ignored} of {len(table)} no-think replies hold a thought: the server ignores the mode")
    return table


def _continued(model: EndpointModel, answer: Answer, encoded: Encoded) -> tuple[str, str, bool]:
    """What followed a forced thought, read as a local model's output is read: token by token."""
    ids = model.tokenizer(answer.text, add_special_tokens=False)["input_ids"]
    end = list(model.chat.stop_ids[:1]) if answer.finish == STOP else []
    return model.chat.parse(list(ids) + end, encoded)


def opened_by_template(text: str) -> bool:
    """Whether a reply closes a thought that the prompt's template opened (Qwen3-Thinking, DeepSeek-R1)."""
    return END_THINK in text and THINK not in text.partition(END_THINK)[0]


def split(answer: Answer, mode: str, opened: bool) -> tuple[str, str, bool]:
    """``(thought, reply, finished)`` of an answer, with the thought split off by the server or still in the text.

    ``opened``: this server's template opens the thought, so that a text without tags that was cut off is one.
    """
    text, thought, ended = answer.text.strip(), answer.reasoning.strip(), answer.finish == STOP
    if thought:
        # `transformers serve` leaves the header of the turn where a tokenizer's decoding adds spaces to it
        text = "" if HEADER.fullmatch(text) else text
        return thought, text, ended and bool(text)
    if mode == "no-think" and not opened_by_template(text):
        return "", text, ended
    if text.startswith(THINK) or opened_by_template(text):
        thought, closed, reply = text.removeprefix(THINK).partition(END_THINK)
        return thought.strip(), reply.strip(), ended and bool(closed)
    if opened and answer.finish == "length":
        return text, "", False
    return "", text, ended
