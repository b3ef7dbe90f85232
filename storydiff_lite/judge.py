"""The judge: a small classifier that reads a character's attributes off a picture.

With it, consistency becomes a number. It was trained on renders whose seeds the generator never saw
(``training/judge.py``), and it reads what the generator draws. Two numbers come out of it:

- *consistency* (agreement): in how many pairs of panels of a story the free attributes are the same;
- *fidelity*: how many of the attributes that the prompts name are there.
"""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from . import weights, world
from .int8 import expanded
from .pictures import as_floats, check_range

#: attributes that a prompt of species, action and scene leaves free, and that every species shows
FREE = ("fur", "outfit", "accessory", "accessory_colour")


class JudgeNet(nn.Module):
    """Four convolution blocks, a linear head per attribute: [B, 3, S, S] -> {name: [B, classes]}."""

    def __init__(self, size: int = 64, width: int = 32):
        super().__init__()
        blocks, c = [], 3
        for k in range(4):
            d = width * min(4, 2**k)
            blocks += [
                nn.Conv2d(c, d, 3, padding=1),
                nn.GroupNorm(8, d),
                nn.SiLU(),
                nn.Conv2d(d, d, 3, 2, 1),
                nn.GroupNorm(8, d),
                nn.SiLU(),
            ]
            c = d
        self.body = nn.Sequential(
            *blocks, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(c * 16, 256), nn.SiLU()
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(256, len(classes)) for name, classes in world.ATTRIBUTES.items()}
        )
        self.size = size

    def forward(self, x):
        h = self.body(x)
        return {name: head(h) for name, head in self.heads.items()}


def shipped(kind, name, device="cpu"):
    """A judge's network.

    Raises
    ------
    WeightsError
        A file that is not as its SHA-256 says, or weights of something else.
    """
    folder = weights.path(name)
    try:
        net = kind(**json.loads((folder / "config.json").read_text()))
        net.load_state_dict(expanded(load_file(folder / "model.safetensors")))
    except (FileNotFoundError, TypeError, RuntimeError) as error:
        raise weights.WeightsError(
            f"The shipped weights {name!r} are no {kind.__name__}: judges are 'judge' (StoryJudge) and "
            "'defects' (DefectJudge)."
        ) from error
    return net.to(device)


def pixels(images, size: int, device="cpu") -> torch.Tensor:
    """Pictures of any kind -> [B, 3, ``size``, ``size``] in -1..1.

    A list of whatever `pictures.as_floats` takes, one picture, or a batch: an array [B, H, W, 3] or a tensor
    [B, 3, H, W], uint8 or float in 0..1.

    Raises
    ------
    TypeError, ValueError
        What is no picture or has another range; no picture; pictures of several sizes, or not square.
    """
    if isinstance(images, torch.Tensor):
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"The judge reads tensors [B, 3, H, W] in 0..1; this one is {list(images.shape)}."
            )
        if images.numel():
            low, high = (x.item() for x in images.detach().aminmax())
            check_range(str(images.dtype).removeprefix("torch."), low, high)
        x = images.float() / (255 if images.dtype == torch.uint8 else 1) * 2 - 1
    else:
        if isinstance(images, (Image.Image, str, type(None))) or getattr(images, "ndim", 4) < 4:
            images = [images]
        arrays = [as_floats(image, f"Picture {i}") for i, image in enumerate(images, 1)]
        if len({a.shape for a in arrays}) > 1:
            sizes = ", ".join(sorted({f"{a.shape[1]} x {a.shape[0]}" for a in arrays}))
            raise ValueError(f"The judge reads pictures of one size; these have {sizes} (width x height).")
        x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) * 2 - 1 if arrays else torch.zeros(0)
    if not len(x):
        raise ValueError("There is no picture to read: give a list of at least one.")
    if x.shape[-2] != x.shape[-1]:
        raise ValueError(
            f"The judge reads square pictures of one panel; these are {x.shape[-1]} x {x.shape[-2]} "
            "(width x height). Cut a strip into its panels first."
        )
    x = x.to(device)
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
    return x.clamp(-1, 1)


