"""Where sharing hurts: two characters in turns, and prompts that contradict each other (chapter 05).

Stories of each kind, each under one seed, in 12 steps, as in `sharing`.
"""

from __future__ import annotations

import random
from itertools import product

from .. import world
from .consistency import story, story_experiment
from .records import mean_agreement
from .sharing import by_story, measure_sharing, repeated, stories_of

KINDS = ("agreement", "fidelity", "clean", "own", "leak")


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
        character = world.Character.random(rng, species=species, outfit=colours[k // 2])
        out.append(prompt.replace(world.article(species), world.describe(character, {"outfit"}), 1))
    return out


STORIES = {"two in turns": in_turns, "contradiction": contradicting}


def failure_settings() -> dict[str, dict]:
    """Name -> kind of story and rate."""
    each = product(STORIES, (0, 0.5, 1))
    return {f"{kind}, rate {rate:g}": {"kind": kind, "consistency": rate} for kind, rate in each}


def own_and_leak(names, prompts, images):
    """Agreement of the free attributes between panels 1-3 and 2-4, and between neighbours."""
    pairs = {"own": ((0, 2), (1, 3)), "leak": ((0, 1), (1, 2), (2, 3), (0, 3))}
    return {kind: mean_agreement([(names[i], names[j]) for i, j in which]) for kind, which in pairs.items()}


def rows(pipe, judge, setting, seeds, **more):
    """`measure_sharing` of such stories."""
    stories, call = stories_of(seeds, STORIES[setting["kind"]]), {"consistency": setting["consistency"]}
    return measure_sharing(pipe, judge, call, stories, seeds, also=own_and_leak, **more)


EXPERIMENT = story_experiment(
    "failures",
    failure_settings,
    rows,
    KINDS,
    seeds=repeated,
    summarize=by_story,
    stories=12,
    golden=("two in turns, rate 0.5",),
)
