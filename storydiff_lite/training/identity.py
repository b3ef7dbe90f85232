"""The identity encoder: pictures of a character in, the same character in another scene and action out.

As PhotoMaker (Li et al. 2312.04461, section 3.2 and 4.1): the U-Net and the text encoders stay as they are;
the image encoder, its two projections and the fuse module learn by the denoising loss of the whole pipeline.
The prompt names the species, the action and the scene, so that everything else can come from the pictures
alone.  Deviations: all of the small image encoder is trained, not its last layers; one to four reference
pictures a step instead of all there are; no LoRA on the U-Net.

A fifth of all characters (`withheld`) never comes up here: measurements are taken on those.
"""

from __future__ import annotations

import random
import zlib

import torch
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPVisionConfig

from .. import world
from ..identity import IDEncoder
from ..tokens import MAX_LENGTH, TRIGGER_ID, expand_class_token, load_tokenizer
from . import data
from .common import Run
from .unet import EVERY, importances, latent_pool, losses_at, noise_schedule, time_ids, velocity_loss


def withheld(character: world.Character) -> bool:
    """Whether a character is kept for measurements."""
    return zlib.crc32(repr(character).encode()) % 5 == 0


def build(vision, widths=(32, 64)) -> IDEncoder:
    """An `IDEncoder` that begins with a trained CLIP image encoder, its projections and fusion new."""
    config = CLIPVisionConfig(**vision.config.to_dict())
    config.projection_dim, config.projection_dim_2 = widths
    encoder = IDEncoder(config).float()
    encoder.vision_model.load_state_dict(vision.vision_model.state_dict())
    return encoder


def with_trigger(caption: str, trigger_word="img") -> str:
    """``"a bear walking"`` -> ``"a bear img walking"``.

    >>> with_trigger("a bear walking in the forest")
    'a bear img walking in the forest'
    """
    species = world.mentioned(caption)["species"]
    return caption.replace(species, f"{species} {trigger_word}", 1)


class IdentityPrompts:
    """Captions with a trigger word -> (states [B, 77, D], class_tokens_mask [B, 77], pooled [B, P])."""

    def __init__(self, prompts):
        self.prompts, self.words = prompts, load_tokenizer()

    @torch.no_grad()
    def __call__(self, captions, n):
        states, mask = [], []
        for encoder, tokenizer in zip(self.prompts.encoders, self.prompts.tokenizers, strict=True):
            pad = tokenizer.pad_token_id
            rows = [
                expand_class_token(ids, TRIGGER_ID, n, MAX_LENGTH, pad)
                for ids in self.words(captions, verbose=False).input_ids
            ]
            ids, mask = (torch.tensor(x, device=self.prompts.device) for x in zip(*rows, strict=True))
            out = encoder(ids, output_hidden_states=True)
            states.append(out.hidden_states[-2])
        return torch.cat(states, -1), mask, out.text_embeds


def albums(split, n, size, folder):
    """Albums of five pictures of one character (none withheld), and their pixels [n, 5, 3, size, size]."""
    samples, pixels = data.pool(split, n, size, {"album": 1}, folder)
    keep = [i for i, s in enumerate(samples) if not withheld(s[0].actors[0].character)]
    return [samples[i] for i in keep], pixels.unflatten(0, (n, 5))[keep]


def train(
    vae,
    prompts,
    vision,
    unet,
    scale,
    steps=1500,
    batch=24,
    size=64,
    seed=0,
    device="cpu",
    pictures=4000,
    folder="checkpoints",
):
    """Train, and return ``(encoder, run)``.

    ``vision`` is the CLIP image encoder to begin with; ``pictures`` counts albums of five.
    """
    torch.manual_seed(seed)
    widths = tuple(e.config.hidden_size for e in prompts.encoders)
    encoder = build(vision, widths).to(device)
    run = Run("identity", encoder, steps, lr=1e-3, muon_lr=0.005, ema=0.99, seed=seed, folder=folder)
    unet = unet.to(device).eval().requires_grad_(False)
    unet.set_attn_processor(AttnProcessor())  # faster in the backward pass on CPUs
    samples, pixels = albums("train", pictures, size, folder)
    flat = pixels.flatten(0, 1)
    latents = latent_pool(vae.to(device), samples, flat, device, folder)[0].unflatten(0, (len(samples), 5))
    weight = importances(samples, folder).unflatten(0, (len(samples), 5))
    schedule, tell = noise_schedule(), IdentityPrompts(prompts)
    schedule.alphas_cumprod = schedule.alphas_cumprod.to(device)
    ids = torch.tensor([time_ids(size, size)] * batch, dtype=torch.float32, device=device)
    for i in run.steps():
        rng = random.Random(f"identity/{seed}/{i}")
        some, n = rng.choices(range(len(samples)), k=batch), rng.randint(1, 4)
        order = [rng.sample(range(5), n + 1) for _ in some]  # the picture to draw, and its references
        target = [o[0] for o in order]
        refs = torch.stack([pixels[j, o[1:]] for j, o in zip(some, order, strict=True)])  # [B, n, 3, S, S]
        captions = [
            with_trigger(world.caption(samples[j][k], rng, frozenset()))
            for j, k in zip(some, target, strict=True)
        ]
        states, mask, pooled = tell(captions, n)
        fused = encoder(data.to_float(refs).to(device), states, mask)
        loss = velocity_loss(
            unet,
            schedule,
            (latents[some, target].float() * scale).to(device),
            fused,
            pooled,
            ids,
            device,
            late=True,
            weight=weight[some, target].float().to(device),
        )
        run.update(loss, i)
    return run.averaged().eval(), run


@torch.no_grad()
def measure(encoder, vae, prompts, unet, scale, size=64, device="cpu", n=128, times=(600, 800, 950)):
    """Held-out velocity loss on withheld characters, by what the U-Net is told.

    ``{"text only" | "1 picture" | "4 pictures" | "all in words": {time: loss}}``: the last names every
    attribute in the caption, which pictures cannot be expected to beat by much.
    """
    rng, tell = random.Random("measure"), IdentityPrompts(prompts)
    some = []
    for i in range(100 * n):
        if withheld((album := data.specimen("heldout", i, {"album": 1}))[0].actors[0].character):
            some.append(album)
        if len(some) == n:
            break
    drawn = torch.from_numpy(data.np.stack([data.draw(p, size) for album in some for p in album]))
    pixels = data.to_float(drawn).unflatten(0, (n, 5))  # [n, 5, 3, S, S]
    x = torch.cat([vae.encode(p.to(device)).latent_dist.mode() for p in pixels[:, 0].split(32)]) * scale
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(device)
    plain = [world.caption(album[0], rng, frozenset()) for album in some]
    told = {
        "text only": prompts(plain),
        "all in words": prompts([world.caption(album[0], rng, EVERY) for album in some]),
    }
    for k, name in ((1, "1 picture"), (4, "4 pictures")):
        states, mask, pooled = tell([with_trigger(c) for c in plain], k)
        told[name] = encoder(pixels[:, 1 : 1 + k].to(device), states, mask), pooled
    return {name: losses_at(unet, x, noise, *said, size, times) for name, said in told.items()}
