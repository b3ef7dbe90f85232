"""Does sharing still work in a U-Net that never saw a character twice? (chapter 05)

Two U-Nets of the shipped size, trained for this from nothing, for the same time on one GPU, on the same
number of latent cells a step: one on pictures, comic strips and pages, the other on pictures of one
character, or of two different ones, alone.

They are not part of the repository.  To make the record again::

    python -m storydiff_lite.training unet --name unet-repeats --steps 2000 --seconds 210
    python -m storydiff_lite.training unet --name unet-no-repeats --no-strips --steps 2000 --seconds 210
"""

from __future__ import annotations

from itertools import product

from .. import weights
from ..training.common import averaged_weights, checkpoint, progress
from ..training.unet import build
from .consistency import measure, pipe_and_judge
from .records import PANELS, Experiment, header, sweep
from .sharing import by_story, copying, repeated, stories_of

KINDS, STEPS, SEEDS = ("agreement", "fidelity", "copying"), 15, 3
UNETS = {"with repeats": "unet-repeats", "without repeats": "unet-no-repeats"}


def repeats_settings() -> dict[str, dict]:
    """Name -> which U-Net, and the rate."""
    each = product(UNETS, (0, 0.5, 1))
    return {f"{name}, rate {rate:g}": {"unet": name, "consistency": rate} for name, rate in each}


def trained(name: str, folder="checkpoints"):
    """The averaged weights of a checkpoint of `training.unet`, and what is to be known of it."""
    path, unet = checkpoint(folder, UNETS[name]), build()
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: train it, as this file's first lines say.")
    unet.load_state_dict(averaged_weights(folder, UNETS[name]))
    steps = progress(folder, UNETS[name])["done"]
    return unet.eval(), {"sha256": weights.sha256(path), "steps": steps}


def repeats(stories=20, device="cpu"):
    """Every setting of `repeats_settings`, the same stories and seeds in each."""
    (pipe, judge), unets = pipe_and_judge(device), {name: trained(name) for name in UNETS}
    seeds = repeated(stories, SEEDS)
    record = header("repeats", stories, 4, steps=STEPS) | EXPERIMENT.fingerprint()
    record["seeds"] = f"{SEEDS} a story: 0.., 100.., 200.."
    record["unets"] = {name: known for name, (_, known) in unets.items()}

    def rows_of(setting):
        pipe.register_modules(unet=unets[setting["unet"]][0].to(device))
        call = {"consistency": setting["consistency"], "num_inference_steps": STEPS}
        return measure(pipe, judge, call, stories_of(seeds), seeds, also=copying)

    return sweep(record, repeats_settings(), rows_of, KINDS, summarize=by_story)


EXPERIMENT = Experiment(
    run=repeats,
    opened=None,
    kinds=KINDS,
    weights=(*(part for part in PANELS if part != "micro/unet"), "judge"),
    stories=20,
    earlier=True,
    left_out="No setting can be measured again from a clone: neither U-Net is part of the repository.",
)
