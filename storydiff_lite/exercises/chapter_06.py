"""Exercises of chapter 06, reading attention maps."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_no_mistake, expect_number, expect_tensor, generator, records, same

known = records("chapter_06")


def _numbers(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def _rows(seed, *shape):
    """Attention rows: positive, the last axis sums to 1."""
    return (2 * _numbers(seed, *shape)).softmax(-1)


# ---------------------------------------------------------------------------------------- mean-map


@exercise("mean-map")
def mean_map(answer):
    """``answer(q, k) -> [N, L]``; q [2, h, N, d], k [2, h, L, d], the unconditional half first."""
    args = _numbers(1, 2, 3, 5, 4), _numbers(2, 2, 3, 7, 4)
    got = answer(*(a.clone() for a in args))
    expect_tensor(got, (5, 7))
    wrong = {
        "logits_averaged": "You averaged the heads' scores before the softmax. No head reads that: average "
        "what they read.",
        "no_scale": "The scores are not divided by the square root of d.",
        "unconditional": "This is the half that reads no prompt; the conditional one is the second half of "
        "the batch.",
        "over_queries": "The softmax runs along the wrong axis: rows must sum to 1.",
        "scaled_by_the_whole_width": "d is the width of one head, not of all of them together.",
        "both_halves": "This is the mean of both halves of guidance; only the conditional one read the "
        "prompt.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.mean_map(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- pool-map


@exercise("pool-map")
def pool_map(answer):
    """``answer(rows [N, L], query_cells [N], key_cells [L], cells, columns) -> [cells, columns]``."""
    args = _rows(3, 6, 8), torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 2, 2, 4, 0]), 3, 5
    got = answer(*(a.clone() if isinstance(a, torch.Tensor) else a for a in args))
    expect_tensor(got, (3, 5))
    wrong = {
        "mean_of_keys": "Shares of attention are summed over the keys of a patch: a large patch can take "
        "more.",
        "sum_of_queries": "Rows are averaged over the queries of a patch, so that every row still sums to 1.",
        "largest_of_keys": "You kept the largest share of each patch; all shares of its keys count.",
        "last_key_wins": "Of each patch only one key was kept: assigning with repeated indices overwrites, "
        "it does not add.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.pool_map(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- panel-mass


@exercise("panel-mass")
def panel_mass(answer):
    """``answer(weights [h, N, L], owner [L], panels) -> [N, panels]``; owner: whose key it is."""
    args = _rows(4, 2, 4, 9), torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 1]), 3
    got = answer(args[0].clone(), args[1].clone(), 3)
    expect_tensor(got, (4, 3))
    wrong = {
        "mean_instead": "A panel gets the sum of what its keys are given, not their mean.",
        "equal_blocks": "The panels have different numbers of keys here: owner says whose each key is.",
        "counts_of_keys": "This counts the keys of each panel: it is what an even look would give, the "
        "baseline.",
        "heads_added": "Take the mean of the heads: each row must still sum to 1.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.panel_mass(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- lift


@exercise("lift")
def lift(answer):
    """``answer(weights [N, L], asks bool [N], target bool [L]) -> number``."""
    args = _rows(5, 5, 8), torch.tensor([1, 1, 0, 0, 0]).bool(), torch.tensor([0, 1, 1, 0, 0, 0, 1, 0]).bool()
    got = expect_number(answer(*(a.clone() for a in args)))
    wrong = {
        "no_baseline": "This is the share alone, without its baseline: a large target gets much by being "
        "large.",
        "everybody_asks": "Only the queries marked in asks count.",
        "baseline_of_the_askers": "The baseline is the target's share of the keys, not the share of queries "
        "that ask.",
        "difference": "Divide by the baseline: a lift is a ratio, 1 is an even look.",
        "other_way": "The ratio is upside down: attention over baseline.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.lift(*args)), "The number differs.")


# ---------------------------------------------------------------------------------------- mend-mass


@exercise("mend-mass")
def mend_mass(answer):
    """``answer(maps [F, h, N, F, N]) -> [F]``: what part of a panel's attention goes to other panels."""
    maps = _rows(9, 3, 2, 4, 12).unflatten(-1, (3, 4))
    got = answer(maps.clone())
    expect_tensor(got, (3,))
    wrong = {
        "mass_as_it_was": "Nothing is mended yet: with an even look of three panels, two thirds should go "
        "to the others.",
        "mass_of_one_head": "The shares are summed now, but of the heads only the largest counts: take "
        "their mean.",
        "mass_of_mean_keys": "The heads are right now; the shares of a panel's keys have to be summed, not "
        "averaged.",
        "mass_on_own": "This is what a panel reads of itself.",
        "mass_received": "This is what the others read of a panel: the first axis says who asks, the fourth "
        "who is read.",
    }
    expect_no_mistake(got, known, (maps,), wrong)
    expect(same(got, known.mass_mended(maps)), "Some number differs.")


# ---------------------------------------------------------------------------------------- lift-by-patch


@exercise("lift-by-patch", builds_on={"panel-mass": "panel_mass", "pool-map": "pool_map"})
def lift_by_patch(answer, mass, pool):
    """``answer(weights [h, N, L], owner, panels, query_cells, cells, mass, pool) -> [cells, panels]``."""
    weights = _rows(21, 2, 6, 9)
    owner, query_cells = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 1]), torch.tensor([0, 0, 1, 1, 1, 2])
    args = weights, owner, 3, query_cells, 3, mass, pool
    got = answer(*(a.clone() if isinstance(a, torch.Tensor) else a for a in args))
    expect_tensor(got, (3, 3))
    wrong = {
        "mass_by_patch": "These are shares, without their baseline: a panel of which many keys are read gets "
        "much by that alone.",
        "even_panels": "The baseline is not the same for all panels: they have different numbers of keys, "
        "and "
        "`owner` says how many.",
        "mass_per_key": "Divide by a panel's share of all keys, not by their number: with an even look the "
        "answer is 1.",
        "less_the_baseline": "Divide by the baseline: a lift is a ratio, 1 is an even look.",
        "same_in_each_patch": "Every patch got the mean of the whole picture. Its row is the mean over "
        "its own "
        "queries.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.lift_by_patch(*args)), "Some number differs.")
