"""From panel to panel: what the decoder of clips makes of it, and what mends it (chapter 09).

Two things are tried, alone and together: a LoRA that learnt from passages (`training.passages`), and
redrawing by the U-Net that draws panels (`refine`), as strongly as was best on validation stories.  Drawn in
four steps, as the chapters do on a CPU, and measured three times:

- on held-out passages (`passages`), whose characters and pairs of actions no training saw, and whose truth is
  known;
- on stories: two panels that the story pipeline drew of a held-out character, whose looks the prompts name.
  There is no truth between them, but who is to be seen is known;
- on held-out clips: what both cost where nothing was wrong.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import clips, motion, refine, video, weights, world
from ..judge import StoryJudge
from ..pipeline import StoryPipeline
from ..training.motion import clip_pool
from ..training.unet import noise_schedule
from ..training.video import FRAMES, encode, micro, prepared, sizes
from . import finder
from .records import Experiment, header, sweep
from .video import READ, SIZE, Studio, average, summarize

SEEDS, STEPS = 3, 4
#: how many stories and clips are measured, where there are as many passages
STORIES, CLIPS = 21, 14
#: strengths of refining that are tried on validation stories
STRENGTHS = (0.0, 0.3, 0.5, 0.7)
#: metric -> which way is better (-1 less, 1 more, 0 neither: compare it with the truth)
KINDS = {
    "parts": -1,  # distance of the characters' joints to the truth, in picture heights
    "looks": -1,  # distance of the judge's features to those of the true frame; stands for LPIPS
    "identity": 1,  # attributes that the judge reads right, over the frames between; one and the same actor
    "certainty": 1,  # probability that the judge gives to what it reads
    "flicker": 0,  # mean absolute second difference in time
}
DECODERS = {"clips alone": None, "with passages": "passages"}
#: all that is to be seen of somebody
NAMED = frozenset({"fur", "skin", "outfit", "accessory", "accessory_colour"})


def passage_settings(strength) -> dict[str, dict]:
    """Name -> how the frames between are made, and between the ends of what."""
    drawn = {
        "clips alone": {"model": "clips alone"},
        "clips alone, refined": {"model": "clips alone", "refine": strength},
        "with passages": {"model": "with passages"},
        "with passages, refined": {"model": "with passages", "refine": strength},
    }
    fixed = {
        "truth, through the autoencoder": {"make": "coded"},
        "cross-fade": {"make": "fade"},
        "cut": {"make": "cut"},
    }
    stories = {name: how for name, how in (fixed | drawn).items() if how != {"make": "coded"}}
    return {
        **fixed,
        **drawn,
        **{f"stories: {name}": how | {"source": "stories"} for name, how in stories.items()},
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


class Films(Studio):
    """Held-out, or validation, passages, clips or stories, and films between their ends.

    Parameters
    ----------
    source : {"passages", "clips", "stories"}
    """

    def __init__(self, source, split, n, device="cpu", folder="checkpoints"):
        self.device, self.folder = device, Path(folder)
        self.batch = 42 if torch.device(device).type == "cuda" else 2
        self.banks = None
        if source == "stories":
            self.clips, self.truth = told(split, n, device)
        else:
            self.clips, self.truth = clip_pool(split, n, FRAMES, SIZE, folder, source)
            bar = tqdm(self.clips, desc="cutting out", mininterval=10)
            self.banks = [finder.banks(c) if source == "clips" else cut_out(c) for c in bar]
        self.vae, self.unet, self.vision, self.prompts = parts = micro(device)
        if source == "stories":
            held = encode(self.clips, self.truth, self.vae, self.vision, self.prompts, device)
        else:
            held = prepared(split, n, SIZE, folder, device, parts, source)
        self.held = {k: v.float() for k, v in held.items()}
        self.schedule, self.judge = noise_schedule(), StoryJudge.load(device=device)
        self.models = {
            name: video.load_parts(weights.path("video"), self.unet, lora and weights.path(lora))
            for name, lora in DECODERS.items()
        }
        video.read_ends(self.unet)  # after the decoders were made of it: it is the refiner now
        self.empty, self.drawn = self.prompts([""]), {}

    @torch.no_grad()
    def film(self, seed=0, make=None, model=None, refine=0.0):
        """Frames, uint8 [n, F, 3, S, S]; the first and the last are the true ones."""
        out = []
        for at in torch.arange(len(self.clips)).split(self.batch):
            true = self.truth[at].to(self.device).float() / 255
            held = {k: v[at].to(self.device) for k, v in self.held.items()}
            if make in ("fade", "cut"):
                times = torch.linspace(0, 1, FRAMES)
                times = (times.round() if make == "cut" else times).tolist()
                x = torch.stack([true[:, 0].lerp(true[:, -1], t) for t in times], 1)
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

    @torch.no_grad()
    def measure(self, frames) -> list[dict]:
        """``{metric: value}`` of each film; None where a metric has no meaning."""
        rows = []
        for i, clip in enumerate(self.clips):
            x, true = (v[i].to(self.device).float() / 255 for v in (frames, self.truth))
            row = {"flicker": (x[2:] - 2 * x[1:-1] + x[:-2]).abs().mean()}
            if self.banks is not None:
                row["parts"] = np.mean([float(finder.errors(x, bank)[1]) for bank in self.banks[i]])
                row["looks"] = self.apart(x[1:-1], true[1:-1])
            if len(who := cast(clip)) == 1:
                row["identity"] = self.identity(x[None, 1:-1], [Shown(who)])[0]
                read = self.judge.read(x[1:-1])
                row["certainty"] = torch.stack([read[a].amax(-1).mean() for a in READ]).mean()
            rows.append({k: round(float(row[k]), 5) if k in row else None for k in KINDS})
        return rows

    def apart(self, x, y):
        """Distance of the judge's features of pictures x and y [n, 3, S, S], after each of its blocks."""
        a, b, out = self.judge.pixels(x), self.judge.pixels(y), []
        for module in self.judge.net.body:
            a, b = module(a), module(b)
            if isinstance(module, torch.nn.SiLU) and a.ndim == 4:
                p, q = (torch.nn.functional.normalize(v, dim=1) for v in (a, b))
                out.append((p - q).square().sum(1).mean())
        return torch.stack(out[1::2]).mean()


