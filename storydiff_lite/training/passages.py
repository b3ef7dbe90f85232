"""A LoRA for stories: what the transition decoder learns from passages, beside what it knows of clips.

The shipped decoder knows seven motions very well (`training.video`), and was never shown what lies between
two panels of a story (`passages`).  It stays as it is; beside its layers, and beside those of its predictor,
matrices of low rank learn (LoRA, 2106.09685, by peft), from passages and, so that what was known is kept,
from clips.  Small enough for a laptop: about an hour on one core, and less than a megabyte.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from .. import video, weights
from . import cards
from .common import Run
from .video import FRAMES, Learner, build, learn, measure, micro, prepared

#: layers with a LoRA: of the U-Net those that learnt for the video; of the predictor all but its attention,
#: which torch computes from the weights themselves, past any LoRA
LAYERS = {
    "unet": r".*(motion_modules\..*\.(to_[qkv]|to_out\.0|proj|net\.2)"
    r"|attn1\.to_[qkv]|attn1\.to_out\.0|attn2\.to_q|attn2\.to_out\.0|attn2\.processor\.to_[kv])",
    "predictor": r"embed_in|embed_time\.[02]|head|blocks\.\d+\.linear[12]",
}


def add_lora(net, rank=8):
    """Put an untrained LoRA on a decoder and its predictor: ``{part: PeftModel}``; all else is frozen."""
    net.requires_grad_(False)
    parts, how = {"unet": net["decoder"].unet, "predictor": net["predictor"]}, {"r": rank, "lora_alpha": rank}
    return {
        name: get_peft_model(part, LoraConfig(target_modules=LAYERS[name], bias="none", **how))
        for name, part in parts.items()
    }


def train(
    steps=20000,
    batch=4,
    seed=0,
    device="cpu",
    clips=320,
    passages=800,
    rank=8,
    lr=3e-3,
    parts=None,
    again=False,
    **run,
):
    """Train the LoRA of the shipped decoder, and return ``(net, {part: PeftModel}, run)``.

    Parameters
    ----------
    batch : int
        Clips and passages a step, of each process.
    clips, passages : int
        How many of the training split; all come up equally often.
    rank : int
    parts : tuple, optional
        As of `training.video.micro`.
    again : bool
        Begin with the shipped LoRA (of the same ``rank``), which may be of an earlier decoder.
    **run
        Of `Run`, such as ``folder`` and ``seconds``.
    """
    torch.manual_seed(seed)
    parts = parts or micro(device)
    size, begin = parts[0].config.sample_size, weights.path("video")
    folder = run.setdefault("folder", "checkpoints")
    drawn = ((clips, "clips"), (passages, "passages"))
    both = [prepared("train", n, size, folder, device, parts, source) for n, source in drawn if n]
    held = {k: torch.cat([drawn[k] for drawn in both]).to(device) for k in both[0]}
    net = build("ours", parts[1], begin=begin).train()
    loras = add_lora(net, rank)
    if again:
        for name, lora in loras.items():
            shipped = load_file(weights.path("passages") / name / "adapter_model.safetensors")
            set_peft_model_state_dict(lora, {k: v.float() for k, v in shipped.items()})
    facts = {
        "data": f"{passages:,} passages and {clips:,} clips of {FRAMES} frames, and their mirror images",
        "decoder": (cards.began_in(begin) or {}).get("sha256"),  # the files beside which it learnt
    } | {"batch": batch, "rank": rank, "lr": lr}
    how = {"muon_lr": None, "ema": 0.998, "warmup": 30, "cooldown": 1.0, "facts": facts}
    how["began"] = cards.began("passages") if again else None
    run = Run("passages-again" if again else "passages", Learner(net), steps, lr, seed=seed, **how, **run)
    learn(run, net, "ours", held, batch, size, parts[3], device)
    return net.eval(), loras, run


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


def make(device, folder, seed=0, pack=False, heldout=70, **training):
    """``python -m storydiff_lite.training passages``: train, measure, save; or pack."""
    target = Path(folder) / "lora-passages"
    if pack:
        return cards.ship(target, "passages")
    parts = micro(device)
    _, loras, run = train(device=device, folder=folder, seed=seed, parts=parts, **training)
    if run.processes.rank:
        return None
    save(loras, target, cards.card("passages", run, {"loss": None}, seed))
    # as it will be used: in eval mode torch computes whole blocks of the predictor past a LoRA, too
    decoder, predictor = video.load_parts(weights.path("video"), parts[1], target)
    net = nn.ModuleDict({"decoder": decoder, "predictor": predictor})
    found = {
        source: measure(net, "ours", None, device, heldout, folder, parts, source=source)
        for source in ("clips", "passages")
    }
    save(loras, target, cards.card("passages", run, {"loss": found}, seed))
    cards.report("passages", run, found)
    return None
