"""``python -m storydiff_lite.experiments [NAME]``: make a record, or all of them."""

import argparse

import torch

from . import EXPERIMENTS
from .records import save, verify


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m storydiff_lite.experiments", description=__doc__)
    p.add_argument("name", nargs="?", choices=(*EXPERIMENTS, "all"), default="all")
    p.add_argument("--stories", type=int, default=100)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument(
        "--verify",
        type=int,
        metavar="N",
        help="instead of making a record, measure its first N stories again after the code has changed",
    )
    a = p.parse_args(argv)
    if a.stories < 2:
        p.error(f"--stories is {a.stories}; an interval needs at least 2")
    for name in EXPERIMENTS if a.name == "all" else (a.name,):
        what = EXPERIMENTS[name]
        record = verify(name, what, a.verify, a.device) if a.verify else what.run(a.stories, a.device)
        save(name, record)


if __name__ == "__main__":
    main()
