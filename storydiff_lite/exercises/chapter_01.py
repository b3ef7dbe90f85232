"""Exercises of chapter 01, a small world and its model."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_no_mistake, expect_tensor, generator, records, same

known = records("chapter_01")

_KEPT = (0.9, 0.5, 0.04)  # shares of the picture's variance that are left


def _pair(seed, shape=(2, 3, 4)):
    g = generator(seed)
    return torch.randn(*shape, generator=g), torch.randn(*shape, generator=g)


# ---------------------------------------------------------------------------------------- add-noise


@exercise("add-noise")
def add_noise(answer):
    """``answer(clean, noise, kept) -> noisy``, all of one shape; ``kept`` is alpha-bar, 0..1."""
    for seed, kept in enumerate(_KEPT):
        clean, noise = _pair(seed)
        got = answer(clean.clone(), noise.clone(), kept)
        expect_tensor(got, clean.shape)
        expect(
            not same(got, known.linear(clean, noise, kept)) or kept == 1,
            "The shares are of the variance: the numbers themselves take their square roots.",
        )
        if kept != 0.5:
            expect(not same(got, known.swapped(clean, noise, kept)), "The two shares are swapped.")
        expect(
            not same(got, known.noise_whole(clean, noise, kept)),
            "The noise must shrink too, or the variance grows beyond 1.",
        )
        expect(same(got, known.noised(clean, noise, kept)), f"At kept = {kept} some number differs.")


# ---------------------------------------------------------------------------------------- velocity


@exercise("velocity")
def velocity(answer):
    """``answer(clean, noise, kept) -> v``: Salimans & Ho (2202.00512), section 4."""
    for seed, kept in enumerate(_KEPT):
        clean, noise = _pair(seed)
        got = answer(clean.clone(), noise.clone(), kept)
        expect_tensor(got, clean.shape)
        want = known.velocity(clean, noise, kept)
        expect(not same(got, noise), "That is what a model learns that has to predict the noise.")
        expect(not same(got, -want), "The sign is wrong: v = sqrt(kept) noise - sqrt(1 - kept) clean.")
        expect(
            not same(got, known.noised(clean, noise, kept)), "That is the noisy picture itself, with a plus."
        )
        expect(same(got, want), f"At kept = {kept} some number differs.")


# ---------------------------------------------------------------------------------------- guidance


@exercise("guidance")
def guidance(answer):
    """``answer(guided, without, scale) -> with_prompt``: Ho & Salimans (2207.12598), read backwards."""
    for scale in (5.0, 2.5, 1.0):
        args = *_pair(3), scale
        got = answer(*(a.clone() for a in args[:2]), scale)
        expect_tensor(got, args[0].shape)
        if scale != 1:
            expect(
                not same(got, args[0]), "That is the guided prediction as it was: only scale 1 leaves it so."
            )
            wrong = {
                "guided_again": "That guides a second time; the first is to be undone.",
                "guide_itself": "That guides, with the two given for those without and with the prompt; "
                "undo the guidance.",
                "from_the_guided": "The roles are swapped: begin without the prompt.",
                "only_divided": "The part that came without the prompt was not scaled: take it away before "
                "you divide.",
            }
            expect_no_mistake(got, known, args, wrong)
        expect(same(got, known.undone(*args)), f"At scale {scale} some number differs.")


# ---------------------------------------------------------------------------------------- ddim-step


@exercise("ddim-step")
def ddim_step(answer):
    """``answer(noisy, v, kept, kept_next) -> less noisy``: DDIM (2010.02502, eq. 12) with a velocity."""
    for seed, (kept, after) in enumerate(((0.1, 0.3), (0.5, 0.8), (0.9, 1.0))):
        noisy, v = _pair(seed + 5)
        got = answer(noisy.clone(), v.clone(), kept, after)
        expect_tensor(got, noisy.shape)
        if after < 1:
            wrong = {
                "straight_to_clean": "That goes all the way to the clean picture in one step; put some "
                "noise back.",
                "fresh_noise_forgotten": "The noise of the next level is missing: sqrt(1 - kept_next) of it "
                "is put back.",
            }
            expect_no_mistake(got, known, (noisy, v, kept, after), wrong)
        expect(
            not same(got, known.v_as_noise(noisy, v, kept, after)),
            "v is a velocity, not the noise: noise = sqrt(kept) v + sqrt(1 - kept) noisy.",
        )
        expect(not same(got, noisy), "The picture stays where it was.")
        expect(
            same(got, known.step(noisy, v, kept, after)),
            f"From kept = {kept} to {after} some number differs.",
        )


# ---------------------------------------------------------------------------------------- mend-sampler


@exercise("mend-sampler", builds_on={"ddim-step": "step"})
def mend_sampler(answer, step):
    """``answer(noise, levels, predict, scale, step) -> latent``; levels: kept of each, the last one 1."""
    noise, drawn = _pair(31)

    def predict(z, kept, text):
        """A velocity that hangs on the latent, on its level and on whether there is a prompt."""
        return torch.tanh(z + (2 * drawn if text else 0)) * (1 + kept)

    for levels, scale in (([0.02, 0.2, 0.6, 1.0], 2.5), ([0.1, 0.5, 1.0], 1.0)):
        args = noise, levels, predict, scale, step
        got = answer(noise.clone(), list(levels), predict, scale, step)
        expect_tensor(got, noise.shape)
        wrong = {
            "sampler_as_it_stands": "That is the cell as it stands: where does guidance begin, and what does "
            "a step start from?",
            "each_from_the_noise": "Every step still starts from the first noise, so only the last one "
            "counts. "
            "A step starts from the latent that the step before has left.",
            "told_the_next_level": "The U-Net is told the level that a step leads to; it has to know how "
            "much "
            "noise is in the latent that it gets.",
            "one_level_short": "The last step is missing: some noise is left.",
        }
        if scale != 1:
            wrong["guided_from_the_prompt"] = (
                "Guidance still begins at the prediction with the prompt. It begins at the one without "
                "it, or "
                "scale 1 is not the prompt alone."
            )
            wrong["not_guided"] = "This is drawn without guidance: the scale does nothing."
        expect_no_mistake(got, known, args, wrong)
        expect(
            same(got, known.sampler(*args)),
            f"With {len(levels)} levels and scale {scale} some number differs.",
        )
