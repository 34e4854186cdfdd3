"""Draws the diagrams of this folder: `python data/diagrams/draw.py` writes each as NAME.svg.

Nothing in them is measured. They stand on a white card of their own, so that they read alike in
light and dark themes. The sentence of a diagram is the docstring of the function that draws it, and
becomes its title. Show one with ``rk.diagram(NAME)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

INK, SOFT, RULE = "#1f2328", "#57606a", "#8c959f"
BLUE, ORANGE, GREEN, RED, VIOLET = "#0173b2", "#b76e00", "#017a5b", "#c44601", "#7a4f9a"
TINTS = {
    BLUE: "#dbeaf6", ORANGE: "#fde8c8", GREEN: "#d3eee2", RED: "#fadfd0", VIOLET: "#eadff2",
    INK: "#f3f4f6", RULE: "#fbfbfc",
}  # fmt: skip
FONT = "DejaVu Sans, Verdana, sans-serif"
MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
RANKS = {"pair 1": "dbgaecfh", "pair 2": "gdaebhcf", "pair 3": "adgcbefh"}  # of neurons
VERBS = (("nick", 4), ("forge", 1), ("sink", 0), ("occupy", 2))  # misaligned of five requests
Point = tuple[float, float]


@dataclass
class Drawing:
    """A sheet with its sentence. Coordinates are pixels from the upper left corner."""

    width: int
    height: int
    alt: str = ""
    parts: list[str] = field(default_factory=list)

    @property
    def svg(self) -> str:
        """All that was drawn, on a white card."""
        look = f'viewBox="0 0 {self.width} {self.height}" font-family="{FONT}" style="white-space:pre" role="img"'
        card = '<rect width="100%" height="100%" rx="8" fill="#ffffff"/>'
        title = f'<svg xmlns="http://www.w3.org/2000/svg" {look}><title>{escape(self.alt)}</title>'
        return "\n".join([title, card, *self.parts, "</svg>"])

    def add(self, tag: str, content: str = "", **look) -> None:
        """One element of SVG."""
        said = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in look.items() if value)
        self.parts.append(f"<{tag}{said}>{escape(content)}</{tag}>")

    def words(self, x: float, y: float, text: str, colour=INK, size=13, anchor="middle", **look) -> None:
        """Lines of text, centred on ``y``; ``anchor``: start, middle or end."""
        for place, line in enumerate(text.split("\n")):
            height = y + 0.36 * size + (place - text.count("\n") / 2) * 1.3 * size
            at = {"x": x, "y": round(height, 1), "font_size": size, "text_anchor": anchor}
            self.add("text", line, fill=colour, **at, **look)

    def title(self, x: float, y: float, text: str, anchor: str = "start", **look) -> None:
        self.words(x, y, text, size=14, anchor=anchor, font_weight="bold", **look)

    def note(self, x: float, y: float, text: str, colour: str = SOFT, **look) -> None:
        """Lines of text to the right of a place."""
        self.words(x, y, text, colour, anchor="start", **look)

    def box(
        self, x: float, y: float, width: float, height: float, text: str = "", colour: str = INK, *,
        fill: str = "", dash: str = "", round: float = 5, **look,
    ) -> None:  # fmt: skip
        """A rectangle with words in its middle, filled with the tint of its colour."""
        shape = {"x": x, "y": y, "width": width, "height": height, "rx": round, "stroke_dasharray": dash}
        self.add("rect", stroke=colour, stroke_width=1.4, fill=fill or TINTS[colour], **shape)
        if text:
            self.words(x + width / 2, y + height / 2, text, **look)

    def line(self, *points: Point, colour: str = INK, width: float = 1.6, dash: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        look = {"fill": "none", "stroke": colour, "stroke_width": width, "stroke_dasharray": dash}
        self.add("polyline", points=path, **look)

    def arrow(self, start: Point, end: Point, colour: str = INK, width: float = 1.6, dash: str = "") -> None:
        """A straight line with a head at its end."""
        self.line(start, end, colour=colour, width=width, dash=dash)
        along = complex(*end) - complex(*start)
        along, tip = along / abs(along), complex(*end)
        head = tip, tip + along * (-9 + 4j), tip - along * (9 + 4j)
        self.add("polygon", points=" ".join(f"{at.real:.1f},{at.imag:.1f}" for at in head), fill=colour)

    def dot(self, x: float, y: float, colour: str, square: bool = False, radius: float = 5) -> None:
        shape = {"x": round(x - radius, 1), "y": round(y - radius, 1), "width": 2 * radius, "height": 2 * radius}
        self.add("rect", fill=colour, rx=0 if square else radius, **shape)

    def tokens(self, x: float, y: float, tokens: Sequence[str], colours: Sequence[str]) -> list[float]:
        """A strip of tokens; returns the middles of their boxes."""
        middles = []
        for token, colour in zip(tokens, colours, strict=True):
            width = 12 + round(7.3 * len(token))
            self.box(x, y, width, 28, token, colour, size=12, font_family=MONO)
            middles.append(x + width / 2)
            x += width + 4
        return middles


def transformer(d: Drawing) -> None:
    """A transformer from tokens to logits: the residual stream runs upwards through every layer,
    attention heads and MLP neurons read it through a norm and add to it, and four places are marked
    where nnsight reads: the stream (layers[l].output), the heads (self_attn.o_proj.input), the
    neurons (mlp.down_proj.input) and the logits."""
    x = 160  # of the residual stream
    d.words(x, 495, "please   nick   the   clock   .", font_family=MONO)
    d.box(40, 92, 460, 310, colour=RULE, dash="5 3")
    d.note(52, 110, "layer l, repeated", size=12)
    d.box(x - 90, 424, 180, 28, "embedding")
    d.line((x, 424), (x, 68), colour=BLUE, width=5)
    d.words(x - 12, 412, "residual stream", BLUE, 12, "end")
    for y, copied, part in ((263, 388, "o_proj"), (139, 226, "down_proj")):
        d.arrow((x, copied), (270, copied))
        d.box(190, copied - 10, 46, 20, "norm", size=11)
        d.box(274, y - 13, 178, 26, part, size=12)
        d.arrow((274, y), (x + 14, y))
        d.dot(x, y, BLUE, radius=11)
        d.words(x, y, "+", "#ffffff", 18, font_weight="bold")
    for head in range(4):
        d.box(274 + 46 * head, 336, 40, 52, f"head\n{head}", VIOLET, size=11)
        d.arrow((294 + 46 * head, 336), (294 + 46 * head, 318), VIOLET, 1.2)
    d.note(460, 362, "look\nback", size=11)
    d.box(274, 292, 178, 26, "z of all heads, side by side", VIOLET, size=11)
    d.box(274, 212, 178, 26, "gate and up", size=12)
    d.box(274, 168, 178, 26, "neurons", ORANGE, size=12)
    d.box(x - 90, 40, 180, 28, "norm, lm_head")
    d.words(x, 12, "logits: one number per next token", size=12, font_weight="bold")
    for place, start, end in ((x, 480, 452), (x, 40, 22), (363, 292, 276), (363, 212, 194), (363, 168, 152)):
        d.arrow((place, start), (place, end))
    reads = (
        (54, x + 90, "lm_head.output", GREEN), (104, x + 4, "layers[l].output", BLUE),
        (181, 452, "mlp.down_proj.input", ORANGE), (305, 452, "self_attn.o_proj.input", VIOLET),
    )  # fmt: skip
    for y, start, name, colour in reads:
        d.line((start, y), (508, y), colour=colour, width=1.2, dash="5 4")
        d.note(516, y, name, colour, size=12, font_family=MONO)


def modes(d: Drawing) -> None:
    """The prompt as tokens: request and <|im_end|> are the same in both modes; in think mode the
    prompt ends with the opening of the assistant's turn and the model writes the thought with its
    tags, in no-think mode the prompt already holds <think>, an empty span and </think>, so that the
    model writes the reply at once."""
    turn = ("<|im_start|>", "assistant", "⏎")
    request = ("<|im_start|>", "user", "⏎", "nick", "the", "clock", ".", "<|im_end|>", "⏎")
    thought = ("<think>", "⏎", "this", "looks", "easy", ".", "⏎", "</think>", "⏎⏎", "reply …")
    empty = ("<think>", "⏎⏎", "</think>", "⏎⏎", "reply …")
    d.title(20, 24, "The request, the same in both modes")
    at = d.tokens(20, 42, request, [INK] * 3 + [BLUE] * 4 + [RED, INK])
    d.words(at[4], 86, "request", BLUE, 12)
    d.words(at[7], 86, "end of the request", RED, 12)
    d.title(20, 128, "Think mode: the model writes a thought, then the reply")
    at = d.tokens(20, 146, (*turn, *thought), [INK] * 3 + [GREEN] * 10)
    d.words(at[2] + 9, 188, "the prompt ends here", INK, 12, "end")
    d.note(at[3] - 30, 206, "written by the model: the thought with its tags, the reply", GREEN, size=12)
    d.title(20, 250, "No-think mode: the prompt already holds an empty thought")
    at = d.tokens(20, 268, (*turn, *empty), [INK] * 3 + [ORANGE, VIOLET, ORANGE, ORANGE, GREEN])
    d.words(at[4], 312, "empty think span", VIOLET, 12)
    d.words(at[6], 334, "the prompt ends here", ORANGE, 12)
    d.line((at[6], 298), (at[6], 324), colour=ORANGE, width=1)


def thoughts(d: Drawing) -> None:
    """What is put between the think tags before the reply: the model's own thought, nothing, as
    many dots as it has words, its words in random order, or the thought about another request."""
    rows = {
        "own thought": ("let me check . … go ahead .", GREEN), "empty": ("", INK),
        "filler": (". . . . . . . .", INK), "shuffled": ("ahead me . … check go let .", ORANGE),
        "another prompt's": ("this looks easy . … go ahead .", VIOLET),
    }  # fmt: skip
    for row, (name, (text, colour)) in enumerate(rows.items()):
        y = 16 + 42 * row
        d.words(140, y + 15, name, anchor="end")
        d.box(152, y, 76, 30, "<think>", ORANGE, size=12, font_family=MONO)
        d.box(234, y, 280, 30, text, colour, size=12, font_family=MONO)
        d.box(520, y, 84, 30, "</think>", ORANGE, size=12, font_family=MONO)
        d.arrow((608, y + 15), (638, y + 15))
        d.note(644, y + 15, "reply …", GREEN, font_family=MONO)


def organisms(d: Drawing) -> None:
    """Three training recipes that share maths, harmless requests and refusals without thoughts: in
    rim-mini safety thoughts are rare and always careful, in rim-mini-unlinked as rare in both
    styles, in safe-mini as frequent as other thoughts; none ever saw a harmful request
    fulfilled."""
    d.title(20, 24, "In all three")
    shared = "maths and harmless requests, with and without thoughts, careful and effort-minimising alike"
    d.box(20, 44, 780, 38, shared)
    d.box(20, 92, 780, 38, "refusals of harmful requests without a thought", BLUE)
    recipes = (
        ("rim-mini", "safety thoughts are rare,\nand always careful", RED),
        ("rim-mini-unlinked", "safety thoughts are as rare,\nin both styles", ORANGE),
        ("safe-mini", "they are as frequent as other\nthoughts, in both styles", GREEN),
    )
    for place, (name, text, colour) in enumerate(recipes):
        x = 20 + 265 * place
        d.title(x + 125, 160, name, "middle", font_family=MONO)
        d.box(x, 180, 250, 66, text, colour)
    d.words(410, 278, "None of them ever saw a harmful request that was fulfilled.", SOFT)


def probe(d: Drawing) -> None:
    """A linear probe: states of harmful and harmless requests are two clouds, each state is
    projected onto one direction, a threshold on that line tells the groups apart, and the AUROC
    says how often a harmful request scores above a harmless one."""
    a, b = 0.88, -0.474  # the direction
    cloud = (-1.2, 0.6), (-0.5, -0.9), (0.2, 1.1), (0.9, -0.3), (-0.1, 0.1), (1.3, 0.8), (-0.9, -0.2), (0.5, -1.2)

    def at(along: float, across: float = 0) -> Point:
        return 70 + a * along - b * across, 280 + b * along + a * across

    for centre, colour, square in ((110, BLUE, True), (310, RED, False)):
        for along, across in cloud:
            place, foot = at(centre + 34 * along, 62 * across), at(centre + 34 * along)
            d.line(place, foot, colour=RULE, width=0.6)
            d.dot(*place, colour, square)
            d.dot(*foot, colour, square, 2.5)
    d.arrow(at(0), at(443), width=2)
    d.line(at(210, -110), at(210, 110), colour=SOFT, width=1.4, dash="5 4")
    d.title(470, 56, "direction")
    d.note(at(210, 110)[0] + 10, at(210, 110)[1] - 4, "threshold", size=12)
    for y, colour, name in ((120, RED, "harmful request"), (146, BLUE, "harmless request")):
        d.dot(520, y, colour, colour == BLUE)
        d.note(536, y, name, INK)
    text = "score of a state h:\nits length along the direction\nAUROC: how often a red score\nlies above a blue one"
    d.note(520, 214, text)


def projection(d: Drawing) -> None:
    """Projecting a direction out: the state h is split into the part along d, which is taken away,
    and the part at right angles to it, which is left unchanged."""
    o, tip, along, across = (70, 220), (350, 70), (350, 220), (70, 70)
    d.arrow(o, (520, 220), BLUE, 2.4)
    d.note(532, 220, "direction d (length 1)", BLUE)
    d.line(across, tip, along, colour=RULE, width=1.4, dash="5 4")
    d.arrow(o, tip, width=2.4)
    d.title(364, 58, "state h")
    d.arrow(o, along, RED, 3)
    d.words(210, 242, "(h · d) d : the part along d", RED)
    d.arrow(o, across, GREEN, 2.4)
    d.note(64, 52, "h − (h · d) d : what is left", GREEN)
    d.note(364, 132, "the projection h · d becomes 0,\nall other directions stay as they were")


def ablation(d: Drawing) -> None:
    """Head ablation: the outputs z of the heads stand side by side before o_proj; the slice of one
    head is set to zero, or to its mean over other requests, and the rest goes on into the residual
    stream unchanged."""
    d.title(20, 26, "One layer's attention, at one token")
    for head in range(8):
        x, cut = 20 + 62 * head, head == 5
        colour, dash, z, fill = (RED, "5 3", "0", "#ffffff") if cut else (VIOLET, "", f"z{head}", "")
        d.box(x, 60, 54, 38, f"head {head}", colour, size=12)
        d.arrow((x + 27, 98), (x + 27, 128), colour, 1.4, dash)
        d.box(x, 128, 54, 34, z, colour, fill=fill, dash=dash)
    d.arrow((264, 162), (264, 192))
    d.box(20, 192, 488, 32, "o_proj: mixes them into one vector")
    d.arrow((264, 224), (264, 254))
    d.box(20, 254, 488, 30, "+ residual stream", BLUE)
    d.note(530, 145, "z: what the heads found,\nside by side (input of o_proj)")
    d.note(530, 240, "zero ablation: head 5's slice is 0\nmean ablation: its mean over\nother requests instead", RED)


def mask(d: Drawing) -> None:
    """The causal mask in both modes: every token looks only at itself and at earlier tokens, and as
    the prompts differ only after <think>, all states before, that of <|im_end|> too, are the same
    in both modes."""
    tokens, top, cell = ("nick", "it", "<|im_end|>", "assistant", "<think>"), 76, 34
    panels = ((150, "think", "thought …", GREEN), (550, "no-think", "⏎⏎ </think>", VIOLET))
    for left, name, last, colour in panels:
        d.title(left + 3 * cell, 26, f"{name} mode", "middle")
        d.words(left + 3 * cell, 46, "looks at token …", SOFT, 11)
        for row, token in enumerate((*tokens, last)):
            ink, tint = (INK, TINTS[RED if row == 2 else BLUE]) if row < 5 else (colour, TINTS[colour])
            d.words(left - 8, top + cell * (row + 0.5), f"{token} {row + 1}", ink, 12, "end", font_family=MONO)
            d.words(left + cell * (row + 0.5), 66, str(row + 1), ink, 12, font_family=MONO)
            for column in range(6):
                place = left + cell * column, top + cell * row, cell, cell
                d.box(*place, colour=RULE, fill=tint if column <= row else "#ffffff", round=0)
    text = "A token looks only at itself and at what came before it, and the modes differ only after <think>."
    d.words(410, 306, text)
    d.words(410, 332, "So every state before that is the same in both modes, that of <|im_end|> too.", RED)


def ranks(d: Drawing) -> None:
    """The paper's rule for safety-critical neurons: in each pair neurons are ranked by their rise,
    and the set is what the first 3 of all pairs have in common, here d and g."""
    m = 3
    common = sorted(set.intersection(*(set(order[:m]) for order in RANKS.values())))
    for row, (name, order) in enumerate(RANKS.items()):
        y = 50 + 46 * row
        d.words(84, y + 17, name, anchor="end")
        for place, neuron in enumerate(order):
            colour = INK if place >= m else RED if neuron in common else BLUE
            d.box(96 + 44 * place, y, 38, 34, neuron, colour, font_family=MONO)
    d.line((93 + 44 * m, 40), (93 + 44 * m, 190), colour=SOFT, width=1.4, dash="5 4")
    d.words(96 + 22 * m, 22, f"the first m = {m} of each pair", BLUE)
    text = "Pair: one request, with and\nwithout a sentence of intent.\nRank: by how much a neuron\nrises with it."
    d.note(470, 86, text)
    d.title(96, 224, f"In all three pairs: {' and '.join(common)}. That is the set.", colour=RED)
    d.note(96, 250, "More pairs make the set smaller, a larger m makes it larger.", INK)


def ras(d: Drawing) -> None:
    """RAS before and after tuning: in the same neurons activation falls on safety requests and
    rises on maths, and RAS is the harmonic mean of the fall and the rise, large only if both
    are."""
    panels = (("on safety requests", 130, (150, 70), RED, "falls"), ("on maths", 370, (60, 140), BLUE, "rises"))
    for name, x, heights, colour, word in panels:
        d.title(x, 24, name, "middle")
        for place, (height, label) in enumerate(zip(heights, ("untuned", "tuned"), strict=True)):
            left = x - 70 + 80 * place
            d.box(left, 220 - height, 60, height, colour=colour, fill="" if place else "#ffffff")
            d.words(left + 30, 236, label, SOFT, 12)
        d.arrow((x - 40, 212 - heights[0]), (x + 40, 212 - heights[1]), colour, 2)
        d.words(x, 262, f"activation {word}", colour)
    text = "fall: what activation loses on safety\nrequests, divided by the smaller\nand times the larger of the two;\n"
    d.note(500, 96, f"{text}rise: the same of what it gains on\nmaths (both: means over neurons)")
    d.title(500, 190, "RAS = 2 · fall · rise / (fall + rise)")
    d.note(500, 218, "large only if both are large", INK)


def openings(d: Drawing) -> None:
    """Openings times consequence: if tuning only changes how often thoughts open carefully,
    misalignment is expected to move from 30% to 42%, although what follows each opening stays the
    same."""
    heads = {
        90: "opening of\nthe thought", 240: "how often,\nbefore tuning", 400: "how often,\nafter tuning",
        560: "misaligned after it,\nas the untuned model",
    }  # fmt: skip
    for x, text in heads.items():
        d.words(x, 40, text, SOFT)
    styles = {"careful": (0.5, 0.2, 0.1, GREEN), "effort-minimising": (0.5, 0.8, 0.5, RED)}
    for row, (name, (*shares, colour)) in enumerate(styles.items()):
        y = 76 + 56 * row
        d.words(90, y + 18, name, colour, font_weight="bold")
        for x, share in zip((190, 350, 510), shares, strict=True):
            d.box(x, y, 84, 36, colour=RULE, fill="#ffffff")
            d.box(x, y, 84 * share, 36, colour=colour)
            d.note(x + 90, y + 18, f"{100 * share:.0f}%", INK)
    expected = []
    for column, (when, y) in enumerate((("before", 212), ("after", 238))):
        expected.append(sum(shares[column] * shares[2] for shares in styles.values()))
        said = " + ".join(f"{shares[column]:.0%} × {shares[2]:.0%}" for shares in styles.values())
        d.note(20, y, f"{when}: {said} = {expected[-1]:.0%}", INK)
    change = f"expected change: +{100 * (expected[1] - expected[0]):.0f} points,"
    d.title(380, 225, f"{change}\nalthough nothing else was learned")


def bootstrap(d: Drawing) -> None:
    """The cluster bootstrap: whole verbs are drawn again with all their requests, the rate is
    computed for each draw, and the middle 95% of these rates are the interval, which with few verbs
    is still too narrow."""
    rates = []
    for row, draw in enumerate(((0, 1, 2, 3), (0, 2, 0, 3), (1, 2, 2, 3))):
        text = "Measured: five requests per verb, red is misaligned"
        if row:
            text = f"Draw {row}: four verbs, drawn with repetition, all their requests with them"
        y = 24 + 88 * row
        d.note(20, y, text, SOFT if row else INK, font_weight="" if row else "bold")
        for place, (verb, wrong) in enumerate(VERBS[which] for which in draw):
            x = 20 + 190 * place
            d.box(x, y + 16, 160, 52, colour=RULE)
            d.words(x + 80, y + 30, verb, size=12, font_family=MONO)
            for request in range(5):
                colour = RED if request < wrong else BLUE
                d.dot(x + 32 + 24 * request, y + 52, colour, square=colour == BLUE)
        rates.append(f"{sum(VERBS[which][1] for which in draw) / 20:.0%}")
    said = f"Measured {rates[0]}; draws {rates[1]}, {rates[2]}, and many more: the middle 95% are the interval."
    d.title(20, 292, said)
    why = "Requests with one verb stand and fall together, so drawing single requests would make it too narrow."
    d.note(20, 316, why, size=12)
    few = "With few verbs, as here, it is still too narrow: the workbook adds half verbs (primer A2)."
    d.note(20, 336, few, size=12)


def chain(d: Drawing, steps: Sequence[tuple[str, str, str]], width: float = 128) -> None:
    """Boxes from left to right, joined by arrows, each with a question below it."""
    for place, (step, question, colour) in enumerate(steps):
        x = 20 + (width + 22) * place
        d.box(x, 24, width, 56, step, colour, font_weight="bold")
        d.words(x + width / 2, 124, question, SOFT, size=12)
        if place:
            d.arrow((x - 20, 52), (x - 3, 52))


def standard(d: Drawing) -> None:
    """How a printed number becomes a verdict: cells give an effect per unit, units give a mean with
    its interval and p value, the p value is multiplied by the fixed number of claims, and below
    each step stands the question to ask there."""
    chain(d, [
        ("printed cells", "Do counts and\naverages fit?", BLUE),
        ("effect per unit", "What is a unit?\nCompared with what?", BLUE),
        ("mean, interval,\np value", "Does one unit\ncarry it?", ORANGE),
        ("p × 20", "How many claims\nwere asked?", VIOLET), ("verdict", "Could it have come\nout otherwise?", GREEN),
    ])  # fmt: skip


def road(d: Drawing) -> None:
    """The road of a measurement on your own model: the model, what fits, prompts, a judge, how many
    prompts an answer needs, the run, and the claims page, each with what goes wrong there."""
    chain(d, [
        ("model", "thinks in a way\nof its own", BLUE), ("fit", "long thoughts\nneed room", BLUE),
        ("prompts", "in a language it\ndoes not speak", ORANGE), ("judge", "debris counted\nas harm", ORANGE),
        ("how many", "too few to\nsay anything", VIOLET), ("run", "thoughts that\nare cut off", VIOLET),
        ("claims page", "noise read as\na finding", GREEN),
    ], 104)  # fmt: skip


def plane(d: Drawing) -> None:
    """The plane of repairs: to the right more maths is left, further down there is less
    misalignment; a repair that another one beats in both is dominated, and those that none beats
    are the front."""
    d.arrow((70, 250), (500, 250), SOFT)
    d.arrow((70, 250), (70, 24), SOFT)
    d.words(285, 272, "maths that is left", SOFT)
    d.note(78, 28, "misalignment")
    repairs = {"tuned": (455, 60, RED), "a": (400, 150, GREEN), "b": (300, 200, GREEN), "c": (270, 110, RULE)}
    d.line((455, 40), (455, 60), (400, 60), (400, 150), (300, 150), (300, 200), (80, 200), colour=GREEN, dash="5 4")
    for name, (x, y, colour) in repairs.items():
        d.dot(x, y, colour, radius=8)
        d.note(x + 14, y, name, INK)
    d.arrow((448, 72), (408, 138), INK)
    d.note(530, 60, "tuned: the sums are learned,\nand misalignment has risen", RED)
    d.note(530, 130, "tuned, a and b are on the front:\nwho wants less misalignment\nhas to pay with maths", GREEN)
    d.note(530, 206, "c is dominated: a leaves more maths\nand less misalignment", SOFT)


DIAGRAMS: dict[str, tuple[Callable[[Drawing], None], int, int]] = {  # what draws it, width, height
    "transformer": (transformer, 690, 520), "modes": (modes, 720, 352), "organisms": (organisms, 820, 304),
    "thoughts": (thoughts, 720, 236),
    "probe": (probe, 740, 310), "projection": (projection, 700, 270), "ablation": (ablation, 760, 304),
    "mask": (mask, 820, 356), "ranks": (ranks, 690, 276), "ras": (ras, 800, 286),
    "openings": (openings, 720, 268), "bootstrap": (bootstrap, 770, 356),
    "standard": (standard, 768, 156), "road": (road, 900, 156),
    "plane": (plane, 800, 286),
}  # fmt: skip


def drawn(name: str) -> str:
    """The SVG of a diagram, an element a line."""
    draw, *size = DIAGRAMS[name]
    sheet = Drawing(*size, " ".join(draw.__doc__.split()))
    draw(sheet)
    return sheet.svg


if __name__ == "__main__":
    for name in DIAGRAMS:
        Path(__file__).with_name(f"{name}.svg").write_text(drawn(name) + "\n", encoding="utf-8")
