"""Experiments too heavy for a page, one file each: ``python -m storydiff_lite.experiments [NAME]`` writes
``book/results/NAME.json``.
"""

from . import (
    cast,
    comparison,
    consistency,
    defaults,
    failures,
    identity,
    long_stories,
    lora,
    motion,
    neighbours,
    passages,
    records,
    regions,
    repeats,
    sharing,
    spaces,
    together,
    video,
)
from .consistency import expected, measure, settings, story
from .identity import identity_settings, measure_identity, people
from .records import change, load, mean_and_interval, quote, summary

_MODULES = consistency, identity, lora, sharing, failures, comparison, long_stories, repeats, motion
_MODULES += spaces, video, passages, cast, regions, together, defaults, neighbours
EXPERIMENTS = {module.__name__.rpartition(".")[2]: module.EXPERIMENT for module in _MODULES}
