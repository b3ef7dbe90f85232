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

from .decoder import set_frames


@torch.no_grad()
def refine(
    unet,
    scheduler,
    x,
    prompt_embeds,
    add_time_ids=None,
    strength=0.5,
    steps=3,
    seed=0,
    window=16,
    progress=None,
):
    """Redraw the frames between the first and the last one.

    Parameters
    ----------
    unet : UNet2DConditionModel
        Its self-attention reads the first and the last of the frames it is given
        (`decoder.read_key_frames`).
    scheduler : diffusers scheduler
        A copy of it is used.
    x : Tensor [B, F, 4, h, w]
        Latents.
    prompt_embeds : (states, pooled)
        Of the prompts, [B, T, C] and [B, P] or None.
    add_time_ids : Tensor [1, 6], optional
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
    times = scheduler.timesteps[-steps:]  # of all of them only the last ones: from some noise to none
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(len(scheduler.timesteps) - steps)
    (b, frames), ends = x.shape[:2], [0, -1]
    seeds = (random.Random(f"refine/{seed}/{i}").getrandbits(62) for i in range(b))
    noise = [torch.randn(x.shape[2:], generator=torch.Generator().manual_seed(s)) for s in seeds]
    noise = torch.stack(noise)[:, None].to(x.device, x.dtype).expand_as(x)  # the same for all frames
    y = scheduler.add_noise(x, noise, times[:1])
    for t in times:
        y[:, ends] = scheduler.add_noise(x[:, ends], noise[:, ends], t[None])
        v = torch.zeros_like(y)
        for inner in torch.arange(1, frames - 1).split(window - 2):
            at = [0, *inner.tolist(), frames - 1]
            v[:, at] = predict(unet, scheduler.scale_model_input(y[:, at], t), t, prompt_embeds, add_time_ids)
        y = scheduler.step(v.flatten(0, 1), t, y.flatten(0, 1), return_dict=False)[0].view_as(y)
        if progress:
            progress()
    y[:, ends] = x[:, ends]
    return y


def predict(unet, x, t, prompt_embeds, add_time_ids):
    """What a U-Net for pictures predicts for each frame of x [B, n, 4, h, w]: the same shape."""
    (b, n), (states, pooled), more = x.shape[:2], prompt_embeds, {}
    if pooled is not None:
        sizes = add_time_ids.expand(b * n, -1)
        more["added_cond_kwargs"] = {"text_embeds": pooled.repeat_interleave(n, 0), "time_ids": sizes}
    set_frames(unet, n)
    states = states.repeat_interleave(n, 0)  # [B * n, T, C]
    return unet(x.flatten(0, 1), t, encoder_hidden_states=states, **more).sample.unflatten(0, (b, -1))
