"""Exercises of chapter 08, semantic motion prediction."""

from __future__ import annotations

from operator import eq

import torch

from . import exercise, expect, expect_no_mistake, expect_number, expect_tensor, generator, records, same

known = records("chapter_08")


# ---------------------------------------------------------------------------------------- straight-line


@exercise("slow-ends")
def slow_ends(answer):
    """``answer(start, end, num_frames)``: [B, S, D] twice -> [B, num_frames, S, D]."""
    g = generator(8)
    start, end = torch.randn(2, 3, 4, generator=g), torch.randn(2, 3, 4, generator=g)
    got, want = answer(start.clone(), end.clone(), 5), known.eased(start, end, 5)
    expect(
        not (isinstance(got, torch.Tensor) and tuple(got.shape) == (5, 2, 3, 4)),
        "The axes are frames, then clips; the batch first: [B, num_frames, S, D].",
    )
    expect_tensor(got, (2, 5, 3, 4))
    expect(not same(got, want.flip(1)), "The motion runs backwards: its first frame is the end.")
    expect(
        not same(got[:, 0], got[:, 2]), "The tokens are the same in every frame: time must run over frames."
    )
    expect(same(got[:, 0], start), "The first frame must be exactly the start tokens, at time 0.")
    expect(
        same(got[:, -1], end),
        "The last frame does not arrive at the end tokens: of L frames the i-th is at i / (num_frames - 1).",
    )
    wrong = {
        "even_steps": "This is the straight line at one speed, all steps of one size: it must begin and end "
        "slowly.",
        "slow_start": "It begins slowly, but it stops dead at the end.",
    }
    expect_no_mistake(got, known, (start, end, 5), wrong)
    expect(same(got, want), "Both ends are right; in between the share of the end is 3 t^2 - 2 t^3.")
    expect(
        same(answer(start.clone(), end.clone(), 2), torch.stack([start, end], 1)),
        "With two frames: the start, the end.",
    )


# ---------------------------------------------------------------------------------------- bend-the-line


@exercise("bend-the-line")
def bend_the_line(answer):
    """``answer(line, correction)``: [B, F, S, D] twice -> [B, F, S, D]."""
    g = generator(9)
    line, correction = torch.randn(2, 7, 3, 4, generator=g), torch.randn(2, 7, 3, 4, generator=g)
    given = line.clone()
    got, want = answer(given, correction.clone()), known.bend(line, correction)
    expect_tensor(got, line.shape)
    expect(same(given, line), "Your answer changed its input: write line + ..., not line += ...")
    expect(
        not same(got[:, 3], correction[:, 3]), "The correction is added to the line, it does not replace it."
    )
    moves = [not same(got[:, i], line[:, i]) for i in (0, -1)]
    expect(not all(moves), "The correction moves both ends, which are known: weigh it by 4 t (1 - t).")
    expect(not moves[0], "The correction moves the first frame, which is known.")
    expect(not moves[1], "The correction moves the last frame, which is known.")
    expect(same(got[:, 3], want[:, 3]), "The weight must be 1 in the middle, at t = 0.5: 4 t (1 - t).")
    expect(same(got, want), "Both ends and the middle are right; look at the frames between: 4 t (1 - t).")


# ---------------------------------------------------------------------------------------- relative-error


