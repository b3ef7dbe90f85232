"""Exercises of chapter 03, ID fusion."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..identity import FuseModule
from . import exercise, expect, expect_tensor, same


def _module(seed=0, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fuse = FuseModule(width).double().requires_grad_(False)
        for p in fuse.parameters():  # norms that do something
            p.add_(0.1 * torch.randn_like(p))
    return fuse


def _tokens(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------- fuse


def _fuse(token, picture, mlp1, mlp2, norm):
    x = mlp1(torch.cat([token, picture], -1)) + token
    return norm(mlp2(x))


def _fuse_in_place(token, picture, mlp1, mlp2, norm):
    x = mlp1(torch.cat((token, picture), dim=token.ndim - 1))
    x += token
    return norm(mlp2(x))


def _no_token_added(token, picture, mlp1, mlp2, norm):
    return norm(mlp2(mlp1(torch.cat([token, picture], -1))))


def _order_swapped(token, picture, mlp1, mlp2, norm):
    return norm(mlp2(mlp1(torch.cat([picture, token], -1)) + token))


def _no_norm(token, picture, mlp1, mlp2, norm):
    return mlp2(mlp1(torch.cat([token, picture], -1)) + token)


def _second_residual_twice(token, picture, mlp1, mlp2, norm):
    x = mlp1(torch.cat([token, picture], -1)) + token
    return norm(mlp2(x) + x)


@exercise(
    "fuse",
    right=[_fuse, _fuse_in_place],
    wrong={
        "class token not added": (_no_token_added, "added to what mlp1"),
        "picture before token": (_order_swapped, "comes first"),
        "no final norm": (_no_norm, "last norm"),
        "residual twice": (_second_residual_twice, "already adds"),
    },
)
def fuse(answer):
    """``answer(token, picture, mlp1, mlp2, norm) -> fused``, all [T, D]; mlp2 has its residual inside."""
    net = _module()
    args = _tokens(1, 3, 8), _tokens(2, 3, 8)
    parts = net.mlp1, net.mlp2, net.layer_norm
    got = answer(*(a.clone() for a in args), *parts)
    expect_tensor(got, (3, 8))
    expect(
        not same(got, _no_token_added(*args, *parts)), "The class token is added to what mlp1 gives (Eq. 1)."
    )
    expect(not same(got, _order_swapped(*args, *parts)), "In the concatenation the class token comes first.")
    expect(not same(got, _no_norm(*args, *parts)), "The last norm is missing.")
    expect(
        not same(got, _second_residual_twice(*args, *parts)),
        "mlp2 already adds its input; adding it again counts it twice.",
    )
    expect(same(got, _fuse(*args, *parts)), "Some number differs.")


# ---------------------------------------------------------------------------------------- place-identity


def _place(states, fused, mask):
    out = states.clone()
    out[mask] = fused
    return out


def _place_by_scatter(states, fused, mask):
    where = mask.nonzero()[:, 0]
    return states.index_copy(0, where, fused)


def _place_in_place(states, fused, mask):
    states[mask] = fused
    return states


def _one_for_all(states, fused, mask):
    out = states.clone()
    out[mask] = fused.mean(0)
    return out


def _added(states, fused, mask):
    out = states.clone()
    out[mask] += fused
    return out


def _into_padding(states, fused, mask):
    out = states.clone()
    out[-len(fused) :] = fused
    return out


def _backwards(states, fused, mask):
    return _place(states, fused.flip(0), mask)


@exercise(
    "place-identity",
    right=[_place, _place_by_scatter],
    wrong={
        "the prompt is edited": (_place_in_place, "changed the prompt"),
        "one mean for all": (_one_for_all, "of its own"),
        "added instead of replaced": (_added, "replaced"),
        "fused into the padding": (_into_padding, "padding"),
        "order turned": (_backwards, "k-th"),
    },
)
def place_identity(answer):
    """``answer(states [S, D], fused [n, D], mask [S]) -> [S, D]``; what came in stays as it was."""
    states, fused = _tokens(3, 9, 4), _tokens(4, 3, 4)
    mask = torch.zeros(9, dtype=torch.bool)
    mask[2:5] = True
    given = states.clone()
    got = answer(given, fused.clone(), mask.clone())
    expect_tensor(got, (9, 4))
    expect(same(given, states), "You changed the prompt that came in; whoever uses it next has a surprise.")
    expect(
        not same(got, _one_for_all(states, fused, mask)),
        "Every class token gets a picture of its own, not the mean of all.",
    )
    expect(not same(got, _added(states, fused, mask)), "The class tokens are replaced, not added to.")
    expect(
        not same(got, _into_padding(states, fused, mask)),
        "The identity is at the end, in the padding; the mask says where it belongs.",
    )
    expect(
        not same(got, _backwards(states, fused, mask)),
        "The k-th class token gets the k-th picture, in order.",
    )
    expect(same(got, _place(states, fused, mask)), "Some token differs.")


# ---------------------------------------------------------------------------------------- embed


def _embed(pooled, first, second):
    return torch.cat([pooled @ first.T, pooled @ second.T], -1)[:, :, None]


def _embed_linear(pooled, first, second):
    return F.linear(pooled, torch.cat([first, second])).unsqueeze(2)


def _second_first(pooled, first, second):
    return torch.cat([pooled @ second.T, pooled @ first.T], -1)[:, :, None]


def _no_axis(pooled, first, second):
    return torch.cat([pooled @ first.T, pooled @ second.T], -1)


def _mean_of_pictures(pooled, first, second):
    return _embed(pooled.mean(1, keepdim=True).expand_as(pooled), first, second)


@exercise(
    "embed",
    right=[_embed, _embed_linear],
    wrong={
        "projections swapped": (_second_first, "first projection comes first"),
        "an axis too few": (_no_axis, "one token"),
        "pictures averaged": (_mean_of_pictures, "average"),
    },
)
def embed(answer):
    """``answer(pooled [B, n, H], first [D1, H], second [D2, H]) -> [B, n, 1, D1 + D2]``."""
    args = _tokens(5, 2, 3, 6), _tokens(6, 4, 6), _tokens(7, 7, 6)
    got = answer(*(a.clone() for a in args))
    expect(
        not (isinstance(got, torch.Tensor) and got.shape == (2, 3, 11)),
        "An axis is missing: each picture becomes one token, [B, n, 1, D].",
    )
    expect_tensor(got, (2, 3, 1, 11))
    expect(
        not same(got, _second_first(*args)),
        "The first projection comes first, as the first text encoder's states do.",
    )
    expect(not same(got, _mean_of_pictures(*args)), "The pictures stay apart: do not average them.")
    expect(same(got, _embed(*args)), "Some number differs.")
