"""What the pages for teachers take from the chapters, so that nothing is copied by hand.

- ``{week}``: what a week of the plan assigns, with its minutes. Its body has lines ``read: 00 01``,
  ``exercises: agreement velocity`` (the names that the checkers have), ``more: tokens-read`` and
  ``skip: 05 A section; Another``.
- ``{workload}``: a table of all chapters, minutes to read, seconds to run, exercises; and how these are
  counted.
- ``{takeaways} 05``: the takeaways at the end of that chapter.

A chapter, an exercise or a section that does not exist is a warning, and then `jupyter-book build -W` fails.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)

ROOT = Path(__file__).parent.parent.parent
#: slow reading, of a technical text in a second language
WORDS_A_MINUTE = 120
#: below an exercise's title
MINUTES = re.compile(r"^\*\w+ · \w+ · (\d+) min · \d points?(?: · builds on .+)?\*$", re.M)
FENCE = re.compile(r"^[ \t]*(?:`{3,}|:{3,})\{(exercise|solution-start|solution-end)\}[ \t]*(.*)", re.M)
CHECK = re.compile(r"check\(\s*[\"']([\w-]+)[\"']")


@dataclass
class Chapter:
    """What the pages for teachers say of a chapter.

    Parameters
    ----------
    number, stem, title : str
    words : int
        Of its prose: Markdown cells without solutions and without displayed equations.
    sections : list of str
        Its headings of the second level and below.
    exercises : dict
        Name that the checker has -> title.
    planned : dict
        Name that the checker has -> minutes.
    takeaways : str
        Markdown list, links led to the chapter.
    seconds : float or None
        Running time when it was last run.
    """

    number: str
    stem: str
    title: str = ""
    words: int = 0
    sections: list = field(default_factory=list)
    exercises: dict = field(default_factory=dict)
    planned: dict = field(default_factory=dict)
    takeaways: str = ""
    seconds: float | None = None

    @property
    def minutes(self) -> int:
        return math.ceil(self.words / WORDS_A_MINUTE)

    def link(self, text: str) -> str:
        return f"[{text}](../../notebooks/{self.stem}.ipynb)"


def led_home(text: str, stem: str) -> str:
    """Links of a chapter, as they must be on a page of book/teach: to the chapter, or to another one."""
    text = re.sub(r"\]\(#[^)]*\)", f"](../../notebooks/{stem}.ipynb)", text)
    return re.sub(r"\]\((\d\d-[\w-]+?)(?:\.ipynb)?\)", r"](../../notebooks/\1.ipynb)", text)


def read(path: Path, seconds=None) -> Chapter:
    """A chapter from its notebook."""
    c = Chapter(path.stem[:2], path.stem, seconds=seconds)
    inside, title, minutes = False, None, 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            for name in CHECK.findall(text):
                if title:
                    c.exercises[name], c.planned[name], title = title, minutes, None
            continue
        if cell["cell_type"] != "markdown":
            continue
        for kind, rest in FENCE.findall(text):
            inside = {"solution-start": True, "solution-end": False}.get(kind, inside)
            title = rest.strip() if kind == "exercise" else title
        if inside or "{solution-end}" in text:
            continue
        if told := MINUTES.search(text):
            minutes = int(told[1])
        c.words += len(re.findall(r"[A-Za-z][\w'’-]*", re.sub(r"\$\$.*?\$\$", "", text, flags=re.S)))
        c.title = c.title or (re.findall(r"^# (.+)", text, re.M) or [""])[0]
        c.sections += re.findall(r"^##+ (.+)", text, re.M)
        if found := re.search(r"^## Takeaways\s+(.*)", text, re.M | re.S):
            c.takeaways = led_home(found[1].strip(), path.stem)
    return c


def chapters(root: Path = ROOT) -> dict[str, Chapter]:
    """Number -> chapter, in order."""
    times = root / "book" / "results" / "chapter-times.json"
    known = json.loads(times.read_text(encoding="utf-8")) if times.is_file() else {}
    found = (
        read(p, known.get(p.stem, {}).get("cpu")) for p in sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    )
    return {c.number: c for c in found}


def plan(text: str) -> dict:
    """The body of a ``{week}``: read, exercises, more (lists), skip ({number: sections})."""
    week = {"read": [], "exercises": [], "more": [], "skip": {}}
    for line in filter(str.strip, text.splitlines()):
        key, _, rest = line.partition(":")
        if key.strip() == "skip":
            number, _, sections = rest.strip().partition(" ")
            week["skip"][number] = [s.strip() for s in sections.split(";")]
        elif key.strip() in week:
            week[key.strip()] += rest.split()
        else:
            raise ValueError(f"a week has no {key.strip()!r}, but {', '.join(week)}")
    return week


def complaints(week: dict, known: dict[str, Chapter]) -> list[str]:
    """What a week names and the chapters do not have."""
    exercises = {name for c in known.values() for name in c.exercises}
    said = [f"there is no chapter {n}" for n in (*week["read"], *week["skip"]) if n not in known]
    said += [f"there is no exercise {n!r}" for n in (*week["exercises"], *week["more"]) if n not in exercises]
    return said + [
        f"chapter {n} has no section {s!r}"
        for n, sections in week["skip"].items()
        if n in known
        for s in sections
        if s not in known[n].sections
    ]


def write_week(week: dict, known: dict[str, Chapter]) -> list[str]:
    """A week, as lines of Markdown."""
    read_now = [known[n] for n in week["read"]]
    of = {name: (c, title) for c in known.values() for name, title in c.exercises.items()}

    def named(names):
        return "; ".join(
            f"{c.link(c.number)} "
            + ", ".join(f'"{of[n][1]}" ({c.planned[n]} min)' for n in names if of[n][0] is c)
            for c in known.values()
            if any(of[n][0] is c for n in names)
        )

    reading, seconds = sum(c.minutes for c in read_now), [c.seconds for c in read_now]
    lines = [
        "- **Read and run**: "
        + ", ".join(f"{c.link(f'{c.number} {c.title}')} ({c.minutes} min)" for c in read_now)
    ]
    if week["skip"]:
        skipped = (
            f"{known[n].link(n)} " + ", ".join(f'"{s}"' for s in sections)
            for n, sections in week["skip"].items()
        )
        lines += ["- **Skip** at a first reading: " + "; ".join(skipped)]
    lines += [f"- **Exercises**: {named(week['exercises'])}"]
    if week["more"]:
        lines += [f"- **For those who have time**: {named(week['more'])}"]
    solving = sum(of[n][0].planned[n] for n in week["exercises"])
    running = f", {math.ceil(sum(seconds) / 60)} min in which the chapters run" if all(seconds) else ""
    total = reading + solving + (math.ceil(sum(seconds) / 60) if all(seconds) else 0)
    lines += [f"- **Time**: {reading} min to read{running}, {solving} min for the exercises: {total} min"]
    return lines


def write_workload(known: dict[str, Chapter]) -> list[str]:
    """The table of all chapters, as lines of Markdown."""
    rows = ["| chapter | words | min to read | s to run | exercises |", "|---|---:|---:|---:|---:|"]
    for c in known.values():
        ran = f"{c.seconds:.0f}" if c.seconds else "-"
        rows += [
            f"| {c.link(f'{c.number} {c.title}')} | {c.words} | {c.minutes} | {ran} | {len(c.exercises)} |"
        ]
    return [
        *rows,
        "",
        f"Reading is counted at {WORDS_A_MINUTE} words a minute, a slow pace for a technical text in a "
        "second language. The words are those of a chapter's text, without code, displayed equations and "
        "solutions. The running times are those of the last run on two CPU cores "
        "(`book/results/chapter-times.json`). "
        "An exercise is planned with the minutes below its title: 5, 10 or 20 for an easy, medium or hard "
        "one, with 1, 2 or 3 points. These are chosen and not measured: write down what your students "
        "need, and change them.",
    ]


class FromChapters(SphinxDirective):
    """Markdown that is written from the chapters."""

    def lines(self, known):
        raise NotImplementedError

    def run(self):
        known = chapters()
        for c in known.values():
            self.env.note_dependency(str(ROOT / "notebooks" / f"{c.stem}.ipynb"))
        self.env.note_dependency(str(ROOT / "book" / "results" / "chapter-times.json"))
        box = nodes.container()
        self.state.nested_parse(StringList(self.lines(known), source="teaching"), 0, box)
        return box.children

    def warn(self, text):
        log.warning("%s: %s", self.name, text, location=self.get_location())


class Week(FromChapters):
    has_content = True

    def lines(self, known):
        week = plan("\n".join(self.content))
        said = complaints(week, known)
        for text in said:
            self.warn(text)
        return [] if said else write_week(week, known)


class Workload(FromChapters):
    def lines(self, known):
        return write_workload(known)


class Takeaways(FromChapters):
    required_arguments = 1

    def lines(self, known):
        c = known.get(self.arguments[0])
        if not c or not c.takeaways:
            self.warn(f"there are no takeaways of a chapter {self.arguments[0]!r}")
            return []
        return ["**Takeaways**", "", *c.takeaways.split("\n")]


def setup(app):
    app.add_directive("week", Week)
    app.add_directive("workload", Workload)
    app.add_directive("takeaways", Takeaways)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
