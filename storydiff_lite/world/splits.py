"""What is trained on and what is kept for measurements: the i-th picture, clip or transition of a split.

All splits are apart by their seeds.  Of pictures that is all (``train`` for the generator, ``judge`` for the
judge's own training, ``heldout`` for every number that is reported).  Clips and transitions of ``heldout``
also show only characters that are kept for measurements (`withheld`), those of ``train`` and ``validation``
never do; how far a clip goes, ``reach``, comes from bands of 0..1 that are disjoint (`BANDS`); and one in
five pairs of actions (`unseen`) belongs to the transitions of ``heldout``.
"""

import random
import zlib
from functools import partial

from .clips import KINDS, Clip, random_clip
from .pictures import Picture, random_group, random_picture, random_strip
from .transitions import PanelTransition, random_pair, random_transition
from .vocabulary import SCENES, Character

PICTURE_SPLITS = ("train", "judge", "heldout")
CLIP_SPLITS = ("train", "validation", "heldout")  # and of transitions
#: of twelve equal bands of ``reach``, those from which each split draws; all others are train's
BANDS = {"validation": (4, 9), "heldout": (2, 6, 10)}
BANDS["train"] = tuple(b for b in range(12) if b not in BANDS["validation"] + BANDS["heldout"])
#: kinds of samples that show one character in several pictures
SEVERAL = {"strip": 2, "page": 4, "album": 5}


def withheld(character: Character) -> bool:
    """Whether a character is kept for measurements: a fifth of all."""
    return zlib.crc32(repr(character).encode()) % 5 == 0


def unseen(before: str, after: str) -> bool:
    """Whether a pair of actions, in the first and in the second panel, is kept for measurements."""
    return zlib.crc32(f"{before} -> {after}".encode()) % 5 == 0


def random_character(rng: random.Random, kept: bool, **fixed) -> Character:
    """A random character that is kept for measurements, or one that is not; see `Character.random`."""
    while withheld(c := Character.random(rng, **fixed)) != kept:
        pass
    return c


def sample_pictures(split: str, i: int, mix=None) -> list[Picture]:
    """The i-th sample of a split: one picture, or the two of a strip, four of a page, five of an album.

    Parameters
    ----------
    split : str
        One of `PICTURE_SPLITS`.
    i : int
    mix : dict, optional
        How often each kind of sample comes up: ``"single"`` (the default), ``"twins"``, ``"pair"``,
        ``"empty"``, ``"pair strip"``, ``"pair page"`` and those of `SEVERAL`.

    Raises
    ------
    ValueError
        A split that does not exist.
    """
    if split not in PICTURE_SPLITS:
        raise ValueError(f"There is no split {split!r}: use one of {', '.join(PICTURE_SPLITS)}.")
    rng = random.Random(f"{split}/{i}")
    mix = mix or {"single": 1}
    kind = rng.choices(tuple(mix), tuple(mix.values()))[0]
    if kind in SEVERAL:
        return random_strip(rng, SEVERAL[kind])
    if kind == "empty":
        return [Picture(rng.choice(tuple(SCENES)), (), rng.randrange(1 << 30))]
    one = Character.random(rng)
    if kind == "single":
        return [random_picture(rng, one)]
    if kind in ("pair strip", "pair page"):
        return _two_in_several(rng, one, 2 if kind == "pair strip" else 4)
    return [random_group(rng, [one, one if kind == "twins" else Character.random(rng)])]


def _two_in_several(rng, one, panels):
    """Two characters in several scenes: together, and one by one, in any order."""
    two = Character.random(rng)
    while two.species == one.species and rng.random() < 0.9:
        two = Character.random(rng)
    scenes = rng.sample(tuple(SCENES), panels)

    def both(scene):
        return random_group(rng, rng.sample((one, two), 2), scene)

    if panels == 2:
        single = rng.random() < 0.6
        pictures = [
            random_picture(rng, rng.choice((one, two)), None, scenes[0]) if single else both(scenes[0]),
            both(scenes[1]),
        ]
    else:
        pictures = [random_picture(rng, c, None, s) for c, s in zip((one, two), scenes, strict=False)]
        pictures += [both(s) for s in scenes[2:]]
    rng.shuffle(pictures)
    return pictures


def sample_clip(split: str, i: int, kind: str | None = None) -> Clip:
    """The i-th clip of a split; kinds take turns unless one is given.

    Raises
    ------
    ValueError
        An unknown split.
    """
    if split not in CLIP_SPLITS:
        raise ValueError(f"Clips have no split {split!r}: use one of {', '.join(CLIP_SPLITS)}.")
    rng = random.Random(f"clips/{split}/{i}")
    reach = (rng.choice(BANDS[split]) + rng.random()) / 12
    character = partial(random_character, kept=split == "heldout")
    return random_clip(rng, kind or KINDS[i % len(KINDS)], character, reach)


def sample_transition(split: str, i: int) -> PanelTransition:
    """The i-th transition of a split.

    Raises
    ------
    ValueError
        An unknown split.
    """
    if split not in CLIP_SPLITS:
        raise ValueError(f"Passages have no split {split!r}: use one of {', '.join(CLIP_SPLITS)}.")
    kept = split == "heldout"

    def pair(rng):
        while unseen(*(p := random_pair(rng))) != kept:
            pass
        return p

    rng = random.Random(f"passages/{split}/{i}")  # the seed's text is older than the name
    return random_transition(rng, partial(random_character, kept=kept), pair)
