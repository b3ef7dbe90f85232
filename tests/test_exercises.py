"""Every checker accepts different right answers and gives each named wrong answer a hint of its own."""

import re

import pytest

from storydiff_lite import exercises
from storydiff_lite.exercises import Wrong

ALL = exercises.load_all()
RIGHT = [(n, k) for n, e in ALL.items() for k in range(len(e.right))]
WRONG = [(n, k) for n, e in ALL.items() for k in e.wrong]


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
    def stub(*args, **kwargs):
        raise NotImplementedError()

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
        exercises.exercise(next(iter(ALL)), [], {})(lambda answer: None)
