"""Clips: somebody does something, from a first picture to a last one, and everything between is known.

A *clip* is a picture for every time t from 0 to 1.  Its motions are curved and timed: somebody leans back
before he walks, a jump waits, flies and lands, whoever turns goes round a bend.  What happens between follows
from the two ends, by the laws of this world (how deep somebody crouches says how high he will jump), but it
is never the straight line between them, neither in pixels nor in anything that is linear in them.
"""

import math
import random
from dataclasses import dataclass, replace

from PIL import Image

from .captions import describe
from .movement import between, bump, foreshorten, travel, walker
from .pictures import Actor, Picture, Pose, pose
from .rendering import joints, render
from .vocabulary import SCENES, Character, check_name

KINDS = ("walk", "jump", "wave", "sit", "turn", "hand over", "meet")
#: kinds that take two characters
TWO = ("hand over", "meet")
#: what each kind of motion of one character counts as, among the actions of the world
_ACTION = {"walk": "walking", "jump": "jumping", "wave": "waving", "sit": "sitting", "turn": "walking"}
_VERB = _ACTION | {"turn": "turning around"}


@dataclass(frozen=True)
class Clip:
    """A motion, from its first picture (t = 0) to its last (t = 1).

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    scene : str
    actors : tuple of Character
        One character; two of ``"hand over"`` and ``"meet"``.
    seed : int
        Of the free details of the scene.
    reach : float
        How far the motion goes, 0..1; the splits differ in it.
    vigour : float
        How strongly it is done, 0..1: height of a jump, overshoot, sway.  It shows in the first picture.
    size : float
        Body height, in picture heights.
    place : float
        Where in the picture, 0..1.
    side : int
        1 moves to the right, -1 to the left.

    Raises
    ------
    ValueError
        An unknown kind or scene, the wrong number of actors, a number outside of its range.
    """

    kind: str
    scene: str
    actors: tuple[Character, ...]
    seed: int = 0
    reach: float = 0.5
    vigour: float = 0.5
    size: float = 0.52
    place: float = 0.5
    side: int = 1

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"There is no motion {self.kind!r}. Choose one of: {', '.join(KINDS)}.")
        check_name("scene", self.scene)
        n = 2 if self.kind in TWO else 1
        if len(self.actors) != n:
            many = "1 actor" if n == 1 else f"{n} actors"
            raise ValueError(f"The motion {self.kind!r} takes {many}; it was given {len(self.actors)}.")
        for name in ("reach", "vigour", "place"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} of a clip is {getattr(self, name)}; it must be from 0 to 1.")
        if self.side not in (-1, 1):
            raise ValueError(f"side of a clip is {self.side}; it must be 1 (right) or -1 (left).")

    def picture(self, t: float) -> Picture:
        """The picture at time ``t``, 0..1."""
        if not 0 <= t <= 1:
            raise ValueError(f"A clip has pictures from t = 0 to t = 1; {t} was asked for.")
        return Picture(self.scene, _MOTION[self.kind](self, t), self.seed)

    def frames(self, n: int) -> list[Picture]:
        """``n`` pictures at equal times, the first and the last among them."""
        if n < 2:
            raise ValueError(f"A clip needs at least 2 frames, its first and its last; {n} were asked for.")
        return [self.picture(i / (n - 1)) for i in range(n)]

    def images(self, n: int, size: int = 64) -> list[Image.Image]:
        """`frames`, rendered."""
        return [render(p, size) for p in self.frames(n)]

    def joints(self, t: float) -> dict[str, tuple[float, float]]:
        """True places of the parts at time ``t`` (see `world.joints`)."""
        return joints(self.picture(t))

    def caption(self, mention=frozenset()) -> str:
        """What happens, in words; names the attributes in ``mention`` (see `world.describe`)."""
        names, where = [describe(c, mention) for c in self.actors], SCENES[self.scene]
        if self.kind == "hand over":
            return f"{names[0]} holding a balloon and {names[1]} {where}"
        if self.kind == "meet":
            return f"{names[0]} and {names[1]} walking {where}"
        return f"{names[0]} {_VERB[self.kind]} {where}"


# The motions: (clip, t) -> actors.  Angles are degrees, lengths picture heights (of a pose: body heights).

GROUND = 0.93  # where feet stand
STAND = Pose()


def _pace(way: float, stir: float, **changes) -> Pose:
    """A walker's pose after ``way``; ``stir`` 0..1 from standing to striding out."""
    return replace(STAND.mix(walker(way), stir), **changes)


