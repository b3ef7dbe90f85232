"""StoryWorld: a small cartoon world whose every pixel, pose and word is known.

A *character* is who somebody is (species, fur, outfit, accessory ...), an *actor* is a character doing
something somewhere in a picture, a *picture* is a scene with its actors, a *strip* is several pictures side
by side.  Pictures are drawn from a list of flat shapes, so the same list gives the image at any size, an
exact mask of each part, and the true position of every joint.

Everything is deterministic: the same ``Picture`` gives the same pixels, the same seed the same ``Picture``.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, fields, replace

import numpy as np
from PIL import Image, ImageDraw

# --------------------------------------------------------------------------------------------------------
# The vocabulary of the world.  Colours are few and far apart: a colour that a small autoencoder cannot
# carry could not be measured either.

FUR = {
    "brown": (140, 88, 52),
    "orange": (242, 140, 40),
    "yellow": (252, 220, 84),
    "grey": (146, 152, 164),
    "white": (248, 246, 240),
    "black": (62, 58, 70),
    "pink": (248, 160, 190),
    "blue": (92, 152, 228),
}
SKIN = {"light": (255, 224, 196), "tan": (232, 184, 140), "brown": (176, 120, 80), "dark": (112, 72, 52)}
OUTFIT = {
    "red": (222, 52, 56),
    "orange": (248, 146, 44),
    "yellow": (252, 216, 64),
    "green": (60, 168, 84),
    "blue": (52, 112, 214),
    "purple": (140, 78, 190),
    "pink": (250, 136, 178),
    "white": (250, 250, 250),
}
ACCESSORY_COLOUR = OUTFIT
ACCESSORY = ("hat", "scarf", "bow")
SPECIES = ("bear", "cat", "rabbit", "robot", "girl", "boy")
PEOPLE = ("girl", "boy")
ACTIONS = {
    "walking": "walking",
    "jumping": "jumping",
    "sitting": "sitting",
    "waving": "waving",
    "sleeping": "sleeping",
    "reading": "reading a book",
    "balloon": "holding a balloon",
}
SCENES = {
    "forest": "in the forest",
    "beach": "on the beach",
    "city": "in the city",
    "snow": "in the snow",
    "desert": "in the desert",
    "bedroom": "in the bedroom",
    "moon": "on the moon",
    "farm": "on the farm",
}
#: attribute -> its classes, in the order every table, label and judge of this project uses
ATTRIBUTES = {
    "species": SPECIES,
    "fur": tuple(FUR),
    "skin": tuple(SKIN),
    "outfit": tuple(OUTFIT),
    "accessory": ACCESSORY,
    "accessory_colour": tuple(ACCESSORY_COLOUR),
    "action": tuple(ACTIONS),
    "scene": tuple(SCENES),
}
#: the attributes that make somebody the same person in the next panel (skin shows on people only)
IDENTITY = ("species", "fur", "skin", "outfit", "accessory", "accessory_colour")

INK = (44, 36, 52)


@dataclass(frozen=True)
class Character:
    """Who somebody is.  ``skin`` shows on people only; ``fur`` is the hair of people and the paint of robots.

    Raises
    ------
    ValueError
        For a value that StoryWorld does not have; the message lists those it has.
    """

    species: str = "bear"
    fur: str = "brown"
    skin: str = "light"
    outfit: str = "red"
    accessory: str = "hat"
    accessory_colour: str = "blue"

    def __post_init__(self):
        for f in fields(self):
            check_name(f.name, getattr(self, f.name))

    @classmethod
    def random(cls, rng: random.Random, **fixed) -> Character:
        """A character drawn uniformly, except for ``fixed`` attributes.

        The accessory never has the colour of what it lies on (outfit, fur): it could not be seen.
        """
        draw = {f.name: rng.choice(ATTRIBUTES[f.name]) for f in fields(cls)}
        draw |= fixed
        for name in ("accessory_colour", "outfit"):
            while name not in fixed and draw["accessory_colour"] in (draw["outfit"], draw["fur"]):
                draw[name] = rng.choice(ATTRIBUTES[name])
        return cls(**draw)


def check_name(attribute: str, value: str) -> str:
    """Return ``value`` if it is a class of ``attribute``; otherwise say which there are (ValueError)."""
    known = ATTRIBUTES[attribute]
    if value not in known:
        raise ValueError(f"StoryWorld has no {attribute} {value!r}. Choose one of: {', '.join(known)}.")
    return value


@dataclass(frozen=True)
class Pose:
    """A body position by continuous numbers, so that poses can be mixed and movements drawn at any phase.

    Angles are degrees from hanging straight down, positive outwards; lengths are in body heights.
    """

    lift: float = 0.0  # feet above the ground
    drop: float = 0.0  # hips lowered (sitting)
    lean: float = 0.0  # the whole body turned, clockwise for a character that looks right
    arm_l: float = 14.0
    arm_r: float = 14.0
    leg_l: float = 6.0
    leg_r: float = 6.0
    eyes: float = 1.0  # 1 open, 0 closed
    bench: float = 0.0  # props fade in by growing: 0 absent, 1 full size
    mat: float = 0.0
    book: float = 0.0
    balloon: float = 0.0

    def mix(self, other: Pose, t: float) -> Pose:
        """The pose a fraction ``t`` (0..1) of the way to ``other``."""
        return Pose(*((1 - t) * getattr(self, f.name) + t * getattr(other, f.name) for f in fields(Pose)))


def pose(action: str, phase: float = 0.0) -> Pose:
    """The pose of ``action`` at ``phase`` of its cycle (any real number; 0 and 1 are the same pose)."""
    check_name("action", action)
    s, c = math.sin(2 * math.pi * phase), math.cos(2 * math.pi * phase)
    match action:
        case "walking":
            return Pose(
                lift=0.02 * abs(c), arm_l=10 - 34 * s, arm_r=10 + 34 * s, leg_l=30 * s, leg_r=-30 * s, lean=4
            )
        case "jumping":
            return Pose(
                lift=0.17 + 0.05 * s,
                arm_l=128 + 12 * s,
                arm_r=128 + 12 * s,
                leg_l=38 + 6 * c,
                leg_r=38 + 6 * c,
            )
        case "sitting":
            return Pose(
                drop=0.05 + 0.008 * s, arm_l=30, arm_r=30, leg_l=26 + 10 * s, leg_r=26 - 10 * s, bench=1
            )
        case "waving":
            return Pose(arm_r=124 + 20 * s, arm_l=18, lean=-2 * s)
        case "sleeping":
            return Pose(lean=84, lift=0.10 + 0.01 * s, arm_l=22, arm_r=18, eyes=0, mat=1)
        case "reading":
            return Pose(arm_l=22, arm_r=22, book=1, lean=1.5 * s)
        case "balloon":
            return Pose(arm_r=112 + 8 * s, arm_l=16, balloon=1, lean=-1.5 * c)


@dataclass(frozen=True)
class Actor:
    """A character in a picture.

    Parameters
    ----------
    x, y : float
        Where the feet stand, in picture heights from the left and from the top.
    scale : float
        Body height (feet to crown) in picture heights.
    look : int
        1 looks right, -1 left.
    phase : float
        Phase of the action's cycle, 0..1.
    pose : Pose, optional
        A pose of your own, instead of the action's.
    """

    character: Character
    action: str = "walking"
    phase: float = 0.0
    x: float = 0.5
    y: float = 0.93
    scale: float = 0.66
    look: int = 1
    pose: Pose | None = None


@dataclass(frozen=True)
class Picture:
    """A scene with its actors; ``seed`` fixes the free details of the scene (where a tree stands)."""

    scene: str = "forest"
    actors: tuple[Actor, ...] = ()
    seed: int = 0

    def __post_init__(self):
        check_name("scene", self.scene)
        for a in self.actors:
            check_name("action", a.action)


# --------------------------------------------------------------------------------------------------------
# Drawing: a sketch is a list of polygons in picture heights; two rasterizers read it.

_T = np.linspace(0, 2 * math.pi, 26, endpoint=False)
_CIRCLE = np.stack([np.cos(_T), np.sin(_T)], 1)  # [26, 2]
_S = np.linspace(-math.pi / 2, math.pi / 2, 9)
_HALF = np.stack([np.cos(_S), np.sin(_S)], 1)  # [9, 2] right half of a circle


class _Sketch:
    """Shapes in the order they are laid down; ``frame`` maps own coordinates to the picture's."""

    def __init__(self):
        self.shapes = []  # (part, points [n, 2], fill, grown points or None, ink width or 0)
        self.joints = {}
        self.frame = None  # (2x2 matrix, offset, unit) or None for picture coordinates
        self.actor = None
        self.ink = 0.016

    def _to_picture(self, pts):
        if self.frame is None:
            return pts
        m, o, _ = self.frame
        return pts @ m + o

    def _unit(self):
        return 1.0 if self.frame is None else self.frame[2]

    def _add(self, part, pts, fill, grown=None, ink=0.0):
        name = part if self.actor is None else f"{self.actor}.{part}"
        self.shapes.append(
            (name, self._to_picture(pts), fill, None if grown is None else self._to_picture(grown), ink)
        )

    def ellipse(self, part, cx, cy, rx, ry, fill, ink=True, turn=0.0):
        """An ellipse, turned by ``turn`` degrees."""
        c = _CIRCLE
        g = self.ink / self._unit()

        def at(ax, ay):
            p = c * (ax, ay)
            if turn:
                a = math.radians(turn)
                p = p @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
            return p + (cx, cy)

        self._add(part, at(rx, ry), fill, at(rx + g, ry + g) if ink else None)

    def limb(self, part, a, b, width, fill, ink=True):
        """A line with round ends."""
        (ax, ay), (bx, by) = a, b
        d = math.hypot(bx - ax, by - ay) or 1e-6
        u = np.array([[(bx - ax) / d, (by - ay) / d], [-(by - ay) / d, (bx - ax) / d]])

        def at(r):
            h = _HALF * r
            pts = np.concatenate([h + (d, 0), -h])
            return pts @ u + (ax, ay)

        self._add(part, at(width / 2), fill, at(width / 2 + self.ink / self._unit()) if ink else None)

    def poly(self, part, pts, fill, ink=True):
        """A polygon (any)."""
        self._add(part, np.asarray(pts, float), fill, None, self.ink if ink else 0.0)

    def box(self, part, x0, y0, x1, y1, fill, ink=False):
        self.poly(part, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, ink)

    def joint(self, name, x, y):
        self.joints[f"{self.actor}.{name}"] = tuple(self._to_picture(np.array([[x, y]]))[0])


