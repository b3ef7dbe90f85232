"""All that a comic is made from, as text in its PNG: written, and read again.

What is written and checked is what the fields of `settings.StorySettings` and `settings.VideoSettings` say.
"""

from __future__ import annotations

import json
import numbers
import os
import zlib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from .. import weights
from ..checks import check_number, check_seed, check_text
from ..comic import plan
from ..schedule import SamplingSchedule
from ..settings import SCHEDULES, StorySettings, VideoSettings, carried, default_steps

KEY = "storydiff"  # of the text in the PNG


class RecipeError(ValueError):
    """A picture that says nothing about how it was made, or something that cannot be read."""


@dataclass(frozen=True)
class Recipe:
    """All that a comic is made from.

    Parameters
    ----------
    story : str
        The text, see `story.parse`.
    seed : int
        0 to 2**63 - 1.
    model : str
        ``"micro"``, ``"micro-int8"``, a pipeline folder, or a model of the hub.
    settings : dict
        Of `settings.StorySettings`, some of those that a recipe holds; ``schedule`` is a name: ``"always"``
        or ``"released"``.
    pictures : dict
        Name of a character -> files of its reference pictures.
    identity : str
        Identity encoder that reads them: ``"micro"`` or a folder.
    layout, font, size
        As of `comic.comic`.
    video : dict
        Some of `settings.VideoSettings`.

    Raises
    ------
    ValueError, TypeError
        A setting or a layout that there is not, or one that cannot be drawn, whatever the model.
    """

    story: str
    seed: int = 0
    model: str = "micro"
    settings: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)
    identity: str = "micro"
    layout: str = "page"
    font: str | None = None
    size: int | None = None
    video: dict = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.story, str):
            raise TypeError(f"The story must be a text, not a {type(self.story).__name__}.")
        check_text(self.story, "The story")
        check_seed(self.seed)
        for given, kind, no in (
            (self.settings, StorySettings, "No setting"),
            (self.video, VideoSettings, "No setting of a video"),
        ):
            for name in sorted(given.keys() - carried(kind)):
                raise ValueError(f"{no} is called {name!r}; there are {', '.join(carried(kind))}.")
        if self.settings.get("schedule", "always") not in SCHEDULES:
            raise ValueError(
                f"No schedule is called {self.settings['schedule']!r}; there are {', '.join(SCHEDULES)}."
            )
        for check in (self.story_settings, self.video_settings):
            check()
        plan(1, self.layout)  # an error, if there is no such layout
        check_number("size", self.size, numbers.Integral, 64, optional=True)
        for name, files in self.pictures.items():
            if isinstance(files, (str, Path)) or not all(isinstance(f, (str, Path)) for f in files):
                raise TypeError(f"The pictures of {name} must be a list of files, not {files!r}.")

    def story_settings(self):
        """What the pipeline is called with, as `settings.StorySettings`."""
        schedule = getattr(SamplingSchedule, self.settings.get("schedule", "always"))()
        return StorySettings(**self.settings | {"schedule": schedule})

    def video_settings(self):
        """`settings.VideoSettings`."""
        return VideoSettings(**self.video)

    def complete(self, pipe=None):
        """The same with all settings written out, as a comic carries it: no default can change under it.

        A pipeline decides the number of steps, and which are guided, where the recipe does not.
        """
        settings = carried(StorySettings) | {"schedule": "always"} | self.settings
        if pipe is not None:
            settings["num_inference_steps"] = settings["num_inference_steps"] or default_steps(pipe.scheduler)
            limits = pipe.guidance_interval(StorySettings(**settings | {"schedule": None}))
            settings |= zip(("guidance_start", "guidance_stop"), limits, strict=True)
        whole = replace(self, settings=settings, video=carried(VideoSettings) | self.video)
        return Recipe(**json.loads(json.dumps(asdict(whole), default=_written)))


def write_comic(out, page, recipe, made, captions):
    """Write a comic with its recipe, whole or not at all."""
    info = PngImagePlugin.PngInfo()
    text = {"version": 1, "recipe": asdict(recipe), "made": made}
    info.add_itxt(KEY, json.dumps(text, ensure_ascii=False), zip=True)
    numbered = "\n".join(f"{i}. {c}" for i, c in enumerate(captions, 1))
    info.add_itxt("Description", f"A comic of {len(captions)} panels.\n{numbered}")
    weights.atomic_save(Path(out), lambda to: page.save(to, pnginfo=info))


def read_recipe(png):
    """The `Recipe` of a comic, and a dict of what it was made with; `RecipeError` where it has none."""
    try:
        text = _text_of(Path(png))
    except FileNotFoundError:
        raise RecipeError(f"There is no file {png}.") from None
    except (OSError, ValueError, IndexError, zlib.error) as error:
        raise RecipeError(f"{png} is no picture that can be read ({error}).") from None
    if text is None:
        raise RecipeError(
            f"{png} does not say how it was made. Only a .png that `storydiff tell` wrote carries its "
            "recipe, and only as long as no other program has saved it anew."
        )
    try:
        found = json.loads(text)
        recipe = found["recipe"]
        if "film" in recipe:  # its first name
            recipe["video"] = recipe.pop("film")
        known = {f.name for f in fields(Recipe)}
        more = set(recipe) - known
        if found["version"] != 1 or more:
            what = ", ".join(sorted(more)) or f"version {found['version']}"
            raise RecipeError(f"{png} was written by another version of storydiff ({what}).")
        if "guidance_scale" in recipe.get("settings", {}):  # of before: guided in all steps
            recipe["settings"] = {"guidance_start": 0.0, "guidance_stop": 1.0} | recipe["settings"]
        if recipe.get("video"):  # one of before there were these two
            recipe["video"] = {"lora": None, "refine": 0.0} | _possible(recipe["video"])
        return Recipe(**recipe), found["made"]
    except RecipeError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"The recipe in {png} cannot be read ({error}).") from error


def _possible(video):
    """Of the settings of a carried video those that are right: older versions did not check them so early."""
    found = {}
    for name, value in video.items():
        try:
            if name in carried(VideoSettings):
                VideoSettings(**{name: value})
        except (TypeError, ValueError):
            continue
        found[name] = value
    return found


def _text_of(png):
    """The recipe's text in a picture, or None.

    Read from the file itself: a picture need not be decoded for it, whatever its size, nor be whole.
    """
    with open(png, "rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            try:
                Image.open(png).close()
            except Image.DecompressionBombError:
                pass  # some other picture
            return None
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4]), head[4:]
            if kind not in (b"iTXt", b"zTXt", b"tEXt"):
                file.seek(length + 4, os.SEEK_CUR)  # and its checksum
                continue
            name, _, rest = file.read(length).partition(b"\0")
            file.seek(4, os.SEEK_CUR)
            if name == KEY.encode():
                return _chunk_text(kind, rest)
    return None


def _chunk_text(kind, rest):
    """The text of a PNG's text chunk, what follows its keyword (PNG specification, 11.3.3)."""
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _inflated(rest[1:]).decode("latin-1")
    packed, text = rest[0], rest[2:].split(b"\0", 2)[2]
    return (_inflated(text) if packed else text).decode()


def _inflated(packed, most=1 << 28):
    unpack = zlib.decompressobj()
    text = unpack.decompress(packed, most)
    if unpack.unconsumed_tail:
        raise ValueError("its recipe unpacks to more than 256 MB")
    return text


def _written(value):
    """What JSON does not know, as it knows it: paths and numpy's numbers."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"A recipe holds texts, numbers and lists; {value!r} is a {type(value).__name__}.")
