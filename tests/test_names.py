"""The front door: every name leads somewhere, is documented, and costs nothing until it is used."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import rimkit as rk


@pytest.mark.parametrize("name", rk.NAMES)
def test_a_name_is_what_its_home_holds(name):
    home, _, thing = rk.NAMES[name][0].partition(":")
    module = import_module(f"rimkit.{home}")
    assert getattr(rk, name) is (getattr(module, thing) if thing else module)
    assert getattr(rk, name).__doc__.strip()


def test_the_table_is_the_help():
    for name, (_, what) in rk.NAMES.items():
        assert f"rk.{name:15}{what} [" in rk.__doc__
        assert len(f"rk.{name:15}{what}") <= 100
    assert len(rk.NAMES) <= 42


def test_names_are_listed_and_completed():
    assert set(rk.NAMES) <= set(dir(rk))
    shell = InteractiveShell()
    shell.user_ns["rk"] = rk
    with provisionalcompleter():
        assert [found.text.strip(".") for found in shell.Completer.completions("rk.ne", 5)] == ["neurons"]


def test_an_unknown_name_is_one_line_with_the_nearest():
    with pytest.raises(AttributeError, match=r"rimkit has no 'probe'; did you mean 'probes'\?"):
        _ = rk.probe
    assert not hasattr(rk, "nothing_like_it")


def test_the_import_is_quick():
    code = "from time import process_time as now; a = now(); import rimkit; print(now() - a)"
    times = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)]
    assert min(times) < 0.3


def test_no_name_hides_a_part_of_the_package():
    """``rk.paper`` is the package ``rimkit.paper``, whether that was imported before or not."""
    parts = {path.stem for path in Path(rk.__file__).parent.iterdir() if path.suffix in ("", ".py")}
    assert {name for name, (home, _) in rk.NAMES.items() if name in parts and home != name} == set()
