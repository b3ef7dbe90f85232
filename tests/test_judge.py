"""The judge reads renders it has never seen, and its two numbers are what their definitions say."""

import numpy as np
import pytest
import torch

from storydiff_lite import judge as judging
from storydiff_lite import weights, world
from storydiff_lite.judge import FREE, StoryJudge, agreement, faithfulness
from storydiff_lite.story import Panel


@pytest.fixture(scope="module")
def judge():
    return StoryJudge.load()


@pytest.fixture(scope="module")
def seen():
    pictures = [world.sample_pictures("heldout", i)[0] for i in range(300)]
    return pictures, [world.render(p, 64) for p in pictures]


def test_reads_held_out_renders(judge, seen):
    pictures, images = seen
    truth, read = [world.labels(p) for p in pictures], judge.names(images)
    for attribute in world.ATTRIBUTES:
        hits = [r[attribute] == t[attribute] for r, t in zip(read, truth, strict=True) if attribute in t]
        assert len(hits) > 50 and sum(hits) / len(hits) >= 0.97, attribute


def test_probabilities(judge, seen):
    read = judge.read(seen[1][:5])
    assert read.keys() == world.ATTRIBUTES.keys()
    for name, p in read.items():
        assert p.shape == (5, len(world.ATTRIBUTES[name]))
        assert torch.allclose(p.sum(1), torch.ones(5), atol=1e-5)


def test_every_kind_of_picture_reads_the_same(judge, seen):
    images = seen[1][:4]
    arrays = [np.asarray(i) for i in images]
    tensor = torch.tensor(np.stack(arrays) / 255.0, dtype=torch.float32).permute(0, 3, 1, 2)
    want = judge.read(images)["fur"]
    for other in (arrays, [a / 255.0 for a in arrays], tensor):
        assert torch.allclose(judge.read(other)["fur"], want, atol=1e-4)
    assert judge.names(images[0])[0] == judge.names(images)[0]


def test_larger_pictures_are_read_too(judge, seen):
    pictures = seen[0][:60]
    read = judge.names([world.render(p, 160) for p in pictures])
    assert np.mean([r["fur"] == world.labels(p)["fur"] for r, p in zip(read, pictures, strict=True)]) > 0.9


def test_agreement_counts_pairs():
    names = [{"fur": f, "outfit": o} for f, o in (("red", "a"), ("red", "b"), ("blue", "a"), ("red", "c"))]
    got = agreement(names, ("fur", "outfit"))
    assert got["fur"] == pytest.approx(3 / 6) and got["outfit"] == pytest.approx(1 / 6)
    assert got["mean"] == pytest.approx(2 / 6)


def test_faithfulness_asks_only_for_what_is_named():
    names = [
        {"species": "bear", "action": "walking", "scene": "snow", "fur": "red"},
        {"species": "cat", "action": "walking", "scene": "moon", "fur": "red"},
    ]
    got = faithfulness(names, ["a bear walking in the snow", "a bear walking on the moon"])
    assert got == {"species": 0.5, "action": 1.0, "scene": 1.0, "mean": pytest.approx(5 / 6)}


def test_same_character_agrees_and_strangers_do_not(judge):
    import random

    rng = random.Random(5)
    same = [
        judge.consistency([world.render(p) for p in world.random_strip(rng, 4)])["mean"] for _ in range(8)
    ]
    apart = [
        judge.consistency([world.render(world.random_picture(rng)) for _ in range(4)])["mean"]
        for _ in range(30)
    ]
    assert np.mean(same) > 0.95
    assert np.mean(apart) < 0.3  # chance: the mean of 1/8, 1/8, 1/3 and 1/8 is .18
    assert set(judge.consistency([world.render(p) for p in world.random_strip(rng, 2)])) == {*FREE, "mean"}


def test_fidelity_of_renders_to_their_captions(judge, seen):
    import random

    rng = random.Random(0)
    texts = [world.caption(p, rng) for p in seen[0][:40]]
    right = judge.fidelity(seen[1][:40], [Panel(t) for t in texts])["mean"]
    wrong = judge.fidelity(seen[1][:40], texts[1:] + texts[:1])["mean"]
    assert right > 0.97 and wrong < 0.5


def test_bad_input_is_told(judge, seen):
    image = seen[1][0]
    with pytest.raises(ValueError, match="at least two"):
        judge.consistency([image])
    with pytest.raises(ValueError, match="no attribute 'tail'.*fur"):
        judge.consistency([image, image], ["tail"])
    with pytest.raises(ValueError, match="2 pictures, 1 prompts"):
        judge.fidelity([image, image], ["a bear"])
    with pytest.raises(ValueError, match="no picture"):
        judge.read([])
    with pytest.raises(ValueError, match="128 x 64.*panels"):
        judge.read([image.resize((128, 64))])
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        judge.read(torch.zeros(3, 64, 64))


@pytest.mark.parametrize("name", ["micro", "identity", "defects"])
def test_weights_of_something_else_are_no_judge(name):
    with pytest.raises(weights.WeightsError, match="are no JudgeNet: judges are 'judge'"):
        StoryJudge.load(name)


def test_one_attribute_and_one_prompt_need_no_list(judge, seen):
    image = seen[1][0]
    assert judge.consistency([image, image], "fur") == {"fur": 1.0, "mean": 1.0}
    assert judge.fidelity([image], "a bear") == judge.fidelity([image], ["a bear"])
    with pytest.raises(ValueError, match="Consistency of no attribute: name some, such as fur"):
        judge.consistency([image, image], [])


def test_free_attributes_show_on_every_species():
    assert set(judging.FREE) <= set(world.labels(world.sample_pictures("heldout", 0)[0]))
    assert "skin" not in judging.FREE
