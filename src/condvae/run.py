"""A run directory: what a training leaves, complete and portable.

```
config.toml          the recipe as it was run
model.safetensors    the averaged (EMA) weights; everything needed to load them is in its metadata
checkpoint/          all that resuming needs
metrics.jsonl        a line a logged step          tensorboard/   the same, for TensorBoard
figures/*.png        swap.json        evaluation.json        README.md
```
"""

from __future__ import annotations

import typing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condvae import config as configuration
from condvae.config import Config
from condvae.data import hub
from condvae.errors import UserError
from condvae.files import read_tensors, write_tensors
from condvae.models.families import build_model
from condvae.models.protocol import ConditionalModel

FORMAT = 1
FETCHED = ("model.safetensors", "config.toml", "evaluation.json", "README.md", "figures/*.png")
"""What is fetched of a run on the Hub: nothing that could run code."""
MODEL, CHECKPOINT, CONFIG = "model.safetensors", "checkpoint/state.safetensors", "config.toml"


@dataclass(frozen=True)
class Run:
    """A trained model with what it was trained on.

    Arguments:
        path: the run directory.
        config: the recipe as it was run.
        model: in evaluation mode, with EMA weights.
        class_names: names of labels 0 to K - 1.
        training: what the training noted: steps, epochs, seconds, images, data fingerprint, versions.
    """

    path: Path
    config: Config
    model: ConditionalModel
    class_names: tuple[str, ...]
    training: dict[str, Any]
    device: torch.device


def save_model(
    path: Path,
    weights: dict[str, Tensor],
    config: Config,
    shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    training: dict[str, Any],
) -> None:
    """Write a run's `model.safetensors`."""
    about = {
        "format": FORMAT,
        "config": asdict(config),
        "shape": list(shape),
        "class_names": list(class_names),
        "training": training,
    }
    write_tensors(path / MODEL, weights, about)


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device.

    Raises:
        UserError: a GPU was asked for and there is none; the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name}: unknown; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU that PyTorch can use was found; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load(path: str | Path, device: str = "auto") -> Run:
    """Load a trained model from its run directory, or from the Hub.

    Arguments:
        path: a run directory, or `hf://user/name`, which is fetched into the cache unless it is there.

    Raises:
        UserError: it is no run directory, its training has not finished, or a file is damaged; it can't
            be fetched.
    """
    path = hub.fetched(str(path), "model", FETCHED) if hub.is_address(path) else Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such run directory; make one with: condvae train RECIPE")
    if not (path / MODEL).exists():
        if (path / CHECKPOINT).exists() or (path / CONFIG).exists():
            raise UserError(
                f"{path}: its training has not finished; go on with: "
                f"condvae train {path / CONFIG} --out {path} --resume"
            )
        raise UserError(f"{path}: not a run directory (it has no {MODEL})")
    weights, about = read_tensors(path / MODEL, "train again, or copy the whole run directory")
    where = choose_device(device)
    try:
        if about["format"] != FORMAT:
            raise UserError(
                f"{path / MODEL}: written in format {about['format']}, and this condvae reads "
                f"{FORMAT}; install the version that wrote it"
            )
        config = configuration.from_dict(about["config"], str(path / MODEL))
        channels, height, width = (int(side) for side in about["shape"])
        names = tuple(str(name) for name in about["class_names"])
        model = build_model(config.model, (channels, height, width), len(names))
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path / MODEL}: its weights and its config do not fit together") from error
    model.eval().requires_grad_(False).to(where)
    return Run(path, config, typing.cast(ConditionalModel, model), names, dict(about["training"]), where)
