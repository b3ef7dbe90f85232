"""Exercises of chapter 09, from key frames to video."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_no_mistake, expect_number, expect_tensor, generator, records, same

known = records("chapter_09")


# ---------------------------------------------------------------------------------------- frame-states


@exercise("frame-states")
def frame_states(answer):
    """``answer(told [B * F, T + S, C], frames, words) -> text [B, T, C], tokens [B, F, S, C]``; T = words."""
    g = generator(1)
    text, tokens = torch.randn(2, 3, 4, generator=g), torch.randn(2, 5, 2, 4, generator=g)
    told = torch.cat([text[:, None].expand(-1, 5, -1, -1), tokens], 2).flatten(0, 1)
    given = told.clone()
    got = answer(given, 5, 3)
    expect(same(given, told), "Your answer changes its input: build new tensors.")
    expect(isinstance(got, (tuple, list)) and len(got) == 2, "Return two tensors: the text and the tokens.")
    found, their = got
    expect(
        not (isinstance(found, torch.Tensor) and found.shape == (2, 5, 3, 4)),
        "The text stands there once for every frame; it is the same in all of them: return it once a video.",
    )
    expect(
        not (isinstance(found, torch.Tensor) and found.shape == (3, 4)),
        "That is one video; return the text and the tokens of every video.",
    )
    expect_tensor(found, (2, 3, 4), "For the text your answer")
    expect_tensor(their, (2, 5, 2, 4), "For the tokens your answer")
    for mistake, hint in (
        (
            known.tokens_first,
            "In a row the text comes first, then the tokens: you cut it the other way round.",
        ),
        (
            known.frames_outside,
            "You mix two videos: all frames of the first video come first, then those of the second.",
        ),
        (known.one_for_all, "Every frame has the first frame's tokens now: each had its own tokens."),
    ):
        wrong = mistake(told, 5, 3)
        expect(not (same(found, wrong[0]) and same(their, wrong[1])), hint)
    expect(same(found, text), "The text of video b stands at the beginning of each of its rows.")
    expect(same(their, tokens), "Row b * F + f ends with the tokens of frame f of video b.")


# ---------------------------------------------------------------------------------------- across-frames


@exercise("across-frames")
def across_frames(answer):
    """``answer(x [B * F, C, h, w], frames, attend)``, of x's shape; ``attend``: [n, L, C] -> [n, L, C]."""
    x = torch.randn(2 * 3, 4, 2, 5, generator=generator(2))
    seen = []

    def attend(sequences):  # mixes what it is given, and depends on the place in the sequence
        expect(
            isinstance(sequences, torch.Tensor) and sequences.ndim == 3,
            "attend takes a tensor [n, L, C]: n sequences of L.",
        )
        seen.append(tuple(sequences.shape))
        place = torch.arange(1.0, sequences.shape[1] + 1).view(1, -1, 1)
        return sequences * place + sequences.mean(1, keepdim=True)

    got, args = answer(x.clone(), 3, attend), (x, 3, attend)
    expect_tensor(got, (6, 4, 2, 5))
    wrong = {
        "in_each_frame": "This is self-attention inside each frame: the sequence must run over the frames, "
        "at one place.",
        "whole_video": "A sequence holds all places of all frames. In temporal attention it holds the "
        "frames at one place.",
        "videos_mixed": "Frames of two videos meet in one sequence: the first F rows of x are the first "
        "video's.",
        "all_together": "All videos are in one sequence, 2 x F long: frames of two videos must not read "
        "each other.",
        "not_put_back": "The right sequences, but the result is not put back in the same order: undo each "
        "permute.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.across(*args)), "Each sequence must be the F frames of one video at one place.")


# ---------------------------------------------------------------------------------------- trajectory-error


@exercise("trajectory-error")
def trajectory_error(answer):
    """``answer(found [F, J, 2], true [F, J, 2]) -> number``."""
    g = generator(3)
    true = torch.rand(6, 4, 2, generator=g)
    found = true + 0.2 * torch.randn(6, 4, 2, generator=g)
    found[[0, -1]] = true[[0, -1]]
    got = expect_number(answer(found.clone(), true.clone()))
    for wrong, hint in (
        (
            known.with_ends,
            "The first and the last frame are given: counting them makes every method look better.",
        ),
        (
            known.per_axis,
            "A mean over x and y is no distance: take the length of the difference, sqrt(dx^2 + dy^2).",
        ),
        (known.squared, "These are squared distances: take the square root of each before the mean."),
        (
            known.of_the_mean,
            "Differences in opposite directions cancel: take the distance of each joint, then the mean.",
        ),
        (
            known.of_the_body,
            "This is how far the middle of the body is away: take the distance of each joint, then the mean.",
        ),
    ):
        expect(not same(got, wrong(found, true)), hint)
    expect(
        same(got, known.error(found, true)),
        "Expected the mean distance over joints and frames between the two ends.",
    )


# ---------------------------------------------------------------------------------------- unknown-loss


@exercise("unknown-loss")
def unknown_loss(answer):
    """``answer(predicted, target [B, F, 4, h, w], mask [B, F]) -> number``; mask: 1 if a frame is known."""
    g = generator(4)
    p, t = (torch.randn(2, 5, 4, 3, 3, generator=g) for _ in range(2))
    mask = torch.tensor([[1.0, 0, 0, 0, 1], [1, 0, 1, 0, 1]])
    got = expect_number(answer(p.clone(), t.clone(), mask.clone()))
    for wrong, hint in (
        (
            known.all_frames,
            "The known frames count too; the model is told those, and there is nothing to learn.",
        ),
        (known.zeroed, "Known frames are set to zero but still counted: divide by what is left."),
        (known.the_known, "These are the known frames: the other way round."),
        (
            known.per_frame_sum,
            "Take the mean over a frame's numbers, not their sum: the mean over a frame, then over frames.",
        ),
    ):
        expect(not same(got, wrong(p, t, mask)), hint)
    expect(
        same(got, known.loss(p, t, mask)),
        "Expected the mean squared error over all numbers of the unknown frames.",
    )


# ---------------------------------------------------------------------------------------- mend-frames-step


@exercise("mend-frames-step")
def mend_frames_step(answer):
    """``answer(x [F, 4, h, w], v, a, a_next, known [2, 4, h, w]) -> [F, 4, h, w]``: a DDIM step."""
    g = generator(91)
    x, v = (torch.randn(5, 4, 3, 3, generator=g, dtype=torch.float64) for _ in range(2))
    known_ends = torch.randn(2, 4, 3, 3, generator=g, dtype=torch.float64)
    a, a_next = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    args, given = (x, v, a, a_next, known_ends), x.clone()
    got = answer(given, v.clone(), a.clone(), a_next.clone(), known_ends.clone())
    expect_tensor(got, x.shape)
    expect(
        same(got[0], known_ends[0]),
        "The first frame is given: after the step it must be the first of the two known ones.",
    )
    expect(
        same(got[-1], known_ends[1]),
        "The last frame is given, too; yours is not the second of the known ones: look at the indices.",
    )
    expect(
        not same(got[1:-1], known.frames_only_ends(*args)[1:-1]),
        "The ends are right; between them nothing is mended yet. Try it on x and v made from a known z.",
    )
    expect(
        not same(got[1:-1], known.frames_wrong_sign(*args)[1:-1]),
        "The next level is right, the clean latents are not: solve x and v for z, and look at the sign.",
    )
    expect(
        not same(got[1:-1], known.frames_old_noise(*args)[1:-1]),
        "The clean latents are right; the noise still has the share of the level that the step leaves.",
    )
    expect(
        not same(got[1:-1], known.frames_clean(*args)[1:-1]),
        "These are the clean latents; the step goes to the next level only, where some noise is left.",
    )
    expect(same(got, known.frames_mended(*args)), "Some number differs.")
    expect(torch.equal(given, x), "The numbers are right, but the input was changed.")


# ---------------------------------------------------------------------------------------- all-steps


@exercise("all-steps", builds_on={"mend-frames-step": "frames_mended"})
def all_steps(answer, step):
    """``answer(x [F, 4, h, w], levels, predict, known [2, 4, h, w], step) -> [F, 4, h, w]``, all steps."""
    g = generator(92)
    x, ends = (torch.randn(n, 4, 2, 2, generator=g, dtype=torch.float64) for n in (5, 2))
    levels = torch.tensor([0.05, 0.3, 0.6, 1.0], dtype=torch.float64)
    args, given = (x, levels, _predict, ends, step), x.clone()
    got = answer(given, levels.clone(), _predict, ends.clone(), step)
    expect_tensor(got, x.shape)
    wrong = {
        "steps_ends_late": "In the first step the U-Net did not see the known frames: they stand in the "
        "latents from the beginning.",
        "steps_one_prediction": "You predict once. The velocities are predicted anew in every step.",
        "steps_next_level": "You tell the U-Net the level that the step goes to. It is told the level "
        "that its latents have.",
        "steps_one_too_few": "The last step is missing: there is still noise in these latents.",
        "steps_from_the_noise": "Each step begins at the noise again. It begins where the last one ended.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.all_steps(*args)), "Some number differs.")
    expect(torch.equal(given, x), "The numbers are right, but the input was changed: begin with a copy.")


def _predict(x, a):
    """Velocities that depend on the other frames, and on the level."""
    return a * x.roll(1, 0).tanh() + x.mean(0)
