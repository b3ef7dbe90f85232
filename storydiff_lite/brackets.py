"""How a line of a story is typed: names in brackets, places behind them, marks of a list, spaces.

What the names mean, `story` knows.
"""

import re
import unicodedata

from .places import SAID

#: the marks of an East Asian keyboard -> those that they are read as
MARKS = str.maketrans("【】［］＃", "[][]#")
#: marks that nobody sees: an order of bytes, a direction of writing; some editors begin a line with one
UNSEEN = "\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
DECLARATION = re.compile(rf"[\s{UNSEEN}]*\[([^\[\]#]*)\]([^\[\]#]*)")  # one name in front, and no caption
SEPARATORS = re.compile(r"[\s:：=|,，;；>→–—-]+")  # behind a name: "[Mia]: a cat", "[Mia] - a cat"
AFTER_NC = re.compile(r"(?:[:：]\s*|[–—-]\s+)+")  # "[NC]: the sea"; but "[NC] -5 degrees"
BRACKETS = re.compile(r"\[([^\[\]]*)\]")
PLACE = re.compile(rf"(\[[^\[\]]*\])\s+({SAID}),?")  # "[Bo] left, waving"
OPPOSITE = {"left": "right", "right": "left", "middle": "right"}
LIST_MARK = re.compile(rf"[\s{UNSEEN}]*(?:(\d+)[.)]|([-*•]))\s+")  # "1. a bear reads", "- a bear reads"
LINE_END = re.compile(r"\r\n|\r|\n")
_UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff]")  # Thai to Burmese, Khmer: scripts without spaces


def first_name(text):
    """Match of the brackets that a text begins with, or None."""
    return re.match(rf"[\s{UNSEEN}]*\[([^\[\]]*)\]", text)


def _in_word(c):
    """Whether a character is part of a word: a letter, a digit, or a mark on one of them."""
    return c.isalnum() or c == "_" or unicodedata.category(c)[0] == "M"


def find_name(name, text):
    """Where a name stands in a text, and not as part of a word; -1 if nowhere."""
    forms = (re.escape(unicodedata.normalize(form, name)) for form in ("NFC", "NFD"))
    for m in re.finditer("|".join(forms), text):
        around = text[max(0, m.start() - 1) : m.start()] + text[m.end() : m.end() + 1]
        if not any(map(_in_word, around)):
            return m.start()
    return -1


def _is_spaced(c):
    """Whether a character is part of a word of a script that has spaces between words."""
    return _in_word(c) and unicodedata.east_asian_width(c) not in "WF" and not _UNSPACED.match(c)


def spaced(prompt):
    """A prompt with single spaces, and with one where a word or a name touches a name."""
    out = ""
    for c in " ".join(prompt.split()):
        last = out[-1:] or " "
        if (last == "]" and (c == "[" or _is_spaced(c))) or (c == "[" and _is_spaced(last)):
            out += " "
        out += c
    return out


def without_list_marks(lines):
    """Lines (offset, line) without "1.", "2.", ..., or "-" before each, as a list of panels may come."""
    panels = [line for _, line in lines if line.strip()]
    marks = [LIST_MARK.match(line) for line in panels]
    kinds = {m and m[2] for m in marks}
    counted = all(m and m[1] == str(i) for i, m in enumerate(marks, 1))
    if len(panels) < 2 or not (counted or (len(kinds) == 1 and kinds < {*"-*•"})):
        return lines
    found = []
    for start, line in lines:
        skip = m.end() if (m := LIST_MARK.match(line)) else 0
        found.append((start + skip, line[skip:]))
    return found


def known_name(text):
    """A name as it is known by, however its accents and spaces were typed."""
    return unicodedata.normalize("NFC", " ".join(re.sub(f"[{UNSEEN}]", "", text).split()))


def without_places(text, said=()):
    """A text without the words for places behind its names, and behind those who are ``said`` otherwise."""
    names = "|".join([r"\[[^\[\]]*\]", *(rf"\b{re.escape(words)}" for words in said)])
    return re.sub(rf"({names})\s+{SAID},?", r"\1", text)


def description(text):
    """A description without what separates it from the name before it, and without a full stop."""
    text = " ".join(text.split())
    return re.sub(r"[\s.,;]+$", "", text[m.end() :] if (m := SEPARATORS.match(text)) else text)
