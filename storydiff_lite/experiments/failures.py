"""Where sharing hurts: two characters in turns, and prompts that contradict each other (chapter 05).

Twenty stories of each kind, each under three seeds, in 15 steps, as in `sharing`.
"""

from __future__ import annotations

import random

from .. import world
from ..judge import FREE, StoryJudge, agreement
from ..pipeline import StoryPipeline
from .consistency import measure, story
from .records import Experiment, header, sweep
from .sharing import STEPS, by_story, measure_sharing, repeated

KINDS = ("agreement", "fidelity", "own", "leak")


def in_turns(i: int) -> list[str]:
    """The i-th story in which two species take turns, panel by panel."""
    prompts, first = story(i), world.SPECIES[i % len(world.SPECIES)]
    second = world.SPECIES[(i + 1 + i // len(world.SPECIES)) % len(world.SPECIES)]
    if second == first:
        second = world.SPECIES[(i + 1) % len(world.SPECIES)]
    return [p.replace(f"a {first}", f"a {second}", 1) if k % 2 else p for k, p in enumerate(prompts)]


def contradicting(i: int) -> list[str]:
    """The i-th story whose character wears one colour in two panels, and another in the other two."""
    rng, species = random.Random(f"contradiction/{i}"), world.SPECIES[i % len(world.SPECIES)]
    colours = rng.sample(world.ATTRIBUTES["outfit"], 2)
    out = []
    for k, prompt in enumerate(story(i)):
        who = world.describe(world.Character.random(rng, species=species, outfit=colours[k // 2]), {"outfit"})
        out.append(prompt.replace(world.article(species), who, 1))
    return out


STORIES = {"two in turns": in_turns, "contradiction": contradicting}


def failure_settings() -> dict[str, dict]:
    """Name -> kind of story and rate."""
    return {
        f"{kind}, rate {rate:g}": {"kind": kind, "consistency": rate}
        for kind in STORIES
        for rate in (0, 0.5, 1)
    }


def own_and_leak(names, prompts, images):
    """Agreement of the free attributes between panels 1-3 and 2-4, and between neighbours."""
    pairs = {"own": ((0, 2), (1, 3)), "leak": ((0, 1), (1, 2), (2, 3), (0, 3))}
    out = {}
    for name, which in pairs.items():
        found = [agreement([names[i], names[j]], FREE) for i, j in which]
        out[name] = {k: sum(f[k] for f in found) / len(found) for k in found[0]}
    return out


def failures(stories=20, device="cpu", only=None):
    """Every setting of `failure_settings`."""
    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    judge = StoryJudge.load(device=device)
    record = header("failures", stories, 4, steps=STEPS) | EXPERIMENT.fingerprint()
    record["seeds"] = "3 a story: 0.., 100.., 200.."

    def rows_of(setting):
        told, seeds = repeated([STORIES[setting["kind"]](i) for i in range(stories)])
        call = {"consistency": setting["consistency"]}
        return measure_sharing(pipe, judge, call, told, seeds, also=own_and_leak)

    return sweep(record, failure_settings(), rows_of, KINDS, only, by_story)


EXPERIMENT = Experiment(
    failures,
    ("attention.py", "guidance.py", "pipeline.py", "judge.py"),
    (story, measure, in_turns, contradicting, failure_settings, own_and_leak, by_story, repeated),
    ("micro", "judge"),
    stories=20,
)
