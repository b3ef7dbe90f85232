"""The chapters as committed: run, free of errors, with their exercises in order."""

import re

import chapters
import check_notebooks
import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

PATHS = sorted(chapters.NOTEBOOKS.glob("*.ipynb"))
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
    exercises = [f for c in nb.cells for f in chapters.fences(c) if f == "exercise"]
    checked = {n for c in nb.cells for n in chapters.checks(c)}
    assert len(exercises) >= 3
    assert len(checked) >= len(exercises)


# ------------------------------------------------------------- does the checker see what it should see?
def good():
    """The smallest notebook that the checker accepts."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    first = new_code_cell('PROFILE = "cpu"\nSEED = 0\nDEVICE = "cpu"', metadata={"tags": ["parameters"]})
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
    "open answer": (lambda nb: nb.cells.pop(3), "outside {solution-start}"),
    "not folded": (lambda nb: nb.cells[3].update(source="```{solution-start} twice\n```"), "would lie open"),
    "never closed": (lambda nb: nb.cells.pop(5), "no {solution-end}"),
    "half a mark": (
        lambda nb: nb.cells[4].update(source="def twice(x):\n    ### BEGIN SOLUTION\n    return 2 * x"),
        "do not pair up",
    ),
    "no check": (lambda nb: nb.cells.pop(6), "no cell calls exercises.check"),
    "other kernel": (lambda nb: nb.metadata.kernelspec.update(name="conda"), "kernel python3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_checker_names_the_mistake(name, tmp_path):
    nb = good()
    spoil, said = MISTAKES[name]
    spoil(nb)
    assert said in findings(nb, tmp_path)


def test_checker_refuses_what_is_no_notebook(tmp_path):
    path = tmp_path / "00-a-chapter.ipynb"
    path.write_text("{}")
    assert "not a readable notebook" in " ".join(check_notebooks.check(path))
