"""The motion predictor: tokens of the first and the last frame in, tokens of every frame out.

StoryDiffusion (2405.01434, section 3.2) trains it through the video model, by the video's error.  Here it is
first trained on the tokens themselves: the true frames are known, so are their tokens, and no video model has
to be passed through.  The image encoder stays as it is, so each frame is encoded once.

A clip's error is counted in units of how far the straight line is from the truth: 1 is interpolation, and a
waving hand counts as much as somebody who crosses the picture.  Every fifth step has six frames a clip
instead of sixteen, so that the predictor learns times and does not count frames.
"""

from __future__ import annotations

import math
import zlib
from contextlib import nullcontext
from functools import cache, partial
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from .. import world
from ..motion import GRID, interpolate, micro, semantic_tokens
from . import data
from .common import Run, autocast
from .vae import latents_of

FRAMES = 16


def draw_clip(clip, frames, size):
    """A clip, or a panel transition, as uint8 [frames, 3, size, size]."""
    return np.stack([np.asarray(i).transpose(2, 0, 1) for i in clip.images(frames, size)])


#: what transitions are learnt from: the i-th of a split
SOURCES = {"clips": world.sample_clip, "passages": world.sample_transition}


@cache
def drawn_by(source="clips") -> str:
    """Eight hexadecimal digits that change when clips, or passages, are drawn otherwise."""
    found = int(data.renderer(), 16)
    for i in range(len(world.clips.KINDS)):
        found = zlib.crc32(draw_clip(SOURCES[source]("train", i), 4, 32).tobytes(), found)
    return f"{found:08x}"


def clip_pool(split: str, n: int, frames: int, size: int, folder="checkpoints", source="clips"):
    """``n`` clips, or passages, and their pixels, drawn once and kept in ``folder`` under a name that changes
    when they are drawn otherwise.

    Returns
    -------
    list of Clip, or of PanelTransition
    Tensor uint8 [n, frames, 3, size, size]
    """
    clips = [SOURCES[source](split, i) for i in range(n)]
    end, work = f"{frames}-{size}-{drawn_by(source)}", partial(draw_clip, frames=frames, size=size)
    make = partial(data.on_all_cores, work, clips, f"drawing {source} of {split}", few=256)
    return clips, data.first_rows(n, folder, f"{source}-{split}", n, end, make)


def token_pool(image_encoder, pixels, device="cpu", batch=512, dtype=None):
    """Semantic tokens [n, F, tokens, D] of many clips, uint8 [n, F, 3, S, S], on ``device``; by default in
    half precision on a GPU, in single on a CPU.
    """
    dtype = dtype or (torch.float16 if torch.device(device).type == "cuda" else torch.float32)
    flat, out = pixels.flatten(0, 1), []
    for x in tqdm(flat.split(batch), desc="encoding", mininterval=10):
        out.append(semantic_tokens(image_encoder, data.to_float(x.to(device))).to(dtype))
    return torch.cat(out).unflatten(0, pixels.shape[:2])


