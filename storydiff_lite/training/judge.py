"""The judge's training: renders of seeds that no other part sees, spoilt as a generator spoils them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .. import world
from ..judge import JudgeNet
from . import data
from .clip import truths
from .common import Run, autocast


def spoil(x):
    """Blur, soft noise, other brightness, a shift of up to 3 pixels: a decoded picture is no render."""
    b = len(x)
    small = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    t = torch.rand(b, 1, 1, 1, device=x.device) ** 2
    x = (1 - t) * x + t * small
    x = x * (1 + 0.12 * (torch.rand(b, 1, 1, 1, device=x.device) - 0.5)) + 0.12 * (
        torch.rand(b, 3, 1, 1, device=x.device) - 0.5
    )
    rough = F.interpolate(
        torch.randn(b, 3, x.shape[-2] // 4, x.shape[-1] // 4, device=x.device), x.shape[-2:], mode="bilinear"
    )
    x = x + 0.12 * torch.rand(b, 1, 1, 1, device=x.device) * rough
    dx, dy = torch.randint(-3, 4, (2,)).tolist()
    return torch.roll(x, (dy, dx), (-2, -1)).clamp(-1, 1)


@torch.no_grad()
def measure(net, n=1000, vae=None):
    """Held-out accuracy of every attribute, on renders or (given a ``vae``) on their reconstructions."""
    size, device = net.size, next(net.parameters()).device
    samples, pixels = data.pool("heldout", n, size if vae is None else vae.config.sample_size)
    labels, hits = truths(samples), {k: [] for k in world.ATTRIBUTES}
    for i in range(0, n, 64):
        x = data.to_float(pixels[i : i + 64]).to(device)
        if vae is not None:
            x = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
            if x.shape[-1] != size:
                x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        out = net(x)
        for k, v in out.items():
            want = labels[k][i : i + 64]
            hits[k].append(v.argmax(-1).cpu().eq(want)[want >= 0])
    return {k: float(torch.cat(v).float().mean()) for k, v in hits.items()}


def train(steps=1500, batch=64, size=64, seed=0, device="cpu", pictures=16000, **run):
    """Train, and return ``(net, run)``; ``**run`` is of `Run`, such as its folder."""
    torch.manual_seed(seed)
    net = JudgeNet(size).to(device)
    drawn = f"{pictures:,} pictures of one character (seeds judge/0 ...), which no other part sees"
    facts = {"data": drawn, "batch": batch}
    run = Run("judge", net, steps, lr=2e-3, seed=seed, cooldown=0.6, facts=facts, **run)
    samples, pixels = data.pool("judge", pictures, size, None, run.folder)
    labels = {k: v.to(device) for k, v in truths(samples).items()}
    for i in run.steps():
        pick = torch.randint(len(samples), (batch,))
        with autocast(device):
            out = net(spoil(data.to_float(pixels[pick]).to(device)))
        loss = sum(F.cross_entropy(v.float(), labels[k][pick], ignore_index=-100) for k, v in out.items())
        hits = [v.argmax(-1).eq(labels[k][pick]).float().mean() for k, v in out.items() if k != "skin"]
        run.update(loss, i, accuracy=torch.stack(hits).mean())
    return run.averaged().eval(), run
