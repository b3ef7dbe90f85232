"""Comics: every panel once and in order, captions whole, letters that the font has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from storydiff_lite import comic
from storydiff_lite.comic import LAYOUTS, check_letters, default_font, plan, wrap


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("panels", range(1, 14))
def test_every_panel_once_and_in_order(layout, panels):
    columns, bands = plan(panels, layout)
    assert [i for band in bands for stack in band for i in stack.panels] == list(range(panels))
    for band in bands[:-1]:
        assert sum(stack.span for stack in band) == columns
    assert sum(stack.span for stack in bands[-1]) <= columns


def test_shapes():
    assert plan(5, "strip")[0] == 5 and len(plan(5, "strip")[1]) == 1
    assert [len(band) for band in plan(5, "page")[1]] == [2, 2, 1]
    assert {s.span for n in range(3, 9) for band in plan(n, "mixed")[1] for s in band} == {2, 3, 4}


@pytest.mark.parametrize("panels, layout", [(0, "page"), (3, "spiral")])
def test_no_such_plan(panels, layout):
    with pytest.raises(ValueError, match="at least one panel|strip, page, mixed"):
        plan(panels, layout)


def colours(n):
    return [Image.new("RGB", (32, 24), tuple(np.random.default_rng(i).integers(0, 200, 3))) for i in range(n)]


def shown(page):
    return {c for _, c in page.getcolors(page.width * page.height)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("panels", [1, 2, 3, 4, 5, 7, 10])
def test_every_picture_is_on_the_page(layout, panels):
    images = colours(panels)
    page = comic.comic(images, ["Some words."] * panels, layout, size=96)
    for image in images:
        mine = np.all(np.asarray(page) == image.getpixel((0, 0)), -1)
        rows, columns = np.where(mine.any(1))[0], np.where(mine.any(0))[0]
        high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert abs(wide / high - 32 / 24) < 0.15 and wide >= 90  # its shape, but for its frame


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_are_all_there(layout, monkeypatch):
    said = []
    text = ImageDraw.ImageDraw.text

    def watch(self, xy, text_, fill=None, font=None, *args, **kwargs):
        box = self.textbbox(xy, text_, font=font, anchor="ma")
        assert 0 <= box[0] and box[2] <= self.im.size[0] and box[3] <= self.im.size[1]
        said.append(text_)
        return text(self, xy, text_, fill, font, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", watch)
    captions = ["word " * 60, "W" * 300, "", "short", "a b", "x", "y " * 100]
    comic.comic(colours(7), captions, layout, size=80)
    assert "".join(said).replace(" ", "") == "".join(captions).replace(" ", "")


def test_captions_do_not_touch_each_other_or_a_picture():
    """What is drawn for a caption lies in its own box: below its picture, inside its frame."""
    page = comic.comic(colours(4), ["word " * 30, "", "w", "W" * 99], "page", size=100)
    plain = comic.comic(colours(4), ["", "", "", ""], "page", size=100)
    for image in colours(4):
        mine = tuple(image.getpixel((0, 0)))
        count = [int(np.all(np.asarray(p) == mine, -1).sum()) for p in (page, plain)]
        assert abs(count[0] - count[1]) <= 4 * 100  # frames alone differ


words = st.text(st.characters(codec="latin-1", categories=["L", "N", "P"]), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(st.lists(words, max_size=12), st.integers(24, 300))
def test_wrapping_drops_nothing_and_stays_inside(ws, width):
    face = comic._face(str(default_font()), 14)
    lines = wrap(" ".join(ws), width, face)
    assert "".join(lines).replace(" ", "") == "".join(ws).replace(" ", "")
    assert all(face.getlength(line) <= width or len(line) == 1 for line in lines)


def test_the_same_page_each_time():
    args = colours(5), ["one", "two", "three", "four", "five"], "mixed"
    assert comic.comic(*args).tobytes() == comic.comic(*args).tobytes()


def test_letters_that_a_font_lacks_and_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="DejaVuSans.ttf has no .*'漢'.* panel 2.*--font"):
        check_letters(["fine", "a 漢"])
    with pytest.raises(ValueError, match="no font file"):
        check_letters(["x"], tmp_path / "none.ttf")
    (tmp_path / "bad.ttf").write_text("not a font")
    with pytest.raises(ValueError, match="no font that can be read"):
        check_letters(["x"], tmp_path / "bad.ttf")
    with pytest.raises(ValueError, match="has no "):
        comic.comic(colours(1), ["漢"])


def test_another_font():
    serif = default_font().with_name("DejaVuSerif.ttf")
    a, b = (comic.comic(colours(1), ["A caption"], font=f) for f in (None, serif))
    assert a.tobytes() != b.tobytes()


@pytest.mark.parametrize(
    "images, captions, more, words",
    [
        (colours(2), ["one"], {}, "2 pictures and 1 captions"),
        (colours(1) + [Image.new("RGB", (9, 9))], ["a", "b"], {}, "differ in size"),
        (colours(1), ["a"], {"size": 10}, "at least 64"),
        ([], [], {}, "at least one panel"),
    ],
)
def test_bad_input(images, captions, more, words):
    with pytest.raises(ValueError, match=words):
        comic.comic(images, captions, **more)
