"""ID fusion: the released module's numbers, PhotoMaker's names and sizes, batches, and inputs left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from safetensors.torch import load_file
from transformers import CLIPVisionConfig

from storydiff_lite.identity import PHOTOMAKER, FuseModule, IDEncoder
from storydiff_lite.pictures import as_rgb

RECORDED = load_file(Path(__file__).parent / "data" / "fuse_module.safetensors")
SMALL = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 6,
    "projection_dim_2": 10,
}


def small():
    torch.manual_seed(0)
    return IDEncoder(CLIPVisionConfig(**SMALL)).eval()


def layout(sizes):
    """The ``id_encoder`` of PhotoMaker's published checkpoint: {name: shape}."""
    h, m, p = sizes["hidden_size"], sizes["intermediate_size"], sizes["patch_size"]
    one, two = sizes["projection_dim"], sizes["projection_dim_2"]
    d = one + two
    v = "vision_model."
    out = {
        v + "embeddings.class_embedding": (h,),
        v + "embeddings.patch_embedding.weight": (h, 3, p, p),
        v + "embeddings.position_embedding.weight": ((sizes["image_size"] // p) ** 2 + 1, h),
        "visual_projection.weight": (one, h),
        "visual_projection_2.weight": (two, h),
    }

    def linear(name, o, i):
        out.update({name + ".weight": (o, i), name + ".bias": (o,)})

    def norm(name, n):
        out.update({name + ".weight": (n,), name + ".bias": (n,)})

    norm(v + "pre_layrnorm", h)
    norm(v + "post_layernorm", h)
    for i in range(sizes["num_hidden_layers"]):
        layer = f"{v}encoder.layers.{i}."
        for q in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}self_attn.{q}", h, h)
        linear(layer + "mlp.fc1", m, h)
        linear(layer + "mlp.fc2", h, m)
        norm(layer + "layer_norm1", h)
        norm(layer + "layer_norm2", h)
    f = "fuse_module."
    norm(f + "mlp1.layernorm", 2 * d)
    linear(f + "mlp1.fc1", d, 2 * d)
    linear(f + "mlp1.fc2", d, d)
    norm(f + "mlp2.layernorm", d)
    linear(f + "mlp2.fc1", d, d)
    linear(f + "mlp2.fc2", d, d)
    norm(f + "layer_norm", d)
    return out


# ------------------------------------------------------------------------------------------ parity
def released(case):
    fuse = FuseModule(32).double()
    fuse.load_state_dict({k[8:]: v for k, v in RECORDED.items() if k.startswith("weights.")}, strict=True)
    names = ("prompt_embeds", "id_embeds", "class_tokens_mask", "out_f64")
    return fuse, *(RECORDED[f"{case}.{n}"] for n in names)


CASES = sorted({k.split(".")[0] for k in RECORDED if k.endswith(".out_f64")})


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_released_module(case):
    fuse, prompts, ids, mask, want = released(case)
    with torch.no_grad():
        got = fuse(prompts, ids, mask)
    assert (got - want).abs().max() < 1e-10
    assert (want - prompts).abs().max() > 0.1, "the recorded case must change something"


def test_inputs_stay_as_they_were():
    fuse, prompts, ids, mask, _ = released(CASES[-1])
    before = prompts.clone(), ids.clone(), mask.clone()
    out = fuse(prompts, ids, mask)
    assert out.data_ptr() != prompts.data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(before, (prompts, ids, mask), strict=True))


# ------------------------------------------------------------------------------------------ batches
@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    starts=st.lists(st.integers(0, 5), min_size=4, max_size=4),
)
def test_a_batch_is_its_rows(counts, starts):
    torch.manual_seed(0)
    fuse = FuseModule(8).double()
    prompts = torch.randn(len(counts), 10, 8, dtype=torch.float64)
    ids = torch.randn(len(counts), 4, 1, 8, dtype=torch.float64)
    mask = torch.zeros(len(counts), 10, dtype=torch.bool)
    for row, (n, start) in enumerate(zip(counts, starts, strict=False)):
        mask[row, start : start + n] = True
    with torch.no_grad():
        out = fuse(prompts, ids, mask)
        for row, (n, start) in enumerate(zip(counts, starts, strict=False)):
            alone = prompts[row].clone()
            for k in range(n):
                alone[start + k] = fuse.fuse(prompts[row, start + k], ids[row, k, 0])
            assert torch.allclose(out[row], alone, atol=1e-12)
    assert torch.equal(out[~mask], prompts[~mask]), "what is no class token must not move"


