"""The U-Net: it learns to predict the velocity of a noised latent, given words and sizes (2307.01952).

As SDXL: text from two encoders, pooled text and picture sizes added to the time embedding
(``text_time``), several canvases (square pictures; comic strips of two panels, side by side or one above
the other; pages of two by two panels), captions dropped for classifier-free guidance. Deviations: latents
of 16 x 16, a cosine noise schedule instead of ``scaled_linear`` (small pictures are destroyed by less
noise), v-prediction (Salimans & Ho 2202.00512), canvases of several panels see high noise more often,
because that is where the looks are decided, and a mistake on a character counts more than one on the
scenery (`importance`): a hat is a hundredth of a picture, and half of what a reader looks at.

Nothing here knows of consistent self-attention. What prepares for it is in the data: strips and pages, in
which plain self-attention must carry the looks of a character from one panel into the other.
`Samples` without ``strips`` hold no picture that shows a character twice, to see what then becomes of the
trick.

All that a step reads lies on the device before the first step: latents, weights of their places, and the
token ids of several captions a sample. A step chooses rows, and nothing in it waits for the device.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UniPCMultistepScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from tqdm.auto import tqdm

from .. import world
from . import data
from .common import Run, autocast
from .vae import latents_of

CHANNELS = (80, 160)
#: what a caption can name besides species, action and scene
LOOKS = frozenset(("fur", "skin", "outfit", "accessory", "accessory_colour"))
#: what reads the text encoders in a U-Net: parts of parameter names
TEXT = ("attn2.to_k", "attn2.to_v", "add_embedding.linear_1")


def build(channels=CHANNELS, text_dim=96, pooled_dim=64) -> UNet2DConditionModel:
    """The micro twin of SDXL's U-Net: two levels (16 x 16, 8 x 8), attention in every block."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        attention_head_dim=(4, 5),
        transformer_layers_per_block=1,
        use_linear_projection=True,
        cross_attention_dim=text_dim,
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=pooled_dim + 6 * 32,
    )


def fastest_attention(device):
    """Plain matrix products on CPUs, where they are faster in the backward pass."""
    return AttnProcessor() if torch.device(device).type == "cpu" else AttnProcessor2_0()


def noise_schedule(device="cpu") -> DDIMScheduler:
    """The training schedule, on a device; samplers of diffusers take it over with ``from_config``."""
    schedule = DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    schedule.alphas_cumprod = schedule.alphas_cumprod.to(device)  # add_noise would move it at every step
    return schedule


def sampler() -> UniPCMultistepScheduler:
    """What the packed model draws with: UniPC (2302.04867), which needs half the steps of DDIM."""
    return UniPCMultistepScheduler.from_config(noise_schedule().config)


def kept(folder, kind, key, make):
    """A tensor of a kind that lies in ``folder`` under a name with ``key``, or is made."""
    path = Path(folder) / f"{kind}-{zlib.crc32(repr(key).encode()):08x}.safetensors"
    return data.kept(path, lambda: {kind: make()})[kind]


@torch.no_grad()
def latent_pool(vae, samples, pixels, device, folder, batch=64):
    """Unscaled latents of the pool, half precision [pictures, 4, 16, 16]; where each sample begins.

    They are kept in ``folder`` under a name that follows from the pictures, the renderer and the encoder.
    """
    encoder = sum(
        float(p.double().abs().sum()) for p in (*vae.encoder.parameters(), *vae.quant_conv.parameters())
    )

    def encoded():
        out = []
        for x in tqdm(pixels.split(batch), desc="encoding", mininterval=10):
            with autocast(device):
                out.append(vae.encode(data.to_float(x).to(device)).latent_dist.mode().half().cpu())
        return torch.cat(out)

    key = samples, data.renderer(), pixels.shape[-1], encoder
    starts = [0, *accumulate(map(len, samples))][:-1]
    return kept(folder, "latents", key, encoded), starts


