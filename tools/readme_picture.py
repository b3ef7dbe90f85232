"""Draw the picture of the README: chapter 0's story without and with consistent self-attention, seed 0."""

import chapters
from PIL import Image

from storydiff_lite import figures
from storydiff_lite.pipeline import StoryPipeline

STORY = """
a bear waving in the forest
a bear walking on the beach
a bear reading a book in the snow
a bear sitting on the moon
"""
SETTINGS = {"each panel for itself": {"consistency": 0}, "together": {"consistency": 1, "layers": "all"}}


def main():
    pipe = StoryPipeline.from_pretrained("micro")
    rows = [pipe(STORY, seed=0, **setting).images for setting in SETTINGS.values()]
    page = figures.grid(rows, list(SETTINGS), size=150)
    page = page.quantize(256, dither=Image.Dither.NONE)
    page.save(chapters.ROOT / "book/assets/strip.png", optimize=True)


if __name__ == "__main__":
    main()
