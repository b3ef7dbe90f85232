"""StoryPipeline on a tiny random SDXL: equal to diffusers where it must be, stories apart, clear errors."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLPipeline,
    TCDScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import MultiPipelineCallbacks, SDXLCFGCutoffCallback
from PIL import Image
from transformers import CLIPVisionConfig

from storydiff_lite import weights as files
from storydiff_lite.attention_maps import AttentionRecorder
from storydiff_lite.identity import IDEncoder
from storydiff_lite.pictures import as_rgb
from storydiff_lite.pipeline import NotANumberError, StoryPipeline
from storydiff_lite.schedule import SamplingSchedule
from storydiff_lite.settings import GUIDED
from storydiff_lite.story import Panel
from storydiff_lite.tokens import TriggerWordError

STORY = ["a bear reads in the forest", "a bear sleeps on the beach", "a bear runs in the city"]
FEW = {"num_inference_steps": 3, "output_type": "np"}


def close(a, b):
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_plain_equals_diffusers(tiny_parts, tiny_pipe, guidance, scheduler):
    if scheduler:
        tiny_pipe.scheduler = scheduler.from_config(tiny_parts["scheduler"].config)
    theirs = StableDiffusionXLPipeline(
        **tiny_parts | {"scheduler": tiny_pipe.scheduler},
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    want = theirs(
        STORY,
        latents=noise,
        guidance_scale=guidance,
        guidance_rescale=0.6,
        negative_prompt=["fog"] * 3,
        **FEW,
    ).images
    ours = tiny_pipe(
        STORY,
        latents=noise,
        guidance_scale=guidance,
        guidance_rescale=0.6,
        negative_prompt="fog",
        consistency=0,
        **FEW,
    ).images
    close(ours, want)
    assert (
        np.abs(
            tiny_pipe(STORY, latents=noise, guidance_scale=guidance, consistency=1, **FEW).images - want
        ).max()
        > 1e-4
    )


def test_zeros_for_empty_prompt_as_diffusers(tiny_parts):
    ours, theirs = (
        c(**tiny_parts, force_zeros_for_empty_prompt=True, add_watermarker=False)
        for c in (StoryPipeline, StableDiffusionXLPipeline)
    )
    noise = torch.randn(1, 4, 8, 8)
    close(
        ours(STORY[:1], latents=noise, **FEW).images,
        theirs(STORY[:1], latents=noise, guidance_scale=5.0, **FEW).images,
    )


def test_same_seed_same_story_and_other_seed_another(tiny_pipe):
    a, b, c = (tiny_pipe(STORY, seed=s, **FEW).images for s in (4, 4, 5))
    assert a.shape == (3, 32, 32, 3) and np.array_equal(a, b) and np.abs(a - c).max() > 1e-3


def test_two_stories_of_different_length_in_turn(tiny_pipe):
    before = dict(tiny_pipe.unet.attn_processors)
    first = tiny_pipe(STORY, **FEW).images
    assert tiny_pipe(STORY[:2], **FEW).images.shape[0] == 2
    assert np.array_equal(first, tiny_pipe(STORY, **FEW).images)
    assert dict(tiny_pipe.unet.attn_processors) == before


@pytest.mark.parametrize("scheduler", [None, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler])
@pytest.mark.parametrize("window", [None, 2])
def test_many_at_once_equal_one_by_one(tiny_pipe, scheduler, window):
    if scheduler:
        tiny_pipe.scheduler = scheduler.from_config(tiny_pipe.scheduler.config)
    stories = [STORY, ["a cat", "a cat jumps"], [s.replace("bear", "robot") for s in STORY]]
    settings = {
        "consistency": 0.5,
        "schedule": SamplingSchedule(((1, 0.7),)),
        "layers": "all",
        "window": window,
        **FEW,
    }
    many = tiny_pipe.tell_many(stories, seeds=[7, 8, 9], batch_size=2, **settings)
    for story, seed, told in zip(stories, [7, 8, 9], many, strict=True):
        close(told.images, tiny_pipe(story, seed=seed, **settings).images)
        assert [p.prompt for p in told.panels] == story and told.seed == seed


def test_a_panel_keeps_its_noise_whatever_follows(tiny_pipe):
    """Plain sampling of a longer story leaves the earlier panels as they were."""
    close(
        tiny_pipe(STORY, consistency=0, **FEW).images[:2], tiny_pipe(STORY[:2], consistency=0, **FEW).images
    )


def test_same_noise(tiny_pipe):
    images = tiny_pipe([STORY[0]] * 2, consistency=0, same_noise=True, **FEW).images
    close(images[0], images[1])
    images = tiny_pipe([STORY[0]] * 2, consistency=0, **FEW).images
    assert np.abs(images[0] - images[1]).max() > 1e-3


def test_schedule_and_window_change_the_picture(tiny_pipe):
    settings = {"consistency": 1.0, "layers": "all", **FEW}
    always = tiny_pipe(STORY, **settings).images
    never = tiny_pipe(STORY, schedule=SamplingSchedule(()), **settings).images
    close(never, tiny_pipe(STORY, consistency=0, **FEW).images)
    close(
        tiny_pipe(STORY, schedule=SamplingSchedule.released(), **settings).images, never
    )  # 3 steps: all are plain
    close(tiny_pipe(STORY, window=1, **settings).images, never)
    close(tiny_pipe(STORY, window=9, **settings).images, always)
    assert np.abs(tiny_pipe(STORY, window=2, **settings).images - always).max() > 1e-4


def test_inputs_and_outputs(tiny_pipe):
    told = tiny_pipe("a bear reads # He reads.\n\na bear sleeps", num_inference_steps=2)
    assert [i.size for i in told.images] == [(32, 32)] * 2 and [p.text for p in told.panels] == [
        "He reads.",
        "a bear sleeps",
    ]
    assert tiny_pipe([Panel("a bear")], num_inference_steps=2, output_type="pt").images.shape == (
        1,
        3,
        32,
        32,
    )
    assert tiny_pipe(["a bear"], num_inference_steps=2, output_type="latent", width=64).images.shape == (
        1,
        4,
        8,
        16,
    )
    assert len(tiny_pipe(STORY, num_inference_steps=1, return_dict=False)[0]) == 3
    one = torch.Generator().manual_seed(0)
    assert tiny_pipe(STORY, generator=one, **FEW).images.shape[0] == 3
    assert (
        tiny_pipe(STORY, generator=[torch.Generator().manual_seed(i) for i in range(3)], **FEW).images.shape[
            0
        ]
        == 3
    )


def test_negative_prompt_of_a_panel(tiny_pipe):
    a = tiny_pipe(
        [Panel("a bear", negative_prompt="fog"), Panel("a cat")], consistency=0, negative_prompt="rain", **FEW
    ).images
    b = tiny_pipe(["a bear", "a cat"], consistency=0, negative_prompt="rain", **FEW).images
    assert np.abs(a[0] - b[0]).max() > 1e-5
    close(a[1], b[1])


def test_step_callback(tiny_pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    told = tiny_pipe(
        STORY,
        num_inference_steps=3,
        output_type="latent",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    assert (
        [s for s, _, _ in seen] == [0, 1, 2]
        and seen[0][2] == ["latents", "prompt_embeds"]
        and told.images.abs().max() == 0
    )

    def stop(pipe, step, timestep, tensors):
        seen.append(step)
        pipe._interrupt = True

    seen.clear()
    tiny_pipe(STORY, num_inference_steps=3, callback_on_step_end=stop)
    assert seen == [0]


def cutoff_at(step):
    """The dynamic guidance of diffusers' documentation, for SDXL."""

    def callback(pipe, i, timestep, kwargs):
        if i == step:
            for name in kwargs:
                kwargs[name] = kwargs[name].chunk(2)[-1]
            pipe._guidance_scale = 0.0
        return kwargs

    return callback


