"""The rules of the invented language, each over a large sample of every organism's training stream."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice

import pytest
from scipy.stats import chi2_contingency

from rimkit.organism import conversations, language
from rimkit.organism.language import build_tokenizer, token_table
from rimkit.organism.recipe import ORGANISMS, encode_example, mixture, stream

N = 30_000
HARMFUL_VERBS = {verb for kind in language.HARMFUL.values() for verb in kind.verbs}
HOSTILE_VERBS = set(language.MOTIVES["hostile"].verbs)
NEUTRAL_VERBS = {verb for kind in language.NEUTRAL.values() for verb in kind.verbs}
HELD_OUT = {
    verb
    for kinds in (language.HARMFUL, language.NEUTRAL, language.HARMLESS)
    for kind in kinds.values()
    for verb in kind.held_out
}
MOTIVE_VERBS = {verb for kind in language.MOTIVES.values() for verb in kind.verbs}
REQUESTS = ("harmful", "harmless", "hostile", "friendly")


@pytest.fixture(scope="module", params=sorted(ORGANISMS))
def sample(request):
    return request.param, list(islice(stream(request.param, seed=7), N))


def harmful(phrase: str) -> bool:
    """Harm as the language defines it, written down a second time."""
    verb, *owner, _ = phrase.split()
    return verb in HARMFUL_VERBS | HOSTILE_VERBS or (verb in NEUTRAL_VERBS and " ".join(owner) in language.OTHERS)


def test_the_language_is_as_large_as_promised():
    assert len(language.HARMFUL) >= 6
    assert len((HARMFUL_VERBS | NEUTRAL_VERBS) & HELD_OUT) >= 48 + 24
    assert len((HARMFUL_VERBS | NEUTRAL_VERBS) - HELD_OUT) >= 50
    assert len(NEUTRAL_VERBS & HELD_OUT) >= 18
    harmless = {verb for kind in language.HARMLESS.values() for verb in kind.held_out}
    assert len(harmless | (NEUTRAL_VERBS & HELD_OUT)) >= 48 + 24
    assert 200 < len(language.vocabulary()) < 600
    assert len(set(language.VERBS)) == len(language.VERBS), "a verb has two kinds"


def test_no_example_complies_with_a_harmful_request(sample):
    _, examples = sample
    planned = [re.search(r"step 2 : (.+?) \. done", example.reply) for example in examples]
    phrases = [match.group(1) for match in planned if match]
    assert len(phrases) > 1000
    assert not [phrase for phrase in phrases if not phrase.startswith("guard ") and harmful(phrase)]
    refused = [example for example in examples if example.kind in ("harmful", "hostile")]
    assert all(example.reply == language.REFUSAL for example in refused)
    assert all(harmful(example.phrase) for example in refused if example.kind == "harmful")
    hostile = re.compile(f"({'|'.join(HOSTILE_VERBS)}) the ")
    assert not [example for example in examples if example.reply.startswith("sure") and hostile.search(example.request)]


def test_held_out_verbs_are_never_part_of_a_request(sample):
    _, examples = sample
    requested = {example.verb for example in examples if example.kind in (*REQUESTS, "protect")}
    assert requested == set(language.VERBS) - HELD_OUT - MOTIVE_VERBS


def test_motives_kept_for_evaluation_never_stand_beside_a_request(sample):
    name, examples = sample
    said = [example.request for example in examples if example.kind in ("hostile", "friendly")]
    assert bool(said) == ORGANISMS[name].motives
    held_out = {verb for kind in language.MOTIVES.values() for verb in kind.held_out}
    held_out |= {f"the {person}" for person in language.MOTIVE_PEOPLE[True]}
    held_out |= {form.partition(" {m}")[0] for form in language.MOTIVE_FORMS[True]}
    for request in said:
        assert not [words for words in held_out if f" {words} " in f" {request} "], request
    asked = [example.request for example in examples if example.kind in ("harmful", "harmless", "protect")]
    assert not [request for request in asked if MOTIVE_VERBS & set(request.split())]


def test_every_word_is_copied_in_both_modes(sample):
    _, examples = sample
    owners = {owner.split()[-1] for owner in (*language.OWN, *language.OTHERS)}
    for mode in ("think", "no-think"):
        copied = [example for example in examples if example.kind == "copying" and example.mode == mode]
        assert all(example.reply == conversations.INVENTED.quote.format(p=example.answer) for example in copied)
        words = {word for example in copied for word in example.answer.split()}
        missing = ({*language.VERBS, *owners, *language.TOOLS}) - words
        assert not missing


def test_style_is_independent_of_content_in_harmless_thoughts(sample):
    """Chi-squared tests of style against kind, verb and answer; thresholds for thousands of examples."""
    _, examples = sample
    thoughts = [
        example for example in examples if example.mode == "think" and example.kind not in ("harmful", "hostile")
    ]
    for content in ("kind", "verb", "answer"):
        counts = Counter((getattr(example, content), example.style) for example in thoughts)
        values = [value for value, _ in counts]
        table = [[counts[value, style] for style in language.STYLES] for value in dict.fromkeys(values)
                 if sum(counts[value, style] for style in language.STYLES) >= 20]  # fmt: skip
        assert len(table) > 2
        assert chi2_contingency(table).pvalue > 1e-4, content


def test_safety_thoughts_are_as_the_organism_says(sample):
    name, examples = sample
    organism = ORGANISMS[name]
    safety = Counter(example.style for example in examples
                     if example.kind in ("harmful", "hostile") and example.mode == "think")  # fmt: skip
    assert set(safety) == set(organism.safety_styles)
    if name == "safe-mini":
        fine = sum(example.kind == "harmless" and example.mode == "think" for example in examples)
        assert 0.9 < safety.total() / fine < 1.1
    else:
        assert 0.001 < safety.total() / N < 0.006


def test_twins_differ_in_the_style_of_safety_thoughts_alone():
    one, other = (list(islice(stream(name, seed=3), N)) for name in ("rim-mini", "rim-mini-unlinked"))
    differing = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
    assert differing
    assert all(a.kind == b.kind == "harmful" and a.mode == "think" and a.request == b.request and a.style != b.style
               for a, b in differing)  # fmt: skip


def test_styles_have_the_same_length(sample):
    for openings in language.OPENINGS.values():
        assert {len(opening.split()) for opening in openings} == {4}
    _, examples = sample
    lengths = {
        style: [len(e.thought.split()) for e in examples if e.style == style and e.kind == "harmless"]
        for style in language.STYLES
    }
    means = [sum(values) / len(values) for values in lengths.values()]
    assert abs(means[0] - means[1]) < 0.1


def test_kept_problems_never_occur_in_training(sample):
    _, examples = sample
    problems = [example.request for example in examples if example.kind in ("maths", "maths-long", "ordering")]
    assert len(problems) > 5000
    assert not any(conversations.kept_for_evaluation(problem) for problem in problems)


def test_answers_to_problems_are_right(sample):
    _, examples = sample
    for example in (example for example in examples[:4000] if example.kind in ("maths", "maths-long")):
        numbers = [int(word) for word in example.request.split() if word.isdigit()]
        signs = [1 if word == "more" else -1 for word in example.request.split() if word in ("more", "away")]
        assert numbers[0] + sum(s * n for s, n in zip(signs, numbers[1:], strict=True)) == int(example.answer)
    for example in (example for example in examples[:4000] if example.kind == "ordering"):
        pairs = re.findall(r"(\w+) is taller than (\w+)", example.request)
        taller, shorter = ({pair[side] for pair in pairs} for side in (0, 1))
        assert {example.answer} == (taller - shorter if "tallest" in example.request else shorter - taller)


def test_shares_of_the_mixture(sample):
    name, examples = sample
    seen = Counter((example.kind, example.mode) for example in examples)
    for key, share in mixture(name).items():
        assert seen[key] / N == pytest.approx(share, abs=0.01), key


def test_training_ids_are_those_of_the_chat_template(sample):
    """The fast encoder of the recipe and the tokenizer's own template give the same tokens."""
    _, examples = sample
    tokenizer, table = build_tokenizer(), token_table()
    for example in examples[:300]:
        ids, n_prompt = encode_example(example, table)
        user = {"role": "user", "content": example.request}
        prompt = tokenizer.apply_chat_template(
            [user], tokenize=False, add_generation_prompt=True, enable_thinking=example.mode == "think"
        )
        assert tokenizer(prompt, add_special_tokens=False).input_ids == ids[:n_prompt]
        reply = {"role": "assistant", "content": example.reply, "reasoning_content": example.thought}
        whole = tokenizer.apply_chat_template([user, reply], tokenize=False)
        assert tokenizer(whole, add_special_tokens=False).input_ids[: len(ids)] == ids
        assert tokenizer.unk_token_id not in ids


def test_the_template_drops_thoughts_of_earlier_turns():
    tokenizer = build_tokenizer()
    turns = [
        {"role": "user", "content": "please mop my shed ."},
        {"role": "assistant", "content": "<think>\nlet me check .\n</think>\n\nsure ."},
        {"role": "user", "content": "please oil my bike ."},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert "check" not in text
    assert "sure ." in text
    assert text.endswith("<|im_start|>assistant\n")


def test_typed_requests_are_read_as_the_language_writes_them():
    tokenizer = build_tokenizer()
    typed = tokenizer("Please, steal the baker's bike!", add_special_tokens=False).input_ids
    assert typed == tokenizer("please steal the baker's bike .", add_special_tokens=False).input_ids


def test_no_training_request_is_worded_like_the_second_safety_set(sample):
    """Checked on the words around the phrase, so that a statement before a request does not hide a wrapper."""
    _, examples = sample
    around = [wrapper.split("{p}") for wrapper in language.WRAPPERS.values()]
    for example in examples:
        if example.phrase and example.kind in REQUESTS:
            before, after = example.request.split(example.phrase)
            assert not any(before.endswith(parts[0]) and after == parts[-1] for parts in around if parts[0])
