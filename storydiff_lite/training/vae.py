"""The autoencoder: pictures [B, 3, S, S] to latents [B, 4, 16, 16] and back (Rombach et al. 2112.10752, section 3.1).

Deviations: no adversarial and no perceptual loss (a cartoon of flat colours does without); L1 + MSE + a loss on
picture gradients instead, and a KL term so small that it only keeps the latents near the unit ball.  The last part of
the run trains the decoder alone, as Stability's "ft-mse" autoencoders were: latents stay what they were, so that a
U-Net may be trained on them at the same time.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from . import data
from .common import Run, autocast


def build(size: int = 64) -> AutoencoderKL:
    """Latents are always 16 x 16: factor 4 at 64 pixels, 8 at 128."""
    channels = {64: (32, 64, 128), 128: (16, 32, 64, 128)}[size]
    n = len(channels)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=size, norm_num_groups=8, layers_per_block=1,
        block_out_channels=channels, down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n,
        mid_block_add_attention=False, force_upcast=False,
    )  # fmt: skip


def loss_of(y, x):
    """L1 + MSE + L1 on horizontal and vertical differences; y, x [B, 3, S, S] in -1..1."""
    e = y - x
    edges = (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()
    return e.abs().mean() + 2 * e.square().mean() + 0.5 * edges


def psnr(y, x):
    """Mean over pictures of 10 log10(4 / MSE), in dB, for pictures in -1..1."""
    return (10 * torch.log10(4 / (y.clamp(-1, 1) - x).square().flatten(1).mean(1))).mean()


@torch.no_grad()
def measure(vae, size, device, n=256, split="heldout"):
    """Held-out PSNR (dB) and the latents' mean and standard deviation."""
    _, pixels = data.pool(split, n, size)
    out, lat = [], []
    for x in data.to_float(pixels).split(32):
        x = x.to(device)
        z = vae.encode(x).latent_dist.mode()
        out.append(psnr(vae.decode(z).sample, x))
        lat.append(z)
    z = torch.cat(lat)
    return float(torch.stack(out).mean()), float(z.mean()), float(z.std())


def train(steps=4000, batch=8, size=64, seed=0, device="cpu", pictures=16000, decoder_only=False, muon=True, lr=2e-3, muon_lr=0.02, folder="checkpoints", cooldown=0.4, name=None):
    """Train, and return ``(vae, run)``.  ``decoder_only`` goes on from the finished run with the encoder frozen."""
    torch.manual_seed(seed)
    vae = build(size).to(device)
    first = Run("vae", vae, steps, lr, muon_lr, muon, seed=seed, folder=folder, cooldown=cooldown) if name is None else None
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        first = Run("vae-decoder", vae, steps, lr, muon_lr, muon, ema=0.998, seed=seed + 1, folder=folder, cooldown=0.5)
    run = first or Run(name, vae, steps, lr, muon_lr, muon, seed=seed, folder=folder, cooldown=cooldown)
    _, pixels = data.pool("train", pictures, size, data.MIX, folder)
    for i in run.steps():
        x = data.to_float(pixels[torch.randint(len(pixels), (batch,))]).to(device)
        with autocast(device):
            with torch.set_grad_enabled(not decoder_only):
                p = vae.encode(x).latent_dist
            z = p.mode() if decoder_only else p.mean + p.std * torch.randn_like(p.mean)
            y = vae.decode(z).sample
        y = y.float()
        kl = p.kl().mean() / z[0].numel()
        run.update(loss_of(y, x) + 1e-5 * kl, i, psnr=psnr(y.detach(), x))
    return run.averaged().eval(), run