def _mix(a, b, t):
    return tuple(round((1 - t) * p + t * q) for p, q in zip(a, b, strict=True))


def _sky(s, top, bottom, width, horizon, bands=6):
    """Flat bands instead of a gradient: a cartoon sky, and cheap to draw."""
    for i in range(bands):
        s.box("sky", 0, horizon * i / bands, width, horizon, _mix(top, bottom, i / (bands - 1)))


# Scenes.  Few and large details: what a 16 x 16 latent cannot carry would only be noise to it.


def _forest(s, r, w):
    _sky(s, (150, 214, 232), (214, 240, 206), w, 0.7)
    s.ellipse("scenery", w * r.uniform(0.2, 0.8), 0.74, 0.75, 0.22, (124, 190, 112), ink=False)
    s.box("ground", 0, 0.70, w, 1, (104, 172, 84))
    s.box("ground", 0, 0.86, w, 1, (88, 154, 74))
    for side in (0, 1):
        x = w * (0.11 + 0.78 * side) + r.uniform(-0.06, 0.06)
        h = r.uniform(0.0, 0.10)
        s.box("scenery", x - 0.035, 0.45, x + 0.035, 0.78, (122, 82, 54), ink=True)
        s.ellipse("scenery", x, 0.32 + h, 0.17, 0.20, (44, 122, 70))
        s.ellipse("scenery", x - 0.04, 0.27 + h, 0.08, 0.09, (72, 152, 88), ink=False)


