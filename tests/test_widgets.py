"""The slider carries all it shows, and says what is missing. Its behaviour in a browser: tests/site."""

import base64
import io

import pytest
from PIL import Image

from storydiff_lite.widgets import ConsistencySlider, TokenExplorer

PICTURES = {"seed 0": [Image.new("RGB", (200, 130), (k * 80, 0, 0)) for k in range(3)]}
ALTS = {"seed 0": ["black", "dark red", "red"]}
LABELS = ["0", "0.5", "1"]


def test_state_is_complete():
    slider = ConsistencySlider(PICTURES, LABELS, ALTS, {"seed 0": ["a", "b", "c"]}, index=1)
    state = slider.get_state()
    assert state["labels"] == LABELS and state["alts"] == [ALTS["seed 0"]] and state["index"] == 1
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
        ({"index": 3}, "positions 0 to 2"),
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


def test_explorer_without_prompts_is_told():
    with pytest.raises(ValueError, match="at least one prompt"):
        TokenExplorer([], explain)
