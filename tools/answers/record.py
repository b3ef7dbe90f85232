"""Write down what the answers return on the cases of the checkers: `python tools/answers/record.py`.

The checkers that students have hold no answer: they look up, in storydiff_lite/exercises/known/, what a right
or a wrong answer gives. Run this after a checker or an answer has changed; a test compares.
"""

from __future__ import annotations

import copy
import json
import sys
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import answers  # noqa: E402
from storydiff_lite import exercises  # noqa: E402

DIGITS = 9  # checkers compare to four


class Watched:
    """Takes the place of a chapter's `Known`: asks the answer itself, and remembers what for."""

    def __init__(self, chapter):
        self._answers, self._asked = import_module(f"answers.{chapter}"), {}

    def __getattr__(self, name):
        def ask(*args):
            self._asked.setdefault(name, []).append(copied(args))
            return getattr(self._answers, f"_{name}")(*copied(args))

        return ask


def copied(x):
    """Arguments of which an answer may change its own copy; functions and modules stay as they are."""
    if isinstance(x, torch.Tensor):
        return x.clone()
    if isinstance(x, (list, tuple)):
        return type(x)(map(copied, x))
    return copy.copy(x) if isinstance(x, (dict, set)) else x


def packed(x):
    """A value as JSON can hold it; `exercises` has the way back."""
    if isinstance(x, torch.Tensor):
        return {"tensor": rounded(x.tolist()), "dtype": str(x.dtype).removeprefix("torch.")}
    if isinstance(x, (tuple, set)):
        return {type(x).__name__: [packed(y) for y in (sorted(x) if isinstance(x, set) else x)]}
    return [packed(y) for y in x] if isinstance(x, list) else x


def rounded(x):
    return (
        [rounded(y) for y in x]
        if isinstance(x, list)
        else x
        if isinstance(x, int)
        else float(f"{x:.{DIGITS}g}")
    )


def forgiving(expect):
    """What a checker expects, without an error where it is not so."""

    def tried(*args):
        with suppress(AssertionError):  # `Wrong`, of whichever package
            expect(*args)

    return tried


@contextmanager
def lenient(module):
    """Checkers that go on to their end whatever is wrong: every case that they could ask about is asked."""
    names = ("expect", "expect_tensor", "expect_no_mistake")
    strict = {n: f for n in names if (f := getattr(module, n, None))}
    for name, f in strict.items():
        setattr(module, name, forgiving(f))
    try:
        yield
    finally:
        for name, f in strict.items():
            setattr(module, name, f)


def record(package=exercises, shift: int = 0) -> dict[str, dict]:
    """What the answers return: chapter -> name of an answer -> its cases.

    Parameters
    ----------
    package : module
        The checkers.
    shift : int
        Added to the seeds of their cases.
    """
    there, found = package.load_all(), {}
    answers.load_all()
    before, package.SHIFT = package.SHIFT, shift
    try:
        for chapter in answers.CHAPTERS:
            module = import_module(f"{package.__name__}.{chapter}")
            plain, asked = module.known, {}
            for name, e in there.items():
                if e.checker.__module__ == module.__name__:
                    module.known = Watched(chapter)
                    with package.lent(e) as earlier:
                        try_all(module, partial(tried, e.checker, earlier), answers.ANSWERS[name])
                        for one, cases in gathered(module.known).items():
                            asked.setdefault(one, []).extend(cases)
            module.known = plain
            found[chapter] = {name: unique(asked[name]) for name in sorted(asked)}
    finally:
        package.SHIFT = before
    return found


def tried(checker, earlier, answer):
    checker(answer, *earlier)


def try_all(module, checker, given):
    every = [*given.right, *(wrong for wrong, _ in given.wrong.values())]
    for answer in every:
        for how in (lenient, None):
            try:
                if how is None:
                    checker(answer)
                else:
                    with how(module):
                        checker(answer)
            except Exception:
                pass  # what it asked for until then counts


def gathered(watched):
    """What each answer that was asked for returns, on the cases of all of them: a checker may stop early."""
    cases = [args for some in watched._asked.values() for args in some]
    return {name: [k for args in cases if (k := one(watched, name, args))] for name in list(watched._asked)}


def one(watched, name, args):
    text, sums = exercises.case(args)
    try:
        gives = getattr(watched._answers, f"_{name}")(*copied(args))
    except Exception:
        return None  # a case of an answer with other arguments
    return {"case": text, "sums": rounded(sums), "gives": packed(gives)}


def unique(cases):
    return list({json.dumps([k["case"], k["sums"]]): k for k in cases}.values())


def texts(found: dict) -> dict[str, str]:
    """The files of a record, one case a line: chapter -> JSON."""
    out = {}
    for chapter, names in found.items():
        parts = [
            f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(k, ensure_ascii=False) for k in cases) + "\n]"
            for name, cases in names.items()
        ]
        out[chapter] = "{\n" + ",\n".join(parts) + "\n}\n"
    return out


if __name__ == "__main__":
    for name, text in texts(record()).items():
        (ROOT / "storydiff_lite" / "exercises" / "known" / f"{name}.json").write_text(text, encoding="utf-8")
