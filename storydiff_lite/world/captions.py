"""Captions: what a picture shows, in words that vary; and which attributes a prompt names."""

import random
import re

from .pictures import Picture
from .vocabulary import ACCESSORY, ACTIONS, FUR, OUTFIT, PEOPLE, SCENES, SKIN, SPECIES, Character


def article(word: str) -> str:
    """``"a bear"``, ``"an orange bear"``."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def describe(character: Character, mention=frozenset(), rng: random.Random | None = None) -> str:
    """A noun phrase that names the species and the attributes in ``mention``, in varying words.

    >>> describe(Character("bear", "orange"), {"fur"})
    'an orange bear'
    """
    c = character
    pick = rng.choice if rng else (lambda options: options[0])
    before, after = [], []
    if "fur" in mention:
        if c.species in PEOPLE:
            after.append(f"with {c.fur} hair")
        elif c.species == "robot" or pick((True, True, False)):
            before.append(c.fur)
        else:
            after.append(f"with {c.fur} fur")
    if "skin" in mention and c.species in PEOPLE:
        after = [a + f" and {c.skin} skin" for a in after] or [f"with {c.skin} skin"]
    wear = []
    if "outfit" in mention:
        wear.append(pick((f"{article(c.outfit)} outfit", f"{c.outfit} clothes")))
    if "accessory" in mention:
        thing = f"{c.accessory_colour} {c.accessory}" if "accessory_colour" in mention else c.accessory
        wear.append(article(thing))
    text = article(" ".join([*before, c.species]))
    if after:
        text += " " + " ".join(after)
    if wear:
        text += pick((" wearing ", " in ")) + " and ".join(wear)
    return text


def random_mention(rng: random.Random) -> frozenset:
    """Which attributes a caption names: each with an even chance, none of them in one caption of four."""
    if rng.random() < 0.25:
        return frozenset()
    names = {n for n in ("fur", "skin", "outfit", "accessory") if rng.random() < 0.5}
    if "accessory" in names and rng.random() < 0.8:
        names.add("accessory_colour")
    return frozenset(names)


def caption(picture: Picture, rng: random.Random, mention=None) -> str:
    """A grammatical sentence about the picture that leaves attributes out at random, or names those of the
    set ``mention`` (see `describe`).
    """
    mention = random_mention(rng) if mention is None else mention
    where = SCENES[picture.scene]
    if not picture.actors:
        return rng.choice((f"nobody {where}", f"an empty scene {where}"))
    a = picture.actors
    if len(a) == 2 and a[0].character == a[1].character:
        twins = plural(describe(a[0].character, mention, rng))
        return f"two {twins} " + " and ".join(dict.fromkeys(ACTIONS[x.action] for x in a)) + f" {where}"
    parts = [f"{describe(x.character, mention, rng)} {ACTIONS[x.action]}" for x in a]
    return " and ".join(parts) + f" {where}"


_PLURALS = {"scarf": "scarves"}  # of the others: with an s


def plural(phrase: str) -> str:
    """``"an orange bear in a red outfit"`` -> ``"orange bears in red outfits"``."""
    many = "|".join((*SPECIES, "outfit", *ACCESSORY))
    return re.sub(
        rf"\b(?:an? )?((?:\w+ )?)({many})\b", lambda m: m[1] + _PLURALS.get(m[2], m[2] + "s"), phrase
    )


def strip_caption(pictures, rng: random.Random, mention=None) -> str:
    """One sentence about a whole strip: ``"a comic of a bear walking in the forest, then sitting on the
    beach"``.
    """
    mention = random_mention(rng) if mention is None else mention
    subject = describe(pictures[0].actors[0].character, mention, rng)
    parts = [f"{ACTIONS[p.actors[0].action]} {SCENES[p.scene]}" for p in pictures]
    return f"a comic of {subject} " + ", then ".join(parts)


_WORDS = {
    "species": {s: s for s in SPECIES},
    "action": {v.split()[0] if k != "balloon" else "balloon": k for k, v in ACTIONS.items()},
    "scene": {s: s for s in SCENES},
    "accessory": {a: a for a in ACCESSORY},
}


def _one_or_many(word):
    """A pattern of a word and of its plural."""
    return f"(?:{word}s?|{_PLURALS[word]})" if word in _PLURALS else f"{word}s?"


def mentioned(text: str) -> dict[str, str]:
    """The attributes that a prompt about one character, or about several of a kind (`plural`), names.

    >>> mentioned("an orange bear in a red outfit walking in the snow")
    {'species': 'bear', 'action': 'walking', 'scene': 'snow', 'fur': 'orange', 'outfit': 'red'}
    """
    t = text.lower()
    found = {}
    for attribute, words in _WORDS.items():
        for word, value in words.items():
            if re.search(rf"\b{_one_or_many(word)}\b", t):
                found[attribute] = value
                break
    fur, cloth, skin = "|".join(FUR), "|".join(OUTFIT), "|".join(SKIN)
    rules = {
        "fur": rf"\b({fur}) (?:fur|hair|{'|'.join(SPECIES)})",
        "skin": rf"\b({skin}) skin",
        "outfit": rf"\b({cloth}) (?:outfit|clothes)",
        "accessory_colour": rf"\b({cloth}) (?:{'|'.join(map(_one_or_many, ACCESSORY))})\b",
    }
    for attribute, rule in rules.items():
        if m := re.search(rule, t):
            found[attribute] = m[1]
    return found
