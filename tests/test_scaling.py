"""The same code on SDXL: its full size by shapes alone, a tiny one through every option, and bad input."""

import argparse
import builtins
import copy
import errno
import importlib.util
import json
import pickle
import struct
import sys
from pathlib import Path

import diffusers
import nbformat
import numpy as np
import pytest
import torch
from diffusers.utils import convert_unet_state_dict_to_peft
from PIL import Image
from safetensors.torch import load_file, save_file
from single_file import original
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionConfig

from storydiff_lite.identity import PHOTOMAKER, IDEncoder
from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.schedule import AttentionPlan, self_attention_layers
from storydiff_lite.sdxl import advice, checks, photomaker, shapes
from storydiff_lite.weights import WeightsError

ROOT = Path(__file__).parent.parent
STORY = ["a bear reads", "a bear sleeps", "a bear walks"]
CALL = {"num_inference_steps": 2, "seed": 3, "output_type": "np"}


def module(path):
    """A script of this project, imported."""
    for folder in ("benchmarks", "tools"):
        if str(ROOT / folder) not in sys.path:
            sys.path.append(str(ROOT / folder))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _tiny):
    """A tiny SDXL with random weights, as a folder."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    StoryPipeline(**_tiny, force_zeros_for_empty_prompt=False, add_watermarker=False).save_pretrained(path)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    """A folder whose small files may be changed; large ones are linked."""
    for file in folder.rglob("*"):
        to = tmp_path / "copy" / file.relative_to(folder)
        to.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            to.symlink_to(file)
        elif file.is_file():
            to.write_bytes(file.read_bytes())
    return tmp_path / "copy"


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def tiny_pipe(_tiny):
    """A tiny SDXL of its own parts all through, since options change the text encoders too."""
    parts = {k: v if "tokenizer" in k else copy.deepcopy(v) for k, v in _tiny.items()}
    return quiet(StoryPipeline(**parts, force_zeros_for_empty_prompt=False, add_watermarker=False))


def load(folder, **kwargs):
    return quiet(StoryPipeline.from_pretrained(folder, **kwargs))


@pytest.fixture(scope="module")
def plain(folder):
    """Pictures [3, 32, 32, 3] with no option at all."""
    return load(folder)(STORY, **CALL).images


def edit(file, **changes):
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | changes))


# ------------------------------------------------------------------------------------------ full size
@pytest.fixture(scope="module")
def full():
    return shapes.unet("meta")


def test_full_size_unet_is_sdxls(full):
    assert sum(p.numel() for p in full.parameters()) == 2_567_463_684
    assert sum(p.numel() for p in shapes.vae("meta").parameters()) == 83_653_863
    assert {p.dtype for p in full.parameters()} == {torch.float16}


def test_36_processors_of_the_up_blocks_are_replaced(full):
    before = dict(full.attn_processors)
    with AttentionPlan.among(4, 0.5).installed(full):
        after = dict(full.attn_processors)
    changed = [n for n in after if after[n] is not before[n]]
    assert len(before) == 140 and len(changed) == 36
    assert all(n.startswith("up_blocks.") and n.endswith("attn1.processor") for n in changed)
    widths = [full.get_submodule(n.removesuffix(".processor")).to_q.in_features for n in changed]
    assert widths.count(1280) == 30 and widths.count(640) == 6
    assert all(full.attn_processors[n] is before[n] for n in before), "afterwards everything is as it was"


def test_other_layers_of_the_full_size(full):
    counts = {where: len(list(self_attention_layers(full, where))) for where in ("down", "mid", "up", "all")}
    assert counts == {"down": 24, "mid": 10, "up": 36, "all": 70}


# ------------------------------------------------------------------------------------------ every option
def after(step):
    def option(pipe):
        step(pipe)

    return option


OPTIONS = {
    "model offload": lambda p: p.enable_model_cpu_offload(device="cpu"),
    "group offload, leaves": lambda p: p.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"),
    "group offload, blocks": lambda p: p.enable_group_offload(
        torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    ),
    "slicing": lambda p: p.vae.enable_slicing(),
    "channels last": lambda p: p.unet.to(memory_format=torch.channels_last),
    "fused projections": lambda p: p.fuse_qkv_projections(),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_change_no_picture(tiny_pipe, plain, option):
    pipe = tiny_pipe
    OPTIONS[option](pipe)
    for _ in range(2):  # what an option moves about must be in its place again
        assert np.abs(pipe(STORY, **CALL).images - plain).max() < 1e-4


def test_tiling_decodes_in_tiles(tiny_pipe, plain):
    pipe = tiny_pipe
    pipe.vae.enable_tiling()
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 16
    images = pipe(STORY, **CALL).images
    assert images.shape == plain.shape and 0 < np.abs(images - plain).mean() < 0.1


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision(folder, plain, dtype, most, capfd):
    pipe = load(folder, dtype=dtype)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder_2.dtype} == {dtype}
    images = pipe(STORY, **CALL).images
    assert np.isfinite(images).all() and 0 < np.abs(images - plain).max() < most
    assert pipe.vae.dtype == dtype, "decoded in float32, and put back"
    assert "should be kept in float32" not in capfd.readouterr().err


FEW_STEPS = {
    "LCMScheduler": {},
    "EulerDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {"use_karras_sigmas": True},
    "EulerAncestralDiscreteScheduler": {},
    "TCDScheduler": {},
}


@pytest.mark.parametrize("name", FEW_STEPS)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_few_step_schedulers(tiny_pipe, name, guidance):
    kind = getattr(diffusers, name)
    tiny_pipe.scheduler = kind.from_config(tiny_pipe.scheduler.config, **FEW_STEPS[name])
    call = CALL | {"num_inference_steps": 4, "guidance_scale": guidance}
    images = tiny_pipe(STORY, **call).images
    assert images.shape == (3, 32, 32, 3) and np.isfinite(images).all()
    assert np.array_equal(images, tiny_pipe(STORY, **call).images), "the seed decides all noise"
    assert not np.array_equal(images, tiny_pipe(STORY, **call, consistency=0).images)


def test_a_lora_through_peft_changes_pictures_until_it_is_taken_out(tiny_pipe, plain):
    pipe = tiny_pipe
    pipe.load_lora_weights(lora_of(pipe.unet, "peft"), adapter_name="style")
    assert np.abs(pipe(STORY, **CALL).images - plain).max() > 1e-3
    pipe.fuse_lora()
    pipe.unfuse_lora()
    pipe.delete_adapters("style")
    assert np.abs(pipe(STORY, **CALL).images - plain).max() < 1e-4


def test_a_folder_in_half_precision_alone_needs_no_variant(tmp_path, tiny_pipe):
    tiny_pipe.save_pretrained(tmp_path, variant="fp16")
    assert load(tmp_path).unet.dtype == torch.float32
    assert load(tmp_path, variant="fp16", torch_dtype=torch.float16).unet.dtype == torch.float16


# ------------------------------------------------------------------------------------------ single files
def text_config(width, **more):
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    sizes = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextConfig(vocab_size=49409, hidden_size=width, projection_dim=width, **sizes, **ids, **more)


@pytest.fixture(scope="module")
def single(tmp_path_factory, _tiny):
    """A small pipeline of SDXL's own layout, as a file under the original names, and its folder."""
    torch.manual_seed(0)
    small = {
        "sample_size": 8, "block_out_channels": (16, 32, 32), "transformer_layers_per_block": (1, 1, 1),
        "attention_head_dim": (2, 4, 4), "norm_num_groups": 8, "cross_attention_dim": 40,
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24 + 6 * 8,
    }  # fmt: skip
    vae = shapes.VAE | {"sample_size": 64, "block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
    pipe = StoryPipeline(
        unet=diffusers.UNet2DConditionModel.from_config(shapes.UNET | small).eval(),
        vae=diffusers.AutoencoderKL.from_config(vae).eval(),
        scheduler=diffusers.EulerDiscreteScheduler(),
        text_encoder=CLIPTextModel(text_config(16)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(text_config(24, hidden_act="gelu")).eval(),
        tokenizer=_tiny["tokenizer"],
        tokenizer_2=_tiny["tokenizer_2"],
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("single")
    pipe.save_pretrained(folder / "folder")
    save_file(original(pipe), folder / "model.safetensors")
    return quiet(pipe), folder / "model.safetensors", folder / "folder"


def test_a_single_file_draws_what_its_folder_draws(single):
    pipe, file, folder = single
    images = quiet(StoryPipeline.from_pretrained(file, config=str(folder)))(STORY, **CALL).images
    assert np.array_equal(images, pipe(STORY, **CALL).images)
    assert load_file(file).keys() > {"conditioner.embedders.1.model.ln_final.weight"}


def test_a_single_file_without_configurations_says_what_is_missing(single):
    with pytest.raises(WeightsError, match="model.safetensors holds weights alone.*config=folder"):
        StoryPipeline.from_single_file(single[1])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cond_stage_model.transformer.x", "one text encoder, as Stable Diffusion 1.5"),
        ("conditioner.embedders.0.model.x", "SDXL's refiner"),
        ("lora_unet_down_blocks_0.lora_down.weight", "it is a LoRA.*load_lora_weights"),
        ("model.diffusion_model.out.0.weight", "no text encoders.*model.diffusion_model.out.0.weight"),
    ],
)
def test_single_files_of_other_models(tmp_path, name, words):
    save_file({name: torch.ones(2)}, tmp_path / "some.safetensors")
    for load in (StoryPipeline.from_single_file, StoryPipeline.from_pretrained):
        with pytest.raises(WeightsError, match=f"some.safetensors is no single-file checkpoint.*{words}"):
            load(tmp_path / "some.safetensors")


def test_single_files_that_are_not_there_or_not_safe(tmp_path):
    with pytest.raises(WeightsError, match="There is no file"):
        StoryPipeline.from_single_file(tmp_path / "none.safetensors")
    (tmp_path / "old.ckpt").write_bytes(b"x")
    with pytest.raises(WeightsError, match="old.ckpt is not a safetensors file.*run code"):
        StoryPipeline.from_single_file(tmp_path / "old.ckpt")


# ------------------------------------------------------------------------------------------ PhotoMaker
def lora_of(unet, style, rank=2, dtype=torch.float32, device="cpu"):
    """A LoRA of all attention of a U-Net, under the names of diffusers' older or newer files."""
    g, state = torch.Generator().manual_seed(0), {}
    ends = {"processor": ("down", "up"), "peft": ("lora_A", "lora_B")}[style]
    for name, layer in unet.named_modules():
        part = name.rpartition(".")[2]
        if not isinstance(layer, torch.nn.Linear) or ".attn" not in name:
            continue
        base = name.removesuffix(".0")
        part = base.rpartition(".")[2]
        shapes = (rank, layer.in_features), (layer.out_features, rank)
        for end, shape in zip(ends, shapes, strict=True):
            if style == "peft":
                key = f"unet.{name}.{end}.weight"
            else:
                key = f"unet.{base.rpartition('.')[0]}.processor.{part}_lora.{end}.weight"
            if device == "meta":
                state[key] = torch.empty(shape, dtype=dtype, device="meta")
            else:
                state[key] = (0.3 * torch.randn(shape, generator=g)).to(dtype)
    return state


@pytest.fixture(scope="module")
def adapter(_tiny):
    """PhotoMaker's two parts at a small size: tokens of 16 + 16 numbers."""
    torch.manual_seed(0)
    small = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = CLIPVisionConfig(**small, image_size=28, patch_size=14, projection_dim=16, projection_dim_2=16)
    return {"id_encoder": IDEncoder(config).state_dict(), "lora_weights": lora_of(_tiny["unet"], "processor")}


def flat(parts):
    return {f"{part}.{n}": t.contiguous() for part, some in parts.items() for n, t in some.items()}


@pytest.fixture
def published(tmp_path, adapter):
    """The .bin as published, and a safetensors of it, in one folder."""
    torch.save(adapter, tmp_path / photomaker.NAME)
    save_file(flat(adapter), tmp_path / "photomaker-v1.safetensors")
    return tmp_path


PERSON = [Image.new("RGB", (40, 30), c) for c in ("red", "blue")]
PICTURED = ["a man img reads", "a man img sleeps", "a dog walks"]


def test_both_files_of_photomaker_draw_the_same(tiny_pipe, published):
    pipe, texts = tiny_pipe, [p.replace(" img", "") for p in PICTURED]
    before = pipe(texts, **CALL).images
    drawn = []
    for source in (published, published / photomaker.NAME, published / "photomaker-v1.safetensors"):
        again = pipe.load_photomaker_adapter(source)
        assert again is pipe and pipe.unet.active_adapters() == ["photomaker"]
        drawn.append(pipe(PICTURED, id_images=PERSON, **CALL).images)
    assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[0], drawn[2])
    assert np.abs(drawn[0] - before).max() > 1e-3
    assert not np.array_equal(drawn[0], pipe(PICTURED, id_images=PERSON[:1], **CALL).images)


