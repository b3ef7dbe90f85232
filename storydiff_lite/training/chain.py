"""The whole chain with one command: ``python -m storydiff_lite.training all``.

`STAGES` says what is trained, packed and measured, in which order, and what each needs. On a GPU several
stages run at once, on a CPU one after the other. ``--from unet`` begins in the middle: what comes before is
taken from the weights that are there. ``--budget`` seconds are for everything that follows the U-Net, and
are dealt out to the stages that can train for as long as one likes (`Stage.share`).

A chain that was interrupted goes on where it was: stages that are done stand in ``chain.json``, the others go
on from their own checkpoints.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .. import weights
from ..experiments import EXPERIMENTS
from ..experiments.records import RESULTS
from .common import machine
from .video import VARIANTS

TRAINING, EXPERIMENTING = "storydiff_lite.training", "storydiff_lite.experiments"


@dataclass(frozen=True)
class Stage:
    """One command of the chain.

    Parameters
    ----------
    name : str
    command : tuple of str
        What follows ``python -m``; ``{folder}`` stands for the folder of the checkpoints.
    needs : tuple of str
        Stages that come before it.
    share : float
        Share of the budget that it trains for; 0: it ends by itself.
    small : tuple of str
        Further arguments on a CPU, where less must do.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    share: float = 0.0
    small: tuple[str, ...] = ()

    def arguments(self, budget, device, folder):
        """The command line after ``python -m``."""
        words = [w.format(folder=folder) for w in self.command] + ["--device", device]
        if self.command[0] == TRAINING:
            words += ["--folder", str(folder)]
        if self.share and budget:
            words += ["--seconds", f"{self.share * budget:.0f}"]
        return words + list(self.small if torch.device(device).type == "cpu" else ())


def _train(name, *needs, share=0.0):
    return Stage(name, (TRAINING, name), needs, share)


def _video(name, *arguments, needs=(), share=0.0):
    small = () if "--pack" in arguments else ("--clips", "600", "--heldout", "70")
    return Stage(name, (TRAINING, "video", *arguments), needs, share, small)


#: variants of the decoder, all trained alike; what is shipped goes on from the first of them, alone
ALIKE = {"ours": "alike"} | {v: v for v in VARIANTS if v != "ours"}

STAGES = (
    _train("vae"),
    _train("clip"),
    _train("judge"),
    _train("defects"),
    _train("decoder", "vae"),
    _train("upscale", "decoder"),
    _train("unet", "upscale", "clip"),
    _train("pack", "clip", "judge", "defects", "unet"),
    _train("identity", "pack", share=0.25),
    _train("identity_no_lora", "pack", share=0.25),
    _train("ip_adapter", "pack", share=0.15),
    _train("motion", "pack", share=0.06),
    _video("video clips", "--prepare", needs=("pack",)),
    *(
        _video(f"video {n}", "--variant", v, "--name", n, needs=("video clips", "motion"), share=0.2)
        for v, n in ALIKE.items()
    ),
    _video("video", "--begin", "{folder}/video-alike", "--seed", "1", needs=("video alike",), share=0.15),
    _video("pack video", "--pack", needs=("video",)),
    Stage("passages", (TRAINING, "passages"), ("pack video",), 0.1, ("--clips", "320", "--passages", "800")),
    Stage("pack passages", (TRAINING, "passages", "--pack"), ("passages",)),
    _train("pack-further", "identity", "identity_no_lora", "ip_adapter"),
    *(
        Stage(f"record {name}", (EXPERIMENTING, name), ("pack-further", "pack passages"))
        for name in EXPERIMENTS
    ),
)


def chosen(stages, first=None):
    """The stages from the one called ``first`` on: it, and all that need it; all of them by default.

    Raises
    ------
    ValueError
        No stage has that name.
    """
    if first is None:
        return list(stages)
    if first not in {s.name for s in stages}:
        raise ValueError(f"There is no stage {first!r}: choose from {', '.join(s.name for s in stages)}.")
    touched = {first}
    for s in stages:  # in their order, so that what they need was seen before
        if touched & set(s.needs):
            touched.add(s.name)
    return [s for s in stages if s.name in touched]


