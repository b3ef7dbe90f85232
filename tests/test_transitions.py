"""Panel transitions: a law that the two panels decide."""

import random
from dataclasses import replace

import numpy as np
import pytest

from storydiff_lite import world
from storydiff_lite.training.motion import draw_clip
from storydiff_lite.world import PanelTransition, sample_transition, splits

SOME = [sample_transition(split, i) for split in splits.CLIP_SPLITS for i in range(8)]
BEAR = world.Character("bear")
CAT = world.Character("cat", "white", outfit="blue")


def panel(*actors, scene="farm", seed=0):
    return world.Picture(scene, actors, seed)


def pixels(image):
    return np.asarray(image).astype(float)


@pytest.mark.parametrize("transition", SOME[:8])
def test_it_begins_and_ends_with_the_panels(transition):
    images = transition.images(3)
    for image, shown in ((images[0], transition.first), (images[-1], transition.last)):
        assert np.abs(pixels(image) - pixels(world.render(shown))).max() == 0


def test_everybody_moves_without_a_leap():
    """Poses of somebody who lies or reads are left out: the world draws those by other rules."""
    some = [sample_transition("train", i) for i in range(30)]
    done = [{a.action for a in p.first.actors + p.last.actors} for p in some]
    some = [p for p, actions in zip(some, done, strict=True) if not actions & {"sleeping", "reading"}]
    assert len(some) > 6
    for transition in some:

        def path(n, transition=transition):
            return np.array([list(transition.joints(i / n).values()) for i in range(n + 1)])

        coarse, fine = (np.abs(np.diff(path(n), axis=0)).max() for n in (50, 150))
        assert coarse < 0.2 and fine < 0.5 * coarse


def test_who_is_in_both_panels_is_one_and_the_same():
    a, b = world.Actor(BEAR, "jumping", x=0.4), world.Actor(BEAR, "sitting", x=0.6, look=-1)
    transition = PanelTransition(panel(a), panel(b))
    assert [len(transition.actors(t)) for t in (0, 0.5, 1)] == [1, 1, 1]
    middle = transition.actors(0.5)[0]
    assert 0.45 < middle.x < 0.55 and 0 < middle.pose.bench < 1 and abs(middle.look) < 0.2


def test_who_leaves_goes_where_he_looks_and_who_comes_looks_ahead():
    here = world.Actor(BEAR, "walking", x=0.4, look=-1)
    there = world.Actor(CAT, "walking", x=0.6, look=-1)
    transition = PanelTransition(panel(here), panel(there))
    bear, cat = transition.ways()
    assert bear[1].x < 0 and cat[0].x > 1
    for t, alone in ((0, here), (1, there)):
        assert np.abs(pixels(transition.image(t)) - pixels(world.render(panel(alone)))).max() == 0
    assert [a.character for a in transition.actors(0.5)] == [BEAR, CAT]


def test_one_scene_becomes_the_other_behind_them():
    transition = PanelTransition(panel(scene="moon"), panel(scene="beach"))
    ends = [pixels(world.render(p)) for p in (transition.first, transition.last)]
    assert np.abs(pixels(transition.image(0.5)) - (ends[0] + ends[1]) / 2).max() <= 1


def test_its_prompt_is_of_the_panel_that_it_leads_to():
    a = world.Actor(BEAR, "jumping")
    transition = PanelTransition(panel(a), panel(replace(a, action="sitting")), frozenset({"outfit"}))
    assert "sitting on the farm" in transition.caption() and "red" in transition.caption()
    assert transition.caption() == transition.caption()


def test_bad_input():
    with pytest.raises(ValueError, match="t = 1; 1.5"):
        SOME[0].image(1.5)
    with pytest.raises(ValueError, match="at least 2 frames"):
        SOME[0].images(1)
    with pytest.raises(ValueError, match="no split 'test'"):
        sample_transition("test", 0)


def test_drawn_frames_are_those_of_the_transition():
    p = world.random_transition(random.Random(3))
    assert np.array_equal(draw_clip(p, 4, 32)[2].transpose(1, 2, 0), np.asarray(p.images(4, 32)[2]))
