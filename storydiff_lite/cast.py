"""Who may read whom when a story has several characters.

Consistent self-attention makes the panels alike that read each other. When two characters take turns, all
panels reading all would make *them* alike. So a panel that names its characters reads only panels that show
nobody else:

    [Bruno] ...              reads Bruno's panels
    [Mia] ...                reads Mia's panels
    [Bruno] and [Mia] ...    reads Bruno's, Mia's, and those of both; of those that show one alone, nobody
                             reads it

Within a panel of two nothing keeps them apart but the words; how far they do is measured in chapter 10.  The
released code keeps a bank for each character, written by panels that are drawn before the others; a panel of
two reads both banks.
"""

import torch


def by_character(reader, other):
    """Whether a panel reads another, by the sets of names in both: it shows nobody but the reader's."""
    return bool(other) and other <= reader


def may_read(panels, rule=by_character):
    """Who may read whom in a story.

    Parameters
    ----------
    panels : list of F Panel
        Those without a character (``[NC]``) neither read nor are read; those that name nobody read each
        other.
    rule : callable
        ``rule(names of the reader, names of the other) -> bool``

    Returns
    -------
    bool Tensor [F, F]
        Panel i may read panel j; False on the diagonal, for its own tokens a panel always reads.
    """
    names = [set() if panel.no_character else set(panel.characters) or {""} for panel in panels]
    return torch.tensor([[rule(a, b) for b in names] for a in names]).fill_diagonal_(False)


def check(may_read, passes, window=None):
    """Raise ValueError when somebody could not be kept the same.

    Parameters
    ----------
    may_read : bool Tensor [S, F, F]
    passes : list of Pass
    window : int, optional
        Of windows inside the layers, which do not know of characters.
    """
    panels = may_read.shape[-1]
    if window is not None and window < panels:
        raise ValueError(
            "Windows inside the layers (long_story='attention') do not keep characters apart. For a "
            "story with a cast choose long_story='passes' or 'bank', or no window."
        )
    writers = next((len(p.panels) for p in passes if p.role == "write"), panels)
    for story in may_read:
        for j in range(writers, panels):
            if story[j].any() and not story[j, :writers].any():
                raise ValueError(
                    f"Panel {j + 1} shows somebody who is in none of the first {writers} panels, which "
                    "alone write the bank. Take a longer window, or long_story='passes'."
                )
