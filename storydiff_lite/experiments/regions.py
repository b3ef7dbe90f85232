"""Two characters in one panel: by words alone, by regions, by a text for each (chapter 10).

Stories of four panels in 12 steps: each of two characters alone, and two panels of both, named in one order
and in the other.  Of panels of both the judge reads the two parts of `cast.crops`; where it reads the species
that were asked for, but with changed places, each part is taken for the character that it shows.

*self*: agreement of looks of a character with itself, over the pairs of its three panels; *leak*: of the two
in one panel; *chance*: of the two in their own panels; *both*: both species are read; *place*: and each where
it should stand; *action*, *scene*: as the prompt says, in panels of both; *one*: species, action and scene of
panels of one; *named*: looks of a character in panels of both are those that the declaration names, or would
name; *exchanged*: they are the other's, whose differ in all of them; *alone*: as *named*, in panels of one.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from functools import partial
from itertools import combinations

from .. import world
from ..judge import FREE
from ..neighbours import drawing
from ..regions import RegionTexts
from ..schedule import AttentionPlan
from .cast import crops, story_of
from .consistency import STEPS, story_experiment
from .neighbours import clock, with_seconds
from .records import clean_panels, mean_agreement, reading

KINDS = ("self", "leak", "chance", "both", "place", "action", "scene", "one", "named", "exchanged", "clean")
RATE = 0.5


def regions_settings() -> dict[str, dict]:
    """Name -> what is drawn: arguments of the call, whether each region has a ``text`` of its own, and
    whether looks are ``named``.
    """
    out = {"plain": {"consistency": 0}, "words": {"consistency": RATE, "apart": "words"}}
    out["regions"] = {"consistency": 1.0, "apart": "regions"}
    for name in ("plain", "words", "regions"):
        out[f"{name}, looks named"] = out[name] | {"named": True}
    out["isolated"] = {"consistency": 1.0, "apart": "isolated"}
    out["two texts"] = {"consistency": 1e-3, "text": "own", "words": False}
    out["words, rate 1"] = {"consistency": 1.0, "apart": "words"}
    out["regions, rate 0.5"] = {"consistency": RATE, "apart": "regions"}
    return out


def shown(who: int) -> list[tuple[int, ...]]:
    """Characters of each panel, from left to right: each alone, all, and all with the last one first.

    >>> shown(2)
    [(0,), (1,), (0, 1), (1, 0)]
    """
    every = tuple(range(who))
    return [*((k,) for k in every), every, every[-1:] + every[:-1]]


def unlike(rng, who: int, may_be=lambda character: True) -> list[world.Character]:
    """Characters of different species, without a look in common; ``may_be`` says who will do."""
    found = []
    for species in rng.sample(world.SPECIES, who):
        while True:
            one = world.Character.random(rng, species=species)
            if may_be(one) and all(getattr(one, k) != getattr(other, k) for k in FREE for other in found):
                break
        found.append(one)
    return found


def characters(i: int) -> list[world.Character]:
    """The two of the i-th story."""
    return unlike(random.Random(f"regions/who/{i}"), 2)


def two_together(i: int, named=False, words=True):
    """The i-th story, as of `story_of`.

    ``named``: whether the declaration names the looks; ``words``: whether a region is kept from reading the
    words that describe the other.
    """
    phrases = [world.describe(c, set(FREE) if named else frozenset()) for c in characters(i)]
    return story_of(random.Random(f"regions/{i}"), phrases, shown(2), words)


def own_texts(panels):
    """A text for each region of the panels of several, about one character: list of (panel, region, text)."""
    found = []
    for j, panel in enumerate(panels):
        *first, last = panel.prompt.split(" and ") if len(panel.characters) > 1 else [panel.prompt]
        scene = next(s for s in world.SCENES.values() if last.endswith(s))
        parts = [f"{part} {scene}" for part in first] + [last]
        found += [(j, r, text) for r, text in enumerate(parts) if first]
    return found


class OwnTexts(AttentionPlan):
    """An `AttentionPlan` with which each region of a panel of several reads a text of its own."""

    def __init__(self, *args, pipe, panels, **settings):
        super().__init__(*args, **settings)
        self.pipe, self.own = pipe, own_texts(panels)

    @contextmanager
    def installed(self, unet, layers="up"):
        states = self.pipe.prompts([text for *_, text in self.own])[0]
        texts = [(j, r, 0, own) for (j, r, _), own in zip(self.own, states, strict=True)]
        with RegionTexts(self.regions, texts).installed(unet, self), super().installed(unet, layers):
            yield self


def draw(pipe, setting: dict, i: int, **call):
    """The i-th story under a setting, as `StoryOutput`; ``call``: more arguments of the pipeline's call."""
    panels, _ = two_together(i, setting.get("named", False), setting.get("words", True))
    call = {"num_inference_steps": STEPS, "seed": i, "apart": "regions"} | call
    call |= {k: v for k, v in setting.items() if k not in ("text", "named", "words")}
    plan = partial(OwnTexts, pipe=pipe, panels=panels) if "text" in setting else None
    with drawing(pipe, plan):
        return pipe(panels, **call)


