"""Which transition is right? Seven ways to fill in what happens between two pictures (chapter 09).

The paper's Table 2 at this scale: its four metrics, each with the micro encoders that stand in for the real
ones, and what no table of real videos can have: the distance to the truth.

All that a U-Net draws is drawn alike: in the pipeline's own number of steps, with noise drawn anew in each,
and with the guidance that was best for that model on validation clips. *SparseCtrl idea*, *SEINE idea*,
*this, frames apart* and *this, trained alike* learnt on the same clips for the same time
(`training.chain`); *this*, the shipped decoder, went on from the last of them alone. How many clips
each has seen, and on which machine, stands in ``learnt``.

A model is measured once: rows of an earlier record are kept where the model, the steps and the guidance are
the same, and ``machines`` says where each was measured. It is an experiment for a GPU: a CPU needs a day.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm

from .. import motion, video, weights, world
from ..training.cards import began_in, stages
from ..training.video import FRAMES, clips_seen
from .records import PANELS, RESULTS, Experiment, header, sweep
from .transitions import TransitionBenchmark, average, distance, means, summarize

SEEDS, STEPS, ETA = 3, 12, 1.0
#: guidance scales that are tried on validation clips
SCALES = (1.0, 1.5, 2.5)
#: which tokens a model reads
TOKENS = {"ours": "joint", "alike": "joint", "apart": "joint", "sparse": None, "mask": None}
#: metric -> which way is better (-1 less, 1 more, 0 neither: compare it with the truth)
KINDS = {
    "place": -1,  # distance of the characters to the truth, in picture heights
    "parts": -1,  # the same, mean over their joints
    "pixels": -1,  # mean absolute difference to the truth, where something moves
    "identity": 1,  # attributes that the judge reads right, over the frames between
    "flicker": -1,  # second difference in time, where nothing moves
    "features_first": -1,  # judge's features, frame i to the first: stands for LPIPS-first
    "features_frames": -1,  # ... frame i to frame i + 1: stands for LPIPS-frames
    "embedding_first": 1,  # cosine of micro CLIP's image embeddings: stands for CLIPSIM-first
    "embedding_frames": 1,  # ... stands for CLIPSIM-frames
}
#: Table 2 of the paper: LPIPS-first, LPIPS-frames, CLIPSIM-first, CLIPSIM-frames
PAPER = {
    "SEINE": (0.4332, 0.2220, 0.9259, 0.9736),
    "SparseCtrl": (0.4913, 0.1768, 0.9032, 0.9756),
    "StoryDiffusion": (0.3794, 0.1635, 0.9606, 0.9870),
}
#: clips whose frames are kept to be looked at: the first of each kind
SHOWN = len(world.clips.KINDS)


def video_settings() -> dict[str, dict]:
    """Name -> how the frames between are made."""
    return {
        "truth": {"make": "truth"},
        "truth, through the autoencoder": {"make": "coded"},
        "cross-fade": {"make": "fade"},
        "straight line in latents": {"make": "latents"},
        "straight line in tokens": {"model": "ours", "tokens": "line"},
        "SparseCtrl idea": {"model": "sparse"},
        "SEINE idea": {"model": "mask"},
        "this, frames apart": {"model": "apart", "tokens": "joint"},
        "this, trained alike": {"model": "alike", "tokens": "joint"},
        "this": {"model": "ours", "tokens": "joint"},
        "this, predictor trained on tokens alone": {"model": "ours", "tokens": "alone"},
        "this, true tokens": {"model": "ours", "tokens": "true"},
        "this, in 4 steps": {"model": "ours", "tokens": "joint", "steps": 4, "guidance": 1.0},
    }


def where(name, folder="checkpoints"):
    """Folder of a model's weights: of ours the shipped ones."""
    return weights.path("video") if name == "ours" else Path(folder) / f"video-{name}"


def benchmark(split, n, device="cpu", folder="checkpoints"):
    """A `TransitionBenchmark` of clips, with the models that are compared: ours; those that lie in ``folder``
    as ``video-sparse``, ``video-mask``, ``video-apart`` (ours, but no frame reads the key frames) and
    ``video-alike`` (ours when it had learnt as long as those).
    """
    return TransitionBenchmark("clips", split, n, device, folder, partial(load, folder=folder))


