"""Consistent self-attention: the panels of a story read some of each other's tokens.

Self-attention of a U-Net layer, for F panels of N tokens each, width C. Plain: panel i reads its own N
tokens. Consistent: it also reads K = rate * N tokens, drawn at random, of each other panel (StoryDiffusion,
2405.01434, Eq. 1-3):

    q, k, v = to_q(x), to_k(x), to_v(x)                                   [F, N, C], each token projected once
    keys of panel i = its own N tokens, then the picks of the others      [N + (F - 1) K, C]
    out of panel i = to_out(softmax(q_i keys_i^T / sqrt(d)) values_i)     [N, C]

The weights stay as they are: nothing is trained. Picks are gathered, not masked, so that fused attention
kernels can run.
"""

import random
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0

# ---------------------------------------------------------------------------------------------- the mechanism


def project(attn, x):
    """Queries, keys and values of every token, once: [..., C] -> three [..., C']; source: Eq. 1."""
    return attn.to_q(x), attn.to_k(x), attn.to_v(x)


def out(attn, x):
    """Output projection (and dropout, which does nothing outside training)."""
    return attn.to_out[1](attn.to_out[0](x))


def read(attn, q, k, v, index):
    """Attention in which every reader has its own list of tokens to read.

    Parameters
    ----------
    attn : diffusers Attention
        For its number of heads and its query/key norms.
    q : Tensor [R, N, C]
        Queries of R readers.
    k, v : Tensor [T, C]
        Keys and values of all T tokens there are.
    index : LongTensor [R, L] or list of R LongTensors
        Which tokens each reader reads; a list where the readers read different numbers of them.

    Returns
    -------
    Tensor [R, N, C]
        Before the output projection.
    """
    if isinstance(index, (list, tuple)):  # a fused call for each length
        result = torch.empty_like(q)
        for length in {len(i) for i in index}:
            rows = [r for r, i in enumerate(index) if len(i) == length]
            result[rows] = read(attn, q[rows], k, v, torch.stack([index[r] for r in rows]))
        return result
    (readers, n, c), length, heads = q.shape, index.shape[1], attn.heads
    some = max(1, len(k) // length)  # gathered at once: no more keys and values than there are anyway
    if readers > some:
        parts = [slice(r, r + some) for r in range(0, readers, some)]
        return torch.cat([read(attn, q[part], k, v, index[part]) for part in parts])
    k, v = (x.index_select(0, index.flatten()).view(readers, length, c) for x in (k, v))  # [R, L, C]
    q, k, v = (x.unflatten(2, (heads, c // heads)).transpose(1, 2) for x in (q, k, v))  # [R, h, N or L, d]
    if attn.norm_q is not None:
        q = attn.norm_q(q)
    if attn.norm_k is not None:
        k = attn.norm_k(k)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(readers, n, c)  # [R, N, C]


def consistent_self_attention(attn, frames, picks):
    """Self-attention in which every frame also reads picked tokens of the others.

    Parameters
    ----------
    attn : diffusers Attention
        A self-attention layer; its weights are used as they are.
    frames : Tensor [F, N, C]
        Hidden states of F frames (panels) of one story and one half of classifier-free guidance.
    picks : list of F LongTensors [K_j]
        ``picks[j]``: indices, 0 to N - 1, of the tokens of frame j that the OTHER frames may read. May be
        empty, and may differ in number (one fused call is made where they do not).

    Returns
    -------
    Tensor [F, N, C]
        A frame reads all of its own tokens exactly once, and the picks of every other frame.

    Raises
    ------
    ValueError
        When there are not F picks, or ``frames`` is not [F, N, C].

    Notes
    -----
    StoryDiffusion (2405.01434), Eq. 2 and 3. Algorithm 1 as printed samples from all frames *and* appends the
    own ones, which counts a frame's own tokens twice; the released code counts them once, and so does this.
    """
    if frames.ndim != 3:
        raise ValueError(f"frames must be [frames, tokens, channels], not {list(frames.shape)}.")
    f, n, _ = frames.shape
    if len(picks) != f:
        raise ValueError(
            f"There are {f} frames and picks for {len(picks)}: give one index tensor per frame "
            "(it may be empty)."
        )
    q, k, v = project(attn, frames)  # [F, N, C]
    if len({len(p) for p in picks}) == 1:
        picks = torch.stack([p.to(frames.device) for p in picks])  # [F, K]
        index = reading_lists(picks[None], n)[0]  # [F, N + (F-1) K]
    else:
        flat = [p.to(frames.device) + j * n for j, p in enumerate(picks)]  # token of frame -> of all
        own = torch.arange(f * n, device=frames.device).view(f, n)
        index = [torch.cat([own[i], *(flat[j] for j in range(f) if j != i)]) for i in range(f)]
    return out(attn, read(attn, q, k.flatten(0, 1), v.flatten(0, 1), index))


def reading_lists(picks, n, alone=None):
    """Which tokens each panel reads: its own, then the picks of the other panels of its story.

    Parameters
    ----------
    picks : LongTensor [S, F, K]
        For S stories of F panels: token indices, 0 to n - 1, that others may read.
    n : int
        Tokens of a panel.
    alone : bool Tensor [S, F], optional
        Panels that neither read nor are read (``[NC]``).

    Returns
    -------
    LongTensor [S, F, n + (F - 1) K]
        Indices into the S * F * n tokens of all stories, laid end to end.  With ``alone`` instead a list of
        S * F LongTensors, since some read less.
    """
    s, f, k = picks.shape
    own = torch.arange(s * f * n, device=picks.device).view(s, f, n)  # [S, F, n]
    flat = own[:, :, :1] + picks  # [S, F, K] token of panel -> of all
    if alone is not None:
        read = [[[j for j in range(f) if j != i and not a[j] and not a[i]] for i in range(f)] for a in alone]
        return [torch.cat([own[t, i], flat[t, read[t][i]].flatten()]) for t in range(s) for i in range(f)]
    others = [[j for j in range(f) if j != i] for i in range(f)]
    others = torch.tensor(others, dtype=torch.long, device=picks.device).view(f, f - 1)
    return torch.cat([own, flat[:, others].flatten(2)], dim=2)  # [S, F, n + (F-1) K]


def sliding_window_attention(attn, frames, window, picks):
    """Algorithm 1: consistent self-attention in sliding windows over the frames, averaged where they overlap.

    Parameters
    ----------
    attn : diffusers Attention
    frames : Tensor [F, N, C]
        Hidden states of the frames of one story and one guidance half.
    window : int
        Frames in a window, at least 1; W = min(window, F) is used.
    picks : list, for each window, of W LongTensors
        ``picks[w][i]``: what the i-th frame of window w reads of the OTHER frames of that window, as flat
        indices: position among the others, in order, * N + token.

    Returns
    -------
    Tensor [F, N, C]
        Each frame: the mean of its attention over the windows t = 0 .. F - W that hold it, then the output
        projection.

    Raises
    ------
    ValueError
        ``window`` below 1, or picks for another number of windows.

    Notes
    -----
    StoryDiffusion (2405.01434), Algorithm 1, whose loop runs to N - tile + 1 where N is the number of tokens;
    the number of frames B is meant. The window's pool here is the other frames (Eq. 2), own tokens counted
    once.
    """
    if window < 1:
        raise ValueError(f"window is {window}: a window holds at least one frame.")
    f, n, _ = frames.shape
    w = min(window, f)
    if len(picks) != f - w + 1:
        raise ValueError(
            f"{f} frames and a window of {w} make {f - w + 1} windows; there are picks for {len(picks)}."
        )
    q, k, v = project(attn, frames)  # [F, N, C]
    k, v, own = k.flatten(0, 1), v.flatten(0, 1), torch.arange(f * n, device=frames.device).view(f, n)
    total, count = torch.zeros_like(q), torch.zeros(f, 1, 1, dtype=q.dtype, device=q.device)
    for t, window_picks in enumerate(picks):  # t = 0 .. F - W
        lists = []
        for i, pick in enumerate(window_picks):  # frame t + i
            others = torch.cat([own[:0].flatten(), *(own[t + j] for j in range(w) if j != i)])  # [(W-1) N]
            lists.append(torch.cat([own[t + i], others[pick.to(others.device)]]))  # [N + K]
        if len({len(x) for x in lists}) == 1:
            lists = torch.stack(lists)  # [W, N + K]
        total[t : t + w] += read(attn, q[t : t + w], k, v, lists)
        count[t : t + w] += 1
    return out(attn, total / count)


# ---------------------------------------------------------------------------------- when, where, which tokens


def stable_random(*parts):
    """A random.Random that is the same for the same parts, on every machine."""
    return random.Random("/".join(map(str, parts)))


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
        """As in the released code: plain for 5 steps, then a coin per layer and step, 0.7, from step 20 on
        0.9."""
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
    every = [name for name in unet.attn_processors if name.endswith("attn1.processor")]
    chosen = set()
    for word in [layers] if isinstance(layers, str) else list(layers):
        prefix = "" if word == "all" else LAYERS.get(word, word)
        prefix = prefix.rstrip(".") + "." if prefix else ""
        found = [n for n in every if n.startswith(prefix)]
        if not found:
            raise ValueError(
                f"No self-attention layer is called {word!r}. Use 'up', 'mid', 'down', 'all', "
                "or the beginning of one of these names: "
                f"{', '.join(n.removesuffix('.attn1.processor') for n in every)}."
            )
        chosen.update(found)
    return [n for n in every if n in chosen]


class Sharing:
    """What the layers must know while stories are told: made for one call, told each pass, then dropped.

    Parameters
    ----------
    panels : int
        F, panels of a story that go through the U-Net together.
    rate : float
        Consistency, 0 to 1: the fraction of a panel's tokens that the others of its story read.
    seeds : list of int
        One per story (S of them); they decide which tokens are picked.
    schedule : SamplingSchedule, optional
    window : int, optional
        Sliding windows of this many panels inside each layer (Algorithm 1); ``None``: all panels of a pass
        read each other.
    alone : list of S lists of F bools, optional
        Panels that neither read nor are read.
    """

    def __init__(self, panels, rate, seeds=(0,), schedule=None, window=None, alone=None):
        self.panels, self.rate, self.seeds = panels, rate, tuple(seeds)
        self.schedule = schedule or SamplingSchedule()
        self.window = window
        self.everyone = torch.tensor(alone, dtype=torch.bool) if alone and any(map(any, alone)) else None
        self.step, self.first, self.role = 0, 0, None
        self.bank = {}  # layer -> keys and values of picked tokens, each [H S, M, C]; of this step only
        self.watch = None  # called with (layer, attn, q, k, lists) of every consistent layer, see recorder.py

    def enter(self, step, panels, role=None):
        """Tell the layers which pass comes next.

        Parameters
        ----------
        step : int
            Denoising step, 0 is the first.
        panels : range
            Which panels of each story the pass holds.
        role : {None, "write", "read"}
            With a bank: its panels are written, or only read it.
        """
        self.step, self.first, self.panels, self.role = step, panels.start, len(panels), role

    def alone(self, halves):
        """Which panels of this pass stay alone, bool [H S, F], or None."""
        if self.everyone is None:
            return None
        return self.everyone[:, self.first : self.first + self.panels].repeat(halves, 1)

    def picks(self, layer, n):
        """Tokens that may be read now, LongTensor [S, F, K], K = rate * n rounded (Eq. 2's RandSample).

        Fresh for every layer, step and pass; drawn on the CPU; the same for a story alone and in a batch.
        """
        k = round(self.rate * n)
        if k == n:
            return torch.arange(n).expand(len(self.seeds), self.panels, n)
        rows, place = [], (self.step, layer, *([self.first] if self.first else []))
        for seed in self.seeds:
            number = stable_random("picks", seed, *place).getrandbits(62)
            order = torch.rand(self.panels, n, generator=torch.Generator().manual_seed(number))
            rows.append(order.topk(k, dim=1).indices.sort(dim=1).values)  # [F, K]
        return torch.stack(rows)

    def lists(self, layer, n, halves):
        """Which tokens each panel of this pass reads, as of `reading_lists`, for all H * S stories."""
        picks = self.picks(layer, n).repeat(halves, 1, 1)  # [H S, F, K], both halves the same
        return reading_lists(picks, n, self.alone(halves))

    @contextmanager
    def installed(self, unet, layers="up"):
        """Within this block the chosen layers share; afterwards the U-Net has its old processors back."""
        before = dict(unet.attn_processors)
        shared = {n: ConsistentSelfAttention(self, n, before[n]) for n in self_attention_layers(unet, layers)}
        try:
            unet.set_attn_processor(before | shared)
            yield self
        finally:
            unet.set_attn_processor(dict(before))
            self.bank.clear()


class ConsistentSelfAttention:
    """A diffusers attention processor: consistent self-attention, for ``set_attn_processor``.

    Re-entrant: all that a call needs lies in its ``Sharing``, nothing in this module.

    Parameters
    ----------
    sharing : Sharing
        The state of the pipeline call; its owner calls ``sharing.enter`` before each pass.
    layer : str
        Name of the layer, so that each draws picks of its own.
    plain : callable, optional
        The processor used for cross-attention and in the steps that are not consistent.

    Notes
    -----
    Hidden states come as [H * S * F, N, C]: H = 2 halves of classifier-free guidance (unconditional, then
    conditional; or 1 without guidance), S stories, F panels. A panel reads within its own half and its own
    story only.
    """

    def __init__(self, sharing, layer="", plain=None):
        self.sharing, self.layer, self.plain = sharing, layer, plain or AttnProcessor2_0()

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs
    ):
        share = self.sharing
        n, f, s = hidden_states.shape[1], share.panels, len(share.seeds)
        if (
            encoder_hidden_states is not None
            or (f == 1 and share.role is None)
            or round(share.rate * n) == 0
            or not share.schedule.active(share.step, self.layer)
        ):
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
        if hidden_states.shape[0] % (s * f):
            raise ValueError(
                f"{hidden_states.shape[0]} hidden states came in, which is no multiple of {s} "
                f"stories times {f} panels: the Sharing was made for another batch."
            )
        h = hidden_states.shape[0] // (s * f)

        q, k, v = project(attn, hidden_states)  # [H S F, N, C]
        k, v = k.flatten(0, 1), v.flatten(0, 1)  # [H S F N, C]
        if share.window is not None and share.window < f:
            return out(attn, self._windows(attn, q, k, v, h))
        if share.role == "read":
            k, v, lists = self._bank(k, v, h, n)
        else:
            lists = _to(share.lists(self.layer, n, h), q.device)
            if share.role == "write":
                self._write(k, v, h, n)
        if share.watch:
            share.watch(self.layer, attn, q, k, lists)
        return out(attn, read(attn, q, k, v, lists))  # [H S F, N, C]

    def _windows(self, attn, q, k, v, h):
        """Algorithm 1: the mean over the windows t = 0 .. F - W that hold a panel."""
        share, n = self.sharing, q.shape[1]
        f, w, s = share.panels, share.window, len(share.seeds)
        picks, alone = share.picks(self.layer, n).repeat(h, 1, 1), share.alone(h)  # [H S, F, K]
        q = q.unflatten(0, (h * s, f))  # [H S, F, N, C]
        total, count = torch.zeros_like(q), torch.zeros(f, 1, 1, dtype=q.dtype, device=q.device)
        # reading_lists lays stories of W panels end to end; here they are F panels long
        start = torch.arange(h * s)[:, None, None] * (f - w) * n
        for t in range(f - w + 1):
            few = None if alone is None else alone[:, t : t + w]
            lists = reading_lists(picks[:, t : t + w], n, few)
            if few is None:
                lists = (lists + start + t * n).flatten(0, 1)  # [H S W, L]
            else:
                lists = [x + int(start[i // w]) + t * n for i, x in enumerate(lists)]
            seen = read(attn, q[:, t : t + w].flatten(0, 1), k, v, _to(lists, q.device))
            total[:, t : t + w] += seen.unflatten(0, (h * s, w))
            count[t : t + w] += 1
        return (total / count).flatten(0, 1)  # [H S F, N, C]

    def _write(self, k, v, h, n):
        """Keep the picks of these panels for the passes that read them."""
        share = self.sharing
        picks = share.picks(self.layer, n).repeat(h, 1, 1)  # [H S, F, K]
        flat = (torch.arange(0, len(k), n).view(*picks.shape[:2], 1) + picks).flatten(1)  # [H S, F K]
        if (alone := share.alone(h)) is not None:  # nobody reads a panel that stays alone
            kept = ~alone.repeat_interleave(picks.shape[2], 1)
            flat = [row[keep] for row, keep in zip(flat, kept, strict=True)]
        share.bank[self.layer] = [(k[i.to(k.device)], v[i.to(v.device)]) for i in flat]

    def _bank(self, k, v, h, n):
        """Keys and values with the bank's behind them, and who reads what: all of their own, and the bank."""
        share = self.sharing
        f, bank, alone = share.panels, share.bank[self.layer], share.alone(h)
        own = torch.arange(len(k)).view(-1, n)  # [H S F, N]
        lists, end = [], len(k)
        for i, (keys, _) in enumerate(bank):  # i: half and story
            theirs = torch.arange(end, end + len(keys))
            end += len(keys)
            for j in range(f):
                mine = own[i * f + j]
                lists.append(mine if alone is not None and alone[i, j] else torch.cat([mine, theirs]))
        k, v = (torch.cat([x, *(pair[which] for pair in bank)]) for which, x in enumerate((k, v)))
        return k, v, _to(lists, k.device)


def _to(lists, device):
    return [x.to(device) for x in lists] if isinstance(lists, list) else lists.flatten(0, -2).to(device)


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
    list of (range, role)
        As of `Sharing.enter`.
    """
    if window is None or window >= panels or (long_story == "attention" and sharing):
        return [(range(panels), None)]
    chunks = [range(t, min(t + window, panels)) for t in range(0, panels, window)]
    if not sharing:
        return [(c, None) for c in chunks]
    if long_story == "bank":
        return [(c, "read" if i else "write") for i, c in enumerate(chunks)]
    return [(range(t, t + window), None) for t in range(panels - window + 1)]
