"""Two characters in one panel: by words alone, by regions, by a text for each (chapter 10).

Stories of four panels in 12 steps: each of two characters alone, and two panels of both, named in one order
and in the other.  The judge reads panels of both in `cast.crops`, left and right; where it reads the
two species that were asked for, but with changed places, each part is taken for the character that it shows.

*self*: agreement of looks of a character with itself, over the pairs of its three panels; *leak*: of the two
in one panel; *chance*: of the two in their own panels; *both*: both species are read; *place*: and each where
it should stand; *action*, *scene*: as the prompt says, in panels of both; *one*: species, action and scene of
panels of one; *named*: looks of a character in panels of both are those that the declaration names, or would
name; *exchanged*: they are the other's, whose differ in all of them.
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
from ..story import Panel
from .cast import crops
from .consistency import STEPS, story_experiment
from .neighbours import clock, with_seconds
from .records import clean_panels, mean_agreement, reading

KINDS = ("self", "leak", "chance", "both", "place", "action", "scene", "one", "named", "exchanged", "clean")
#: characters of each panel, from left to right
CAST = ((0,), (1,), (0, 1), (1, 0))
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


def characters(i: int) -> list[world.Character]:
    """The two of the i-th story: another species, and another look in all that may be named."""
    rng = random.Random(f"regions/who/{i}")
    first, second = rng.sample(world.SPECIES, 2)
    one = world.Character.random(rng, species=first)
    while True:
        other = world.Character.random(rng, species=second)
        if all(getattr(one, k) != getattr(other, k) for k in FREE):
            return [one, other]


def two_together(i: int, named=False, words=True):
    """The i-th story, and for each panel what its characters do, and where.

    Parameters
    ----------
    named : bool
        Whether the declaration names the looks.
    words : bool
        Whether a region is kept from reading the words that describe the other (`regions.own_words`).

    Returns
    -------
    list of Panel
    list of (list of str, str)
        Actions from left to right, and the scene, by the names of `world.ACTIONS` and `world.SCENES`.
    """
    rng, looks = random.Random(f"regions/{i}"), set(FREE) if named else frozenset()
    phrases = [world.describe(c, looks) for c in characters(i)]
    panels, shown = [], []
    for present, scene in zip(CAST, rng.sample(tuple(world.SCENES), len(CAST)), strict=True):
        actions = rng.sample(tuple(world.ACTIONS), len(present))
        parts = [f"{phrases[k]} {world.ACTIONS[a]}" for k, a in zip(present, actions, strict=True)]
        text = f"{' and '.join(parts)} {world.SCENES[scene]}"
        described = tuple(phrases[k] for k in present) if words and len(present) > 1 else ()
        panels.append(Panel(text, characters=tuple("AB"[k] for k in present), described=described))
        shown.append((actions, scene))
    return panels, shown


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


def draw(pipe, setting: dict, i: int, seed=None, **call):
    """The i-th story under a setting, as `StoryOutput`; ``call``: more arguments of the pipeline's call."""
    panels, _ = two_together(i, setting.get("named", False), setting.get("words", True))
    call = {"num_inference_steps": STEPS, "seed": i if seed is None else seed, "apart": "regions"} | call
    call |= {k: v for k, v in setting.items() if k not in ("text", "named", "words")}
    plan = partial(OwnTexts, pipe=pipe, panels=panels) if "text" in setting else None
    with drawing(pipe, plan):
        return pipe(panels, **call)


def sorted_out(parts, species):
    """What was read left and right, in the order of ``species``, and whether the two had changed places."""
    changed = [part["species"] for part in parts] == species[::-1]
    return (parts[::-1], True) if changed else (parts, False)


def measure_regions(pipe, judge, setting, numbers, defects=None, **call):
    """One row per story number: what stands at the top of this file."""
    rows = []
    for i in numbers:
        start, (panels, wanted) = clock(pipe.device), two_together(i)
        images = draw(pipe, setting, i, output_type="pt", **call).images
        seconds, cast = clock(pipe.device) - start, characters(i)
        two = [j for j, shown in enumerate(CAST) if len(shown) == 2]
        names, read = reading(judge, images, ("species", "action", "scene"))
        parts = list(zip(*(judge.names(part) for part in crops(images[two])), strict=True))
        looks = [[names[CAST.index((k,))]] for k in (0, 1)]  # of each character, panel by panel
        found = {k: [] for k in ("both", "place", "action", "scene", "leak")}
        for j, pair in zip(two, parts, strict=True):
            actions, scene = wanted[j]
            species = [cast[k].species for k in CAST[j]]
            pair, changed = sorted_out(list(pair), species)
            read_species = [part["species"] for part in pair]
            found["both"].append(read_species == species)
            found["place"].append(read_species == species and not changed)
            found["action"] += [part["action"] == a for part, a in zip(pair, actions, strict=True)]
            found["scene"].append(names[j]["scene"] == scene)
            found["leak"].append(mean_agreement([pair])["mean"])
            for k, part in zip(CAST[j], pair, strict=True):
                looks[k].append(part)
        found["self"] = [mean_agreement(combinations(own, 2))["mean"] for own in looks]
        found["chance"] = [mean_agreement([(looks[0][0], looks[1][0])])["mean"]]
        found["one"] = [
            names[j][k] == v
            for j, (k, *rest) in enumerate(CAST)
            if not rest
            for k, v in (("species", cast[k].species), ("action", wanted[j][0][0]), ("scene", wanted[j][1]))
        ]
        seen = [(k, part) for k, own in enumerate(looks) for part in own[1:]]
        found["named"] = [part[a] == getattr(cast[k], a) for k, part in seen for a in FREE]
        found["exchanged"] = [part[a] == getattr(cast[1 - k], a) for k, part in seen for a in FREE]
        row = {"seed": i, "seconds": round(seconds, 3)} | read
        row |= {k: {"mean": round(sum(v) / len(v), 4)} for k, v in found.items()}
        rows.append(row | clean_panels(defects, images, [panel.prompt for panel in panels]))
    return rows


EXPERIMENT = story_experiment(
    "regions",
    regions_settings,
    measure_regions,
    KINDS,
    panels=len(CAST),
    stories=60,
    summarize=with_seconds,
    golden=("regions", "isolated", "two texts"),
)
