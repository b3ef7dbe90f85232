"""One picture of a story: what is drawn, what is printed under it, who is in it and where."""

from __future__ import annotations

from dataclasses import dataclass, field

from .places import boxes


@dataclass(frozen=True)
class Panel:
    """One picture of a story.

    Parameters
    ----------
    prompt : str
        What is drawn.
    caption : str, optional
        What is printed under it, ``""`` for nothing; the prompt when it is left out.
    negative_prompt : str, optional
        What is not drawn, for this panel only.
    no_character : bool
        ``[NC]``: nobody of the story is in it, so that it neither reads other panels nor is read.
    characters : tuple of str
        Names of those who are in it. Where a panel of the story has any, panels read only panels that show
        nobody but theirs (`cast.may_read`).
    carried : (str, str), optional
        What the prompt begins with, and the phrase of an earlier panel that is read there instead: ``("a
        bear", "a grey bear in a red outfit")``, see `mentions` and `neighbours.carried`.
    places : tuple, optional
        Where each of several characters stands: ``"left"``, ``"middle"``, ``"right"``, or a box; side by side
        in order of mention by default (`places.boxes`).  For ``apart="regions"`` and ``"isolated"``.
    described : tuple of str, optional
        The words of the prompt that describe each of several characters, who else's region does not read
        them (`regions.own_words`).
    """

    prompt: str
    caption: str | None = None
    negative_prompt: str | None = None
    no_character: bool = False
    characters: tuple[str, ...] = ()
    carried: tuple[str, str] | None = None
    places: tuple = ()
    described: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self):
        if not isinstance(self.prompt, str):
            raise TypeError(f"The prompt of a panel must be text, not {type(self.prompt).__name__}.")
        if not self.prompt.strip():
            raise ValueError("A panel has an empty prompt: say what it shows, or leave the panel out.")
        if isinstance(self.characters, str):
            raise TypeError(f"The characters of a panel are a tuple of names, not {self.characters!r}.")
        if self.characters and self.no_character:
            raise ValueError("A panel with [NC] shows nobody, so it cannot name characters.")
        if self.carried and not self.prompt.startswith(self.carried[0]):
            raise ValueError(
                f"The prompt {self.prompt!r} of a panel must begin with what the carried phrase stands for, "
                f"{self.carried[0]!r}."
            )
        if self.places:
            boxes(self.characters, self.places)
        if self.described and len(self.described) != len(self.characters):
            raise ValueError(
                f"There are {len(self.described)} descriptions of {len(self.characters)} characters: give "
                "one for each, in their order, or none."
            )

    @property
    def full_prompt(self):
        """The prompt with the carried phrase written out; the prompt itself where there is none."""
        return self.carried[1] + self.prompt[len(self.carried[0]) :] if self.carried else self.prompt

    @property
    def text(self):
        """The caption, or the prompt where there is none."""
        return self.prompt if self.caption is None else self.caption
