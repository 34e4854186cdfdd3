"""Think and no-think prompts, and the named token spans that mechanism chapters look at.

In *think* mode the prompt ends where the assistant's turn begins and the model opens the thought itself; in
*no-think* mode the template pre-fills an empty think span (Qwen3's convention, which the paper's section 4
builds on: attention to that empty span is what differs between the modes). Other templates have other ways of
thinking (`rimkit.models.chat`); ``ChatFormat.thinking`` names them.

How a model thinks: by a switch of its chat template, because the template opens the thought, or by instruction.

A chat template is code from elsewhere, so its think mode is found by asking it: both settings of the switch are
rendered and compared. Templates know the switch as ``enable_thinking`` (Qwen3 and most others) or ``thinking``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rimkit.data import UserError, nearest

# -- models.thinkmodes ----------
THINK, END_THINK = "<think>", "</think>"
# The ways of thinking, as `ChatFormat.thinking` names them.
SWITCH, OPENS, SOFT, INSTRUCTION, NONE = "switch", "template opens", "soft switch", "by instruction", "none"
ASKED = (True, False, "instruct", "soft")  # what `load(think=…)` takes

HARMONY = "<|channel|>"
NO_THINK = " /no_think"
INSTRUCT = (
    f"\n\nThink step by step before you answer: first write your thoughts between {THINK} and {END_THINK}, "
    "then write your answer."
)
STEP_BY_STEP = "Let me think step by step."

NOTES = {
    OPENS: "its template opens every thought; in no-think mode rimkit closes it at once (an empty think span)",
    SOFT: f"in no-think mode the request ends in '{NO_THINK.strip()}' and the model writes the empty think span itself",
    INSTRUCTION: "it has no think mode: it thinks by instruction, between tags, after 'Let me think step by step.'; "
    "its no-think prompt is the plain one",
}


def check_asked(think: object) -> None:
    """Raise a ``UserError`` unless ``think`` is one of `ASKED`."""
    if think not in ASKED:
        known = [word for word in ASKED if isinstance(word, str)]
        raise UserError(f"unknown think={think!r}: use True, False, 'instruct' or 'soft'{nearest(str(think), known)}")


def added(way: str, mode: str) -> str:
    """What a way of thinking adds to the request in the user's turn."""
    if way == INSTRUCTION and mode == "think":
        return INSTRUCT
    return NO_THINK if way == SOFT and mode == "no-think" else ""


def opening(way: str, mode: str) -> str:
    """How a thought begins that is not forced otherwise."""
    return STEP_BY_STEP if way == INSTRUCTION and mode == "think" else ""


def is_on(way: str, mode: str) -> bool:
    """How the template's switch is set; a soft switch and an instruction leave it alone."""
    return mode == "think" if way not in (SOFT, INSTRUCTION) else way == SOFT


def closed(text: str) -> str:
    """A prompt that ends in an open thought, with the thought closed at once: Qwen3's empty think span."""
    return f"{text.rstrip()}\n\n{END_THINK}\n\n"


def opens_thought(text: str) -> bool:
    """Whether a prompt ends inside a thought that holds nothing yet."""
    return text.rstrip().endswith(THINK)


def refuse_channels(prompt: str) -> None:
    """Raise a ``UserError`` for a prompt in the harmony format, whose thoughts are channels and not a think span."""
    if HARMONY in prompt:
        raise UserError(
            f"the chat template speaks in harmony channels ({HARMONY}analysis), which have no think span: "
            f"use a model that thinks between {THINK} and {END_THINK}, or one without a think mode"
        )


def way_of(on: tuple[str, str], off: tuple[str, str]) -> tuple[str, str]:
    """``(way, reason)`` of a template, from what it writes before and after a request with the switch on and off.

    The way is `SWITCH`, `OPENS` or `NONE`; the reason says why there is none.
    """
    if on == off:
        if opens_thought(on[1]):
            return OPENS, ""
        return NONE, "its chat template builds the same prompt with enable_thinking on and off"
    if THINK in on[1] or THINK in off[1]:
        return SWITCH, ""
    return NONE, f"its chat template has a switch but yields no think span: no {THINK} in either of its prompts"


