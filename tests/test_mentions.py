"""Who "the bear", "he", "she" and "it" are: phrases, the plain rule, what is said where it is unclear."""

import warnings

import pytest

from storydiff_lite.mentions import noun_of, phrase_of, short_form
from storydiff_lite.story import Panel, StoryError, parse

LOOKS = "a grey bear in a red outfit"
FREE = f"{LOOKS} reading in the forest"
CAST = "[Bruno] a grey bear in a red outfit\n[Mia] a white cat\n\n"


def told(text):
    """The panels of a story, and what the warnings say."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        story = parse(text)
        assert parse(story.text) == story, "a story that is written anew is the same"
    half = len(said) // 2  # it was read twice
    return story.panels, [str(w.message) for w in said[:half]]


@pytest.mark.parametrize(
    ("prompt", "phrase", "noun"),
    [
        (FREE, LOOKS, "bear"),
        ("An old man reads in the snow", "An old man", "man"),
        ("an old king is reading", "an old king", "king"),
        ("a walking bear", "a walking bear", "bear"),
        ("a bear", "a bear", "bear"),
        ("a bear, big and old, reading", "a bear", "bear"),
        ("a bear on a sofa", "a bear", "bear"),
        ("a bear in the forest reading", "a bear", "bear"),
        ("a bear with grey fur walks", "a bear with grey fur", "bear"),
        ("a bear with round glasses walks", "a bear with round glasses", "bear"),
        ("a bear with glasses walks", "a bear with glasses", "bear"),
        (
            "a girl wearing red clothes and a blue bow holding a balloon",
            "a girl wearing red clothes and a blue bow",
            "girl",
        ),
        ("a bear walking and a cat waving", "a bear", "bear"),
        ("a bear and a cat waving", "a bear", "bear"),
        ("the sea at night", None, None),
        ("an empty scene on the beach", None, None),
        ("a photo of a bear", None, None),
        ("nobody in the forest", None, None),
    ],
)
def test_whom_a_prompt_introduces(prompt, phrase, noun):
    assert phrase_of(prompt) == phrase
    assert phrase is None or noun_of(phrase) == noun


def test_every_caption_of_the_world_gives_its_character():
    import random

    from storydiff_lite import world

    for i in range(300):
        rng = random.Random(i)
        who = world.Character.random(rng)
        looks = world.describe(who, {"fur", "skin", "outfit", "accessory", "accessory_colour"}, rng)
        for action in world.ACTIONS.values():
            for scene in world.SCENES.values():
                assert phrase_of(f"{looks} {action} {scene}") == looks
        assert noun_of(looks) == who.species


def test_an_article_fits_its_noun():
    assert short_form("a grey owl in a red outfit") == "an owl" and short_form(LOOKS) == "a bear"


# ------------------------------------------------------------------------------------------ without a cast
@pytest.mark.parametrize(
    ("line", "prompt", "caption"),
    [
        ("he is sleeping on the beach", "a bear is sleeping on the beach", "he is sleeping on the beach"),
        ("She waves", "a bear waves", "She waves"),
        ("it's waving # It waves.", "a bear is waving", "It waves."),
        ("the bear waving", "a bear waving", "the bear waving"),
        ("The grey bear waving #", "a bear waving", ""),
    ],
)
def test_the_short_form_stands_there_and_the_phrase_is_carried(line, prompt, caption):
    panels, said = told(f"{FREE}\n{line}")
    assert panels[1] == Panel(prompt, caption, carried=("a bear", LOOKS)) and not said
    assert panels[1].full_prompt == prompt.replace("a bear", LOOKS)
    assert panels[0] == Panel(FREE) and panels[0].full_prompt == FREE


def test_sentences_too():
    panels, said = told("A grey bear reads in the forest. He sleeps on the beach.")
    assert panels[1] == Panel(
        "a bear sleeps on the beach", "He sleeps on the beach.", carried=("a bear", "A grey bear")
    )
    assert not said


@pytest.mark.parametrize(
    "line",
    [
        "a bear waving",  # somebody new
        "the forest at night",
        "the cat waving",
        "the red bear waving",  # he is not red
        "here it rains",  # not at the beginning
        "item by item",
        "[NC] it is raining",
        "hers is the sea",
    ],
)
def test_what_is_no_mention_stays_as_it_is(line):
    panels, said = told(f"{FREE}\n{line}")
    assert panels[1].prompt == line.removeprefix("[NC] ") and panels[1].carried is None and not said


def test_a_pronoun_that_comes_late_is_drawn_as_it_stands_and_that_is_said():
    panels, said = told(f"{FREE}\nhere he sleeps\na cat says he sleeps")
    assert panels[1] == Panel("here he sleeps")
    assert len(said) == 1 and said[0].startswith("Line 2, column 1 of the story: 'he' is drawn as it stands")


def test_who_is_named_in_a_panel_is_not_he_there():
    cast = "[Bo] a bear\n[Mia] a cat\n\n[Bo] reads\n[Mia] walks\n"
    panels, said = told(f"{cast}he left and [Mia] right wave\nhe and she sit\nthe cat and [Mia] run")
    assert panels[2].characters == ("Bo", "Mia") and panels[2].prompt == "a bear and a cat wave"
    assert set(panels[3].characters) == {"Bo", "Mia"}  # he and she are two
    assert panels[4].characters == ("Mia",) and panels[4].prompt == "the cat and a cat run"
    assert len(said) == 1 and "line 7" in said[0].lower() and "may be" in said[0]
    _, said = told("[Bo] a bear\n\n[Bo] and he wave")
    assert len(said) == 1 and "'he' is nobody" in said[0]


def test_where_nothing_is_to_carry_the_short_form_alone_stands_there():
    panels, _ = told("a bear reading\nhe sleeps")
    assert panels[1] == Panel("a bear sleeps", "he sleeps")


def test_a_pronoun_before_anybody_is_told_and_it_may_be_the_weather():
    panels, said = told("he sleeps\nit is raining")
    assert [p.prompt for p in panels] == ["he sleeps", "it is raining"]
    assert len(said) == 1 and said[0].startswith("Line 1, column 1 of the story: 'he' is nobody")


def test_several_without_a_cast():
    text = f"{FREE}\na white cat waving\n"
    panels, said = told(text + "he walks\nthe bear sits\nhe sits\nthe bear runs\nshe runs")
    assert [p.carried and p.carried[1] for p in panels[2:]] == [
        "a white cat",  # the one that was named last, though it was not meant, perhaps
        LOOKS,
        LOOKS,
        LOOKS,
        LOOKS,
    ]
    assert [s.split(":")[0] for s in said] == [f"Line {n}, column 1 of the story" for n in (3, 5, 7)]
    assert "'he' may be 'a grey bear in a red outfit' or 'a white cat'" in said[0]
    assert "it is taken as 'a white cat', who was named last" in said[0]
    panels, said = told(f"{FREE}\na bear waving\nthe bear sits")
    assert panels[2].carried is None and "'the bear' may be" in said[0]


def test_a_list_of_prompts_is_taken_as_it_stands():
    from storydiff_lite.story import as_panels

    assert as_panels([FREE, "he sleeps"]) == [Panel(FREE), Panel("he sleeps")]


# ------------------------------------------------------------------------------------------ with a cast
def test_a_mention_is_as_the_name():
    panels, said = told(CAST + "[Bruno] reading\nhe sleeps # Good night.\nthe grey bear and [Mia] waving")
    names, _ = told(CAST + "[Bruno] reading\n[Bruno] sleeps # Good night.\n[Bruno] and [Mia] waving")
    assert not said and panels[1] == names[1]
    assert panels[2].prompt == names[2].prompt and panels[2].characters == ("Bruno", "Mia")
    assert panels[2].text == "the grey bear and Mia waving", "the caption is as it was written"


def test_who_was_she_is_not_he():
    text = "[Bruno] reading\nhe sleeps\n[Mia] waving\nshe sits\nhe walks\n[Mia] and he sit\nshe runs"
    panels, said = told(CAST + text)
    assert not said
    assert [p.characters for p in panels[3:]] == [("Mia",), ("Bruno",), ("Mia", "Bruno"), ("Mia",)]


def test_where_it_is_unclear_the_one_named_last_is_taken_and_a_warning_says_so_once():
    panels, said = told(CAST + "[Bruno] reading\n[Mia] waving\nshe sits\nshe walks")
    assert [p.characters for p in panels[2:]] == [("Mia",), ("Mia",)]
    assert len(said) == 1
    assert said[0] == (
        "Line 6, column 1 of the story: 'she' may be [Bruno] or [Mia]; it is taken as [Mia], who was named "
        "last. Write the name, and it is clear."
    )
    panels, said = told("[A] a bear\n[B] a bear\n\nthe bear sits\n[B] walks\nthe bear waves")
    assert [p.characters for p in panels] == [("A",), ("B",), ("B",)]
    assert "[A], who is declared first" in said[0] and "[B], who was named last" in said[1]


def test_one_character_may_be_called_anything():
    panels, said = told(CAST + "[Bruno] reads\nhe sleeps\nit waves\nshe sits")
    assert not said and {p.characters for p in panels} == {("Bruno",)}


def test_nobody_is_meant_before_anybody_is_named():
    with pytest.raises(StoryError, match="names nobody of the cast"):
        parse(CAST + "he sleeps")


def test_names_however_their_accents_were_typed():
    panels, _ = told("[Zoe\u0301] a cat\n\n[Zo\u00e9] sits\nshe waves and [Zoe\u0301] too")
    assert [p.characters for p in panels] == [("Zo\u00e9",), ("Zo\u00e9",)]


# ------------------------------------------------------------------------------------------ a panel
def test_a_panel_that_carries_begins_with_the_short_form():
    with pytest.raises(ValueError, match="must begin with what the carried phrase stands for, 'a bear'"):
        Panel("he sleeps", carried=("a bear", LOOKS))
