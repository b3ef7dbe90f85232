"""A LoRA for stories: what the transition decoder learns from passages, beside what it knows of clips.

The shipped decoder knows seven motions very well (`training.video`), and was never shown what lies between
two panels of a story (`passages`).  It stays as it is; beside its layers, and beside those of its predictor,
matrices of low rank learn (LoRA, 2106.09685, by peft), from passages and, so that what was known is kept,
from clips.  Small enough for a laptop: about an hour on one core, and less than a megabyte.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from .. import video, weights
from .common import Run
from .unet import noise_schedule
from .video import FRAMES, Learner, build, card_of, loss_of, measure, micro, pack, prepared, sizes

#: layers with a LoRA: of the U-Net those that learnt for the video; of the predictor all but its attention,
#: which torch computes from the weights themselves, past any LoRA
LAYERS = {
    "unet": r".*(motion_modules\..*\.(to_[qkv]|to_out\.0|proj|net\.2)"
    r"|attn1\.to_[qkv]|attn1\.to_out\.0|attn2\.to_q|attn2\.to_out\.0|attn2\.processor\.to_[kv])",
    "predictor": r"embed_in|embed_time\.[02]|head|blocks\.\d+\.linear[12]",
}


def parts_of(net):
    """The modules that a LoRA is put on, by name."""
    return {"unet": net["decoder"].unet, "predictor": net["predictor"]}


def add_lora(net, rank=8):
    """Put an untrained LoRA on a decoder and its predictor: ``{part: PeftModel}``; all else is frozen."""
    net.requires_grad_(False)
    return {
        name: get_peft_model(
            part, LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS[name], bias="none")
        )
        for name, part in parts_of(net).items()
    }


def train(
    steps=20000,
    seconds=None,
    batch=4,
    size=64,
    seed=0,
    device="cpu",
    pool=320,
    passages=800,
    folder="checkpoints",
    rank=8,
    lr=3e-3,
    parts=None,
    begin=None,
):
    """Train the LoRA, and return ``(net, {part: PeftModel}, run)``.

    Parameters
    ----------
    steps, seconds
        The run ends at whichever comes first; its step size falls from the warm-up to that end.
    batch : int
        Clips and passages a step, of each process.
    pool, passages : int
        Clips and passages of the training split; all come up equally often.
    rank : int
    begin : str or Path, optional
        Folder of the decoder; the shipped one by default.
    """
    torch.manual_seed(seed)
    parts = parts or micro(device)
    both = [
        prepared("train", n, size, folder, device, parts, source)
        for n, source in ((pool, "clips"), (passages, "passages"))
        if n
    ]
    held = {k: torch.cat([some[k] for some in both]).to(device) for k in both[0]}
    begin = begin or weights.path("video")
    net = build("ours", parts[1], begin=begin).train()
    loras = add_lora(net, rank)
    run = Run(
        "passages",
        Learner(net),
        steps,
        lr,
        muon=False,
        ema=0.998,
        warmup=30,
        seed=seed,
        folder=folder,
        cooldown=1.0,
        seconds=seconds,
        began=card_of(begin),
        facts={"batch": batch, "clips": pool, "passages": passages, "rank": rank, "lr": lr},
    )
    schedule = noise_schedule(device)
    empty, ids = parts[3]([""]), sizes(batch, size, device)
    for i in run.steps():
        if run.processes.count > 1:  # each draws a batch of its own
            torch.manual_seed((seed * 1_000_003 + i) * run.processes.count + run.processes.rank)
        pick = torch.randint(len(held["latents"]), (batch,), device=device)
        some = [held[k][pick] for k in ("latents", "tokens", "states", "pooled")]
        loss, numbers = loss_of(net, "ours", schedule, some, empty, ids, device)
        run.update(loss, i, **numbers)
    run.averaged()
    return net.eval(), loras, run


def card(run, heldout, seed):
    """What the LoRA learnt from, for how long, where, beside which decoder's files, and what it reached."""
    facts = dict(run.facts)
    n = facts.pop("passages"), facts.pop("clips")
    data = f"{n[0]:,} passages and {n[1]:,} clips of {FRAMES} frames, and their mirror images"
    return {
        "part": "passages",
        "data": data,
        "steps": run.done,
        "seed": seed,
        "seconds": round(run.seconds),
        "torch": torch.__version__.split("+")[0],
        **facts,
        "decoder": (run.began or {}).get("sha256"),
        "heldout": {"loss": heldout},
        "log": run.log[:: max(1, len(run.log) // 50)],
    }


def save(loras, folder, card):
    """Write a LoRA, each part's in peft's layout and half precision, and its card; whole or not at all."""

    def write(to):
        for name, lora in loras.items():
            lora.save_pretrained(to / name)
            (to / name / "README.md").unlink(missing_ok=True)
            file = to / name / "adapter_model.safetensors"
            save_file({k: v.half().contiguous() for k, v in load_file(file).items()}, file)
            file = to / name / "adapter_config.json"
            config = {k: v for k, v in json.loads(file.read_text()).items() if k != "base_model_name_or_path"}
            file.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        (to / "card.json").write_text(json.dumps(card, indent=1) + "\n")

    weights.atomic_save(folder, write)


def main(argv=None):
    p = argparse.ArgumentParser(prog="python -m storydiff_lite.training passages", description=__doc__)
    p.add_argument("--pack", action="store_true", help="only put the LoRA among the shipped weights")
    p.add_argument("--steps", type=int, default=20000)
    p.add_argument("--seconds", type=float, help="end after so much wall time of training")
    p.add_argument("--batch", type=int, default=4, help="clips and passages a step")
    p.add_argument("--clips", type=int, default=320, help="clips to train on")
    p.add_argument("--passages", type=int, default=800, help="passages to train on")
    p.add_argument("--heldout", type=int, default=70, help="clips, and passages, to measure on")
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--folder", default="checkpoints")
    a = p.parse_args(argv)
    folder = Path(a.folder) / "lora-passages"
    if a.pack:
        return pack(folder, "passages")
    parts, began = micro(a.device), time.time()
    _, loras, run = train(
        a.steps,
        a.seconds,
        a.batch,
        64,
        a.seed,
        a.device,
        a.clips,
        a.passages,
        a.folder,
        a.rank,
        a.lr,
        parts,
    )
    if run.processes.rank:
        return None
    save(loras, folder, card(run, None, a.seed))
    # as it will be used: in eval mode torch computes whole blocks of the predictor past a LoRA, too
    decoder, predictor = video.load_parts(weights.path("video"), parts[1], folder)
    net = nn.ModuleDict({"decoder": decoder, "predictor": predictor})
    heldout = {
        source: measure(net, "ours", 64, a.device, a.heldout, a.folder, parts, source=source)
        for source in ("clips", "passages")
    }
    save(loras, folder, card(run, heldout, a.seed))
    print(f"passages: {run.done} steps, {time.time() - began:.0f} s, held out: {heldout}")
    return None
