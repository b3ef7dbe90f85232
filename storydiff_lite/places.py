"""Where the characters of one panel stand: a word or a box for each, or side by side as they are named."""

import math
import re

#: words for places, by how many stand side by side
WORDS = {2: ("left", "right"), 3: ("left", "middle", "right")}
#: a place as a story text has it behind a name: a word, or a box in percent, "at 0 20 50 100"
SAID = r"(?:(?:left|middle|right)\b|at(?:,? -?\d+(?:\.\d+)?%?){2,}(?![\w%]|\.\d))"


def strips(count):
    """Boxes of ``count`` who share a panel from left to right, (left, top, right, bottom), 0 to 1 each."""
    return [(k / count, 0.0, (k + 1) / count, 1.0) for k in range(count)]


def read_place(said):
    """A place as a story text has it, as `boxes` takes it.

    Parameters
    ----------
    said : str
        What `SAID` matches: a word, or ``"at"`` and left, top, right, bottom in percent of the picture.

    Raises
    ------
    ValueError
        Not four numbers.

    Examples
    --------
    >>> read_place("left"), read_place("at 0 20 50 100")
    ('left', (0.0, 0.2, 0.5, 1.0))
    """
    if not said.startswith("at"):
        return said
    numbers = re.findall(r"-?[\d.]+", said)
    if len(numbers) != 4:
        raise ValueError(
            f"{said!r} has {len(numbers)} numbers; a box has four, left, top, right and bottom in percent of "
            "the picture, such as 'at 0 20 50 100'."
        )
    return tuple(float(number) / 100 for number in numbers)


def write_place(place):
    """A place as a story text has it: what `read_place` reads."""
    return place if isinstance(place, str) else "at " + " ".join(f"{100 * x:g}" for x in place)


def boxes(characters, places=()):
    """The box of each character of a panel.

    Parameters
    ----------
    characters : list of str
        In order of mention.
    places : list, optional
        For each a word of `WORDS`, or a box (left, top, right, bottom) as fractions of the picture, 0 to 1,
        from its upper left corner.  Side by side, in order of mention, by default.

    Returns
    -------
    list of (float, float, float, float)

    Raises
    ------
    ValueError
        Not a place for each, an unknown word, a box that is none, two at one place.
    """
    count = len(characters)
    if not places:
        return strips(count)
    if count < 2:
        who = f"{characters[0]} alone" if count else "nobody with a name"
        raise ValueError(
            f"There are places {places!r}, and {who} is in this panel: a place says where one of several "
            "stands. Leave it out."
        )
    if isinstance(places, str) or len(places) != count:
        raise ValueError(f"There are places {places!r} for {count} characters: give one for each.")
    known = dict(zip(WORDS.get(count, ()), strips(count), strict=False))
    found = [known[p] if isinstance(p, str) and p in known else _box(p, known, count) for p in places]
    for k, (name, box) in enumerate(zip(characters, found, strict=True)):
        for other, (left, top, right, bottom), place in zip(characters[:k], found, places, strict=False):
            if box[0] < right and left < box[2] and box[1] < bottom and top < box[3]:
                raise ValueError(
                    f"{other} and {name} stand at one place ({write_place(place)!r} and "
                    f"{write_place(places[k])!r}): give places that do not overlap."
                )
    return found


def _box(place, known, count):
    """A place as a box of numbers."""
    if isinstance(place, str) or not isinstance(place, (tuple, list)) or len(place) != 4:
        words = f"{', '.join(map(repr, known))}, or " if known else ""
        raise ValueError(
            f"A place is {place!r}; of {count} in a panel it must be {words}a box (left, top, right, bottom) "
            "of fractions of the picture, such as (0, 0.2, 0.5, 1); in a story text 'at 0 20 50 100'."
        )
    box = tuple(map(float, place))
    left, top, right, bottom = box
    if not all(math.isfinite(x) and 0 <= x <= 1 for x in box) or left >= right or top >= bottom:
        raise ValueError(
            f"The box {place!r} is none: (left, top, right, bottom) rise from left to right and from top to "
            "bottom, 0 to 1; in a story text 0 to 100."
        )
    return box
