"""Adapters of two owners in one U-Net: an identity's own LoRA, and those that a user loads; what is saved."""

import copy
import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig

from storydiff_lite import adapters
from storydiff_lite.identity import IDEncoder
from storydiff_lite.pipeline import StoryPipeline
from storydiff_lite.sdxl import photomaker
from storydiff_lite.weights import WeightsError

PEOPLE = ["a bear img reads", "the empty city"]
FACES = [Image.new("RGB", (40, 40), c) for c in ("red", "green")]
CALL = {"num_inference_steps": 2, "output_type": "np", "start_merge_step": 0}


def lora_of(unet, seed, where=""):
    """A LoRA of some attention, under the names that diffusers saves."""
    g, state = torch.Generator().manual_seed(seed), {}
    for name, layer in unet.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".attn" in name and where in name and "lora" not in name:
            name = name.removesuffix(".base_layer")
            state[f"unet.{name}.lora_A.weight"] = 0.3 * torch.randn(2, layer.in_features, generator=g)
            state[f"unet.{name}.lora_B.weight"] = 0.3 * torch.randn(layer.out_features, 2, generator=g)
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory, _tiny):
    """A saved identity encoder, with its LoRA; and PhotoMaker's file of the same."""
    to = tmp_path_factory.mktemp("identity")
    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPVisionConfig(**sizes, image_size=28, patch_size=14, projection_dim=16, projection_dim_2=16)
    encoder, lora = IDEncoder(config), lora_of(_tiny["unet"], 1)
    encoder.save_pretrained(to)
    (to / "lora").mkdir()
    save_file(lora, to / "lora" / "pytorch_lora_weights.safetensors")
    torch.save({"id_encoder": encoder.state_dict(), "lora_weights": lora}, to / photomaker.NAME)
    return to


@pytest.fixture
def load(folder):
    """Load the identity into a pipeline, by either way."""

    def load(pipe, way="identity"):
        return pipe.load_identity(folder) if way == "identity" else pipe.load_photomaker_adapter(folder)

    return load


@pytest.fixture
def style(_tiny):
    return lora_of(_tiny["unet"], 2)


@pytest.fixture
def part(_tiny):
    """A LoRA of fewer layers."""
    return lora_of(_tiny["unet"], 4, "up_blocks")


def drawn(pipe):
    """A picture with an identity, and one without."""
    texts = [p.replace(" img", "") for p in PEOPLE]
    return pipe(PEOPLE, id_images=FACES, **CALL).images, pipe(texts, **CALL).images


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, atol=3e-5)


def other(a, b):
    assert all(np.abs(x - y).max() > 1e-4 for x, y in zip(a, b, strict=True))


WAYS = pytest.mark.parametrize("way", ["identity", "photomaker"])


@WAYS
def test_a_users_lora_comes_and_goes_and_the_identitys_stays(tiny_pipe, load, style, part, way):
    pipe = load(tiny_pipe, way)
    alone = drawn(pipe)
    pipe.load_lora_weights(dict(style), adapter_name="style")
    both = drawn(pipe)
    other(alone, both)
    pipe.unload_lora_weights()
    same(drawn(pipe), alone)
    assert list(pipe.unet.peft_config) == [{"identity": "identity", "photomaker": "photomaker"}[way]]
    pipe.load_lora_weights(dict(part))  # without a name, and of fewer layers
    pipe.load_lora_weights(dict(style), adapter_name="style")
    same(drawn(pipe), both)  # the last that was loaded is on, as in diffusers
    pipe.delete_adapters("style")
    pipe.delete_adapters([n for n in pipe.unet.peft_config if n.startswith("default")])
    same(drawn(pipe), alone)
    pipe.load_lora_weights(dict(style), adapter_name="style")
    pipe.set_adapters("style", 0.0)
    same(drawn(pipe), alone)
    pipe.set_adapters("style", 1.0)
    same(drawn(pipe), both)
    pipe.disable_lora()
    same(drawn(pipe), alone)
    same(drawn(pipe), alone)  # and drawing does not switch it on again
    pipe.enable_lora()
    same(drawn(pipe), both)
    pipe.unet.delete_adapters("style")  # past the pipeline: peft then switches on what it finds
    same(drawn(pipe), alone)


@WAYS
def test_the_order_of_loading_changes_nothing(tiny_pipe, load, folder, style, way):
    first = copy.deepcopy(tiny_pipe)
    first.load_lora_weights(dict(style), adapter_name="style")
    plain = first(["a bear reads"], **CALL).images
    load(first, way)
    load(tiny_pipe, way).load_lora_weights(dict(style), adapter_name="style")
    same(drawn(first), drawn(tiny_pipe))
    assert "style" in first.unet.active_adapters()
    load(first, way)  # and again
    same(drawn(first), drawn(tiny_pipe))
    first.load_identity(folder, lora=False)
    same([first(["a bear reads"], **CALL).images], [plain])
    assert list(first.unet.peft_config) == ["style"]


