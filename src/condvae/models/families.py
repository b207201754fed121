"""Models by name, and how a config becomes one."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING

from torch import nn

from condvae.errors import UserError
from condvae.models.conditional_vae import ConditionalVAE
from condvae.models.ladder import Ladder
from condvae.registry import Registry, parse_spec

if TYPE_CHECKING:
    from condvae.config import ModelConfig

FAMILIES = Registry[nn.Module](
    "model",
    {
        "conditional-vae": ConditionalVAE,
        "ladder": Ladder,
    },
)


def build_model(config: ModelConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The model that a config describes, for images `(C, H, W)` and a number of classes.

    Raises:
        UserError: a part does not exist, has no such option, or a size is impossible.
    """
    for field in ("latents", "embedding"):
        if getattr(config, field) < 1:
            raise UserError(f"model.{field} must be at least 1, not {getattr(config, field)}")
    unknown = set(config.label_reaches) - {"encoder", "decoder"}
    if unknown:
        raise UserError(f"model.label_reaches: {unknown.pop()!r} is neither encoder nor decoder")
    name, _ = parse_spec(config.family, FAMILIES.kind)
    taken = inspect.signature(FAMILIES.parts[name]).parameters if name in FAMILIES.parts else {}
    for item in dataclasses.fields(config):
        if item.name not in ("family", *taken) and getattr(config, item.name) != item.default:
            raise UserError(f"model.{item.name} means nothing to a {name}; leave it out of the recipe")
    parts = {key: value for key, value in vars(config).items() if key != "family"}
    return FAMILIES.build(config.family, shape=shape, classes=classes, **parts)