class Chain:
    """Runs stages as processes, several at once, and notes what is done.

    Parameters
    ----------
    stages : list of Stage
        What they need and is not among them counts as done.
    folder : Path
        For checkpoints, logs (``NAME.log``) and ``chain.json``.
    budget : float, optional
        Seconds, see `Stage.share`.
    jobs : int
        How many stages run at once.
    """

    def __init__(self, stages, folder, device="cpu", budget=None, jobs=1):
        self.stages, self.folder, self.device = list(stages), Path(folder), device
        self.budget, self.jobs = budget, jobs
        self.file = self.folder / "chain.json"
        self.done = json.loads(self.file.read_text())["done"] if self.file.exists() else {}
        self.failed = {}

    def start(self, stage, log):
        """A process of this Python that does what a stage says."""
        arguments = stage.arguments(self.budget, self.device, self.folder)
        return subprocess.Popen([sys.executable, "-m", *arguments], stdout=log, stderr=subprocess.STDOUT)

    def ready(self, running=()):
        """Stages that could start now."""
        names = {s.name for s in self.stages}
        waiting = (s for s in self.stages if s.name not in self.done | self.failed and s.name not in running)
        return [s for s in waiting if all(n in self.done or n not in names for n in s.needs)]

    def run(self, wait=0.5):
        """Run what is not done; returns the names of the stages that failed or could not start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        running, done = {}, self.done.keys() & {s.name for s in self.stages}
        with tqdm(total=len(self.stages), initial=len(done)) as bar:
            while True:
                for stage in self.ready(running)[: self.jobs - len(running)]:
                    log = (self.folder / f"{stage.name}.log").open("w")
                    running[stage.name] = self.start(stage, log), log, time.time()
                if not running:
                    break
                bar.set_description(", ".join(running))
                for name, (process, log, began) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[name]
                    log.close()
                    self._ended(name, process.poll(), time.time() - began)
                    bar.update()
                time.sleep(wait if running else 0)
        return [s.name for s in self.stages if s.name not in self.done]

    def _ended(self, name, code, seconds):
        if code == 0:
            self.done[name] = round(seconds, 1)
            text = json.dumps({"machine": machine(), "done": self.done}, indent=1)
            weights.atomic_save(self.file, lambda to: to.write_text(text + "\n"))
            tqdm.write(f"{name}: {seconds:.0f} s")
            return
        self.failed[name] = code
        file = self.folder / f"{name}.log"
        tqdm.write(f"{name} failed after {seconds:.0f} s; the end of {file}:")
        tqdm.write("\n".join(file.read_text().splitlines()[-12:]))


def gather(folder, out):
    """What a chain made, in three files: ``data.tar`` (weights, cards), ``results.tar`` (records), and
    ``chain.tar`` (logs, what is done, decoders that are not shipped).
    """
    out.mkdir(parents=True, exist_ok=True)
    logs = [*folder.glob("*.log"), folder / "chain.json", *(folder / f"video-{n}" for n in ALIKE.values())]
    for name, paths in (("data", [weights.DATA]), ("results", [RESULTS]), ("chain", logs)):

        def write(to, paths=paths):
            with tarfile.open(to, "w") as tar:
                for path in paths:
                    if path.exists():
                        tar.add(path, path.name)

        weights.atomic_save(out / f"{name}.tar", write)


def make(stages, device, folder, again=False, budget=None, jobs=None, out=None, list=False):
    """``python -m storydiff_lite.training all``: run these stages, or only say what would be run."""
    if again:
        stages = [replace(s, command=(*s.command, "--again")) if s.name == "unet" else s for s in stages]
    if list:
        for s in stages:
            print(f"{s.name:24} python -m {' '.join(s.arguments(budget, device, folder))}")
        return
    folder, jobs = Path(folder), jobs or (1 if torch.device(device).type == "cpu" else 4)
    left = Chain(stages, folder, device, budget, jobs).run()
    if out:
        gather(folder, out)
    if left:
        raise SystemExit(f"Not done: {', '.join(left)}. The same command goes on with them.")
