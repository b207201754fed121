"""A conditional VAE as a scikit-learn transformer: images to label and latents, and back.

```python
from condvae.sklearn import ConditionalVAETransformer
vae = ConditionalVAETransformer(n_latents=8).fit(images, labels)
z = vae.transform(images)      # [n, K + 8]: p(y|x), then the latents
vae.inverse_transform(z)       # images again; change the first K columns for a label swap
```
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from condvae.config import Config, DataConfig, ModelConfig, TrainingConfig
from condvae.data import LabelledImages
from condvae.evaluation.bounds import fixed_binarisation, weighted_bounds
from condvae.evaluation.numbers import softmax
from condvae.run import load
from condvae.training.trainer import Trainer

BATCH = 500


class ConditionalVAETransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images to `p(y|x)` and latents that the label has no part in, and back.

    `X` holds images: uint8 or float, `[n, H, W]`, `[n, H, W, C]`, `[n, C, H, W]`, or rows of features
    (with `shape`, if they are images). What isn't uint8 is brought to 256 values between the lowest and
    the highest that `fit` saw.

    Arguments:
        n_latents: dimensions of z.
        network, likelihood, prior, objective: parts, written as in a recipe.
        shape: `(C, H, W)` of images that are given as rows.
        epochs: length of the training.
        batch_size, learning_rate: of the training.
        n_samples: importance samples a label, by which `p(y|x)` is had.
        device: auto, cpu or cuda.
        random_state: seed of the training.

    Attributes:
        classes_: labels, as they were given.
        model_: the trained model.
        n_features_in_: values an image.
    """

    def __init__(
        self,
        n_latents: int = 16,
        *,
        network: str = "mlp",
        likelihood: str = "discretised-logistic",
        prior: str = "conditional",
        objective: str = "elbo",
        shape: tuple[int, int, int] | None = None,
        epochs: float = 20.0,
        batch_size: int = 64,
        learning_rate: float = 2e-3,
        n_samples: int = 8,
        device: str = "cpu",
        random_state: Any = 0,
    ) -> None:
        self.n_latents = n_latents
        self.network = network
        self.likelihood = likelihood
        self.prior = prior
        self.objective = objective
        self.shape = shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_samples = n_samples
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on images and their labels; without labels, all are of one class.

        Raises:
            ValueError: X or y is not as described.
            condvae.errors.UserError: a part doesn't exist, or training diverged.
        """
        rows, self.layout_ = _rows(X)
        if y is None:
            rows = validate_data(self, rows, ensure_min_samples=2)
            self.classes_, labels = np.array([0]), np.zeros(len(rows), np.int64)
        else:
            rows, y = validate_data(self, rows, y, ensure_min_samples=2)
            check_classification_targets(y)
            self.classes_, labels = np.unique(y, return_inverse=True)
        self.shape_ = self._shape(rows.shape[1])
        exact = rows.dtype == np.uint8
        self.range_ = (0.0, 255.0) if exact else (float(rows.min()), float(rows.max()))
        names = tuple(str(label) for label in self.classes_)
        images = LabelledImages(self._images(rows), labels.astype(np.int64), names, "array", "train")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        reaches = ("encoder", "decoder") if len(names) > 1 else ()
        config = Config(
            data=DataConfig(source="array", validation=0.0),
            model=ModelConfig(
                network=self.network,
                likelihood=self.likelihood,
                prior=self.prior,
                latents=self.n_latents,
                label_reaches=reaches,
            ),
            training=TrainingConfig(
                objective=self.objective,
                epochs=float(self.epochs),
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                precision="fp32",
                device=self.device,
                seed=seed,
                warmup_steps=20,
            ),
        )
        none = images.subset(np.arange(0), "validation")
        with tempfile.TemporaryDirectory(prefix="condvae-") as folder, torch.random.fork_rng(devices=[]):
            Trainer(config, (images, none), Path(folder), quiet=True).fit()
            self.model_: Any = load(folder, self.device).model
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "n k+z"]:
        """`p(y|x)` of each class (if there are several), then the posterior mean under the likeliest."""
        check_is_fitted(self)
        rows = validate_data(self, _rows(X)[0], reset=False)
        return np.concatenate([self._encoded(part) for part in _parts(self._images(rows))])

    def inverse_transform(self, X: Any) -> NDArray[Any]:
        """Images of labels and latents, laid out and scaled as those that were fitted.

        Arguments:
            X: as `transform` gives it; the label is the class of the highest number.
        """
        check_is_fitted(self)
        rows = np.asarray(X, np.float32)
        known = self._label_columns
        if rows.ndim != 2 or rows.shape[1] != known + self.n_latents:
            raise ValueError(f"X has shape {rows.shape}; it must be [n, {known + self.n_latents}]")
        labels = rows[:, :known].argmax(1) if known else np.zeros(len(rows), np.int64)
        made = []
        for part, label in zip(_parts(rows[:, known:]), _parts(labels), strict=True):
            with torch.no_grad():
                images = self.model_.decode((self._tensor(part),), self._tensor(label)).mean_image()
            made.append(images.cpu().numpy())
        return self._laid_out(np.concatenate(made))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """`label_...` of each class, then `latent_...`."""
        check_is_fitted(self)
        labels = [f"label_{label}" for label in self.classes_][: self._label_columns]
        return np.array([*labels, *(f"latent_{index}" for index in range(self.n_latents))], dtype=object)

    # ------------------------------------------------------------------------------------- inside

    @property
    def _label_columns(self) -> int:
        return len(self.classes_) if len(self.classes_) > 1 else 0

    def _encoded(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = self._tensor(images)
        observed = fixed_binarisation(self.model_, x, 0)
        scores = []
        for label in range(len(self.classes_)):
            # All images share one stream of noise, so that an image's row doesn't depend on the others.
            y = torch.full((len(x),), label, device=x.device)
            places = [0] * len(x)
            scores.append(weighted_bounds(self.model_, observed, y, places, sizes=[self.n_samples])[0])
        share = softmax(torch.stack(scores, 1).cpu().numpy())
        likeliest = self._tensor(share.argmax(1))
        with torch.no_grad():
            (latents,) = self.model_.encode(observed, likeliest)
        columns = (share[:, : self._label_columns], latents.cpu().numpy())
        return np.concatenate(columns, 1).astype(np.float32)

    def _shape(self, features: int) -> tuple[int, int, int]:
        shape = self.layout_[1] or self.shape or (1, 1, features)
        if len(shape) != 3 or shape[0] not in (1, 3) or int(np.prod(shape)) != features:
            raise ValueError(f"shape {shape} doesn't fit X of {features} values an image")
        return (int(shape[0]), int(shape[1]), int(shape[2]))

    def _images(self, rows: NDArray[Any]) -> NDArray[np.uint8]:
        low, high = self.range_
        values = (rows.astype(np.float64) - low) / max(high - low, 1e-12) * 255
        return np.clip(values.round(), 0, 255).astype(np.uint8).reshape(-1, *self.shape_)

    def _laid_out(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        kind, _ = self.layout_
        low, high = self.range_
        scaled = images if self.range_ == (0.0, 255.0) else low + images / 255 * (high - low)
        if kind == "rows":
            return scaled.reshape(len(images), -1)
        return {"grey": scaled[:, 0], "last": scaled.transpose(0, 2, 3, 1), "first": scaled}[kind]

    def _tensor(self, values: NDArray[Any]) -> Any:
        return torch.from_numpy(np.ascontiguousarray(values)).to(next(self.model_.parameters()).device)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


def _rows(X: Any) -> tuple[Any, tuple[str, tuple[int, int, int] | None]]:
    """Images as rows, and how they were laid out: "rows", "grey", "first" or "last", and `(C, H, W)`."""
    if not isinstance(X, np.ndarray) or X.ndim < 3:
        return X, ("rows", None)
    if X.ndim == 3:
        return X.reshape(len(X), -1), ("grey", (1, X.shape[1], X.shape[2]))
    if X.ndim == 4 and X.shape[1] in (1, 3):
        return X.reshape(len(X), -1), ("first", (X.shape[1], X.shape[2], X.shape[3]))
    if X.ndim == 4 and X.shape[3] in (1, 3):
        rows = np.ascontiguousarray(X.transpose(0, 3, 1, 2)).reshape(len(X), -1)
        return rows, ("last", (X.shape[3], X.shape[1], X.shape[2]))
    raise ValueError(f"X has shape {X.shape}; use [n, H, W], [n, H, W, C], [n, C, H, W] or rows")


def _parts(values: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(values, range(BATCH, len(values), BATCH))
