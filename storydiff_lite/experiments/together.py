"""Three in one panel; and two in one panel, each after its own pictures (chapter 10).

A story shows each of its characters alone, and then twice all of them together, in two orders of mention, in
12 steps.  Nothing but species, action and scene is named.  Of panels of all the judge reads a part for each
character (`parts_of`); where it reads the species that were asked for, but with changed places, each part is
taken for the character that it shows.

*self*: agreement of looks of a character with itself, over the pairs of its three panels; *leak*: of those in
one panel with each other; *chance*: of them in their own panels; *all*: every species is read; *place*: and
each where it should stand; *action*, *scene*: as the prompt says, in panels of all; *one*: species, action
and scene of panels of one; *right*: looks in panels of all that are those of the character, which only
pictures tell, so that without them it is what chance makes; *alone*: the same in panels of one;
*exchanged*: looks in panels of all that are another's there, who differs in all of them.

``crops`` of the record: how well the judge reads such parts of true pictures.
"""

from __future__ import annotations

import random
import warnings
from itertools import combinations

import torch

from .. import weights, world
from ..judge import FREE
from ..story import Panel
from ..training.data import draw as rendered
from .cast import crops
from .consistency import ALL_GUIDED, STEPS, story_experiment
from .neighbours import clock, with_seconds
from .records import clean_panels, mean_agreement, reading

KINDS = ("self", "leak", "chance", "all", "place", "action", "scene", "one", "alone", "right", "exchanged")
KINDS += ("clean",)
RATE = 0.5
#: reference pictures of each character
REFERENCES = 4


def together_settings() -> dict[str, dict]:
    """Name -> how many characters, whether there are ``pictures`` of them, and arguments of the call;
    ``lora``: whether the LoRA that was trained with the identity encoder is loaded.
    """
    out = {"three, plain": {"who": 3, "consistency": 0}}
    for way in ("words", "regions"):
        out[f"three, {way}"] = {"who": 3, "consistency": RATE, "apart": way}
    out["two, no pictures"] = {"who": 2, "consistency": RATE, "apart": "regions"}
    for way in ("words", "regions"):
        out[f"pictures, {way}"] = {"who": 2, "consistency": RATE, "apart": way, "pictures": True}
    out["pictures, regions, no LoRA"] = out["pictures, regions"] | {"lora": False}
    out["pictures, regions, all guided"] = out["pictures, regions"] | ALL_GUIDED
    return out


def shown(who: int) -> list[tuple[int, ...]]:
    """Characters of each panel, from left to right: each alone, all, and all with the last one first.

    >>> shown(2)
    [(0,), (1,), (0, 1), (1, 0)]
    """
    every = tuple(range(who))
    return [*((k,) for k in every), every, every[-1:] + every[:-1]]


def characters(i: int, who: int) -> list[world.Character]:
    """Those of the i-th story: of different species, without a look in common, and never trained on."""
    rng, found = random.Random(f"together/who/{who}/{i}"), []
    for species in rng.sample(world.SPECIES, who):
        while True:
            one = world.Character.random(rng, species=species)
            if world.withheld(one) and all(
                getattr(one, k) != getattr(other, k) for k in FREE for other in found
            ):
                break
        found.append(one)
    return found


def story_of(i: int, who: int, mark=""):
    """The i-th story: list of Panel, and of each panel (actions from left to right, scene).

    ``mark``: what stands behind each noun, such as ``" img"``.
    """
    rng, cast = random.Random(f"together/{who}/{i}"), characters(i, who)
    phrases = [world.article(c.species) + mark for c in cast]
    panels, told = [], []
    for present, scene in zip(shown(who), rng.sample(tuple(world.SCENES), who + 2), strict=True):
        actions = rng.sample(tuple(world.ACTIONS), len(present))
        parts = [f"{phrases[k]} {world.ACTIONS[a]}" for k, a in zip(present, actions, strict=True)]
        text = f"{' and '.join(parts)} {world.SCENES[scene]}"
        described = tuple(phrases[k] for k in present) if len(present) > 1 else ()
        panels.append(Panel(text, characters=tuple("ABC"[k] for k in present), described=described))
        told.append((actions, scene))
    return panels, told


def albums(i: int, who: int) -> dict[str, list]:
    """Reference pictures of each character of the i-th story, by its name."""
    rng, size = random.Random(f"together/pictures/{who}/{i}"), weights.picture_size()
    return {
        name: [world.render(p, size) for p in world.random_strip(rng, REFERENCES, character)]
        for name, character in zip("ABC", characters(i, who), strict=False)
    }


def parts_of(images, who: int):
    """The part of each character of pictures [B, 3, S, S] of several, from left to right: `cast.crops`."""
    return crops(images, [(k + 0.5) / who for k in range(who)])


