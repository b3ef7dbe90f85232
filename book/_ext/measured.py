"""The role ``{measured}``: a number of a record, put into the text when the site is built.

``{measured}`sharing | up blocks | agreement``` is the mean and the 95% interval of that kind under that
setting in ``book/results/sharing.json``. Any other place is named by its keys, ``{measured}`sharing |
stories```, and a number in a list by its place, from 0. With spaces around the sign, ``a | b - c | d`` is the
difference of two means, ``a | b / c | d`` the ratio of two numbers. In a table write ``>`` instead
of the bar. What there is not is a warning, and then
`jupyter-book build -W` fails.

The directive ``{claims}`` lists the claims of its page, by their status.
"""

import json
import math
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

log = logging.getLogger(__name__)

RESULTS = Path(__file__).parent.parent / "results"


def look_up(name: str, results: Path = RESULTS):
    """The value that a name means.

    Raises
    ------
    LookupError
        There is no such record, or nothing of that name in it; the message says what there is.
    """
    record, *keys = (part.strip() for part in re.split(r"[|>]", name))
    path = results / f"{record}.json"
    if not path.is_file():
        raise LookupError(f"there is no record {path.name}")
    found = json.loads(path.read_text(encoding="utf-8"))
    if keys and keys[0] in found.get("summary", {}) and keys[0] not in found:
        found = found["summary"]
    for key in keys:
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, ValueError, TypeError):
            known = ", ".join(map(str, found)) if isinstance(found, dict) else f"a {type(found).__name__}"
            raise LookupError(f"{record} has no {key!r} there, but {known}") from None
    return found


def say(name: str, results: Path = RESULTS) -> str:
    """What the role writes."""
    if " - " in name:
        a, b = (look_up(part, results) for part in name.split(" - ", 1))
        return f"{a[0] - b[0]:+.2f}"
    if " / " in name:
        a, b = (look_up(part, results) for part in name.split(" / ", 1))
        return f"{a / b:.2f}"
    found = look_up(name, results)
    if isinstance(found, list) and len(found) == 3 and all(isinstance(x, (int, float)) for x in found):
        mean, low, high = found
        half = (high - low) / 2
        places = max(2, math.ceil(-math.log10(half))) if half else 2  # as many as the interval can bear
        return f"{mean:.{places}f} ({low:.{places}f} to {high:.{places}f})"
    if isinstance(found, float):
        return f"{found:.3g}"
    if isinstance(found, (int, str)):
        return str(found)
    raise LookupError(f"{name!r} is a {type(found).__name__}, not a number: name what is in it")


class Measured(SphinxRole):
    def run(self):
        try:
            text = say(self.text)
        except LookupError as error:
            log.warning("{measured}`%s`: %s", self.text, error, location=self.get_location())
            return [], []
        self.env.note_dependency(str(RESULTS / f"{re.split('[|>]', self.text)[0].strip()}.json"))
        return [nodes.inline(self.rawtext, text, classes=["measured"])], []


def by_status(page: str) -> dict[str, list[str]]:
    """Status -> titles of the claims of a page: its ``###`` headings, each with one ``Status: **...**``."""
    found = {}
    for part in re.split(r"^### ", page, flags=re.M)[1:]:
        title, text = part.split("\n", 1)
        status = re.search(r"Status: \*\*([^*]+)\*\*", text)
        found.setdefault(status[1] if status else "no status", []).append(title.strip())
    return found


def anchor(title: str) -> str:
    """As MyST makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


class Claims(SphinxDirective):
    def run(self):
        page = Path(self.env.doc2path(self.env.docname)).read_text(encoding="utf-8")
        lines = []
        for status, titles in by_status(page).items():
            linked = "; ".join(f"[{title}](#{anchor(title)})" for title in titles)
            lines += [f"- **{status}** ({len(titles)}): {linked}"]
        box = nodes.container()
        self.state.nested_parse(StringList(lines, source="claims"), 0, box)
        return box.children


def setup(app):
    app.add_role("measured", Measured())
    app.add_directive("claims", Claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
