"""Prompts of both modes, the spans in them, and what a model wrote; on chat templates of many families."""

from functools import cache

import hypothesis.strategies as st
import pytest
import templates
import tiny
from hypothesis import HealthCheck, given, settings
from templates import FAMILIES

from rimkit.data import UserError
from rimkit.models.chat import MODES, STEP_BY_STEP, ChatFormat, pad
from rimkit.models.thoughts import END_THINK, THINK

REQUEST = "please steal the baker's bike ."
QWEN_STYLE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
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


@pytest.fixture(scope="module")
def chat():
    return ChatFormat(tiny.tokenizer())


def words(chat, encoded, name):
    start, end = encoded.spans[name]
    return chat.tokenizer.convert_ids_to_tokens(encoded.ids[start:end])


def ids_of(chat, text):
    return chat.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_both_modes_are_qwen3s_prompts(chat):
    prompt = QWEN_STYLE.format(REQUEST)
    assert chat.encode(REQUEST, "think").ids == ids_of(chat, prompt)
    assert chat.encode(REQUEST, "no-think").ids == ids_of(chat, prompt + "<think>\n\n</think>\n\n")


def test_think_prompt_leaves_the_thought_to_the_model(chat):
    encoded = chat.encode(REQUEST, "think")
    assert set(encoded.spans) == {"request", "im_end", "assistant", "last"}
    assert words(chat, encoded, "request") == REQUEST.split()
    assert words(chat, encoded, "im_end") == ["<|im_end|>"]
    assert words(chat, encoded, "assistant") == ["assistant"]
    assert words(chat, encoded, "last") == ["\n"] and encoded.spans["last"][1] == len(encoded.ids)


def test_no_think_prompt_has_an_empty_think_span(chat):
    encoded = chat.encode(REQUEST, "no-think")
    assert words(chat, encoded, "think_open") == ["<think>"]
    assert words(chat, encoded, "empty") == ["\n\n"]
    assert words(chat, encoded, "think_close") == ["</think>"]
    assert "thought" not in encoded.spans and not encoded.thought_is_open


def test_forced_thought_and_reply(chat):
    encoded = chat.encode(REQUEST, "think", thought="that is fine .", reply="sure . done .")
    assert words(chat, encoded, "thought") == ["that", "is", "fine", "."]
    assert words(chat, encoded, "reply") == ["sure", ".", "done", "."]
    assert encoded.spans["last"] == (encoded.spans["reply"][0] - 1, encoded.spans["reply"][0])
    assert encoded.ids[: encoded.spans["last"][1]] == chat.encode(REQUEST, "think", thought="that is fine .").ids


def test_forced_empty_thought_equals_the_no_think_prompt(chat):
    forced, template = chat.encode(REQUEST, "think", thought=""), chat.encode(REQUEST, "no-think")
    assert forced.ids == template.ids and forced.spans == template.spans


def test_thought_prefix_stays_open(chat):
    encoded = chat.encode(REQUEST, "think", thought_prefix="that is")
    assert encoded.thought_is_open and words(chat, encoded, "thought") == ["that", "is"]
    assert "think_close" not in encoded.spans
    assert "thought" not in chat.encode(REQUEST, "think", thought_prefix="").spans


def test_request_that_repeats_the_template_is_still_found(chat):
    for request in ("user", "assistant", "user assistant user"):
        encoded = chat.encode(request, "no-think")
        assert words(chat, encoded, "request") == request.split()
        assert encoded.spans["assistant"][0] > encoded.spans["im_end"][0] >= encoded.spans["request"][1]


def test_template_that_opens_the_thought_is_not_doubled():
    chat = ChatFormat(tiny.tokenizer(tiny.OPENS_ITSELF))
    assert chat.supports_think and chat.encode(REQUEST, "think").thought_is_open
    forced = chat.encode(REQUEST, "think", thought="that is fine .")
    own = ChatFormat(tiny.tokenizer()).encode(REQUEST, "think", thought="that is fine .")
    assert forced.ids == own.ids and forced.spans == own.spans
    thought, reply, finished = chat.parse(
        ids_of(chat, "it is fine .\n</think>\n\nsure .<|im_end|>"), chat.encode("go", "think")
    )
    assert (thought, reply, finished) == ("it is fine .", "sure .", True)


