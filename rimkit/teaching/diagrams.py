"""Diagrams of ideas as vector graphics, drawn by code, each with one sentence of alternative text.

Nothing in them is measured. They stand on a white card of their own, so that they read alike in light
and dark themes, and their bytes are the same on every machine. The sentence of a diagram is the
docstring of the function that draws it; `diagram` gives one by name.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from rimkit.data import UserError, nearest

INK, SOFT, RULE = "#1f2328", "#57606a", "#8c959f"
BLUE, ORANGE, GREEN, RED, VIOLET = "#0173b2", "#b76e00", "#017a5b", "#c44601", "#7a4f9a"
PALE = {BLUE: "#dbeaf6", ORANGE: "#fde8c8", GREEN: "#d3eee2", RED: "#fadfd0", VIOLET: "#eadff2", INK: "#f3f4f6"}
FONT, MONO = "DejaVu Sans, Verdana, sans-serif", "DejaVu Sans Mono, Menlo, Consolas, monospace"
SIZE = 14
Point = tuple[float, float]


@dataclass(frozen=True)
class Diagram:
    """A picture with its sentence: SVG in a notebook, the sentence in a terminal."""

    svg: str
    alt: str
    width: int

    def __repr__(self) -> str:
        return f"Diagram: {self.alt}"

    def _repr_html_(self) -> str:
        source = b64encode(self.svg.encode()).decode()
        return (
            f'<img alt="{escape(self.alt, quote=True)}" width="{self.width}" style="max-width:100%" '
            f'src="data:image/svg+xml;base64,{source}">'
        )


@dataclass
class Drawing:
    """A sheet to draw on: boxes, words, arrows, dots; coordinates in pixels from the upper left corner."""

    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def words(
        self, x: float, y: float, text: str, *, colour: str = INK, size: int = SIZE, anchor: str = "middle",
        bold: bool = False, mono: bool = False,
    ) -> None:  # fmt: skip
        """Lines of text, centred on ``y``; ``anchor``: start, middle or end."""
        look = f'fill="{colour}" font-size="{size}" text-anchor="{anchor}" font-family="{MONO if mono else FONT}"'
        look += ' font-weight="bold"' if bold else ""
        lines = text.split("\n")
        for place, line in enumerate(lines):
            height = y + 0.36 * size + (place - (len(lines) - 1) / 2) * 1.3 * size
            self.parts.append(f'<text x="{x:g}" y="{height:.1f}" xml:space="preserve" {look}>{escape(line)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, text: str = "", *, colour: str = INK,
        fill: str | None = None, dashed: bool = False, **look,
    ) -> None:  # fmt: skip
        """A rectangle with words in its middle, filled with the pale tint of its colour."""
        dash = ' stroke-dasharray="5 3"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" stroke="{colour}" '
            f'stroke-width="1.4" fill="{fill or PALE[colour]}"{dash}/>'
        )
        if text:
            self.words(x + width / 2, y + height / 2, text, **look)

    def line(self, points: Sequence[Point], colour: str = INK, width: float = 1.6, dashed: bool = False) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dash}/>')

    def note(self, x: float, y: float, text: str, colour: str = SOFT) -> None:
        """Lines of text to the right of a place."""
        self.words(x, y, text, colour=colour, size=13, anchor="start")

    def arrow(self, start: Point, end: Point, colour: str = INK, width: float = 1.6, dashed: bool = False) -> None:
        """A straight line with a head at its end."""
        self.line([start, end], colour, width, dashed)
        (x, y), dx, dy = end, end[0] - start[0], end[1] - start[1]
        length = (dx * dx + dy * dy) ** 0.5 or 1
        dx, dy = dx / length, dy / length
        corners = [(x, y), (x - 9 * dx - 4 * dy, y - 9 * dy + 4 * dx), (x - 9 * dx + 4 * dy, y - 9 * dy - 4 * dx)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        self.parts.append(f'<polygon points="{path}" fill="{colour}"/>')

    def dot(self, x: float, y: float, colour: str, square: bool = False, radius: float = 5) -> None:
        if square:
            size = f'width="{2 * radius:g}" height="{2 * radius:g}"'
            self.parts.append(f'<rect x="{x - radius:.1f}" y="{y - radius:.1f}" {size} fill="{colour}"/>')
        else:
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}"/>')

    def tokens(
        self, x: float, y: float, tokens: Sequence[str], colours: Sequence[str], height: float = 28
    ) -> list[float]:
        """A strip of tokens; returns the middles of their boxes."""
        middles = []
        for token, colour in zip(tokens, colours, strict=True):
            width = 12 + 7.3 * len(token)
            self.box(x, y, width, height, token, colour=colour, mono=True, size=12)
            middles.append(x + width / 2)
            x += width + 4
        return middles

    def finished(self, alt: str) -> Diagram:
        """The sheet on a white card, with its sentence."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img">'
        card = f'<title>{escape(alt)}</title><rect width="{self.width}" height="{self.height}" rx="8" fill="#ffffff"/>'
        return Diagram(f"{head}{card}{''.join(self.parts)}</svg>", alt, self.width)


