"""Editions for teaching, made from the chapters: `editions.py FOLDER [--course]`.

Student edition: answers become stubs; hidden tests, outputs, and all that stands between {solution-start} and
{solution-end} besides the stub and its check are dropped.
Graded edition (--course): an nbgrader course whose source is the chapters, with its release version made.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import chapters
import nbformat
from chapters import BEGIN

ABOUT = """# Student edition

One notebook a chapter. Replace each `raise NotImplementedError()` by your answer and run the cell below it:
the checker says what is wrong, or that it is right. Run `make lab` in the folder above, then open `student/`
in the browser.
"""
COURSE_CONFIG = """c = get_config()  # noqa: F821  (nbgrader provides it)
c.CourseDirectory.course_id = "storydiffusion-taken-apart"
c.CourseDirectory.db_assignments = []
c.ClearSolutions.code_stub = {"python": "# your code here\\nraise NotImplementedError()"}
c.ExecutePreprocessor.timeout = 600
c.Execute.timeout = 600
"""


def clear(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The student edition of one chapter. The notebook given is left as it was."""
    from nbgrader.preprocessors import ClearHiddenTests, ClearOutput, ClearSolutions

    nb = nbformat.from_dict(nb.copy())
    nb, inside, kept = nbformat.reads(nbformat.writes(nb), as_version=4), False, []
    for cell in nb.cells:
        fences = chapters.fences(cell)
        if "solution-start" in fences:
            inside = True
        if not (inside or "solution" in fences) or BEGIN in cell.source or chapters.checks(cell):
            kept.append(cell)
        if "solution-end" in fences:
            inside = False
    nb.cells = kept
    chapters.mark_exercises(nb)
    stub = {"python": "# your code here\nraise NotImplementedError()"}
    for step in (ClearSolutions(code_stub=stub), ClearHiddenTests(), ClearOutput()):
        nb, _ = step.preprocess(nb, {})
    nb.cells = [c for c in nb.cells if c.source.strip()]  # a cell of hidden tests alone
    nb.metadata = {k: nb.metadata[k] for k in ("kernelspec", "language_info") if k in nb.metadata}
    return nb


def split_checks(nb) -> None:
    """Part an answer from the check in the same cell: nbgrader grades cells that students cannot edit."""
    cells = []
    for cell in nb.cells:
        lines = cell.source.split("\n")
        at = next((i for i, line in enumerate(lines) if chapters.CHECK.match(line)), None)
        if cell.cell_type == "code" and BEGIN in cell.source and at:
            check = nbformat.v4.new_code_cell("\n".join(lines[at:]))
            cell.source = "\n".join(lines[:at]).rstrip()
            cells += [cell, check]
        else:
            cells.append(cell)
    nb.cells = cells


def make_student(folder: Path) -> None:
    """Write the whole edition beside its place first, so that a failure leaves nothing half-written."""
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as tmp:
        for path in chapters.find([]):
            chapters.write(clear(chapters.read(path)), Path(tmp, path.name))
        Path(tmp, "README.md").write_text(ABOUT)
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(tmp, folder)
    print(f"student edition: {folder}/ ({len(list(folder.glob('*.ipynb')))} notebooks)")


def make_course(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nbgrader_config.py").write_text(COURSE_CONFIG)
    names = []
    for path in chapters.find([]):
        nb = chapters.read(path)
        split_checks(nb)
        chapters.mark_exercises(nb)
        place = folder / "source" / path.stem
        place.mkdir(parents=True, exist_ok=True)
        chapters.write(nb, place / path.name)
        names.append(path.stem)
    (folder / "submitted").mkdir(exist_ok=True)
    for name in names:
        told = subprocess.run(
            [sys.executable, "-m", "nbgrader", "generate_assignment", name, "--create", "--force"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if told.returncode:
            sys.exit(f"nbgrader could not make the release version of {name}:\n{told.stderr[-2000:]}")
    print(f"course: {folder}/ (source, release; put answers into submitted/NAME/CHAPTER/)")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", nargs="?", type=Path, default=Path("student"))
    p.add_argument("--course", action="store_true", help="make an nbgrader course instead")
    args = p.parse_args()
    (make_course if args.course else make_student)(args.folder)


if __name__ == "__main__":
    main()
