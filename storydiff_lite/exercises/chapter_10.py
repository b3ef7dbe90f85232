"""Exercises of chapter 10, the whole story."""

from __future__ import annotations

from operator import eq

import torch

from . import exercise, expect, expect_no_mistake, expect_number, records, same

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


# ---------------------------------------------------------------------------------------- token-regions


@exercise("token-regions")
def token_regions(answer):
    """``answer(boxes, rows, columns) -> list``: the number of each token's box, row by row, or -1."""
    halves = [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]
    apart, inside = [(0.5, 0.25, 1, 1), (0, 0, 0.25, 0.75)], [(0.1, 0.0, 0.5, 1.0), (0.5, 0.0, 0.9, 1.0)]
    cases = (halves, 4, 4), (halves, 2, 6), (apart, 4, 8), (inside, 2, 4), (halves, 3, 3)
    for boxes, rows, columns in cases:
        found = answer([tuple(b) for b in boxes], rows, columns)
        expect(
            isinstance(found, (list, tuple, torch.Tensor)), "Return a list of numbers, one for each token."
        )
        got = torch.as_tensor(found).flatten().tolist()
        expect(
            len(got) == rows * columns,
            f"There are {len(got)} numbers for {rows} x {columns} tokens: give one for each.",
        )
        case = boxes, rows, columns
        want = known.regions_of_tokens(*case)
        if got == want:
            continue
        wrong = {
            "nobody_is_the_first": "A token in no box is nobody's: -1, not the first box's.",
            "from_below": "Rows are counted from above: top is smaller than bottom.",
            "column_by_column": "Tokens are numbered row by row, as the U-Net lays them out.",
            "right_edge_too": "A middle on the edge of two boxes would be in both: left and top belong to a "
            "box, right and bottom do not.",
            "corner": "Take the middle of a token, (column + 1/2) / columns, and not its corner.",
        }
        expect_no_mistake(got, known, case, wrong, eq)
        wrong = next(t for t, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
        expect(
            False,
            f"{rows} x {columns} tokens, boxes {boxes}: the token in row {wrong // columns}, column "
            f"{wrong % columns} is of {want[wrong]}, not {got[wrong]}.",
        )


# ---------------------------------------------------------------------------------------- tokens-read


_ALL, _LEFT, _RIGHT = (0, 0, 1, 1), (0, 0, 0.5, 1), (0.5, 0, 1, 1)


@exercise("region-sizes", builds_on={"token-regions": "regions_of_tokens"})
def region_sizes(answer, regions):
    """``answer(panels, rows, columns, rate, times, regions) -> list``: what each character reads."""
    alone = [{"A": _ALL}, {"B": _ALL}]
    cases = (
        ([*alone, {"A": _LEFT, "B": _RIGHT}], 4, 5, 1, 1),
        ([*alone, {"A": (0, 0, 0.55, 1), "B": (0.55, 0, 1, 0.7)}], 8, 8, 0.5, 3),
        (
            [alone[0], {"A": _LEFT, "B": _RIGHT}, {"B": _LEFT, "A": _RIGHT}, {"C": _ALL}, alone[1]],
            8,
            8,
            0.5,
            3,
        ),
    )
    for panels, rows, columns, rate, times in cases:
        found = answer([dict(p) for p in panels], rows, columns, rate, times, regions)
        expect(isinstance(found, (list, tuple)), "Return a list with a list for each panel.")
        got = [[int(x) for x in panel] for panel in found]
        case = panels, rows, columns, rate, times, regions
        want = known.sizes(*case)
        if got == want:
            continue
        expect(
            [len(p) for p in got] == [len(p) for p in panels],
            "Each character of a panel has a list of its own: give a number for each name.",
        )
        wrong = {
            "own_half": "Regions that are not isolated read all tokens of their own panel.",
            "by_panels": "That is the rule of panels. A panel of one now also reads its character's region "
            "in panels of two.",
            "whole_panels": "Of a panel of two only what lies in the character's own box is read.",
            "times_forgotten": "A token of another panel stands in the list `times` times.",
            "own_times_too": "The panel's own tokens stand in the list once.",
            "by_area": "You took the area of a box. A box has the tokens whose middle lies in it.",
            "with_nobodys": "Tokens in no box are nobody's, and nobody reads them.",
        }
        expect_no_mistake(got, known, case, wrong, eq)
        i = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
        expect(
            False,
            f"{rows} x {columns} tokens, rate {rate}, times {times}: in panel {i}, {panels[i]}, the numbers "
            f"are {want[i]}, not {got[i]}.",
        )


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
    wrong = {
        "from_zero": "Editors count from 1: the first line is line 1.",
        "column_from_zero": "The first letter of a line stands in column 1.",
        "offset_as_column": "The column begins anew in each line.",
        "empty_lines_skipped": "Empty lines are lines too.",
        "line_end_forgotten": "The end of a line takes up a place in the text as well.",
    }
    expect_no_mistake(got, known, (text, at), wrong, eq)
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
    wrong = {
        "leak_as_it_was": "Nothing is mended yet: two characters with the same looks in two scenes should "
        "have a leak of 1.",
        "leak_in_order": "The attributes are right; compare every picture of the one with every picture of "
        "the other.",
        "leak_with_the_prompt": "All pairs are there; species and scene are named in the prompts, and no "
        "looks.",
        "leak_of_one": "You compared pictures within a list: that is how well a character agrees with "
        "itself.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.leak(*args)), "The number is another one.")
    turned = expect_number(answer([dict(x) for x in one[::-1]], [dict(x) for x in other]))
    expect(same(turned, got), "In another order of the pictures your answer is another one.")
