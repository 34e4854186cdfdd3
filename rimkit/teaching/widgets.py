"""Explorers: a panel of controls and what they show; tokens with their spans or weights; diagrams.

Only what ipywidgets 7.7 and 8 share is used. A callback is a plain function from values to HTML.
Diagrams of ideas are vector graphics with a sentence, drawn by ``data/diagrams/draw.py``."""

import asyncio
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape, unescape
from itertools import groupby
from typing import Any

import ipywidgets
from IPython.display import HTML, display

from rimkit.behavior import redaction
from rimkit.data import UserError, check_known, data_dir, number

# Pale tints of a colour-blind-safe palette, on which dark text stays readable in both themes.
TINTS = {
    "request": "#cfe2f3", "instruction": "#cfe2f3", "im_end": "#fde2c8", "assistant": "#d3ecdf",
    "think_open": "#e2dcf2", "empty": "#f5d5e6", "thought": "#fdf3c4", "think_close": "#e2dcf2",
    "reply": "#d9eef7", "last": "#e6e6e6",
}  # fmt: skip
BOX = "display:inline-block;border:1px solid #bbb;border-radius:3px;margin:1px;padding:0 3px;font-family:monospace"
PAUSE = 0.05  # seconds in which an explorer hears of further changes


class Explorer(ipywidgets.VBox):
    """Controls above the result of a callback; made by `explorer`."""

    def __repr__(self) -> str:  # the same on every machine, and short: it is stored in notebooks
        return f"Explorer of {', '.join(getattr(self, 'names', ()))}"


def explorer(callback: Callable[..., str], own: str = "", **controls: Any) -> Explorer:
    """A panel that shows ``callback(**values)`` for the values chosen, and is updated in place.
    ``controls``: a list of choices or a mapping from label to value (drop-down menu), or a
    ``range`` of whole numbers (slider). ``own`` names a control for which a text of one's own can
    be typed instead; the last change is answered. ``callback`` returns HTML with all model output
    escaped (`rimkit.teaching.tables.html`, `tokens_html`). Its result for the first choices is also
    displayed for readers without a running kernel; the live panel hides it."""
    if not controls:
        raise UserError("an explorer needs at least one control, for example mode=['think', 'no-think']")
    made = {name: _control(name, values) for name, values in controls.items()}
    hint = f"type a {own.replace('_', ' ')}, then Enter"
    text = ipywidgets.Text(description="or your own", placeholder=hint, continuous_update=False)
    menu, waiting = made.get(own), []  # waiting: the one answer that is still to come

    def asked() -> tuple[dict[str, Any], str]:  # the values, and in words
        typed = {own: text.value.strip()} if text.value.strip() else {}
        words = {name: str(getattr(one, "label", one.value)) for name, one in made.items()} | typed
        said = (f"{name.replace('_', ' ')}: <b>{escape(of)}</b>" for name, of in words.items())
        return {name: one.value for name, one in made.items()} | typed, f"<p>{' · '.join(said)}</p>"

    def shown() -> str:
        try:
            return callback(**asked()[0])
        except Exception as error:  # a front-end hides tracebacks of callbacks
            return f"<p><b>{escape(type(error).__name__)}</b>: {escape(str(error))}</p>"

    def update(change: Mapping) -> None:
        by, typed, empty = change["owner"], text.value.strip(), getattr(menu, "index", 0) is None
        if (by is menu and empty) or (by is text and not typed and not empty):
            return  # the other one was changed, and is answered
        if by is text:
            menu.index = None if typed else 0
        elif by is menu:
            text.value = ""
        result.value = f'{asked()[1]}<p>computing …</p><div style="opacity:.4">{result.value}</div>'
        while waiting:
            waiting.pop().cancel()
        try:
            waiting.append(asyncio.get_running_loop().create_task(answer(PAUSE)))
        except RuntimeError:  # no kernel, which would have more changes to tell
            asyncio.run(answer(0))

    async def answer(pause: float) -> None:
        await asyncio.sleep(pause)  # changes that came meanwhile are told, and end this
        found = asked()[1] + shown()
        await asyncio.sleep(pause)
        result.value = found

    first = shown()
    name = "static-" + sha256(f"{getattr(callback, '__name__', '')} {list(made)}".encode()).hexdigest()[:8]
    display(HTML(f'<div class="{name}">{first}</div>'))
    result, hide = ipywidgets.HTML(asked()[1] + first), ipywidgets.HTML(f"<style>.{name} {{display: none}}</style>")
    inputs = [*made.values(), *([text] if own else [])]
    for control in inputs:
        control.observe(update, names="value")
    box = Explorer([ipywidgets.HBox(inputs, layout={"flex_flow": "row wrap", "align_items": "center"}), result, hide])
    box.names = tuple(made)
    return box


