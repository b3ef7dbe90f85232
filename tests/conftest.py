"""A tiny SDXL with random weights, so that tests need no trained ones: 32x32 pictures, latents 8x8."""

import copy
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

# What takes longest begins first: a file stays with one process, and the others would wait for it at the end.
LONG = [f"test_{name}.py" for name in ("training", "video", "golden", "student", "scaling", "cli")]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(autouse=True)
def torch_stays_as_it_was():
    """A test that leaves gradients off, or another number type, fails itself, not one that comes later."""
    before = torch.is_grad_enabled(), torch.get_default_dtype()
    yield
    after = torch.is_grad_enabled(), torch.get_default_dtype()
    torch.set_grad_enabled(before[0])
    torch.set_default_dtype(before[1])
    assert after == before, "(gradients on, number type) after this test are not those before it"


@pytest.fixture
def few_threads():
    """One thread of torch during a test: small work is slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unet():
    """The shipped U-Net."""
    from diffusers import UNet2DConditionModel

    from storydiff_lite import weights

    return UNet2DConditionModel.from_pretrained(weights.path("micro") / "unet").float().eval()


@pytest.fixture(scope="session")
def _tiny():
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from storydiff_lite.tokens import load_tokenizer

    torch.manual_seed(0)
    text = {
        "vocab_size": 49409,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    }
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
    )
    scheduler = DDIMScheduler(
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    return {
        "unet": unet.eval(),
        "vae": vae.eval(),
        "scheduler": scheduler,
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text)).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**text)).eval(),
        "tokenizer": load_tokenizer(),
        "tokenizer_2": load_tokenizer(pad_token="!"),
    }


@pytest.fixture
def tiny_parts(_tiny):
    """The parts of a tiny SDXL, by name: what StableDiffusionXLPipeline's constructor takes. A fresh copy for
    each test."""
    share = ("tokenizer", "tokenizer_2")  # all else a test may change, or hang hooks on
    return {k: v if k in share else copy.deepcopy(v) for k, v in _tiny.items()}


@pytest.fixture
def tiny_pipe(tiny_parts):
    """A StoryPipeline of those parts."""
    from storydiff_lite.pipeline import StoryPipeline

    pipe = StoryPipeline(**tiny_parts, force_zeros_for_empty_prompt=False, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def known_pipe(tiny_pipe, tmp_path):
    """That pipeline with an identity encoder of random weights, saved and loaded as a reader would."""
    from transformers import CLIPVisionConfig

    from storydiff_lite.identity import IDEncoder

    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, image_size=32, patch_size=8, projection_dim=16, projection_dim_2=16)
    IDEncoder(config).save_pretrained(tmp_path / "id")
    return tiny_pipe.load_identity(tmp_path / "id")
