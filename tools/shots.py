"""Photograph every page of a built site, light and dark, wide and phone: `shots.py [SITE] [--page 00]`."""

import argparse
import sys
from pathlib import Path

import browser

SIZES = {"wide": (1280, 900), "phone": (390, 844)}


def draw(page) -> None:
    """Press the buttons of the story machines, and wait for what they draw."""
    for machine in page.locator(".story-machine").all():
        machine.locator(".sm-main").click()
        machine.get_by_text("Drawn in").wait_for(timeout=120_000)
        page.wait_for_timeout(500)  # maps
    page.evaluate("() => scrollTo(0, 0)")


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("site", nargs="?", type=Path, default=Path("_build/html"))
    p.add_argument("--out", type=Path, default=Path("_build/shots"))
    p.add_argument("--page", help="only pages whose path contains this")
    p.add_argument("--draw", action="store_true", help="let the page's story machine draw first")
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
                        if args.draw:
                            draw(page)
                        name = f"{Path(path).stem}-{size}-{'dark' if dark else 'light'}.png"
                        page.screenshot(path=args.out / name, full_page=True)
                        print(args.out / name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
