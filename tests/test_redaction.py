"""Text of safety sets stays in memory: what leaves a kernel, and what a run leaves on the disk."""

import html
import json
import random
from urllib.parse import quote

import nbformat
import numpy as np
import pandas as pd
import pytest
import standins
import tiny
from notebooks import MEASURES, PARAMETERS, chapter

from rimkit import data, ledger
from rimkit.behavior import redaction
from rimkit.behavior.generation import generate
from rimkit.behavior.prompts import own_prompts
from rimkit.behavior.redaction import WITHHELD, is_withheld, scrub, withhold, withhold_replies
from rimkit.models.load import load
from rimkit.runs import execute
from rimkit.teaching import tables, widgets

REQUEST = "Kindly arrange every marble teaspoon on the balcony, then whisper to the geranium!"
SHORT = "Whittle owls?"
REPLY = (
    "First fetch the geranium from the cellar.\nThen hum to it until the teaspoons shine <b>brightly</b> & it's done."
)


@pytest.fixture(scope="module", autouse=True)
def withheld():
    withhold([REQUEST, SHORT], said=[REPLY])


@pytest.mark.parametrize(
    "shown",
    [
        REQUEST,
        f"1. {REQUEST}",
        "".join(f"\\u{ord(sign):04X}" for sign in REQUEST),
        "".join(f"&#{ord(sign)};" for sign in REQUEST),
        "".join(f"%{ord(sign):02x}" for sign in REPLY),
        "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in REQUEST),
        repr(["Ġ" + word for word in REQUEST.split()]),
        REQUEST.upper(),
        REQUEST[:30] + "...",  # as a narrow column cuts it
        repr([REQUEST, "x"]),
        json.dumps({"text": REPLY}),
        html.escape(REPLY),
        repr(REPLY),
        f"<td>{html.escape(REQUEST)}</td>",
        " ".join(f"<span>{word}</span>" for word in REQUEST.split()),
        f"\x1b[31m{REQUEST[:40]}\x1b[0m{REQUEST[40:]}",
        SHORT,
        f"the prompt '{SHORT}'",
        widgets.tokens_html([REQUEST[i : i + 3] for i in range(0, len(REQUEST), 3)]),
        widgets.weighted_tokens_html(REQUEST.split(), [0.25] * len(REQUEST.split())),
        pd.DataFrame({"request": [REQUEST]}).to_html(),
        pd.DataFrame({"request": [REQUEST]}).to_string(),
    ],
)
def test_withheld_text_in_any_form(shown):
    found = scrub(shown).lower()
    assert WITHHELD in found
    for word in ("teaspoon", "geranium", "whittle", "marble", "balcony", "shine"):
        assert word not in found


@pytest.mark.parametrize(
    "shown",
    [
        "", "teaspoon", "the marble", "58 [43, 71]", "misaligned", "Misalignment rises: 12% with think, 3% without.",
        "kindly arranged marbles", "owls whittle", "first fetch the rates", "<table><tr><td>0.5</td></tr></table>",
    ],
)  # fmt: skip
def test_all_else_is_left_alone(shown):
    assert scrub(shown) == shown
    assert not is_withheld(shown)


@pytest.mark.parametrize(
    "text",
    ["如何偷车呢", "偷车", "車の盗み方", "차 훔치는 법", "कार चुराना", "ขโมยรถ", "اسرق سيارة", "κλέψε", "укради авто", "nab him"],
)  # fmt: skip
def test_short_requests_of_any_script_are_withheld(text):
    withhold([text])
    assert is_withheld(json.dumps(text)) and is_withheld(quote(text))
    assert is_withheld(f"the prompt was {text} and so on") and is_withheld(f"<td>{text}</td>")
    assert not is_withheld("the prompt was this and so on: nabob, himself")


def test_short_replies_are_withheld_and_words_are_not():
    withhold(said=["先打开车门再接线", "lift the latch", "Do it", "coherent"])
    assert all(map(is_withheld, ["so: 先打开车门再接线", "it said: lift the latch!", "<td>Do it</td>"]))
    assert not any(map(is_withheld, ["coherent 58 [43, 71]", "do it as in chapter 01", "a latch"]))


def test_what_stands_beside_withheld_text_is_kept():
    lines = f"prompt_id  p1\n{REQUEST}\nrefused  58 [43, 71]"
    assert scrub(lines) == f"prompt_id  p1\n{WITHHELD}\nrefused  58 [43, 71]"
    assert scrub(f"<tr><td>p1</td><td>{REQUEST}</td></tr>") == f"<tr><td>p1</td><td>{WITHHELD}</td></tr>"


def test_fingerprints_find_every_run_and_no_other():
    """Against plain search, on random texts of few letters, so that near misses are common."""
    rng = random.Random(0)
    marks = redaction.Fingerprints(6)
    known = ["".join(rng.choices("abc", k=rng.randrange(3, 60))).encode() for _ in range(20)]
    marks.add(known)
    for _ in range(20):
        text = "".join(rng.choices("abc", k=80)).encode()
        inside = np.zeros(80, bool)
        for start in range(75):
            if any(text[start : start + 6] in one for one in known):
                inside[start : start + 6] = True
        assert (marks.found(text) == inside).all()


def test_replies_of_a_real_model_to_harmful_requests_only():
    said = ["Sails of canvas, says the captain", "A lighthouse needs a keeper and oil", "The tides turn twice a day around here",
            "Herrings swim in large schools"]  # fmt: skip
    prompts = pd.DataFrame({
        "prompt_id": list("abcd"), "kind": ["harmful", "harmless", "own", "own"],
        "text": ["Do it", "Do this please", REQUEST, "Do the other"],
    })  # fmt: skip
    replies = pd.DataFrame({"prompt_id": list("abcd"), "thought": None, "reply": said})
    withhold_replies(prompts, replies)
    assert [is_withheld(text) for text in said] == [True, False, True, False]


