"""The schedule of consistent self-attention: in which layers, in which steps, which tokens, and whose."""

import random
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from .attention import ConsistentSelfAttention, reading_lists, region_lists
from .windows import Pass


def stable_random(*parts):
    """A random.Random that is the same for the same parts, on every machine."""
    return random.Random("/".join(map(str, parts)))


def random_order(seed, step, layer, panels, n):
    """A number for each of n tokens of these panels (a range) of a story, 0 to 1, [F, n]; on the CPU."""
    first = [panels.start] if panels.start else []
    number = stable_random("picks", seed, step, layer, *first).getrandbits(62)
    return torch.rand(len(panels), n, generator=torch.Generator().manual_seed(number))


@dataclass(frozen=True)
class SamplingSchedule:
    """In which denoising steps a layer's attention is consistent.

    Parameters
    ----------
    probabilities : tuple of (int, float)
        ``(first step, probability)`` in rising order of steps: from that step on (0 is the first), a layer is
        consistent with this probability, drawn for each layer and step. Before the first entry: plain.
    seed : int
        For those draws; they depend on seed, step and layer only, so that stories can share a batch.
    """

    probabilities: tuple = ((0, 1.0),)
    seed: int = 0

    def __post_init__(self):
        steps = [s for s, _ in self.probabilities]
        if steps != sorted(set(steps)) or any(s < 0 for s in steps):
            raise ValueError(f"The steps of a schedule must rise from 0 or later, not {steps}.")
        if not all(0 <= p <= 1 for _, p in self.probabilities):
            raise ValueError("The probabilities of a schedule must lie between 0 and 1.")

    @classmethod
    def always(cls):
        """Consistent in every layer and step."""
        return cls()

    @classmethod
    def between(cls, first, last):
        """Consistent from step ``first`` up to, not including, step ``last``."""
        return cls(((first, 1.0), (last, 0.0)))

    @classmethod
    def released(cls, seed=0):
        """As in the released full-memory scripts: plain for 5 steps (1 in the low-memory script), then with
        probability 0.7 per layer and step, from step 20 on 0.9.

        Not copied: later panels read *all* tokens of the reference panels in those 5 steps.
        """
        return cls(((5, 0.7), (20, 0.9)), seed)

    def probability(self, step):
        """Probability, 0 to 1, that a layer is consistent in this step."""
        return next((p for s, p in reversed(self.probabilities) if step >= s), 0.0)

    def active(self, step, layer):
        """Whether this layer (its name) is consistent in this step (0 is the first)."""
        p = self.probability(step)
        return p >= 1 or (p > 0 and stable_random("coin", self.seed, step, layer).random() < p)


LAYERS = {"up": "up_blocks.", "mid": "mid_block.", "down": "down_blocks."}


def self_attention_layers(unet, layers="up"):
    """Names of the self-attention processors of a U-Net that ``layers`` means.

    Parameters
    ----------
    unet : UNet2DConditionModel
    layers : str or list of str
        ``"up"`` (the released code's choice), ``"mid"``, ``"down"``, ``"all"``, or the beginning of a layer's
        name, such as ``"up_blocks.1"``; several in a list.

    Raises
    ------
    ValueError
        A name that no self-attention layer of this U-Net has.
    """
    names = [name for name in unet.attn_processors if name.endswith("attn1.processor")]
    chosen = set()
    for word in [layers] if isinstance(layers, str) else list(layers):
        prefix = "" if word == "all" else LAYERS.get(word, word)
        prefix = prefix.rstrip(".") + "." if prefix else ""
        found = [n for n in names if n.startswith(prefix)]
        if not found:
            raise ValueError(
                f"No self-attention layer is called {word!r}. Use 'up', 'mid', 'down', 'all', "
                "or the beginning of one of these names: "
                f"{', '.join(n.removesuffix('.attn1.processor') for n in names)}."
            )
        chosen.update(found)
    return [n for n in names if n in chosen]


def grid_of(n, aspect=1.0):
    """Rows and columns of a layer of n tokens, in a picture ``aspect`` times as high as wide; ValueError
    where there are no such.
    """
    rows = max(1, round((n * aspect) ** 0.5))
    if n % rows or abs(n / rows * aspect - rows) > 0.5:
        raise ValueError(
            f"A layer of {n} tokens has no whole rows in a picture {aspect:g} times as high as wide."
        )
    return rows, n // rows