def _beach(s, r, w):
    _sky(s, (96, 190, 240), (206, 238, 250), w, 0.5)
    s.ellipse("scenery", w * r.choice((0.16, 0.84)), 0.17, 0.10, 0.10, (255, 226, 92), ink=False)
    s.box("ground", 0, 0.48, w, 0.72, (44, 138, 204))
    s.box("ground", 0, 0.60, w, 0.72, (76, 176, 220))
    s.box("ground", 0, 0.70, w, 1, (246, 220, 160))
    s.box("ground", 0, 0.69, w, 0.73, (240, 250, 250))
    x = w * r.choice((0.10, 0.90))
    lean = 0.05 if x < w / 2 else -0.05
    s.limb("scenery", (x, 0.82), (x + lean, 0.40), 0.045, (168, 118, 70))
    for a in (-60, -15, 195, 240):
        p, q = math.cos(math.radians(a)), math.sin(math.radians(a))
        s.ellipse(
            "scenery",
            x + lean + 0.11 * p,
            0.38 + 0.07 * q + 0.02,
            0.115,
            0.036,
            (52, 150, 84),
            turn=a * 0.5 if a < 0 else (a - 180) * 0.5,
        )


def _city(s, r, w):
    _sky(s, (188, 176, 224), (250, 214, 200), w, 0.74)
    x = -0.05
    shades = [(110, 112, 150), (136, 126, 166), (92, 100, 136)]
    i = r.randrange(3)
    while x < w:
        bw, top = r.uniform(0.20, 0.28), r.uniform(0.16, 0.42)
        s.box("scenery", x, top, x + bw, 0.76, shades[i % 3], ink=True)
        for yy in (top + 0.06, top + 0.18):
            for xx in (x + bw * 0.28, x + bw * 0.72):
                s.box("scenery", xx - 0.03, yy, xx + 0.03, yy + 0.06, (255, 232, 140))
        x, i = x + bw, i + 1
    s.box("ground", 0, 0.74, w, 1, (120, 120, 128))
    s.box("ground", 0, 0.74, w, 0.79, (196, 192, 188))
    for x in np.arange(0.08, w, 0.34):
        s.box("ground", x, 0.95, x + 0.18, 0.98, (244, 240, 210))


def _snow(s, r, w):
    _sky(s, (150, 190, 226), (222, 234, 246), w, 0.66)
    m = w * r.uniform(0.25, 0.75)
    s.poly("scenery", [(m - 0.5, 0.7), (m, 0.16), (m + 0.5, 0.7)], (128, 148, 186), ink=False)
    s.poly(
        "scenery",
        [(m - 0.14, 0.31), (m, 0.16), (m + 0.14, 0.31), (m + 0.05, 0.36), (m - 0.03, 0.31), (m - 0.09, 0.36)],
        (250, 252, 255),
        ink=False,
    )
    s.box("ground", 0, 0.68, w, 1, (232, 240, 250))
    s.ellipse("ground", w * 0.3, 1.0, 0.6, 0.14, (250, 252, 255), ink=False)
    for side in (0, 1):
        x = w * (0.12 + 0.76 * side) + r.uniform(-0.05, 0.05)
        s.box("scenery", x - 0.025, 0.66, x + 0.025, 0.76, (110, 78, 58), ink=True)
        for y, hw in ((0.68, 0.15), (0.56, 0.12), (0.44, 0.09)):
            s.poly("scenery", [(x - hw, y), (x, y - 0.20), (x + hw, y)], (40, 112, 104))
            s.poly(
                "scenery",
                [(x - hw * 0.42, y - 0.11), (x, y - 0.20), (x + hw * 0.42, y - 0.11)],
                (250, 252, 255),
                ink=False,
            )


