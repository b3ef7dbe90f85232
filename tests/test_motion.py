"""Semantic tokens, the straight line between them, and the predictor that bends it."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from storydiff_lite import experiments, motion, world
from storydiff_lite.experiments import motion as record_of_motion
from storydiff_lite.experiments import spaces
from storydiff_lite.motion import SemanticMotionPredictor, fit_pixels, interpolate, semantic_tokens
from storydiff_lite.training import __main__ as train_main
from storydiff_lite.training import motion as training
from storydiff_lite.training import parts


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=4,
        projection_dim=8,
    )
    return CLIPVisionModelWithProjection(config).eval()


def bent(dim=10, tokens=4, seed=0, **sizes):
    """A small predictor whose head is not zero."""
    torch.manual_seed(seed)
    net = SemanticMotionPredictor(dim, tokens, **{"width": 24, "layers": 2, "heads": 4} | sizes).eval()
    torch.nn.init.normal_(net.head.weight, std=0.5)
    return net


def ends(b=2, s=4, d=10, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(b, s, d, generator=g), torch.randn(b, s, d, generator=g)


# ------------------------------------------------------------------------------------------------- tokens


def test_a_token_is_its_region_four_quarters_side_by_side(encoder):
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    tokens = semantic_tokens(encoder, x)
    assert tokens.shape == (2, 16, 48)
    patches = encoder(pixel_values=x, output_hidden_states=True).hidden_states[-2][:, 1:].view(2, 8, 8, 12)
    for row in range(4):
        for column in range(4):
            quarters = [patches[:, 2 * row + i, 2 * column + j] for i in (0, 1) for j in (0, 1)]
            assert torch.allclose(tokens[:, 4 * row + column], torch.cat(quarters, -1), atol=1e-6)


def test_a_coarser_grid_averages_patches(encoder):
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    patches = encoder(pixel_values=x, output_hidden_states=True).hidden_states[1][:, 1:].view(8, 8, 12)
    tokens = semantic_tokens(encoder, x, grid=2, layer=1)
    assert tokens.shape == (1, 4, 48)
    assert torch.allclose(tokens[0, 3, 12:24], patches[4:6, 6:8].mean((0, 1)), atol=1e-6)


def test_pictures_of_another_size_are_resized(encoder):
    x = torch.rand(1, 3, 64, 64)
    assert semantic_tokens(encoder, x).shape == (1, 16, 48)
    small = fit_pixels(encoder, x)
    assert torch.equal(semantic_tokens(encoder, small), semantic_tokens(encoder, x))
    assert fit_pixels(encoder, small) is small
    album = fit_pixels(encoder, x.expand(2, 4, -1, -1, -1))
    assert album.shape == (2, 4, 3, 32, 32) and torch.allclose(album[1, 2], small[0])
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        semantic_tokens(encoder, x[0])
    with pytest.raises(ValueError, match="use 1 to 4"):
        semantic_tokens(encoder, x, grid=8)


# ----------------------------------------------------------------------------------------------- the line


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 3), st.integers(1, 5))
def test_interpolation_is_straight_even_and_exact_at_its_ends(frames, b, s):
    start, end = ends(b, s, 7)
    line = interpolate(start, end, frames)
    assert line.shape == (b, frames, s, 7)
    assert torch.equal(line[:, 0], start) and torch.equal(line[:, -1], end)
    step = line.diff(dim=1)
    assert torch.allclose(step, ((end - start) / (frames - 1))[:, None].expand_as(step), atol=1e-5)


def test_bad_ends_are_refused_in_words():
    start, end = ends()
    with pytest.raises(ValueError, match="num_frames is 1"):
        interpolate(start, end, 1)
    with pytest.raises(ValueError, match="must both have the shape"):
        interpolate(start, end[:, :3], 5)
    with pytest.raises(ValueError, match="num_frames is 1"):
        bent()(start, end, 1)
    with pytest.raises(ValueError, match=r"reads tokens \[B, 4, 10\]"):
        bent()(start[..., :9], end[..., :9], 5)


# ------------------------------------------------------------------------------------------ the predictor


def test_untrained_it_is_interpolation():
    start, end = ends()
    net = SemanticMotionPredictor(10, 4, width=24, layers=2, heads=4)
    assert torch.equal(net(start, end, 9), interpolate(start, end, 9))


@pytest.mark.parametrize("frames", [2, 3, 16, 33])
def test_trained_it_bends_the_line_but_not_its_ends(frames):
    start, end = ends()
    out = bent()(start, end, frames)
    assert out.shape == (2, frames, 4, 10)
    assert torch.equal(out[:, 0], start) and torch.equal(out[:, -1], end)
    if frames > 2:
        assert not torch.allclose(out, interpolate(start, end, frames), atol=1e-2)


def test_samples_do_not_read_each_other():
    start, end = ends(3)
    net = bent()
    together = net(start, end, 6)
    for i in range(3):
        assert torch.allclose(together[i : i + 1], net(start[i : i + 1], end[i : i + 1], 6), atol=1e-5)


def test_every_token_of_every_frame_reads_all_others():
    start, end = ends(1)
    net, moved = bent(), end.clone()
    moved[0, 3] += 1  # one place of the last frame
    change = (net(start, moved, 5) - net(start, end, 5))[0, 1:-1]  # [3, 4, D]
    assert (change.abs().amax(-1) > 1e-4).all()


def test_the_direction_of_time_matters():
    start, end = ends()
    net = bent()
    assert not torch.allclose(net(start, end, 7), net(end, start, 7).flip(1), atol=1e-2)


def test_the_bend_is_a_function_of_time_not_of_the_count_of_frames():
    """Times are told as 0..1: the frame in the middle has the same embedding, however many there are."""
    a, b = (motion.waves(torch.linspace(0, 1, n), 24) for n in (5, 9))
    assert torch.allclose(a[2], b[4]) and torch.allclose(a[1], b[2])
    assert (torch.cdist(b, b) + torch.eye(9) > 0.1).all()  # all times can be told apart
    assert motion.waves(torch.linspace(0, 1, 3), 7).shape == (3, 7)


def test_the_papers_sizes():
    """8 layers, width 1024, counted on the meta device; 12 heads do not divide it, and are refused."""
    with torch.device("meta"):
        net = SemanticMotionPredictor()
    assert len(net.blocks) == 8
    for block in net.blocks:
        assert block.self_attn.embed_dim == 1024 and block.self_attn.num_heads == 8
        assert block.linear1.out_features == 4096
    blocks = sum(p.numel() for p in net.blocks.parameters())
    assert blocks == 8 * (4 * 1024 * 1024 + 2 * 4 * 1024 * 1024 + 4 * 1024 + 5 * 1024 + 4 * 1024)
    with pytest.raises(ValueError, match="12 heads do not divide a width of 1024"):
        SemanticMotionPredictor(heads=12)


def test_the_micro_predictor_is_small():
    assert sum(p.numel() for p in motion.micro().parameters()) * 2 <= 3e6  # bytes in half precision


def test_it_is_saved_as_safetensors_and_comes_back(tmp_path):
    net = bent(seed=3)
    net.save_pretrained(tmp_path / "p")
    files = sorted(f.name for f in (tmp_path / "p").iterdir())
    assert files == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert json.loads((tmp_path / "p/config.json").read_text())["width"] == 24
    back = SemanticMotionPredictor.from_pretrained(tmp_path / "p")
    start, end = ends()
    assert torch.equal(back(start, end, 5), net(start, end, 5))


# ----------------------------------------------------------------------------------------------- training


def test_the_pool_is_drawn_once_and_a_larger_one_begins_with_it(tmp_path):
    some, pixels = training.clip_pool("train", 3, 4, 16, tmp_path)
    assert pixels.shape == (3, 4, 3, 16, 16) and pixels.dtype == torch.uint8
    assert some == [world.sample_clip("train", i) for i in range(3)]
    (file,) = tmp_path.glob("*.npy")
    changed = pixels.numpy().copy()
    changed[0] = 7
    np.save(file, changed)
    again = training.clip_pool("train", 2, 4, 16, tmp_path)[1]
    assert (again[0] == 7).all() and len(again) == 2


def test_a_pool_that_other_code_drew_is_not_taken(tmp_path, monkeypatch):
    training.clip_pool("train", 1, 2, 16, tmp_path)
    monkeypatch.setattr(training, "drawn_by", lambda source: "00000000")
    training.clip_pool("train", 1, 2, 16, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_relative_error_is_0_for_the_truth_and_1_for_the_line():
    truth = torch.randn(3, 6, 4, 10)
    line = interpolate(truth[:, 0], truth[:, -1], 6)
    assert torch.allclose(training.relative_error(truth, truth), torch.zeros(3))
    assert torch.allclose(training.relative_error(line, truth), torch.ones(3))
    half = training.relative_error((line + truth) / 2, truth)
    assert torch.allclose(half, torch.full((3,), 0.25))


def small(encoder):
    torch.manual_seed(0)
    return SemanticMotionPredictor(48, 16, width=32, layers=1, heads=2)


def test_training_lowers_the_error_and_goes_on_from_its_checkpoint(encoder, tmp_path):
    setting = {"batch": 4, "size": 32, "pictures": 7, "frames": 4, "folder": tmp_path, "lr": 3e-3}
    net, run = training.train(encoder, steps=60, predictor=small(encoder), **setting)
    assert run.log[-1]["loss"] < 0.9 * run.log[0]["loss"] and run.log[0]["loss"] == pytest.approx(1, abs=0.02)
    again, more = training.train(encoder, steps=60, predictor=small(encoder), **setting)
    assert more.done == 60
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    rows = training.errors(net, encoder, "train", 7, frames=4, size=32, folder=tmp_path)
    assert [r["kind"] for r in rows] == list(world.clips.KINDS)
    mean = training.measure(net, encoder, "train", 7, frames=4, size=32, folder=tmp_path)
    assert mean["all"] == pytest.approx(sum(r["predicted"] / r["line"] for r in rows) / 7)
    assert mean["all"] < 0.95


def test_regions_of_latents_are_those_of_the_picture_and_come_back():
    x = torch.randn(3, 4, 16, 16)
    tokens = training.regions(x)
    assert tokens.shape == (3, 16, 64)
    assert torch.equal(training.from_regions(tokens), x)
    changed = x.clone()
    changed[:, :, 4:8, 8:12] += 1  # second row, third column
    moved = (training.regions(changed) - tokens).abs().amax((0, 2)) > 0.5
    assert moved.nonzero().flatten().tolist() == [1 * 4 + 2]


def test_a_predictor_learns_whatever_tokens_it_is_given(tmp_path):
    torch.manual_seed(0)
    ends, bow = torch.randn(2, 1, 6, 1, 4, 5), torch.randn(6, 1, 4, 5)
    t = torch.linspace(0, 1, 4).view(1, 4, 1, 1)
    tokens = (1 - t) * ends[0, 0] + t * ends[1, 0] + 4 * t * (1 - t) * bow  # [6, 4, 4, 5]
    net = SemanticMotionPredictor(5, 4, width=32, layers=1, heads=2)
    more = {"predictor": net, "tokens": tokens, "folder": tmp_path, "lr": 3e-3}
    net, run = training.train(None, 80, 6, **more)
    assert run.log[-1]["loss"] < 0.5 < 0.9 < run.log[0]["loss"]


def test_an_untrained_predictor_measures_1(encoder):
    found = training.measure(small(encoder), encoder, n=7, frames=4, size=32)
    assert found == {k: pytest.approx(1) for k in (*world.clips.KINDS, "all")}


def test_the_command_line_trains_and_reports(tmp_path, monkeypatch, capsys, encoder):
    def load(self, part):
        assert part == "clip"
        return parts.Part(_Net(encoder), None, {})

    monkeypatch.setattr(parts.Parts, "load", load)
    monkeypatch.setattr(training, "measure", lambda *a, **k: {"all": 0.5})
    monkeypatch.setattr(
        training, "micro", lambda dim: SemanticMotionPredictor(dim, 16, width=16, layers=1, heads=2)
    )
    args = ["motion", "--steps", "2", "--batch", "2", "--pictures", "2", "--device", "cpu"]
    train_main.main([*args, "--folder", str(tmp_path)])
    assert "motion: 2 steps" in capsys.readouterr().out
    assert (tmp_path / "motion.safetensors").exists()


class _Net:
    def __init__(self, vision):
        self.vision = vision


# ------------------------------------------------------------------------------------------ the record


def test_measures_of_a_path():
    """True tokens: no error, right times; tokens that stay at the start: parts are where they began."""
    clip = world.sample_clip("heldout", 0)
    parts = record_of_motion.places(clip, 9)
    truth = torch.arange(9.0).view(9, 1, 1).expand(9, 2, 3) ** 2
    right = record_of_motion.measure_motion(truth[::2], truth, parts)
    assert right == {"error": 0, "timing": 0}
    stays = record_of_motion.measure_motion(truth[:1].expand(5, 2, 3), truth, parts)
    far = np.linalg.norm(parts[:1] - parts[::2], axis=-1)[1:-1].mean()
    assert stays["timing"] == pytest.approx(far) and stays["error"] > 1


def test_the_record_says_each_kind_of_motion():
    record = experiments.load("motion")
    for setting, rows in record["rows"].items():
        for kind, k in product(("error", "timing"), range(7)):
            again = experiments.mean_and_interval([r[kind] for r in rows[k::7]])
            found = record["summary"][setting][f"{kind}.{world.clips.KINDS[k]}"]
            assert found == pytest.approx(again, abs=2e-4)
    assert all(r["error"] == pytest.approx(1) for r in record["rows"]["straight line"])


def test_the_shipped_predictor_beats_the_straight_line():
    """Over all clips and for every kind of motion, with intervals that do not touch."""
    found, line = (experiments.load("motion")["summary"][k] for k in ("predicted", "straight line"))
    for name in ("error", *(f"error.{k}" for k in world.clips.KINDS)):
        assert found[name][2] < 1, name
    assert found["timing"][2] < line["timing"][1]


# ------------------------------------------------------------------------------------------ two spaces


def test_between_counts_neither_end():
    truth = torch.arange(4.0).view(4, 1, 1).expand(4, 2, 3) ** 2
    line = interpolate(truth[None, 0], truth[None, -1], 4)[0]
    assert spaces.between(truth, truth) == 0 and spaces.between(line, truth) == 1
    ends = truth.clone()
    ends[[0, -1]] += 5
    assert spaces.between(ends, truth) == 0


def test_the_record_of_two_spaces_compares_alike():
    record = experiments.load("spaces")
    assert record["settings"] == spaces.spaces_settings()
    for space in ("tokens", "latents"):
        assert all(r["own"] == pytest.approx(1) for r in record["rows"][f"{space}, straight line"])
    assert all(r["own"] == r["timing"] == 0 for r in record["rows"]["latents, the truth"])
    alike = [{k: run[k] for k in ("steps", "batch", "clips")} for run in record["training"].values()]
    assert len(alike) == 2 * spaces.RUNS and all(run == alike[0] for run in alike)
