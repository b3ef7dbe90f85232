"""Slides say what the chapters say, hold no answer, and load nothing but what lies beside them."""

import gzip
import re

import chapters
import nbformat
import pytest
import slides
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from storydiff_lite.show import figures

each_chapter = pytest.mark.parametrize("path", chapters.find([]), ids=lambda p: p.stem)


def deck_of(*cells):
    nb = nbformat.v4.new_notebook(cells=[new_markdown_cell("# A chapter"), *cells])
    return [c.source for c in slides.Deck(nb).cells]


def screen(source="x = 1", tags=(), **more):
    return new_code_cell(source, metadata={"tags": list(tags)}, **more)


@each_chapter
def test_deck_is_of_the_chapter_and_has_no_answer(path):
    nb = chapters.read(path)
    deck = slides.Deck(nb)
    text = "\n".join(c.source for c in deck.cells)
    assert deck.title == re.search(r"^# (.+)$", nb.cells[0].source, re.M)[1]
    assert text.count("## Takeaways") == 1 and len(deck.cells) >= 12
    assert text.count("<figure>") >= 2
    assert not re.search(r"BEGIN SOLUTION|exercises\.check|\{cite\}|```\{|:::\{|\]\((?:#|\d\d-)|<!--", text)
    kinds = [c.metadata.slideshow.slide_type for c in deck.cells]
    assert kinds[0] == "slide" and set(kinds) == {"slide", "subslide"}


@each_chapter
def test_deck_has_notes_for_the_speaker(path):
    """What to ask and what to point at, in sections that are there; no number that a record could change."""
    notes = slides.speaker_notes()[path.stem[:2]]
    deck = slides.Deck(chapters.read(path), notes)
    found = [c for c in deck.cells if c.metadata.slideshow.slide_type == "notes"]
    headings = {c.source.split("\n")[0].lstrip("# ") for c in deck.cells}
    assert set(notes) <= headings, "a note for a section that the deck does not have"
    assert len(found) == len(notes) >= 6 and deck.title in notes
    for cell in found:
        assert cell.source.startswith("**Ask:** ") and "\n\n**Point at:** " in cell.source
        assert not re.search(r"\d\.\d", cell.source)
    page = slides.page(deck.notebook())
    assert page.count('<aside class="notes">') == len(notes)


def test_every_chapter_has_notes_and_no_other():
    assert list(slides.speaker_notes()) == [path.stem[:2] for path in chapters.find([])]


@each_chapter
def test_page_asks_for_nothing_outside(path):
    page = slides.page(slides.Deck(chapters.read(path)).notebook())
    asked = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=\"([^\"]+)", page)
    assert {a for a in asked if not a.startswith("data:")} == {
        "vendor/reveal.js",
        "vendor/reveal.css",
        "vendor/deck.css",
        "vendor/mathjax/tex-chtml.js",
    }
    assert not re.search(r"(?:import|@import|url\()[^;]*https?:", page)
    assert all(re.search(r"\balt=(\"[^\"]|'[^'])", tag) for tag in re.findall(r"<img\b[^>]*>", page))


def test_most_decks_show_code():
    decks = [slides.Deck(chapters.read(path)) for path in chapters.find([])]
    with_code = sum(any("```python" in c.source for c in deck.cells) for deck in decks)
    assert with_code > len(decks) / 2


FIGURE = "<figure><img src='data:,' alt='a bear'></figure>"


def test_code_stands_on_a_slide_only_where_it_is_on_one_screen():
    code, folded, long = screen("shown = 1"), screen("hidden = 1", ["hide-input"]), screen("long = 1\n" * 40)
    head, more = new_markdown_cell("## The code, on one screen"), new_markdown_cell("## More")
    found = "".join(deck_of(head, code, folded, long, more, screen("shown = 1")))
    assert found.count("shown = 1") == 1 and "hidden" not in found and "long" not in found


