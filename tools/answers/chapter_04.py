"""Answers to the exercises of chapter 04, the denoising loop."""

from __future__ import annotations

import torch

from . import ANSWERS, Answers

# ---------------------------------------------------------------------------------------- split-and-guide


def _guided(pred, scale):
    uncond, cond = pred.chunk(2)
    return uncond + scale * (cond - uncond)


def _guided_by_slices(pred, scale):
    n = len(pred) // 2
    return (1 - scale) * pred[:n] + scale * pred[n:]


def _halves_swapped(pred, scale):
    cond, uncond = pred.chunk(2)
    return uncond + scale * (cond - uncond)


def _every_other(pred, scale):
    uncond, cond = pred[::2], pred[1::2]
    return uncond + scale * (cond - uncond)


def _channels(pred, scale):
    uncond, cond = pred.chunk(2, 1)
    return uncond + scale * (cond - uncond)


ANSWERS["split-and-guide"] = Answers(
    right=[_guided, _guided_by_slices],
    wrong={
        "halves swapped": (_halves_swapped, "unconditional half comes first"),
        "every other one": (_every_other, "not every other"),
        "cut along the channels": (_channels, "first axis"),
    },
)


# ---------------------------------------------------------------------------------------- merge-step


def _text_only(step, start):
    return step <= start


def _text_only_by_range(step, start):
    return step in range(start + 1)


def _off_by_one(step, start):
    return step < start


def _other_way_round(step, start):
    return step > start


ANSWERS["merge-step"] = Answers(
    right=[_text_only, _text_only_by_range],
    wrong={
        "off by one": (_off_by_one, "k + 1 steps"),
        "the other way round": (_other_way_round, "other way round"),
        "identity never comes": (lambda step, start: True, "never comes in"),
    },
)


# ---------------------------------------------------------------------------------------- rescale


def _rescaled(guided, cond, amount):
    axes = tuple(range(1, guided.ndim))
    factor = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return amount * guided * factor + (1 - amount) * guided


def _rescaled_flat(guided, cond, amount):
    a, b = guided.flatten(1).std(1), cond.flatten(1).std(1)
    return guided * (1 + amount * (b / a - 1)).view(-1, *[1] * (guided.ndim - 1))


def _over_all(guided, cond, amount):
    return amount * guided * cond.std() / guided.std() + (1 - amount) * guided


def _over_space(guided, cond, amount):
    factor = cond.std((2, 3), keepdim=True) / guided.std((2, 3), keepdim=True)
    return amount * guided * factor + (1 - amount) * guided


def _upside_down(guided, cond, amount):
    axes = (1, 2, 3)
    factor = guided.std(axes, keepdim=True) / cond.std(axes, keepdim=True)
    return amount * guided * factor + (1 - amount) * guided


def _mixed_with_cond(guided, cond, amount):
    axes = (1, 2, 3)
    factor = cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return amount * guided * factor + (1 - amount) * cond


ANSWERS["rescale"] = Answers(
    right=[_rescaled, _rescaled_flat],
    wrong={
        "over the whole batch": (_over_all, "each picture"),
        "over each channel": (_over_space, "all channels"),
        "upside down": (_upside_down, "upside down"),
        "mixed with the wrong one": (_mixed_with_cond, "guided prediction itself"),
    },
)


# ---------------------------------------------------------------------------------------- repeat-prompts


def _repeated(states, pooled, n):
    return states.repeat_interleave(n, 0), pooled.repeat_interleave(n, 0)


def _repeated_by_view(states, pooled, n):
    b, s, d = states.shape
    return states.repeat(1, n, 1).view(b * n, s, d), pooled.repeat(1, n).view(b * n, -1)


def _tiled(states, pooled, n):
    return states.repeat(n, 1, 1), pooled.repeat(n, 1)


def _mixed(states, pooled, n):
    return states.repeat_interleave(n, 0), pooled.repeat(n, 1)


ANSWERS["repeat-prompts"] = Answers(
    right=[_repeated, _repeated_by_view],
    wrong={
        "tiled": (_tiled, "next to each other"),
        "the two in different orders": (_mixed, "another prompt"),
        "states only": (lambda s, p, n: (s.repeat_interleave(n, 0), p), "pooled"),
    },
)


# ---------------------------------------------------------------------------------------- mend-loop


def _loop(x, times, states_of, predict, scale, swapped=False):
    for i, t in enumerate(times):
        nothing, asked = states_of(i)
        both = predict(torch.cat([x, x]), t, torch.cat([asked, nothing] if swapped else [nothing, asked]))
        x = x - _guided(both, scale) / len(times)
    return x


def _mended_loop(x, times, nothing, text, identity, predict, k, scale):
    return _loop(x, times, lambda i: (nothing, text if i <= k else identity), predict, scale)


def _mended_loop_in_two_calls(x, times, nothing, text, identity, predict, k, scale):
    for i, t in enumerate(times):
        without, told = predict(x, t, nothing), predict(x, t, identity if i > k else text)
        x = x - (scale * told + (1 - scale) * without) / len(times)
    return x


def _as_it_stands(x, times, nothing, text, identity, predict, k, scale):
    return _loop(x, times, lambda i: (nothing, text if i < k else identity), predict, scale, swapped=True)


