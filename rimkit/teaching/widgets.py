"""Explorers for notebooks, and tokens drawn with their named spans.

Only what ipywidgets 7 and 8 share is used. A callback is a plain function from control values to HTML, so it
can be tested without a browser, and its first result stands above the controls as plain HTML: readers without
a running kernel see that much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

import ipywidgets
from IPython.display import HTML, display

from rimkit.behavior import redaction
from rimkit.data import UserError

# Pale tints of a colour-blind-safe palette: dark text stays readable on each, in light and dark themes.
TINTS = ("#cfe2f3", "#fde2c8", "#d3ecdf", "#f5d5e6", "#fdf3c4", "#e2dcf2", "#d9eef7", "#e6e6e6")


class Explorer(ipywidgets.VBox):
    """Controls above the result of a callback; made by `explorer`."""

    def __repr__(self) -> str:  # the same on every machine, and short: it is stored in notebooks
        return f"Explorer of {', '.join(getattr(self, 'names', ()))}"


def explorer(callback: Callable[..., str], **controls: Any) -> Explorer:
    """A widget that shows ``callback(**values)`` for the values chosen.

    ``controls``: a list or tuple of choices or a mapping from label to value (drop-down menu), or a ``range``
    of whole numbers (slider). ``callback`` returns HTML in which all model output is escaped
    (``html.escape``, `tokens_html`). The result for the first value of every control is displayed at once.

    Raises `UserError` for no controls, a control without choices or of another kind.
    """
    if not controls:
        raise UserError("an explorer needs at least one control, for example mode=['think', 'no-think']")
    made = {name: _control(name, values) for name, values in controls.items()}
    display(HTML(callback(**{name: control.value for name, control in made.items()})))
    result = ipywidgets.HTML("<p>Change a control to see another case here.</p>")

    def update(change: Mapping) -> None:
        try:
            result.value = callback(**{name: control.value for name, control in made.items()})
        except Exception as error:  # a front-end hides tracebacks of callbacks, so the reader is told here
            result.value = f"<p><b>{escape(type(error).__name__)}</b>: {escape(str(error))}</p>"

    for control in made.values():
        control.observe(update, names="value")
    box = Explorer([ipywidgets.HBox(list(made.values())), result])
    box.names = tuple(made)
    return box


def _control(name: str, values: Any) -> ipywidgets.Widget:
    description = name.replace("_", " ")
    if isinstance(values, range):
        if len(values) == 0 or values.step < 1:
            raise UserError(f"the control '{name}' needs a range that counts up, not {values}")
        return ipywidgets.IntSlider(
            value=values.start, min=values.start, max=values[-1], step=values.step, description=description
        )
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"the control '{name}' is a list, a mapping or a range, not {values!r}")
    pairs = values.items() if isinstance(values, Mapping) else ((str(value), value) for value in values)
    options = [
        (redaction.label(text, f"{description} {place}"), value) for place, (text, value) in enumerate(pairs, start=1)
    ]
    if not options:
        raise UserError(f"the control '{name}' has no choices")
    return ipywidgets.Dropdown(options=options, value=options[0][1], description=description)


def tokens_html(tokens: Sequence[str], spans: Mapping[str, tuple[int, int]] | None = None) -> str:
    """Tokens as HTML, escaped, each stretch with the names of the spans (half-open ranges) that it lies in.

    The names stand under the stretch in words; the tint repeats them for the eye. Line breaks show as ⏎.

    Raises `UserError` for a span outside the tokens.
    """
    spans = dict(spans or {})
    for name, (start, end) in spans.items():
        if not 0 <= start <= end <= len(tokens):
            raise UserError(f"the span '{name}' ({start}, {end}) does not fit {len(tokens)} tokens")
    tints = {name: TINTS[index % len(TINTS)] for index, name in enumerate(spans)}

    def names_at(position: int) -> tuple[str, ...]:
        return tuple(name for name, (start, end) in spans.items() if start <= position < end)

    stretches = groupby(range(len(tokens)), key=names_at)
    parts = [_stretch([tokens[i] for i in positions], names, tints) for names, positions in stretches]
    return f'<div style="line-height:1.5">{"".join(parts)}</div>'


def weighted_tokens_html(tokens: Sequence[str], weights: Sequence[float], digits: int = 2) -> str:
    """Tokens as HTML, escaped, each with its weight below it and as a tint: orange above zero, blue below.

    The strongest tint is that of the largest weight. Weights that round to zero are left blank.
    """
    if len(tokens) != len(weights):
        raise UserError(f"{len(tokens)} tokens need as many weights, not {len(weights)}")
    most = max((abs(weight) for weight in weights), default=0) or 1
    boxes = []
    for token, weight in zip(tokens, weights, strict=True):
        colour, share = ("230,97,0" if weight > 0 else "0,90,181"), 0.55 * abs(weight) / most
        number = f"{weight:.{digits}f}" if round(abs(weight), digits) else "&nbsp;"
        text = escape(token).replace(chr(10), "⏎") or "&nbsp;"
        boxes.append(
            f'<span style="display:inline-block;text-align:center;margin:1px;padding:0 3px;border:1px solid #bbb;'
            f'border-radius:3px;font-family:monospace;color:#222;background:rgba({colour},{share:.2f})">'
            f'{text}<br><small style="font-family:sans-serif">{number}</small></span>'
        )
    return f'<div style="line-height:1.4;background:#fff">{"".join(boxes)}</div>'


def _stretch(tokens: Sequence[str], names: tuple[str, ...], tints: Mapping[str, str]) -> str:
    """A run of tokens of the same spans as one box: the tokens above, the names below."""
    tint = tints[names[0]] if names else "#ffffff"
    label = escape(", ".join(name.replace("_", " ") for name in names)) or "&nbsp;"
    boxes = "".join(
        f'<span style="border:1px solid #bbb;border-radius:3px;margin:1px;padding:0 3px;white-space:pre;'
        f'display:inline-block">{escape(token).replace(chr(10), "⏎") or "&nbsp;"}</span>'
        for token in tokens
    )
    return (
        f'<span style="display:inline-block;vertical-align:top;background:{tint};color:#222;margin:2px;'
        f'padding:2px;border-radius:4px;font-family:monospace">{boxes}<br>'
        f'<small style="font-family:sans-serif">{label}</small></span>'
    )
