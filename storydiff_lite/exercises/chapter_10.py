"""Exercises of chapter 10, the whole story."""

from __future__ import annotations

import re

from . import exercise, expect

# ---------------------------------------------------------------------------------------- read-panel


def _read_panel(line, cast):
    prompt, _, caption = line.partition("#")
    names = list(dict.fromkeys(re.findall(r"\[(.*?)\]", prompt)))
    for name in names:
        if name not in cast:
            raise ValueError(f"[{name}] was never declared")
        prompt = prompt.replace(f"[{name}]", cast[name])
    return prompt.strip(), caption.strip(), tuple(names)


def _read_panel_by_parts(line, cast):
    head, *tail = line.split("#", 1)
    parts, who, out = re.split(r"\[(.*?)\]", head), [], []
    for k, part in enumerate(parts):
        if k % 2:
            if part not in cast:
                raise ValueError(part)
            if part not in who:
                who.append(part)
            out.append(cast[part])
        else:
            out.append(part)
    return "".join(out).strip(), tail[0].strip() if tail else "", who


def _last_mark(line, cast):
    prompt, mark, caption = line.rpartition("#")
    if not mark:
        prompt, caption = caption, ""
    read = _read_panel(prompt.replace("#", ""), cast)
    return read[0], caption.strip(), read[2]


def _caption_is_drawn(line, cast):
    prompt, caption, who = _read_panel(line, cast)
    return f"{prompt} {caption}".strip(), caption, who


def _brackets_left(line, cast):
    prompt, _, caption = line.partition("#")
    who = _read_panel(line, cast)[2]
    for name in who:
        prompt = prompt.replace(name, cast[name])
    return prompt.strip(), caption.strip(), who


def _names_stay(line, cast):
    prompt, _, caption = line.partition("#")
    return re.sub(r"\[(.*?)\]", r"\1", prompt).strip(), caption.strip(), _read_panel(line, cast)[2]


def _first_name_only(line, cast):
    prompt, caption, who = _read_panel(line, cast)
    return prompt, caption, who[:1]


def _each_time(line, cast):
    prompt, caption, _ = _read_panel(line, cast)
    return prompt, caption, tuple(re.findall(r"\[(.*?)\]", line.partition("#")[0]))


def _names_of_the_caption(line, cast):
    prompt, caption, who = _read_panel(line, cast)
    more = [n for n in re.findall(r"\[(.*?)\]", caption) if n in cast and n not in who]
    return prompt, caption, (*who, *more)


def _unknown_is_fine(line, cast):
    prompt, _, caption = line.partition("#")
    who = tuple(n for n in dict.fromkeys(re.findall(r"\[(.*?)\]", prompt)) if n in cast)
    return re.sub(r"\[(.*?)\]", lambda m: cast.get(m[1], m[1]), prompt).strip(), caption.strip(), who


@exercise(
    "read-panel",
    right=[_read_panel, _read_panel_by_parts],
    wrong={
        "the last # begins the caption": (_last_mark, "first '#'"),
        "the caption is drawn too": (_caption_is_drawn, "caption is in the prompt"),
        "brackets are left": (_brackets_left, "brackets"),
        "names stay names": (_names_stay, "description"),
        "the first name only": (_first_name_only, "every name"),
        "a name each time": (_each_time, "twice"),
        "names of the caption": (_names_of_the_caption, "only in the caption"),
        "an unknown name passes": (_unknown_is_fine, "never declared"),
    },
)
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


def _may_read(cast):
    sets = [set(c) for c in cast]
    return [{j for j, b in enumerate(sets) if j != i and b and b <= a} for i, a in enumerate(sets)]


def _may_read_with_loops(cast):
    out = []
    for i, mine in enumerate(cast):
        reads = []
        for j, theirs in enumerate(cast):
            if i != j and len(theirs) > 0 and all(name in mine for name in theirs):
                reads.append(j)
        out.append(reads)
    return out


def _everyone(cast):
    return [{j for j, b in enumerate(cast) if j != i and b and a} for i, a in enumerate(cast)]


def _overlap(cast):
    return [{j for j, b in enumerate(cast) if j != i and set(a) & set(b)} for i, a in enumerate(cast)]


def _itself(cast):
    return [reads | {i} for i, reads in enumerate(_may_read(cast))]


def _equal(cast):
    return [{j for j, b in enumerate(cast) if j != i and b and set(a) == set(b)} for i, a in enumerate(cast)]


def _other_way(cast):
    return [{j for j, b in enumerate(cast) if j != i and a and set(a) <= set(b)} for i, a in enumerate(cast)]


def _nobody_is_read(cast):
    return [{j for j, b in enumerate(cast) if j != i and set(b) <= set(a)} for i, a in enumerate(cast)]


def _order_counts(cast):
    def inside(b, a):
        return b and any(tuple(a[k : k + len(b)]) == tuple(b) for k in range(len(a)))

    return [{j for j, b in enumerate(cast) if j != i and inside(b, a)} for i, a in enumerate(cast)]


def _earlier(cast):
    return [{j for j in reads if j < i} for i, reads in enumerate(_may_read(cast))]


