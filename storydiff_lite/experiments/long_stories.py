"""Stories longer than a window: what the three ways of telling them cost, and how far agreement reaches
(chapter 07).

Four stories of twelve panels, a seed each, in 12 steps, at rate 0.5 and with windows of four panels.
And the peak of memory and the time of stories of 4 to 100 panels.
"""

from __future__ import annotations

import random
import time
from functools import partial
from itertools import combinations, product

from .. import world
from ..judge import FREE, agreement
from ..memory import peak_memory, weight_bytes
from .consistency import STEPS, measure, story_experiment
from .records import short

PANELS, WINDOW, RATE = 12, 4, 0.5
LENGTHS, COST_STEPS = (4, 8, 16, 32, 64, 100), 2
#: without a window every panel reads every other: time grows with the square of their number
AFFORDABLE = 32
KINDS = (
    "agreement",
    "fidelity",
    "clean",
    "within",
    "beyond",
    "later",
    *(f"apart {d}" for d in range(1, PANELS)),
)


def long_story(i: int, panels: int = PANELS) -> list[str]:
    """The i-th long story: a species in distinct pairs of action and scene, of which there are 56."""
    rng = random.Random(f"long story/{i}")
    pairs = list(product(world.ACTIONS.values(), world.SCENES.values()))
    rng.shuffle(pairs)
    species = world.article(world.SPECIES[i % len(world.SPECIES)])
    return [f"{species} {a} {s}" for a, s in (pairs[k % len(pairs)] for k in range(panels))]


def modes() -> dict[str, dict]:
    """Name -> arguments of the pipeline call: the three ways, and no window."""
    half = {"consistency": RATE}
    return {
        "passes": half | {"window": WINDOW, "long_story": "passes"},
        "attention": half | {"window": WINDOW, "long_story": "attention"},
        "bank": half | {"window": WINDOW, "long_story": "bank"},
        "no window": half,
    }


def long_settings() -> dict[str, dict]:
    """`modes`, and no sharing at all."""
    return {"no sharing": {"consistency": 0, "window": WINDOW}} | modes()


def by_distance(names, prompts=None, images=None) -> dict[str, dict]:
    """Agreement of the free attributes between panels, by their distance.

    Returns
    -------
    dict
        ``"apart d"``: of panels i and i + d.  ``"within"``: nearer than `WINDOW`, ``"beyond"``: not.
        ``"later"``: of all but the first `WINDOW` panels, among each other (with a bank these never read each
        other).  Each ``{"mean": 0 to 1}``.
    """
    found = {}
    for i, j in combinations(range(len(names)), 2):
        same = agreement([names[i], names[j]], FREE)["mean"]
        kinds = [f"apart {j - i}", "within" if j - i < WINDOW else "beyond"] + ["later"] * (i >= WINDOW)
        for kind in kinds:
            found.setdefault(kind, []).append(same)
    return {kind: short({"mean": sum(v) / len(v)}) for kind, v in found.items()}


def cost(pipe, setting, panels, steps=COST_STEPS) -> dict:
    """Peak memory over what was there before (the weights), and seconds, of a story of so many panels.

    On a CPU the seconds are those of its processors, which other programs on the machine disturb less.
    """
    story, device = long_story(0, panels), pipe.device.type
    call = setting | {"num_inference_steps": steps}
    with peak_memory(device) as used:
        pipe(story, **call)
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    pipe(story, **call)
    return {"panels": panels, "bytes": used.bytes, "seconds": round(clock() - start, 2)}


def costs(pipe) -> dict:
    """``{"weights": bytes, "steps": ..., "window": ..., mode: [cost of each length]}``."""
    parts = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    out = {"weights": weight_bytes(*parts), "steps": COST_STEPS, "window": WINDOW}
    pipe(long_story(0, 2), num_inference_steps=1)  # the first call is slow
    for name, setting in modes().items():
        lengths = [n for n in LENGTHS if name != "no window" or n <= AFFORDABLE]
        out[name] = [cost(pipe, setting, n) for n in lengths]
    return out


def rows(pipe, judge, setting, seeds, panels=PANELS, **more):
    """`measure` of the stories of these seeds, of so many panels."""
    stories, call = [long_story(i, panels) for i in seeds], setting | {"num_inference_steps": STEPS}
    return measure(pipe, judge, call, stories, seeds, 1, also=by_distance, **more)


EXPERIMENT = story_experiment(
    "long_stories",
    long_settings,
    rows,
    KINDS,
    panels=PANELS,
    about={"steps": STEPS, "rate": RATE, "window": WINDOW},
    then=lambda pipe, judge, stories: {"cost": costs(pipe)},
    # the shortest that pass the end of a window: of twelve panels one would take half a minute
    golden_rows=partial(rows, panels=WINDOW + 1),
    stories=4,
    golden=("passes", "bank"),
    note=f"Stories of {WINDOW + 1} panels, not of {PANELS}.",
)
