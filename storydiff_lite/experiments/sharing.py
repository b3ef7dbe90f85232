"""Why consistent self-attention works: where, when, what is read, and from which noise (chapter 05).

Stories of four panels, each under one seed, in 12 steps.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations

import torch

from ..attention import reading_lists
from ..neighbours import drawing
from ..schedule import AttentionPlan, SamplingSchedule
from .consistency import STEPS, measure, story, story_experiment
from .records import summary

SEEDS = 1
KINDS = ("agreement", "fidelity", "clean", "copying")


def as_printed(picks, n, may_read):
    """Algorithm 1 as printed: the sample is drawn from all panels, and all own tokens are appended to it, so
    that a part of them, as large as the rate, is read twice.
    """
    lists = reading_lists(picks, n, may_read)  # [H, S, F, L], own tokens first
    return torch.cat([lists, lists[..., :1] + picks], -1)


def unrelated(picks, n, may_read):
    """As many tokens, at the same places, but of panels of another story: the control."""
    if picks.shape[1] < 2:
        raise ValueError("Tokens of another story need at least two stories in a batch.")
    lists = reading_lists(picks, n, may_read)  # [H, S, F, L]
    return torch.cat([lists[..., :n], lists[..., n:].roll(-1, 1)], -1)


READS = {"as printed": as_printed, "unrelated": unrelated}


def sharing_settings() -> dict[str, dict]:
    """Name -> arguments of the pipeline call; ``sharing`` and ``steps`` are looked up by `arguments`."""
    half = {"consistency": 0.5}
    out = {"none": {"consistency": 0}, "up blocks": half}
    out |= {f"{where} blocks": half | {"layers": where} for where in ("down", "mid", "all")}
    third = STEPS // 3
    for name, first in (("first", 0), ("middle", third), ("last", 2 * third)):
        out[f"{name} third of the steps"] = half | {"steps": [first, first + third]}
    out["released schedule"] = half | {"steps": "released"}
    out["unrelated tokens"] = half | {"sharing": "unrelated"}
    out["Algorithm 1 as printed"] = half | {"sharing": "as printed"}
    out["none, one noise"] = {"consistency": 0, "same_noise": True}
    out["up blocks, one noise"] = half | {"same_noise": True}
    out["up blocks, rate 1"] = {"consistency": 1}
    return out


def arguments(setting: dict) -> dict:
    """Arguments of the pipeline call for a setting of `sharing_settings`."""
    call = {k: v for k, v in setting.items() if k not in ("sharing", "steps")}
    if setting.get("steps") == "released":  # made for 50 steps: 5 plain, then .7, from 20 on .9
        call["schedule"] = SamplingSchedule(((round(5 * STEPS / 50), 0.7), (round(20 * STEPS / 50), 0.9)))
    elif "steps" in setting:
        call["schedule"] = SamplingSchedule.between(*setting["steps"])
    return call


def copying(names, prompts, images):
    """How much panels of a story look alike as a whole: correlation of their grey pictures, -1 to 1."""
    grey = images.mean(1).flatten(1)  # [F, H W]
    grey = torch.nn.functional.normalize(grey - grey.mean(1, keepdim=True), dim=1)
    pairs = [float(grey[i] @ grey[j]) for i, j in combinations(range(len(grey)), 2)]
    return {"copying": {"mean": sum(pairs) / len(pairs)}}


def by_story(rows, kinds):
    """`summary` of rows whose seeds are averaged, story by story."""
    stories = {}
    for row in rows:
        stories.setdefault(tuple(row["story"]), []).append(row)

    def mean(rows, kind):
        return {key: sum(r[kind][key] for r in rows) / len(rows) for key in rows[0][kind]}

    return summary([{kind: mean(same, kind) for kind in kinds} for same in stories.values()], kinds)


def measure_sharing(pipe, judge, setting, stories, seeds, also=copying, **call):
    """Rows of `measure` for a setting of `sharing_settings`; ``call`` are more arguments of `measure`, or of
    the pipeline.
    """
    reads, plan = setting.get("sharing"), None
    if reads == "unrelated":
        call = {"batch_size": 4} | call  # tokens of another story need one beside it
    if reads:
        plan = partial(AttentionPlan, reads=READS[reads])
    more = {k: call.pop(k) for k in ("batch_size", "defects") if k in call}
    call = arguments(setting) | {"num_inference_steps": STEPS} | call
    with drawing(pipe, plan):
        return measure(pipe, judge, call, stories, seeds, also=also, **more)


def repeated(stories: int, each: int = SEEDS) -> list[int]:
    """The seeds of so many stories, ``each`` a story, the first ones first: of story i, 100 k + i."""
    return [100 * k + i for k in range(each) for i in range(stories)]


def stories_of(seeds, of=story) -> list[list[str]]:
    """The stories of some seeds of `repeated`."""
    return [of(seed % 100) for seed in seeds]


def rows(pipe, judge, setting, seeds, **more):
    """`measure_sharing` of the stories of these seeds."""
    return measure_sharing(pipe, judge, setting, stories_of(seeds), seeds, **more)


EXPERIMENT = story_experiment(
    "sharing",
    sharing_settings,
    rows,
    KINDS,
    seeds=repeated,
    summarize=by_story,
    stories=16,
    # tokens of another story need another story: a row alone cannot be measured of them
    golden=("released schedule", "Algorithm 1 as printed"),
)
