"""Comics: every panel once and in order, captions whole, letters that the font has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, features

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


# ---------------------------------------------------------------------------- scripts that need a layout

raqm = pytest.mark.skipif(not features.check("raqm"), reason="Pillow has no Raqm here")


def lettering(caption, width=300):
    """Ink in each column of a caption's box."""
    page = np.asarray(comic.comic([Image.new("RGB", (width, 60))], [caption], size=width).convert("L"))
    gap = (page.shape[1] - width) // 2
    box = page[gap + 60 + 8 : -gap - 8, gap + 8 : -gap - 8] < 160
    return box.sum(0)


def runs(columns):
    """How many pieces the ink is in, from left to right."""
    return int(np.count_nonzero(np.diff(np.concatenate([[0], columns > 0])) > 0))


@raqm
def test_hebrew_goes_from_right_to_left():
    ink = lettering("\u05e9\u05e9\u05e9\u05e9 \u05d9\u05d9\u05d9\u05d9")  # wide letters, then narrow ones
    left, right = ink[: len(ink) // 2], ink[len(ink) // 2 :]
    assert right.sum() > 1.5 * left.sum()
    assert (lettering("\u05e9\u05dc\u05d5\u05dd") > 0).any()


@raqm
@pytest.mark.parametrize(
    "typed, seen",
    [
        ("Bruno said \u05e9\u05dc\u05d5\u05dd.", "Bruno said \u202d\u05dd\u05d5\u05dc\u05e9\u202c."),
        ("\u05e9\u05dc\u05d5\u05dd Bruno 12!", "\u202d!Bruno 12 \u05dd\u05d5\u05dc\u05e9\u202c"),
    ],
)
def test_mixed_directions(typed, seen):
    assert (lettering(typed) == lettering(seen)).all()  # \u202d: as it stands here, from left to right


@raqm
def test_arabic_letters_are_joined():
    word = "\u0645\u062d\u0645\u062f"
    assert runs(lettering(word)) == 1 < runs(lettering("\u200c".join(word)))


@raqm
def test_long_lines_of_other_scripts_wrap_and_keep_their_marks():
    word = "b\u0332e\u0332" * 40
    face = comic._face(str(default_font()), 14, True)
    lines = wrap(word, 60, face, "ltr")
    assert "".join(lines) == word and len(lines) > 3
    assert all(line[0] in "be" and face.getlength(line) <= 60 for line in lines)


def test_accents_are_composed_and_marks_that_nobody_sees_are_dropped():
    assert (lettering("Zoe\u0308 a\u00adb\ufeff") == lettering("Zo\u00eb ab")).all()


@pytest.mark.parametrize(
    "text",
    [
        "Zo\u00eb l\u00e4uft",
        "\u041c\u0438\u0448\u043a\u0430",
        "\u0393\u03ac",
        "\u6f22\ud55c",
        "\u2600 \u201ca\u201d \u2026",
        "",
    ],
)
def test_scripts_that_need_no_layout(text):
    assert comic.needs_shaping(text) is None


OTHERS = {
    "Hebrew": "a \u05e9",
    "Arabic": "\u0645",
    "Arabic digits": "\u0661",
    "Syriac": "\u0710",
    "N'Ko": "\u07ca",
    "Devanagari": "\u0915\u093f",
    "Tamil": "\u0b95\u0bbf",
    "Thai": "\u0e01\u0e34",
    "Khmer": "\u1780\u17d2\u1780",
    "Burmese": "\u1000\u103b",
    "Tibetan": "\u0f40\u0fb1",
    "Mongolian": "\u1820",
    "a mark": "b\u0332",
    "a joiner": "a\u200db",
    "a direction": "\u202eab",
}


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_scripts_that_need_a_layout_are_refused_without_one(text, monkeypatch):
    monkeypatch.setattr(comic.features, "check", lambda what: what != "raqm")
    monkeypatch.setattr(comic, "_letters", lambda path: range(0x110000))
    with pytest.raises(ValueError, match="caption of panel 2 has .*Raqm.*another script"):
        check_letters(["fine", text])
    assert check_letters(["fine", "Zoe\u0308"])


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
