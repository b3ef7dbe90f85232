"""Clips: continuous, curved, timed, the same for the same seed, and their splits apart."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storydiff_lite import world
from storydiff_lite.world import clips, sample_clip, splits

SOME = [sample_clip(split, i) for split in splits.CLIP_SPLITS for i in range(7)]


def path(clip, n=201):
    """Places of all joints, [n, joints, 2]."""
    return np.array([list(clip.joints(i / (n - 1)).values()) for i in range(n)])


def test_there_are_at_least_five_kinds_and_each_takes_its_actors():
    assert {"walk", "jump", "wave", "sit", "turn", "hand over", "meet"} <= set(clips.KINDS)
    for kind in clips.KINDS:
        clip = clips.random_clip(random.Random(0), kind)
        assert clip.kind == kind and len(clip.picture(0.3).actors) == len(clip.actors)
        assert len(clip.actors) == (2 if kind in clips.TWO else 1)


@pytest.mark.parametrize("clip", SOME[:7], ids=lambda c: c.kind)
def test_motions_are_continuous(clip):
    coarse, fine = (np.abs(np.diff(path(clip, n), axis=0)).max() for n in (51, 151))
    assert coarse < 0.16  # picture heights in a fiftieth of the clip
    assert fine < 0.5 * coarse  # what is continuous moves a third as far in a third of the time


@pytest.mark.parametrize("clip", SOME, ids=lambda c: c.kind)
def test_the_straight_line_is_wrong_everywhere(clip):
    """The part that strays most from the line between its ends strays by several pixels."""
    p = path(clip, 21)
    t = np.linspace(0, 1, 21)[:, None, None]
    line = (1 - t) * p[0] + t * p[-1]
    assert np.linalg.norm(p - line, axis=-1).max() * 64 > 4


@pytest.mark.parametrize("kind", clips.KINDS)
def test_large_displacements(kind):
    """Somewhere a part moves by a sixth of the picture or more, in most clips of every kind."""
    some = [sample_clip("train", i, kind) for i in range(11)]
    far = [np.linalg.norm(p[:, None] - p[None], axis=-1).max() for p in (path(c, 9) for c in some)]
    assert np.median(far) > 1 / 6


@pytest.mark.parametrize("clip", SOME, ids=lambda c: c.kind)
def test_heads_and_bodies_stay_in_the_picture(clip):
    for picture in clip.frames(9):
        for name, (x, y) in world.joints(picture).items():
            if name.endswith(("head", "body")):
                assert 0.0 < x < 1.0 and 0.05 < y < 1.0, (name, x, y)


def test_the_balloon_changes_hands_where_they_meet():
    for i in range(20):
        clip = sample_clip("train", i, "hand over")
        (a0, b0), (a1, b1) = (clip.picture(t).actors for t in (0.4999, 0.5))
        assert (a0.pose.balloon, b0.pose.balloon, a1.pose.balloon, b1.pose.balloon) == (1, 0, 0, 1)
        at = clip.joints(0.5)
        gap = np.subtract(at["0.hand_r"], at["1.hand_r"])
        assert np.linalg.norm(gap) * 64 < 2


def test_a_deep_crouch_means_a_high_jump():
    """What happens between can be told from the ends: vigour shows in the first picture."""
    low, high = (clips.Clip("jump", "farm", (world.Character(),), vigour=v, seed=1) for v in (0.1, 0.9))
    top = [min(c.joints(i / 40)["0.head"][1] for i in range(41)) for c in (low, high)]
    first = [c.joints(0)["0.head"][1] for c in (low, high)]
    assert top[1] < top[0] - 0.05 and first[1] > first[0]


def test_frames_hold_both_ends_and_equal_seeds_give_equal_clips():
    clip = sample_clip("train", 3)
    frames = clip.frames(5)
    assert frames[0] == clip.picture(0) and frames[-1] == clip.picture(1)
    assert frames[2] == clip.picture(0.5)
    assert sample_clip("train", 3) == clip != sample_clip("validation", 3)
    again = clips.random_clip(random.Random(5)), clips.random_clip(random.Random(5))
    assert again[0] == again[1]
    assert world.render(clip.picture(0.25), 32).tobytes() == world.render(clip.picture(0.25), 32).tobytes()


def test_captions_name_everybody_and_what_is_asked():
    for clip in SOME:
        said = clip.caption({"outfit"})
        assert all(f"{c.species}" in said and c.outfit in said for c in clip.actors)
        assert clip.scene in said
    assert clips.Clip("jump", "moon", (world.Character(),)).caption() == "a bear jumping on the moon"


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(clips.KINDS),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from((-1, 1)),
    st.floats(0, 1),
)
def test_every_clip_of_the_allowed_numbers_can_be_drawn(kind, reach, vigour, place, side, t):
    actors = (world.Character(), world.Character("cat"))[: 2 if kind in clips.TWO else 1]
    size = 0.41 if kind in clips.TWO else 0.5
    clip = clips.Clip(kind, "snow", actors, 1, reach, vigour, size, place, side)
    assert np.isfinite(list(clip.joints(t).values())).all()
    world.render(clip.picture(t), 16)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "fly"}, "walk, jump"),
        ({"scene": "space"}, "forest"),
        ({"actors": ()}, "1 actor"),
        ({"kind": "meet"}, "2 actors"),
        ({"reach": 1.5}, "from 0 to 1"),
        ({"side": 0}, "1 .right. or -1"),
    ],
)
def test_bad_clips_are_refused_in_words(change, says):
    good = {"kind": "walk", "scene": "farm", "actors": (world.Character(),)}
    with pytest.raises(ValueError, match=says):
        clips.Clip(**good | change)


def test_bad_times_and_splits_are_refused_in_words():
    clip = sample_clip("train", 0)
    with pytest.raises(ValueError, match="from t = 0 to t = 1"):
        clip.picture(1.2)
    with pytest.raises(ValueError, match="at least 2 frames"):
        clip.frames(1)
    with pytest.raises(ValueError, match="train, validation, heldout"):
        sample_clip("test", 0)
