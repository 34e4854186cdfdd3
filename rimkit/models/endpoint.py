"""A model behind a server that speaks OpenAI's HTTP protocol: it gives replies, and nothing from inside.

Such servers are vLLM, SGLang, `transformers serve` and hosted models. The `openai` package sends,
waits and repeats; this file says what went wrong in one line, keeps the key where it belongs, and
asks many questions at a time. What is asked, and what an answer means, is not known here. Keys come
from the environment alone: ``RIMKIT_API_KEY``, or ``OPENAI_API_KEY`` for the address that it was made
for, so that no key travels to another server.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rimkit.data import UserError, nearest
from rimkit.models.chat import ChatFormat
from rimkit.models.hub import locate, read

PREFIX = "endpoint:"
OPENAI = "https://api.openai.com/v1"
NAME = re.compile(r"(?P<model>\S+?)(?:@(?P<url>https?://\S+))?")
REJECTED = (400, 413, 422)  # this request, not the server or the account, is the problem
PATIENCE = 3  # requests refused before any was accepted, after which it is the setting that is wrong
KEYS = re.compile(r"\b(?:sk|pk|key|token|bearer)[-_:= ]+[\w.*-]{8,}", re.IGNORECASE)
NO_PACKAGE = "an endpoint needs the openai package: pip install 'rimkit[endpoint]'"
STANDARD = {  # settings that OpenAI knows; others go past its package's own check of names
    "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "frequency_penalty",
    "presence_penalty", "logit_bias", "n", "user", "reasoning_effort", "response_format", "extra_headers",
}  # fmt: skip


def is_endpoint(model: Any) -> bool:
    """Whether ``model`` is an `EndpointModel`, or the name of one."""
    return isinstance(model, EndpointModel) or (isinstance(model, str) and model.startswith(PREFIX))


@dataclass
class EndpointModel:
    """A model that a server runs: what `rimkit.load("endpoint:MODEL@http://host:port/v1")` gives.

    It stands wherever a model is only asked for replies. Its inside (``hf``, ``nn``) does not exist
    here, and asking for it raises ``UserError``. ``client`` holds address, limits and further settings
    of the requests. Forced thoughts need the ``tokenizer``, which is looked for under the model's own
    name unless one is given. ``kept`` holds the answers of a call that was interrupted, in memory
    only, so that the same call goes on from there; ``said`` the notes about it that were printed.
    """

    name: str
    client: Client
    tokenizer_source: Any = None
    device: str = "endpoint"
    dtype: str = "unknown"
    kept: dict[str, Answer] = field(default_factory=dict, repr=False)
    said: set[str] = field(default_factory=set, repr=False)

    @cached_property
    def tokenizer(self):
        """The tokenizer; raises `UserError` if there is none under the model's name or the one given."""
        return _read_tokenizer(self.tokenizer_source or self.client.model)

    @cached_property
    def chat(self) -> ChatFormat:
        return ChatFormat(self.tokenizer)

    @cached_property
    def invented(self) -> bool:
        """Whether it speaks the invented language: known where its tokenizer is given or its folder is here."""
        here = self.tokenizer_source is not None or Path(self.client.model).is_dir()
        return here and getattr(self.tokenizer, "init_kwargs", {}).get("language") == "invented"

    def _closed(self):
        raise UserError(
            f"{self.name} runs behind an endpoint, which gives replies but nothing from inside the model: probes, "
            "heads and neurons need a model that is loaded here (a folder or a hub id)"
        )

    hf = nn = context = pad_id = limits = elsewhere = tracing = property(_closed)


def connect(model: str | EndpointModel, tokenizer=None, **limits) -> EndpointModel:
    """The model of ``"endpoint:MODEL@http://host:port/v1"``, after asking the server whether it is there.

    ``tokenizer``: a tokenizer, an embedded name, a folder or a hub id; ``limits`` are those of `Client`.
    Raises `UserError`: no server, no key where one is needed, a key that is refused.
    """
    if isinstance(model, EndpointModel):
        return model
    name, url = split_name(model.removeprefix(PREFIX))
    client = Client(name, url, **{"concurrency": 16, **limits})
    client.models()
    # "7b:latest" would read as a training seed, and a folder's path belongs to one machine
    shown = Path(name).name if Path(name).is_absolute() else name
    return EndpointModel(shown.replace(":", "-"), client, tokenizer)


