"""``python -m storydiff_lite.experiments [NAME]``: make a record, or all of them."""

import argparse

import torch

from ..devices import check_device
from . import EXPERIMENTS
from .records import load, save


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m storydiff_lite.experiments", description=__doc__)
    p.add_argument("name", nargs="?", choices=(*EXPERIMENTS, "all"), default="all")
    p.add_argument("--stories", type=int, help="default: what the record is to hold")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument(
        "--golden",
        action="store_true",
        help="instead of making a record, measure golden rows for the one that there is; refused where those "
        "that it has come out otherwise",
    )
    a = p.parse_args(argv)
    if a.stories is not None and a.stories < 2:
        p.error(f"--stories is {a.stories}; an interval needs at least 2")
    try:
        check_device(a.device)
    except ValueError as error:
        p.error(str(error))
    for name in EXPERIMENTS if a.name == "all" else (a.name,):
        what = EXPERIMENTS[name]
        save(name, regilded(name, what) if a.golden else what.make(a.stories, a.device))


def regilded(name, what):
    """A record with golden rows, for one that has none, or whose choice has changed."""
    record = load(name)
    if what.golden and "golden" in record and (words := what.differences(record)):
        raise SystemExit("\n".join((*words, f"The record {name!r} is not of this code: make it anew.")))
    return what.gild(record)


if __name__ == "__main__":
    main()
