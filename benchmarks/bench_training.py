"""Pictures a second in the U-Net's training: compiled, eager, and eager as it was, in turns, in one run.

    python benchmarks/bench_training.py [--device cuda] [--batch 512] [--steps 20] [--rounds 3]

*eager, fed from the host* is the step that this training began with: captions are written and tokenized, and
latents gathered and sent to the device, within the step, and the gradient's norm is read in it. *eager* and
*compiled* take rows of what lies on the device and wait for nothing; *channels last* is compiled with that
layout of the weights. All take the same steps of single pictures, strips and pages on random latents. Every
round runs each once, so that whatever else the machine does falls on all; the numbers are medians over the
rounds, the ratio is the median of the rounds' ratios to the first.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from storydiff_lite import weights, world
from storydiff_lite.prompts import PromptEncoder
from storydiff_lite.training import data, unet
from storydiff_lite.training.clip import tokenizers
from storydiff_lite.training.common import Optimizer, machine

CHANNELS_LAST, LAYOUTS = "channels last, compiled", (1, 2, 4)


def prompts_of(device):
    """The shipped text encoders."""
    micro = weights.path("micro")
    encoders = (
        CLIPTextModel.from_pretrained(micro / "text_encoder").float().to(device).eval(),
        CLIPTextModelWithProjection.from_pretrained(micro / "text_encoder_2").float().to(device).eval(),
    )
    return PromptEncoder(*encoders, *tokenizers())


def material(prompts, n, device):
    """``n`` samples of each number of panels: their pictures' descriptions, and a `unet.Pool` of random
    latents, which cost as much as true ones.
    """
    mixes = {1: {"single": 0.5, "pair": 0.5}, 2: {"strip": 0.7, "pair strip": 0.3}, 4: data.PAGES}
    rng, samples, pools = random.Random(0), {}, {}
    for panels, mix in mixes.items():
        samples[panels] = [world.sample_pictures("train", i, mix) for i in range(n)]
        words = prompts.ids([unet.caption(s, rng, drop=0) for s in samples[panels] for _ in range(4)])
        latents, weight = torch.randn(n, panels, 4, 16, 16).half(), torch.ones(n, panels, 1, 16, 16).byte()
        pools[panels] = unet.Pool(
            latents.to(device), weight.to(device), words.int().unflatten(0, (n, 4)).to(device)
        )
    return samples, pools


def from_host(prompts, samples, pools, device):
    """``batch(n, panels, rng)`` that makes its words, and gathers its latents, on the host."""
    on_host = {k: unet.Pool(p.latents.cpu(), p.weight.cpu(), p.words.cpu()) for k, p in pools.items()}

    def batch(n, panels, rng):
        rows = rng.choices(range(len(on_host[panels])), k=n)
        x, weight = (
            unet.canvas(t[rows].float(), 3).to(device)
            for t in (on_host[panels].latents, on_host[panels].weight)
        )
        captions = [unet.caption(samples[panels][i], rng) for i in rows]
        sizes = torch.tensor([unet.time_ids(128, 128)] * n, dtype=torch.float32, device=device)
        return x, weight, prompts.ids(captions).to(device), sizes

    return batch


def from_device(prompts, pools, device):
    """The same, all of it on the device."""
    empty = prompts.ids([""])[0].int().to(device)
    return lambda n, panels, rng: pools[panels].batch(n, rng, 128, empty)


def runner(prompts, batch_of, size, device, compiled=False, last=False, reads=False):
    """``step(i)``: one optimizer step; ``reads``: the host reads the gradient's norm in it."""
    torch.manual_seed(0)
    model = unet.build().to(device)
    if last:
        model = model.to(memory_format=torch.channels_last)
    model.set_attn_processor(unet.fastest_attention(device))
    net = torch.compile(model, dynamic=False) if compiled else model
    optimizer, schedule = Optimizer(model.named_parameters(), 1e-3, 0.006), unet.noise_schedule(device)

    def step(i):
        panels = LAYOUTS[i % len(LAYOUTS)]
        x, weight, ids, sizes = batch_of(size // panels, panels, random.Random(i // 4))
        states, pooled = prompts.encode(ids)
        loss = unet.velocity_loss(
            net, schedule, x, states, pooled, sizes, device, late=panels > 1, weight=weight
        )
        loss.backward()
        norm = optimizer.step()
        return float(norm) if reads else norm

    return step


def seconds(step, steps, device):
    """Wall-clock seconds of so many steps."""
    start = time.perf_counter()
    for i in range(steps):
        step(i)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--batch", type=int, help="pictures a step (512 on a GPU, 32 on a CPU)")
    p.add_argument("--steps", type=int, default=24, help="steps of a round, a multiple of 3 is fair")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--samples", type=int, default=1500, help="samples of each number of panels")
    p.add_argument("--no-compile", action="store_true", help="leave out what takes minutes to compile")
    p.add_argument("--out", type=Path, help="write what was measured into this file")
    a = p.parse_args(argv)
    cuda = torch.device(a.device).type == "cuda"
    size = a.batch or (512 if cuda else 32)
    torch.backends.cudnn.benchmark = True
    prompts = prompts_of(a.device)
    samples, pools = material(prompts, a.samples, a.device)
    host, device = from_host(prompts, samples, pools, a.device), from_device(prompts, pools, a.device)
    runs = {
        "eager, fed from the host": runner(prompts, host, size, a.device, reads=True),
        "eager": runner(prompts, device, size, a.device),
    }
    if not a.no_compile:
        runs["compiled"] = runner(prompts, device, size, a.device, compiled=True)
        runs[CHANNELS_LAST] = runner(prompts, device, size, a.device, compiled=True, last=True)
    for step in runs.values():
        seconds(step, 12, a.device)  # strips of both directions are compiled too
    took = {name: [] for name in runs}
    for _ in range(a.rounds):
        for name, step in runs.items():
            took[name].append(seconds(step, a.steps, a.device))
    first, rows = next(iter(took)), []
    print(
        f"{machine()}; torch {torch.__version__}; {size} pictures a step, {a.steps} steps, {a.rounds} rounds"
    )
    print(f"{'':28}{'pictures/s':>12}{'ms / step':>12}{'ratio':>8}")
    for name, times in took.items():
        middle = statistics.median(times)
        ratio = statistics.median(b / t for t, b in zip(times, took[first], strict=True))
        rows.append(
            {
                "name": name,
                "pictures_s": size * a.steps / middle,
                "ms": 1000 * middle / a.steps,
                "ratio": ratio,
            }
        )
        print(f"{name:28}{rows[-1]['pictures_s']:12.1f}{rows[-1]['ms']:12.1f}{ratio:8.2f}")
    if a.out:
        found = {
            "machine": machine(),
            "torch": torch.__version__,
            "batch": size,
            "steps": a.steps,
            "rows": rows,
        }
        weights.atomic_save(a.out, lambda to: to.write_text(json.dumps(found, indent=1) + "\n"))


if __name__ == "__main__":
    main()
