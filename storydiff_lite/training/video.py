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

``apart`` is the same without the last addition: its frames' self-attention does not read the known frames
(`video.KnownFrameAttention`).

Two rivals are trained in the same way, on the same clips, for the same time, without semantic tokens:
``sparse`` sees the known frames through SparseCtrl's encoder (2311.16933, diffusers' own), ``mask`` through
extra input channels, with frames masked at random, as SEINE (2310.20700).
"""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
import time
import zlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from .. import clips, motion, passages, video, weights
from ..tokens import load_tokenizer
from . import data
from .common import Run, autocast
from .motion import clip_pool, relative_error
from .unet import Prompts, fastest_attention, noise_schedule, time_ids

VARIANTS = ("ours", "apart", "sparse", "mask")
FRAMES = video.WINDOW
#: parts of names of the U-Net's parameters that learn
LEARNS = ("motion_modules", *video.CHANGED)
TRUE_TOKENS, TOKEN_WEIGHT, DROP = 0.3, 0.1, 0.1


# ------------------------------------------------------------------------------------------ what is read


def micro(device="cpu"):
    """The frozen parts: (autoencoder, U-Net, image encoder, prompts)."""
    folder = weights.path("micro")
    vae = AutoencoderKL.from_pretrained(folder / "vae").float().to(device).eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float().to(device)
    vision = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").float().to(device).eval()
    prompts = Prompts(
        CLIPTextModel.from_pretrained(folder / "text_encoder").float(),
        CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").float(),
        load_tokenizer(),
        load_tokenizer(pad_token="!"),
        device=device,
    )
    return vae, unet.requires_grad_(False), vision, prompts


@torch.no_grad()
def encode(some, pixels, vae, vision, prompts, device, batch=32):
    """Clips -> all that training reads, half precision, on the CPU.

    Parameters
    ----------
    some : list of n clips
    pixels : uint8 Tensor [n, F, 3, S, S]

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
        with autocast(device):
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


def prepared(split, n, size=64, folder="checkpoints", device="cpu", parts=None, source="clips"):
    """`encode` of the first ``n`` clips, or passages, of a split, and of train's mirrored; kept in
    ``folder``.
    """
    code = (clips, motion.semantic_tokens, encode, *[passages] * (source == "passages"))
    made_by = zlib.crc32("".join(map(inspect.getsource, code)).encode())
    name = "video" if source == "clips" else source
    path = Path(folder) / f"{name}-{split}-{n}-{FRAMES}-{size}-{made_by:08x}.safetensors"
    if not path.exists():
        vae, _, vision, prompts = parts or micro(device)
        some, pixels = clip_pool(split, n, FRAMES, size, folder, source)
        tensors = encode(some, pixels, vae, vision, prompts, device)
        if split == "train":  # a mirrored clip is a clip too
            mirrored = encode(some, pixels.flip(-1), vae, vision, prompts, device)
            tensors = {k: torch.cat([v, mirrored[k]]) for k, v in tensors.items()}
        weights.atomic_save(path, lambda to: save_file(tensors, to))
    return load_file(path)


def start_predictor(folder="checkpoints"):
    """The predictor that learnt from tokens alone: the checkpoint in ``folder``, else the shipped one, else
    an untrained one.
    """
    checkpoint = Path(folder) / "motion.safetensors"
    if checkpoint.exists():
        net = motion.micro()
        with safe_open(checkpoint, "pt") as f:
            kept = set(f.keys())
            state = {
                k: f.get_tensor(f"ema.{k}" if f"ema.{k}" in kept else f"model.{k}") for k in net.state_dict()
            }
        net.load_state_dict(state)
        return net
    if "motion" in weights.names():
        folder = weights.path("motion") / "predictor"
        return motion.SemanticMotionPredictor.from_pretrained(folder, local_files_only=True).float()
    return motion.micro()


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
            decoder.start_looking_up()
        elif variant != found:
            raise ValueError(
                f"The weights in {begin} are of the variant {found}; {variant} cannot begin with them."
            )
    else:
        adapter = video.motion_adapter(unet, in_channels=9 if variant == "mask" else None)
        moving = video.motion_unet(unet, adapter)
        projection = control = None
        if variant in ("ours", "apart"):
            projection = video.TokenProjection(token_dim, num_tokens, unet.config.cross_attention_dim)
            predictor = predictor or motion.micro(token_dim, num_tokens)
        else:
            predictor = None
        if variant == "sparse":
            control = video.sparse_control(unet).requires_grad_(True)
        pin, look_up = projection is not None, variant == "ours"
        decoder = video.Decoder(moving, projection, control, pin, look_up)
    net = nn.ModuleDict({"decoder": decoder})
    if predictor is not None:
        net["predictor"] = predictor
    return learning(net.to(unet.device))


