"""What sharing costs and brings: stories of four panels at several rates (chapters 00 and 05)."""

from __future__ import annotations

import random

from .. import world
from ..judge import FREE, StoryJudge, agreement, faithfulness
from ..pipeline import StoryPipeline
from .records import Experiment, header, short, sweep


def story(i: int, panels: int = 4) -> list[str]:
    """The i-th story of every experiment: prompts that name species, action and scene, and leave the rest
    free.
    """
    rng = random.Random(f"story/{i}")
    who = world.article(world.SPECIES[i % len(world.SPECIES)])
    actions, scenes = (
        rng.sample(tuple(world.ACTIONS.values()), panels),
        rng.sample(tuple(world.SCENES.values()), panels),
    )
    return [f"{who} {a} {s}" for a, s in zip(actions, scenes, strict=True)]


def settings() -> dict[str, dict]:
    """Name -> arguments of the pipeline call."""
    out = {f"rate {r:g}": {"consistency": r} for r in (0, 0.25, 0.5, 0.75, 1)}
    out["rate 0, one noise"] = {"consistency": 0, "same_noise": True}
    out["rate 0.5, one noise"] = {"consistency": 0.5, "same_noise": True}
    out["rate 1, all layers"] = {"consistency": 1, "layers": "all"}
    out["rate 1, all layers, one noise"] = {"consistency": 1, "layers": "all", "same_noise": True}
    return out


def measure(pipe, judge, setting, stories, seeds=None, batch_size=4, also=None):
    """One row per story: agreement of the free attributes, fidelity to the prompts, and what was read.

    Parameters
    ----------
    setting : dict
        Arguments of the pipeline call (``consistency=...``).
    stories : list of lists of prompts
    seeds : list of int, optional
        0, 1, 2, ... by default.
    also : callable, optional
        ``also(names, prompts, images) -> dict`` of more to put into a row; ``names`` is what was read.
    """
    seeds = list(range(len(stories))) if seeds is None else seeds
    rows = []
    for i in range(0, len(stories), batch_size):
        some, their = stories[i : i + batch_size], seeds[i : i + batch_size]
        for told, prompts, seed in zip(
            pipe.tell_many(some, their, batch_size=batch_size, output_type="pt", **setting),
            some,
            their,
            strict=True,
        ):
            names = judge.names(told.images)
            rows.append(
                {
                    "story": prompts,
                    "seed": seed,
                    "agreement": short(agreement(names, FREE)),
                    "fidelity": short(faithfulness(names, prompts)),
                    "read": [{k: n[k] for k in FREE} for n in names],
                }
                | (also(names, prompts, told.images) if also else {})
            )
    return rows


def consistency(stories=100, device="cpu", only=None):
    """Stories of four panels under every setting of `settings`; the same stories and seeds in each."""
    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    judge = StoryJudge.load(device=device)
    told = [story(i) for i in range(stories)]
    record = header("consistency", stories, 4) | EXPERIMENT.fingerprint()
    return sweep(record, settings(), lambda setting: measure(pipe, judge, setting, told), only=only)


EXPERIMENT = Experiment(
    consistency,
    ("attention.py", "guidance.py", "pipeline.py", "judge.py"),
    (story, settings, measure),
    ("micro", "judge"),
)
