"""One self-attention layer in several forms, in turns, in one run: seconds, operations, bytes, error.

    python benchmarks/bench_attention.py [--tokens 1024 4096] [--rounds 3 2] [--device cpu] [--save]
    python benchmarks/bench_attention.py --forms plain ours ring --dtypes float32 bfloat16

- plain: diffusers' attention, each panel reads itself.
- ours: the processor `ConsistentSelfAttention`, which gathers what is read.
- mask: the form that the released code uses, written from its description: the panels of a guidance half are
  one long sequence, and a mask of (panels x tokens)^2 hides what may not be read.
- ring (where asked for): picks are laid end to end, nearly twice, so that what each panel reads of the others
  is a strided view; own tokens and ring are two attentions, merged by their log-sum-exp. On a CPU it is not
  faster, from 64 to 4,096 tokens, at the same error and with more memory, and it needs panels that all read
  each other: ours is the gather. On a GPU it is still to be tried.

Every round runs each form once, so that whatever else the machine does falls on all of them. A ratio is the
median of the rounds' ratios to plain. The mask is made once, outside the time (the released code makes it
once a step), but it is held, so its bytes count. The error is the largest difference from ours in float64,
with the same rounded weights and input. ``--save`` writes ``book/results/bench_attention.json``.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from storydiff_lite.attention import ConsistentSelfAttention, out, project
from storydiff_lite.memory import peak_memory
from storydiff_lite.schedule import AttentionPlan
from storydiff_lite.training.common import machine

RESULT = Path(__file__).parent.parent / "book" / "results" / "bench_attention.json"
HALVES, FORMS = 2, ("plain", "ours", "mask")
#: asked of ours at this many tokens; extra memory is what a form needs beyond plain attention
ASKED_AT = 4096
TARGETS = {
    "time over the floor": 1.15,
    "time over the mask form": 0.6,
    "extra memory over the mask form": 0.1,
}


def reads(form, panels, tokens, rate):
    """Tokens with which a query is compared, whether it may read them or not."""
    picked = tokens + (panels - 1) * round(rate * tokens)
    return {"plain": tokens, "ours": picked, "ring": picked, "mask": panels * tokens}[form]


def flops(form, panels, tokens, width, rate):
    """Floating-point operations of one layer: ``(attention, projections)``, both guidance halves.

    Two products of a query with what it reads, 2 C operations each; four linear layers, 2 C^2 for each token.
    """
    images = HALVES * panels
    attention = images * tokens * reads(form, panels, tokens, rate) * 4 * width
    return attention, images * tokens * 8 * width**2


def peak_bytes(form, panels, tokens, width, rate, size):
    """What must be alive at once by the shapes, beyond the input; ``size``: bytes of a number.

    The mask form converts its mask (a byte an entry) to numbers on the way into the kernel.
    """
    state = panels * tokens * width * size  # one tensor [F, N, C], one half
    if form == "mask":  # the other half's result, then q, k, v and the result of this one
        return 5 * state + (panels * tokens) ** 2 * (1 + size)
    both = HALVES * state
    if form == "ring":  # q, k, v, both results; then one half's ring
        return 5 * both + 2 * (2 * panels - 1) * round(rate * tokens) * width * size
    most = 5 * both  # q, k, v, what was read, the output
    if form == "ours":
        read = reads(form, panels, tokens, rate)
        readers, done = HALVES * panels, 0
        together = min(readers, max(1, readers * tokens // read))  # gathered at once, see attention.read
        while done < readers:  # q, k, v; what earlier readers got; these readers' keys, values and result
            now = min(together, readers - done)
            most = max(most, 3 * both + ((done + now) * tokens + 2 * now * read) * width * size)
            done += now
    return most


def visible(picks, tokens):
    """The mask [F N, F N] of picks [F, K]: True where a query may read."""
    panels = len(picks)
    row = torch.zeros(panels, tokens, dtype=torch.bool, device=picks.device).scatter(1, picks, True)
    rows = row.flatten().repeat(panels, 1)  # [F, F N]: the picks of all panels
    for i in range(panels):
        rows[i, i * tokens : (i + 1) * tokens] = True  # all of the own
    return rows.repeat_interleave(tokens, 0)


def mask_form(attn, x, mask, panels):
    """Attention over all panels of a half at once: x [H F, N, C] -> [H F, N, C]."""
    return torch.cat([_mask_half(attn, half, mask) for half in x.split(panels)])


def _mask_half(attn, half, mask):
    q, k, v = project(attn, half.flatten(0, 1)[None])  # [1, F N, C]
    q, k, v = (t.unflatten(2, (attn.heads, -1)).transpose(1, 2) for t in (q, k, v))  # [1, h, F N, d]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out(attn, y.transpose(1, 2).flatten(2)).view_as(half)


def ring_form(attn, x, picks):
    """Attention to the own tokens, and to the picks [F, K] of the others in place: x [H F, N, C] -> the same.

    The others of panel i are rows (i + 1) K to (i + F) K of the picks [p0 .. pF-1 p0 .. pF-2].
    """
    (f, k), n, c, heads = picks.shape, x.shape[1], x.shape[2], attn.heads
    queries, keys, values = project(attn, x)  # [H F, N, C]
    split = [t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (queries, keys, values)]  # [H F, h, N, d]
    own, own_lse = attention_and_lse(*split)  # [H F, h, N, d], [H F, h, N]
    flat = torch.arange(f, device=x.device)[:, None] * n + picks  # [F, K] token of panel -> of all
    ring = flat.repeat(2, 1)[:-1].flatten()  # [(2 F - 1) K]
    view = (f, heads, (f - 1) * k, c // heads), (k * c, c // heads, c, 1), k * c
    for i in range(0, len(x), f):  # a half
        laid = (t[i : i + f].flatten(0, 1)[ring].as_strided(*view) for t in (keys, values))
        others, lse = attention_and_lse(split[0][i : i + f], *laid)
        share = (own_lse[i : i + f] - lse).sigmoid()[..., None].to(x.dtype)  # of the softmax that is own
        own[i : i + f] = others.lerp(own[i : i + f], share)
    return out(attn, own.transpose(1, 2).flatten(2))


def attention_and_lse(q, k, v):
    """Attention [B, h, N, d] of a fused kernel, and the logarithm of its softmax's denominator [B, h, N]."""
    aten = torch.ops.aten
    kernel = aten._scaled_dot_product_flash_attention
    return (kernel if q.is_cuda else aten._scaled_dot_product_flash_attention_for_cpu)(q, k, v)[:2]


