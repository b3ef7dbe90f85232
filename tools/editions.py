"""Editions for teaching, made from the chapters: `editions.py FOLDER [--course]`.

Student edition: answers become stubs; hidden tests, outputs, and all that stands between {solution-start} and
{solution-end} besides the stub and its check are dropped. Both editions are plain Markdown, for JupyterLab.
Graded edition (--course): an nbgrader course whose source is the chapters, with its release version made.
Each check is followed by hidden tests, which import the checkers afresh from a file of the course
(answers/grade.py).

What somebody has worked in is never overwritten: it is kept beside, under a name with the date.
"""

import argparse
import ast
import filecmp
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import chapters
import nbformat
from chapters import BEGIN, HIDDEN_BEGIN, HIDDEN_END

ABOUT = """# Student edition

One notebook a chapter. Replace each `raise NotImplementedError()` by your answer and run the cell below it:
the checker says what is wrong, or that it is right. Run `make lab` in the folder above, then open `student/`
in the browser; without the repository run `jupyter lab` here.
"""
#: what answers the test of book/teach/test.md: for the teacher, so beside the course and not in its release
KEY = chapters.ROOT / "tools" / "answers" / "course-test.md"
COURSE_CONFIG = """c = get_config()  # noqa: F821  (nbgrader provides it)
c.CourseDirectory.course_id = "storydiffusion-taken-apart"
c.ClearSolutions.code_stub = {"python": "# your code here\\nraise NotImplementedError()"}
c.ExecutePreprocessor.timeout = 600
c.Execute.timeout = 600
"""


def clear(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The student edition of one chapter. The notebook given is left as it was."""
    from nbgrader.preprocessors import ClearHiddenTests, ClearOutput, ClearSolutions

    nb = nbformat.reads(nbformat.writes(nb), as_version=4)
    drop_explanations(nb)
    open_quizzes(nb)
    name_machines(nb)
    chapters.mark_exercises(nb)
    stub = {"python": "# your code here\nraise NotImplementedError()"}
    for step in (ClearSolutions(code_stub=stub), ClearHiddenTests(), ClearOutput()):
        nb, _ = step.preprocess(nb, {})
    for_jupyterlab(nb)
    nb.cells = [c for c in nb.cells if c.source.strip()]  # a cell of hidden tests alone
    nb.metadata = {k: nb.metadata[k] for k in ("kernelspec", "language_info") if k in nb.metadata}
    return nb


def drop_explanations(nb) -> None:
    """Of what stands between {solution-start} and {solution-end} only answers and checks stay."""
    inside, kept = False, []
    for cell in nb.cells:
        fences = chapters.fences(cell)
        if "solution-start" in fences:
            inside = True
        if not (inside or "solution" in fences) or BEGIN in cell.source or chapters.checks(cell):
            kept.append(cell)
        if "solution-end" in fences:
            inside = False
    nb.cells = kept


def open_quizzes(nb) -> None:
    """Put the questions themselves where a chapter names them: JupyterLab does not know the directive."""
    quizzes = chapters.extension("quizzes")
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = quizzes.FENCE.sub(lambda m: quizzes.as_markdown(quizzes.find(m[1])), cell.source)


def name_machines(nb) -> None:
    """Say that the web page draws stories where a notebook cannot hold what draws them."""
    machines = chapters.extension("story_machine")
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = machines.FENCE.sub(machines.IN_NOTEBOOKS, cell.source)


EXERCISE = re.compile(r"^(`{3,}|:{3,})\{exercise\} ([^\n]+)\n(?::\w+:[^\n]*\n)*(.*?)^\1[ \t]*$", re.M | re.S)
BOX = re.compile(r"^(`{3,}|:{3,})\{admonition\} ([^\n]+)\n(?::\w+:[^\n]*\n)*(.*?)^\1[ \t]*$", re.M | re.S)
CITED = re.compile(r"\s*\(\{cite\}`[^`]*`\)|\s?\{cite\}`[^`]*`,?")
TERM = re.compile(r"\{term\}`([^`<]+?)(?: *<[^>]*>)?`")
REF = re.compile(r"\{ref\}`([^`<]+?) *<[^>]*>`")
LABEL = re.compile(r"^\([\w-]+\)=\n", re.M)
CHAPTER = re.compile(r"\]\((\d\d-[\w-]+)(#[\w-]+)?\)")


def for_jupyterlab(nb) -> None:
    """Say in plain Markdown what the site's directives and roles say: JupyterLab shows those as code."""

    def quoted(m):
        return "\n".join(f"> {line}".rstrip() for line in [f"**{m[2]}**", "", *m[3].rstrip().split("\n")])

    for cell in nb.cells:
        if cell.cell_type == "markdown":
            text = EXERCISE.sub(lambda m: f"### Exercise: {m[2]}\n\n{m[3].strip()}", cell.source)
            text = REF.sub(r'"\1"', LABEL.sub("", BOX.sub(quoted, text)))
            text = TERM.sub(r"\1", CITED.sub("", text)).replace("(, ", "(").replace("( ", "(")
            cell.source = CHAPTER.sub(lambda m: f"]({m[1]}.ipynb{m[2] or ''})", text)


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


def check_again(nb, code: str) -> None:
    """Let hidden tests follow each check: they do not use `exercises`, whatever a notebook did to it."""
    for cell in nb.cells:
        if chapters.checks(cell):
            calls = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)]
            asked = [n for n in calls if ast.unparse(n.func).split(".")[-1] == "check"]
            again = [f"_graded({', '.join(map(ast.unparse, n.args))})" for n in asked]
            cell.source = "\n".join([cell.source, HIDDEN_BEGIN, code.rstrip(), "", *again, HIDDEN_END])


