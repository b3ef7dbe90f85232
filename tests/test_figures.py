"""Pictures carry words, keep their shape, and letter what they are given."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from storydiff_lite.show import figures

RED = Image.new("RGB", (64, 64), (220, 30, 30))
BLUE = np.full((64, 64, 3), (30, 30, 220), np.uint8)


def decode(html):
    kind, data = re.search(r'src="data:image/(\w+);base64,([^"]+)"', html).groups()
    return kind, Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def near(pixel, colour, tolerance=12):
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("alt", ["", "   ", None])
def test_no_picture_without_words(alt):
    with pytest.raises(ValueError, match="alt="):
        figures.show(RED, alt=alt)


def test_show_displays_html_with_the_words(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    figures.show(RED, alt='a "red" square <b>', caption="1 < 2")
    html = shown[0].data
    assert 'alt="a &quot;red&quot; square &lt;b&gt;"' in html
    assert "<figcaption>1 &lt; 2</figcaption>" in html
    kind, image = decode(html)
    assert kind == "webp" and image.size == (128, 128) and near(image.getpixel((64, 64)), (220, 30, 30))


@pytest.mark.parametrize(
    "blue",
    [BLUE, BLUE / 255.0, torch.tensor(BLUE / 255.0).permute(2, 0, 1), Image.fromarray(BLUE)],
    ids=["uint8", "float", "tensor", "pil"],
)
def test_every_kind_of_picture_is_the_same_picture(blue):
    assert np.array_equal(np.asarray(figures.to_image(blue)), BLUE)


def test_no_picture_is_told():
    with pytest.raises(TypeError, match=r"\[5, 7, 4\]"):
        figures.to_image(np.zeros((5, 7, 4)))


def test_width_keeps_the_shape():
    html = figures.figure_html(Image.new("RGB", (400, 200)), "x", width=100)
    assert 'width="100" height="50"' in html


def test_figure_is_drawn_small_and_closed():
    import matplotlib.pyplot as plt

    with figures.style():
        fig, ax = plt.subplots(figsize=(4, 3))
        ax.plot([0, 1], [0, 1])
        assert ax.lines[0].get_color() == figures.COLOURS[0]
        kind, image = decode(figures.figure_html(fig, "a rising line"))
    assert kind == "png" and image.width <= 440 and not plt.fignum_exists(fig.number)
    colours = {image.getpixel((x, y)) for x in range(image.width) for y in range(image.height)}
    assert any(near(c, (0, 0x72, 0xB2)) for c in colours), "the line is not in the picture"


def test_a_figure_with_pictures_keeps_their_colours():
    import matplotlib.pyplot as plt

    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    for pictures, kind in (([ramp], "png"), ([ramp, ramp], "webp"), ([BLUE], "webp")):
        fig, ax = plt.subplots(figsize=(2, 2))
        for picture in pictures:
            ax.imshow(picture, alpha=0.5)
        assert decode(figures.figure_html(fig, "a map"))[0] == kind


def test_strip_puts_panels_in_order_and_letters_them():
    plain = figures.strip([RED, BLUE], size=100, gap=4)
    assert plain.size == (2 * 104 + 4, 108)
    assert near(plain.getpixel((54, 54)), (220, 30, 30)) and near(plain.getpixel((158, 54)), (30, 30, 220))
    lettered = figures.strip([RED, BLUE], ["short", "a caption that needs several lines, really"], size=100)
    longer = figures.strip([RED, BLUE], ["short", "short"], size=100)
    assert lettered.height > longer.height > plain.height
    below = np.asarray(longer)[-20:, 4:104]
    assert (below < 128).any(), "no letters below the first panel"


def test_captions_wrap_and_lose_no_word():
    face = figures.font(12)
    text = "a bear with an incomprehensibilitiesandmore scarf is reading a book"
    lines = figures.wrap(text, 100, face)
    assert " ".join(lines) == text
    assert all(face.getlength(line) <= 100 for line in lines if " " in line)


def test_grid_places_rows_and_columns():
    page = figures.grid([[RED, BLUE], [BLUE, RED]], size=50, gap=5)
    assert page.size == (2 * 55 + 5, 2 * 55 + 5)
    colours = [
        [near(page.getpixel((30 + 55 * c, 30 + 55 * r)), (220, 30, 30)) for c in (0, 1)] for r in (0, 1)
    ]
    assert colours == [[True, False], [False, True]]
    named = figures.grid([[RED, BLUE]], ["row"], ["one", "two"], size=50)
    assert named.width > page.width and (np.asarray(named)[:, :30] < 128).any()


@pytest.mark.parametrize(
    "call",
    [
        lambda: figures.strip([]),
        lambda: figures.strip([RED], ["one", "two"]),
        lambda: figures.grid([[]]),
        lambda: figures.grid([[RED]], row_labels=["a", "b"]),
        lambda: figures.grid([[RED]], column_labels=["a", "b"]),
    ],
)
def test_wrong_numbers_of_things_are_told(call):
    with pytest.raises(ValueError, match="at least one|need as many"):
        call()


def test_chips_wrap_and_refuse_unknown_kinds():
    one = figures.chips([("ids", [("bear", 4298, "class")])])
    many = figures.chips([("ids", [("bear", 4298, "text")] * 40)])
    assert one.width == many.width == 760 and many.height > one.height
    assert (0, 114, 178) in {c for _, c in one.getcolors(1 << 16)}
    with pytest.raises(ValueError, match="'noun'.*class"):
        figures.chips([("ids", [("bear", 1, "noun")])])


def test_a_table_names_its_columns_and_escapes_what_it_says():
    told = figures.table_html(["way", "error"], [["a < b", 0.5], ["c", ""]], "All of it")
    assert "<caption>All of it</caption>" in told and "a &lt; b" in told
    assert told.count("<tr>") == told.count("</tr>") == 3
    assert told.count('scope="row"') == 2 and told.count('scope="col"') == 2 and "<td>0.5</td>" in told


@pytest.mark.parametrize(
    ("head", "rows", "says"),
    [(["", "error"], [], "needs a name"), (["way", "error"], [["a"]], "1 cells stands under 2 columns: a")],
)
def test_a_table_that_cannot_be_read(head, rows, says):
    with pytest.raises(ValueError, match=says):
        figures.table_html(head, rows)


def test_looks_are_said_in_words_one_picture_after_the_other():
    bear = {
        "species": "bear",
        "fur": "brown",
        "outfit": "red",
        "accessory": "hat",
        "accessory_colour": "blue",
    }
    assert figures.looks([bear, bear | {"fur": "grey"}]) == (
        "bear, brown fur, red outfit, blue hat; bear, grey fur, red outfit, blue hat"
    )
    assert figures.looks(iter([bear]), ("fur", "outfit")) == "brown fur, red outfit"
