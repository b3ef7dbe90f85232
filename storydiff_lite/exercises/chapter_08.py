"""Exercises of chapter 08, semantic motion prediction."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_tensor, same

# ---------------------------------------------------------------------------------------- straight-line


def _line(start, end, num_frames):
    t = torch.linspace(0, 1, num_frames, dtype=start.dtype).view(-1, 1, 1)
    return (1 - t) * start[:, None] + t * end[:, None]


def _line_by_lerp(start, end, num_frames):
    return torch.stack([start.lerp(end, i / (num_frames - 1)) for i in range(num_frames)], 1)


def _never_arrives(start, end, num_frames):
    t = (torch.arange(num_frames, dtype=start.dtype) / num_frames).view(-1, 1, 1)
    return (1 - t) * start[:, None] + t * end[:, None]


def _ends_left_out(start, end, num_frames):
    t = (torch.arange(1, num_frames + 1, dtype=start.dtype) / (num_frames + 1)).view(-1, 1, 1)
    return (1 - t) * start[:, None] + t * end[:, None]


def _backwards(start, end, num_frames):
    return _line(end, start, num_frames)


def _frames_first(start, end, num_frames):
    return _line(start, end, num_frames).transpose(0, 1)


def _time_over_tokens(start, end, num_frames):
    t = torch.linspace(0, 1, start.shape[1], dtype=start.dtype).view(1, 1, -1, 1)
    return ((1 - t) * start[:, None] + t * end[:, None]).expand(-1, num_frames, -1, -1)


@exercise(
    "straight-line",
    right=[_line, _line_by_lerp],
    wrong={
        "never arrives": (_never_arrives, "num_frames - 1"),
        "both ends left out": (_ends_left_out, "first frame"),
        "backwards": (_backwards, "runs backwards"),
        "frames before clips": (_frames_first, "batch first"),
        "time runs over the tokens": (_time_over_tokens, "same in every frame"),
    },
)
def straight_line(answer):
    """``answer(start, end, num_frames)``: [B, S, D] twice -> [B, num_frames, S, D]."""
    g = torch.Generator().manual_seed(8)
    start, end = torch.randn(2, 3, 4, generator=g), torch.randn(2, 3, 4, generator=g)
    got, want = answer(start, end, 5), _line(start, end, 5)
    expect(
        not (isinstance(got, torch.Tensor) and tuple(got.shape) == (5, 2, 3, 4)),
        "The axes are frames, then clips; the batch first: [B, num_frames, S, D].",
    )
    expect_tensor(got, (2, 5, 3, 4))
    expect(not same(got, want.flip(1)), "The line runs backwards: its first frame is the end.")
    expect(
        not same(got[:, 0], got[:, 2]), "The tokens are the same in every frame: time must run over frames."
    )
    expect(same(got[:, 0], start), "The first frame must be exactly the start tokens, at time 0.")
    expect(
        same(got[:, -1], end),
        "The last frame does not arrive at the end tokens: of L frames the i-th is at i / (num_frames - 1).",
    )
    expect(same(got, want), "Both ends are right; in between the steps must all have the same size.")
    expect(same(answer(start, end, 2), torch.stack([start, end], 1)), "With two frames: the start, the end.")


# ---------------------------------------------------------------------------------------- bend-the-line


def _bend(line, correction):
    t = torch.linspace(0, 1, line.shape[1], dtype=line.dtype).view(1, -1, 1, 1)
    return line + 4 * t * (1 - t) * correction


def _bend_frame_by_frame(line, correction):
    last, frames = line.shape[1] - 1, []
    for i in range(last + 1):
        t = i / last
        frames.append(line[:, i] + (1 - (2 * t - 1) ** 2) * correction[:, i])
    return torch.stack(frames, 1)


def _ends_move(line, correction):
    return line + correction


def _line_lost(line, correction):
    t = torch.linspace(0, 1, line.shape[1], dtype=line.dtype).view(1, -1, 1, 1)
    return 4 * t * (1 - t) * correction


def _a_quarter(line, correction):
    t = torch.linspace(0, 1, line.shape[1], dtype=line.dtype).view(1, -1, 1, 1)
    return line + t * (1 - t) * correction


def _only_the_start_stays(line, correction):
    t = torch.linspace(0, 1, line.shape[1], dtype=line.dtype).view(1, -1, 1, 1)
    return line + t * correction


def _edits_its_input(line, correction):
    t = torch.linspace(0, 1, line.shape[1], dtype=line.dtype).view(1, -1, 1, 1)
    line += 4 * t * (1 - t) * correction
    return line


@exercise(
    "bend-the-line",
    right=[_bend, _bend_frame_by_frame],
    wrong={
        "both ends move": (_ends_move, "both ends"),
        "the line is lost": (_line_lost, "added to the line"),
        "no factor of 4": (_a_quarter, "in the middle"),
        "only the start stays": (_only_the_start_stays, "last frame"),
        "its input is changed": (_edits_its_input, "changed its input"),
    },
)
def bend_the_line(answer):
    """``answer(line, correction)``: [B, F, S, D] twice -> [B, F, S, D]."""
    g = torch.Generator().manual_seed(9)
    line, correction = torch.randn(2, 7, 3, 4, generator=g), torch.randn(2, 7, 3, 4, generator=g)
    given = line.clone()
    got, want = answer(given, correction.clone()), _bend(line, correction)
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


def _relative(predicted, truth):
    line = _line(truth[:, 0], truth[:, -1], truth.shape[1])
    return (predicted - truth).square().mean((1, 2, 3)) / (line - truth).square().mean((1, 2, 3))


def _relative_by_clip(predicted, truth):
    out = []
    for p, x in zip(predicted, truth, strict=True):
        line = _line(x[None, 0], x[None, -1], len(x))[0]
        out.append(((p - x) ** 2).sum() / ((line - x) ** 2).sum())
    return torch.stack(out)


def _over_all_clips(predicted, truth):
    line = _line(truth[:, 0], truth[:, -1], truth.shape[1])
    far = (line - truth).square().mean()
    return (predicted - truth).square().mean((1, 2, 3)) / far


def _upside_down(predicted, truth):
    return 1 / _relative(predicted, truth)


def _roots(predicted, truth):
    return _relative(predicted, truth).sqrt()


def _from_the_line(predicted, truth):
    line = _line(truth[:, 0], truth[:, -1], truth.shape[1])
    return (predicted - line).square().mean((1, 2, 3)) / (line - truth).square().mean((1, 2, 3))


def _one_number(predicted, truth):
    return _relative(predicted, truth).mean()


@exercise(
    "relative-error",
    right=[_relative, _relative_by_clip],
    wrong={
        "the unit of all clips": (_over_all_clips, "each clip"),
        "upside down": (_upside_down, "upside down"),
        "roots": (_roots, "square root"),
        "distance from the line": (_from_the_line, "from the truth"),
        "one number": (_one_number, "one for each clip"),
    },
)
def relative_error(answer):
    """``answer(predicted, truth)``: [B, F, S, D] twice -> [B]."""
    g = torch.Generator().manual_seed(10)
    truth = torch.randn(3, 6, 2, 4, generator=g) * torch.tensor([1.0, 0.2, 3.0]).view(3, 1, 1, 1)
    line = _line(truth[:, 0], truth[:, -1], 6)
    predicted = truth + 0.3 * (line - truth) + 0.05 * torch.randn(truth.shape, generator=g)
    got, want = answer(predicted, truth), _relative(predicted, truth)
    expect(
        not (isinstance(got, float) or (isinstance(got, torch.Tensor) and got.numel() == 1)),
        "This is one number; return one for each clip, [B].",
    )
    expect_tensor(got, (3,))
    expect(not same(got, 1 / want), "This is upside down: the predictor's error over that of the line.")
    expect(not same(got, want.sqrt()), "Squared errors, without a square root: half as far is 0.25.")
    expect(
        not same(answer(line, truth), torch.zeros(3)),
        "The line itself gets 0: measure how far the prediction is from the truth, not from the line.",
    )
    expect(
        not same(got, _over_all_clips(predicted, truth)),
        "Your unit is the line's error over all clips; each clip has a unit of its own, or small motions "
        "count for nothing.",
    )
    expect(same(got, want), f"Expected {want.tolist()} for the errors of three clips, got {got.tolist()}.")
    expect(same(answer(line, truth), torch.ones(3)), "The straight line itself must get 1.")


# ---------------------------------------------------------------------------------------- nearest-frame


def _nearest(predicted, truth):
    return torch.cdist(predicted.flatten(1), truth.flatten(1)).argmin(1)


def _nearest_by_loop(predicted, truth):
    out = []
    for p in predicted:
        out.append(min(range(len(truth)), key=lambda j: float((p - truth[j]).square().sum())))
    return torch.tensor(out)


def _farthest(predicted, truth):
    return torch.cdist(predicted.flatten(1), truth.flatten(1)).argmax(1)


def _other_way(predicted, truth):
    return torch.cdist(truth.flatten(1), predicted.flatten(1)).argmin(1)


def _places_lost(predicted, truth):
    return torch.cdist(predicted.mean(1), truth.mean(1)).argmin(1)


def _largest_product(predicted, truth):
    return (predicted.flatten(1) @ truth.flatten(1).T).argmax(1)


@exercise(
    "nearest-frame",
    right=[_nearest, _nearest_by_loop],
    wrong={
        "the farthest": (_farthest, "farthest"),
        "for each true frame": (_other_way, "each predicted frame"),
        "tokens averaged": (_places_lost, "where"),
        "largest inner product": (_largest_product, "inner product"),
    },
)
def nearest_frame(answer):
    """``answer(predicted, truth)``: [F, S, D], [G, S, D] -> numbers of the nearest true frames, [F]."""
    g = torch.Generator().manual_seed(11)
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
        not torch.equal(got, _farthest(predicted, truth)), "These are the farthest frames, not the nearest."
    )
    expect(
        not torch.equal(got, _largest_product(predicted, truth)),
        "The largest inner product favours frames with large numbers; compare distances.",
    )
    moved = truth[[6]] + 0.001
    expect(
        int(get(moved, truth)[0]) == 6,
        "Two frames with the same tokens at other places are taken for one: the mean over tokens has lost "
        "where things are. Compare all tokens, each with the one at its place.",
    )
    expect(torch.equal(got, order), f"Expected {order.tolist()}, got {got.tolist()}.")