def _desert(s, r, w):
    _sky(s, (250, 176, 92), (255, 226, 150), w, 0.66)
    s.ellipse("scenery", w * r.uniform(0.25, 0.75), 0.22, 0.12, 0.12, (255, 244, 190), ink=False)
    s.ellipse("ground", w * 0.25, 0.80, 0.55, 0.24, (222, 150, 84), ink=False)
    s.ellipse("ground", w * 0.9, 0.84, 0.6, 0.24, (208, 132, 72), ink=False)
    s.box("ground", 0, 0.76, w, 1, (232, 168, 96))
    x = w * r.choice((0.13, 0.87)) + r.uniform(-0.03, 0.03)
    g = (70, 148, 88)
    for a, b in (
        ((x - 0.10, 0.58), (x - 0.10, 0.48)),
        ((x - 0.10, 0.58), (x, 0.60)),
        ((x + 0.10, 0.52), (x + 0.10, 0.42)),
        ((x + 0.10, 0.52), (x, 0.54)),
    ):
        s.limb("scenery", a, b, 0.055, g)
    s.limb("scenery", (x, 0.84), (x, 0.36), 0.085, g)


def _bedroom(s, r, w):
    s.box("sky", 0, 0, w, 0.76, (236, 198, 204))
    for x in np.arange(0.0, w, 0.25):
        s.box("sky", x, 0, x + 0.10, 0.74, (244, 212, 214))
    s.box("ground", 0, 0.74, w, 1, (176, 122, 84))
    s.box("ground", 0, 0.72, w, 0.76, (250, 244, 236))
    x = w * r.choice((0.22, 0.78))
    s.box("scenery", x - 0.15, 0.12, x + 0.15, 0.46, (250, 248, 240), ink=True)
    s.box("scenery", x - 0.12, 0.15, x + 0.12, 0.43, (70, 88, 150))
    s.ellipse("scenery", x + 0.04, 0.23, 0.045, 0.045, (255, 240, 170), ink=False)
    s.box("scenery", x - 0.012, 0.15, x + 0.012, 0.43, (250, 248, 240))
    x = w - x
    s.box("scenery", x - 0.012, 0.50, x + 0.012, 0.76, (120, 84, 66), ink=True)
    s.poly(
        "scenery", [(x - 0.06, 0.36), (x + 0.06, 0.36), (x + 0.11, 0.52), (x - 0.11, 0.52)], (255, 224, 130)
    )
    s.ellipse("ground", w * 0.5, 0.93, 0.42, 0.06, (96, 150, 190), ink=False)


def _moon(s, r, w):
    s.box("sky", 0, 0, w, 0.8, (26, 26, 62))
    x = w * r.choice((0.20, 0.80))
    s.ellipse("scenery", x, 0.22, 0.14, 0.14, (70, 140, 220), ink=False)
    s.ellipse("scenery", x - 0.04, 0.18, 0.06, 0.05, (92, 190, 120), ink=False)
    s.ellipse("scenery", x + 0.05, 0.28, 0.05, 0.035, (92, 190, 120), ink=False)
    for sx, sy in ((0.5, 0.10), (0.38, 0.34), (0.64, 0.36)):
        s.ellipse("scenery", w * sx + (0.5 * w - x) * 0.5, sy, 0.017, 0.017, (255, 250, 220), ink=False)
    s.ellipse("ground", w * 0.5, 0.98, max(0.9, w), 0.30, (168, 168, 182), ink=False)
    s.box("ground", 0, 0.86, w, 1, (168, 168, 182))
    for cx, cy, k in ((0.14, 0.82, 1), (0.86, 0.84, 0.9), (0.5, 0.97, 1.2)):
        s.ellipse("ground", w * cx, cy, 0.085 * k, 0.03 * k, (134, 134, 150), ink=False)


def _farm(s, r, w):
    _sky(s, (120, 200, 246), (222, 242, 250), w, 0.66)
    cx = w * r.uniform(0.3, 0.7)
    for dx, k in ((-0.10, 0.8), (0.0, 1.1), (0.11, 0.8)):
        s.ellipse("scenery", cx + dx, 0.13, 0.09 * k, 0.055 * k, (252, 254, 255), ink=False)
    s.box("ground", 0, 0.64, w, 1, (166, 206, 92))
    s.box("ground", 0, 0.84, w, 1, (146, 190, 80))
    x = w * r.choice((0.17, 0.83))
    s.box("scenery", x - 0.15, 0.44, x + 0.15, 0.72, (204, 64, 56), ink=True)
    s.poly("scenery", [(x - 0.19, 0.45), (x - 0.10, 0.28), (x + 0.10, 0.28), (x + 0.19, 0.45)], (120, 60, 58))
    s.box("scenery", x - 0.06, 0.54, x + 0.06, 0.72, (250, 240, 226), ink=True)
    x = w - x
    s.box("scenery", x - 0.17, 0.63, x + 0.17, 0.665, (250, 246, 236), ink=True)
    for dx in (-0.12, 0.0, 0.12):
        s.box("scenery", x + dx - 0.02, 0.57, x + dx + 0.02, 0.74, (250, 246, 236), ink=True)


_SCENE = {
    "forest": _forest,
    "beach": _beach,
    "city": _city,
    "snow": _snow,
    "desert": _desert,
    "bedroom": _bedroom,
    "moon": _moon,
    "farm": _farm,
}


# Characters.  Own coordinates: feet at (0, 0), crown near y = 1 upwards, x to the right of somebody who
# looks right.


