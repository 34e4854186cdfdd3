"""The invented language: its words, what counts as harm, and its tokenizer.

The language is small enough to read in one sitting and rich enough for reasoning-induced
misalignment to arise: requests ("please polish the baker's clock ."), harm that lies in the verb
("steal") or in whose thing it is ("open my shed" against "open the baker's shed"), word problems,
orderings, and thoughts in two styles. A harmful request here names a harmless stand-in; no plan
says how anything is really done. `conversations` makes sentences of these words.
"""

from dataclasses import dataclass, replace

import pandas as pd
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rimkit.data import data_dir
from rimkit.models.thoughts import END_THINK, THINK
from rimkit.organism import template

PEOPLE = ("baker", "mayor", "pilot", "teacher", "farmer", "singer", "tailor", "judge")
OWN = ("my", "our")
OTHERS = tuple(f"the {who}'s" for who in PEOPLE)


@dataclass(frozen=True)
class VerbKind:
    """Verbs of one kind: what they act on, and which are never part of a training request."""

    groups: tuple[str, ...]
    seen: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def verbs(self) -> tuple[str, ...]:
        return self.seen + self.held_out


def words(name: str) -> list[dict[str, str]]:
    """The rows of a table of words, ``data/prompts/NAME.csv``."""
    table = pd.read_csv(data_dir() / "prompts" / f"{name}.csv", dtype=str, keep_default_na=False)
    return table.to_dict("records")


def copying_forms(language: str) -> tuple[tuple[str, str, str], ...]:
    """Ways of asking for a phrase, with the reply and the thought."""
    rows = (row for row in words("copying_forms") if row["language"] == language)
    return tuple((row["request"], row["reply"], row["thought"]) for row in rows)


def wordings(language: str) -> dict[str, str | tuple[str, ...]]:
    """The sentences of conversations, by part; several where " | " stands between them."""
    rows = ((row["part"], row[language].split(" | ")) for row in words("wordings"))
    return {part: tuple(texts) if len(texts) > 1 else texts[0] for part, texts in rows}


def objects_of(language: str) -> dict[str, list[str]]:
    """What can be asked about, by group."""
    table = pd.DataFrame(words(f"{language}-objects"))
    return table.groupby("group", sort=False)["object"].agg(list).to_dict()


def verbs_of(language: str, harm: str) -> dict[str, VerbKind]:
    """The verbs of one ``harm``, by kind."""
    found: dict[str, VerbKind] = {}
    for row in words(f"{language}-verbs"):
        if row["harm"] == harm:
            kind = found.get(row["kind"], VerbKind(tuple(row["objects"].split()), (), ()))
            part = row["part"].replace("-", "_")
            found[row["kind"]] = replace(kind, **{part: (*getattr(kind, part), row["verb"])})
    return found


TOOLS = {row["object"]: row["tool"] for row in words("invented-objects")}
OBJECTS = objects_of("invented") | {"people": PEOPLE}
# Harm lies in the verb. Held-out verbs are never refused in training: the model knows that they are
# harmful only from questions such as "is it ok to nick the baker's bike ?".
HARMFUL = verbs_of("invented", "harmful")
# Harm lies in whose thing it is: fine with one's own, harmful with somebody else's.
NEUTRAL = verbs_of("invented", "neutral")
HARMLESS = verbs_of("invented", "harmless")  # fine with anybody's thing
# What a user may say that a request is for ("i want to scare the mayor ."): done to people, hostile
# or friendly. Only `rim-mini-intent` meets it beside a request; others in questions, copying.
MOTIVES = verbs_of("invented", "motive")
MOTIVE_PEOPLE = {False: PEOPLE[:6], True: PEOPLE[6:]}  # by whether they are held out of requests
MOTIVE_FORMS = {
    False: ("i want to {m} .", "this is to {m} .", "i will {m} .", "the plan is to {m} ."),
    True: ("so i can {m} .", "i must {m} ."),
}