@exercise("relative-error")
def relative_error(answer):
    """``answer(predicted, truth)``: [B, F, S, D] twice -> [F - 2]."""
    g = generator(10)
    truth = torch.randn(3, 6, 2, 4, generator=g) * torch.tensor([1.0, 0.2, 3.0]).view(3, 1, 1, 1)
    line = known.line(truth[:, 0], truth[:, -1], 6)
    predicted = truth + 0.3 * (line - truth) + 0.05 * torch.randn(truth.shape, generator=g)
    got, want = answer(predicted.clone(), truth.clone()), known.by_frame(predicted, truth)
    expect(
        not (isinstance(got, float) or (isinstance(got, torch.Tensor) and got.numel() == 1)),
        "This is one number; return one for each frame between the ends, [F - 2].",
    )
    if isinstance(got, torch.Tensor):
        expect(
            got.shape != (3,), "These are errors of the clips; asked are those of the frames, over all clips."
        )
        expect(
            got.shape != (6,),
            "At both ends the line is the truth, and its error 0: leave out the first frame and the last.",
        )
    expect_tensor(got, (4,))
    expect(not same(got, 1 / want), "This is upside down: the predictor's error over that of the line.")
    expect(not same(got, want.sqrt()), "Squared errors, without a square root: half as far is 0.25.")
    expect(
        not same(answer(line.clone(), truth.clone()), torch.zeros(4)),
        "The line itself gets 0: measure how far the prediction is from the truth, not from the line.",
    )
    expect(
        not same(got, known.mean_of_ratios(predicted, truth)),
        "You take the mean of the clips' ratios; take the means over all clips first, then one ratio.",
    )
    expect(same(got, want), f"Expected {want.tolist()} for four frames, got {got.tolist()}.")
    expect(same(answer(line.clone(), truth.clone()), torch.ones(4)), "The straight line itself must get 1.")


# ---------------------------------------------------------------------------------------- tuned-bend


@exercise("tuned-bend", builds_on={"bend-the-line": "bend", "relative-error": "by_frame"})
def tuned_bend(answer, bend, error):
    """``answer(validation, heldout, strengths, bend, error) -> (strength, error)``; clips: three tensors."""
    strengths = [0.0, 0.25, 0.5, 0.75, 1.0]
    validation, heldout = _clips(91, 0.75), _clips(92, 0.5)  # the best strength is another one
    args = validation, heldout, strengths, bend, error
    given = [tuple(t.clone() for t in clips) for clips in (validation, heldout)]
    got = answer(*given, list(strengths), bend, error)
    expect(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "Return two things: the strength, and the error on the held-out clips.",
    )
    expect(
        not (isinstance(got[1], torch.Tensor) and got[1].numel() > 1),
        "The error is one number here: the mean over the frames.",
    )
    strength, found = map(expect_number, got)
    want = known.tuned(*args)
    expect(
        strength in strengths,
        f"{strength} is none of the strengths that were given: return the strength itself.",
    )
    expect(
        strength != known.tuned_on_heldout(*args)[0],
        "You chose the strength on the held-out clips, and measured on the same: what is measured must not "
        "have been chosen on.",
    )
    expect(
        strength != known.tuned_for_the_worst(*args)[0],
        "This strength has the largest error on the validation clips.",
    )
    expect(strength == want[0], "On the validation clips another strength has the smallest mean error.")
    wrong = {
        "told_of_validation": "The strength is right; the error is that of the validation clips, on which it "
        "was chosen. Measure on the held-out ones.",
        "told_without_strength": "The strength is right; on the held-out clips you bend with the whole "
        "correction, not with this part of it.",
        "told_of_one_frame": "The strength is right; the error is that of one frame. Take the mean.",
    }
    for name, hint in wrong.items():
        expect(not same(found, getattr(known, name)(*args)[1]), hint)
    expect(same(found, want[1]), "The strength is right; the error on the held-out clips is another one.")


def _clips(seed, strength):
    """Line, correction and truth [2, 5, 2, 3]: the truth is the line, bent this strongly, and some noise."""
    g = generator(seed)
    start, end = torch.randn(2, 2, 3, generator=g), torch.randn(2, 2, 3, generator=g)
    line = known.line(start, end, 5)
    correction, noise = torch.randn(2, 5, 2, 3, generator=g), 0.02 * torch.randn(2, 5, 2, 3, generator=g)
    noise[:, [0, -1]] = 0
    return line, correction, known.bend(line, strength * correction) + noise


# ---------------------------------------------------------------------------------------- nearest-frame


