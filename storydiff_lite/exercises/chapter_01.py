"""Exercises of chapter 01, a small world and its model."""

from __future__ import annotations

import torch

from . import exercise, expect, expect_tensor, same

_KEPT = (0.9, 0.5, 0.04)  # shares of the picture's variance that are left


def _pair(seed, shape=(2, 3, 4)):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g), torch.randn(*shape, generator=g)


# ---------------------------------------------------------------------------------------- add-noise


def _noised(clean, noise, kept):
    return kept**0.5 * clean + (1 - kept) ** 0.5 * noise


def _noised_by_angle(clean, noise, kept):
    angle = torch.acos(torch.tensor(kept, dtype=torch.float64).sqrt())
    return (torch.cos(angle) * clean + torch.sin(angle) * noise).to(clean.dtype)


def _linear(clean, noise, kept):
    return kept * clean + (1 - kept) * noise


def _swapped(clean, noise, kept):
    return (1 - kept) ** 0.5 * clean + kept**0.5 * noise


def _noise_whole(clean, noise, kept):
    return kept**0.5 * clean + noise


@exercise(
    "add-noise",
    right=[_noised, _noised_by_angle],
    wrong={
        "no square roots": (_linear, "square roots"),
        "shares swapped": (_swapped, "swapped"),
        "noise not scaled": (_noise_whole, "variance"),
    },
)
def add_noise(answer):
    """``answer(clean, noise, kept) -> noisy``, all of one shape; ``kept`` is alpha-bar, 0..1."""
    for seed, kept in enumerate(_KEPT):
        clean, noise = _pair(seed)
        got = answer(clean.clone(), noise.clone(), kept)
        expect_tensor(got, clean.shape)
        expect(
            not same(got, _linear(clean, noise, kept)) or kept == 1,
            "The shares are of the variance: the numbers themselves take their square roots.",
        )
        if kept != 0.5:
            expect(not same(got, _swapped(clean, noise, kept)), "The two shares are swapped.")
        expect(
            not same(got, _noise_whole(clean, noise, kept)),
            "The noise must shrink too, or the variance grows beyond 1.",
        )
        expect(same(got, _noised(clean, noise, kept)), f"At kept = {kept} some number differs.")


# ---------------------------------------------------------------------------------------- velocity


def _velocity(clean, noise, kept):
    return kept**0.5 * noise - (1 - kept) ** 0.5 * clean


def _velocity_from_noisy(clean, noise, kept):
    noisy = _noised(clean, noise, kept)
    return (kept**0.5 * noisy - clean) / (1 - kept) ** 0.5


@exercise(
    "velocity",
    right=[_velocity, _velocity_from_noisy],
    wrong={
        "the noise": (lambda clean, noise, kept: noise, "predict the noise"),
        "the sign turned": (lambda clean, noise, kept: -_velocity(clean, noise, kept), "sign"),
        "the noisy picture": (_noised, "noisy picture"),
    },
)
def velocity(answer):
    """``answer(clean, noise, kept) -> v``: Salimans & Ho (2202.00512), section 4."""
    for seed, kept in enumerate(_KEPT):
        clean, noise = _pair(seed)
        got = answer(clean.clone(), noise.clone(), kept)
        expect_tensor(got, clean.shape)
        want = _velocity(clean, noise, kept)
        expect(not same(got, noise), "That is what a model learns that has to predict the noise.")
        expect(not same(got, -want), "The sign is turned: v = sqrt(kept) noise - sqrt(1 - kept) clean.")
        expect(not same(got, _noised(clean, noise, kept)), "That is the noisy picture itself, with a plus.")
        expect(same(got, want), f"At kept = {kept} some number differs.")


# ---------------------------------------------------------------------------------------- guidance


def _guide(without, with_prompt, scale):
    return without + scale * (with_prompt - without)


@exercise(
    "guidance",
    right=[_guide, lambda without, with_prompt, scale: torch.lerp(without, with_prompt, float(scale))],
    wrong={
        "roles swapped": (lambda u, c, s: c + s * (u - c), "away from the prompt"),
        "begun at the prompt": (lambda u, c, s: c + s * (c - u), "one too strong"),
        "only scaled": (lambda u, c, s: s * c, "not used"),
    },
)
def guidance(answer):
    """``answer(without, with_prompt, scale)``: Ho & Salimans (2207.12598)."""
    for scale in (5.0, 2.5, 1.0, 0.0):
        u, c = _pair(3)
        got = answer(u.clone(), c.clone(), scale)
        expect_tensor(got, u.shape)
        expect(not same(got, c + scale * (u - c)), "The roles are swapped: this moves away from the prompt.")
        if scale:
            expect(
                not same(got, c + scale * (c - u)), "It begins at the prompt's prediction: one too strong."
            )
            if scale != 1:
                expect(not same(got, scale * c), "The prediction without the prompt is not used.")
        expect(same(got, _guide(u, c, scale)), f"At scale {scale} some number differs.")


# ---------------------------------------------------------------------------------------- ddim-step


def _parts(noisy, v, kept):
    clean = kept**0.5 * noisy - (1 - kept) ** 0.5 * v
    noise = kept**0.5 * v + (1 - kept) ** 0.5 * noisy
    return clean, noise


def _step(noisy, v, kept, kept_next):
    clean, noise = _parts(noisy, v, kept)
    return _noised(clean, noise, kept_next)


def _step_by_rotation(noisy, v, kept, kept_next):
    a, b = (torch.acos(torch.tensor(k, dtype=torch.float64).sqrt()) for k in (kept, kept_next))
    return (torch.cos(b - a) * noisy + torch.sin(b - a) * v).to(noisy.dtype)


def _straight_to_clean(noisy, v, kept, kept_next):
    return _parts(noisy, v, kept)[0]


def _fresh_noise_forgotten(noisy, v, kept, kept_next):
    return kept_next**0.5 * _parts(noisy, v, kept)[0]


def _v_as_noise(noisy, v, kept, kept_next):
    clean = (noisy - (1 - kept) ** 0.5 * v) / kept**0.5
    return _noised(clean, v, kept_next)


@exercise(
    "ddim-step",
    right=[_step, _step_by_rotation],
    wrong={
        "straight to the clean picture": (_straight_to_clean, "all the way"),
        "no noise put back": (_fresh_noise_forgotten, "put back"),
        "v taken for the noise": (_v_as_noise, "velocity"),
        "no step": (lambda noisy, v, kept, kept_next: noisy, "where it was"),
    },
)
def ddim_step(answer):
    """``answer(noisy, v, kept, kept_next) -> less noisy``: DDIM (2010.02502, eq. 12) with a velocity."""
    for seed, (kept, after) in enumerate(((0.1, 0.3), (0.5, 0.8), (0.9, 1.0))):
        noisy, v = _pair(seed + 5)
        got = answer(noisy.clone(), v.clone(), kept, after)
        expect_tensor(got, noisy.shape)
        if after < 1:
            expect(
                not same(got, _straight_to_clean(noisy, v, kept, after)),
                "That goes all the way to the clean picture in one step; put some noise back.",
            )
            expect(
                not same(got, _fresh_noise_forgotten(noisy, v, kept, after)),
                "The noise of the next level is missing: sqrt(1 - kept_next) of it is put back.",
            )
        expect(
            not same(got, _v_as_noise(noisy, v, kept, after)),
            "v is a velocity, not the noise: noise = sqrt(kept) v + sqrt(1 - kept) noisy.",
        )
        expect(not same(got, noisy), "The picture stays where it was.")
        expect(same(got, _step(noisy, v, kept, after)), f"From kept = {kept} to {after} some number differs.")