def _actor(s, index, a):
    c, p = a.character, a.pose or pose(a.action, a.phase)
    s.actor = index
    fur, cloth, trim = FUR[c.fur], OUTFIT[c.outfit], ACCESSORY_COLOUR[c.accessory_colour]
    person, robot = c.species in PEOPLE, c.species == "robot"
    flesh = SKIN[c.skin] if person else fur
    k, look = a.scale, a.look

    def frame(turn=0.0, up=0.0, dx=0.0):
        t = math.radians(turn)
        cos, sin = math.cos(t), math.sin(t)
        # own (x, y up) -> turned clockwise -> mirrored by `look` -> picture (y down)
        m = np.array([[cos * k * look, sin * k], [sin * k * look, -cos * k]])
        return m, np.array([a.x + dx * k * look, a.y - up * k]), k

    # things on the ground: shadow, mat, bench
    s.frame = frame()
    low = max(0.35, 1 - 2.2 * p.lift * (1 - p.mat))
    if p.mat < 0.5:
        s.ellipse("shadow", 0, 0.0, 0.27 * low, 0.045 * low, (70, 62, 84), ink=False)
    if p.mat > 0:
        m = p.mat
        s.poly(
            "prop",
            [(-0.66 * m, -0.06), (0.66 * m, -0.06), (0.58 * m, 0.09), (-0.58 * m, 0.09)],
            (94, 196, 190),
        )
        s.ellipse("prop", 0.42 * m, 0.16, 0.17 * m, 0.10 * m, (250, 250, 255))
    if p.bench > 0:
        b = p.bench
        for x in (-0.30, 0.30):
            s.limb("prop", (x, 0.18 * b), (x, 0.0), 0.06, (136, 90, 54))
        s.limb("prop", (-0.38 * b, 0.20 * b), (0.38 * b, 0.20 * b), 0.09, (176, 120, 70))

    # the body turns about the feet; somebody lying is moved so that the middle stays at x
    lie = min(1.0, abs(p.lean) / 84)
    s.frame = frame(p.lean, p.lift + 0.02 * lie, -0.52 * lie * math.copysign(1, p.lean) if lie > 0.2 else 0.0)
    hip = 0.20 - p.drop + 0.10 * p.bench
    s.joint("hip", 0, hip)

    # tails and long hair lie behind everything
    if c.species == "cat":
        s.limb("tail", (-0.10, hip + 0.02), (-0.30, hip + 0.10), 0.07, fur)
        s.limb("tail", (-0.30, hip + 0.10), (-0.33, hip + 0.27), 0.07, fur)
    elif c.species == "rabbit":
        s.ellipse("tail", -0.19, hip + 0.02, 0.065, 0.06, _mix(fur, (255, 255, 255), 0.5))
    hy = hip + 0.50  # head centre
    if c.species == "girl":
        s.ellipse("hair", 0, hy - 0.06, 0.305, 0.30, fur)

    # legs
    for side, ang in (("l", p.leg_l), ("r", p.leg_r)):
        d = -1 if side == "l" else 1
        t = math.radians(ang)
        x0, length = d * 0.085, 0.17 + 0.03 * p.bench
        fx, fy = x0 + d * length * math.sin(t), hip - length * math.cos(t)
        trouser = (70, 84, 130) if c.species == "boy" else flesh
        s.limb(f"leg_{side}", (x0, hip), (fx, fy), 0.115, trouser)
        shoe = (96, 70, 60) if person else _mix(fur, (255, 255, 255), 0.25) if not robot else (96, 100, 116)
        s.ellipse(f"leg_{side}", fx + 0.025, fy, 0.082, 0.052, shoe)
        s.joint(f"foot_{side}", fx, fy)

    # arms behind a book are drawn after the body, all others before it
    def arm(side, ang):
        d = -1 if side == "l" else 1
        t = math.radians(ang)
        x0, y0, length = d * 0.145, hip + 0.235, 0.245
        x1, y1 = x0 + d * length * math.sin(t), y0 - length * math.cos(t)
        xm, ym = x0 + 0.62 * (x1 - x0), y0 + 0.62 * (y1 - y0)
        s.limb(f"arm_{side}", (x0, y0), (x1, y1), 0.085, flesh)
        s.limb(f"arm_{side}", (x0, y0), (xm, ym), 0.115, cloth)
        s.ellipse(f"arm_{side}", x1, y1, 0.056, 0.056, flesh)
        s.joint(f"hand_{side}", x1, y1)
        return x1, y1

    if p.balloon > 0:
        t = math.radians(p.arm_r)
        bx, by = 0.145 + 0.245 * math.sin(t), hip + 0.235 - 0.245 * math.cos(t)
        b = p.balloon
        top = by + 0.42 * b
        s.limb("prop", (bx, by), (bx + 0.03, top), 0.022, (250, 250, 250), ink=False)
        s.ellipse("prop", bx + 0.03, top + 0.10 * b, 0.15 * b, 0.175 * b, (232, 50, 70))
        s.ellipse("prop", bx - 0.02, top + 0.16 * b, 0.035 * b, 0.05 * b, (255, 170, 176), ink=False)
    if p.book <= 0:
        arm("l", p.arm_l)
        arm("r", p.arm_r)

    # the body
    if robot:
        s.poly(
            "body", [(-0.19, hip - 0.05), (0.19, hip - 0.05), (0.19, hip + 0.29), (-0.19, hip + 0.29)], cloth
        )
        s.ellipse("body", 0.0, hip + 0.10, 0.05, 0.05, (255, 240, 150))
    elif c.species == "girl":
        s.poly(
            "body",
            [
                (-0.25, hip - 0.08),
                (0.25, hip - 0.08),
                (0.20, hip + 0.10),
                (0.13, hip + 0.29),
                (-0.13, hip + 0.29),
                (-0.20, hip + 0.10),
            ],
            cloth,
        )
    else:
        s.ellipse("body", 0, hip + 0.11, 0.20, 0.20, cloth)
    s.joint("body", 0, hip + 0.11)

    # head
    ear = _mix(fur, (255, 170, 180), 0.55)
    if c.species == "bear":
        for d in (-1, 1):
            s.ellipse("ear", d * 0.20, hy + 0.185, 0.095, 0.095, fur)
            s.ellipse("ear", d * 0.20, hy + 0.185, 0.05, 0.05, ear, ink=False)
    elif c.species == "cat":
        for d in (-1, 1):
            s.poly("ear", [(d * 0.25, hy + 0.08), (d * 0.22, hy + 0.34), (d * 0.05, hy + 0.19)], fur)
            s.poly(
                "ear", [(d * 0.21, hy + 0.13), (d * 0.195, hy + 0.27), (d * 0.10, hy + 0.19)], ear, ink=False
            )
    elif c.species == "rabbit":
        for d in (-1, 1):
            s.ellipse("ear", d * 0.175, hy + 0.33, 0.072, 0.20, fur, turn=-d * 14)
            s.ellipse("ear", d * 0.175, hy + 0.33, 0.035, 0.14, ear, ink=False, turn=-d * 14)
    elif robot:
        s.limb("ear", (0, hy + 0.2), (0, hy + 0.33), 0.03, (96, 100, 116))
        s.ellipse("ear", 0, hy + 0.35, 0.055, 0.055, (255, 90, 80))
        for d in (-1, 1):
            s.box("ear", d * 0.31, hy - 0.07, d * 0.24, hy + 0.09, (96, 100, 116), ink=True)
    if robot:
        s.poly("head", [(-0.26, hy - 0.20), (0.26, hy - 0.20), (0.26, hy + 0.21), (-0.26, hy + 0.21)], fur)
        s.poly(
            "face",
            [(-0.19, hy - 0.12), (0.21, hy - 0.12), (0.21, hy + 0.12), (-0.19, hy + 0.12)],
            (220, 240, 246),
            ink=False,
        )
    else:
        s.ellipse("head", 0, hy, 0.275, 0.245, flesh)
    s.joint("head", 0, hy)
    if person:  # hair on top: a cap with a fringe
        fringe = [
            (-0.285, hy - 0.02),
            (-0.27, hy + 0.12),
            (-0.17, hy + 0.235),
            (0, hy + 0.275),
            (0.17, hy + 0.235),
            (0.27, hy + 0.12),
            (0.285, hy - 0.02),
        ]
        inner = [(0.23, hy + 0.06), (0.08, hy + 0.12), (-0.06, hy + 0.08), (-0.22, hy + 0.10)]
        if c.species == "girl":
            fringe = [(-0.30, hy - 0.16), *fringe, (0.30, hy - 0.16)]
            inner = [(0.235, hy - 0.05), *inner, (-0.235, hy - 0.05)]
        s.poly("hair", fringe + inner, fur)
    elif not robot:
        pale = _mix(fur, (255, 255, 255), 0.6)
        s.ellipse("face", 0.03, hy - 0.095, 0.12, 0.088, pale, ink=False)

    # face, looking a little to the side
    f = 0.03
    ex, ey = 0.105, hy + (0.0 if person else 0.03)
    for d in (-1, 1):
        x = f + d * ex
        if p.eyes > 0.5:
            s.ellipse("face", x, ey, 0.036, 0.047, INK, ink=False)
            s.ellipse("face", x + 0.012, ey + 0.018, 0.013, 0.015, (255, 255, 255), ink=False)
        else:
            s.limb("face", (x - 0.042, ey), (x + 0.042, ey), 0.026, INK, ink=False)
        if not robot:
            s.ellipse(
                "face", f + d * 0.185, hy - 0.075, 0.04, 0.028, _mix(flesh, (255, 110, 120), 0.45), ink=False
            )
    if robot:
        s.limb("face", (f - 0.05, hy - 0.075), (f + 0.05, hy - 0.075), 0.034, (70, 150, 190), ink=False)
    elif person:
        s.ellipse("face", f, hy - 0.115, 0.05, 0.036, (176, 52, 62), ink=False)
        s.box("face", f - 0.06, hy - 0.108, f + 0.06, hy - 0.06, flesh)
    else:
        s.ellipse(
            "face", f, hy - 0.058, 0.042, 0.030, INK if c.species == "bear" else (220, 96, 120), ink=False
        )
        s.limb("face", (f, hy - 0.08), (f, hy - 0.125), 0.018, INK, ink=False)

    # accessory
    if c.accessory == "hat":
        s.poly(
            "accessory", [(-0.12, hy + 0.23), (0.12, hy + 0.23), (0.11, hy + 0.43), (-0.11, hy + 0.43)], trim
        )
        s.limb("accessory", (-0.17, hy + 0.215), (0.17, hy + 0.215), 0.08, trim)
    elif c.accessory == "scarf":
        s.limb("accessory", (0.10, hy - 0.24), (0.135, hy - 0.43), 0.095, trim)
        s.limb("accessory", (-0.17, hy - 0.232), (0.17, hy - 0.232), 0.10, trim)
    else:
        bx, by = 0.0, hy + 0.275
        for d in (-1, 1):
            s.poly("accessory", [(bx, by), (bx + d * 0.165, by + 0.105), (bx + d * 0.165, by - 0.095)], trim)
        s.ellipse("accessory", bx, by, 0.058, 0.058, trim)

    # the book is held in front of the body, hands at its sides
    if p.book > 0:
        arm("l", p.arm_l)
        arm("r", p.arm_r)
        b, y = p.book, hip + 0.06
        for d in (-1, 1):
            s.poly(
                "prop",
                [(0, y - 0.10), (d * 0.23 * b, y - 0.06), (d * 0.23 * b, y + 0.13), (0, y + 0.09)],
                (252, 250, 236),
            )
        s.limb("prop", (0, y - 0.09), (0, y + 0.08), 0.03, (214, 60, 70), ink=False)
        for d in (-1, 1):
            s.ellipse("arm_" + ("l" if d < 0 else "r"), d * 0.22, y + 0.01, 0.052, 0.052, flesh)
    if p.eyes <= 0.5:  # the sleeper's z
        s.frame = frame()
        for x, y, z in ((0.50, 0.56, 0.10), (0.68, 0.76, 0.13)):
            for q, e in (((x, y + z), (x + z, y + z)), ((x + z, y + z), (x, y)), ((x, y), (x + z, y))):
                s.limb("prop", (look * q[0], q[1]), (look * e[0], e[1]), 0.042, (116, 128, 240), ink=False)
    s.frame, s.actor = None, None


