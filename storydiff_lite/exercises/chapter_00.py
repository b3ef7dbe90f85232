"""Exercises of chapter 00, a story in one minute."""

from __future__ import annotations

import random
from itertools import combinations

import torch

from . import exercise, expect, expect_number, expect_tensor, same

# ------------------------------------------------------------------------------------------ agreement


def _pairs(classes):
    return [a == b for a, b in combinations(classes, 2)]


def _agreement(classes):
    pairs = _pairs(classes)
    return sum(pairs) / len(pairs)


def _agreement_by_counting(classes):
    n = len(classes)
    same_pairs = sum(classes.count(c) * (classes.count(c) - 1) for c in set(classes))
    return same_pairs / (n * (n - 1))


def _agreement_in_tensors(classes):
    ids = torch.tensor([sorted(set(classes)).index(c) for c in classes])
    equal = (ids[:, None] == ids).float()
    return equal.triu(1).sum() / torch.ones_like(equal).triu(1).sum()  # a tensor of one number


def _neighbours(classes):
    return sum(a == b for a, b in zip(classes, classes[1:], strict=False)) / (len(classes) - 1)


def _with_itself(classes):
    return sum(a == b for a in classes for b in classes) / len(classes) ** 2


def _majority(classes):
    return max(classes.count(c) for c in classes) / len(classes)


@exercise(
    "agreement",
    right=[_agreement, _agreement_by_counting, _agreement_in_tensors],
    wrong={
        "neighbours only": (_neighbours, "neighbours"),
        "a panel paired with itself": (_with_itself, "with itself"),
        "share of the most frequent": (_majority, "most frequent"),
        "a count instead of a fraction": (lambda c: sum(_pairs(c)), "fraction"),
    },
)
def agreement(answer):
    """``answer(classes: list of str) -> float``: the fraction of pairs of panels that show the same."""
    cases = [["red"] * 4, ["red", "blue"], ["red", "blue", "red"], ["a", "b", "c", "d"], ["a", "a", "b", "b"]]
    rng = random.Random(0)
    cases += [[rng.choice("abc") for _ in range(n)] for n in (3, 5, 6)]
    got = [expect_number(answer(list(c))) for c in cases]
    for mistake, hint in (
        (_neighbours, "You compare neighbours only; the first panel and the third are a pair too."),
        (
            _with_itself,
            "You pair each panel with itself, which always agrees; count two different panels.",
        ),
        (_majority, "That is the share of the most frequent class; count pairs of panels instead."),
        (lambda c: sum(_pairs(c)), "That is a count of pairs; divide by all pairs to get a fraction."),
    ):
        expect(not all(same(x, mistake(c)) for x, c in zip(got, cases, strict=True)), hint)
    for x, c in zip(got, cases, strict=True):
        expect(
            same(x, _agreement(c)), f"For {c} it is {_agreement(c):.3f}, and your answer is {float(x):.3f}."
        )


# ------------------------------------------------------------------------------------------ tokens read


def _tokens_read(panels, tokens, rate):
    return tokens + (panels - 1) * round(rate * tokens)


def _tokens_read_one_by_one(panels, tokens, rate):
    read = tokens
    for _ in range(1, panels):
        read += int(rate * tokens + 0.5)
    return read


@exercise(
    "tokens-read",
    right=[_tokens_read, _tokens_read_one_by_one],
    wrong={
        "own tokens sampled too": (lambda f, n, r: f * round(r * n), "all of its own"),
        "own tokens counted twice": (lambda f, n, r: n + f * round(r * n), "twice"),
        "one other panel": (lambda f, n, r: n + round(r * n), "every other panel"),
    },
)
def tokens_read(answer):
    """``answer(panels, tokens, rate) -> int``: how many tokens a query reads."""
    cases = [(4, 256, 0.5), (4, 64, 0.25), (2, 256, 1.0), (5, 64, 0.0), (1, 64, 0.5), (7, 256, 0.75)]
    got = [expect_number(answer(*c)) for c in cases]
    for mistake, hint in (
        (
            lambda f, n, r: f * round(r * n),
            "A panel reads all of its own tokens; only others are sampled.",
        ),
        (lambda f, n, r: n + f * round(r * n), "Its own tokens are read twice here: there are F - 1 others."),
        (lambda f, n, r: n + round(r * n), "It reads a sample of every other panel, not of one."),
    ):
        expect(not all(x == mistake(*c) for x, c in zip(got, cases, strict=True)), hint)
    for x, c in zip(got, cases, strict=True):
        want = _tokens_read(*c)
        expect(x == want, f"{c[0]} panels of {c[1]} tokens at rate {c[2]}: {want} tokens are read, not {x}.")


