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
import json
import os
import sys
import warnings
from pathlib import Path


def main(arguments=None):
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit status: 0; 1 after an error that was told; 130 after an interruption.
    """
    args = _parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _note
        return _run(args)


def _note(message, category, filename, *more):
    """Say what this package warns of, and not what its libraries say to programmers."""
    if not {"huggingface_hub", "transformers", "diffusers", "peft"} & set(Path(filename).parts):
        print(f"storydiff: note: {message}", file=sys.stderr)


def _run(args):
    try:
        args.run(args)
    except KeyboardInterrupt:
        kept = f" What is finished is kept in {_left(args)};" if _left(args) else ""
        print(f"\nstorydiff: interrupted.{kept} the same command goes on from there.", file=sys.stderr)
        return 130
    except OSError as error:  # of files, and of weights
        if error.errno != errno.ENOSPC:
            return _fail(error)
        kept = f" What is finished is kept in {_left(args)}." if _left(args) else ""
        return _fail(f"the disk is full.{kept} Make room, then run the same command again.")
    except (ValueError, TypeError) as error:
        return _fail(error)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's: it was not loaded for --help
            raise
        return _fail(
            "out of memory. Draw fewer panels together (--window 4), in half precision (--dtype float16), or "
            "move the parts to the GPU one by one (--offload)."
        )
    return 0


def _fail(error):
    print(f"storydiff: error: {error}", file=sys.stderr)
    return 1


def _left(args):
    """The folder that an unfinished run has left, or None."""
    out = getattr(args, "out", None)
    if not out:
        return None
    found = list(Path(out).parent.glob(f"{Path(out).stem}.unfinished-*"))
    return max(found, key=lambda f: f.stat().st_mtime) if found else None


# ------------------------------------------------------------------------------------------------- commands


def _tell(args):
    from .telling import Recipe, tell

    recipe = Recipe(
        read_text(args.story),
        seed=args.seed,
        model=args.model,
        settings=_settings(args),
        pictures=_pictures(args.pictures),
        identity=args.identity,
        layout=args.layout,
        font=args.font,
        size=args.size,
        film=_film(args),
    )
    told = tell(recipe, args.out, args.video, **_how(args))
    _say(args, f"{told.path}: {len(told.panels)} panels, seed {recipe.seed}")
    if told.video:
        _say(args, f"{told.video}")


def _retell(args):
    from .telling import read_recipe, retell

    recipe, _ = read_recipe(args.comic)
    changes = {
        k: getattr(args, k) for k in ("layout", "font", "size", "model") if getattr(args, k) is not None
    }
    if _film(args):
        changes["film"] = recipe.film | _film(args)
    if args.pictures:
        changes["pictures"] = _pictures(args.pictures)
    told = retell(args.comic, args.out, args.video, changes, **_how(args))
    same = "the same pixels in every panel" if told.same else "pixels differ from the first telling"
    _say(args, f"{told.path}: {len(told.panels)} panels, seed {recipe.seed}: {same}")
    if told.video:
        _say(args, f"{told.video}")


def _check(args):
    from .story import parse

    story = parse(read_text(args.story))
    for name, description in story.cast.items():
        print(f"[{name}] {description}" + ("   (in no panel)" if name in story.missing else ""))
    for number, panel in enumerate(story.panels, 1):
        who = ", ".join(panel.characters) or ("nobody" if panel.no_character else "")
        print(f"{number:3}. {panel.prompt}" + (f"   ({who})" if who else ""))
        if panel.text != panel.prompt:
            print(f"     # {panel.text}")


def _show(args):
    from dataclasses import asdict

    from .telling import read_recipe

    recipe, made = read_recipe(args.comic)
    print(json.dumps({"recipe": asdict(recipe), "made": made}, indent=2, ensure_ascii=False))


def read_text(path):
    """A story's text; ValueError says what is wrong with the file. ``-`` is the standard input."""
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"There is no story file {path}.") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder. Give a text file with a story in it.") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8 (byte {error.start + 1} is none). Save it as UTF-8."
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None


def _settings(args):
    names = {"steps": "num_inference_steps", "guidance": "guidance_scale", "negative": "negative_prompt"}
    given = {
        "consistency": args.consistency,
        "layers": args.layers,
        "schedule": args.schedule,
        "window": args.window,
        "long_story": args.long_story,
        "steps": args.steps,
        "guidance": args.guidance,
        "guidance_rescale": args.guidance_rescale,
        "negative": args.negative,
        "same_noise": args.same_noise or None,
        "start_merge_step": args.start_merge_step,
        "height": args.height,
        "width": args.width,
    }
    return {names.get(k, k): v for k, v in given.items() if v is not None}


def _pictures(pairs):
    """``NAME=FILE`` options -> {name: [files]}; a folder stands for the pictures in it."""
    found = {}
    for pair in pairs or []:
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


