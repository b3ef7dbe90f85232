"""Who "the bear", "he", "she" or "it" is at the beginning of a panel.

    a grey bear in a red outfit reading in the forest
    he is sleeping on the beach          # a bear is sleeping on the beach
    the bear waving in the snow          # a bear waving in the snow

*Who is introduced.*  In a story with a cast, the cast.  In a story without one, whoever a panel begins with:
the words from "a" or "an" to the first verb.  A verb ends in -ing (but "wearing"), is "is", "was" and the
like, or ends in -s behind a noun that has its article; a comma ends the phrase too, and so does a place
("in the ...").  The noun is the last word before "in", "with", "wearing" and the like.

*Who is meant.*  "the bear" is one whose noun that is, with the adjectives that stand between.  "he", "she"
and "it" may be anybody, and are whoever was named last of those who have not been called otherwise: who was
"she" is not "he".  Where several fit, a warning says who is taken; a pronoun that means the same one again is
clear.  Only the beginning of a panel is read so, and what "and" joins to it: "he and [Mia] waving".

*What becomes of it.*  With a cast the name stands there, as if it were written.  Without one the short form
stands in the prompt ("a bear"), and the states of the phrase are carried into it (`neighbours.carried`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .places import SAID

PRONOUNS = ("he", "she", "it")
#: words that go on with how somebody looks; behind the first of them stands no noun of who it is
LOOKS = set("in with without wearing dressed and of named called who that whose".split())
_BE = set("is are was were has had will can".split())
_NO_VERBS = set("king ring thing string wing spring duckling sibling".split())  # though they end in -ing
#: what a prompt may begin with, and is nobody
_NOBODY = set("scene view landscape picture photo photograph drawing painting".split())
_PLACES = set("in on at under near by from to into behind beside over through".split())
_WORD = re.compile(r"[\w'’-]+")
_NAME = re.compile(r"\[([^\[\]]*)\]")
_INTRODUCED = re.compile(r"an? ", re.I)
_PRONOUN = re.compile(rf"({'|'.join(PRONOUNS)})(?=\s)", re.I)
_SHORT_IS = re.compile(rf"({'|'.join(PRONOUNS)})['’]s(?=\s)", re.I)  # "he's sleeping"
_THE = re.compile(r"the (?=\w)", re.I)
_LATE = re.compile(r"(?<=\s)(?:he|she)(?=\s)", re.I)  # not at the beginning; "it" may be anything there


def phrase_of(prompt):
    """Whom a prompt introduces.

    Parameters
    ----------
    prompt : str
        Such as ``"a grey bear in red clothes reading in the forest"``.

    Returns
    -------
    str or None
        ``"a grey bear in red clothes"``; None where it does not begin with "a" or "an" and a noun.

    Examples
    --------
    >>> phrase_of("An old man reads in the snow"), phrase_of("the sea at night")
    ('An old man', None)
    """
    if not _INTRODUCED.match(prompt):
        return None
    words = list(_WORD.finditer(prompt))
    article, since, end = True, 0, None  # of this part of the phrase: whether it has one, its words so far
    for i, m in enumerate(words[1:], 1):
        word, after = m[0].lower(), words[i + 1][0].lower() if i + 1 < len(words) else ""
        gap = prompt[words[i - 1].end() : m.start()]
        acts = word.endswith("ing") and word not in LOOKS | _NO_VERBS and since
        if gap.strip() or word in _BE or acts:
            end = words[i - 1].end()
        elif word in _PLACES and (after == "the" or word not in LOOKS):
            end = words[i - 1].end()
        elif word in LOOKS:
            article, since = after in ("a", "an"), 0
            if word == "and" and article and not _looks_go_on([w[0].lower() for w in words[1:i]]):
                end = words[i - 1].end()  # somebody else
        elif word in ("a", "an"):
            article, since = True, 0
        elif word.endswith("s") and not word.endswith(("ss", "us")):
            if since >= (1 if article else 2):
                end = words[i - 1].end()
            since = 2  # "glasses": a noun, behind which the verb comes
        else:
            since += 1
        if end:
            break
    phrase = prompt[:end].rstrip(" .!?…")
    return phrase if noun_of(phrase) not in {"", *_NOBODY} else None


def _looks_go_on(words):
    return bool(LOOKS.intersection(words) - {"and"})


def noun_of(phrase):
    """The noun of who somebody is: the last word before one that says how they look; "" where there is none.

    >>> noun_of("a grey bear in a red outfit")
    'bear'
    """
    return (_first_part(phrase) or [""])[-1]


def _first_part(phrase):
    """Words of a phrase before those of `LOOKS` and the first comma, without the article, in lower case."""
    words = [w.lower() for w in _WORD.findall(phrase.split(",")[0])]
    words = words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words
    until = next((i for i, w in enumerate(words) if w in LOOKS | _PLACES), len(words))
    return words[:until]


def short_form(phrase):
    """``"a grey bear in a red outfit"`` -> ``"a bear"``."""
    noun = noun_of(phrase)
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


@dataclass(frozen=True)
class Resolved:
    """What a panel's text becomes.

    Parameters
    ----------
    text : str
        With ``[Name]`` or the short form where the mention stood.
    names : tuple of str
        Of the cast, who is in it.
    carried : (str, str), optional
        As of `story.Panel`.
    unclear : tuple of str
        What the warnings say.
    said : tuple of str
        The words that ``[Name]`` stands for, such as ``"he"``, as they were written.
    """

    text: str
    names: tuple[str, ...] = ()
    carried: tuple[str, str] | None = None
    unclear: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


@dataclass
class Mentions:
    """Who has been named so far, while the panels of a story are read in order.

    Parameters
    ----------
    cast : dict
        Name -> description; empty in a story without a cast.
    """

    cast: dict[str, str]
    key: object = str  # of a name in brackets, the name in the cast
    order: list = field(default_factory=list)  # who has been named, the last one last; each once
    called: dict = field(default_factory=dict)  # name -> the pronoun that it was called last

    def read(self, text, nobody=False):
        """A panel's text, its mentions understood.

        Parameters
        ----------
        text : str
            With single spaces, as it will be drawn, names in brackets.
        nobody : bool
            The panel shows nobody (``[NC]``).

        Returns
        -------
        Resolved
        """
        if nobody:
            return Resolved(text)
        return self._in_cast(text) if self.cast else self._free(text)

    def _in_cast(self, text):
        at, unclear, said = 0, [], []
        there = [self.key(name) for name in _NAME.findall(text)]  # nobody of these is "he" here too
        while True:
            if m := _NAME.match(text, at):
                end = m.end()
            else:
                who, rest, doubt = self._mention(text[at:], there)
                unclear += doubt
                if who is None:
                    break
                there.append(who)
                said.append(text[at : len(text) - len(rest)])
                text, end = f"{text[:at]}[{who}]{rest}", at + len(who) + 2
            if not (joined := re.match(rf"( {SAID})? and ", text[end:], re.I)):
                break
            at = end + joined.end()
        names = tuple(dict.fromkeys(map(self.key, _NAME.findall(text))))
        self._named(*names)
        return Resolved(text, names, None, tuple(unclear), tuple(said))

    def _free(self, text):
        who, rest, unclear = self._mention(text)
        if who is None:
            if phrase := phrase_of(text):
                self._named(phrase)
            elif self.order and not unclear and (m := _LATE.search(text)):
                unclear = [f"{m[0]!r} is drawn as it stands: begin the panel with it, or with who it is."]
            return Resolved(text, unclear=tuple(unclear))
        self._named(who)
        short = short_form(who)
        return Resolved(short + rest, (), (short, who) if short != who.lower() else None, tuple(unclear))

    def _named(self, *names):
        for name in names:
            if name in self.order:
                self.order.remove(name)
            self.order.append(name)

    def _mention(self, text, there=()):
        """Who stands at the beginning of a text, or None; the rest; and what is unclear about it.

        Nobody who is ``there``, named in the same panel.
        """
        text = _SHORT_IS.sub(r"\1 is", text, count=1) if _SHORT_IS.match(text) else text
        if m := _PRONOUN.match(text):
            return self._by_pronoun(m[1].lower(), text[m.end() :], there)
        if m := _THE.match(text):
            return self._by_noun(text, m.end(), there)
        return None, text, []

    def _by_pronoun(self, pronoun, rest, there):
        known = [name for name in self.order if name not in there]
        if not known:
            # of a cast where nobody is named an error tells; "it is raining" may mean nobody
            if (self.cast and not there) or pronoun == "it":
                return None, rest, []
            example = "'[Name]' in its place" if self.cast else "'a bear'"
            nobody = f"'{pronoun}' is nobody: no panel before says who, such as {example}. "
            return None, rest, [nobody + "It is drawn as it stands."]
        fitting = [n for n in known if self.called.get(n, pronoun) == pronoun] or known
        who, others = fitting[-1], fitting[:-1]
        clear = not others or self.called.get(who) == pronoun
        doubt = [] if clear else [self._unclear(f"'{pronoun}'", who, others)]
        self.called[who] = pronoun
        return who, rest, doubt

    def _by_noun(self, text, start, there):
        fitting = {}  # name -> where the mention ends
        known = self.cast or dict.fromkeys(self.order)
        for name, phrase in ((name, known[name]) for name in known if name not in there):
            words = _first_part(phrase or name)
            at = start
            while words and (m := _WORD.match(text, at)) and m[0].lower() in words:
                if m[0].lower() == words[-1]:
                    fitting[name] = m.end()
                    break
                at = m.end() + 1
        if not fitting:
            return None, text, []
        who = max(fitting, key=lambda n: self.order.index(n) if n in self.order else -1)
        others = [n for n in fitting if n != who]
        said = repr(text[: fitting[who]])
        return who, text[fitting[who] :], [self._unclear(said, who, others)] if others else []

    def _unclear(self, said, who, others):
        say = (lambda n: f"[{n}]") if self.cast else repr
        why = "was named last" if who in self.order else "is declared first"
        better = "Write the name" if self.cast else "Say who it is in words, or give them names"
        return (
            f"{said} may be {' or '.join(map(say, [*others, who]))}; it is taken as {say(who)}, who {why}. "
            f"{better}, and it is clear."
        )
