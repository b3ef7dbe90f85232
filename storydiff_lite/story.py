"""A story: who is in it, and one panel a line.

    [Bruno] a bear
    [Mia] a cat

    [Bruno] reading a book in the forest            # He had found an old book.
    [NC] an empty scene on the beach                # It told of the sea,
    [Bruno] walking and [Mia] waving on the beach   # and of somebody who waited there.

The first lines, up to an empty one, say who is who: ``[Name] description``. In a panel ``[Name]`` stands for
that description; the panel shows one of the characters, or several. ``[NC]`` at the beginning of a panel: it
shows nobody. What stands before ``#`` is drawn, what stands after it is printed under the panel.

A story need not have a cast; then the panels are prompts, as they are. A paragraph (lines without ``#``, of
which at least one holds the end of a sentence and the beginning of another) becomes one panel a sentence, and
the sentences its captions.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

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
class Panel:
    """One picture of a story.

    Parameters
    ----------
    prompt : str
        What is drawn.
    caption : str, optional
        What is printed under it; the prompt when it is left out.
    negative_prompt : str, optional
        What is not drawn, for this panel only.
    no_character : bool
        ``[NC]``: nobody of the story is in it, so that it neither reads other panels nor is read.
    characters : tuple of str
        Names of those who are in it. Where a panel of the story has any, panels read only panels that show
        nobody but theirs (`cast.CastSharing`).
    """

    prompt: str
    caption: str | None = None
    negative_prompt: str | None = None
    no_character: bool = False
    characters: tuple[str, ...] = ()

    def __post_init__(self):
        if not isinstance(self.prompt, str):
            raise TypeError(f"The prompt of a panel must be text, not {type(self.prompt).__name__}.")
        if not self.prompt.strip():
            raise ValueError("A panel has an empty prompt: say what it shows, or leave the panel out.")
        if isinstance(self.characters, str):
            raise TypeError(f"The characters of a panel are a tuple of names, not {self.characters!r}.")
        if self.characters and self.no_character:
            raise ValueError("A panel with [NC] shows nobody, so it cannot name characters.")

    @property
    def text(self):
        """The caption, or the prompt where there is none."""
        return self.prompt if self.caption is None else self.caption


@dataclass(frozen=True)
class Story:
    """What a story text says.

    Parameters
    ----------
    panels : list of Panel
    cast : dict
        Name -> description; empty where nobody has a name.
    """

    panels: list[Panel]
    cast: dict[str, str] = field(default_factory=dict)

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
        caption without a prompt. The message says line and column.
    ValueError
        An empty story.
    """
    return _Reader(text).story()


def read_story(text):
    """The panels of a story text, see `parse`.

    Returns
    -------
    list of Panel
    """
    return parse(text).panels


def sentences(paragraph):
    """A paragraph, sentence by sentence.

    Parameters
    ----------
    paragraph : str

    Returns
    -------
    list of str
        Without the space between them. ``"Mr. Bear"``, ``"3.5"``, ``"J. Bear"`` and ``'"Stop!" he said'`` do
        not end a sentence.
    """
    return [paragraph[a:b] for a, b in _sentences(paragraph)]


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
    alone = prompt.lstrip().startswith(NC)
    return Panel(prompt.lstrip().removeprefix(NC).lstrip() if alone else prompt, no_character=alone)


# ------------------------------------------------------------------------------------------------- reading

_DECLARATION = re.compile(r"\s*\[([^\[\]#]*)\]([^\[\]#]*)")  # one name, at the beginning, and no caption
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_END = re.compile(r"(?:[.!?…]+[\"'”’»)]*(?=\s+\S))|(?:[。！？]+[」』”]*(?=\s*\S))")
_ABBREVIATIONS = {"mr", "mrs", "ms", "dr", "st", "prof", "sr", "jr", "vs", "etc", "e.g", "i.e", "no"}


def _sentences(text):
    """Where each sentence begins and ends: list of (from, to)."""
    ends, start = [], 0
    for m in _END.finditer(text):
        word = re.search(r"[\w.]*$", text[: m.start()])[0]
        if m[0] == "." and (word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper())):
            continue
        if text[m.end() :].lstrip()[0].islower():  # '"Stop!" he said'
            continue
        ends.append(m.end())
    spans = []
    for end in [*ends, len(text)]:
        part = text[start:end]
        if part.strip():
            left = start + len(part) - len(part.lstrip())
            spans.append((left, left + len(part.strip())))
        start = end
    return spans


