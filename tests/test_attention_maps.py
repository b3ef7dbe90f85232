"""Recorded maps are the softmax rows that the layers read, within their error; nothing else changes."""

import math
import warnings

import numpy as np
import pytest
import torch

from storydiff_lite.attention_maps import AttentionRecorder
from storydiff_lite.attention_rows import Quantised, patches, pooled_rows, softmax_rows
from storydiff_lite.schedule import AttentionPlan, SamplingSchedule
from storydiff_lite.story import Panel
from storydiff_lite.windows import Pass

STORY = ["a bear reads in the forest", "a bear sleeps on the beach", "a bear runs in the old city"]
FEW = {"num_inference_steps": 3, "output_type": "np"}
TOP = "up_blocks.1.attentions.0"  # of the tiny U-Net: 8 x 8 tokens, 2 heads
DEEP = "up_blocks.0.attentions.0"  # 4 x 4 tokens, 4 heads


class Spy:
    """What the layers got in a step, and the plan they had."""

    def __init__(self, pipe, layer=TOP, step=1):
        self.inputs, self.layer, spy = {}, layer, self

        class Watched(AttentionPlan):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                spy.plan = self

        pipe.attention_plan = Watched
        for n in ("attn1", "attn2"):
            block = next(m for k, m in pipe.unet.named_modules() if k.startswith(layer) and k.endswith(n))
            block.register_forward_pre_hook(self._keep(n, step), with_kwargs=True)
            setattr(self, n, block)

    def _keep(self, name, step):
        def hook(module, args, kwargs):
            if self.plan.now.step == step:
                x = args[0] if args else kwargs["hidden_states"]
                row = self.plan.now.panels.start, x.double(), kwargs.get("encoder_hidden_states")
                self.inputs.setdefault(name, []).append(row)

        return hook

    def dense(self, readable, row=0, panels=3):
        """Attention of the conditional half in its mask form, float64: [F, heads, N, F N]."""
        x = self.inputs["attn1"][row][1][-panels:]  # [F, N, C]
        f, n, _ = x.shape
        w_q, w_k = (m.weight.double() for m in (self.attn1.to_q, self.attn1.to_k))
        q, k = x @ w_q.T, (x @ w_k.T).reshape(f * n, -1)
        d = q.shape[-1] // self.attn1.heads
        out = []
        for i in range(f):
            seen = torch.cat([torch.ones(n, dtype=torch.bool) if j == i else readable[j] for j in range(f)])
            rows = []
            for h in range(self.attn1.heads):
                part = slice(h * d, (h + 1) * d)
                score = q[i][:, part] @ k[:, part].T / math.sqrt(d)
                rows.append(score.masked_fill(~seen, -math.inf).softmax(-1))
            out.append(torch.stack(rows))
        return torch.stack(out)


def readable_of(plan, n, layer=f"{TOP}.transformer_blocks.0.attn1.processor", step=1):
    plan.now = plan.now._replace(step=step)
    picks = plan.picks(layer, n)[0]
    return torch.zeros(len(picks), n, dtype=torch.bool).scatter(1, picks, True)


# ------------------------------------------------------------------------------------------ the arithmetic


def test_rows_and_pools_sum_to_one_and_chunks_do_not_show(tiny_parts, monkeypatch):
    attn = tiny_parts["unet"].up_blocks[1].attentions[0].transformer_blocks[0].attn1
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(64, 16, generator=g), torch.randn(90, 16, generator=g)
    rows = softmax_rows(attn, q, k)
    assert rows.shape == (2, 64, 90) and torch.allclose(rows.sum(-1), torch.ones(2, 64), atol=1e-6)
    cells, columns = patches(8, 8, 4, 4), torch.arange(90) % 7
    whole = pooled_rows(attn, q, k, cells, columns, 16, 7)
    assert torch.allclose(whole.sum(-1), torch.ones(2, 16), atol=1e-6)
    by_hand = torch.stack([rows[..., columns == c].sum(-1) for c in range(7)], -1)  # [2, 64, 7]
    by_hand = torch.stack([by_hand[:, cells == c].mean(1) for c in range(16)], 1)
    assert torch.allclose(whole, by_hand, atol=1e-6)
    monkeypatch.setattr("storydiff_lite.attention_rows.AT_ONCE", 1000)
    assert torch.allclose(pooled_rows(attn, q, k, cells, columns, 16, 7), whole, atol=1e-6)
    mean = pooled_rows(attn, q, k, cells, columns, 16, 7, "mean")
    assert torch.allclose(mean[0], whole.mean(0), atol=1e-6)
    assert torch.allclose(pooled_rows(attn, q, k, cells, columns, 16, 7, [1])[0], whole[1], atol=1e-6)