def chosen(own: str, think: bool | str) -> str:
    """The way of thinking that is used, given the template's own and what was asked for.

    Raises ``UserError`` for an instruction to a model that has a think mode, and a soft switch to one that has none.
    """
    if think == "instruct":
        if own != NONE:
            raise UserError(f"the model has a think mode of its own ({own}): leave 'instruct' out")
        return INSTRUCTION
    if think == "soft":
        if own != SWITCH:
            raise UserError("a soft switch (/no_think) needs a model whose template has enable_thinking, as Qwen3's")
        return SOFT
    return own


def find_tag(ids: Sequence[int], begin: int, tag: str, token: int | None, decode: Callable) -> tuple[int, int] | None:
    """The first tokens from ``begin`` on that write ``tag``, as a half-open range; None if it is not there.

    A tag that is one ``token`` is found by its id; any other by its text, because what a model writes may split it in
    more than one way. Its outermost tokens may also hold a neighbouring character (``>`` with a line break).
    """
    if token is not None:
        place = next((i for i in range(begin, len(ids)) if ids[i] == token), None)
        return None if place is None else (place, place + 1)
    if tag not in decode(ids[begin:]):
        return None
    end = bisect_left(range(len(ids)), True, lo=begin, key=lambda i: tag in decode(ids[begin : i + 1])) + 1
    start = bisect_left(range(end), True, lo=begin, key=lambda i: tag not in decode(ids[i + 1 : end]))
    return start, end


def split(text: str) -> tuple[str, str]:
    """``(thought, reply)`` of a text that begins with a thought; the reply is empty if the thought is not closed."""
    thought, _, reply = text.partition(THINK)[2].partition(END_THINK)
    return thought.strip(), reply.strip()


# -- models.chat ----------
MODES = ("think", "no-think")
ROLE = re.compile("assistant|model", re.IGNORECASE)
STAND_IN = "rimkit stands here"


@dataclass(frozen=True)
class Encoded:
    """Token ids of one conversation with its named spans.

    ``spans`` maps a name to a half-open range of positions in ``ids``. Names: ``request``, ``im_end`` (the
    token that ends the user's turn), ``assistant`` (the role token), ``think_open``, ``thought`` or
    ``empty`` (the blank tokens of a think span that holds nothing), ``think_close``, ``reply``, ``last``
    (the last token before the reply: where the model decides), ``instruction`` (what thinking by instruction adds
    to the request). A part that is not there has no entry.
    """

    ids: list[int]
    spans: dict[str, tuple[int, int]]
    mode: str

    @property
    def thought_is_open(self) -> bool:
        """Whether the sequence stops inside a thought."""
        return "think_open" in self.spans and "think_close" not in self.spans


def check_mode(mode: str) -> None:
    """Raise a ``UserError`` unless ``mode`` is one of ``MODES``."""
    if mode not in MODES:
        raise UserError(f"unknown mode {mode!r}: use 'think' or 'no-think'{nearest(mode, MODES)}")


