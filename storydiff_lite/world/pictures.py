"""What a picture is: a scene with its actors, each a character in a pose somewhere; and random ones."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields, replace

from .vocabulary import ACTIONS, PEOPLE, SCENES, Character, check_name


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
            arm, leg = 128 + 12 * s, 38 + 6 * c
            return Pose(lift=0.17 + 0.05 * s, arm_l=arm, arm_r=arm, leg_l=leg, leg_r=leg)
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
