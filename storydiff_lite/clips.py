"""Clips: somebody does something, from a first picture to a last one, and everything between is known.

A *clip* is a picture for every time t from 0 to 1.  Its motions are curved and timed: somebody leans back
before he walks, a jump waits, flies and lands, whoever turns goes round a bend.  What happens between can be
told from the two ends, by the laws of this world (how deep somebody crouches says how high he will jump),
but it is never the straight line between them, neither in pixels nor in anything that is linear in them.

The splits are apart three times: by their seeds, by their characters (``heldout`` shows only characters that
are kept for measurements, `withheld`; ``train`` and ``validation`` never do), and by their motions: how far a
motion goes, ``reach``, comes from bands of 0..1 that are disjoint (`BANDS`).
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass, replace

from .world import SCENES, Actor, Character, Picture, Pose, check_name, describe, joints, pose

KINDS = ("walk", "jump", "wave", "sit", "turn", "hand over", "meet")
#: kinds that take two characters
TWO = ("hand over", "meet")
SPLITS = ("train", "validation", "heldout")
#: of twelve equal bands of ``reach``, those from which each split draws; all others are train's
BANDS = {"validation": (4, 9), "heldout": (2, 6, 10)}
BANDS["train"] = tuple(b for b in range(12) if b not in BANDS["validation"] + BANDS["heldout"])

STAND = Pose()
#: what each kind of motion counts as, among the actions of the world
_ACTION = {"walk": "walking", "jump": "jumping", "wave": "waving", "sit": "sitting", "turn": "walking"}
_SAID = {"walk": "walking", "jump": "jumping", "wave": "waving", "sit": "sitting", "turn": "turning around"}


def withheld(character: Character) -> bool:
    """Whether a character is kept for measurements: a fifth of all (the rule of ``training.identity``)."""
    return zlib.crc32(repr(character).encode()) % 5 == 0


# --------------------------------------------------------------------------------------------------------
# Timing: each of these maps 0..1, and is smooth.


def ease(t: float) -> float:
    """From 0 to 1, slow at both ends; 0 before, 1 after."""
    t = min(1.0, max(0.0, t))
    return t * t * (3 - 2 * t)


def between(t: float, a: float, b: float) -> float:
    """`ease` from time ``a`` to time ``b``."""
    return ease((t - a) / (b - a))


def bump(t: float, a: float, b: float) -> float:
    """0 outside of ``a``..``b``, 1 in its middle, smooth."""
    u = min(1.0, max(0.0, (t - a) / (b - a)))
    return 16 * u * u * (1 - u) * (1 - u)


def travel(t: float, a=0.0, b=1.0, back=0.06, over=0.08) -> float:
    """From 0 to 1 as an animator draws it: a little back first, past the goal, and back to it.

    ``back`` and ``over`` are in units of the way.
    """
    d = b - a
    return (
        between(t, a + 0.12 * d, a + 0.82 * d)
        - back * bump(t, a, a + 0.4 * d)
        + over * bump(t, a + 0.6 * d, b)
    )


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
            raise ValueError(f"The motion {self.kind!r} takes {n} of actors; {len(self.actors)} were given.")
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

    def joints(self, t: float) -> dict[str, tuple[float, float]]:
        """True places of the parts at time ``t`` (see `world.joints`)."""
        return joints(self.picture(t))

    def caption(self, mention=frozenset()) -> str:
        """What happens, in words; names the attributes in ``mention`` (see `world.describe`)."""
        who, where = [describe(c, mention) for c in self.actors], SCENES[self.scene]
        if self.kind == "hand over":
            return f"{who[0]} holding a balloon and {who[1]} {where}"
        if self.kind == "meet":
            return f"{who[0]} and {who[1]} walking {where}"
        return f"{who[0]} {_SAID[self.kind]} {where}"


# --------------------------------------------------------------------------------------------------------
# The motions: (clip, t) -> actors.


def _standing(clip, t):
    return (Actor(clip.actors[0], "walking", pose=STAND),)


_MOTION = dict.fromkeys(KINDS, _standing)


# --------------------------------------------------------------------------------------------------------
# Random clips


def random_clip(rng: random.Random, kind: str | None = None, character=Character.random, reach=None) -> Clip:
    """A clip of a random kind, or of this one.

    Parameters
    ----------
    rng : random.Random
    kind : str, optional
        One of `KINDS`.
    character : callable
        ``character(rng) -> Character`` draws who acts.
    reach : float, optional
        How far the motion goes; random by default.
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


def specimen(split: str, i: int, kind: str | None = None) -> Clip:
    """The i-th clip of a split; kinds take turns unless one is given.

    Raises
    ------
    ValueError
        An unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"Clips have no split {split!r}: use one of {', '.join(SPLITS)}.")
    rng = random.Random(f"clips/{split}/{i}")

    def character(rng):
        while withheld(c := Character.random(rng)) != (split == "heldout"):
            pass
        return c

    reach = (rng.choice(BANDS[split]) + rng.random()) / 12
    return random_clip(rng, kind or KINDS[i % len(KINDS)], character, reach)
