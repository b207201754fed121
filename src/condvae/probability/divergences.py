"""Kullback-Leibler divergences in closed form, in nats."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def kl_to_standard_normal(
    mean: Float[Tensor, "*batch z"], log_scale: Float[Tensor, "*batch z"]
) -> Float[Tensor, "*batch z"]:
    """`KL(N(mean, scale^2) || N(0, 1))` a dimension, in nats (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + torch.expm1(2 * log_scale)) - log_scale


def full_kl_to_standard_normal(
    mean: Float[Tensor, "*batch z"], factor: Float[Tensor, "*batch z z"]
) -> Float[Tensor, "*batch"]:
    """`KL(N(mean, L L^T) || N(0, 1))` in nats, for a lower triangular factor L of positive diagonal.

    `(|mean|^2 + |L|^2 - z) / 2 - sum log L_ii`: the squares of L add up to the trace of the covariance.
    """
    squares = mean.square().sum(-1) + factor.square().sum((-2, -1)) - mean.shape[-1]
    return 0.5 * squares - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def kl_between_normals(
    mean: Float[Tensor, "*batch z"],
    log_scale: Float[Tensor, "*batch z"],
    other_mean: Float[Tensor, "*batch z"],
    other_log_scale: Float[Tensor, "*batch z"],
) -> Float[Tensor, "*batch z"]:
    """`KL(N(mean, scale^2) || N(other_mean, other_scale^2))` a dimension, in nats."""
    shift = (mean - other_mean) * torch.exp(-other_log_scale)
    return kl_to_standard_normal(shift, log_scale - other_log_scale)
