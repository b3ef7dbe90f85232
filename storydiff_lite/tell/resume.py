"""The folder of an unfinished run, beside its output: from what it holds the same call goes on.

It holds the latents of the last denoising step, then those of the finished panels, then the panels.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import asdict

from filelock import FileLock, Timeout
from PIL import PngImagePlugin
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from .. import weights


def unfinished(out, recipe, made):
    """The folder of a run beside its output; it is made when there is something to keep.

    Its name holds a fingerprint of all that the panels depend on, so that another story never goes on from
    this one's panels.
    """
    files = {name: [weights.sha256(f) for f in files] for name, files in recipe.pictures.items()}
    parts = asdict(recipe) | {"made": made, "pictures": files}
    # what no panel depends on; and names, for the pipeline is known by what it is (`pipeline_print`)
    for name in ("layout", "font", "size", "video", "model", "identity"):
        parts.pop(name)
    parts["made"] = {k: v for k, v in made.items() if k != "model"}
    print_ = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
    return out.with_name(f"{out.stem}.unfinished-{print_}")


@contextmanager
def at_work(folder, out):
    """Hold the folder of a run, so that a second one does not draw the same into it.

    An error that passes carries the folder as ``kept``, if there is something in it to go on from.

    Raises
    ------
    ValueError
        Another run is at work there, or nothing can be written to the folder.
    """
    file = folder / "run.lock"
    lock = FileLock(file, timeout=0)  # it ends with the process
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire()
    except PermissionError as error:
        raise ValueError(
            f"Nothing can be written to {folder}, where an interrupted run has left its panels: "
            f"{error.strerror}. Delete it, or give another output."
        ) from error
    except Timeout:
        raise ValueError(
            f"Another run is drawing this story into {out} right now (its folder is {folder}). Wait until it "
            "is done, or give another output."
        ) from None
    except OSError as error:
        if error.errno != errno.ENOLCK:  # a disk that has no locks
            raise
    for scratch in [*folder.glob(".*"), folder / "written"]:  # what a run that was killed was just writing
        shutil.rmtree(scratch, ignore_errors=True)
    begun = True
    try:
        yield
    except BaseException as error:
        begun = isinstance(error, OSError) or any(f != file for f in folder.glob("*"))
        if begun:
            error.kept = folder
        raise
    finally:
        file.unlink(missing_ok=True)
        if not begun:  # nothing to go on from
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def put(file, out):
    """Move a finished file to its place, which holds either the old one or the whole new one."""
    try:
        os.replace(file, out)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        weights.atomic_save(out, lambda to: shutil.copyfile(file, to))  # another disk


def save_tensors(file, tensors):
    # through Python's own writing: of a full disk safetensors makes an error of its own
    weights.atomic_save(file, lambda to: to.write_bytes(save(tensors)))


def kept_tensors(file, panels):
    """Tensors that an interrupted run left, or None: a file that is broken is dropped."""
    found = _read(file, load_file)
    if found is None:
        return None
    x = found.get("latents")
    return found if x is not None and x.ndim == 4 and len(x) == panels else drop(file)


def kept_panel(file, size):
    """A finished panel of an interrupted run, or None: one that is broken is dropped."""

    def read(file):
        with PngImagePlugin.PngImageFile(file) as image:  # our own: as large as it may be
            return image.convert("RGB")

    image = _read(file, read)
    return image if image is None or image.size == size else drop(file)


def _read(file, how):
    """What ``how(file)`` reads, or None: a file that is broken is dropped."""
    if not file.exists():
        return None
    try:
        return how(file)
    except PermissionError:
        raise
    except (SafetensorError, OSError, SyntaxError, ValueError):
        return drop(file)


def drop(file):
    """Delete what cannot be read, so that it is drawn again."""
    warnings.warn(f"{file} cannot be read, and is drawn again.", stacklevel=2)
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink()
