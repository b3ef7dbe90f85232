"""Timing and gait, of clips and of panel transitions.  What maps a time of 0..1 is smooth."""

import math

from .pictures import Pose, pose


def ease(t: float) -> float:
    """From 0 to 1, slow at both ends; 0 before, 1 after."""
    t = min(1.0, max(0.0, t))
    return t * t * (3 - 2 * t)


def between(t: float, a: float, b: float) -> float:
    """`ease` from time ``a`` to time ``b``."""
    return ease((t - a) / (b - a))


def bump(t: float, a: float, b: float) -> float:
    """0 outside of ``a``..``b``, 1 in its middle, smooth."""
    u = min(1.0, max(0.0, (t - a) / (b - a)))
    return 16 * u * u * (1 - u) * (1 - u)


def travel(t: float, a=0.0, b=1.0, back=0.06, over=0.08) -> float:
    """From 0 to 1 as an animator draws it: a little back first, past the goal, and back to it.

    ``back`` and ``over`` are in units of the way.
    """
    d = b - a
    return (
        between(t, a + 0.12 * d, a + 0.82 * d)
        - back * bump(t, a, a + 0.4 * d)
        + over * bump(t, a + 0.6 * d, b)
    )


def foreshorten(look: float) -> float:
    """How wide somebody shows who turns, of -1..1: edge-on a flat figure is a line, so quickly past that."""
    return look * (1.01 / math.sqrt(look * look + 0.02))


def walker(way: float) -> Pose:
    """The pose of somebody who has walked ``way`` picture heights; a cycle of steps covers 0.3."""
    return pose("walking", 0.12 + way / 0.3)
