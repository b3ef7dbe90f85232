"""Stories longer than their window: windows over passes, windows inside layers, the bank, panels that stay
alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from hypothesis import given, settings
from hypothesis import strategies as st

from storydiff_lite.attention import ConsistentSelfAttention
from storydiff_lite.guidance import guide, rescale
from storydiff_lite.memory import peak_memory
from storydiff_lite.schedule import AttentionPlan
from storydiff_lite.story import Panel
from storydiff_lite.tokens import TriggerWordError
from storydiff_lite.windows import Pass, passes

MODES = ("passes", "attention", "bank")
WORDS = ("reads", "sleeps", "runs", "sings", "waits", "cooks", "paints")
STORY = [f"a bear {word} in the forest" for word in WORDS]
FEW = {"num_inference_steps": 2, "output_type": "np", "consistency": 0.5}


def close(a, b):
    np.testing.assert_allclose(a, b, atol=2e-5)


def differ(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-4


@pytest.fixture
def shared(tiny_pipe):
    """The pipeline, and the `AttentionPlan` of every call in a list."""
    made = []

    class Noted(AttentionPlan):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    tiny_pipe.attention_plan = Noted
    return tiny_pipe, made


# ------------------------------------------------------------------------------------ which panels, when
@given(f=st.integers(1, 30), w=st.integers(1, 31))
def test_windows_over_passes_hold_every_panel_as_often_as_they_should(f, w):
    parts = passes(f, w)
    assert all(p.role is None and p.step == 0 for p in parts)
    assert len(parts) == max(1, f - w + 1) and all(len(p.panels) == min(w, f) for p in parts)
    for i in range(f):
        held = sum(i in p.panels for p in parts)
        assert held == (1 if w >= f else min(i + 1, f - i, w, f - w + 1))


@given(f=st.integers(1, 30), w=st.integers(1, 31))
def test_bank_writes_once_and_everyone_goes_through_once(f, w):
    parts = passes(f, w, "bank")
    assert [i for p in parts for i in p.panels] == list(range(f))
    assert all(len(p.panels) <= w for p in parts)
    roles = [p.role for p in parts]
    assert roles == ([None] if w >= f else ["write"] + ["read"] * (len(parts) - 1))


@pytest.mark.parametrize("mode", MODES)
def test_without_sharing_or_window(mode):
    assert passes(5, None, mode) == [Pass(0, range(5))] == passes(5, 5, mode) == passes(5, 9, mode)
    assert passes(5, 2, mode, sharing=False) == [
        Pass(0, range(0, 2)),
        Pass(0, range(2, 4)),
        Pass(0, range(4, 5)),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_window_as_long_as_the_story_changes_nothing(tiny_pipe, mode):
    story = STORY[:3]
    want = tiny_pipe(story, **FEW).images
    for window in (3, 8):
        assert np.array_equal(tiny_pipe(story, window=window, long_story=mode, **FEW).images, want)
    assert differ(tiny_pipe(story, window=2, long_story=mode, **FEW).images, want)


def test_what_goes_through_the_unet(tiny_pipe):
    """Pictures a pass, halves counted: the most is what memory depends on."""
    sizes = []
    handle = tiny_pipe.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    want = {
        "passes": [4] * 6,  # 7 panels make 6 windows of 2
        "attention": [14],
        "bank": [4, 4, 4, 2],
    }
    for mode, expected in want.items():
        sizes.clear()
        tiny_pipe(STORY, window=2, long_story=mode, **FEW | {"num_inference_steps": 1})
        assert sizes == expected, mode
    handle.remove()


# ------------------------------------------------------------------------------------ windows over passes
@pytest.mark.parametrize(("guidance", "phi"), [(4.0, 0.0), (4.0, 0.7), (1.0, 0.0)])
def test_passes_average_the_predictions_of_all_windows(tiny_pipe, guidance, phi):
    """Written out: each window alone through the U-Net, sums and counts for all panels, then guidance."""
    story, w, seed = STORY[:5], 3, 4
    noise = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = tiny_pipe(
        story,
        window=w,
        seed=seed,
        latents=noise,
        guidance_scale=guidance,
        guidance_rescale=phi,
        **FEW | {"output_type": "latent"},
    ).images

    halves = [[""] * 5, story] if guidance > 1 else [story]
    sizes = torch.tensor([[32, 32, 0, 0, 32, 32]], dtype=torch.float)
    plan, x = AttentionPlan.among(5, 0.5, (seed,)), noise
    tiny_pipe.scheduler.set_timesteps(2)
    with torch.no_grad(), plan.installed(tiny_pipe.unet):
        for i, t in enumerate(tiny_pipe.scheduler.timesteps):
            total, count = torch.zeros(len(halves), 5, 4, 8, 8), torch.zeros(5, 1, 1, 1)
            for first in range(5 - w + 1):
                some = range(first, first + w)
                plan.now = Pass(i, some)
                told = [tiny_pipe.prompts([texts[j] for j in some]) for texts in halves]
                states, pooled = (torch.cat(part) for part in zip(*told, strict=True))
                added = {"text_embeds": pooled, "time_ids": sizes.expand(len(states), -1)}
                rows = x[first : first + w].repeat(len(halves), 1, 1, 1)
                pred = tiny_pipe.unet(rows, t, states, added_cond_kwargs=added).sample
                total[:, first : first + w] += pred.view(len(halves), w, 4, 8, 8)
                count[first : first + w] += 1
            mean = total / count
            pred = guide(*mean, guidance) if guidance > 1 else mean[0]
            pred = rescale(pred, mean[1], phi) if phi else pred
            x = tiny_pipe.scheduler.step(pred, t, x).prev_sample
    torch.testing.assert_close(ours, x, atol=2e-5, rtol=0)


def test_a_panel_changes_others_only_within_reach(tiny_pipe):
    """Another text for panel 0: in one step, windows of 3 carry it to panels 1 and 2 and no further."""
    one = FEW | {"num_inference_steps": 1}
    other = ["a red house in the snow", *STORY[1:]]
    a, b = (tiny_pipe(s, window=3, guidance_scale=1, **one).images for s in (STORY, other))
    assert differ(a[1], b[1]) and differ(a[2], b[2])
    close(a[3:], b[3:])


# ------------------------------------------------------------------------------------ prompts of a long story
@pytest.mark.parametrize("mode", ("passes", "bank"))
def test_prompts_encoded_for_each_pass_are_the_prompts(tiny_pipe, mode):
    """A callback that gets the prompts has all encoded at once; without one they are encoded pass by pass."""
    story = [Panel(STORY[0], negative_prompt="fog"), *STORY[1:4], STORY[1]]
    settings = {"window": 2, "long_story": mode, "negative_prompt": "rain", **FEW}
    asks = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    at_once = tiny_pipe(story, callback_on_step_end=lambda *args: {}, **asks, **settings).images
    by_pass = tiny_pipe(story, **settings).images
    close(by_pass, at_once)
    assert differ(by_pass, tiny_pipe(story, **settings | {"negative_prompt": None}).images)


def test_texts_are_looked_at_before_anything_is_drawn(tiny_pipe):
    calls = []
    handle = tiny_pipe.unet.register_forward_pre_hook(lambda *args: calls.append(1))
    with pytest.raises(TriggerWordError):
        tiny_pipe([*STORY[:4], "a man img reads"], window=2, **FEW)
    assert not calls
    with pytest.warns(UserWarning, match="zebra") as caught:
        tiny_pipe([*STORY[:4], "a bear " + "and a tree " * 40 + "zebra"], window=2, **FEW)
    assert sum("zebra" in str(w.message) for w in caught) == 1
    handle.remove()


# ------------------------------------------------------------------------------------ the bank
def dense(attn, x, visible):
    """Attention over all tokens of all panels, [P, N, C], under a mask [P, P * N]: the oracle."""
    p, n, c = x.shape
    q, k, v = (
        f(x).view(*shape, attn.heads, c // attn.heads).transpose(1, 2)
        for f, shape in ((attn.to_q, (p, n)), (attn.to_k, (1, p * n)), (attn.to_v, (1, p * n)))
    )
    k, v = (y.expand(p, -1, -1, -1) for y in (k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None, :].expand(-1, 1, n, -1))
    return attn.to_out[0](y.transpose(1, 2).reshape(p, n, c))


def make_attn(width, heads):
    torch.manual_seed(0)
    return Attention(width, heads=heads, dim_head=width // heads, bias=False).double().eval()


@settings(max_examples=25, deadline=None)
@given(
    w=st.integers(1, 3),
    more=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    halves=st.integers(1, 2),
    seeds=st.sampled_from([(3,), (3, 9)]),
    rate=st.sampled_from([0.25, 0.5, 1.0]),
    data=st.data(),
)
def test_bank_equals_one_dense_attention(w, more, halves, seeds, rate, data):
    """Writers read each other's picks, readers those of all writers, nobody reads a reader, halves and
    stories stay apart, panels that are alone read themselves."""
    n, c, attn = 6, 8, make_attn(8, 2)
    f = w + sum(more)
    alone = [[data.draw(st.booleans()) for _ in range(f)] for _ in seeds]
    x = torch.randn(halves, len(seeds), f, n, c, dtype=torch.double)
    shown = ~torch.tensor(alone)  # [S, F]
    plan = AttentionPlan(shown[:, :, None] & shown[:, None], rate, seeds)
    processor, got, start = ConsistentSelfAttention(plan, "layer"), [], 0
    for k, length in enumerate([w, *more]):
        some = range(start, start + length)
        plan.now = Pass(0, some, "read" if k else "write")
        if k == 0:
            picks = plan.picks("layer", n)  # [S, W, K]
        part = processor(attn, x[:, :, some.start : some.stop].flatten(0, 2))
        got.append(part.view(halves, len(seeds), length, n, c))
        start += length
    got = torch.cat(got, 2)
    for h in range(halves):
        for s in range(len(seeds)):
            visible = torch.zeros(f, f, n, dtype=torch.bool)
            for i in range(f):
                visible[i, i] = True
                for j in range(w):
                    if j != i and not alone[s][i] and not alone[s][j]:
                        visible[i, j, picks[s, j]] = True
            want = dense(attn, x[h, s], visible.flatten(1))
            torch.testing.assert_close(got[h, s], want, atol=1e-10, rtol=0)


def test_bank_holds_one_step_of_one_call(shared):
    pipe, made = shared
    seen = []

    def look(pipe, step, t, tensors):
        seen.append({layer: list(keys.shape[:3]) for layer, (keys, *_) in made[-1].bank.items()})
        return tensors

    pipe(STORY, window=3, long_story="bank", callback_on_step_end=look, **FEW)
    assert len(seen) == 2 and seen[0] == seen[1] and seen[0]
    assert all(shape[:2] == [2, 3] for shape in seen[0].values())  # two halves of one story, three panels
    assert {shape[2] for shape in seen[0].values()} <= {32, 8}  # half of 64 or 16 tokens
    assert not made[-1].bank


def test_bank_is_empty_after_an_error(shared):
    pipe, made = shared

    def fail(*args):
        assert made[-1].bank
        raise RuntimeError("stop here")

    before = dict(pipe.unet.attn_processors)
    with pytest.raises(RuntimeError, match="stop here"):
        pipe(STORY, window=2, long_story="bank", callback_on_step_end=fail, **FEW)
    assert not made[-1].bank and dict(pipe.unet.attn_processors) == before


def test_a_reader_does_not_depend_on_other_readers(tiny_pipe):
    """Drawn with the bank, panel 3 is the same whatever the other later panels are, and however many."""
    settings = {"window": 2, "long_story": "bank", **FEW}
    want = tiny_pipe(STORY[:4], **settings).images
    for story in (STORY, [*STORY[:2], "a house", STORY[3], "a tree"]):
        got = tiny_pipe(story, **settings).images
        close(got[:2], want[:2])
        close(got[3], want[3])
    assert differ(tiny_pipe(["a house", *STORY[1:4]], **settings).images[3], want[3])
    close(tiny_pipe(STORY[:2], **settings).images, want[:2])  # and writers not on readers


# ------------------------------------------------------------------------------------ apart from each other
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_panels_without_a_character_are_drawn_as_if_alone(tiny_pipe, mode, guidance):
    noise = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    story = [STORY[0], "[NC] a house in the snow", STORY[2], STORY[3], "[NC] a red tree", STORY[5]]
    settings = FEW | {"guidance_scale": guidance}
    told = tiny_pipe(story, latents=noise, window=2, long_story=mode, **settings).images
    for i in (1, 4):
        alone = tiny_pipe([story[i]], latents=noise[i : i + 1], **settings).images
        close(told[i], alone[0])
    # nor does anybody read them
    other = [*story[:1], "[NC] fog", *story[2:4], "[NC] a boat", *story[5:]]
    again = tiny_pipe(other, latents=noise, window=2, long_story=mode, **settings).images
    close(again[[0, 2, 3, 5]], told[[0, 2, 3, 5]])
    # while those with a character do share: without the marks everything is another picture
    plain = [p.removeprefix("[NC] ") for p in story]
    assert differ(tiny_pipe(plain, latents=noise, window=2, long_story=mode, **settings).images[0], told[0])


@pytest.mark.parametrize("mode", MODES)
def test_a_story_in_which_everybody_is_alone(tiny_pipe, mode):
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    alone = tiny_pipe(STORY[:4], latents=noise, **FEW | {"consistency": 0}).images
    marked = [f"[NC] {p}" for p in STORY[:4]]
    close(tiny_pipe(marked, latents=noise, window=2, long_story=mode, **FEW).images, alone)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("consistency", [0, 0.5, 1])
def test_two_stories_at_once_equal_one_by_one(tiny_pipe, mode, consistency):
    stories = [STORY[:5], [STORY[6], "[NC] a house", *STORY[1:4]]]
    settings = {"window": 2, "long_story": mode, **FEW, "consistency": consistency}
    together = tiny_pipe.tell_many(stories, seeds=[5, 6], **settings)
    for out, story, seed in zip(together, stories, (5, 6), strict=True):
        close(out.images, tiny_pipe(story, seed=seed, **settings).images)


@pytest.mark.parametrize("mode", MODES)
def test_halves_never_mix(tiny_pipe, mode):
    """What is predicted for a prompt does not depend on the negative prompt beside it."""
    seen = []
    handle = tiny_pipe.unet.register_forward_hook(lambda m, a, out: seen.append(out[0].clone()))
    predictions = []
    for negative in ("fog", "a boat on the sea"):
        seen.clear()
        tiny_pipe(
            STORY,
            window=3,
            long_story=mode,
            negative_prompt=negative,
            **FEW | {"num_inference_steps": 1},
        )
        predictions.append([out.chunk(2) for out in seen])
    handle.remove()
    for one, two in zip(*predictions, strict=True):
        torch.testing.assert_close(one[1], two[1], atol=2e-5, rtol=0)
        assert differ(one[0], two[0])


# ------------------------------------------------------------------------------------ memory
@pytest.mark.parametrize("mode", ("passes", "bank"))
def test_a_longer_story_needs_two_latents_more_for_each_panel(tiny_pipe, mode):
    """The latents and their prediction; nothing else may grow with the story."""
    peaks = {}
    for n in (12, 60):
        story = [f"a bear reads book {i}" for i in range(n)]
        with peak_memory() as used:
            tiny_pipe(story, window=4, long_story=mode, **FEW | {"output_type": "pil"})
        peaks[n] = used.bytes
    latent = 4 * 8 * 8 * 4
    assert peaks[60] - peaks[12] <= 1.1 * 2 * latent * 48