@exercise(
    "may-read",
    right=[_may_read, _may_read_with_loops],
    wrong={
        "everyone": (_everyone, "alike"),
        "whoever shares a character": (_overlap, "through the panel of both"),
        "itself too": (_itself, "twice"),
        "the same characters only": (_equal, "panel of both reads"),
        "the other way round": (_other_way, "wrong way round"),
        "[NC] panels are read": (_nobody_is_read, "[NC]"),
        "the order of names counts": (_order_counts, "order"),
        "earlier panels only": (_earlier, "later"),
    },
)
def may_read(answer):
    """``answer(cast) -> list``: for each panel the numbers of those it reads; cast: names in each panel."""
    cast = [("A",), ("B",), ("A", "B"), (), ("A",), ("B", "A"), ("C", "A", "B"), ()]

    def is_like(other):
        return got == [set(x) for x in other(cast)]

    found = answer([tuple(c) for c in cast])
    expect(
        isinstance(found, (list, tuple)) and len(found) == len(cast),
        f"Return a list of {len(cast)}: for each panel the numbers of those that it reads.",
    )
    got = [set(x) for x in found]
    expect(not is_like(_everyone), "All read all: that makes different characters alike.")
    expect(
        not is_like(_overlap),
        "A panel of A reads one of A and B. What B looks like then reaches A through the panel of both.",
    )
    expect(not any(i in reads for i, reads in enumerate(got)), "A panel would read its own tokens twice.")
    expect(not is_like(_equal), "The panel of both reads those of each alone as well.")
    expect(not is_like(_other_way), "It is the wrong way round: a panel of A reads none of A and B.")
    expect(not is_like(_nobody_is_read), "An [NC] panel shows nobody: it is not read, and reads nobody.")
    expect(not is_like(_order_counts), "The order of names does not matter: compare sets.")
    expect(not is_like(_earlier), "Panels are drawn together: later ones may be read too.")
    want = _may_read(cast)
    for i, reads in enumerate(got):
        expect(reads == want[i], f"Panel {i} shows {cast[i]} and reads {want[i] or 'nobody'}, not {reads}.")


# ---------------------------------------------------------------------------------------- wrap-caption


def _wrap(text, width):
    lines = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
            continue
        while len(word) > width:
            lines.append(word[:width])
            word = word[width:]
        lines.append(word)
    return lines


def _wrap_by_library(text, width):
    import textwrap

    return textwrap.wrap(text, width, break_long_words=True, break_on_hyphens=False)


def _long_words_stick_out(text, width):
    lines = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _long_words_are_cut(text, width):
    return [line[:width] for line in _long_words_stick_out(text, width)]


def _the_last_line_is_lost(text, width):
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
        while len(line) > width:
            lines.append(line[:width])
            line = line[width:]
    return lines


def _anywhere(text, width):
    text = " ".join(text.split())
    return [text[i : i + width] for i in range(0, len(text), width)]


def _space_forgotten(text, width):
    lines = []
    for word in text.split():
        while len(word) > width:
            lines.append(word[:width])
            word = word[width:]
        if lines and len(lines[-1]) + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _one_word_a_line(text, width):
    return [part for word in text.split() for part in _wrap(word, width)]


def _two_lines(text, width):
    return _wrap(text, width)[:2]


@exercise(
    "wrap-caption",
    right=[_wrap, _wrap_by_library],
    wrong={
        "a long word sticks out": (_long_words_stick_out, "longer than a line"),
        "a long word is cut off": (_long_words_are_cut, "cut off"),
        "the last line is lost": (_the_last_line_is_lost, "last line"),
        "words break anywhere": (_anywhere, "would have fitted into a line"),
        "the space is forgotten": (_space_forgotten, "the space"),
        "a word a line": (_one_word_a_line, "more lines than needed"),
        "two lines and no more": (_two_lines, "two lines"),
    },
)
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
        lines, want = get(text, width), _wrap(text, width)
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


def _where(text, offset):
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _where_by_lines(text, offset):
    for number, line in enumerate(text.split("\n"), 1):
        if offset <= len(line):
            return number, offset + 1
        offset -= len(line) + 1


def _from_zero(text, offset):
    line, column = _where(text, offset)
    return line - 1, column - 1


def _column_from_zero(text, offset):
    line, column = _where(text, offset)
    return line, column - 1


def _line_end_forgotten(text, offset):
    for number, line in enumerate(text.split("\n"), 1):
        if offset <= len(line):
            return number, offset + 1
        offset -= len(line)


def _empty_lines_skipped(text, offset):
    line, column = _where(text, offset)
    return line - sum(not x.strip() for x in text.split("\n")[: line - 1]), column


def _offset_as_column(text, offset):
    return _where(text, offset)[0], offset + 1


@exercise(
    "where",
    right=[_where, _where_by_lines],
    wrong={
        "both from zero": (_from_zero, "first line is line 1"),
        "the column from zero": (_column_from_zero, "first letter of a line"),
        "line ends forgotten": (_line_end_forgotten, "end of a line"),
        "empty lines skipped": (_empty_lines_skipped, "Empty lines"),
        "the offset is the column": (_offset_as_column, "begins anew"),
    },
)
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
    expect(got != _from_zero(text, at), "Editors count from 1: the first line is line 1.")
    expect(got != _column_from_zero(text, at), "The first letter of a line stands in column 1.")
    expect(got != _offset_as_column(text, at), "The column begins anew in each line.")
    expect(got != _empty_lines_skipped(text, at), "Empty lines are lines too.")
    expect(got != _line_end_forgotten(text, at), "The end of a line takes up a place in the text as well.")
    expect(got == (4, 3), f"[Bo] stands in line 4, column 3, not {got}.")
    expect(get("[Ann] a") == (1, 1), "The first letter of the text stands in line 1, column 1.")
    expect(get("its") == (3, 8), f"'its' stands in line 3, column 8, not {get('its')}.")