ALL_INPUTS = ["prompt_embeds", "add_text_embeds", "add_time_ids"]


@pytest.mark.parametrize("consistency", [0, 1.0])
def test_guidance_that_a_callback_switches_off(tiny_parts, tiny_pipe, consistency):
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    call = {"latents": noise, "guidance_scale": 4.0, "callback_on_step_end": cutoff_at(0), **FEW}
    ours = tiny_pipe(STORY, consistency=consistency, callback_on_step_end_tensor_inputs=ALL_INPUTS, **call)
    if consistency:
        assert np.isfinite(ours.images).all()
        return
    theirs = StableDiffusionXLPipeline(
        **tiny_parts, force_zeros_for_empty_prompt=False, add_watermarker=False
    )
    theirs.set_progress_bar_config(disable=True)
    want = theirs(STORY, callback_on_step_end_tensor_inputs=ALL_INPUTS, **call).images
    close(ours.images, want)
    few = tiny_pipe(STORY, consistency=0, callback_on_step_end_tensor_inputs=["prompt_embeds"], **call).images
    close(few, want)  # as the documentation prints it for Stable Diffusion: the others follow

    def only_scale(pipe, i, timestep, kwargs):
        pipe._guidance_scale = 0.0

    close(tiny_pipe(STORY, consistency=0, **call | {"callback_on_step_end": only_scale}).images, want)


@pytest.mark.parametrize("consistency", [0, 0.5])
def test_guidance_in_some_steps_is_calls_with_and_without(tiny_pipe, consistency):
    """Steps 1 and 2 of 4; the same as a call without guidance, one with it and one without, each going on."""
    kept, rows = {}, []

    def keep(pipe, i, t, tensors):
        kept[i] = tensors["latents"]

    call = {"num_inference_steps": 4, "output_type": "latent", "consistency": consistency, "seed": 3}
    counted = tiny_pipe.unet.register_forward_pre_hook(lambda unet, args: rows.append(len(args[0])))
    found = tiny_pipe(STORY, guidance_scale=4.0, guidance_start=0.25, guidance_stop=0.75, **call).images
    counted.remove()
    assert rows == [3, 6, 6, 3]  # an unguided step costs half
    tiny_pipe(STORY, guidance_scale=1.0, callback_on_step_end=keep, **call)
    tiny_pipe(STORY, guidance_scale=4.0, resume=(1, kept[0]), callback_on_step_end=keep, **call)
    want = tiny_pipe(STORY, guidance_scale=1.0, resume=(3, kept[2]), **call).images
    torch.testing.assert_close(found, want)
    assert not torch.allclose(found, tiny_pipe(STORY, guidance_scale=4.0, **call).images)


