"""Run chapters at profile cpu and write them back with their outputs: `refresh.py [00 01]`.

The chapter's own text stays as it is, save two things that are derived: nbgrader's metadata on exercise
cells, and the running time between `<!-- time -->` and `<!-- /time -->`. What only a kernel can show (widget
state) is left out of the committed copy; the site takes it from a fresh run.

The README's numbers, between `<!-- measured NAME -->` and `<!-- /measured -->`, come from the records at
every call; `refresh.py --numbers` writes only those.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import chapters
import run_notebooks
from chapters import ROOT, WIDGET_VIEW

TIMES = ROOT / "book/results/chapter-times.json"
TIME = re.compile(r"(<!-- time -->).*?(<!-- /time -->)", re.S)
NUMBER = re.compile(r"(<!-- measured (.+?) -->).*?(<!-- /measured -->)")
KEEP_METADATA = ("kernelspec", "language_info")


def with_numbers(text: str) -> str:
    """``text`` with what the records say between each pair of marks (names as of the role `measured`)."""
    measured = chapters.extension("measured")
    return NUMBER.sub(lambda m: f"{m[1]}{measured.say(m[2])}{m[3]}", text)


def say_numbers() -> None:
    readme = ROOT / "README.md"
    readme.write_text(with_numbers(readme.read_text(encoding="utf-8")), encoding="utf-8")


def compact(done) -> None:
    """Take out of a run notebook what the committed copy need not hold."""
    done.metadata = {k: done.metadata[k] for k in KEEP_METADATA if k in done.metadata}
    done.metadata.setdefault("language_info", {}).pop("version", None)  # else every Python makes a difference
    for cell in done.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            data.pop(WIDGET_VIEW, None)
            out.get("metadata", {}).pop(WIDGET_VIEW, None)


def say_time(nb, seconds: dict) -> None:
    """Write the measured running time where the chapter has a place for it."""
    parts = []
    if "cpu" in seconds:
        parts.append(f"{seconds['cpu']:.0f} s on two CPU cores")
    if "gpu" in seconds:
        parts.append(f"{seconds['gpu']:.0f} s on a GPU")
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = TIME.sub(rf"\g<1>{', '.join(parts)}\g<2>", cell.source)


def refresh(path: Path, times: dict) -> str | None:
    nb = chapters.read(path)
    chapters.mark_exercises(nb)
    with tempfile.TemporaryDirectory() as tmp:
        source, out = Path(tmp, path.name), Path(tmp, "out.ipynb")
        chapters.write(nb, source)
        # The profile comes from the environment: a papermill parameter would leave an injected cell behind.
        os.environ["STORYDIFF_PROFILE"] = "cpu"
        r = run_notebooks.run(source, out, {}, bar=sys.stderr.isatty())
        if r["error"]:
            return r["error"]
        done = chapters.read(out)
    times.setdefault(path.stem, {})["cpu"] = r["seconds"]
    say_time(done, times[path.stem])
    compact(done)
    chapters.write(done, path)
    print(f"wrote  {path.stem:45} {r['seconds']:6.1f} s {path.stat().st_size / 1024:8.0f} KiB", flush=True)
    return None


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("chapter", nargs="*", help="begin of a chapter's file name, such as 00 (default: all)")
    p.add_argument("--gpu-report", type=Path, help="take GPU times from this report.json of `make gpu`")
    p.add_argument("--numbers", action="store_true", help="run no chapter: only write the README's numbers")
    args = p.parse_args()

    if args.numbers:
        say_numbers()
        return 0
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    if args.gpu_report:
        for r in json.loads(args.gpu_report.read_text())["chapters"]:
            if not r["error"]:
                times.setdefault(r["chapter"], {})["gpu"] = r["seconds"]
    failed = 0
    for path in chapters.find(args.chapter):
        error = refresh(path, times)
        if error:
            failed = 1
            print(f"\n{path.stem} failed, and was left as it was:\n{error}", file=sys.stderr)
    TIMES.parent.mkdir(parents=True, exist_ok=True)
    TIMES.write_text(json.dumps(dict(sorted(times.items())), indent=1) + "\n")
    say_numbers()
    return failed


if __name__ == "__main__":
    sys.exit(main())
