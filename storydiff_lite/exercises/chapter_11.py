"""Exercises of chapter 11, scaling up to SDXL."""

from __future__ import annotations

import numbers
from operator import eq

import torch

from . import exercise, expect, expect_no_mistake, expect_number, generator, records

known = records("chapter_11")


# ---------------------------------------------------------------------------------------- what it costs


@exercise("cost-ratio")
def cost_ratio(answer):
    """``answer(panels, rate, attention, total) -> number``: operations of a panel over those without
    sharing.
    """
    for panels, rate, attention, total in ((4, 0.5, 2, 16), (9, 0.25, 3, 10), (2, 1.0, 1, 4)):
        got, args = expect_number(answer(panels, rate, attention, total)), (panels, rate, attention, total)

        def is_like(other, got=got, args=args):
            return abs(got - other(*args)) < 1e-6

        expect(
            not is_like(known.cost_every_panel),
            "A panel reads its own tokens anyway: the others are panels - 1.",
        )
        expect(
            not is_like(known.cost_whole_net) or is_like(known.cost),
            "Convolutions and linear layers do what they did: only the attention of the layers that "
            "share grows.",
        )
        expect(
            not is_like(known.cost_all_tokens) or is_like(known.cost),
            "At a rate below 1 a panel reads a share of their tokens.",
        )
        expect(
            not is_like(known.cost_of_the_rest), "That is what comes on top: a story without sharing costs 1."
        )
        expect(
            is_like(known.cost),
            f"{panels} panels, rate {rate}, {attention} of {total} operations in the attention that shares: "
            f"{known.cost(*args):g}, not {got:g}.",
        )
    got = expect_number(answer(1, 0.5, 2, 16))
    expect(abs(got - 1) < 1e-6, "A story of one panel has nobody to read: it costs 1.")


# ---------------------------------------------------------------------------------------- which layers

_NAMES = [
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor",
    "down_blocks.2.upsampled.0.attn1.processor",
    "mid_block.attentions.0.transformer_blocks.0.attn1.processor",
    "mid_block.attentions.0.transformer_blocks.0.attn2.processor",
    "up_blocks.0.attentions.0.transformer_blocks.0.attn1.processor",
    "up_blocks.0.attentions.0.transformer_blocks.0.attn2.processor",
    "up_blocks.0.attentions.2.transformer_blocks.9.attn1.processor",
    "up_blocks.1.attentions.1.transformer_blocks.1.attn1.processor",
    "up_blocks.1.attentions.1.transformer_blocks.1.attn2.processor",
    "up_blocks.1.motion_modules.0.transformer_blocks.0.attn1.processor",
]


@exercise("layers-that-share")
def layers_that_share(answer):
    """``answer(names) -> those names`` whose processors are replaced."""
    got = answer(list(_NAMES))
    expect(
        isinstance(got, (list, tuple, set)) and all(isinstance(n, str) for n in got),
        "Return a list of names.",
    )
    got, want = set(got), set(known.which(_NAMES))
    expect(got <= set(_NAMES), "Return the names as they are, without changing them.")
    expect(
        not got or any(".attn1." in n for n in got),
        "These layers read the prompt: none of them is self-attention, which is attn1.",
    )
    expect(
        not any(".attn2." in n for n in got),
        "attn2 reads the prompt, in every panel its own: only attn1, self-attention, is replaced.",
    )
    expect(
        not any(n.startswith(("mid_block", "down_blocks.1")) for n in got),
        "As released, no layer of the down-blocks or the middle is replaced.",
    )
    expect(
        not any(n.startswith("down_blocks") for n in got),
        "A name may hold 'up' somewhere else: look at what it begins with.",
    )
    expect(
        not any(".motion_modules." in n for n in got),
        "A motion module's attn1 reads between the frames of one clip: only those under 'attentions' count.",
    )
    missing = sorted(want - got)
    expect(not missing, f"{missing and missing[0]} is self-attention of an up-block, and not in your list.")


# ---------------------------------------------------------------------------------------- what must fit


@exercise("what-must-fit")
def what_must_fit(answer):
    """``answer(parts, working, offload) -> bytes`` that a card must hold."""
    cases = (
        ({"text": 3, "unet": 10, "vae": 1}, {"text": 1, "unet": 2, "vae": 8}),
        ({"text": 2, "unet": 6, "vae": 1}, {"text": 1, "unet": 4, "vae": 2}),
        ({"a": 5}, {"a": 5}),
    )
    for parts, working in cases:
        for offload in (False, True):
            got = expect_number(answer(dict(parts), dict(working), offload))
            want = known.peak(parts, working, offload)
            if got == want:
                continue
            how = "with offload" if offload else "without offload"
            wrong = {
                "peak_adds_working": "The parts work one after the other: of what they need while they "
                "work, the largest counts.",
                "peak_weights_alone": "A part needs more than its weights while it works.",
            }
            expect_no_mistake(got, known, (parts, working, offload), wrong, eq)
            expect(
                not (offload and got == known.peak_no_difference(parts, working, offload)),
                "With offload the other parts wait in the memory of the computer, not on the card.",
            )
            expect(
                not (offload and got == known.peak_mixed(parts, working, offload)),
                "Add the weights and the work of the same part, and take the largest sum.",
            )
            expect(False, f"Parts {parts}, work {working}, {how}: {want}, not {got}.")


