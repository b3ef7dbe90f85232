"""Slides of every chapter, made from the chapters as committed: `slides.py [FOLDER] [--chapter 00 ...]`.

No cell is marked for it; rules choose what is shown. Each section gives a slide with its heading, how it
begins (with the list that this announces) and its equations, a slide for each of its pictures, listings and
tables (a long one is divided), and, where a heading names the code, what of it fits on a screen. A quiz is a
slide whose answers unfold; what is live on the site is named. Exercises, appendices, and the sections of
`SKIPPED`, are left out. `slides/notes.md` has notes for the speaker, for a section by its heading: what to
ask, and what to point at. nbconvert makes the pages; everything that they load lies beside
them, so they work from a folder, with no network.
"""

import argparse
import gzip
import hashlib
import html
import re
import shutil
import sys
import tempfile
from pathlib import Path

import chapters
import nbformat
from check_notebooks import FOLDED, SCREEN

HERE = Path(__file__).resolve().parent / "slides"
MATHJAX = chapters.ROOT / "book" / "assets" / "vendor" / "mathjax"
#: SHA-256 of what is unpacked (npm: reveal.js 5.2.1)
SUMS = {
    "reveal.js": "46538b52db48724192f59bf46f5e851a18e302777c46f4a34c32709d010d6a29",
    "reveal.css": "68f915a11ebf7203c0446576b7e952ff61c5dd02134a8a226ffaf62ed42136d2",
}
#: sections that are for reading, not for showing
SKIPPED = ("Exercises", "Further reading", "When something is wrong")
WORDS = 60  # of a section's beginning
ROWS, COLUMNS = 18, 118  # of a printed table
CELLS = 10  # lines of a Markdown table
NUMBERS = 13  # rows of a table of numbers; a longer one is divided evenly
ITEMS, ITEM = 7, 25  # of a list, and words of each
WIDTH, HEIGHT = 1080, 590  # pixels that a listing may take of a slide of 1120 x 700
SMALL, LARGE = 15, 24  # pixels of its letters

HEADING = re.compile(r"^(#{1,3}) (.+)$", re.M)
EQUATION = re.compile(r"^\$\$.*?\$\$$", re.M | re.S)
DIRECTIVE = re.compile(r"^(`{3,}|:{3,})\{.*?^\1[ \t]*$", re.M | re.S)
LISTING = re.compile(r"^(`{3,}|~{3,})(\w*)\n(.*?)\n\1[ \t]*$", re.M | re.S)
ITEMIZED = re.compile(r"^(?:-|\d+\.) (.*?)(?=^(?:-|\d+\.) |\Z)", re.M | re.S)
LEARN = re.compile(r"\*\*You will learn\*\* (.*?)(?=^- |^```)", re.M | re.S)
CODE = re.compile(r"^The code\b|on one screen$|from scratch$")
FIGURE = re.compile(r"<figure>.*?</figure>", re.S)
TABLE = re.compile(r'<table class="numbers".*?</table>', re.S)
MACHINE, WIDGET = "```{story-machine}", "storydiff_lite.show.widgets."
LIVE = "*Show it live: open this section on the site of the book.*"


def plain(text: str) -> str:
    """Markdown without what only the book can follow: citations, roles, links, directives, comments."""
    text = DIRECTIVE.sub("", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"^\([\w-]+\)=$", "", text, flags=re.M)
    text = re.sub(r"\s*\(\{cite\}`[^`]*`\)|\{cite\}`[^`]*`,? ?", "", text)
    text = re.sub(r"\{[a-z]+\}`([^`<]+?)(?: *<[^>]*>)?`", r"\1", text)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\n? +([.,;:)])", r"\1", text).strip()


def beginning(text: str, words: int = WORDS) -> str:
    """The first sentences of a paragraph, at least one, in so many words."""
    kept = []
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z*`(])", " ".join(text.split())):
        if kept and len(" ".join([*kept, sentence]).split()) > words:
            break
        kept.append(sentence)
    return " ".join(kept)


def blocks(text: str) -> list[str]:
    """Of a section's text its beginning, a table and its equations; where it has none, its list."""
    shown = EQUATION.findall(text)
    parts = [p for p in re.split(r"\n\s*\n", EQUATION.sub("\n\n", text)) if p.strip()]
    tables = [p for p in parts if p.lstrip().startswith("|") and p.count("\n") < CELLS]
    prose = [p for p in parts if not re.match(r"\s*([|>-]|\*\s|\d+\.|```)", p)]
    begins = [beginning(p) for p in prose[:1]]
    after = parts[parts.index(prose[0]) + 1 :] if begins else parts
    announced = begins and begins[0].endswith(":") and after and ITEMIZED.match(after[0].lstrip())
    shown = begins + (items(after[0]) if announced else []) + tables[:1] + shown
    return shown or items(text)


