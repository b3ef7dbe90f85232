"""Exercises of chapter 07, long stories."""

from __future__ import annotations

import numbers
from collections import Counter
from operator import eq

import torch

from . import exercise, expect, expect_no_mistake, expect_number, expect_tensor, generator, records, same

known = records("chapter_07")


# ---------------------------------------------------------------------------------------- windows


@exercise("windows")
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
        got, want = get(panels, window), known.windows(panels, window)
        wrong = {
            "no_overlap": "These windows do not overlap: the next window moves on by one panel, not by a "
            "whole window.",
            "one_per_panel": f"You have a window for every panel. How many of {window} panels fit into "
            f"{panels}? F - W + 1.",
        }
        expect_no_mistake(got, known, (panels, window), wrong, eq)
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


@exercise("average-windows")
def average_windows(answer):
    """``answer(x [F, N, C], window, attend) -> [F, N, C]``; ``attend``: [W, N, C] -> [W, N, C]."""
    x = torch.randn(6, 2, 3, generator=generator(4), dtype=torch.float64)

    def attend(panels):  # depends on who is in the window, and on the place in it
        expect(len(panels) == 3, f"attend was handed {len(panels)} panels instead of a window of 3.")
        place = torch.arange(1.0, 4.0, dtype=x.dtype).view(3, 1, 1)
        return panels * place + panels.mean(0, keepdim=True)

    got = answer(x.clone(), 3, attend)
    expect_tensor(got, (6, 2, 3))
    args = x, 3, attend
    wrong = {
        "sum": "These are sums: divide each panel by how many windows held it.",
        "by_window_length": "You divide by the window's length. Panels at the ends are in fewer windows "
        "than that.",
        "by_number_of_windows": "You divide by the number of windows; no panel need be in all of them.",
        "last_wins": "A later window overwrites what earlier ones gave: add up, and divide at the end.",
        "halving": "A running (old + new) / 2 halves what came first again and again: it is no mean of "
        "three.",
        "fed_back": "A window reads what an earlier one has written. All read the panels as before the "
        "first window.",
        "one_window_missing": "The last panel is zero: its window, the last, is missing.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.average(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- reach


@exercise("reach", builds_on={"windows": "windows"})
def reach(answer, windows):
    """``answer(panels, window, steps, windows) -> sets``: whom each panel depends on after ``steps``."""
    for panels, window, steps in ((10, 3, 3), (8, 3, 0), (8, 3, 1), (7, 2, 3), (4, 6, 1)):
        found = answer(panels, window, steps, windows)
        expect(
            isinstance(found, (list, tuple)) and all(hasattr(some, "__iter__") for some in found),
            "Return a list with a set of panel numbers for each panel.",
        )
        expect(
            len(found) == panels,
            f"Return a set for each of the {panels} panels; there are {len(found)}.",
        )
        got, args = [set(some) for some in found], (panels, window, steps, windows)
        want = known.reach(*args)
        if got == want:
            continue
        wrong = {
            "reach_of_one_step": "This is how far one step reaches. In the next step a panel reads others "
            "that have read already.",
            "reach_in_place": "A step reads what the same step has just written, so everything travels too "
            "far: all windows read the panels as they were before the step.",
            "reach_in_first_window": "A panel is in several windows, and its prediction is the mean over all "
            "of them.",
            "reach_without_itself": "A panel is in its own windows: before any step it depends on itself.",
            "reach_a_window_a_step": "In a window of W panels the farthest other panel is W - 1 away, not W.",
            "reach_too_late": "You start one step late: after one step a panel depends on all that are in "
            "its windows.",
        }
        expect_no_mistake(got, known, args, wrong, eq)
        i = next(i for i in range(panels) if got[i] != want[i])
        expect(
            False,
            f"{panels} panels, windows of {window}, {steps} steps: panel {i} depends on {sorted(want[i])}, "
            f"not on {sorted(got[i])}.",
        )


# ---------------------------------------------------------------------------------------- bank-reads


@exercise("bank-reads")
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
        not is_like(known.writers_read_themselves),
        "A writer reads some of its tokens twice: its own picks are in the bank too, and must be left out.",
    )
    expect(not is_like(known.own_twice), "A reader reads its own picks a second time: once is enough.")
    expect(
        not is_like(known.bank_only),
        "A panel's own tokens are missing: it reads all of them, and the bank beside.",
    )
    expect(not is_like(known.readers_too), "Somebody reads the picks of a reader: those are never written.")
    expect(
        not is_like(known.writers_alone),
        "The writers read each other too: they go through the U-Net together.",
    )
    expect(
        not is_like(known.panel_before),
        "Later panels read those beside them; the bank holds the picks of the first `window` panels.",
    )
    for i in got:
        expect(max(got[i].values(), default=0) <= 1, f"Panel {i} reads a token twice.")
    expect(is_like(known.bank_reads), "Some panel reads other tokens than it should.")


# ---------------------------------------------------------------------------------------- bank-bytes


@exercise("bank-bytes")
def bank_bytes(answer):
    """``answer(layers, panels, memory) -> steps``, a whole number; layers: (tokens, width) of each."""
    layers, panels = [(16, 6), (64, 4), (64, 4)], 3
    for memory in (40_000, 29_184, 7_295):
        got = expect_number(answer(list(layers), panels, memory))
        args = layers, panels, memory
        want = known.steps_that_fit(*args)
        if got == want:
            continue
        for mistake, hint in (
            (
                known.bytes_instead,
                "Those are bytes of so many steps; asked is how many steps fit into the bytes.",
            ),
            (known.one_half, "That is twice too many: both halves of guidance are kept."),
            (
                known.keys_and_values,
                "That is half of it: a number takes 2 bytes in fp16, and hidden states are kept, from which "
                "keys and values are made again.",
            ),
            (known.one_byte, "A number in fp16 takes more than a byte."),
            (known.rounded_up, "The last of these steps does not fit: round down."),
            (
                known.whole_mask,
                "That counts a mask of panels x tokens squared; the bank holds hidden states.",
            ),
            (known.no_width, "A token is a vector: its width is missing."),
        ):
            expect(got != mistake(*args), hint)
        expect(got == int(got), f"{float(got):.2f} steps: return whole steps.")
        expect(False, f"For {layers}, {panels} panels and {memory} bytes the number differs.")


# ---------------------------------------------------------------------------------------- mend-windows-step


@exercise("mend-windows-step")
def mend_windows_step(answer):
    """``answer(x [F, C, h, w], windows, predict, step) -> [F, C, h, w]``, all panels one step further."""
    x = torch.randn(5, 2, 3, 3, generator=generator(71), dtype=torch.float64)
    windows = [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    args, given = (x, windows, _predict, _step), x.clone()
    got = answer(given, windows, _predict, _step)
    expect_tensor(got, x.shape)
    wrong = {
        "stepped_in_the_loop": "Nothing is mended yet: count how many steps the third panel goes.",
        "stepped_without_counts": "Each panel goes one step now, but with the sum of its predictions: "
        "divide by its windows.",
        "stepped_with_the_last": "Each panel goes one step now, but with the prediction of its last window "
        "alone.",
        "stepped_by_the_window": "The sum is divided by the same number for all panels; those at the ends "
        "are in fewer windows.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.stepped_once(*args)), "Some number differs.")
    expect(torch.equal(given, x), "The numbers are right, but the input was changed: step from a copy.")


def _predict(part):
    """A prediction that depends on the other panels of the window."""
    return part.tanh() + part.mean(0)


def _step(prediction, part):
    return 0.9 * part - 0.3 * prediction
