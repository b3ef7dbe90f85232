"""Does sharing still work in a U-Net that never saw a character twice? (chapter 05)

Two U-Nets of the shipped size, trained for this from nothing, for the same time on one GPU, on the same
number of latent cells a step: one on pictures, comic strips and pages, the other on pictures of one
character, or of two different ones, alone.

They are not part of the repository.  To make the record again::

    python -m storydiff_lite.training unet --name unet-repeats --steps 2000 --seconds 210
    python -m storydiff_lite.training unet --name unet-no-repeats --no-strips --steps 2000 --seconds 210
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file

from .. import weights
from ..judge import StoryJudge
from ..pipeline import StoryPipeline
from ..training.unet import build
from .consistency import measure, story
from .records import Experiment, header, sweep
from .sharing import KINDS, SEEDS, STEPS, by_story, copying, repeated

UNETS = {"with repeats": "unet-repeats", "without repeats": "unet-no-repeats"}


def repeats_settings() -> dict[str, dict]:
    """Name -> which U-Net, and the rate."""
    return {
        f"{name}, rate {rate:g}": {"unet": name, "consistency": rate}
        for name in UNETS
        for rate in (0, 0.5, 1)
    }


def trained(name: str, folder="checkpoints"):
    """The averaged weights of a checkpoint of `training.unet`, and what is to be known of it."""
    path = Path(folder) / f"{UNETS[name]}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: train it, as this file's first lines say.")
    unet = build()
    averaged = {k[4:]: v.float() for k, v in load_file(path).items() if k.startswith("ema.")}
    unet.load_state_dict(averaged)
    with safe_open(path, "pt") as f:
        steps = json.loads(f.metadata()["run"])["done"]
    return unet.eval(), {"sha256": weights.sha256(path), "steps": steps}


def repeats(stories=20, device="cpu", only=None):
    """Every setting of `repeats_settings`, the same stories and seeds in each."""
    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    judge, unets = StoryJudge.load(device=device), {name: trained(name) for name in UNETS}
    told, seeds = repeated([story(i) for i in range(stories)])
    record = header("repeats", stories, 4, steps=STEPS) | EXPERIMENT.fingerprint()
    record["seeds"] = f"{SEEDS} a story: 0.., 100.., 200.."
    record["unets"] = {name: known for name, (_, known) in unets.items()}

    def rows_of(setting):
        pipe.register_modules(unet=unets[setting["unet"]][0].to(device))
        call = {"consistency": setting["consistency"], "num_inference_steps": STEPS}
        return measure(pipe, judge, call, told, seeds, also=copying)

    return sweep(record, repeats_settings(), rows_of, KINDS, only, by_story)


EXPERIMENT = Experiment(
    repeats,
    ("attention.py", "guidance.py", "pipeline.py", "judge.py"),
    (story, measure, repeats_settings, copying, by_story, repeated),
    ("micro", "judge"),
    stories=20,
)
