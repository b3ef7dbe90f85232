"""The directive `{book-map}`: a story on its way to pictures, and which chapter opens which part.

Drawn when the site is built, from the chapters that exist: a part whose chapter is still to be written has a
dashed outline. It is inline SVG in the theme's own colours, so it follows light and dark, and it is narrow
enough for a phone.
"""

from html import escape

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

WIDTH, HEIGHT, BOX_H = 440, 594, 58

# key: x, y, width, title, file, numbers of the chapters that open it
BOXES = {
    "story": (120, 8, 200, "story text", "story.py", ("00", "10")),
    "tokens": (10, 104, 190, "words to tokens", "tokens.py", ("02",)),
    "identity": (240, 104, 190, "pictures to identity", "identity.py", ("03",)),
    "loop": (120, 200, 200, "denoising loop", "denoising.py", ("01", "04")),
    "unet": (10, 308, 190, "U-Net", "micro SDXL", ("01",)),
    "attention": (240, 308, 190, "shared self-attention", "attention.py", ("05", "06", "07")),
    "panels": (120, 430, 200, "decoder: panels", "pipeline.py", ("00", "01")),
    "motion": (10, 528, 190, "panels to video", "motion.py", ("08", "09")),
    "judge": (240, 528, 190, "the same character?", "judge.py", ("00", "01")),
}
ARROWS = [
    ("story", "tokens"),
    ("story", "identity"),
    ("tokens", "loop"),
    ("identity", "loop"),
    ("loop", "unet"),
    ("unet", "attention"),
    ("attention", "panels"),
    ("panels", "motion"),
    ("panels", "judge"),
]
SAYS = (
    "Map of the book, from top to bottom. A story text becomes tokens (chapter 2) and, where pictures of "
    "a character are given, an identity (chapter 3). Both steer the denoising loop (chapters 1 and 4), "
    "whose U-Net (chapter 1) works on all panels at once and lets them read each other through shared "
    "self-attention (chapters 5 to 7). The decoder turns the result into panels (chapters 0 and 1), which "
    "are animated (chapters 8 and 9) and judged for being the same character."
)


def _box(key: str, written: set[str]) -> str:
    x, y, w, title, file, numbers = BOXES[key]
    to_come = " to-come" if not written.intersection(numbers) else ""
    named = ", ".join(str(int(n)) for n in numbers)
    where = f"chapter{'s' if len(numbers) > 1 else ''} {named}"
    mid = x + w / 2
    return (
        f'<g class="part{to_come}"><rect x="{x}" y="{y}" width="{w}" height="{BOX_H}" rx="10"/>'
        f'<text class="title" x="{mid}" y="{y + 23}">{escape(title)}</text>'
        f'<text class="where" x="{mid}" y="{y + 44}">{escape(file)} · {where}</text></g>'
    )


def _arrow(start: str, end: str) -> str:
    (x0, y0, w0, *_), (x1, y1, w1, *_) = BOXES[start], BOXES[end]
    if y0 == y1:  # neighbours: read and be read
        y = y0 + BOX_H / 2
        return f'<path d="M{x0 + w0 + 2} {y} H{x1 - 3}" marker-start="url(#tip)" marker-end="url(#tip)"/>'
    a, b = x0 + w0 / 2, x1 + w1 / 2
    top, bottom = y0 + BOX_H + 2, y1 - 3
    half = (top + bottom) / 2
    return f'<path d="M{a} {top} C{a} {half} {b} {half} {b} {bottom}" marker-end="url(#tip)"/>'


def draw(written: set[str]) -> str:
    return "".join(
        [
            f'<figure class="book-map"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" ',
            f'aria-label="{escape(SAYS)}">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" ',
            'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 Z"/></marker></defs>',
            '<rect class="loop" x="2" y="296" width="436" height="108" rx="14"/>',
            '<text class="note" x="118" y="390">at every step, all panels at once</text>',
            *(_arrow(a, b) for a, b in ARROWS),
            *(_box(k, written) for k in BOXES),
            "</svg></figure>",
        ]
    )


class BookMap(SphinxDirective):
    def run(self):
        written = {d.split("/")[1][:2] for d in self.env.found_docs if d.startswith("notebooks/")}
        return [nodes.raw("", draw(written), format="html")]


def setup(app):
    app.add_directive("book-map", BookMap)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
