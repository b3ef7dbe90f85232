"""Exercises of chapter 10, the whole story."""

from __future__ import annotations

from . import exercise, expect, expect_number, records, same

known = records("chapter_10")


# ---------------------------------------------------------------------------------------- read-panel


@exercise("read-panel")
def read_panel(answer):
    """``answer(line, cast) -> (prompt, caption, names)``; ValueError for a name that is not in the cast."""
    cast = {"Ann": "a girl", "Bo": "a bear", "Cy": "a cat"}

    def get(line):
        found = answer(line, dict(cast))
        expect(
            isinstance(found, (tuple, list)) and len(found) == 3, "Return three: prompt, caption and names."
        )
        prompt, caption, who = found
        expect(isinstance(prompt, str) and isinstance(who, (tuple, list)), "A prompt is text, names a tuple.")
        return prompt, caption or "", tuple(who)

    prompt, caption, _ = get("[Ann] sits # one # two")
    expect(prompt != "a girl sits one # two", "The caption is in the prompt: it would be drawn.")
    expect("[" not in prompt and "]" not in prompt, "The brackets are still in the prompt.")
    expect(
        prompt != "Ann sits",
        "The model does not know who Ann is: put her description in the place of her name.",
    )
    expect(caption == "one # two", "A caption begins after the first '#', and may hold others.")
    expect(prompt == "a girl sits", f"The prompt is {prompt!r}; expected 'a girl sits'.")
    prompt, _, who = get("[Bo] walks and [Ann] sits, but [Bo] is faster")
    expect(
        who != ("Bo", "Ann", "Bo"), "Somebody is named twice: a character is in a panel once, however often."
    )
    expect(who == ("Bo", "Ann"), f"The names are {who}; expected every name in its order: ('Bo', 'Ann').")
    expect(prompt == "a bear walks and a girl sits, but a bear is faster", f"The prompt is {prompt!r}.")
    expect(get("[Cy] sleeps # [Ann] is away")[2] == ("Cy",), "Ann is only in the caption, not in the panel.")
    expect(get("the moon")[:] == ("the moon", "", ()), "A line without caption and names is a prompt.")
    try:
        answer("[Dee] sits", dict(cast))
    except ValueError:
        return
    except KeyError as error:
        expect(False, f"A name that was never declared raised KeyError({error}); raise a ValueError instead.")
    expect(False, "[Dee] was never declared, and nothing was said about it: raise a ValueError.")


# ---------------------------------------------------------------------------------------- may-read


@exercise("may-read")
def may_read(answer):
    """``answer(cast) -> list``: for each panel the numbers of those that read it; cast: the names in each."""
    cast = [("A",), ("B",), ("A", "B"), (), ("A",), ("B", "A"), ("C", "A", "B"), ()]

    def is_like(other):
        return got == [set(x) for x in other(cast)]

    found = answer([tuple(c) for c in cast])
    expect(
        isinstance(found, (list, tuple)) and len(found) == len(cast),
        f"Return a list of {len(cast)}: for each panel the numbers of those that read it.",
    )
    got = [set(x) for x in found]
    expect(not is_like(known.everyone), "All read all: that makes different characters alike.")
    expect(
        not is_like(known.overlap),
        "A panel of A reads one of A and B. What B looks like then reaches A through the panel of both.",
    )
    expect(not any(i in readers for i, readers in enumerate(got)), "A panel would read its own tokens twice.")
    expect(not is_like(known.equal), "The panel of both reads those of each alone as well.")
    expect(
        not is_like(known.other_way),
        "It is the wrong way round: these are the panels that each one reads; asked is who reads it.",
    )
    expect(
        not is_like(known.nobody_is_read), "An [NC] panel shows nobody: nobody reads it, and it reads nobody."
    )
    expect(not is_like(known.order_counts), "The order of names does not matter: compare sets.")
    expect(not is_like(known.later), "Panels are drawn together: earlier ones may read it too.")
    want = known.read_by(cast)
    for i, readers in enumerate(got):
        who = f"panel {i}, which shows {cast[i]}, is read by {sorted(want[i]) or 'nobody'}"
        expect(readers == want[i], f"Some panel differs: {who}, not {sorted(readers) or 'nobody'}.")


# ---------------------------------------------------------------------------------------- wrap-caption


