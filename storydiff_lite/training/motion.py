"""The motion predictor: tokens of the first and the last frame in, tokens of every frame out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from .. import clips
from . import data


def draw_clip(clip, frames, size):
    """A clip as uint8 [frames, 3, size, size]."""
    return np.stack([data.draw(p, size) for p in clip.frames(frames)])


def clip_pool(split: str, n: int, frames: int, size: int, folder="checkpoints"):
    """``n`` clips and their pixels, drawn once and kept in ``folder``.

    Returns
    -------
    list of clips.Clip
    Tensor uint8 [n, frames, 3, size, size]
    """
    some = [clips.specimen(split, i) for i in range(n)]
    path = Path(folder) / f"clips-{split}-{n}-{frames}-{size}.npy"
    if path.exists():
        return some, torch.from_numpy(np.load(path))
    a = np.stack(
        data.on_all_cores(partial(draw_clip, frames=frames, size=size), some, f"drawing {split}", few=200)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as f:
        np.save(f, a)
    part.replace(path)
    return some, torch.from_numpy(a)
