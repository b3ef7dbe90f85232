"""Answers to the exercises of chapter 03, ID fusion."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from . import ANSWERS, Answers

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


ANSWERS["fuse"] = Answers(
    right=[_fuse, _fuse_in_place],
    wrong={
        "class token not added": (_no_token_added, "added to what mlp1"),
        "picture before token": (_order_swapped, "comes first"),
        "no final norm": (_no_norm, "last norm"),
        "residual twice": (_second_residual_twice, "already adds"),
    },
)


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


ANSWERS["place-identity"] = Answers(
    right=[_place, _place_by_scatter],
    wrong={
        "the prompt is edited": (_place_in_place, "changed the prompt"),
        "one mean for all": (_one_for_all, "of its own"),
        "added instead of replaced": (_added, "replaced"),
        "fused into the padding": (_into_padding, "padding"),
        "order turned": (_backwards, "k-th"),
    },
)


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


ANSWERS["embed"] = Answers(
    right=[_embed, _embed_linear],
    wrong={
        "projections swapped": (_second_first, "first projection comes first"),
        "an axis too few": (_no_axis, "one token"),
        "pictures averaged": (_mean_of_pictures, "average"),
    },
)


# ---------------------------------------------------------------------------------------- identity-prompts


def _identity_prompts(states, pictures, masks, fuse):
    out = states.clone()
    for b, mask in enumerate(masks):
        out[b, mask] = fuse(states[b, mask], pictures[b])
    return out


def _identity_prompts_by_rows(states, pictures, masks, fuse):
    done = []
    for prompt, shown, mask in zip(states, pictures, masks, strict=True):
        done.append(_place(prompt, fuse(prompt[mask], shown), mask))
    return torch.stack(done)


def _no_copy(states, pictures, masks, fuse):
    for b in range(len(states)):
        states[b, masks[0]] = fuse(states[b, masks[b]], pictures[b])
    return states


def _first_mask(states, pictures, masks, fuse):
    out = states.clone()
    for b in range(len(states)):
        out[b, masks[0]] = fuse(states[b, masks[b]], pictures[b])
    return out


def _first_pictures(states, pictures, masks, fuse):
    out = states.clone()
    for b, mask in enumerate(masks):
        out[b, mask] = fuse(states[b, mask], pictures[0])
    return out


def _whole_prompt(states, pictures, masks, fuse):
    return torch.stack([fuse(s, p[:1].expand_as(s)) for s, p in zip(states, pictures, strict=True)])


ANSWERS["identity-prompts"] = Answers(
    right=[_identity_prompts, _identity_prompts_by_rows],
    wrong={
        "as it stands": (_no_copy, "no copy"),
        "the mask of the first prompt": (_first_mask, "places of the first prompt"),
        "the pictures of the first prompt": (_first_pictures, "pictures of the first one"),
        "the whole prompt fused": (_whole_prompt, "only the class tokens"),
    },
)


# ---------------------------------------------------------------------------------------- whole-path


def _whole_path(states, mask, pooled, projections, parts, embed, fuse, place):
    pictures = embed(pooled, *projections)[0, :, 0]  # [n, D]
    return place(states, fuse(states[mask], pictures, *parts), mask)


def _whole_path_by_index(states, mask, pooled, projections, parts, embed, fuse, place):
    first, second = projections
    where = mask.nonzero()[:, 0]
    pictures = embed(pooled, first, second).flatten(0, 2)
    return place(states, fuse(states.index_select(0, where), pictures, *parts), mask)


def _nothing_fused(states, mask, pooled, projections, parts, embed, fuse, place):
    return place(states, embed(pooled, *projections)[0, :, 0], mask)


def _first_places(states, mask, pooled, projections, parts, embed, fuse, place):
    pictures = embed(pooled, *projections)[0, :, 0]
    return place(states, fuse(states[: len(pictures)], pictures, *parts), mask)


def _fused_with_the_mean(states, mask, pooled, projections, parts, embed, fuse, place):
    pictures = embed(pooled, *projections)[0, :, 0]
    return place(states, fuse(states[mask], pictures.mean(0).expand_as(pictures), *parts), mask)


def _asked_the_wrong_way(states, mask, pooled, projections, parts, embed, fuse, place):
    return place(states, fuse(embed(pooled, *projections)[0, :, 0], states[mask], *parts), mask)


def _fused_after_placing(states, mask, pooled, projections, parts, embed, fuse, place):
    pictures = embed(pooled, *projections)[0, :, 0]
    placed = place(states, pictures, mask)
    return place(states, fuse(placed[mask], pictures, *parts), mask)


ANSWERS["whole-path"] = Answers(
    right=[_whole_path, _whole_path_by_index],
    wrong={
        "nothing fused": (_nothing_fused, "have to be fused"),
        "the first tokens": (_first_places, "that the mask marks"),
        "fused with the mean": (_fused_with_the_mean, "mean of the pictures"),
        "token and picture swapped": (_asked_the_wrong_way, "class tokens first"),
        "placed before fused": (_fused_after_placing, "gone by then"),
    },
)