def _one_step_short(x, times, nothing, text, identity, predict, k, scale):
    return _loop(x, times, lambda i: (nothing, text if i < k else identity), predict, scale)


def _identity_first(x, times, nothing, text, identity, predict, k, scale):
    return _loop(x, times, lambda i: (nothing, identity if i <= k else text), predict, scale)


def _away_from_the_prompt(x, times, nothing, text, identity, predict, k, scale):
    return _loop(x, times, lambda i: (nothing, text if i <= k else identity), predict, scale, swapped=True)


def _one_latent(x, times, nothing, text, identity, predict, k, scale):
    for t in times:
        x = x - _guided(predict(x, t, torch.cat([nothing, text])), scale) / len(times)
    return x


ANSWERS["mend-loop"] = Answers(
    right=[_mended_loop, _mended_loop_in_two_calls],
    wrong={
        "as it stands": (_as_it_stands, "as it stands"),
        "one step short": (_one_step_short, "k + 1 steps"),
        "halves swapped": (_away_from_the_prompt, "away from the prompt"),
        "the identity first": (_identity_first, "other way round"),
        "one latent for both": (_one_latent, "both halves need the latent"),
    },
)


# ---------------------------------------------------------------------------------------- own-loop


def _looped(x, times, states, predict, guide, ask, rescale, *, order=(0, 1), after=None):
    """``ask(i, t)``: text alone?  ``rescale(guided, pred)``; ``after(x, pred)``: done to the latent."""
    nothing, text, identity = states
    for i, t in enumerate(times):
        halves = nothing, text if ask(i, t) else identity
        pred = predict(torch.cat([x, x]), t, torch.cat([halves[j] for j in order]))
        x = x - rescale(guide(pred), pred) / len(times)
        x = after(x, pred) if after else x
    return x


def _own_loop(x, times, states, predict, k, scale, amount, guide, alone, rescale):
    nothing, text, identity = states
    for step, t in enumerate(times):
        told = text if alone(step, k) else identity
        pred = predict(torch.cat([x, x]), t, torch.cat([nothing, told]))
        guided = rescale(guide(pred, scale), pred.chunk(2)[1], amount)
        x = x - guided / len(times)
    return x


def _own_loop_parts_first(x, times, states, predict, k, scale, amount, guide, alone, rescale):
    plan = [1 if alone(i, k) else 2 for i in range(len(times))]
    both = [torch.cat([states[0], states[which]]) for which in plan]
    for t, prompts in zip(times, both, strict=True):
        pred = predict(x.repeat(2, 1, 1, 1), t, prompts)
        x = x - rescale(guide(pred, scale), pred[len(x) :], amount) / len(both)
    return x


def _never_rescaled(x, times, states, predict, k, scale, amount, guide, alone, rescale):
    def asks(i, t):
        return alone(i, k)

    return _looped(x, times, states, predict, lambda p: guide(p, scale), asks, lambda g, p: g)


def _spread_of_nothing(x, times, states, predict, k, scale, amount, guide, alone, rescale):
    def spread(guided, pred):
        return rescale(guided, pred[: len(x)], amount)

    return _looped(x, times, states, predict, lambda p: guide(p, scale), lambda i, t: alone(i, k), spread)


def _latent_rescaled(x, times, states, predict, k, scale, amount, guide, alone, rescale):
    def after(x, pred):
        return rescale(x, pred[len(x) :], amount)

    args = x, times, states, predict, lambda p: guide(p, scale), lambda i, t: alone(i, k), lambda g, p: g
    return _looped(*args, after=after)


def _with_rescale(x, times, states, predict, scale, amount, guide, rescale, ask, order=(0, 1)):
    def spread(guided, pred):
        return rescale(guided, pred[len(x) :], amount)

    return _looped(x, times, states, predict, lambda p: guide(p, scale), ask, spread, order=order)


def _identity_first_of_all(x, times, states, predict, k, scale, amount, guide, alone, rescale):
    return _with_rescale(
        x, times, states, predict, scale, amount, guide, rescale, lambda i, t: not alone(i, k)
    )


def _halves_the_other_way(x, times, states, predict, k, scale, amount, guide, alone, rescale):
    return _with_rescale(
        x, times, states, predict, scale, amount, guide, rescale, lambda i, t: alone(i, k), order=(1, 0)
    )


def _asked_by_time(x, times, states, predict, k, scale, amount, guide, alone, rescale):
    return _with_rescale(x, times, states, predict, scale, amount, guide, rescale, lambda i, t: alone(t, k))


def _latents_once(x, times, states, predict, k, scale, amount, guide, alone, rescale):
    return x - guide(predict(x, times[0], torch.cat(states[:2])), scale) / len(times)


ANSWERS["own-loop"] = Answers(
    right=[_own_loop, _own_loop_parts_first],
    wrong={
        "not rescaled": (_never_rescaled, "Nothing is rescaled"),
        "the spread of the other half": (_spread_of_nothing, "without the prompt"),
        "the latent rescaled": (_latent_rescaled, "after the step"),
        "identity first": (_identity_first_of_all, "the text while `alone` is true"),
        "halves swapped": (_halves_the_other_way, "went in first"),
        "asked with the time": (_asked_by_time, "not its time"),
        "one latent for both halves": (_latents_once, "both halves need"),
    },
)
