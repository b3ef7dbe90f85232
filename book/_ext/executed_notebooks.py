"""Render each chapter from its executed copy, under the chapter's own address.

Chapters are run by papermill into a folder of their own (`make notebooks`); what is committed in notebooks/
stays untouched. When Sphinx reads notebooks/NN-name.ipynb it gets the executed copy instead.
"""

import json
import os
import re
from pathlib import Path

from sphinx.util import logging

log = logging.getLogger(__name__)

# Marks for nbgrader and for the student edition: of no use to a reader.
MARK = re.compile(r"^[ \t]*### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)[^\n]*\n?", re.M)


def executed_folder(app) -> Path:
    return Path(app.srcdir, os.environ.get("STORYDIFF_EXECUTED", "_build/executed"))


def show(nb: dict) -> dict:
    """The notebook as a reader should see it."""
    for cell in nb["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        cell["source"] = MARK.sub("", cell["source"]).rstrip("\n")
        cell_tags = cell["metadata"].setdefault("tags", [])
        if "injected-parameters" in cell_tags and "remove-cell" not in cell_tags:
            cell_tags.append("remove-cell")  # papermill's own cell
    return nb


def swap(app, docname: str, source: list[str]) -> None:
    if not docname.startswith("notebooks/"):
        return
    copy = executed_folder(app) / f"{Path(docname).name}.ipynb"
    if not copy.exists():
        log.warning("no executed copy of %s: expected %s. Run `make notebooks` first.", docname, copy)
        return
    source[0] = json.dumps(show(json.loads(copy.read_text(encoding="utf8"))))
    app.env.note_dependency(str(copy))


def setup(app):
    app.connect("source-read", swap)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