@exercise("wrap-caption")
def wrap_caption(answer):
    """``answer(text, width) -> lines`` of at most ``width`` letters: none lost, words whole if they fit."""

    def get(text, width):
        found = answer(text, width)
        expect(
            isinstance(found, (list, tuple)) and all(isinstance(x, str) for x in found),
            "Return a list of lines.",
        )
        return [line.strip() for line in found]

    for text, width in (("the bear went to the sea and saw it", 12), ("a Donaudampfschifffahrt it was", 9)):
        lines, want = get(text, width), known.wrap(text, width)
        long = [line for line in lines if len(line) > width]
        expect(
            not any(" " in line for line in long),
            f"{long} is longer than {width}: did you count the space between two words?",
        )
        expect(not long, f"{long} is a word longer than a line: break it.")
        whole, there = "".join(text.split()), "".join(lines).replace(" ", "")
        if there != whole:
            expect(lines != want[:2], "After two lines the rest is gone.")
            expect(lines != want[:-1], "The last line is missing: what was begun must be added at the end.")
            expect(len(there) >= len(whole) or not whole.startswith(there), "The end of the text is missing.")
            expect(False, "Letters are missing: a long word was cut off instead of broken.")
        words = [w for w in text.split() if len(w) <= width]
        broken = [w for w in words if w not in " ".join(lines).split() and w not in lines]
        expect(not broken, f"{broken} would have fitted into a line and was broken.")
        expect(len(lines) <= len(want), f"{len(lines)} lines are more lines than needed: {len(want)}.")
    expect(get("", 10) == [], "A text without words has no lines.")


# ---------------------------------------------------------------------------------------- where


@exercise("where")
def where(answer):
    """``answer(text, offset) -> (line, column)``, both from 1."""
    text = "[Ann] a girl\n\n[Ann] sits\n  [Bo] walks"

    def get(mark):
        found = answer(text, text.index(mark))
        expect(
            isinstance(found, (tuple, list)) and len(found) == 2,
            "Return two numbers: the line and the column.",
        )
        return tuple(int(x) for x in found)

    at = text.index("[Bo]")
    got = get("[Bo]")
    expect(got != known.from_zero(text, at), "Editors count from 1: the first line is line 1.")
    expect(got != known.column_from_zero(text, at), "The first letter of a line stands in column 1.")
    expect(got != known.offset_as_column(text, at), "The column begins anew in each line.")
    expect(got != known.empty_lines_skipped(text, at), "Empty lines are lines too.")
    expect(
        got != known.line_end_forgotten(text, at), "The end of a line takes up a place in the text as well."
    )
    expect(got == (4, 3), f"[Bo] stands in line 4, column 3, not {got}.")
    expect(get("[Ann] a") == (1, 1), "The first letter of the text stands in line 1, column 1.")
    expect(get("its") == (3, 8), f"'its' stands in line 3, column 8, not {get('its')}.")


# ---------------------------------------------------------------------------------------- mend-leak


def _read(*values):
    names = ("species", "fur", "outfit", "accessory", "accessory_colour", "scene")
    return dict(zip(names, values, strict=True))


@exercise("mend-leak")
def mend_leak(answer):
    """``answer(one, other) -> float``: how much the looks of two characters agree, over all pairs."""
    one = [
        _read("bear", "brown", "red", "hat", "blue", "beach"),
        _read("bear", "brown", "green", "hat", "blue", "snow"),
    ]
    other = [
        _read("cat", "brown", "green", "scarf", "red", "snow"),
        _read("cat", "grey", "green", "hat", "red", "snow"),
        _read("cat", "brown", "red", "hat", "blue", "city"),
    ]
    args = (one, other)
    got = expect_number(answer([dict(x) for x in one], [dict(x) for x in other]))
    expect(
        not same(got, known.leak_as_it_was(*args)),
        "Nothing is mended yet: two characters with the same looks in two scenes should have a leak of 1.",
    )
    expect(
        not same(got, known.leak_in_order(*args)),
        "The attributes are right; compare every picture of the one with every picture of the other.",
    )
    expect(
        not same(got, known.leak_with_the_prompt(*args)),
        "All pairs are there; species and scene are named in the prompts, and no looks.",
    )
    expect(
        not same(got, known.leak_of_one(*args)),
        "You compared pictures within a list: that is how well a character agrees with itself.",
    )
    expect(same(got, known.leak(*args)), "The number is another one.")
    turned = expect_number(answer([dict(x) for x in one[::-1]], [dict(x) for x in other]))
    expect(same(turned, got), "In another order of the pictures your answer is another one.")
