"""Every picture, as functions from uint8 arrays to Pillow images."""

from condvae.figures.grids import label_grid, pairs, sample_grid

__all__ = ["label_grid", "pairs", "sample_grid"]
