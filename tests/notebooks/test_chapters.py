"""The chapters as committed: run, free of errors, with their exercises in order."""

import re

import chapters
import check_notebooks
import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from storydiff_lite import exercises

PATHS = sorted(chapters.NOTEBOOKS.glob("*.ipynb"))
HANDED_IN = re.compile(r'exercises\.check\(\s*"([\w-]+)", (\w+)((?:, \w+)*)\s*\)')
each_chapter = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)


def test_there_are_chapters():
    assert PATHS, "no notebooks: every other check here would pass for nothing"


def test_table_of_contents_lists_every_chapter():
    toc = yaml.safe_load((chapters.ROOT / "_toc.yml").read_text())
    listed = re.findall(r"'file': 'notebooks/([^']+)'", str(toc))
    assert listed == [p.stem for p in PATHS]


@each_chapter
def test_chapter_is_in_order(path):
    assert check_notebooks.check(path) == []


@each_chapter
def test_chapter_has_three_exercises_with_checks(path):
    nb = chapters.read(path)
    asked = [f for c in nb.cells for f in chapters.fences(c) if f == "exercise"]
    checked = {n for c in nb.cells for n in chapters.checks(c)}
    assert len(asked) >= 3
    assert len(checked) >= len(asked)


@each_chapter
def test_every_exercise_says_what_it_asks_for_and_what_it_brings(path):
    points = 0
    for cell in chapters.read(path).cells:
        for label in chapters.LABEL.findall(cell.source):
            assert label[1:4] in (("easy", "5", "1"), ("medium", "10", "2"), ("hard", "20", "3"))
            points = int(label[3])
        assert chapters.fences(cell).count("exercise") == len(chapters.LABEL.findall(cell.source))
        assert cell.metadata.get("nbgrader", {}).get("points", points) == points, "run `make refresh`"


@each_chapter
def test_every_chapter_has_something_to_mend_or_to_plan(path):
    labels = [label for c in chapters.read(path).cells for label in chapters.LABEL.findall(c.source)]
    assert {"Debug", "Design"} & {kind for kind, *_ in labels}


@each_chapter
def test_what_an_exercise_builds_on_is_said_and_handed_in(path):
    """Heading line, checker and the cell of the check name the same earlier exercises, in one order."""
    nb, there = chapters.read(path), exercises.load_all()
    said, before = chapters.builds_on(nb), []
    for name, earlier in said.items():
        assert earlier == list(there[name].builds_on), name
        assert set(earlier) <= set(before), f"{name} builds on what comes later"
        before.append(name)
    answers = {}
    for cell in nb.cells:
        for name, own, more in HANDED_IN.findall(cell.source if cell.cell_type == "code" else ""):
            answers[name] = own
            assert more.split(", ")[1:] == [answers[e] for e in said[name]], name
    assert set(answers) == set(said), "a check that is written in another way"


