"""A map: points on a plane, coloured by class, and which place a pixel of it is."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw

from condvae.figures.grids import INK, PAPER, font

SIDE, FINER = 640, 2
"""Side of a map in pixels, and how much finer it is drawn."""


def class_map(
    points: Float[np.ndarray, "n 2"],
    labels: Int[np.ndarray, "n"],
    names: Sequence[str],
    reach: float,
    mark: tuple[float, float] | None = None,
) -> Image.Image:
    """Points from -reach to reach, each class in a colour, its name where its middle is.

    Arguments:
        mark: a place to be marked with a ring.
    """
    picture = Image.new("RGB", (SIDE * FINER, SIDE * FINER), PAPER)
    draw = ImageDraw.Draw(picture)
    colours = palette(len(names))
    order = np.random.default_rng(0).permutation(len(points))  # else the last class hides the others
    for index in order:
        x, y = (FINER * value for value in pixel_of(points[index], reach))
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colours[labels[index]])
    for label, name in enumerate(names):
        if (members := points[labels == label]).size:
            x, y = (FINER * value for value in pixel_of(np.median(members, 0), reach))
            bold = font(30, bold=True)
            draw.text((x, y), name[:24], INK, bold, "mm", stroke_width=6, stroke_fill=PAPER)
    if mark is not None:
        x, y = (FINER * value for value in pixel_of(mark, reach))
        for radius, colour in ((16, PAPER), (14, INK), (12, INK), (10, PAPER)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=3)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def pixel_of(point: Sequence[float] | Float[np.ndarray, "2"], reach: float) -> tuple[float, float]:
    """Where on the map a point is, in pixels from the upper left corner."""
    return (point[0] / reach + 1) / 2 * SIDE, (1 - point[1] / reach) / 2 * SIDE


def point_of(pixel: Sequence[float], reach: float) -> tuple[float, float]:
    """Which point a pixel of the map is: the inverse of `pixel_of`."""
    return (2 * pixel[0] / SIDE - 1) * reach, (1 - 2 * pixel[1] / SIDE) * reach


def palette(classes: int) -> list[tuple[int, int, int]]:
    """A colour a class: hues as far apart as they go, every other one darker."""
    colours = []
    for label in range(classes):
        red, green, blue = colorsys.hsv_to_rgb(label / classes, 0.75, (0.85, 0.65)[label % 2])
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours
