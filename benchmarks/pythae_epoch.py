"""Seconds that pythae's own trainer takes for an epoch; run by other benchmarks in pythae's environment.

    python -m venv .venv-pythae
    .venv-pythae/bin/pip install torch==2.13.0 pythae==0.1.2
    python benchmarks/throughput.py --pythae-python .venv-pythae/bin/python

The first epoch warms up, the second one counts.
"""

import logging
import sys
import time
from pathlib import Path

import numpy as np
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_AE_MNIST, Encoder_ResNet_VAE_MNIST
from pythae.trainers import BaseTrainer, BaseTrainerConfig

logging.disable(logging.INFO)
kind, folder = sys.argv[1], Path(sys.argv[2])
images = np.load(folder / "images.npy").astype(np.float32) / 255
import torch  # noqa: E402
from torch import nn  # noqa: E402


class Encoder400(BaseEncoder):
    """One hidden layer of 400 units, as in the configuration that pythae published figures of."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU())
        self.mean, self.log_variance = (nn.Linear(400, config.latent_dim) for _ in range(2))

    def forward(self, x: torch.Tensor) -> ModelOutput:
        hidden = self.hidden(x)
        return ModelOutput(embedding=self.mean(hidden), log_covariance=self.log_variance(hidden))


class Decoder400(BaseDecoder):
    """Its mirror image."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(config.latent_dim, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid()
        )

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z).unflatten(1, (1, 28, 28)))


tensors = torch.from_numpy(images)
config = VAEConfig(input_dim=tuple(images.shape[1:]), latent_dim=16)
networks, batch_size = {}, 64
if kind == "published":
    networks, batch_size = {"encoder": Encoder400(config), "decoder": Decoder400(config)}, 100
if kind == "resnet":
    networks = {"encoder": Encoder_ResNet_VAE_MNIST(config), "decoder": Decoder_ResNet_AE_MNIST(config)}
settings = BaseTrainerConfig(
    output_dir=str(folder), num_epochs=2, per_device_train_batch_size=batch_size
)
trainer = BaseTrainer(
    model=VAE(config, **networks),
    train_dataset=BaseDataset(tensors, torch.zeros(len(tensors))),
    training_config=settings,
)
trainer.prepare_training()
for epoch in (1, 2):
    started = time.perf_counter()
    trainer.train_step(epoch)
    seconds = time.perf_counter() - started
print(seconds)
