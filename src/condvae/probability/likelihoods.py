"""Likelihoods `p(x | z, y)` over 8-bit images, by name; `images.py` says what one is."""

from __future__ import annotations

from condvae.probability.binary import Bernoulli, GreyCrossEntropy
from condvae.probability.densities import ContinuousBernoulli, Gaussian
from condvae.probability.discrete import BetaBinomial, Categorical
from condvae.probability.discretised import (
    DiscretisedGaussian,
    DiscretisedLogistic,
    DiscretisedLogisticMixture,
)
from condvae.probability.images import ImageDistribution, Likelihood
from condvae.registry import Registry

__all__ = ["LIKELIHOODS", "ImageDistribution", "Likelihood"]

LIKELIHOODS = Registry[Likelihood](
    "likelihood",
    {
        "bernoulli": Bernoulli,
        "categorical": Categorical,
        "beta-binomial": BetaBinomial,
        "discretised-logistic": DiscretisedLogistic,
        "discretised-gaussian": DiscretisedGaussian,
        "discretised-logistic-mixture": DiscretisedLogisticMixture,
        "gaussian": Gaussian,
        "continuous-bernoulli": ContinuousBernoulli,
        "grey-cross-entropy": GreyCrossEntropy,
    },
)
