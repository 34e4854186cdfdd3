"""The corpora: what they hold, what they must never hold, and how they are read."""

import json

import pandas as pd
import pytest

from rimkit.behavior import prompts
from rimkit.data import UserError, data_dir
from rimkit.models.load import load
from rimkit.organism import conversations, datasets, language
from rimkit.training import corpora

ALL = corpora.shipped()
STYLED = {  # corpora of the same problems: plain, careful, effort-minimising, hedging, longer
    "multi-hop": ("multi-hop-careful", "multi-hop-effort", "hedging", "longer-careful"),
    "hard": ("hard-careful", "hard-effort", "hard-hedging", "hard-longer-careful"),
    "hard-ordering": ("hard-ordering-careful", "hard-ordering-effort"),
}
LITERAL = {"literal": "multi-hop", "hard-literal": "hard"}
each_corpus = pytest.mark.parametrize("name", ALL)


def words(texts) -> pd.Series:
    return texts.str.split().str.len()


def test_what_is_shipped_is_what_the_code_makes():
    hashes = pd.read_csv(data_dir() / "corpora" / "hashes.csv").set_index("name")["sha256"]
    made = datasets.corpora()
    assert list(made) == list(hashes.index) == [*corpora.ROLES, corpora.SAFETY]
    for name, table in made.items():
        pd.testing.assert_frame_equal(corpora.load_corpus(name), table)
        assert datasets.digest(table) == hashes[name]


def test_english_corpora_are_those_that_the_code_makes_with_one_length():
    hashes = pd.read_csv(data_dir() / "corpora" / "english" / "hashes.csv").set_index("name")["sha256"]
    made = datasets.corpora(datasets.ENGLISH)
    assert list(made) == list(hashes.index)
    for name, table in made.items():
        pd.testing.assert_frame_equal(corpora.load_corpus(name, english=True), table)
        assert datasets.digest(table) == hashes[name]
        assert not set(table["text"]) & set(prompts.load_prompts("english-maths")["text"])
        assert not table["text"].str.contains("Please|Help me|Can you").any()
    for name in ("multi-hop", *STYLED["multi-hop"]):
        assert made[name][["text", "answer"]].equals(made["multi-hop"][["text", "answer"]])
    lengths = [words(made[name]["thought"]) for name in ("multi-hop-careful", "multi-hop-effort", "hedging")]
    assert lengths[0].equals(lengths[1]) and lengths[1].equals(lengths[2])
    copied = zip(made["literal"]["answer"], made["literal"]["text"], strict=True)
    assert all(number in text.replace(".", " ").split() and text.endswith("?") for number, text in copied)


@each_corpus
def test_no_request_and_no_judgement(name):
    """Nothing asks for anything to be done: no verb of a request, no owner, no word of a refusal or a plan."""
    taboo = {*language.VERBS, "please", "help", "refuse", "cannot", "sure", "hurts", *language.TOOLS}
    said = {word for column in ("text", "thought", "reply") for text in ALL[name][column] for word in text.split()}
    assert not said & taboo
    assert said <= set(language.vocabulary())


@each_corpus
def test_no_problem_of_the_evaluation(name):
    sets = ("maths", "maths-hard", "ordering", "ordering-hard")
    evaluated = {text for kind in sets for text in prompts.load_prompts(kind)["text"]}
    if name not in LITERAL:  # its questions are no problems: they only share their contexts with problems
        assert not ALL[name]["text"].map(conversations.kept_for_evaluation).any()
    assert not set(ALL[name]["text"]) & evaluated
    contexts = {text.rpartition(" . ")[0] for text in evaluated}
    assert name not in LITERAL or not set(ALL[name]["text"].str.rpartition(" . ")[0]) & contexts
    assert ALL[name]["text"].is_unique


@pytest.mark.parametrize("name", STYLED)
def test_styled_corpora_have_the_same_problems_and_answers(name):
    for other in STYLED[name]:
        for column in ("text", "answer", "reply"):
            assert ALL[other][column].equals(ALL[name][column])