def _control(name: str, values: Any) -> ipywidgets.Widget:
    description = name.replace("_", " ")
    if isinstance(values, range):
        if len(values) == 0 or values.step < 1:
            raise UserError(f"the control '{name}' needs a range that counts up, not {values}")
        low, high = values[0], values[-1]
        return ipywidgets.IntSlider(value=low, min=low, max=high, step=values.step, description=description)
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"the control '{name}' is a list, a mapping or a range, not {values!r}")
    pairs = values.items() if isinstance(values, Mapping) else ((str(value), value) for value in values)
    options = [(redaction.label(text, f"{description} {n}"), value) for n, (text, value) in enumerate(pairs, 1)]
    if not options:
        raise UserError(f"the control '{name}' has no choices")
    look, label = {"width": "auto", "max_width": "100%"}, {"description_width": "initial"}
    chosen, name = options[0][1], description
    return ipywidgets.Dropdown(options=options, value=chosen, description=name, layout=look, style=label)


def beside(parts: Mapping[str, str]) -> str:
    """Pieces of HTML side by side (think and no-think), each under its name."""
    columns = (f'<div style="flex:1;min-width:17em"><b>{escape(name)}</b>{part}</div>' for name, part in parts.items())
    return f'<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start">{"".join(columns)}</div>'


def tokens_html(tokens: Sequence[str], spans: Mapping[str, tuple[int, int]] | None = None) -> str:
    """Tokens as HTML, escaped, each stretch with the names of the spans that it lies in. The names
    stand under the stretch in words; the tint repeats them for the eye. Line breaks show as ⏎.
    Raises `UserError` for a span outside the tokens."""
    spans = dict(spans or {})
    for name, (start, end) in spans.items():
        if not 0 <= start <= end <= len(tokens):
            raise UserError(f"the span '{name}' ({start}, {end}) does not fit {len(tokens)} tokens")
    inside = [tuple(name for name, (a, b) in spans.items() if a <= i < b) for i in range(len(tokens))]
    look, parts = "display:inline-block;vertical-align:top", []
    for names, positions in groupby(range(len(tokens)), key=inside.__getitem__):
        boxes = "".join(f'<span style="{BOX};white-space:pre">{_token(tokens[i])}</span>' for i in positions)
        label = escape(", ".join(name.replace("_", " ") for name in names)) or "&nbsp;"
        tint = f"background:{TINTS.get((names or ('',))[-1], '#fff')};color:#222"
        style = f"{look};{tint};margin:2px;padding:2px;border-radius:4px"
        parts.append(f'<span style="{style}">{boxes}<br><small>{label}</small></span>')
    return f'<div style="line-height:1.5">{"".join(parts)}</div>'


def weighted_tokens_html(tokens: Sequence[str], weights: Sequence[float], digits: int = 2) -> str:
    """Tokens as HTML, escaped, each with its weight as number and tint. The strongest tint is that
    of the largest weight. Weights that round to zero are left blank."""
    if len(tokens) != len(weights):
        raise UserError(f"{len(tokens)} tokens need as many weights, not {len(weights)}")
    most = max((abs(weight) for weight in weights), default=0) or 1
    boxes = []
    for token, weight in zip(tokens, weights, strict=True):
        colour, share = ("230,97,0" if weight > 0 else "0,90,181"), 0.55 * abs(weight) / most
        value = number(weight, digits) if round(abs(weight), digits) else "&nbsp;"
        look = f"{BOX};text-align:center;color:#222;background:rgba({colour},{share:.2f})"
        boxes.append(f'<span style="{look}">{_token(token)}<br><small>{value}</small></span>')
    return f'<div style="line-height:1.4;background:#fff">{"".join(boxes)}</div>'


def _token(token: str) -> str:
    return escape(token).replace("\n", "⏎") or "&nbsp;"


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
