"""The slider carries all it shows, and says what is missing. Its behaviour in a browser: tests/site."""

import base64
import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from storydiff_lite.attention_maps import AttentionRecorder
from storydiff_lite.show.widgets import (
    AttentionExplorer,
    ConsistencySlider,
    MotionScrubber,
    TokenExplorer,
    attention_view,
)

PICTURES = {"seed 0": [Image.new("RGB", (200, 130), (k * 80, 0, 0)) for k in range(3)]}
ALTS = {"seed 0": ["black", "dark red", "red"]}
LABELS = ["0", "0.5", "1"]


def test_state_is_complete():
    slider = ConsistencySlider(PICTURES, LABELS, ALTS, {"seed 0": ["a", "b", "c"]})
    state = slider.get_state()
    assert state["labels"] == LABELS and state["alts"] == [ALTS["seed 0"]] and state["index"] == 0
    assert state["width"] == 200 and state["notes"] == [["a", "b", "c"]]
    for k, url in enumerate(state["urls"][0]):
        head, data = url.split(",")
        image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        assert head == "data:image/webp;base64" and abs(image.getpixel((9, 9))[0] - k * 80) < 12


def test_script_and_style_travel_with_it():
    state = ConsistencySlider(PICTURES, LABELS, ALTS).get_state()
    assert 'type: "range"' in state["_esm"] and "export default" in state["_esm"]
    assert ".consistency-slider" in state["_css"]
    assert "http" not in state["_esm"] + state["_css"], "an interactive figure must not need a network"


def test_series_are_kept_apart():
    both = PICTURES | {"seed 1": PICTURES["seed 0"][::-1]}
    alts = ALTS | {"seed 1": ALTS["seed 0"][::-1]}
    state = ConsistencySlider(both, LABELS, alts).get_state()
    assert state["series"] == ["seed 0", "seed 1"] and state["urls"][0] == state["urls"][1][::-1]
    assert state["alts"][1] == ["red", "dark red", "black"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": LABELS[:2]}, "3 pictures for 2 labels"),
        ({"alts": {"seed 0": ["a", "b"]}}, "2 alternative texts for 3 labels"),
        ({"alts": {"seed 0": ["a", "", "c"]}}, "what it shows"),
        ({"notes": {"other": ["a", "b", "c"]}}, "0 notes"),
        ({"pictures": {}}, "at least one series"),
    ],
)
def test_what_is_missing_is_told(change, words):
    given = {"pictures": PICTURES, "labels": LABELS, "alts": ALTS} | change
    with pytest.raises(ValueError, match=words):
        ConsistencySlider(**given)


# ------------------------------------------------------------------------------------------ token explorer
def explain(prompt, count):
    if "img" not in prompt:
        return {"error": "no trigger"}
    return {"rows": [("ids", [(w, i, "text") for i, w in enumerate(prompt.split() * count)])]}


def test_explorer_carries_every_choice_and_answers_a_kernel():
    explorer = TokenExplorer(["a bear img", "a bear"], explain, counts=(1, 2))
    state = explorer.get_state()
    assert state["table"][0]["2"]["rows"][0][1][3] == ("a", 3, "text")
    assert state["table"][1]["1"] == {"error": "no trigger"} and state["answer"] == {}
    explorer.query = {"hello": 1}
    assert explorer.answer == {"alive": True}
    explorer.query = {"text": "a cat img", "count": 1}
    assert explorer.answer["rows"] == explain("a cat img", 1)["rows"]
    explorer.query = {"text": "a cat", "count": 1}
    assert explorer.answer["error"] == "no trigger"
    assert "http" not in state["_esm"] + state["_css"]


def test_explorer_shows_an_error_of_the_explanation():
    def breaks(prompt, count):
        if prompt == "a cow img":
            raise KeyError("cow")
        return explain(prompt, count)

    explorer = TokenExplorer(["a bear img"], breaks, counts=(1,))
    explorer.query = {"text": "a cow img", "count": 1}
    assert explorer.answer["error"] == "KeyError: 'cow'"
    assert explorer.answer["alive"] and explorer.answer["rows"] == []


def test_explorer_without_prompts_is_told():
    with pytest.raises(ValueError, match="at least one prompt"):
        TokenExplorer([], explain)


# -------------------------------------------------------------------------------------- attention explorer
STORY = ["A bear reads a book", "a bear on the moon"]
TOP, DEEP = "up_blocks.1.attentions.0", "down_blocks.1.attentions.0"


def watch(pipe, rate=0.5, story=STORY, **settings):
    recorder = AttentionRecorder([0, 1], **({"layers": [TOP, DEEP], "grid": 4} | settings))
    return pipe(story, consistency=rate, num_inference_steps=2, recorder=recorder), recorder


