"""The first look from a terminal."""

import re
from pathlib import Path

import nbformat

from rimkit.data import find_chapters, results
from rimkit.runs import tour


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
    """In the order in which they are read, here, in the README and in the book."""
    listed = tour.chapters()
    assert listed["chapter"].str[:2].tolist() == ["00", "A1", "A2", *(f"{number:02}" for number in range(1, 11))]
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    shown = re.findall(r"\(chapters/(\w+)\.ipynb\) \| (.*?) \| (\d+) \|", readme)
    assert [row[:2] for row in shown] == [*zip(listed["chapter"], listed["question"], strict=True)]
    for path, minutes, (*_, read) in zip(find_chapters(), listed["minutes"], shown, strict=True):
        header = nbformat.read(path, as_version=4).cells[0].source
        assert "about {} minutes to read, {} more".format(*minutes.split(" + ")) in header
        assert minutes.startswith(f"{read} + ")
    known = tour.parameters(*find_chapters(["04"]))
    assert {"model", "n_prompts", "seed"} <= set(known["parameter"]) and known["help"].str.len().gt(0).all()
