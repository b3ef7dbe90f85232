"""Why consistent self-attention works: where, when, what is read, and from which noise (chapter 05).

Twenty stories of four panels, each under three seeds, in 15 steps.  A story's three seeds are averaged
before the interval is taken, so that stories are the sample.
"""

from __future__ import annotations

from itertools import combinations

import torch

from ..attention import SamplingSchedule, Sharing
from ..judge import StoryJudge
from ..pipeline import StoryPipeline
from .consistency import measure, story
from .records import Experiment, header, summary, sweep

STEPS, SEEDS = 15, 3
KINDS = ("agreement", "fidelity", "copying")


class AsPrinted(Sharing):
    """Algorithm 1 as printed: the sample is drawn from all panels, and all own tokens are appended to it, so
    that a part of them, as large as the rate, is read twice.
    """

    def lists(self, layer, n, halves):
        lists = super().lists(layer, n, halves)  # [H S, F, L], own tokens first
        own = self.picks(layer, n).repeat(halves, 1, 1) + lists[..., :1]  # [H S, F, K] of the own tokens
        return torch.cat([lists, own], -1)


class Unrelated(Sharing):
    """As many tokens, at the same places, but of panels of another story: the control."""

    def lists(self, layer, n, halves):
        if len(self.seeds) < 2:
            raise ValueError("Tokens of another story need at least two stories in a batch.")
        lists = super().lists(layer, n, halves)  # [H S, F, L]
        others = lists[..., n:].unflatten(0, (halves, len(self.seeds))).roll(-1, 1).flatten(0, 1)
        return torch.cat([lists[..., :n], others], -1)


SHARING = {"as printed": AsPrinted, "unrelated": Unrelated}


def sharing_settings() -> dict[str, dict]:
    """Name -> what is asked of the pipeline; ``sharing`` and ``steps`` are looked up by `arguments`."""
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
    means = []
    for some in stories.values():
        means.append(
            {
                kind: {key: sum(r[kind][key] for r in some) / len(some) for key in some[0][kind]}
                for kind in kinds
            }
        )
    return summary(means, kinds)


def measure_sharing(pipe, judge, setting, stories, seeds, also=copying, **call):
    """Rows of `measure` for a setting of `sharing_settings`."""
    before = pipe.sharing
    try:
        pipe.sharing = SHARING.get(setting.get("sharing"), before)
        call = arguments(setting) | {"num_inference_steps": STEPS} | call
        return measure(pipe, judge, call, stories, seeds, also=also)
    finally:
        pipe.sharing = before


def repeated(stories):
    """Each story under `SEEDS` seeds: (stories, seeds), those of one seed together."""
    told = [s for _ in range(SEEDS) for s in stories]
    return told, [100 * k + i for k in range(SEEDS) for i in range(len(stories))]


def sharing(stories=20, device="cpu", only=None):
    """Every setting of `sharing_settings`, the same stories and seeds in each."""
    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    judge = StoryJudge.load(device=device)
    told, seeds = repeated([story(i) for i in range(stories)])
    record = header("sharing", stories, 4, steps=STEPS) | EXPERIMENT.fingerprint()
    record["seeds"] = f"{SEEDS} a story: 0.., 100.., 200.."

    def rows_of(setting):
        return measure_sharing(pipe, judge, setting, told, seeds)

    return sweep(record, sharing_settings(), rows_of, KINDS, only, by_story)


EXPERIMENT = Experiment(
    sharing,
    ("attention.py", "guidance.py", "pipeline.py", "judge.py"),
    (story, measure, sharing_settings, arguments, copying, by_story, repeated, AsPrinted, Unrelated),
    ("micro", "judge"),
    stories=20,
)
