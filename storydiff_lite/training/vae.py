"""The autoencoder: pictures [B, 3, S, S] to latents [B, 4, 16, 16] and back (2112.10752, section 3.1).

Deviations: no adversarial and no perceptual loss (a cartoon of flat colours does without); L1 + MSE + a
loss on picture gradients instead, and a KL term so small that it only keeps the latents near the unit
ball. The last part of the run trains the decoder alone, as Stability's "ft-mse" autoencoders were:
latents stay what they were, so that a U-Net may be trained on them at the same time.

`upscale` learns to draw larger pictures from latents that there are. Latents are dear: the U-Net and all
behind it have learnt them. So a new autoencoder with one level more takes over those of an older one: its
encoder learns to give for the large picture what the older one gives for the same picture drawn small, its
decoder to draw the large picture from that. Nothing that reads or writes latents has to change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from . import data
from .common import Run, autocast

#: pixels at which latents are learnt from nothing
SMALL = 64
DATA = "{:,} samples of StoryWorld (seeds train/0 ...): pictures of one or two characters, comic strips"
#: deviation of the noise on latents that are drawn from, at most, in units of theirs: a U-Net's are not exact
NOISE = 0.04


def build(size: int = SMALL) -> AutoencoderKL:
    """An untrained autoencoder. Latents are always 16 x 16: factor 4 at 64 pixels, 8 at 128."""
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
def latents_of(vae, pixels, batch=128):
    """Unscaled latents [n, 4, h, w] of uint8 pictures [n, 3, S, S], on the device of the autoencoder."""
    batches = (data.to_float(x.to(vae.device)) for x in pixels.split(batch))
    return torch.cat([vae.encode(x).latent_dist.mode() for x in batches])


@torch.no_grad()
def measure(vae, old=None, n=256, split="heldout"):
    """What an autoencoder reached on held-out pictures; of `upscale`, also beside the older one.

    Returns
    -------
    dict
        ``psnr_db``, ``latent_mean`` and ``latent_std``.  Beside an older one: ``psnr_db_at_half_size``, and
        ``psnr_db_of_the_old_latents``, of pictures drawn from these; ``latent_error``, how far its latents
        are from them, in units of their deviation.
    """
    pixels = data.pool(split, n, vae.config.sample_size)[1]
    x, z = data.to_float(pixels).to(vae.device), latents_of(vae, pixels)
    y = torch.cat([vae.decode(q).sample for q in z.split(32)])
    found = {"psnr_db": psnr(y, x), "latent_mean": z.mean(), "latent_std": z.std()}
    if old is not None:
        kept = latents_of(old, data.pool(split, n, old.config.sample_size)[1])
        again = torch.cat([vae.decode(q).sample for q in kept.split(32)])
        found["psnr_db_at_half_size"] = psnr(F.avg_pool2d(y, 2), F.avg_pool2d(x, 2))
        found["psnr_db_of_the_old_latents"] = psnr(again, x)
        found["latent_error"] = (z - kept).square().mean().sqrt() / kept.std()
    return {k: float(v) for k, v in found.items()}


def train(
    steps=1600,
    batch=8,
    size=SMALL,
    seed=0,
    device="cpu",
    pictures=7000,
    decoder_only=False,
    start=None,
    **run,
):
    """Train, and return ``(vae, run)``; ``decoder_only`` leaves the encoder of ``start`` alone.

    ``**run`` is of `Run`, such as its folder.
    """
    torch.manual_seed(seed)
    vae = build(size).to(device)
    run |= {"seed": seed, "facts": {"data": DATA.format(pictures), "batch": batch}}
    if decoder_only:
        vae.load_state_dict(start.state_dict())
        vae.register_to_config(scaling_factor=start.config.scaling_factor)
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        run["facts"]["data"] += ", encoder frozen"
        run = Run("vae-decoder", vae, steps, 2e-3, 0.01, cooldown=0.8, **run | {"seed": seed + 1})
    else:
        run = Run("vae", vae, steps, 2e-3, cooldown=0.5, **run)
    with run.processes.first():
        _, pixels = data.pool("train", pictures, size, data.MIX, run.folder)
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


def larger(old, size) -> AutoencoderKL:
    """An autoencoder for pictures of ``size`` pixels that begins with what of an older one fits.

    From one that draws smaller pictures that is the decoder up to its last level, and the convolutions at the
    latents; from one of the same size all of it.
    """
    new = build(size).to(old.device)
    mine, deeper = new.state_dict(), size != old.config.sample_size
    parts = ("decoder.", "quant_conv.", "post_quant_conv.") if deeper else ("",)
    fits = {
        k: v
        for k, v in old.state_dict().items()
        if k.startswith(parts) and k in mine and v.shape == mine[k].shape
    }
    new.load_state_dict(mine | fits)
    new.register_to_config(scaling_factor=old.config.scaling_factor)
    return new


def upscale(
    old, steps=1600, batch=8, size=128, seed=0, device="cpu", pictures=7000, name="vae-upscale", **run
):
    """Learn to draw pictures of ``size`` pixels from the latents of an older autoencoder.

    Parameters
    ----------
    old : AutoencoderKL
        Its latents are kept; it draws pictures of half the size, or of the same, where a run goes on.
    pictures : int
        Samples that are drawn, in both sizes.
    **run
        Of `Run`, such as ``folder``, ``seconds``, and ``began``: what is known of ``old``.

    Returns
    -------
    AutoencoderKL, Run
    """
    torch.manual_seed(seed)
    old = old.to(device).eval().requires_grad_(False)
    small = old.config.sample_size
    vae = larger(old, size).requires_grad_(True)
    both = f"; each drawn at {size} pixels and, for the autoencoder whose latents it keeps, at {small}"
    facts = {"data": DATA.format(pictures) + both, "batch": batch, "size": size, "latents_of": small}
    run = Run(name, vae, steps, 2e-3, ema=0.998, seed=seed, cooldown=0.6, facts=facts, **run)
    with run.processes.first():
        pixels = [data.pool("train", pictures, s, data.MIX, run.folder)[1] for s in (small, size)]
    kept, pixels = latents_of(old, pixels[0]), pixels[1].to(device)
    unit, mine = kept.std(), run.processes.mine(batch)
    for i in run.steps():
        rows = torch.randint(len(pixels), (batch,))[mine].to(device)
        x, z = data.to_float(pixels[rows]), kept[rows]
        noise = run.processes.noise(z, batch) * torch.rand(batch, 1, 1, 1)[mine].to(device)
        with autocast(device):
            given = vae.encode(x).latent_dist.mode()
            y = vae.decode(z + NOISE * unit * noise).sample
        y, away = y.float(), ((given.float() - z) / unit).square().mean()
        run.update(loss_of(y, x) + away, i, psnr=psnr(y.detach(), x), latents=away.detach().sqrt())
    return run.averaged().eval(), run
