"""What consistent panels cost on SDXL at its true size: seconds a panel and step, and peak memory.

    python benchmarks/bench_sdxl.py [--seconds 100] [--rounds 8] [--save]

SDXL's U-Net with random weights (times and bytes depend on shapes alone), fp16, 1024 x 1024 pixels, guidance
on. Each row is one denoising step of a whole story, as `StoryPipeline` does it: the U-Net in its passes, the
guidance, the average over windows, the scheduler. Text encoders and autoencoder are not in a step; the
autoencoder is timed by itself.

- plain: no panel reads another.
- ours: the processor `ConsistentSelfAttention` at this rate, in the layers of the up-blocks, as released.
- mask: the form that the released code uses (see bench_attention.py), in the same layers.

At 4 panels the three take turns, so that whatever else the machine does falls on all of them; a ratio is the
median of the rounds' ratios to plain. Longer stories: a window of 4 panels in passes, the bank, no window.
Peak memory counts the U-Net's weights, and no other part of the pipeline. ``--seconds`` is a limit: rows that
would not fit are left out and named. ``--save`` writes ``book/results/gpu_sdxl.json``; ``--tiny`` is a trial
on a CPU.
"""

import argparse
import json
import platform
import statistics
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import diffusers
import torch
from bench_attention import mask_form, visible
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from tqdm.auto import tqdm

from storydiff_lite.denoising import Conditioning, predict
from storydiff_lite.memory import peak_memory, weight_bytes
from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.schedule import AttentionPlan, self_attention_layers
from storydiff_lite.sdxl import shapes
from storydiff_lite.training.common import machine
from storydiff_lite.windows import passes

GUIDANCE = 5.0
RESULT = Path(__file__).parent.parent / "book" / "results" / "gpu_sdxl.json"
TARGETS = {"time over plain": 1.25, "memory over plain": 1.15}  # asked of ours at 4 panels, rate 0.5
TINY = shapes.UNET | {
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "transformer_layers_per_block": (1, 1, 1),
    "attention_head_dim": (2, 4, 4),
    "norm_num_groups": 8,
}
TINY_VAE = shapes.VAE | {"block_out_channels": (16, 16, 16, 16), "norm_num_groups": 4}


class MaskForm:
    """The released code's processor: all panels of a half are one sequence, one mask for each step and size.

    Parameters
    ----------
    plan : AttentionPlan
    """

    def __init__(self, plan):
        self.plan, self.masks = plan, {}

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs
    ):
        plan, n = self.plan, hidden_states.shape[1]
        if n not in self.masks:
            self.masks[n] = visible(plan.picks("mask", n)[0].to(hidden_states.device), n)
        return mask_form(attn, hidden_states, self.masks[n], len(plan.now.panels))


class Story:
    """One denoising step of a story of F panels, in one of the forms.

    Parameters
    ----------
    pipe : StoryPipeline
        With a U-Net, and nothing else.
    form : {"plain", "ours", "mask"}
    panels : int
    rate : float
    window : int, optional
    long_story : str
        As of a call of the pipeline.
    """

    def __init__(self, pipe, form, panels, rate, window=None, long_story="passes"):
        self.pipe, self.form, self.panels = pipe, form, panels
        self.passes = passes(panels, window, long_story, sharing=form != "plain")
        self.plan = AttentionPlan.among(panels, rate, seeds=(0,))
        unet, g = pipe.unet, torch.Generator().manual_seed(0)
        size, config = unet.config.sample_size, unet.config
        self.x = torch.randn(panels, 4, size, size, generator=g)
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        halves = [  # unconditional half, conditional half
            (
                torch.randn(panels, 77, config.cross_attention_dim, generator=g).to(unet.device, unet.dtype),
                torch.randn(panels, pooled, generator=g).to(unet.device, unet.dtype),
            )
            for _ in range(2)
        ]
        pixels = float(size * 8)
        ids = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]]).repeat(2 * panels, 1)  # [2F, 6]
        self.conditioning = Conditioning(tuple(halves), ids.to(unet.device, unet.dtype))
        self.mask = MaskForm(self.plan)

    def _installed(self):
        """The chosen processors, within this block."""
        if self.form == "ours":
            return self.plan.installed(self.pipe.unet)
        return nullcontext()

    @torch.no_grad()
    def step(self):
        """Latents after one step [F, 4, h, w]."""
        pipe, unet = self.pipe, self.pipe.unet
        scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        scheduler.set_timesteps(25, device=unet.device)
        scheduler.set_begin_index(0)
        t = scheduler.timesteps[0]
        latents = self.x.to(unet.device, unet.dtype) * scheduler.init_noise_sigma
        before = dict(unet.attn_processors)
        if self.form == "mask":
            self.mask.masks.clear()  # made anew in each step, as released
            unet.set_attn_processor(before | dict.fromkeys(self_attention_layers(unet, "up"), self.mask))
        try:
            with self._installed():
                x = scheduler.scale_model_input(latents, t)
                pred = predict(unet, x, t, self.conditioning, self.plan, 0, self.passes, GUIDANCE)
                return scheduler.step(pred, t, latents, return_dict=False)[0]
        finally:
            unet.set_attn_processor(before)
            self.mask.masks.clear()


