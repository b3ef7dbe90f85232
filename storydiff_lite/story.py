"""A story: who is in it, and one panel a line.

    [Bruno] a bear
    [Mia] a cat

    [Bruno] reading a book in the forest            # He had found an old book.
    [NC] an empty scene on the beach                # It told of the sea,
    [Bruno] walking and [Mia] waving on the beach   # and of somebody who waited there.

The first lines, up to an empty one, say who is who: ``[Name] description``. In a panel ``[Name]`` stands for
that description; the panel shows one of the characters, or several. These stand side by side as they are
named, unless a word behind each name says where: ``[Mia] right and [Bruno] left``, of three also
``middle``. A box says it in percent of the picture, left, top, right, bottom: ``[Mia] at 0 40 50 100 and
[Bruno] right``. ``[NC]`` at the beginning of a panel: it shows nobody. What stands before ``#`` is drawn,
what stands after it is printed under the panel; nothing is printed where nothing stands after it.
``【Name】`` and ``＃``, of an East Asian keyboard, are read as ``[Name]`` and ``#``.

A panel may begin with "the bear", "he", "she" or "it" for somebody who was named before (`mentions`).

A story need not have a cast; then the panels are prompts, as they are. A list (``1.``, ``2.``, ... or ``-``
before each panel) is read without its marks. A paragraph (lines without ``#``, of which at least one holds
the end of a sentence and the beginning of another) becomes one panel a sentence, and the sentences its
captions.
"""

from __future__ import annotations

import difflib
import re
import warnings
from dataclasses import dataclass, field

from . import brackets
from .mentions import Mentions
from .panels import Panel
from .places import boxes, read_place
from .sentences import sentences, spans

__all__ = ["NC", "Panel", "Story", "StoryError", "as_panels", "parse", "read_story", "sentences"]

NC = "[NC]"


class StoryError(ValueError):
    """A story text that cannot be read.

    Parameters
    ----------
    what : str
        What is wrong, and what to write instead.
    line, column : int
        Where, both from 1.
    """

    def __init__(self, what, line, column):
        super().__init__(f"Line {line}, column {column} of the story: {what}")
        self.line, self.column = line, column


@dataclass(frozen=True)
class Story:
    """What a story text says.

    Parameters
    ----------
    panels : list of Panel
    cast : dict
        Name -> description; empty where nobody has a name.
    text : str, optional
        What it was read from, written anew: a line a panel, one space between words. ``parse(story.text)`` is
        the same story. None where it was not read from a text.
    """

    panels: list[Panel]
    cast: dict[str, str] = field(default_factory=dict)
    text: str | None = field(default=None, compare=False, repr=False)

    @property
    def missing(self):
        """Names that are declared and in no panel."""
        return [n for n in self.cast if not any(n in p.characters for p in self.panels)]


def parse(text):
    """Cast and panels of a story text.

    Parameters
    ----------
    text : str
        As at the top of this file.

    Returns
    -------
    Story

    Raises
    ------
    StoryError
        A name that was never declared (with the nearest one that was), was declared twice, or stands without
        its brackets; a bracket that is not closed; a panel that names nobody in a story with a cast; a
        caption without a prompt; an empty story. The message says line and column.

    Notes
    -----
    Only a line feed, a carriage return, or both end a line. A name is the same name however its accents were
    typed (Unicode's NFC).
    """
    return _Reader(text).story()


def read_story(text):
    """The panels of a story text, a list, see `parse`."""
    return parse(text).panels