def test_a_lora_that_was_switched_off_stays_off(tiny_pipe, load, style):
    alone = drawn(load(copy.deepcopy(tiny_pipe)))
    tiny_pipe.load_lora_weights(dict(style), adapter_name="style")
    tiny_pipe.disable_lora()
    same(drawn(load(tiny_pipe)), alone)


@WAYS
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_fused_lora_and_an_identity(tiny_pipe, load, style, way, scale):
    wanted = copy.deepcopy(tiny_pipe)
    wanted.load_lora_weights(dict(style), adapter_name="style")
    wanted.set_adapters("style", scale)
    wanted = drawn(load(wanted, way))

    after = copy.deepcopy(tiny_pipe)  # fused, then the identity
    after.load_lora_weights(dict(style), adapter_name="style")
    after.fuse_lora(lora_scale=scale)
    same(drawn(load(after, way)), wanted)

    pipe = load(tiny_pipe, way)  # the identity, then fused
    alone = drawn(pipe)
    pipe.load_lora_weights(dict(style), adapter_name="style")
    pipe.fuse_lora(lora_scale=scale)
    same(drawn(pipe), wanted)
    pipe.unfuse_lora()
    pipe.set_adapters("style", 0.0)
    same(drawn(pipe), alone)
    pipe.set_adapters("style", 1.0)
    pipe.fuse_lora(lora_scale=scale, adapter_names=["style"])
    pipe.unload_lora_weights()  # as in diffusers, what is fused stays
    same(drawn(pipe), wanted)


def test_fusing_leaves_what_peft_switched_on_by_itself(tiny_pipe, load, style):
    pipe = load(tiny_pipe)
    alone = drawn(pipe)
    pipe.unet.load_lora_adapter(dict(style), prefix="unet", adapter_name="style")
    pipe.unet.delete_adapters("style")  # past the pipeline: now peft has the identity's on
    pipe.fuse_lora()
    same(drawn(pipe), alone)


def test_one_identity_takes_the_place_of_another(tiny_pipe, load):
    want = drawn(load(copy.deepcopy(tiny_pipe)))
    same(drawn(load(load(tiny_pipe, "photomaker"))), want)
    assert list(tiny_pipe.unet.peft_config) == ["identity"]


def test_names_that_are_taken_are_told(tiny_pipe, load, style):
    for name in ("identity", "photomaker"):
        with pytest.raises(ValueError, match=f"'{name}' is the name of the LoRA that comes with"):
            tiny_pipe.load_lora_weights(dict(style), adapter_name=name)
    tiny_pipe.unet.load_lora_adapter(dict(style), prefix="unet", adapter_name="identity")
    with pytest.raises(ValueError, match="an adapter 'identity' that is not the identity encoder's own"):
        load(tiny_pipe)
    assert list(tiny_pipe.unet.peft_config) == ["identity"]


def test_what_cannot_be_is_told(tiny_pipe, load, style, tmp_path):
    pipe = load(tiny_pipe)
    with pytest.raises(ValueError, match=r"load_identity\(lora=False\)"):
        pipe.delete_adapters(["identity"])
    with pytest.raises(ValueError, match="it cannot be fused"):
        pipe.fuse_lora(adapter_names=["identity"])
    pipe.load_lora_weights(dict(style), adapter_name="style")
    with pytest.raises(ValueError, match="The LoRA 'style' is loaded.*unload_lora_weights.*or fuse_lora"):
        pipe.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    pipe.unet.unload_lora()  # past the pipeline
    with pytest.raises(ValueError, match="no longer in this U-Net.*load_identity"):
        pipe(PEOPLE, id_images=FACES, **CALL)
    load(pipe, "photomaker").fuse_lora()
    with pytest.raises(ValueError, match="unfuse_lora"):
        load(pipe)
    with pytest.raises(ValueError, match="saved twice.*unfuse_lora"):
        pipe.save_pretrained(tmp_path / "new")


def test_two_pipelines_of_one_unet(tiny_pipe, load):
    one = load(tiny_pipe)
    two = load(StoryPipeline.from_pipe(one))
    with pytest.raises(ValueError, match="replaced by a pipeline that shares the U-Net"):
        one(PEOPLE, id_images=FACES, **CALL)
    assert two(PEOPLE, id_images=FACES, **CALL).images.shape[0] == 2


# ------------------------------------------------------------------------------------------ saved
@WAYS
def test_an_identity_is_saved_with_its_pipeline(tiny_pipe, load, style, tmp_path, way):
    pipe = load(tiny_pipe, way)
    pipe.trigger_word = "img"
    pipe.load_lora_weights(dict(style), adapter_name="style")
    pipe.fuse_lora(adapter_names=["style"], lora_scale=0.5)
    want = drawn(pipe)
    pipe.save_pretrained(tmp_path)
    same(drawn(pipe), want)  # saving changed nothing
    again = StoryPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    same(drawn(again), want)
    assert StoryPipeline.from_pretrained(tmp_path).trigger_word == "img"
    plain = StableDiffusionXLPipeline.from_pretrained(tmp_path)
    assert not [n for n in plain.unet.state_dict() if "lora" in n or "base_layer" in n]
    again.save_pretrained(tmp_path / "twice")
    same(drawn(StoryPipeline.from_pretrained(tmp_path / "twice")), want)
    plain = StoryPipeline.from_pretrained(tmp_path, unet=plain.unet)
    plain.id_encoder = None
    plain.save_pretrained(tmp_path)  # over the one before: its identity is gone
    assert StoryPipeline.from_pretrained(tmp_path).id_encoder is None
    (tmp_path / "identity" / adapters.ABOUT).write_text("{}")
    with pytest.raises(WeightsError, match="identity.json cannot be read"):
        StoryPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("zeros", [True, False])
