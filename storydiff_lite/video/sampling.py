"""Denoising of a video: all frames at once, in passes where there are more of them than fit the decoder."""

from __future__ import annotations

import copy
import inspect
import math
import random
from typing import NamedTuple

import torch

from ..guidance import guide
from .decoder import key_frame_mask

#: frames that go through the motion U-Net together, the two key frames among them
WINDOW = 16


def interleaved_windows(frames, window, rng):
    """Which frames go through the U-Net together in one step: windows with the first and the last frame in
    each, the others shared out so that neighbours part and each window spans the whole time.

    ``rng`` shares them out anew at every step, so that all frames meet.  A window is a list of frames, in
    order; together they hold all of them, and a frame may come twice.
    """
    if frames <= window:
        return [list(range(frames))]
    inside, most = frames - 2, window - 2
    count = math.ceil(inside / most)
    slots = [1 + s * inside // (count * most) for s in range(count * most)]  # each frame at least once
    windows = [[0] for _ in range(count)]
    for i in range(0, len(slots), count):
        neighbours = slots[i : i + count]
        rng.shuffle(neighbours)
        for members, frame in zip(windows, neighbours, strict=True):
            members.append(frame)
    return [[*members, frames - 1] for members in windows]


def noise_generators(seed, videos):
    """A generator for each of these videos (their numbers), so that each has its own noise in any batch."""
    seeds = (random.Random(f"video/{seed}/{i}").getrandbits(62) for i in videos)
    return [torch.Generator().manual_seed(s) for s in seeds]


class Conditions(NamedTuple):
    """What the decoder reads beside the frames of B videos.

    Parameters
    ----------
    prompt_embeds, empty_embeds : (states, pooled)
        Of the prompts, [B, T, C] and [B, P] or None, and of no text, with B = 1.
    add_time_ids : Tensor [1, 6], optional
        SDXL's sizes.
    tokens : Tensor [B, F, S, D], optional
        Semantic tokens of every frame.
    guidance : float
        1 or less: none, and one pass instead of two.
    """

    prompt_embeds: tuple
    empty_embeds: tuple
    add_time_ids: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    guidance: float = 1.0


@torch.no_grad()
def sample(
    decoder,
    scheduler,
    known,
    noise,
    conditions,
    steps=12,
    window=WINDOW,
    seed=0,
    progress=None,
    eta=0.0,
    generators=None,
):
    """Denoise B videos of F frames, whose first and last frames are known.

    Parameters
    ----------
    decoder : Decoder
    scheduler : diffusers scheduler
        A copy of it is used.
    known : Tensor [B, F, 4, h, w]
        Latents; only those of the first and the last frame are used.
    noise : Tensor [B, F, 4, h, w]
    conditions : Conditions
    steps : int
    window : int
        Frames that go through the U-Net together (`interleaved_windows`).
    seed : int
        Of the windows.
    progress : callable, optional
        Called after each step.
    eta : float
        How much of the noise that a step takes away is drawn anew, 0..1 (DDIM, 2010.02502, Eq. 16), where the
        scheduler knows of it.  What a step got wrong far from the key frames the next ones can mend then.
    generators : list of B torch.Generator, optional
        Of that noise.

    Returns
    -------
    Tensor [B, F, 4, h, w]
        The key frames as they were.
    """
    scheduler, rng = copy.deepcopy(scheduler), random.Random(seed)
    scheduler.set_timesteps(steps, device=noise.device)
    b, frames = noise.shape[:2]
    is_key = key_frame_mask(b, frames, noise.device)[:, :, None, None, None] > 0
    predict = guided(decoder, known, *conditions)
    renews = eta > 0 and {"eta", "variance_noise"} <= inspect.signature(scheduler.step).parameters.keys()
    x, fresh = noise * scheduler.init_noise_sigma, {}
    for t in scheduler.timesteps:
        if not decoder.sees_key_frames:  # it never saw clean frames among noisy ones
            x = torch.where(is_key, scheduler.add_noise(known, noise, t[None]), x)
        total, count = torch.zeros_like(x), torch.zeros(frames, device=x.device)
        for members in interleaved_windows(frames, window, rng):
            at = torch.tensor(members, device=x.device)
            v = predict(scheduler.scale_model_input(x[:, at], t), t, at)  # [B, n, 4, h, w]
            total.index_add_(1, at, v)
            count.index_add_(0, at, torch.ones(len(at), device=x.device))
        v = total / count[:, None, None, None]  # [B, F, 4, h, w]
        if renews:
            drawn = [torch.randn(noise.shape[1:], generator=g) for g in generators or [None] * b]
            fresh = {"eta": eta, "variance_noise": torch.cat(drawn).to(x.device, x.dtype)}
        x = scheduler.step(v.flatten(0, 1), t, x.flatten(0, 1), return_dict=False, **fresh)[0].view_as(x)
        if progress:
            progress()
    return torch.where(is_key, known, x)


def guided(decoder, known, prompt_embeds, empty_embeds, add_time_ids, tokens, scale):
    """``predict(x, t, at)``: guided velocities [B, n, 4, h, w] of the frames ``at``, under `Conditions`."""
    halves = 2 if scale > 1 else 1  # without text and tokens first, then with both

    def both(cond, empty):
        return cond if cond is None or halves == 1 else torch.cat([empty.expand_as(cond), cond])

    b, frames = known.shape[:2]
    states, pooled = (both(c, e) for c, e in zip(prompt_embeds, empty_embeds, strict=True))
    tokens = None if tokens is None else both(tokens, tokens.new_zeros(1))
    ids = None if add_time_ids is None else add_time_ids.expand(halves * b, -1)
    known, mask = known.repeat(halves, 1, 1, 1, 1), key_frame_mask(halves * b, frames, known.device)

    def predict(x, t, at):
        v = decoder(
            x.repeat(halves, 1, 1, 1, 1),
            t.expand(halves * b),
            states,
            pooled,
            ids,
            known[:, at],
            mask[:, at],
            None if tokens is None else tokens[:, at],
        ).to(x.dtype)
        return guide(*v.chunk(2), scale) if halves == 2 else v

    return predict
