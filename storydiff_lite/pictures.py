"""Pictures as they are given: any mode, orientation, colour profile, shape and array, made plain RGB.

What is no picture is told, and so is what has another range than it should: clipped, it would be white or
black, and nobody would know.
"""

import io

import numpy as np
from PIL import Image, ImageCms, ImageOps


def as_rgb(image, name="The picture"):
    """A reference picture: `as_shown`, and the middle of one that is more than 16 times as wide as high, or
    the other way round: an image encoder reads its middle alone.

    Parameters and errors as of `as_shown`.
    """
    return _middle(as_shown(image, name))


def as_shown(image, name="The picture"):
    """Any picture as RGB with 8 bits, as a viewer shows it.

    Turned as its EXIF orientation says; 16 and 32 bits a pixel scaled to 8 instead of clipped; what is
    transparent on white; colours of a profile (CMYK, a camera's) made sRGB.

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
        return _eight_bits(image, name).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return _srgb(image, profile)


def as_floats(picture, name="The picture", beyond=0.5):
    """Any picture as float32 [H, W, 3], brightness in about 0..1.

    Parameters
    ----------
    picture : PIL.Image, array or Tensor
        An array [H, W, 3], [H, W, 1] or [H, W], or a tensor [3, H, W] or [1, H, W]: uint8 in 0..255, uint16
        in 0..65535, bool, or float in 0..1.
    name : str
        What it is called in a message.
    beyond : float
        How far floats may lie outside of 0..1, as an autoencoder's do a little.

    Returns
    -------
    float32 array [H, W, 3]
        Floats as they are, not clipped.

    Raises
    ------
    TypeError
        What is no picture; the message names its shape.
    ValueError
        Numbers of another range, such as floats in 0..255, or none (nan).
    """
    if isinstance(picture, Image.Image):
        return np.asarray(as_shown(picture, name), np.float32) / 255
    x = picture
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.float() if x.is_floating_point() else x).numpy()
        if x.ndim == 3 and x.shape[0] in (1, 3):
            x = x.transpose(1, 2, 0)  # [3, H, W] -> [H, W, 3]
    x = np.asarray(x)
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[2] not in (1, 3) or x.dtype.kind not in "buif":
        raise TypeError(
            f"{name} is no picture: expected a PIL image, an array [H, W, 3] or a tensor [3, H, W], got "
            f"{type(picture).__name__} of shape {list(x.shape)} and type {x.dtype}."
        )
    check_range(x.dtype.name, np.min(x, initial=0), np.max(x, initial=0), name, beyond)
    white = {"uint8": 255, "uint16": 65535}.get(x.dtype.name, 1)
    return np.broadcast_to(x.astype(np.float32) / white, (*x.shape[:2], 3))


def check_range(kind, low, high, name="The picture", beyond=0.5):
    """Raise ValueError where numbers of this type (such as ``"uint8"`` or ``"float32"``) from ``low`` to
    ``high`` are not what a picture has; ``name`` and ``beyond`` as of `as_floats`.
    """
    if kind in ("uint8", "uint16", "bool"):
        return
    if not kind.startswith(("float", "bfloat")):
        raise ValueError(
            f"{name} holds numbers of type {kind}: where white is cannot be known. Give uint8 in 0..255 "
            "(x.astype('uint8')), uint16 in 0..65535, or floats in 0..1."
        )
    if not (-beyond <= low and high <= 1 + beyond):  # also where one is nan
        raise ValueError(
            f"{name} holds {low:g} to {high:g}: floats must lie in 0..1. Of 0..255: x / 255; of -1..1: "
            "(x + 1) / 2."
        )


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
