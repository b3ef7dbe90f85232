"""Random numbers that the page draws too: known vectors, their distribution, their place in the pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from storydiff_lite import portable
from storydiff_lite.schedule import self_attention_layers
from storydiff_lite.settings import StorySettings
from storydiff_lite.tell import Recipe, read_recipe, retell, tell

pytestmark = pytest.mark.usefixtures("few_threads")

VECTORS = Path(__file__).parent / "data" / "portable.json"
STORY = ["a bear", "a bear", "a bear"]
# The three known answers of Random123 (kat_vectors, philox4x32 10): counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
#: what other languages are compared with: noise of a panel; picks of a panel in a layer and step
NORMAL = [(0, 0), (7, 3), (2**32 + 5, 1), (2**53 - 1, 7)]
PICKS = [(0, 0, 0, 0, 64, 32), (7, 3, 5, 11, 256, 64), (2**32 + 5, 1, 6, 2, 10, 5), (3, 2, 4, 1, 256, 1)]


def vectors():
    """What `portable.json` holds, as this code draws it: python tests/test_portable.py writes it."""
    return {
        "philox": [{"counter": words(c), "key": words(k), "result": words(r)} for c, k, r in KNOWN],
        "normal": [
            {
                "seed": s,
                "panel": p,
                "shape": [4, 2, 2],
                "values": portable.normal(s, p, (4, 2, 2)).ravel().tolist(),
            }
            for s, p in NORMAL
        ],
        "picks": [
            dict(zip(("seed", "panel", "layer", "step", "n", "k"), a, strict=True))
            | {"tokens": pick(*a).tolist()}
            for a in PICKS
        ],
        "rounding": [
            [rate, n, round(rate * n)] for rate in (0, 0.1, 0.25, 0.5, 0.7, 1) for n in (1, 3, 5, 64, 250)
        ],
    }


def pick(seed, panel, layer, step, n, k):
    """Which k of a panel's n tokens the others may read, int64 array [k], rising: those with the smallest
    words, of equal ones the first; ``layer`` is a number, in the order of all self-attention layers.
    """
    drawn = portable.random_words(seed, panel, portable.PICKS + layer, step, n)
    return np.sort(np.argsort(drawn, kind="stable")[:k])


def words(text):
    return [int(w, 16) for w in text.split()]


def test_philox_gives_the_published_answers():
    for counter, key, result in KNOWN:
        assert portable.philox(words(counter), words(key)).tolist() == words(result)
    counters = np.array([words(c) for c, k, _ in KNOWN[:1]] * 3).reshape(
        3, 1, 4
    )  # any shape before the last axis
    assert portable.philox(counters, (0, 0)).tolist() == [[words(KNOWN[0][2])]] * 3


def test_the_vectors_that_the_page_is_tested_with_are_those_of_today():
    kept, now = json.loads(VECTORS.read_text()), vectors()
    for x, y in zip(kept.pop("normal"), now.pop("normal"), strict=True):
        np.testing.assert_allclose(x.pop("values"), y.pop("values"), rtol=3e-7)  # log and cos of another libm
        assert x == y
    assert kept == now
    assert VECTORS.stat().st_size < 8000


def test_a_number_does_not_depend_on_how_many_are_drawn():
    many = portable.random_words(5, 1, 0, 0, 1000)
    assert many[:7].tolist() == portable.random_words(5, 1, 0, 0, 7).tolist()
    odd = portable.normal(5, 1, (3, 3))
    assert odd.ravel().tolist() == portable.normal(5, 1, (10,))[:9].tolist()


def test_each_part_of_the_key_and_counter_counts():
    drawn = {
        tuple(portable.random_words(*a, 4))
        for a in [(0, 0, 0, 0), (1, 0, 0, 0), (2**32, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    }
    assert len(drawn) == 6


def test_noise_is_normal():
    x = portable.normal(11, 2, (4, 128, 128)).astype(float)
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02 and np.isfinite(x).all()
    assert abs((x**3).mean()) < 0.06 and abs((x**4).mean() - 3) < 0.15
    assert abs(np.corrcoef(x.ravel()[::2], x.ravel()[1::2])[0, 1]) < 0.02  # of cosine and sine


def test_picks_are_k_different_tokens_and_even():
    assert pick(0, 0, 0, 0, 64, 0).tolist() == []
    assert pick(0, 0, 0, 0, 64, 64).tolist() == list(range(64))
    counts = np.zeros(64)
    for step in range(400):
        found = pick(3, 1, 2, step, 64, 16)
        assert len(set(found.tolist())) == 16 and (np.diff(found) > 0).all()
        counts[found] += 1
    assert abs(counts.mean() - 100) < 1e-9 and counts.std() < 15  # sqrt(400 * .25 * .75) = 8.7


def test_of_equal_words_the_first_tokens_are_picked(monkeypatch):
    monkeypatch.setattr(portable, "random_words", lambda *_: np.array([5, 1, 5, 1, 5, 0], np.uint32))
    assert pick(0, 0, 0, 0, 6, 4).tolist() == [0, 1, 3, 5]
    order = portable.PortableOrder(["layer"])(0, 0, "layer", range(2), 6)  # [2, 6]
    assert order[0].argsort(descending=True).tolist() == [5, 1, 3, 0, 2, 4] and order.dtype == torch.float64


def test_the_order_of_a_large_layer_is_that_of_its_words():
    """Words of 32 bits and 4,096 tokens: no two numbers fall together."""
    order = portable.PortableOrder(["a", "b"])(7, 3, "b", range(1, 3), 4096)
    assert 0 < float(order.min()) and float(order.max()) <= 1
    for panel, row in zip((1, 2), order, strict=True):
        assert row.topk(512).indices.sort().values.tolist() == pick(7, panel, 1, 3, 4096, 512).tolist()


def drawn(pipe, **how):
    return pipe(STORY, num_inference_steps=2, output_type="latent", generator="portable", **how).images


def test_the_pipeline_draws_noise_and_picks_so(tiny_pipe):
    seen = {}

    def watch(layer, attn, q, k, lists, *_):
        seen[plan[0].now.step, layer] = lists

    plan, make = [], tiny_pipe.attention_plan

    def planned(*args):
        plan[:] = [make(*args)]
        plan[0].watch = watch
        return plan[0]

    tiny_pipe.attention_plan = planned
    drawn(tiny_pipe, seed=9, consistency=0.25, layers="all", guidance_scale=1)
    layers = self_attention_layers(tiny_pipe.unet, "all")
    assert len(seen) == 2 * len(layers)
    for (step, layer), lists in seen.items():
        n = lists.shape[1] * 2 // 3  # own n, and a quarter of two others
        for i in range(3):
            others = [j for j in range(3) if j != i]
            picks = [j * n + pick(9, j, layers.index(layer), step, n, n // 4) for j in others]
            assert lists[i].tolist() == [*range(i * n, i * n + n), *np.concatenate(picks)]


def test_noise_in_the_pipeline(tiny_pipe):
    begun = []
    keep = lambda pipe, step, t, tensors: begun.append(tensors["latents"].clone()) or {}  # noqa: E731
    noise = torch.from_numpy(np.stack([portable.normal(4, p, (4, 8, 8)) for p in range(3)]))
    a = drawn(tiny_pipe, seed=4, callback_on_step_end=keep)
    b = tiny_pipe(
        STORY, num_inference_steps=2, output_type="latent", generator="portable", seed=4, latents=noise
    ).images
    assert torch.equal(a, b) and len(begun) == 2
    assert torch.equal(portable.initial_noise([4], 3, (4, 8, 8), True), noise[:1].expand(3, 4, 8, 8))
    same = drawn(tiny_pipe, seed=4, same_noise=True, consistency=0)
    assert torch.allclose(same[0], same[2], atol=1e-5) and not torch.allclose(a[0], a[2], atol=1e-2)


def test_another_seed_and_another_generator_are_another_story(tiny_pipe):
    a = drawn(tiny_pipe, seed=1)
    assert torch.equal(a, drawn(tiny_pipe, seed=1))
    assert not torch.allclose(a, drawn(tiny_pipe, seed=2), atol=1e-2)
    other = tiny_pipe(STORY, num_inference_steps=2, output_type="latent", seed=1).images
    assert not torch.allclose(a, other, atol=1e-2)


def test_a_window_changes_no_picks(tiny_pipe):
    """A panel's picks in a layer and step are the same in every pass that holds it."""
    found = {}
    make = tiny_pipe.attention_plan

    def planned(*args):
        plan = make(*args)
        plan.watch = lambda layer, attn, q, k, lists, *_: found.setdefault((plan.now.step, layer), []).append(
            plan.picks(layer, q.shape[1])[0][1 - plan.now.panels.start]  # of panel 1, in both windows
        )
        return plan

    tiny_pipe.attention_plan = planned
    drawn(tiny_pipe, seed=1, window=2, guidance_scale=1)
    assert found and all(len(x) == 2 and torch.equal(*x) for x in found.values())


