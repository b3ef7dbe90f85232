"""The judge of defects: a small network that counts what is in a panel.

`judge.StoryJudge` says which species, which hat, which scene: of a picture with two heads it names the
species all the same, for it has never seen one.  This network counts characters, heads, faces, accessories,
balloons, suns and moons.  What a prompt and the world allow is known (`expected`); a panel in which every
count is allowed is *clean*.  It learnt from renders, from renders spoilt on purpose, and from what an
autoencoder makes of both (``training/defects.py``).
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import nn

from . import world
from .judge import pixels, shipped

#: what is counted -> the kind of thing that is
COUNTED = {
    "characters": "body",
    "heads": "head",
    "faces": "face",
    "accessories": "accessory",
    "balloons": "balloon",
    "suns": "sun",
    "moons": "moon",
}
#: the last class of every count means so many *or more*
MOST = 3
#: how many of one thing are called
_ONE = {"characters": "character", "accessories": "accessory"} | {
    k: k[:-1] for k in ("heads", "faces", "balloons", "suns", "moons")
}
ANY = frozenset(range(MOST + 1))


class DefectNet(nn.Module):
    """Counts by way of maps: [B, 3, S, S] in -1..1 -> counts [B, 7, 4] and maps [B, 7, S/8, S/8], as logits.

    A map says where the things of a kind are; the counts are read from what the maps and the features hold in
    each of 4 x 4 regions.
    """

    def __init__(self, size: int = 96, width: int = 32):
        super().__init__()
        w, kinds = width, len(COUNTED)

        def block(a, b, stride=1):
            return nn.Conv2d(a, b, 3, stride, 1), nn.GroupNorm(8, b), nn.SiLU()

        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            *block(12, w, 2),
            *block(w, w * 3 // 2),
            *block(w * 3 // 2, w * 3, 2),
            *block(w * 3, w * 3),
            *block(w * 3, w * 3),
        )
        self.head_where = nn.Conv2d(w * 3, kinds, 1)
        nn.init.constant_(self.head_where.bias, -3.0)  # almost everywhere there is nothing
        self.mix = nn.Sequential(nn.Linear((w * 3 + kinds) * 16 + kinds, 192), nn.SiLU())
        self.head_count = nn.Linear(192, kinds * (MOST + 1))
        self.size = size

    def forward(self, x):
        h = self.body(x)
        maps = self.head_where(h)
        found = maps.sigmoid()
        regions = torch.cat([F.adaptive_avg_pool2d(h, 4), F.adaptive_avg_pool2d(found, 4) * 8], 1)
        h = self.mix(torch.cat([regions.flatten(1), found.sum((2, 3)) / 4], 1))
        return self.head_count(h).unflatten(1, (len(COUNTED), MOST + 1)), maps


class DefectJudge:
    """Counts what is in pictures, and says what is wrong with them.

    ``DefectJudge.load().defects([image], ["a bear walking in the forest"])`` may give
    ``[["2 heads instead of 1"]]``.
    """

    def __init__(self, net: DefectNet):
        self.net = net.eval()

    @classmethod
    def load(cls, name="defects", device="cpu") -> DefectJudge:
        """Load the shipped judge, as of `judge.shipped`."""
        return cls(shipped(DefectNet, name, device))

    @torch.no_grad()
    def read(self, images, batch: int = 64) -> dict[str, torch.Tensor]:
        """Probabilities of every count.

        Parameters
        ----------
        images : list of PIL.Image, list of arrays, or tensor [B, 3, H, W] in 0..1
            As `judge.StoryJudge.read` takes them.

        Returns
        -------
        dict
            Name of `COUNTED` -> float tensor [B, 4]: 0, 1, 2, 3 or more.

        Raises
        ------
        ValueError
            No picture, pictures that are not square, or a tensor of another shape.
        """
        device = next(self.net.parameters()).device
        x = pixels(images, self.net.size, device)
        p = torch.cat([self.net(part)[0] for part in x.split(batch)]).softmax(-1).cpu()
        return dict(zip(COUNTED, p.unbind(1), strict=True))

    def count(self, images) -> dict[str, torch.Tensor]:
        """Name of `COUNTED` -> int64 tensor [B]: how many, 3 meaning three or more."""
        return {k: v.argmax(-1) for k, v in self.read(images).items()}

    def defects(self, images, prompts) -> list[list[str]]:
        """What is wrong with each picture, in words; an empty list where nothing is.

        Parameters
        ----------
        images : B pictures, as of `read`
        prompts : list of B str, Panel or world.Picture
            What they should show, as of `expected`.

        Returns
        -------
        list of B lists of str
            ``"2 balloons instead of 1"``, ``"no face instead of 1"``.

        Raises
        ------
        ValueError
            As of `read`, and where there are not as many prompts as pictures.
        """
        counts, prompts = self.count(images), list(prompts)
        n = len(counts["heads"])
        if n != len(prompts):
            raise ValueError(
                f"Defects are counted against each picture's prompt: {n} pictures, {len(prompts)} prompts."
            )
        return [reasons({k: int(v[i]) for k, v in counts.items()}, expected(prompts[i])) for i in range(n)]

    def clean(self, images, prompts) -> list[bool]:
        """Whether each picture has no defect (`defects`)."""
        return [not found for found in self.defects(images, prompts)]


def cleanliness(judge: DefectJudge, images, prompts) -> dict[str, float]:
    """The fraction of pictures without a defect: ``{"mean": 0..1}``."""
    clean = judge.clean(images, prompts)
    return {"mean": sum(clean) / len(clean)}


def reasons(counts: dict[str, int], allowed: dict[str, frozenset[int]]) -> list[str]:
    """What is wrong with counts, in words.

    >>> reasons({"heads": 2}, {"heads": frozenset({1})})
    ['2 heads instead of 1']
    """
    return [
        f"{amount(n, name)} instead of {' or '.join(str(a) for a in sorted(allowed[name]))}"
        for name, n in counts.items()
        if n not in allowed[name]
    ]


def amount(n: int, name: str) -> str:
    """``"no face"``, ``"1 face"``, ``"2 faces"``, ``"3 or more faces"``."""
    many = f"{n} or more" if n == MOST else str(n) if n else "no"
    return f"{many} {_ONE[name] if n < 2 else name}"


# ----------------------------------------------------------------------------------- what a prompt allows

_NUMBERS = {"a": 1, "an": 1, "one": 1, "another": 1, "two": 2, "both": 2, "three": 3}
_SPECIES = "|".join(world.SPECIES)
_COUNT = "|".join(_NUMBERS)
#: an article or a number, up to three words that say how somebody is, a species: "two small orange bears"
_WHO = re.compile(
    rf"\b(?:({_COUNT}|the|this|that)\s+)?"
    rf"(?:(?!(?:{_COUNT}|the|and|with|in|on|of)\b)[\w-]+\s+){{0,3}}?({_SPECIES})(s?)\b"
)
_DID = re.compile(r"\b(" + "|".join(v.split()[0] for v in world.ACTIONS.values()) + r")\b")
_ACCESSORY = re.compile(r"\b(hats?|scar(?:f|fs|ves)|bows?)\b")
_NOBODY = re.compile(r"\b(nobody|no one|empty scene|without anybody)\b")
#: where there is a sun or a moon; in the desert and the bedroom somebody may stand before it
SKY = {"beach": ("suns", {1}), "desert": ("suns", {0, 1}), "bedroom": ("moons", {0, 1})}


def _groups(text: str) -> list[tuple[int, str]]:
    """Who a prompt names: (how many, what is said of them), in order; 0 means several, nobody knows how many.

    Who comes again with "the" or with nothing before it ("the bear is happy") is the same character.
    """
    found, seen = [], set()
    for m in _WHO.finditer(text):
        number, species, many = m[1], m[2], bool(m[3])
        again = species in seen and number not in _NUMBERS
        seen.add(species)
        if not again:
            n = _NUMBERS.get(number, 1)
            found.append(((0 if many and n == 1 else n), m.start()))
    ends = [at for _, at in found[1:]] + [len(text)] * bool(found)
    return [(n, text[at:end]) for (n, at), end in zip(found, ends, strict=True)]


def _balloons(n: int, phrase: str) -> int:
    """How many of a group of ``n`` hold a balloon: all, where they do nothing else."""
    did = _DID.findall(phrase)
    named = len(re.findall(r"\bballoons?\b", phrase))
    if not named:
        return 0
    return n if len(did) <= 1 or set(did) == {"holding"} else min(n, max(1, did.count("holding")))


def _sky(scene: str | None) -> dict[str, frozenset[int]]:
    """Suns and moons of a scene; of one that the prompt doesn't name, all that any has."""
    if scene is None:
        return {"suns": frozenset({0, 1}), "moons": frozenset({0, 1})}
    out = {"suns": frozenset({0}), "moons": frozenset({0})}
    if scene in SKY:
        name, allowed = SKY[scene]
        out[name] = frozenset(allowed)
    return out


