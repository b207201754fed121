"""A model as ONNX graphs, of any batch size, and whether they give what PyTorch gives.

| graph | inputs | output |
|---|---|---|
| `encoder.onnx` | `image` uint8 `[B, C, H, W]`, `label` int64 `[B]` | `latents` float32 `[B, z]` |
| `decoder.onnx` | `latents`, `label` | `image` uint8 `[B, C, H, W]` |
| `sampler.onnx` | `noise` float32 `[B, z]`, `label`, `temperature` float32 `[1]` | `image` |

Latents are all groups in a row. The encoder takes images as the model sees them: binary images, of 0s
and 255s, where its likelihood is of binary pixels.
"""

from __future__ import annotations

import logging
import typing
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from condvae.errors import UserError
from condvae.models.protocol import ConditionalModel, Images, Labels, flat, grouped

OPSET = 18
BATCHES = (1, 3)
"""Batch sizes that a graph is checked with; it is traced with another."""
NEAR, NEAR_PIXELS = 1e-3, 1
"""How far latents (of standard deviations) and pixels (of 255) may be from PyTorch's."""

Arrays = Mapping[str, NDArray[Any]]


class Encoder(nn.Module):
    """Images and labels to posterior means, all groups in a row."""

    def __init__(self, model: ConditionalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Images, label: Labels) -> Float[Tensor, "batch z"]:
        return flat(self.model.encode(image, label))


class Decoder(nn.Module):
    """Latents in a row and labels to mean images."""

    def __init__(self, model: ConditionalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Float[Tensor, "batch z"], label: Labels) -> Images:
        groups = grouped(latents, self.model.group_shapes)
        return self.model.decode(groups, label).mean_image()


class Sampler(Decoder):
    """Standard normal noise and labels to made-up images."""

    def forward(  # type: ignore[override]
        self, noise: Float[Tensor, "batch z"], label: Labels, temperature: Float[Tensor, "1"]
    ) -> Images:
        return super().forward(noise * temperature, label)


def write_graphs(model: ConditionalModel, folder: Path, seed: int = 0) -> dict[str, Path]:
    """Write a model's graphs, each of them checked against PyTorch.

    Models whose prior draws from more than standard normal noise (mixtures) get no sampler.

    Arguments:
        seed: of the images and the noise that they are checked with.

    Returns:
        Paths by the graph's name.

    Raises:
        UserError: onnx, onnxscript or onnxruntime isn't installed; the model has a part that ONNX can't
            express; or a graph gives something else than PyTorch.
    """
    _need_libraries()
    wanted: dict[str, nn.Module] = {"encoder": Encoder(model), "decoder": Decoder(model)}
    if draws_noise_alone(model):
        wanted["sampler"] = Sampler(model)
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    with as_seen(model), torch.no_grad():
        for name, part in wanted.items():
            path = folder / f"{name}.onnx"
            _write(name, part, _inputs(model, 2, seed, name), path)
            for size in BATCHES:
                _check(part, _inputs(model, size, seed + size, name), path)
            written[name] = path
    return written


@contextmanager
def as_seen(model: ConditionalModel) -> Iterator[None]:
    """For a while the model takes images as they are, and draws no binary ones from them."""
    likelihood = typing.cast(Any, model.likelihood)
    likelihood.observe = lambda x, generator=None: x
    try:
        yield
    finally:
        del likelihood.observe


def draws_noise_alone(model: ConditionalModel) -> bool:
    """Whether what the prior draws, in the coordinates that `decode` takes, is standard normal noise."""
    y = torch.zeros(2, dtype=torch.int64, device=next(iter(model.parameters())).device)  # type: ignore[attr-defined]
    with torch.no_grad():
        still = model.draw(y, 0.0, torch.Generator(y.device).manual_seed(0))
        drawn = model.draw(y, 1.0, torch.Generator(y.device).manual_seed(0))
    noise = torch.randn(
        2, model.latents, generator=torch.Generator(y.device).manual_seed(0), device=y.device
    )
    return all(not group.any() for group in still) and torch.equal(flat(drawn), noise)


def run_graph(path: Path, inputs: Arrays) -> NDArray[Any]:
    """What a graph makes of inputs, by onnxruntime on the processor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(None, dict(inputs))[0]
    return found


def _inputs(model: ConditionalModel, size: int, seed: int, name: str) -> dict[str, NDArray[Any]]:
    """Inputs of a graph: noise, and labels of all classes in turn."""
    generator = np.random.default_rng(seed)
    label = (np.arange(size) + seed) % model.classes
    if name == "encoder":
        image = generator.integers(0, 256, (size, *model.shape), dtype=np.uint8)
        return {"image": 255 * (image // 128) if model.likelihood.binary else image, "label": label}
    row = generator.standard_normal((size, model.latents)).astype(np.float32)
    if name == "decoder":
        return {"latents": row, "label": label}
    return {"noise": row, "label": label, "temperature": np.array([0.7], np.float32)}


def _write(name: str, part: nn.Module, inputs: Arrays, path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    shapes = {key: None if key == "temperature" else {0: batch} for key in inputs}
    device = next(part.parameters()).device
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                part.eval(),
                tuple(torch.from_numpy(value).to(device) for value in inputs.values()),
                input_names=list(inputs),
                output_names=["latents" if name == "encoder" else "image"],
                dynamic_shapes=tuple(shapes.values()),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
    except Exception as error:  # whatever part of the model the exporter has no word for
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{path}: the model's {name} could not be written as ONNX ({type(error).__name__}: {reason})"
        ) from error


def _check(part: nn.Module, inputs: Arrays, path: Path) -> None:
    """Compare a graph with PyTorch.

    Raises:
        UserError: they differ.
    """
    device = next(part.parameters()).device
    expected = part(*(torch.from_numpy(value).to(device) for value in inputs.values())).cpu().numpy()
    found = run_graph(path, inputs)
    near = NEAR if expected.dtype == np.float32 else NEAR_PIXELS
    apart = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    if found.shape != expected.shape or not apart <= near:
        raise UserError(
            f"{path}: gives something else than PyTorch (up to {apart:.3g}, shape {found.shape}); "
            "please report it"
        )


def _need_libraries() -> None:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX graphs need {error.name}; install what they need with: pip install 'condvae[export]'"
        ) from error
    assert onnx and onnxruntime
