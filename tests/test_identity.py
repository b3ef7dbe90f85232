"""ID fusion: the released module's numbers, PhotoMaker's names and sizes, batches, and inputs left alone."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import CLIPVisionConfig

from storydiff_lite.identity import PHOTOMAKER, FuseModule, IDEncoder

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
