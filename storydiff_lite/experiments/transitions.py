"""Transitions to fill in, what fills them in, and how far that is from the truth (chapter 09).

Three data sets: held-out or validation clips (`clips`) and passages (`passages`), whose frames between are
known, and stories, of which only two panels are.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property, partial
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from .. import motion, video, weights, world
from ..judge import StoryJudge
from ..pipeline import StoryPipeline
from ..training.common import autocast
from ..training.data import on_all_cores
from ..training.motion import clip_pool
from ..training.unet import LOOKS, noise_schedule, sizes
from ..training.video import FRAMES, encode, micro, prepared, start_predictor
from ..video.refine import refine
from . import finder
from .records import summary

#: what the judge reads of a character
READ = ("species", "fur", "outfit", "accessory", "accessory_colour")
#: ways to fill in the frames that no decoder draws
FIXED = ("truth", "coded", "latents", "fade", "cut")


class TransitionBenchmark:
    """All that is needed to fill in and to measure ``n`` transitions of a data set.

    Parameters
    ----------
    source : {"clips", "passages", "stories"}
    split : str
        As of the source.
    n : int
    device : str
    folder : str or Path
        Where drawn and encoded transitions are kept.
    load : callable, optional
        ``load(name, unet) -> (decoder, predictor)`` of the models that are compared.
    """

    def __init__(self, source, split, n, device="cpu", folder="checkpoints", load=None):
        self.device, self.folder, self.load, self._models = device, folder, load, {}
        self.batch = 42 if torch.device(device).type == "cuda" else 2  # clips; more are slower on a CPU
        # a CPU measures in float32, so that all of them find the same; a GPU in what is fast there
        self.dtype = torch.float32 if torch.device(device).type == "cpu" else None
        size, cut_out = weights.picture_size(), []
        if source == "stories":
            self.items, self.truth = stories(split, n, device)
        else:  # drawing forks, so it comes before anything is on a GPU
            self.items, self.truth = clip_pool(split, n, FRAMES, size, folder, source)
            cut_out = on_all_cores(finder.cut_out_all, self.items, "cutting out", few=200)
        self.banks = [[finder.as_bank(arrays) for arrays in actors] for actors in cut_out]
        self.vae, self.unet, self.vision, self.prompts = parts = micro(device)
        if source == "stories":
            inputs = encode(self.items, self.truth, self.vae, self.vision, self.prompts, device)
        else:
            inputs = prepared(split, n, size, folder, device, parts, source)
        self.inputs = {k: v.float() for k, v in inputs.items()}  # latents, tokens, states, pooled
        self.schedule, self.judge = noise_schedule(), StoryJudge.load(device=device)
        self.empty = self.prompts([""])

    def model(self, name):
        """(decoder, predictor) of a model."""
        if name not in self._models:
            self._models[name] = self.load(name, self.unet)
        return self._models[name]

    def batches(self):
        """Numbers of the transitions that are computed together, and their inputs on the device."""
        for at in torch.arange(len(self.items)).split(self.batch):
            yield at, {k: v[at].to(self.device) for k, v in self.inputs.items()}

    # ------------------------------------------------------------------------------------ filling in

    def fill(self, seed=0, make=None, model=None, refine=0.0, **how):
        """Frames of all transitions, uint8 [n, F, 3, S, S]; the first and the last are the true ones.

        Parameters
        ----------
        seed : int
            Of all noise.
        make : str, optional
            One of `FIXED`; else a ``model`` draws.
        refine : float
            How strongly the U-Net that draws pictures redraws what a model has drawn.
        **how
            As of `draw`.
        """
        if make is not None:
            return self.fixed(make)
        z = self.draw(model, seed, **how)
        return self.decode(self.redraw(z, refine, seed) if refine else z)

    def fixed(self, make):
        """What no decoder draws: one of `FIXED`."""
        times, z = torch.linspace(0, 1, FRAMES), self.inputs["latents"]
        if make == "truth":
            return self.truth
        if make in ("coded", "latents"):
            return self.decode(z if make == "coded" else video.blend(z[:, 0], z[:, -1], times))
        times = times.round() if make == "cut" else times
        ends = (x[:, [0, -1]].float().unbind(1) for x in self.truth.split(self.batch))
        return torch.cat([video.blend(*pair, times).round().byte() for pair in ends])

    @torch.no_grad()
    def draw(self, model, seed=0, tokens=None, steps=12, guidance=1.0, eta=1.0):
        """Latents that a model draws, [n, F, 4, h, w].

        Parameters
        ----------
        tokens : {"joint", "line", "alone", "true"}, optional
            Which tokens it reads: its own predictor's, those on a straight line, those of the predictor that
            learnt from tokens alone, or the true ones.
        steps, guidance, eta
            As of `video.sample`.
        """
        decoder, out = self.model(model)[0], []
        ids = sizes(1, self.vae.config.sample_size, self.device)
        for at, held in self.batches():
            z = held["latents"]
            generators = video.noise_generators(seed, at.tolist())
            noise = torch.stack([torch.randn(z.shape[1:], generator=g) for g in generators]).to(z.device)
            prompt_embeds = held["states"], held["pooled"]
            how = {"steps": steps, "seed": seed, "eta": eta, "generators": generators}
            with autocast(self.device, self.dtype):
                k = self.tokens(tokens, held["tokens"], model)
                read = video.Conditions(prompt_embeds, self.empty, ids, k, guidance)
                out.append(video.sample(decoder, self.schedule, z, noise, read, **how))
        return torch.cat(out)

    def tokens(self, kind, true, model):
        """Tokens that a decoder reads, from the true ones [B, F, S, D]."""
        if kind in (None, "true"):
            return true if kind else None
        if kind == "alone":  # the predictor of chapter 08
            predict = start_predictor(self.folder).to(self.device)
        else:
            predict = {"line": motion.interpolate, "joint": self.model(model)[1]}[kind]
        return predict(true[:, 0], true[:, -1], FRAMES)

    def redraw(self, z, strength, seed=0):
        """Latents [n, F, 4, h, w], refined by the U-Net that draws pictures."""
        ids, out = sizes(1, self.vae.config.sample_size, self.device), []
        with video.reading_key_frames(self.unet):
            for at, held in self.batches():
                prompt_embeds, own = (held["states"], held["pooled"]), f"{seed}/{int(at[0])}"
                out.append(refine(self.unet, self.schedule, z[at], prompt_embeds, ids, strength, seed=own))
        return torch.cat(out)

    @torch.no_grad()
    def decode(self, z):
        """Latents [n, F, 4, h, w] -> uint8 [n, F, 3, S, S], with the true first and last frame."""
        out = []
        for batch in z.split(self.batch):
            flat = batch.flatten(0, 1).to(self.device) / self.vae.config.scaling_factor
            with autocast(self.device, self.dtype):
                x = torch.cat([self.vae.decode(y).sample.float() for y in flat.split(16 * self.batch)])
            x = (x.clamp(-1, 1) / 2 + 0.5).unflatten(0, batch.shape[:2])
            out.append((x * 255).round().byte().cpu())
        x = torch.cat(out)
        x[:, [0, -1]] = self.truth[:, [0, -1]]
        return x

    # ------------------------------------------------------------------------------------- measuring

    @cached_property
    def bank(self):
        """The finder's bank of all actors, and in which transition each is, [number of actors]."""
        whose = torch.tensor([i for i, actors in enumerate(self.banks) for _ in actors])
        bank = finder.stacked([b for actors in self.banks for b in actors])
        return finder.Bank(*(v.to(self.device) for v in vars(bank).values())), whose

    @torch.no_grad()
    def errors(self, frames, batch=32, without_own=False):
        """Distance of the characters to the truth, (whole, parts), [n] each; mean over a transition's actors.

        Parameters
        ----------
        frames : uint8 Tensor [n, F, 3, S, S]
        batch : int
            Actors that are looked for together.
        without_own : bool
            As of `finder.find`.
        """
        bank, whose = self.bank
        found = []
        for at in torch.arange(len(whose)).split(batch):
            x = frames[whose[at]].to(self.device).float() / 255
            part = finder.Bank(*(v[at.to(self.device)] for v in vars(bank).values()))
            found.append(torch.stack(finder.errors(x, part, without_own)).cpu())
        found = torch.cat(found, 1)  # [2, actors]
        total = torch.zeros(2, len(self.items)).index_add_(1, whose, found)
        return total / torch.bincount(whose, minlength=len(self.items))

    def identity(self, x, items):
        """Share of the (first) character's attributes that the judge reads right in frames x [B, F, 3, S, S]
        of these transitions, [B]; and how probable it finds what it reads, [B].
        """
        read, right, sure = self.judge.read(x.flatten(0, 1)), [], []
        for a in READ:
            wanted = [world.ATTRIBUTES[a].index(getattr(finder.characters(i)[0], a)) for i in items]
            p, found = read[a].max(-1)
            right.append(found.view(x.shape[:2]) == torch.tensor(wanted, device=found.device)[:, None])
            sure.append(p.view(x.shape[:2]))
        return tuple(torch.stack(v).float().mean((0, 2)) for v in (right, sure))

    def features(self, x):
        """The judge's features of frames x [B, F, 3, S, S] of 0..1: after each of its blocks, normalized,
        [B, F, C, h, w].
        """
        h, layers = self.judge.pixels(x.flatten(0, 1)), []
        for module in self.judge.net.body:
            h = module(h)
            if isinstance(module, torch.nn.SiLU) and h.ndim == 4:
                layers.append(F.normalize(h, dim=1).unflatten(0, x.shape[:2]))
        return layers[1::2]


