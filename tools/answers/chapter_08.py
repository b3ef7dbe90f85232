"""Answers to the exercises of chapter 08, semantic motion prediction."""

from __future__ import annotations

import math

import torch

from . import ANSWERS, Answers

# ---------------------------------------------------------------------------------------- straight-line


def _line(start, end, num_frames):
    t = torch.linspace(0, 1, num_frames, dtype=start.dtype).view(-1, 1, 1)
    return (1 - t) * start[:, None] + t * end[:, None]


def _at(start, end, t):
    t = (t * t * (3 - 2 * t)).to(start.dtype).view(-1, 1, 1)
    return (1 - t) * start[:, None] + t * end[:, None]


def _eased(start, end, num_frames):
    return _at(start, end, torch.linspace(0, 1, num_frames))


def _eased_by_lerp(start, end, num_frames):
    times = [i / (num_frames - 1) for i in range(num_frames)]
    return torch.stack([start.lerp(end, 3 * t**2 - 2 * t**3) for t in times], 1)


def _even_steps(start, end, num_frames):
    return _line(start, end, num_frames)


def _slow_start(start, end, num_frames):
    t = torch.linspace(0, 1, num_frames, dtype=start.dtype).view(-1, 1, 1) ** 2
    return (1 - t) * start[:, None] + t * end[:, None]


def _never_arrives(start, end, num_frames):
    return _at(start, end, torch.arange(num_frames) / num_frames)


def _ends_left_out(start, end, num_frames):
    return _at(start, end, torch.arange(1, num_frames + 1) / (num_frames + 1))


def _backwards(start, end, num_frames):
    return _eased(end, start, num_frames)


def _frames_first(start, end, num_frames):
    return _eased(start, end, num_frames).transpose(0, 1)


def _time_over_tokens(start, end, num_frames):
    t = torch.linspace(0, 1, start.shape[1], dtype=start.dtype).view(1, 1, -1, 1)
    return ((1 - t) * start[:, None] + t * end[:, None]).expand(-1, num_frames, -1, -1)


ANSWERS["slow-ends"] = Answers(
    right=[_eased, _eased_by_lerp],
    wrong={
        "even steps": (_even_steps, "at one speed"),
        "slow at the start alone": (_slow_start, "stops dead"),
        "never arrives": (_never_arrives, "num_frames - 1"),
        "both ends left out": (_ends_left_out, "first frame"),
        "backwards": (_backwards, "runs backwards"),
        "frames before clips": (_frames_first, "batch first"),
        "time runs over the tokens": (_time_over_tokens, "same in every frame"),
    },
)


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


ANSWERS["bend-the-line"] = Answers(
    right=[_bend, _bend_frame_by_frame],
    wrong={
        "both ends move": (_ends_move, "both ends"),
        "the line is lost": (_line_lost, "added to the line"),
        "no factor of 4": (_a_quarter, "in the middle"),
        "only the start stays": (_only_the_start_stays, "last frame"),
        "its input is changed": (_edits_its_input, "changed its input"),
    },
)


# ---------------------------------------------------------------------------------------- relative-error


def _squares(predicted, truth):
    line = _line(truth[:, 0], truth[:, -1], truth.shape[1])
    return (predicted - truth).square(), (line - truth).square()


def _by_frame(predicted, truth):
    mine, lines = _squares(predicted, truth)
    return (mine.mean((0, 2, 3)) / lines.mean((0, 2, 3)))[1:-1]


def _by_frame_in_a_loop(predicted, truth):
    last, out = truth.shape[1] - 1, []
    for f in range(1, last):
        on_line = truth[:, 0] + f / last * (truth[:, -1] - truth[:, 0])
        out.append(((predicted - truth)[:, f] ** 2).sum() / ((on_line - truth[:, f]) ** 2).sum())
    return torch.stack(out)


def _each_clip(predicted, truth):
    mine, lines = _squares(predicted, truth)
    return mine.mean((1, 2, 3)) / lines.mean((1, 2, 3))


