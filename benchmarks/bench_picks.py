"""What picks of the subject save at SDXL's size: seconds, operations and bytes of its layers, in one run.

    python benchmarks/bench_picks.py [--panels 4] [--rounds 3] [--device cpu] [--save]

Chapter 12 finds that 16% of each other panel's tokens, the subject's, bring about nearly the agreement of
all of them. Here is what that is worth, at the two sizes of the layers of SDXL's up-blocks (1024 x 1024
pixels):

- plain: each panel reads itself.
- rate 1: each panel reads all tokens of every other.
- random, subject: at this rate, picks of any tokens, or of the subject's. As many tokens; the subject's costs
  a look at a map besides.
- looking: what it takes to find the subject, once a step in each layer that is watched: how much of each
  token's cross-attention falls on the words of its prompt.

Weights and inputs are random: times and bytes depend on shapes alone. Every round runs each form once, so
that whatever else the machine does falls on all of them; a ratio is the median of the rounds' ratios to
rate 1. On a CPU the seconds are those of the process, on a GPU those of its clock. The last lines sum up the
self-attention of all layers of the up-blocks, as many as SDXL has of each size. ``--save`` writes
``book/results/bench_picks.json``.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from bench_attention import flops, peak_bytes
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from storydiff_lite.attention import ConsistentSelfAttention
from storydiff_lite.memory import peak_memory
from storydiff_lite.neighbours import SubjectPicks
from storydiff_lite.neighbours.subject import GRID, word_share
from storydiff_lite.schedule import AttentionPlan
from storydiff_lite.training.common import machine

RESULT = Path(__file__).parent.parent / "book" / "results" / "bench_picks.json"
FORMS = ("plain", "rate 1", "random", "subject")
WORDS = 9  # of a prompt


class Size(NamedTuple):
    """Layers of SDXL's up-blocks: their tokens, width and heads, how many there are, how many are watched."""

    tokens: int
    width: int
    heads: int
    layers: int
    watched: int = 0


#: up_blocks.0: 3 transformers of 10 blocks, of which one is watched; up_blocks.1: 3 of 2
SDXL = (Size(1024, 1280, 20, 30, 10), Size(4096, 640, 10, 6))


def subject_plan(panels, rate):
    """A plan of the second step, whose map has a subject: a disc over a seventh of the picture."""
    words = torch.zeros(panels, 77, dtype=torch.bool)
    words[:, 1 : 1 + WORDS] = True
    plan = SubjectPicks.among(panels, rate, words=words)
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    disc = ((y - GRID / 2) ** 2 + (x - GRID / 2) ** 2 < GRID**2 / 22).float()
    plan.new += disc.flatten() + 0.1
    plan.now = plan.now._replace(step=1)
    return plan