@pytest.fixture
def watched(tiny_pipe):
    return {"0": watch(tiny_pipe, 0), "0.5": watch(tiny_pipe)}


def unpacked(text, kind, *shape):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind).reshape(shape)


def rows_of(codes, tops, levels):
    """As the script unpacks them."""
    return torch.tensor(tops[..., None] / 65535 * (codes / levels) ** 2)


def test_maps_travel_with_the_explorer(watched):
    view = AttentionExplorer(watched, layers=[TOP, DEEP]).get_state()["view"]
    assert view["rates"] == ["0", "0.5"] and view["steps"] == ["0", "1"] and view["grid"] == [4, 4]
    assert [x["heads"] for x in view["layers"]] == [2, 4]
    assert [x["tokens"] for x in view["layers"]] == [[8, 8], [4, 4]]
    for r, (_, recorder) in enumerate(watched.values()):
        for k, (name, heads) in enumerate(((TOP, 2), (DEEP, 4))):
            packed = view["maps"][r][1][k]
            tops = unpacked(packed["tops"], "<u2", heads, 2, 16)
            got = rows_of(unpacked(packed["codes"], "u1", heads, 2, 16, 32), tops, view["levels"])
            true = torch.stack([recorder.map(1, name, h) for h in range(heads)]).flatten(3)
            # shades are even in the square root, so half a shade bounds its error
            bound = true.amax(-1, keepdim=True).sqrt() / (2 * view["levels"]) + 0.01
            assert ((got.sqrt() - true.sqrt()).abs() <= bound).all()
            mass = unpacked(packed["mass"], "u1", heads, 2, 16, 2) / 255
            true = torch.stack([recorder.mass(1, name, h) for h in range(heads)])
            assert np.abs(mass - true.numpy()).max() <= 0.5 / 255 + 1e-6
            n = len(recorder.sampled(1, name)[0])
            marks = np.unpackbits(unpacked(packed["marks"], "u1", -1))[: 2 * n].reshape(2, n)
            assert (marks == recorder.sampled(1, name).numpy()).all()


def test_the_strongest_patch_elsewhere_is_told_exactly(watched):
    """Peaks are of the other panels, and of the mean of the heads too, from before packing."""
    view, recorder = attention_view(watched, layers=[TOP]), watched["0.5"][1]
    peaks = unpacked(view["maps"][1][0][0]["peaks"], "<u2", 3, 2, 16, 2)
    for h, head in enumerate((0, 1, "mean")):
        for panel in (0, 1):
            for cell in (0, 9):
                row = recorder.map(0, TOP, head)[panel, cell].clone()
                row[panel] = 0
                where, share = peaks[h, panel, cell]
                assert where == row.flatten().argmax() and abs(share / 65535 - row.max()) < 2e-5


def test_words_of_the_explorer(watched):
    view, recorder = attention_view(watched, layers=[TOP]), watched["0.5"][1]
    words = view["words"]
    assert sorted(w.lower() for w in words) == sorted(
        {*" ".join(STORY).lower().split(), "(begin)", "(end)", "(padding)"}
    ), "every word once, whatever its case and however often it comes"
    has = dict(zip(words, view["has"], strict=True))
    assert has["moon"] == [False, True] and has["bear"] == has["(padding)"] == [True, True]
    packed = view["maps"][1][1][0]
    tops = unpacked(packed["wordTops"], "<u2", 2, len(words))
    got = rows_of(unpacked(packed["wordCodes"], "u1", 2, len(words), 32), tops, view["wordLevels"])
    for word in ("bear", "a", "moon"):  # panel 2
        true = recorder.word_map(1, word, 1, TOP, 0).flatten()
        mine = got[0, [w.lower() for w in words].index(word), 16:]
        assert ((mine - true).abs() <= true.max() / 10 + 1e-4).all()
    every = got[0, :, :16].sum(0) - got[0, [i for i, p in enumerate(view["has"]) if not p[0]], :16].sum(0)
    assert (every - 1).abs().max() < 0.2, "words, begin, end and padding make up all that a patch reads"


