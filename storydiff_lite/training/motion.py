"""The motion predictor: tokens of the first and the last frame in, tokens of every frame out.

StoryDiffusion (2405.01434, section 3.2) trains it through the video model, by the video's error.  Here it is
first trained on the tokens themselves: the true frames are known, so are their tokens, and no video model has
to be passed through.  The image encoder stays as it is, so each frame is encoded once.

A clip's error is counted in units of how far the straight line is from the truth: 1 is interpolation, and a
waving hand counts as much as somebody who crosses the picture.  Every fifth step has six frames a clip
instead of sixteen, so that the predictor learns times and does not count frames.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import clips, passages, weights
from ..motion import interpolate, micro, semantic_tokens
from . import data
from .common import Run, autocast

FRAMES = 16


def draw_clip(clip, frames, size):
    """A clip as uint8 [frames, 3, size, size]."""
    return np.stack([data.draw(p, size) for p in clip.frames(frames)])


#: what transitions are learnt from: (the i-th of a split, its pixels)
SOURCES = {"clips": (clips.specimen, draw_clip), "passages": (passages.specimen, passages.drawn)}


def clip_pool(split: str, n: int, frames: int = FRAMES, size: int = 64, folder="checkpoints", source="clips"):
    """``n`` clips, or passages, and their pixels, drawn once and kept in ``folder``.

    Returns
    -------
    list of clips.Clip, or of passages.Passage
    Tensor uint8 [n, frames, 3, size, size]
    """
    specimen, draw = SOURCES[source]
    some = [specimen(split, i) for i in range(n)]
    # a larger pool begins with this
    for kept in Path(folder).glob(f"{source}-{split}-*-{frames}-{size}.npy"):
        if int(kept.stem.split("-")[-3]) >= n:
            return some, torch.from_numpy(np.array(np.load(kept, mmap_mode="r")[:n]))
    work = partial(draw, frames=frames, size=size)
    a = np.stack(data.on_all_cores(work, some, f"drawing {source} of {split}", few=256))
    path = Path(folder) / f"{source}-{split}-{n}-{frames}-{size}.npy"
    weights.atomic_save(path, lambda to: np.save(to, a))
    return some, torch.from_numpy(a)


def token_pool(image_encoder, pixels, device="cpu", batch=512, dtype=None):
    """Semantic tokens of many clips, on ``device``.

    Parameters
    ----------
    pixels : uint8 Tensor [n, F, 3, S, S]
    dtype : torch.dtype, optional
        Half precision by default on a GPU, single on a CPU.

    Returns
    -------
    Tensor [n, F, tokens, D]
    """
    dtype = dtype or (torch.float16 if torch.device(device).type == "cuda" else torch.float32)
    flat, out = pixels.flatten(0, 1), []
    for some in tqdm(flat.split(batch), desc="encoding", mininterval=10):
        out.append(semantic_tokens(image_encoder, data.to_float(some.to(device))).to(dtype))
    return torch.cat(out).unflatten(0, pixels.shape[:2])


def relative_error(predicted, truth):
    """How far predicted tokens are from the true ones, in units of how far the straight line is.

    Parameters
    ----------
    predicted, truth : Tensor [B, F, S, D]

    Returns
    -------
    Tensor [B]
        Mean squared error of each clip over that of interpolation: 0 is the truth, 1 the line.
    """
    line = interpolate(truth[:, 0], truth[:, -1], truth.shape[1])
    far = (line - truth).square().mean((1, 2, 3))
    return (predicted - truth).square().mean((1, 2, 3)) / far.clamp(min=1e-6)


def train(
    image_encoder,
    steps=3000,
    batch=128,
    size=64,
    seed=0,
    device="cpu",
    folder="checkpoints",
    pictures=4000,
    frames=FRAMES,
    predictor=None,
    seconds=None,
    lr=1e-3,
    name="motion",
):
    """Train a predictor, and return ``(predictor, run)``.

    Parameters
    ----------
    image_encoder : CLIPVisionModelWithProjection
        Stays as it is.
    pictures : int
        Clips that are drawn; each also comes up mirrored.
    frames : int
        Frames of a clip; 16 and 6 of them are trained on by turns, or all of them where there are not 16.
    predictor : SemanticMotionPredictor, optional
        To begin with; a new ``motion.micro()`` by default.
    seconds : float, optional
        Wall time that ends the run early, drawing not counted.
    """
    torch.manual_seed(seed)
    image_encoder = image_encoder.to(device).eval()
    net = (predictor or micro(4 * image_encoder.config.hidden_size)).to(device).train()
    facts = {"batch": batch, "clips": pictures, "frames": frames}
    run = Run(name, net, steps, lr, 0.02, ema=0.995, seed=seed, folder=folder, seconds=seconds, facts=facts)
    pixels = clip_pool("train", pictures, frames, size, folder)[1]
    tokens = torch.cat([token_pool(image_encoder, p, device) for p in (pixels, pixels.flip(-1))])
    if not run.done:
        some = tokens[:512].float()
        net.mean.copy_(some.mean((0, 1, 2)))
        net.scale.copy_(some.std((0, 1, 2)))
    for i in run.steps():
        rows = torch.randint(0, len(tokens), (batch,), device=device)
        every = 3 if i % 5 == 4 and (frames - 1) % 3 == 0 else 1
        truth = tokens[rows, ::every].float()  # [B, F, S, D]
        with autocast(device):
            predicted = net(truth[:, 0], truth[:, -1], truth.shape[1])
        loss = relative_error(predicted.float(), truth).mean()
        run.update(loss, i)
    run.averaged()
    return net.eval(), run


@torch.no_grad()
def errors(net, image_encoder, split="heldout", n=140, frames=FRAMES, size=64, device="cpu", folder=None):
    """Errors of a predictor on clips of a split, clip by clip.

    Returns
    -------
    list of dict
        Of each clip: ``kind``; ``line`` and ``predicted``, the mean squared errors of its tokens over all
        frames but the first and the last; ``relative``, the second over the first.
    """
    if folder is None:
        some = [clips.specimen(split, i) for i in range(n)]
        work = partial(draw_clip, frames=frames, size=size)
        pixels = torch.from_numpy(np.stack(data.on_all_cores(work, some, f"drawing {split}", few=256)))
    else:
        some, pixels = clip_pool(split, n, frames, size, folder)
    truth, out = token_pool(image_encoder.to(device), pixels, device).float(), []
    for k, x in zip(range(0, n, 32), truth.split(32), strict=True):
        inner = slice(1, -1)
        far = [
            (y - x)[:, inner].square().mean((1, 2, 3)).tolist()
            for y in (
                interpolate(x[:, 0], x[:, -1], x.shape[1]),
                net(x[:, 0], x[:, -1], x.shape[1]).float(),
            )
        ]
        for clip, line, predicted in zip(some[k:], *far, strict=False):
            out.append(
                {"kind": clip.kind, "line": line, "predicted": predicted, "relative": predicted / line}
            )
    return out


def measure(net, image_encoder, split="heldout", n=140, **more):
    """Mean error in units of the straight line's, of each kind of motion and of all (see `errors`)."""
    rows = errors(net, image_encoder, split, n, **more)
    kinds = {k: [r["relative"] for r in rows if r["kind"] == k] for k in clips.KINDS}
    kinds["all"] = [r["relative"] for r in rows]
    return {k: sum(v) / len(v) for k, v in kinds.items() if v}
