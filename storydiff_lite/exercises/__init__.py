"""Checkers of the exercises: ``exercises.check("agreement", my_agreement)``.

One file a chapter. A checker tries the answer on cases of its own and accepts every right one; what it
rejects it explains with a hint. No answer stands here, since students have this package: what right and wrong
answers return on those cases is written down in ``known/`` (`Known`). The answers themselves are in
``tools/answers`` of the repository; ``tests/test_exercises.py`` tries them all.

An exercise may build on earlier ones of its chapter: ``exercises.check("reach", reach, my_windows)``. It is
tried with the learner's own earlier answers. Where one of those is wrong, the hint says so, and the new one
is tried with what right ones give.
"""

from __future__ import annotations

import difflib
import json
import numbers
import pkgutil
import sys
from collections.abc import Callable, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module

import torch

#: added to the seed of every case: the graded edition tries answers on other cases than this package
SHIFT = 0


class Wrong(AssertionError):
    """An answer that is not right yet; the message is the hint."""

    def _render_traceback_(self):  # IPython's own hook: the hint is what counts, not where it was raised
        return [f"Not yet: {self}"]


class NotKnown(LookupError):
    """What an answer gives for these arguments is not written down."""


@dataclass
class Exercise:
    """An exercise.

    Parameters
    ----------
    name : str
    checker : callable
        ``checker(answer, *earlier)``, where ``earlier`` are answers to the exercises that it builds on.
    builds_on : dict
        Name of an earlier exercise -> what its answer is called in the chapter's `Known`.
    """

    name: str
    checker: Callable
    builds_on: dict[str, str] = field(default_factory=dict)


REGISTRY: dict[str, Exercise] = {}


def exercise(name: str, builds_on: dict[str, str] | None = None):
    """Register the function below as the checker of exercise ``name``: see `Exercise`."""

    def register(checker):
        if name in REGISTRY:
            raise ValueError(f"Two exercises are called {name!r}.")
        REGISTRY[name] = Exercise(name, checker, builds_on or {})
        return checker

    return register


def load_all() -> dict[str, Exercise]:
    """Every exercise of every chapter: name -> `Exercise`."""
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        import_module(file.name)
    return REGISTRY


def check(name: str, answer, *earlier) -> None:
    """Say that an answer is right, or raise `Wrong` with a hint.

    Parameters
    ----------
    name : str
        The exercise's name, as its chapter says.
    answer
        A function, mostly; the chapter says what it takes and returns.
    *earlier
        Own answers to the exercises that this one builds on, in the order of its heading line. Without them,
        or where one of them is wrong, ``answer`` is tried with what right ones give.

    Raises
    ------
    Wrong
        Not right; the message says what to look at, and whether an earlier answer is at fault.
    KeyError
        No exercise has that name.
    """
    there = load_all()
    if name not in there:
        near = difflib.get_close_matches(name, there, 3) or sorted(there)
        raise KeyError(f"There is no exercise {name!r}. Did you mean {', '.join(near)}?")
    asked = there[name]
    expect(
        len(earlier) in (0, len(asked.builds_on)),
        f"{len(earlier)} earlier answers came with {name!r}; expected those to {_named(asked)}."
        if asked.builds_on
        else f"{name!r} builds on no earlier exercise: hand in your answer alone.",
    )
    try:
        _run(asked, answer, [_closed(f) for f in earlier])
        print(f"Right: {name}.")
        return
    except (Wrong, NotImplementedError) as error:
        wrong, faults = error, _faults(asked, earlier)
    if not faults:
        raise wrong
    try:
        _run(asked, answer)
    except Wrong as error:
        raise Wrong(f"{faults} Tried without yours, this is left to do here: {error}") from error
    right = "a right answer" if len(earlier) == 1 else "right answers"
    print(f"Right: {name}, tried with {right} to {_named(asked)} and not with yours. {faults}")


def _run(asked, answer, earlier=()):
    """The checker, with a hint for an answer that stops with an error."""
    try:
        with lent(asked) as right, _records_open(True):
            asked.checker(_closed(answer), *(earlier or right))
    except (Wrong, NotImplementedError):
        raise
    except Exception as error:
        hint = f"Your answer stopped with {type(error).__name__}: {error}. "
        if isinstance(error, NotKnown) and asked.builds_on:
            hint = f"Your answer calls that to {_named(asked)} with something else than expected: {error} "
        raise Wrong(f"{hint}Try it on a small example of your own first.") from error


def _closed(answer):
    """``answer``, during which nothing can be looked up."""

    def tried(*args, **kwargs):
        with _records_open(False):
            return answer(*args, **kwargs)

    return tried


@contextmanager
def lent(asked: Exercise):
    """In the place of the learner's own earlier answers: functions that look up what right ones return.

    They are lent to a checker: afterwards they give nothing, or they would be answers.
    """
    known, now = sys.modules[asked.checker.__module__].known, [True]

    def looked_up(name):
        def right(*args):
            with _records_open(bool(now)):
                return getattr(known, name)(*args)

        return right

    try:
        yield [looked_up(name) for name in asked.builds_on.values()]
    finally:
        now.clear()


