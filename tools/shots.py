"""Photograph every page of a built site, light and dark, wide and phone: `shots.py [SITE] [--page 00]`."""

import argparse
import sys
from pathlib import Path

import browser

SIZES = {"wide": (1280, 900), "phone": (390, 844)}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("site", nargs="?", type=Path, default=Path("_build/html"))
    p.add_argument("--out", type=Path, default=Path("_build/shots"))
    p.add_argument("--page", help="only pages whose path contains this")
    args = p.parse_args()

    site = args.site.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    with browser.chromium() as chromium:
        for path in browser.pages(site):
            if args.page and args.page not in path:
                continue
            for size, (width, height) in SIZES.items():
                for dark in (False, True):
                    with browser.Visit(chromium, width=width, height=height, dark=dark) as visit:
                        page = visit.open((site / path).as_uri())
                        page.wait_for_timeout(300)  # the theme fades in
                        name = f"{Path(path).stem}-{size}-{'dark' if dark else 'light'}.png"
                        page.screenshot(path=args.out / name, full_page=True)
                        print(args.out / name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