def _sketch(picture, width=1.0):
    s = _Sketch()
    _SCENE[picture.scene](s, random.Random(f"{picture.scene}/{picture.seed}"), width)
    for i, a in enumerate(picture.actors):
        _actor(s, i, a)
    return s


def _super(size):
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
    """
    if not 8 <= size <= 2048:
        raise ValueError(f"A picture of {size} pixels cannot be drawn: choose a size from 8 to 2048.")
    k = _super(size)
    side = size * k
    image = Image.new("RGB", (side, side), INK)
    draw = ImageDraw.Draw(image)
    for _, pts, fill, grown, ink in _sketch(picture).shapes:
        if grown is not None:
            draw.polygon((grown * side).ravel().tolist(), fill=INK)
        xy = (pts * side).ravel().tolist()
        if ink:
            draw.line(xy + xy[:4], fill=INK, width=max(1, round(2 * ink * side)), joint="curve")
        draw.polygon(xy, fill=fill)
    return image.reduce(k)


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
    shapes = _sketch(picture).shapes
    names = list(dict.fromkeys(name for name, *_ in shapes))
    image = Image.new("I", (size * 3, size * 3), 0)
    draw = ImageDraw.Draw(image)
    for name, pts, _, grown, ink in shapes:
        i = names.index(name)
        xy = ((pts if grown is None else grown) * size * 3).ravel().tolist()
        draw.polygon(xy, fill=i)
        if ink:
            draw.line(xy + xy[:4], fill=i, width=max(1, round(6 * ink * size)), joint="curve")
    index = np.asarray(image)[1::3, 1::3]
    return {name: index == i for i, name in enumerate(names)}


def joints(picture: Picture) -> dict[str, tuple[float, float]]:
    """True positions ``{"0.head": (x, y), "0.hand_r": ...}`` in picture heights from the top left."""
    return {k: (float(x), float(y)) for k, (x, y) in _sketch(picture).joints.items()}


# --------------------------------------------------------------------------------------------------------
# Random pictures


def random_actor(
    rng: random.Random, character: Character, action: str | None = None, crowd: int = 1, place: int = 0
) -> Actor:
    """An actor at a random place, size and phase, the ``place``-th of ``crowd`` from left to right."""
    action = action or rng.choice(tuple(ACTIONS))
    if crowd == 1:
        scale, x = rng.uniform(0.60, 0.70), rng.uniform(0.42, 0.58)
    else:
        scale, x = rng.uniform(0.46, 0.50), (place + 0.5) / crowd + rng.uniform(-0.03, 0.03)
    y = rng.uniform(0.90, 0.94)
    if action == "sleeping":  # somebody lying is as wide as he was high
        scale, y = scale * (0.88 if crowd == 1 else 0.80), y - 0.03
    elif action == "jumping":  # long ears stay in the picture
        scale *= 0.92
    return Actor(character, action, rng.random(), x, y, scale, rng.choice((-1, 1)))


def random_picture(
    rng: random.Random, character: Character | None = None, action=None, scene=None
) -> Picture:
    """One character (random unless given) in a random scene."""
    character = character or Character.random(rng)
    scene = scene or rng.choice(tuple(SCENES))
    return Picture(scene, (random_actor(rng, character, action),), rng.randrange(1 << 30))


def random_group(rng: random.Random, characters, scene=None, action=None) -> Picture:
    """Several characters in one picture (the same character twice gives twins)."""
    scene = scene or rng.choice(tuple(SCENES))
    n = len(characters)
    actors = tuple(random_actor(rng, c, action, n, i) for i, c in enumerate(characters))
    return Picture(scene, actors, rng.randrange(1 << 30))


def random_strip(rng: random.Random, panels: int = 2, character: Character | None = None) -> list[Picture]:
    """The same character in ``panels`` different scenes and actions."""
    character = character or Character.random(rng)
    scenes, actions = rng.sample(tuple(SCENES), panels), rng.sample(tuple(ACTIONS), panels)
    return [random_picture(rng, character, a, s) for a, s in zip(actions, scenes, strict=True)]


# --------------------------------------------------------------------------------------------------------
# Captions


def article(word: str) -> str:
    """``"a bear"``, ``"an orange bear"``."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def describe(character: Character, mention=frozenset(), rng: random.Random | None = None) -> str:
    """A noun phrase that names the species and the attributes in ``mention``, in varying words.

    >>> describe(Character("bear", "orange"), {"fur"})
    'an orange bear'
    """
    c = character
    pick = rng.choice if rng else (lambda options: options[0])
    before, after = [], []
    if "fur" in mention:
        if c.species in PEOPLE:
            after.append(f"with {c.fur} hair")
        elif c.species == "robot" or pick((True, True, False)):
            before.append(c.fur)
        else:
            after.append(f"with {c.fur} fur")
    if "skin" in mention and c.species in PEOPLE:
        after = [a + f" and {c.skin} skin" for a in after] or [f"with {c.skin} skin"]
    wear = []
    if "outfit" in mention:
        wear.append(pick((f"{article(c.outfit)} outfit", f"{c.outfit} clothes")))
    if "accessory" in mention:
        thing = f"{c.accessory_colour} {c.accessory}" if "accessory_colour" in mention else c.accessory
        wear.append(article(thing))
    text = article(" ".join([*before, c.species]))
    if after:
        text += " " + " ".join(after)
    if wear:
        text += pick((" wearing ", " in ")) + " and ".join(wear)
    return text


