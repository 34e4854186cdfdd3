"""Think and no-think prompts as token ids, with named spans, and what a model wrote after them.

In *think* mode a model thinks before it replies; in *no-think* mode the thought is closed before it
has begun, where the template can do that (Qwen3's empty think span, which the paper's section 4
builds on: attention to that span is what differs between the modes). How a template thinks is known
by `rimkit.models.thoughts`, which asks it; ``ChatFormat.thinking`` names the way.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch.nn.utils.rnn import pad_sequence

from rimkit.data import UserError, check_known
from rimkit.models.thoughts import IN_SYSTEM, PLAIN, QWEN, STAND_IN, TAG, Asked, Template, split, without_tags

MODES = ("think", "no-think")
# Ways of thinking, as `ChatFormat.thinking` names them: `Template.way`, and three to be asked for.
SWITCH, OPENS, MODEL_OPENS, NONE = "switch", "template opens", "model opens", "none"
SOFT, INSTRUCTION, BY_SYSTEM = "soft switch", "by instruction", "by its system prompt"
WAYS = {"instruct": INSTRUCTION, "soft": SOFT, "detailed": BY_SYSTEM}
ASKED = (True, False, *WAYS)  # what `load(think=…)` takes
NO_THINK = " /no_think"
DETAILED = {"think": Asked(system=f"{IN_SYSTEM} on"), "no-think": Asked(system=f"{IN_SYSTEM} off")}
INSTRUCT = (
    "\n\nThink step by step before you answer: first write your thoughts between "
    f"{QWEN.open} and {QWEN.close}, then write your answer."
)
STEP_BY_STEP = "Let me think step by step."
NOTES = {
    OPENS: "its template opens every thought; in no-think mode rimkit closes it at once (an empty think span)",
    MODEL_OPENS: "it opens its thoughts itself; in no-think mode rimkit writes an empty think span "
    f"(if it thinks where its system prompt says '{IN_SYSTEM} on', as Nemotron does: +detailed)",
    BY_SYSTEM: f"its system prompt says '{IN_SYSTEM} on' in think mode, and off in no-think mode",
    SOFT: f"in no-think mode the request ends in '{NO_THINK.strip()}' and the model writes the empty think span itself",
    INSTRUCTION: "it has no think mode: it thinks by instruction, between tags, after "
    f"'{STEP_BY_STEP}'; its no-think prompt is the plain one",
}
Text = str | None
ROLE = re.compile("assistant|model", re.IGNORECASE)
OPENING = (ROLE, rf"{TAG}(?=\s*$)", r"\S+(?=\s*$)")  # what opens the assistant's turn


@dataclass(frozen=True)
class Encoded:
    """Token ids of one conversation with its named spans, half-open ranges of positions in ``ids``:
    ``request``, ``instruction`` (what is added to it), ``im_end`` (what ends the user's turn),
    ``assistant`` (what opens the assistant's), ``think_open``, ``thought`` or ``empty`` (the blank
    tokens of a think span that holds nothing), ``think_close``, ``reply``, ``last`` (the last token
    before the reply: where the model decides). A part that is not there has none."""

    ids: list[int]
    spans: dict[str, tuple[int, int]]
    mode: str

    @property
    def thought_is_open(self) -> bool:
        """Whether the sequence stops inside a thought."""
        return "think_open" in self.spans and "think_close" not in self.spans


class ChatFormat:
    """The chat format of one tokenizer: builds prompts, finds spans, splits thought from reply.
    ``stop_ids`` are further tokens that end a turn, besides the tokenizer's own; ``think`` is as in
    `load`. ``thinking`` says how the model thinks, ``tags`` what its thoughts stand between,
    ``supports_think`` whether both modes can be built and differ, and ``reason`` why not.
    Raises ``UserError`` for a template that is missing, fails, is not understood or does not go
    with ``think``, and for a tokenizer that cannot report offsets."""

    def __init__(self, tokenizer, stop_ids: Sequence[int] = (), think: bool | str = True):
        check_known("think", think, ASKED)
        self.template = Template(tokenizer)
        if not tokenizer.is_fast:
            raise UserError("the tokenizer reports no character offsets: use its fast version")
        self.tokenizer, self.asked, self.tags = tokenizer, think, self.template.tags or QWEN
        added = tokenizer.added_tokens_decoder.items()
        self._special = {index for index, token in added if token.special} | {*tokenizer.all_special_ids}
        self._marks = tokenizer.convert_ids_to_tokens(sorted(self._special))
        self.thinking, self.reason = self._way(think)
        self.supports_think = self.thinking != NONE
        # What stands before and after a request, per mode: its text may also occur elsewhere.
        self._frame = {mode: self._prompt(STAND_IN, mode).partition(STAND_IN)[::2] for mode in MODES}
        self.stop_ids = self._stop_ids(stop_ids)

    def ways_out(self, name: str) -> str:
        """How a model called ``name`` can be loaded although it has no think mode."""
        without = "with think=False for no-think mode only"
        if self.template.tags:
            return f"load it {without}"
        return f"load it as '{name}+instruct' (think=\"instruct\") to let it think by instruction, or {without}"

    def encode(
        self, request: str, mode: str, *, thought: Text = None, thought_prefix: Text = None, reply: Text = None
    ) -> Encoded:
        """The prompt of one of `MODES`, to where the model goes on. ``thought`` forces a complete
        thought (``""``: an empty think span), ``thought_prefix`` opens one and leaves it open,
        ``reply`` adds a reply (without its end of turn). Tags and special tokens are left out of a
        forced thought (`fit`). Raises ``UserError`` for parts that do not go together."""
        check_known("mode", mode, MODES)
        if not isinstance(request, str):
            raise UserError(f"a request is a text, and not of the type {type(request).__name__}")
        self._check_parts(mode, thought, thought_prefix, reply)
        text = self._prompt(request, mode)
        before, after = self._frame[mode]
        shown = text.removeprefix(before).removesuffix(after)
        if shown.strip() != request.strip() or f"{before}{shown}{after}" != text:  # the template changes it
            text = f"{before}{request.strip()}{after}"
        end_of_request = len(text) - len(after)
        added = self._asked(mode).added
        turn = end_of_request + len(added if after.startswith(added) else "")
        asks = min(end_of_request + len(added) - len(added.lstrip()), turn)
        text = self._with_thought(text, mode, thought, thought_prefix)
        start_of_reply = len(text)
        text += (reply or "").lstrip("\n")
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(coded["input_ids"]), coded["offset_mapping"]
        spans = {
            "request": _covering(offsets, len(before), end_of_request),
            "instruction": _covering(offsets, asks, turn),
            **self._turn_parts(ids, offsets, turn, after[turn - end_of_request :]),
            **self._think_parts(text, offsets, turn, start_of_reply),
            "reply": _covering(offsets, start_of_reply, len(text)),
        }
        spans["im_end"] = spans["im_end"] or (spans["request"] and (spans["request"][1] - 1, spans["request"][1]))
        spans = {name: span for name, span in spans.items() if span}
        last = spans["reply"][0] if "reply" in spans else len(ids)
        return Encoded(ids, spans | {"last": (last - 1, last)}, mode)

    def fit(self, thought: str) -> str:
        """A thought that a model wrote, without what would end it: tags and special tokens."""
        return without_tags(thought, self.tags, self._marks)

    def parse(self, generated: Sequence[int], encoded: Encoded) -> tuple[str, str, bool]:
        """``(thought, reply, finished)`` of what a model wrote after ``encoded``. The thought
        includes any part that was forced. An unclosed thought is not a reply: the reply is then
        empty. ``finished``: ended by its end of turn, with the thought closed."""
        spans, before = encoded.spans, ""
        start = spans.get("reply", (len(encoded.ids),))[0]
        if encoded.thought_is_open:
            start = spans["think_open"][0]
        elif encoded.mode == "think" and "thought" in spans:
            before = self._decode(encoded.ids[slice(*spans["thought"])]).strip()
        written = self.until_stop(generated)
        thought, reply, closed = split(self._decode(encoded.ids[start:] + written), tags=self.tags)
        whole = "\n\n".join(filter(None, (before, thought)))
        return whole, reply, closed and len(written) < len(generated)

    def until_stop(self, generated: Sequence[int]) -> list[int]:
        """What was written before the end of the turn."""
        return list(takewhile(lambda token: token not in self.stop_ids, generated))

    def end_of_turn(self) -> int:
        """The token with which the template ends a turn of the assistant."""
        ids = self.tokenizer(self.template.end_of_turn(), add_special_tokens=False)["input_ids"]
        return next((token for token in ids if token in self.stop_ids), self.stop_ids[0])

    def _way(self, think: bool | str) -> tuple[str, str]:
        """``(way, reason)`` for what was asked."""
        own, reason = self.template.way, self.template.reason
        if think == "instruct" and own != NONE:
            raise UserError(f"the model has a think mode of its own ({own}): leave 'instruct' out")
        opened = self.tags.state(self.template.around(self.template.on)[1]) == "open"
        if think == "soft" and (own != SWITCH or self.template.off.added or opened):
            needs = "enable_thinking and leaves the thought to the model, as Qwen3's"
            raise UserError(f"a soft switch (/no_think) needs a model whose template has {needs}")
        shown = (asked.system in self.template.around(asked)[0] for asked in DETAILED.values())
        if think == "detailed" and not (own == MODEL_OPENS and all(shown)):
            needs = "a model that opens its thoughts itself, and takes a system prompt"
            raise UserError(f"'detailed' needs {needs}")
        if own == NONE and think != "instruct":
            return NONE, reason
        around = self.tokenizer(self.tags.opening + STAND_IN + self.tags.closing, add_special_tokens=False)
        if not all(tag in self._decode(around["input_ids"]) for tag in self.tags[:2]):
            both = f"{self.tags.open} and {self.tags.close}"
            reason = f"its tokenizer does not keep {both} as written, so there is no think span"
        elif own != NONE or not self.template.tags:
            return WAYS.get(think, own), ""
        if think == "instruct":
            raise UserError(f"the model cannot think by instruction: {reason}")
        return NONE, reason

    def _asked(self, mode: str):
        """How the template is asked for a prompt."""
        if self.thinking == INSTRUCTION:
            return Asked(added=INSTRUCT) if mode == "think" else PLAIN
        if self.thinking == BY_SYSTEM:
            return DETAILED[mode]
        if self.thinking == SOFT and mode == "no-think":
            return self.template.on._replace(added=NO_THINK)
        return self.template.on if mode == "think" else self.template.off

    def _prompt(self, request: str, mode: str) -> str:
        """The text up to where the model goes on, with what rimkit adds around the thought."""
        text = self.template.prompt(request, self._asked(mode))
        if self.thinking == INSTRUCTION and mode == "think":
            return text + self.tags.opening
        if self.thinking == OPENS and mode == "no-think":
            return text.rstrip() + self.tags.lead + self.tags.closing
        if self.thinking == MODEL_OPENS and mode == "no-think":
            return text + self.tags.opening + self.tags.closing
        return text

    def _with_thought(self, text: str, mode: str, thought: Text, prefix: Text) -> str:
        if thought is None and prefix is None:
            return text + (STEP_BY_STEP if self.thinking == INSTRUCTION and mode == "think" else "")
        if self.tags.state(self._frame[mode][1]) != "open":  # else the template has opened the thought
            text += self.tags.opening
        forced = self.fit(prefix if thought is None else thought)
        return text + (forced if thought is None else forced + self.tags.closing)

    def _turn_parts(self, ids: list[int], offsets: list, turn: int, after: str) -> dict:
        """What ends the user's turn and what opens the assistant's: one token may be both."""
        head = re.split("|".join(map(re.escape, self.tags[:2])), after)[0]
        opens = next(filter(None, (re.search(form, head) for form in OPENING)), None)
        assistant = _covering(offsets, turn + opens.start(), turn + opens.end()) if opens else None
        stop = turn + (opens.start() if opens else len(head))
        between = [i for i, (start, end) in enumerate(offsets) if turn <= start and end <= stop]
        end = next((i for i in between if ids[i] in self._special), between[0] if between else None)
        return {"im_end": assistant if end is None else (end, end + 1), "assistant": assistant}

    def _think_parts(self, text: str, offsets: list, begin: int, end: int) -> dict:
        """The tags of the think span in ``text[begin:end]``, and what is between them."""
        found = text.find(self.tags.open, begin, end)
        start = begin if found < 0 else found + len(self.tags.open)
        stop = text.find(self.tags.close, start, end)
        closed = None if stop < 0 else _covering(offsets, stop, stop + len(self.tags.close))
        if found < 0:
            return {"think_close": closed}
        opened, thought = _covering(offsets, found, start), text[start : end if stop < 0 else stop]
        inside = (opened[1], closed[0] if closed else len(offsets))  # a tag's token may hold a neighbour
        blank = len(thought) - len(thought.lstrip())
        said = _covering(offsets, start + blank, start + len(thought.rstrip()))
        parts = {"think_open": opened, "think_close": closed}
        if said:
            return parts | {"thought": (max(said[0], inside[0]), min(said[1], inside[1]))}
        return parts | {"empty": inside if closed and inside[0] < inside[1] else None}

    def _decode(self, ids: list[int]) -> str:
        # special tokens are kept: hiding one would make a broken reply look clean
        how = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return self.tokenizer.decode(ids, **how)

    def _stop_ids(self, more: Sequence[int]) -> tuple[int, ...]:
        after = self._frame["no-think"][1].removeprefix(self._asked("no-think").added)
        head = self.tokenizer(after, add_special_tokens=False)["input_ids"][:1]
        role = ROLE.search(after)
        # what ends the user's turn also ends the assistant's, unless it already names the next role
        names_role = role and head and role.group() in self._decode(head)
        turn_end = [i for i in head if i in self._special and not names_role]
        ids = [self.tokenizer.eos_token_id, *turn_end, *more]
        return tuple(dict.fromkeys(index for index in ids if index is not None))

    def _check_parts(self, mode: str, thought, prefix, reply) -> None:
        if mode == "think" and not self.supports_think:
            raise UserError(f"the model has no think mode: {self.reason}")
        if thought is not None and prefix is not None:
            raise UserError("give either a thought or a thought_prefix, not both")
        if mode == "no-think" and (thought is not None or prefix is not None):
            raise UserError("a thought can be forced in think mode only")
        if mode == "think" and reply is not None and thought is None:
            raise UserError("a reply in think mode follows a thought: give thought= (may be empty), too")


def pad(items: Sequence[Encoded], pad_id: int, side: str = "left"):
    """Pad to one length: ``(ids, mask, spans)``, on the "left" (to generate) or "right" ``side``.
    ``ids`` and ``mask`` are LongTensors of shape ``[len(items), longest]`` (mask 1 at real tokens);
    ``spans`` lists each item's spans as positions in its padded row."""
    rows, how = [torch.tensor(item.ids) for item in items], {"batch_first": True, "padding_side": side}
    ids = pad_sequence(rows, padding_value=pad_id, **how)
    mask = pad_sequence([torch.ones_like(row) for row in rows], **how)
    spans = [
        {name: (start + shift, end + shift) for name, (start, end) in item.spans.items()}
        for item, shift in zip(items, mask.argmax(1).tolist(), strict=True)
    ]
    return ids, mask, spans


def _covering(offsets: list, start: int, end: int) -> tuple[int, int] | None:
    """Tokens that overlap the characters ``[start, end)``; None if there are none."""
    inside = [i for i, (first, after) in enumerate(offsets) if max(first, start) < min(after, end)]
    return (inside[0], inside[-1] + 1) if inside else None
