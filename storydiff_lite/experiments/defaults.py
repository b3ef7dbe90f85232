"""With what the micro model draws by default: sampler, steps, rate, layers, noise, guidance and its steps.

Chosen on validation stories, whose seeds no other record holds: what is chosen here is measured by
`consistency` on stories that had no part in the choice.
"""

from __future__ import annotations

from diffusers import DDIMScheduler

from ..settings import GUIDED
from .consistency import STEPS, measure, story, story_experiment

KINDS = ("agreement", "fidelity", "clean")
FIRST = 1000  # seed of the first validation story


def default_settings() -> dict[str, dict]:
    """Name -> arguments of the pipeline call, one of them otherwise than in the first setting; ``sampler``
    is another one than the model's own.
    """
    start, stop = GUIDED
    one = {"consistency": 1.0, "num_inference_steps": STEPS} | _guided(start, stop)
    return {
        "rate 1": one,
        "rate 0.5": one | {"consistency": 0.5},
        "all layers": one | {"layers": "all"},
        "one noise": one | {"same_noise": True},
        "guidance 3.5": one | {"guidance_scale": 3.5},
        "guidance 7.5": one | {"guidance_scale": 7.5},
        "guided in all steps": one | _guided(0, 1),
        "guided from the first step": one | _guided(0, stop),
        "guided to the last step": one | _guided(start, 1),
        "guided from 1/6 to 5/6": one | _guided(1 / 6, 5 / 6),
        "guided from 1/3 to 2/3": one | _guided(1 / 3, 2 / 3),
        "8 steps": one | {"num_inference_steps": 8},
        "DDIM, 25 steps": one | {"num_inference_steps": 25, "sampler": "DDIM"},
    }


def _guided(start, stop):
    return {"guidance_start": round(start, 4), "guidance_stop": round(stop, 4)}


def rows(pipe, judge, setting, seeds, **more):
    """`measure` of the stories of these seeds, with the model's own sampler or another one."""
    own, call = pipe.scheduler, {k: v for k, v in setting.items() if k != "sampler"}
    pipe.scheduler = DDIMScheduler.from_config(own.config) if "sampler" in setting else own
    try:
        return measure(pipe, judge, call, [story(i) for i in seeds], seeds, **more)
    finally:
        pipe.scheduler = own


EXPERIMENT = story_experiment(
    "defaults",
    default_settings,
    rows,
    KINDS,
    seeds=lambda stories: range(FIRST, FIRST + stories),
    about={},
    stories=40,
    golden=("8 steps",),
)
