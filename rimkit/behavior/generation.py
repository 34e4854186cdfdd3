"""Replies of a model under study to a table of prompts: loaded here, or behind an endpoint.

Knows chat formats and sampling; nothing of prompt sets, judges and interventions. A server renders
the prompt, told the mode by ``chat_template_kwargs: {"enable_thinking": …}``, and samples: it gets
a seed for every prompt and sample and may ignore it (`transformers serve` has one for all requests
under way: ``study.client.concurrency = 1``), and two modes do not face the same luck. Forced
thoughts go as raw text to ``/completions`` and need the tokenizer here. Nucleus sampling is off;
top_k of the model's folder is, for vLLM and SGLang, by ``study.client.settings = {"top_k": -1}``.
"""

import json
import os
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from hashlib import sha256
from itertools import product
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from diskcache import Cache, JSONDisk
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessorList

from rimkit.behavior.redaction import are_harmful, keeps_text, scrub, withhold_replies
from rimkit.data import UserError, check_columns, check_known, check_requests, parts_folder
from rimkit.models.activations import read
from rimkit.models.chat import MODES, ChatFormat, Encoded, pad
from rimkit.models.device import shrinking
from rimkit.models.endpoint import STOP, Answer, EndpointModel, Rejected, is_endpoint
from rimkit.models.hooks import untraced
from rimkit.models.study import StudyModel
from rimkit.models.thoughts import END_THINK, PAIR, STRAY, THINK, split, without_quoted

COLUMNS = ["prompt_id", "mode", "sample", "thought", "reply", "n_tokens", "finished", "cut"]
CUT = "cut"
Forced = str | Mapping[str, str] | None
Around = Callable[[list[dict[str, tuple[int, int]]], list[str]], AbstractContextManager]
ADVICE = "lower max_new_tokens, shorten the prompts, load the model in 4 bits (+4bit) or take a smaller one"
REPLY = 256  # the most that a run gives a reply whose length a step sets, and which has no thought
USUAL = 96  # tokens of a reply: enough for the embedded models, thought included
UNANSWERED = ("", "", 0, False)  # thought, reply, tokens, finished: of a prompt that was not answered
ENDS_LEFT_OVER = re.compile(rf"^\s*{END_THINK}|{END_THINK}[^\S\n]*\n")  # by a server that split the rest off
HEADER = re.compile(r"<\|im_start\|>\s*assistant")


