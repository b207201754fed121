"""The transformer: there and back, label swaps by its columns, and scikit-learn's own checks."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from condvae.sklearn import ConditionalVAETransformer

SMALL: dict[str, Any] = {"n_latents": 2, "network": "mlp(widths=[16])", "epochs": 3.0, "n_samples": 2}


def bars(number: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Images with a bar that lies or stands, and which."""
    generator = np.random.default_rng(0)
    labels = np.arange(number) % 2
    images = generator.integers(0, 60, (number, 6, 6)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[(slice(2, 4), slice(None)) if label else (slice(None), slice(2, 4))] += 180
    return images, labels


@pytest.fixture(scope="module")
def fitted() -> ConditionalVAETransformer:
    images, labels = bars()
    names = np.array(["stands", "lies"])[labels]
    return ConditionalVAETransformer(**SMALL | {"epochs": 40.0, "batch_size": 20}).fit(images, names)


def test_images_become_labels_and_latents_and_images_again(fitted: ConditionalVAETransformer) -> None:
    images, labels = bars()
    z = fitted.transform(images)
    assert z.shape == (60, 4) and np.allclose(z[:, :2].sum(1), 1, atol=1e-5)
    assert fitted.classes_.tolist() == ["lies", "stands"]
    assert (z[:, :2].argmax(1) == 1 - labels).mean() > 0.9
    back = fitted.inverse_transform(z)
    assert back.shape == images.shape and back.dtype == np.uint8
    assert np.abs(back.astype(float) - images).mean() < 60
    names = fitted.get_feature_names_out().tolist()
    assert names == ["label_lies", "label_stands", "latent_0", "latent_1"]


def test_changing_the_label_columns_is_a_swap(fitted: ConditionalVAETransformer) -> None:
    images, labels = bars()
    z = fitted.transform(images)
    z[:, :2] = 1 - z[:, :2]
    swapped = fitted.inverse_transform(z).astype(float)
    lying = swapped[:, 2:4].mean((1, 2)) > swapped[:, :, 2:4].mean((1, 2))
    assert (lying == (labels == 0)).mean() > 0.9


def test_a_row_does_not_depend_on_the_others(fitted: ConditionalVAETransformer) -> None:
    images, _ = bars()
    together = fitted.transform(images)
    assert np.allclose(fitted.transform(images[7:9]), together[7:9], atol=1e-4)


@pytest.mark.parametrize("layout", ["last", "first", "rows"])
def test_layouts_and_floats_come_back_as_they_went(layout: str) -> None:
    images, labels = bars(20)
    colour = np.stack([images] * 3, 1).astype(np.float64) / 255 - 0.5
    given = {
        "first": colour,
        "last": colour.transpose(0, 2, 3, 1),
        "rows": colour.reshape(20, -1),
    }[layout]
    vae = ConditionalVAETransformer(**SMALL, shape=(3, 6, 6) if layout == "rows" else None)
    back = vae.inverse_transform(vae.fit(given, labels).transform(given))
    assert back.shape == given.shape and vae.shape_ == (3, 6, 6)
    assert given.min() - 1e-6 <= back.min() and back.max() <= given.max() + 1e-6


def test_without_labels_there_are_latents_alone() -> None:
    images, _ = bars(20)
    vae = ConditionalVAETransformer(**SMALL).fit(images)
    z = vae.transform(images)
    assert z.shape == (20, 2) and vae.inverse_transform(z).shape == images.shape


def test_it_is_repeatable_and_can_be_pickled(fitted: ConditionalVAETransformer) -> None:
    images, labels = bars(20)
    vae = clone(ConditionalVAETransformer(**SMALL))
    assert (vae.fit_transform(images, labels) == clone(vae).fit_transform(images, labels)).all()
    copy = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - it was made a moment ago
    assert (copy.transform(images) == fitted.transform(images)).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((4, 5, 5, 2)), "X has shape"),
        (np.zeros((4, 7)), "doesn't fit"),
    ],
)
def test_what_are_no_images_is_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditionalVAETransformer(**SMALL, shape=(1, 2, 2)).fit(x, np.arange(4) % 2)
    with pytest.raises(ValueError, match="X has shape"):
        images, labels = bars(20)
        ConditionalVAETransformer(**SMALL).fit(images, labels).inverse_transform(np.zeros((2, 9)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks() -> None:
    """Those apart that hold a row to a millionth however it is batched: networks are float32."""
    rounding = {
        "check_methods_subset_invariance": "float32 sums differ by batch",
        "check_methods_sample_order_invariance": "float32 sums differ by batch",
    }
    vae = ConditionalVAETransformer(**SMALL | {"epochs": 1.0})
    check_estimator(vae, expected_failed_checks=rounding, on_skip=None)
