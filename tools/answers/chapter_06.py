"""Answers to the exercises of chapter 06, reading attention maps."""

from __future__ import annotations

import torch

from . import ANSWERS, Answers

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


ANSWERS["mean-map"] = Answers(
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


ANSWERS["pool-map"] = Answers(
    right=[_pool_map, _pool_map_by_matrices],
    wrong={
        "mean over the keys": (_mean_of_keys, "summed over the keys"),
        "sum over the queries": (_sum_of_queries, "averaged over the queries"),
        "largest of the keys": (_largest_of_keys, "largest"),
        "the last key of a patch wins": (_last_key_wins, "one key"),
    },
)


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


ANSWERS["panel-mass"] = Answers(
    right=[_panel_mass, _panel_mass_by_matrix],
    wrong={
        "mean over a panel's keys": (_mean_instead, "not their mean"),
        "keys cut into equal blocks": (_equal_blocks, "owner"),
        "keys counted": (_counts_of_keys, "even look"),
        "heads added up": (_heads_added, "mean of the heads"),
    },
)


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


ANSWERS["lift"] = Answers(
    right=[_lift, _lift_in_a_loop],
    wrong={
        "no baseline": (_no_baseline, "without its baseline"),
        "all queries ask": (_everybody_asks, "Only the queries"),
        "baseline of the queries": (_baseline_of_the_askers, "share of the keys"),
        "difference instead of ratio": (_difference, "ratio"),
        "turned over": (_other_way, "upside down"),
    },
)


# ---------------------------------------------------------------------------------------- mend-mass


def _mass_mended(maps):
    own = maps.sum(-1).diagonal(dim1=0, dim2=3)
    return 1 - own.mean((0, 1))


def _mass_panel_by_panel(maps):
    found = []
    for i, m in enumerate(maps):  # [h, N, F, N]
        others = [j for j in range(len(maps)) if j != i]
        found.append(m[:, :, others].sum((-2, -1)).mean())
    return torch.stack(found)


def _mass_as_it_was(maps):
    return 1 - maps.mean(-1).diagonal(dim1=0, dim2=3).mean(1).amax(0)


def _mass_of_one_head(maps):
    return 1 - maps.sum(-1).diagonal(dim1=0, dim2=3).mean(1).amax(0)


def _mass_of_mean_keys(maps):
    return 1 - maps.mean(-1).diagonal(dim1=0, dim2=3).mean((0, 1))


def _mass_on_own(maps):
    return maps.sum(-1).diagonal(dim1=0, dim2=3).mean((0, 1))


def _mass_received(maps):
    read = maps.sum(-1).mean((1, 2))  # [who asks, who is read]
    return read.sum(0) - read.diagonal()


ANSWERS["mend-mass"] = Answers(
    right=[_mass_mended, _mass_panel_by_panel],
    wrong={
        "as it was": (_mass_as_it_was, "Nothing is mended"),
        "largest head": (_mass_of_one_head, "take their mean"),
        "mean of the keys": (_mass_of_mean_keys, "summed, not averaged"),
        "own panel": (_mass_on_own, "reads of itself"),
        "what is received": (_mass_received, "who asks"),
    },
)


# ---------------------------------------------------------------------------------------- lift-by-patch


def _mass_by_patch(weights, owner, panels, query_cells, cells, mass, pool):
    """Shares [cells, panels]: each panel is a column of its own."""
    return pool(mass(weights, owner, panels), query_cells, torch.arange(panels), cells, panels)


def _lift_by_patch(weights, owner, panels, query_cells, cells, mass, pool):
    shares = _mass_by_patch(weights, owner, panels, query_cells, cells, mass, pool)
    return shares * len(owner) / owner.bincount(minlength=panels)


def _lift_by_keys(weights, owner, panels, query_cells, cells, mass, pool):
    shares = pool(weights.mean(0), query_cells, owner, cells, panels)  # keys into panels at once
    even = torch.stack([(owner == j).double().mean() for j in range(panels)])
    return shares / even


def _even_panels(weights, owner, panels, query_cells, cells, mass, pool):
    return _mass_by_patch(weights, owner, panels, query_cells, cells, mass, pool) * panels


def _mass_per_key(weights, owner, panels, query_cells, cells, mass, pool):
    shares = _mass_by_patch(weights, owner, panels, query_cells, cells, mass, pool)
    return shares / owner.bincount(minlength=panels)


def _less_the_baseline(weights, owner, panels, query_cells, cells, mass, pool):
    shares = _mass_by_patch(weights, owner, panels, query_cells, cells, mass, pool)
    return shares - owner.bincount(minlength=panels) / len(owner)


def _same_in_each_patch(weights, owner, panels, query_cells, cells, mass, pool):
    of_all = mass(weights, owner, panels).mean(0) * len(owner) / owner.bincount(minlength=panels)
    return of_all.expand(cells, -1)


ANSWERS["lift-by-patch"] = Answers(
    right=[_lift_by_patch, _lift_by_keys],
    wrong={
        "no baseline": (_mass_by_patch, "without their baseline"),
        "the same baseline for all": (_even_panels, "different numbers of keys"),
        "by the number of keys": (_mass_per_key, "not by their number"),
        "difference": (_less_the_baseline, "a lift is a ratio"),
        "the same in each patch": (_same_in_each_patch, "mean of the whole picture"),
    },
)
