"""Every checker accepts different right answers and gives each named wrong answer a hint of its own."""

import ast
import json
import re
import tomllib
from importlib import import_module
from pathlib import Path

import answers
import pytest
from answers import record

from storydiff_lite import exercises
from storydiff_lite.exercises import Wrong

CHECKED = exercises.load_all()
ALL = answers.load_all()
RIGHT = [(n, k) for n, e in ALL.items() for k in range(len(e.right))]
WRONG = [(n, k) for n, e in ALL.items() for k in e.wrong]
BUILT = [n for n, e in CHECKED.items() if e.builds_on]


def stub(*args, **kwargs):
    raise NotImplementedError()


@pytest.mark.parametrize(("name", "k"), RIGHT)
def test_right_answers_pass(name, k, capsys):
    exercises.check(name, ALL[name].right[k])
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(("name", "k"), WRONG)
def test_wrong_answers_get_their_hint(name, k):
    answer, words = ALL[name].wrong[k]
    with pytest.raises(Wrong, match=re.escape(words)):
        exercises.check(name, answer)


@pytest.mark.parametrize("name", ALL)
def test_enough_answers_and_hints_that_differ(name):
    e = ALL[name]
    assert len(e.right) >= 2
    assert len(e.wrong) >= 2
    hints = []
    for answer, _ in e.wrong.values():
        with pytest.raises(Wrong) as caught:
            exercises.check(name, answer)
        hints.append(str(caught.value))
    assert len(set(hints)) == len(hints)


@pytest.mark.parametrize("name", ALL)
def test_nonsense_is_wrong_and_no_traceback_of_ours(name):
    """A string, None, a function that returns nothing: a hint, not a crash inside the checker."""
    for answer in (None, "bear", lambda *a, **k: None):
        with pytest.raises(Wrong):
            exercises.check(name, answer)


def test_a_stub_stays_a_stub():
    with pytest.raises(NotImplementedError):
        exercises.check(next(iter(ALL)), stub)


def test_unknown_name():
    name = next(iter(ALL))
    with pytest.raises(KeyError, match=name):
        exercises.check(name + "x", None)


def test_hint_is_all_that_a_notebook_shows():
    assert Wrong("count the pairs")._render_traceback_() == ["Not yet: count the pairs"]


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="Two exercises"):
        exercises.exercise(next(iter(ALL)))(lambda answer: None)


def test_answers_and_checkers_name_the_same_exercises():
    assert set(ALL) == set(CHECKED)


# ------------------------------------------------------------------------------- on an earlier answer
def right_before(name, k=0):
    return [ALL[e].right[k] for e in CHECKED[name].builds_on]


@pytest.mark.parametrize("chapter", answers.CHAPTERS)
def test_every_chapter_has_an_exercise_that_builds_on_an_earlier_one(chapter):
    assert [n for n in BUILT if CHECKED[n].checker.__module__.endswith(chapter)]


@pytest.mark.parametrize("name", BUILT)
def test_right_answers_pass_with_every_right_earlier_answer(name, capsys):
    for k in (0, 1):
        for answer in ALL[name].right:
            exercises.check(name, answer, *right_before(name, k))
    assert set(capsys.readouterr().out.splitlines()) == {f"Right: {name}."}


@pytest.mark.parametrize("name", BUILT)
def test_wrong_answers_get_their_hint_with_a_right_earlier_answer(name):
    for answer, words in ALL[name].wrong.values():
        with pytest.raises(Wrong, match=re.escape(words)):
            exercises.check(name, answer, *right_before(name))


@pytest.mark.parametrize("name", BUILT)
def test_a_wrong_earlier_answer_is_named_and_does_not_stop_a_right_one(name, capsys):
    """Where the fault shows at all: a wrong earlier answer may be right on the cases of this exercise."""
    for i, earlier in enumerate(CHECKED[name].builds_on):
        told = []
        for wrong, (fault, words) in ALL[earlier].wrong.items():
            before = right_before(name)
            before[i] = fault
            exercises.check(name, ALL[name].right[0], *before)
            said = capsys.readouterr().out
            assert said.startswith(f"Right: {name}")
            if f"the answer to {earlier!r}, is not right yet" in said:
                assert words in said, wrong  # the earlier exercise's own hint
                told.append(wrong)
        assert told, f"no mistake in {earlier!r} shows in {name!r}: does it build on it?"


@pytest.mark.parametrize("name", BUILT)
def test_an_earlier_answer_that_is_not_written_is_named(name, capsys):
    nothing = [stub for _ in CHECKED[name].builds_on]
    exercises.check(name, ALL[name].right[0], *nothing)
    assert capsys.readouterr().out.count("is not written yet: solve that exercise first") == len(nothing)
    for answer, words in ALL[name].wrong.values():
        with pytest.raises(Wrong, match="not written yet") as caught:
            exercises.check(name, answer, *nothing)
        assert words in str(caught.value)  # what is left to do in the new one
    with pytest.raises(NotImplementedError):
        exercises.check(name, stub, *nothing)


