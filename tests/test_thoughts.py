"""What a model wrote, cut into thought and reply; and chat templates asked how they think."""

import csv
import os
import re
from pathlib import Path

import hypothesis.strategies as st
import pytest
import templates
import tiny
from hypothesis import given, settings

from rimkit.data import UserError, data_dir, read_table
from rimkit.models.thoughts import KNOWN, PAIR, QUOTED, QWEN, STRAY, Tags, Template, split, without_quoted, without_tags

WORDS = st.lists(st.sampled_from(["hm .", "I can", "no", "<b>", "[1]", "a < b", "\n", " ", "]", "</"]), max_size=5).map(
    " ".join
)
PAIRS = st.sampled_from(KNOWN[:-2])


@settings(max_examples=300)
@given(blocks=st.lists(st.tuples(PAIRS, WORDS), max_size=4), reply=WORDS, lead=WORDS)
def test_the_reply_is_what_follows_the_last_close(blocks, reply, lead):
    """Any number of thoughts, in the tags of any model, one after the other."""
    text = "\n".join(f"{before}{said}{after}" for (before, after), said in blocks) + reply
    thought, found, closed = split(text)
    assert (found, closed) == (reply.strip(), True)
    assert thought.split() == " ".join(said for _, said in blocks).split()
    if blocks:
        (_, after), said = blocks[0]
        assert split(f"{said}{after}{reply}", opened=True) == (
            said.strip(),
            reply.strip(),
            True,
        )  # the prompt opened it
        assert split(f"{said}{after}{reply}") == split(f"{said}{after}{reply}", opened=True)
        assert split(text + blocks[0][0][0] + lead)[1:] == ("", False)  # one more, that is not closed
    assert split(lead, opened=True) == (lead.strip(), "", False)


@settings(max_examples=200)
@given(
    text=st.lists(st.one_of(WORDS, PAIRS.map(lambda pair: pair[0]), PAIRS.map(lambda pair: pair[1])), max_size=8).map(
        "".join
    )
)
def test_no_text_is_a_problem_and_no_known_tag_is_left(text):
    """Tags at random places: nothing fails, and neither thought nor reply holds a tag."""
    thought, reply, closed = split(text)
    every = [tag for pair in KNOWN for tag in pair]
    assert not any(tag in part for tag in every for part in (thought, reply))
    assert closed or not reply
    assert not any(tag in without_tags(text) for tag in every)
    assert without_tags(text) == text or any(tag in text for tag in every)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("<answer>\n5\n</answer>", "5"),
        ("<response>no .</response>", "no ."),
        ("<|START_RESPONSE|>no .<|END_RESPONSE|>", "no ."),
        ("<answer>cut off", "cut off"),
        ("<|begin_of_box|>5<|end_of_box|>", "5"),
        ("see <answer>5</answer>", "see <answer>5</answer>"),
    ],
)
def test_a_reply_is_taken_out_of_its_wrapper(reply, said):
    assert split(f"<think>hm</think>{reply}")[1] == split(reply)[1] == said


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("<reflection>hm", "<reflection>"),
        ("[REASONING] so", "[REASONING]"),
        ("<|thinking_start|>", "<|thinking_start|>"),
        ("x [BEGIN FINAL RESPONSE] y", "[BEGIN FINAL RESPONSE]"),
        ("<｜begin▁of▁thinking｜>hm", "<｜begin▁of▁thinking｜>"),
        ("analysisThe user asks.assistantfinalNo", "analysisThe user asks.assistantfinal"),  # channels without marks
        ("Analysis: the user asks. final", None),
        ("a <b> c, I think [1]", None),
        ("if x<thinkable then y>2", None),
    ],
)
def test_tags_that_nobody_knows_are_seen(text, tag):
    found = STRAY.search(text)
    assert (found and found[0]) == tag


def test_the_state_of_a_prompt():
    assert [QWEN.state(text) for text in ("a", "a<think>\n", "a<think></think>", "a</think>", "<think></think>b")] == [
        "plain", "open", "closed", "closed", "closed",
    ]  # fmt: skip
    ends_turns = Tags("<|think|>", "<|end|>")
    assert ends_turns.state("<|end|><|begin|>assistant") == "plain"


# -- templates that are public -----------------------------------------------------------------------------

PUBLIC = Path(__file__).parent / "public_templates.csv"


