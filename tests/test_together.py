"""Settings together: a story drawn with several of them is the same drawn again, recorded, gone on with, and
in a batch with another story; what does not go together is refused before anything is drawn.
"""

import warnings

import pytest
import torch
from PIL import Image

from storydiff_lite.attention_maps import AttentionRecorder
from storydiff_lite.schedule import SamplingSchedule

RED, GREEN, BLUE = (Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue"))
CAST = "[Bo] a bear\n[Mia] a cat\n\n[Bo] reads\n[Mia] walks\n[Bo] and [Mia] wave\n[NC] the sea"
PERSON = CAST.replace("a bear", "a man img")
BOTH = PERSON.replace("a cat", "a woman img")
CARRIED = "a grey bear in a red hat reads\nthe bear sleeps\nhe runs\na bird sings"
PLAIN = ["a bear reads in the forest", "a bear sleeps", "a bear runs in the city", "[NC] the empty beach"]

NEGATIVES = ["fog", None, "rain", "snow"]
#: what a recorder and going on do not go with, and the words that say so
NO_WORDS, NO_MASK = "no one place. Record with cross=False", "resume does not go with picks"
#: story, pictures of people, settings, and what is refused: relation -> words
CASES = {
    "subject, regions, passes, negatives": (
        (CAST, None),
        {"picks": "subject", "apart": "regions", "window": 2, "negative_prompt": NEGATIVES},
        {"recorder": NO_WORDS, "resume": NO_MASK},
    ),
    "isolated, bank, portable": (
        (CAST, None),
        {"apart": "isolated", "window": 2, "long_story": "bank", "generator": "portable"},
        {"recorder": NO_WORDS},
    ),
    "subject, carried, windows in the layers": (
        (CARRIED, None),
        {"picks": "subject", "window": 2, "long_story": "attention"},
        {"resume": NO_MASK},
    ),
    "carried, bank, all layers, released, noise in each step": (
        (CARRIED, None),
        {
            "window": 2,
            "long_story": "bank",
            "layers": "all",
            "schedule": SamplingSchedule.released(),
            "eta": 1.0,
        },
        {},
    ),
    "subject, pictures, passes, wide": (
        (["a man img reads", "a man img sleeps", "the empty city", "a man img runs"], [RED, GREEN]),
        {"picks": "subject", "window": 2, "start_merge_step": 0, "width": 48},
        {"resume": NO_MASK},
    ),
    "isolated, windows in the layers, released": (
        (CAST, None),
        {
            "apart": "isolated",
            "window": 2,
            "long_story": "attention",
            "layers": "all",
            "schedule": SamplingSchedule.released(),
        },
        {"recorder": NO_WORDS},
    ),
    "regions, pictures of one, bank, portable, negatives": (
        (PERSON, {"Bo": [RED, GREEN]}),
        {
            "apart": "regions",
            "window": 2,
            "long_story": "bank",
            "generator": "portable",
            "negative_prompt": NEGATIVES,
        },
        {},
    ),
    "isolated, subject, pictures of one": (
        (PERSON, {"Bo": [RED, GREEN]}),
        {"apart": "isolated", "picks": "subject", "start_merge_step": 1},
        {"resume": NO_MASK},
    ),
    "regions, pictures of both, one noise, no guidance": (
        (BOTH, {"Bo": [RED], "Mia": [BLUE]}),
        {"apart": "regions", "same_noise": True, "guidance_scale": 1.0},
        {},
    ),
    "pictures of both, passes, identity from the first step": (
        (BOTH, {"Bo": [RED], "Mia": [BLUE]}),
        {"window": 2, "start_merge_step": -1},
        {},
    ),
    "subject, portable, isolated, passes, negatives": (
        (CAST, None),
        {
            "picks": "subject",
            "generator": "portable",
            "apart": "isolated",
            "window": 2,
            "negative_prompt": NEGATIVES,
        },
        {"recorder": NO_WORDS, "resume": NO_MASK},
    ),
    "subject, pictures of both": (
        (BOTH, {"Bo": [RED], "Mia": [BLUE]}),
        {"picks": "subject", "start_merge_step": 1},
        {"resume": NO_MASK},
    ),
    "subject, regions, pictures of both": (
        (BOTH, {"Bo": [RED], "Mia": [BLUE]}),
        {"picks": "subject", "apart": "regions"},
        {"resume": NO_MASK},
    ),
    "portable, bank, negatives, nobody": (
        (PLAIN, None),
        {"generator": "portable", "window": 2, "long_story": "bank", "negative_prompt": NEGATIVES},
        {},
    ),
}


@pytest.fixture
def pipe(known_pipe):
    """It counts how often the U-Net is asked."""
    known_pipe.asked = 0

    def count(*_):
        known_pipe.asked += 1

    known_pipe.unet.register_forward_hook(count)
    return known_pipe


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_together(pipe, case):
    (story, images), settings, refused = case
    call = {"num_inference_steps": 3, "output_type": "latent"} | settings
    latents, before = {}, dict(pipe.unet.attn_processors)

    def keep(pipe, step, t, tensors):
        latents[step] = tensors["latents"].clone()
        return {}

    def told(**more):
        return pipe(story, images, **call, **more).images

    def in_a_batch():
        return pipe.tell_many([PLAIN, story], [5, 0], id_images=[None, images], **call)[1].images

    grid = AttentionRecorder([0, 2], "up", grid=4, cross=images is None)  # 4 x 4: of the smallest layer
    relations = {
        "again": told,
        "recorder": lambda: told(recorder=grid),
        "resume": lambda: told(resume=(2, latents[1])),
        "batch": in_a_batch,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pictures of several in a panel, and of shares of the steps
        first = told(callback_on_step_end=keep)
        assert first.isfinite().all()
        for name, relation in relations.items():
            pipe.asked = 0
            if name in refused:
                with pytest.raises(ValueError, match=refused[name]):
                    relation()
                assert pipe.asked == 0, name
            else:
                assert torch.allclose(relation(), first, atol=1e-4), name
            assert dict(pipe.unet.attn_processors) == before


def test_what_never_goes_together_is_refused_before_anything_is_drawn(pipe):
    turns = "[Bo] a bear\n[Mia] a cat\n\n[Bo] reads\n[Mia] walks\n[Mia] waves"
    for story, settings, words in (
        (turns, {"window": 1, "long_story": "bank"}, "Panel 2 shows somebody who is in none of the first 1"),
        (CAST, {"window": 1, "long_story": "bank", "apart": "regions"}, "Panel 2 shows somebody"),
        (PLAIN, {"layers": []}, "panels would read each other nowhere"),
    ):
        with pytest.raises(ValueError, match=words):
            pipe(story, num_inference_steps=3, **settings)
        with pytest.raises(ValueError, match=words):
            pipe.tell_many([story, story], num_inference_steps=3, **settings)
    assert pipe.asked == 0
