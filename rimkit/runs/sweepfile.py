"""The file of a sweep: models x chapters x seeds x parameters, checked before anything runs.

    models: [rim-mini, ./my-model]      # as in `rimkit run --model`
    chapters: ["01", "03"]              # as in `rimkit run`; without it, all
    seeds: [0, 1, 2]                    # the chapters' parameter `seed`
    parameters:                         # further parameters; a list is swept over
      n_prompts: [46, 92]
    prompts: {harmful: hex-phi}         # as in `rimkit run --prompts`; the same for all cells
    judge: guard:./my-guard             # as in `rimkit run --judge`
    max_new_tokens: 4096                # as in `rimkit run --max-new-tokens`
    resources: {gpu: 1, mem_mb: 16000, runtime: 120}    # of one cell

A parameter goes to the chapters that declare it, and is no axis for the others. Everything that is wrong with the file
is said in one line that begins with its name and the line number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rimkit import __version__
from rimkit.behavior import chosen
from rimkit.errors import UserError, nearest
from rimkit.runs.execute import check_chat, find_chapters, find_model, plan
from rimkit.runs.parameters import Parameter, convert, declared_in

KEYS = ("models", "chapters", "seeds", "parameters", "prompts", "judge", "max_new_tokens", "resources")


@dataclass(frozen=True)
class Cell:
    """One run of one chapter on one model.

    ``id`` names its folder and ends in a hash of chapter, model, parameters and rimkit version, so that a change of any
    is another cell. ``varied``: the settings in which the cells of its model and chapter differ.
    """

    id: str
    chapter: str
    notebook: str
    model: str
    values: dict[str, Any]
    varied: dict[str, Any]
    options: tuple[str, ...] = ()  # further ones of `rimkit run`: prompt sets and judge

    @property
    def arguments(self) -> list[str]:
        """What `rimkit` is called with, but for the folder."""
        given = [text for name, value in self.values.items() for text in ("-p", f"{name}={value}")]
        return ["run", self.notebook, "--model", self.model, *given, *self.options, "--quiet"]

    @property
    def label(self) -> str:
        """The settings in words: "seed=1, n_prompts=46"; empty if there is nothing to tell apart."""
        return ", ".join(f"{name}={value}" for name, value in self.varied.items())


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep, and the resources that one of them needs."""

    cells: tuple[Cell, ...]
    resources: dict[str, int | str]


def read(path: str | Path) -> Sweep:
    """The sweep that a file describes; raises `UserError` (``file:line: what is wrong``) for one that cannot run."""
    return _Reader(Path(path)).sweep()


