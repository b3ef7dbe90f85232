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


# ---------------------------------------------------------------------------------------- mend-sampler


def _sampled(noise, levels, predict, scale, step, *, base=0, restart=False, ahead=0, steps=None):
    """``base`` 1: guidance begins with the prompt; ``ahead`` 1: the U-Net is told the next level."""
    z = noise
    for k in range(len(levels) - 1 if steps is None else steps):
        both = [predict(z, levels[k + ahead], text) for text in (False, True)]
        v = both[base] + scale * (both[1] - both[0])
        z = step(noise if restart else z, v, levels[k], levels[k + 1])
    return z


def _sampler(noise, levels, predict, scale, step):
    return _sampled(noise, levels, predict, scale, step)


def _sampler_by_calling_itself(noise, levels, predict, scale, step):
    if len(levels) < 2:
        return noise
    kept, after = levels[:2]
    v = torch.lerp(predict(noise, kept, False), predict(noise, kept, True), scale)
    return _sampler_by_calling_itself(step(noise, v, kept, after), levels[1:], predict, scale, step)


def _sampler_as_it_stands(noise, levels, predict, scale, step):
    return _sampled(noise, levels, predict, scale, step, base=1, restart=True)


def _each_from_the_noise(noise, levels, predict, scale, step):
    return _sampled(noise, levels, predict, scale, step, restart=True)


def _guided_from_the_prompt(noise, levels, predict, scale, step):
    return _sampled(noise, levels, predict, scale, step, base=1)


def _told_the_next_level(noise, levels, predict, scale, step):
    return _sampled(noise, levels, predict, scale, step, ahead=1)


def _one_level_short(noise, levels, predict, scale, step):
    return _sampled(noise, levels, predict, scale, step, steps=len(levels) - 2)


def _not_guided(noise, levels, predict, scale, step):
    return _sampled(noise, levels, predict, 1.0, step)


ANSWERS["mend-sampler"] = Answers(
    right=[_sampler, _sampler_by_calling_itself],
    wrong={
        "as it stands": (_sampler_as_it_stands, "as it stands"),
        "each step from the noise": (_each_from_the_noise, "from the first noise"),
        "guided from the prompt": (_guided_from_the_prompt, "scale 1 is not the prompt"),
        "told the next level": (_told_the_next_level, "leads to"),
        "one level short": (_one_level_short, "some noise is left"),
        "no guidance": (_not_guided, "without guidance"),
    },
)