def as_panels(story):
    """Whatever a story may be given as, as a list of panels.

    Parameters
    ----------
    story : str, Story, or list of str and Panel
        A story text, a story that was read, or the panels one by one; a string in a list is a prompt, ``#``
        and all.

    Returns
    -------
    list of Panel

    Raises
    ------
    ValueError
        An empty story or an empty prompt; a `StoryError` where a text cannot be read.
    TypeError
        Anything else.
    """
    if isinstance(story, str):
        return read_story(story)
    if isinstance(story, Panel):
        return [story]
    if isinstance(story, Story):
        story = story.panels
    if not isinstance(story, (list, tuple)):
        raise TypeError(
            "A story is a text with one panel a line, or a list of prompts or Panels, not "
            f"{type(story).__name__}."
        )
    if not story:
        raise ValueError("The story has no panels. Give at least one prompt.")
    for number, panel in enumerate(story, 1):
        if isinstance(panel, (list, tuple)):
            raise TypeError(
                "A story is one list of panels. Several stories at once are told by pipe.tell_many(stories)."
            )
        if not isinstance(panel, (str, Panel)):
            raise TypeError(
                f"Panel {number} of the story is a {type(panel).__name__}; it must be a prompt or a Panel."
            )
        if isinstance(panel, str) and not panel.strip():
            raise ValueError(
                f"Panel {number} of the story has an empty prompt: say what it shows, or leave the panel out."
            )
    return [_panel(p) if isinstance(p, str) else p for p in story]


def _panel(prompt):
    """A panel of a prompt, which may begin with ``[NC]``."""
    m = brackets.first_name(prompt.translate(brackets.MARKS))
    no_character = bool(m) and brackets.known_name(m[1]) == "NC"
    if not no_character:
        return Panel(prompt)
    prompt = prompt[m.end() :].lstrip()
    return Panel(prompt[m.end() :] if (m := brackets.AFTER_NC.match(prompt)) else prompt, no_character=True)


# ------------------------------------------------------------------------------------------------- reading


