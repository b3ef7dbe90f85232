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

import itertools
import math

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0


def project(attn, x):
    """Queries, keys and values of every token, once: [..., C] -> three [..., C']; source: Eq. 1."""
    return attn.to_q(x), attn.to_k(x), attn.to_v(x)


def out(attn, x):
    """Output projection (and dropout, which does nothing outside training)."""
    return attn.to_out[1](attn.to_out[0](x))


def read(attn, q, k, v, index, readers=None):
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
    readers : list of LongTensor, optional
        With regions: which of the R * N queries, laid end to end, have the first list, the second, ...

    Returns
    -------
    Tensor [R, N, C]
        Before the output projection.
    """
    if readers is not None:  # readers of one size together
        asked, result = q.flatten(0, 1), torch.empty_like(q.flatten(0, 1))
        for size in {len(tokens) for tokens in readers}:
            rows = [r for r, tokens in enumerate(readers) if len(tokens) == size]
            tokens = torch.stack([readers[r] for r in rows])  # [R', M]
            result[tokens] = read(attn, asked[tokens], k, v, [index[r] for r in rows])
        return result.view_as(q)
    if isinstance(index, (list, tuple)):  # a fused call for each length
        result = torch.empty_like(q)
        for length in {len(i) for i in index}:
            rows = [r for r, i in enumerate(index) if len(i) == length]
            result[rows] = read(attn, q[rows], k, v, torch.stack([index[r] for r in rows]))
        return result
    (readers, n, c), length, heads = q.shape, index.shape[1], attn.heads
    few = max(1, len(k) // length)  # gathered at once: no more keys and values than there are anyway
    if readers > few:
        parts = [slice(r, r + few) for r in range(0, readers, few)]
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
    ValueError, TypeError
        When there are not F picks, or they are no indices of tokens, or ``frames`` is not [F, N, C].

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
    _check_picks(picks, n)
    q, k, v = project(attn, frames)  # [F, N, C]
    if len({len(p) for p in picks}) == 1:
        picks = torch.stack([p.to(frames.device) for p in picks])  # [F, K]
        index = reading_lists(picks, n)  # [F, N + (F-1) K]
    else:
        flat = [p.to(frames.device) + j * n for j, p in enumerate(picks)]  # token of frame -> of all
        own = torch.arange(f * n, device=frames.device).view(f, n)
        index = [torch.cat([own[i], *(flat[j] for j in range(f) if j != i)]) for i in range(f)]
    return out(attn, read(attn, q, k.flatten(0, 1), v.flatten(0, 1), index))


def _check_picks(picks, tokens):
    """Raise TypeError or ValueError unless all are indices of so many tokens."""
    for j, p in enumerate(picks):
        if not isinstance(p, torch.Tensor) or p.ndim != 1 or p.dtype not in (torch.int64, torch.int32):
            kind = f"a {p.dtype} tensor {list(p.shape)}" if isinstance(p, torch.Tensor) else type(p).__name__
            raise TypeError(
                f"picks[{j}] must be a LongTensor of token indices, not {kind}. Of a mask: "
                "mask.nonzero()[:, 0]."
            )
        if len(p) and not 0 <= p.min() <= p.max() < tokens:
            raise ValueError(
                f"picks[{j}] hold {int(p.min())} to {int(p.max())}; there are {tokens} tokens, from 0 on."
            )


def reading_lists(picks, n, may_read=None):
    """Which tokens each panel reads: its own, then the picks of the panels of its story that it may read.

    Parameters
    ----------
    picks : LongTensor [..., F, K]
        For B stories (the leading axes) of F panels: token indices, 0 to n - 1, that others may read.
    n : int
        Tokens of a panel.
    may_read : bool Tensor [S, F, F], optional
        Panel i reads panel j (never itself here); broadcast to the leading axes.  Each other panel by
        default.

    Returns
    -------
    LongTensor [..., F, n + (F - 1) K]
        Indices into the B * F * n tokens of all stories, laid end to end.  With ``may_read`` instead a list
        of B * F LongTensors, since some read less.
    """
    *stories, f, k = picks.shape
    own = torch.arange(math.prod(stories) * f * n, device=picks.device).view(*stories, f, n)
    flat = own[..., :1] + picks  # [..., F, K] token of panel -> of all
    if may_read is not None:
        own, flat = own.flatten(0, -3), flat.flatten(0, -3)  # [B, F, n], [B, F, K]
        return panel_lists(own, flat, may_read.expand(*stories, f, f).flatten(0, -3))
    others = [[j for j in range(f) if j != i] for i in range(f)]
    others = torch.tensor(others, dtype=torch.long, device=picks.device).view(f, f - 1)
    return torch.cat([own, flat[..., others, :].flatten(-2)], -1)  # [..., F, n + (F-1) K]


def panel_lists(own, lent, may_read):
    """`reading_lists` of tokens that lie anywhere.

    Parameters
    ----------
    own, lent : LongTensor [B, F, n], [B, W, K]
        All tokens of B stories of F panels, and those that W panels lend: indices into all there are.
    may_read : bool Tensor [B, F, W]
        Panel i reads what panel j lends.

    Returns
    -------
    list of B * F LongTensors
    """
    panels = itertools.product(*map(range, may_read.shape[:2]))
    return [torch.cat([own[b, i], lent[b, may_read[b, i]].flatten()]) for b, i in panels]


def region_lists(own, lent, of_own, of_lent, may_read, within, times):
    """`panel_lists` where readers are not panels but regions of panels: one character's tokens each.

    Parameters
    ----------
    own, lent : LongTensor [B, F, n], [B, W, K]
        As of `panel_lists`.
    of_own, of_lent : LongTensor [B, F, n], [B, W, K]
        The region of each token, 0 to P - 1.
    may_read : bool Tensor [B, F, P, W, P]
        Region p of panel i may read region q of panel j, another panel.
    within : bool Tensor [B, F, P, P]
        Region p of panel i reads region q of the same panel.
    times : list of B int
        How often each token of another panel stands in a list: so often its share of the softmax counts.

    Returns
    -------
    readers, lists : list of LongTensor
        For each region that has tokens: which they are, and which tokens they read.
    """
    readers, lists = [], []
    for b, i, p in itertools.product(*map(range, within.shape[:3])):
        if len(reader := own[b, i, of_own[b, i] == p]):
            others = lent[b][may_read[b, i, p].gather(1, of_lent[b])]  # story by story, [W, P] -> [W, K]
            readers.append(reader)
            lists.append(torch.cat([own[b, i, within[b, i, p][of_own[b, i]]], others.repeat(times[b])]))
    return readers, lists


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
    ValueError, TypeError
        ``window`` below 1, picks for another number of windows, or what are no such indices.

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
        _check_picks(window_picks, (w - 1) * n)
        lists = []
        for i, pick in enumerate(window_picks):  # frame t + i
            others = torch.cat([own[:0].flatten(), *(own[t + j] for j in range(w) if j != i)])  # [(W-1) N]
            lists.append(torch.cat([own[t + i], others[pick.to(others.device)]]))  # [N + K]
        if len({len(x) for x in lists}) == 1:
            lists = torch.stack(lists)  # [W, N + K]
        total[t : t + w] += read(attn, q[t : t + w], k, v, lists)
        count[t : t + w] += 1
    return out(attn, total / count)


class ConsistentSelfAttention:
    """A diffusers attention processor: consistent self-attention, for ``set_attn_processor``.

    Re-entrant: all that a call needs lies in its plan, nothing in this module.

    Parameters
    ----------
    plan : schedule.AttentionPlan
        Of the pipeline call; its owner sets ``plan.now`` before each pass.
    layer : str
        Name of the layer, so that each draws picks of its own.
    plain : callable, optional
        The processor used for cross-attention and in the steps that are not consistent.

    Notes
    -----
    Hidden states come as [H * S * F, N, C]: H = 2 halves of classifier-free guidance (unconditional, then
    conditional; or 1 without guidance), S stories, F panels of the pass. A panel reads within its own half
    and its own story only.
    """

    def __init__(self, plan, layer="", plain=None):
        self.plan, self.layer, self.plain = plan, layer, plain or AttnProcessor2_0()

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs
    ):
        plan, now, n = self.plan, self.plan.now, hidden_states.shape[1]
        f, s = len(now.panels), len(plan.seeds)
        if (
            encoder_hidden_states is not None
            or (f == 1 and now.role is None)
            or round(plan.sampling_rate * n) == 0
            or not plan.schedule.active(now.step, self.layer)
        ):
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **kwargs)
        if hidden_states.shape[0] % (s * f):
            raise ValueError(
                f"{hidden_states.shape[0]} hidden states came in, which is no multiple of {s} "
                f"stories times {f} panels: the AttentionPlan was made for another batch."
            )
        h = hidden_states.shape[0] // (s * f)

        q, k, v = self.project(attn, hidden_states)  # [H S F, N, C]
        k, v = k.flatten(0, 1), v.flatten(0, 1)  # [H S F N, C]
        if plan.window is not None and plan.window < f:
            return out(attn, self._windows(attn, q, k, v, h))
        readers = None
        if now.role == "read":
            k, v, lists = self._with_bank(k, v, h, n)
        else:
            lists = plan.lists(self.layer, n, h)
            if now.role == "write":
                self._write(k, v, h, n)
        if plan.regions:
            readers, lists = lists
            readers = _to(readers, q.device)
        lists = _to(lists, q.device)
        if plan.watch:
            plan.watch(self.layer, attn, q, k, lists, now.panels, readers)
        return out(attn, read(attn, q, k, v, lists, readers))  # [H S F, N, C]

    def project(self, attn, hidden_states):
        """Queries, keys and values, [H S F, N, C] each; other methods ask for others (`neighbours`)."""
        return project(attn, hidden_states)

    def _windows(self, attn, q, k, v, h):
        """Algorithm 1: the mean over the windows t = 0 .. F - W that hold a panel, or its region."""
        plan, n, w = self.plan, q.shape[1], self.plan.window
        f, s, may_read = len(plan.now.panels), len(plan.seeds), plan.may_read_now()
        picks = plan.picks(self.layer, n).expand(h, -1, -1, -1)  # [H, S, F, K]
        q = q.unflatten(0, (h * s, f))  # [H S, F, N, C]
        total, count = torch.zeros_like(q), torch.zeros(f, 1, 1, dtype=q.dtype, device=q.device)
        # reading_lists lays stories of W panels end to end; here they are F panels long
        start = (torch.arange(h * s) * (f - w) * n).repeat_interleave(w)  # [H S W]
        for t in range(f - w + 1):
            asked, few, readers = q[:, t : t + w].flatten(0, 1), picks[:, :, t : t + w], None  # [H S W, N, C]
            held = range(plan.now.panels.start + t, plan.now.panels.start + t + w)
            if plan.regions:
                few = few.flatten(0, 1)  # [H S, W, K]
                own = torch.arange(len(few) * w * n).view(-1, w, n)
                between = plan.regions.between(held, held, few, n)
                readers, lists = region_lists(own, own[..., :1] + few, *between)
                first = [start[int(x[0]) // n] for x in readers]
                readers = _to(readers, q.device)
            else:
                theirs = None if may_read is None else may_read[:, t : t + w, t : t + w]
                lists = reading_lists(few, n, theirs)
                lists, first = lists if isinstance(lists, list) else lists.flatten(0, -2), start  # [H S W, L]
            lists = _to([x + before + t * n for x, before in zip(lists, first, strict=True)], q.device)
            if plan.watch:
                plan.watch(self.layer, attn, asked, k, lists, held, readers)
            seen = read(attn, asked, k, v, lists, readers)
            total[:, t : t + w] += seen.unflatten(0, (h * s, w))
            count[t : t + w] += 1
        return (total / count).flatten(0, 1)  # [H S F, N, C]

    def _write(self, k, v, h, n):
        """Keep the picks of these panels for the passes that read them: keys and values [H S, W, K, C]."""
        picks = self.plan.picks(self.layer, n).repeat(h, 1, 1)  # [H S, W, K]
        flat = torch.arange(0, len(k), n).view(*picks.shape[:2], 1) + picks  # token of panel -> of all
        self.plan.bank[self.layer] = k[flat.to(k.device)], v[flat.to(v.device)], picks

    def _with_bank(self, k, v, h, n):
        """Keys and values with the bank's behind them, and who reads what: its own, and writers' picks."""
        plan, now = self.plan, self.plan.now
        keys, values, picks = plan.bank[self.layer]  # [H S, W, K, C], [H S, W, K]
        own = torch.arange(len(k)).view(len(keys), -1, n)  # [H S, F, N]
        bank = len(k) + torch.arange(math.prod(keys.shape[:3])).view(keys.shape[:3])  # [H S, W, K]
        writers = range(keys.shape[1])
        if plan.regions:
            lists = region_lists(own, bank, *plan.regions.between(now.panels, writers, picks, n))
        else:
            held = slice(now.panels.start, now.panels.stop)
            lists = panel_lists(own, bank, plan.may_read[:, held, : len(writers)].repeat(h, 1, 1))
        return torch.cat([k, keys.flatten(0, 2)]), torch.cat([v, values.flatten(0, 2)]), lists


def _to(lists, device):
    return [x.to(device) for x in lists] if isinstance(lists, list) else lists.to(device)