def distance(a, b):
    """Distance of two lists of `TransitionBenchmark.features`, mean over frames, [B]: stands for LPIPS."""
    each = [(p - q).square().sum(2).mean((1, 2, 3)) for p, q in zip(a, b, strict=True)]
    return torch.stack(each).mean(0)


# ------------------------------------------------------------------------------------------- stories


@dataclass(frozen=True)
class Story:
    """Two panels: who is in them, and the prompt of the second."""

    actors: tuple[world.Character, ...]
    prompt: str

    def caption(self):
        return self.prompt


def stories(split, n, device="cpu"):
    """``n`` stories of two panels, in one scene and in two by turns; and the panels as first and last frame
    of uint8 [n, F, 3, S, S], the others empty.
    """
    items, size = [], weights.picture_size()
    frames = torch.zeros(n, FRAMES, 3, size, size, dtype=torch.uint8)
    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    for i in tqdm(range(n), desc="drawing stories", mininterval=10):
        rng = random.Random(f"told/{split}/{i}")
        character = world.random_character(rng, split == "heldout")
        actions = rng.sample(tuple(world.ACTIONS.values()), 2)
        scenes = rng.sample(tuple(world.SCENES.values()), 2)
        scenes = scenes if i % 2 else [scenes[0]] * 2
        looks = world.describe(character, LOOKS)
        prompts = [f"{looks} {does} {where}" for does, where in zip(actions, scenes, strict=True)]
        panels = pipe(prompts, seed=i, consistency=1, layers="all", output_type="pt").images
        frames[i, [0, -1]] = (panels.float().cpu() * 255).round().byte()
        items.append(Story((character,), prompts[1]))
    return items, frames


# ------------------------------------------------------------------------------------------- records


def opened(source, load, measure, device="cpu", **how):
    """``rows_of(setting, numbers)``: of the first held-out transition, under one noise, by the shipped
    weights; ``how`` it is filled in.
    """
    with TemporaryDirectory() as scratch:
        benchmark = TransitionBenchmark(source, "heldout", 1, device, scratch, load)

    def rows_of(setting, numbers):
        rows = average([measure(benchmark, benchmark.fill(0, **how | setting))])
        return [rows[i] for i in numbers]

    return rows_of


def average(several):
    """Rows of several seeds -> rows of their means."""
    out = []
    for i, rows in enumerate(zip(*several, strict=True)):
        mean = {
            k: {"mean": None if rows[0][k] is None else round(float(np.mean([r[k] for r in rows])), 5)}
            for k in rows[0]
        }
        out.append({"seed": i} | mean)
    return out


def means(rows, kinds):
    """``{metric: mean}`` of rows of one seed, without those that have no meaning."""
    values = {k: [r[k] for r in rows if r[k] is not None] for k in kinds}
    return {k: round(float(np.mean(v)), 5) for k, v in values.items() if v}


#: ``{metric: (mean, low, high)}``; transitions are the sample
summarize = partial(summary, digits=5)
