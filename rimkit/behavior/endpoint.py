"""A judge behind an endpoint: a large model that grades replies with the rubric of `rimkit.behavior.rubric`.

Requests and replies to harmful prompts leave this machine, for the address that the estimate names; a server of one's
own (vLLM, SGLang, `transformers serve`) keeps them at home. The estimate is printed before the first request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from rimkit.behavior import outside, rubric
from rimkit.behavior.judges import HARMFUL
from rimkit.behavior.outside import UNJUDGED
from rimkit.behavior.scorecache import ScoreCache, content_key
from rimkit.errors import UserError, nearest
from rimkit.models.client import Client, Rejected, split_name

NO_SCORE = "no score in the answer"
KEPT = "are kept, and the same call goes on from there"
BYTES_PER_TOKEN = 4  # a rule of thumb for English text; other languages and code need more tokens
OVERHEAD = 12  # tokens that a chat template adds, roughly
ANSWER = 60  # tokens of an answer in the rubric's form, roughly
PATIENCE = 3  # requests refused before any was accepted, after which it is the setting that is wrong


@dataclass
class EndpointJudge:
    """Scores from 1 to 5 by a model at an endpoint; ``threshold`` and higher counts as misaligned (3, as in the paper).

    ``model`` is ``"MODEL"`` or ``"MODEL@http://host:port/v1"`` (see `rimkit.models.client.split_name`; the key comes
    from the environment). Temperature is 0. ``max_tokens`` limits an answer (raise it for a judge that thinks). An
    answer without a score is asked for again, ``attempts`` times in all; then the reply is *unjudged*. ``price_in``
    and ``price_out`` (per million tokens) go into the estimate. ``limits`` are those of
    `rimkit.models.client.Client`: ``concurrency, per_minute, timeout, retries, settings``.

    Scores are kept on disk under a hash of address, model, rubric, settings, prompt and reply (``cache``: a folder;
    None: `rimkit.behavior.scorecache.default_folder`). Nothing is asked twice, and after a failure in the middle the
    same call goes on. ``spent`` counts what this judge has used: ``calls, tokens_in, tokens_out``.

    Its verdicts add ``rubric`` (the score) and ``unjudged``. ``refused`` means a score of 1.
    """

    model: str
    policy: str = rubric.POLICY
    threshold: int = rubric.THRESHOLD
    kinds: tuple[str, ...] = (HARMFUL,)
    attempts: int = 2
    max_tokens: int = 300
    price_in: float | None = None
    price_out: float | None = None
    cache: str | Path | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    reads_thoughts: bool = True
    spent: dict[str, int] = field(default_factory=lambda: {"calls": 0, "tokens_in": 0, "tokens_out": 0})

    def __post_init__(self):
        if not 1 <= self.threshold <= 5:
            raise UserError(f"threshold must lie in 1..5, not {self.threshold}")
        if self.attempts < 1:
            raise UserError(f"attempts must be 1 or more, not {self.attempts}")
        known = [item.name for item in fields(Client)[2:]]
        for name in set(self.limits) - set(known):
            raise UserError(f"no limit '{name}'{nearest(name, known)} (known: {', '.join(known)})")

    @property
    def name(self) -> str:
        return f"endpoint:{self.client.model}"

    @cached_property
    def client(self) -> Client:
        return Client(*split_name(self.model.removeprefix("endpoint:")), **self.limits)

    @cached_property
    def scores(self) -> ScoreCache:
        return ScoreCache(self.cache)

    def __call__(self, replies: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
        table = outside.verdicts(replies, prompts, self._say, self.name, self.kinds)
        return table if "rubric" in table else table.assign(rubric=float("nan"))

    def estimate(self, replies: pd.DataFrame, prompts: pd.DataFrame) -> dict[str, float]:
        """What judging these replies would cost: ``calls, cached, tokens_in, tokens_out, cost``. Asks nothing.

        ``calls`` are those not in the cache, each counted once; ``tokens_in`` counts 4 bytes as a token and
        ``tokens_out`` 60 per answer: sums to plan with, not a bill. ``cost`` is missing without both prices.
        """
        return self._plan(outside.to_ask(replies, prompts, self.kinds))

    def _plan(self, asked: pd.DataFrame) -> dict[str, float]:
        todo = self._todo(asked)
        texts = ["".join(m["content"] for m in self._messages(*pair)) for pair in todo.values()]
        tokens_in = sum(len(text.encode()) // BYTES_PER_TOKEN + OVERHEAD for text in texts)
        tokens_out = ANSWER * len(todo)
        priced = self.price_in is not None and self.price_out is not None
        cost = (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6 if priced else float("nan")
        different = len(set(self._keys(asked)))
        return {
            "calls": len(todo), "cached": different - len(todo),
            "tokens_in": tokens_in, "tokens_out": tokens_out, "cost": cost,
        }  # fmt: skip

    # -- asking --------------------------------------------------------------------------------------------

    def _say(self, asked: pd.DataFrame) -> pd.DataFrame:
        keys, todo = self._keys(asked), self._todo(asked)
        plan = self._plan(asked)
        self._announce(plan)
        reasons = self._fetch(todo, proven=plan["cached"] > 0) if todo else {}
        known = self.scores.known(keys)
        score = pd.Series([known.get(key, (None, 0))[0] for key in keys], asked.index, dtype="Float64")
        why = [reasons.get(key, NO_SCORE) if missing else "" for key, missing in zip(keys, score.isna(), strict=True)]
        return pd.DataFrame(
            {
                "unsafe": score >= self.threshold, "refused": score == 1,
                UNJUDGED: why, "rubric": score.to_numpy(float, na_value=float("nan")),
            },
            index=asked.index,
        )  # fmt: skip

    def _fetch(self, todo: dict[str, tuple[str, str]], proven: bool) -> dict[str, str]:
        """Ask for all of ``todo``; scores go to the cache as they come. Returns why some requests were refused.

        ``proven``: these settings have brought scores before, so that a refusal is about its one request.
        """
        self.client.models()  # whether anybody is there, and takes the key, before a thousand requests are sent
        refused: dict[str, str] = {}
        done = 0

        def keep(key: str, outcome: tuple[int | None, int] | str) -> None:
            nonlocal done
            if isinstance(outcome, str):
                refused[key] = f"request refused ({outcome})"
                if not (done or proven) and len(refused) == min(PATIENCE, len(todo)):
                    raise UserError(f"{self.client.url} takes none of the requests: {outcome}")
            else:
                self.scores.put(key, *outcome)
                done += 1

        try:
            self.client.each({key: partial(self._ask, *pair) for key, pair in todo.items()}, keep)
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted; {done} of {len(todo)} scores {KEPT}")
            raise
        except UserError as error:
            problem = f"{error}; {done} of {len(todo)} scores {KEPT}"
        else:
            return refused
        raise UserError(problem)  # outside of the handler: the chain of errors may hold what a server said

    def _ask(self, prompt: str, reply: str) -> tuple[int | None, int] | str:
        """``(score, times asked)``, or the words with which the server refused the request."""
        for asked in range(1, self.attempts + 1):
            try:
                answer = self.client.chat(self._messages(prompt, reply), temperature=0, max_tokens=self.max_tokens)
            except Rejected as error:
                return str(error)
            self._count(answer)
            if (score := rubric.parse(answer.text)) is not None:
                return score, asked
        return None, self.attempts

    def _count(self, answer) -> None:
        with self.client.lock:
            for name, more in (("calls", 1), ("tokens_in", answer.tokens_in), ("tokens_out", answer.tokens_out)):
                self.spent[name] += more

    def _announce(self, plan: dict[str, float]) -> None:
        money = f", about {plan['cost']:.2f} at the given prices" if plan["cost"] == plan["cost"] else ""
        print(
            f"{self.name} at {self.client.url}: {plan['calls']} calls ({plan['cached']} more are in the cache), about "
            f"{plan['tokens_in']:,} tokens in and {plan['tokens_out']:,} out{money}"
        )

    # -- what is asked -------------------------------------------------------------------------------------

    def _messages(self, prompt: str, reply: str) -> list[dict]:
        return rubric.messages(prompt, reply, self.policy)

    def _keys(self, asked: pd.DataFrame) -> list[str]:
        fixed = (self.client.url, self.client.model, rubric.RUBRIC, self.policy, self.max_tokens)
        own = dict(self.client.settings)
        return [content_key(*fixed, own, *pair) for pair in zip(asked["prompt"], asked["reply"], strict=True)]

    def _todo(self, asked: pd.DataFrame) -> dict[str, tuple[str, str]]:
        """What has no score yet, once each: a pair without one is left alone if it was asked often enough."""
        pairs = dict(zip(self._keys(asked), zip(asked["prompt"], asked["reply"], strict=True), strict=True))
        known = self.scores.known(pairs)
        settled = {key for key, (score, asked) in known.items() if score is not None or asked >= self.attempts}
        return {key: pair for key, pair in pairs.items() if key not in settled}


def named(name: str) -> EndpointJudge:
    """The judge ``"endpoint:MODEL"`` with default settings."""
    return EndpointJudge(name)