# ------------------------------------------------------------------------------------------ attend


def _attend(q, k, v):
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v


def _attend_by_loop(q, k, v):
    rows = []
    for one in q:
        weights = torch.exp((k * one).sum(-1) / one.numel() ** 0.5)
        rows.append((weights[:, None] * v).sum(0) / weights.sum())
    return torch.stack(rows)


def _unscaled(q, k, v):
    return (q @ k.T).softmax(-1) @ v


def _over_queries(q, k, v):
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(0) @ v


def _values_forgotten(q, k, v):
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ k


@exercise(
    "attend",
    right=[_attend, _attend_by_loop],
    wrong={
        "no square root of the width": (_unscaled, "square root"),
        "softmax over the queries": (_over_queries, "over the keys"),
        "keys averaged instead of values": (_values_forgotten, "values"),
    },
)
def attend(answer):
    """``answer(q [N, d], k [M, d], v [M, d]) -> [N, d]``: Eq. 3."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, 8, generator=g) for n in (5, 9, 9))
    got = answer(q.clone(), k.clone(), v.clone())
    expect_tensor(got, (5, 8))
    expect(not same(got, _unscaled(q, k, v)), "Divide the scores by the square root of d before the softmax.")
    expect(not same(got, _over_queries(q, k, v)), "The softmax runs over the keys (the last axis of q k^T).")
    expect(not same(got, _values_forgotten(q, k, v)), "You average the keys; average the values.")
    expect(same(got, _attend(q, k, v)), "Eq. 3 is softmax(q k^T / sqrt(d)) v; some number differs from it.")


# ------------------------------------------------------------------------------------------ keys


def _reads(i, frames, picks):
    own = [frames[i]]
    return torch.cat(own + [frames[j][picks[j]] for j in range(len(frames)) if j != i])


def _reads_by_mask(i, frames, picks):
    f, n, c = frames.shape
    keep = torch.zeros(f, n, dtype=torch.bool)
    for j, p in enumerate(picks):
        keep[j, p] = True
    keep[i] = True
    first = [i, *(j for j in range(f) if j != i)]
    return torch.cat([frames[j][keep[j]] for j in first])


def _own_twice(i, frames, picks):
    return torch.cat([frames[i]] + [frames[j][picks[j]] for j in range(len(frames))])


def _no_own(i, frames, picks):
    return torch.cat([frames[j][picks[j]] for j in range(len(frames)) if j != i])


def _everything(i, frames, picks):
    return torch.cat(list(frames))


def _readers_picks(i, frames, picks):
    return torch.cat([frames[i]] + [frames[j][picks[i]] for j in range(len(frames)) if j != i])


@exercise(
    "what-a-panel-reads",
    right=[_reads, _reads_by_mask],
    wrong={
        "own tokens twice": (_own_twice, "twice"),
        "own tokens dropped": (_no_own, "all its own tokens"),
        "the reader's picks": (_readers_picks, "picks[j]"),
        "picks forgotten": (_everything, "at those picks"),
    },
)
def what_a_panel_reads(answer):
    """``answer(i, frames [F, N, C], picks) -> [N + (F - 1) K, C]``: Eq. 2, in any order of the tokens."""
    g = torch.Generator().manual_seed(0)
    frames = torch.randn(4, 6, 3, generator=g)
    picks = [torch.randperm(6, generator=g)[:2].sort().values for _ in range(4)]
    for i in range(4):
        got = answer(i, frames.clone(), picks)
        expect(isinstance(got, torch.Tensor), f"The answer is a {type(got).__name__}; expected a tensor.")
        expect(not _same_rows(got, _own_twice(i, frames, picks)), "Panel i's own picks are read twice now.")
        expect(not _same_rows(got, _no_own(i, frames, picks)), "Panel i must read all its own tokens too.")
        expect(
            not _same_rows(got, _everything(i, frames, picks)),
            "You read all tokens of the other panels; read each at those picks that others may read.",
        )
        if not _same_rows(_readers_picks(i, frames, picks), _reads(i, frames, picks)):
            expect(
                not _same_rows(got, _readers_picks(i, frames, picks)),
                "picks[j] says what others may read of panel j; you read panel j at picks[i].",
            )
        want = _reads(i, frames, picks)
        expect_tensor(got, want.shape)
        expect(_same_rows(got, want), f"Panel {i} reads other tokens than Eq. 2 says.")


def _same_rows(a, b):
    """Whether two matrices hold the same rows in any order: attention does not mind their order."""
    if a.ndim != 2 or a.shape != b.shape:
        return False
    return same(a[a[:, 0].argsort()], b[b[:, 0].argsort()])