def test_several_stories_are_each_as_alone(tiny_pipe):
    both = tiny_pipe.tell_many(
        [STORY, STORY], [1, 2], generator="portable", num_inference_steps=2, output_type="latent"
    )
    for seed, story in zip((1, 2), both, strict=True):
        assert torch.allclose(story.images, drawn(tiny_pipe, seed=seed), atol=1e-4)
    with pytest.raises(TypeError, match="generator"):
        tiny_pipe.tell_many([STORY], generator=torch.Generator())


def test_it_goes_on_where_it_stopped(tiny_pipe):
    kept = []
    keep = lambda pipe, step, t, tensors: kept.append(tensors["latents"].clone()) or {}  # noqa: E731
    whole = drawn(tiny_pipe, seed=3, callback_on_step_end=keep)
    assert torch.equal(whole, drawn(tiny_pipe, seed=3, resume=(1, kept[0])))


def test_an_unknown_generator_is_told(tiny_pipe):
    with pytest.raises(ValueError, match="generator is 'philox'; it must be 'portable'"):
        tiny_pipe(STORY, generator="philox")
    with pytest.raises(TypeError, match="torch.Generator"):
        tiny_pipe(STORY, generator=5)
    assert StorySettings(generator="portable").generator == "portable"


def test_a_comic_carries_it(tiny_pipe, tmp_path):
    recipe = Recipe("a bear\na bear", seed=2, settings={"generator": "portable", "num_inference_steps": 2})
    first = tell(recipe, tmp_path / "a.png", pipe=tiny_pipe, progress=False)
    assert read_recipe(first.path)[0].settings["generator"] == "portable"
    again = retell(first.path, tmp_path / "b.png", pipe=tiny_pipe, progress=False)
    assert again.same
    other = tell(
        Recipe(recipe.story, 2, settings={"num_inference_steps": 2}),
        tmp_path / "c.png",
        pipe=tiny_pipe,
        progress=False,
    )
    assert np.asarray(other.comic).tobytes() != np.asarray(first.comic).tobytes()


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n")
