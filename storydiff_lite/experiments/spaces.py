"""Is a motion easier to predict in semantic tokens than in latents? (chapter 08)

StoryDiffusion says so (2405.01434, section 3.2) and does not measure it.  Here the same transformer learns
the same clips in both spaces: the same regions of the picture as tokens, the same steps and seeds.  Both
are much smaller than the shipped predictor and learn for a shorter time, so only their difference means
something.

Each space has units of its own, so three numbers are measured of a held-out clip:

- ``own``: the error, in units of the straight line's in the same space;
- ``timing``: for each frame the true picture is looked up that is nearest in that space, and the parts of the
  body are compared with where they should be, in picture heights;
- ``tokens``: predicted latents are drawn by the autoencoder and encoded, and compared as semantic tokens, in
  units of the straight line of tokens.  This favours the predictor that learnt tokens.  "latents, the truth"
  says what the autoencoder alone costs.

The predictors are not part of the repository: making the record trains them, in ``checkpoints/``.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

import torch

from .. import weights
from ..motion import GRID, SemanticMotionPredictor, interpolate, semantic_tokens
from ..training import motion
from ..training.parts import packed
from .motion import measure_motion, places
from .records import Experiment, header, sweep

KINDS = ("own", "timing", "tokens")
#: of a training run, in either space
STEPS, BATCH, CLIPS, FRAMES, RUNS = 500, 16, 200, 4, 2
#: of the transformer, in either space
SIZES = {"width": 96, "layers": 4, "heads": 4}
#: pictures of a clip among which the nearest is looked up; every second one is a frame
FINE = 2 * FRAMES - 1


def spaces_settings() -> dict[str, dict]:
    """Name -> a space, and where the frames between the two ends come from."""
    found = {}
    for space in ("tokens", "latents"):
        found[f"{space}, straight line"] = {"space": space, "path": "line"}
        for run in range(RUNS):
            found[f"{space}, predicted, run {run}"] = {"space": space, "path": run}
    return found | {"latents, the truth": {"space": "latents", "path": "truth"}}


def encoders() -> dict:
    """Space -> what encodes pictures, as shipped, and the pool that it makes."""
    return {
        "tokens": (packed("clip").vision, motion.token_pool),
        "latents": (packed("vae"), motion.latent_pool),
    }


def opened(device="cpu", count=1, cache=None, nets=None):
    """``rows_of(setting, seeds)``: of some of the first held-out clips; ``nets`` are the predictors, by space
    and run.
    """
    encoder, vae = (model.to(device) for model, _ in encoders().values())
    with TemporaryDirectory() as scratch:
        clips, pixels = motion.clip_pool("heldout", count, FINE, vae.config.sample_size, cache or scratch)
    truth = {
        "tokens": motion.token_pool(encoder, pixels, device, dtype=torch.float32),
        "latents": motion.latent_pool(vae, pixels, device),
    }

    def path_of(setting, x):
        """Frames [F, S, D] of a setting between the ends of a clip [FINE, S, D]."""
        if setting["path"] == "truth":
            return x[::2]
        make = interpolate if setting["path"] == "line" else nets[setting["space"], setting["path"]]
        return make(x[None, 0], x[None, -1], FRAMES)[0]

    @torch.no_grad()
    def rows_of(setting, seeds):
        space, rows = setting["space"], []
        for i in seeds:
            x, parts = truth[space][i], places(clips[i], FINE)
            path = path_of(setting, x)
            seen = path
            if space == "latents":
                seen = semantic_tokens(encoder, vae.decode(motion.from_regions(path)).sample.clamp(-1, 1))
            own = measure_motion(path.cpu(), x.cpu(), parts)
            numbers = {
                "own": own["error"],
                "timing": own["timing"],
                "tokens": float(between(seen, truth["tokens"][i, ::2])),
            }
            rows.append({"seed": i} | {k: {"mean": round(v, 4)} for k, v in numbers.items()})
        return rows

    return rows_of


def between(tokens, truth):
    """Error of one clip [F, S, D] over the straight line's, without the two ends: drawn, these change too."""
    line = interpolate(truth[None, 0], truth[None, -1], len(truth))[0]
    far = [(x - truth)[1:-1].square().mean() for x in (tokens, line)]
    return far[0] / far[1]


def run_spaces(stories: int = 84, device="cpu") -> dict:
    """The record: two predictors in each space, trained here, on ``stories`` held-out clips."""
    nets, training = {}, {}
    pixels = motion.clip_pool("train", CLIPS, FRAMES, weights.picture_size(), "checkpoints")[1]
    for space, (encoder, pool) in encoders().items():
        encoder.to(device)
        # a checkpoint of other weights is not gone on with
        part = {"tokens": "micro/image_encoder", "latents": "micro/vae"}[space]
        name = f"spaces-{space}-{EXPERIMENT.fingerprint()['weights'][part][:8]}"
        tokens = torch.cat([pool(encoder, p, device) for p in (pixels, pixels.flip(-1))])
        for run in range(RUNS):
            torch.manual_seed(run)
            net, done = motion.train(
                None,
                STEPS,
                BATCH,
                seed=run,
                device=device,
                predictor=SemanticMotionPredictor(tokens.shape[-1], GRID * GRID, **SIZES),
                name=f"{name}-{run}",
                tokens=tokens,
            )
            nets[space, run] = net
            losses = [x["loss"] for x in done.log[-5:]]
            training[f"{space}, run {run}"] = {
                "steps": done.done,
                "batch": BATCH,
                "clips": CLIPS,
                "seconds": round(done.seconds),
                "parameters": sum(p.numel() for p in net.parameters()),
                "loss": round(sum(losses) / len(losses), 4),
            }
    rows_of = opened(device, stories, "checkpoints", nets)
    record = header("spaces", stories, FRAMES, training=training) | EXPERIMENT.fingerprint()
    return sweep(record, spaces_settings(), lambda s: rows_of(s, range(stories)), KINDS)


EXPERIMENT = Experiment(
    run=run_spaces,
    opened=opened,
    kinds=KINDS,
    weights=("micro/image_encoder", "micro/vae"),
    stories=84,
    golden=("tokens, straight line", "latents, straight line", "latents, the truth"),
    left_out="The predicted settings: these predictors are trained for the record, and not part of the "
    "repository.",
)
