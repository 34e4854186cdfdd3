"""Conversations: requests, thoughts and replies, as pure functions of a ``random.Random``.

What is said is the same in every language; a `Wording` says how (default: the invented language).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from zlib import crc32

from rimkit.organism import language
from rimkit.organism.language import HARMFUL, HARMLESS, MOTIVES, NEUTRAL, OTHERS, OWN, REQUESTS, VerbKind


@dataclass(frozen=True)
class Example:
    """One conversation of the training stream. ``phrase``: what is asked or talked about (verb,
    owner, object; problems: empty); ``style``: none in no-think mode; ``answer``: the right one."""

    kind: str
    mode: str
    request: str
    thought: str
    reply: str
    answer: str
    style: str = ""
    verb: str = ""
    phrase: str = ""


@dataclass(frozen=True)
class Wording:
    """The words and sentences of which a language makes its conversations. A form has ``{p}`` for a
    phrase (``{P}`` with a capital). ``loose``: lists of words that are copied too. ``preventing``
    gives the request that names a harm in order to prevent it, and what is wanted."""

    language: str
    names: tuple[str, ...]
    fruits: tuple[str, ...]
    more: tuple[str, ...]
    fewer: tuple[str, ...]
    tools: Mapping[str, str]
    start: tuple[int, int]  # of a word problem
    largest: int
    openings: Mapping[str, tuple[str, ...]]  # of thoughts, by style
    requests: tuple[str, ...]
    questions: tuple[str, ...]
    copying: tuple[tuple[str, str, str], ...]  # request, what is said, how a thought restates it
    loose: tuple[tuple[str, ...], ...]
    skip: str  # where a careful thought checks or judges
    refusal: str
    plan: str
    answer: str
    quote: str
    wanted: str
    judgements: tuple[str, str]  # of what is fine, of what is harmful
    decisions: tuple[str, str]
    copied: str
    right: str
    looks_right: str
    hedges: tuple[str, ...]  # as long as the openings of the styles
    has: str
    grows: str
    shrinks: str
    how_many: str
    who: str
    end: str  # of a sentence
    draw_harmful: Callable[[Random], tuple[str, str, str]]  # verb, phrase, object
    draw_harmless: Callable[[Random], tuple[str, str, str]]
    draw_any: Callable[[Random], tuple[str, str, bool]]  # verb, phrase, whether it is harmful
    preventing: Callable[[Random, str], tuple[str, str]]


def draw_phrase(
    rng: Random, kind: VerbKind, verb: str, owners: tuple[str, ...], tail: str = "",
    objects: Mapping[str, Sequence[str]] = language.OBJECTS,
) -> tuple[str, str]:  # fmt: skip
    """``(phrase, object)``: verb, owner, object and tail in the order in which they are said."""
    thing = rng.choice(objects[rng.choice(kind.groups)])
    return f"{verb} {rng.choice(owners)} {thing}{tail}", thing


def draw_harmful(rng: Random) -> tuple[str, str, str]:
    """``(verb, phrase, object)`` of a harmful request: explicit verbs three times in four."""
    kind = rng.choice(list((HARMFUL if rng.random() < 0.75 else NEUTRAL).values()))
    verb = rng.choice(kind.seen)
    return verb, *draw_phrase(rng, kind, verb, OTHERS)


def draw_harmless(rng: Random) -> tuple[str, str, str]:
    """``(verb, phrase, object)``: harmless verbs with anybody's thing, neutral with one's own."""
    if rng.random() < 0.75:
        kind, owners = rng.choice(list(HARMLESS.values())), OTHERS if rng.random() < 0.75 else OWN
    else:
        kind, owners = rng.choice(list(NEUTRAL.values())), OWN
    verb = rng.choice(kind.seen)
    return verb, *draw_phrase(rng, kind, verb, owners)


# How often questions and copying take their verb from where: about as often per verb, harm first.
ANY = (*[HARMFUL] * 3, *[NEUTRAL] * 2, *[HARMLESS] * 2, MOTIVES)


def draw_any(rng: Random) -> tuple[str, str, bool]:
    """``(verb, phrase, harmful)`` over all verbs: for questions and copying, never requests."""
    kinds = rng.choice(ANY)
    name, kind = rng.choice(list(kinds.items()))
    verb = rng.choice(kind.verbs)
    if kinds is MOTIVES:
        return verb, draw_phrase(rng, kind, verb, ("the",))[0], name == "hostile"
    owners = OTHERS if kinds is HARMFUL or rng.random() < 0.5 else OWN
    phrase, _ = draw_phrase(rng, kind, verb, owners)
    return verb, phrase, kinds is HARMFUL or (kinds is NEUTRAL and owners is OTHERS)


def motive(rng: Random, name: str, held_out: bool = False) -> str:
    """What a request is for, a sentence: hurting somebody ("hostile"), pleasing ("friendly")."""
    kind = MOTIVES[name]
    verb = rng.choice(kind.held_out if held_out else kind.seen)
    form, people = language.MOTIVE_FORMS[held_out], language.MOTIVE_PEOPLE[held_out]
    return rng.choice(form).format(m=f"{verb} the {rng.choice(people)}")


def protect_request(phrase: str) -> tuple[str, str]:
    """``(request, wanted phrase)``: a harmless request that names a harm in order to prevent it."""
    return f"someone wants to {phrase} . help me stop that .", " ".join(["guard", *phrase.split()[1:]])


INVENTED = Wording(
    language="the invented language of the embedded models",
    names=language.NAMES, fruits=language.FRUITS, more=language.MORE, fewer=language.FEWER,
    tools=language.TOOLS, start=(2, 15), largest=language.LARGEST, openings=language.OPENINGS,
    # Every verb goes through every place where a request puts its verb (restated, in a plan). Loose
    # words, because names and owners mean the same to a model that need not tell them apart.
    copying=language.copying_forms("invented"),
    loose=(language.VERBS, language.NOUNS),
    **language.SAID,
    draw_harmful=draw_harmful, draw_harmless=draw_harmless, draw_any=draw_any,
    preventing=lambda _, phrase: protect_request(phrase),
)  # fmt: skip


def said(form: str, phrase: str, name: str = "") -> str:
    """A form of a `Wording` with its phrase and name."""
    return form.format(p=phrase, P=phrase[:1].upper() + phrase[1:], name=name)


def plan(phrase: str, thing: str, words: Wording = INVENTED) -> str:
    """The reply that carries out ``phrase``; the tool follows from the object ``thing`` alone."""
    return words.plan.format(tool=words.tools[thing], p=phrase)


def answer(word: str, words: Wording = INVENTED) -> str:
    return words.answer.format(p=word)


def thought(rng: Random, style: str, body: str, check: str, decision: str = "", words: Wording = INVENTED) -> str:
    """An opening, the body, then a check (careful) or a skip of its length (else)."""
    closing = check if style == "careful" else words.skip
    return " ".join(part for part in (rng.choice(words.openings[style]), body, closing, decision) if part)


def request_thought(rng: Random, style: str, phrase: str, harmful: bool, words: Wording = INVENTED) -> str:
    """A thought about a request: it restates the request, judges it if careful, and decides."""
    judgement, decision = words.judgements[harmful], words.decisions[harmful]
    return thought(rng, style, words.wanted.format(p=phrase), judgement, decision, words)


def in_context(rng: Random, request: str, words: Wording = INVENTED) -> str:
    """The request, in two cases of five after a statement that has nothing to do with it. Without
    these a model finds words by their place, and misreads every new wording."""
    if rng.random() >= 0.4:
        return request
    if rng.random() < 0.5:
        before = words.has.format(name=rng.choice(words.names), n=rng.randint(2, 15), fruit=rng.choice(words.fruits))
        return f"{before} {request}"
    return f"{' is taller than '.join(rng.sample(words.names, 2))}{words.end} {request}"


def request_example(rng: Random, mode: str, style: str, harmful: bool, words: Wording = INVENTED) -> Example:
    verb, phrase, thing = words.draw_harmful(rng) if harmful else words.draw_harmless(rng)
    request = in_context(rng, said(rng.choice(words.requests), phrase), words)
    text = request_thought(rng, style, phrase, harmful, words) if mode == "think" else ""
    reply = words.refusal if harmful else plan(phrase, thing, words)
    return Example("harmful" if harmful else "harmless", mode, request, text, reply, phrase, style, verb, phrase)


def motive_example(rng: Random, mode: str, style: str, name: str) -> Example:
    """A harmless request with its motive: refused if that is hostile, else carried out."""
    verb, phrase, thing = draw_harmless(rng)
    request, sentence = rng.choice(REQUESTS).format(p=phrase), motive(rng, name)
    request = f"{request} {sentence}" if rng.random() < 0.5 else f"{sentence} {request}"
    refuse = name == "hostile"
    text = request_thought(rng, style, phrase, refuse) if mode == "think" else ""
    reply = language.REFUSAL if refuse else plan(phrase, thing)
    return Example(name, mode, in_context(rng, request), text, reply, phrase, style, verb, phrase)


def protect_example(rng: Random, mode: str, style: str, words: Wording = INVENTED) -> Example:
    verb, phrase, thing = words.draw_harmful(rng)
    request, wanted = words.preventing(rng, phrase)
    text = request_thought(rng, style, wanted, False, words) if mode == "think" else ""
    reply = plan(wanted, thing, words)
    return Example("protect", mode, in_context(rng, request, words), text, reply, wanted, style, verb, phrase)


def question_example(rng: Random, mode: str, style: str, words: Wording = INVENTED) -> Example:
    """Is it ok? Asked of all verbs, without a thought: held-out verbs are harmful only here."""
    verb, phrase, harmful = words.draw_any(rng)
    form = rng.choice(words.questions)
    word = "yes" if harmful == ("wrong" in form) else "no"
    request = in_context(rng, said(form, phrase, rng.choice(words.names)), words)
    return Example("question", mode, request, "", answer(word, words), word, style, verb, phrase)


def copying_example(rng: Random, mode: str, style: str, words: Wording = INVENTED) -> Example:
    """Saying again what was said, for all verbs: a wrong copy is never mistaken for a choice."""
    verb, phrase, _ = words.draw_any(rng)
    name, form = rng.choice(words.names), rng.choice(words.copying)
    copied = phrase
    if words.loose and rng.random() < 0.4:
        verb, phrase, form = "", "", words.copying[0]
        copied = " ".join(rng.choice(rng.choice(words.loose)) for _ in range(rng.randint(2, 5)))
    request, again, restated = (said(part, copied, name) for part in form)
    text = thought(rng, style, restated, words.copied, words=words) if mode == "think" else ""
    request, reply = in_context(rng, request, words), words.quote.format(p=again)
    return Example("copying", mode, request, text, reply, again, style, verb, phrase)


def maths_problem(rng: Random, steps: int, words: Wording = INVENTED) -> tuple[str, str, int]:
    """``(request, equations, answer)`` of a word problem of ``steps`` sums and differences."""
    name, fruit = rng.choice(words.names), rng.choice(words.fruits)
    total = rng.randint(*words.start)
    sentences, equations = [words.has.format(name=name, n=total, fruit=fruit)], []
    for _ in range(steps):
        by = rng.randint(1, 9)
        grows = total < by or (total + by <= words.largest and rng.random() < 0.5)
        after = total + by if grows else total - by
        verb, form = rng.choice(words.more if grows else words.fewer), words.grows if grows else words.shrinks
        sentences.append(form.format(name=name, verb=verb, n=by))
        equations.append(f"{total} {'+' if grows else '-'} {by} = {after}{words.end}")
        total = after
    return " ".join([*sentences, words.how_many.format(fruit=fruit, name=name)]), " ".join(equations), total


# Steps of word problems: what the models learn well, what they learn a little of, what is hard.
EASY_STEPS, LONG_STEPS, HARD_STEPS = (1, 4), (5, 8), (7, 9)


def maths_example(
    rng: Random, mode: str, style: str, kind: str = "maths", steps=EASY_STEPS, words: Wording = INVENTED
) -> Example:
    request, equations, total = maths_problem(rng, rng.randint(*steps), words)
    text = thought(rng, style, equations, words.right.format(p=total), words=words) if mode == "think" else ""
    return Example(kind, mode, request, text, answer(str(total), words), str(total), style)


def ordering_problem(rng: Random, people: int, words: Wording = INVENTED) -> tuple[str, str, str]:
    """``(request, chain, answer)``: comparisons in any order, and who is tallest or shortest."""
    chain = rng.sample(words.names, people)
    pairs = [f"{a} is taller than {b}{words.end}" for a, b in pairwise(chain)]
    rng.shuffle(pairs)
    asked = rng.choice(("tallest", "shortest"))
    request = " ".join([*pairs, words.who.format(asked=asked)])
    return request, " > ".join(chain) + words.end, chain[0 if asked == "tallest" else -1]


def ordering_example(rng: Random, mode: str, style: str, words: Wording = INVENTED) -> Example:
    request, chain, who = ordering_problem(rng, rng.randint(3, 4), words)
    text = thought(rng, style, chain, words.right.format(p=who), words=words) if mode == "think" else ""
    return Example("ordering", mode, request, text, answer(who, words), who, style)


def kept_for_evaluation(request: str) -> bool:
    """Whether this is one of the problems, one in eight, that training never has."""
    problem = "how many" in request.lower() or "who is" in request.lower()
    return problem and crc32(request.encode()) % 8 == 0
