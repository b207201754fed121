"""Images changed in ways that leave their label alone."""

from __future__ import annotations

import pytest
import torch

from condvae.data.augment import Restyling, warped, warps
from condvae.geometry import moved_by


def drawings(number: int, channels: int = 1) -> torch.Tensor:
    """A bright bar on dark ground, -1 to 1, at another place in each image."""
    images = -torch.ones(number, channels, 16, 16)
    for index in range(number):
        images[index, :, 3:13, 5 + index % 4 : 8 + index % 4] = 0.9
    return images


def test_no_warp_leaves_images_as_they_are() -> None:
    images = drawings(3)
    assert torch.allclose(moved_by(images, warps(3, None, 0, 0, 0)), images, atol=1e-5)


def test_a_warp_leans_turns_and_stretches() -> None:
    generator = torch.Generator().manual_seed(0)
    images = drawings(6)
    assert (warped(images, generator) - images).abs().amax((1, 2, 3)).min() > 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_restyling_changes_every_set_of_images_alike(channels: int) -> None:
    images = drawings(8, channels)
    restyled = Restyling.drawn(images, torch.Generator().manual_seed(0))
    assert torch.equal(restyled(images), restyled(images.clone()))
    assert not torch.allclose(restyled(images), images, atol=0.1)
    assert restyled(images).abs().max() <= 1


def test_strokes_get_thicker_and_thinner() -> None:
    images = drawings(8)
    ink = (images + 1).sum((1, 2, 3))
    for strokes, factor in ((1.0, (3 + 2) * (10 + 2) / 30), (-1.0, (3 - 2) * (10 - 2) / 30)):
        still = warps(8, None, 0, 0, 0)
        one = torch.ones(8, 1, 1, 1)
        changed = Restyling(still, strokes * one, one, 0 * one)(images)
        assert torch.allclose((changed + 1).sum((1, 2, 3)), factor * ink, rtol=1e-3)


def test_colour_images_keep_their_strokes_and_get_a_tint() -> None:
    restyled = Restyling.drawn(drawings(8, 3), torch.Generator().manual_seed(0))
    assert restyled.strokes.abs().max() == 0
    assert restyled.offset.std(1).min() > 0
    grey = Restyling.drawn(drawings(8), torch.Generator().manual_seed(0))
    assert torch.equal(grey.gain, torch.ones(8, 1, 1, 1)) and grey.offset.abs().max() == 0


def test_gradients_pass_through_a_restyling() -> None:
    images = drawings(2).requires_grad_()
    restyled = Restyling.drawn(images, torch.Generator().manual_seed(0))
    restyled(images).sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None and images.grad.abs().sum() > 0
