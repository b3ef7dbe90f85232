"""Experiments too heavy for a page: ``python -m storydiff_lite.experiments [NAME]`` writes
``book/results/NAME.json``.

A record holds one row per story, seed and setting; the chapters plot it and run a small sample of it
beside it. The record names the code and the weights that it measured (SHA-256): a test fails when it is
older than they are.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from . import weights, world
from .judge import FREE, StoryJudge, agreement, faithfulness

RESULTS = Path(__file__).parent.parent / "book" / "results"


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


def summary(rows, kinds=("agreement", "fidelity")):
    """``{"agreement": (mean, low, high), "fidelity": ..., each attribute}`` of rows of `measure`."""
    out = {}
    for kind in kinds:
        for key in rows[0][kind]:
            name = kind if key == "mean" else f"{kind}.{key}"
            out[name] = [
                round(v, 4) for v in mean_and_interval([r[kind][key] for r in rows if key in r[kind]])
            ]
    return out


def fingerprint(name: str = "consistency") -> dict[str, str]:
    """SHA-256 of the code and of the weights that a record measures."""
    here, what = Path(__file__).parent, EXPERIMENTS[name]
    parts = [(here / f).read_text(encoding="utf-8") for f in what.files]
    parts += [inspect.getsource(f) for f in (*what.functions, what.run)]
    manifest = json.loads((weights.DATA / weights.MANIFEST).read_text())
    models = {k: v for k, v in manifest.items() if k.split("/")[0] in what.weights}
    return {
        "code": hashlib.sha256("".join(parts).encode()).hexdigest(),
        "weights": hashlib.sha256(json.dumps(models, sort_keys=True).encode()).hexdigest(),
    }


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
    record |= fingerprint("consistency") | {"settings": settings(), "summary": {}, "seconds": {}, "rows": {}}
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


# --------------------------------------------------------------------------------------------- identity


def people(n: int = 100) -> list[list[world.Picture]]:
    """Albums of ``n`` characters that the identity encoder never saw: four pictures to refer to, and a fifth
    whose action and scene the prompt names.
    """
    from .training.identity import withheld

    found, i = [], 0
    while len(found) < n:
        rng = random.Random(f"person/{i}")
        who, i = world.Character.random(rng), i + 1
        if withheld(who):
            found.append(world.random_strip(rng, 5, who))
    return found


def identity_settings() -> dict[str, dict]:
    """Name -> number of reference pictures, whose they are, and when they come in."""
    out = {"text only": {"references": 0}}
    out |= {f"{n} picture{'s' * (n > 1)}": {"references": n} for n in (1, 2, 4)}
    for share in (0.0, 0.4, 0.6, 0.8):  # 0.2 is the default, and stands above
        out[f"4 pictures, after {share:.0%}"] = {"references": 4, "start_merge_step": share}
    out["2 pictures of each of two"] = {"references": 4, "others": 2}
    out["4 pictures of another species"] = {"references": 4, "others": 4}
    return out


def measure_identity(pipe, judge, albums, references, others=0, size=64, batch_size=16, **settings):
    """One row per identity: agreement of the free attributes with the character of the reference pictures.

    Parameters
    ----------
    albums : list of lists of five pictures
        As of `people`.
    references : int
        Pictures of the character that are given, 0 to 4 (0: the prompt alone).
    others : int
        How many of these are, instead, of the next character of another species.
    **settings
        Of the pipeline call.

    Returns
    -------
    list of dict
        ``agreement`` with the character of the (first) pictures, ``other``: with the one of the others,
        ``fidelity`` to the prompt.
    """
    stories, images, first, second = [], [], [], []
    for i, album in enumerate(albums):
        own, target = album[0].actors[0].character, album[4].actors[0]
        after = albums[i + 1 :] + albums[:i]
        other = next((a for a in after if a[0].actors[0].character.species != own.species), album)
        mark = " img" if references else ""
        stories.append(
            [f"a {own.species}{mark} {world.ACTIONS[target.action]} {world.SCENES[album[4].scene]}"]
        )
        shown = album[: references - others] + other[:others]
        images.append([world.render(p, size) for p in shown] or None)
        first.append(world.labels(shown[0] if shown else album[0]))
        second.append(world.labels(other[0]))
    rows, told = (
        [],
        pipe.tell_many(
            stories,
            range(len(stories)),
            batch_size=batch_size,
            id_images=images,
            consistency=0,
            output_type="pt",
            **settings,
        ),
    )
    for i, story_ in enumerate(told):
        read = judge.names(story_.images)[0]
        pairs = (("agreement", first[i]), ("other", second[i]))
        row = {what: {k: float(read[k] == truth[k]) for k in FREE} for what, truth in pairs}
        for d in row.values():
            d["mean"] = sum(d.values()) / len(d)
        row["fidelity"] = faithfulness([read], [stories[i][0].replace(" img", "")])
        rows.append({"seed": i} | {k: _short(v) for k, v in row.items()})
    return rows


def identity(stories=100, device="cpu", only=None):
    """One picture of each of many unseen identities under every setting of `identity_settings`."""
    from .pipeline import StoryPipeline
    from .training.common import machine

    pipe = StoryPipeline.from_pretrained("micro").to(device).load_identity("micro")
    pipe.set_progress_bar_config(disable=True)
    judge, albums = StoryJudge.load(device=device), people(stories)
    record = {
        "experiment": "identity",
        "stories": stories,
        "seeds": f"0..{stories - 1}",
        "panels": 1,
        "machine": machine(),
        "torch": torch.__version__.split("+")[0],
    }
    record |= fingerprint("identity") | {
        "settings": identity_settings(),
        "summary": {},
        "seconds": {},
        "rows": {},
    }
    for name, setting in tqdm(identity_settings().items(), desc="settings"):
        if only and name not in only:
            continue
        start = time.time()
        rows = measure_identity(pipe, judge, albums, **setting)
        record["rows"][name] = [{"seed": r["seed"]} | {k: r[k]["mean"] for k in _KINDS} for r in rows]
        record["summary"][name] = summary(rows, _KINDS)
        record["seconds"][name] = round(time.time() - start, 1)
        tqdm.write(f"{name:32s} {[(k, record['summary'][name][k][0]) for k in _KINDS]}")
    return record


_KINDS = ("agreement", "other", "fidelity")


@dataclass(frozen=True)
class Experiment:
    """What makes a record, and what its numbers depend on: files, functions of this file, weights."""

    run: Callable
    files: tuple
    functions: tuple
    weights: tuple


EXPERIMENTS = {
    "consistency": Experiment(
        consistency,
        ("attention.py", "guidance.py", "pipeline.py", "judge.py"),
        (story, settings, measure),
        ("micro", "judge"),
    ),
    "identity": Experiment(
        identity,
        ("identity.py", "tokens.py", "guidance.py", "pipeline.py", "judge.py"),
        (people, identity_settings, measure_identity),
        ("micro", "judge", "identity"),
    ),
}


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m storydiff_lite.experiments", description=__doc__)
    p.add_argument("name", nargs="?", choices=(*EXPERIMENTS, "all"), default="all")
    p.add_argument("--stories", type=int, default=100)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = p.parse_args(argv)
    if a.stories < 2:
        p.error(f"--stories is {a.stories}; an interval needs at least 2")
    for name in EXPERIMENTS if a.name == "all" else (a.name,):
        record = EXPERIMENTS[name].run(a.stories, a.device)
        weights.atomic_save(
            RESULTS / f"{name}.json", lambda to, record=record: to.write_text(json.dumps(record, indent=1))
        )


if __name__ == "__main__":
    main()