def test_photomakers_lora_is_on_in_all_steps_or_in_the_identitys(tiny_pipe, published):
    pipe = tiny_pipe
    texts, call = [p.replace(" img", "") for p in PICTURED], CALL | {"num_inference_steps": 4}
    before = pipe(texts, **call).images
    pipe.load_photomaker_adapter(published, lora_scale=0)
    assert np.array_equal(before, pipe(texts, **call).images), "no LoRA"
    pipe.load_photomaker_adapter(published, lora_steps="identity")
    assert np.abs(pipe(texts, **call).images - before).max() < 1e-5, "nobody is pictured, so it is off"
    delayed = pipe(PICTURED, id_images=PERSON, start_merge_step=2, **call).images
    pipe.load_photomaker_adapter(published)
    assert np.abs(pipe(texts, **call).images - before).max() > 1e-3, "as released: always on"
    everywhere = pipe(PICTURED, id_images=PERSON, start_merge_step=2, **call).images
    assert np.abs(everywhere - delayed).max() > 1e-4
    pipe.load_photomaker_adapter(published, lora_scale=0.5)
    half = pipe(PICTURED, id_images=PERSON, start_merge_step=2, **call).images
    assert np.abs(half - everywhere).max() > 1e-4


def test_another_lora_stays_beside_photomakers(tiny_pipe, published):
    pipe = tiny_pipe
    pipe.load_lora_weights(lora_of(pipe.unet, "peft"), adapter_name="style")
    pipe.load_photomaker_adapter(published)
    assert set(pipe.unet.active_adapters()) == {"style", "photomaker"}
    pipe.load_photomaker_adapter(published, lora_scale=0)
    assert list(pipe.unet.peft_config) == ["style"]


