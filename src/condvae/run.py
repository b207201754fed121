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

import platform
import time
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
CARD = "README.md"
BUNDLED = Path(__file__).parent / "bundled"
"""Trained models that come with the package, a folder each."""


@dataclass(frozen=True)
class Run:
    """A trained model with what it was trained on.

    Arguments:
        path: the run directory.
        results: where pictures and numbers go: the same, but for a model that came with the package or
            from the Hub, whose results go to `results` and its name.
        config: the recipe as it was run.
        model: in evaluation mode, with EMA weights.
        class_names: names of labels 0 to K - 1.
        training: what the training noted: steps, epochs, seconds, images, data fingerprint, versions.
    """

    path: Path
    results: Path
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


def describe_device(device: torch.device) -> str:
    """The hardware in words: the GPU's name, or the processor's and how many threads are used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [x.split(":", 1)[1] for x in info.read_text().splitlines() if "model name" in x]
        name = models[0].strip() if models else name
    return f"{name}, {torch.get_num_threads()} threads"


def choose_precision(precision: str, device: torch.device) -> str:
    """`bf16` or `fp32`; `auto` times a matrix product in both on this device.

    Some processors have fast bf16 units, and on others bf16 is emulated, a hundred times slower than
    float32; no list of names is as reliable as a millisecond's trial.

    Raises:
        UserError: the name is unknown.
    """
    if precision in ("fp32", "bf16"):
        return precision
    if precision != "auto":
        raise UserError(f"--training.precision {precision}: use auto, fp32 or bf16")
    times = precision_times(device)
    return "bf16" if times["bf16"] < 0.7 * times["fp32"] else "fp32"


def precision_times(device: torch.device) -> dict[str, float]:
    """Seconds that a matrix product takes in `fp32` and in `bf16`: one that keeps the device busy."""
    times = {}
    side = 256 if device.type == "cpu" else 4096
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.ones(side, side, dtype=dtype, device=device)
        times[name] = min(_seconds(matrix, device) for _ in range(30))
    return times


def _seconds(matrix: Tensor, device: torch.device) -> float:
    start = time.perf_counter()
    _ = matrix @ matrix
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def load(path: str | Path, device: str = "auto") -> Run:
    """Load a trained model from its run directory, from the package, or from the Hub.

    Arguments:
        path: a run directory; the name of a model that comes with the package (`bundled()`); or
            `hf://user/name`, which is fetched into the cache unless it is there.

    Raises:
        UserError: it is no run directory, its training has not finished, or a file is damaged; it can't
            be fetched.
    """
    path, results = _found(str(path))
    if not path.is_dir():
        raise UserError(
            f"{path}: no such run directory; make one with: condvae train RECIPE; "
            f"or use a model that comes along: {', '.join(bundled()) or 'there is none'}"
        )
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
        training = dict(about["training"])
        # Sizes alone: nothing is made that the file's weights don't fill.
        with torch.device("meta"), Undrawn():
            plan = build_model(config.model, (channels, height, width), len(names))
        if _sizes(plan.state_dict()) != _sizes(weights):
            raise ValueError("other sizes")
        model = build_model(config.model, (channels, height, width), len(names))
        model.load_state_dict(weights)
    except UserError:
        raise
    except Exception as error:  # whatever a config that was tampered with leads to
        raise UserError(f"{path / MODEL}: its weights and its config do not fit together") from error
    model.eval().requires_grad_(False).to(where)
    return Run(path, results, config, typing.cast(ConditionalModel, model), names, training, where)


class Undrawn(TorchFunctionMode):
    """Inside it, nothing is drawn: weights that have no values yet are left without.

    (On the meta device, drawing imports PyTorch's compiler, which takes longer than all of a sampling.)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def bundled() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(file.parent.name for file in BUNDLED.glob(f"*/{MODEL}")))


def _found(name: str) -> tuple[Path, Path]:
    """Where a model is, and where its results go. A directory comes before a model of that name."""
    if hub.is_address(name):
        return hub.fetched(name, "model", FETCHED), Path("results") / Path(name).name
    if name in bundled() and not Path(name).is_dir():
        return BUNDLED / name, Path("results") / name
    return Path(name), Path(name)


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}
