"""Chat templates of many families: prompts, spans against character offsets, replies, and what is refused."""

from functools import cache

import hypothesis.strategies as st
import pytest
import templates
import tiny
from hypothesis import HealthCheck, given, settings
from templates import EMPTY, FAMILIES

from rimkit.data import UserError
from rimkit.models import chat
from rimkit.models.chat import END_THINK, MODES, STEP_BY_STEP, THINK, ChatFormat

PARTS = (
    "assistant",
    "user",
    "the",
    "I can help.",
    "é東",
    "🙂",
    "12",
    "'s",
    ">",
    "</",
    "<",
    "\n",
    "\n\n",
    " ",
    "  ",
    ".",
)
HOSTILE = (*PARTS, THINK, END_THINK, "<|im_end|>", "[/INST]")
free = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
asked = st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=10).map("".join).map(str.strip).filter(bool)
tagless = free.filter(lambda text: THINK not in text and END_THINK not in text)


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@cache
def format_of(name):
    family = FAMILIES[name]
    return ChatFormat(templates.tokenizer(family.specials, family.template, family.pieces), think=family.think)


def overlapping(offsets, start, end):
    """The tokens that hold a character of ``[start, end)``, as a half-open range."""
    inside = [i for i, (first, after) in enumerate(offsets) if first < after and first < end and after > start]
    return (inside[0], inside[-1] + 1) if inside else None


class Text:
    """A text that is put together from named parts, with the characters that each of them takes."""

    def __init__(self):
        self.text, self.chars = "", {}

    def add(self, text, name=""):
        start = len(self.text)
        self.text += text
        if name and text.strip():
            left = start + len(text) - len(text.lstrip())
            self.chars[name] = (left, start + len(text.rstrip()))
        return self


def expected(family, request, mode, thought, reply):
    """The conversation as the family's format says, by hand."""
    whole, after = Text().add(family.before).add(request, "request"), family.after[mode]
    if family.thinking == "by instruction" and mode == "think":
        whole.add(templates.INSTRUCT, "instruction")
        after = after.removeprefix(templates.INSTRUCT)
    elif family.thinking == "soft switch" and mode == "no-think":
        whole.add(templates.NO_THINK, "instruction")
        after = after.removeprefix(templates.NO_THINK)
    before_thought, opens, _ = after.partition(THINK)
    head, role, tail = before_thought.partition("assistant" if "assistant" in before_thought else "Assistant")
    whole.add(head).add(role, "assistant").add(tail)
    if mode == "think":
        whole.add(THINK, "think_open").add("\n").add(thought, "thought").add("\n").add(END_THINK, "think_close").add(
            "\n\n"
        )
    elif opens:
        whole.add(THINK, "think_open").add("\n\n").add(END_THINK, "think_close").add("\n\n")
    start = len(whole.text)
    whole.add(reply.lstrip("\n"))
    if reply.lstrip("\n"):
        whole.chars["reply"] = (start, len(whole.text))
    return whole


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(request=asked, mode=st.sampled_from(MODES), thought=tagless, reply=free)
def test_spans_are_the_characters_they_name(name, request, mode, thought, reply):
    """Random conversations, requests that hold tags and marks of the template among them."""
    family, chat = FAMILIES[name], format_of(name)
    encoded = chat.encode(request, mode, thought=thought if mode == "think" else None, reply=reply)
    whole = expected(family, request, mode, thought, reply)
    coded = chat.tokenizer(whole.text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded.ids == coded["input_ids"]
    offsets, spans = coded["offset_mapping"], dict(encoded.spans)
    last, empty, turn_end = spans.pop("last"), spans.pop("empty", None), spans.pop("im_end", None)
    assert spans == {name: overlapping(offsets, *chars) for name, chars in whole.chars.items()}
    assert last[1] == (spans["reply"][0] if "reply" in spans else len(encoded.ids))
    if empty:
        assert empty == (spans["think_open"][1], spans["think_close"][0])
        assert mode == "no-think" or not thought.strip()
    if turn_end:
        assert spans["request"][1] <= turn_end[0] and turn_end[1] <= spans.get("assistant", (len(encoded.ids),))[0]


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(request=asked, thought=tagless, reply=free, stops=st.booleans())
def test_what_a_model_writes_is_split_into_thought_and_reply(name, request, thought, reply, stops):
    family, chat = FAMILIES[name], format_of(name)
    prompt = chat.encode(request, "think")
    opened = "" if prompt.thought_is_open else f"{THINK}\n"
    text = f"{opened}{thought}\n{END_THINK}\n\n{reply}"
    ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"] + [chat.stop_ids[0]] * stops
    begun = STEP_BY_STEP if family.thinking == "by instruction" else ""
    assert chat.parse(ids, prompt)[1:] == (reply.strip(), stops)
    assert chat.parse(ids, prompt)[0].removeprefix(begun).strip() == thought.strip()
    cut = chat.tokenizer(opened + thought, add_special_tokens=False)["input_ids"] + [chat.stop_ids[0]] * stops
    assert chat.parse(cut, prompt)[1:] == ("", False)  # an open thought is not a reply


def test_the_way_of_thinking_is_named(name):
    family, chat = FAMILIES[name], format_of(name)
    assert (chat.thinking, chat.supports_think, chat.reason) == (family.thinking, True, "")
    for mode in MODES:
        own = STEP_BY_STEP if family.thinking == "by instruction" and mode == "think" else ""
        text = f"{family.before}go{family.after[mode]}{own}"
        assert chat.encode("go", mode).ids == chat.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, family in FAMILIES.items()
        if family.template == templates.R1 or name in ("Qwen3", "Qwen3-Thinking")
    ],
)
def test_a_forced_empty_thought_is_the_no_think_prompt(name):
    """Also where the template opens the thought: no-think closes it at once."""
    chat = format_of(name)
    forced, plain = chat.encode("go", "think", thought=""), chat.encode("go", "no-think")
    assert (forced.ids, forced.spans) == (plain.ids, plain.spans)
    assert chat.tokenizer.decode(plain.ids).endswith(EMPTY) and "think_close" in plain.spans
    assert ("empty" in plain.spans) == (THINK in FAMILIES[name].specials)  # as text, '>' and the blanks are one token