class _Reader:
    """Reads one file, keeping the place of everything in it, for the messages."""

    def __init__(self, path: Path):
        self.path = path
        self.entries = self._entries()

    def sweep(self) -> Sweep:
        notebooks = self._notebooks()
        models = [(self._at(node, find_model, node.value), node) for node in self._texts("models", required=True)]
        for model, node in models:
            self._at(node, check_chat, model)
        declared = {notebook: self._at(node, declared_in, notebook) for notebook, node in notebooks}
        axes, choice = self._axes(declared), self._choice()
        cells = [
            cell
            for (model, _), (notebook, node) in product(models, notebooks)
            for cell in self._at(node, list, _cells(model, notebook, axes, declared[notebook], *choice))
        ]
        return Sweep(tuple({cell.id: cell for cell in cells}.values()), self._resources())

    # -- parts of the file -----------------------------------------------------------------------------

    def _entries(self) -> dict[str, Any]:
        """The nodes of the file by key."""
        import yaml

        try:
            root = yaml.compose(self.path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {self.path} ({getattr(error, 'strerror', None) or error})") from error
        except yaml.YAMLError as error:
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "it cannot be read"
            line = mark.line + 1 if mark else 1
            raise UserError(f"{self.path}:{line}: this is not YAML: {' '.join(str(problem).split())}") from error
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{self.path}:1: a sweep is a mapping with the keys {', '.join(KEYS)}")
        return self._mapping(root, KEYS)

    def _mapping(self, node, known: Iterable[str] = ()) -> dict[str, Any]:
        import yaml

        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, "here a mapping (name: value) is needed")
        found = {}
        for key, value in node.value:
            name = str(key.value)
            if known and name not in known:
                self._wrong(key, f"unknown key '{name}'{nearest(name, known)}; there are: {', '.join(known)}")
            if name in found:
                self._wrong(key, f"'{name}' stands here a second time")
            found[name] = value
        return found

    def _list(self, node) -> list:
        """The items of a list; a single value is a list of one. Each comes with its own node."""
        import yaml

        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not items:
            self._wrong(node, "this list is empty")
        return items

    def _texts(self, key: str, required: bool = False) -> list:
        import yaml

        if key not in self.entries:
            if required:
                raise UserError(f"{self.path}:1: '{key}' is missing: a list, such as [rim-mini]")
            return []
        nodes = self._list(self.entries[key])
        for node in nodes:
            if not isinstance(node, yaml.ScalarNode) or not node.value:
                self._wrong(node, f"an item of '{key}' is a single word or number")
        return nodes

    def _notebooks(self) -> list[tuple[Path, Any]]:
        nodes = self._texts("chapters")
        if nodes:
            found = [(self._at(node, find_chapters, [node.value])[0], node) for node in nodes]
        else:
            found = [(notebook, self.entries.get("models")) for notebook in find_chapters()]
        return list({notebook: (notebook, node) for notebook, node in found}.values())

    def _axes(self, declared: dict[Path, dict[str, Parameter]]) -> dict[str, list]:
        """``{parameter: its values, as written}``; every value is checked against each chapter that declares it."""
        given = self._mapping(self.entries["parameters"]) if "parameters" in self.entries else {}
        nodes = ({"seed": self.entries["seeds"]} if "seeds" in self.entries else {}) | given
        known = sorted({name for parameters in declared.values() for name in parameters} - {"model", "ledger"})
        for name, node in nodes.items():
            if name == "seed" and "seeds" in self.entries and "seed" in given:
                self._wrong(given["seed"], "the seeds already stand under 'seeds'")
            if name not in known:
                there = ", ".join(known) or "none"
                self._wrong(node, f"no parameter '{name}' in these chapters{nearest(name, known)}; there are: {there}")
        return {name: self._values(name, node, declared.values()) for name, node in nodes.items()}

    def _values(self, name: str, node, chapters: Iterable[dict[str, Parameter]]) -> list:
        import yaml

        values = []
        for item in self._list(node):
            nested = isinstance(item, yaml.SequenceNode)
            if isinstance(item, yaml.MappingNode):
                self._wrong(item, f"'{name}' takes values, not a mapping")
            value = [entry.value for entry in item.value] if nested else item.value
            for parameters in chapters:
                if name in parameters:
                    self._at(item, convert, value, parameters[name])
            values.append(f"[{', '.join(value)}]" if nested else value)
        return list(dict.fromkeys(values))

    def _choice(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Prompt sets and judge, as options of `rimkit run` and as settings of a kernel."""
        nodes = self._mapping(self.entries["prompts"]) if "prompts" in self.entries else {}
        for name, node in nodes.items():
            if not isinstance(node.value, str) or not node.value:
                self._wrong(node, f"'{name}' takes the name of one prompt set, such as hex-phi")
            self._at(node, chosen.settings, {name: node.value}, "")
        judge, length = self._one("judge"), self._one("max_new_tokens")
        if length and not length.value.isdigit():
            self._wrong(length, f"max_new_tokens takes a whole number, not '{length.value}'")
        prompts = {name: node.value for name, node in nodes.items()}
        tokens = int(length.value) if length else 0
        found = self._at(judge, chosen.settings, prompts, judge.value if judge else "", tokens)
        options = [
            text
            for name, other in json.loads(found[chosen.PROMPTS] or "{}").items()  # absolute paths: cells run elsewhere
            for text in ("--prompts", f"{name}={other}")
        ]
        options += ["--judge", found[chosen.JUDGE]] if judge else []
        options += ["--max-new-tokens", length.value] if length else []
        return tuple(options), {name: value for name, value in found.items() if value}

    def _one(self, key: str):
        """The node of a key that holds for all cells; None without it."""
        nodes = self._texts(key)
        if len(nodes) > 1:
            self._wrong(nodes[1], f"'{key}' holds for all cells: give one")
        return nodes[0] if nodes else None

    def _resources(self) -> dict[str, int | str]:
        nodes = self._mapping(self.entries["resources"]) if "resources" in self.entries else {}
        for name, node in nodes.items():
            if not re.fullmatch(r"[A-Za-z]\w*", name) or not isinstance(node.value, str) or not node.value:
                self._wrong(node, f"the resource '{name}' needs one number or word, such as gpu: 1")
        return {name: int(node.value) if node.value.isdigit() else node.value for name, node in nodes.items()}

    # -- places ----------------------------------------------------------------------------------------

    def _at(self, node, function, *arguments):
        """Call ``function``; what it finds wrong is said with the place of ``node``."""
        try:
            return function(*arguments)
        except UserError as error:
            self._wrong(node, str(error))

    def _wrong(self, node, problem: str):
        line = node.start_mark.line + 1 if node is not None else 1
        raise UserError(f"{self.path}:{line}: {problem}") from None


def _cells(
    model: str,
    notebook: Path,
    axes: dict[str, list],
    declared: dict[str, Parameter],
    options: tuple[str, ...],
    settings: dict[str, str],
) -> Iterator[Cell]:
    own = {name: values for name, values in axes.items() if name in declared}
    for values in product(*own.values()):
        given = dict(zip(own, values, strict=True))
        (job,) = plan([notebook], model, given, settings)
        varied = {name: value for name, value in given.items() if len(own[name]) > 1}
        place = _id(job.params_hash, notebook, model, varied)
        yield Cell(place, job.chapter, str(notebook), model, given, varied, options)


def _id(params_hash: str, notebook: Path, model: str, varied: dict[str, Any]) -> str:
    """Readable, and with a hash: one folder name per chapter, model, parameters and version of rimkit."""
    from hashlib import sha256

    settings = [f"{name}{value}" for name, value in varied.items()]
    words = [notebook.stem.partition("_")[0], Path(model).name, *settings]
    slug = "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words)[:80]
    whole = f"{params_hash} {notebook} {model} {__version__}"
    return f"{slug}-{sha256(whole.encode()).hexdigest()[:8]}"