@exercise("nearest-frame")
def nearest_frame(answer):
    """``answer(predicted, truth)``: [F, S, D], [G, S, D] -> numbers of the nearest true frames, [F]."""
    g = generator(11)
    truth = torch.randn(9, 4, 5, generator=g) * torch.linspace(0.5, 3, 9).view(9, 1, 1)
    truth[6] = truth[2][[1, 0, 3, 2]]  # the same tokens at other places
    order = torch.tensor([2, 0, 6, 1, 3, 8])
    predicted = truth[order] + 0.02 * torch.randn(6, 4, 5, generator=g)

    def get(p, x):
        found = answer(p, x)
        found = torch.as_tensor(found) if not isinstance(found, torch.Tensor) else found
        expect(
            tuple(found.shape) == (len(p),),
            f"Return one number for each predicted frame: [{len(p)}], not {list(found.shape)}.",
        )
        return found.long()

    got = get(predicted, truth)
    expect(
        not torch.equal(got, known.farthest(predicted, truth)),
        "These are the farthest frames, not the nearest.",
    )
    expect(
        not torch.equal(got, known.largest_product(predicted, truth)),
        "The largest inner product favours frames with large numbers; compare distances.",
    )
    # sixteen, each moved its own way: of one, rounding could choose the right frame by chance
    moved = truth[6] + 0.001 * torch.randn(16, 4, 5, generator=g)
    expect(
        bool((get(moved, truth) == 6).all()),
        "Two frames with the same tokens at other places are taken for one: the mean over tokens has lost "
        "where things are. Compare all tokens, each with the one at its place.",
    )
    expect(torch.equal(got, order), f"Expected {order.tolist()}, got {got.tolist()}.")


# ---------------------------------------------------------------------------------------- mend-regions


@exercise("mend-regions")
def mend_regions(answer):
    """``answer(patches [B, 8, 8, C]) -> [B, 16, 4 C]``: the four patches of a region side by side."""
    patches = torch.randn(2, 8, 8, 3, generator=generator(81), dtype=torch.float64)
    got = answer(patches.clone())
    expect_tensor(got, (2, 16, 12))
    wrong = {
        "regions_as_they_were": "Nothing is mended yet: a token holds four patches of one row, not the 2 x "
        "2 of a region.",
        "quarters_by_columns": "The regions are right; in a token the patches must come row by row, these "
        "come column by column.",
        "regions_by_columns": "The tokens are right, but listed column by column: regions come row by row.",
        "features_first": "Each feature's four values stand together; put the four patches side by side, "
        "each whole.",
    }
    expect_no_mistake(got, known, (patches,), wrong)
    expect(same(got, known.regions_mended(patches)), "Some number differs.")


# ---------------------------------------------------------------------------------------- plan-spaces

_PARTS = ("same", "split", "measure", "runs", "count")


@exercise("plan-spaces")
def plan_spaces(answer):
    """``answer(deviation, half_width) -> dict``: what is equal, what is measured, and on how many clips."""
    for deviation, half_width in ((0.06, 0.01), (0.2, 0.03)):
        got = answer(deviation, half_width)
        expect(
            isinstance(got, dict) and set(got) == set(_PARTS),
            f"Return a dictionary with these keys: {', '.join(_PARTS)}.",
        )
        equal = got["same"]
        expect(isinstance(equal, (set, frozenset, list, tuple)), 'The value of "same" is a set of words.')
        expect("space" not in equal, "If the space is the same, too, there is nothing left to compare.")
        expect(
            set(equal) == known.plan_same(deviation, half_width),
            "Whatever else differs could explain the result as well: only the space may differ.",
        )
        expect(
            got["split"] == known.plan_split(deviation, half_width),
            "On clips that were trained on, the predictor that remembers more wins.",
        )
        expect(
            got["measure"] != "training loss",
            "The training loss is on clips that were learnt, and in units of each space.",
        )
        expect(
            got["measure"] == known.plan_measure(deviation, half_width),
            "An error in own units says how far each is from its own line; the lines differ between spaces.",
        )
        expect(
            expect_number(got["runs"]) >= 2,
            "With one run each, what you see may come from the seed: train more than once.",
        )
        count = expect_number(got["count"])
        wrong = {
            "plan_no_square": "The interval shrinks with the square root of the count: the ratio has to be "
            "squared.",
            "plan_no_factor": "That many clips give one standard error; a 95% interval takes 1.96 of them.",
            "plan_whole_width": "The interval reaches this far to each side; you took it for the whole "
            "width.",
        }
        expect_no_mistake(count, known, (deviation, half_width), wrong, eq)
        expect(count == known.plan_count(deviation, half_width), "The count of clips is another one.")
