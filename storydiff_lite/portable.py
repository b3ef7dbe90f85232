"""Random numbers that every language can draw: the same seed, the same story, in Python and in the page.

torch's generators exist in torch only. Here noise and picks come from a *counter-based* generator: a function
of a key (the seed) and a counter (what the number is for), with no state. Each number can be computed by
itself, in any order, and a page of a hundred lines of JavaScript computes the same ones.

    key     = seed mod 2^32, seed / 2^32
    counter = block, panel, stream, step        a block is four words of 32 bits
    stream  = 0 for noise, 1 + l for the picks of the l-th self-attention layer

``StoryPipeline(...)(story, seed=7, generator="portable")`` draws so.
"""

import numpy as np
import torch

#: of Philox4x32: the multipliers, and what each round adds to the key (Salmon et al. 2011, Table 2)
MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
NOISE, PICKS = 0, 1  # streams
_LOW = np.uint64(0xFFFFFFFF)


def philox(counter, key):
    """Philox4x32-10: four words that look random, uint32 [..., 4], for each counter [..., 4]; numbers of
    counters and key from 0 to 2**32 - 1.

    Notes
    -----
    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
    """
    a, b, c, d = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k = [int(x) for x in key]
    for _ in range(ROUNDS):
        left, right = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])  # 64 bits each
        a, b, c, d = (
            (right >> np.uint64(32)) ^ b ^ np.uint64(k[0]),
            right & _LOW,
            (left >> np.uint64(32)) ^ d ^ np.uint64(k[1]),
            left & _LOW,
        )
        k = [(x + w) % 2**32 for x, w in zip(k, WEYL, strict=True)]
    return np.stack([a, b, c, d], -1).astype(np.uint32)


def random_words(seed, panel, stream, step, count):
    """The first ``count`` words of a stream: uint32 array [count]."""
    blocks = -(-count // 4)
    counter = np.empty((blocks, 4), np.uint64)
    counter[:, 0], counter[:, 1:] = np.arange(blocks), (panel, stream, step)
    return philox(counter, (seed % 2**32, seed // 2**32 % 2**32)).reshape(-1)[:count]


def normal(seed, panel, shape):
    """Noise of deviation 1 for a panel: float32 array of this shape, in C order.

    Two words make two numbers: u = (word + 1/2) / 2^32, r = sqrt(-2 ln u0), then r cos(2 pi u1) and
    r sin(2 pi u1), in double precision until the end.

    Notes
    -----
    Box and Muller (1958).
    """
    count = int(np.prod(shape))
    u = (random_words(seed, panel, NOISE, 0, count + count % 2).astype(np.float64) + 0.5) / 2**32
    r, angle = np.sqrt(-2 * np.log(u[::2])), 2 * np.pi * u[1::2]
    drawn = np.stack([r * np.cos(angle), r * np.sin(angle)], -1).reshape(-1)
    return drawn[:count].reshape(shape).astype(np.float32)


def initial_noise(seeds, panels, shape, same_noise=False):
    """Noise of deviation 1 for S stories of F panels: float32 Tensor [S F, *shape].

    With ``same_noise`` all panels of a story have the noise of the first.
    """
    drawn = [normal(seed, 0 if same_noise else p, shape) for seed in seeds for p in range(panels)]
    return torch.from_numpy(np.stack(drawn))


class PortableOrder:
    """Draws the order of tokens for `schedule.AttentionPlan`, as its ``draw``: each token gets a word of the
    stream, and the k with the smallest are picked, of equal ones the first.

    Parameters
    ----------
    layers : list of str
        All self-attention layers of the U-Net, in the order of ``schedule.self_attention_layers(unet,
        "all")``.
    """

    def __init__(self, layers):
        self.number = {name: i for i, name in enumerate(layers)}

    def __call__(self, seed, step, layer, panels, n):
        """A number for each token of these panels (a range) of a story, 0 to 1, float64 [F, n]; no two equal:
        the smaller its word the larger, of equal words the first.
        """
        words = [random_words(seed, panel, PICKS + self.number[layer], step, n) for panel in panels]
        rank = torch.from_numpy(np.stack(words).astype(np.float64)) * n + torch.arange(n)
        return 1 - rank / (2**32 * n)
