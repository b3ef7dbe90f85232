"""What the identity encoder and the IP-Adapter learn alike: from albums of one character, taught by words.

One to four pictures of a character in, the same character in another scene and action out.  The prompt names
the species, the action and the scene, so that everything else can come from the pictures alone.  The loss of
denoising alone taught hats and bows hardly at all: they are a hundredth of a picture, and noise hides them.
So the U-Net that reads everything *in words* is the teacher: what noise has hidden it does not ask for.

A fifth of all characters (`world.withheld`) never comes up here: measurements are taken on those.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from .. import world
from ..motion import fit_pixels
from . import data
from .common import Run, autocast
from .unet import importances, latent_pool, noise_schedule, sizes, velocity


def albums(split, n, size, folder):
    """Albums of five pictures of one character (none withheld), and their pixels [n, 5, 3, size, size]."""
    samples, pixels = data.pool(split, n, size, {"album": 1}, folder)
    keep = [i for i, s in enumerate(samples) if not world.withheld(s[0].actors[0].character)]
    return [samples[i] for i in keep], pixels.unflatten(0, (n, 5))[keep]


@contextmanager
def without_lora(module):
    """A U-Net, or a layer of it, as it was, for a while."""
    tuned = [m for m in module.modules() if isinstance(m, BaseTunerLayer)]
    for m in tuned:
        m.enable_adapters(False)
    try:
        yield
    finally:
        for m in tuned:
            m.enable_adapters(True)


def velocities(unet, noisy, t, prompt_embeds, ids):
    """The U-Net's prediction, float32, in fast arithmetic; ``prompt_embeds`` = (states, pooled)."""
    with autocast(noisy.device):
        return velocity(unet, noisy, t, prompt_embeds, ids).float()


def losses(unet, schedule, x, prompt_embeds, in_words, ids, weight, teacher=None):
    """How far the prediction is from the truth, and from the prediction of the U-Net that reads all in words.

    The teacher is the U-Net itself without its LoRA, or another one.  x [B, 4, h, w]; ``weight``
    [B, 1, h, w] says how much each place counts.
    """
    noise = torch.randn_like(x)
    t = torch.randint(0, schedule.config.num_train_timesteps, (2, len(x)), device=x.device).amax(0)
    noisy, truth = schedule.add_noise(x, noise, t), schedule.get_velocity(x, noise, t)
    with torch.no_grad(), without_lora(unet):
        wanted = velocities(unet if teacher is None else teacher, noisy, t, in_words, ids)
    v, scale = velocities(unet, noisy, t, prompt_embeds, ids), weight / weight.mean()
    return ((v - truth).square() * scale).mean(), ((v - wanted).square() * scale).mean()


@dataclass
class Batch:
    """Pictures to draw, each by others of its album."""

    rows: list[int]  # albums
    pictures: list[world.Picture]  # what is to be drawn
    references: torch.Tensor  # which pictures of the album are given, [B, n]
    captions: list[str]  # species, action and scene
    x: torch.Tensor  # clean latents, scaled, [B, 4, h, w]
    weight: torch.Tensor  # what a mistake counts, [B, 1, h, w]: on a character 4 times, on its accessory 16


class Distillation:
    """A run that learns from albums.

    Parameters
    ----------
    name : str
    learner : nn.Module
        What learns.
    vae : AutoencoderKL
    vision : CLIPVisionModelWithProjection
        Pictures of the albums are kept as it takes them.
    further : bool
        The learner has learnt before: steps are half as large.
    pictures : int
        Albums that are drawn.
    **run
        Of `Run`.
    """

    def __init__(self, name, learner, vae, vision, steps, device, further, batch=24, pictures=4000, **run):
        drawn = (
            f"{pictures:,} albums of five pictures of one character (seeds train/0 ...), without the fifth "
            "of all characters that is kept for measurements"
        )
        facts = {"data": drawn, "batch": batch} | run.pop("facts", {})
        lr = 5e-4 if further else 1e-3
        self.run = Run(name, learner, steps, lr, muon_lr=5 * lr, ema=0.99, facts=facts, **run)
        size, folder = vae.config.sample_size, self.run.folder
        self.samples, pixels = albums("train", pictures, size, folder)
        five = (len(self.samples), 5)
        z = latent_pool(vae.to(device), self.samples, pixels.flatten(0, 1), device, folder)[0]
        self.latents, self.scale = z.unflatten(0, five), vae.config.scaling_factor  # [n, 5, 4, h, w]
        small = [fit_pixels(vision, x.float()).round().clamp(0, 255).byte() for x in pixels.split(64)]
        self.pixels = torch.cat(small)  # uint8 [n, 5, 3, S, S]
        self.weight = importances(self.samples, folder).unflatten(0, five)  # [n, 5, 1, h, w]
        self.schedule, self.batch, self.device = noise_schedule(device), batch, device
        self.ids = sizes(batch, size, device)

    def draw(self, rng, first=False) -> Batch:
        """A random batch; of the ``first`` picture of each album, or of any."""
        rows, n = rng.choices(range(len(self.samples)), k=self.batch), rng.randint(1, 4)
        order = [rng.sample(range(5), n + 1) for _ in rows]  # the picture to draw, and its references
        if first:
            order = [[0, *rng.sample(range(1, 5), n)] for _ in rows]
        target, references = [o[0] for o in order], torch.tensor([o[1:] for o in order])
        pictures = [self.samples[i][k] for i, k in zip(rows, target, strict=True)]
        captions = [world.caption(p, rng, frozenset()) for p in pictures]
        x = (self.latents[rows, target].float() * self.scale).to(self.device)
        weight = self.weight[rows, target].float().square().to(self.device)
        return Batch(rows, pictures, references, captions, x, weight)