def test_both_layouts_of_the_lora_are_one(tiny_parts, adapter):
    outputs = []
    for style in ("processor", "peft"):
        unet = type(tiny_parts["unet"]).from_config(tiny_parts["unet"].config).eval()
        unet.load_state_dict(tiny_parts["unet"].state_dict())
        photomaker.attach(adapter["id_encoder"], lora_of(unet, style), unet)
        g = torch.Generator().manual_seed(0)
        told = {"text_embeds": torch.ones(1, 16), "time_ids": torch.ones(1, 6)}
        x, states = torch.randn(1, 4, 8, 8, generator=g), torch.randn(1, 77, 32, generator=g)
        with torch.no_grad():
            outputs.append(unet(x, 5, states, added_cond_kwargs=told).sample)
    assert torch.allclose(*outputs, atol=1e-6)


def test_the_encoders_sizes_are_read_off_its_tensors(adapter):
    config = photomaker.config_of(adapter["id_encoder"])
    encoder = IDEncoder(config)
    assert encoder.load_state_dict(adapter["id_encoder"], strict=True)
    with torch.device("meta"):
        full = IDEncoder()
    state = full.state_dict()
    config = photomaker.config_of(state)
    assert {k: getattr(config, k) for k in PHOTOMAKER} == PHOTOMAKER
    assert sum(t.numel() for t in state.values()) == 326_273_024
    assert state["fuse_module.mlp1.fc1.weight"].shape == (2048, 4096)
    assert state["visual_projection_2.weight"].shape == (1280, 1024)


