"""What condvae's training is compared with: the notebooks' loops, and pythae.

Written for the comparison, after the notebooks' and the library's own descriptions: the same layers, in
the same order, with the same sizes.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from condvae.config import Config
from condvae.data import LabelledImages
from condvae.models.networks import NETWORKS, Network
from condvae.run import choose_device

HERE = Path(__file__).parent
Epoch = Callable[[], float]
"""Trains for an epoch, and says how many seconds that took."""


# --------------------------------------------------------------------------------------- the notebooks


class OneByOne(Dataset[tuple[Tensor, Tensor]]):
    """Images as the notebooks read them: each converted to floats by itself, when it is asked for."""

    def __init__(self, data: LabelledImages) -> None:
        self.images = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in data.images]
        self.labels, self.classes = data.labels, data.classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1).contiguous().float().div(255)
        label = F.one_hot(torch.tensor(self.labels[index]), self.classes).float()
        return image * 2 - 1, label


class Plain(nn.Module):
    """A notebook's VAE, written as notebooks write it, around the same network."""

    def __init__(self, network: Network, one_hot: int, condition: int, gaussian: bool) -> None:
        super().__init__()
        self.network, self.gaussian = network, gaussian
        self.embed = nn.Linear(one_hot, condition) if condition else None
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss."""
        nothing = x.new_zeros(len(x), 0)
        condition = self.embed(y) if self.embed is not None else nothing
        mean, log_variance = self.network.encode(x, condition).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        decoded = self.network.decode(z, nothing)
        if self.gaussian:
            error = (x - torch.tanh(decoded)) / self.log_scale.exp()
            reconstruction = (0.5 * error.square() + self.log_scale).sum((1, 2, 3)).mean()
        else:
            target = (x + 1) / 2
            reconstruction = F.binary_cross_entropy_with_logits(decoded, target, reduction="sum") / len(
                x
            )
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        return reconstruction + kl


class _Loop:
    """A recipe's network in a plain loop: one image at a time into a DataLoader, Adam, float32."""

    def __init__(self, config: Config, data: LabelledImages) -> None:
        model, training = config.model, config.training
        condition = model.embedding if model.label_reaches else 0
        network = NETWORKS.build(
            model.network,
            shape=data.shape,
            planes=data.shape[0],
            latents=model.latents,
            posterior_parameters=2 * model.latents,
            condition=(condition, 0),
        )
        self.device = choose_device("auto")
        plain = Plain(network, data.classes, condition, model.likelihood == "gaussian")
        self.plain = plain.to(self.device)
        self.optimiser = torch.optim.Adam(plain.parameters(), training.learning_rate)
        self.loader = DataLoader(OneByOne(data), training.batch_size, shuffle=True)

    def epoch(self) -> float:
        """Train for one; its seconds."""
        self.plain.train()
        started = time.perf_counter()
        for x, y in self.loader:
            self.optimiser.zero_grad()
            loss = self.plain(x.to(self.device), y.to(self.device))
            loss.backward()
            self.optimiser.step()
            loss.item()  # the notebooks add it up
        return time.perf_counter() - started


def _begin(config: Config, data: LabelledImages) -> None:
    global _loop
    _loop = _Loop(config, data)


def _epoch() -> float:
    return _loop.epoch()


def plain_loop(config: Config, data: LabelledImages) -> Epoch:
    """An epoch of a plain loop, in a process of its own: ours changes how memory is given back."""
    alone = ProcessPoolExecutor(1, get_context("spawn"), _begin, (config, data))
    return lambda: alone.submit(_epoch).result()


# ---------------------------------------------------------------------------------------------- pythae


class Narrowing(nn.Module):
    """A residual block that narrows to a quarter of its channels and widens again."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(wide, narrow, 3, padding=1)
        self.outer = nn.Conv2d(narrow, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.outer(F.relu(self.inner(F.relu(x))))
        return out


class PythaeResNet(Network):
    """The ResNet for 28x28 images that pythae 0.1.2 brings (Chadebec et al. 2022)."""

    channels_last = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        planes: int,
        latents: int,
        posterior_parameters: int,
        condition: tuple[int, int],
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(shape[0], 64, 4, 2, 1),
            nn.Conv2d(64, 128, 4, 2, 1),
            nn.Conv2d(128, 128, 3, 2, 1),
            Narrowing(128, 32),
            Narrowing(128, 32),
        )
        self.encoder_out = nn.Linear(2048, posterior_parameters)
        self.decoder_in = nn.Linear(latents, 2048)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(128, 128, 3, 2, 1),
            Narrowing(128, 32),
            Narrowing(128, 32),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 3, 2, 1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, planes, 3, 2, 1, output_padding=1),
        )

    def encode(self, image: Tensor, condition: Tensor) -> Tensor:
        x = self.encoder(image.contiguous(memory_format=torch.channels_last))
        parameters: Tensor = self.encoder_out(x.flatten(1))
        return parameters

    def decode(self, z: Tensor, condition: Tensor) -> Tensor:
        x = self.decoder_in(z).unflatten(1, (128, 4, 4))
        decoded: Tensor = self.decoder(x.contiguous(memory_format=torch.channels_last))
        return decoded


NETWORKS.parts["pythae-resnet"] = PythaeResNet


def pythae(kind: str, python: str, data: LabelledImages) -> Epoch:
    """An epoch of pythae's own trainer, in a process of its environment."""
    folder = Path(tempfile.mkdtemp())
    np.save(folder / "images.npy", data.images)

    def epoch() -> float:
        command = [python, str(HERE / "pythae_epoch.py"), kind, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout.strip().splitlines()[-1])

    return epoch
