"""Answers to the exercises of chapter 01, a small world and its model."""

from __future__ import annotations

import torch

from . import ANSWERS, Answers

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


ANSWERS["add-noise"] = Answers(
    right=[_noised, _noised_by_angle],
    wrong={
        "no square roots": (_linear, "square roots"),
        "shares swapped": (_swapped, "swapped"),
        "noise not scaled": (_noise_whole, "variance"),
    },
)


# ---------------------------------------------------------------------------------------- velocity


def _velocity(clean, noise, kept):
    return kept**0.5 * noise - (1 - kept) ** 0.5 * clean


def _velocity_from_noisy(clean, noise, kept):
    noisy = _noised(clean, noise, kept)
    return (kept**0.5 * noisy - clean) / (1 - kept) ** 0.5


ANSWERS["velocity"] = Answers(
    right=[_velocity, _velocity_from_noisy],
    wrong={
        "the noise": (lambda clean, noise, kept: noise, "predict the noise"),
        "the sign turned": (lambda clean, noise, kept: -_velocity(clean, noise, kept), "sign"),
        "the noisy picture": (_noised, "noisy picture"),
    },
)


# ---------------------------------------------------------------------------------------- guidance


def _undone(guided, without, scale):
    return without + (guided - without) / scale


def _undone_by_shares(guided, without, scale):
    return torch.lerp(without, guided, 1 / float(scale))


def _guided_again(guided, without, scale):
    return without + scale * (guided - without)


def _guide_itself(guided, without, scale):
    return guided + scale * (without - guided)


def _from_the_guided(guided, without, scale):
    return guided + (without - guided) / scale


def _only_divided(guided, without, scale):
    return guided / scale


ANSWERS["guidance"] = Answers(
    right=[_undone, _undone_by_shares],
    wrong={
        "nothing undone": (lambda guided, without, scale: guided, "as it was"),
        "guided twice": (_guided_again, "a second time"),
        "guide itself": (_guide_itself, "undo the guidance"),
        "roles swapped": (_from_the_guided, "roles are swapped"),
        "only divided": (_only_divided, "before you divide"),
    },
)


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


ANSWERS["ddim-step"] = Answers(
    right=[_step, _step_by_rotation],
    wrong={
        "straight to the clean picture": (_straight_to_clean, "all the way"),
        "no noise put back": (_fresh_noise_forgotten, "put back"),
        "v taken for the noise": (_v_as_noise, "velocity"),
        "no step": (lambda noisy, v, kept, kept_next: noisy, "where it was"),
    },
)