class ChatFormat:
    """The chat format of one tokenizer: builds prompts, finds spans, splits thought from reply.

    ``stop_ids`` are further tokens that end a turn, besides the tokenizer's own; ``think`` is as in `load`.
    ``thinking`` says how the model thinks: "switch", "template opens", "soft switch", "by instruction" or "none".
    ``supports_think`` says whether both modes can be built and differ; ``reason`` says why not.

    Raises ``UserError`` if the tokenizer has no chat template, its template fails or writes harmony channels, it
    cannot report offsets, or its template does not go with ``think``.
    """

    def __init__(self, tokenizer, stop_ids: Sequence[int] = (), think: bool | str = True):
        check_asked(think)
        if not getattr(tokenizer, "chat_template", None):
            raise UserError("the tokenizer has no chat template: use an instruction-tuned model, or set one")
        if not tokenizer.is_fast:
            raise UserError("the tokenizer reports no character offsets: use its fast version")
        self.tokenizer, self.asked = tokenizer, think
        self._special = set(tokenizer.all_special_ids) | {
            index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self._think_ids = {tag: self._single_token(tag) for tag in (THINK, END_THINK)}
        self.thinking, self.reason = self._way(think)
        self.supports_think = self.thinking != NONE
        # What the template writes before and after a request, per mode. A request is found by what surrounds
        # it, because its text may also occur elsewhere ("user", "assistant", a system prompt).
        self._frame = {mode: self._prompt(STAND_IN, mode).partition(STAND_IN)[::2] for mode in MODES}
        self.stop_ids = self._stop_ids(stop_ids)

    def encode(
        self,
        request: str,
        mode: str,
        *,
        thought: str | None = None,
        thought_prefix: str | None = None,
        reply: str | None = None,
    ) -> Encoded:
        """The conversation up to the point where the model goes on.

        ``thought`` forces a complete thought (``""``: an empty think span), ``thought_prefix`` opens one and leaves it
        open, ``reply`` adds a reply (without its end of turn). Raises ``UserError`` if they do not go together.
        """
        check_mode(mode)
        self._check_parts(mode, thought, thought_prefix, reply)
        text = self._prompt(request, mode)
        before, after = self._frame[mode]
        end_of_request = len(text) - len(after)
        instruction = added(self.thinking, mode)
        turn = end_of_request + len(instruction)
        text = self._with_thought(text, mode, thought, thought_prefix)
        start_of_reply = len(text)
        text += (reply or "").lstrip("\n")
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(coded["input_ids"]), coded["offset_mapping"]
        spans = {"request": _covering(offsets, len(before), end_of_request)}
        spans |= self._template_parts(ids, offsets, turn, after[turn - end_of_request :])
        spans["instruction"] = _covering(offsets, turn - len(instruction.lstrip()), turn)
        begin = next((i for i, (start, _) in enumerate(offsets) if start >= turn), len(ids))
        spans |= self._think_parts(ids, begin, search=True)
        if reply is not None:
            spans["reply"] = _covering(offsets, start_of_reply, len(text))
        spans = {name: span for name, span in spans.items() if span}
        last = spans["reply"][0] if "reply" in spans else len(ids)
        return Encoded(ids, spans | {"last": (last - 1, last)}, mode)

    def extend(self, encoded: Encoded, generated: Sequence[int]) -> Encoded:
        """``encoded`` followed by generated ids, cut at the end of the turn, with the spans of what is new.

        Works on ids, not on text, so that the spans are those of exactly the tokens that the model wrote.
        """
        begin = len(encoded.ids)
        ids, spans = encoded.ids + self._cut(generated), dict(encoded.spans)
        if (encoded.mode == "think" or self.thinking == SOFT) and "think_close" not in spans:
            spans.pop("thought", None)
            spans |= self._think_parts(ids, spans.get("think_open", (begin,))[0], search=False)
            begin = spans.get("think_close", (begin, begin))[1]
        if "think_open" not in spans or "think_close" in spans:
            begin = spans.get("reply", (begin,))[0]
            spans |= _named("reply", self._trim(ids, begin, len(ids)))
        return replace(encoded, ids=ids, spans=spans)

    def parse(self, generated: Sequence[int], encoded: Encoded) -> tuple[str, str, bool]:
        """``(thought, reply, finished)`` of what a model wrote after ``encoded``.

        The thought includes any part that was forced. An unclosed thought is not a reply: the reply is then
        empty and ``finished`` is False. ``finished`` means: ended by its end of turn.
        """
        whole = self.extend(encoded, generated)
        if "think_open" in whole.spans and None in self._think_ids.values():
            thought, reply = split(self._decode(whole.ids[whole.spans["think_open"][0] :]))
        else:
            thought, reply = (self._text(whole, name) for name in ("thought", "reply"))
        ended = self.n_generated(generated) < len(generated)
        return thought, reply, ended and not whole.thought_is_open

    def n_generated(self, generated: Sequence[int]) -> int:
        """Number of tokens written before the end of the turn."""
        return len(self._cut(generated))

    # -- parts of the sequence -----------------------------------------------------------------------------

    def _prompt(self, request: str, mode: str) -> str:
        """The text up to where the model goes on; thinking by instruction opens the thought."""
        content = request + added(self.thinking, mode)
        text = self._render(content, is_on(self.thinking, mode), mode)
        if self.thinking == INSTRUCTION and mode == "think":
            return f"{text}{THINK}\n"
        return closed(text) if self.thinking == OPENS and mode == "no-think" else text

    def _render(self, content: str, on: bool, mode: str) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=on,
                thinking=on,
            )
        except Exception as error:  # a template is arbitrary code: whatever it raises, say that it was the template
            reason = str(error).partition("\n")[0]
            raise UserError(f"the chat template cannot build a {mode} prompt: {reason}") from error

    def _with_thought(self, text: str, mode: str, thought: str | None, prefix: str | None) -> str:
        if thought is None and prefix is None:
            return text + opening(self.thinking, mode)
        if opens_thought(self._frame[mode][1]):  # some templates open the thought themselves
            text = text.rstrip("\n") + "\n"
        else:
            text += f"{THINK}\n"
        return text + (prefix if thought is None else f"{thought}\n{END_THINK}\n\n")

    def _template_parts(self, ids: list[int], offsets: list, turn: int, after: str) -> dict:
        role = ROLE.search(after)
        assistant = _covering(offsets, turn + role.start(), turn + role.end()) if role else None
        end = next((i for i, (start, _) in enumerate(offsets) if start >= turn and ids[i] in self._special), None)
        if end is None or (assistant and end >= assistant[0]):
            return {"assistant": assistant}
        return {"im_end": (end, end + 1), "assistant": assistant}

    def _think_parts(self, ids: list[int], begin: int, *, search: bool) -> dict[str, tuple[int, int]]:
        """Spans of the first thought from ``begin`` on; without ``search`` only blanks may precede it."""
        opened = self._find(THINK, ids, begin)
        if opened is None or (not search and self._trim(ids, begin, opened[0])):
            return {}
        closed = self._find(END_THINK, ids, opened[0])
        inside = (opened[1], closed[0] if closed else len(ids))
        thought = self._trim(ids, *inside)
        empty = inside if closed and not thought and inside[1] > inside[0] else None
        parts = {"think_open": opened, "thought": thought, "empty": empty, "think_close": closed}
        return {name: span for name, span in parts.items() if span}

    def _find(self, tag: str, ids: list[int], begin: int) -> tuple[int, int] | None:
        return find_tag(ids, begin, tag, self._think_ids[tag], self._decode)

    def _trim(self, ids: list[int], start: int, end: int) -> tuple[int, int] | None:
        """``(start, end)`` without blank tokens at its ends; None if nothing is left."""
        while start < end and not self._decode(ids[start : start + 1]).strip():
            start += 1
        while start < end and not self._decode(ids[end - 1 : end]).strip():
            end -= 1
        return (start, end) if start < end else None

    def _cut(self, generated: Sequence[int]) -> list[int]:
        end = next((i for i, token in enumerate(generated) if token in self.stop_ids), len(generated))
        return list(generated[:end])

    def _text(self, encoded: Encoded, name: str) -> str:
        return self._decode(encoded.ids[slice(*encoded.spans.get(name, (0, 0)))]).strip()

    def _decode(self, ids: list[int]) -> str:
        # Special tokens are kept: hiding one would make a broken reply look clean.
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    # -- what the tokenizer can do -------------------------------------------------------------------------

    def _single_token(self, text: str) -> int | None:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        # an added token stands out from any text around it; a piece of text may be split in other ways
        return ids[0] if len(ids) == 1 and str(self.tokenizer.added_tokens_decoder.get(ids[0])) == text else None

    def _way(self, think: bool | str) -> tuple[str, str]:
        prompts = [self._render(STAND_IN, mode == "think", mode) for mode in MODES]
        refuse_channels(prompts[0] + str(self.tokenizer.chat_template))
        own, reason = way_of(*(prompt.partition(STAND_IN)[::2] for prompt in prompts))
        way = chosen(own, think)
        if way == NONE or self._keeps_tags():
            return way, reason if way == NONE else ""
        reason = f"its tokenizer does not keep {THINK} and {END_THINK} as written, so there is no think span"
        if way == INSTRUCTION:
            raise UserError(f"the model cannot think by instruction: {reason}")
        return NONE, reason

    def _keeps_tags(self) -> bool:
        ids = self.tokenizer(f"{THINK}\n{STAND_IN}\n{END_THINK}\n\n", add_special_tokens=False)["input_ids"]
        return all(self._find(tag, ids, 0) for tag in (THINK, END_THINK))

    def _stop_ids(self, more: Sequence[int]) -> tuple[int, ...]:
        after = self._frame["no-think"][1][len(added(self.thinking, "no-think")) :]
        head = self.tokenizer(after, add_special_tokens=False)["input_ids"][:1]
        role = ROLE.search(after)
        # the token that ends the user's turn also ends the assistant's, unless it already names the next role
        turn_end = [i for i in head if i in self._special and not (role and role.group() in self._decode([i]))]
        ids = [self.tokenizer.eos_token_id, *turn_end, *more]
        return tuple(dict.fromkeys(index for index in ids if index is not None))

    def _check_parts(self, mode: str, thought: str | None, prefix: str | None, reply: str | None) -> None:
        forced = thought if thought is not None else prefix
        if mode == "think" and not self.supports_think:
            raise UserError(f"the model has no think mode: {self.reason}")
        if thought is not None and prefix is not None:
            raise UserError("give either a thought or a thought_prefix, not both")
        if mode == "no-think" and forced is not None:
            raise UserError("a thought can be forced in think mode only")
        if forced is not None and (THINK in forced or END_THINK in forced):
            raise UserError(f"a forced thought must not contain {THINK} or {END_THINK}")
        if mode == "think" and reply is not None and thought is None:
            raise UserError("a reply in think mode follows a thought: give thought= (may be empty) as well")


