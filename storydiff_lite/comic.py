"""From panels to a comic: layouts, and captions that are never lost.

A caption stands in a box of its own under its picture, inside the same frame. It wraps, words too long for a
line are broken, and the box grows until all of it is there. A letter that the font does not have is an error
before anything is drawn, not an empty square. So is a script that is written from right to left, or whose
letters change with their neighbours (Hebrew, Arabic, Devanagari, Thai), where Pillow has no Raqm for it.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, features

from .show import figures

INK, PAPER, CREAM = (32, 26, 40), (255, 255, 255), (255, 250, 232)

LAYOUTS = ("strip", "page", "mixed")


@dataclass(frozen=True)
class Stack:
    """Panels one below the other, of one width.

    Parameters
    ----------
    panels : tuple of int
        From 0, from top to bottom.
    span : int
        Columns of the page that they are wide.
    """

    panels: tuple[int, ...]
    span: int = 1


def plan(panels, layout="page"):
    """Which panels stand where.

    Parameters
    ----------
    panels : int
        At least 1.
    layout : {"strip", "page", "mixed"}
        All in one row; pages of two by two, one below the other; or a page of large and small panels.

    Returns
    -------
    (int, list of lists of Stack)
        Number of columns, and the bands from top to bottom, each from left to right: the reading order.

    Raises
    ------
    ValueError
    """
    if layout not in LAYOUTS:
        raise ValueError(f"There is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}.")
    if panels < 1:
        raise ValueError("A comic needs at least one panel.")
    if layout == "mixed" and panels > 1:
        return 6, _mixed(panels)
    columns = panels if layout == "strip" else min(2, panels)
    rows = [range(i, min(i + columns, panels)) for i in range(0, panels, columns)]
    return columns, [[Stack((i,)) for i in row] for row in rows]


def _mixed(panels):
    """Six columns: large beside two small, three small, two small beside large, ...; halves at the end."""
    threes = (panels // 3) if panels % 3 != 1 else (panels - 4) // 3
    bands = []
    for k in range(threes):
        i = 3 * k
        shapes = (
            [Stack((i,), 4), Stack((i + 1, i + 2), 2)],
            [Stack((i + j,), 2) for j in range(3)],
            [Stack((i, i + 1), 2), Stack((i + 2,), 4)],
        )
        bands.append(shapes[(0, 1, 2, 1)[k % 4]])
    return bands + [[Stack((i,), 3), Stack((i + 1,), 3)] for i in range(3 * threes, panels, 2)]


def comic(images, captions, layout="page", font=None, size=None):
    """A comic page.

    Parameters
    ----------
    images : list of pictures (see `show.figures.to_image`)
        All of one shape.
    captions : list of str
        One a panel, may be empty.
    layout : {"strip", "page", "mixed"}
    font : str or Path, optional
        A TrueType or OpenType file; DejaVu Sans by default.
    size : int, optional
        Width of a small panel in pixels, at least 64; the pictures' own, and at least 256, by default.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    ValueError
        Another number of captions than of pictures, pictures of different shapes, a letter that the font
        does not have or that cannot be laid out here, a file that is no font.
    """
    captions = [_composed(c) for c in captions]
    images = [figures.to_image(i) for i in images]
    if len(images) != len(captions):
        raise ValueError(f"There are {len(images)} pictures and {len(captions)} captions: give one each.")
    columns, bands = plan(len(images), layout)
    if len({i.size for i in images}) > 1:
        raise ValueError(f"The pictures differ in size: {sorted({i.size for i in images})}.")
    width, height = images[0].size
    size = max(256, width) if size is None else size
    if size < 64:
        raise ValueError(f"The panels would be {size} pixels wide; they must have at least 64.")
    font = check_letters(captions, font)
    gap = max(6, size // 24) // 2 * 2 + size % 2  # of the same parity, so that half a panel is whole pixels
    column = (size - gap) // 2 if columns == 6 and layout == "mixed" else size
    line = max(2, size // 96)

    def wide(span):
        return span * column + (span - 1) * gap

    y, drawn = gap, []
    for band in bands:
        x, stacks = gap, []
        for stack in band:
            w = wide(stack.span)
            boxes = [_box(captions[i], w, size, str(font)) for i in stack.panels]
            stacks.append((x, w, round(w * height / width), stack, boxes))
            x += w + gap
        bottom = max(
            y + len(boxes) * (tall + gap) - gap + sum(box[-1] for box in boxes)
            for _, _, tall, _, boxes in stacks
        )
        for x, w, tall, stack, boxes in stacks:
            top = y
            for i, box in zip(stack.panels, boxes, strict=True):
                end = bottom if i == stack.panels[-1] else top + tall + box[-1]
                drawn.append((i, (x, top, x + w, end), tall, box))
                top = end + gap
        y = bottom + gap

    page = Image.new("RGB", (wide(columns) + 2 * gap, y), PAPER)
    pen = ImageDraw.Draw(page)
    for i, (left, top, right, end), tall, (face, lines, step, how, _) in drawn:
        pen.rectangle((left, top, right - 1, end - 1), CREAM)
        page.paste(images[i].resize((right - left, tall), Image.BICUBIC), (left, top))
        if end > top + tall:
            pen.line((left, top + tall, right - 1, top + tall), INK, line)
        start = top + tall + (end - top - tall - step * len(lines)) // 2
        for k, text in enumerate(lines):
            pen.text(((left + right) / 2, start + k * step), text, INK, face, anchor="ma", **how)
        pen.rectangle((left, top, right - 1, end - 1), outline=INK, width=line)
    return page


def _box(caption, width, size, font):
    """A caption's letters, lines, their distance and direction, and how high its box is."""
    shaped = needs_shaping(caption)
    how = {"direction": direction(caption)} if shaped else {}
    face = _face(font, max(11, round((size + width) / 34)), shaped)  # a little larger in a large panel
    pad, step = max(6, face.size // 2), sum(face.getmetrics()) * 9 // 8
    lines = wrap(caption, width - 2 * pad, face, **how)
    return face, lines, step, how, (2 * pad + step * len(lines) if lines else 0)


def wrap(text, width, face, direction=None):
    """Lines of at most ``width`` pixels in this face; words too long for one are broken, nothing is dropped.

    ``direction``, ``"ltr"`` or ``"rtl"``, is for a face that lays a text out by Raqm.
    """

    length = partial(face.getlength, direction=direction)

    def pieces(word):
        parts = _clusters(word)
        while len(parts) > 1 and length("".join(parts)) > width:
            # as many as fit, at least one
            n = bisect(range(2, len(parts)), width, key=lambda n: length("".join(parts[:n]))) + 1
            yield "".join(parts[:n])
            parts = parts[n:]
        yield "".join(parts)

    return figures.wrap(text, width, face, direction, pieces)


def _clusters(word):
    """Its letters, each with the marks on it: between them a word may be broken."""
    parts = []
    for c in word:
        if parts and (_is_mark(c) or c in JOINERS or parts[-1][-1] == JOINERS[-1]):
            parts[-1] += c
        else:
            parts.append(c)
    return parts


# ------------------------------------------------------------------------------------------------- letters


def default_font():
    """DejaVu Sans, from matplotlib's own files: there is one on every machine."""
    return Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def check_letters(captions, font=None):
    """The font's file, if it has every letter of the captions.

    Raises
    ------
    ValueError
        A file that is missing or is no font; letters that it does not have, or that need Raqm where there is
        none.
    """
    path = Path(font) if font is not None else default_font()
    if not path.is_file():
        raise ValueError(f"There is no font file {path}. Give a .ttf or .otf file.")
    try:
        known = _letters(str(path))
        _face(str(path), 12)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} is no font that can be read ({error}). Give a .ttf or .otf file."
        ) from error
    for number, caption in enumerate(map(_composed, captions), 1):
        missing = sorted(
            {
                c
                for c in caption
                if ord(c) not in known and not c.isspace() and unicodedata.category(c) != "Cf"
            }
        )
        if missing:
            raise ValueError(
                f"The font {path.name} has no {' '.join(map(repr, missing[:8]))} in the caption of "
                f"panel {number}. Give a font that has (font=..., or --font on the command line)."
            )
        if (sign := needs_shaping(caption)) and not features.check("raqm"):
            raise ValueError(
                f"The caption of panel {number} has {sign!r} ({unicodedata.name(sign, 'without a name')}), "
                "which is written from right to left or changes with its neighbours. Pillow needs Raqm and "
                "FriBiDi to lay that out, and does not find them here: install FriBiDi (apt install "
                "libfribidi0, brew install fribidi) and Pillow from PyPI, or write the caption in another "
                "script."
            )
    return path


