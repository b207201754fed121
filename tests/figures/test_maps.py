"""A map's pixels and places are each other's inverse, and its points are where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from condvae.figures.maps import SIDE, class_map, palette, pixel_of, point_of


@pytest.mark.parametrize("point", [(0.0, 0.0), (1.5, -2.0), (-3.0, 3.0)])
def test_a_pixel_and_a_place_are_each_others_inverse(point: tuple[float, float]) -> None:
    assert point_of(pixel_of(point, 3.0), 3.0) == pytest.approx(point)
    assert pixel_of((-3.0, 3.0), 3.0) == (0.0, 0.0)


def test_points_are_drawn_where_they_are_in_their_colour() -> None:
    points = np.array([[2.0, 2.0], [-2.0, -2.0]])
    picture = class_map(points, np.array([0, 1]), ["", ""], 4.0)
    assert picture.size == (SIDE, SIDE)
    for point, colour in zip(points, palette(2), strict=True):
        x, y = (round(value) for value in pixel_of(point, 4.0))
        assert np.abs(np.array(picture.getpixel((x, y))) - colour).max() < 40
    marked = class_map(points, np.array([0, 1]), ["", ""], 4.0, (0.0, 0.0))
    assert picture.getpixel((SIDE // 2, SIDE // 2)) == (255, 255, 255)
    assert np.abs(np.asarray(marked, int) - np.asarray(picture, int)).sum() > 0


def test_classes_have_colours_of_their_own() -> None:
    for classes in (2, 10, 37):
        assert len(set(palette(classes))) == classes