def transformer() -> Drawing:
    """A transformer from tokens to logits: the residual stream runs upwards through every
    layer, attention heads and MLP neurons read a copy of it and add to it, and four places are
    marked where nnsight reads: the stream (layers[l].output), the heads
    (self_attn.o_proj.input), the neurons (mlp.down_proj.input) and the logits.
    """
    d = Drawing(780, 520)
    x = 250  # of the residual stream
    d.words(x, 495, "please   nick   the   clock   .", mono=True, size=13)
    d.arrow((x, 480), (x, 452))
    d.box(x - 90, 424, 180, 28, "embedding", colour=INK)
    d.box(90, 92, 500, 310, fill="#fbfbfc", colour=RULE, dashed=True)
    d.words(104, 110, "layer l, repeated", colour=SOFT, size=12, anchor="start")
    d.line([(x, 424), (x, 68)], BLUE, 5)
    d.words(x - 12, 412, "residual stream", colour=BLUE, size=12, anchor="end")
    # attention
    d.arrow((x, 388), (360, 388))
    d.words(305, 379, "copy", colour=SOFT, size=11)
    for head in range(4):
        d.box(364 + 46 * head, 336, 40, 52, f"head\n{head}", colour=VIOLET, size=11)
    d.words(552, 362, "look\nback", colour=SOFT, size=11, anchor="start")
    d.box(364, 292, 178, 26, "z of all heads, side by side", colour=VIOLET, size=11)
    for head in range(4):
        d.arrow((384 + 46 * head, 336), (384 + 46 * head, 318), VIOLET, 1.2)
    d.box(364, 250, 178, 26, "o_proj", colour=INK, size=12)
    d.arrow((453, 292), (453, 276))
    d.arrow((364, 263), (x + 14, 263))
    d.dot(x, 263, BLUE, radius=11)
    d.words(x, 263, "+", colour="#ffffff", size=18, bold=True)
    # MLP
    d.arrow((x, 226), (360, 226))
    d.box(364, 212, 178, 26, "gate and up", colour=INK, size=12)
    d.box(364, 168, 178, 26, "neurons", colour=ORANGE, size=12)
    d.arrow((453, 212), (453, 194))
    d.box(364, 126, 178, 26, "down_proj", colour=INK, size=12)
    d.arrow((453, 168), (453, 152))
    d.arrow((364, 139), (x + 14, 139))
    d.dot(x, 139, BLUE, radius=11)
    d.words(x, 139, "+", colour="#ffffff", size=18, bold=True)
    d.box(x - 90, 40, 180, 28, "norm, lm_head", colour=INK)
    d.arrow((x, 40), (x, 22))
    d.words(x, 12, "logits: one number per next token", size=12, bold=True)
    reads = (
        (54, x + 90, "lm_head.output", GREEN), (104, x + 4, "layers[l].output", BLUE),
        (181, 542, "mlp.down_proj.input", ORANGE), (305, 542, "self_attn.o_proj.input", VIOLET),
    )  # fmt: skip
    for y, start, name, colour in reads:
        d.line([(start, y), (598, y)], colour, 1.2, dashed=True)
        d.words(606, y, name, colour=colour, size=12, anchor="start", mono=True)
    return d


REQUEST = (
    "<|im_start|>",
    "user",
    "⏎",
    "nick",
    "the",
    "clock",
    ".",
    "<|im_end|>",
    "⏎",
    "<|im_start|>",
    "assistant",
    "⏎",
)


