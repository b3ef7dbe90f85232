"""Who may read whom when a story has several characters.

Consistent self-attention makes the panels alike that read each other. When two characters take turns, all
panels reading all would make *them* alike. So a panel that names its characters reads only panels that show
nobody else:

    [Bruno] ...              reads Bruno's panels
    [Mia] ...                reads Mia's panels
    [Bruno] and [Mia] ...    reads Bruno's, Mia's, and those of both; of those that show one alone, nobody
                             reads it

Within a panel of two nothing keeps them apart but the words; how far they do is measured in chapter 10.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch

from .attention import ConsistentSelfAttention, Sharing, _to, self_attention_layers


class CastSharing(Sharing):
    """`attention.Sharing` in which panels read only those that show nobody but their own characters.

    Parameters
    ----------
    panels, rate, seeds, schedule, window, alone
        As of `Sharing`.
    cast : list of S lists of F tuples of str
        Names of who is in each panel. Panels that name nobody (and are not alone) read each other.

    Raises
    ------
    ValueError
        Windows inside the layers, which do not know of characters.

    Notes
    -----
    The released code keeps a bank for each character, written by panels that are drawn before the others; a
    panel of two reads both banks.
    """

    def __init__(self, panels, rate, seeds=(0,), schedule=None, window=None, alone=None, cast=()):
        super().__init__(panels, rate, seeds, schedule, window, alone)
        self.writers = 0
        alone = alone or [[False] * panels for _ in cast]
        names = [
            [set() if silent else set(who) or {""} for who, silent in zip(story, silence, strict=True)]
            for story, silence in zip(cast, alone, strict=True)
        ]
        #: may_read[story][i][j]: panel i may read panel j
        self.may_read = [[[self.lends(a, b) for b in story] for a in story] for story in names]
        self.silent = alone

    @staticmethod
    def lends(reader, other):
        """Whether a panel reads another, by the names in both."""
        return bool(other) and other <= reader

    def enter(self, step, panels, role=None):
        """As of `Sharing`; remembers who writes the bank."""
        super().enter(step, panels, role)
        if role == "write":
            self.writers = len(panels)

    def lists(self, layer, n, halves):
        """Which tokens each panel reads: all of its own, then the picks of those that it may read."""
        picks = self.picks(layer, n)  # [S, F of this pass, K]
        s, f, _ = picks.shape
        own = torch.arange(halves * s * f * n).view(halves, s, f, n)
        flat = own[..., :1] + picks  # [H, S, F, K] token of panel -> of all
        reads = [
            [[j for j in range(f) if j != i and may[self.first + i][self.first + j]] for i in range(f)]
            for may in self.may_read
        ]
        return [
            torch.cat([own[h, t, i], flat[h, t, reads[t][i]].flatten()])
            for h in range(halves)
            for t in range(s)
            for i in range(f)
        ]

    @contextmanager
    def installed(self, unet, layers="up"):
        """As of `Sharing`, with layers whose bank knows of characters."""
        before = dict(unet.attn_processors)
        chosen = {n: CastAttention(self, n, before[n]) for n in self_attention_layers(unet, layers)}
        try:
            unet.set_attn_processor(before | chosen)
            yield self
        finally:
            unet.set_attn_processor(dict(before))
            self.bank.clear()

    def check(self, parts):
        """Raise ValueError when somebody could not be kept the same.

        Parameters
        ----------
        parts : list of (range, role)
            As of `attention.passes`.
        """
        if self.window is not None and self.window < self.panels and len(parts) == 1:
            raise ValueError(
                "Windows inside the layers (long_story='attention') do not keep characters apart. For a "
                "story with a cast choose long_story='passes' or 'bank', or no window."
            )
        writers = next((len(some) for some, role in parts if role == "write"), self.panels)
        for may in self.may_read:
            for j in range(writers, self.panels):
                if any(may[j][:j] + may[j][j + 1 :]) and not any(may[j][:writers]):
                    raise ValueError(
                        f"Panel {j + 1} shows somebody who is in none of the first {writers} panels, which "
                        "alone write the bank. Take a longer window, or long_story='passes'."
                    )


class CastAttention(ConsistentSelfAttention):
    """`ConsistentSelfAttention` whose bank knows which panel each of its tokens is from."""

    def _bank(self, k, v, h, n):
        share = self.sharing
        f, bank, s = share.panels, share.bank[self.layer], len(share.seeds)
        own = torch.arange(len(k)).view(-1, n)  # [H S F, N]
        lists, end = [], len(k)
        for i, (keys, _) in enumerate(bank):  # i: half and story
            writers = [w for w in range(share.writers) if not share.silent[i % s][w]]
            theirs = torch.arange(end, end + len(keys)).view(len(writers), -1)  # [writers, K]
            end += len(keys)
            for j in range(f):
                may = share.may_read[i % s][share.first + j]
                reads = [p for p, w in enumerate(writers) if may[w]]
                lists.append(torch.cat([own[i * f + j], theirs[reads].flatten()]))
        k, v = (torch.cat([x, *(pair[which] for pair in bank)]) for which, x in enumerate((k, v)))
        return k, v, _to(lists, k.device)