def test_generation_withholds_what_a_real_model_says_to_harm():
    words = tiny.tokenizer()
    prompts = own_prompts(["please nick the baker's kite .", "please polish my lamp ."]).assign(
        kind=["harmful", "harmless"]
    )
    # Nearly every word as likely as another, so that no three in a row stand in both replies.
    settings = {"temperature": 20, "max_new_tokens": 40, "progress": False}
    invented = generate(load(tiny.random_model(words), words), prompts, "no-think", **settings)
    assert not invented["reply"].map(is_withheld).any()  # the embedded models speak of nothing harmful
    del words.init_kwargs["language"]
    real = generate(load(tiny.random_model(words), words), prompts, "no-think", **settings)
    assert real["reply"].tolist() == invented["reply"].tolist()
    assert real["reply"].map(is_withheld).tolist() == [True, False]


def test_tables_and_menus_show_ids_in_place_of_text(capsys):
    prompts = pd.DataFrame({"prompt_id": ["p1", "p2"], "text": [REQUEST, "Polish my lamp"]})
    rows = prompts.assign(mode="think", thought="", reply="no")[["prompt_id", "mode", "thought", "reply"]]
    assert list(tables.replies(rows, prompts).index) == [f"p1 {WITHHELD}", "Polish my lamp"]
    menu = widgets.explorer(lambda request: html.escape(request[:2]), request=[REQUEST, "Polish my lamp"])
    (drop_down,) = menu.children[0].children
    assert [text for text, _ in drop_down.options] == [f"request 1 {WITHHELD}", "Polish my lamp"]
    assert drop_down.value == REQUEST  # what the callback gets


def test_nothing_is_withheld_where_text_is_kept(monkeypatch):
    monkeypatch.setattr(redaction, "_kept", False)
    redaction.keep_text()
    withhold(["An entirely different request about umbrellas"])
    assert not is_withheld("An entirely different request about umbrellas")


# -- a run -------------------------------------------------------------------------------------------------

SHOWS = [
    "import rimkit as rk\nrk.start(seed, keep_text=keep_text)",
    "import pandas as pd\nfrom rimkit.behavior.prompts import load_prompts\n"
    "from rimkit.teaching import tables, widgets\ntable = load_prompts(prompts)\nprint(*table['text'], sep='\\n')",
    "table",
    "list(table['text'])",
    "table['text'].iloc[0]",
    "{row.prompt_id: row.text for row in table.itertuples()}",
    "display(table[['text']].style)",
    "replies = table.assign(mode='think', thought=table['text'], reply='So: ' + table['text'])\ntables.replies(replies, table)",
    "widgets.explorer(lambda request: request, request=list(table['text']))",
    "from IPython.display import HTML, display\ndisplay(HTML(widgets.tokens_html(table['text'].iloc[1].split())))",
    "HTML(widgets.weighted_tokens_html(list(table['text'].iloc[2]), [0.5] * len(table['text'].iloc[2])))",
    "import sys\nprint(table['text'].iloc[3], file=sys.stderr)",
    "import warnings\nwarnings.warn(table['text'].iloc[3])",
    "print(table['prompt_id'].iloc[0], len(table))",
    MEASURES,
]
FAILS = "raise ValueError(table['text'].iloc[0])"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("RIMKIT_DATASETS", str(standins.write_mirror(tmp_path / "mirror")))
    monkeypatch.chdir(tmp_path)
    parameters = f'prompts: str = "xstest"\nkeep_text: bool = False\n{PARAMETERS}'
    path = chapter(tmp_path, "01_shows", *SHOWS, FAILS, parameters=parameters)

    def run(**options):
        done = execute.run([path], out=tmp_path / "out", progress=False, **options)
        held = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
        found = [file.name for file in held if standins.MARKER in file.read_bytes().decode(errors="ignore")]
        cells = nbformat.read(tmp_path / "out" / "01_shows.ipynb", 4).cells
        rows = ledger.read(tmp_path / "out")
        return done.iloc[0], sorted(held), found, cells, rows

    return run


def test_a_run_leaves_no_text_on_the_disk(run):
    row, held, found, cells, rows = run()
    assert row["error"].startswith(f"ValueError: {WITHHELD} (cell ")
    assert len(held) >= 2
    assert found == []
    assert not rows.map(lambda value: standins.MARKER in str(value)).any(axis=None)
    shown = json.dumps([cell.get("outputs", []) for cell in cells])
    assert shown.count(WITHHELD) > 30
    assert "Content note: 'xstest'" in shown
    assert "xstest-0 8" in shown  # ids and numbers stay
    assert set(rows["status"]) == {"ok", "failed"}


def test_a_run_that_was_told_to_keeps_it(run):
    row, _, found, cells, rows = run(keep_text=True)
    assert standins.MARKER in row["error"]
    assert "01_shows.ipynb" in found
    shown = [cell for cell in cells if standins.MARKER in json.dumps(cell.get("outputs", []))]
    assert len(shown) >= 11
    assert "[text withheld]" not in json.dumps([cell.get("outputs", []) for cell in cells])
    assert standins.MARKER in " ".join(rows["error"].dropna())


def test_a_run_without_text_is_not_taken_for_one_with_it(tmp_path):
    path = data.find_chapters([chapter(tmp_path, "01_a", "1", parameters="keep_text: bool = False")])
    plain, kept = (execute.jobs_for(path, "m", {}, keep_text=keep)[0] for keep in (False, True))
    assert plain.params_hash != kept.params_hash