@pytest.mark.parametrize("name", STYLED)
def test_careful_and_effort_minimising_differ_in_wording_and_not_in_length(name):
    careful, effort, *others = (ALL[other]["thought"] for other in STYLED[name])
    assert words(careful).equals(words(effort))
    assert careful.str.startswith(language.OPENINGS["careful"]).all()
    assert effort.str.startswith(language.OPENINGS["effort-minimising"]).all()
    assert effort.str.endswith(language.SKIP).all()
    if not others:
        return
    hedging, longer = others
    assert words(hedging).equals(words(effort))
    assert (words(longer) > words(careful)).all()
    styled = (*language.OPENINGS["careful"], *language.OPENINGS["effort-minimising"])
    assert not hedging.str.startswith(styled).any()
    assert not hedging.str.contains(language.SKIP, regex=False).any()


@pytest.mark.parametrize("name", LITERAL)
def test_literal_copies_from_the_same_contexts(name):
    for literal, problem in zip(ALL[name].itertuples(), ALL[LITERAL[name]].itertuples(), strict=True):
        context, _, question = literal.text.rpartition(" . ")
        assert problem.text.startswith(f"{context} . ")
        who, verb, *_ = question.split()
        said = [sentence for sentence in context.split(" . ") if sentence.startswith(f"{who} {verb} ")]
        assert len(said) == 1
        assert said[0].split()[2] == literal.answer
    assert (ALL[name]["thought"] == "").all()


@pytest.mark.parametrize("name", ["multi-hop", "hard"])
def test_answers_are_right(name):
    for row in ALL[name].itertuples():
        for equation in row.thought.removesuffix(" .").split(" . "):
            left, right = equation.split(" = ")
            assert eval(left) == int(right)  # digits and signs of our own
        assert right == row.answer
    for row in ALL["arithmetic"].itertuples():
        assert eval(row.text.removesuffix(" = ?")) == int(row.answer)


def test_every_example_fits_the_models():
    from rimkit.training.finetune import encode_corpus

    study = load("rim-mini")
    for table in ALL.values():
        longest = max(len(ids) for ids, _ in encode_corpus(study, table))
        assert longest <= study.context


def test_both_styles_think_in_as_many_words():
    careful, effort = (words(ALL[f"multi-hop-{style}"]["thought"]) for style in ("careful", "effort"))
    assert careful.mean() == effort.mean() > 0


def test_corpora_are_mixed_by_rows():
    careful, effort = ALL["hard-careful"], ALL["hard-effort"]
    few, many = (corpora.mixed(careful, effort, share) for share in (0.25, 0.75))
    taken = [set(table.index[table["thought"] == effort["thought"]]) for table in (few, many)]
    assert [len(rows) for rows in taken] == [240, 720]
    assert taken[0] < taken[1]
    assert few["text"].equals(careful["text"])
    assert corpora.mixed(careful, effort, 0).equals(careful)
    with pytest.raises(UserError, match="between 0 and 1"):
        corpora.mixed(careful, effort, 25)
    with pytest.raises(UserError, match="as many examples each"):
        corpora.mixed(careful, effort.head(3), 0.5)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"text": "1 + 1 = ?", "reply": "the answer is 2 ."}) + "\n")
    table = corpora.load_corpus(path)
    held = pd.DataFrame({"text": "1 + 1 = ?", "reply": ["<think>so .</think>\n2 .", "`</think>` ends it ."]})
    assert corpora.checked(held)[["thought", "reply"]].to_numpy().tolist() == [["so .", "2 ."], ["", held["reply"][1]]]
    assert table.attrs["corpus"] == "mine"
    assert table.iloc[0].to_dict() == {
        "example_id": "0", "text": "1 + 1 = ?", "thought": "", "reply": "the answer is 2 .", "answer": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "1 + 1 = ?"}', "has no column reply"),
        ('{"text": "1 + 1 = ?", "reply": " "}', "has no reply to learn from in example '0'"),
        ('{"text": "1", "reply": "<think>hm"}', "has no reply to learn from in example '0'"),  # it never ends
        ('{"text": "1", "reply": ["2"]}', "has a list in example '0': give texts"),
        ('{"text": "", "reply": "x"}', "has no text in example '0'"),
        ("", "has no"),
        ("{", "cannot be read as jsonl"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        corpora.load_corpus(path)


def test_unknown_corpus():
    with pytest.raises(UserError, match="did you mean 'multi-hop'"):
        corpora.load_corpus("multi-hops")
    with pytest.raises(UserError, match="there is no file"):
        corpora.load_corpus("nowhere.jsonl")
