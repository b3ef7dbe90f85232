"""Pictures on a page: every one with words for those who cannot see it.

`show` is the one way in which a chapter shows a picture; it insists on an alternative text. `strip` and
`grid` put panels together. Small pictures are enlarged smoothly, diagrams are drawn at 100 dpi.
"""

from __future__ import annotations

import base64
import html
import io
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..pictures import as_floats, as_shown

#: colours that readers with a colour-vision deficiency tell apart (Okabe and Ito, 2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK, PAPER, MUTED = (44, 36, 52), (255, 255, 255), (92, 84, 100)


def to_image(picture) -> Image.Image:
    """A PIL picture of anything that is one.

    Parameters
    ----------
    picture : PIL.Image.Image, array or tensor
        As of `pictures.as_floats`; floats outside of 0..1, as noisy latents decode to, are clipped.

    Raises
    ------
    TypeError
        Something else; the message names the shape.
    ValueError
        Numbers of another range, such as floats in 0..255, or none (nan): all of it would be white, or black.
    """
    if isinstance(picture, Image.Image):
        return as_shown(picture)
    x = np.clip(as_floats(picture, "This", beyond=9), 0, 1)
    return Image.fromarray((x * 255).round().astype(np.uint8))


def enlarge(picture, size: int) -> Image.Image:
    """The picture ``size`` pixels high, smoothly (bicubic), its shape kept."""
    picture = to_image(picture)
    w, h = picture.size
    return picture.resize((round(w * size / h), size), Image.BICUBIC)


def show(picture, alt: str, caption: str | None = None, width: int | None = None) -> None:
    """Show a picture on the page.

    Parameters
    ----------
    picture : PIL.Image.Image, array, tensor, list of them (a strip), or matplotlib Figure
        A Figure is closed afterwards. Pictures lower than 128 pixels are enlarged to that.
    alt : str
        What is to be seen, for those who cannot: what it shows and what a reader should notice.
    caption : str, optional
        A line below the picture.
    width : int, optional
        Width on the page in CSS pixels (default: the picture's own).

    Raises
    ------
    ValueError
        ``alt`` is empty.
    """
    show_html(figure_html(picture, alt, caption, width))


def show_html(text: str) -> None:
    """Show HTML on the page."""
    from IPython.display import HTML, display

    display(HTML(text))


