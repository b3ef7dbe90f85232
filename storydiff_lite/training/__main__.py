"""``python -m storydiff_lite.training PART``: train a part, or put the trained parts together (``pack``).

Parts in their order: vae, clip, judge, decoder, upscale, unet, identity, identity_no_lora, ip_adapter,
motion, pack; ``PART --help`` says which options it has. The autoencoder is made by three of them: ``vae``
learns latents of pictures of 64 pixels from nothing, ``decoder`` goes on with its decoder alone, ``upscale``
learns to draw 128 pixels from these latents. ``pack-further`` leaves the packed models of the pipeline and
the judge as they are, and packs only what was trained beside them. ``defects`` is the judge that counts,
``video`` the transition decoder in four variants, ``passages`` its LoRA for panel transitions: these say
themselves what is packed. ``all`` is the whole chain, records included. A run that was interrupted goes on
from its last checkpoint; a finished part is not trained again unless its checkpoint is deleted. A part that
is needed but has no checkpoint comes from the weights of this repository: ``unet`` on a fresh clone trains a
U-Net for the autoencoder and the encoders that are there.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from ..devices import check_device
from . import cards, defects, passages, video
from .pack import pack, pack_further
from .parts import AUTOENCODER, MORE, STEPS, Parts
from .processes import join

PARTS = (*STEPS, *MORE, "defects", "video", "passages", "pack", "pack-further")
#: parts whose training several processes can share
SHARED = (*AUTOENCODER, "unet")


def number(kind, fits, words):
    """What argparse reads a number with, refused where it doesn't fit: it must be as ``words`` say."""

    def read(text):
        if not fits(value := kind(text)):
            raise argparse.ArgumentTypeError(f"it is {text} and must be {words}")
        return value

    read.__name__ = kind.__name__  # for argparse's own messages
    return read


COUNT = {"type": number(int, lambda n: n >= 1, "at least 1")}
SECONDS = {"type": number(float, lambda s: s > 0, "more than 0 seconds")}
SHARE = {"type": number(float, lambda x: 0 <= x <= 1, "between 0 and 1")}
SIZE = {"type": int, "choices": (64, 128)}
RATE = {"type": number(float, lambda x: 0 < x < 1, "more than 0 and less than 1")}
#: a folder that is read: told now, not after hours of drawing
FOLDER = {
    "type": number(str, lambda name: Path(name).is_dir(), "a folder that is there"),
    "metavar": "FOLDER",
}
FLAG = {"action": "store_true"}
LEARN = PARTS[:-2]
TIMED = ("upscale", "unet", *MORE, "defects", "video", "passages")
OF_PIPELINE = (*STEPS, *MORE, "pack", "pack-further")
EACH = (*PARTS, "all")
#: options: name, the parts that have it, what it is, what argparse takes; a training's own defaults hold
OPTIONS = (
    ("--steps", LEARN, f"optimizer steps of this part (default: {STEPS | MORE}, else as trained)", COUNT),
    ("--seconds", TIMED, "end the run after so much wall time (GPU: steps are cheap)", SECONDS),
    ("--batch", TIMED, "pictures, albums, clips, ... a step", COUNT),
    ("--pictures", (*TIMED[:-2],), "samples that are drawn to train on", COUNT),
    ("--clips", ("video", "passages"), "clips to train on", COUNT),
    ("--passages", ("passages",), "passages to train on", COUNT),
    ("--heldout", ("defects", "video", "passages"), "pictures, clips, ... of a kind to measure on", COUNT),
    ("--size", OF_PIPELINE, "pixels of a picture at the end, as now by default", SIZE),
    ("--size", ("video",), "pixels of a clip; the autoencoder's own by default", SIZE),
    ("--again", ("unet", "identity", "ip_adapter", "passages"), "begin with the packed weights", FLAG),
    ("--again", ("all",), "the U-Net goes on from the packed one", FLAG),
    ("--again", ("defects",), "how many of the pictures the autoencoder draws anew", COUNT),
    ("--heldout-again", ("defects",), "how many of those to measure on are drawn anew (default: all)", COUNT),
    ("--rank", ("identity", "passages"), "rank of the LoRA", COUNT),
    ("--no-strips", ("unet",), "no picture that holds a character twice; for a trial with a --name", FLAG),
    ("--name", OF_PIPELINE[4:-2], "another name for the checkpoint, for trials beside the real part", {}),
    ("--name", ("video",), "of what it makes, video-NAME in the folder; the variant's by default", {}),
    ("--variant", ("video",), "of the decoder", {"choices": video.VARIANTS}),
    ("--prepare", ("video",), "only draw and encode the clips", FLAG),
    ("--pack", ("video", "passages"), "only put the trained weights among the shipped ones", FLAG),
    ("--begin", ("video",), "folder to go on from, such as storydiff_lite/data/video", FOLDER),
    ("--lr", ("video", "passages"), "step size of AdamW; Muon's is 8 times as large", RATE),
    ("--cooldown", ("video",), "fraction of the run with falling step size", SHARE),
    ("--from", ("all",), "the stage to begin with", {"dest": "first", "metavar": "STAGE"}),
    ("--budget", ("all",), "seconds for all that follows the U-Net; default: no limit", SECONDS),
    ("--jobs", ("all",), "stages at once (4 on a GPU, 1 on a CPU)", COUNT),
    ("--out", ("all",), "folder that gets what was made, in three files", {"type": Path}),
    ("--list", ("all",), "only say what would be run", FLAG),
    ("--seed", PARTS, "0 by default", {"type": number(int, lambda n: n >= 0, "0 or more")}),
    ("--threads", PARTS, "CPU threads (default: torch's own choice)", COUNT),
    ("--device", EACH, "cuda where there is a GPU, else cpu", {}),
    ("--folder", EACH, "where checkpoints and drawn pictures are kept", {}),
)