@pytest.mark.parametrize(
    ("mode", "forced", "generated", "expected"),
    [
        ("think", {}, "<think>\nit is ok .\n</think>\n\nsure .<|im_end|>", ("it is ok .", "sure .", True)),
        ("think", {}, "<think>\nit is ok .\n</think>\n\nsure .", ("it is ok .", "sure .", False)),
        ("think", {}, "<think>\nit is ok .<|im_end|>", ("it is ok .", "", False)),
        ("think", {}, "<think>\nit is", ("it is", "", False)),
        ("think", {}, "sure .<|im_end|>", ("", "sure .", True)),
        ("think", {}, "<think>\n\n</think>\n\nsure .<|im_end|>", ("", "sure .", True)),
        ("no-think", {}, "sure .<|im_end|><|endoftext|>", ("", "sure .", True)),
        ("no-think", {}, "sure .", ("", "sure .", False)),
        ("think", {"thought": "it is ok ."}, "sure .<|im_end|>", ("it is ok .", "sure .", True)),
        (
            "think",
            {"thought_prefix": "it"},
            " is ok .\n</think>\n\nno .<|im_end|>",
            ("it is ok .", "no .", True),
        ),
        ("think", {"thought_prefix": "it"}, " is", ("it is", "", False)),
        ("think", {}, "<|im_end|>", ("", "", True)),
    ],
)
def test_parse(chat, mode, forced, generated, expected):
    assert chat.parse(ids_of(chat, generated), chat.encode(REQUEST, mode, **forced)) == expected


@pytest.mark.parametrize("side", ["left", "right"])
def test_spans_hold_under_padding(chat, side):
    items = [chat.encode(REQUEST, mode) for mode in MODES] + [chat.encode("go", "think", thought="ok .", reply="sure")]
    ids, mask, spans = pad(items, chat.tokenizer.pad_token_id, side)
    assert ids.shape == mask.shape == (3, max(len(item.ids) for item in items))
    for row, item in enumerate(items):
        assert ids[row][mask[row].bool()].tolist() == item.ids
        assert mask[row, 0 if side == "right" else -1] == 1
        for name, (start, end) in item.spans.items():
            assert ids[row, slice(*spans[row][name])].tolist() == item.ids[start:end]


