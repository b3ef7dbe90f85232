"""Sentences of a paragraph: where each begins and ends."""

import re

_END = re.compile(r"(?:[.!?…]+[\"'”’»)]*(?=\s+\S))|(?:[。！？]+[」』”]*(?=\s*\S))")
_ABBREVIATIONS = {"mr", "mrs", "ms", "dr", "st", "prof", "sr", "jr", "vs", "e.g", "i.e"}


def sentences(paragraph):
    """A paragraph as a list of its sentences, without the space between them.

    ``"Mr. Bear"``, ``"3.5"``, ``"J. Bear"``, ``"No. 5"`` and ``'"Stop!" he said'`` do not end a sentence;
    ``"She said no."`` does.
    """
    return [paragraph[a:b] for a, b in spans(paragraph)]


def spans(text):
    """Where each sentence begins and ends: list of (from, to)."""
    ends, found, start = [], [], 0
    for m in _END.finditer(text):
        word = re.search(r"[\w.]*$", text[max(0, m.start() - 8) : m.start()])[0]  # longer than any of them
        after = re.compile(r"\S").search(text, m.end())[0]
        if m[0] == "." and _is_abbreviation(word, after):
            continue
        if after.islower():  # '"Stop!" he said'
            continue
        ends.append(m.end())
    for end in [*ends, len(text)]:
        part = text[start:end]
        if part.strip():
            left = start + len(part) - len(part.lstrip())
            found.append((left, left + len(part.strip())))
        start = end
    return found


def _is_abbreviation(word, after):
    """Whether the full stop behind a word belongs to it; ``after`` is the character that follows."""
    if word.lower() == "no":  # a word as well, but for "No. 5"
        return after.isdigit()
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper())
