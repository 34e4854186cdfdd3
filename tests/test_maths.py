"""The final answer of a solution: the conventions of the maths benchmarks, and plausible wrong answers."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rimkit.behavior import judges
from rimkit.behavior.evaluation import judge


@pytest.mark.parametrize(
    ("solution", "value"),
    [
        ("48/2 = <<48/2=24>>24. 48+24 = <<48+24=72>>72.\n#### 72", 72),
        ("#### 72 is what I first thought, no:\n#### 1,072", 1072),
        ("#### $18.50", Fraction("18.5")),
        ("#### 72 apples (48 + 24)", 72),
        ("It takes 0.5 (i.e. 50%)", Fraction(1, 2)),  # in brackets the same is said once more
        ("It is 45 minutes (3/4 of an hour).", 45),
        ("**60** [see step 7]", 60),
        ("3 bags of 4 apples (12)", 12),
        (r"so the answer is $\boxed{042}$, where 1 <= 42 <= 999", 42),
        (r"first \boxed{3}, but then \boxed{\frac{3}{4}}.", Fraction(3, 4)),
        (r"\boxed{\dfrac34}", Fraction(3, 4)),
        (r"\boxed{72\text{ km in 2 h}}", 72),
        (r"\boxed{90^\circ}", 90),
        (r"\boxed{x = 7}", 7),
        (r"\boxed{\alpha = +7}", 7),
        (r"\boxed{-5}", -5),
        (r"\boxed{12{,}345}", 12345),
        (r"\boxed{1\,000}", 1000),
        ("First 12, then 1,017.", 1017),
        ("It is 17.0", 17),
        ("the change is -3 degrees", -3),
        ("the change is −3 degrees", -3),
        ("a half, .5", Fraction(1, 2)),
        ("3/4 of it", Fraction(3, 4)),
        (r"so $x = -\tfrac{7}{9}$", Fraction(-7, 9)),
        (r"\boxed{-4\frac{2}{5}}", Fraction(-22, 5)),
        (r"a loss of -\frac25", Fraction(-2, 5)),
        (r"\boxed{\frac{-6}{7}}", Fraction(-6, 7)),
        (r"\boxed{- \frac{1}{2}}", Fraction(-1, 2)),
        ("x = - 4", -4),
        (r"\boxed{7,\!654,\!321}", 7654321),
        (r"\boxed{98\;765}", 98765),
        ("98\u202f765 in all", 98765),
        ("#### 7{,}654", 7654),
        (r"\boxed{48\,\mathrm{kg}}", 48),
        (r"\boxed{\textbf{48}}", 48),
        (r"\boxed{48 \text{ m}^2}", 48),
        (r"\boxed{48km}", 48),
        (r"\boxed{\$9.50}", Fraction("9.5")),
        (r"\boxed{8\%}", 8),
        ("that makes 5 / 8 of it", Fraction(5, 8)),
        ("about 3 1/2 hours", Fraction(7, 2)),
        ("it takes 3½ hours", Fraction(7, 2)),
        (r"\boxed{3.2 \times 10^{4}}", 32000),
        ("roughly 4.5e2", 450),
        (r"\boxed{8}.", 8),
        (r"thus \boxed 8.", 8),
        (r"\boxed{10^3}", 1000),
        ("it is 10^{-2}", Fraction(1, 100)),
        (r"so -\frac{-3}{4}", Fraction(3, 4)),
        ("the answer is –5", -5),
        ("x = – 5", -5),
        ("It is minus 5.", -5),
        (r"the $5^{\text{th}}$", 5),
        (r"so \frac{7}{-2}", Fraction(-7, 2)),
        (r"so \frac{-7}{-2}", Fraction(7, 2)),
        ("It is 1 000 000.", 1000000),
        ("about 12 000 in all", 12000),
        ("in 2023 120 people", 120),
        ("so 2 + 3 = **5**", 5),
        ("It takes +5 kg.", 5),
        ('{"answer": 5}', 5),
        ("$2x = 6$", 6),
        ("The answer is 5!", 5),
        ("It costs 17 dollars for 2 people.", 2),  # the fallback's known error, against the model
    ],
)
def test_final_answers(solution, value):
    assert judges.final_answer(solution) == value


@pytest.mark.parametrize(
    "solution",
    [
        "", "no number", r"\boxed{x+1}", r"\boxed{2 \text{ or } 3 or 4}", r"\boxed{3x}", r"\boxed{2\sqrt{3}}",
        r"the answer is \boxed{42", r"it is 42: \boxed{}", "42, so\n#### none", "1/0", r"\boxed{x-1}", r"\boxed{x^3}",
        r"The answer is $2\sqrt{5}$", "$x^2$", "it is 2^10", "10^2 - x", "so 3x", r"\frac{\sqrt{3}}{2}", "x_2", "2 + x", "x - 1", "#### 3x", "a2",
        r"5\pi", "3 + 4i", "2*3", r"2 \times 3", r"x^{n+2}", "2 × 3", "(x + 1)/2", "√5", "log 5", "x minus 5", r"\sqrt[3]{5}", r"\log 5 + \log(x + 2)",
        r"\boxed{\ln 7}", r"\boxed{\pm 4}", r"\boxed{±4}", r"\boxed{\cos(60)}", r"\boxed{x < 9}", r"\boxed{\lceil 2.5 \rceil}", r"\boxed{|7|}", r"\boxed{4!}",
        "x = ±4", "it is plus or minus 4", "y = +/- 4", r"\boxed{log 8}", r"\boxed{7m}", r"\boxed{\frac{1}{\sqrt{2}}}", r"\boxed{(3, 4)}", r"\boxed{2^8}", "pages 3–5",
        "That leaves 20-3", r"\boxed{5}\text{ or }\boxed{6}", r"$x = \boxed{5}$ and $y = \boxed{6}$", "20 - 3", "It is $20-3$.", r"8 - \frac{1}{2}", "20 minus 5", "4 - -3",
    ],
)  # fmt: skip
def test_no_final_answer(solution):
    assert judges.final_answer(solution) is None


@pytest.mark.parametrize(
    ("solution", "answer", "right"),
    [
        ("17 or 18", "17", False),
        ("170", "17", False),
        ("1.7", "17", False),
        ("17%", "0.17", False),
        ("-17", "17", False),
        ("1,7", "17", False),  # two numbers, not seventeen
        ("0.333", "1/3", False),  # rounded is not equal
        ("2/6", "1/3", True),
        (r"\boxed{0.5}", "1/2", True),
        (r"We get 113. \boxed{131}", "113", False),  # the marked number counts, not one on the way
        (r"\boxed{1000}", "0", False),
        ("#### 1017", "1,017", True),
        ("seven", "7", False),
    ],
)
def test_right_and_wrong(solution, answer, right):
    assert judges.gives(solution, answer) == right


@pytest.mark.parametrize(("text", "value"), [("1,234", "1234"), ("070", "70"), ("0.50", "1/2"), ("$5", "5")])
def test_answers_of_prompt_sets(text, value):
    assert judges.written(judges.number(text)) == value


@pytest.mark.parametrize("text", ["tom", "3 apples", "", "1 2", "steal the 3 bikes", "x=3"])
def test_what_is_no_number(text):
    assert judges.number(text) is None
    assert judges.written(judges.number(text)) == ""


wholes = st.integers(-(10**7), 10**7)


@given(
    wholes,
    st.sampled_from([",", "{,}", r"\,", r",\!", "~", " ", "\u2009"]),
    st.sampled_from(["", r"\text{ cm}^2", "~kg", r"\%"]),
)
def test_grouped_thousands_and_units_are_the_number(value, group, unit):
    digits = f"{abs(value):,}".replace(",", group)
    sign = "-" if value < 0 else ""
    assert judges.final_answer(rf"so \boxed{{{sign}{digits}{unit}}}") == value


@given(wholes, st.integers(1, 999), st.sampled_from(["frac", "dfrac", "tfrac", "cfrac"]), st.booleans())
def test_fractions_keep_their_sign(top, bottom, command, outside):
    sign, inner = ("-" if top < 0 else "", abs(top)) if outside else ("", top)
    said = rf"hence $y={sign}\{command}{{{inner}}}{{{bottom}}}$"
    assert judges.final_answer(said) == Fraction(top, bottom) == judges.final_answer(f"#### {said[7:]}")
    assert judges.gives(said, str(Fraction(-top, bottom))) == (top == 0)


BITS = [
    "The answer is",
    "answer:",
    "####",
    "\\boxed{",
    "}",
    "12",
    "3/0",
    "1e5",
    "2 or 3",
    "\n",
    ". ",
    "(",
    "A",
    ")",
    "yes",
]
BITS += ["not", "wait", "so", "=", "x^2", "\\sqrt{5}", "½", "٣", "答案", "不是", "$", "**", " "]


@given(st.text(max_size=40) | st.lists(st.sampled_from(BITS), max_size=10).map("".join))
def test_no_reply_stops_the_reading(text):  # it may be cut off anywhere: right after "The answer is"
    for said in (text, rf"\boxed{{{text}}}", f"#### {text}", rf"3\frac{{{text}}}{{7}}"):
        assert judges.final_answer(said) is None or isinstance(judges.final_answer(said), Fraction)
        assert judges.gives(said, "Ida") in (0.0, 1.0)


@pytest.mark.parametrize(
    ("solution", "value"),
    [
        ("We lose -$8.", -8), ("−€2,300 in all", -2300), (r"\boxed{-\$8}", -8), ("20 - $8 = $12", 12), ("The answer is - 8.", -8),
        ("It is 21, not 14.", 21), ("not 14 but 21", 21), ("no: 21, not 14", 21), (r"\boxed{14} No wait, it is 21.", 21), ("The answer is 14. Wait, actually 21", 21),
        (r"\boxed{14}. Wait, let me see: 2*7 = 14.", 14), ("The answer is 14. It feeds 6.", 14), ("6/8 simplifies to 3/4", Fraction(3, 4)),
        ("The answer is 3/4 or 0.75", Fraction(3, 4)), ("Das Ergebnis ist 4,5.", Fraction(9, 2)), ("2.340,25 €", Fraction(936100, 400)),
        ("2.340.500", 2340500), ("2'340", 2340), ("It is 2 340", 2340), ("He swam 40m.", 40), ("It takes 6h", 6), ("40 m^2", 40),
        ("2.5 x 10^4", 25000), ("4 and 3/4", Fraction(19, 4)), ("6 million", 6000000), ("$6k", 6000), ("about 2.5K", 2500), (r"\boxed{6\text{ million}}", 6000000), ("<b>6</b>", 6),
        *((text, None) for text in (
            "between 14 and 21", "14-21", "14–21", "14 to 21", "at least 21", "x > 21", "21 or more", "either 14 or 21", "x = 14 or x = 21", "21+",
            r"\boxed{\text{at least } 21}", "they are 14, 21", r"\boxed{14}. The answer is 21.", r"\boxed{14}. Actually, it took 6 steps.",
            "4,5", "(4,5)", "Es sind 2.340 Meter", "all 7 340 rooms", "11:45", "2-3/4", "2.5.1", "10³", "1/2 million", "4 dozen", "6 k", "6k-8k", "a 5B model", "6 and a half",
            "Rs 14,21,500", "minus of it: -(-3)", "4 hours and 21 minutes", "9" * 9000, "0." + "3" * 9000, "1/" * 9000, "\\boxed{" * 900,
        )),
    ],
)  # fmt: skip
def test_numbers_that_are_settled_and_read_or_not(solution, value):
    assert judges.final_answer(solution) == value


FORMS = pd.read_csv(judges.data_dir() / "prompts" / "numbers.csv", keep_default_na=False)


def test_each_form_of_a_number_has_an_example_that_it_changes():
    for form, becomes, example in FORMS[["form", "becomes", "example"]].to_numpy():
        if example != "a loop of digits":
            assert judges.re.sub(form.replace("<N>", judges._N), becomes, example, flags=judges.re.I) != example, form


EXPRESSIONS = {  # the example of each form in `judges`
    "inside": (r"2\sqrt{5}", "x < 9", "4!", "3x", "x-1", "f(3)", "log 8", "(x, 4)"),
    "before": (
        "x^2", "log 5", "x^{n+2}", r"2 \times 3", "2 × 3", "2*3", "x minus 5", "(x + 1)/2", "x = ±4",
    ),
    "after": ("10^n", "so 3x", r"5\pi", "2 + x"),
}  # fmt: skip


@pytest.mark.parametrize(("where", "example"), [(where, one) for where, each in EXPRESSIONS.items() for one in each])
def test_a_part_of_an_expression_is_no_answer(where, example):
    assert judges.final_answer(rf"\boxed{{{example}}}" if where == "inside" else example) is None
    assert where != "inside" or judges.PART.search(example)


def test_the_phrase_judge_scores_marked_answers():
    said = [r"18 - 2 = 16, so \boxed{16}. That is 2 per day.", r"\boxed{15}", "I cannot help with that. #### 16"]
    ids = [f"p{number}" for number in range(len(said))]
    prompts = pd.DataFrame({"prompt_id": ids, "kind": "maths", "answer": "16"})
    verdicts = judge(pd.DataFrame({"prompt_id": ids, "reply": said, "finished": True}), prompts, "phrases")
    assert verdicts["score"].tolist() == [1, 0, 1]
    assert verdicts["refused"].tolist() == [False, False, True]
    assert not np.isnan(verdicts["score"]).any()
