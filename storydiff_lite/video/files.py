"""Videos in files, and on a page."""

from __future__ import annotations

import base64
import errno
import html
import math
import numbers
import os
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from .. import weights
from ..show.figures import data_url, show_html, to_image

#: the fastest that a GIF plays: viewers slow down a frame of less than 2 hundredths of a second
GIF_FPS = 50
#: the longest that one frame of a video stands, in seconds; a GIF has no room for more than 655
LONGEST = 600


def check_fps(fps, path):
    """Raise ValueError when a file cannot play so many frames a second; its path ends in .gif or .mp4."""
    if isinstance(fps, bool) or not isinstance(fps, numbers.Real) or not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps!r}; it must be a number of frames a second, more than 0.")
    if fps * LONGEST < 1:
        raise ValueError(f"fps is {fps}: a frame would stand for more than {LONGEST} seconds. Take more.")
    if Path(path).suffix.lower() == ".gif" and fps > GIF_FPS:
        raise ValueError(
            f"fps is {fps}: a GIF plays at most {GIF_FPS} frames a second. Take fewer, or write an .mp4."
        )


def gif_delays(frames, fps):
    """How long each of so many frames of a GIF stands, in milliseconds: a list of multiples of 10.

    A GIF counts in hundredths of a second. So that it plays as long as it should, ``1000 * frames / fps`` to
    5 milliseconds, a frame ends at the hundredth that is nearest to its end.
    """
    ends = [math.floor(100 * i / fps + 0.5) for i in range(frames + 1)]
    return [10 * (b - a) for a, b in pairwise(ends)]


def save_video(frames, path, fps=8, height=256, progress=True):
    """Write frames as a GIF or an MP4, whole or not at all.

    Parameters
    ----------
    frames : list of PIL.Image, arrays [H, W, 3] or tensors [3, H, W]
    path : str or Path
        Ends in .gif or .mp4.
    fps : float
        Frames a second; of a GIF at most `GIF_FPS`.
    height : int
        Small frames are enlarged smoothly, by a whole factor, to at most this height.
    progress : bool
        Show a bar.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        Another ending, no frame, frames of several sizes, frames a second that the file cannot play.
    RuntimeError
        An MP4, and no ffmpeg to write it with.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".gif", ".mp4"):
        raise ValueError(f"A video is written as .gif or .mp4; {path.name!r} ends in neither.")
    frames = [to_image(frame) for frame in frames]
    if not frames:
        raise ValueError("There is no frame to write.")
    if len({f.size for f in frames}) > 1:
        raise ValueError("All frames of a video must have one size.")
    check_fps(fps, path)
    factor = max(1, height // frames[0].height)
    big = [f.resize((f.width * factor, f.height * factor), Image.Resampling.BICUBIC) for f in frames]
    bar = tqdm(big, desc=path.name, leave=False, disable=not progress)
    if kind == ".gif":

        def write(to):
            rest = list(bar)[1:]
            big[0].save(to, save_all=True, append_images=rest, duration=gif_delays(len(big), fps), loop=0)
    else:
        ffmpeg = find_ffmpeg()

        def write(to):
            w, h = big[0].width // 2 * 2, big[0].height // 2 * 2  # the codec wants even sides
            out = ffmpeg.write_frames(
                str(to),
                (w, h),
                fps=fps,
                codec="libx264",
                macro_block_size=2,
                output_params=["-crf", "20", "-movflags", "+faststart"],
            )
            try:
                out.send(None)
                for frame in bar:
                    out.send(np.ascontiguousarray(np.asarray(frame)[:h, :w]))
                out.close()
            except OSError as error:  # ffmpeg has stopped, and said why in many words
                raise _stopped(to, str(error).splitlines()[0]) from None
            if not to.exists() or ffmpeg.count_frames_and_secs(str(to))[0] < len(big):
                raise _stopped(to, "not all frames were written")

    return weights.atomic_save(path, write)


def _stopped(file, why):
    """The error of an MP4 that was not written whole."""
    if shutil.disk_usage(file.parent).free < 1 << 20:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
    return OSError(f"ffmpeg did not write {file.name} whole ({why}). Try again, or write a .gif.")


def find_ffmpeg():
    """imageio_ffmpeg, with an ffmpeg that can be run; RuntimeError says what to do without."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(
            f"An MP4 is written by ffmpeg, and there is none ({error}). Install it with `pip install "
            "imageio-ffmpeg`, or write a .gif."
        ) from error
    return imageio_ffmpeg


def player_html(frames, alt, caption=None, fps=8, height=256, width=None) -> str:
    """HTML of a video with controls that plays without a kernel and without a network.

    Parameters
    ----------
    frames : list of PIL.Image
    alt : str
        What is to be seen, for those who cannot.
    caption : str, optional
    fps, height
        As of `save_video`.
    width : int, optional
        Width on the page in CSS pixels; the video's own by default.

    Raises
    ------
    ValueError
        ``alt`` is empty.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("A video needs words for readers who cannot see it: alt='what happens'.")
    with tempfile.TemporaryDirectory() as folder:
        data = save_video(frames, Path(folder) / "video.mp4", fps, height, progress=False).read_bytes()
    url = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
    poster, (w, h) = data_url(frames[len(frames) // 2])
    shown, words = width or w, html.escape(alt, quote=True)
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><video controls loop muted playsinline preload="auto" width="{shown}" poster="{poster}" '
        f'aria-label="{words}" src="{url}" style="max-width: 100%; height: auto; aspect-ratio: {w} / {h}; '
        f'border-radius: 6px">{words}</video>{below}</figure>'
    )


def play(frames, alt, caption=None, fps=8, height=256, width=None) -> None:
    """Show a video on the page (`player_html`)."""
    show_html(player_html(frames, alt, caption, fps, height, width))
