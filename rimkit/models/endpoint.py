"""A model behind a server that speaks OpenAI's HTTP protocol: replies, nothing from inside.

Such are vLLM, SGLang, `transformers serve` and hosted models. The `openai` package sends, waits and
repeats; this file says what went wrong in one line and asks many questions at a time; what they
mean is not known here. Keys come from the environment alone: ``RIMKIT_API_KEY``, or
``OPENAI_API_KEY`` for the address that it was made for, so that no key travels to another server.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from inspect import signature
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from transformers import AutoTokenizer

from rimkit.data import UserError, nearest
from rimkit.models.chat import ChatFormat
from rimkit.models.hub import locate, read
from rimkit.models.study import Named

PREFIX = "endpoint:"
OPENAI = "https://api.openai.com/v1"
NAME = re.compile(r"(?P<model>\S+?)(?:@(?P<url>https?://\S+))?")
REJECTED = (400, 413, 422)  # this request, not the server or the account, is the problem
STOP, ENDED = "stop", ("eos", "eos_token", "stop_sequence", "end_turn")  # which all mean the first
THOUGHTS = ("reasoning", "reasoning_content", "thinking", "reasoning_details", "thinking_blocks")
THOUGHTS += ("reasoning_text", "thought", "thoughts")  # of other servers
PATIENCE = 3  # requests refused before any was accepted: then it is the setting that is wrong
KEYS = re.compile(  # sk-abcdefgh12, hf_abcdefgh12, AKIA0123456789AB
    r"(?i:\b(?:sk|pk|key|token|bearer)[-_:= ]+[\w.*-]{8,})"
    r"|(?i:\b(?:hf_|gsk_|AIza|xai-(?=\w{20}))[\w.*-]{8,})|(?i:\bAKIA\w{12,})"
)
SECRET_PART = re.compile(  # of an address's path: /user:word@host, /v1;api_key=x, long numbers
    r":[^/]*@|@[^/]*:|\b(?=\w*[a-z])(?=\w*[A-Z])(?=\w*\d)\w{20,}"
    r"|(?<!accounts/)\b[\da-fA-F]{32,}\b|;[^/;]*(?i:key|token|secret)\w*="
)
NO_PACKAGE = "an endpoint needs the openai package: pip install 'rimkit[endpoint]'"


def is_endpoint(model: Any) -> bool:
    """Whether ``model`` is an `EndpointModel`, or the name of one."""
    return isinstance(model, EndpointModel) or (isinstance(model, str) and model.startswith(PREFIX))


@dataclass
class EndpointModel(Named):
    """A model that a server runs: what `rimkit.load("endpoint:MODEL@http://host:port/v1")` gives.
    It stands wherever a model is only asked for replies; asking for its inside (``hf``, ``nn``)
    raises ``UserError``. ``client`` holds address, limits and further settings of the requests.
    Forced thoughts need the ``tokenizer``, which is looked for under the model's own name unless
    one is given. ``kept`` holds the answers of a call that was interrupted, in memory only, so that
    the same call goes on from there; ``said`` and ``room`` are as in `StudyModel`."""

    name: str
    client: "Client"
    tokenizer_source: Any = None
    device: str = "endpoint"
    dtype: str = "unknown"
    kept: dict[str, "Answer"] = field(default_factory=dict, repr=False)
    said: set[str] = field(default_factory=set, repr=False)
    room: int = 0

    @cached_property
    def tokenizer(self):
        """The tokenizer, by the model's name or the one given; `UserError` if there is none."""
        source = self.tokenizer_source or self.client.model
        if not isinstance(source, str | Path):
            return source
        try:
            return read(AutoTokenizer, locate(source))
        except UserError as error:
            needs = "forced thoughts need it, as rimkit.load(model, tokenizer=FOLDER_OR_HUB_ID)"
            inside = "what looks inside a model needs one that is loaded here, not an endpoint"
            raise UserError(f"the tokenizer of {source!r} is not here ({error}): {needs}; {inside}") from None

    @cached_property
    def chat(self) -> ChatFormat:
        return ChatFormat(self.tokenizer)

    @cached_property
    def language(self) -> str:
        """As of a model that is loaded, as far as its tokenizer is known here."""
        here = self.tokenizer_source is not None or Path(self.client.model).is_dir()
        return super().language if here else ""

    def _closed(self):
        others = "probes, heads and neurons need a model that is loaded here (a folder or a hub id)"
        gives = "an endpoint, which gives replies but nothing from inside the model"
        raise UserError(f"{self.name} runs behind {gives}: {others}")

    hf = nn = context = pad_id = limits = elsewhere = tracing = property(_closed)


