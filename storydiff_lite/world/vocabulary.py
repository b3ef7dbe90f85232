"""What StoryWorld has: its classes, their colours and words, and who a character is."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

# Colours are few and far apart: a colour that a small autoencoder cannot carry could not be measured either.
FUR = {
    "brown": (140, 88, 52),
    "orange": (242, 140, 40),
    "yellow": (252, 220, 84),
    "grey": (146, 152, 164),
    "white": (248, 246, 240),
    "black": (62, 58, 70),
    "pink": (248, 160, 190),
    "blue": (92, 152, 228),
}
SKIN = {"light": (255, 224, 196), "tan": (232, 184, 140), "brown": (176, 120, 80), "dark": (112, 72, 52)}
OUTFIT = {
    "red": (222, 52, 56),
    "orange": (248, 146, 44),
    "yellow": (252, 216, 64),
    "green": (60, 168, 84),
    "blue": (52, 112, 214),
    "purple": (140, 78, 190),
    "pink": (250, 136, 178),
    "white": (250, 250, 250),
}
ACCESSORY_COLOUR = OUTFIT
ACCESSORY = ("hat", "scarf", "bow")
SPECIES = ("bear", "cat", "rabbit", "robot", "girl", "boy")
PEOPLE = ("girl", "boy")
ACTIONS = {
    "walking": "walking",
    "jumping": "jumping",
    "sitting": "sitting",
    "waving": "waving",
    "sleeping": "sleeping",
    "reading": "reading a book",
    "balloon": "holding a balloon",
}
SCENES = {
    "forest": "in the forest",
    "beach": "on the beach",
    "city": "in the city",
    "snow": "in the snow",
    "desert": "in the desert",
    "bedroom": "in the bedroom",
    "moon": "on the moon",
    "farm": "on the farm",
}
#: attribute -> its classes, in the order every table, label and judge of this project uses
ATTRIBUTES = {
    "species": SPECIES,
    "fur": tuple(FUR),
    "skin": tuple(SKIN),
    "outfit": tuple(OUTFIT),
    "accessory": ACCESSORY,
    "accessory_colour": tuple(ACCESSORY_COLOUR),
    "action": tuple(ACTIONS),
    "scene": tuple(SCENES),
}
#: the attributes that make somebody the same person in the next panel (skin shows on people only)
IDENTITY = ("species", "fur", "skin", "outfit", "accessory", "accessory_colour")

#: of every outline
INK = (44, 36, 52)


@dataclass(frozen=True)
class Character:
    """Who somebody is.  ``skin`` shows on people only; ``fur`` is the hair of people and the paint of robots.

    Raises
    ------
    ValueError
        For a value that StoryWorld does not have; the message lists those it has.
    """

    species: str = "bear"
    fur: str = "brown"
    skin: str = "light"
    outfit: str = "red"
    accessory: str = "hat"
    accessory_colour: str = "blue"

    def __post_init__(self):
        for f in fields(self):
            check_name(f.name, getattr(self, f.name))

    @classmethod
    def random(cls, rng: random.Random, **fixed) -> Character:
        """A character drawn uniformly, except for ``fixed`` attributes.

        The accessory never has the colour of what it lies on (outfit, fur): it could not be seen.

        Raises
        ------
        ValueError
            For ``fixed`` attributes that ask for just that, or have a value that there is not.
        """
        for name in ("outfit", "fur"):
            if name in fixed and fixed[name] == fixed.get("accessory_colour"):
                raise ValueError(
                    f"An accessory of the colour {fixed[name]!r} could not be seen on the {name}, which is "
                    f"{fixed[name]} too. Choose two colours, or leave one of accessory_colour and {name} out."
                )
        draw = {f.name: rng.choice(ATTRIBUTES[f.name]) for f in fields(cls)}
        draw |= fixed
        if "accessory_colour" not in fixed:
            while draw["accessory_colour"] in (draw["outfit"], draw["fur"]):
                draw["accessory_colour"] = rng.choice(ATTRIBUTES["accessory_colour"])
        for name in ("outfit", "fur"):  # the accessory's colour is fixed, so that these must give way
            while draw["accessory_colour"] == draw[name]:
                draw[name] = rng.choice(ATTRIBUTES[name])
        return cls(**draw)


def check_name(attribute: str, value: str) -> str:
    """Return ``value`` if it is a class of ``attribute``; otherwise say which there are (ValueError)."""
    known = ATTRIBUTES[attribute]
    if value not in known:
        raise ValueError(f"StoryWorld has no {attribute} {value!r}. Choose one of: {', '.join(known)}.")
    return value