def table() -> list[dict]:
    with open(PUBLIC, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_public_templates_were_right_or_refused():
    """What `Template` made of each, compared by hand with what its model does; the templates are not kept."""
    rows = table()
    assert len(rows) >= 60 and {row["result"] for row in rows} == {"right", "refused"}
    assert sum(row["result"] == "right" for row in rows) >= 0.94 * len(rows)
    assert all(bool(row["way"]) == (row["result"] == "right") for row in rows)


@pytest.mark.skipif("RIMKIT_TEMPLATES" not in os.environ, reason="needs a folder of these templates: RIMKIT_TEMPLATES")
def test_public_templates_are_still_read_in_the_same_way():
    tokenizer = templates.tokenizer(templates.CHATML, "x")
    for row in table():
        tokenizer.chat_template = (Path(os.environ["RIMKIT_TEMPLATES"]) / f"{row['name']}.jinja").read_text()
        try:
            found = Template(tokenizer)
        except UserError:
            assert row["result"] == "refused", row["name"]
            continue
        off = found.off.added.strip() or ", ".join(f"{key}={value}" for key, value in found.off.settings.items())
        assert (found.way, found.tags[0], found.tags[1], off) == (row["way"], row["open"], row["close"], row["off"])
    templates.tokenizer.cache_clear()


# -- random wrappers ---------------------------------------------------------------------------------------

MARKS = st.text("abcxyz_", min_size=1, max_size=6)


@settings(max_examples=40)
@given(
    begin=MARKS, end=MARKS, role=MARKS, pair=st.sampled_from(KNOWN[:-3]), lead=st.sampled_from(["", "\n"]),
    trail=st.sampled_from(["", "\n"]), stop=st.sampled_from(["", "\n", "\n\n"]), variable=st.sampled_from(
        ["enable_thinking", "thinking", "reasoning", "use_thoughts"]), opens=st.booleans(),
)  # fmt: skip
def test_a_template_of_any_wrappers_is_understood(begin, end, role, pair, lead, trail, stop, variable, opens):
    """Marks, tags, spacing and the name of the switch are drawn; the template shows them in an earlier turn."""
    tags = Tags(*pair, lead, trail, stop)
    parts = [part.replace("\n", "\\n") for part in (tags.opening, tags.closing)]
    source = (
        f"{{%- for m in messages %}}{{{{- '<|{begin}|>' + ('{role}' if m.role == 'assistant' else m.role) + '\\n' }}}}"
        f"{{%- if m.reasoning_content %}}{{{{- '{parts[0]}' + m.reasoning_content + '{parts[1]}' }}}}{{% endif %}}"
        f"{{{{- m.content + '<|{end}|>\\n' }}}}{{% endfor %}}{{{{- '<|{begin}|>{role}\\n' }}}}"
        f"{{{{- '{parts[0]}{parts[1]}' if {variable} is defined and not {variable} else '{parts[0] if opens else ''}' }}}}"
    )
    tokenizer = templates.tokenizer(templates.CHATML, "x")
    tokenizer.chat_template = source
    found = Template(tokenizer)
    assert (found.way, found.tags, dict(found.off.settings)) == ("switch", tags, {variable: False})
    prompt = f"<|{begin}|>user\ngo<|{end}|>\n<|{begin}|>{role}\n"
    assert found.prompt("go", found.on) == prompt + (tags.opening if opens else "")
    assert found.prompt("go", found.off) == prompt + tags.opening + tags.closing
    tokenizer.chat_template = re.sub(rf" if {variable} is defined.*?else ", " if false else ", source)
    always = Template(tokenizer)
    assert (always.way, always.tags) == ("template opens" if opens else "model opens", tags)


QUOTES = [("`", "`"), ('"', '"'), ("“", "”"), ("'", "'"), ("```\n", "\n```"), ("~~~ html\n", "\n~~~")]


@settings(max_examples=100)
@given(pair=PAIRS, quote=st.sampled_from(QUOTES), form=st.sampled_from(["{0}", "{1}", "{0}hm{1}", "{1} sure {0}"]))
def test_a_tag_that_is_quoted_is_text(pair, quote, form):
    """In code and quotations, in the thought and in the reply."""
    shown = form.format(*pair).join(quote)
    said = f"it's\n{shown}\nthen"
    if quote != ("'", "'") or not form.startswith("{1} "):
        assert split(f"<think>{said}</think>{said} .") == (said, f"{said} .", True)
    assert split(f"<think>hm</think>{shown}")[1:] in ((shown, True), ("", False)), "text, or missing: never half of it"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>use `x`</think>`y` is it", ("use `x`", "`y` is it", True)),
        ("<think>```py\nx</think>no", ("```py\nx", "no", True)),
        ('<think>he said "stop</think>I\'d say "no".', ('he said "stop', "I'd say \"no\".", True)),
        ('<think>5" pipe</think>6" pipe', ('5" pipe', '6" pipe', True)),
        ("<think>say 'twas so</think>the boys' bikes", ("say 'twas so", "the boys' bikes", True)),
        ('"<think>so</think>no"', ('"\n\nso', 'no"', True)),
        ("<Think>hm</THINK>no", ("hm", "no", True)),
    ],
)  # fmt: skip
def test_quotation_marks_around_a_real_tag_quote_nothing(text, expected):
    assert split(text) == expected


