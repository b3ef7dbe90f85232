"""Exercises of chapter 04, the denoising loop."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_no_mistake, expect_tensor, generator, records, same

known = records("chapter_04")


def _random(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------- split-and-guide


@exercise("split-and-guide")
def split_and_guide(answer):
    """``answer(pred [2B, 4, h, w], scale) -> [B, 4, h, w]``: unconditional half first."""
    for scale in (5.0, 1.0):
        pred = _random(1, 6, 4, 2, 2)
        got = answer(pred.clone(), scale)
        expect(
            not (isinstance(got, torch.Tensor) and got.shape == (6, 2, 2, 2)),
            "Cut along the first axis, the batch, not along the channels.",
        )
        expect_tensor(got, (3, 4, 2, 2))
        wrong = {
            "halves_swapped": "The halves are swapped: the unconditional half comes first.",
            "every_other": "The batch is two halves, one after the other, not every other row.",
        }
        expect_no_mistake(got, known, (pred, scale), wrong)
        expect(same(got, known.guided(pred, scale)), f"At scale {scale} some number differs.")


# ---------------------------------------------------------------------------------------- merge-step


@exercise("merge-step")
def merge_step(answer):
    """``answer(step, start) -> bool``: whether this step reads the text alone, as released."""
    cases = [(s, k) for k in (-1, 0, 4, 24) for s in range(25)]
    want = {c: known.text_only(*c) for c in cases}
    got = {key: answer(*key) for key in want}
    expect(all(v in (True, False) for v in got.values()), "The answer must be True (text alone) or False.")
    got = {k: bool(v) for k, v in got.items()}
    expect(
        got != {c: known.other_way_round(*c) for c in cases},
        "It is the other way round: text alone first, then the identity.",
    )
    expect(not all(got.values()), "The identity never comes in.")
    expect(
        got != {c: known.off_by_one(*c) for c in cases},
        "Off by one: with start k the released code reads the text alone in k + 1 steps, 0 to k.",
    )
    expect(got == want, "In some step the answer differs.")


# ---------------------------------------------------------------------------------------- rescale


@exercise("rescale")
def rescale(answer):
    """``answer(guided, cond, amount)``: Lin et al. (2305.08891), Eq. 15 and 16."""
    cond = _random(2, 3, 4, 5, 5) * torch.tensor([0.5, 1, 2], dtype=torch.float64).view(3, 1, 1, 1)
    guided = cond * 3 + _random(3, 3, 4, 5, 5) * torch.arange(1, 5, dtype=torch.float64).view(1, 4, 1, 1)
    for amount in (1.0, 0.7, 0.0):
        args = guided, cond, amount
        got = answer(guided.clone(), cond.clone(), amount)
        expect_tensor(got, guided.shape)
        if amount:
            wrong = {
                "over_all": "The spread is measured for each picture, not over the batch.",
                "over_space": "The spread is measured over all channels together.",
                "upside_down": "The factor is upside down.",
            }
            expect_no_mistake(got, known, args, wrong)
        if amount < 1:
            expect(
                not same(got, known.mixed_with_cond(*args)),
                "What is mixed in is the guided prediction itself (Eq. 16).",
            )
        expect(same(got, known.rescaled(*args)), f"At amount {amount} some number differs.")


# ---------------------------------------------------------------------------------------- repeat-prompts


@exercise("repeat-prompts")
def repeat_prompts(answer):
    """``answer(states [B, S, D], pooled [B, P], n) -> [B n, S, D], [B n, P]``, copies next to each other."""
    states, pooled = _random(4, 2, 3, 4), _random(5, 2, 6)
    for n in (3, 1):
        got = answer(states.clone(), pooled.clone(), n)
        expect(isinstance(got, (tuple, list)) and len(got) == 2, "Return two tensors: states and pooled.")
        expect_tensor(got[0], (2 * n, 3, 4), "The states")
        expect(
            isinstance(got[1], torch.Tensor) and got[1].shape[0] == 2 * n,
            "The pooled text must be repeated like the states.",
        )
        want = known.repeated(states, pooled, n)
        if same(got[0], want[0]) and not same(got[1], want[1]):
            expect(
                False, "A picture would read the states of one prompt and the pooled text of another prompt."
            )
        expect(same(got[0], want[0]), "Copies of one prompt must stand next to each other: a a a b b b.")


# ---------------------------------------------------------------------------------------- mend-loop


@exercise("mend-loop")
def mend_loop(answer):
    """``answer(x, times, nothing, text, identity, predict, k, scale) -> [1, C, h, w]``, the last latent."""
    x = _random(21, 1, 3, 2, 2)
    nothing, text, identity = (_random(22 + i, 1, 5, 4) for i in range(3))

    def predict(x, t, states):
        expect(
            len(x) == len(states),
            f"The U-Net got {len(x)} latents and {len(states)} rows of states: both halves need the latent.",
        )
        return torch.tanh(x) + (1 + t) * states.mean((1, 2)).view(-1, 1, 1, 1)

    for k in (1, 0, 2, -1):
        args = x, [3, 2, 1, 0], nothing, text, identity, predict, k, 2.5
        got = answer(*(a.clone() if isinstance(a, torch.Tensor) else a for a in args))
        expect_tensor(got, (1, 3, 2, 2))
        if k >= 0:
            wrong = {
                "as_it_stands": "That is the loop as it stands: look at the order of the halves, and at the "
                "step in which the identity comes in.",
                "one_step_short": "The identity comes in one step too early: k means k + 1 steps with the "
                "text alone.",
                "identity_first": "It is the other way round: text alone first, then the identity.",
            }
            expect_no_mistake(got, known, args, wrong)
        expect(
            not same(got, known.away_from_the_prompt(*args)),
            "Guidance moves away from the prompt: the halves go in in one order and come out in the other.",
        )
        expect(same(got, known.mended_loop(*args)), f"With k = {k} some number differs.")


# ---------------------------------------------------------------------------------------- own-loop


@exercise(
    "own-loop", builds_on={"split-and-guide": "guided", "merge-step": "text_only", "rescale": "rescaled"}
)
def own_loop(answer, guide, alone, rescale):
    """``answer(x, times, states, predict, k, scale, amount, guide, alone, rescale) -> [B, C, h, w]``.

    ``states``: those of nothing, of the text and of the identity, each [B, S, D].
    """
    x = _random(31, 2, 4, 2, 2)
    states = tuple(_random(32 + i, 2, 5, 4) for i in range(3))

    def predict(x, t, states):
        expect(
            len(x) == len(states),
            f"The U-Net got {len(x)} latents and {len(states)} rows of states: both halves need the latents.",
        )
        return torch.tanh(x) * (1 + states.std((1, 2)).view(-1, 1, 1, 1)) + t * states.mean((1, 2)).view(
            -1, 1, 1, 1
        )

    for k, amount in ((0, 0.7), (1, 0.7), (-1, 1.0)):
        args = x, [3, 2, 1], states, predict, k, 2.5, amount, guide, alone, rescale
        got = answer(*(a.clone() if isinstance(a, torch.Tensor) else a for a in args))
        expect_tensor(got, (2, 4, 2, 2))
        wrong = {
            "never_rescaled": "Nothing is rescaled: between guidance and the step the prediction gets "
            "back its "
            "spread.",
            "spread_of_nothing": "You rescale to the spread of the half without the prompt. The one with "
            "it says "
            "how wide a prediction should be: the second half.",
            "latent_rescaled": "You rescale the latent after the step; it is the guided prediction that is "
            "rescaled, before the step.",
            "identity_first_of_all": "It is the other way round: the text while `alone` is true, then the "
            "identity.",
            "halves_the_other_way": "The prompt went in first, and `guide` expects the half without a prompt "
            "first.",
        }
        if k != -1:
            wrong["asked_by_time"] = "`alone` wants the number of the step, 0 for the first, not its time t."
        expect_no_mistake(got, known, args, wrong)
        expect(same(got, known.own_loop(*args)), f"With k = {k} and amount {amount} some number differs.")