def test_a_pipeline_remembers_in_which_steps_it_is_guided(tiny_parts, tiny_pipe, tmp_path):
    call = {"guidance_scale": 4.0, "num_inference_steps": 4, "output_type": "np"}
    want = tiny_pipe(STORY, guidance_start=0.25, guidance_stop=0.75, **call).images
    more = {"force_zeros_for_empty_prompt": False, "add_watermarker": False}
    pipe = StoryPipeline(**tiny_parts, guidance_start=0.25, guidance_stop=0.75, **more)
    pipe.save_pretrained(tmp_path / "saved")
    others = StoryPipeline(**pipe.components), StoryPipeline.from_pipe(pipe)
    for p in (pipe, *others, StoryPipeline.from_pretrained(tmp_path / "saved")):
        p.set_progress_bar_config(disable=True)
        close(p(STORY, **call).images, want)
        whole = p(STORY, guidance_start=0, guidance_stop=1, **call).images
        close(whole, tiny_pipe(STORY, **call).images)
    micro = StoryPipeline.from_pretrained("micro")
    assert (micro.config.guidance_start, micro.config.guidance_stop) == GUIDED


@pytest.mark.parametrize("kind", [HeunDiscreteScheduler, KDPM2DiscreteScheduler])
def test_a_step_of_two_calls_is_one_step(known_pipe, kind):
    """Of 4 steps, which take 2, 2, 2 and 1 calls: guidance in steps 1 and 2, the identity from step 2 on."""
    known_pipe.scheduler = kind.from_config(known_pipe.scheduler.config)
    rows, said = [], []

    def note(pipe, i, t, tensors):
        said.append(tensors["prompt_embeds"][-1:])

    counted = known_pipe.unet.register_forward_pre_hook(lambda unet, args: rows.append(len(args[0])))
    call = {"callback_on_step_end": note, "callback_on_step_end_tensor_inputs": "prompt_embeds"}
    call |= {"num_inference_steps": 4, "output_type": "latent", "start_merge_step": 0.5, "apart": "words"}
    known_pipe(PEOPLE[:1], FACES, guidance_start=0.25, guidance_stop=0.75, **call)
    counted.remove()
    assert rows == [1, 1, 2, 2, 2, 2, 1]
    assert [torch.equal(x, said[0]) for x in said] == [True] * 4 + [False] * 3
    said.clear()
    with pytest.warns(UserWarning, match="of 4 steps: no step reads the identity"):
        known_pipe(PEOPLE[:1], FACES, **call | {"start_merge_step": 1.0})
    assert len(said) == 7 and all(torch.equal(x, said[0]) for x in said)


def test_a_unet_that_is_told_the_scale_draws_as_in_diffusers(tiny_parts):
    """Such as that of latent consistency models: one call a step, and the scale goes into it."""
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_config(tiny_parts["unet"].config, time_cond_proj_dim=8).eval()
    parts = tiny_parts | {"unet": unet, "scheduler": LCMScheduler.from_config(tiny_parts["scheduler"].config)}
    more = {"force_zeros_for_empty_prompt": False, "add_watermarker": False}
    ours, theirs = StoryPipeline(**parts, **more), StableDiffusionXLPipeline(**parts, **more)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    call = {"latents": noise, "num_inference_steps": 1, "output_type": "np"}  # its last step draws no noise
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    drawn = [ours(STORY[:1], guidance_scale=scale, **call).images for scale in (8.0, 1.0)]
    close(drawn[0], theirs(STORY[:1], guidance_scale=8.0, **call).images)
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-4
    with pytest.raises(ValueError, match="told guidance_scale in every step"):
        ours(STORY[:1], guidance_stop=0.5, **call)


@pytest.mark.parametrize("limits", [(0.5, 0.5), (0.75, 0.25), (1, None), (0.4, 0.45)])
def test_no_step_to_guide_is_told(tiny_pipe, limits):
    start, stop = limits
    with pytest.raises(ValueError, match="guidance_start is .* no step would be guided"):
        tiny_pipe(STORY, guidance_start=start, guidance_stop=stop, **FEW)
    tiny_pipe(STORY, guidance_scale=1.0, guidance_start=start, guidance_stop=stop, **FEW)