@contextmanager
def replaced(unet, names, make):
    """Within this block layers of a U-Net have other attention processors; afterwards it has its own back.

    Parameters
    ----------
    unet : UNet2DConditionModel
    names : collection of str
        Of processors, as in ``unet.attn_processors``.
    make : callable
        ``make(name, plain)``, the processor that stands in for ``plain``.
    """
    before = unet.attn_processors
    try:
        unet.set_attn_processor(before | {name: make(name, before[name]) for name in names})
        yield
    finally:
        unet.set_attn_processor(dict(before))


class AttentionPlan:
    """Who reads whom, when, where and which tokens: made for one call of the pipeline, then dropped.

    Parameters
    ----------
    may_read : bool Tensor [S, F, F]
        For S stories of F panels: panel i may read panel j (`cast.may_read`).  [F, F]: the same for all.
    sampling_rate : float
        0 to 1: the fraction of a panel's tokens that the others of its story read; the call's
        ``consistency``.
    seeds : list of S int
        They decide which tokens are picked.
    schedule : SamplingSchedule, optional
    window : int, optional
        Sliding windows of this many panels inside each layer (Algorithm 1), of which each has ``may_read``
        and regions of its panels; ``None``: all panels of a pass read each other.
    reads : callable, optional
        ``reads(picks [H, S, F, K], n, may_read) -> lists`` instead of `attention.reading_lists`, for
        experiments; H: halves of guidance.
    """

    #: what drives the layers that share
    processor = ConsistentSelfAttention

    def __init__(self, may_read, sampling_rate, seeds=(0,), schedule=None, window=None, reads=reading_lists):
        f, self.seeds = may_read.shape[-1], tuple(seeds)
        others = ~torch.eye(f, dtype=torch.bool)
        self.may_read = (may_read & others).expand(len(self.seeds), f, f)
        self._all = bool((self.may_read == others).all())
        self.sampling_rate, self.schedule = sampling_rate, schedule or SamplingSchedule()
        self.window, self.reads = window, reads
        self.now = Pass(0, range(f))  # the pass at hand: whoever sends panels through the U-Net says it here
        self.bank = {}  # layer -> keys, values [H S, W, K, C] of the writers' picks, and these; of this step
        self.regions = None  # whose tokens are whose, where panels show several: `regions.Regions`
        self.draw = random_order  # of tokens; `portable.PortableOrder` draws what a page can draw too
        #: a recorder's: called with (layer, attn, q, k, lists, panels, readers) of each consistent layer, and
        #: once for each window in it; panels: those that q holds; readers: of `attention.read`
        self.watch = None

    @classmethod
    def among(cls, panels, *args, **settings):
        """The plan of stories of so many panels, each of which may read every other."""
        return cls(torch.ones(panels, panels, dtype=torch.bool), *args, **settings)

    def may_read_now(self):
        """Who may read whom among this pass's panels, bool [S, F, F]; None: each reads all others."""
        held = slice(self.now.panels.start, self.now.panels.stop)
        return None if self._all else self.may_read[:, held, held]

    def picks(self, layer, n):
        """Tokens that may be read now, LongTensor [S, F, K], K = rate * n rounded (Eq. 2's RandSample).

        Fresh for every layer, step and pass; drawn on the CPU; the same for a story alone and in a batch.
        """
        k, f = round(self.sampling_rate * n), len(self.now.panels)
        if k == n:
            return torch.arange(n).expand(len(self.seeds), f, n)
        return self.order(layer, n).topk(k, dim=2).indices.sort(dim=2).values

    def order(self, layer, n):
        """A number for each token, [S, F, n], 0 to 1 at random: the K tokens with the largest are picked."""
        drawn = (self.draw(seed, self.now.step, layer, self.now.panels, n) for seed in self.seeds)
        return torch.stack(list(drawn))

    def lists(self, layer, n, halves):
        """Which tokens each of the R = H S F panels of this pass reads: LongTensor [R, L], or a list of R.

        With regions, two lists: tokens that read, and what they read (`attention.region_lists`).
        """
        picks = self.picks(layer, n).expand(halves, -1, -1, -1)  # [H, S, F, K], both halves the same
        if self.regions:
            picks = picks.flatten(0, 1)  # [H S, F, K]
            own = torch.arange(picks.shape[0] * picks.shape[1] * n).view(*picks.shape[:2], n)
            held = self.now.panels
            return region_lists(own, own[..., :1] + picks, *self.regions.between(held, held, picks, n))
        lists = self.reads(picks, n, self.may_read_now())
        return lists if isinstance(lists, list) else lists.flatten(0, -2)

    @contextmanager
    def installed(self, unet, layers="up"):
        """Within this block the chosen layers share; afterwards the U-Net has its old processors back."""
        try:
            with replaced(unet, self_attention_layers(unet, layers), partial(self.processor, self)):
                yield self
        finally:
            self.bank.clear()
