"""Think and no-think prompts, and the named token spans that mechanism chapters look at.

In *think* mode the prompt ends where the assistant's turn begins and the model opens the thought itself; in
*no-think* mode the template pre-fills an empty think span (Qwen3's convention, which the paper's section 4
builds on: attention to that empty span is what differs between the modes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rimkit.errors import UserError, nearest

MODES = ("think", "no-think")
THINK, END_THINK = "<think>", "</think>"
ROLE = re.compile("assistant|model", re.IGNORECASE)
STAND_IN = "rimkit stands here"


@dataclass(frozen=True)
class Encoded:
    """Token ids of one conversation with its named spans.

    ``spans`` maps a name to a half-open range of positions in ``ids``. Names: ``request``, ``im_end`` (the
    token that ends the user's turn), ``assistant`` (the role token), ``think_open``, ``thought`` or
    ``empty`` (the blank tokens of a think span that holds nothing), ``think_close``, ``reply``, ``last``
    (the last token before the reply: where the model decides). A part that is not there has no entry.
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

    ``stop_ids`` are further tokens that end a turn, besides the tokenizer's own. ``supports_think`` says
    whether both modes can be built and differ; ``reason`` says why not.

    Raises ``UserError`` if the tokenizer has no chat template, its template fails, or it cannot report
    offsets.
    """

    def __init__(self, tokenizer, stop_ids: Sequence[int] = ()):
        if not getattr(tokenizer, "chat_template", None):
            raise UserError("the tokenizer has no chat template: use an instruction-tuned model, or set one")
        if not tokenizer.is_fast:
            raise UserError("the tokenizer reports no character offsets: use its fast version")
        self.tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids) | {
            index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self._think_ids = tuple(self._single_token(tag) for tag in (THINK, END_THINK))
        # What the template writes before and after a request, per mode. A request is found by what surrounds
        # it, because its text may also occur elsewhere ("user", "assistant", a system prompt).
        self._frame = {mode: self._render(STAND_IN, mode).partition(STAND_IN)[::2] for mode in MODES}
        self.reason = self._why_no_think()
        self.supports_think = not self.reason
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

        ``thought`` forces a complete thought (``""``: an empty think span), ``thought_prefix`` opens one
        and leaves it open, ``reply`` adds a reply (without its end of turn). Raises ``UserError`` if they
        do not go together.
        """
        check_mode(mode)
        self._check_parts(mode, thought, thought_prefix, reply)
        text = self._render(request, mode)
        before, after = self._frame[mode]
        turn = len(text) - len(after)
        text = self._with_thought(text, turn, thought, thought_prefix)
        start_of_reply = len(text)
        text += (reply or "").lstrip("\n")
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(coded["input_ids"]), coded["offset_mapping"]
        spans = {"request": _covering(offsets, len(before), turn)}
        spans |= self._template_parts(ids, offsets, turn, after)
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
        if encoded.mode == "think" and "think_close" not in spans:
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
        thought, reply = (self._text(whole, name) for name in ("thought", "reply"))
        ended = len(whole.ids) < len(encoded.ids) + len(generated)
        return thought, reply, ended and not whole.thought_is_open

    def n_generated(self, generated: Sequence[int]) -> int:
        """Number of tokens written before the end of the turn."""
        return len(self._cut(generated))

    # -- parts of the sequence -----------------------------------------------------------------------------

    def _render(self, request: str, mode: str) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                [{"role": "user", "content": request}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=mode == "think",
            )
        except Exception as error:  # a template is arbitrary code: whatever it raises, say that it was the template
            reason = str(error).partition("\n")[0]
            raise UserError(f"the chat template cannot build a {mode} prompt: {reason}") from error

    def _with_thought(self, text: str, turn: int, thought: str | None, prefix: str | None) -> str:
        if thought is None and prefix is None:
            return text
        if _opens_thought(text[turn:]):  # some templates open the thought themselves
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
        opener, closer = self._think_ids
        opened = next((i for i in range(begin, len(ids)) if ids[i] == opener), None) if opener is not None else None
        if opened is None or (not search and self._trim(ids, begin, opened)):
            return {}
        spans = {"think_open": (opened, opened + 1)}
        closed = next((i for i in range(opened, len(ids)) if ids[i] == closer), None)
        inside = (opened + 1, len(ids) if closed is None else closed)
        thought = self._trim(ids, *inside)
        if thought or closed is None:
            spans |= _named("thought", thought)
        elif inside[1] > inside[0]:
            spans["empty"] = inside
        return spans | (_named("think_close", closed if closed is None else (closed, closed + 1)))

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
        return ids[0] if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id else None

    def _why_no_think(self) -> str:
        if None in self._think_ids:
            return f"its tokenizer has no {THINK} and {END_THINK} tokens"
        if self._render(STAND_IN, "think") == self._render(STAND_IN, "no-think"):
            return "its chat template builds the same prompt with enable_thinking on and off"
        return ""

    def _stop_ids(self, more: Sequence[int]) -> tuple[int, ...]:
        after = self._frame["no-think"][1]
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


def _opens_thought(text: str) -> bool:
    return text.rstrip("\n").endswith(THINK)


def _covering(offsets: list, start: int, end: int) -> tuple[int, int] | None:
    """Tokens that overlap the characters ``[start, end)``; None if there are none."""
    inside = [i for i, (first, after) in enumerate(offsets) if first < end and after > start and after > first]
    return (inside[0], inside[-1] + 1) if inside else None


def _named(name: str, span: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
    return {name: span} if span else {}
