"""Seconds a panel, and what consistency costs: plain and consistent sampling in turns, in one run.

    python benchmarks/bench.py [--panels 4] [--steps 25] [--repeats 3] [--device cpu] [--model micro]

Every round tells the same story once with each setting, so that whatever else the machine does falls on all
of them; the numbers are medians over the rounds, and the ratio is the median of the rounds' ratios to plain.
"""

import argparse
import platform
import statistics
import time

import torch

from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.schedule import self_attention_layers

PROMPTS = [
    "a bear is reading in the forest",
    "a bear is walking on the beach",
    "a bear is sleeping in the city",
    "a bear is waving in the snow",
]


def settings(rates):
    """Name -> keyword arguments of the pipeline call."""
    yield "plain", {"consistency": 0}
    for rate in rates:
        yield f"consistent, rate {rate:g}, up", {"consistency": rate, "layers": "up"}
    yield f"consistent, rate {rates[-1]:g}, all layers", {"consistency": rates[-1], "layers": "all"}
    yield "plain, no guidance", {"consistency": 0, "guidance_scale": 1.0}


def seconds(pipe, story, steps, arguments):
    """Wall-clock seconds of one story, decoding included."""
    start = time.perf_counter()
    pipe(story, num_inference_steps=steps, output_type="np", **arguments)
    if pipe.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="micro", help="micro, a folder, or a model of the hub")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--panels", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    args = parser.parse_args()

    pipe = StoryPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    story = [PROMPTS[i % len(PROMPTS)] for i in range(args.panels)]
    runs = dict(settings(args.rates))
    times = {name: [] for name in runs}
    for arguments in runs.values():
        seconds(pipe, story, 2, arguments)  # warm up
    for _ in range(args.repeats):
        for name, arguments in runs.items():
            times[name].append(seconds(pipe, story, args.steps, arguments))

    unet, size = pipe.unet, pipe.unet.config.sample_size * pipe.vae_scale_factor
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.machine()
    where += f", {torch.get_num_threads()} threads" if args.device == "cpu" else ""
    millions = sum(p.numel() for p in unet.parameters()) / 1e6
    layers, up = len(self_attention_layers(unet, "all")), len(self_attention_layers(unet, "up"))
    print(f"{args.model}: U-Net of {millions:.1f} M parameters, {layers} self-attention layers, {up} of them")
    print(f"in the up blocks; pictures of {size}x{size}; torch {torch.__version__}, {args.dtype}, {where}.")
    print(f"{args.panels} panels, {args.steps} steps, guidance 5; medians of {args.repeats} rounds.\n")
    print(f"{'':36}{'s / panel':>10}{'s / story':>11}{'ratio to plain':>16}")
    for name, took in times.items():
        ratio = statistics.median(a / b for a, b in zip(took, times["plain"], strict=True))
        middle = statistics.median(took)
        print(f"{name:36}{middle / args.panels:10.3f}{middle:11.2f}{ratio:16.2f}")


if __name__ == "__main__":
    main()