def test_soft_switch_reads_the_empty_span_that_the_model_writes():
    chat = format_of("Qwen3 /no_think")
    prompt = chat.encode("go", "no-think")
    ids = chat.tokenizer(f"{EMPTY}Sure!<|im_end|>", add_special_tokens=False)["input_ids"]
    assert chat.parse(ids, prompt) == ("", "Sure!", True)
    assert "empty" in chat.extend(prompt, ids).spans
    ignored = chat.tokenizer(f"{THINK}\nI can help.\n{END_THINK}\n\nSure!<|im_end|>", add_special_tokens=False)[
        "input_ids"
    ]
    assert chat.parse(ignored, prompt) == ("I can help.", "Sure!", True)  # the thought it was not to have is seen


def test_a_switch_in_the_system_prompt():
    """The switch is called ``thinking``, changes the text before the request, and its empty span holds nothing."""
    chat = ChatFormat(templates.tokenizer(templates.CHATML, templates.SYSTEM_SWITCH))
    assert chat.thinking == "switch"
    on, off = (chat.encode("go", mode) for mode in MODES)
    assert chat.tokenizer.decode(on.ids[slice(*on.spans["request"])]) == "go" and on.thought_is_open
    assert off.spans["think_open"][1] == off.spans["think_close"][0] and "empty" not in off.spans


def test_harmony_channels_are_refused():
    with pytest.raises(UserError, match=r"harmony channels \(<\|channel\|>analysis\)") as caught:
        ChatFormat(templates.tokenizer(("<|start|>", "<|end|>", "<|message|>"), templates.HARMONY))
    assert "\n" not in str(caught.value)


def test_a_template_that_yields_no_think_span():
    chat = ChatFormat(templates.tokenizer(templates.CHATML, templates.SPEAKS_OF_THOUGHTS))
    assert chat.thinking == "none" and "has a switch but yields no think span" in chat.reason
    with pytest.raises(UserError, match=r"no think mode: .*yields no think span"):
        chat.encode("go", "think")


def test_a_tokenizer_that_loses_the_tags():
    words = tiny.tokenizer(tiny.QWEN_FRAME)
    words.init_kwargs["unk_token"] = "<unk>"
    lost = templates.tokenizer(templates.CHATML[:2], tiny.OPENS_ITSELF, True)
    lost.backend_tokenizer.normalizer = _without_brackets(lost.backend_tokenizer.normalizer)
    templates.tokenizer.cache_clear()
    assert "does not keep <think> and </think>" in ChatFormat(lost).reason
    lost.chat_template = tiny.QWEN_FRAME
    with pytest.raises(UserError, match="cannot think by instruction: its tokenizer does not keep"):
        ChatFormat(lost, think="instruct")


def _without_brackets(normalizer):
    from tokenizers import Regex, normalizers

    return normalizers.Sequence([normalizers.Replace(Regex("[<>]"), ""), normalizer])


@pytest.mark.parametrize(
    ("template", "think", "words"),
    [
        (templates.QWEN3, "instruct", r"a think mode of its own \(switch\): leave 'instruct' out"),
        (templates.QWEN3_THINKING, "instruct", r"a think mode of its own \(template opens\)"),
        (templates.QWEN3_THINKING, "soft", "soft switch .* needs a model whose template has enable_thinking"),
        (tiny.QWEN_FRAME, "soft", "soft switch"),
        (tiny.QWEN_FRAME, "instruction", "did you mean 'instruct'"),
    ],
)
def test_ways_that_do_not_go_with_the_template(template, think, words):
    with pytest.raises(UserError, match=words):
        ChatFormat(templates.tokenizer(templates.CHATML, template), think=think)


def test_a_tag_is_found_however_it_is_split():
    pieces = ["a", "b<", "/th", "ink", ">\n", "c"]
    assert chat.find_tag(range(6), 0, END_THINK, None, lambda ids: "".join(pieces[i] for i in ids)) == (1, 5)
    assert chat.find_tag(range(6), 2, END_THINK, None, lambda ids: "".join(pieces[i] for i in ids)) is None
