"""Replies of a model under study to a table of prompts.

Replies of a model behind an endpoint: the same table as `rimkit.behavior.generation.generate` makes.

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
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import pandas as pd

from rimkit.behavior.redaction import withholding
from rimkit.data import UserError
from rimkit.models.chat import END_THINK, THINK, Encoded, check_mode, pad
from rimkit.models.device import shrinking
from rimkit.models.endpoint import Answer, EndpointModel, Rejected, is_endpoint
from rimkit.models.hooks import untraced

if TYPE_CHECKING:
    from rimkit.models.study import StudyModel


# -- behavior.generation ----------
COLUMNS = ["prompt_id", "mode", "sample", "thought", "reply", "n_tokens", "finished"]
Forced = str | Mapping[str, str] | None
Around = Callable[[list[dict[str, tuple[int, int]]], list[str]], AbstractContextManager]
ADVICE = "lower max_new_tokens, shorten the prompts, load the model in 4 bits (+4bit) or take a smaller one"
USUAL = 96  # tokens of a reply: enough for the embedded models, thought included
COPY = "#"  # "harmful-0001#a" and "harmful-0001#b" are copies of one prompt and face the same luck


@withholding
def generate(
    model: StudyModel,
    prompts: pd.DataFrame,
    mode: str = "think",
    *,
    n_samples: int = 1,
    temperature: float = 0.7,
    max_new_tokens: int = USUAL,
    thoughts: Forced = None,
    thought_prefix: Forced = None,
    around: Around | None = None,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Replies to ``prompts`` (columns ``prompt_id``, ``text``) in one mode, ``n_samples`` per prompt.

    A reply has at most ``max_new_tokens``, thought included. ``temperature`` 0 is greedy. ``thoughts`` forces complete
    thoughts and ``thought_prefix`` their beginnings: one text for all prompts, or a mapping from prompt_id to text.
    ``around`` makes, from the named spans of a batch's padded rows and their prompt ids, the context that the batch is
    generated in: an intervention that differs between prompts (`rimkit.models.hooks.cut_attention`).

    Out of memory a batch is halved and nothing that was generated is lost (`rimkit.models.device.shrinking`).

    Returns one row per prompt and sample, in the order of the prompts: ``prompt_id, mode, sample, thought``
    (with any forced part)``, reply, n_tokens`` (generated, without the end of turn)``, finished`` (reached
    its end of turn with the thought closed). Ctrl-C returns the batches finished so far, with
    ``attrs["interrupted"]`` True. What a real model says to harmful requests is withheld from outputs
    (`rimkit.behavior.redaction`).

    Sampling uses one uniform number per seed, prompt (its id up to `COPY`), sample and step: neither batch size
    nor order changes a reply (in float32), and two modes or two models face the same luck.

    A model behind an endpoint gives the same table; what differs is said in `rimkit.behavior.generation`.

    Raises ``UserError`` for an empty or malformed table, an unknown mode, numbers out of range, a missing
    forced thought, a prompt that leaves no room for ``max_new_tokens`` in the context, and one that alone is too long
    for the memory.
    """
    check_mode(mode)
    _check_numbers(n_samples=n_samples, max_new_tokens=max_new_tokens, batch_size=batch_size)
    if temperature < 0:
        raise UserError(f"temperature must be 0 (greedy) or more, not {temperature}")
    _check_prompts(prompts)
    if is_endpoint(model):
        asked = {"n_samples": n_samples, "temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
        return ask_endpoint(model, prompts, mode, thoughts, thought_prefix, around, progress=progress, **asked)
    encoded = _encode_all(model, prompts, mode, thoughts, thought_prefix)
    _check_lengths(encoded, max_new_tokens, model.context)
    jobs = [(prompt_id, sample) for prompt_id in encoded for sample in range(n_samples)]
    rows: dict[int, tuple] = {}
    interrupted = False

    def reply_to(batch: list[int]) -> list[list[int]]:
        items = [encoded[jobs[job][0]] for job in batch]
        noise = _noise(seed, [jobs[job] for job in batch], max_new_tokens) if temperature else None
        context = partial(around, prompt_ids=[jobs[job][0] for job in batch]) if around else None
        return _run_batch(model, items, max_new_tokens, temperature, noise, context)

    lengths = [len(encoded[prompt_id].ids) + max_new_tokens for prompt_id, _ in jobs]
    with _plain_generation(model.hf), _bar(len(jobs), progress and len(jobs) > batch_size, mode) as bar:
        try:
            for batch, outputs in shrinking(model, "generating", lengths, batch_size, reply_to, ADVICE):
                for job, output in zip(batch, outputs, strict=True):
                    item = encoded[jobs[job][0]]
                    thought, reply, finished = model.chat.parse(output, item)
                    rows[job] = (*jobs[job], thought, reply, model.chat.n_generated(output), finished)
                bar.update(len(batch))
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        print(f"interrupted: {len(rows)} of {len(jobs)} replies are kept")
    replies = pd.DataFrame([rows[job] for job in sorted(rows)], columns=[name for name in COLUMNS if name != "mode"])
    replies.insert(1, "mode", mode)
    replies.attrs["interrupted"] = interrupted
    return replies


def _run_batch(model: StudyModel, items: list[Encoded], max_new_tokens: int, temperature: float, noise, around):
    """A list of generated ids per item, stop token and padding included."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    stop = list(model.chat.stop_ids)
    ids, mask, spans = pad(items, model.pad_id)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stop, pad_token_id=model.pad_id
    )
    processors = LogitsProcessorList()
    if noise is not None:
        processors.append(_inverse_cdf(noise, temperature, ids.shape[1], model.device))
    with torch.inference_mode(), around(spans) if around else nullcontext():
        output = model.hf.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=processors,
        )
    return output[:, ids.shape[1] :].tolist()


def _noise(seed: int, jobs: list[tuple[str, int]], steps: int) -> np.ndarray:
    """Uniform numbers ``[len(jobs), steps]``; row by seed, prompt id and sample alone."""
    keys = ([seed, crc32(str(prompt_id).partition(COPY)[0].encode()), sample] for prompt_id, sample in jobs)
    return np.stack([np.random.default_rng(np.random.SeedSequence(key)).random(steps) for key in keys])


def _inverse_cdf(noise: np.ndarray, temperature: float, prompt_length: int, device: str):
    """A logits processor that leaves one token per row: the one whose share of the cdf holds the noise."""
    import torch
    from transformers import LogitsProcessor

    # float64 sums keep the choice independent of rounding in a long vocabulary; Apple GPUs have none
    exact = torch.float32 if str(device).startswith("mps") else torch.float64
    uniform = torch.tensor(noise).to(dtype=exact, device=device)

    class InverseCDF(LogitsProcessor):
        def __call__(self, input_ids, scores):
            step = input_ids.shape[1] - prompt_length
            cdf = torch.softmax(scores.float() / temperature, dim=-1).to(exact).cumsum(dim=-1)
            target = uniform[:, step : step + 1] * cdf[:, -1:]
            token = torch.searchsorted(cdf, target, right=True).clamp_(max=scores.shape[-1] - 1)
            return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)

    return InverseCDF()


@contextmanager
def _plain_generation(hf):
    """Evaluation mode, no tracing, and none of the sampling settings that the model's folder may carry."""
    from transformers import GenerationConfig

    settings, training = hf.generation_config, hf.training
    hf.generation_config = GenerationConfig()
    hf.eval()
    try:
        with untraced(hf):
            yield
    finally:
        hf.generation_config = settings
        hf.train(training)


def _bar(total: int, progress: bool, mode: str):
    from tqdm.auto import tqdm

    quiet = not progress or os.environ.get("TQDM_DISABLE") == "1"  # tqdm ignores it in notebooks
    return tqdm(total=total, desc=mode, unit="reply", leave=False, disable=quiet)


def _encode_all(
    model: StudyModel, prompts: pd.DataFrame, mode: str, thoughts: Forced, prefixes: Forced
) -> dict[str, Encoded]:
    return {
        prompt_id: model.chat.encode(
            text,
            mode,
            thought=_forced(thoughts, prompt_id, "thoughts"),
            thought_prefix=_forced(prefixes, prompt_id, "thought_prefix"),
        )
        for prompt_id, text in zip(prompts["prompt_id"], prompts["text"], strict=True)
    }


def _forced(texts: Forced, prompt_id: str, argument: str) -> str | None:
    if texts is None or isinstance(texts, str):
        return texts
    if prompt_id not in texts:
        raise UserError(f"{argument} has no text for prompt_id {prompt_id!r}")
    return texts[prompt_id]


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"{name} must be 1 or more, not {number}")