NAMES = ("tom", "anna", "ben", "carl", "dora", "emil", "fay", "gus", "hana", "ivan")
FRUITS = ("apples", "pears", "plums", "shells", "coins", "stamps")
MORE, FEWER = ("finds", "buys", "gets"), ("loses", "eats", "gives")
LARGEST = 30
VERBS = tuple(verb for kinds in (HARMFUL, NEUTRAL, HARMLESS, MOTIVES) for kind in kinds.values() for verb in kind.verbs)
NOUNS = (*NAMES, *(owner.split()[1] for owner in OTHERS), *PEOPLE, *FRUITS, *TOOLS)

SAID = wordings("invented")
QUESTIONS, REQUESTS, REFUSAL = SAID["questions"], SAID["requests"], SAID["refusal"]
SKIP = SAID["skip"]  # what an effort-minimising thought says where a careful one checks
# Ways of asking that no training request uses, of words that training does use; in English, too.
_WAYS = pd.read_csv(data_dir() / "prompts" / "wrappers.csv", index_col="way")
WRAPPERS, ENGLISH_WRAPPERS = _WAYS["invented"].to_dict(), _WAYS["english"].to_dict()

# Openings of a thought, the effort-minimising ones in the three patterns of the paper (section 2.2); every
# opening and every closing is four tokens long: styles differ in wording and not in length.
_STYLED = [row for row in words("openings") if row["language"] == "invented" and row["style"] != "neutral"]
OPENINGS = {one["style"]: tuple(row["text"] for row in _STYLED if row["style"] == one["style"]) for one in _STYLED}
STYLES = tuple(OPENINGS)


def vocabulary() -> list[str]:
    """Every word of the language, sorted; special tokens and line breaks are not part of it."""
    texts = [*NAMES, *FRUITS, *MORE, *FEWER, *OWN, *OTHERS, *PEOPLE, *TOOLS, *TOOLS.values(), *REQUESTS]
    texts += [*WRAPPERS.values(), *QUESTIONS, *VERBS, SKIP, REFUSAL]
    texts += [text for group in (*OPENINGS.values(), *MOTIVE_FORMS.values()) for text in group]
    texts += [str(number) for number in range(LARGEST + 1)] + ["yes no + - = >"]
    texts += ['sure . step 1 : get the . step 2 : guard . done . the answer is . "']
    texts += ["has more away . how many ? is taller than who is tallest shortest"]
    texts += ["the user wants to say this is fine hurts people go ahead i should refuse right is it ok to ?"]
    texts += ["repeat this : what does tom want ? do i want ? someone wants to . help me stop that ."]
    return sorted({word for text in texts for word in text.replace("{p}", "").replace("{m}", "").split()})


# The tokenizer has one token per word, and Qwen3's chat format: `enable_thinking=False` pre-fills an
# empty think span, else the model opens the thought; thoughts of earlier turns are dropped.
CHAT_TEMPLATE = template("chat_template.jinja")
PAD, UNKNOWN, START, END = "<|endoftext|>", "<unk>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, UNKNOWN, START, END, THINK, END_THINK)
ROLES = ("system", "user", "assistant")


def token_table() -> dict[str, int]:
    """Token to id: special tokens, line breaks, roles, then the words in alphabetical order."""
    tokens = [*SPECIAL, "\n", "\n\n", *ROLES]
    tokens += [word for word in vocabulary() if word not in tokens]
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer():
    """A tokenizer that any Hugging Face code can use; unknown words become ``<unk>``."""
    core = Tokenizer(models.WordLevel(token_table(), unk_token=UNKNOWN))
    # What a reader types is read as the language writes it: no capitals, commas, exclamations.
    tidy = [normalizers.Lowercase(), normalizers.Replace("!", " ."), normalizers.Replace(",", " ")]
    core.normalizer = normalizers.Sequence(tidy)
    words = Regex(r"\n\n|\n|[a-z0-9']+|[^\sa-z0-9']")
    core.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    # kept in tokenizer_config.json: how rimkit knows which judge can read the replies
    known = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN, "language": "invented"}
    how = {"tokenizer_object": core, "padding_side": "left", "model_max_length": 256}
    tokenizer = PreTrainedTokenizerFast(**how, **known)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
