"""Write the files of the page that draws into a folder: python -m storydiff_lite.browser FOLDER"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from ..weights import WeightsError
from .runtime import RuntimeFileError
from .site import build


def main(arguments=None):
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m storydiff_lite.browser", description=__doc__)
    parser.add_argument("folder", help="where to write")
    parser.add_argument("--cache", help="a folder that keeps what was exported, for the next time")
    args = parser.parse_args(arguments)
    begun = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            sizes = build(Path(args.folder), Path(args.cache or scratch), print)
    except (ImportError, RuntimeFileError, WeightsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, size in sizes.items():
        print(f"{size:12,}  {name}")
    print(f"{sum(sizes.values()):12,}  bytes in {time.perf_counter() - begun:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
