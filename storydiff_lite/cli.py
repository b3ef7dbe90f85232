"""``storydiff``: stories from the command line.

    storydiff tell story.txt --out comic.png --video story.mp4
    storydiff retell comic.png --out again.png
    storydiff check story.txt

An error costs one line that says what to write instead, and exit status 1; an interruption keeps what is
finished, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

from .places import write_place
from .settings import DTYPES, StorySettings, VideoSettings, options


def main(arguments=None):
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit status: 0; 1 after an error, which is printed; 130 after an interruption.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with _any_letter(), warnings.catch_warnings():
        args = _parser().parse_args(arguments)
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _note
        return _run(args)


@contextmanager
def _any_letter():
    """Letters that a stream's encoding lacks are written as a question mark; what is left in it is written
    at the end.
    """
    streams = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure") and s.errors == "strict"]
    for stream in streams:
        stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        with suppress(OSError):
            _write(None, sys.stdout)
        for stream in streams:
            stream.reconfigure(errors="strict")


def _write(text, stream):
    """Write a line, or what is left of lines before; silently none where nobody reads any more."""
    try:
        if text is not None:
            print(text, file=stream)
        if stream is not None:
            stream.flush()
    except OSError as error:
        with (
            suppress(OSError, ValueError),
            open(os.devnull, "w") as nowhere,
        ):  # a stream that is no file: none
            os.dup2(nowhere.fileno(), stream.fileno())  # or Python would try again when it ends, and complain
        closed = error.errno in (errno.EPIPE, errno.EINVAL)  # EINVAL: what Windows calls a closed pipe
        if stream is sys.stdout and not closed:
            raise


def _note(message, category, filename, *more):
    """Say what this package warns of, and not what its libraries say to programmers."""
    if not {"huggingface_hub", "transformers", "diffusers", "peft"} & set(Path(filename).parts):
        _write(f"storydiff: note: {message}", sys.stderr)


def _run(args):
    try:
        args.run(args)
    except KeyboardInterrupt as error:
        kept = f"{_kept(error)};" if _kept(error) else ""
        _write(f"\nstorydiff: interrupted.{kept} the same command goes on from there.", sys.stderr)
        return 130
    except OSError as error:  # of files, and of weights
        kept = f"{_kept(error)}." if _kept(error) else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"the disk is full.{kept} Make room, then run the same command again.")
        if error.strerror is None:
            return _fail(error)
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror}.{kept}")
    except (ValueError, TypeError) as error:
        return _fail(error)
    except (RuntimeError, MemoryError) as error:
        if type(error).__name__ not in ("OutOfMemoryError", "MemoryError"):  # torch's: not loaded for --help
            raise
        return _fail(
            "out of memory. Draw fewer panels together (--window 4), in half precision (--dtype float16), or "
            "move the parts to the GPU one by one (--offload)."
        )
    return 0


def _fail(error):
    text = " ".join(str(error).split())
    _write(f"storydiff: error: {_option_of(text)}{text}", sys.stderr)
    return 1


def _option_of(text):
    """The option, such as ``"--steps: "``, where a message begins with a setting that has another name here,
    else nothing.
    """
    named = (options(StorySettings) | options(VideoSettings)).items()
    found = (option for name, (option, _) in named if text.startswith(f"{name} ") and option != name)
    return "".join(f"--{option.replace('_', '-')}: " for option in found)


def _kept(error):
    """Where an unfinished run has left what it had finished, in words; empty where there is nothing."""
    folder = getattr(error, "kept", None)
    return f" What is finished is kept in {folder}" if folder else ""


# ------------------------------------------------------------------------------------------------- commands


def _tell(args):
    from .tell import Recipe, tell

    recipe = Recipe(
        read_text(args.story),
        seed=args.seed,
        identity=args.identity,
        settings=_given(args, StorySettings),
        video=_given(args, VideoSettings),
        **_changes(args),
    )
    output = tell(recipe, args.out, args.video, **_how(args))
    _report(args, output, recipe)


def _retell(args):
    from .tell import read_recipe, retell

    recipe, _ = read_recipe(args.comic)
    changes = _changes(args)
    if video := _given(args, VideoSettings):
        changes["video"] = recipe.video | video
    output = retell(args.comic, args.out, args.video, changes, **_how(args))
    same = "the same pixels in every panel" if output.same else "pixels differ from the first telling"
    if output.same is None:
        same = "drawn in a browser before, from which pixels may differ by 1 of 255"
    _report(args, output, recipe, f": {same}")


def _check(args):
    from .story import parse

    story = parse(read_text(args.story))
    for name, description in story.cast.items():
        _print(f"[{name}] {description}" + ("   (in no panel)" if name in story.missing else ""))
    for number, panel in enumerate(story.panels, 1):
        names = [*panel.characters]
        if panel.places:
            names = [f"{name} {write_place(place)}" for name, place in zip(names, panel.places, strict=True)]
        names = ", ".join(names) or ("nobody" if panel.no_character else "")
        names = " is ".join(panel.carried) if panel.carried else names
        _print(f"{number:3}. {panel.prompt}" + (f"   ({names})" if names else ""))
        if panel.text != panel.prompt:
            _print(f"     # {panel.text}".rstrip())


def _show(args):
    from dataclasses import asdict

    from .tell import read_recipe

    recipe, made = read_recipe(args.comic)
    text = json.dumps({"recipe": asdict(recipe), "made": made}, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # a recipe is not to lose a letter
        text = json.dumps(json.loads(text), indent=2)
    _print(text)


def read_text(path):
    """A story's text; ValueError says what is wrong with the file. ``-`` is the standard input."""
    try:
        if str(path) == "-":
            return _standard_input()
        return _decoded(Path(path).read_bytes(), path)
    except FileNotFoundError:
        raise ValueError(f"There is no story file {path}.") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder. Give a text file with a story in it.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None


