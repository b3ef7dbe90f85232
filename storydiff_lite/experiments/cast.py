"""Do two characters keep apart? (chapter 10)

Stories of six panels in 12 steps: each of two characters of different species alone in two panels, and
both together in two. Nothing but species, action and scene is named, so that looks are free.

*own*: agreement of looks between the two panels of one character; *leak*: between a panel of one and a panel
of the other, which chance alone would make about as low as without sharing. Panels with both are cut around
the places where the two stand (`crops`): *pair* is the agreement of each part with the panels that its
character has for itself, *twins* of the two parts with each other, *both* the share of these panels in which
both species are read. How well the judge reads such parts of true pictures stands in ``crops``.
"""

from __future__ import annotations

import random
from itertools import product

import torch
import torch.nn.functional as F

from .. import weights, world
from ..cast import by_character
from ..judge import FREE, faithfulness
from ..neighbours import drawing
from ..story import Panel
from ..training.data import draw
from .consistency import STEPS, story_experiment
from .records import clean_panels, mean_agreement, reading, short

KINDS = ("own", "leak", "pair", "twins", "both", "fidelity", "clean")

SIDES = ("left", "right")
#: where feet stand, in picture heights
FEET = 0.92
#: side of what is cut out around one of two, in picture heights: so that body and picture are to each other
#: as in the pictures of one that the judge learnt from
CROP = 0.7
#: characters of each panel: the first, the second, both
CAST = ((0,), (1,), (0, 1), (1,), (0,), (0, 1))


def overlapping(reader, other):
    """A panel reads every panel that shows one of its characters, also together with another."""
    return bool(reader & other)


def everyone(reader, other):
    """A panel reads every panel."""
    return bool(reader) and bool(other)


RULES = {"everyone": everyone, "overlapping": overlapping, "by character": by_character}


def story_of(rng, phrases, layout, described=False):
    """A story of several characters.

    Parameters
    ----------
    rng : random.Random
        Draws scenes and actions.
    phrases : list of str
        What each character is called, such as "a cat".
    layout : list of tuples of int
        Characters of each panel, from left to right.
    described : bool
        Whether panels of several know these phrases, so that no region reads another's (`regions.own_words`).

    Returns
    -------
    list of Panel
    list of (list of str, str)
        Of each panel the actions from left to right, and the scene: keys of `world.ACTIONS`, `world.SCENES`.
    """
    panels, wanted = [], []
    for present, scene in zip(layout, rng.sample(tuple(world.SCENES), len(layout)), strict=True):
        actions = rng.sample(tuple(world.ACTIONS), len(present))
        parts = [f"{phrases[k]} {world.ACTIONS[a]}" for k, a in zip(present, actions, strict=True)]
        text = f"{' and '.join(parts)} {world.SCENES[scene]}"
        own = tuple(phrases[k] for k in present) if described and len(present) > 1 else ()
        panels.append(Panel(text, characters=tuple("ABC"[k] for k in present), described=own))
        wanted.append((actions, scene))
    return panels, wanted


def two(i: int) -> list[Panel]:
    """The i-th story of two characters."""
    rng = random.Random(f"cast/{i}")
    return story_of(rng, [world.article(s) for s in rng.sample(world.SPECIES, 2)], CAST)[0]


def cast_settings() -> dict[str, dict]:
    """Name -> rate, and who reads whom."""
    out = {"no sharing": {"consistency": 0, "rule": "by character"}}
    return out | {name: {"consistency": 0.5, "rule": name} for name in RULES}


def crops(images, who=2):
    """The parts of pictures [B, 3, S, S] of ``who`` characters, from left to right: each a square around the
    place where one stands (`world.random_actor`), as large beside its character as a picture of one; edges
    are repeated outwards.
    """
    s = images.shape[-1]
    side = round(CROP * s)
    wide = F.pad(images, (side,) * 4, mode="replicate")
    bottom = side + round((FEET + (1 - FEET) * CROP) * s)
    lefts = (side + round((k + 0.5) / who * s - side / 2) for k in range(who))
    return tuple(wide[..., bottom - side : bottom, x : x + side] for x in lefts)