def test_what_stands_in_for_an_earlier_answer_is_none():
    """It is lent to the checker: kept and handed in as an answer, it gives nothing."""
    for name in BUILT:
        lent, n = [], len(CHECKED[name].builds_on)

        def keep(*args, lent=lent, n=n):
            lent.extend(args[-n:])
            raise NotImplementedError()

        with pytest.raises(NotImplementedError):
            exercises.check(name, keep)
        assert len(lent) == n
        for earlier, function in zip(CHECKED[name].builds_on, lent, strict=True):
            with pytest.raises(Wrong, match="write the answer yourself"):
                exercises.check(earlier, function)


def test_another_number_of_earlier_answers_is_told():
    with pytest.raises(Wrong, match="earlier answers came with .*; expected those to"):
        exercises.check(BUILT[0], ALL[BUILT[0]].right[0], stub, *right_before(BUILT[0]))
    alone = next(n for n, e in CHECKED.items() if not e.builds_on)
    with pytest.raises(Wrong, match="builds on no earlier exercise"):
        exercises.check(alone, ALL[alone].right[0], stub)


# ------------------------------------------------------------------------------------------ no answers
PACKAGE = Path(exercises.__file__).parent


def returned(file):
    """What the functions of a file return, as text: single names and numbers left out."""
    found = (
        ast.unparse(n.value)
        for n in ast.walk(ast.parse(file.read_text()))
        if isinstance(n, ast.Return) and n.value
    )
    return {text for text in found if len(text) > 20}


def test_the_package_holds_no_answers():
    """Neither as attributes of an exercise, nor as a line of the code."""
    assert not any(hasattr(e, "right") or hasattr(e, "wrong") for e in CHECKED.values())
    there = set().union(*map(returned, PACKAGE.glob("*.py")))
    told = set().union(*map(returned, Path(answers.__file__).parent.glob("chapter_*.py")))
    assert len(told) > 200
    assert told & there == set()


@pytest.mark.parametrize("chapter", answers.CHAPTERS)
def test_what_a_checker_knows_is_no_answer(chapter):
    """Neither a record, nor a checker, nor a helper of a checker's file earns the point."""
    module = import_module(f"storydiff_lite.exercises.{chapter}")
    told = json.loads((PACKAGE / "known" / f"{chapter}.json").read_text())
    tried = [getattr(module.known, n) for n in told] + [f for f in vars(module).values() if callable(f)]
    for name, e in CHECKED.items():
        if e.checker.__module__ == module.__name__:
            for answer in tried:
                with pytest.raises((Wrong, NotImplementedError)):
                    exercises.check(name, answer)


def test_records_are_of_these_answers_and_checkers():
    """As if `python tools/answers/record.py` had just been run."""
    for chapter, names in record.record().items():
        told = json.loads((PACKAGE / "known" / f"{chapter}.json").read_text())
        assert told.keys() == names.keys(), f"run tools/answers/record.py: {chapter} asks for other answers"
        for name, cases in names.items():
            assert len(cases) == len(told[name])
            for new, old in zip(cases, told[name], strict=True):
                assert new["case"] == old["case"]
                assert new["sums"] == pytest.approx(old["sums"], rel=1e-4, abs=1e-4)
                assert alike(new["gives"], old["gives"])


def alike(a, b):
    """Whether two recorded values are the same but for the last digits of their floats."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == pytest.approx(b, rel=1e-4, abs=1e-4, nan_ok=True) if isinstance(a, float) else a == b


def test_a_case_that_is_not_known_is_told(monkeypatch):
    monkeypatch.setattr(exercises, "_open", True)
    with pytest.raises(LookupError, match="record.py"):
        import_module("storydiff_lite.exercises.chapter_00").known.agreement(["never", "asked"])


def test_an_installed_package_has_the_records_and_no_answers():
    root = PACKAGE.parents[1]
    told = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert told["packages"]["find"]["include"] == ["storydiff_lite*"]
    data = {p for pattern in told["package-data"]["storydiff_lite"] for p in PACKAGE.parent.glob(pattern)}
    there = {PACKAGE / "known" / f"{chapter}.json" for chapter in answers.CHAPTERS}
    assert there == set((PACKAGE / "known").glob("*")) and there <= data
    scripts = {f for ending in ("js", "css") for f in PACKAGE.parent.rglob(f"*.{ending}")}  # of the widgets
    assert scripts and scripts <= data
    assert PACKAGE.parent not in Path(answers.__file__).parents
