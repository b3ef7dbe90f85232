"""StyleAligned (Hertz et al. 2312.02133): every panel reads the first one, and asks as the first one asks.

    q_i, k_i = AdaIN(q_i, q_1), AdaIN(k_i, k_1)        mean and spread over the tokens, channel by channel
    panel i reads its own tokens and all of panel 1    the first panel itself is drawn as without sharing

It is made for style, and a story's style includes its scene.
"""

import torch

from ..attention import ConsistentSelfAttention
from ..schedule import AttentionPlan


def adain(x, panels):
    """Each panel's tokens with the mean and the spread of the first panel's.

    Parameters
    ----------
    x : Tensor [B panels, N, C]
        Queries or keys, the panels of a story one after the other.
    panels : int

    Returns
    -------
    Tensor [B panels, N, C]

    Notes
    -----
    StyleAligned (2312.02133); AdaIN is Huang and Belongie's (1703.06868).
    """
    x = x.unflatten(0, (-1, panels))  # [B, F, N, C]
    mean, spread = x.mean(2, keepdim=True), x.std(2, keepdim=True) + 1e-5  # [B, F, 1, C]
    return ((x - mean) / spread * spread[:, :1] + mean[:, :1]).flatten(0, 1)


class AdaINAttention(ConsistentSelfAttention):
    """The processor: queries and keys are normalised before anybody reads."""

    def project(self, attn, hidden_states):
        q, k, v = super().project(attn, hidden_states)  # [H S F, N, C]
        panels = len(self.plan.now.panels)
        return adain(q, panels), adain(k, panels), v


class StyleAligned(AttentionPlan):
    """The plan of StyleAligned; give the pipeline ``consistency=1``, so that panel 1 is read as a whole.

    Parameters
    ----------
    may_read, sampling_rate, ...
        As of `AttentionPlan`; of who may read whom, only the first panel remains.
    """

    processor = AdaINAttention
    reads_first = True

    def __init__(self, may_read, *args, **settings):
        first = torch.zeros_like(may_read)
        first[..., 0] = self.reads_first
        super().__init__(may_read & first, *args, **settings)


class FirstPanel(StyleAligned):
    """A control: the first panel is read, and nothing is normalised."""

    processor = ConsistentSelfAttention


class AdaINAlone(StyleAligned):
    """The other control: queries and keys are normalised, and every panel reads only itself."""

    reads_first = False
