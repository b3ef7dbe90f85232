"""The paper's Table 1 at this scale: no sharing, consistent self-attention, ID fusion, both (chapter 05).

A hundred stories of four panels in 15 steps.  Where reference pictures are given, they are four pictures of a
character of the story's species that the identity encoder never saw.

The two similarities of the paper are taken with this repository's own small CLIP, so they say nothing about
the paper's numbers: *micro-CLIP text* is the cosine between a picture and its prompt, *micro-CLIP character*
between two panels of a story.  (The paper cuts the character out before it compares; here the whole panel is
compared, scene and all.)
"""

from __future__ import annotations

import random
from itertools import combinations

import torch
import torch.nn.functional as F

from .. import world
from ..judge import FREE, StoryJudge, faithfulness
from ..judge import agreement as agreement_of
from ..pipeline import StoryPipeline
from ..training.identity import with_trigger, withheld
from .consistency import story
from .records import Experiment, header, short, sweep
from .sharing import STEPS

KINDS = ("agreement", "fidelity", "identity", "micro_clip_text", "micro_clip_character")

#: the paper's Table 1: text-image and character similarity, by CLIP
PAPER = {"IP-Adapter": (0.6129, 0.8802), "PhotoMaker": (0.6541, 0.8924), "StoryDiffusion": (0.6586, 0.8950)}


def references(i: int, n: int = 4) -> list[world.Picture]:
    """Pictures of a character that nothing was trained on, of the species of the i-th story."""
    rng = random.Random(f"references/{i}")
    while True:
        who = world.Character.random(rng, species=world.SPECIES[i % len(world.SPECIES)])
        if withheld(who):
            return world.random_strip(rng, n, who)


def comparison_settings() -> dict[str, dict]:
    """Name -> whether there are reference pictures, and the rate."""
    return {
        "no sharing": {"references": 0, "consistency": 0},
        "consistent self-attention": {"references": 0, "consistency": 0.5},
        "ID fusion": {"references": 4, "consistency": 0},
        "both": {"references": 4, "consistency": 0.5},
    }


@torch.no_grad()
def micro_clip(pipe, images, prompts):
    """Mean cosine of pictures [F, 3, H, W] in 0..1 with their prompts, and of pictures with each other."""
    ids = pipe.tokenizer_2(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    text = F.normalize(pipe.text_encoder_2(ids.to(pipe.device)).text_embeds, dim=-1)  # [F, P]
    seen = F.normalize(pipe.image_encoder(images.to(pipe.device) * 2 - 1).image_embeds, dim=-1)  # [F, P]
    pairs = [float(seen[i] @ seen[j]) for i, j in combinations(range(len(seen)), 2)]
    return float((text * seen).sum(-1).mean()), sum(pairs) / len(pairs)


def measure_comparison(pipe, judge, setting, numbers, batch_size=4, **call):
    """One row per story number."""
    told = [story(i) for i in numbers]
    albums = [references(i) for i in numbers]
    n, images = setting["references"], None
    if n:
        told = [[with_trigger(p) for p in s] for s in told]
        size = pipe.unet.config.sample_size * pipe.vae_scale_factor
        images = [[world.render(p, size) for p in album[:n]] for album in albums]
    call = {"num_inference_steps": STEPS, "output_type": "pt", "batch_size": batch_size} | call
    drawn = pipe.tell_many(told, numbers, id_images=images, consistency=setting["consistency"], **call)
    rows = []
    for i, album, output in zip(numbers, albums, drawn, strict=True):
        names, truth, prompts = judge.names(output.images), world.labels(album[0]), story(i)
        text, character = micro_clip(pipe, output.images, prompts)
        identity = {k: sum(r[k] == truth[k] for r in names) / len(names) for k in FREE}
        rows.append(
            {
                "seed": i,
                "agreement": short(agreement_of(names, FREE)),
                "fidelity": short(faithfulness(names, prompts)),
                "identity": short(identity | {"mean": sum(identity.values()) / len(identity)}),
                "micro_clip_text": short({"mean": text}),
                "micro_clip_character": short({"mean": character}),
            }
        )
    return rows


def comparison(stories=100, device="cpu", only=None):
    """Every setting of `comparison_settings`, the same stories, seeds and references in each."""
    pipe = StoryPipeline.from_pretrained("micro").to(device).load_identity("micro")
    pipe.set_progress_bar_config(disable=True)
    judge = StoryJudge.load(device=device)
    record = header("comparison", stories, 4, steps=STEPS) | EXPERIMENT.fingerprint()

    def rows_of(setting):
        return measure_comparison(pipe, judge, setting, range(stories))

    return sweep(record, comparison_settings(), rows_of, KINDS, only)


EXPERIMENT = Experiment(
    comparison,
    ("attention.py", "identity.py", "tokens.py", "guidance.py", "pipeline.py", "judge.py"),
    (story, references, comparison_settings, micro_clip, measure_comparison),
    ("micro", "judge", "identity"),
)
