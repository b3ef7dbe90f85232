"""The identity encoder: pictures of a character in, the same character in another scene and action out.

As PhotoMaker (Li et al. 2312.04461, section 3.2 and 4.1): the text encoders and the U-Net stay as they are;
the image encoder, its two projections, the fuse module and a LoRA on the U-Net's attention layers learn
together.

Deviations.  All of the small image encoder is trained, not its last layers; one to four reference pictures a
step instead of all there are.  The U-Net that reads everything in words is the teacher (`distillation`), and
the run has three parts, from cheap to dear:

1. *naming*: linear heads, thrown away afterwards, must name the attributes from each fused token;
2. *layers*: the queries of each cross-attention layer are recorded while the U-Net reads the teacher's words;
   for these queries the layer's output with the fused tokens must equal its output with the words
   (`AttentionDistillation`); no pass through the U-Net is needed;
3. *whole*: the whole U-Net must predict the true velocity, and what it predicts when it reads the words.

Some of the prompts name nobody and must be drawn as before, so that the LoRA changes nothing but what a fused
token says.
"""

from __future__ import annotations

import random
from itertools import islice

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn
from tqdm.auto import tqdm
from transformers import CLIPVisionConfig

from .. import world
from ..identity import IDEncoder
from ..motion import fit_pixels
from . import data
from .distillation import Distillation, losses, velocities, without_lora
from .unet import LOOKS, fastest_attention, losses_at, noise_schedule
from .vae import latents_of

#: attributes that a fused token must be able to name
NAMED = ("fur", "skin", "outfit", "accessory", "accessory_colour")


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


def fuse(encoder, prompts, captions, references, nobody=()):
    """What the U-Net reads of captions and of pictures uint8 [B, n, 3, S, S]: fused states [B, 77, D], where
    the class tokens are, bool [B, 77], and pooled text [B, P].  Prompts that name ``nobody`` come first, and
    stay as they are.
    """
    device = next(encoder.parameters()).device
    ids, mask = prompts.class_token_ids([with_trigger(c) for c in captions], references.shape[1])
    (states, pooled), mask = prompts.encode(ids), mask.to(device)
    if nobody:
        own_states, own_pooled = prompts(nobody)
        states, pooled = torch.cat([own_states, states]), torch.cat([own_pooled, pooled])
        mask = F.pad(mask, (0, 0, len(nobody), 0))  # [B, 77]
    return encoder(fit_pixels(encoder, data.to_float(references).to(device)), states, mask), mask, pooled


class Learner(nn.Module):
    """All that learns: the encoder, the LoRA's matrices (they live in the U-Net), and the heads."""

    def __init__(self, encoder, unet):
        super().__init__()
        self.encoder = encoder
        self.lora = nn.ParameterDict({n.replace(".", "/"): p for n, p in lora_of(unet).items()})
        width = encoder.fuse_module.layer_norm.normalized_shape[0]
        self.heads = nn.ModuleDict({k: nn.Linear(width, len(world.ATTRIBUTES[k])) for k in NAMED})

    def naming_loss(self, fused, mask, characters):
        """Cross-entropy of the attributes, read off every fused token [B, 77, D]."""
        row, place = mask.nonzero(as_tuple=True)
        tokens, losses = fused[row, place], []  # [T, D]
        for name, head in self.heads.items():
            classes = [world.ATTRIBUTES[name].index(getattr(c, name)) for c in characters]
            right = torch.tensor(classes, device=row.device)[row]
            if name == "skin":  # shows on people only
                person = torch.tensor([c.species in world.PEOPLE for c in characters], device=row.device)
                right = right.masked_fill(~person[row], -100)
            losses.append(F.cross_entropy(head(tokens).float(), right, ignore_index=-100, reduction="sum"))
        return sum(losses) / len(tokens) / len(losses)


def lora_of(unet):
    """The matrices of the LoRA, by name."""
    return {n: p for n, p in unet.named_parameters() if ".lora_" in n}


def add_lora(unet, rank):
    """A LoRA on every projection of every attention layer (PhotoMaker's rank is 64); nothing at rank 0."""
    unet.requires_grad_(False)
    if rank:
        layers = ["to_q", "to_k", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers))