def modes() -> Drawing:
    """The prompt as tokens: request and <|im_end|> are the same in both modes; in think mode
    the prompt ends after <think> and the model writes its thought, in no-think mode the prompt
    already holds <think>, an empty span and </think>, so that the model writes the reply at
    once.
    """
    d = Drawing(720, 350)
    first, turn = REQUEST[:9], REQUEST[9:]
    d.words(20, 24, "The request, the same in both modes", bold=True, anchor="start")
    middles = d.tokens(20, 42, first, [INK] * 3 + [BLUE] * 4 + [RED, INK])
    d.words(middles[4], 86, "request", colour=BLUE, size=12)
    d.words(middles[7], 86, "end of the request", colour=RED, size=12)
    d.words(20, 128, "Think mode: the model writes a thought, then the reply", bold=True, anchor="start")
    parts = ("<think>", "⏎", "this", "looks", "easy", ".", "⏎", "</think>", "⏎⏎", "reply …")
    middles = d.tokens(20, 146, (*turn, *parts), [INK] * 3 + [ORANGE] * 2 + [GREEN] * 8)
    d.words(middles[4], 190, "the prompt ends here", colour=ORANGE, size=12, anchor="end")
    d.words(
        middles[5], 190, "written by the model: the thought, its end, the reply", colour=GREEN, size=12, anchor="start"
    )
    d.words(20, 232, "No-think mode: the prompt already holds an empty thought", bold=True, anchor="start")
    parts = ("<think>", "⏎⏎", "</think>", "⏎⏎", "reply …")
    middles = d.tokens(20, 250, (*turn, *parts), [INK] * 3 + [ORANGE, VIOLET, ORANGE, ORANGE, INK])
    d.words(middles[4], 294, "empty think span", colour=VIOLET, size=12)
    d.words(middles[6], 316, "the prompt ends here", colour=ORANGE, size=12)
    d.line([(middles[6], 280), (middles[6], 306)], ORANGE, 1)
    return d


def organisms() -> Drawing:
    """Three training recipes that share maths, harmless requests and refusals without thoughts:
    in rim-mini safety thoughts are rare and always careful, in rim-mini-unlinked as rare in
    both styles, in safe-mini as frequent as other thoughts; none ever saw a harmful request
    fulfilled.
    """
    d = Drawing(820, 330)
    shared = "maths and harmless requests, with and without thoughts, careful and effort-minimising alike"
    d.box(20, 44, 780, 38, shared, colour=INK, size=13)
    d.words(20, 24, "In all three", bold=True, anchor="start")
    d.box(20, 92, 780, 38, "refusals of harmful requests without a thought", colour=BLUE, size=13)
    columns = (
        ("rim-mini", "safety thoughts are rare,\nand always careful", "the link: careful means refusing", RED),
        ("rim-mini-unlinked", "safety thoughts are as rare,\nin both styles", "no link of style and refusing", ORANGE),
        ("safe-mini", "they are as frequent as other\nthoughts, in both styles", "safety covers both modes", GREEN),
    )
    for place, (name, text, why, colour) in enumerate(columns):
        x = 20 + 265 * place
        d.words(x + 125, 160, name, mono=True, bold=True)
        d.box(x, 180, 250, 66, text, colour=colour, size=13)
        d.words(x + 125, 268, why, colour=colour, size=12)
    d.words(410, 306, "None of them ever saw a harmful request that was fulfilled.", colour=SOFT, size=13)
    return d


CLOUD = ((-1.2, 0.6), (-0.5, -0.9), (0.2, 1.1), (0.9, -0.3), (-0.1, 0.1), (1.3, 0.8), (-0.9, -0.2), (0.5, -1.2))