def test_gradients_reach_pictures_and_fuse_module():
    net = small()
    prompts, mask = torch.randn(2, 7, 16), torch.zeros(2, 7, dtype=torch.bool)
    mask[:, 2:4] = True
    pictures = torch.rand(2, 2, 3, 32, 32, requires_grad=True)
    net(pictures, prompts, mask).square().sum().backward()
    assert pictures.grad.abs().sum() > 0
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": (2, 6)}, "one flag for each token"),
        ({"ids": (2, 2, 16)}, "n pictures for each"),
        ({"ids": (2, 2, 1, 12)}, "n pictures for each"),
        ({"ids": (1, 2, 1, 16)}, "n pictures for each"),
        ({"ids": (2, 1, 1, 16)}, "2 class tokens and 1 reference pictures"),
    ],
)
def test_shapes_that_do_not_fit_are_told(change, words):
    mask = torch.zeros(change.get("mask", (2, 7)), dtype=torch.bool)
    mask[:, 2:4] = True
    with pytest.raises(ValueError, match=words):
        FuseModule(16)(torch.randn(2, 7, 16), torch.randn(change.get("ids", (2, 2, 1, 16))), mask)


def test_pictures_without_a_number_are_told():
    with pytest.raises(ValueError, match=r"prompts, pictures, 3"):
        small()(torch.rand(2, 3, 32, 32), torch.randn(2, 7, 16), torch.zeros(2, 7, dtype=torch.bool))


# ------------------------------------------------------------------------------------------ published layout
def test_published_layout_loads_at_full_size():
    with torch.device("meta"):
        net = IDEncoder()
    wanted = layout(PHOTOMAKER)
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == wanted
    state = {k: torch.empty(s, device="meta") for k, s in wanted.items()}
    net.load_state_dict(state, strict=True, assign=True)
    assert net.fuse_module.layer_norm.weight.shape == (2048,)


def test_published_layout_loads_real_numbers_at_small_size():
    g = torch.Generator().manual_seed(1)
    state = {k: torch.randn(s, generator=g) * 0.1 for k, s in layout(SMALL).items()}
    a, b = small(), small()
    a.load_state_dict(state, strict=True)
    pictures, prompts = torch.rand(1, 2, 3, 32, 32), torch.randn(1, 7, 16)
    mask = torch.zeros(1, 7, dtype=torch.bool)
    mask[0, 3:5] = True
    with torch.no_grad():
        out = a(pictures, prompts, mask)
        assert not torch.allclose(out, b(pictures, prompts, mask), atol=1e-3)
        # PhotoMaker's order: CLIP's own projection first, then the second
        pooled = a.vision_model(pictures[0]).pooler_output
        first = pooled @ state["visual_projection.weight"].T
    assert torch.allclose(a.embed(pictures)[0, :, 0, :6], first, atol=1e-5)


def test_saved_and_loaded_again(tmp_path):
    net = small()
    net.save_pretrained(tmp_path, safe_serialization=True)
    again = IDEncoder.from_pretrained(tmp_path, local_files_only=True)
    assert again.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in again.state_dict().items())
    assert {f.suffix for f in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_config_without_a_second_width_is_told():
    sizes = {k: v for k, v in SMALL.items() if k != "projection_dim_2"}
    with pytest.raises(ValueError, match="projection_dim_2"):
        IDEncoder(CLIPVisionConfig(**sizes))


# ------------------------------------------------------------------------------------------ pictures
def ramp(mode="L"):
    """A picture whose brightness grows from 0 to 255."""
    return Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (20, 1))).convert(mode)


SHADES = np.tile(np.arange(256), (20, 1))


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray((SHADES * 257).astype(np.uint16)),
        Image.frombytes("I;16B", (256, 20), (SHADES * 257).astype(">u2").tobytes()),
        Image.fromarray((SHADES * 257).astype(np.int32)),
        ramp("I"),
        ramp("F"),
        Image.fromarray((SHADES / 255).astype(np.float32)),
        Image.fromarray((SHADES * 257).astype(np.float32)),
        ramp("RGB"),
        ramp("LA"),
        ramp("RGBA"),
        ramp("RGBA").convert("RGBa"),
        ramp("P"),
        ramp("P").convert("PA"),
        ramp("CMYK"),
        ramp("YCbCr"),
        ramp("HSV"),
    ],
    ids=lambda image: image.mode,
)
def test_every_mode_of_a_picture_keeps_its_brightness(image):
    got = as_rgb(image)
    assert got.mode == "RGB" and got.size == (256, 20)
    assert np.abs(np.asarray(got, int) - SHADES[..., None]).max() <= 2


