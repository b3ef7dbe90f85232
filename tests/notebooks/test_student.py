"""The student edition holds no answers: stubs fail their checks. Answers pass them."""

import ast
import importlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import types
from pathlib import Path

import answers
import chapters
import editions
import pytest
import torch
from answers import grade
from chapters import BEGIN, END
from nbformat.v4 import new_markdown_cell, new_notebook
from test_chapters import each_chapter, good

from storydiff_lite import exercises

CALL = r'exercises\.check\(\s*"[\w-]+", (\w+)(?:, \w+)*\s*\)'
ANSWER = re.compile(re.escape(BEGIN) + r"[^\n]*\n(.*?)" + r"[ \t]*" + re.escape(END), re.S)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if len(line.strip()) >= 12]


def all_text(nb) -> str:
    return "\n".join(c.source for c in nb.cells)


@each_chapter
def test_no_answers_in_student_edition(path):
    nb = chapters.read(path)
    cleared = editions.clear(nb)
    text = all_text(cleared)
    for mark in (BEGIN, END, chapters.HIDDEN_BEGIN, "solution-start", "solution-end"):
        assert mark not in text
    assert not any(c.get("outputs") for c in cleared.cells)
    assert not any(c.get("execution_count") for c in cleared.cells)
    assert "widgets" not in cleared.metadata
    open_text = ANSWER.sub("", all_text(nb))
    for cell in nb.cells:
        for answer in ANSWER.findall(cell.source):
            # what the chapter also shows in the open is no secret
            leaked = [line for line in lines(answer) if line in text and line not in open_text]
            assert leaked == []
    wanted = sum(BEGIN in c.source for c in nb.cells)
    assert text.count("raise NotImplementedError()") >= wanted


@each_chapter
def test_student_edition_keeps_the_questions(path):
    nb = chapters.read(path)
    cleared = editions.clear(nb)
    asked = re.findall(r"^```\{exercise\} (.+)$", all_text(nb), re.M)
    assert re.findall(r"^### Exercise: (.+)$", all_text(cleared), re.M) == asked and asked
    assert [n for c in nb.cells for n in chapters.checks(c)] == [
        n for c in cleared.cells for n in chapters.checks(c)
    ]


@each_chapter
def test_student_edition_is_plain_markdown(path):
    """JupyterLab shows what only the site knows as code, and follows links to files alone."""
    for cell in editions.clear(chapters.read(path)).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`\n]*`", "x", cell.source, flags=re.S)
            assert not re.search(r"\{(exercise|admonition|cite|term|ref|quiz|story-machine)\}", text)
            assert not re.search(r"^\([\w-]+\)=$|^:{3}|\]\(\d\d-[\w-]+\)|\( |\(,| ,", text, re.M)


def test_directives_become_plain_markdown():
    box = "```{admonition} In this chapter\n- **Time**: 30 s\n\nMore.\n```"
    ask = (
        "```{exercise} Twice\n:label: ex-twice\n*Write · easy · 5 min · 1 point · builds on "
        "{ref}`Once <ex-once>`*\n\nWrite it.\n```"
    )
    said = "(here)=\n## A\n\nIt {cite}`a` is ({cite}`b`, equation 1; $d$ is wide) a {term}`mass`, "
    said += "see [05](05-five)."
    nb = new_notebook(cells=[new_markdown_cell(t) for t in (box, ask, said)])
    editions.for_jupyterlab(nb)
    assert [c.source for c in nb.cells] == [
        "> **In this chapter**\n>\n> - **Time**: 30 s\n>\n> More.",
        '### Exercise: Twice\n\n*Write · easy · 5 min · 1 point · builds on "Once"*\n\nWrite it.',
        "## A\n\nIt is (equation 1; $d$ is wide) a mass, see [05](05-five.ipynb).",
    ]


