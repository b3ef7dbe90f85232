"""Draw what the README shows: a story without and with consistent self-attention, one as a video; seed 0."""

import chapters
from PIL import Image

from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.show import figures
from storydiff_lite.video import TransitionPipeline, save_video, story_to_video

#: of chapter 0
STORY = """
a bear waving in the forest
a bear walking on the beach
a bear reading a book in the snow
a bear sitting on the moon
"""
SETTINGS = {"each panel for itself": {"consistency": 0}, "together": {"consistency": 1, "layers": "all"}}
#: pixels of the film and of its poster
SIZE = 256
#: of chapter 9
MOVING = [
    f"an orange cat with a red hat {does} in the snow" for does in ("walking", "jumping", "waving", "sitting")
]


def main():
    assets = chapters.ROOT / "book/assets"
    pipe = StoryPipeline.from_pretrained("micro")
    rows = [pipe(STORY, seed=0, **setting).images for setting in SETTINGS.values()]
    page = figures.grid(rows, list(SETTINGS), size=150)
    page = page.quantize(256, dither=Image.Dither.NONE)
    page.save(assets / "strip.png", optimize=True)

    panels = pipe(MOVING, seed=0, **SETTINGS["together"]).images
    transition_pipe = TransitionPipeline.from_pretrained("micro", lora="passages")
    frames = [figures.enlarge(f, SIZE) for f in story_to_video(transition_pipe, panels, MOVING, seed=0)]
    save_video(frames, assets / "story.mp4")
    # for the README, where no video plays: a third of what a GIF of the same size takes, and in all colours
    frames[0].save(
        assets / "story.webp",
        save_all=True,
        append_images=frames[1:],
        duration=125,
        loop=0,
        quality=70,
        method=6,
    )
    frames[len(frames) // 2].save(assets / "poster.webp", quality=88, method=6)


if __name__ == "__main__":
    main()
