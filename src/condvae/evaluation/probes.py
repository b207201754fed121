"""Does a latent know the label? Probes, which are classifiers of latents."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from condvae.models.protocol import ConditionalModel, Images, Labels, flat


def drawn_latents(
    model: ConditionalModel, x: Images, y: Labels, seed: int = 0, batch_size: int = 500
) -> Float[Tensor, "n z"]:
    """A draw from the posterior of every image, all groups flattened.

    A draw and not the mean: the mean of a dimension that carries nothing may still tell the label to
    a probe that rescales its inputs, while the decoder, which sees draws, can't tell it from noise.
    """
    parts = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(y), batch_size):
            part = slice(start, start + batch_size)
            groups = model.encode(x[part], y[part], sample=True)
            parts.append(flat(groups))
    return torch.cat(parts).cpu()


def inferred_labels(
    model: ConditionalModel, x: Images, batch_size: int = 500
) -> Float[Tensor, "n classes"] | None:
    """`q(y|x)` of every image, where the model has one."""
    with torch.no_grad():
        parts = [model.label_posterior(part) for part in x.split(batch_size)]
    found = [part.cpu() for part in parts if part is not None]
    return torch.cat(found) if found else None


def probe_accuracy(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    kind: str = "linear",
) -> float:
    """Accuracy on test latents of a probe from z to y, trained on training latents; chance is 1/K.

    Arguments:
        kind: "linear" (multinomial logistic regression) or "mlp" (one hidden layer of 128).
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Stopping early sets a tenth of the images aside, which needs a few of every class.
    stop_early = bool(np.unique(train[1], return_counts=True)[1].min() >= 20)
    head = (
        LogisticRegression(max_iter=200)
        if kind == "linear"
        else MLPClassifier((128,), early_stopping=stop_early, max_iter=30, random_state=0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe = make_pipeline(StandardScaler(), head).fit(*train)
    return float(probe.score(*test))
