"""Every picture, as functions from uint8 arrays, or from an evaluation's numbers, to Pillow images."""

from condvae.figures.charts import bound_curve, rate_distortion
from condvae.figures.grids import as_picture, label_grid, pairs, sample_grid
from condvae.figures.maps import class_map

__all__ = [
    "as_picture",
    "bound_curve",
    "class_map",
    "label_grid",
    "pairs",
    "rate_distortion",
    "sample_grid",
]
