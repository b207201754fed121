"""Trainings of which some steps are beyond use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from condvae.config import Config
from condvae.objectives import OBJECTIVES, Loss, NegativeElbo


class Ruined(NegativeElbo):
    """Gives losses beyond use at some steps: the true one times a factor."""

    factors: Mapping[int, float]

    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def forward(self, *arguments: object) -> Loss:  # type: ignore[override]
        loss = super().forward(*arguments)  # type: ignore[arg-type]
        self.step += 1
        return Loss(loss.value * self.factors.get(self.step, 1.0), loss.metrics)


def ruined(config: Config, factors: Mapping[int, float], monkeypatch: pytest.MonkeyPatch) -> Config:
    """The recipe with an objective that is ruined at these steps, by these factors."""
    monkeypatch.setitem(OBJECTIVES.parts, "ruined", Ruined)
    monkeypatch.setattr(Ruined, "factors", factors, raising=False)
    return replace(config, training=replace(config.training, objective="ruined"))
