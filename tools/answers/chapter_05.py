"""Answers to the exercises of chapter 05, consistent self-attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from . import ANSWERS, Answers


def _softmax_read(q, keys, values, scale):
    return (q @ keys.T * scale).softmax(-1) @ values


# ---------------------------------------------------------------------------------------- consistent


def _consistent(q, k, v, picks, own=1, scale=None, whose=None):
    """[F, N, d]; ``own`` times the own tokens; ``whose(i, j)``: whose picks are taken of panel j."""
    scale = q.shape[2] ** -0.5 if scale is None else scale
    panels = []
    for i in range(len(q)):
        theirs = [(j, picks[whose(i, j) if whose else j]) for j in range(len(q)) if j != i]
        if own == 2:  # all panels are sampled, the own one too
            theirs.append((i, picks[i]))
        mine = [(i, torch.arange(q.shape[1]))] if own else []
        keys, values = (torch.cat([t[j][p] for j, p in mine + theirs]) for t in (k, v))
        panels.append(_softmax_read(q[i], keys, values, scale))
    return torch.stack(panels)


def _consistent_by_mask(q, k, v, picks):
    f, n, d = q.shape
    may = torch.zeros(f, f * n, dtype=torch.bool)
    for j, p in enumerate(picks):
        may[:, j * n + torch.as_tensor(p)] = True
        may[j, j * n : (j + 1) * n] = True
    pool = [t.reshape(1, f * n, d).expand(f, -1, -1) for t in (k, v)]
    return F.scaled_dot_product_attention(q, *pool, attn_mask=may[:, None].expand(f, n, f * n))


def _own_dropped(q, k, v, picks):
    return _consistent(q, k, v, picks, own=0)


def _own_twice(q, k, v, picks):
    return _consistent(q, k, v, picks, own=2)


def _no_scale(q, k, v, picks):
    return _consistent(q, k, v, picks, scale=1.0)


def _picks_of_the_reader(q, k, v, picks):
    return _consistent(q, k, v, picks, whose=lambda i, j: i)


def _plain(q, k, v, picks):
    return F.scaled_dot_product_attention(q, k, v)


ANSWERS["consistent"] = Answers(
    right=[_consistent, _consistent_by_mask],
    wrong={
        "own tokens dropped": (_own_dropped, "own tokens are missing"),
        "own tokens twice": (_own_twice, "twice"),
        "missing scale": (_no_scale, "square root"),
        "the reader's picks": (_picks_of_the_reader, "picks[j]"),
        "reads nobody else": (_plain, "plain self-attention"),
    },
)


# ---------------------------------------------------------------------------------------- draw-picks


def _draw(panels, tokens, rate, generator):
    order = torch.rand(panels, tokens, generator=generator)
    return order.topk(round(rate * tokens), dim=1).indices


def _draw_by_permutation(panels, tokens, rate, generator):
    k = round(rate * tokens)
    return torch.stack([torch.randperm(tokens, generator=generator)[:k].sort().values for _ in range(panels)])


def _with_repeats(panels, tokens, rate, generator):
    return torch.randint(tokens, (panels, round(rate * tokens)), generator=generator)


def _one_for_all(panels, tokens, rate, generator):
    return _draw(1, tokens, rate, generator).expand(panels, -1)


def _always_the_first(panels, tokens, rate, generator):
    return torch.arange(round(rate * tokens)).expand(panels, -1)


def _generator_ignored(panels, tokens, rate, generator):
    return _draw(panels, tokens, rate, torch.Generator().manual_seed(0))


def _fresh_per_head(panels, tokens, rate, generator, heads=2):
    return torch.stack([_draw(panels, tokens, rate, generator) for _ in range(heads)])


def _coin_for_each(panels, tokens, rate, generator):
    return torch.rand(panels, tokens, generator=generator) < rate


ANSWERS["draw-picks"] = Answers(
    right=[_draw, _draw_by_permutation],
    wrong={
        "drawn with repeats": (_with_repeats, "more than once"),
        "one draw for all panels": (_one_for_all, "each panel"),
        "always the first tokens": (_always_the_first, "random"),
        "generator ignored": (_generator_ignored, "second call"),
        "fresh picks per head": (_fresh_per_head, "All heads read"),
        "a coin for each token": (_coin_for_each, "indices"),
    },
)


# ---------------------------------------------------------------------------------------- both-halves


def _both_halves(x, attend):
    return torch.cat([attend(half) for half in x.chunk(2)])


def _both_halves_in_place(x, attend):
    f = len(x) // 2
    result = torch.empty_like(x)
    result[:f], result[f:] = attend(x[:f]), attend(x[f:])
    return result


def _halves_mixed(x, attend):
    return attend(x)


def _halves_interleaved(x, attend):
    result = torch.empty_like(x)
    result[0::2], result[1::2] = attend(x[0::2]), attend(x[1::2])
    return result


def _halves_swapped(x, attend):
    return torch.cat([attend(half) for half in reversed(x.chunk(2))])


def _one_half_only(x, attend):
    f = len(x) // 2
    return torch.cat([x[:f], attend(x[f:])])


ANSWERS["both-halves"] = Answers(
    right=[_both_halves, _both_halves_in_place],
    wrong={
        "halves mixed": (_halves_mixed, "apart"),
        "panel by panel": (_halves_interleaved, "holds first all unconditional"),
        "halves swapped": (_halves_swapped, "order"),
        "conditional half only": (_one_half_only, "unconditional half was left"),
    },
)


# ---------------------------------------------------------------------------------------- own-share


def _own_share(weights, again):
    n = len(weights)  # a panel has as many tokens as queries
    own, twice = weights[:, :n].sum(1), weights[:, again].sum(1)
    return ((own + twice) / (1 + twice)).mean()


def _own_share_by_logits(weights, again):
    n = len(weights)
    scores = weights.log()
    longer = torch.cat([scores, scores[:, again]], 1).softmax(1)  # the pool, the tokens again at its end
    return longer[:, :n].sum(1).mean() + longer[:, weights.shape[1] :].sum(1).mean()


def _not_normalised(weights, again):
    n = len(weights)
    return (weights[:, :n].sum(1) + weights[:, again].sum(1)).mean()


def _as_if_once(weights, again):
    return weights[:, : len(weights)].sum(1).mean()


def _all_own_twice(weights, again):
    return _own_share(weights, torch.arange(len(weights)))


def _first_copy_only(weights, again):
    n = len(weights)
    return (weights[:, :n].sum(1) / (1 + weights[:, again].sum(1))).mean()


ANSWERS["own-share"] = Answers(
    right=[_own_share, _own_share_by_logits],
    wrong={
        "not normalised": (_not_normalised, "sum to 1"),
        "as if read once": (_as_if_once, "before"),
        "all own tokens twice": (_all_own_twice, "only those in `again`"),
        "the copies left out": (_first_copy_only, "copies"),
    },
)


# ---------------------------------------------------------------------------------------- mend-sharing


def _split(t, heads):
    """[F, N, C] -> [h, F, N, d]"""
    return t.unflatten(2, (heads, -1)).movedim(2, 0)


def _split_wrongly(t, heads):
    return t.unflatten(2, (-1, heads)).movedim(3, 0)


def _sharing(q, k, v, picks, heads, one_head, *, split=_split, halves=2, join=None):
    """``halves`` 1: all panels are one story; ``join``: heads [h, F, N, d] -> [F, N, C]."""
    done = []
    for part in zip(*(t.chunk(halves) for t in (q, k, v)), strict=True):
        all_heads = zip(*(split(t, heads) for t in part), strict=True)
        found = torch.stack([one_head(*one, picks * (2 // halves)) for one in all_heads])
        done.append(join(found) if join else torch.cat(list(found), -1))
    return torch.cat(done)


def _mended_sharing(q, k, v, picks, heads, one_head):
    return _sharing(q, k, v, picks, heads, one_head)


def _mended_sharing_by_channels(q, k, v, picks, heads, one_head):
    result, d, f = torch.empty_like(q), q.shape[2] // heads, len(picks)
    for first in (0, f):
        for head in range(heads):
            here = slice(first, first + f), slice(None), slice(head * d, (head + 1) * d)
            result[here] = one_head(q[here], k[here], v[here], picks)
    return result


def _as_it_stands(q, k, v, picks, heads, one_head):
    return _sharing(q, k, v, picks, heads, one_head, split=_split_wrongly, halves=1)


def _six_panels(q, k, v, picks, heads, one_head):
    return _sharing(q, k, v, picks, heads, one_head, halves=1)


def _every_second_channel(q, k, v, picks, heads, one_head):
    return _sharing(q, k, v, picks, heads, one_head, split=_split_wrongly)


def _one_head(q, k, v, picks, heads, one_head):
    return _sharing(q, k, v, picks, 1, one_head)


def _heads_back_wrongly(q, k, v, picks, heads, one_head):
    return _sharing(q, k, v, picks, heads, one_head, join=lambda found: found.movedim(0, 3).flatten(2))


def _halves_back_wrongly(q, k, v, picks, heads, one_head):
    return _sharing(q, k, v, picks, heads, one_head).roll(len(picks), 0)


ANSWERS["mend-sharing"] = Answers(
    right=[_mended_sharing, _mended_sharing_by_channels],
    wrong={
        "as it stands": (_as_it_stands, "as it stands"),
        "halves still mixed": (_six_panels, "own half are its others"),
        "channels still mixed": (_every_second_channel, "every second channel"),
        "one head": (_one_head, "its own softmax"),
        "heads joined in another order": (_heads_back_wrongly, "other channels"),
        "halves in the other order": (_halves_back_wrongly, "without prompts first"),
    },
)


# ---------------------------------------------------------------------------------------- plan-noise


def _planned(pilot, smallest, spread_of, names=("up blocks", "up blocks, one noise")):
    a, b = (pilot[n].double() for n in names)
    half = 1.96 * float((b - a).std()) / len(a) ** 0.5
    mean = float((b - a).mean())
    verdict = "more" if mean - half > 0 else "less" if mean + half < 0 else "not shown"
    return *names, math.ceil((1.96 * float(spread_of(a, b)) / smallest) ** 2), verdict


def _plan_noise(pilot, smallest):
    return _planned(pilot, smallest, lambda a, b: (b - a).std())


def _plan_noise_by_hand(pilot, smallest):
    names = ["up blocks", "up blocks, one noise"]
    d = [float(y - x) for x, y in zip(*(pilot[n] for n in names), strict=True)]
    mean = sum(d) / len(d)
    s = math.sqrt(sum((x - mean) ** 2 for x in d) / (len(d) - 1))
    n = 1
    while 1.96 * s / math.sqrt(n) > smallest:
        n += 1
    low, high = (mean + sign * 1.96 * s / math.sqrt(len(d)) for sign in (-1, 1))
    return [*names, n, "not shown" if low <= 0 <= high else "more" if low > 0 else "less"]


def _unpaired(pilot, smallest):
    return _planned(pilot, smallest, lambda a, b: (a.var() + b.var()).sqrt())


def _two_factors(pilot, smallest):
    return _planned(pilot, smallest, lambda a, b: (b - a).std(), ("none", "up blocks, one noise"))


def _without_sharing(pilot, smallest):
    return _planned(pilot, smallest, lambda a, b: (b - a).std(), ("none", "none, one noise"))


def _of_the_pilot(pilot, smallest):
    first, second, _, verdict = _plan_noise(pilot, smallest)
    return first, second, len(pilot[first]), verdict


def _by_the_mean(pilot, smallest):
    first, second, stories, _ = _plan_noise(pilot, smallest)
    return first, second, stories, "more" if (pilot[second] - pilot[first]).mean() > 0 else "less"


ANSWERS["plan-noise"] = Answers(
    right=[_plan_noise, _plan_noise_by_hand],
    wrong={
        "sharing and noise at once": (_two_factors, "nobody could say"),
        "without sharing": (_without_sharing, "adds on top of sharing"),
        "two samples": (_unpaired, "story by story"),
        "as many as the pilot": (_of_the_pilot, "how many stories the pilot has"),
        "the mean alone": (_by_the_mean, "the mean alone"),
    },
)