def parsed(argv=None) -> tuple[argparse.ArgumentParser, dict]:
    """The parser of the part that is asked for, and its options, as far as they are given."""
    style = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(
        "python -m storydiff_lite.training", description=__doc__, formatter_class=style
    )
    parsers = p.add_subparsers(dest="part", metavar="PART", required=True, help=f"one of {', '.join(EACH)}")
    of = {part: parsers.add_parser(part, argument_default=argparse.SUPPRESS) for part in EACH}
    for name, parts, about, how in OPTIONS:
        for part in parts:
            of[part].add_argument(name, help=about, **how)
    given, unknown = p.parse_known_args(argv)
    for word in unknown:
        others = [part for name, parts, *_ in OPTIONS if name == word.partition("=")[0] for part in parts]
        of[given.part].error(
            f"{word} is not for {given.part}: it is for {', '.join(others)}"
            if others
            else f"unrecognized arguments: {' '.join(unknown)}"
        )
    return of[given.part], vars(given)


def main(argv=None):
    p, given = parsed(argv)
    part, threads = given.pop("part"), given.pop("threads", None)
    given = {"device": "cuda" if torch.cuda.is_available() else "cpu", "folder": "checkpoints"} | given
    try:
        if not given.get("list"):  # which only says what another machine would run
            check_device(given["device"])
        for name in ("folder", "out"):
            check_folder(f"--{name}", given.get(name))
    except ValueError as error:
        p.error(str(error))
    if threads:
        torch.set_num_threads(threads)
    if part == "all":
        from . import chain  # the records it measures import what is trained here

        try:
            stages = chain.chosen(chain.STAGES, given.pop("first", None))
        except ValueError as e:
            p.error(str(e))
        return chain.make(stages, **given)
    if part in ("defects", "video", "passages"):
        return {"defects": defects, "video": video, "passages": passages}[part].make(**given)
    processes = join(given["device"])
    if processes.count > 1:
        if part not in SHARED:
            p.error(f"{part} is trained by one process; several can share {', '.join(SHARED)}")
        given["device"] = str(processes.device)
    parts = Parts(**{k: given.pop(k) for k in ("folder", "device", "seed", "size") if k in given})
    if part.startswith("pack"):
        return (pack if part == "pack" else pack_further)(parts)
    if given.pop("no_strips", False):
        if "name" not in given:
            p.error("--no-strips is for a trial of unet under another name: add --name unet-no-strips")
        given["strips"] = False
    _, run, heldout = parts.train(part, **given)
    if processes.rank == 0:
        cards.report(part, run, heldout)
    return None


def check_folder(option, folder):
    """Raise ValueError where a folder could not be made and written to; now, not when there is something."""
    if folder is None:
        return
    there = next(p for p in (Path(folder).absolute(), *Path(folder).absolute().parents) if p.exists())
    if not there.is_dir():
        raise ValueError(f"{option} is {folder}, and {there} is a file. Give a folder.")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{option} is {folder}, and nothing can be written to {there}. Give another folder.")


if __name__ == "__main__":
    main()
