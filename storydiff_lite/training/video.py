"""The transition decoder: temporal attention, and a cross-attention that reads semantic tokens.

As StoryDiffusion (2405.01434, section 3.2): the predictor and the motion modules learn together, from the
velocity of all frames at once (v-prediction, where the paper says "MSE between the predicted and the true
video"). Of the U-Net only the cross-attention layers learn with them, since they have never read anything
but text.

What is guessed, and what differs from the paper:

- the first and the last frame stand in the input without noise (the paper says nothing about them);
- three clips in ten read their *true* tokens, so that the decoder learns to trust tokens before the predicted
  ones are good; and the token loss of chapter 08 is kept, with a small weight;
- the caption and the tokens are dropped together for one clip in ten, for guidance;
- what moves counts more (`motion_weight`): a hand is a hundredth of a picture.

``apart`` is the same without the last addition: its frames' self-attention does not read the key frames
(`video.KeyFrameAttention`).

Two rivals are trained in the same way, on the same clips, for the same time, without semantic tokens:
``sparse`` sees the key frames through SparseCtrl's encoder (2311.16933, diffusers' own), ``mask`` through
extra input channels, with frames masked at random, as SEINE (2310.20700).
"""

from __future__ import annotations

import inspect
import json
import zlib
from pathlib import Path

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from tqdm.auto import tqdm

from .. import motion, video, weights
from . import cards, data
from .clip import prompt_encoder
from .common import Run, autocast, averaged_weights, checkpoint
from .motion import clip_pool, drawn_by, relative_error
from .parts import packed
from .unet import fastest_attention, noise_schedule, sizes

VARIANTS = ("ours", "apart", "sparse", "mask")
FRAMES = video.WINDOW
#: parts of names of the U-Net's parameters that learn
LEARNS = ("motion_modules", *video.CHANGED)
TRUE_TOKENS, TOKEN_WEIGHT, DROP = 0.3, 0.1, 0.1


# ------------------------------------------------------------------------------------------ what is read


def micro(device="cpu"):
    """The frozen parts: (autoencoder, U-Net, image encoder, prompts)."""
    vae, unet, encoders = (packed(part, device) for part in ("vae", "unet", "clip"))
    return vae, unet.requires_grad_(False), encoders.vision, prompt_encoder(encoders, device)


@torch.no_grad()
def encode(some, pixels, vae, vision, prompts, device, batch=32, dtype=None):
    """Clips -> all that training reads, half precision, on the CPU.

    Parameters
    ----------
    some : list of n clips
    pixels : uint8 Tensor [n, F, 3, S, S]
    dtype : torch.dtype, optional
        Of the arithmetic, as of `common.arithmetic`.

    Returns
    -------
    dict
        ``latents`` [n, F, 4, h, w] (scaled), ``tokens`` [n, F, S, D], ``states`` [n, 77, C], ``pooled``
        [n, P].
    """
    out = {"latents": [], "tokens": [], "states": [], "pooled": []}
    for i in tqdm(range(0, len(some), batch), desc="encoding clips", mininterval=5):
        x = data.to_float(pixels[i : i + batch].to(device))  # [b, F, 3, S, S]
        n, flat = x.shape[:2], x.flatten(0, 1)
        with autocast(device, dtype):
            z = vae.encode(flat).latent_dist.mode().float() * vae.config.scaling_factor
            k = motion.semantic_tokens(vision, flat).float()
        states, pooled = prompts([c.caption() for c in some[i : i + batch]])
        for name, v in (
            ("latents", z.unflatten(0, n)),
            ("tokens", k.unflatten(0, n)),
            ("states", states),
            ("pooled", pooled),
        ):
            out[name].append(v.half().cpu())
    return {k: torch.cat(v).contiguous() for k, v in out.items()}


def fingerprint(module):
    """A number that changes with the weights of a module, and not with the device it is on."""
    total = 0
    for name, p in sorted(module.state_dict().items()):
        total = zlib.crc32(name.encode() + p.detach().cpu().contiguous().numpy().tobytes(), total)
    return total


