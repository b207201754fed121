"""Is one set of images like another? Distances between features, a fresh discriminator, neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

Features = Float[Tensor, "n f"]


def frechet_distance(a: Features, b: Features) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets (Dowson and Landau 1982).

    `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`. Biased upwards by about as much as a set has
    too few points for its covariance, so compare only distances between sets of the same sizes.

    With `C = R^T R`, by a QR decomposition of the points, the trace of the root is the sum of the
    singular values of `R_a R_b^T`: covariances of few points, which have no inverse, are no harder.
    """
    a, b = a.double(), b.double()

    def root(points: Tensor) -> Tensor:
        centred = (points - points.mean(0)) / max(1, len(points) - 1) ** 0.5
        return torch.linalg.qr(centred, mode="r").R

    first, second = root(a), root(b)
    cross = torch.linalg.svdvals(first @ second.T).sum()
    between = (a.mean(0) - b.mean(0)).square().sum()
    return float(between + first.square().sum() + second.square().sum() - 2 * cross)


def kernel_distance(a: Features, b: Features) -> float:
    """Squared maximum mean discrepancy under `(x.y / d + 1)^3` (Binkowski et al. 2018), unbiased.

    0 on average between two samples of one distribution, so it may be negative.
    """
    a, b = a.double(), b.double()

    def similarity(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def within(points: Tensor) -> Tensor:
        matrix = similarity(points, points)
        return (matrix.sum() - matrix.diagonal().sum()) / (len(points) * (len(points) - 1))

    return float(within(a) + within(b) - 2 * similarity(a, b).mean())


def nearest_distance(a: Features, b: Features, apart: bool = False) -> Float[Tensor, "n"]:
    """Euclidean distance of each row of `a` to the nearest of `b`.

    Arguments:
        apart: the two are the same set, and no row is its own neighbour.
    """
    parts = []
    for start, rows in _pieces(a):
        distance = torch.cdist(rows, b)
        if apart:
            distance[torch.arange(len(rows)), start + torch.arange(len(rows))] = torch.inf
        parts.append(distance.min(1).values)
    return torch.cat(parts)


def nearness_rank(
    outputs: Features, inputs: Features, own: Int[Tensor, "n"] | None = None
) -> Float[Tensor, "n"]:
    """The share of all inputs that are nearer to an output than its own input is; half is chance.

    Inputs that are as near count for a half.

    Arguments:
        own: the place of each output's input; by default they are in the same order.
    """
    own = torch.arange(len(outputs)) if own is None else own
    parts = []
    for start, rows in _pieces(outputs):
        distance = torch.cdist(rows, inputs, compute_mode="donot_use_mm_for_euclid_dist")
        its = distance.gather(1, own[start : start + len(rows), None].to(distance.device))
        nearer = (distance < its).float().sum(1) + 0.5 * ((distance == its).float().sum(1) - 1)
        parts.append(nearer / max(1, len(inputs) - 1))
    return torch.cat(parts)


def auroc(negatives: Float[Tensor, "n"], positives: Float[Tensor, "m"]) -> float:
    """The probability that a positive scores above a negative, ties counted half."""
    from sklearn.metrics import roc_auc_score

    truth = torch.cat([torch.zeros(len(negatives)), torch.ones(len(positives))])
    return float(roc_auc_score(truth.numpy(), torch.cat([negatives, positives]).cpu().numpy()))


def _pieces(rows: Features, size: int = 1000) -> Iterator[tuple[int, Features]]:
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]