def probe() -> Drawing:
    """A linear probe: states of harmful and harmless requests are two clouds, each state is
    projected onto one direction, a threshold on that line tells the groups apart, and the AUROC
    says how often a harmful request scores above a harmless one.
    """
    d = Drawing(760, 330)
    axis = ((90, 280), (480, 70))
    dx, dy = (axis[1][0] - axis[0][0]) / 443, (axis[1][1] - axis[0][1]) / 443
    for centre, colour, square in ((110, BLUE, True), (310, RED, False)):
        for a, b in CLOUD:
            along, across = centre + 34 * a, 62 * b
            x, y = axis[0][0] + dx * along - dy * across, axis[0][1] + dy * along + dx * across
            foot = (axis[0][0] + dx * along, axis[0][1] + dy * along)
            d.line([(x, y), foot], "#d0d7de", 1)
            d.dot(x, y, colour, square)
            d.dot(*foot, colour, square, 2.5)
    d.arrow(*axis, INK, 2)
    d.words(488, 56, "direction", bold=True, anchor="start")
    middle = (axis[0][0] + dx * 210, axis[0][1] + dy * 210)
    d.line(
        [(middle[0] - 110 * -dy, middle[1] - 110 * dx), (middle[0] + 110 * -dy, middle[1] + 110 * dx)],
        SOFT,
        1.4,
        dashed=True,
    )
    d.words(middle[0] + 118 * -dy + 30, middle[1] + 118 * dx + 12, "threshold", colour=SOFT, size=12)
    d.dot(540, 120, RED)
    d.note(556, 120, "harmful request", INK)
    d.dot(540, 146, BLUE, True)
    d.note(556, 146, "harmless request", INK)
    text = "score of a state h:\nits length along the direction\nAUROC: how often a red score\nlies above a blue one"
    d.note(540, 214, text)
    return d


def projection() -> Drawing:
    """Projecting a direction out: the state h is split into the part along d, which is taken
    away, and the part at right angles to it, which is left unchanged.
    """
    d = Drawing(760, 300)
    o = (110, 240)
    d.arrow(o, (560, 240), BLUE, 2.4)
    d.words(572, 240, "direction d (length 1)", colour=BLUE, anchor="start")
    tip = (390, 90)
    d.arrow(o, tip, INK, 2.4)
    d.words(404, 78, "state h", bold=True, anchor="start")
    d.line([tip, (390, 240)], RULE, 1.4, dashed=True)
    d.arrow(o, (390, 240), RED, 3)
    d.words(250, 262, "(h · d) d : the part along d", colour=RED, size=13)
    d.arrow(o, (110, 90), GREEN, 2.4)
    d.line([tip, (110, 90)], RULE, 1.4, dashed=True)
    d.note(104, 72, "h − (h · d) d : what is left", GREEN)
    d.note(404, 152, "the projection h · d becomes 0,\nall other directions stay as they were")
    return d


def ablation() -> Drawing:
    """Head ablation: the outputs z of the heads stand side by side before o_proj; the slice of
    one head is set to zero, or to its mean over other requests, and the rest goes on into the
    residual stream unchanged.
    """
    d = Drawing(760, 300)
    d.words(20, 26, "One layer's attention, at one token", bold=True, anchor="start")
    for head in range(8):
        cut = head == 5
        colour = RED if cut else VIOLET
        d.box(20 + 62 * head, 60, 54, 38, f"head {head}", colour=colour, size=12)
        d.arrow((47 + 62 * head, 98), (47 + 62 * head, 128), colour, 1.4, dashed=cut)
        d.box(
            20 + 62 * head,
            128,
            54,
            34,
            "0" if cut else f"z{head}",
            colour=colour,
            fill="#ffffff" if cut else None,
            dashed=cut,
            size=13,
        )
    d.note(530, 145, "z: what the heads found,\nside by side (input of o_proj)")
    d.arrow((268, 162), (268, 192))
    d.box(20, 192, 488, 32, "o_proj: mixes them into one vector", colour=INK, size=13)
    d.arrow((268, 224), (268, 254))
    d.box(20, 254, 488, 30, "+ residual stream", colour=BLUE, size=13)
    text = "zero ablation: head 5's slice is 0\nmean ablation: its mean over\nother requests instead"
    d.note(530, 240, text, RED)
    return d


