"""Story text to panels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storydiff_lite.story import Panel, as_panels, read_story


def test_prompts_captions_blank_lines():
    text = "a bear reads  #  He reads. # twice\n\n   \r\n  a bear sleeps\na bear runs #"
    assert read_story(text) == [
        Panel("a bear reads", "He reads. # twice"),
        Panel("a bear sleeps"),
        Panel("a bear runs"),
    ]
    assert [p.text for p in read_story(text)] == ["He reads. # twice", "a bear sleeps", "a bear runs"]


def test_list_elements_are_prompts_whole():
    assert as_panels(["bear #3", Panel("cat", "c")]) == [Panel("bear #3"), Panel("cat", "c")]
    assert as_panels(("a",)) == as_panels(Panel("a")) == [Panel("a")]


@pytest.mark.parametrize("text", ["", "  \n\n", "\t"])
def test_empty_story(text):
    with pytest.raises(ValueError, match="story is empty"):
        as_panels(text)


def test_caption_without_prompt():
    with pytest.raises(ValueError, match="Line 2 .*'# alone'"):
        as_panels("a bear\n# alone")


@pytest.mark.parametrize(
    "story, error",
    [
        ([], ValueError),
        ([""], ValueError),
        ([None], TypeError),
        (None, TypeError),
        ([["a"]], TypeError),
        (b"a", TypeError),
        ({"a": 1}, TypeError),
    ],
)
def test_what_is_no_story(story, error):
    with pytest.raises(error):
        as_panels(story)


@pytest.mark.parametrize("prompt, error", [(" ", ValueError), (3, TypeError)])
def test_bad_panel(prompt, error):
    with pytest.raises(error, match="prompt"):
        Panel(prompt)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        panels = read_story(text)
    except ValueError as error:
        assert "story" in str(error)
    else:
        assert panels and all(p.prompt == p.prompt.strip() != "" for p in panels)


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(words, st.none() | words), min_size=1))
def test_written_and_read_again(rows):
    text = "\n\n".join(p if c is None else f"{p} # {c}" for p, c in rows)
    assert read_story(text) == [Panel(p, c) for p, c in rows]
