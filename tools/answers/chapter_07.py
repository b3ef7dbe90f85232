"""Answers to the exercises of chapter 07, long stories."""

from __future__ import annotations

import torch

from . import ANSWERS, Answers

# ---------------------------------------------------------------------------------------- windows


def _windows(panels, window):
    w = min(window, panels)
    return [list(range(t, t + w)) for t in range(panels - w + 1)]


def _windows_while(panels, window):
    out, first = [], 0
    while first == 0 or first + window <= panels:
        out.append(range(first, min(first + window, panels)))
        first += 1
    return out


def _one_too_few(panels, window):
    return [list(range(t, t + window)) for t in range(panels - window)] or [list(range(panels))]


def _one_too_many(panels, window):
    return [list(range(t, min(t + window, panels))) for t in range(panels - min(window, panels) + 2)]


def _no_overlap(panels, window):
    return [list(range(t, min(t + window, panels))) for t in range(0, panels, window)]


def _short_story_has_none(panels, window):
    return [list(range(t, t + window)) for t in range(panels - window + 1)]


def _one_per_panel(panels, window):
    return [list(range(t, min(t + window, panels))) for t in range(panels)]


ANSWERS["windows"] = Answers(
    right=[_windows, _windows_while],
    wrong={
        "one window too few": (_one_too_few, "last panel"),
        "one window too many": (_one_too_many, "shorter than the others"),
        "no overlap": (_no_overlap, "moves on by one panel"),
        "a short story has none": (_short_story_has_none, "shorter than its window"),
        "a window for every panel": (_one_per_panel, "F - W + 1"),
    },
)


# ---------------------------------------------------------------------------------------- average-windows


def _average(x, window, attend):
    total, count = torch.zeros_like(x), torch.zeros(len(x), 1, 1, dtype=x.dtype)
    for t in range(len(x) - window + 1):
        total[t : t + window] += attend(x[t : t + window])
        count[t : t + window] += 1
    return total / count


def _average_by_panel(x, window, attend):
    seen = [[] for _ in x]
    for w in _windows(len(x), window):
        for i, y in zip(w, attend(x[w]), strict=True):
            seen[i].append(y)
    return torch.stack([torch.stack(ys).mean(0) for ys in seen])


def _sum(x, window, attend):
    total = torch.zeros_like(x)
    for t in range(len(x) - window + 1):
        total[t : t + window] += attend(x[t : t + window])
    return total


def _by_window_length(x, window, attend):
    return _sum(x, window, attend) / window


def _by_number_of_windows(x, window, attend):
    return _sum(x, window, attend) / (len(x) - window + 1)


def _last_wins(x, window, attend):
    out = torch.zeros_like(x)
    for t in range(len(x) - window + 1):
        out[t : t + window] = attend(x[t : t + window])
    return out


def _halving(x, window, attend):
    out = torch.full_like(x, torch.nan)
    for t in range(len(x) - window + 1):
        y, old = attend(x[t : t + window]), out[t : t + window]
        out[t : t + window] = torch.where(old.isnan(), y, (old + y) / 2)
    return out


def _fed_back(x, window, attend):
    x = x.clone()
    for t in range(len(x) - window + 1):
        x[t : t + window] = attend(x[t : t + window])
    return x


def _one_window_missing(x, window, attend):
    total, count = torch.zeros_like(x), torch.zeros(len(x), 1, 1, dtype=x.dtype)
    for t in range(len(x) - window):
        total[t : t + window] += attend(x[t : t + window])
        count[t : t + window] += 1
    return total / count.clamp(min=1)


ANSWERS["average-windows"] = Answers(
    right=[_average, _average_by_panel],
    wrong={
        "average without counts": (_sum, "sums"),
        "divided by the window's length": (_by_window_length, "at the ends"),
        "divided by the number of windows": (_by_number_of_windows, "number of windows"),
        "the last window wins": (_last_wins, "overwrites"),
        "halving as it goes": (_halving, "halves"),
        "windows read what windows wrote": (_fed_back, "before the first window"),
        "window off by one": (_one_window_missing, "last panel"),
    },
)


# ---------------------------------------------------------------------------------------- reach