@each_chapter
def test_stubs_fail_their_checks(path, tmp_path, monkeypatch):
    """Every check stands behind the stub that it asks about, calls it, and lets it pass for nothing.

    The cells run as they stand, after what the chapter imports and defines: a stub needs nothing else, so
    no chapter is drawn for this. Answers pass: the chapter itself runs them in the smoke run.
    """
    monkeypatch.chdir(tmp_path)
    nb = editions.clear(chapters.read(path))
    names, cells = defined(nb), chapters.code_cells(nb)
    checks = [i for i, cell in enumerate(cells) if chapters.checks(cell)]
    assert checks
    for i in checks:
        stub, check = cells[i - 1].source, cells[i].source
        (answer,) = re.findall(r"^def (\w+)", stub, re.M)
        assert re.fullmatch(CALL, check.strip())[1] == answer
        exec(stub, names)
        with pytest.raises(NotImplementedError):
            exec(check, names)


# What a student notebook gives away: every function that it defines or imports is tried as an answer.
def definitions(nb):
    """Imports, functions, classes and plain values of a notebook's code, each as a piece of Python."""
    for cell in chapters.code_cells(nb):
        lines = [line for line in cell.source.split("\n") if not line.startswith(("%", "!"))]
        for node in ast.parse("\n".join(lines)).body:
            value = getattr(node, "value", None)
            plain = isinstance(node, ast.Assign) and isinstance(value, (ast.Constant, ast.Lambda))
            if plain or isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)):
                yield ast.unparse(node)


def defined(nb):
    """The names that a notebook's definitions give; what they need and only a run would give is None."""
    names = {"__name__": "notebook"}
    for text in definitions(nb):
        for _ in range(20):
            try:
                exec(text, names)
                break
            except NameError as error:  # such as the default of an argument
                names[error.name] = None
            except (AttributeError, TypeError):  # of something that is None here
                break
    return names


def candidates(names):
    """Name -> function: those of the notebook, and those of this project's modules that it imports."""
    found = {}
    for name, value in names.items():
        if isinstance(value, types.ModuleType) and value.__name__.startswith("storydiff_lite."):
            for part, f in vars(value).items():
                if isinstance(f, types.FunctionType) and not part.startswith("_"):
                    found[f"{name}.{part}"] = f
        elif callable(value) and not name.startswith("__"):
            found[name] = value
    return found


def passing(nb, names):
    """(exercise, function) for each function of a notebook that passes a check without being an answer."""
    found = []
    tried = candidates(names)
    for name in dict.fromkeys(n for cell in nb.cells for n in chapters.checks(cell)):
        for called, function in tried.items():
            try:
                exercises.check(name, stopped_after(1, function))
            except (exercises.Wrong, NotImplementedError):
                continue
            found.append((name, called))
    return found


def stopped_after(seconds, function):
    def stop(*_):
        raise TimeoutError(f"took more than {seconds} s")

    def tried(*args, **kwargs):
        # the alarm may ring while a `torch.no_grad()` is being left, which then stays
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            before = signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                return function(*args, **kwargs)
            except SystemExit as error:
                raise RuntimeError("left Python") from error
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)

    return tried


def test_a_function_that_is_stopped_leaves_torch_as_it_was():
    def stopped():
        torch.set_grad_enabled(False)
        while True:
            pass

    with pytest.raises(TimeoutError, match="more than 0.1 s"):
        stopped_after(0.1, stopped)()
    assert torch.is_grad_enabled()


@each_chapter
def test_no_function_that_is_there_is_an_answer(path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)  # whatever they write
    nb = editions.clear(chapters.read(path))
    stubs = nb.cells and all_text(nb).count("raise NotImplementedError()")
    names = defined(nb)
    assert stubs and len(candidates(names)) > stubs
    assert passing(nb, names) == []


def test_a_function_that_is_an_answer_is_found():
    """The search itself: the chapter that shows an answer before it asks for it."""
    nb = good()
    shown = "def shown(classes):\n    pairs = [a == b for i, a in enumerate(classes) for b in classes[:i]]"
    nb.cells.insert(2, chapters.nbformat.v4.new_code_cell(f"{shown}\n    return sum(pairs) / len(pairs)"))
    nb.cells.append(chapters.nbformat.v4.new_code_cell('exercises.check("agreement", mine)'))
    names = {k: v for k, v in defined(nb).items() if k == "shown"}
    nb.cells = nb.cells[-1:]
    assert passing(nb, names) == [("agreement", "shown")]


