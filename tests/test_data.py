"""Numbers as readers see them, tables that are kept, and shipped results by name."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pandas as pd
import pytest

from rimkit.data import MINE, UserError, interval, kept, number, p_value, percent, points, results, whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(-0.004), "0.00"), (number(-3.14159), "−3.14"), (number(12345.6, 0), "12,346"), (number(2, 1, signed=True), "+2.0"),
        (number(float("nan")), "–"), (number(None), "–"), (number(0.0, signed=True), "0.00"),
        (percent(0.173), "17"), (percent(0.0042), "0.4"), (percent(0.0001), "0"), (percent(None), "–"), (percent(0.173, 1), "17.3"),
        (points(0.123), "+12"), (points(-0.0042), "−0.4"), (points(0.123, 1), "+12.3"), (points(-0.0001), "0"),
        (interval(0.1, 0.24), "[10, 24]"), (interval(-0.1, 0.24, points), "[−10, +24]"), (interval(float("nan"), 1), ""),
        (p_value(0.0004), "< 0.001"), (p_value(0.0234), "0.023"), (p_value(0.4), "0.40"),
    ],
)  # fmt: skip
def test_numbers_in_words(text, expected):
    assert text == expected


def test_work_is_done_once_and_kept_whole(tmp_path):
    made = []

    def make() -> dict[str, pd.DataFrame]:
        made.append(len(made))
        return {"a": pd.DataFrame({"x": [1, 2]}), "b": pd.DataFrame({"y": ["z"]})}

    def fail() -> dict[str, pd.DataFrame]:
        raise OSError("interrupted")

    with pytest.raises(OSError, match="interrupted"):
        kept(tmp_path / "cell", fail)
    first, again = (kept(tmp_path / "cell", make) for _ in range(2))
    assert made == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["cell"]
    assert {name: table.to_dict("list") for name, table in again.items()} == {"a": {"x": [1, 2]}, "b": {"y": ["z"]}}
    assert set(first) == set(kept("", make)) == {"a", "b"}
    assert made == [0, 1]


def test_of_two_that_make_the_same_work_both_get_it(tmp_path):
    barrier = Barrier(2)

    def make() -> dict[str, pd.DataFrame]:
        barrier.wait(10)
        return {"a": pd.DataFrame({"x": range(9)})}

    for run in range(20):
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(kept, tmp_path / str(run), make) for _ in range(2)]
        assert [len(one.result()["a"]) for one in both] == [9, 9]


@pytest.mark.parametrize("damage", ["cut", "deleted", "replaced"])
def test_kept_tables_that_were_harmed_are_made_again(tmp_path, damage):
    made = []
    tables = {"a": pd.DataFrame({"x": [1, 2]}), "b": pd.DataFrame({"y": ["z"]})}

    def make() -> dict[str, pd.DataFrame]:
        made.append(damage)
        return tables

    kept(tmp_path / "cell", make)
    file = tmp_path / "cell" / "b.parquet"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif damage == "deleted":
        file.unlink()
    else:
        tables["a"].to_parquet(file)
    for _ in range(2):
        assert {name: table.to_dict("list") for name, table in kept(tmp_path / "cell", make).items()} == {
            "a": {"x": [1, 2]}, "b": {"y": ["z"]}
        }  # fmt: skip
    assert len(made) == 2


def test_what_is_written_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with whole(target) as one, whole(target) as other:  # two writers
        one.write_text("one")
        other.write_text("other")
        assert one != other and not target.exists()
    assert target.read_text() == "one"  # the last to end
    with pytest.raises(OSError, match="full"), whole(target) as partial:
        partial.write_text("half")
        raise OSError("disk full")
    with whole(tmp_path / "new") as partial:
        partial.mkdir()
        (partial / "a").write_text("a")
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "a"]


def test_what_a_killed_writer_left_goes_at_the_next_start(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, folder = (tmp_path / f".{name}{MINE}{gone.pid}-0abc.partial" for name in ("table.csv", "step-1"))
    left.write_text("half")
    (folder / "in").mkdir(parents=True)
    with whole(tmp_path / "other.csv") as running:
        running.write_text("x")
        (tmp_path / ".mine.partial").write_text("of somebody else")
        with whole(tmp_path / "table.csv") as partial:
            partial.write_text("whole")
        assert running.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"other.csv", "table.csv", ".mine.partial"}


def test_shipped_results_are_read_by_name():
    assert len(results("thinking"))
    with pytest.raises(UserError, match=r"unknown results 'thinkin'; did you mean 'thinking'"):
        results("thinkin")
