"""The training of the judge of defects: pictures that are whole or spoilt on purpose, and what is left of
them when an autoencoder has drawn them anew.

The network learns to count (cross-entropy over 0, 1, 2, 3 or more) and, as an aid, to say where: a map of
each kind of thing, whose truth is a bump at each thing that counts.
"""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .. import weights
from ..defects import COUNTED, MOST, DefectNet
from . import cards, data, spoilt
from .common import Run, autocast
from .counting import UNKNOWN
from .judge import spoil
from .pack import put_judge
from .parts import packed

#: pixels of a picture as it is drawn (and drawn anew), and as the network reads it: eyes still are 3 wide
SIZE, READ = 128, 96


def drawn(i, split, size, spoilt_too):
    """The i-th sample: (pixels uint8 [3, size, size], counts [kinds], centres [kinds, 3, 2], nan: none)."""
    s = spoilt.sample(split, i, spoilt_too)
    centres = np.full((len(COUNTED), MOST, 2), np.nan, np.float32)
    for k, name in enumerate(COUNTED):
        for j, at in enumerate(s.centres[name][:MOST]):
            centres[k, j] = at
    return s.draw(size), np.array([s.counts[k] for k in COUNTED], np.int64), centres


def pool(split, n, size=SIZE, spoilt_too=None, folder="checkpoints"):
    """``n`` samples as tensors, drawn once: ``{"pixels": uint8 [n, 3, S, S], "counts", "centres"}``.

    The file's name changes when what is drawn, or counted, changes.
    """
    work = partial(drawn, split=split, size=size, spoilt_too=spoilt_too)
    mark = zlib.crc32(b"".join(a.tobytes() for i in range(24) for a in work(i)))
    path = Path(folder) / f"defects-{split}-{n}-{size}-{mark:08x}.safetensors"

    def make():
        rows = data.on_all_cores(work, range(n), f"drawing {split}")
        columns = zip(("pixels", "counts", "centres"), zip(*rows, strict=True), strict=True)
        return {k: torch.from_numpy(np.stack(v)) for k, v in columns}

    return data.kept(path, make)


@torch.no_grad()
def redraw(auto, pixels, noise=0.0, seed=0, batch=16):
    """Pictures, uint8 [n, 3, S, S], as an autoencoder draws them, in the same form.

    Their latents get noise of up to the part ``noise`` of their deviation, each picture a share of its own.
    """
    device, side, out = auto.device, auto.config.sample_size, []
    g = torch.Generator().manual_seed(seed)
    for x in data.tqdm(pixels.split(batch), desc="drawing anew", mininterval=10):
        x = data.to_float(x).to(device)
        small = F.interpolate(x, (side, side), mode="bilinear", antialias=True) if side != x.shape[-1] else x
        z = auto.encode(small).latent_dist.mode()
        share = torch.rand(len(z), 1, 1, 1, generator=g) * noise / auto.config.scaling_factor
        y = auto.decode(z + (share * torch.randn(z.shape, generator=g)).to(z)).sample.clamp(-1, 1)
        y = F.interpolate(y, x.shape[-2:], mode="bicubic").clamp(-1, 1) if side != x.shape[-1] else y
        out.append(((y + 1) * 127.5).round().to("cpu", torch.uint8))
    return torch.cat(out)


def redrawn(auto, held, n, name, noise, folder="checkpoints"):
    """`redraw` of the first ``n`` pictures of a pool, kept like it."""
    few = redraw(auto, held["pixels"][:2], noise)
    mark = zlib.crc32(few.numpy().tobytes() + held["pixels"][n - 1].numpy().tobytes())
    path = Path(folder) / f"defects-redrawn-{name}-{n}-{mark:08x}.safetensors"
    return data.kept(path, lambda: {"pixels": redraw(auto, held["pixels"][:n], noise)})["pixels"]


def shrunk(pixels, size):
    """uint8 pictures [n, 3, S, S] at the size that the network reads, as `judge.pixels` makes them."""
    if size == pixels.shape[-1]:
        return pixels
    how = {"size": (size, size), "mode": "bilinear", "antialias": True}
    return torch.cat([F.interpolate(x.float(), **how).round().byte() for x in pixels.split(256)])


def bumps(centres, cells):
    """Truth of the maps [B, kinds, cells, cells], 0..1, of centres [B, kinds, 3, 2] (nan: none)."""
    at = (torch.arange(cells, device=centres.device) + 0.5) / cells
    d = (at.view(1, 1, 1, 1, -1) - centres[..., 0, None, None]) ** 2
    d = d + (at.view(1, 1, 1, -1, 1) - centres[..., 1, None, None]) ** 2
    return torch.nan_to_num((-d * cells**2 / (2 * 0.8**2)).exp(), 0.0).amax(2)