def variant_of(decoder):
    """Which of `VARIANTS` a decoder is."""
    if decoder.projection is not None:
        return "ours" if decoder.look_up else "apart"
    return "mask" if decoder.control is None else "sparse"


def learning(net):
    """``net``, with all of its U-Net frozen but what learns."""
    decoder = net["decoder"]
    names = LEARNS + video.LOOKS_UP * decoder.look_up
    for name, p in decoder.unet.named_parameters():
        p.requires_grad_(any(k in name for k in names))
    return net


def ends(batch, frames, device):
    """Which frames are known: the first and the last, [B, F]."""
    mask = torch.zeros(batch, frames, device=device)
    mask[:, 0] = mask[:, -1] = 1
    return mask


def random_masks(batch, frames, device):
    """Known frames as SEINE trains with: the ends in half of the clips, else any, but never all, [B, F]."""
    rate = torch.rand(batch, 1, device=device)
    some = (torch.rand(batch, frames, device=device) < rate).float()
    some[:, frames // 2] = 0
    keep = torch.rand(batch, 1, device=device) < 0.5
    return torch.where(keep, ends(batch, frames, device), some)


def motion_weight(x, most=5.0):
    """How much each place counts, [B, 1, 1, h, w], mean about 1: more where the true latents x [B, F, 4, h,
    w] move.
    """
    spread = x.std(1, keepdim=True).mean(2, keepdim=True)  # [B, 1, 1, h, w]
    weight = 1 + (4 * spread).clamp(max=most)
    return weight / weight.mean()


def sizes(n, size, device):
    return torch.tensor([time_ids(size, size)], dtype=torch.float32, device=device).expand(n, -1)


def velocity(net, schedule, x, t, noise, told, ids, mask, tokens, device):
    """Predicted and true velocity, [B, F, 4, h, w] each."""
    flat = t.repeat_interleave(x.shape[1])
    noisy, target = (
        f(x.flatten(0, 1), noise.flatten(0, 1), flat).view_as(x)
        for f in (schedule.add_noise, schedule.get_velocity)
    )
    with autocast(device):
        v = net["decoder"](noisy, t, *told, ids, x, mask, tokens)
    return v.float(), target


def loss_of(net, variant, schedule, batch, empty, ids, device, late=True):
    """One clip batch -> (loss, {"video": ..., "tokens": ...}).

    ``batch``: latents, tokens, states, pooled (as of `encode`); ``empty``: states and pooled of no text.
    """
    x, true, states, pooled = (v.float() for v in batch)
    b, frames = x.shape[:2]
    dropped = torch.rand(b, device=device) < DROP
    states = torch.where(dropped[:, None, None], empty[0], states)
    pooled = torch.where(dropped[:, None], empty[1], pooled)
    tokens, token_loss = None, x.new_zeros(())
    mask = random_masks(b, frames, device) if variant == "mask" else ends(b, frames, device)
    if "predictor" in net:
        with autocast(device):
            told = net["predictor"](true[:, 0], true[:, -1], frames).float()  # [B, F, S, D]
        token_loss = relative_error(told, true).mean()
        taught = torch.rand(b, device=device) < TRUE_TOKENS
        tokens = torch.where(taught[:, None, None, None], true, told)
        tokens = torch.where(dropped[:, None, None, None], torch.zeros_like(tokens), tokens)
    n = schedule.config.num_train_timesteps
    t = torch.randint(0, n, (1 + late, b), device=device).amax(0)  # high noise decides where things are
    v, target = velocity(
        net, schedule, x, t, torch.randn_like(x), (states, pooled), ids, mask, tokens, device
    )
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
    seconds=None,
    batch=16,
    size=64,
    seed=0,
    device="cpu",
    pool=3000,
    folder="checkpoints",
    name=None,
    lr=1e-3,
    muon_lr=0.008,
    parts=None,
    begin=None,
    cooldown=0.5,
    late=True,
):
    """Train a variant, and return ``(net, run)``; ``net`` holds ``decoder`` and, of ours, ``predictor``.

    Parameters
    ----------
    variant : {"ours", "apart", "sparse", "mask"}
    steps, seconds
        The run ends at whichever comes first; its step size falls towards that end.
    batch : int
        Clips a step.
    pool : int
        Clips of the training split.
    folder : str or Path
        Of checkpoints; the one of the motion predictor, if it is there, is what ours begins with.
    begin : str or Path, optional
        Folder of a trained decoder (and predictor), to go on from.
    cooldown : float
        Fraction of the run in which the step size falls.
    late : bool
        Learn more often from much noise, which decides where things are; else from all times alike.
    """
    torch.manual_seed(seed)
    parts = parts or micro(device)
    held = {k: v.to(device) for k, v in prepared("train", pool, size, folder, device, parts).items()}
    _, unet, _, prompts = parts
    dims = held["tokens"].shape
    start = start_predictor(folder) if variant in ("ours", "apart") and begin is None else None
    net = build(variant, unet, dims[3], dims[2], start, begin).train()
    own = video.TokenAttention, video.KnownFrameAttention
    for module in net["decoder"].unet.modules():
        if isinstance(module, Attention) and not isinstance(module.processor, own):
            module.set_processor(fastest_attention(device))
    learner = Learner(net)
    run = Run(
        name or f"video-{variant}",
        learner,
        steps,
        lr,
        muon_lr,
        ema=0.998,
        warmup=100,
        seed=seed,
        folder=folder,
        cooldown=cooldown,
        seconds=seconds,
        began=None if begin is None else card_of(begin),
        facts={
            "batch": batch,
            "clips": pool,
            "variant": variant,
            "lr": lr,
            "muon_lr": muon_lr,
            "cooldown": cooldown,
            "late": late,
        },
    )
    schedule = noise_schedule(device)
    empty, ids = prompts([""]), sizes(batch, size, device)
    for i in run.steps():
        pick = torch.randint(dims[0], (batch,), device=device)
        some = [held[k][pick] for k in ("latents", "tokens", "states", "pooled")]
        loss, numbers = loss_of(net, variant, schedule, some, empty, ids, device, late)
        run.update(loss, i, **numbers)
    run.averaged()
    return net.eval(), run


