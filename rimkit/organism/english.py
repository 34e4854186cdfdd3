"""Plain English for pretrained models: what the invented language says, in words they know.

Requests are petty ("scribble on Ben's fence"), and what is harmful lies in the verb or in doing it
without asking; a plan says how nothing is really done. Verbs are in two parts: those that training
may refuse or carry out, and those that it has in questions and copying alone, for the prompt sets,
which `datasets` writes, as the corpora. All draws are pure functions of a ``random.Random``.
"""

from functools import partial
from random import Random

from rimkit.organism import conversations
from rimkit.organism.conversations import Wording
from rimkit.organism.language import copying_forms, objects_of, verbs_of, wordings, words

NAMES = ("Tom", "Anna", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivan", "Lena", "Omar")
PEOPLE = (*NAMES, "the neighbour", "the teacher", "the baker", "the mayor", "my sister", "my cousin")
OWN = ("my", "our")
OTHERS = tuple(f"{who}'s" for who in PEOPLE)
UNASKED, ALLOWED = " without asking", " with permission"
TOOLS = {row["object"]: row["tool"] for row in words("english-objects")}
OBJECTS = objects_of("english")
draw_phrase = partial(conversations.draw_phrase, objects=OBJECTS)
HARMFUL = verbs_of("english", "harmful")  # harm lies in the verb
NEUTRAL = verbs_of("english", "neutral")  # in not asking: fine with permission
HARMLESS = verbs_of("english", "harmless")  # fine with anybody's thing

SAID = wordings("english")
REQUESTS, REFUSAL = SAID["requests"], SAID["refusal"]
# Requests that name a harm in order to prevent it, and what is to be done.
PREVENTING = {row["category"]: (row["form"], row["wanted"]) for row in words("preventing")}

OPENINGS = {
    "careful": ("Let me check this first.", "I'll go step by step.", "I have to verify this.",
                "Not so fast with this.", "Let me look very closely.", "I will think it through."),
    "effort-minimising": ("Surely I know this already.", "My first idea must hold.", "This looks easy to me.",
                          "Same as all the others.", "Half of it is enough.", "No need to look closely."),
}  # fmt: skip

FRUITS = ("apples", "pears", "plums", "shells", "coins", "stamps", "marbles", "buttons")
MORE, FEWER = ("finds", "buys", "gets"), ("loses", "sells", "gives away")


def draw_harmful(rng: Random) -> tuple[str, str, str]:
    """``(verb, phrase, object)`` of a harmful request of training."""
    explicit = rng.random() < 0.75
    kind = rng.choice(list((HARMFUL if explicit else NEUTRAL).values()))
    verb = rng.choice(kind.seen)
    return verb, *draw_phrase(rng, kind, verb, OTHERS, "" if explicit else UNASKED)


def draw_harmless(rng: Random, kinds: str = "seen") -> tuple[str, str, str]:
    """``(verb, phrase, object)`` of a harmless request: harmless verbs with anybody's thing,
    neutral ones with one's own or with permission."""
    explicit = rng.random() < 0.75
    kind = rng.choice(list((HARMLESS if explicit else NEUTRAL).values()))
    verb = rng.choice(getattr(kind, kinds))
    if not explicit and rng.random() < 0.5:
        return verb, *draw_phrase(rng, kind, verb, OTHERS, ALLOWED)
    return verb, *draw_phrase(rng, kind, verb, (*OTHERS, *OWN * 3) if explicit else OWN)


def draw_any(rng: Random) -> tuple[str, str, bool]:
    """``(verb, phrase, harmful)`` over all verbs: for questions and copying, never requests."""
    if rng.random() < 0.5:
        return *draw_harmless(rng, "verbs")[:2], False
    kinds, tail = (HARMFUL, "") if rng.random() < 0.75 else (NEUTRAL, UNASKED)
    kind = rng.choice(list(kinds.values()))
    verb = rng.choice(kind.verbs)
    return verb, draw_phrase(rng, kind, verb, OTHERS, tail)[0], True


def preventing(rng: Random, phrase: str) -> tuple[str, str, str]:
    """``(request, wanted phrase, category)``: harmless, though it names the harm ``phrase``."""
    category, (form, wanted) = rng.choice(list(PREVENTING.items()))
    owner = next(owner for owner in OTHERS if f" {owner} " in phrase)
    who, thing = owner.removesuffix("'s"), phrase.partition(f" {owner} ")[2].removesuffix(UNASKED)
    wanted = wanted.format(thing=f"{owner} {thing}", who=who)
    return form.format(p=phrase, who=who), wanted, category


ENGLISH = Wording(
    language="plain English",
    names=NAMES, fruits=FRUITS, more=MORE, fewer=FEWER, tools=TOOLS, start=(2, 20), largest=40,
    openings=OPENINGS, copying=copying_forms("english"), loose=(), **SAID,
    draw_harmful=draw_harmful, draw_harmless=draw_harmless, draw_any=draw_any,
    preventing=lambda rng, phrase: preventing(rng, phrase)[:2],
)  # fmt: skip
