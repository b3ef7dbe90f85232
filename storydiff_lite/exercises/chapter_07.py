"""Exercises of chapter 07, long stories."""

from __future__ import annotations

import numbers
from collections import Counter

import torch

from . import exercise, expect, expect_number, expect_tensor, same

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


@exercise(
    "windows",
    right=[_windows, _windows_while],
    wrong={
        "one window too few": (_one_too_few, "last panel"),
        "one window too many": (_one_too_many, "shorter than the others"),
        "no overlap": (_no_overlap, "moves on by one panel"),
        "a short story has none": (_short_story_has_none, "shorter than its window"),
        "a window for every panel": (_one_per_panel, "F - W + 1"),
    },
)
def windows(answer):
    """``answer(panels, window) -> list of windows``, each the numbers of its panels, in order."""

    def get(panels, window):
        found = answer(panels, window)
        expect(
            isinstance(found, (list, tuple)) and all(hasattr(w, "__iter__") for w in found),
            "Return a list of windows, each a list (or range) of panel numbers.",
        )
        return [list(w) for w in found]

    for panels, window in ((7, 3), (5, 2)):
        got, want = get(panels, window), _windows(panels, window)
        expect(
            got != _no_overlap(panels, window),
            "These windows do not overlap: the next window moves on by one panel, not by a whole window.",
        )
        expect(
            got != _one_per_panel(panels, window),
            f"You have a window for every panel. How many of {window} panels fit into {panels}? F - W + 1.",
        )
        expect(
            any(panels - 1 in w for w in got),
            f"Of {panels} panels in windows of {window}, the last panel is in no window: one is missing.",
        )
        expect(all(len(w) == window for w in got), "One of the windows is shorter than the others.")
        expect(got == want, f"For {panels} panels and windows of {window} expected {want}.")
    expect(
        get(3, 4) == [[0, 1, 2]],
        "A story shorter than its window is one window with all of its panels.",
    )
    expect(get(4, 4) == [[0, 1, 2, 3]], "A story as long as its window is one window.")
    expect(get(3, 1) == [[0], [1], [2]], "Windows of one panel: each panel alone.")


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


