"""Write requirements*.txt and constraints.txt from what this environment holds.

Run it with the Python of an environment in which everything was seen working: .venv/bin/python tools/pin.py
Direct dependencies come from pyproject.toml; whatever they pull in goes to constraints.txt.
"""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# Written by tools/pin.py: what the book was tested with. Works on Python 3.11 and 3.12.\n"


def version(name: str) -> str:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        sys.exit(
            f"{name} is named in pyproject.toml but not installed in {sys.executable}. "
            f"Install it there, see the tests pass, then run this again."
        )
    return found.split("+")[0]  # 2.13.0+cpu and 2.13.0 are the same release: leave the choice to the reader


def pin(requirements: list[str]) -> list[str]:
    names = sorted({Requirement(r).name for r in requirements}, key=str.lower)
    return [f"{n}=={version(n)}" for n in names]


def closure(requirements: list[str]) -> set[str]:
    """Every installed package that the given ones need, by canonical name."""
    todo, seen = [(Requirement(r), {""}) for r in requirements], set()
    while todo:
        req, extras = todo.pop()
        if req.marker and not any(req.marker.evaluate({"extra": e}) for e in extras):
            continue
        key = (canonicalize_name(req.name), tuple(sorted(req.extras)))
        if key in seen:
            continue
        try:
            needs = metadata.requires(req.name) or []
        except metadata.PackageNotFoundError:
            continue  # needed on another platform only
        seen.add(key)
        todo += [(Requirement(n), {"", *req.extras}) for n in needs]
    return {name for name, _ in seen}


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    files = {
        "requirements.txt": project["dependencies"] + extras["book"],
        "requirements-dev.txt": extras["dev"],
        "requirements-grading.txt": extras["grading"],
    }
    direct = [r for group in files.values() for r in group]
    for name, group in files.items():
        first = "" if name == "requirements.txt" else "-r requirements.txt\n"
        (ROOT / name).write_text(HEAD + "-c constraints.txt\n" + first + "\n".join(pin(group)) + "\n")
    named = {canonicalize_name(Requirement(r).name) for r in direct}
    rest = sorted(closure(direct) - named)
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(f"{n}=={version(n)}" for n in rest) + "\n")


if __name__ == "__main__":
    main()