def test_full_size_photomaker_fits_full_size_sdxl(full):
    """By names and shapes: 560 attention layers of SDXL's U-Net, tokens of 2048 numbers."""
    with torch.device("meta"):
        state = IDEncoder().half().state_dict()
    lora = lora_of(full, "processor", rank=64, dtype=torch.float16, device="meta")
    peft, _ = StoryPipeline.lora_state_dict(dict(lora), unet_config=full.config)
    peft = convert_unet_state_dict_to_peft({n.removeprefix("unet."): t for n, t in peft.items()})
    assert len(lora) == len(peft) == 2 * 560
    for name, t in peft.items():
        layer, end = full.get_submodule(name.split(".lora_")[0]), name.split(".lora_")[1][0]
        assert tuple(t.shape) == ((64, layer.in_features) if end == "A" else (layer.out_features, 64)), name
    few = {n: t for n, t in lora.items() if n.startswith("unet.up_blocks.1.attentions.0")}
    try:  # a part of them put in: all 560 take long
        encoder = photomaker.attach(state, few, full)
        assert encoder.fuse_module.layer_norm.normalized_shape == (2048,)
        found = {n for n, _ in full.named_parameters() if ".lora_A." in n}
        assert len(found) == len(few) // 2 == 16 and full.active_adapters() == ["photomaker"]
    finally:
        full.delete_adapters("photomaker")


