"""Consistent self-attention: equal to recorded vectors, equal to its mask form, halves and stories apart."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from storydiff_lite.attention import (
    ConsistentSelfAttention,
    consistent_self_attention,
    sliding_window_attention,
)
from storydiff_lite.schedule import AttentionPlan, SamplingSchedule, self_attention_layers

DATA = Path(__file__).parent / "data"
CLOSE = {"atol": 1e-10, "rtol": 0}


def plan_of(panels, rate, seeds=(0,), window=None):
    """The plan of stories in which every panel may read every other."""
    return AttentionPlan.among(panels, rate, seeds, window=window)


def make_attn(width, heads, seed=0):
    torch.manual_seed(seed)
    return Attention(width, heads=heads, dim_head=width // heads, bias=False).double().eval()


def masked(attn, frames, visible):
    """The oracle: all tokens of all frames in one pool, row i of the mask says which of them frame i sees."""
    f, n, c = frames.shape

    def split(x):
        return x.view(x.shape[0], -1, attn.heads, c // attn.heads).transpose(1, 2)

    pool = frames.reshape(1, f * n, c).expand(f, -1, -1)
    y = F.scaled_dot_product_attention(
        split(attn.to_q(frames)),
        split(attn.to_k(pool)),
        split(attn.to_v(pool)),
        attn_mask=visible[:, None, None, :].expand(f, 1, n, f * n),
    )
    return attn.to_out[0](y.transpose(1, 2).reshape(f, n, c))


def visible_rows(f, n, picks):
    rows = torch.zeros(f, f * n, dtype=torch.bool)
    for i in range(f):
        rows[i, i * n : (i + 1) * n] = True
        for j in range(f):
            if j != i:
                rows[i, j * n + picks[j]] = True
    return rows


@pytest.fixture(scope="module")
def recorded():
    vectors = load_file(DATA / "attention.safetensors")
    attn = Attention(48, heads=4, dim_head=12, bias=False).double().eval()
    attn.load_state_dict(
        {k.removeprefix("weights."): v for k, v in vectors.items() if k.startswith("weights.")}
    )
    return attn, vectors


def test_released_low_memory_write(recorded):
    attn, v = recorded
    x, want = v["lowvram.id2.sa32.x_write"], v["lowvram.id2.sa32.write.consistent.out"]
    picks = [v[f"lowvram.id2.sa32.indices.{j}"] for j in range(2)]
    for half in (0, 1):  # unconditional, conditional
        rows = slice(2 * half, 2 * half + 2)
        torch.testing.assert_close(consistent_self_attention(attn, x[rows], picks), want[rows], **CLOSE)


def test_released_low_memory_read(recorded):
    """A later image reads the picks of the two written ones, and is not read itself."""
    attn, v = recorded
    x, later, want = (v[f"lowvram.id2.sa32.{k}"] for k in ("x_write", "x_read", "read.consistent.out"))
    picks = [
        v["lowvram.id2.sa32.indices.0"],
        v["lowvram.id2.sa32.indices.1"],
        torch.empty(0, dtype=torch.long),
    ]
    for half in (0, 1):
        frames = torch.cat([x[2 * half : 2 * half + 2], later[half : half + 1]])
        torch.testing.assert_close(consistent_self_attention(attn, frames, picks)[2], want[half], **CLOSE)


def test_released_mask_form(recorded):
    attn, v = recorded
    x, want = v["app.id2.sa32.x_write"], v["app.id2.sa32.write.consistent.out"]
    rows = v["app.id2.sa32.mask_block_rows"].bool()  # [3, 3 * 64]: row i, keys that image i sees
    n = 64
    picks = [rows[1 - j, j * n : (j + 1) * n].nonzero()[:, 0] for j in range(2)]
    for half in (0, 1):
        frames = x[2 * half : 2 * half + 2]
        ours = consistent_self_attention(attn, frames, picks)
        torch.testing.assert_close(ours, want[2 * half : 2 * half + 2], **CLOSE)
        torch.testing.assert_close(ours, masked(attn, frames, rows[:2, : 2 * n]), **CLOSE)


@pytest.mark.parametrize("kind", ["app", "lowvram"])
def test_released_plain_steps(recorded, kind):
    attn, v = recorded
    x, want = v[f"{kind}.id2.sa32.x_write"], v[f"{kind}.id2.sa32.write.plain_early.out"]
    torch.testing.assert_close(AttnProcessor2_0()(attn, x), want, **CLOSE)


@pytest.mark.parametrize("case", ["case0", "case1", "case7"])
def test_algorithm1(case):
    v, info = (
        load_file(DATA / "algorithm1.safetensors"),
        json.loads((DATA / "algorithm1.json").read_text())[case],
    )
    attn = (
        Attention(info["C"], heads=info["heads"], dim_head=info["C"] // info["heads"], bias=False)
        .double()
        .eval()
    )
    attn.load_state_dict(
        {
            "to_q.weight": v[f"{case}.to_q"],
            "to_k.weight": v[f"{case}.to_k"],
            "to_v.weight": v[f"{case}.to_v"],
            "to_out.0.weight": v[f"{case}.to_out_w"],
            "to_out.0.bias": v[f"{case}.to_out_b"],
        }
    )
    picks = [list(window) for window in v[f"{case}.eq2_others.indices"]]
    ours = sliding_window_attention(attn, v[f"{case}.x"], info["tile"], picks)
    torch.testing.assert_close(ours, v[f"{case}.eq2_others.out"], **CLOSE)
    plain = AttnProcessor2_0()(attn, v[f"{case}.x"])
    torch.testing.assert_close(plain, v[f"{case}.plain.out"], **CLOSE)
    if case == "case7":
        torch.testing.assert_close(ours, plain, **CLOSE)


@settings(max_examples=40, deadline=None)
@given(f=st.integers(1, 5), n=st.integers(1, 12), heads=st.integers(1, 3), data=st.data())
def test_equals_mask_form(f, n, heads, data):
    attn = make_attn(heads * 4, heads)
    frames = torch.randn(
        f, n, heads * 4, dtype=torch.double, generator=torch.Generator().manual_seed(f * 100 + n)
    )
    subset = st.lists(st.integers(0, n - 1), unique=True, max_size=n)
    picks = [torch.tensor(data.draw(subset), dtype=torch.long) for _ in range(f)]
    before = frames.clone()
    ours = consistent_self_attention(attn, frames, picks)
    torch.testing.assert_close(ours, masked(attn, frames, visible_rows(f, n, picks)), **CLOSE)
    assert torch.equal(frames, before)


@settings(max_examples=20, deadline=None)
@given(
    f=st.integers(1, 6), n=st.integers(1, 8), window=st.integers(1, 7), rate=st.sampled_from([0.25, 0.5, 1.0])
)
def test_sliding_window_equals_mean_of_windows(f, n, window, rate):
    """Algorithm 1, and the processor with a window: the same as the mean over windows of the mask form."""
    attn = make_attn(8, 2)
    plan = plan_of(f, rate, (5,), window)
    frames = torch.randn(f, n, 8, dtype=torch.double, generator=torch.Generator().manual_seed(n))
    per_panel = plan.picks("x", n)[0]  # [F, K]
    w, k = min(window, f), per_panel.shape[1]
    bare = make_attn(8, 2)
    bare.to_out[0] = torch.nn.Identity()
    total, count, picks = torch.zeros_like(frames), torch.zeros(f, 1, 1), []
    for t in range(f - w + 1):
        total[t : t + w] += masked(bare, frames[t : t + w], visible_rows(w, n, per_panel[t : t + w]))
        count[t : t + w] += 1
        picks.append(
            [
                torch.cat(
                    [torch.empty(0, dtype=torch.long)]
                    + [p * n + per_panel[t + j] for p, j in enumerate(j for j in range(w) if j != i)]
                )
                for i in range(w)
            ]
        )
    want = attn.to_out[0](total / count)
    torch.testing.assert_close(sliding_window_attention(attn, frames, window, picks), want, **CLOSE)
    if f > 1 and k:
        torch.testing.assert_close(ConsistentSelfAttention(plan, "x")(attn, frames), want, **CLOSE)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("halves", [1, 2])
def test_processor_keeps_halves_and_stories_apart(window, halves):
    """[H * S * F] at once equals each half of each story alone."""
    attn, f, n, seeds = make_attn(12, 3), 4, 9, (3, 8)
    x = torch.randn(halves * len(seeds) * f, n, 12, dtype=torch.double)
    together = ConsistentSelfAttention(plan_of(f, 0.5, seeds, window), "layer")(attn, x)
    for h in range(halves):
        for s, seed in enumerate(seeds):
            rows = slice((h * len(seeds) + s) * f, (h * len(seeds) + s + 1) * f)
            plan = plan_of(f, 0.5, (seed,), window)
            alone = ConsistentSelfAttention(plan, "layer")(attn, x[rows])
            torch.testing.assert_close(together[rows], alone, **CLOSE)
            if window is None:
                picks = list(plan.picks("layer", n)[0])
                torch.testing.assert_close(alone, consistent_self_attention(attn, x[rows], picks), **CLOSE)


def test_rate_zero_one_panel_and_cross_attention_are_plain():
    attn, x = make_attn(8, 2), torch.randn(4, 5, 8, dtype=torch.double)
    plain = AttnProcessor2_0()(attn, x)
    assert torch.equal(ConsistentSelfAttention(plan_of(4, 0.0))(attn, x), plain)
    assert torch.equal(ConsistentSelfAttention(plan_of(1, 1.0, range(4)))(attn, x), plain)
    text = torch.randn(4, 3, 8, dtype=torch.double)
    assert torch.equal(
        ConsistentSelfAttention(plan_of(4, 1.0))(attn, x, text), AttnProcessor2_0()(attn, x, text)
    )


def test_picks_are_fixed_in_number_fresh_and_repeatable():
    plan = plan_of(3, 0.3, (1, 2))
    picks = plan.picks("a", 20)
    assert picks.shape == (2, 3, 6) and all(len(set(row.tolist())) == 6 for row in picks.flatten(0, 1))
    assert torch.equal(picks, plan_of(3, 0.3, (1, 2)).picks("a", 20))
    assert torch.equal(picks[1:], plan_of(3, 0.3, (2,)).picks("a", 20))
    assert not torch.equal(picks, plan.picks("b", 20))
    plan.now = plan.now._replace(step=1)
    assert not torch.equal(picks, plan.picks("a", 20))


def test_released_schedule():
    schedule = SamplingSchedule.released(seed=3)
    layers = [f"layer{i}" for i in range(200)]

    def share(step):
        return sum(schedule.active(step, x) for x in layers) / len(layers)

    assert share(0) == share(4) == 0
    assert abs(share(5) - 0.7) < 0.1 and abs(share(19) - 0.7) < 0.1 and abs(share(20) - 0.9) < 0.07
    assert [schedule.active(7, x) for x in layers] == [
        SamplingSchedule.released(seed=3).active(7, x) for x in layers
    ]
    assert [schedule.active(7, x) for x in layers] != [
        SamplingSchedule.released(seed=4).active(7, x) for x in layers
    ]
    assert [SamplingSchedule.between(2, 4).active(i, "x") for i in range(6)] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("bad", [((3, 0.5), (1, 0.2)), ((0, 1.5),), ((-1, 0.5),), ((0, float("nan")),)])
def test_bad_schedule(bad):
    with pytest.raises(ValueError, match="schedule"):
        SamplingSchedule(bad)


def test_bad_shapes():
    attn, x = make_attn(8, 2), torch.randn(3, 4, 8, dtype=torch.double)
    with pytest.raises(ValueError, match="3 frames and picks for 2"):
        consistent_self_attention(attn, x, [torch.tensor([0])] * 2)
    with pytest.raises(ValueError, match="at least one frame"):
        sliding_window_attention(attn, x, 0, [])
    with pytest.raises(ValueError, match="make 2 windows"):
        sliding_window_attention(attn, x, 2, [[]])
    with pytest.raises(ValueError, match="no multiple"):
        ConsistentSelfAttention(plan_of(2, 0.5))(attn, x)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (torch.ones(8, dtype=torch.bool), TypeError),
        (torch.tensor([0.0]), TypeError),
        ([0, 1], TypeError),
        (torch.tensor([8]), ValueError),
        (torch.tensor([-1]), ValueError),
    ],
)
def test_picks_that_are_no_tokens_are_told(wrong, error):
    attn, frames, right = make_attn(16, 2), torch.randn(3, 8, 16).double(), torch.tensor([0, 7])
    assert consistent_self_attention(attn, frames, [right, right[:1], right]).shape == frames.shape
    with pytest.raises(error, match=r"picks\[1\]"):
        consistent_self_attention(attn, frames, [right, wrong, right])
    with pytest.raises(error, match=r"picks\[1\]"):
        sliding_window_attention(attn, frames, 2, [[right, right], [right, wrong]])


def test_layers(tiny_parts):
    unet = tiny_parts["unet"]
    up, every = self_attention_layers(unet), self_attention_layers(unet, "all")
    assert up and all(n.startswith("up_blocks.") and n.endswith("attn1.processor") for n in up)
    assert set(up) < set(every) and len(every) == len(unet.attn_processors) // 2
    assert self_attention_layers(unet, ["up", "down", "mid"]) == every
    with pytest.raises(ValueError, match="called 'sideways'.*up_blocks"):
        self_attention_layers(unet, "sideways")


def test_processors_are_restored_even_after_an_error(tiny_parts):
    unet = tiny_parts["unet"]
    before = dict(unet.attn_processors)
    with pytest.raises(RuntimeError):
        with plan_of(2, 0.5).installed(unet, "all"):
            assert (
                sum(isinstance(p, ConsistentSelfAttention) for p in unet.attn_processors.values())
                == len(before) // 2
            )
            raise RuntimeError
    assert dict(unet.attn_processors) == before
