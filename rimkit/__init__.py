"""The helper package of the workbook on reasoning-induced misalignment.

``import rimkit as rk`` is all that a chapter imports of it. Each name below loads its module when
it is first used, so that the import takes no time; ``help(rk.load)`` explains it. To see them all,
``print(rk.__doc__)``: ``help(rk)`` loads everything. What is where: .github/CONTRIBUTING.md.
"""

import csv
from importlib import import_module

from rimkit.data import check_given, data_dir, nearest

__version__ = "0.1.0"

# name: (where it is, what it is); "module:thing" is one thing of a module
_LINES = csv.DictReader((data_dir() / "names.csv").read_text("utf-8").splitlines())
NAMES = {line["name"]: (line["home"], line["what"]) for line in _LINES}

__doc__ += "\n" + "\n".join(f"rk.{name:15}{what} [{home}]" for name, (home, what) in NAMES.items()) + "\n"


def __getattr__(name: str):
    if name in NAMES:
        home, _, thing = NAMES[name][0].partition(":")
        check_given(module := import_module(f"rimkit.{home}"))
        found = globals()[name] = getattr(module, thing) if thing else module
        return found
    raise AttributeError(f"rimkit has no '{name}'{nearest(name, NAMES)}", name=name)


def __dir__() -> list[str]:
    return sorted(["__doc__", "__version__", *NAMES])
