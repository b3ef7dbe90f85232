"""Where is the character in this frame? Found by trying on its own drawings, and checked against the truth.

A frame of a known clip is explained best by one of the character's own poses, put somewhere: all poses of
the clip (`Bank`) are tried at every place, and the one that lowers the squared difference to the frame most,
against the empty scene, is taken. Its joints, moved with it, are where the character *is*; where they should
be is known. A ghost at half strength is found where it stands, not in the middle between two ghosts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from .. import world

#: pixels of the frames that are looked at, like the judge's: twice as many take seven times as long and find
#: true frames no better
SIZE = 64
#: joints that are compared
PARTS = ("hip", "body", "head", "hand_l", "hand_r", "foot_l", "foot_r")
#: how far from its own place a pose is tried, in picture heights
REACH = 0.6
#: parts of an actor that are not the character
NOT = ("shadow", "prop")


@dataclass
class Bank:
    """One actor of a clip or a passage, cut out of each of its frames.

    Parameters
    ----------
    masks : float Tensor [K, S, S]
    colours : float Tensor [K, 3, S, S]
        0..1, zero outside of the mask.
    joints : float Tensor [K, J, 2]
        In picture heights.
    scenes : float Tensor [K, 3, S, S]
        The true frames without this actor.
    """

    masks: torch.Tensor
    colours: torch.Tensor
    joints: torch.Tensor
    scenes: torch.Tensor


def cut_out(transition, actor=0, frames=16, size=SIZE) -> dict[str, np.ndarray]:
    """An actor, out of all frames of its clip or passage: what a `Bank` holds, as arrays."""
    out = {"masks": [], "colours": [], "joints": [], "scenes": []}
    for i in range(frames):
        single, drawn, others = _apart(transition, actor, i / (frames - 1), size)
        mask = np.zeros((size, size), bool)
        for name, m in world.masks(single, size).items():
            if name[0].isdigit() and name.split(".")[1] not in NOT:
                mask |= m
        at = world.joints(single)
        out["masks"].append(mask)
        out["colours"].append(_values(drawn) * mask)
        out["joints"].append([at[f"0.{p}"] for p in PARTS])
        out["scenes"].append(_values(others))
    return {k: np.array(v, np.float32) for k, v in out.items()}


def _apart(transition, k, t, size):
    """At time ``t``: the actor number k alone, as a `world.Picture` and drawn; all but that actor, drawn."""
    if isinstance(transition, world.PanelTransition):  # two scenes, one of which dissolves into the other
        actors, last = transition.actors(t), transition.last
        single = world.Picture(last.scene, (actors[k],), last.seed)
        return single, *(transition.image(t, size, a) for a in ((actors[k],), actors[:k] + actors[k + 1 :]))
    picture = transition.picture(t)
    actors = picture.actors
    single, others = (replace(picture, actors=a) for a in ((actors[k],), actors[:k] + actors[k + 1 :]))
    return single, world.render(single, size), world.render(others, size)


def _values(image):
    """A PIL picture as [3, S, S] of 0..1."""
    return np.asarray(image).transpose(2, 0, 1) / 255


def characters(transition) -> tuple[world.Character, ...]:
    """Who is in a clip or a passage, in the order in which `cut_out` counts them."""
    if isinstance(transition, world.PanelTransition):
        return tuple(actor.character for actor, _ in transition.ways())
    return transition.actors


def cut_out_all(transition, frames=16, size=SIZE) -> list[dict[str, np.ndarray]]:
    """`cut_out` of everybody in a clip or a passage."""
    return [cut_out(transition, k, frames, size) for k in range(len(characters(transition)))]


def as_bank(arrays) -> Bank:
    """Arrays of `cut_out` as tensors."""
    return Bank(**{k: torch.from_numpy(v) for k, v in arrays.items()})


def banks(transition, frames=16, size=SIZE) -> list[Bank]:
    """A `Bank` for everybody in a clip or a passage, in the order of `characters`."""
    return [as_bank(arrays) for arrays in cut_out_all(transition, frames, size)]


@torch.no_grad()
def find(video, bank: Bank, without_own=False):
    """Joints of the actor in every frame.

    Parameters
    ----------
    video : Tensor [..., F, 3, H, W]
        0..1, as many frames as the bank has scenes; shrunk to the size of these where they are larger.
    bank : Bank
        Its tensors may have the same leading axes (`stacked`).
    without_own : bool
        Leave out of the bank, for each frame, the pose of that frame itself: how fine the finder is.

    Returns
    -------
    Tensor [..., F, J, 2]
        In picture heights.
    """
    b = bank.scenes.to(video.device)
    size = b.shape[-1]
    f = F.adaptive_avg_pool2d(video.float().flatten(0, -4), size).unflatten(0, video.shape[:-3])
    m, c = bank.masks.to(video.device), bank.colours.to(video.device)
    wide = (2 * size, 2 * size)

    def spectrum(x):
        return torch.fft.rfft2(x, s=wide)

    # sum over the pose's pixels of |f - c|^2 - |f - b|^2, for every shift of the pose, by correlation
    plain = (2 * f * b - b.square()).sum(-3)  # |f|^2 - |f - b|^2, [..., F, S, S]
    score = spectrum(plain)[..., :, None, :, :] * spectrum(m).conj()[..., None, :, :, :]  # [..., F, K, ...]
    score = score - 2 * torch.einsum("...fcxy,...kcxy->...fkxy", spectrum(f), spectrum(c).conj())
    score = torch.fft.irfft2(score, s=wide)  # [..., F, K, 2S, 2S]
    score = score + c.square().sum((-3, -2, -1))[..., None, :, None, None]
    shift = torch.fft.fftfreq(2 * size, 1 / (2 * size), device=video.device).round()  # 0, 1, ..., -1
    far = shift.abs() > REACH * size
    score = score.masked_fill(far[:, None] | far, float("inf"))
    if without_own:
        own = torch.eye(score.shape[-3], dtype=torch.bool, device=video.device)
        score = score.masked_fill(own[:, :, None, None], float("inf"))
    best = score.flatten(-3).argmin(-1)  # [..., F]
    k, rest = best // (2 * size) ** 2, best % (2 * size) ** 2
    moved = torch.stack([shift[rest % (2 * size)], shift[rest // (2 * size)]], -1) / size  # [..., F, 2]
    joints = bank.joints.to(video.device)
    chosen = torch.take_along_dim(joints, k[..., None, None], -3)  # [..., F, J, 2]
    return chosen + moved[..., None, :]


def stacked(banks) -> Bank:
    """Banks of n actors as one, with a leading axis."""
    return Bank(*map(torch.stack, zip(*(vars(b).values() for b in banks), strict=True)))


def errors(video, bank: Bank, without_own=False):
    """How far an actor is from where it should be, in picture heights.

    Parameters
    ----------
    video : Tensor [..., F, 3, H, W]
        0..1.
    bank : Bank
        Of the same frames.

    Returns
    -------
    place, parts : Tensor [...]
        Of the whole character (mean of its joints), and the mean over its joints; over the frames between
        the first and the last.
    """
    away = find(video, bank, without_own=without_own) - bank.joints.to(video.device)
    away = away[..., 1:-1, :, :]  # [..., F - 2, J, 2]
    return away.mean(-2).norm(dim=-1).mean(-1), away.norm(dim=-1).mean((-2, -1))
