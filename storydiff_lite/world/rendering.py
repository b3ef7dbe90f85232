"""From a picture to its pixels, to the mask of every part, and to the true place of every joint."""

import random

import numpy as np
from PIL import Image, ImageDraw

from .backdrops import BACKDROPS
from .bodies import Body
from .pictures import Picture
from .shapes import Sketch
from .vocabulary import INK


def sketch(picture: Picture) -> Sketch:
    """The shapes and joints of a picture."""
    s = Sketch()
    BACKDROPS[picture.scene](s, random.Random(f"{picture.scene}/{picture.seed}"))
    for i, actor in enumerate(picture.actors):
        Body(s, i, actor).draw()
    return s


def oversampling(size: int) -> int:
    """How many times larger a picture is drawn before it is reduced: Pillow's polygons have hard edges."""
    return 4 if size <= 64 else 3 if size <= 160 else 2


def render(picture: Picture, size: int = 64) -> Image.Image:
    """Draw a picture.

    Parameters
    ----------
    picture : Picture
    size : int
        Height and width in pixels, 8..2048.

    Returns
    -------
    PIL.Image.Image
        RGB, ``size`` x ``size``.

    Raises
    ------
    ValueError
        For any other size.
    """
    if not 8 <= size <= 2048:
        raise ValueError(f"A picture of {size} pixels cannot be drawn: choose a size from 8 to 2048.")
    k = oversampling(size)
    side = size * k
    image = Image.new("RGB", (side, side), INK)
    paint(ImageDraw.Draw(image), sketch(picture).shapes, side)
    return image.reduce(k)


def paint(draw, shapes, side):
    """Lay shapes down on a canvas ``side`` pixels high."""
    for _, pts, fill, grown, ink in shapes:
        if grown is not None:
            draw.polygon((grown * side).ravel().tolist(), fill=INK)
        xy = (pts * side).ravel().tolist()
        if ink:
            draw.line(xy + xy[:4], fill=INK, width=max(1, round(2 * ink * side)), joint="curve")
        draw.polygon(xy, fill=fill)


def strip(pictures, size: int = 64) -> Image.Image:
    """Several pictures on one canvas, side by side: a comic strip, ``size`` high and n x ``size`` wide."""
    canvas = Image.new("RGB", (size * len(pictures), size))
    for i, p in enumerate(pictures):
        canvas.paste(render(p, size), (i * size, 0))
    return canvas


def masks(picture: Picture, size: int = 64) -> dict[str, np.ndarray]:
    """Which pixels show which part.

    Returns
    -------
    dict
        ``"sky"``, ``"ground"``, ``"scenery"`` and, for the i-th actor, ``"i.head"``, ``"i.body"``,
        ``"i.accessory"``, ...; each bool [size, size].  Every pixel belongs to exactly one part (ink
        outlines to the part they outline); parts that are wholly hidden have no pixel.
    """
    shapes = [(name.partition("/")[0], *rest) for name, *rest in sketch(picture).shapes]
    names = list(dict.fromkeys(name for name, *_ in shapes))
    image = Image.new("I", (size * 3, size * 3), 0)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        cover(draw, shape, names.index(shape[0]), size * 3)
    index = np.asarray(image)[1::3, 1::3]
    return {name: index == i for i, name in enumerate(names)}


def cover(draw, shape, value, side, corner=0.0):
    """Set the pixels of a shape, its outline among them, on a canvas ``side`` pixels a picture height that
    begins at ``corner`` of the picture.
    """
    _, pts, _, grown, ink = shape
    xy = (((pts if grown is None else grown) - corner) * side).ravel().tolist()
    draw.polygon(xy, fill=value)
    if ink:
        draw.line(xy + xy[:4], fill=value, width=max(1, round(2 * ink * side)), joint="curve")


def joints(picture: Picture) -> dict[str, tuple[float, float]]:
    """True positions ``{"0.head": (x, y), "0.hand_r": ...}`` in picture heights from the top left."""
    return {k: (float(x), float(y)) for k, (x, y) in sketch(picture).joints.items()}
