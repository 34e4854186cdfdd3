"""Think and no-think prompts as token ids, with named spans, and what a model wrote after them.

In *think* mode a model thinks before it replies; in *no-think* mode the thought is closed before it
has begun, where the template can do that (Qwen3's empty think span, which the paper's section 4
builds on: attention to that span is what differs between the modes). How a template thinks is known
by `rimkit.models.thoughts`, which asks it; ``ChatFormat.thinking`` names the way. Weights are not
known here.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rimkit.data import UserError, nearest
from rimkit.models.thoughts import PLAIN, QWEN, STAND_IN, TAG, Asked, Template, split, without_tags

MODES = ("think", "no-think")
# The ways of thinking, as `ChatFormat.thinking` names them: `Template.way`, and two that are asked for.
SWITCH, OPENS, MODEL_OPENS, NONE = "switch", "template opens", "model opens", "none"
SOFT, INSTRUCTION = "soft switch", "by instruction"
ASKED = (True, False, "instruct", "soft")  # what `load(think=…)` takes
NO_THINK = " /no_think"
INSTRUCT = (
    f"\n\nThink step by step before you answer: first write your thoughts between {QWEN.open} and {QWEN.close}, "
    "then write your answer."
)
STEP_BY_STEP = "Let me think step by step."
NOTES = {
    OPENS: "its template opens every thought; in no-think mode rimkit closes it at once (an empty think span)",
    MODEL_OPENS: "it opens its thoughts itself; in no-think mode rimkit writes an empty think span",
    SOFT: f"in no-think mode the request ends in '{NO_THINK.strip()}' and the model writes the empty think span itself",
    INSTRUCTION: "it has no think mode: it thinks by instruction, between tags, after 'Let me think step by step.'; "
    "its no-think prompt is the plain one",
}
ROLE = re.compile("assistant|model", re.IGNORECASE)


@dataclass(frozen=True)
class Encoded:
    """Token ids of one conversation with its named spans.

    ``spans`` maps a name to a half-open range of positions in ``ids``; a part that is not there has no
    entry. Names: ``request``, ``instruction`` (what is added to it), ``im_end`` (what ends the user's
    turn), ``assistant`` (what opens the assistant's), ``think_open``, ``thought`` or ``empty`` (the
    blank tokens of a think span that holds nothing), ``think_close``, ``reply``, ``last`` (the last
    token before the reply: where the model decides).
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


def check_asked(think: object) -> None:
    """Raise a ``UserError`` unless ``think`` is one of `ASKED`."""
    if think not in ASKED:
        known = [word for word in ASKED if isinstance(word, str)]
        raise UserError(f"unknown think={think!r}: use True, False, 'instruct' or 'soft'{nearest(str(think), known)}")