#: characters that nobody sees and that change nothing in a line: dropped
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufe0e\ufe0f\ufeff"))
#: what forbids and asks for the joining of two letters
JOINERS = "\u200c\u200d"
#: letters that are joined, though without marks and from left to right: Mongolian, Phags-pa, old Hangul
_JOINED = ("\u1800\u18af", "\ua840\ua877", "\u1100\u11ff", "\ua960\ua97c", "\ud7b0\ud7fb")


def _composed(caption):
    """A caption whose accents are parts of their letters, where there are such letters (Unicode's NFC)."""
    return unicodedata.normalize("NFC", caption.translate(_UNSEEN))


def _is_mark(c):
    """Whether a character is written on, below or around the one before it."""
    return unicodedata.category(c)[0] == "M"


def needs_shaping(text):
    """The first character that cannot be lettered one by one from left to right, or None.

    That is: one of a script that is written from right to left, a mark on a letter, a control of direction or
    of joining, or one of a script whose letters are joined.
    """
    for c in text:
        if c.isascii():
            continue
        if (
            unicodedata.bidirectional(c) in ("R", "AL", "AN")
            or _is_mark(c)
            or unicodedata.category(c) == "Cf"
        ):
            return c
        if any(first <= c <= last for first, last in _JOINED):
            return c
    return None


def direction(text):
    """``"rtl"`` where the first letter of a text is of a script that is written so, ``"ltr"`` otherwise."""
    kinds = (unicodedata.bidirectional(c) for c in text)
    first = next((kind for kind in kinds if kind in ("L", "R", "AL")), "L")
    return "ltr" if first == "L" else "rtl"


@lru_cache(maxsize=8)
def _letters(path):
    return frozenset(FT2Font(path).get_charmap())


@lru_cache(maxsize=32)
def _face(path, size, shaped=False):
    # the basic layout is the same on every machine; Raqm is not everywhere, and not of one version
    engine = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(path, size, layout_engine=engine)