def _reach(panels, window, steps, windows):
    depends = [{i} for i in range(panels)]
    for _ in range(steps):
        depends = [
            set().union(*(depends[j] for w in windows(panels, window) if i in w for j in w))
            for i in range(panels)
        ]
    return depends


def _reach_by_matrix(panels, window, steps, windows):
    reads = torch.zeros(panels, panels)
    for w in windows(panels, window):
        for i in w:
            reads[i, list(w)] = 1
    travelled = torch.linalg.matrix_power(reads, steps)
    return [set(row.nonzero()[:, 0].tolist()) for row in travelled]


def _reach_of_one_step(panels, window, steps, windows):
    return _reach(panels, window, 1, windows)


def _reach_too_late(panels, window, steps, windows):
    return _reach(panels, window, max(steps - 1, 0), windows)


def _reach_in_place(panels, window, steps, windows):
    depends = [{i} for i in range(panels)]
    for _ in range(steps):
        for w in windows(panels, window):
            for i in w:
                depends[i] = set().union(*(depends[j] for j in w))
    return depends


def _reach_in_first_window(panels, window, steps, windows):
    depends = [{i} for i in range(panels)]
    for _ in range(steps):
        first = [next(w for w in windows(panels, window) if i in w) for i in range(panels)]
        depends = [set().union(*(depends[j] for j in w)) for w in first]
    return depends


def _reach_without_itself(panels, window, steps, windows):
    return [some - {i} for i, some in enumerate(_reach(panels, window, steps, windows))]


def _reach_a_window_a_step(panels, window, steps, windows):
    w = len(windows(panels, window)[0])
    return [set(range(max(i - w * steps, 0), min(i + w * steps + 1, panels))) for i in range(panels)]


ANSWERS["reach"] = Answers(
    right=[_reach, _reach_by_matrix],
    wrong={
        "one step": (_reach_of_one_step, "how far one step reaches"),
        "one step too few": (_reach_too_late, "one step late"),
        "written while it is read": (_reach_in_place, "before the step"),
        "the first window alone": (_reach_in_first_window, "several windows"),
        "without itself": (_reach_without_itself, "depends on itself"),
        "a whole window a step": (_reach_a_window_a_step, "W - 1 away"),
        "one set": (lambda panels, *_: [set(range(panels))], "for each of the"),
    },
)


# ---------------------------------------------------------------------------------------- bank-reads


def _bank_reads(i, picks, window, tokens):
    own = [(i, t) for t in range(tokens)]
    return own + [(j, t) for j in range(window) if j != i for t in picks[j]]


def _bank_reads_as_set(i, picks, window, tokens):
    bank = {(j, int(t)) for j in range(window) for t in picks[j]}
    return sorted({pair for pair in bank if pair[0] != i} | {(i, t) for t in range(tokens)})


def _writers_read_themselves(i, picks, window, tokens):
    return [(i, t) for t in range(tokens)] + [(j, t) for j in range(window) for t in picks[j]]


def _own_twice(i, picks, window, tokens):
    reads = _bank_reads(i, picks, window, tokens)
    return reads if i < window else reads + [(i, t) for t in picks[i]]


def _bank_only(i, picks, window, tokens):
    return [(j, t) for j in range(window) if j != i for t in picks[j]]


def _readers_too(i, picks, window, tokens):
    return [(i, t) for t in range(tokens)] + [(j, t) for j in range(len(picks)) if j != i for t in picks[j]]


def _writers_alone(i, picks, window, tokens):
    return [(i, t) for t in range(tokens)] if i < window else _bank_reads(i, picks, window, tokens)


def _panel_before(i, picks, window, tokens):
    start = i // window * window
    near = range(start, min(start + window, len(picks)))
    return [(i, t) for t in range(tokens)] + [(j, t) for j in near if j != i for t in picks[j]]


ANSWERS["bank-reads"] = Answers(
    right=[_bank_reads, _bank_reads_as_set],
    wrong={
        "writers read themselves": (_writers_read_themselves, "its own picks are in the bank"),
        "a reader's own tokens twice": (_own_twice, "own picks a second time"),
        "own tokens dropped": (_bank_only, "own tokens are missing"),
        "readers are read": (_readers_too, "never written"),
        "writers alone": (_writers_alone, "writers read each other"),
        "its own group instead of the bank": (_panel_before, "the first `window` panels"),
    },
)


