"""Exercises of chapter 09, from key frames to video."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_number, expect_tensor, same

# ---------------------------------------------------------------------------------------- frame-states


def _states(text, tokens):
    b, f = tokens.shape[:2]
    rows = [torch.cat([text[i], tokens[i, j]]) for i in range(b) for j in range(f)]
    return torch.stack(rows)


def _states_expanded(text, tokens):
    text = text[:, None].expand(-1, tokens.shape[1], -1, -1)
    return torch.cat([text, tokens], 2).flatten(0, 1)


def _tokens_first(text, tokens):
    text = text.repeat_interleave(tokens.shape[1], 0)
    return torch.cat([tokens.flatten(0, 1), text], 1)


def _text_mixed_up(text, tokens):
    return torch.cat([text.repeat(tokens.shape[1], 1, 1), tokens.flatten(0, 1)], 1)


def _frames_outside(text, tokens):
    text = text[:, None].expand(-1, tokens.shape[1], -1, -1)
    return torch.cat([text, tokens], 2).transpose(0, 1).flatten(0, 1)


def _one_for_all(text, tokens):
    return _states_expanded(text, tokens[:, :1].expand_as(tokens))


def _all_in_each(text, tokens):
    f = tokens.shape[1]
    every = tokens.flatten(1, 2).repeat_interleave(f, 0)
    return torch.cat([text.repeat_interleave(f, 0), every], 1)


@exercise(
    "frame-states",
    right=[_states, _states_expanded],
    wrong={
        "tokens before the text": (_tokens_first, "text comes first"),
        "text of another video": (_text_mixed_up, "repeat_interleave"),
        "frames before videos": (_frames_outside, "all frames of the first video"),
        "the first frame's tokens everywhere": (_one_for_all, "its own tokens"),
        "all tokens in every frame": (_all_in_each, "of its own frame only"),
    },
)
def frame_states(answer):
    """``answer(text [B, T, C], tokens [B, F, S, C]) -> [B * F, T + S, C]``."""
    g = torch.Generator().manual_seed(1)
    text, tokens = torch.randn(2, 3, 4, generator=g), torch.randn(2, 5, 2, 4, generator=g)
    before = text.clone(), tokens.clone()
    got = answer(text, tokens)
    expect(
        same(text, before[0]) and same(tokens, before[1]),
        "Your answer changes its inputs: build new tensors.",
    )
    args = text, tokens
    if isinstance(got, torch.Tensor) and got.shape == _all_in_each(*args).shape:
        expect(False, "Each row holds the tokens of all frames; it should hold those of its own frame only.")
    expect_tensor(got, (10, 5, 4))
    expect(
        not same(got, _tokens_first(*args)),
        "The tokens stand before the text: in the paper the text comes first.",
    )
    expect(
        not same(got, _text_mixed_up(*args)),
        "Some frames read the text of another video: repeat gives A, B, A, B, ..., and repeat_interleave "
        "A, A, ..., B, B, ....",
    )
    expect(
        not same(got, _frames_outside(*args)),
        "The rows are in another order: all frames of the first video come first, then those of the second.",
    )
    expect(
        not same(got, _one_for_all(*args)),
        "Every frame holds the first frame's tokens: each reads its own tokens.",
    )
    expect(
        same(got, _states(*args)),
        "Row b * F + f must be the text of video b, then the tokens of its frame f.",
    )


# ---------------------------------------------------------------------------------------- across-frames


def _across(x, frames, attend):
    n, c, h, w = x.shape
    y = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)  # [B * h * w, F, C]
    y = attend(y).unflatten(0, (-1, h, w)).permute(0, 3, 4, 1, 2)  # [B, F, C, h, w]
    return y.flatten(0, 1)


def _across_by_place(x, frames, attend):
    out = torch.empty_like(x)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            out[:, :, i, j] = attend(x[:, :, i, j].unflatten(0, (-1, frames))).flatten(0, 1)
    return out


def _in_each_frame(x, frames, attend):
    return attend(x.flatten(2).mT).mT.unflatten(2, x.shape[2:])


def _videos_mixed(x, frames, attend):
    n, c, h, w = x.shape
    y = x.unflatten(0, (frames, -1)).permute(1, 3, 4, 0, 2).flatten(0, 2)
    y = attend(y).unflatten(0, (-1, h, w)).permute(3, 0, 4, 1, 2)
    return y.flatten(0, 1)


def _all_together(x, frames, attend):
    n, c, h, w = x.shape
    y = attend(x.flatten(2).permute(2, 0, 1))  # [h * w, B * F, C]
    return y.permute(1, 2, 0).unflatten(2, (h, w))


def _whole_video(x, frames, attend):
    n, c, h, w = x.shape
    y = x.unflatten(0, (-1, frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)  # [B, F * h * w, C]
    return attend(y).unflatten(1, (frames, h, w)).permute(0, 1, 4, 2, 3).flatten(0, 1)


def _not_put_back(x, frames, attend):
    y = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)
    return attend(y).reshape(x.shape)


@exercise(
    "across-frames",
    right=[_across, _across_by_place],
    wrong={
        "attends inside each frame": (_in_each_frame, "inside each frame"),
        "frames and videos mixed up": (_videos_mixed, "two videos"),
        "all videos together": (_all_together, "two videos"),
        "every place of every frame": (_whole_video, "at one place"),
        "not put back in order": (_not_put_back, "same order"),
    },
)
def across_frames(answer):
    """``answer(x [B * F, C, h, w], frames, attend)``, of x's shape; ``attend``: [n, L, C] -> [n, L, C]."""
    x = torch.randn(2 * 3, 4, 2, 5, generator=torch.Generator().manual_seed(2))
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
    expect(
        not same(got, _in_each_frame(*args)),
        "This is self-attention inside each frame: the sequence must run over the frames, at one place.",
    )
    expect(
        not same(got, _whole_video(*args)),
        "A sequence holds all places of all frames. In temporal attention it holds the frames at one place.",
    )
    expect(
        not same(got, _videos_mixed(*args)),
        "Frames of two videos meet in one sequence: the first F rows of x are the first video's.",
    )
    expect(
        not same(got, _all_together(*args)),
        "All videos are in one sequence, 2 x F long: frames of two videos must not read each other.",
    )
    expect(
        not same(got, _not_put_back(*args)),
        "The right sequences, but the result is not put back in the same order: undo each permute.",
    )
    expect(same(got, _across(*args)), "Each sequence must be the F frames of one video at one place.")