def load(name, unet, folder="checkpoints"):
    """(decoder, predictor) of a model, for a U-Net."""
    found = where(name, folder)
    if not found.exists():
        raise FileNotFoundError(
            f"There is no {found}: `python -m storydiff_lite.training all --from motion` trains it, with all "
            "others that are compared."
        )
    return video.load_parts(found, unet)


@torch.no_grad()
def measure(bench, frames) -> list[dict]:
    """``{metric: value}`` of each clip, for frames uint8 [n, F, 3, S, S]; identity is None for two."""
    rows = [{"place": p, "parts": q} for p, q in zip(*bench.errors(frames), strict=True)]
    for at in torch.arange(len(bench.items)).split(bench.batch):
        x, true = (v[at].to(bench.device).float() / 255 for v in (frames, bench.truth))
        moves = (true.amax(1) - true.amin(1)).amax(1) > 8 / 255  # [B, S, S]
        away = (x - true)[:, 1:-1].abs().mean((1, 2))
        second = (x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]).abs().mean((1, 2))  # [B, S, S]
        values = {
            "pixels": (away * moves).sum((1, 2)) / moves.sum((1, 2)),
            "flicker": (second * ~moves).sum((1, 2)) / (~moves).sum((1, 2)),
            "identity": bench.identity(x[:, 1:-1], [bench.items[i] for i in at])[0],
        } | distances(bench, x)
        for j, i in enumerate(at.tolist()):
            rows[i] |= {k: v[j] for k, v in values.items()}
    for row, clip in zip(rows, bench.items, strict=True):
        row["identity"] = row["identity"] if len(clip.actors) == 1 else None
    return [{k: row[k] if row[k] is None else round(float(row[k]), 5) for k in KINDS} for row in rows]


def distances(bench, x):
    """What stands for LPIPS and CLIPSIM, in frames x [B, F, 3, S, S] of 0..1: [B] each."""
    layers, pixels = bench.features(x), motion.fit_pixels(bench.vision, x.flatten(0, 1) * 2 - 1)
    e = F.normalize(bench.vision(pixels).image_embeds, dim=-1).unflatten(0, x.shape[:2])  # [B, F, D]
    out, last = {}, x.shape[1] - 1
    for name, before in (("first", [0] * last), ("frames", list(range(last)))):
        out[f"features_{name}"] = distance([f[:, before] for f in layers], [f[:, 1:] for f in layers])
        out[f"embedding_{name}"] = (e[:, before] * e[:, 1:]).sum(-1).mean(1)
    return out


def digest(folder):
    """What a model's weights are: SHA-256 over the files of its folder; None where there is no folder."""
    files = sorted(Path(folder).rglob("*.safetensors"))
    return hashlib.sha256("".join(map(weights.sha256, files)).encode()).hexdigest() if files else None


def learnt(folder) -> dict:
    """What the model of a folder learnt from: ``clips`` seen in all, and of each of its ``runs`` the steps,
    the clips a step, the seconds, the machine and the held-out loss after it.
    """
    card = began_in(folder)
    kept = ("steps", "batch", "seconds", "machine", "heldout")
    return {"clips": clips_seen(card), "runs": [{k: c[k] for k in kept} for c in stages(card)]}


def unchanged(earlier, record, settings) -> dict:
    """What of an earlier record need not be measured again: ``summary``, ``seconds``, ``rows`` and
    ``machines`` of settings whose model, steps and guidance are the same in both.
    """
    same_run = all(earlier.get(k) == record[k] for k in ("stories", "split", "sampled_seeds", "steps", "eta"))
    parts = [{k: v for k, v in r.get("weights", {}).items() if k != "video"} for r in (earlier, record)]
    same_run = same_run and parts[0] == parts[1]  # "video" is one of the models, which are compared below

    def same(name):
        setting = settings[name]
        model = setting.get("model")
        if not same_run or earlier["settings"].get(name) != setting or name not in earlier["rows"]:
            return False
        compared = ("models",) if "guidance" in setting else ("models", "guidance")
        return model is None or all(earlier.get(k, {}).get(model) == record[k].get(model) for k in compared)

    names = [name for name in settings if same(name)]
    parts = ("summary", "seconds", "rows", "machines")
    return {part: {n: earlier[part][n] for n in names if n in earlier.get(part, {})} for part in parts}


