"""The autoencoder: pictures [B, 3, S, S] to latents [B, 4, 16, 16] and back (2112.10752, section 3.1).

Deviations: no adversarial and no perceptual loss (a cartoon of flat colours does without); L1 + MSE + a
loss on picture gradients instead, and a KL term so small that it only keeps the latents near the unit
ball. The last part of the run trains the decoder alone, as Stability's "ft-mse" autoencoders were:
latents stay what they were, so that a U-Net may be trained on them at the same time.
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
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=size,
        norm_num_groups=8,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        mid_block_add_attention=False,
        force_upcast=False,
    )


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


def train(
    steps=1600,
    batch=8,
    size=64,
    seed=0,
    device="cpu",
    pictures=7000,
    decoder_only=False,
    start=None,
    muon=True,
    lr=2e-3,
    folder="checkpoints",
    name=None,
):
    """Train, and return ``(vae, run)``; ``decoder_only`` leaves the encoder of ``start`` alone."""
    torch.manual_seed(seed)
    vae = build(size).to(device)
    if decoder_only:
        vae.load_state_dict(start.state_dict())
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        run = Run(
            name or "vae-decoder",
            vae,
            steps,
            lr,
            muon_lr=0.01,
            muon=muon,
            seed=seed + 1,
            folder=folder,
            cooldown=0.8,
        )
    else:
        run = Run(name or "vae", vae, steps, lr, muon=muon, seed=seed, folder=folder, cooldown=0.5)
    with run.processes.first():
        _, pixels = data.pool("train", pictures, size, data.MIX, folder)
    mine = run.processes.mine(batch)
    for i in run.steps():
        x = data.to_float(pixels[torch.randint(len(pixels), (batch,))])[mine].to(device)
        with autocast(device):
            with torch.set_grad_enabled(not decoder_only):
                p = vae.encode(x).latent_dist
            z = p.mode() if decoder_only else p.mean + p.std * run.processes.noise(p.mean, batch)
            y = vae.decode(z).sample
        y = y.float()
        loss = loss_of(y, x) + (0 if decoder_only else 1e-5 * p.kl().mean() / z[0].numel())
        run.update(loss, i, psnr=psnr(y.detach(), x))
    return run.averaged().eval(), run