def expected(prompt) -> dict[str, frozenset[int]]:
    """Which counts a prompt and the world allow.

    In this world everybody has one head, one face with both eyes (a sleeper's are closed, a robot's are on
    its screen) and one accessory; a balloon is there for each who holds one; a sun stands over the beach and
    the desert, a moon in the bedroom's window, and in the last two somebody may hide it.

    Parameters
    ----------
    prompt : str, Panel or world.Picture
        A prompt that names no species and not "nobody" leaves open how many there are.

    Returns
    -------
    dict
        Name of `COUNTED` -> allowed counts, out of 0..3 (3: three or more).

    Raises
    ------
    TypeError
        Something else.

    >>> sorted(expected("two bears holding a balloon on the beach")["balloons"])
    [2]
    """
    if isinstance(prompt, world.Picture):
        n, scene = len(prompt.actors), prompt.scene
        people = frozenset({min(MOST, n)})
        balloons = frozenset({min(MOST, sum(a.action == "balloon" for a in prompt.actors))})
        worn = people
    else:
        text = getattr(prompt, "prompt", prompt)
        if not isinstance(text, str):
            raise TypeError(
                f"Expected a prompt, a Panel or a world.Picture, not {type(prompt).__name__}: what should "
                "the picture show?"
            )
        text = text.lower()
        people, worn, balloons = _people(text)
        scene = world.mentioned(text).get("scene")
    out = {"characters": people, "heads": people, "faces": people, "accessories": worn, "balloons": balloons}
    return out | _sky(scene)


def _people(text):
    """Allowed numbers of characters, accessories and balloons."""
    groups = _groups(text)
    if not groups:
        if _NOBODY.search(text):
            none = frozenset({0})
            return none, none, none
        holds = {1, 2, 3} if "balloon" in text else {0}
        return ANY, ANY, frozenset(holds)
    n, open_ended = sum(max(1, k) for k, _ in groups), any(k == 0 for k, _ in groups)
    if open_ended:
        n += sum(k == 0 for k, _ in groups)  # "bears": at least two
        people = frozenset(range(min(n, MOST), MOST + 1))
        holds = any("balloon" in phrase for _, phrase in groups)
        return people, people, frozenset({1, 2, 3} if holds else {0})
    people = frozenset({min(n, MOST)})
    # who names a hat and a scarf for one character asks for what the world doesn't have, but may get it
    named = min(MOST, len(_ACCESSORY.findall(text)))
    worn = frozenset(range(min(n, MOST), max(min(n, MOST), named) + 1))
    balloons = frozenset({min(MOST, sum(_balloons(k, phrase) for k, phrase in groups))})
    return people, worn, balloons