class StoryJudge:
    """Reads attributes off pictures of one character.

    ``judge = StoryJudge.load(); judge.read(images)["fur"]`` gives probabilities [B, 8].
    """

    attributes = world.ATTRIBUTES

    def __init__(self, net: JudgeNet):
        self.net = net.eval()

    @classmethod
    def load(cls, name="judge", device="cpu") -> StoryJudge:
        """Load the shipped judge, as of `shipped`."""
        return cls(shipped(JudgeNet, name, device))

    def pixels(self, images) -> torch.Tensor:
        """Pictures of any kind -> [B, 3, S, S] in -1..1, as of the function `pixels`."""
        return pixels(images, self.net.size, next(self.net.parameters()).device)

    @torch.no_grad()
    def read(self, images, batch: int = 256) -> dict[str, torch.Tensor]:
        """Probabilities of every attribute.

        Parameters
        ----------
        images : list of PIL.Image, list of arrays, or tensor [B, 3, H, W] in 0..1
            As of the function `pixels`, with its errors.

        Returns
        -------
        dict
            attribute -> float tensor [B, classes], rows sum to 1, classes in the order of
            ``world.ATTRIBUTES``.
        """
        parts = [self.net(x) for x in self.pixels(images).split(batch)]
        return {name: torch.cat([p[name] for p in parts]).softmax(-1).cpu() for name in parts[0]}

    def names(self, images) -> list[dict[str, str]]:
        """The most probable class of each attribute, for each picture."""
        read = {k: v.argmax(-1).tolist() for k, v in self.read(images).items()}
        return [
            {k: world.ATTRIBUTES[k][v[i]] for k, v in read.items()}
            for i in range(len(next(iter(read.values()))))
        ]

    def consistency(self, images, free_attributes=FREE) -> dict[str, float]:
        """Agreement: the fraction of panel pairs in which an attribute is read the same.

        Parameters
        ----------
        images : list of at least two pictures
            The panels of one story.
        free_attributes : sequence of str
            Attributes that no prompt of the story names (the named ones agree for another reason).

        Returns
        -------
        dict
            attribute -> 0..1, and their mean under ``"mean"``.
        """
        free_attributes = [free_attributes] if isinstance(free_attributes, str) else list(free_attributes)
        if not free_attributes:
            raise ValueError(f"Consistency of no attribute: name some, such as {', '.join(FREE)}.")
        for name in free_attributes:
            if name not in world.ATTRIBUTES:
                raise ValueError(
                    f"The judge knows no attribute {name!r}: choose from {', '.join(world.ATTRIBUTES)}."
                )
        names = self.names(images)
        if len(names) < 2:
            raise ValueError("Consistency compares panels: give at least two pictures of one story.")
        return agreement(names, free_attributes)

    def fidelity(self, images, panels) -> dict[str, float]:
        """Which part of what the prompts name is there.

        Parameters
        ----------
        images : list of F pictures
        panels : list of F str or Panel
            Their prompts.

        Returns
        -------
        dict
            attribute -> fraction of the panels naming it that show it (attributes no prompt names are left
            out), and the fraction over all named attributes under ``"mean"``.
        """
        panels = [panels] if isinstance(panels, str) else panels
        names, prompts = self.names(images), [getattr(p, "prompt", p) for p in panels]
        if len(names) != len(prompts):
            raise ValueError(
                f"Fidelity compares each picture with its prompt: {len(names)} pictures, "
                f"{len(prompts)} prompts."
            )
        return faithfulness(names, prompts)


def agreement(names: list[dict], attributes=FREE) -> dict[str, float]:
    """`StoryJudge.consistency` from class names that were already read."""
    pairs = list(combinations(names, 2))
    out = {k: sum(a[k] == b[k] for a, b in pairs) / len(pairs) for k in attributes}
    return out | {"mean": sum(out.values()) / len(out)}


def faithfulness(names: list[dict], prompts: list[str]) -> dict[str, float]:
    """`StoryJudge.fidelity` from class names that were already read."""
    hits: dict[str, list[bool]] = {}
    for read, prompt in zip(names, prompts, strict=True):
        for k, v in world.mentioned(prompt).items():
            hits.setdefault(k, []).append(read[k] == v)
    out = {k: sum(v) / len(v) for k, v in hits.items()}
    found = [h for v in hits.values() for h in v]
    return out | {"mean": sum(found) / len(found) if found else float("nan")}