# ------------------------------------------------------------- does the checker see what it should see?
def good():
    """The smallest notebook that the checker accepts."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    parameters = (
        'PROFILE = os.environ.get("STORYDIFF_PROFILE", "cpu")\nSEED = 0\n'
        'DEVICE = os.environ.get("STORYDIFF_DEVICE", "cpu")'
    )
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    shown = new_code_cell("print(1)", outputs=[new_output("stream", text="1\n")])
    ask = new_markdown_cell("```{exercise} Twice\n:label: twice\n```")
    start = new_markdown_cell("```{solution-start} twice\n:class: dropdown\n```")
    solve = new_code_cell("def twice(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION")
    end = new_markdown_cell("```{solution-end}\n```")
    test = new_code_cell('exercises.check("twice", twice)')
    nb = new_notebook(cells=[first, shown, ask, start, solve, end, test], metadata=metadata)
    for i, c in enumerate(chapters.code_cells(nb)):
        c.execution_count = i
    return nb


def findings(nb, tmp_path):
    path = tmp_path / "00-a-chapter.ipynb"
    nbformat.write(nb, path)
    return " ".join(check_notebooks.check(path))


def test_good_notebook_passes(tmp_path):
    assert findings(good(), tmp_path) == ""


PICTURE = {"image/png": "aGVsbG8="}
MISTAKES = {
    "untagged": (lambda nb: nb.cells[0].metadata.clear(), "not tagged `parameters`"),
    "no seed": (lambda nb: nb.cells[0].update(source='PROFILE = DEVICE = "cpu"'), "does not set SEED"),
    "deaf to the device": (
        lambda nb: nb.cells[0].update(source=nb.cells[0].source.replace("STORYDIFF_DEVICE", "X")),
        "from STORYDIFF_DEVICE",
    ),
    "not run": (lambda nb: nb.cells[1].update(execution_count=None), "were not run"),
    "no outputs": (lambda nb: nb.cells[1].update(outputs=[]), "no cell has an output"),
    "stderr": (lambda nb: nb.cells[1].outputs[0].update(name="stderr"), "prints to stderr"),
    "error": (
        lambda nb: nb.cells[1].update(outputs=[new_output("error", ename="E", evalue="bad", traceback=[])]),
        "ends in an error",
    ),
    "bare picture": (
        lambda nb: nb.cells[1].outputs.append(new_output("display_data", data=PICTURE)),
        "without alt text",
    ),
    "mute picture": (
        lambda nb: nb.cells[1].outputs.append(new_output("display_data", data={"text/html": '<img alt="">'})),
        "without alt text",
    ),
    "machine path": (lambda nb: nb.cells[1].outputs[0].update(text="/home/me/book\n"), "path of one machine"),
    "another's warning": (
        lambda nb: nb.cells[1].outputs[0].update(text="__array__ must implement 'copy'\n"),
        "another library's warning",
    ),
    "open answer": (lambda nb: nb.cells.pop(3), "outside {solution-start}"),
    "not folded": (lambda nb: nb.cells[3].update(source="```{solution-start} twice\n```"), "would lie open"),
    "never closed": (lambda nb: nb.cells.pop(5), "no {solution-end}"),
    "half a mark": (
        lambda nb: nb.cells[4].update(source="def twice(x):\n    ### BEGIN SOLUTION\n    return 2 * x"),
        "do not pair up",
    ),
    "no check": (lambda nb: nb.cells.pop(6), "no cell calls exercises.check"),
    "long line": (lambda nb: nb.cells[1].update(source="x = 1  # " + 74 * "x"), "more than 82 columns"),
    "long line of a string": (
        lambda nb: nb.cells[1].update(source=f'print("""\n{83 * "x"}\n""")'),
        "shows 1 lines of more than 82 columns",
    ),
    "more than a screen": (
        lambda nb: (
            nb.cells.insert(1, new_markdown_cell("## The code, on one screen"))
            or nb.cells[2].update(source="x = 1\n" * 36)
        ),
        "its heading says one screen",
    ),
    "other kernel": (lambda nb: nb.metadata.kernelspec.update(name="conda"), "kernel python3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_checker_names_the_mistake(name, tmp_path):
    nb = good()
    spoil, said = MISTAKES[name]
    spoil(nb)
    assert said in findings(nb, tmp_path)


@pytest.mark.parametrize("tag", sorted(check_notebooks.FOLDED))
def test_folded_code_may_be_long_and_wide(tag, tmp_path):
    nb = good()
    nb.cells[1].update(source="x = 1  # " + 74 * "x" + 36 * "\n", metadata={"tags": [tag]})
    nb.cells.insert(1, new_markdown_cell("## The code, on one screen"))
    assert findings(nb, tmp_path) == ""


def test_what_fits_passes(tmp_path):
    nb = good()
    nb.cells[1].update(source="x = 1  # " + 73 * "x" + 34 * "\nx = 1")
    nb.cells.insert(1, new_markdown_cell("## The code, on one screen"))
    nb.cells.insert(3, new_markdown_cell("## More"))
    nb.cells.insert(4, new_code_cell("x = 1\n" * 40, execution_count=9))
    assert findings(nb, tmp_path) == ""


def test_checker_refuses_what_is_no_notebook(tmp_path):
    path = tmp_path / "00-a-chapter.ipynb"
    path.write_text("{}")
    assert "not a readable notebook" in " ".join(check_notebooks.check(path))
