"""Which transition is right? Seven ways to fill in what happens between two pictures (chapter 09).

The paper's Table 2 at this scale: its four metrics, each with the micro encoders that stand in for the real
ones, and what no table of real videos can have: the distance to the truth.

All that a U-Net draws is drawn alike: in the pipeline's own number of steps, with noise drawn anew in each,
and with the guidance that was best for that model on validation clips. *SparseCtrl idea*, *SEINE idea*,
*this, frames apart* and *this, trained alike* learnt on the same clips for the same time
(``tools/transitions.sh``); *this*, the shipped decoder, went on from the last of them alone. How many clips
each has seen, and on which machine, stands in ``learnt``.

A model is measured once: rows of an earlier record are kept where the model, the steps and the guidance are
the same, and ``machines`` says where each was measured. It is an experiment for a GPU: a CPU needs a day.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm

from .. import clips, motion, video, weights, world
from ..judge import StoryJudge
from ..training.common import autocast
from ..training.data import on_all_cores
from ..training.motion import clip_pool
from ..training.unet import noise_schedule
from ..training.video import FRAMES, card_of, clips_seen, micro, prepared, sizes, stages, start_predictor
from . import finder
from .records import RESULTS, Experiment, header, mean_and_interval, sweep

SEEDS, STEPS, ETA, SIZE = 3, 12, 1.0, 64
#: guidance scales that are tried on validation clips
SCALES = (1.0, 1.5, 2.5)
#: which tokens a model reads
TOKENS = {"ours": "joint", "alike": "joint", "apart": "joint", "sparse": None, "mask": None}
#: metric -> which way is better (-1 less, 1 more, 0 neither: compare it with the truth)
KINDS = {
    "place": -1,  # distance of the characters to the truth, in picture heights
    "parts": -1,  # the same, mean over their joints
    "pixels": -1,  # mean absolute difference to the truth, where something moves
    "identity": 1,  # attributes that the judge reads right, over the frames between
    "flicker": -1,  # second difference in time, where nothing moves
    "features_first": -1,  # judge's features, frame i to the first: stands for LPIPS-first
    "features_frames": -1,  # ... frame i to frame i + 1: stands for LPIPS-frames
    "embedding_first": 1,  # cosine of micro CLIP's image embeddings: stands for CLIPSIM-first
    "embedding_frames": 1,  # ... stands for CLIPSIM-frames
}
#: Table 2 of the paper: LPIPS-first, LPIPS-frames, CLIPSIM-first, CLIPSIM-frames
PAPER = {
    "SEINE": (0.4332, 0.2220, 0.9259, 0.9736),
    "SparseCtrl": (0.4913, 0.1768, 0.9032, 0.9756),
    "StoryDiffusion": (0.3794, 0.1635, 0.9606, 0.9870),
}
READ = ("species", "fur", "outfit", "accessory", "accessory_colour")
#: clips whose frames are kept to be looked at: the first of each kind
SHOWN = len(clips.KINDS)


def video_settings() -> dict[str, dict]:
    """Name -> how the frames between are made."""
    return {
        "truth": {"make": "truth"},
        "truth, through the autoencoder": {"make": "coded"},
        "cross-fade": {"make": "fade"},
        "straight line in latents": {"make": "latents"},
        "straight line in tokens": {"model": "ours", "tokens": "line"},
        "SparseCtrl idea": {"model": "sparse"},
        "SEINE idea": {"model": "mask"},
        "this, frames apart": {"model": "apart", "tokens": "joint"},
        "this, trained alike": {"model": "alike", "tokens": "joint"},
        "this": {"model": "ours", "tokens": "joint"},
        "this, predictor trained on tokens alone": {"model": "ours", "tokens": "alone"},
        "this, true tokens": {"model": "ours", "tokens": "true"},
        "this, in 4 steps": {"model": "ours", "tokens": "joint", "steps": 4, "guidance": 1.0},
    }


class Studio:
    """All that is needed to make and to measure transitions of ``n`` clips of a split.

    Parameters
    ----------
    folder : str or Path
        Checkpoints: ``video-sparse``, ``video-mask``, ``video-apart`` (ours, but no frame looks the known
        ones up) and ``video-alike`` (ours when it had learnt as long as those) are read from there; ours is
        the shipped one, or the one of ``folder`` if none is.
    """

    def __init__(self, split, n, device="cpu", folder="checkpoints"):
        self.device, self.folder = device, Path(folder)
        self.batch = 42 if torch.device(device).type == "cuda" else 2  # clips; more are slower on a CPU
        # drawing forks, so it comes before anything is on a GPU
        self.clips, self.truth = clip_pool(split, n, FRAMES, SIZE, folder)  # uint8 [n, F, 3, S, S]
        self._cut = on_all_cores(finder.cut_out_all, self.clips, "cutting out", few=200)
        self.vae, self.unet, self.vision, self.prompts = parts = micro(device)
        held = prepared(split, n, SIZE, folder, device, parts)
        self.held = {k: v.float() for k, v in held.items()}
        self.schedule, self.judge, self.models = noise_schedule(), StoryJudge.load(device=device), {}
        self.empty = self.prompts([""])
        self._bank = None

    def bank(self):
        """The finder's bank of all actors, and whose each is [number of actors]."""
        if self._bank is None:
            whose = torch.tensor([i for i, some in enumerate(self._cut) for _ in some])
            bank = finder.stacked([finder.as_bank(b) for some in self._cut for b in some])
            self._bank = finder.Bank(*(v.to(self.device) for v in vars(bank).values())), whose
        return self._bank

    def where(self, name):
        """Folder of a model's weights."""
        shipped = name == "ours" and "video" in weights.names()
        return weights.path("video") if shipped else self.folder / f"video-{name}"

    def model(self, name):
        """(decoder, predictor) of a model."""
        if name not in self.models:
            if not self.where(name).exists():
                raise FileNotFoundError(
                    f"There is no {self.where(name)}: `tools/transitions.sh` trains it, with all others that "
                    "are compared."
                )
            self.models[name] = video.load_parts(self.where(name), self.unet)
        return self.models[name]

    def tokens(self, kind, k, model):
        """Tokens that the decoder reads, from the true ones k [B, F, S, D]."""
        if kind == "true":
            return k
        if kind == "alone":  # the predictor of chapter 08, which learnt from tokens alone
            predict = start_predictor(self.folder).to(self.device)
        else:
            predict = {"line": motion.interpolate, "joint": self.model(model)[1]}[kind]
        return predict(k[:, 0], k[:, -1], FRAMES)

    @torch.no_grad()
    def make(self, seed=0, guidance=1.0, make=None, model=None, tokens=None, steps=STEPS, eta=ETA):
        """Frames of all clips, uint8 [n, F, 3, S, S]; the first and the last are the true ones."""
        if make == "truth":
            return self.truth
        out = []
        for at in torch.arange(len(self.clips)).split(self.batch):
            true = self.truth[at].to(self.device).float() / 255
            if make == "fade":
                a = torch.linspace(0, 1, FRAMES, device=self.device).view(-1, 1, 1, 1)
                x = (1 - a) * true[:, :1] + a * true[:, -1:]
            else:
                held = {k: v[at].to(self.device) for k, v in self.held.items()}
                x = self.decode(self.latents(held, at, seed, guidance, make, model, tokens, steps, eta))
            x[:, [0, -1]] = true[:, [0, -1]]
            out.append((x * 255).round().byte().cpu())
        return torch.cat(out)

    def latents(self, held, at, seed, guidance, make, model, tokens, steps, eta):
        z = held["latents"]
        if make == "coded":
            return z
        if make == "latents":
            a = torch.linspace(0, 1, FRAMES, device=z.device).view(-1, 1, 1, 1)
            return (1 - a) * z[:, :1] + a * z[:, -1:]
        generators = [torch.Generator().manual_seed(noise_seed(seed, i)) for i in at.tolist()]
        noise = torch.stack([torch.randn(z.shape[1:], generator=g) for g in generators]).to(z.device)
        decoder = self.model(model)[0]
        with autocast(self.device):
            return video.sample(
                decoder,
                self.schedule,
                z,
                noise,
                (held["states"], held["pooled"]),
                self.empty,
                sizes(1, SIZE, z.device),
                self.tokens(tokens, held["tokens"], model) if tokens else None,
                steps,
                guidance,
                seed=seed,
                eta=eta,
                generators=generators,
            )

    def decode(self, z):
        flat = z.flatten(0, 1) / self.vae.config.scaling_factor
        with autocast(self.device):
            some = flat.split(16 * self.batch)
            x = torch.cat([self.vae.decode(part).sample.float() for part in some])
        return (x.clamp(-1, 1) / 2 + 0.5).unflatten(0, z.shape[:2])

    # -------------------------------------------------------------------------------------- metrics

    @torch.no_grad()
    def errors(self, frames, batch=32, without_own=False):
        """Distance of the characters to the truth, (whole, parts), [n] each; mean over a clip's actors."""
        bank, whose = self.bank()
        found = []
        for at in torch.arange(len(whose)).split(batch):
            x = frames[whose[at]].to(self.device).float() / 255
            some = finder.Bank(*(v[at.to(self.device)] for v in vars(bank).values()))
            found.append(torch.stack(finder.errors(x, some, without_own)).cpu())
        found = torch.cat(found, 1)  # [2, actors]
        total = torch.zeros(2, len(self.clips)).index_add_(1, whose, found)
        return total / torch.bincount(whose, minlength=len(self.clips))

    @torch.no_grad()
    def measure(self, frames) -> list[dict]:
        """``{metric: value}`` of each clip, for frames uint8 [n, F, 3, S, S]; identity is None for two."""
        parts = [{"place": p, "parts": q} for p, q in zip(*self.errors(frames), strict=True)]
        for at in torch.arange(len(self.clips)).split(self.batch):
            x, true = (v[at].to(self.device).float() / 255 for v in (frames, self.truth))
            moves = (true.amax(1) - true.amin(1)).amax(1) > 8 / 255  # [B, S, S]
            away = (x - true)[:, 1:-1].abs().mean((1, 2))
            second = (x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]).abs().mean((1, 2))  # [B, S, S]
            values = {
                "pixels": (away * moves).sum((1, 2)) / moves.sum((1, 2)),
                "flicker": (second * ~moves).sum((1, 2)) / (~moves).sum((1, 2)),
                "identity": self.identity(x[:, 1:-1], [self.clips[i] for i in at]),
            } | self.distances(x)
            for i, row in zip(
                at.tolist(), zip(*(v.tolist() for v in values.values()), strict=True), strict=True
            ):
                parts[i] |= dict(zip(values, row, strict=True))
        alone = [len(c.actors) == 1 for c in self.clips]
        return [
            {k: None if k == "identity" and not one else round(float(row[k]), 5) for k in KINDS}
            for row, one in zip(parts, alone, strict=True)
        ]

    def identity(self, x, some):
        """Share of the (first) character's attributes that the judge reads right, in frames x [B, F, 3, S, S]
        of some clips, [B].
        """
        read = self.judge.read(x.flatten(0, 1))
        right = []
        for a in READ:
            true = torch.tensor([world.ATTRIBUTES[a].index(getattr(c.actors[0], a)) for c in some])
            right.append(read[a].argmax(-1).view(x.shape[:2]) == true[:, None])
        return torch.stack(right).float().mean((0, 2))

    def distances(self, x):
        """What stands for LPIPS and CLIPSIM, in frames x [B, F, 3, S, S] of 0..1: [B] each."""
        n, flat = x.shape[:2], x.flatten(0, 1)
        h, layers = self.judge.pixels(flat), []
        for module in self.judge.net.body:
            h = module(h)
            if isinstance(module, torch.nn.SiLU) and h.ndim == 4:
                layers.append(F.normalize(h, dim=1).unflatten(0, n))  # [B, F, C, h, w]
        layers = layers[1::2]  # after each block

        def features(a, b):
            each = [(f[:, a] - f[:, b]).square().sum(2).mean((1, 2, 3)) for f in layers]
            return torch.stack(each).mean(0)

        e = F.normalize(self.vision(pixel_values=flat * 2 - 1).image_embeds, dim=-1).unflatten(0, n)
        first, others = [0] * (n[1] - 1), list(range(1, n[1]))
        before = list(range(n[1] - 1))
        return {
            "features_first": features(first, others),
            "features_frames": features(before, others),
            "embedding_first": (e[:, first] * e[:, others]).sum(-1).mean(1),
            "embedding_frames": (e[:, before] * e[:, others]).sum(-1).mean(1),
        }