def test_explanations_of_answers_are_dropped():
    nb = good()
    secret = chapters.nbformat.v4.new_markdown_cell("Twice is adding it to itself.")
    nb.cells.insert(5, secret)
    text = all_text(editions.clear(nb))
    assert "adding it to itself" not in text
    assert "def twice(x):\n    # your code here\n    raise NotImplementedError()" in text
    assert "### Exercise: Twice" in text and 'exercises.check("twice", twice)' in text
    assert "adding it to itself" in all_text(nb), "the chapter itself must stay as it was"


def test_grading_marks_part_answer_and_check():
    nb = good()
    nb.cells[4].source += '\n\nexercises.check("twice", twice)'
    nb.cells.pop(6)
    editions.split_checks(nb)
    chapters.mark_exercises(nb)
    marked = [c.metadata["nbgrader"] for c in nb.cells if "nbgrader" in c.metadata]
    assert [(m["grade_id"], m["solution"], m["grade"], m["locked"]) for m in marked] == [
        ("twice", True, False, False),
        ("twice-check", False, True, True),
    ]


# ------------------------------------------------------------------------- work is never lost
@pytest.fixture
def one_chapter(tmp_path, monkeypatch):
    """The book as if it had one small chapter, with an exercise that there is."""
    nb = good()
    for cell in nb.cells:
        cell.source = cell.source.replace('"twice", twice', '"agreement", twice').replace(
            "twice(x)", "twice(c)"
        )
        cell.source = cell.source.replace("    return 2 * x", ANSWER_TO_AGREEMENT)
    nb.cells.insert(1, chapters.nbformat.v4.new_code_cell("from storydiff_lite import exercises"))
    nb.cells.insert(5, chapters.nbformat.v4.new_markdown_cell("Of three panels there are three pairs."))
    (tmp_path / "book").mkdir()
    path = tmp_path / "book" / "00-a-chapter.ipynb"
    chapters.write(nb, path)
    monkeypatch.setattr(chapters, "find", lambda names: [path])
    return path


ANSWER_TO_AGREEMENT = """    pairs = [a == b for i, a in enumerate(c) for b in c[:i]]
    return sum(pairs) / len(pairs)"""


def test_an_untouched_student_edition_is_made_anew(one_chapter, tmp_path):
    folder = tmp_path / "student"
    for _ in range(2):
        editions.make_student(folder)
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith("student")] == ["student"]


@pytest.mark.parametrize("what", ["an answer", "a file of one's own", "an edition of before"])
def test_answers_in_the_student_edition_are_kept(one_chapter, tmp_path, capsys, what):
    folder = tmp_path / "student"
    editions.make_student(folder)
    fresh = (folder / one_chapter.name).read_text()
    if what == "an answer":
        (folder / one_chapter.name).write_text(fresh.replace("raise NotImplementedError()", "return 42"))
    elif what == "a file of one's own":
        (folder / "notes").mkdir()
        (folder / "notes" / "return 42.md").write_text("return 42")
    else:
        (folder / "README.md").write_text("return 42")
    editions.make_student(folder)
    (kept,) = [p for p in tmp_path.iterdir() if re.fullmatch(r"student-20\d\d-\d\d-\d\d-\d{6}", p.name)]
    assert any("return 42" in p.read_text() for p in kept.rglob("*") if p.is_file())
    assert kept.name in capsys.readouterr().out
    assert (folder / one_chapter.name).read_text() == fresh


def test_two_copies_of_one_second_both_stay(one_chapter, tmp_path):
    folder = tmp_path / "student"
    for text in ("one", "two", "three"):
        editions.make_student(folder)
        (folder / "notes.md").write_text(text)
    editions.make_student(folder)
    notes = [p.read_text() for p in tmp_path.glob("student-20*/notes.md")]
    assert sorted(notes) == ["one", "three", "two"]


@pytest.mark.parametrize("place", [".", "..", "notebooks", "notebooks/mine"])
def test_the_repository_is_no_student_edition(place, monkeypatch):
    monkeypatch.chdir(chapters.ROOT)
    with pytest.raises(SystemExit, match="not a folder for the student edition"):
        editions.make_student(Path(place))