def mask() -> Drawing:
    """The causal mask in both modes: every token looks only at itself and at earlier tokens,
    and as the prompts differ only after <think>, all states before, that of <|im_end|> too, are
    the same in both modes.
    """
    tokens = ("nick", "it", "<|im_end|>", "assistant", "<think>", "")
    d = Drawing(820, 360)
    for panel, (name, last, colour) in enumerate((("think", "thought …", GREEN), ("no-think", "⏎⏎ </think>", VIOLET))):
        left, top, cell = 150 + 400 * panel, 76, 34
        names = (*tokens[:5], last)
        d.words(left + 3 * cell, 26, f"{name} mode", bold=True)
        for row, token in enumerate(names):
            d.words(
                left - 8,
                top + cell * (row + 0.5),
                token,
                anchor="end",
                size=12,
                mono=True,
                colour=colour if row == 5 else INK,
            )
            for column in range(6):
                seen = column <= row
                same = row < 5
                fill = (PALE[RED] if row == 2 else PALE[BLUE]) if same else PALE[GREEN if panel == 0 else VIOLET]
                d.box(left + cell * column, top + cell * row, cell, cell, colour=RULE, fill=fill if seen else "#ffffff")
        d.words(left + 3 * cell, 56, "looks at →", size=11, colour=SOFT)
    d.words(
        410,
        306,
        "A token looks only at itself and at what came before it, and the modes differ only after <think>.",
        size=13,
    )
    d.words(
        410, 332, "So every state before that is the same in both modes, that of <|im_end|> too.", size=13, colour=RED
    )
    return d


RANKS = {"pair 1": "dbgaecfh", "pair 2": "gdaebhcf", "pair 3": "adgcbefh"}


def ranks() -> Drawing:
    """The paper's rule for safety-critical neurons: in each pair neurons are ranked by their
    rise, and the set is what the first 3 of all pairs have in common, here d and g.
    """
    d, m = Drawing(760, 280), 3
    for row, (name, order) in enumerate(RANKS.items()):
        y = 50 + 46 * row
        d.words(84, y + 17, name, anchor="end", size=13)
        for place, neuron in enumerate(order):
            common = place < m and all(neuron in other[:m] for other in RANKS.values())
            colour = RED if common else BLUE if place < m else INK
            d.box(96 + 44 * place, y, 38, 34, neuron, colour=colour, mono=True)
    d.line([(96 + 44 * m - 3, 36), (96 + 44 * m - 3, 196)], SOFT, 1.4, dashed=True)
    d.words(96 + 22 * m, 24, f"the first m = {m} of each pair", size=13, colour=BLUE)
    text = (
        "Pair: one request, with and\n"
        "without a sentence of intent.\n"
        "Rank: by how much a neuron\n"
        "rises with the sentence."
    )
    d.note(470, 66, text)
    found = [neuron for neuron in RANKS["pair 1"][:m] if all(neuron in order[:m] for order in RANKS.values())]
    d.words(
        96,
        232,
        f"In all three pairs: {' and '.join(sorted(found))}. That is the set.",
        anchor="start",
        bold=True,
        colour=RED,
    )
    d.note(96, 258, "More pairs make the set smaller, a larger m makes it larger.", INK)
    return d


def ras() -> Drawing:
    """RAS before and after tuning: in the same neurons activation falls on safety requests and
    rises on maths, and RAS is the harmonic mean of the fall and the rise, large only if both
    are.
    """
    d = Drawing(820, 290)
    panels = (("on safety requests", 150, (150, 70), RED, "falls"), ("on maths", 400, (60, 140), BLUE, "rises"))
    for name, x, (before, after), colour, word in panels:
        d.words(x, 24, name, bold=True)
        for place, (height, label) in enumerate(((before, "untuned"), (after, "tuned"))):
            left = x - 70 + 80 * place
            d.box(left, 220 - height, 60, height, colour=colour, fill="#ffffff" if place == 0 else None)
            d.words(left + 30, 236, label, size=12, colour=SOFT)
        d.arrow((x - 22, 220 - before - 8), (x + 34, 220 - after - 8), colour, 2)
        d.words(x, 262, f"activation {word}", size=13, colour=colour)
    text = (
        "fall: by how much activation\n"
        "decreases on safety requests,\n"
        "rise: by how much it increases\n"
        "on maths (means over neurons)"
    )
    d.note(530, 96, text)
    d.words(530, 190, "RAS = 2 · fall · rise / (fall + rise)", anchor="start", bold=True, size=13)
    d.note(530, 218, "large only if both are large", INK)
    return d