class _Reader:
    """Reads one text; every place in it is an offset from its beginning."""

    def __init__(self, text):
        self.text, self.lines, offset = text, [], 0
        for line in text.splitlines(keepends=True):
            self.lines.append((offset, line.rstrip("\r\n")))
            offset += len(line)
        self.cast, self.declared = {}, {}

    def error(self, what, offset):
        line = max((i for i, (start, _) in enumerate(self.lines) if start <= offset), default=0)
        return StoryError(what, line + 1, offset - self.lines[line][0] + 1)

    def story(self):
        rest = self._read_cast()
        panels = []
        for block in self._blocks(rest):
            begin, end = block[0][0], block[-1][0] + len(block[-1][1])
            if "#" not in self.text[begin:end] and any(len(_sentences(line)) > 1 for _, line in block):
                spans = _sentences(re.sub(r"[\r\n]", " ", self.text[begin:end]))  # offsets stay as they are
                panels += [self._panel(begin + a, begin + b, sentence=True) for a, b in spans]
            else:
                panels += [self._panel(start, start + len(line)) for start, line in block]
        if not panels and self.cast:
            raise ValueError(
                f"The story declares {', '.join(self.cast)} and has no panels. Leave an empty line after the "
                f'cast, then write one panel a line, such as "[{next(iter(self.cast))}] reading in the '
                'forest".'
            )
        if not panels:
            raise ValueError(
                'The story is empty. Write one panel a line, such as "a bear is reading in the forest".'
            )
        return Story(panels, self.cast)

    def _read_cast(self):
        """Read the declarations; returns the lines after them."""
        for i, (start, line) in enumerate(self.lines):
            if not line.strip():
                if self.cast:
                    return self.lines[i:]
                continue
            m = _DECLARATION.fullmatch(line)
            if not m or m[1].strip() == "NC":
                return self.lines[i:]
            name, description = m[1].strip(), m[2].strip().rstrip(".,;").rstrip()
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
        whole = self.text[begin:end]
        prompt, mark, caption = whole.partition("#")
        if mark and not prompt.strip():
            raise self.error(
                f"there is no prompt before the '#' in {whole.strip()!r}. Write what the panel shows first, "
                "then '#' and its caption.",
                begin + len(prompt),
            )
        first = len(prompt) - len(prompt.lstrip())
        alone = prompt[first:].startswith(NC)
        skip = first + len(NC) if alone else 0
        who = self._names(prompt, begin, skip)
        if alone and who:
            raise self.error(
                f"[NC] says that nobody is in this panel, and [{who[0]}] is. Drop one of them.", begin + first
            )
        if self.cast and not who and not alone:
            raise self.error(
                f"this panel names nobody of the cast ({', '.join(f'[{n}]' for n in self.cast)}). Say who is "
                "in it, or begin it with [NC].",
                begin + first,
            )
        drawn = _BRACKETS.sub(lambda m: self.cast[m[1].strip()], prompt[skip:])
        drawn = " ".join(drawn.split()).rstrip(" .!?…。！？" if sentence else " ")
        if not drawn:
            raise self.error("a panel of the story is empty: say what it shows.", begin + first)
        said = " ".join(caption.split()) if caption.strip() else None
        if said is None and (sentence or who or alone):  # as it was written, without brackets
            said = " ".join(prompt[skip:].split())
        if said is not None:
            said = _BRACKETS.sub(lambda m: m[1].strip() if m[1].strip() in self.cast else m[0], said)
        return Panel(drawn, said, no_character=alone, characters=tuple(who))

    def _names(self, prompt, begin, skip):
        """Names in a prompt, in order, each once; what is wrong with a name is told."""
        who, seen = [], list(prompt)
        for m in _BRACKETS.finditer(prompt, skip):
            name = m[1].strip()
            seen[m.start() : m.end()] = " " * len(m[0])
            if name == "NC":
                raise self.error(
                    "[NC] stands at the beginning of a panel, and says that nobody of the story is in it.",
                    begin + m.start(),
                )
            if name not in self.cast:
                raise self.error(self._unknown(name), begin + m.start())
            if name not in who:
                who.append(name)
        seen = "".join(seen)
        for bracket, wrong in (("[", "is not closed: write [Name]"), ("]", "was not opened: write [Name]")):
            if (at := seen.find(bracket, skip)) >= 0:
                raise self.error(f"this '{bracket}' {wrong}.", begin + at)
        for name in self.cast:
            if m := re.compile(rf"(?<!\w){re.escape(name)}(?!\w)").search(seen):
                raise self.error(
                    f"{name} is somebody of the cast and stands here without brackets: write [{name}].",
                    begin + m.start(),
                )
        return who

    def _unknown(self, name):
        known = {n.lower(): n for n in [*self.cast, "NC"]}
        near = difflib.get_close_matches(name.lower(), known, 1, 0.5)
        hint = f" Did you mean [{known[near[0]]}]?" if near else ""
        if self.cast:
            return (
                f"[{name}] was never declared.{hint} The cast is "
                f"{', '.join(f'[{n}]' for n in self.cast)}; who else is in the story is declared with them."
            )
        return (
            f"[{name}] was never declared.{hint} Begin the story with its cast, a line such as "
            f"'[{name}] a bear' for each, and leave an empty line after it."
        )