def lora_state(unet):
    """The LoRA of a U-Net as diffusers saves it, or None."""
    return get_peft_model_state_dict(unet) if lora_of(unet) else None


class AttentionDistillation:
    """What the cross-attention layers give for words, at the queries of a U-Net that reads these words.

    Parameters
    ----------
    unet : UNet2DConditionModel
        Without its LoRA.
    x : Tensor [P, 4, h, w]
        Clean latents, scaled; each is denoised once, at a late time.
    words : callable
        ``words(rows) -> (states, pooled)`` of the prompts that name everything.
    plain : callable
        The same of prompts that name the species alone; how far the answers to these are from the words' sets
        the unit of each layer's loss.
    """

    def __init__(self, unet, x, words, plain, ids, batch=32):
        self.unet, device = unet, ids.device
        self.layers = [n for n, m in unet.named_modules() if n.endswith("attn2")]
        schedule, g = noise_schedule(), torch.Generator().manual_seed(0)
        queries, states = {n: [] for n in self.layers}, []
        hooks = [unet.get_submodule(n).register_forward_pre_hook(_keep(queries[n])) for n in self.layers]
        try:
            with torch.no_grad(), without_lora(unet):
                for rows in tqdm(torch.arange(len(x)).split(batch), desc="queries", mininterval=10):
                    t = torch.randint(0, 1000, (2, len(rows)), generator=g).amax(0)
                    noise = torch.randn(x[rows].shape, generator=g)
                    noisy = schedule.add_noise(x[rows].float(), noise, t).to(device)
                    prompt_embeds = words(rows.tolist())
                    velocities(unet, noisy, t.to(device), prompt_embeds, ids[:1].expand(len(rows), -1))
                    states.append(prompt_embeds[0].half().cpu())
        finally:
            for hook in hooks:
                hook.remove()
        self.queries = {n: torch.cat(queries[n]) for n in self.layers}  # each [P, tokens, C], half precision
        self.teacher_states, self.unit = torch.cat(states), {}  # [P, 77, D]
        rows = list(range(min(256, len(x))))
        with torch.no_grad(), without_lora(unet):
            for n in self.layers:
                layer, q = unet.get_submodule(n), self.queries[n][rows].float().to(device)
                answers = (
                    layer(q, y) for y in (self.teacher_states[rows].float().to(device), plain(rows)[0])
                )
                self.unit[n] = float((next(answers) - next(answers)).square().mean())

    @classmethod
    def of_albums(cls, unet, samples, x, prompts, ids):
        """Queries about the first picture of each album."""

        def encoder(mention):
            rng = random.Random("questions")
            texts = [world.caption(album[0], rng, mention) for album in samples]
            return lambda rows: prompts([texts[r] for r in rows])

        return cls(unet, x, encoder(LOOKS), encoder(frozenset()), ids)

    def loss(self, rows, states, weight):
        """How far the answers to ``states`` [B, 77, D] are from those to the words, in units of how far those
        to the plain prompt are; mean over the layers.  ``weight`` [B, 1, h, w] says where it counts.
        """
        total = 0.0
        for n in self.layers:
            layer, q = self.unet.get_submodule(n), self.queries[n][rows].float().to(states.device)
            with torch.no_grad(), without_lora(layer):
                wanted = layer(q, self.teacher_states[rows].float().to(states.device))  # [B, tokens, C]
            side = round(q.shape[1] ** 0.5)
            w = F.adaptive_max_pool2d(weight, side).flatten(1).unsqueeze(2)  # [B, tokens, 1]
            error = (layer(q, states) - wanted).square() * (w / w.mean())
            total = total + error.mean() / self.unit[n]
        return total / len(self.layers)


def _keep(into):
    return lambda module, args: into.append(args[0].detach().half().cpu())


