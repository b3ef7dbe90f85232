"""Is it the character of the reference pictures? One picture of each of many unseen people (chapter 03)."""

from __future__ import annotations

import random

from .. import weights, world
from ..judge import FREE, faithfulness
from .consistency import STEPS, story_experiment
from .records import clean_panels, reading, short

KINDS = ("agreement", "other", "fidelity", "clean")


def people(n: int = 100) -> list[list[world.Picture]]:
    """Albums of ``n`` characters that the identity encoder never saw: four pictures to refer to, and a fifth
    whose action and scene the prompt names.
    """
    found, i = [], 0
    while len(found) < n:
        rng = random.Random(f"person/{i}")
        character, i = world.Character.random(rng), i + 1
        if world.withheld(character):
            found.append(world.random_strip(rng, 5, character))
    return found


def identity_settings() -> dict[str, dict]:
    """Name -> number of reference pictures, whose they are, when they come in, and who reads them."""
    out = {"text only": {"references": 0}}
    out |= {f"{n} picture{'s' * (n > 1)}": {"references": n} for n in (1, 2, 4)}
    for share in (0.0, 0.4, 0.6, 0.8):  # 0.2 is the default, and stands above
        out[f"4 pictures, after {share:.0%}"] = {"references": 4, "start_merge_step": share}
    out["4 pictures, LoRA switched off"] = {"references": 4, "lora": False}
    out["2 pictures of each of two"] = {"references": 4, "others": 2}
    out["4 pictures of another species"] = {"references": 4, "others": 4}
    return out


def measure_identity(
    pipe,
    judge,
    albums,
    references,
    others=0,
    size=None,
    batch_size=16,
    numbers=None,
    defects=None,
    **settings,
):
    """One row per identity: agreement of the free attributes with the character of the reference pictures.

    Parameters
    ----------
    albums : list of lists of five pictures
        As of `people`.
    references : int
        Pictures of the character that are given, 0 to 4 (0: the prompt alone).
    others : int
        How many of these are, instead, of the next character of another species.
    numbers : sequence of int, optional
        Which of the albums are measured; all by default.
    size : int, optional
        Pixels of the reference pictures; those of the micro model's own by default.
    defects : DefectJudge, optional
        Puts into each row whether its picture is clean, as ``"clean": {"mean": 0 or 1}``.
    **settings
        Of the pipeline call.

    Returns
    -------
    list of dict
        ``agreement`` with the character of the (first) pictures, ``other``: with the one of the others,
        ``fidelity`` to the prompt, and `reading`.
    """
    numbers = range(len(albums)) if numbers is None else numbers
    stories, images, first, second = [], [], [], []
    size = size or weights.picture_size()
    for i in numbers:
        album = albums[i]
        own, target = album[0].actors[0].character, album[4].actors[0]
        after = albums[i + 1 :] + albums[:i]
        other = next((a for a in after if a[0].actors[0].character.species != own.species), album)
        mark = " img" if references else ""
        stories.append(
            [f"a {own.species}{mark} {world.ACTIONS[target.action]} {world.SCENES[album[4].scene]}"]
        )
        shown = album[: references - others] + other[:others]
        images.append([world.render(p, size) for p in shown] or None)
        first.append(world.labels(shown[0] if shown else album[0]))
        second.append(world.labels(other[0]))
    how = {"batch_size": batch_size, "consistency": 0, "output_type": "pt"} | settings
    outputs = pipe.tell_many(stories, list(numbers), id_images=images, **how)
    rows = []
    for i, output, prompts, one, another in zip(numbers, outputs, stories, first, second, strict=True):
        (read,), about = reading(judge, output.images)
        pairs = (("agreement", one), ("other", another))
        row = {what: {k: float(read[k] == truth[k]) for k in FREE} for what, truth in pairs}
        for d in row.values():
            d["mean"] = sum(d.values()) / len(d)
        named = [prompts[0].replace(" img", "")]
        row |= {"fidelity": faithfulness([read], named)} | clean_panels(defects, output.images, named)
        rows.append({"seed": i} | {k: short(v) for k, v in row.items()} | about)
    return rows


def rows(pipe, judge, setting, seeds, **more):
    """`measure_identity` of these people."""
    setting = {"num_inference_steps": STEPS, "numbers": seeds} | setting
    pipe.load_identity("micro", lora=setting.pop("lora", True))
    return measure_identity(pipe, judge, people(EXPERIMENT.stories), **setting, **more)


EXPERIMENT = story_experiment(
    "identity",
    identity_settings,
    rows,
    KINDS,
    panels=1,
    also=("identity",),
    stories=48,
    golden=("4 pictures", "4 pictures, LoRA switched off", "2 pictures of each of two"),
)
