"""Panel transitions: from one panel of a story to the next, whatever the two show.

A clip (`clips`) keeps to a few motions in one scene.  Between two panels of a story anything can happen:
somebody is in the air here and sits there, forest becomes beach, somebody leaves and somebody comes.  No
world says how that must look; this one does, by a law that the two panels decide (so that it can be learnt
and measured):

- whoever is in both panels goes from place to place and from pose to pose, with steps in between where the
  way is long, and turns round where he looks the other way afterwards;
- whoever is missing in the second panel walks out of the picture, the way he looks; whoever is missing in the
  first walks in, looking ahead;
- the scene behind them dissolves into the other.

Chapter 09, the records and the weights that learnt from them call them *passages*.
"""

import math
import random
from dataclasses import dataclass, replace

from PIL import Image

from .captions import caption, random_mention
from .movement import between, bump, foreshorten, travel, walker
from .pictures import Actor, Picture, pose, random_actor
from .rendering import joints, render
from .vocabulary import ACTIONS, SCENES, Character

#: who is in the two panels, and how often
CASTS = {"one": 0.60, "two": 0.14, "somebody comes": 0.09, "somebody leaves": 0.09, "another one": 0.08}


@dataclass(frozen=True)
class PanelTransition:
    """From a first panel (t = 0) to a last one (t = 1).

    Parameters
    ----------
    first, last : Picture
        An actor of both is the same one if the character is.
    mention : frozenset of str
        Attributes that the caption names (see `captions.describe`).
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
        actors = self.actors(t) if actors is None else tuple(actors)
        scenes = [render(replace(p, actors=actors), size) for p in (self.first, self.last)]
        return Image.blend(*scenes, between(t, 0.2, 0.8))

    def images(self, n: int, size: int = 64) -> list[Image.Image]:
        """``n`` pictures at equal times, the first and the last panel among them."""
        if n < 2:
            raise ValueError(f"A passage needs at least 2 frames, its two panels; {n} were asked for.")
        return [self.image(i / (n - 1), size) for i in range(n)]

    def joints(self, t: float) -> dict[str, tuple[float, float]]:
        """True places of everybody's parts at time ``t`` (see `rendering.joints`)."""
        return joints(replace(self.last, actors=self.actors(t)))

    def caption(self) -> str:
        """What the last panel shows, in words: a transition has the prompt of the panel it leads to."""
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
    kept = {k: getattr(body, k) for k in ("bench", "mat", "book", "balloon", "eyes", "drop")}
    body = body.mix(replace(walker(abs(way) * s), **kept), bump(t, 0.05, 0.95) * min(1.0, abs(way) / 0.25))
    look = a.look
    if b.look != a.look:
        look = foreshorten(a.look * math.cos(math.pi * between(t, 0.2, 0.8)))
    x, y, scale = (getattr(a, k) + s * (getattr(b, k) - getattr(a, k)) for k in ("x", "y", "scale"))
    return Actor(b.character, b.action if t > 0.5 else a.action, 0.0, x, y, scale, look, body)


def random_pair(rng: random.Random) -> tuple[str, str]:
    """What somebody does in the first and in the second panel."""
    return rng.choice(tuple(ACTIONS)), rng.choice(tuple(ACTIONS))


def random_transition(rng: random.Random, character=Character.random, pair=random_pair) -> PanelTransition:
    """Two random panels: ``character(rng)`` draws who acts, ``pair(rng)`` the actions in the two."""
    kind = rng.choices(tuple(CASTS), tuple(CASTS.values()))[0]
    two = [character(rng)]
    while len(two) < 2:
        if (c := character(rng)) != two[0]:
            two.append(c)
    first, last = {
        "one": (two[:1], two[:1]),
        "two": (two, two),
        "somebody comes": (two[:1], two),
        "somebody leaves": (two, two[:1]),
        "another one": (two[:1], two[1:]),
    }[kind]
    actions = {c: pair(rng) for c in two}
    scenes = [rng.choice(tuple(SCENES)) for _ in range(2)]
    seeds = [rng.randrange(1 << 30) for _ in range(2)]
    if rng.random() < 0.5:
        scenes[1] = scenes[0]
        if rng.random() < 0.3:
            seeds[1] = seeds[0]

    def panel(k, cast):
        actors = tuple(random_actor(rng, c, actions[c][k], len(cast), i) for i, c in enumerate(cast))
        return Picture(scenes[k], actors, seeds[k])

    return PanelTransition(panel(0, first), panel(1, last), random_mention(rng))
