"""Experiments too heavy for a page: ``python -m storydiff_lite.experiments [NAME]`` writes
``book/results/NAME.json``.

A record holds one row per story, seed and setting; the chapters plot it and run a small sample of it
beside it. The record names the code and the weights that it measured (SHA-256): a test fails when it is
older than they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from . import weights, world
from .judge import FREE, StoryJudge, agreement, faithfulness

RESULTS = Path(__file__).parent.parent / "book" / "results"
#: files whose change makes a record stale
CODE = ("attention.py", "guidance.py", "pipeline.py", "judge.py", "experiments.py")


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


def measure(pipe, judge, setting, stories, seeds=None, batch_size=4):
    """One row per story: agreement of the free attributes, fidelity to the prompts, and what was read.

    Parameters
    ----------
    setting : dict
        Arguments of the pipeline call (``consistency=...``).
    stories : list of lists of prompts
    seeds : list of int, optional
        0, 1, 2, ... by default.
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
                    "agreement": _short(agreement(names, FREE)),
                    "fidelity": _short(faithfulness(names, prompts)),
                    "read": [{k: n[k] for k in FREE} for n in names],
                }
            )
    return rows


def _short(d):
    return {k: round(v, 4) for k, v in d.items()}


def mean_and_interval(values) -> tuple[float, float, float]:
    """Mean and its 95% interval by the normal approximation; one value per story, so that stories are the
    sample.
    """
    n, m = len(values), sum(values) / len(values)
    s = math.sqrt(sum((v - m) ** 2 for v in values) / max(1, n - 1))
    half = 1.96 * s / math.sqrt(n)
    return m, m - half, m + half


def summary(rows):
    """``{"agreement": (mean, low, high), "fidelity": ..., each attribute}`` of rows of `measure`."""
    out = {}
    for kind in ("agreement", "fidelity"):
        for key in rows[0][kind]:
            name = kind if key == "mean" else f"{kind}.{key}"
            out[name] = [
                round(v, 4) for v in mean_and_interval([r[kind][key] for r in rows if key in r[kind]])
            ]
    return out


def fingerprint() -> dict[str, str]:
    """SHA-256 of the code and of the weights that a record measures."""
    here = Path(__file__).parent
    code = hashlib.sha256(b"".join((here / f).read_bytes() for f in CODE)).hexdigest()
    manifest = json.loads((weights.DATA / weights.MANIFEST).read_text())
    models = {k: v for k, v in manifest.items() if k.split("/")[0] in ("micro", "judge")}
    return {"code": code, "weights": hashlib.sha256(json.dumps(models, sort_keys=True).encode()).hexdigest()}


def load(name: str) -> dict:
    """A committed record; FileNotFoundError says how to make it."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"There is no record {path.name}: make it with `python -m storydiff_lite.experiments {name}`."
        )
    return json.loads(path.read_text())


def consistency(stories=100, device="cpu", only=None):
    """Stories of four panels under every setting of `settings`; the same stories and seeds in each."""
    from .pipeline import StoryPipeline
    from .training.common import machine

    pipe = StoryPipeline.from_pretrained("micro").to(device)
    pipe.set_progress_bar_config(disable=True)
    judge = StoryJudge.load(device=device)
    told = [story(i) for i in range(stories)]
    record = {
        "experiment": "consistency",
        "stories": stories,
        "seeds": f"0..{stories - 1}",
        "panels": 4,
        "machine": machine(),
        "torch": torch.__version__.split("+")[0],
    }
    record |= fingerprint() | {"settings": settings(), "summary": {}, "seconds": {}, "rows": {}}
    for name, setting in tqdm(settings().items(), desc="settings"):
        if only and name not in only:
            continue
        start = time.time()
        rows = measure(pipe, judge, setting, told)
        record["rows"][name] = [
            {"seed": r["seed"], "agreement": r["agreement"]["mean"], "fidelity": r["fidelity"]["mean"]}
            for r in rows
        ]
        record["summary"][name], record["seconds"][name] = summary(rows), round(time.time() - start, 1)
        s = record["summary"][name]
        tqdm.write(
            f"{name:32s} agreement {s['agreement']}  fidelity {s['fidelity']}  {record['seconds'][name]} s"
        )
    return record


EXPERIMENTS = {"consistency": consistency}


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m storydiff_lite.experiments", description=__doc__)
    p.add_argument("name", nargs="?", choices=(*EXPERIMENTS, "all"), default="all")
    p.add_argument("--stories", type=int, default=100)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = p.parse_args(argv)
    if a.stories < 2:
        p.error(f"--stories is {a.stories}; an interval needs at least 2")
    for name in EXPERIMENTS if a.name == "all" else (a.name,):
        record = EXPERIMENTS[name](a.stories, a.device)
        weights.atomic_save(
            RESULTS / f"{name}.json", lambda to, record=record: to.write_text(json.dumps(record, indent=1))
        )


if __name__ == "__main__":
    main()
