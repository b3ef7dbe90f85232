"""Render each chapter from its executed copy, under the chapter's own address.

Chapters are run by papermill into a folder of their own (`make notebooks`); what is committed in notebooks/
stays untouched. When Sphinx reads notebooks/NN-name.ipynb it gets the executed copy instead.

A long chapter ends in sections whose titles begin with "Appendix". In the notebook they stay, so that their
code runs with the chapter's; on the site they are a page of their own, book/appendix/NN.ipynb, where that
file stands in the table of contents. Links between the two are led to the other page.
"""

import json
import os
import re
import textwrap
from pathlib import Path

from sphinx.util import logging

log = logging.getLogger(__name__)

# Marks for nbgrader and for the student edition: of no use to a reader.
MARK = re.compile(r"^[ \t]*### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)[^\n]*\n?", re.M)

#: what a page of 1280 pixels shows of a printed line (book.css: outputs)
COLUMNS = 95


def executed_folder(app) -> Path:
    return Path(app.srcdir, os.environ.get("STORYDIFF_EXECUTED", "_build/executed"))


def wrapped(text: str) -> str:
    """Printed text with long sentences broken as a terminal would; lines of a table stay whole.

    A line is of a table when blanks follow each other behind its indent.
    """
    lines = []
    for line in text.split("\n"):
        if len(line) > COLUMNS and "  " not in line.strip():
            indent = line[: len(line) - len(line.lstrip())] + "  "
            parts = textwrap.wrap(line, COLUMNS, subsequent_indent=indent, break_on_hyphens=False)
            line = "\n".join(parts)
        lines.append(line)
    return "\n".join(lines)


APPENDIX = "book/appendix/"
HEADING = re.compile(r"^#{1,3} (.+)$", re.M)
LABEL = re.compile(r"^\(([\w-]+)\)=\n+#{1,3} (.+)$", re.M)
CONTINUES = (
    "The code of this page is the last part of the notebook of chapter [{number}]({chapter}), and goes on "
    "from what that chapter has computed."
)


def slug(title: str) -> str:
    """A heading's anchor, as MyST makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def anchors(cells: list[dict]) -> dict[str, str]:
    """What a link may name in these cells -> the anchor of the heading there."""
    text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return {slug(t): slug(t) for t in HEADING.findall(text)} | {n: slug(t) for n, t in LABEL.findall(text)}


def lead(cells: list[dict], to: dict[str, str], page: str) -> None:
    """Lead links to anchors in `to` to that page; labels are no longer needed."""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            text = re.sub(
                r"\]\(#([\w-]+)\)",
                lambda m: f"]({page}#{to[m[1]]})" if m[1] in to else m[0],
                "".join(cell["source"]),
            )
            cell["source"] = text


def apart(nb: dict, stem: str) -> tuple[dict, dict]:
    """A chapter without its appendix, which it links, and the appendix as a page.

    Raises
    ------
    ValueError
        The chapter has no cell that begins with a heading "Appendix".
    """
    starts = [i for i, c in enumerate(nb["cells"]) if "".join(c["source"]).startswith("## Appendix")]
    if not starts:
        raise ValueError(f"{stem} has no cell that begins with '## Appendix': take its page out of _toc.yml.")
    cells, more = nb["cells"][: starts[0]], nb["cells"][starts[0] :]
    number, chapter = stem[:2], f"../../notebooks/{stem}.ipynb"
    title = re.search(r"^# (.+)$", "".join(cells[0]["source"]), re.M)[1]
    lead(cells, anchors(more), f"../{APPENDIX}{number}.ipynb")
    lead(more, anchors(cells), chapter)
    prose = [c for c in more if c["cell_type"] == "markdown"]
    for cell in prose:
        text = LABEL.sub(lambda m: m[0].split("\n", 1)[1].lstrip("\n"), cell["source"])
        text = re.sub(r"\]\((\d\d-[\w-]+)(?:\.ipynb)?\)", r"](../../notebooks/\1.ipynb)", text)
        cell["source"] = re.sub(r"^## Appendix$", "", text, flags=re.M)
    if not any(re.search(r"^## ", c["source"], re.M) for c in prose):  # no gap between levels
        for cell in prose:
            cell["source"] = re.sub(r"^###", "##", cell["source"], flags=re.M)
    above = f"# Appendix of chapter {number}: {title[0].lower()}{title[1:]}\n\n"
    above += CONTINUES.format(number=number, chapter=chapter)
    below = f"## Appendix\n\nIt has [a page of its own](../{APPENDIX}{number}.ipynb): "
    below += "; ".join(t for c in prose for t in HEADING.findall(c["source"])) + "."
    new = {"cell_type": "markdown", "metadata": {}}
    first = {**new, "id": f"appendix-{number}-first", "source": above}
    last = {**new, "id": f"appendix-{number}-link", "source": below}
    return {**nb, "cells": [*cells, last]}, {**nb, "cells": [first, *more]}


def show(nb: dict) -> dict:
    """The notebook as a reader should see it."""
    for cell in nb["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        cell["source"] = MARK.sub("", cell["source"]).rstrip("\n")
        for out in cell.get("outputs", []):
            if out["output_type"] == "stream":
                out["text"] = wrapped("".join(out["text"]))
        cell_tags = cell["metadata"].setdefault("tags", [])
        if "injected-parameters" in cell_tags and "remove-cell" not in cell_tags:
            cell_tags.append("remove-cell")  # papermill's own cell
    return nb


def swap(app, docname: str, source: list[str]) -> None:
    of_appendix = docname.startswith(APPENDIX)
    if not docname.startswith("notebooks/") and not of_appendix:
        return
    name = Path(docname).name
    found = sorted(executed_folder(app).glob(f"{name}-*.ipynb" if of_appendix else f"{name}.ipynb"))
    if not found:
        folder = executed_folder(app)
        log.warning("no executed copy of %s in %s. Run `make notebooks` first.", docname, folder)
        return
    nb = show(json.loads(found[0].read_text(encoding="utf8")))
    stem = found[0].stem
    if f"{APPENDIX}{stem[:2]}" in app.env.found_docs:
        nb = apart(nb, stem)[of_appendix]
    source[0] = json.dumps(nb)
    app.env.note_dependency(str(found[0]))


def setup(app):
    app.connect("source-read", swap)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
