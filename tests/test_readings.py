"""Readings: words and numbers part company nowhere."""

from types import SimpleNamespace

import pandas as pd
import pytest

from rimkit.data import UserError
from rimkit.teaching.tables import CHANGES, SHARES, WordsAndNumbers, filled, our_reading

EFFECT = {"effect": 0.2, "ci_low": 0.1, "ci_high": 0.3}
OURS, OTHER = SimpleNamespace(name="rim-mini:1"), SimpleNamespace(name="Qwen3-4B")
TEXT = """Thinking {change:rises}: {think:about half} of the requests ({think:%}),
    {change:interval} points, over {n:count}."""


def test_a_reading_has_its_numbers_and_one_line_per_paragraph():
    said = our_reading(OURS, TEXT, change=pd.Series(EFFECT), think={"value": 0.5}, n=1200)
    assert said.text == "Thinking rises: about half of the requests (50%), +20 [+10, +30] points, over 1,200."
    assert "<details class=reading><summary><b>Our reading</b></summary><p>Thinking rises" in said._repr_html_()
    two = our_reading(OURS, "a {n:count}\n\n<b>", n=1)
    assert two._repr_html_().endswith("<p>a 1</p><p>&lt;b&gt;</p></details>")
    assert filled("{r:.1f} {r:.2f} {change:points}", {"r": 0.25, "change": EFFECT}) == "0.2 0.25 +20"
    assert filled("It {change:rises} by {change:points}", {"change": EFFECT}) == "It rises by 20"


def test_where_the_words_are_not_borne_out_the_numbers_stand_alone():
    plain = "The change is {change:interval} points."
    values = {"change": EFFECT | {"ci_low": -0.1}, "think": 0.5, "n": 4}
    assert our_reading(OURS, TEXT, plain, **values).text == "The change is +20 [−10, +30] points."
    assert our_reading(OURS, TEXT, **values) is None
    assert our_reading(OTHER, TEXT, plain, change=EFFECT, think=0.5, n=4).text.startswith("The change is")
    assert our_reading(OTHER, TEXT, change=EFFECT, think=0.5, n=4) is None


CASES = {  # words: a number that bears them out, and one that does not
    "rises": (EFFECT, EFFECT | {"ci_low": 0.0}), "falls": (EFFECT | {"ci_high": -0.1}, EFFECT),
    "does not clearly change": (EFFECT | {"ci_low": -0.1}, EFFECT), "none": (0, 0.01),
    "is higher": (EFFECT, EFFECT | {"ci_low": 0.0}), "is lower": (EFFECT | {"ci_high": -0.1}, EFFECT),
    "lies above zero": (EFFECT, EFFECT | {"ci_low": 0.0}), "lies below zero": (EFFECT | {"ci_high": -0.1}, EFFECT),
    "does not clearly differ": (EFFECT | {"ci_low": -0.1}, EFFECT), "wider than b": (0.6, 0.5),
    "hardly any": (0.04, 0.06), "few": (0.1, 0.3), "about a quarter": (0.25, 0.33), "about a third": (0.33, 0.5),
    "about half": (0.5, 0.6), "less than half": (0.4, 0.5), "more than half": (0.6, 0.5), "most": (0.7, 0.59),
    "nearly all": (0.95, 0.89), "all": (1.0, 0.99), "higher than b": (0.6, 0.5), "lower than b": (0.4, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("words", CASES)
def test_every_claim_is_held_to_its_number(words):
    template, (true, false) = "{a:" + words + "}", CASES[words]
    assert filled(template, {"a": true, "b": 0.5}) == words.removesuffix(" than b")
    with pytest.raises(WordsAndNumbers, match="which is not"):
        filled(template, {"a": false, "b": 0.5})
    assert set(CASES) > {*SHARES, *CHANGES}


@pytest.mark.parametrize(
    ("template", "words"),
    [("{b:%}", "no value 'b'"), ("{a:abuot half}", "did you mean 'about half'"), ("{a}", "'' is")],
)
def test_an_unknown_field_is_named(template, words):
    with pytest.raises(UserError, match=words):
        filled(template, {"a": 0.5})
