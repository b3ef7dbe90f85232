"""Pictures spoilt on purpose, whose counts are known: two heads, no face, a heap instead of a sleeper.

The pieces of a picture (`pieces`) are doubled, taken away, moved, faded and shuffled; what then shows of each
thing is counted (`counting`).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import partialmethod, wraps

import numpy as np

from .. import world
from .counting import truth
from .pieces import EYES, Piece, paint, pieces

#: things with a smaller number were in the picture before
OWN = 100


def to_a(kind):
    """A step that is done to one thing of a kind, chosen by chance; to none where there is none."""

    def decorate(step):
        @wraps(step)
        def chosen(self):
            if there := self.things(kind):
                step(self, self.rng.choice(there))

        return chosen

    return decorate


class Spoiler:
    """Spoils a picture, step by step; each method does one thing, by chance, where the picture allows it."""

    def __init__(self, picture: world.Picture, rng: random.Random):
        self.picture, self.rng = picture, rng
        self.found = pieces(picture)
        self.smears, self.blind = [], {}
        self.fresh = OWN

    def things(self, kind):
        """Numbers of the things of a kind."""
        return sorted({p.thing for p in self.found if p.kind == kind})

    def of(self, thing, *kinds):
        return [p for p in self.found if p.kind in kinds and p.thing == thing]

    def drop(self, group):
        gone = {id(p) for p in group}
        self.found = [p for p in self.found if id(p) not in gone]

    def box(self, group):
        """Middle (x, y) and half the larger side of some pieces."""
        pts = np.concatenate([s[1] for p in group for s in p.shapes])
        low, high = pts.min(0), pts.max(0)
        return (low + high) / 2, float((high - low).max()) / 2

    def opacity(self):
        """Mostly 1; sometimes a ghost's."""
        return 1.0 if self.rng.random() < 0.7 else self.rng.choice((0.12, 0.2, 0.4, 0.66, 0.75, 0.85, 0.9))

    def copied(self, group, shift=(0, 0), size=1.0, turn=0.0, flip=False, opacity=1.0):
        """Copies of pieces, moved: new things, one for each old one."""
        middle, t = self.box(group)[0], math.radians(turn)
        m = size * np.array([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]])
        if flip:
            m = np.diag([-1.0, 1.0]) @ m
        number, out = {}, []

        def at(pts):
            return None if pts is None else (pts - middle) @ m + middle + shift

        for p in group:
            # an eye goes with its head
            key = ("head" if p.kind in EYES else p.kind, p.thing)
            shapes = [(n, at(pts), fill, at(grown), ink) for n, pts, fill, grown, ink in p.shapes]
            self.fresh += bool(p.kind)
            thing = number.setdefault(key, self.fresh) if p.kind else p.thing
            out.append(Piece(p.kind, thing, shapes, opacity, p.part))
        return out

    def put(self, group, beside, front):
        """Lay pieces down in front of everything, or just behind ``beside``."""
        if front or not beside:
            self.found = self.found + group
        else:
            first = min(i for i, p in enumerate(self.found) if any(p is b for b in beside))
            self.found = self.found[:first] + group + self.found[first:]

    def double(self, group, shift, size, turn=0.0, flip=False, front=0.5):
        """Lay down copies of pieces, by chance in front of everything."""
        copies = self.copied(group, shift, size, turn, flip, self.opacity())
        self.put(copies, group, self.rng.random() < front)

    def one(self, actor):
        """Pieces of one more actor, as new things."""
        lone = [p for p in pieces(replace(self.picture, actors=(actor,))) if "." in p.shapes[0][0]]
        return self.copied(lone) if lone else []

    # what can be doubled

    @to_a("head")
    def double_head(self, thing):
        r = self.rng
        group = self.of(thing, "head", *EYES, *(("accessory",) if r.random() < 0.6 else ()))
        half = self.box(self.of(thing, "head"))[1]
        a, d = r.uniform(0, 2 * math.pi), half * r.uniform(0.8, 2.4)
        shift, size = (d * math.cos(a), d * math.sin(a) * 0.8), r.uniform(0.75, 1.05)
        self.double(group, shift, size, r.gauss(0, 25), r.random() < 0.5)

    @to_a("body")
    def double_body(self, thing):
        r, group = self.rng, self.of(thing, "body")
        half = self.box(group)[1]
        shift = (r.choice((-1, 1)) * half * r.uniform(0.7, 2.0), half * r.uniform(-0.5, 0.5))
        self.double(group, shift, r.uniform(0.8, 1.05), r.gauss(0, 25))

    @to_a("body")
    def double_character(self, thing):
        r = self.rng
        group = [p for p in self.found if p.thing == thing and p.kind not in ("", "sun", "moon")]
        half = self.box(group)[1]
        shift = (r.choice((-1, 1)) * half * r.uniform(0.5, 1.3), half * r.uniform(-0.3, 0.2))
        self.double(group, shift, r.uniform(0.7, 1.0), r.gauss(0, 8))

    def more_limbs(self):
        limbs = [p for p in self.found if p.part.startswith(("arm", "leg"))]
        for p in self.rng.sample(limbs, min(len(limbs), self.rng.choice((1, 1, 2, 4)))):
            half = self.box([p])[1]
            shift = np.array([self.rng.gauss(0, 2 * half), self.rng.gauss(0, half)])
            more = self.copied([p], shift, 1, self.rng.uniform(-90, 90), False, self.opacity())
            self.put([replace(m, kind="") for m in more], [p], self.rng.random() < 0.5)

    def double_balloon(self):
        """A balloon in the other hand, or another beside the first; a balloon for who had none."""
        r, actors = self.rng, self.picture.actors
        if not actors:
            return
        i = r.randrange(len(actors))
        a = actors[i]
        if a.action != "balloon" or r.random() < 0.6:
            other = replace(a, action="balloon", look=-a.look, pose=None, phase=r.random())
            other = other if a.action != "sleeping" else replace(other, scale=a.scale * 0.9)
            group = self.copied([p for p in self.one(other) if p.part in ("prop/balloon", "prop/string")])
        else:
            group = [p for p in self.found if p.part in ("prop/balloon", "prop/string") and p.thing == i]
            if not group:
                return
            group = self.copied(group, (r.uniform(-0.4, 0.4), r.uniform(-0.1, 0.25)), r.uniform(0.8, 1.05))
        if r.random() < 0.3:
            group = [p for p in group if p.part != "prop/string"]
        opacity = self.opacity()
        group = [replace(p, opacity=opacity) for p in group]
        self.put(group, [p for p in self.found if p.kind == "body"], r.random() < 0.4)

    def other_accessory(self):
        """A second accessory on the same head, of another sort: a hat *and* a scarf."""
        r, actors = self.rng, self.picture.actors
        if not actors:
            return
        a = r.choice(actors)
        c = a.character
        sort = r.choice([x for x in world.ACCESSORY if x != c.accessory])
        colour = c.accessory_colour if r.random() < 0.6 else r.choice(tuple(world.OUTFIT))
        worn = replace(c, accessory=sort, accessory_colour=colour)
        group = [p for p in self.one(replace(a, character=worn)) if p.kind == "accessory"]
        opacity = self.opacity()
        self.put([replace(p, opacity=opacity) for p in group], [], True)

    @to_a("accessory")
    def double_accessory(self, thing):
        """The same accessory again, beside the first."""
        r, group = self.rng, self.of(thing, "accessory")
        half = self.box(group)[1]
        a, d = r.uniform(0, 2 * math.pi), half * r.uniform(1.0, 2.2)
        shift = (d * math.cos(a), d * math.sin(a))
        self.double(group, shift, r.uniform(0.7, 1), r.gauss(0, 30), front=0.7)

    def double_sky(self, kind):
        """One more sun or moon, here or where there is none, sometimes half behind something."""
        r = self.rng
        scene = r.choice(("beach", "desert")) if kind == "sun" else "bedroom"
        there = self.things(kind)
        sky = self.of(r.choice(there), kind) if there and r.random() < 0.8 else None
        if sky is None:
            donor = pieces(world.Picture(scene, (), r.randrange(1 << 30)))
            sky = [p for p in donor if p.kind == kind]
        middle, _ = self.box(sky)
        to = np.array([r.uniform(0.05, 0.95), middle[1] + r.uniform(-0.08, 0.2)])
        if r.random() < 0.4:  # the place on the other side, as a generator that cannot decide
            to = np.array([1 - middle[0], middle[1]])
        more = self.copied(sky, to - middle, r.uniform(0.8, 1.1), 0, False, self.opacity())
        actors = [p for p in self.found if "." in p.shapes[0][0]]
        self.put(more, actors, False)

    double_sun, double_moon = partialmethod(double_sky, "sun"), partialmethod(double_sky, "moon")

    # what can be missing

    def no(self, kind):
        if there := self.things(kind):
            self.drop(self.of(self.rng.choice(there), kind))

    no_accessory, no_balloon = partialmethod(no, "accessory"), partialmethod(no, "balloon")
    no_sun, no_moon = partialmethod(no, "sun"), partialmethod(no, "moon")

    def no_head(self):
        if own := [t for t in self.things("head") if t < OWN]:
            self.drop(self.of(self.rng.choice(own), "head", *EYES, "accessory"))

    @to_a("head")
    def no_eye(self, thing):
        """One eye is missing, or both."""
        self.drop(self.of(thing, *self.rng.choice((EYES[:1], EYES[1:], EYES))))

    @to_a("head")
    def no_face(self, thing):
        self.drop([p for p in self.of(thing, "head", *EYES) if p.part.startswith("face")])

    @to_a("head")
    def smear(self, thing):
        """A face is wiped over until no eye is left of it."""
        if eyes := self.of(thing, *EYES):
            (x, y), half = self.box(eyes)
            r = max(half * self.rng.uniform(1.5, 2.2), 0.05)
            self.smears.append((x, y, r))
            self.blind[thing] = False
            for other in self.things("head"):  # a neighbour's face may be touched
                near = self.of(other, *EYES)
                if other != thing and near and np.hypot(*(self.box(near)[0] - (x, y))) < 1.8 * r:
                    self.blind.setdefault(other, None)

    def washed(self):
        """Eyes, sometimes all of the face, are gone, and the colours of the head run: a sleeper's first."""
        if there := [t for t in self.things("head") if self.of(t, *EYES)]:
            lying = [t for t in there if t < OWN and self.picture.actors[t].action == "sleeping"]
            thing = self.rng.choice(lying or there)
            head = self.of(thing, "head", *EYES)
            (x, y), half = self.box(self.of(thing, *EYES))
            whole = self.rng.random() < 0.6
            self.drop([p for p in head if p.part.startswith("face/") or (whole and p.part == "face")])
            for _ in range(self.rng.choice((0, 1, 2))):
                dx, dy = (self.rng.uniform(-half, half) for _ in "xy")
                self.smears.append((x + dx, y + dy, half * self.rng.uniform(0.6, 1.6)))

    # what is mixed up

    def fade(self):
        """A thing is half there."""
        if kinds := [k for k in ("head", "body", "accessory", "balloon", "sun", "moon") if self.things(k)]:
            kind = self.rng.choice(kinds)
            thing, opacity = self.rng.choice(self.things(kind)), self.rng.uniform(0.05, 0.95)
            for p in self.of(thing, kind, *(EYES if kind == "head" else ())):
                p.opacity = opacity

    def ghost(self):
        """A second character shows through."""
        r = self.rng
        character = world.Character.random(r)
        places, rows = r.choice((1, 2)), r.choice((0, 1)) if r.random() < 0.5 else 0
        actor = world.random_actor(r, character, None, places, rows)
        opacity = r.choice((0.1, 0.15, 0.2, 0.4, 0.65, 0.8))
        group = [replace(p, opacity=opacity) for p in self.one(actor)]
        self.put(group, [p for p in self.found if p.kind == "body"], r.random() < 0.5)

    def heap(self):
        """Sleepers in a pile: heads and limbs of two or three in any order, some of them missing."""
        r = self.rng
        own = [a for a in self.picture.actors if a.action == "sleeping"]
        if not own:
            return
        a = r.choice(own)
        more = []
        for _ in range(r.choice((0, 1, 1, 2))):
            c = a.character if r.random() < 0.7 else world.Character.random(r, species=a.character.species)
            x, y = a.x + r.uniform(-0.25, 0.25), a.y + r.uniform(-0.08, 0.04)
            look, scale = r.choice((-1, 1)), a.scale * r.uniform(0.7, 1)
            more += self.one(replace(a, character=c, x=x, y=y, look=look, scale=scale))
        moving = [p for p in self.found if "." in p.shapes[0][0]] + more
        still = [p for p in self.found if "." not in p.shapes[0][0]]
        mats = [p for p in moving if p.part in ("prop", "shadow")]
        # whole heads, so that eyes stay in front of theirs; limbs one by one
        blocks = {}
        for i, p in enumerate(p for p in moving if p.part not in ("prop", "shadow")):
            head = p.kind in ("head", *EYES)
            blocks.setdefault(("head", p.thing) if head else (i,), []).append(p)
        order = list(blocks.values())
        if r.random() < 0.7:
            r.shuffle(order)
        lost = r.choice((0, 0.1, 0.25))
        self.found = still + mats + [p for b in order if r.random() >= lost for p in b]