def changed(published, adapter, change):
    """The path of a file of PhotoMaker with something wrong."""
    parts = {k: dict(v) for k, v in adapter.items()}
    path = published / photomaker.NAME
    if change == "v2":
        parts["id_encoder"]["qformer_perceiver.token_norm.weight"] = torch.ones(4)
    elif change == "no lora":
        del parts["lora_weights"]
    elif change == "tensor missing":
        del parts["id_encoder"]["fuse_module.layer_norm.bias"]
    elif change == "other model":
        del parts["id_encoder"]["visual_projection_2.weight"]
    elif change == "other shape":
        parts["id_encoder"]["fuse_module.layer_norm.bias"] = torch.ones(7)
    elif change == "foreign lora":
        ends = ("lora_A", "lora_B")
        parts["lora_weights"] = {f"unet.nowhere.{e}.weight": torch.ones(2, 2) for e in ends}
    torch.save(parts, path)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    elif change == "text":
        path.write_text("not here")
    elif change == "code":
        path.write_bytes(pickle.dumps({"id_encoder": Path, "lora_weights": print}))
    elif change == "cut safetensors":
        path = published / "photomaker-v1.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
    elif change == "v2 safetensors":
        path = published / "v2.safetensors"
        parts["id_encoder"]["qformer_perceiver.token_norm.weight"] = torch.ones(4)
        save_file(flat(parts), path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("v2", "PhotoMaker v2.*InsightFace.*Q-Former.*photomaker-v1.bin"),
        ("v2 safetensors", "PhotoMaker v2"),
        ("no lora", "expected id_encoder and lora_weights, found id_encoder"),
        ("tensor missing", "not PhotoMaker v1's.*layer_norm.bias"),
        ("other model", "no tensor 'visual_projection_2"),
        ("other shape", "not PhotoMaker v1's.*layer_norm.bias"),
        ("foreign lora", "do not fit this U-Net.*unet.nowhere"),
        ("cut", "cut short"),
        ("text", "more than tensors, or is no file of PyTorch"),
        ("code", "run code"),
        ("cut safetensors", "cut short"),
    ],
)
def test_photomaker_files_that_are_wrong(tiny_pipe, published, adapter, change, words):
    pipe = tiny_pipe
    before = dict(pipe.unet.state_dict())
    with pytest.raises(WeightsError, match=f"(?s){words}"):
        pipe.load_photomaker_adapter(changed(published, adapter, change))
    assert pipe.id_encoder is None and pipe.unet.state_dict().keys() == before.keys()


def test_photomaker_that_is_not_there(tiny_pipe, tmp_path, adapter):
    (tmp_path / "other.bin").write_text("")
    with pytest.raises(WeightsError, match="weight_name.*other.bin"):
        tiny_pipe.load_photomaker_adapter(tmp_path)
    with pytest.raises(WeightsError, match="There is no file"):
        tiny_pipe.load_photomaker_adapter(tmp_path / "none.bin")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        tiny_pipe.load_photomaker_adapter("nobody/no-photomaker")
    with pytest.raises(ValueError, match="'all' or 'identity'"):
        tiny_pipe.load_photomaker_adapter(tmp_path, lora_steps="some")
    with pytest.raises(TypeError, match="lora_scale"):
        tiny_pipe.load_photomaker_adapter(tmp_path, lora_scale="1")
    torch.save(adapter, tmp_path / photomaker.NAME)
    tiny_pipe.unet.register_to_config(cross_attention_dim=2048)
    with pytest.raises(ValueError, match="have 32 numbers and this U-Net reads 2048"):
        tiny_pipe.load_photomaker_adapter(tmp_path)


