"""Three in one panel; and two in one panel, each after its own pictures (chapter 10).

Stories as in the record of regions, with looks that only pictures tell, measured as there
(`regions.read_together`).  In this record *both* is *all*, and *named* is *right*: without pictures that is
what chance makes.  *alone* is the same in panels of one.

``crops`` of the record: how well the judge reads such parts of true pictures.
"""

from __future__ import annotations

import random
import warnings

from .. import weights, world
from .cast import reading_crops, story_of
from .consistency import ALL_GUIDED, STEPS, story_experiment
from .neighbours import with_seconds
from .regions import measure_together, shown, unlike

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


def characters(i: int, who: int) -> list[world.Character]:
    """Those of the i-th story, never trained on."""
    return unlike(random.Random(f"together/who/{who}/{i}"), who, world.withheld)


def story(i: int, who: int, mark=""):
    """The i-th story, as of `story_of`; ``mark``: what stands behind each noun, such as ``" img"``."""
    phrases = [world.article(c.species) + mark for c in characters(i, who)]
    return story_of(random.Random(f"together/{who}/{i}"), phrases, shown(who), described=True)


def albums(i: int, who: int) -> dict[str, list]:
    """Reference pictures of each character of the i-th story, by its name."""
    rng, size = random.Random(f"together/pictures/{who}/{i}"), weights.picture_size()
    return {
        name: [world.render(p, size) for p in world.random_strip(rng, REFERENCES, character)]
        for name, character in zip("ABC", characters(i, who), strict=False)
    }


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
        return pipe(story(i, setting["who"], mark)[0], **how)


def measure_several(pipe, judge, setting, numbers, **more):
    """One row per story number."""

    def what(i, setting):
        return characters(i, setting["who"]), *story(i, setting["who"])

    rows = measure_together(draw, what, pipe, judge, setting, numbers, **more)
    return [row | {"all": row["both"], "right": row["named"]} for row in rows]


EXPERIMENT = story_experiment(
    "together",
    together_settings,
    measure_several,
    KINDS,
    panels="each alone, and all twice",
    also=("identity",),
    summarize=with_seconds,
    then=lambda pipe, judge, stories: {
        "crops": {str(n): reading_crops(judge, random.Random(f"together/parts/{n}"), n) for n in (2, 3)}
    },
    stories=20,
    golden=("three, regions", "pictures, words", "pictures, regions"),
)
