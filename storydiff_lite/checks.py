"""What a number, a name, a text or a seed must be so that it can be drawn with; errors say what to write.

The settings check themselves with these (`settings`), and so does whatever else is given from outside.
"""

from __future__ import annotations

import math
import numbers

#: what an error adds to a range
NOTES = {
    "num_frames": ": the first and the last picture are frames too",
    "frames": ": both panels are frames too",
    "hold": ": each panel stands for a frame",
    "refine": ", 0 for not at all",
}


def check_number(name, value, kind=numbers.Real, low=0, high=math.inf, optional=False, means=None):
    """Raise TypeError or ValueError unless a setting is a number of this kind, from ``low`` to ``high``, or
    None if ``optional``; ``means`` says in the error what it is.
    """
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "a whole number" if kind is numbers.Integral else "a number"
        raise TypeError(f"{name} must be {wanted}, not {value!r}.")
    if not low <= value <= high or math.isinf(value):
        span = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        is_ = f"is {means} and " if means else ""
        raise ValueError(f"{name} is {value}; it {is_}must be {span}{NOTES.get(name, '')}.")


def check_choice(name, value, choices):
    """Raise ValueError unless a setting is one of these."""
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name} is {value!r}; it must be {', '.join(others)} or {last}.")


def check_layers(layers):
    """Raise TypeError or ValueError unless it names layers; whether a model has them is not known here."""
    if not isinstance(layers, (str, list, tuple, set)):
        raise TypeError(
            "layers must be 'up', 'mid', 'down', 'all', the beginning of a layer's name, or a list of these, "
            f"not {layers!r}."
        )
    if not layers:
        raise ValueError(
            f"layers is {layers!r}: panels would read each other nowhere. Name some, such as 'up'; each "
            "panel for itself is consistency=0."
        )
    for word in [layers] if isinstance(layers, str) else layers:
        if not isinstance(word, str) or not word:
            raise TypeError(f"layers must be names, such as 'up' or 'up_blocks.1', and one is {word!r}.")


def check_pair(name, value, least):
    """Raise TypeError or ValueError unless it is (height, width) or (top, left)."""
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    if not pair or any(isinstance(n, bool) or not isinstance(n, numbers.Real) for n in value):
        raise TypeError(f"{name} must be two numbers, such as (512, 512), not {value!r}.")
    if any(not math.isfinite(number) or number < least for number in value):
        raise ValueError(
            f"{name} is {value!r}: two finite numbers of pixels" + ", at least 0." * (least == 0)
        )


def check_seed(seed):
    """A seed as an int; TypeError or ValueError unless it is a whole number from 0 to 2**63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"The seed must be a whole number, not {seed!r}.")
    if not 0 <= seed < 2**63:
        raise ValueError(f"The seed is {seed}; it must be a whole number from 0 to 2**63 - 1.")
    return int(seed)


def check_refine(strength, steps=3, most=1000):
    """Raise ValueError if frames would be redrawn so weakly, in so many steps, that the scheduler, which has
    ``most`` noise levels, has no steps for it.
    """
    if steps > most or round(steps / strength) > most:
        raise ValueError(
            f"refine is {strength}; in {steps} steps it must be 0, for not at all, or between "
            f"{steps / most:.3g} and 1."
        )


def check_text(text, what):
    """Raise ValueError unless a text can be written down as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} has a character that is none (half of a pair, {text[error.start]!r}, the "
            f"{error.start + 1}. of the text). Take it out."
        ) from None
