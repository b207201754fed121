"""Images that are there twice, under different labels: at least one of them is wrong."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from condvae.auditing.descriptors import FIT_ON, Codes, Descriptor, shrunken
from condvae.auditing.draws import own_generator

Indices = NDArray[np.int64]

RADIUS = 0.1
"""Nearly the same: shrunken images that correlate by 0.995 or more (`1 - RADIUS^2 / 2`)."""
CHUNK = 2048


@dataclass(frozen=True)
class Duplicates:
    """Images with a twin of another label.

    Arguments:
        index: `[M]`, in order.
        twin: `[M]`, an image that shows the same and has another label.
        exact: `[M]`, whether every pixel is the same.
        copies: images in all that are exact copies of an earlier one, whatever their label.
    """

    index: Indices
    twin: Indices
    exact: NDArray[np.bool_]
    copies: int


def exact_groups(images: NDArray[np.uint8]) -> Indices:
    """For every image, the index of the first that has the same pixels: its own, where it is new."""
    first: dict[bytes, int] = {}
    found = np.empty(len(images), np.int64)
    for index, image in enumerate(images):
        key = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        found[index] = first.setdefault(key, index)
    return found


def duplicates(images: NDArray[np.uint8], labels: Indices, seed: int = 0) -> Duplicates:
    """Exact and near duplicates whose labels differ."""
    groups = exact_groups(images)
    twins = _exact_twins(groups, labels)
    exact = set(twins)
    firsts = np.unique(groups)
    for one, other in _near_pairs(images, firsts, seed):
        if labels[one] != labels[other]:
            twins.setdefault(one, other)
            twins.setdefault(other, one)
    index = np.array(sorted(twins), np.int64)
    return Duplicates(
        index,
        np.array([twins[i] for i in index.tolist()], np.int64),
        np.array([i in exact for i in index.tolist()], bool),
        len(images) - len(firsts),
    )


def _exact_twins(groups: Indices, labels: Indices) -> dict[int, int]:
    """Every image of a group with two labels or more, and the group's first image of another label."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    twins = {}
    for members in np.split(order, starts[1:]):
        _, first = np.unique(labels[members], return_index=True)
        if len(first) < 2:
            continue
        one, other = members[np.sort(first)[:2]]
        for member in members:
            twins[int(member)] = int(one if labels[member] != labels[one] else other)
    return twins


def _near_pairs(images: NDArray[np.uint8], firsts: Indices, seed: int) -> list[tuple[int, int]]:
    """Pairs of different images that look nearly the same.

    Principal components can only bring images nearer together, so that every pair is among those that
    are near by them; these are then held against one another in full.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(firsts) < 2:
        return []
    some = np.sort(own_generator(seed, "near duplicates").permutation(firsts)[:FIT_ON])
    descriptor = Descriptor.fitted(images[some], seed)
    codes = _codes(images, firsts, descriptor)
    blank = descriptor(np.zeros((1, *images.shape[1:]), np.uint8))
    shows = np.flatnonzero(np.abs(codes - blank).max(1) > 1e-6)
    if len(shows) < 2:
        return []
    search = NearestNeighbors(radius=RADIUS, algorithm="kd_tree").fit(codes[shows])
    pairs = []
    for start in range(0, len(shows), CHUNK):
        asked = codes[shows[start : start + CHUNK]]
        for offset, near in enumerate(search.radius_neighbors(asked, return_distance=False)):
            one = firsts[shows[start + offset]]
            others = firsts[shows[np.sort(near)]]
            others = others[others > one]
            if len(others):
                alike = shrunken(images[others]) @ shrunken(images[one][None])[0]
                pairs += [(int(one), int(other)) for other in others[alike >= 1 - RADIUS**2 / 2]]
    return pairs


def _codes(images: NDArray[np.uint8], chosen: Indices, descriptor: Descriptor) -> Codes:
    """Descriptors of some images, of which no more than a chunk is taken into memory at a time."""
    starts = range(0, len(chosen), CHUNK)
    return np.concatenate([descriptor(images[chosen[start : start + CHUNK]]) for start in starts])
