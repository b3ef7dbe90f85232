"""Exercises of chapter 12, the neighbours."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_no_mistake, expect_tensor, generator, records, same

known = records("chapter_12")

METHODS = (
    "rate 1",
    "first panel also read",
    "AdaIN alone",
    "StyleAligned",
    "ConsiStory, no token is a subject",
    "looks named in panel 1, carried",
)


# ---------------------------------------------------------------------------------------- unchanged


@exercise("unchanged")
def unchanged(answer):
    """``answer(method) -> set`` of the panels, 1 to 4, that are drawn as without the method."""
    hints = {
        "rate 1": "At rate 1 every panel reads every other: who is drawn as before?",
        "first panel also read": "The others read panel 1. What does panel 1 itself read that it "
        "did not read before?",
        "AdaIN alone": "Nothing is read of other panels, and still something is taken from panel 1. What "
        "changes when panel 1 is given its own mean and spread?",
        "StyleAligned": "Panel 1 is given its own mean and spread, and reads itself.",
        "ConsiStory, no token is a subject": "What may be read of a panel in which no token is a subject?",
        "looks named in panel 1, carried": "Without the method the looks are named in panel 1 as well. In "
        "whose prompts do states stand elsewhere?",
    }
    for method in METHODS:
        got = answer(method)
        expect(
            isinstance(got, (set, frozenset, list, tuple)) and all(isinstance(x, int) for x in got),
            f"For {method!r} return a set of panel numbers, such as {{1, 2}}.",
        )
        expect(
            set(got) <= {1, 2, 3, 4}, f"Panels are numbered 1 to 4; for {method!r} you have {sorted(got)}."
        )
        expect(set(got) == known.unchanged(method), f"{method}: {hints[method]}")


# ---------------------------------------------------------------------------------------- adain


@exercise("adain")
def adain(answer):
    """``answer(x [N, C], first [N, C], amount) -> [N, C]``: mean and spread moved towards the first one's."""
    g = generator(1)
    x, first = (torch.randn(7, 3, generator=g, dtype=torch.float64) * s + m for s, m in ((2, 1), (0.5, -3)))
    for amount in (0.25, 1.0):
        got = answer(x.clone(), first.clone(), amount)
        expect_tensor(got, (7, 3))
        args = x, first, amount
        wrong = {
            "over_channels": "Mean and spread are taken over the channels of a token. Take them over the "
            "tokens, a channel at a time.",
            "over_everything": "One mean and one spread for all channels: each channel has its own.",
            "mean_alone": "The mean is moved towards the first panel's; the spread too?",
            "spread_alone": "The spread is moved towards the first panel's; the mean too?",
        }
        expect_no_mistake(got, known, args, wrong)
        expect(
            amount == 1 or not same(got, known.whole(*args)),
            "Mean and spread are wholly the first panel's: take only the amount of the way.",
        )
        expect(
            amount == 1 or not same(got, known.other_way(*args)),
            "With amount 0 nothing may change, and with amount 1 all: exchange them.",
        )
        expect(same(got, known.adain(*args), 1e-3), "Some number differs.")


# ---------------------------------------------------------------------------------------- mask-reads


@exercise("mask-reads")
def mask_reads(answer):
    """``answer(i, masks [F, N]) -> set of (panel, token)`` that panel i reads."""
    masks = torch.rand(3, 5, generator=generator(2)) < 0.5
    masks[0], masks[1] = (
        torch.tensor([True, False, True, False, False]),
        torch.tensor([False, True, True, True, False]),
    )

    def get(i):
        found = answer(i, masks.clone())
        expect(
            isinstance(found, (list, tuple, set))
            and all(isinstance(x, tuple) and len(x) == 2 for x in found),
            "Return a set of pairs (panel, token).",
        )
        pairs = [(int(j), int(t)) for j, t in found]
        expect(len(set(pairs)) == len(pairs), f"Panel {i} reads a token twice.")
        return set(pairs)

    got = {i: get(i) for i in range(3)}

    def is_like(other):
        return all(got[i] == set(other(i, masks)) for i in got)

    expect(
        not is_like(known.own_masked),
        "Of its own tokens a panel reads only the subject: its own it reads all, scene included.",
    )
    expect(not is_like(known.others_only), "A panel's own tokens are missing.")
    expect(not is_like(known.no_mask), "That is rate 1: of the others only what is in the mask may be read.")
    expect(
        not is_like(known.readers_mask),
        "The mask of the reader is used for the others. Each panel's own mask says what may be read of it.",
    )
    expect(not is_like(known.outside), "That is the background: the mask is True where the subject is.")
    expect(is_like(known.mask_reads), "Some panel reads other tokens than it should.")


# ---------------------------------------------------------------------------------------- subject-picks


