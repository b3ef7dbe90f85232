"""Photograph the story machine as it has drawn a story, for the README: machine_picture.py [SITE]. Seed 0."""

import argparse
import io
import sys
from pathlib import Path

import browser
import chapters
from PIL import Image

OUT = chapters.ROOT / "book/assets/machine.webp"
MOST = 60_000  # bytes
#: how long it took is a matter of this machine at this hour: `make bench` measures it
WITHOUT_TIMES = """() => {
    document.activeElement.blur();
    document.querySelectorAll(".sm-said").forEach((p) => p.remove());
    for (const p of document.querySelectorAll(".sm-title"))
        p.textContent = p.textContent.replace(/ · [0-9.]+ s$/, "");
}"""


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("site", nargs="?", type=Path, default=Path("_build/html"))
    site = p.parse_args().site.resolve()
    with browser.chromium() as chromium, browser.Visit(chromium, width=1000, height=1700) as visit:
        page = visit.open((site / "book/story-machine.html").as_uri())
        machine = page.get_by_role("region", name="Story machine")
        machine.get_by_role("button", name="Draw both").click()
        machine.get_by_text("Drawn in").wait_for(timeout=120_000)
        page.evaluate(WITHOUT_TIMES)
        taken = Image.open(io.BytesIO(machine.screenshot())).convert("RGB")
    for quality in (90, 80, 70, 60, 50, 40):
        data = io.BytesIO()
        taken.save(data, "webp", quality=quality, method=6)
        if len(data.getvalue()) <= MOST:
            break
    OUT.write_bytes(data.getvalue())
    print(f"{OUT}: {taken.width} x {taken.height}, {len(data.getvalue())} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