#: what is done to a picture: how often, and what there must be
SPOILS = {
    "double_head": (4, "head"),
    "double_body": (2, "body"),
    "double_character": (2, "body"),
    "more_limbs": (2, "body"),
    "double_balloon": (7, "body"),
    "other_accessory": (5, "head"),
    "double_accessory": (2, "accessory"),
    "double_sun": (8, None),
    "double_moon": (5, None),
    "no_accessory": (3, "accessory"),
    "no_balloon": (3, "balloon"),
    "no_sun": (2, "sun"),
    "no_moon": (2, "moon"),
    "no_head": (2, "head"),
    "no_eye": (4, "eye_l"),
    "no_face": (2, "eye_l"),
    "smear": (3, "eye_l"),
    "washed": (8, "eye_l"),
    "fade": (3, "body"),
    "ghost": (2, None),
}
#: how many characters a picture shows, and whether they are alike
GROUPS = {"single": 0.50, "twins": 0.14, "pair": 0.20, "trio": 0.07, "empty": 0.09}


def scene_of(rng: random.Random, group: str) -> world.Picture:
    """A picture of nobody, one, two alike, two that differ, or three."""
    scene = rng.choice(tuple(world.SCENES))
    if group == "empty":
        return world.Picture(scene, (), rng.randrange(1 << 30))
    one = world.Character.random(rng)
    if group == "single":
        action = rng.choice((None, None, None, "sleeping", "balloon"))
        return world.random_picture(rng, one, action, scene)
    n = 3 if group == "trio" else 2
    cast = [one, one] if group == "twins" else [world.Character.random(rng) for _ in range(n)]
    return world.random_group(rng, cast, scene)