def test_a_pipeline_of_anothers_parts_draws_the_same(tiny_parts, load, zeros):
    def make(parts, **how):
        pipe = StoryPipeline(**parts, **how)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    one = make(tiny_parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    texts = ["a bear reads", "a bear sleeps"]
    want = one(texts, **CALL).images
    other = make(one.components, force_zeros_for_empty_prompt=not zeros)  # what is said goes before
    assert np.abs(other(texts, **CALL).images - want).max() > 1e-5
    for again in (make(one.components), StoryPipeline.from_pipe(one), copy.deepcopy(one)):
        again.set_progress_bar_config(disable=True)
        assert again.config.force_zeros_for_empty_prompt == zeros
        assert np.array_equal(again(texts, **CALL).images, want)
    theirs = StableDiffusionXLPipeline(**one.components, force_zeros_for_empty_prompt=zeros)
    assert set(theirs.components) == set(one.components)
    known = load(one)
    want = drawn(known)
    again = StoryPipeline.from_pipe(known)
    again.set_progress_bar_config(disable=True)
    same(drawn(again), want)
    with pytest.raises(ValueError, match="no identity encoder.*load_identity"):
        make(known.components)(PEOPLE, id_images=FACES, **CALL)


# ------------------------------------------------------------------------------------------ folders
@pytest.fixture
def saved(tiny_pipe, tmp_path):
    tiny_pipe.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2", "scheduler", "vae", "unet", "text_encoder"])
def test_a_part_that_is_missing_is_named(saved, part):
    (saved / part).rename(saved / f"{part}.away")
    with pytest.raises(WeightsError, match=f"its folder {part}/ is missing.*copy {part}/"):
        StoryPipeline.from_pretrained(saved)
    (saved / part).mkdir()
    with pytest.raises(WeightsError, match=f"its folder {part}/ has no "):
        StoryPipeline.from_pretrained(saved)


def test_a_part_that_is_given_need_not_be_there(saved, tiny_pipe):
    (saved / "tokenizer").rename(saved / "away")
    assert StoryPipeline.from_pretrained(saved, tokenizer=tiny_pipe.tokenizer).unet is not None


def test_files_that_a_mac_adds_are_passed_over(saved):
    for name in ("unet/._diffusion_pytorch_model.safetensors", "unet/._x.safetensors", "vae/._x.safetensors"):
        (saved / name).write_bytes(b"\x00\x05\x16\x07")
    for name in ("__MACOSX/unet", ".cache/huggingface"):
        (saved / name).mkdir(parents=True)
        (saved / name / "x.safetensors").write_bytes(b"\x00")
    assert StoryPipeline.from_pretrained(saved).unet is not None


def test_pointers_of_git_lfs_are_told(saved, folder, tiny_pipe, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n"
    (tmp_path / "maker").mkdir()
    for name in (photomaker.NAME, "photomaker-v1.safetensors"):
        (tmp_path / "maker" / name).write_bytes(pointer)
        with pytest.raises(WeightsError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
            tiny_pipe.load_photomaker_adapter(tmp_path / "maker" / name)
    (tmp_path / "maker" / "photomaker-v1.safetensors").unlink()
    file = saved / "tokenizer" / "tokenizer.json"
    file.write_bytes(pointer)
    with pytest.raises(WeightsError, match="tokenizer.json is a Git LFS pointer.*git lfs pull"):
        StoryPipeline.from_pretrained(saved)
    (tmp_path / "id").mkdir()
    (tmp_path / "id" / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "id" / "model.safetensors").write_bytes(pointer)
    with pytest.raises(WeightsError, match="model.safetensors is a Git LFS pointer"):
        tiny_pipe.load_identity(tmp_path / "id")
    with pytest.raises(WeightsError, match="nowhere is no folder.*identity encoder"):
        tiny_pipe.load_identity(tmp_path / "nowhere")


def test_an_index_that_is_no_json_is_told(saved):
    (saved / "model_index.json").write_text("{")
    with pytest.raises(WeightsError, match="model_index.json is no JSON"):
        StoryPipeline.from_pretrained(saved)
    (saved / "model_index.json").write_text(json.dumps({"_class_name": "X"}))
    with pytest.raises(WeightsError, match="is a X. It has no U-Net"):
        StoryPipeline.from_pretrained(saved)