def prepared(split, n, size=None, folder="checkpoints", device="cpu", parts=None, source="clips"):
    """`encode` of the first ``n`` clips, or passages, of a split, and of train's mirrored; kept in ``folder``
    under a name that changes with what draws them and with the models that encode them.

    ``size`` is in pixels, the autoencoder's own by default; ``parts`` are as of `micro`.
    """
    parts = parts or micro(device)
    size = size or parts[0].config.sample_size
    code = "".join(map(inspect.getsource, (motion.semantic_tokens, encode)))
    models = [parts[0].encoder, parts[0].quant_conv, parts[2], *parts[3].encoders]
    made_by = zlib.crc32(f"{drawn_by(source)}{code}{[fingerprint(m) for m in models]}".encode())
    name = "video" if source == "clips" else source
    path = Path(folder) / f"{name}-{split}-{n}-{FRAMES}-{size}-{made_by:08x}.safetensors"

    def make():
        vae, _, vision, prompts = parts
        clips, pixels = clip_pool(split, n, FRAMES, size, folder, source)
        # what is measured must not hang on the device; of what is learnt from there is much
        exact = None if split == "train" else torch.float32
        tensors = encode(clips, pixels, vae, vision, prompts, device, dtype=exact)
        if split == "train":  # a mirrored clip is a clip too
            mirrored = encode(clips, pixels.flip(-1), vae, vision, prompts, device)
            tensors = {k: torch.cat([v, mirrored[k]]) for k, v in tensors.items()}
        return tensors

    return data.kept(path, make)


def start_predictor(folder="checkpoints"):
    """The predictor that learnt from tokens alone, as its checkpoint in ``folder`` has it; else an untrained
    one.
    """
    net = motion.micro()
    if checkpoint(folder, "motion").exists():
        net.load_state_dict(averaged_weights(folder, "motion"))
    return net


# ------------------------------------------------------------------------------------------ what learns


def build(variant, unet, token_dim=96, num_tokens=16, predictor=None, begin=None) -> nn.ModuleDict:
    """``decoder`` (and ``predictor``) of a variant, all of the U-Net frozen but `LEARNS`; untrained, or with
    the weights of the folder ``begin``, which are of the same variant, or, for ours, of ``apart``.
    """
    if variant not in VARIANTS:
        raise ValueError(f"There is no variant {variant!r}: choose one of {', '.join(VARIANTS)}.")
    if begin is not None:
        decoder, predictor = video.load_parts(begin, unet)
        found = variant_of(decoder)
        if variant == "ours" and found == "apart":
            video.read_key_frames(decoder.unet)
        elif variant != found:
            raise ValueError(
                f"The weights in {begin} are of the variant {found}; {variant} cannot begin with them."
            )
    else:
        reads_tokens, projection, control = variant in ("ours", "apart"), None, None
        adapter = video.motion_adapter(unet, in_channels=9 if variant == "mask" else None)
        moving = video.motion_unet(unet, adapter)
        if reads_tokens:
            projection = video.TokenProjection(token_dim, num_tokens, unet.config.cross_attention_dim)
            predictor = predictor or motion.micro(token_dim, num_tokens)
        elif variant == "sparse":
            control = video.sparse_control(unet).requires_grad_(True)
        predictor = predictor if reads_tokens else None
        decoder = video.Decoder(moving, projection, control, reads_tokens, variant == "ours")
    names = LEARNS + video.KEY_FRAME_LAYERS * decoder.key_frame_attention
    for name, p in decoder.unet.named_parameters():
        p.requires_grad_(any(k in name for k in names))
    parts = {"decoder": decoder, "predictor": predictor}
    return nn.ModuleDict({k: v for k, v in parts.items() if v is not None}).to(unet.device)


def variant_of(decoder):
    """Which of `VARIANTS` a decoder is."""
    if decoder.projection is not None:
        return "ours" if decoder.key_frame_attention else "apart"
    return "mask" if decoder.control is None else "sparse"