class ChatFormat:
    """The chat format of one tokenizer: builds prompts, finds spans, splits thought from reply.

    ``stop_ids`` are further tokens that end a turn, besides the tokenizer's own; ``think`` is as in
    `load`. ``thinking`` says how the model thinks, ``tags`` what its thoughts stand between,
    ``supports_think`` whether both modes can be built and differ, and ``reason`` why not.

    Raises ``UserError`` if the tokenizer has no chat template, its template fails or thinks in a way
    that is not understood, it cannot report offsets, or its template does not go with ``think``.
    """

    def __init__(self, tokenizer, stop_ids: Sequence[int] = (), think: bool | str = True):
        check_asked(think)
        self.template = Template(tokenizer)
        if not tokenizer.is_fast:
            raise UserError("the tokenizer reports no character offsets: use its fast version")
        self.tokenizer, self.asked, self.tags = tokenizer, think, self.template.tags or QWEN
        self._special = set(tokenizer.all_special_ids) | {
            index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self._tag_ids = {tag: self._single_token(tag) for tag in self.tags[:2]}
        self.thinking, self.reason = self._way(think)
        self.supports_think = self.thinking != NONE
        # What stands before and after a request, per mode. A request is found by what surrounds it, because its
        # text may also occur elsewhere ("user", "assistant", a system prompt).
        self._frame = {mode: self._prompt(STAND_IN, mode).partition(STAND_IN)[::2] for mode in MODES}
        self.stop_ids = self._stop_ids(stop_ids)

    def ways_out(self, name: str) -> str:
        """How a model called ``name`` can be loaded although it has no think mode."""
        without = "with think=False for no-think mode only"
        if self.template.tags:
            return f"load it {without}"
        return f"load it as '{name}+instruct' (think=\"instruct\") to let it think by instruction, or {without}"

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
        and leaves it open, ``reply`` adds a reply (without its end of turn). Tags inside of a forced
        thought are left out, since a model may have written it. Raises ``UserError`` for parts that do
        not go together.
        """
        check_mode(mode)
        self._check_parts(mode, thought, thought_prefix, reply)
        text = self._prompt(request, mode)
        before, after = self._frame[mode]
        shown = text.removeprefix(before).removesuffix(after)
        if shown.strip() != request.strip() or f"{before}{shown}{after}" != text:  # a template that changes requests
            text = f"{before}{request.strip()}{after}"
        end_of_request = len(text) - len(after)
        added = self._asked(mode).added
        turn = end_of_request + len(added if after.startswith(added) else "")
        text = self._with_thought(text, mode, thought, thought_prefix)
        start_of_reply = len(text)
        text += (reply or "").lstrip("\n")
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(coded["input_ids"]), coded["offset_mapping"]

        def token_at(place: int) -> int:
            return next((i for i, (start, _) in enumerate(offsets) if start >= place), len(ids))

        spans = {"request": _covering(offsets, len(before), end_of_request)}
        spans |= self._turn_parts(ids, offsets, turn, after[turn - end_of_request :])
        spans["instruction"] = _covering(offsets, turn - len(added.lstrip()), turn) if turn > end_of_request else None
        spans |= self._think_parts(ids, token_at(turn), token_at(start_of_reply))
        if reply is not None:
            spans["reply"] = _covering(offsets, start_of_reply, len(text))
        spans = {name: span for name, span in spans.items() if span}
        last = spans["reply"][0] if "reply" in spans else len(ids)
        return Encoded(ids, spans | {"last": (last - 1, last)}, mode)

    def extend(self, encoded: Encoded, generated: Sequence[int]) -> Encoded:
        """``encoded`` followed by generated ids, cut at the end of the turn, with the spans of what is new.

        Works on ids, not on text, so that the spans are those of exactly the tokens that the model
        wrote. As in `parse`, the reply is what follows the last close.
        """
        begin = len(encoded.ids)
        ids, spans = encoded.ids + self._cut(generated), dict(encoded.spans)
        opened, closed = (self._find(tag, ids, begin, len(ids), last=True) for tag in self.tags[:2])
        first = self._find(self.tags.open, ids, begin, len(ids))
        if encoded.thought_is_open or (first and "think_close" not in spans and not self._trim(ids, begin, first[0])):
            spans.pop("thought", None)
            start = spans["think_open"][0] if encoded.thought_is_open else begin
            spans |= self._think_parts(ids, start, len(ids), last=True)
        within = opened if opened or not encoded.thought_is_open else spans["think_open"]
        if not within or (closed and closed[0] > within[0]):
            begin = closed[1] if closed else spans.get("reply", (begin,))[0]
            spans |= {"reply": reply} if (reply := self._trim(ids, begin, len(ids))) else {}
        return replace(encoded, ids=ids, spans=spans)

    def parse(self, generated: Sequence[int], encoded: Encoded) -> tuple[str, str, bool]:
        """``(thought, reply, finished)`` of what a model wrote after ``encoded``.

        The thought includes any part that was forced. An unclosed thought is not a reply: the reply is
        then empty. ``finished`` means: ended by its end of turn, with the thought closed.
        """
        spans, before = encoded.spans, ""
        start = spans["think_open"][0] if encoded.thought_is_open else spans.get("reply", (len(encoded.ids),))[0]
        if encoded.mode == "think" and not encoded.thought_is_open and "thought" in spans:
            before = self._decode(encoded.ids[slice(*spans["thought"])]).strip()
        written = self._cut(generated)
        thought, reply, closed = split(self._decode(encoded.ids[start:] + written), tags=self.tags)
        return "\n\n".join(filter(None, (before, thought))), reply, closed and len(written) < len(generated)

    def n_generated(self, generated: Sequence[int]) -> int:
        """Number of tokens written before the end of the turn."""
        return len(self._cut(generated))

    def _way(self, think: bool | str) -> tuple[str, str]:
        """``(way, reason)`` for what was asked; ``UserError`` where the template does not go with it."""
        own, reason = self.template.way, self.template.reason
        if think == "instruct" and own != NONE:
            raise UserError(f"the model has a think mode of its own ({own}): leave 'instruct' out")
        if think == "soft" and (own != SWITCH or self.template.off.added or self._is_open(self.template.on)):
            raise UserError(
                "a soft switch (/no_think) needs a model whose template has enable_thinking and leaves the thought to "
                "the model, as Qwen3's"
            )
        if own == NONE and think != "instruct":
            return NONE, reason
        ids = self.tokenizer(self.tags.opening + STAND_IN + self.tags.closing, add_special_tokens=False)["input_ids"]
        if not all(self._find(tag, ids, 0, len(ids)) for tag in self.tags[:2]):
            both = f"{self.tags.open} and {self.tags.close}"
            reason = f"its tokenizer does not keep {both} as written, so there is no think span"
        elif own != NONE or not self.template.tags:
            return {"instruct": INSTRUCTION, "soft": SOFT}.get(think, own), ""
        if think == "instruct":
            raise UserError(f"the model cannot think by instruction: {reason}")
        return NONE, reason

    def _asked(self, mode: str):
        """How the template is asked for a prompt."""
        if self.thinking == INSTRUCTION:
            return Asked(added=INSTRUCT) if mode == "think" else PLAIN
        if self.thinking == SOFT and mode == "no-think":
            return self.template.on._replace(added=NO_THINK)
        return self.template.on if mode == "think" else self.template.off

    def _prompt(self, request: str, mode: str) -> str:
        """The text up to where the model goes on, with what rimkit adds to open or close the thought."""
        text = self.template.prompt(request, self._asked(mode))
        if self.thinking == INSTRUCTION and mode == "think":
            return text + self.tags.opening
        if self.thinking == OPENS and mode == "no-think":
            return text.rstrip() + self.tags.lead + self.tags.closing
        if self.thinking == MODEL_OPENS and mode == "no-think":
            return text + self.tags.opening + self.tags.closing
        return text

    def _is_open(self, asked) -> bool:
        return self.tags.state(self.template.around(asked)[1]) == "open"

    def _with_thought(self, text: str, mode: str, thought: str | None, prefix: str | None) -> str:
        if thought is None and prefix is None:
            return text + (STEP_BY_STEP if self.thinking == INSTRUCTION and mode == "think" else "")
        if self.tags.state(self._frame[mode][1]) != "open":  # some templates open the thought themselves
            text += self.tags.opening
        forced = without_tags(prefix if thought is None else thought, self.tags)
        return text + (forced if thought is None else forced + self.tags.closing)

    def _turn_parts(self, ids: list[int], offsets: list, turn: int, after: str) -> dict:
        """What ends the user's turn and what opens the assistant's, by their places."""
        head = re.split("|".join(map(re.escape, self.tags[:2])), after)[0]
        opens = ROLE.search(head) or re.search(rf"{TAG}(?=\s*$)", head) or re.search(r"\S+(?=\s*$)", head)
        assistant = _covering(offsets, turn + opens.start(), turn + opens.end()) if opens else None
        stop = turn + (opens.start() if opens else len(head))
        between = [i for i, (start, end) in enumerate(offsets) if turn <= start and end <= stop]
        end = next((i for i in between if ids[i] in self._special), between[0] if between else None)
        return {"im_end": None if end is None else (end, end + 1), "assistant": assistant}

    def _think_parts(self, ids: list[int], begin: int, end: int, last: bool = False) -> dict[str, tuple[int, int]]:
        """Spans of the thought between ``begin`` and ``end``: from the first open to the first or ``last`` close."""
        opened = self._find(self.tags.open, ids, begin, end)
        closed = self._find(self.tags.close, ids, opened[1] if opened else begin, end, last)
        if not opened:
            return {"think_close": closed} if closed else {}
        inside = (opened[1], closed[0] if closed else end)
        thought = self._trim(ids, *inside)
        empty = inside if closed and not thought and inside[1] > inside[0] else None
        parts = {"think_open": opened, "thought": thought, "empty": empty, "think_close": closed}
        return {name: span for name, span in parts.items() if span}

    def _find(self, tag: str, ids: list[int], begin: int, end: int, last: bool = False) -> tuple[int, int] | None:
        return find_tag(ids, begin, end, tag, self._tag_ids[tag], self._decode, last)

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

    def _decode(self, ids: list[int]) -> str:
        # Special tokens are kept: hiding one would make a broken reply look clean.
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _single_token(self, text: str) -> int | None:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        # an added token stands out from any text around it; a piece of text may be split in other ways
        return ids[0] if len(ids) == 1 and str(self.tokenizer.added_tokens_decoder.get(ids[0])) == text else None

    def _stop_ids(self, more: Sequence[int]) -> tuple[int, ...]:
        after = self._frame["no-think"][1].removeprefix(self._asked("no-think").added)
        head = self.tokenizer(after, add_special_tokens=False)["input_ids"][:1]
        role = ROLE.search(after)
        # the token that ends the user's turn also ends the assistant's, unless it already names the next role
        turn_end = [i for i in head if i in self._special and not (role and role.group() in self._decode([i]))]
        ids = [self.tokenizer.eos_token_id, *turn_end, *more]
        return tuple(dict.fromkeys(index for index in ids if index is not None))

    def _check_parts(self, mode: str, thought: str | None, prefix: str | None, reply: str | None) -> None:
        if mode == "think" and not self.supports_think:
            raise UserError(f"the model has no think mode: {self.reason}")
        if thought is not None and prefix is not None:
            raise UserError("give either a thought or a thought_prefix, not both")
        if mode == "no-think" and (thought is not None or prefix is not None):
            raise UserError("a thought can be forced in think mode only")
        if mode == "think" and reply is not None and thought is None:
            raise UserError("a reply in think mode follows a thought: give thought= (may be empty) as well")


def find_tag(
    ids: Sequence[int], begin: int, end: int, tag: str, token: int | None, decode: Callable, last: bool = False
) -> tuple[int, int] | None:
    """The first (or ``last``) tokens in ``[begin, end)`` that write ``tag``, as a half-open range; None without.

    A tag that is one ``token`` is found by its id; any other by its text, because what a model writes
    may split it in more than one way. Its outermost tokens may also hold a neighbouring character
    (``>`` with a line break).
    """
    if token is not None:
        places = range(end - 1, begin - 1, -1) if last else range(begin, end)
        place = next((i for i in places if ids[i] == token), None)
        return None if place is None else (place, place + 1)
    if tag not in decode(ids[begin:end]):
        return None

    def ends(start: int) -> int:
        return bisect_left(range(end), True, lo=start, key=lambda i: tag in decode(ids[start : i + 1])) + 1

    def starts(stop: int) -> int:
        return bisect_left(range(stop), True, lo=begin, key=lambda i: tag not in decode(ids[i + 1 : stop]))

    if last:
        start = starts(end)
        return start, ends(start)
    stop = ends(begin)
    return starts(stop), stop


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
