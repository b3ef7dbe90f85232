"""Transitions: what the parts compute, what the loop promises, what goes in and out of files."""

import builtins
import copy
import errno
import json
import pickle
import random
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model
from PIL import Image, ImageSequence
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from storydiff_lite import experiments, motion, video, weights, world
from storydiff_lite.experiments import finder
from storydiff_lite.settings import MULTISTEP
from storydiff_lite.story import parse
from storydiff_lite.tokens import load_tokenizer
from storydiff_lite.training import cards
from storydiff_lite.training import video as training
from storydiff_lite.video import (
    Conditions,
    TransitionPipeline,
    interleaved_windows,
    per_frame_states,
    sample,
)

pytestmark = pytest.mark.usefixtures("few_threads")


def told(b=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    ids = torch.tensor([[64, 64, 0, 0, 64, 64.0]]).expand(b, -1)
    return torch.randn(b, 77, 96, generator=g), torch.randn(b, 64, generator=g), ids


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------ the parts
@torch.no_grad()
def test_untrained_motion_unet_draws_each_frame_as_the_unet_does(unet):
    """So add_embedding came along, and the motion modules begin by doing nothing."""
    moving = video.motion_unet(unet, video.motion_adapter(unet)).eval()
    text, pooled, ids = told()
    x, t = randn(1, 3, 4, 16, 16), torch.tensor([600])
    more = {"text_embeds": pooled, "time_ids": ids}
    out = video.Decoder(moving, clean_key_frames=False)(x, t, text, pooled, ids, x, torch.zeros(1, 3))
    alone = [unet(x[:, i], t, text, added_cond_kwargs=more).sample for i in range(3)]
    assert torch.allclose(out[0], torch.cat(alone), atol=1e-4)
    forgot = copy.deepcopy(moving)
    torch.nn.init.normal_(forgot.add_embedding.linear_2.weight)
    other = video.Decoder(forgot, clean_key_frames=False)(x, t, text, pooled, ids, x, torch.zeros(1, 3))
    assert not torch.allclose(other, out, atol=1e-2)


@torch.no_grad()
def test_trained_motion_modules_mix_frames_of_one_video_only(unet):
    torch.manual_seed(0)
    adapter = video.motion_adapter(unet)
    for name, p in adapter.named_parameters():
        if "proj_out" in name:
            torch.nn.init.normal_(p, std=0.1)
    decoder = video.Decoder(video.motion_unet(unet, adapter), clean_key_frames=False).eval()
    text, pooled, ids = told(2)
    x, t, none = randn(2, 4, 4, 16, 16), torch.tensor([500, 500]), torch.zeros(2, 4)
    before = decoder(x, t, text, pooled, ids, x, none)
    y = x.clone()
    y[0, 0] += 1
    change = (decoder(y, t, text, pooled, ids, y, none) - before).abs().amax((2, 3, 4))
    assert (change[0] > 1e-3).all() and (change[1] < 1e-5).all()


def test_states_of_each_frame_are_text_then_its_own_tokens():
    text, tokens = randn(2, 5, 8), randn(2, 3, 4, 8, seed=1)
    states = per_frame_states(text, tokens)
    assert states.shape == (6, 9, 8)
    assert torch.equal(states[4], torch.cat([text[1], tokens[1, 1]]))
    assert torch.equal(per_frame_states(text, num_frames=3)[5], text[1])


@torch.no_grad()
@pytest.mark.parametrize("variant", training.VARIANTS)
def test_decoders_read_known_frames_and_nothing_else_of_them(unet, variant):
    torch.manual_seed(0)
    net = training.build(variant, unet, 384, 16)
    for p in net.parameters():  # what begins at zero must not hide a missing wire
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    decoder = net["decoder"].eval()
    torch.nn.init.normal_(decoder.unet.conv_in.weight[:, 4:], std=0.05)
    text, pooled, ids = told()
    x, known, t = randn(1, 4, 4, 16, 16), randn(1, 4, 4, 16, 16, seed=1), torch.tensor([700])
    mask = torch.tensor([[1.0, 0, 0, 1]])
    tokens = randn(1, 4, 16, 384, seed=2) if variant in ("ours", "apart") else None
    out = decoder(x, t, text, pooled, ids, known, mask, tokens)
    end, middle = known.clone(), known.clone()
    end[:, -1] += 1
    middle[:, 1] += 1
    assert not torch.allclose(out, decoder(x, t, text, pooled, ids, end, mask, tokens), atol=1e-3)
    assert torch.equal(out, decoder(x, t, text, pooled, ids, middle, mask, tokens))
    if tokens is not None:
        moved = tokens.clone()
        moved[:, 2] = randn(1, 16, 384, seed=5)
        changed = decoder(x, t, text, pooled, ids, known, mask, moved) - out
        assert changed[:, 2].abs().max() > changed[:, 1].abs().max() > 0


def test_only_what_should_learns(unet):
    for variant in training.VARIANTS:
        net = training.build(variant, unet, 384, 16)
        names = [n for n, p in net.named_parameters() if p.requires_grad]
        assert any("motion_modules" in n for n in names) and any("attn2.to_k" in n for n in names)
        spatial = [n for n in names if "decoder.unet" in n and "motion_modules" not in n]
        assert not any("resnets" in n for n in spatial)
        assert any("attn1.to_q" in n for n in spatial) == (variant == "ours")
    with pytest.raises(ValueError, match="ours, apart, sparse, mask"):
        training.build("other", unet)


@torch.no_grad()
def test_every_frame_reads_the_key_frames_wherever_somebody_stands(unet):
    """Keys and values by hand; then: a far corner of the first frame reaches the middle frame."""
    moving = video.motion_unet(unet, video.motion_adapter(unet))
    decoder = video.Decoder(moving).eval()
    text, pooled, ids = told()
    x, t, mask = randn(1, 3, 4, 16, 16), torch.tensor([500]), torch.tensor([[1.0, 0, 1]])
    y = x.clone()
    y[0, 0, :, :4, :4] += 3

    def change():
        a, b = (decoder(x, t, text, pooled, ids, known, mask) for known in (x, y))
        return (a - b)[0, 1].abs().amax(0)  # of the middle frame, [16, 16]

    assert change().max() == 0  # untrained motion modules, and each frame by itself
    video.read_key_frames(decoder.unet)
    assert change()[8:, 8:].max() > 1e-3

    name, layer = next(iter(video.spatial_self_attention(moving)))
    assert "motion_modules" not in name
    layer.processor.frames = 3
    h = randn(2 * 3, 5, layer.query_dim)  # two videos of three frames
    got = layer(h)
    for i in range(6):
        v = i // 3 * 3
        told_of = torch.cat([h[i], h[v], h[v + 2]])  # [15, C]
        q, k, values = (
            f(z).unflatten(-1, (layer.heads, -1)).transpose(0, 1)
            for f, z in ((layer.to_q, h[i]), (layer.to_k, told_of), (layer.to_v, told_of))
        )
        read = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ values
        assert torch.allclose(got[i], layer.to_out[0](read.transpose(0, 1).flatten(1)), atol=1e-5)


def test_training_goes_on_from_shipped_weights(unet):
    net = training.build("ours", unet, begin=weights.path("video"))
    assert net["decoder"].key_frame_attention and net["predictor"].head.weight.any()
    values = [m.to_v.weight for n, m in net.named_modules() if n.endswith("attn2.processor")]
    assert values and all(v.any() for v in values)
    with pytest.raises(ValueError, match="are of the variant ours; mask cannot begin with them"):
        training.build("mask", unet, begin=weights.path("video"))
    card = cards.began_in(weights.path("video"))
    assert cards.stages(card)[-1] == card and training.clips_seen(card) > card["steps"] * card["batch"]


@pytest.mark.parametrize("variant", training.VARIANTS)
def test_every_variant_goes_on_from_its_own_weights(unet, tmp_path, variant):
    net = training.build(variant, unet, 384, 16)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.01 * torch.randn_like(p))
    video.save_parts(tmp_path, net["decoder"], net["predictor"] if "predictor" in net else None)
    again = training.build(variant, unet, begin=tmp_path)
    assert training.variant_of(again["decoder"]) == variant and set(again) == set(net)
    learnt = {n: p for n, p in net.named_parameters() if p.requires_grad}
    found = {n: p for n, p in again.named_parameters() if p.requires_grad}
    assert learnt.keys() == found.keys()
    assert all(torch.allclose(p, found[n], atol=5e-3) for n, p in learnt.items())
    assert cards.began_in(tmp_path) is None and training.clips_seen(None) == 0


