"""Answers to the exercises of chapter 10, the whole story."""

from __future__ import annotations

import re

from . import ANSWERS, Answers

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


ANSWERS["read-panel"] = Answers(
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


# ---------------------------------------------------------------------------------------- may-read


def _turned(reads):
    """Whom each panel reads -> who reads each panel."""
    return [{i for i, some in enumerate(reads) if j in some} for j in range(len(reads))]


def _reads(cast):
    sets = [set(c) for c in cast]
    return [{j for j, b in enumerate(sets) if j != i and b and b <= a} for i, a in enumerate(sets)]


def _read_by(cast):
    return _turned(_reads(cast))


def _read_by_with_loops(cast):
    out = []
    for j, shown in enumerate(cast):
        readers = []
        for i, mine in enumerate(cast):
            if i != j and len(shown) > 0 and all(name in mine for name in shown):
                readers.append(i)
        out.append(readers)
    return out


def _everyone(cast):
    return [{j for j, b in enumerate(cast) if j != i and b and a} for i, a in enumerate(cast)]


def _overlap(cast):
    return [{j for j, b in enumerate(cast) if j != i and set(a) & set(b)} for i, a in enumerate(cast)]


def _itself(cast):
    return [readers | {i} for i, readers in enumerate(_read_by(cast))]


def _equal(cast):
    return [{j for j, b in enumerate(cast) if j != i and b and set(a) == set(b)} for i, a in enumerate(cast)]


def _other_way(cast):
    return _reads(cast)


def _nobody_is_read(cast):
    return [{i for i, a in enumerate(cast) if j != i and set(b) <= set(a)} for j, b in enumerate(cast)]


def _order_counts(cast):
    def inside(b, a):
        return b and any(tuple(a[k : k + len(b)]) == tuple(b) for k in range(len(a)))

    return [{i for i, a in enumerate(cast) if j != i and inside(b, a)} for j, b in enumerate(cast)]


def _later(cast):
    return [{i for i in readers if i > j} for j, readers in enumerate(_read_by(cast))]


ANSWERS["may-read"] = Answers(
    right=[_read_by, _read_by_with_loops],
    wrong={
        "everyone": (_everyone, "alike"),
        "whoever shares a character": (_overlap, "through the panel of both"),
        "itself too": (_itself, "twice"),
        "the same characters only": (_equal, "panel of both reads"),
        "the other way round": (_other_way, "wrong way round"),
        "[NC] panels are read": (_nobody_is_read, "[NC]"),
        "the order of names counts": (_order_counts, "order"),
        "later panels only": (_later, "earlier"),
    },
)


# ---------------------------------------------------------------------------------------- token-regions


def _places(boxes, rows, columns, shift=0.5, closed=False, nobody=-1):
    found = []
    for y in range(rows):
        for x in range(columns):
            u, v, mine = (x + shift) / columns, (y + shift) / rows, nobody
            for k, (left, top, right, bottom) in enumerate(boxes):
                if left <= u and top <= v and (u < right or closed and u == right) and v < bottom:
                    mine = k
                    break
            found.append(mine)
    return found


def _regions_of_tokens(boxes, rows, columns):
    return _places(boxes, rows, columns)


def _regions_by_painting(boxes, rows, columns):
    import torch

    grid = torch.full((rows, columns), -1)
    x, y = (torch.arange(columns) + 0.5) / columns, (torch.arange(rows) + 0.5) / rows
    for k, (left, top, right, bottom) in enumerate(boxes):
        grid[((top <= y) & (y < bottom))[:, None] & (left <= x) & (x < right)] = k
    return grid.flatten().tolist()


def _corner(boxes, rows, columns):
    return _places(boxes, rows, columns, shift=0)


def _right_edge_too(boxes, rows, columns):
    return _places(boxes, rows, columns, closed=True)


def _nobody_is_the_first(boxes, rows, columns):
    return _places(boxes, rows, columns, nobody=0)


def _column_by_column(boxes, rows, columns):
    found = _places(boxes, rows, columns)
    return [found[y * columns + x] for x in range(columns) for y in range(rows)]


def _from_below(boxes, rows, columns):
    found = _places(boxes, rows, columns)
    return [found[(rows - 1 - y) * columns + x] for y in range(rows) for x in range(columns)]


ANSWERS["token-regions"] = Answers(
    right=[_regions_of_tokens, _regions_by_painting],
    wrong={
        "corners": (_corner, "middle of a token"),
        "the right edge too": (_right_edge_too, "edge of two boxes"),
        "nobody is the first": (_nobody_is_the_first, "nobody's"),
        "column by column": (_column_by_column, "row by row"),
        "from below": (_from_below, "from above"),
        "one number": (lambda boxes, rows, columns: [0], "one for each"),
    },
)


# ---------------------------------------------------------------------------------------- tokens-read


def _box_sizes(panel, rows, columns, regions):
    """Name -> how many tokens are in its box."""
    numbers = list(regions(list(panel.values()), rows, columns))
    return {name: numbers.count(k) for k, name in enumerate(panel)}


def _counted(
    panels, rows, columns, rate, times, regions, *, size=None, own=None, by_panels=False, own_times=1
):
    n = rows * columns
    parts = [(size or _box_sizes)(p, rows, columns, regions) for p in panels]
    found = []
    for i, names in enumerate(panels):
        sizes = []
        for name in names:
            read = 0
            for j, shown in enumerate(panels):
                if j == i or (not set(shown) <= set(names) if by_panels else name not in shown):
                    continue
                read += rate * (n if by_panels else parts[j][name])
            sizes.append(int((n if own is None else parts[i][name]) * own_times + times * read))
        found.append(sizes)
    return found


def _sizes(panels, rows, columns, rate, times, regions):
    return _counted(panels, rows, columns, rate, times, regions)


def _sizes_by_sums(panels, rows, columns, rate, times, regions):
    def of(i, name):
        read = 0
        for j, shown in enumerate(panels):
            if j != i and name in shown:
                mine = list(shown).index(name)
                read += sum(k == mine for k in regions(list(shown.values()), rows, columns))
        return round(rows * columns + times * rate * read)

    return [[of(i, name) for name in panel] for i, panel in enumerate(panels)]


def _own_half(panels, rows, columns, rate, times, regions):
    return _counted(panels, rows, columns, rate, times, regions, own="box")


def _by_panels(panels, rows, columns, rate, times, regions):
    return _counted(panels, rows, columns, rate, times, regions, by_panels=True)


def _whole_panels(panels, rows, columns, rate, times, regions):
    def whole(panel, rows, columns, regions):
        return dict.fromkeys(panel, rows * columns)

    return _counted(panels, rows, columns, rate, times, regions, size=whole)


def _times_forgotten(panels, rows, columns, rate, times, regions):
    return _counted(panels, rows, columns, rate, 1, regions)


def _own_times_too(panels, rows, columns, rate, times, regions):
    return _counted(panels, rows, columns, rate, times, regions, own_times=times)


def _by_area(panels, rows, columns, rate, times, regions):
    def area(panel, rows, columns, regions):
        boxes = panel.items()
        return {name: rows * columns * (r - x) * (b - y) for name, (x, y, r, b) in boxes}

    return _counted(panels, rows, columns, rate, times, regions, size=area)


def _with_nobodys(panels, rows, columns, rate, times, regions):
    def rest(panel, rows, columns, regions):
        sizes = _box_sizes(panel, rows, columns, regions)
        sizes[list(panel)[-1]] += rows * columns - sum(sizes.values())
        return sizes

    return _counted(panels, rows, columns, rate, times, regions, size=rest)


def _a_number_a_panel(panels, rows, columns, rate, times, regions):
    return [sizes[:1] for sizes in _sizes(panels, rows, columns, rate, times, regions)]


ANSWERS["region-sizes"] = Answers(
    right=[_sizes, _sizes_by_sums],
    wrong={
        "only its own box": (_own_half, "all tokens of their own panel"),
        "the rule of panels": (_by_panels, "rule of panels"),
        "whole panels": (_whole_panels, "own box is read"),
        "times forgotten": (_times_forgotten, "`times` times"),
        "own tokens too": (_own_times_too, "once"),
        "areas": (_by_area, "area of a box"),
        "what is left over": (_with_nobodys, "nobody reads them"),
        "a number a panel": (_a_number_a_panel, "for each name"),
    },
)


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


ANSWERS["wrap-caption"] = Answers(
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


ANSWERS["where"] = Answers(
    right=[_where, _where_by_lines],
    wrong={
        "both from zero": (_from_zero, "first line is line 1"),
        "the column from zero": (_column_from_zero, "first letter of a line"),
        "line ends forgotten": (_line_end_forgotten, "end of a line"),
        "empty lines skipped": (_empty_lines_skipped, "Empty lines"),
        "the offset is the column": (_offset_as_column, "begins anew"),
    },
)


# ---------------------------------------------------------------------------------------- mend-leak

_LOOKS = ("fur", "outfit", "accessory", "accessory_colour")


def _share(pairs, names):
    found = [a[k] == b[k] for a, b in pairs for k in names]
    return sum(found) / len(found)


def _leak(one, other):
    return _share([(a, b) for a in one for b in other], _LOOKS)


def _leak_attribute_by_attribute(one, other):
    total = 0
    for k in _LOOKS:
        theirs = [b[k] for b in other]
        total += sum(theirs.count(a[k]) for a in one)
    return total / (len(_LOOKS) * len(one) * len(other))


def _leak_as_it_was(one, other):
    return _share(list(zip(one, other, strict=False)), one[0])


def _leak_in_order(one, other):
    return _share(list(zip(one, other, strict=False)), _LOOKS)


def _leak_with_the_prompt(one, other):
    return _share([(a, b) for a in one for b in other], one[0])


def _leak_of_one(one, other):
    return _share([(a, b) for some in (one, other) for i, a in enumerate(some) for b in some[:i]], _LOOKS)


ANSWERS["mend-leak"] = Answers(
    right=[_leak, _leak_attribute_by_attribute],
    wrong={
        "as it was": (_leak_as_it_was, "Nothing is mended"),
        "in order": (_leak_in_order, "every picture of the other"),
        "with the prompt": (_leak_with_the_prompt, "no looks"),
        "within one": (_leak_of_one, "agrees with itself"),
    },
)
