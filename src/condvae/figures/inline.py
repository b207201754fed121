"""Pictures inside a page: as data URLs, so that a page is one file and fetches nothing."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def data_url(content: bytes, kind: str = "png") -> str:
    """An image file as a URL: "png", or an animation, "webp" or "gif"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png(picture: Image.Image | UInt8[np.ndarray, "c h w"]) -> bytes:
    """A picture, or an image `[C, H, W]` of the model's size, as the content of a PNG file."""
    if isinstance(picture, np.ndarray):
        pixels = picture[0] if picture.shape[0] == 1 else picture.transpose(1, 2, 0)
        picture = Image.fromarray(np.ascontiguousarray(pixels))
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