def forms(panels, tokens, width, heads, rate, device, dtype, seed=0):
    """Name -> a function that runs the form on one input, and the mask."""
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        attn = Attention(width, heads=heads, dim_head=width // heads).eval().requires_grad_(False)
    attn = attn.to(device, dtype)
    x = torch.randn(HALVES * panels, tokens, width, generator=g).to(device, dtype)
    plan = AttentionPlan.among(panels, rate, seeds=(seed,))
    plain, ours = AttnProcessor2_0(), ConsistentSelfAttention(plan, "layer")
    mask = visible(plan.picks("layer", tokens)[0].to(device), tokens)
    return {
        "plain": lambda: plain(attn, x),
        "ours": lambda: ours(attn, x),
        "mask": lambda: mask_form(attn, x, mask, panels),
        "ring": lambda: ring_form(attn, x, plan.picks("layer", tokens)[0].to(device)),
        "float64": lambda: ours(copy.deepcopy(attn).double(), x.double()),
    }, mask


@torch.no_grad()
def measure(panels, tokens, width, heads, rate, rounds, device, dtype, names=FORMS):
    """Rows of the table, one for each form (plain among them)."""
    runs, mask = forms(panels, tokens, width, heads, rate, device, dtype)
    cuda = torch.device(device).type == "cuda"
    if cuda:
        for name in names:  # choosing kernels is not what is timed
            runs[name]()
    seconds, peak, results = {name: [] for name in names}, {}, {}
    for number in range(rounds):
        for name in names:
            # the first round also measures memory: microseconds for each of a dozen operations
            used = peak_memory(device) if number == 0 else None
            if used:
                got = used.__enter__()
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            result = runs[name]()
            if cuda:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
            if used:
                used.__exit__(None, None, None)
                peak[name] = got.bytes + (mask.nbytes if name == "mask" else 0)
                results[name] = result
            del result
    exact = runs["float64"]()
    rows, size = [], torch.finfo(dtype).bits // 8
    for name in names:
        attention, projections = flops(name, panels, tokens, width, rate)
        base = flops("plain", panels, tokens, width, rate)
        rows.append(
            {
                "tokens": tokens,
                "dtype": str(dtype).removeprefix("torch."),
                "form": name,
                "seconds": statistics.median(seconds[name]),
                "ratio": statistics.median(
                    a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)
                ),
                "attention_flops": attention,
                "projection_flops": projections,
                "floor": attention / base[0],
                "floor_with_projections": (attention + projections) / sum(base),
                "peak_bytes": peak[name],
                "peak_bytes_by_shapes": peak_bytes(name, panels, tokens, width, rate, size),
                "extra_bytes": max(0, peak[name] - peak["plain"]),
                "rounds": rounds,
                "error": None if name == "plain" else float((results[name] - exact).abs().max()),
            }
        )
        if "mask" in names:
            pairs = zip(seconds[name], seconds["mask"], strict=True)
            rows[-1]["to_mask"] = statistics.median(a / b for a, b in pairs)
            difference = float((results["ours"] - results["mask"]).abs().max())
            rows[-1]["difference_to_mask"] = difference if name == "ours" else 0.0
    return rows