def test_make_clean_keeps_what_cannot_be_built_again(tmp_path):
    shutil.copy(chapters.ROOT / "Makefile", tmp_path)
    for kept in ("_build/course/gradebook.db", "_build/course/submitted/ann/a.ipynb", "student/00.ipynb"):
        (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / kept).write_text("work")
    (tmp_path / "_build" / "html").mkdir()
    (tmp_path / "_build" / ".cache").write_text("")
    for _ in range(2):
        told = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "_build/course stays" in told.stdout and "student stays" in told.stdout
        assert sorted(p.name for p in (tmp_path / "_build").iterdir()) == ["course"]
        assert len([p for p in tmp_path.rglob("*") if p.is_file() and p.read_text() == "work"]) == 3
    shutil.rmtree(tmp_path / "_build" / "course")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True)
    assert not (tmp_path / "_build").exists()


# ------------------------------------------------------------------------------------------ grading
def half(classes):
    return 0.5


def replace_check(patch):
    patch.setattr(exercises, "check", lambda *a: None)


def replace_checkers(patch):
    for e in exercises.load_all().values():
        patch.setattr(e, "checker", lambda answer: None)


def replace_in_modules(patch):
    for name, module in list(sys.modules.items()):
        if "exercises" in name or "check" in name:
            for part in ("check", "expect", "same", "load_all"):
                patch.setattr(module, part, lambda *a, **k: None, raising=False)


def replace_torch(patch):
    patch.setattr("torch.allclose", lambda *a, **k: True)


def replace_import(patch):
    fake = types.SimpleNamespace(check=lambda *a: None, Wrong=ValueError)
    real = importlib.import_module
    patch.setattr(importlib, "import_module", lambda n, *a: fake if n.startswith("checks_") else real(n, *a))


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    return folder, grade.bundle(folder)


def run_hidden(code, answer):
    names = {"answer": answer}
    exec(f'{code}\n_graded("agreement", answer)', names)


@pytest.mark.parametrize(
    "attack", [replace_check, replace_checkers, replace_in_modules, replace_torch, replace_import]
)
def test_hidden_tests_do_not_use_what_a_notebook_can_replace(hidden, monkeypatch, attack):
    attack(monkeypatch)
    with pytest.raises(Exception) as caught:  # a Wrong of the fresh import, not the one known here
        run_hidden(hidden[1], half)
    assert type(caught.value).__name__ in ("Wrong", "AssertionError")


def test_hidden_tests_take_right_answers_and_leave_nothing_behind(hidden):
    run_hidden(hidden[1], answers.load_all()["agreement"].right[0])
    assert not [m for m in sys.modules if "checks_" in m and "notebooks" not in m]
    assert not [p for p in sys.path if p.endswith(".zip") and "checks_" in p]


@each_chapter
def test_the_answers_of_a_chapter_get_all_points(path, hidden, tmp_path, monkeypatch):
    """On the cases of a course: on those of the package the chapter itself runs them."""
    monkeypatch.chdir(tmp_path)
    nb = chapters.read(path)
    names, asked = defined(nb), [cell for cell in nb.cells if chapters.checks(cell)]
    editions.check_again(nb, hidden[1])
    assert asked
    for cell in asked:
        exec(cell.source[cell.source.index(chapters.HIDDEN_BEGIN) :], names)


def test_hidden_tests_take_the_earlier_answer_too(hidden):
    """A mistake in it costs no point here; a mistake in the new answer does."""
    new, old = (answers.load_all()[name] for name in ("reach", "windows"))
    wrong = new.wrong["one step"][0]
    cell = chapters.nbformat.v4.new_code_cell('exercises.check("reach", reach, my_windows)')
    editions.check_again(chapters.nbformat.v4.new_notebook(cells=[cell]), hidden[1])
    again = cell.source[cell.source.index(chapters.HIDDEN_BEGIN) :]
    assert "_graded('reach', reach, my_windows)" in again
    for earlier in (old.right[0], old.wrong["no overlap"][0]):
        exec(again, {"reach": new.right[0], "my_windows": earlier})
        with pytest.raises(Exception, match="one step reaches"):
            exec(again, {"reach": wrong, "my_windows": earlier})


