"""The autoencoder's two ways: pixels in -1..1 to latents of deviation about 1, and back."""

from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def precise(vae):
    """In float32 within this block, if it says that half precision is too coarse for it (SDXL's does)."""
    upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast")
    if upcast:  # past diffusers' own `to`, which warns of modules that this one does not have
        nn.Module.to(vae, torch.float32)
    try:
        yield
    finally:
        if upcast:
            nn.Module.to(vae, torch.float16)


def to_latents(vae, pixels):
    """Pixels [B, 3, H, W] -> latents [B, 4, h, w]."""
    mean, std = _statistics(vae, pixels)
    z = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().to(pixels.dtype)
    return (z - mean) / std * vae.config.scaling_factor


def to_pixels(vae, latents):
    """Latents [B, 4, h, w] -> pixels [B, 3, H, W], which may go a little beyond -1..1."""
    z = latents.to(vae.dtype)
    mean, std = _statistics(vae, z)
    return vae.decode(z / vae.config.scaling_factor * std + mean, return_dict=False)[0]


def _statistics(vae, x):
    """Mean and deviation of the latents, channel by channel, where the autoencoder knows them."""
    mean, std = vae.config.get("latents_mean") or [0.0], vae.config.get("latents_std") or [1.0]
    return (torch.tensor(v).view(1, -1, 1, 1).to(x) for v in (mean, std))