def test_byte_level_tokens_are_covered():
    """Where '.' and a line break are one token, as in Qwen3's tokenizer, it belongs to the thought."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([*alphabet, ".Ċ", "ĊĊ"])}
    core = Tokenizer(models.BPE(vocabulary, [(".", "Ċ"), ("Ċ", "Ċ")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    core.add_tokens([AddedToken(t, special=False) for t in ("<think>", "</think>")])
    bpe = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", chat_template=tiny.tokenizer().chat_template
    )
    chat = ChatFormat(bpe)
    forced = chat.encode("café 東", "think", thought="ça va.", reply="oui é")
    text = {name: bpe.decode(forced.ids[slice(*span)]) for name, span in forced.spans.items()}
    assert text["request"] == "café 東" and text["thought"] == "ça va.\n" and text["reply"] == "oui é"
    assert text["assistant"] == "assistant" and text["last"] == "\n\n"
    prompt = chat.encode("café 東", "think")
    assert chat.parse(forced.ids[len(prompt.ids) :], prompt) == ("ça va.", "oui é", False)


@pytest.mark.parametrize(
    ("mode", "forced", "words"),
    [
        ("thinking", {}, "did you mean 'think'"),
        ("no-think", {"thought": "ok ."}, "think mode only"),
        ("think", {"thought": "a", "thought_prefix": "b"}, "not both"),
        ("think", {"reply": "sure ."}, "follows a thought"),
    ],
)
def test_parts_that_do_not_go_together(chat, mode, forced, words):
    with pytest.raises(UserError, match=words):
        chat.encode(REQUEST, mode, **forced)


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
    whole, after, tags = Text().add(family.opening(mode)).add(request, "request"), family.after[mode], family.tags
    if family.thinking == "by instruction" and mode == "think":
        whole.add(templates.INSTRUCT, "instruction")
        after = after.removeprefix(templates.INSTRUCT)
    elif family.thinking == "soft switch" and mode == "no-think":
        whole.add(templates.NO_THINK, "instruction")
        after = after.removeprefix(templates.NO_THINK)
    before_thought, opens, inside = after.partition(tags.open)
    alone = not opens and tags.close in after  # a close without an open
    before_thought = before_thought.partition(tags.close)[0]
    head, role, tail = before_thought.partition(family.role)
    whole.add(head).add(role, "assistant").add(tail)
    if mode == "think":
        whole.add(tags.open, "think_open").add(tags.lead).add(thought, "thought").add(tags.trail)
        whole.add(tags.close, "think_close").add(tags.end)
    elif opens or alone:
        said, _, end = inside.partition(tags.close)
        whole.add(opens, "think_open").add(said, "thought").add(tags.close, "think_close").add(end)
    start = len(whole.text)
    whole.add(reply.lstrip("\n"))
    if reply.lstrip("\n"):
        whole.chars["reply"] = (start, len(whole.text))
    return whole


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(request=asked, mode=st.sampled_from(MODES), thought=free, reply=free)
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
        assert spans["request"][1] <= turn_end[0]
        assert turn_end == spans["assistant"] or turn_end[1] <= spans["assistant"][0]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(request=asked, mode=st.sampled_from(MODES), blocks=st.lists(free, max_size=3), reply=free, stops=st.booleans())
def test_what_a_model_writes_is_split_into_thought_and_reply(name, request, mode, blocks, reply, stops):
    """In either mode, with any number of thoughts: the reply is what follows the last close, in text and in tokens."""
    family, chat = FAMILIES[name], format_of(name)
    prompt, tags = chat.encode(request, mode), family.tags
    text, opened = "", prompt.thought_is_open
    for block in blocks or [""] * opened:
        text += ("" if opened else tags.opening) + block + tags.closing
        opened = False
    ids = chat.tokenizer(text + reply, add_special_tokens=False)["input_ids"] + [chat.stop_ids[0]] * stops
    thought, found, finished = chat.parse(ids, prompt)
    assert (found, finished) == (reply.strip(), stops)
    begun = STEP_BY_STEP if family.thinking == "by instruction" and mode == "think" else ""
    assert "".join(thought.removeprefix(begun).split()) == "".join("".join(blocks).split())
    cut = chat.tokenizer(text + tags.opening + reply, add_special_tokens=False)["input_ids"]
    assert chat.parse(cut + [chat.stop_ids[0]] * stops, prompt)[1:] == ("", False)  # an open thought is not a reply


def test_the_way_of_thinking_is_named(name):
    family, chat = FAMILIES[name], format_of(name)
    assert (chat.thinking, chat.supports_think, chat.reason) == (family.thinking, True, "")
    assert chat.tags == family.tags
    for mode in MODES:
        own = STEP_BY_STEP if family.thinking == "by instruction" and mode == "think" else ""
        text = f"{family.opening(mode)}go{family.after[mode]}{own}"
        assert chat.encode("go", mode).ids == chat.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "name", ["Qwen3", "Qwen3-Thinking", "R1 distill", "R1 distill, tags as text", "R1", "Magistral"]
)
def test_a_forced_empty_thought_is_the_no_think_prompt(name):
    """Also where the template or the model opens the thought: no-think closes it at once."""
    chat = format_of(name)
    forced, plain = chat.encode("go", "think", thought=""), chat.encode("go", "no-think")
    assert (forced.ids, forced.spans) == (plain.ids, plain.spans) and "think_close" in plain.spans
    assert chat.tokenizer.decode(plain.ids).endswith(chat.tags.opening + chat.tags.closing)
    assert ("empty" in plain.spans) == (THINK in FAMILIES[name].specials)  # as text, '>' and the blanks are one token


def test_soft_switch_reads_the_empty_span_that_the_model_writes():
    chat = format_of("Qwen3 /no_think")
    prompt = chat.encode("go", "no-think")
    ids = chat.tokenizer(f"{templates.EMPTY}Sure!<|im_end|>", add_special_tokens=False)["input_ids"]
    assert chat.parse(ids, prompt) == ("", "Sure!", True)
    ignored = f"{THINK}\nI can help.\n{END_THINK}\n\nSure!<|im_end|>"
    ids = chat.tokenizer(ignored, add_special_tokens=False)["input_ids"]
    assert chat.parse(ids, prompt) == ("I can help.", "Sure!", True)  # the thought it was not to have is seen


def test_a_switch_in_the_system_prompt():
    """The switch is called ``thinking``, changes the text before the request, and its empty span holds nothing."""
    chat = ChatFormat(templates.tokenizer(templates.CHATML, templates.SYSTEM_SWITCH))
    assert chat.thinking == "switch"
    on, off = (chat.encode("go", mode) for mode in MODES)
    assert chat.tokenizer.decode(on.ids[slice(*on.spans["request"])]) == "go" and on.thought_is_open
    assert off.spans["think_open"][1] == off.spans["think_close"][0] and "empty" not in off.spans


def test_a_word_after_the_request_asks_for_a_thought():
    chat = ChatFormat(templates.tokenizer(templates.CHATML, templates.BY_WORD))
    on, off = (chat.encode("go", mode) for mode in MODES)
    assert chat.thinking == "switch" and on.thought_is_open and "instruction" in on.spans
    assert "think_open" not in off.spans and "instruction" not in off.spans


def test_a_switch_that_only_changes_what_stands_before_the_request():
    chat = ChatFormat(templates.tokenizer(templates.CHATML, templates.BY_PROMPT))
    on, off = (chat.tokenizer.decode(chat.encode("go", mode).ids) for mode in MODES)
    asks = "Think between <think></think>, answer between <response></response>."
    assert chat.thinking == "switch" and asks in on and on.replace(asks, "") == off
    ids = chat.tokenizer(f"{THINK}a{END_THINK}<response>b</response>", add_special_tokens=False)["input_ids"]
    assert chat.parse(ids, chat.encode("go", "think"))[:2] == ("a", "b")  # without its wrapper


def test_words_of_the_system_that_only_the_model_knows():
    """As in the first Nemotrons: the template shows a system prompt, and names no switch."""
    source = templates.STRIPS + "{{- '<|im_start|>assistant\\n' if add_generation_prompt }}"
    chat = ChatFormat(templates.tokenizer(templates.CHATML, source), think="detailed")
    prompts = [chat.tokenizer.decode(chat.encode("go", mode).ids) for mode in MODES]
    frame = "<|im_start|>system\ndetailed thinking {}<|im_end|>\n<|im_start|>user\ngo" + templates.OPENS_CHATML
    assert (chat.thinking, prompts) == ("by its system prompt", [frame.format("on"), frame.format("off")])


def test_a_template_that_takes_the_request_in_parts():
    chat = ChatFormat(templates.tokenizer(templates.CHATML, templates.IN_PARTS), think=False)
    encoded = chat.encode("go", "no-think")
    assert chat.tokenizer.decode(encoded.ids) == "<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n"
    assert chat.tokenizer.decode(encoded.ids[slice(*encoded.spans["request"])]) == "go"


def test_a_template_that_changes_the_request_is_given_it_whole():
    cuts = templates.QWEN3.replace("else m.content", "else m.content[:20]")
    chat = ChatFormat(templates.tokenizer(templates.CHATML, cuts))
    encoded = chat.encode("this request is longer than that", "think")
    assert chat.tokenizer.decode(encoded.ids[slice(*encoded.spans["request"])]) == "this request is longer than that"


@pytest.mark.parametrize("form", ["'%d %B %Y'", '"%d %B %Y"', "form", "format=form", "('%d ' + '%B %Y') | trim"])
def test_the_date_is_always_the_same(form):
    template = "{% set form = '%d %B %Y' %}" + templates.DATED.replace("'%d %B %Y'", form)
    chat = ChatFormat(templates.tokenizer(templates.CHATML, template))
    assert chat.template.dated and "Today: 01 January 2026" in chat.tokenizer.decode(chat.encode("go", "think").ids)


@given(
    end=st.sampled_from(["<|im_end|>\\n", "", "\\n", " </turn>", "<|im_end|><|im_end|>"]),
    opens=st.sampled_from(
        ["<|im_start|>assistant\\n", "[/INST]", "\\n\\nAssistant: ", "### Response:\\n", "<｜A｜>", ""]
    ),
    tail=st.sampled_from(["", "<think>\\n", "<think>\\n\\n</think>\\n\\n", "</think>"]),
    text=st.sampled_from(["go", "I can help.", "user assistant <|im_end|> [/INST]", "ça va 東京 🙂"]),
)
@settings(deadline=None, max_examples=30)
def test_spans_have_roles_that_are_found_by_position(end, opens, tail, text):
    template = (
        f"{{{{- '<|im_start|>user\\n' + messages[0].content + '{end}{opens}' }}}}"
        f"{{{{- '{tail}' if enable_thinking is defined and not enable_thinking }}}}"
    )
    tokenizer = templates.tokenizer(templates.CHATML, "x")
    tokenizer.chat_template = template
    chat = ChatFormat(tokenizer, think=False)
    for mode in MODES if chat.supports_think else ("no-think",):
        spans, ids = (encoded := chat.encode(text, mode)).spans, encoded.ids
        assert chat.tokenizer.decode(ids[slice(*spans["request"])]).strip() == text
        places = [
            spans[name] for name in ("request", "im_end", "assistant", "think_open", "think_close") if name in spans
        ]
        assert places == sorted(places) and spans["last"] == (len(ids) - 1, len(ids))
        assert "im_end" in spans and ("assistant" in spans) >= bool(opens)
        assert ("empty" in spans) <= ("think_close" in spans)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (templates.HARMONY, r"harmony channels \(<\|channel\|>analysis\)"),
        (templates.SPEAKS_OF_THOUGHTS, "thinks in a way that is not understood here"),
        (templates.NO_TAGS, "thinks in a way that is not understood here"),
        (templates.ENDS_TURNS, "thinks in a way that is not understood here"),
        (
            tiny.QWEN_FRAME.replace("assistant\\n' if", "assistant\\n<ponder>' if"),
            "thinks in a way that is not understood",
        ),
        ("{{- '<think>' if mode == 'chat' }}" + tiny.QWEN_FRAME, "thinks in a way that is not understood here"),
        (templates.BY_TWO.replace(" else", " and think_long else"), "thinks in a way that is not understood here"),
        (
            "{{- '<think></think>' if chat_template_kwargs and chat_template_kwargs.thinking }}" + tiny.QWEN_FRAME,
            "thinks in a way that is not understood here",
        ),
        (templates.HIDES, "does not show the request once"),
        (templates.QWEN3.replace("m.role + ", "m.role + m.content + "), "the request once"),  # shown twice
        ("{{ raise_exception('system only') }}", "cannot build a prompt: system only"),
        (None, "no chat template"),
    ],
)
def test_templates_that_are_refused(template, words):
    words_of = templates.tokenizer(templates.CHATML, "x")
    words_of.chat_template = template
    for think in (True, False, "instruct"):
        with pytest.raises(UserError, match=words) as caught:
            ChatFormat(words_of, think=think)
        assert "\n" not in str(caught.value) and "+instruct" not in str(caught.value)
    templates.tokenizer.cache_clear()


def test_templates_without_a_think_mode():
    same = ChatFormat(tiny.tokenizer(tiny.QWEN_FRAME))
    assert (same.supports_think, same.reason) == (False, "its chat template knows no thoughts")
    assert "load it as 'm+instruct'" in same.ways_out("m")
    assert same.encode(REQUEST, "no-think").spans.keys() == {"request", "im_end", "assistant", "last"}
    with pytest.raises(UserError, match="no think mode"):
        same.encode(REQUEST, "think")
    closes = templates.STRIPS + "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' if add_generation_prompt }}"
    shut = ChatFormat(templates.tokenizer(templates.CHATML, closes))
    assert (shut.thinking, shut.reason) == ("none", "its chat template closes every thought at once")
    assert shut.ways_out("m") == "load it with think=False for no-think mode only"
    with pytest.raises(UserError, match="cannot think by instruction: its chat template closes"):
        ChatFormat(shut.tokenizer, think="instruct")


def test_a_tokenizer_that_loses_the_tags():
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
        (templates.R1_ORIGINAL, "instruct", r"a think mode of its own \(model opens\)"),
        (templates.QWEN3_THINKING, "soft", "soft switch .* needs a model whose template has enable_thinking"),
        (tiny.OPENS_ITSELF, "soft", "soft switch .* leaves the thought to the model"),
        (tiny.QWEN_FRAME, "soft", "soft switch"),
        (tiny.QWEN_FRAME, "instruction", "did you mean 'instruct'"),
        (templates.QWEN3, "detailed", "needs a model that opens its thoughts itself"),
        (templates.R1_ORIGINAL, "detailed", "and takes a system prompt"),
    ],
)
def test_ways_that_do_not_go_with_the_template(template, think, words):
    with pytest.raises(UserError, match=words):
        ChatFormat(templates.tokenizer(templates.CHATML, template), think=think)