def test_a_decoder_whose_frames_were_apart_begins_to_read_key_frames(unet, tmp_path):
    net = training.build("apart", unet, 384, 16)
    video.save_parts(tmp_path, net["decoder"], net["predictor"])
    assert training.build("ours", unet, begin=tmp_path)["decoder"].key_frame_attention


@torch.no_grad()
def test_tokens_are_read_by_a_softmax_of_their_own(unet):
    """Against plain attention to the text, plus plain attention to the tokens with their own matrices."""
    moving = video.motion_unet(unet, video.motion_adapter(unet))
    layer = moving.mid_block.attentions[0].transformer_blocks[0].attn2
    x, text, tokens = randn(2, 5, 160), randn(2, 7, 96, seed=1), randn(2, 3, 96, seed=2)
    alone = layer(x, text)
    video.read_tokens(moving, 3)
    both = torch.cat([text, tokens], 1)
    assert torch.allclose(layer(x, both), alone, atol=1e-5)  # values begin at zero
    torch.nn.init.normal_(layer.processor.to_v.weight, std=0.1)
    layer.processor.keep = True
    got = layer(x, both)
    q, k, v = (
        y.unflatten(2, (layer.heads, -1)).transpose(1, 2)
        for y in (layer.to_q(x), layer.processor.to_k(tokens), layer.processor.to_v(tokens))
    )
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    more = (weights @ v).transpose(1, 2).flatten(2) @ layer.to_out[0].weight.T
    assert torch.allclose(got, alone + more, atol=1e-4) and more.abs().max() > 0.01
    assert torch.allclose(layer.processor.weights, weights.mean(1), atol=1e-5)


# ------------------------------------------------------------------------------------------ the loop
@pytest.mark.parametrize("frames,window", [(2, 16), (16, 16), (17, 16), (40, 16), (23, 5), (100, 16)])
def test_windows_have_both_ends_and_every_frame_has_a_window(frames, window):
    passes = interleaved_windows(frames, window, random.Random(0))
    assert {i for p in passes for i in p} == set(range(frames))
    for p in passes:
        assert p[0] == 0 and p[-1] == frames - 1 and p == sorted(p)
        assert len(p) == min(frames, window)
    if frames > window:  # a pass spans the time evenly, and they change from step to step
        gaps = [b - a for p in passes for a, b in zip(p, p[1:], strict=False)]
        assert max(gaps) <= 2 * len(passes)
        rng = random.Random(0)
        assert interleaved_windows(frames, window, rng) != interleaved_windows(frames, window, rng)


