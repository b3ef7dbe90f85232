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
from ..judge import StoryJudge
from ..pipeline import StoryPipeline
from .identity import KINDS, STEPS, measure_identity, people
from .records import Experiment, header, sweep

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


def lora(stories=100, device="cpu", only=None):
    """One picture of each of many unseen identities under every setting of `lora_settings`."""
    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    judge, albums = StoryJudge.load(device=device), people(stories)
    record = header("lora", stories, 1, steps=STEPS) | EXPERIMENT.fingerprint()
    record["encoders"] = {
        name: weights.sha256(encoder_folder(name) / "model.safetensors") for name in ENCODERS
    }

    def rows_of(setting):
        setting = dict(setting)
        pipe.load_identity(encoder_folder(setting.pop("encoder")))
        return measure_identity(pipe, judge, albums, num_inference_steps=STEPS, **setting)

    return sweep(record, lora_settings(), rows_of, KINDS, only)


EXPERIMENT = Experiment(
    lora,
    ("identity.py", "tokens.py", "guidance.py", "pipeline.py", "judge.py"),
    (people, lora_settings, measure_identity),
    ("micro", "judge"),
)