def test_listings_are_as_large_as_a_slide_allows():
    wide, long = "x" * slides.COLUMNS, "x\n" * (slides.SCREEN - 1) + "x"
    assert slides.letters("short") == slides.LARGE
    assert slides.letters(wide) == slides.letters(long) == slides.SMALL
    assert slides.SMALL < slides.letters("x" * 90) < slides.LARGE
    code = screen("shown = 1")
    nb = nbformat.v4.new_notebook(cells=[new_markdown_cell("# A chapter\n\n## The code"), code])
    assert f"--letters: {slides.LARGE}px" in slides.page(slides.Deck(nb).notebook())


def test_pictures_and_short_tables_are_shown():
    picture = new_output("display_data", data={"text/html": FIGURE})
    table = new_output("stream", text="setting  mean\nrate 0   0.2\n")
    wide = new_output("stream", text=f"{'x' * 200}\n2\n")
    heading = new_markdown_cell("## A section\n\nIt begins. It goes on.")
    cells = [screen(tags=["hide-input"], outputs=[o]) for o in (picture, table, wide)]
    found = deck_of(heading, *cells)
    assert found[1].startswith("## A section") and "It begins. It goes on." in found[1]
    assert found[2].startswith("### A section") and FIGURE in found[2]
    assert "rate 0   0.2" in found[3] and len(found) == 4


def test_a_long_table_is_divided_evenly():
    """No row is lost, each part has the head, and the caption says which part it is."""
    rows = [[f"setting {k}", str(k)] for k in range(slides.NUMBERS + 2)]
    long = new_output("display_data", data={"text/html": figures.table_html(["setting", "x"], rows, "n = 9")})
    short = new_output("display_data", data={"text/html": figures.table_html(["setting", "x"], rows[:-2])})
    first, second, whole = deck_of(new_markdown_cell("## A table"), screen(outputs=[long, short]))[1:]
    assert "Part 1 of 2. n = 9" in first and "Part 2 of 2. n = 9" in second and "Part" not in whole
    assert first.count("<thead>") == second.count("<thead>") == 1
    assert re.findall(r"setting \d+", first + second) == [name for name, _ in rows]
    count = [s.count('scope="row"') for s in (first, second, whole)]
    assert max(count) == count[2] == slides.NUMBERS and abs(count[0] - count[1]) <= 1


def test_exercises_and_what_is_for_reading_are_left_out():
    ask = new_markdown_cell("## Exercises\n\n```{exercise} Twice\n:label: twice\n```")
    start = new_markdown_cell("```{solution-start} twice\n:class: dropdown\n```")
    answer = screen("secret = 1")
    end = new_markdown_cell("```{solution-end}\n```")
    last = new_markdown_cell("## Takeaways\n\n- One.\n- Two.\n")
    more = new_markdown_cell("## Appendix: more\n\nFor reading.")
    assert deck_of(ask, start, answer, end, last, more)[1:] == ["## Takeaways\n\n- One.\n- Two."]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("StoryDiffusion {cite}`storydiffusion` is", "StoryDiffusion is"),
        ("as it is ({cite}`cfg`, equation 6)", "as it is (equation 6)"),
        ("noise ({cite}`ddpm`).", "noise."),
        ('chapter [05](05-consistent-self-attention), "When"', 'chapter 05, "When"'),
        ("a {term}`latent <latents>` has", "a latent has"),
        ("before\n\n```{note}\nleft out\n```\n\nafter", "before\n\n\n\nafter"),
    ],
)
def test_what_only_the_book_can_follow_is_taken_out(text, shown):
    assert slides.plain(text) == shown


def test_a_beginning_is_whole_sentences():
    text = "One two three. Four five six. Seven eight."
    assert slides.beginning(text, 6) == "One two three. Four five six."
    assert slides.beginning(text, 1) == "One two three."


def test_another_reveal_is_refused(tmp_path, monkeypatch):
    (tmp_path / "reveal").mkdir()
    for name in slides.SUMS:
        (tmp_path / "reveal" / f"{name}.gz").write_bytes(gzip.compress(b"not it"))
    monkeypatch.setattr(slides, "HERE", tmp_path)
    with pytest.raises(SystemExit, match="expected [0-9a-f]{64}"):
        slides.vendor(tmp_path / "vendor")


def test_a_folder_with_something_else_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.setattr("sys.argv", ["slides.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no slides"):
        slides.main()
    assert (tmp_path / "mine.txt").read_text() == "mine"