def test_a_16_bit_file_is_scaled_and_not_clipped(tmp_path):
    for end in ("png", "tif"):
        Image.fromarray((SHADES * 257).astype(np.uint16)).save(tmp_path / f"a.{end}")
        with Image.open(tmp_path / f"a.{end}") as image:
            assert np.array_equal(np.asarray(as_rgb(image))[..., 0], SHADES)


def test_one_bit_and_rgb_stay_what_they_are():
    bits = Image.fromarray(np.eye(8, dtype=bool))
    assert np.array_equal(np.asarray(as_rgb(bits))[..., 0], 255 * np.eye(8))
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    assert np.array_equal(np.asarray(as_rgb(colours)), np.asarray(colours))


def lab():
    return ImageCms.profileToProfile(
        ramp("RGB"), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )


def test_lab_becomes_srgb():
    assert np.abs(np.asarray(as_rgb(lab()), int) - SHADES[..., None]).max() <= 3


def palette():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([9, 9, 9, 255, 0, 0])
    image.putpixel((1, 1), 1)
    image.info["transparency"] = 0
    return image


def grey():
    image = Image.new("L", (4, 4), 7)
    image.putpixel((1, 1), 200)
    image.info["transparency"] = 7
    return image


def clear(mode):
    image = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    image.putpixel((1, 1), (255, 0, 0, 255))
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize(
    "image",
    [palette(), grey(), clear("RGBA"), clear("RGBa"), clear("LA"), clear("RGBA").quantize(4)],
    ids=lambda i: i.mode,
)
def test_what_is_transparent_lies_on_white(image):
    got = as_rgb(image)
    assert got.getpixel((0, 0)) == (255, 255, 255) and got.getpixel((1, 1)) != (255, 255, 255)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    image, exif = Image.new("RGB", (8, 4)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as turned:
        assert as_rgb(turned).size == (4, 8)


def test_profiles(tmp_path):
    """sRGB's changes nothing; a broken one is passed over; another one is read."""
    plain = ramp("RGB")
    for name, profile in (("sRGB", ImageCms.createProfile("sRGB")), ("XYZ", None)):
        data = b"no profile" if profile is None else ImageCms.ImageCmsProfile(profile).tobytes()
        plain.save(tmp_path / f"{name}.png", icc_profile=data)
        with Image.open(tmp_path / f"{name}.png") as image:
            assert np.array_equal(np.asarray(as_rgb(image)), np.asarray(plain))
    image = ramp("L")  # a profile of other colours than the picture's
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert np.array_equal(np.asarray(as_rgb(image)), np.asarray(plain))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (20000, 3), (16, 1)])
def test_sizes_of_pictures(size):
    got = as_rgb(Image.new("RGB", size, "red"))
    assert got.getpixel((0, 0)) == (255, 0, 0)
    assert max(got.size) <= 16 * min(got.size)
    assert max(size) > 16 * min(size) or got.size == size


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("RGB", (0, 5)), "Picture 2 has no pixels: it is 0 x 5"),
        (Image.fromarray(np.full((2, 2), np.nan, np.float32)), "brightness must lie in"),
        (Image.fromarray(np.full((2, 2), -3, np.int32)), "mode I.*holds -3"),
        (Image.fromarray(np.full((2, 2), 1e6, np.float32)), "brightness must lie in"),
    ],
)
def test_pictures_that_are_none_are_told(image, words):
    with pytest.raises(ValueError, match=words):
        as_rgb(image, "Picture 2")


@pytest.mark.parametrize("end", ["png", "jpg", "tif"])
def test_a_picture_that_was_cut_short_is_told(tmp_path, end):
    file = tmp_path / f"a.{end}"
    Image.effect_noise((64, 64), 50).convert("RGB").save(file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match="Picture 1 cannot be read"):
        as_rgb(Image.open(file), "Picture 1")
