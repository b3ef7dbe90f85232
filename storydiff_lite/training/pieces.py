"""A picture of StoryWorld as a list of pieces: shapes of one part of one thing, laid down together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from PIL import Image, ImageDraw, ImageFilter

from .. import world
from ..world import rendering

EYES = ("eye_l", "eye_r")
_KIND = {
    "head": "head",
    "face": "head",
    "hair": "head",
    "ear": "head",
    "face/eye_l": "eye_l",
    "face/eye_r": "eye_r",
    "accessory": "accessory",
    "prop/balloon": "balloon",
    "scenery/sun": "sun",
    "scenery/moon": "moon",
}
_BODY = ("body", "arm_l", "arm_r", "leg_l", "leg_r", "tail")


@dataclass
class Piece:
    """Shapes that are laid down together.

    Parameters
    ----------
    kind : str
        A key of `counting.SHARES`, or ``""`` for what is not counted.
    thing : int
        Which head, body, ... it belongs to; an eye has the number of its head.
    shapes : list
        As in ``world.shapes.Sketch.shapes``.
    opacity : float
        0..1; a faint one lets through what lies behind.
    part : str
        The part's name in the sketch, without its actor.
    """

    kind: str
    thing: int
    shapes: list
    opacity: float = 1.0
    part: str = ""


def pieces(picture: world.Picture) -> list[Piece]:
    """The pieces of a picture, in the order in which they are laid down."""
    found = []
    for shape in rendering.sketch(picture).shapes:
        actor, dot, part = shape[0].partition(".")
        part, thing = (part, int(actor)) if dot else (shape[0], 0)
        kind = "body" if part in _BODY else _KIND.get(part, "")
        if found and (found[-1].part, found[-1].thing) == (part, thing) and not (not dot and part in _KIND):
            found[-1].shapes.append(shape)
        else:
            found.append(Piece(kind, thing if dot else 0, [shape], 1.0, part))
    return found


def paint(found: list[Piece], size: int, smears=()) -> Image.Image:
    """Draw pieces, as ``world.render`` does; ``smears`` are circles (x, y, radius) that are wiped over."""
    k = rendering.oversampling(size)
    side = size * k
    image = Image.new("RGB", (side, side), world.INK)
    for opacity, group in groupby(found, lambda p: p.opacity):
        canvas = image.copy() if opacity < 1 else image
        for p in group:
            rendering.paint(ImageDraw.Draw(canvas), p.shapes, side)
        if opacity < 1:
            image = Image.blend(image, canvas, opacity)
    image = image.reduce(k)
    for x, y, r in smears:
        where = Image.new("L", image.size, 0)
        box = [(x - r) * size, (y - r) * size, (x + r) * size, (y + r) * size]
        ImageDraw.Draw(where).ellipse(box, fill=255)
        where = where.filter(ImageFilter.GaussianBlur(size / 64))
        image = Image.composite(image.filter(ImageFilter.GaussianBlur(r * size * 0.34)), image, where)
    return image
