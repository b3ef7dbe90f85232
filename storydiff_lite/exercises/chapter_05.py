"""Exercises of chapter 05, consistent self-attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from . import exercise, expect, expect_tensor, same


def _numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _softmax_read(q, keys, values, scale):
    return (q @ keys.T * scale).softmax(-1) @ values


# ---------------------------------------------------------------------------------------- consistent


def _consistent(q, k, v, picks, own=1, scale=None, whose=None):
    """[F, N, d]; ``own`` times the own tokens; ``whose(i, j)``: whose picks are taken of panel j."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    panels = []
    for i in range(len(q)):
        theirs = [(j, picks[whose(i, j) if whose else j]) for j in range(len(q)) if j != i]
        if own == 2:  # all panels are sampled, the own one too
            theirs.append((i, picks[i]))
        mine = [(i, torch.arange(q.shape[1]))] if own else []
        keys, values = (torch.cat([t[j][p] for j, p in mine + theirs]) for t in (k, v))
        panels.append(_softmax_read(q[i], keys, values, scale))
    return torch.stack(panels)


def _consistent_by_mask(q, k, v, picks):
    f, n, d = q.shape
    may = torch.zeros(f, f * n, dtype=torch.bool)
    for j, p in enumerate(picks):
        may[:, j * n + torch.as_tensor(p)] = True
        may[j, j * n : (j + 1) * n] = True
    pool = [t.reshape(1, f * n, d).expand(f, -1, -1) for t in (k, v)]
    return F.scaled_dot_product_attention(q, *pool, attn_mask=may[:, None].expand(f, n, f * n))


def _own_dropped(q, k, v, picks):
    return _consistent(q, k, v, picks, own=0)


def _own_twice(q, k, v, picks):
    return _consistent(q, k, v, picks, own=2)


def _no_scale(q, k, v, picks):
    return _consistent(q, k, v, picks, scale=1.0)


def _picks_of_the_reader(q, k, v, picks):
    return _consistent(q, k, v, picks, whose=lambda i, j: i)


def _plain(q, k, v, picks):
    return F.scaled_dot_product_attention(q, k, v)