def _faults(asked, earlier) -> str:
    """What is wrong with the earlier answers, in a sentence or two each; empty if nothing is."""
    said = []
    for name, own in zip(asked.builds_on, earlier, strict=False):
        called = f"Your {getattr(own, '__name__', type(own).__name__)}, the answer to {name!r},"
        try:
            _run(REGISTRY[name], own)
        except NotImplementedError:
            said.append(f"{called} is not written yet: solve that exercise first.")
        except Wrong as error:
            said.append(f"{called} is not right yet: mend it first. Its hint: {error}")
    return " ".join(said)


def _named(asked):
    return " and ".join(map(repr, asked.builds_on))


def expect(ok, hint: str) -> None:
    """Raise `Wrong` with a hint unless ``ok``."""
    if not ok:
        raise Wrong(hint)


def same(a, b, tolerance: float = 1e-4) -> bool:
    """Whether two tensors (or numbers) have the same shape and nearly the same values."""
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=tolerance, atol=tolerance))


def expect_no_mistake(got, known: Known, args, mistakes: dict[str, str], alike=same) -> None:
    """Raise `Wrong` with a mistake's hint where that is what was returned.

    Parameters
    ----------
    got : object
        What the answer returned for ``args``.
    known : Known
    args : tuple
    mistakes : dict
        Name of a wrong answer, as ``known`` has it -> its hint.
    alike : callable
        ``alike(got, returned)``, for what is no number ``operator.eq``.
    """
    returned = [getattr(known, name)(*args) for name in mistakes]
    for wrong, hint in zip(returned, mistakes.values(), strict=True):
        expect(not alike(got, wrong), hint)


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


# ------------------------------------------------------------------------------------------ what is known


class Known:
    """What right and wrong answers of a chapter return on the cases of its checkers, without their code.

    ``known.neighbours(classes)`` looks up what the answer of that name returns for these arguments. It is for
    checkers: while an answer runs, there is nothing to look up.

    Parameters
    ----------
    chapter : str
        Such as ``"chapter_00"``.
    """

    def __init__(self, chapter: str):
        self._chapter = chapter

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self._look_up, name)

    def _look_up(self, name, *args):
        if not _open:
            raise Wrong("What a checker knows is for the checker alone: write the answer yourself.")
        text, sums = case(args)
        found = [k for k in _read(self._chapter).get(name, ()) if k["case"] == text]
        best = min(found, key=lambda k: _apart(k["sums"], sums), default=None)
        if best is None or _apart(best["sums"], sums) > 1e-3:
            raise NotKnown(
                f"{self._chapter} does not know what {name!r} gives for {text}; expected one of its cases. "
                "Run tools/answers/record.py after a checker has changed."
            )
        return _unpack(best["gives"])


def records(chapter: str) -> Known:
    """What is known of the answers of a chapter: see `Known`."""
    return Known(chapter)


def generator(seed: int) -> torch.Generator:
    """A generator for the cases of a checker; the graded edition draws others (`SHIFT`)."""
    return torch.Generator().manual_seed(SHIFT + seed)


_open = False


@contextmanager
def _records_open(now):
    global _open
    before, _open = _open, now
    try:
        yield
    finally:
        _open = before


@cache
def _read(chapter):
    return json.loads(pkgutil.get_data(__name__, f"known/{chapter}.json"))


def case(args) -> tuple[str, list[float]]:
    """Arguments as (text, sums): the text without a tensor's numbers, and two sums that tell tensors apart.

    A tensor's numbers may differ in their last digits between machines, so they are not part of the text.
    """
    sums = []

    def said(x):
        if isinstance(x, torch.nn.Module):
            return f"a module {list(map(said, x.parameters()))}"
        if isinstance(x, torch.Tensor):
            flat = x.detach().double().flatten()
            sums.extend([float(flat.sum()), float(flat @ torch.arange(1.0, len(flat) + 1).double().cos())])
            return f"tensor{list(x.shape)}"
        if isinstance(x, (list, tuple, ValuesView)):
            return f"[{', '.join(map(said, x))}]"
        if isinstance(x, dict):
            return "{" + ", ".join(f"{k!r}: {said(v)}" for k, v in x.items()) + "}"
        if isinstance(x, (set, frozenset)):
            return f"{{{', '.join(sorted(map(repr, x)))}}}"
        return "a function" if callable(x) else repr(x)

    return said(list(args)), sums


def _apart(a, b):
    return max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)


def _unpack(x):
    if isinstance(x, list):
        return [_unpack(y) for y in x]
    if isinstance(x, dict):
        (kind, value), *more = x.items()
        if kind == "tensor":
            return torch.tensor(value, dtype=getattr(torch, dict(more)["dtype"]))
        return {"tuple": tuple, "set": set}[kind](map(_unpack, value))
    return x