# ---------------------------------------------------------------------------------------- trajectory-error


def _error(found, true):
    return (found - true)[1:-1].norm(dim=-1).mean()


def _error_loops(found, true):
    total, n = 0.0, 0
    for f in range(1, len(found) - 1):
        for j in range(found.shape[1]):
            dx, dy = (found[f, j] - true[f, j]).tolist()
            total, n = total + (dx * dx + dy * dy) ** 0.5, n + 1
    return total / n


def _with_ends(found, true):
    return (found - true).norm(dim=-1).mean()


def _per_axis(found, true):
    return (found - true)[1:-1].abs().mean()


def _squared(found, true):
    return (found - true)[1:-1].square().sum(-1).mean()


def _of_the_mean(found, true):
    return (found - true)[1:-1].mean((0, 1)).norm()


def _of_the_body(found, true):
    return (found - true)[1:-1].mean(1).norm(dim=-1).mean()


@exercise(
    "trajectory-error",
    right=[_error, _error_loops],
    wrong={
        "the known frames count": (_with_ends, "first and the last frame"),
        "mean over the axes": (_per_axis, "length of the difference"),
        "squared": (_squared, "square root"),
        "distance of the means": (_of_the_mean, "cancel"),
        "only the middle of the body": (_of_the_body, "each joint"),
    },
)
def trajectory_error(answer):
    """``answer(found [F, J, 2], true [F, J, 2]) -> number``."""
    g = torch.Generator().manual_seed(3)
    true = torch.rand(6, 4, 2, generator=g)
    found = true + 0.2 * torch.randn(6, 4, 2, generator=g)
    found[[0, -1]] = true[[0, -1]]
    got = expect_number(answer(found.clone(), true.clone()))
    for wrong, hint in (
        (_with_ends, "The first and the last frame are given: counting them makes every method look better."),
        (
            _per_axis,
            "A mean over x and y is no distance: take the length of the difference, sqrt(dx^2 + dy^2).",
        ),
        (_squared, "These are squared distances: take the square root of each before the mean."),
        (
            _of_the_mean,
            "Differences in opposite directions cancel: take the distance of each joint, then the mean.",
        ),
        (
            _of_the_body,
            "This is how far the middle of the body is away: take the distance of each joint, then the mean.",
        ),
    ):
        expect(not same(got, wrong(found, true)), hint)
    expect(
        same(got, _error(found, true)),
        "Expected the mean distance over joints and frames between the two ends.",
    )


# ---------------------------------------------------------------------------------------- unknown-loss


def _loss(predicted, target, mask):
    unknown = (1 - mask)[:, :, None, None, None].expand_as(target)
    return ((predicted - target).square() * unknown).sum() / unknown.sum()


def _loss_picked(predicted, target, mask):
    rows = mask == 0
    return (predicted[rows] - target[rows]).square().mean()


def _all_frames(predicted, target, mask):
    return (predicted - target).square().mean()


def _zeroed(predicted, target, mask):
    return ((predicted - target).square() * (1 - mask)[:, :, None, None, None]).mean()


def _the_known(predicted, target, mask):
    rows = mask == 1
    return (predicted[rows] - target[rows]).square().mean()


def _per_frame_sum(predicted, target, mask):
    unknown = 1 - mask
    return ((predicted - target).square().sum((2, 3, 4)) * unknown).sum() / unknown.sum()


@exercise(
    "unknown-loss",
    right=[_loss, _loss_picked],
    wrong={
        "known frames count": (_all_frames, "known frames"),
        "divided by all frames": (_zeroed, "divide by"),
        "the wrong frames": (_the_known, "other way round"),
        "sum over a frame": (_per_frame_sum, "mean over a frame"),
    },
)
def unknown_loss(answer):
    """``answer(predicted, target [B, F, 4, h, w], mask [B, F]) -> number``; mask: 1 if a frame is known."""
    g = torch.Generator().manual_seed(4)
    p, t = (torch.randn(2, 5, 4, 3, 3, generator=g) for _ in range(2))
    mask = torch.tensor([[1.0, 0, 0, 0, 1], [1, 0, 1, 0, 1]])
    got = expect_number(answer(p.clone(), t.clone(), mask.clone()))
    for wrong, hint in (
        (_all_frames, "The known frames count too; the model is told those, and there is nothing to learn."),
        (_zeroed, "Known frames are set to zero but still counted: divide by what is left."),
        (_the_known, "These are the known frames: the other way round."),
        (
            _per_frame_sum,
            "Take the mean over a frame's numbers, not their sum: the mean over a frame, then over frames.",
        ),
    ):
        expect(not same(got, wrong(p, t, mask)), hint)
    expect(
        same(got, _loss(p, t, mask)),
        "Expected the mean squared error over all numbers of the unknown frames.",
    )
