"""From panel to panel: what the decoder of clips makes of it, and what mends it (chapter 09).

Held-out passages (`passages`): characters, and pairs of actions, that no training saw.  Their truth is known,
as that of clips is.  Two things are tried, each alone and both together: a LoRA that learnt from passages
(`training.passages`), and redrawing by the U-Net that draws panels (`refine`), as strongly as was best on
validation passages.  Drawn in four steps, as the chapters do on a CPU.  The last rows measure what both cost
where nothing was wrong: on held-out clips.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import motion, refine, video, weights, world
from ..judge import StoryJudge
from ..training.motion import clip_pool
from ..training.unet import noise_schedule
from ..training.video import FRAMES, micro, prepared, sizes
from . import finder
from .records import Experiment, header, sweep
from .video import SIZE, Studio, average, summarize

SEEDS, STEPS, CLIPS = 3, 4, 42
#: strengths of refining that are tried on validation passages
STRENGTHS = (0.0, 0.3, 0.5, 0.7)
#: metric -> which way is better (-1 less, 1 more, 0 neither: compare it with the truth)
KINDS = {
    "parts": -1,  # distance of the characters' joints to the truth, in picture heights
    "face": -1,  # mean absolute difference of what is drawn where the head is to how it looks in truth
    "identity": 1,  # attributes that the judge reads right, over the frames between; one and the same actor
    "flicker": 0,  # mean absolute second difference in time
}
#: pixels around the joint of a head, at a size of 64, that count as its face
FACE = 8
DECODERS = {"clips alone": None, "with passages": "passages"}


def passage_settings(strength) -> dict[str, dict]:
    """Name -> how the frames between are made, and between the ends of what."""
    drawn = {
        "clips alone": {"model": "clips alone"},
        "clips alone, refined": {"model": "clips alone", "refine": strength},
        "with passages": {"model": "with passages"},
        "with passages, refined": {"model": "with passages", "refine": strength},
    }
    return {
        "truth, through the autoencoder": {"make": "coded"},
        "cross-fade": {"make": "fade"},
        **drawn,
        **{f"clips: {name}": how | {"source": "clips"} for name, how in drawn.items()},
    }


def cut_out(passage, frames=FRAMES, size=SIZE) -> list[finder.Bank]:
    """A `finder.Bank` for everybody in a passage."""
    every = [passage.actors(i / (frames - 1)) for i in range(frames)]
    out = []
    for k in range(len(every[0])):
        found = {"masks": [], "colours": [], "joints": [], "scenes": []}
        for i, actors in enumerate(every):
            t = i / (frames - 1)
            alone = world.Picture(passage.last.scene, (actors[k],), passage.last.seed)
            mask = np.zeros((size, size), bool)
            for name, m in world.masks(alone, size).items():
                if name[0].isdigit() and name.split(".")[1] not in finder.NOT:
                    mask |= m
            drawn = np.asarray(passage.image(t, size, (actors[k],))).transpose(2, 0, 1)
            others = np.asarray(passage.image(t, size, actors[:k] + actors[k + 1 :])).transpose(2, 0, 1)
            at = world.joints(alone)
            found["masks"].append(mask)
            found["colours"].append(drawn / 255 * mask)
            found["scenes"].append(others / 255)
            found["joints"].append([at[f"0.{p}"] for p in finder.PARTS])
        out.append(finder.as_bank({k: np.array(v, np.float32) for k, v in found.items()}))
    return out


@torch.no_grad()
def parts_and_face(frames, bank):
    """Of one actor, (distance of the joints to the truth, difference of the face), over the frames between.

    Parameters
    ----------
    frames : Tensor [F, 3, S, S]
        0..1.
    bank : finder.Bank
    """
    size = frames.shape[-1]
    found, true = finder.find(frames, bank), bank.joints  # [F, J, 2]
    head = finder.PARTS.index("head")
    there = torch.stack(
        torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy"), -1
    )  # [S, S, 2]
    faces = []
    for f in range(1, len(frames) - 1):
        near = (there - true[f, head] * size).norm(dim=-1) < FACE * size / 64
        where = near & (bank.masks[f] > 0)
        if not where.any():  # he is outside of the picture
            continue
        x, y = ((found[f, head] - true[f, head]) * size).round().int().tolist()
        moved = frames[f].roll((-y, -x), (1, 2))  # what is drawn around the head, at its true place
        faces.append((moved - bank.colours[f]).abs().mean(0)[where].mean())
    away = (found - true)[1:-1].norm(dim=-1).mean()
    return float(away), float(torch.stack(faces).mean()) if faces else None


class Films(Studio):
    """A `Studio` with the two decoders, whose films can be refined."""

    def begin(self, split, n, device, folder, source):
        self.device, self.folder = device, Path(folder)
        self.batch = 42 if torch.device(device).type == "cuda" else 2
        self.clips, self.truth = clip_pool(split, n, FRAMES, SIZE, folder, source)
        self.vae, self.unet, self.vision, self.prompts = parts = micro(device)
        held = prepared(split, n, SIZE, folder, device, parts, source)
        self.held = {k: v.float() for k, v in held.items()}
        self.schedule, self.judge = noise_schedule(), StoryJudge.load(device=device)
        self.models = {
            name: video.load_parts(weights.path("video"), self.unet, lora and weights.path(lora))
            for name, lora in DECODERS.items()
        }
        video.read_ends(self.unet)  # after the decoders were made of it: it is the refiner now
        self.empty, self.drawn = self.prompts([""]), {}

    def __init__(self, split, n, device="cpu", folder="checkpoints"):
        self.begin(split, n, device, folder, "passages")
        self.banks = [cut_out(p) for p in tqdm(self.clips, desc="cutting out", mininterval=10)]
        self.cast = [tuple(a.character for a, _ in p.ways()) for p in self.clips]

    @torch.no_grad()
    def film(self, seed=0, make=None, model=None, refine=0.0):
        """Frames, uint8 [n, F, 3, S, S]; the first and the last are the true ones."""
        out = []
        for at in torch.arange(len(self.clips)).split(self.batch):
            true = self.truth[at].to(self.device).float() / 255
            held = {k: v[at].to(self.device) for k, v in self.held.items()}
            if make == "fade":
                x = torch.stack([true[:, 0].lerp(true[:, -1], i / (FRAMES - 1)) for i in range(FRAMES)], 1)
            else:
                x = self.decode(self.z(held, at, seed, make, model, refine))
            x[:, [0, -1]] = true[:, [0, -1]]
            out.append((x * 255).round().byte().cpu())
        return torch.cat(out)

    def z(self, held, at, seed, make, model, strength):
        """Latents of some films; what a decoder has drawn is kept, to be refined later."""
        key = (model, seed, int(at[0]))
        if make == "coded":
            return held["latents"]
        if key not in self.drawn:
            self.drawn[key] = self.latents(held, at, seed, 1.0, None, model, "joint", STEPS, 1.0)
        z = self.drawn[key]
        if strength:
            told, ids = (held["states"], held["pooled"]), sizes(1, SIZE, z.device)
            some = f"{seed}/{key[2]}"
            z = refine.refine(self.unet, self.schedule, z, told, ids, strength, seed=some)
        return z

    def measure(self, frames) -> list[dict]:
        """``{metric: value}`` of each film; identity is None where two have a part."""
        rows = []
        for i, banks in enumerate(self.banks):
            x = frames[i].float() / 255
            found = [parts_and_face(x, bank) for bank in banks]
            second = (x[2:] - 2 * x[1:-1] + x[:-2]).abs().mean()
            row = {"parts": np.mean([p for p, _ in found]), "flicker": second}
            row["face"] = np.mean([f for _, f in found if f is not None])
            if len(self.cast[i]) == 1:
                row["identity"] = self.identity(x[None, 1:-1].to(self.device), [Shown(self.cast[i])])[0]
            rows.append({k: round(float(row[k]), 5) if k in row else None for k in KINDS})
        return rows


class ClipFilms(Films):
    """The same of held-out clips."""

    def __init__(self, n, device="cpu", folder="checkpoints"):
        self.begin("heldout", n, device, folder, "clips")
        self.banks = [finder.banks(c, FRAMES, SIZE) for c in tqdm(self.clips, desc="cutting out")]
        self.cast = [c.actors for c in self.clips]


class Shown:
    """Who is in a film, as `Studio.identity` asks a clip for it."""

    def __init__(self, actors):
        self.actors = actors


def choose(device, folder, n) -> dict:
    """What refining of several strengths does to validation passages, ``{strength: {metric: mean}}``."""
    studio, out = Films("validation", n, device, folder), {}
    for strength in STRENGTHS:
        rows = studio.measure(studio.film(0, model="with passages", refine=strength))
        out[str(strength)] = {
            k: round(float(np.mean([r[k] for r in rows if r[k] is not None])), 5) for k in KINDS
        }
    return out


def run(stories=70, device="cpu", folder="checkpoints"):
    """The record of ``stories`` held-out passages."""
    tried = choose(device, folder, min(28, stories))
    best = min((s for s in STRENGTHS if s), key=lambda s: tried[str(s)]["face"])
    studios, settings = {}, passage_settings(best)

    def rows_of(setting):
        setting = dict(setting)
        source = setting.pop("source", "passages")
        if source not in studios:
            clips = source == "clips"
            studios[source] = (
                ClipFilms(min(CLIPS, stories), device, folder)
                if clips
                else Films("heldout", stories, device, folder)
            )
        seeds = range(SEEDS if "model" in setting else 1)
        studio, several = studios[source], []
        for seed in tqdm(seeds, desc="seeds", leave=False):
            several.append(studio.measure(studio.film(seed, **setting)))
        return average(several)

    record = header(
        "passages",
        stories,
        FRAMES,
        split="heldout",
        sampled_seeds=SEEDS,
        steps=STEPS,
        clips=min(CLIPS, stories),
        validation=tried,
        **EXPERIMENT.fingerprint(),
    )
    return sweep(record, settings, rows_of, tuple(KINDS), summarize=summarize)


EXPERIMENT = Experiment(
    run=run,
    files=("passages.py", "clips.py", "refine.py", "experiments/finder.py"),
    functions=(
        video.Decoder,
        video.deal,
        video.sample,
        video.TokenProjection,
        video.KnownFrameAttention,
        motion.semantic_tokens,
        motion.SemanticMotionPredictor,
        Studio,
        Films,
        cut_out,
        parts_and_face,
    ),
    weights=("micro", "judge", "video", "passages"),
    stories=70,
)