def figure_html(picture, alt, caption=None, width=None) -> str:
    """The HTML that `show` displays."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(
            "A picture needs words for readers who cannot see it: show(picture, alt='what it shows')."
        )
    url, (w, h) = data_url(picture)
    shown = width or w
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img src="{url}" alt="{html.escape(alt, quote=True)}" width="{shown}" '
        f'height="{round(h * shown / w)}" style="max-width: 100%; height: auto; border-radius: 6px">'
        f"{below}</figure>"
    )


def table(head, rows, caption: str | None = None) -> None:
    """Show a table on the page (`table_html`)."""
    show_html(table_html(head, rows, caption))


def table_html(head, rows, caption=None) -> str:
    """HTML of a table that scrolls where a page is too narrow for it.

    Parameters
    ----------
    head : list of str
        Names of the columns; the first one says what the rows are.
    rows : list of lists
        The name of a row and its cells; an empty cell is ``""``.
    caption : str, optional
        A line above the table.

    Raises
    ------
    ValueError
        A column without a name, or a row that has not as many cells as there are names.
    """
    if not all(str(h).strip() for h in head):
        raise ValueError("Every column of a table needs a name; the first one says what the rows are.")
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"A row of {len(row)} cells stands under {len(head)} columns: {row[0]}.")

    def line(cells):
        return f"<tr>{''.join(cells)}</tr>"

    top = line(f'<th scope="col">{html.escape(str(h))}</th>' for h in head)
    body = ""
    for name, *cells in rows:
        first = f'<th scope="row">{html.escape(str(name))}</th>'
        body += line([first, *(f"<td>{html.escape(str(c))}</td>" for c in cells)])
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    inner = f"{above}<thead>{top}</thead><tbody>{body}</tbody>"
    return f'<table class="numbers" tabindex="0">{inner}</table>'  # focusable, so that keys can scroll it


def data_url(picture, quality: int = 88) -> tuple[str, tuple[int, int]]:
    """A picture as a ``data:`` address, and its width and height.

    Figures become PNG of at most 100 dpi with few colours; pictures, and figures that hold some, WebP (a
    tenth of PNG's size).
    """
    out = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(out, format="png", dpi=min(100, picture.dpi), facecolor="white", bbox_inches="tight")
        import matplotlib.pyplot as plt

        # in colours, or with a map painted over them
        inside = [[i.get_array().ndim for i in ax.images] for ax in picture.axes]
        holds_pictures = any(len(some) > 1 or 3 in some for some in inside)
        plt.close(picture)
        image = Image.open(io.BytesIO(out.getvalue())).convert("RGB")
        out = io.BytesIO()
        if holds_pictures:  # few colours would make steps in them
            image.save(out, "WEBP", quality=quality, method=6)
            kind = "webp"
        else:
            image.quantize(192, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
            kind = "png"
    else:
        image = strip(picture) if isinstance(picture, (list, tuple)) else to_image(picture)
        if image.height < 128:
            image = enlarge(image, 128)
        image.save(out, "WEBP", quality=quality, method=6)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}", image.size


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, from matplotlib's own files, so that every machine letters alike."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf", name), size)


def wrap(text: str, width: int, face, direction: str | None = None, pieces=None) -> list[str]:
    """Lines of ``text`` that are at most ``width`` pixels wide.

    ``pieces(word)`` gives the lines of a word that begins one: by default the word, be it too long or not.
    """
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(longer, direction=direction) <= width:
            lines[-1] = longer
        else:
            lines += pieces(word) if pieces else [word]
    return lines


def strip(images, captions=None, size: int = 144, gap: int = 6) -> Image.Image:
    """Panels (see `to_image`) side by side, ``size`` pixels high, lettered below; a caption each, long ones
    wrap.
    """
    images = [enlarge(i, size) for i in images]
    if not images:
        raise ValueError("A strip needs at least one panel.")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(images)} panels need as many captions; {len(captions)} were given.")
    face = font(12)
    lines = [wrap(c, i.width, face) for c, i in zip(captions or [], images, strict=False)]
    below = 4 + 15 * max((len(x) for x in lines), default=0) if captions else 0
    page = Image.new("RGB", (sum(i.width + gap for i in images) + gap, size + below + 2 * gap), PAPER)
    pen, x = ImageDraw.Draw(page), gap
    for k, image in enumerate(images):
        page.paste(image, (x, gap))
        for row, line in enumerate(lines[k] if captions else []):
            pen.text((x + image.width / 2, gap + size + 4 + 15 * row), line, INK, face, anchor="ma")
        x += image.width + gap
    return page


def grid(rows, row_labels=None, column_labels=None, size: int = 96, gap: int = 5) -> Image.Image:
    """Rows of pictures (see `to_image`), ``size`` pixels high, with names at the left and above."""
    rows = [[enlarge(i, size) for i in row] for row in rows]
    if not rows or not rows[0]:
        raise ValueError("A grid needs at least one row with one picture.")
    face = font(12)
    for labels, n, what in ((row_labels, len(rows), "rows"), (column_labels, len(rows[0]), "columns")):
        if labels is not None and len(labels) != n:
            raise ValueError(f"{n} {what} need as many labels; {len(labels)} were given.")
    left = 0
    if row_labels:
        left = min(130, int(max(face.getlength(t) for t in row_labels))) + 2 * gap
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(max(map(len, rows)))]
    heads = [wrap(t, w + gap, face) for t, w in zip(column_labels or [], widths, strict=False)]
    top = 15 * max((len(h) for h in heads), default=0) + gap
    page = Image.new(
        "RGB", (left + sum(w + gap for w in widths) + gap, top + len(rows) * (size + gap)), PAPER
    )
    pen = ImageDraw.Draw(page)
    for c, head in enumerate(heads):
        x = left + gap + sum(w + gap for w in widths[:c]) + widths[c] / 2
        for k, line in enumerate(head):
            pen.text((x, top - gap + 2 - 15 * (len(head) - k)), line, INK, face, anchor="ma")
    for r, row in enumerate(rows):
        y = top + r * (size + gap)
        if row_labels:
            lines = wrap(row_labels[r], left - gap, face)
            for k, line in enumerate(lines):
                pen.text((gap, y + size / 2 + 15 * (k - len(lines) / 2)), line, INK, face)
        x = left + gap
        for c, image in enumerate(row):
            page.paste(image, (x + (widths[c] - image.width) // 2, y))
            x += widths[c] + gap
    return page


#: how a chip of each kind is drawn: outline, its width, paper
CHIPS = {
    "text": (INK, 1, (246, 244, 240)),
    "special": (MUTED, 1, (228, 226, 232)),
    "padding": ((150, 146, 156), 1, (250, 250, 250)),
    "class": ((0, 114, 178), 3, (222, 238, 250)),
    "trigger": ((213, 94, 0), 3, (253, 233, 220)),
    "fused": ((0, 130, 96), 3, (218, 244, 234)),
}


def chips(rows, width: int = 760) -> Image.Image:
    """Tokens as chips, row by row; long rows wrap.

    Parameters
    ----------
    rows : list of (name, tokens)
        Tokens are ``(text, below, kind)``: what the chip says, what stands in small letters below it (an id,
        or ``""``), and a kind of `CHIPS`.
    width : int
        Pixels.

    Returns
    -------
    PIL.Image.Image
    """
    face, small, bold = font(13), font(10), font(12, bold=True)
    plan, y = [], 6
    for name, tokens in rows:
        plan.append(("name", 4, y, name, "", ""))
        x, y = 4, y + 20
        for text, below, kind in tokens:
            if kind not in CHIPS:
                raise ValueError(f"There is no chip of kind {kind!r}: use one of {', '.join(CHIPS)}.")
            wide = round(max(face.getlength(text), small.getlength(str(below))) + 14)
            if x + wide > width and x > 4:
                x, y = 4, y + 42
            plan.append((kind, x, y, text, str(below), wide))
            x += wide + 5
        y += 48
    page = Image.new("RGB", (width, y), PAPER)
    pen = ImageDraw.Draw(page)
    for kind, x, y, text, below, wide in plan:
        if kind == "name":
            pen.text((x, y), text, INK, bold)
            continue
        line, thick, paper = CHIPS[kind]
        pen.rounded_rectangle((x, y, x + wide, y + 36), 6, paper, line, thick)
        pen.text((x + wide / 2, y + (4 if below else 10)), text, INK, face, anchor="ma")
        pen.text((x + wide / 2, y + 21), below, MUTED, small, anchor="ma")
    return page


#: how a value that a judge reads is said
LOOKS = {
    "species": "{species}",
    "fur": "{fur} fur",
    "outfit": "{outfit} outfit",
    "accessory": "{accessory_colour} {accessory}",
}


def looks(names, attributes=tuple(LOOKS)) -> str:
    """What a judge reads in pictures, in words, for those who cannot see them.

    Parameters
    ----------
    names : iterable of dict
        Attribute -> value, of each picture: what `StoryJudge.names` returns, or `world.labels` of each.
    attributes : tuple of str
        Those of `LOOKS` to say.

    Returns
    -------
    str
        Such as ``"bear, brown fur, red outfit, blue hat; ..."``.
    """
    return "; ".join(", ".join(LOOKS[a].format(**row) for a in attributes) for row in names)


@contextmanager
def style(**changes):
    """matplotlib's settings for this book, for the figures made inside the ``with``."""
    from cycler import cycler

    ours = {
        "figure.dpi": 100,
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=COLOURS),
        "legend.frameon": False,
    }
    with matplotlib.rc_context(ours | changes):
        yield
