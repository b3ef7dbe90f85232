"""What sharing costs and brings: stories of four panels at several rates (chapters 00 and 05)."""

from __future__ import annotations

import random

from .. import world
from ..defects import DefectJudge
from ..judge import StoryJudge
from ..pipeline import StoryPipeline
from .records import PANELS, Experiment, header, judged, mean_and_interval, sweep

KINDS = ("agreement", "fidelity", "clean")
STEPS = 12  # denoising steps: what the model draws with by default
#: guidance in all steps, and not in the micro model's own: a setting of `together`
ALL_GUIDED = {"guidance_start": 0.0, "guidance_stop": 1.0}


def story(i: int, panels: int = 4) -> list[str]:
    """The i-th story of every experiment: prompts that name species, action and scene, and leave the rest
    free.
    """
    rng = random.Random(f"story/{i}")
    species = world.article(world.SPECIES[i % len(world.SPECIES)])
    actions = rng.sample(tuple(world.ACTIONS.values()), panels)
    scenes = rng.sample(tuple(world.SCENES.values()), panels)
    return [f"{species} {a} {s}" for a, s in zip(actions, scenes, strict=True)]


def settings() -> dict[str, dict]:
    """Name -> arguments of the pipeline call."""
    out = {f"rate {r:g}": {"consistency": r} for r in (0, 0.25, 0.5, 0.75, 1)}
    out["rate 0, one noise"] = {"consistency": 0, "same_noise": True}
    out["rate 0.5, one noise"] = {"consistency": 0.5, "same_noise": True}
    out["rate 1, all layers"] = {"consistency": 1, "layers": "all"}
    out["rate 1, all layers, one noise"] = {"consistency": 1, "layers": "all", "same_noise": True}
    return out


def measure(pipe, judge, setting, stories, seeds=None, batch_size=None, also=None, defects=None):
    """One row per story, as of `judged`.

    Parameters
    ----------
    setting : dict
        Arguments of the pipeline call (``consistency=...``).
    stories : list of lists of prompts
    seeds : list of int, optional
        0, 1, 2, ... by default.
    batch_size : int, optional
        Stories that go through the U-Net together: by default 4 on a GPU, and 1 on a CPU, whose caches
        hold no more.
    also : callable, optional
        ``also(names, prompts, images) -> dict`` of more to put into a row; ``names`` is what was read.
    defects : DefectJudge, optional
        Puts the fraction of clean panels into each row, as ``"clean": {"mean": 0..1}``.
    """
    seeds = list(range(len(stories))) if seeds is None else seeds
    batch_size = batch_size or (1 if pipe.device.type == "cpu" else 4)
    how, rows = {"batch_size": batch_size, "output_type": "pt"} | setting, []
    for output, prompts, seed in zip(pipe.tell_many(stories, seeds, **how), stories, seeds, strict=True):
        names, row = judged(judge, output.images, prompts, defects)
        row |= also(names, prompts, output.images) if also else {}
        rows.append({"story": prompts, "seed": seed} | row)
    return rows


def expected(record, setting, few, kind="agreement") -> tuple[float, float]:
    """Between which limits the mean of ``few`` stories of a record's setting lies, 19 times of 20.

    The record's own interval, as wide as the mean of so few makes it: for a live sample beside the record.
    """
    values = [row[kind] for row in record["rows"][setting]]
    mean, _, high = mean_and_interval(values)
    half = (high - mean) * (len(values) / few) ** 0.5
    return mean - half, mean + half


def pipe_and_judge(device="cpu"):
    """The shipped ones."""
    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe, StoryJudge.load(device=device)


def pipe_and_judges(device="cpu"):
    """`pipe_and_judge`, and the judge of defects."""
    return *pipe_and_judge(device), DefectJudge.load(device=device)


def story_experiment(
    name, settings, rows, kinds=KINDS, panels=4, seeds=range, summarize=None, about=None, also=(), then=None,
    golden_rows=None, **more,
) -> Experiment:  # fmt: skip
    """The experiment that measures, under every setting, the same stories with the shipped weights.

    Parameters
    ----------
    name : str
        Of the record.
    settings : callable
        ``settings() -> {name: setting}``
    rows : callable
        ``rows(pipe, judge, setting, seeds, defects=...)``, a row for each seed.
    panels : int
        Of a story.
    seeds : callable
        ``seeds(stories)``, those of so many stories; 0, 1, 2, ... by default.
    summarize : callable, optional
        As of `records.sweep`.
    about : dict, optional
        More of the record's `header`; the steps by default.
    also : tuple of str
        Weights that the numbers depend on besides those that draw and the judge's.
    then : callable, optional
        ``then(pipe, judge, stories) -> dict`` of what else the record holds, measured at the end.
    golden_rows : callable, optional
        ``rows`` of shorter stories, where golden rows of whole ones would take long.
    **more
        Of `Experiment`.
    """

    def measuring(rows, pipe, judge, defects):
        return lambda setting, numbers: rows(pipe, judge, setting, list(numbers), defects=defects)

    def opened(device="cpu"):
        return measuring(golden_rows or rows, *pipe_and_judges(device))

    def run(stories, device="cpu"):
        (pipe, judge, defects), numbers = pipe_and_judges(device), seeds(stories)
        rows_of = measuring(rows, pipe, judge, defects)
        record = header(name, stories, panels, **{"steps": STEPS} if about is None else about)
        record |= {"seeds": f"{numbers[0]}..{numbers[-1]}"} | what.fingerprint()
        record = sweep(record, settings(), lambda s: rows_of(s, numbers), kinds, summarize=summarize)
        return record | (then(pipe, judge, stories) if then else {})

    what = Experiment(run, opened, kinds, (*PANELS, "judge", *also), **more)
    return what


def rows(pipe, judge, setting, seeds, **more):
    """`measure` of the stories of these seeds."""
    call = {"num_inference_steps": STEPS} | setting
    return measure(pipe, judge, call, [story(i) for i in seeds], seeds, **more)


EXPERIMENT = story_experiment(
    "consistency", settings, rows, KINDS, stories=100, golden=("rate 1, all layers, one noise",)
)