def caption(sample, rng: random.Random, drop=0.1) -> str:
    """Words for a sample, in ``drop`` of the cases none; half of the strips of one character, and all of two,
    are described by one panel alone.
    """
    if rng.random() < drop:
        return ""
    if len({a.character for p in sample for a in p.actors}) > 1:
        return _caption_of_two(rng.choice(sample), rng)
    if len(sample) == 1:
        return world.caption(sample[0], rng)
    mention = world.random_mention(rng)
    if rng.random() < 0.5:
        return world.strip_caption(sample, rng, mention)
    return world.caption(rng.choice(sample), rng, mention)


def _caption_of_two(picture, rng):
    """Words for a picture; where it shows two characters, every other caption names other looks of each."""
    if len(picture.actors) < 2 or rng.random() < 0.5:
        return world.caption(picture, rng)
    parts = [
        f"{world.describe(a.character, world.random_mention(rng), rng)} {world.ACTIONS[a.action]}"
        for a in picture.actors
    ]
    return " and ".join(parts) + f" {world.SCENES[picture.scene]}"


@dataclass
class Pool:
    """Samples of the same number of panels, ready to learn from, all on one device.

    Parameters
    ----------
    latents : half Tensor [n, panels, 4, 16, 16]
        Scaled as the U-Net reads them.
    weight : uint8 Tensor [n, panels, 1, 16, 16]
        See `importance`.
    words : int32 Tensor [n, captions, 2, 77]
        Token ids of several captions of each sample (`prompts.PromptEncoder.ids`).
    """

    latents: torch.Tensor
    weight: torch.Tensor
    words: torch.Tensor

    def __len__(self):
        return len(self.latents)

    def batch(self, n, rng, panel, empty, drop=0.1):
        """``n`` random samples, each laid out on one canvas.

        Parameters
        ----------
        rng : random.Random
            Decides whether strips of this step lie side by side or one above the other.
        panel : int
            Height and width of one panel in pixels, as the U-Net reads them.
        empty : int32 Tensor [2, 77]
            Ids of the empty caption, which a tenth of the samples get.

        Returns
        -------
        x : Tensor [n, 4, h, w]
        weight : Tensor [n, 1, h, w]
        ids : Tensor [n, 2, 77]
        sizes : Tensor [n, 6]
            Of a comic that of its canvas or of one panel: panels drawn one by one have that size too.
        """
        device, panels = self.latents.device, self.latents.shape[1]
        rows = torch.randint(len(self), (n,), device=device)
        side = 2 if panels == 2 and rng.random() < 0.25 else 3
        x, weight = (canvas(t[rows].float(), side) for t in (self.latents, self.weight))
        ids = self.words[rows, torch.randint(self.words.shape[1], (n,), device=device)]
        ids = torch.where(torch.rand(n, 1, 1, device=device) < drop, empty, ids)
        high, wide = x.shape[2] * panel // 16, x.shape[3] * panel // 16
        canvases = (time_ids(high, wide), time_ids(panel, panel))
        canvases = torch.tensor(canvases, dtype=torch.float32).to(device, non_blocking=True)
        return x, weight, ids, canvases[torch.randint(2, (n,), device=device)]


def canvas(panels, side):
    """Panels [n, p, C, 16, 16] on a canvas: one, two along ``side`` (2: height, 3: width), or two by two."""
    if panels.shape[1] < 4:
        return torch.cat(panels.unbind(1), side)
    a, b, c, d = panels.unbind(1)
    return torch.cat([torch.cat([a, b], 3), torch.cat([c, d], 3)], 2)


def pools(vae, prompts, samples, pixels, captions, device, folder, seed=0):
    """`Pool` for each number of panels that comes up among ``samples``: {panels: Pool}.

    ``pixels`` are those of all samples in order, uint8 [pictures, 3, S, S].
    """
    latents, starts = latent_pool(vae.to(device), samples, pixels, device, folder)
    latents, weight = (latents.float() * vae.config.scaling_factor).half(), importances(samples, folder)
    rng = random.Random(f"captions/{seed}")
    texts = [caption(s, rng, drop=0) for s in samples for _ in range(captions)]
    words = torch.cat([prompts.ids(texts[i : i + 4096]).int() for i in range(0, len(texts), 4096)])
    words = words.unflatten(0, (len(samples), captions))  # [n, captions, 2, 77]
    out = {}
    for panels in sorted({len(s) for s in samples}):
        rows = [i for i, s in enumerate(samples) if len(s) == panels]
        places = torch.tensor([[starts[i] + k for k in range(panels)] for i in rows])
        out[panels] = Pool(*(t.to(device) for t in (latents[places], weight[places], words[rows])))
    return out