def test_explorer_answers_a_kernel(watched, tiny_pipe):
    asked = []

    def tell(text, seed):
        asked.append((text, seed))
        return {"1": watch(tiny_pipe, 1.0, text)}

    explorer = AttentionExplorer(watched, tell, start={"cell": 3}, layers=[TOP])
    explorer.query = {"hello": 1}
    assert explorer.answer == {"alive": True, "can_tell": True}
    explorer.query = {"text": "a cat sits\na cat sleeps\na cat runs", "seed": 4}
    assert asked == [("a cat sits\na cat sleeps\na cat runs", 4)]
    view = explorer.answer["view"]
    assert len(view["prompts"]) == 3 and view["rates"] == ["1"] and view["start"]["cell"] == 3
    assert len(view["layers"]) == 1
    explorer.query = {"text": "", "seed": 5}
    assert "empty" in explorer.answer["error"] and explorer.answer["alive"]
    silent = AttentionExplorer(watched)
    silent.query = {"hello": 1}
    assert silent.answer["can_tell"] is False
    state = silent.get_state()
    assert state["answer"] == {"alive": True, "can_tell": False}
    assert "http" not in state["_esm"] + state["_css"]


def test_what_an_explorer_cannot_show_is_told(watched, tiny_pipe):
    with pytest.raises(ValueError, match="at least one run"):
        AttentionExplorer({})
    for settings in ({"heads": "mean"}, {"cross": False}, {"grid": None}):
        with pytest.raises(ValueError, match="must be recorded"):
            AttentionExplorer({"1": watch(tiny_pipe, 1.0, **settings)})
    with pytest.raises(ValueError, match="must be recorded of one story"):
        AttentionExplorer(watched | {"1": watch(tiny_pipe, 1.0, STORY[::-1])})
    with pytest.raises(KeyError, match="names 0 recorded layers"):
        AttentionExplorer(watched, layers=["mid_block"])


# ---------------------------------------------------------------------------------------- motion scrubber
def motions(**change):
    """Two clips of three frames, each with five pictures to choose from."""
    names = MotionScrubber.SERIES
    clip = {
        "pictures": [Image.new("RGB", (64, 64), (k * 60, 0, 0)) for k in range(5)],
        "shown": {"truth": [0, 2, 4], "predicted": [0, 3, 4], "line": [0, 4, 4]},
        "paths": {s: [(0, 0), (k, 1), (2, 0)] for k, s in enumerate(names)},
        "alts": {s: ["begins", "goes on", "ends"] for s in names},
        "notes": ["", "half-way", ""],
        "plane": "three paths",
    }
    return {"walk": clip | change, "jump": clip}


LABELLED = dict(zip(MotionScrubber.SERIES, ("what happens", "predicted", "straight line"), strict=True))


def test_scrubber_carries_all_it_shows():
    state = MotionScrubber(motions(), LABELLED, "a plane", side=40, index=1).get_state()
    one = state["view"]["clips"][0]
    assert [c["name"] for c in state["view"]["clips"]] == ["walk", "jump"] and state["index"] == 1
    assert one["shown"]["line"] == [0, 4, 4] and one["paths"]["line"][1] == [2.0, 1.0]
    head, data = one["sprite"].split(",")
    sheet = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    assert head == "data:image/webp;base64" and sheet.size == (200, 40)
    for k in range(5):  # the pictures lie side by side, in their order
        assert abs(sheet.getpixel((40 * k + 20, 20))[0] - k * 60) < 12
    assert [s["label"] for s in state["view"]["series"]] == list(LABELLED.values())
    assert 'type: "range"' in state["_esm"] and ".motion-scrubber" in state["_css"]
    assert "http:" not in state["_esm"].replace("http://www.w3.org/2000/svg", "") + state["_css"]


@pytest.mark.parametrize(
    ("clips", "index", "words"),
    [
        ({}, 0, "at least one clip"),
        (motions(notes=["", ""]), 0, "all as many frames"),
        (motions(shown={s: [0, 5, 4] for s in LABELLED}), 0, "they are 0 to 4"),
        (motions(alts={s: ["begins", " ", "ends"] for s in LABELLED}), 0, "empty text"),
        (motions(), 3, "frames 0 to 2"),
    ],
)
def test_what_is_missing_of_a_motion_is_told(clips, index, words):
    with pytest.raises(ValueError, match=words):
        MotionScrubber(clips, LABELLED, "a plane", index=index)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("a story is empty"), "a story is empty"),
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
        (KeyError("up_blocks.9"), "KeyError: 'up_blocks.9'"),
        (AssertionError(), "AssertionError"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "Interrupted"),
    ],
)
def test_whatever_goes_wrong_is_answered(watched, error, shown):
    """The button is disabled until an answer comes: there must be one, and it must say something."""

    def tell(text, seed):
        raise error

    explorer = AttentionExplorer(watched, tell, layers=[TOP])
    explorer.query = {"text": "a cat", "seed": 1, "count": 1}
    first = explorer.answer
    assert first["alive"] and first["can_tell"] and first["error"].startswith(shown) and "view" not in first
    explorer.query = {"text": "a cat", "seed": 1, "count": 2}
    assert explorer.answer != first, "the same error again must reach the page as a new answer"