def connect(model: str | EndpointModel, tokenizer=None, **limits) -> EndpointModel:
    """The model of ``"endpoint:MODEL@http://host:port/v1"``, after asking whether the server is
    there. ``tokenizer``: one, an embedded name, a folder or a hub id; ``limits`` are those of
    `Client`. Raises `UserError`: no server, no key where one is needed, a key that is refused."""
    if isinstance(model, EndpointModel):
        return model
    name, url = split_name(model.removeprefix(PREFIX))
    client = Client(name, url, **{"concurrency": 16, **limits})
    client.models()
    return EndpointModel(shown_at_endpoint(name), client, tokenizer)


def shown_at_endpoint(name: str) -> str:
    """A server's model in tables: of a folder, whose path belongs to one machine, the last name and
    a hash of the path. "7b:latest" would read as a training seed."""
    if Path(name).is_absolute():
        name = f"{Path(name).name}-{sha256(name.encode()).hexdigest()[:6]}"
    return name.replace(":", "-")


def parts(content: Any) -> tuple[str, str]:
    """``(text, thought)`` of a message's content: a text, nothing, or a list of parts (Mistral).
    Raises ``TypeError`` for anything else. Half a character is replaced."""
    if content is None or isinstance(content, str):
        return (content or "").encode("utf-8", "replace").decode(), ""
    texts, thoughts = [], []
    for part in content:
        thinks = re.search("think|reason", part["type"])
        inside = _words(part) if thinks else part["refusal" if part["type"] == "refusal" else "text"]
        (thoughts if thinks else texts).append(parts(inside)[0])
    return "".join(texts), "\n\n".join(thoughts)


def _words(one: Any) -> str:
    """A thought that a server split off: a text, or parts of it."""
    if isinstance(one, dict):
        one = [one[name] for name in ("text", "summary", "content", "thinking") if name in one][:1]
    return "\n\n".join(filter(None, map(_words, one))) if isinstance(one, list) else one or ""


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
    """The server does not take this one request (content, length, a setting); others may pass."""


@dataclass(frozen=True)
class Answer:
    """What came back; ``reasoning`` is what the server split off, ``finish`` why it ended."""

    text: str
    reasoning: str
    finish: str
    tokens_in: int
    tokens_out: int


def split_name(name: str) -> tuple[str, str]:
    """``(model, address)`` of ``"MODEL@http://host:port/v1"``. Without an address:
    ``RIMKIT_BASE_URL``, ``OPENAI_BASE_URL``, or OpenAI's own. Raises ``UserError`` for a name
    without a model, and an address with a password or a query, which tables would show."""
    match = NAME.fullmatch(name.strip())
    if not match:
        form = "endpoint:MODEL or endpoint:MODEL@http://host:port/v1"
        raise UserError(f"{name!r} names no model: write {form}")
    given = (match["url"], os.environ.get("RIMKIT_BASE_URL"), os.environ.get("OPENAI_BASE_URL"), OPENAI)
    url = next(filter(None, given))
    try:
        parts = urlsplit(url)
        _ = parts.port  # a number that is none raises
        hidden = parts.username or parts.password or parts.query or parts.fragment
        hidden = hidden or SECRET_PART.search(unquote(parts.path))
    except ValueError:
        raise UserError("the address of an endpoint is none: write http://host:port/v1") from None
    if hidden or KEYS.search(name) or KEYS.search(url):
        raise UserError("the address of an endpoint must hold no password or key: put it into RIMKIT_API_KEY")
    if "://" in match["model"] or re.search(r"@.*[:/]", match["model"]):  # "m@user:password@host"
        raise UserError("the address of an endpoint begins with http:// or https://")
    return match["model"], url.rstrip("/")


