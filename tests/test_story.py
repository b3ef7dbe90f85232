"""Story text to panels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storydiff_lite.story import Panel, StoryError, as_panels, parse, read_story, sentences


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
    with pytest.raises(ValueError, match="Line 2, column 1 .*'# alone'"):
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


# ------------------------------------------------------------------------------------------------ a cast

CAST = "[Bruno] a bear.\n[Mia] a cat\n\n"


def test_names_stand_for_descriptions():
    story = parse(CAST + "[Bruno] walking and [Mia] waving # [Bruno] says hi\n[NC] the sea\n[Mia] sitting")
    assert story.cast == {"Bruno": "a bear", "Mia": "a cat"}
    assert story.panels == [
        Panel("a bear walking and a cat waving", "Bruno says hi", characters=("Bruno", "Mia")),
        Panel("the sea", "the sea", no_character=True),
        Panel("a cat sitting", "Mia sitting", characters=("Mia",)),
    ]


def test_any_number_of_characters_and_names_with_spaces():
    names = [f"Bear {i}" for i in range(7)]
    text = "".join(f"[{n}] bear number {i}\n" for i, n in enumerate(names))
    story = parse(text + "\n" + " and ".join(f"[ {n} ]" for n in names) + " dancing\n[Bear 1] and [Bear 1]")
    assert [p.characters for p in story.panels] == [tuple(names), ("Bear 1",)]
    assert story.panels[1].prompt == "bear number 1 and bear number 1"


def test_who_is_declared_and_never_comes():
    assert parse(CAST + "[Mia] sleeping").missing == ["Bruno"]


@pytest.mark.parametrize(
    "text, line, column, words",
    [
        (CAST + "[Bruno] reads\n  a [Bruni] sits", 5, 5, "[Bruni] was never declared. Did you mean [Bruno]?"),
        (CAST + "[mia] reads", 4, 1, "Did you mean [Mia]?"),
        (CAST + "[nc] the sea", 4, 1, "Did you mean [NC]?"),
        (CAST + "[Zzz] reads", 4, 1, "The cast is [Bruno], [Mia]"),
        ("[Bob] walking # hi", 1, 1, "Begin the story with its cast"),
        ("a [b] c", 1, 3, "never declared"),
        ("[A] one\n[B] two\n [A] three", 3, 2, "declared twice (first in line 1)"),
        (CAST + "[Mia] and Bruno walking", 4, 11, "write [Bruno]"),
        (CAST + "[NC] Bruno is away", 4, 6, "write [Bruno]"),
        (CAST + "he sleeps", 4, 1, "names nobody of the cast"),
        (CAST + "[NC] [Mia] sits", 4, 1, "nobody is in this panel, and [Mia] is"),
        (CAST + "[Mia] sits [NC]", 4, 12, "at the beginning"),
        (CAST + "[Mia sits", 4, 1, "not closed"),
        (CAST + "[Mia] sits]", 4, 11, "not opened"),
        (CAST + "[] sits", 4, 1, "never declared"),
        (CAST + "[NC] # nothing", 4, 1, "is empty"),
        ("[] a bear", 1, 1, "no name"),
        ("[Bob]\n\n[Bob] sits", 1, 1, "no description"),
        ("[B] a bear\r\n\r\n[B] sits.\r\n[X] sits", 4, 1, "[X] was never"),
        (CAST + "[Mia] slept. Then [Mia]\n woke. [Max] ran.", 5, 8, "[Max] was never declared"),
    ],
)
def test_errors_name_line_and_column(text, line, column, words):
    with pytest.raises(StoryError) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert words in str(caught.value)
    assert f"Line {line}, column {column} of the story" in str(caught.value)


def test_a_cast_alone_is_no_story():
    with pytest.raises(ValueError, match="no panels. Leave an empty line"):
        parse("[Bruno] a bear\n")


def test_a_name_inside_another_word_or_name_is_none():
    story = parse("[Bear] a bear\n[Little Bear] a small bear\n\n[Little Bear] with Bearskin # Bear?")
    assert story.panels[0].characters == ("Little Bear",)


def test_a_panel_is_nobodys_or_somebodys():
    with pytest.raises(ValueError, match="nobody"):
        Panel("x", no_character=True, characters=("A",))
    with pytest.raises(TypeError, match="tuple of names"):
        Panel("x", characters="A")


# -------------------------------------------------------------------------------------------- paragraphs


@pytest.mark.parametrize(
    "paragraph, expected",
    [
        ("A bear walks. It sleeps.", ["A bear walks.", "It sleeps."]),
        ("Mr. Bear has 3.5 fish. J. Bear has none!", ["Mr. Bear has 3.5 fish.", "J. Bear has none!"]),
        ('"Stop!" he said. "Why?" She ran', ['"Stop!" he said.', '"Why?"', "She ran"]),
        ("Wait... what? No", ["Wait... what?", "No"]),
        ("熊走了。猫睡了！", ["熊走了。", "猫睡了！"]),
        (" ", []),
    ],
)
def test_sentences(paragraph, expected):
    assert sentences(paragraph) == expected


def test_a_paragraph_is_split_by_sentence():
    text = CAST + "[Bruno] is walking in\nthe forest. [NC] The sea is calm! [Mia] sleeps."
    assert read_story(text) == [
        Panel("a bear is walking in the forest", "Bruno is walking in the forest.", characters=("Bruno",)),
        Panel("The sea is calm", "The sea is calm!", no_character=True),
        Panel("a cat sleeps", "Mia sleeps.", characters=("Mia",)),
    ]


def test_lines_with_captions_are_no_paragraph():
    assert read_story("A bear. A cat # both. Yes.") == [Panel("A bear. A cat", "both. Yes.")]


def test_blocks_are_read_each_for_itself():
    assert [p.prompt for p in read_story("a bear\na cat\n\nA dog runs. A cow sits.\n\na pig # x. Y")] == [
        "a bear",
        "a cat",
        "A dog runs",
        "A cow sits",
        "a pig",
    ]


@given(st.text(st.sampled_from("ab[]#N C.!\n A")))
def test_any_text_of_marks_is_read_or_refused(text):
    try:
        story = parse(text)
    except ValueError as error:
        assert "story" in str(error)
    else:
        assert story.panels
        for panel in story.panels:
            assert set(panel.characters) <= set(story.cast)
            assert bool(panel.characters) != (panel.no_character or not story.cast)
