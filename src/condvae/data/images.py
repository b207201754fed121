"""One image file to one uint8 array of the wanted shape, whatever Pillow itself can decode."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

UNREADABLE = (OSError, ValueError)
"""What `open_image` and `fit` raise for damaged, unknown and absurdly large images."""

KINDS = (
    *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI"),
    *("TGA", "TIFF", "WEBP"),
)
"""Formats that are read. What Pillow hands to another program, PostScript for one, is not among them."""
PIXELS = 50_000_000
"""Of an image, at most; it takes up to 16 bytes a pixel until it is resized."""

GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by EXIF's orientation."""
ORIENTATION = 0x0112

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it says of odd files is for nobody


@lru_cache(maxsize=1)
def kinds() -> tuple[str, ...]:
    """Formats that are read, as far as this Pillow has them."""
    Image.init()
    return tuple(kind for kind in KINDS if kind in Image.OPEN)


@lru_cache(maxsize=1)
def suffixes() -> frozenset[str]:
    """File suffixes of images that are read: ".png", ".jpg" ..."""
    readers = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in readers.items() if kind in kinds())


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """No word of Pillow's about odd files; for one thread, that images are decoded in or wait for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def open_image(content: bytes) -> Image.Image:
    """The first frame, upright, in mode L or RGB; transparency is laid over white.

    Raises:
        one of UNREADABLE: Pillow can't make an image of it, or it is no image of a format in KINDS.
    """
    try:
        return _opened(content)
    except UNREADABLE:
        raise
    except Exception as error:  # whatever Pillow comes up with when it is given a damaged file
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _opened(content: bytes) -> Image.Image:
    image: Image.Image = Image.open(BytesIO(content), formats=kinds())
    _check_size(image)
    image.load()
    _check_size(image)  # again: of an icon, it may be another now
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.array(image, dtype=np.float32), copy=False)
        values *= 255 / 65535 if values.max(initial=0) > 255 else 1.0
        return Image.fromarray(values.clip(0, 255, out=values).round(out=values).astype(np.uint8))
    if image.has_transparency_data:
        over = image if image.mode == "RGBA" else image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
        return flat.convert("L" if image.mode == "LA" else "RGB")
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if not 0 < width * height <= PIXELS:
        raise ValueError(f"{width} x {height} pixels; there must be 1 to {PIXELS:,}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF that is damaged says nothing, and the image may be whole
        return image
    return image if turn is None else image.transpose(turn)


def fit(image: Image.Image, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """The image as `[C, H, W]`, cropped to the shape's proportions at the centre, then resized."""
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def fit_all(images: NDArray[np.uint8], image_size: int, channels: int) -> NDArray[np.uint8]:
    """Images `[N, C, H, W]` at another size or number of channels; the same array where they fit.

    Arguments:
        image_size: wanted side, or 0 to keep the shape.
        channels: wanted channels, or 0 to keep them.
    """
    _, now, height, width = images.shape
    size = (image_size, image_size) if image_size else (height, width)
    channels = channels or now
    if size == (height, width) and channels == now:
        return images
    changed = np.empty((len(images), channels, *size), np.uint8)
    for index, image in enumerate(images):
        changed[index] = fit(
            Image.fromarray(image[0] if now == 1 else image.transpose(1, 2, 0)), size, channels
        )
    return changed
