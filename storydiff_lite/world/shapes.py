"""A picture as a list of flat shapes, in picture heights; `rendering` fills, masks and measures them."""

import math
from typing import NamedTuple

import numpy as np

_T = np.linspace(0, 2 * math.pi, 26, endpoint=False)
_CIRCLE = np.stack([np.cos(_T), np.sin(_T)], 1)  # [26, 2]
_S = np.linspace(-math.pi / 2, math.pi / 2, 9)
_HALF = np.stack([np.cos(_S), np.sin(_S)], 1)  # [9, 2] right half of a circle
#: half the width of an outline
_INK = 0.016


class Shape(NamedTuple):
    """A polygon.  An outline is the filled ``grown`` polygon under it, or a line of half-width ``ink``."""

    part: str
    points: np.ndarray  # [n, 2]
    fill: tuple[int, int, int]
    grown: np.ndarray | None = None
    ink: float = 0.0


class Sketch:
    """Shapes in the order they are laid down.

    A part's name may say more after a slash (``"scenery/sun"``, ``"face/eye_l"``): who counts things
    (`storydiff_lite.training.defects`) reads it, `rendering.masks` does not.

    Attributes
    ----------
    shapes : list of Shape
    joints : dict
        ``"0.head"`` -> (x, y).
    actor : int or None
        Whose parts the next shapes are.
    frame : (matrix [2, 2], offset [2], unit) or None
        Own coordinates -> the picture's; None if these are the picture's.
    """

    def __init__(self):
        self.shapes, self.joints = [], {}
        self.actor = self.frame = None

    def _to_picture(self, points):
        if self.frame is None:
            return points
        matrix, offset, _ = self.frame
        return points @ matrix + offset

    def _ink(self):
        """Half the width of an outline, in own coordinates."""
        return _INK if self.frame is None else _INK / self.frame[2]

    def _add(self, part, points, fill, grown=None, ink=0.0):
        name = part if self.actor is None else f"{self.actor}.{part}"
        grown = None if grown is None else self._to_picture(grown)
        self.shapes.append(Shape(name, self._to_picture(points), fill, grown, ink))

    def ellipse(self, part, cx, cy, rx, ry, fill, ink=True, turn=0.0):
        """An ellipse, turned by ``turn`` degrees."""

        def at(ax, ay):
            p = _CIRCLE * (ax, ay)
            if turn:
                a = math.radians(turn)
                p = p @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
            return p + (cx, cy)

        g = self._ink()
        self._add(part, at(rx, ry), fill, at(rx + g, ry + g) if ink else None)

    def limb(self, part, a, b, width, fill, ink=True):
        """A line with round ends."""
        (ax, ay), (bx, by) = a, b
        d = math.hypot(bx - ax, by - ay) or 1e-6
        u = np.array([[(bx - ax) / d, (by - ay) / d], [-(by - ay) / d, (bx - ax) / d]])

        def at(r):
            h = _HALF * r
            return np.concatenate([h + (d, 0), -h]) @ u + (ax, ay)

        self._add(part, at(width / 2), fill, at(width / 2 + self._ink()) if ink else None)

    def poly(self, part, points, fill, ink=True):
        """A polygon (any)."""
        self._add(part, np.asarray(points, float), fill, None, _INK if ink else 0.0)

    def box(self, part, x0, y0, x1, y1, fill, ink=False):
        """A rectangle between two corners."""
        self.poly(part, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, ink)

    def joint(self, name, x, y):
        """Note where a joint of the actor is."""
        self.joints[f"{self.actor}.{name}"] = tuple(self._to_picture(np.array([[x, y]]))[0])


def mix(a, b, t):
    """The colour a fraction ``t`` of the way from ``a`` to ``b``."""
    return tuple(round((1 - t) * p + t * q) for p, q in zip(a, b, strict=True))