def read_story(judge, images):
    """What the judge reads: names of the first's panels, the second's, and (left, right) of those of both."""
    single = [judge.names(images[[j for j, shown in enumerate(CAST) if shown == (k,)]]) for k in (0, 1)]
    both = images[[j for j, shown in enumerate(CAST) if len(shown) == 2]]
    return single, list(zip(*(judge.names(part) for part in crops(both)), strict=True))


def measure_cast(pipe, judge, setting, numbers, batch_size=1, defects=None, **call):
    """One row per story number; ``defects`` as of `measure`."""
    stories = [two(i) for i in numbers]
    call = {"num_inference_steps": STEPS, "output_type": "pt", "batch_size": batch_size} | call
    call = {"apart": "words"} | call  # the rule is measured by itself; `regions` has a record of its own
    with drawing(pipe, rule=RULES[setting["rule"]]):
        drawn = pipe.tell_many(stories, numbers, consistency=setting["consistency"], **call)
    rows = []
    for i, panels, output in zip(numbers, stories, drawn, strict=True):
        (first, second), both = read_story(judge, output.images)
        single, together = ([j for j, shown in enumerate(CAST) if len(shown) == n] for n in (1, 2))
        (names, read), prompts = reading(judge, output.images[single]), [panels[j].prompt for j in single]
        halves = (half for pair in both for half in zip(pair, (first, second), strict=True))
        row = {
            "seed": i,
            "own": short(mean_agreement([first, second])),
            "leak": short(mean_agreement(product(first, second))),
            "pair": short(mean_agreement((part, one) for part, own in halves for one in own)),
            "twins": short(mean_agreement(both)),
            "both": shown(both, [panels[j].prompt for j in together]),
            "fidelity": short(faithfulness(names, prompts)),
        }
        parts = [reading(judge, part, FREE)[1] for part in crops(output.images[together])]
        read["lead"] = min(r["lead"] for r in (read, *parts))
        for side, part in zip(SIDES, parts, strict=True):
            read["read"] |= {f"{k}, {side}": v for k, v in part["read"].items()}
        rows.append(row | read | clean_panels(defects, output.images, [p.prompt for p in panels]))
    return rows


def shown(both, prompts):
    """Share of panels of two in which one of the two species asked for is read on each side, in any order."""
    asked = [{world.mentioned(part)["species"] for part in p.split(" and ")} for p in prompts]
    hits = [{part["species"] for part in pair} == want for pair, want in zip(both, asked, strict=True)]
    return {"mean": sum(hits) / len(hits)}


def reading_crops(judge, rng, who=2, pictures=200):
    """How well the judge reads such parts: share of right answers on true pictures of several that ``rng``
    draws, by attribute, as large as the model draws.
    """
    right, drawn = dict.fromkeys(("species", "action", *FREE), 0), []
    for _ in range(pictures):
        characters = [world.Character.random(rng, species=s) for s in rng.sample(world.SPECIES, who)]
        drawn.append(world.random_group(rng, characters))
    images = torch.stack([torch.tensor(draw(p, weights.picture_size())) / 255 for p in drawn])
    for place, part in enumerate(crops(images, who)):
        for picture, read in zip(drawn, judge.names(part), strict=True):
            truth = world.labels(picture, place)
            for k in right:
                right[k] += read[k] == truth[k]
    return {k: round(n / (who * pictures), 4) for k, n in right.items()}


EXPERIMENT = story_experiment(
    "cast",
    cast_settings,
    measure_cast,
    KINDS,
    panels=len(CAST),
    then=lambda pipe, judge, stories: {"crops": reading_crops(judge, random.Random("halves"))},
    stories=16,
    golden=("by character",),
)
