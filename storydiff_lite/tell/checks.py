"""What is wrong with a run's device, files and page: all that can be known before any work is done.

The settings check themselves (`settings`); Python and the command line come through here alike.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..checks import check_choice
from ..devices import check_device
from ..settings import DTYPES
from ..weights import STORY_MODELS

#: bytes of an output's name: the folder of an unfinished run has a longer one, and 255 is what disks take
NAME = 230
#: pixels of a page: 3 GB of memory
PAGE = 10**9


def check_output(path, endings):
    """The path of an output, if it can be written.

    Raises
    ------
    ValueError
        Another ending, a folder in its place, a name that is too long, or a folder that is not there or
        cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in endings:
        raise ValueError(f"The output {path} must end in {' or '.join(endings)}.")
    if len(os.fsencode(path.name)) > NAME:
        raise ValueError(f"The name of the output {path.name[:20]}... is too long: at most {NAME} bytes.")
    if path.is_dir():
        raise ValueError(f"The output {path} is a folder. Give the name of a file.")
    if not path.parent.is_dir():
        raise ValueError(f"The folder {path.parent} of the output is not there. Make it first.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"Nothing can be written to {path.parent}: {error.strerror}.") from error
    return path


def check_page(panels, width, height, size=None):
    """Raise ValueError if a page of panels of this size would be larger than memory, before they are drawn;
    ``size`` as of `comic.comic`.
    """
    wide = size or max(256, width)
    pixels = panels * wide * wide * height / width
    if pixels > PAGE:
        raise ValueError(
            f"The page would have {pixels:.2g} pixels, {panels} panels of {wide} x "
            f"{round(wide * height / width)}; it can have {PAGE:.2g}. Give a smaller size"
            + (", or fewer panels." if panels > 1 else ".")
        )


def check_video(recipe, path, panels):
    """Raise ValueError if no video of so many panels can be written to this path, whatever they show."""
    from ..video.files import check_fps, find_ffmpeg  # its libraries take a moment to load

    if panels < 2:
        raise ValueError("A video moves from panel to panel: the story needs at least two.")
    settings = recipe.video_settings()
    settings.check_file(path)
    check_fps(settings.fps, path)
    if recipe.model not in STORY_MODELS and settings.model == "micro":
        raise ValueError(
            "The shipped video model moves pictures of the micro model. For panels of another one name a "
            "video model and its motion weights (--video-model and --motion on the command line)."
        )
    if path.suffix.lower() == ".mp4":
        try:
            find_ffmpeg()
        except RuntimeError as error:
            raise ValueError(str(error)) from error


def open_picture(file):
    """A reference picture; ValueError says what is wrong with the file."""
    try:
        with Image.open(file) as image:
            image.load()
            return image.copy()
    except FileNotFoundError:
        raise ValueError(f"There is no picture {file}.") from None
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS
        raise ValueError(
            f"{file} has more pixels than the {most:,} that are read from a file: it may be made to fill the "
            "memory. Make it smaller; 512 x 512 are plenty for a reference picture."
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} is no picture that can be read ({error}).") from None


def check_model(name):
    """Raise ValueError where a model's name is neither of a folder nor of something that the hub may have."""
    if name not in STORY_MODELS and len(Path(name).parts) != 2 and not Path(name).exists():
        raise ValueError(
            f"There is no model {name}. Give 'micro', a folder in the layout of diffusers, or the name of a "
            "model on the hub (owner/name)."
        )


def check_how(device, dtype):
    """Raise ValueError unless it can be drawn there and so precisely."""
    check_device(device)
    check_choice("dtype", dtype, DTYPES)
