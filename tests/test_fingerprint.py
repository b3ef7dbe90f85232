"""What a pipeline is: whatever changes its pictures changes its fingerprint, and nothing else does."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from peft import LoraConfig

from storydiff_lite.tell.fingerprint import pipeline_print
from storydiff_lite.video import KeyFrameAttention, read_key_frames

pytestmark = pytest.mark.usefixtures("few_threads")


def one_bit(pipe):
    p = next(pipe.vae.decoder.parameters())
    p.data.view(-1).view(torch.int32)[3] ^= 1


def swapped(pipe):
    p = pipe.unet.conv_in.weight.data
    p[[0, 1]] = p[[1, 0]]


def lora(pipe, scale=1.0, name="a"):
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), name)
    pipe.set_adapters([name], [scale])


def switched_off(pipe):
    lora(pipe)
    pipe.unet.disable_lora()


def identity(pipe):
    pipe.id_encoder = torch.nn.Linear(2, 2)


def finer(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")


CHANGES = {
    "a bit of a weight": one_bit,
    "two rows of a weight": swapped,
    "another scheduler": lambda pipe: setattr(pipe, "scheduler", EulerDiscreteScheduler()),
    "a scheduler's config": finer,
    "a LoRA": lora,
    "its scale": lambda pipe: lora(pipe, 0.5),
    "its switch": switched_off,
    "attention": lambda pipe: read_key_frames(pipe.unet),
    "attention's settings": lambda pipe: pipe.unet.set_attn_processor(KeyFrameAttention(7)),
    "an identity encoder": identity,
    "a trigger word": lambda pipe: setattr(pipe, "trigger_word", "sks"),
    "free lunch": lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.1, 1.2),
    "tiles": lambda pipe: pipe.vae.enable_tiling(),
    "empty prompts": lambda pipe: pipe.register_to_config(force_zeros_for_empty_prompt=True),
}


def test_equal_pipelines_have_one_and_all_changes_another(tiny_parts):
    from storydiff_lite.pipeline import StoryPipeline

    def make():
        parts = {
            k: copy.deepcopy(v) if k in ("unet", "vae", "scheduler") else v for k, v in tiny_parts.items()
        }
        return StoryPipeline(**parts, force_zeros_for_empty_prompt=False, add_watermarker=False)

    found = {"nothing": pipeline_print(make())}
    assert found["nothing"] == pipeline_print(make())
    for name, change in CHANGES.items():
        pipe = make()
        change(pipe)
        found[name] = pipeline_print(pipe)
        assert found[name] == pipeline_print(pipe), name
    assert len(set(found.values())) == len(found), found


def test_drawing_and_offloading_change_nothing(tiny_pipe):
    before = pipeline_print(tiny_pipe)
    tiny_pipe("a bear\na cat", num_inference_steps=1)
    assert pipeline_print(tiny_pipe) == before
    tiny_pipe.enable_model_cpu_offload(device="cpu")
    assert pipeline_print(tiny_pipe) == before


def test_weights_that_wait_elsewhere_are_seen(tiny_pipe):
    """Sequential offloading: the parts hold empty tensors until their turn comes."""
    tiny_pipe.enable_sequential_cpu_offload(device="cpu")
    before = pipeline_print(tiny_pipe)
    waiting = tiny_pipe.unet.conv_in._hf_hook.weights_map
    waiting["weight"].data += 1
    assert pipeline_print(tiny_pipe) != before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.bool])
def test_sums_of_any_kind_and_number_of_words(dtype):
    from storydiff_lite.tell.fingerprint import _sums

    x = torch.randint(0, 2, (23,), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert _sums(x) == _sums(x.clone()) == _sums(torch.stack([x, x], 1)[:, 0])
    y = x.clone()
    y[-1] = 1 - y[-1].to(torch.uint8)
    assert _sums(x[1:]) != _sums(x[:-1]) and _sums(x) != _sums(y)
    assert _sums(x[:0]) == b""
