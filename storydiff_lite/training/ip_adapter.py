"""An IP-Adapter of diffusers on the micro SDXL (Ye et al. 2308.06721), for comparison with ID fusion.

The pooled embedding of the frozen image encoder becomes four tokens, and every cross-attention layer gets a
second pair of key and value projections for them; only these and the projection learn.  Everything else is
as for the identity encoder, so that the two can be compared: the same albums, one to four pictures of a
character in, the same character in another picture out, a prompt that names the species, the same teacher,
the same loss.
"""

from __future__ import annotations

import copy
import random

import torch
from torch import nn

from .. import world
from . import data
from .common import Run
from .identity import losses, material
from .unet import EVERY, fastest_attention, noise_schedule, time_ids

TOKENS = 4  # that diffusers makes of one picture


def new_state(unet, width):
    """The state dict of an untrained adapter, in the published layout.

    ``image_proj`` takes ``width`` numbers of a picture to four tokens; ``ip_adapter`` begins, as the
    original, with the projections that read the words.
    """
    unet_width = unet.config.cross_attention_dim
    proj, norm = nn.Linear(width, TOKENS * unet_width), nn.LayerNorm(unet_width)
    state = {f"proj.{k}": v for k, v in proj.state_dict().items()}
    state |= {f"norm.{k}": v for k, v in norm.state_dict().items()}
    adapter, layers = {}, [n for n in unet.attn_processors if n.endswith("attn2.processor")]
    for i, name in enumerate(layers):  # odd numbers, as diffusers and the original count
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for k in ("to_k", "to_v"):
            adapter[f"{2 * i + 1}.{k}_ip.weight"] = getattr(layer, k).weight.detach().clone()
    return {"image_proj": {k: v.detach() for k, v in state.items()}, "ip_adapter": adapter}


def attach(unet, state):
    """Load an adapter into a U-Net, and return what of it learns: ``{published name: Parameter}``."""
    unet._load_ip_adapter_weights([state])
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    found = {
        "image_proj.proj.weight": projection.image_embeds.weight,
        "image_proj.proj.bias": projection.image_embeds.bias,
        "image_proj.norm.weight": projection.norm.weight,
        "image_proj.norm.bias": projection.norm.bias,
    }
    layers = [p for n, p in unet.attn_processors.items() if n.endswith("attn2.processor")]
    for i, processor in enumerate(layers):
        for k in ("to_k", "to_v"):
            found[f"ip_adapter.{2 * i + 1}.{k}_ip.weight"] = getattr(processor, f"{k}_ip")[0].weight
    return found


class Learner(nn.Module):
    """What learns, under its published names."""

    def __init__(self, parameters):
        super().__init__()
        self.adapter = nn.ParameterDict({n.replace(".", "/"): p for n, p in parameters.items()})

    def state(self):
        """``{published name: tensor}``, as diffusers' ``load_ip_adapter`` reads it from a file."""
        return {n.replace("/", "."): p.detach().clone() for n, p in self.adapter.items()}


class Shown(nn.Module):
    """A U-Net that is also shown pictures: called as a U-Net is, with ``said`` = (states, pooled)."""

    def __init__(self, unet):
        super().__init__()
        self.unet, self.pictures = unet, None

    def forward(self, noisy, t, states, added_cond_kwargs):
        more = added_cond_kwargs | {"image_embeds": [self.pictures]}  # [B, n, width]
        return self.unet(noisy, t, states, added_cond_kwargs=more)


def train(
    vae,
    prompts,
    vision,
    unet,
    scale,
    steps=2000,
    batch=24,
    size=64,
    seed=0,
    device="cpu",
    pictures=4000,
    folder="checkpoints",
    seconds=None,
    name="ip-adapter",
):
    """Train, and return ``(learner, run)``; ``pictures`` counts albums of five."""
    torch.manual_seed(seed)
    teacher = unet.to(device).eval().requires_grad_(False)
    teacher.set_attn_processor(fastest_attention(device))
    student = copy.deepcopy(teacher)
    vision = vision.to(device).eval()
    learner = Learner(attach(student, new_state(student, vision.config.projection_dim))).to(device)
    learner.requires_grad_(True)
    shown = Shown(student.to(device))
    run = Run(
        name,
        learner,
        steps,
        lr=1e-3,
        muon_lr=0.005,
        ema=0.99,
        seed=seed,
        folder=folder,
        seconds=seconds,
        facts={"batch": batch, "albums": pictures},
    )
    samples, pixels, latents, weight = material(vae, pictures, size, device, folder)
    with torch.no_grad():
        seen = [vision(data.to_float(x).to(device)).image_embeds for x in pixels.flatten(0, 1).split(256)]
    seen = torch.cat(seen).unflatten(0, (len(samples), 5))  # [albums, 5, width]
    schedule = noise_schedule(device)
    ids = torch.tensor([time_ids(size, size)] * batch, dtype=torch.float32, device=device)
    for i in run.steps():
        rng = random.Random(f"ip-adapter/{seed}/{i}")
        some, n = rng.choices(range(len(samples)), k=batch), rng.randint(1, 4)
        order = [rng.sample(range(5), n + 1) for _ in some]  # the picture to draw, and its references
        target, refs = [o[0] for o in order], torch.tensor([o[1:] for o in order], device=device)
        drawn = [samples[j][k] for j, k in zip(some, target, strict=True)]
        plain = [world.caption(p, rng, frozenset()) for p in drawn]
        words = [world.caption(p, rng, EVERY) for p in drawn]
        pictures_of = seen[torch.tensor(some, device=device)[:, None], refs]  # [B, n, width]
        for k in range(batch):  # 5% see no picture, 5% read no words, 5% neither: for guidance
            dice = rng.random()
            if dice < 0.05 or 0.10 <= dice < 0.15:
                pictures_of[k], words[k] = 0, plain[k]
            if 0.05 <= dice < 0.15:
                plain[k] = ""
            if 0.10 <= dice < 0.15:
                words[k] = ""
        shown.pictures = pictures_of
        true, taught = losses(
            shown,
            schedule,
            (latents[some, target].float() * scale).to(device),
            prompts(plain),
            prompts(words),
            ids,
            device,
            weight[some, target].float().square().to(device),
            teacher,
        )
        run.update(0.25 * true + taught, i, true=true, taught=taught)
    run.averaged()
    return learner, run