def digest(folder):
    """What a model's weights are: SHA-256 over the files of its folder; None where there is no folder."""
    files = sorted(Path(folder).rglob("*.safetensors"))
    return hashlib.sha256("".join(map(weights.sha256, files)).encode()).hexdigest() if files else None


def learnt(folder) -> dict:
    """What the model of a folder learnt from: ``clips`` seen in all, and of each of its ``runs`` the steps,
    the clips a step, the seconds, the machine and the held-out loss after it.
    """
    card = card_of(folder)
    kept = ("steps", "batch", "seconds", "machine", "heldout")
    return {"clips": clips_seen(card), "runs": [{k: c[k] for k in kept} for c in stages(card)]}


def unchanged(earlier, record, settings) -> dict:
    """What of an earlier record need not be measured again: ``summary``, ``seconds``, ``rows`` and
    ``machines`` of settings whose model, steps and guidance are the same in both.
    """
    same_run = all(earlier.get(k) == record[k] for k in ("stories", "split", "sampled_seeds", "steps", "eta"))

    def same(name):
        setting = settings[name]
        model = setting.get("model")
        if not same_run or earlier["settings"].get(name) != setting or name not in earlier["rows"]:
            return False
        asked = ("models",) if "guidance" in setting else ("models", "guidance")
        return model is None or all(earlier.get(k, {}).get(model) == record[k].get(model) for k in asked)

    names = [name for name in settings if same(name)]
    parts = ("summary", "seconds", "rows", "machines")
    return {part: {n: earlier[part][n] for n in names if n in earlier.get(part, {})} for part in parts}


