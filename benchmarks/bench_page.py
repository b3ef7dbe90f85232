"""Seconds a story: in the page that draws (Chromium, one thread) and in Python (torch, one thread), in turns.

    python benchmarks/bench_page.py [--panels 4] [--steps 8] [--repeats 3] [--rate 0.5]

Both draw the same story with the same weights, so that whatever else the machine does falls on both. Numbers
are medians over the rounds, the ratio is the median of the rounds' ratios. Needs a Chromium.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from storydiff_lite.browser.site import build
from storydiff_lite.pipeline import StoryPipeline

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import browser  # noqa: E402

PROMPTS = [
    "a bear reading a book in the forest",
    "a bear walking on the beach",
    "a bear sleeping in the city",
    "a bear waving in the snow",
]
PAGE = '<!doctype html><meta charset="utf-8"><title>bench</title><script src="machine.js"></script>'
DRAW = """async o => {
    const start = performance.now();
    let first = 0;
    const result = await storyMachine.draw(o, () => (first = first || performance.now() - start));
    const whole = (performance.now() - start) / 1000;
    const { stepSeconds, decoding, heap } = result;
    return {whole, first: first / 1000, steps: stepSeconds, decoding, heap};
}"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--panels", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="2, as the page does on four cores and more")
    args = parser.parse_args()

    torch.set_num_threads(1)
    story = [PROMPTS[i % len(PROMPTS)] for i in range(args.panels)]
    pipe = StoryPipeline.from_pretrained("micro-int8")
    pipe.set_progress_bar_config(disable=True)
    in_page, in_python = [], []
    with tempfile.TemporaryDirectory() as folder, browser.chromium() as chromium:
        folder = Path(folder)
        sizes = build(folder / "site", ROOT / "_build")  # where the site's build keeps its export
        (folder / "site" / "index.html").write_text(PAGE)
        page = chromium.new_page()
        page.goto((folder / "site" / "index.html").as_uri())
        start = time.perf_counter()
        page.evaluate("workers => storyMachine.configure({workers})", args.workers)
        page.evaluate("() => storyMachine.load()")
        loading = time.perf_counter() - start
        options = {"prompts": story, "steps": args.steps, "rate": args.rate}
        settings = {"num_inference_steps": args.steps, "consistency": args.rate, "generator": "portable"}
        page.evaluate(DRAW, options | {"steps": 1})  # warm up, both
        pipe(story, **settings | {"num_inference_steps": 1})
        for seed in range(args.repeats):
            in_page.append(page.evaluate(DRAW, options | {"seed": seed}))
            start = time.perf_counter()
            pipe(story, seed=seed, output_type="np", **settings)
            in_python.append(time.perf_counter() - start)

    def middle(key):
        return statistics.median(key(row) for row in in_page)

    ratio = statistics.median(row["whole"] / python for row, python in zip(in_page, in_python, strict=True))
    numbers = {
        "s a story, page": f"{middle(lambda r: r['whole']):.2f}",
        "s a story, Python": f"{statistics.median(in_python):.2f} (torch {torch.__version__}, one thread)",
        "page over Python": f"{ratio:.2f}",
        "s to the first preview": f"{middle(lambda r: r['first']):.2f}",
        "s a step": f"{middle(lambda r: statistics.median(r['steps'])):.3f}",
        "s decoding": f"{middle(lambda r: r['decoding']):.2f}",
        "MiB of the runtime": f"{middle(lambda r: r['heap']) / 2**20:.0f}",
    }
    print(f"The page that draws: {sum(sizes.values()) / 1e6:.1f} MB, loaded in {loading:.1f} s, once.")
    print(
        f"{args.panels} panels, {args.steps} steps, rate {args.rate:g}, guidance 5; {args.repeats} rounds.\n"
    )
    for name, number in numbers.items():
        print(f"{name:26}{number}")


if __name__ == "__main__":
    main()