def time_ids(height, width):
    """SDXL's six numbers: original size, crop corner, target size, in pixels."""
    return [height, width, 0, 0, height, width]


def sizes(n, size, device):
    """`time_ids` of ``n`` square pictures, [n, 6]."""
    return torch.tensor([time_ids(size, size)], dtype=torch.float32, device=device).expand(n, -1)


def velocity(unet, noisy, t, prompt_embeds, ids):
    """What a U-Net predicts for noisy latents [B, 4, h, w] at times [B], given (states, pooled) and sizes."""
    states, pooled = prompt_embeds
    return unet(noisy, t, states, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}).sample


def importance(picture, cells=16):
    """How much a mistake counts in each cell of a picture, uint8 array [1, cells, cells]: 1 for scenery, 2
    for a character, 4 for its accessory.
    """
    weight = np.ones((64, 64), np.uint8)
    for name, mask in world.masks(picture, 64).items():
        if name[0].isdigit():
            weight[mask] = 4 if name.endswith("accessory") else 2
    side = 64 // cells
    return weight.reshape(1, cells, side, cells, side).max((2, 4))


def importances(samples, folder):
    """`importance` of every picture [pictures, 1, 16, 16], kept in ``folder`` like the latents."""

    def weights():
        pictures = [p for s in samples for p in s]
        return torch.from_numpy(np.stack(data.on_all_cores(importance, pictures, "masks")))

    return kept(folder, "importance", (samples, data.renderer()), weights)


def velocity_loss(unet, schedule, x, states, pooled, ids, device, late=False, weight=None, mine=slice(None)):
    """Mean squared error of the velocity at random times (2202.00512, section 4); x [B, 4, h, w].

    Times are uniform, or with ``late`` the later of two uniform ones, so that high noise comes more often.
    ``weight`` [B, 1, h, w] says how much each place counts.  Of a batch that several processes share, the
    rows ``mine`` are computed, and states, pooled text and ids are theirs alone; the mean of the processes'
    losses is that of the batch.
    """
    noise = torch.randn_like(x)
    t = torch.randint(0, schedule.config.num_train_timesteps, (1 + late, len(x)), device=device).amax(0)
    noisy, target = schedule.add_noise(x, noise, t), schedule.get_velocity(x, noise, t)
    noisy, target, t = noisy[mine], target[mine], t[mine]
    with autocast(device):
        v = velocity(unet, noisy, t, (states, pooled), ids)
    error = (v.float() - target).square()
    return error.mean() if weight is None else (error * weight[mine]).mean() / weight.mean()


@torch.no_grad()
def measure(unet, vae, prompts, n=256, times=(200, 400, 600, 800, 950)):
    """Held-out velocity loss of ``n`` pictures: ``{"with caption": {time: loss}, "without": {...}}``.

    Captions name every attribute; the difference to none says how much of the words the model uses.
    """
    size = vae.config.sample_size
    samples, pixels = data.pool("heldout", n, size)
    latents, rng = latents_of(vae, pixels, 64) * vae.config.scaling_factor, random.Random("measure")
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(vae.device)
    texts = [world.caption(s[0], rng, LOOKS) for s in samples]
    return {
        name: losses_at(unet, latents, noise, *prompts(captions), size, times)
        for name, captions in (("with caption", texts), ("without", [""] * n))
    }


@torch.no_grad()
def losses_at(unet, x, noise, states, pooled, size, times, batch=64):
    """Mean velocity loss of latents x [n, 4, h, w] under this noise, given states [n, 77, D] and pooled text
    [n, P]: ``{time: loss}``.
    """
    schedule, out = noise_schedule(), {}
    for t in times:
        losses = []
        for z, e, *prompt_embeds in zip(*(v.split(batch) for v in (x, noise, states, pooled)), strict=True):
            ts = torch.full((len(z),), t, device=x.device)
            v = velocity(unet, schedule.add_noise(z, e, ts), ts, prompt_embeds, sizes(len(z), size, x.device))
            losses.append((v - schedule.get_velocity(z, e, ts)).square().mean((1, 2, 3)))
        out[str(t)] = float(torch.cat(losses).mean())
    return out