def _check_prompts(prompts: pd.DataFrame) -> None:
    missing = [name for name in ("prompt_id", "text") if name not in prompts.columns]
    if missing:
        raise UserError(f"the prompts lack the column {' and '.join(missing)}; they have {', '.join(prompts.columns)}")
    if prompts.empty:
        raise UserError("there are no prompts: the table is empty")
    if prompts["prompt_id"].duplicated().any():
        twice = prompts.loc[prompts["prompt_id"].duplicated(), "prompt_id"].iloc[0]
        raise UserError(f"prompt_id {twice!r} occurs more than once")
    blank = ~prompts["text"].map(lambda text: isinstance(text, str) and bool(text.strip()))
    if blank.any():
        raise UserError(f"prompt_id {prompts.loc[blank, 'prompt_id'].iloc[0]!r} has no text")


def _check_lengths(encoded: dict[str, Encoded], max_new_tokens: int, context: int) -> None:
    prompt_id, item = max(encoded.items(), key=lambda pair: len(pair[1].ids))
    if len(item.ids) + max_new_tokens > context:
        raise UserError(
            f"prompt_id {prompt_id!r} has {len(item.ids)} tokens; a context of {context} leaves room for "
            f"{context - max_new_tokens} beside {max_new_tokens} new ones: shorten it or lower max_new_tokens"
        )


# -- behavior.served ----------
STOP = "stop"
HEADER = re.compile(r"<\|im_start\|>\s*assistant")


def ask_endpoint(
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
