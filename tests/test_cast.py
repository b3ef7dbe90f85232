"""Panels read only those that show nobody but their own characters; pictures of each; going on."""

from functools import partial

import pytest
import torch
from PIL import Image

from storydiff_lite import experiments, world
from storydiff_lite.attention import ConsistentSelfAttention
from storydiff_lite.cast import may_read
from storydiff_lite.experiments import cast as two_characters
from storydiff_lite.identity import IdentityReader
from storydiff_lite.schedule import AttentionPlan
from storydiff_lite.story import Panel, parse
from storydiff_lite.windows import Pass

N = 16
WHO = [("A",), ("B",), ("A", "B"), (), ("A",), ()]
READS = {0: {4}, 1: set(), 2: {0, 1, 4}, 3: set(), 4: {0}, 5: set()}


def read_panels(lists, n=N):
    return [{int(t) // n for t in index} for index in lists]


def panels_of(who, alone=()):
    return [Panel("x", characters=names, no_character=i in alone) for i, names in enumerate(who)]


def plan_of(who, rate, seeds=(0,), alone=()):
    return AttentionPlan(may_read(panels_of(who, alone)), rate, seeds)


def test_who_reads_whom():
    lists = plan_of(WHO, 0.5, alone=[3]).lists("layer", N, 1)
    for i, (index, seen) in enumerate(zip(lists, read_panels(lists), strict=True)):
        assert index[:N].tolist() == list(range(i * N, (i + 1) * N))  # all of its own, first
        assert seen - {i} == READS[i]
        assert len(index) == N + len(READS[i]) * N // 2 == len(set(index.tolist()))


def test_halves_and_stories_do_not_mix():
    stories = [[("A",), ("A",)], [("A",), ("B",)]]
    plan = AttentionPlan(torch.stack([may_read(panels_of(who)) for who in stories]), 1, (0, 1))
    lists = plan.lists("layer", 4, 2)
    assert read_panels(lists, 4) == [{0, 1}, {0, 1}, {2}, {3}, {4, 5}, {4, 5}, {6}, {7}]


def test_a_window_reads_its_own_part():
    plan = plan_of(WHO, 1, alone=[3])
    plan.now = Pass(0, range(2, 5))
    assert read_panels(plan.lists("layer", N, 1)) == [{0, 2}, {1}, {2}]


def test_everybody_in_every_panel_is_the_plain_method(tiny_parts):
    attn = tiny_parts["unet"].up_blocks[0].attentions[0].transformer_blocks[0].attn1
    x = torch.randn(6, N, attn.to_q.in_features, generator=torch.Generator().manual_seed(1))
    plain = AttentionPlan.among(3, 0.5, (7,))
    cast = plan_of([("A", "B")] * 3, 0.5, (7,))
    listed = plan_of(
        [("A", "B")] * 3 + [()], 0.5, (7,), alone=[3]
    )  # the same in its first three, reader by reader
    got = []
    for plan in (plain, cast, listed):
        plan.now = Pass(2, range(3))
        with torch.no_grad():
            got.append(ConsistentSelfAttention(plan, "layer")(attn, x))
    assert torch.equal(got[0], got[1]) and torch.equal(got[0], got[2])


def test_a_bank_lends_to_those_it_shows(tiny_parts):
    """What a reader of the bank gets is what it would get if its writers were beside it."""
    attn = tiny_parts["unet"].up_blocks[0].attentions[0].transformer_blocks[0].attn1
    x = torch.randn(5, N, attn.to_q.in_features, generator=torch.Generator().manual_seed(1))
    plan = plan_of([("A",), ("B",), (), ("B",), ("A", "B")], 1, alone=[2])
    layer, out = ConsistentSelfAttention(plan, "layer"), []
    with torch.no_grad():
        for held, role in ((range(3), "write"), (range(3, 5), "read")):
            plan.now = Pass(0, held, role)
            out.append(layer(attn, x[list(held)]))
        for reader, writers in ((3, [1]), (4, [0, 1])):
            beside = plan_of([("A",)] * (len(writers) + 1), 1)
            want = ConsistentSelfAttention(beside, "layer")(attn, x[[reader, *writers]])[0]
            assert torch.allclose(out[1][reader - 3], want, atol=1e-5)


STORY = "[A] a bear\n[B] a cat\n\n[A] reads\n[B] sits\n[A] and [B] walking\n[NC] the sea\n[B] sleeping"


def draw(pipe, story, **more):
    return pipe(parse(story), num_inference_steps=3, output_type="latent", **more).images


def test_a_change_in_one_character_leaves_the_other_as_it_was(tiny_pipe):
    """B's panels do not see A, not even through the panel of both, whose regions are not read."""
    how = {"consistency": 1.0, "apart": "words"}
    one, two = (draw(tiny_pipe, s, **how) for s in (STORY, STORY.replace("a bear", "a robot")))
    changed = [not torch.allclose(a, b, atol=1e-5) for a, b in zip(one, two, strict=True)]
    assert changed == [True, False, True, False, False]


@pytest.mark.parametrize(
    "more",
    [*({"window": 3, "long_story": way} for way in ("passes", "bank", "attention")), {"guidance_scale": 1}],
)
def test_long_stories_with_a_cast(tiny_pipe, more):
    assert draw(tiny_pipe, STORY, **more).isfinite().all()


def test_what_does_not_keep_characters_apart_is_refused(tiny_pipe):
    with pytest.raises(ValueError, match="Panel 2 shows somebody .* first 1 panels"):
        draw(tiny_pipe, STORY, window=1, long_story="bank")


def test_panels_without_names_are_as_before(tiny_pipe):
    named = [Panel(p, characters=("A",)) for p in ("a bear reads", "a bear sits")]
    plain = [Panel(p.prompt) for p in named]
    one, two = (tiny_pipe(s, num_inference_steps=2, output_type="latent").images for s in (named, plain))
    assert torch.equal(one, two)


# ---------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("at", [1, 2, 3])
def test_going_on_gives_the_same_latents(tiny_pipe, at):
    kept = {}

    def keep(pipe, step, t, tensors):
        kept[step + 1] = tensors["latents"].clone()

    call = {"num_inference_steps": 4, "output_type": "latent", "consistency": 1.0}
    whole = tiny_pipe(parse(STORY), callback_on_step_end=keep, **call).images
    assert torch.equal(tiny_pipe(parse(STORY), resume=(at, kept[at]), **call).images, whole)


def test_going_on_from_nowhere(tiny_pipe):
    call = {"num_inference_steps": 4, "output_type": "latent"}
    with pytest.raises(ValueError, match="there are 4 steps"):
        tiny_pipe("a bear", resume=(4, torch.zeros(1, 4, 8, 8)), **call)
    with pytest.raises(ValueError, match=r"\[1, 4, 8, 8\]"):
        tiny_pipe("a bear", resume=(1, torch.zeros(2, 4, 8, 8)), **call)


# ---------------------------------------------------------------------------------------- pictures


def test_pictures_by_character(tiny_pipe, monkeypatch):
    story = parse(
        "[A] a bear img\n[B] a cat img\n[C] a dog\n\n[A] reads\n[C] sits\n[A] and [B] walk\n[B] runs"
    )
    asked = []

    def read(texts, images):
        asked.append((texts, images))
        return [images] * len(texts)

    reader = IdentityReader(None, tiny_pipe.prompts)
    monkeypatch.setattr(reader, "read", read)
    with pytest.warns(UserWarning, match="Panel 3 shows A and B"):
        found = reader.read_story(story.panels, {"A": ["a"], "B": ["b"]})
    assert found == [["a"], None, ["a"], ["b"]]
    assert asked == [(["a bear img reads", "a bear img and a cat walk"], ["a"]), (["a cat img runs"], ["b"])]
    with pytest.raises(ValueError, match="'Z', who is in no panel.*A, B, C"):
        reader.read_story(story.panels, {"Z": ["z"]})


def test_pictures_need_an_encoder(tiny_pipe):
    with pytest.raises(ValueError, match="load_identity"):
        tiny_pipe("[A] a bear img\n\n[A] sits", id_images={"A": [Image.new("RGB", (32, 32))]})


# ---------------------------------------------------------------------------------------- the experiment


def test_stories_of_two():
    for i in range(20):
        panels = two_characters.two(i)
        species = [[s for s in world.SPECIES if f" {s} " in f" {p.prompt} "] for p in panels]
        first, second = species[0][0], species[1][0]
        assert first != second
        for panel, shown, seen in zip(panels, two_characters.CAST, species, strict=True):
            assert panel.characters == tuple("AB"[k] for k in shown)
            assert sorted(seen) == sorted((first, second)[k] for k in shown)
    assert [p.prompt for p in two_characters.two(3)] == [p.prompt for p in two_characters.two(3)]


@pytest.mark.parametrize("size", [64, 128])
def test_crops_hold_one_character_each(size):
    """Square, around each of two, feet as low as in pictures of one; what lies outside is the edge."""
    x = torch.arange(float(size)).expand(1, 3, size, size)
    left, right = two_characters.crops(x)
    side = round(0.7 * size)
    assert left.shape == right.shape == (1, 3, side, side)
    middle = side // 2
    assert abs(left[0, 0, 0, middle] - size / 4) <= 1 and abs(right[0, 0, 0, middle] - 3 * size / 4) <= 1
    assert left[0, 0, 0, 0] == 0 and right[0, 0, 0, -1] == size - 1
    assert left[0, 0, 0].diff().max() == 1, "nothing is left out"
    bottom = two_characters.crops(x.mT)[0][0, 0, -1, 0]
    assert abs(bottom - (0.92 + 0.08 * 0.7) * size) <= 1.5


def test_the_judge_reads_true_crops_right():
    found = experiments.load("cast")["crops"]
    assert found["species"] >= 0.95 and min(found.values()) >= 0.94


def test_both_species_must_be_there():
    names = [({"species": "cat"}, {"species": "bear"}), ({"species": "bear"}, {"species": "bear"})]
    prompts = ["a bear walking and a cat waving in the snow"] * 2
    assert two_characters.shown(names, prompts) == {"mean": 0.5}


def test_what_is_compared():
    """With a judge that reads the number of the panel, each kind takes the pairs it should."""

    class Judge:
        def names(self, images):
            return [{k: int(i.max()) for k in two_characters.FREE} for i in images]

    images = torch.zeros(6, 3, 8, 8) + torch.tensor([1, 2, 3, 2, 1, 3]).view(6, 1, 1, 1)
    (first, second), both = two_characters.read_story(Judge(), images)
    assert [r["fur"] for r in first] == [1, 1] and [r["fur"] for r in second] == [2, 2]
    assert [(a["fur"], b["fur"]) for a, b in both] == [(3, 3), (3, 3)]
    assert two_characters.mean_agreement([first, second])["mean"] == 1
    assert two_characters.mean_agreement([(first[0], second[0])])["mean"] == 0


def test_pipeline_has_its_rule_back_after_the_experiment(tiny_pipe, monkeypatch):
    before = tiny_pipe.reading_rule
    with pytest.raises(TypeError):
        two_characters.measure_cast(tiny_pipe, None, {"rule": "everyone", "consistency": 1}, [0], no_such=1)
    assert tiny_pipe.reading_rule is before


def test_sharing_by_character_keeps_characters_apart():
    """The claim of chapter 10, from the record: own panels agree, others do not agree more than by chance."""
    record = experiments.load("cast")
    change = partial(experiments.change, record)
    assert change("own", "no sharing", "by character")[1] > 0
    assert change("leak", "no sharing", "everyone")[1] > 0
    assert change("leak", "everyone", "by character")[2] < 0