@dataclass(frozen=True)
class Samples:
    """What the U-Net learns from.

    Parameters
    ----------
    pictures, pages, captions : int
        Samples that are drawn (`data.MIX`), pages of four panels (`data.PAGES`), and captions of each.
    strips : bool
        False: no picture that holds a character twice, and no pages.
    """

    pictures: int = 16000
    pages: int = 3000
    captions: int = 6
    strips: bool = True

    @property
    def mix(self):
        return data.MIX if self.strips else {"single": 0.85, "pair": 0.12, "empty": 0.03}

    def facts(self):
        """For the card."""
        pages, of_pages = (self.pages, data.PAGES) if self.strips else (0, {})
        text = (
            f"{self.pictures:,} samples (seeds train/0 ..., kinds {self.mix}) and {pages:,} pages of four "
            f"panels (kinds {of_pages}), {self.captions} captions of each"
        )
        known = {"captions": self.captions, "pictures": self.pictures, "pages": pages}
        return known | {"mix": self.mix, "page_mix": of_pages, "data": text}

    def draw(self, size, folder):
        """Samples and their pixels, as of `data.pool`."""
        samples, pixels = data.pool("train", self.pictures, size, self.mix, folder)
        if self.strips:
            four, more = data.pool("train", self.pages, size, data.PAGES, folder)
            samples, pixels = samples + four, torch.cat([pixels, more])
        return samples, pixels


def without_text(state):
    """A U-Net's weights without the layers that read text (`TEXT`): these begin anew with other encoders."""
    return {k: v for k, v in state.items() if not any(t in k for t in TEXT)}


def train(
    vae,
    prompts,
    steps=20000,
    batch=32,
    seed=0,
    device="cpu",
    samples=Samples(),  # noqa: B008  (frozen)
    channels=CHANNELS,
    name="unet",
    start=None,
    **run,
):
    """Train on latents of ``vae``, and return ``(unet, run)``.

    A third of the steps see ``batch`` single pictures, a third ``batch / 2`` strips, a third ``batch / 4``
    pages of four panels: the same number of tokens.  On a GPU the U-Net is compiled, which takes minutes.

    Parameters
    ----------
    start : dict, optional
        Weights to begin with, all or some of them.
    **run
        Of `Run`, such as ``folder``, ``seconds``, and ``began``: what the card of ``start`` says.
    """
    torch.manual_seed(seed)
    size = vae.config.sample_size
    unet = build(channels).to(device)
    unet.load_state_dict(start or {}, strict=False)
    unet.set_attn_processor(fastest_attention(device))
    facts = {"batch": batch, "channels": list(channels), "size": size} | samples.facts()
    how = {"ema": 0.999, "warmup": 100, "cooldown": 0.6, "save_every": 180, "facts": facts}
    run = Run(name, unet, steps, 1e-3, 0.006, seed=seed, **how, **run)
    with run.processes.first():
        drawn = samples.draw(size, run.folder)
        learnt = pools(vae, prompts, *drawn, samples.captions, device, run.folder, seed)
        del drawn
    empty = prompts.ids([""])[0].int().to(device)
    schedule = noise_schedule(device)
    net = torch.compile(unet, dynamic=False) if torch.device(device).type == "cuda" else unet
    for i in run.steps():
        rng = random.Random(f"unet/{seed}/{i}")
        panels = rng.choice(tuple(learnt))
        x, weight, text, ids = learnt[panels].batch(batch // panels, rng, size, empty)
        mine = run.processes.mine(len(x))
        given = *prompts.encode(text[mine]), ids[mine], device
        how = {"late": panels > 1, "weight": weight, "mine": mine}
        loss = velocity_loss(net, schedule, x, *given, **how)
        run.update(loss, i)
    return run.averaged().eval(), run
