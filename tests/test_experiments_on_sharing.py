"""The experiments of chapter 05 change what they say they change, and nothing else."""

import pytest
import torch

from storydiff_lite import experiments, world
from storydiff_lite.attention import reading_lists
from storydiff_lite.experiments import comparison, failures, sharing
from storydiff_lite.schedule import AttentionPlan, SamplingSchedule

F, N, S, HALVES = 3, 8, 2, 2


def lists(reads, rate=0.5, seeds=(3, 4)):
    plan = AttentionPlan.among(F, rate, seeds, reads=reads)
    return plan.lists("layer", N, HALVES)  # [H S F, L]


def test_as_printed_reads_a_part_of_the_own_tokens_twice():
    once, printed = lists(reading_lists), lists(sharing.as_printed)
    assert printed.shape[-1] == once.shape[-1] + N // 2
    for a, b in zip(once.tolist(), printed.tolist(), strict=True):
        assert b[: len(a)] == a and set(b[len(a) :]) <= set(a[:N]), "the rest are own tokens, again"
        assert len(set(b[len(a) :])) == N // 2
    own = once.view(HALVES, S, F, -1)
    # what is read twice of a panel are the tokens that the others read of it
    again = printed.view(HALVES, S, F, -1)[..., own.shape[-1] :]
    assert set(again[0, 0, 0].tolist()) <= set(own[0, 0, 1].tolist())


def test_control_reads_as_many_tokens_at_the_same_places_of_another_story():
    ours, theirs = lists(reading_lists), lists(sharing.unrelated)
    assert ours.shape == theirs.shape and torch.equal(ours[..., :N], theirs[..., :N])
    story = torch.arange(HALVES * S).repeat_interleave(F)[:, None]
    assert ((ours // (F * N)) == story).all()
    half, which = story // S, story % S
    assert ((theirs[..., N:] // (F * N)) == half * S + (which + 1) % S).all(), "its half, the other story"
    with pytest.raises(ValueError, match="two stories in a batch"):
        lists(sharing.unrelated, seeds=(3,))


def test_settings_become_arguments():
    every = sharing.sharing_settings()
    assert sharing.arguments(every["none"]) == {"consistency": 0}
    thirds = [
        sharing.arguments(every[f"{n} third of the steps"])["schedule"] for n in ("first", "middle", "last")
    ]
    for step in range(sharing.STEPS):
        assert sum(t.active(step, "layer") for t in thirds) == 1, "the thirds share out the steps"
    released = sharing.arguments(every["released schedule"])["schedule"]
    assert isinstance(released, SamplingSchedule)
    # of 50 steps, 5 plain and then .7, from step 20 on .9: here of 12
    assert [released.probability(i) for i in (0, 1, 4, 5, 11)] == [0, 0.7, 0.7, 0.9, 0.9]
    assert "sharing" not in sharing.arguments(every["unrelated tokens"])


def test_pipeline_has_its_own_plan_back_after_an_experiment():
    class Pipe:
        attention_plan = AttentionPlan

        def tell_many(self, *args, **settings):
            assert self.attention_plan.keywords == {"reads": sharing.unrelated}
            assert settings["num_inference_steps"] == sharing.STEPS
            raise KeyboardInterrupt

    pipe = Pipe()
    with pytest.raises(KeyboardInterrupt):
        setting = sharing.sharing_settings()["unrelated tokens"]
        sharing.measure_sharing(pipe, None, setting, [experiments.story(0)], [0])
    assert pipe.attention_plan is AttentionPlan


def test_copies_look_alike_and_strangers_do_not():
    g = torch.Generator().manual_seed(0)
    one = torch.rand(1, 3, 16, 16, generator=g)
    same = sharing.copying(None, None, one.repeat(4, 1, 1, 1))["copying"]["mean"]
    other = sharing.copying(None, None, torch.rand(4, 3, 16, 16, generator=g))["copying"]["mean"]
    assert same == pytest.approx(1, abs=1e-5) and abs(other) < 0.2


def test_seeds_of_a_story_are_averaged_before_the_interval():
    rows = [{"story": ["a"], "agreement": {"mean": m}} for m in (0.0, 1.0)] + [
        {"story": ["b"], "agreement": {"mean": m}} for m in (0.4, 0.6)
    ]
    mean, low, high = sharing.by_story(rows, ("agreement",))["agreement"]
    assert mean == low == high == 0.5, "both stories have the same mean"


def test_stories_that_fail_are_what_they_say():
    for i in range(14):
        turns = [world.mentioned(p) for p in failures.in_turns(i)]
        assert turns[0]["species"] == turns[2]["species"] != turns[1]["species"] == turns[3]["species"]
        two = [world.mentioned(p) for p in failures.contradicting(i)]
        assert two[0]["outfit"] == two[1]["outfit"] != two[2]["outfit"] == two[3]["outfit"]
        assert len({t["species"] for t in two}) == 1
        assert [t["scene"] for t in two] == [world.mentioned(p)["scene"] for p in experiments.story(i)]


def test_leak_compares_neighbours_and_own_every_second_panel():
    names = [dict.fromkeys(("fur", "outfit", "accessory", "accessory_colour"), x) for x in "abab"]
    found = failures.own_and_leak(names, None, None)
    assert found["own"]["mean"] == 1 and found["leak"]["mean"] == 0


def test_references_are_of_the_storys_species_and_unseen():
    for i in range(8):
        album = comparison.references(i)
        who = {p.actors[0].character for p in album}
        assert len(who) == 1 and world.withheld(next(iter(who))) and album == comparison.references(i)
        assert next(iter(who)).species == world.mentioned(experiments.story(i)[0])["species"]