def _centre(clip):
    return 0.5 + 0.10 * (clip.place - 0.5)


def _one(clip, pose, x, y=GROUND, scale=1.0, look=None):
    look = clip.side if look is None else look
    return (Actor(clip.actors[0], _ACTION[clip.kind], 0.0, x, y, clip.size * scale, look, pose),)


def _walk(clip, t):
    """Leans back, crosses the picture in a bow through the depth, goes too far and comes back a little."""
    v, d = clip.vigour, 0.30 + 0.30 * clip.reach
    s = travel(t, back=0.04 + 0.08 * v, over=0.05 + 0.10 * v)
    far = math.sin(math.pi * min(1.0, max(0.0, s)))
    lean = -(3 + 12 * v) * (1 - between(t, 0, 0.35)) + 9 * bump(t, 0.15, 0.75) - 6 * v * bump(t, 0.65, 1)
    body = _pace(d * s, 0.4 + 0.6 * bump(t, 0, 1), lean=lean)
    x = _centre(clip) + clip.side * d * (s - 0.5)
    return _one(clip, body, x, GROUND - (0.05 + 0.09 * v) * far, 1 - (0.10 + 0.18 * v) * far)


def _jump(clip, t):
    """Crouches deeper, flies on a parabola, lands soft; the deeper the crouch, the higher the jump."""
    v, d = clip.vigour, 0.20 + 0.35 * clip.reach
    u = min(1.0, max(0.0, (t - 0.30) / 0.42))  # of the flight
    up = 4 * u * (1 - u)
    crouch = (0.04 + 0.05 * v) * (1 - between(t, 0.2, 0.34)) * (1 + 0.5 * bump(t, 0, 0.3))
    back, end = -(10 + 50 * v), 50 + 60 * v
    arm = (
        back
        - 15 * bump(t, 0, 0.3)
        + (140 - back) * between(t, 0.2, 0.42)
        + (end - 140) * between(t, 0.6, 0.9)
    )
    leg = 28 * (1 - between(t, 0.2, 0.34)) + 6 * between(t, 0.2, 0.34) + 34 * up + 20 * bump(t, 0.7, 0.95)
    body = Pose(
        lift=(0.16 + 0.28 * v) * up,
        drop=crouch + (0.03 + 0.06 * v) * bump(t, 0.70, 0.95),
        lean=8 * bump(t, 0.1, 0.55) - 6 * bump(t, 0.5, 0.9),
        arm_l=arm,
        arm_r=arm,
        leg_l=leg,
        leg_r=leg,
    )
    return _one(clip, body, _centre(clip) + clip.side * d * (u - 0.5))


def _wave(clip, t):
    """The arm swings back, up and past its goal, then waves; the body sways the other way."""
    v, goal = clip.vigour, 95 + 60 * clip.reach
    arm = 14 + (goal - 14) * travel(t, 0, 0.45, 0.15, 0.15)
    arm += (15 + 25 * v) * math.sin(4 * math.pi * (t - 0.35) / 0.65) * bump(t, 0.30, 1)
    lean = (3 + 11 * v) * math.cos(3 * math.pi * t)
    body = Pose(arm_r=arm, arm_l=14 + 12 * bump(t, 0.1, 0.9), lean=lean, lift=0.06 * v * bump(t, 0.1, 0.5))
    return _one(clip, body, _centre(clip))


def _sit(clip, t):
    """Walks to where a bench will stand, hops up onto it, sinks in and comes up again."""
    v, d = clip.vigour, 0.22 + 0.30 * clip.reach
    s = travel(t, 0, 0.62, 0.04 + 0.06 * v, 0.04 + 0.08 * v)
    seat = between(t, 0.62, 0.82)
    walking = _pace(d * s, 0.4 + 0.6 * bump(t, 0, 0.6), lean=-(3 + 12 * v) * (1 - between(t, 0, 0.3)))
    body = walking.mix(pose("sitting", 0.1 + between(t, 0.7, 1)), seat)
    body = replace(
        body,
        bench=between(t, 0.42, 0.66),
        lift=body.lift + (0.08 + 0.14 * v) * bump(t, 0.52, 0.84),
        drop=body.drop + (0.02 + 0.04 * v) * bump(t, 0.78, 1),
    )
    return _one(clip, body, _centre(clip) + clip.side * d * (s - 0.5))


