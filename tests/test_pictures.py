"""Pictures of every kind are read alike by whatever reads pictures; what is of another range is told."""

import numpy as np
import pytest
import torch
from PIL import Image

from storydiff_lite.judge import pixels
from storydiff_lite.pictures import as_floats, as_rgb, as_shown
from storydiff_lite.show.figures import to_image
from storydiff_lite.video.files import save_video

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (8, 8, 3), np.uint8)
GREY = RNG.integers(0, 256, (8, 8), np.uint8)
HALF = np.where(np.arange(8) < 4, 255, 0).astype(np.uint8)  # left half opaque

#: the same picture, given otherwise
SAME = {
    "list of floats": COLOUR / 255.0,
    "half precision": torch.from_numpy(COLOUR / 255.0).permute(2, 0, 1).bfloat16(),
    "tensor of bytes": torch.from_numpy(COLOUR.copy()).permute(2, 0, 1),
    "16 bits a channel": COLOUR.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("given", SAME.values(), ids=SAME)
def test_every_kind_is_read_the_same(given):
    wanted = Image.fromarray(COLOUR)
    near = 0.005 if "bfloat16" in str(given.dtype) else 1e-6
    assert np.abs(as_floats(given) - COLOUR / 255.0).max() < near
    assert torch.allclose(pixels([given], 8), pixels([wanted], 8), atol=2 * near)  # a judge
    assert np.abs(np.asarray(to_image(given), int) - COLOUR).max() <= 255 * near  # a figure


def test_a_batch_of_bytes_is_read_as_bytes():
    batch = np.stack([COLOUR, COLOUR[::-1]])
    wanted = pixels([Image.fromarray(x) for x in batch], 8)
    assert torch.equal(pixels(batch, 8), wanted)
    assert torch.equal(pixels(torch.from_numpy(batch).permute(0, 3, 1, 2), 8), wanted)
    assert torch.equal(pixels(COLOUR, 8), wanted[:1])  # one picture


@pytest.mark.parametrize(
    "given",
    [
        GREY,
        GREY[..., None],
        torch.from_numpy(GREY.copy())[None],
        Image.fromarray(GREY.astype(np.uint16) * 257),
    ],
    ids=["rows", "one channel", "tensor", "16 bits"],
)
def test_grey_is_grey(given):
    """A grey picture of 16 bits would be white if it were clipped."""
    wanted = np.repeat(GREY[..., None], 3, 2)
    assert np.array_equal(np.asarray(to_image(given)), wanted)
    assert torch.allclose(pixels([given], 8), pixels([Image.fromarray(wanted)], 8), atol=1e-6)


def test_what_is_transparent_is_white_everywhere():
    clear = Image.fromarray(np.dstack([COLOUR, np.broadcast_to(HALF, (8, 8))]), "RGBA")
    wanted = np.where(HALF[None, :, None] == 255, COLOUR, 255)
    assert np.array_equal(np.asarray(as_shown(clear)), wanted)
    assert np.array_equal(np.asarray(to_image(clear)), wanted)
    assert torch.equal(pixels([clear], 8), pixels([Image.fromarray(wanted.astype(np.uint8))], 8))


def test_only_a_reference_picture_is_cut_to_its_middle():
    wide = Image.new("RGB", (400, 10))
    assert as_shown(wide).size == to_image(wide).size == (400, 10)
    assert as_rgb(wide).size == (30, 10)


@pytest.mark.parametrize(
    "given, says",
    [
        (COLOUR.astype(np.float32), "0 to 24.: floats must lie in 0..1.*x / 255"),
        (COLOUR / 127.5 - 1, r"-1..1: \(x \+ 1\) / 2"),
        (np.full((8, 8, 3), np.nan), "nan"),
        (COLOUR.astype(np.int64), "int64: where white is cannot be known"),
    ],
    ids=["0..255", "-1..1", "nan", "int64"],
)
def test_numbers_of_another_range_are_told(given, says):
    """Clipped they would be a white or a black picture, and the judge would read that."""
    for images in ([given], given, given[None], torch.from_numpy(given).permute(2, 0, 1)[None]):
        with pytest.raises(ValueError, match=says):
            pixels(images, 8)


@pytest.mark.parametrize("given", [COLOUR.astype(float), COLOUR.astype(int), np.full((8, 8, 3), np.nan)])
def test_a_figure_is_not_white_or_black_by_mistake(given):
    with pytest.raises(ValueError):
        to_image(given)


def test_a_figure_clips_what_noise_decodes_to():
    assert np.array_equal(np.asarray(to_image(np.full((2, 2, 3), 1.7))), np.full((2, 2, 3), 255))
    assert np.array_equal(np.asarray(to_image(np.full((2, 2, 3), -0.7))), np.zeros((2, 2, 3)))


@pytest.mark.parametrize(
    "given, says",
    [
        (None, "NoneType"),
        ("bear.png", "str"),
        (["bear.png"], "Picture 1 is no picture.*str"),
        ([np.zeros((8, 8, 4))], r"\[8, 8, 4\]"),
        ([torch.zeros(1, 3, 8, 8)], r"\[1, 3, 8, 8\]"),
    ],
)
def test_what_is_no_picture_is_told(given, says):
    with pytest.raises(TypeError, match=says):
        pixels(given, 8)


@pytest.mark.parametrize(
    "given, says",
    [
        ([], "at least one"),
        (torch.zeros(0, 3, 8, 8), "at least one"),
        ([COLOUR, COLOUR[:4, :4]], "one size; these have 4 x 4, 8 x 8"),
    ],
)
def test_pictures_that_a_judge_cannot_read(given, says):
    with pytest.raises(ValueError, match=says):
        pixels(given, 8)


def test_frames_of_a_video_may_be_arrays(tmp_path):
    frames = [COLOUR, COLOUR[::-1] / 255.0, torch.from_numpy(COLOUR.copy()).permute(2, 0, 1) / 255]
    save_video(frames, tmp_path / "arrays.gif", height=8, progress=False)
    save_video([to_image(f) for f in frames], tmp_path / "pictures.gif", height=8, progress=False)
    assert (tmp_path / "arrays.gif").read_bytes() == (tmp_path / "pictures.gif").read_bytes()
