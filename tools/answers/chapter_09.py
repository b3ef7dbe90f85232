"""Answers to the exercises of chapter 09, from key frames to video."""

from __future__ import annotations

import torch

from . import ANSWERS, Answers

# ---------------------------------------------------------------------------------------- frame-states


def _apart(told, frames, words):
    rows = told.unflatten(0, (-1, frames))
    return rows[:, 0, :words], rows[:, :, words:]


def _apart_by_rows(told, frames, words):
    text = torch.stack([row[:words] for row in told[::frames]])
    tokens = torch.stack([row[words:] for row in told])
    return text, tokens.reshape(len(text), frames, -1, told.shape[2])


def _tokens_first(told, frames, words):
    rows = told.unflatten(0, (-1, frames))
    return rows[:, 0, -words:], rows[:, :, :-words]


def _frames_outside(told, frames, words):
    rows = told.unflatten(0, (frames, -1)).transpose(0, 1)
    return rows[:, 0, :words], rows[:, :, words:]


def _text_of_every_frame(told, frames, words):
    rows = told.unflatten(0, (-1, frames))
    return rows[:, :, :words], rows[:, :, words:]


def _one_for_all(told, frames, words):
    text, tokens = _apart(told, frames, words)
    return text, tokens[:, :1].expand_as(tokens)


def _one_video(told, frames, words):
    text, tokens = _apart(told, frames, words)
    return text[0], tokens[0]


ANSWERS["frame-states"] = Answers(
    right=[_apart, _apart_by_rows],
    wrong={
        "tokens before the text": (_tokens_first, "text comes first"),
        "frames before videos": (_frames_outside, "all frames of the first video"),
        "the text of every frame": (_text_of_every_frame, "once a video"),
        "the first frame's tokens everywhere": (_one_for_all, "its own tokens"),
        "one video": (_one_video, "every video"),
    },
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


ANSWERS["across-frames"] = Answers(
    right=[_across, _across_by_place],
    wrong={
        "attends inside each frame": (_in_each_frame, "inside each frame"),
        "frames and videos mixed up": (_videos_mixed, "two videos"),
        "all videos together": (_all_together, "two videos"),
        "every place of every frame": (_whole_video, "at one place"),
        "not put back in order": (_not_put_back, "same order"),
    },
)


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


ANSWERS["trajectory-error"] = Answers(
    right=[_error, _error_loops],
    wrong={
        "the known frames count": (_with_ends, "first and the last frame"),
        "mean over the axes": (_per_axis, "length of the difference"),
        "squared": (_squared, "square root"),
        "distance of the means": (_of_the_mean, "cancel"),
        "only the middle of the body": (_of_the_body, "each joint"),
    },
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


ANSWERS["unknown-loss"] = Answers(
    right=[_loss, _loss_picked],
    wrong={
        "known frames count": (_all_frames, "known frames"),
        "divided by all frames": (_zeroed, "divide by"),
        "the wrong frames": (_the_known, "other way round"),
        "sum over a frame": (_per_frame_sum, "mean over a frame"),
    },
)


# ---------------------------------------------------------------------------------------- mend-frames-step


def _frames_mended(x, v, a, a_next, known, sign=-1, level=None, ends=(0, -1)):
    level = a_next if level is None else level
    clean = a.sqrt() * x + sign * (1 - a).sqrt() * v
    noise = a.sqrt() * v + (1 - a).sqrt() * x
    out = a_next.sqrt() * clean + (1 - level).sqrt() * noise
    out[list(ends)] = known
    return out


def _frames_by_angles(x, v, a, a_next, known):
    turn = torch.acos(a.sqrt()) - torch.acos(a_next.sqrt())
    between = turn.cos() * x - turn.sin() * v
    return torch.cat([known[:1], between[1:-1], known[1:]])


def _frames_but_the_ends(x, v, a, a_next, known):
    return _frames_mended(x, v, a, a_next, known, ends=(0, 1))


def _frames_only_ends(x, v, a, a_next, known):
    return _frames_mended(x, v, a, a_next, known, sign=1, level=a)


def _frames_wrong_sign(x, v, a, a_next, known):
    return _frames_mended(x, v, a, a_next, known, sign=1)


def _frames_old_noise(x, v, a, a_next, known):
    return _frames_mended(x, v, a, a_next, known, level=a)


def _frames_clean(x, v, a, a_next, known):
    out = a.sqrt() * x - (1 - a).sqrt() * v
    out[[0, -1]] = known
    return out


def _frames_ends_exchanged(x, v, a, a_next, known):
    return _frames_mended(x, v, a, a_next, known, ends=(-1, 0))


ANSWERS["mend-frames-step"] = Answers(
    right=[_frames_mended, _frames_by_angles],
    wrong={
        "the ends": (_frames_but_the_ends, "look at the indices"),
        "ends exchanged": (_frames_ends_exchanged, "the first of the two known"),
        "only the ends are mended": (_frames_only_ends, "nothing is mended yet"),
        "sign": (_frames_wrong_sign, "look at the sign"),
        "noise of the old level": (_frames_old_noise, "share of the level"),
        "clean latents": (_frames_clean, "some noise is left"),
    },
)


# ---------------------------------------------------------------------------------------- all-steps


def _all_steps(x, levels, predict, known, step):
    x = x.clone()
    x[[0, -1]] = known
    for a, a_next in zip(levels[:-1], levels[1:], strict=True):
        x = step(x, predict(x, a), a, a_next, known)
    return x


def _all_steps_by_calling_itself(x, levels, predict, known, step):
    x = torch.cat([known[:1], x[1:-1], known[1:]])
    if len(levels) == 1:
        return x
    x = step(x, predict(x, levels[0]), levels[0], levels[1], known)
    return _all_steps_by_calling_itself(x, levels[1:], predict, known, step)


def _steps_ends_late(x, levels, predict, known, step):
    for a, a_next in zip(levels[:-1], levels[1:], strict=True):
        x = step(x, predict(x, a), a, a_next, known)
    return x


def _steps_one_prediction(x, levels, predict, known, step):
    x = x.clone()
    x[[0, -1]] = known
    v = predict(x, levels[0])
    for a, a_next in zip(levels[:-1], levels[1:], strict=True):
        x = step(x, v, a, a_next, known)
    return x


def _steps_next_level(x, levels, predict, known, step):
    x = x.clone()
    x[[0, -1]] = known
    for a, a_next in zip(levels[:-1], levels[1:], strict=True):
        x = step(x, predict(x, a_next), a, a_next, known)
    return x


def _steps_one_too_few(x, levels, predict, known, step):
    return _all_steps(x, levels[:-1], predict, known, step)


def _steps_from_the_noise(x, levels, predict, known, step):
    x = x.clone()
    x[[0, -1]] = known
    for a, a_next in zip(levels[:-1], levels[1:], strict=True):
        found = step(x, predict(x, a), a, a_next, known)
    return found


def _steps_in_place(x, levels, predict, known, step):
    x[[0, -1]] = known
    return _all_steps(x, levels, predict, known, step)


ANSWERS["all-steps"] = Answers(
    right=[_all_steps, _all_steps_by_calling_itself],
    wrong={
        "known frames after the first step": (_steps_ends_late, "from the beginning"),
        "one prediction": (_steps_one_prediction, "anew in every step"),
        "told the next level": (_steps_next_level, "the level that its latents have"),
        "one step too few": (_steps_one_too_few, "still noise"),
        "from the noise each time": (_steps_from_the_noise, "where the last one ended"),
        "input changed": (_steps_in_place, "input was changed"),
    },
)