def _turn(clip, t):
    """Goes round a bend: out to the side, into the depth and back, looking the other way."""
    v, r = clip.vigour, 0.20 + 0.20 * clip.reach
    u = travel(t, back=0.03 + 0.05 * v, over=0.03 + 0.06 * v)
    away, look = (1 - math.cos(math.pi * u)) / 2, foreshorten(math.cos(math.pi * u))
    lean = (4 + 12 * v) * math.cos(math.pi * t) ** 3
    body = _pace(math.pi / 2 * r * u, 0.4 + 0.6 * bump(t, 0, 1), lean=lean)
    return _one(
        clip,
        body,
        _centre(clip) + clip.side * r * (math.sin(math.pi * u) - 0.5),
        0.95 - (0.09 + 0.13 * clip.reach) * away,
        1.1 - (0.25 + 0.25 * clip.reach) * away,
        clip.side * look,
    )


def _hand_over(clip, t):
    """Brings a balloon, gives it when hands meet, goes back; the other one hops for joy."""
    v, k, side = clip.vigour, clip.size, clip.side
    way, hold = 0.08 + 0.18 * clip.reach, 75
    near, away = travel(t, 0, 0.48, 0.08, 0), travel(t, 0.52, 1, 0.05, 0.08)
    there = _centre(clip) + 0.20 * side  # where the other one waits
    # both hands on the balloon's string
    touch = 2 * k * (0.145 + 0.03 + 0.245 * math.sin(math.radians(hold)))
    x = there - side * (touch + way * (1 - near) + 0.65 * way * away)
    has, at_end = t < 0.5, 100 + 20 * v
    give = (100 + 30 * v) * (1 - near) + hold * near if has else hold + (14 - hold) * between(t, 0.52, 0.8)
    take = 14 + (hold - 14) * between(t, 0.25, 0.48) + (at_end - hold) * travel(t, 0.55, 0.95, 0, 0.15)
    first = _pace(
        way * (near - 0.65 * away),
        0.4 * (1 - between(t, 0, 0.45)) + 0.6 * bump(t, 0.05, 0.45) + 0.7 * bump(t, 0.55, 1),
    )
    first = replace(first, arm_r=give, balloon=float(has))
    second = Pose(arm_r=take, balloon=float(not has), lift=(0.06 + 0.12 * v) * bump(t, 0.62, 0.95))
    actions = ("balloon", "walking") if has else ("walking", "balloon")
    return (
        Actor(clip.actors[0], actions[0], 0.0, x, GROUND, k, side, first),
        Actor(clip.actors[1], actions[1], 0.0, there, GROUND, k, -side, second),
    )


def _meet(clip, t):
    """Two come into the picture, the one that strides first, the other late; both hop and raise an arm."""
    v, side, out = clip.vigour, clip.side, []
    way, goal = 0.12 + 0.16 * clip.reach, 80 + 50 * v
    for i, (begin, end) in enumerate(((0, 0.5), (0.34, 0.74))):
        s = travel(t, begin, end, 0.08, 0.12 + 0.12 * v)
        stir = bump(t, begin, end) + (0.5 * (1 - between(t, 0, 0.4)) if i == 0 else 0)
        arm = 14 + (goal - 14) * travel(t, 0.68 + 0.05 * i, 0.95 + 0.05 * i, 0.1, 0.2)
        hop = (0.06 + 0.14 * v) * bump(t, 0.70 + 0.05 * i, 0.93 + 0.05 * i)
        body = _pace(way * s, min(1.0, stir))
        body = replace(body, arm_r=body.arm_r + arm - 14, lift=body.lift + hop)
        d = -side if i == 0 else side
        x = _centre(clip) + d * (0.15 + way * (1 - s))
        out.append(Actor(clip.actors[i], "walking", 0.0, x, GROUND, clip.size, -d, body))
    return tuple(out)


_MOTION = dict(zip(KINDS, (_walk, _jump, _wave, _sit, _turn, _hand_over, _meet), strict=True))


def random_clip(rng: random.Random, kind: str | None = None, character=Character.random, reach=None) -> Clip:
    """A clip of a random kind, or of this one of `KINDS`: ``character(rng)`` draws who acts, ``reach`` says
    how far the motion goes, at random by default.
    """
    kind = kind or rng.choice(KINDS)
    actors = tuple(character(rng) for _ in range(2 if kind in TWO else 1))
    return Clip(
        kind,
        rng.choice(tuple(SCENES)),
        actors,
        seed=rng.randrange(1 << 30),
        reach=rng.random() if reach is None else reach,
        vigour=rng.random(),
        size=rng.uniform(0.38, 0.44) if kind in TWO else rng.uniform(0.46, 0.54),
        place=rng.random(),
        side=rng.choice((-1, 1)),
    )
