"""From panel to panel: what the decoder of clips makes of it, and what mends it (chapter 09).

Two things are tried, alone and together: a LoRA that learnt from passages (`training.passages`), and
redrawing by the U-Net that draws panels (`refine`), as strongly as was best on validation stories.  Drawn in
four steps, as the chapters do on a CPU, and measured three times:

- on held-out passages (`world.transitions`), whose characters and pairs of actions no training saw, and whose
  truth is known;
- on stories: two panels that the story pipeline drew of a held-out character, whose looks the prompts name.
  There is no truth between them, but who is to be seen is known;
- on held-out clips: what both cost where nothing was wrong.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from tqdm.auto import tqdm

from .. import video, weights
from ..training.video import FRAMES
from . import finder
from .records import PANELS, Experiment, header, sweep
from .transitions import TransitionBenchmark, average, distance, means, opened, summarize

SEEDS, STEPS = 1, 4
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
#: how a decoder draws here
HOW = {"tokens": "joint", "steps": STEPS}


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


def load(name, unet):
    """(decoder, predictor) of one of `DECODERS`, for a U-Net."""
    lora = DECODERS[name]
    return video.load_parts(weights.path("video"), unet, lora and weights.path(lora))


@torch.no_grad()
def measure(bench, frames) -> list[dict]:
    """``{metric: value}`` of each transition, for frames uint8 [n, F, 3, S, S]; None where a metric has no
    meaning.
    """
    parts = bench.errors(frames)[1] if bench.banks else None
    rows = []
    for i, item in enumerate(bench.items):
        x, true = (v[i][None].to(bench.device).float() / 255 for v in (frames, bench.truth))
        row = {"flicker": (x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]).abs().mean()}
        x, true = x[:, 1:-1], true[:, 1:-1]
        if parts is not None:
            row |= {"parts": parts[i], "looks": distance(bench.features(x), bench.features(true))}
        if len(finder.characters(item)) == 1:
            row["identity"], row["certainty"] = bench.identity(x, [item])
        rows.append({k: round(float(row[k]), 5) if k in row else None for k in KINDS})
    return rows


def choose(device, folder, n) -> dict:
    """What refining of several strengths does to validation stories, ``{strength: {metric: mean}}``.

    ``error`` is the standard error of the mean identity.
    """
    bench, out = TransitionBenchmark("stories", "validation", n, device, folder, load), {}
    for strength in STRENGTHS:
        rows = measure(bench, bench.fill(0, model="with passages", refine=strength, **HOW))
        identity = [row["identity"] for row in rows if row["identity"] is not None]
        error = round(float(np.std(identity, ddof=1) / len(identity) ** 0.5), 5)
        out[str(strength)] = means(rows, KINDS) | {"error": error}
    return out


def best_strength(tried) -> float:
    """The least strength whose identity is within one standard error of the best: redrawing has a price.

    ``tried`` as of `choose`.  Not to redraw (0) is no candidate.
    """
    strengths = [s for s in STRENGTHS if s]
    best = max((tried[str(s)] for s in strengths), key=lambda found: found["identity"])
    enough = best["identity"] - best["error"]
    return next(s for s in strengths if tried[str(s)]["identity"] >= enough)


def run(stories=15, device="cpu", folder="checkpoints"):
    """The record of ``stories`` held-out passages, and of fewer stories and clips."""
    tried = choose(device, folder, min(STORIES, stories))
    best = best_strength(tried)
    numbers = {"passages": stories, "stories": min(STORIES, stories), "clips": min(CLIPS, stories)}
    benches = {}

    def rows_of(setting):
        setting = dict(setting)
        source = setting.pop("source", "passages")
        if source not in benches:
            benches.clear()  # one at a time: they are large
            benches[source] = TransitionBenchmark(source, "heldout", numbers[source], device, folder, load)
        seeds = tqdm(range(SEEDS if "model" in setting else 1), desc="seeds", leave=False)
        filled = (benches[source].fill(seed, **HOW | setting) for seed in seeds)
        return average([measure(benches[source], frames) for frames in filled])

    about = {"split": "heldout", "sampled_seeds": SEEDS, "steps": STEPS, "numbers": numbers}
    about |= {"strength": best, "validation": tried} | EXPERIMENT.fingerprint()
    record = header("passages", stories, FRAMES, **about)
    return sweep(record, passage_settings(best), rows_of, tuple(KINDS), summarize=summarize)


EXPERIMENT = Experiment(
    run=run,
    opened=partial(opened, "passages", load, measure, **HOW),
    kinds=tuple(KINDS),
    weights=(*PANELS, "micro/image_encoder", "judge", "video", "passages"),
    stories=15,
    golden=("cut", "with passages, refined"),
    # one joint that is found elsewhere, and one in 70 readings, is that much
    within={"parts": 2e-3, "flicker": 1e-3, "identity": 0.03},
)
