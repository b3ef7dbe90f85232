"""Refining: what is redrawn, what stays, and who reads whom."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image

from storydiff_lite import StoryPipeline, video, weights, world
from storydiff_lite.training.unet import noise_schedule
from storydiff_lite.video import TransitionPipeline, story_to_video
from storydiff_lite.video.refine import refine

pytestmark = pytest.mark.usefixtures("few_threads")


@pytest.fixture(scope="module")
def unet(unet):
    video.read_key_frames(unet)
    return unet


IDS = torch.tensor([[64, 64, 0, 0, 64, 64.0]])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def told(b=1):
    return randn(b, 77, 96), randn(b, 64)


def test_the_ends_stay_and_the_rest_is_redrawn_the_more_the_stronger(unet):
    x = randn(1, 4, 4, 16, 16)
    weak, strong = (refine(unet, noise_schedule(), x, told(), IDS, s, steps=1) for s in (0.1, 0.6))
    for y in (weak, strong):
        assert torch.equal(y[:, [0, -1]], x[:, [0, -1]])
    changed = [(y - x)[:, 1:-1].square().mean() for y in (weak, strong)]
    assert 0 < changed[0] < changed[1]


def test_equal_frames_stay_equal(unet):
    """All frames get the same noise."""
    x = randn(1, 1, 4, 16, 16).expand(-1, 5, -1, -1, -1).contiguous()
    y = refine(unet, noise_schedule(), x, told(), IDS, 0.5, steps=2)
    assert torch.allclose(y[:, 1], y[:, 3], atol=1e-4)
    assert not torch.allclose(refine(unet, noise_schedule(), x, told(), IDS, 0.5, 2, seed=1), y, atol=1e-2)


def test_frames_read_the_ends_and_not_each_other(unet):
    x = randn(1, 4, 4, 16, 16)
    y = refine(unet, noise_schedule(), x, told(), IDS, 0.5, steps=1)

    def changed(frame):
        other = x.clone()
        other[:, frame] += 1
        return (refine(unet, noise_schedule(), other, told(), IDS, 0.5, steps=1) - y)[:, 2].abs().max()

    assert changed(0) > 1e-3 and changed(3) > 1e-3 and changed(1) < 1e-4


def test_small_passes_give_the_same(unet):
    x = randn(2, 6, 4, 16, 16)
    whole, parts = (refine(unet, noise_schedule(), x, told(2), IDS, 0.5, 1, window=w) for w in (16, 3))
    assert torch.allclose(whole, parts, atol=1e-4)


def test_several_videos_are_what_each_would_be(unet):
    x, (states, pooled) = randn(2, 3, 4, 16, 16), told(2)
    both = refine(unet, noise_schedule(), x, (states, pooled), IDS, 0.5, 1)
    first = refine(unet, noise_schedule(), x[:1], (states[:1], pooled[:1]), IDS, 0.5, 1)
    assert torch.allclose(both[:1], first, atol=1e-4)


def test_with_another_scheduler_and_a_u_net_that_knows_the_answer():
    """A U-Net that always says what the noise is brings every frame back to where it was."""

    class Knows(torch.nn.Module):
        attn_processors = {}

        def forward(self, x, t, encoder_hidden_states):
            sigma = scheduler.sigmas[len(scheduler.sigmas) - 1 - steps + self.i]
            self.i += 1
            clean = truth.flatten(0, 1)
            noisy = x * (sigma**2 + 1) ** 0.5  # as Euler scales it
            return type("Out", (), {"sample": (noisy - clean) / sigma})()

    scheduler, steps, truth = EulerDiscreteScheduler(), 3, randn(1, 4, 4, 8, 8)
    scheduler.set_timesteps(6)
    knows = Knows()
    knows.i = 0
    y = refine(knows, EulerDiscreteScheduler(), truth, (randn(1, 7, 8), None), None, 0.5, steps)
    assert torch.allclose(y, truth, atol=1e-3)


# ------------------------------------------------------------------------------------ in the pipeline


@pytest.fixture(scope="module")
def pipe():
    pipe = TransitionPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def ends():
    bear, size = world.Character(), weights.picture_size()
    some = [world.Picture("farm", (world.Actor(bear, a),), 1) for a in ("walking", "sitting")]
    return [world.render(p, size) for p in some]


def difference(a, b):
    return sum(x.tobytes() != y.tobytes() for x, y in zip(a, b, strict=True))


def test_the_pipeline_refines_when_asked(pipe, ends):
    how = {"num_inference_steps": 1, "num_frames": 4}
    plain, refined = (pipe(*ends, "a bear", refine=r, refine_steps=1, **how).frames for r in (0, 0.5))
    assert difference(plain, refined) == 2
    assert refined[0].tobytes() == ends[0].tobytes() and refined[-1].tobytes() == ends[1].tobytes()
    assert len(pipe(*ends, refine=0.5, num_frames=2, num_inference_steps=1).frames) == 2


def test_a_story_is_refined_unless_it_is_told_not_to_be(pipe, ends):
    def film(**more):
        return story_to_video(pipe, ends, ["a bear", "a bear"], 4, 1, num_inference_steps=1, **more)

    default = film()
    assert difference(default, film(refine=video.REFINE)) == 0
    assert difference(default, film(refine=0)) == 2


def test_parts_of_the_pipeline_that_drew_the_panels_are_shared(pipe, ends):
    """Though an identity's LoRA is in its U-Net, which is off while frames are refined."""
    base = StoryPipeline.from_pretrained("micro").load_identity()
    sharing = TransitionPipeline.from_pretrained("micro", base=base)
    sharing.set_progress_bar_config(disable=True)
    assert sharing.refiner is base.unet
    for name in ("vae", "text_encoder", "text_encoder_2", "image_encoder", "tokenizer"):
        assert getattr(sharing, name) is getattr(base, name)
    how = {"num_inference_steps": 1, "num_frames": 4, "refine": 0.5, "refine_steps": 1}
    for a, b in zip(pipe(*ends, "a bear", **how).frames, sharing(*ends, "a bear", **how).frames, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1  # rounding: other memory layout


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"refine": 1.5}, ValueError, "refine is 1.5; it must be between 0 and 1, 0 for not at all"),
        ({"refine": True}, TypeError, "refine must be a number, not True"),
        ({"refine": "much"}, TypeError, "refine must be a number, not 'much'"),
        ({"refine": 0.5, "refine_steps": 0}, ValueError, "refine_steps is 0"),
    ],
)
def test_bad_input(pipe, ends, change, error, match):
    with pytest.raises(error, match=match):
        pipe(*ends, **change)


def test_a_pipeline_without_a_refiner_says_so(ends):
    alone = TransitionPipeline.from_pretrained("micro", refiner=False)
    alone.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="refiner=True"):
        alone(*ends, refine=0.5)
    frames = story_to_video(alone, ends, ["a bear", "a bear"], 3, 1, num_inference_steps=1)
    assert len(frames) == 3 and all(isinstance(f, Image.Image) for f in frames)
