"""How many heads, faces, balloons, ... a picture shows, counted from its pieces.

What shows of each thing is counted in pixels. A thing of which too little shows to count it, and too much to
leave it out, makes its count unknown (`UNKNOWN`): the judge of defects learns nothing from it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ..defects import COUNTED, MOST
from ..world.rendering import cover
from .pieces import EYES, Piece

UNKNOWN = -100
#: how much of a thing shows when it counts, and when it does not; between the two it is unknown
SHARES = {
    "body": (0.35, 0.10),
    "head": (0.45, 0.10),
    "eye_l": (0.60, 0.15),
    "eye_r": (0.60, 0.15),
    "accessory": (0.28, 0.08),
    "balloon": (0.40, 0.08),
    "sun": (0.35, 0.05),
    "moon": (0.40, 0.08),
}
#: a thing that is fainter than the first does not count, one that is stronger than the second does
FAINT, STRONG = 0.25, 0.60
#: pixels of a picture in which visible shares are counted: an eye of a pair has about 40
_SIDE = 192


def _areas(found):
    """Pixels of every thing, also of what lies outside the picture or behind something."""
    things = {}
    for p in found:
        if p.kind:
            things.setdefault((p.kind, p.thing), []).append(p)
    out = {}
    for key, group in things.items():
        pts = np.concatenate([s[1] if s[3] is None else s[3] for p in group for s in p.shapes])
        corner = pts.min(0) - 0.02
        image = Image.new("L", tuple(int(x) for x in (pts.max(0) + 0.02 - corner) * _SIDE + 1), 0)
        draw = ImageDraw.Draw(image)
        for shape in (shape for p in group for shape in p.shapes):
            cover(draw, shape, 1, _SIDE, corner)
        out[key] = max(1, image.histogram()[1])
    return out


def _showing(found, least):
    """What shows of every thing without the pieces not stronger than ``least``: {thing: (pixels, x, y)}."""
    image = Image.new("I", (_SIDE, _SIDE), 0)
    draw = ImageDraw.Draw(image)
    drawn = [p for p in found if p.opacity > least]
    for i, p in enumerate(drawn, 1):
        for shape in p.shapes:
            cover(draw, shape, i, _SIDE)
    index = np.asarray(image).ravel()
    at = np.flatnonzero(np.array([False] + [bool(p.kind) for p in drawn])[index])
    index = index[at]
    pixels = np.bincount(index, minlength=len(drawn) + 1)
    xs = np.bincount(index, at % _SIDE, len(drawn) + 1)
    ys = np.bincount(index, at // _SIDE, len(drawn) + 1)
    out = {}
    for i, p in enumerate(drawn, 1):
        if p.kind:
            old = out.get((p.kind, p.thing), (0, 0.0, 0.0))
            out[p.kind, p.thing] = (old[0] + pixels[i], old[1] + xs[i], old[2] + ys[i])
    return {k: (n, x / max(1, n) / _SIDE, y / max(1, n) / _SIDE) for k, (n, x, y) in out.items()}


def _verdicts(found, areas, least, blind):
    """Thing -> True (it counts), False, or None (unknown); and what shows, as of `_showing`."""
    showing = _showing(found, least)
    out = {}
    for key, area in areas.items():
        share = showing.get(key, (0,))[0] / area
        much, little = SHARES[key[0]]
        out[key] = True if share >= much else False if share <= little else None
        if key[0] in EYES and key[1] in blind and out[key] is not False:
            out[key] = blind[key[1]]
    return out, showing


def truth(found: list[Piece], blind=None):
    """How many of each there are, and where.

    ``blind``: head -> False (its face was wiped away) or None (unknown).

    Returns
    -------
    counts : dict
        Name of `defects.COUNTED` -> 0..3 (3: three or more), or `UNKNOWN`.
    centres : dict
        Name -> list of (x, y), in picture heights, of what counts.
    """
    areas = _areas(found)
    strong, showing = _verdicts(found, areas, STRONG, blind or {})
    weak = strong
    if any(FAINT < p.opacity <= STRONG for p in found):
        weak, _ = _verdicts(found, areas, FAINT, blind or {})
    sure = {k: v if weak[k] is v else None for k, v in strong.items()}
    for head in {k[1] for k in sure if k[0] == "head"}:
        eyes = [sure.get((e, head), False) for e in EYES]
        sure["face", head] = False if False in eyes else None if None in eyes else True
    counts, centres = {}, {}
    for name, kind in COUNTED.items():
        mine = {k: v for k, v in sure.items() if k[0] == kind}
        counts[name] = UNKNOWN if None in mine.values() else min(MOST, sum(mine.values()))
        shown = [showing["eye_l" if kind == "face" else kind, k[1]] for k, v in mine.items() if v]
        centres[name] = [(float(x), float(y)) for _, x, y in shown]
    return counts, centres
