"""All that resuming needs, in one safetensors file: written whole or not at all, and no pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condvae.errors import UserError
from condvae.files import read_tensors, write_tensors
from condvae.training.ema import WeightAverage
from condvae.training.sharding import divided, whole

HOW = ("foreach", "fused", "capturable")
"""What an optimiser is told of the device; a run may go on on another."""


def save_checkpoint(
    path: Path,
    modules: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: WeightAverage,
    counters: dict[str, Any],
    writes: bool = True,
) -> None:
    """Write weights, optimiser, average and counters.

    Arguments:
        writes: this process writes; all of them must call, because each may hold a part.

    Raises:
        UserError: the folder can't be written to, or the disk is full; an older checkpoint stays.
    """
    tensors: dict[str, Tensor] = {}
    tensors.update(_prefixed("weights", modules.state_dict()))
    tensors.update(_prefixed("average", average.state_dict()))
    state = optimiser.state_dict()
    for index, values in state["state"].items():
        tensors.update(_prefixed(f"optimiser.{index}", values))
    groups = [{k: v for k, v in g.items() if _is_json(v)} for g in state["param_groups"]]
    # Names may share one tensor's memory (tied or viewed weights); safetensors wants them apart.
    apart = {name: whole(tensor).detach().clone() for name, tensor in tensors.items()}
    if writes:
        write_tensors(path, apart, {"counters": counters, "groups": groups})


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Arguments:
        path: the file, for messages.
        tensors: weights, average and optimiser, under those prefixes.
        counters: what the training counted.
        groups: the optimiser's settings.
    """

    path: Path
    tensors: dict[str, Tensor]
    counters: dict[str, Any]
    groups: list[dict[str, Any]]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file.

    Raises:
        UserError: it is missing or damaged.
    """
    tensors, about = read_tensors(path, "there is nothing to resume; train without --resume")
    try:
        return Checkpoint(path, tensors, dict(about["counters"]), list(about["groups"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is no checkpoint; train into another --out") from error


def restore(
    checkpoint: Checkpoint,
    modules: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: WeightAverage,
) -> None:
    """Put weights, optimiser and average back as they were.

    Raises:
        UserError: the checkpoint belongs to another model.
    """
    tensors = checkpoint.tensors
    try:
        live = modules.state_dict()
        weights = _under("weights", tensors).items()
        modules.load_state_dict({name: divided(tensor, live[name]) for name, tensor in weights})
        average.load_state_dict(_under("average", tensors))
        state = optimiser.state_dict()
        groups = [
            g | {name: value for name, value in saved.items() if name not in HOW}
            for g, saved in zip(state["param_groups"], checkpoint.groups, strict=True)
        ]
        indices = sorted({int(k.split(".")[1]) for k in tensors if k.startswith("optimiser.")})
        values = {index: _under(f"optimiser.{index}", tensors) for index in indices}
        optimiser.load_state_dict({"state": values, "param_groups": groups})
        _lay_out_as_parameters(optimiser)
    except Exception as error:  # whatever a file of another model, or one tampered with, leads to
        raise UserError(
            f"{checkpoint.path}: does not belong to this recipe; train into another --out"
        ) from error


def _lay_out_as_parameters(optimiser: torch.optim.Optimizer) -> None:
    """Give moments the memory layout of their parameters, which a file doesn't keep.

    Fused optimisers walk through memory: a channels-last kernel with contiguous moments would be
    updated with other elements' moments.
    """
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                laid_out = torch.empty_like(parameter, dtype=value.dtype)
                state[name] = laid_out.copy_(divided(value, parameter))


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = prefix + "."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
