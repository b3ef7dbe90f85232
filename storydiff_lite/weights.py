"""Weights: where the trained models lie, and whether they are whole.

``storydiff_lite/data/manifest.json`` holds the SHA-256 of every file of the shipped models. ``path("micro")``
compares them before anything is loaded, once in a process.
"""

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

DATA = Path(__file__).parent / "data"
MANIFEST = "manifest.json"
#: names of the shipped story model: as it was trained, and rounded as the page that draws has it
STORY_MODELS = ("micro", "micro-int8")
_verified = {}  # folder -> what its files looked like when they were hashed


class WeightsError(OSError):
    """A shipped weight file is missing or is not the file that was trained."""


@contextmanager
def quiet():
    """No bars and no notes of diffusers and transformers while models are made: they would fill notebooks."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    kinds = of_diffusers, of_transformers
    before = [(kind, kind.get_verbosity(), kind.is_progress_bar_enabled()) for kind in kinds]
    for kind in kinds:
        kind.set_verbosity_error()
        kind.disable_progress_bar()
    try:
        yield
    finally:
        for kind, verbosity, bars in before:
            kind.set_verbosity(verbosity)
            if bars:
                kind.enable_progress_bar()


def sha256(file):
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def is_pointer(file):
    """Whether a file is what Git LFS puts in the place of a large one: a few lines that name it."""
    with open(file, "rb") as f:
        return f.read(23) == b"version https://git-lfs"


def check_no_pointer(file):
    """Raise `WeightsError` where `is_pointer`."""
    if is_pointer(file):
        raise WeightsError(
            f"{file} is a Git LFS pointer, a few lines that stand for the file: run `git lfs pull` in its "
            "repository."
        )


def path(name, root=DATA):
    """The folder of a shipped model, after its files were compared with their SHA-256.

    Parameters
    ----------
    name : str
        ``"micro"`` (the micro SDXL, in the SDXL folder layout, but for its texts: `prompts.micro_parts`),
        ``"judge"``, ...
    root : Path, optional
        Folder that holds the models and ``manifest.json``.

    Returns
    -------
    Path

    Raises
    ------
    WeightsError
        An unknown name, or a file that is missing, cut short or changed. The message names the file and how
        to get it back.
    """
    root = Path(root)
    wanted = {f: digest for f, digest in _manifest(root).items() if Path(f).parts[0] == name}
    if not wanted:
        known = ", ".join(sorted({Path(f).parts[0] for f in _manifest(root)})) or "none yet"
        raise WeightsError(
            f"No shipped weights are called {name!r} (there are: {known}). Train them with "
            "`python -m storydiff_lite.training`, or give the path of a folder instead."
        )
    seen = {}
    for file in wanted:
        try:
            stat = (root / file).stat()
        except FileNotFoundError:
            raise WeightsError(f"The weight file {root / file} is missing. {_cure(root, file)}") from None
        seen[file] = (stat.st_size, stat.st_mtime_ns, wanted[file])
    if _verified.get(root / name) == seen:
        return root / name
    for file, digest in wanted.items():
        if sha256(root / file) != digest:
            hint = " It is a Git LFS pointer: run `git lfs pull`." if is_pointer(root / file) else ""
            raise WeightsError(
                f"The weight file {root / file} ({(root / file).stat().st_size:,} bytes) is "
                "not the one that was trained: it was changed or cut short (its SHA-256 "
                f"differs from {MANIFEST}).{hint} {_cure(root, file)}"
            )
    _verified[root / name] = seen
    return root / name


def picture_size(name="micro", root=DATA):
    """Height and width in pixels of the pictures that a shipped model draws.

    >>> picture_size()
    128
    """
    config = path(name, root) / "vae" / "config.json"
    return json.loads(config.read_text(encoding="utf-8"))["sample_size"]


def _cure(root, file):
    return (
        f"Get it back with `git checkout -- {(root / file).name}` in its folder or a fresh clone; after "
        'training it anew, run `python -c "from storydiff_lite import weights; '
        'weights.write_manifest()"`.'
    )


def _manifest(root):
    try:
        return json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"{root / MANIFEST} is missing, so no weights can be checked. Get it back with "
            "`git checkout`, or write it with storydiff_lite.weights.write_manifest() after "
            "training."
        ) from None
    except ValueError as error:
        raise WeightsError(
            f"{root / MANIFEST} cannot be read ({error}). Get it back with `git checkout`."
        ) from None


def write_manifest(root=DATA):
    """Write ``manifest.json`` for all models under ``root``: every file but the model cards (``*.md``).

    Returns
    -------
    dict
        Relative path -> SHA-256.
    """
    root = Path(root)
    files = [f.relative_to(root) for f in sorted(root.rglob("*")) if f.is_file() and f.suffix != ".md"]
    files = [f for f in files if len(f.parts) > 1 and not any(p.startswith((".", "__")) for p in f.parts)]
    found = {f.as_posix(): sha256(root / f) for f in files}
    text = json.dumps(found, indent=1) + "\n"
    atomic_save(root / MANIFEST, lambda to: to.write_text(text, encoding="utf-8"))
    return found


def forget_paths(folder):
    """Where on this machine a part of a saved model came from is nobody's business."""
    for file in Path(folder).rglob("config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def atomic_save(target, write):
    """Write a file or a folder so that ``target`` is always either the old one or the whole new one.

    Parameters
    ----------
    target : Path
        A file, or a folder (then the new folder replaces the old one entirely).
    write : callable
        ``write(temporary)`` writes to the path it is given, which has the target's suffix and does not exist
        yet; for example ``lambda to: save_file(tensors, to)`` or ``pipeline.save_pretrained``.

    Returns
    -------
    Path
        The target.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write(scratch / target.name)
        new = scratch / target.name
        if new.is_dir() and target.is_dir():
            os.rename(target, scratch / "old")  # folders cannot replace folders in one move
        os.replace(new, target)
    except BaseException:
        if (scratch / "old").exists() and not target.exists():
            os.rename(scratch / "old", target)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
