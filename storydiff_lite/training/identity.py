"""The identity encoder: pictures of a character in, the same character in another scene and action out.

As PhotoMaker (Li et al. 2312.04461, section 3.2 and 4.1): the text encoders and the U-Net stay as they are;
the image encoder, its two projections, the fuse module and a LoRA on the U-Net's attention layers learn
together.  The prompt names the species, the action and the scene, so that everything else can come from the
pictures alone.

Deviations.  All of the small image encoder is trained, not its last layers; one to four reference pictures a
step instead of all there are.  The denoising loss alone taught hats and bows hardly at all: they are a
hundredth of a picture, and noise hides them.  So the U-Net that is told everything *in words* is the teacher,
and the run has three parts, from cheap to dear:

1. *naming*: linear heads, thrown away afterwards, must name the attributes from each fused token;
2. *layers*: each cross-attention layer, asked what it was asked when the words were read, must answer to the
   pictures what it answered to the words (`Questions`); no pass through the U-Net is needed;
3. *whole*: the whole U-Net must predict what is true, and what it predicted when it was told in words.

Some of the prompts name nobody and must be drawn as before, so that the LoRA changes nothing but what a fused
token says.

A fifth of all characters (`withheld`) never comes up here: measurements are taken on those.
"""

from __future__ import annotations

import random
import zlib
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from tqdm.auto import tqdm
from transformers import CLIPVisionConfig

from .. import world
from ..identity import IDEncoder
from ..tokens import MAX_LENGTH, TRIGGER_ID, expand_class_token, load_tokenizer
from . import data
from .common import Run, autocast
from .unet import EVERY, fastest_attention, importances, latent_pool, losses_at, noise_schedule, time_ids

#: attributes that a fused token must be able to name
NAMED = ("fur", "skin", "outfit", "accessory", "accessory_colour")


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


def material(vae, n, size, device, folder):
    """What a run learns from: `albums`, their unscaled latents [n, 5, 4, 16, 16] and how much each place of a
    picture counts [n, 5, 1, 16, 16].
    """
    samples, pixels = albums("train", n, size, folder)
    latents = latent_pool(vae.to(device), samples, pixels.flatten(0, 1), device, folder)[0]
    five = (len(samples), 5)
    return samples, pixels, latents.unflatten(0, five), importances(samples, folder).unflatten(0, five)


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


class Questions:
    """What the cross-attention layers are asked while the U-Net reads words, and what the words answer.

    Parameters
    ----------
    unet : UNet2DConditionModel
        Without its LoRA.
    x : Tensor [P, 4, h, w]
        Clean latents, scaled; each is asked about once, at a late time.
    words : callable
        ``words(rows) -> (states, pooled)`` of the prompts that name everything.
    plain : callable
        The same of prompts that name the species alone; what the two answer differently sets the unit of
        each layer's loss.
    """

    def __init__(self, unet, x, words, plain, ids, device, batch=32):
        self.unet = unet
        self.layers = [n for n, m in unet.named_modules() if n.endswith("attn2")]
        schedule, g = noise_schedule(), torch.Generator().manual_seed(0)
        asked, heard = {n: [] for n in self.layers}, []
        hooks = [unet.get_submodule(n).register_forward_pre_hook(_keep(asked[n])) for n in self.layers]
        try:
            with torch.no_grad(), without_lora(unet):
                for rows in tqdm(torch.arange(len(x)).split(batch), desc="asking", mininterval=10):
                    t = torch.randint(0, 1000, (2, len(rows)), generator=g).amax(0)
                    noise = torch.randn(x[rows].shape, generator=g)
                    noisy = schedule.add_noise(x[rows].float(), noise, t).to(device)
                    said = words(rows.tolist())
                    velocities(unet, noisy, t.to(device), said, ids[: len(rows)], device)
                    heard.append(said[0].half().cpu())
        finally:
            for hook in hooks:
                hook.remove()
        self.asked = {n: torch.cat(asked[n]) for n in self.layers}  # each [P, tokens, C], half precision
        self.heard, self.unit = torch.cat(heard), {}  # [P, 77, D]
        some = list(range(min(256, len(x))))
        with torch.no_grad(), without_lora(unet):
            for n in self.layers:
                layer, q = unet.get_submodule(n), self.asked[n][some].float().to(device)
                answers = (layer(q, y) for y in (self.heard[some].float().to(device), plain(some)[0]))
                self.unit[n] = float((next(answers) - next(answers)).square().mean())

    def loss(self, rows, states, weight):
        """How far the answers to ``states`` [B, 77, D] are from those to the words, in units of how far those
        to the plain prompt are; mean over the layers.  ``weight`` [B, 1, h, w] says where it counts.
        """
        total = 0.0
        for n in self.layers:
            layer, q = self.unet.get_submodule(n), self.asked[n][rows].float().to(states.device)
            with torch.no_grad(), without_lora(layer):
                wanted = layer(q, self.heard[rows].float().to(states.device))  # [B, tokens, C]
            side = round(q.shape[1] ** 0.5)
            w = F.adaptive_max_pool2d(weight, side).flatten(1).unsqueeze(2)  # [B, tokens, 1]
            error = (layer(q, states) - wanted).square() * (w / w.mean())
            total = total + error.mean() / self.unit[n]
        return total / len(self.layers)