def forms(size, panels, rate, halves, device, dtype, seed=0):
    """Name -> a function that runs the form on one input [halves panels, tokens, width]."""
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        attn, cross = (
            Attention(size.width, **more, heads=size.heads, dim_head=size.width // size.heads)
            for more in ({}, {"cross_attention_dim": 2048})
        )
    attn, cross = (x.eval().requires_grad_(False).to(device, dtype) for x in (attn, cross))
    x = torch.randn(halves * panels, size.tokens, size.width, generator=g).to(device, dtype)
    states = torch.randn(panels, 77, 2048, generator=g).to(device, dtype)
    plans = {
        "rate 1": AttentionPlan.among(panels, 1.0),
        "random": AttentionPlan.among(panels, rate),
        "subject": subject_plan(panels, rate),
    }
    plain, words = AttnProcessor2_0(), plans["subject"].words[0]
    runs = {name: ConsistentSelfAttention(plan, "layer") for name, plan in plans.items()}
    found = {"plain": lambda: plain(attn, x)}
    found |= {name: (lambda run=run: run(attn, x)) for name, run in runs.items()}
    return found | {"looking": lambda: word_share(cross, x[:panels], states, words).cpu()}


@torch.no_grad()
def measure(size, panels, rate, halves, rounds, device, dtype):
    """Rows, one for each form; ``looking`` last where the layers of this size are watched."""
    runs = forms(size, panels, rate, halves, device, dtype)
    names = [*FORMS, *["looking"] * bool(size.watched)]
    cuda = torch.device(device).type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    seconds, peak = {name: [] for name in names}, {}
    for name in names:  # the first round chooses kernels and measures memory; its times do not count
        with peak_memory(device) as used:
            runs[name]()
        peak[name] = used.bytes
    for _ in range(rounds):
        for name in names:
            if cuda:
                torch.cuda.synchronize()
            start = clock()
            runs[name]()
            if cuda:
                torch.cuda.synchronize()
            seconds[name].append(clock() - start)
    rows = []
    for name in names:
        ratios = [a / b for a, b in zip(seconds[name], seconds["rate 1"], strict=True)]
        row = {"form": name, "seconds": statistics.median(seconds[name]), "ratio": statistics.median(ratios)}
        row |= {"peak_bytes": peak[name], **size._asdict()}
        if name != "looking":
            form, share = ("plain", 0) if name == "plain" else ("ours", 1.0 if name == "rate 1" else rate)
            attention, projections = flops(form, panels, size.tokens, size.width, share)
            row["flops"] = (attention + projections) * halves // 2  # bench_attention counts both halves
            row["peak_bytes_by_shapes"] = (
                peak_bytes(form, panels, size.tokens, size.width, share, torch.finfo(dtype).bits // 8)
                if halves == 2
                else None
            )
        rows.append(row)
    return rows


def whole(rows):
    """The self-attention of all up-blocks in one step: form -> (seconds, operations, largest peak)."""
    found = {}
    for name in FORMS:
        mine = [r for r in rows if r["form"] == name]
        seconds = sum(r["seconds"] * r["layers"] for r in mine)
        if name == "subject":
            seconds += sum(r["seconds"] * r["watched"] for r in rows if r["form"] == "looking")
        found[name] = {
            "seconds": seconds,
            "flops": sum(r["flops"] * r["layers"] for r in mine),
            "peak_bytes": max(r["peak_bytes"] for r in mine),
        }
    return found


def table(rows):
    """The rows as text."""
    lines = [f"{'tokens':>6} {'form':10}{'seconds':>10}{'to rate 1':>10}{'GFLOP':>8}{'peak MB':>9}"]
    for r in rows:
        gflop = f"{r['flops'] / 1e9:.0f}" if "flops" in r else "-"
        lines.append(
            f"{r['tokens']:6} {r['form']:10}{r['seconds']:10.4f}{r['ratio']:10.2f}{gflop:>8}"
            f"{r['peak_bytes'] / 1e6:9.0f}"
        )
    lines.append("\nself-attention of the up-blocks in one step; subject: with looking")
    total = whole(rows)
    for name, r in total.items():
        lines.append(
            f"{'':6} {name:10}{r['seconds']:10.2f}{r['seconds'] / total['rate 1']['seconds']:10.2f}"
            f"{r['flops'] / 1e9:8.0f}{r['peak_bytes'] / 1e6:9.0f}"
        )
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--panels", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--halves", type=int, choices=(1, 2), default=2, help="of guidance; 1 for a short trial"
    )
    parser.add_argument("--dtype", help="float32; on a GPU float16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small layers: a trial, no result")
    parser.add_argument("--save", action="store_true", help=f"write book/results/{RESULT.name}")
    args = parser.parse_args(argv)
    if args.save and args.tiny:
        parser.error("--tiny measures nothing worth keeping: leave --save out.")
    cuda = torch.device(args.device).type == "cuda"
    dtype = getattr(torch, args.dtype or ("float16" if cuda else "float32"))
    sizes = [s._replace(tokens=s.tokens // 16, width=80) for s in SDXL] if args.tiny else SDXL
    rows = []
    for size in sizes:
        rows += measure(size, args.panels, args.rate, args.halves, args.rounds, args.device, dtype)
    print(f"{machine()}, torch {torch.__version__}, {args.panels} panels, rate {args.rate}, {dtype}")
    print(table(rows))
    if args.save:
        record = {
            "experiment": "bench_picks",
            "machine": machine(),
            "torch": torch.__version__.split("+")[0],
            "dtype": str(dtype).removeprefix("torch."),
            "panels": args.panels,
            "rate": args.rate,
            "halves": args.halves,
            "rounds": args.rounds,
            "rows": rows,
            "whole": whole(rows),
        }
        part = RESULT.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(RESULT)
        print(f"written: {RESULT.name}")


if __name__ == "__main__":
    main()
