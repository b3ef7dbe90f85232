"""A story: one panel a line.

    a bear is reading in the forest    # He had found an old book.
    a bear is sleeping in the forest   # It was a long one.

What stands before ``#`` is the prompt that is drawn, what stands after it the caption that is printed under
the panel.  A line that begins with ``[NC]`` has no character in it.
"""

from dataclasses import dataclass


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
    """

    prompt: str
    caption: str | None = None
    negative_prompt: str | None = None
    no_character: bool = False

    def __post_init__(self):
        if not isinstance(self.prompt, str):
            raise TypeError(f"The prompt of a panel must be text, not {type(self.prompt).__name__}.")
        if not self.prompt.strip():
            raise ValueError("A panel has an empty prompt: say what it shows, or leave the panel out.")

    @property
    def text(self):
        """The caption, or the prompt where there is none."""
        return self.prompt if self.caption is None else self.caption


def read_story(text):
    """The panels of a story text.

    Parameters
    ----------
    text : str
        One panel a line: ``prompt`` or ``prompt # caption``. Blank lines are skipped.

    Returns
    -------
    list of Panel

    Raises
    ------
    ValueError
        An empty story, or a line with a caption and no prompt (with its number).
    """
    panels = []
    for number, line in enumerate(text.splitlines(), 1):
        prompt, mark, caption = (part.strip() for part in line.partition("#"))
        if prompt:
            panels.append(_panel(prompt, caption or None))
        elif mark:
            raise ValueError(
                f"Line {number} of the story has no prompt before its '#': {line.strip()!r}. "
                "Write what the panel shows first, then '#' and its caption."
            )
    if not panels:
        raise ValueError(
            'The story is empty. Write one panel a line, such as "a bear is reading in the forest".'
        )
    return panels


NC = "[NC]"


def _panel(prompt, caption=None):
    """A panel of a prompt, which may begin with ``[NC]``."""
    alone = prompt.lstrip().startswith(NC)
    return Panel(prompt.lstrip().removeprefix(NC).lstrip() if alone else prompt, caption, no_character=alone)


def as_panels(story):
    """Whatever a story may be given as, as a list of panels.

    Parameters
    ----------
    story : str, or list of str and Panel
        A story text (one panel a line), or the panels one by one; a string in a list is a prompt, ``#`` and
        all.

    Returns
    -------
    list of Panel

    Raises
    ------
    ValueError
        An empty story or an empty prompt.
    TypeError
        Anything else.
    """
    if isinstance(story, str):
        return read_story(story)
    if isinstance(story, Panel):
        return [story]
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
