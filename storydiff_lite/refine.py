"""Redraw the frames of a video lightly, by the U-Net that drew its panels.

A video decoder knows the motions that it learnt.  Where it has to invent one, faces dissolve; what it draws
is then right in the large and wrong in the small.  The story U-Net knows the small, and nothing of motion.
So each frame gets some noise and is denoised once more by that U-Net (SDEdit, 2108.01073; SDXL's refiner does
the same with pictures), while its self-attention also reads the two panels: consistent self-attention
(StoryDiffusion, 2405.01434, section 3.1), which asks for no training.  The paper does not do this.

All frames get the *same* noise, so that what does not move stays still.
"""

from __future__ import annotations

import copy
import random

import torch


@torch.no_grad()
def refine(unet, scheduler, x, told, ids=None, strength=0.5, steps=3, seed=0, window=16, progress=None):
    """Redraw the frames between the first and the last one.

    Parameters
    ----------
    unet : UNet2DConditionModel
        Its self-attention reads the first and the last of the frames it is given
        (`video.KnownFrameAttention`).
    scheduler : diffusers scheduler
        A copy of it is used.
    x : Tensor [B, F, 4, h, w]
        Latents.
    told : (states, pooled)
        Of the prompts, [B, T, C] and [B, P] or None.
    ids : Tensor [1, 6], optional
        SDXL's sizes.
    strength : float
        How much noise the frames get, over 0 (none) to 1 (nothing else: they are drawn anew).
    steps : int
        Denoising steps.
    seed : int
        Of the noise.
    window : int
        Frames that go through the U-Net together, at least 3; the result is the same.
    progress : callable, optional
        Called after each step.

    Returns
    -------
    Tensor [B, F, 4, h, w]
        The first and the last frame are those of ``x``.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(max(steps, round(steps / strength)), device=x.device)
    times = scheduler.timesteps[-steps:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(len(scheduler.timesteps) - steps)
    b, frames = x.shape[:2]
    seeds = (random.Random(f"refine/{seed}/{i}").getrandbits(62) for i in range(b))
    noise = [torch.randn(x.shape[2:], generator=torch.Generator().manual_seed(s)) for s in seeds]
    noise = torch.stack(noise)[:, None].to(x.device, x.dtype).expand_as(x)  # the same for all frames
    states, pooled = told
    y = scheduler.add_noise(x, noise, times[:1])
    for t in times:
        y[:, [0, -1]] = scheduler.add_noise(x[:, [0, -1]], noise[:, [0, -1]], t[None])
        v = torch.zeros_like(y)
        for inner in torch.arange(1, frames - 1).split(window - 2):
            some = [0, *inner.tolist(), frames - 1]
            for processor in unet.attn_processors.values():
                if hasattr(processor, "frames"):
                    processor.frames = len(some)
            more = {}
            if pooled is not None:
                more["added_cond_kwargs"] = {
                    "text_embeds": pooled.repeat_interleave(len(some), 0),
                    "time_ids": ids.expand(b * len(some), -1),
                }
            v[:, some] = unet(
                scheduler.scale_model_input(y[:, some], t).flatten(0, 1),  # [B * n, 4, h, w]
                t,
                encoder_hidden_states=states.repeat_interleave(len(some), 0),
                **more,
            ).sample.unflatten(0, (b, -1))
        y = scheduler.step(v.flatten(0, 1), t, y.flatten(0, 1), return_dict=False)[0].view_as(y)
        if progress:
            progress()
    y[:, [0, -1]] = x[:, [0, -1]]
    return y