class _Reader:
    """Reads one text; every place in it is an offset from its beginning."""

    def __init__(self, text):
        self.text = text.removeprefix("\ufeff")  # a byte order mark is no part of the text
        self.marks = self.text.translate(brackets.MARKS)  # of the same length
        self.lines, start = [], 0
        for end in [*brackets.LINE_END.finditer(self.text), None]:
            self.lines.append((start, self.marks[start : end.start() if end else None]))
            start = end and end.end()
        self.cast, self.declared, self.written = {}, {}, []
        self.mentions = Mentions(self.cast, brackets.known_name)

    def error(self, what, offset):
        line = max(i for i, (start, _) in enumerate(self.lines) if start <= offset)
        return StoryError(what, line + 1, offset - self.lines[line][0] + 1)

    def story(self):
        self._check_characters()
        rest = brackets.without_list_marks(self._read_cast())
        panels = []
        for block in self._blocks(rest):
            begin, end = block[0][0], block[-1][0] + len(block[-1][1])
            if "#" not in self.marks[begin:end] and any(len(spans(line)) > 1 for _, line in block):
                text = re.sub(r"[\r\n]", " ", self.marks[begin:end])  # offsets stay as they are
                panels += [self._panel(begin + a, begin + b, sentence=True) for a, b in spans(text)]
            else:
                panels += [self._panel(start, start + len(line)) for start, line in block]
        if not panels and self.cast:
            raise self.error(
                f"the story declares {', '.join(self.cast)} and has no panels. Leave an empty line after the "
                f'cast, then write one panel a line, such as "[{next(iter(self.cast))}] reading in the '
                'forest".',
                len(self.text.rstrip()),
            )
        if not panels:
            raise self.error(
                'the story is empty. Write one panel a line, such as "a bear is reading in the forest".', 0
            )
        cast = [f"[{name}] {description}" for name, description in self.cast.items()]
        return Story(panels, self.cast, "\n".join([*cast, ""] * bool(cast) + self.written))

    def _check_characters(self):
        """Half a character cannot be written to a file, nor be tokenized."""
        if m := re.search("[\ud800-\udfff]", self.text):
            raise self.error(
                f"this is half a character (U+{ord(m[0]):04X}, a lone surrogate). Leave it out, or write the "
                "whole one.",
                m.start(),
            )

    def _read_cast(self):
        """Read the declarations; returns the lines after them."""
        for i, (start, line) in enumerate(self.lines):
            if not line.strip():
                if self.cast:
                    return self.lines[i:]
                continue
            m = brackets.DECLARATION.fullmatch(line)
            if not m or brackets.known_name(m[1]) == "NC":
                if any(
                    rest.strip() for _, rest in self.lines[i + 1 :]
                ):  # one line is no cast: it has no panels
                    self._check_no_declaration(start, line)
                return self.lines[i:]
            name, description = brackets.known_name(m[1]), brackets.description(m[2])
            at = start + m.start(1) - 1
            if not name:
                raise self.error("there is no name in these brackets. Write [Name], then who that is.", at)
            if name in self.cast:
                raise self.error(
                    f"[{name}] is declared twice (first in line {self.declared[name]}). If this is a panel, "
                    "leave an empty line between the cast and the panels.",
                    at,
                )
            if not description:
                raise self.error(f"[{name}] has no description: say who that is, such as 'a bear'.", at)
            self.cast[name], self.declared[name] = description, i + 1
        return []

    def _check_no_declaration(self, start, line):
        """Raise StoryError where a line names somebody new, and would declare him but for a mark in it."""
        m = brackets.first_name(line)
        if not m or "#" in m[1] or not (name := brackets.known_name(m[1])) or name in {*self.cast, "NC"}:
            return
        marks = [f"'{mark}'" for mark in ("#", "[", "]") if mark in line[m.end() :]]
        plain = brackets.description(re.sub(r"[\[\]]", "", line[m.end() :].split("#")[0]))
        raise self.error(
            f"[{name}] is not declared yet, and a line with {' and '.join(marks)} does not declare anybody. "
            f"To say who [{name}] is, write '[{name}] {plain or 'a bear'}', and nothing else. If this is a "
            f"panel:{self._advice(name)}",
            start + m.start(1) - 1,
        )

    def _blocks(self, lines):
        """Lines between empty ones, as lists of (offset, line)."""
        block = []
        for start, line in [*lines, (0, "")]:
            if line.strip():
                block.append((start, line))
            elif block:
                yield block
                block = []

    def _panel(self, begin, end, sentence=False):
        """The panel that stands from ``begin`` to ``end``: a line with its caption, or a sentence."""
        prompt, mark, _ = self.marks[begin:end].partition("#")
        if mark and not prompt.strip():
            whole = self.text[begin:end].strip()
            raise self.error(
                f"there is no prompt before the '#' in {whole!r}. Write what the panel shows first, then '#' "
                "and its caption.",
                begin + len(prompt),
            )
        first = begin + len(prompt) - len(prompt.lstrip())
        nobody, whole = self._scene(prompt, begin, first)
        written = whole.rstrip(" .!?…。！？") if sentence else whole
        found = self.mentions.read(written, nobody)
        for unclear in found.unclear:
            warnings.warn(str(self.error(unclear, first)), stacklevel=6)
        if self.cast and not found.names and not nobody:
            raise self.error(
                f"this panel names nobody of the cast ({', '.join(f'[{n}]' for n in self.cast)}). Say who is "
                "in it, or begin it with [NC].",
                first,
            )
        places, drawn = self._places(found.text, found.names, first), found.text
        if places:
            whole, drawn = (brackets.without_places(text, found.said) for text in (whole, drawn))
        if not drawn:
            raise self.error("a panel of the story is empty: say what it shows.", first)
        caption = None
        if mark:
            caption = " ".join(self.text[begin + len(prompt) + 1 : end].split())
        elif sentence or found.names or nobody or found.text != written:
            caption = whole  # as it was written, without brackets
        self.written.append(
            (NC + " ") * nobody + written + ("" if caption is None else f" # {caption}".rstrip())
        )
        return Panel(
            brackets.BRACKETS.sub(lambda m: self.cast[brackets.known_name(m[1])], drawn),
            caption and self._without_brackets(caption),
            no_character=nobody,
            characters=found.names,
            places=places,
            described=tuple(self.cast[name] for name in found.names) if len(found.names) > 1 else (),
            carried=found.carried,
        )

    def _scene(self, prompt, begin, first):
        """Whether a prompt begins with ``[NC]``, and what stands behind it, with single spaces."""
        nobody = bool((m := brackets.first_name(prompt)) and brackets.known_name(m[1]) == "NC")
        skip = m.end() if nobody else 0
        names = self._names(prompt, begin, skip)
        if nobody and names:
            raise self.error(
                f"[NC] says that nobody is in this panel, and [{names[0]}] is. Drop one of them.", first
            )
        scene = brackets.spaced(prompt[skip:])
        return nobody, scene[m.end() :] if nobody and (m := brackets.AFTER_NC.match(scene)) else scene

    def _places(self, prompt, names, offset):
        """The places behind the names of a panel of several; none unless each name has one."""
        found = {}
        for m in brackets.PLACE.finditer(prompt):
            found.setdefault(brackets.known_name(m[1][1:-1]), m[2])
        box = next((said for said in found.values() if said.startswith("at")), None)
        if not found or (len(names) < 2 and not box):
            return ()
        missing = [name for name in names if name not in found]
        if missing and box:
            raise self.error(
                f"{box!r} is a box, and [{missing[0]}] has no place: say where everybody stands, in a word "
                "or in a box.",
                offset,
            )
        if missing:
            name, word = next(iter(found.items()))
            warnings.warn(
                f"{word!r} behind [{name}] is drawn as a word, for [{missing[0]}] has no place. If it is "
                f"one, say where everybody stands: '[{missing[0]}] {brackets.OPPOSITE[word]}'.",
                stacklevel=2,
            )
            return ()
        try:
            places = tuple(read_place(found[name]) for name in names)
            boxes(names, places)
        except ValueError as error:
            raise self.error(str(error), offset) from None
        return places

    def _without_brackets(self, caption):
        """A caption in which ``[Name]`` is the name; other brackets are as they were typed."""
        out, at = "", 0
        for m in brackets.BRACKETS.finditer(caption.translate(brackets.MARKS)):
            if (name := brackets.known_name(m[1])) in self.cast:
                out, at = out + caption[at : m.start()] + name, m.end()
        return out + caption[at:]

    def _names(self, prompt, begin, skip):
        """Names in a prompt, in order, each once; what is wrong with a name is told."""
        found, seen = [], list(prompt)
        for m in brackets.BRACKETS.finditer(prompt, skip):
            name = brackets.known_name(m[1])
            seen[m.start() : m.end()] = " " * len(m[0])
            if name == "NC":
                raise self.error(
                    "[NC] stands at the beginning of a panel, and says that nobody of the story is in it.",
                    begin + m.start(),
                )
            if name not in self.cast:
                raise self.error(f"[{name}] was never declared.{self._advice(name)}", begin + m.start())
            if name not in found:
                found.append(name)
        seen = "".join(seen)
        for bracket, wrong in (("[", "is not closed: write [Name]"), ("]", "was not opened: write [Name]")):
            if (at := seen.find(bracket, skip)) >= 0:
                raise self.error(f"this '{bracket}' {wrong}.", begin + at)
        for name in self.cast:
            if (at := brackets.find_name(name, seen)) >= 0:
                raise self.error(
                    f"{name} is somebody of the cast and stands here without brackets: write [{name}].",
                    begin + at,
                )
        return found

    def _advice(self, name):
        """What to do about a name that was not declared."""
        known = {n.lower(): n for n in [*self.cast, "NC"]}
        near = difflib.get_close_matches(name.lower(), known, 1, 0.5)
        hint = f" Did you mean [{known[near[0]]}]?" if near else ""
        if self.cast:
            return (
                f"{hint} The cast is {', '.join(f'[{n}]' for n in self.cast)}; who else is in the story is "
                "declared with them."
            )
        return (
            f"{hint} Begin the story with its cast, a line such as '[{name}] a bear' for each, and leave an "
            "empty line after it."
        )
