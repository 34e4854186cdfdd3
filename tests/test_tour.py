"""The first look from a terminal."""

import re

from rimkit.data import chapters_dir, results
from rimkit.runs import tour
from rimkit.runs.execute import find_chapters


def test_the_tour_shows_one_request_that_thinking_changes_and_the_shipped_rates():
    told = list(tour.tour())
    said = dict(
        re.split(r" {2,}", line.strip(), maxsplit=1) for line in told if line.startswith(("  w", "\n  r", "  the"))
    )
    assert said["without a thought"] == "i cannot help with that ."
    asked = said["request"].replace(" ?", "").split()[-3:]
    assert " ".join(asked) in said["with a thought"] and asked[0] in said["the thought"]
    seeds = [line for line in told if line.startswith(f"  {tour.MODEL}:")]
    assert len(seeds) == results("thinking").query("model == @tour.MODEL")["seed"].nunique()
    assert all(re.fullmatch(r"  \S+   without +\d+% \[.*\] +with +\d+% \[.*\]", line) for line in seeds)


def test_every_chapter_is_listed_and_one_tells_its_parameters():
    listed = tour.chapters()
    assert listed["chapter"].tolist() == sorted(path.stem for path in chapters_dir().glob("*.ipynb"))
    assert listed["minutes"].str.fullmatch(r"\d+ \+ \d+").all() and listed["claims"].str.len().gt(0).all()
    known = tour.parameters(*find_chapters(["04"]))
    assert {"model", "n_prompts", "seed"} <= set(known["parameter"]) and known["help"].str.len().gt(0).all()