def _with_both_ends(predicted, truth):
    mine, lines = _squares(predicted, truth)
    return mine.mean((0, 2, 3)) / lines.mean((0, 2, 3))


def _mean_of_ratios(predicted, truth):
    mine, lines = _squares(predicted, truth)
    return (mine.mean((2, 3)) / lines.mean((2, 3))).mean(0)[1:-1]


def _upside_down(predicted, truth):
    return 1 / _by_frame(predicted, truth)


def _roots(predicted, truth):
    return _by_frame(predicted, truth).sqrt()


def _from_the_line(predicted, truth):
    line = _line(truth[:, 0], truth[:, -1], truth.shape[1])
    _, lines = _squares(predicted, truth)
    return ((predicted - line).square().mean((0, 2, 3)) / lines.mean((0, 2, 3)))[1:-1]


def _one_number(predicted, truth):
    return _by_frame(predicted, truth).mean()


ANSWERS["relative-error"] = Answers(
    right=[_by_frame, _by_frame_in_a_loop],
    wrong={
        "each clip": (_each_clip, "errors of the clips"),
        "both ends too": (_with_both_ends, "both ends"),
        "mean of the clips' ratios": (_mean_of_ratios, "then one ratio"),
        "upside down": (_upside_down, "upside down"),
        "roots": (_roots, "square root"),
        "distance from the line": (_from_the_line, "from the truth"),
        "one number": (_one_number, "one for each frame"),
    },
)


# ---------------------------------------------------------------------------------------- tuned-bend


def _bent_error(clips, strength, bend, error):
    line, correction, truth = clips
    return float(error(bend(line, strength * correction), truth).mean())


def _tuned(validation, heldout, strengths, bend, error):
    best = min(strengths, key=lambda s: _bent_error(validation, s, bend, error))
    return best, _bent_error(heldout, best, bend, error)


def _tuned_by_parts(validation, heldout, strengths, bend, error):
    """Bends once, and goes a part of the way to it."""
    tried = []
    for clips in (validation, heldout):
        line, correction, truth = clips
        whole = bend(line, correction) - line
        tried.append([error(line + s * whole, truth).mean() for s in strengths])
    k = int(torch.stack(tried[0]).argmin())
    return strengths[k], tried[1][k]


def _tuned_on_heldout(validation, heldout, strengths, bend, error):
    return _tuned(heldout, heldout, strengths, bend, error)


def _tuned_for_the_worst(validation, heldout, strengths, bend, error):
    worst = max(strengths, key=lambda s: _bent_error(validation, s, bend, error))
    return worst, _bent_error(heldout, worst, bend, error)


def _told_of_validation(validation, heldout, strengths, bend, error):
    return _tuned(validation, validation, strengths, bend, error)


def _told_without_strength(validation, heldout, strengths, bend, error):
    return _tuned(validation, heldout, strengths, bend, error)[0], _bent_error(heldout, 1, bend, error)


def _told_of_one_frame(validation, heldout, strengths, bend, error):
    return _tuned(validation, heldout, strengths, bend, lambda p, t: error(p, t)[:1])


def _told_of_every_frame(validation, heldout, strengths, bend, error):
    best, (line, correction, truth) = _tuned(validation, heldout, strengths, bend, error)[0], heldout
    return best, error(bend(line, best * correction), truth)


def _number_of_the_strength(validation, heldout, strengths, bend, error):
    best, found = _tuned(validation, heldout, strengths, bend, error)
    return strengths.index(best), found


ANSWERS["tuned-bend"] = Answers(
    right=[_tuned, _tuned_by_parts],
    wrong={
        "chosen on the held-out clips": (_tuned_on_heldout, "must not have been chosen on"),
        "the largest error": (_tuned_for_the_worst, "largest error"),
        "told of the validation clips": (_told_of_validation, "that of the validation clips"),
        "the whole correction at the end": (_told_without_strength, "not with this part"),
        "one frame": (_told_of_one_frame, "that of one frame"),
        "an error a frame": (_told_of_every_frame, "one number"),
        "the place in the list": (_number_of_the_strength, "none of the strengths"),
    },
)


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