class Shown:
    """Who is in a film, as `Studio.identity` asks a clip for it; and what `encode` asks for."""

    def __init__(self, actors, prompt=""):
        self.actors, self.prompt = actors, prompt

    def caption(self):
        return self.prompt


def cast(clip):
    """Who is in a clip, a passage or a story."""
    return tuple(a.character for a, _ in clip.ways()) if hasattr(clip, "ways") else clip.actors


def told(split, n, device="cpu"):
    """``n`` stories of two panels, in one scene and in two by turns: who is in each, with the last prompt;
    and the panels as first and last frame of uint8 [n, F, 3, S, S], the others empty.
    """
    some, frames = [], torch.zeros(n, FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    for i in tqdm(range(n), desc="telling stories", mininterval=10):
        rng = random.Random(f"told/{split}/{i}")
        while clips.withheld(who := world.Character.random(rng)) != (split == "heldout"):
            pass
        actions = rng.sample(tuple(world.ACTIONS.values()), 2)
        scenes = rng.sample(tuple(world.SCENES.values()), 2)
        scenes = scenes if i % 2 else [scenes[0]] * 2
        who_said = world.describe(who, NAMED)
        prompts = [f"{who_said} {does} {where}" for does, where in zip(actions, scenes, strict=True)]
        panels = pipe(prompts, seed=i, consistency=1, layers="all", output_type="pt").images
        frames[i, [0, -1]] = (panels.float().cpu() * 255).round().byte()
        some.append(Shown((who,), prompts[1]))
    return some, frames


def choose(device, folder, n) -> dict:
    """What refining of several strengths does to validation stories, ``{strength: {metric: mean}}``."""
    studio, out = Films("stories", "validation", n, device, folder), {}
    for strength in STRENGTHS:
        rows = studio.measure(studio.film(0, model="with passages", refine=strength))
        means = {k: [r[k] for r in rows if r[k] is not None] for k in KINDS}
        out[str(strength)] = {k: round(float(np.mean(v)), 5) for k, v in means.items() if v}
    return out


def run(stories=35, device="cpu", folder="checkpoints"):
    """The record of ``stories`` held-out passages, and of fewer stories and clips."""
    tried = choose(device, folder, min(STORIES, stories))
    best = max((s for s in STRENGTHS if s), key=lambda s: tried[str(s)]["identity"])
    numbers = {"passages": stories, "stories": min(STORIES, stories), "clips": min(CLIPS, stories)}
    studios = {}

    def rows_of(setting):
        setting = dict(setting)
        source = setting.pop("source", "passages")
        if source not in studios:
            studios.clear()  # one at a time: they are large
            studios[source] = Films(source, "heldout", numbers[source], device, folder)
        several = []
        for seed in tqdm(range(SEEDS if "model" in setting else 1), desc="seeds", leave=False):
            several.append(studios[source].measure(studios[source].film(seed, **setting)))
        return average(several)

    record = header(
        "passages",
        stories,
        FRAMES,
        split="heldout",
        sampled_seeds=SEEDS,
        steps=STEPS,
        numbers=numbers,
        strength=best,
        validation=tried,
        **EXPERIMENT.fingerprint(),
    )
    return sweep(record, passage_settings(best), rows_of, tuple(KINDS), summarize=summarize)


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
        told,
    ),
    weights=("micro", "judge", "video", "passages"),
    stories=35,
)
