"""Exercises of chapter 04, the denoising loop."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_tensor, same


def _random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------- split-and-guide


def _guided(pred, scale):
    uncond, cond = pred.chunk(2)
    return uncond + scale * (cond - uncond)


def _guided_by_slices(pred, scale):
    n = len(pred) // 2
    return (1 - scale) * pred[:n] + scale * pred[n:]


def _halves_swapped(pred, scale):
    cond, uncond = pred.chunk(2)
    return uncond + scale * (cond - uncond)


def _every_other(pred, scale):
    uncond, cond = pred[::2], pred[1::2]
    return uncond + scale * (cond - uncond)


def _channels(pred, scale):
    uncond, cond = pred.chunk(2, 1)
    return uncond + scale * (cond - uncond)


@exercise(
    "split-and-guide",
    right=[_guided, _guided_by_slices],
    wrong={
        "halves swapped": (_halves_swapped, "unconditional half comes first"),
        "every other one": (_every_other, "not every other"),
        "cut along the channels": (_channels, "first axis"),
    },
)
def split_and_guide(answer):
    """``answer(pred [2B, 4, h, w], scale) -> [B, 4, h, w]``: unconditional half first."""
    for scale in (5.0, 1.0):
        pred = _random(1, 6, 4, 2, 2)
        got = answer(pred.clone(), scale)
        expect(
            not (isinstance(got, torch.Tensor) and got.shape == (6, 2, 2, 2)),
            "Cut along the first axis, the batch, not along the channels.",
        )
        expect_tensor(got, (3, 4, 2, 2))
        expect(
            not same(got, _halves_swapped(pred, scale)),
            "The halves are swapped: the unconditional half comes first.",
        )
        expect(
            not same(got, _every_other(pred, scale)),
            "The batch is two halves, one after the other, not every other row.",
        )
        expect(same(got, _guided(pred, scale)), f"At scale {scale} some number differs.")


# ---------------------------------------------------------------------------------------- merge-step


def _text_only(step, start):
    return step <= start


def _text_only_by_range(step, start):
    return step in range(start + 1)


@exercise(
    "merge-step",
    right=[_text_only, _text_only_by_range],
    wrong={
        "off by one": (lambda step, start: step < start, "k + 1 steps"),
        "the other way round": (lambda step, start: step > start, "other way round"),
        "identity never comes": (lambda step, start: True, "never comes in"),
    },
)
def merge_step(answer):
    """``answer(step, start) -> bool``: whether this step reads the text alone, as released."""
    want = {(s, k): s <= k for k in (-1, 0, 4, 24) for s in range(25)}
    got = {key: answer(*key) for key in want}
    expect(all(v in (True, False) for v in got.values()), "The answer must be True (text alone) or False.")
    got = {k: bool(v) for k, v in got.items()}
    expect(
        got != {(s, k): s > k for s, k in want},
        "It is the other way round: text alone first, then the identity.",
    )
    expect(not all(got.values()), "The identity never comes in.")
    expect(
        got != {(s, k): s < k for s, k in want},
        "Off by one: with start k the released code reads the text alone in k + 1 steps, 0 to k.",
    )
    expect(got == want, "In some step the answer differs.")


# ---------------------------------------------------------------------------------------- rescale


def _rescaled(guided, cond, amount):
    axes = tuple(range(1, guided.ndim))
    factor = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return amount * guided * factor + (1 - amount) * guided


def _rescaled_flat(guided, cond, amount):
    a, b = guided.flatten(1).std(1), cond.flatten(1).std(1)
    return guided * (1 + amount * (b / a - 1)).view(-1, *[1] * (guided.ndim - 1))


def _over_all(guided, cond, amount):
    return amount * guided * cond.std() / guided.std() + (1 - amount) * guided


def _over_space(guided, cond, amount):
    factor = cond.std((2, 3), keepdim=True) / guided.std((2, 3), keepdim=True)
    return amount * guided * factor + (1 - amount) * guided


def _upside_down(guided, cond, amount):
    axes = (1, 2, 3)
    factor = guided.std(axes, keepdim=True) / cond.std(axes, keepdim=True)
    return amount * guided * factor + (1 - amount) * guided


def _mixed_with_cond(guided, cond, amount):
    axes = (1, 2, 3)
    factor = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return amount * guided * factor + (1 - amount) * cond


@exercise(
    "rescale",
    right=[_rescaled, _rescaled_flat],
    wrong={
        "over the whole batch": (_over_all, "each picture"),
        "over each channel": (_over_space, "all channels"),
        "upside down": (_upside_down, "upside down"),
        "mixed with the wrong one": (_mixed_with_cond, "guided prediction itself"),
    },
)
def rescale(answer):
    """``answer(guided, cond, amount)``: Lin et al. (2305.08891), Eq. 15 and 16."""
    cond = _random(2, 3, 4, 5, 5) * torch.tensor([0.5, 1, 2], dtype=torch.float64).view(3, 1, 1, 1)
    guided = cond * 3 + _random(3, 3, 4, 5, 5) * torch.arange(1, 5, dtype=torch.float64).view(1, 4, 1, 1)
    for amount in (1.0, 0.7, 0.0):
        args = guided, cond, amount
        got = answer(guided.clone(), cond.clone(), amount)
        expect_tensor(got, guided.shape)
        if amount:
            expect(
                not same(got, _over_all(*args)),
                "The spread is measured for each picture, not over the batch.",
            )
            expect(not same(got, _over_space(*args)), "The spread is measured over all channels together.")
            expect(not same(got, _upside_down(*args)), "The factor is upside down.")
        if amount < 1:
            expect(
                not same(got, _mixed_with_cond(*args)),
                "What is mixed in is the guided prediction itself (Eq. 16).",
            )
        expect(same(got, _rescaled(*args)), f"At amount {amount} some number differs.")


# ---------------------------------------------------------------------------------------- repeat-prompts


def _repeated(states, pooled, n):
    return states.repeat_interleave(n, 0), pooled.repeat_interleave(n, 0)


def _repeated_by_view(states, pooled, n):
    b, s, d = states.shape
    return states.repeat(1, n, 1).view(b * n, s, d), pooled.repeat(1, n).view(b * n, -1)


def _tiled(states, pooled, n):
    return states.repeat(n, 1, 1), pooled.repeat(n, 1)


def _mixed(states, pooled, n):
    return states.repeat_interleave(n, 0), pooled.repeat(n, 1)


@exercise(
    "repeat-prompts",
    right=[_repeated, _repeated_by_view],
    wrong={
        "tiled": (_tiled, "next to each other"),
        "the two in different orders": (_mixed, "another prompt"),
        "states only": (lambda s, p, n: (s.repeat_interleave(n, 0), p), "pooled"),
    },
)
def repeat_prompts(answer):
    """``answer(states [B, S, D], pooled [B, P], n) -> [B n, S, D], [B n, P]``, copies next to each other."""
    states, pooled = _random(4, 2, 3, 4), _random(5, 2, 6)
    for n in (3, 1):
        got = answer(states.clone(), pooled.clone(), n)
        expect(isinstance(got, (tuple, list)) and len(got) == 2, "Return two tensors: states and pooled.")
        expect_tensor(got[0], (2 * n, 3, 4), "The states")
        expect(
            isinstance(got[1], torch.Tensor) and got[1].shape[0] == 2 * n,
            "The pooled text must be repeated like the states.",
        )
        want = _repeated(states, pooled, n)
        if same(got[0], want[0]) and not same(got[1], want[1]):
            expect(
                False, "A picture would read the states of one prompt and the pooled text of another prompt."
            )
        expect(same(got[0], want[0]), "Copies of one prompt must stand next to each other: a a a b b b.")
