"""Passages: from one panel of a story to the next, whatever the two show.

A clip (`clips`) keeps to a few motions in one scene.  Between two panels of a story anything can happen:
somebody is in the air here and sits there, forest becomes beach, somebody leaves and somebody comes.  No
world says how that must look; this one does, by a law that the two panels decide (so that it can be learnt
and measured):

- whoever is in both panels goes from place to place and from pose to pose, with steps in between where the
  way is long, and turns round where he looks the other way afterwards;
- whoever is missing in the second panel walks out of the picture, the way he looks; whoever is missing in the
  first walks in, looking ahead;
- the scene behind them dissolves into the other.

The splits are apart by their seeds, by their characters (`clips.withheld`), and by what is done in the two
panels: one in five pairs of actions (`unseen`) belongs to ``heldout``.
"""

from __future__ import annotations

import math
import random
import zlib
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .clips import SPLITS, STRIDE, between, bump, travel, withheld
from .world import (
    ACTIONS,
    SCENES,
    Actor,
    Character,
    Picture,
    caption,
    pose,
    random_actor,
    random_mention,
    render,
)
from .world import joints as joints_of

#: who is in the two panels, and how often
CASTS = {"one": 0.60, "two": 0.14, "somebody comes": 0.09, "somebody leaves": 0.09, "another one": 0.08}


def unseen(before: str, after: str) -> bool:
    """Whether a pair of actions, in the first and in the second panel, is kept for measurements."""
    return zlib.crc32(f"{before} -> {after}".encode()) % 5 == 0


@dataclass(frozen=True)
class Passage:
    """From a first panel (t = 0) to a last one (t = 1).

    Parameters
    ----------
    first, last : Picture
        An actor of both is the same one if the character is.
    mention : frozenset of str
        Attributes that the caption names (see `world.describe`).
    """

    first: Picture
    last: Picture
    mention: frozenset = frozenset()

    def actors(self, t: float) -> tuple[Actor, ...]:
        """Who is where at time ``t``, 0..1; those of the first panel come first."""
        if not 0 <= t <= 1:
            raise ValueError(f"A passage has pictures from t = 0 to t = 1; {t} was asked for.")
        return tuple(go(a, b, t) for a, b in self.ways())

    def ways(self) -> list[tuple[Actor, Actor]]:
        """Of everybody the actor at the start and at the end; outside of the picture where he is missing."""
        rest, out = list(self.last.actors), []
        for a in self.first.actors:
            same = next((b for b in rest if b.character == a.character), None)
            if same is not None:
                rest.remove(same)
            out.append((a, same or outside(a, a.look)))
        return out + [(outside(b, -b.look), b) for b in rest]

    def image(self, t: float, size: int = 64, actors=None) -> Image.Image:
        """The picture at time ``t``; with these actors, if they are given, instead of those it has."""
        some = self.actors(t) if actors is None else tuple(actors)
        scenes = [render(replace(p, actors=some), size) for p in (self.first, self.last)]
        return Image.blend(*scenes, between(t, 0.2, 0.8))

    def images(self, n: int, size: int = 64) -> list[Image.Image]:
        """``n`` pictures at equal times, the first and the last panel among them."""
        if n < 2:
            raise ValueError(f"A passage needs at least 2 frames, its two panels; {n} were asked for.")
        return [self.image(i / (n - 1), size) for i in range(n)]

    def joints(self, t: float) -> dict[str, tuple[float, float]]:
        """True places of everybody's parts at time ``t`` (see `world.joints`)."""
        return joints_of(replace(self.last, actors=self.actors(t)))

    def caption(self) -> str:
        """What the last panel shows, in words: a transition is told the prompt of the panel it leads to."""
        return caption(self.last, random.Random(self.last.seed), self.mention)


def outside(actor: Actor, side: int) -> Actor:
    """The actor as he walks, out of the picture on a side (1 right, -1 left), looking as in the picture."""
    x = 0.5 + side * (0.5 + 0.45 * actor.scale)
    return replace(actor, action="walking", x=x, pose=pose("walking", actor.phase))


def go(a: Actor, b: Actor, t: float) -> Actor:
    """The actor at time ``t`` of his way from ``a`` to ``b``."""
    if t in (0, 1):
        return b if t else a
    s = travel(t, 0.02, 1, 0.03, 0.04)
    way = b.x - a.x
    start, end = (p.pose or pose(p.action, p.phase) for p in (a, b))
    body = start.mix(end, between(t, 0.12, 0.88))
    step = pose("walking", 0.12 + abs(way) * s / STRIDE)
    step = replace(step, **{k: getattr(body, k) for k in ("bench", "mat", "book", "balloon", "eyes", "drop")})
    body = body.mix(step, bump(t, 0.05, 0.95) * min(1.0, abs(way) / 0.25))
    look = a.look
    if b.look != a.look:
        look = a.look * math.cos(math.pi * between(t, 0.2, 0.8))
        look *= 1.01 / math.sqrt(look * look + 0.02)  # edge-on, a flat figure is a line: quickly past that
    x, y, scale = (getattr(a, k) + s * (getattr(b, k) - getattr(a, k)) for k in ("x", "y", "scale"))
    return Actor(b.character, b.action if t > 0.5 else a.action, 0.0, x, y, scale, look, body)


def drawn(passage: Passage, frames: int, size: int) -> np.ndarray:
    """A passage as uint8 [frames, 3, size, size]."""
    return np.stack([np.asarray(i).transpose(2, 0, 1) for i in passage.images(frames, size)])


# --------------------------------------------------------------------------------------------------------
# Random passages


def random_passage(rng: random.Random, character=Character.random, pair=None) -> Passage:
    """Two random panels.

    Parameters
    ----------
    rng : random.Random
    character : callable
        ``character(rng) -> Character`` draws who acts.
    pair : callable, optional
        ``pair(rng) -> (action, action)`` draws what is done in the two panels.
    """
    cast = rng.choices(tuple(CASTS), tuple(CASTS.values()))[0]
    who = [character(rng)]
    while len(who) < 2:
        if (c := character(rng)) != who[0]:
            who.append(c)
    here, there = {
        "one": (who[:1], who[:1]),
        "two": (who, who),
        "somebody comes": (who[:1], who),
        "somebody leaves": (who, who[:1]),
        "another one": (who[:1], who[1:]),
    }[cast]
    done = {c: (pair or any_pair)(rng) for c in who}
    scenes = [rng.choice(tuple(SCENES)) for _ in range(2)]
    seeds = [rng.randrange(1 << 30) for _ in range(2)]
    if rng.random() < 0.5:
        scenes[1] = scenes[0]
        if rng.random() < 0.3:
            seeds[1] = seeds[0]

    def panel(k, some):
        actors = tuple(random_actor(rng, c, done[c][k], len(some), i) for i, c in enumerate(some))
        return Picture(scenes[k], actors, seeds[k])

    return Passage(panel(0, here), panel(1, there), random_mention(rng))


def any_pair(rng):
    return rng.choice(tuple(ACTIONS)), rng.choice(tuple(ACTIONS))


def specimen(split: str, i: int) -> Passage:
    """The i-th passage of a split.

    Raises
    ------
    ValueError
        An unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"Passages have no split {split!r}: use one of {', '.join(SPLITS)}.")
    rng, held = random.Random(f"passages/{split}/{i}"), split == "heldout"

    def character(rng):
        while withheld(c := Character.random(rng)) != held:
            pass
        return c

    def pair(rng):
        while unseen(*(p := any_pair(rng))) != held:
            pass
        return p

    return random_passage(rng, character, pair)
