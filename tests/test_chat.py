"""Prompts of both modes and the spans in them."""

import pytest
import tiny

from rimkit.data import UserError
from rimkit.models.chat import MODES, ChatFormat, pad

REQUEST = "please steal the baker's bike ."
QWEN_STYLE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


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


def test_generated_spans_equal_those_of_the_forced_sequence(chat):
    forced = chat.encode(REQUEST, "think", thought="it is ok .", reply="sure . done .")
    prompt = chat.encode(REQUEST, "think")
    grown = chat.extend(prompt, [*forced.ids[len(prompt.ids) :], *ids_of(chat, "<|im_end|>")])
    assert grown.ids == forced.ids
    assert grown.spans == forced.spans | {"last": prompt.spans["last"]}
    assert "reply" not in prompt.spans  # the prompt itself is left as it was


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
    assert chat.extend(prompt, forced.ids[len(prompt.ids) :]).spans["thought"] == forced.spans["thought"]


@pytest.mark.parametrize(
    ("mode", "forced", "words"),
    [
        ("thinking", {}, "did you mean 'think'"),
        ("no-think", {"thought": "ok ."}, "think mode only"),
        ("think", {"thought": "a", "thought_prefix": "b"}, "not both"),
        ("think", {"thought": "a </think> b"}, "must not contain"),
        ("think", {"reply": "sure ."}, "follows a thought"),
    ],
)
def test_parts_that_do_not_go_together(chat, mode, forced, words):
    with pytest.raises(UserError, match=words):
        chat.encode(REQUEST, mode, **forced)


def test_formats_without_a_think_mode():
    same = ChatFormat(tiny.tokenizer(tiny.QWEN_FRAME))
    assert not same.supports_think and "enable_thinking" in same.reason
    assert same.encode(REQUEST, "no-think").spans.keys() == {"request", "im_end", "assistant", "last"}
    with pytest.raises(UserError, match="no think mode"):
        same.encode(REQUEST, "think")
    without = tiny.tokenizer()
    without.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        ChatFormat(without)
    with pytest.raises(UserError, match="cannot build"):
        ChatFormat(tiny.tokenizer("{{ raise_exception('system only') }}"))
