"""Exercises of chapter 06, reading attention maps."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_number, expect_tensor, same


def _numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rows(seed, *shape):
    """Attention rows: positive, the last axis sums to 1."""
    return (2 * _numbers(seed, *shape)).softmax(-1)


# ---------------------------------------------------------------------------------------- mean-map


def _mean_map(q, k, half=1, scale=None, axis=-1):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return (q[half] @ k[half].mT * scale).softmax(axis).mean(0)


def _mean_map_head_by_head(q, k):
    total = 0
    for queries, keys in zip(q[1], k[1], strict=True):
        scores = torch.einsum("nd,ld->nl", queries, keys) / queries.shape[1] ** 0.5
        scores = scores.sub(scores.amax(1, keepdim=True)).exp()
        total = total + scores / scores.sum(1, keepdim=True)
    return total / q.shape[1]


def _logits_averaged(q, k):
    return (q[1] @ k[1].mT * q.shape[-1] ** -0.5).mean(0).softmax(-1)


def _no_scale(q, k):
    return _mean_map(q, k, scale=1.0)


def _unconditional(q, k):
    return _mean_map(q, k, half=0)


def _over_queries(q, k):
    return _mean_map(q, k, axis=-2)


def _scaled_by_the_whole_width(q, k):
    return _mean_map(q, k, scale=(q.shape[1] * q.shape[3]) ** -0.5)


def _both_halves(q, k):
    return (_mean_map(q, k, 0) + _mean_map(q, k, 1)) / 2


@exercise(
    "mean-map",
    right=[_mean_map, _mean_map_head_by_head],
    wrong={
        "scores averaged before the softmax": (_logits_averaged, "before the softmax"),
        "missing scale": (_no_scale, "square root"),
        "unconditional half": (_unconditional, "second half"),
        "softmax over the queries": (_over_queries, "wrong axis"),
        "scaled by all heads' width": (_scaled_by_the_whole_width, "one head"),
        "mean of both halves": (_both_halves, "mean of both halves"),
    },
)
def mean_map(answer):
    """``answer(q, k) -> [N, L]``; q [2, h, N, d], k [2, h, L, d], the unconditional half first."""
    args = _numbers(1, 2, 3, 5, 4), _numbers(2, 2, 3, 7, 4)
    got = answer(*(a.clone() for a in args))
    expect_tensor(got, (5, 7))
    expect(
        not same(got, _logits_averaged(*args)),
        "You averaged the heads' scores before the softmax. No head reads that: average what they read.",
    )
    expect(not same(got, _no_scale(*args)), "The scores are not divided by the square root of d.")
    expect(
        not same(got, _unconditional(*args)),
        "This is the half that reads no prompt; the conditional one is the second half of the batch.",
    )
    expect(not same(got, _over_queries(*args)), "The softmax runs along the wrong axis: rows must sum to 1.")
    expect(
        not same(got, _scaled_by_the_whole_width(*args)),
        "d is the width of one head, not of all of them together.",
    )
    expect(
        not same(got, _both_halves(*args)),
        "This is the mean of both halves of guidance; only the conditional one read the prompt.",
    )
    expect(same(got, _mean_map(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- pool-map


def _pool_map(rows, query_cells, key_cells, cells, columns):
    wide = rows.new_zeros(len(rows), columns).index_add_(1, key_cells, rows)
    total = rows.new_zeros(cells, columns).index_add_(0, query_cells, wide)
    return total / query_cells.bincount(minlength=cells)[:, None]


def _pool_map_by_matrices(rows, query_cells, key_cells, cells, columns):
    queries = torch.nn.functional.one_hot(query_cells, cells).to(rows)  # [N, cells]
    keys = torch.nn.functional.one_hot(key_cells, columns).to(rows)  # [L, columns]
    return queries.T @ rows @ keys / queries.sum(0)[:, None]


def _mean_of_keys(rows, query_cells, key_cells, cells, columns):
    counts = key_cells.bincount(minlength=columns).clamp(min=1)
    return _pool_map(rows, query_cells, key_cells, cells, columns) / counts


def _sum_of_queries(rows, query_cells, key_cells, cells, columns):
    counts = query_cells.bincount(minlength=cells)[:, None]
    return _pool_map(rows, query_cells, key_cells, cells, columns) * counts


def _largest_of_keys(rows, query_cells, key_cells, cells, columns):
    keys = key_cells.expand(len(rows), -1)
    wide = rows.new_zeros(len(rows), columns).scatter_reduce(1, keys, rows, "amax")
    total = rows.new_zeros(cells, columns).index_add_(0, query_cells, wide)
    return total / query_cells.bincount(minlength=cells)[:, None]


def _last_key_wins(rows, query_cells, key_cells, cells, columns):
    wide = rows.new_zeros(len(rows), columns)
    for key, cell in enumerate(key_cells.tolist()):
        wide[:, cell] = rows[:, key]
    return torch.stack([wide[query_cells == c].mean(0) for c in range(cells)])


@exercise(
    "pool-map",
    right=[_pool_map, _pool_map_by_matrices],
    wrong={
        "mean over the keys": (_mean_of_keys, "summed over the keys"),
        "sum over the queries": (_sum_of_queries, "averaged over the queries"),
        "largest of the keys": (_largest_of_keys, "largest"),
        "the last key of a patch wins": (_last_key_wins, "one key"),
    },
)
def pool_map(answer):
    """``answer(rows [N, L], query_cells [N], key_cells [L], cells, columns) -> [cells, columns]``."""
    args = _rows(3, 6, 8), torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 2, 2, 4, 0]), 3, 5
    got = answer(*(a.clone() if isinstance(a, torch.Tensor) else a for a in args))
    expect_tensor(got, (3, 5))
    expect(
        not same(got, _mean_of_keys(*args)),
        "Shares of attention are summed over the keys of a patch: a large patch can take more.",
    )
    expect(
        not same(got, _sum_of_queries(*args)),
        "Rows are averaged over the queries of a patch, so that every row still sums to 1.",
    )
    expect(
        not same(got, _largest_of_keys(*args)),
        "You kept the largest share of each patch; all shares of its keys count.",
    )
    expect(
        not same(got, _last_key_wins(*args)),
        "Of each patch only one key was kept: assigning with repeated indices overwrites, it does not add.",
    )
    expect(same(got, _pool_map(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- panel-mass


def _panel_mass(weights, owner, panels):
    return torch.stack([weights[..., owner == j].sum(-1) for j in range(panels)], -1).mean(0)


def _panel_mass_by_matrix(weights, owner, panels):
    return weights.mean(0) @ torch.nn.functional.one_hot(owner, panels).to(weights)


def _mean_instead(weights, owner, panels):
    return torch.stack([weights[..., owner == j].mean(-1) for j in range(panels)], -1).mean(0)


def _equal_blocks(weights, owner, panels):
    return torch.stack([part.sum(-1) for part in weights.tensor_split(panels, -1)], -1).mean(0)


def _counts_of_keys(weights, owner, panels):
    share = owner.bincount(minlength=panels).to(weights) / len(owner)
    return share.expand(weights.shape[1], -1)


def _heads_added(weights, owner, panels):
    return _panel_mass(weights, owner, panels) * len(weights)


@exercise(
    "panel-mass",
    right=[_panel_mass, _panel_mass_by_matrix],
    wrong={
        "mean over a panel's keys": (_mean_instead, "not their mean"),
        "keys cut into equal blocks": (_equal_blocks, "owner"),
        "keys counted": (_counts_of_keys, "even look"),
        "heads added up": (_heads_added, "mean of the heads"),
    },
)
def panel_mass(answer):
    """``answer(weights [h, N, L], owner [L], panels) -> [N, panels]``; owner: whose key it is."""
    args = _rows(4, 2, 4, 9), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 1]), 3
    got = answer(args[0].clone(), args[1].clone(), 3)
    expect_tensor(got, (4, 3))
    expect(
        not same(got, _mean_instead(*args)),
        "A panel gets the sum of what its keys are given, not their mean.",
    )
    expect(
        not same(got, _equal_blocks(*args)),
        "The panels have different numbers of keys here: owner says whose each key is.",
    )
    expect(
        not same(got, _counts_of_keys(*args)),
        "This counts the keys of each panel: it is what an even look would give, the baseline.",
    )
    expect(not same(got, _heads_added(*args)), "Take the mean of the heads: each row must still sum to 1.")
    expect(same(got, _panel_mass(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- lift


def _lift(weights, asks, target, baseline=None):
    baseline = target.double().mean() if baseline is None else baseline
    return weights[asks][:, target].sum(1).mean() / baseline


def _lift_in_a_loop(weights, asks, target):
    shares = [float(row[target].sum()) for row, ask in zip(weights, asks, strict=True) if ask]
    return sum(shares) / len(shares) * len(target) / int(target.sum())


def _no_baseline(weights, asks, target):
    return _lift(weights, asks, target, 1.0)


def _everybody_asks(weights, asks, target):
    return _lift(weights, torch.ones_like(asks), target)


def _baseline_of_the_askers(weights, asks, target):
    return _lift(weights, asks, target, asks.double().mean())


def _difference(weights, asks, target):
    return _no_baseline(weights, asks, target) - target.double().mean()


def _other_way(weights, asks, target):
    return 1 / _lift(weights, asks, target)


@exercise(
    "lift",
    right=[_lift, _lift_in_a_loop],
    wrong={
        "no baseline": (_no_baseline, "without its baseline"),
        "all queries ask": (_everybody_asks, "Only the queries"),
        "baseline of the queries": (_baseline_of_the_askers, "share of the keys"),
        "difference instead of ratio": (_difference, "ratio"),
        "turned over": (_other_way, "upside down"),
    },
)
def lift(answer):
    """``answer(weights [N, L], asks bool [N], target bool [L]) -> number``."""
    args = _rows(5, 5, 8), torch.tensor([1, 1, 0, 0, 0]).bool(), torch.tensor([0, 1, 1, 0, 0, 0, 1, 0]).bool()
    got = expect_number(answer(*(a.clone() for a in args)))
    expect(
        not same(got, _no_baseline(*args)),
        "This is the share alone, without its baseline: a large target gets much by being large.",
    )
    expect(not same(got, _everybody_asks(*args)), "Only the queries marked in asks count.")
    expect(
        not same(got, _baseline_of_the_askers(*args)),
        "The baseline is the target's share of the keys, not the share of queries that ask.",
    )
    expect(not same(got, _difference(*args)), "Divide by the baseline: a lift is a ratio, 1 is an even look.")
    expect(not same(got, _other_way(*args)), "The ratio is upside down: attention over baseline.")
    expect(same(got, _lift(*args)), "The number differs.")
