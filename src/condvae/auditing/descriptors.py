"""Small descriptors of images, and their neighbours: what can be told without any trained network.

An image is averaged down to 16 x 16 at most, made free of brightness and contrast (its mean taken away,
its length made 1), and projected onto a few principal components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condvae.auditing.draws import own_generator

Codes = NDArray[np.float32]
"""`[N, D]`, a row an image."""

SIDE, DIMENSIONS = 16, 32
FIT_ON = 20_000
REFERENCES = 50_000
"""Images that neighbours are looked for among, at most: a random part of more."""
CHUNK = 4096
FLAT = 1.0
"""An image whose grey values differ by less (root mean square) shows nothing."""


def shrunken(images: NDArray[np.uint8]) -> Codes:
    """Images `[N, C, H, W]` averaged down, of mean 0 and length 1; zeros for one that shows nothing."""
    rows, columns = (np.arange(min(SIDE, side)) * side // min(SIDE, side) for side in images.shape[2:])
    sums = np.add.reduceat(images.astype(np.float32), rows, 2)
    sums = np.add.reduceat(sums, columns, 3)
    heights = np.diff(np.append(rows, images.shape[2]))
    widths = np.diff(np.append(columns, images.shape[3]))
    flat = (sums / np.outer(heights, widths)).reshape(len(images), -1)
    flat -= flat.mean(1, keepdims=True)
    length = np.sqrt((flat**2).sum(1, keepdims=True))
    seen = length > FLAT * np.sqrt(flat.shape[1])
    code: Codes = np.where(seen, flat / np.maximum(length, 1e-6), 0).astype(np.float32)
    return code


@dataclass(frozen=True)
class Descriptor:
    """Principal components of shrunken images.

    Arguments:
        mean: `[P]`.
        components: `[D, P]`, rows of length 1.
    """

    mean: Codes
    components: Codes

    @classmethod
    def fitted(cls, images: NDArray[np.uint8], seed: int = 0) -> Descriptor:
        """The components of a set of images, or of a random part of it."""
        from sklearn.decomposition import PCA

        some = np.sort(own_generator(seed, "components").permutation(len(images))[:FIT_ON])
        pixels = shrunken(images[some])
        number = min(DIMENSIONS, *pixels.shape)
        with np.errstate(all="ignore"):  # shares of no variance at all, where no image shows anything
            pca = PCA(number, svd_solver="randomized", random_state=seed).fit(pixels)
        return cls(pca.mean_.astype(np.float32), pca.components_.astype(np.float32))

    def __call__(self, images: NDArray[np.uint8]) -> Codes:
        """`[N, D]`, a chunk of images at a time."""
        starts = range(0, len(images), CHUNK)
        parts = [shrunken(images[start : start + CHUNK]) for start in starts]
        coded = [(part - self.mean) @ self.components.T for part in parts]
        return np.concatenate(coded) if coded else np.zeros((0, len(self.components)), np.float32)


@dataclass(frozen=True)
class Neighbours:
    """The nearest of some reference images.

    Arguments:
        distance: `[N, k]`, the nearest first.
        label: `[N, k]`, the references' labels.
    """

    distance: Codes
    label: NDArray[np.int64]


def nearest(
    codes: Codes, references: Codes, labels: NDArray[np.int64], number: int, seed: int = 0
) -> Neighbours:
    """The k nearest references, of which a random part is used where they are very many.

    Arguments:
        codes: of the images that are asked about; none of them is among the references.
        labels: the references'.
        number: k, or as many as there are.
    """
    from sklearn.neighbors import NearestNeighbors

    some = np.sort(own_generator(seed, "references").permutation(len(references))[:REFERENCES])
    search = NearestNeighbors(n_neighbors=min(number, len(some)), algorithm="brute")
    search.fit(references[some])
    distance, place = search.kneighbors(codes)
    return Neighbours(distance.astype(np.float32), labels[some][place])