def random_masks(batch, frames, device):
    """Known frames as SEINE trains with: the ends in half of the clips, else any, but never all, [B, F]."""
    rate = torch.rand(batch, 1, device=device)
    known = (torch.rand(batch, frames, device=device) < rate).float()
    known[:, frames // 2] = 0
    ends = torch.rand(batch, 1, device=device) < 0.5
    return torch.where(ends, video.key_frame_mask(batch, frames, device), known)


def motion_weight(x, most=5.0):
    """How much each place counts, [B, 1, 1, h, w], mean about 1: more where the true latents x [B, F, 4, h,
    w] move.
    """
    spread = x.std(1, keepdim=True).mean(2, keepdim=True)  # [B, 1, 1, h, w]
    weight = 1 + (4 * spread).clamp(max=most)
    return weight / weight.mean()


def velocity(net, schedule, x, t, noise, prompt_embeds, ids, mask, tokens):
    """Predicted and true velocity, [B, F, 4, h, w] each."""
    flat = t.repeat_interleave(x.shape[1])
    noisy, target = (
        f(x.flatten(0, 1), noise.flatten(0, 1), flat).view_as(x)
        for f in (schedule.add_noise, schedule.get_velocity)
    )
    with autocast(x.device):
        v = net["decoder"](noisy, t, *prompt_embeds, ids, x, mask, tokens)
    return v.float(), target


def loss_of(net, variant, schedule, batch, empty, ids):
    """One clip batch -> (loss, {"video": ..., "tokens": ...}).

    ``batch``: latents, tokens, states, pooled (as of `encode`); ``empty``: states and pooled of no text.
    """
    x, true, states, pooled = (v.float() for v in batch)
    (b, frames), device = x.shape[:2], x.device
    dropped = torch.rand(b, device=device) < DROP
    states = torch.where(dropped[:, None, None], empty[0], states)
    pooled = torch.where(dropped[:, None], empty[1], pooled)
    tokens, token_loss = None, x.new_zeros(())
    mask = random_masks(b, frames, device) if variant == "mask" else video.key_frame_mask(b, frames, device)
    if "predictor" in net:
        with autocast(device):
            predicted = net["predictor"](true[:, 0], true[:, -1], frames).float()  # [B, F, S, D]
        token_loss = relative_error(predicted, true).mean()
        taught = torch.rand(b, device=device) < TRUE_TOKENS
        tokens = torch.where(taught[:, None, None, None], true, predicted)
        tokens = torch.where(dropped[:, None, None, None], torch.zeros_like(tokens), tokens)
    n = schedule.config.num_train_timesteps
    t = torch.randint(0, n, (2, b), device=device).amax(0)  # high noise decides where things are
    noise, prompt_embeds = torch.randn_like(x), (states, pooled)
    v, target = velocity(net, schedule, x, t, noise, prompt_embeds, ids, mask, tokens)
    weight = motion_weight(x) * (1 - mask)[:, :, None, None, None]
    loss = ((v - target).square() * weight).sum() / (weight.sum() * x.shape[2])
    return loss + TOKEN_WEIGHT * token_loss, {"video": loss, "tokens": token_loss}


class Learner(nn.Module):
    """Only what learns, under its own names, so that checkpoints and averages hold nothing else."""

    def __init__(self, net):
        super().__init__()
        self.all = nn.ParameterDict(
            {n.replace(".", "/"): p for n, p in net.named_parameters() if p.requires_grad}
        )


def train(
    variant="ours",
    steps=20000,
    batch=16,
    size=None,
    seed=0,
    device="cpu",
    clips=3000,
    name=None,
    lr=1e-3,
    parts=None,
    begin=None,
    **run,
):
    """Train a variant, and return ``(net, run)``; ``net`` holds ``decoder`` and, of ours, ``predictor``.

    Parameters
    ----------
    variant : {"ours", "apart", "sparse", "mask"}
    batch : int
        Clips a step.
    size : int, optional
        Pixels of the clips; the autoencoder's own by default.
    clips : int
        Of the training split.
    lr : float
        Step size of AdamW; Muon's is 8 times as large.
    begin : str or Path, optional
        Folder of a trained decoder (and predictor), to go on from.
    **run
        Of `Run`, such as ``seconds``, ``cooldown`` (0.5 here) and ``folder``; the checkpoint of the motion
        predictor in the latter, if it is there, is what ours begins with.
    """
    torch.manual_seed(seed)
    parts = parts or micro(device)
    _, unet, _, prompts = parts
    folder = run.setdefault("folder", "checkpoints")
    held = {k: v.to(device) for k, v in prepared("train", clips, size, folder, device, parts).items()}
    dims = held["tokens"].shape
    start = start_predictor(folder) if variant in ("ours", "apart") and begin is None else None
    net = build(variant, unet, dims[3], dims[2], start, begin).train()
    own = video.TokenAttention, video.KeyFrameAttention
    for module in net["decoder"].unet.modules():
        if isinstance(module, Attention) and not isinstance(module.processor, own):
            module.set_processor(fastest_attention(device))
    facts = {"data": f"{clips:,} clips of {FRAMES} frames (world.sample_clip, split train)", "batch": batch}
    facts |= {"variant": variant, "lr": lr, "muon_lr": 8 * lr, "cooldown": run.setdefault("cooldown", 0.5)}
    run |= {"facts": facts, "began": None if begin is None else cards.began_in(begin)}
    name = f"video-{name or variant}"
    run = Run(name, Learner(net), steps, lr, 8 * lr, ema=0.998, warmup=100, seed=seed, **run)
    learn(run, net, variant, held, batch, size or parts[0].config.sample_size, prompts, device)
    return net.eval(), run


def learn(run, net, variant, held, batch, size, prompts, device):
    """All steps of a run, on what `prepared` encoded; each of several processes draws a batch of its own."""
    schedule, empty, ids = noise_schedule(device), prompts([""]), sizes(batch, size, device)
    for i in run.steps():
        if run.processes.count > 1:
            torch.manual_seed((run.seed * 1_000_003 + i) * run.processes.count + run.processes.rank)
        pick = torch.randint(len(held["latents"]), (batch,), device=device)
        clips = [held[k][pick] for k in ("latents", "tokens", "states", "pooled")]
        loss, numbers = loss_of(net, variant, schedule, clips, empty, ids)
        run.update(loss, i, **numbers)
    run.averaged()


@torch.no_grad()
def measure(
    net, variant, size=None, device="cpu", n=210, folder="checkpoints", parts=None, batch=16, source="clips"
):
    """Velocity loss of the unknown frames of held-out clips, or passages, ``{time: loss}``, at the same noise
    for every variant.
    """
    parts = parts or micro(device)
    size = size or parts[0].config.sample_size
    held = prepared("heldout", n, size, folder, device, parts, source)
    schedule = noise_schedule(device)
    noise = torch.randn(held["latents"].shape, generator=torch.Generator().manual_seed(0))
    out = {}
    for t in (500, 700, 900):
        losses = []
        for rows in torch.arange(n).split(batch):
            x, true, *prompt_embeds = (
                held[k][rows].float().to(device) for k in ("latents", "tokens", "states", "pooled")
            )
            mask = video.key_frame_mask(len(x), FRAMES, device)
            tokens = net["predictor"](true[:, 0], true[:, -1], FRAMES) if "predictor" in net else None
            ts, ids = torch.full((len(x),), t, device=device), sizes(len(x), size, device)
            e = noise[rows].to(device)
            v, target = velocity(net, schedule, x, ts, e, prompt_embeds, ids, mask, tokens)
            losses.append((v - target)[:, 1:-1].square().mean((1, 2, 3, 4)))
        out[str(t)] = round(float(torch.cat(losses).mean()), 4)
    return out


# ------------------------------------------------------------------------------------------ what is made


def clips_seen(card):
    """How many clips a decoder learnt from, over all its runs; a clip that came twice counts twice."""
    return sum(c["steps"] * c["batch"] for c in cards.stages(card))


def save(net, folder, card):
    """A trained decoder, its predictor and its card: a folder, whole or not at all."""

    def write(to):
        video.save_parts(to, net["decoder"], net["predictor"] if "predictor" in net else None)
        (to / "card.json").write_text(json.dumps(card, indent=1) + "\n")

    weights.atomic_save(folder, write)


def make(
    device, folder, seed=0, variant="ours", name=None, size=None, clips=3000, heldout=210,
    prepare=False, pack=False, **training,
):  # fmt: skip
    """``python -m storydiff_lite.training video``: train a variant, measure, save; or another task."""
    folder = Path(folder)
    if pack:
        return cards.ship(folder / "video-ours", "video")
    if prepare:
        splits = (("train", clips), ("validation", min(42, heldout)), ("heldout", heldout))
        for split, n in splits:  # drawing forks, so it comes before anything is on a GPU
            clip_pool(split, n, FRAMES, size or weights.picture_size(), folder)
        parts = micro(device)
        for split, n in splits:
            prepared(split, n, size, folder, device, parts)
        return None
    parts = micro(device)
    training |= {"size": size, "seed": seed, "device": device, "clips": clips, "folder": folder}
    net, run = train(variant, name=name, parts=parts, **training)
    found = measure(net, variant, size, device, heldout, folder, parts)
    save(net, folder / run.name, cards.card("video", run, {"loss": found}, seed))
    cards.report(run.name, run, found)
    return None