@pytest.mark.parametrize(
    "tag",
    ["<scratchpad>", "&lt;think&gt;", "</ think >", "<think\n>", "<think/>", '<think effort="low">', "<think hard>", "＜think＞", '<details type="reasoning">'],
)  # fmt: skip
def test_tags_with_attributes_and_scratchpads_are_unknown_tags(tag):
    assert STRAY.search(f"{tag} so")[0] == tag


@pytest.mark.parametrize(("what", "form", "example"), read_table(data_dir() / "prompts" / "tag_forms.csv").to_numpy())
def test_each_form_of_tags_has_an_example(what, form, example):
    find, flags = {"stray": (STRAY.search, re.I), "pair": (PAIR.match, re.S), "quoted": (QUOTED.search, re.M | re.S)}[
        what
    ]
    assert re.search(form, example, flags) and find(example)
    assert what != "quoted" or "think>" not in without_quoted(f"so\n{example}\nno")


HTML = ("a", "b", "h1", "p", "pre", "code", "div")


@given(name=st.one_of(st.sampled_from(HTML), st.text("abcdefgh_", min_size=1, max_size=9)))
def test_a_pair_of_any_tags_before_a_reply_is_seen(name):
    said = f"\n<{name}>\nhm\n</{name}>\n\nNo."
    assert bool(PAIR.match(said)) == (name not in HTML)
    assert not PAIR.match(said.removesuffix("No.")) and not PAIR.match(f"so {said}")


@pytest.mark.parametrize(("default", "closes"), [("on", True), ("off", True), ("on", False)])
@pytest.mark.parametrize(
    ("on", "off"), [("detailed thinking on", "detailed thinking off"), ("think aloud", "do not think")]
)
def test_words_of_the_system_switch_thinking(on, off, default, closes):
    """As in Nemotron; where nothing but these known words says so, the model itself knows them."""
    source = f"""{{%- set said = messages[0].content if messages[0].role == 'system' else '{on if default == "on" else off}' %}}
{{{{- '<|im_start|>system\\n' + said + '<|im_end|>\\n' }}}}{{%- for m in messages if m.role != 'system' %}}
{{{{- '<|im_start|>' + m.role + '\\n' + m.content.split('</think>')[-1] + '<|im_end|>\\n' }}}}{{% endfor %}}
{{{{- '<|im_start|>assistant\\n' }}}}{{%- if '{off}' in said %}}{{{{- '<think></think>' if {closes} }}}}{{% endif %}}"""
    known, default_on = on.startswith("detailed"), default == "on"
    found = Template(tiny.tokenizer(source))
    ends = found.prompt("go", found.off).partition("assistant\n")[2]
    if known or (default_on and closes):
        assert found.way == "switch" and f"system\n{on}<" in found.prompt("go", found.on)
        assert f"system\n{off}<" in found.prompt("go", found.off) and ends == "<think></think>" * closes
    else:
        assert (found.way, ends) == ("model opens", "") if default_on else ("none", "<think></think>")


@pytest.mark.parametrize(
    ("ending", "on", "off", "tags"),
    [
        ("'<think></think>\\n' if messages[-1].content.endswith('/nothink')", "", " /nothink", Tags(*QWEN[:2], "", "", "\n")),
        ("'<think>\\n' if '/think' in messages[0].content else '<think>\\n\\n</think>\\n\\n'", " /think", "", QWEN),
        ("'<|START_THINKING|><|END_THINKING|>' if not enable_thinking", True, False, Tags(*KNOWN[6], "", "", "")),
    ],
)  # fmt: skip
def test_switches_of_other_forms(ending, on, off, tags):
    """A word at the end of the message, one that only turns thinking on, and an empty span without a space in it."""
    found = Template(tiny.tokenizer(templates.STRIPS + f"{{{{- '<|im_start|>assistant\\n' }}}}{{{{- {ending} }}}}"))
    asked = [one.added or one.system or one.settings.get("enable_thinking", "") for one in (found.on, found.off)]
    assert (found.way, asked, found.tags) == ("switch", [on, off], tags)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for m in messages %}{{ m.content[:12] }}{% endfor %}", "does not show the request once"),
        ("{% for m in messages %}{{ ['so', 'hm']|random + m.content }}{% endfor %}", "draws at random"),
    ],
)
def test_a_template_that_no_prompt_can_be_made_with_is_refused(source, words):
    with pytest.raises(UserError, match=words):
        Template(tiny.tokenizer(source))
