"""The paper's Table 1 at this scale: no sharing, consistent self-attention, ID fusion, both, and an
IP-Adapter (chapter 05).

Stories of four panels in 12 steps.  Where reference pictures are given, they are four pictures of a
character of the story's species that neither the identity encoder nor the adapter ever saw.  The IP-Adapter
is diffusers' own, driven by diffusers' own pipeline, from the same noise.

The two similarities of the paper are taken with this repository's own small CLIP, so they say nothing about
the paper's numbers: *micro-CLIP text* is the cosine between a picture and its prompt, *micro-CLIP character*
between two panels of a story.  (The paper cuts the character out before it compares; here the whole panel is
compared, scene and all.)
"""

from __future__ import annotations

import copy
import random
from itertools import combinations

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline

from .. import weights, world
from ..denoising import initial_noise
from ..guidance import guided_steps
from ..judge import FREE
from ..motion import fit_pixels
from ..training.identity import with_trigger
from .consistency import STEPS, story, story_experiment
from .records import judged, short

KINDS = ("agreement", "fidelity", "clean", "identity", "micro_clip_text", "micro_clip_character")

#: the paper's Table 1: text-image and character similarity, by CLIP
PAPER = {"IP-Adapter": (0.6129, 0.8802), "PhotoMaker": (0.6541, 0.8924), "StoryDiffusion": (0.6586, 0.8950)}


def references(i: int, n: int = 4) -> list[world.Picture]:
    """Pictures of a character that nothing was trained on, of the species of the i-th story."""
    rng = random.Random(f"references/{i}")
    character = world.random_character(rng, kept=True, species=world.SPECIES[i % len(world.SPECIES)])
    return world.random_strip(rng, n, character)


def comparison_settings() -> dict[str, dict]:
    """Name -> whether there are reference pictures, and the rate."""
    return {
        "no sharing": {"references": 0, "consistency": 0},
        "consistent self-attention": {"references": 0, "consistency": 0.5},
        "ID fusion": {"references": 4, "consistency": 0},
        "both": {"references": 4, "consistency": 0.5},
        "IP-Adapter": {"references": 4, "adapter": True},
    }


@torch.no_grad()
def micro_clip(pipe, images, prompts):
    """Mean cosine of pictures [F, 3, H, W] in 0..1 with their prompts, and of pictures with each other."""
    text = F.normalize(pipe.prompts(prompts)[1], dim=-1)  # [F, P]
    pixels = fit_pixels(pipe.image_encoder, images.to(pipe.device) * 2 - 1)
    seen = F.normalize(pipe.image_encoder(pixels).image_embeds, dim=-1)  # [F, P]
    pairs = [float(seen[i] @ seen[j]) for i, j in combinations(range(len(seen)), 2)]
    return float((text * seen).sum(-1).mean()), sum(pairs) / len(pairs)


def with_adapter(pipe):
    """diffusers' own pipeline on the same parts, a copy of the U-Net with the IP-Adapter in it."""
    parts = pipe.components | {"unet": copy.deepcopy(pipe.unet)}
    plain = StableDiffusionXLPipeline(
        **parts, force_zeros_for_empty_prompt=pipe.config.force_zeros_for_empty_prompt, add_watermarker=False
    )
    plain.load_ip_adapter(
        str(weights.path("ip_adapter")),
        subfolder="",
        weight_name="ip-adapter.safetensors",
        image_encoder_folder=None,
    )
    plain.set_progress_bar_config(disable=True)
    return plain.to(pipe.device)


def tell_with_adapter(
    pipe, plain, stories, seeds, images, num_inference_steps=STEPS, guidance_scale=5.0, **_
):
    """Pictures [F, 3, H, W] in 0..1 of each story, from the noise that ``pipe`` would begin with."""
    side = pipe.unet.config.sample_size
    limits = pipe.config.guidance_start, pipe.config.guidance_stop
    steps = guided_steps(num_inference_steps, *limits)

    def guided(step):
        """The scale after a step: as of ``pipe``; hardly any is none, and keeps both halves."""
        return guidance_scale if step + 1 in steps else 1 + 1e-6

    for prompts, seed, pictures in zip(stories, seeds, images, strict=True):
        noise, generator = initial_noise([seed], len(prompts), (4, side, side))
        yield plain(
            prompts,
            ip_adapter_image=[pictures],
            latents=noise.to(pipe.device),
            generator=generator,
            num_inference_steps=num_inference_steps,
            guidance_scale=guided(-1),
            callback_on_step_end=lambda plain, step, t, tensors: (
                setattr(plain, "_guidance_scale", guided(step)) or tensors
            ),
            output_type="pt",
        ).images


def measure_comparison(pipe, judge, setting, numbers, batch_size=1, defects=None, **call):
    """One row per story number; ``defects`` as of `measure`."""
    stories = [story(i) for i in numbers]
    albums = [references(i) for i in numbers]
    n, images, adapter = setting["references"], None, setting.get("adapter", False)
    if n:
        stories = stories if adapter else [[with_trigger(p) for p in s] for s in stories]
        size = pipe.unet.config.sample_size * pipe.vae_scale_factor
        images = [[world.render(p, size) for p in album[:n]] for album in albums]
    call = {"num_inference_steps": STEPS, "output_type": "pt", "batch_size": batch_size} | call
    if adapter:
        drawn = tell_with_adapter(pipe, with_adapter(pipe), stories, numbers, images, **call)
    else:
        call["consistency"] = setting["consistency"]
        drawn = (o.images for o in pipe.tell_many(stories, numbers, id_images=images, **call))
    rows = []
    for i, album, pictures in zip(numbers, albums, drawn, strict=True):
        truth, prompts = world.labels(album[0]), story(i)
        names, row = judged(judge, pictures, prompts, defects)
        text, character = micro_clip(pipe, pictures, prompts)
        identity = {k: sum(r[k] == truth[k] for r in names) / len(names) for k in FREE}
        row["identity"] = short(identity | {"mean": sum(identity.values()) / len(identity)})
        row |= {"micro_clip_text": short({"mean": text}), "micro_clip_character": short({"mean": character})}
        rows.append({"seed": i} | row)
    return rows


def rows(pipe, judge, setting, seeds, **more):
    """`measure_comparison` of these stories."""
    pipe.load_identity("micro")
    return measure_comparison(pipe, judge, setting, seeds, **more)


EXPERIMENT = story_experiment(
    "comparison",
    comparison_settings,
    rows,
    KINDS,
    also=("micro/image_encoder", "identity", "ip_adapter"),
    stories=16,
    golden=("both", "IP-Adapter"),
)