# ------------------------------------------------------------------------------------------ bad input
def test_a_folder_that_is_no_pipeline(folder, tmp_path):
    with pytest.raises(WeightsError, match="no model_index.json.*In it: nothing"):
        StoryPipeline.from_pretrained(tmp_path)
    (tmp_path / "a.safetensors").write_text("")
    with pytest.raises(WeightsError, match="a.safetensors may be a single-file checkpoint.*from_single_file"):
        StoryPipeline.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="holds one part, a UNet2DConditionModel: give the folder above"):
        StoryPipeline.from_pretrained(folder / "unet")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "StableDiffusionPipeline", "text_encoder_2": None, "tokenizer_2": None},
         "StableDiffusionPipeline. It has one text encoder, as Stable Diffusion 1.5.*needs SDXL"),
        ({"text_encoder": [None, None], "tokenizer": [None, None]}, "refiner"),
        ({"_class_name": "FluxPipeline", "unet": None, "transformer": ["diffusers", "X"]}, "a transformer"),
        ({"vae": None}, "Without vae it cannot draw"),
    ],
)  # fmt: skip
def test_a_pipeline_that_is_not_sdxl(copied, changes, words):
    edit(copied / "model_index.json", **changes)
    with pytest.raises(WeightsError, match=words):
        StoryPipeline.from_pretrained(copied)


def test_a_unet_that_is_not_sdxls(copied):
    config = copied / "unet" / "config.json"
    edit(config, in_channels=9)
    with pytest.raises(WeightsError, match="9 channels.*inpainting"):
        StoryPipeline.from_pretrained(copied)
    edit(config, in_channels=4, addition_embed_type=None, cross_attention_dim=768)
    with pytest.raises(WeightsError, match="width 768.*Stable Diffusion 1.5"):
        StoryPipeline.from_pretrained(copied)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda b: b[:-1], "cut short: it has .* of .* bytes"),
        (lambda b: b[:200], "cut short at its start"),
        (lambda b: b"", "cut short at its start"),
        (lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (lambda b: struct.pack("<Q", 4) + b"{{{{" + b[:100], "header cannot be read"),
    ],
)
def test_a_weight_file_that_is_not_whole(copied, content, words):
    file = copied / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(content(whole))
    with pytest.raises(WeightsError, match=f"unet.*{words}"):
        StoryPipeline.from_pretrained(copied)
    file.write_bytes(whole)
    checks.check_folder(copied)  # once it is whole, it passes


def test_pickled_weights_are_not_read(copied):
    file = copied / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(OSError, match="safetensors"):
        StoryPipeline.from_pretrained(copied)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mirco", "Did you mean 'micro'"),
        ("no-such-folder", "owner/name"),
        ("/no/such/folder", "There is no folder or file"),
        ("nobody/no-model", "HF_HUB_OFFLINE forbids.*hf download nobody/no-model"),
    ],
)
def test_names_that_lead_nowhere(name, words):
    with pytest.raises(WeightsError, match=words):
        StoryPipeline.from_pretrained(name)


class Unreachable(OSError):
    pass


def hub_errors():
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def answer(kind, text):
        import httpx

        return kind(text, response=httpx.Response(404, request=httpx.Request("GET", "https://hub")))

    no_space = OSError(errno.ENOSPC, "No space left on device")
    lost = OSError("We couldn't connect to 'https://hub' to load the files")
    return {
        "disk": (no_space, "disk is full.*HF_HOME"),
        "network": (lost, "cannot be reached.*what was fetched is kept"),
        "gated": (answer(GatedRepoError, "gated"), "licence.*hf auth login"),
        "unknown": (answer(RepositoryNotFoundError, "404"), "no model owner/model on the hub"),
    }


@pytest.mark.parametrize("what", ["disk", "network", "gated", "unknown"])
def test_what_the_hub_and_the_disk_refuse(monkeypatch, what):
    error, words = hub_errors()[what]
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(StoryPipeline, "load_config", refuse)
    with pytest.raises(WeightsError, match=words) as told:
        StoryPipeline.from_pretrained("owner/model")
    assert told.value.__cause__ is error


def test_other_errors_stay_what_they_are():
    with pytest.raises(KeyError, match="unet"), advice.explained("owner/model"):
        raise KeyError("unet")
    with pytest.raises(WeightsError, match="^mine$"), advice.explained("owner/model"):
        raise WeightsError("mine")