class Truth(torch.nn.Module):
    """A decoder that knows the answer: the velocity that leads to ``clean``."""

    def __init__(self, clean, schedule, noise):
        super().__init__()
        self.clean, self.schedule, self.noise = clean, schedule, noise
        self.sees_key_frames = True
        self.calls = []

    def forward(self, noisy, t, text, pooled, ids, known, mask, tokens=None):
        self.calls.append((len(noisy), noisy.shape[1], float(text.mean())))
        a = self.schedule.alphas_cumprod[t[0].long()]
        clean = self.clean if noisy.shape[1] == self.clean.shape[1] else 0 * noisy
        clean = clean.repeat(len(noisy) // len(clean), 1, 1, 1, 1)
        return (a.sqrt() * noisy - clean) / (1 - a).sqrt()


def test_sampling_reaches_what_the_decoder_knows_and_keeps_the_ends():
    schedule = training.noise_schedule()
    clean, noise = randn(2, 5, 4, 8, 8, seed=3), randn(2, 5, 4, 8, 8, seed=4)
    known = 9 + torch.zeros_like(clean)
    text = torch.ones(2, 7, 8), None
    decoder = Truth(clean, schedule, noise)
    plain = Conditions(text, (torch.zeros(1, 7, 8), None))
    x = sample(decoder, schedule, known, noise, plain, steps=8)
    assert torch.allclose(x[:, 1:-1], clean[:, 1:-1], atol=0.05)
    assert (x[:, [0, -1]] == 9).all() and len(decoder.calls) == 8
    decoder.calls.clear()
    y = sample(decoder, schedule, known, noise, plain._replace(guidance=3), steps=8)
    assert torch.allclose(y, x, atol=1e-3)  # both halves agree, so guidance changes nothing
    assert all(call[:2] == (4, 5) and call[2] == 0.5 for call in decoder.calls)  # empty text, then the prompt


def test_noise_that_is_drawn_anew_comes_from_each_videos_own_generator():
    schedule, clean = training.noise_schedule(), randn(2, 5, 4, 8, 8, seed=3)

    def run(rows, eta):
        ways = []
        decoder = Truth(clean[rows], schedule, None)
        predict = decoder.__call__

        def watch(noisy, *rest):
            ways.append(noisy)
            return predict(noisy, *rest)

        watch.sees_key_frames = True
        generators = [torch.Generator().manual_seed(int(r)) for r in rows]
        noise = torch.stack([torch.randn(5, 4, 8, 8, generator=g) for g in generators])
        told = torch.ones(len(rows), 7, 8), None
        more = {"steps": 4, "eta": eta, "generators": generators}
        return sample(watch, schedule, clean[rows], noise, Conditions(told, (None, None)), **more), ways

    (x, way), (y, straight), (z, alone) = run([0, 1], 1.0), run([0, 1], 0.0), run([1], 1.0)
    assert torch.allclose(x, clean, atol=0.05) and torch.allclose(y, clean, atol=0.05)
    assert torch.allclose(x[1:], z, atol=1e-4)
    assert torch.equal(way[0], straight[0]) and not torch.allclose(way[1], straight[1], atol=0.1)
    assert all(torch.allclose(a[1:], b, atol=1e-5) for a, b in zip(way, alone, strict=True))
    # between two steps the noise is as strong as it should be, whether it is old or new
    assert way[2].std() == pytest.approx(float(straight[2].std()), rel=0.1)


def test_long_videos_need_no_longer_passes():
    schedule = training.noise_schedule()
    decoder = Truth(torch.zeros(1, 1, 4, 8, 8), schedule, None)
    noise = randn(1, 50, 4, 8, 8)
    read = Conditions((torch.ones(1, 7, 8), None), (None, None))
    x = sample(decoder, schedule, torch.ones_like(noise), noise, read, steps=3)
    assert x.shape == noise.shape and {c[1] for c in decoder.calls} == {16}
    assert x[:, 1:-1].abs().max() < 1e-3


def wake(decoder):
    """The tokens' values, which begin at zero."""
    for name, p in decoder.named_parameters():
        if "processor.to_v" in name:
            torch.nn.init.normal_(p, std=0.1)


# ------------------------------------------------------------------------------------------ the pipeline
def parts_folder(folder, unet, predictor=True):
    """Untrained motion weights in the layout of the shipped ones."""
    torch.manual_seed(0)
    net = training.build("ours", unet, 384, 16)
    wake(net["decoder"])
    video.save_parts(folder, net["decoder"], net["predictor"] if predictor else None)
    return folder


@pytest.fixture(scope="module")
def pipe(tmp_path_factory, unet):
    folder = parts_folder(tmp_path_factory.mktemp("motion"), unet)
    pipe = TransitionPipeline.from_pretrained("micro", motion=folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def ends():
    clip, size = world.sample_clip("heldout", 0), weights.picture_size()
    return world.render(clip.picture(0), size), world.render(clip.picture(1), size)


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_parts_are_saved_and_loaded_whole(tmp_path, unet):
    for variant in training.VARIANTS:
        torch.manual_seed(1)
        net = training.build(variant, unet, 384, 16)
        for p in net.parameters():
            if p.requires_grad:
                p.data += 0.01 * torch.randn_like(p)
        video.save_parts(tmp_path / variant, net["decoder"], net["predictor"] if "predictor" in net else None)
        decoder, predictor = video.load_parts(tmp_path / variant, unet)
        assert decoder.clean_key_frames == (variant in ("ours", "apart"))
        assert decoder.key_frame_attention == (variant == "ours")
        loaded, saved = decoder.state_dict(), net["decoder"].state_dict()
        assert {k: v.shape for k, v in loaded.items()} == {k: v.shape for k, v in saved.items()}
        for k, v in saved.items():
            assert torch.allclose(loaded[k].float(), v.float(), atol=2e-3, rtol=2e-3), (variant, k)
        assert (predictor is not None) == decoder.clean_key_frames


def test_ends_are_kept_exactly_and_the_seed_repeats(pipe, ends):
    one = pipe(*ends, "a bear walking", num_inference_steps=1, seed=3)
    assert len(one.frames) == 16 and same(one.frames[0], ends[0]) and same(one.frames[-1], ends[1])
    again = pipe(*ends, "a bear walking", num_inference_steps=1, seed=3)
    other = pipe(*ends, "a bear walking", num_inference_steps=1, seed=4)
    assert all(map(same, one.frames, again.frames))
    assert not any(map(same, one.frames[1:-1], other.frames[1:-1]))


@pytest.mark.parametrize("frames", [2, 3, 17])
def test_any_number_of_frames(pipe, ends, frames):
    out = pipe(*ends, num_frames=frames, num_inference_steps=1).frames
    assert len(out) == frames and same(out[0], ends[0]) and same(out[-1], ends[1])


def test_the_predictor_can_be_swapped(pipe, ends):
    asked = []

    def line(start, end, n):
        asked.append((tuple(start.shape), n))
        return motion.interpolate(end, start, n)

    a = pipe(*ends, num_inference_steps=1, predictor=line)
    b = pipe(*ends, num_inference_steps=1, predictor=motion.interpolate)
    assert asked == [((1, 16, 384), 16)]
    assert not same(a.frames[8], b.frames[8])


def test_several_transitions_are_what_each_would_be(pipe, ends):
    both = pipe([ends[0], ends[1]], [ends[1], ends[0]], ["a bear", "a cat"], num_inference_steps=1)
    first = pipe(*ends, "a bear", num_inference_steps=1)
    apart = [
        np.abs(np.asarray(x, int) - np.asarray(y, int)).max()
        for x, y in zip(both[0].frames, first.frames, strict=True)
    ]
    assert len(both) == 2 and max(apart) <= 1


def test_a_story_becomes_a_video(pipe, ends):
    seen = []

    def line(start, end, n):
        seen.append(len(start))
        return motion.interpolate(start, end, n)

    pictures = [ends[0], ends[1], ends[0]]
    frames = video.story_to_video(
        pipe, pictures, ["a", "b", "c"], num_frames=3, hold=2, num_inference_steps=1, predictor=line
    )
    assert len(frames) == 3 * 2 + 2 * 1 and seen == [2]
    for i, picture in zip((0, 1, 3, 4, 6, 7), (0, 0, 1, 1, 2, 2), strict=True):
        assert same(frames[i], pictures[picture])


def test_a_transition_is_told_who_is_carried_and_no_trigger_word(ends):
    """Panels as a story has them: "he" stands for a phrase, and there are no pictures of a person here."""
    told = []

    def draw(firsts, lasts, prompts, **more):
        told.extend(prompts)
        return [SimpleNamespace(frames=[*pair]) for pair in zip(firsts, lasts, strict=True)]

    free = parse("a grey bear in a red outfit reading\nhe is waving on the beach").panels
    named = parse("[Bo] a bear img\n\n[Bo] sleeping in the snow").panels
    video.story_to_video(draw, [*ends, ends[0]], [*free, *named], 2, 1)
    assert told == ["a grey bear in a red outfit is waving on the beach", "a bear sleeping in the snow"]


@pytest.mark.parametrize(
    "change,error,match",
    [
        ({"last_image": None}, ValueError, "last_image is missing"),
        ({"first_image": "a.png"}, TypeError, "PIL picture"),
        ({"last_image": Image.new("RGB", (256, 64))}, ValueError, "128 x 128 and 256 x 64"),
        ({"num_frames": 1}, ValueError, "num_frames is 1; it must be at least 2"),
        ({"num_frames": 3.5}, TypeError, "whole number"),
        ({"num_inference_steps": 0}, ValueError, "num_inference_steps is 0"),
        ({"guidance_scale": "big"}, TypeError, "guidance_scale must be a number"),
        ({"eta": 2}, ValueError, "eta is 2; it must be between 0 and 1"),
        ({"prompt": ["a", "b"]}, ValueError, "2 prompts"),
        ({"prompt": [None]}, TypeError, "prompt must be a text"),
        ({"prompt": None}, TypeError, "prompt must be a text, or a list of them, not None"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number"),
        ({"seed": "0"}, TypeError, "seed must be a whole number"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"first_image": [], "last_image": [], "prompt": []}, ValueError, "0 first pictures"),
        ({"num_frames": 0}, ValueError, "num_frames is 0; it must be at least 2: the first and the last"),
        ({"num_frames": -3}, ValueError, "num_frames is -3"),
        ({"num_frames": True}, TypeError, "whole number"),
        ({"window": 0}, ValueError, "window is 0; it must be at least 3"),
        ({"window": 2.5}, TypeError, "window must be a whole number"),
        ({"num_frames": 40, "window": 40}, ValueError, "40 frames would .* 32 positions: give window=32"),
        ({"num_frames": 16, "window": 40}, ValueError, "40 frames would .* 32 positions"),
        ({"num_frames": 33, "window": 33}, ValueError, "33 frames would"),
        ({"num_inference_steps": 1001}, ValueError, "must be between 1 and 1000"),
        ({"eta": float("nan")}, ValueError, "eta is nan"),
        (
            {"refine": 0.002},
            ValueError,
            "refine is 0.002; in 3 steps it must be 0, for not at all, or between",
        ),
        ({"refine": 0.5, "refine_steps": 1001}, ValueError, "in 1001 steps"),
    ],
)
def test_bad_input_is_told_before_anything_is_drawn(pipe, ends, change, error, match):
    with pytest.raises(error, match=match):
        pipe(**{"first_image": ends[0], "last_image": ends[1], "prompt": "a bear"} | change)


def test_pictures_of_any_mode(pipe, ends):
    """A grey picture of 16 bits would be white if it were clipped, a transparent one black."""
    steps = np.arange(128 * 128, dtype=np.uint16).reshape(128, 128) * 4
    clear = Image.new("RGBA", (128, 128), (255, 0, 0, 0))
    frames = pipe(Image.fromarray(steps), clear, num_frames=2, num_inference_steps=1).frames
    wanted = np.repeat(np.round(steps[..., None] / 257).astype(int), 3, 2)
    assert np.array_equal(np.asarray(frames[0], int), wanted)
    assert np.array_equal(np.asarray(frames[1]), np.full((128, 128, 3), 255))
    told = video.story_to_video(
        pipe, [Image.fromarray(steps), ends[0]], ["a", "b"], 2, 1, num_inference_steps=1
    )
    assert same(told[0], frames[0])


def test_two_frames_fit_any_window(pipe, ends):
    assert len(pipe(*ends, num_frames=2, num_inference_steps=1, window=40).frames) == 2


def test_sizes_the_model_cannot_draw(pipe):
    odd = Image.new("RGB", (60, 60))
    with pytest.raises(ValueError, match="multiples of 16, such as 48 x 48"):
        pipe(odd, odd)


def test_stories_that_are_no_video(pipe, ends):
    with pytest.raises(ValueError, match="at least two panels"):
        video.story_to_video(pipe, [ends[0]], ["a"])
    with pytest.raises(ValueError, match="2 pictures and 1 prompts"):
        video.story_to_video(pipe, ends, ["a"])
    for hold, error in ((0, ValueError), (2.5, TypeError), (True, TypeError), ("4", TypeError)):
        with pytest.raises(error, match="hold"):
            video.story_to_video(None, ends, ["a", "b"], hold=hold)


# ------------------------------------------------------------------------------------------ real weights
@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Tiny random models in the layouts in which the real ones are published: Stable Diffusion 1.5, an
    AnimateDiff adapter, a CLIP image encoder.
    """
    root = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=32,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, vocab_size=49409
        )
    )
    StableDiffusionPipeline(
        vae, text, load_tokenizer(), unet, DDIMScheduler(), None, None, requires_safety_checker=False
    ).save_pretrained(root / "sd")
    MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=2, motion_num_attention_heads=2
    ).save_pretrained(root / "adapter")
    MotionAdapter(
        block_out_channels=(64, 64), motion_layers_per_block=2, motion_num_attention_heads=2
    ).save_pretrained(root / "other")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=32,
            patch_size=4,
            projection_dim=32,
        )
    ).save_pretrained(root / "encoder")
    return root


def test_animatediff_weights_load_into_the_same_pipeline(published):
    pipe = TransitionPipeline.from_pretrained(
        published / "sd", motion=published / "adapter", image_encoder=published / "encoder"
    )
    pipe.set_progress_bar_config(disable=True)
    kept = MotionAdapter.from_pretrained(published / "adapter").state_dict()
    inside = pipe.decoder.unet.state_dict()
    assert all(torch.equal(inside[k], v) for k, v in kept.items())
    a, b = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    frames = pipe(a, b, "a ball", num_frames=16, num_inference_steps=2, guidance_scale=4).frames
    assert len(frames) == 16 and same(frames[0], a) and same(frames[-1], b) and frames[3].size == (32, 32)


def test_tokens_of_a_real_image_encoder_are_read_once_a_projection_is_there(published, tmp_path):
    unet = UNet2DConditionModel.from_pretrained(published / "sd" / "unet")
    decoder, _ = video.load_parts(published / "adapter", unet)
    decoder = video.Decoder(decoder.unet, video.TokenProjection(4 * 48, 16, 32))
    wake(decoder)
    predictor = motion.SemanticMotionPredictor(4 * 48, 16, width=32, layers=1, heads=2)
    video.save_parts(tmp_path, decoder, predictor)
    pipe = TransitionPipeline.from_pretrained(
        published / "sd", motion=tmp_path, image_encoder=published / "encoder"
    )
    pipe.set_progress_bar_config(disable=True)
    a, b = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    one = pipe(a, b, num_inference_steps=1)
    two = pipe(a, b, num_inference_steps=1, predictor=lambda s, e, n: motion.interpolate(e, s, n))
    assert not same(one.frames[3], two.frames[3])


def drawn(pipe, **how):
    pipe.set_progress_bar_config(disable=True)
    a, b = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    how = {"num_frames": 4, "num_inference_steps": 1, "window": 4, "guidance_scale": 2} | how
    return [f.tobytes() for f in pipe(a, b, "a ball", **how).frames]


def test_a_saved_pipeline_draws_the_same(published, tmp_path):
    """With all that it may have, a decoder that reads tokens and looks up, a predictor, a refiner; weights
    that no half precision holds.
    """
    base = StableDiffusionPipeline.from_pretrained(published / "sd", safety_checker=None)
    adapter = MotionAdapter.from_pretrained(published / "adapter")
    torch.manual_seed(0)
    decoder = video.Decoder(
        video.motion_unet(base.unet, adapter), video.TokenProjection(4 * 48, 16, 32), None, True, True
    )
    wake(decoder)
    for p in decoder.parameters():
        p.data += 1e-3 * torch.randn_like(p)
    predictor = motion.SemanticMotionPredictor(4 * 48, 16, width=32, layers=1, heads=2)
    torch.nn.init.normal_(predictor.head.weight)
    encoder = CLIPVisionModelWithProjection.from_pretrained(published / "encoder")
    parts = base.vae, base.text_encoder, base.tokenizer, decoder.eval(), base.scheduler, encoder, predictor
    pipe = TransitionPipeline(*parts, refiner=base.unet)
    wanted = drawn(pipe, refine=0.5), drawn(pipe)
    pipe.save_pretrained(tmp_path / "saved")
    files = [f for f in (tmp_path / "saved").rglob("*") if f.suffix in (".bin", ".pt", ".pkl")]
    assert files == [] and str(published) not in "".join(
        f.read_text() for f in (tmp_path / "saved").rglob("*config.json")
    )
    again = TransitionPipeline.from_pretrained(tmp_path / "saved")
    assert (drawn(again, refine=0.5), drawn(again)) == wanted and wanted[0] != wanted[1]
    other = TransitionPipeline.from_pretrained(tmp_path / "saved", refiner=False)
    assert other.refiner is None and drawn(other) == wanted[1]
    with pytest.raises(ValueError, match="leave motion out"):
        TransitionPipeline.from_pretrained(tmp_path / "saved", motion=published / "adapter")

    other.predictor = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="predictor is a torch.* could not be loaded again"):
        other.save_pretrained(tmp_path / "more")
    with pytest.raises(ValueError, match="Nothing but safetensors"):
        pipe.save_pretrained(tmp_path / "more", safe_serialization=False)
    get_peft_model(again.decoder.unet, LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ValueError, match="decoder carries adapters"):
        again.save_pretrained(tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_the_refiner_stays_as_it_is(published):
    """It may be the U-Net of a story pipeline: its attention is its own again, whatever happens."""
    base = StableDiffusionPipeline.from_pretrained(published / "sd", safety_checker=None)
    decoder, _ = video.load_parts(published / "adapter", base.unet)
    before = dict(base.unet.attn_processors)
    pipe = TransitionPipeline(
        base.vae, base.text_encoder, base.tokenizer, decoder, base.scheduler, refiner=base.unet
    )
    assert base.unet.attn_processors == before
    assert drawn(pipe, refine=0.5) != drawn(pipe)
    assert base.unet.attn_processors == before

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    base.unet.mid_block.forward = stop
    with pytest.raises(KeyboardInterrupt):
        drawn(pipe, refine=0.5)
    assert base.unet.attn_processors == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(published, dtype):
    """All through the loop; the autoencoder in float32 where it says that it needs it."""
    pipe = TransitionPipeline.from_pretrained(
        published / "sd", motion=published / "adapter", dtype=dtype, refiner=True
    )
    plain = TransitionPipeline.from_pretrained(published / "sd", motion=published / "adapter", refiner=True)
    wanted = np.frombuffer(b"".join(drawn(plain, refine=0.5, guidance_scale=1)), np.uint8).astype(int)
    found = np.frombuffer(b"".join(drawn(pipe, refine=0.5, guidance_scale=1)), np.uint8).astype(int)
    assert pipe.vae.config.force_upcast and pipe.vae.dtype == dtype and abs(found - wanted).mean() < 6
    pipe.vae.decoder.conv_out.weight.data[:] = torch.nan
    with pytest.raises(ValueError, match="no numbers .*--dtype float32"):
        drawn(pipe)


@pytest.mark.parametrize("kind", MULTISTEP)
def test_a_multistep_solver_gives_way_to_ddim_and_works_where_it_is_given(published, kind):
    base = StableDiffusionPipeline.from_pretrained(published / "sd", safety_checker=None)
    base.scheduler = getattr(diffusers, kind).from_config(base.scheduler.config)
    pipe = TransitionPipeline.from_pretrained(published / "sd", motion=published / "adapter", base=base)
    assert type(pipe.scheduler) is DDIMScheduler and pipe.vae is base.vae
    pipe.scheduler = base.scheduler
    assert len(drawn(pipe)) == 4


def test_a_folder_that_a_story_pipeline_wrote(tiny_pipe, tmp_path):
    """Its class is none of diffusers'; its U-Net moves all the same."""
    tiny_pipe.save_pretrained(tmp_path / "story")
    adapter = video.motion_adapter(tiny_pipe.unet, heads=2)
    adapter.save_pretrained(tmp_path / "adapter")
    with pytest.raises(FileNotFoundError, match="motion=..."):
        TransitionPipeline.from_pretrained(tmp_path / "story")
    pipe = TransitionPipeline.from_pretrained(tmp_path / "story", motion=tmp_path / "adapter")
    kept = pipe.decoder.unet.state_dict()
    assert all(torch.equal(kept[k], v) for k, v in tiny_pipe.unet.state_dict().items())
    assert len(drawn(pipe)) == 4


def test_nothing_is_unpickled(published, tmp_path):
    """Weights that could run code when they are loaded are passed over, wherever they lie."""
    import shutil

    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "exploded"), "w")

    def arm(folder, name):
        for file in folder.glob("*.safetensors"):
            file.unlink()
        with open(folder / name, "wb") as f:
            pickle.dump(Bomb(), f)

    for part, name in (
        ("sd/unet", "diffusion_pytorch_model.bin"),
        ("sd/vae", "diffusion_pytorch_model.bin"),
        ("sd/text_encoder", "pytorch_model.bin"),
        ("encoder", "pytorch_model.bin"),
        ("adapter", "diffusion_pytorch_model.bin"),
    ):
        root = tmp_path / part.replace("/", "-")
        shutil.copytree(published, root)
        arm(root / part, name)
        with pytest.raises(OSError):
            TransitionPipeline.from_pretrained(
                root / "sd", motion=root / "adapter", image_encoder=root / "encoder"
            )
    for name in ("unet", "predictor"):
        (tmp_path / "lora" / name).mkdir(parents=True)
        (tmp_path / "lora" / name / "adapter_config.json").write_text("{}")
        arm(tmp_path / "lora" / name, "adapter_model.bin")
    base = StableDiffusionPipeline.from_pretrained(published / "sd", safety_checker=None)
    decoder, _ = video.load_parts(published / "adapter", base.unet)
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors"):
        video.merge_lora(decoder, motion.SemanticMotionPredictor(8, 4, 8, 1, 2), tmp_path / "lora")
    assert not (tmp_path / "exploded").exists()


