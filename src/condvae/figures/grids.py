"""Pictures of images: crisp pixels at a readable size, dark text on light ground, titles that fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
"""Images `[N, C, H, W]`."""

PAPER, INK, FAINT, ACCENT = "#ffffff", "#1c1f24", "#666c76", "#c8102e"
MARGIN, GAP, PAIR_GAP, LINE = 24, 8, 22, 24
TARGET = 96
"""Side, in pixels of the picture, that images are drawn at, as nearly as whole pixels allow."""


@lru_cache(maxsize=16)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries, so that every machine draws the same letters."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def fitted(text: str, width: int, size: int = 14, smallest: int = 10) -> tuple[str, int]:
    """The text and a font size at which it is no wider than `width`; shortened, if it must be."""
    while size > smallest and font(size).getlength(text) > width:
        size -= 1
    if font(size).getlength(text) > width:
        while text and font(size).getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    return text, size


def side(images: Pixels) -> int:
    """Height at which images are drawn: a whole multiple of their own, near TARGET."""
    return images.shape[2] * max(1, round(TARGET / images.shape[2]))


def as_picture(image: Pixels, height: int) -> Image.Image:
    """One image `[C, H, W]`, enlarged without blurring."""
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    drawn = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    width = round(height * image.shape[2] / image.shape[1])
    return drawn.resize((width, height), Image.Resampling.NEAREST)


class Sheet:
    """White paper with a heading, on which images and short texts are placed."""

    def __init__(self, width: int, height: int, heading: str, caption: str) -> None:
        heading_font, caption_font = font(20, bold=True), font(13)
        widest = max(heading_font.getlength(heading), caption_font.getlength(caption))
        self.top = MARGIN + 58
        size = (max(width, round(widest)) + 2 * MARGIN, self.top + height + MARGIN)
        self.image = Image.new("RGB", size, PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.draw.text((MARGIN, MARGIN - 4), heading, INK, heading_font)
        self.draw.text((MARGIN, MARGIN + 24), caption, FAINT, caption_font)

    def put(self, image: Pixels, x: int, y: int, height: int, framed: bool = False) -> None:
        """Draw an image at a place, relative to the heading's lower left corner."""
        x, y = x + MARGIN, y + self.top
        drawn = as_picture(image, height)
        self.image.paste(drawn, (x, y))
        edge = (x - 1, y - 1, x + drawn.width, y + drawn.height)
        self.draw.rectangle(edge, outline="#c9cdd3")
        if framed:
            for grow in range(1, 4):
                left, top, right, bottom = edge
                box = (left - grow, top - grow, right + grow, bottom + grow)
                self.draw.rectangle(box, outline=ACCENT)

    def text(
        self, text: str, x: int, y: int, width: int, align: str = "centre", colour: str = INK
    ) -> None:
        """Draw a short text within a width."""
        text, size = fitted(text, width)
        free = width - font(size).getlength(text)
        shift = {"left": 0.0, "centre": free / 2, "right": free}[align]
        place = (x + MARGIN + shift, y + self.top + LINE / 2)
        self.draw.text(place, text, colour, font(size), anchor="lm")


def pairs(
    inputs: Pixels,
    outputs: Pixels,
    titles: Sequence[str],
    heading: str,
    caption: str,
    pairs_a_row: int = 5,
) -> Image.Image:
    """Input beside output, a title above each pair."""
    height = side(inputs)
    width = round(height * inputs.shape[3] / inputs.shape[2])
    step = (2 * width + 2 + PAIR_GAP, height + LINE + 14)
    rows = -(-len(inputs) // pairs_a_row)
    columns = min(pairs_a_row, len(inputs))
    sheet = Sheet(columns * step[0] - PAIR_GAP, rows * step[1] - 14, heading, caption)
    for index, title in enumerate(titles):
        x, y = index % pairs_a_row * step[0], index // pairs_a_row * step[1]
        sheet.text(title, x, y, 2 * width + 2)
        sheet.put(inputs[index], x, y + LINE, height)
        sheet.put(outputs[index], x + width + 2, y + LINE, height)
    return sheet.image


def _names_width(names: Sequence[str]) -> int:
    return min(160, round(max(font(14).getlength(name) for name in names)) + 12)


def label_grid(
    inputs: Pixels,
    outputs: NDArray[np.uint8],
    true: Sequence[int] | None,
    names: Sequence[str],
    heading: str,
    caption: str,
) -> Image.Image:
    """A row an image, a column a label (or whatever else is varied): the input, then its outputs.

    Arguments:
        inputs: `[N, C, H, W]`.
        outputs: `[N, K, C, H, W]`.
        true: the index of each row's true column, which is framed.
        names: above the columns.
    """
    height = side(inputs)
    width = round(height * inputs.shape[3] / inputs.shape[2])
    step, apart = (width + GAP, height + GAP), PAIR_GAP
    size = (step[0] + apart + len(names) * step[0], LINE + len(inputs) * step[1])
    sheet = Sheet(*size, heading, caption)
    sheet.text("input", 0, 0, width, colour=FAINT)
    for column, name in enumerate(names):
        sheet.text(name, step[0] + apart + column * step[0], 0, width)
    for row, image in enumerate(inputs):
        y = LINE + 4 + row * step[1]
        sheet.put(image, 0, y, height)
        for column in range(len(names)):
            x = step[0] + apart + column * step[0]
            framed = true is not None and column == true[row]
            sheet.put(outputs[row, column], x, y, height, framed)
    return sheet.image


def sample_grid(
    images: NDArray[np.uint8], names: Sequence[str], heading: str, caption: str
) -> Image.Image:
    """A row a class: images `[K, N, C, H, W]`, the class's name before them."""
    height = side(images[0])
    width = round(height * images.shape[4] / images.shape[3])
    before = _names_width(names) + GAP
    step = (width + GAP, height + GAP)
    sheet = Sheet(before + images.shape[1] * step[0], len(images) * step[1], heading, caption)
    for row, name in enumerate(names):
        middle = row * step[1] + (height - LINE) // 2
        sheet.text(name, 0, middle, before - GAP - 4, align="right")
        for column, image in enumerate(images[row]):
            sheet.put(image, before + column * step[0], row * step[1], height)
    return sheet.image