@exercise(
    "average-windows",
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
def average_windows(answer):
    """``answer(x [F, N, C], window, attend) -> [F, N, C]``; ``attend``: [W, N, C] -> [W, N, C]."""
    x = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def attend(panels):  # depends on who is in the window, and on the place in it
        expect(len(panels) == 3, f"attend was handed {len(panels)} panels instead of a window of 3.")
        place = torch.arange(1.0, 4.0, dtype=x.dtype).view(3, 1, 1)
        return panels * place + panels.mean(0, keepdim=True)

    got = answer(x.clone(), 3, attend)
    expect_tensor(got, (6, 2, 3))
    args = x, 3, attend
    expect(not same(got, _sum(*args)), "These are sums: divide each panel by how many windows held it.")
    expect(
        not same(got, _by_window_length(*args)),
        "You divide by the window's length. Panels at the ends are in fewer windows than that.",
    )
    expect(
        not same(got, _by_number_of_windows(*args)),
        "You divide by the number of windows; no panel need be in all of them.",
    )
    expect(
        not same(got, _last_wins(*args)),
        "A later window overwrites what earlier ones gave: add up, and divide at the end.",
    )
    expect(
        not same(got, _halving(*args)),
        "A running (old + new) / 2 halves what came first again and again: it is no mean of three.",
    )
    expect(
        not same(got, _fed_back(*args)),
        "A window reads what an earlier one has written. All read the panels as before the first window.",
    )
    expect(
        not same(got, _one_window_missing(*args)), "The last panel is zero: its window, the last, is missing."
    )
    expect(same(got, _average(*args)), "Some number differs.")


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


@exercise(
    "bank-reads",
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
def bank_reads(answer):
    """``answer(i, picks, window, tokens) -> list of (panel, token)``, in any order; each token once."""
    picks, window, tokens = [[0, 3], [1, 2], [2, 3], [0, 1], [1, 3], [0, 2]], 2, 4

    def get(i):
        found = answer(i, [list(p) for p in picks], window, tokens)
        expect(
            isinstance(found, (list, tuple, set))
            and all(
                isinstance(x, tuple) and len(x) == 2 and all(isinstance(y, numbers.Integral) for y in x)
                for x in found
            ),
            "Return a list of pairs (panel, token).",
        )
        return Counter((int(j), int(t)) for j, t in found)

    def is_like(other):
        return all(got[i] == Counter(other(i, picks, window, tokens)) for i in range(len(picks)))

    got = {i: get(i) for i in range(len(picks))}
    expect(
        not is_like(_writers_read_themselves),
        "A writer reads some of its tokens twice: its own picks are in the bank too, and must be left out.",
    )
    expect(not is_like(_own_twice), "A reader reads its own picks a second time: once is enough.")
    expect(
        not is_like(_bank_only),
        "A panel's own tokens are missing: it reads all of them, and the bank beside.",
    )
    expect(not is_like(_readers_too), "Somebody reads the picks of a reader: those are never written.")
    expect(
        not is_like(_writers_alone), "The writers read each other too: they go through the U-Net together."
    )
    expect(
        not is_like(_panel_before),
        "Later panels read those beside them; the bank holds the picks of the first `window` panels.",
    )
    for i in got:
        expect(max(got[i].values(), default=0) <= 1, f"Panel {i} reads a token twice.")
    expect(is_like(_bank_reads), "Some panel reads other tokens than it should.")


# ---------------------------------------------------------------------------------------- bank-bytes


def _bank_bytes(layers, panels, steps):
    return sum(tokens * width * 2 * panels * steps * 2 for tokens, width in layers)


def _bank_bytes_by_numel(layers, panels, steps):
    return steps * sum(
        torch.empty(2 * panels, *layer, dtype=torch.half, device="meta").nbytes for layer in layers
    )


def _one_half(layers, panels, steps):
    return _bank_bytes(layers, panels, steps) // 2


def _one_step(layers, panels, steps):
    return _bank_bytes(layers, panels, 1)


def _keys_and_values(layers, panels, steps):
    return _bank_bytes(layers, panels, steps) * 2


def _whole_mask(layers, panels, steps):
    return sum((panels * tokens) ** 2 for tokens, _ in layers) * steps


def _no_width(layers, panels, steps):
    return _bank_bytes([(t, 1) for t, _ in layers], panels, steps)


@exercise(
    "bank-bytes",
    right=[_bank_bytes, _bank_bytes_by_numel],
    wrong={
        "one half of guidance": (_one_half, "both halves"),
        "one step": (_one_step, "every step"),
        "float32, or keys and values": (_keys_and_values, "twice too much"),
        "the mask": (_whole_mask, "mask"),
        "width forgotten": (_no_width, "width"),
    },
)
def bank_bytes(answer):
    """``answer(layers, panels, steps) -> bytes``; layers: (tokens, width) of each."""
    layers, panels, steps = [(16, 6), (64, 4), (64, 4)], 3, 5
    got = expect_number(answer(list(layers), panels, steps))
    args = layers, panels, steps
    expect(got != _one_half(*args), "That is half of it: both halves of guidance are kept.")
    expect(got != _one_step(*args), "That is one step. The released bank keeps every step.")
    expect(
        got != _keys_and_values(*args),
        "That is twice too much: a number takes 2 bytes in fp16, and hidden states are kept, from which keys "
        "and values are made again.",
    )
    expect(
        got != _whole_mask(*args), "That is a mask of panels x tokens squared; the bank holds hidden states."
    )
    expect(got != _no_width(*args), "A token is a vector: its width is missing.")
    expect(got == _bank_bytes(*args), f"For {layers}, {panels} panels and {steps} steps the number differs.")