def test_patches_tile_the_picture():
    assert patches(4, 4, 2, 2).view(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    uneven = patches(13, 19, 8, 12).bincount(minlength=96)
    assert len(uneven) == 96 and uneven.min() >= 1 and uneven.sum() == 13 * 19


def test_quantised_rows_keep_their_promise():
    x = torch.rand(5, 7, 40, generator=torch.Generator().manual_seed(1)).pow(6)
    x[0, 0] = 0
    kept = Quantised.of(x)
    assert kept.codes.dtype == torch.uint8 and kept.nbytes == 5 * 7 * (40 + 4)
    off = (kept.values() - x).abs().amax(-1)
    assert (off <= kept.error() + 1e-9).all() and off.max() > kept.error().max() / 4
    assert torch.equal(kept.error(), x.amax(-1) / 510)
    finer = Quantised.of(x, 65535)
    off = (finer.values() - x).abs().amax(-1)
    assert finer.nbytes == 5 * 7 * (2 * 40 + 4) and (off <= finer.error() + 1e-7).all()
    assert off.max() < kept.error().max() / 100


# ------------------------------------------------------------------------------------------ maps of a story


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_maps_equal_the_mask_form(tiny_pipe, rate, guidance):
    spy, recorder = Spy(tiny_pipe), AttentionRecorder(1, TOP, grid=8)
    tiny_pipe(STORY, consistency=rate, guidance_scale=guidance, seed=5, recorder=recorder, **FEW)
    readable = readable_of(spy.plan, 64) if rate else torch.zeros(3, 64, dtype=torch.bool)
    dense = spy.dense(readable)  # [F, heads, N, F N]
    for head, true in (("mean", dense.mean(1)), (0, dense[:, 0]), (1, dense[:, 1])):
        got = recorder.map(1, TOP, head)
        assert got.shape == (3, 64, 3, 64)
        off = (got.flatten(2) - true).abs().amax(-1)
        assert (off <= recorder.error(1, TOP, head) + 1e-6).all()
        mass = recorder.mass(1, TOP, head)
        assert torch.allclose(mass.double(), true.unflatten(-1, (3, 64)).sum(-1), atol=1e-5)
        assert torch.allclose(mass.sum(-1), torch.ones(3, 64), atol=1e-5)
    assert torch.equal(recorder.sampled(1, TOP), readable)
    if not rate:
        assert torch.equal(recorder.mass(1, TOP).mean(1), torch.eye(3))


def test_layers_of_different_size_share_a_grid(tiny_pipe):
    spy, recorder = Spy(tiny_pipe), AttentionRecorder([0, 1], [TOP, DEEP], grid=4)
    tiny_pipe(STORY, consistency=0.5, recorder=recorder, **FEW)
    assert recorder.map(1, DEEP).shape == recorder.map(1, TOP).shape == (3, 16, 3, 16)
    assert recorder.heads_of(DEEP) == [0, 1, 2, 3] and recorder.heads_of(TOP) == [0, 1]
    assert recorder.tokens_of(TOP) == (8, 8) and recorder.tokens_of(DEEP) == recorder.grid_of(TOP) == (4, 4)
    dense = spy.dense(readable_of(spy.plan, 64)).mean(1).view(3, 4, 2, 4, 2, 3, 4, 2, 4, 2)
    pooled = dense.mean((2, 4)).sum((-3, -1)).reshape(3, 16, 3, 16)
    assert (recorder.map(1, TOP) - pooled).abs().max() <= recorder.error(1, TOP).max() + 1e-6


def test_words_of_the_prompt(tiny_pipe):
    spy, recorder = Spy(tiny_pipe), AttentionRecorder(1, TOP)
    tiny_pipe(STORY, recorder=recorder, **FEW)
    x, states = spy.inputs["attn2"][0][1][-3:], spy.inputs["attn2"][0][2][-3:].double()
    q, k = x @ spy.attn2.to_q.weight.double().T, states @ spy.attn2.to_k.weight.double().T
    q, k = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in (q, k))
    dense = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).mean(1)  # [F, 64, 77]
    assert [w for w, _ in recorder.words(2)] == STORY[2].split()
    longest = max(map(len, recorder.tokens))
    for i, tokens in enumerate(recorder.tokens):
        got = recorder.cross_map(1, TOP)[i]
        assert got.shape == (64, longest + 1)
        assert torch.allclose(got.sum(-1), torch.ones(64), atol=0.02)
        close = {"atol": float(recorder.error(1, TOP, kind="cross").max()) + 1e-6, "rtol": 0}
        torch.testing.assert_close(got[:, : len(tokens)].double(), dense[i, :, : len(tokens)], **close)
        torch.testing.assert_close(got[:, -1].double(), dense[i, :, len(tokens) :].sum(-1), **close)
    bear = recorder.word_map(0, "Bear", 1, TOP)
    assert bear.shape == (8, 8) and torch.equal(bear.flatten(), recorder.cross_map(1, TOP)[0, :, 2])
    the = recorder.words(2)[4]
    assert the == ("the", [5])
    with pytest.raises(KeyError, match="no word 'beach'"):
        recorder.word_map(0, "beach", 1, TOP)