def generate(
    model: StudyModel, prompts: pd.DataFrame, mode: str = "think", *, n_samples: int = 1,
    temperature: float = 0.7, max_new_tokens: int = USUAL, thoughts: Forced = None,
    thought_prefix: Forced = None, around: Around | None = None, batch_size: int = 256,
    seed: int = 0, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Replies to ``prompts`` (columns ``prompt_id``, ``text``) in one mode, ``n_samples`` per
    prompt. A reply has at most ``max_new_tokens``, thought included; ``temperature`` 0 is greedy.
    ``thoughts`` forces complete thoughts and ``thought_prefix`` their beginnings: one text for all,
    or prompt_id to text. ``around`` makes the context that a batch is generated in, from the named
    spans of its padded rows and their prompt ids. Out of memory a batch is halved.

    Returns one row per prompt and sample, in order: ``prompt_id, mode, sample, thought`` (with any
    forced part)``, reply, n_tokens`` (without the end of turn)``, finished`` (reached its end of
    turn with the thought closed, and is not empty)``, cut`` (the limit of tokens ended it). A
    prompt that leaves no room, or that a server refuses, has an unfinished row without text. Ctrl-C
    returns what is done (``attrs["interrupted"]``). What real models say to harm is withheld.

    One uniform number per seed, prompt id (or ``noise_key``, a column), sample and step is the
    noise: neither batch size nor order changes a reply (in float32), and modes and models share it.
    Raises ``UserError`` for a malformed table, an unknown mode, numbers out of range, a missing
    forced thought, prompts that are all too long, and numbers of the model that are not finite."""
    check_known("mode", mode, MODES)
    counts = {"n_samples": n_samples, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    for name, given in counts.items():
        if given < 1:
            raise UserError(f"{name} must be 1 or more, not {given}")
    if not (temperature >= 0 and seed >= 0):  # NaN is neither
        raise UserError(f"temperature and seed must be 0 or more, not {temperature} and {seed}")
    check_columns(prompts, ("prompt_id", "text"), "the table of prompts")
    if prompts.empty:
        raise UserError("there are no prompts: the table is empty")
    check_requests(prompts)
    ids = prompts["prompt_id"]
    jobs = list(product(ids, range(n_samples)))
    noise_keys = dict(zip(ids, prompts.get("noise_key", ids).astype(str), strict=True))
    sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    sampling["progress"] = progress
    served, forced = is_endpoint(model), thoughts is not None or thought_prefix is not None
    if served and around is not None:
        raise UserError(f"{model.name} runs behind an endpoint, where nothing inside the model can be changed")
    encoded = None
    if forced or not served:
        pairs = (thoughts, "thoughts"), (thought_prefix, "thought_prefix")
        whole, begun = (_forced(model.chat, texts, ids, argument) for texts, argument in pairs)
        encoded = {
            prompt_id: model.chat.encode(text, mode, thought=whole[prompt_id], thought_prefix=begun[prompt_id])
            for prompt_id, text in zip(ids, prompts["text"], strict=True)
        }
    if served:
        rows, interrupted = _served(model, prompts, mode, encoded, jobs, noise_keys, **sampling)
    else:
        keys = _keys(model, prompts, encoded, jobs, noise_keys, around, temperature, max_new_tokens, seed)
        rows, interrupted = _local(model, mode, encoded, jobs, noise_keys, around, batch_size, keys, **sampling)
        marks = [*model.tokenizer.all_special_tokens, *model.chat.tags[:2]]
        if marked := sum(any(mark in text for mark in marks) for text in prompts["text"]):
            model.say(f"note: {marked} of {len(prompts)} prompts hold control tokens, which act as such", "marks")
    if interrupted:
        print(f"interrupted: {len(rows)} of {len(jobs)} replies are kept")
    answered = [(job[0], mode, job[1], *rows[job]) for job in jobs if job in rows]
    replies = pd.DataFrame(answered, columns=COLUMNS[:-1])
    replies[CUT] = ~replies["finished"].astype(bool) & (replies["n_tokens"] >= max_new_tokens)
    replies["finished"] &= replies["reply"] != ""
    replies.attrs["interrupted"] = interrupted
    if not model.invented:
        withhold_replies(prompts, replies)
    _say_strange_tags(model, replies)
    return replies


def _say_strange_tags(model: StudyModel | EndpointModel, replies: pd.DataFrame) -> None:
    """Say, once for a model and tag, that replies hold tags of thoughts which nobody knows."""
    said = () if model.invented else map(without_quoted, replies["reply"])
    found = [tag[0].strip() for text in said if (tag := STRAY.search(text) or PAIR.match(text))]
    if found:
        which = f"{len(found)} of {len(replies)} {replies['mode'].iloc[0]} replies"
        model.say(f"{which} hold tags that are not known: {found[0]}", found[0])


def _keys(model, prompts, encoded, jobs, noise_keys, around, *sampling) -> dict[tuple, str]:
    """What tells apart the replies that a running chapter keeps, by all that they depend on: none
    of embedded models, of changes without ``conditions``, and to harm unless text is kept."""
    conditions = getattr(around, "conditions", None) if around else {}
    if parts_folder() is None or model.invented or conditions is None:
        return {}
    shown = set(prompts["prompt_id"] if keeps_text() else prompts.loc[~are_harmful(prompts), "prompt_id"])
    about = [model.fingerprint(), model.hf.config.to_json_string(), list(model.chat.stop_ids), *sampling]
    of = {name: (encoded[name].ids, noise_keys[name], conditions.get(name)) for name in shown}
    return {job: sha256(repr([about, of[job[0]], job[1]]).encode()).hexdigest() for job in jobs if job[0] in shown}


def _local(
    model, mode, encoded, jobs, noise_keys, around, batch_size, keys, *, temperature, max_new_tokens, seed, progress
):
    """``{job: (thought, reply, tokens, finished)}`` of a loaded model, and whether Ctrl-C came."""
    fitting = _fitting(encoded, max_new_tokens, model.context)
    rows = {job: UNANSWERED for job in jobs if job[0] not in fitting}

    def take(job: tuple[str, int], output: list[int]) -> None:
        thought, reply, finished = model.chat.parse(output, encoded[job[0]])
        rows[job] = (thought, reply, len(model.chat.until_stop(output)), finished)

    def reply_to(batch: list[int]) -> list[list[int]]:
        ids = [todo[row][0] for row in batch]
        keys = [(noise_keys[prompt_id], todo[row][1]) for row, prompt_id in zip(batch, ids, strict=True)]
        noise = _noise(seed, keys, max_new_tokens) if temperature else None
        inside = around and partial(around, prompt_ids=ids)
        return _run_batch(model, [encoded[i] for i in ids], max_new_tokens, temperature, noise, inside)

    how = {"disk": JSONDisk, "eviction_policy": "none"}
    with Cache(parts_folder() / "replies", **how) if keys else nullcontext({}) as kept, _plain_generation(model.hf):
        for job in keys.keys() - rows.keys():
            if (output := kept.get(keys[job])) is not None:
                take(job, output)
        todo = [job for job in jobs if job not in rows]
        lengths = [len(encoded[prompt_id].ids) + max_new_tokens for prompt_id, _ in todo]
        bar = _bar(len(todo), progress and len(todo) > batch_size, mode)
        try:
            for batch, outputs in shrinking(model, "generating", lengths, batch_size, reply_to, ADVICE):
                for row, output in zip(batch, outputs, strict=True):
                    take(todo[row], output)
                    with suppress(KeyError, OSError, sqlite3.Error):  # of no key, or a full disk
                        kept[keys[todo[row]]] = output[: rows[todo[row]][2] + 1]
                bar.update(len(batch))
        except KeyboardInterrupt:
            return {job: row for job, row in rows.items() if job[0] in fitting}, True
        finally:
            bar.close()
    return rows, False


def _run_batch(model: StudyModel, items: list[Encoded], max_new_tokens: int, temperature: float, noise, around):
    """A list of generated ids per item, stop token and padding included."""
    stop = list(model.chat.stop_ids)
    ids, mask, spans = pad(items, model.pad_id)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=stop, pad_token_id=model.pad_id
    )
    processors = LogitsProcessorList([partial(_checked, model, items)])
    if noise is not None:
        processors.append(_inverse_cdf(noise, temperature, ids.shape[1], model.device))
    with torch.inference_mode(), around(spans) if around else nullcontext():
        output = model.hf.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device),
            generation_config=config, logits_processor=processors,
        )  # fmt: skip
    return output[:, ids.shape[1] :].tolist()


def _checked(model: StudyModel, items: list[Encoded], input_ids, scores):
    """The logits, which are finite, or a `UserError` that names the layer that was not."""
    finite = scores.amax(-1).isfinite()
    if not finite.all():
        row = int((~finite).nonzero()[0])
        read(model, [items[row]], ("residual",), ("last",))  # raises, unless only replies do it
        raise UserError(f"{model.name} computes numbers that are not finite: load it in float32 or bfloat16")
    return scores


def _noise(seed: int, jobs: list[tuple[str, int]], steps: int) -> np.ndarray:
    """Uniform numbers ``[len(jobs), steps]``, by seed, prompt id (or ``noise_key``) and sample."""
    seeds = (np.random.SeedSequence([seed, crc32(key.encode()), sample]) for key, sample in jobs)
    return np.stack([np.random.default_rng(one).random(steps) for one in seeds])


def _inverse_cdf(noise: np.ndarray, temperature: float, prompt_length: int, device: str):
    """A logits processor that leaves one token per row: whose share of the cdf holds the noise."""
    # float64 sums keep rounding in a long vocabulary out of the choice; Apple GPUs have none
    exact = torch.float32 if str(device).startswith("mps") else torch.float64
    uniform = torch.tensor(noise).to(dtype=exact, device=device)

    def choose(input_ids, scores):
        step = input_ids.shape[1] - prompt_length
        cdf = torch.softmax(scores.float() / temperature, dim=-1).to(exact).cumsum(dim=-1)
        target = uniform[:, step : step + 1] * cdf[:, -1:]
        token = torch.searchsorted(cdf, target, right=True).clamp_(max=scores.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)

    return choose


@contextmanager
def _plain_generation(hf):
    """Evaluation mode, no tracing, and no sampling settings of the model's folder."""
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
    quiet = not progress or os.environ.get("TQDM_DISABLE") == "1"  # tqdm ignores it in notebooks
    return tqdm(total=total, desc=mode, unit="reply", leave=False, disable=quiet)


def _forced(chat: ChatFormat, texts: Forced, prompt_ids: pd.Series, argument: str) -> dict[str, str | None]:
    """A text per prompt, or None. Most are a model's own, and may hold anything."""
    if texts is None or isinstance(texts, str):
        texts = dict.fromkeys(prompt_ids, texts)
    missing = [prompt_id for prompt_id in prompt_ids if prompt_id not in texts]
    if missing:
        raise UserError(f"{argument} has no text for prompt_id {missing[0]!r}")
    given = {key: texts[key] if isinstance(texts[key], str) else None for key in prompt_ids}
    plain = {key: text if text is None else chat.fit(text) for key, text in given.items()}
    if changed := sum(plain[key] != given[key] for key in given):
        print(f"note: {changed} of {len(plain)} forced thoughts held think tags, which are left out")
    return plain


def _fitting(encoded: dict[str, Encoded], max_new_tokens: int, context: int) -> set[str]:
    """The prompts that leave room for a reply; raises `UserError` if none does."""
    room, sizes = context - max_new_tokens, {name: len(item.ids) for name, item in encoded.items()}
    fitting = {prompt_id for prompt_id, size in sizes.items() if size <= room}
    if len(fitting) < len(sizes):
        longest = max(sizes, key=sizes.get)
        leaves = f"a context of {context} leaves room for {room} beside {max_new_tokens} new ones"
        problem = f"prompt_id {longest!r} has {sizes[longest]} tokens; {leaves}"
        if not fitting:
            raise UserError(f"{problem}: shorten it or lower max_new_tokens")
        print(f"note: {len(sizes) - len(fitting)} of {len(sizes)} prompts get no reply: {problem}")
    return fitting


def _served(model, prompts, mode, encoded, jobs, noise_keys, *, temperature, max_new_tokens, seed, progress):
    """As `_local`, of a model behind an endpoint; equal requests are sent once. Answers stay in
    ``model.kept`` until all have come, so that the same call goes on from there."""
    texts = dict(zip(prompts["prompt_id"], prompts["text"], strict=True))
    keys, requests = {}, {}
    for prompt_id, sample in jobs:
        body = {"temperature": temperature, "top_p": 1.0, "max_tokens": max_new_tokens}
        if temperature:
            body["seed"] = crc32(f"{seed}/{noise_keys[prompt_id]}/{sample}".encode()) >> 1
        what = encoded[prompt_id] if encoded else texts[prompt_id]
        key = json.dumps([mode, prompt_id, what.ids, body] if encoded else [mode, what, 0, body])
        keys[prompt_id, sample] = key
        requests[key] = partial(_ask, model, what, mode, body)
    interrupted = _fetch(model, requests, mode, progress)
    answers = {job: model.kept[key] for job, key in keys.items() if key in model.kept}
    rows = _told(model, answers, mode, encoded)
    if not interrupted:
        for key in requests:
            del model.kept[key]
    return rows, interrupted


def _fetch(model: EndpointModel, requests: dict[str, Callable], mode: str, progress: bool) -> bool:
    """Ask what is not kept yet; whether Ctrl-C came."""
    todo = {key: call for key, call in requests.items() if key not in model.kept}
    if todo and len(todo) < len(requests):
        answered = len(requests) - len(todo)
        print(f"going on: {answered} of {len(requests)} requests were answered before")
    problem = ""
    with _bar(len(todo), progress and len(todo) > 1, mode) as bar:

        def keep(key: str, answer: Answer | Rejected) -> None:
            model.kept[key] = answer
            bar.update(1)

        try:
            model.client.each(todo, keep)
        except KeyboardInterrupt:
            return True
        except UserError as error:
            problem = scrub(str(error))
    if not problem:
        return False
    # those that were refused are to be asked again
    answers = model.kept = {key: one for key, one in model.kept.items() if isinstance(one, Answer)}
    kept = f"{len(answers.keys() & requests.keys())} of {len(requests)} answers are kept"
    raise UserError(f"{problem}; {kept}, and the same call goes on from there")


def _ask(model: EndpointModel, what: str | Encoded, mode: str, body: dict) -> Answer:
    if isinstance(what, str):
        turns = [{"role": "user", "content": what}]
        body = {"chat_template_kwargs": {"enable_thinking": mode == "think"}, **body}
        return model.client.chat(turns, **body)
    # servers drop think tags that are special tokens; vLLM and SGLang can be told not to
    special = {token.content for token in model.tokenizer.added_tokens_decoder.values() if token.special}
    keep = {"skip_special_tokens": False} if special & set(model.chat.tags[:2]) else {}
    return model.client.complete(_raw(model.tokenizer, what.ids), **body, **keep)


def _raw(tokenizer, ids: list[int]) -> str | list[int]:
    """The text that the server's tokenizer turns into these ids; the ids where there is none."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    for shown in (text, text.removeprefix(tokenizer.bos_token or "")):  # servers may add this token
        if list(tokenizer(shown)["input_ids"]) == list(ids):
            return shown
    return list(ids)


def _told(model: EndpointModel, answers: dict, mode: str, encoded: dict | None) -> dict:
    """Answers as rows; what a server does against the mode, or refuses, is said."""
    there = {job: answer for job, answer in answers.items() if isinstance(answer, Answer)}
    opened = opens_thoughts(list(there.values()), mode)
    rows = dict.fromkeys(answers, UNANSWERED)
    for job, answer in there.items():
        found = _continued(model, answer, encoded[job[0]]) if encoded else parts_of(answer, opened)
        rows[job] = (*found[:2], max(answer.tokens_out - (answer.finish == STOP), 0), found[2])
    n, thinking = len(rows), sum(bool(thought) for thought, *_ in rows.values())
    if mode == "no-think" and thinking:
        print(f"{model.name}: {thinking} of {n} no-think replies hold a thought: the server ignores the mode")
    if mode == "think" and not thinking and there and not encoded:
        print(f"{model.name}: none of {n} think replies holds a thought: the server does not think, or hides it")
    if len(there) < n:
        words = next(scrub(str(answer)) for answer in answers.values() if isinstance(answer, Rejected))
        print(f"{model.name}: {n - len(there)} of {n} requests were refused, and have no reply ({words})")
    return rows


def _continued(model: EndpointModel, answer: Answer, encoded: Encoded) -> tuple[str, str, bool]:
    """What followed a forced thought, read as a local model's output is read: token by token."""
    ids = model.tokenizer(answer.text, add_special_tokens=False)["input_ids"]
    end = list(model.chat.stop_ids[:1]) if answer.finish == STOP else []
    return model.chat.parse(list(ids) + end, encoded)


def opens_thoughts(answers, mode: str) -> bool:
    """Whether a text without tags that was cut off is a thought: no answer shows the contrary.
    Answers that close a thought which they did not open (Qwen3-Thinking, DeepSeek-R1) show that
    their template did, unless more ended without one."""
    given = [(without_quoted(one.text), one.finish == STOP) for one in answers if not one.reasoning]
    if closing := sum(only_closes(text) for text, _ in given):
        return closing > sum(ended and THINK not in text and END_THINK not in text for text, ended in given)
    return mode == "think" and all(THINK in text for text, ended in given if ended)


def only_closes(text: str) -> bool:
    """Whether a text closes a thought that it did not open."""
    before, tag, _ = without_quoted(text).partition(END_THINK)
    return bool(tag) and THINK not in before


def parts_of(answer: Answer, opened: bool) -> tuple[str, str, bool]:
    """``(thought, reply, finished)`` of an answer, thoughts split off by the server or still in the
    text. ``opened``: a text without tags that was cut off is an open thought. Where a lone close
    may end a thought or stand in a reply, there is no reply."""
    # `transformers serve` leaves the turn's header where a tokenizer's decoding adds spaces to it
    text = "" if answer.reasoning and HEADER.fullmatch(answer.text.strip()) else answer.text
    unsure = not ENDS_LEFT_OVER.search(text) if answer.reasoning else not opened
    if unsure and only_closes(text):
        return answer.reasoning.strip(), "", False
    is_open = opened and answer.finish == "length" and not answer.reasoning
    thought, reply, closed = split(text, opened=is_open)
    whole = "\n\n".join(filter(None, (answer.reasoning.strip(), thought)))
    return whole, reply, closed and answer.finish == STOP
