"""book/_ext/executed_notebooks.py: what a reader sees of a chapter, and its appendix on a page of its own."""

import re

import chapters
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

executed = chapters.extension("executed_notebooks")


def sources(nb):
    return [cell["source"] for cell in nb["cells"]]


def test_long_sentences_of_outputs_are_broken_and_tables_are_not():
    table = "rate 0.5  " + "0.123  " * 20
    sentence = "  a mean of many stories: " + "0.12, " * 30
    found = executed.wrapped(f"{table}\n{sentence}\nshort\n").split("\n")
    assert found[0] == table and found[-2:] == ["short", ""]
    broken = found[1:-2]
    assert len(broken) > 1 and max(map(len, broken)) <= executed.COLUMNS
    assert broken[0].startswith("  a mean") and all(line.startswith("    0") for line in broken[1:])
    assert " ".join(" ".join(broken).split()) == " ".join(sentence.split()), "no word is lost"


def test_a_cell_that_fills_lines_fills_what_the_page_shows():
    """`textwrap.fill(text, 96)` made lines that the page broke once more, after a word."""
    filled = [
        (path.name, int(width))
        for path in chapters.find([])
        for cell in chapters.read(path).cells
        for width in re.findall(r"textwrap\.fill\(.+?, (\d+)\)", cell.source)
    ]
    assert filled and max(width for _, width in filled) <= executed.COLUMNS, filled


def test_marks_of_the_editions_are_taken_out():
    cell = new_code_cell("def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION")
    cell.outputs = [new_output("stream", text="a " * 100)]
    shown = executed.show(new_notebook(cells=[cell]))["cells"][0]
    assert shown["source"] == "def f():\n    return 1"
    assert "\n" in shown["outputs"][0]["text"]


def chapter(*appendix):
    begin = "# A Chapter\n\nSee [the appendix](#own), [more](#more), [above](#first)."
    return new_notebook(
        cells=[
            new_markdown_cell(begin),
            new_markdown_cell("## First\n\n..."),
            *map(new_markdown_cell, appendix),
        ]
    )


def test_an_appendix_becomes_a_page_and_links_follow():
    more = (
        "## Appendix\n\nFolded.\n\n(own)=\n### Own tokens?\n\nAs [first](#first), chapter [03](03-id-fusion)."
    )
    rest, page = executed.apart(chapter(more, "### More"), "05-a-chapter")
    assert "[the appendix](../book/appendix/05.ipynb#own-tokens)" in sources(rest)[0]
    assert "[more](../book/appendix/05.ipynb#more), [above](#first)" in sources(rest)[0]
    assert len(rest["cells"]) == 3
    assert sources(rest)[-1].startswith("## Appendix") and "Own tokens?; More." in sources(rest)[-1]
    first, own, last = sources(page)
    assert first.startswith("# Appendix of chapter 05: a Chapter\n")
    assert "## Own tokens?" in own and "(own)=" not in own and "Appendix\n" not in own and last == "## More"
    assert "[first](../../notebooks/05-a-chapter.ipynb#first)" in own
    assert "[03](../../notebooks/03-id-fusion.ipynb)" in own


def test_titled_appendices_stay_sections():
    _, page = executed.apart(chapter("## Appendix: one", "## Appendix: two\n\n### A part"), "09-a-chapter")
    assert sources(page)[1:] == ["## Appendix: one", "## Appendix: two\n\n### A part"]


def test_a_page_without_an_appendix_is_told():
    with pytest.raises(ValueError, match="_toc.yml"):
        executed.apart(chapter(), "05-a-chapter")


@pytest.mark.parametrize(
    "path", sorted((chapters.ROOT / "book/appendix").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_pages_of_appendices_are_of_chapters_that_have_one(path):
    [of] = chapters.find([path.stem])
    nb = executed.show(chapters.read(of))
    rest, page = executed.apart(nb, of.stem)
    assert sum(c["cell_type"] == "code" for c in page["cells"]) >= 3
    assert len(rest["cells"]) + len(page["cells"]) == len(nb["cells"]) + 2
    own = chapters.read(path)
    assert of.name in own.cells[0].source and all(c.cell_type == "markdown" for c in own.cells)
    assert f"book/appendix/{path.stem}\n" in (chapters.ROOT / "_toc.yml").read_text()


@pytest.mark.parametrize("path", chapters.find([]), ids=lambda p: p.stem)
def test_the_sidebar_says_the_number_of_a_chapter(path):
    """The text speaks of "chapter 05"; the heading of a chapter has no number."""
    heading = chapters.read(path).cells[0].source.splitlines()[0].removeprefix("# ")
    entry = f"- file: notebooks/{path.stem}\n        title: {path.stem[:2]} {heading}\n"
    assert entry in (chapters.ROOT / "_toc.yml").read_text()
