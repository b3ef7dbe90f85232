"""Windows: which panels of a story go through the U-Net together when it is longer than what fits."""

from typing import NamedTuple


class Pass(NamedTuple):
    """One pass through the U-Net.

    Parameters
    ----------
    step : int
        Denoising step, 0 is the first.
    panels : range
        Which panels of each story it holds.
    role : {None, "write", "read"}
        With a bank: its panels are written, or only read it.
    """

    step: int
    panels: range
    role: str | None = None


def passes(panels, window=None, long_story="passes", sharing=True):
    """Which panels of a story go through the U-Net together, and what they do with the bank.

    Parameters
    ----------
    panels, window : int
    long_story : {"passes", "attention", "bank"}
        For stories of more than ``window`` panels.  ``"passes"``: every window t = 0 .. F - W, so that a
        panel is predicted in up to W windows and the predictions are averaged.  ``"attention"``: all panels
        in one pass; the windows are inside the layers (Algorithm 1 as printed).  ``"bank"``: the first W
        panels write, the others read them, W at a time.
    sharing : bool
        Whether panels read each other at all; if not, each goes through once.

    Returns
    -------
    list of Pass
        Of step 0.
    """
    if window is None or window >= panels or (long_story == "attention" and sharing):
        return [Pass(0, range(panels))]
    chunks = [range(t, min(t + window, panels)) for t in range(0, panels, window)]
    if not sharing:
        return [Pass(0, chunk) for chunk in chunks]
    if long_story == "bank":
        return [Pass(0, chunk, "read" if i else "write") for i, chunk in enumerate(chunks)]
    return [Pass(0, range(t, t + window)) for t in range(panels - window + 1)]
