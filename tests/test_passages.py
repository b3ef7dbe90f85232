"""A LoRA that learns from panel transitions (passages), and the record of it."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from storydiff_lite import experiments, video, weights, world
from storydiff_lite.training import cards
from storydiff_lite.training import passages as training
from storydiff_lite.training.motion import draw_clip
from storydiff_lite.training.video import build


def answer(decoder, predictor):
    """What both compute from the same numbers."""
    g = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=g)

    x, text, pooled, ends = randn(1, 3, 4, 16, 16), randn(1, 77, 96), randn(1, 64), randn(2, 16, 384)
    ids, mask = torch.tensor([[64, 64, 0, 0, 64, 64.0]]), torch.tensor([[1.0, 0, 1]])
    with torch.no_grad():
        tokens = predictor(ends[:1], ends[1:], 3)
        return tokens, decoder(x, torch.tensor([500]), text, pooled, ids, x, mask, tokens)


def test_a_lora_begins_as_nothing_and_is_loaded_as_it_was_trained(unet, tmp_path):
    torch.manual_seed(0)
    net = build("ours", unet, begin=weights.path("video")).eval()
    before = answer(net["decoder"], net["predictor"])
    loras = training.add_lora(net, 2)
    learns = {n for n, p in net.named_parameters() if p.requires_grad}
    assert learns and all("lora_" in n for n in learns)
    assert {n.split(".")[0] for n in learns} == {"decoder", "predictor"}
    assert any("motion_modules" in n for n in learns) and any("attn1.processor" not in n for n in learns)
    for new, old in zip(answer(net["decoder"], net["predictor"]), before, strict=True):
        assert torch.allclose(new, old, atol=1e-5)
    for n, p in net.named_parameters():
        if n in learns:
            p.data = (torch.randn_like(p) * 0.1).half().float()
    net.train()  # in eval mode torch computes the predictor's blocks past a LoRA
    taught = answer(net["decoder"], net["predictor"])
    assert not torch.allclose(taught[1], before[1], atol=1e-2)
    training.save(loras, tmp_path / "lora", {"part": "passages"})
    files = {
        f.relative_to(tmp_path / "lora").as_posix() for f in (tmp_path / "lora").rglob("*") if f.is_file()
    }
    inner = ("adapter_config.json", "adapter_model.safetensors")
    assert files == {"card.json"} | {f"{part}/{f}" for part in ("unet", "predictor") for f in inner}
    loaded = video.load_parts(weights.path("video"), unet, tmp_path / "lora")
    for new, old in zip(answer(*loaded), taught, strict=True):
        assert torch.allclose(new, old, atol=1e-3), (new - old).abs().max()


def test_loras_that_are_not_there_or_not_of_this_decoder(unet, tmp_path):
    with pytest.raises(FileNotFoundError, match="no LoRA in .*training passages"):
        video.load_parts(weights.path("video"), unet, tmp_path)
    decoder, _ = video.load_parts(weights.path("video"), unet)
    with pytest.raises(ValueError, match="this one has none"):
        video.merge_lora(decoder, None, weights.path("passages"))
    small = UNet2DConditionModel.from_config(dict(unet.config) | {"block_out_channels": [32, 64]})
    other = video.Decoder(
        video.motion_unet(small, video.motion_adapter(small, heads=4)), clean_key_frames=False
    )
    with pytest.raises(ValueError, match="made for another unet"):
        video.merge_lora(other, torch.nn.Linear(1, 1), weights.path("passages"))


def test_a_step_of_training_leaves_the_decoder_as_it_was(tmp_path):
    kept = {k: v.clone() for k, v in build_shipped().items()}
    net, loras, run = training.train(
        steps=1, batch=2, clips=2, passages=2, folder=tmp_path, parts=training.micro(), rank=2
    )
    assert run.done == 1 and set(loras) == {"unet", "predictor"}
    state = {n: p for n, p in net["decoder"].unet.state_dict().items()}
    for name, value in kept.items():
        now = state.get(name, state.get(name.replace(".weight", ".base_layer.weight")))
        now = state[name.replace(".bias", ".base_layer.bias")] if now is None else now
        assert torch.equal(now, value), name
    moved = [p.abs().max() > 0 for n, p in net.named_parameters() if "lora_B" in n]
    assert any(moved)
    card = cards.card("passages", run, None, 0)
    assert "2 passages and 2 clips" in card["data"] and card["rank"] == 2


def test_training_again_begins_with_the_shipped_lora_and_says_so(tmp_path):
    few = {"steps": 1, "batch": 2, "clips": 2, "passages": 2, "folder": tmp_path, "parts": training.micro()}
    _, loras, run = training.train(again=True, lr=0.0, **few)
    for name, lora in loras.items():
        file = weights.path("passages") / name / "adapter_model.safetensors"
        state, shipped = get_peft_model_state_dict(lora), load_file(file)
        assert state.keys() == shipped.keys()
        assert all(torch.equal(state[k], v.float()) for k, v in shipped.items())
    assert cards.card("passages", run, None, 0)["began"]["part"] == "passages"


def build_shipped():
    parts = training.micro()
    return build("ours", parts[1], begin=weights.path("video"))["decoder"].unet.state_dict()


def test_the_shipped_lora_is_what_the_card_says():
    card = json.loads((weights.DATA / "cards" / "passages.json").read_text())
    folder = weights.path("passages")
    shipped = sorted(folder.rglob("*.safetensors"))
    assert card["sha256"] == {f.relative_to(weights.DATA).as_posix(): weights.sha256(f) for f in shipped}
    video_card = json.loads((weights.DATA / "cards" / "video.json").read_text())
    runs = cards.stages(video_card)  # the last one is the shipped decoder, the others it went on from
    assert card["decoder"] in [run.get("sha256") for run in runs], "another decoder: train the LoRA again"
    assert card["steps"] > 0 and card["heldout"]["loss"]["passages"]
    assert sum(f.stat().st_size for f in folder.rglob("*")) < 1_000_000


# ------------------------------------------------------------------------------------------ the record


def test_frames_are_redrawn_as_strongly_as_was_best():
    record = experiments.load("passages")
    refined = [v["refine"] for v in record["settings"].values() if v.get("refine")]
    assert set(refined) == {record["strength"]} == {video.REFINE}


def test_the_finder_finds_everybody_of_a_passage():
    from storydiff_lite.experiments import finder

    some = (world.sample_transition(split, i) for split in world.splits.CLIP_SPLITS for i in range(8))
    passage = next(p for p in some if len(p.ways()) == 2 and len(p.first.actors) == 1)
    frames = torch.from_numpy(draw_clip(passage, 5, 64)).float() / 255
    for bank in finder.banks(passage, 5):
        right, mirrored = (float(finder.errors(x, bank)[1]) for x in (frames, frames.flip(-1)))
        assert (
            right < 0.02 and mirrored > 3 * right
        )  # a pixel is .016; half outside of the picture he is hard
