"""Story text to panels."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storydiff_lite.story import Panel, StoryError, as_panels, parse, read_story, sentences


def test_prompts_captions_blank_lines():
    text = "a bear reads  #  He reads. # twice\n\n   \r\n  a bear sleeps\na bear runs #"
    assert read_story(text) == [
        Panel("a bear reads", "He reads. # twice"),
        Panel("a bear sleeps"),
        Panel("a bear runs", ""),
    ]
    assert [p.text for p in read_story(text)] == ["He reads. # twice", "a bear sleeps", ""]


def test_list_elements_are_prompts_whole():
    assert as_panels(["bear #3", Panel("cat", "c")]) == [Panel("bear #3"), Panel("cat", "c")]
    assert as_panels(("a",)) == as_panels(Panel("a")) == [Panel("a")]


@pytest.mark.parametrize("text", ["", "  \n\n", "\t"])
def test_empty_story(text):
    with pytest.raises(ValueError, match="story is empty"):
        as_panels(text)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("1. a bear reads\n2. a bear sleeps # Night.", ["a bear reads", "a bear sleeps"]),
        ("1) a bear reads\n\n2) a bear sleeps", ["a bear reads", "a bear sleeps"]),
        ("- a bear reads\n- a bear sleeps", ["a bear reads", "a bear sleeps"]),
        ("[A] a bear\n\n• [A] reads\n• [NC] the sea", ["a bear reads", "the sea"]),
        ("- a bear", ["- a bear"]),  # one is no list
        ("2 bears wave\n3 cats sit", ["2 bears wave", "3 cats sit"]),
        ("2. a bear\n3. a cat", ["2. a bear", "3. a cat"]),  # it does not count from 1
        ("- a bear reads\na cat", ["- a bear reads", "a cat"]),
    ],
)
def test_a_list_is_read_without_its_marks(text, prompts):
    story = parse(text)
    assert [panel.prompt for panel in story.panels] == prompts and parse(story.text) == story
    with pytest.raises(StoryError, match="Line 2, column 4 of the story: .*Nobody"):
        parse("1. a bear reads\n2. [Nobody] sits")


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
        ("", 1, 1, "story is empty"),
        ("\n \n", 1, 1, "story is empty"),
        ("[Bruno] a bear\n", 1, 15, "no panels. Leave an empty line"),
        ("a\u2028b\n\fc\n# x", 3, 1, "no prompt before the '#'"),
        ("[Zoe\u0308] a cat\n\n[Zo\u00eb] sits\nthe cat Zoe\u0308 sits", 4, 9, "write [Zo\u00eb]"),
        ("[Zo\u00eb] a cat\n\n[Zo\u00eb] and Zoe\u0308 sit", 3, 11, "write [Zo\u00eb]"),
        ("a bear \ud83d runs", 1, 8, "half a character (U+D83D"),
        ("【小明】一个男孩\n\n【小红】睡觉", 3, 1, "[小红] was never declared"),
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


@pytest.mark.parametrize(
    "between", [": ", " - ", " \u2013 ", "\u2014", " = ", ":", "： ", ", ", " -> ", " : - "]
)
def test_what_separates_a_name_from_its_description(between):
    assert parse(f"[Bruno]{between}a bear-cub: big.\n\n[Bruno] reads").cast == {"Bruno": "a bear-cub: big"}


@pytest.mark.parametrize(
    "text, prompt",
    [
        ("[NC]: the sea", "the sea"),
        ("[NC] - the sea", "the sea"),
        ("[NC] -5 degrees", "-5 degrees"),
        ("[ NC ] fog", "fog"),
    ],
)
def test_what_separates_nobody_from_the_prompt(text, prompt):
    assert read_story(text) == [Panel(prompt, prompt, no_character=True)]
    assert as_panels([text]) == [Panel(prompt, no_character=True)]


@pytest.mark.parametrize(
    "panel, prompt, caption",
    [
        ("[Bruno]reads", "a bear reads", "Bruno reads"),
        ("[Bruno][Mia]", "a bear a cat", "Bruno Mia"),
        ("see[Mia]sit", "see a cat sit", "see Mia sit"),
        ("[Bruno]'s cat ([Mia]), \u201c[Mia]\u201d", "a bear's cat (a cat), \u201ca cat\u201d", None),
        ("[Bruno]在森林里", "a bear在森林里", None),
        ("[Bruno] reads # [Bruno]s Buch", "a bear reads", "Brunos Buch"),
    ],
)
def test_words_that_touch_a_name(panel, prompt, caption):
    found = read_story(CAST + panel)[0]
    assert found.prompt == prompt and caption in (None, found.text)


@pytest.mark.parametrize("mark", ["#", " #", "  #  ", "＃"])
@pytest.mark.parametrize("panel", ["[NC] a kitten", "[Mia] sits"])
def test_an_empty_caption_prints_nothing(panel, mark):
    assert read_story(CAST + panel + mark)[0].text == ""
    assert read_story("a kitten" + mark) == [Panel("a kitten", "")]


@pytest.mark.parametrize("space", ["\u2028", "\u2029", "\v", "\f", "\x85", "\x1c", "\x1d", "\x1e"])
def test_only_line_ends_end_a_line(space):
    story = parse(
        f"[Bruno] a{space}bear\r[Mia] a cat\r\n\n[Bruno] reads{space}[Mia] sits{space}# one{space}line"
    )
    assert story.cast["Bruno"] == "a bear"
    assert story.panels == [Panel("a bear reads a cat sits", "one line", characters=("Bruno", "Mia"))]


def test_full_width_marks():
    story = parse("【小明】一个男孩\n［小红］：一个女孩\n\n【小明】在看书＃【小明】说【好】\n【NC】大海")
    assert story.cast == {"小明": "一个男孩", "小红": "一个女孩"}
    assert story.panels == [
        Panel("一个男孩在看书", "小明说【好】", characters=("小明",)),
        Panel("大海", "大海", no_character=True),
    ]
    assert as_panels(["【NC】大海"]) == [Panel("大海", no_character=True)]


@pytest.mark.parametrize("typed", ["[Zo\u00eb]", "[Zoe\u0308]", "[ Zo\u00eb\u200b ]", "[\u200fZoe\u0308]"])
def test_a_name_is_the_same_however_it_was_typed(typed):
    story = parse(f"{typed} a cat\n\n[Zoe\u0308] sits\n[Zo\u00eb] reads")
    assert story.cast == {"Zo\u00eb": "a cat"} and not story.missing
    assert [p.text for p in story.panels] == ["Zo\u00eb sits", "Zo\u00eb reads"]


def test_accents_and_vowel_signs_make_another_word():
    story = parse(
        "[Zoe] a cat\n[\u0930\u093e\u092e] a boy\n\n[Zoe] and Zoe\u0308 and \u0930\u093e\u092e\u093e sit"
    )
    assert story.panels[0].characters == ("Zoe",)


def test_names_of_several_words_and_a_byte_order_mark():
    assert parse("\ufeff[Little  Bear] a bear\n\n[Little Bear] sits").panels[0].prompt == "a bear sits"
    with pytest.raises(StoryError, match="Line 1, column 1 .*no name"):
        parse("\ufeff[] a bear")


@pytest.mark.parametrize(
    "line, mark, instead",
    [
        ("[Bruno] a bear # hero", "'#'", "'[Bruno] a bear'"),
        ("[Bruno]: a bear, # hero", "'#'", "'[Bruno] a bear'"),
        ("[Bruno] a [brown] bear", "'[' and ']'", "'[Bruno] a brown bear'"),
        ("[Bruno] a bear ＃ hero", "'#'", "'[Bruno] a bear'"),
        ("【Bruno】 a 【brown】 bear # x", "'#' and '[' and ']'", "'[Bruno] a brown bear'"),
        ("[Bruno] a bear]", "']'", "'[Bruno] a bear'"),
    ],
)
@pytest.mark.parametrize("before, after", [("", "\n\n[Bruno] reads"), ("[Mia] a cat\n", "\n[Bruno] reads")])
def test_a_cast_line_with_marks_in_it(before, line, mark, instead, after):
    with pytest.raises(StoryError) as caught:
        parse(before + line + after)
    said = str(caught.value)
    assert f"a line with {mark} does not declare" in said and f"write {instead}, and nothing else" in said
    assert "never declared" not in said and (caught.value.line, caught.value.column) == (1 + bool(before), 1)


def test_a_panel_just_below_the_cast():
    """It needs no empty line where it cannot be taken for a declaration."""
    story = parse("[Bruno] a bear\n[Mia] a cat\n[Bruno] and [Mia] waving\n[Mia] sits # alone")
    assert [p.characters for p in story.panels] == [("Bruno", "Mia"), ("Mia",)]


# -------------------------------------------------------------------------------------------- paragraphs


@pytest.mark.parametrize(
    "paragraph, expected",
    [
        ("A bear walks. It sleeps.", ["A bear walks.", "It sleeps."]),
        ("Mr. Bear has 3.5 fish. J. Bear has none!", ["Mr. Bear has 3.5 fish.", "J. Bear has none!"]),
        ('"Stop!" he said. "Why?" She ran', ['"Stop!" he said.', '"Why?"', "She ran"]),
        ("Mia asked. He said no. She left.", ["Mia asked.", "He said no.", "She left."]),
        ("She took No. 5 and no. 6. No. 7 was gone.", ["She took No. 5 and no. 6.", "No. 7 was gone."]),
        (
            "Hats, bows, etc. She had all, etc. and so on.",
            ["Hats, bows, etc.", "She had all, etc. and so on."],
        ),
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


# ------------------------------------------------------------------------------------------- any text at all

marks = st.sampled_from("[]#【】＃［］\n\r\u2028.!。:- \u200f\u0308AeNCé")
anything = st.text(st.characters(categories=None) | marks)
names = st.sampled_from(["[A]", "[Ae\u0308]", "[ A\u00eb]", "【NC】", "[NC]", "[B]"])
lines = st.lists(names | st.text(marks, max_size=4) | st.text(st.characters(), max_size=3), max_size=6).map(
    "".join
)
stories = st.lists(lines, max_size=6).map("\n".join).map("[A] a bear\n[Ae\u0308] A's cat!\n\n".__add__)


@settings(max_examples=300, deadline=None)
@given(anything | stories)
def test_any_text_is_read_or_refused(text):
    """Whatever it is: an error that says where, or a story that is the same when it is written and read."""
    try:
        story = parse(text)
    except StoryError as error:
        assert re.match(rf"Line {error.line}, column {error.column} of the story: \S", str(error))
        rows = re.split("\r\n|\r|\n", text)
        assert 1 <= error.line <= len(rows) and 1 <= error.column <= len(rows[error.line - 1]) + 1
        return
    again = parse(story.text)
    assert again == story and again.text == story.text
    assert story.panels
    for panel in story.panels:
        assert panel.prompt == panel.prompt.strip() != ""
        assert set(panel.characters) <= set(story.cast)
        assert bool(panel.characters) != (panel.no_character or not story.cast)


@settings(deadline=None)
@given(st.text(st.sampled_from("ab[]#N C.!\n A")))
def test_any_text_of_marks_is_read_or_refused(text):
    test_any_text_is_read_or_refused.hypothesis.inner_test(text)
