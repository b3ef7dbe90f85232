"""Guidance and its rescaling."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg
from hypothesis import given
from hypothesis import strategies as st

from storydiff_lite.guidance import guide, guided_steps, rescale


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(3, 4, 5, 6, dtype=torch.double, generator=generator) for _ in range(2))


@given(scale=st.floats(0, 20))
def test_guide(scale):
    uncond, cond = pair()
    torch.testing.assert_close(guide(uncond, cond, scale), (1 - scale) * uncond + scale * cond)


@given(amount=st.floats(0, 1), seed=st.integers(0, 9))
def test_rescale_equals_diffusers_and_eq_15_16(amount, seed):
    uncond, cond = pair(seed)
    guided = guide(uncond, cond, 7.5)
    ours = rescale(guided, cond, amount)
    torch.testing.assert_close(ours, rescale_noise_cfg(guided, cond, amount))
    for b in range(3):  # one deviation per picture, over all its channels and places
        want = amount * guided[b] * cond[b].std() / guided[b].std() + (1 - amount) * guided[b]
        torch.testing.assert_close(ours[b], want)


def test_rescale_ends():
    uncond, cond = pair()
    guided = guide(uncond, cond, 7.5)
    assert torch.equal(rescale(guided, cond, 0), guided)
    torch.testing.assert_close(rescale(guided, cond, 1).std(dim=(1, 2, 3)), cond.std(dim=(1, 2, 3)))
    flat = torch.zeros(1, 1, 2, 2)
    assert torch.equal(rescale(flat, flat + 1, 1), flat)


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_bad_amount(amount):
    with pytest.raises(ValueError, match="guidance_rescale"):
        rescale(torch.ones(1, 2), torch.ones(1, 2), amount)


@pytest.mark.parametrize(
    "steps, start, stop, first, last",
    [
        (12, 0.25, 0.75, 3, 8),
        (8, 0.25, 0.75, 2, 5),
        (25, 0.25, 0.75, 6, 18),
        (12, 0, 1, 0, 11),
        (1, 0.25, 0.75, 0, 0),
    ],
)
def test_guided_steps(steps, start, stop, first, last):
    found = guided_steps(steps, start, stop)
    assert (found[0], found[-1]) == (first, last)


def test_a_step_of_several_calls_is_guided_in_all_of_them_or_in_none():
    assert [*guided_steps(23, 0.25, 0.75, order=2)] == [*range(6, 18)]  # Heun's 12 steps: 3 to 8
    assert set(guided_steps(23, 0, 1, order=2)) >= {*range(23)}
