"""The inception distance asks torchmetrics, or says in a sentence what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from condvae.errors import UserError
from condvae.evaluation.inception import inception_distance


class Stand:
    """Stands for torchmetrics' class: the distance between mean pixels."""

    def __init__(self, feature: int, feature_extractor_weights_path: str) -> None:
        assert feature == 2048 and Path(feature_extractor_weights_path).exists()
        self.sums, self.counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}

    def to(self, device: torch.device) -> Stand:
        return self

    def update(self, images: torch.Tensor, real: bool) -> None:
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        self.sums[real] += float(images.float().mean((1, 2, 3)).sum())
        self.counts[real] += len(images)

    def compute(self) -> torch.Tensor:
        means = [self.sums[side] / self.counts[side] for side in (True, False)]
        return torch.tensor(abs(means[0] - means[1]))


def test_all_images_are_shown_in_colour(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("torchmetrics", "torchmetrics.image", "torchmetrics.image.fid"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(
        sys.modules["torchmetrics.image.fid"], "FrechetInceptionDistance", Stand, raising=False
    )
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"")
    real = torch.full((600, 1, 8, 8), 100, dtype=torch.uint8)
    made = torch.full((300, 3, 8, 8), 130, dtype=torch.uint8)
    assert inception_distance(real, made, weights) == pytest.approx(30)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match="no such file"):
        inception_distance(x, x, tmp_path / "none.pth")
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"condvae\[fid\]"):
        inception_distance(x, x, tmp_path / "weights.pth")
