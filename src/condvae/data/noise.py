"""Wrong labels, on purpose: of every image, or of a share of them, by the ways in which labels go wrong.

Every kind of label noise takes labels, their number of classes, a rate and a generator, and gives noisy
labels. The number of flipped labels is exact, a flipped label is never the old one, and images without a
label (-1) stay without. What is needed beyond that, an image or a mapping, comes by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from condvae.errors import UserError
from condvae.registry import check_choice

Array = NDArray[np.int64]
Matrix = NDArray[np.float64]
"""`[K, K]`, a row a true label: the shares of its images that get each label."""

CHUNK = 4096
SHARPNESS = 5.0
"""The image most like another class is flipped e^5 times as readily as the one that is least."""


def wrong_labels(labels: Array, classes: int, generator: np.random.Generator) -> Array:
    """Labels that are never right: `(y + r) mod K`, r uniform over 1 to K - 1.

    Raises:
        UserError: there is one class, so that every label is right.
    """
    if classes < 2:
        raise UserError("a wrong label needs two classes or more, and there is one")
    return (labels + generator.integers(1, classes, size=labels.shape)) % classes


def noisy_labels(
    kind: str,
    labels: Array,
    classes: int,
    rate: float,
    generator: np.random.Generator,
    images: NDArray[np.uint8] | None = None,
) -> Array:
    """Labels with noise of a kind that is named, one of `KINDS`.

    Arguments:
        images: `[N, C, H, W]`, for noise that depends on them.

    Raises:
        UserError: there is no such kind; the rate is no share; images are needed.
    """
    check_choice("label noise", kind, KINDS)
    if kind == "image-dependent":
        if images is None:
            raise UserError("label noise 'image-dependent' needs the images")
        return image_dependent(labels, classes, rate, generator, images)
    return MAKERS[kind](labels, classes, rate, generator)


def symmetric(labels: Array, classes: int, rate: float, generator: np.random.Generator) -> Array:
    """A share of all labels, whatever the class, each to any other label alike."""
    _check(classes, rate)
    labelled = np.flatnonzero(labels >= 0)
    chosen = generator.permutation(labelled)[: round(rate * len(labelled))]
    noisy = labels.copy()
    noisy[chosen] = wrong_labels(labels[chosen], classes, generator)
    return noisy


def asymmetric(
    labels: Array,
    classes: int,
    rate: float,
    generator: np.random.Generator,
    mapping: Sequence[int] | None = None,
) -> Array:
    """The same share of every class, each to one other class: `y + 1 mod K`, or as given.

    Arguments:
        mapping: the label that each class is mistaken for; its own for a class that never is.

    Raises:
        UserError: the mapping isn't one label a class.
    """
    _check(classes, rate)
    to = np.roll(np.arange(classes), -1) if mapping is None else np.asarray(mapping)
    if to.shape != (classes,) or to.min() < 0 or to.max() >= classes:
        raise UserError(f"a mapping of {classes} classes needs {classes} labels of 0 to {classes - 1}")
    return confused(labels, (1 - rate) * np.eye(classes) + rate * np.eye(classes)[to], generator)


def class_dependent(
    labels: Array,
    classes: int,
    rate: float,
    generator: np.random.Generator,
    matrix: Matrix | None = None,
) -> Array:
    """Each class in its own way: some classes more often, and to some classes rather than to others.

    Arguments:
        rate: mean over classes; a matrix that is given has its own, and it isn't looked at.
        matrix: shares; by default drawn.
    """
    drawn = drawn_matrix(classes, rate, generator) if matrix is None else matrix
    return confused(labels, drawn, generator)


def drawn_matrix(classes: int, rate: float, generator: np.random.Generator) -> Matrix:
    """A random row-stochastic matrix: the diagonal's mean is `1 - rate`, a row's errors favour a few."""
    _check(classes, rate)
    uneven = generator.uniform(-1, 1, classes)
    uneven -= uneven.mean()
    rates = rate + 0.5 * min(rate, 1 - rate) * uneven / max(1.0, float(np.abs(uneven).max()))
    matrix = np.zeros((classes, classes))
    others = ~np.eye(classes, dtype=bool)
    shares = generator.dirichlet(np.full(classes - 1, 0.5), size=classes)
    matrix[others] = (rates[:, None] * shares).ravel()
    np.fill_diagonal(matrix, 1 - rates)
    return matrix


def confused(labels: Array, matrix: Matrix, generator: np.random.Generator) -> Array:
    """Labels changed as a row-stochastic matrix says, its shares met as nearly as counts allow.

    Raises:
        UserError: the matrix isn't square, or a row is no distribution.
    """
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] >= 2
    if not square or matrix.min() < 0 or not np.allclose(matrix.sum(1), 1):
        raise UserError(
            "a noise matrix is square, has no negative number, and each of its rows sums to 1"
        )
    noisy = labels.copy()
    for label in range(len(matrix)):
        members = generator.permutation(np.flatnonzero(labels == label))
        noisy[members] = np.repeat(np.arange(len(matrix)), shared_out(len(members), matrix[label]))
    return noisy


def shared_out(number: int, shares: NDArray[np.float64]) -> Array:
    """Whole numbers nearest to shares of a number, which they sum to: the largest remainders go up."""
    exact = number * shares / shares.sum()
    whole = np.floor(exact + 1e-9).astype(np.int64)
    left = number - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:left]] += 1
    return whole


def image_dependent(
    labels: Array,
    classes: int,
    rate: float,
    generator: np.random.Generator,
    images: NDArray[np.uint8],
) -> Array:
    """Images that look like another class get its label, the likelier the more they look like it.

    "Like" is near a class's mean image: an image's readiness is how much nearer the nearest other
    class's mean is than its own. By its rank, from the least ready image to the most, the chance of
    being among the flipped ones rises e^5-fold.
    """
    _check(classes, rate)
    noisy = labels.copy()
    labelled = np.flatnonzero(labels >= 0)
    number = round(rate * len(labelled))
    if not number:
        return noisy
    nearest, readiness = _other_classes(images, labels, classes)
    rank = np.argsort(np.argsort(readiness[labelled], kind="stable"), kind="stable") / len(labelled)
    # Without replacement, in proportion to the weights: the largest of log weight plus Gumbel noise.
    keys = SHARPNESS * rank + generator.gumbel(size=len(labelled))
    chosen = labelled[np.argsort(-keys, kind="stable")[:number]]
    noisy[chosen] = nearest[chosen]
    return noisy


def _other_classes(
    images: NDArray[np.uint8], labels: Array, classes: int
) -> tuple[Array, NDArray[np.float64]]:
    """The other class whose mean image is nearest, and how much nearer it is than the own class's."""
    means = np.zeros((classes, int(np.prod(images.shape[1:]))))
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), CHUNK):
            part = images[members[start : start + CHUNK]].reshape(-1, means.shape[1])
            means[label] += part.sum(0, dtype=np.float64) / len(members)
    empty = np.bincount(labels[labels >= 0], minlength=classes) == 0
    if (~empty).sum() < 2:
        raise UserError("image-dependent label noise needs images of two classes or more")
    nearest = np.zeros(len(labels), np.int64)
    readiness = np.zeros(len(labels))
    for start in range(0, len(labels), CHUNK):
        here = slice(start, start + CHUNK)
        flat = images[here].reshape(len(labels[here]), -1).astype(np.float64)
        # The images' own norms are the same for all classes, and left out.
        distance = (means**2).sum(1) - 2 * flat @ means.T
        distance[:, empty] = np.inf
        rows = np.arange(len(flat))
        own = distance[rows, labels[here]].copy()
        distance[rows, labels[here]] = np.inf
        nearest[here] = distance.argmin(1)
        readiness[here] = own - distance.min(1)
    return nearest, readiness


MAKERS: dict[str, Callable[[Array, int, float, np.random.Generator], Array]] = {
    "symmetric": symmetric,
    "asymmetric": asymmetric,
    "class-dependent": class_dependent,
}
KINDS = (*MAKERS, "image-dependent")


def _check(classes: int, rate: float) -> None:
    if classes < 2:
        raise UserError("a wrong label needs two classes or more, and there is one")
    if not 0 <= rate <= 1:
        raise UserError(f"a noise rate is a share of 0 to 1, not {rate}")