def regions(latents):
    """Latents [B, C, H, W] as tokens [B, GRID * GRID, C * H * W / GRID ** 2]: one for each region."""
    return F.pixel_unshuffle(latents, latents.shape[-1] // GRID).flatten(2).mT


def from_regions(tokens):
    """`regions`, undone for latents of four channels that are as high as wide."""
    side = math.isqrt(tokens.shape[-1] // 4)
    return F.pixel_shuffle(tokens.mT.unflatten(2, (GRID, GRID)), side)


def latent_pool(vae, pixels, device="cpu", batch=64):
    """`token_pool` in another space: the latents of many clips, cut into as many regions of the picture."""
    return regions(latents_of(vae.to(device), pixels.flatten(0, 1), batch)).unflatten(0, pixels.shape[:2])


def relative_error(predicted, truth):
    """How far predicted tokens are from the true ones, in units of how far the straight line is.

    Of tokens [B, F, S, D] the mean squared error of each clip over that of interpolation, [B]: 0 is the
    truth, 1 the line.
    """
    line = interpolate(truth[:, 0], truth[:, -1], truth.shape[1])
    far = (line - truth).square().mean((1, 2, 3))
    return (predicted - truth).square().mean((1, 2, 3)) / far.clamp(min=1e-6)


def train(
    image_encoder,
    steps=3000,
    batch=128,
    size=None,
    seed=0,
    device="cpu",
    pictures=4000,
    frames=FRAMES,
    predictor=None,
    lr=1e-3,
    name="motion",
    tokens=None,
    **run,
):
    """Train a predictor, and return ``(predictor, run)``.

    Parameters
    ----------
    image_encoder : CLIPVisionModelWithProjection
        Stays as it is; not needed where ``tokens`` are given.
    size : int, optional
        Pixels of the clips; what the encoder takes by default.
    pictures : int
        Clips that are drawn; each also comes up mirrored.
    frames : int
        Frames of a clip; 16 and 6 of them are trained on by turns, or all of them where there are not 16.
    predictor : SemanticMotionPredictor, optional
        To begin with; a new ``motion.micro()`` by default.
    tokens : Tensor [n, F, tokens, D], optional
        What to learn instead of semantic tokens of drawn clips, such as `latent_pool`'s.
    **run
        Of `Run`, such as ``folder`` and ``seconds``.
    """
    kept = "the fifth of all characters and the quarter of all motions that are kept for measurements"
    seen = (
        f"{pictures:,} clips of {frames} frames (seeds clips/train/0 ...), each also mirrored, without {kept}"
    )
    if tokens is None:
        image_encoder = image_encoder.to(device).eval()
        size = size or image_encoder.config.image_size
        pixels = clip_pool("train", pictures, frames, size, run.get("folder", "checkpoints"))[1]
        tokens = torch.cat([token_pool(image_encoder, p, device) for p in (pixels, pixels.flip(-1))])
    torch.manual_seed(seed)
    net = (predictor or micro(tokens.shape[-1])).to(device).train()
    run = Run(name, net, steps, lr, ema=0.995, seed=seed, facts={"data": seen, "batch": batch}, **run)
    if not run.done:
        first = tokens[:512].float()
        net.mean.copy_(first.mean((0, 1, 2)))
        net.scale.copy_(first.std((0, 1, 2)))
    for i in run.steps():
        rows = torch.randint(0, len(tokens), (batch,), device=device)
        stride = 3 if i % 5 == 4 and (frames - 1) % 3 == 0 else 1
        truth = tokens[rows, ::stride].float()  # [B, F, S, D]
        with autocast(device):
            predicted = net(truth[:, 0], truth[:, -1], truth.shape[1])
        loss = relative_error(predicted.float(), truth).mean()
        run.update(loss, i)
    run.averaged()
    return net.eval(), run


@torch.no_grad()
def errors(net, image_encoder, split="heldout", n=140, frames=FRAMES, size=None, device="cpu", folder=None):
    """Errors of a predictor on clips of a split, clip by clip; ``size`` is in pixels, the encoder's own by
    default.

    Returns
    -------
    list of dict
        Of each clip: ``kind``; ``line`` and ``predicted``, the mean squared errors of its tokens over all
        frames but the first and the last; ``relative``, the second over the first.
    """
    size = size or image_encoder.config.image_size
    with nullcontext(folder) if folder else TemporaryDirectory() as folder:
        clips, pixels = clip_pool(split, n, frames, size, folder)
    found = []
    for x in token_pool(image_encoder.to(device), pixels, device).float().split(32):
        paths = (predict(x[:, 0], x[:, -1], x.shape[1]) for predict in (interpolate, net))
        found += zip(*((y - x)[:, 1:-1].square().mean((1, 2, 3)).tolist() for y in paths), strict=True)
    return [
        {"kind": clip.kind, "line": line, "predicted": predicted, "relative": predicted / line}
        for clip, (line, predicted) in zip(clips, found, strict=True)
    ]


def measure(net, image_encoder, split="heldout", n=140, **more):
    """Mean error in units of the straight line's, of each kind of motion and of all (see `errors`)."""
    rows = errors(net, image_encoder, split, n, **more)
    kinds = {k: [r["relative"] for r in rows if r["kind"] == k] for k in world.clips.KINDS}
    kinds["all"] = [r["relative"] for r in rows]
    return {k: sum(v) / len(v) for k, v in kinds.items() if v}