@torch.no_grad()
def measure(
    net, variant, size=64, device="cpu", n=210, folder="checkpoints", parts=None, batch=16, source="clips"
):
    """Velocity loss of the unknown frames of held-out clips, or passages, ``{time: loss}``, at the same noise
    for every variant.
    """
    held = prepared("heldout", n, size, folder, device, parts, source)
    schedule = noise_schedule(device)
    noise = torch.randn(held["latents"].shape, generator=torch.Generator().manual_seed(0))
    out = {}
    for t in (500, 700, 900):
        losses = []
        for some in torch.arange(n).split(batch):
            x, true, states, pooled = (
                held[k][some].float().to(device) for k in ("latents", "tokens", "states", "pooled")
            )
            mask = ends(len(some), FRAMES, device)
            told = net["predictor"](true[:, 0], true[:, -1], FRAMES) if "predictor" in net else None
            v, target = velocity(
                net,
                schedule,
                x,
                torch.full((len(some),), t, device=device),
                noise[some].to(device),
                (states, pooled),
                sizes(len(some), size, device),
                mask,
                told,
                device,
            )
            losses.append((v - target)[:, 1:-1].square().mean((1, 2, 3, 4)))
        out[str(t)] = round(float(torch.cat(losses).mean()), 4)
    return out


# ------------------------------------------------------------------------------------------ command line


def card_of(folder):
    """The card of a decoder's folder, without its log; None where there is none."""
    shipped = Path(folder).resolve() == (weights.DATA / "video").resolve()
    file = weights.DATA / "cards" / "video.json" if shipped else Path(folder) / "card.json"
    if not file.exists():
        return None
    return {k: v for k, v in json.loads(file.read_text()).items() if k not in ("log", "part")}


def stages(card):
    """Cards of all runs that a decoder went through, the first one first."""
    return [] if card is None else [*stages(card.get("began")), card]


def clips_seen(card):
    """How many clips a decoder learnt from, over all its runs; a clip that came twice counts twice."""
    return sum(c["steps"] * c["batch"] for c in stages(card))