@dataclass
class Sample:
    """A picture to count in: `draw` makes its pixels, ``counts`` and ``centres`` are as of `truth`."""

    picture: world.Picture
    pieces: list[Piece]
    smears: list
    counts: dict
    centres: dict
    spoilt: tuple[str, ...] = ()

    def draw(self, size: int) -> np.ndarray:
        """Pixels, uint8 [3, size, size]."""
        return np.asarray(paint(self.pieces, size, self.smears)).transpose(2, 0, 1)


def spoil(picture: world.Picture, rng: random.Random, steps) -> Sample:
    """Spoil a picture.

    Parameters
    ----------
    steps : sequence of str, or int
        Names of `SPOILS` (or ``"heap"``), done one after the other; or how many, by chance, of those for
        which there is something.
    """
    s, done = Spoiler(picture, rng), []
    for step in range(steps) if isinstance(steps, int) else steps:
        if isinstance(step, int):
            asleep = any(a.action == "sleeping" for a in picture.actors)
            can = {k: w for k, (w, kind) in SPOILS.items() if kind is None or s.things(kind)}
            step = rng.choices(tuple(can), tuple(can.values()))[0]
            step = "heap" if asleep and not done and rng.random() < 0.4 else step
        getattr(s, step)()
        done.append(step)
    counts, centres = truth(s.found, s.blind)
    return Sample(picture, s.found, s.smears, counts, centres, tuple(done))


def sample(split: str, i: int, spoilt: bool | None = None) -> Sample:
    """The i-th sample of a split (`splits.PICTURE_SPLITS`): in six of ten cases a spoilt one, or as asked."""
    rng = random.Random(f"defects/{split}/{i}")
    picture = scene_of(rng, rng.choices(tuple(GROUPS), tuple(GROUPS.values()))[0])
    if not (rng.random() < 0.6 if spoilt is None else spoilt):
        return spoil(picture, rng, 0)
    return spoil(picture, rng, rng.choice((1, 1, 2, 3)))
