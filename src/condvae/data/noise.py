"""Wrong labels, on purpose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from condvae.errors import UserError


def wrong_labels(
    labels: NDArray[np.int64], classes: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Labels that are never right: `(y + r) mod K`, r uniform over 1 to K - 1.

    Raises:
        UserError: there is one class, so that every label is right.
    """
    if classes < 2:
        raise UserError("a wrong label needs two classes or more, and there is one")
    return (labels + generator.integers(1, classes, size=labels.shape)) % classes