def _read_tokenizer(source):
    if not isinstance(source, str | Path):
        return source
    from transformers import AutoTokenizer

    try:
        return read(AutoTokenizer, locate(source))
    except UserError as error:
        reason = error
    raise UserError(
        f"the tokenizer of {source!r} is not here ({reason}): forced thoughts need it, as rimkit.load(model, "
        "tokenizer=FOLDER_OR_HUB_ID); what looks inside a model needs one that is loaded here, not an endpoint"
    )


def parts(content: Any) -> tuple[str, str]:
    """``(text, thought)`` of a message's content: a text, nothing, or a list of parts (Mistral).

    Raises ``TypeError`` for anything else. Half a character, which no file could hold, is replaced.
    """
    if content is None or isinstance(content, str):
        return (content or "").encode("utf-8", "replace").decode(), ""
    texts, thoughts = [], []
    for part in content:
        inside = part["thinking"] if part["type"] == "thinking" else part["text"]
        (thoughts if part["type"] == "thinking" else texts).append(parts(inside)[0])
    return "".join(texts), "\n\n".join(thoughts)


def in_time(response, seconds: float) -> None:
    """Let the answer as a whole take no longer: the package's limit is for every piece of it."""
    stream, end = response.stream, time.monotonic() + seconds

    class InTime(type(stream).__bases__[0]):  # httpx's, or that of the package which openai 3 uses
        def __iter__(self):
            for piece in stream:
                if time.monotonic() > end:
                    raise TimeoutError
                yield piece

        def close(self):
            stream.close()

    response.stream = InTime()


class NotThere(Exception):
    """Status 404: an unknown model, or an address that leads nowhere."""


class Rejected(Exception):
    """The server does not take this one request (its content, its length, a setting); others may pass."""


@dataclass(frozen=True)
class Answer:
    """What came back: ``text``, the ``reasoning`` that the server split off, why it ended, its tokens."""

    text: str
    reasoning: str
    finish: str
    tokens_in: int
    tokens_out: int


def split_name(name: str) -> tuple[str, str]:
    """``(model, address)`` of ``"MODEL@http://host:port/v1"``.

    Without an address: ``RIMKIT_BASE_URL``, ``OPENAI_BASE_URL``, or OpenAI's own. Raises ``UserError``
    for a name without a model, and for an address with a password or a query, which would end up in
    tables and notebooks.
    """
    match = NAME.fullmatch(name.strip())
    if not match:
        raise UserError(f"{name!r} names no model: write endpoint:MODEL or endpoint:MODEL@http://host:port/v1")
    url = match["url"] or os.environ.get("RIMKIT_BASE_URL") or os.environ.get("OPENAI_BASE_URL") or OPENAI
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError("the address of an endpoint must hold no password or key: put it into RIMKIT_API_KEY")
    return match["model"], url.rstrip("/")