def _keep(into):
    return lambda module, args: into.append(args[0].detach().half().cpu())


def velocities(unet, noisy, t, said, ids, device):
    """The U-Net's prediction, told ``said`` = (states, pooled)."""
    with autocast(device):
        v = unet(noisy, t, said[0], added_cond_kwargs={"text_embeds": said[1], "time_ids": ids}).sample
    return v.float()


def losses(unet, schedule, x, said, in_words, ids, device, weight, teacher=None):
    """How far the prediction is from the truth, and from the prediction of the U-Net told all in words.

    The second asks for the same pictures, and is the better teacher: what noise has hidden it does not ask
    for.  The teacher is the U-Net itself without its LoRA, or another one.  x
    [B, 4, h, w]; ``weight`` [B, 1, h, w] says how much each place counts.
    """
    noise = torch.randn_like(x)
    t = torch.randint(0, schedule.config.num_train_timesteps, (2, len(x)), device=device).amax(0)
    noisy, truth = schedule.add_noise(x, noise, t), schedule.get_velocity(x, noise, t)
    with torch.no_grad(), without_lora(unet):
        wanted = velocities(unet if teacher is None else teacher, noisy, t, in_words, ids, device)
    v, scale = velocities(unet, noisy, t, said, ids, device), weight / weight.mean()
    return ((v - truth).square() * scale).mean(), ((v - wanted).square() * scale).mean()


@contextmanager
def without_lora(module):
    """A U-Net, or a layer of it, as it was, for a while."""
    tuned = [m for m in module.modules() if isinstance(m, BaseTunerLayer)]
    for m in tuned:
        m.enable_adapters(False)
    try:
        yield
    finally:
        for m in tuned:
            m.enable_adapters(True)


def ask(unet, samples, latents, scale, prompts, ids, device):
    """`Questions` about the first picture of each album."""

    def told(mention):
        words = random.Random("questions")
        texts = [world.caption(album[0], words, mention) for album in samples]
        return lambda rows: prompts([texts[r] for r in rows])

    ids = ids[:1].expand(32, -1)
    return Questions(unet, latents[:, 0] * scale, told(EVERY), told(frozenset()), ids, device)


