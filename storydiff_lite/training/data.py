"""Pictures to train on: drawn once, kept in memory, the same for the same seed.

The splits are apart by their seeds: ``train`` for the generator, ``judge`` for the judge's own training,
``heldout`` for every number that is reported.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import weights, world

SPLITS = ("train", "judge", "heldout")
#: how often each kind of sample comes up in the training of the U-Net; a strip is two pictures
MIX = {"single": 0.28, "twins": 0.10, "pair": 0.10, "empty": 0.02, "strip": 0.50}

#: kinds of samples that show one character in several pictures
SEVERAL = {"strip": 2, "page": 4, "album": 5}


def specimen(split: str, i: int, mix=None) -> list[world.Picture]:
    """The i-th sample of a split: one picture, or the two of a strip, four of a page, five of an album."""
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}: use one of {', '.join(SPLITS)}.")
    rng = random.Random(f"{split}/{i}")
    mix = mix or {"single": 1}
    kind = rng.choices(tuple(mix), tuple(mix.values()))[0]
    if kind in SEVERAL:
        return world.random_strip(rng, SEVERAL[kind])
    if kind == "empty":
        return [world.Picture(rng.choice(tuple(world.SCENES)), (), rng.randrange(1 << 30))]
    one = world.Character.random(rng)
    if kind == "single":
        return [world.random_picture(rng, one)]
    return [world.random_group(rng, [one, one if kind == "twins" else world.Character.random(rng)])]


def draw(picture, size: int):
    """A picture as uint8 [3, size, size]."""
    return np.asarray(world.render(picture, size)).transpose(2, 0, 1)


def on_all_cores(work, items, desc, few=4000):
    """``[work(x) for x in items]``, by a process a core where there are many of both; ``work`` draws, and
    must not compute with torch.
    """
    cores = os.cpu_count() or 1
    if len(items) < few or cores < 4:
        return [work(x) for x in tqdm(items, desc=desc, mininterval=10)]
    # forked where that is possible: the other way each process imports everything anew
    how = "fork" if sys.platform == "linux" else "spawn"
    with multiprocessing.get_context(how).Pool(cores) as pool:
        return list(tqdm(pool.imap(work, items, chunksize=64), total=len(items), desc=desc, mininterval=10))


def pool(split: str, n: int, size: int, mix=None, cache="checkpoints"):
    """``n`` samples and their pixels.

    Returns
    -------
    samples : list of list of world.Picture
    pixels : uint8 tensor [number of pictures, 3, size, size], the pictures of all samples in order
    """
    samples = [specimen(split, i, mix) for i in range(n)]
    flat = [p for s in samples for p in s]
    name = "single" if not mix else f"{zlib.crc32(repr(sorted(mix.items())).encode()):08x}"
    path = Path(cache) / f"pool-{split}-{name}-{n}-{size}.npy"
    for kept in Path(cache).glob(f"pool-{split}-{name}-*-{size}.npy"):  # a larger pool begins with this one
        if int(kept.stem.split("-")[3]) >= n and len(a := np.load(kept, mmap_mode="r")) >= len(flat):
            return samples, torch.from_numpy(np.array(a[: len(flat)]))
    a = np.stack(on_all_cores(partial(draw, size=size), flat, f"drawing {split}"))
    weights.atomic_save(path, lambda to: np.save(to, a))
    return samples, torch.from_numpy(a)


def to_float(pixels):
    """uint8 [B, 3, H, W] -> float in -1..1."""
    return pixels.float() / 127.5 - 1