def items(text: str) -> list[str]:
    """How each item of a list begins, as one list; nothing where there is none."""
    found = [beginning(item, ITEM) for item in ITEMIZED.findall(text)[:ITEMS]]
    return ["\n".join(f"- {item}" for item in found)] * bool(found)


def parts(table: str) -> list[str]:
    """A table of numbers as tables of at most `NUMBERS` rows; the captions say which part each is."""
    head, body = table.split("<tbody>")
    rows = re.findall(r"<tr>.*?</tr>", body, re.S)
    count = -(-len(rows) // NUMBERS)
    each = -(-len(rows) // max(count, 1))
    if count < 2:
        return [table]
    if "<caption>" not in head:
        head = head.replace("<thead>", "<caption></caption><thead>")
    return [
        head.replace("<caption>", f"<caption>Part {k + 1} of {count}. ")
        + f"<tbody>{''.join(rows[k * each : (k + 1) * each])}</tbody></table>"
        for k in range(count)
    ]


def speaker_notes() -> dict[str, dict[str, str]]:
    """Number of a chapter -> heading of a section -> Markdown of its note."""
    found = {}
    for chapter in re.split(r"^# ", (HERE / "notes.md").read_text(encoding="utf-8"), flags=re.M)[1:]:
        number, rest = chapter.split("\n", 1)
        pairs = re.findall(r"^## ([^\n]+)\n(.+?)(?=^## |\Z)", rest, re.M | re.S)
        found[number] = {
            heading: re.sub(r"^(Ask|Point at):", r"\n**\1:**", text, flags=re.M).strip()
            for heading, text in pairs
        }
    return found


def letters(listing: str) -> int:
    """Pixels of a listing's letters: as large as its slide allows."""
    lines = listing.split("\n")
    fits = min(WIDTH / 0.61 / max(map(len, lines)), HEIGHT / 1.25 / len(lines))
    return int(max(SMALL, min(LARGE, fits)))


class Deck:
    """The slides of one chapter; `notes`: heading -> what the speaker reads there."""

    def __init__(self, nb, notes=None):
        self.cells, self.title, self.section, self.notes = [], "", "", notes or {}
        self.skipping = self.code = self.begun = False
        inside = False  # of an answer
        for cell in nb.cells:
            fences = chapters.fences(cell)
            inside = "solution-start" in fences or (inside and "solution-end" not in fences)
            if fences or inside or chapters.checks(cell):
                continue
            (self.text if cell.cell_type == "markdown" else self.run)(cell)

    def add(self, text: str, kind: str, **metadata) -> None:
        cell = nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}, **metadata})
        cell.id = f"slide-{len(self.cells)}"
        self.cells.append(cell)
        if kind == "slide" and self.section in self.notes:
            self.add(self.notes[self.section], "notes")

    def more(self, text: str, **metadata) -> None:
        """A slide below the section's first one, or that one."""
        level, kind = ("###", "subslide") if self.begun else ("##", "slide")
        self.add(f"{level} {self.section}\n\n{text}", kind, **metadata)
        self.begun = True

    def listing(self, language: str, text: str) -> None:
        self.more(f"```{language}\n{text}\n```", letters=letters(text))

    def text(self, cell) -> None:
        quizzes = chapters.extension("quizzes")
        if asked := quizzes.FENCE.search(cell.source):
            if not self.skipping:
                self.more(quizzes.as_markdown(quizzes.find(asked[1])))
            return
        # a comment in a listing is no heading: listings stand aside while headings are looked for
        kept = {f"@listing-{k}@": m for k, m in enumerate(LISTING.finditer(cell.source))}
        names = iter(kept)
        pieces = HEADING.split(LISTING.sub(lambda _: next(names), cell.source))
        if not self.skipping:
            if equations := EQUATION.findall(plain(pieces[0])):
                self.more("\n\n".join(equations))
            self.listings(pieces[0], kept)
        for level, heading, body in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
            self.head(level, plain(heading), body, kept)

    def listings(self, text: str, kept: dict) -> None:
        """Those of a text that fit on a slide."""
        for name in re.findall(r"@listing-\d+@", text):
            language, code = kept[name][2] or "text", kept[name][3]
            if code.count("\n") < SCREEN and max(map(len, code.split("\n"))) <= COLUMNS:
                self.listing(language, code)

    def head(self, level: str, heading: str, body: str, kept: dict) -> None:
        if level == "#":
            self.title = self.section = heading
            learn = LEARN.search(body)
            self.add(f"# {heading}\n\n" + (f"You will learn {plain(learn[1])}" if learn else ""), "slide")
            self.begun = True
            return
        if level == "##" or not self.skipping:
            self.skipping = heading in SKIPPED or heading.startswith("Appendix")
            self.section, self.code = heading, bool(CODE.search(heading))
        if self.skipping:
            return
        self.begun = False
        text = re.sub(r"^@listing-\d+@$", "", body, flags=re.M)
        shown = [plain(text)] if heading == "Takeaways" else blocks(plain(text))
        shown += [LIVE] * (MACHINE in body)
        if body.lstrip().startswith("@listing-"):  # the section is about it
            self.listings(body, kept)
        if shown:
            self.more("\n\n".join(shown))
        if not body.lstrip().startswith("@listing-"):
            self.listings(body, kept)

    def live(self) -> None:
        """Say below the last slide's text that what stands here moves."""
        shown = [c for c in self.cells if c.metadata.slideshow.slide_type != "notes"]
        if LIVE not in shown[-1].source:
            shown[-1].source += f"\n\n{LIVE}"

    def run(self, cell) -> None:
        """Pictures and tables that a code cell gave, the code of a screen, and what is live."""
        if self.skipping or not self.title:
            return
        hidden = FOLDED & set(chapters.tags(cell))
        if self.code and not hidden and cell.source.count("\n") < SCREEN:
            self.listing("python", cell.source)
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            if WIDGET in str(data.get("text/plain", "")):
                self.live()
            page = str(data.get("text/html", ""))
            for figure in FIGURE.findall(page):
                self.more(" ".join(figure.split()))  # an empty line would end it
            for table in TABLE.findall(page):
                for part in parts(" ".join(table.split())):
                    self.more(part)
        printed = "".join(o.text for o in cell.outputs if o.output_type == "stream").rstrip()
        lines = printed.split("\n")
        if hidden and 1 < len(lines) <= ROWS and max(map(len, lines)) <= COLUMNS:
            self.listing("text", printed)

    def notebook(self):
        nb = nbformat.v4.new_notebook(cells=self.cells)
        nb.metadata["title"] = self.title
        return nb