def draw(pipe, setting: dict, i: int, **call):
    """The i-th story under a setting, as `StoryOutput`; ``call``: more arguments of the pipeline's call."""
    how = {"num_inference_steps": STEPS, "seed": i} | call
    how |= {k: v for k, v in setting.items() if k not in ("who", "pictures", "lora")}
    mark = ""
    if setting.get("pictures"):
        pipe.load_identity("micro", lora=setting.get("lora", True))
        how["id_images"], mark = albums(i, setting["who"]), " img"
    with warnings.catch_warnings():  # by words one of two is drawn after its pictures, which is measured here
        warnings.filterwarnings("ignore", "Panel . shows .* who all have pictures")
        return pipe(story_of(i, setting["who"], mark)[0], **how)


def sorted_out(parts, species):
    """What was read from left to right, in the order of ``species`` where just these were read."""
    read = [part["species"] for part in parts]
    return [parts[read.index(s)] for s in species] if sorted(read) == sorted(species) else parts


def measure_together(pipe, judge, setting, numbers, defects=None, **call):
    """One row per story number: what stands at the top of this file."""
    rows, who = [], setting["who"]
    for i in numbers:
        start, (panels, told), cast = clock(pipe.device), story_of(i, who), characters(i, who)
        images = draw(pipe, setting, i, output_type="pt", **call).images
        seconds, layout = clock(pipe.device) - start, shown(who)
        names, read = reading(judge, images, ("species", "action", "scene"))
        parts = zip(*(judge.names(part) for part in parts_of(images[who:], who)), strict=True)
        looks = [[names[k]] for k in range(who)]  # of each character, panel by panel
        found = {k: [] for k in ("all", "place", "action", "scene", "leak")}
        for j, part in enumerate(parts, who):
            actions, scene = told[j]
            species = [cast[k].species for k in layout[j]]
            found["place"].append([one["species"] for one in part] == species)
            part = sorted_out(part, species)
            found["all"].append([one["species"] for one in part] == species)
            found["action"] += [one["action"] == a for one, a in zip(part, actions, strict=True)]
            found["scene"].append(names[j]["scene"] == scene)
            found["leak"].append(mean_agreement(combinations(part, 2))["mean"])
            for k, one in zip(layout[j], part, strict=True):
                looks[k].append(one)
        found["self"] = [mean_agreement(combinations(own, 2))["mean"] for own in looks]
        found["chance"] = [mean_agreement(combinations([own[0] for own in looks], 2))["mean"]]
        found["one"] = [
            names[k][what] == value
            for k in range(who)
            for what, value in (
                ("species", cast[k].species),
                ("action", told[k][0][0]),
                ("scene", told[k][1]),
            )
        ]
        seen = [(k, one) for k, own in enumerate(looks) for one in own[1:]]
        found["alone"] = [own[0][a] == getattr(cast[k], a) for k, own in enumerate(looks) for a in FREE]
        found["right"] = [one[a] == getattr(cast[k], a) for k, one in seen for a in FREE]
        others = [[c for c in cast if c is not cast[k]] for k in range(who)]
        found["exchanged"] = [one[a] in [getattr(c, a) for c in others[k]] for k, one in seen for a in FREE]
        row = {"seed": i, "seconds": round(seconds, 3)} | read
        row |= {k: {"mean": round(sum(v) / len(v), 4)} for k, v in found.items()}
        rows.append(
            row | clean_panels(defects, images, [panel.prompt.replace(" img", "") for panel in panels])
        )
    return rows


def reading_parts(judge, pictures=200):
    """How well the judge reads such parts: ``{"2": {attribute: share of right answers}, "3": ...}``."""
    found = {}
    for who in (2, 3):
        rng, drawn = random.Random(f"together/parts/{who}"), []
        for _ in range(pictures):
            cast = [world.Character.random(rng, species=s) for s in rng.sample(world.SPECIES, who)]
            drawn.append(world.random_group(rng, cast))
        images = torch.stack([torch.tensor(rendered(p, weights.picture_size())) / 255 for p in drawn])
        right = dict.fromkeys(("species", "action", *FREE), 0)
        for k, part in enumerate(parts_of(images, who)):
            for picture, read in zip(drawn, judge.names(part), strict=True):
                truth = world.labels(picture, k)
                for name in right:
                    right[name] += read[name] == truth[name]
        found[str(who)] = {name: round(n / (who * pictures), 4) for name, n in right.items()}
    return found


EXPERIMENT = story_experiment(
    "together",
    together_settings,
    measure_together,
    KINDS,
    panels="each alone, and all twice",
    also=("identity",),
    summarize=with_seconds,
    then=lambda pipe, judge, stories: {"crops": reading_parts(judge)},
    stories=20,
    golden=("three, regions", "pictures, words", "pictures, regions"),
)