def seconds_of(run, device):
    """``(seconds, result)`` of one call: events of the GPU where there is one."""
    if torch.device(device).type != "cuda":
        start = time.perf_counter()
        result = run()
        return time.perf_counter() - start, result
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    result = run()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1000, result


def measure(stories, rounds, device, weights, bar, until):
    """Rows, one for each of these stories, which take turns; the first is what the others are compared with.

    A first round warms up and measures memory; its times count only where ``rounds`` is 0 (on a GPU the meter
    takes no time). ``until``: no further round is begun after this (of `time.perf_counter`).
    """
    peaks, times, first = [], [[] for _ in stories], []
    for story in stories:
        with peak_memory(device) as used:
            seconds, result = seconds_of(story.step, device)
        first.append([seconds])
        if not torch.isfinite(result).all():
            raise FloatingPointError(f"{story.form}, {story.panels} panels: the result is not finite.")
        del result
        peaks.append(weights + used.bytes)
        bar.update()
    for number in range(rounds):
        if number and time.perf_counter() > until:
            break
        for got, story in zip(times, stories, strict=True):
            got.append(seconds_of(story.step, device)[0])
            bar.update()
    times, rows = times if times[0] else first, []
    for story, peak, got in zip(stories, peaks, times, strict=True):
        ratios = [a / b for a, b in zip(got, times[0], strict=True)]
        rows.append(
            {
                "form": story.form,
                "panels": story.panels,
                "passes": len(story.passes),
                "panels_a_pass": len(story.passes[0].panels),
                "seconds_a_step": statistics.median(got),
                "seconds_a_panel_step": statistics.median(got) / story.panels,
                "all_seconds": [round(s, 5) for s in got],
                "time_ratio": statistics.median(ratios),
                "peak_bytes": peak,
                "memory_ratio": peak / peaks[0],
            }
        )
    return rows


def targets(rows):
    """What is asked of ours beside plain and mask: name -> (measured, at most, met)."""
    ours = next(r for r in rows if r["form"] == "ours")
    got = (ours["time_ratio"], ours["memory_ratio"])
    return {n: (v, most, v <= most) for (n, most), v in zip(TARGETS.items(), got, strict=True)}