# ---------------------------------------------------------------------------------------- many processes


@exercise("loss-of-the-batch")
def loss_of_the_batch(answer):
    """``answer(sums, weights) -> number``: the weighted mean over the whole batch."""
    for sums, weights in (([6.0, 1.0], [3.0, 1.0]), ([2.0, 4.0, 9.0], [4.0, 1.0, 3.0])):
        got = answer(list(sums), list(weights))
        expect(isinstance(got, numbers.Real), f"Return one number, not a {type(got).__name__}.")
        want = known.batch_loss(sums, weights)
        if abs(got - want) < 1e-9:
            continue
        for wrong, hint in (
            (known.mean_of_means, "A process whose pictures weigh little would weigh as much as any other."),
            (
                known.sum_of_means,
                "That grows with the number of processes: the step would be as many times too large.",
            ),
            (known.first_process, "That is the loss of the first process: the others would teach nothing."),
            (
                known.over_processes,
                "The errors are divided by the number of processes, and not by the weights.",
            ),
        ):
            expect(abs(got - wrong(sums, weights)) > 1e-9, hint)
        expect(False, f"Sums {sums}, weights {weights}: {want:g}, not {got:g}.")


# ---------------------------------------------------------------------------------------- plan a timing

_TIMED = ("1 panel", "4 panels", "4 panels, compiled", "4 panels, sharing", "4 panels, sharing, sliced")


@exercise("plan-timing", builds_on={"cost-ratio": "cost"})
def plan_timing(answer, cost):
    """``answer(pilot, panels, rate, attention, total, smallest, cost) -> (without, with, runs, verdict)``."""
    story = 4, 0.5, 2, 16  # sharing counts 1.1875 times the operations
    for seed, factor in ((11, 1.1875), (12, 1.45), (13, 1.0)):
        pilot = _pilot(seed, factor)
        args = pilot, *story, 0.011, cost
        got = answer({name: runs.clone() for name, runs in pilot.items()}, *story, 0.011, cost)
        expect(
            isinstance(got, (list, tuple)) and len(got) == 4,
            "Return four things: the setting without, the setting with, the number of runs, the verdict.",
        )
        first, second, runs, verdict = got
        expect(
            first in _TIMED and second in _TIMED,
            f"The settings of the pilot are {', '.join(_TIMED)}; got {first!r} and {second!r}.",
        )
        want = known.timing(*args)
        expect(
            (first, second) != (want[1], want[0]),
            "The other way round: first the setting without sharing, then the one with it.",
        )
        expect(
            first != "1 panel" or second != want[1],
            "These two differ in the number of panels, too: a larger batch takes longer as well.",
        )
        expect(
            (first, second) == want[:2],
            f"{first!r} and {second!r} differ in something else than the sharing, or in nothing.",
        )
        runs = int(expect_number(runs))
        wrong = {
            "timing_with_the_first": "You counted the first run of each setting, in which the GPU prepares "
            "itself: leave it out.",
            "timing_in_seconds": "Your deviation is that of differences in seconds. What is compared with a "
            "cost ratio is a ratio: time with over time without, run by run.",
            "timing_by_n": "The standard deviation of a sample is divided by n - 1.",
            "timing_of_the_pilot": "That is how many runs the pilot has, not how many the experiment needs.",
        }
        for name, hint in wrong.items():
            expect(runs != getattr(known, name)(*args)[2], hint)
        expect(
            runs == want[2],
            f"{runs} runs differ from what 1.96 s / sqrt(n) <= {args[5]} asks for, the least whole n.",
        )
        expect(
            verdict in ("more", "less", "not shown"),
            f"The verdict is {verdict!r}; expected 'more', 'less' or 'not shown'.",
        )
        expect(
            verdict == want[3] or verdict != known.timing_against_one(*args)[3],
            "You compared with 1. Sharing does more operations, so more time is expected: compare with what "
            "`cost` says.",
        )
        expect(
            verdict == want[3] or verdict != known.timing_by_the_mean(*args)[3],
            "You read the mean alone: where the interval holds what `cost` says, no difference is shown.",
        )
        expect(verdict == want[3], f"The pilot does not say {verdict!r}: look at both ends of the interval.")


def _pilot(seed, factor):
    """Seconds of nine runs of every setting, the first one slow; sharing takes ``factor`` times as long."""
    g = generator(seed)
    noise = torch.randn(len(_TIMED), 9, generator=g, dtype=torch.float64)
    pilot = {name: 2 * (1 + 0.01 * e) for name, e in zip(_TIMED, noise, strict=True)}
    pilot["1 panel"] = pilot["1 panel"] / 3
    plain = torch.linspace(2, 2.4, 9, dtype=torch.float64)[torch.randperm(9, generator=g)]  # it gets warm
    e = noise[3, 1:] - noise[3, 1:].mean()
    ratio = torch.cat([noise[3, :1], factor - 0.004 + 0.02 * e / e.std()])
    pilot["4 panels"], pilot["4 panels, sharing"] = plain, plain * ratio
    for k, name in enumerate(_TIMED):
        pilot[name][0] = 5.0 + 2 * k
    return pilot