def test_models_that_are_none(published, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    how = {"motion": published / "adapter"}
    with pytest.raises(OSError, match="no model_index.json"):
        TransitionPipeline.from_pretrained(tmp_path / "empty", **how)
    with pytest.raises(ValueError, match="FluxPipeline without unet, vae, text_encoder"):
        TransitionPipeline.from_pretrained(tmp_path / "flux", **how)
    with pytest.raises(ValueError, match="There is no video model"):
        TransitionPipeline.from_pretrained(tmp_path / "nothing", **how)
    with pytest.raises(FileNotFoundError, match="with an image encoder"):
        TransitionPipeline.from_pretrained(published / "sd", image_encoder=tmp_path / "none", **how)


def test_folders_without_motion_weights(published, tmp_path):
    with pytest.raises(FileNotFoundError, match="no motion weights in"):
        TransitionPipeline.from_pretrained("micro", motion=tmp_path)
    with pytest.raises(FileNotFoundError, match="motion=..."):
        TransitionPipeline.from_pretrained(published / "sd")
    with pytest.raises(ValueError, match=r"channels \(64, 64\); this one has \(32, 64\)"):
        TransitionPipeline.from_pretrained(published / "sd", motion=published / "other")


# ------------------------------------------------------------------------------------------ files
@pytest.fixture
def frames():
    return [Image.new("RGB", (16, 12), (i * 40, 0, 255 - i * 40)) for i in range(5)]


def test_gif_holds_every_frame(frames, tmp_path):
    path = video.save_video(frames, tmp_path / "a.gif", fps=10, height=24)
    with Image.open(path) as g:
        assert g.n_frames == 5 and g.size == (32, 24) and g.info["duration"] == 100
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def film_of(path):
    """Frames and milliseconds of a GIF; frames that are alike are one in the file."""
    with Image.open(path) as g:
        return sum(f.info["duration"] for f in ImageSequence.Iterator(g))


@pytest.mark.parametrize("fps", [1, 7, 8, 12, 24, 25, 29.97, 30, 33.4, 48, 49.9, 50, 0.5])
@pytest.mark.parametrize("count, hold", [(40, 1), (7, 3)])
def test_a_gif_plays_as_long_as_it_should(fps, count, hold, tmp_path):
    shades = [Image.new("RGB", (4, 4), (6 * i, 0, 0)) for i in range(count) for _ in range(hold)]
    path = video.save_video(shades, tmp_path / "a.gif", fps=fps, height=4)
    assert abs(film_of(path) - 1000 * len(shades) / fps) <= 5
    delays = video.gif_delays(len(shades), fps)
    assert min(delays) >= 20 and max(delays) - min(delays) <= 10  # even, and nothing that viewers slow down


@pytest.mark.parametrize("fps", [1 / 3, 8, 29.97, 60, 150])
def test_an_mp4_plays_as_long_as_it_should(fps, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    shades = [Image.new("RGB", (16, 16), (6 * i, 0, 0)) for i in range(30)]
    path = video.save_video(shades, tmp_path / "a.mp4", fps=fps, height=16)
    count, seconds = ffmpeg.count_frames_and_secs(str(path))
    assert count == 30 and abs(seconds - 30 / fps) <= 0.02


def test_mp4_holds_every_frame(frames, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = video.TransitionOutput(frames).save(tmp_path / "a.mp4", height=24)
    reader = ffmpeg.read_frames(str(path))
    meta = next(reader)
    seen = [np.frombuffer(f, np.uint8).reshape(24, 32, 3) for f in reader]
    assert tuple(meta["size"]) == (32, 24) and len(seen) == 5
    for a, b in zip(frames, seen, strict=True):
        assert np.abs(np.asarray(a)[0, 0].astype(int) - b[8, 8]).max() < 30


def test_the_player_carries_all_it_needs(frames):
    pytest.importorskip("imageio_ffmpeg")
    page = video.player_html(frames, 'a "square" turns red', caption="a < b", height=24)
    assert page.count("data:video/mp4;base64,") == 1 and page.count("data:image/webp;base64,") == 1
    assert (
        'aria-label="a &quot;square&quot; turns red"' in page and "<figcaption>a &lt; b</figcaption>" in page
    )
    assert " controls" in page and "http" not in page and "autoplay" not in page
    with pytest.raises(ValueError, match="alt="):
        video.player_html(frames, " ")


def test_a_file_is_whole_or_not_there(frames, tmp_path, monkeypatch):
    target = tmp_path / "a.gif"
    target.write_bytes(b"old")

    def broken(self, *args, **kwargs):
        open(args[0], "wb").write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        video.save_video(frames, target)
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_videos_that_cannot_be_written(frames, tmp_path):
    with pytest.raises(ValueError, match=".gif or .mp4"):
        video.save_video(frames, tmp_path / "a.avi")
    with pytest.raises(ValueError, match="no frame"):
        video.save_video([], tmp_path / "a.gif")
    with pytest.raises(ValueError, match="one size"):
        video.save_video([*frames, Image.new("RGB", (8, 8))], tmp_path / "a.gif")
    for fps in (0, -1, float("nan"), float("inf"), "8", None, 1e-9):
        for name in ("a.gif", "a.mp4"):
            with pytest.raises(ValueError, match=f"fps is {fps!r}"):
                video.save_video(frames, tmp_path / name, fps=fps)
    for fps in (51, 60, 150):
        with pytest.raises(ValueError, match=f"fps is {fps}: a GIF plays at most 50 .* write an .mp4"):
            video.save_video(frames, tmp_path / "a.gif", fps=fps)
    assert not list(tmp_path.iterdir())


def test_without_ffmpeg_an_mp4_is_refused_clearly(frames, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "imageio_ffmpeg":
            raise ImportError("No module named 'imageio_ffmpeg'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeError, match="pip install imageio-ffmpeg.*or write a .gif"):
        video.save_video(frames, tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ training
def test_an_mp4_that_breaks_off_is_an_error(frames, tmp_path, monkeypatch):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "a.mp4").write_bytes(b"old")
    write = ffmpeg.write_frames

    def broken(*args, **kwargs):
        out = write(*args, **kwargs)
        yield out.send(None)
        out.send((yield))
        raise OSError("[Errno 32] Broken pipe\n\nFFMPEG COMMAND:\n...")

    with monkeypatch.context() as patch:
        patch.setattr(ffmpeg, "write_frames", broken)
        with pytest.raises(OSError, match="did not write a.mp4 whole .*Broken pipe") as caught:
            video.save_video(frames, tmp_path / "a.mp4")
        assert "\n" not in str(caught.value)
        patch.setattr(video.files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
        with pytest.raises(OSError) as caught:
            video.save_video(frames, tmp_path / "a.mp4")
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(ffmpeg, "count_frames_and_secs", lambda file: (3, 1))
    with pytest.raises(OSError, match="not all frames"):
        video.save_video(frames, tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_random_masks_know_the_ends_half_of_the_time():
    torch.manual_seed(0)
    masks = training.random_masks(400, 16, "cpu")
    only = (masks == video.key_frame_mask(1, 16, "cpu")).all(1).float().mean()
    assert 0.42 < only < 0.6 and not masks.all(1).any()


def test_what_moves_counts_more():
    x = torch.zeros(1, 8, 4, 4, 4)
    x[:, ::2, :, 1, 1] = 2
    w = training.motion_weight(x)
    assert w.shape == (1, 1, 1, 4, 4) and w.mean() == pytest.approx(1)
    assert w[..., 1, 1] == w.max() > 3 * w.min()


def test_what_was_encoded_by_other_weights_is_not_taken(tmp_path, monkeypatch):
    parts, asked = training.micro(), []

    def encode(some, *rest, **more):
        asked.append(len(some))
        return {"latents": torch.zeros(len(some), 1)}

    monkeypatch.setattr(training, "encode", encode)
    for change in (0, 0, 1):
        with torch.no_grad():
            parts[0].quant_conv.bias += change
        training.prepared("heldout", 1, 16, tmp_path, parts=parts)
    assert asked == [1, 1], "the second time it was kept, the third time the autoencoder was another one"


@pytest.mark.slow
def test_a_step_changes_what_learns_and_goes_on_from_a_checkpoint(tmp_path):
    common = {"batch": 1, "clips": 1, "folder": tmp_path, "device": "cpu"}
    parts = training.micro()
    net, run = training.train("ours", 1, **common, parts=parts)
    assert run.done == 1 and set(run.log[0]) >= {"loss", "video", "tokens"}
    moved = net["decoder"].unet.down_blocks[0].motion_modules[0].proj_out.weight
    assert moved.abs().max() > 0
    _, again = training.train("ours", 1, **common, parts=parts)
    assert again.done == 1 and again.seconds == run.seconds  # nothing left to do
    told = cards.card("video", again, {}, 0)  # how it learnt, not only how long
    assert (told["lr"], told["cooldown"], told["variant"]) == (1e-3, 0.5, "ours")


# ------------------------------------------------------------------------------------------ the finder
@pytest.fixture(scope="module")
def walker():
    """A clip with its true frames [F, 3, S, S] and its bank."""
    clip = world.sample_clip("heldout", 0)
    frames = np.stack([np.asarray(world.render(p, finder.SIZE)) for p in clip.frames(8)])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, finder.banks(clip, 8)[0]


def test_the_finder_finds_the_truth(walker):
    frames, bank = walker
    assert torch.allclose(finder.find(frames, bank), bank.joints, atol=1e-6)


def test_the_finder_shrinks_larger_frames(walker):
    _, bank = walker
    frames = np.stack([np.asarray(world.render(p, 128)) for p in world.sample_clip("heldout", 0).frames(8)])
    large = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    assert torch.allclose(finder.find(large, bank), bank.joints, atol=1e-6)


def test_the_finder_measures_a_shift(walker):
    frames, bank = walker
    late = frames[[0, 0, 1, 2, 3, 4, 5, 7]]  # one frame behind
    found, wanted = finder.find(late, bank)[1:-1], bank.joints[[0, 1, 2, 3, 4, 5]]
    assert torch.allclose(found, wanted, atol=0.03)
    place, parts = finder.errors(late, bank)
    assert 0 < place <= parts


def test_a_cross_fade_is_found_at_its_ghosts(walker):
    """Not in the middle, where nobody stands."""
    frames, bank = walker
    a = torch.linspace(0, 1, 8).view(-1, 1, 1, 1)
    found = finder.find((1 - a) * frames[0] + a * frames[-1], bank)
    for i in (1, 2, 5, 6):
        ghost = bank.joints[0 if i < 4 else -1]
        assert (found[i] - ghost).norm(dim=-1).mean() < 0.06
    ends = (bank.joints[0] - bank.joints[-1]).norm(dim=-1).mean()
    assert ends > 0.2


def test_banks_go_together(walker):
    frames, bank = walker
    both = finder.errors(torch.stack([frames, frames.flip(0)]), finder.stacked([bank, bank]))
    alone = finder.errors(frames.flip(0), bank)
    assert both[1][0] < 1e-6 and both[1][1] == pytest.approx(float(alone[1]), abs=1e-5)


# ------------------------------------------------------------------------------------------ the record
def test_the_record_is_of_several_seeds():
    assert experiments.load("video")["sampled_seeds"] == 3


def test_the_shipped_transition_weights_are_what_the_card_says():
    card = json.loads((weights.DATA / "cards" / "video.json").read_text())
    for file, digest in card["sha256"].items():
        assert weights.sha256(weights.DATA / file) == digest
    parts = [weights.DATA / "motion", weights.DATA / "video"]  # what is allowed for both together
    size = sum(f.stat().st_size for part in parts for f in part.rglob("*") if f.is_file())
    assert 0 < size <= 10_000_000
