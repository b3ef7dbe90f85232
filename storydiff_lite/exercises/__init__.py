"""Checkers of the exercises: ``exercises.check("agreement", my_agreement)``.

One file a chapter. A checker tries the answer on cases of its own and accepts every right one; what it
rejects it explains with a hint. Each checker keeps, beside it, two right answers that differ and the wrong
ones that learners give, each with the words that its hint must hold: ``tests/test_exercises.py`` tries them
all.
"""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch


class Wrong(AssertionError):
    """An answer that is not right yet; the message is the hint."""

    def _render_traceback_(self):  # IPython's own hook: the hint is what counts, not where it was raised
        return [f"Not yet: {self}"]


@dataclass
class Exercise:
    """An exercise: its checker, and the answers that test the checker."""

    name: str
    checker: Callable
    right: list = field(default_factory=list)
    wrong: dict = field(default_factory=dict)


REGISTRY: dict[str, Exercise] = {}


def exercise(name: str, right, wrong):
    """Register the function below as the checker of exercise ``name``.

    Parameters
    ----------
    right : list
        At least two right answers that differ.
    wrong : dict
        Named wrong answer -> (the answer, words that its hint must hold).
    """

    def register(checker):
        if name in REGISTRY:
            raise ValueError(f"Two exercises are called {name!r}.")
        REGISTRY[name] = Exercise(name, checker, list(right), dict(wrong))
        return checker

    return register


def load_all() -> dict[str, Exercise]:
    """Every exercise of every chapter: name -> `Exercise`."""
    for file in sorted(Path(__file__).parent.glob("chapter_*.py")):
        import_module(f"{__name__}.{file.stem}")
    return REGISTRY


def check(name: str, answer) -> None:
    """Say that an answer is right, or raise `Wrong` with a hint.

    Parameters
    ----------
    name : str
        The exercise's name, as its chapter says.
    answer
        A function, mostly; the chapter says what it takes and returns.

    Raises
    ------
    Wrong
        Not right; the message says what to look at.
    KeyError
        No exercise has that name.
    """
    known = load_all()
    if name not in known:
        near = difflib.get_close_matches(name, known, 3) or sorted(known)
        raise KeyError(f"There is no exercise {name!r}. Did you mean {', '.join(near)}?")
    try:
        known[name].checker(answer)
    except (Wrong, NotImplementedError):
        raise
    except Exception as error:
        raise Wrong(
            f"Your answer stopped with {type(error).__name__}: {error}. "
            "Try it on a small example of your own first."
        ) from error
    print(f"Right: {name}.")


def expect(ok, hint: str) -> None:
    """Raise `Wrong` with a hint unless ``ok``."""
    if not ok:
        raise Wrong(hint)


def same(a, b, tolerance: float = 1e-4) -> bool:
    """Whether two tensors (or numbers) have the same shape and nearly the same values."""
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=tolerance, atol=tolerance))


def expect_number(x):
    """``x`` as a number, be it Python's, numpy's or a tensor of one element; raise `Wrong` if it is none."""
    if isinstance(x, torch.Tensor) and x.numel() == 1:
        x = x.item()
    expect(isinstance(x, numbers.Real), f"The answer is a {type(x).__name__}; expected a number.")
    return x


def expect_tensor(x, shape, what: str = "Your answer") -> None:
    """Raise `Wrong` unless ``x`` is a tensor of this shape without NaN."""
    expect(
        isinstance(x, torch.Tensor), f"{what} returned {type(x).__name__}; expected a tensor {list(shape)}."
    )
    expect(
        tuple(x.shape) == tuple(shape),
        f"{what} has the shape {list(x.shape)}; expected {list(shape)}.",
    )
    expect(not x.isnan().any(), f"{what} holds NaN (not a number): look for a division by zero.")