# ------------------------------------------------------------------------------------------ out of memory
@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_says_what_to_switch_on(tiny_pipe, monkeypatch, kind):
    before = dict(tiny_pipe.unet.attn_processors)
    text = "CUDA out of memory. Tried to allocate 2.50 GiB."
    if kind is RuntimeError:
        text = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."

    def full(*args, **kwargs):
        raise kind(text)

    monkeypatch.setattr(tiny_pipe.unet, "forward", full)
    with pytest.raises(torch.OutOfMemoryError, match="6 panels") as told:
        tiny_pipe(STORY * 2, **CALL)
    said = str(told.value)
    for option in ("(1) window=4", "vae.enable_slicing()", "vae.enable_tiling()"):
        assert option in said
    assert "smaller pictures" not in said, "they are small"
    assert ("2.50 GiB" in said) == (kind is torch.OutOfMemoryError)
    assert tiny_pipe.unet.attn_processors == before, "nothing stays changed"
    tiny_pipe.vae.enable_slicing()
    with pytest.raises(torch.OutOfMemoryError) as told:
        tiny_pipe(STORY, **CALL)
    assert "slicing" not in str(told.value) and "window=2 or less" in str(told.value)


def test_other_runtime_errors_stay_what_they_are(tiny_pipe, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(tiny_pipe.unet, "forward", broken)
    with pytest.raises(RuntimeError, match="^shapes do not fit$"):
        tiny_pipe(STORY, **CALL)


# ------------------------------------------------------------------------------------------ GPU scripts
@pytest.fixture(scope="module")
def bench():
    return module(ROOT / "benchmarks" / "bench_sdxl.py")


def test_the_benchmark_runs_on_a_tiny_unet(bench, tmp_path, capsys, monkeypatch):
    out, every = tmp_path / "record.json", bench.plan
    monkeypatch.setattr(bench, "plan", lambda args: list(every(args))[:2])
    monkeypatch.setattr(bench, "TINY", bench.TINY | {"sample_size": 8, "block_out_channels": (16, 32, 32)})
    few = ["--rounds", "1", "--panels", "5", "--seconds", "3600"]  # a busy machine leaves no rows out
    bench.main(["--tiny", "--device", "cpu", *few, "--out", str(out)])
    assert "target at most" in capsys.readouterr().out
    record = json.loads(out.read_text())
    assert not list(tmp_path.glob("*.part"))
    groups = record["groups"]
    assert [r["form"] for r in groups["four panels"]] == ["plain", "ours", "mask"]
    plain, ours, mask = groups["four panels"]
    assert plain["time_ratio"] == plain["memory_ratio"] == 1
    assert plain["peak_bytes"] <= ours["peak_bytes"] < mask["peak_bytes"], "the mask is what costs"
    long = groups["5 panels, window of 4"]
    assert {r["panels_a_pass"] for r in long} <= {4, 5} and all(r["panels"] == 5 for r in long)


def test_the_benchmarks_forms_draw_the_same(bench):
    unet = shapes.random_model(diffusers.UNet2DConditionModel, bench.TINY, "cpu", torch.float32)
    parts = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    scheduler = diffusers.EulerDiscreteScheduler()
    pipe = StoryPipeline(**dict.fromkeys(parts), unet=unet, scheduler=scheduler, add_watermarker=False)
    steps = {form: bench.Story(pipe, form, 3, 0.5).step() for form in ("plain", "ours", "mask")}
    assert not torch.allclose(steps["ours"], steps["plain"], atol=1e-5)
    assert steps["ours"].shape == steps["mask"].shape == (3, 4, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "words"), [([], "minutes a step on a CPU"), (["--tiny", "--save"], "nothing worth keeping")]
)
def test_benchmark_refuses(bench, arguments, words, capsys):
    with pytest.raises(SystemExit):
        bench.main([*arguments, "--device", "cpu"])
    assert words in capsys.readouterr().err


def test_targets_that_are_missed_are_told(bench):
    rows = [{"form": "ours", "time_ratio": 1.2, "memory_ratio": 1.16}]
    assert [met for *_, met in bench.targets(rows).values()] == [True, False]


RECORD = ROOT / "book" / "results" / "gpu_sdxl.json"


