"""StoryWorld: a small cartoon world whose every pixel, pose and word is known.

A *character* is who somebody is (species, fur, outfit, accessory ...), an *actor* is a character doing
something somewhere in a picture, a *picture* is a scene with its actors, a *strip* is several pictures side
by side.  Pictures are drawn from a list of flat shapes, so the same list gives the image at any size, an
exact mask of each part, and the true position of every joint.  A *clip* is a picture for every time, a *panel
transition* the way from one picture to any other.

Everything is deterministic: the same ``Picture`` gives the same pixels, the same seed the same ``Picture``.
"""

from .captions import article, caption, describe, mentioned, plural, random_mention, strip_caption
from .clips import Clip, random_clip
from .pictures import (
    Actor,
    Picture,
    Pose,
    labels,
    pose,
    random_actor,
    random_group,
    random_picture,
    random_strip,
    with_pose,
)
from .rendering import joints, masks, render, strip
from .splits import random_character, sample_clip, sample_pictures, sample_transition, withheld
from .transitions import PanelTransition, random_transition
from .vocabulary import (
    ACCESSORY,
    ACCESSORY_COLOUR,
    ACTIONS,
    ATTRIBUTES,
    FUR,
    IDENTITY,
    INK,
    OUTFIT,
    PEOPLE,
    SCENES,
    SKIN,
    SPECIES,
    Character,
    check_name,
)