def train(
    vae,
    prompts,
    vision,
    unet,
    steps=2550,
    naming=200,
    layers=2000,
    seed=0,
    device="cpu",
    rank=16,
    name="identity",
    start=None,
    **run,
):
    """Train, and return ``(encoder, run)``; the U-Net keeps the LoRA.

    ``vision`` is the CLIP image encoder to begin with; ``rank`` of the LoRA, 0: none.  The first ``naming``
    steps are for naming, the next ``layers`` for the layers, the others for the whole.  ``**run`` is of
    `Distillation`, such as ``batch``, ``pictures``, ``folder`` and ``seconds``.

    ``start`` is an encoder and the state of its LoRA (or None) to go on from, for a U-Net that has changed,
    and ``began`` what their card says: then a tenth of the steps is for naming (the heads are new), a half
    for the layers, and the steps are half as large.
    """
    torch.manual_seed(seed)
    widths = tuple(e.config.hidden_size for e in prompts.encoders)
    encoder = build(vision, widths).to(device)
    unet = unet.to(device, memory_format=torch.channels_last).eval()
    add_lora(unet, rank)
    if start is not None:
        naming, layers = steps // 10, steps // 2
        encoder.load_state_dict(start[0].state_dict())
        if start[1]:
            set_peft_model_state_dict(unet, start[1])
    unet.set_attn_processor(fastest_attention(device))
    learner, further = Learner(encoder, unet).to(device), start is not None
    run |= {"seed": seed, "facts": {"rank": rank}}
    d = Distillation(name, learner, vae, vision, steps, device, further, **run)
    attention = None
    for i in d.run.steps():
        rng = random.Random(f"identity/{seed}/{i}")
        in_layers = naming <= i < naming + layers
        if in_layers and attention is None:
            x = d.latents[:, 0] * d.scale
            attention = AttentionDistillation.of_albums(unet, d.samples, x, prompts, d.ids)
        b = d.draw(rng, first=in_layers)  # the layers' queries are about the first picture of each album
        # two prompts name nobody: the LoRA must leave them as they were
        nobody = [] if in_layers else ["", b.captions[1]]
        references = d.pixels[torch.tensor(b.rows)[:, None], b.references]  # [B, n, 3, S, S]
        fused, mask, pooled = fuse(learner.encoder, prompts, b.captions[len(nobody) :], references, nobody)
        named = learner.naming_loss(fused, mask, [p.actors[0].character for p in b.pictures])
        if i < naming:
            d.run.update(named, i, named=named)
        elif in_layers:
            answers = attention.loss(b.rows, fused, b.weight)
            d.run.update(answers + 0.1 * named, i, answers=answers, named=named)
        else:
            in_words = prompts(nobody + [world.caption(p, rng, LOOKS) for p in b.pictures[len(nobody) :]])
            given = (fused, pooled), in_words, d.ids, b.weight
            true, taught = losses(unet, d.schedule, b.x, *given)
            d.run.update(0.25 * true + taught + 0.02 * named, i, true=true, taught=taught, named=named)
    d.run.averaged()
    return encoder.eval(), d.run


@torch.no_grad()
def measure(encoder, vae, prompts, unet, n=128, times=(600, 800, 950)):
    """Held-out velocity loss on withheld characters, by what the U-Net reads.

    ``{"text only" | "1 picture" | "4 pictures" | "all in words": {time: loss}}``: the last names every
    attribute in the caption, which pictures cannot be expected to beat by much.
    """
    rng, size = random.Random("measure"), vae.config.sample_size
    drawn = (world.sample_pictures("heldout", i, {"album": 1}) for i in range(100 * n))
    samples = list(islice((a for a in drawn if world.withheld(a[0].actors[0].character)), n))
    pixels = torch.from_numpy(data.np.stack([data.draw(p, size) for album in samples for p in album]))
    pixels = pixels.unflatten(0, (n, 5))  # [n, 5, 3, S, S]
    x = latents_of(vae, pixels[:, 0], 32) * vae.config.scaling_factor
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(vae.device)
    plain = [world.caption(album[0], rng, frozenset()) for album in samples]
    words = [world.caption(album[0], rng, LOOKS) for album in samples]
    with without_lora(unet):
        out = {
            name: losses_at(unet, x, noise, *prompts(texts), size, times)
            for name, texts in (("text only", plain), ("all in words", words))
        }
    for k, name in ((1, "1 picture"), (4, "4 pictures")):
        fused, _, pooled = fuse(encoder, prompts, plain, pixels[:, 1 : 1 + k])
        out[name] = losses_at(unet, x, noise, fused, pooled, size, times)
    return out