def targets(rows):
    """What is asked of the rows of 4,096 tokens: name -> (measured, at most, met)."""
    row = {r["form"]: r for r in rows}
    ours, mask = row["ours"], row["mask"]
    got = (
        ours["ratio"] / ours["floor"],
        ours["to_mask"],
        ours["extra_bytes"] / mask["extra_bytes"],
    )
    return {
        name: (value, most, value <= most) for (name, most), value in zip(TARGETS.items(), got, strict=True)
    }


def table(rows):
    """The rows as text."""
    lines = [
        f"{'tokens':>6} {'dtype':9}{'form':6}{'seconds':>9}{'to plain':>9}{'floor':>7}{'(+proj.)':>9}"
        f"{'GFLOP':>7}{'peak MB':>9}{'(shapes)':>9}{'extra MB':>9}{'error':>9}"
    ]
    for r in rows:
        total = (r["attention_flops"] + r["projection_flops"]) / 1e9
        lines.append(
            f"{r['tokens']:6} {r['dtype']:9}{r['form']:6}{r['seconds']:9.4f}{r['ratio']:9.2f}"
            f"{r['floor']:7.2f}{r['floor_with_projections']:9.2f}{total:7.0f}{r['peak_bytes'] / 1e6:9.0f}"
            f"{r['peak_bytes_by_shapes'] / 1e6:9.0f}{r['extra_bytes'] / 1e6:9.0f}"
            f"{'-' if r['error'] is None else format(r['error'], '.1e'):>9}"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--panels", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--rounds", type=int, nargs="+", help="for each number of tokens (3 and 2; GPU: 20)")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--forms", nargs="+", choices=(*FORMS, "ring"), default=FORMS)
    parser.add_argument("--dtypes", nargs="+", help="float32; on a GPU float16 bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help=f"write book/results/{RESULT.name}")
    parser.add_argument("--out", type=Path, help="write the record to this file")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    rounds = args.rounds or [20 if cuda else max(2, 3 * 1024 // n) for n in args.tokens]
    if "plain" not in args.forms:
        parser.error("The others are compared with the plain form: name it among the --forms.")
    if len(rounds) != len(args.tokens):
        parser.error(f"{len(args.tokens)} numbers of tokens need as many of rounds, not {len(rounds)}.")

    print(
        f"{args.panels} panels x {HALVES} guidance halves, width {args.width}, {args.heads} heads, rate ",
        end="",
    )
    print(f"{args.rate:g}; torch {torch.__version__.split('+')[0]}, {machine()}.")
    print(f"Medians of {', '.join(map(str, rounds))} rounds; floor: operations over plain's.\n")
    dtypes = args.dtypes or (["float16", "bfloat16"] if cuda else ["float32"])
    rows, checked = [], {}
    small = (args.panels, 64, args.width, args.heads, args.rate)
    for dtype in (getattr(torch, name) for name in dtypes):
        measure(*small, 1, args.device, dtype, args.forms)  # the first call of a library is not what is timed
        for tokens, times in zip(args.tokens, rounds, strict=True):
            size = args.panels, tokens, args.width, args.heads, args.rate
            new = measure(*size, times, args.device, dtype, args.forms)
            rows += new
            if tokens == ASKED_AT and set(FORMS) <= set(args.forms):
                checked[f"{tokens} tokens, {new[0]['dtype']}"] = targets(new)
    print(table(rows))
    for size, results in checked.items():
        print(f"\n{size}:")
        for name, (value, most, met) in results.items():
            print(f"  {name:32}{value:6.2f}   target at most {most:4.2f}: {'met' if met else 'MISSED'}")
    for path in [args.out] * bool(args.out) + [RESULT] * args.save:
        record = {"machine": machine(), "torch": torch.__version__.split("+")[0], "halves": HALVES}
        record |= {k: getattr(args, k) for k in ("panels", "width", "heads", "rate")} | {"rows": rows}
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"\nwritten: {path.name}")


if __name__ == "__main__":
    main()
