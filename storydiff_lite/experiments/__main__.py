"""``python -m storydiff_lite.experiments [NAME]``: make a record, or all of them."""

import argparse

import torch

from . import EXPERIMENTS
from .records import save, verify


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m storydiff_lite.experiments", description=__doc__)
    p.add_argument("name", nargs="?", choices=(*EXPERIMENTS, "all"), default="all")
    p.add_argument("--stories", type=int, help="default: what the record is to hold")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument(
        "--verify",
        type=int,
        metavar="N",
        help="instead of making a record, measure its first N stories again after the code has changed",
    )
    a = p.parse_args(argv)
    if a.stories is not None and a.stories < 2:
        p.error(f"--stories is {a.stories}; an interval needs at least 2")
    for name in EXPERIMENTS if a.name == "all" else (a.name,):
        what = EXPERIMENTS[name]
        if a.verify:
            record = verify(name, what, a.verify, a.device)
        else:
            record = what.run(a.stories or what.stories, a.device)
        save(name, record)


if __name__ == "__main__":
    main()