def noise_seed(seed, i):
    """Of the noise of the i-th clip."""
    return random.Random(f"video/{seed}/{i}").getrandbits(62)


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


def summarize(rows, kinds):
    """``{metric: (mean, low, high)}``; clips are the sample."""
    values = {k: [r[k]["mean"] for r in rows if r[k]["mean"] is not None] for k in kinds}
    return {k: [round(x, 5) for x in mean_and_interval(v)] for k, v in values.items() if v}


def on_validation(models, known, n, device, folder, find) -> dict:
    """``{model: find(studio, model)}`` with ``n`` validation clips; what is in ``known`` stands there."""
    missing = set(models) - set(known or {})
    studio = Studio("validation", n, device, folder) if missing else None
    return {m: find(studio, m) if m in missing else known[m] for m in models}


def choose(device, folder, n=42, known=None) -> dict:
    """Guidance of each model, by the parts' error on validation clips: ``{model: {scale: error}}``; for those
    in ``known`` it stands there.
    """

    def find(studio, model):
        out = {}
        for scale in SCALES:
            frames = studio.make(0, scale, model=model, tokens=TOKENS[model])
            out[str(scale)] = round(float(studio.errors(frames)[1].mean()), 5)
        return out

    return on_validation(TOKENS, known, n, device, folder, find)