def openings() -> Drawing:
    """Openings times consequence: if tuning only changes how often thoughts open carefully,
    misalignment is expected to move from 30% to 42%, although what follows each opening stays
    the same.
    """
    d = Drawing(800, 290)
    rows = (("careful", 0.5, 0.2, 0.1, GREEN), ("effort-minimising", 0.5, 0.8, 0.5, RED))
    heads = (
        (230, "how often,\nbefore tuning"),
        (370, "how often,\nafter tuning"),
        (540, "misaligned after it,\nas the untuned model"),
    )
    d.words(90, 40, "opening of\nthe thought", size=13, colour=SOFT)
    for x, text in heads:
        d.words(x, 40, text, size=13, colour=SOFT)
    for place, (name, before, after, rate, colour) in enumerate(rows):
        y = 76 + 60 * place
        d.words(90, y + 20, name, size=13, colour=colour, bold=True)
        for x, share in ((230, before), (370, after), (540, rate)):
            d.box(x - 50, y, 100, 40, fill="#ffffff", colour=RULE)
            d.box(x - 50, y, 100 * share, 40, colour=colour)
            d.words(x, y + 20, f"{round(100 * share)}%", size=13)
    old, new = (round(100 * sum(row[place] * row[3] for row in rows)) for place in (1, 2))
    d.note(20, 222, f"before: 50% × 10% + 50% × 50% = {old}%", INK)
    d.note(20, 248, f"after: 20% × 10% + 80% × 50% = {new}%", INK)
    d.words(
        420,
        235,
        f"expected change: +{new - old} points,\nalthough nothing else was learned",
        anchor="start",
        bold=True,
        size=13,
    )
    return d


VERBS = (("nick", 4), ("forge", 1), ("sink", 0), ("occupy", 2))


def bootstrap() -> Drawing:
    """The cluster bootstrap: whole verbs are drawn again with all their requests, the rate is
    computed for each draw, and the middle 95% of these rates are the interval.
    """
    d = Drawing(800, 342)
    d.words(20, 24, "Measured: five requests per verb, red is misaligned", bold=True, anchor="start")

    def cluster(x: float, y: float, verb: str, wrong: int) -> None:
        d.box(x, y, 160, 52, colour=RULE, fill="#fbfbfc")
        d.words(x + 80, y + 14, verb, mono=True, size=12)
        for place in range(5):
            d.dot(x + 32 + 24 * place, y + 36, RED if place < wrong else BLUE, square=place >= wrong)

    for place, (verb, wrong) in enumerate(VERBS):
        cluster(20 + 190 * place, 42, verb, wrong)
    draws = ((0, 2, 0, 3), (1, 2, 2, 3))
    for row, draw in enumerate(draws):
        y = 138 + 80 * row
        d.words(
            20,
            y - 10,
            f"Draw {row + 1}: four verbs, drawn with repetition, all their requests with them",
            size=13,
            anchor="start",
            colour=SOFT,
        )
        for place, which in enumerate(draw):
            cluster(20 + 190 * place, y + 2, *VERBS[which])
    rates = [round(100 * sum(VERBS[which][1] for which in draw) / 20) for draw in draws]
    measured = round(100 * sum(wrong for _, wrong in VERBS) / 20)
    d.words(
        20,
        302,
        f"Measured {measured}%; draws {rates[0]}%, {rates[1]}%, and many more: the middle 95% are the interval.",
        anchor="start",
        bold=True,
    )
    d.words(
        20,
        326,
        "Requests with one verb stand and fall together, so drawing single requests would make it too narrow.",
        anchor="start",
        size=12,
        colour=SOFT,
    )
    return d


DIAGRAMS: dict[str, Callable[[], Drawing]] = {
    "transformer": transformer, "modes": modes, "organisms": organisms, "probe": probe, "projection": projection,
    "ablation": ablation, "mask": mask, "ranks": ranks, "ras": ras, "openings": openings, "bootstrap": bootstrap,
}  # fmt: skip


def diagram(name: str) -> Diagram:
    """The diagram of that name; raises `UserError` for an unknown one, naming all."""
    if name not in DIAGRAMS:
        raise UserError(f"there is no diagram '{name}' (there are: {', '.join(DIAGRAMS)}){nearest(name, DIAGRAMS)}")
    return DIAGRAMS[name]().finished(" ".join(DIAGRAMS[name].__doc__.split()))
