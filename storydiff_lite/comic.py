"""From panels to a comic: layouts, and captions that are never lost.

A caption stands in a box of its own under its picture, inside the same frame. It wraps, words too long for a
line are broken, and the box grows until all of it is there. A letter that the font does not have is an error
before anything is drawn, not an empty square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from .figures import to_image

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
    images : list of pictures (see `figures.to_image`)
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
        does not have, a file that is no font.
    """
    images = [to_image(i) for i in images]
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
    for i, (left, top, right, end), tall, (face, lines, step, _) in drawn:
        pen.rectangle((left, top, right - 1, end - 1), CREAM)
        page.paste(images[i].resize((right - left, tall), Image.BICUBIC), (left, top))
        if end > top + tall:
            pen.line((left, top + tall, right - 1, top + tall), INK, line)
        start = top + tall + (end - top - tall - step * len(lines)) // 2
        for k, text in enumerate(lines):
            pen.text(((left + right) / 2, start + k * step), text, INK, face, anchor="ma")
        pen.rectangle((left, top, right - 1, end - 1), outline=INK, width=line)
    return page


def _box(caption, width, size, font):
    """A caption's letters, lines and their distance, and how high its box is."""
    face = _face(font, max(11, round((size + width) / 34)))  # a little larger in a large panel
    pad, step = max(6, face.size // 2), sum(face.getmetrics()) * 9 // 8
    lines = wrap(caption, width - 2 * pad, face)
    return face, lines, step, (2 * pad + step * len(lines) if lines else 0)


def wrap(text, width, face):
    """Lines of at most ``width`` pixels; words too long for one are broken, nothing is dropped.

    Parameters
    ----------
    text : str
    width : int
    face : ImageFont.FreeTypeFont

    Returns
    -------
    list of str
    """
    lines = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and face.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while face.getlength(word) > width and len(word) > 1:
            some = max(1, _fitting(word, width, face))
            lines.append(word[:some])
            word = word[some:]
        lines.append(word)
    return lines


def _fitting(word, width, face):
    """How many letters of a word fit into a line."""
    low, high = 1, len(word)
    while low < high:
        middle = math.ceil((low + high) / 2)
        low, high = (middle, high) if face.getlength(word[:middle]) <= width else (low, middle - 1)
    return low


# ------------------------------------------------------------------------------------------------- letters


def default_font():
    """DejaVu Sans, from matplotlib's own files: there is one on every machine."""
    return Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def check_letters(captions, font=None):
    """The font's file, if it has every letter of the captions.

    Raises
    ------
    ValueError
        A file that is missing or is no font; letters that it does not have.
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
    for number, caption in enumerate(captions, 1):
        missing = sorted({c for c in caption if ord(c) not in known and not c.isspace()})
        if missing:
            raise ValueError(
                f"The font {path.name} has no {' '.join(map(repr, missing[:8]))} in the caption of "
                f"panel {number}. Give a font that has (font=..., or --font on the command line)."
            )
    return path


@lru_cache(maxsize=8)
def _letters(path):
    return frozenset(FT2Font(path).get_charmap())


@lru_cache(maxsize=32)
def _face(path, size):
    # the basic layout is the same on every machine; the other one needs a library that some lack
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