@exercise("subject-picks")
def subject_picks(answer):
    """``answer(masks [F, N], k, generator) -> LongTensor [F, k]``: tokens of the subject first, at random."""
    f, n = 2, 40
    masks = torch.zeros(f, n, dtype=torch.bool)
    masks[0, 10:22], masks[1, 5:17] = True, True
    subjects = set(range(10, 22)), set(range(5, 17))

    def get(k, seed):
        found = answer(masks.clone(), k, generator(seed))
        expect(
            isinstance(found, torch.Tensor) and found.dtype == torch.long,
            "Return a LongTensor of token indices.",
        )
        expect(
            tuple(found.shape) == (f, k),
            f"The picks have the shape {list(found.shape)}; for {f} panels and k = {k} it must be "
            f"[{f}, {k}], also where a subject has fewer tokens than that.",
        )
        rows = [set(row) for row in found.tolist()]
        expect(all(len(row) == k for row in rows), "A token is picked twice.")
        expect(all(0 <= t < n for row in rows for t in row), "An index is outside the panel.")
        return rows

    few, many = [get(6, s) for s in range(4)], [get(20, s) for s in range(4)]

    def every(draws, ok):
        return all(ok(row, subject) for rows in draws for row, subject in zip(rows, subjects, strict=True))

    expect(
        every(many, lambda row, subject: subject <= row),
        "With k larger than the subject all of its tokens must be among the picks, and then others.",
    )
    expect(
        every(few, lambda row, subject: row <= subject),
        "The subject has enough tokens, and still a pick is of the background.",
    )
    expect(
        len({tuple(sorted(rows[0])) for rows in few}) > 1,
        "Every draw gives the same tokens of the subject: draw them.",
    )
    expect(
        len({tuple(sorted(rows[0] - subjects[0])) for rows in many}) > 1,
        "The tokens that fill up are the same in every draw: draw them, too.",
    )
    places = [
        [sorted(t - min(s) for t in row) for row, s in zip(rows, subjects, strict=True)] for rows in few
    ]
    expect(
        any(a != b for a, b in places),
        "Both panels have the same draw: each panel has one of its own.",
    )
    expect(get(6, 9) == get(6, 9), "The same state of the generator must give the same picks.")


# ---------------------------------------------------------------------------------------- carry


@exercise("carry")
def carry(answer):
    """``answer(states [L, D], told [L, D], at, short, phrase) -> [L, D]``; short and phrase count tokens."""
    g = generator(3)
    states, told = (torch.randn(14, 4, generator=g, dtype=torch.float64) for _ in range(2))
    states[9:] = states[9]  # padding
    for at, short, phrase in ((1, 2, 5), (3, 1, 3)):
        args = states, told, at, short, phrase
        got = answer(states.clone(), told.clone(), at, short, phrase)
        expect(
            not isinstance(got, torch.Tensor) or len(got) == 14,
            f"{len(got) if isinstance(got, torch.Tensor) else 0} states came back: as many as before "
            "are needed; what no longer fits is padding, and is cut off.",
        )
        expect_tensor(got, (14, 4))
        wrong = {
            "short_stays": "The short form is still there, behind the phrase: its states are replaced.",
            "with_begin": "The phrase begins with the begin token, and its last token is lost: in told it "
            "begins at place 1.",
            "overwritten": "The phrase has overwritten what followed the short form: that moves back "
            "instead.",
        }
        expect_no_mistake(got, known, args, wrong)
        expect(
            at == 1 or not same(got, known.at_the_beginning(*args)),
            "The phrase stands at the beginning; the short form stands at place `at`.",
        )
        expect(same(got, known.carry(*args)), "Some state is not where it should be.")


# ---------------------------------------------------------------------------------------- mend-followers


@exercise("mend-followers", builds_on={"adain": "adain"})
def mend_followers(answer, partly):
    """``answer(q, k, v, amount, partly) -> [F, N, C]``; q, k, v [F, N, C], one head."""
    g = generator(121)
    q, k, v = (torch.randn(3, 4, 3, generator=g, dtype=torch.float64) for _ in range(3))
    apart = torch.tensor([0.0, 1.0, -1.0], dtype=q.dtype)[:, None, None]  # the panels' means
    q, k, v = 2 * q, k + apart, v + 2 * apart
    args = q, k, v, 0.25, partly
    got = answer(q.clone(), k.clone(), v.clone(), 0.25, partly)
    expect_tensor(got, q.shape)
    wrong = {
        "as_it_stands": "Nothing is mended yet: the first panel must come out as in plain self-attention.",
        "followers_of_the_last": "What is normalised is right now. Panel i reads panel i - 1, the first one "
        "the last (k[-1]); whom do all read in StyleAligned?",
        "followers_normalise_values": "All read the first panel now. Values are what is read, and stay as "
        "they are: queries and keys are normalised.",
        "followers_normalise_all": "The values are normalised beside the keys: they stay as they are.",
        "followers_keys_plain": "All read the first panel, and the values are left alone. The keys of a "
        "panel are normalised as its queries are.",
        "followers_read_first_only": "A panel's own tokens are missing: it reads them, too.",
        "followers_wholly": "You go the whole way: hand `amount` on to `partly`.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.followers(*args)), "Some number differs.")
