"""Exercises of chapter 00, a story in one minute."""

from __future__ import annotations

import random

import torch

from . import exercise, expect, expect_no_mistake, expect_number, expect_tensor, generator, records, same

known = records("chapter_00")


# ------------------------------------------------------------------------------------------ agreement


@exercise("agreement")
def agreement(answer):
    """``answer(classes: list of str) -> float``: the fraction of pairs of panels that show the same."""
    cases = [["red"] * 4, ["red", "blue"], ["red", "blue", "red"], ["a", "b", "c", "d"], ["a", "a", "b", "b"]]
    rng = random.Random(0)
    cases += [[rng.choice("abc") for _ in range(n)] for n in (3, 5, 6)]
    got = [expect_number(answer(list(c))) for c in cases]
    for mistake, hint in (
        (known.neighbours, "You compare neighbours only; the first panel and the third are a pair too."),
        (
            known.with_itself,
            "You pair each panel with itself, which always agrees; count two different panels.",
        ),
        (known.majority, "That is the share of the most frequent class; count pairs of panels instead."),
        (known.count, "That is a count of pairs; divide by all pairs to get a fraction."),
    ):
        expect(not all(same(x, mistake(c)) for x, c in zip(got, cases, strict=True)), hint)
    for x, c in zip(got, cases, strict=True):
        expect(
            same(x, known.agreement(c)),
            f"For {c} it is {known.agreement(c):.3f}, and your answer is {float(x):.3f}.",
        )


# ------------------------------------------------------------------------------------------ tokens read


@exercise("tokens-read")
def tokens_read(answer):
    """``answer(panels, tokens, rate) -> int``: how many tokens a query reads."""
    cases = [(4, 256, 0.5), (4, 64, 0.25), (2, 256, 1.0), (5, 64, 0.0), (1, 64, 0.5), (7, 256, 0.75)]
    got = [expect_number(answer(*c)) for c in cases]
    for mistake, hint in (
        (
            known.own_sampled,
            "A panel reads all of its own tokens; only others are sampled.",
        ),
        (known.own_counted_twice, "Its own tokens are read twice here: there are F - 1 others."),
        (known.one_other, "It reads a sample of every other panel, not of one."),
    ):
        expect(not all(x == mistake(*c) for x, c in zip(got, cases, strict=True)), hint)
    for x, c in zip(got, cases, strict=True):
        want = known.tokens_read(*c)
        expect(x == want, f"{c[0]} panels of {c[1]} tokens at rate {c[2]}: {want} tokens are read, not {x}.")


# ------------------------------------------------------------------------------------------ attend


@exercise("attend")
def attend(answer):
    """``answer(q [N, d], k [M, d], v [M, d]) -> [N, d]``: Eq. 3."""
    g = generator(0)
    q, k, v = (torch.randn(n, 8, generator=g) for n in (5, 9, 9))
    got = answer(q.clone(), k.clone(), v.clone())
    expect_tensor(got, (5, 8))
    wrong = {
        "unscaled": "Divide the scores by the square root of d before the softmax.",
        "over_queries": "The softmax runs over the keys (the last axis of q k^T).",
        "values_forgotten": "You average the keys; average the values.",
    }
    expect_no_mistake(got, known, (q, k, v), wrong)
    expect(
        same(got, known.attend(q, k, v)), "Eq. 3 is softmax(q k^T / sqrt(d)) v; some number differs from it."
    )


# ------------------------------------------------------------------------------------------ keys


@exercise("what-a-panel-reads")
def what_a_panel_reads(answer):
    """``answer(i, frames [F, N, C], picks) -> [N + (F - 1) K, C]``: Eq. 2, in any order of the tokens."""
    g = generator(0)
    frames = torch.randn(4, 6, 3, generator=g)
    picks = [torch.randperm(6, generator=g)[:2].sort().values for _ in range(4)]
    for i in range(4):
        got = answer(i, frames.clone(), picks)
        expect(isinstance(got, torch.Tensor), f"The answer is a {type(got).__name__}; expected a tensor.")
        expect(
            not _same_rows(got, known.own_twice(i, frames, picks)), "Panel i's own picks are read twice now."
        )
        expect(
            not _same_rows(got, known.no_own(i, frames, picks)), "Panel i must read all its own tokens too."
        )
        expect(
            not _same_rows(got, known.everything(i, frames, picks)),
            "You read all tokens of the other panels; read each at those picks that others may read.",
        )
        if not _same_rows(known.readers_picks(i, frames, picks), known.reads(i, frames, picks)):
            expect(
                not _same_rows(got, known.readers_picks(i, frames, picks)),
                "picks[j] says what others may read of panel j; you read panel j at picks[i].",
            )
        want = known.reads(i, frames, picks)
        expect_tensor(got, want.shape)
        expect(_same_rows(got, want), f"Panel {i} reads other tokens than Eq. 2 says.")


def _same_rows(a, b):
    """Whether two matrices hold the same rows in any order: attention does not mind their order."""
    if a.ndim != 2 or a.shape != b.shape:
        return False
    return same(a[a[:, 0].argsort()], b[b[:, 0].argsort()])


# ------------------------------------------------------------------------------------------ mend-layer


@exercise("mend-layer", builds_on={"what-a-panel-reads": "reads", "attend": "attend"})
def mend_layer(answer, reads, attend):
    """``answer(frames [F, N, C], picks, reads, attend) -> [F, N, C]``; what came in stays as it was."""
    g = generator(9)
    frames = torch.randn(3, 5, 4, generator=g)
    picks = [torch.randperm(5, generator=g)[:2].sort().values for _ in range(3)]
    given, args = frames.clone(), (frames, picks, reads, attend)
    got = answer(given, [p.clone() for p in picks], reads, attend)
    expect_tensor(got, (3, 5, 4))
    wrong = {
        "layer_as_it_stands": "That is the cell as it stands: which panel stays as it was, and what do later "
        "panels read?",
        "first_left_out": "The first panel is still left as it was. It reads the others as all panels do.",
        "one_after_the_other": "Later panels read what this layer has already written of earlier ones. In a "
        "layer all panels read the same tokens: those that came in.",
        "asks_with_all_it_reads": "The result of panel i has one row for each of its own tokens, in their "
        "order: these are what asks.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(
        same(given, frames),
        "The tokens that were given have changed. Write the results to a tensor of their own.",
    )
    expect(same(got, known.layer(*args)), "Some number differs.")