def test_only_the_chosen_is_kept(tiny_pipe):
    recorder = AttentionRecorder([0, 2], TOP, heads=[1], cross=False, grid=None)
    tiny_pipe(STORY, recorder=recorder, **FEW)
    assert recorder.heads_of(TOP) == [1] and recorder.map(2, TOP, 1).shape == (3, 64, 3, 64)
    for call, words in (
        (lambda: recorder.map(1, TOP), r"step 1 .* there are steps \[0, 2\]"),
        (lambda: recorder.map(0, TOP, 0), "Head 0 was not recorded"),
        (lambda: recorder.map(0, DEEP), "names 0 recorded layers"),
        (lambda: recorder.words(0), "cross=True"),
    ):
        with pytest.raises(KeyError, match=words):
            call()
    mean = AttentionRecorder(0, TOP, heads="mean", cross=False)
    tiny_pipe(STORY, recorder=mean, **FEW)
    assert mean.heads_of(TOP) == [] and mean.map(0, TOP).shape == (3, 64, 3, 64)


def test_schedule_and_nc_panels(tiny_pipe):
    """What the schedule leaves plain reads itself; an [NC] panel neither reads nor is read."""
    recorder = AttentionRecorder([0, 1], TOP)
    story = [STORY[0], Panel("the sea", no_character=True), STORY[2]]
    tiny_pipe(story, consistency=0.5, schedule=SamplingSchedule.between(1, 9), recorder=recorder, **FEW)
    assert torch.equal(recorder.mass(0, TOP).mean(1), torch.eye(3))
    mass = recorder.mass(1, TOP).mean(1)
    assert mass[1].tolist() == pytest.approx([0, 1, 0]) and mass[0, 1] == mass[2, 1] == 0 < mass[0, 2]
    assert recorder.sampled(1, TOP).sum(1).tolist() == [32, 0, 32]
    assert not recorder.sampled(0, TOP).any()


def test_windows_over_passes_are_averaged(tiny_pipe):
    spy, recorder = Spy(tiny_pipe), AttentionRecorder(1, TOP)
    tiny_pipe(STORY, consistency=1.0, window=2, recorder=recorder, **FEW)
    everything = torch.ones(2, 64, dtype=torch.bool)
    one, two = (spy.dense(everything, row, 2).mean(1) for row in (0, 1))  # panels 0-1 and 1-2
    got = recorder.map(1, TOP).double()
    true = torch.zeros(3, 64, 3 * 64, dtype=torch.float64)
    true[0, :, :128], true[2, :, 64:] = one[0], two[1]
    true[1, :, :128], true[1, :, 64:] = one[1] / 2, true[1, :, 64:] + two[0] / 2
    true[1, :, 64:128] = one[1][:, 64:] / 2 + two[0][:, :64] / 2
    assert (got.flatten(2) - true).abs().max() <= recorder.error(1, TOP).max() + 1e-6


