"""Sentences are short: readers learn the subject, and some of them English too."""

import json
import re
from pathlib import Path

import chapters
import pytest

ROOT = Path(__file__).parent.parent
LIMIT = 28  # words
#: what is no prose, in this order; a block of text ends where something of it stood
LEFT_OUT = [
    r"<!--.*?-->",
    r"^(`{3,}|:{3,}).*?^\1 *$",  # listings and directives, but for those of PROSE
    r"\$\$.*?\$\$",
    r"^ *(?:\||#|:[\w-]+:|\([\w-]+\)=).*?$",  # tables, headings, options, names of places
    r"^ *(?:[-*+>:]|\d+\.) +",  # marks of lists
]
PROSE = re.compile(r"^(`{3,})\{(?:admonition|note|figure|glossary)\}[^\n]*\n(.*?)^\1 *$", re.M | re.S)
#: roles, code and math count as a word each, citations as none, links as what they show
ONE_WORD = r"\{[\w:-]+\}`[^`]+`|`[^`]+`|\$[^$]+\$"
EXERCISE = re.compile(r"\{(?:exercise|solution-start|solution-end|hint)\}")


def sentences(page):
    """The sentences of a page of Markdown."""
    if ":sorted:" in page:  # a glossary: its terms stand at the margin
        page = re.sub(r"^[^\s`#].*$", "", page, flags=re.M)
    page = PROSE.sub(r"\n\2\n", page)
    for pattern in LEFT_OUT:
        page = re.sub(pattern, "" if pattern.startswith("<") else "\n\n", page, flags=re.M | re.S)
    page = re.sub(r"\{cite(?::\w)?\}`[^`]+`", "", page)
    page = re.sub(ONE_WORD, "Word", page)
    page = re.sub(r"\[([^\]]*)\]\([^)]*\)|<[^>]+>", r"\1", page)
    for block in re.split(r"\n\s*\n", page):
        yield from re.split(r"(?<=[.!?])[\"')*]*\s+(?=[\"'(*]*[A-Z0-9*])", " ".join(block.split()))


def words(sentence):
    return len(re.findall(r"[^\W_][\w'’.,-]*", sentence))


def prose():
    """Name of a page -> its texts; exercises, which list what goes in and comes out, are left out."""
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/**/*.ipynb")]:
        cells = [c.source for c in chapters.read(path).cells if c.cell_type == "markdown"]
        yield path, [source for source in cells if not EXERCISE.search(source)]
    for path in ROOT.glob("book/**/*.md"):
        yield path, [path.read_text(encoding="utf-8")]
    for path in ROOT.glob("book/quizzes/[0-9]*.json"):
        asked = json.loads(path.read_text(encoding="utf-8"))
        yield path, [text for q in asked for text in (q["question"], *(c["why"] for c in q["choices"]))]


PAGES = {str(path.relative_to(ROOT)): texts for path, texts in sorted(prose())}


@pytest.mark.parametrize("name", PAGES)
def test_no_sentence_is_too_long(name):
    found = [s for text in PAGES[name] for s in sentences(text) if words(s)]
    long = [f"{words(s)} words: {s}" for s in found if words(s) > LIMIT]
    assert found and not long, f"Split these, or say them in at most {LIMIT} words:\n" + "\n".join(long)


@pytest.mark.parametrize("path", [p for p in chapters.find([]) if p.name >= "07"], ids=lambda p: p.stem)
def test_no_sentence_of_an_exercise_is_too_long(path):
    """In chapters 07 to 12; those before still say in one sentence what goes in and what comes out."""
    cells = [c.source for c in chapters.read(path).cells if c.cell_type == "markdown"]
    asked = [re.sub(r"^```.*$", "", text, flags=re.M) for text in cells if "{exercise}" in text]
    found = [s for text in asked for s in sentences(text)]
    long = [f"{words(s)} words: {s}" for s in found if words(s) > LIMIT]
    assert found and not long, f"Split these, or say them in at most {LIMIT} words:\n" + "\n".join(long)


def test_what_counts_as_a_sentence():
    page = """# A heading of words that do not count

```python
one two three four
```
```{note}
:class: warning
Two words. $a + b + c$ is `some code here`
and [a link](to/a-long-path), {cite}`nobody`.
```
| a | row | of | a | table |

- An item of a list
- *another* one. Then more.
"""
    assert [words(s) for s in sentences(page) if words(s)] == [2, 6, 5, 2, 2]


#: a list as Markdown numbers it: only the first number counts, the others follow it
NUMBERED = re.compile(r"(?:^\d+\. .*\n?(?:(?:[ \t].*)?\n?(?=[ \t]|\d+\. ))*)+", re.M)


def numbers_of_lists(page):
    """The numbers that each numbered list of a page is written with."""
    page = re.sub(r"^(`{3,})(?!\{).*?^\1 *$", "", page, flags=re.M | re.S)  # listings
    return [[int(n) for n in re.findall(r"^(\d+)\. ", found[0], re.M)] for found in NUMBERED.finditer(page)]


def markdown():
    """Every Markdown cell and page, exercises too."""
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/**/*.ipynb")]:
        for cell in chapters.read(path).cells:
            if cell.cell_type == "markdown":
                yield f"{path.name} {cell.id}", cell.source
    for path in ROOT.glob("book/**/*.md"):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_numbered_lists_are_shown_as_they_are_written():
    found = [(name, numbers) for name, page in markdown() for numbers in numbers_of_lists(page)]
    wrong = [(name, n) for name, n in found if n != list(range(n[0], n[0] + len(n)))]
    assert found and not wrong, f"Markdown counts on from the first number: {wrong}"


def test_what_counts_as_a_numbered_list():
    page = "1. and 2. two things;\n   on two lines\n3. another one.\n\nText.\n\n1. one\n2. two\n"
    assert numbers_of_lists(page) == [[1, 3], [1, 2]]
