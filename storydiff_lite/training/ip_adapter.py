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
from .distillation import Distillation, losses
from .unet import LOOKS, fastest_attention

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


class WithPictures(nn.Module):
    """A U-Net that also reads ``pictures``, embeddings [B, n, width]; called as a U-Net is."""

    def __init__(self, unet):
        super().__init__()
        self.unet, self.pictures = unet, None

    def forward(self, noisy, t, states, added_cond_kwargs):
        more = added_cond_kwargs | {"image_embeds": [self.pictures]}
        return self.unet(noisy, t, states, added_cond_kwargs=more)


def train(vae, prompts, vision, unet, steps=2000, seed=0, device="cpu", name="ip-adapter", start=None, **run):
    """Train, and return ``(learner, run)``; ``**run`` is of `Distillation`, such as ``batch`` and ``folder``.

    ``start`` is the state of an adapter (published name -> tensor) to go on from, for a U-Net that has
    changed, and ``began`` what its card says; the steps are then half as large.
    """
    torch.manual_seed(seed)
    teacher = unet.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    teacher.set_attn_processor(fastest_attention(device))
    student = copy.deepcopy(teacher)
    vision = vision.to(device).eval()
    learner = Learner(attach(student, new_state(student, vision.config.projection_dim))).to(device)
    if start is not None:
        learner.load_state_dict({f"adapter.{n.replace('.', '/')}": x.float() for n, x in start.items()})
    learner.requires_grad_(True)
    student, further = WithPictures(student.to(device)), start is not None
    d = Distillation(name, learner, vae, vision, steps, device, further, seed=seed, **run)
    with torch.no_grad():
        seen = [vision(data.to_float(x).to(device)).image_embeds for x in d.pixels.flatten(0, 1).split(256)]
    seen = torch.cat(seen).unflatten(0, (-1, 5))  # [albums, 5, width]
    for i in d.run.steps():
        rng = random.Random(f"ip-adapter/{seed}/{i}")
        b = d.draw(rng)
        plain, words = b.captions, [world.caption(p, rng, LOOKS) for p in b.pictures]
        student.pictures = seen[torch.tensor(b.rows)[:, None], b.references]  # [B, n, width]
        for k in range(d.batch):  # 5% see no picture, 5% read no words, 5% neither: for guidance
            dice = rng.random()
            if dice < 0.05 or 0.10 <= dice < 0.15:
                student.pictures[k], words[k] = 0, plain[k]
            if 0.05 <= dice < 0.15:
                plain[k] = ""
            if 0.10 <= dice < 0.15:
                words[k] = ""
        given = prompts(plain), prompts(words), d.ids, b.weight, teacher
        true, taught = losses(student, d.schedule, b.x, *given)
        d.run.update(0.25 * true + taught, i, true=true, taught=taught)
    d.run.averaged()
    return learner, d.run