def test_windows_in_the_layers_are_averaged(tiny_pipe):
    """A layer's output is a mean over its windows, and so is what it reads."""
    spy, recorder = Spy(tiny_pipe), AttentionRecorder(1, TOP)
    tiny_pipe(STORY, consistency=0.5, window=2, long_story="attention", recorder=recorder, **FEW)
    picks, none = readable_of(spy.plan, 64), torch.zeros(64, dtype=torch.bool)
    one, two = (spy.dense([none if j == hidden else picks[j] for j in range(3)]).mean(1) for hidden in (2, 0))
    true = torch.stack([one[0], (one[1] + two[1]) / 2, two[2]])
    got = recorder.map(1, TOP)
    assert (got.flatten(2) - true).abs().max() <= recorder.error(1, TOP).max() + 1e-6
    assert not got[0, :, 2].any() and not got[2, :, 0].any() and got[1, :, 2].any()
    assert torch.equal(recorder.sampled(1, TOP), picks)


def test_bank_tokens_belong_to_the_panels_that_wrote_them(tiny_pipe):
    story = [*STORY[:1], Panel("the sea", no_character=True), *STORY[1:], "a bear rests"]
    spy, recorder = Spy(tiny_pipe), AttentionRecorder(1, TOP)
    tiny_pipe(story, consistency=0.5, window=3, long_story="bank", recorder=recorder, **FEW)
    mass = recorder.mass(1, TOP).mean(1)
    assert mass[:3, 3:].abs().max() == 0, "who writes cannot read the later panels"
    assert mass[3:, 1].abs().max() == 0, "nobody reads a panel without the character"
    assert mass[3, 4] == mass[4, 3] == 0, "who reads the bank reads nothing else of the others"
    assert (mass[3:, [0, 2]] > 0.05).all() and torch.allclose(mass.sum(1), torch.ones(5), atol=1e-5)
    assert recorder.sampled(1, TOP).sum(1).tolist() == [32, 0, 32, 0, 0]

    # the first reader, by hand: its own tokens and the picks of panels 0 and 2
    (_, wrote, _), (first, read, _) = spy.inputs["attn1"]
    assert first == 3
    spy.plan.now = Pass(1, range(3), "write")
    picks = readable_of(spy.plan, 64)
    x = torch.cat([read[-2], wrote[-3:].flatten(0, 1)])  # [64 + 3 * 64, C]
    q, k = read[-2] @ spy.attn1.to_q.weight.double().T, x @ spy.attn1.to_k.weight.double().T
    q, k = (y.unflatten(-1, (2, -1)).transpose(0, 1) for y in (q, k))
    picks[1] = False
    seen = torch.cat([torch.ones(64, dtype=torch.bool), picks.flatten()])
    dense = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf).softmax(-1).mean(0)
    got = recorder.map(1, TOP)[3]  # [64, 5, 64]
    got = torch.cat([got[:, 3], got[:, :3].flatten(1)], 1)
    assert (got - dense).abs().max() <= recorder.error(1, TOP).max() + 1e-6


# ------------------------------------------------------------------------------------------ what it costs


def test_pictures_and_processors_are_as_without(tiny_pipe):
    before = dict(tiny_pipe.unet.attn_processors)
    for settings in ({"consistency": 0.0}, {"consistency": 0.5}, {"consistency": 0.5, "guidance_scale": 1.0}):
        plain = tiny_pipe(STORY, **settings, **FEW).images
        recorder = AttentionRecorder(range(3), "all", grid=4)
        np.testing.assert_array_equal(tiny_pipe(STORY, recorder=recorder, **settings, **FEW).images, plain)
        assert tiny_pipe.unet.attn_processors == before
    assert not tiny_pipe.unet._forward_pre_hooks
    wide = AttentionRecorder(0, "up", grid=4)
    tiny_pipe(STORY, height=32, width=64, recorder=wide, **FEW)
    assert wide.grid_of(TOP) == (4, 8) and wide.tokens_of(TOP) == (8, 16)