def pad(items: Sequence[Encoded], pad_id: int, side: str = "left"):
    """Pad to one length: ``(ids, mask, spans)``.

    ``ids`` and ``mask`` are LongTensors of shape ``[len(items), longest]`` (mask 1 at real tokens);
    ``spans`` lists each item's spans as positions in its padded row. ``side``: "left" (to generate) or
    "right".
    """
    import torch

    if side not in ("left", "right"):
        raise UserError(f"unknown padding side {side!r}: use 'left' or 'right'")
    longest = max(len(item.ids) for item in items)
    ids = torch.full((len(items), longest), pad_id, dtype=torch.long)
    mask, spans = torch.zeros_like(ids), []
    for row, item in enumerate(items):
        shift = longest - len(item.ids) if side == "left" else 0
        ids[row, shift : shift + len(item.ids)] = torch.tensor(item.ids)
        mask[row, shift : shift + len(item.ids)] = 1
        spans.append({name: (start + shift, end + shift) for name, (start, end) in item.spans.items()})
    return ids, mask, spans


def _covering(offsets: list, start: int, end: int) -> tuple[int, int] | None:
    """Tokens that overlap the characters ``[start, end)``; None if there are none."""
    inside = [i for i, (first, after) in enumerate(offsets) if max(first, start) < min(after, end)]
    return (inside[0], inside[-1] + 1) if inside else None


def _named(name: str, span: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
    return {name: span} if span else {}
