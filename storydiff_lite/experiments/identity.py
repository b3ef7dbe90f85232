"""Is it the character of the reference pictures? One picture of each of many unseen people (chapter 03)."""

from __future__ import annotations

import random

from .. import world
from ..judge import FREE, StoryJudge, faithfulness
from ..pipeline import StoryPipeline
from ..training.identity import withheld
from .records import Experiment, header, short, sweep

KINDS = ("agreement", "other", "fidelity")
STEPS = 15  # denoising steps of a picture


def people(n: int = 100) -> list[list[world.Picture]]:
    """Albums of ``n`` characters that the identity encoder never saw: four pictures to refer to, and a fifth
    whose action and scene the prompt names.
    """
    found, i = [], 0
    while len(found) < n:
        rng = random.Random(f"person/{i}")
        who, i = world.Character.random(rng), i + 1
        if withheld(who):
            found.append(world.random_strip(rng, 5, who))
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


def measure_identity(pipe, judge, albums, references, others=0, size=64, batch_size=16, **settings):
    """One row per identity: agreement of the free attributes with the character of the reference pictures.

    Parameters
    ----------
    albums : list of lists of five pictures
        As of `people`.
    references : int
        Pictures of the character that are given, 0 to 4 (0: the prompt alone).
    others : int
        How many of these are, instead, of the next character of another species.
    **settings
        Of the pipeline call.

    Returns
    -------
    list of dict
        ``agreement`` with the character of the (first) pictures, ``other``: with the one of the others,
        ``fidelity`` to the prompt.
    """
    stories, images, first, second = [], [], [], []
    for i, album in enumerate(albums):
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
    told = pipe.tell_many(
        stories,
        range(len(stories)),
        batch_size=batch_size,
        id_images=images,
        consistency=0,
        output_type="pt",
        **settings,
    )
    rows = []
    for i, story_ in enumerate(told):
        read = judge.names(story_.images)[0]
        pairs = (("agreement", first[i]), ("other", second[i]))
        row = {what: {k: float(read[k] == truth[k]) for k in FREE} for what, truth in pairs}
        for d in row.values():
            d["mean"] = sum(d.values()) / len(d)
        row["fidelity"] = faithfulness([read], [stories[i][0].replace(" img", "")])
        rows.append({"seed": i} | {k: short(v) for k, v in row.items()})
    return rows


def identity(stories=100, device="cpu", only=None):
    """One picture of each of many unseen identities under every setting of `identity_settings`."""
    pipe = StoryPipeline.from_pretrained("micro").to(device).load_identity("micro")
    pipe.set_progress_bar_config(disable=True)
    judge, albums = StoryJudge.load(device=device), people(stories)
    record = header("identity", stories, 1, steps=STEPS) | EXPERIMENT.fingerprint()

    def rows_of(setting):
        setting = dict(setting)
        pipe.load_identity("micro", lora=setting.pop("lora", True))
        return measure_identity(pipe, judge, albums, num_inference_steps=STEPS, **setting)

    return sweep(record, identity_settings(), rows_of, KINDS, only)


EXPERIMENT = Experiment(
    identity,
    ("identity.py", "tokens.py", "guidance.py", "pipeline.py", "judge.py"),
    (people, identity_settings, measure_identity),
    ("micro", "judge", "identity"),
)