def tried(setting, values, found, n, device, folder, known) -> dict:
    """What values of a setting bring every model on ``n`` validation clips: ``{model: {value: found(bench,
    frames)}}``; for the models in ``known`` it stands there.
    """
    missing = TOKENS.keys() - known.keys()
    bench = benchmark("validation", n, device, folder) if missing else None

    def of(model, value):
        how = {"tokens": TOKENS[model], "steps": STEPS, "eta": ETA, setting: value}
        return found(bench, bench.fill(0, model=model, **how))

    return {m: {str(v): of(m, v) for v in values} if m in missing else known[m] for m in TOKENS}


def parts_error(bench, frames):
    return round(float(bench.errors(frames)[1].mean()), 5)


def parts_and_identity(bench, frames):
    return means(measure(bench, frames), ("parts", "identity"))


def sheet(frames, path):
    """Frames of several methods, uint8 [M, F, 3, S, S], as one picture: a method a row."""
    rows = frames.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # [M * S, F * S, 3]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(rows.contiguous().numpy())
    weights.atomic_save(path, lambda to: image.save(to, quality=88, method=6))


def run(stories=210, device="cpu", folder="checkpoints", keep=RESULTS / "video"):
    """The record of ``stories`` held-out clips, kinds taking turns; ``stories`` is how many."""
    bench, shown = benchmark("heldout", stories, device, folder), {}
    file = RESULTS / "video.json"
    earlier = json.loads(file.read_text()) if file.exists() else {"settings": {}, "rows": {}}
    models = {name: digest(where(name, folder)) for name in TOKENS}
    kept = {m for m, found in models.items() if earlier.get("models", {}).get(m) == found}

    def known(name):  # what was found on validation clips for the models that are the same
        found = earlier.get(name, {}) if stories == earlier.get("stories") else {}
        return {m: found[m] for m in kept & found.keys()}

    of = min(42, stories), device, folder
    scales = tried("guidance", SCALES, parts_error, *of, known("validation"))
    renewed = tried("eta", (0.0, 1.0), parts_and_identity, *of, known("renewed"))  # without guidance
    guidance = {m: float(min(found, key=found.get)) for m, found in scales.items()}

    def rows_of(setting):
        how = {"steps": STEPS, "eta": ETA, "guidance": guidance.get(setting.get("model"), 1.0)} | setting
        several = []
        for seed in tqdm(range(SEEDS if "model" in setting else 1), desc="seeds", leave=False):
            frames = bench.fill(seed, **how)
            if seed == 0:
                shown[str(how)] = frames[:SHOWN]
            several.append(measure(bench, frames))
        return average(several)

    settings = video_settings()
    coded = bench.fixed("coded")
    finder_errors = {
        "true frames": bench.errors(bench.truth),
        "coded frames": bench.errors(coded),
        "coded frames, own pose left out": bench.errors(coded, without_own=True),
    }
    about = {"split": "heldout", "sampled_seeds": SEEDS, "steps": STEPS, "eta": ETA, "guidance": guidance}
    about |= {"validation": scales, "models": models}
    about["learnt"] = {name: learnt(where(name, folder)) for name in TOKENS}
    about |= {"renewed": renewed, "paper": {k: list(v) for k, v in PAPER.items()}}
    about["finder"] = {k: [round(float(x.mean()), 5) for x in v] for k, v in finder_errors.items()}
    record = header("video", stories, FRAMES, **about, **EXPERIMENT.fingerprint())
    start = unchanged(earlier, record, settings)
    machines = dict.fromkeys(settings, record["machine"]) | start.pop("machines")
    record = sweep(record, settings, rows_of, tuple(KINDS), summarize=summarize, start=start)
    record = {"machines": machines} | record
    if len(shown) == len(settings):  # a run that went on from an interruption keeps the pictures it has
        for i in range(min(SHOWN, stories)):
            sheet(torch.stack([frames[i] for frames in shown.values()]), keep / f"{i}.webp")
    return record


#: settings whose weights a clone lacks
RIVALS = [name for name, how in video_settings().items() if how.get("model", "ours") != "ours"]

EXPERIMENT = Experiment(
    run=run,
    opened=None,
    kinds=tuple(KINDS),
    weights=(*PANELS, "micro/image_encoder", "judge", "video"),
    stories=210,
    earlier=True,
    left_out=f"{', '.join(RIVALS)}: their weights are no part of the repository, and all variants were "
    "trained on one U-Net and autoencoder. The shipped variant is measured anew in `passages`.",
)