def renewed(device, folder, n=42, known=None) -> dict:
    """What noise that is drawn anew brings each model on validation clips, without guidance:
    ``{model: {eta: {"parts": error, "identity": share}}}``; for those in ``known`` it stands there.
    """

    def find(studio, model):
        out = {}
        for eta in (0.0, 1.0):
            rows = studio.measure(studio.make(0, model=model, tokens=TOKENS[model], eta=eta))
            means = {k: np.mean([r[k] for r in rows if r[k] is not None]) for k in ("parts", "identity")}
            out[str(eta)] = {k: round(float(v), 5) for k, v in means.items()}
        return out

    return on_validation(TOKENS, known, n, device, folder, find)


def sheet(frames, path):
    """Frames of several methods, uint8 [M, F, 3, S, S], as one picture: a method a row."""
    rows = frames.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # [M * S, F * S, 3]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(rows.contiguous().numpy())
    weights.atomic_save(path, lambda to: image.save(to, quality=88, method=6))


def run(stories=210, device="cpu", folder="checkpoints", keep=RESULTS / "video"):
    """The record of ``stories`` held-out clips, kinds taking turns; ``stories`` is how many."""
    studio, shown = Studio("heldout", stories, device, folder), {}
    file = RESULTS / "video.json"
    earlier = json.loads(file.read_text()) if file.exists() else {"settings": {}, "rows": {}}
    models = {name: digest(studio.where(name)) for name in TOKENS}
    kept = {m for m, found in models.items() if earlier.get("models", {}).get(m) == found}

    def known(name):  # what was found on validation clips for the models that are the same
        tried = earlier.get(name, {}) if stories == earlier.get("stories") else {}
        return {m: tried[m] for m in kept & tried.keys()}

    scales = choose(device, folder, min(42, stories), known("validation"))
    tried_noise = renewed(device, folder, min(42, stories), known("renewed"))
    guidance = {m: float(min(found, key=found.get)) for m, found in scales.items()}

    def rows_of(setting):
        setting = dict(setting)
        seeds = range(setting.pop("seeds", SEEDS if "model" in setting else 1))
        setting.setdefault("guidance", guidance.get(setting.get("model"), 1.0))
        several = []
        for seed in tqdm(seeds, desc="seeds", leave=False):
            frames = studio.make(seed, **setting)
            if seed == 0:
                shown[str(setting)] = frames[:SHOWN]
            several.append(studio.measure(frames))
        return average(several)

    settings = video_settings()
    coded = studio.make(make="coded")
    finder_errors = {
        "true frames": studio.errors(studio.truth),
        "coded frames": studio.errors(coded),
        "coded frames, own pose left out": studio.errors(coded, without_own=True),
    }
    record = header(
        "video",
        stories,
        FRAMES,
        split="heldout",
        sampled_seeds=SEEDS,
        steps=STEPS,
        eta=ETA,
        guidance=guidance,
        validation=scales,
        models=models,
        learnt={name: learnt(studio.where(name)) for name in TOKENS},
        renewed=tried_noise,
        paper={k: list(v) for k, v in PAPER.items()},
        finder={k: [round(float(x.mean()), 5) for x in v] for k, v in finder_errors.items()},
        **EXPERIMENT.fingerprint(),
    )
    start = unchanged(earlier, record, settings)
    machines = dict.fromkeys(settings, record["machine"]) | start.pop("machines")
    record = sweep(record, settings, rows_of, tuple(KINDS), summarize=summarize, start=start)
    record = {"machines": machines} | record
    if len(shown) == len(settings):  # a run that went on from an interruption keeps the pictures it has
        for i in range(min(SHOWN, stories)):
            sheet(torch.stack([frames[i] for frames in shown.values()]), keep / f"{i}.webp")
    return record


EXPERIMENT = Experiment(
    run=run,
    files=("clips.py", "experiments/finder.py"),
    functions=(
        video.Decoder,
        video.deal,
        video.sample,
        video.TokenProjection,
        motion.semantic_tokens,
        motion.interpolate,
        motion.SemanticMotionPredictor,
        Studio,
    ),
    weights=("micro", "judge", "video"),
    stories=210,
)