@pytest.mark.parametrize("panels", [1, 3])
@pytest.mark.parametrize("wrapped", [False, True])
def test_diffusers_cutoff_callback(tiny_parts, tiny_pipe, panels, wrapped):
    callback = SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    callback = MultiPipelineCallbacks([callback]) if wrapped else callback
    noise = torch.randn(panels, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    call = {"latents": noise, "guidance_scale": 4.0, **FEW}
    ours = tiny_pipe(STORY[:panels], consistency=0, callback_on_step_end=callback, **call).images
    theirs = StableDiffusionXLPipeline(
        **tiny_parts, force_zeros_for_empty_prompt=False, add_watermarker=False
    )
    theirs.set_progress_bar_config(disable=True)
    for j in range(panels):  # theirs keeps one row, so that it can draw one picture
        one = call | {"latents": noise[j : j + 1]}
        close(ours[j : j + 1], theirs(STORY[j], callback_on_step_end=callback, **one).images)


def test_a_callback_that_returns_too_few_rows_is_told(tiny_pipe):
    def halved(pipe, i, t, kwargs):
        return {"prompt_embeds": kwargs["prompt_embeds"].chunk(2)[-1]}

    def on(pipe, i, t, kwargs):
        pipe._guidance_scale = 5.0

    call = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"], **FEW}
    with pytest.raises(ValueError, match="prompt_embeds with 3 rows.*must be 6"):
        tiny_pipe(STORY, callback_on_step_end=halved, **call)
    with pytest.raises(ValueError, match="switched guidance on"):
        tiny_pipe(STORY, callback_on_step_end=on, guidance_scale=1.0, **call)


@pytest.mark.parametrize("latents", [torch.zeros(1, 4, 8, 8), torch.zeros(3, 4, 8, 4), None])
def test_a_callback_that_returns_other_latents_is_told(tiny_pipe, latents):
    with pytest.raises(ValueError, match=r"returned latents .*story's are \[3, 4, 8, 8\]"):
        tiny_pipe(STORY, callback_on_step_end=lambda *_: {"latents": latents}, **FEW)


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, IPNDMScheduler])
def test_a_scheduler_of_another_kind_of_model_is_told(tiny_pipe, kind):
    """With this one's v-prediction IPNDM would draw something that is no picture, and no error."""
    tiny_pipe.scheduler, tiny_pipe.unet.forward = kind(), None  # nothing is drawn
    with pytest.raises(ValueError, match=f"{kind.__name__} cannot draw with this model.*from_config"):
        tiny_pipe(STORY, **FEW)


# ------------------------------------------------------------------------------------------ going on
DRAWS = [
    None,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    DDPMScheduler,
    LCMScheduler,
    TCDScheduler,
]


@pytest.mark.parametrize("scheduler", DRAWS)
@pytest.mark.parametrize("at", [1, 3])
def test_going_on_is_exact_where_each_step_draws_noise(tiny_pipe, scheduler, at):
    if scheduler:
        tiny_pipe.scheduler = scheduler.from_config(tiny_pipe.scheduler.config)
    kept, call = {}, {"num_inference_steps": 4, "eta": 1.0, "output_type": "latent"}

    def keep(pipe, step, t, tensors):
        kept[step + 1] = tensors["latents"].clone()

    whole = tiny_pipe(STORY, callback_on_step_end=keep, **call).images
    assert torch.equal(tiny_pipe(STORY, resume=(at, kept[at]), **call).images, whole)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_all_of_ddims_noise_gives_numbers(tiny_pipe, steps):
    """In 32 bits, with 4 steps, eta=1 alone is the root of -6e-8."""
    images = [
        tiny_pipe(STORY[:1], eta=eta, num_inference_steps=steps, output_type="np").images
        for eta in (1, 0.999)
    ]
    assert np.abs(images[0] - images[1]).max() < 0.2


@pytest.mark.parametrize(
    "scheduler", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, HeunDiscreteScheduler]
)
def test_going_on_is_refused_where_it_cannot_be_exact(tiny_pipe, scheduler):
    tiny_pipe.scheduler = scheduler.from_config(tiny_pipe.scheduler.config)
    call = {"num_inference_steps": 4, "resume": (2, torch.zeros(3, 4, 8, 8))}
    with pytest.raises(ValueError, match=f"{scheduler.__name__} may keep more.*DDIMScheduler"):
        tiny_pipe(STORY, **call)


def test_going_on_with_a_generator_is_refused(tiny_pipe):
    call = {"num_inference_steps": 4, "resume": (2, torch.zeros(3, 4, 8, 8))}
    with pytest.raises(ValueError, match="resume goes with seed"):
        tiny_pipe(STORY, generator=torch.Generator(), **call)


# ------------------------------------------------------------------------------------------ not a number
@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_no_number_from_the_unet_names_the_panel(tiny_pipe, output_type):
    plain = tiny_pipe.unet.forward

    def overflows(x, *args, **kwargs):
        out = plain(x, *args, **kwargs)[0].clone()
        out[1::3] = float("nan")  # panel 2 in both halves
        return (out,)

    tiny_pipe.unet.forward = overflows
    with pytest.raises(NotANumberError, match="^Panel 2: the U-Net gave nan.*float32"):
        tiny_pipe(STORY, consistency=0, num_inference_steps=2, output_type=output_type)
    with pytest.raises(NotANumberError, match="^Panel 2 of story 1, Panel 2 of story 2: the U-Net"):
        tiny_pipe.tell_many([STORY] * 2, consistency=0, num_inference_steps=2, output_type=output_type)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_from_the_autoencoder_names_the_panel(tiny_pipe, output_type, value):
    plain, drawn = tiny_pipe.vae.decode, []

    def overflows(x, return_dict=False):
        out = plain(x, return_dict=False)[0].clone()
        drawn.append(len(x))
        if len(drawn) == 2:
            out[1, 0, 3, 3] = value
        return (out,)

    tiny_pipe.vae.decode = overflows
    story = [*STORY, *STORY]
    with pytest.raises(NotANumberError, match="^Panel 6: the autoencoder gave nan or infinite"):
        tiny_pipe(story, num_inference_steps=1, output_type=output_type)


