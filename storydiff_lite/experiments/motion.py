"""How far is a predicted path of tokens from the true one? (chapter 08)

Clips that nothing was trained on: their characters, motions and seeds are kept for measurements.  Besides the
error of the tokens, what the tokens *mean* is measured: for each frame the picture is looked up, among many
true ones of the same clip, whose tokens are nearest, and the parts of the body are compared with where they
should be.  That is lenient with a path that leaves the world of pictures, since only right pictures can be
found; what it measures is the timing.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

import numpy as np
import torch

from .. import weights, world
from ..motion import SemanticMotionPredictor, interpolate
from ..training.motion import FRAMES, clip_pool, relative_error, token_pool
from ..training.parts import packed
from .records import Experiment, header, interval, sweep

#: pictures of a clip among which the nearest is looked up; every second one is a frame
FINE = 2 * FRAMES - 1
KINDS = ("error", "timing")


def motion_settings() -> dict[str, dict]:
    """Name -> where the tokens between the two ends come from."""
    return {"straight line": {"tokens": "line"}, "predicted": {"tokens": "predictor"}}


def nearest(tokens, truth):
    """For each frame the number of the true picture whose tokens are nearest: [F, S, D], [G, S, D] -> [F]."""
    return torch.cdist(tokens.flatten(1), truth.flatten(1)).argmin(1)


def places(clip, n):
    """True places of all parts at ``n`` times, [n, parts, 2], in picture heights."""
    return np.array([list(clip.joints(i / (n - 1)).values()) for i in range(n)])


@torch.no_grad()
def measure_motion(tokens, truth, parts) -> dict[str, float]:
    """Errors of the tokens of one clip [F, S, D].

    ``truth`` [2 F - 1, S, D] is of twice as many true pictures, ``parts`` [2 F - 1, J, 2] their joints.

    Returns
    -------
    dict
        ``error`` of the tokens in units of the straight line's; ``timing``, how far parts are from their
        place in the nearest true pictures, mean over the frames between the ends, in picture heights.
    """
    found = nearest(tokens, truth).numpy()
    far = np.linalg.norm(parts[found] - parts[::2], axis=-1)[1:-1].mean()
    return {"error": float(relative_error(tokens[None], truth[None, ::2])), "timing": float(far)}


def by_kind(rows, kinds):
    """Mean and interval of all clips and, under ``"error.walk"`` ..., of each kind of motion."""
    out = {}
    for k in kinds:
        values = {k: [r[k]["mean"] for r in rows]}
        for motion in world.clips.KINDS:
            values[f"{k}.{motion}"] = [r[k]["mean"] for r in rows if r["clip"] == motion]
        out |= {name: interval(v) for name, v in values.items()}
    return out


def opened(device="cpu", count=1, cache=None):
    """``rows_of(setting, seeds)``: of some of the first held-out clips, with the shipped weights."""
    encoder = packed("clip", device).vision
    net = SemanticMotionPredictor.from_pretrained(weights.path("video") / "predictor").float().to(device)
    with TemporaryDirectory() as scratch:
        clips, pixels = clip_pool("heldout", count, FINE, weights.picture_size(), cache or scratch)
    truth = token_pool(encoder, pixels, device, dtype=torch.float32)
    parts = [places(c, FINE) for c in clips]

    def rows_of(setting, seeds):
        make = interpolate if setting["tokens"] == "line" else net.eval()
        rows = []
        for i in seeds:
            x = truth[i]
            with torch.no_grad():
                tokens = make(x[None, 0], x[None, -1], FRAMES)[0].float().cpu()
            found = measure_motion(tokens, x.cpu(), parts[i])
            rows.append({"seed": i, "clip": clips[i].kind} | {k: {"mean": v} for k, v in found.items()})
        return rows

    return rows_of


def run_motion(stories: int = 350, device="cpu") -> dict:
    """The record: ``stories`` held-out clips, the kinds by turns."""
    rows_of = opened(device, stories, "checkpoints")
    record = header("motion", stories, FRAMES) | EXPERIMENT.fingerprint()
    return sweep(record, motion_settings(), lambda s: rows_of(s, range(stories)), KINDS, summarize=by_kind)


EXPERIMENT = Experiment(
    run=run_motion,
    opened=opened,
    kinds=KINDS,
    weights=("micro/image_encoder", "video/predictor"),
    stories=350,
    golden=("straight line", "predicted"),
    within={"timing": 1e-3},
)