def train(
    vae,
    prompts,
    vision,
    unet,
    scale,
    steps=2550,
    batch=24,
    naming=200,
    layers=2000,
    size=64,
    seed=0,
    device="cpu",
    rank=16,
    pictures=4000,
    folder="checkpoints",
    seconds=None,
    name="identity",
):
    """Train, and return ``(encoder, run)``; the U-Net keeps the LoRA.

    ``vision`` is the CLIP image encoder to begin with; ``rank`` of the LoRA, 0: none; ``pictures`` counts
    albums of five.  The first ``naming`` steps are for naming, the next ``layers`` for the layers, the others
    for the whole.  ``seconds`` of wall time end the run early, as in `Run`.
    """
    torch.manual_seed(seed)
    widths = tuple(e.config.hidden_size for e in prompts.encoders)
    encoder = build(vision, widths).to(device)
    unet = unet.to(device).eval()
    add_lora(unet, rank)
    unet.set_attn_processor(fastest_attention(device))
    learner = Learner(encoder, unet).to(device)
    run = Run(
        name,
        learner,
        steps,
        lr=1e-3,
        muon_lr=0.005,
        ema=0.99,
        seed=seed,
        folder=folder,
        seconds=seconds,
        facts={"batch": batch, "albums": pictures, "rank": rank},
    )
    samples, pixels, latents, weight = material(vae, pictures, size, device, folder)
    schedule, tell = noise_schedule(device), IdentityPrompts(prompts)
    ids = torch.tensor([time_ids(size, size)] * batch, dtype=torch.float32, device=device)
    questions = None
    for i in run.steps():
        rng = random.Random(f"identity/{seed}/{i}")
        in_layers = naming <= i < naming + layers
        if in_layers and questions is None:
            questions = ask(unet, samples, latents, scale, prompts, ids, device)
        some, n = rng.choices(range(len(samples)), k=batch), rng.randint(1, 4)
        order = [rng.sample(range(5), n + 1) for _ in some]  # the picture to draw, and its references
        if in_layers:  # about the first picture of each album the layers were asked
            order = [[0, *rng.sample(range(1, 5), n)] for _ in some]
        target = [o[0] for o in order]
        refs = torch.stack([pixels[j, o[1:]] for j, o in zip(some, order, strict=True)])  # [B, n, 3, S, S]
        drawn = [samples[j][k] for j, k in zip(some, target, strict=True)]
        plain = [world.caption(p, rng, frozenset()) for p in drawn]
        # two of them name nobody: the LoRA must leave them as they were
        nobody = [] if in_layers else ["", plain[1]]
        k = len(nobody)
        states, mask, pooled = tell([with_trigger(c) for c in plain[k:]], n)
        if nobody:
            own_states, own_pooled = prompts(nobody)
            states, pooled = torch.cat([own_states, states]), torch.cat([own_pooled, pooled])
            mask = F.pad(mask, (0, 0, k, 0))  # [B, 77]
        fused = learner.encoder(data.to_float(refs).to(device), states, mask)
        named = learner.naming_loss(fused, mask, [p.actors[0].character for p in drawn])
        # squared: a mistake on a character counts 4 times, on its accessory 16 times
        places = weight[some, target].float().square().to(device)
        if i < naming:
            run.update(named, i, named=named)
        elif in_layers:
            answers = questions.loss(some, fused, places)
            run.update(answers + 0.1 * named, i, answers=answers, named=named)
        else:
            true, taught = losses(
                unet,
                schedule,
                (latents[some, target].float() * scale).to(device),
                (fused, pooled),
                prompts(nobody + [world.caption(p, rng, EVERY) for p in drawn[k:]]),
                ids,
                device,
                places,
            )
            run.update(0.25 * true + taught + 0.02 * named, i, true=true, taught=taught, named=named)
    run.averaged()
    return encoder.eval(), run


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
    words = {
        "text only": prompts(plain),
        "all in words": prompts([world.caption(album[0], rng, EVERY) for album in some]),
    }
    told = {}
    for k, name in ((1, "1 picture"), (4, "4 pictures")):
        states, mask, pooled = tell([with_trigger(c) for c in plain], k)
        told[name] = encoder(pixels[:, 1 : 1 + k].to(device), states, mask), pooled
    with without_lora(unet):
        out = {name: losses_at(unet, x, noise, *said, size, times) for name, said in words.items()}
    return out | {name: losses_at(unet, x, noise, *said, size, times) for name, said in told.items()}
