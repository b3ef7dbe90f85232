"""Passages: a law that the two panels decide, splits apart, and a LoRA that learns from them."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from storydiff_lite import experiments, passages, video, weights, world
from storydiff_lite.clips import SPLITS, withheld
from storydiff_lite.passages import Passage
from storydiff_lite.training import passages as training
from storydiff_lite.training.video import build

SOME = [passages.specimen(split, i) for split in SPLITS for i in range(8)]
BEAR = world.Character("bear")
CAT = world.Character("cat", "white", outfit="blue")


def panel(*actors, scene="farm", seed=0):
    return world.Picture(scene, actors, seed)


def pixels(image):
    return np.asarray(image).astype(float)


@pytest.mark.parametrize("passage", SOME[:8])
def test_it_begins_and_ends_with_the_panels(passage):
    images = passage.images(3)
    for image, shown in ((images[0], passage.first), (images[-1], passage.last)):
        assert np.abs(pixels(image) - pixels(world.render(shown))).max() == 0


def test_everybody_moves_without_a_leap():
    """Poses of somebody who lies or reads are left out: the world draws those by other rules."""
    some = [passages.specimen("train", i) for i in range(30)]
    done = [{a.action for a in p.first.actors + p.last.actors} for p in some]
    some = [p for p, actions in zip(some, done, strict=True) if not actions & {"sleeping", "reading"}]
    assert len(some) > 6
    for passage in some:

        def path(n, passage=passage):
            return np.array([list(passage.joints(i / n).values()) for i in range(n + 1)])

        coarse, fine = (np.abs(np.diff(path(n), axis=0)).max() for n in (50, 150))
        assert coarse < 0.2 and fine < 0.5 * coarse


def test_who_is_in_both_panels_is_one_and_the_same():
    a, b = world.Actor(BEAR, "jumping", x=0.4), world.Actor(BEAR, "sitting", x=0.6, look=-1)
    passage = Passage(panel(a), panel(b))
    assert [len(passage.actors(t)) for t in (0, 0.5, 1)] == [1, 1, 1]
    middle = passage.actors(0.5)[0]
    assert 0.45 < middle.x < 0.55 and 0 < middle.pose.bench < 1 and abs(middle.look) < 0.2


def test_who_leaves_goes_where_he_looks_and_who_comes_looks_ahead():
    here = world.Actor(BEAR, "walking", x=0.4, look=-1)
    there = world.Actor(CAT, "walking", x=0.6, look=-1)
    passage = Passage(panel(here), panel(there))
    bear, cat = passage.ways()
    assert bear[1].x < 0 and cat[0].x > 1
    for t, alone in ((0, here), (1, there)):
        assert np.abs(pixels(passage.image(t)) - pixels(world.render(panel(alone)))).max() == 0
    assert [a.character for a in passage.actors(0.5)] == [BEAR, CAT]


def test_one_scene_becomes_the_other_behind_them():
    passage = Passage(panel(scene="moon"), panel(scene="beach"))
    ends = [pixels(world.render(p)) for p in (passage.first, passage.last)]
    assert np.abs(pixels(passage.image(0.5)) - (ends[0] + ends[1]) / 2).max() <= 1


def test_nothing_of_a_split_is_in_another():
    drawn = {split: [passages.specimen(split, i) for i in range(60)] for split in SPLITS}
    for split, some in drawn.items():
        for p in some:
            for a, b in p.ways():
                assert withheld(a.character) == (split == "heldout")
                if a.pose is None and b.pose is None:  # in both panels
                    assert passages.unseen(a.action, b.action) == (split == "heldout")
    kept = sum(passages.unseen(a, b) for a in world.ACTIONS for b in world.ACTIONS)
    assert 5 < kept < 20
    assert drawn["train"][0] == passages.specimen("train", 0) != drawn["validation"][0]
    many = {len(p.first.actors) + 10 * len(p.last.actors) for p in drawn["train"]}
    assert many == {11, 12, 21, 22}


def test_it_is_told_the_panel_that_it_leads_to():
    a = world.Actor(BEAR, "jumping")
    passage = Passage(panel(a), panel(replace(a, action="sitting")), frozenset({"outfit"}))
    assert "sitting on the farm" in passage.caption() and "red" in passage.caption()
    assert passage.caption() == passage.caption()


def test_bad_input():
    with pytest.raises(ValueError, match="t = 1; 1.5"):
        SOME[0].image(1.5)
    with pytest.raises(ValueError, match="at least 2 frames"):
        SOME[0].images(1)
    with pytest.raises(ValueError, match="no split 'test'"):
        passages.specimen("test", 0)


def test_drawn_frames_are_those_of_the_passage():
    p = passages.random_passage(random.Random(3))
    assert np.array_equal(passages.drawn(p, 4, 32)[2].transpose(1, 2, 0), np.asarray(p.images(4, 32)[2]))


# ------------------------------------------------------------------------------------------ the LoRA


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
        video.add_lora(decoder, None, weights.path("passages"))
    small = UNet2DConditionModel.from_config(dict(unet.config) | {"block_out_channels": [32, 64]})
    other = video.Decoder(video.motion_unet(small, video.motion_adapter(small, heads=4)), pin=False)
    with pytest.raises(ValueError, match="made for another unet"):
        video.add_lora(other, torch.nn.Linear(1, 1), weights.path("passages"))


def test_a_step_of_training_leaves_the_decoder_as_it_was(tmp_path):
    kept = {k: v.clone() for k, v in build_shipped().items()}
    net, loras, run = training.train(
        steps=1, batch=2, pool=2, passages=2, folder=tmp_path, parts=training.micro(), rank=2
    )
    assert run.done == 1 and set(loras) == {"unet", "predictor"}
    state = {n: p for n, p in net["decoder"].unet.state_dict().items()}
    for name, value in kept.items():
        now = state.get(name, state.get(name.replace(".weight", ".base_layer.weight")))
        now = state[name.replace(".bias", ".base_layer.bias")] if now is None else now
        assert torch.equal(now, value), name
    moved = [p.abs().max() > 0 for n, p in net.named_parameters() if "lora_B" in n]
    assert any(moved)
    card = training.card(run, None, 0)
    assert "2 passages and 2 clips" in card["data"] and card["rank"] == 2


def build_shipped():
    parts = training.micro()
    return build("ours", parts[1], begin=weights.path("video"))["decoder"].unet.state_dict()


def test_the_shipped_lora_is_what_the_card_says():
    card = json.loads((weights.DATA / "cards" / "passages.json").read_text())
    folder = weights.path("passages")
    shipped = sorted(folder.rglob("*.safetensors"))
    assert card["sha256"] == {f.relative_to(weights.DATA).as_posix(): weights.sha256(f) for f in shipped}
    video_card = json.loads((weights.DATA / "cards" / "video.json").read_text())
    assert card["decoder"] == video_card["sha256"], "the decoder was trained anew: train the LoRA again"
    assert card["steps"] > 0 and card["heldout"]["loss"]["passages"]
    assert sum(f.stat().st_size for f in folder.rglob("*")) < 1_000_000


# ------------------------------------------------------------------------------------------ the record


def test_the_records_summary_follows_from_its_rows():
    record = experiments.load("passages")
    assert record["stories"] == experiments.EXPERIMENTS["passages"].stories
    assert set(record["rows"]) == set(record["settings"]) == set(record["summary"])
    for name, rows in record["rows"].items():
        source = record["settings"][name].get("source", "passages")
        assert len(rows) == record["numbers"][source]
        for kind, found in record["summary"][name].items():
            values = [r[kind] for r in rows if r[kind] is not None]
            assert found == pytest.approx(experiments.mean_and_interval(values), abs=2e-4)
    refined = [v["refine"] for v in record["settings"].values() if v.get("refine")]
    assert set(refined) == {record["strength"]} == {video.REFINE}


def test_the_finder_finds_everybody_of_a_passage():
    from storydiff_lite.experiments import finder
    from storydiff_lite.experiments.passages import cut_out

    passage = next(p for p in SOME if len(p.ways()) == 2 and len(p.first.actors) == 1)
    frames = torch.from_numpy(passages.drawn(passage, 5, 64)).float() / 255
    for bank in cut_out(passage, 5):
        right, mirrored = (float(finder.errors(x, bank)[1]) for x in (frames, frames.flip(-1)))
        assert (
            right < 0.02 and mirrored > 3 * right
        )  # a pixel is .016; half outside of the picture he is hard