def _film(args):
    names = {"video_model": "model"}  # the others are called in a recipe as they are here
    names |= {k: k for k in ("fps", "frames", "hold", "motion", "image_encoder", "refine")}
    return {name: getattr(args, k) for k, name in names.items() if getattr(args, k) is not None}


def _how(args):
    names = ("device", "dtype", "offload", "keep")
    return {name: getattr(args, name) for name in names} | {"progress": not args.quiet}


def _say(args, text):
    if not args.quiet:
        print(text)


def _parser():
    parser = argparse.ArgumentParser(
        prog="storydiff",
        description="Tell a story in pictures that keep its characters the same.",
        epilog="A story: '[Name] description' lines, an empty line, one panel a line: 'prompt # caption'.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    tell = commands.add_parser("tell", help="draw a story text as a comic, and as a video")
    tell.set_defaults(run=_tell)
    tell.add_argument("story", help="text file, or - for the standard input")
    tell.add_argument("--seed", type=int, default=0, help="the same seed gives the same pictures (default 0)")
    tell.add_argument("--model", default="micro", help="'micro', a pipeline folder, or owner/name on the hub")
    tell.add_argument("--layout", default="page", choices=("strip", "page", "mixed"))
    _add_letters(tell)
    drawn = tell.add_argument_group("how it is drawn (default: as StoryPipeline has it)")
    drawn.add_argument("--consistency", type=float, metavar="RATE", help="0 to 1: how much panels read")
    drawn.add_argument("--layers", choices=("up", "mid", "down", "all"), help="where they read")
    drawn.add_argument("--schedule", choices=("always", "released"), help="in which steps they read")
    drawn.add_argument("--window", type=int, metavar="PANELS", help="panels that are drawn together")
    drawn.add_argument("--long-story", choices=("passes", "attention", "bank"), help="beyond the window")
    drawn.add_argument("--steps", type=int, help="denoising steps")
    drawn.add_argument("--guidance", type=float, help="how strongly the prompt pulls")
    drawn.add_argument("--guidance-rescale", type=float, help="0 to 1")
    drawn.add_argument("--negative", metavar="PROMPT", help="what is not drawn")
    drawn.add_argument("--same-noise", action="store_true", help="start all panels from one noise")
    drawn.add_argument("--start-merge-step", type=float, metavar="SHARE", help="share of steps by text alone")
    drawn.add_argument("--height", type=int, help="pixels")
    drawn.add_argument("--width", type=int, help="pixels")
    tell.add_argument("--identity", default="micro", help="identity encoder for --pictures")
    _add_output(tell)

    retell = commands.add_parser("retell", help="draw a comic again, from the recipe that it carries")
    retell.set_defaults(run=_retell)
    retell.add_argument("comic", help="a .png that `storydiff tell` wrote")
    retell.add_argument("--model", help="another model than the recipe's, or another place of it")
    retell.add_argument("--layout", choices=("strip", "page", "mixed"))
    _add_letters(retell)
    _add_output(retell)

    check = commands.add_parser("check", help="read a story text and say what its panels are; draw nothing")
    check.set_defaults(run=_check)
    check.add_argument("story", help="text file, or - for the standard input")

    show = commands.add_parser("recipe", help="print the recipe that a comic carries")
    show.set_defaults(run=_show)
    show.add_argument("comic", help="a .png that `storydiff tell` wrote")
    return parser


def _add_letters(parser):
    parser.add_argument("--font", metavar="FILE", help="a .ttf or .otf for the captions")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="width of a small panel")


def _add_output(parser):
    parser.add_argument("--out", required=True, metavar="COMIC.png", help="the comic")
    parser.add_argument("--video", metavar="STORY.mp4", help="a video beside it, .mp4 or .gif")
    film = parser.add_argument_group("the video")
    film.add_argument("--fps", type=int, help="frames a second (default 8)")
    film.add_argument("--frames", type=int, help="frames from one panel to the next, with both (default 16)")
    film.add_argument("--hold", type=int, help="frames that a panel stands still (default 4)")
    film.add_argument("--video-model", metavar="MODEL", help="for panels of another model than 'micro'")
    film.add_argument("--motion", metavar="FOLDER", help="its motion weights")
    film.add_argument("--image-encoder", metavar="FOLDER", help="its image encoder")
    film.add_argument(
        "--refine",
        type=float,
        metavar="STRENGTH",
        help="how strongly the U-Net that drew the panels redraws the frames between them, from 0 to 1 "
        "(default 0.5; for another model 0, not at all)",
    )
    parser.add_argument(
        "--pictures", action="append", metavar="NAME=FILE", help="a reference picture, or a folder of them"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--offload", action="store_true", help="only the part that works lies on the GPU")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the panels")
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no report")


if __name__ == "__main__":
    sys.exit(main())