def _standard_input():
    """A text from the standard input: UTF-8, whatever encoding the terminal has."""
    if sys.stdin is None:
        raise ValueError("There is no standard input. Give the name of a file, or pipe a text into it.")
    if not hasattr(sys.stdin, "buffer"):  # text already
        return sys.stdin.read().removeprefix("\ufeff")
    return _decoded(sys.stdin.buffer.read(), "The standard input")


def _decoded(data, name):
    """A file's bytes as text, without a byte order mark."""
    try:
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is no text in UTF-8 (byte {error.start + 1} is none). Save it as UTF-8."
        ) from None


def _given(args, kind):
    """The settings of this kind that the command line says, as a recipe holds them."""
    found = {name: getattr(args, option) for name, (option, _) in options(kind).items()}
    return {name: value for name, value in found.items() if value is not None}


def _changes(args):
    """The other fields of a recipe that the command line says."""
    names = ("model", "layout", "font", "size")
    found = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return found | ({"pictures": _pictures(args.pictures)} if args.pictures else {})


def _pictures(pairs):
    """``NAME=FILE`` options -> {name: [files]}; a folder stands for the pictures in it."""
    found = {}
    for pair in pairs:
        name, mark, file = pair.partition("=")
        if not mark or not name.strip() or not file:
            raise ValueError(f"--pictures {pair}: write NAME=FILE, such as --pictures Bruno=bruno.png.")
        files = [Path(file)]
        if files[0].is_dir():
            kinds = (".png", ".jpg", ".jpeg", ".webp")
            files = sorted(f for f in files[0].iterdir() if f.suffix.lower() in kinds)
            if not files:
                raise ValueError(f"There is no picture ({', '.join(kinds)}) in the folder {file}.")
        found.setdefault(name.strip().strip("[]").strip(), []).extend(map(str, files))
    return found


def _how(args):
    names = ("device", "dtype", "offload", "keep")
    return {name: getattr(args, name) for name in names} | {"progress": not args.quiet}


def _report(args, output, recipe, more=""):
    """Say which files were written."""
    if not args.quiet:
        _print(f"{output.path}: {len(output.panels)} panels, seed {recipe.seed}{more}")
        if output.video:
            _print(output.video)


def _print(text):
    _write(text, sys.stdout)


def _parser():
    parser = argparse.ArgumentParser(
        prog="storydiff",
        description="Tell a story in pictures that keep its characters the same.",
        epilog="A story: '[Name] description' lines, an empty line, one panel a line: 'prompt # caption'. "
        "Where several stand, for --apart regions: '[Bo] left and [Mia] right', or a box in percent (left, "
        "top, right, bottom), '[Bo] at 0 20 50 100'.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    tell = commands.add_parser("tell", help="draw a story text as a comic, and as a video")
    tell.set_defaults(run=_tell)
    tell.add_argument("story", help="text file, or - for the standard input")
    tell.add_argument("--seed", type=int, default=0, help="the same seed gives the same pictures (default 0)")
    tell.add_argument("--model", default="micro", help="'micro', a pipeline folder, or owner/name on the hub")
    _add_page(tell)
    drawn = tell.add_argument_group("how it is drawn")
    _add_settings(drawn, StorySettings)
    tell.add_argument("--identity", default="micro", help="identity encoder for --pictures")
    _add_output(tell)

    retell = commands.add_parser("retell", help="draw a comic again, from the recipe that it carries")
    retell.set_defaults(run=_retell)
    retell.add_argument("comic", help="a .png that `storydiff tell` wrote")
    retell.add_argument("--model", help="another model than the recipe's, or another place of it")
    _add_page(retell)
    _add_output(retell)

    check = commands.add_parser("check", help="read a story text and say what its panels are; draw nothing")
    check.set_defaults(run=_check)
    check.add_argument("story", help="text file, or - for the standard input")

    show = commands.add_parser("recipe", help="print the recipe that a comic carries")
    show.set_defaults(run=_show)
    show.add_argument("comic", help="a .png that `storydiff tell` wrote")
    return parser


def _add_settings(parser, kind):
    for name, how in options(kind).values():
        parser.add_argument("--" + name.replace("_", "-"), **how)


def _add_page(parser):
    parser.add_argument("--layout", choices=("strip", "page", "mixed"))
    parser.add_argument("--font", metavar="FILE", help="a .ttf or .otf for the captions")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="width of a small panel")


def _add_output(parser):
    parser.add_argument("--out", required=True, metavar="COMIC.png", help="the comic")
    parser.add_argument("--video", metavar="STORY.mp4", help="a video beside it, .mp4 or .gif")
    _add_settings(parser.add_argument_group("the video"), VideoSettings)
    parser.add_argument(
        "--pictures", action="append", metavar="NAME=FILE", help="a reference picture, or a folder of them"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps, ... (default cpu)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--offload", action="store_true", help="only the part that works lies on the GPU")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the panels")
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no report")


if __name__ == "__main__":
    sys.exit(main())