@torch.no_grad()
def decode(device, tiny, pictures=4):
    """Seconds a picture and peak memory of the autoencoder, as the pipeline decodes: float32, 4 at once."""
    rows = []
    config = TINY_VAE if tiny else shapes.VAE
    vae = shapes.random_model(AutoencoderKL, config, device, torch.float32)
    side = 8 if tiny else 128
    z = torch.randn(pictures, 4, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    for how in ("together", "sliced"):
        (vae.enable_slicing if how == "sliced" else vae.disable_slicing)()
        with peak_memory(device) as used:
            vae.decode(z, return_dict=False)
        seconds = min(seconds_of(lambda: vae.decode(z, return_dict=False), device)[0] for _ in range(2))
        row = {"how": how, "pictures": pictures, "seconds_a_picture": seconds / pictures}
        rows.append(row | {"peak_bytes": weight_bytes(vae) + used.bytes})
    return rows


def versions():
    """What ran: for the record."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
    }


def plan(args):
    """Groups of stories that take turns: name -> list of (form, panels, window, long_story), rounds."""
    three = [(form, 4, None, "passes") for form in ("plain", "ours", "mask")]
    yield "four panels", three, args.rounds
    for panels in args.panels:
        yield (
            f"{panels} panels, window of 4",
            [("plain", panels, 4, "passes"), ("ours", panels, 4, "passes"), ("ours", panels, 4, "bank")],
            0 if panels > 16 else 2,  # tens of passes are mean enough
        )
    yield "8 panels, no window", [(form, 8, None, "passes") for form in ("plain", "ours", "mask")], 3
    yield "four panels, channels last", three[:2], args.rounds


def table(groups):
    """The rows as text."""
    head = f"{'form':6}{'how':>10}{'panels':>7}{'passes':>7}{'s/step':>9}{'s/panel-step':>13}"
    head += f"{'time':>7}{'GB':>8}{'memory':>8}"
    lines = []
    for name, rows in groups.items():
        lines += ["", f"{name}:", head]
        for r in rows:
            lines.append(
                f"{r['form']:6}{r['long_story'] or '':>10}{r['panels']:7}{r['passes']:7}"
                f"{r['seconds_a_step']:9.3f}{r['seconds_a_panel_step']:13.4f}{r['time_ratio']:7.2f}"
                f"{r['peak_bytes'] / 1e9:8.2f}{r['memory_ratio']:8.2f}"
            )
    return "\n".join(lines)


def main(argv=None):
    start = time.perf_counter()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rate", type=float, default=0.5)
    p.add_argument("--rounds", type=int, default=8, help="timed rounds at 4 panels")
    p.add_argument("--panels", type=int, nargs="*", default=[8, 16, 32, 64], help="longer stories")
    p.add_argument("--seconds", type=float, default=100, help="begin nothing that would end after so long")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--tiny", action="store_true", help="a small U-Net in float32: a trial, no result")
    p.add_argument("--save", action="store_true", help=f"write book/results/{RESULT.name}")
    p.add_argument("--out", type=Path, help="write the record to this file")
    args = p.parse_args(argv)
    cuda = torch.device(args.device).type == "cuda"
    if cuda and not torch.cuda.is_available():
        p.error(f"torch {torch.__version__} sees no GPU here; --tiny --device cpu is a trial without one.")
    if not cuda and not args.tiny:
        p.error("SDXL at its true size takes minutes a step on a CPU: run this on a GPU, or add --tiny.")
    if args.save and args.tiny:
        p.error("--tiny measures nothing worth keeping: leave --save out.")

    dtype = torch.float32 if args.tiny else torch.float16
    unet = shapes.random_model(UNet2DConditionModel, TINY if args.tiny else shapes.UNET, args.device, dtype)
    weights = weight_bytes(unet)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    parts = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    pipe = StoryPipeline(**dict.fromkeys(parts), unet=unet, scheduler=scheduler, add_watermarker=False)
    made = time.perf_counter() - start
    print(f"{machine()}, torch {torch.__version__}; U-Net {weights / 1e9:.2f} GB, made in {made:.0f} s.")

    groups, left_out, plain_panel = {}, [], None
    todo = list(plan(args))
    total = sum(len(stories) * (rounds + 1) for _, stories, rounds in todo)
    with tqdm(total=total, desc="stories", mininterval=5) as bar:
        for name, stories, rounds in todo:
            if plain_panel is not None:
                passes_of = [passes(f, w, how, form != "plain") for form, f, w, how in stories]
                passed = sum(len(p.panels) for story in passes_of for p in story)  # through the U-Net
                need = 1.3 * plain_panel * passed * (rounds + 1)
                if time.perf_counter() - start + need > args.seconds:
                    left_out.append(name)
                    bar.update(len(stories) * (rounds + 1))
                    continue
            if name.endswith("channels last"):
                torch.nn.Module.to(unet, memory_format=torch.channels_last)
            forms = [Story(pipe, form, f, args.rate, w, how) for form, f, w, how in stories]
            groups[name] = measure(forms, rounds, args.device, weights, bar, start + args.seconds)
            for row, (_, _, window, how) in zip(groups[name], stories, strict=True):
                row["long_story"] = how if window else None
            plain_panel = plain_panel or groups[name][0]["seconds_a_panel_step"]
            del forms
    print(table(groups))
    for name in left_out:
        print(f"\nleft out for want of time: {name}")
    print()
    checked = targets(groups["four panels"])
    for name, (value, most, met) in checked.items():
        print(f"  {name:20}{value:6.3f}   target at most {most:4.2f}: {'met' if met else 'MISSED'}")
    del unet, pipe
    if cuda:
        torch.cuda.empty_cache()
    decoded = []
    if time.perf_counter() - start < args.seconds - 5:
        decoded = decode(args.device, args.tiny)
        for r in decoded:
            print(f"  autoencoder, {r['pictures']} pictures {r['how']:9}", end="")
            print(f"{r['seconds_a_picture']:7.3f} s a picture", end="")
            print(f"{r['peak_bytes'] / 1e9:7.2f} GB")
    record = {
        "experiment": "gpu_sdxl",
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "dtype": str(dtype).removeprefix("torch."),
        "pixels": unet_pixels(args.tiny),
        "rate": args.rate,
        "guidance_halves": 2,
        "unet_bytes": weights,
        "targets": {n: {"measured": v, "at_most": m, "met": ok} for n, (v, m, ok) in checked.items()},
        "groups": groups,
        "left_out": left_out,
        "autoencoder": decoded,
        "seconds": round(time.perf_counter() - start, 1),
    }
    for path in [args.out] * bool(args.out) + [RESULT] * args.save:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        part.replace(path)
        print(f"written: {path.name}")


def unet_pixels(tiny):
    return 8 * (TINY if tiny else shapes.UNET)["sample_size"]


if __name__ == "__main__":
    main()
