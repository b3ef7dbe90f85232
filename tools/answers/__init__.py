"""Answers to the exercises, right and wrong: for the tests and for `make course`, not for students.

One file a chapter. For each exercise at least two right answers that differ, and the wrong ones that
learners give, each with the words that its hint must hold. A function ``_neighbours`` is what a checker of
that chapter asks for as ``known.neighbours``; `record` writes down what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

CHAPTERS = [f"chapter_{n:02d}" for n in range(13)]


@dataclass
class Answers:
    """Answers to one exercise.

    Parameters
    ----------
    right : list
        At least two right answers that differ.
    wrong : dict
        Named wrong answer -> (the answer, words that its hint must hold).
    """

    right: list
    wrong: dict


ANSWERS: dict[str, Answers] = {}


def load_all() -> dict[str, Answers]:
    """The answers to every exercise of every chapter: name -> `Answers`."""
    for chapter in CHAPTERS:
        import_module(f"{__name__}.{chapter}")
    return ANSWERS
