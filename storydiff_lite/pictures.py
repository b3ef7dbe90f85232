"""Pictures as they are given: any mode, orientation, colour profile and shape, made plain RGB."""

import io

import numpy as np
from PIL import Image, ImageCms, ImageOps


def as_rgb(image, name="The picture"):
    """Any picture as RGB with 8 bits, as a viewer shows it.

    Turned as its EXIF orientation says; 16 and 32 bits a pixel scaled to 8 instead of clipped; what is
    transparent on white; colours of a profile (CMYK, a camera's) made sRGB; the middle of a picture that is
    more than 16 times as wide as high, or the other way round: an image encoder reads its middle alone.

    Parameters
    ----------
    image : PIL.Image
        Of any mode.  It is not changed.
    name : str
        What it is called in a message.

    Returns
    -------
    PIL.Image
        A picture that is RGB with 8 bits already has the same pixels.

    Raises
    ------
    ValueError
        A picture without pixels, one whose file is broken, or numbers that are no brightness.
    """
    if 0 in image.size:
        raise ValueError(f"{name} has no pixels: it is {image.width} x {image.height}.")
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow's, of a broken PNG
        raise ValueError(
            f"{name} cannot be read ({error}): its file was closed, cut short or is broken."
        ) from error
    profile = image.info.get("icc_profile")
    try:
        image = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError):  # its EXIF is broken, its pixels are not
        pass
    if image.mode.startswith("I") or image.mode == "F":
        return _middle(_eight_bits(image, name).convert("RGB"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return _middle(_srgb(image, profile))


def _eight_bits(image, name):
    """A grey picture of more than 8 bits as one of 8.

    A mode with 32 bits (I, F) does not say where white is: at 1, 255 or 65535, the first that no pixel passes
    (1 for F alone).
    """
    values = np.asarray(image, np.float64)
    top = values.max()
    if not np.isfinite(values).all() or values.min() < 0 or (top > 65535 and image.mode == "F"):
        raise ValueError(
            f"{name} (mode {image.mode}) holds {values.min():g} to {top:g}: brightness must lie in 0 to 1, "
            "0 to 255 or 0 to 65535. Scale it first."
        )
    if image.mode.startswith("I;16") or top > 255:
        white = 65535 if top <= 65535 else 2**31 - 1
    else:
        white = 1 if image.mode == "F" and top <= 1 else 255
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))


def _srgb(image, profile):
    """A picture of 8 bits in sRGB; ``profile`` says what its colours are, where its file has one."""
    if image.mode == "LAB":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    elif profile and image.mode in ("RGB", "CMYK", "L"):
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" in ImageCms.getProfileDescription(profile):
                profile = None  # nothing to be done, and nothing to be rounded
        except (OSError, ImageCms.PyCMSError):
            profile = None  # broken: as a viewer does, without it
    else:
        profile = None
    if profile is not None:
        try:
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
        except ImageCms.PyCMSError:  # a profile of another kind of colours than the picture's
            pass
    return image.convert("RGB")


def _middle(image):
    """The middle of a very wide or very high picture, three times as long as broad."""
    (width, height), short = image.size, min(image.size)
    if max(width, height) <= 16 * short:
        return image
    w, h = min(width, 3 * short), min(height, 3 * short)
    left, top = (width - w) // 2, (height - h) // 2
    return image.crop((left, top, left + w, top + h))