ANSWERS["nearest-frame"] = Answers(
    right=[_nearest, _nearest_by_loop],
    wrong={
        "the farthest": (_farthest, "farthest"),
        "for each true frame": (_other_way, "each predicted frame"),
        "tokens averaged": (_places_lost, "where"),
        "largest inner product": (_largest_product, "inner product"),
    },
)


# ---------------------------------------------------------------------------------------- mend-regions


def _regions_mended(patches):
    x = patches.unflatten(2, (4, 2)).unflatten(1, (4, 2))  # [B, row, in it, column, in it, C]
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def _regions_one_by_one(patches):
    found = []
    for row in range(0, 8, 2):
        for column in range(0, 8, 2):
            found.append(patches[:, row : row + 2, column : column + 2].flatten(1))
    return torch.stack(found, 1)


def _regions_as_they_were(patches):
    return patches.reshape(len(patches), 16, -1)


def _quarters_by_columns(patches):
    x = patches.unflatten(2, (4, 2)).unflatten(1, (4, 2))
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)


def _regions_by_columns(patches):
    x = patches.unflatten(2, (4, 2)).unflatten(1, (4, 2))
    return x.permute(0, 3, 1, 2, 4, 5).flatten(3).flatten(1, 2)


def _features_first(patches):
    x = patches.unflatten(2, (4, 2)).unflatten(1, (4, 2))
    return x.permute(0, 1, 3, 5, 2, 4).flatten(3).flatten(1, 2)


ANSWERS["mend-regions"] = Answers(
    right=[_regions_mended, _regions_one_by_one],
    wrong={
        "as it was": (_regions_as_they_were, "Nothing is mended"),
        "quarters by columns": (_quarters_by_columns, "column by column"),
        "regions by columns": (_regions_by_columns, "listed column by column"),
        "features first": (_features_first, "each whole"),
    },
)


# ---------------------------------------------------------------------------------------- plan-spaces


def _plan_same(deviation, half_width):
    return {"clips", "steps", "width"}


def _plan_split(deviation, half_width):
    return "heldout"


def _plan_measure(deviation, half_width):
    return "places of body parts"


def _plan_count(deviation, half_width):
    return math.ceil((1.96 * deviation / half_width) ** 2)


def _plan_no_square(deviation, half_width):
    return math.ceil(1.96 * deviation / half_width)


def _plan_no_factor(deviation, half_width):
    return math.ceil((deviation / half_width) ** 2)


def _plan_whole_width(deviation, half_width):
    return math.ceil((2 * 1.96 * deviation / half_width) ** 2)


def _plan(**changed):
    """A plan that is right but for what is ``changed``: values, or functions of deviation and half width."""

    def plan(deviation, half_width):
        found = {
            "same": _plan_same(deviation, half_width),
            "split": "heldout",
            "measure": "places of body parts",
            "runs": 2,
            "count": _plan_count(deviation, half_width),
        }
        made = {k: v(deviation, half_width) if callable(v) else v for k, v in changed.items()}
        return found | made

    return plan


def _plan_by_search(deviation, half_width):
    count = 1
    while 1.96 * deviation / count**0.5 > half_width:
        count += 1
    return _plan(count=count, runs=3, same=["steps", "width", "clips"])(deviation, half_width)


ANSWERS["plan-spaces"] = Answers(
    right=[_plan(), _plan_by_search],
    wrong={
        "nothing differs": (_plan(same={"clips", "steps", "width", "space"}), "nothing left to compare"),
        "more steps for one": (_plan(same={"clips", "width"}), "only the space may differ"),
        "training clips": (_plan(split="train"), "remembers more"),
        "own units": (_plan(measure="error in own units"), "its own line"),
        "training loss": (_plan(measure="training loss"), "training loss"),
        "one run": (_plan(runs=1), "train more than once"),
        "not squared": (_plan(count=_plan_no_square), "squared"),
        "one standard error": (_plan(count=_plan_no_factor), "1.96 of them"),
        "whole width": (_plan(count=_plan_whole_width), "to each side"),
    },
)
