"""The pictures' layout: what is where, at which scale, and that titles keep apart."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from condvae.figures import label_grid, pairs, sample_grid
from condvae.figures.grids import ACCENT, GAP, LINE, MARGIN, PAIR_GAP, PAPER, as_picture, fitted, font


def numbered(number: int, shape: tuple[int, int, int] = (1, 28, 28)) -> np.ndarray:
    """Images of one grey value each, 10 apart."""
    values = (10 * np.arange(1, number + 1)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (number, *shape)).copy()


def blocks(image: Image.Image, height: int) -> list[tuple[int, int, int]]:
    """Left edge, top edge and grey value of every evenly grey square of that side, in reading order."""
    grey = np.asarray(image.convert("L")).astype(int)
    found = []
    for value in range(10, 256, 10):
        rows, columns = (np.flatnonzero((grey == value).sum(axis) >= height) for axis in (1, 0))
        if len(rows) and len(columns):
            found.append((int(rows.min()), int(columns.min()), value))
    return [(left, top, value) for top, left, value in sorted(found)]


def test_twenty_five_pairs_stand_five_a_row_output_beside_input() -> None:
    inputs, outputs = numbered(12)[[0] * 25], numbered(12)[[11] * 25]
    inputs[7], outputs[7] = 90, 100
    image = pairs(inputs, outputs, [f"{i}" for i in range(25)], "Heading", "caption")
    side = 84
    step = 2 * side + 2 + PAIR_GAP
    top = MARGIN + 58 + (side + LINE + 14) + LINE
    left = MARGIN + 2 * step
    pixels = np.asarray(image.convert("L"))
    assert (pixels[top : top + side, left : left + side] == 90).all(), "the 8th pair's input"
    assert (pixels[top : top + side, left + side + 2 : left + 2 * side + 2] == 100).all()
    assert image.width == 2 * MARGIN + 5 * step - PAIR_GAP
    assert image.height == MARGIN + 58 + 5 * (side + LINE + 14) - 14 + MARGIN


def test_every_pixel_is_drawn_as_a_crisp_square() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    drawn = np.asarray(as_picture(pixels, 96))
    assert drawn.shape == (96, 96, 3)
    assert (drawn[::3, ::3].transpose(2, 0, 1) == pixels).all()
    assert (drawn[::3, ::3] == drawn[2::3, 2::3]).all()


def test_white_black_and_colour_stay_what_they_are() -> None:
    image = np.zeros((1, 3, 8, 8), np.uint8)
    image[0, 0] = 255
    assert as_picture(image[0], 8).getpixel((3, 3)) == (255, 0, 0)
    for value in (0, 255):
        assert as_picture(np.full((1, 8, 8), value, np.uint8), 16).getpixel((1, 1)) == (value,) * 3


@pytest.mark.parametrize(
    "text", ["3 → 5", "automobile → airplane", "a class with a very long name → " * 3]
)
def test_titles_fit_between_their_neighbours(text: str) -> None:
    shown, size = fitted(text, 170)
    assert font(size).getlength(shown) <= 170
    assert shown == text or shown.endswith("…")


def test_long_titles_never_touch_the_next_pair() -> None:
    images = numbered(10)
    image = pairs(images, images, ["a very long class name indeed → another one"] * 10, "H", "c")
    pixels = np.asarray(image.convert("L"))
    titles = pixels[MARGIN + 58 : MARGIN + 58 + LINE]
    for column in range(1, 5):
        gap = MARGIN + column * (2 * 84 + 2 + PAIR_GAP) - PAIR_GAP
        assert (titles[:-1, gap + 1 : gap + PAIR_GAP - 1] == 255).all()


def test_the_true_label_is_framed_and_no_other() -> None:
    inputs, outputs = numbered(2), numbered(6).reshape(2, 3, 1, 28, 28)
    image = label_grid(inputs, outputs, [2, 0], ["a", "b", "c"], "H", "c")
    accent = tuple(int(ACCENT[i : i + 2], 16) for i in (1, 3, 5))
    rows, columns = np.nonzero((np.asarray(image) == accent).all(2))
    step = 84 + GAP
    top = MARGIN + 58 + LINE + 4
    left = MARGIN + step + PAIR_GAP
    framed = {
        ((r - top + 4) // step, (c - left + 4) // step) for r, c in zip(rows, columns, strict=True)
    }
    assert framed == {(0, 2), (1, 0)}
    assert [value for _, _, value in blocks(image, 84)][:1], "images are drawn"


def test_samples_stand_a_row_a_class_with_its_name() -> None:
    images = numbered(6).reshape(2, 3, 1, 28, 28)
    image = sample_grid(images, ["short", "a longer name"], "H", "c")
    found = blocks(image, 84)
    assert [value for _, _, value in found] == [10, 20, 30, 40, 50, 60]
    tops = [top for _, top, _ in found]
    assert tops[:3] == [tops[0]] * 3 and tops[3:] == [tops[0] + 84 + GAP] * 3
    names = np.asarray(image.convert("L"))[tops[0] :, MARGIN : found[0][0] - 2]
    assert (names < 100).any(), "a name in dark ink before its row"


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 8, 8), (3, 20, 33)])
def test_pictures_of_every_shape_have_light_ground_and_dark_text(shape: tuple[int, int, int]) -> None:
    images = numbered(4, shape)
    image = pairs(
        images, images, ["x"] * 4, "A heading", "a caption that is rather longer than the rest"
    )
    pixels = np.asarray(image.convert("L"))
    assert (
        image.getpixel((1, 1)) == (255, 255, 255) == tuple(int(PAPER[i : i + 2], 16) for i in (1, 3, 5))
    )
    assert (pixels[: MARGIN + 20] < 60).any()
    assert (pixels[:, -MARGIN + 2 :] == 255).all(), "nothing runs over the right edge"
