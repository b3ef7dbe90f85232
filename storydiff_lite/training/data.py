"""Pictures to train on: drawn once, kept in memory, the same for the same seed.

Drawn pictures are kept in files whose names follow from the renderer (`renderer`), so that a world that
draws otherwise never meets pictures of the one before it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import zlib
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from .. import weights, world

#: how often each kind of sample comes up in the training of the U-Net; a strip is two pictures.  Twins are
#: few: a model that saw many of them draws two of one kind when it is asked for a bear and a cat.
MIX = {"single": 0.22, "twins": 0.04, "pair": 0.20, "empty": 0.02, "strip": 0.36, "pair strip": 0.16}
#: the same of pages, four pictures each
PAGES = {"page": 0.6, "pair page": 0.4}


@cache
def renderer() -> str:
    """Eight hexadecimal digits that change when the world draws otherwise: of every action in every scene."""
    found = 0
    for i, scene in enumerate(world.SCENES):
        rng = random.Random(f"renderer/{i}")
        for action in world.ACTIONS:
            found = zlib.crc32(
                world.render(world.random_picture(rng, None, action, scene), 32).tobytes(), found
            )
    return f"{found:08x}"


def draw(picture, size: int):
    """A picture as uint8 [3, size, size]."""
    return np.asarray(world.render(picture, size)).transpose(2, 0, 1)


def on_all_cores(work, items, desc, few=4000):
    """``[work(x) for x in items]``, by a process a core where there are many of both; ``work`` draws, and
    must not compute with torch.
    """
    cores = os.cpu_count() or 1
    if len(items) < few or cores < 2:
        return [work(x) for x in tqdm(items, desc=desc, mininterval=10)]
    with multiprocessing.Pool(cores) as pool:
        return list(tqdm(pool.imap(work, items, chunksize=64), total=len(items), desc=desc, mininterval=10))


def kept(path, make) -> dict[str, torch.Tensor]:
    """The tensors of a file, which ``make()`` makes where it is not there yet."""
    if not path.exists():
        tensors = {k: v.contiguous() for k, v in make().items()}
        weights.atomic_save(path, lambda to: save_file(tensors, to))
    return load_file(path)


def first_rows(rows, folder, start, n, end, make) -> torch.Tensor:
    """The first ``rows`` of a file ``START-N-END.npy`` in ``folder``, of ``n`` samples or more: a larger one
    begins with these.  Where there is none it is written, and holds ``make()``.
    """
    for file in Path(folder).glob(f"{start}-*-{end}.npy"):
        enough = int(file.name.removeprefix(f"{start}-").partition("-")[0]) >= n
        if enough and len(a := np.load(file, mmap_mode="r")) >= rows:
            return torch.from_numpy(np.array(a[:rows]))
    a = np.stack(make())
    weights.atomic_save(Path(folder) / f"{start}-{n}-{end}.npy", lambda to: np.save(to, a))
    return torch.from_numpy(a)


def pool(split: str, n: int, size: int, mix=None, cache="checkpoints"):
    """``n`` samples, lists of `world.Picture`, and all their pixels, uint8 [pictures, 3, size, size]."""
    samples = [world.sample_pictures(split, i, mix) for i in range(n)]
    flat = [p for s in samples for p in s]
    kinds = "single" if not mix else f"{zlib.crc32(repr(sorted(mix.items())).encode()):08x}"
    start = f"pool-{split}-{kinds}.{renderer()}"
    work = partial(on_all_cores, partial(draw, size=size), flat, f"drawing {split}")
    return samples, first_rows(len(flat), cache, start, n, size, work)


def to_float(pixels):
    """uint8 [B, 3, H, W] -> float in -1..1."""
    return pixels.float() / 127.5 - 1
