"""The student edition holds no answers: stubs fail their checks. Answers pass them."""

import re

import chapters
import editions
import nbclient
import pytest
from chapters import BEGIN, END
from test_chapters import each_chapter, good

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
    for kind in ("exercise",):
        count = [sum(kind in chapters.fences(c) for c in n.cells) for n in (nb, cleared)]
        assert count[0] == count[1]
    assert [n for c in nb.cells for n in chapters.checks(c)] == [
        n for c in cleared.cells for n in chapters.checks(c)
    ]


@pytest.mark.slow
@each_chapter
def test_stubs_fail_their_checks(path, monkeypatch):
    """Answers pass: the chapter itself runs them in the smoke run. Here the stubs run, and none may pass."""
    monkeypatch.setenv("STORYDIFF_PROFILE", "smoke")
    cleared = editions.clear(chapters.read(path))
    client = nbclient.NotebookClient(
        cleared,
        allow_errors=True,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(chapters.NOTEBOOKS)}},
    )
    client.execute()
    checks = [c for c in cleared.cells if chapters.checks(c)]
    assert checks
    passed = [c.source for c in checks if not any(o.output_type == "error" for o in c.outputs)]
    assert passed == [], "a checker let an empty answer pass"


def test_explanations_of_answers_are_dropped():
    nb = good()
    secret = chapters.nbformat.v4.new_markdown_cell("Twice is adding it to itself.")
    nb.cells.insert(5, secret)
    text = all_text(editions.clear(nb))
    assert "adding it to itself" not in text
    assert "def twice(x):\n    # your code here\n    raise NotImplementedError()" in text
    assert "{exercise} Twice" in text and 'exercises.check("twice", twice)' in text
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