def sorted_out(parts, species):
    """What was read from left to right, in the order of ``species`` where just these were read."""
    read = [part["species"] for part in parts]
    return [parts[read.index(s)] for s in species] if sorted(read) == sorted(species) else parts


def read_together(judge, images, cast, wanted):
    """What the judge reads of a story whose panels, images [panels, 3, S, S], show the characters of `shown`.

    ``wanted``: actions and scene of each panel, as of `story_of`.  For a row: what stands at the top of this
    file, and `records.reading` of whole panels.
    """
    who = len(cast)
    names, read = reading(judge, images, ("species", "action", "scene"))
    looks = [[names[k]] for k in range(who)]  # of each character, panel by panel
    found = {k: [] for k in ("both", "place", "action", "scene", "leak")}
    parts = zip(*(judge.names(part) for part in crops(images[who:], who)), strict=True)
    for part, name, present, (actions, scene) in zip(
        parts, names[who:], shown(who)[who:], wanted[who:], strict=True
    ):
        species = [cast[k].species for k in present]
        found["place"].append([one["species"] for one in part] == species)
        part = sorted_out(part, species)
        found["both"].append([one["species"] for one in part] == species)
        found["action"] += [one["action"] == a for one, a in zip(part, actions, strict=True)]
        found["scene"].append(name["scene"] == scene)
        found["leak"].append(mean_agreement(combinations(part, 2))["mean"])
        for k, one in zip(present, part, strict=True):
            looks[k].append(one)
    found["self"] = [mean_agreement(combinations(own, 2))["mean"] for own in looks]
    found["chance"] = [mean_agreement(combinations([own[0] for own in looks], 2))["mean"]]
    found |= {k: [] for k in ("one", "alone", "named", "exchanged")}
    for one, (own, *rest), ((action,), scene) in zip(cast, looks, wanted, strict=False):
        found["one"] += [own["species"] == one.species, own["action"] == action, own["scene"] == scene]
        for a in FREE:
            others = [getattr(other, a) for other in cast if other is not one]
            found["alone"].append(own[a] == getattr(one, a))
            found["named"] += [seen[a] == getattr(one, a) for seen in rest]
            found["exchanged"] += [seen[a] in others for seen in rest]
    return read | {k: {"mean": round(sum(v) / len(v), 4)} for k, v in found.items()}


def measure_together(draw, story, pipe, judge, setting, numbers, defects=None, **call):
    """One row per story number, with `read_together`: ``draw(pipe, setting, i, **call)`` draws the i-th
    story, and ``story(i, setting)`` says its characters, its panels and what they want.
    """
    rows = []
    for i in numbers:
        start = clock(pipe.device)
        images = draw(pipe, setting, i, output_type="pt", **call).images
        row = {"seed": i, "seconds": round(clock(pipe.device) - start, 3)}
        cast, panels, wanted = story(i, setting)
        row |= read_together(judge, images, cast, wanted)
        rows.append(row | clean_panels(defects, images, [panel.prompt for panel in panels]))
    return rows


EXPERIMENT = story_experiment(
    "regions",
    regions_settings,
    partial(measure_together, draw, lambda i, setting: (characters(i), *two_together(i))),
    KINDS,
    stories=100,
    summarize=with_seconds,
    golden=("regions", "isolated", "two texts"),
)
