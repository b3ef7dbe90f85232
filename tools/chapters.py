"""What the tools share: where the chapters are, and how their cells are told apart."""

import importlib.util
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
HIDDEN_BEGIN, HIDDEN_END = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
CHECK = re.compile(r"^\s*(?:\w+\s*=\s*)?(?:\w+\.)*check\(\s*[\"']([\w-]+)[\"']", re.M)
# A directive fence of sphinx-exercise: ```{exercise} title  or  :::{exercise} title
FENCE = re.compile(r"^[ \t]*(`{3,}|:{3,})\{(exercise|solution|solution-start|solution-end)\}", re.M)
# What an exercise asks for, below its title: *Write · medium · 10 min · 2 points*, and on which earlier ones
# of its chapter it builds: *... · 2 points · builds on {ref}`Windows <ex-windows>`*
LABEL = re.compile(
    r"^\*(Predict|Write|Debug|Design) · (easy|medium|hard) · (\d+) min · (\d) points?"
    r"(?: · builds on (.+))?\*$",
    re.M,
)
NAMED = re.compile(r"\{ref\}`[^`<]+<([\w-]+)>`")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def find(names: list[str]) -> list[Path]:
    """The chapters whose file names begin with one of `names`; all of them, in order, for an empty list."""
    every = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if not every:
        sys.exit(f"No chapters in {NOTEBOOKS.name}/: expected files such as 00-a-story-in-one-minute.ipynb.")
    if not names:
        return every
    found = [p for p in every if any(p.stem.startswith(Path(n).stem) for n in names)]
    missing = [n for n in names if not any(p.stem.startswith(Path(n).stem) for p in every)]
    if missing:
        known = ", ".join(p.stem for p in every)
        sys.exit(f"No chapter begins with {', '.join(missing)}. The chapters are: {known}.")
    return found


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def write(nb: nbformat.NotebookNode, path: Path) -> None:
    """Write a whole notebook or nothing, in one layout, so that differences show only what changed."""
    nbformat.validate(nb)
    part = path.with_suffix(".part")
    nbformat.write(nb, part)
    part.replace(path)


def extension(name: str):
    """A module of book/_ext, which Sphinx finds by its own path."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"book/_ext/{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def code_cells(nb) -> list:
    return [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]


def fences(cell) -> list[str]:
    """Names of the exercise directives that open in a Markdown cell, in order."""
    return [m.group(2) for m in FENCE.finditer(cell.source)] if cell.cell_type == "markdown" else []


def checks(cell) -> list[str]:
    """Names of the exercises that a code cell checks."""
    return CHECK.findall(cell.source) if cell.cell_type == "code" else []


def builds_on(nb) -> dict[str, list[str]]:
    """Name of an exercise, as its check has it -> names of the earlier ones that its heading line names."""
    names, asked, found = {}, None, {}
    for cell in nb.cells:
        if "exercise" in fences(cell):
            asked = cell.source
        for name in checks(cell) if asked else ():
            label = LABEL.search(asked)
            names[re.search(r"^:label: (\S+)", asked, re.M)[1]] = name
            found[name] = [names.get(ref, ref) for ref in NAMED.findall((label and label[5]) or "")]
            asked = None
    return found


def mark_exercises(nb) -> None:
    """Give exercise cells the metadata that nbgrader reads, taken from the cells themselves."""
    name, points = None, 1
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            if "exercise" in fences(cell):
                label = LABEL.search(cell.source)
                points = int(label[4]) if label else 1
            continue
        solves, named = BEGIN in cell.source, checks(cell)
        if solves:
            later = [n for c in nb.cells[i:] for n in checks(c)]
            name = later[0] if later else f"exercise-{i}"
            # A cell that is solved and checked at once is graded by hand: nbgrader has no other kind.
            cell.metadata["nbgrader"] = _grading(name, points, solution=True, grade=bool(named), locked=False)
        elif HIDDEN_BEGIN in cell.source:
            cell.metadata["nbgrader"] = _grading(f"{name}-hidden", points)
        elif named and name == named[0]:
            cell.metadata["nbgrader"] = _grading(f"{name}-check", points)
        else:
            cell.metadata.pop("nbgrader", None)


def _grading(grade_id: str, points: int, *, solution=False, grade=True, locked=True) -> dict:
    cell = {"schema_version": 3, "grade_id": grade_id, "solution": solution, "grade": grade, "locked": locked}
    return cell | {"task": False} | ({"points": points} if grade else {})
