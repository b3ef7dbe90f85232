"""Exercises of chapter 03, ID fusion."""

from __future__ import annotations

import torch

from storydiff_lite.identity import FuseModule

from . import exercise, expect, expect_no_mistake, expect_tensor, generator, records, same

known = records("chapter_03")


def _module(seed=0, width=8):
    with torch.random.fork_rng():  # its own beginnings are drawn, and overwritten
        fuse = FuseModule(width).double().requires_grad_(False)
    g = generator(seed)
    for p in fuse.parameters():  # the norms too, so that they do something
        p.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    return fuse


def _tokens(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------- fuse


@exercise("fuse")
def fuse(answer):
    """``answer(token, picture, mlp1, mlp2, norm) -> fused``, all [T, D]; mlp2 has its residual inside."""
    net = _module()
    args = _tokens(1, 3, 8), _tokens(2, 3, 8)
    parts = net.mlp1, net.mlp2, net.layer_norm
    got = answer(*(a.clone() for a in args), *parts)
    expect_tensor(got, (3, 8))
    expect(
        not same(got, known.no_token_added(*args, *parts)),
        "The class token is added to what mlp1 gives (Eq. 1).",
    )
    expect(
        not same(got, known.order_swapped(*args, *parts)), "In the concatenation the class token comes first."
    )
    expect(not same(got, known.no_norm(*args, *parts)), "The last norm is missing.")
    expect(
        not same(got, known.second_residual_twice(*args, *parts)),
        "mlp2 already adds its input; adding it again counts it twice.",
    )
    expect(same(got, known.fuse(*args, *parts)), "Some number differs.")


# ---------------------------------------------------------------------------------------- place-identity


@exercise("place-identity")
def place_identity(answer):
    """``answer(states [S, D], fused [n, D], mask [S]) -> [S, D]``; what came in stays as it was."""
    states, fused = _tokens(3, 9, 4), _tokens(4, 3, 4)
    mask = torch.zeros(9, dtype=torch.bool)
    mask[2:5] = True
    given = states.clone()
    got = answer(given, fused.clone(), mask.clone())
    expect_tensor(got, (9, 4))
    expect(same(given, states), "You changed the prompt that came in; the caller still needs it as it was.")
    wrong = {
        "one_for_all": "Every class token gets a picture of its own, not the mean of all.",
        "added": "The class tokens are replaced, not added to.",
        "into_padding": "The identity is at the end, in the padding; the mask says where it belongs.",
        "backwards": "The k-th class token gets the k-th picture, in order.",
    }
    expect_no_mistake(got, known, (states, fused, mask), wrong)
    expect(same(got, known.place(states, fused, mask)), "Some token differs.")


# ---------------------------------------------------------------------------------------- embed


@exercise("embed")
def embed(answer):
    """``answer(pooled [B, n, H], first [D1, H], second [D2, H]) -> [B, n, 1, D1 + D2]``."""
    args = _tokens(5, 2, 3, 6), _tokens(6, 4, 6), _tokens(7, 7, 6)
    got = answer(*(a.clone() for a in args))
    expect(
        not (isinstance(got, torch.Tensor) and got.shape == (2, 3, 11)),
        "An axis is missing: each picture becomes one token, [B, n, 1, D].",
    )
    expect_tensor(got, (2, 3, 1, 11))
    wrong = {
        "second_first": "The first projection comes first, as the first text encoder's states do.",
        "mean_of_pictures": "The pictures stay apart: do not average them.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.embed(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- identity-prompts


@exercise("identity-prompts")
def identity_prompts(answer):
    """``answer(states [B, S, D], pictures [B, n, D], masks [B, S], fuse) -> [B, S, D]``, a new tensor."""
    states = torch.randn(3, 7, 4, generator=generator(11), dtype=torch.float64)
    pictures = torch.randn(3, 2, 4, generator=generator(12), dtype=torch.float64)
    masks = torch.zeros(3, 7, dtype=torch.bool)
    for prompt, place in enumerate((1, 4, 2)):
        masks[prompt, place : place + 2] = True

    def fuse(tokens, pictures):
        return torch.tanh(tokens) + 2 * pictures

    given = states.clone()
    got = answer(given, pictures.clone(), masks.clone(), fuse)
    expect_tensor(got, (3, 7, 4))
    args = states, pictures, masks, fuse
    expect(
        same(given, states),
        "The states that were given have changed: a second name for a tensor is no copy. The first steps "
        "still read them.",
    )
    wrong = {
        "first_mask": "Every prompt got its identity at the places of the first prompt: use the mask of "
        "each.",
        "first_pictures": "Every prompt got the pictures of the first one: use those of each.",
        "whole_prompt": "All places were fused or overwritten; only the class tokens take an identity.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.identity_prompts(*args)), "Some number differs.")


# ---------------------------------------------------------------------------------------- whole-path


@exercise("whole-path", builds_on={"embed": "embed", "fuse": "fuse", "place-identity": "place"})
def whole_path(answer, embed, fuse, place):
    """``answer(states [S, D], mask, pooled [1, n, H], projections, parts, embed, fuse, place) -> [S, D]``."""
    net = _module(2)
    states, pooled = _tokens(21, 7, 8), _tokens(22, 1, 3, 6)
    projections = _tokens(23, 3, 6), _tokens(24, 5, 6)
    mask = torch.zeros(7, dtype=torch.bool)
    mask[2:5] = True
    parts = net.mlp1, net.mlp2, net.layer_norm
    given = states.clone()
    got = answer(given, mask.clone(), pooled.clone(), projections, parts, embed, fuse, place)
    expect_tensor(got, (7, 8))
    expect(same(given, states), "The states that were given have changed: the first steps still read them.")
    args = states, mask, pooled, projections, parts, embed, fuse, place
    wrong = {
        "nothing_fused": "The embeddings went into the prompt as they are: the class tokens have to be fused "
        "with them first.",
        "first_places": "You fused the first tokens of the prompt. The class tokens are those that the mask "
        "marks.",
        "fused_with_the_mean": "Every class token was fused with the mean of the pictures; each has a "
        "picture of "
        "its own.",
        "asked_the_wrong_way": "Token and picture are swapped: `fuse` takes the class tokens first.",
        "fused_after_placing": "You put the embeddings in their place and then fused what stands there: the "
        "class tokens were gone by then.",
    }
    expect_no_mistake(got, known, args, wrong)
    expect(same(got, known.whole_path(*args)), "Some number differs.")
