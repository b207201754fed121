"""Ground floor: labelled images, from whatever holds them. It knows nothing of models."""

from condvae.data.dataset import LabelledImages
from condvae.data.noise import noisy_labels, wrong_labels
from condvae.data.sources import info, list_sources, load

__all__ = ["LabelledImages", "info", "list_sources", "load", "noisy_labels", "wrong_labels"]