def api_key(url: str) -> str | None:
    """The key for this address, or None; ``UserError`` where there is none and https needs one."""
    own, openai = os.environ.get("RIMKIT_API_KEY"), os.environ.get("OPENAI_API_KEY")
    for_openai = url == (os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
    key = (openai or own) if url == OPENAI else (own or (openai if for_openai else None))
    if not key and url.startswith("https://"):
        names = "OPENAI_API_KEY or RIMKIT_API_KEY" if for_openai else "RIMKIT_API_KEY"
        raise UserError(f"{url} needs a key and there is none: set the environment variable {names}")
    if key and not key.isascii():
        raise UserError(f"the key for {url} holds signs that no key has: set it again")
    return key or None


@dataclass
class Client:
    """One model at one address. ``timeout`` (seconds) and ``retries`` are those of a single
    request: too many requests, failures of the server and silence are tried again after a pause
    that doubles, or that the server asks for. ``concurrency`` requests are under way at a time, and
    at most ``per_minute`` begin in a minute (None: no limit). ``settings`` go into every request
    and win over rimkit's own; None takes a setting out (``{"temperature": None}``)."""

    model: str
    url: str
    timeout: float = 120.0
    retries: int = 5
    concurrency: int = 8
    per_minute: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name, low in {"timeout": 0.001, "retries": 0, "concurrency": 1, "per_minute": 0.001}.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise UserError(f"{name} must be {low:g} or more, not {value:g}")
        self.lock, self._next_start = threading.Lock(), 0.0
        self._not_openai = f"{self.url} answers, but not in OpenAI's form: does the address end in /v1?"

    @cached_property
    def _api(self):
        try:
            import openai
        except ImportError as error:
            raise UserError(NO_PACKAGE) from error
        key = api_key(self.url) or "none"
        # the package would send these two, from OpenAI's variables, to any server
        names = () if self.url == OPENAI else ("OpenAI-Organization", "OpenAI-Project")
        headers = {name: openai.Omit() for name in names}
        hooks = {"response": [lambda response: in_time(response, self.timeout)]}
        http = openai.DefaultHttpxClient(event_hooks=hooks)
        return openai.OpenAI(base_url=self.url, api_key=key, default_headers=headers, http_client=http)

    def models(self) -> list[str]:
        """The names that the server offers, empty where it does not say; asked once, and shortly.
        Raises `UserError` if nobody answers or the key is refused."""
        patience = min(self.timeout, 10.0)
        try:
            listed = self._send(lambda api: api.models.list(), tries=1, timeout=patience)
            return [item.id for item in listed.data]
        except (Rejected, NotThere, AttributeError, TypeError):  # no list there, or no right to it
            return []

    def chat(self, messages: list[dict], **body) -> Answer:
        """The answer to a conversation (``/chat/completions``); `UserError` or `Rejected`."""
        return self._ask("chat.completions", {"messages": messages, **body})

    def complete(self, prompt: str | list[int], **body) -> Answer:
        """What continues a text or token ids (``/completions``); `UserError` or `Rejected`."""
        return self._ask("completions", {"prompt": prompt, **body})

    def each(self, calls: Mapping[str, Callable], done: Callable[[str, Any], None], proven=False) -> None:
        """Run all calls; each result goes to ``done`` (in this thread) as it comes. A request that
        the server does not take is handed on as its `Rejected`; where the first `PATIENCE` are not
        (and the setting is not ``proven``), it is the setting, and `UserError` says so. The first
        error is raised when what has begun, and may be paid for, is done; Ctrl-C does not wait."""
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

    def _ask(self, path: str, body: dict) -> Answer:
        own = {name: value for name, value in {**body, **self.settings}.items() if value is not None}
        known = signature(attrgetter(path)(self._api).create).parameters  # others go past the package
        extra = {name: own.pop(name) for name in list(own) if name not in known}
        own |= {"model": self.model, "extra_body": extra or None}
        if self.per_minute:
            with self.lock:
                start = self._next_start = max(time.monotonic(), self._next_start + 60 / self.per_minute)
            time.sleep(max(0.0, start - time.monotonic()))
        try:
            return self._read(self._send(lambda api: attrgetter(path)(api).create(**own)))
        except NotThere as error:
            offered = self.models()
            hint = nearest(self.model, offered) or (offered and f"; it offers {', '.join(offered[:5])}") or ""
            raise UserError(f"{self.url} knows no model {self.model!r}, or is no such address{hint}") from error

    def _send(self, request: Callable, tries: int | None = None, timeout: float | None = None):
        """Send, with the limits as they are now: a user may change them between two calls."""
        api, tries, timeout = self._api, tries or self.retries + 1, timeout or self.timeout
        import openai

        patience = openai.Timeout(timeout, connect=min(timeout, 10.0))
        for attempt in range(tries):  # of answers that are cut off; the package repeats what fails before
            try:
                return request(api.with_options(max_retries=tries - 1, timeout=patience))
            except (ValueError, RecursionError):  # of json, or of the text
                problem: Exception = Rejected(self._not_openai)
                time.sleep(min(0.5 * attempt, 2))
            except (TimeoutError, openai.APIError) as error:
                problem = self._explain(error, "one try" if tries == 1 else f"{tries} tries", timeout)
                if not isinstance(error, TimeoutError):  # that of `in_time`, which the package may not see
                    break
        raise problem  # outside of the handler: the original error may quote the key, and would be shown

    def _explain(self, error, tries: str, timeout: float) -> Exception:
        """The same error in one line, without the key."""
        import openai

        url, status = self.url, getattr(error, "status_code", None)
        if isinstance(error, openai.APITimeoutError | TimeoutError) or isinstance(error.__cause__, TimeoutError):
            late = f"{url} did not answer within {timeout:g} s ({tries})"
            return UserError(f"{late}: raise timeout, or lower concurrency")
        if isinstance(error, openai.APIConnectionError):
            return UserError(f"no answer from {url} ({tries}): is the server running, and is the address right?")
        if status == 403 and error.request.method == "GET":  # a key that may ask but not list
            return Rejected("listing is not allowed")
        if status in (401, 403):  # what the server says about a key may quote it
            return UserError(f"{url} refuses access ({status}): check the key in RIMKIT_API_KEY or OPENAI_API_KEY")
        body = error.body if isinstance(error.body, dict) else {}
        words = self._clean(str(body.get("message") or body.get("detail") or error.message))
        if status == 429:
            return UserError(f"{url} takes no more requests now (429, {tries}): quota or rate limit; {words}")
        if status == 404:
            return NotThere(words)
        if status in REJECTED:
            return Rejected(self._clean(error.code) if isinstance(error.code, str) else words)
        return UserError(f"{url} failed ({status or 'no status'}, {tries}): {words}")

    def _clean(self, said: str) -> str:
        """What a server says, short and without a key, whole or shortened."""
        key = self._api.api_key
        said = re.sub(re.escape(key[:8]) + r"[\w.*-]*", "(key)", said) if len(key) > 4 else said
        return " ".join(KEYS.sub("(key)", said).split())[:160]

    def _read(self, reply) -> Answer:
        """The first choice of an answer; `Rejected` if there is none, or in no known form."""
        try:
            # of several, the first by number
            choice = min(reply.choices, key=lambda one: getattr(one, "index", None) or 0)
            message = getattr(choice, "message", choice)
            if message is None or isinstance(message, str):
                raise TypeError
            # OpenAI keeps a refusal apart from the content, and older completions have a text
            said = (getattr(message, name, None) for name in ("content", "refusal", "text"))
            text, thought = parts(next((one for one in said if one and one != " " * len(one)), None))
            named = (_words(getattr(message, name, None)) for name in THOUGHTS)
            split_off = next(filter(None, named), thought)
            used = [getattr(reply.usage, name, 0) for name in ("prompt_tokens", "completion_tokens")]
            counts = [count if isinstance(count, int) else 0 for count in used]
            finish = str(choice.finish_reason or "")
            return Answer(text, parts(split_off)[0], STOP if finish in ENDED else finish, *counts)
        except (AttributeError, TypeError, ValueError, KeyError):  # a page of HTML, or an error inside a success
            said = getattr(reply, "error", None)
            problem = Rejected(f"an error: {self._clean(str(said))}" if said else self._not_openai)
        raise problem