def test_all_is_restored_after_an_error(tiny_pipe):
    spy, before = Spy(tiny_pipe), dict(tiny_pipe.unet.attn_processors)

    def stop(*_):
        raise RuntimeError("stopped by hand")

    with pytest.raises(RuntimeError, match="by hand"):
        tiny_pipe(STORY, recorder=AttentionRecorder(0, TOP), callback_on_step_end=stop, **FEW)
    assert tiny_pipe.unet.attn_processors == before and spy.plan.watch is None
    assert not tiny_pipe.unet._forward_pre_hooks


def test_memory_is_planned_and_bounded(tiny_pipe):
    recorder = AttentionRecorder([0, 2], "up", grid=4)
    tiny_pipe(STORY, recorder=recorder, **FEW)
    step = sum(4 * h * 3 * 16 * x for h in (2, 4) for x in (3 * 16, recorder._columns) for _ in range(2))
    assert recorder.planned == recorder.nbytes + step < recorder.limit
    tight = AttentionRecorder([0, 2], "up", grid=4, limit=recorder.planned)
    tiny_pipe(STORY, recorder=tight, **FEW)
    before = dict(tiny_pipe.unet.attn_processors)
    with pytest.raises(ValueError, match="more than the limit"):
        tiny_pipe(STORY, recorder=AttentionRecorder([0, 2], "up", grid=4, limit=recorder.planned - 1), **FEW)
    assert tiny_pipe.unet.attn_processors == before


def test_what_cannot_be_recorded_is_told(tiny_pipe):
    def told(story=STORY, recorder=None, **settings):
        return tiny_pipe(story, recorder=recorder or AttentionRecorder(0), **settings, **FEW)

    for call, words in (
        (
            lambda: tiny_pipe.tell_many([STORY, STORY], recorder=AttentionRecorder(0), **FEW),
            "one story, and there are 2",
        ),
        (lambda: told(recorder=AttentionRecorder(0, "up", grid=8)), "grid=4 or less"),
        (lambda: told(recorder=AttentionRecorder(0, TOP, heads=[7])), "heads 0 to 1"),
        (lambda: told(recorder=AttentionRecorder(0, "left")), "No self-attention layer"),
        (lambda: AttentionRecorder([]), "at least one"),
        (lambda: AttentionRecorder([-1]), "from 0"),
        (lambda: AttentionRecorder(0, grid=0), "grid is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="'each', 'mean'"):
        AttentionRecorder(0, heads="some")


def test_steps_that_never_came(tiny_pipe):
    recorder = AttentionRecorder([1, 7], TOP)
    with pytest.warns(UserWarning, match=r"\[7\] never came"):
        tiny_pipe(STORY, recorder=recorder, **FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_pipe(STORY[:1], recorder=AttentionRecorder(1, TOP), **FEW)  # a panel alone reads itself


def test_a_second_story_takes_the_place_of_the_first(tiny_pipe):
    recorder = AttentionRecorder(0, TOP)
    tiny_pipe(STORY, recorder=recorder, **FEW)
    first = recorder.map(0, TOP)
    tiny_pipe(STORY[:2], recorder=recorder, **FEW)
    assert recorder.map(0, TOP).shape == (2, 64, 2, 64) != first.shape
    assert recorder.prompts == STORY[:2]


def test_trigger_words_need_cross_off(tiny_pipe):
    story, plan = [[Panel("a bear img reads")]], AttentionPlan.among(1, 0.5)

    def watch(cross):
        return AttentionRecorder(0, TOP, cross=cross).watching(
            tiny_pipe.unet, plan, story, tiny_pipe.tokenizer
        )

    with pytest.raises(ValueError, match="cross=False"), watch(True):
        pass
    with pytest.warns(UserWarning, match="never came"), watch(False):
        assert plan.watch is not None
    assert plan.watch is None