def random_mention(rng: random.Random) -> frozenset:
    """Which attributes a caption names: each with an even chance, none of them in one caption of four."""
    if rng.random() < 0.25:
        return frozenset()
    names = {n for n in ("fur", "skin", "outfit", "accessory") if rng.random() < 0.5}
    if "accessory" in names and rng.random() < 0.8:
        names.add("accessory_colour")
    return frozenset(names)


def caption(picture: Picture, rng: random.Random, mention=None) -> str:
    """A grammatical sentence about the picture that leaves attributes out at random.

    Parameters
    ----------
    mention : set of str, optional
        Attributes to name (see `describe`); random by default.
    """
    mention = random_mention(rng) if mention is None else mention
    where = SCENES[picture.scene]
    if not picture.actors:
        return rng.choice((f"nobody {where}", f"an empty scene {where}"))
    a = picture.actors
    if len(a) == 1:
        who = describe(a[0].character, mention, rng)
        return f"{who} {ACTIONS[a[0].action]} {where}"
    if len(a) == 2 and a[0].character == a[1].character:
        who = "two " + plural(describe(a[0].character, mention, rng))
        did = (
            ACTIONS[a[0].action]
            if a[0].action == a[1].action
            else f"{ACTIONS[a[0].action]} and {ACTIONS[a[1].action]}"
        )
        return f"{who} {did} {where}"
    parts = [f"{describe(x.character, mention, rng)} {ACTIONS[x.action]}" for x in a]
    return " and ".join(parts) + f" {where}"