def test_hidden_tests_draw_cases_of_their_own(hidden):
    """What the package knows helps only with its own cases."""
    seen = []

    def keep(clean, noise, kept):
        seen.append(exercises.case([clean, noise])[1])
        return answers.load_all()["add-noise"].right[0](clean, noise, kept)

    exercises.check("add-noise", keep)
    exec(f'{hidden[1]}\n_graded("add-noise", keep)', {"keep": keep})
    assert len(seen) == 6 and not any(a == b for a in seen[:3] for b in seen[3:])


@pytest.mark.parametrize(
    ("change", "words"), [("gone", "not in the course's folder"), ("other", "is not as")]
)
def test_a_file_of_checks_that_is_not_the_course_s_is_refused(hidden, tmp_path, change, words):
    folder, code = hidden
    (file,) = folder.glob("checks_*.zip")
    code = code.replace(repr(str(folder.resolve())), repr(str(tmp_path)))
    if change == "other":
        (tmp_path / file.name).write_bytes(file.read_bytes() + b" ")
    with pytest.raises((FileNotFoundError, ValueError), match=words):
        run_hidden(code, half)


#: What is handed in: name -> what stands in the place of the stub, what follows it, and the points.
HANDED_IN = {
    "honest": (ANSWER_TO_AGREEMENT.strip(), "", 1),
    "stub": ("raise NotImplementedError()", "exercises.check = lambda *a: None", 0),
    "cheat": ("return 0.5", "for e in exercises.load_all().values():\n    e.checker = lambda a: None", 0),
}


@pytest.mark.slow
def test_a_submission_cannot_replace_the_grader(one_chapter, tmp_path, capsys):
    """The course is made, answers are handed in, and nbgrader grades them."""
    course, name = tmp_path / "course", one_chapter.stem
    editions.make_course(course)
    release = (course / "release" / name / one_chapter.name).read_text()
    for secret in ("_graded", "HIDDEN", "checks_", "three pairs", "pairs = ["):
        assert secret not in release
    for who, (text, after, _) in HANDED_IN.items():
        nb = chapters.nbformat.reads(release, as_version=4)
        (cell,) = [c for c in nb.cells if "raise NotImplementedError()" in c.source]
        cell.source = f"{cell.source.replace('raise NotImplementedError()', text)}\n{after}"
        if who == "stub":  # and the cell of the check, which nbgrader puts back
            nb.cells[-1].source = "pass"
        place = course / "submitted" / who / name
        place.mkdir(parents=True)
        chapters.nbformat.write(nb, place / one_chapter.name)
    env = os.environ | {"PYTHONPATH": str(chapters.ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nbgrader", "autograde", name, "--create"]
    told = subprocess.run(command, cwd=course, env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-3000:]
    assert points(course) == {who: given for who, (_, _, given) in HANDED_IN.items()}

    # made again: what was handed in and graded stays, and so do a teacher's own settings and questions
    config, source = course / "nbgrader_config.py", course / "source" / name / one_chapter.name
    config.write_text(config.read_text() + "# mine\n")
    source.write_text(source.read_text().replace("Twice", "Twice, but mine"))
    before = {p: p.read_bytes() for p in (course / "submitted").rglob("*.ipynb")}
    editions.make_course(course)
    assert config.read_text().endswith("# mine\n") and "stays as it is" in capsys.readouterr().out
    (changed,) = (course / "source-changed").iterdir()
    assert "but mine" in changed.read_text() and "but mine" not in source.read_text()
    assert all(p.read_bytes() == text for p, text in before.items())
    assert points(course) == {who: given for who, (_, _, given) in HANDED_IN.items()}
    assert len(list(course.glob("checks_*.zip"))) == 1


def points(course):
    """Name of a student -> points, as the course's gradebook has them."""
    with sqlite3.connect(course / "gradebook.db") as db:
        rows = db.execute(
            "select s.student_id, sum(coalesce(g.auto_score, 0)) from grade g"
            " join submitted_notebook n on g.notebook_id = n.id"
            " join submitted_assignment s on n.assignment_id = s.id group by s.student_id"
        )
        return dict(rows.fetchall())
