"""The encoders: two CLIP text encoders and one CLIP image encoder, trained contrastively (2103.00020).

As in SDXL the two text encoders differ in width, the second has a projection, and a U-Net reads the
penultimate hidden states of both, concatenated on the feature axis. Deviations: both learn against the
same image encoder in one run (the first through a linear head that is thrown away afterwards); linear
heads, thrown away too, name the attributes from all three embeddings, because contrast alone found 99% of
the captions by their colours and scenes and put bear, cat and rabbit on one point; rows of the token
embedding that no caption ever used are zero, so that a word this world does not know says nothing instead
of noise; captions are cut to 48 tokens in training (none of StoryWorld's is longer), so the position
embeddings behind that are zero too.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from .. import world
from ..prompts import PromptEncoder
from ..tokens import load_tokenizer
from . import data
from .common import Run, autocast

ENCODERS = ("text_encoder", "text_encoder_2")
WIDTH = (32, 64)  # of these
PROJECTION = 64
LENGTH = 48  # of a caption in training
#: on CPUs the fused attention kernel is slow in its bfloat16 backward pass
COMMON = {"num_attention_heads": 4, "hidden_act": "gelu", "attn_implementation": "eager"}
COMMON["projection_dim"] = PROJECTION


def text_config(width: int, pad_id: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=3,
        max_position_embeddings=77,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=pad_id,
        **COMMON,
    )


class Encoders(nn.Module):
    """Image encoder, two text encoders and what contrastive training needs besides.

    ``image(pixels[B, 3, S, S]) -> [B, 64]``, ``text(ids1[B, 77], ids2[B, 77]) -> ([B, 64], [B, 64])``.
    """

    def __init__(self, size=64):
        super().__init__()
        shape = {"image_size": size, "patch_size": size // 8, "hidden_size": 96, "intermediate_size": 384}
        self.vision = CLIPVisionModelWithProjection(CLIPVisionConfig(num_hidden_layers=4, **shape, **COMMON))
        self.text_1 = CLIPTextModel(text_config(WIDTH[0], 49407))
        self.text_2 = CLIPTextModelWithProjection(text_config(WIDTH[1], 0))
        self.head_1 = nn.Linear(WIDTH[0], PROJECTION, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.6))
        self.name_heads = nn.ModuleDict(
            {n: nn.Linear(PROJECTION, len(c)) for n, c in world.ATTRIBUTES.items()}
        )

    def image(self, pixels):
        return F.normalize(self.vision(pixel_values=pixels).image_embeds.float(), dim=-1)

    def text(self, ids1, ids2):
        one = self.head_1(self.text_1(input_ids=ids1).pooler_output)
        two = self.text_2(input_ids=ids2).text_embeds
        return F.normalize(one.float(), dim=-1), F.normalize(two.float(), dim=-1)


def positions(encoder):
    """The position embedding of a CLIP text encoder."""
    return next(m for n, m in encoder.named_modules() if n.endswith("position_embedding"))


def captions(samples, rng, rich=0.75):
    """A caption for each sample (one picture, or those of a strip); names most attributes."""
    out = []
    for s in samples:
        mention = {n for n in ("fur", "skin", "outfit", "accessory") if rng.random() < rich}
        mention |= {"accessory_colour"} if "accessory" in mention else set()
        out.append(world.caption(s[0], rng, mention))
    return out


def tokenizers():
    """Those of the two text encoders, whose paddings differ."""
    return load_tokenizer(), load_tokenizer(pad_token="!")


def prompt_encoder(net, device="cpu"):
    """What encodes text with `Encoders`, or with the packed ones."""
    return PromptEncoder(net.text_1.to(device).eval(), net.text_2.to(device).eval(), *tokenizers())


def known_rows(tokenizer, n=4000):
    """Ids of every token that a caption of StoryWorld uses."""
    rng, seen = random.Random("words"), {0, 49406, 49407}
    for i in range(n):
        mix = {"single": 1, "twins": 1, "pair": 1, "empty": 1, "strip": 1}
        s = world.sample_pictures("train", i, mix)
        texts = [world.caption(s[0], rng)]
        if s[0].actors:
            texts.append(world.strip_caption(s, rng))
        for t in texts:
            seen.update(tokenizer(t).input_ids)
    return sorted(seen)


def contrast(a, b, scale):
    """The symmetric InfoNCE loss of CLIP; a, b [B, D] of unit length."""
    logits = scale * a @ b.T  # [B, B]
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def truths(samples, texts=None):
    """Classes of the attributes, ``{name: [B]}``; -100 (ignored) for crowds, and for what ``texts`` leave
    out.
    """
    out = {n: torch.full((len(samples),), -100) for n in world.ATTRIBUTES}
    for i, s in enumerate(samples):
        if len(s) == 1 and len(s[0].actors) == 1:
            labels = world.labels(s[0]) if texts is None else world.mentioned(texts[i])
            for n, v in labels.items():
                out[n][i] = world.ATTRIBUTES[n].index(v)
    return out


def naming(heads, embeddings, truth):
    """Mean cross-entropy of naming the attributes from unit embeddings [B, D]."""
    losses = [
        F.cross_entropy(10 * head(embeddings), truth[n].to(embeddings.device))
        for n, head in heads.items()
        if (truth[n] >= 0).any()
    ]
    return torch.stack(losses).mean()


#: two captions that differ in one word say something different: pairs of these are compared
SENTENCE = {
    "species": ("a {} walking in the forest", world.SPECIES),
    "fur": ("a {} bear walking in the forest", tuple(world.FUR)),
    "outfit": ("a bear in a {} outfit walking in the forest", tuple(world.OUTFIT)),
    "accessory": ("a bear in a {} walking in the forest", world.ACCESSORY),
    "action": ("a bear {} in the forest", tuple(world.ACTIONS.values())),
    "scene": ("a bear walking {}", tuple(world.SCENES.values())),
}


@torch.no_grad()
def separations(prompts):
    """How far apart the closest two words of each attribute are, as a part of the states' size.

    ``prompts(texts) -> (states [B, 77, C], pooled [B, D])``; the result is ``{attribute: (states,
    pooled)}``: the smallest distance of two captions that differ in that word alone, over the mean length
    of a token's state (of the pooled vector).  The distance between states is the largest of any token.
    """
    out = {}
    for name, (sentence, words) in SENTENCE.items():
        states, pooled = prompts([sentence.format(w) for w in words])
        apart = torch.triu(torch.ones(len(words), len(words), dtype=torch.bool), 1)
        far = (states[:, None] - states[None]).norm(dim=-1).amax(-1)[apart].min() / states.norm(dim=-1).mean()
        pool = torch.cdist(pooled, pooled)[apart].min() / pooled.norm(dim=-1).mean()
        out[name] = float(far), float(pool)
    return out


@torch.no_grad()
def measure(net, n=512, split="heldout"):
    """Which part of ``n`` held-out pictures finds its own full caption among 64, and `separations`."""
    samples, pixels = data.pool(split, n, net.vision.config.image_size)
    rng = random.Random("measure")
    texts = captions(samples, rng, rich=1.1)
    device = net.vision.device
    hits, prompts = torch.zeros(2), prompt_encoder(net, device)
    for i in range(0, n, 64):
        im = net.image(data.to_float(pixels[i : i + 64]).to(device))
        for j, t in enumerate(net.text(*prompts.ids(texts[i : i + 64]).to(device).unbind(1))):
            hits[j] += (im @ t.T).argmax(1).eq(torch.arange(len(im), device=device)).sum().cpu()
    return {
        "finds_its_caption_among_64": {k: float(h) / n for k, h in zip(ENCODERS, hits, strict=True)},
        "closest_words_of": {k: {"states": a, "pooled": b} for k, (a, b) in separations(prompts).items()},
    }


def train(steps=1600, batch=96, size=64, seed=0, device="cpu", pictures=12000, **run):
    """Train, and return ``(net, run)``; ``**run`` is of `Run`, such as its folder."""
    torch.manual_seed(seed)
    net = Encoders(size).to(device)
    prompts = PromptEncoder(net.text_1, net.text_2, *tokenizers())
    rows = torch.zeros(49408, 1)
    rows[known_rows(prompts.tokenizers[0])] = 1
    with torch.no_grad():
        for e in (net.text_1, net.text_2):
            e.get_input_embeddings().weight.mul_(rows.to(device))
            positions(e).weight[LENGTH:] = 0
    facts = {"data": f"{pictures:,} captioned pictures (seeds train/0 ...)", "batch": batch}
    run = Run("clip", net, steps, 4e-3, 0.006, seed=seed, cooldown=0.5, facts=facts, **run)
    mix = {"single": 0.8, "twins": 0.08, "pair": 0.1, "empty": 0.02}
    samples, pixels = data.pool("train", pictures, size, mix, run.folder)
    for i in run.steps():
        pick = torch.randint(len(samples), (batch,))
        rng = random.Random(f"captions/{seed}/{i}")
        drawn = [samples[j] for j in pick]
        texts = captions(drawn, rng)
        with autocast(device):
            im = net.image(data.to_float(pixels[pick]).to(device))
            t1, t2 = net.text(*prompts.ids(texts)[..., :LENGTH].to(device).unbind(1))
        scale = net.logit_scale.clamp(max=4.6).exp()
        loss = contrast(im, t1, scale) + contrast(im, t2, scale)
        shown, named = truths(drawn), truths(drawn, texts)
        loss = loss + naming(net.name_heads, im, shown)
        loss = loss + naming(net.name_heads, t1, named) + naming(net.name_heads, t2, named)
        hit = (im @ t2.T).argmax(1).eq(torch.arange(batch, device=device)).float().mean()
        run.update(loss, i, retrieval=hit)
    return run.averaged().eval(), run