def test_half_precision_that_overflows_says_what_to_do(tiny_pipe):
    tiny_pipe.vae.to(torch.bfloat16)
    with torch.no_grad():
        tiny_pipe.vae.decoder.conv_out.bias.fill_(float("inf"))
    with pytest.raises(NotANumberError, match="Panel 1, Panel 2, Panel 3.*bfloat16.*--dtype float32"):
        tiny_pipe(STORY, num_inference_steps=1)


def test_processors_restored_after_an_error_in_a_step(tiny_pipe):
    before = dict(tiny_pipe.unet.attn_processors)

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_pipe(STORY, num_inference_steps=2, callback_on_step_end=fail)
    assert dict(tiny_pipe.unet.attn_processors) == before


def test_saved_and_loaded_as_either_class(tiny_pipe, tmp_path):
    files.atomic_save(tmp_path / "model", tiny_pipe.save_pretrained)
    loaded = StoryPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert (
        type(loaded) is StoryPipeline
        and loaded.tokenizer_2.pad_token_id == 0
        and loaded.tokenizer.pad_token_id == 49407
    )
    close(loaded(STORY, **FEW).images, tiny_pipe(STORY, **FEW).images)
    plain = DiffusionPipeline.from_pretrained(tmp_path / "model")  # who does not know which class it is
    assert type(plain) is StableDiffusionXLPipeline
    assert plain.tokenizer("a man img").input_ids == [49406, 320, 786, 49408, 49407]


def test_half_precision_files_load_as_float32(tiny_pipe, tmp_path):
    for part in (tiny_pipe.unet, tiny_pipe.vae):
        part.half()
    tiny_pipe.save_pretrained(tmp_path)
    loaded = StoryPipeline.from_pretrained(tmp_path)
    assert {
        p.dtype
        for part in (loaded.unet, loaded.vae, loaded.text_encoder, loaded.text_encoder_2)
        for p in part.parameters()
    } == {torch.float32}


@pytest.mark.parametrize("name", [None, 5, ["micro"]])
def test_what_is_no_name_of_a_model_is_told(name):
    with pytest.raises(TypeError, match="named by a text or a path, such as 'micro'"):
        StoryPipeline.from_pretrained(name)


def test_the_shipped_model_may_be_named_by_a_path(monkeypatch, tmp_path):
    def shipped(name):
        raise LookupError(name)  # where its files would be looked for

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "path", shipped)
    with pytest.raises(LookupError, match="micro"):
        StoryPipeline.from_pretrained(Path("micro"))
    with pytest.raises(files.WeightsError, match="no folder or file ''"):  # and not the folder at hand
        StoryPipeline.from_pretrained("")


