"""One image file to one uint8 array of the wanted shape, whatever Pillow can read."""

from __future__ import annotations

import warnings
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

UNREADABLE = (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)
"""What Pillow raises for damaged, unknown and absurdly large images."""

GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")


@lru_cache(maxsize=1)
def suffixes() -> frozenset[str]:
    """File suffixes that Pillow has a reader for: ".png", ".jpg" ..."""
    readers = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in readers.items() if kind in Image.OPEN)


def open_image(content: bytes) -> Image.Image:
    """The first frame, upright, in mode L or RGB; transparency is laid over white.

    Raises:
        one of UNREADABLE: Pillow can't make an image of it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        try:
            image: Image.Image = Image.open(BytesIO(content))
            image.load()
        except Image.DecompressionBombWarning as bomb:
            raise Image.DecompressionBombError(str(bomb)) from bomb
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":
            values = np.asarray(image, dtype=np.float64)
            scale = 255 / 65535 if values.max(initial=0) > 255 else 1.0
            return Image.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8))
        if image.has_transparency_data:
            over = image.convert("RGBA")
            white = Image.new("RGBA", over.size, "white")
            flat = Image.alpha_composite(white, over)
            return flat.convert("L" if image.mode == "LA" else "RGB")
        return image.convert("L" if image.mode in GREY_MODES else "RGB")


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