def plural(phrase: str) -> str:
    """``"an orange bear in a red outfit"`` -> ``"orange bears in red outfits"``."""
    many = "|".join((*SPECIES, "outfit", *ACCESSORY))
    return re.sub(rf"\b(?:an? )?((?:\w+ )?)({many})\b", lambda m: m[1] + m[2] + "s", phrase).replace(
        "scarfs", "scarves"
    )


def strip_caption(pictures, rng: random.Random, mention=None) -> str:
    """One sentence about a whole strip: ``"a comic of a bear walking in the forest, then sitting on the
    beach"``.
    """
    mention = random_mention(rng) if mention is None else mention
    who = describe(pictures[0].actors[0].character, mention, rng)
    did = [f"{ACTIONS[p.actors[0].action]} {SCENES[p.scene]}" for p in pictures]
    return f"a comic of {who} " + ", then ".join(did)


_WORDS = {
    "species": {s: s for s in SPECIES},
    "action": {v.split()[0] if k != "balloon" else "balloon": k for k, v in ACTIONS.items()},
    "scene": {s: s for s in SCENES},
    "accessory": {a: a for a in ACCESSORY},
}


def mentioned(text: str) -> dict[str, str]:
    """The attributes that a prompt about one character names.

    >>> mentioned("an orange bear in a red outfit walking in the snow")
    {'species': 'bear', 'action': 'walking', 'scene': 'snow', 'fur': 'orange', 'outfit': 'red'}
    """
    t = text.lower()
    found = {}
    for attribute, words in _WORDS.items():
        for word, value in words.items():
            if re.search(rf"\b{word}s?\b", t):
                found[attribute] = value
                break
    fur, cloth, skin = "|".join(FUR), "|".join(OUTFIT), "|".join(SKIN)
    rules = {
        "fur": rf"\b({fur}) (?:fur|hair|{'|'.join(SPECIES)})",
        "skin": rf"\b({skin}) skin",
        "outfit": rf"\b({cloth}) (?:outfit|clothes)",
        "accessory_colour": rf"\b({cloth}) (?:{'|'.join(ACCESSORY)})\b",
    }
    for attribute, rule in rules.items():
        if m := re.search(rule, t):
            found[attribute] = m[1]
    return found


def labels(picture: Picture, actor: int = 0) -> dict[str, str]:
    """Ground truth of one actor's picture: attribute -> class (``skin`` only for people)."""
    a = picture.actors[actor]
    truth = {f.name: getattr(a.character, f.name) for f in fields(Character)}
    if a.character.species not in PEOPLE:
        truth.pop("skin")
    return truth | {"action": a.action, "scene": picture.scene}


def with_pose(actor: Actor, pose: Pose, **changes) -> Actor:
    """The actor in a pose of its own (for clips), optionally moved (``x=``, ``y=``, ...)."""
    return replace(actor, pose=pose, **changes)