# ---------------------------------------------------------------------------------------- bank-bytes


def _one_step(layers, panels):
    return sum(tokens * width * 2 * panels * 2 for tokens, width in layers)


def _steps_that_fit(layers, panels, memory):
    return memory // _one_step(layers, panels)


def _steps_that_fit_by_counting(layers, panels, memory):
    one = sum(torch.empty(2 * panels, *layer, dtype=torch.half, device="meta").nbytes for layer in layers)
    steps = 0
    while one * (steps + 1) <= memory:
        steps += 1
    return steps


def _bytes_instead(layers, panels, memory):
    return _one_step(layers, panels) * memory


def _one_half(layers, panels, memory):
    return memory // (_one_step(layers, panels) // 2)


def _keys_and_values(layers, panels, memory):
    return memory // (_one_step(layers, panels) * 2)


def _one_byte(layers, panels, memory):
    return memory // (_one_step(layers, panels) // 4)  # no halves either


def _rounded_up(layers, panels, memory):
    return -(-memory // _one_step(layers, panels))


def _not_whole(layers, panels, memory):
    return memory / _one_step(layers, panels)


def _whole_mask(layers, panels, memory):
    return memory // sum((panels * tokens) ** 2 for tokens, _ in layers)


def _no_width(layers, panels, memory):
    return memory // _one_step([(t, 1) for t, _ in layers], panels)


ANSWERS["bank-bytes"] = Answers(
    right=[_steps_that_fit, _steps_that_fit_by_counting],
    wrong={
        "bytes": (_bytes_instead, "how many steps fit"),
        "one half of guidance": (_one_half, "both halves"),
        "float32, or keys and values": (_keys_and_values, "half of it"),
        "bytes are not counted": (_one_byte, "more than a byte"),
        "rounded up": (_rounded_up, "round down"),
        "not whole": (_not_whole, "whole steps"),
        "the mask": (_whole_mask, "mask"),
        "width forgotten": (_no_width, "width"),
    },
)


# ---------------------------------------------------------------------------------------- mend-windows-step


def _stepped_once(x, windows, predict, step, counts=None):
    total, count = torch.zeros_like(x), torch.zeros(len(x), 1, 1, 1, dtype=x.dtype)
    for some in windows:
        total[some] += predict(x[some])
        count[some] += 1
    return step(total / (count if counts is None else counts), x)


def _stepped_panel_by_panel(x, windows, predict, step):
    told = [(some, predict(x[some])) for some in windows]
    rows = []
    for i in range(len(x)):
        mine = [p[list(some).index(i)] for some, p in told if i in some]
        rows.append(step(sum(mine) / len(mine), x[i]))
    return torch.stack(rows)


def _stepped_in_place(x, windows, predict, step):
    x[:] = _stepped_once(x, windows, predict, step)
    return x


def _stepped_in_the_loop(x, windows, predict, step):
    x = x.clone()
    total, count = torch.zeros_like(x), torch.zeros(len(x), 1, 1, 1, dtype=x.dtype)
    for some in windows:
        total[some] += predict(x[some])
        count[some] += 1
        x[some] = step(total[some] / count[some], x[some])
    return x


def _stepped_without_counts(x, windows, predict, step):
    return _stepped_once(x, windows, predict, step, counts=1)


def _stepped_with_the_last(x, windows, predict, step):
    found = torch.zeros_like(x)
    for some in windows:
        found[some] = predict(x[some])
    return step(found, x)


def _stepped_by_the_window(x, windows, predict, step):
    return _stepped_once(x, windows, predict, step, counts=len(windows[0]))


ANSWERS["mend-windows-step"] = Answers(
    right=[_stepped_once, _stepped_panel_by_panel],
    wrong={
        "as it was": (_stepped_in_the_loop, "Nothing is mended"),
        "sum of the predictions": (_stepped_without_counts, "divide by its windows"),
        "last window": (_stepped_with_the_last, "last window alone"),
        "same count for all": (_stepped_by_the_window, "in fewer windows"),
        "input changed": (_stepped_in_place, "input was changed"),
    },
)
