"""The directive ``{primer-figure}``, of ``convolution`` or ``attention``: the two figures of the primer.

Drawn when the site is built, as inline SVG in the theme's own colours, so that they follow light and dark.
They are narrow enough for a phone.
"""

import math
from html import escape

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

INK, MUTED = "var(--pst-color-text-base)", "var(--pst-color-text-muted)"
LINE, BACK = "var(--pst-color-primary)", "var(--pst-color-surface)"
#: the numbers of both figures; what they show is computed from them
PICTURE = ((0, 0, 0, 1, 1), (0, 0, 0, 1, 1), (0, 0, 0, 1, 1), (0, 0, 0, 1, 1), (0, 0, 0, 1, 1))
KERNEL = ((-1, 0, 1), (-1, 0, 1), (-1, 0, 1))
SCORES = (2.0, 0.0, 1.0, -1.0)
VALUES = (4, 0, 2, 8)


def convolve(picture=PICTURE, kernel=KERNEL):
    """As `torch.nn.functional.conv2d` does it, one channel, stride 1, no padding."""
    k, n = len(kernel), len(picture) - len(kernel) + 1
    return [
        [sum(picture[y + i][x + j] * kernel[i][j] for i in range(k) for j in range(k)) for x in range(n)]
        for y in range(n)
    ]


def softmax(scores=SCORES):
    powers = [math.exp(s) for s in scores]
    return [p / sum(powers) for p in powers]


def text(x, y, said, size=16, colour=INK, anchor="middle", weight=400):
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'style="fill: {colour}">{escape(str(said))}</text>'
    )


def cell(x, y, size, said, strong=False, wide=None):
    line = f"stroke: {LINE if strong else MUTED}; stroke-width: {2.6 if strong else 1}; fill: {BACK}"
    w = wide or size
    return f'<rect x="{x}" y="{y}" width="{w}" height="{size}" style="{line}"/>' + text(
        x + w / 2, y + size / 2 + 6, said, 17
    )


def arrow(x, y, to_x, to_y):
    style = f"stroke: {MUTED}; stroke-width: 1.6"
    return f'<path d="M{x} {y} L{to_x} {to_y}" marker-end="url(#primer-tip)" style="{style}"/>'


def whole(width, height, alt, parts):
    tip = (
        '<defs><marker id="primer-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 L8 4 L0 8 Z" style="fill: {MUTED}"/></marker></defs>'
    )
    style = "display: block; width: 100%; max-width: 30rem; margin-inline: auto; "
    style += "font-family: var(--pst-font-family-base)"
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}" style="{style}">'
        f"{tip}{''.join(parts)}</svg></figure>"
    )


def convolution() -> str:
    """A kernel on a picture with an edge, and what comes out."""
    out, s, top = convolve(), 30, 40
    parts = [text(85, 24, "picture [5, 5]", weight=600), text(238, 24, "kernel [3, 3]", weight=600)]
    parts += [text(375, 24, "output [3, 3]", weight=600)]
    for y, row in enumerate(PICTURE):  # what the kernel lies on is drawn last, over its neighbours' lines
        parts += [
            cell(10 + s * x, top + s * y, s, v) for x, v in enumerate(row) if not (y < 3 and 1 <= x < 4)
        ]
    parts += [cell(10 + s * x, top + s * y, s, PICTURE[y][x], True) for y in range(3) for x in range(1, 4)]
    parts += [
        cell(193 + s * x, top + s * y, s, v, True) for y, row in enumerate(KERNEL) for x, v in enumerate(row)
    ]
    parts += [
        cell(330 + s * x, top + s * y, s, v)
        for y, row in enumerate(out)
        for x, v in enumerate(row)
        if (x, y) != (1, 0)
    ]
    parts += [
        cell(330 + s, top, s, out[0][1], True),
        text(177, top + 50, "×", 20),
        arrow(287, top + 45, 324, top + 45),
    ]
    parts += [
        text(300, 162, "multiply place by place,", 15, MUTED),
        text(300, 182, "add: one number", 15, MUTED),
    ]
    alt = (
        "A convolution. Left, a picture of 5 by 5 places: the left three columns are 0, the right two are 1. "
        "A window of 3 by 3 places in it has a thick outline: upper rows, second to fourth column. Middle, a "
        "kernel of 3 by 3 numbers, each row -1, 0, 1. Place by place window and kernel are multiplied, "
        "and the products are added: one number of the output of 3 by 3 places, here "
        f"{out[0][1]}. Each row of the output is {', '.join(map(str, out[0]))}: large where the kernel meets "
        "the edge of the picture."
    )
    return whole(440, 200, alt, parts)


def attention() -> str:
    """One query over four keys: scores, softmax, weighted mean."""
    weights = softmax()
    mean = sum(w * v for w, v in zip(weights, VALUES, strict=True))
    left, s, step = 128, 30, 82
    parts = [text(8, 45, "query [d]", anchor="start", weight=600)]
    rows = (("keys [4, d]", 100), ("scores [4]", 160), ("weights [4]", 220), ("values [4]", 310))
    parts += [text(8, y + 20, said, anchor="start", weight=600) for said, y in rows]
    parts += [cell(left + 1.5 * step, 25, s, "q", True, 68)]
    for k, (score, weight, value) in enumerate(zip(SCORES, weights, VALUES, strict=True)):
        x = left + k * step
        parts += [arrow(left + 1.5 * step + 34, 57, x + 34, 96), cell(x, 100, s, f"k{k + 1}", wide=68)]
        parts += [arrow(x + 34, 132, x + 34, 157), cell(x, 160, s, f"{score:g}", wide=68)]
        parts += [arrow(x + 34, 192, x + 34, 217), cell(x, 220, s, f"{weight:.2f}", wide=68)]
        bar = f"fill: {LINE}"
        parts += [f'<rect x="{x}" y="255" width="{68 * weight:.1f}" height="10" style="{bar}"/>']
        parts += [text(x + 34, 292, "×", 18), cell(x, 310, s, value, wide=68)]
        parts += [arrow(x + 34, 342, left + 1.5 * step + 34, 377)]
    parts += [
        text(8, 400, "output [1]", anchor="start", weight=600),
        cell(left + 1.5 * step, 380, s, f"{mean:.2f}", True, 68),
    ]
    parts += [text(8, 199, "softmax", 15, MUTED, "start"), text(8, 260, "sum is 1", 15, MUTED, "start")]
    parts += [text(8, 350, "add up", 15, MUTED, "start")]
    alt = (
        "Attention of one query over four keys, from top to bottom. The query is compared with each key; the "
        f"scores are {', '.join(f'{x:g}' for x in SCORES)}. A softmax turns them into weights that sum to 1: "
        f"{', '.join(f'{w:.2f}' for w in weights)}. Each key has a value: {', '.join(map(str, VALUES))}. The "
        f"output is the mean of the values with these weights, {mean:.2f}."
    )
    return whole(456, 420, alt, parts)


FIGURES = {"convolution": convolution, "attention": attention}


class PrimerFigure(SphinxDirective):
    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        drawn = FIGURES[name]().replace("primer-tip", f"primer-tip-{name}")  # an id is on a page once
        return [nodes.raw("", drawn, format="html")]


def setup(app):
    app.add_directive("primer-figure", PrimerFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