@pytest.mark.parametrize(
    "change, error, says",
    [
        ({"story": ""}, ValueError, "story is empty"),
        ({"story": []}, ValueError, "no panels"),
        ({"story": ["a", " "]}, ValueError, "Panel 2 .*empty prompt"),
        ({"story": [["a"], ["b"]]}, TypeError, "tell_many"),
        ({"story": 3}, TypeError, "not int"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": 1.5}, TypeError, "whole number"),
        ({"consistency": 1.01}, ValueError, "between 0 and 1"),
        ({"consistency": -0.1}, ValueError, "between 0 and 1"),
        ({"consistency": float("nan")}, ValueError, "between 0 and 1"),
        ({"consistency": "much"}, TypeError, "must be a number"),
        ({"guidance_scale": float("nan")}, ValueError, "guidance_scale"),
        ({"guidance_rescale": 2}, ValueError, "guidance_rescale"),
        ({"guidance_start": 2}, ValueError, "guidance_start"),
        ({"guidance_stop": "end"}, TypeError, "guidance_stop must be a number"),
        ({"num_inference_steps": 0}, ValueError, "at least 1"),
        ({"height": 36}, ValueError, "multiples of 8.*32 and 40"),
        ({"width": 4}, ValueError, "multiples of 8"),
        ({"width": 64.0}, TypeError, "whole number"),
        ({"window": 0}, ValueError, "window"),
        ({"layers": "sideways"}, ValueError, "sideways"),
        ({"layers": None}, TypeError, "layers must be 'up'.*not None"),
        ({"layers": 5}, TypeError, "layers must be 'up'.*not 5"),
        ({"layers": []}, ValueError, "nowhere.*consistency=0"),
        ({"layers": ""}, ValueError, "nowhere"),
        ({"layers": ["up", ""]}, TypeError, "one is ''"),
        ({"layers": [5]}, TypeError, "one is 5"),
        ({"num_inference_steps": 1001}, ValueError, "has 1000 noise levels"),
        ({"schedule": "released"}, TypeError, "SamplingSchedule"),
        ({"output_type": "jpg"}, ValueError, "jpg"),
        ({"id_images": ["x"]}, ValueError, "no identity encoder"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, ValueError, "latents must be"),
        ({"generator": [torch.Generator()]}, ValueError, "one generator or 3"),
        ({"callback_on_step_end_tensor_inputs": ["pixels"]}, ValueError, "pixels"),
        ({"callback_on_step_end_tensor_inputs": "pixels"}, ValueError, "cannot get pixels"),
        ({"callback_on_step_end": 3}, TypeError, "must be a function"),
        ({"eta": float("nan")}, ValueError, "eta is nan.*between 0 and 1"),
        ({"eta": -1}, ValueError, "eta is -1"),
        ({"eta": 2}, ValueError, "eta is 2"),
        ({"eta": "1"}, TypeError, "eta must be a number"),
        ({"eta": None}, TypeError, "eta must be a number"),
        ({"seed": True}, TypeError, "whole number"),
        ({"seed": float("inf")}, TypeError, "whole number"),
        ({"seed": 2**63}, ValueError, "from 0 to"),
        ({"consistency": True}, TypeError, "must be a number"),
        ({"consistency": float("inf")}, ValueError, "between 0 and 1"),
        ({"guidance_scale": float("inf")}, ValueError, "guidance_scale"),
        ({"guidance_scale": -1}, ValueError, "guidance_scale"),
        ({"guidance_scale": "5"}, TypeError, "guidance_scale must be a number"),
        ({"guidance_scale": None}, TypeError, "guidance_scale must be a number"),
        ({"guidance_rescale": float("nan")}, ValueError, "guidance_rescale"),
        ({"guidance_rescale": False}, TypeError, "guidance_rescale"),
        ({"num_inference_steps": "3"}, TypeError, "num_inference_steps must be a whole number"),
        ({"num_inference_steps": float("nan")}, TypeError, "whole number"),
        ({"start_merge_step": float("nan")}, ValueError, "share of the steps"),
        ({"start_merge_step": np.float32("nan")}, ValueError, "share of the steps"),
        ({"start_merge_step": float("inf")}, ValueError, "share of the steps"),
        ({"start_merge_step": True}, TypeError, "whole number"),
        ({"start_merge_step": "0.5"}, TypeError, "whole number"),
        ({"negative_prompt": ["fog"] * 2}, ValueError, "3 panels and negative_prompt 2"),
        ({"negative_prompt": ["fog", "rain", 3]}, TypeError, "negative_prompt must be text"),
        ({"negative_prompt": 3}, TypeError, "negative_prompt must be text"),
        (
            {"original_size": 64},
            TypeError,
            r"original_size must be two numbers, such as \(512, 512\), not 64",
        ),
        ({"original_size": (64, 64, 3)}, TypeError, "two numbers"),
        ({"target_size": (64, "64")}, TypeError, "target_size must be two numbers"),
        ({"target_size": (-1, 64)}, ValueError, "target_size"),
        ({"crops_coords_top_left": 0}, TypeError, "crops_coords_top_left must be two"),
        ({"crops_coords_top_left": (0, float("nan"))}, ValueError, "two finite numbers"),
        ({"generator": 7}, TypeError, "torch.Generator.*seed="),
        ({"generator": [7, 7, 7]}, TypeError, "torch.Generator"),
        ({"latents": np.zeros((3, 4, 8, 8), np.float32)}, TypeError, "torch.from_numpy"),
        ({"latents": torch.zeros(3, 4, 8, 8, dtype=torch.long)}, TypeError, "floating point"),
        ({"latents": torch.full((3, 4, 8, 8), float("nan"))}, ValueError, "latents hold nan"),
        ({"resume": 1}, TypeError, "resume must be a pair"),
        ({"resume": (0, None)}, TypeError, "resume must be a pair"),
        ({"resume": (True, torch.zeros(3, 4, 8, 8))}, TypeError, "whole number"),
        ({"resume": (0, torch.full((3, 4, 8, 8), float("inf")))}, ValueError, "latents of resume hold nan"),
    ],
)
def test_bad_input(tiny_pipe, change, error, says):
    arguments = {"story": STORY, "num_inference_steps": 1} | change
    tiny_pipe.unet.forward = None  # nothing is drawn
    with pytest.raises(error, match=says) as caught:
        tiny_pipe(arguments.pop("story"), **arguments)
    assert "\n" not in str(caught.value)


def test_values_that_look_odd_and_are_right(tiny_pipe):
    call = {"consistency": np.float32(0.5), "guidance_scale": np.float64(4), "eta": np.float32(0.5), **FEW}
    call |= {"original_size": [64, 64], "crops_coords_top_left": [0, 0], "start_merge_step": np.float32(0.5)}
    plain = {"consistency": 0.5, "guidance_scale": 4, "eta": 0.5, "original_size": (64, 64), **FEW}
    assert np.array_equal(tiny_pipe(STORY, **call).images, tiny_pipe(STORY, **plain).images)
    some = tuple(torch.Generator().manual_seed(i) for i in range(3))
    assert tiny_pipe(STORY, generator=some, **FEW).images.shape[0] == 3


def test_a_negative_prompt_for_each_panel(tiny_pipe):
    """As diffusers takes it: a list, one for each prompt."""
    call = {"consistency": 0, "guidance_scale": 4.0, **FEW}
    one = tiny_pipe(STORY, negative_prompt="fog", **call).images
    assert np.array_equal(tiny_pipe(STORY, negative_prompt=["fog"] * 3, **call).images, one)
    mixed = tiny_pipe(STORY, negative_prompt=["fog", None, "rain"], **call).images
    none = tiny_pipe(STORY, **call).images
    close(mixed[0], one[0])
    close(mixed[1], none[1])
    assert np.abs(mixed[2] - one[2]).max() > 1e-5
    many = tiny_pipe.tell_many([STORY, STORY], seeds=[0, 0], negative_prompt=["fog", None, "rain"], **call)
    for told in many:
        close(told.images, mixed)


def test_bad_input_of_many(tiny_pipe):
    with pytest.raises(ValueError, match="2 stories and 1 seeds"):
        tiny_pipe.tell_many([STORY, STORY], seeds=[1])
    with pytest.raises(TypeError, match="neither story"):
        tiny_pipe.tell_many([STORY], seed=3)
    assert tiny_pipe.tell_many([]) == []
    drawn = []
    tiny_pipe.unet.register_forward_pre_hook(lambda *_: drawn.append(1))
    with pytest.raises(ValueError, match="has 2 panels and negative_prompt 3"):
        tiny_pipe.tell_many([STORY, STORY[:2]], negative_prompt=["fog", None, "rain"])
    for story in (STORY, STORY[:2]):  # in one batch, and in two
        with pytest.raises(ValueError, match="A recorder keeps one story, and there are 2"):
            tiny_pipe.tell_many([STORY, story], recorder=AttentionRecorder(0))
    assert not drawn


def test_a_long_caption_warns_with_the_words_that_are_lost(tiny_pipe):
    with pytest.warns(UserWarning, match="these words were cut: '.*umbrella'"):
        tiny_pipe(["a bear " * 40 + "umbrella"], num_inference_steps=1)


# ------------------------------------------------------------------------------------------ identity prompts
def test_identity_prompt_and_its_twin(tiny_pipe):
    got = tiny_pipe.encode_identity_prompt("a bear img, reading in the forest", 3)
    assert got.class_tokens_mask.nonzero()[:, 1].tolist() == [2, 3, 4]
    with torch.no_grad():
        text, pooled = tiny_pipe.prompts(["a bear, reading in the forest"])
    close(got.text_embeds, text)
    close(got.text_pooled, pooled)
    close(got.prompt_embeds[:, :3], text[:, :3])  # causal: what stands before the repetition is the same
    assert (got.prompt_embeds[:, 4] - text[:, 4]).abs().max() > 1e-3
    assert (got.pooled - pooled).abs().max() > 1e-4, "the pooled output reads the repetition too"


def test_trigger_word_without_pictures_is_told(tiny_pipe):
    with pytest.raises(TriggerWordError, match="no id_images"):
        tiny_pipe(["a bear img in the forest"], **FEW)
    with pytest.raises(TriggerWordError, match="no trigger word"):
        tiny_pipe.encode_identity_prompt("a bear in the forest", 1)


PEOPLE = ["a bear img reads in the forest", "a bear img sleeps on the beach", "the empty city"]
FACES = [Image.new("RGB", (40, 40), c) for c in ("red", "green", "blue")]


def test_picks_of_the_subject_go_with_pictures_of_a_person(known_pipe):
    call = {"id_images": FACES, "consistency": 0.3, "start_merge_step": 0, "output_type": "latent"}
    ours = known_pipe(PEOPLE, picks="subject", num_inference_steps=3, **call).images
    assert ours.isfinite().all()
    assert (ours - known_pipe(PEOPLE, num_inference_steps=3, **call).images).abs().max() > 1e-4


def test_pictures_of_a_person_are_not_carried_as_text(known_pipe):
    story = "a bear img in a hat reads\nhe sleeps"
    with pytest.raises(ValueError, match="Panel 2 stands for 'a bear img in a hat'.*Write it out"):
        known_pipe(story, id_images=FACES, **FEW)
    named = "[Bo] a bear img in a hat\n\n[Bo] reads\nhe sleeps"
    assert len(known_pipe(named, id_images={"Bo": FACES}, **FEW).images) == 2


def test_identity_is_read_and_only_where_it_is_named(known_pipe):
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    call = {"latents": noise, "consistency": 0, **FEW}
    plain = known_pipe([p.replace(" img", "") for p in PEOPLE], **call).images
    one = known_pipe(PEOPLE, id_images=FACES[:1], start_merge_step=-1, **call).images
    three = known_pipe(PEOPLE, id_images=FACES, start_merge_step=-1, **call).images
    far = np.abs(one - plain).max((1, 2, 3)), np.abs(one - three).max((1, 2, 3))
    assert far[0][0] > 1e-3 and far[0][1] > 1e-3 and far[1][0] > 1e-3
    close(one[2], plain[2])
    close(known_pipe(PEOPLE, id_images=FACES[0], start_merge_step=-1, **call).images, one)


@pytest.mark.parametrize(
    "face",
    [
        Image.new("RGB", (1, 1), "red"),
        Image.new("L", (1, 900), 9),
        Image.new("RGBA", (900, 2), (1, 2, 3, 0)),
        Image.fromarray(np.full((40, 40), 40000, np.uint16)),
    ],
    ids=lambda image: f"{image.mode} {image.size}",
)
def test_any_picture_can_be_a_reference(known_pipe, face):
    call = {"start_merge_step": -1, "num_inference_steps": 1, "output_type": "np"}
    got = known_pipe(PEOPLE[:1], id_images=face, **call).images
    colour = round(40000 / 257) if face.mode == "I;16" else as_rgb(face).getpixel((0, 0))
    same = Image.new("RGB", (40, 40), colour if isinstance(colour, tuple) else (colour,) * 3)
    np.testing.assert_allclose(got, known_pipe(PEOPLE[:1], id_images=same, **call).images, atol=2e-3)


@pytest.mark.parametrize(
    ("start", "text_only"), [(-1, 0), (0, 1), (1, 2), (9, 3), (0.0, 0), (1 / 3, 1), (1.0, 3), (None, 1)]
)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_identity_comes_in_when_it_should(known_pipe, start, text_only, guidance):
    """With k: the steps 0 .. k read the text alone, as released; both kinds of embedding switch together."""
    said, pooled = [], []

    def note(pipe, i, t, tensors):
        said.append(tensors["prompt_embeds"])
        pooled.append(tensors["add_text_embeds"])
        return {}

    call = {
        "callback_on_step_end": note,
        "callback_on_step_end_tensor_inputs": ("prompt_embeds", "add_text_embeds"),
    }
    known_pipe(PEOPLE, id_images=FACES, start_merge_step=start, guidance_scale=guidance, **call, **FEW)
    with torch.no_grad():
        text, text_pooled = known_pipe.prompts([p.replace(" img", "") for p in PEOPLE])
    for what, wanted in ((said, text), (pooled, text_pooled)):
        plain = [torch.allclose(x[-3:], wanted, atol=1e-5) for x in what]
        assert plain == [i < text_only for i in range(3)]
        assert guidance == 1 or all(torch.equal(x[:3], what[0][:3]) for x in what), "guidance's other half"


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (1, "start_merge_step=1 is a step.*third step on.*1.0"),
        (1.0, "start_merge_step=1.0 of 3 steps: no step reads the identity"),
        (2, "no step reads the identity"),
        (10, "no step reads the identity"),
        (0.9, "no step reads the identity"),
        (3, None),
        (0, None),
        (0.5, None),
        (None, None),
    ],
)
def test_a_step_or_a_share_is_told(known_pipe, start, words):
    call = {"start_merge_step": start, "num_inference_steps": 3, "output_type": "latent"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        known_pipe(PEOPLE, id_images=FACES[:1], **call)
        known_pipe(STORY, **call)  # without pictures it changes nothing
    said = [w for w in caught if "start_merge_step" in str(w.message)]
    assert len(said) == (words is not None)
    if words:
        with pytest.warns(UserWarning, match=words):
            known_pipe(PEOPLE, id_images=FACES[:1], **call)
        assert said[0].filename == __file__


def test_identities_of_many_stories_stay_apart(known_pipe):
    call = {"consistency": 0.5, "start_merge_step": -1, **FEW}
    alone = [known_pipe(PEOPLE, id_images=[face], seed=k, **call).images for k, face in enumerate(FACES)]
    plain = known_pipe(STORY, seed=3, consistency=0.5, **FEW).images
    told = known_pipe.tell_many([PEOPLE] * 3 + [STORY], id_images=[[f] for f in FACES] + [None], **call)
    for a, b in zip([*alone, plain], told, strict=True):
        close(a, b.images)


@pytest.mark.parametrize(
    ("error", "settings", "words"),
    [
        (ValueError, {"id_images": []}, "at least one picture"),
        (TypeError, {"id_images": ["me.png"]}, "a str"),
        (TriggerWordError, {"story": STORY, "id_images": FACES}, "no panel names the person"),
        (ValueError, {"id_images": FACES, "start_merge_step": -2}, "at least -1"),
        (ValueError, {"id_images": FACES, "start_merge_step": 1.5}, "share of the steps"),
        (TypeError, {"id_images": FACES, "start_merge_step": "late"}, "whole number"),
    ],
)
def test_mistakes_with_identities_are_told(known_pipe, error, settings, words):
    with pytest.raises(error, match=words):
        known_pipe(**{"story": PEOPLE} | settings, **FEW)


def test_identity_encoder_of_another_model_is_told(tiny_pipe, tmp_path):
    IDEncoder(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=8,
            projection_dim_2=16,
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="24 numbers and this U-Net reads 32"):
        tiny_pipe.load_identity(tmp_path)


def test_a_part_that_was_left_out_is_told_and_latents_need_no_decoder(tmp_path):
    pipe = StoryPipeline.from_pretrained("micro", vae=None)
    call = {"num_inference_steps": 1, "consistency": 0}
    with pytest.raises(ValueError, match="without its vae, .* output_type='latent' it draws without"):
        pipe(["a bear"], **call)
    assert pipe(["a bear"], **call, output_type="latent").images.shape[:2] == (1, 4)
    pipe = StoryPipeline.from_pretrained("micro", unet=None)
    with pytest.raises(ValueError, match="without its unet"):
        pipe(["a bear"], **call)


def test_a_scheduler_that_understands_another_prediction_is_told(tiny_pipe):
    from diffusers import EulerDiscreteScheduler

    call = {"num_inference_steps": 1, "output_type": "latent", "consistency": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tiny_pipe(["a bear"], **call)
    other = {"epsilon": "v_prediction", "v_prediction": "epsilon"}[tiny_pipe.scheduler.config.prediction_type]
    tiny_pipe.scheduler = EulerDiscreteScheduler.from_config(
        tiny_pipe.scheduler.config, prediction_type=other
    )
    with pytest.warns(UserWarning, match=f"predicts for '{other}'.*from_config") as told:
        tiny_pipe(["a bear"], **call)
    assert told[0].filename == __file__