def card(run, heldout, seed):
    """What a variant was trained on, how, for how long, where, and what it reached."""
    return {
        "part": "video",
        "data": f"{run.facts['clips']:,} clips of {FRAMES} frames (clips.specimen, split train)",
        "steps": run.done,
        "seed": seed,
        "seconds": round(run.seconds),
        "torch": torch.__version__.split("+")[0],
        **{k: v for k, v in run.facts.items() if k != "clips"},  # batch, machine, and how it learnt
        "heldout": {"loss": heldout},
        **({"began": run.began} if run.began else {}),
        "log": run.log[:: max(1, len(run.log) // 100)],
    }


def save(net, folder, card):
    """A trained decoder, its predictor and its card: a folder, whole or not at all."""

    def write(to):
        video.save_parts(to, net["decoder"], net["predictor"] if "predictor" in net else None)
        (to / "card.json").write_text(json.dumps(card, indent=1) + "\n")

    weights.atomic_save(folder, write)


@torch.no_grad()
def mean(folders, unet):
    """The mean of decoders and predictors of ours that began with the same weights: ``(net, cards)``.

    Runs that went their ways from one place end around the same better one (model soups, 2203.05482).
    """
    cards = [card_of(folder) for folder in folders]
    for folder, found in zip(folders, cards, strict=True):
        if found is None:
            raise SystemExit(f"There is no card.json in {folder}: name folders that the training wrote.")
    nets = [build("ours", unet, begin=folder) for folder in folders]
    for several in zip(*(net.parameters() for net in nets), strict=True):
        several[0].copy_(torch.stack(several).mean(0))
    return nets[0].eval(), cards


def card_of_mean(cards, heldout):
    """What the runs have in common, what each was, and what their mean reached."""
    total = {k: sum(c[k] for c in cards) for k in ("steps", "seconds")}
    own = {"heldout", *total}
    common = {k: v for k, v in cards[0].items() if k not in own and all(c.get(k) == v for c in cards)}
    each = [{k: v for k, v in c.items() if k not in common} for c in cards]
    return {"part": "video", **common, **total, "heldout": {"loss": heldout}, "mean_of": each}


def pack(source, name="video", root=weights.DATA):
    """Put a trained folder, with its card, among the shipped weights.

    Parameters
    ----------
    source : Path
        What `save` wrote: of ours, with its predictor; or a LoRA (`training.passages.save`).
    name : str
        What the weights are called there.
    """
    if not source.exists():
        raise SystemExit(f"There is no {source}: train it first, python -m storydiff_lite.training {name}")
    weights.atomic_save(root / name, lambda to: shutil.copytree(source, to))
    text = json.loads((root / name / "card.json").read_text())
    text["sha256"] = {
        f.relative_to(root).as_posix(): weights.sha256(f)
        for f in sorted((root / name).rglob("*.safetensors"))
    }
    (root / name / "card.json").unlink()
    weights.atomic_save(
        root / "cards" / f"{name}.json", lambda to: to.write_text(json.dumps(text, indent=1) + "\n")
    )
    weights.write_manifest(root)


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m storydiff_lite.training video", description=__doc__)
    p.add_argument("--variant", choices=VARIANTS, default="ours")
    p.add_argument("--prepare", action="store_true", help="only draw and encode the clips")
    p.add_argument("--pack", action="store_true", help="only put the trained weights among the shipped ones")
    p.add_argument("--mean", nargs="+", metavar="FOLDER", help="take the mean of trained folders of ours")
    p.add_argument("--begin", help="folder to go on from, such as storydiff_lite/data/video")
    p.add_argument("--lr", type=float, default=1e-3, help="step size of AdamW; Muon's is 8 times as large")
    p.add_argument("--cooldown", type=float, default=0.5, help="fraction of the run with falling step size")
    p.add_argument("--even", action="store_true", help="learn from all times alike, not more from much noise")
    p.add_argument("--steps", type=int, default=20000)
    p.add_argument("--seconds", type=float, help="end after so much wall time of training")
    p.add_argument("--batch", type=int, default=16, help="clips a step")
    p.add_argument("--clips", type=int, default=3000, help="clips to train on")
    p.add_argument("--heldout", type=int, default=210, help="clips to measure on")
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--folder", default="checkpoints")
    a = p.parse_args(argv)
    if a.pack:
        return pack(Path(a.folder) / "video-ours")
    began = time.time()
    if a.prepare:
        some = (("train", a.clips), ("validation", min(42, a.heldout)), ("heldout", a.heldout))
        for split, n in some:  # drawing forks, so it comes before anything is on a GPU
            clip_pool(split, n, FRAMES, a.size, a.folder)
        parts = micro(a.device)
        for split, n in some:
            prepared(split, n, a.size, a.folder, a.device, parts)
        print(f"prepared in {time.time() - began:.0f} s")
        return None
    parts = micro(a.device)
    if a.mean:
        net, cards = mean(a.mean, parts[1])
        heldout = measure(net, "ours", a.size, a.device, a.heldout, a.folder, parts)
        save(net, Path(a.folder) / "video-ours", card_of_mean(cards, heldout))
        print(f"the mean of {len(cards)}, held out: {heldout}")
        return None
    net, run = train(
        a.variant,
        a.steps,
        a.seconds,
        a.batch,
        a.size,
        a.seed,
        a.device,
        a.clips,
        a.folder,
        lr=a.lr,
        muon_lr=8 * a.lr,
        parts=parts,
        begin=a.begin,
        cooldown=a.cooldown,
        late=not a.even,
    )
    heldout = measure(net, a.variant, a.size, a.device, a.heldout, a.folder, parts)
    save(net, Path(a.folder) / f"video-{a.variant}", card(run, heldout, a.seed))
    print(f"video-{a.variant}: {run.done} steps, {run.seconds:.0f} s, held out: {heldout}")
    return None