@pytest.mark.skipif(not RECORD.exists(), reason="no GPU has measured it yet")
def test_the_gpu_record_is_of_the_passes_that_this_code_makes(bench):
    """Seconds cannot be measured again here; what was run can: forms, panels, passes, panels a pass."""
    record, groups = json.loads(RECORD.read_text()), {}
    args = argparse.Namespace(rounds=8, panels=[8, 16, 32, 64])
    for name, stories, _ in bench.plan(args):
        every = [(form, f, bench.passes(f, w, how, form != "plain")) for form, f, w, how in stories]
        groups[name] = [[form, f, len(p), max(len(one.panels) for one in p)] for form, f, p in every]
    found = {
        name: [[r[k] for k in ("form", "panels", "passes", "panels_a_pass")] for r in rows]
        for name, rows in record["groups"].items()
    }
    assert found == {name: rows for name, rows in groups.items() if name not in record["left_out"]}, (
        "measure it anew: python benchmarks/bench_sdxl.py --save"
    )
    assert record["dtype"] == "float16" and record["pixels"] == 1024
    asked = bench.targets(record["groups"]["four panels"])
    assert {n: [t["measured"], t["at_most"], t["met"]] for n, t in record["targets"].items()} == {
        n: list(t) for n, t in asked.items()
    }


# ------------------------------------------------------------------------------------------ the report
@pytest.fixture(scope="module")
def runner():
    return module(ROOT / "tools" / "run_notebooks.py")


def chapter(*cells):
    """A notebook with one checked cell for each (id, printed text, whether it ran)."""
    nb = nbformat.v4.new_notebook()
    for name, text, ran in cells:
        cell = nbformat.v4.new_code_cell("print()", id=name, metadata={"tags": ["nbval-check-output"]})
        cell.execution_count = 1 if ran else None
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        nb.cells.append(cell)
    return nb


REPORT = """<testsuites><testsuite>
<testcase name="Cell 0"/>
<testcase name="Cell 3"><failure message="differs">'True' was 'False'</failure></testcase>
<testcase name="Cell 4"><skipped/></testcase>
</testsuite></testsuites>"""


def test_what_nbval_failed_is_told(runner):
    assert runner.failures(REPORT) == ["Cell 3: 'True' was 'False'"]
    assert runner.failures("<testsuites/>") == ["nbval found no cell"]


@pytest.mark.parametrize("printed", ["cpu", "cuda"])
def test_nbval_runs_on_the_device_of_the_environment(runner, tmp_path, monkeypatch, printed):
    monkeypatch.setenv("STORYDIFF_DEVICE", "cpu")
    nb = chapter(("a", f"{printed}\n", True))
    nb.cells[0].source = "import os\nprint(os.environ['STORYDIFF_DEVICE'])"
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, tmp_path / "00.ipynb")
    found = runner.nbval(tmp_path / "00.ipynb", timeout=60)
    assert (found == []) == (printed == "cpu"), found
    assert printed == "cpu" or "Cell 0" in found[0]


def test_the_meter_is_read_and_taken_out(runner, tmp_path):
    nb = chapter(("a", "1", True))
    path = tmp_path / "00.ipynb"
    nbformat.write(nb, path)
    assert runner.read_meter(path) == {}
    told = json.dumps({"peak_gpu_bytes": 5, "peak_cpu_bytes": 7})
    last = nbformat.v4.new_code_cell(runner.METER, id="meter")
    last.outputs = [nbformat.v4.new_output("stream", name="stdout", text=told + "\n")]
    nb.cells.append(last)
    nbformat.write(nb, path)
    assert runner.read_meter(path) == {"peak_gpu_bytes": 5, "peak_cpu_bytes": 7}
    assert [c.id for c in nbformat.read(path, 4).cells] == ["a"]


def test_the_meter_tells_the_peak(capsys):
    source = module(ROOT / "tools" / "run_notebooks.py").METER
    builtins.exec(source, {})
    told = json.loads(capsys.readouterr().out)
    assert told["peak_gpu_bytes"] is None and told["peak_cpu_bytes"] > 1e8


def test_the_report_names_what_failed(runner, tmp_path):
    results = [
        {"chapter": "00-a", "seconds": 1.5, "error": None, "peak_gpu_bytes": 2e9, "peak_cpu_bytes": 1e9},
        {"chapter": "01-b", "seconds": 2.5, "error": "x\nValueError: no | such", "differs": []},
        {"chapter": "02-c", "seconds": 2.5, "error": None, "differs": ["cell: '1' was '2'"]},
    ]
    runner.write_report(tmp_path / "out" / "report", results, {"gpu": "none"})
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| 00-a | 1.5 | 2000 | 1000 | passed |" in text
    assert "failed: ValueError: no / such" in text and "differs: cell" in text
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["machine"] == {"gpu": "none"} and len(record["chapters"]) == 3
    assert not list((tmp_path / "out").glob("*.part"))
