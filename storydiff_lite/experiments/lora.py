"""Does the LoRA earn its place? Two identity encoders, with and without, for the same time (chapter 03).

Both by the recipe of the shipped one, in bigger batches and a shorter run, side by side on one GPU: they show
what the LoRA brings, not what the shipped encoder reaches.

They are not part of the repository.  To make the record again, train both, and put what ``pack-further``
writes for them into ``checkpoints/with-lora`` and ``checkpoints/without-lora``::

    python -m storydiff_lite.training identity --batch 64 --pictures 8000 --steps 6000 --seconds 200
    python -m storydiff_lite.training identity_no_lora --batch 64 --pictures 8000 --steps 6000 --seconds 200
"""

from __future__ import annotations

from pathlib import Path

from .. import weights
from .consistency import pipe_and_judge
from .identity import measure_identity, people
from .records import PANELS, Experiment, header, sweep

KINDS, STEPS = ("agreement", "other", "fidelity"), 15
ENCODERS = {"with LoRA": "with-lora", "without LoRA": "without-lora"}


def lora_settings() -> dict[str, dict]:
    """Name -> which encoder; four pictures."""
    return {name: {"encoder": name, "references": 4} for name in ENCODERS}


def encoder_folder(name: str, folder="checkpoints") -> Path:
    """Where an encoder lies; FileNotFoundError says how to make it."""
    path = Path(folder) / ENCODERS[name]
    if not (path / "model.safetensors").exists():
        raise FileNotFoundError(f"There is no encoder in {path}: train it, as this file's first lines say.")
    return path


def lora(stories=100, device="cpu"):
    """One picture of each of many unseen identities under every setting of `lora_settings`."""
    (pipe, judge), albums = pipe_and_judge(device), people(stories)
    record = header("lora", stories, 1, steps=STEPS) | EXPERIMENT.fingerprint()
    record["encoders"] = {
        name: weights.sha256(encoder_folder(name) / "model.safetensors") for name in ENCODERS
    }

    def rows_of(setting):
        setting = dict(setting)
        pipe.load_identity(encoder_folder(setting.pop("encoder")))
        return measure_identity(pipe, judge, albums, num_inference_steps=STEPS, **setting)

    return sweep(record, lora_settings(), rows_of, KINDS)


EXPERIMENT = Experiment(
    run=lora,
    opened=None,
    kinds=KINDS,
    weights=(*PANELS, "judge"),
    earlier=True,
    left_out="No setting can be measured again from a clone: neither encoder is part of the repository.",
)
