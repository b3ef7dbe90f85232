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
``strips=False`` trains without any picture that holds a character twice, to see what then becomes of the
trick.
"""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from .. import world
from ..weights import atomic_save
from . import data
from .clip import ids_of
from .common import Run, autocast

CHANNELS = (80, 160)
#: what a caption can name besides species, action and scene
EVERY = frozenset(("fur", "skin", "outfit", "accessory", "accessory_colour"))
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


@torch.no_grad()
def latent_pool(vae, samples, pixels, device, folder, batch=64):
    """Unscaled latents of the pool, half precision [pictures, 4, 16, 16]; where each sample begins.

    They are kept in ``folder`` under a name that follows from the pictures and the encoder.
    """
    key = sum(float(p.double().abs().sum()) for p in vae.encoder.parameters())
    path = (
        Path(folder) / f"latents-{zlib.crc32(repr((samples[0], samples[-1], key)).encode()):08x}.safetensors"
    )
    if not path.exists():
        out = []
        for x in tqdm(pixels.split(batch), desc="encoding", mininterval=10):
            with autocast(device):
                out.append(vae.encode(data.to_float(x).to(device)).latent_dist.mode().half().cpu())
        atomic_save(path, lambda to: save_file({"latents": torch.cat(out).contiguous()}, to))
    starts, n = [], 0
    for s in samples:
        starts.append(n)
        n += len(s)
    return load_file(path)["latents"], starts


class Prompts:
    """Text -> what SDXL's U-Net reads: penultimate states of both encoders [B, 77, 32 + 64], pooled [B,
    64].
    """

    def __init__(self, text_encoder, text_encoder_2, tokenizer, tokenizer_2, device="cpu"):
        self.encoders = text_encoder.to(device).eval(), text_encoder_2.to(device).eval()
        self.tokenizers, self.device = (tokenizer, tokenizer_2), device

    @torch.no_grad()
    def __call__(self, texts):
        states = []
        for e, t in zip(self.encoders, self.tokenizers, strict=True):
            out = e(ids_of(t, texts).to(self.device), output_hidden_states=True)
            states.append(out.hidden_states[-2])
        return torch.cat(states, -1), out.text_embeds


def caption(sample, rng: random.Random, drop=0.1) -> str:
    """Words for a sample, in ``drop`` of the cases none; half of the strips are told by one panel."""
    if rng.random() < drop:
        return ""
    if len(sample) == 1:
        return world.caption(sample[0], rng)
    mention = world.random_mention(rng)
    if rng.random() < 0.5:
        return world.strip_caption(sample, rng, mention)
    return world.caption(rng.choice(sample), rng, mention)


def time_ids(height, width):
    """SDXL's six numbers: original size, crop corner, target size, in pixels."""
    return [height, width, 0, 0, height, width]


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
    path = Path(folder) / f"importance-{zlib.crc32(repr(samples).encode()):08x}.safetensors"
    if not path.exists():
        every = data.on_all_cores(importance, [p for s in samples for p in s], "masks")
        atomic_save(path, lambda to: save_file({"importance": torch.from_numpy(np.stack(every))}, to))
    return load_file(path)["importance"]


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
        v = unet(noisy, t, states, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}).sample
    error = (v.float() - target).square()
    return error.mean() if weight is None else (error * weight[mine]).mean() / weight.mean()


@torch.no_grad()
def measure(unet, vae, prompts, scale, size=64, device="cpu", n=256, times=(200, 400, 600, 800, 950)):
    """Held-out velocity loss of ``n`` pictures: ``{"with caption": {time: loss}, "without": {...}}``.

    Captions name every attribute; the difference to none says how much of the words the model uses.
    """
    samples, pixels = data.pool("heldout", n, size)
    latents = torch.cat(
        [vae.encode(data.to_float(x).to(device)).latent_dist.mode() for x in pixels.split(64)]
    )
    latents, rng = latents * scale, random.Random("measure")
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(device)
    texts = [world.caption(s[0], rng, EVERY) for s in samples]
    return {
        name: losses_at(unet, latents, noise, *prompts(told), size, times)
        for name, told in (("with caption", texts), ("without", [""] * n))
    }


@torch.no_grad()
def losses_at(unet, x, noise, states, pooled, size, times, batch=64):
    """Mean velocity loss of latents x [n, 4, h, w] under this noise, told states [n, 77, D] and pooled text
    [n, P]: ``{time: loss}``.
    """
    schedule, out = noise_schedule(), {}
    sizes = torch.tensor([time_ids(size, size)] * len(x), dtype=torch.float32, device=x.device)
    for t in times:
        losses = []
        for some in torch.arange(len(x), device=x.device).split(batch):
            ts = torch.full((len(some),), t, device=x.device)
            v = unet(
                schedule.add_noise(x[some], noise[some], ts),
                ts,
                states[some],
                added_cond_kwargs={"text_embeds": pooled[some], "time_ids": sizes[some]},
            ).sample
            target = schedule.get_velocity(x[some], noise[some], ts)
            losses.append((v - target).square().mean((1, 2, 3)))
        out[str(t)] = float(torch.cat(losses).mean())
    return out