def page(nb) -> str:
    """A deck as HTML."""
    from nbconvert.exporters import SlidesExporter

    exporter = SlidesExporter(template_name="slides", extra_template_basedirs=[str(HERE.parent)])
    return exporter.from_notebook_node(nb)[0]


def vendor(folder: Path) -> None:
    """What the pages load, beside them."""
    folder.mkdir(parents=True)
    for name, wanted in SUMS.items():
        data = gzip.decompress((HERE / "reveal" / f"{name}.gz").read_bytes())
        found = hashlib.sha256(data).hexdigest()
        if found != wanted:
            sys.exit(f"{name}.gz of tools/slides/reveal has the SHA-256 {found}; expected {wanted}.")
        (folder / name).write_bytes(data)
    shutil.copy(HERE / "deck.css", folder)
    shutil.copytree(MATHJAX, folder / "mathjax", ignore=shutil.ignore_patterns("*.gz"))
    for packed in MATHJAX.glob("*.gz"):
        (folder / "mathjax" / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))


def contents(decks: dict[str, str]) -> str:
    """The page that lists all decks: file name -> title."""
    items = "\n".join(
        f'<li><a href="{name}">{name[:2]} {html.escape(title)}</a> '
        f'(<a href="{name}?showNotes=true" aria-label="{name[:2]} {html.escape(title)}, with notes">'
        "with notes</a>)</li>"
        for name, title in decks.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Slides</title>'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="vendor/deck.css"></head>\n'
        "<body><main><h1>Slides</h1>\n<p>In a deck, S shows and hides the notes for the speaker.</p>\n"
        f"<ul>\n{items}\n</ul></main></body></html>\n"
    )


def make(folder: Path, names: list[str]) -> dict[str, str]:
    """Write the decks beside their place first: a failure leaves what was there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as tmp:
        into, decks, notes = Path(tmp, "slides"), {}, speaker_notes()
        vendor(into / "vendor")
        for path in chapters.find(names):
            deck = Deck(chapters.read(path), notes.get(path.stem[:2]))
            decks[f"{path.stem}.html"] = deck.title
            Path(into, f"{path.stem}.html").write_text(page(deck.notebook()), encoding="utf-8")
        Path(into, "index.html").write_text(contents(decks), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        into.rename(folder)
    return decks


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder", nargs="?", type=Path, default=chapters.ROOT / "_build" / "slides")
    p.add_argument("--chapter", nargs="*", default=[], help="begin of a chapter's file name, such as 00")
    args = p.parse_args()
    if args.folder.exists() and not (args.folder / "vendor" / "reveal.js").is_file():
        sys.exit(f"{args.folder} is there and holds no slides: name another folder, or move it away.")
    decks = make(args.folder, args.chapter)
    print(f"{len(decks)} decks: open {(args.folder / 'index.html').resolve()}")


if __name__ == "__main__":
    main()