def api_key(url: str) -> str | None:
    """The key for this address, or None; ``UserError`` where one is needed (https) and there is none."""
    own, openai = os.environ.get("RIMKIT_API_KEY"), os.environ.get("OPENAI_API_KEY")
    for_openai = url == (os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
    key = (openai or own) if url == OPENAI else (own or (openai if for_openai else None))
    if not key and url.startswith("https://"):
        names = "OPENAI_API_KEY or RIMKIT_API_KEY" if for_openai else "RIMKIT_API_KEY"
        raise UserError(f"{url} needs a key and there is none: put it into the environment variable {names}")
    return key or None


@dataclass
class Client:
    """One model at one address.

    ``timeout`` (seconds) and ``retries`` are those of a single request: too many requests, failures of
    the server and silence are tried again after a pause that doubles, or that the server asks for.
    ``concurrency`` requests are under way at a time, and at most ``per_minute`` begin in a minute
    (None: no limit). ``settings`` go into every request and win over rimkit's own; None takes a
    setting out (``{"temperature": None}``).
    """

    model: str
    url: str
    timeout: float = 120.0
    retries: int = 5
    concurrency: int = 8
    per_minute: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name, low in (("timeout", 0.001), ("retries", 0), ("concurrency", 1), ("per_minute", 0.001)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"{name} must be {low:g} or more, not {value:g}")
        self.lock, self._next_start = threading.Lock(), 0.0

    @cached_property
    def _api(self):
        try:
            import openai
        except ImportError as error:
            raise UserError(NO_PACKAGE) from error
        key = api_key(self.url) or "none"
        # the package would send these two, from OpenAI's variables, to any server
        own = {} if self.url == OPENAI else {f"OpenAI-{name}": openai.Omit() for name in ("Organization", "Project")}
        http = openai.DefaultHttpxClient(event_hooks={"response": [lambda response: in_time(response, self.timeout)]})
        return openai.OpenAI(base_url=self.url, api_key=key, default_headers=own, http_client=http)

    def models(self) -> list[str]:
        """The names that the server offers, empty where it does not say; asked once, without waiting long.

        Raises `UserError` if nobody answers or the key is refused.
        """
        try:
            listed = self._send(lambda api: api.models.list(), tries=1, timeout=min(self.timeout, 10.0))
            return [item.id for item in listed.data]
        except (Rejected, NotThere, AttributeError, TypeError):  # no such list there, or a key without the right to it
            return []

    def chat(self, messages: list[dict], **body) -> Answer:
        """The answer to a conversation (``/chat/completions``); raises `UserError` or `Rejected`."""
        reply = self._ask(lambda api, known: api.chat.completions.create(messages=messages, **known), body)
        return self._read(reply, lambda choice: choice.message)

    def complete(self, prompt: str | list[int], **body) -> Answer:
        """The continuation of a text or of token ids (``/completions``); raises `UserError` or `Rejected`."""
        reply = self._ask(lambda api, known: api.completions.create(prompt=prompt, **known), body)
        return self._read(reply, lambda choice: choice)

    def each(
        self, calls: Mapping[str, Callable[[], Any]], done: Callable[[str, Any], None], proven: bool = False
    ) -> None:
        """Run all calls, ``concurrency`` at a time; each result goes to ``done`` (in this thread) as it comes.

        A request that the server does not take is handed on as its `Rejected`; where the first `PATIENCE`
        are not (and the setting is not ``proven``), it is the setting, and `UserError` says so. The first
        error stops what has not begun, waits for what has, so that nothing paid for is lost, and is
        raised. Ctrl-C does not wait.
        """
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="endpoint")
        futures = {pool.submit(call): key for key, call in calls.items()}
        open_ones, failure, refused = dict(futures), None, 0
        try:
            for future in as_completed(futures):
                key, error = open_ones.pop(future), future.exception()
                refused += isinstance(error, Rejected)
                if refused == min(PATIENCE, len(calls)) and not proven:
                    failure = UserError(f"{self.url} takes none of the requests: {error}")
                elif error and not isinstance(error, Rejected):
                    failure = error
                if failure:
                    break
                proven = proven or error is None
                done(key, error or future.result())
            pool.shutdown(wait=True, cancel_futures=True)
            for future, key in open_ones.items():
                if not future.cancelled() and not future.exception():
                    done(key, future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failure:
            raise failure

    def _ask(self, create: Callable, body: dict):
        own = {name: value for name, value in {**body, **self.settings}.items() if value is not None}
        extra = {name: own.pop(name) for name in list(own) if name not in STANDARD}
        self._wait_for_turn()
        try:
            return self._send(lambda api: create(api, {"model": self.model, **own, "extra_body": extra or None}))
        except NotThere as error:
            offered = self.models()
            hint = nearest(self.model, offered) or (f"; it offers {', '.join(offered[:5])}" if offered else "")
            raise UserError(f"{self.url} knows no model {self.model!r}, or is no such address{hint}") from error

    def _send(self, request: Callable, tries: int | None = None, timeout: float | None = None):
        """Send, with the limits as they are now: a user may change them between two calls."""
        api, tries, timeout = self._api, tries or self.retries + 1, timeout or self.timeout
        import openai

        patience = openai.Timeout(timeout, connect=min(timeout, 10.0))
        for attempt in range(tries):  # of answers that are cut off; the package repeats what fails before
            try:
                return request(api.with_options(max_retries=tries - 1, timeout=patience))
            except (json.JSONDecodeError, UnicodeDecodeError):
                problem: Exception = Rejected(self._not_openai)
                time.sleep(min(0.5 * attempt, 2))
            except openai.APIError as error:
                problem = self._explain(error, "one try" if tries == 1 else f"{tries} tries", timeout)
                break
        # outside of the handler: the original error may quote the key, and a notebook would show its whole chain
        raise problem

    def _explain(self, error, tries: str, timeout: float) -> Exception:
        """The same error in one line, without the key."""
        import openai

        if isinstance(error, openai.APITimeoutError) or isinstance(error.__cause__, TimeoutError):
            hint = "raise timeout, or lower concurrency"
            return UserError(f"{self.url} did not answer within {timeout:g} s ({tries}): {hint}")
        if isinstance(error, openai.APIConnectionError):
            return UserError(f"no answer from {self.url} ({tries}): is the server running, and is the address right?")
        status, words = getattr(error, "status_code", None), self._words(error)
        if status == 403 and error.request.method == "GET":  # a key that may ask but not list
            return Rejected("listing is not allowed")
        if status in (401, 403):  # what the server says about a key may quote it
            names = "RIMKIT_API_KEY or OPENAI_API_KEY"
            return UserError(f"{self.url} refuses access ({status}): check the key in the environment variable {names}")
        if status == 429:
            return UserError(f"{self.url} takes no more requests now (429, {tries}): quota or rate limit; {words}")
        if status == 404:
            return NotThere(words)
        if status in REJECTED:
            return Rejected(self._clean(error.code) if isinstance(error.code, str) else words)
        return UserError(f"{self.url} failed ({status or 'no status'}, {tries}): {words}")

    def _words(self, error) -> str:
        body = error.body if isinstance(error.body, dict) else {}
        return self._clean(str(body.get("message") or body.get("detail") or error.message))

    def _clean(self, said: str) -> str:
        """What a server says, short and without a key, whole or shortened."""
        key = self._api.api_key
        said = re.sub(re.escape(key[:8]) + r"[\w.*-]*", "(key)", said) if len(key) > 8 else said
        return " ".join(KEYS.sub("(key)", said).split())[:160]

    @property
    def _not_openai(self) -> str:
        return f"{self.url} answers, but not in OpenAI's form: does the address end in /v1?"

    def _read(self, reply, message_of: Callable) -> Answer:
        """The first choice of an answer; `Rejected` for one that has none, or is in no known form."""
        try:
            choice = reply.choices[0]
            message = message_of(choice)
            if message is None:
                raise TypeError
            text, thought = parts(getattr(message, "content", None) or getattr(message, "text", None))
            # vLLM calls it `reasoning`, older versions, SGLang and transformers `reasoning_content`
            split_off = getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None) or thought
            used = [getattr(reply.usage, name, 0) for name in ("prompt_tokens", "completion_tokens")]
            counts = [count if isinstance(count, int) else 0 for count in used]
            return Answer(text, parts(split_off)[0], str(choice.finish_reason or ""), *counts)
        except (AttributeError, TypeError, IndexError, KeyError):  # a page of HTML, or an error inside a success
            problem = Rejected(self._not_openai)
        raise problem

    def _wait_for_turn(self) -> None:
        if self.per_minute:
            with self.lock:
                start = self._next_start = max(time.monotonic(), self._next_start + 60 / self.per_minute)
            time.sleep(max(0.0, start - time.monotonic()))