def train(
    vae,
    prompts,
    scale,
    steps=20000,
    batch=32,
    size=64,
    seed=0,
    device="cpu",
    pictures=16000,
    strips=True,
    pages=3000,
    channels=CHANNELS,
    folder="checkpoints",
    name="unet",
    save_every=180,
    cooldown=0.6,
    seconds=None,
    start=None,
    began=None,
    peek=None,
):
    """Train on latents of ``vae`` (times ``scale``), and return ``(unet, run)``.

    A third of the steps see ``batch`` single pictures, a third ``batch / 2`` strips, a third ``batch / 4``
    pages of four panels: the same number of tokens.  ``start`` is a U-Net to begin with, ``began`` what its
    card says of it; the layers that read text (`TEXT`) begin anew, since the encoders may have changed.
    ``peek(unet, step)`` is called every 500 steps with the averaged weights.
    """
    torch.manual_seed(seed)
    unet = build(channels).to(device)
    if start is not None:
        known = {k: v for k, v in start.state_dict().items() if not any(t in k for t in TEXT)}
        unet.load_state_dict(known, strict=False)
    unet.set_attn_processor(fastest_attention(device))
    run = Run(
        name,
        unet,
        steps,
        lr=1e-3,
        muon_lr=0.006,
        ema=0.999,
        warmup=100,
        seed=seed,
        folder=folder,
        cooldown=cooldown,
        save_every=save_every,
        began=began,
        seconds=seconds,
        facts={"batch": batch, "strips": strips, "channels": list(channels)},
    )
    mix = data.MIX if strips else {"single": 0.85, "pair": 0.12, "empty": 0.03}
    with run.processes.first():
        samples, pixels = data.pool("train", pictures, size, mix, folder)
        latents, starts = latent_pool(vae.to(device), samples, pixels, device, folder)
        del pixels
        latents = (latents.float() * scale).half()
        weights = importances(samples, folder)
        if strips:
            four, pixels = data.pool("train", pages, size, {"page": 1}, folder)
            quarters = (latent_pool(vae, four, pixels, device, folder)[0].float() * scale).half()
            quarters = quarters.unflatten(0, (pages, 4))  # [pages, 4, 4, 16, 16]
            heavy = importances(four, folder).unflatten(0, (pages, 4))
            del pixels
    wide = [i for i, s in enumerate(samples) if len(s) == 2]
    square = [i for i, s in enumerate(samples) if len(s) == 1]
    schedule = noise_schedule(device)
    for i in run.steps():
        rng = random.Random(f"unet/{seed}/{i}")
        dice, several = rng.random(), bool(wide)
        if several and dice < 1 / 3:
            picks = rng.choices(range(pages), k=batch // 4)
            some = [four[j] for j in picks]
            x, weight = (
                torch.cat([torch.cat([q[:, 0], q[:, 1]], 3), torch.cat([q[:, 2], q[:, 3]], 3)], 2)
                for q in (quarters[picks], heavy[picks])  # [B, 4, 4, 16, 16], [B, 4, 1, 16, 16]
            )
        elif several and dice < 2 / 3:
            picks = rng.choices(wide, k=batch // 2)
            some = [samples[j] for j in picks]
            first = torch.tensor([starts[j] for j in picks])
            side = 2 if rng.random() < 0.25 else 3
            x, weight = (torch.cat([q[first], q[first + 1]], side) for q in (latents, weights))
        else:
            several = False
            picks = rng.choices(square, k=batch)
            some = [samples[j] for j in picks]
            first = [starts[j] for j in picks]
            x, weight = latents[first], weights[first]
        # a comic is told its canvas or the size of one panel: panels drawn one by one have that size too
        canvas = time_ids(x.shape[2] * size // 16, x.shape[3] * size // 16)
        ids = [canvas if not several or rng.random() < 0.5 else time_ids(size, size) for _ in some]
        mine = run.processes.mine(len(some))
        states, pooled = prompts([caption(s, rng) for s in some][mine])
        loss = velocity_loss(
            unet,
            schedule,
            x.float().to(device),
            states,
            pooled,
            torch.tensor(ids[mine], device=device, dtype=torch.float32),
            device,
            late=several,
            weight=weight.float().to(device),
            mine=mine,
        )
        run.update(loss, i)
        if peek and i and i % 500 == 0:
            own = {k: v.clone() for k, v in unet.state_dict().items()}
            peek(run.averaged().eval(), i)
            unet.load_state_dict(own)
            unet.train()
    return run.averaged().eval(), run
