"""Diagrams of ideas: vector graphics that come with the workbook, each with one sentence of
alternative text.

They lie in ``data/diagrams``, where ``draw.py`` draws them. A notebook shows the graphics, a
terminal the sentence.
"""

import re
from base64 import b64encode
from dataclasses import dataclass
from html import escape, unescape

from rimkit.data import check_known, data_dir


@dataclass(frozen=True)
class Diagram:
    """An SVG with its sentence, which is its title."""

    svg: str

    @property
    def alt(self) -> str:
        return unescape(re.search("<title>(.*?)</title>", self.svg)[1])

    def __repr__(self) -> str:
        return f"Diagram: {self.alt}"

    def _repr_html_(self) -> str:
        source = f"data:image/svg+xml;base64,{b64encode(self.svg.encode()).decode()}"
        width = re.search(r'viewBox="0 0 (\d+)', self.svg)[1]
        return f'<img alt="{escape(self.alt)}" width="{width}" style="max-width:100%" src="{source}">'


def diagram(name: str) -> Diagram:
    """The diagram of that name; raises `UserError` for an unknown one, naming all."""
    files = {file.stem: file for file in sorted((data_dir() / "diagrams").glob("*.svg"))}
    check_known("diagram", name, files)
    return Diagram("".join(files[name].read_text(encoding="utf-8").splitlines()))