def differ(old: Path, new: Path) -> list[str]:
    """Files in a folder that another has not, or not the same; Jupyter's own copies are left out."""
    if not old.is_dir():
        return []
    names = [p.relative_to(old) for p in sorted(old.rglob("*")) if p.is_file()]
    names = [n for n in names if ".ipynb_checkpoints" not in n.parts]
    return [
        n.as_posix()
        for n in names
        if not ((new / n).is_file() and filecmp.cmp(old / n, new / n, shallow=False))
    ]


def keep(path: Path, why: str) -> None:
    """Move a file or folder aside, to a name with the date and the time."""
    base = f"{path.stem}-{datetime.now():%Y-%m-%d-%H%M%S}"
    names = [base, *(f"{base}-{n}" for n in range(2, 100))]
    to = next(p for n in names if not (p := path.with_name(n + path.suffix)).exists())
    path.rename(to)
    print(f"kept: {to} ({why})")


def make_student(folder: Path) -> None:
    """Write the whole edition beside its place first, so that a failure leaves nothing half-written."""
    here = folder.resolve()
    if here == chapters.ROOT or here in chapters.ROOT.parents or chapters.NOTEBOOKS in (here, *here.parents):
        sys.exit(f"{folder} is not a folder for the student edition; name one of its own, such as student.")
    if folder.exists() and not folder.is_dir():
        sys.exit(f"{folder} is a file; the student edition needs a folder: name another, or move that file.")
    here.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=here.parent) as tmp:
        for path in chapters.find([]):
            chapters.write(clear(chapters.read(path)), Path(tmp, path.name))
        Path(tmp, "README.md").write_text(ABOUT)
        changed = differ(folder, Path(tmp))
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            keep(here, f"{changed[0]}{more} there is not as `make student` writes it now: answers, perhaps")
        elif folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(tmp, folder)
    print(f"student edition: {folder}/ ({len(list(folder.glob('*.ipynb')))} notebooks)")


def make_course(folder: Path) -> None:
    from answers import grade

    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nbgrader_config.py"
    if not config.exists():  # a teacher's own settings stay
        config.write_text(COURSE_CONFIG)
    elif config.read_text() != COURSE_CONFIG:
        print(f"{config} is your own and stays as it is")
    hidden = grade.bundle(folder)
    names = []
    for path in chapters.find([]):
        nb = chapters.read(path)
        drop_explanations(nb)
        open_quizzes(nb)
        name_machines(nb)
        split_checks(nb)
        chapters.mark_exercises(nb)
        check_again(nb, hidden)
        for_jupyterlab(nb)
        place = folder / "source" / path.stem
        write_source(nb, place / path.name)
        names.append(path.stem)
    (folder / "submitted").mkdir(exist_ok=True)
    shutil.copy(KEY, folder)
    for name in names:
        told = subprocess.run(
            [sys.executable, "-m", "nbgrader", "generate_assignment", name, "--create", "--force"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if told.returncode:
            sys.exit(f"nbgrader could not make the release version of {name}:\n{told.stderr[-2000:]}")
    print(f"course: {folder}/ (source, release, {KEY.name}; put answers into submitted/NAME/CHAPTER/)")


def write_source(nb, path: Path) -> None:
    """A chapter of the course; one that a teacher has changed is kept beside the course's sources.

    What was written is remembered as a copy, since a chapter of the book may change as well.
    """
    written = path.parents[2] / "source-as-written" / path.name
    for folder in (path.parent, written.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if path.exists() and not (written.exists() and filecmp.cmp(path, written, shallow=False)):
        aside = (
            path.parents[2] / "source-changed" / path.name
        )  # not in source/: nbgrader would release it, too
        aside.parent.mkdir(exist_ok=True)
        shutil.copy(path, aside)
        keep(aside, f"{path} was not as `make course` had written it")
    chapters.write(nb, path)
    shutil.copy(path, written)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", nargs="?", type=Path, default=Path("student"))
    p.add_argument("--course", action="store_true", help="make an nbgrader course instead")
    args = p.parse_args()
    (make_course if args.course else make_student)(args.folder)


if __name__ == "__main__":
    main()