@exercise(
    "consistent",
    right=[_consistent, _consistent_by_mask],
    wrong={
        "own tokens dropped": (_own_dropped, "own tokens are missing"),
        "own tokens twice": (_own_twice, "twice"),
        "missing scale": (_no_scale, "square root"),
        "the reader's picks": (_picks_of_the_reader, "picks[j]"),
        "reads nobody else": (_plain, "plain self-attention"),
    },
)
def consistent(answer):
    """``answer(q, k, v, picks) -> [F, N, d]``; q, k, v [F, N, d], one head, picks: F LongTensors."""
    q, k, v = (_numbers(s, 3, 5, 4) for s in (1, 2, 3))
    picks = [torch.tensor(p) for p in ([0, 3], [1, 2], [2, 4])]
    args = q, k, v, picks
    got = answer(q.clone(), k.clone(), v.clone(), [p.clone() for p in picks])
    expect_tensor(got, (3, 5, 4))
    expect(not same(got, _plain(*args)), "This is plain self-attention: no panel reads another.")
    expect(not same(got, _own_dropped(*args)), "A panel's own tokens are missing from what it reads.")
    expect(
        not same(got, _own_twice(*args)),
        "Some own tokens are read twice: the sample is drawn from the OTHER panels (Eq. 2).",
    )
    expect(not same(got, _no_scale(*args)), "The scores are not divided by the square root of d (Eq. 3).")
    expect(
        not same(got, _picks_of_the_reader(*args)),
        "Of panel j the tokens picks[j] may be read, whoever reads them.",
    )
    expect(same(got, _consistent(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- draw-picks


def _draw(panels, tokens, rate, generator):
    order = torch.rand(panels, tokens, generator=generator)
    return order.topk(round(rate * tokens), dim=1).indices


def _draw_by_permutation(panels, tokens, rate, generator):
    k = round(rate * tokens)
    return torch.stack([torch.randperm(tokens, generator=generator)[:k].sort().values for _ in range(panels)])


def _with_repeats(panels, tokens, rate, generator):
    return torch.randint(tokens, (panels, round(rate * tokens)), generator=generator)


def _one_for_all(panels, tokens, rate, generator):
    return _draw(1, tokens, rate, generator).expand(panels, -1)


def _always_the_first(panels, tokens, rate, generator):
    return torch.arange(round(rate * tokens)).expand(panels, -1)


def _generator_ignored(panels, tokens, rate, generator):
    return _draw(panels, tokens, rate, torch.Generator().manual_seed(0))


def _fresh_per_head(panels, tokens, rate, generator, heads=2):
    return torch.stack([_draw(panels, tokens, rate, generator) for _ in range(heads)])


def _coin_for_each(panels, tokens, rate, generator):
    return torch.rand(panels, tokens, generator=generator) < rate


@exercise(
    "draw-picks",
    right=[_draw, _draw_by_permutation],
    wrong={
        "drawn with repeats": (_with_repeats, "more than once"),
        "one draw for all panels": (_one_for_all, "each panel"),
        "always the first tokens": (_always_the_first, "random"),
        "generator ignored": (_generator_ignored, "second call"),
        "fresh picks per head": (_fresh_per_head, "All heads read"),
        "a coin for each token": (_coin_for_each, "indices"),
    },
)
def draw_picks(answer):
    """``answer(panels, tokens, rate, generator) -> LongTensor [F, K]``, K = rate * tokens rounded."""

    def draw(g):
        return answer(4, 30, 0.3, g)

    g = torch.Generator().manual_seed(5)
    got = draw(g)
    expect(isinstance(got, torch.Tensor), f"Return a tensor of indices [4, 9], not {type(got).__name__}.")
    expect(
        got.ndim != 3,
        f"The shape is {list(got.shape)}: a draw per head. All heads read the same tokens, since a token is "
        "read whole.",
    )
    expect(
        not got.dtype.is_floating_point and got.dtype != torch.bool,
        "Return the indices of the tokens, a fixed number of them, not a yes or no for each token.",
    )
    expect_tensor(got, (4, 9))
    expect(0 <= int(got.min()) and int(got.max()) < 30, "Indices of 30 tokens lie between 0 and 29.")
    rows = [sorted(row.tolist()) for row in got]
    expect(
        all(len(set(r)) == len(r) for r in rows), "A token was drawn more than once: sample without repeats."
    )
    expect(
        any(r != list(range(9)) for r in rows), "The same first tokens are read every time: draw at random."
    )
    expect(len({tuple(r) for r in rows}) > 1, "Draw for each panel: here all lend the same places.")
    expect(
        rows != [sorted(row.tolist()) for row in draw(g)],
        "A second call with the same generator, the next layer's, gave the same picks: draw from the "
        "generator that was given.",
    )
    expect(
        rows == [sorted(row.tolist()) for row in draw(torch.Generator().manual_seed(5))],
        "The same seed must give the same picks.",
    )


# ---------------------------------------------------------------------------------------- both-halves


def _both_halves(x, attend):
    return torch.cat([attend(half) for half in x.chunk(2)])


def _both_halves_in_place(x, attend):
    f = len(x) // 2
    result = torch.empty_like(x)
    result[:f], result[f:] = attend(x[:f]), attend(x[f:])
    return result


def _halves_mixed(x, attend):
    return attend(x)


def _halves_interleaved(x, attend):
    result = torch.empty_like(x)
    result[0::2], result[1::2] = attend(x[0::2]), attend(x[1::2])
    return result


def _halves_swapped(x, attend):
    return torch.cat([attend(half) for half in reversed(x.chunk(2))])


def _one_half_only(x, attend):
    f = len(x) // 2
    return torch.cat([x[:f], attend(x[f:])])


@exercise(
    "both-halves",
    right=[_both_halves, _both_halves_in_place],
    wrong={
        "halves mixed": (_halves_mixed, "apart"),
        "panel by panel": (_halves_interleaved, "holds first all unconditional"),
        "halves swapped": (_halves_swapped, "order"),
        "conditional half only": (_one_half_only, "unconditional half was left"),
    },
)
def both_halves(answer):
    """``answer(x [2F, N, C], attend) -> [2F, N, C]``; ``attend`` takes the panels [F, N, C] of one half."""
    x = _numbers(7, 6, 4, 3)

    def attend(panels):  # everybody hears everybody who is handed in
        return panels + panels.mean(dim=0, keepdim=True) * torch.linspace(1, 2, 4, dtype=x.dtype)[:, None]

    got = answer(x.clone(), attend)
    expect_tensor(got, (6, 4, 3))
    expect(
        not same(got, _halves_mixed(x, attend)),
        "The halves read each other. Keep them apart: the unconditional panels must not know the prompt.",
    )
    expect(
        not same(got, _halves_interleaved(x, attend)),
        "You took every second panel. The batch holds first all unconditional panels, then the others.",
    )
    expect(
        not same(got, _halves_swapped(x, attend)),
        "The halves came back in the other order: guidance would push away from the prompt.",
    )
    expect(
        not same(got, _one_half_only(x, attend)),
        "The unconditional half was left as it was. It attends too, within itself.",
    )
    expect(same(got, _both_halves(x, attend)), "Some number differs.")


# ---------------------------------------------------------------------------------------- own-share


def _own_share(weights, again):
    n = len(weights)  # a panel has as many tokens as queries
    own, twice = weights[:, :n].sum(1), weights[:, again].sum(1)
    return ((own + twice) / (1 + twice)).mean()


def _own_share_by_logits(weights, again):
    n = len(weights)
    scores = weights.log()
    longer = torch.cat([scores, scores[:, again]], 1).softmax(1)  # the pool, the tokens again at its end
    return longer[:, :n].sum(1).mean() + longer[:, weights.shape[1] :].sum(1).mean()


def _not_normalised(weights, again):
    n = len(weights)
    return (weights[:, :n].sum(1) + weights[:, again].sum(1)).mean()


def _as_if_once(weights, again):
    return weights[:, : len(weights)].sum(1).mean()


def _all_own_twice(weights, again):
    return _own_share(weights, torch.arange(len(weights)))


def _first_copy_only(weights, again):
    n = len(weights)
    return (weights[:, :n].sum(1) / (1 + weights[:, again].sum(1))).mean()


@exercise(
    "own-share",
    right=[_own_share, _own_share_by_logits],
    wrong={
        "not normalised": (_not_normalised, "sum to 1"),
        "as if read once": (_as_if_once, "before"),
        "all own tokens twice": (_all_own_twice, "only those in `again`"),
        "the copies left out": (_first_copy_only, "copies"),
    },
)
def own_share(answer):
    """``answer(weights [N, L], again) -> number``: the own tokens' share when those in ``again`` come twice.

    The first N of the L weights of each query are those of its own panel.
    """
    weights = _numbers(8, 5, 9).softmax(1)
    again = torch.tensor([0, 3])
    got = torch.as_tensor(answer(weights.clone(), again.clone()), dtype=torch.float64)
    expect(got.ndim == 0, f"Return one number, the mean over the queries, not the shape {list(got.shape)}.")
    args = weights, again
    expect(
        not same(got, _not_normalised(*args)),
        "After some tokens came a second time the weights must still sum to 1: divide by the new sum.",
    )
    expect(
        not same(got, _as_if_once(*args)), "This is the share before: a token in the pool twice weighs twice."
    )
    expect(
        not same(got, _all_own_twice(*args)),
        "Not all own tokens come twice, only those in `again` were drawn a second time.",
    )
    expect(not same(got, _first_copy_only(*args)), "The copies are own tokens too: count their weight.")
    expect(same(got, _own_share(*args)), "The number differs.")
