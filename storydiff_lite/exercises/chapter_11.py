"""Exercises of chapter 11, scaling up to SDXL."""

from __future__ import annotations

import numbers

from . import exercise, expect, expect_number

# ---------------------------------------------------------------------------------------- what it costs


def _cost(panels, rate, attention, total):
    return 1 + rate * (panels - 1) * attention / total


def _cost_summed(panels, rate, attention, total):
    return (total - attention + attention * (1 + rate * (panels - 1))) / total


def _cost_every_panel(panels, rate, attention, total):
    return 1 + rate * panels * attention / total


def _cost_whole_net(panels, rate, attention, total):
    return 1 + rate * (panels - 1)


def _cost_all_tokens(panels, rate, attention, total):
    return 1 + (panels - 1) * attention / total


def _cost_of_the_rest(panels, rate, attention, total):
    return rate * (panels - 1) * attention / total


@exercise(
    "cost-ratio",
    right=[_cost, _cost_summed],
    wrong={
        "reads its own tokens again": (_cost_every_panel, "own tokens"),
        "the whole U-Net grows": (_cost_whole_net, "only the attention"),
        "all tokens of the others": (_cost_all_tokens, "a share of their tokens"),
        "only what is added": (_cost_of_the_rest, "costs 1"),
    },
)
def cost_ratio(answer):
    """``answer(panels, rate, attention, total) -> number``: operations of a panel over those without
    sharing.
    """
    for panels, rate, attention, total in ((4, 0.5, 2, 16), (9, 0.25, 3, 10), (2, 1.0, 1, 4)):
        got, args = expect_number(answer(panels, rate, attention, total)), (panels, rate, attention, total)

        def is_like(other, got=got, args=args):
            return abs(got - other(*args)) < 1e-6

        expect(
            not is_like(_cost_every_panel), "A panel reads its own tokens anyway: the others are panels - 1."
        )
        expect(
            not is_like(_cost_whole_net) or is_like(_cost),
            "Convolutions and linear layers do what they did: only the attention of the layers that "
            "share grows.",
        )
        expect(
            not is_like(_cost_all_tokens) or is_like(_cost),
            "At a rate below 1 a panel reads a share of their tokens.",
        )
        expect(not is_like(_cost_of_the_rest), "That is what comes on top: a story without sharing costs 1.")
        expect(
            is_like(_cost),
            f"{panels} panels, rate {rate}, {attention} of {total} operations in the attention that shares: "
            f"{_cost(*args):g}, not {got:g}.",
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


def _which(names):
    return [n for n in names if n.startswith("up_blocks.") and ".attentions." in n and ".attn1." in n]


def _which_by_parts(names):
    found = []
    for name in names:
        parts = name.split(".")
        if parts[0] == "up_blocks" and parts[2] == "attentions" and parts[-2] == "attn1":
            found.append(name)
    return set(found)


def _which_with_text(names):
    return [n for n in names if n.startswith("up_blocks.") and ".attentions." in n]


def _which_everywhere(names):
    return [n for n in names if ".attn1." in n and ".attentions." in n]


def _which_up_anywhere(names):
    return [n for n in names if "up" in n and ".attn1." in n and ".motion" not in n]


def _which_with_motion(names):
    return [n for n in names if n.startswith("up_blocks.") and ".attn1." in n]


def _which_text_only(names):
    return [n for n in names if n.startswith("up_blocks.") and ".attentions." in n and ".attn2." in n]


@exercise(
    "layers-that-share",
    right=[_which, _which_by_parts],
    wrong={
        "cross-attention too": (_which_with_text, "attn2 reads the prompt"),
        "every block": (_which_everywhere, "down-blocks or the middle"),
        "up anywhere in the name": (_which_up_anywhere, "begins with"),
        "motion modules too": (_which_with_motion, "between the frames"),
        "cross-attention alone": (_which_text_only, "none of them is self-attention"),
    },
)
def layers_that_share(answer):
    """``answer(names) -> those names`` whose processors are replaced."""
    got = answer(list(_NAMES))
    expect(
        isinstance(got, (list, tuple, set)) and all(isinstance(n, str) for n in got),
        "Return a list of names.",
    )
    got, want = set(got), set(_which(_NAMES))
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


def _peak(parts, working, offload):
    if offload:
        return max(parts[p] + working[p] for p in parts)
    return sum(parts.values()) + max(working.values())


def _peak_by_steps(parts, working, offload):
    most = 0
    for now in parts:
        there = [now] if offload else list(parts)
        most = max(most, sum(parts[p] for p in there) + working[now])
    return most


def _peak_adds_working(parts, working, offload):
    if offload:
        return max(parts[p] + working[p] for p in parts)
    return sum(parts.values()) + sum(working.values())


def _peak_weights_alone(parts, working, offload):
    return max(parts.values()) if offload else sum(parts.values())


def _peak_mixed(parts, working, offload):
    if offload:
        return max(parts.values()) + max(working.values())
    return sum(parts.values()) + max(working.values())


def _peak_no_difference(parts, working, offload):
    return sum(parts.values()) + max(working.values())


@exercise(
    "what-must-fit",
    right=[_peak, _peak_by_steps],
    wrong={
        "all parts work at once": (_peak_adds_working, "one after the other"),
        "weights alone": (_peak_weights_alone, "while it works"),
        "largest part and largest work": (_peak_mixed, "of the same part"),
        "offload changes nothing": (_peak_no_difference, "other parts wait"),
    },
)
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
            want = _peak(parts, working, offload)
            if got == want:
                continue
            how = "with offload" if offload else "without offload"
            expect(
                got != _peak_adds_working(parts, working, offload),
                "The parts work one after the other: of what they need while they work, the largest counts.",
            )
            expect(
                got != _peak_weights_alone(parts, working, offload),
                "A part needs more than its weights while it works.",
            )
            expect(
                not (offload and got == _peak_no_difference(parts, working, offload)),
                "With offload the other parts wait in the memory of the computer, not on the card.",
            )
            expect(
                not (offload and got == _peak_mixed(parts, working, offload)),
                "Add the weights and the work of the same part, and take the largest sum.",
            )
            expect(False, f"Parts {parts}, work {working}, {how}: {want}, not {got}.")


# ---------------------------------------------------------------------------------------- many processes


def _batch_loss(sums, weights):
    return sum(sums) / sum(weights)


def _batch_loss_loop(sums, weights):
    error = weight = 0.0
    for s, w in zip(sums, weights, strict=True):
        error, weight = error + s, weight + w
    return error / weight


def _mean_of_means(sums, weights):
    return sum(s / w for s, w in zip(sums, weights, strict=True)) / len(sums)


def _sum_of_means(sums, weights):
    return sum(s / w for s, w in zip(sums, weights, strict=True))


def _first_process(sums, weights):
    return sums[0] / weights[0]


def _over_processes(sums, weights):
    return sum(sums) / len(sums)


@exercise(
    "loss-of-the-batch",
    right=[_batch_loss, _batch_loss_loop],
    wrong={
        "mean of the means": (_mean_of_means, "weigh as much"),
        "sum of the means": (_sum_of_means, "as many times too large"),
        "the first process alone": (_first_process, "the first process"),
        "no weights": (_over_processes, "divided by the number of processes"),
    },
)
def loss_of_the_batch(answer):
    """``answer(sums, weights) -> number``: the weighted mean over the whole batch."""
    for sums, weights in (([6.0, 1.0], [3.0, 1.0]), ([2.0, 4.0, 9.0], [4.0, 1.0, 3.0])):
        got = answer(list(sums), list(weights))
        expect(isinstance(got, numbers.Real), f"Return one number, not a {type(got).__name__}.")
        want = _batch_loss(sums, weights)
        if abs(got - want) < 1e-9:
            continue
        for wrong, hint in (
            (_mean_of_means, "A process whose pictures weigh little would weigh as much as any other."),
            (
                _sum_of_means,
                "That grows with the number of processes: the step would be as many times too large.",
            ),
            (_first_process, "That is the loss of the first process: the others would teach nothing."),
            (_over_processes, "The errors are divided by the number of processes, and not by the weights."),
        ):
            expect(abs(got - wrong(sums, weights)) > 1e-9, hint)
        expect(False, f"Sums {sums}, weights {weights}: {want:g}, not {got:g}.")
