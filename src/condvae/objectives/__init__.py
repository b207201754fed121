"""What is minimised, given a model and a batch.

An objective is a module of its own: it may hold auxiliary networks, which are trained with it and
kept in the checkpoint, and never part of the model file. What the trainer prescribes are its positional
parameters: `model`, the model to be trained, and `images`, the number of training images. What a recipe
chooses are its keyword-only ones. A model that an objective can't serve is refused when it is built.

Whatever is minimised, the true ELBO is reported beside it.
"""

from __future__ import annotations

from torch import nn

from condvae.objectives.aggregate import DipVae, FactorVae, InfoVae, TotalCorrelation
from condvae.objectives.base import Loss
from condvae.objectives.elbo import Capacity, FreeBits, KlBalancing, NegativeElbo
from condvae.objectives.importance import Ciwae, Iwae, Miwae, Piwae
from condvae.objectives.labels import Counterfactual
from condvae.objectives.semi_supervised import SemiSupervised
from condvae.registry import Registry, parse_spec

OBJECTIVES = Registry[nn.Module](
    "objective",
    {
        "elbo": NegativeElbo,
        "capacity": Capacity,
        "free-bits": FreeBits,
        "kl-balancing": KlBalancing,
        "total-correlation": TotalCorrelation,
        "info": InfoVae,
        "dip": DipVae,
        "factor": FactorVae,
        "iwae": Iwae,
        "miwae": Miwae,
        "ciwae": Ciwae,
        "piwae": Piwae,
        "counterfactual": Counterfactual,
        "semi-supervised": SemiSupervised,
    },
)


def takes_unlabelled(spec: str) -> bool:
    """Whether an objective, as in a recipe, has a use for images without a label."""
    part = OBJECTIVES.parts.get(parse_spec(spec, OBJECTIVES.kind)[0])
    return bool(getattr(part, "takes_unlabelled", False))


__all__ = ["OBJECTIVES", "Loss", "NegativeElbo", "takes_unlabelled"]