def losses(net, x, counts, centres):
    """Cross-entropy of the counts, of the maps where the count is known, and the part of right counts."""
    with autocast(x.device):
        out, maps = net(x)
    out, maps = out.float(), maps.float()
    known = counts >= 0
    count = F.cross_entropy(out.flatten(0, 1), counts.flatten(), ignore_index=UNKNOWN)
    where = F.binary_cross_entropy_with_logits(maps, bumps(centres, maps.shape[-1]), reduction="none")
    where = where.mean((2, 3))[known].mean()
    hit = out.argmax(-1).eq(counts)[known].float().mean()
    return count, where, hit


def train(
    auto,
    steps=2000,
    batch=32,
    size=SIZE,
    seed=0,
    device="cpu",
    pictures=12000,
    again=240,
    **run,
):
    """Train, and return ``(net, run)``.

    Parameters
    ----------
    auto : AutoencoderKL
    size : int
        Pixels of a picture as it is drawn; the network reads three quarters of it.
    pictures, again : int
        Samples that are drawn, and how many of them are also drawn anew by the autoencoder; an eighth of what
        is learnt from are the latter.
    **run
        Of `Run`, such as ``folder`` and ``seconds``.
    """
    torch.manual_seed(seed)
    net = DefectNet(size * READ // SIZE).to(device)
    drawn = (
        f"{pictures:,} pictures of nobody to three characters (seeds defects/judge/0 ...), six of ten spoilt "
        f"on purpose, {again:,} also drawn anew by the autoencoder"
    )
    facts = {"data": drawn, "batch": batch}
    run = Run("defects", net, steps, 2e-3, ema=0.99, seed=seed, cooldown=0.6, facts=facts, **run)
    folder = run.folder
    held = pool("judge", pictures, size, None, folder)
    anew = redrawn(auto, held, again, "judge", 0.25, folder)
    anew, drawn_first = shrunk(anew, net.size), shrunk(held["pixels"], net.size)
    few = max(1, batch // 8)
    for i in run.steps():
        # both begin with the same pictures, so that a sample's counts are found by its number
        pick = torch.cat([torch.randint(again, (few,)), torch.randint(pictures, (batch - few,))])
        x = data.to_float(torch.cat([anew[pick[:few]], drawn_first[pick[few:]]])).to(device)
        counts, centres = held["counts"][pick].to(device), held["centres"][pick].to(device).clone()
        flip = torch.rand(batch, device=device) < 0.5
        x = torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x)
        centres[flip, ..., 0] = 1 - centres[flip, ..., 0]
        count, where, hit = losses(net, spoil(x), counts, centres)
        run.update(count + 20 * where, i, counts=count, where=where, accuracy=hit)
    return run.averaged().eval(), run


@torch.no_grad()
def accuracy(net, pixels, counts, batch=64):
    """How often each count is right, of those that are known: name -> 0..1."""
    device = next(net.parameters()).device
    read = [
        net(data.to_float(shrunk(x, net.size)).to(device))[0].argmax(-1).cpu() for x in pixels.split(batch)
    ]
    hit, known = torch.cat(read).eq(counts), counts >= 0
    return {k: float(hit[:, i][known[:, i]].float().mean()) for i, k in enumerate(COUNTED)}


def measure(net, auto, n=1000, again=None, folder="checkpoints"):
    """Held-out accuracy of every count, on ``n`` pictures of a kind and ``again`` (all) that are drawn anew.

    Returns
    -------
    dict
        ``"renders"`` and ``"spoilt"`` (pictures that are whole, and spoilt ones), ``"reconstructions"`` and
        ``"spoilt reconstructions"`` (the same, drawn anew by the autoencoder) -> `accuracy`.
    """
    kinds, out = (("renders", "reconstructions", False), ("spoilt", "spoilt reconstructions", True)), {}
    for name, also, kind in kinds:
        held = pool("heldout", n, SIZE, kind, folder)
        out[name] = accuracy(net, held["pixels"], held["counts"])
        anew = redrawn(auto, held, again or n, name, 0.0, folder)
        out[also] = accuracy(net, anew, held["counts"][: again or n])
    return out


def make(
    device, folder, seed=0, pictures=12000, again=240, heldout=1000, heldout_again=None, **training
):  # fmt: skip
    """``python -m storydiff_lite.training defects``: train, measure, pack, write the card."""
    auto = packed("vae", device)
    training |= {"device": device, "folder": folder, "seed": seed}
    net, run = train(auto, pictures=pictures, again=again, **training)
    if run.processes.rank:
        return
    files = put_judge("defects", net)
    found = measure(net, auto, heldout, heldout_again, folder)
    measured = {"of a kind": heldout, "of these drawn anew": heldout_again or heldout}
    cards.write("defects", cards.card("defects", run, found, seed, heldout_pictures=measured), files)
    weights.write_manifest()
    cards.report("defects", run, found)
