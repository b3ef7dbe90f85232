"""Who may read whom when a story has several characters.

Consistent self-attention makes the panels alike that read each other. When two characters take turns, all
panels reading all would make *them* alike. So a panel that names its characters reads only panels that show
nobody else:

    [Bruno] ...              reads Bruno's panels
    [Mia] ...                reads Mia's panels
    [Bruno] and [Mia] ...    reads Bruno's, Mia's, and those of both; of those that show one alone, nobody
                             reads it

Within a panel of two nothing keeps them apart here but the words; `regions` says the same of the parts of a
panel, token by token.

The released code keeps a bank for each character, written by panels that are drawn before the others; a panel
of two reads both banks.
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
    sets = [names(panel) for panel in panels]
    return torch.tensor([[rule(a, b) for b in sets] for a in sets]).fill_diagonal_(False)


def names(panel):
    """Who is in a panel, as a set: nobody in one with ``[NC]``, ``""`` in one that names nobody."""
    return set() if panel.no_character else set(panel.characters) or {""}


def check(may_read, passes):
    """Raise ValueError when somebody could not be kept the same.

    Parameters
    ----------
    may_read : bool Tensor [S, F, P, F, P]
        Character by character, as of `regions.Regions`.
    passes : list of Pass
    """
    panels = may_read.shape[1]
    writers = next((len(p.panels) for p in passes if p.role == "write"), panels)
    for story in may_read.any(4):  # [F, P, F]
        for j in range(writers, panels):
            if (story[j].any(1) & ~story[j, :, :writers].any(1)).any():
                raise ValueError(
                    f"Panel {j + 1} shows somebody who is in none of the first {writers} panels, which "
                    "alone write the bank. Take a longer window, or long_story='passes'."
                )
