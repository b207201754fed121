"""Charts show what they are given, on white, in one size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from condvae.figures import bound_curve, rate_distortion
from condvae.figures.grids import ACCENT

CURVE: dict[str, Any] = {"images": 1000, "split": "test", "source": "mnist"}


def dots(pixels: np.ndarray) -> np.ndarray:
    """Where the accent colour is, as columns of row and column."""
    accent = [int(ACCENT[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((pixels == accent).all(2))


@pytest.mark.parametrize("samples", [[1], [1, 2, 4], [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]])
def test_a_curve_rises_across_the_chart(samples: list[int]) -> None:
    nats = [-90 + 2.0 * np.log(s) for s in samples]
    found = CURVE | {"bound_curve": {"samples": samples, "nats": nats, "nats_stderr": [0.2] * len(nats)}}
    pixels = np.asarray(bound_curve(found, "a run"))
    assert pixels.shape == (630, 960, 3) and (pixels[0, 0] == 255).all()
    where = dots(pixels)
    if len(samples) > 1:
        left, right = where[where[:, 1].argmin()], where[where[:, 1].argmax()]
        assert right[1] - left[1] > 600 and left[0] - right[0] > 200


def test_runs_lie_on_the_plane_where_their_rate_and_distortion_are() -> None:
    point = lambda rate, distortion: CURVE | {"rate_nats": rate, "distortion_nats": distortion}  # noqa: E731
    one = dots(np.asarray(rate_distortion({"a": point(20.0, 60.0)})))
    assert np.ptp(one[:, 0]) < 25 and np.ptp(one[:, 1]) < 25, "one point"
    two = dots(np.asarray(rate_distortion({"a": point(10.0, 80.0), "b": point(30.0, 55.0)})))
    left, right = two[two[:, 1].argmin()], two[two[:, 1].argmax()]
    assert right[1] - left[1] > 200 and right[0] - left[0] > 150, "more rate, less distortion"
