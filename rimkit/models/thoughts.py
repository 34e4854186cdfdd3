"""Thoughts in text: their tags, replies cut into thought and reply, and templates asked for both.

It knows texts and chat templates, and neither tokens nor models. A chat template is code from
elsewhere, so it is asked instead of read: which of its variables closes the thought when it is
rendered, and how it writes a turn that has a thought, whose surroundings are tags and spacing.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cached_property, partial
from itertools import combinations, product
from typing import NamedTuple

import jinja2
import pandas as pd
from jinja2 import meta, nodes

from rimkit.data import UserError, data_dir, one_line

THINK, END_THINK = "<think>", "</think>"
# Tags of known models; in the last ones a thought has a channel of its own.
KNOWN = tuple(pd.read_csv(data_dir() / "prompts" / "think_tags.csv").itertuples(index=False, name=None))
WRAPPERS = (("<answer>", "</answer>"), ("<response>", "</response>"), ("<|START_RESPONSE|>", "<|END_RESPONSE|>"))
WRAPPERS += tuple((f"<|begin_of_{name}|>", f"<|end_of_{name}|>") for name in ("solution", "box"))
_FORMS = pd.read_csv(data_dir() / "prompts" / "tag_forms.csv").groupby("what")["form"].agg("|".join).to_dict()
# Tags that nobody knows; a pair of any name before a text; code and quotations, which show tags.
STRAY, PAIR = re.compile(_FORMS["stray"], re.I), re.compile(_FORMS["pair"], re.S)
QUOTED = re.compile(_FORMS["quoted"], re.M | re.S)
TAG = r"(?:<\|?[^<>\s]+\|?>|\[/?[A-Z_]+\]|◁[^◁▷]+▷)"
HARMONY = "<|channel|>"
STAND_IN, A_THOUGHT, A_REPLY = "rimkit stands here", "rimkit thinks here", "rimkit answers here"
FIELDS = ("reasoning_content", "reasoning", "thinking")  # where templates look for a turn's thought
PARTS = [{"type": "thinking", "thinking": A_THOUGHT}, {"type": "text", "text": A_REPLY}]
TODAY, ANOTHER_DAY = datetime(2026, 1, 1), datetime(2031, 7, 16, 13, 45, 59)  # for templates that write the date
SWITCHES = re.compile("think|reason|thought|effort", re.IGNORECASE)
OFF = (False, "none", "off", "no", "disabled", "chat", "nothink", "no_think")  # leave thinking out
NOT_UNDERSTOOD = "the chat template thinks in a way that is not understood here"
IN_SYSTEM = "detailed thinking"  # on or off
GENERATION = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")


class Tags(NamedTuple):
    """What opens and closes a thought, and the text between tags, thought and reply."""

    open: str
    close: str
    lead: str = "\n"
    trail: str = "\n"
    end: str = "\n\n"

    @property
    def opening(self) -> str:
        return self.open + self.lead

    @property
    def closing(self) -> str:
        return self.trail + self.close + self.end

    def state(self, text: str) -> str:
        """Whether a prompt ends in an "open" thought, behind a "closed" one, or "plain"."""
        opened, closed = text.rfind(self.open), text.rfind(self.close)
        if opened > closed:
            return "open"
        return "closed" if opened >= 0 or text.rstrip().endswith(self.close) else "plain"


QWEN = Tags(THINK, END_THINK)


def without_quoted(text: str, tags: Tags = QWEN) -> str:
    """The text with blanks for tags in quotations and code, unless it is one as a whole."""
    every = re.compile("|".join(re.escape(tag) for pair in (*KNOWN, tags[:2]) for tag in pair))
    blank = partial(every.sub, lambda tag: " " * len(tag[0]))
    return QUOTED.sub(lambda one: one[0] if one[0] == text.strip() else blank(one[0]), text)


def split(text: str, opened: bool = False, tags: Tags = QWEN) -> tuple[str, str, bool]:
    """``(thought, reply, closed)`` of what a model wrote: the reply is what follows the last close.
    All known tags and ``tags`` count, in any number. ``opened``: the prompt ends inside a thought.
    Quoted tags are text. After an unclosed thought the reply is empty, and ``closed`` False."""
    bare = without_quoted(re.sub(r"</?[a-z:]+>", lambda tag: tag[0].lower(), text, flags=re.IGNORECASE), tags)
    pairs = [*KNOWN, tags[:2]]
    opens, closes = ("|".join(re.escape(pair[side]) for pair in pairs) for side in (0, 1))
    last = max((found.end() for found in re.finditer(closes, bare)), default=0)
    closed = bool(last or not opened) and not re.search(opens, bare[last:])
    end = last if closed else len(text)
    found = [one.span() for one in re.finditer(f"{opens}|{closes}", bare[:end])]
    starts, ends = [0, *(after for _, after in found)], [*(before for before, _ in found), end]
    pieces = [text[start:stop].strip() for start, stop in zip(starts, ends, strict=True)]
    reply = text[end:].strip()
    for before, after in WRAPPERS:  # that some models put around their replies
        if reply.startswith(before):
            reply = reply.removeprefix(before).removesuffix(after).strip()
    return "\n\n".join(filter(None, pieces)), reply, closed


def without_tags(text: str, tags: Tags = QWEN, more: Iterable[str] = ()) -> str:
    """A text that a model wrote, fit to stand inside a thought: no tag, and none of ``more``."""
    every = {tag for pair in (*KNOWN, tags[:2]) for tag in pair} | {word for word in more if word.strip()}
    every = sorted(every, key=len, reverse=True)  # the longest first: one may begin another
    while any(tag in text for tag in every):  # what is left may be a tag again
        text = re.sub("|".join(map(re.escape, every)), "", text).strip()
    return text


def _on(day: datetime, template: str) -> str:
    """The template with a ``strftime_now`` of its own, which knows this day only."""
    if "strftime_now" not in template:
        return template
    written = {sign: day.strftime(f"%{sign}") for sign in "aAbBcdDeFHIjmMpSTUwxXyY"}
    forms = {f"%{sign}": text for sign, text in written.items()}
    forms |= {f"%-{sign}": text.lstrip("0") or "0" for sign, text in written.items()}
    replaced = "".join(f"|replace({form!r},{text!r})" for form, text in forms.items())
    return "{% macro strftime_now(format) %}{{ format" + replaced + " }}{% endmacro %}\n" + template


class Asked(NamedTuple):
    """How to render prompts: the template's variables, a text after the request, a system's."""

    variables: tuple[tuple[str, bool | str | int], ...] = ()
    added: str = ""
    system: str = ""

    @property
    def settings(self) -> dict:
        return dict(self.variables)


PLAIN = Asked()


class Template:
    """The chat template of a tokenizer, and how it thinks. ``way``: "switch", "template opens",
    "model opens" or "none", with a ``reason``; ``on`` and ``off``: how either mode is asked for.
    Raises ``UserError`` if it fails, does not show the request, or thinks in an unknown way."""

    def __init__(self, tokenizer):
        if not getattr(tokenizer, "chat_template", None):
            raise UserError("the tokenizer has no chat template: use an instruction-tuned model, or set one")
        self.tokenizer = tokenizer
        source = tokenizer.get_chat_template()
        self.source = _on(TODAY, source)
        for self.as_parts in (False, True):
            with suppress(UserError):
                self.around()
                break
        else:
            self.as_parts = False
            self.around()  # says why
        if any(used.name == "random" for used in self._tree.find_all(nodes.Filter)):
            raise UserError("the chat template draws at random: no prompt could be repeated")
        if HARMONY in self._texts:
            others = f"use a model that thinks between {THINK} and {END_THINK}, or one without a think mode"
            has = f"speaks in harmony channels ({HARMONY}analysis), which have no think span"
            raise UserError(f"the chat template {has}: {others}")
        self.on = self.off = PLAIN
        self.tags = self._tags_of_a_turn() or self._known_tags()
        self.way, self.reason = self._way()
        dated = self._prompts()
        self.source = _on(ANOTHER_DAY, source)
        self.dated = self._prompts() != dated
        self.source = _on(TODAY, source)

    def prompt(self, request: str, asked: Asked = PLAIN) -> str:
        """The text of a conversation up to where the model goes on."""
        system = [{"role": "system", "content": asked.system}] if asked.system else []
        return self._render([*system, self._user(request + asked.added)], True, asked.settings)

    def around(self, asked: Asked = PLAIN) -> tuple[str, str]:
        """What a prompt has before and after the request; `UserError` if that is not there once."""
        before, *after = self.prompt(STAND_IN, asked).split(STAND_IN)
        if len(after) != 1 or "{'type':" in before:  # a list of parts, written out as Python does
            raise UserError("the chat template does not show the request once: use another model")
        return before, after[0]

    def end_of_turn(self) -> str:
        """What follows the text of an assistant's turn, without blanks; empty if not shown."""
        return self._turn("", A_REPLY, {}).rpartition(A_REPLY)[2].strip()

    def _render(self, turns: list[dict], goes_on: bool, settings: Mapping) -> str:
        how = {"chat_template": self.source, "tokenize": False, "add_generation_prompt": goes_on}
        try:
            return self.tokenizer.apply_chat_template(turns, **how, **settings)
        except Exception as error:  # a template is arbitrary code
            raise UserError(f"the chat template cannot build a prompt: {one_line(error)}") from error

    def _prompts(self) -> list:
        return [self.around(asked) for asked in (self.on, self.off)]

    def _turn(self, thought: str, content, settings: Mapping) -> str:
        """What follows a request that has an answer; empty where the template takes none."""
        turn = {"role": "assistant", "content": content}
        turn |= dict.fromkeys(FIELDS if thought else (), thought)
        with suppress(UserError):
            return self._render([self._user(STAND_IN), turn], False, settings).rpartition(STAND_IN)[2]
        return ""

    def _user(self, text: str) -> dict:
        content = [{"type": "text", "text": text}] if self.as_parts else text
        return {"role": "user", "content": content}

    @cached_property
    def _tree(self):
        environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
        return environment.parse(GENERATION.sub("", self.source))

    @cached_property
    def _texts(self) -> str:
        """All that the template can write or look for, without its comments and its code."""
        written = [node.data for node in self._tree.find_all(nodes.TemplateData)]
        return "\n".join([*written, *(str(node.value) for node in self._tree.find_all(nodes.Const))])

    @cached_property
    def _tries(self) -> dict[Asked, tuple[str, str]]:
        """What prompts consist of, for each way to ask for one, nothing set first. Tried are the
        variables that speak of thinking, with False, True and what they are compared with, alone
        and in twos with any variable, and words that are looked for in messages."""
        names = sorted(meta.find_undeclared_variables(self._tree))
        values, words = {name: [False, True] if SWITCHES.search(name) else [] for name in names}, []
        for node in self._tree.find_all((nodes.Compare, nodes.Call)):
            of = node.expr if isinstance(node, nodes.Compare) else node.node
            consts = [const.value for const in node.find_all(nodes.Const)]
            if isinstance(of, nodes.Name) and of.name in values:
                values[of.name] += [value for value in consts if isinstance(value, str | int)]
            elif isinstance(of, nodes.Const | nodes.Getattr):
                texts = [text for text in map(str, consts) if SWITCHES.search(text)]
                words += [text for text in texts if not re.search(TAG, text)]
        alone = {name: [(name, value) for value in dict.fromkeys(values[name])] for name in names}
        asked = [Asked((one,)) for name in filter(SWITCHES.search, names) for one in alone[name]]
        asked += [Asked((), "", f"{IN_SYSTEM} {w}") for w in ("off", "on") * (IN_SYSTEM in self._texts)]
        twos = (two for two in combinations(names, 2) if any(map(SWITCHES.search, two)))
        asked += [Asked(pair) for one, other in twos for pair in product(alone[one], alone[other])]
        found = {PLAIN: self.around(PLAIN)}
        for one in asked:
            with suppress(UserError):  # a value that this variable does not take
                found[one] = self.around(one)
        for word, after in product(dict.fromkeys(words), (True, False)):
            one, other = (Asked(added=f" {w}") if after else Asked(system=w) for w in (word, "so"))
            with suppress(UserError):
                said = ["\0".join(self.around(asks)).replace(word, "so") for asks in (one, other)]
                found |= {one: self.around(one)} if said[0] != said[1] else {}
        return found

    def _tags_of_a_turn(self) -> Tags | None:
        """Tags and spacing, from a turn of the assistant with a thought; None if not shown."""
        plain = re.findall(TAG, self._turn("", A_REPLY, {}).partition(A_REPLY)[0])
        shown = False
        for thought, content in ((A_THOUGHT, A_REPLY), ("", PARTS)):
            for asked in self._tries:
                turn = self._turn(thought, content, asked.settings)
                before, there, rest = turn.partition(A_THOUGHT)
                opening = re.search(rf"({TAG}(?:thought)?)(\s*)$", before)
                closing = re.match(rf"(\s*)({TAG})(.*?){A_REPLY}", rest, re.DOTALL)
                if opening and closing and opening[1] not in plain[-1:]:
                    return Tags(opening[1], closing[2], opening[2], closing[1], closing[3])
                shown = shown or bool(there and thought)
        if shown:
            raise UserError(NOT_UNDERSTOOD)
        return None

    def _known_tags(self) -> Tags | None:
        """Known tags that prompts hold, or that are taken out of a turn; spaced as in prompts."""
        prompts = self._tries.values()
        written = [text for around in prompts for text in around] + [self._turn("", A_REPLY, {})]
        known = [Tags(*pair) for pair in KNOWN]
        shown = [tags for tags in known if any(tag in text for tag in tags[:2] for text in written)]
        turned = any(around != self._tries[PLAIN] for around in prompts)
        named = [tags for tags in known if tags.open in self._texts and tags.close in self._texts]
        taken_out = [tags for tags in known if tags.close in self._texts and self._takes_out(tags)]
        tags = next(iter(shown or taken_out or (named if turned else [])), None)
        if tags is None:
            return None
        spaces = {}
        for _, after in prompts:
            if tags.state(after) == "open":
                spaces["lead"] = spaces["trail"] = after.rpartition(tags.open)[2]
            elif tags.state(after) == "closed":
                before, _, spaces["end"] = after.rpartition(tags.close)
                if before.endswith(tags.open):
                    spaces = {"lead": "", "trail": ""} | spaces
        if spaces.get("lead") == "":
            spaces.setdefault("end", "")
        return tags._replace(**{name: space for name, space in spaces.items() if not space.strip()})

    def _takes_out(self, tags: Tags) -> bool:
        """Whether the thought of an earlier turn is taken out, and its reply stays."""
        said = f"{tags.opening}{A_THOUGHT}{tags.closing}{A_REPLY}"
        user, turns = self._user(STAND_IN), [{"role": "assistant", "content": c} for c in (said, A_REPLY)]
        with suppress(UserError):
            text = self._render([user, turns[0], user, turns[1], user], True, {})
            return A_REPLY in text and A_THOUGHT not in text
        return False

    def _way(self) -> tuple[str, str]:
        default, tags = self._tries[PLAIN], self.tags
        turned = [asked for asked, around in self._tries.items() if around != default]
        if tags is None:
            stray = STRAY.search(self._texts) or any(tag in self._texts for tag, _ in KNOWN)
            if turned or stray or self._opens_unknown(default[1]):
                raise UserError(NOT_UNDERSTOOD)
            return "none", "its chat template knows no thoughts"
        if default[1].lstrip().startswith(tags.close):  # which also ends every turn
            raise UserError(NOT_UNDERSTOOD)
        where = {one: (*one.settings, one.added > "", one.system > "") for one in self._tries}
        for switch in dict.fromkeys(where[asked] for asked in turned):
            if self._turns([asked for asked in self._tries if where[asked] == switch]):
                return "switch", ""
        state = tags.state(default[1])
        if state == "closed":
            if any(asked.variables for asked in self._tries):
                raise UserError(NOT_UNDERSTOOD)  # a switch that does nothing seen
            return "none", "its chat template closes every thought at once"
        if any(before in default[1] for before, _ in WRAPPERS):
            return "none", "its chat template begins the reply itself"
        return ("template opens" if state == "open" else "model opens"), ""

    def _opens_unknown(self, after: str) -> bool:
        """Whether a prompt ends in a tag that the turn of an assistant does not begin with."""
        last, turn = re.search(rf"({TAG})\s*$", after), self._turn("", A_REPLY, {}).partition(A_REPLY)[0]
        begins = re.findall(TAG, turn)[-1:] + [tag for tag, _ in WRAPPERS]
        return bool(last and turn and last[1] not in begins)

    def _turns(self, values: list[Asked]) -> bool:
        """Whether one switch closes the thought or leaves thinking out; keeps how it is set."""
        states = {asked: self.tags.state(around[1]) for asked, around in self._tries.items()}
        closing = [asked for asked in (*values, PLAIN) if states[asked] == "closed"]
        said = {one: {*one.settings.values(), one.system.rpartition(" ")[2]} for one in self._tries}
        leaving = [asked for asked in values if states[asked] == "plain" and said[asked] & set(OFF)]
        opens = any(states[asked] == "open" for asked in values) and states[PLAIN] == "plain"
        off = next(iter(closing + leaving + [PLAIN] * opens), None)
        others = (asked for asked in (PLAIN, *values) if off and states[asked] != "closed")
        on = [asked for asked in others if self._tries[asked] != self._tries[off]]
        # the default, or True; but one that opens no thought only where nothing else opens one
        on.sort(key=lambda one: (states[one] != "open", one != PLAIN, True not in said[one]))
        if on:
            self.on, self.off = on[0], off
        return bool(on)
