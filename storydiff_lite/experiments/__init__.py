"""Experiments too heavy for a page, one file each: ``python -m storydiff_lite.experiments [NAME]`` writes
``book/results/NAME.json``.
"""

from . import (
    cast,
    comparison,
    consistency,
    failures,
    identity,
    long_stories,
    lora,
    motion,
    passages,
    records,
    repeats,
    sharing,
    video,
)
from .consistency import measure, settings, story
from .identity import identity_settings, measure_identity, people
from .records import load, mean_and_interval, summary

EXPERIMENTS = {
    module.__name__.rpartition(".")[2]: module.EXPERIMENT
    for module in (
        consistency,
        identity,
        lora,
        sharing,
        failures,
        comparison,
        long_stories,
        repeats,
        motion,
        video,
        passages,
        cast,
    )
}

__all__ = [
    "EXPERIMENTS",
    "fingerprint",
    "identity_settings",
    "load",
    "mean_and_interval",
    "measure",
    "measure_identity",
    "people",
    "records",
    "settings",
    "story",
    "summary",
]


def fingerprint(name: str = "consistency") -> dict[str, str]:
    """SHA-256 of the code and of the weights that a record measures."""
    return EXPERIMENTS[name].fingerprint()
