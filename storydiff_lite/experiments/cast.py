"""Do two characters keep apart? (chapter 10)

Twenty stories of six panels in 15 steps: each of two characters of different species alone in two panels, and
both together in two. Nothing but species, action and scene is named, so that looks are free.

*own*: agreement of looks between the two panels of one character; *leak*: between a panel of one and a panel
of the other, which chance alone would make about as low as without sharing. Of the panels with both, the left
and the right part are read, one character each: *pair* is the agreement of each half with the panels that its
character has for itself, *twins* of the two halves with each other.
"""

from __future__ import annotations

import random
from itertools import product

import torch

from .. import world
from ..cast import CastSharing
from ..judge import FREE, StoryJudge, agreement, faithfulness
from ..pipeline import StoryPipeline
from ..story import Panel
from .records import Experiment, header, short, sweep
from .sharing import STEPS

KINDS = ("own", "leak", "pair", "twins", "fidelity")

#: who is in each panel: the first, the second, both
WHO = ((0,), (1,), (0, 1), (1,), (0,), (0, 1))


class Overlapping(CastSharing):
    """A panel reads every panel that shows one of its characters, also together with another."""

    @staticmethod
    def lends(reader, other):
        return bool(reader & other)


class Everyone(CastSharing):
    """A panel reads every panel."""

    @staticmethod
    def lends(reader, other):
        return bool(reader) and bool(other)


RULES = {"everyone": Everyone, "overlapping": Overlapping, "by character": CastSharing}


def two(i: int) -> list[Panel]:
    """The i-th story of two characters."""
    rng = random.Random(f"cast/{i}")
    first, second = rng.sample(world.SPECIES, 2)
    who = [world.article(s) for s in (first, second)]
    scenes = rng.sample(tuple(world.SCENES.values()), len(WHO))
    panels = []
    for some, scene in zip(WHO, scenes, strict=True):
        did = rng.sample(tuple(world.ACTIONS.values()), len(some))
        text = " and ".join(f"{who[k]} {d}" for k, d in zip(some, did, strict=True))
        panels.append(Panel(f"{text} {scene}", characters=tuple("AB"[k] for k in some)))
    return panels


def cast_settings() -> dict[str, dict]:
    """Name -> rate, and who reads whom."""
    out = {"no sharing": {"consistency": 0, "rule": "by character"}}
    return out | {name: {"consistency": 0.5, "rule": name} for name in RULES}


def halves(images):
    """Left and right part of pictures [B, 3, S, S]: the square, five eighths high, that holds one of two."""
    s = images.shape[-1]
    size, top = s * 5 // 8, s * 5 // 16
    rows = images[..., top : top + size, :]
    return rows[..., :size], rows[..., -size:]


def read_story(judge, images):
    """What the judge reads: names of the first's panels, the second's, and (left, right) of those of both."""
    alone = [judge.names(images[[j for j, who in enumerate(WHO) if who == (k,)]]) for k in (0, 1)]
    both = images[[j for j, who in enumerate(WHO) if len(who) == 2]]
    return alone, list(zip(*(judge.names(part) for part in halves(both)), strict=True))


def mean_agreement(pairs):
    """Mean over pairs of names, attribute by attribute."""
    found = [agreement(list(pair), FREE) for pair in pairs]
    return short({k: sum(f[k] for f in found) / len(found) for k in found[0]})


def measure_cast(pipe, judge, setting, numbers, batch_size=4, **call):
    """One row per story number."""
    before, told = pipe.cast_sharing, [two(i) for i in numbers]
    call = {"num_inference_steps": STEPS, "output_type": "pt", "batch_size": batch_size} | call
    try:
        pipe.cast_sharing = RULES[setting["rule"]]
        drawn = pipe.tell_many(told, numbers, consistency=setting["consistency"], **call)
    finally:
        pipe.cast_sharing = before
    rows = []
    for i, panels, output in zip(numbers, told, drawn, strict=True):
        (first, second), both = read_story(judge, output.images)
        single = [j for j, who in enumerate(WHO) if len(who) == 1]
        names, prompts = judge.names(output.images[single]), [panels[j].prompt for j in single]
        rows.append(
            {
                "seed": i,
                "own": mean_agreement([first, second]),
                "leak": mean_agreement(product(first, second)),
                "pair": mean_agreement(
                    [
                        (half, one)
                        for pair in both
                        for half, own in zip(pair, (first, second), strict=True)
                        for one in own
                    ]
                ),  # fmt: skip
                "twins": mean_agreement(both),
                "fidelity": short(faithfulness(names, prompts)),
            }
        )
    return rows


def reading_halves(judge, pictures=200, size=64):
    """How well the judge reads such parts: share of right answers on drawn pictures of two, by attribute."""
    rng, right = random.Random("halves"), {k: 0 for k in ("species", *FREE)}
    drawn = []
    for _ in range(pictures):
        who = [world.Character.random(rng, species=s) for s in rng.sample(world.SPECIES, 2)]
        drawn.append(world.random_group(rng, who))
    images = torch.stack([judge.pixels([world.render(p, size)])[0].cpu() / 2 + 0.5 for p in drawn])
    for side, part in enumerate(halves(images)):
        for picture, read in zip(drawn, judge.names(part), strict=True):
            truth = world.labels(picture, side)
            for k in right:
                right[k] += read[k] == truth[k]
    return {k: round(n / (2 * pictures), 4) for k, n in right.items()}


def cast(stories=20, device="cpu", only=None):
    """Every setting of `cast_settings`, the same stories and seeds in each."""
    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    judge = StoryJudge.load(device=device)
    record = header("cast", stories, len(WHO), steps=STEPS) | EXPERIMENT.fingerprint()
    record["halves"] = reading_halves(judge)

    def rows_of(setting):
        return measure_cast(pipe, judge, setting, range(stories))

    return sweep(record, cast_settings(), rows_of, KINDS, only)


EXPERIMENT = Experiment(
    cast,
    ("attention.py", "cast.py", "guidance.py", "pipeline.py", "judge.py"),
    (two, cast_settings, halves, read_story, mean_agreement, measure_cast, reading_halves,
     Overlapping, Everyone),
    ("micro", "judge"),
    stories=20,
)  # fmt: skip
